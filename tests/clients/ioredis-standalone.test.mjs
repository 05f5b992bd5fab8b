// ioredis with `new Redis()`, connected to a node that does not lead.
import assert from 'node:assert/strict';
import { after, test } from 'node:test';
import Redis from 'ioredis';
import { kill, leader, nodes, pauses, prefix, restart, sleep, until } from './lib/cluster.mjs';

const chief = await leader();
const own = nodes().find(({ id }) => id !== chief.id);
const opened = [];

function open(options = {}) {
  const client = new Redis({ host: '127.0.0.1', port: own.port, ...options });
  opened.push(client);
  return client;
}

after(() => opened.forEach((client) => client.disconnect()));

const redis = open();

test('strings', async () => {
  const k = prefix();
  assert.equal(await redis.get(k), null);
  assert.equal(await redis.set(k, 'grün'), 'OK');
  assert.equal(await redis.get(k), 'grün');
  assert.equal(await redis.strlen(k), 5);
  assert.equal(await redis.append(k, '!'), 6);
  assert.equal(await redis.getrange(k, 0, 1), 'gr');
  assert.equal(await redis.setrange(k, 0, 'GR'), 6);
  assert.equal(await redis.getset(k, 'x'), 'GRün!');
  assert.equal(await redis.getdel(k), 'x');
  assert.equal(await redis.exists(k), 0);
  const bytes = Buffer.from([0, 255, 13, 10, 128]);
  await redis.set(k, bytes);
  assert.deepEqual(await redis.getBuffer(k), bytes);
  assert.equal(await redis.type(k), 'string');
  assert.equal(await redis.rename(k, `${k}2`), 'OK');
  assert.equal(await redis.unlink(`${k}2`), 1);
  const large = Buffer.alloc(3 << 20, 'v');
  await redis.set(k, large);
  assert.ok((await redis.getBuffer(k)).equals(large));
});

test('expiry', async () => {
  const k = prefix();
  await redis.set(k, 'v', 'EX', 100);
  const ttl = await redis.ttl(k);
  assert.ok(ttl > 90 && ttl <= 100, `ttl ${ttl}`);
  assert.equal(await redis.persist(k), 1);
  assert.equal(await redis.ttl(k), -1);
  assert.equal(await redis.expire(k, 50), 1);
  assert.equal(await redis.expire(k, 60, 'NX'), 0);
  assert.equal(await redis.getex(k, 'PX', 80), 'v');
  await until(async () => (await redis.get(k)) === null, 'the key to expire');
  assert.equal(await redis.pttl(k), -2);
  assert.equal(await redis.setex(k, 100, 'v'), 'OK');
  assert.ok((await redis.expiretime(k)) > Date.now() / 1000);
});

test('options of SET', async () => {
  const k = prefix();
  assert.equal(await redis.set(k, '1', 'XX'), null);
  assert.equal(await redis.set(k, '1', 'NX'), 'OK');
  assert.equal(await redis.set(k, '2', 'NX'), null);
  assert.equal(await redis.set(k, '2', 'EX', 100, 'GET'), '1');
  assert.equal(await redis.set(k, '3', 'KEEPTTL'), 'OK');
  assert.ok((await redis.ttl(k)) > 0);
  assert.equal(await redis.set(k, '4', 'PXAT', Date.now() + 100000), 'OK');
  assert.equal(await redis.call('SET', k, '5', 'IFEQ', 'nope'), null);
  assert.equal(await redis.call('SET', k, '5', 'IFEQ', '4'), 'OK');
  const [value, version] = await redis.call('GETVER', k);
  assert.equal(value, '5');
  assert.equal(await redis.call('SET', k, '6', 'IFVER', version), 'OK');
  assert.equal(await redis.call('SET', k, '7', 'IFVER', version), null);
});

