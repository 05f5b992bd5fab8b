const crypto = require('crypto');

module.exports = async function (req, res) {
  if (req.method === 'POST') {
    const shareId = crypto.randomUUID();
    const ttl = Number(req.query.ttl || 3600000);
    await kv.set(`share:${shareId}`, req.body, ttl);
    return res.json({ shareId, expiresIn: ttl / 1000, url: `${req.baseUrl}/share?id=${shareId}` });
  }
  const data = await kv.get(`share:${req.query.id}`);
  if (!data) {
    return res.status(404).json({ error: 'Share link expired or not found' });
  }
  return res.json({ data });
};
