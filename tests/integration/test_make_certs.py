"""scripts/make-certs: what it leaves behind when it cannot finish, and how it goes on."""

import os
import subprocess
import tempfile
import unittest

from harness.case import quick
from harness.cluster import ROOT


def run(directory, *arguments, fails=False):
    done = subprocess.run(
        [os.path.join(ROOT, "scripts/make-certs"), directory, *arguments], capture_output=True, text=True, check=False
    )
    assert (done.returncode != 0) == fails, done.stdout + done.stderr
    return done.stderr


def read(directory, name):
    with open(os.path.join(directory, name), encoding="utf-8") as file:
        return file.read()


def verify(directory, name):
    """That the certificate is of the authority, and of its key."""
    pem, key = (os.path.join(directory, f"{name}.{end}") for end in ("pem", "key"))
    subprocess.run(["openssl", "verify", "-CAfile", os.path.join(directory, "ca.pem"), pem], check=True, capture_output=True)
    ask = [["openssl", "x509", "-noout", "-pubkey", "-in", pem], ["openssl", "pkey", "-pubout", "-in", key]]
    shown = [subprocess.run(command, check=True, capture_output=True).stdout for command in ask]
    assert shown[0] == shown[1], name


class MakeCerts(unittest.TestCase):
    @quick
    def test_goes_on_where_it_was_cut_short(self):
        """Whatever file is missing or empty is made anew, and what is there stays."""
        with tempfile.TemporaryDirectory() as directory:
            run(directory, "blue", "1 2")
            names = ["node-1", "node-2", "client"]
            for name in names:
                verify(directory, name)
            kept = read(directory, "node-2.pem")
            os.remove(os.path.join(directory, "node-1.pem"))
            os.truncate(os.path.join(directory, "client.pem"), 0)
            run(directory, "blue", "1 2")
            for name in names:
                verify(directory, name)
            self.assertEqual(read(directory, "node-2.pem"), kept)
            self.assertFalse([name for name in os.listdir(directory) if name.endswith(".new")])

    @quick
    def test_nothing_is_left_when_it_cannot_sign(self):
        """Without the authority's key it says so, and the next run does not take anything for made."""
        with tempfile.TemporaryDirectory() as directory:
            run(directory, "blue", "1")
            key = os.path.join(directory, "ca.key")
            os.rename(key, key + ".elsewhere")
            said = run(directory, "blue", "1 2", fails=True)
            self.assertIn("no ca.key", said)
            with open(key, "w", encoding="utf-8") as file:
                file.write("no key at all")
            said = run(directory, "blue", "1 2", fails=True)
            self.assertIn("cannot sign node-2.pem", said)
            self.assertFalse(os.path.exists(os.path.join(directory, "node-2.pem")))
            verify(directory, "node-1")
            os.rename(key + ".elsewhere", key)
            run(directory, "blue", "1 2")
            verify(directory, "node-2")
