"""Wall clocks of nodes that a test may set wrong, before they start and while they run (libfaketime).
Monotonic clocks stay as they are."""

import glob
import os
import subprocess
import sys

HOUR_S = 3600


def library():
    """Path of libfaketime for programs with threads."""
    found = glob.glob("/usr/lib/*/faketime/libfaketimeMT.so.1")
    assert found, "libfaketime is not there: run scripts/install-deps (package faketime)"
    return found[0]


def _environment(path):
    return {
        "LD_PRELOAD": library(),
        "FAKETIME_TIMESTAMP_FILE": path,
        "FAKETIME_NO_CACHE": "1",
        "FAKETIME_DONT_FAKE_MONOTONIC": "1",
        "DONT_FAKE_MONOTONIC": "1",  # the same, for versions that know only this name
        "NO_FAKE_STAT": "1",
    }


class Walls:
    """Puts the nodes of a cluster that is not running under wall clocks of their own."""

    def __init__(self, cluster):
        self.offsets_s = {}
        for node in cluster.nodes:
            self.set(node, 0)
            node.environment.update(_environment(self._path(node)))

    def _path(self, node):
        return os.path.join(node.directory, "wall-clock")

    def set(self, node, offset_s):
        """From now on the node's wall clock is ahead of this machine's by so much."""
        path = self._path(node)
        with open(f"{path}.new", "w", encoding="ascii") as file:
            file.write(f"{offset_s:+d}\n")
        os.rename(f"{path}.new", path)
        self.offsets_s[node.id] = offset_s

    def step(self, node, by_s):
        self.set(node, self.offsets_s[node.id] + by_s)


PROBE = """
import sys, time
print(time.time(), time.monotonic(), flush=True)
sys.stdin.readline()
print(time.time(), time.monotonic(), flush=True)
"""


def probe_step(directory, by_s):
    """How far the wall and the monotonic clock of a running process move when its wall is stepped."""
    path = os.path.join(directory, "wall-clock-probe")
    with open(path, "w", encoding="ascii") as file:
        file.write("+0\n")
    with subprocess.Popen(
        [sys.executable, "-c", PROBE],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env={**os.environ, **_environment(path)},
        text=True,
    ) as process:
        before = [float(word) for word in process.stdout.readline().split()]
        with open(f"{path}.new", "w", encoding="ascii") as file:
            file.write(f"{by_s:+d}\n")
        os.rename(f"{path}.new", path)
        process.stdin.write("\n")
        process.stdin.flush()
        after = [float(word) for word in process.stdout.readline().split()]
    return after[0] - before[0], after[1] - before[1]
