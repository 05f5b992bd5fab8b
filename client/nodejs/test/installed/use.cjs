const { connect } = require('invoke-kv');

async function main() {
  const store = await connect({ nodes: process.argv[2].split(',') });
  const kv = store.project('cjs');
  globalThis.kv = kv;
  await kv.set('key', { a: 1 });
  const value = await kv.get('key');
  if (value.a === 1) {
    console.log('fine');
  }
  // Without close(): a store without requests does not keep the process.
}
main();
