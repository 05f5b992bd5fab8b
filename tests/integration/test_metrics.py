"""/metrics, /readyz and slow operations on real nodes, and the files in monitoring/ against them."""

import http.client
import json
import os
import re
import socket
import ssl
import subprocess

from harness.case import ClusterTest, asan, quick, sanitizer
from harness.cluster import ROOT, Options
from harness.resp import ReplyError, project_in_shard
from harness.wait import wait_for

TEXT = "text/plain; charset=utf-8"
SAMPLE = re.compile(r'^([a-zA-Z_:][\w:]*)(?:\{(.*)\})? (\S+)$')
LABEL = re.compile(r'(\w+)="((?:[^"\\]|\\.)*)"(?:,|$)')


def get(node, path, method="GET", timeout_s=10):
    """(status, content type, body) of a page."""
    connection = http.client.HTTPConnection("127.0.0.1", node.http_port, timeout=timeout_s)
    try:
        connection.request(method, path)
        answer = connection.getresponse()
        return answer.status, answer.headers.get("Content-Type"), answer.read().decode()
    finally:
        connection.close()


class Figures:
    """A page of metrics, read."""

    def __init__(self, text):
        self.types = {}
        self.samples = {}  # family -> [(name, labels, value)]
        family = None
        for line in text.splitlines():
            if line.startswith("# TYPE "):
                _, _, family, kind = line.split(" ")
                assert family not in self.types, f"{family} twice"
                self.types[family] = kind
                self.samples[family] = []
            elif not line.startswith("#"):
                match = SAMPLE.match(line)
                assert match, line
                assert match[1].startswith(family), f"{line} under {family}"
                labels = dict(LABEL.findall(match[2] or ""))
                self.samples[family].append((match[1], labels, float(match[3])))

    def value(self, family, **labels):
        """Sum of the samples that have these labels."""
        return sum(
            value
            for name, found, value in self.samples[family]
            if name == family and labels.items() <= found.items()
        )


def figures(node):
    return Figures(get(node, "/metrics")[2])


def promtool(*arguments, stdin=None):
    result = subprocess.run(
        ["promtool", *arguments], input=stdin, capture_output=True, text=True, check=False
    )
    return result.returncode, result.stdout + result.stderr


def documented():
    """{metric: (type, labels)} of the table in docs/metrics.md."""
    with open(os.path.join(ROOT, "docs/metrics.md"), encoding="utf-8") as file:
        rows = re.findall(r"^\| `(\w+)` \| (\w+) \| ([\w, ]*) \| .* \|$", file.read(), re.M)
    return {name: (kind, set(re.findall(r"\w+", labels))) for name, kind, labels in rows}


def used_by_files():
    """Names of metrics in the alert rules and the dashboard, without the suffixes of histograms."""
    text = ""
    for name in ("alerts.yml", "grafana-dashboard.json"):
        with open(os.path.join(ROOT, "monitoring", name), encoding="utf-8") as file:
            text += file.read()
    names = set(re.findall(r"\b(?:invokekv|process)_[a-z0-9_]+", text))
    return {re.sub(r"_(bucket|sum|count)$", "", name) for name in names}


