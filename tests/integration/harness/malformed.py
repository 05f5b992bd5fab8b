"""Malformed input for every port of a node: garbage, and valid traffic that was damaged.

An input is one damaged request, frame or handshake. `Attack` sends many of them from a few processes,
over connections that it ends by saying that no more comes: the node has to close each of them then.
Everything follows from one seed."""

import collections
import multiprocessing
import os
import random
import socket
import ssl
import struct
import time

from harness.peer import frame, make_hello
from harness.resp import encode

TARGETS = ("resp", "peer", "http", "tls clients", "tls peers")
WEIGHTS = (35, 20, 18, 15, 12)
ANSWER_S = 30  # for the node to close a connection whose client has ended


def _commands(generator):
    """Valid commands in projects of their own; none that concerns the cluster."""
    key = f"k{generator.randrange(50)}"
    value = generator.randbytes(generator.choice((0, 1, 5, 100, 5000)))
    number = generator.randrange(-5, 10**6)
    return generator.choice((
        ("SET", key, value), ("SET", key, value, "EX", number), ("GET", key), ("DEL", key, "x", "y"),
        ("MSET", key, value, "b", "c"), ("MGET", key, "b", "c"), ("INCR", "n"), ("INCRBYFLOAT", "f", "1.5"),
        ("APPEND", key, value), ("SETRANGE", key, number % 5000, value), ("GETRANGE", key, number, -1),
        ("EXPIRE", key, number), ("PEXPIREAT", key, number), ("SCAN", number, "MATCH", "*[a-", "COUNT", "9"),
        ("KEYS", "*" * 20 + "x"), ("RENAME", key, "z"), ("COPY", key, "z", "REPLACE"), ("FLUSHDB",),
        ("MULTI",), ("EXEC",), ("DISCARD",), ("WATCH", key), ("WATCHVER", key, number), ("HELLO", 3),
        ("HELLO", 2, "AUTH", "bad-1", "x"), ("AUTH", f"bad-{generator.randrange(20)}", value),
        ("PROJECT", "CREATE", f"bad-{generator.randrange(20)}"), ("PROJECT", "INFO"), ("PROJECT", "LIST"),
        ("PROJECT", "TOKEN", "ADD", "bad-2", "READONLY"), ("PROJECT", "DELETE", "bad-3"), ("CLIENT", "LIST"),
        ("CLIENT", "SETNAME", value[:20]), ("COMMAND", "DOCS", "get"), ("COMMAND",), ("CONFIG", "GET", "*"),
        ("INFO",), ("SUBSCRIBE", key), ("PSUBSCRIBE", "*"), ("UNSUBSCRIBE",), ("WATCHKEYS", "k"),
        ("UNWATCHKEYS",), ("ONCE", "OPEN"), ("ONCE", "f" * 32, number, "SET", key, value),
        ("CONSISTENCY", "SESSION", value), ("CONSISTENCY", "EVENTUAL", "MAXSTALE", number), ("TOKEN",),
        ("READONLY",), ("CLUSTER", "TOPOLOGY"), ("CLUSTER", "KEYSLOT", value), ("OBJECT", "ENCODING", key),
        ("MEMORY", "USAGE", key, "SAMPLES", number), ("ECHO", value), ("PING",), ("RESET",), ("QUIT",),
    ))  # fmt: skip


_LENGTHS = (b"-1", b"0", b"1", b"-0", b"00", b"999999999999999999999", b"2147483648", b"536870913", b"16777217",
            b"1048577", b"65537", b"", b"x", b"+5", b" 5", b"5 ", b"1e3", b"0x10", b"18446744073709551616")  # fmt: skip


def damage(generator, data, times=None):
    """A few small wounds."""
    data = bytearray(data)
    for _ in range(times or generator.choice((1, 1, 1, 2, 3, 6))):
        at = generator.randrange(len(data) + 1)
        end = min(len(data), at + generator.choice((1, 1, 2, 4, 16, 200)))
        kind = generator.randrange(8)
        if kind == 0 and at < len(data):
            data[at] ^= 1 << generator.randrange(8)
        elif kind == 1 and at < len(data):
            data[at] = generator.choice((0, 10, 13, 32, 36, 42, 45, 58, 127, 128, 255))
        elif kind == 2:
            del data[at:end]
        elif kind == 3:
            data[at:at] = data[at:end]
        elif kind == 4:
            data[at:at] = generator.randbytes(end - at + 1)
        elif kind == 5:
            del data[at:]
        elif kind == 6:
            data[at:at] = generator.choice((b"\r\n", b"\n", b"\0", b'"', b"'", b"\\x", b"$", b"*3\r\n"))
        else:
            data[at:end] = generator.choice(_LENGTHS)
    return bytes(data)


