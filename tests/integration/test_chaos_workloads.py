"""The clients and the judge of the chaos runs, chaos/workload and chaos/check, on three nodes."""

import json
import os
import re
import subprocess
import time

from harness.case import ClusterTest, quick, sanitizer
from harness.cluster import REPORTS, Options

WORKLOADS = (
    "register counter cas bank clear quota ttl session eventual watch large".split()
)


def program(name):
    return os.path.join(os.path.dirname(os.path.dirname(Options.binary)), "chaos", name)


def check(*arguments, timeout_s=120):
    """Exit status and output of chaos-check."""
    result = subprocess.run(
        [program("chaos-check"), *arguments],
        capture_output=True,
        text=True,
        timeout=timeout_s * Options.slowdown(),
        check=False,
    )
    return result.returncode, result.stdout + result.stderr


class ChaosWorkloadsTest(ClusterTest):
    def start_workload(self, cluster, *arguments):
        nodes = ",".join(f"127.0.0.1:{node.port}" for node in cluster.nodes)
        self.history = os.path.join(cluster.directory, "history.jsonl")
        process = subprocess.Popen(
            [program("chaos-workload"), "--nodes", nodes, "--history", self.history, *arguments],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        self.addCleanup(self.end, process)
        return process

    @staticmethod
    def end(process):
        if process.poll() is None:
            process.kill()
            process.communicate()

    def finish(self, process):
        output, _ = process.communicate(timeout=150 * Options.slowdown())
        self.assertEqual(process.returncode, 0, output[-4000:])
        self.assertIsNone(REPORTS.search(output), output[-4000:])
        return output

    @sanitizer
    def test_all_workloads_through_the_loss_of_a_leader(self):
        cluster = self.start_cluster()
        rate = "200" if Options.sanitizer() else "800"
        process = self.start_workload(cluster, "--seconds", "8", "--rate", rate, "--seed", "7")
        time.sleep(3)
        leader = max(cluster.nodes, key=lambda node: len(node.led_shards()))
        leader.kill()
        time.sleep(1)
        leader.start()
        output = self.finish(process)
        self.assertRegex(output, r"t=\d+ register ok=[1-9]\d* fail=\d+ unknown=\d+")
        verdicts_path = os.path.join(cluster.directory, "verdicts.json")
        # How late a key may go is no matter here: this machine may be slow.
        status, text = check("--expiry-late", "-1", "--json", verdicts_path, self.history)
        self.assertEqual(status, 0, text)
        with open(verdicts_path, encoding="utf-8") as file:
            verdicts = {verdict["workload"]: verdict for verdict in json.load(file)}
        self.assertEqual(sorted(verdicts), sorted(WORKLOADS))
        for verdict in verdicts.values():
            self.assertEqual(verdict["verdict"], "OK")
            # Something was done, and not all of it failed.
            self.assertGreater(verdict["operations"], 2 * (verdict["failed"] + verdict["unknown"]))
        self.report(", ".join(f"{name} {verdicts[name]['operations']}" for name in WORKLOADS))
        self.damage()

    def damage(self):
        """The judge must see what is wrong with the history that it has just found good."""
        with open(self.history, encoding="utf-8") as file:
            lines = file.readlines()
        path = self.history + ".damaged"

        def judge(changed):
            with open(path, "w", encoding="utf-8") as file:
                file.writelines(changed)
            return check("--expiry-late", "-1", path)

        number = len(lines) // 2
        status, text = judge(lines[:number] + [lines[number][:-9] + "\n"] + lines[number + 1 :])
        self.assertEqual(status, 2, text)
        self.assertIn(f"{path}: line {number + 1}: ", text)
        status, text = judge(lines[:-1] + [lines[-1].rstrip("\n")])
        self.assertEqual(status, 2, text)
        self.assertIn("the line is cut off", text)
        # One answer of a counter is one too many.
        for number, line in enumerate(lines):
            if '"w":"counter"' in line and re.search(r'"e":"ok","v":\d+', line):
                wrong = re.sub(r'"v":(\d+)', lambda m: f'"v":{int(m[1]) + 1}', line)
                break
        status, text = judge(lines[:number] + [wrong] + lines[number + 1 :])
        self.assertEqual(status, 1, text)
        self.assertIn("counter: VIOLATION", text)
        self.assertIn("> cannot be placed", text)

    @quick
    def test_a_signal_ends_it_with_a_whole_history(self):
        cluster = self.start_cluster()
        process = self.start_workload(
            cluster, "--workload", "register,large", "--clients", "6", "--via", "resp"
        )
        time.sleep(1.5)
        process.terminate()
        self.finish(process)
        status, text = check(self.history)
        self.assertEqual(status, 0, text)
        self.assertRegex(text, r"^register: OK \d+ operations .*\nlarge: OK ")

    @quick
    def test_command_lines(self):
        for arguments in (
            [],
            ["--nodes", "127.0.0.1", "--history", "/dev/null"],
            ["--nodes", "127.0.0.1:1", "--history", "/dev/null", "--workload", "other"],
            ["--nodes", "127.0.0.1:1", "--history", "/dev/null", "--via", "air"],
            ["--nodes", "127.0.0.1:1", "--history", "/nowhere/history", "--seconds", "1"],
        ):
            result = subprocess.run(
                [program("chaos-workload"), *arguments], capture_output=True, text=True, check=False
            )
            self.assertEqual(result.returncode, 2, arguments)
            self.assertNotEqual(result.stderr, "")
        for arguments in ([], ["--workload", "other", "/dev/null"], ["/dev/null"], ["/nowhere"]):
            status, text = check(*arguments)
            self.assertEqual(status, 2, arguments)
            self.assertNotEqual(text, "")
