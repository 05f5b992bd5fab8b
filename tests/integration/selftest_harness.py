"""The harness must be able to fail: a checker that cannot reject is worse than none."""

import contextlib
import io
import os
import signal
import socket
import struct
import subprocess
import tempfile
import threading
import time
import unittest

from harness import disk
from harness.case import alone, big, long
from harness.cluster import REPORTS, ROOT, free_port
from harness.load import Key, Load
from harness.redis_cli import SecondsLeft
from harness.resp import Client, ConnectionLost, ReplyError, encode, shard_of, slot_of
from harness.wait import TimedOut, wait_for
from harness.once_per_run import once_per_run
from harness.parallel import Runner
from harness.result import Result
from run import in_order, tell_end


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


    def test_seconds_left(self):
        for shown in ("(integer) 100", "(integer) 85"):
            self.assertEqual(shown, SecondsLeft(100))
        for shown in ("(integer) 101", "(integer) 2", "(integer) -2", "(nil)"):
            self.assertNotEqual(shown, SecondsLeft(100))


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


class RunnerTest(unittest.TestCase):
    """Tests of the samples below run in processes of their own, as all tests do."""

    folder = None  # where samples leave what the test looks at; set before they are forked

    class Sample(unittest.TestCase):
        def note(self, name, text):
            with open(os.path.join(RunnerTest.folder, name), "a", encoding="ascii") as file:
                file.write(text)

        def meet(self, other):
            """Passes only when `other` runs at the same time."""
            self.note(self._testMethodName, "here")
            wait_for(lambda: os.path.exists(os.path.join(RunnerTest.folder, other)), other, 10)

        def test_meet_one(self):
            print("one begins")
            self.meet("test_meet_two")
            print("one ends")

        def test_meet_two(self):
            print("two begins")
            self.meet("test_meet_one")
            print("two ends")

        def test_fails(self):
            self.assertEqual(1, 2, "on purpose")

        def test_fails_in_two_places(self):
            self.addCleanup(self.fail, "the second")
            self.fail("the first")

        @unittest.skip("on purpose")
        def test_skipped(self):
            pass

        def test_crashes(self):
            os.kill(os.getpid(), signal.SIGKILL)

        def test_exits(self):
            os._exit(0)

        def test_hangs(self):
            self.addCleanup(self.note, "cleaned", "yes")
            time.sleep(600)

        def test_leaves_a_process(self):
            process = subprocess.Popen(["sleep", "600"])
            self.note("pid", str(process.pid))

        def test_ports(self):
            self.note("ports", "".join(f"{free_port()}\n" for _ in range(500)))
            names = {"test_ports", "test_ports_again"}
            self.meet((names - {self._testMethodName}).pop())

        test_ports_again = test_ports

        def test_once(self):
            def work():
                self.note("work", "x")
                time.sleep(0.1)
                return "done"

            self.assertEqual(once_per_run("selftest", work), "done")

        test_once_again = test_once

        @long
        def test_a_long_one(self):
            self.note("order", "long ")

        @alone
        def test_0_alone(self):
            self.note("order", "alone ")

        @big
        def test_1_big(self):
            self.note("order", "big ")

        def test_2_short(self):
            self.note("order", "short ")

    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        RunnerTest.folder = folder.name

    def run_samples(self, *names, jobs=2, limit_s=60, meanwhile=None):
        """(outcomes by name, everything that was printed)."""
        tests = [self.Sample(f"test_{name}") for name in names]
        self.runner = Runner(len(tests), lambda _: limit_s)
        timer = threading.Timer(1, meanwhile) if meanwhile else None
        printed = io.StringIO()
        with contextlib.redirect_stdout(printed):
            if timer:
                timer.start()
            for part, at_a_time in zip(in_order(tests), (jobs, 1)):
                self.runner.run(part, at_a_time)
            tell_end(self.runner, jobs)
        return {o.name.rsplit("test_", 1)[1]: o for o in self.runner.outcomes}, printed.getvalue()

    def noted(self, name):
        with open(os.path.join(self.folder, name), encoding="ascii") as file:
            return file.read()

    def test_side_by_side_with_outputs_apart(self):
        outcomes, printed = self.run_samples("meet_one", "meet_two")
        self.assertEqual({o.passed for o in outcomes.values()}, {1}, printed)
        for name in ("one", "two"):
            self.assertIn(f"{name} begins\n{name} ends\n", printed)

    def test_failures_are_named_at_the_end(self):
        names = ["fails", "fails_in_two_places", "skipped", "crashes", "exits", "2_short"]
        outcomes, printed = self.run_samples(*names)
        self.assertEqual({name: o.failed for name, o in outcomes.items()},
                         {"fails": 1, "fails_in_two_places": 1, "skipped": 0, "crashes": 1, "exits": 1, "2_short": 0})
        end = printed[printed.index("\nFailed:") :]
        for text in ("test_fails\n        AssertionError: 1 != 2 : on purpose\n", "the first (and 1 more)",
                     "test_crashes\n        its process ended by signal 9", "1 passed, 4 failed, 1 skipped"):
            self.assertIn(text, end)
        self.assertIn("SKIPPED", printed)
        self.assertNotIn("test_2_short", end)

    def test_what_hangs_is_ended(self):
        started = time.monotonic()
        outcomes, printed = self.run_samples("hangs", limit_s=1)
        self.assertEqual(outcomes["hangs"].failed, 1)
        self.assertIn("still ran after 1 s", outcomes["hangs"].reason())
        self.assertEqual(self.noted("cleaned"), "yes")
        self.assertLess(time.monotonic() - started, 60)

    def test_interruption_cleans_up_and_starts_nothing_more(self):
        outcomes, printed = self.run_samples(
            "hangs", "2_short", jobs=1, meanwhile=lambda: self.runner.interrupt()
        )
        self.assertEqual(list(outcomes), ["hangs"])
        self.assertEqual(self.noted("cleaned"), "yes")
        self.assertIn("interrupted", printed)

    def test_what_a_test_leaves_running_is_ended(self):
        self.run_samples("leaves_a_process")
        stat = f"/proc/{self.noted('pid')}/stat"

        def has_ended():
            with contextlib.suppress(FileNotFoundError), open(stat, encoding="ascii") as file:
                return file.read().split()[2] == "Z"
            return True

        wait_for(has_ended, "the process to end", 10)

    def test_ports_are_not_given_twice(self):
        self.run_samples("ports", "ports_again")
        ports = self.noted("ports").split()
        self.assertEqual((len(ports), len(set(ports))), (1000, 1000))

    def test_once_per_run(self):
        outcomes, _ = self.run_samples("once", "once_again")
        self.assertEqual({o.passed for o in outcomes.values()}, {1})
        self.assertEqual(self.noted("work"), "x")

    def test_order(self):
        self.run_samples("0_alone", "1_big", "2_short", "a_long_one", jobs=1)
        self.assertEqual(self.noted("order"), "long short alone big ")


