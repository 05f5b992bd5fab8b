"""Bits that flip in the files of a stopped node."""

import os
import struct

# raft/log_format.h draws the format.
BLOCK = 4096
RECORD_HEADER = struct.Struct("<IIIBBHQQQ")
KNOWN_TYPES = range(1, 9)
PAD = 7
PAGE = 4096


def _records(data):
    """(offset, size with header, sequence) of the records of a segment, up to where they end."""
    found = []
    offset = BLOCK
    while offset + RECORD_HEADER.size <= len(data):
        fields = RECORD_HEADER.unpack_from(data, offset)
        size = RECORD_HEADER.size + fields[2]
        if fields[0] == 0 or fields[3] & 0x7F not in KNOWN_TYPES or offset + size > len(data):
            break
        if found and fields[6] not in (found[-1][2], found[-1][2] + 1):
            break
        found.append((offset, size, fields[6], fields[3] & 0x7F))
        offset += (size + 7) // 8 * 8
    return found


def flip(path, offset, bit):
    with open(path, "r+b") as file:
        file.seek(offset)
        byte = file.read(1)[0]
        file.seek(offset)
        file.write(bytes([byte ^ 1 << bit]))
        os.fsync(file.fileno())


def flip_in_log(folder, random):
    """In a record that others follow: the last batch of a log cannot be told from a torn write."""
    candidates = []
    for name in sorted(os.listdir(folder)):
        if not name.endswith(".seg"):
            continue
        path = os.path.join(folder, name)
        with open(path, "rb") as file:
            records = _records(file.read())
        if records:
            last = records[-1][2]
            candidates += [(path, record) for record in records if record[2] < last and record[3] != PAD]
    if not candidates:
        return "nothing to damage"
    path, (offset, size, _, _) = random.choice(candidates)
    place = offset + random.randrange(size)
    flip(path, place, random.randrange(8))
    return f"{os.path.basename(path)} at {place}"


def flip_in_database(data, random):
    """In a value or in the structure of a page that is in use."""
    names = [name for name in sorted(os.listdir(data)) if name.startswith("shard-") and name.endswith(".db")]
    name = random.choice(names)
    path = os.path.join(data, name)
    place = random.randrange(os.path.getsize(path))
    if random.random() < 0.5:
        # The head of a page of a tree: what kind it is, where its cells begin.
        place = place // PAGE * PAGE + random.randrange(8)
    flip(path, place, random.randrange(8))
    return f"{name} at {place}"
