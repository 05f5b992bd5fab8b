// All operations, over and over, while nodes are killed: no error goes unhandled, no counter loses or
// doubles an increment, and neither handles nor memory grow. IKV_SOAK_S: seconds; 20 by default.
import assert from 'node:assert/strict';
import fs from 'node:fs';
import { test } from 'node:test';
import { connect, KvError } from 'invoke-kv';
import { counts, kill, leader, nodes, open, projectName, restart, seeds, sleep, SLOW } from './lib/store.mjs';

const SECONDS = Number(process.env.IKV_SOAK_S || 20);
const unhandled = [];
process.on('unhandledRejection', (reason) => unhandled.push(reason));
process.on('uncaughtExceptionMonitor', (error) => unhandled.push(error));

const descriptors = () => fs.readdirSync('/proc/self/fd').length;
function rssMib() {
  globalThis.gc?.();
  return process.memoryUsage.rss() / 1048576;
}

test(`soak for ${SECONDS} s`, { timeout: (SECONDS + 120) * 1000 }, async (t) => {
  const store = await open({ timeout: 20000 });
  const project = projectName();
  const kv = store.project(project);
  let running = true;
  let calls = 0;
  let sum = 0;
  const errors = new Map();

  async function worker(number) {
    const own = `w${number}`;
    for (let i = 0; running; i++) {
      const key = `${own}:${i % 50}`;
      const value = { i, text: 'v'.repeat((i * 37) % 2000) };
      await kv.set(key, value);
      assert.deepEqual(await kv.get(key), value);
      assert.equal(await kv.has(key), true);
      await kv.incr('sum');
      sum += 1;
      await kv.setMany([[`${own}:m1`, i], [`${own}:m2`, i, 50]]);
      const [m1] = await kv.getMany([`${own}:m1`, `${own}:m2`]);
      assert.equal(m1, i);
      assert.equal(await kv.delete(key), true);
      assert.equal(await kv.get(key), null);
      calls += 9;
      if (i % 20 === 0) {
        for await (const name of kv.list(own)) {
          assert.ok(name.startsWith(own));
        }
        // A deadline that cannot be kept, and a caller that gives up.
        await kv.get(key, { timeout: 1 }).catch((error) => {
          assert.ok(error instanceof KvError, `${error}`);
          errors.set(error.code, (errors.get(error.code) ?? 0) + 1);
        });
        await kv.get(key, { signal: AbortSignal.timeout(1) }).catch((error) => assert.equal(error.name, 'TimeoutError'));
      }
      if (number === 0 && i % 10 === 0) {
        await cycle();
      }
    }
  }

  // Stores and watches come and go.
  async function cycle() {
    const other = await connect({ nodes: seeds(), timeout: 20000 });
    const watch = other.project(project).watch('w');
    const first = watch.next();
    await other.project(project, { consistency: 'session' }).set('x', 1);
    await first;
    watch.close();
    await other.close();
  }

  async function killer() {
    for (let i = 0; running; i++) {
      await sleep(2000 * SLOW);
      const chief = await leader();
      const victim = i % 3 === 2 ? nodes().find(({ id }) => id !== chief.id) : chief;
      kill(victim);
      await sleep(400);
      await restart(victim);
    }
  }

  const load = [0, 1, 2, 3, 4, 5, 6, 7].map(worker);
  const kills = killer();
  const everything = Promise.all([...load, kills]);
  everything.catch(() => {
    running = false;
  });
  // The first part of the time is for caches and heaps to find their size.
  const samples = [];
  const started = Date.now();
  while (running && Date.now() - started < SECONDS * 1000) {
    await sleep(Math.max(1000, SECONDS * 25));
    samples.push({ rss: rssMib(), descriptors: descriptors() });
  }
  running = false;
  await everything;
  assert.equal(await kv.get('sum'), sum);
  assert.deepEqual(unhandled, []);
  assert.equal(counts().stores, 1);
  assert.equal(counts().watches, 0);
  const half = samples.slice(Math.floor(samples.length / 2));
  const growth = half.at(-1).rss - half[0].rss;
  if (!process.env.IKV_SLOW) { // AddressSanitizer keeps what was freed
    assert.ok(growth < 24, `memory grew by ${growth} MiB: ${samples.map(({ rss }) => Math.round(rss))}`);
  }
  assert.ok(half.at(-1).descriptors <= half[0].descriptors + 15, JSON.stringify(samples));
  t.diagnostic(
    `said: ${calls} calls, sum ${sum}, errors ${JSON.stringify([...errors])}, ` +
      `memory ${samples.map(({ rss }) => Math.round(rss)).join(' ')} MiB`,
  );
});
