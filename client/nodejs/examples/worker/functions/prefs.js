const DEFAULTS = { theme: 'light', language: 'en', notifications: true };

module.exports = async function (req, res) {
  const key = `prefs:${req.query.userId}`;
  if (req.method === 'GET') {
    return res.json({ preferences: (await kv.get(key)) || DEFAULTS });
  }
  const preferences = { ...((await kv.get(key)) || {}), ...req.body };
  await kv.set(key, preferences);
  return res.json({ preferences });
};
