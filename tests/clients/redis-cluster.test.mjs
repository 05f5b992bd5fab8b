// redis (node-redis) with createCluster().
import assert from 'node:assert/strict';
import { after, test } from 'node:test';
import { createCluster, WatchError } from 'redis';
import { addresses, kill, leader, nodes, pauses, prefix, restart, sleep, until } from './lib/cluster.mjs';

const rootNodes = addresses().map(({ host, port }) => ({ url: `redis://${host}:${port}` }));
const opened = [];

async function open(options = {}) {
  const client = createCluster({ rootNodes, ...options });
  client.on('error', () => {});
  opened.push(client);
  return client.connect();
}

after(() => opened.forEach((client) => client.isOpen && client.destroy()));

await leader();
const cluster = await open({ RESP: 3 });

test('it sees one leader and its replicas', async () => {
  const chief = await leader();
  const client = await open({ useReplicas: true });
  assert.deepEqual(client.masters.map(({ port }) => port), [chief.port]);
  assert.equal(client.replicas.length, nodes().length - 1);
});

for (const RESP of [2, 3]) {
  test(`strings, expiry, counters, over RESP${RESP}`, async () => {
    const k = prefix();
    const client = await open({ RESP });
    const expiration = { type: 'EX', value: 100 };
    assert.equal(await client.set(k, 'v', { expiration, condition: 'NX' }), 'OK');
    assert.equal(await client.set(k, 'w', { condition: 'NX' }), null);
    assert.equal(await client.get(k), 'v');
    assert.ok((await client.ttl(k)) > 90);
    assert.equal(await client.pExpire(k, 80), 1);
    await until(async () => (await client.exists(k)) === 0, 'the key to expire');
    const answers = await Promise.all(Array.from({ length: 100 }, () => client.incr(k)));
    assert.deepEqual(answers, Array.from({ length: 100 }, (_, i) => i + 1));
    });
}

test('several keys, also of different slots', async () => {
  const k = prefix();
  assert.equal(await cluster.mSet({ [`{${k}}a`]: '1', [`{${k}}b`]: '2' }), 'OK');
  assert.deepEqual(await cluster.mGet([`{${k}}a`, `{${k}}b`, `{${k}}c`]), ['1', '2', null]);
  assert.equal(await cluster.mSet({ [`${k}a`]: '1', [`${k}b`]: '2', [`${k}c`]: '3' }), 'OK');
  assert.deepEqual(await cluster.mGet([`${k}a`, `${k}b`, `${k}c`]), ['1', '2', '3']);
  assert.equal(await cluster.del([`${k}a`, `${k}b`, `${k}c`]), 3);
});

test('pipelines', async () => {
  const k = prefix();
  const answers = await cluster.multi(k).set(k, 'one').append(k, '!').get(k).execAsPipeline();
  assert.deepEqual(answers, ['OK', 4, 'one!']);
  const each = Array.from({ length: 300 }, (_, i) => i);
  await Promise.all(each.map((i) => cluster.set(`${k}-${i}`, `${i}`)));
  assert.deepEqual(await Promise.all(each.map((i) => cluster.get(`${k}-${i}`))), each.map(String));
});

test('scans of the leader', async () => {
  const k = prefix();
  await Promise.all(Array.from({ length: 200 }, (_, i) => cluster.set(`${k}:${i}`, `${i}`)));
  const found = new Set();
  for (const master of cluster.masters) {
    const client = await cluster.nodeClient(master);
    for await (const keys of client.scanIterator({ MATCH: `${k}:*`, COUNT: 50 })) {
      keys.forEach((key) => found.add(key));
    }
  }
  assert.equal(found.size, 200);
});

test('commands that the client does not know', async () => {
  const k = prefix();
  await cluster.set(k, 'v');
  const [value, version] = await cluster.sendCommand(k, true, ['GETVER', k]);
  assert.equal(value, 'v');
  assert.equal(await cluster.sendCommand(k, false, ['DELEX', k, 'IFVER', `${version}`]), 1);
});

