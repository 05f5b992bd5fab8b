// redis (node-redis) with createClient(), over RESP2 and RESP3, connected to a node that does not
// lead.
import assert from 'node:assert/strict';
import { after, test } from 'node:test';
import { createClient, RESP_TYPES, WatchError } from 'redis';
import { kill, leader, nodes, pauses, prefix, restart, sleep, until } from './lib/cluster.mjs';

const chief = await leader();
const own = nodes().find(({ id }) => id !== chief.id);
const opened = [];

async function open(options = {}) {
  const client = createClient({ url: `redis://127.0.0.1:${own.port}`, ...options });
  client.on('error', () => {}); // connections that break are made again
  opened.push(client);
  return client.connect();
}

after(() => opened.forEach((client) => client.isOpen && client.destroy()));

for (const RESP of [2, 3]) {
  const client = await open({ RESP });

  test(`strings, RESP${RESP}`, async () => {
    const k = prefix();
    assert.equal(await client.get(k), null);
    assert.equal(await client.set(k, 'grün'), 'OK');
    assert.equal(await client.get(k), 'grün');
    assert.equal(await client.strLen(k), 5);
    assert.equal(await client.append(k, '!'), 6);
    assert.equal(await client.getRange(k, 0, 1), 'gr');
    assert.equal(await client.setRange(k, 0, 'GR'), 6);
    assert.equal(await client.getSet(k, 'x'), 'GRün!');
    assert.equal(await client.getDel(k), 'x');
    assert.equal(await client.exists(k), 0);
    const bytes = Buffer.from([0, 255, 13, 10, 128]);
    await client.set(k, bytes);
    const buffers = client.withTypeMapping({ [RESP_TYPES.BLOB_STRING]: Buffer });
    assert.deepEqual(await buffers.get(k), bytes);
    assert.equal(await client.type(k), 'string');
    assert.equal(await client.rename(k, `${k}2`), 'OK');
    assert.equal(await client.copy(`${k}2`, `${k}3`), 1);
    assert.equal(await client.unlink([`${k}2`, `${k}3`]), 2);
    const large = 'v'.repeat(3 << 20);
    await client.set(k, large);
    assert.equal(await client.get(k), large);
  });

  test(`expiry, RESP${RESP}`, async () => {
    const k = prefix();
    await client.set(k, 'v', { expiration: { type: 'EX', value: 100 } });
    const ttl = await client.ttl(k);
    assert.ok(ttl > 90 && ttl <= 100, `ttl ${ttl}`);
    assert.equal(await client.persist(k), 1);
    assert.equal(await client.ttl(k), -1);
    assert.equal(await client.expire(k, 50), 1);
    assert.equal(await client.expire(k, 60, 'NX'), 0);
    assert.equal(await client.getEx(k, { type: 'PX', value: 80 }), 'v');
    await until(async () => (await client.get(k)) === null, 'the key to expire');
    assert.equal(await client.pTTL(k), -2);
    assert.equal(await client.setEx(k, 100, 'v'), 'OK');
    assert.ok((await client.expireTime(k)) > Date.now() / 1000);
  });

  test(`options of SET, RESP${RESP}`, async () => {
    const k = prefix();
    assert.equal(await client.set(k, '1', { condition: 'XX' }), null);
    assert.equal(await client.set(k, '1', { condition: 'NX' }), 'OK');
    assert.equal(await client.set(k, '2', { condition: 'NX' }), null);
    const expiration = { type: 'EX', value: 100 };
    assert.equal(await client.set(k, '2', { expiration, GET: true }), '1');
    assert.equal(await client.set(k, '3', { expiration: 'KEEPTTL' }), 'OK');
    assert.ok((await client.ttl(k)) > 0);
    assert.equal(await client.sendCommand(['SET', k, '4', 'IFEQ', 'nope']), null);
    assert.equal(await client.sendCommand(['SET', k, '4', 'IFEQ', '3']), 'OK');
    const [value, version] = await client.sendCommand(['GETVER', k]);
    assert.equal(value, '4');
    assert.equal(await client.sendCommand(['SET', k, '5', 'IFVER', `${version}`]), 'OK');
    assert.equal(await client.sendCommand(['SET', k, '6', 'IFVER', `${version}`]), null);
  });

  test(`counters, RESP${RESP}`, async () => {
    const k = prefix();
    // Commands of one turn of the event loop leave as one pipeline.
    const answers = await Promise.all(Array.from({ length: 200 }, () => client.incr(k)));
    assert.deepEqual(answers, Array.from({ length: 200 }, (_, i) => i + 1));
    assert.equal(await client.incrBy(k, 10), 210);
    assert.equal(await client.decrBy(k, 5), 205);
    assert.equal(await client.incrByFloat(k, 0.5), '205.5');
  });

  test(`several keys, RESP${RESP}`, async () => {
    const k = prefix();
    assert.equal(await client.mSet({ [`${k}a`]: '1', [`${k}b`]: '2' }), 'OK');
    assert.deepEqual(await client.mGet([`${k}a`, `${k}x`, `${k}b`]), ['1', null, '2']);
    assert.equal(await client.mSetNX([[`${k}b`, '3'], [`${k}c`, '3']]), 0);
    assert.equal(await client.exists([`${k}a`, `${k}b`, `${k}c`]), 2);
    assert.equal(await client.del([`${k}a`, `${k}b`, `${k}c`]), 2);
  });

  test(`pipelines, RESP${RESP}`, async () => {
    const k = prefix();
    const answers = await client.multi().set(k, 'one').append(k, '!').get(k).execAsPipeline();
    assert.deepEqual(answers, ['OK', 4, 'one!']);
  });

  test(`scans, RESP${RESP}`, async () => {
    const k = prefix();
    await Promise.all(Array.from({ length: 300 }, (_, i) => client.set(`${k}:${i}`, `${i}`)));
    const found = new Set();
    for await (const keys of client.scanIterator({ MATCH: `${k}:*`, COUNT: 20 })) {
      keys.forEach((key) => found.add(key));
    }
    assert.equal(found.size, 300);
    assert.equal((await client.keys(`${k}:1?`)).length, 10);
  });

  test(`errors are those of Redis, RESP${RESP}`, async () => {
    const k = prefix();
    await client.set(k, 'text');
    await assert.rejects(client.incr(k), { message: 'ERR value is not an integer or out of range' });
    await assert.rejects(client.sendCommand(['SET', k, 'v', 'NX', 'XX']), { message: 'ERR syntax error' });
    await assert.rejects(client.lPush(k, 'v'), { message: /^ERR unknown command 'LPUSH'/ });
    await assert.rejects(client.sendCommand(['GET']), {
      message: "ERR wrong number of arguments for 'get' command",
    });
    await assert.rejects(client.set('', 'v'), { message: /^TOOBIG key of 0 bytes/ });
    assert.equal(await client.get(k), 'text');
  });

  test(`user names are projects, RESP${RESP}`, async () => {
    const k = prefix();
    const one = await open({ RESP, username: 'project-one', password: 'token' });
    const two = await open({ RESP, username: 'project-two', password: 'token' });
    await one.set(k, '1');
    assert.equal(await two.get(k), null);
    assert.equal(await two.flushDb(), 'OK');
    assert.equal(await one.dbSize(), 1);
    await one.flushDb();
  });

  test(`keyspace events, RESP${RESP}`, async () => {
    const k = prefix();
    // With RESP3 one connection serves both.
    const subscriber = RESP === 3 ? client : await open({ RESP });
    const seen = [];
    const note = (event, channel) => seen.push([channel, event]);
    const channel = `__keyspace@0__:${k}`;
    await subscriber.subscribe(channel, note);
    await subscriber.pSubscribe(`${channel}-*`, note);
    await client.set(k, 'v');
    await client.expire(k, 100);
    await client.set(`${k}-2`, 'v');
    await client.del(k);
    await until(() => seen.length === 4, 'four events');
    assert.deepEqual(seen, [
      [channel, 'set'],
      [channel, 'expire'],
      [`${channel}-2`, 'set'],
      [channel, 'del'],
    ]);
    await subscriber.unsubscribe(channel);
    await subscriber.pUnsubscribe();
    // (Over RESP2 the client answers buffers from now on, with Redis as well.)
    assert.equal(String(await subscriber.get(`${k}-2`)), 'v');
  });

  test(`transactions, RESP${RESP}`, async () => {
    const k = prefix();
    const answers = await client.multi().set(k, '1').incr(k).get(k).exec();
    assert.deepEqual(answers, ['OK', 2, '2']);
    // A command that fails does not undo the others, as in Redis.
    await assert.rejects(client.multi().set(k, 'text').incr(k).append(k, '!').exec(), ({ replies }) => {
      assert.equal(replies[1].message, 'ERR value is not an integer or out of range');
      return replies[0] === 'OK' && replies[2] === 5;
    });
    await assert.rejects(client.multi().set(k, 'x').addCommand(['SET', k]).exec(), {
      message: "ERR wrong number of arguments for 'set' command",
    });
    assert.equal(await client.get(k), 'text!');
  });

  test(`a transaction whose watched key changed does nothing, RESP${RESP}`, async () => {
    const k = prefix();
    const other = await open({ RESP });
    await client.watch(k);
    await other.set(k, 'theirs');
    await assert.rejects(client.multi().set(k, 'ours').exec(), WatchError);
    assert.equal(await client.get(k), 'theirs');
    await client.watch(k);
    assert.deepEqual(await client.multi().set(k, 'ours').exec(), ['OK']);
    await client.watch(k);
    await other.set(k, 'theirs');
    await client.unwatch();
    assert.deepEqual(await client.multi().get(k).exec(), ['theirs']);
  });

  test(`what the client asks about the server, RESP${RESP}`, async () => {
    assert.ok((await client.clientId()) > 0);
    assert.match(await client.info(), /redis_version:7/);
    const names = (await client.commandList()).map(String);
    assert.ok(names.includes('getver'));
    const [info] = await client.commandInfo(['mset']);
    assert.deepEqual([info.firstKeyIndex, info.lastKeyIndex, info.step], [1, -1, 2]);
  });
}

