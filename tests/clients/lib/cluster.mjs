// The cluster that tests/integration/test_npm_clients.py runs for these tests: its nodes, and what
// tests do to them. IKV_CLUSTER names a file with [{id, port, pid}, ...]; a file `restart-ID` beside
// it asks for a node to be started again. Where clients have to use TLS, IKV_CA names the file with
// the authority.
import fs from 'node:fs';
import net from 'node:net';
import path from 'node:path';
import tls from 'node:tls';
import { after } from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';

const FILE = process.env.IKV_CLUSTER;
if (!FILE) {
  throw new Error('run these tests with tests/integration/run.py npm_clients');
}

export { sleep };

// A client that a failed test left open would keep the process from ending.
after(() => setTimeout(() => process.exit(), 2000).unref());

export function nodes() {
  return JSON.parse(fs.readFileSync(FILE, 'utf8'));
}

export const ca = process.env.IKV_CA && fs.readFileSync(process.env.IKV_CA);

export function addresses() {
  return nodes().map(({ port }) => ({ host: '127.0.0.1', port }));
}

// Waits until `condition` gives something true, and returns that.
export async function until(condition, what, timeoutMs = 30000) {
  const deadline = Date.now() + timeoutMs;
  for (;;) {
    const value = await condition();
    if (value) {
      return value;
    }
    if (Date.now() > deadline) {
      throw new Error(`waited ${timeoutMs} ms in vain for ${what}`);
    }
    await sleep(20);
  }
}

const DONE = '$4\r\ndone\r\n';

// Answer to one inline command, as text, over a connection of its own; null when there is none.
function ask(port, command) {
  return new Promise((resolve) => {
    const target = { port, host: '127.0.0.1', ca };
    const socket = ca ? tls.connect(target) : net.connect(target);
    let text = '';
    socket.setTimeout(5000, () => socket.destroy());
    socket.on('error', () => {});
    socket.on('close', () => resolve(text.endsWith(DONE) ? text : null));
    socket.on('data', (data) => {
      text += data;
      if (text.endsWith(DONE)) {
        socket.destroy();
      }
    });
    const login = process.env.IKV_ADMIN ? `AUTH admin ${process.env.IKV_ADMIN}\r\n` : '';
    socket.write(`${login}${command}\r\nECHO done\r\n`);
  });
}

// Who leads the shards in the eyes of one node: ids, in order of the shards; null: no answer.
async function leadersBy(node) {
  const text = await ask(node.port, 'INFO shards');
  return text && [...text.matchAll(/^shard\d+:role=\w+,leader=(\d+)/gm)].map((m) => Number(m[1]));
}

// Until every shard has a leader that all nodes agree on. The tests' clusters have one shard.
export async function leader() {
  return until(async () => {
    const views = await Promise.all(nodes().map(leadersBy));
    const known = views.filter((view) => view && view.length > 0);
    const id = known[0]?.[0];
    const agreed = known.length === nodes().length && known.every((view) => view[0] === id);
    return agreed && nodes().find((node) => node.id === id);
  }, 'all nodes to agree on a leader');
}

export function kill(node) {
  process.kill(nodes().find(({ id }) => id === node.id).pid, 'SIGKILL');
}

export async function restart(node) {
  fs.writeFileSync(path.join(path.dirname(FILE), `restart-${node.id}`), '');
  await leader(); // all nodes have a say in it
}

// Tells the longest time between two calls of tick().
export function pauses() {
  let last = performance.now();
  let longest = 0;
  return {
    tick() {
      const now = performance.now();
      longest = Math.max(longest, now - last);
      last = now;
    },
    report: (context) => context.diagnostic(`longest pause ${Math.round(longest)} ms`),
  };
}

// Keys of a test never meet those of another one.
let prefixes = 0;
export function prefix() {
  prefixes += 1;
  return `t${process.pid}-${prefixes}`;
}
