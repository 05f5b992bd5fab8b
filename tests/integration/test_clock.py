"""Cluster time while the nodes' wall clocks are wrong and are stepped by an hour: no key comes back,
none goes early, and time that passed while all nodes were down has passed."""

import threading
import time

from harness.case import ClusterTest, alone, long
from harness.cluster import Options
from harness.lifetimes import Lifetimes
from harness.resp import Client, ConnectionLost, ReplyError, project_in_shard
from harness.wait import wait_for
from harness.walls import HOUR_S, Walls, probe_step

EARLY_S = 0.2  # no key goes earlier than this
LATE_P99_MS = 3000  # goal: 200, printed; a busy machine may take longer without being wrong
SHARDS = 2
LASTING_S = 1000  # less than a step of a wall clock


class Lasting:
    """Keys that must survive everything: without an expiry, and with one that is far away, but nearer
    than a wall clock is stepped."""

    def __init__(self, cluster, projects):
        self.cluster = cluster
        self.projects = projects
        for project in projects:
            with cluster[1].client(project) as client:
                client.call("SET", "forever", "1")
                self.sent = time.monotonic()
                client.call("SET", "lasting", "1", "EX", LASTING_S)
                self.acknowledged = time.monotonic()

    def check(self, test):
        for node in self.cluster.running():
            for project in self.projects:
                with node.client(project) as client:
                    test.assertEqual(client.call("MGET", "forever", "lasting"), [b"1", b"1"])
                    test.assertEqual(client.call("PTTL", "forever"), -1)
                    asked = time.monotonic()
                    left_s = client.call("PTTL", "lasting") / 1000
                    # Each change of leader may let it live longer by a message's travel time.
                    least = LASTING_S - (time.monotonic() - self.sent) - EARLY_S
                    most = LASTING_S - (asked - self.acknowledged) + 10
                    test.assertTrue(least <= left_s <= most, f"{least} <= {left_s} <= {most}")


