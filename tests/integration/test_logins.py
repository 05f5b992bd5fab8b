"""Failed logins: bounded for each address, told in the log and in the figures, never with a secret."""

import os
import re
import secrets
import socket
import ssl
import threading
import urllib.request

from harness.case import ClusterTest, asan, quick
from harness.cluster import Stopwatch
from harness.resp import Client, ConnectionLost, ReplyError
from harness.wait import wait_for

FAILURES = 10  # login_failures' default, in a minute


class From(Client):
    """A client whose address is another one of the loopback network."""

    def __init__(self, port, address, timeout_s=15):
        self.timeout_s = timeout_s
        self.pending = bytearray()
        self.socket = socket.create_connection(("127.0.0.1", port), timeout_s, source_address=(address, 0))


def logins(node, who, result):
    with urllib.request.urlopen(f"http://127.0.0.1:{node.http_port}/metrics", timeout=15) as page:
        text = page.read().decode()
    return int(re.search(rf'^invokekv_logins_total{{as="{who}",result="{result}"}} (\d+)$', text, re.M)[1])


class LoginTest(ClusterTest):
    def start(self, n=1, **settings):
        cluster = self.make_cluster(n, shards=1, **settings)
        cluster.require_authentication()
        cluster.start()
        self.admin = Client(cluster[1].port, credentials=("admin", cluster.admin_secret))
        self.addCleanup(self.admin.close)
        self.token = self.admin.call("PROJECT", "CREATE", "shop", "TOKEN", "READWRITE")
        return cluster

    def attempt(self, client, *command):
        try:
            client.call(*command)
            return "OK"
        except ReplyError as error:
            return error.code

    def guess(self, node, user, count, address="127.0.0.2", secret=None):
        """What `count` wrong logins, each over a connection of its own, are answered."""
        answers = []
        for _ in range(count):
            with From(node.port, address) as client:
                answers.append(self.attempt(client, "AUTH", user, secret or secrets.token_hex(16)))
        return answers

    @quick
    @asan
    def test_a_guesser_is_bounded_and_others_are_not(self):
        cluster = self.start(login_failures=30)
        node = cluster[1]
        watch = Stopwatch()
        answers = self.guess(node, "shop", 60)
        allowed = 30 + int(watch.seconds() / 2) + 1
        wrong = answers.count("WRONGPASS")
        self.assertEqual(set(answers), {"WRONGPASS", "BUSY"})
        self.assertLessEqual(wrong, allowed)
        self.assertGreaterEqual(wrong, 30)
        # Another address, and from the guesser's own: the good token, which is another kind of login, and
        # the administrator.
        with Client(node.port) as client:
            self.assertEqual(client.call("AUTH", "shop", self.token), "OK")
        with From(node.port, "127.0.0.2") as client:
            self.assertEqual(client.call("AUTH", "shop", self.token), "OK")
            self.assertEqual(client.call("AUTH", "admin", cluster.admin_secret), "OK")
        # HELLO is no way round.
        wait_for(lambda: set(self.guess(node, "shop", 5)) == {"BUSY"}, "refusals")
        with From(node.port, "127.0.0.2") as client:
            with self.assertRaisesRegex(ReplyError, r"^BUSY .*login_failures.*try again in \d+ ms"):
                client.call("HELLO", "3", "AUTH", "shop", "nonsense")

    @quick
    @asan
    def test_who_is_right_gets_in_after_the_bound(self):
        cluster = self.start(login_failures=60)
        node = cluster[1]
        self.assertIn("BUSY", self.guess(node, "admin", 80))
        client = From(node.port, "127.0.0.2")
        self.addCleanup(client.close)
        watch = Stopwatch()
        wait_for(
            lambda: self.attempt(client, "AUTH", "admin", cluster.admin_secret) == "OK",
            "the administrator to get in", 20,
        )  # fmt: skip
        self.report(f"got in {watch.seconds():.1f} s after the bound was reached")
        self.assertEqual(client.call("PING"), "PONG")

    @quick
    def test_guessers_at_once_do_not_keep_others_out(self):
        """Four addresses guess as quickly as they can; a fifth one logs in all the time."""
        cluster = self.start(n=3)
        stopping = threading.Event()

        def hammer(address):
            while not stopping.is_set():
                self.guess(cluster[2], "shop", 1, address)

        threads = [threading.Thread(target=hammer, args=(f"127.0.1.{i}",), daemon=True) for i in range(4)]
        for thread in threads:
            thread.start()
        try:
            for _ in range(50):
                with Client(cluster[2].port) as client:
                    self.assertEqual(client.call("AUTH", "shop", self.token), "OK")
        finally:
            stopping.set()
            for thread in threads:
                thread.join(30)
        # They count where they came in, whoever leads.
        wait_for(lambda: logins(cluster[2], "project", "wrong") > 0, "the figures")
        self.assertEqual(logins(cluster[1], "project", "wrong"), 0)
        self.assertEqual(logins(cluster[3], "project", "wrong"), 0)

    @quick
    @asan
    def test_the_log_and_the_figures_tell(self):
        cluster = self.start(login_failures=20)
        node = cluster[1]
        shown = secrets.token_hex(16)
        answers = self.guess(node, "shop", 40, secret=shown) + self.guess(node, "admin", 40, secret=shown)
        with From(node.port, "127.0.0.3") as client:
            self.assertEqual(self.attempt(client, "AUTH", cluster.admin_secret, "admin"), "WRONGPASS")
            self.assertEqual(self.attempt(client, "AUTH", self.token, "shop"), "WRONGPASS")
        counted = lambda result: logins(node, "project", result) + logins(node, "admin", result)  # noqa: E731
        wait_for(lambda: counted("wrong") == answers.count("WRONGPASS") + 2, "the figures")
        self.assertEqual(counted("throttled"), answers.count("BUSY"))
        self.assertGreaterEqual(logins(node, "admin", "good"), 1)
        # One line in a second, which tells how many it stands for.
        self.guess(node, "default", 1)
        log = wait_for(lambda: _said(node, r"as=project project=default reason=wrong") or
                       not self.guess(node, "default", 1), "a line")  # fmt: skip
        lines = [line for line in log.splitlines() if 'event="login refused"' in line]
        self.assertRegex(lines[0], r'peer=127\.0\.0\.2:\d+ as=project project=shop reason=wrong wait_ms=0')
        self.assertLess(len(lines), 40)
        unsaid = sum(int(re.search(r"others_unsaid=(\d+)", line)[1]) for line in lines)
        self.assertGreater(unsaid + len(lines), 60)
        for secret in (shown, cluster.admin_secret, self.token.decode(), self.token.decode()[21:]):
            self.assertNotIn(secret, log)

    @quick
    def test_no_bound_where_none_is_wanted(self):
        node = self.start(login_failures=0)[1]
        self.assertEqual(set(self.guess(node, "shop", 3 * FAILURES)), {"WRONGPASS"})

    @quick
    def test_clients_without_a_good_certificate_are_counted(self):
        cluster = self.make_cluster(1, shards=1)
        cluster.use_tls(clients="optional")
        cluster.use_tls(clients="optional", tls_clients="required", tls_ca=cluster.certificate("ca.pem"))
        node = cluster.start()[1]
        foreign = os.path.join(cluster.directory, "foreign")
        cluster.make_certificates(directory=foreign)
        for number, folder in enumerate((None, foreign)):
            context = ssl.create_default_context(cafile=cluster.certificate("ca.pem"))
            if folder:
                context.load_cert_chain(os.path.join(folder, "client.pem"), os.path.join(folder, "client.key"))
            with self.assertRaises((ssl.SSLError, ConnectionLost, ConnectionError)):
                with Client(node.port, tls=context) as client:
                    client.call("PING")
            wait_for(lambda n=number: logins(node, "certificate", "wrong") == n + 1, "the figure")


def _said(node, pattern):
    log = node.log()
    return log if re.search(pattern, log) else None
