// A project's keys: what functions know as the global `kv`, and more.
'use strict';

const check = require('./check.js');
const { KvError } = require('./errors.js');
const { Op, SetFlag } = require('./native.js');
const { Watch } = require('./watch.js');

const PAGE = 1000; // keys that one step of list() asks for
const TRANSACTION_MAX = 10000;

// --- answers as results ------------------------------------------------------------------------

function toJson(text) {
  if (text === null) {
    return null;
  }
  try {
    return JSON.parse(text);
  } catch (error) {
    const wrong = new KvError('NOT_JSON', 'the value is not JSON: it was not written by kv.set()');
    wrong.cause = error;
    throw wrong;
  }
}
const toNothing = () => undefined;
const toBoolean = (integer) => integer === 1;
const toStored = (status) => status !== null;
const toSame = (value) => value;
const toValues = (texts) => texts.map(toJson);
const toVersioned = (pair) => (pair === null ? null : { value: toJson(pair[0]), version: pair[1] });

function toTtl(ms) {
  if (ms === -2) {
    return null;
  }
  return ms === -1 ? Infinity : ms;
}

function toUsage(pairs) {
  const map = new Map();
  for (let i = 0; i + 1 < pairs.length; i += 2) {
    map.set(pairs[i], pairs[i + 1]);
  }
  return {
    keys: map.get('keys'),
    usedBytes: map.get('used_bytes'),
    quotaBytes: map.get('quota_bytes'),
    shard: map.get('shard'),
    leader: map.get('leader'),
  };
}

function toExecuted(answers) {
  const failed = answers.find((answer) => answer !== null && typeof answer === 'object' && 'error' in answer);
  if (failed) {
    const [, word] = /^([A-Z]+) /.exec(failed.error) ?? [];
    const code = { QUOTA: 'QUOTA', TOOBIG: 'TOO_BIG' }[word] ?? 'REFUSED';
    throw new KvError(code, failed.error);
  }
}

// --- entries of setMany() ----------------------------------------------------------------------

function toEntries(entries, encode) {
  if (entries === null || typeof entries !== 'object') {
    throw new TypeError(`entries must be an object, a Map or an array, not ${check.describe(entries)}`);
  }
  const pairs =
    typeof entries[Symbol.iterator] === 'function' ? [...entries] : Object.entries(entries);
  return pairs.map((pair) => {
    if (!Array.isArray(pair)) {
      throw new TypeError('each entry must be an array of key, value and, if it expires, ttl');
    }
    const [key, value, ttl] = pair;
    return [check.key(key), encode(value), check.ttl(ttl)];
  });
}

class Kv {
  #batch;
  #project;
  #timeout;

  constructor(batch, project, name, timeout) {
    this.#batch = batch;
    this.#project = project;
    this.#timeout = timeout;
    Object.defineProperty(this, 'name', { value: name, enumerable: true });
  }

  // --- the contract ------------------------------------------------------------------------------

