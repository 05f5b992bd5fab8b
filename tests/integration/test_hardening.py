"""How the program is built, and what it says when it crashes."""

import os
import platform
import re
import signal
import subprocess
import tempfile

from harness.case import ClusterTest, quick
from harness.cluster import Options


def output_of(*command):
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def hardening_gaps(path, function):
    """What is missing in a program, in words. `function` is one of its own."""
    headers = output_of("readelf", "-hldW", path)
    symbols = output_of("readelf", "-W", "--dyn-syms", path)
    stack = re.search(r"GNU_STACK.* (RWE|RW) ", headers)
    checks = {
        "position independent (PIE)": re.search(r"FLAGS_1.*\bPIE\b", headers),
        "relocations read-only (RELRO)": re.search(r"^ *GNU_RELRO ", headers, re.M),
        "all symbols bound at start (BIND_NOW)": re.search(r"\(FLAGS\).*BIND_NOW", headers),
        "stack not executable": stack and stack[1] == "RW",
        "stack protector": "__stack_chk_fail" in symbols,
        "FORTIFY": re.search(r"__(snprintf|memcpy|printf)_chk", symbols),
        "build id": re.search(r"Build ID: [0-9a-f]{40}", output_of("readelf", "-nW", path)),
    }
    if platform.machine() == "x86_64":
        code = output_of("objdump", "-d", f"--disassemble={function}", path)
        checks["branch targets marked (CET)"] = "endbr64" in code
    return [name for name, found in checks.items() if not found]


class HardeningTest(ClusterTest):
    def setUp(self):
        if Options.sanitizer():
            self.skipTest("about the release build")

    @quick
    def test_program_is_hardened(self):
        self.assertEqual(hardening_gaps(Options.binary, "server_open"), [])

    @quick
    def test_a_soft_program_is_found_out(self):
        with tempfile.TemporaryDirectory(prefix="ikv-test-") as folder:
            source = os.path.join(folder, "soft.c")
            program = os.path.join(folder, "soft")
            with open(source, "w", encoding="ascii") as file:
                file.write('#include <stdio.h>\nint main(void) { char t[9]; return gets_n(t); }\n')
                file.write("int gets_n(char *t) { return snprintf(t, 9, \"%d\", 1); }\n")
            flags = "-w -O2 -no-pie -fno-pie -fno-stack-protector -U_FORTIFY_SOURCE -fcf-protection=none"
            links = "-z,norelro -z,lazy -z,execstack --build-id=none".split()
            subprocess.run(
                ["cc", *flags.split(), source, "-o", program, *(f"-Wl,{link}" for link in links)],
                check=True,
            )
            gaps = hardening_gaps(program, "main")
        self.assertEqual(len(gaps), 8 if platform.machine() == "x86_64" else 7, gaps)


class CrashTest(ClusterTest):
    """No two crashes are alike, so the signals are sent from outside."""

    def _crash(self, number):
        node = self.start_cluster(1, shards=1)[1]
        node.may_report = True
        node.process.send_signal(number)
        self.assertEqual(node.wait_exit(), -number, "the default action follows")
        return node.log()

    @quick
    def test_a_crash_explains_itself(self):
        if Options.sanitizer():
            self.skipTest("sanitizers report themselves")
        build_id = re.search(r"Build ID: ([0-9a-f]+)", output_of("readelf", "-nW", Options.binary))[1]
        version = output_of(Options.binary, "--version").split()[1]
        for number in (signal.SIGSEGV, signal.SIGABRT, signal.SIGBUS):
            with self.subTest(signal=number.name):
                log = self._crash(number)
                self.assertRegex(
                    log,
                    f"event=crash signal={number.name} .*version={re.escape(version)} "
                    f"build_id={build_id}\nbacktrace:\n",
                )
                frames = log.split("backtrace:\n")[1].splitlines()
                self.assertTrue(any("(main+0x" in frame for frame in frames), frames)
                self.assertIn(f"build_id={build_id}", log.splitlines()[0])
