"""Watches many keys with TTLs through all nodes, each from its birth to long after its end.

What can be told about a key: the SET was carried out between the moments when it was sent and when
its answer came. So the key may go at `sent + ttl` and should be gone at `acknowledged + ttl`. Its end
lies between the moment when a read was sent that still saw it and the moment when an answer came that
did not.
"""

import random
import threading
import time

from harness.resp import Client, ConnectionLost, ReplyError

POLL_PAUSE_S = 0.002
PER_THREAD = 40  # keys that a thread keeps alive
TTL_MS = (500, 5000)


class Key:
    def __init__(self, project, name, ttl_ms):
        self.project = project
        self.name = name
        self.ttl_s = ttl_ms / 1000
        self.sent = None
        self.acknowledged = None
        self.alive_sent = None  # newest read that saw it: when it was sent
        self.gone_answered = None  # first answer that did not see it: when it came
        self.deleted = False  # by a DEL of ours that may have found it

    def due(self):
        return self.sent + self.ttl_s

    def early_s(self):
        """It was seen gone by at least so much too early; negative: it was not."""
        return self.due() - self.gone_answered

    def late_s(self):
        """It was gone by at most so much too late."""
        return max(0.0, self.gone_answered - (self.acknowledged + self.ttl_s))


class Lifetimes:
    def __init__(self, cluster, projects, n_threads=4, seed=None):
        self.cluster = cluster
        self.projects = projects
        self.seed = random.randrange(1 << 32) if seed is None else seed
        self.keys = []  # all that were acknowledged; threads only append
        self.complaints = []
        self.n_checks = 0
        self.n_lost = 0
        self.ending = threading.Event()
        self.no_more = threading.Event()
        self.threads = [
            threading.Thread(target=self._run, args=(number,), daemon=True) for number in range(n_threads)
        ]

    def start(self):
        for thread in self.threads:
            thread.start()
        return self

    def finish(self, timeout_s=40):
        """No new keys; waits until all are seen gone, looks at each once more through every node."""
        self.no_more.set()
        deadline = time.monotonic() + timeout_s
        while any(not key.deleted and key.gone_answered is None for key in list(self.keys)):
            if time.monotonic() > deadline:
                self._complain("keys are still there: the cluster does not let them go")
                break
            time.sleep(0.1)
        self.ending.set()
        for thread in self.threads:
            thread.join(30)
        for node in self.cluster.nodes:
            for project in self.projects:
                names = [key.name for key in self.keys if key.project == project]
                with Client(node.port, project) as client:
                    for i in range(0, len(names), 500):
                        values = client.call("MGET", *names[i : i + 500])
                        for name, value in zip(names[i:], values):
                            if value is not None:
                                self._complain(f"{project}/{name} is there at the end, on {node}")

    def judged(self):
        """Keys that ended by themselves, so that their times count."""
        return [key for key in self.keys if not key.deleted and key.gone_answered is not None]

    def largest_early_s(self):
        return max((key.early_s() for key in self.judged()), default=0)

    def late_ms(self):
        """(p50, p99, largest) of how late keys went, the time of looking included."""
        late = sorted(key.late_s() * 1000 for key in self.judged())
        return late[len(late) // 2], late[len(late) * 99 // 100], late[-1]

    def _complain(self, text):
        self.complaints.append(text)

    # --- threads -------------------------------------------------------------------------------

    def _run(self, number):
        try:
            _Watcher(self, number).run()
        except Exception as error:  # noqa: BLE001 - a watcher that ended must not go unseen
            self._complain(f"watcher {number} ended: {error!r}")


class _Watcher:
    def __init__(self, lifetimes, number):
        self.all = lifetimes
        self.number = number
        self.random = random.Random(f"{lifetimes.seed}-{number}")
        self.clients = {}
        self.own = []
        self.n_made = 0

    def run(self):
        while not self.all.ending.is_set():
            if len(self.own) < PER_THREAD and not self.all.no_more.is_set():
                self._make()
            for key in list(self.own):
                near = time.monotonic() > key.due() - 0.25
                if near or self.random.random() < 0.05:
                    self._look(key)
                if key.deleted or key.gone_answered is not None:
                    self.own.remove(key)
            # Others' keys, and what is gone: it must stay gone.
            if self.all.keys:
                self._look(self.random.choice(self.all.keys[-400:]))
            time.sleep(POLL_PAUSE_S)
        for client in self.clients.values():
            client.close()

    def _call(self, project, *arguments):
        """(moment of sending, reply, moment of the answer), or None when there is no answer."""
        node = self.random.choice(self.all.cluster.nodes)
        at = (node.id, project)
        try:
            if at not in self.clients:
                self.clients[at] = Client(node.port, project, timeout_s=5)
            client = self.clients[at]
            sent = time.monotonic()
            reply = client.call(*arguments)
            return sent, reply, time.monotonic()
        except ConnectionLost:
            if at in self.clients:
                self.clients.pop(at).close()
            time.sleep(0.02)
        except ReplyError as error:
            if error.code not in ("UNCERTAIN", "NOLEADER", "BUSY", "ERR"):
                raise
            if error.code == "ERR":
                self.all._complain(f"{arguments}: {error}")
        self.all.n_lost += 1
        return None

    def _make(self):
        project = self.random.choice(self.all.projects)
        ttl_ms = self.random.randrange(*TTL_MS)
        key = Key(project, f"k-{self.number}-{self.n_made}", ttl_ms)
        self.n_made += 1
        answer = self._call(project, "SET", key.name, "v", "PX", ttl_ms)
        if answer is not None:  # else its fate is unknown, and so nothing can be said of it
            key.sent, _, key.acknowledged = answer
            self.own.append(key)
            self.all.keys.append(key)

    def _look(self, key):
        past_due = time.monotonic() > key.acknowledged + key.ttl_s
        verbs = ["GET", "EXISTS", "PTTL"]
        if key.gone_answered is not None or (past_due and self.random.random() < 0.02):
            verbs.append("DEL")
        verb = self.random.choice(verbs)
        if verb == "DEL" and key.gone_answered is None:
            key.deleted = True  # whatever becomes of it
        answer = self._call(key.project, verb, key.name)
        if answer is None:
            return
        sent, reply, answered = answer
        self.all.n_checks += 1
        is_there = {"GET": reply == b"v", "EXISTS": reply == 1, "PTTL": reply != -2, "DEL": reply == 1}[verb]
        if not is_there or verb == "DEL":
            if key.gone_answered is None:
                key.gone_answered = answered
        else:
            if key.alive_sent is None or sent > key.alive_sent:
                key.alive_sent = sent
        if is_there and key.gone_answered is not None and key.gone_answered < sent:
            self.all._complain(
                f"{key.project}/{key.name} came back: {verb} {sent - key.gone_answered:.3f} s after it was gone"
            )
        if verb == "PTTL" and reply > 0:
            # Its end, as this answer has it, cannot lie far from the one that was asked for.
            early_s = sent + reply / 1000 - (key.acknowledged + key.ttl_s)
            if early_s > 10 or answered + reply / 1000 < key.due() - 0.2:
                self.all._complain(f"{key.project}/{key.name}: PTTL {reply}, {early_s:+.3f} s off")