test("the leader's end is a pause, not an error", async (context) => {
  const k = prefix();
  const client = await open();
  const pause = pauses();
  let acknowledged = 0;
  kill(chief);
  for (let i = 0; i < 50; i++) {
    acknowledged = await client.incr(k);
    pause.tick();
  }
  pause.report(context);
  assert.equal(acknowledged, 50); // nothing was carried out twice
  await restart(chief);
  assert.equal(await client.get(k), '50');
});

test('the client comes back when its own node does', async () => {
  const k = prefix();
  const client = await open();
  const written = [];
  const events = [];
  const subscriber = await open();
  await subscriber.subscribe(`__keyspace@0__:${k}-after`, (event) => events.push(event));
  let failed = 0;
  let ready = false;
  kill(own);
  client.once('ready', () => { ready = true; });
  // What is under way when the connection breaks is given up, and what comes later waits.
  const writes = (async () => {
    for (let i = 0; !ready; i++) {
      await client.set(`${k}-${i}`, `${i}`).then(() => written.push(i), () => { failed += 1; });
      await sleep(10);
    }
  })();
  await sleep(300);
  await restart(own);
  await writes;
  assert.ok(failed <= 1, `${failed} commands failed`);
  assert.ok(written.length > 0);
  const values = await client.mGet(written.map((i) => `${k}-${i}`));
  assert.deepEqual(values, written.map(String));
  // Its subscriptions come back as well; what happened in between is lost, as in Redis.
  await until(async () => {
    await client.incr(`${k}-after`);
    return events.includes('set');
  }, 'events again');
});
