import invokeKv from './index.js';

export const { connect, KvError, version } = invokeKv;
export default invokeKv;
