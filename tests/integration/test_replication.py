"""Writes through any node reach all nodes; reads are never stale."""

import time

from harness.case import ClusterTest, asan, quick, sanitizer
from harness.load import Load
from harness.resp import project_in_shard
from harness.wait import wait_for


class ReplicationTest(ClusterTest):
    @quick
    @asan
    def test_read_your_writes_anywhere(self):
        """A value acknowledged by one node is what every other node answers from then on."""
        cluster = self.start_cluster()
        projects = [project_in_shard(shard, 8) for shard in range(8)]
        for project in projects:
            clients = [node.client(project) for node in cluster.nodes]
            for number in range(30):
                clients[number % 3].call("SET", "k", number)
                for client in clients:
                    self.assertEqual(client.call("GET", "k"), str(number).encode())
            for client in clients:
                client.close()

    @sanitizer
    def test_concurrent_writers_on_all_nodes(self):
        cluster = self.start_cluster()
        projects = [project_in_shard(shard, 8) for shard in range(8)]
        with Load(cluster.nodes, projects, writers_per_project=2) as load:
            load.wait_for_writes(100, timeout_s=120)
        self.assertEqual(load.errors(), [])
        for node in cluster.nodes:
            self.assertEqual(load.lost(node), [])
        cluster.wait_caught_up()
        keys = [[shard["keys"] for _, shard in sorted(node.shards().items())] for node in cluster.nodes]
        self.assertEqual(keys[0], keys[1])
        self.assertEqual(keys[0], keys[2])

    def test_leaders_are_spread(self):
        cluster = self.start_cluster()
        wait_for(
            lambda: all(2 <= len(node.led_shards()) <= 3 for node in cluster.nodes),
            "the leaders of 8 shards to spread over 3 nodes",
            60,
        )

    def test_paused_leader_never_answers_stale(self):
        """A leader that was stopped (SIGSTOP) and overtaken must not answer from its old state."""
        cluster = self.start_cluster(shards=1, rebalance="no")
        for round_number in range(3):
            leader = cluster.leader_of()
            others = cluster.others(leader)
            reader = leader.client(timeout_s=30)
            reader.call("SET", "k", f"old-{round_number}")
            leader.pause()
            # Already on its way when the leader wakes up: it lies in the socket's buffer.
            reader.send("GET", "k")
            new = f"new-{round_number}"
            wait_for(lambda: others[0].call("SET", "k", new) == "OK", "a new leader", 30)
            leader.resume()
            reply = reader.read(raise_errors=False)
            self.assertEqual(reply, new.encode(), "an answer from before the pause")
            reader.close()
            cluster.wait_ready()

    def test_minority_neither_writes_nor_reads(self):
        """With two of three nodes gone nothing is answered from old state, and it says so."""
        cluster = self.start_cluster(shards=1, request_timeout_ms=1000)
        cluster[1].call("SET", "k", "v")
        survivor = cluster[3]
        cluster[1].kill()
        cluster[2].kill()
        time.sleep(1)
        with survivor.client() as client:
            for command in (("SET", "k", "w"), ("GET", "k")):
                reply = client.pipeline([command])[0]
                self.assertRegex(str(reply), "^(NOLEADER|UNCERTAIN) ")
            self.assertEqual(client.call("PING"), "PONG")
        cluster[1].start()
        cluster.wait_ready()
        self.assertIn(survivor.call("GET", "k"), (b"v", b"w"))
