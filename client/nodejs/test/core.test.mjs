// The contract of the global `kv`, and what the package has beyond it.
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { KvError, version } from 'invoke-kv';
import { open, projectName, seeds, sleep, SLOW, until } from './lib/store.mjs';

const store = await open();
const fresh = (options) => store.project(projectName(), options);

test('get, set, has, delete, clear', async () => {
  const kv = fresh();
  assert.equal(await kv.get('user:name'), null);
  assert.equal(await kv.set('user:name', 'Alice'), undefined);
  assert.equal(await kv.get('user:name'), 'Alice');
  assert.equal(await kv.has('user:name'), true);
  assert.equal(await kv.has('nobody'), false);
  assert.equal(await kv.delete('user:name'), true);
  assert.equal(await kv.delete('user:name'), false);
  await kv.set('a', 1);
  await kv.set('b', 2);
  assert.equal(await kv.clear(), undefined);
  assert.deepEqual(await kv.getMany(['a', 'b']), [null, null]);
  for (const promise of [kv.get('a'), kv.set('a', 1), kv.has('a'), kv.delete('a'), kv.clear()]) {
    assert.ok(promise instanceof Promise);
    await promise;
  }
});

test('projects do not see each other', async () => {
  const [one, two] = [fresh(), fresh()];
  await one.set('key', 1);
  await two.set('key', 2);
  assert.equal(await one.get('key'), 1);
  await two.clear();
  assert.equal(await two.get('key'), null);
  assert.equal(await one.get('key'), 1);
});

test('values of every type come back as they were', async () => {
  const kv = fresh();
  const values = [
    '', 'text', 'grün', '\u{1f600}', 'a\0b', '"\\\n', ' '.repeat(20000), 'ü'.repeat(20000), '\ud800',
    0, 1, -1, 1.5, 1e300, 5e-324, Number.MAX_SAFE_INTEGER, true, false, null, [], {}, [[]], [null],
    { a: { b: [1, 'x', null, { c: true }] } }, { '': '' }, { ['__proto__']: 1 }, [1, [2, [3, [4]]]],
  ];
  for (const value of values) {
    await kv.set('key', value);
    assert.deepEqual(await kv.get('key'), value);
    assert.equal(await kv.has('key'), true);
  }
  await kv.set('date', new Date(0)); // as JSON has it
  assert.equal(await kv.get('date'), '1970-01-01T00:00:00.000Z');
});

// Any JSON value, from a number.
function valueOf(i) {
  switch (i % 8) {
    case 0:
      return i;
    case 1:
      return `text ${i} ${'é'.repeat(i % 40)}`;
    case 2:
      return i % 16 === 2;
    case 3:
      return null;
    case 4:
      return { id: i, name: `n${i}`, tags: ['a', 'b', i], nested: { on: true, at: null } };
    case 5:
      return [i, `${i}`, null, [i]];
    case 6:
      return -i / 7;
    default:
      return 'x'.repeat(i % 3000);
  }
}

test('50,000 values, many at once', async () => {
  const kv = fresh();
  const total = SLOW > 1 ? 8000 : 50000;
  for (let from = 0; from < total; from += 5000) {
    const numbers = Array.from({ length: Math.min(5000, total - from) }, (_, i) => from + i);
    await Promise.all(numbers.map((i) => kv.set(`key:${i}`, valueOf(i))));
    const values = await Promise.all(numbers.map((i) => kv.get(`key:${i}`)));
    values.forEach((value, i) => assert.deepEqual(value, valueOf(from + i)));
  }
  assert.equal((await kv.usage()).keys, total);
});

test('what is not JSON is refused, and changes nothing', async () => {
  const kv = fresh();
  await kv.set('key', 'old');
  const cycle = {};
  cycle.self = cycle;
  let deep = [];
  for (let i = 0; i < 1e5; i++) {
    deep = [deep];
  }
  for (const value of [undefined, () => 1, Symbol('s'), 1n, { n: 1n }, cycle, NaN, Infinity, deep, { toJSON() {} }]) {
    await assert.rejects(kv.set('key', value), TypeError);
  }
  await assert.rejects(kv.set('key'), TypeError);
  assert.equal(await kv.get('key'), 'old');
});

