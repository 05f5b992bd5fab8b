const zlib = require('zlib');

module.exports = async function (req, res) {
  const key = `large:${req.query.id}`;
  if (req.method === 'POST') {
    const packed = zlib.gzipSync(JSON.stringify(req.body)).toString('base64');
    await kv.set(key, packed);
    return res.json({ bytes: packed.length });
  }
  const stored = await kv.get(key);
  if (stored === null) {
    return res.status(404).json({ error: 'Key not found' });
  }
  return res.json({ data: JSON.parse(zlib.gunzipSync(Buffer.from(stored, 'base64')).toString()) });
};
