"""Writers that remember what was acknowledged, and the check that nothing of it is lost.

Each writer sets its keys to growing numbers. What the store may answer for a key afterwards:
  - the last acknowledged value, when every write of the key was acknowledged or refused;
  - otherwise that, or the one value whose fate is unknown. A key whose write had an unknown fate is
    never written again, since such a write may still take effect later.
"""

import itertools
import threading
import time

from harness.resp import Client, ConnectionLost, ReplyError

# Errors that promise that the write did not and will not happen.
REFUSALS = {"NOLEADER", "BUSY", "NOSPACE", "QUOTA", "TOOBIG"}


class Key:
    def __init__(self):
        self.acknowledged = None
        self.unknown = None

    def may_be(self, value):
        return value in ({self.acknowledged} if self.unknown is None else {self.acknowledged, self.unknown})


class Writer(threading.Thread):
    """One client that writes without pause until told to stop, through the nodes given: the first one
    as long as it answers, then the next."""

    def __init__(self, name, nodes, project, n_keys=50, value_size=0, pause_s=0.0):
        super().__init__(daemon=True, name=name)
        self.nodes = nodes
        self.project = project
        self.n_keys = n_keys
        self.padding = "x" * value_size
        self.pause_s = pause_s
        self.keys = {}
        self.retired = {}
        self.acknowledged = []  # (started, ended), monotonic seconds
        self.errors = []  # (started, ended, text) of everything that was not acknowledged
        self.stopping = threading.Event()
        self.client = None
        self.next_node = 0
        self.number = 0
        self.generation = 0

    def run(self):
        while not self.stopping.is_set():
            self._write_once()
            if self.pause_s:
                time.sleep(self.pause_s)
        if self.client:
            self.client.close()

    def _connected(self):
        if self.client is None:
            node = self.nodes[self.next_node % len(self.nodes)]
            self.client = Client(node.port, self.project)
        return self.client

    def _write_once(self):
        self.number += 1
        name = f"{self.name}:{self.generation}:{self.number % self.n_keys}"
        value = f"{self.number}{self.padding}".encode()
        key = self.keys.setdefault(name, Key())
        started = time.monotonic()
        try:
            client = self._connected()
        except (ConnectionLost, ReplyError) as error:
            self._lost_connection(started, error)
            return
        try:
            client.call("SET", name, value)
            key.acknowledged = value
            self.acknowledged.append((started, time.monotonic()))
        except ReplyError as error:
            self.errors.append((started, time.monotonic(), error.text))
            if error.code not in REFUSALS:
                self._retire(name, value)
        except ConnectionLost as error:
            self._retire(name, value)
            self._lost_connection(started, error)

    def _lost_connection(self, started, error):
        self.errors.append((started, time.monotonic(), f"connection: {error}"))
        if self.client:
            self.client.close()
        self.client = None
        self.next_node += 1
        time.sleep(0.01)

    def _retire(self, name, value):
        key = self.keys.pop(name)
        key.unknown = value
        # The name stays with its unknown value; later writes use fresh names.
        self.retired[name] = key
        self.generation += 1

    def expectations(self):
        yield from self.keys.items()
        yield from self.retired.items()


_load_numbers = itertools.count(1)


class Load:
    """Several writers. Use as a context manager; after it, check() reads everything back."""

    def __init__(self, nodes, projects, writers_per_project=2, spread=True, **options):
        self.writers = []
        number_of_load = next(_load_numbers)  # no two loads share a key
        for project in projects:
            for number in range(writers_per_project):
                start = len(self.writers) % len(nodes) if spread else 0
                order = nodes[start:] + nodes[:start]
                self.writers.append(Writer(f"load{number_of_load}w{number}", order, project, **options))

    def __enter__(self):
        for writer in self.writers:
            writer.start()
        return self

    def __exit__(self, *_):
        self.stop()

    def stop(self):
        for writer in self.writers:
            writer.stopping.set()
        for writer in self.writers:
            writer.join(60)
            assert not writer.is_alive(), f"writer {writer.name} hangs"

    def wait_for_writes(self, n, timeout_s=30):
        """Until every writer has had n more writes acknowledged."""
        goals = {writer: len(writer.acknowledged) + n for writer in self.writers}
        deadline = time.monotonic() + timeout_s
        while any(len(writer.acknowledged) < goal for writer, goal in goals.items()):
            if time.monotonic() > deadline:
                stuck = [
                    f"{writer.project}/{writer.name}: {writer.errors[-1:]}"
                    for writer, goal in goals.items()
                    if len(writer.acknowledged) < goal
                ]
                raise AssertionError(f"writers make no progress for {timeout_s} s: {stuck}")
            time.sleep(0.01)

    def total(self):
        return sum(len(writer.acknowledged) for writer in self.writers)

    def errors(self):
        return [error for writer in self.writers for error in writer.errors]

    def recovery_s(self, moment, projects):
        """The longest time, over the projects, from `moment` to the end of the first acknowledged
        write that began after it."""
        slowest = 0.0
        for project in projects:
            ends = [
                ended
                for writer in self.writers
                if writer.project == project
                for started, ended in writer.acknowledged
                if started >= moment
            ]
            assert ends, f"no write to {project} after the fault"
            slowest = max(slowest, min(ends) - moment)
        return slowest

    def longest_write_s(self, since=0.0):
        return max(
            ended - started
            for writer in self.writers
            for started, ended in writer.acknowledged
            if ended >= since
        )

    def lost(self, node):
        """What the node answers that it must not, as lines to read."""
        wrong = []
        for project in sorted({writer.project for writer in self.writers}):
            with node.client(project, timeout_s=30) as client:
                for writer in self.writers:
                    if writer.project == project:
                        wrong += _wrong_keys(client, writer)
        return wrong


def _wrong_keys(client, writer):
    expectations = list(writer.expectations())
    wrong = []
    for begin in range(0, len(expectations), 500):
        part = expectations[begin : begin + 500]
        replies = client.pipeline([("GET", name) for name, _ in part])
        for (name, key), reply in zip(part, replies):
            if isinstance(reply, ReplyError) or not key.may_be(reply):
                wrong.append(
                    f"{writer.project}/{name}: {_short(reply)} instead of {_short(key.acknowledged)}"
                    + (f" or {_short(key.unknown)}" if key.unknown else "")
                )
    return wrong


def _short(value):
    return f"{value[:24]!r}" if isinstance(value, bytes) else repr(value)
