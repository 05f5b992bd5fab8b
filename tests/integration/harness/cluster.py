"""Clusters of real invoke-kvd processes on free loopback ports, each in a directory of its own."""

import ctypes
import os
import random
import re
import secrets
import shutil
import signal
import socket
import ssl
import subprocess
import tempfile
import time

from harness.resp import Client, shard_of
from harness.wait import Hopeless, wait_for

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__)))))

# What no log may contain, whatever the test does.
REPORTS = re.compile(
    r"ERROR: (Address|Leak)Sanitizer|runtime error:|WARNING: ThreadSanitizer|[Aa]ssertion .*failed"
)


class Options:
    """Set by the runner before any test starts."""

    binary = os.path.join(ROOT, "build/node/invoke-kvd")
    directory = None  # where clusters live; None: the system's temporary directory
    run_directory = None  # of this run of tests: what they share
    keep = False
    big = False

    @classmethod
    def sanitizer(cls):
        """Name of the sanitizer that the binary was built with, or an empty string."""
        for name in ("asan", "tsan"):
            if f"build-{name}" in cls.binary:
                return name
        return ""

    @classmethod
    def slowdown(cls):
        """Factor for time limits that the code itself, not its environment, has to meet."""
        return {"asan": 5, "tsan": 15}.get(cls.sanitizer(), 1)


def _is_free(port):
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
            return True
        except OSError:
            return False


_reservations = []


def _reserve(port):
    """Tests that run at the same time draw their ports from the same range, and a node that is down
    has to find its port free again. So a port belongs to the process that bound this name, until the
    process ends; the kernel gives such names back by itself."""
    reservation = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    try:
        reservation.bind(f"\0invoke-kv-test-port-{port}")
    except OSError:
        reservation.close()
        return False
    _reservations.append(reservation)
    return True


def free_port():
    """A port nobody listens on, below the range that outgoing connections are given."""
    while True:
        port = random.randrange(10240, 32000)
        if _reserve(port) and _is_free(port):
            return port


def _end_with_parent():
    """Runs in the child: when the test runner dies, so does the node. (The signal is tied to the
    thread that forked, so nodes are started on the main thread only.)"""
    pr_set_pdeathsig = 1
    ctypes.CDLL(None).prctl(pr_set_pdeathsig, signal.SIGKILL)