class ClockTest(ClusterTest):
    def setUp(self):
        if Options.sanitizer():
            self.skipTest("libfaketime and the sanitizers' runtime do not go together")

    def start_with_walls(self, *offsets_s, **settings):
        cluster = self.make_cluster(3, shards=SHARDS, **settings)
        wall_before, monotonic_before = probe_step(cluster.directory, HOUR_S)
        self.assertAlmostEqual(wall_before, HOUR_S, delta=60)
        self.assertLess(abs(monotonic_before), 60, "libfaketime moves the monotonic clock as well")
        walls = Walls(cluster)
        for node, offset_s in zip(cluster.nodes, offsets_s):
            walls.set(node, offset_s)
        cluster.start()
        self.projects = [project_in_shard(shard, SHARDS) for shard in range(SHARDS)]
        return cluster, walls

    def judge(self, lifetimes, what):
        p50, p99, largest = lifetimes.late_ms()
        self.report(
            f"{what}: {len(lifetimes.judged())} keys, {lifetimes.n_checks} looks, {lifetimes.n_lost} without "
            f"an answer; late p50 {p50:.0f} ms, p99 {p99:.0f} ms, largest {largest:.0f} ms; "
            f"early at most {max(0, lifetimes.largest_early_s()) * 1000:.0f} ms (seed {lifetimes.seed})"
        )
        self.assertEqual(lifetimes.complaints[:5], [])
        self.assertGreater(len(lifetimes.judged()), 50)
        self.assertLessEqual(lifetimes.largest_early_s(), EARLY_S)
        return p99

    @alone
    def test_keys_go_in_time_whatever_the_walls_say(self):
        """A healthy cluster, walls an hour apart and stepped while it runs: nobody changes the lead,
        and keys go when they should."""
        cluster, walls = self.start_with_walls(0, HOUR_S, -HOUR_S)
        lasting = Lasting(cluster, self.projects)
        lifetimes = Lifetimes(cluster, self.projects).start()
        for by_s in (HOUR_S, -HOUR_S, -HOUR_S, HOUR_S):
            for node in cluster.nodes:
                walls.step(node, by_s)
                time.sleep(0.7)
            lasting.check(self)
        lifetimes.finish()
        lasting.check(self)
        self.assertLess(self.judge(lifetimes, "healthy, walls stepped"), LATE_P99_MS)

    @long
    def test_leader_changes_while_walls_step(self):
        """kill -9 and SIGTERM of the leader, with a step of an hour on it or on the others right before
        or right after."""
        cluster, walls = self.start_with_walls(0, HOUR_S, -HOUR_S)
        lasting = Lasting(cluster, self.projects)
        lifetimes = Lifetimes(cluster, self.projects).start()
        by_s = HOUR_S
        for end in ("kill", "stop"):
            for stepped in ("leader", "followers", "all"):
                for before in (True, False):
                    leader = cluster.leader_of(self.projects[0])
                    nodes = {
                        "leader": [leader],
                        "followers": cluster.others(leader),
                        "all": cluster.nodes,
                    }[stepped]
                    if before:
                        self.step_all(walls, nodes, by_s)
                    getattr(leader, end)()
                    if not before:
                        self.step_all(walls, nodes, by_s)
                    wait_for(lambda: cluster.leader_of(self.projects[0]) is not leader, "a new leader")
                    leader.start()
                    cluster.wait_ready()
                    lasting.check(self)
                    time.sleep(1)
                    by_s = -by_s
        lifetimes.finish()
        lasting.check(self)
        self.judge(lifetimes, "leaders killed and stopped")

    def step_all(self, walls, nodes, by_s):
        for node in nodes:
            walls.step(node, by_s)

    # --- all nodes down ------------------------------------------------------------------------

    def write_before_the_end(self, cluster, ttl_ms):
        """In each project: many keys that go together, and one that stays. The moment when the last
        one's SET was answered."""
        for project in self.projects:
            with cluster[2].client(project) as client:
                client.call("SET", "first", "v", "PX", ttl_ms)
                for name in ("herd", "more"):  # together more than one tick removes
                    client.pipeline([("SET", f"{name}-{i:05}", "v", "PX", ttl_ms) for i in range(3000)])
                client.call("SET", "last", "v", "PX", ttl_ms)
                client.call("SET", "stays", "v", "EX", 3 * HOUR_S)
                client.call("SET", "fading", "v", "PX", 1)
                wait_for(lambda c=client: c.call("GET", "fading") is None, "a key to expire")
        return time.monotonic()

    def kill_all(self, cluster):
        for node in cluster.nodes:
            node.process.kill()
        for node in cluster.nodes:
            node.process.wait(10)

    def ask_from_the_start(self, cluster, answers, arguments):
        """Threads that ask all nodes, from before they listen, and keep the first answers."""
        stop = threading.Event()

        def ask(node, project):
            while not stop.is_set():
                try:
                    with Client(node.port, project, timeout_s=5) as client:
                        answers.append((node.id, project, client.call(*arguments)))
                        answers.append((node.id, project, client.call(*arguments)))
                        return
                except (ConnectionLost, ReplyError):
                    time.sleep(0.002)

        threads = [
            threading.Thread(target=ask, args=(node, project), daemon=True)
            for node in cluster.nodes
            for project in self.projects
        ]
        for thread in threads:
            thread.start()
        return stop, threads

    def check_gone_from_the_start(self, cluster):
        """Starts all nodes; the first answer of each, whenever it comes, knows no key of the past."""
        questions = {
            ("MGET", "first", "last", "herd-02999", "more-02999", "fading"): [None] * 5,
            ("EXISTS", "first", "last", "herd-00000", "more-02999"): 0,
            ("PTTL", "last"): -2,
            ("DEL", "last", "more-02998"): 0,
        }
        asked = []
        for arguments in questions:
            answers = []
            asked.append((arguments, answers, *self.ask_from_the_start(cluster, answers, arguments)))
        started = time.monotonic()
        cluster.start()
        for arguments, answers, stop, threads in asked:
            for thread in threads:
                thread.join(20)
            stop.set()
            self.assertEqual(len(answers), 2 * len(threads), arguments)
            for node, project, answer in answers:
                self.assertEqual(answer, questions[arguments], f"{arguments} on node {node}, {project}")
        self.report(f"all answered {time.monotonic() - started:.1f} s after the start")
        for node in cluster.nodes:
            for project in self.projects:
                self.assertEqual(node.call("DBSIZE", project=project), 1)
                self.assertEqual(node.call("GET", "stays", project=project), b"v")

    def test_all_down_for_longer_than_a_ttl(self):
        cluster, _ = self.start_with_walls(0, 0, 0)
        ttl_ms = 6000
        written = self.write_before_the_end(cluster, ttl_ms)
        self.kill_all(cluster)
        time.sleep(max(0.0, written + ttl_ms / 1000 - time.monotonic()) + 0.2)
        self.check_gone_from_the_start(cluster)

    def test_an_hour_passes_while_all_are_down(self):
        """By the walls, that is, which are all there is to know it from."""
        cluster, walls = self.start_with_walls(0, 0, 0)
        written = self.write_before_the_end(cluster, 600000)
        self.kill_all(cluster)
        self.step_all(walls, cluster.nodes, HOUR_S)
        self.check_gone_from_the_start(cluster)
        left_s = cluster[1].call("TTL", "stays", project=self.projects[0])
        passed_s = time.monotonic() - written
        self.assertAlmostEqual(left_s, 2 * HOUR_S - passed_s, delta=10)

    def test_wrong_walls_at_a_start_kill_and_revive_nothing(self):
        """One wall ahead, one behind, all behind: the clock goes on from where it was."""
        cluster, walls = self.start_with_walls(0, 0, 0)
        self.write_before_the_end(cluster, 600000)
        for offsets_s in ((HOUR_S, 0, 0), (0, HOUR_S, -HOUR_S), (-HOUR_S, -HOUR_S, -HOUR_S)):
            self.kill_all(cluster)
            for node, offset_s in zip(cluster.nodes, offsets_s):
                walls.set(node, offset_s)
            cluster.start()
            for node in cluster.nodes:
                for project in self.projects:
                    with node.client(project) as client:
                        self.assertEqual(
                            client.call("MGET", "first", "last", "stays", "fading"), [b"v"] * 3 + [None]
                        )
                        self.assertEqual(client.call("DBSIZE"), 6003)
                        self.assertTrue(0 < client.call("PTTL", "first") <= 600000)
