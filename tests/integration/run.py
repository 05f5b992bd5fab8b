#!/usr/bin/env python3
"""Runs the integration tests: real processes, real sockets, real disks.

    tests/integration/run.py                  all of them, against build/node/invoke-kvd
    tests/integration/run.py failover expiry  only those whose name contains one of the words
    tests/integration/run.py --list           their names

docs/testing.md tells what each file covers.
"""

import argparse
import os
import signal
import sys
import time
import unittest

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, HERE)

from harness.cluster import Options  # noqa: E402


class Result(unittest.TestResult):
    """One line per test as it ends, with its time. A test that runs several, as those of the Node.js
    clients do, says how many in its attribute `counts`: (passed, failed)."""

    def __init__(self):
        super().__init__()
        self.n_passed = 0

    def startTest(self, test):
        super().startTest(test)
        self.started = time.monotonic()
        self.failed_before = len(self.failures) + len(self.errors)
        print(f"{name_of(test)} ...", flush=True)

    def _line(self, verdict):
        print(f"    {verdict} ({time.monotonic() - self.started:.1f} s)", flush=True)

    def stopTest(self, test):
        super().stopTest(test)
        if len(self.failures) + len(self.errors) > self.failed_before:
            self.n_passed += getattr(test, "counts", (0, 1))[0]
            self._line("FAILED")

    def addSuccess(self, test):
        super().addSuccess(test)
        self.n_passed += getattr(test, "counts", (1, 0))[0]
        self._line("ok")

    def addSkip(self, test, reason):
        super().addSkip(test, reason)
        print(f"    SKIPPED {name_of(test)}: {reason}", flush=True)

    def addFailure(self, test, err):
        super().addFailure(test, err)
        print(self.failures[-1][1], flush=True)

    def addError(self, test, err):
        super().addError(test, err)
        print(self.errors[-1][1], flush=True)

    def addSubTest(self, test, subtest, err):
        super().addSubTest(test, subtest, err)
        if err is not None:
            print(f"    in {subtest}:\n{(self.failures + self.errors)[-1][1]}", flush=True)

    def n_failed(self):
        """Tests that failed; one that failed in several places counts once."""
        failed = [getattr(test, "test_case", test) for test, _ in self.failures + self.errors]
        counts = {id(test): getattr(test, "counts", (0, 1))[1] for test in failed}
        return sum(max(1, count) for count in counts.values())


def name_of(test):
    test = getattr(test, "test_case", test)
    return test.id()


class Interruption:
    """SIGTERM and ^C end the running test, so that it cleans up, and then the run."""

    def __init__(self):
        self.happened = False
        signal.signal(signal.SIGTERM, self._end)
        signal.signal(signal.SIGINT, self._end)

    def _end(self, *_):
        self.happened = True
        sys.exit(1)


def flatten(suite):
    for item in suite:
        if isinstance(item, unittest.TestSuite):
            yield from flatten(item)
        else:
            yield item


def is_marked(test, mark):
    method = getattr(test, test._testMethodName, None)
    return getattr(method, mark, False)


def choose(tests, options):
    for test in tests:
        if isinstance(test, unittest.loader._FailedTest):
            yield test
        elif is_marked(test, "big") and not options.big:
            continue
        elif options.quick and not is_marked(test, "quick"):
            continue
        elif options.sanitizer and not is_marked(test, "sanitizer"):
            continue
        elif options.words and not any(word in test.id() for word in options.words):
            continue
        else:
            yield test


def parse_arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("words", nargs="*", help="run only tests whose name contains one of these")
    parser.add_argument("--binary", default=Options.binary, help="the invoke-kvd to test")
    parser.add_argument("--quick", action="store_true", help="the short ones")
    parser.add_argument("--sanitizer", action="store_true", help="those fit for a sanitizer build")
    parser.add_argument("--big", action="store_true", help="also those that need gigabytes and minutes")
    parser.add_argument("--self-test", action="store_true", help="test the harness itself")
    parser.add_argument("--keep", action="store_true", help="keep data and logs of the clusters")
    parser.add_argument("--directory", help="where clusters live (default: the temporary directory)")
    parser.add_argument("--counts", help='file to write "PASSED FAILED" to')
    parser.add_argument("--list", action="store_true", help="only print the names")
    return parser.parse_args()


def main():
    options = parse_arguments()
    Options.binary = os.path.abspath(options.binary)
    Options.directory = options.directory
    Options.keep = options.keep
    Options.big = options.big
    interruption = Interruption()

    pattern = "selftest_*.py" if options.self_test else "test_*.py"
    suite = unittest.TestLoader().discover(HERE, pattern=pattern, top_level_dir=HERE)
    tests = list(choose(flatten(suite), options))
    if options.list:
        print("\n".join(test.id() for test in tests))
        return 0
    if not tests:
        print("no tests were chosen")
        return 1
    if not options.self_test and not os.access(Options.binary, os.X_OK):
        print(f"{Options.binary} is not there: run scripts/build")
        return 1

    started = time.monotonic()
    result = Result()
    result.startTestRun()
    for test in tests:
        test.run(result)
        if interruption.happened:
            print("interrupted")
            break
    print(
        f"\n{result.n_passed} passed, {result.n_failed()} failed, {len(result.skipped)} skipped, "
        f"{time.monotonic() - started:.0f} s"
    )
    if options.counts:
        with open(options.counts, "w", encoding="ascii") as file:
            print(result.n_passed, result.n_failed(), file=file)
    return 0 if result.n_failed() == 0 and not interruption.happened else 1


if __name__ == "__main__":
    sys.exit(main())
