"""The change feed on real nodes: in order, resumed without gap or repetition, bounded."""

import itertools
import os
import random
import subprocess
import threading
import time

from harness.case import ClusterTest, asan, long, quick, sanitizer
from harness.cluster import Options
from harness.resp import Client, ConnectionLost, ReplyError
from harness.wait import wait_for
from test_restart import fill

CHANNEL = b"__keyspace@0__:"
REFUSALS = {"NOLEADER", "BUSY"}


def read_until(client, last):
    """Pushes up to and with the one that `last` accepts."""
    pushes = []
    while not pushes or not last(pushes[-1]):
        pushes.append(client.read())
    return pushes


class Writer(threading.Thread):
    """Sets keys that nobody has set before, one after another, through any node."""

    def __init__(self, name, nodes):
        super().__init__(daemon=True)
        self.prefix = name
        self.nodes = nodes
        self.acknowledged = []
        self.unknown = []
        self.stopping = threading.Event()

    def run(self):
        client = None
        nodes = itertools.cycle(random.sample(self.nodes, len(self.nodes)))
        for number in itertools.count():
            if self.stopping.is_set():
                break
            key = f"{self.prefix}:{number}".encode()
            try:
                client = client or Client(next(nodes).port)
            except ConnectionLost:
                time.sleep(0.02)
                continue
            try:
                if number % 5 == 0:
                    # Several events under one index.
                    keys = [key + b":%d" % part for part in range(4)]
                    client.call("MSET", *itertools.chain(*((one, "v") for one in keys)))
                else:
                    keys = [key]
                    client.call("SET", key, "v")
                self.acknowledged += keys
            except ReplyError as error:
                if error.code not in REFUSALS:
                    self.unknown += keys
            except ConnectionLost:
                self.unknown += keys
                client.close()
                client = None
            time.sleep(0.001)


class Watcher(threading.Thread):
    """Follows all keys, and goes on at the next node whenever it is told to or its connection breaks,
    as docs/change-feed.md says."""

    def __init__(self, nodes, protocol):
        super().__init__(daemon=True)
        self.nodes = itertools.cycle(nodes)
        self.protocol = protocol
        self.complete = 0  # everything up to this index was seen
        self.open = []  # what was seen of the index behind it
        self.events = []  # (index, kind, key), all that was seen
        self.hops = 0
        self.gone = 0
        self.hop = threading.Event()
        self.stopping = threading.Event()
        self.problem = None

    def run(self):
        try:
            while not self.stopping.is_set():
                self._follow_one()
        except Exception as error:  # noqa: BLE001 - told by the test
            self.problem = error

    def _follow_one(self):
        node = next(self.nodes)
        try:
            with node.client(protocol=self.protocol, timeout_s=10 * Options.slowdown()) as client:
                answer = client.call("WATCHKEYS", "", "FROM", self.complete)
                assert answer == [b"watchkeys", b"", self.complete], answer
                again = list(self.open)
                self.hop.clear()
                while not self.hop.is_set() and not self.stopping.is_set():
                    self._take(client.read(), again)
        except ReplyError as error:
            assert error.code == "GONE", error
            assert int(error.text.split()[1]) > self.complete, error
            self.gone += 1
            time.sleep(0.02)
        except ConnectionLost:
            time.sleep(0.02)
        self.hops += 1

    def _take(self, push, again):
        name, index, kind, key = push
        assert name == b"event" and kind != b"gone", push
        if kind == b"progress":
            assert index >= self.complete, (push, self.complete)
            assert not again, f"{push}, although {again} has not come again"
            self._settle(index)
            return
        if again:
            assert again[0] == (index, kind, key), f"{push} instead of {again[0]}"
            again.pop(0)
            return
        assert index > self.complete, (push, self.complete)
        if self.open and index > self.open[0][0]:
            self._settle(index - 1)
        assert not self.open or index == self.open[0][0], (push, self.open)
        self.open.append((index, kind, key))
        self.events.append((index, kind, key))

    def _settle(self, index):
        self.complete = index
        self.open = [event for event in self.open if event[0] > index]


