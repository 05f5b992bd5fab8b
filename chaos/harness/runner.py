"""One run from beginning to end."""

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time

from harness import figures, hosts, leftovers, net, schedule, verdict
from harness.disk import ChaosDisk, DiskError, end_with_parent
from harness.faults import KINDS
from harness.watch import FaultLog, Prober, Watch

START_TIMEOUT_S = 60
HEALTHY_TIMEOUT_S = 120
WORKLOAD_END_TIMEOUT_S = 180
KEPT_RUNS_TOLD = 20
TICK_S = 0.05
DEATHS_MAX = 3  # of nodes by themselves; then the run is given up

# Small limits, so that snapshots and new segments happen all the time.
SETTINGS = {
    "shards": 4,
    "segment_size": "2MiB",
    "snapshot_log_bytes": "256KiB",
    "trailing_entries": 50,
    "min_free_disk": "1MiB",
    "shard_cache": "4MiB",
}


def show(text):
    """A reader who has gone, as of a pipe, is no reason to leave things behind."""
    try:
        sys.stdout.write(text)
        sys.stdout.flush()
    except BrokenPipeError:
        sys.stdout = open(os.devnull, "w", encoding="utf-8")


class Stopped(Exception):
    """The operator or the system wants the run to end."""


class Aborted(Exception):
    """The run cannot go on; the reason was noted as a problem."""


