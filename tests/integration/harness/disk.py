"""Damage to files, small disks, and disks that fail: the storage faults of the tests."""

import os
import struct
import subprocess
import tempfile

from harness.cluster import ROOT

# raft/log_format.h draws the format.
BLOCK = 4096
RECORD_HEADER = struct.Struct("<IIIBBHQQQ")
ENTRY = 1
KNOWN_TYPES = range(1, 9)


class Record:
    def __init__(self, offset, fields):
        self.offset = offset
        _, _, self.size, kind, _, self.group, self.sequence, self.term, self.index = fields
        self.type = kind & 0x7F

    @property
    def payload_offset(self):
        return self.offset + RECORD_HEADER.size

    @property
    def end(self):
        return self.offset + (RECORD_HEADER.size + self.size + 7) // 8 * 8


def records(path):
    """The records of a segment, in order, up to the first place that is not one."""
    with open(path, "rb") as file:
        data = file.read()
    found = []
    offset = BLOCK
    while offset + RECORD_HEADER.size <= len(data):
        fields = RECORD_HEADER.unpack_from(data, offset)
        record = Record(offset, fields)
        previous = found[-1].sequence if found else record.sequence
        if fields[0] == 0 or record.type not in KNOWN_TYPES or record.end > len(data):
            break
        if record.sequence not in (previous, previous + 1):
            break
        found.append(record)
        offset = record.end
    return found


def newest_records(node):
    """(path, records) of the newest segment of a stopped node that has any."""
    for path in reversed(node.segments()):
        found = records(path)
        if found:
            return path, found
    raise AssertionError(f"{node} has no records in its log")


def flip_bit(path, offset):
    with open(path, "r+b") as file:
        file.seek(offset)
        byte = file.read(1)[0]
        file.seek(offset)
        file.write(bytes([byte ^ 0x10]))


def overwrite(path, offset, data):
    with open(path, "r+b") as file:
        file.seek(offset)
        file.write(data)


class SmallDisk:
    """A tmpfs at `path`. Needs root; why() tells when that cannot be had."""

    def __init__(self, path, size_mib):
        self.path = path
        self.ballast_path = os.path.join(path, "ballast")
        os.makedirs(path, exist_ok=True)
        subprocess.run(
            ["mount", "-t", "tmpfs", "-o", f"size={size_mib}m,mode=0700", "tmpfs", path],
            check=True,
            capture_output=True,
        )

    @staticmethod
    def why_not():
        """Why small disks cannot be made here, or None."""
        if os.geteuid() != 0:
            return "needs root to mount a small tmpfs"
        folder = tempfile.mkdtemp(prefix="ikv-mount-")
        try:
            SmallDisk(folder, 1).remove()
            return None
        except subprocess.CalledProcessError as error:
            return f"cannot mount a tmpfs here: {error.stderr.decode().strip()}"
        finally:
            os.rmdir(folder)

    def free_bytes(self):
        status = os.statvfs(self.path)
        return status.f_bavail * status.f_frsize

    def fill(self, leave_bytes=0):
        """Takes the free space but `leave_bytes`; release() gives it back."""
        with open(self.ballast_path, "ab") as file:
            size = max(0, self.free_bytes() - leave_bytes)
            if size:
                os.posix_fallocate(file.fileno(), file.tell(), size)

    def release(self):
        os.unlink(self.ballast_path)

    def remove(self):
        subprocess.run(["umount", "-l", self.path], check=True, capture_output=True)


class FailingSync:
    """A preloaded library whose fsync and fdatasync fail while a trigger file is there."""

    SOURCE = os.path.join(ROOT, "tests/integration/failing_sync.c")

    def __init__(self, directory):
        self.library = os.path.join(directory, "failing_sync.so")
        self.trigger = os.path.join(directory, "syncs-fail")
        subprocess.run(
            ["cc", "-shared", "-fPIC", "-O1", "-Wall", "-o", self.library, self.SOURCE, "-ldl"],
            check=True,
        )

    def environment(self):
        return {"LD_PRELOAD": self.library, "FAILING_SYNC_TRIGGER": self.trigger}

    def fail(self):
        with open(self.trigger, "w", encoding="ascii"):
            pass

    def heal(self):
        os.unlink(self.trigger)
