export * from './index.js';
import * as invokeKv from './index.js';
export default invokeKv;