class UnitCountTest(unittest.TestCase):
    """scripts/lib/count-tests: what scripts/test tells of the unit tests."""

    REPORT = """<testsuite>
<testcase name="unit/good" status="run"><system-out>[  PASSED  ] 7 test(s).</system-out></testcase>
<testcase name="unit/bad" status="fail"><system-out>[ RUN      ] test_one
[       OK ] test_one
[ RUN      ] test_two
[  ERROR   ] --- 1 != 2
[   LINE   ] --- bad.c:12: error: Failure!
[  FAILED  ] test_two
[  PASSED  ] 1 test(s).
[  FAILED  ] tests: 1 test(s), listed below:
[  FAILED  ] test_two
</system-out></testcase>
<testcase name="unit/died" status="fail"><system-out>[ RUN      ] test_three
[       OK ] test_three
[ RUN      ] test_four
</system-out></testcase>
<testcase name="fuzz/one" status="run"><system-out>Done</system-out></testcase>
</testsuite>"""

    def test_counts_and_names(self):
        with tempfile.NamedTemporaryFile("w", suffix=".xml") as file:
            file.write(self.REPORT)
            file.flush()
            result = subprocess.run(
                [os.path.join(ROOT, "scripts/lib/count-tests"), file.name],
                capture_output=True, text=True, check=True,
            )
        self.assertEqual(result.stdout, "9 2\n")
        self.assertEqual(
            result.stderr,
            "FAILED: unit/bad: test_two: 1 != 2: bad.c:12: error: Failure!\n"
            "FAILED: unit/died: ended within test_four\n",
        )


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
