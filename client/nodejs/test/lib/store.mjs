// Stores of these tests: closed at the end, and nothing of them left behind.
import assert from 'node:assert/strict';
import { createRequire } from 'node:module';
import { after } from 'node:test';
import { connect } from 'invoke-kv';
import { addresses } from '../../../../tests/clients/lib/cluster.mjs';

export * from '../../../../tests/clients/lib/cluster.mjs';

const { addon } = createRequire(import.meta.url)('../../lib/native.js');

// Sanitizers make everything slower.
export const SLOW = process.env.IKV_SLOW ? 4 : 1;

export const seeds = () => addresses().map(({ host, port }) => `${host}:${port}`);

const opened = new Set();

export async function open(options = {}) {
  const store = await connect({ nodes: seeds(), ...options });
  opened.add(store);
  return store;
}

// Stores, projects and watches that are open in the addon.
export function counts() {
  const [stores, projects, watches] = addon.counts();
  return { stores, projects, watches };
}

let projects = 0;
export const projectName = () => `p${process.pid}-${(projects += 1)}`;

after(async () => {
  await Promise.all([...opened].map((store) => store.close()));
  assert.deepEqual(counts(), { stores: 0, projects: 0, watches: 0 });
});
