"""A small RESP2/RESP3 client over a plain socket, with a deadline on everything it does."""

import socket


class ReplyError(Exception):
    """An error reply. `code` is its first word, such as NOSPACE."""

    def __init__(self, text):
        super().__init__(text)
        self.text = text
        self.code = text.split(" ", 1)[0]


class ConnectionLost(Exception):
    """The connection ended or a deadline passed: what was under way may or may not have happened."""


class Status(str):
    """A simple string reply such as OK."""


def encode(*arguments):
    parts = [b"*%d\r\n" % len(arguments)]
    for argument in arguments:
        if isinstance(argument, str):
            argument = argument.encode()
        elif not isinstance(argument, (bytes, bytearray)):
            argument = str(argument).encode()
        parts += [b"$%d\r\n" % len(argument), argument, b"\r\n"]
    return b"".join(parts)


class Client:
    """One connection. Bulk strings come back as bytes, simple strings as Status, nil as None."""

    def __init__(self, port, project=None, timeout_s=15, protocol=None, credentials=None, tls=None):
        self.timeout_s = timeout_s
        self.pending = bytearray()
        try:
            self.socket = socket.create_connection(("127.0.0.1", port), timeout_s)
            self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            if tls is not None:
                self.socket = tls.wrap_socket(self.socket, server_hostname="127.0.0.1")
        except OSError as error:
            raise ConnectionLost(f"port {port}: {error}") from error
        try:
            if credentials is not None:
                self.call("AUTH", *credentials)
            if protocol is not None:
                self.call("HELLO", protocol)
            if project is not None:
                self.call("AUTH", project, "open")
        except BaseException:
            self.close()
            raise

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    def close(self):
        self.socket.close()

    def send_raw(self, data):
        try:
            self.socket.sendall(data)
        except OSError as error:
            raise ConnectionLost(str(error)) from error

    def send(self, *arguments):
        self.send_raw(encode(*arguments))

    def call(self, *arguments):
        """Sends one command and returns its reply; raises ReplyError for an error reply."""
        self.send(*arguments)
        return self.read()

    def pipeline(self, commands):
        """Sends all commands at once; returns the replies in order, errors among them as values."""
        self.send_raw(b"".join(encode(*command) for command in commands))
        return [self.read(raise_errors=False) for _ in commands]

    def read(self, raise_errors=True):
        reply = self._read_reply()
        if raise_errors and isinstance(reply, ReplyError):
            raise reply
        return reply

    def read_rest(self):
        """Everything until the server closes the connection."""
        while self._fill():
            pass
        rest = bytes(self.pending)
        self.pending.clear()
        return rest

    def _fill(self):
        try:
            data = self.socket.recv(1 << 16)
        except TimeoutError as error:
            raise ConnectionLost(f"no answer within {self.timeout_s} s") from error
        except OSError as error:
            raise ConnectionLost(str(error)) from error
        self.pending += data
        return len(data) > 0

    def _need(self):
        if not self._fill():
            raise ConnectionLost("closed by the server")

    def _read_line(self):
        start = 0
        while True:
            end = self.pending.find(b"\r\n", start)
            if end >= 0:
                line = bytes(self.pending[:end])
                del self.pending[: end + 2]
                return line
            start = max(0, len(self.pending) - 1)
            self._need()

    def _read_exactly(self, size):
        while len(self.pending) < size + 2:
            self._need()
        data = bytes(self.pending[:size])
        if self.pending[size : size + 2] != b"\r\n":
            raise ConnectionLost("a bulk string does not end where it says")
        del self.pending[: size + 2]
        return data

    def _read_reply(self):
        line = self._read_line()
        kind, rest = line[:1], line[1:]
        if kind == b"+":
            return Status(rest.decode())
        if kind == b"-":
            return ReplyError(rest.decode())
        if kind in (b":", b"("):
            return int(rest)
        if kind == b"$":
            return None if rest == b"-1" else self._read_exactly(int(rest))
        if kind == b"=":
            return self._read_exactly(int(rest))[4:]
        if kind in (b"*", b"~", b">"):
            return None if rest == b"-1" else [self._read_reply() for _ in range(int(rest))]
        if kind == b"%":
            return {self._read_reply(): self._read_reply() for _ in range(int(rest))}
        if kind == b"_":
            return None
        if kind == b"#":
            return rest == b"t"
        if kind == b",":
            return float(rest)
        raise ConnectionLost(f"not a RESP reply: {line[:80]!r}")


def slot_of(project):
    """CRC16 (XMODEM) of the name modulo 16384: the slot that a project lives in."""
    crc = 0
    for byte in project.encode():
        crc ^= byte << 8
        for _ in range(8):
            crc = ((crc << 1) ^ 0x1021 if crc & 0x8000 else crc << 1) & 0xFFFF
    return crc % 16384


def shard_of(project, n_shards):
    return slot_of(project) * n_shards // 16384


def project_in_shard(shard, n_shards, prefix="project"):
    """A project name that lives in the given shard."""
    number = 0
    while shard_of(f"{prefix}-{number}", n_shards) != shard:
        number += 1
    return f"{prefix}-{number}"
