"""Malformed input by the thousands, to every port at once: the node lives, lets go of every connection,
does not grow, and serves its clients all the while. `--big`: a million; MALFORMED_INPUTS=n: so many;
MALFORMED_SEED=n: the same ones again."""

import os
import re
import threading
import time
import urllib.request

from harness.case import ClusterTest, asan, big
from harness.cluster import Options, Stopwatch
from harness.malformed import Attack
from harness.resp import Client
from harness.wait import wait_for

GROWTH_MIB = 96  # caches that fill, memory that malloc keeps


class Customer(threading.Thread):
    """Sets, reads and checks without pause, until told to stop."""

    def __init__(self, name, node, tls):
        super().__init__(daemon=True, name=name)
        self.node = node
        self.tls = tls
        self.stopping = threading.Event()
        self.times = []
        self.error = None

    def run(self):
        try:
            with Client(self.node.port, "good", timeout_s=60, tls=self.tls) as client:
                number = 0
                while not self.stopping.is_set():
                    number += 1
                    started = time.monotonic()
                    client.call("SET", self.name, str(number))
                    assert client.call("GET", self.name) == str(number).encode()
                    self.times.append(time.monotonic() - started)
                    time.sleep(0.005)
        except Exception as error:  # noqa: BLE001 - told by the test
            self.error = repr(error)

    def finish(self):
        self.stopping.set()
        self.join(90)
        return self.error


class MalformedTest(ClusterTest):
    def start(self):
        cluster = self.make_cluster(3, shards=2, log_level="warn", core_dumps="yes")
        cluster.use_tls(clients="required", peers="optional")  # so that the harness has a context
        cluster.use_tls(clients="optional", peers="optional")
        self.tls, cluster.tls = cluster.tls, None
        cluster.start()
        return cluster

    def figures(self, node):
        with urllib.request.urlopen(f"http://127.0.0.1:{node.http_port}/metrics", timeout=60) as page:
            text = page.read().decode()
        names = ("invokekv_connections", "invokekv_input_bytes", "invokekv_reply_bytes")
        figures = {name: int(re.search(rf"^{name} (\d+)$", text, re.M)[1]) for name in names}
        # Of all ports, and the links to the other nodes; files may come with checkpoints.
        return {"sockets": len(node.sockets()), **figures}

    @asan
    def test_malformed_input_at_every_port(self):
        self.attack(int(os.environ.get("MALFORMED_INPUTS", 20000 // Options.slowdown())))

    @big
    def test_a_million(self):
        self.attack(1000000)

    def attack(self, count):
        cluster = self.start()
        node = cluster[1]
        pid = node.process.pid
        ports = {"resp": node.port, "tls clients": node.port, "peer": node.peer_port,
                 "tls peers": node.peer_port, "http": node.http_port}  # fmt: skip
        # The first ones warm up: code, caches, and the memory that threads keep.
        warm_up = Attack(ports, min(count // 10, 20000))
        warm_up.join()
        time.sleep(1)
        before, rss_before = self.figures(node), node.rss_mib()
        customers = [Customer("plain", node, None), Customer("tls", node, self.tls), Customer("other", cluster[2], None)]
        for customer in customers:
            customer.start()
        watch = Stopwatch()
        attack = Attack(ports, count)
        self.report(f"seed {attack.seed} (MALFORMED_SEED)")
        highest = 0
        while any(process.is_alive() for process in attack.processes) and attack.results.empty():
            highest = max(highest, node.rss_mib())
            time.sleep(0.5)
        tally, stuck = attack.join()
        took_s = watch.seconds()
        errors = [customer.finish() for customer in customers]
        self.report(f"{tally['inputs']} inputs over {tally['connections']} connections in {took_s:.0f} s: {dict(tally)}")
        self.assertEqual(errors, [None] * 3)
        self.assertEqual(stuck, [])
        self.assertGreaterEqual(tally["inputs"], count - 3)
        self.assertEqual((node.is_running(), node.process.pid), (True, pid))
        self.assertEqual(cluster.running(), cluster.nodes)

        def released():
            now = self.figures(node)
            assert all(now[name] <= before[name] for name in before), now
            return now

        after = wait_for(released, f"the node to release what it held: {before}", 90, 0.5)
        rss_after = node.rss_mib()
        for customer in customers:
            times = sorted(customer.times)
            self.report(f"{customer.name}: {len(times)} pairs, median {times[len(times) // 2] * 1000:.1f} ms, "
                        f"longest {times[-1] * 1000:.0f} ms")  # fmt: skip
        self.report(f"{before} -> {after}")
        self.report(f"resident: {rss_before:.0f} MiB before, {highest:.0f} at most, {rss_after:.0f} after")
        if not Options.sanitizer():
            self.assertLess(rss_after - rss_before, GROWTH_MIB)
        for each in cluster.nodes:
            self.assertEqual(each.call("GET", "untouched"), None)
        self.assertLess(os.path.getsize(node.log_path), 20 << 20, "the log is not flooded either")
