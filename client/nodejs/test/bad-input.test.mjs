// Servers that are not there or misbehave, and what callers may do wrong: each a typed error within the
// deadline, and nothing left behind.
import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import crypto from 'node:crypto';
import fs from 'node:fs';
import os from 'node:os';
import path from 'node:path';
import { after, test } from 'node:test';
import tls from 'node:tls';
import { connect, KvError } from 'invoke-kv';
import { fakeNode, listen } from './lib/fake.mjs';
import { counts, nodes, open, projectName, seeds, sleep, SLOW, until } from './lib/store.mjs';

const DEADLINE_MS = 500;

// The promise fails with one of the codes, not long after the deadline.
async function fails(codes, promise, deadlineMs = DEADLINE_MS) {
  const started = performance.now();
  const error = await promise.then(
    (value) => assert.fail(`it gave ${value}`),
    (reason) => reason,
  );
  const elapsed = performance.now() - started;
  assert.ok(error instanceof KvError, `${error}`);
  assert.ok(codes.includes(error.code), `${error.code}: ${error.message}`);
  assert.ok(error.message.length > 0);
  assert.ok(elapsed < deadlineMs + 2000 * SLOW, `it took ${elapsed} ms`);
  return error;
}

const nothingOpen = () => assert.deepEqual(counts().stores, 0);

test('nobody listens', async () => {
  const error = await fails(['UNREACHABLE'], connect({ nodes: ['127.0.0.1:1', '127.0.0.1:2'], timeout: DEADLINE_MS }));
  assert.equal(error.retryable, true);
  nothingOpen();
});

test('a name that nobody knows', async () => {
  await fails(['UNREACHABLE'], connect({ nodes: ['no-such-host.invalid'], timeout: DEADLINE_MS }));
  nothingOpen();
});

test('one seed of three is enough', async () => {
  const store = await connect({ nodes: ['127.0.0.1:1', seeds()[0], '127.0.0.1:2'] });
  const kv = store.project(projectName());
  await kv.set('key', 1);
  assert.equal(await kv.get('key'), 1);
  await store.close();
});

test('bad options', async () => {
  for (const bad of [undefined, null, {}, { nodes: [] }, { nodes: [''] }, { nodes: [1] }, { nodes: 5 }]) {
    await assert.rejects(connect(bad), TypeError);
  }
  for (const extra of [{ wrong: 1 }, { timeout: 'x' }, { user: 1 }, { tls: { wrong: 1 } }]) {
    await assert.rejects(connect({ nodes: seeds(), ...extra }), TypeError);
  }
  for (const extra of [{ timeout: 0 }, { timeout: -5 }, { maxBytes: 1 }, { user: 'nobody', secret: 'x' }, { user: 'admin', secret: 'x\0y' },
    { user: 'admin', secret: 'x'.repeat(5000) }]) {
    await assert.rejects(connect({ nodes: seeds(), ...extra }), { name: 'KvError', code: 'INVALID' });
  }
  await assert.rejects(connect({ nodes: ['127.0.0.1:99999'] }), { code: 'INVALID' });
  await assert.rejects(connect({ nodes: [`x${'y'.repeat(20000)}`] }), { code: 'INVALID' });
  nothingOpen();
});

test('a server that says nothing', async () => {
  const fake = await listen((socket) => socket.resume());
  await fails(['TIMEOUT', 'UNREACHABLE'], connect({ nodes: fake.address, timeout: DEADLINE_MS }));
  await until(() => fake.connections() === 0, 'the connections to be closed');
  nothingOpen();
});

test('servers that speak garbage', async () => {
  const garbage = [
    'HTTP/1.1 400 Bad Request\r\n\r\n', '\0\0\0\0', '*-5\r\n', '$99999999999\r\n', ':x\r\n', '!!\r\n',
    crypto.randomBytes(2000), '*1000000000\r\n',
  ];
  for (const bytes of garbage) {
    const fake = await listen((socket) => socket.on('data', () => socket.write(bytes)));
    await fails(['PROTOCOL', 'UNREACHABLE', 'TIMEOUT'], connect({ nodes: fake.address, timeout: DEADLINE_MS }));
    fake.end();
  }
  nothingOpen();
});

