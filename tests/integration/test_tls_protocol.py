"""What a TLS port of a node offers and refuses, asked with openssl as testssl.sh would: versions, ciphers,
curves, compression, renegotiation, tickets, chains, names, and certificates that are not good."""

import os
import re
import ssl
import subprocess

from harness.case import ClusterTest, quick, sanitizer
from harness.cluster import Options

ANYTHING = "ALL:COMPLEMENTOFALL:@SECLEVEL=0"
STRONG = re.compile(r"^(ECDHE-(ECDSA|RSA)-(AES(128|256)-GCM-SHA(256|384)|CHACHA20-POLY1305))$")


def run(*command, stdin="", timeout_s=60):
    result = subprocess.run(
        command, input=stdin, capture_output=True, text=True, errors="replace", timeout=timeout_s, check=False
    )
    return result.stdout + result.stderr


def ciphers_of_1_2():
    """All that this machine's openssl can ask for, weak ones included."""
    names = run("openssl", "ciphers", "-s", "-tls1_2", ANYTHING).strip().split(":")
    assert len(names) > 50, names
    return names


class Port:
    """One port of a node, by what openssl s_client says of it."""

    def __init__(self, port, cluster, pair=None):
        self.options = ["-connect", f"127.0.0.1:{port}", "-CAfile", cluster.certificate("ca.pem")]
        if pair:
            self.options += ["-cert", cluster.certificate(f"{pair}.pem"), "-key", cluster.certificate(f"{pair}.key")]

    def ask(self, *options, stdin=""):
        return run("openssl", "s_client", *self.options, *options, stdin=stdin)

    def accepts(self, *options):
        """Whether a handshake came to its end. With TLS 1.3 the node judges a client's certificate
        behind that: `alert` stands in the text then."""
        text = self.ask(*options)
        return bool(re.search(r"^ *Cipher is (?!\(NONE\))|^New, TLSv1.*Cipher is (?!\(NONE\))", text, re.M)), text


