// Compiled, never run: what the types allow, and what they refuse.
import invokeKv, { connect, KvError, type Kv, type Watch } from 'invoke-kv';
import KeyvDefault, { createKeyv, KeyvInvoke } from 'invoke-kv/keyv';

declare global {
  var kv: Kv;
}

export async function use(): Promise<void> {
  const store = await connect({ nodes: ['127.0.0.1:7101'], timeout: 1000 });
  globalThis.kv = store.project('p', { token: 't', consistency: 'session' });
  const name: string | null = await kv.get<string>('name');
  const any = await kv.get('any');
  any.whatever;
  const stored: void = await kv.set('a', { b: 1 }, 1000);
  const created: boolean = await kv.set('a', 1, null, { ifMissing: true });
  const deleted: boolean = await kv.delete('a');
  for await (const key of kv.list('x', { limit: 5 })) {
    key.length;
  }
  const watch: Watch = kv.watch('x');
  for await (const event of watch) {
    if (event.type === 'change') {
      event.key.length;
    }
  }
  await kv.setMany([['a', 1, 1000]]);
  await kv.setMany({ a: 1 });
  // @ts-expect-error a key is a string
  await kv.get(1);
  // @ts-expect-error a ttl is a number
  await kv.set('a', 1, '1000');
  // @ts-expect-error there is no such level
  store.project('p', { consistency: 'strict' });
  const adapter = new KeyvInvoke({ store, namespaces: 'projects' });
  new KeyvDefault({ connection: { nodes: [] } });
  // @ts-expect-error either a store or a connection
  new KeyvInvoke({ namespaces: 'projects' });
  createKeyv({ store, namespace: 'p', ttl: 5 });
  try {
    await adapter.clear();
  } catch (error) {
    if (error instanceof KvError && error.code === 'QUOTA' && !error.retryable) {
      throw error;
    }
  }
  invokeKv.connect;
  void [name, stored, created, deleted];
}
