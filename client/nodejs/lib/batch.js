// Requests on their way to the addon and answers on their way back.
//
// The requests of one turn of the event loop are written into two arrays and cross over in one call;
// answers come back in batches. Between the two a request is known by a small number, its place in the
// tables of this class.
'use strict';

const { addon, FIELDS, Kind, META_FIELDS, META_RECORDS } = require('./native.js');
const { errorOf, KvError } = require('./errors.js');

const BATCH_OPERATIONS = 1024;
const ARENA_SIZE = 64 * 1024;
const ARENA_FULL = 1024 * 1024; // a batch with more bytes leaves at once
const REQUEST_MAX = 65 * 1024 * 1024; // more than any server takes
const SHORT_TEXT = 48; // written character by character, which is faster than a call

function forget() {}

class Batch {
  constructor() {
    this.handle = null;
    this.closed = false;
    this.fields = new Float64Array(BATCH_OPERATIONS * FIELDS);
    this.count = 0;
    this.arena = Buffer.allocUnsafeSlow(ARENA_SIZE);
    this.used = 0;
    this.mark = 0; // `used` behind the last request that is complete
    this.scheduled = false;
    this.meta = new Float64Array(META_RECORDS * META_FIELDS);
    // By request number.
    this.resolves = [];
    this.rejects = [];
    this.decodes = [];
    this.free = [];
    this.pending = 0;
    // By number of the watch.
    this.watches = new Map();
    this.alive = false;
    this.flushLater = () => this.flush();
    this.deliver = (count, text, extras) => this.take(count, text, extras);
  }

  open(seeds, options) {
    this.handle = addon.open(seeds, options, this.meta, this.deliver);
    if (Array.isArray(this.handle)) {
      const [number, message] = this.handle;
      this.handle = null;
      this.closed = true;
      throw errorOf(number, message);
    }
  }

  // --- writing a request: texts first, then add() ----------------------------------------------

  reserve(size) {
    if (this.used + size <= this.arena.length) {
      return;
    }
    if (this.used - this.mark + size > REQUEST_MAX) {
      this.used = this.mark;
      throw new KvError('TOO_BIG', `a request of more than ${REQUEST_MAX} bytes is larger than any server takes`);
    }
    const grown = Buffer.allocUnsafeSlow(Math.max(2 * this.arena.length, this.used + size));
    this.arena.copy(grown, 0, 0, this.used);
    this.arena = grown;
  }

  // Appends UTF-8; how many bytes it was.
  text(string) {
    const { length } = string;
    this.reserve(length > ARENA_SIZE ? Buffer.byteLength(string) : length * 3);
    const start = this.used;
    if (length <= SHORT_TEXT) {
      const { arena } = this;
      let i = 0;
      for (; i < length; i++) {
        const code = string.charCodeAt(i);
        if (code > 127) {
          break;
        }
        arena[start + i] = code;
      }
      if (i === length) {
        this.used = start + length;
        return length;
      }
    }
    const size = this.arena.write(string, start, 'utf8');
    this.used = start + size;
    return size;
  }

  // A piece with its size before it.
  piece(string) {
    this.reserve(4);
    const at = this.used;
    this.used += 4;
    const size = this.text(string);
    this.arena.writeUInt32LE(size, at);
  }

  number(value) {
    this.reserve(4);
    this.arena.writeUInt32LE(value, this.used);
    this.used += 4;
  }