class Node:
    def __init__(self, cluster, node_id):
        self.cluster = cluster
        self.id = node_id
        self.directory = os.path.join(cluster.directory, f"node-{node_id}")
        self.data = os.path.join(self.directory, "data")
        self.config_path = os.path.join(self.directory, "invoke-kvd.conf")
        self.log_path = os.path.join(self.directory, "invoke-kvd.log")
        self.port = free_port()
        self.peer_port = free_port()
        self.http_port = free_port()
        self.process = None
        self.environment = {}  # of every start, beside this process's own
        self.settings = {}  # of this node alone
        self.binary = None  # another server than the others'
        self.may_report = False  # this test provokes a report in the log
        self.unexpected_exits = []
        os.makedirs(self.directory)

    def __repr__(self):
        return f"node {self.id}"

    # --- the process ---------------------------------------------------------------------------

    def write_config(self, **changes):
        settings = {
            "cluster": self.cluster.name,
            "node_id": self.id,
            "data_dir": self.data,
            "http_listen": f"127.0.0.1:{self.http_port}",
            **self.cluster.settings,
            **self.settings,
            **changes,
        }
        with open(self.config_path, "w", encoding="utf-8") as file:
            for key, value in settings.items():
                file.write(f"{key} = {value}\n")
            for node in self.cluster.nodes:
                file.write(f"node = {node.id} 127.0.0.1:{node.port} 127.0.0.1:{node.peer_port}\n")

    def start(self, environment=None):
        assert not self.is_running(), f"{self} is running already"
        with open(self.log_path, "ab") as log:
            self.process = subprocess.Popen(
                [self.binary or Options.binary, "--config", self.config_path],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env={**os.environ, **self.environment, **(environment or {})},
                preexec_fn=_end_with_parent,
            )

    def is_running(self):
        if self.process is None:
            return False
        status = self.process.poll()
        crashed = status is not None and status < 0 and status != -signal.SIGKILL
        if crashed and not self.unexpected_exits:
            self.unexpected_exits.append(f"{self} ended by signal {-status}")
        return status is None

    def wait_exit(self, timeout_s=30):
        """Exit status of a process that ends by itself."""
        try:
            return self.process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"{self} still runs after {timeout_s} s\n{self.log_tail()}") from None

    def stop(self, timeout_s=20):
        """SIGTERM; the node must end by itself and without complaint."""
        wait_for(lambda: not self.is_running() or self._heeds_sigterm(), f"{self} to be up", 60)
        self.process.send_signal(signal.SIGTERM)
        status = self.wait_exit(timeout_s * Options.slowdown())
        assert status == 0, f"{self} ended with status {status} on SIGTERM\n{self.log_tail()}"

    def _heeds_sigterm(self):
        """False in the moments after the start, when the signal ends any process."""
        with open(f"/proc/{self.process.pid}/status", encoding="ascii") as file:
            caught = int(re.search(r"^SigCgt:\s*(\w+)$", file.read(), re.M)[1], 16)
        return bool(caught >> (signal.SIGTERM - 1) & 1)

    def kill(self):
        self.process.kill()
        self.process.wait(10)

    def pause(self):
        self.process.send_signal(signal.SIGSTOP)

    def resume(self):
        self.process.send_signal(signal.SIGCONT)

    def discard(self):
        if self.is_running():
            self.resume()
            self.kill()

    # --- what it says --------------------------------------------------------------------------

    def log(self):
        try:
            with open(self.log_path, encoding="utf-8", errors="replace") as file:
                return file.read()
        except FileNotFoundError:
            return ""

    def log_tail(self, lines=25):
        return "\n".join(f"    {self}: {line}" for line in self.log().splitlines()[-lines:])

    def wait_for_log(self, pattern, timeout_s=30):
        return wait_for(
            lambda: re.search(pattern, self.log()), f"/{pattern}/ in the log of {self}", timeout_s
        )

    def client(self, project=None, **options):
        if project is None and self.cluster.admin_secret is not None:
            options.setdefault("credentials", ("admin", self.cluster.admin_secret))
        options.setdefault("tls", self.cluster.tls)
        options.setdefault("timeout_s", 60 if Options.sanitizer() else 15)
        return Client(self.port, project, **options)

    def call(self, *arguments, project=None):
        """One command over a connection of its own."""
        with self.client(project) as client:
            return client.call(*arguments)

    def cli(self, *arguments, options=(), stdin=None, timeout_s=20):
        """Output of redis-cli, without the last line's end."""
        command = ["redis-cli", "-h", "127.0.0.1", "-p", str(self.port), *options]
        if self.cluster.tls is not None:
            command += ["--tls", "--cacert", self.cluster.certificate("ca.pem")]
        command += [str(argument) for argument in arguments]
        result = subprocess.run(
            command, input=stdin, capture_output=True, text=True, timeout=timeout_s, check=False
        )
        return (result.stdout + result.stderr).rstrip("\n")

    def info(self, section=None):
        """INFO as {key: value}; lines of the form key:a=1,b=2 become {key: {a: 1, b: 2}}."""
        text = self.call("INFO", section) if section else self.call("INFO")
        values = {}
        for line in text.decode().splitlines():
            if line and not line.startswith("#"):
                key, value = line.split(":", 1)
                if "=" in value:
                    value = dict(part.split("=", 1) for part in value.split(","))
                values[key] = value
        return values

    def shards(self):
        """{shard number: {role, leader, term, commit, applied, ...}}, numbers as int."""
        shards = {}
        for key, fields in self.info("shards").items():
            match = re.fullmatch(r"shard_?(\d+)", key)
            if match:
                shards[int(match[1])] = {
                    name: int(value) if value.isdigit() else value for name, value in fields.items()
                }
        return shards

    def led_shards(self):
        return [number for number, shard in self.shards().items() if shard["role"] == "leader"]

    # --- what it uses --------------------------------------------------------------------------

    def rss_mib(self):
        with open(f"/proc/{self.process.pid}/status", encoding="ascii") as file:
            for line in file:
                if line.startswith("VmRSS:"):
                    return int(line.split()[1]) / 1024
        raise AssertionError(f"{self} has no VmRSS")

    def sockets(self):
        """Inodes of its open sockets; its own user may look only with core_dumps = yes."""
        folder = f"/proc/{self.process.pid}/fd"
        links = []
        for name in os.listdir(folder):
            try:
                links.append(os.readlink(os.path.join(folder, name)))
            except FileNotFoundError:
                pass  # closed meanwhile
        return {link[8:-1] for link in links if link.startswith("socket:[")}

    def segments(self):
        """Paths of the log's segment files, oldest first."""
        folder = os.path.join(self.data, "log")
        return [
            os.path.join(folder, name) for name in sorted(os.listdir(folder)) if name.endswith(".seg")
        ]