test('errors are those of Redis', async () => {
  const k = prefix();
  await cluster.set(k, 'text');
  await assert.rejects(cluster.incr(k), { message: 'ERR value is not an integer or out of range' });
  await assert.rejects(cluster.lPush(k, 'v'), { message: /^ERR unknown command 'LPUSH'/ });
});

test('replicas answer reads when asked to', async () => {
  const k = prefix();
  const reader = await open({ useReplicas: true });
  await reader.set(k, 'v');
  await until(async () => (await reader.get(k)) === 'v', 'a replica to have it');
});

test('the user name is the project, on every connection', async () => {
  const k = prefix();
  const other = await open({ defaults: { username: 'project-three', password: 'token' } });
  await other.set(k, 'v');
  assert.equal(await cluster.get(k), null);
  assert.equal(await other.get(k), 'v');
});

for (const RESP of [2, 3]) {
  test(`keyspace events, RESP${RESP}`, async () => {
    const k = prefix();
    const client = await open({ RESP });
    const seen = [];
    await client.pSubscribe(`__keyspace@0__:${k}*`, (event, channel) => seen.push([channel, event]));
    await client.set(k, 'v');
    await client.del(k);
    await until(() => seen.length === 2, 'two events');
    assert.deepEqual(seen, [[`__keyspace@0__:${k}`, 'set'], [`__keyspace@0__:${k}`, 'del']]);
    await client.pUnsubscribe();
  });

  test(`transactions, RESP${RESP}`, async () => {
    const k = prefix();
    const client = await open({ RESP });
    const answers = await client.multi(k).set(k, '1').incr(k).get(k).exec();
    assert.deepEqual(answers, ['OK', 2, '2']);
    // WATCH goes with one connection: that to the leader.
    const node = await client.nodeClient(client.masters[0]);
    await node.watch(k);
    await cluster.set(k, 'theirs');
    await assert.rejects(node.multi().set(k, 'ours').exec(), WatchError);
    assert.equal(await client.get(k), 'theirs');
  });
}

// Of its own accord this client stays with a node that is gone until that node is back.
test('with its default settings it waits for a killed leader', async () => {
  const k = prefix();
  const client = await open();
  await client.set(k, '0');
  const first = await leader();
  const written = [];
  let done = false;
  const writes = (async () => {
    for (let i = 0; !done; i++) {
      await client.set(`${k}-${i}`, `${i}`).then(() => written.push(i), () => {});
      await sleep(2);
    }
  })();
  kill(first);
  await sleep(300);
  const before = written.length;
  await restart(first);
  await until(() => written.length > before + 50, 'writes to go on');
  done = true;
  await writes;
  const values = await client.mGet(written.map((i) => `${k}-${i}`));
  assert.deepEqual(values, written.map(String));
});

// What docs/clients.md recommends: open it again when a node is lost.
test('opened again it goes on with the next leader', async (context) => {
  const k = prefix();
  let client;
  let opening;
  const reopen = () => {
    opening ??= (async () => {
      client?.destroy();
      client = await open();
      client.on('node-error', reopen);
    })().finally(() => { opening = undefined; });
    return opening;
  };
  const set = async (key, value) => {
    for (let tries = 0; ; tries++) {
      try {
        await opening;
        return await client.set(key, value);
      } catch (error) {
        if (tries === 20) {
          throw error;
        }
        await sleep(100);
      }
    }
  };
  await reopen();
  const first = await leader();
  const written = [];
  const pause = pauses();
  for (let i = 0; i < 100; i++) {
    await set(`${k}-${i}`, `${i}`);
    written.push(i);
    pause.tick();
    if (i === 20) {
      kill(first);
    }
  }
  pause.report(context);
  assert.ok(client.masters.every(({ port }) => port !== first.port));
  await restart(first);
  const values = await client.mGet(written.map((i) => `${k}-${i}`));
  assert.deepEqual(values, written.map(String));
});
