"""libinvokekv against real clusters: the programs of tests/client/ and the examples, built in C."""

import os
import re
import subprocess
import tempfile
import time
import urllib.request

from harness.case import ClusterTest, asan, long, quick, sanitizer
from harness.cluster import REPORTS, ROOT, Options
from harness.wait import wait_for


def build_directory():
    return os.path.dirname(os.path.dirname(Options.binary))


def program(name):
    return os.path.join(build_directory(), "tests/client", f"client_{name}")


def is_ready(node):
    with urllib.request.urlopen(f"http://127.0.0.1:{node.http_port}/readyz", timeout=5) as answer:
        return answer.status == 200


def seeds(cluster):
    return ",".join(f"127.0.0.1:{node.port}" for node in cluster.nodes)


class Running:
    """A program under way. wait() ends its input and returns its output, and fails when it failed."""

    def __init__(self, test, path, *arguments, timeout_s=120, environment=None):
        self.path = path
        self.timeout_s = timeout_s * Options.slowdown()
        self.process = subprocess.Popen(
            [path, *(str(argument) for argument in arguments)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env={**os.environ, **(environment or {})},
        )
        test.addCleanup(self._end)

    def _end(self):
        if self.process.poll() is None:
            self.process.kill()
            self.process.communicate()

    def is_running(self):
        return self.process.poll() is None

    def wait(self):
        output, _ = self.process.communicate(timeout=self.timeout_s)
        assert self.process.returncode == 0 and not REPORTS.search(output), (
            f"{os.path.basename(self.path)} ended with {self.process.returncode}:\n{output[-8000:]}"
        )
        return output


class ClientLibraryTest(ClusterTest):
    def run_program(self, name, *arguments, **options):
        return Running(self, program(name), *arguments, **options).wait()

    @quick
    @sanitizer
    def test_every_operation_at_every_level(self):
        cluster = self.start_cluster()
        for level in range(3):
            with self.subTest(level=level):
                self.run_program("operations", seeds(cluster), f"operations-{level}", level)

    @quick
    @asan
    def test_one_seed_is_enough(self):
        cluster = self.start_cluster()
        self.run_program("operations", f"redis://127.0.0.1:{cluster[2].port}/0", "one-seed", 0)
        dead = "127.0.0.1:1"
        self.run_program("operations", f"{dead},127.0.0.1:{cluster[3].port}", "one-seed", 1)

    @sanitizer
    def test_many_projects_and_threads(self):
        cluster = self.start_cluster()
        projects = 40 if Options.sanitizer() else 300
        output = self.run_program("load", seeds(cluster), projects, 8, 4)
        self.report(output.strip().splitlines()[-1])
        self.assertRegex(output, r"acknowledged [1-9]\d* unknown 0 failed 0 exact")

    @quick
    @sanitizer
    def test_transactions_and_watched_versions(self):
        cluster = self.start_cluster()
        output = self.run_program("transactions", seeds(cluster), 4)
        self.report(output.strip())
        self.assertRegex(output, r"[1-9]\d* conflicts")

    @quick
    @asan
    def test_authentication(self):
        cluster = self.make_cluster(auth="required")
        for node in cluster.nodes:
            files = {}
            for name in ("admin", "service"):
                files[f"{name}_token_file"] = path = os.path.join(node.directory, name)
                with open(path, "w", encoding="ascii", opener=lambda p, f: os.open(p, f, 0o600)) as file:
                    file.write(f"{name}-secret-of-this-test\n")
            node.write_config(**files)
            node.start()
        wait_for(lambda: all(is_ready(node) for node in cluster.nodes), "all nodes to be ready", 60)
        self.run_program(
            "access", seeds(cluster), "admin-secret-of-this-test", "service-secret-of-this-test"
        )

    @sanitizer
    def test_a_watch_goes_on_through_the_loss_of_nodes(self):
        cluster = self.start_cluster()
        rounds = 1 if Options.sanitizer() else 2
        watching = Running(self, program("watching"), seeds(cluster))
        for _ in range(rounds):
            for node in cluster.nodes:
                time.sleep(0.5)
                node.kill()
                node.start()
                cluster.wait_ready()
        output = watching.wait()
        self.report(output.strip())
        counts = re.search(r"(\d+) writes, (\d+) changes, (\d+) times ready, (\d+) gaps", output)
        self.assertGreater(int(counts[1]), 20)
        self.assertGreater(int(counts[3]), 1)

    def _load_with(self, disturb, seconds, projects=24):
        """Runs the counters while disturb(cluster, load) does its work; they must end exact."""
        cluster = self.start_cluster()
        load = Running(self, program("load"), seeds(cluster), projects, 4, seconds, timeout_s=200)
        disturb(cluster, load)
        output = load.wait()
        self.report(output.strip().splitlines()[-1])
        counts = re.search(r"acknowledged (\d+) unknown (\d+) failed (\d+)", output)
        self.assertGreater(int(counts[1]), 0)
        self.assertEqual((counts[2], counts[3]), ("0", "0"), output[-4000:])

    @long
    @sanitizer
    def test_counters_are_exact_when_leaders_are_killed(self):
        kills = 2 if Options.sanitizer() else 6

        def kill(cluster, load):
            for _ in range(kills):
                time.sleep(1)
                victim = max(cluster.nodes, key=lambda node: len(node.led_shards()))
                victim.kill()
                time.sleep(1)
                victim.start()
                cluster.wait_ready()

        self._load_with(kill, seconds=kills * 4)

    @long
    def test_counters_are_exact_when_leaders_are_paused(self):
        def pause(cluster, load):
            for _ in range(3):
                time.sleep(1)
                victim = max(cluster.nodes, key=lambda node: len(node.led_shards()))
                victim.pause()
                time.sleep(4)
                victim.resume()
                cluster.wait_ready()

        self._load_with(pause, seconds=18)

    @long
    def test_counters_are_exact_through_a_rolling_restart(self):
        def restart(cluster, load):
            for node in cluster.nodes:
                time.sleep(1)
                node.stop()
                node.start()
                cluster.wait_ready()

        self._load_with(restart, seconds=15)


class ClientPackageTest(ClusterTest):
    @quick
    def test_only_ikv_symbols_are_exported(self):
        for library, options in (("libinvokekv.so", ["-D"]), ("libinvokekv.a", ["-g"])):
            path = os.path.join(build_directory(), "client", library)
            command = ["nm", *options, "--defined-only", "--format=posix", path]
            output = subprocess.run(command, check=True, capture_output=True, text=True).stdout
            names = [line.split()[0] for line in output.splitlines() if len(line.split()) > 1]
            self.assertIn("ikv_open", [name.split("@")[0] for name in names])
            strangers = [name for name in names if not re.match(r"ikv_|INVOKEKV_", name)]
            self.assertEqual(strangers, [], library)
            if options == ["-D"]:
                unversioned = [name for name in names if re.fullmatch(r"ikv_\w+", name)]
                self.assertEqual(unversioned, [])

    @quick
    def test_header_declares_what_the_library_exports(self):
        with open(os.path.join(ROOT, "client/include/invoke_kv.h"), encoding="utf-8") as file:
            declared = set(re.findall(r"^IKV_API [^;(]*?\b(ikv_\w+)\(", file.read(), re.MULTILINE))
        path = os.path.join(build_directory(), "client/libinvokekv.so")
        output = subprocess.run(["nm", "-D", "--defined-only", path], check=True, capture_output=True, text=True)
        exported = set(re.findall(r"\b(ikv_\w+)@@", output.stdout))
        self.assertEqual(declared, exported)

    def test_installed_library_and_examples(self):
        """Installs, compiles an example with nothing but pkg-config, and runs it: shared and static."""
        if Options.sanitizer():
            self.skipTest("the installed libraries are those of the Release build")
        cluster = self.start_cluster()
        with tempfile.TemporaryDirectory() as prefix:
            for component in ("library", "client"):
                command = ["cmake", "--install", build_directory(), "--component", component, "--prefix", prefix]
                subprocess.run(command, check=True, capture_output=True)
            library = next(
                folder for folder, _, names in os.walk(prefix) if "libinvokekv.a" in names
            )
            environment = {**os.environ, "LD_LIBRARY_PATH": library}
            environment["PKG_CONFIG_PATH"] = os.path.join(library, "pkgconfig")
            for kind in ("shared", "static"):
                flags = self._pkg_config(environment, kind, prefix, library)
                binary = os.path.join(prefix, f"hello-{kind}")
                source = os.path.join(ROOT, "client/examples/hello.c")
                subprocess.run(["cc", "-std=c11", "-Wall", "-Werror", source, "-o", binary, *flags], check=True)
                output = subprocess.run(
                    [binary, seeds(cluster)], check=True, capture_output=True, text=True, env=environment
                ).stdout
                self.assertIn("greeting: hello\n", output)
            self.assertIn("visits: 2\n", output)
            self._check_cpp(prefix)

    def _pkg_config(self, environment, kind, prefix, library):
        """The flags as pkg-config has them, with the prefix it was configured for replaced."""
        command = ["pkg-config", "--define-variable=prefix=" + prefix, "--cflags", "--libs"]
        command += ["--static"] if kind == "static" else []
        flags = subprocess.run(
            [*command, "invokekv"], check=True, capture_output=True, text=True, env=environment
        ).stdout.split()
        flags += [f"-I{prefix}/include", f"-L{library}"]
        if kind == "static":
            flags = [flag if flag != "-linvokekv" else os.path.join(library, "libinvokekv.a") for flag in flags]
        return flags

    def _check_cpp(self, prefix):
        """The header is C++ as well."""
        command = ["c++", "-x", "c++", "-fsyntax-only", "-Wall", "-Wextra", "-Werror", f"-I{prefix}/include", "-"]
        text = "#include <invoke_kv.h>\nint main() { return ikv_text(\"a\").size == 1 ? 0 : 1; }\n"
        subprocess.run(command, input=text, check=True, text=True)

    @quick
    @asan
    def test_examples(self):
        cluster = self.start_cluster()
        examples = os.path.join(build_directory(), "client")
        hello = os.path.join(examples, "example_hello")
        self.assertIn("visits: 1\n", Running(self, hello, seeds(cluster)).wait())
        self.assertIn("visits: 2\n", Running(self, hello, seeds(cluster)).wait())
        pipeline = os.path.join(examples, "example_pipeline")
        self.assertIn("5000 written, 0 failed", Running(self, pipeline, seeds(cluster), 5000).wait())
        watch = Running(self, os.path.join(examples, "example_watch"), seeds(cluster), "watched", "a", 3)
        self.assertIn("ready behind", watch.process.stdout.readline())
        with cluster[1].client("watched") as client:
            for command in (("SET", "a1", "x"), ("SET", "b", "x"), ("SET", "a2", "x"), ("DEL", "a1")):
                client.call(*command)
        output = watch.wait()
        self.assertEqual(re.findall(r"\d+ (\w+ \w+)", output), ["set a1", "set a2", "del a1"])