class FeedTest(ClusterTest):
    def _start(self, **settings):
        cluster = self.start_cluster(shards=1, rebalance="no", **settings)
        leader = cluster.leader_of()
        cluster.wait_caught_up()
        return cluster, leader, cluster.others(leader)

    @quick
    @asan
    def test_a_follower_tells_what_others_wrote(self):
        """Each kind of event, written through all nodes, at a follower in the order of the writes."""
        _, leader, (one, two) = self._start()
        with one.client() as plain, one.client(protocol=3) as watcher, leader.client() as writer:
            plain.call("PSUBSCRIBE", "__keyspace@0__:*")
            first = watcher.call("WATCHKEYS", "k")
            self.assertEqual(first[:2], [b"watchkeys", b"k"])
            writer.call("SET", "k1", "v", "PX", 300)
            two.call("SET", "k2", "v")
            one.call("EXPIRE", "k2", 100)
            writer.call("PERSIST", "k2")
            writer.call("RENAME", "k2", "other")
            two.call("DEL", "other")
            expired = read_until(watcher, lambda push: push[2] == b"expired")
            writer.call("FLUSHDB")  # empty: nothing happens
            writer.call("MSET", "k3", "v", "z", "v")
            writer.call("FLUSHDB")
            pushes = expired + read_until(watcher, lambda push: push[2] == b"clear")
            events = [(kind, key) for _, _, kind, key in pushes if kind != b"progress"]
            # The expiry comes when its time has come, whatever else happens.
            self.assertIn((b"expired", b"k1"), events)
            events.remove((b"expired", b"k1"))
            self.assertEqual(
                events,
                [
                    (b"set", b"k1"),
                    (b"set", b"k2"),
                    (b"expire", b"k2"),
                    (b"persist", b"k2"),
                    (b"del", b"k2"),
                    (b"set", b"k3"),
                    (b"clear", b""),
                ],
            )
            indexes = [push[1] for push in pushes]
            self.assertEqual(indexes, sorted(indexes))
            self.assertGreater(indexes[0], first[2])
            messages = read_until(plain, lambda push: push[3] == b"clear")
            told = [(push[2][len(CHANNEL) :], push[3]) for push in messages]
            self.assertIn((b"other", b"set"), told)
            self.assertIn((b"z", b"set"), told)
            self.assertEqual(
                [(kind, key) for key, kind in told if key.startswith(b"k") and kind != b"expired"],
                events[:-1],
            )
            self.assertEqual(plain.call("RESET"), "RESET")
            read_until(watcher, lambda push: push[2] == b"progress")
            self.assertIsNone(watcher.call("GET", "k3"))

    @quick
    def test_redis_cli(self):
        """What redis-cli shows, in both protocols."""
        cluster, leader, (one, _) = self._start()
        for options, protocol in (((), 2), (("-3",), 3)):
            process = subprocess.Popen(
                ["redis-cli", "-p", str(one.port), *options, "SUBSCRIBE", "__keyspace@0__:k"],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                text=True,
                env={**os.environ, "FAKETTY": "1"},
            )
            try:
                seen = []
                wait_for(lambda: "sub=1" in one.call("CLIENT", "LIST").decode(), "the subscription")
                self.assertRegex(one.call("CLIENT", "LIST").decode(), f"sub=1 .* resp={protocol} ")
                leader.call("SET", "k", "v")
                while not seen or not seen[-1].endswith('"set"'):
                    line = process.stdout.readline()
                    self.assertTrue(line, seen)
                    seen.append(line.rstrip("\n"))
            finally:
                process.kill()
                process.wait()
                process.stdout.close()
            self.assertEqual(seen[-3:], ['1) "message"', '2) "__keyspace@0__:k"', '3) "set"'])

    @quick
    @sanitizer
    def test_resume_anywhere_while_leaders_die(self):
        """Watchers that hop from node to node while leaders are killed and writers go on see each event
        exactly once, all in the same order."""
        kills = 2 if Options.sanitizer() else 4
        cluster, _, _ = self._start()
        start = cluster[1].shards()[0]["applied"]
        writers = [Writer(f"w{i}", cluster.nodes) for i in range(6)]
        watchers = [Watcher(cluster.nodes[i:] + cluster.nodes[:i], 2 + i % 2) for i in range(3)]
        for watcher in watchers:
            watcher.complete = start
        for thread in watchers + writers:
            thread.start()
        for _ in range(kills):
            goal = [len(writer.acknowledged) + 100 for writer in writers]
            for watcher in watchers:
                watcher.hop.set()
            wait_for(
                lambda goal=goal: all(len(w.acknowledged) >= n for w, n in zip(writers, goal)),
                "writers to get on",
                60 * Options.slowdown(),
            )
            victim = cluster.leader_of()
            victim.kill()
            cluster.leader_of()
            for watcher in watchers[:2]:
                watcher.hop.set()
            time.sleep(0.2)
            victim.start()
            cluster.wait_ready()
            # A restarted node knows nothing of what was before: everybody has to catch up first.
            applied = max(node.shards()[0]["applied"] for node in cluster.nodes)
            wait_for(
                lambda applied=applied: all(
                    w.problem or w.complete >= applied for w in watchers
                ),
                "watchers to catch up",
                60 * Options.slowdown(),
            )
        for writer in writers:
            writer.stopping.set()
        for writer in writers:
            writer.join(60)
        cluster.wait_caught_up()
        last = cluster[1].shards()[0]["applied"]
        wait_for(
            lambda: all(watcher.problem or watcher.complete >= last for watcher in watchers),
            "watchers to see the end",
            60 * Options.slowdown(),
        )
        for watcher in watchers:
            watcher.stopping.set()
        for watcher in watchers:
            watcher.join(60)
            self.assertIsNone(watcher.problem)
        acknowledged = [key for writer in writers for key in writer.acknowledged]
        unknown = {key for writer in writers for key in writer.unknown}
        self.report(
            f"{len(acknowledged)} keys acknowledged, {len(unknown)} of unknown fate, "
            f"{sum(w.hops for w in watchers)} changes of node, {sum(w.gone for w in watchers)} refused"
        )
        self.assertGreater(sum(watcher.hops for watcher in watchers), kills)
        for watcher in watchers:
            self.assertEqual(watcher.events, watchers[0].events)
        keys = [key for _, _, key in watchers[0].events]
        self.assertEqual(len(keys), len(set(keys)), "an event came twice")
        self.assertEqual(set(acknowledged) - set(keys), set(), "an event is missing")
        self.assertLessEqual(set(keys) - set(acknowledged), unknown)
        for writer in writers:
            order = {key: place for place, key in enumerate(keys)}
            places = [order[key] for key in writer.acknowledged]
            self.assertEqual(places, sorted(places), "events of one writer out of order")

    @quick
    @asan
    def test_a_replica_that_is_behind_waits(self):
        """Index from a node that is ahead: nothing from before comes, and nothing is left out."""
        cluster, leader, (one, two) = self._start()
        with one.client(timeout_s=30) as late:
            one.pause()
            leader.call("SET", "a", 1)
            index = two.shards()[0]["applied"]
            wait_for(lambda: two.call("GET", "a") == b"1", "the write")
            index = max(index, leader.shards()[0]["applied"])
            late.send("WATCHKEYS", "", "FROM", index)
            leader.call("SET", "b", 2)
            one.resume()
            self.assertEqual(late.read(), [b"watchkeys", b"", index])
            events = read_until(late, lambda push: push[2] == b"progress" and push[1] > index)
            self.assertEqual([push[2:] for push in events if push[2] != b"progress"], [[b"set", b"b"]])

    @asan
    def test_progress_in_silence(self):
        _, _, (one, _) = self._start()
        with one.client() as client:
            client.call("WATCHKEYS", "only:")
            one.call("SET", "other", 1)
            push = client.read()
            self.assertEqual(push[2:], [b"progress", b""])
            self.assertGreaterEqual(push[1], one.shards()[0]["applied"] - 5)

    def _gone(self, node, index):
        with node.client() as client, self.assertRaises(ReplyError) as raised:
            client.call("WATCHKEYS", "", "FROM", index)
        self.assertEqual(raised.exception.code, "GONE")
        return int(raised.exception.text.split()[1])

    @quick
    @asan
    def test_history_exceeded(self):
        """Too old an index, and one from before a node's start, are refused with what there is."""
        _, leader, (one, _) = self._start(feed_history="256KiB")
        start = one.shards()[0]["applied"]
        with leader.client() as client:
            for i in range(40):
                client.pipeline([("SET", f"{i}:{k}:" + "x" * 1000, "v") for k in range(10)])
        wait_for(lambda: one.call("DBSIZE") == 400, "the writes")
        oldest = self._gone(one, start)
        self.assertLess(oldest, one.shards()[0]["applied"])
        with one.client() as client:
            client.call("WATCHKEYS", "", "FROM", oldest)
            self.assertEqual(client.read()[2], b"set")
        self.assertLess(int(one.info("memory")["feed_bytes"]), 256 * 1024 + 1)
        one.stop()
        one.start()
        wait_for(lambda: one.call("PING") == "PONG", "the node")
        oldest = self._gone(one, oldest)
        self.assertGreater(oldest, start)

    @long
    @sanitizer
    def test_a_snapshot_is_a_gap(self):
        """A node that got a snapshot: its watch ends in words, its subscribers go on."""
        cluster, _, (one, _) = self._start(
            segment_size="1MiB", snapshot_log_bytes="256KiB", trailing_entries=16
        )
        patient = {"timeout_s": 60}
        with (
            one.client(**patient) as watcher,
            one.client(protocol=3, **patient) as watcher3,
            one.client(**patient) as plain,
        ):
            first = watcher.call("WATCHKEYS", "")[2]
            watcher3.call("WATCHKEYS", "")
            plain.call("SUBSCRIBE", "__keyspace@0__:after")
            one.pause()
            # More than what is on the way to it, so that the log behind that is cut.
            fill(cluster.leader_of(), "default", 24 / 1024)
            one.resume()
            one.wait_for_log("snapshot installed", 60 * Options.slowdown())
            with self.assertRaises(ReplyError) as raised:
                while True:
                    watcher.read()
            self.assertEqual(raised.exception.code, "GONE")
            oldest = int(raised.exception.text.split()[1])
            self.assertGreater(oldest, first)
            pushes = read_until(watcher3, lambda push: push[2] == b"gone")
            self.assertEqual(pushes[-1][1], oldest)
            cluster.wait_ready()
            cluster.leader_of().call("SET", "after", "v")
            self.assertEqual(plain.read(), [b"message", CHANNEL + b"after", b"set"])
            self.assertEqual(watcher.call("WATCHKEYS", "", "FROM", oldest)[2], oldest)
            pushes = read_until(watcher, lambda push: push[3] == b"after")
            self.assertGreater(pushes[-1][1], oldest)

    @sanitizer
    def test_clients_that_do_not_read(self):
        """Their share of memory is bounded; in the end they are told, or closed."""
        _, leader, (one, _) = self._start(feed_history="1MiB")
        clients = [one.client(timeout_s=30) for _ in range(40)]
        for client in clients[:20]:
            client.call("PSUBSCRIBE", "*")
        for client in clients[20:]:
            client.call("WATCHKEYS", "")
        before = one.rss_mib()
        with leader.client() as writer:
            for i in range(60 if Options.sanitizer() else 150):
                writer.pipeline([("SET", f"{i % 5}:{k}:" + "x" * 2000, "v") for k in range(50)])
        wait_for(lambda: one.log().count("subscriber's connection closed") == 20, "the end of them", 60)
        self.report(f"resident: {before:.0f} MiB before, {one.rss_mib():.0f} MiB after")
        reply_bytes = int(one.info("memory")["reply_bytes"])
        self.assertLess(reply_bytes, 20 * 200 * 1024)
        if not Options.sanitizer():
            self.assertLess(one.rss_mib(), before + 60)
        for client in clients[:20]:
            client.read_rest()  # until it is closed
            client.close()
        for client in clients[20:]:
            with self.assertRaises(ReplyError) as raised:
                while True:
                    client.read()
            self.assertEqual(raised.exception.code, "GONE")
            self.assertEqual(client.call("PING"), "PONG")
            client.close()

    @quick
    def test_projects_are_apart(self):
        cluster, leader, (one, _) = self._start()
        with one.client("red") as red, one.client("blue") as blue:
            red.call("WATCHKEYS", "")
            blue.call("PSUBSCRIBE", "*")
            leader.call("SET", "k", 1, project="red")
            leader.call("SET", "k", 1, project="other")
            leader.call("SET", "mine", 1, project="blue")
            leader.call("SET", "last", 1, project="red")
            self.assertEqual(blue.read()[2:], [CHANNEL + b"mine", b"set"])
            pushes = read_until(red, lambda push: push[3] == b"last")
            self.assertEqual([push[3] for push in pushes if push[2] == b"set"], [b"k", b"last"])

    @quick
    @asan
    def test_a_revoked_token_ends_what_was_subscribed_with_it(self):
        """On whatever node: no event behind the revocation, and a reason."""
        cluster = self.make_cluster(shards=1, auth="required")
        secret = os.path.join(cluster.directory, "admin")
        with open(secret, "w", encoding="ascii", opener=lambda p, f: os.open(p, f, 0o600)) as file:
            file.write("the-admin-secret-of-this-test\n")
        for node in cluster.nodes:
            node.write_config(admin_token_file=secret)
            node.start()
        admin = wait_for(lambda: self._admin(cluster[1]), "the cluster", 30)
        tokens = []
        for _ in range(2):
            tokens.append(wait_for(lambda: self._new_token(admin), "a token", 30).decode())
        with (
            cluster[2].client(timeout_s=30) as watcher,
            cluster[3].client(timeout_s=30) as plain,
            cluster[1].client() as writer,
        ):
            with self.assertRaises(ReplyError) as raised:
                watcher.call("WATCHKEYS", "")
            self.assertEqual(raised.exception.code, "NOAUTH")
            watcher.call("AUTH", "blue", tokens[0])
            plain.call("AUTH", "blue", tokens[0])
            writer.call("AUTH", "blue", tokens[1])
            watcher.call("WATCHKEYS", "")
            plain.call("PSUBSCRIBE", "*")
            writer.call("SET", "before", 1)
            read_until(watcher, lambda push: push[3] == b"before")
            self.assertEqual(plain.read()[2], CHANNEL + b"before")
            revoked = tokens[0].split("_")[1]
            self.assertEqual(admin.call("PROJECT", "TOKEN", "REVOKE", "blue", revoked), 1)
            writer.call("SET", "behind", 1)
            for client in (watcher, plain):
                with self.assertRaises(ReplyError) as raised:
                    while True:
                        push = client.read()
                        self.assertNotIn(b"behind", push[-2] + push[-1])
                self.assertEqual(raised.exception.code, "NOAUTH")
                self.assertEqual(client.read_rest(), b"")
        admin.close()

    def _admin(self, node):
        client = node.client()
        client.call("AUTH", "admin", "the-admin-secret-of-this-test")
        return client

    def _new_token(self, admin):
        try:
            admin.call("PROJECT", "CREATE", "blue")
        except ReplyError as error:
            if "exists" not in error.text:
                raise
        return admin.call("PROJECT", "TOKEN", "ADD", "blue", "READWRITE")

    @quick
    def test_off(self):
        cluster, _, _ = self._start(feed_history=0)
        self.assertIn("feed_history = 0", cluster[1].cli("WATCHKEYS", "a"))
