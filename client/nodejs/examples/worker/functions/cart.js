const WEEK = 7 * 24 * 3600 * 1000;

module.exports = async function (req, res) {
  const key = `cart:${req.query.userId}`;
  const cart = (await kv.get(key)) || { items: [], total: 0 };
  if (req.method === 'POST') {
    const { productId, quantity, price } = req.body;
    cart.items.push({ productId, quantity, price });
    cart.total += quantity * price;
    cart.updatedAt = Date.now();
    await kv.set(key, cart, WEEK);
    return res.json({ cart });
  }
  if (req.method === 'DELETE') {
    await kv.delete(key);
    return res.json({ message: 'Cart cleared' });
  }
  return res.json({ cart });
};
