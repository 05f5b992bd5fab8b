// The patterns of the contract, as functions in the worker example, over HTTP against a cluster: first
// at rest, then while leaders are killed.
import assert from 'node:assert/strict';
import http from 'node:http';
import { createRequire } from 'node:module';
import path from 'node:path';
import { after, before, test } from 'node:test';
import { kill, leader, open, projectName, restart, sleep, SLOW, until } from './lib/store.mjs';

const require = createRequire(import.meta.url);
const { Host } = require('../examples/worker/host.js');
const FUNCTIONS = path.join(import.meta.dirname, '../examples/worker/functions');

const store = await open({ timeout: 20000 });
const host = new Host(store, FUNCTIONS);
let origin;
let upstream; // the API whose answers the cache function keeps
let asked = 0;

before(async () => {
  origin = `http://127.0.0.1:${await host.listen(0)}`;
  upstream = http.createServer((request, response) => {
    asked += 1;
    response.end(JSON.stringify({ id: request.url.split('/').pop(), name: 'Bob' }));
  });
  await new Promise((resolve) => upstream.listen(0, '127.0.0.1', resolve));
});

after(async () => {
  upstream.closeAllConnections();
  upstream.close();
  await host.close();
});

async function call(project, target, { method = 'GET', body, headers = {} } = {}) {
  const response = await fetch(`${origin}/${project}/${target}`, {
    method,
    headers: body === undefined ? headers : { 'content-type': 'application/json', ...headers },
    body: body === undefined ? undefined : JSON.stringify(body),
  });
  return { status: response.status, headers: response.headers, data: await response.json() };
}

async function expectOk(...parameters) {
  const answer = await call(...parameters);
  assert.equal(answer.status, 200, JSON.stringify(answer.data));
  return answer.data;
}

// Each pattern, with names of its own, so that it can run many times in one project.
const patterns = {
  async basics(project) {
    // Its key is fixed: rounds that run at once would meet in it.
    assert.deepEqual(await expectOk(project, 'basics'), { name: 'Alice', exists: true, deleted: true, again: false });
    assert.equal((await call(project, 'basics/errors')).status, 500);
  },
  async counter(project) {
    const { count } = await expectOk(project, 'counter');
    assert.equal((await expectOk(project, 'counter')).count, count + 1);
    const first = await expectOk(project, 'counter/versioned');
    assert.deepEqual(await expectOk(project, 'counter/versioned'), { value: first.value + 1, version: first.version + 1 });
    const exact = await expectOk(project, 'counter/exact');
    assert.equal((await expectOk(project, 'counter/exact')).count, exact.count + 1);
  },
  async sessions(project, id) {
    const { sessionId } = await expectOk(project, 'session', { method: 'POST', body: { userId: id } });
    assert.deepEqual(await expectOk(project, `session?sessionId=${sessionId}`), { userId: id });
    assert.equal((await call(project, 'session?sessionId=none')).status, 401);
  },
  async cache(project, id) {
    const from = encodeURIComponent(`http://127.0.0.1:${upstream.address().port}`);
    const miss = await expectOk(project, `cache?id=${id}&from=${from}`);
    assert.deepEqual(miss, { user: { id, name: 'Bob' }, cached: false });
    assert.deepEqual(await expectOk(project, `cache?id=${id}&from=${from}`), { ...miss, cached: true });
  },
  async 'rate limit'(project, id) {
    const headers = { 'x-client-id': id };
    for (let i = 1; i <= 5; i++) {
      const answer = await call(project, 'ratelimit', { headers });
      assert.equal(answer.data.requestCount, i);
      assert.equal(answer.headers.get('x-ratelimit-remaining'), String(100 - i));
    }
  },
  async 'feature flags'(project, id) {
    assert.equal((await expectOk(project, `feature?feature=${id}`)).ui, 'old');
    for (const [enabled, ui] of [[true, 'new'], [false, 'old']]) {
      await expectOk(project, 'feature/admin', { method: 'POST', body: { feature: id, enabled } });
      assert.equal((await expectOk(project, `feature?feature=${id}`)).ui, ui);
    }
  },
  async preferences(project, id) {
    const target = `prefs?userId=${id}`;
    assert.equal((await expectOk(project, target)).preferences.theme, 'light');
    await expectOk(project, target, { method: 'POST', body: { theme: 'dark' } });
    await expectOk(project, target, { method: 'POST', body: { language: 'de' } });
    assert.deepEqual(await expectOk(project, target), { preferences: { theme: 'dark', language: 'de' } });
  },
  async 'share links'(project, id) {
    const { shareId, url } = await expectOk(project, 'share', { method: 'POST', body: { text: id } });
    assert.ok(url.endsWith(`/${project}/share?id=${shareId}`));
    assert.deepEqual(await (await fetch(url)).json(), { data: { text: id } });
    const brief = await expectOk(project, 'share?ttl=60', { method: 'POST', body: { text: id } });
    await until(async () => (await call(project, `share?id=${brief.shareId}`)).status === 404, 'the link to expire');
  },
  async leaderboard(project) {
    for (const score of [30, 10, 20]) {
      await expectOk(project, 'leaderboard', { method: 'POST', body: { player: `p${score}`, score } });
    }
    const { leaderboard } = await expectOk(project, 'leaderboard');
    assert.ok(leaderboard.length >= 3 && leaderboard.length <= 10);
    const scores = leaderboard.map(({ score }) => score);
    assert.deepEqual(scores, scores.toSorted((a, b) => b - a));
  },
  async cart(project, id) {
    const target = `cart?userId=${id}`;
    await expectOk(project, target, { method: 'POST', body: { productId: 'a', quantity: 2, price: 5 } });
    await expectOk(project, target, { method: 'POST', body: { productId: 'b', quantity: 1, price: 7 } });
    const { cart } = await expectOk(project, target);
    assert.equal(cart.total, 17);
    assert.deepEqual(cart.items.map(({ productId }) => productId), ['a', 'b']);
    await expectOk(project, target, { method: 'DELETE' });
    assert.deepEqual(await expectOk(project, target), { cart: { items: [], total: 0 } });
  },
  async 'compressed values'(project, id) {
    const data = Array.from({ length: 5000 }, (_, i) => ({ id: i, text: `entry ${id} ${i}` }));
    const { bytes } = await expectOk(project, `compressed?id=${id}`, { method: 'POST', body: data });
    assert.ok(bytes < JSON.stringify(data).length / 2);
    assert.deepEqual((await expectOk(project, `compressed?id=${id}`)).data, data);
  },
};

