// One process of Node.js that writes and reads through one client, with many calls in flight:
//
//     node load.mjs CLIENT PORT CALLS      prints {"set": {...}, "get": {...}} as JSON
//
// All clients get the same keys and the same values, as JSON texts.
import { createRequire } from 'node:module';
import { performance } from 'node:perf_hooks';

const IN_FLIGHT = 256;
const KEYS = 10000;
const [, , client, port, callsText] = process.argv;
const calls = Number(callsText);
const value = { user: 7, text: 'v'.repeat(80) };
const local = (folder) => createRequire(new URL(`../../${folder}/package.json`, import.meta.url));

// As applications use Keyv: an instance over a store, which turns values into JSON and back.
async function overKeyv(store) {
  const { Keyv } = local('bench/nodejs')('keyv');
  const keyv = new Keyv({ store, namespace: 'default' });
  keyv.on('error', (error) => {
    console.error(error);
    process.exit(1);
  });
  return {
    set: async (key) => {
      if ((await keyv.set(key, value)) !== true) throw new Error(`${key} was not written`);
    },
    get: (key) => keyv.get(key),
    end: () => keyv.disconnect(),
  };
}

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
  async '@keyv/postgres'() {
    const { KeyvPostgres } = local('bench/nodejs')('@keyv/postgres');
    return overKeyv(new KeyvPostgres({ uri: `postgresql://postgres@127.0.0.1:${port}/postgres`, max: 50 }));
  },
  async '@keyv/etcd'() {
    const { KeyvEtcd } = local('bench/nodejs')('@keyv/etcd');
    return overKeyv(new KeyvEtcd(`127.0.0.1:${port}`));
  },
  async 'invoke-kv/keyv'() {
    const { KeyvInvoke } = local('client/nodejs')('invoke-kv/keyv');
    return overKeyv(new KeyvInvoke({ connection: { nodes: [`127.0.0.1:${port}`] } }));
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
