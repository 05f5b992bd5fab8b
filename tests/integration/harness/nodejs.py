"""Tests that are written in JavaScript and run by Node.js against a cluster.

npm installs what a folder's lock file names into its node_modules, at test time; without Node.js, npm or
what npm needs to install them, the tests fail and say so. tests/clients/lib/cluster.mjs is the other
side: it finds the nodes, kills them, and asks for them to be started again."""

import hashlib
import json
import os
import re
import shutil
import subprocess
import tempfile
import time

from harness.case import ClusterTest
from harness.once_per_run import once_per_run

# A file with more tests than this is not told test by test.
SHOWN_MAX = 50


class Package:
    """A folder with a package.json and a package-lock.json."""

    def __init__(self, directory, node_minimum):
        self.directory = directory
        self.node_minimum = node_minimum
        self.lock = os.path.join(directory, "package-lock.json")
        self.stamp = os.path.join(directory, "node_modules/.installed")

    def run_tool(self, *command, timeout_s=60, environment=None):
        try:
            return subprocess.run(
                command,
                cwd=self.directory,
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                errors="replace",
                timeout=timeout_s,
                env={**os.environ, **(environment or {})},
                check=False,
            )
        except FileNotFoundError:
            raise AssertionError(f"{command[0]} is not installed; run scripts/install-deps") from None
        except subprocess.TimeoutExpired:
            raise AssertionError(f"{' '.join(command)} was not done within {timeout_s} s") from None

    def check_node(self):
        version = self.run_tool("node", "--version").stdout.strip()
        major = re.match(r"v(\d+)\.", version)
        assert major and int(major[1]) >= self.node_minimum, (
            f"node {version} is older than {self.node_minimum}; install a newer one"
        )
        return version

    def install(self):
        """Does nothing when what the lock file names is there. An error is said by every test, but
        tried once."""
        error = once_per_run(f"install-{os.path.basename(self.directory)}", self._try_install)
        assert not error, error

    def _try_install(self):
        try:
            self._install()
            return ""
        except AssertionError as error:
            return str(error) or "npm could not be run"

    def _install(self):
        version = self.check_node()
        with open(self.lock, "rb") as file:
            wanted = f"{version} {hashlib.sha256(file.read()).hexdigest()}"
        if os.path.exists(self.stamp):
            with open(self.stamp, encoding="ascii") as file:
                if file.read() == wanted:
                    return
        print(f"    installing packages with npm (node {version}) ...", flush=True)
        started = time.monotonic()
        result = self.run_tool(
            "npm", "ci", "--ignore-scripts", "--no-audit", "--no-fund", "--loglevel=error", timeout_s=300
        )
        assert result.returncode == 0, (
            "npm could not install the packages that these tests need; is there a network, and a "
            f"package registry that npm is configured for?\n{result.stdout}{result.stderr}"
        )
        print(f"    installed in {time.monotonic() - started:.0f} s", flush=True)
        with open(self.stamp, "w", encoding="ascii") as file:
            file.write(wanted)

    def check_lock(self, test):
        """The lock file names no place to download from, and fixes every package."""
        with open(self.lock, encoding="utf-8") as file:
            text = file.read()
        test.assertNotIn("://", text)
        test.assertNotIn('"resolved"', text)
        for name, package in json.loads(text)["packages"].items():
            if name:
                test.assertIn("integrity", package, name)


class NodeTest(ClusterTest):
    """Its methods run files of JavaScript tests, and count with the tests inside."""

    package = None  # a Package
    timeout_s = 240

    def run_file(self, name, *command, prepare=None, environment=None, **settings):
        """`command` runs the file and prints TAP; without one, node does. prepare(cluster) is called
        before the cluster starts."""
        self.package.install()
        self.cluster = self.make_cluster(shards=1, rebalance="no", **settings)
        if prepare:
            prepare(self.cluster)
        self.cluster.start()
        self.directory = tempfile.mkdtemp(prefix="ikv-node-")
        self.addCleanup(shutil.rmtree, self.directory, ignore_errors=True)
        self.tell_nodes()
        output = self.run_node(name, command or ("node", "--test-reporter=tap", name), environment)
        passed = re.findall(r"^ok \d+ (?:- )?(.*)", output, re.M)
        failed = re.findall(r"^not ok \d+ (?:- )?(.*)", output, re.M)
        for line in re.findall(r"^(?:ok \d+ |# (?:longest|said:) ).*", output, re.M):
            if len(passed) <= SHOWN_MAX or not line.startswith("ok"):
                self.report(re.sub(r"^ok \d+ (?:-)?", "ok:", line).replace("#", "   "))
        self.counts = (len(passed), len(failed))
        if failed or not passed or self.status != 0:
            self.fail(f"{failed or 'the tests did not run'}\n{output}")

    def tell_nodes(self):
        """Where the tests find the nodes, replaced as a whole."""
        path = os.path.join(self.directory, "cluster.json")
        with open(path + ".new", "w", encoding="ascii") as file:
            nodes = [{"id": n.id, "port": n.port, "pid": n.process.pid} for n in self.cluster.nodes]
            json.dump(nodes, file)
        os.rename(path + ".new", path)

    def run_node(self, name, command, extra):
        environment = {**os.environ, "IKV_CLUSTER": os.path.join(self.directory, "cluster.json")}
        if self.cluster.admin_secret is not None:
            environment["IKV_ADMIN"] = self.cluster.admin_secret
        if self.cluster.tls is not None:
            environment["IKV_CA"] = self.cluster.certificate("ca.pem")
        environment.update(extra or {})
        log_path = os.path.join(self.directory, "output")
        with open(log_path, "w", encoding="utf-8") as log:
            process = subprocess.Popen(
                command,
                cwd=self.package.directory,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env=environment,
            )
        deadline = time.monotonic() + self.timeout_s
        try:
            while process.poll() is None:
                self.restart_nodes()
                if time.monotonic() > deadline:
                    break
                time.sleep(0.05)
        finally:
            self.status = process.poll()
            process.kill()
            process.wait(10)
        with open(log_path, encoding="utf-8", errors="replace") as log:
            output = log.read()
        if self.status is None:
            self.fail(f"{name} still runs after {self.timeout_s} s\n{output}")
        return output

    def restart_nodes(self):
        """Those that a test asks for: it kills nodes by itself."""
        for node in self.cluster.nodes:
            request = os.path.join(self.directory, f"restart-{node.id}")
            if os.path.exists(request) and not node.is_running():
                os.unlink(request)
                node.start()
                self.tell_nodes()