class Cluster:
    """`Cluster(3, shards=1)` makes directories and configuration; start() runs the nodes. Keyword
    arguments are configuration keys."""

    def __init__(self, n=3, name="test", **settings):
        self.name = name
        self.settings = {"shards": 8, "min_free_disk": "1MiB", **settings}
        if Options.sanitizer():
            # Nodes that are slow, on a machine that is busy, shall not give writes up for it.
            self.settings.setdefault("request_timeout_ms", 30000)
        self.n_shards = int(self.settings["shards"])
        self.directory = tempfile.mkdtemp(prefix="ikv-test-", dir=Options.directory)
        self.admin_secret = None  # of the user `admin`, when clients have to authenticate
        self.tls = None  # of the harness's own clients, when they have to use it
        self.former = []  # nodes that were removed
        self.nodes = []
        for node_id in range(1, n + 1):
            self.nodes.append(Node(self, node_id))
        for node in self.nodes:
            node.write_config()

    def add_node(self):
        """One more node, which every configuration file names from now on; nothing is started, and
        nobody told."""
        node = Node(self, max(node.id for node in self.nodes + self.former) + 1)
        node.settings["join"] = "yes"
        self.nodes.append(node)
        self.write_configs()
        return node

    def drop_node(self, node):
        """Forgets a node that was taken out of the cluster, and stops it."""
        if node.is_running():
            node.stop()
        self.nodes.remove(node)
        self.former.append(node)
        self.write_configs()

    def write_configs(self):
        for node in self.nodes:
            node.write_config()

    def reload(self):
        """Running nodes read their files again."""
        for node in self.running():
            seen = node.log().count("nodes read again")

            def reads_again(node=node, seen=seen):
                # A node that is still starting ignores the signal.
                node.process.send_signal(signal.SIGHUP)
                time.sleep(0.05)
                return node.log().count("nodes read again") > seen

            wait_for(reads_again, f"{node} to read its file again")

    def require_authentication(self):
        """Before start(): auth = required, with a secret of this cluster for administrators."""
        self.admin_secret = secrets.token_hex(16)
        path = os.path.join(self.directory, "admin-secret")
        with open(os.open(path, os.O_WRONLY | os.O_CREAT, 0o600), "w", encoding="ascii") as file:
            file.write(self.admin_secret + "\n")
        self.settings.update(auth="required", admin_token_file=path)
        for node in self.nodes:
            node.write_config()

    def certificate(self, name):
        return os.path.join(self.directory, "certs", name)

    def make_certificates(self, directory=None, ids=None, cluster=None, days=None):
        """What scripts/make-certs makes, by default for the nodes of this cluster."""
        ids = ids or " ".join(str(node.id) for node in self.nodes)
        subprocess.run(
            [os.path.join(ROOT, "scripts/make-certs"), directory or self.certificate(""), cluster or self.name, ids],
            check=True,
            capture_output=True,
            env={**os.environ, **({"DAYS": str(days)} if days else {})},
        )

    def use_tls(self, clients="off", peers="off", **changes):
        """Before start(): certificates for all nodes, and what uses them."""
        self.make_certificates()
        for node in self.nodes:
            files = {"cert": f"node-{node.id}.pem", "key": f"node-{node.id}.key", "ca": "ca.pem"}
            paths = {key: self.certificate(name) for key, name in files.items()}
            if clients != "off":
                node.settings.update(tls=clients, tls_cert=paths["cert"], tls_key=paths["key"])
            if peers != "off":
                node.settings.update(peer_tls=peers, **{f"peer_tls_{key}": path for key, path in paths.items()})
            node.settings.update(changes)
            node.write_config()
        if clients == "required":
            self.tls = ssl.create_default_context(cafile=self.certificate("ca.pem"))
        return self

    def __getitem__(self, node_id):
        return next(node for node in self.nodes if node.id == node_id)

    def running(self):
        return [node for node in self.nodes if node.is_running()]

    def others(self, *excluded):
        return [node for node in self.nodes if node not in excluded]

    def start(self, timeout_s=30):
        for node in self.nodes:
            if not node.is_running():
                node.start()
        self.wait_ready(timeout_s)
        return self

    def wait_ready(self, timeout_s=30):
        """Until every running node answers and agrees with the others on a leader for each shard."""
        expected = self.running()
        try:
            wait_for(
                lambda: self._is_ready(expected), "the cluster to be ready", timeout_s * Options.slowdown()
            )
        except AssertionError as error:
            raise AssertionError(f"{error}\n{self.log_tails()}") from None

    def _is_ready(self, expected):
        running = self.running()
        if running != expected:
            raise Hopeless(f"running are {running} of {expected}")
        views = [node.shards() for node in running]
        ids = {node.id for node in running}
        for number in range(self.n_shards):
            leaders = {view[number]["leader"] for view in views}
            if len(leaders) != 1 or not leaders <= ids:
                return False
            leader = next(node for node in running if node.id in leaders)
            if views[running.index(leader)][number]["role"] != "leader":
                return False
        return True

    def leader_of(self, project="default", timeout_s=30):
        """The node that leads the project's shard, in the eyes of itself and of a majority."""
        shard = shard_of(project, self.n_shards)

        def find():
            votes = {}
            for node in self.running():
                try:
                    view = node.shards()[shard]
                except Exception:  # noqa: BLE001 - a node that is going down has no say
                    continue
                votes.setdefault(view["leader"], []).append((node.id, view["role"]))
            for leader, voters in votes.items():
                if leader and (leader, "leader") in voters and 2 * len(voters) > len(self.nodes):
                    return self[leader]
            return None

        return wait_for(find, f"a leader of shard {shard}", timeout_s * Options.slowdown())

    def wait_caught_up(self, timeout_s=60):
        """Until every running node has applied what its shards' leaders have committed."""
        wait_for(self._is_caught_up, "all nodes to catch up", timeout_s * Options.slowdown(), 0.1)

    def _is_caught_up(self):
        views = [node.shards() for node in self.running()]
        return all(
            len({(view[number]["commit"], view[number]["applied"]) for view in views}) == 1
            and views[0][number]["applied"] == views[0][number]["commit"]
            for number in range(self.n_shards)
        )

    def log_tails(self, lines=25):
        return "\n".join(node.log_tail(lines) for node in self.nodes)

    def complaints(self):
        """What no test may leave behind: reports in the logs, processes that ended by themselves."""
        found = []
        for node in self.nodes + self.former:
            node.is_running()
            if not node.may_report:
                found += node.unexpected_exits
                found += [
                    f"{node}: {line}" for line in node.log().splitlines() if REPORTS.search(line)
                ]
        return found

    def discard(self):
        for node in self.nodes + self.former:
            node.discard()
        if not Options.keep:
            shutil.rmtree(self.directory, ignore_errors=True)


def run_server(*arguments, timeout_s=20, environment=None):
    """Runs the server to its end: (status, stdout, stderr)."""
    result = subprocess.run(
        [Options.binary, *arguments],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        errors="replace",
        timeout=timeout_s * Options.slowdown(),
        env={**os.environ, **(environment or {})},
        check=False,
    )
    return result.returncode, result.stdout, result.stderr


class Stopwatch:
    def __init__(self):
        self.started = time.monotonic()

    def seconds(self):
        return time.monotonic() - self.started