def _resp(generator):
    kind = generator.randrange(20)
    if kind == 0:
        return generator.randbytes(generator.randrange(1, 3000))
    if kind == 1:
        return b" ".join(generator.randbytes(generator.randrange(1, 20)) for _ in range(5)) + b"\r\n"
    if kind == 2:
        return b"*%s\r\n$%s\r\n" % (generator.choice(_LENGTHS), generator.choice(_LENGTHS))
    if kind == 3:
        return b"*2\r\n$4\r\nECHO\r\n$%d\r\n" % generator.choice((100, 40000, 10**6, 16 << 20)) + b"x" * 50
    if kind == 4:
        words = [generator.choice(("SET", "get", "a", '"', "'", "\\x0", '"a\\"b"', "''", "\t")) for _ in range(6)]
        return (" ".join(words) + "\r\n").encode()
    if kind == 5:
        return encode(*[generator.randbytes(generator.randrange(8)) for _ in range(generator.randrange(1, 40))])
    return damage(generator, b"".join(encode(*_commands(generator)) for _ in range(generator.choice((1, 1, 3)))))


def _peer(generator):
    kind = generator.randrange(8)
    if kind == 0:
        return generator.randbytes(generator.randrange(1, 3000))
    hello = make_hello("test", generator.choice((0, 2, 3, 77)), generator.choice((0, 1, 2, 1 << 63)),
                       boot=generator.randrange(1 << 32))  # fmt: skip
    if kind == 1:
        return hello + generator.randbytes(generator.randrange(200))
    if kind <= 4:
        # Sound on the outside: the checksum is right.
        body = damage(generator, hello[16:])
        return frame(generator.choice((0, 1, 1, 1, 2, 9, 255)), body, version=generator.choice((0, 1, 1, 1, 9)))
    if kind == 5:
        size = generator.choice((0, 1, 1 << 16, 1 << 24, (1 << 32) - 1))
        return hello[:8] + struct.pack("<I", size) + generator.randbytes(100)
    return damage(generator, hello * generator.choice((1, 1, 2)))


def _http(generator):
    path = generator.choice(("/metrics", "/readyz", "/readyz?format=json", "/livez", "/", "*", "/%", "/%zz%00"))
    headers = generator.choice(("", "Host: x\r\n", "Content-Length: -1\r\n", "Content-Length: 99999999999999\r\n",
                                "Transfer-Encoding: chunked\r\n", "Expect: 100-continue\r\nContent-Length: 5\r\n",
                                "Connection: Upgrade\r\nUpgrade: websocket\r\n", "Range: bytes=0-\r\n",
                                "Cookie: " + "a=b;" * 300 + "\r\n", "X: " + "y" * 9000 + "\r\n",
                                "a:b\r\n" * 200, "Host: x\r\n folded\r\n", ":\r\n", "\0: \0\r\n"))  # fmt: skip
    method = generator.choice(("GET", "HEAD", "POST", "PUT", "OPTIONS", "CONNECT", "TRACE", "G" * 3000, "get"))
    version = generator.choice(("HTTP/1.1", "HTTP/1.0", "HTTP/2.0", "HTTP/9", "http/1.1", ""))
    body = generator.choice((b"", b"5\r\nhello\r\n0\r\n\r\n", b"ffffffffffffffff\r\n", b"x" * 500))
    request = f"{method} {path} {version}\r\n{headers}\r\n".encode() + body
    kind = generator.randrange(6)
    if kind == 0:
        return generator.randbytes(generator.randrange(1, 3000))
    if kind == 1:
        return b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n" * 3 + damage(generator, request)
    return request if kind == 2 else damage(generator, request)


