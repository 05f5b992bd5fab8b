// `from` is the API whose answers are kept.
module.exports = async function (req, res) {
  const cacheKey = `api:users:${req.query.id}`;
  let user = await kv.get(cacheKey);
  if (user) {
    return res.json({ user, cached: true });
  }
  const response = await fetch(`${req.query.from}/users/${req.query.id}`);
  user = await response.json();
  await kv.set(cacheKey, user, Number(req.query.ttl || 600000));
  return res.json({ user, cached: false });
};
