// A small runtime worker: it serves function files of the form
//
//     module.exports = async function (req, res) { ... }
//
// over HTTP, and gives each the `kv` of its project. PATH /PROJECT/FUNCTION runs FUNCTION.js;
// /PROJECT/FUNCTION/NAME runs its export of that name, such as `admin`.
//
//     node host.js --nodes 127.0.0.1:7101,127.0.0.1:7102,127.0.0.1:7103 --functions functions --port 8080
'use strict';

const fs = require('node:fs');
const http = require('node:http');
const { createRequire } = require('node:module');
const path = require('node:path');
const vm = require('node:vm');

const { connect } = require('invoke-kv');

const BODY_MAX = 20 * 1024 * 1024;
const NAME = /^[A-Za-z0-9_-]{1,100}$/;

// What functions see as `res`.
class Response {
  #raw;

  constructor(raw) {
    this.#raw = raw;
  }

  status(code) {
    this.#raw.statusCode = code;
    return this;
  }

  set(name, value) {
    const headers = typeof name === 'object' ? name : { [name]: value };
    for (const [header, text] of Object.entries(headers)) {
      this.#raw.setHeader(header, text);
    }
    return this;
  }

  json(value) {
    this.#raw.setHeader('content-type', 'application/json');
    this.#raw.end(JSON.stringify(value));
    return this;
  }

  send(text) {
    this.#raw.end(String(text));
    return this;
  }
}

async function readBody(request) {
  const parts = [];
  let size = 0;
  for await (const part of request) {
    size += part.length;
    if (size > BODY_MAX) {
      throw Object.assign(new Error(`a body has at most ${BODY_MAX} bytes`), { status: 413 });
    }
    parts.push(part);
  }
  const text = Buffer.concat(parts).toString();
  if (!/\bjson\b/.test(request.headers['content-type'] ?? '') || text === '') {
    return text;
  }
  try {
    return JSON.parse(text);
  } catch {
    throw Object.assign(new Error('the body is not JSON'), { status: 400 });
  }
}

class Host {
  #store;
  #folder;
  #project; // name -> options of store.project(), such as its token
  #modules = new Map(); // project and function -> exports

  constructor(store, folder, project = () => ({})) {
    this.#store = store;
    this.#folder = folder;
    this.#project = project;
    this.server = http.createServer((request, response) => this.#serve(request, response));
  }

  // Each project loads a file for itself, in a context whose `kv` is the project's.
  #load(project, name) {
    const id = `${project}/${name}`;
    const known = this.#modules.get(id);
    if (known !== undefined) {
      return known;
    }
    const file = path.join(this.#folder, `${name}.js`);
    if (!fs.existsSync(file)) {
      return null;
    }
    const module = { exports: {} };
    const context = vm.createContext({
      kv: this.#store.project(project, this.#project(project)),
      module,
      exports: module.exports,
      require: createRequire(file),
      console, fetch, Buffer, URL, URLSearchParams, setTimeout, clearTimeout, TextEncoder, TextDecoder,
    });
    vm.runInContext(fs.readFileSync(file, 'utf8'), context, { filename: file });
    this.#modules.set(id, module.exports);
    return module.exports;
  }

  async #serve(raw, response) {
    const result = new Response(response);
    try {
      const url = new URL(raw.url, 'http://host');
      const [project, name, part, ...more] = url.pathname.split('/').slice(1);
      const valid = [project, name, part ?? 'x'].every((word) => NAME.test(word)) && more.length === 0;
      const exported = valid ? this.#load(project, name) : null;
      const handler = part === undefined ? exported : exported?.[part];
      if (typeof handler !== 'function') {
        result.status(404).json({ error: 'there is no such function' });
        return;
      }
      await handler(
        {
          method: raw.method,
          path: url.pathname,
          baseUrl: `http://${raw.headers.host}/${project}`,
          query: Object.fromEntries(url.searchParams),
          headers: raw.headers,
          ip: raw.socket.remoteAddress,
          body: await readBody(raw),
        },
        result,
      );
      if (!response.writableEnded) {
        response.end();
      }
    } catch (error) {
      if (!response.headersSent) {
        result.status(error.status ?? 500).json({ error: error.message, code: error.code });
      } else {
        response.destroy();
      }
    }
  }

  listen(port) {
    return new Promise((resolve, reject) => {
      this.server.once('error', reject);
      this.server.listen(port, '127.0.0.1', () => resolve(this.server.address().port));
    });
  }

  close() {
    this.server.closeAllConnections();
    return new Promise((resolve) => this.server.close(resolve));
  }
}

async function main() {
  const { values } = require('node:util').parseArgs({
    options: {
      nodes: { type: 'string', default: '127.0.0.1:7101,127.0.0.1:7102,127.0.0.1:7103' },
      functions: { type: 'string', default: path.join(__dirname, 'functions') },
      port: { type: 'string', default: '8080' },
    },
  });
  const store = await connect({ nodes: values.nodes });
  const host = new Host(store, path.resolve(values.functions));
  console.log(`http://127.0.0.1:${await host.listen(Number(values.port))}/PROJECT/FUNCTION`);
}

module.exports = { Host };

if (require.main === module) {
  main().catch((error) => {
    console.error(error.message);
    process.exit(1);
  });
}
