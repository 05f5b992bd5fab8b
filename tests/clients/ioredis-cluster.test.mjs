// ioredis with `new Redis.Cluster()`: it learns the leader and talks to that.
import assert from 'node:assert/strict';
import { after, test } from 'node:test';
import Redis from 'ioredis';
import { addresses, kill, leader, nodes, pauses, prefix, restart, sleep, until } from './lib/cluster.mjs';

const opened = [];

function open(options) {
  const client = new Redis.Cluster(addresses(), options);
  opened.push(client);
  return client;
}

after(() => opened.forEach((client) => client.disconnect()));

await leader();
const cluster = open();

test('it sees one leader and its replicas', async () => {
  const k = prefix();
  await cluster.set(k, 'v');
  const chief = await leader();
  assert.deepEqual(cluster.nodes('master').map((node) => node.options.port), [chief.port]);
  assert.equal(cluster.nodes('slave').length, nodes().length - 1);
  assert.equal(await cluster.cluster('KEYSLOT', 'foo'), 12182);
  assert.match(await cluster.cluster('INFO'), /cluster_state:ok/);
});

test('strings, expiry, counters', async () => {
  const k = prefix();
  assert.equal(await cluster.set(k, 'v', 'EX', 100, 'NX'), 'OK');
  assert.equal(await cluster.set(k, 'w', 'NX'), null);
  assert.equal(await cluster.get(k), 'v');
  assert.ok((await cluster.ttl(k)) > 90);
  assert.equal(await cluster.pexpire(k, 80), 1);
  await until(async () => (await cluster.exists(k)) === 0, 'the key to expire');
  const answers = await Promise.all(Array.from({ length: 100 }, () => cluster.incr(k)));
  assert.deepEqual(answers, Array.from({ length: 100 }, (_, i) => i + 1));
});

test('several keys, also of different slots', async () => {
  const k = prefix();
  assert.equal(await cluster.mset(`{${k}}a`, '1', `{${k}}b`, '2'), 'OK');
  assert.deepEqual(await cluster.mget(`{${k}}a`, `{${k}}b`, `{${k}}c`), ['1', '2', null]);
  // This client leaves it to the server to refuse keys of several slots, and this one has no reason.
  assert.equal(await cluster.mset({ [`${k}a`]: '1', [`${k}b`]: '2', [`${k}c`]: '3' }), 'OK');
  assert.deepEqual(await cluster.mget(`${k}a`, `${k}b`, `${k}c`), ['1', '2', '3']);
  assert.equal(await cluster.del(`${k}a`, `${k}b`, `${k}c`), 3);
});

test('pipelines', async () => {
  const k = prefix();
  const pipeline = cluster.pipeline();
  for (let i = 0; i < 100; i++) {
    pipeline.set(`${k}-${i}`, i).get(`${k}-${i}`);
  }
  const answers = await pipeline.exec();
  assert.equal(answers.length, 200);
  assert.ok(answers.every(([error, value], i) => !error && value === (i % 2 ? `${(i - 1) / 2}` : 'OK')));
});

test('auto-pipelining', async () => {
  const k = prefix();
  const auto = open({ enableAutoPipelining: true });
  const each = Array.from({ length: 300 }, (_, i) => i);
  await Promise.all(each.map((i) => auto.set(`${k}-${i}`, i)));
  assert.deepEqual(await Promise.all(each.map((i) => auto.get(`${k}-${i}`))), each.map(String));
});

test('scans of the leader', async () => {
  const k = prefix();
  await Promise.all(Array.from({ length: 200 }, (_, i) => cluster.set(`${k}:${i}`, i)));
  const found = new Set();
  for (const node of cluster.nodes('master')) {
    for await (const keys of node.scanStream({ match: `${k}:*`, count: 50 })) {
      keys.forEach((key) => found.add(key));
    }
  }
  assert.equal(found.size, 200);
});

test('errors are those of Redis', async () => {
  const k = prefix();
  await cluster.set(k, 'text');
  await assert.rejects(cluster.incr(k), { message: 'ERR value is not an integer or out of range' });
  await assert.rejects(cluster.lpush(k, 'v'), { message: /^ERR unknown command 'lpush'/ });
});

test('replicas answer reads when asked to', async () => {
  const k = prefix();
  const reader = open({ scaleReads: 'slave' });
  await reader.set(k, 'v');
  await until(async () => (await reader.get(k)) === 'v', 'a replica to have it');
});

test('the user name is the project, on every connection', async () => {
  const k = prefix();
  const redisOptions = { username: 'project-three', password: 'token' };
  const other = open({ redisOptions });
  await other.set(k, 'v');
  assert.equal(await cluster.get(k), null);
  assert.equal(await other.get(k), 'v');
  await other.flushdb();
});

test('keyspace events', async () => {
  const k = prefix();
  const subscriber = open();
  const seen = [];
  subscriber.on('pmessage', (_, channel, event) => seen.push([channel, event]));
  await subscriber.psubscribe(`__keyspace@0__:${k}*`);
  await cluster.set(k, 'v');
  await cluster.del(k);
  await until(() => seen.length === 2, 'two events');
  assert.deepEqual(seen, [[`__keyspace@0__:${k}`, 'set'], [`__keyspace@0__:${k}`, 'del']]);
});

test('transactions', async () => {
  const k = prefix();
  const answers = await cluster.multi().set(k, '1').incr(k).get(k).exec();
  assert.deepEqual(answers, [[null, 'OK'], [null, 2], [null, '2']]);
  // WATCH goes with one connection: that to the leader.
  const [master] = cluster.nodes('master');
  await master.watch(k);
  await cluster.set(k, 'theirs');
  assert.equal(await master.multi().set(k, 'ours').exec(), null);
  assert.equal(await cluster.get(k), 'theirs');
});

test('it goes to the next leader when one is killed', async (context) => {
  const k = prefix();
  const written = [];
  const pause = pauses();
  let error;
  let done = false;
  const writes = (async () => {
    for (let i = 0; !done; i++) {
      await cluster.set(`${k}-${i}`, i);
      written.push(i);
      pause.tick();
      await sleep(2);
    }
  })().catch((e) => { error = e; });
  const first = await leader();
  await until(() => written.length > 20, 'some writes');
  kill(first);
  const before = written.length;
  await until(() => error || written.length > before + 50, 'writes to go on without that node');
  assert.equal(error, undefined);
  pause.report(context);
  assert.ok(!cluster.nodes('master').some((node) => node.options.port === first.port));
  done = true;
  await writes;
  await restart(first);
  const values = await Promise.all(written.map((i) => cluster.get(`${k}-${i}`)));
  assert.deepEqual(values, written.map(String));
  await until(async () => {
    await cluster.get(k);
    return cluster.nodes('slave').length === 2 || (cluster.refreshSlotsCache(() => {}), false);
  }, 'the restarted node to be known again');
});
