const LIMIT = 100;

module.exports = async function (req, res) {
  const key = `ratelimit:${req.headers['x-client-id'] || req.ip}`;
  let requestCount = (await kv.get(key)) || 0;
  if (requestCount >= LIMIT) {
    return res.status(429).json({ error: 'Rate limit exceeded', message: 'Maximum 100 requests per hour' });
  }
  requestCount++;
  await kv.set(key, requestCount, 3600000);
  res.set({ 'X-RateLimit-Limit': String(LIMIT), 'X-RateLimit-Remaining': String(LIMIT - requestCount) });
  return res.json({ message: 'Success', requestCount });
};
