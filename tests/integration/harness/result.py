"""What became of a test, told as it ends and kept for the end of the run."""

import time
import unittest

REASON_MAX = 160


def name_of(test):
    test = getattr(test, "test_case", test)
    return test.id()


def reason_of(err):
    """An exception in one short line."""
    kind, value, _ = err
    lines = [line.strip() for line in str(value).splitlines() if line.strip()]
    text = f"{kind.__name__}: {lines[0]}" if lines else kind.__name__
    return text if len(text) <= REASON_MAX else text[: REASON_MAX - 3] + "..."


class Result(unittest.TestResult):
    """Prints how each test ends. A test that runs several, as those of the Node.js clients do, says how
    many in its attribute `counts`: (passed, failed)."""

    def __init__(self):
        super().__init__()
        self.n_passed = 0
        self.reasons = []  # why tests failed

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
        self.reasons.append(reason_of(err))
        print(self.failures[-1][1], flush=True)

    def addError(self, test, err):
        super().addError(test, err)
        self.reasons.append(reason_of(err))
        print(self.errors[-1][1], flush=True)

    def addSubTest(self, test, subtest, err):
        super().addSubTest(test, subtest, err)
        if err is not None:
            self.reasons.append(reason_of(err))
            print(f"    in {subtest}:\n{(self.failures + self.errors)[-1][1]}", flush=True)

    def n_failed(self):
        """Tests that failed; one that failed in several places counts once."""
        failed = [getattr(test, "test_case", test) for test, _ in self.failures + self.errors]
        counts = {id(test): getattr(test, "counts", (0, 1))[1] for test in failed}
        return sum(max(1, count) for count in counts.values())
