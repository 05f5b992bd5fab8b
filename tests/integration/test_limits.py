"""Every limit of a node, flooded, beside a client that behaves: what the flood is told, that the node
does not grow, and what the other client notices of it."""

import contextlib
import multiprocessing
import os
import re
import resource
import selectors
import socket
import subprocess
import threading
import time
import urllib.request

from harness.case import ClusterTest, asan, big, quick, sanitizer
from harness.cluster import Options
from harness.flood import Flood, quantile
from harness.resp import Client, ConnectionLost, ReplyError, encode
from harness.wait import wait_for

MIB = 1 << 20
# Small caches, so that a low ceiling is allowed.
SMALL = {"shards": 2, "shard_cache": "1MiB", "feed_history": "1MiB", "log_cache": "1MiB"}


class LimitsTest(ClusterTest):
    def start_one(self, **settings):
        """A cluster of one node: all of its limits are its own."""
        self.node = self.start_cluster(1, **{**SMALL, **settings})[1]
        return self.node

    def connect(self, project=None, **options):
        client = self.node.client(project, **options)
        self.addCleanup(client.close)
        return client

    def reached(self, limit):
        return int(self.node.info("stats")[f"limit_reached_{limit}"])

    def metric(self, name):
        with urllib.request.urlopen(f"http://127.0.0.1:{self.node.http_port}/metrics", timeout=10) as page:
            text = page.read().decode()
        return float(re.search(rf"^{re.escape(name)} (\S+)$", text, re.MULTILINE)[1])

    def assert_told(self, limit):
        """Counted alike everywhere, and in the log, once for many."""
        count = self.reached(limit)
        self.assertGreater(count, 0)
        name = f'invokekv_limits_reached_total{{limit="{limit}"}}'
        wait_for(lambda: self.metric(name) >= count, f"{name} in /metrics")
        lines = re.findall(rf'event="limit reached" limit={limit} ', self.node.log())
        self.assertGreaterEqual(len(lines), 1)
        self.assertLessEqual(len(lines), 20)

    def check_others(self, flooding, project="calm"):
        """p99 of a client that behaves, without and with the flood, in turns: the least ratio of some
        rounds, as the machine has other work. Bound by five, above what a busy machine does anyhow."""
        ratios = []
        with self.node.client(project) as calm:
            calm.call("SET", "k", "v")
            for _ in range(8):
                before = _latencies(calm)
                with flooding():
                    time.sleep(0.2)
                    during = _latencies(calm)
                ratios.append(during / max(before, 0.002))
                if ratios[-1] < 8:
                    break
        self.report(f"p99 beside the flood: {', '.join(f'{ratio:.1f}' for ratio in ratios)} times")
        if not Options.sanitizer():
            self.assertLess(min(ratios), 8)

    def assert_grew(self, mib, most):
        # A sanitizer keeps what was freed.
        if not Options.sanitizer():
            self.assertLess(mib, most)

    @contextlib.contextmanager
    def sampling(self, nodes):
        """Resident sizes, in MiB, of every 20 ms."""
        stop, samples = threading.Event(), []

        def sample():
            while not stop.wait(0.02):
                samples.extend(node.rss_mib() for node in nodes)

        thread = threading.Thread(target=sample)
        thread.start()
        try:
            yield samples
        finally:
            stop.set()
            thread.join()

    # --- connections ----------------------------------------------------------------------------

    @quick
    @sanitizer
    def test_connections_in_total(self):
        node = self.start_one(max_connections=100)
        calm = self.connect()
        stop = threading.Event()
        counts = {"refused": 0, "taken": 0}

        def flood():
            held = []
            while not stop.is_set():
                try:
                    client = Client(node.port, timeout_s=5)
                    client.send("PING")
                    if client.read(raise_errors=False) == "PONG":
                        held.append(client)
                        counts["taken"] += 1
                        continue
                    client.close()
                except ConnectionLost:
                    pass
                counts["refused"] += 1
            for client in held:
                client.close()

        @contextlib.contextmanager
        def flooding():
            stop.clear()
            threads = [threading.Thread(target=flood) for _ in range(2)]
            for thread in threads:
                thread.start()
            try:
                yield
                wait_for(lambda: counts["refused"] > 200, "refusals", 60)
            finally:
                stop.set()
                for thread in threads:
                    thread.join()

        self.check_others(flooding)
        self.assertEqual(calm.call("PING"), "PONG")
        self.assertLessEqual(int(node.info("clients")["connected_clients"]), 100)
        self.assertEqual(node.info("clients")["maxclients"], "100")
        self.assert_told("connections")
        clients = [Client(node.port) for _ in range(100)]
        with Client(node.port) as refused:
            self.assertEqual(refused.read_rest(), b"-ERR max number of clients reached\r\n")
        for client in clients:
            client.close()

    @quick
    @sanitizer
    def test_connections_of_a_project(self):
        node = self.start_one(max_connections_per_project=20)
        clients = [self.connect("p") for _ in range(20)]
        refused = self.connect()
        for command in (("AUTH", "p", "x"), ("PROJECT", "USE", "p"), ("HELLO", 3, "AUTH", "p", "x")):
            with self.assertRaises(ReplyError) as caught:
                refused.call(*command)
            self.assertEqual(
                caught.exception.text,
                "ERR max number of clients reached: project 'p' has 20 connections at this node "
                "(max_connections_per_project)",
            )
        # It goes on where it was; and one that leaves, by whatever way, makes room.
        self.assertEqual(refused.call("SET", "k", "v"), "OK")
        clients[0].call("AUTH", "q", "x")
        self.assertEqual(refused.call("AUTH", "p", "x"), "OK")
        clients[1].close()
        wait_for(lambda: _try_auth(node, "p"), "the place of a closed connection")
        # Connections that work nowhere count nowhere: 30 of them, of which 20 may work.
        idle = [self.connect() for _ in range(30)]
        self.assertEqual({client.call("PING") for client in idle}, {"PONG"})
        replies = [client.pipeline([("GET", "k")])[0] for client in idle]
        self.assertEqual(sum(isinstance(reply, ReplyError) for reply in replies), 10)
        self.assert_told("project_connections")

    def test_no_descriptors(self):
        """A process that has run out of them serves those that are connected, and does not spin."""
        node = self.start_one()
        calm = self.connect()
        pid = node.process.pid
        soft, hard = resource.prlimit(pid, resource.RLIMIT_NOFILE)
        self.assertGreaterEqual(soft, 10000)
        highest = max(int(name) for name in os.listdir(f"/proc/{pid}/fd"))
        resource.prlimit(pid, resource.RLIMIT_NOFILE, (highest + 10, hard))
        clients = [Client(node.port, timeout_s=60) for _ in range(50)]
        for client in clients:
            client.send("PING")
        wait_for(lambda: "limit=descriptors" in node.log(), "a line about it")
        started = _cpu_seconds(pid)
        time.sleep(2)
        used = _cpu_seconds(pid) - started
        self.report(f"{used:.2f} s of processor time in 2 s without descriptors")
        self.assertLess(used, 1.5)
        self.assertEqual(calm.call("SET", "k", "v"), "OK")
        resource.prlimit(pid, resource.RLIMIT_NOFILE, (soft, hard))
        self.assertEqual({client.read() for client in clients}, {"PONG"})
        for client in clients:
            client.close()
        self.assert_told("descriptors")

    @quick
    def test_descriptors_at_the_start(self):
        """The process raises its limit; where it may not, the configuration is refused or lowered."""
        cluster = self.make_cluster(1, **SMALL)
        node = cluster[1]

        def start(limit, *overrides):
            # Root may raise a hard limit, and is kept from it here.
            return ["prlimit", f"--nofile={limit}:{limit}", "setpriv", "--bounding-set=-sys_resource", "--",
                    Options.binary, "--config", node.config_path, *overrides]

        status, text = _run_briefly(start(2000, "--set", "max_connections=5000"))
        if "setpriv" in text:
            self.skipTest("setpriv cannot drop capabilities here")
        self.assertEqual(status, 1, text)
        self.assertRegex(text, r"max_connections = '5000': needs \d+ open files, and this process may have 2000")
        status, text = _run_briefly(start(200))
        self.assertEqual(status, 1, text)
        self.assertRegex(text, "may have 200 files open and needs")
        status, text = _run_briefly(start(2000), until="event=started")
        self.assertRegex(text, r"fewer connections than by default.*max_connections=\d+ open_files=2000")

    @big
    def test_ten_thousand_idle_and_two_thousand_active(self):
        """12,000 connections to one node of three, from several addresses: what they cost, and what the
        active ones, of which each sends a request twice a second, wait."""
        idle, active, processes = 10000, 2000, 2
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        if hard < idle + active + 1000:
            self.skipTest(f"{hard} open files are allowed")
        resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, idle + active + 1000), hard))
        cluster = self.start_cluster(max_connections=13000)
        self.node = node = cluster[1]
        before = node.rss_mib()
        held = []
        for i in range(idle):
            held.append(_dial(node.port, f"127.0.0.{2 + i % 8}"))
            held[-1].sendall(b"PING\r\n")
        self.assertEqual({connection.recv(100) for connection in held}, {b"+PONG\r\n"})
        connected = node.rss_mib()
        time.sleep(5)
        resting = node.rss_mib()
        alone = self._paced(node, 1, active // processes, 10)
        started = _cpu_seconds(node.process.pid)
        with self.sampling([node]) as sizes:
            latencies = self._paced(node, processes, active // processes, 20)
        used = _cpu_seconds(node.process.pid) - started
        self.report(f"memory: {before:.0f} MiB, with {idle} connections {connected:.0f}, idle for 5 s {resting:.0f}, "
                    f"with {active} active ones at most {max(sizes):.0f}; "
                    f"{(connected - before) * 1024 / idle:.1f} KiB a connection")
        for name, values in (("half of the active ones", alone), (f"{active} active", latencies)):
            self.report(f"{name}: {len(values)} requests, p50 {quantile(values, 0.5) * 1e3:.2f} ms, "
                        f"p99 {quantile(values, 0.99) * 1e3:.2f} ms, p999 {quantile(values, 0.999) * 1e3:.2f} ms")
        self.report(f"{used:.1f} s of processor time for {len(latencies)} requests")
        self.assertGreater(len(latencies), active * 10)
        for connection in held[::97]:
            connection.sendall(b"PING\r\n")
            self.assertEqual(connection.recv(100), b"+PONG\r\n")
        self.assertGreaterEqual(int(node.info("clients")["connected_clients"]), idle)
        self.assertEqual(self.reached("connections"), 0)
        self.assertLess(max(sizes) - before, 200)
        for connection in held:
            connection.close()
        wait_for(lambda: int(node.info("clients")["connected_clients"]) < 10, "the connections to be gone", 60)

    def _paced(self, node, processes, connections, seconds):
        """Latencies of clients in processes of their own, each with its connections."""
        context = multiprocessing.get_context("spawn")  # the test has threads
        results = context.Queue()
        children = [context.Process(target=_pace, args=(node.port, i, connections, seconds, results), daemon=True)
                    for i in range(processes)]
        for child in children:
            child.start()
        latencies = [value for _ in children for value in results.get(timeout=300)]
        for child in children:
            child.join()
        return latencies

    # --- requests -------------------------------------------------------------------------------

    @sanitizer
    def test_request_size(self):
        """Requests larger than allowed are skipped, however many."""
        node = self.start_one(max_value="64KiB")
        before = node.rss_mib()
        big = b"*3\r\n$3\r\nSET\r\n$1\r\nk\r\n$8388608\r\n" + b"x" * (8 * MIB) + b"\r\n"
        flood = Flood(node.port, "rude", 8, big)
        self.check_others(flood.running)
        self.assertGreater(flood.replies(), 0)
        self.assert_grew(node.rss_mib() - before, 150)
        self.assert_told("request_size")

    @sanitizer
    def test_pipelines(self):
        """50 connections of endless pipelines: as many are under way as max_pipeline says."""
        node = self.start_one(max_pipeline=16)
        before = node.rss_mib()
        requests = b"".join(encode("SET", f"k-{i}", "x" * 100) for i in range(200))
        flood = Flood(node.port, "rude", 50, requests)
        most = 0
        with flood.running():
            for _ in range(20):
                most = max(most, int(node.info("clients")["operations_under_way"]))
                time.sleep(0.05)
        self.assertLessEqual(most, 50 * 16 + 10)
        self.check_others(flood.running)
        self.assert_grew(node.rss_mib() - before, 150)

    @asan
    def test_output(self):
        """20 clients ask for 1 MiB again and again, and take nothing."""
        node = self.start_one(max_output="2MiB", send_timeout_ms="1s", max_memory_inflight="16MiB")
        writer = self.connect("rude")
        writer.call("SET", "large", "x" * MIB)
        before = node.rss_mib()
        clients = []

        @contextlib.contextmanager
        def flooding():
            for _ in range(20):
                client = Client(node.port, "rude")
                client.send_raw(encode("GET", "large") * 100)
                clients.append(client)
            yield

        with self.sampling([node]) as most:
            self.check_others(flooding)
            wait_for(lambda: self.reached("send") >= len(clients), "all of them to be closed", 60)
        most = max(most)
        self.report(f"memory {before:.0f} -> at most {most:.0f} MiB")
        self.assert_grew(most - before, 200)
        self.assertEqual(self.reached("send"), len(clients))
        self.assertEqual(writer.call("PING"), "PONG")
        self.assert_told("send")
        for client in clients:
            client.close()

    @quick
    @sanitizer
    def test_slow_senders(self):
        """Half-sent requests, silent ones and such that drip, are given up; whole ones are not."""
        node = self.start_one(receive_timeout_ms="1500ms")
        calm = self.connect()
        silent = [Client(node.port) for _ in range(100)]
        for client in silent:
            client.send_raw(b"*2\r\n$3\r\nGET\r\n$10\r\nabc")
        dripping = [Client(node.port) for _ in range(10)]
        for client in dripping:
            client.send_raw(b"*2\r\n$3\r\nGET\r\n$100000\r\n")
        open_ones = set(range(len(dripping)))
        until = time.monotonic() + 60
        while open_ones and time.monotonic() < until:
            for i in list(open_ones):
                try:
                    dripping[i].socket.sendall(b"x")
                except OSError:
                    open_ones.discard(i)
            self.assertEqual(calm.call("PING"), "PONG")
            time.sleep(0.05)
        self.assertEqual(open_ones, set())
        for client in silent:
            with contextlib.suppress(ConnectionLost):
                self.assertEqual(client.read_rest(), b"")
            client.close()
        self.assertEqual(calm.call("SET", "k", "v"), "OK")
        self.assertEqual(self.reached("receive"), 110)
        self.assert_told("receive")

    @quick
    def test_strangers(self):
        """Where clients must authenticate, those that do not are not kept."""
        cluster = self.make_cluster(1, receive_timeout_ms="1s", **SMALL)
        cluster.require_authentication()
        self.node = cluster.start()[1]
        with self.node.client() as known, Client(self.node.port) as stranger:
            with self.assertRaises(ReplyError):
                stranger.call("GET", "k")
            self.assertEqual(stranger.read_rest(), b"")
            self.assertEqual(known.call("PING"), "PONG")
        self.assert_told("receive")

    @quick
    @sanitizer
    def test_idle_connections(self):
        """Closed after the time, but for those that wait for something."""
        node = self.start_one(idle_timeout_ms="1s")
        idle, subscriber, watcher, busy = (self.connect("p") for _ in range(4))
        subscriber.call("SUBSCRIBE", "__keyspace@0__:k")
        watcher.call("WATCHKEYS", "k")
        until = time.monotonic() + 4
        while time.monotonic() < until:
            self.assertEqual(busy.call("PING"), "PONG")
            time.sleep(0.1)
        self.assertEqual(idle.read_rest(), b"")
        busy.call("SET", "k", "v")
        self.assertEqual(subscriber.read(), [b"message", b"__keyspace@0__:k", b"set"])
        wait_for(lambda: b"set" in watcher.read(), "the event of the SET")
        self.assertEqual(self.reached("idle"), 1)
        self.assert_told("idle")

    @quick
    @sanitizer
    def test_requests_per_second(self):
        """A project's requests are counted over all of its connections; other projects' are not."""
        node = self.start_one(requests_per_second=200)
        requests = encode("SET", "k", "v") * 50
        flood = Flood(node.port, "rude", 10, requests)
        with node.client("slow") as slow:
            for _ in range(150):
                self.assertEqual(slow.call("SET", "k", "v"), "OK")
        started = time.monotonic()
        with flood.running():
            time.sleep(3)
        elapsed = time.monotonic() - started
        self.assertGreater(flood.replies(), 2000)
        self.assertGreater(self.reached("request_rate"), flood.replies() - 200 * (elapsed + 2))
        with node.client("rude2") as client:
            replies = client.pipeline([("INCR", "n")] * 500)
        refused = [reply for reply in replies if isinstance(reply, ReplyError)]
        self.assertGreaterEqual(len(refused), 1)
        self.assertRegex(
            refused[0].text,
            r"^BUSY project 'rude2' sends this node more than 200 requests per second "
            r"\(requests_per_second\); try again in \d+ ms$",
        )
        # What was answered OK happened, and what was refused did not.
        done = [reply for reply in replies if isinstance(reply, int)]
        self.assertEqual(done, list(range(1, len(done) + 1)))
        self.assertGreaterEqual(len(done), 200)
        self.assert_told("request_rate")

    # --- memory ---------------------------------------------------------------------------------

    def test_operations_under_way(self):
        """More bytes than max_memory_inflight at once."""
        node = self.start_one(max_memory_inflight="2MiB", max_value="1MiB")
        before = node.rss_mib()
        requests = encode("SET", "k", "x" * 300000) * 20
        flood = Flood(node.port, "rude", 30, requests)
        self.check_others(flood.running)
        self.assert_grew(node.rss_mib() - before, 250)
        self.assertGreater(self.reached("inflight") + self.reached("input"), 0)

    def test_ceiling_of_memory(self):
        """Writers of large values from everywhere: the resident size stays under the ceiling, all that
        was acknowledged is there, and somebody can look meanwhile."""
        ceiling = 200
        cluster = self.start_cluster(
            3, **{**SMALL, "max_memory": f"{ceiling}MiB", "max_memory_inflight": "1GiB", "max_output": "1GiB"}
        )
        self.node = cluster[1]
        value = "x" * MIB
        stop = threading.Event()
        acknowledged, refused = set(), [0]

        def write(number):
            """Into the same keys again and again, eight at a time."""
            commands = [("SET", f"k-{i}", value) for i in range(8)]
            while not stop.is_set():
                try:
                    with Client(cluster.nodes[number % 3].port, f"p-{number}", timeout_s=60) as client:
                        while not stop.is_set():
                            for command, reply in zip(commands, client.pipeline(commands)):
                                if reply == "OK":
                                    acknowledged.add((f"p-{number}", command[1]))
                                elif "max_memory" in reply.text:
                                    refused[0] += 1
                except ConnectionLost:
                    pass  # a large request was given up half-way

        threads = [threading.Thread(target=write, args=(i,)) for i in range(30)]
        with self.sampling(cluster.nodes) as most:
            for thread in threads:
                thread.start()
            try:
                until = time.monotonic() + 60
                while time.monotonic() < until and (refused[0] < 20 or time.monotonic() < until - 55):
                    for node in cluster.nodes:
                        self.assertEqual(node.call("PING"), "PONG")
                        self.assertIn("memory_pressure", node.info("memory"))
                    time.sleep(0.2)
            finally:
                stop.set()
                for thread in threads:
                    thread.join()
        self.report(f"ceiling {ceiling} MiB: at most {max(most):.0f} MiB, {refused[0]} refusals")
        self.assertGreater(refused[0], 0)
        self.assertLess(max(most), ceiling)
        wait_for(lambda: all(node.info("memory")["memory_pressure"] == "0" for node in cluster.nodes),
                 "all nodes to have memory again", 60)
        self.assertGreater(len(acknowledged), 0)
        for project, key in acknowledged:
            wait_for(lambda p=project, k=key: _try(cluster[2], p, "STRLEN", k) == MIB, f"{key} of {project}", 60)
        wait_for(lambda: _try(cluster[2], "p", "SET", "after", "v") == "OK", "a write to be taken again", 60)
        self.assertTrue(any(int(node.info("stats")["limit_reached_memory"]) for node in cluster.nodes))


def _dial(port, source):
    connection = socket.create_connection(("127.0.0.1", port), 60, (source, 0))
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return connection


def _pace(port, number, connections, seconds, results):
    """Each connection sends a GET or a SET every half second, spread evenly over it."""
    selector = selectors.DefaultSelector()
    sockets, sent_at, latencies = [], {}, []
    for i in range(connections):
        sockets.append(_dial(port, f"127.0.0.{20 + i % 8}"))
        sockets[-1].sendall(encode("AUTH", f"project-{i % 100}", "x"))
        sockets[-1].recv(100)
        selector.register(sockets[-1], selectors.EVENT_READ)
    requests = (encode("SET", f"k-{number}", "x" * 100), encode("GET", f"k-{number}"))
    interval = 0.5 / connections
    started = time.perf_counter()
    turn = 0
    while time.perf_counter() < started + seconds:
        now = time.perf_counter()
        while started + turn * interval <= now:
            client = sockets[turn % connections]
            if client not in sent_at:  # else it still waits for its answer
                sent_at[client] = time.perf_counter()
                client.sendall(requests[turn // connections % 2])
            turn += 1
        for key, _ in selector.select(max(0, started + turn * interval - time.perf_counter())):
            data = key.fileobj.recv(4096)
            if not data:
                raise AssertionError("closed by the server")
            if data.endswith(b"\r\n") and key.fileobj in sent_at:
                latencies.append(time.perf_counter() - sent_at.pop(key.fileobj))
    results.put(latencies)
    for client in sockets:
        client.close()


def _latencies(client, count=300):
    values = []
    for _ in range(count):
        started = time.perf_counter()
        client.call("GET", "k")
        values.append(time.perf_counter() - started)
    return quantile(values, 0.99)


def _try(node, project, *command):
    """None while nobody can answer."""
    try:
        return node.call(*command, project=project)
    except (ReplyError, ConnectionLost):
        return None


def _try_auth(node, project):
    client = Client(node.port)
    try:
        return client.call("AUTH", project, "x") == "OK"
    except ReplyError:
        return False
    finally:
        client.close()


def _cpu_seconds(pid):
    with open(f"/proc/{pid}/stat", encoding="ascii") as file:
        fields = file.read().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def _run_briefly(command, until=None, timeout_s=30):
    """Status and output of a process; ended once `until` was said."""
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as process:
        timer = threading.Timer(timeout_s * Options.slowdown(), process.kill)
        timer.start()
        text = ""
        for line in process.stdout:
            text += line
            if until is not None and until in line:
                process.kill()
        timer.cancel()
        return process.wait(), text
