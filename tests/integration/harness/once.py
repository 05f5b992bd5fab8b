"""Clients that number their writes and send them again, over other nodes, until they have an answer."""

import random
import threading
import time

from harness.resp import Client, ConnectionLost, ReplyError

# Errors about one attempt, after which the same number may be sent again.
AGAIN = {"UNCERTAIN", "NOLEADER", "BUSY", "NOSPACE"}


def open_session(nodes, project=None, ttl_ms=None, timeout_s=60):
    """A session, from whichever of the nodes answers first."""
    options = () if ttl_ms is None else ("TTL", ttl_ms)
    deadline = time.monotonic() + timeout_s
    while True:
        for node in nodes:
            try:
                with node.client(project, timeout_s=5) as client:
                    return client.call("ONCE", "OPEN", *options).decode()
            except (ConnectionLost, ReplyError) as error:
                if time.monotonic() > deadline:
                    raise AssertionError(f"no session within {timeout_s} s: {error}") from error
        time.sleep(0.05)


class OnceWriter(threading.Thread):
    """INCRs one key until told to stop, each call under a number of its own, several in flight. What
    was not answered is sent again to the next node, in any order, and now and then something that was
    answered as well."""

    def __init__(self, name, nodes, key, project=None, window=4, seed=0):
        super().__init__(daemon=True, name=name)
        self.random = random.Random(f"{seed}/{name}")
        self.nodes = list(nodes)
        self.key = key
        self.project = project
        self.window = window
        self.session = open_session(nodes, project)
        self.answers = {}  # number: what INCR answered
        self.waiting = set()  # numbers that were sent and not answered
        self.next_number = 1
        self.attempts = 0
        self.wrong = []
        self.stopping = threading.Event()
        self.client = None
        self.failure = None

    def run(self):
        try:
            while not self.stopping.is_set() or self.waiting:
                self._round()
        except Exception as error:  # noqa: BLE001 - told by stop()
            self.failure = error
        finally:
            self._disconnect()

    def stop(self, timeout_s=60):
        """Until everything that was begun has an answer."""
        self.stopping.set()
        self.join(timeout_s)
        assert not self.is_alive(), f"{self.name} has no answer to {sorted(self.waiting)[:10]}"
        if self.failure:
            raise self.failure

    def commands(self, prefix):
        """What one call is; the last command has the number."""
        return [(*prefix, "INCR", self.key)]

    def done_below(self):
        return min(self.waiting, default=self.next_number)

    def _round(self):
        while not self.stopping.is_set() and len(self.waiting) < self.window:
            self.waiting.add(self.next_number)
            self.next_number += 1
        numbers = list(self.waiting)
        low = self.done_below()
        answered = [number for number in self.answers if number >= low]
        if answered and self.random.random() < 0.3:
            numbers.append(self.random.choice(answered))
        self.random.shuffle(numbers)
        try:
            self._send(numbers, low)
        except ConnectionLost:
            self._disconnect()
            self.nodes.append(self.nodes.pop(0))
            time.sleep(0.01)

    def _send(self, numbers, low):
        if self.client is None:
            self.client = Client(self.nodes[0].port, self.project, timeout_s=10)
        self.attempts += len(numbers)
        for number in numbers:
            for command in self.commands(("ONCE", self.session, number, "DONE", low)):
                self.client.send(*command)
        refused = False
        for number in numbers:
            for _ in self.commands(()):
                reply = self.client.read(raise_errors=False)  # the last one counts
            if isinstance(reply, ReplyError):
                if reply.code not in AGAIN:
                    raise reply
                refused = True
            else:
                self._answer(number, reply)
        if refused:
            time.sleep(0.02)

    def _answer(self, number, reply):
        before = self.answers.setdefault(number, reply)
        if before != reply:
            self.wrong.append(f"{self.name}: number {number} answered {before}, then {reply}")
        self.waiting.discard(number)

    def _disconnect(self):
        if self.client:
            self.client.close()
        self.client = None


class OnceTransaction(OnceWriter):
    """The same with transactions that increment two keys."""

    def __init__(self, name, nodes, key, other_key, **options):
        super().__init__(name, nodes, key, **options)
        self.other_key = other_key

    def commands(self, prefix):
        return [("MULTI",), ("INCR", self.key), ("INCR", self.other_key), (*prefix, "EXEC")]


def wait_for_answers(writers, n, timeout_s=60):
    """Until each of the writers has n more answers."""
    goals = {writer: len(writer.answers) + n for writer in writers}
    deadline = time.monotonic() + timeout_s
    while any(len(writer.answers) < goal for writer, goal in goals.items()):
        for writer in writers:
            if writer.failure:
                raise writer.failure
        if time.monotonic() > deadline:
            stuck = [writer.name for writer, goal in goals.items() if len(writer.answers) < goal]
            raise AssertionError(f"no progress of {stuck} for {timeout_s} s")
        time.sleep(0.01)
