"""A small RESP client for what the harness itself asks of nodes."""

import socket

PROJECTS = 1000


class ReplyError(Exception):
    """An error reply; `code` is its first word."""

    def __init__(self, text):
        super().__init__(text)
        self.code = text.split(" ", 1)[0]


def encode(*arguments):
    parts = [b"*%d\r\n" % len(arguments)]
    for argument in arguments:
        data = argument if isinstance(argument, bytes) else str(argument).encode()
        parts += [b"$%d\r\n" % len(data), data, b"\r\n"]
    return b"".join(parts)


class Client:
    """One connection, with a deadline on everything; OSError when it is lost."""

    def __init__(self, address, timeout_s=2):
        self.socket = socket.create_connection(address, timeout_s)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.file = self.socket.makefile("rb")

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    def close(self):
        self.file.close()
        self.socket.close()

    def call(self, *arguments):
        self.socket.sendall(encode(*arguments))
        return self._read()

    def _read(self):
        line = self.file.readline()
        if not line.endswith(b"\r\n"):
            raise OSError("closed by the server")
        kind, rest = line[:1], line[1:-2]
        if kind == b"+":
            return rest.decode()
        if kind == b"-":
            raise ReplyError(rest.decode())
        if kind == b":":
            return int(rest)
        if kind == b"$":
            return None if rest == b"-1" else self.file.read(int(rest) + 2)[:-2]
        if kind == b"*":
            return None if rest == b"-1" else [self._read() for _ in range(int(rest))]
        raise OSError(f"not a RESP2 reply: {line[:80]!r}")


def info_of(client, section):
    """{key: {field: value}} of lines `key:a=1,b=2`, and {key: value} of the others."""
    values = {}
    for line in client.call("INFO", section).decode().splitlines():
        if line and not line.startswith("#"):
            key, value = line.split(":", 1)
            if "=" in value:
                value = dict(part.split("=", 1) for part in value.split(","))
            values[key] = value
    return values


def shards_of(client):
    """[{role, leader, term, commit, applied, ...}] by shard, numbers as int."""
    shards = {}
    for key, fields in info_of(client, "shards").items():
        number = key.removeprefix("shard_").removeprefix("shard")
        if number.isdigit():
            shards[int(number)] = {
                name: int(value) if value.isdigit() else value for name, value in fields.items()
            }
    return [shards[number] for number in sorted(shards)]


def slot_of(project):
    """CRC16 (XMODEM) modulo 16384: the slot that a project lives in."""
    crc = 0
    for byte in project.encode():
        crc ^= byte << 8
        for _ in range(8):
            crc = ((crc << 1) ^ 0x1021 if crc & 0x8000 else crc << 1) & 0xFFFF
    return crc % 16384


def project_in_shard(shard, n_shards, prefix):
    for number in range(PROJECTS):
        if slot_of(f"{prefix}-{number}") * n_shards // 16384 == shard:
            return f"{prefix}-{number}"
    raise AssertionError(f"no project in shard {shard} of {n_shards}")
