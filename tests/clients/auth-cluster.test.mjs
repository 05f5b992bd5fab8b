// Both clients in cluster mode where authentication is required: every connection that they make to a
// node has to show the project's token.
import assert from 'node:assert/strict';
import { after, test } from 'node:test';
import Redis from 'ioredis';
import { createCluster } from 'redis';
import { addresses, leader, prefix, until } from './lib/cluster.mjs';

const chief = await leader();
const cleanups = [];

after(() => cleanups.forEach((cleanup) => cleanup()));

// Commands about projects are never redirected.
async function newProject() {
  const username = prefix();
  for (const { port } of addresses()) {
    const admin = new Redis({ port, username: 'admin', password: process.env.IKV_ADMIN });
    cleanups.push(() => admin.disconnect());
    if (port !== chief.port) {
      const password = await admin.call('PROJECT', 'CREATE', username, 'TOKEN', 'READWRITE');
      return { username, password };
    }
  }
  throw new Error('all nodes lead');
}

test('ioredis', async () => {
  const redisOptions = await newProject();
  const cluster = new Redis.Cluster(addresses(), { redisOptions, scaleReads: 'slave' });
  cleanups.push(() => cluster.disconnect());
  assert.equal(await cluster.set('k', 'v'), 'OK');
  assert.equal(cluster.nodes('master')[0].options.port, chief.port);
  await until(async () => (await cluster.get('k')) === 'v', 'a replica to have it');
  assert.deepEqual(await cluster.multi().incr('n').incr('n').exec(), [[null, 1], [null, 2]]);
});

for (const RESP of [2, 3]) {
  test(`node-redis, RESP${RESP}`, async () => {
    const defaults = await newProject();
    const rootNodes = addresses().map((socket) => ({ socket }));
    const cluster = createCluster({ rootNodes, defaults, RESP, useReplicas: true });
    cluster.on('error', () => {});
    await cluster.connect();
    cleanups.push(() => cluster.destroy());
    assert.equal(await cluster.set('k', 'v'), 'OK');
    await until(async () => (await cluster.get('k')) === 'v', 'a replica to have it');
    assert.deepEqual(await cluster.multi('n').incr('n').incr('n').exec(), [1, 2]);
  });
}