test('keys', async () => {
  const kv = fresh();
  for (const key of ['', undefined, null, 1, {}, [], Symbol('s'), '\ud800']) {
    for (const call of [() => kv.get(key), () => kv.set(key, 1), () => kv.has(key), () => kv.delete(key)]) {
      await assert.rejects(call(), TypeError);
    }
  }
  for (const key of ['ü', '\0', ' ', 'a b', '\u{1f600}', 'k'.repeat(65536), 'é'.repeat(32768), '__proto__']) {
    await kv.set(key, key.length);
    assert.equal(await kv.get(key), key.length);
    assert.equal(await kv.delete(key), true);
  }
  await assert.rejects(kv.set('k'.repeat(65537), 1), { name: 'KvError', code: 'TOO_BIG', retryable: false });
});

test('times to live', async () => {
  const kv = fresh();
  for (const ttl of [undefined, null, 0]) {
    await kv.set('key', 1, 1000000);
    await kv.set('key', 1, ttl);
    assert.equal(await kv.ttl('key'), Infinity);
  }
  await kv.set('key', 1, 3600000);
  const ttl = await kv.ttl('key');
  assert.ok(ttl > 3590000 && ttl <= 3600000, `${ttl}`);
  await kv.set('key', 1, 0.5);
  await until(async () => !(await kv.has('key')), 'the key to expire');
  assert.equal(await kv.get('key'), null);
  assert.equal(await kv.delete('key'), false);
  assert.equal(await kv.ttl('key'), null);
  for (const bad of [-1, NaN, Infinity, -Infinity, 1e300]) {
    await assert.rejects(kv.set('key', 1, bad), RangeError);
  }
  for (const bad of ['1000', {}, [], true, false, 5n, () => 5]) {
    await assert.rejects(kv.set('key', 1, bad), TypeError);
  }
  assert.equal(await kv.has('key'), false);
});

test('several keys in one step', async () => {
  const kv = fresh();
  await kv.setMany({ a: 1, b: 'two' });
  await kv.setMany(new Map([['c', [3]]]));
  await kv.setMany([['d', null], ['e', 5, 100000], ['f', 6, null]]);
  assert.deepEqual(await kv.getMany(['a', 'b', 'c', 'd', 'e', 'f', 'g']), [1, 'two', [3], null, 5, 6, null]);
  assert.ok((await kv.ttl('e')) > 90000);
  assert.equal(await kv.ttl('f'), Infinity);
  assert.equal(await kv.deleteMany(['a', 'b', 'x']), 2);
  assert.deepEqual(await kv.getMany([]), []);
  assert.equal(await kv.setMany({}), undefined);
  assert.equal(await kv.deleteMany([]), 0);
  await assert.rejects(kv.setMany([['a', 1], ['', 2]]), TypeError);
  await assert.rejects(kv.setMany([['a', 1], ['b', undefined]]), TypeError);
  await assert.rejects(kv.setMany(null), TypeError);
  await assert.rejects(kv.setMany(['ab']), TypeError);
  await assert.rejects(kv.getMany('ab'), TypeError);
  await assert.rejects(kv.getMany(Array(32001).fill('k')), RangeError);
  assert.equal(await kv.has('a'), false);
  const many = Array.from({ length: 3000 }, (_, i) => [`many:${i}`, 'ü'.repeat(i % 50), 1e7]);
  await kv.setMany(many);
  assert.deepEqual(await kv.getMany(many.map(([key]) => key)), many.map(([, value]) => value));
});

test('counters', async () => {
  const kv = fresh();
  const sums = await Promise.all(Array.from({ length: 500 }, () => kv.incr('n')));
  assert.deepEqual(sums.sort((a, b) => a - b), Array.from({ length: 500 }, (_, i) => i + 1));
  assert.equal(await kv.get('n'), 500);
  assert.equal(await kv.incr('n', -600), -100);
  await kv.set('n', 7);
  assert.equal(await kv.incr('n', 3), 10);
  assert.equal(await kv.incr('big', Number.MAX_SAFE_INTEGER), Number.MAX_SAFE_INTEGER);
  assert.equal(await kv.incr('big', 1), 2n ** 53n);
  await kv.set('text', 'x');
  await assert.rejects(kv.incr('text'), { code: 'REFUSED' });
  await assert.rejects(kv.incr('n', 1.5), RangeError);
  await assert.rejects(kv.incr('n', '1'), TypeError);
});