class Run:
    def __init__(self, options, directory, root):
        self.options = options
        self.directory = directory
        self.root = root
        self.place = None
        self.cluster = None
        self.network = None
        self.watch = None
        self.prober = None
        self.workload = None
        self.newcomer = None
        self.faults = FaultLog(os.path.join(directory, "faults.jsonl"))
        self.active = []  # (fault, time of its end)
        self.problems = []
        self.notes = []
        self.binaries = [options.binary] + ([options.upgrade_binary] if options.upgrade_binary else [])
        self.plan = []
        self.round_number = 0
        self.load_begin = None
        self.load_end = None
        self.next_progress = 0.0
        self.checks = None
        self.check_status = None
        self.check_output = ""
        self.summary_of_replicas = ""
        self.was_stopped = False
        self.n_deaths = 0  # of nodes by themselves

    # --- telling -------------------------------------------------------------------------------

    def say(self, text):
        show(("\r\033[K" if sys.stdout.isatty() else "") + text + "\n")

    def problem(self, text):
        self.problems.append(text)
        self.faults.note("problem", text, "note")
        self.say(f"PROBLEM: {text}")

    def note(self, text):
        self.notes.append(text)
        self.faults.note("note", text, "note")

    def progress(self):
        now = time.monotonic()
        if now < self.next_progress or self.load_begin is None:
            return
        terminal = sys.stdout.isatty()
        self.next_progress = now + (1 if terminal else 10)
        names = " ".join(f"{fault.kind}({fault.targets()})" for fault, _ in self.active) or "calm"
        size = os.path.getsize(self.history) if os.path.exists(self.history) else 0
        line = (
            f"{now - self.load_begin:6.0f} s  round {self.round_number}/{len(self.plan)}  "
            f"{self.prober.available()}/{self.cluster.n_shards} shards take writes  "
            f"history {size / 1e6:.1f} MB  problems {len(self.problems)}  {names}"
        )
        show(f"\r\033[K{line}" if terminal else f"{line}\n")

    # --- waiting -------------------------------------------------------------------------------

    def tick(self):
        """What has to be looked at all the time."""
        for node in self.cluster.nodes:
            status = node.ended_by_itself()
            if status is None:
                continue
            if node.may_end:
                self.note(f"{node.name} ended with status {status} ({node.may_end}): {node.last_words()}")
            else:
                self.problem(f"{node.name} ended by itself with status {status}: {node.last_words()}")
                self.n_deaths += 1
                if self.n_deaths >= DEATHS_MAX:
                    self.say("nodes end by themselves again and again: giving up")
                    raise Aborted()
                node.start()
        for number in self.network.wires_ended():
            self.problem(f"chaos-wire of n{number} ended by itself, see network.log")
            self.network.speed_up(number)
        if self.workload and self.workload.poll() is not None and self.load_end is None:
            self.problem(f"chaos-workload ended by itself with status {self.workload.returncode}")
            raise Aborted()
        if self.prober:
            self.progress()

    def pause(self, seconds):
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            self.tick()
            time.sleep(min(TICK_S, max(0.0, deadline - time.monotonic())))
        self.tick()

    def wait_until(self, condition, what, timeout_s):
        """Whether it came true in time; that it did not is a problem."""
        deadline = time.monotonic() + timeout_s
        last = None
        while True:
            try:
                if condition():
                    return True
                last = None
            except Exception as error:  # noqa: BLE001 - nodes that come and go; told below
                last = error
            if time.monotonic() > deadline:
                why = self.cluster.why_unhealthy() or "the cluster is healthy"
                self.problem(
                    f"waited {timeout_s} s for {what}: {why}" + (f"; {last!r}" if last else "")
                )
                return False
            self.tick()
            time.sleep(0.1)

    def wait_healthy(self, what):
        return self.wait_until(lambda: self.cluster.why_unhealthy() is None, what, HEALTHY_TIMEOUT_S)

    # --- making and removing -------------------------------------------------------------------

    def set_up(self):
        options = self.options
        for name in leftovers.remove_orphans() if self.root else []:
            self.say(f"cleaned up after {name}, which was killed")
        self.place = leftovers.Place(self.root)
        if self.root:
            self.network = net.Network(
                self.place.prefix,
                options.nodes,
                os.path.join(options.programs, "chaos-wire"),
                os.path.join(self.directory, "network.log"),
            )
            # From here on this process is among the clients.
            net.enter_namespace(self.network.client_namespace())
        else:
            self.network = net.Loopback()
        settings = {**SETTINGS, "shards": options.shards}
        own = [text for text in options.set if text.startswith("n") and text[1:2].isdigit()]
        settings.update(text.split("=", 1) for text in options.set if text not in own)
        self.cluster = hosts.Cluster(
            self.directory, self.network, options.nodes, options.binary, settings
        )
        for text in own:
            node, setting = text.split(".", 1)
            self.cluster.node(int(node[1:])).settings.update([setting.split("=", 1)])
        self.cluster.clocks = self.root and any("clock" in KINDS[kind].needs for kind in options.kinds)
        if self.root and options.disk == "fuse":
            for node in self.cluster.nodes:
                self._make_disk(node)
        self.cluster.write_configs()

    def _make_disk(self, node):
        node.disk = ChaosDisk(
            os.path.join(self.options.programs, "chaos-fs"),
            self.place.path(node.name),
            self.place.path(f"{node.name}.control"),
            os.path.join(self.directory, "disks.log"),
        )
        node.home = node.disk.mountpoint

    def make_newcomer(self):
        """A node on a host of its own, with an empty disk, that is to join. It is the same host each
        time."""
        if self.newcomer is None:
            number = self.options.nodes + 1
            self.network.add_node(number)
            self.newcomer = hosts.Node(self.cluster, number)
            self.newcomer.settings["join"] = "yes"
            if self.options.disk == "fuse":
                self._make_disk(self.newcomer)
            self.watch.add(self.newcomer)
        else:
            self.newcomer.lose_disk()
        self.cluster.nodes.append(self.newcomer)
        return self.newcomer

    def all_nodes(self):
        """Also one that is no member now."""
        nodes = self.cluster.nodes if self.cluster else []
        return nodes + ([self.newcomer] if self.newcomer and self.newcomer not in nodes else [])

    def tear_down(self):
        """Gives everything back, whatever happened before."""
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, signal.SIG_IGN)
        steps = [self._end_workload, self._end_watching, self._end_nodes, self._end_disks]
        steps += [self.network.remove] if self.network else []
        steps += [self.place.remove] if self.place else []
        for step in steps:
            try:
                step()
            except Exception as error:  # noqa: BLE001 - the other steps matter as much
                print(f"chaos: while cleaning up: {error!r}", file=sys.stderr)
        self.faults.close()

    def _end_workload(self):
        if self.workload and self.workload.poll() is None:
            self.workload.kill()
            self.workload.wait()

    def _end_watching(self):
        for watcher in (self.prober, self.watch):
            if watcher:
                watcher.stop()

    def _end_nodes(self):
        for node in self.all_nodes():
            node.kill()
            node.forget_clock_files()

    def _end_disks(self):
        for node in self.all_nodes():
            if node.disk:
                node.disk.remove()

    # --- load ----------------------------------------------------------------------------------

    @property
    def history(self):
        return os.path.join(self.directory, "history.jsonl")

    def start_load(self):
        options = self.options
        nodes = ",".join("{}:{}".format(*node.address()) for node in self.cluster.nodes)
        command = [
            *(options.workload_program, "--nodes", nodes, "--workload", options.workloads),
            *("--seed", str(options.seed), "--clients", str(options.clients)),
            *("--history", self.history, "--via", options.via, "--rate", str(options.rate)),
        ]
        with open(os.path.join(self.directory, "workload.log"), "ab") as log:
            self.workload = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                preexec_fn=end_with_parent,
                start_new_session=True,
            )
        self.load_begin = time.monotonic()
        self.load_begin_ns = time.monotonic_ns()

    def end_load(self):
        """It does its final reads against the healed cluster."""
        self.load_end = time.monotonic()
        if self.workload.poll() is None:
            self.workload.send_signal(signal.SIGTERM)
        try:
            status = self.workload.wait(WORKLOAD_END_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            self.problem(f"chaos-workload did not end within {WORKLOAD_END_TIMEOUT_S} s of SIGTERM")
            self.workload.kill()
            self.workload.wait()
            return
        if status != 0:
            self.problem(f"chaos-workload ended with status {status}, see workload.log")

    # --- faults --------------------------------------------------------------------------------

    def refuses_to_start(self, node):
        """Starts a node whose files were damaged; True when it, or verify before, refuses."""
        if self.options.can_verify:
            result = subprocess.run(
                [node.binary, "verify", node.data], capture_output=True, text=True, check=False
            )
            if result.returncode != 0:
                self.note(f"verify of {node.name}: {(result.stdout + result.stderr).strip()[-300:]}")
                return True
        node.start()
        process = node.process
        deadline = time.monotonic() + HEALTHY_TIMEOUT_S
        while time.monotonic() < deadline:
            status = process.poll()
            if status is not None:
                self.note(f"{node.name} refuses to start ({status}): {node.last_words()}")
                node.kill()
                return True
            self.tick()
            if self.cluster.why_unhealthy() is None:
                return False
            time.sleep(0.1)
        self.problem(f"{node.name} with damaged files neither started nor ended: {node.last_words()}")
        node.kill()
        return True

    def perform_round(self, entry):
        faults = [KINDS[spec["fault"]](self, spec) for spec in entry["faults"]]
        if faults[0].exclusive:
            self._perform_alone(faults[0])
        else:
            self._perform_together(faults)
        self.heal()

    def _note_fault(self, fault, event):
        self.faults.note(fault.kind, fault.targets(), event, round=self.round_number, **fault.details)

    def _perform_alone(self, fault):
        if not self.wait_healthy(f"a healthy cluster before {fault.kind}"):
            raise Aborted()
        fault.nodes = [fault.any_node()]
        self._note_fault(fault, "begin")
        self.active = [(fault, None)]
        fault.perform()
        self._note_fault(fault, "end")

    def _perform_together(self, faults):
        base = time.monotonic()
        actions = []
        for order, fault in enumerate(faults):
            begin = base + fault.spec["at"]
            actions.append((begin, order, "begin", fault, fault.begin))
            actions.append((begin + fault.spec["seconds"], order, "end", fault, fault.end))
            for moment, step in fault.steps():
                actions.append((begin + moment, order, "step", fault, step))
        for moment, _, event, fault, action in sorted(actions, key=lambda item: item[:2]):
            self.pause(max(0.0, moment - time.monotonic()))
            action()
            if event == "begin":
                self.active.append((fault, None))
            elif event == "end":
                self.active.remove((fault, None))
            self._note_fault(fault, event)

    def heal(self):
        """Everything is as it should be, but for what has to recover."""
        self.active = []
        self.network.heal()
        for node in self.cluster.nodes:
            node.set_clock("+0")
            node.resume()
            node.may_end = None
            if node.disk:
                node.disk.heal()
            self.tick()
            node.start()

    # --- the run -------------------------------------------------------------------------------

    def carry_out(self):
        options = self.options
        self.set_up()
        self.cluster.start()
        self.watch = Watch(self.cluster)
        self.watch.start()
        if not self.wait_until(
            lambda: self.cluster.why_unhealthy() is None, "the first start", START_TIMEOUT_S
        ):
            raise Aborted()
        self.prober = Prober(self.cluster)
        self.prober.start()
        self.start_load()
        try:
            self._all_rounds(options)
        except Stopped:
            self.was_stopped = True
            self.say("stopping: healing and checking what there is (again to end at once)")
        except Aborted:
            self.give_up()
            return
        self.finish()

    def _all_rounds(self, options):
        self.pause(schedule.WARM_UP_S)
        end = self.load_begin + options.minutes * 60 if options.rounds is None else None
        for number, entry in enumerate(self.plan, 1):
            if end is not None and time.monotonic() > end:
                self.note(f"time is up after {number - 1} of {len(self.plan)} rounds")
                break
            self.round_number = number
            self.perform_round(entry)
            if options.calm:
                self.wait_healthy("the cluster to recover before the next round")
                self.pause(0.3)
            else:
                self.pause(random.Random(entry["at"]).uniform(*schedule.PAUSE_S))
        if end is not None:
            self.pause(max(0.0, end - time.monotonic()))

    def finish(self):
        self.heal()
        healthy = self.wait_healthy("all shards to be healthy after the last fault")
        self.end_load()
        self.prober.stop()
        if healthy and verdict.wait_quiet(self, self.cluster, HEALTHY_TIMEOUT_S):
            found, self.summary_of_replicas = verdict.compare_replicas(
                self.cluster, os.path.join(self.directory, "replicas")
            )
            for text in found:
                self.problem(text)
        self.watch.stop()
        for node in self.cluster.nodes:
            node.may_end = "the end"
            node.ask_to_stop()
            complaint = node.wait_stopped()
            if complaint and healthy:
                self.problem(complaint)
        for text in verdict.log_complaints(self.all_nodes()):
            self.problem(text)
        if self.problems:
            self._keep_data()
        self.check()

    def give_up(self):
        """The cluster cannot be used any more, nor is there an end of the history."""
        self.load_end = time.monotonic()
        self._keep_data()
        self.check_output = "not checked: the run was given up"

    def _keep_data(self):
        for node in self.cluster.nodes:
            target = os.path.join(self.directory, f"data-{node.name}")
            shutil.copytree(node.data, target, dirs_exist_ok=True)

    def check(self):
        self.say("checking the history ...")
        json_path = os.path.join(self.directory, "verdicts.json")
        self.check_status, self.check_output = verdict.check_histories(
            self.options.check_program,
            [self.history],
            json_path,
            os.path.join(self.directory, "check.log"),
            figures.clock_doubts(self.faults.entries),
            figures.walls_count(
                [figures.starts_of(node.log_path) for node in self.cluster.nodes], self.options.nodes
            ),
        )
        self.checks = verdict.read_verdicts(json_path)

    def exit_status(self):
        if self.problems or self.check_status == 1:
            return 1
        return 2 if self.check_status != 0 else 0

    def write_facts(self):
        """For the report, and for whoever wants to look at runs by program."""
        facts = {
            "seed": self.options.seed,
            "command": self.options.command,
            "problems": self.problems,
            "notes": self.notes,
            "check_status": self.check_status,
            "leader_changes": self.watch.changes if self.watch else [],
            "gaps": self.prober.gaps if self.prober else [],
            "probes_ok": self.prober.n_ok if self.prober else 0,
            "replicas": self.summary_of_replicas,
            "exit_status": self.exit_status(),
        }
        with open(os.path.join(self.directory, "facts.json"), "w", encoding="utf-8") as file:
            json.dump(facts, file)


__all__ = ["Aborted", "DiskError", "Run", "Stopped"]
