"""What nodes say to each other, as far as tests forge it; raft/wire.h draws it."""

import struct

_TABLE = []
for _byte in range(256):
    _crc = _byte
    for _ in range(8):
        _crc = (_crc >> 1) ^ (0x82F63B78 if _crc & 1 else 0)
    _TABLE.append(_crc)


def crc32c(data):
    crc = 0xFFFFFFFF
    for byte in data:
        crc = (crc >> 8) ^ _TABLE[(crc ^ byte) & 0xFF]
    return crc ^ 0xFFFFFFFF


def frame(kind, body, version=1):
    """A message with a checksum that is right."""
    header = b"IKVP" + struct.pack("<HBBI", version, kind, 0, len(body))
    return header + struct.pack("<I", crc32c(header + body)) + body


def make_hello(cluster, node_from, node_to, boot=1000):
    """What a node says first to another one."""
    name = cluster.encode()
    body = struct.pack("<I", len(name)) + name
    body += struct.pack("<QQQQQ", node_from, 12345, boot, (boot << 32 | 1) & (1 << 64) - 1, node_to)
    body += struct.pack("<QIHHI", 0, 1, 1, 1, 5) + b"0.1.0"
    return frame(1, body)
