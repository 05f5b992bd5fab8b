"""Damaged logs, foreign and wiped directories: a node says so and stays out; the others go on."""

import os
import shutil

from harness import disk
from harness.case import ClusterTest, asan, quick
from harness.load import Load
from harness.resp import ConnectionLost
from harness.wait import wait_for


class DamagedLogTest(ClusterTest):
    def _cluster_with_load(self):
        cluster = self.start_cluster(shards=1)
        with Load(cluster.nodes, ["default"], writers_per_project=4, value_size=200) as load:
            load.wait_for_writes(100)
        cluster.wait_caught_up()
        return cluster, load

    @quick
    @asan
    def test_torn_tail_is_cut_off(self):
        """The last batch of a node that was killed is damaged or half there: the node starts without
        it and gets it again from the others, which hold what it had acknowledged."""
        damages = {
            "flipped": lambda path, found: disk.flip_bit(path, found[-1].payload_offset - 8),
            "zeroed": lambda path, found: disk.overwrite(
                path, found[-1].offset, bytes(found[-1].end - found[-1].offset)
            ),
            "garbage": lambda path, found: disk.overwrite(path, found[-1].end, os.urandom(3000)),
            "half": lambda path, found: disk.overwrite(
                path, found[-1].end, self._head_of_a_batch(path, found)
            ),
        }
        cluster, load = self._cluster_with_load()
        for name, damage in damages.items():
            node = cluster.others(cluster.leader_of())[0]
            node.kill()
            damage(*disk.newest_records(node))
            node.start()
            cluster.wait_ready()
            cluster.wait_caught_up()
            self.assertEqual(load.lost(node), [], name)
            cluster[1].call("SET", name, "written after")
            cluster.wait_caught_up()

    @staticmethod
    def _head_of_a_batch(path, found):
        """Bytes of a record that was never finished: plausible, but not intact."""
        with open(path, "rb") as file:
            file.seek(found[-1].offset)
            return file.read(disk.RECORD_HEADER.size)

    @quick
    def test_bit_flip_in_the_middle_is_refused(self):
        """Damage with intact batches behind it: no start, the place is named, nothing is touched,
        and the others serve on."""
        cluster, load = self._cluster_with_load()
        node = cluster.others(cluster.leader_of())[0]
        node.kill()
        path, found = disk.newest_records(node)
        victim = next(
            record
            for record in found[len(found) // 2 :]
            if record.type == disk.ENTRY and record.size > 100
        )
        self.assertGreater(found[-1].sequence, victim.sequence + 1)
        for offset in (victim.payload_offset + 50, victim.offset + 30, victim.offset):
            with self.subTest(offset=offset - victim.offset):
                disk.flip_bit(path, offset)
                before = open(path, "rb").read()
                node.start()
                self.assertNotEqual(node.wait_exit(), 0)
                self.assertIn(os.path.basename(path), node.log())
                # The offset of the record, or of its batch, in decimal.
                offsets = [
                    record.offset for record in found if record.sequence == victim.sequence
                ]
                self.assertTrue(
                    any(str(offset) in node.log() for offset in offsets), node.log_tail()
                )
                self.assertEqual(open(path, "rb").read(), before, "the evidence was changed")
                disk.flip_bit(path, offset)
        self.assertEqual(load.lost(cluster.running()[0]), [])
        self.assertEqual(cluster.running()[0].call("SET", "k", "v"), "OK")
        node.start()
        cluster.wait_ready()
        cluster.wait_caught_up()
        self.assertEqual(load.lost(node), [])

    def test_damage_after_a_clean_stop_is_never_a_torn_tail(self):
        """A clean stop seals the log: after it no damage can be the remains of an unfinished write."""
        cluster, load = self._cluster_with_load()
        node = cluster.others(cluster.leader_of())[0]
        node.stop()
        path, found = disk.newest_records(node)
        victim = [record for record in found if record.type == disk.ENTRY][-1]
        disk.flip_bit(path, victim.offset + 20)
        node.start()
        self.assertNotEqual(node.wait_exit(), 0)
        self.assertIn(os.path.basename(path), node.log())
        self.assertEqual(load.lost(cluster.running()[0]), [])

    def test_missing_segment_is_refused(self):
        cluster = self.start_cluster(shards=1, segment_size="1MiB", snapshot_log_bytes="64MiB")
        with Load(cluster.nodes, ["default"], writers_per_project=4, value_size=50000) as load:
            load.wait_for_writes(30)
        node = cluster.others(cluster.leader_of())[0]
        node.kill()
        segments = [path for path in node.segments() if disk.records(path)]
        self.assertGreater(len(segments), 2)
        newest = os.path.join(os.path.dirname(segments[0]), "newest")
        # One in the middle; the newest one, which no other segment would miss; and the file that does.
        for path, text in [
            (segments[1], os.path.basename(segments[1])),
            (segments[-1], os.path.basename(segments[-1])),
            (newest, "log/newest"),
        ]:
            with self.subTest(lost=os.path.basename(path)):
                with open(path, "rb") as file:
                    content = file.read()
                os.unlink(path)
                node.start()
                self.assertNotEqual(node.wait_exit(), 0)
                self.assertIn(text, node.log())
                self.assertIn("replace the node", node.log())
                with open(path, "wb") as file:
                    file.write(content)
        self.assertEqual(load.lost(cluster.running()[0]), [])
        node.start()
        cluster.wait_ready()

    def test_damaged_database_is_refused(self):
        cluster, load = self._cluster_with_load()
        node = cluster.others(cluster.leader_of())[0]
        node.stop()
        path = os.path.join(node.data, "shard-0.db")
        disk.overwrite(path, 0, os.urandom(4096))
        node.start()
        self.assertNotEqual(node.wait_exit(), 0)
        self.assertRegex(node.log(), "shard-0.db")
        self.assertEqual(load.lost(cluster.running()[0]), [])


class IdentityTest(ClusterTest):
    def _refused(self, node, pattern):
        node.start()
        self.assertNotEqual(node.wait_exit(), 0)
        self.assertRegex(node.log(), pattern)

    @quick
    def test_directory_of_another_cluster(self):
        cluster = self.start_cluster(shards=1)
        cluster[1].call("SET", "k", "v")
        node = cluster[3]
        node.stop()
        node.write_config(cluster="other")
        self._refused(node, "cluster.*'?test'?")
        node.write_config()
        node.start()
        cluster.wait_ready()
        self.assertEqual(node.call("GET", "k"), b"v")

    @quick
    def test_directory_of_another_node(self):
        cluster = self.start_cluster(shards=1)
        cluster[2].stop()
        cluster[3].stop()
        cluster[3].write_config(data_dir=cluster[2].data)
        self._refused(cluster[3], "node.* 2")
        cluster[3].write_config()
        cluster[2].start()
        cluster[3].start()
        cluster.wait_ready()

    def test_other_number_of_shards(self):
        """The number of shards is fixed when the cluster comes into being."""
        cluster = self.start_cluster(shards=2)
        cluster[1].call("SET", "k", "v")
        node = cluster[3]
        node.stop()
        node.write_config(shards=4)
        self._refused(node, "shards")
        self.assertEqual(cluster[2].call("GET", "k"), b"v")

    def test_clusters_do_not_mix(self):
        """A node whose configuration points at peers of another cluster is refused by them."""
        cluster = self.start_cluster(shards=1)
        cluster[1].call("SET", "k", "v")
        cluster[3].stop()
        shutil.rmtree(cluster[3].data)
        cluster[3].write_config(cluster="stranger")
        cluster[3].start()
        cluster[3].wait_for_log("cluster")
        wait_for(lambda: "stranger" in cluster[1].log() + cluster[2].log(), "a complaint of a peer")
        self.assertEqual(cluster[1].call("SET", "k", "w"), "OK")

    @quick
    def test_wiped_disk_is_refused_by_the_peers(self):
        """A node that lost its disk may have promised a vote: it must not come back under its old
        name by itself. Its peers refuse it, and the logs say what to do."""
        cluster = self.start_cluster(shards=1)
        with Load(cluster.nodes, ["default"], writers_per_project=2) as load:
            load.wait_for_writes(50)
        node = cluster[2]
        node.kill()
        shutil.rmtree(node.data)
        node.start()
        wait_for(lambda: "replace" in node.log(), "the replace procedure in its own log")
        peers = cluster.others(node)
        wait_for(lambda: any("replace" in peer.log() for peer in peers), "it in a peer's log")
        # It must not help the others to a majority.
        self.assertEqual(peers[0].call("SET", "k", "v"), "OK")
        peers[0].kill()
        with peers[1].client(timeout_s=30) as client:
            reply = client.pipeline([("SET", "k", "w")])[0]
            self.assertRegex(str(reply), "^(NOLEADER|UNCERTAIN) ")
        peers[0].start()
        wait_for(lambda: peers[1].call("SET", "k", "x") == "OK", "the two others to serve", 30)
        for peer in peers:
            self.assertEqual(load.lost(peer), [])

    @quick
    def test_second_process_on_the_same_directory(self):
        cluster = self.start_cluster(shards=1)
        node = cluster[1]
        first = node.process
        node.process = None
        node.start()
        second_status = node.wait_exit()
        node.process = first
        self.assertNotEqual(second_status, 0)
        self.assertRegex(node.log(), "in use|lock")
        self.assertEqual(node.call("SET", "k", "v"), "OK")

    def test_killed_process_leaves_no_lock_behind(self):
        cluster = self.start_cluster(shards=1)
        for _ in range(3):
            cluster[1].kill()
            cluster[1].start()
            cluster.wait_ready()
        with self.assertRaises(ConnectionLost):
            cluster[1].kill()
            cluster[1].call("PING")
