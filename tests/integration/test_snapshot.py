"""A follower that was away while the log was cut catches up from the leader's database."""

import os
import threading
import time

from harness.case import ClusterTest, big, quick, sanitizer
from harness.cluster import Options, Stopwatch
from harness.load import Load
from harness.resp import project_in_shard
from harness.wait import wait_for
from test_restart import fill, value_of

RSS_LIMIT_MIB = 300


class MemorySampler(threading.Thread):
    """Highest resident memory of some nodes while it runs."""

    def __init__(self, nodes):
        super().__init__(daemon=True)
        self.highest = {node: 0.0 for node in nodes}
        self.stopping = threading.Event()

    def run(self):
        while not self.stopping.wait(0.05):
            for node in self.highest:
                try:
                    self.highest[node] = max(self.highest[node], node.rss_mib())
                except (OSError, AssertionError, AttributeError):
                    continue  # it is down at the moment

    def __enter__(self):
        self.start()
        return self

    def __exit__(self, *_):
        self.stopping.set()
        self.join()


class SnapshotTest(ClusterTest):
    def _cut_log_behind(self, cluster, follower, project, mib):
        """Kills the follower and writes enough that the others cut the log that it would need."""
        follower.kill()
        fill(cluster.leader_of(project), project, mib / 1024)

    @quick
    @sanitizer
    def test_catch_up_by_snapshot(self):
        cluster = self.start_cluster(
            shards=1, segment_size="1MiB", snapshot_log_bytes="256KiB", trailing_entries=16
        )
        cluster[1].call("SET", "old", "deleted meanwhile")
        cluster[1].call("SET", "kept", "from before")
        follower = cluster.others(cluster.leader_of())[0]
        cluster.wait_caught_up()
        self._cut_log_behind(cluster, follower, "default", 12)
        cluster.running()[0].call("DEL", "old")
        follower.start()
        cluster.wait_ready()
        cluster.wait_caught_up()
        self.assertRegex(follower.log(), "snapshot")
        self.assertIsNone(follower.call("GET", "old"))
        self.assertEqual(follower.call("GET", "kept"), b"from before")
        self.assertEqual(follower.call("GET", "big:0"), value_of(0, 1 << 16))
        shards = [node.shards()[0] for node in cluster.nodes]
        self.assertEqual(len({(shard["keys"], shard["bytes"]) for shard in shards}), 1)
        # What it got by snapshot survives a restart, and it can lead with it.
        follower.kill()
        follower.start()
        cluster.wait_ready()
        for other in cluster.others(follower):
            other.stop()
            other.start()
            cluster.wait_ready()
        self.assertEqual(follower.call("GET", "kept"), b"from before")

    def test_snapshot_under_load(self):
        """The leader goes on serving while it sends; what is written meanwhile arrives as well."""
        cluster = self.start_cluster(
            shards=2, segment_size="1MiB", snapshot_log_bytes="256KiB", trailing_entries=16
        )
        project = project_in_shard(0, 2)
        follower = cluster.others(cluster.leader_of(project))[0]
        cluster.wait_caught_up()
        self._cut_log_behind(cluster, follower, project, 40)
        with Load(cluster.running(), [project], writers_per_project=4, value_size=1000) as load:
            load.wait_for_writes(20)
            follower.start()
            cluster.wait_ready(60)
            load.wait_for_writes(50)
        self.assertEqual(load.errors(), [])
        cluster.wait_caught_up()
        self.assertEqual(load.lost(follower), [])
        self.report(f"longest write while the snapshot travelled: {load.longest_write_s():.3f} s")

    def test_interrupted_transfers(self):
        """Receiver and sender die in the middle; the next attempt gets through."""
        cluster = self.start_cluster(
            shards=1, segment_size="1MiB", snapshot_log_bytes="256KiB", trailing_entries=16
        )
        follower = cluster.others(cluster.leader_of())[0]
        cluster.wait_caught_up()
        self._cut_log_behind(cluster, follower, "default", 200)
        for _ in range(3):
            self._start_until_receiving(follower)
            follower.kill()
        self.assertNotIn("snapshot installed", follower.log(), "no transfer was interrupted")
        self._start_until_receiving(follower)
        sender = cluster.leader_of()
        sender.kill()
        sender.start()
        cluster.wait_ready(60)
        cluster.wait_caught_up()
        for number in (0, 1600, 3199):
            self.assertEqual(follower.call("GET", f"big:{number}"), value_of(number, 1 << 16))
        files = [sorted(os.listdir(node.data)) for node in (follower, cluster.others(follower, sender)[0])]
        self.assertEqual(files[0], files[1], "something was left behind")

    def _start_until_receiving(self, node):
        def transfers():
            return node.log().count("receiving a snapshot")

        before = transfers()
        node.start()
        try:
            wait_for(lambda: transfers() > before, "a snapshot to come in", 20, 0.002)
        except AssertionError as error:
            shards = [(other, other.shards()[0]) for other in node.cluster.running()]
            raise AssertionError(f"{error}: {shards}") from None

    @big
    def test_a_gigabyte_in_one_shard(self):
        """1 GiB travels while the leader serves; both nodes stay under 300 MiB resident."""
        cluster = self.start_cluster(shards=1, default_quota="4GiB")
        cluster[1].call("SET", "first", "1")
        leader = cluster.leader_of()
        follower = cluster.others(leader)[0]
        cluster.wait_caught_up()
        follower.kill()
        with MemorySampler([leader]) as filling:
            count = fill(leader, "default", 1)
        cluster.wait_caught_up(300)
        with MemorySampler([leader, follower]) as memory, Load(
            cluster.running(), ["default"], writers_per_project=4, value_size=1000
        ) as load:
            load.wait_for_writes(20)
            watch = Stopwatch()
            follower.start()
            wait_for(
                lambda: follower.shards()[0]["applied"] + 20000 > leader.shards()[0]["commit"]
                and follower.shards()[0]["keys"] >= count,
                "the follower to have the snapshot",
                600,
                0.25,
            )
            seconds = watch.seconds()
        self.assertEqual(load.errors(), [])
        cluster.wait_caught_up(300)
        self.report(
            f"1 GiB in {seconds:.1f} s; resident at most {memory.highest[leader]:.0f} MiB at the "
            f"leader ({filling.highest[leader]:.0f} MiB while it was written), "
            f"{memory.highest[follower]:.0f} MiB at the follower; {load.total()} writes meanwhile, "
            f"longest {load.longest_write_s() * 1000:.0f} ms"
        )
        self.assertRegex(follower.log(), "snapshot")
        self.assertEqual(load.lost(follower), [])
        for number in (0, count // 2, count - 1):
            self.assertEqual(follower.call("GET", f"big:{number}"), value_of(number, 1 << 16))
        for highest in (*memory.highest.values(), *filling.highest.values()):
            self.assertLess(highest, RSS_LIMIT_MIB * Options.slowdown())
