import { EventEmitter } from 'node:events';
import type { ConnectOptions, ProjectOptions, Store } from './index.js';

type Source =
  /** From connect(); it stays open on disconnect(). */
  | { store: Store; connection?: undefined }
  /** Options for connect(), which happens with the first call; closed by disconnect(). */
  | { connection: ConnectOptions; store?: undefined };

export type KeyvInvokeOptions = Source &
  Pick<ProjectOptions, 'consistency' | 'timeout'> & {
    /** What a namespace of Keyv is; default: a prefix of keys in one project. */
    namespaces?: 'prefixes' | 'projects';
    /** The project of namespaces that are prefixes; default: 'default'. */
    project?: string;
    token?: string;
    /** The token of a project. */
    tokens?: (project: string) => string | undefined | Promise<string | undefined>;
    /** 'keyv': values as Keyv serializes them (default); 'kv': as kv.set() does, for createKeyv(). */
    format?: 'keyv' | 'kv';
  };

export class KeyvInvoke extends EventEmitter {
  constructor(options: KeyvInvokeOptions);
  readonly opts: { dialect: string; [name: string]: unknown };
  readonly capabilities: { expires: true };
  namespace?: string;
  get(key: string): Promise<any>;
  getMany(keys: string[]): Promise<any[]>;
  set(key: string, value: any, ttl?: number): Promise<boolean>;
  setMany(entries: { key: string; value: any; ttl?: number; expires?: number }[]): Promise<boolean[]>;
  delete(key: string): Promise<boolean>;
  deleteMany(keys: string[]): Promise<any>;
  has(key: string): Promise<boolean>;
  hasMany(keys: string[]): Promise<boolean[]>;
  clear(): Promise<void>;
  iterator(namespace?: string): AsyncGenerator<[string, any], void>;
  disconnect(): Promise<void>;
}

/** A Keyv over the project `namespace`, which sees what its functions' `kv` sees. */
export function createKeyv(
  options: Source &
    Pick<ProjectOptions, 'consistency' | 'timeout'> & {
      namespace: string;
      token?: string;
      tokens?: KeyvInvokeOptions['tokens'];
      /** The class to use; default: that of the package keyv. */
      Keyv?: new (options: any) => any;
      [option: string]: unknown;
    },
): any;

export default KeyvInvoke;
