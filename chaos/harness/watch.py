"""Watching a cluster from outside: who leads, and whether writes are answered."""

import json
import selectors
import socket
import threading
import time

from harness import resp

POLL_S = 0.2
PROBE_S = 0.03
PROBE_TIMEOUT_S = 0.5
NS = 1_000_000_000


class LeaderWatch(threading.Thread):
    """Asks one node again and again; a thread for each, so that a paused one delays nobody."""

    def __init__(self, watch, node):
        super().__init__(daemon=True, name=f"watch-{node.name}")
        self.watch = watch
        self.node = node
        self.stopping = threading.Event()

    def run(self):
        client = None
        while not self.stopping.wait(POLL_S):
            try:
                client = client or self.node.client(timeout_s=1)
                self.watch.note(self.node.number, resp.shards_of(client))
            except (OSError, resp.ReplyError, ValueError):
                if client:
                    client.close()
                client = None
        if client:
            client.close()


class Watch:
    """Leaders of all shards, as the node with the highest term tells, and when they changed."""

    def __init__(self, cluster):
        self.cluster = cluster
        self.lock = threading.Lock()
        self.leaders = {}  # shard: (term, node)
        self.changes = []  # (time in ns, shard, term, node)
        self.threads = [LeaderWatch(self, node) for node in cluster.nodes]

    def start(self):
        for thread in self.threads:
            thread.start()

    def add(self, node):
        thread = LeaderWatch(self, node)
        self.threads.append(thread)
        thread.start()

    def stop(self):
        for thread in self.threads:
            thread.stopping.set()
        for thread in self.threads:
            thread.join(10)

    def note(self, node, shards):
        with self.lock:
            for number, shard in enumerate(shards):
                if shard["role"] != "leader":
                    continue
                term, known = self.leaders.get(number, (0, 0))
                if shard["term"] > term:
                    self.leaders[number] = (shard["term"], node)
                    if known != node:
                        self.changes.append((time.monotonic_ns(), number, shard["term"], node))

    def leader_of(self, shard):
        """Number of the node, 0 when unknown."""
        with self.lock:
            return self.leaders.get(shard, (0, 0))[1]

    def led_by(self, node):
        with self.lock:
            return [shard for shard, (_, leader) in sorted(self.leaders.items()) if leader == node]


class _Probe:
    """One connection that writes to one shard through one node."""

    def __init__(self, prober, node, shard, project):
        self.prober = prober
        self.node = node
        self.shard = shard
        self.hello = resp.encode("AUTH", project, "open")
        self.socket = None
        self.sent = 0.0
        self.next = 0.0
        self.waiting = 0  # replies
        self.number = 0
        self.is_greeting = True  # the reply that is waited for is that of AUTH, no write's
        self.pending = b""

    def tick(self, now):
        if self.socket is None:
            if now >= self.next:
                self._connect(now)
        elif self.waiting:
            if now - self.sent > PROBE_TIMEOUT_S:
                self._drop(now)
        elif now >= self.next:
            self.is_greeting = False
            self._send(resp.encode("SET", f"probe-{self.node.number}", self.number), now)

    def _connect(self, now):
        self.socket = socket.socket()
        self.socket.setblocking(False)
        self.socket.connect_ex(self.node.address())
        self.pending = b""
        self.sent, self.waiting = now, 1
        self.is_greeting = True
        self.prober.selector.register(self.socket, selectors.EVENT_WRITE, self)

    def _send(self, data, now):
        self.number += 1
        self.next = now + PROBE_S
        self.sent, self.waiting = now, 1
        try:
            self.socket.send(data)
        except OSError:
            self._drop(now)

    def _drop(self, now):
        self.prober.selector.unregister(self.socket)
        self.socket.close()
        self.socket = None
        self.waiting = 0
        self.next = now + PROBE_S

    def on_ready(self, events, now):
        if events & selectors.EVENT_WRITE:
            if self.socket.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR):
                self._drop(now)
                return
            self.prober.selector.modify(self.socket, selectors.EVENT_READ, self)
            self._send(self.hello, now)
            return
        try:
            data = self.socket.recv(65536)
        except OSError:
            data = b""
        if not data:
            self._drop(now)
            return
        self.pending += data
        while b"\r\n" in self.pending and self.waiting:
            line, self.pending = self.pending.split(b"\r\n", 1)
            self.waiting -= 1
            if line == b"+OK" and not self.is_greeting:
                self.prober.note(self.shard)

    def close(self):
        if self.socket:
            self.socket.close()


class Prober(threading.Thread):
    """Writes a key in every shard through every node, many times a second: a shard is available while
    any of them is answered. Finds the gaps."""

    LEAST_GAP_S = 0.1

    def __init__(self, cluster):
        super().__init__(daemon=True, name="prober")
        self.cluster = cluster
        self.selector = selectors.DefaultSelector()
        self.stopping = threading.Event()
        self.last_ok = [None] * cluster.n_shards
        self.gaps = []  # (shard, from ns, to ns)
        self.n_ok = 0
        self.probes = []
        for shard in range(cluster.n_shards):
            project = resp.project_in_shard(shard, cluster.n_shards, "chaos-probe")
            self.probes += [_Probe(self, node, shard, project) for node in cluster.nodes]

    def note(self, shard):
        now = time.monotonic_ns()
        last = self.last_ok[shard]
        self.last_ok[shard] = now
        self.n_ok += 1
        if last is not None and now - last > self.LEAST_GAP_S * NS:
            self.gaps.append((shard, last, now))

    def available(self, within_s=1.0):
        """How many shards were written to within the last second."""
        limit = time.monotonic_ns() - int(within_s * NS)
        return sum(last is not None and last > limit for last in self.last_ok)

    def run(self):
        while not self.stopping.is_set():
            for key, events in self.selector.select(0.01):
                key.data.on_ready(events, time.monotonic())
            now = time.monotonic()
            for probe in self.probes:
                probe.tick(now)
        for probe in self.probes:
            probe.close()

    def stop(self):
        self.stopping.set()
        self.join(10)


class FaultLog:
    """faults.jsonl, and the same in memory for the report."""

    def __init__(self, path):
        self.file = open(path, "w", encoding="utf-8")
        self.entries = []

    def note(self, fault, target, event, **details):
        entry = {"t": time.monotonic_ns(), "fault": fault, "target": target, "e": event, **details}
        self.entries.append(entry)
        self.file.write(json.dumps(entry) + "\n")
        self.file.flush()

    def close(self):
        self.file.close()
