"""What the benchmarks share: servers, a cluster of three nodes, redis-benchmark, the disk."""

import csv
import io
import os
import re
import signal
import socket
import statistics
import subprocess
import sys
import time

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
SERVER = os.path.join(ROOT, "build/node/invoke-kvd")
SHARDS = 8
PROJECT = "default"  # what redis-benchmark writes to when it sends no AUTH


def say(text):
    print(text, flush=True)


def give_up(text):
    sys.exit(f"{os.path.relpath(sys.argv[0], ROOT)}: {text}")


def build():
    subprocess.run(
        [os.path.join(ROOT, "scripts/build"), "release", "invoke-kvd"],
        check=True,
        stdout=subprocess.DEVNULL,
    )


def free_ports(count):
    sockets = [socket.socket() for _ in range(count)]
    for each in sockets:
        each.bind(("127.0.0.1", 0))
    ports = [each.getsockname()[1] for each in sockets]
    for each in sockets:
        each.close()
    return ports


class Processes:
    """The servers of one contestant; all are ended by stop()."""

    def __init__(self, directory):
        self.directory = directory
        self.running = []
        os.makedirs(directory)

    def start(self, name, command):
        with open(os.path.join(self.directory, f"{name}.log"), "wb") as log:
            process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        self.running.append(process)

    def stop(self):
        for process in self.running:
            process.send_signal(signal.SIGTERM)
        for process in self.running:
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def wait_until(condition, what, timeout_s=30, pause_s=0.1):
    deadline = time.monotonic() + timeout_s
    while not condition():
        if time.monotonic() > deadline:
            give_up(f"waited {timeout_s} s for {what}")
        time.sleep(pause_s)


def redis_cli(port, *arguments):
    result = subprocess.run(
        ["redis-cli", "-h", "127.0.0.1", "-p", str(port), *arguments],
        capture_output=True,
        text=True,
        timeout=20,
        check=False,
    )
    return result.stdout.strip()


def redis_benchmark(port, clients, value_size, keys, requests):
    """{"SET": ..., "GET": ...}: (requests/s, p50 ms, p99 ms)."""
    command = ["redis-benchmark", "-h", "127.0.0.1", "-p", str(port), "-c", str(clients)]
    command += ["-d", str(value_size), "-r", str(keys), "-n", str(requests), "-t", "set,get", "--csv"]
    result = subprocess.run(command, capture_output=True, text=True, timeout=600, check=True)
    figures = {}
    for row in csv.DictReader(io.StringIO(result.stdout)):
        figures[row["test"]] = (
            float(row["rps"]),
            float(row["p50_latency_ms"]),
            float(row["p99_latency_ms"]),
        )
    if set(figures) != {"SET", "GET"}:
        give_up(f"redis-benchmark on port {port} says:\n{result.stdout}{result.stderr}")
    return figures


