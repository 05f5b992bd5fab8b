"""Nodes: real invoke-kvd processes, each on a host of its own with a disk and a wall clock."""

import ctypes
import glob
import os
import re
import shutil
import signal
import subprocess
import time

from harness import net, resp

CLIENT_PORT, PEER_PORT, HTTP_PORT = 7101, 7201, 7301
STOP_TIMEOUT_S = 40

# What no log may contain, whatever was done to the node.
REPORTS = re.compile(
    r"ERROR: (Address|Leak)Sanitizer|runtime error:|WARNING: ThreadSanitizer|[Aa]ssertion .*failed"
    r"|replicas differ"
)


def faketime_library():
    found = glob.glob("/usr/lib/*/faketime/libfaketimeMT.so.1")
    return found[0] if found else None


class Node:
    """One node. `disk` is None when its data lies in an ordinary folder."""

    def __init__(self, cluster, number):
        self.cluster = cluster
        self.number = number
        self.name = f"n{number}"
        self.host = cluster.network.host(number)
        self.folder = os.path.join(cluster.directory, self.name)
        self.log_path = os.path.join(cluster.directory, f"{self.name}.log")
        self.config_path = os.path.join(self.folder, "invoke-kvd.conf")
        self.clock_path = os.path.join(self.folder, "wall-clock")
        self.disk = None
        self.home = self.folder  # the data directory is in here
        self.binary = cluster.binary
        self.process = None
        self.pids = []
        self.paused = False
        self.may_end = None  # why it may end by itself now
        self.incarnations = 0  # data directories that were thrown away
        self.settings = {}  # of this node alone
        os.makedirs(self.folder, exist_ok=True)
        self.set_clock("+0")

    # --- files ---------------------------------------------------------------------------------

    @property
    def data(self):
        return os.path.join(self.home, f"data-{self.incarnations}" if self.incarnations else "data")

    def ports(self):
        if self.cluster.network.simulated:
            return CLIENT_PORT, PEER_PORT, HTTP_PORT
        base = self.cluster.base_port + 10 * self.number
        return base, base + 1, base + 2

    def address(self):
        return self.host, self.ports()[0]

    def peer_address(self):
        return f"{self.host}:{self.ports()[1]}"

    def write_config(self):
        settings = {
            "cluster": "chaos",
            "node_id": self.number,
            "data_dir": self.data,
            "http_listen": f"{self.host}:{self.ports()[2]}",
            "insecure_listen": "yes",
            **self.cluster.settings,
            **self.settings,
        }
        with open(self.config_path, "w", encoding="utf-8") as file:
            file.writelines(f"{key} = {value}\n" for key, value in settings.items())
            for node in self.cluster.nodes:
                file.write(f"node = {node.number} {node.host}:{node.ports()[0]} {node.peer_address()}\n")

    def log(self):
        try:
            with open(self.log_path, encoding="utf-8", errors="replace") as file:
                return file.read()
        except FileNotFoundError:
            return ""

    def last_words(self):
        lines = [line for line in self.log().splitlines() if line.strip()]
        return lines[-1] if lines else "(no log)"

    def lose_disk(self):
        """The node, which is not running, has an empty disk from here on."""
        old = self.data
        self.incarnations += 1
        self.write_config()
        if self.disk is not None:
            shutil.rmtree(old, ignore_errors=True)

    # --- the process ---------------------------------------------------------------------------

    def _environment(self):
        environment = dict(os.environ)
        if self.cluster.clocks:
            environment.update(
                LD_PRELOAD=faketime_library(),
                FAKETIME_TIMESTAMP_FILE=self.clock_path,
                FAKETIME_NO_CACHE="1",
                FAKETIME_DONT_FAKE_MONOTONIC="1",
                DONT_FAKE_MONOTONIC="1",  # the same, for versions that know only this name
                NO_FAKE_STAT="1",
            )
        return environment

    def _in_child(self):
        pr_set_pdeathsig = 1
        ctypes.CDLL(None).prctl(pr_set_pdeathsig, signal.SIGKILL)
        if self.cluster.network.simulated:
            net.enter_namespace(self.cluster.network.node_namespace(self.number))

    def start(self):
        """Must be called on the first thread: a child ends with the thread that made it."""
        if self.is_running():
            return
        self.paused = False
        with open(self.log_path, "ab") as log:
            log.write(f"--- chaos: start at {time.monotonic_ns()}\n".encode())
            log.flush()
            self.process = subprocess.Popen(
                [self.binary, "--config", self.config_path],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=self._environment(),
                preexec_fn=self._in_child,
                start_new_session=True,  # Ctrl-C is for the harness
            )
        self.pids.append(self.process.pid)

    def is_running(self):
        return self.process is not None and self.process.poll() is None

    def pause(self):
        if self.is_running():
            self.process.send_signal(signal.SIGSTOP)
            self.paused = True

    def resume(self):
        if self.process is not None and self.paused and self.is_running():
            self.process.send_signal(signal.SIGCONT)
        self.paused = False

    def kill(self):
        if self.process is None:
            return
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        self.process = None
        self.paused = False

    def ask_to_stop(self):
        if self.is_running():
            self.resume()
            self.process.send_signal(signal.SIGTERM)

    def reload(self):
        """Reads its node lines again."""
        if self.is_running():
            self.process.send_signal(signal.SIGHUP)

    def wait_stopped(self, timeout_s=STOP_TIMEOUT_S):
        """What is wrong with how it stopped, or None."""
        if self.process is None:
            return None
        try:
            status = self.process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            self.kill()
            return f"{self.name} did not stop within {timeout_s} s of SIGTERM"
        self.process = None
        return f"{self.name} ended with status {status} on SIGTERM" if status != 0 else None

    def ended_by_itself(self):
        """The exit status of a process that nobody ended; None when there is none."""
        if self.process is None or self.process.poll() is None:
            return None
        status = self.process.returncode
        self.process = None
        self.paused = False
        return status

    # --- clock ---------------------------------------------------------------------------------

    def set_clock(self, text):
        """libfaketime's notation: +3600, -20, "+0 x1.05"."""
        with open(f"{self.clock_path}.new", "w", encoding="ascii") as file:
            file.write(text + "\n")
        os.rename(f"{self.clock_path}.new", self.clock_path)

    def forget_clock_files(self):
        """What libfaketime leaves behind of processes that were killed."""
        for pid in self.pids:
            for path in (f"/dev/shm/faketime_shm_{pid}", f"/dev/shm/sem.faketime_sem_{pid}"):
                try:
                    os.unlink(path)
                except OSError:
                    pass

    # --- what it says --------------------------------------------------------------------------

    def client(self, timeout_s=2):
        return resp.Client(self.address(), timeout_s)

    def call(self, *arguments, timeout_s=5):
        with self.client(timeout_s) as client:
            return client.call(*arguments)

    def shards(self, timeout_s=2):
        with self.client(timeout_s) as client:
            return resp.shards_of(client)