test('counters', async () => {
  const k = prefix();
  const answers = await Promise.all(Array.from({ length: 200 }, () => redis.incr(k)));
  assert.deepEqual(answers, Array.from({ length: 200 }, (_, i) => i + 1));
  assert.equal(await redis.incrby(k, 10), 210);
  assert.equal(await redis.decrby(k, 5), 205);
  assert.equal(await redis.incrbyfloat(k, '0.5'), '205.5');
});

test('several keys', async () => {
  const k = prefix();
  assert.equal(await redis.mset({ [`${k}a`]: '1', [`${k}b`]: '2' }), 'OK');
  assert.deepEqual(await redis.mget(`${k}a`, `${k}x`, `${k}b`), ['1', null, '2']);
  assert.equal(await redis.msetnx(`${k}b`, '3', `${k}c`, '3'), 0);
  assert.equal(await redis.exists(`${k}a`, `${k}b`, `${k}c`), 2);
  assert.equal(await redis.del(`${k}a`, `${k}b`, `${k}c`), 2);
});

test('pipelines keep their order, errors among the answers', async () => {
  const k = prefix();
  const answers = await redis
    .pipeline()
    .set(k, 'one')
    .get(k)
    .incr(k)
    .append(k, '!')
    .get(k)
    .exec();
  assert.deepEqual(answers.map(([error, value]) => error?.message ?? value), [
    'OK',
    'one',
    'ERR value is not an integer or out of range',
    4,
    'one!',
  ]);
});

test('auto-pipelining', async () => {
  const k = prefix();
  const auto = open({ enableAutoPipelining: true });
  const each = Array.from({ length: 500 }, (_, i) => i);
  await Promise.all(each.map((i) => auto.set(`${k}-${i}`, i)));
  const values = await Promise.all(each.map((i) => auto.get(`${k}-${i}`)));
  assert.deepEqual(values, each.map(String));
});

test('scans', async () => {
  const k = prefix();
  await Promise.all(Array.from({ length: 300 }, (_, i) => redis.set(`${k}:${i}`, i)));
  const found = new Set();
  for await (const keys of redis.scanStream({ match: `${k}:*`, count: 20 })) {
    keys.forEach((key) => found.add(key));
  }
  assert.equal(found.size, 300);
  assert.equal((await redis.keys(`${k}:1?`)).length, 10);
});

test('errors are those of Redis', async () => {
  const k = prefix();
  await redis.set(k, 'text');
  await assert.rejects(redis.incr(k), { message: 'ERR value is not an integer or out of range' });
  await assert.rejects(redis.set(k, 'v', 'EX', 'x'), { message: /^ERR value is not an integer/ });
  await assert.rejects(redis.set(k, 'v', 'NX', 'XX'), { message: 'ERR syntax error' });
  await assert.rejects(redis.lpush(k, 'v'), { message: /^ERR unknown command 'lpush'/ });
  await assert.rejects(redis.call('GET'), { message: "ERR wrong number of arguments for 'get' command" });
  await assert.rejects(redis.set('', 'v'), { message: /^TOOBIG key of 0 bytes/ });
  assert.equal(await redis.get(k), 'text');
});

test('user names are projects', async () => {
  const k = prefix();
  const one = open({ username: 'project-one', password: 'token' });
  const two = new Redis(`redis://project-two:token@127.0.0.1:${own.port}`);
  opened.push(two);
  await one.set(k, '1');
  assert.equal(await two.get(k), null);
  assert.equal(await one.get(k), '1');
  assert.equal(await two.flushdb(), 'OK');
  assert.equal(await one.dbsize(), 1);
  await one.flushdb();
});

test('a replica answers eventual reads', async () => {
  const k = prefix();
  await redis.set(k, 'v');
  const reader = open({ readOnly: true });
  await until(async () => (await reader.get(k)) === 'v', 'the replica to have it');
  assert.equal(await reader.call('CONSISTENCY'), 'EVENTUAL');
});

