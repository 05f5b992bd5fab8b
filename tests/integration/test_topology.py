"""CLUSTER commands on real nodes: who leads what, after elections too; redirection instead of
forwarding; the tools that speak Redis Cluster's protocol."""

import subprocess

from harness.case import ClusterTest, asan, quick
from harness.resp import ReplyError, project_in_shard
from harness.wait import wait_for


def slots_of(client):
    """CLUSTER SLOTS as [port of the leader, ports of the replicas ...]."""
    ranges = client.call("CLUSTER", "SLOTS")
    assert len(ranges) == 1 and ranges[0][:2] == [0, 16383], ranges
    nodes = ranges[0][2:]
    assert all(host == b"127.0.0.1" for host, *_ in nodes), nodes
    return [port for _, port, *_ in nodes]


def fields(text):
    return dict(line.split(":", 1) for line in text.decode().splitlines())


def state_of(node, project="default"):
    return fields(node.call("CLUSTER", "INFO", project=project))["cluster_state"]


class Topology(ClusterTest):
    @quick
    @asan
    def test_all_nodes_tell_the_same(self):
        cluster = self.start_cluster(rebalance="no")
        ids = {node.port: node.call("CLUSTER", "MYID").decode() for node in cluster.nodes}
        self.assertEqual(len(set(ids.values())), 3)
        for shard in range(cluster.n_shards):
            project = project_in_shard(shard, cluster.n_shards)
            leader = cluster.leader_of(project)
            for node in cluster.nodes:
                with node.client(project) as client:
                    self.check_view(client, ids, leader)
                    self.assertEqual(fields(client.call("CLUSTER", "INFO"))["cluster_state"], "ok")
                with node.client(project, protocol=3) as client:
                    self.check_shards(client, ids, leader)
                    view = client.call("CLUSTER", "TOPOLOGY")
                self.assertEqual(view[b"self"], node.id)
                self.assertEqual(view[b"leaders"][shard], leader.id)
                self.assertEqual(
                    view[b"nodes"], [[n.id, b"127.0.0.1", n.port, 1] for n in cluster.nodes]
                )
        self.assertEqual(cluster[1].info("cluster")["cluster_enabled"], "1")

    def check_view(self, client, ids, leader):
        ports = slots_of(client)
        self.assertEqual(ports[0], leader.port)
        self.assertEqual(sorted(ports), sorted(ids))
        masters = []
        for line in client.call("CLUSTER", "NODES").decode().splitlines():
            node_id, address, flags, master, _, _, _, link, *ranges = line.split(" ")
            port = int(address.split("@")[0].rpartition(":")[2])
            self.assertEqual(node_id, ids[port])
            self.assertEqual(link, "connected")
            self.assertEqual("myself" in flags, port == client.socket.getpeername()[1])
            if "master" in flags:
                masters.append(port)
                self.assertEqual((master, ranges), ("-", ["0-16383"]))
            else:
                self.assertEqual((master, ranges), (ids[leader.port], []))
        self.assertEqual(masters, [leader.port])

    def check_shards(self, client, ids, leader):
        (shard,) = client.call("CLUSTER", "SHARDS")
        self.assertEqual(shard[b"slots"], [0, 16383])
        roles = {node[b"port"]: node[b"role"] for node in shard[b"nodes"]}
        self.assertEqual(roles.pop(leader.port), b"master")
        self.assertEqual(list(roles.values()), [b"replica", b"replica"])
        self.assertEqual({n[b"port"]: n[b"id"].decode() for n in shard[b"nodes"]}, ids)

    @asan
    def test_a_dead_leader_is_not_named_for_long(self):
        cluster = self.start_cluster(rebalance="no")
        ids = [node.call("CLUSTER", "MYID") for node in cluster.nodes]
        dead = cluster.leader_of()
        dead.kill()
        others = cluster.others(dead)
        for node in others:
            # Long before an election: whoever asks is sent to a node that lives.
            wait_for(lambda n=node: dead.port not in slots_of(n.client()), f"{node} to miss {dead}")
        leader = cluster.leader_of()
        for node in others:
            wait_for(lambda n=node: slots_of(n.client())[0] == leader.port, f"{node} to tell")
            self.assertEqual(len(slots_of(node.client())), 2)
            self.assertIn(b"fail?", node.call("CLUSTER", "NODES"))
            self.assertEqual(state_of(node), "ok")

        # One node alone: nobody leads, and it says so, but it lists what it knows.
        last = cluster.others(dead, leader)[0]
        leader.kill()
        wait_for(lambda: state_of(last) == "fail", "the last node to be without a leader")
        self.assertEqual(slots_of(last.client()), [last.port])
        none = [0] * cluster.n_shards
        with last.client(protocol=3) as client:
            view = wait_for(
                lambda: (v := client.call("CLUSTER", "TOPOLOGY"))[b"leaders"] == none and v,
                "it to lead no shard",
            )
        self.assertEqual([alive for *_, alive in view[b"nodes"]].count(1), 1)

        dead.start()
        leader.start()
        cluster.wait_ready()
        self.assertEqual([node.call("CLUSTER", "MYID") for node in cluster.nodes], ids)
        for node in cluster.nodes:
            wait_for(lambda n=node: len(slots_of(n.client())) == 3, f"{node} to see all nodes")


