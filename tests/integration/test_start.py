"""Starting a node: help, configuration and its errors, one node alone, memory at rest."""

import os
import signal
import stat
import subprocess
import tempfile

from harness.case import ClusterTest, quick, sanitizer
from harness.cluster import Options, free_port, run_server
from harness.resp import Client
from harness.wait import wait_for


class CommandLineTest(ClusterTest):
    @quick
    def test_help_and_version(self):
        status, out, err = run_server("--help")
        self.assertEqual((status, err), (0, ""))
        for word in ("--config", "--single", "--version", "--check-config", "SIGTERM"):
            self.assertIn(word, out)
        status, out, err = run_server("--help-config")
        self.assertEqual((status, err), (0, ""))
        for word in ("node_id", "data_dir", "insecure_listen"):
            self.assertIn(word, out)
        status, out, err = run_server("--version")
        self.assertEqual((status, err), (0, ""))
        self.assertRegex(out, r"^invoke-kvd \d+\.\d+\.\d+")

    @quick
    def test_wrong_arguments(self):
        for arguments in ((), ("--nosuch",), ("--config",), ("--single",), ("stray",)):
            with self.subTest(arguments=arguments):
                status, _, err = run_server(*arguments)
                self.assertNotEqual(status, 0)
                self.assertIn("--help", err)


class ConfigErrorTest(ClusterTest):
    GOOD = [
        "# a comment",
        "cluster = test",
        "node_id = 1",
        "data_dir = {directory}/data",
        "node = 1 127.0.0.1:7911 127.0.0.1:7921",
        "node = 2 127.0.0.1:7912 127.0.0.1:7922",
    ]

    def setUp(self):
        folder = tempfile.TemporaryDirectory(prefix="ikv-test-")
        self.addCleanup(folder.cleanup)
        self.directory = folder.name
        self.path = os.path.join(self.directory, "node.conf")

    def _start_with(self, lines):
        with open(self.path, "w", encoding="utf-8") as file:
            file.write("".join(line.format(directory=self.directory) + "\n" for line in lines))
        return run_server("--config", self.path)

    def _with_line(self, line, after=len(GOOD)):
        return self.GOOD[:after] + [line] + self.GOOD[after:]

    @quick
    def test_line_number_and_reason(self):
        cases = [
            # (line added at the end, which is line 7, what the message says)
            ("colour = blue", "unknown key 'colour'"),
            ("electon_ms = 500", "did you mean 'election_ms'"),
            ("just words", "key = value"),
            ("listen = 127.0.0.1:99999", "listen"),
            ("listen = 127.0.0.1:port", "listen"),
            ("listen = 127.0.0.1:0", "listen"),
            ("listen = nowhere", "listen"),
            ("node = 2 127.0.0.1:7913 127.0.0.1:7923", "2"),
            ("node = 3 127.0.0.1:7911 127.0.0.1:7923", "7911"),
            ("node = 3 127.0.0.1:7913", "node"),
            ("node = 0 127.0.0.1:7913 127.0.0.1:7923", "node"),
            ("shards = 0", "shards"),
            ("shards = 1000", "shards"),
            ("shards = many", "shards"),
            ("max_value = 1TiB", "max_value"),
            ("max_value = 65MiB", "max_value"),
            ("heartbeat_ms = -5", "heartbeat_ms"),
            ("election_ms = 60", "heartbeat"),
            ("rebalance = perhaps", "rebalance"),
            ("log_level = loud", "log_level"),
            ("cluster = again", "already set in line 2"),
            ("listen = 0.0.0.0:7911", "insecure_listen"),
            ("segment_size = 4", "segment_size"),
        ]
        for line, message in cases:
            with self.subTest(line=line):
                status, _, err = self._start_with(self._with_line(line))
                self.assertNotEqual(status, 0)
                self.assertIn(f"{self.path}:7", err)
                self.assertIn(message, err)
        self.assertFalse(os.path.exists(os.path.join(self.directory, "data")), "data before the check")

    @quick
    def test_missing_keys(self):
        for missing in ("cluster", "node_id", "data_dir"):
            lines = [line for line in self.GOOD if not line.startswith(missing)]
            with self.subTest(missing=missing):
                status, _, err = self._start_with(lines)
                self.assertNotEqual(status, 0)
                self.assertIn(self.path, err)
                self.assertIn(missing, err)
        status, _, err = self._start_with([line.replace("node_id = 1", "node_id = 7") for line in self.GOOD])
        self.assertNotEqual(status, 0)
        self.assertIn(f"{self.path}:3", err)

    @quick
    def test_files_that_cannot_be_used(self):
        missing = os.path.join(self.directory, "missing.conf")
        status, _, err = run_server("--config", missing)
        self.assertNotEqual(status, 0)
        self.assertRegex(err, f"{missing}.*No such file")
        status, _, err = run_server("--config", self.directory)
        self.assertNotEqual(status, 0)
        self.assertIn(self.directory, err)
        lines = [line.replace("{directory}/data", "{directory}/no/such/data") for line in self.GOOD]
        status, _, err = self._start_with(lines)
        self.assertNotEqual(status, 0)
        self.assertIn(f"{self.path}:4", err)
        with open(os.path.join(self.directory, "data"), "w", encoding="ascii"):
            pass
        status, _, err = self._start_with(self.GOOD)
        self.assertNotEqual(status, 0)
        self.assertRegex(err, f"{self.path}:4.*not a directory")

    def test_unreadable_file(self):
        if os.geteuid() == 0:
            self.skipTest("root can read every file")
        self._start_with(self.GOOD[:1])
        os.chmod(self.path, 0)
        status, _, err = run_server("--config", self.path)
        self.assertNotEqual(status, 0)
        self.assertRegex(err, f"{self.path}.*Permission denied")
        os.chmod(self.path, stat.S_IRUSR)

    @quick
    def test_port_in_use(self):
        cluster = self.start_cluster(shards=1)
        other = self.make_cluster(1, shards=1)
        for name in ("port", "peer_port"):
            setattr(other[1], name, getattr(cluster[1], name))
            other[1].write_config()
            other[1].start()
            self.assertNotEqual(other[1].wait_exit(), 0)
            self.assertRegex(other[1].log(), f"{getattr(cluster[1], name)}.*[Aa]ddress already in use")
            setattr(other[1], name, free_port())


