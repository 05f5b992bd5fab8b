"""Malformed, oversized and half-sent input: each gets its clear error, the node stays up."""

import os
import random
import time

from harness.case import ClusterTest, asan, quick
from harness.resp import Client, ReplyError, encode
from harness.wait import wait_for

MIB = 1 << 20


class BadInputTest(ClusterTest):
    def setUp(self):
        self.cluster = self.start_cluster(shards=1)
        self.node = self.cluster[1]
        self.node.call("SET", "kept", "value")

    def assert_unharmed(self):
        for node in self.cluster.nodes:
            self.assertTrue(node.is_running())
            self.assertEqual(node.call("GET", "kept"), b"value")

    def assert_broken(self, sent, message, node=None):
        """The node answers with exactly this protocol error and closes."""
        with (node or self.node).client() as client:
            client.send_raw(sent)
            rest = client.read_rest()
        self.assertEqual(rest, b"-ERR Protocol error: " + message + b"\r\n", f"sent {sent[:60]!r}")

    @quick
    @asan
    def test_protocol_errors_as_redis_words_them(self):
        cases = [
            (b"*abc\r\n", b"invalid multibulk length"),
            (b"*2147483648\r\n", b"invalid multibulk length"),
            (b"*1048577\r\n", b"invalid multibulk length"),
            (b"*99999999999999999999\r\n", b"invalid multibulk length"),
            (b"*1 \r\n", b"invalid multibulk length"),
            (b"*2\r\n+GET\r\n", b"expected '$', got '+'"),
            (b"*1\r\n$abc\r\n", b"invalid bulk length"),
            (b"*1\r\n$-1\r\n", b"invalid bulk length"),
            (b"*1\r\n$-99999999999\r\n", b"invalid bulk length"),
            (b"*1\r\n$99999999999999999999\r\n", b"invalid bulk length"),
            (b'SET k "unbalanced\r\n', b"unbalanced quotes in request"),
            (b"*" + b"1" * 70000, b"too big mbulk count string"),
            (b"*1\r\n$" + b"1" * 70000, b"too big bulk count string"),
            (b"x" * 70000, b"too big inline request"),
        ]
        for sent, message in cases:
            with self.subTest(sent=sent[:40]):
                self.assert_broken(sent, message)
        self.assert_unharmed()

    @quick
    def test_answers_before_the_error_are_not_lost(self):
        with self.node.client() as client:
            client.send_raw(encode("SET", "a", "1") + encode("GET", "a") + b"*x\r\n" + encode("DEL", "a"))
            self.assertEqual(client.read(), "OK")
            self.assertEqual(client.read(), b"1")
            self.assertIn(b"-ERR Protocol error", client.read_rest())
        self.assertEqual(self.node.call("GET", "a"), b"1", "what stood behind the error was carried out")

    @quick
    @asan
    def test_empty_and_oversized_keys(self):
        largest = b"k" * 65536
        for node in self.cluster.nodes:
            with self.subTest(node=node.id), node.client() as client:
                for key, size in ((b"", "0"), (largest + b"k", "65537")):
                    for command in (("SET", key, "v"), ("GET", key), ("DEL", key), ("EXISTS", key)):
                        with self.assertRaisesRegex(ReplyError, f"^TOOBIG .*{size}.*65536"):
                            client.call(*command)
                    with self.assertRaisesRegex(ReplyError, f"^TOOBIG .*{size}.*65536"):
                        client.call("DEL", "a", "b", key)
                self.assertEqual(client.call("SET", largest, "v"), "OK")
                self.assertEqual(client.call("GET", largest), b"v")
        self.assert_unharmed()

    @quick
    def test_oversized_values_and_arguments(self):
        """Skipped as they arrive, never held in memory; the connection goes on."""
        before = self.node.rss_mib()
        with self.node.client(timeout_s=60) as client:
            for size in (16 * MIB + 1, 100 * MIB):
                client.send_raw(b"*3\r\n$3\r\nSET\r\n$1\r\nk\r\n$%d\r\n" % size)
                for begin in range(0, size, MIB):
                    client.send_raw(b"x" * min(MIB, size - begin))
                client.send_raw(b"\r\n")
                with self.assertRaisesRegex(ReplyError, f"^TOOBIG .*{size}"):
                    client.read()
            self.assertEqual(client.call("PING"), "PONG")
            self.assertIsNone(client.call("GET", "k"))
        self.assertLess(self.node.rss_mib() - before, 64)
        self.assert_unharmed()

    def test_too_many_arguments(self):
        with self.node.client() as client:
            reply = client.pipeline([("EXISTS", *["kept"] * 60000)])[0]
            self.assertEqual(reply, 60000)
        self.assert_broken(b"*70000\r\n", b"invalid multibulk length")

    @quick
    def test_half_sent_command(self):
        """A command that stalls in the middle holds up nobody and is carried out when it is whole."""
        whole = encode("SET", "slow", "x" * 1000)
        for cut in (1, 4, 10, 25, len(whole) - 1):
            with self.node.client() as client:
                client.send_raw(whole[:cut])
                time.sleep(0.05)
                self.assertEqual(self.node.call("PING"), "PONG")
                client.send_raw(whole[cut:])
                self.assertEqual(client.read(), "OK")
        with self.node.client() as client:
            client.send_raw(encode("DEL", "slow")[:-1])
        time.sleep(0.2)
        self.assertEqual(self.node.call("EXISTS", "slow"), 1, "a command that never ended took effect")

    def test_byte_by_byte(self):
        conversation = encode("SET", "k", "v1") + b"GET k\r\n" + encode("DEL", "k", "x")
        with self.node.client() as client:
            for byte in conversation:
                client.send_raw(bytes([byte]))
            self.assertEqual([client.read() for _ in range(3)], ["OK", b"v1", 1])

    def test_many_stalled_large_values(self):
        """Announced sizes cost nothing: a hundred connections that promise 16 MiB each and send a
        little of it do not grow the node by what they promise."""
        before = self.node.rss_mib()
        clients = []
        for _ in range(100):
            client = Client(self.node.port)
            client.send_raw(b"*3\r\n$3\r\nSET\r\n$1\r\nk\r\n$16777216\r\n" + b"x" * 100)
            clients.append(client)
        self.assert_unharmed()
        self.assertLess(self.node.rss_mib() - before, 100)
        for client in clients:
            client.close()

    def test_inline_commands(self):
        with self.node.client() as client:
            client.send_raw(b"\r\n\r\nPING\r\n")
            self.assertEqual(client.read(), "PONG")
            client.send_raw(b'  set  "a key"  \'a value\' \r\nget "a\\x20key"\n')
            self.assertEqual(client.read(), "OK")
            self.assertEqual(client.read(), b"a value")

    @quick
    def test_binary_garbage(self):
        """Whatever arrives, on the clients' port or the peers': an error or silence, then the end."""
        seed = random.randrange(1 << 32)
        generator = random.Random(seed)
        for number in range(60):
            for port in (self.node.port, self.node.peer_port):
                client = Client(port, timeout_s=0.3)
                try:
                    client.send_raw(generator.randbytes(generator.randrange(1, 5000)))
                    if number % 2:
                        client.read_rest()
                except Exception:  # noqa: BLE001 - a reset is as good as an answer
                    pass
                finally:
                    client.close()
        self.assert_unharmed()
        self.report(f"seed {seed}")

    def test_garbage_at_the_http_port(self):
        for sent in (os.urandom(2000), b"GET /" + b"a" * 100000 + b" HTTP/1.1\r\n\r\n", b"\0" * 500):
            try:
                client = Client(self.node.http_port, timeout_s=0.5)
                client.send_raw(sent)
                client.read_rest()
            except Exception:  # noqa: BLE001
                pass
        self.assert_unharmed()

    def test_connection_limit(self):
        cluster = self.start_cluster(shards=1, max_connections=50)
        node = cluster[2]
        clients = []

        def takes_a_place():
            client = Client(node.port)
            try:
                client.call("PING")
            except BaseException:
                client.close()
                raise
            clients.append(client)
            return len(clients) == 50

        try:
            # Those that the harness has just closed may still be counted.
            wait_for(takes_a_place, "fifty connections", pause_s=0.01)
            with Client(node.port) as refused:
                self.assertRegex(refused.read_rest(), b"^-ERR max number of clients reached")
        finally:
            for client in clients:
                client.close()
        wait_for(lambda: node.call("PING") == "PONG", "room for new connections")

    @quick
    def test_bad_arguments(self):
        cases = [
            (("AUTH",), "wrong number of arguments"),
            (("AUTH", "p" * 129, "x"), "128"),
            (("SELECT", "abc"), "ERR"),
            (("SELECT", "-1"), "ERR"),
            (("CLIENT", "NOSUCH"), "unknown subcommand"),
            (("CONFIG", "SET", "save", ""), "ERR"),
            (("HELLO", "x"), "Protocol version is not an integer|NOPROTO"),
            (("FLUSHDB", "NOW"), "syntax error"),
            (("SET", "k"), "wrong number of arguments"),
            (("DBSIZE", "x"), "wrong number of arguments"),
            (("TTL",), "wrong number of arguments"),
        ]
        with self.node.client() as client:
            for command, message in cases:
                with self.subTest(command=command), self.assertRaisesRegex(ReplyError, message):
                    client.call(*command)
            self.assertEqual(client.call("PING"), "PONG")
            self.assertEqual(client.call("GET", "kept"), b"value")
