/** A value that JSON can express. */
export type Json = string | number | boolean | null | Json[] | { [name: string]: Json };

export interface CallOptions {
  /** Milliseconds until the call fails at the latest; default: the project's, else the store's. */
  timeout?: number;
  /** Ends the wait, not the request: an aborted write may be carried out all the same. */
  signal?: AbortSignal;
}

export interface SetOptions extends CallOptions {
  /** Only when the key is missing; set() then resolves to whether it was stored. */
  ifMissing?: boolean;
  /** Only when the key is there; set() then resolves to whether it was stored. */
  ifExists?: boolean;
  /** Leaves the key's expiry as it is. */
  keepTtl?: boolean;
}

export interface ListOptions extends CallOptions {
  /** Where to go on: `cursor` of an earlier list. */
  cursor?: string | null;
  /** How many keys at most. */
  limit?: number;
}

export interface Usage {
  keys: number;
  usedBytes: number;
  quotaBytes: number;
  shard: number;
  /** Number of the node that leads the shard, 0 when unknown. */
  leader: number;
}

export interface Versioned<T> {
  value: T;
  version: number;
}

/** Keys of a project in no order; a key that is there all the time comes at least once. */
export interface KeyList extends AsyncIterableIterator<string> {
  /** Where to go on later; null at the end. */
  readonly cursor: string | null;
}

export type WatchEvent =
  | {
      type: 'change';
      /** 'set', 'del', 'expired', 'expire', 'persist', 'clear' (of all keys; `key` is empty), ... */
      kind: string;
      key: string;
      index: number;
    }
  | { type: 'ready' | 'progress' | 'gap'; index: number };

export interface Watch extends AsyncIterableIterator<WatchEvent> {
  close(): void;
}

type Entry = readonly [key: string, value: unknown, ttl?: number | null];

/** The keys of one project. Get it from store.project(). */
export interface Kv {
  readonly name: string;

  /** The value, or null when the key is missing or has expired. */
  get<T = any>(key: string, options?: CallOptions): Promise<T | null>;
  /** `ttl` in milliseconds; without it, or with 0 or null, the key does not expire. */
  set(key: string, value: unknown, ttl?: number | null, options?: CallOptions & { keepTtl?: boolean }): Promise<void>;
  set(
    key: string,
    value: unknown,
    ttl: number | null | undefined,
    options: SetOptions & ({ ifMissing: true } | { ifExists: true }),
  ): Promise<boolean>;
  has(key: string, options?: CallOptions): Promise<boolean>;
  /** Whether the key was there. */
  delete(key: string, options?: CallOptions): Promise<boolean>;
  /** Deletes all keys of the project, in one step. */
  clear(options?: CallOptions): Promise<void>;

  /** Values in the order of the keys, in one step; at most 32,000. */
  getMany<T = any>(keys: readonly string[], options?: CallOptions): Promise<(T | null)[]>;
  /** All or none; at most 32,000 entries, 10,000 if one has a ttl. */
  setMany(
    entries: Iterable<Entry> | { readonly [key: string]: unknown },
    options?: CallOptions,
  ): Promise<void>;
  /** How many of the keys were there. */
  deleteMany(keys: readonly string[], options?: CallOptions): Promise<number>;

  /** Values as the bytes that are stored, UTF-8: those of other clients, which need not be JSON. */
  getText(key: string, options?: CallOptions): Promise<string | null>;
  setText(key: string, value: string, ttl?: number | null, options?: CallOptions): Promise<void>;
  getManyText(keys: readonly string[], options?: CallOptions): Promise<(string | null)[]>;
  setManyText(
    entries: Iterable<readonly [key: string, value: string, ttl?: number | null]> | { readonly [key: string]: string },
    options?: CallOptions,
  ): Promise<void>;

