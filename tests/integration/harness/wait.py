"""Waiting with generous deadlines: tests never sleep for a fixed time and hope."""

import time


class TimedOut(AssertionError):
    pass


class Hopeless(Exception):
    """Raised by a condition that can never come true."""


def wait_for(condition, what, timeout_s=30, pause_s=0.05):
    """Waits until condition() is true and returns its value. Exceptions of the usual kinds while a
    cluster changes count as "not yet"; the last one is told when the time is over."""
    deadline = time.monotonic() + timeout_s
    last = None
    while True:
        try:
            value = condition()
            if value:
                return value
            last = f"last value: {value!r}"
        except Hopeless as error:
            raise AssertionError(f"waited for {what}; {error}") from None
        except Exception as error:  # noqa: BLE001 - told below
            last = f"last error: {error!r}"
        if time.monotonic() > deadline:
            raise TimedOut(f"waited {timeout_s} s for {what}; {last}")
        time.sleep(pause_s)
