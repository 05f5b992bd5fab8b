"""Every command, through redis-cli on every node and over raw connections."""

import subprocess

from harness.case import ClusterTest, asan, quick
from harness.redis_cli import SecondsLeft, check_redis_cli
from harness.resp import ReplyError, Status


class CommandTest(ClusterTest):
    @quick
    @asan
    def test_redis_cli_on_every_node(self):
        """The five operations and their neighbours as a user types them, in RESP2 and RESP3."""
        cluster = self.start_cluster()
        conversation = [
            (("PING",), "PONG"),
            (("PING", "hey"), '"hey"'),
            (("ECHO", "hello world"), '"hello world"'),
            (("SET", "k", "v1"), "OK"),
            (("GET", "k"), '"v1"'),
            (("GET", "missing"), "(nil)"),
            (("SET", "k", "v2", "NX"), "(nil)"),
            (("SET", "k", "v2", "XX", "GET"), '"v1"'),
            (("EXISTS", "k", "missing", "k"), "(integer) 2"),
            (("TTL", "k"), "(integer) -1"),
            (("TTL", "missing"), "(integer) -2"),
            (("PTTL", "missing"), "(integer) -2"),
            (("SET", "t", "x", "EX", "100"), "OK"),
            (("TTL", "t"), SecondsLeft(100)),
            (("SET", "t", "y", "KEEPTTL"), "OK"),
            (("TTL", "t"), SecondsLeft(100)),
            (("SET", "t", "z"), "OK"),
            (("TTL", "t"), "(integer) -1"),
            (("DBSIZE",), "(integer) 2"),
            (("DEL", "k", "missing"), "(integer) 1"),
            (("UNLINK", "t"), "(integer) 1"),
            (("SET", "a", "1"), "OK"),
            (("FLUSHDB",), "OK"),
            (("DBSIZE",), "(integer) 0"),
            (("SELECT", "0"), "OK"),
        ]
        check_redis_cli(self, cluster, conversation)

    def test_interactive_session(self):
        """redis-cli fed from a pipe keeps one connection; AUTH changes the project midway."""
        cluster = self.start_cluster()
        text = "SET k default-value\nAUTH shop anything\nGET k\nSET k shop-value\nGET k\nAUTH default x\nGET k\n"
        answer = cluster[2].cli(stdin=text)
        self.assertEqual(answer, "OK\nOK\n\nOK\nshop-value\nOK\ndefault-value")

    def test_projects_are_apart(self):
        """One project never sees, counts or clears another's keys, whatever shards they live in."""
        cluster = self.start_cluster()
        projects = [f"p{number}" for number in range(20)]
        for project in projects:
            with cluster[1].client(project) as client:
                client.call("SET", "k", project)
                client.call("SET", f"only-{project}", "1")
        for project in projects:
            with cluster[2].client(project) as client:
                self.assertEqual(client.call("GET", "k"), project.encode())
                self.assertEqual(client.call("DBSIZE"), 2)
        with cluster[3].client("p0") as client:
            client.call("FLUSHDB")
            self.assertEqual(client.call("DBSIZE"), 0)
        for project in projects[1:]:
            with cluster[3].client(project) as client:
                self.assertEqual(client.call("DBSIZE"), 2, project)

    def test_set_options(self):
        cluster = self.start_cluster(shards=1)
        for node in cluster.nodes:
            with self.subTest(node=node.id), node.client() as client:
                self._check_set_options(client)

    def _check_set_options(self, client):
        client.call("FLUSHDB")
        self.assertIsNone(client.call("SET", "k", "v", "XX"))
        self.assertIsNone(client.call("SET", "k", "v1", "NX", "GET"))
        self.assertEqual(client.call("SET", "k", "v2", "NX", "GET"), b"v1")
        self.assertEqual(client.call("GET", "k"), b"v1")
        self.assertEqual(client.call("SET", "k", "v3", "GET"), b"v1")
        self.assertEqual(client.call("set", "k", "v4", "px", "60000"), "OK")
        self.assertTrue(40000 <= client.call("PTTL", "k") <= 60000)
        self.assertEqual(client.call("SET", "k", "v5", "EXAT", "4102444800"), "OK")
        self.assertGreater(client.call("TTL", "k"), 1000000)
        self.assertEqual(client.call("SET", "k", "v6", "PXAT", "4102444800000"), "OK")
        self.assertGreater(client.call("PTTL", "k"), 1000000000)
        # A time that has passed: the key is gone at once.
        self.assertEqual(client.call("SET", "k", "v7", "PXAT", "1000"), "OK")
        self.assertIsNone(client.call("GET", "k"))
        self.assertEqual(client.call("EXISTS", "k"), 0)
        for wrong in (
            ("NX", "XX"),
            ("EX",),
            ("EX", "10", "PX", "10"),
            ("EX", "10", "KEEPTTL"),
            ("NOSUCH",),
        ):
            with self.assertRaisesRegex(ReplyError, "syntax error", msg=f"SET k v {wrong}"):
                client.call("SET", "k", "v", *wrong)

    def test_keys_and_values_of_all_kinds(self):
        cluster = self.start_cluster(shards=1)
        every_byte = bytes(range(256))
        largest_key = every_byte * 256
        cases = [
            (every_byte, every_byte * 100),
            (b"empty", b""),
            (b"\0", b"\r\n+OK\r\n"),
            (largest_key, b"largest key"),
            ("grüße".encode(), "日本語".encode()),
            (b"*3\r\n$3\r\nSET\r\n", b"$-1\r\n"),
        ]
        for writer in cluster.nodes:
            reader = cluster.others(writer)[0]
            with writer.client() as client, reader.client() as other:
                client.call("FLUSHDB")
                for key, value in cases:
                    self.assertEqual(client.call("SET", key, value), "OK")
                    self.assertEqual(other.call("GET", key), value)
                self.assertEqual(other.call("DBSIZE"), len(cases))

    @asan
    def test_large_values(self):
        """Up to the limit of 16 MiB through leader and followers; one byte more is refused in words
        and the connection goes on."""
        # Sanitizers make large values slow; a timeout here would be about them.
        cluster = self.start_cluster(shards=1)
        for node in cluster.nodes:
            with self.subTest(node=node.id), node.client(timeout_s=60) as client:
                for size in (1 << 20, (1 << 24) - 1, 1 << 24):
                    value = bytes([node.id]) * size
                    self.assertEqual(client.call("SET", "large", value), "OK")
                    self.assertEqual(client.call("GET", "large"), value)
                with self.assertRaisesRegex(ReplyError, "^TOOBIG .*16777217.*16777216"):
                    client.call("SET", "large", b"x" * ((1 << 24) + 1))
                self.assertEqual(client.call("GET", "large"), value)

    @quick
    def test_connection_commands(self):
        cluster = self.start_cluster(shards=1)
        with cluster[1].client() as client:
            hello = client.call("HELLO", 3)
            self.assertIsInstance(hello, dict)
            self.assertEqual(hello[b"proto"], 3)
            hello = client.call("HELLO", 2)
            self.assertIsInstance(hello, list)
            with self.assertRaisesRegex(ReplyError, "^NOPROTO"):
                client.call("HELLO", 4)
            self.assertEqual(client.call("CLIENT", "SETNAME", "tester"), "OK")
            self.assertEqual(client.call("CLIENT", "GETNAME"), b"tester")
            number = client.call("CLIENT", "ID")
            self.assertGreater(number, 0)
            self.assertIn(b"name=tester", client.call("CLIENT", "LIST"))
            self.assertEqual(client.call("CLIENT", "SETINFO", "LIB-NAME", "x"), "OK")
            self.assertEqual(client.call("CLIENT", "NO-EVICT", "on"), "OK")
            self.assertGreater(client.call("COMMAND", "COUNT"), 10)
            self.assertEqual(len(client.call("COMMAND")), client.call("COMMAND", "COUNT"))
            self.assertIsInstance(client.call("CONFIG", "GET", "save"), list)
            self.assertIsInstance(client.call("CONFIG", "GET", "appendonly"), list)
            self.assertEqual(client.call("SELECT", "0"), "OK")
            with self.assertRaisesRegex(ReplyError, "^ERR"):
                client.call("SELECT", "1")
            self.assertEqual(client.call("AUTH", "somebody", "anything"), "OK")
            self.assertEqual(client.call("QUIT"), "OK")
            self.assertEqual(client.read_rest(), b"")

    def test_unknown_commands_keep_the_connection(self):
        cluster = self.start_cluster(shards=1)
        with cluster[1].client() as client:
            with self.assertRaisesRegex(ReplyError, "^ERR unknown command 'NOSUCH'"):
                client.call("NOSUCH", "a", "b")
            with self.assertRaisesRegex(ReplyError, "^ERR wrong number of arguments for 'get' command"):
                client.call("GET")
            self.assertEqual(client.call("PING"), Status("PONG"))

    @quick
    def test_info(self):
        cluster = self.start_cluster()
        for node in cluster.nodes:
            text = node.call("INFO").decode()
            for section in ("Server", "Cluster", "Shards", "Clients", "Memory", "Stats"):
                self.assertIn(f"# {section}\r\n", text)
            shards = node.shards()
            self.assertEqual(sorted(shards), list(range(8)))
            for shard in shards.values():
                self.assertIn(shard["role"], ("leader", "follower"))
                self.assertIn(shard["leader"], (1, 2, 3))
                self.assertGreaterEqual(shard["term"], 1)
                self.assertGreaterEqual(shard["commit"], 1)
                self.assertIn("applied", shard)
        led = sum(len(node.led_shards()) for node in cluster.nodes)
        self.assertEqual(led, 8, "each shard has one leader")

    def test_redis_benchmark_runs_unchanged(self):
        cluster = self.start_cluster()
        for node in cluster.nodes:
            result = subprocess.run(
                ["redis-benchmark", "-h", "127.0.0.1", "-p", str(node.port), "-n", "2000", "-c", "20"]
                + ["-P", "4", "-d", "100", "-r", "1000", "-t", "ping,set,get", "--csv"],
                capture_output=True,
                text=True,
                timeout=60,
                check=False,
            )
            self.assertEqual(result.returncode, 0, result.stderr)
            self.assertEqual(result.stderr, "")
            for name in ("PING_INLINE", "SET", "GET"):
                self.assertIn(f'"{name}', result.stdout)
            self.assertNotRegex(result.stdout.lower(), "error|warning")
