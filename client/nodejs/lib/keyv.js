// A storage adapter for Keyv 5 and 6.
//
// What Keyv does on its own account is kept away from the data: it deletes a key whose envelope says
// that it has expired, and so may delete what somebody has just written there. Here expiry is the
// store's own, and envelopes come back without it.
'use strict';

const { EventEmitter } = require('node:events');
const { connect } = require('./store.js');

const PAGE = 1000;
const EXPIRES = /,?"expires":(\d+|null)\}$/; // the end of what JSON serializers make of an envelope
const KINDS = ['prefixes', 'projects'];
const FORMATS = ['keyv', 'kv'];

// {text, expires}: an envelope without the time at which it expires, and that time or undefined. A text
// that is not such an envelope stays as it is.
function split(text) {
  const match = text.startsWith('{') ? EXPIRES.exec(text) : null;
  if (match === null) {
    return { text, expires: undefined };
  }
  return { text: `${text.slice(0, match.index)}}`, expires: match[1] === 'null' ? undefined : Number(match[1]) };
}

// How the values of a format are written and read: to an argument of kv.set(), and back to what Keyv
// wants, undefined when there is none.
const formats = {
  keyv: {
    set: 'setText',
    setMany: 'setManyText',
    get: 'getText',
    getMany: 'getManyText',
    encode(value) {
      if (typeof value !== 'string') {
        throw new TypeError("the serializer must make strings; for values without one use format: 'kv'");
      }
      return value;
    },
    decode(stored) {
      if (stored === null) {
        return undefined;
      }
      const { text, expires } = split(stored);
      return expires !== undefined && Date.now() > expires ? undefined : text;
    },
  },
  kv: {
    set: 'set',
    setMany: 'setMany',
    get: 'getVersioned', // tells a stored null from a missing key
    getMany: 'getMany',
    encode(envelope) {
      if (envelope === null || typeof envelope !== 'object' || !('value' in envelope)) {
        throw new TypeError("format 'kv' needs a Keyv without serializer; createKeyv() makes one");
      }
      return envelope.value;
    },
    decode: (versioned) => (versioned === null ? undefined : { value: versioned.value }),
  },
};

class KeyvInvoke extends EventEmitter {
  #options;
  #connection = null; // promise of a store that is our own
  #namespaces = new Set(); // all that Keyv has named, of one or several Keyv objects
  #namespace;
  #direct = false; // Keyv 6: bare keys, and times of expiry instead of times to live

  constructor(options) {
    super();
    const {
      store, connection, namespaces = 'prefixes', project = 'default', token, tokens, format = 'keyv',
      consistency, timeout, ...others
    } = options ?? {};
    const [unknown] = Object.keys(others);
    if (unknown !== undefined) {
      throw new TypeError(`KeyvInvoke has no option ${unknown}`);
    }
    if ((store === undefined) === (connection === undefined)) {
      throw new TypeError('KeyvInvoke needs either a store, from connect(), or options for connect() as connection');
    }
    if (!KINDS.includes(namespaces) || !FORMATS.includes(format)) {
      throw new TypeError(`namespaces must be one of ${KINDS.join(', ')}; format one of ${FORMATS.join(', ')}`);
    }
    this.#options = { store, connection, namespaces, project, token, tokens, format, consistency, timeout };
    // Keyv 5 offers its iterator only for the dialects that it knows.
    this.opts = { dialect: 'redis', url: '', namespaces, project, format };
  }

  // Keyv 6 asks for it, to learn that set() takes a time of expiry.
  get capabilities() {
    this.#direct = true;
    return { expires: true };
  }

  get namespace() {
    return this.#namespace;
  }

  set namespace(namespace) {
    const given = namespace === undefined || namespace === null || namespace === '' ? undefined : String(namespace);
    const changes = given !== undefined && this.#namespaces.size > 0 && !this.#namespaces.has(given);
    if (changes && this.#direct && this.#options.namespaces === 'projects') {
      throw new Error(`this adapter serves the project ${this.#namespace}: make another one for ${given}`);
    }
    this.#namespace = given;
    if (given !== undefined) {
      this.#namespaces.add(given);
    }
  }

  // --- Keyv's interface ----------------------------------------------------------------------------

  async get(key) {
    const { kv, name } = await this.#find(key);
    return this.#format.decode(await kv[this.#format.get](name));
  }

