"""Neighbouring releases side by side: a rolling upgrade under load, and the way back."""

import os

from harness.case import ClusterTest, quick
from harness.cluster import Options
from harness.load import Load
from harness.wait import wait_for
from test_members import as_map


def next_release(name="next"):
    """A server that passes for the next release, or for one that is "far" from it: tests/next."""
    build = os.path.dirname(os.path.dirname(Options.binary))
    return os.path.join(build, f"tests/next/invoke-kvd-{name}")


class UpgradeTest(ClusterTest):
    def releases(self, node):
        nodes = map(as_map, as_map(node.call("CLUSTER", "MEMBERS"))["nodes"])
        return {each["id"]: each["release"].decode() for each in nodes}

    def level(self, node):
        return as_map(node.call("CLUSTER", "MEMBERS"))["level"]

    def restart(self, cluster, node, binary):
        node.stop()
        node.binary = binary
        node.start()
        cluster.wait_ready(60)

    @quick
    def test_rolling_upgrade_under_load_and_back(self):
        cluster = self.start_cluster(shards=4)
        stays = cluster[1]
        own = self.releases(stays)[1]
        projects = [f"project-{i}" for i in range(4)]
        with Load([stays], projects, writers_per_project=1, pause_s=0.002) as load:
            load.wait_for_writes(20, 60)
            for number in (2, 3):
                self.restart(cluster, cluster[number], next_release())
                load.wait_for_writes(20, 60)
            wait_for(lambda: self.releases(stays) == {1: own, 2: "99.0.0", 3: "99.0.0"}, "the releases")
            # What the next release brings has to wait for the last one.
            self.assertEqual([self.level(node) for node in cluster.nodes], [1, 1, 1])
        self.assertEqual([text for _, _, text in load.errors()], [])
        with Load([cluster[2], cluster[3]], projects, writers_per_project=1, pause_s=0.002) as later:
            later.wait_for_writes(20, 60)
            self.restart(cluster, stays, next_release())
            wait_for(lambda: [self.level(node) for node in cluster.nodes] == [2, 2, 2], "the common level")
            # The last node goes back: nothing was written yet that it could not read.
            self.restart(cluster, stays, None)
            later.wait_for_writes(20, 60)
        self.assertEqual([text for _, _, text in later.errors()], [])
        cluster.wait_caught_up()
        for node in cluster.nodes:
            self.assertEqual(load.lost(node), [])
            self.assertEqual(later.lost(node), [])

    @quick
    def test_levels_that_are_too_far_apart(self):
        """A release that skips a level is refused by nodes of the old one, and they by it, until
        all have gone through the level between."""
        cluster = self.start_cluster(shards=1)
        third = cluster[3]
        cluster[1].call("SET", "before", "1")
        third.stop()
        third.binary = next_release("far")
        third.start()
        refusal = r"only neighbouring levels work together; upgrade one after the other"
        for node in cluster.nodes:
            node.wait_for_log(refusal)
        third.wait_for_log("node 1 runs release [0-9.]+ .level 1., node 3 release 99.0.0 .level 3.")
        # The others go on, and the level gates nothing else: what it says to clients it says.
        self.assertEqual(cluster[2].call("SET", "meanwhile", "2"), "OK")
        self.assertEqual(third.call("PING"), "PONG")
        self.assertEqual(self.level(cluster[1]), 1)
        third.stop()
        third.binary = None
        third.start()
        cluster.wait_ready(60)
        for number in (1, 2, 3):
            self.restart(cluster, cluster[number], next_release())
        # Nobody has level 1 any more: now it is a neighbour.
        self.restart(cluster, third, next_release("far"))
        wait_for(lambda: [self.level(node) for node in cluster.nodes] == [2, 2, 2], "the common level")
        self.assertEqual(third.call("GET", "before"), b"1")
        self.assertEqual(third.call("GET", "meanwhile"), b"2")
