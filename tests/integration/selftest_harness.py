"""The harness must be able to fail: a checker that cannot reject is worse than none."""

import contextlib
import io
import os
import socket
import struct
import tempfile
import threading
import unittest

from harness import disk
from harness.cluster import REPORTS
from harness.load import Key, Load
from harness.resp import Client, ConnectionLost, ReplyError, encode, shard_of, slot_of
from harness.wait import TimedOut, wait_for
from run import Result


class FakeServer:
    """Answers each connection with one prepared byte string, whatever is asked."""

    def __init__(self, answer):
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.port = self.listener.getsockname()[1]
        self.answer = answer
        self.thread = threading.Thread(target=self._serve, daemon=True)
        self.thread.start()

    def _serve(self):
        while True:
            try:
                connection, _ = self.listener.accept()
            except OSError:
                return
            connection.recv(1 << 16)
            connection.sendall(self.answer)
            connection.close()

    def close(self):
        self.listener.close()


class ForgetfulServer(FakeServer):
    """Acknowledges every SET and answers every GET with nil: it loses everything."""

    def _serve(self):
        while True:
            try:
                connection, _ = self.listener.accept()
            except OSError:
                return
            threading.Thread(target=self._converse, args=(connection,), daemon=True).start()

    @staticmethod
    def _converse(connection):
        while True:
            data = connection.recv(1 << 20)
            if not data:
                return
            answers = data.count(b"$3\r\nSET\r\n") + data.count(b"$4\r\nAUTH\r\n")
            connection.sendall(b"+OK\r\n" * answers + b"$-1\r\n" * data.count(b"$3\r\nGET\r\n"))


class FakeNode:
    def __init__(self, port):
        self.port = port

    def client(self, project=None, **options):
        return Client(self.port, project, **options)


class RespTest(unittest.TestCase):
    def _reply(self, answer, **options):
        server = FakeServer(answer)
        self.addCleanup(server.close)
        with Client(server.port, timeout_s=2, **options) as client:
            return client.call("X")

    def test_replies(self):
        cases = [
            (b"+OK\r\n", "OK"),
            (b":-42\r\n", -42),
            (b"$-1\r\n", None),
            (b"_\r\n", None),
            (b"$4\r\na\r\nb\r\n", b"a\r\nb"),
            (b"*2\r\n:1\r\n*1\r\n$1\r\nx\r\n", [1, [b"x"]]),
            (b"%1\r\n+k\r\n:1\r\n", {"k": 1}),
            (b"#t\r\n", True),
            (b",1.5\r\n", 1.5),
        ]
        for answer, expected in cases:
            self.assertEqual(self._reply(answer), expected)

    def test_errors_and_broken_answers(self):
        with self.assertRaises(ReplyError) as caught:
            self._reply(b"-NOSPACE no room\r\n")
        self.assertEqual(caught.exception.code, "NOSPACE")
        for broken in (b"", b"+OK", b"$5\r\nabc\r\n", b"?\r\n", b"$1\r\nabc\r\n"):
            with self.assertRaises(ConnectionLost):
                self._reply(broken)

    def test_encoding_and_slots(self):
        self.assertEqual(encode("GET", b"k", 7), b"*3\r\n$3\r\nGET\r\n$1\r\nk\r\n$1\r\n7\r\n")
        # Values of the Redis Cluster specification.
        self.assertEqual(slot_of("123456789"), 0x31C3 % 16384)
        self.assertEqual(shard_of("123456789", 8), 0x31C3 * 8 // 16384)


class LoadTest(unittest.TestCase):
    def test_lost_writes_are_found(self):
        server = ForgetfulServer(b"")
        self.addCleanup(server.close)
        node = FakeNode(server.port)
        with Load([node], ["default"], writers_per_project=2) as load:
            load.wait_for_writes(10)
        self.assertGreater(len(load.lost(node)), 0)

    def test_unknown_fate_allows_both_values(self):
        key = Key()
        key.acknowledged = b"1"
        self.assertTrue(key.may_be(b"1"))
        self.assertFalse(key.may_be(b"2"))
        self.assertFalse(key.may_be(None))
        key.unknown = b"2"
        self.assertTrue(key.may_be(b"1") and key.may_be(b"2"))
        self.assertFalse(key.may_be(None) or key.may_be(b"3"))

    def test_writer_keeps_track_of_unknown_fates(self):
        server = FakeServer(b"-UNCERTAIN who knows\r\n")
        self.addCleanup(server.close)
        load = Load([FakeNode(server.port)], ["default"], writers_per_project=1)
        writer = load.writers[0]
        writer.client = Client(server.port)
        writer._write_once()
        self.assertEqual([key.unknown for _, key in writer.expectations()], [b"1"])
        self.assertTrue(load.errors()[0][2].startswith("UNCERTAIN"))


class CountTest(unittest.TestCase):
    class Sample(unittest.TestCase):
        def test_plain(self):
            pass

        def test_several(self):
            self.counts = (5, 0)

        def test_several_with_failures(self):
            self.counts = (7, 2)
            self.fail("on purpose")

        def test_plain_failure(self):
            self.fail("on purpose")

        def test_failed_after_all_inside_passed(self):
            self.counts = (11, 0)
            self.fail("on purpose")

    def test_tests_inside_a_test_count(self):
        result = Result()
        with contextlib.redirect_stdout(io.StringIO()):
            unittest.defaultTestLoader.loadTestsFromTestCase(self.Sample).run(result)
        self.assertEqual(result.n_passed, 1 + 5 + 7 + 11)
        self.assertEqual(result.n_failed(), 2 + 1 + 1)


class LogTest(unittest.TestCase):
    def test_reports_are_found(self):
        for line in (
            "==1==ERROR: AddressSanitizer: heap-use-after-free",
            "x.c:1:2: runtime error: signed integer overflow",
            "WARNING: ThreadSanitizer: data race (pid=1)",
            "assertion failed: a == b (x.c:1, f)",
        ):
            self.assertRegex(line, REPORTS)
        self.assertNotRegex("level=info msg=started", REPORTS)

    def test_records_of_a_segment(self):
        with tempfile.TemporaryDirectory() as folder:
            path = os.path.join(folder, "0000000000000001.seg")
            header = disk.RECORD_HEADER
            first = header.pack(7, 7, 5, disk.ENTRY, 1, 0, 1, 1, 1) + b"abcde\0\0\0"
            second = header.pack(7, 7, 0, 2 | 0x80, 0, 0, 2, 1, 1)
            with open(path, "wb") as file:
                file.write(bytes(disk.BLOCK) + first + second + bytes(4096))
            found = disk.records(path)
            self.assertEqual([(r.type, r.sequence, r.size) for r in found], [(1, 1, 5), (2, 2, 0)])
            self.assertEqual(found[1].offset, disk.BLOCK + len(first))
            disk.flip_bit(path, found[0].payload_offset)
            with open(path, "rb") as file:
                file.seek(found[0].payload_offset)
                self.assertEqual(file.read(1), struct.pack("B", ord("a") ^ 0x10))

    def test_waiting_ends(self):
        with self.assertRaisesRegex(TimedOut, "the moon; last value: 0"):
            wait_for(lambda: 0, "the moon", timeout_s=0.1)
        with self.assertRaisesRegex(TimedOut, "ZeroDivisionError"):
            wait_for(lambda: 1 / 0, "the sun", timeout_s=0.1)
