"""TLS for clients and between nodes: who gets in, who does not, and certificates that change."""

import os
import re
import shutil
import signal
import socket
import ssl
import subprocess
import threading
import time

from harness.case import ClusterTest, asan, quick, sanitizer
from harness.cluster import Options, run_server
from harness.peer import make_hello
from harness.resp import Client, ConnectionLost, encode
from harness.wait import wait_for

MIB = 1 << 20


def run(*command, stdin="", timeout_s=30):
    result = subprocess.run(
        command, input=stdin, capture_output=True, text=True, timeout=timeout_s, check=False
    )
    return result.stdout + result.stderr


def serial_of(path):
    return run("openssl", "x509", "-in", path, "-noout", "-serial").strip()


def reload(node, expected):
    """SIGHUP, and wait for what the node says about it."""
    before = len(node.log())
    node.process.send_signal(signal.SIGHUP)
    wait_for(lambda: re.search(expected, node.log()[before:]), f"/{expected}/ from {node}")


class ClientsTest(ClusterTest):
    def start_with_tls(self, n=1, clients="required", **settings):
        cluster = self.make_cluster(n, shards=1, **settings)
        cluster.use_tls(clients=clients)
        self.node = cluster[1]
        return cluster.start()

    def shown_serial(self):
        """Of the certificate that a new connection sees."""
        text = ssl.get_server_certificate(("127.0.0.1", self.node.port))
        path = os.path.join(self.node.directory, "shown.pem")
        with open(path, "w", encoding="ascii") as file:
            file.write(text)
        return serial_of(path)

    def replace_certificate(self, **options):
        """A new certificate in place of the old one; returns its serial."""
        cluster = self.node.cluster
        for name in (f"node-{self.node.id}.pem", f"node-{self.node.id}.key"):
            os.unlink(cluster.certificate(name))
        cluster.make_certificates(**options)
        return serial_of(cluster.certificate(f"node-{self.node.id}.pem"))

    @quick
    @asan
    def test_every_client_gets_in_by_tls_only(self):
        cluster = self.start_with_tls()
        self.assertEqual(self.node.cli("SET", "k", "v"), "OK")
        self.assertEqual(self.node.cli("GET", "k", options=["--tls"]), "v")
        value = os.urandom(5 * MIB)
        with self.node.client() as client:
            client.call("SET", "large", value)
            self.assertEqual(client.call("GET", "large"), value)
            replies = client.pipeline([("GET", "large"), ("GET", "k")] * 10)
            self.assertEqual(replies, [value, b"v"] * 10)
            replies = client.pipeline([("INCR", "n")] * 3000)
            self.assertEqual(replies, list(range(1, 3001)))
        with Client(self.node.port) as plain:
            plain.send("PING")
            self.assertEqual(plain.read_rest(), b"-ERR this port takes TLS connections only\r\n")
        self.node.wait_for_log("connection closed over TLS.*does not speak TLS")

        def distrust():
            with self.assertRaises(ConnectionLost):
                Client(self.node.port, tls=ssl.create_default_context())
            return re.search("the other side refused: .*unknown ca", self.node.log())

        wait_for(distrust, "a line about it, of which there is one per second")
        for version in ("tls1_2", "tls1_3"):
            text = run("openssl", "s_client", "-connect", f"127.0.0.1:{self.node.port}",
                       "-CAfile", cluster.certificate("ca.pem"), "-verify_return_error", "-quiet",
                       f"-{version}", stdin="PING\r\nQUIT\r\n")  # fmt: skip
            self.assertIn("+PONG", text)
        for version in ("tls1", "tls1_1"):
            text = run("openssl", "s_client", "-connect", f"127.0.0.1:{self.node.port}",
                       "-cipher", "ALL:@SECLEVEL=0", f"-{version}")  # fmt: skip
            self.assertIn("alert protocol version", text)
        self.assertEqual(self.node.cli("GET", "k"), "v")

    @quick
    def test_the_client_library(self):
        cluster = self.start_with_tls(n=3)
        seeds = ",".join(f"rediss://127.0.0.1:{node.port}" for node in cluster.nodes)
        hello = os.path.join(os.path.dirname(os.path.dirname(Options.binary)), "client/example_hello")

        def greet(authority):
            environment = {**os.environ, "SSL_CERT_FILE": authority}
            result = subprocess.run(
                [hello, seeds], capture_output=True, text=True, timeout=60, check=False, env=environment
            )
            return result.returncode, result.stdout + result.stderr

        status, text = greet(cluster.certificate("ca.pem"))
        self.assertEqual((status, text), (0, "greeting: hello\nvisits: 1\n"))
        foreign = os.path.join(cluster.directory, "foreign")
        cluster.make_certificates(directory=foreign)
        status, text = greet(os.path.join(foreign, "ca.pem"))
        self.assertNotEqual(status, 0, text)
        self.assertNotIn("greeting", text)

    @quick
    @asan
    def test_plaintext_beside_tls_and_tls_where_there_is_none(self):
        cluster = self.start_with_tls(clients="optional")
        with Client(self.node.port) as plain:
            plain.call("SET", "k", "v")
        trusting = ssl.create_default_context(cafile=cluster.certificate("ca.pem"))
        with Client(self.node.port, tls=trusting) as client:
            self.assertEqual(client.call("GET", "k"), b"v")
        other = self.start_cluster(1, shards=1)
        with self.assertRaises((ssl.SSLError, ConnectionLost, ConnectionError)):
            Client(other[1].port, tls=trusting)
        other[1].wait_for_log("connection closed over TLS.*the client speaks TLS")
        self.assertEqual(other[1].call("PING"), "PONG")

    @quick
    def test_certificates_of_clients(self):
        cluster = self.make_cluster(1, shards=1)
        cluster.use_tls(clients="optional")
        cluster.use_tls(clients="optional", tls_clients="required", tls_ca=cluster.certificate("ca.pem"))
        node = cluster.start()[1]
        good = ssl.create_default_context(cafile=cluster.certificate("ca.pem"))
        without = ssl.create_default_context(cafile=cluster.certificate("ca.pem"))
        good.load_cert_chain(cluster.certificate("client.pem"), cluster.certificate("client.key"))
        with Client(node.port, tls=good) as client:
            self.assertEqual(client.call("PING"), "PONG")
        foreign = os.path.join(cluster.directory, "foreign")
        cluster.make_certificates(directory=foreign)
        strange = ssl.create_default_context(cafile=cluster.certificate("ca.pem"))
        strange.load_cert_chain(os.path.join(foreign, "client.pem"), os.path.join(foreign, "client.key"))
        for context in (without, strange):
            with self.assertRaises((ssl.SSLError, ConnectionLost, ConnectionError)):
                with Client(node.port, tls=context) as client:
                    client.call("PING")
        node.wait_for_log("peer did not return a certificate|certificate refused")

    @quick
    @sanitizer
    def test_reload_under_load(self):
        cluster = self.start_with_tls(n=3)
        old = self.shown_serial()
        stopping = threading.Event()
        counts, errors = [0] * 4, []

        def write(number):
            try:
                with self.node.client() as client:
                    while not stopping.is_set():
                        counts[number] = client.call("INCR", f"n{number}")
            except Exception as error:  # noqa: BLE001 - told by the test
                errors.append(repr(error))

        threads = [threading.Thread(target=write, args=(i,), daemon=True) for i in range(4)]
        for thread in threads:
            thread.start()
        resting = self.node.client()
        for _ in range(5):
            new = self.replace_certificate()
            self.assertNotEqual(new, old)
            reload(self.node, "certificates reloaded")
            self.assertEqual(self.shown_serial(), new)
            old, before = new, list(counts)
            wait_for(lambda: all(now > then for now, then in zip(counts, before)), "every writer to go on")
        stopping.set()
        for thread in threads:
            thread.join(30)
        self.assertEqual(errors, [])
        with resting:
            for number, count in enumerate(counts):
                self.assertEqual(resting.call("GET", f"n{number}"), str(count).encode())
        self.assertEqual(len(cluster.running()), 3)

    @quick
    def test_bad_files_change_nothing(self):
        cluster = self.start_with_tls()
        old = self.shown_serial()
        certificate, key = cluster.certificate("node-1.pem"), cluster.certificate("node-1.key")
        shutil.copy(key, key + ".good")
        os.chmod(key, 0o640)
        reload(self.node, "not reloaded.*tls_key.*chmod 600")
        os.chmod(key, 0o600)
        shutil.copy(cluster.certificate("client.key"), key)
        reload(self.node, "not reloaded.*private key does not fit")
        with open(key, "w", encoding="ascii") as file:
            file.write("nonsense")
        reload(self.node, "not reloaded.*no PEM private key")
        os.unlink(key)
        reload(self.node, "not reloaded.*cannot open")
        self.assertEqual(self.shown_serial(), old)
        self.assertEqual(self.node.call("PING"), "PONG")
        # A node does not start with them either, and --check-config tells.
        for option in ([], ["--check-config"]):
            status, _, text = run_server("--config", self.node.config_path, *option)
            self.assertEqual(status, 78 if option else 1)
            self.assertIn("cannot open", text)
        shutil.copy(key + ".good", key)
        new = self.replace_certificate(days=5)
        reload(self.node, "expires soon.*key=tls_cert")
        self.assertEqual(self.shown_serial(), new)
        self.assertTrue(os.path.exists(certificate))

    @quick
    @asan
    def test_half_open_handshakes_are_bounded(self):
        """At most a quarter of max_connections, and at least 64."""
        self.start_with_tls(max_connections=200)
        hello = b"\x16\x03\x01\x02\x00\x01"  # a handshake that never goes on
        half_open = []
        for number in range(150):
            each = socket.create_connection(("127.0.0.1", self.node.port), 10)
            if number % 2:
                each.sendall(hello)
            half_open.append(each)
            self.addCleanup(each.close)
        self.node.wait_for_log("too many handshakes that are not done")

        def closed():
            count = 0
            for each in half_open:
                each.setblocking(False)
                try:
                    count += each.recv(100) == b""
                except BlockingIOError:
                    pass
                except ConnectionError:
                    count += 1
            return count

        wait_for(lambda: closed() >= 150 - 64, "the oldest to be closed")
        self.assertEqual(self.node.call("PING"), "PONG")
        wait_for(lambda: closed() == 150, "the rest to be closed for their silence", 40)
        self.node.wait_for_log("not done in time|TLS.*total=1[45][0-9]")
        self.assertEqual(self.node.call("PING"), "PONG")

    @quick
    @asan
    def test_garbage(self):
        self.start_with_tls()
        pieces = [b"\x16", b"\x16\x03\x01\xff\xff" + os.urandom(70000), b"\x16\x03\x01\x00\x05hello",
                  os.urandom(1000), b"\x00" * 1000, encode("SET", "k", "v")]  # fmt: skip
        for piece in pieces:
            with Client(self.node.port) as client:
                try:
                    client.send_raw(piece)
                    client.socket.shutdown(socket.SHUT_WR)
                    client.read_rest()
                except (OSError, ConnectionLost):
                    pass
        # Garbage behind a good handshake.
        with self.node.client() as client:
            raw = socket.socket(fileno=os.dup(client.socket.fileno()))
            with raw:
                raw.sendall(b"not a record at all")
                with self.assertRaises((ConnectionLost, ssl.SSLError)):
                    client.call("PING")
        self.assertEqual(self.node.call("PING"), "PONG")


