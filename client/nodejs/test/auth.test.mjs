// Clusters that ask for tokens.
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { KeyvInvoke } from 'invoke-kv/keyv';
import Keyv from 'keyv';
import { open, projectName, until } from './lib/store.mjs';

const admin = await open({ user: 'admin', secret: process.env.IKV_ADMIN });

async function newProject(access = 'READWRITE') {
  const name = projectName();
  return { name, token: await admin.command(['PROJECT', 'CREATE', name, 'TOKEN', access]) };
}

test('tokens', async () => {
  const store = await open();
  const [one, two] = [await newProject(), await newProject('READONLY')];
  const kv = store.project(one.name, { token: one.token });
  await kv.set('key', 1);
  assert.equal(await kv.get('key'), 1);
  assert.equal((await kv.usage()).keys, 1);

  const readOnly = store.project(two.name, { token: two.token });
  assert.equal(await readOnly.get('key'), null);
  await assert.rejects(readOnly.set('key', 1), { code: 'PERMISSION', outcome: 'not-done' });

  // Handles of one project, each with the rights of its own token.
  const twoOwn = await admin.command(['PROJECT', 'TOKEN', 'ADD', one.name, 'READONLY']);
  const reader = store.project(one.name, { token: twoOwn });
  for (let i = 0; i < 20; i++) {
    const results = await Promise.allSettled([kv.set('key', 1), reader.set('key', 2), reader.get('key'), kv.get('key')]);
    assert.deepEqual(results.map(({ reason, value }) => reason?.code ?? value), [undefined, 'PERMISSION', 1, 1]);
  }

  // A wrong token harms nobody but itself.
  const other = await open();
  await assert.rejects(other.project(one.name).get('key'), { code: 'AUTH' });
  const wrong = ['nonsense', two.token, 'ikv_0000000000000000_AAAA'].map((token) =>
    store.project(one.name, { token }),
  );
  const results = await Promise.allSettled([...wrong.map((handle) => handle.get('key')), kv.get('key')]);
  assert.deepEqual(
    results.map(({ reason, value }) => reason?.code ?? value),
    ['AUTH', 'AUTH', 'AUTH', 1],
  );
  assert.ok(results[0].reason.retryable === false);
  await assert.rejects(wrong[0].set('key', 2), { code: 'AUTH', outcome: 'not-done' });
  await assert.rejects(store.project('no-such-project', { token: one.token }).get('key'), { code: 'AUTH' });
  assert.equal(await kv.get('key'), 1);
});

test('a token that is revoked ends at once', async () => {
  const store = await open();
  const { name, token } = await newProject();
  const kv = store.project(name, { token });
  await kv.set('key', 1);
  const watch = kv.watch('');
  await watch.next();
  await admin.command(['PROJECT', 'TOKEN', 'REVOKE', name, token.split('_')[1]]);
  await until(() => kv.get('key').then(() => false, (error) => error.code === 'AUTH'), 'the token to end');
  watch.close();
});

test('keyv with a token for each project', async () => {
  const store = await open();
  const projects = [await newProject(), await newProject()];
  const tokens = new Map(projects.map(({ name, token }) => [name, token]));
  for (const { name } of projects) {
    const adapter = new KeyvInvoke({ store, namespaces: 'projects', tokens: async (project) => tokens.get(project) });
    const keyv = new Keyv({ store: adapter, namespace: name, throwOnErrors: true });
    await keyv.set('key', name);
    assert.equal(await keyv.get('key'), name);
  }
  const adapter = new KeyvInvoke({ store, namespaces: 'projects', token: 'nonsense' });
  const keyv = new Keyv({ store: adapter, namespace: projects[0].name, throwOnErrors: true });
  await assert.rejects(keyv.set('key', 1), { code: 'AUTH' });
});

test('a wrong secret of an administrator', async () => {
  await assert.rejects(open({ user: 'admin', secret: 'nonsense', timeout: 2000 }), { code: 'AUTH' });
});