class PagesTest(ClusterTest):
    @quick
    @sanitizer
    def test_what_is_served_is_what_is_documented(self):
        cluster = self.start_cluster(3, shards=4)
        for shard in range(4):
            project = project_in_shard(shard, 4)
            for node in cluster.nodes:
                node.call("SET", "k", "v", project=project)
        node = cluster[1]

        def has_projects():
            return figures(node).samples["invokekv_project_used_bytes"]

        wait_for(has_projects, "figures of projects")
        status, kind, text = get(node, "/metrics")
        self.assertEqual((status, kind), (200, "text/plain; version=0.0.4; charset=utf-8"))
        page = Figures(text)
        table = documented()
        self.assertEqual({name: kind for name, (kind, _) in table.items()}, page.types)
        self.assertEqual(page.samples.pop("invokekv_certificate_expiry_time_seconds"), [])
        for family, samples in page.samples.items():
            kind, labels = table[family]
            self.assertTrue(samples, f"{family} has no sample")
            for _, found, _ in page.samples[family]:
                self.assertEqual(set(found) - ({"le"} if kind == "histogram" else set()), labels)
        self.assertEqual(promtool("check", "metrics", stdin=text), (0, ""))

    @quick
    def test_certificates(self):
        cluster = self.make_cluster(1, shards=1)
        cluster.use_tls(clients="required")
        cluster.start()
        with socket.create_connection(("127.0.0.1", cluster[1].port), 10) as plain:
            plain.sendall(b"PING\r\n")
            plain.recv(1000)
        page = wait_for(
            lambda: (page := figures(cluster[1]))
            and page.value("invokekv_connections_insecure_total") == 1
            and page,
            "the plaintext connection to be counted",
        )
        (name, labels, expiry), *others = page.samples["invokekv_certificate_expiry_time_seconds"]
        self.assertEqual((labels, others), ({"use": "clients"}, []))
        text = subprocess.run(
            ["openssl", "x509", "-enddate", "-noout", "-in", cluster.certificate("node-1.pem")],
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        self.assertEqual(expiry, ssl.cert_time_to_seconds(text.strip().split("=")[1]))

    @quick
    def test_files_use_what_is_served(self):
        used = used_by_files()
        self.assertGreater(len(used), 30)
        self.assertEqual(used - set(documented()), set())
        for arguments in (("rules", "alerts.yml"), ("config", "prometheus.yml")):
            status, output = promtool(
                "check", arguments[0], os.path.join(ROOT, "monitoring", arguments[1])
            )
            self.assertEqual(status, 0, output)
        with open(os.path.join(ROOT, "monitoring/grafana-dashboard.json"), encoding="utf-8") as file:
            panels = [panel for panel in json.load(file)["panels"] if panel["type"] != "row"]
        self.assertGreater(len(panels), 20)
        self.assertTrue(all(panel["targets"] and panel["title"] for panel in panels))

    @quick
    def test_alerts_fire(self):
        status, output = promtool(
            "test", "rules", os.path.join(ROOT, "tests/integration/alerts_test.yml")
        )
        self.assertEqual(status, 0, output)

    @quick
    @sanitizer
    def test_requests_and_projects_are_counted(self):
        node = self.start_cluster(1, shards=2, metrics_projects=3)[1]
        before = figures(node)
        with node.client("default") as client:
            for number in range(20):
                client.call("SET", f"key-{number}", "x" * 100)
                client.call("GET", f"key-{number}")
            for _ in range(3):
                with self.assertRaises(ReplyError):
                    client.call("INCR", "key-1")
            with self.assertRaises(ReplyError):
                client.call("NOSUCH")
            client.call("CLUSTER", "MYID")
        for number in range(5):
            node.call("SET", "k", "x" * (1000 * number + 1000), project=f'odd "{number}" \\ é')

        def counted(page, command, result):
            return page.value("invokekv_requests_total", command=command, result=result)

        page = wait_for(
            lambda: (page := figures(node)) and counted(page, "set", "OK") == 25 and page,
            "25 writes to be counted",
        )
        self.assertEqual(counted(page, "get", "OK"), 20)
        self.assertEqual(counted(page, "incr", "ERR"), 3)
        self.assertEqual(counted(page, "unknown", "ERR"), 1)
        self.assertEqual(counted(page, "cluster|myid", "OK"), 1)
        buckets = [
            (labels["le"], value)
            for name, labels, value in page.samples["invokekv_request_duration_seconds"]
            if name.endswith("_bucket") and labels["command"] == "set"
        ]
        self.assertEqual(buckets[-1], ("+Inf", 25))
        self.assertEqual(sorted(value for _, value in buckets), [value for _, value in buckets])

        def syncs(page):
            return [
                value
                for name, _, value in page.samples["invokekv_log_sync_duration_seconds"]
                if name.endswith("_count")
            ][0]

        self.assertGreater(syncs(page), syncs(before))

        def largest():
            found = {}
            for _, labels, value in figures(node).samples["invokekv_project_used_bytes"]:
                found[labels["project"]] = value
            return found if len(found) == 3 and max(found.values()) > 5000 else None

        found = wait_for(largest, "the projects that use most", 30)
        names = {f'odd \\"{number}\\" \\\\ é': 1000 * number + 1001 for number in (2, 3, 4)}
        self.assertEqual(found, names)
        self.assertEqual(figures(node).value("invokekv_projects"), 6)

    @quick
    @asan
    def test_bad_requests(self):
        node = self.start_cluster(1, shards=1)[1]
        self.assertEqual(get(node, "/livez")[0], 200)
        wait_for(lambda: get(node, "/readyz") == (200, TEXT, "ok\n"), "the node to be ready")
        self.assertEqual(get(node, "/nothing")[0], 404)
        for method in ("POST", "PUT", "DELETE", "OPTIONS"):
            self.assertEqual(get(node, "/readyz", method)[0], 405)
        status, _, body = get(node, "/metrics", "HEAD")
        self.assertEqual((status, body), (200, ""))
        self.assertGreaterEqual(get(node, "/" + "x" * 100000)[0], 400)
        for junk in (b"\x00\xff\r\n\r\n", b"GET\r\n\r\n", b"POST /livez HTTP/1.1\r\n"):
            with socket.create_connection(("127.0.0.1", node.http_port), 10) as stranger:
                stranger.sendall(junk * 100)
        strangers = []
        for _ in range(100):
            stranger = socket.create_connection(("127.0.0.1", node.http_port), 10)
            stranger.sendall(b"GET /livez HTTP/1.1\r\n")
            strangers.append(stranger)
        with node.client() as client:
            self.assertEqual(client.call("PING"), "PONG")
        for stranger in strangers:
            stranger.close()
        wait_for(lambda: get(node, "/livez")[0] == 200, "HTTP to answer again")


class ChangesTest(ClusterTest):
    @asan
    def test_a_killed_leader(self):
        """Elections, leaders, lag and links are told; the new leader knows what the old one lacks."""
        cluster = self.start_cluster(3, shards=1, rebalance="no")
        leader = cluster.leader_of()
        others = cluster.others(leader)

        def total(name):
            return sum(figures(node).value(name) for node in others)

        before = {name: total(f"invokekv_raft_{name}_total") for name in ("elections", "leader_changes")}
        term = figures(others[0]).value("invokekv_raft_term")
        leader.kill()
        new = cluster.leader_of()
        for number in range(50):
            new.call("SET", f"k{number}", "v")

        def told():
            page = figures(new)
            return (
                page.value("invokekv_raft_role", role="leader") == 1
                and page.value("invokekv_raft_leader") == new.id
                and page.value("invokekv_raft_follower_lag_entries", node=str(leader.id)) >= 50
                and page.value("invokekv_peer_connected", node=str(leader.id)) == 0
                and page.value("invokekv_raft_term") > term
            )

        wait_for(told, "the new leader's figures")
        self.assertGreater(total("invokekv_raft_elections_total"), before["elections"])
        wait_for(
            lambda: total("invokekv_raft_leader_changes_total") >= before["leader_changes"] + 2,
            "both to have seen the change",
        )
        leader.start()
        cluster.wait_ready()

        def caught_up():
            page = figures(new)
            back = figures(leader)
            return (
                page.value("invokekv_raft_follower_lag_entries") == 0
                and back.value("invokekv_raft_applied_index") == page.value("invokekv_raft_applied_index")
                and back.value("invokekv_replica_staleness_seconds") < 5
            )

        wait_for(caught_up, "the old leader to catch up", 30 * Options.slowdown())

    @sanitizer
    def test_snapshots_and_checkpoints(self):
        cluster = self.start_cluster(
            shards=1, segment_size="1MiB", snapshot_log_bytes="256KiB", trailing_entries=16
        )
        leader = cluster.leader_of()
        follower = cluster.others(leader)[0]
        follower.kill()
        with leader.client() as client:
            for number in range(120):
                client.call("SET", f"k{number % 20}", "x" * 65536)
        wait_for(lambda: figures(leader).value("invokekv_checkpoints_total") > 2, "checkpoints")
        follower.start()
        cluster.wait_caught_up()

        def installed():
            sent = sum(figures(node).value("invokekv_snapshots_sent_total") for node in cluster.nodes)
            return sent >= 1 and figures(follower).value("invokekv_snapshots_installed_total") >= 1

        wait_for(installed, "the snapshot to be counted")
        wait_for(lambda: get(follower, "/readyz")[2] == "ok\n", "the follower to be ready")
        page = figures(follower)
        self.assertEqual(page.value("invokekv_snapshot_receiving"), 0)
        self.assertGreater(page.value("invokekv_sqlite_database_bytes"), 20 * 65536)
        self.assertEqual(page.value("invokekv_shard_keys"), 20)

    @asan
    def test_without_a_majority(self):
        """A node cut from the majority says so, shard by shard, and is ready again afterwards."""
        cluster = self.start_cluster(3, shards=2, request_timeout_ms=1500, slow_ms=1000)
        node = cluster[1]
        wait_for(lambda: get(node, "/readyz")[0] == 200, "the node to be ready")
        for other in cluster.others(node):
            other.pause()

        def unready():
            status, _, text = get(node, "/readyz")
            return status == 503 and text == "shard 0: no leader known\nshard 1: no leader known\n"

        wait_for(unready, "the node to say that it knows no leader", 30 * Options.slowdown())
        self.assertEqual(get(node, "/livez")[0], 200)
        status, kind, text = get(node, "/readyz?format=json")
        self.assertEqual((status, kind), (503, "application/json"))
        view = json.loads(text)
        self.assertEqual(
            view,
            {
                "ready": False,
                "reasons": [],
                "shards": [
                    {"shard": shard, "ready": False, "reason": "no leader known"} for shard in (0, 1)
                ],
            },
        )
        project = project_in_shard(1, 2)
        with node.client(project) as client:
            reply = client.pipeline([("SET", "secret-key", "secret-value")])[0]
            self.assertRegex(str(reply), "NOLEADER|UNCERTAIN")
        wait_for(lambda: figures(node).value("invokekv_slow_requests_total") == 1, "a slow operation")
        page = figures(node)
        self.assertEqual(page.value("invokekv_ready"), 0)
        self.assertEqual(page.value("invokekv_shard_ready"), 0)
        self.assertEqual(page.value("invokekv_requests_total", command="set"), 1)
        line = node.wait_for_log(r'event="slow operation".*')[0]
        self.assertRegex(
            line, rf"command=set project={project} shard=1 duration_ms=\d{{4}} failed=yes others_unsaid=0"
        )
        self.assertNotIn("secret", node.log())
        for other in cluster.others(node):
            other.resume()
        wait_for(lambda: get(node, "/readyz")[0] == 200, "the node to be ready", 60)

    def test_one_line_for_many_slow_operations(self):
        node = self.start_cluster(1, shards=1, slow_ms=1)[1]
        with node.client() as client:
            replies = client.pipeline([("SET", f"k{number}", "x" * 100000) for number in range(200)])
        self.assertEqual(set(replies), {"OK"})
        wait_for(lambda: figures(node).value("invokekv_slow_requests_total") > 20, "slow operations")
        self.assertLessEqual(node.log().count('event="slow operation"'), 5)

    def test_draining(self):
        """A node that stops says so while its last replies leave."""
        cluster = self.start_cluster(3, shards=4)
        node = cluster[2]
        for other in cluster.others(node):
            other.pause()
        with node.client() as client:
            client.send("SET", "k", "v")
            node.process.terminate()
            wait_for(lambda: "draining: this node stops" in get(node, "/readyz")[2], "the word", 10)
        for other in cluster.others(node):
            other.resume()
        node.wait_exit()

    def test_full_disk(self):
        node = self.start_cluster(1, shards=1)[1]
        node.stop()
        node.write_config(min_free_disk="1000GiB")
        node.start()
        wait_for(lambda: "disk nearly full: " in get(node, "/readyz")[2], "the reason")
        page = figures(node)
        self.assertEqual(page.value("invokekv_ready"), 0)
        self.assertEqual(page.value("invokekv_disk_reserve_bytes"), 1000 * 1024**3)
        self.assertGreater(page.value("invokekv_disk_free_bytes"), 0)