class ProtocolTest(ClusterTest):
    def start(self):
        """Each port of one node, by name; the port for peers needs a certificate of a node."""
        cluster = self.make_cluster(1, shards=1)
        cluster.use_tls(clients="required", peers="required")
        cluster.start()
        self.cluster, self.node = cluster, cluster[1]
        return {"clients": Port(self.node.port, cluster), "peers": Port(self.node.peer_port, cluster, "node-1")}

    def assert_alive(self):
        self.assertEqual(self.node.call("PING"), "PONG")

    @quick
    @sanitizer
    def test_versions(self):
        for name, port in self.start().items():
            for version in ("tls1", "tls1_1"):
                accepted, text = port.accepts(f"-{version}", "-cipher", ANYTHING)
                self.assertFalse(accepted, f"{name}: {version}")
                self.assertIn("alert protocol version", text)
            for version, shown in (("tls1_2", "TLSv1.2"), ("tls1_3", "TLSv1.3")):
                accepted, text = port.accepts(f"-{version}")
                self.assertTrue(accepted, f"{name}: {version}\n{text}")
                self.assertIn(f"New, {shown}", text)
            # The best that both can do, unless somebody meddles.
            self.assertIn("New, TLSv1.3", port.ask())
        self.assert_alive()

    @quick
    def test_ciphers(self):
        ports = self.start()
        offered = ciphers_of_1_2()
        self.assertTrue(any("NULL" in name for name in offered) and any("CBC" in name or "SHA" in name for name in offered))
        for name, port in ports.items():
            text = port.ask("-tls1_2", "-cipher", ":".join(each for each in offered if not STRONG.match(each)) + ":@SECLEVEL=0")
            self.assertIn("handshake failure", text, f"{name}: a weak cipher")
            taken = [each for each in offered if STRONG.match(each) and port.accepts("-tls1_2", "-cipher", f"{each}:@SECLEVEL=0")[0]]
            self.assertTrue(taken, name)
            self.assertTrue(all(each.startswith("ECDHE-ECDSA") for each in taken), "the key is an elliptic one")
            self.report(f"{name}, TLS 1.2: {' '.join(taken)}")
            suites = ["TLS_AES_128_GCM_SHA256", "TLS_AES_256_GCM_SHA384", "TLS_CHACHA20_POLY1305_SHA256"]
            taken = [each for each in suites if port.accepts("-tls1_3", "-ciphersuites", each)[0]]
            self.report(f"{name}, TLS 1.3: {' '.join(taken)}")
            self.assertEqual(taken, suites)
            self.assertFalse(port.accepts("-tls1_3", "-ciphersuites", "TLS_AES_128_CCM_8_SHA256")[0])
        self.assert_alive()

    @quick
    def test_each_weak_cipher_alone(self):
        """One at a time, at the port for clients: a list could hide one behind another."""
        port = self.start()["clients"]
        weak = [name for name in ciphers_of_1_2() if not STRONG.match(name) and not name.startswith("TLS_")]
        found = [name for name in weak if port.accepts("-tls1_2", "-cipher", f"{name}:@SECLEVEL=0")[0]]
        self.assertEqual(found, [])
        self.report(f"{len(weak)} ciphers refused")

    @quick
    @sanitizer
    def test_curves(self):
        for name, port in self.start().items():
            for curve in ("X25519", "P-256", "P-384"):
                accepted, text = port.accepts("-tls1_3", "-curves", curve)
                self.assertTrue(accepted, f"{name}: {curve}\n{text}")
            for version in ("tls1_2", "tls1_3"):
                text = port.ask(f"-{version}")
                shown = re.search(r"Server Temp Key: (\S+), .*?(\d+) bits", text)
                self.assertTrue(shown and int(shown[2]) >= 253, text)
            # Weak ones, and finite fields.
            for curve in ("secp192r1", "secp224r1", "sect163k1", "secp256k1", "ffdhe2048"):
                for version in ("tls1_2", "tls1_3"):
                    self.assertFalse(port.accepts(f"-{version}", "-curves", curve)[0], f"{name}: {curve}, {version}")
        self.assert_alive()

    @quick
    @sanitizer
    def test_no_compression_and_no_renegotiation(self):
        for name, port in self.start().items():
            text = port.ask("-tls1_2", "-comp")
            self.assertIn("Compression: NONE", text, name)
            self.assertIn("Secure Renegotiation IS supported", text, "its absence would let others splice")
            text = port.ask("-tls1_2", stdin="R\n")
            self.assertRegex(text, "no renegotiation|handshake failure|write:errno|alert", f"{name}: {text}")
            self.assertNotIn("RENEGOTIATING\ndepth", text)
        self.assert_alive()

    @quick
    @sanitizer
    def test_sessions_resume_for_clients_only(self):
        ports = self.start()
        path = os.path.join(self.cluster.directory, "session")
        for name, port in ports.items():
            for version in ("tls1_2", "tls1_3"):
                if os.path.exists(path):
                    os.unlink(path)
                # An answer comes behind the tickets, so they are there by then.
                port.ask(f"-{version}", "-sess_out", path, "-quiet", stdin="PING\r\nQUIT\r\n")
                text = port.ask(f"-{version}", "-sess_in", path) if os.path.exists(path) else ""
                resumed = "Reused, " in text
                self.assertEqual(resumed, name == "clients", f"{name}, {version}: {text}")
        self.assert_alive()

    @quick
    @sanitizer
    def test_the_chain_is_sent_and_names_do_not_matter(self):
        for name, port in self.start().items():
            for server in ("localhost", "kv.example.org", "a.stranger.example"):
                text = port.ask("-servername", server, "-showcerts")
                self.assertIn("Verify return code: 0 (ok)", text, f"{name}: {server}")
            self.assertIn("Verify return code: 0 (ok)", port.ask("-noservername"))
            self.assertNotIn("Verify return code: 0", port.ask("-verify_hostname", "a.stranger.example"))
        # An intermediate authority stands in the file behind the certificate, and is sent.
        names = self._intermediate()
        text = Port(self.node.port, self.cluster).ask("-showcerts")
        self.assertEqual(re.findall(r"^ *\d s:CN ?= ?(.+)$", text, re.M), names)
        self.assertIn("Verify return code: 0 (ok)", text)

    def _intermediate(self):
        """The node gets a certificate of an authority between it and ca.pem."""
        folder, names = self.cluster.certificate(""), ["leaf", "between"]
        with open(os.path.join(folder, "between.ext"), "w", encoding="ascii") as file:
            file.write("basicConstraints = critical, CA:TRUE\nkeyUsage = keyCertSign\n")
        with open(os.path.join(folder, "leaf.ext"), "w", encoding="ascii") as file:
            file.write("subjectAltName = DNS:localhost, IP:127.0.0.1\n")
        issuer = "ca"
        for name in reversed(names):
            make_certificate(folder, name, issuer, name)
            issuer = name
        node = self.node
        node.stop()
        with open(os.path.join(folder, "chain.pem"), "w", encoding="ascii") as chain:
            for name in names:
                with open(os.path.join(folder, f"{name}.pem"), encoding="ascii") as part:
                    chain.write(part.read())
        node.settings.update(tls_cert=os.path.join(folder, "chain.pem"), tls_key=os.path.join(folder, "leaf.key"))
        node.write_config()
        self.cluster.start()
        return names

    @quick
    @sanitizer
    def test_certificates_that_are_not_good(self):
        """Expired, not valid yet, for servers only, of another authority, of oneself, and none."""
        self.start()
        folder = self.cluster.certificate("")
        self.cluster.use_tls(clients="required", peers="required", tls_clients="required",
                             tls_ca=self.cluster.certificate("ca.pem"))  # fmt: skip
        self.cluster.tls.load_cert_chain(self.cluster.certificate("client.pem"), self.cluster.certificate("client.key"))
        self.node.stop()
        self.cluster.start()
        foreign = os.path.join(self.cluster.directory, "foreign")
        self.cluster.make_certificates(directory=foreign)
        with open(os.path.join(folder, "plain.ext"), "w", encoding="ascii") as file:
            file.write("extendedKeyUsage = clientAuth\n")
        with open(os.path.join(folder, "server.ext"), "w", encoding="ascii") as file:
            file.write("extendedKeyUsage = serverAuth\n")
        make_certificate(folder, "expired", "ca", "plain", "-not_before", "20200101000000Z", "-not_after", "20210101000000Z")
        make_certificate(folder, "early", "ca", "plain", "-not_before", "20990101000000Z", "-not_after", "20991231000000Z")
        make_certificate(folder, "server-only", "ca", "server")
        make_certificate(folder, "self-signed", None, "plain")
        bad = {
            "expired": (folder, "certificate expired"), "early": (folder, "bad certificate"),
            "server-only": (folder, "unsupported certificate"), "self-signed": (folder, "unknown ca"),
            "client": (foreign, "unknown ca|decrypt error|bad certificate"),
            "node-1": (foreign, "unknown ca|decrypt error|bad certificate"),
            None: (None, "handshake failure|certificate required"),
        }  # fmt: skip
        for number in (self.node.port, self.node.peer_port):
            for version in ("tls1_2", "tls1_3"):
                for name, (where, reason) in bad.items():
                    pair = [] if name is None else ["-cert", os.path.join(where, f"{name}.pem"), "-key", os.path.join(where, f"{name}.key")]
                    text = Port(number, self.cluster).ask(f"-{version}", *pair, "-quiet", stdin="PING\r\nQUIT\r\n")
                    self.assertRegex(text, f"alert ({reason})", f"{name}, {version}, port {number}")
                    self.assertNotIn("PONG", text)
        good = ["-cert", os.path.join(folder, "client.pem"), "-key", os.path.join(folder, "client.key")]
        text = Port(self.node.port, self.cluster).ask(*good, "-quiet", stdin="PING\r\nQUIT\r\n")
        self.assertIn("+PONG", text)
        self.assert_alive()


