"""Clusters that grow and shrink: nodes are added and removed under load, strangers are not, and what
was acknowledged stays."""

import json
import os
import shutil
import signal
import subprocess

from harness.case import ClusterTest, asan, quick, sanitizer
from harness.cluster import Node, Options
from harness.load import Load
from harness.resp import ReplyError
from harness.wait import wait_for


def as_map(pairs):
    """A RESP2 map."""
    return {pairs[i].decode(): pairs[i + 1] for i in range(0, len(pairs), 2)}


def members(node):
    """{shard: {node id: votes}} as this node sees it."""
    shards = {}
    for shard in as_map(node.call("CLUSTER", "MEMBERS"))["shards"]:
        fields = as_map(shard)
        shards[fields["shard"]] = {
            member["id"]: bool(member["voter"]) for member in map(as_map, fields["members"])
        }
    return shards


def refusal(node, *arguments):
    try:
        node.call("CLUSTER", *arguments)
    except ReplyError as error:
        return str(error)
    raise AssertionError(f"CLUSTER {arguments} was not refused")


class MembersTest(ClusterTest):
    def wait_voters(self, nodes, ids, timeout_s=60):
        """Until all of `nodes` see exactly these voters in every shard, and nobody else."""
        expected = {node_id: True for node_id in ids}
        wait_for(
            lambda: all(set(members(node)) and all(seen == expected for seen in members(node).values()) for node in nodes),
            f"voters {ids} in every shard",
            timeout_s * Options.slowdown(),
        )

    def grow(self, cluster):
        node = cluster.add_node()
        cluster.reload()
        node.start()
        first = cluster[1]
        wait_for(lambda: self.accepts(first, node), f"{node} to be added", 60 * Options.slowdown())
        self.wait_voters(cluster.nodes, [node.id for node in cluster.nodes])
        return node

    def removes(self, node, gone):
        """Refused until the change before is done in the eyes of this node."""
        try:
            return node.call("CLUSTER", "REMOVE", str(gone.id)) == "OK"
        except ReplyError as error:
            self.assertIn("one change at a time", str(error))
            return False

    def accepts(self, node, newcomer):
        """Refused until the link between the two is up."""
        try:
            return node.call("CLUSTER", "ADD", str(newcomer.id)) == "OK"
        except ReplyError as error:
            self.assertIn("is not connected", str(error))
            return False

    @quick
    @sanitizer
    def test_three_to_five_and_back_under_load(self):
        cluster = self.start_cluster(shards=4)
        projects = [f"project-{i}" for i in range(6)]
        # Through nodes that stay: one that was removed knows no leader any more.
        stays = [cluster[1], cluster[3]]
        with Load(stays, projects, writers_per_project=1, pause_s=0.002) as load:
            load.wait_for_writes(50, 60)
            fourth = self.grow(cluster)
            fifth = self.grow(cluster)
            load.wait_for_writes(50, 60)
            cluster.wait_ready()
            # One that leads, and one that does not: whoever leads hands over first.
            for gone in (fifth, cluster[2]):
                wait_for(lambda gone=gone: self.removes(cluster[1], gone), "the removal to begin")
                stay = [node for node in cluster.nodes if node is not gone]
                self.wait_voters(stay, [node.id for node in stay])
                # It neither votes nor disturbs any more, for as long as it still runs.
                terms = {number: shard["term"] for number, shard in cluster[1].shards().items()}
                load.wait_for_writes(20, 60)
                if not Options.sanitizer():  # slow nodes hold elections of their own
                    self.assertEqual(
                        {number: shard["term"] for number, shard in cluster[1].shards().items()}, terms
                    )
                cluster.drop_node(gone)
                cluster.reload()
            load.wait_for_writes(50, 60)
        self.assertEqual([node.id for node in cluster.nodes], [1, 3, 4])
        errors = [text for _, _, text in load.errors() if "connection" not in text]
        self.assertEqual(errors, [])
        cluster.wait_ready()
        cluster.wait_caught_up()
        for node in cluster.nodes:
            self.assertEqual(load.lost(node), [])
        # The newcomer counts: with it, the cluster survives the loss of a founder.
        cluster[1].kill()
        wait_for(lambda: fourth.call("SET", "after", "the loss") == "OK", "writes with the newcomer")
        for node in (cluster[3], fourth):
            self.assertEqual(load.lost(node), [])
        self.assertEqual(sum(node.info("server").get("digest_mismatches", "0") != "0" for node in cluster.running()), 0)

    def test_node_is_added_while_another_is_down_and_restarts(self):
        cluster = self.start_cluster(shards=2)
        cluster[1].call("SET", "before", "1")
        cluster[3].kill()
        fourth = cluster.add_node()
        cluster.reload()
        fourth.start()
        wait_for(lambda: self.accepts(cluster[1], fourth), "the fourth to be added")
        self.wait_voters([cluster[1], cluster[2], fourth], [1, 2, 3, 4])
        # Nobody else can leave now: the majority of what stays would hang on one node.
        self.assertIn("node 3 is not connected", refusal(cluster[1], "REMOVE", "4"))
        # But the dead one can.
        self.assertEqual(cluster[1].call("CLUSTER", "REMOVE", "3"), "OK")
        self.wait_voters([cluster[1], cluster[2], fourth], [1, 2, 4])
        # It comes back, does not know yet, and neither votes nor disturbs.
        cluster[3].start()
        wait_for(lambda: cluster[3].log().count("event=started") > 1, "the removed node to run")
        self.assertEqual(cluster[1].call("SET", "after", "2"), "OK")
        self.assertEqual(members(cluster[1])[0], {1: True, 2: True, 4: True})
        # The newcomer keeps its place through a restart, whatever its file still says.
        fourth.stop()
        fourth.start()
        cluster.drop_node(cluster[3])
        cluster.reload()
        cluster.wait_ready()
        self.assertEqual(fourth.call("GET", "after"), b"2")

    def test_leader_dies_while_a_node_is_added(self):
        cluster = self.start_cluster(shards=4)
        fourth = cluster.add_node()
        cluster.reload()
        fourth.start()
        wait_for(lambda: self.accepts(cluster[1], fourth), "the fourth to be added")
        cluster[1].kill()
        self.wait_voters([cluster[2], cluster[3], fourth], [1, 2, 3, 4], 120)
        cluster[1].start()
        self.wait_voters(cluster.nodes, [1, 2, 3, 4])

    @quick
    def test_newcomer_waits_and_is_no_member_before_it_is_added(self):
        cluster = self.start_cluster(shards=2)
        fourth = cluster.add_node()
        cluster.reload()
        fourth.start()
        fourth.wait_for_log("found its cluster")
        self.assertEqual(members(cluster[1])[0], {1: True, 2: True, 3: True})
        for words in (("WATCHKEYS", ""), ("WATCHKEYS", "a", "FROM", "0"), ("SUBSCRIBE", "a"), ("PSUBSCRIBE", "*")):
            with self.assertRaisesRegex(ReplyError, "^STALE this replica has not started"):
                fourth.call(*words)
        # Without it and one founder there is still a majority of three.
        cluster[3].kill()
        wait_for(lambda: cluster[1].call("SET", "a", "1") == "OK", "writes")
        # It cannot stand in for a founder: with two of three dead nothing goes.
        cluster[2].kill()
        wait_for(
            lambda: all(shard["role"] != "leader" for shard in cluster[1].shards().values()),
            "the last founder to step down",
        )
        self.assertEqual([shard["role"] for shard in fourth.shards().values()], ["standby", "standby"])
        self.assertEqual(members(fourth).get(0), {})

    @quick
    def test_add_is_undone_by_remove(self):
        cluster = self.start_cluster(shards=2)
        fourth = cluster.add_node()
        cluster.reload()
        fourth.start()
        wait_for(lambda: self.accepts(cluster[1], fourth), "the fourth to be added")
        fourth.kill()
        self.assertEqual(cluster[1].call("CLUSTER", "REMOVE", "4"), "OK")
        self.wait_voters([cluster[1], cluster[2], cluster[3]], [1, 2, 3])
        # And comes back empty: nothing depends on what it was before.
        shutil.rmtree(fourth.data)
        fourth.start()
        wait_for(lambda: self.accepts(cluster[1], fourth), "the fourth to be added again")
        self.wait_voters(cluster.nodes, [1, 2, 3, 4])

    @quick
    def test_node_of_another_cluster_is_refused(self):
        cluster = self.start_cluster(shards=1)
        fourth = cluster.add_node()
        fourth.write_config(cluster="other")
        cluster.reload()
        fourth.start()
        fourth.wait_for_log("this is a node of cluster 'test', not of 'other'")
        self.assertIn("node 4 is not connected", refusal(cluster[1], "ADD", "4"))

    @quick
    def test_node_of_a_cluster_of_the_same_name_is_refused(self):
        cluster = self.start_cluster(shards=1)
        stranger = self.make_cluster(1, shards=1)
        stranger.nodes = [Node(stranger, 4)]
        stranger[4].write_config()
        stranger.start()
        stranger[4].stop()
        fourth = cluster.add_node()
        shutil.copytree(stranger[4].data, fourth.data)
        cluster.reload()
        fourth.start()
        cluster[1].wait_for_log("belongs to another cluster of this name")
        self.assertIn("node 4 is not connected", refusal(cluster[1], "ADD", "4"))

    @quick
    def test_refusals(self):
        cluster = self.start_cluster(shards=1)
        for arguments, text in [
            (("ADD", "9"), "no node 9"),
            (("ADD", "x"), "not a positive integer"),
            (("REMOVE", "1"), "this is node 1 itself"),
            (("REMOVE", "9"), "no node 9"),
            (("TRANSFER", "9"), "no shard 9"),
            (("TRANSFER", "x"), "not a number"),
            (("TRANSFER", "0", "9"), "node"),
        ]:
            self.assertIn(text, refusal(cluster[1], *arguments))
        self.assertEqual(cluster[1].call("CLUSTER", "ADD", "2"), "OK")  # it is one already
        # A line that goes missing while its node is a member changes nothing.
        third = cluster[3]
        cluster.nodes.remove(third)
        cluster.write_configs()
        cluster.nodes.append(third)
        cluster[1].process.send_signal(signal.SIGHUP)
        cluster[1].wait_for_log("still a member")
        self.assertEqual(cluster[1].call("SET", "a", "1"), "OK")

    @quick
    def test_transfer_and_rebalance(self):
        cluster = self.start_cluster(shards=3, rebalance="no")

        def leads_everything(node):
            """A transfer may be overtaken by an election."""
            for number in set(range(3)) - set(node.led_shards()):
                leader = next(other for other in cluster.nodes if number in other.led_shards())
                self.assertEqual(leader.call("CLUSTER", "TRANSFER", str(number), str(node.id)), "OK")
            return sorted(node.led_shards()) == [0, 1, 2]

        wait_for(lambda: leads_everything(cluster[2]), "node 2 to lead everything", pause_s=0.5)
        wrong = refusal(cluster[1], "TRANSFER", "0", "1")
        self.assertIn("node 2 leads shard 0", wrong)
        self.assertEqual(cluster[3].call("CLUSTER", "REBALANCE"), "OK")
        wait_for(
            lambda: [node.led_shards() for node in cluster.nodes] == [[0], [1], [2]],
            "every shard to be led by its preferred node",
        )