class Redirection(ClusterTest):
    def follow(self, cluster, error):
        """The node that a -MOVED names."""
        code, _, address = error.text.split(" ")
        self.assertEqual(code, "MOVED")
        return next(node for node in cluster.nodes if address == f"127.0.0.1:{node.port}")

    @quick
    @asan
    def test_moved_instead_of_forwarding(self):
        cluster = self.start_cluster(rebalance="no", shards=2)
        leader = cluster.leader_of()
        other = cluster.others(leader)[0]
        with other.client() as client, leader.client() as direct:
            client.call("SET", "foo", "1")
            self.assertEqual(client.call("CLUSTER", "REDIRECT", "ON"), "OK")
            with self.assertRaises(ReplyError) as caught:
                client.call("SET", "foo", "2")
            self.assertEqual(caught.exception.text, f"MOVED 12182 127.0.0.1:{leader.port}")
            with self.assertRaises(ReplyError) as caught:
                client.call("GET", "foo")
            self.assertIs(self.follow(cluster, caught.exception), leader)
            # Replicas answer those who ask for no more.
            client.call("CONSISTENCY", "SESSION")
            self.assertEqual(client.call("GET", "foo"), b"1")
            client.call("READONLY")
            self.assertEqual(client.call("GET", "foo"), b"1")
            client.call("READWRITE")
            client.call("CLUSTER", "REDIRECT", "OFF")
            self.assertEqual(client.call("SET", "foo", "3"), "OK")
            direct.call("CLUSTER", "REDIRECT", "ON")
            self.assertEqual(direct.call("GET", "foo"), b"3")

    def test_configured_redirection_through_an_election(self):
        cluster = self.start_cluster(rebalance="no", shards=1, redirect="yes")
        first = cluster.leader_of()
        other = cluster.others(first)[0]
        with other.client() as client:
            with self.assertRaises(ReplyError) as caught:
                client.call("INCR", "n")
            self.assertIs(self.follow(cluster, caught.exception), first)
            self.assertEqual(first.call("INCR", "n"), 1)
            first.kill()
            # While nobody leads the node keeps the command; then it takes or redirects it.
            try:
                wait_for(lambda: first.port not in slots_of(client), "the loss to be seen")
                self.assertEqual(client.call("INCR", "n"), 2)
            except ReplyError as error:
                second = self.follow(cluster, error)
                self.assertIsNot(second, first)
                self.assertEqual(second.call("INCR", "n"), 2)


class Tools(ClusterTest):
    @quick
    def test_redis_cli_follows(self):
        cluster = self.start_cluster(rebalance="no", shards=1, redirect="yes")
        leader = cluster.leader_of()
        other = cluster.others(leader)[0]
        self.assertIn("MOVED", other.cli("set", "a", "1"))
        self.assertIn("OK", other.cli("set", "a", "1", options=["-c"]))
        self.assertIn("1", other.cli("get", "a", options=["-c"]))
        self.assertEqual(leader.cli("get", "a"), "1")

    def test_redis_cli_checks_the_cluster(self):
        cluster = self.start_cluster(rebalance="no", shards=1)
        address = f"127.0.0.1:{cluster[1].port}"
        words = subprocess.run(
            ["redis-cli", "--cluster", "check", address],
            capture_output=True,
            text=True,
            timeout=30,
            check=False,
        )
        self.assertEqual(words.returncode, 0, words.stdout + words.stderr)
        self.assertIn("All nodes agree about slots configuration", words.stdout)
        self.assertIn("All 16384 slots covered", words.stdout)
