'use strict';

const { addon } = require('./native.js');

// enum ikv_error: [code, whether the same call may succeed later]
const CODES = new Map([
  [1, ['INVALID', false]],
  [2, ['NO_MEMORY', true]],
  [3, ['BUSY', true]],
  [4, ['CLOSED', false]],
  [5, ['DEADLOCK', false]],
  [6, ['FORKED', false]],
  [10, ['TIMEOUT', true]],
  [11, ['UNREACHABLE', true]],
  [12, ['TLS', false]],
  [13, ['PROTOCOL', false]],
  [14, ['NO_LEADER', true]],
  [20, ['AUTH', false]],
  [21, ['PERMISSION', false]],
  [22, ['QUOTA', false]],
  [23, ['TOO_BIG', false]],
  [24, ['NO_SPACE', true]],
  [25, ['STALE', true]],
  [26, ['REFUSED', false]],
  [40, ['UNKNOWN_OUTCOME', false]],
]);

// What went wrong with a request. `code` is one of the words above, or NOT_JSON; `retryable` tells
// whether the same call may succeed later and cannot be carried out twice; `outcome` is 'unknown' when
// a write may have been carried out, else 'not-done'.
class KvError extends Error {
  constructor(code, message, retryable = false) {
    super(message);
    this.code = code;
    this.retryable = retryable;
    this.outcome = code === 'UNKNOWN_OUTCOME' ? 'unknown' : 'not-done';
  }
}
Object.defineProperty(KvError.prototype, 'name', { value: 'KvError', configurable: true, writable: true });

function errorOf(number, message) {
  const [code, retryable] = CODES.get(number) ?? ['REFUSED', false];
  return new KvError(code, message || addon.describeError(number), retryable);
}

module.exports = { KvError, errorOf };