class CommandLineTest(ClusterTest):
    """invoke-kv cluster ..."""

    def run_cli(self, cluster, *arguments, timeout_s=120):
        build = os.path.dirname(os.path.dirname(Options.binary))
        servers = ",".join(f"127.0.0.1:{node.port}" for node in cluster.nodes)
        result = subprocess.run(
            [os.path.join(build, "client/cli/invoke-kv"), "--server", servers, *map(str, arguments)],
            capture_output=True,
            text=True,
            timeout=timeout_s,
            check=False,
        )
        return result.returncode, result.stdout, result.stderr

    def succeeds(self, cluster, *arguments):
        code, out, err = self.run_cli(cluster, *arguments)
        self.assertEqual(code, 0, f"{arguments}: {out} {err}")
        return out

    @quick
    @asan
    def test_grow_replace_shrink_and_move(self):
        cluster = self.start_cluster(shards=3)
        self.assertEqual(self.succeeds(cluster, "cluster", "status", "--wait-healthy"), "healthy\n")
        code, _, err = self.run_cli(cluster, "cluster", "add", "4")
        self.assertEqual(code, 3)
        self.assertIn("no node 4", err)
        fourth = cluster.add_node()
        cluster.reload()
        fourth.start()
        out = json.loads(self.succeeds(cluster, "--json", "cluster", "add", "4"))
        self.assertEqual(out, {"node": 4, "state": "votes in every shard"})
        health = json.loads(self.succeeds(cluster, "--json", "cluster", "status", "--wait-healthy"))
        self.assertEqual((health["healthy"], health["problems"]), (True, []))
        # One that lost its disk.
        fourth.kill()
        shutil.rmtree(fourth.data)
        code, out, _ = self.run_cli(cluster, "cluster", "status", "--wait-healthy", "--within", "1s")
        self.assertEqual(code, 1)
        self.assertIn("node 4 does not answer", out)
        self.assertIn("out of every shard", self.succeeds(cluster, "cluster", "replace", "4"))
        fourth.start()
        self.succeeds(cluster, "cluster", "status", "--wait-healthy", "--within", "60s")
        # Leaderships.
        self.succeeds(cluster, "cluster", "transfer", "all", "--to", "2")
        self.assertEqual(sorted(cluster[2].led_shards()), [0, 1, 2])
        self.succeeds(cluster, "cluster", "transfer", "all", "--from", "2")
        self.assertEqual(cluster[2].led_shards(), [])
        self.succeeds(cluster, "cluster", "transfer", "1", "--to", "3")
        self.assertIn(1, cluster[3].led_shards())
        self.succeeds(cluster, "cluster", "rebalance")
        wait_for(lambda: cluster[1].led_shards() == [0], "balance")
        self.assertEqual(self.succeeds(cluster, "cluster", "remove", "4"), "node 4: removed\n")
        cluster.drop_node(fourth)
        cluster.reload()
        self.succeeds(cluster, "cluster", "status", "--wait-healthy")
        # Without a majority there is no leader.
        cluster[2].kill()
        cluster[3].kill()
        wait_for(lambda: cluster[1].led_shards() == [], "the last one to step down")
        code, out, _ = self.run_cli(cluster, "cluster", "status", "--wait-healthy", "--within", "1s")
        self.assertEqual(code, 4)
        self.assertIn("has no leader", out)

    @quick
    def test_wrong_words(self):
        cluster = self.start_cluster(1, shards=1)
        for arguments, code, text in [
            (("add", "x"), 2, "is no node id"),
            (("add",), 2, ""),
            (("remove", "1"), 4, "no other node"),
            (("transfer", "x"), 2, "is no shard"),
            (("transfer", "all"), 2, "--to or --from"),
            (("status", "--wait-healthy", "--within", "soon"), 2, "is no time"),
        ]:
            got, _, err = self.run_cli(cluster, "cluster", *arguments)
            self.assertEqual(got, code, f"{arguments}: {err}")
            self.assertIn(text, err)
