"""The disk of the chaos runs, whose power can fail: what was synced stays, the rest is lost or torn.
A disk that forgets too little would find nothing; one that forgets too much finds what is not there."""

import errno
import mmap
import os
import shutil
import sqlite3
import tempfile
import time
import unittest

from harness.case import quick
from harness.cluster import Options, ROOT

CHAOS_HARNESS = os.path.join(ROOT, "chaos", "harness", "disk.py")

SECTOR = 512


def load_chaos_disk():
    """chaos/harness has the name of this folder's harness, so it is loaded by its path."""
    import importlib.util

    spec = importlib.util.spec_from_file_location("chaos_disk", CHAOS_HARNESS)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


chaos_disk = load_chaos_disk()


def program():
    return os.path.join(os.path.dirname(os.path.dirname(Options.binary)), "chaos", "chaos-fs")


def why_not():
    if os.geteuid() != 0:
        return "needs root to mount a FUSE file system"
    if not os.path.exists("/dev/fuse"):
        return "there is no /dev/fuse"
    if not os.path.exists(program()):
        return "chaos-fs was not built: libfuse3-dev is missing"
    return None


class ChaosDiskTest(unittest.TestCase):
    def setUp(self):
        reason = why_not()
        if reason:
            self.skipTest(reason)
        self.directory = tempfile.mkdtemp(prefix="ikv-disk-")
        self.addCleanup(shutil.rmtree, self.directory, ignore_errors=True)
        self.root = os.path.join(self.directory, "mnt")
        self.disk = chaos_disk.ChaosDisk(
            program(),
            self.root,
            os.path.join(self.directory, "control"),
            os.path.join(self.directory, "log"),
        )
        self.addCleanup(self.disk.remove)

    def _path(self, name):
        return os.path.join(self.root, name)

    def _write(self, name, data, sync=True, offset=None):
        flags = os.O_WRONLY | os.O_CREAT | (0 if offset is not None else os.O_TRUNC)
        file = os.open(self._path(name), flags, 0o600)
        os.pwrite(file, data, offset or 0)
        if sync:
            os.fsync(file)
        os.close(file)

    def _read(self, name):
        with open(self._path(name), "rb") as file:
            return file.read()

    def _sync_names(self, folder=""):
        directory = os.open(self._path(folder), os.O_RDONLY | os.O_DIRECTORY)
        os.fsync(directory)
        os.close(directory)

    def _names(self):
        return sorted(os.listdir(self.root))

    @quick
    def test_synced_stays_and_the_rest_is_lost(self):
        self._write("synced", b"s" * 3000)
        self._write("unsynced", b"u" * 3000, sync=False)
        self._write("longer", b"a" * 700)
        self._sync_names()
        self._write("longer", b"b" * 5000, sync=False, offset=700)
        self._write("nameless", b"n" * 10)  # its bytes are on the disk, its name is not
        told = self.disk.unplug(1, chaos_disk.SURVIVE_NONE)
        self.assertGreater(told["lost_sectors"], 0)
        self.assertEqual(told["lost_names"], 1)
        self.assertEqual(self._names(), ["longer", "synced", "unsynced"])
        self.assertEqual(self._read("synced"), b"s" * 3000)
        self.assertEqual(self._read("unsynced"), b"")
        self.assertEqual(self._read("longer"), b"a" * 700)

    @quick
    def test_without_a_power_loss_nothing_is_lost(self):
        self._write("file", b"f" * 3000, sync=False)
        self.assertEqual(self._read("file"), b"f" * 3000)
        self.disk.unplug(1, chaos_disk.SURVIVE_ALL)
        self.assertEqual(self._read("file"), b"f" * 3000)

    @quick
    def test_old_sectors_come_back(self):
        """Written over, cut off, written over twice: the disk has what it had at the last sync."""
        old = bytes(i // SECTOR + 1 for i in range(40 * SECTOR))
        self._write("over", old)
        self._write("cut", old)
        self._sync_names()
        for round_number in range(2):
            self._write("over", bytes([200 + round_number]) * 20 * SECTOR, sync=False, offset=SECTOR)
        os.truncate(self._path("cut"), 3000)
        os.truncate(self._path("cut"), 6000)
        self.assertEqual(self._read("cut"), old[:3000] + bytes(3000))
        self.disk.unplug(1, chaos_disk.SURVIVE_NONE)
        self.assertEqual(self._read("over"), old)
        self.assertEqual(self._read("cut"), old)

    @quick
    def test_torn_sectors_by_seed(self):
        """Each sector is old or new, some are old and some new, and the seed decides."""
        outcomes = []
        for seed in (7, 7, 8):
            self._write("torn", b"o" * 64 * SECTOR)
            self._sync_names()
            self._write("torn", b"n" * 64 * SECTOR, sync=False, offset=0)
            self.disk.unplug(seed, 500)
            data = self._read("torn")
            sectors = [data[i : i + SECTOR] for i in range(0, len(data), SECTOR)]
            self.assertEqual({bytes(s) for s in sectors}, {b"o" * SECTOR, b"n" * SECTOR})
            outcomes.append(data)
        self.assertEqual(outcomes[0], outcomes[1])
        self.assertNotEqual(outcomes[0], outcomes[2])

    @quick
    def test_names(self):
        """Names are durable with their directory: made, renamed over another, removed."""
        self._write("old", b"old")
        self._sync_names()
        self._write("new", b"new")
        os.rename(self._path("new"), self._path("old"))
        self.disk.unplug(1, chaos_disk.SURVIVE_NONE)
        self.assertEqual((self._names(), self._read("old")), (["old"], b"old"))

        self._write("new", b"new")
        os.rename(self._path("new"), self._path("old"))
        self._sync_names()
        self.disk.unplug(1, chaos_disk.SURVIVE_NONE)
        self.assertEqual((self._names(), self._read("old")), (["old"], b"new"))

        os.unlink(self._path("old"))
        self.assertEqual(self._names(), [])
        self.disk.unplug(1, chaos_disk.SURVIVE_NONE)
        self.assertEqual((self._names(), self._read("old")), (["old"], b"new"))

        os.unlink(self._path("old"))
        os.mkdir(self._path("folder"))
        self._sync_names()
        self._write("folder/inside", b"i")
        self.disk.unplug(1, chaos_disk.SURVIVE_NONE)
        self.assertEqual((self._names(), os.listdir(self._path("folder"))), (["folder"], []))

    @quick
    def test_changes_of_names_survive_in_their_order(self):
        lengths = set()
        for seed in range(30):
            for name in "abcd":
                self._write(name, b"x")
            self.disk.unplug(seed, 500)
            names = self._names()
            self.assertEqual(names, list("abcd")[: len(names)])
            lengths.add(len(names))
            for name in names:
                os.unlink(self._path(name))
            self._sync_names()
        self.assertGreater(len(lengths), 2)

    @quick
    def test_a_database_with_a_mapped_index(self):
        """SQLite's WAL maps its index; a committed and synced row survives, and the file is whole."""
        path = self._path("rows.db")
        database = sqlite3.connect(path)
        self.assertEqual(database.execute("PRAGMA journal_mode=WAL").fetchone(), ("wal",))
        database.execute("PRAGMA synchronous=FULL")
        database.execute("CREATE TABLE t (a, b)")
        database.commit()
        self._sync_names()
        for i in range(200):
            database.execute("INSERT INTO t VALUES (?, ?)", (i, "v" * 300))
            database.commit()
        self.assertIn("rows.db-shm", self._names())
        database.execute("INSERT INTO t VALUES (1000, 'not committed')")
        # A second connection keeps the process from checkpointing as the first one closes.
        witness = sqlite3.connect(path)
        self.assertEqual(witness.execute("SELECT count(*) FROM t").fetchone(), (200,))
        self.disk.unplug(3, chaos_disk.SURVIVE_NONE)
        copy = os.path.join(self.directory, "copy.db")
        for suffix in ("", "-wal"):
            shutil.copy(path + suffix, copy + suffix)
        after = sqlite3.connect(copy)
        self.assertEqual(after.execute("PRAGMA integrity_check").fetchone(), ("ok",))
        self.assertEqual(after.execute("SELECT count(*) FROM t").fetchone(), (200,))
        for connection in (database, witness, after):
            connection.close()

    @quick
    def test_mapped_pages_are_shared(self):
        with open(self._path("map"), "wb") as file:
            file.truncate(8192)
        first = os.open(self._path("map"), os.O_RDWR)
        second = os.open(self._path("map"), os.O_RDWR)
        one, other = mmap.mmap(first, 8192), mmap.mmap(second, 8192)
        one[5000:5005] = b"hello"
        self.assertEqual(other[5000:5005], b"hello")
        for thing in (one, other):
            thing.close()
        for file in (first, second):
            os.close(file)

    @quick
    def test_faults(self):
        self._write("file", b"x" * 100)
        self._sync_names()
        self.disk.command("full", 1000)
        with self.assertRaises(OSError) as caught:
            self._write("file", b"y" * 5000)
        self.assertEqual(caught.exception.errno, errno.ENOSPC)
        self.assertLess(os.statvfs(self.root).f_bavail * 4096, 4096)
        self.disk.heal()
        self.disk.command("readonly")
        for attempt in (lambda: self._write("file", b"y"), lambda: os.unlink(self._path("file"))):
            with self.assertRaises(OSError) as caught:
                attempt()
            self.assertEqual(caught.exception.errno, errno.EROFS)
        self.disk.heal()
        self._write("file", b"durable")
        self.disk.command("failsync")
        with self.assertRaises(OSError) as caught:
            self._write("file", b"claimed", offset=0)
        self.assertEqual(caught.exception.errno, errno.EIO)
        self.disk.heal()
        self.disk.unplug(1, chaos_disk.SURVIVE_NONE)
        self.assertEqual(self._read("file"), b"durable")
        self.disk.command("slow", 0, 300)
        started = time.monotonic()
        self._write("file", b"slow")
        self.assertGreaterEqual(time.monotonic() - started, 0.3)
        with self.assertRaises(chaos_disk.DiskError):
            self.disk.command("nonsense")
        self.disk.command("end")
        self.disk.process.wait(10)
        self.assertFalse(os.path.ismount(self.root))
