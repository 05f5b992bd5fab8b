// What callers hand in. Each function returns what is to be sent, or throws a TypeError (wrong kind)
// or RangeError (right kind, impossible value).
'use strict';

const TTL_MAX = 2 ** 52; // milliseconds; the servers add it to their clock
const TIMEOUT_MAX = 86400000;
const KEYS_MAX = 32000;

function describe(value) {
  if (value === null || value === undefined || typeof value === 'number' || typeof value === 'boolean') {
    return String(value);
  }
  return Array.isArray(value) ? 'an array' : `a value of type ${typeof value}`;
}

function key(value) {
  if (typeof value !== 'string') {
    throw new TypeError(`a key must be a string, not ${describe(value)}`);
  }
  if (value.length === 0) {
    throw new TypeError('a key must not be empty');
  }
  if (!value.isWellFormed()) {
    throw new TypeError('a key must be well-formed text: it has half of a surrogate pair');
  }
  return value;
}

function prefix(value) {
  if (value === undefined || value === null || value === '') {
    return '';
  }
  if (typeof value !== 'string' || !value.isWellFormed()) {
    throw new TypeError(`a prefix must be a well-formed string, not ${describe(value)}`);
  }
  return value;
}

function keys(values) {
  if (!Array.isArray(values)) {
    throw new TypeError(`keys must be an array, not ${describe(values)}`);
  }
  if (values.length > KEYS_MAX) {
    throw new RangeError(`${values.length} keys are more than ${KEYS_MAX} in one call`);
  }
  values.forEach(key);
  return values;
}

// JSON text of a value.
function json(value) {
  if (typeof value === 'number' && !Number.isFinite(value)) {
    throw new TypeError(`${value} is not a JSON value`);
  }
  let text;
  try {
    text = JSON.stringify(value);
  } catch (error) {
    // Cycles and BigInt are TypeErrors already; what a toJSON() throws is the caller's own.
    if (error instanceof RangeError) {
      throw new TypeError(`the value is nested too deeply, or longer than a string can be`, { cause: error });
    }
    throw error;
  }
  if (text === undefined) {
    throw new TypeError(`${describe(value)} is not a JSON value`);
  }
  return text;
}

function text(value) {
  if (typeof value !== 'string' || !value.isWellFormed()) {
    throw new TypeError(`a text must be a well-formed string, not ${describe(value)}`);
  }
  return value;
}

// Whole milliseconds, 0 for no expiry. Fractions are rounded up: nothing expires early.
function ttl(value) {
  if (value === undefined || value === null || value === 0) {
    return 0;
  }
  if (typeof value !== 'number') {
    throw new TypeError(`a ttl must be a number of milliseconds, not ${describe(value)}`);
  }
  if (!(value > 0) || value > TTL_MAX) {
    throw new RangeError(`a ttl must be more than 0 and at most 2^52 milliseconds, not ${value}`);
  }
  return Math.ceil(value);
}

// 0 stands for the default of the store.
function timeout(value) {
  if (value === undefined || value === null) {
    return 0;
  }
  if (typeof value !== 'number') {
    throw new TypeError(`a timeout must be a number of milliseconds, not ${describe(value)}`);
  }
  if (!(value > 0) || value > TIMEOUT_MAX) {
    throw new RangeError(`a timeout must be more than 0 and at most ${TIMEOUT_MAX} milliseconds, not ${value}`);
  }
  return Math.ceil(value);
}

function integer(value, name) {
  if (typeof value !== 'number') {
    throw new TypeError(`${name} must be a number, not ${describe(value)}`);
  }
  if (!Number.isSafeInteger(value)) {
    throw new RangeError(`${name} must be a safe integer, not ${value}`);
  }
  return value;
}

function version(value) {
  if (integer(value, 'a version') < 0) {
    throw new RangeError(`a version is at least 0, not ${value}`);
  }
  return value;
}

function signal(value) {
  if (value === undefined || value === null) {
    return undefined;
  }
  if (typeof value.addEventListener !== 'function' || typeof value.aborted !== 'boolean') {
    throw new TypeError('signal must be an AbortSignal');
  }
  value.throwIfAborted();
  return value;
}

module.exports = { describe, integer, json, key, keys, KEYS_MAX, prefix, signal, text, timeout, ttl, version };