for (const [name, run] of Object.entries(patterns)) {
  test(`pattern: ${name}`, async () => {
    await run(projectName(), 'one');
  });
}

test('rate limit: the hundred and first request is refused', async () => {
  const project = projectName();
  const answers = [];
  for (let i = 0; i < 101; i++) {
    answers.push((await call(project, 'ratelimit')).status);
  }
  assert.deepEqual(answers, [...Array(100).fill(200), 429]);
});

test('clear empties this project only', async () => {
  const [one, two] = [projectName(), projectName()];
  const sessions = await Promise.all(
    [one, two].map((project) => expectOk(project, 'session', { method: 'POST', body: { userId: 'u' } })),
  );
  assert.deepEqual(await expectOk(one, 'basics/clear', { method: 'POST' }), {
    message: 'All keys cleared',
    undefined: true,
  });
  const check = (project, { sessionId }) => call(project, `session?sessionId=${sessionId}`);
  assert.equal((await check(one, sessions[0])).status, 401);
  assert.equal((await check(two, sessions[1])).status, 200);
});

test('bad requests to the host', async () => {
  assert.equal((await call('p', 'nothing')).status, 404);
  assert.equal((await call('p', '..%2Fhost')).status, 404);
  assert.equal((await call('p', 'counter/none')).status, 404);
  const response = await fetch(`${origin}/p/prefs`, {
    method: 'POST', headers: { 'content-type': 'application/json' }, body: '{',
  });
  assert.equal(response.status, 400);
  await response.text();
});

test('every pattern while leaders are killed: no request fails, no session is lost', async (t) => {
  const project = projectName();
  const sessions = [];
  let rounds = 0;
  let longest = 0;
  let running = true;

  // Each runs all patterns in a project of its own, over and over; one makes sessions.
  async function client(number) {
    for (let round = 0; running; round++) {
      for (const run of Object.values(patterns)) {
        const started = performance.now();
        await run(`${project}-${number}`, `r${round}`);
        longest = Math.max(longest, performance.now() - started);
      }
      rounds += 1;
    }
  }
  async function login() {
    while (running) {
      const userId = `u${sessions.length}`;
      const { sessionId } = await expectOk(project, 'session', { method: 'POST', body: { userId } });
      sessions.push({ userId, sessionId });
      await sleep(5);
    }
  }
  const load = Promise.all([client(1), client(2), client(3), client(4), login()]);
  load.catch(() => {}); // told below

  async function killLeaders() {
    for (let i = 0; i < 3; i++) {
      await sleep(700 * SLOW);
      const chief = await leader();
      kill(chief);
      await sleep(500);
      await restart(chief);
    }
    await sleep(500);
    running = false;
  }
  await Promise.all([load, killLeaders()]);
  for (const { userId, sessionId } of sessions) {
    assert.deepEqual(await expectOk(project, `session?sessionId=${sessionId}`), { userId });
  }
  assert.ok(rounds >= 4 && sessions.length > 20);
  t.diagnostic(`said: ${rounds} rounds of all patterns, ${sessions.length} sessions, longest pattern ${Math.round(longest)} ms`);
});
