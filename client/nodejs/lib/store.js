// A cluster: opened by connect(), closed by close(); its projects are what requests go to.
'use strict';

const { Batch } = require('./batch.js');
const check = require('./check.js');
const { errorOf } = require('./errors.js');
const { addAbortable, commandWords, Kv } = require('./kv.js');
const { addon, Op, Option } = require('./native.js');

const LEVELS = { linearizable: 0, session: 1, eventual: 2 };
const NUMBERS = [
  'timeout', 'connectTimeout', 'probeInterval', 'stallTimeout', 'topologyInterval', 'maxRequests',
  'maxBytes', 'maxReply',
];
const KNOWN = new Set([...NUMBERS, 'nodes', 'user', 'secret', 'tls', 'exactlyOnce']);
const TLS_FILES = ['ca', 'cert', 'key', 'servername'];

function seedsOf(nodes, tls) {
  const list = typeof nodes === 'string' ? nodes.split(',') : nodes;
  if (!Array.isArray(list) || list.length === 0 || !list.every((node) => typeof node === 'string' && node)) {
    throw new TypeError('nodes must be addresses such as 127.0.0.1:7101, at least one');
  }
  return list.map((node) => (tls && !node.includes('://') ? `rediss://${node}` : node)).join(',');
}

function text(value, name) {
  if (typeof value !== 'string') {
    throw new TypeError(`${name} must be a string, not ${check.describe(value)}`);
  }
  return value;
}

// [option, value, ...] for the addon.
function optionsOf(options) {
  const unknown = Object.keys(options).find((name) => !KNOWN.has(name));
  if (unknown !== undefined) {
    throw new TypeError(`connect() has no option ${unknown}`);
  }
  const pairs = [];
  for (const name of NUMBERS) {
    if (options[name] !== undefined) {
      pairs.push(Option[name], check.integer(options[name], name));
    }
  }
  if (options.exactlyOnce !== undefined) {
    pairs.push(Option.exactlyOnce, options.exactlyOnce ? 1 : 0);
  }
  for (const name of ['user', 'secret']) {
    if (options[name] !== undefined) {
      pairs.push(Option[name], text(options[name], name));
    }
  }
  const tls = options.tls === true || !options.tls ? {} : options.tls;
  for (const name of Object.keys(tls)) {
    if (!TLS_FILES.includes(name)) {
      throw new TypeError(`tls has no option ${name}`);
    }
    pairs.push(Option[name], text(tls[name], `tls.${name}`));
  }
  return pairs;
}

class Store {
  #batch = new Batch();
  #closing = null;
  #projects = new Map(); // identity -> WeakRef of a Kv: equal handles are shared
  #dropped = new FinalizationRegistry(({ identity, number }) => {
    if (this.#projects.get(identity)?.deref() === undefined) {
      this.#projects.delete(identity);
    }
    if (this.#batch.handle !== null) {
      addon.projectClose(this.#batch.handle, number);
    }
  });

  constructor(options) {
    this.#batch.open(seedsOf(options.nodes, options.tls), optionsOf(options));
  }

  get closed() {
    return this.#batch.closed;
  }

  project(name, options) {
    const { token = '', consistency = 'linearizable', maxStale = 0, timeout, ...others } = options ?? {};
    const [unknown] = Object.keys(others);
    if (unknown !== undefined) {
      throw new TypeError(`project() has no option ${unknown}`);
    }
    if (typeof name !== 'string' || name === '' || !name.isWellFormed()) {
      throw new TypeError(`a project's name must be a well-formed string that is not empty, not ${check.describe(name)}`);
    }
    text(token ?? '', 'token');
    if (!Object.hasOwn(LEVELS, consistency)) {
      throw new TypeError(`consistency must be one of ${Object.keys(LEVELS).join(', ')}`);
    }
    const timeoutMs = check.timeout(timeout);
    if (check.integer(maxStale, 'maxStale') < 0 || maxStale > 0xffffffff) {
      throw new RangeError(`maxStale must be from 0 to 4294967295 milliseconds, not ${maxStale}`);
    }
    const identity = JSON.stringify([name, token, consistency, maxStale, timeoutMs]);
    const known = this.#projects.get(identity)?.deref();
    if (known !== undefined) {
      return known;
    }
    if (this.#batch.closed) {
      throw errorOf(4);
    }
    const number = addon.projectOpen(this.#batch.handle, name, token ?? '', LEVELS[consistency], maxStale);
    if (number < 0) {
      throw errorOf(-number, number === -1 ? `a project cannot have the name ${JSON.stringify(name)} or these options` : '');
    }
    const kv = new Kv(this.#batch, number, name, timeoutMs);
    this.#projects.set(identity, new WeakRef(kv));
    this.#dropped.register(kv, { identity, number });
    return kv;
  }

  ping(options) {
    return this.command(['PING'], options).then(() => undefined);
  }

  // A command that concerns the cluster or a node, not keys: INFO, CLUSTER ..., PROJECT ...
  command(words, options) {
    return new Promise((resolve, reject) => {
      const texts = commandWords(words);
      const { node = '', timeout, signal } = options ?? {};
      const timeoutMs = check.timeout(timeout);
      const checked = check.signal(signal);
      const batch = this.#batch;
      batch.piece(node === '' ? '' : `${text(node, 'node')}\0`);
      texts.forEach((word) => batch.piece(word));
      const add = (done, failed) =>
        batch.add(Op.NODE_COMMAND, -1, timeoutMs, texts.length + 1, 0, 0, 0, done, failed, (value) => value);
      if (checked === undefined) {
        add(resolve, reject);
      } else {
        addAbortable(batch, checked, resolve, reject, add);
      }
    });
  }

  // Requests under way end with the error CLOSED, or UNKNOWN_OUTCOME for writes that had been sent.
  close() {
    this.#closing ??= this.#batch.close();
    return this.#closing;
  }

  [Symbol.asyncDispose ?? Symbol.for('Symbol.asyncDispose')]() {
    return this.close();
  }
}

// A node that asks for a token is there: tokens belong to projects, and are judged with their requests.
function isAnswer(error, { secret, nodes }) {
  return error.code === 'AUTH' && secret === undefined && !/:\/\/(service|admin):/.test(String(nodes));
}

// Resolves when a node has answered.
async function connect(options) {
  const given = typeof options === 'string' || Array.isArray(options) ? { nodes: options } : options;
  if (given === null || typeof given !== 'object') {
    throw new TypeError('connect() needs { nodes: [...] }');
  }
  const store = new Store(given);
  try {
    await store.ping();
  } catch (error) {
    if (!isAnswer(error, given)) {
      await store.close();
      throw error;
    }
  }
  return store;
}

module.exports = { connect, Store };
