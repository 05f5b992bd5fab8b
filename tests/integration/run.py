#!/usr/bin/env python3
"""Runs the integration tests: real processes, real sockets, real disks.

    tests/integration/run.py                  all of them, against build/node/invoke-kvd
    tests/integration/run.py failover expiry  only those whose name contains one of the words
    tests/integration/run.py --list           their names

Tests run side by side, each in a process of its own; those marked @alone run at the end, one by one.
docs/testing.md tells what each file covers.
"""

import argparse
import os
import shutil
import signal
import sys
import tempfile
import time
import unittest

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, HERE)

from harness.cluster import Options  # noqa: E402
from harness.parallel import Runner  # noqa: E402

# A test that takes longer hangs. The limits are no figures to meet.
LIMIT_S = 900
LIMIT_SANITIZER_S = 1800
LIMIT_BIG_S = 3600

TOLD_S = 10  # what takes longer is told at the end


def flatten(suite):
    for item in suite:
        if isinstance(item, unittest.TestSuite):
            yield from flatten(item)
        else:
            yield item


def is_marked(test, mark):
    method = getattr(test, test._testMethodName, None)
    return getattr(method, mark, False)


def is_for_sanitizer(test):
    return is_marked(test, "sanitizer") or (Options.sanitizer() == "asan" and is_marked(test, "asan"))


def choose(tests, options):
    for test in tests:
        if isinstance(test, unittest.loader._FailedTest):
            yield test
        elif is_marked(test, "big") and not options.big:
            continue
        elif options.quick and not is_marked(test, "quick"):
            continue
        elif options.sanitizer and not is_for_sanitizer(test):
            continue
        elif options.words and not any(word in test.id() for word in options.words):
            continue
        else:
            yield test


def in_order(tests):
    """(those that run side by side, the longest first; those that run alone)."""
    alone = [test for test in tests if is_marked(test, "alone") or is_marked(test, "big")]
    side_by_side = [test for test in tests if test not in alone]
    side_by_side.sort(key=lambda test: not is_marked(test, "long"))
    return side_by_side, alone


def limit_s(test):
    if is_marked(test, "big"):
        return LIMIT_BIG_S
    return LIMIT_SANITIZER_S if Options.sanitizer() else LIMIT_S


def default_jobs():
    """Tests of the release build wait more than they compute."""
    cores = len(os.sched_getaffinity(0))
    return min(8, cores if Options.sanitizer() else cores * 3 // 2)


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
    parser.add_argument("--jobs", type=int, help="tests at a time (default: from the cores)")
    parser.add_argument("--list", action="store_true", help="only print the names")
    return parser.parse_args()


def tell_end(runner, jobs):
    """The last lines: whatever shows only the end of the output shows what failed."""
    passed = sum(outcome.passed for outcome in runner.outcomes)
    failed = sum(outcome.failed for outcome in runner.outcomes)
    skipped = sum(outcome.skipped for outcome in runner.outcomes)
    seconds = time.monotonic() - runner.started
    cpu_s = sum(outcome.cpu_s for outcome in runner.outcomes)
    longest = sorted(runner.outcomes, key=lambda outcome: -outcome.seconds)[:15]
    longest = [outcome for outcome in longest if outcome.seconds > TOLD_S]
    if longest:
        print("\nLongest:")
        for outcome in longest:
            print(f"    {outcome.seconds:6.1f} s  {outcome.name} ({outcome.cpu_s:.1f} s of CPU)")
    if failed:
        print("\nFailed:")
        for outcome in runner.outcomes:
            if outcome.failed:
                print(f"    {outcome.name}\n        {outcome.reason()}")
    if runner.interrupted:
        print("\ninterrupted")
    print(
        f"\n{passed} passed, {failed} failed, {skipped} skipped, {seconds:.0f} s, "
        f"{cpu_s:.0f} s of CPU, {jobs} at a time"
    )
    return passed, failed


def main():
    options = parse_arguments()
    Options.binary = os.path.abspath(options.binary)
    Options.directory = options.directory
    Options.keep = options.keep
    Options.big = options.big

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
    jobs = min(options.jobs or default_jobs(), len(tests))
    if jobs < 1:
        print("--jobs takes a number from 1")
        return 1

    runner = Runner(len(tests), limit_s)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: runner.interrupt())
    Options.run_directory = tempfile.mkdtemp(prefix="ikv-run-")
    try:
        side_by_side, alone = in_order(tests)
        runner.run(side_by_side, jobs)
        runner.run(alone, 1)
    finally:
        shutil.rmtree(Options.run_directory, ignore_errors=True)
    passed, failed = tell_end(runner, jobs)
    if options.counts:
        with open(options.counts, "w", encoding="ascii") as file:
            print(passed, failed, file=file)
    return 0 if failed == 0 and not runner.interrupted else 1


if __name__ == "__main__":
    sys.exit(main())
