"""The Node.js package client/nodejs: its tests in JavaScript against clusters, with a plain addon and
with one under AddressSanitizer, and the package as npm installs it."""

import json
import os
import re
import shutil
import subprocess
import tempfile

from harness.case import ClusterTest, big, long
from harness.cluster import ROOT, Cluster
from harness.nodejs import NodeTest, Package
from harness.once_per_run import once_per_run

DIRECTORY = os.path.join(ROOT, "client/nodejs")
TESTS = os.path.join(DIRECTORY, "test")
PACKAGE = Package(DIRECTORY, node_minimum=20)
LONG = {"bad-input", "soak", "worker"}
HEADERS = os.path.join(DIRECTORY, "node_modules/node-api-headers/include")
CLIENTS = Package(os.path.join(ROOT, "tests/clients"), node_minimum=18)
BUN = os.path.join(CLIENTS.directory, "node_modules/@oven/bun-linux-x64/bin/bun")


def build(*options):
    """The addon, built once in a run, with N-API's headers from npm: every Node.js has the same."""

    def run():
        result = PACKAGE.run_tool(
            "node", "scripts/build.js", *options, timeout_s=300, environment={"NODE_INCLUDE_DIR": HEADERS}
        )
        return result.stdout + result.stderr if result.returncode != 0 else ""

    PACKAGE.install()
    error = once_per_run(f"addon{''.join(options)}", run)
    assert not error, f"the addon could not be built:\n{error}"


def sanitizer_environment():
    """For a node that loads an addon with AddressSanitizer. Leaks are not looked for: Node.js frees
    little at its end. The tests count what is open instead."""
    library = PACKAGE.run_tool("cc", "-print-file-name=libasan.so").stdout.strip()
    return {
        "LD_PRELOAD": library,
        "ASAN_OPTIONS": "detect_leaks=0",
        "IKV_ADDON": os.path.join(DIRECTORY, "build-asan/invoke_kv.node"),
        "IKV_SLOW": "1",
    }


class NodePackage(ClusterTest):
    def test_the_lock_file_names_no_place_to_download_from(self):
        PACKAGE.check_lock(self)

    def test_types(self):
        PACKAGE.install()
        result = PACKAGE.run_tool(
            "node_modules/.bin/tsc", "--noEmit", "--strict", "--module", "nodenext", "--target", "es2022",
            "--types", "node", "test/types.mts", timeout_s=120,
        )
        self.assertEqual(result.returncode, 0, result.stdout + result.stderr)

    def test_bun_loads_it(self):
        build()
        CLIENTS.install()
        if not os.path.exists(BUN):
            self.skipTest("npm has no Bun for this machine")
        cluster = self.start_cluster(shards=1)
        nodes = ",".join(f"127.0.0.1:{node.port}" for node in cluster.nodes)
        result = PACKAGE.run_tool(BUN, "test/bun.cjs", nodes, timeout_s=120)
        self.assertEqual((result.returncode, result.stdout), (0, "fine\n"), result.stdout + result.stderr)

    @long
    def test_packed_and_installed_elsewhere(self):
        """The tarball is complete: npm builds it from its own sources, and it works as CommonJS and as
        ES module, also in a second environment, a worker."""
        PACKAGE.install()
        cluster = self.start_cluster(shards=1)
        folder = tempfile.mkdtemp(prefix="ikv-pack-")
        self.addCleanup(shutil.rmtree, folder, ignore_errors=True)
        packed = PACKAGE.run_tool("npm", "pack", "--json", "--pack-destination", folder, timeout_s=120)
        self.assertEqual(packed.returncode, 0, packed.stderr)
        name = json.loads(packed.stdout[packed.stdout.index("[") :])[0]["filename"]
        self.assertFalse(os.path.exists(os.path.join(DIRECTORY, "native")))
        with open(os.path.join(folder, "package.json"), "w", encoding="ascii") as file:
            json.dump({"name": "user", "private": True}, file)
        installed = subprocess.run(
            ["npm", "install", "--offline", "--no-audit", "--no-fund", f"./{name}"],
            cwd=folder, capture_output=True, text=True, timeout=300, check=False,
            env={**os.environ, "NODE_INCLUDE_DIR": HEADERS},
        )
        self.assertEqual(installed.returncode, 0, installed.stdout + installed.stderr)
        shutil.copytree(os.path.join(TESTS, "installed"), folder, dirs_exist_ok=True)
        for program in ("use.cjs", "use.mjs", "worker.cjs"):
            result = subprocess.run(
                ["node", program, ",".join(f"127.0.0.1:{node.port}" for node in cluster.nodes)],
                cwd=folder, capture_output=True, text=True, timeout=60, check=False,
            )
            self.assertEqual((result.returncode, result.stdout), (0, "fine\n"), program + result.stderr)


def require_tls(cluster):
    cluster.use_tls(clients="required")


class NodeClient(NodeTest):
    """One method for each file in client/nodejs/test, added below."""

    package = PACKAGE

    def run_test_file(self, name, sanitize=False, **environment):
        build(*(("--sanitize",) if sanitize else ()))
        command = ("node", "--expose-gc", "--test-reporter=tap", f"test/{name}")
        prepare = None
        if name.endswith(".vitest.mjs"):
            command = (
                "node_modules/.bin/vitest", "run", "--reporter=tap-flat", "--config", "test/vitest.config.mjs", name,
            )
        if name.startswith("auth"):
            prepare = Cluster.require_authentication
        if name.startswith("tls"):
            prepare = require_tls
        if sanitize:
            environment.update(sanitizer_environment())
        self.run_file(name, *command, prepare=prepare, environment=environment)

    @big
    def test_soak_for_5_minutes(self):
        self.timeout_s = 600
        self.run_test_file("soak.test.mjs", IKV_SOAK_S="300")


def add_tests():
    for name in sorted(os.listdir(TESTS)):
        match = re.fullmatch(r"(.*)\.(?:test|vitest)\.mjs", name)
        if not match:
            continue
        title = match[1].replace("-", "_")
        variants = {title: False}
        if name.endswith(".test.mjs"):
            variants[f"{title}_sanitized"] = True
        for variant, sanitize in variants.items():

            def run(self, name=name, sanitize=sanitize):
                self.run_test_file(name, sanitize)

            setattr(NodeClient, f"test_{variant}", long(run) if match[1] in LONG else run)


add_tests()