  // decode(value) makes the result; it gets null, a text, a number, true for a status, or what
  // value_convert() made. The number of the request.
  add(op, project, timeout, size, valueSize, number, extra, resolve, reject, decode) {
    const id = this.free.length > 0 ? this.free.pop() : this.resolves.length;
    this.resolves[id] = resolve;
    this.rejects[id] = reject;
    this.decodes[id] = decode;
    this.pending++;
    const { fields } = this;
    const at = this.count * FIELDS;
    fields[at] = op;
    fields[at + 1] = id;
    fields[at + 2] = project;
    fields[at + 3] = timeout;
    fields[at + 4] = size;
    fields[at + 5] = valueSize;
    fields[at + 6] = number;
    fields[at + 7] = extra;
    this.count++;
    this.mark = this.used;
    if (this.count === BATCH_OPERATIONS || this.used >= ARENA_FULL) {
      this.flush();
    } else if (!this.scheduled) {
      // Runs when all that is ready to run has run, so that its requests are in the batch.
      this.scheduled = true;
      process.nextTick(this.flushLater);
    }
    return id;
  }

  flush() {
    this.scheduled = false;
    const { count, used } = this;
    if (count === 0) {
      return;
    }
    this.count = 0;
    this.used = 0;
    this.mark = 0;
    const { fields } = this;
    let refused = count;
    if (this.closed) {
      for (let i = 0; i < count; i++) {
        fields[i * FIELDS] = 4; // IKV_ERR_CLOSED
      }
    } else {
      this.keepAlive(true);
      refused = addon.submit(this.handle, fields, count, this.arena, used);
    }
    if (this.arena.length > ARENA_FULL) {
      this.arena = Buffer.allocUnsafeSlow(ARENA_SIZE);
    }
    if (refused > 0) {
      this.refuse(count);
    }
  }

  refuse(count) {
    const failed = [];
    for (let at = 0; at < count * FIELDS; at += FIELDS) {
      if (this.fields[at] !== 0) {
        failed.push(this.rejects[this.fields[at + 1]], this.fields[at]);
        this.release(this.fields[at + 1]);
      }
    }
    for (let i = 0; i < failed.length; i += 2) {
      failed[i](errorOf(failed[i + 1]));
    }
    this.rest();
  }

  // --- answers ---------------------------------------------------------------------------------

  // The caller of a request waits no longer; its answer will find nobody.
  abandon(id) {
    this.resolves[id] = forget;
    this.rejects[id] = forget;
    this.decodes[id] = forget;
  }

  release(id) {
    this.resolves[id] = undefined;
    this.rejects[id] = undefined;
    this.decodes[id] = undefined;
    this.free.push(id);
    this.pending--;
  }

  take(count, text, extras) {
    const { meta } = this;
    for (let i = 0, at = 0; i < count; i++, at += META_FIELDS) {
      const id = meta[at];
      const kind = meta[at + 1];
      if (kind === Kind.EVENT) {
        this.watches.get(id)?.told(meta[at + 2], extras[meta[at + 3]]);
        continue;
      }
      const resolve = this.resolves[id];
      const reject = this.rejects[id];
      const decode = this.decodes[id];
      this.release(id);
      if (kind === Kind.ERROR) {
        reject(errorOf(meta[at + 2], extras[meta[at + 3]]));
        continue;
      }
      let value = null;
      if (kind === Kind.TEXT) {
        value = text.substring(meta[at + 2], meta[at + 3]);
      } else if (kind === Kind.STATUS) {
        value = true;
      } else if (kind === Kind.INTEGER) {
        value = meta[at + 2];
      } else if (kind === Kind.REPLY) {
        value = extras[meta[at + 3]];
      }
      try {
        resolve(decode(value));
      } catch (error) {
        reject(error);
      }
    }
    this.rest();
  }

  // The process need not wait for a store without requests and watches.
  rest() {
    if (this.pending === 0 && this.watches.size === 0) {
      this.keepAlive(false);
    }
  }

  keepAlive(on) {
    if (this.alive !== on && !this.closed) {
      this.alive = on;
      addon.keepAlive(this.handle, on);
    }
  }

  // Resolves when every request has been answered, those that are under way with an error.
  async close() {
    this.flush();
    this.closed = true;
    await addon.close(this.handle);
    this.handle = null;
    // What a closed store that somebody keeps does not need.
    this.meta = null;
    this.arena = Buffer.alloc(0);
  }
}

module.exports = { Batch };
