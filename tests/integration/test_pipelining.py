"""Many commands in flight on one connection: answers in order, effects in order."""

from harness.case import ClusterTest, quick, sanitizer
from harness.resp import Client, encode


class PipeliningTest(ClusterTest):
    @quick
    @sanitizer
    def test_answers_come_in_order(self):
        """Writes, reads and local commands mixed, on leader and followers: each read sees the writes
        before it on its connection and none behind."""
        cluster = self.start_cluster(shards=1)
        for node in cluster.nodes:
            with self.subTest(node=node.id), node.client() as client:
                client.call("FLUSHDB")
                commands, expected = [], []
                for number in range(1000):
                    value = str(number).encode()
                    commands += [("SET", "k", value), ("GET", "k"), ("ECHO", value), ("DEL", "gone")]
                    expected += ["OK", value, value, 0]
                self.assertEqual(client.pipeline(commands), expected)

    def test_one_connection_many_shards(self):
        """AUTH in the middle of a pipeline: later commands go to the new project, answers stay in
        order although different nodes carry them out."""
        cluster = self.start_cluster()
        with cluster[1].client() as client:
            commands, expected = [], []
            for number in range(200):
                project = f"p{number % 16}"
                value = str(number).encode()
                commands += [("AUTH", project, "x"), ("SET", "k", value), ("GET", "k")]
                expected += ["OK", "OK", value]
            self.assertEqual(client.pipeline(commands), expected)

    @sanitizer
    def test_ten_thousand_in_one_write(self):
        """Far more than may be in flight at once: the node reads on as it answers."""
        cluster = self.start_cluster(shards=1)
        with cluster[2].client(timeout_s=60) as client:
            replies = client.pipeline([("SET", f"k{i % 100}", i) for i in range(10000)])
            self.assertEqual(set(replies), {"OK"})
            replies = client.pipeline([("GET", f"k{i % 100}") for i in range(10000)])
            self.assertEqual(replies, [str(9900 + i % 100).encode() for i in range(10000)])

    def test_client_that_does_not_read(self):
        """Answers pile up only so far; then the node stops reading that client and serves others."""
        cluster = self.start_cluster(shards=1)
        value = b"x" * 100000
        cluster[1].call("SET", "big", value)
        before = cluster[1].rss_mib()
        with cluster[1].client(timeout_s=60) as client:
            client.socket.setblocking(False)
            request, asked = encode("GET", "big") * 1000, 0
            try:
                for _ in range(200):
                    asked += client.socket.send(request)
            except BlockingIOError:
                pass
            self.assertEqual(cluster[1].call("GET", "big"), value)
            self.assertLess(cluster[1].rss_mib() - before, 200)
            client.socket.settimeout(60)
            whole = asked // len(encode("GET", "big"))
            for _ in range(min(whole, 500)):
                self.assertEqual(client.read(), value)

    def test_many_connections(self):
        cluster = self.start_cluster(shards=1)
        clients = [Client(cluster[1 + i % 3].port) for i in range(300)]
        try:
            for number, client in enumerate(clients):
                client.send("SET", f"k{number}", number)
            for client in clients:
                self.assertEqual(client.read(), "OK")
            for number, client in enumerate(clients):
                client.send("GET", f"k{(number + 7) % 300}")
            for number, client in enumerate(clients):
                self.assertEqual(client.read(), str((number + 7) % 300).encode())
        finally:
            for client in clients:
                client.close()
