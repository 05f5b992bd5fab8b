"""Runs tests in processes of their own, several at a time.

Each test gets a process group and prints into a file that is shown when the test has ended, so that
what belongs together stays together. A test that hangs is ended, and so is what a test left running."""

import ctypes
import faulthandler
import json
import os
import signal
import sys
import tempfile
import time

from harness.result import Result, name_of

PR_SET_PDEATHSIG = 1
POLL_S = 0.02
GRACE_S = 60  # for the cleanups of a test that was told to end


class Outcome:
    """Of one test that has ended."""

    def __init__(self, name, passed=0, failed=0, skipped=0, reasons=(), seconds=0.0, cpu_s=0.0):
        self.name = name
        self.passed = passed
        self.failed = failed
        self.skipped = skipped
        self.reasons = list(reasons)
        self.seconds = seconds
        self.cpu_s = cpu_s

    def reason(self):
        if not self.reasons:
            return "it gave no reason"
        more = f" (and {len(self.reasons) - 1} more)" if len(self.reasons) > 1 else ""
        return self.reasons[0] + more


class _Running:
    def __init__(self, test, folder, number, is_live):
        self.test = test
        self.started = time.monotonic()
        self.output_path = os.path.join(folder, f"{number}.output")
        self.outcome_path = os.path.join(folder, f"{number}.outcome")
        self.is_live = is_live
        self.asked_at = None  # when it was told to end
        self.was_too_long = False
        self.pid = None

    def seconds(self):
        return time.monotonic() - self.started

    def signal(self, number):
        try:
            os.kill(self.pid, number)
        except ProcessLookupError:
            pass


class Runner:
    """run() returns when all its tests have ended. Their outcomes are in `outcomes`, in the order in
    which they ended."""

    def __init__(self, n_tests, limit_s):
        self.n_tests = n_tests  # in all calls of run()
        self.limit_s = limit_s  # function of a test: seconds that it may take
        self.outcomes = []
        self.interrupted = False
        self.running = []
        self.n_started = 0
        self.started = time.monotonic()

    def interrupt(self):
        """Ends the running tests, which clean up, and starts no more. Fit for a signal handler."""
        self.interrupted = True

    def run(self, tests, jobs):
        """`jobs` at a time, begun in the order given."""
        waiting = list(tests)
        with tempfile.TemporaryDirectory(prefix="ikv-run-") as folder:
            while waiting or self.running:
                if self.interrupted:
                    waiting.clear()
                while waiting and len(self.running) < jobs:
                    self._start(waiting.pop(0), folder, jobs)
                self._look_after()
                time.sleep(POLL_S)

    # --- this process --------------------------------------------------------------------------

    def _start(self, test, folder, jobs):
        self.n_started += 1
        item = _Running(test, folder, self.n_started, is_live=jobs == 1)
        sys.stdout.flush()
        sys.stderr.flush()
        item.pid = os.fork()
        if item.pid == 0:
            _be_the_test(item)
        self.running.append(item)

    def _look_after(self):
        for item in list(self.running):
            if self._has_ended(item):
                self.running.remove(item)
                self._finish(item)
            elif item.asked_at is not None:
                if time.monotonic() > item.asked_at + GRACE_S:
                    _kill_group(item.pid)
            elif self.interrupted or item.seconds() > self.limit_s(item.test):
                item.was_too_long = not self.interrupted
                item.asked_at = time.monotonic()
                if item.was_too_long:
                    item.signal(signal.SIGUSR1)  # it tells where its threads are
                item.signal(signal.SIGTERM)

    @staticmethod
    def _has_ended(item):
        # Not reaped yet, so that the number of its process group cannot be anybody else's.
        return os.waitid(os.P_PID, item.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None

    def _finish(self, item):
        _kill_group(item.pid)
        _, status, usage = os.wait4(item.pid, 0)
        outcome = _read_outcome(item, status)
        outcome.seconds = item.seconds()
        outcome.cpu_s = usage.ru_utime + usage.ru_stime
        if item.was_too_long:
            outcome.failed = max(1, outcome.failed)
            outcome.reasons.insert(0, f"still ran after {self.limit_s(item.test)} s and was ended")
        self.outcomes.append(outcome)
        if not item.is_live:
            self._show(item, outcome)

    def _show(self, item, outcome):
        verdict = "FAILED" if outcome.failed else "skipped" if outcome.skipped else "ok"
        print(
            f"[{time.monotonic() - self.started:4.0f} s] {len(self.outcomes)}/{self.n_tests} {verdict}: "
            f"{outcome.name} ({outcome.seconds:.1f} s)"
        )
        with open(item.output_path, encoding="utf-8", errors="replace") as file:
            for line in file:
                # Such lines only repeat what stands above.
                if line.startswith("    ok (") or line == f"{outcome.name} ...\n":
                    continue
                print(line, end="")
        sys.stdout.flush()


def _read_outcome(item, status):
    name = name_of(item.test)
    try:
        with open(item.outcome_path, encoding="utf-8") as file:
            return Outcome(name, **json.load(file))
    except (OSError, ValueError):
        code = os.waitstatus_to_exitcode(status)
        how = f"by signal {-code}" if code < 0 else f"with status {code}"
        return Outcome(name, failed=1, reasons=[f"its process ended {how} and told no outcome"])


def _kill_group(pid):
    try:
        os.killpg(pid, signal.SIGKILL)
    except (ProcessLookupError, PermissionError):
        pass


# --- the process of a test -------------------------------------------------------------------------


def _be_the_test(item):
    """Never returns."""
    status = 1
    try:
        os.setpgid(0, 0)
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, _end)
        _redirect(item)
        faulthandler.register(signal.SIGUSR1)
        _write_outcome(item, _run(item.test))
        status = 0
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)


def _end(*_):
    """An exception in the test, so that it cleans up."""
    raise SystemExit("ended by a signal")


def _redirect(item):
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    if not item.is_live:
        output = os.open(item.output_path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        os.dup2(output, 1)
        os.dup2(output, 2)
        sys.stdout = open(1, "w", encoding="utf-8", errors="replace", closefd=False)
        sys.stderr = sys.stdout


def _run(test):
    result = Result()
    try:
        test.run(result)
    except BaseException as error:  # noqa: BLE001 - told as the reason
        result.addError(test, (type(error), error, error.__traceback__))
    return {
        "passed": result.n_passed,
        "failed": result.n_failed(),
        "skipped": len(result.skipped),
        "reasons": result.reasons,
    }


def _write_outcome(item, outcome):
    with open(item.outcome_path + ".new", "w", encoding="utf-8") as file:
        json.dump(outcome, file)
    os.rename(item.outcome_path + ".new", item.outcome_path)