class PeersTest(ClusterTest):
    def start_with_tls(self, peers="required", **settings):
        cluster = self.make_cluster(3, shards=2, **settings)
        return cluster.use_tls(peers=peers).start()

    def use_files(self, node, name, directory=None):
        """Gives a stopped node the certificate of another name."""
        folder = directory or node.cluster.certificate("")
        node.settings.update(
            peer_tls_cert=os.path.join(folder, f"{name}.pem"), peer_tls_key=os.path.join(folder, f"{name}.key")
        )
        node.write_config()

    def assert_out(self, node, reason, others):
        """The node gets no link, for this reason, and the others go on without it."""
        node.start()
        wait_for(lambda: any(re.search(reason, each.log()) for each in [node, *others]), f"/{reason}/")
        self.assertEqual(others[0].call("SET", "without", node.id), "OK")
        self.assertNotIn('event="link up"', node.log()[node.log().rindex("event=starting") :])
        node.kill()

    @quick
    @sanitizer
    def test_nodes_talk_over_tls_only(self):
        cluster = self.start_with_tls(segment_size="1MiB", snapshot_log_bytes="256KiB", trailing_entries=16)
        value = os.urandom(2 * MIB)
        for node in cluster.nodes:
            node.call("SET", f"k{node.id}", value)
        for node in cluster.nodes:
            self.assertEqual([node.call("GET", f"k{i}") for i in (1, 2, 3)], [value] * 3)
        # A snapshot over TLS: the third node misses more than the log keeps.
        cluster[3].kill()
        for number in range(30):
            cluster[1].call("SET", f"s{number}", os.urandom(256 * 1024))
        cluster[3].start()
        cluster.wait_ready()
        cluster.wait_caught_up()
        self.assertEqual(cluster[3].call("GET", "k1"), value)
        # Nothing but TLS with a node's certificate.
        for data in (b"IKVP" + bytes(60), b"\x16\x03\x01\xff\xff" + os.urandom(70000), os.urandom(5000)):
            with socket.create_connection(("127.0.0.1", cluster[1].peer_port), 10) as stranger:
                try:
                    stranger.sendall(data)
                    stranger.shutdown(socket.SHUT_WR)
                    while stranger.recv(65536):
                        pass
                except OSError:
                    pass
        cluster[1].wait_for_log("it does not use TLS, which peer_tls requires")
        text = run("openssl", "s_client", "-connect", f"127.0.0.1:{cluster[1].peer_port}", "-tls1_2",
                   "-CAfile", cluster.certificate("ca.pem"))  # fmt: skip
        self.assertRegex(text, "alert handshake failure|alert certificate required")
        self.assertEqual(cluster[1].call("SET", "k", "v"), "OK")

    @quick
    @asan
    def test_who_is_no_node(self):
        cluster = self.start_with_tls()
        for node in cluster.nodes:
            node.call("SET", f"n{node.id}", "1")
        third, others = cluster[3], [cluster[1], cluster[2]]
        third.stop()
        # Its own check first: the certificate of another node, or of a client.
        for name, reason in (("node-2", "not this node's"), ("client", "not this node's")):
            self.use_files(third, name)
            status, _, text = run_server("--config", third.config_path, "--check-config")
            self.assertEqual(status, 78, text)
            self.assertIn(reason, text)
        # An impostor that believes in the certificate: another cluster's, by another authority.
        foreign = os.path.join(cluster.directory, "foreign")
        cluster.make_certificates(directory=foreign)
        self.use_files(third, "node-3", directory=foreign)
        third.settings.update(peer_tls_ca=os.path.join(foreign, "ca.pem"))
        third.write_config()
        self.assert_out(third, "certificate refused|unknown ca|the other side refused", others)
        # Node 2's certificate in the hands of a node that says it is node 3 to those who listen.
        third.settings.update(peer_tls_ca=cluster.certificate("ca.pem"), peer_tls="off")
        for key in ("cert", "key", "ca"):
            third.settings.pop(f"peer_tls_{key}", None)
        third.write_config()
        self.assert_out(third, "it does not use TLS, which peer_tls requires", others)
        self.say_hello_as(cluster, "node-2", 3)
        self.say_hello_as(cluster, "client", 3)
        cluster.use_tls(peers="required")
        third.start()
        cluster.wait_ready()
        self.assertEqual(third.call("GET", "n1"), b"1")

    def say_hello_as(self, cluster, name, node_id):
        """A HELLO of `node_id` over a connection with the certificate `name` is refused."""
        context = ssl.create_default_context(cafile=cluster.certificate("ca.pem"))
        context.load_cert_chain(cluster.certificate(f"{name}.pem"), cluster.certificate(f"{name}.key"))
        hello = make_hello(cluster.name, node_id, 1)
        with socket.create_connection(("127.0.0.1", cluster[1].peer_port), 10) as raw:
            with context.wrap_socket(raw, server_hostname="127.0.0.1") as link:
                link.sendall(hello)
                answer = b""
                try:
                    while data := link.recv(4096):
                        answer += data
                except OSError:
                    pass
        self.assertIn(b"the certificate is not that of node %d" % node_id, answer)

    @quick
    def test_reload(self):
        cluster = self.start_with_tls()
        for node in cluster.nodes:
            for suffix in ("pem", "key"):
                os.unlink(cluster.certificate(f"node-{node.id}.{suffix}"))
        cluster.make_certificates()
        links = [node.log().count('event="link up"') for node in cluster.nodes]
        for node in cluster.nodes:
            reload(node, "certificates reloaded")
        for node in cluster.nodes:
            self.assertEqual(node.call("SET", "k", node.id), "OK")
        self.assertEqual([node.log().count('event="link up"') for node in cluster.nodes], links)
        cluster[2].kill()
        cluster[2].start()
        cluster.wait_ready()
        # A certificate of a wrong name leaves the old one in use.
        for suffix in ("pem", "key"):
            shutil.copy(cluster.certificate(f"client.{suffix}"), cluster.certificate(f"node-1.{suffix}"))
        reload(cluster[1], "not reloaded.*not this node's: it does not have the name URI:invoke-kv://test/node/1")

    @quick
    def test_one_node_after_the_other_begins_with_tls(self):
        cluster = self.start_cluster(3, shards=2)
        for peers in ("optional", "required"):
            cluster.use_tls(peers=peers)
            for node in cluster.nodes:
                node.stop()
                node.start()
                cluster.wait_ready()
                self.assertEqual(node.call("SET", "k", f"{peers} {node.id}"), "OK")
        self.assertEqual(cluster[1].call("GET", "k"), b"required 3")
