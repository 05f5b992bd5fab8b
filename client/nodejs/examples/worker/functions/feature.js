module.exports = async function (req, res) {
  const enabled = await kv.get(`feature:${req.query.feature || 'newUI'}`);
  res.json({ ui: enabled ? 'new' : 'old' });
};

module.exports.admin = async function (req, res) {
  const { feature, enabled } = req.body;
  await kv.set(`feature:${feature}`, enabled);
  res.json({ success: true });
};
