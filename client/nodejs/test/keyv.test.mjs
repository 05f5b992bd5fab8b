// Keyv as the execution service uses it: new Keyv({ store, namespace: projectId }). What is wrong with
// that arrangement over a table, and must not be here.
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { createKeyv, KeyvInvoke } from 'invoke-kv/keyv';
import { Keyv as Keyv5 } from 'keyv';
import { Keyv as Keyv6 } from 'keyv6';
import { counts, open, projectName, seeds, sleep, until } from './lib/store.mjs';

const store = await open();

for (const [version, Keyv] of [['5', Keyv5], ['6', Keyv6]]) {
  // The literal expression, and the function that makes the whole arrangement.
  const makers = {
    'new Keyv()': (namespace, options) =>
      new Keyv({ store: new KeyvInvoke({ store, namespaces: 'projects' }), namespace, throwOnErrors: true, ...options }),
    'createKeyv()': (namespace, options) => createKeyv({ store, namespace, Keyv, ...options }),
  };
  for (const [how, make] of Object.entries(makers)) {
    const title = (text) => `keyv ${version}, ${how}: ${text}`;

    test(title('values'), async () => {
      const keyv = make(projectName());
      for (const value of ['text', ':colon', 0, 1.5, true, false, { a: [1, null, ':x'] }, []]) {
        assert.equal(await keyv.set('key', value), true);
        assert.deepEqual(await keyv.get('key'), value);
        assert.equal(await keyv.has('key'), true);
      }
      assert.equal(await keyv.delete('key'), true);
      assert.equal(await keyv.delete('key'), false);
      assert.equal(await keyv.get('key'), undefined);
      await keyv.set('a', 1);
      await keyv.set('b', { c: 2 });
      assert.deepEqual(await keyv.get(['a', 'x', 'b']), [1, undefined, { c: 2 }]);
      await keyv.setMany([{ key: 'm1', value: 'x' }, { key: 'm2', value: 'y', ttl: 100000 }]);
      const found = new Map();
      for await (const [key, value] of keyv.iterator()) {
        found.set(key, value);
      }
      assert.deepEqual([...found].sort(), [['a', 1], ['b', { c: 2 }], ['m1', 'x'], ['m2', 'y']]);
      await keyv.delete(['a', 'b']);
      assert.deepEqual(await keyv.has(['a', 'm1']), [false, true]);
      await keyv.clear();
      assert.equal(await keyv.has('m1'), false);
    });

    test(title('namespaces are projects, and never meet'), async () => {
      const names = [projectName(), projectName()];
      const [one, two] = names.map((name) => make(name));
      await one.set('key', 1);
      await two.set('key', 2);
      await one.clear();
      assert.equal(await one.get('key'), undefined);
      assert.equal(await two.get('key'), 2);
      assert.equal(await store.project(names[1]).has('key'), true); // the key has no prefix there
    });

    test(title('has and delete tell the truth about expired keys'), async () => {
      const keyv = make(projectName());
      await keyv.set('key', 'value', 100000);
      assert.equal(await keyv.has('key'), true);
      await keyv.set('key', 'value', 50);
      await until(async () => (await keyv.get('key')) === undefined, 'the key to expire');
      await sleep(30);
      assert.equal(await keyv.has('key'), false);
      assert.equal(await keyv.delete('key'), false);
    });

    test(title('a get of an expired value never erases a set'), async () => {
      const name = projectName();
      const [reader, writer] = [make(name), make(name)];
      for (let i = 0; i < 40; i++) {
        await writer.set('key', 'old', 5);
        await sleep(4);
        // Reads around the time of expiry, while the key is written anew.
        const reads = Array.from({ length: 20 }, async (_, n) => {
          await sleep(n % 4);
          return reader.get('key');
        });
        await sleep(i % 4);
        await writer.set('key', `new ${i}`);
        await Promise.all(reads);
        assert.equal(await reader.get('key'), `new ${i}`);
      }
    });

    test(title('a write that fails is an error, and quotas hold'), async () => {
      const name = projectName();
      const keyv = make(name);
      await keyv.set('key', 'small');
      await store.command(['PROJECT', 'SET-QUOTA', name, 200]);
      await assert.rejects(keyv.set('key', 'x'.repeat(300)), { code: 'QUOTA' });
      assert.equal(await keyv.get('key'), 'small');
      // The quota is the project's, whoever writes.
      await assert.rejects(store.project(name).set('other', 'x'.repeat(300)), { code: 'QUOTA' });
      assert.equal(await keyv.has('other'), false);
    });
  }
}

