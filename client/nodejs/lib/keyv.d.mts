export * from './keyv.js';
export { KeyvInvoke as default } from './keyv.js';
