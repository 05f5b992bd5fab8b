// The addon, and the numbers that both sides agree on (src/store.h, src/queue.h, invoke_kv.h).
'use strict';

const path = require('node:path');

// IKV_ADDON names another build of it, such as the one with sanitizers.
function load() {
  const file = process.env.IKV_ADDON || path.join(__dirname, '../build/invoke_kv.node');
  try {
    return require(path.resolve(file));
  } catch (error) {
    error.message = `invoke-kv: the addon cannot be loaded; was it built (npm run build)? ${error.message}`;
    throw error;
  }
}

module.exports = {
  addon: load(),

  META_FIELDS: 4,
  META_RECORDS: 1024,
  FIELDS: 8,

  Op: Object.freeze({
    GET: 1,
    SET: 2,
    HAS: 3,
    DELETE: 4,
    CLEAR: 5,
    GET_MANY: 6,
    SET_MANY: 7,
    DELETE_MANY: 8,
    INCREMENT: 9,
    CAS: 10,
    CAS_DELETE: 11,
    GET_VERSION: 12,
    TTL: 13,
    LIST: 14,
    USAGE: 15,
    COMMAND: 16,
    NODE_COMMAND: 17,
    TRANSACTION: 18,
  }),

  Kind: Object.freeze({ NIL: 0, TEXT: 1, STATUS: 2, INTEGER: 3, REPLY: 4, ERROR: 5, EVENT: 6 }),

  EventType: Object.freeze({ READY: 1, CHANGE: 2, PROGRESS: 3, GAP: 4, END: 5 }),

  SetFlag: Object.freeze({ IF_MISSING: 1, IF_EXISTS: 2, KEEP_TTL: 16 }),

  Option: Object.freeze({
    timeout: 1,
    connectTimeout: 2,
    probeInterval: 3,
    stallTimeout: 4,
    topologyInterval: 5,
    maxRequests: 6,
    maxBytes: 7,
    exactlyOnce: 8,
    maxReply: 9,
    user: 32,
    secret: 33,
    ca: 34,
    servername: 35,
    cert: 36,
    key: 37,
  }),
};
