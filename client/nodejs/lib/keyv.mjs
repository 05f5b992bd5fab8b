import keyv from './keyv.js';

export const { createKeyv, KeyvInvoke } = keyv;
export default KeyvInvoke;