  async getMany(keys) {
    if (keys.length === 0) {
      return [];
    }
    if (this.#options.format === 'kv') {
      return Promise.all(keys.map((key) => this.get(key)));
    }
    const { kv, names } = await this.#findAll(keys);
    return (await kv.getManyText(names)).map(this.#format.decode);
  }

  async set(key, value, limit) {
    const { kv, name } = await this.#find(key);
    const ttl = this.#ttl(limit);
    if (ttl < 0) {
      await kv.delete(name);
    } else {
      await kv[this.#format.set](name, this.#format.encode(value), ttl);
    }
    return true;
  }

  // In one step: all or none.
  async setMany(entries) {
    if (entries.length === 0) {
      return [];
    }
    const { kv, names } = await this.#findAll(entries.map(({ key }) => key));
    const triples = entries.map(({ value, ttl, expires }, i) => [
      names[i],
      this.#format.encode(value),
      this.#ttl(this.#direct ? expires : ttl),
    ]);
    const dead = triples.filter(([, , ttl]) => ttl < 0).map(([name]) => name);
    await kv[this.#format.setMany](triples.filter(([, , ttl]) => ttl >= 0));
    await kv.deleteMany(dead);
    return entries.map(() => true);
  }

  async delete(key) {
    const { kv, name } = await this.#find(key);
    return kv.delete(name);
  }

  async deleteMany(keys) {
    if (this.#direct) {
      return Promise.all(keys.map((key) => this.delete(key)));
    }
    if (keys.length === 0) {
      return false;
    }
    const { kv, names } = await this.#findAll(keys);
    return (await kv.deleteMany(names)) > 0;
  }

  async has(key) {
    const { kv, name } = await this.#find(key);
    return kv.has(name);
  }

  async hasMany(keys) {
    return Promise.all(keys.map((key) => this.has(key)));
  }

  // All keys of the namespace: of its project in one step, of a prefix in several.
  async clear() {
    if (!this.#direct && this.#namespaces.size > 1) {
      throw new Error(
        'this adapter is shared by Keyv objects of several namespaces and cannot know which one is cleared: ' +
          'give each its own adapter, over one store',
      );
    }
    const { kv, prefix } = await this.#scope(this.#namespace);
    if (prefix === '') {
      await kv.clear();
      return;
    }
    let names = [];
    for await (const name of kv.list(prefix)) {
      names.push(name);
      if (names.length === PAGE) {
        await kv.deleteMany(names);
        names = [];
      }
    }
    await kv.deleteMany(names);
  }

  async *iterator(namespace = this.#namespace) {
    const { kv, prefix, shown } = await this.#scope(namespace);
    const seen = new Set(); // a list may tell a key twice
    let names = [];
    for await (const name of kv.list(prefix)) {
      if (!seen.has(name)) {
        seen.add(name);
        names.push(name);
      }
      if (names.length === PAGE) {
        yield* this.#entries(kv, names, prefix, shown);
        names = [];
      }
    }
    yield* this.#entries(kv, names, prefix, shown);
  }

  async *#entries(kv, names, prefix, shown) {
    const values = await Promise.all(names.map((name) => kv[this.#format.get](name)));
    for (const [i, name] of names.entries()) {
      const value = this.#format.decode(values[i]);
      if (value !== undefined) {
        yield [shown + name.slice(prefix.length), value];
      }
    }
  }

  // Closes the connection if it is the adapter's own.
  async disconnect() {
    const connection = this.#connection;
    this.#connection = null;
    if (connection !== null) {
      const store = await connection.catch(() => null);
      await store?.close();
    }
    this.emit('disconnect');
  }

  // --- where keys are --------------------------------------------------------------------------------

  get #format() {
    return formats[this.#options.format];
  }

  // Milliseconds to live, 0 for ever; below 0: expired already.
  #ttl(limit) {
    if (limit === undefined || limit === null || (!this.#direct && limit === 0)) {
      return 0;
    }
    if (!this.#direct) {
      return limit;
    }
    const left = limit - Date.now();
    return left > 0 ? left : -1;
  }

  async #store() {
    if (this.#options.store !== undefined) {
      return this.#options.store;
    }
    if (this.#connection === null) {
      const connection = connect(this.#options.connection);
      this.#connection = connection;
      connection.catch(() => {
        if (this.#connection === connection) {
          this.#connection = null; // the next call tries again
        }
      });
    }
    return this.#connection;
  }

  async #project(name) {
    const { token, tokens, consistency, timeout } = this.#options;
    const store = await this.#store();
    const options = { consistency, timeout, token: tokens === undefined ? token : await tokens(name) };
    return store.project(name, options);
  }

  // Where a namespace is: `prefix` of its keys in the project, `shown` before them for Keyv.
  async #scope(namespace) {
    const shown = namespace === undefined || this.#direct ? '' : `${namespace}:`;
    if (this.#options.namespaces === 'prefixes') {
      const prefix = namespace === undefined ? '' : `${namespace}:`;
      return { kv: await this.#project(this.#options.project), prefix, shown };
    }
    if (namespace === undefined) {
      throw new Error('namespaces are projects: Keyv needs a namespace');
    }
    return { kv: await this.#project(namespace), prefix: '', shown };
  }

  // Keyv 5 puts its namespace before the key, which tells one from the other where several share the
  // adapter; Keyv 6 hands bare keys.
  #namespaceOf(key) {
    if (this.#direct) {
      return this.#namespace;
    }
    let found;
    for (const namespace of this.#namespaces) {
      if (key.startsWith(`${namespace}:`) && namespace.length >= (found?.length ?? 0)) {
        found = namespace;
      }
    }
    return found;
  }

  async #find(key) {
    const namespace = this.#namespaceOf(key);
    const { kv, prefix, shown } = await this.#scope(namespace);
    return { kv, name: prefix + key.slice(shown.length) };
  }

  async #findAll(keys) {
    const places = await Promise.all(keys.map((key) => this.#find(key)));
    const [{ kv }] = places;
    if (places.some((place) => place.kv !== kv)) {
      throw new Error('keys of several projects cannot be used in one call');
    }
    return { kv, names: places.map(({ name }) => name) };
  }
}

// A Keyv over a project, as the execution service makes one for each: its values are those that the
// global `kv` of the project's functions sees, and a write that fails is an error.
function createKeyv({ store, connection, namespace, token, tokens, consistency, timeout, Keyv, ...options }) {
  if (typeof namespace !== 'string' || namespace === '') {
    throw new TypeError('createKeyv() needs the name of the project as namespace');
  }
  const Class = Keyv ?? require('keyv').Keyv;
  const adapter = new KeyvInvoke({
    store, connection, token, tokens, consistency, timeout, namespaces: 'projects', format: 'kv',
  });
  return new Class({
    throwOnErrors: true,
    ...options,
    store: adapter,
    namespace,
    serialize: undefined, // Keyv 5
    deserialize: undefined,
    serialization: false, // Keyv 6
  });
}

module.exports = { createKeyv, default: KeyvInvoke, KeyvInvoke };