class Cluster:
    """The nodes of a run; those that are members, or are to be."""

    def __init__(self, directory, network, n_nodes, binary, settings):
        self.directory = directory
        self.network = network
        self.binary = binary
        self.settings = settings
        self.n_shards = int(settings["shards"])
        self.clocks = False
        self.base_port = 20000 + os.getpid() % 1000 * 10
        self.nodes = []
        for number in range(1, n_nodes + 1):
            self.nodes.append(Node(self, number))

    def write_configs(self):
        for node in self.nodes:
            node.write_config()

    def node(self, number):
        return next(node for node in self.nodes if node.number == number)

    def others(self, *excluded):
        return [node for node in self.nodes if node not in excluded]

    def running(self):
        return [node for node in self.nodes if node.is_running()]

    def start(self):
        for node in self.nodes:
            node.start()

    def why_unhealthy(self):
        """None when all nodes are up, agree on the leader of each shard, and all are voters."""
        views = {}
        for node in self.nodes:
            if not node.is_running():
                return f"{node.name} is down"
            try:
                views[node] = node.shards()
            except (OSError, resp.ReplyError, ValueError) as error:
                return f"{node.name} does not answer: {error}"
            if len(views[node]) != self.n_shards:
                return f"{node.name} does not tell of all shards yet"
        for shard in range(self.n_shards):
            leaders = {view[shard]["leader"] for view in views.values()}
            if len(leaders) != 1 or 0 in leaders:
                return f"shard {shard}: leaders are {sorted(leaders)}"
            voters = {view[shard]["voters"] for view in views.values()}
            if voters != {len(self.nodes)}:
                return f"shard {shard}: {sorted(voters)} voters instead of {len(self.nodes)}"
            roles = [node.name for node, view in views.items() if view[shard]["role"] == "standby"]
            if roles:
                return f"shard {shard}: {', '.join(roles)} has no vote yet"
        return None

    def why_behind(self):
        """None when all replicas have applied all that is committed."""
        views = [node.shards() for node in self.nodes]
        for shard in range(self.n_shards):
            places = {(view[shard]["commit"], view[shard]["applied"]) for view in views}
            if len(places) != 1 or len(set(next(iter(places)))) != 1:
                return f"shard {shard}: commit and applied indexes are {sorted(places)}"
        return None