test('a server that closes every connection', async () => {
  const fake = await listen((socket) => socket.end());
  await fails(['UNREACHABLE', 'PROTOCOL', 'TIMEOUT'], connect({ nodes: fake.address, timeout: DEADLINE_MS }));
  nothingOpen();
});

test('a server that stalls in the middle of a reply', async () => {
  const stalled = new Set();
  const fake = await fakeNode(([name], socket) => {
    const first = name === 'GET' && !stalled.has(socket);
    stalled.add(socket);
    return first ? '$100\r\nhalf' : undefined;
  });
  const store = await connect({ nodes: fake.address, timeout: DEADLINE_MS });
  const kv = store.project('p');
  await fails(['TIMEOUT'], kv.get('key'));
  const reads = await Promise.allSettled(Array.from({ length: 100 }, () => kv.get('key')));
  const codes = new Set(reads.map(({ reason }) => reason?.code));
  assert.deepEqual([...codes], ['TIMEOUT']);
  const error = await fails(['UNKNOWN_OUTCOME'], kv.set('key', 1));
  assert.equal(error.outcome, 'unknown');
  assert.equal(error.retryable, false);
  // A call's own deadline comes first.
  const started = performance.now();
  await fails(['TIMEOUT'], kv.get('key', { timeout: 50 }), 50);
  assert.ok(performance.now() - started < DEADLINE_MS * SLOW);
  await store.close();
  nothingOpen();
});

test('replies of the wrong type', async () => {
  const fake = await fakeNode(() => '*2\r\n:1\r\n*1\r\n$-1\r\n');
  const store = await connect({ nodes: fake.address, timeout: DEADLINE_MS });
  const kv = store.project('p');
  const calls = [
    kv.get('a'), kv.has('a'), kv.delete('a'), kv.getMany(['a', 'b']), kv.incr('a'), kv.usage(), kv.getVersioned('a'),
    kv.ttl('a'), kv.list('').next(), kv.set('a', 1), kv.clear(), kv.deleteMany(['a']),
  ];
  for (const result of await Promise.allSettled(calls)) {
    if (result.status === 'rejected') {
      assert.ok(result.reason instanceof KvError, `${result.reason?.stack}`);
    }
  }
  await store.close();
});

test('errors of the server', async () => {
  const fake = await fakeNode(([name]) => (name === 'GET' ? '-QUOTA of the fake\r\n' : '-ERR nonsense\r\n'));
  const store = await connect({ nodes: fake.address, timeout: DEADLINE_MS });
  const error = await fails(['QUOTA'], store.project('p').get('key'));
  assert.match(error.message, /of the fake/);
  await fails(['REFUSED'], store.project('p').has('key'));
  await store.close();
});

test('values that are too large', async () => {
  const store = await open();
  const kv = store.project(projectName());
  await kv.set('key', 'small');
  const error = await fails(['TOO_BIG'], kv.set('key', 'x'.repeat(17 << 20)), 20000);
  assert.equal(error.outcome, 'not-done');
  await fails(['TOO_BIG'], kv.set('key', 'x'.repeat(70 << 20)), 20000);
  await fails(['TOO_BIG'], kv.setMany({ a: 'x'.repeat(40 << 20), b: 'x'.repeat(40 << 20) }), 20000);
  assert.equal(await kv.get('key'), 'small');
  await kv.set('key', 'y'.repeat(15 << 20));
  assert.equal((await kv.get('key')).length, 15 << 20);
  await store.close();
});

test('more requests than the bound', async () => {
  const store = await open({ maxRequests: 50 });
  const kv = store.project(projectName());
  const results = await Promise.allSettled(Array.from({ length: 5000 }, (_, i) => kv.set(`k${i}`, 'v')));
  const refused = results.filter(({ status }) => status === 'rejected');
  assert.ok(refused.length > 0 && refused.length < 5000);
  assert.ok(refused.every(({ reason }) => reason.code === 'BUSY' && reason.retryable && reason.outcome === 'not-done'));
  assert.equal((await kv.usage()).keys, 5000 - refused.length);
  await store.close();
});