test('keyspace events', async () => {
  const k = prefix();
  const subscriber = open();
  const seen = [];
  subscriber.on('message', (channel, event) => seen.push([channel, event]));
  subscriber.on('pmessage', (pattern, channel, event) => seen.push([pattern, channel, event]));
  const channel = `__keyspace@0__:${k}`;
  assert.equal(await subscriber.subscribe(channel), 1);
  assert.equal(await subscriber.psubscribe(`${channel}-*`), 2);
  await redis.set(k, 'v');
  await redis.expire(k, 100);
  await redis.set(`${k}-2`, 'v');
  await redis.del(k);
  await until(() => seen.length === 4, 'four events');
  assert.deepEqual(seen, [
    [channel, 'set'],
    [channel, 'expire'],
    [`${channel}-*`, `${channel}-2`, 'set'],
    [channel, 'del'],
  ]);
  assert.equal(await subscriber.unsubscribe(channel), 1);
  await subscriber.punsubscribe();
  assert.equal(await subscriber.get(`${k}-2`), 'v'); // an ordinary connection again
});

test('transactions', async () => {
  const k = prefix();
  const answers = await redis.multi().set(k, '1').incr(k).get(k).exec();
  assert.deepEqual(answers, [[null, 'OK'], [null, 2], [null, '2']]);
  // A command that fails does not undo the others, as in Redis.
  const mixed = await redis.multi().set(k, 'text').incr(k).append(k, '!').exec();
  assert.deepEqual(mixed.map(([error, value]) => error?.message ?? value), [
    'OK',
    'ERR value is not an integer or out of range',
    5,
  ]);
  await assert.rejects(redis.multi().set(k, 'x').set(k).exec(), {
    message: 'EXECABORT Transaction discarded because of previous errors.',
  });
  assert.equal(await redis.get(k), 'text!');
  await redis.multi({ pipeline: false });
  assert.equal(await redis.set(k, 'dropped'), 'QUEUED');
  assert.equal(await redis.discard(), 'OK');
  assert.equal(await redis.get(k), 'text!');
});

test('a transaction whose watched key changed does nothing', async () => {
  const k = prefix();
  const other = open();
  await redis.watch(k);
  await other.set(k, 'theirs');
  assert.equal(await redis.multi().set(k, 'ours').exec(), null);
  assert.equal(await redis.get(k), 'theirs');
  await redis.watch(k);
  assert.deepEqual(await redis.multi().set(k, 'ours').exec(), [[null, 'OK']]);
  await redis.watch(k);
  await other.set(k, 'theirs');
  await redis.unwatch();
  assert.deepEqual(await redis.multi().get(k).exec(), [[null, 'theirs']]);
});

test("the leader's end is a pause, not an error", async (context) => {
  const k = prefix();
  const pause = pauses();
  let acknowledged = 0;
  kill(chief);
  for (let i = 0; i < 50; i++) {
    acknowledged = await redis.incr(k);
    pause.tick();
  }
  pause.report(context);
  assert.equal(acknowledged, 50); // nothing was carried out twice
  await restart(chief);
  assert.equal(await redis.get(k), '50');
});

test('the client comes back when its own node does', async () => {
  const k = prefix();
  const written = [];
  const events = [];
  const subscriber = open();
  subscriber.on('pmessage', (_pattern, _channel, event) => events.push(event));
  await subscriber.psubscribe(`__keyspace@0__:${k}-after`);
  let ready = false;
  redis.once('close', () => redis.once('ready', () => { ready = true; }));
  kill(own);
  const writes = (async () => {
    for (let i = 0; !ready; i++) {
      await redis.set(`${k}-${i}`, i);
      written.push(i);
      await sleep(10);
    }
  })();
  await sleep(300);
  await restart(own);
  await writes;
  const values = await Promise.all(written.map((i) => redis.get(`${k}-${i}`)));
  assert.deepEqual(values, written.map(String));
  // Its subscriptions come back as well; what happened in between is lost, as in Redis.
  await until(async () => {
    await redis.incr(`${k}-after`);
    return events.includes('set');
  }, 'events again');
});
