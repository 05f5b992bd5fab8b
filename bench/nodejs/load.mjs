// One process of Node.js that writes and reads through one client, with many calls in flight:
//
//     node load.mjs CLIENT LEADER_PORT CALLS      prints {"set": {...}, "get": {...}} as JSON
//
// Both clients get the same keys and the same values, as JSON texts, from the same node.
import { createRequire } from 'node:module';
import { performance } from 'node:perf_hooks';

const IN_FLIGHT = 256;
const KEYS = 10000;
const [, , client, port, callsText] = process.argv;
const calls = Number(callsText);
const value = { user: 7, text: 'v'.repeat(80) };
const local = (folder) => createRequire(new URL(`../../${folder}/package.json`, import.meta.url));

const clients = {
  async 'invoke-kv'() {
    const { connect } = local('client/nodejs')('invoke-kv');
    const store = await connect({ nodes: [`127.0.0.1:${port}`] });
    const kv = store.project('default');
    return { set: (key) => kv.set(key, value), get: (key) => kv.get(key), end: () => store.close() };
  },
  async ioredis() {
    const { Redis } = local('tests/clients')('ioredis');
    const redis = new Redis({ host: '127.0.0.1', port: Number(port), enableAutoPipelining: true });
    return {
      set: (key) => redis.set(key, JSON.stringify(value)),
      get: async (key) => JSON.parse(await redis.get(key)),
      end: () => redis.quit(),
    };
  },
};

async function measure(call, total) {
  const times = new Float64Array(total);
  let next = 0;
  const started = performance.now();
  async function worker() {
    while (next < total) {
      const i = next++;
      const from = performance.now();
      await call(`key:${i % KEYS}`);
      times[i] = performance.now() - from;
    }
  }
  await Promise.all(Array.from({ length: IN_FLIGHT }, worker));
  const elapsedMs = performance.now() - started;
  times.sort();
  const at = (part) => times[Math.floor(total * part)];
  return { rate: (total / elapsedMs) * 1000, p50: at(0.5), p99: at(0.99) };
}

const { set, get, end } = await clients[client]();
await measure(set, KEYS); // every key is there, and the code is warm
await measure(get, KEYS);
const figures = { set: await measure(set, calls), get: await measure(get, calls * 2) };
await end();
console.log(JSON.stringify(figures));
