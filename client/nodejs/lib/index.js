'use strict';

const { KvError } = require('./errors.js');
const { addon } = require('./native.js');
const { connect } = require('./store.js');

module.exports = { connect, KvError, version: addon.version };
