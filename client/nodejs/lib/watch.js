// Changes of keys, as an async iterator of events.
'use strict';

const { addon, EventType } = require('./native.js');
const { errorOf } = require('./errors.js');

const BUFFER_MAX = 65536; // events that wait for the reader; beyond it they are dropped for a gap

const TYPES = new Map([
  [EventType.READY, 'ready'],
  [EventType.CHANGE, 'change'],
  [EventType.PROGRESS, 'progress'],
  [EventType.GAP, 'gap'],
]);

class Watch {
  #batch;
  #number;
  #signal;
  #owner; // keeps the project open
  #events = [];
  #at = 0;
  #waiting = []; // calls of next() without an event
  #error = null;
  #ended = false;
  #onAbort = () => {
    this.#error = this.#signal.reason;
    this.close();
  };

  constructor(batch, project, prefix, from, signal, owner) {
    if (batch.closed) {
      throw errorOf(4);
    }
    const number = addon.watchOpen(batch.handle, project, prefix, from);
    if (number < 0) {
      throw errorOf(-number);
    }
    this.#batch = batch;
    this.#number = number;
    this.#signal = signal;
    this.#owner = owner;
    signal?.addEventListener('abort', this.#onAbort, { once: true });
    batch.watches.set(number, this);
    batch.keepAlive(true);
  }

  [Symbol.asyncIterator]() {
    return this;
  }

  // Called by the batch.
  told(type, [error, index, kind, key, message]) {
    if (this.#ended) {
      return;
    }
    if (type === EventType.END) {
      this.#error = errorOf(error, message);
      this.#finish();
      return;
    }
    const event = { type: TYPES.get(type), index };
    if (type === EventType.CHANGE) {
      event.kind = kind;
      event.key = key;
    }
    this.#push(event);
  }

  #push(event) {
    const waiting = this.#waiting.shift();
    if (waiting) {
      waiting.resolve({ value: event, done: false });
      return;
    }
    if (this.#events.length - this.#at >= BUFFER_MAX) {
      this.#events = [{ type: 'gap', index: event.index }];
      this.#at = 0;
    }
    this.#events.push(event);
  }

  // Events, then the end: an error that ended the watch is thrown once.
  next() {
    if (this.#at < this.#events.length) {
      const value = this.#events[this.#at++];
      if (this.#at > 1024 && this.#at * 2 > this.#events.length) {
        this.#events = this.#events.slice(this.#at);
        this.#at = 0;
      }
      return Promise.resolve({ value, done: false });
    }
    if (this.#ended) {
      return this.#end();
    }
    return new Promise((resolve, reject) => {
      this.#waiting.push({ resolve, reject });
    });
  }

  #end() {
    const error = this.#error;
    this.#error = null;
    return error === null ? Promise.resolve({ value: undefined, done: true }) : Promise.reject(error);
  }

  async return(value) {
    this.close();
    return { value, done: true };
  }

  // Idempotent. Events that were not read are forgotten.
  close() {
    this.#events = [];
    this.#at = 0;
    this.#finish();
  }

  // Readers that wait are told the end; events that are there already can still be read.
  #finish() {
    if (this.#ended) {
      return;
    }
    this.#ended = true;
    this.#signal?.removeEventListener('abort', this.#onAbort);
    this.#batch.watches.delete(this.#number);
    if (this.#batch.handle !== null) {
      addon.watchClose(this.#batch.handle, this.#number);
    }
    this.#batch.rest();
    this.#owner = null;
    for (const { resolve, reject } of this.#waiting.splice(0)) {
      this.#end().then(resolve, reject);
    }
  }
}

module.exports = { Watch };
