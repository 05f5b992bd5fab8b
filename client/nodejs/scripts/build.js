// Builds the addon with the C compiler, and downloads nothing.
//
//   npm run build                      build/invoke_kv.node
//   npm run build -- --sanitize        build-asan/invoke_kv.node, with AddressSanitizer and UBSan
//   npm run build -- --system          against an installed libinvokekv (pkg-config)
//
// CC names the compiler, NODE_INCLUDE_DIR the folder of node_api.h.
'use strict';

const { execFileSync, spawn } = require('node:child_process');
const fs = require('node:fs');
const os = require('node:os');
const path = require('node:path');
const sources = require('./sources.js');

const { PACKAGE } = sources;
const CC = process.env.CC || 'cc';
const SANITIZE = process.argv.includes('--sanitize');
const SYSTEM = process.argv.includes('--system') || sources.find() === null;
const OUT = path.join(PACKAGE, SANITIZE ? 'build-asan' : 'build');

function fail(message) {
  console.error(`invoke-kv: ${message}`);
  process.exit(1);
}

// Headers of N-API: beside this Node.js, where Debian's libnode-dev has them, or in the package
// node-api-headers. They are the same in all versions.
function findHeaders() {
  const places = [
    process.env.NODE_INCLUDE_DIR,
    path.resolve(path.dirname(fs.realpathSync(process.execPath)), '../include/node'),
    '/usr/include/node',
    '/usr/include/nodejs/src',
  ];
  try {
    places.push(require('node-api-headers').include_dir);
  } catch {
    // It is needed only where the others are missing.
  }
  const found = places.find((place) => place && fs.existsSync(path.join(place, 'node_api.h')));
  return found ?? fail('node_api.h is missing: install libnode-dev or the npm package node-api-headers');
}

function pkgConfig(...parameters) {
  try {
    return execFileSync('pkg-config', parameters, { encoding: 'utf8', stdio: ['ignore', 'pipe', 'pipe'] })
      .trim()
      .split(/\s+/)
      .filter(Boolean);
  } catch {
    return fail(`pkg-config ${parameters.join(' ')} failed: are the development packages installed?`);
  }
}

// OpenSSL and hiredis are linked in where that is possible, and hidden: Node.js carries an OpenSSL of
// its own, whose symbols would take the place of the system's.
function libraries() {
  if (SYSTEM) {
    return ['-Wl,--exclude-libs,ALL', ...pkgConfig('--libs', 'invokekv')];
  }
  const folders = ['hiredis', 'openssl'].flatMap((name) => pkgConfig('--variable=libdir', name));
  const archive = (name) => folders.map((folder) => `${folder}/lib${name}.a`).find((file) => fs.existsSync(file));
  const link = (module, ...names) => {
    const files = names.map(archive);
    return files.every(Boolean) ? files : pkgConfig('--libs', module);
  };
  return [
    '-Wl,--exclude-libs,ALL', ...link('hiredis', 'hiredis'), ...link('openssl', 'ssl', 'crypto'),
    '-lpthread', '-ldl',
  ];
}

function listC(folder) {
  return fs
    .readdirSync(folder)
    .filter((name) => name.endsWith('.c'))
    .map((name) => path.join(folder, name));
}

function compilation() {
  const common = [
    '-std=c11', '-D_GNU_SOURCE', `-DIKV_VERSION="${require('../package.json').version}"`, '-fPIC',
    '-fvisibility=hidden', '-ffunction-sections', '-fdata-sections', '-fno-omit-frame-pointer',
    '-fstack-protector-strong', '-Wall', '-Wextra', '-g',
    ...(SANITIZE ? ['-O1', '-fsanitize=address,undefined', '-fno-sanitize-recover=all'] : ['-O2']),
  ];
  const own = listC(path.join(PACKAGE, 'src'));
  const headers = `-I${findHeaders()}`;
  if (SYSTEM) {
    const flags = [...common, headers, ...pkgConfig('--cflags', 'invokekv')];
    return own.map((source) => ({ source, flags }));
  }
  const root = sources.find();
  const library = [...listC(path.join(root, 'client/src')), ...listC(path.join(root, 'base'))];
  const foreign = pkgConfig('--cflags', 'hiredis', 'openssl');
  return [
    ...library.map((source) => ({ source, flags: [...common, `-I${root}`, ...foreign] })),
    ...own.map((source) => ({
      source,
      flags: [...common, headers, '-Wconversion', `-I${path.join(root, 'client/include')}`],
    })),
  ];
}

function run(command, parameters) {
  return new Promise((resolve) => {
    const child = spawn(command, parameters, { stdio: 'inherit' });
    child.on('error', () => fail(`${command} cannot be run; install a C compiler, or name one in CC`));
    child.on('close', (status) => (status === 0 ? resolve() : fail(`${command} failed`)));
  });
}

async function main() {
  const objects = path.join(OUT, 'objects');
  fs.rmSync(objects, { recursive: true, force: true });
  fs.mkdirSync(objects, { recursive: true });
  const units = compilation().map(({ source, flags }, i) => ({
    flags: [...flags, '-c', source, '-o', path.join(objects, `${i}-${path.basename(source, '.c')}.o`)],
  }));
  const files = units.map(({ flags }) => flags.at(-1));
  const worker = async () => {
    while (units.length > 0) {
      await run(CC, units.pop().flags);
    }
  };
  await Promise.all(Array.from({ length: Math.min(2, os.availableParallelism()) }, worker));
  // Another process may have the old file loaded: the new one takes its place whole.
  const target = path.join(OUT, 'invoke_kv.node');
  await run(CC, [
    '-shared', '-o', `${target}.new`, ...files, '-Wl,--gc-sections', '-Wl,-z,relro,-z,now',
    `-Wl,--version-script=${path.join(PACKAGE, 'src/addon.map')}`,
    ...(SANITIZE ? ['-fsanitize=address,undefined'] : []), ...libraries(),
  ]);
  fs.renameSync(`${target}.new`, target);
  fs.rmSync(objects, { recursive: true, force: true });
}

main();