test('createKeyv() and kv share their values', async () => {
  const name = projectName();
  const keyv = createKeyv({ store, namespace: name, Keyv: Keyv5 });
  const kv = store.project(name);
  await keyv.set('from keyv', { a: 1 }, 100000);
  assert.deepEqual(await kv.get('from keyv'), { a: 1 });
  assert.ok((await kv.ttl('from keyv')) <= 100000);
  await kv.set('from kv', [null]);
  assert.deepEqual(await keyv.get('from kv'), [null]);
  await kv.set('null', null);
  assert.equal(await keyv.get('null'), null);
  assert.equal(await keyv.get('missing'), undefined);
  await assert.rejects(keyv.set('key', undefined), TypeError);
  assert.throws(() => createKeyv({ store }), TypeError);
});

test('an adapter that several namespaces share', async () => {
  const adapter = new KeyvInvoke({ store, namespaces: 'projects' });
  const names = [projectName(), projectName()];
  const [one, two] = names.map((namespace) => new Keyv5({ store: adapter, namespace, throwOnErrors: true }));
  await one.set('key', 1);
  await two.set('key', 2);
  assert.equal(await one.get('key'), 1);
  assert.equal(await one.delete('key'), true);
  assert.equal(await two.get('key'), 2);
  // It cannot know whose keys are meant, and deletes none.
  await assert.rejects(one.clear(), /shared/);
  assert.equal(await two.get('key'), 2);
  // Keyv 6 does not tell at all whose key it is.
  const bare = new KeyvInvoke({ store, namespaces: 'projects' });
  const first = new Keyv6({ store: bare, namespace: names[0] });
  assert.equal(first.namespace, names[0]);
  assert.throws(() => new Keyv6({ store: bare, namespace: names[1] }), /another/);
});

test('prefixes: namespaces within one project', async () => {
  const project = projectName();
  for (const Keyv of [Keyv5, Keyv6]) {
    const make = (namespace) => new Keyv({ store: new KeyvInvoke({ store, project }), namespace });
    const [one, two] = [make('one'), make('two')];
    await one.set('key', 1);
    await two.set('key', 2);
    assert.deepEqual(await store.project(project).getManyText(['one:key', 'two:key']), ['{"value":1}', '{"value":2}']);
    await Promise.all(Array.from({ length: 2500 }, (_, i) => one.set(`many:${i}`, i)));
    await one.clear();
    assert.equal(await one.get('many:7'), undefined);
    assert.equal(await two.get('key'), 2);
    await two.clear();
    assert.equal((await store.project(project).usage()).keys, 0);
  }
});

test('a connection of its own', async () => {
  const before = counts().stores;
  const adapter = new KeyvInvoke({ connection: { nodes: seeds() }, project: projectName() });
  const keyv = new Keyv5({ store: adapter });
  let ended = 0;
  adapter.on('disconnect', () => (ended += 1));
  await keyv.set('key', 1);
  assert.equal(counts().stores, before + 1);
  await keyv.disconnect();
  assert.equal(ended, 1);
  assert.equal(counts().stores, before);
  assert.equal(await keyv.get('key'), 1); // connects again
  await keyv.disconnect();

  const nobody = new KeyvInvoke({ connection: { nodes: ['127.0.0.1:1'], timeout: 300 } });
  const lost = new Keyv5({ store: nobody, throwOnErrors: true });
  await assert.rejects(lost.set('key', 1), { code: 'UNREACHABLE' });
  await assert.rejects(lost.get('key'), { code: 'UNREACHABLE' });
  assert.equal(counts().stores, before);
});

test('bad options', () => {
  assert.throws(() => new KeyvInvoke(), TypeError);
  assert.throws(() => new KeyvInvoke({ store, connection: {} }), TypeError);
  assert.throws(() => new KeyvInvoke({ store, namespaces: 'x' }), TypeError);
  assert.throws(() => new KeyvInvoke({ store, wrong: 1 }), TypeError);
});