def client_hello(generator):
    """What OpenSSL says first, in one of its moods."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    if generator.randrange(2):
        context.maximum_version = ssl.TLSVersion.TLSv1_2
    if generator.randrange(2):
        context.set_alpn_protocols(["h2", "http/1.1"])
    outgoing = ssl.MemoryBIO()
    name = generator.choice((None, "localhost", "x.example." * 20 + "org"))
    stream = context.wrap_bio(ssl.MemoryBIO(), outgoing, server_hostname=name)
    try:
        stream.do_handshake()
    except ssl.SSLWantReadError:
        pass
    return outgoing.read()


def _record(kind, version, body):
    return struct.pack(">BHH", kind, version, len(body) & 0xFFFF) + body


def _tls(generator, hello):
    kind = generator.randrange(12)
    if kind == 0:
        return b"\x16" + generator.randbytes(generator.randrange(1, 3000))
    if kind == 1:
        return _record(generator.choice((20, 21, 22, 23, 24)), generator.choice((0x300, 0x301, 0x303, 0x304, 0xFFFF)),
                       generator.randbytes(generator.randrange(300)))  # fmt: skip
    if kind == 2:
        return hello + _record(generator.choice((20, 21, 22, 23, 24)), 0x303, generator.randbytes(50))
    if kind == 3:
        # The same in records of a few bytes.
        body = damage(generator, hello[5:])
        size = generator.choice((1, 3, 50))
        return b"".join(_record(22, 0x301, body[i : i + size]) for i in range(0, min(len(body), 200), size))
    if kind == 4:
        body = generator.randbytes(40)
        return _record(22, 0x303, bytes([generator.randrange(256)]) + struct.pack(">I", len(body))[1:] + body)
    if kind == 5:
        return b"\x80\x2e\x01\x03\x01" + generator.randbytes(46)  # as SSL 2 began
    if kind == 6:
        return hello * 2
    return hello[:1] + damage(generator, hello[1:])


class Tally(collections.Counter):
    """inputs, connections, answers (bytes came back), resets, stuck; and per target."""


class Attacker:
    def __init__(self, seed, ports, end_s):
        self.generator = random.Random(seed)
        self.ports = ports
        self.end_s = end_s
        self.tally = Tally()
        self.stuck = []
        # Making one is slow, damaging one is not.
        self.hellos = [client_hello(self.generator) for _ in range(20)]

    def run(self, count):
        while self.tally["inputs"] < count and time.monotonic() < self.end_s:
            target = self.generator.choices(TARGETS, WEIGHTS)[0]
            pieces = [self._input(target) for _ in range(self.generator.choice((1, 1, 1, 4)) if target == "resp" else 1)]
            self.tally["inputs"] += len(pieces)
            self.tally[target] += len(pieces)
            self.tally["connections"] += 1
            self._connect(target, pieces)

    def _input(self, target):
        if target == "resp":
            return _resp(self.generator)
        if target == "peer":
            return _peer(self.generator)
        if target == "http":
            return _http(self.generator)
        return _tls(self.generator, self.generator.choice(self.hellos))

    def _connect(self, target, pieces):
        # Many addresses: ports of one do not last, and bounds for each address are not what is tested.
        address = f"127.{self.generator.randrange(1, 200)}.{self.generator.randrange(1, 255)}.1"
        try:
            with socket.socket() as connection:
                connection.settimeout(ANSWER_S)
                connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                connection.bind((address, 0))
                connection.connect(("127.0.0.1", self.ports[target]))
                self._talk(target, connection, pieces)
        except TimeoutError:
            self.tally["stuck"] += 1
            self.stuck.append(f"{target}: {pieces[-1][:200]!r}")
        except OSError:
            self.tally["resets"] += 1

    def _talk(self, target, connection, pieces):
        kind = self.generator.randrange(10)
        for piece in pieces:
            connection.sendall(piece)
        if kind == 0:
            # Gone without a word: the kernel says that it was reset.
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            return
        connection.shutdown(socket.SHUT_WR)
        size = 0
        while data := connection.recv(1 << 16):
            size += len(data)
        self.tally["answers"] += size > 0


def _work(seed, ports, count, end_s, results):
    try:
        attacker = Attacker(seed, ports, end_s)
        attacker.run(count)
        results.put((dict(attacker.tally), attacker.stuck[:5]))
    except BaseException as error:
        results.put(({}, [f"the attacker itself failed: {error!r}"]))
        raise


class Attack:
    """`ports`: {target: port}. Begins at once."""

    def __init__(self, ports, count, processes=3, seed=None, limit_s=3600):
        self.seed = int(os.environ.get("MALFORMED_SEED", seed or random.randrange(1 << 32)))
        # The test has threads: a fork might inherit a lock that one of them holds.
        context = multiprocessing.get_context("spawn")
        self.results = context.Queue()
        end_s = time.monotonic() + limit_s
        self.processes = [
            context.Process(
                target=_work, args=(f"{self.seed}-{i}", ports, count // processes, end_s, self.results), daemon=True
            )
            for i in range(processes)
        ]
        for process in self.processes:
            process.start()

    def join(self):
        """(tally of all, examples of inputs whose connection the node did not close)"""
        total, stuck = Tally(), []
        for _ in self.processes:
            tally, examples = self.results.get(timeout=4000)
            total.update(tally)
            stuck += examples
        for process in self.processes:
            process.join(30)
        return total, stuck