test('versions', async () => {
  const kv = fresh();
  assert.equal(await kv.getVersioned('key'), null);
  assert.equal(await kv.cas('key', 0, 'first'), true);
  assert.equal(await kv.cas('key', 0, 'second'), false);
  const { value, version: seen } = await kv.getVersioned('key');
  assert.equal(value, 'first');
  assert.equal(await kv.cas('key', seen, 'third', 100000), true);
  assert.ok((await kv.ttl('key')) > 0);
  assert.equal(await kv.cas('key', seen, 'fourth'), false);
  assert.equal(await kv.casDelete('key', seen), false);
  assert.equal(await kv.casDelete('key', (await kv.getVersioned('key')).version), true);
  // A counter without lost updates, by many at once.
  await kv.set('n', 0);
  await Promise.all(
    Array.from({ length: 20 }, async () => {
      for (;;) {
        const now = await kv.getVersioned('n');
        if (await kv.cas('n', now.version, now.value + 1)) {
          return;
        }
      }
    }),
  );
  assert.equal(await kv.get('n'), 20);
});

test('conditions of set', async () => {
  const kv = fresh();
  assert.equal(await kv.set('key', 1, null, { ifExists: true }), false);
  assert.equal(await kv.set('key', 1, 100000, { ifMissing: true }), true);
  assert.equal(await kv.set('key', 2, null, { ifMissing: true }), false);
  assert.equal(await kv.set('key', 3, null, { keepTtl: true }), undefined);
  assert.ok((await kv.ttl('key')) < Infinity);
  assert.equal(await kv.get('key'), 3);
  await assert.rejects(kv.set('key', 1, null, { ifMissing: true, ifExists: true }), TypeError);
});

test('list', async () => {
  const kv = fresh();
  const names = Array.from({ length: 2500 }, (_, i) => `user:${i}`);
  await kv.setMany(names.map((name) => [name, 1]));
  await kv.setMany({ 'other:1': 1, 'user': 1, 'user*:x': 1 });
  const collect = async (list) => {
    const found = [];
    for await (const key of list) {
      found.push(key);
    }
    return found;
  };
  assert.deepEqual((await collect(kv.list('user:'))).sort(), names.sort());
  assert.deepEqual(await collect(kv.list('user*')), ['user*:x']);
  assert.deepEqual(await collect(kv.list('nothing')), []);
  assert.equal((await collect(kv.list())).length, 2503);
  // In parts, by a cursor.
  const parts = [];
  let cursor;
  do {
    const list = kv.list('user:', { cursor, limit: 700 });
    const part = await collect(list);
    assert.ok(part.length <= 700);
    parts.push(...part);
    cursor = list.cursor;
  } while (cursor !== null);
  assert.deepEqual([...new Set(parts)].sort(), names);
  for await (const key of kv.list('user:')) {
    assert.ok(key);
    break;
  }
  assert.throws(() => kv.list('a', { cursor: 'x' }), TypeError);
  assert.throws(() => kv.list('a', { limit: -1 }), RangeError);
});

test('usage and quota', async () => {
  const kv = fresh();
  await kv.set('abc', 'de'); // 3 bytes of key, 4 of JSON
  const usage = await kv.usage();
  assert.equal(usage.keys, 1);
  assert.equal(usage.usedBytes, 7);
  assert.ok(usage.quotaBytes > 0 && usage.leader > 0 && usage.shard === 0);
  await store.command(['PROJECT', 'SET-QUOTA', kv.name, 10]);
  await kv.set('abc', 'defgh');
  await assert.rejects(kv.set('abc', 'defghi'), { name: 'KvError', code: 'QUOTA', outcome: 'not-done' });
  await assert.rejects(kv.setMany([['x', 1, 1000], ['y', 1, 1000], ['z', 1, 1000]]), { code: 'QUOTA' });
});

test('watch', async () => {
  const kv = fresh();
  const watch = kv.watch('w:');
  assert.equal((await watch.next()).value.type, 'ready');
  await kv.set('other', 1);
  await kv.set('w:1', 1);
  await kv.delete('w:1');
  const seen = [];
  for await (const event of watch) {
    if (event.type === 'change') {
      seen.push(`${event.kind} ${event.key}`);
    }
    if (seen.length === 2) {
      break;
    }
  }
  assert.deepEqual(seen, ['set w:1', 'del w:1']);
  assert.deepEqual(await watch.next(), { value: undefined, done: true });
  const controller = new AbortController();
  const aborted = kv.watch('', { signal: controller.signal });
  await aborted.next();
  const waiting = aborted.next();
  controller.abort();
  await assert.rejects(waiting, { name: 'AbortError' });
  assert.deepEqual(await aborted.next(), { value: undefined, done: true });
});

