"""The command line against real clusters: every command, export and import, watching, status."""

import base64
import json
import os
import pty
import re
import select
import signal
import subprocess
import tempfile
import threading
import time

from harness.case import ClusterTest, asan, quick, sanitizer
from harness.cluster import ROOT, Options, REPORTS
from harness.resp import Client, ReplyError, project_in_shard
from harness.wait import wait_for

OK, NO, USAGE, REFUSED, UNREACHABLE, UNKNOWN, LOCAL, INTERRUPTED = 0, 1, 2, 3, 4, 5, 6, 130


def program():
    build = os.path.dirname(os.path.dirname(Options.binary))
    return os.path.join(build, "client/cli/invoke-kv")


class Result:
    def __init__(self, code, out, err):
        self.code, self.out, self.err = code, out, err

    @property
    def text(self):
        return self.out.decode()

    def __repr__(self):
        return f"exit {self.code}, out {self.out[:2000]!r}, err {self.err[-2000:]!r}"


class CliTest(ClusterTest):
    def setUp(self):
        folder = tempfile.TemporaryDirectory(prefix="ikv-cli-")
        self.addCleanup(folder.cleanup)
        self.folder = folder.name
        self.environment = {
            name: value for name, value in os.environ.items() if not name.startswith("INVOKE_KV_")
        }
        self.environment.update(HOME=self.folder, XDG_CONFIG_HOME="")

    def use(self, cluster):
        self.environment["INVOKE_KV_SERVER"] = ",".join(f"127.0.0.1:{n.port}" for n in cluster.nodes)

    def path(self, name, content=None):
        path = os.path.join(self.folder, name)
        if content is not None:
            mode = "wb" if isinstance(content, bytes) else "w"
            with open(path, mode, **({} if mode == "wb" else {"encoding": "utf-8"})) as file:
                file.write(content)
        return path

    def spawn(self, *arguments, **options):
        process = subprocess.Popen(
            [program(), *(a if isinstance(a, bytes) else str(a) for a in arguments)],
            env={**self.environment, **options.pop("environment", {})},
            stdin=options.pop("stdin", subprocess.DEVNULL),
            stdout=options.pop("stdout", subprocess.PIPE),
            stderr=options.pop("stderr", subprocess.PIPE),
        )
        self.addCleanup(_end, process)
        return process

    def run_cli(self, *arguments, expect=OK, stdin=b"", environment=None, timeout_s=120):
        process = self.spawn(*arguments, stdin=subprocess.PIPE, environment=environment or {})
        out, err = process.communicate(stdin, timeout=timeout_s * Options.slowdown())
        result = Result(process.returncode, out, err.decode(errors="replace"))
        self.assertIsNone(REPORTS.search(result.err), result)
        if expect is not None:
            self.assertEqual(result.code, expect, f"{arguments}: {result}")
        return result

    def json(self, *arguments, expect=OK, **options):
        return json.loads(self.run_cli(*arguments, "--json", expect=expect, **options).out)

    # --- no cluster needed ----------------------------------------------------------------------

    @quick
    @asan
    def test_help_names_every_command_and_option(self):
        overview = self.run_cli("--help").text
        manual = self.run_cli("manual").text.replace("\\-", "-").replace("\\fB", "").replace("\\fR", "")
        scripts = {shell: self.run_cli("completion", shell).text for shell in ("bash", "zsh", "fish")}
        commands = re.findall(r"^  ([a-z]+(?: [a-z]+)*)  ", overview.split("Options of all")[0], re.M)
        self.assertGreater(len(commands), 20)
        common = re.findall(r"--([a-z0-9-]+)", overview.split("Options of all commands:")[1].split("Exit")[0])
        for command in commands:
            text = self.run_cli(*command.split(), "--help").text
            self.assertTrue(text.startswith(f"Usage: invoke-kv {command}"), text)
            self.assertRegex(manual, rf'\.SS "{command}[ "]')
            section = manual.split(f'.SS "{command}')[1].split(".SS")[0].split(".SH")[0]
            options = re.findall(r"^  (?:-.,|   ) --([a-z0-9-]+)", text, re.M)
            for option in options:
                self.assertIn(f"--{option}", section)
                for shell in ("bash", "zsh"):
                    self.assertIn(f"--{option}", scripts[shell])
                self.assertIn(f"-l {option} ", scripts["fish"])
        for option in set(common) - {""}:
            self.assertIn(f"--{option}", manual.split(".SH OPTIONS")[1])
        with open(os.path.join(ROOT, "docs/cli.md"), encoding="utf-8") as file:
            page = file.read()
        for command in commands:
            self.assertIn(f"`{command}", page)
        for code in (OK, NO, USAGE, REFUSED, UNREACHABLE, UNKNOWN, LOCAL, INTERRUPTED):
            self.assertRegex(overview, rf"(?m)^  {code} ")
            self.assertRegex(page, rf"(?m)^\| {code} \|")

    def test_manual_page_and_scripts_are_well_formed(self):
        page = self.path("invoke-kv.1", self.run_cli("manual").out)
        for command in (["groff", "-man", "-Tutf8", "-ww", "-z", page], ["man", "--warnings", "-l", page]):
            try:
                result = subprocess.run(command, capture_output=True, text=True, check=False,
                                        env={**os.environ, "MANPAGER": "cat"})
            except FileNotFoundError:
                continue
            self.assertEqual((result.returncode, result.stderr), (0, ""), command)
        for shell in ("bash", "zsh", "fish"):
            script = self.path(shell, self.run_cli("completion", shell).out)
            try:
                result = subprocess.run([shell, "-n", script], capture_output=True, text=True, check=False)
            except FileNotFoundError:
                continue
            self.assertEqual((result.returncode, result.stderr), (0, ""), shell)

    def _complete(self, *words):
        script = self.run_cli("completion", "bash").text + (
            f"\nCOMP_WORDS=({' '.join(repr(w) for w in words)}); COMP_CWORD={len(words) - 1}\n"
            'compopt() { :; }; _invoke_kv; printf "%s\\n" "${COMPREPLY[@]}"\n'
        )
        result = subprocess.run(["bash", "-c", script], capture_output=True, text=True, check=True)
        self.assertEqual(result.stderr, "")
        return result.stdout.split()

    @quick
    def test_completion_completes(self):
        self.assertEqual(set(self._complete("invoke-kv", "ex")), {"export"})
        self.assertEqual(set(self._complete("invoke-kv", "project", "token", "")), {"add", "list", "revoke"})
        self.assertEqual(set(self._complete("invoke-kv", "import", "--strategy", "")), {"merge", "replace"})
        self.assertEqual(set(self._complete("invoke-kv", "export", "--format", "")), {"object", "lines"})
        self.assertEqual(set(self._complete("invoke-kv", "-p", "x", "set", "--ttl", "5m", "--if-m")), {"--if-missing"})

    @quick
    @asan
    def test_usage_errors(self):
        for arguments in (
            (), ("nope",), ("get",), ("get", "a", "b"), ("set",), ("project",), ("get", "a", "--nope"),
            ("set", "a", "b", "--ttl", "5"), ("set", "a", "b", "--ttl", "5m", "--keep-ttl"),
            ("set", "a", "b", "--if-missing", "--if-exists"), ("set", "a", "b", "--file", "x"),
            ("get", "a", "--timeout", "0s"), ("get", "a", "--consistency", "best"), ("get", ""),
            ("get", "?", "--key-base64"), ("incr", "a", "x"), ("list", "--limit", "0"), ("watch", "--from", "x"),
            ("export", "--format", "xml"), ("import", "--strategy", "mix"), ("import", "--progress", "x"),
            ("bench", "--reads", "101"), ("project", "quota", "p", "1.5GiB"), ("completion", "tcsh"),
            ("project", "create", "p", "--expires", "1d"), ("project", "token", "add", "p", "all"),
            ("get", "a", "--server", "redis://x:y@"), ("get", "a", "--config", self.path("missing")),
            ("get", "a", "--project", "\x01"), ("get", "x" * 65537), ("get", "a", "--user", "admin"),
        ):
            result = self.run_cli(*arguments, expect=USAGE)
            self.assertRegex(result.err, r"^invoke-kv: .", arguments)
            self.assertEqual(result.out, b"")
        error = json.loads(self.run_cli("get", "--json", expect=USAGE).err)["error"]
        self.assertEqual(error["exit"], USAGE)

    @quick
    @asan
    def test_no_node_answers(self):
        started = time.monotonic()
        result = self.run_cli("get", "a", "--server", "127.0.0.1:1", "--timeout", "300ms", expect=UNREACHABLE)
        self.assertIn("check --server", result.err)
        self.run_cli("cluster", "status", "--server", "127.0.0.1:1", "-t", "300ms", expect=UNREACHABLE)
        self.assertLess(time.monotonic() - started, 10 * Options.slowdown())

    # --- keys -----------------------------------------------------------------------------------

    @quick
    @asan
    def test_keys(self):
        cluster = self.start_cluster()
        self.use(cluster)
        self.run_cli("set", "a", "hello")
        self.assertEqual(self.run_cli("get", "a").out, b"hello")
        self.assertEqual(self.json("get", "a"), {"key": "a", "found": True, "value": "hello"})
        self.assertEqual(self.run_cli("get", "b", expect=NO).out, b"")
        self.assertEqual(self.json("get", "b", expect=NO), {"key": "b", "found": False})
        self.assertEqual(self.run_cli("has", "a").out, b"true\n")
        self.assertEqual(self.run_cli("has", "b", expect=NO).out, b"false\n")
        self.assertEqual(self.json("has", "b", expect=NO), {"key": "b", "exists": False})
        self.assertEqual(self.run_cli("ttl", "a").out, b"never\n")
        self.run_cli("set", "a", "x", "--if-missing", expect=NO)
        self.assertEqual(self.json("set", "new", "x", "--if-exists", expect=NO), {"stored": False})
        self.run_cli("set", "a", "x", "--if-exists", "--ttl", "5m")
        ttl = int(self.run_cli("ttl", "a").out)
        self.assertTrue(200000 < ttl <= 300000, ttl)
        self.run_cli("set", "a", "y", "--keep-ttl")
        self.assertLessEqual(self.json("ttl", "a")["ttl_ms"], ttl)
        self.run_cli("set", "a", "y")
        self.assertIsNone(self.json("ttl", "a")["ttl_ms"])
        version = cluster[1].call("GETVER", "a")[1]
        self.run_cli("set", "a", "z", "--if-version", version + 1, expect=NO)
        self.run_cli("set", "a", "z", "--if-version", version)
        self.assertEqual(self.run_cli("incr", "n").out, b"1\n")
        self.assertEqual(self.run_cli("incr", "n", "-43").out, b"-42\n")
        self.assertEqual(self.json("incr", "n", "2"), {"value": -40})
        self.assertIn("not an integer", self.run_cli("incr", "a", expect=REFUSED).err)
        self.run_cli("set", "n", "9223372036854775807")
        self.run_cli("incr", "n", expect=REFUSED)
        self.assertEqual(self.run_cli("delete", "a", "n", "none").out, b"2\n")
        self.assertEqual(self.json("delete", "a", expect=NO), {"deleted": 0})

    @quick
    @asan
    def test_values_of_any_bytes_from_everywhere(self):
        self.use(self.start_cluster())
        value = bytes(range(256)) * 5000
        path = self.path("value", value)
        self.run_cli("set", "f", "--file", path)
        self.assertEqual(self.run_cli("get", "f").out, value)
        self.run_cli("set", "s", stdin=value[::-1])
        self.assertEqual(self.run_cli("get", "s").out, value[::-1])
        self.run_cli("set", "s", "--file", "-", stdin=b"")
        self.assertEqual(self.run_cli("get", "s").out, b"")
        self.assertEqual(base64.b64decode(self.json("get", "f")["value_base64"]), value)
        key = base64.b64encode(b"\x00\xff\n").decode()
        self.run_cli("set", "-b", key, "binary")
        self.assertEqual(self.json("get", "-b", key), {"key_base64": key, "found": True, "value": "binary"})
        self.assertEqual(self.run_cli("list", "-0").out, b"\x00\xff\n\x00f\x00s\x00")
        lines = [json.loads(line) for line in self.run_cli("list", "--json").out.splitlines()]
        self.assertEqual(lines, [{"key_base64": key}, {"key": "f"}, {"key": "s"}])
        self.run_cli("set", "x", "--file", self.path("missing"), expect=LOCAL)
        self.run_cli("set", "x", "--file", self.folder, expect=LOCAL)
        result = self.run_cli("set", "x", stdin=b"x" * (16 * 2**20 + 1), expect=REFUSED)
        self.assertIn("TOOBIG", result.err)
        self.run_cli("set", "--", "--x", "-y")
        self.assertEqual(self.run_cli("get", "--", "--x").out, b"-y")

    @quick
    def test_list_and_clear(self):
        cluster = self.start_cluster()
        self.use(cluster)
        with cluster[1].client() as client:
            client.pipeline([("SET", f"{'user' if i % 2 else 'x*'}:{i:05d}", i) for i in range(5000)])
        names = self.run_cli("list", "user:").text.splitlines()
        self.assertEqual(names, [f"user:{i:05d}" for i in range(1, 5000, 2)])
        self.assertEqual(self.run_cli("list", "x*:", "--limit", "3").text, "x*:00000\nx*:00002\nx*:00004\n")
        self.assertEqual(self.run_cli("list", "none").out, b"")
        self.assertEqual(self.json("usage")["keys"], 5000)
        self.assertIn("keys     5,000", self.run_cli("usage").text)
        self.run_cli("clear", expect=USAGE)
        self.assertEqual(self.json("usage")["keys"], 5000)
        code, output = self._on_terminal("clear", answer="n\n")
        self.assertEqual(code, NO)
        self.assertIn("Delete all keys of project default? [y/N]", output)
        self.assertEqual(self.json("usage")["keys"], 5000)
        code, _ = self._on_terminal("clear", answer="y\n")
        self.assertEqual((code, self.json("usage")["keys"]), (OK, 0))
        self.run_cli("set", "a", "b")
        self.assertEqual(self.json("clear", "--yes"), {"cleared": True})
        self.run_cli("get", "a", expect=NO)

    def _on_terminal(self, *arguments, answer=None):
        """Exit code and everything that a terminal would show."""
        master, slave = pty.openpty()
        process = self.spawn(*arguments, stdin=slave, stdout=slave, stderr=slave)
        os.close(slave)
        output = b""
        deadline = time.monotonic() + 60 * Options.slowdown()
        if answer is not None:
            os.write(master, answer.encode())
        while time.monotonic() < deadline:
            ready, _, _ = select.select([master], [], [], 0.2)
            if not ready:
                continue
            try:
                data = os.read(master, 65536)
            except OSError:
                break
            if not data:
                break
            output += data
        os.close(master)
        return process.wait(30), output.decode(errors="replace")

    @quick
    def test_terminals_are_not_steered_by_values(self):
        self.use(self.start_cluster())
        self.run_cli("set", "a", stdin=b"x\x1b[2Jy\xc2\x9bz\xff\xc3\xbc")
        code, output = self._on_terminal("get", "a")
        self.assertEqual(code, OK)
        self.assertNotIn("\x1b", output)
        self.assertIn("x\\x1b[2Jy", output)

    # --- settings -------------------------------------------------------------------------------

    @quick
    def test_settings_from_options_variables_and_file(self):
        cluster = self.start_cluster()
        port = cluster[2].port
        os.mkdir(os.path.join(self.folder, ".config"))
        self.path(".config/invoke-kv.conf", f"# mine\nserver = 127.0.0.1:{port}\nproject = from-file\n")
        self.run_cli("set", "a", "file")
        self.run_cli("set", "a", "variable", environment={"INVOKE_KV_PROJECT": "from-variable"})
        self.run_cli("set", "a", "option", "-p", "from-option", environment={"INVOKE_KV_PROJECT": "from-variable"})
        for project, value in (("from-file", b"file"), ("from-variable", b"variable"), ("from-option", b"option")):
            self.assertEqual(cluster[1].call("GET", "a", project=project), value)
        other = self.path("other.conf", f"server = 127.0.0.1:{port}\nproject = other\n")
        self.run_cli("set", "a", "other", "--config", other)
        self.run_cli("get", "a", environment={"INVOKE_KV_CONFIG": other})
        self.path(".config/invoke-kv.conf", "servers = x\n")
        result = self.run_cli("get", "a", expect=USAGE)
        self.assertIn("invoke-kv.conf:1: unknown key 'servers'", result.err)
        url = f"redis://by-url:any@127.0.0.1:{port}"
        self.path(".config/invoke-kv.conf", "")
        self.run_cli("set", "a", "url", "--server", url)
        self.assertEqual(cluster[1].call("GET", "a", project="by-url"), b"url")

    @quick
    def test_projects_and_tokens(self):
        cluster = self.make_cluster()
        cluster.require_authentication()
        cluster.start()
        self.use(cluster)
        secret = self.path("secret", cluster.admin_secret + "\n")
        admin = ("--user", "admin", "--secret-file", secret)
        token = self.run_cli("project", "create", "shop", "--quota", "1KiB", "--access", "readwrite", *admin).text
        self.assertRegex(token, r"^ikv_[0-9a-f]{16}_\S+\n$")
        token_file = self.path("token", token)
        mine = ("-p", "shop", "--token-file", token_file)
        self.run_cli("set", "a", "b", *mine)
        self.run_cli("set", "a", "b", "-p", "shop", "--token", token.strip())
        self.assertEqual(self.json("usage", *mine)["quota_bytes"], 1024)
        result = self.run_cli("set", "a", "x" * 2000, *mine, expect=REFUSED)
        self.assertIn("QUOTA", result.err)
        self.assertIn("raise the quota", result.err)
        self.run_cli("set", "a", "b", "-p", "shop", "--token", token.strip()[:-1] + "?", expect=REFUSED)
        self.run_cli("project", "quota", "shop", "1MiB", *admin)
        self.run_cli("set", "a", "x" * 2000, *mine)
        self.assertEqual(self.json("project", "info", "shop", *admin)["quota_bytes"], 1 << 20)
        reader = self.json("project", "token", "add", "shop", "readonly", "--expires", "1d", *admin)["token"]
        self.run_cli("get", "a", "-p", "shop", "--token", reader)
        self.run_cli("set", "a", "b", "-p", "shop", "--token", reader, expect=REFUSED)
        tokens = self.json("project", "token", "list", "shop", *admin)["tokens"]
        self.assertEqual({t["access"].lower() for t in tokens}, {"readwrite", "readonly"})
        self.assertEqual({t["expires_ms"] is None for t in tokens}, {True, False})
        self.assertIn(reader[4:20], self.run_cli("project", "token", "list", "shop", *admin).text)
        self.run_cli("project", "token", "revoke", "shop", reader[4:20], *admin)
        self.run_cli("project", "token", "revoke", "shop", reader[4:20], *admin, expect=NO)
        self.run_cli("get", "a", "-p", "shop", "--token", reader, expect=REFUSED)
        self.run_cli("project", "list", *mine, expect=REFUSED)
        for i in range(3):
            self.run_cli("project", "create", f"p{i}", *admin)
        self.assertEqual(set(self.run_cli("project", "list", *admin).text.split()), {"shop", "p0", "p1", "p2"})
        self.assertEqual(set(self.json("project", "list", *admin)["projects"]), {"shop", "p0", "p1", "p2"})
        self.run_cli("project", "create", "p0", *admin, expect=REFUSED)
        self.run_cli("project", "delete", "p0", *admin, expect=USAGE)
        self.assertEqual(self.json("project", "delete", "p0", "--yes", *admin)["deleted"], True)
        self.run_cli("project", "delete", "p0", "--yes", *admin, expect=NO)
        self.run_cli("cluster", "status", *admin)
        self.run_cli("cluster", "status", expect=REFUSED)
        # An import under a token, replace included.
        data = self.path("data.json", json.dumps({"k": 1}))
        self.run_cli("import", data, *mine, "--strategy", "replace", "--yes")
        self.assertEqual(json.loads(self.run_cli("export", *mine).out), {"k": 1})

    @quick
    @asan
    def test_tls(self):
        cluster = self.make_cluster()
        cluster.use_tls(clients="required")
        cluster.start()
        self.use(cluster)
        self.environment["INVOKE_KV_SERVER"] = "rediss://" + self.environment["INVOKE_KV_SERVER"]
        authority = self.environment["INVOKE_KV_CA_FILE"] = cluster.certificate("ca.pem")
        self.run_cli("set", "a", "b")
        self.assertEqual(self.run_cli("get", "a").out, b"b")
        self.assertEqual(self.json("cluster", "status")["health"], "good")
        result = self.run_cli("get", "a", "--tls-name", "other.example.org", "-t", "1s", expect=UNREACHABLE)
        self.assertIn("--tls-name", result.err)
        self.run_cli("get", "a", "--ca-file", self.path("none", "no certificate"), expect=LOCAL)
        del self.environment["INVOKE_KV_CA_FILE"]
        self.assertIn("--ca-file", self.run_cli("get", "a", "-t", "1s", expect=UNREACHABLE).err)
        self.path("tls.conf", f"ca_file = {authority}\n")
        self.run_cli("get", "a", "--config", self.path("tls.conf"))

    # --- export and import ----------------------------------------------------------------------

    @quick
    @asan
    def test_lines_round_trip_loses_nothing(self):
        cluster = self.start_cluster()
        self.use(cluster)
        expected = {b"\x00\xff": b"\xfe" * 100, b"a\nb": b"", "schlüssel".encode(): "wért\u2028".encode(),
                    b'"\\': b'{"json": 1}', b"x" * 65536: b"long key", b"big": os.urandom(3 << 20)}
        with cluster[1].client("from") as client:
            for key, value in expected.items():
                client.call("SET", key, value)
            client.call("SET", "soon", "x", "PX", 3600000)
        path = self.path("all.jsonl")
        self.assertEqual(self.json("export", path, "-p", "from")["exported"], 7)
        self.assertEqual(os.stat(path).st_mode & 0o600, 0o600)
        with open(path, encoding="utf-8") as file:
            self.assertEqual(len([json.loads(line) for line in file]), 9)
        for strategy in ("merge", "replace"):
            result = self.json("import", path, "-p", strategy, "--strategy", strategy, "--yes")
            self.assertEqual((result["imported"], result["strategy"]), (7, strategy))
            with cluster[2].client(strategy) as client:
                self.assertEqual(client.call("DBSIZE"), 7)
                for key, value in expected.items():
                    self.assertEqual(client.call("GET", key), value)
                    self.assertEqual(client.call("PTTL", key), -1)
                self.assertTrue(3000000 < client.call("PTTL", "soon") <= 3600000)

    @quick
    @asan
    def test_object_form(self):
        cluster = self.start_cluster()
        self.use(cluster)
        text = '{"a": {"b": [1, 2.50, 1e400, 12345678901234567890123]}, "ü\\u00e9": "x\\n", "n": null}'
        self.run_cli("import", stdin=text.encode())
        self.assertEqual(cluster[1].call("GET", "a"), b'{"b": [1, 2.50, 1e400, 12345678901234567890123]}')
        self.assertEqual(cluster[1].call("GET", "üé"), b'"x\\n"')
        out = self.run_cli("export").out
        self.assertEqual(json.loads(out), json.loads(text))
        self.run_cli("import", "-p", "again", stdin=out)
        self.assertEqual(self.run_cli("export", "-p", "again").out, out)
        self.assertEqual(json.loads(self.run_cli("export", "--prefix", "n").out), {"n": None})
        self.assertEqual(self.run_cli("export", "-p", "empty").out, b"{}\n")
        self.run_cli("set", "n", "1", "--ttl", "1h")
        self.assertIn("1 keys have an expiry", self.run_cli("export").err)
        path = self.path("kept.json", "before")
        for key, value, words in ((b"t", b"plain", 'the value of "t" is not JSON'), (b"\xff", b"1", "is not UTF-8")):
            cluster[1].call("SET", key, value)
            result = self.run_cli("export", path, expect=LOCAL)
            self.assertIn(words, result.err)
            self.assertIn("--format lines", result.err)
            cluster[1].call("DEL", key)
        with open(path, encoding="utf-8") as file:
            self.assertEqual(file.read(), "before")
        self.assertEqual(sorted(os.listdir(self.folder)), ["kept.json"])

    @quick
    @asan
    def test_bad_files(self):
        self.use(self.start_cluster())
        good = b'{"invoke_kv_lines":1}\n{"key":"a","value":"1"}\n{"invoke_kv_end":1}\n'
        for data, words in (
            (b"", "the file is empty"), (b"[]", "expected an object"), (b'{"a":1', "ends within"),
            (b'{"a":1}x', "something follows"), (b'{"a":\xff}', "expected a value"), (b'{"":1}', "a key has"),
            (b'{"a":"\xff"}', "not UTF-8"), (good[:-30], "ends too early"), (good[:-20], "cut off"), (good + good, "put together"),
            (b'{"k' + b"x" * 70000 + b'":1}', "65536"), (good.replace(b"end\":1", b"end\":2"), "missing"),
            (b'{"a":' + b"[" * 2000 + b"]" * 2000 + b"}", "nested too deeply"),
        ):
            for strategy in ("merge", "replace"):
                result = self.run_cli("import", "-p", strategy, "--strategy", strategy, "--yes", stdin=data, expect=LOCAL)
                self.assertIn(words, result.err)
                self.assertRegex(result.err, r"standard input: line \d+: ")
        self.assertIn("NOPROJECT", self.run_cli("usage", "-p", "replace", expect=NO).err)
        self.run_cli("import", self.path("missing"), expect=LOCAL)
        self.assertEqual(self.json("import", "--dry-run", "-p", "dry", stdin=good)["checked"], 1)
        self.json("import", "--dry-run", "-p", "dry", "--strategy", "replace", stdin=good)
        self.run_cli("usage", "-p", "dry", expect=NO)
        # A key that comes twice: the last one stays, whatever the strategy.
        for strategy in ("merge", "replace"):
            self.run_cli("import", "-p", strategy, "--strategy", strategy, "--yes", stdin=b'{"a":1,"b":2,"a":3}')
            self.assertEqual(json.loads(self.run_cli("export", "-p", strategy, "--prefix", "a").out), {"a": 3})

    def test_a_hundred_thousand_keys(self):
        cluster = self.start_cluster()
        self.use(cluster)
        path = self.path("in.jsonl")
        with open(path, "w", encoding="utf-8") as file:
            for i in range(100000):
                entry = {"key": f"key-{i:06d}", "value": f"value {i}"}
                if i % 7 == 0:
                    entry["ttl_ms"] = 10**10
                file.write(json.dumps(entry) + "\n")
        result = self.run_cli("import", path)
        self.assertRegex(result.err, r"imported 100,000 keys, .* keys/s")
        self.report(result.err.strip().splitlines()[-1])
        out = self.path("out.jsonl")
        result = self.run_cli("export", out)
        self.report(result.err.strip().splitlines()[-1])
        with open(out, encoding="utf-8") as file:
            lines = [json.loads(line) for line in file][1:-1]
        self.assertEqual([line["key"] for line in lines], [f"key-{i:06d}" for i in range(100000)])
        self.assertEqual([line["value"] for line in lines], [f"value {i}" for i in range(100000)])
        self.assertEqual([i for i, line in enumerate(lines) if "ttl_ms" in line], list(range(0, 100000, 7)))
        self.assertEqual(cluster[3].call("DBSIZE"), 100000)

    def test_export_and_import_while_leaders_die(self):
        cluster = self.start_cluster()
        self.use(cluster)
        self.environment["INVOKE_KV_TIMEOUT"] = "30s"
        path = self.path("in.jsonl")
        with open(path, "w", encoding="utf-8") as file:
            for i in range(60000):
                file.write(json.dumps({"key": f"key-{i:06d}", "value": "x" * 200}) + "\n")
        out = self.path("out.jsonl")
        for arguments in (("import", path), ("export", out)):
            process = self.spawn(*arguments)
            time.sleep(0.15)
            victim = cluster.leader_of()
            victim.kill()
            _, err = process.communicate(timeout=120 * Options.slowdown())
            self.assertEqual(process.returncode, OK, err)
            victim.start()
            cluster.wait_ready()
        self.assertEqual(cluster[1].call("DBSIZE"), 60000)
        with open(out, encoding="utf-8") as file:
            keys = [json.loads(line)["key"] for line in list(file)[1:-1]]
        self.assertEqual(keys, [f"key-{i:06d}" for i in range(60000)])

    @asan
    def test_replace_is_one_step_for_every_reader(self):
        cluster = self.start_cluster()
        self.use(cluster)
        sizes = (3000, 1000)
        files = [
            self.path(f"{n}.json", json.dumps({f"{n}-{i:04d}": {"generation": n} for i in range(n)})) for n in sizes
        ]
        self.run_cli("import", files[0], "--strategy", "replace", "--yes")
        stop = threading.Event()
        wrong, looks = [], [0, 0, 0]

        def read(number):
            with cluster[number + 1].client() as client:
                while not stop.is_set():
                    commands = [("MULTI",), ("DBSIZE",), ("EXISTS", "3000-0000"), ("EXISTS", "1000-0999"), ("EXEC",)]
                    seen = client.pipeline(commands)[-1]
                    if seen not in ([3000, 1, 0], [1000, 0, 1]):
                        wrong.append(seen)
                    looks[number] += 1

        threads = [threading.Thread(target=_guard, args=(read, i, wrong)) for i in range(3)]
        for thread in threads:
            thread.start()
        for i in range(10):
            self.run_cli("import", files[(i + 1) % 2], "--strategy", "replace", "--yes")
        stop.set()
        for thread in threads:
            thread.join()
        self.assertEqual(wrong[:3], [])
        self.assertGreater(min(looks), 10)
        self.report(f"{sum(looks)} looks during 10 replacements")

    @quick
    @asan
    def test_replace_refuses_before_it_touches_anything(self):
        cluster = self.start_cluster()
        self.use(cluster)
        self.run_cli("project", "create", "p", "--quota", "100KiB")
        mine = ("-p", "p", "--strategy", "replace", "--yes")
        self.run_cli("set", "old", '"here"', "-p", "p")
        before = self.json("usage", "-p", "p")
        large = {f"k{i}": "x" * 1000 for i in range(200)}
        result = self.run_cli("import", *mine, stdin=json.dumps(large).encode(), expect=REFUSED)
        self.assertIn("quota of project p is 102400; nothing was touched", result.err)
        self.run_cli("project", "quota", "p", "1GiB")
        for entries in (
            {"k": "x" * (16 << 20)}, {f"k{i}": "x" * (1 << 20) for i in range(18)},
            {f"k{i}": 1 for i in range(40000)},
        ):
            result = self.run_cli("import", *mine, stdin=json.dumps(entries).encode(), expect=REFUSED)
            self.assertIn("nothing was touched", result.err)
        lines = "".join(json.dumps({"key": f"k{i}", "value": "", "ttl_ms": 10**9}) + "\n" for i in range(9001))
        self.run_cli("import", *mine, "--format", "lines", stdin=lines.encode(), expect=REFUSED)
        after = self.json("usage", "-p", "p")
        changing = {"quota_bytes": 0, "used_percent": 0, "leader": 0}
        self.assertEqual({**after, **changing}, {**before, **changing})
        self.assertEqual(json.loads(self.run_cli("export", "-p", "p").out), {"old": "here"})
        # Exactly the quota fits, one byte more does not, though the old keys are still there.
        self.run_cli("project", "quota", "p", "1000")
        self.run_cli("import", *mine, stdin=json.dumps({"k": "x" * 997}).encode())
        self.run_cli("import", *mine, stdin=json.dumps({"j": "x" * 998}).encode(), expect=REFUSED)
        self.assertEqual(self.run_cli("list", "-p", "p").text, "k\n")
        self.run_cli("import", *mine, stdin=json.dumps({"j": "x" * 997}).encode())
        # As many as are promised.
        self.run_cli("project", "quota", "p", "1GiB")
        self.run_cli("import", *mine, stdin=json.dumps({f"k{i}": 1 for i in range(32000)}).encode())
        self.run_cli("import", *mine, "--format", "lines", stdin="".join(lines.splitlines(True)[:9000]).encode())
        self.assertEqual(self.json("usage", "-p", "p")["keys"], 9000)
        self.run_cli("import", "-p", "p", "--strategy", "replace", stdin=b"{}", expect=USAGE)

    @quick
    def test_merge_stops_at_the_quota_and_says_where(self):
        self.use(self.start_cluster())
        self.run_cli("project", "create", "p", "--quota", "100000")
        data = json.dumps({f"k{i:05d}": "x" * 90 for i in range(3000)})
        result = self.run_cli("import", "-p", "p", stdin=data.encode(), expect=REFUSED)
        self.assertIn("QUOTA", result.err)
        stored = int(re.search(r"(\d+) keys of the file are stored", result.err)[1])
        self.assertEqual(self.json("usage", "-p", "p")["keys"], stored)
        self.assertTrue(900 < stored < 1100, stored)

    @quick
    def test_interrupted_import(self):
        cluster = self.start_cluster()
        self.use(cluster)
        process = self.spawn("import", "--format", "lines", stdin=subprocess.PIPE)
        lines = [json.dumps({"key": f"k{i}", "value": "v"}) + "\n" for i in range(20000)]
        process.stdin.write("".join(lines[:15000]).encode())
        process.stdin.flush()
        wait_for(lambda: cluster[1].call("DBSIZE") >= 1000, "a part to be stored", 30)
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=30)
        self.assertEqual(process.returncode, INTERRUPTED, err)
        stored = int(re.search(rb"(\d+) keys of the file are stored", err)[1])
        self.assertEqual(cluster[2].call("DBSIZE"), stored)
        self.run_cli("import", "--format", "lines", stdin="".join(lines).encode())
        self.assertEqual(cluster[2].call("DBSIZE"), 20000)

    @quick
    def test_progress(self):
        self.use(self.start_cluster())
        path = self.path("in.json", json.dumps({f"k{i:06d}": "x" * 100 for i in range(30000)}))
        result = self.run_cli("import", path)
        self.assertNotIn("\r", result.err)
        self.assertRegex(result.err, r"^imported 30,000 keys, \d.* MiB; [\d,]+ keys/s, .*/s\n$")
        self.assertEqual(self.run_cli("import", path, "--quiet").err, "")
        self.assertEqual(self.run_cli("import", path, "--progress", "never").err, "")
        code, output = self._on_terminal("import", path)
        self.assertEqual(code, OK)
        self.assertRegex(output, r"\r *\d+ % \[[#.]{24}\] imported ")
        self.assertIn("100 % [########################] imported 30,000 keys", output)
        code, output = self._on_terminal("export", self.path("out.json"))
        self.assertEqual(code, OK)
        self.assertIn("100 % [########################] exported 30,000 keys", output)

    # --- watch, status, bench -------------------------------------------------------------------

    @quick
    @asan
    def test_watch(self):
        cluster = self.start_cluster()
        self.use(cluster)
        process = self.spawn("watch", "w:", "--json", "--count", "4")
        self.assertIn(b"watching from index", process.stderr.readline())
        with cluster[2].client() as client:
            client.pipeline([("SET", "other", 1), ("SET", "w:1", 1), ("SET", b"w:\xff", 1), ("DEL", "w:1"), ("FLUSHDB",)])
        out, _ = process.communicate(timeout=30 * Options.slowdown())
        self.assertEqual(process.returncode, OK)
        events = [json.loads(line) for line in out.splitlines()]
        self.assertEqual([event["kind"] for event in events], ["set", "set", "del", "clear"])
        self.assertEqual([event.get("key") for event in events], ["w:1", None, "w:1", ""])
        self.assertEqual(events[1]["key_base64"], base64.b64encode(b"w:\xff").decode())
        lines = self.run_cli("watch", "w:", "--from", events[0]["index"] - 1, "--count", "1", "-q").text
        self.assertEqual(lines, f"{events[0]['index']} set w:1\n")
        self.assertEqual(self.run_cli("watch", "none", "--for", "300ms", "-q").out, b"")
        process = self.spawn("watch")
        process.stderr.readline()
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=30)
        self.assertEqual(process.returncode, INTERRUPTED)

    def test_watch_goes_on_when_a_node_dies(self):
        cluster = self.start_cluster()
        self.use(cluster)
        process = self.spawn("watch", "--count", "300", "-q")
        time.sleep(1)
        done = 0
        for victim in (None, cluster.leader_of(), cluster[1]):
            if victim is not None and victim.is_running():
                victim.kill()
            survivor = cluster.running()[0]
            for _ in range(100):
                wait_for(lambda: _try_set(survivor, done), "a write", 30)
                done += 1
            for node in cluster.nodes:
                if not node.is_running():
                    node.start()
            cluster.wait_ready()
        out, err = process.communicate(timeout=60 * Options.slowdown())
        self.assertEqual(process.returncode, OK, err)
        lines = out.decode().splitlines()
        self.assertNotIn("gap", out.decode())
        self.assertEqual([line.split(" ", 1)[1] for line in lines], [f"set k{i}" for i in range(300)])

    @quick
    @asan
    def test_cluster_status(self):
        cluster = self.start_cluster()
        self.use(cluster)
        cluster[1].call("SET", "a", "b")
        status = self.json("cluster", "status")
        self.assertEqual((status["health"], status["problems"]), ("good", []))
        self.assertEqual([node["up"] for node in status["nodes"]], [True] * 3)
        self.assertEqual(len(status["shards"]), 8)
        for shard in status["shards"]:
            self.assertEqual(shard["leader"], next(n.id for n in cluster.nodes if shard["shard"] in n.led_shards()))
            self.assertEqual(shard["voters"], 3)
            self.assertEqual(sorted(r["role"] for r in shard["replicas"]), ["follower", "follower", "leader"])
        self.assertTrue(any(abs(shard["clock_ms"] / 1000 - time.time()) < 3600 for shard in status["shards"]))
        self.assertIn("all is well", self.run_cli("cluster", "status").text)
        cluster[2].kill()
        cluster.wait_ready()
        status = self.json("cluster", "status", expect=NO)
        self.assertEqual(status["health"], "degraded")
        self.assertEqual([node["up"] for node in status["nodes"]], [True, False, True])
        self.assertRegex(status["problems"][0], "^node 2 is down: .")
        text = self.run_cli("cluster", "status", expect=NO).text
        self.assertRegex(text, r"(?m)^2 +127\.0\.0\.1:\d+ +DOWN$")
        cluster[3].kill()
        wait_for(lambda: self.run_cli("cluster", "status", expect=None).code == UNREACHABLE, "no leader", 30)
        self.assertEqual(self.json("cluster", "status", expect=UNREACHABLE)["health"], "down")

    @quick
    def test_cluster_status_again_and_again(self):
        cluster = self.start_cluster()
        self.use(cluster)
        out = self.run_cli("cluster", "status", "--watch", "--interval", "100ms", "--count", "3", "--json").out
        self.assertEqual([json.loads(line)["health"] for line in out.splitlines()], ["good"] * 3)
        process = self.spawn("cluster", "status", "--watch", "-i", "100ms")
        time.sleep(0.5)
        process.send_signal(signal.SIGTERM)
        out, _ = process.communicate(timeout=30)
        self.assertEqual(process.returncode, OK)
        self.assertGreater(out.count(b"NODE"), 1)
        paused = cluster[3]
        paused.pause()
        self.addCleanup(paused.resume)
        status = self.json("cluster", "status", expect=None)
        self.assertEqual([node["up"] for node in status["nodes"]], [True, True, False])

    @quick
    @sanitizer
    def test_bench(self):
        cluster = self.start_cluster()
        self.use(cluster)
        cluster[1].call("SET", "mine", "stays")
        result = self.run_cli("bench", "-d", "1s", "--keys", "100", "--parallel", "8")
        for word in ("p50", "p99.9", "reads", "writes", "per second"):
            self.assertIn(word, result.text)
        figures = self.json("bench", "-d", "500ms", "--reads", "0", "--size", "1KiB", "-k", "10")
        self.assertEqual((figures["failed"], figures["reads"]["count"]), (0, 0))
        writes = figures["writes"]
        self.assertGreater(writes["count"], 0)
        order = [writes[f"{p}_us"] for p in ("p50", "p90", "p99", "p99.9", "max")]
        self.assertEqual(order, sorted(order))
        self.assertEqual(self.run_cli("list").text, "mine\n")
        out = b""
        for seconds in (1, 5, 20):  # until it has something to tell when it is interrupted
            process = self.spawn("bench", "-d", "60s")
            time.sleep(seconds)
            process.send_signal(signal.SIGINT)
            out, _ = process.communicate(timeout=60)
            self.assertEqual(process.returncode, INTERRUPTED)
            if out:
                break
        self.assertIn(b"p99", out)
        self.assertEqual(self.run_cli("list").text, "mine\n")

    # --- errors ---------------------------------------------------------------------------------

    @quick
    def test_unknown_outcome_and_no_leader(self):
        cluster = self.start_cluster()
        self.use(cluster)
        project = project_in_shard(0, 8)
        leader = cluster.leader_of(project)
        for node in cluster.others(leader):
            node.pause()
        # The session of the write cannot be opened either: nothing was done, and it says so.
        result = self.run_cli("set", "a", "b", "-p", project, "-t", "1s", expect=None)
        self.assertIn(result.code, (UNREACHABLE, UNKNOWN), result)
        self.run_cli("get", "a", "-p", project, "-t", "1s", expect=UNREACHABLE)
        for node in cluster.others(leader):
            node.resume()

    @quick
    def test_output_that_cannot_be_written(self):
        cluster = self.start_cluster()
        self.use(cluster)
        cluster[1].call("SET", "a", "x" * 100000)
        with open("/dev/full", "wb") as full:
            process = self.spawn("get", "a", stdout=full)
            _, err = process.communicate(timeout=30)
        self.assertEqual(process.returncode, LOCAL)
        self.assertIn(b"cannot write", err)
        process = self.spawn("get", "a")
        process.stdout.close()
        process.wait(30)
        self.assertEqual(process.stderr.read(), b"")
        self.run_cli("export", self.path("no/such/folder"), expect=LOCAL)


def _end(process):
    if process.poll() is None:
        process.kill()
    for stream in (process.stdin, process.stdout, process.stderr):
        if stream is not None:
            stream.close()
    process.wait()


def _guard(function, number, wrong):
    try:
        function(number)
    except Exception as error:  # noqa: BLE001 - told by the test
        wrong.append(repr(error))


def _try_set(node, number):
    try:
        with Client(node.port, timeout_s=5) as client:
            return client.call("SET", f"k{number}", "v", "NX") == "OK" or client.call("GET", f"k{number}")
    except ReplyError:
        return False
