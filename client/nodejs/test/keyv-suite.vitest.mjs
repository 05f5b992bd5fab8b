// The suite that Keyv publishes for storage adapters, in full, with namespaces as prefixes and as
// projects.
import keyvTestSuite, { keyvIteratorTests } from '@keyv/test-suite';
import { connect } from 'invoke-kv';
import { KeyvInvoke } from 'invoke-kv/keyv';
import Keyv from 'keyv';
import { afterAll, describe } from 'vitest';
import * as vitest from 'vitest';
import fs from 'node:fs';

const nodes = JSON.parse(fs.readFileSync(process.env.IKV_CLUSTER, 'utf8'));
const store = await connect({ nodes: nodes.map(({ port }) => `127.0.0.1:${port}`) });
afterAll(() => store.close());

for (const namespaces of ['prefixes', 'projects']) {
  describe(namespaces, () => {
    const adapter = () => new KeyvInvoke({ store, namespaces, project: 'keyv-suite' });
    keyvTestSuite(vitest, Keyv, adapter);
    keyvIteratorTests(vitest, Keyv, adapter);
  });
}
