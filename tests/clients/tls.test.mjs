// Both clients over TLS, as rediss:// URLs and by options.
import assert from 'node:assert/strict';
import { after, test } from 'node:test';
import Redis from 'ioredis';
import { createClient, createCluster } from 'redis';
import { addresses, ca, leader, nodes, prefix } from './lib/cluster.mjs';

const chief = await leader();
const own = nodes().find(({ id }) => id !== chief.id);
const url = `rediss://127.0.0.1:${own.port}`;
const cleanups = [];

after(() => cleanups.forEach((cleanup) => cleanup()));

test('ioredis', async () => {
  const redis = new Redis(url, { tls: { ca } });
  cleanups.push(() => redis.disconnect());
  const k = prefix();
  assert.equal(await redis.set(k, 'v'), 'OK');
  assert.equal(await redis.get(k), 'v');
  const value = 'x'.repeat(3000000);
  await redis.set(k, value);
  assert.equal(await redis.get(k), value);
});

test('ioredis, cluster mode', async () => {
  const cluster = new Redis.Cluster(addresses(), {
    dnsLookup: (address, callback) => callback(null, address),
    redisOptions: { tls: { ca } },
  });
  cleanups.push(() => cluster.disconnect());
  const k = prefix();
  assert.equal(await cluster.set(k, 'v'), 'OK');
  assert.equal(await cluster.get(k), 'v');
});

for (const RESP of [2, 3]) {
  test(`node-redis, RESP${RESP}`, async () => {
    const client = createClient({ url, socket: { ca, reconnectStrategy: false }, RESP });
    client.on('error', () => {});
    await client.connect();
    cleanups.push(() => client.isOpen && client.destroy());
    const k = prefix();
    assert.equal(await client.set(k, 'v'), 'OK');
    assert.equal(await client.get(k), 'v');
    const value = 'y'.repeat(3000000);
    await client.set(k, value);
    assert.equal(await client.get(k), value);
  });
}

test('node-redis, cluster mode', async () => {
  const cluster = createCluster({
    rootNodes: nodes().map(({ port }) => ({ url: `rediss://127.0.0.1:${port}` })),
    defaults: { socket: { tls: true, ca } },
  });
  cluster.on('error', () => {});
  await cluster.connect();
  cleanups.push(() => cluster.destroy());
  const k = prefix();
  assert.equal(await cluster.set(k, 'v'), 'OK');
  assert.equal(await cluster.get(k), 'v');
});

test('an authority that the client does not trust', async () => {
  const client = createClient({ url, socket: { reconnectStrategy: false } });
  client.on('error', () => {});
  await assert.rejects(client.connect());
});

test('plaintext', async () => {
  const redis = new Redis({ port: own.port, retryStrategy: null, lazyConnect: true });
  redis.on('error', () => {});
  await assert.rejects(redis.connect());
});
