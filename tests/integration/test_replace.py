"""The replace procedure: a node that lost its disk comes back empty, under load, without a vote
until it has caught up."""

import pathlib
import shutil
import time

from harness.case import ClusterTest, quick
from harness.load import Load
from harness.wait import wait_for


def voters(node):
    return [int(shard["voters"]) for shard in node.shards().values()]


class ReplaceTest(ClusterTest):
    def _lose_disk(self, node):
        node.kill()
        shutil.rmtree(node.data)

    @quick
    def test_node_comes_back_after_losing_its_disk(self):
        cluster = self.start_cluster(shards=4)
        lost, first, second = cluster[2], cluster[1], cluster[3]
        projects = [f"project-{i}" for i in range(6)]
        with Load([first, second], projects, writers_per_project=1) as load:
            load.wait_for_writes(200)
            self._lose_disk(lost)
            self.assertEqual(first.call("CLUSTER", "REPLACE", "2"), "OK")
            for node in (first, second):
                node.wait_for_log("ready for the replaced node")
            # Out of the group or a standby: it has no say before it holds the data.
            wait_for(lambda: voters(first) == [2] * 4, "two voters in every shard")
            lost.start()
            wait_for(lambda: voters(first) == [3] * 4, "three voters again", 60)
            load.wait_for_writes(100)
        cluster.wait_ready()
        cluster.wait_caught_up()
        # The newcomer counts: with it, the cluster survives the loss of another node.
        first.kill()
        wait_for(lambda: lost.call("SET", "after", "the loss") == "OK", "writes with the newcomer")
        for node in (lost, second):
            self.assertEqual(load.lost(node), [])

    @quick
    def test_twice_in_a_row(self):
        """The second time it is lost while it is still catching up, or just after."""
        cluster = self.start_cluster(shards=2)
        for round_number in range(2):
            with self.subTest(round=round_number):
                self._lose_disk(cluster[3])
                self.assertEqual(cluster[1].call("CLUSTER", "REPLACE", "3"), "OK")
                for node in (cluster[1], cluster[2]):
                    wait_for(
                        lambda node=node: node.log().count("ready for the replaced node")
                        > round_number,
                        "both others to be ready",
                    )
                cluster[3].start()
                wait_for(
                    lambda: cluster[3].log().count("event=started") > round_number + 1,
                    "the newcomer to start",
                )
        wait_for(lambda: voters(cluster[1]) == [3, 3], "three voters", 60)
        cluster.wait_ready()
        self.assertEqual(cluster[3].call("SET", "a", "1"), "OK")

    @quick
    def test_restarted_node_does_not_take_the_newcomer_out(self):
        """The command is repeated for a while; whoever restarts meanwhile has forgotten that it
        heard it, and must not take the node out once more, which has a voice again."""
        cluster = self.start_cluster(shards=2)
        told, lost, restarted = cluster[1], cluster[2], cluster[3]
        self._lose_disk(lost)
        self.assertEqual(told.call("CLUSTER", "REPLACE", "2"), "OK")
        for node in (told, restarted):
            node.wait_for_log("ready for the replaced node")
        lost.start()
        wait_for(lambda: voters(told) == [3, 3], "three voters again", 60)
        heard = restarted.log().count("replacing a node")
        restarted.kill()
        restarted.start()
        cluster.wait_ready()
        time.sleep(2.5)  # it is told every second
        self.assertEqual(restarted.log().count("replacing a node"), heard)
        self.assertEqual(voters(told), [3, 3])

    def test_member_that_missed_a_replacement(self):
        """It refuses the new directory, although that votes by now; the procedure, gone through
        again, is the way out."""
        cluster = self.start_cluster(shards=2)
        lost, missed, told = cluster[1], cluster[2], cluster[3]
        peers = pathlib.Path(missed.data, "peers")
        before = peers.read_bytes()
        for round_number in range(2):
            self._lose_disk(lost)
            wait_for(
                lambda: told.client().pipeline([("CLUSTER", "REPLACE", "1")])[0] == "OK",
                "the command to be taken",
            )
            wait_for(lambda: voters(told) == [2, 2], "two voters in every shard")
            for node in (missed, told):
                wait_for(
                    lambda node=node: node.log().count("ready for the replaced node")
                    > round_number,
                    "both others to be ready",
                )
            lost.start()
            wait_for(lambda: voters(told) == [3, 3], "three voters again", 60)
            if round_number == 0:
                missed.kill()
                peers.write_bytes(before)
                missed.start()
                missed.wait_for_log("another data directory")
        cluster.wait_ready()
        cluster.wait_caught_up()
        # The two others alone: they have to accept each other.
        told.kill()
        wait_for(lambda: missed.call("SET", "after", "the loss") == "OK", "writes of the two")

    @quick
    def test_refusals(self):
        cluster = self.start_cluster(shards=1)
        for arguments, text in [
            (("1",), "this is node 1 itself"),
            (("9",), "no node 9"),
            (("two",), "not a positive integer"),
            (("-2",), "not a positive integer"),
        ]:
            reply = cluster[1].client().pipeline([("CLUSTER", "REPLACE", *arguments)])[0]
            self.assertIn(text, str(reply))
        # With another node down, taking one out could cost the majority.
        cluster[3].kill()
        wait_for(
            lambda: "must be up"
            in str(cluster[1].client().pipeline([("CLUSTER", "REPLACE", "2")])[0]),
            "the refusal",
        )
