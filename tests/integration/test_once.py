"""Numbered writes happen exactly once, whatever dies between a client and its answer."""

import threading
import time

from harness.case import ClusterTest, asan, quick, sanitizer
from harness.cluster import Options
from harness.once import OnceTransaction, OnceWriter, open_session, wait_for_answers
from harness.resp import ReplyError, project_in_shard
from test_restart import fill

CLIENTS = 8
KILLS = 30


class OnceTest(ClusterTest):
    def _error_of(self, node, *arguments, project=None):
        with self.assertRaises(ReplyError) as caught:
            node.call(*arguments, project=project)
        return caught.exception.code

    @quick
    @asan
    def test_every_node_knows_the_session(self):
        cluster = self.start_cluster()
        session = cluster[1].call("ONCE", "OPEN").decode()
        self.assertRegex(session, r"^[0-9a-f]{32}$")
        for number in (1, 3, 2):
            wanted = cluster[number].call("ONCE", session, number, "INCR", "n")
            for node in cluster.nodes:
                self.assertEqual(node.call("ONCE", session, number, "INCR", "n"), wanted)
        self.assertEqual(cluster[2].call("GET", "n"), b"3")
        # A result of some size, an error, and what a transaction of several keys answers.
        for node in cluster.nodes:
            self.assertEqual(node.call("ONCE", session, 4, "SET", "big", "x" * 5000), "OK")
            self.assertEqual(node.call("ONCE", session, 5, "GETSET", "big", "text"), b"x" * 5000)
            self.assertEqual(self._error_of(node, "ONCE", session, 6, "INCR", "big"), "ERR")
            self.assertEqual(node.call("ONCE", session, 7, "MSETNX", "a", 1, "b", 2), 1)
        cluster[1].call("SET", "big", 1)
        self.assertEqual(self._error_of(cluster[2], "ONCE", session, 6, "INCR", "big"), "ERR")
        for node in cluster.nodes:
            with node.client() as client:
                replies = client.pipeline(
                    [("MULTI",), ("DEL", "a"), ("GET", "b"), ("ONCE", session, 9, "EXEC")]
                )
            self.assertEqual(replies[-1], [1, b"2"])
        self.assertEqual(cluster[3].call("ONCE", session, 8, "DONE", 8, "INCR", "big"), 2)
        self.assertEqual(self._error_of(cluster[1], "ONCE", session, 7, "INCR", "n"), "FORGOTTEN")
        self.assertEqual(self._error_of(cluster[1], "ONCE", session, 70000, "INCR", "n"), "BUSY")
        self.assertEqual(self._error_of(cluster[1], "ONCE", session, 10, "GET", "n"), "ERR")
        other = project_in_shard(5, 8)
        self.assertEqual(
            self._error_of(cluster[1], "ONCE", session, 10, "INCR", "n", project=other), "NOSESSION"
        )
        shards = cluster.leader_of().shards().values()
        self.assertEqual(sum(shard["sessions"] for shard in shards), 1)
        kept = sum(shard["session_bytes"] for shard in shards)
        self.assertTrue(4096 < kept < 4096 + 100, kept)  # one chunk, and the answer of EXEC
        self.assertEqual(cluster[1].call("ONCE", "CLOSE", session), 1)
        self.assertEqual(cluster[2].call("ONCE", "CLOSE", session), 0)
        self.assertEqual(self._error_of(cluster[3], "ONCE", session, 8, "INCR", "n"), "NOSESSION")
        self.assertEqual(cluster[3].call("GET", "n"), b"3")
        self.assertEqual(cluster[1].cli("ONCE", "OPEN", "TTL", 5), "ERR TTL is from 1000 to 86400000 milliseconds")

    @quick
    @sanitizer
    def test_attempts_at_the_same_time(self):
        """All nodes are given the same numbers at once: one of the attempts runs."""
        cluster = self.start_cluster(shards=1)
        session = open_session(cluster.nodes)
        numbers = list(range(1, 201))
        answers = []

        def send(node):
            with node.client() as client:
                answers.append(
                    client.pipeline([("ONCE", session, number, "INCR", "n") for number in numbers])
                )

        threads = [threading.Thread(target=send, args=(node,)) for node in cluster.nodes for _ in range(2)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        self.assertEqual(len(answers), len(threads))
        self.assertEqual(sorted(answers[0]), numbers)
        for others in answers:
            self.assertEqual(others, answers[0])
        self.assertEqual(cluster[1].call("GET", "n"), b"200")

    @quick
    def test_a_session_expires(self):
        cluster = self.start_cluster(shards=1)
        kept = open_session(cluster.nodes, ttl_ms=2000)
        left = open_session(cluster.nodes, ttl_ms=2000)
        self.assertEqual(cluster[1].call("ONCE", left, 1, "INCR", "n"), 1)
        for number in range(1, 31):
            node = cluster[number % 3 + 1]
            self.assertEqual(node.call("ONCE", kept, number, "INCR", "m"), number)
            time.sleep(0.1)
        for node in cluster.nodes:
            self.assertEqual(self._error_of(node, "ONCE", left, 1, "INCR", "n"), "NOSESSION")
            self.assertEqual(node.call("ONCE", kept, 1, "INCR", "m"), 1)
        self.assertEqual(cluster[1].call("GET", "n"), b"1")

    @sanitizer
    def test_kill_five_leaders(self):
        self._kill_leaders(kills=5, clients=4)

    def test_kill_thirty_leaders(self):
        """8 clients, 30 leaders killed with everything restarted in between: as many INCRs as calls."""
        self._kill_leaders(kills=KILLS, clients=CLIENTS)

    def _kill_leaders(self, kills, clients):
        cluster = self.start_cluster(shards=1, rebalance="no", heartbeat_ms=25, election_ms=250)
        names = [f"client-{number}" for number in range(clients)]
        writers = []
        for number, name in enumerate(names):
            nodes = cluster.nodes[number % 3 :] + cluster.nodes[: number % 3]
            if number % 4 == 3:
                writers.append(OnceTransaction(name, nodes, "n", "m", window=1 + number))
            else:
                writers.append(OnceWriter(name, nodes, "n", window=1 + number))
        started = time.monotonic()
        for writer in writers:
            writer.start()
        limit_s = 60 * Options.slowdown()
        for kill in range(kills):
            wait_for_answers(writers, 3, limit_s)
            if kill == kills // 2:
                for node in cluster.nodes:
                    node.kill()
                cluster.start()
                wait_for_answers(writers, 3, limit_s)
            victim = cluster.leader_of()
            victim.kill()
            wait_for_answers(writers, 3, limit_s)
            victim.start()
            cluster.wait_ready()
        for writer in writers:
            writer.stop(limit_s)
        calls = sum(writer.next_number - 1 for writer in writers)
        attempts = sum(writer.attempts for writer in writers)
        self.report(
            f"{calls} calls of {clients} clients in {attempts} attempts, {kills} leaders killed, "
            f"{time.monotonic() - started:.0f} s"
        )
        self.assertEqual([wrong for writer in writers for wrong in writer.wrong], [])
        answers = [answer for writer in writers for answer in writer.answers.values()]
        pairs = [answer for answer in answers if isinstance(answer, list)]
        numbers = [answer for answer in answers if not isinstance(answer, list)]
        counted = sorted(numbers + [first for first, _ in pairs])
        self.assertEqual(counted, list(range(1, calls + 1)))
        self.assertEqual(sorted(second for _, second in pairs), list(range(1, len(pairs) + 1)))
        self.assertGreater(attempts, calls)
        for node in cluster.nodes:
            self.assertEqual(int(node.call("GET", "n")), calls)
            self.assertEqual(int(node.call("GET", "m")), len(pairs))

    @quick
    @sanitizer
    def test_all_nodes_restart(self):
        cluster = self.start_cluster(shards=1)
        session = open_session(cluster.nodes)
        value = "v" * 3000
        for number in range(1, 300):
            cluster[1 + number % 3].call("ONCE", session, number, "INCR", "n")
        cluster[1].call("ONCE", session, 300, "SET", "k", value)
        cluster[1].call("ONCE", session, 301, "GETDEL", "k")
        for stop in ("kill", "stop"):
            for node in cluster.nodes:
                getattr(node, stop)()
            cluster.start()
            for node in cluster.nodes:
                with node.client() as client:
                    replies = client.pipeline([("ONCE", session, i, "INCR", "n") for i in range(1, 300)])
                self.assertEqual(replies, list(range(1, 300)))
                self.assertEqual(node.call("ONCE", session, 301, "GETDEL", "k"), value.encode())
        self.assertEqual(cluster[1].call("GET", "n"), b"299")

    @sanitizer
    def test_a_leader_by_snapshot_remembers(self):
        """A follower that got the sessions by snapshot only comes to lead, and answers retries."""
        cluster = self.start_cluster(
            shards=1,
            rebalance="no",
            segment_size="1MiB",
            snapshot_log_bytes="256KiB",
            trailing_entries=16,
        )
        follower = cluster.others(cluster.leader_of())[0]
        cluster.wait_caught_up()
        follower.kill()
        session = open_session(cluster.running())
        value = "v" * 3000
        node = cluster.running()[0]
        for number in range(1, 300):
            node.call("ONCE", session, number, "INCR", "n")
        node.call("ONCE", session, 300, "SET", "k", value)
        node.call("ONCE", session, 301, "GETDEL", "k")
        fill(cluster.leader_of(), "default", 12 / 1024)
        follower.start()
        cluster.wait_ready()
        cluster.wait_caught_up()
        self.assertIn("snapshot installed", follower.log())
        self._make_leader(cluster, follower)
        with follower.client() as client:
            replies = client.pipeline([("ONCE", session, i, "INCR", "n") for i in range(1, 300)])
        self.assertEqual(replies, list(range(1, 300)))
        self.assertEqual(follower.call("ONCE", session, 301, "GETDEL", "k"), value.encode())
        self.assertEqual(follower.call("ONCE", session, 302, "INCR", "n"), 300)
        self.assertEqual(cluster.leader_of(), follower)

    def _make_leader(self, cluster, node):
        """Stops whoever leads until the node does."""
        for _ in range(30):
            leader = cluster.leader_of()
            if leader == node:
                return
            leader.stop()
            leader.start()
            cluster.wait_ready()
        self.fail(f"{node} did not come to lead")
