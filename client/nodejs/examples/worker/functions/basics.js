module.exports = async function (req, res) {
  await kv.set('user:name', 'Alice');
  const name = await kv.get('user:name');
  const exists = await kv.has('user:name');
  const deleted = await kv.delete('user:name');
  const again = await kv.delete('user:name');
  res.json({ name, exists, deleted, again });
};

module.exports.clear = async function (req, res) {
  const result = await kv.clear();
  res.json({ message: 'All keys cleared', undefined: result === undefined });
};

module.exports.errors = async function (req, res) {
  try {
    await kv.set('myKey', undefined);
    res.json({ stored: true });
  } catch (error) {
    res.status(500).json({ error: 'Storage error' });
  }
};