class SingleTest(ClusterTest):
    @quick
    @sanitizer
    def test_one_node_cluster(self):
        """A cluster of one serves at once, keeps its data, and stops cleanly."""
        cluster = self.start_cluster(1)
        node = cluster[1]
        self.assertEqual(node.call("SET", "k", "v"), "OK")
        node.stop()
        cluster.start()
        self.assertEqual(node.call("GET", "k"), b"v")
        node.kill()
        cluster.start()
        self.assertEqual(node.call("GET", "k"), b"v")

    @quick
    def test_single_without_configuration(self):
        with tempfile.TemporaryDirectory(prefix="ikv-test-") as folder:
            ports = (7101, 7201, 7301)
            if not all(self._is_free(port) for port in ports):
                self.skipTest("the default ports are taken, perhaps by scripts/up")
            with open(os.path.join(folder, "log"), "wb") as log:
                process = subprocess.Popen(
                    [Options.binary, "--single", os.path.join(folder, "data")],
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                )
            try:
                wait_for(lambda: self._set(7101), "the node to serve")
                process.send_signal(signal.SIGTERM)
                self.assertEqual(process.wait(20), 0)
            finally:
                if process.poll() is None:
                    process.kill()
                    process.wait()

    @staticmethod
    def _is_free(port):
        try:
            Client(port, timeout_s=1).close()
            return False
        except Exception:  # noqa: BLE001 - nobody listens
            return True

    @staticmethod
    def _set(port):
        with Client(port) as client:
            return client.call("SET", "k", "v") == "OK" and client.call("GET", "k") == b"v"


class MemoryTest(ClusterTest):
    @quick
    def test_idle_node_is_small(self):
        """8 empty shards: under 40 MiB resident."""
        cluster = self.start_cluster(3, shards=8)
        sizes = [node.rss_mib() for node in cluster.nodes]
        self.report(f"resident: {' '.join(f'{size:.1f} MiB' for size in sizes)}")
        self.assertLess(max(sizes), 40)
