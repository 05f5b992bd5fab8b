// Where the C library's sources are: in the source tree that this package is part of, or in the copy
// that `npm pack` takes along.
'use strict';

const fs = require('node:fs');
const path = require('node:path');

const PACKAGE = path.dirname(__dirname);
const TREE = path.resolve(PACKAGE, '../..');
const COPY = path.join(PACKAGE, 'native');
const PARTS = ['client/include', 'client/src', 'base'];

// The folder that has client/ and base/; null when there are no sources.
function find() {
  return [TREE, COPY].find((root) => fs.existsSync(path.join(root, 'client/src/open.c'))) ?? null;
}

function remove() {
  fs.rmSync(COPY, { recursive: true, force: true });
}

function copy() {
  remove();
  for (const part of PARTS) {
    fs.mkdirSync(path.join(COPY, part), { recursive: true });
    for (const name of fs.readdirSync(path.join(TREE, part))) {
      if (/\.[ch]$/.test(name)) {
        fs.copyFileSync(path.join(TREE, part, name), path.join(COPY, part, name));
      }
    }
  }
}

module.exports = { PACKAGE, find };

if (require.main === module) {
  const steps = { copy, remove };
  const step = steps[process.argv[2]];
  if (!step) {
    throw new Error('usage: sources.js copy|remove');
  }
  step();
}