test('signals and timeouts', async () => {
  const kv = fresh();
  await kv.set('key', 1, null, { timeout: 10000 });
  assert.equal(await kv.get('key', { timeout: 10000, signal: new AbortController().signal }), 1);
  const gone = AbortSignal.abort();
  await assert.rejects(kv.get('key', { signal: gone }), { name: 'AbortError' });
  await assert.rejects(kv.set('key', 2, null, { signal: gone }), { name: 'AbortError' });
  const controller = new AbortController();
  const reads = Array.from({ length: 50 }, () => kv.get('key', { signal: controller.signal }));
  controller.abort(new Error('enough'));
  for (const result of await Promise.allSettled(reads)) {
    assert.equal(result.reason?.message, 'enough');
  }
  assert.equal(await kv.get('key'), 1);
  for (const timeout of [0, -1, NaN, 1e10]) {
    await assert.rejects(kv.get('key', { timeout }), RangeError);
  }
  await assert.rejects(kv.get('key', { timeout: '5' }), TypeError);
  await assert.rejects(kv.get('key', { signal: {} }), TypeError);
});

test('levels of consistency', async () => {
  const name = projectName();
  for (const consistency of ['linearizable', 'session']) {
    const kv = store.project(name, { consistency });
    for (let i = 0; i < 50; i++) {
      await kv.set('key', i);
      assert.equal(await kv.get('key'), i);
    }
  }
  const kv = store.project(name, { consistency: 'eventual', maxStale: 60000 });
  await until(async () => (await kv.get('key')) === 49, 'the replica to catch up');
  assert.throws(() => store.project(name, { consistency: 'strict' }), TypeError);
  assert.throws(() => store.project(''), TypeError);
  assert.throws(() => store.project('x'.repeat(200)), KvError);
});

test('texts of other clients', async () => {
  const kv = fresh();
  await kv.setText('raw', 'not JSON, grün');
  assert.equal(await kv.getText('raw'), 'not JSON, grün');
  await assert.rejects(kv.get('raw'), { code: 'NOT_JSON' });
  assert.equal(await kv.getText('nothing'), null);
  await kv.setManyText({ a: 'x', b: '' });
  assert.deepEqual(await kv.getManyText(['a', 'b', 'c']), ['x', '', null]);
  assert.deepEqual(await kv.command(['GETRANGE', 'raw', 0, 2]), 'not');
  await assert.rejects(kv.command(['NONSENSE']), { code: 'REFUSED' });
  await assert.rejects(kv.command([]), TypeError);
});

test('large values', async () => {
  const kv = fresh();
  const large = 'ü'.repeat(4 << 20);
  await kv.set('large', large);
  assert.ok((await kv.get('large')) === large);
  const some = 'y'.repeat(300000);
  await Promise.all(Array.from({ length: 20 }, (_, i) => kv.set(`some:${i}`, some)));
  const back = await Promise.all(Array.from({ length: 20 }, (_, i) => kv.get(`some:${i}`)));
  assert.ok(back.every((value) => value === some));
});

test('stores', async () => {
  assert.match(version, /^\d+\.\d+\.\d+$/);
  const other = await open({ nodes: seeds().join(','), timeout: 3000 });
  await other.ping();
  const kv = other.project('p');
  assert.equal(other.project('p'), kv);
  assert.notEqual(other.project('p', { consistency: 'session' }), kv);
  assert.match(await other.command(['INFO', 'server'], { node: seeds()[1] }), /tcp_port|version/);
  await other.close();
  await other.close();
  assert.equal(other.closed, true);
  await assert.rejects(kv.get('key'), { code: 'CLOSED' });
  await assert.rejects(kv.set('key', 1), { code: 'CLOSED', outcome: 'not-done' });
  assert.throws(() => other.project('q'), { code: 'CLOSED' });
  assert.throws(() => kv.watch(''), { code: 'CLOSED' });
});

test('handles of projects are freed', { skip: !globalThis.gc }, async () => {
  const { counts } = await import('./lib/store.mjs');
  const before = counts().projects;
  await Promise.all(Array.from({ length: 300 }, (_, i) => store.project(`gc${i}`).get('x')));
  assert.ok(counts().projects >= before + 300 - 50);
  await until(async () => {
    globalThis.gc();
    await sleep(20);
    return counts().projects < before + 100;
  }, 'handles to be freed');
});
