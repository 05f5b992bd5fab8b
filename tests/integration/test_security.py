"""Secrets stay in, and the node does not open doors that it was not told to: docs/security.md."""

import glob
import os
import re
import resource
import secrets
import shutil
import signal
import socket
import ssl
import subprocess
import urllib.request

from harness.case import ClusterTest, asan, quick, sanitizer
from harness.cluster import Options, free_port, run_server
from harness.resp import Client, ReplyError
from harness.wait import wait_for

BAD_CONFIG = 78  # exit status


def write_secret(path, text, mode=0o600):
    with open(path, "w", encoding="ascii") as file:
        file.write(text + "\n")
    os.chmod(path, mode)


def page(node, path):
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{node.http_port}{path}", timeout=15) as answer:
            return answer.read()
    except urllib.error.HTTPError as error:
        return error.read()


def read(path):
    with open(path, "rb") as file:
        return file.read()


class SecretsTest(ClusterTest):
    """One session that uses every secret there is, then a look everywhere."""

    def start(self):
        cluster = self.make_cluster(1, shards=1, slow_ms=1, log_level="debug")
        cluster.use_tls(clients="optional", peers="required")
        self.admin, self.service = secrets.token_hex(24), secrets.token_hex(24)
        for name in ("admin", "service"):
            write_secret(os.path.join(cluster.directory, name), getattr(self, name))
        cluster.settings.update(
            auth="required",
            admin_token_file=os.path.join(cluster.directory, "admin"),
            service_token_file=os.path.join(cluster.directory, "service"),
        )
        node = cluster[1]
        node.write_config()
        node.start()
        wait_for(lambda: Client(node.port, credentials=("admin", self.admin)).close() or True, "the node", 30)
        self.secrets = {"admin": self.admin.encode(), "service": self.service.encode()}
        key = read(cluster.certificate("node-1.key")).splitlines()
        self.secrets["a line of the private key"] = key[1]
        return node

    def use_everything(self, node):
        """The connections are all closed afterwards."""
        with Client(node.port, credentials=("admin", self.admin)) as admin:
            wait_for(lambda: b"role=leader" in admin.call("INFO", "shards"), "a leader")
            token = admin.call("PROJECT", "CREATE", "shop", "TOKEN", "READWRITE")
            other = admin.call("PROJECT", "TOKEN", "ADD", "shop", "READONLY")
            self.secrets.update(token=token, secret=token[21:], other=other, other_secret=other[21:])
            wrong = "wrong-" + secrets.token_hex(16)
            self.secrets["a wrong one"] = wrong.encode()
            with Client(node.port) as client:
                for command in (
                    ("AUTH", "shop", wrong), ("AUTH", wrong), ("AUTH", "admin", wrong),
                    ("AUTH", "service", self.admin), ("AUTH", self.admin, "admin"), ("AUTH", token, "shop"),
                    ("HELLO", "3", "AUTH", "shop", wrong), ("AUTH", "a", "b", self.service),
                    ("HELLO", "3", "SETNAME", "x", "AUTH", "shop"), ("GET", "k"), ("MONITOR",),
                ):  # fmt: skip
                    with self.assertRaises(ReplyError):
                        client.call(*command)
            with Client(node.port, credentials=("service", self.service)) as client:
                client.call("PROJECT", "USE", "shop")
                client.call("SET", "k", "v")
            with Client(node.port, credentials=("shop", token)) as client:
                client.call("HELLO", "3", "AUTH", "shop", other)
                client.call("HELLO", "2", "AUTH", "shop", token)
                self.assertEqual(client.pipeline([("AUTH", "shop", token), ("GET", "k")])[1], b"v")
                large = b"x" * (4 << 20)
                wait_for(lambda: client.call("SET", "large", large) and "slow operation" in node.log(), "a slow operation")
            self.assertEqual(admin.call("PROJECT", "TOKEN", "REVOKE", "shop", other[4:20]), 1)

    def look(self, node):
        """{place: what anybody can read there}"""
        found = {path: page(node, path) for path in ("/metrics", "/readyz", "/livez", "/nothing")}
        with Client(node.port, credentials=("admin", self.admin)) as admin:
            for command in ("INFO everything", "CLIENT LIST", "CLIENT INFO", "CONFIG GET *", "PROJECT LIST",
                            "PROJECT TOKEN LIST shop", "CLUSTER TOPOLOGY", "CLUSTER NODES", "HELLO 3"):  # fmt: skip
                found[command] = repr(admin.call(*command.split())).encode()
        for name in ("cmdline", "environ"):
            try:
                found[name] = read(f"/proc/{node.process.pid}/{name}")
            except PermissionError:
                self.assertNotEqual((name, os.geteuid()), ("cmdline", 0))  # its own user may not look
        found["log"] = node.log().encode()
        for path in glob.glob(os.path.join(node.data, "**"), recursive=True):
            if os.path.isfile(path):
                found[path] = read(path)
        return found

    def check(self, found):
        for place, content in found.items():
            for name, secret in self.secrets.items():
                self.assertFalse(secret in content, f"{name} in {place}")

    @quick
    @asan
    def test_no_secret_gets_out(self):
        node = self.start()
        self.use_everything(node)
        found = self.look(node)
        # The haystack is there.
        self.assertIn(b"invokekv_logins_total", found["/metrics"])
        self.assertIn(b"cmd=client", found["CLIENT LIST"])
        self.assertIn(b"login refused", found["log"])
        self.assertIn(b"slow operation", found["log"])
        self.assertTrue(any(b"shop" in content for place, content in found.items() if place.endswith(".seg")))
        self.check(found)
        # Refused files do not show what is in them either.
        write_secret(os.path.join(node.cluster.directory, "admin"), self.admin + " " + self.service)
        status, out, err = run_server("--config", node.config_path, "--check-config")
        self.assertEqual(status, BAD_CONFIG)
        self.check({"--check-config": (out + err).encode()})
        if not Options.sanitizer():
            node.may_report = True
            node.process.send_signal(signal.SIGSEGV)
            self.assertEqual(node.wait_exit(), -signal.SIGSEGV)
            self.assertIn("backtrace:", node.log())
            self.check({"crash report": node.log().encode()})

    @quick
    def test_no_secret_stays_in_memory(self):
        """Once it was used: credentials and tokens are known by their digests only."""
        if Options.sanitizer() or os.geteuid() != 0:
            self.skipTest("reads the memory of a release build, as root")
        node = self.start()
        self.use_everything(node)
        # A connection that rests after it has shown its secret, over TCP and over TLS.
        tls = ssl.create_default_context(cafile=node.cluster.certificate("ca.pem"))
        for user in ("admin", "service"):
            for context in (None, tls):
                client = Client(node.port, credentials=(user, self.secrets[user]), tls=context)
                self.addCleanup(client.close)
        memory = self._memory_of(node.process.pid)
        self.assertTrue(b"invoke-kvd" in memory)
        for name, secret in self.secrets.items():
            if name in ("admin", "service", "a wrong one", "a line of the private key"):
                self.assertFalse(secret in memory, f"{name} in memory")

    def _memory_of(self, pid):
        parts = []
        with open(f"/proc/{pid}/maps", encoding="ascii") as maps, open(f"/proc/{pid}/mem", "rb") as memory:
            for line in maps:
                match = re.match(r"([0-9a-f]+)-([0-9a-f]+) rw", line)
                if match:
                    first, end = (int(each, 16) for each in match.groups())
                    memory.seek(first)
                    try:
                        parts.append(memory.read(end - first))
                    except OSError:
                        pass
        return b"".join(parts)


