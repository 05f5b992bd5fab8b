"""The base of every integration test, and the marks that choose what runs when."""

import unittest

from harness.cluster import Cluster, Options


def quick(test):
    """Part of `run.py --quick`, for the edit-test loop."""
    test.quick = True
    return test


def sanitizer(test):
    """Also run against the sanitizer builds: it reaches code, errors or lifetimes that similar tests do
    not, and threads that work at the same time."""
    test.sanitizer = True
    return test


def asan(test):
    """Also run against the build with AddressSanitizer, but not with ThreadSanitizer: what it adds is no
    matter of threads."""
    test.asan = True
    return test


def big(test):
    """Needs gigabytes or minutes: only with `run.py --big`."""
    test.big = True
    return test


def long(test):
    """Takes more than 15 s: begins before the others, so that a run does not end with waiting for it."""
    test.long = True
    return test


def alone(test):
    """Needs the machine for itself, since its figures have limits: no other test runs meanwhile."""
    test.alone = True
    return test


class ClusterTest(unittest.TestCase):
    maxDiff = 2000

    def make_cluster(self, n=3, **settings):
        """A cluster that is not started yet. However the test ends, its processes end as well, and
        nothing that a sanitizer or an assertion reported goes unseen."""
        cluster = Cluster(n, **settings)
        self.addCleanup(self._finish, cluster)
        return cluster

    def start_cluster(self, n=3, **settings):
        return self.make_cluster(n, **settings).start()

    def _finish(self, cluster):
        complaints = cluster.complaints()
        failed = bool(complaints) or self._has_failed()
        if Options.sanitizer() and not failed:
            # Leaks and races are reported as a process ends.
            for node in cluster.running():
                node.resume()
                node.stop()
            complaints = cluster.complaints()
        if failed:
            print(f"\n    logs of {self.id()} in {cluster.directory}:")
            print(cluster.log_tails())
        cluster.discard()
        self.assertEqual(complaints, [])

    def _has_failed(self):
        outcome = getattr(self, "_outcome", None)
        result = getattr(outcome, "result", None)
        if result is None:
            return False
        return any(test is self for test, _ in result.failures + result.errors)

    def report(self, text):
        """A figure or a fact for the reader of the test's output."""
        print(f"    {text}", flush=True)
