module.exports = async function (req, res) {
  const count = ((await kv.get('counter')) || 0) + 1;
  await kv.set('counter', count);
  res.json({ count });
};

// The same, exact under concurrency.
module.exports.exact = async function (req, res) {
  res.json({ count: await kv.incr('exact') });
};

// The version in the value that the contract suggests.
module.exports.versioned = async function (req, res) {
  const entry = (await kv.get('versioned')) || { value: 0, version: 0 };
  entry.value++;
  entry.version++;
  await kv.set('versioned', entry);
  res.json(entry);
};
