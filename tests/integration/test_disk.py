"""Disks that are full and disks that fail."""

import os
import re
import time

from harness.case import ClusterTest, quick
from harness.cluster import Options
from harness.disk import FailingSync, SmallDisk
from harness.load import Load
from harness.resp import ReplyError
from harness.wait import wait_for

MIB = 1 << 20


class FullDiskTest(ClusterTest):
    def setUp(self):
        reason = SmallDisk.why_not()
        if reason:
            self.skipTest(reason)

    def _cluster_on_small_disks(self, nodes, size_mib=96):
        cluster = self.make_cluster(
            shards=2, segment_size="2MiB", min_free_disk="16MiB", snapshot_log_bytes="1MiB"
        )
        disks = {}
        for node in cluster.nodes:
            if node.id in nodes:
                disks[node.id] = SmallDisk(node.data, size_mib)
                # After the processes have ended: the harness stops them in a cleanup of its own,
                # which runs after this one, so the unmount is a lazy one.
                self.addCleanup(disks[node.id].remove)
        cluster.start()
        return cluster, disks

    @staticmethod
    def _is_refused(node, key="probe"):
        with node.client() as client:
            reply = client.pipeline([("SET", key, "x" * 1000)])[0]
        return isinstance(reply, ReplyError) and reply.code == "NOSPACE"

    @quick
    def test_all_disks_full(self):
        """Writes are refused with -NOSPACE, reads go on; when space returns, so do writes."""
        cluster, disks = self._cluster_on_small_disks({1, 2, 3})
        with Load(cluster.nodes, ["default"], writers_per_project=2, value_size=1000) as load:
            load.wait_for_writes(50)
        for disk in disks.values():
            disk.fill(leave_bytes=4 * MIB)
        wait_for(lambda: all(map(self._is_refused, cluster.nodes)), "-NOSPACE", 30)
        for node in cluster.nodes:
            self.assertEqual(load.lost(node), [])
            self.assertTrue(node.is_running())
        # Full to the last byte, and under fire: still nothing but refusals.
        for disk in disks.values():
            disk.fill()
        with Load(cluster.nodes, ["default"], writers_per_project=2, value_size=100000) as refused:
            wait_for(lambda: len(refused.errors()) > 100, "refusals")
        kinds = {error[2].split(" ", 1)[0] for error in refused.errors()}
        self.assertEqual(kinds, {"NOSPACE"})
        self.assertTrue(all(node.is_running() for node in cluster.nodes))
        for disk in disks.values():
            disk.release()
        wait_for(
            lambda: all(node.call("SET", "after", "1") == "OK" for node in cluster.nodes),
            "writes to be taken again",
            30,
        )
        cluster.wait_caught_up()
        for node in cluster.nodes:
            self.assertEqual(load.lost(node), [])

    def test_written_full_by_clients(self):
        """Clients themselves fill the disk: the node stops them in time, survives a restart on the
        full disk, and takes deletions' worth of space back after more room is made."""
        cluster, disks = self._cluster_on_small_disks({1, 2, 3}, size_mib=64)
        value = os.urandom(100000)
        written = []
        with cluster[1].client(timeout_s=30) as client:
            for number in range(2000):
                reply = client.pipeline([("SET", f"k{number}", value)])[0]
                if isinstance(reply, ReplyError):
                    self.assertEqual(reply.code, "NOSPACE", reply.text)
                    break
                written.append(f"k{number}")
            else:
                self.fail("200 MB fit on a disk of 64 MiB")
            self.report(f"refused after {len(written) / 10:.0f} MB on a disk of 64 MiB")
            self.assertGreater(len(written), 50)
            for key in written[:: len(written) // 20]:
                self.assertEqual(client.call("GET", key), value)
        for node in cluster.nodes:
            node.kill()
        cluster.start()
        for node in cluster.nodes:
            for key in written[:: len(written) // 20]:
                self.assertEqual(node.call("GET", key), value)
        self.assertEqual(len(disks), 3)

    def test_one_follower_full(self):
        """One full disk does not stop the cluster; the node catches up when it has space again."""
        cluster, disks = self._cluster_on_small_disks({3})
        disks[3].fill(leave_bytes=2 * MIB)
        others = cluster.others(cluster[3])
        wait_for(lambda: others[0].call("SET", "k", "v") == "OK", "writes to be taken", 30)
        with Load(others, ["default"], writers_per_project=2, value_size=20000) as load:
            load.wait_for_writes(200)
        for node in others:
            self.assertEqual(load.lost(node), [])
        disks[3].release()
        cluster.wait_ready(60)
        cluster.wait_caught_up()
        self.assertEqual(load.lost(cluster[3]), [])

    @quick
    def test_leaders_disk_full(self):
        """A leader whose own disk is full hands its shards to nodes that have space: clients are
        refused for a moment only, through any node. It does not lead again while its disk is full."""
        cluster, disks = self._cluster_on_small_disks({1, 2, 3})
        leader = cluster.leader_of()
        with Load(cluster.nodes, ["default"], writers_per_project=3, value_size=1000) as load:
            load.wait_for_writes(50)
            filled = time.monotonic()
            disks[leader.id].fill(leave_bytes=8 * MIB)
            wait_for(lambda: not leader.led_shards(), "the full node to lead nothing", 30)
            time.sleep(1)  # refusals of the time before have arrived
            calm = time.monotonic()
            load.wait_for_writes(200)
            time.sleep(5)
        refused = [error for error in load.errors() if error[2].startswith("NOSPACE")]
        self.report(f"{len(refused)} refused, the last {max([e[1] for e in refused], default=filled) - filled:.2f} s after the disk was full")
        self.assertEqual([error for error in refused if error[1] > calm], [])
        self.assertEqual(leader.led_shards(), [])
        self.assertIn("hands leadership to a node whose disk has space", leader.log())
        for node in cluster.nodes:
            self.assertEqual(load.lost(node), [])
        disks[leader.id].release()
        cluster.wait_ready(60)
        cluster.wait_caught_up()
        self.assertEqual(load.lost(leader), [])


class FailedSyncTest(ClusterTest):
    @quick
    def test_failed_sync_stops_the_node(self):
        """After a failed fsync nobody knows what is on disk: the process says so and stops at once;
        the cluster goes on without it, and the node comes back by a plain start."""
        if Options.sanitizer():
            self.skipTest("the preloaded library does not mix with a sanitizer's")
        cluster = self.make_cluster(shards=1)
        shim = FailingSync(cluster.directory)
        for node in cluster.nodes:
            node.start(shim.environment() if node.id == 2 else None)
        cluster.wait_ready()
        node = cluster[2]
        node.may_report = True
        others = cluster.others(node)
        with Load(others, ["default"], writers_per_project=4) as load:
            load.wait_for_writes(20)
            shim.fail()
            self.assertNotEqual(node.wait_exit(), 0)
            load.wait_for_writes(20)
        self.assertRegex(node.log(), re.compile("sync.*(Input/output error|EIO)", re.DOTALL))
        self.assertEqual([error for error in load.errors() if not error[2].startswith("UNCERTAIN")], [])
        shim.heal()
        node.start()
        cluster.wait_ready()
        cluster.wait_caught_up()
        for other in cluster.nodes:
            self.assertEqual(load.lost(other), [])
