// Both clients where authentication is required: projects with tokens.
import assert from 'node:assert/strict';
import { after, test } from 'node:test';
import Redis from 'ioredis';
import { createClient } from 'redis';
import { leader, nodes, prefix } from './lib/cluster.mjs';

const chief = await leader();
const own = nodes().find(({ id }) => id !== chief.id);
const cleanups = [];

after(() => cleanups.forEach((cleanup) => cleanup()));

function ioredis(username, password) {
  const client = new Redis({ port: own.port, username, password, retryStrategy: null });
  client.on('error', () => {});
  cleanups.push(() => client.disconnect());
  return client;
}

async function nodeRedis(username, password, RESP = 2) {
  const socket = { host: '127.0.0.1', port: own.port, reconnectStrategy: false };
  const client = createClient({ username, password, socket, RESP });
  client.on('error', () => {});
  await client.connect();
  cleanups.push(() => client.isOpen && client.destroy());
  return client;
}

const admin = ioredis('admin', process.env.IKV_ADMIN);

async function newProject() {
  const name = prefix();
  return { name, token: await admin.call('PROJECT', 'CREATE', name, 'TOKEN', 'READWRITE') };
}

test('ioredis', async () => {
  const { name, token } = await newProject();
  const redis = ioredis(name, token);
  assert.equal(await redis.set('k', 'v'), 'OK');
  assert.equal(await redis.get('k'), 'v');
  const byUrl = new Redis(`redis://${name}:${token}@127.0.0.1:${own.port}`);
  cleanups.push(() => byUrl.disconnect());
  assert.equal(await byUrl.get('k'), 'v');
  const other = await newProject();
  assert.equal(await ioredis(other.name, other.token).get('k'), null);
});

for (const RESP of [2, 3]) {
  test(`node-redis, RESP${RESP}`, async () => {
    const { name, token } = await newProject();
    const client = await nodeRedis(name, token, RESP);
    assert.equal(await client.set('k', 'v'), 'OK');
    assert.equal(await client.get('k'), 'v');
    const other = await newProject();
    assert.equal(await (await nodeRedis(other.name, other.token, RESP)).get('k'), null);
  });
}

test('without a token, or with a wrong one', async () => {
  const { name } = await newProject();
  const nobody = new Redis({ port: own.port, enableReadyCheck: false });
  cleanups.push(() => nobody.disconnect());
  await assert.rejects(nobody.get('k'), { message: /^NOAUTH / });
  await assert.rejects(nobody.auth(name, 'wrong'), { message: /^WRONGPASS / });
  await assert.rejects(nodeRedis(name, 'wrong'), { message: /^WRONGPASS / });
  await assert.rejects(nodeRedis('nosuch', 'wrong'), { message: /^WRONGPASS / });
});

test('a token that may only read', async () => {
  const { name, token } = await newProject();
  await ioredis(name, token).set('k', 'v');
  const reading = await admin.call('PROJECT', 'TOKEN', 'ADD', name, 'READONLY');
  const redis = ioredis(name, reading);
  assert.equal(await redis.get('k'), 'v');
  await assert.rejects(redis.set('k', 'x'), { message: /^NOPERM / });
  await assert.rejects(redis.config('GET', '*'), { message: /^NOPERM / });
  const client = await nodeRedis(name, reading);
  assert.equal(await client.get('k'), 'v');
  await assert.rejects(client.set('k', 'x'), { message: /^NOPERM / });
});

test('a token that is revoked ends at once, on open connections too', async () => {
  const { name, token } = await newProject();
  const redis = ioredis(name, token);
  const client = await nodeRedis(name, token);
  await redis.set('k', 'v');
  assert.equal(await client.get('k'), 'v');
  const [, id] = token.split('_');
  const known = await admin.call('PROJECT', 'TOKEN', 'LIST', name);
  assert.equal(known.length, 1);
  assert.equal(await admin.call('PROJECT', 'TOKEN', 'REVOKE', name, id), 1);
  await assert.rejects(redis.get('k'), { message: /^NOAUTH / });
  await assert.rejects(client.set('k', 'x'), { message: /^NOAUTH / });
});