  get(key, options) {
    return new Promise((resolve, reject) => {
      check.key(key);
      if (options === undefined) {
        const batch = this.#batch;
        const size = batch.text(key);
        batch.add(Op.GET, this.#project, this.#timeout, size, 0, 0, 0, resolve, reject, toJson);
        return;
      }
      this.#request(Op.GET, key, '', 0, 0, options, resolve, reject, toJson);
    });
  }

  set(key, value, ttl, options) {
    return new Promise((resolve, reject) => {
      check.key(key);
      const text = check.json(value);
      const ttlMs = check.ttl(ttl);
      if (options === undefined) {
        const batch = this.#batch;
        const size = batch.text(key);
        const valueSize = batch.text(text);
        batch.add(Op.SET, this.#project, this.#timeout, size, valueSize, ttlMs, 0, resolve, reject, toNothing);
        return;
      }
      const { ifMissing = false, ifExists = false, keepTtl = false } = options ?? {};
      const flags =
        (ifMissing ? SetFlag.IF_MISSING : 0) |
        (ifExists ? SetFlag.IF_EXISTS : 0) |
        (keepTtl ? SetFlag.KEEP_TTL : 0);
      if ((ifMissing && ifExists) || (keepTtl && ttlMs > 0)) {
        throw new TypeError('ifMissing excludes ifExists, and keepTtl excludes a ttl');
      }
      const decode = ifMissing || ifExists ? toStored : toNothing;
      this.#request(Op.SET, key, text, ttlMs, flags, options, resolve, reject, decode);
    });
  }

  has(key, options) {
    return new Promise((resolve, reject) => {
      this.#request(Op.HAS, check.key(key), '', 0, 0, options, resolve, reject, toBoolean);
    });
  }

  delete(key, options) {
    return new Promise((resolve, reject) => {
      this.#request(Op.DELETE, check.key(key), '', 0, 0, options, resolve, reject, toBoolean);
    });
  }

  clear(options) {
    return new Promise((resolve, reject) => {
      this.#request(Op.CLEAR, '', '', 0, 0, options, resolve, reject, toNothing);
    });
  }

  // --- several keys in one step ------------------------------------------------------------------

  getMany(keys, options) {
    return this.#getMany(keys, options, toValues);
  }

  #getMany(keys, options, decode) {
    return new Promise((resolve, reject) => {
      check.keys(keys);
      if (keys.length === 0) {
        resolve([]);
        return;
      }
      const pieces = () => keys.forEach((key) => this.#batch.piece(key));
      this.#requestPieces(Op.GET_MANY, keys.length, pieces, options, resolve, reject, decode);
    });
  }

  setMany(entries, options) {
    return this.#setMany(entries, options, check.json);
  }

  #setMany(entries, options, encode) {
    return new Promise((resolve, reject) => {
      const all = toEntries(entries, encode);
      if (all.length === 0) {
        resolve();
        return;
      }
      if (all.some(([, , ttl]) => ttl > 0)) {
        this.#setManyExpiring(all, options, resolve, reject);
        return;
      }
      if (all.length > check.KEYS_MAX) {
        throw new RangeError(`${all.length} entries are more than ${check.KEYS_MAX} in one call`);
      }
      const pieces = () => {
        all.forEach(([key]) => this.#batch.piece(key));
        all.forEach(([, text]) => this.#batch.piece(text));
      };
      this.#requestPieces(Op.SET_MANY, all.length, pieces, options, resolve, reject, toNothing);
    });
  }

  // One command sets several keys, but none with a time to live: a transaction does.
  #setManyExpiring(all, options, resolve, reject) {
    if (all.length > TRANSACTION_MAX) {
      throw new RangeError(`${all.length} entries with a ttl are more than ${TRANSACTION_MAX} in one call`);
    }
    const pieces = () => {
      for (const [key, text, ttl] of all) {
        const words = ttl > 0 ? ['SET', key, text, 'PX', String(ttl)] : ['SET', key, text];
        this.#batch.number(words.length);
        words.forEach((word) => this.#batch.piece(word));
      }
    };
    this.#requestPieces(Op.TRANSACTION, all.length, pieces, options, resolve, reject, toExecuted);
  }

  deleteMany(keys, options) {
    return new Promise((resolve, reject) => {
      check.keys(keys);
      if (keys.length === 0) {
        resolve(0);
        return;
      }
      const pieces = () => keys.forEach((key) => this.#batch.piece(key));
      this.#requestPieces(Op.DELETE_MANY, keys.length, pieces, options, resolve, reject, toSame);
    });
  }

  // --- values that are not JSON, as other clients write them ---------------------------------------

  getText(key, options) {
    return new Promise((resolve, reject) => {
      this.#request(Op.GET, check.key(key), '', 0, 0, options, resolve, reject, toSame);
    });
  }

  setText(key, value, ttl, options) {
    return new Promise((resolve, reject) => {
      check.key(key);
      this.#request(Op.SET, key, check.text(value), check.ttl(ttl), 0, options, resolve, reject, toNothing);
    });
  }

  getManyText(keys, options) {
    return this.#getMany(keys, options, toSame);
  }

  setManyText(entries, options) {
    return this.#setMany(entries, options, check.text);
  }

  // --- changes that depend on what is there --------------------------------------------------------

  incr(key, by = 1, options = undefined) {
    return new Promise((resolve, reject) => {
      check.key(key);
      check.integer(by, 'what is added');
      this.#request(Op.INCREMENT, key, '', by, 0, options, resolve, reject, toSame);
    });
  }

  getVersioned(key, options) {
    return new Promise((resolve, reject) => {
      this.#request(Op.GET_VERSION, check.key(key), '', 0, 0, options, resolve, reject, toVersioned);
    });
  }

  cas(key, version, value, ttl, options) {
    return new Promise((resolve, reject) => {
      check.key(key);
      check.version(version);
      const text = check.json(value);
      this.#request(Op.CAS, key, text, check.ttl(ttl), version, options, resolve, reject, toStored);
    });
  }

  casDelete(key, version, options) {
    return new Promise((resolve, reject) => {
      check.key(key);
      check.version(version);
      this.#request(Op.CAS_DELETE, key, '', 0, version, options, resolve, reject, toBoolean);
    });
  }

  // --- about keys ----------------------------------------------------------------------------------

  ttl(key, options) {
    return new Promise((resolve, reject) => {
      this.#request(Op.TTL, check.key(key), '', 0, 0, options, resolve, reject, toTtl);
    });
  }

  usage(options) {
    return new Promise((resolve, reject) => {
      this.#request(Op.USAGE, '', '', 0, 0, options, resolve, reject, toUsage);
    });
  }

  list(prefix, options) {
    return new List(this, check.prefix(prefix), options ?? {});
  }

  // One page of list(): [next cursor, keys].
  listPage(prefix, cursor, count, options) {
    return new Promise((resolve, reject) => {
      const start = check.prefix(prefix);
      this.#request(Op.LIST, start, cursor, count, 0, options, resolve, reject, toSame);
    });
  }

  watch(prefix, options) {
    const { from = 0, signal } = options ?? {};
    return new Watch(this.#batch, this.#project, check.prefix(prefix), check.version(from), check.signal(signal), this);
  }

  // Any command on the project's keys, as docs/commands.md has it. Resolves to what the server says.
  command(words, options) {
    return new Promise((resolve, reject) => {
      const texts = commandWords(words);
      const pieces = () => texts.forEach((word) => this.#batch.piece(word));
      this.#requestPieces(Op.COMMAND, texts.length, pieces, options, resolve, reject, toSame);
    });
  }

  // --- requests ------------------------------------------------------------------------------------

  #request(op, key, value, number, extra, options, resolve, reject, decode) {
    const timeout = options == null ? this.#timeout : check.timeout(options.timeout) || this.#timeout;
    const signal = options == null ? undefined : check.signal(options.signal);
    const batch = this.#batch;
    const size = key === '' ? 0 : batch.text(key);
    const valueSize = value === '' ? 0 : batch.text(value);
    if (signal === undefined) {
      batch.add(op, this.#project, timeout, size, valueSize, number, extra, resolve, reject, decode);
      return;
    }
    addAbortable(batch, signal, resolve, reject, (done, failed) =>
      batch.add(op, this.#project, timeout, size, valueSize, number, extra, done, failed, decode),
    );
  }

  #requestPieces(op, n, write, options, resolve, reject, decode) {
    const timeout = options == null ? this.#timeout : check.timeout(options.timeout) || this.#timeout;
    const signal = options == null ? undefined : check.signal(options.signal);
    const batch = this.#batch;
    write();
    const add = (done, failed) => batch.add(op, this.#project, timeout, n, 0, 0, 0, done, failed, decode);
    if (signal === undefined) {
      add(resolve, reject);
    } else {
      addAbortable(batch, signal, resolve, reject, add);
    }
  }
}

// Settles when the answer comes or the signal aborts, whichever is first. An aborted write may be
// carried out all the same.
function addAbortable(batch, signal, resolve, reject, add) {
  let id = -1;
  const onAbort = () => {
    if (id >= 0) {
      batch.abandon(id);
    }
    reject(signal.reason);
  };
  const behind = (settle) => (value) => {
    signal.removeEventListener('abort', onAbort);
    settle(value);
  };
  signal.addEventListener('abort', onAbort, { once: true });
  id = add(behind(resolve), behind(reject));
}

function commandWords(words) {
  if (!Array.isArray(words) || words.length === 0) {
    throw new TypeError('a command must be an array of at least one word');
  }
  return words.map((word) => {
    if (typeof word !== 'string' && typeof word !== 'number') {
      throw new TypeError(`words of a command must be strings or numbers, not ${check.describe(word)}`);
    }
    return String(word);
  });
}

// The keys with a prefix, as an async iterator. `cursor` is where to go on: at the keys that have not
// been handed out, and perhaps some that have.
class List {
  #kv;
  #prefix;
  #options;
  #left;
  #page = [];
  #at = 0;
  #next;

  constructor(kv, prefix, options) {
    const { cursor, limit = Infinity, timeout, signal } = options;
    if (cursor !== undefined && cursor !== null && !/^\d{1,20}$/.test(String(cursor))) {
      throw new TypeError('a cursor must be one that a list has shown');
    }
    if (limit !== Infinity && (!Number.isSafeInteger(limit) || limit < 0)) {
      throw new RangeError(`a limit must be a whole number of keys, not ${check.describe(limit)}`);
    }
    this.#kv = kv;
    this.#prefix = prefix;
    this.#options = { timeout, signal };
    this.#left = limit;
    this.cursor = cursor == null ? '0' : String(cursor);
    this.#next = this.cursor;
    this.done = false;
  }

  [Symbol.asyncIterator]() {
    return this;
  }

  async next() {
    while (!this.done && this.#left > 0) {
      if (this.#at < this.#page.length) {
        this.#left--;
        const value = this.#page[this.#at++];
        this.#turn();
        return { value, done: false };
      }
      const count = Math.min(PAGE, this.#left);
      const [next, keys] = await this.#kv.listPage(this.#prefix, this.#next, count, this.#options);
      this.cursor = this.#next;
      this.#next = next;
      this.#page = keys;
      this.#at = 0;
      this.#turn();
      if (keys.length === 0 && next === '0') {
        break;
      }
    }
    return { value: undefined, done: true };
  }

  // At the end of a page the cursor moves on; null at the end of the list.
  #turn() {
    if (this.#at === this.#page.length) {
      this.cursor = this.#next === '0' ? null : this.#next;
      this.done = this.cursor === null;
    }
  }

  async return(value) {
    this.done = true;
    return { value, done: true };
  }
}

module.exports = { addAbortable, commandWords, Kv };