class CoreTest(ClusterTest):
    def _crash(self, **settings):
        """Whether a crash left a core, as the kernel tells, and the log."""
        cluster = self.make_cluster(1, shards=1, **settings)
        node = cluster[1]
        before = os.getcwd()
        os.chdir(node.directory)  # where a core file goes, unless the system puts it elsewhere
        node.start()
        os.chdir(before)
        resource.prlimit(node.process.pid, resource.RLIMIT_CORE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
        cluster.wait_ready()
        node.may_report = True
        node.process.send_signal(signal.SIGSEGV)
        result = os.waitid(os.P_PID, node.process.pid, os.WEXITED | os.WNOWAIT)
        node.wait_exit()
        return result.si_code == os.CLD_DUMPED, node.log()

    @quick
    def test_a_crash_leaves_no_core(self):
        if Options.sanitizer():
            self.skipTest("sanitizers report themselves")
        dumped, log = self._crash()
        self.assertFalse(dumped)
        self.assertIn("backtrace:", log)

    @quick
    def test_unless_it_is_wanted(self):
        if Options.sanitizer():
            self.skipTest("sanitizers report themselves")
        hard = resource.getrlimit(resource.RLIMIT_CORE)[1]
        if hard != resource.RLIM_INFINITY and os.geteuid() != 0:
            self.skipTest("core files are forbidden here")
        control = subprocess.Popen(["sleep", "60"], cwd=self.make_cluster(1).directory)
        resource.prlimit(control.pid, resource.RLIMIT_CORE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
        control.send_signal(signal.SIGSEGV)
        result = os.waitid(os.P_PID, control.pid, os.WEXITED | os.WNOWAIT)
        control.wait()
        if result.si_code != os.CLD_DUMPED:
            self.skipTest("this system makes no core files")
        self.assertTrue(self._crash(core_dumps="yes")[0])


class CredentialsTest(ClusterTest):
    """Secrets that a service manager hands over."""

    @quick
    @asan
    def test_secrets_of_the_service_manager(self):
        cluster = self.make_cluster(1, shards=1)
        cluster.use_tls(clients="required")
        folder = os.path.join(cluster.directory, "credentials")
        os.mkdir(folder, 0o700)
        secret = secrets.token_hex(16)
        write_secret(os.path.join(folder, "admin"), secret, 0o400)
        for name in ("node-1.key", "node-1.pem"):
            shutil.copy(cluster.certificate(name), os.path.join(folder, name))
            os.chmod(os.path.join(folder, name), 0o400)
        node = cluster[1]
        node.environment = {"CREDENTIALS_DIRECTORY": folder}
        node.settings.update(
            auth="required", admin_token_file="credential:admin",
            tls_key="credential:node-1.key", tls_cert="credential:node-1.pem",
        )  # fmt: skip
        node.write_config()
        status, _, text = run_server("--config", node.config_path, "--check-config")
        self.assertEqual(status, BAD_CONFIG)
        self.assertIn("$CREDENTIALS_DIRECTORY is not set", text)
        status, _, text = run_server("--config", node.config_path, "--check-config", environment=node.environment)
        self.assertEqual((status, text), (0, ""))
        cluster.admin_secret = secret
        cluster.start()
        with Client(node.port, tls=cluster.tls, credentials=("admin", secret)) as client:
            self.assertEqual(client.call("PING"), "PONG")
        node.process.send_signal(signal.SIGHUP)
        node.wait_for_log("certificates reloaded")

    @quick
    def test_as_another_user(self):
        """A file of root's that the node's group may read is fine; one that others may read is not."""
        if os.geteuid() != 0 or Options.sanitizer():
            self.skipTest("needs root, to be somebody else")
        cluster = self.make_cluster(1, shards=1)
        node, nobody = cluster[1], 65534
        program = os.path.join(cluster.directory, "invoke-kvd")
        shutil.copy(Options.binary, program)
        os.chmod(program, 0o755)
        for path in (cluster.directory, node.directory):
            os.chmod(path, 0o755)
        secret = os.path.join(cluster.directory, "admin")
        write_secret(secret, secrets.token_hex(16))
        node.settings.update(auth="required", admin_token_file=secret)
        node.write_config()

        def check(owner, group, mode):
            os.chown(secret, owner, group)
            os.chmod(secret, mode)
            result = subprocess.run(
                [program, "--config", node.config_path, "--check-config"], user=nobody, group=nobody,
                extra_groups=[], capture_output=True, text=True, timeout=20, check=False,
            )  # fmt: skip
            return result.stdout + result.stderr

        self.assertIn("is good", check(0, nobody, 0o640))
        self.assertIn("is good", check(nobody, nobody, 0o600))
        self.assertIn("cannot open it: Permission denied", check(0, 0, 0o600))
        self.assertIn("chmod 600", check(0, nobody, 0o644))
        self.assertIn("chmod 600", check(nobody, nobody, 0o640))
        self.assertIn("it belongs to user 1234", check(1234, nobody, 0o640))


class BindTest(ClusterTest):
    """Without authentication: loopback only, for every listener, and it says why."""

    KEYS = ("listen", "peer_listen", "http_listen")

    def check(self, node, key, host, **settings):
        node.write_config(**{key: f"{host}:{free_port()}"}, **settings)
        return run_server("--config", node.config_path, "--check-config")

    @quick
    def test_every_listener_keeps_to_loopback(self):
        node = self.make_cluster(1, shards=1)[1]
        for key in self.KEYS:
            for host in ("127.0.0.1", "127.9.9.9", "localhost", "[::1]"):
                with self.subTest(key=key, host=host):
                    self.assertEqual(self.check(node, key, host)[0], 0)
            for host in ("0.0.0.0", "[::]", "192.0.2.1", "[fe80::1]", "[::ffff:127.0.0.1]", socket.gethostname()):
                with self.subTest(key=key, host=host):
                    status, _, text = self.check(node, key, host)
                    self.assertEqual(status, BAD_CONFIG)
                    self.assertRegex(text, f"{key} = .*not a loopback address, and no authentication is configured")
                    self.assertIn("insecure_listen = yes", text)
                    self.assertEqual(self.check(node, key, host, insecure_listen="yes")[0], 0)

    @quick
    def test_authentication_opens_its_own_listener_only(self):
        cluster = self.make_cluster(1, shards=1)
        cluster.require_authentication()
        cluster.use_tls(clients="required")
        for key, is_open in zip(self.KEYS, (True, False, False)):
            self.assertEqual(self.check(cluster[1], key, "0.0.0.0")[0], 0 if is_open else BAD_CONFIG, key)
        cluster.use_tls(peers="required")
        for key, is_open in zip(self.KEYS, (True, True, False)):
            self.assertEqual(self.check(cluster[1], key, "0.0.0.0")[0], 0 if is_open else BAD_CONFIG, key)
        # Encryption alone tells nobody who the client is.
        closed = self.make_cluster(1, shards=1).use_tls(clients="required")
        self.assertEqual(self.check(closed[1], "listen", "0.0.0.0")[0], BAD_CONFIG)

    @quick
    def test_it_listens_where_it_says(self):
        """Each form of a loopback address ends in a socket that only this machine reaches."""
        if not socket.has_ipv6 or not os.path.exists("/proc/net/if_inet6"):
            self.skipTest("no IPv6 here")
        for host in ("127.0.0.1", "localhost", "[::1]"):
            with self.subTest(host=host):
                cluster = self.make_cluster(1, shards=1)
                node = cluster[1]
                ports = [free_port() for _ in self.KEYS]
                addresses = {key: f"{host}:{port}" for key, port in zip(self.KEYS, ports)}
                node.write_config(core_dumps="yes", **addresses)  # so that its user may look at its sockets
                node.start()
                node.wait_for_log("event=started")
                found = _listening(node.sockets())
                self.assertEqual(sorted(port for _, port in found), sorted(ports))
                for address, _ in found:
                    self.assertIn(address, _LOOPBACKS)
                node.stop()


# As /proc/net/tcp and tcp6 have them: words in the machine's byte order.
_LOOPBACKS = ("0100007F", "00000000000000000000000001000000")


def _listening(sockets):
    """[(address in hex, port)] of those that listen."""
    found = []
    for path in ("/proc/net/tcp", "/proc/net/tcp6"):
        with open(path, encoding="ascii") as table:
            for row in list(table)[1:]:
                fields = row.split()
                if fields[3] == "0A" and fields[9] in sockets:
                    address, port = fields[1].split(":")
                    found.append((address, int(port, 16)))
    return found
