"""Levels of consistency of reads, on real nodes: what each promises while nodes are cut off."""

import statistics
import time

from harness.case import ClusterTest, alone, asan, quick, sanitizer
from harness.cluster import Options
from harness.resp import ReplyError
from harness.wait import wait_for


class ConsistencyTest(ClusterTest):
    def _start(self, **settings):
        """One shard: (cluster, leader, the two followers)."""
        cluster = self.start_cluster(shards=1, rebalance="no", **settings)
        leader = cluster.leader_of()
        cluster.wait_caught_up()
        return cluster, leader, cluster.others(leader)

    def _refused(self, client, *arguments):
        with self.assertRaises(ReplyError) as raised:
            client.call(*arguments)
        return raised.exception

    @quick
    @asan
    def test_commands_by_redis_cli(self):
        cluster, leader, (one, _) = self._start()
        self.assertEqual(one.cli("CONSISTENCY"), "LINEARIZABLE")
        self.assertEqual(one.cli("CONSISTENCY", "EVENTUAL", "MAXSTALE", 500), "OK")
        self.assertEqual(one.cli("READONLY"), "OK")
        self.assertEqual(one.cli("READWRITE"), "OK")
        script = "SET k v\nREADONLY\nCONSISTENCY\nREADWRITE\nCONSISTENCY\nCONSISTENCY SESSION\nGET k\n"
        self.assertEqual(
            one.cli(stdin=script).split("\n"),
            ["OK", "OK", "EVENTUAL", "OK", "LINEARIZABLE", "OK", "v"],
        )
        token = leader.cli(stdin="SET k w\nTOKEN\n").split("\n")[1]
        self.assertEqual(one.cli(stdin=f"CONSISTENCY SESSION {token}\nGET k\n").split("\n"), ["OK", "w"])
        self.assertIn("BADTOKEN", one.cli("CONSISTENCY", "SESSION", token[:-1] + "x"))
        stranger = self.start_cluster(1, name="stranger", shards=1)
        self.assertIn("another cluster", stranger[1].cli("CONSISTENCY", "SESSION", token))

    @quick
    @sanitizer
    def test_last_node_standing(self):
        """Both others stop: eventual reads go on until their bound, session reads wait and refuse,
        linearizable ones never answer; when the others are back everything answers again."""
        cluster, leader, (one, two) = self._start(request_timeout_ms=2000)
        leader.call("SET", "k", "old")
        cluster.wait_caught_up()
        with one.client() as eventual, one.client() as bounded, one.client() as session, one.client() as plain:
            eventual.call("READONLY")
            bounded.call("CONSISTENCY", "EVENTUAL", "MAXSTALE", 1500)
            session.call("CONSISTENCY", "SESSION")
            self.assertEqual(bounded.call("GET", "k"), b"old")
            self.assertEqual(session.call("GET", "k"), b"old")
            one.pause()
            with leader.client() as writer:
                writer.call("SET", "k", "new")
                token = writer.call("TOKEN")
            leader.pause()
            two.pause()
            one.resume()
            moment = time.monotonic()
            self.assertIn(eventual.call("GET", "k"), (b"old", b"new"))
            self.assertLess(time.monotonic() - moment, 1.0 * Options.slowdown())
            wait_for(
                lambda: self._error_code(bounded, "GET", "k") == "STALE", "the bound to pass", 20
            )
            self.assertIn("1500 ms", self._refused(bounded, "GET", "k").text)
            value = eventual.call("GET", "k")
            # What this session has seen is here; what the writer has seen may have come in time.
            self.assertIn(session.call("GET", "k"), (b"old", b"new"))
            session.call("CONSISTENCY", "SESSION", token)
            if value == b"old":
                self.assertEqual(self._refused(session, "GET", "k").code, "STALE")
            self.assertEqual(self._refused(plain, "GET", "k").code, "NOLEADER")
            leader.resume()
            two.resume()
            cluster.wait_ready()
            cluster.wait_caught_up()
            # A replica knows how old it is once a leader has heard its answer.
            wait_for(lambda: self._error_code(bounded, "GET", "k") is None, "a fresh replica", 20)
            for client in (eventual, bounded, session, plain):
                self.assertEqual(client.call("GET", "k"), b"new")

    def _error_code(self, client, *arguments):
        try:
            client.call(*arguments)
            return None
        except ReplyError as error:
            return error.code

    @quick
    @asan
    def test_leader_paused(self):
        """A leader that was stopped meanwhile does not answer a linearizable read from the past."""
        cluster, leader, (one, two) = self._start()
        leader.call("SET", "k", "old")
        leader.pause()
        with leader.client() as client:
            wait_for(lambda: self._writes(one), "a new leader", 30)
            client.send("GET", "k")
            leader.resume()
            self.assertEqual(client.read(), b"new")

    def _writes(self, node):
        try:
            return node.call("SET", "k", "new") == "OK"
        except ReplyError:
            return False

    @quick
    @sanitizer
    def test_a_session_sees_its_writes_everywhere(self):
        """One session that hops over the nodes by its token, with other writers about: it always sees
        its last write, and a counter only grows."""
        cluster, _, _ = self._start()
        rounds = 20 if Options.sanitizer() else 150
        token = cluster[1].call("TOKEN")
        for i in range(rounds):
            with cluster[i % 3 + 1].client() as client:
                client.call("CONSISTENCY", "SESSION", token)
                if i > 0:
                    self.assertEqual(client.call("GET", "k"), str(i - 1).encode())
                replies = client.pipeline([("SET", "k", i), ("GET", "k"), ("TOKEN",)])
                self.assertEqual(replies[:2], ["OK", str(i).encode()])
                token = replies[2]

    def test_a_new_leader_keeps_the_promise(self):
        """Tokens stay good when the leader that made the entries dies."""
        cluster, leader, (one, two) = self._start()
        for i in range(3):
            leader = cluster.leader_of()
            with leader.client() as writer:
                writer.call("SET", "k", i)
                token = writer.call("TOKEN")
            leader.kill()
            for node in cluster.others(leader):
                with node.client() as client:
                    client.call("CONSISTENCY", "SESSION", token)
                    self.assertEqual(client.call("GET", "k"), str(i).encode())
            leader.start()
            cluster.wait_ready()

    @alone
    @quick
    def test_latency(self):
        """Writes through one node, reads through another; the heartbeat is 50 ms."""
        cluster, leader, (one, two) = self._start()
        rounds = 200
        for label, writing, reading in (("leader -> follower", leader, one), ("follower -> follower", one, two)):
            waits = {"SESSION": [], "LINEARIZABLE": []}
            with writing.client() as writer, reading.client() as reader:
                for i in range(rounds):
                    for level, taken in waits.items():
                        writer.call("SET", "k", f"{level}-{i}")
                        token = (writer.call("TOKEN"),) if level == "SESSION" else ()
                        reader.call("CONSISTENCY", level, *token)
                        began = time.perf_counter()
                        self.assertEqual(reader.call("GET", "k"), f"{level}-{i}".encode())
                        taken.append((time.perf_counter() - began) * 1000)
                        if i % 4 == 0:
                            time.sleep(0.02)
            for level, taken in waits.items():
                taken.sort()
                self.report(
                    f"{label}, {level.lower()}: median {statistics.median(taken):.2f} ms, "
                    f"p95 {taken[int(rounds * 0.95)]:.2f} ms, longest {taken[-1]:.2f} ms"
                )
            self.assertLess(statistics.median(waits["SESSION"]), 25)
