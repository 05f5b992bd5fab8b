"""Nodes stop, die and come back: everything acknowledged is there again."""

from harness.case import ClusterTest, asan, big, quick, sanitizer
from harness.cluster import Stopwatch
from harness.load import Load
from harness.resp import encode, project_in_shard
from harness.wait import wait_for


def fill(node, project, gigabytes, value_size=1 << 16):
    """Writes `gigabytes` GiB under big:0, big:1, ... over one connection; returns how many keys."""
    count = int(gigabytes * (1 << 30)) // value_size
    batch = 64
    with node.client(project, timeout_s=120) as client:
        for begin in range(0, count, batch):
            part = range(begin, min(begin + batch, count))
            client.send_raw(
                b"".join(encode("SET", f"big:{i}", value_of(i, value_size)) for i in part)
            )
            for _ in part:
                reply = client.read()
                assert reply == "OK", reply
    return count


def value_of(number, size):
    """A value that differs from its neighbours' and does not compress to nothing."""
    unit = f"{number:08x}-{number * 2654435761 % (1 << 32):08x};".encode()
    return (unit * (size // len(unit) + 1))[:size]


class RestartTest(ClusterTest):
    def setUp(self):
        self.projects = [project_in_shard(shard, 8) for shard in range(8)]

    def _load(self, cluster):
        with Load(cluster.running(), self.projects, writers_per_project=1) as load:
            load.wait_for_writes(50, timeout_s=120)
        return load

    @quick
    @asan
    def test_all_nodes_stop_and_start(self):
        cluster = self.start_cluster()
        load = self._load(cluster)
        for node in cluster.nodes:
            node.stop()
        cluster.start()
        for node in cluster.nodes:
            self.assertEqual(load.lost(node), [])

    @sanitizer
    def test_all_nodes_killed_at_once(self):
        """kill -9 of all nodes in the middle of writing, three times over the same data."""
        cluster = self.start_cluster()
        for _ in range(3):
            with Load(cluster.nodes, self.projects, writers_per_project=2, value_size=500) as load:
                load.wait_for_writes(30, timeout_s=120)
                for node in cluster.nodes:
                    node.kill()
            cluster.start()
            for node in cluster.nodes:
                self.assertEqual(load.lost(node), [])

    def test_each_node_in_turn(self):
        """Stopped, missing some writes, and back: it has them again, read through itself."""
        cluster = self.start_cluster()
        for node in cluster.nodes:
            before = self._load(cluster)
            node.stop()
            meanwhile = self._load(cluster)
            node.start()
            cluster.wait_ready()
            cluster.wait_caught_up()
            self.assertEqual(before.lost(node) + meanwhile.lost(node), [])
            self.assertEqual(before.errors() + meanwhile.errors(), [])

    def test_checkpoint_and_cut_survive_restarts(self):
        """Small limits, so that databases are checkpointed and segments removed all the time."""
        cluster = self.start_cluster(
            segment_size="1MiB", snapshot_log_bytes="256KiB", trailing_entries=16, shards=2
        )
        project = project_in_shard(0, 2)
        for _ in range(3):
            with Load(cluster.nodes, [project], writers_per_project=4, value_size=20000) as load:
                load.wait_for_writes(100, timeout_s=120)
            for node in cluster.nodes:
                node.kill()
            cluster.start()
            for node in cluster.nodes:
                self.assertEqual(load.lost(node), [])
        wait_for(
            lambda: all(len(node.segments()) <= 12 for node in cluster.nodes),
            "segments that nobody needs to be removed",
            60,
        )

    def test_quiet_shard_does_not_pin_the_log(self):
        """One shard writes megabytes, another wrote once long ago: the old segments go all the same."""
        cluster = self.start_cluster(
            segment_size="1MiB", snapshot_log_bytes="256KiB", trailing_entries=16, shards=2
        )
        cluster[1].call("SET", "once", "kept", project=project_in_shard(1, 2))
        with Load(cluster.nodes, [project_in_shard(0, 2)], writers_per_project=4, value_size=50000) as load:
            load.wait_for_writes(250, timeout_s=120)
        wait_for(
            lambda: all(len(node.segments()) <= 12 for node in cluster.nodes),
            "the log to shrink although a shard is quiet",
            60,
        )
        self.assertEqual(cluster[2].call("GET", "once", project=project_in_shard(1, 2)), b"kept")

    @big
    def test_restart_with_a_gigabyte(self):
        """A fresh restart of a node that holds 1 GiB serves again within 3 s."""
        cluster = self.start_cluster(shards=1, default_quota="4GiB")
        fill(cluster.leader_of(), "default", 1)
        cluster.wait_caught_up(300)
        follower = cluster.others(cluster.leader_of())[0]
        for how in (follower.stop, follower.kill):
            how()
            watch = Stopwatch()
            follower.start()
            wait_for(lambda: follower.call("GET", "big:7"), "the node to serve", 30, 0.02)
            seconds = watch.seconds()
            self.report(f"serves {seconds:.2f} s after {how.__name__} and start")
            self.assertLess(seconds, 3.0)
            self.assertEqual(follower.call("GET", "big:7"), value_of(7, 1 << 16))
        cluster.wait_caught_up()
        for node in cluster.nodes:
            node.stop()
        watch = Stopwatch()
        cluster.start()
        wait_for(lambda: cluster[1].call("GET", "big:7"), "the cluster to serve", 30, 0.02)
        self.report(f"whole cluster serves {watch.seconds():.2f} s after its start")