test('closing with requests under way', async () => {
  for (let round = 0; round < 20; round++) {
    const store = await open();
    const kv = store.project(projectName());
    const calls = Array.from({ length: 300 }, (_, i) => (i % 3 === 0 ? kv.set(`k${i}`, i) : kv.get(`k${i}`)));
    const watch = kv.watch('');
    const event = watch.next().then(() => watch.next()).catch((error) => error);
    if (round % 2 === 0) {
      await sleep(round);
    }
    const started = performance.now();
    const closing = store.close();
    calls.push(kv.get('late'));
    const results = await Promise.allSettled(calls);
    await closing;
    assert.ok(performance.now() - started < 2000 * SLOW);
    for (const { status, reason } of results) {
      assert.ok(status === 'fulfilled' || ['CLOSED', 'UNKNOWN_OUTCOME'].includes(reason.code), `${reason}`);
    }
    assert.equal(results.at(-1).reason.code, 'CLOSED');
    await event;
  }
  nothingOpen();
});

test('aborting requests that hang', async () => {
  const fake = await fakeNode(() => undefined);
  const store = await connect({ nodes: fake.address, timeout: 5000 });
  const kv = store.project('p');
  const started = performance.now();
  const signal = AbortSignal.timeout(50);
  await assert.rejects(kv.get('key', { signal }), { name: 'TimeoutError' });
  await assert.rejects(kv.list('', { signal: AbortSignal.timeout(50) }).next(), { name: 'TimeoutError' });
  assert.ok(performance.now() - started < 2000 * SLOW);
  await store.close();
  nothingOpen();
});

// --- TLS ---------------------------------------------------------------------------------------------

const folder = fs.mkdtempSync(path.join(os.tmpdir(), 'ikv-tls-'));
after(() => fs.rmSync(folder, { recursive: true, force: true }));

function certificate(name) {
  const [cert, key] = ['crt', 'key'].map((end) => path.join(folder, `${name}.${end}`));
  execFileSync('openssl', [
    'req', '-x509', '-newkey', 'ec', '-pkeyopt', 'ec_paramgen_curve:P-256', '-nodes', '-days', '1', '-subj', `/CN=${name}`,
    '-addext', 'subjectAltName=IP:127.0.0.1', '-keyout', key, '-out', cert,
  ], { stdio: 'ignore', env: { ...process.env, LD_PRELOAD: '' } });
  return { cert, key };
}

test('TLS, and what does not fit', async () => {
  const [own, foreign] = [certificate('own'), certificate('foreign')];
  const create = (connection) =>
    tls.createServer({ cert: fs.readFileSync(own.cert), key: fs.readFileSync(own.key) }, connection);
  const secure = await fakeNode((words) => (words[0] === 'GET' ? '$4\r\n"v!"\r\n' : undefined), create);

  const store = await connect({ nodes: [secure.address], tls: { ca: own.cert }, timeout: 5000 });
  assert.equal(await store.project('p').get('key'), 'v!');
  await store.close();
  // Unknown authority, that of the system, another name, no TLS here, no TLS there, no such file.
  const timeout = DEADLINE_MS * SLOW;
  await fails(['TLS'], connect({ nodes: [secure.address], tls: { ca: foreign.cert }, timeout }), timeout);
  await fails(['TLS'], connect({ nodes: [secure.address], tls: true, timeout }), timeout);
  await fails(['TLS'], connect({ nodes: [secure.address], tls: { ca: own.cert, servername: 'other' }, timeout }), timeout);
  await fails(['TLS', 'UNREACHABLE'], connect({ nodes: [`rediss://${seeds()[0]}`], timeout }), timeout);
  await fails(['PROTOCOL', 'UNREACHABLE', 'TIMEOUT'], connect({ nodes: [secure.address], timeout }), timeout);
  await fails(['TLS'], connect({ nodes: [secure.address], tls: { ca: '/nowhere' }, timeout }), timeout);
  nothingOpen();
});

test('nothing is left: descriptors and memory', async () => {
  const descriptors = () => fs.readdirSync('/proc/self/fd').length;
  const round = async () => {
    await fails(['UNREACHABLE'], connect({ nodes: '127.0.0.1:1', timeout: 50 }));
    const store = await connect({ nodes: seeds() });
    await store.project('p').get('key');
    await store.close();
  };
  await round();
  const before = descriptors();
  for (let i = 0; i < 30; i++) {
    await round();
  }
  await until(() => descriptors() <= before + 2, 'descriptors to be closed');
  assert.ok(nodes().length > 0);
  nothingOpen();
});
