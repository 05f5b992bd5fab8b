const KEY = 'game:leaderboard';

module.exports = async function (req, res) {
  let leaderboard = (await kv.get(KEY)) || [];
  if (req.method === 'POST') {
    const { player, score } = req.body;
    leaderboard.push({ player, score, timestamp: Date.now() });
    leaderboard.sort((a, b) => b.score - a.score);
    leaderboard = leaderboard.slice(0, 10);
    await kv.set(KEY, leaderboard);
  }
  res.json({ leaderboard });
};
