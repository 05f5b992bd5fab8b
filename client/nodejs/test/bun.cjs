// Run by Bun, which loads addons for N-API but has an event loop of its own.
const assert = require('node:assert');
const { setTimeout: sleep } = require('node:timers/promises');
const { connect } = require('..');

const VALUES = { text: 'ü\u0000', number: -1.5, boolean: false, null: null, list: [1, [2]], object: { a: { b: '' } } };

async function useKeys(kv) {
  for (const [key, value] of Object.entries(VALUES)) {
    assert.strictEqual(await kv.set(key, value), undefined);
    assert.deepStrictEqual(await kv.get(key), value);
    assert.strictEqual(await kv.has(key), true);
  }
  assert.strictEqual(await kv.delete('text'), true);
  assert.strictEqual(await kv.delete('text'), false);
  assert.strictEqual(await kv.get('text'), null);
  await assert.rejects(kv.set('bad', 1n), TypeError);
}

async function useExpiry(kv) {
  await kv.set('short', 1, 50);
  await sleep(1500);
  assert.strictEqual(await kv.has('short'), false);
}

async function useManyAtOnce(kv) {
  await Promise.all(Array.from({ length: 5000 }, (_, i) => kv.set(`many:${i}`, i)));
  let listed = 0;
  for await (const key of kv.list('many:')) {
    assert.match(String(key), /^many:\d+$/);
    listed++;
  }
  assert.strictEqual(listed, 5000);
}

async function useWatch(kv) {
  const watch = kv.watch('seen')[Symbol.asyncIterator]();
  assert.strictEqual((await watch.next()).value.type, 'ready');
  await kv.set('seen', 1);
  assert.strictEqual((await watch.next()).value.key, 'seen');
  await watch.return();
}

async function main() {
  assert.ok(process.versions.bun, 'this is for Bun');
  const store = await connect({ nodes: process.argv[2].split(',') });
  const kv = store.project('bun');
  await useKeys(kv);
  await useExpiry(kv);
  await useManyAtOnce(kv);
  await useWatch(kv);
  const abort = new AbortController();
  const aborted = kv.get('many:1', { signal: abort.signal });
  abort.abort();
  await assert.rejects(aborted, { name: 'AbortError' });
  await kv.clear();
  assert.strictEqual(await kv.has('many:1'), false);
  await store.close();
  console.log('fine');
}

main();
