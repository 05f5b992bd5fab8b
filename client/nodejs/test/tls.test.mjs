// A cluster that takes TLS only.
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { connect } from 'invoke-kv';
import { kill, leader, open, projectName, restart, seeds, SLOW } from './lib/store.mjs';

const tls = { ca: process.env.IKV_CA };

test('all operations, also through the death of the leader', async () => {
  const store = await open({ tls, timeout: 20000 });
  const kv = store.project(projectName());
  await kv.set('key', { a: 'ü'.repeat(100000) });
  assert.deepEqual(await kv.get('key'), { a: 'ü'.repeat(100000) });
  const watch = kv.watch('n');
  await watch.next();
  const chief = await leader();
  const increments = Array.from({ length: 500 }, () => kv.incr('n'));
  kill(chief);
  await Promise.all(increments);
  assert.equal(await kv.get('n'), 500);
  let event;
  do { // the watch may first say that it goes on at another node
    event = (await watch.next()).value;
  } while (event.key === undefined);
  assert.equal(event.key, 'n');
  watch.close();
  await restart(chief);
});

test('without TLS, and with another authority', async () => {
  const timeout = 1000 * SLOW;
  await assert.rejects(connect({ nodes: seeds(), timeout }), { name: 'KvError' });
  await assert.rejects(connect({ nodes: seeds(), tls: true, timeout }), { name: 'KvError', code: 'TLS' });
});