  /** Adds to a number, 0 when the key is missing; the sum, as a bigint from 2^53 on. */
  incr(key: string, by?: number, options?: CallOptions): Promise<number | bigint>;
  /** Value and version, for cas(); null when the key is missing. */
  getVersioned<T = any>(key: string, options?: CallOptions): Promise<Versioned<T> | null>;
  /** Stores only while the key's version is `version`, 0 for a missing key; whether it did. */
  cas(key: string, version: number, value: unknown, ttl?: number | null, options?: CallOptions): Promise<boolean>;
  casDelete(key: string, version: number, options?: CallOptions): Promise<boolean>;

  /** Milliseconds until the key expires, Infinity when never, null when it is missing. */
  ttl(key: string, options?: CallOptions): Promise<number | null>;
  usage(options?: CallOptions): Promise<Usage>;
  list(prefix?: string, options?: ListOptions): KeyList;
  /** Changes of the keys with a prefix, from now on or behind the index `from`. */
  watch(prefix?: string, options?: { from?: number; signal?: AbortSignal }): Watch;
  /** Any command on the project's keys, and what the server answers. */
  command(words: readonly (string | number)[], options?: CallOptions): Promise<any>;
}

export interface ProjectOptions {
  token?: string | null;
  /** Default: linearizable. */
  consistency?: 'linearizable' | 'session' | 'eventual';
  /** For eventual reads: how old, in milliseconds, what they see may be; 0: no bound. */
  maxStale?: number;
  /** Deadline of calls that name none, in milliseconds. */
  timeout?: number;
}

export interface ConnectOptions {
  /** HOST, HOST:PORT, or redis:// and rediss:// URLs. */
  nodes: readonly string[] | string;
  /** 'service' or 'admin', with its secret: a credential for all projects. */
  user?: string;
  secret?: string;
  /** TLS to all nodes. The files are PEM. */
  tls?: boolean | { ca?: string; servername?: string; cert?: string; key?: string };
  /** Deadline of calls that name none; default 5000 ms. */
  timeout?: number;
  /** For one connection; default 2000 ms. */
  connectTimeout?: number;
  probeInterval?: number;
  stallTimeout?: number;
  topologyInterval?: number;
  /** Bounds of requests under way; beyond them: BUSY. Default 100,000 and 256 MiB. */
  maxRequests?: number;
  maxBytes?: number;
  maxReply?: number;
  /** Numbers writes, so that each is carried out once; default true. */
  exactlyOnce?: boolean;
}

export interface Store {
  readonly closed: boolean;
  project(name: string, options?: ProjectOptions): Kv;
  ping(options?: CallOptions): Promise<void>;
  /** A command that concerns a node or the cluster: INFO, CLUSTER ..., PROJECT ... */
  command(words: readonly (string | number)[], options?: CallOptions & { node?: string }): Promise<any>;
  /** Ends what is under way, with CLOSED, or UNKNOWN_OUTCOME for writes that had been sent. */
  close(): Promise<void>;
}

export type ErrorCode =
  | 'INVALID'
  | 'NO_MEMORY'
  | 'BUSY'
  | 'CLOSED'
  | 'FORKED'
  | 'TIMEOUT'
  | 'UNREACHABLE'
  | 'TLS'
  | 'PROTOCOL'
  | 'NO_LEADER'
  | 'AUTH'
  | 'PERMISSION'
  | 'QUOTA'
  | 'TOO_BIG'
  | 'NO_SPACE'
  | 'STALE'
  | 'REFUSED'
  | 'NOT_JSON'
  | 'UNKNOWN_OUTCOME';

export class KvError extends Error {
  readonly code: ErrorCode;
  /** The same call may succeed later, and is not carried out twice then. */
  readonly retryable: boolean;
  /** 'unknown': a write may have been carried out. */
  readonly outcome: 'not-done' | 'unknown';
}

/** Resolves when a node has answered. */
export function connect(options: ConnectOptions | readonly string[] | string): Promise<Store>;

/** Of the C library. */
export const version: string;
