const crypto = require('crypto');

const DAY = 24 * 3600 * 1000;

module.exports = async function (req, res) {
  if (req.method === 'POST') {
    const sessionId = crypto.randomUUID();
    await kv.set(`session:${sessionId}`, { userId: req.body.userId, createdAt: Date.now() }, DAY);
    return res.json({ sessionId });
  }
  const session = await kv.get(`session:${req.query.sessionId}`);
  if (!session) {
    return res.status(401).json({ error: 'Invalid or expired session' });
  }
  return res.json({ userId: session.userId });
};
