"""scripts/up and scripts/down, run in a copy of the checkout with ports of its own."""

import os
import shutil
import signal
import subprocess
import tempfile

from harness.case import ClusterTest, long, quick
from harness.cluster import ROOT, Options, free_port
from harness.resp import Client
from harness.wait import wait_for


class LocalClusterTest(ClusterTest):
    def setUp(self):
        self.root = tempfile.mkdtemp(prefix="ikv-test-")
        self.addCleanup(shutil.rmtree, self.root, ignore_errors=True)
        scripts = os.path.join(self.root, "scripts")
        shutil.copytree(os.path.join(ROOT, "scripts"), scripts)
        # Nothing is installed or built here: the binary is the one under test.
        for name in ("install-deps", "build"):
            with open(os.path.join(scripts, name), "w", encoding="ascii") as file:
                file.write("#!/bin/sh\necho done\n")
        os.makedirs(os.path.join(self.root, "build/node"))
        os.symlink(Options.binary, os.path.join(self.root, "build/node/invoke-kvd"))
        self.ports = {n: (free_port(), free_port(), free_port()) for n in (1, 2, 3)}
        self._write_configs()
        self.addCleanup(self._script, "down", "--purge")

    def _write_configs(self):
        for n in self.ports:
            folder = self._path(n)
            os.makedirs(folder, exist_ok=True)
            with open(self._path(n, "invoke-kvd.conf"), "w", encoding="ascii") as file:
                client, _, http = self.ports[n]
                file.write(f"cluster = local\nnode_id = {n}\ndata_dir = {folder}/data\n")
                file.write(f"listen = 127.0.0.1:{client}\nhttp_listen = 127.0.0.1:{http}\n")
                for m, (client, peer, _) in self.ports.items():
                    file.write(f"node = {m} 127.0.0.1:{client} 127.0.0.1:{peer}\n")

    def _path(self, n, name=""):
        return os.path.join(self.root, ".local", f"node-{n}", name).rstrip("/")

    def _script(self, name, *arguments):
        return subprocess.run(
            [os.path.join(self.root, "scripts", name), *arguments],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )

    def _up(self):
        result = self._script("up")
        self.assertEqual(result.returncode, 0, result.stdout + result.stderr)
        return result.stdout

    def _pid(self, n):
        with open(self._path(n, "invoke-kvd.pid"), encoding="ascii") as file:
            return int(file.read())

    @quick
    def test_up_and_down(self):
        out = self._up()
        for line in ("> SET greeting hello", '"hello"', "> DEL greeting", "> FLUSHDB", "What next"):
            self.assertIn(line, out)
        pids = {n: self._pid(n) for n in self.ports}
        with Client(self.ports[1][0]) as client:
            client.call("SET", "mine", "kept")

        out = self._up()
        self.assertEqual(out.count("already running"), 3)
        self.assertEqual({n: self._pid(n) for n in self.ports}, pids)

        os.kill(pids[2], signal.SIGKILL)
        out = self._up()
        self.assertEqual(out.count("already running"), 2)
        self.assertNotEqual(self._pid(2), pids[2])

        result = self._script("down")
        self.assertEqual(result.returncode, 0, result.stderr)
        self.assertEqual(result.stdout.count("stopped"), 3, result.stdout + result.stderr)
        self.assertEqual(self._script("down").stdout.count("not running"), 3)

        self._up()
        with Client(self.ports[3][0]) as client:
            self.assertEqual(client.call("GET", "mine"), b"kept")
        self._script("down", "--purge")
        self.assertFalse(os.path.exists(self._path(1)))

    def test_stale_pid_file(self):
        """A pid file that names another program's process: that process is left alone."""
        bystander = subprocess.Popen(["sleep", "600"])
        self.addCleanup(bystander.wait)
        self.addCleanup(bystander.kill)
        for n, content in ((1, bystander.pid), (2, "rubbish"), (3, 999999999)):
            with open(self._path(n, "invoke-kvd.pid"), "w", encoding="ascii") as file:
                file.write(f"{content}\n")
        self.assertEqual(self._script("down").stdout.count("not running"), 3)
        self.assertIsNone(bystander.poll(), "scripts/down ended a process that is not ours")
        with open(self._path(1, "invoke-kvd.pid"), "w", encoding="ascii") as file:
            file.write(f"{bystander.pid}\n")
        self._up()
        self.assertNotEqual(self._pid(1), bystander.pid)
        self.assertIsNone(bystander.poll())

    @long
    def test_down_kills_what_does_not_stop(self):
        self._up()
        os.kill(self._pid(2), signal.SIGSTOP)
        result = self._script("down")
        self.assertEqual(result.returncode, 0, result.stderr)
        self.assertIn("did not stop within", result.stderr)
        self.assertFalse(os.path.exists(self._path(2, "invoke-kvd.pid")))

    def test_up_explains_a_node_that_cannot_start(self):
        with open(self._path(2, "invoke-kvd.conf"), "a", encoding="ascii") as file:
            file.write("nonsense = 1\n")
        result = self._script("up")
        self.assertNotEqual(result.returncode, 0)
        self.assertIn("unknown key 'nonsense'", result.stderr)
        wait_for(lambda: self._script("down").returncode == 0, "down")
