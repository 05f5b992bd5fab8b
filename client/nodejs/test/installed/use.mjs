import { connect } from 'invoke-kv';
import { KeyvInvoke } from 'invoke-kv/keyv';

const adapter = new KeyvInvoke({ connection: { nodes: process.argv[2] }, project: 'esm' });
await adapter.set('key', 'value');
const store = await connect(process.argv[2]);
if ((await store.project('esm').getText('key')) === 'value') {
  console.log('fine');
}
await adapter.disconnect();
await store.close();