def make_certificate(folder, name, issuer, extensions, *options):
    """NAME.pem and NAME.key, signed by ISSUER.pem (None: by itself) with what EXTENSIONS.ext says."""
    path = lambda suffix, of=name: os.path.join(folder, f"{of}.{suffix}")  # noqa: E731
    commands = [
        ["openssl", "genpkey", "-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-256", "-out", path("key")],
        ["openssl", "req", "-new", "-key", path("key"), "-subj", f"/CN={name}", "-out", path("csr")],
    ]
    if options:
        # `openssl ca` alone sets dates in the past and in the future.
        with open(path("cnf"), "w", encoding="ascii") as file:
            file.write(f"[ca]\ndefault_ca = one\n[one]\ndatabase = {path('index')}\nrand_serial = yes\n"
                       "default_md = sha256\npolicy = any\nunique_subject = no\n[any]\ncommonName = supplied\n")  # fmt: skip
        with open(path("index"), "w", encoding="ascii"):
            pass
        dates = [{"-not_before": "-startdate", "-not_after": "-enddate"}.get(each, each) for each in options]
        commands.append(["openssl", "ca", "-batch", "-notext", "-config", path("cnf"), "-in", path("csr"),
                         "-cert", path("pem", issuer), "-keyfile", path("key", issuer), "-outdir", folder,
                         "-extfile", path("ext", extensions), "-out", path("pem"), *dates])  # fmt: skip
    else:
        signer = ["-CA", path("pem", issuer), "-CAkey", path("key", issuer)] if issuer else ["-key", path("key")]
        commands.append(["openssl", "x509", "-req", "-in", path("csr"), *signer, "-days", "30",
                         "-extfile", path("ext", extensions), "-out", path("pem")])  # fmt: skip
    for command in commands:
        subprocess.run(command, check=True, capture_output=True)
