"""What tests that run at the same time do once, or one after the other."""

import contextlib
import fcntl
import json
import os

from harness.cluster import Options


@contextlib.contextmanager
def exclusive(name):
    """No other test of this run is in a block of this name meanwhile. Gives an open file that the
    blocks share."""
    with open(os.path.join(Options.run_directory, name), "a+", encoding="utf-8") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield file


def once_per_run(name, work):
    """What work() returned in the first test that got here; the others wait for it. If it raises, the
    next one tries."""
    with exclusive(name) as file:
        file.seek(0)
        text = file.read()
        if not text:
            text = json.dumps(work())
            file.write(text)
    return json.loads(text)
