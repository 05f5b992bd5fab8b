"""Redis clients of Node.js, as their users run them: tests/clients/*.test.mjs against a cluster.

npm installs the clients at test time into tests/clients/node_modules; without Node.js, npm or what
npm needs to install them, these tests fail and say so."""

import hashlib
import json
import os
import re
import shutil
import subprocess
import tempfile
import time

from harness.case import ClusterTest
from harness.cluster import ROOT

CLIENTS = os.path.join(ROOT, "tests/clients")
LOCK = os.path.join(CLIENTS, "package-lock.json")
STAMP = os.path.join(CLIENTS, "node_modules/.installed")
NODE_MINIMUM = 18
TIMEOUT_S = 240


def run_tool(*command, timeout_s=60):
    try:
        return subprocess.run(
            command, cwd=CLIENTS, capture_output=True, text=True, timeout=timeout_s, check=False
        )
    except FileNotFoundError:
        raise AssertionError(f"{command[0]} is not installed; run scripts/install-deps") from None
    except subprocess.TimeoutExpired:
        raise AssertionError(f"{' '.join(command)} was not done within {timeout_s} s") from None


def check_node():
    version = run_tool("node", "--version").stdout.strip()
    major = re.match(r"v(\d+)\.", version)
    assert major and int(major[1]) >= NODE_MINIMUM, (
        f"node {version} is older than {NODE_MINIMUM}; install a newer one"
    )
    return version


def install_clients():
    """Does nothing when what the lock file names is there."""
    version = check_node()
    with open(LOCK, "rb") as file:
        wanted = f"{version} {hashlib.sha256(file.read()).hexdigest()}"
    if os.path.exists(STAMP):
        with open(STAMP, encoding="ascii") as file:
            if file.read() == wanted:
                return
    print(f"    installing the clients with npm (node {version}) ...", flush=True)
    started = time.monotonic()
    result = run_tool("npm", "ci", "--no-audit", "--no-fund", "--loglevel=error", timeout_s=300)
    assert result.returncode == 0, (
        "npm could not install the clients that these tests need; is there a network, and a "
        f"package registry that npm is configured for?\n{result.stdout}{result.stderr}"
    )
    print(f"    installed in {time.monotonic() - started:.0f} s", flush=True)
    with open(STAMP, "w", encoding="ascii") as file:
        file.write(wanted)


class Lock(ClusterTest):
    def test_the_lock_file_names_no_place_to_download_from(self):
        with open(LOCK, encoding="utf-8") as file:
            text = file.read()
        self.assertNotIn("http", text)
        self.assertNotIn('"resolved"', text)
        for name, package in json.loads(text)["packages"].items():
            if name:
                self.assertIn("integrity", package, name)


class NpmClients(ClusterTest):
    """One method for each file in tests/clients, added below; it counts with the tests inside."""

    install_error = None  # said by every test, but tried once

    def install(self):
        if NpmClients.install_error is None:
            try:
                install_clients()
                NpmClients.install_error = ""
            except AssertionError as error:
                NpmClients.install_error = str(error)
        if NpmClients.install_error:
            self.fail(NpmClients.install_error)

    def run_file(self, name, **settings):
        self.install()
        self.cluster = self.make_cluster(shards=1, rebalance="no", **settings)
        if name.startswith("auth"):
            self.cluster.require_authentication()
        if name.startswith("tls"):
            self.cluster.use_tls(clients="required")
        self.cluster.start()
        self.directory = tempfile.mkdtemp(prefix="ikv-clients-")
        self.addCleanup(shutil.rmtree, self.directory, ignore_errors=True)
        self.tell_nodes()
        output = self.run_node(name)
        passed = re.findall(r"^ok \d+ - (.*)", output, re.M)
        failed = re.findall(r"^not ok \d+ - (.*)", output, re.M)
        for line in re.findall(r"^(?:ok \d+ - |# longest ).*", output, re.M):
            self.report(re.sub(r"^ok \d+ -", "ok:", line).replace("#", "   "))
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

    def run_node(self, name):
        environment = {**os.environ, "IKV_CLUSTER": os.path.join(self.directory, "cluster.json")}
        if self.cluster.admin_secret is not None:
            environment["IKV_ADMIN"] = self.cluster.admin_secret
        if self.cluster.tls is not None:
            environment["IKV_CA"] = self.cluster.certificate("ca.pem")
        log_path = os.path.join(self.directory, "output")
        with open(log_path, "w", encoding="utf-8") as log:
            process = subprocess.Popen(
                ["node", "--test-reporter=tap", name],
                cwd=CLIENTS,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env=environment,
            )
        deadline = time.monotonic() + TIMEOUT_S
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
            self.fail(f"{name} still runs after {TIMEOUT_S} s\n{output}")
        return output

    def restart_nodes(self):
        """Those that a test asks for: it kills nodes by itself."""
        for node in self.cluster.nodes:
            request = os.path.join(self.directory, f"restart-{node.id}")
            if os.path.exists(request) and not node.is_running():
                os.unlink(request)
                node.start()
                self.tell_nodes()


def add_tests():
    for name in sorted(os.listdir(CLIENTS)):
        if not name.endswith(".test.mjs"):
            continue
        title = name.removesuffix(".test.mjs").replace("-", "_")
        variants = {title: {}}
        if title.endswith("_cluster"):
            variants[f"{title}_redirected"] = {"redirect": "yes"}
        for variant, settings in variants.items():
            setattr(
                NpmClients,
                f"test_{variant}",
                lambda self, name=name, settings=settings: self.run_file(name, **settings),
            )


add_tests()
