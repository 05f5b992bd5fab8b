"""Keys expire on every node alike, by the cluster's time."""

import time

from harness.case import ClusterTest, asan, quick, sanitizer
from harness.cluster import Options
from harness.resp import ReplyError, project_in_shard
from harness.wait import wait_for


class ExpiryTest(ClusterTest):
    @quick
    @asan
    def test_keys_vanish_on_all_nodes(self):
        """Never early, soon after the time, on every node, and gone for all commands at once."""
        cluster = self.start_cluster()
        projects = [project_in_shard(shard, 8) for shard in range(8)]
        for project in projects:
            with cluster[1].client(project) as client:
                client.call("SET", "lasting", "1")
                client.call("SET", "fading", "1", "PX", 700)
                written = time.monotonic()
            clients = [node.client(project) for node in cluster.nodes]
            while time.monotonic() < written + 0.4:
                for client in clients:
                    asked = client.call("GET", "fading")
                    # Checked only when the answer was in before the time was up.
                    if time.monotonic() < written + 0.6:
                        self.assertEqual(asked, b"1", "expired early")
            wait_for(lambda: clients[0].call("GET", "fading") is None, "the key to expire", 5)
            late = time.monotonic() - written - 0.7
            self.assertLess(late, 2 * Options.slowdown())
            for client in clients:
                self.assertIsNone(client.call("GET", "fading"))
                self.assertEqual(client.call("EXISTS", "fading"), 0)
                self.assertEqual(client.call("TTL", "fading"), -2)
                self.assertEqual(client.call("DEL", "fading"), 0)
                self.assertEqual(client.call("DBSIZE"), 1)
                self.assertEqual(client.call("GET", "lasting"), b"1")
                client.close()

    def test_idle_cluster_removes_expired_keys(self):
        """Nobody reads or writes: ticks alone let the keys go, in the counts of every node."""
        cluster = self.start_cluster(shards=1)
        with cluster[2].client() as client:
            client.pipeline([("SET", f"k{i}", "v", "PX", 300 + i) for i in range(1000)])
            self.assertGreater(cluster.leader_of().shards()[0]["keys"], 0)
        wait_for(
            lambda: all(node.shards()[0]["keys"] == 0 for node in cluster.nodes),
            "1000 keys to expire on all nodes",
            20,
        )
        # And when nothing is left to expire, the log rests.
        quiet = cluster[1].shards()[0]["commit"]
        time.sleep(1)
        self.assertLessEqual(cluster[1].shards()[0]["commit"], quiet + 1)

    @quick
    def test_ttl_values(self):
        cluster = self.start_cluster(shards=1)
        for node in cluster.nodes:
            with node.client() as client:
                client.call("SET", "k", "v", "EX", 100)
                self.assertTrue(80 <= client.call("TTL", "k") <= 100)
                self.assertTrue(80000 < client.call("PTTL", "k") <= 100000)
                client.call("SET", "k", "v", "KEEPTTL")
                self.assertTrue(80000 < client.call("PTTL", "k") <= 100000)
                client.call("SET", "k", "v", "PX", 15500)
                self.assertTrue(1 <= client.call("TTL", "k") <= 16)
                client.call("SET", "k", "v")
                self.assertEqual(client.call("PTTL", "k"), -1)
                now_ms = int(time.time() * 1000)
                client.call("SET", "k", "v", "PXAT", now_ms + 50000)
                # The cluster's time is not this machine's clock, but it starts out close to it.
                self.assertAlmostEqual(client.call("PTTL", "k"), 50000, delta=20000)
                client.call("SET", "k", "v", "EXAT", now_ms // 1000 + 50)
                self.assertAlmostEqual(client.call("TTL", "k"), 50, delta=20)

    @quick
    def test_bad_ttls(self):
        """0, negative, not a number, overflow: refused in words, and the key stays as it was."""
        cluster = self.start_cluster(shards=1)
        with cluster[1].client() as client:
            client.call("SET", "k", "kept")
            for option in ("EX", "PX", "EXAT", "PXAT"):
                for value in ("0", "-1", "-9223372036854775808", "9223372036854775807"):
                    if option in ("PX", "PXAT") and value == "9223372036854775807":
                        continue  # may be taken as a very long time
                    with self.assertRaisesRegex(
                        ReplyError, "^ERR invalid expire time in 'set' command", msg=f"{option} {value}"
                    ):
                        client.call("SET", "k", "v", option, value)
                for value in ("ten", "", "1.5", " 1", "99999999999999999999", "0x10"):
                    with self.assertRaisesRegex(
                        ReplyError, "^ERR value is not an integer or out of range", msg=f"{option} {value!r}"
                    ):
                        client.call("SET", "k", "v", option, value)
            self.assertEqual(client.call("GET", "k"), b"kept")
            self.assertEqual(client.call("PTTL", "k"), -1)

    @sanitizer
    def test_leader_change_does_not_revive(self):
        """Seen expired once, a key never comes back, whoever leads; and none goes early."""
        cluster = self.start_cluster(shards=1, rebalance="no")
        with cluster[1].client() as client:
            client.call("SET", "short", "1", "PX", 200)
            client.call("SET", "long", "1", "PX", 60000)
        wait_for(lambda: cluster[1].call("GET", "short") is None, "expiry")
        for _ in range(3):
            leader = cluster.leader_of()
            leader.kill()
            others = cluster.others(leader)
            for node in others:
                self.assertIsNone(wait_for(lambda n=node: [n.call("GET", "short")], "a read")[0])
                self.assertEqual(node.call("GET", "long"), b"1")
            leader.start()
            cluster.wait_ready()
        left = cluster[2].call("PTTL", "long")
        self.assertTrue(0 < left <= 60000)

    def test_time_goes_on_while_the_cluster_is_down(self):
        cluster = self.start_cluster(shards=1)
        cluster[1].call("SET", "k", "v", "PX", 1500)
        cluster[1].call("SET", "stays", "v", "EX", 1000)
        for node in cluster.nodes:
            node.stop()
        time.sleep(1.6)
        cluster.start()
        # The new leader's clock settles, then a tick takes the key away, for good.
        for node in cluster.nodes:
            wait_for(lambda n=node: n.call("GET", "k") is None, "the key to expire", 5)
        for node in cluster.nodes:
            self.assertIsNone(node.call("GET", "k"))
            self.assertGreater(node.call("TTL", "stays"), 900)
