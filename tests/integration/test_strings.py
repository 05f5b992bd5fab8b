"""Counters, parts of values, expiry, renaming, SCAN and conditions, on three nodes."""

import random
import threading

from harness.case import ClusterTest, asan, long, quick, sanitizer
from harness.redis_cli import SecondsLeft, check_redis_cli
from harness.resp import ReplyError
from harness.wait import wait_for


def scan_all(client, *options, between=None):
    """The keys of one whole scan, in the order of the answers."""
    cursor, keys = b"0", []
    while True:
        cursor, page = client.call("SCAN", cursor, *options)
        keys += page
        if cursor == b"0":
            return keys
        if between is not None:
            client = between(client)


class StringTest(ClusterTest):
    @long
    @quick
    @asan
    def test_redis_cli_on_every_node(self):
        """What redis-cli shows, in RESP2 and RESP3; Redis shows the same."""
        cluster = self.start_cluster()
        conversation = [
            ("FLUSHALL", "OK"),
            ("INCR n", "(integer) 1"),
            ("INCRBY n 10", "(integer) 11"),
            ("DECR n", "(integer) 10"),
            ("DECRBY n 15", "(integer) -5"),
            ("INCRBYFLOAT n 0.5", '"-4.5"'),
            ("INCR n", "(error) ERR value is not an integer or out of range"),
            ("SET n 9223372036854775807", "OK"),
            ("INCR n", "(error) ERR increment or decrement would overflow"),
            ("APPEND s hello", "(integer) 5"),
            ("APPEND s -world", "(integer) 11"),
            ("STRLEN s", "(integer) 11"),
            ("GETRANGE s 0 4", '"hello"'),
            ("GETRANGE s -5 -1", '"world"'),
            ("SETRANGE s 6 WORLD", "(integer) 11"),
            ("GETSET s new", '"hello-WORLD"'),
            ("SETNX s x", "(integer) 0"),
            ("SETEX t 100 v", "OK"),
            ("TTL t", SecondsLeft(100)),
            ("APPEND t w", "(integer) 2"),
            ("TTL t", SecondsLeft(100)),
            ("EXPIRE t 50 GT", "(integer) 0"),
            ("EXPIRE t 50 LT", "(integer) 1"),
            ("PERSIST t", "(integer) 1"),
            ("EXPIRETIME t", "(integer) -1"),
            ("GETEX t PX 60000", '"vw"'),
            ("RENAME t u", "OK"),
            ("TTL u", SecondsLeft(60)),
            ("RENAME t u", "(error) ERR no such key"),
            ("RENAMENX u s", "(integer) 0"),
            ("COPY u c", "(integer) 1"),
            ("TTL c", SecondsLeft(60)),
            ("EXPIRE c -1", "(integer) 1"),
            ("EXISTS c", "(integer) 0"),
            ("GETDEL u", '"vw"'),
            ("MSET a 1 b 2 a 3", "OK"),
            ("MSETNX b 5 d 6", "(integer) 0"),
            ("MGET a b d", '1) "3"\n2) "2"\n3) (nil)'),
            ("TYPE a", "string"),
            ("TYPE d", "none"),
            ("TOUCH a b d", "(integer) 2"),
            ("KEYS [ab]", '1) "a"\n2) "b"'),
            ("OBJECT ENCODING a", '"int"'),
            ("MEMORY USAGE s", "(integer) 4"),
            ("SCAN 0 MATCH [ab] COUNT 100", '1) "0"\n2) 1) "a"\n   2) "b"'),
            ("SCAN x", "(error) ERR invalid cursor"),
            ("SET a 4 IFEQ 2", "(nil)"),
            ("SET a 4 IFEQ 3", "OK"),
            ("SET fresh 1 IFVER 0", "OK"),
            ("SET fresh 1 IFVER 0", "(nil)"),
            ("DELEX a IFEQ 3", "(integer) 0"),
            ("DELEX a IFEQ 4", "(integer) 1"),
        ]
        check_redis_cli(self, cluster, conversation)

    @sanitizer
    def test_concurrent_increments_add_up(self):
        """Clients of all nodes count in one key; each sum is answered once, none is lost."""
        cluster = self.start_cluster(shards=1)
        answers = []

        def count(node):
            with node.client() as client:
                for _ in range(10):
                    answers.extend(client.pipeline([("INCR", "n")] * 50))

        threads = [threading.Thread(target=count, args=(node,)) for node in cluster.nodes * 2]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        self.assertEqual(sorted(answers), list(range(1, 3001)))

    def test_versions_guard_concurrent_writers(self):
        """Each adds to a list of its own by GETVER and SET IFVER; no addition is overwritten."""
        cluster = self.start_cluster(shards=1)
        cluster[1].call("SET", "list", "")

        def add(node, letter):
            with node.client() as client:
                for _ in range(30):
                    while True:
                        value, version = client.call("GETVER", "list")
                        if client.call("SET", "list", value + letter, "IFVER", version) is not None:
                            break

        threads = [threading.Thread(target=add, args=(node, b"xyz"[node.id - 1 : node.id])) for node in cluster.nodes]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        value = cluster[1].call("GET", "list")
        self.assertEqual(sorted(value.decode()), sorted("xyz" * 30))

    @asan
    def test_values_stay_within_max_value(self):
        cluster = self.start_cluster(shards=1)
        for node in cluster.nodes:
            with node.client(timeout_s=60) as client:
                client.call("SET", "v", b"x" * ((1 << 24) - 1))
                self.assertEqual(client.call("APPEND", "v", "y"), 1 << 24)
                for command in (("APPEND", "v", "y"), ("SETRANGE", "v", 1 << 24, "y"), ("SETRANGE", "w", 1 << 40, "y")):
                    with self.assertRaisesRegex(ReplyError, "^TOOBIG value of .* limit of 16777216 bytes"):
                        client.call(*command)
                self.assertEqual(client.call("STRLEN", "v"), 1 << 24)
                self.assertEqual(client.call("EXISTS", "w"), 0)
                # More than one answer may hold.
                with self.assertRaisesRegex(ReplyError, "^TOOBIG .*fewer keys"):
                    client.call("MGET", *["v"] * 5)

    @quick
    @asan
    def test_scan_while_keys_come_and_go(self):
        """What is there all the time is answered, whatever else is written and deleted meanwhile."""
        cluster = self.start_cluster(shards=1)
        stable = {f"stable:{i}".encode() for i in range(500)}
        with cluster[1].client() as client, cluster[2].client() as writer:
            client.pipeline([("SET", key, "v") for key in stable])
            draw = random.Random(5)

            def churn(scanner):
                name = f"stable:{draw.randrange(500)}-{draw.randrange(9)}"
                writer.call("DEL" if draw.random() < 0.5 else "INCR", name)
                return scanner

            seen = scan_all(client, "COUNT", 7, between=churn)
            self.assertLessEqual(stable, set(seen))
            self.assertEqual(len(seen), len(set(seen)))

    @asan
    def test_scan_survives_leader_changes_and_restarts(self):
        cluster = self.start_cluster(shards=1, rebalance="no")
        keys = {f"key:{i}".encode() for i in range(1000)}
        with cluster[1].client() as client:
            client.pipeline([("SET", key, "v") for key in keys])
        changes = [0]

        def change_leader(client):
            changes[0] += 1
            if changes[0] % 4 != 0:
                return client
            client.close()
            leader = cluster.leader_of()
            leader.kill()
            leader.start()
            cluster.wait_ready()
            return wait_for(lambda: leader.client(), "a connection")

        seen = scan_all(cluster[1].client(), "COUNT", 75, between=change_leader)
        self.assertGreaterEqual(changes[0], 8)
        self.assertEqual(set(seen), keys)
        self.assertEqual(len(seen), len(keys), "no key was deleted, so no part came twice")