def median_rounds(rounds, measure):
    """Runs measure() several times; the round with the median rate, for each operation."""
    all_figures = [measure() for _ in range(rounds)]
    chosen = {}
    for operation in all_figures[0]:
        ordered = sorted(figures[operation] for figures in all_figures)
        chosen[operation] = ordered[len(ordered) // 2]
    return chosen


def print_row(name, figures):
    for operation in ("SET", "GET"):
        rate, p50, p99 = figures[operation]
        say(f"  {name:<34} {operation}  {rate:>10,.0f}/s   p50 {p50:>7.2f} ms   p99 {p99:>7.2f} ms")


def shard_of(project):
    crc = 0
    for byte in project.encode():
        crc ^= byte << 8
        for _ in range(8):
            crc = ((crc << 1) ^ 0x1021 if crc & 0x8000 else crc << 1) & 0xFFFF
    return crc % 16384 * SHARDS // 16384


class ThreeNodes:
    """A cluster of three nodes that serves; settings are lines of the configuration."""

    def __init__(self, directory, settings=()):
        self.directory = directory
        self.settings = [f"shards = {SHARDS}", *settings]
        ports = free_ports(9)
        self.clients, self.peers, self.https = ports[:3], ports[3:6], ports[6:]
        self.processes = Processes(directory)

    def __enter__(self):
        try:
            for n in range(3):
                self._write_config(n)
                self.processes.start(f"node-{n + 1}", [SERVER, "--config", self._config(n)])
            wait_until(
                lambda: all(redis_cli(port, "SET", "ready", "1") == "OK" for port in self.clients),
                "invoke-kv to serve",
            )
            time.sleep(2)  # leaders move to their preferred nodes after a start
        except BaseException:
            self.processes.stop()
            raise
        return self

    def __exit__(self, *_):
        self.processes.stop()

    def _config(self, n):
        return os.path.join(self.directory, f"node-{n + 1}.conf")

    def data(self, n):
        return os.path.join(self.directory, f"node-{n + 1}")

    def _write_config(self, n):
        with open(self._config(n), "w", encoding="ascii") as file:
            file.write(f"cluster = bench\nnode_id = {n + 1}\ndata_dir = {self.data(n)}\n")
            file.write(f"http_listen = 127.0.0.1:{self.https[n]}\n")
            for line in self.settings:
                file.write(f"{line}\n")
            for m in range(3):
                file.write(f"node = {m + 1} 127.0.0.1:{self.clients[m]} 127.0.0.1:{self.peers[m]}\n")

    def shards(self, n):
        """{shard: {field: text}} as the node sees them."""
        return {
            int(number): dict(part.split("=", 1) for part in fields.split(","))
            for number, fields in re.findall(
                r"^shard_?(\d+):(.*?)\r?$", redis_cli(self.clients[n], "INFO", "shards"), re.MULTILINE
            )
        }

    def leader(self, project=PROJECT):
        """Place of the node that leads the project's shard, as the first node sees it."""
        leader = int(self.shards(0)[shard_of(project)]["leader"])
        if leader == 0:
            give_up(f"no node leads the shard of project {project}")
        return leader - 1

    def wait_caught_up(self, timeout_s=600):
        def has_caught_up():
            views = [self.shards(n) for n in range(3)]
            return all(
                len({view[shard][field] for view in views for field in ("commit", "applied")}) == 1
                for shard in views[0]
            )

        wait_until(has_caught_up, "all nodes to apply what was written", timeout_s)

    def resident_mib(self):
        """Of each node."""
        figures = []
        for process in self.processes.running:
            with open(f"/proc/{process.pid}/status", encoding="ascii") as file:
                match = re.search(r"^VmRSS:\s*(\d+)", file.read(), re.MULTILINE)
            figures.append(int(match[1]) / 1024)
        return figures


def etcdctl(endpoints, *arguments, timeout_s=30):
    return subprocess.run(
        ["etcdctl", f"--endpoints={endpoints}", *arguments],
        env={**os.environ, "ETCDCTL_API": "3"},
        capture_output=True,
        text=True,
        timeout=timeout_s,
        check=False,
    )


class ThreeMembers:
    """An etcd cluster of three members that serves, with its default configuration."""

    def __init__(self, directory):
        self.directory = directory
        ports = free_ports(6)
        self.clients, self.peers = ports[:3], ports[3:]
        self.endpoints = ",".join(f"http://127.0.0.1:{port}" for port in self.clients)
        self.processes = Processes(directory)

    def __enter__(self):
        try:
            for n in range(3):
                self.processes.start(f"n{n}", self._command(n))
            wait_until(lambda: etcdctl(self.endpoints, "put", "ready", "1").stdout.strip() == "OK", "etcd to serve")
        except BaseException:
            self.processes.stop()
            raise
        return self

    def __exit__(self, *_):
        self.processes.stop()

    def _command(self, n):
        url, peer_url = f"http://127.0.0.1:{self.clients[n]}", f"http://127.0.0.1:{self.peers[n]}"
        members = ",".join(f"n{m}=http://127.0.0.1:{self.peers[m]}" for m in range(3))
        command = ["etcd", "--name", f"n{n}", "--data-dir", f"{self.directory}/n{n}"]
        command += ["--listen-client-urls", url, "--advertise-client-urls", url]
        command += ["--listen-peer-urls", peer_url, "--initial-advertise-peer-urls", peer_url]
        return command + ["--initial-cluster", members, "--initial-cluster-state", "new"]


def sync_latency_ms(directory):
    """Median and worst time of a small write and fdatasync on the disk that is used."""
    path = os.path.join(directory, "sync-probe")
    times = []
    file = os.open(path, os.O_WRONLY | os.O_CREAT)
    os.posix_fallocate(file, 0, 1 << 20)
    os.fsync(file)
    for number in range(200):
        os.pwrite(file, b"x" * 512, number * 4096 % (1 << 20))
        started = time.monotonic()
        os.fdatasync(file)
        times.append((time.monotonic() - started) * 1000)
    os.close(file)
    os.unlink(path)
    return statistics.median(times), max(times)
