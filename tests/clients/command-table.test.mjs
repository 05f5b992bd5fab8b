// Clients that have no table of commands of their own ask with COMMAND where the keys stand. What
// this server answers is compared with the table that ioredis brings along.
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { createRequire } from 'node:module';
import Redis from 'ioredis';
import { nodes } from './lib/cluster.mjs';

const known = createRequire(import.meta.url)('@ioredis/commands/built/commands.json');
const CONTAINERS = ['memory', 'object']; // ioredis keeps Redis 6's view, in which these have keys

test('COMMAND tells where keys are', async () => {
  const redis = new Redis(nodes()[0].port);
  const table = await redis.command();
  redis.disconnect();
  let compared = 0;
  for (const [name, arity, flags, first, last, step] of table) {
    if (!(name in known) || CONTAINERS.includes(name)) {
      continue;
    }
    const theirs = known[name];
    const place = `of ${name}`;
    assert.deepEqual([first, last, step], [theirs.keyStart, theirs.keyStop, theirs.step], place);
    assert.equal(Math.sign(arity), Math.sign(theirs.arity), `arity ${place}`);
    for (const flag of ['readonly', 'write']) {
      assert.equal(flags.includes(flag), theirs.flags.includes(flag), `flag ${flag} ${place}`);
    }
    compared += 1;
  }
  assert.ok(compared > 50, `compared only ${compared} commands`);
});
