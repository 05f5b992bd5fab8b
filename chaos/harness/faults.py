"""The faults. Each is drawn by the schedule (schedule.py) as numbers only; which nodes it meets is
decided when it begins, since "the leader" is known only then.

A fault that others may overlap has begin() and end(), perhaps steps in between. One that needs the
cluster for itself, such as the replacement of a node, has perform(). A fault tells of a broken promise
by run.problem()."""

import os
import random

from harness import bitrot
from harness.disk import SURVIVE_DRAWN, SURVIVE_NONE

REPLACE_TIMEOUT_S = 120


class Fault:
    kind = None
    exclusive = False
    seconds = (2.0, 8.0)  # shortest and longest
    needs = ()  # of "network", "disk", "clock", "tools", "upgrade"

    def __init__(self, run, spec):
        self.run = run
        self.cluster = run.cluster
        self.network = run.cluster.network
        self.spec = spec
        self.pick = spec["pick"]
        self.random = random.Random(spec["pick"])
        self.nodes = []
        self.details = {}

    def targets(self):
        return ",".join(node.name for node in self.nodes) or "all"

    # --- choosing ------------------------------------------------------------------------------

    def any_node(self):
        return self.cluster.nodes[self.pick % len(self.cluster.nodes)]

    def leader(self):
        """The leader of the shard that the schedule picked, and the shards that it leads."""
        shard = self.pick % self.cluster.n_shards
        number = self.run.watch.leader_of(shard)
        node = self.cluster.node(number) if number else self.any_node()
        self.details["shards"] = self.run.watch.led_by(node.number)
        return node

    def follower(self):
        others = self.cluster.others(self.leader())
        self.details.pop("shards", None)
        return others[self.pick // 7 % len(others)]

    def some(self, n):
        return self.random.sample(self.cluster.nodes, n)

    def majority_size(self):
        return len(self.cluster.nodes) // 2 + 1

    # --- life ----------------------------------------------------------------------------------

    def begin(self):
        raise NotImplementedError

    def steps(self):
        """[(seconds after the beginning, function)]"""
        return []

    def end(self):
        pass


# --- processes ------------------------------------------------------------------------------------


class KillLeader(Fault):
    kind = "kill-leader"
    seconds = (0.5, 5.0)

    def choose(self):
        return [self.leader()]

    def begin(self):
        self.nodes = self.choose()
        for node in self.nodes:
            node.kill()

    def end(self):
        for node in self.nodes:
            node.start()


class KillFollower(KillLeader):
    kind = "kill-follower"

    def choose(self):
        return [self.follower()]


class KillMajority(KillLeader):
    kind = "kill-majority"

    def choose(self):
        return self.some(self.majority_size())


class KillAll(KillLeader):
    kind = "kill-all"
    seconds = (0.5, 3.0)

    def choose(self):
        return list(self.cluster.nodes)


class Pause(Fault):
    """SIGSTOP; long pauses are rarer than short ones."""

    kind = "pause"
    seconds = (0.1, 30.0)

    def begin(self):
        self.nodes = [self.leader() if self.pick % 3 else self.any_node()]
        for node in self.nodes:
            node.pause()

    def end(self):
        for node in self.nodes:
            node.resume()


class Restart(Fault):
    """SIGTERM, and started again when it has stopped."""

    kind = "restart"
    seconds = (1.0, 5.0)

    def begin(self):
        self.nodes = [self.any_node()]
        self.process = self.nodes[0].process
        self.nodes[0].may_end = "SIGTERM"
        self.nodes[0].ask_to_stop()

    def end(self):
        node = self.nodes[0]
        node.may_end = None
        # Another fault may have killed it and started it again meanwhile.
        if node.process is self.process:
            node.resume()
            complaint = node.wait_stopped()
            if complaint:
                self.run.note(complaint)
        node.start()


# --- network --------------------------------------------------------------------------------------


def both_ways(some, others):
    return {(a.number, b.number) for a in some for b in others} | {
        (b.number, a.number) for a in some for b in others
    }


class Cut(Fault):
    """Base of the partitions: paths that are cut while it lasts."""

    needs = ("network",)
    seconds = (1.0, 12.0)

    def paths(self):
        raise NotImplementedError

    def begin(self):
        self.cuts = self.paths()
        self.network.add_cuts(self.cuts)

    def end(self):
        self.network.remove_cuts(self.cuts)


class Partition(Cut):
    """A minority and a majority."""

    kind = "partition"

    def paths(self):
        self.nodes = self.some(len(self.cluster.nodes) - self.majority_size())
        return both_ways(self.nodes, self.cluster.others(*self.nodes))


class IsolateLeader(Cut):
    kind = "isolate-leader"

    def paths(self):
        self.nodes = [self.leader()]
        return both_ways(self.nodes, self.cluster.others(*self.nodes))


class OneWay(Cut):
    """Messages go from a node to the others, or from them to it, and nothing comes back."""

    kind = "one-way"

    def paths(self):
        node = self.leader() if self.pick % 2 else self.any_node()
        self.nodes = [node]
        others = self.cluster.others(node)
        inwards = self.pick // 2 % 2
        self.details["direction"] = "in" if inwards else "out"
        return {(o.number, node.number) if inwards else (node.number, o.number) for o in others}


class Bridge(Cut):
    """Two sides that do not see each other, and one node that sees both."""

    kind = "bridge"

    def paths(self):
        order = self.some(len(self.cluster.nodes))
        self.nodes = order[:1]
        half = (len(order) - 1) // 2
        return both_ways(order[1 : 1 + half], order[1 + half :])


class Flapping(Cut):
    """A node is cut off and joined again, many times."""

    kind = "flapping"
    seconds = (3.0, 12.0)

    def paths(self):
        self.nodes = [self.leader() if self.pick % 2 else self.any_node()]
        return both_ways(self.nodes, self.cluster.others(*self.nodes))

    def steps(self):
        moment, cut, found = 0.0, True, []
        while True:
            moment += self.random.uniform(0.05, 1.2)
            if moment >= self.spec["seconds"]:
                return found
            cut = not cut
            change = self.network.add_cuts if cut else self.network.remove_cuts
            found.append((moment, lambda change=change: change(self.cuts)))


class Loss(Fault):
    """Packets between nodes are lost, at one node or at all."""

    kind = "loss"
    needs = ("network",)
    seconds = (3.0, 15.0)

    def begin(self):
        self.nodes = list(self.cluster.nodes) if self.pick % 2 else [self.any_node()]
        thousandths = self.random.choice([20, 50, 100, 200, 400])
        self.details["lost_of_1000"] = thousandths
        for node in self.nodes:
            self.network.set_loss(node.number, thousandths)

    def end(self):
        for node in self.nodes:
            self.network.set_loss(node.number, 0)


class SlowLink(Fault):
    """A node's link to the others has a delay that varies, and a bandwidth."""

    kind = "slow-link"
    needs = ("network",)
    seconds = (3.0, 15.0)

    def begin(self):
        self.nodes = [self.any_node()]
        delay_ms = self.random.choice([5, 20, 80, 200])
        jitter_ms = self.random.choice([0, delay_ms // 2, delay_ms])
        rate_kbit = self.random.choice([0, 0, 50_000, 5_000])
        self.details.update(delay_ms=delay_ms, jitter_ms=jitter_ms, rate_kbit=rate_kbit)
        self.network.slow_down(self.nodes[0].number, delay_ms, jitter_ms, rate_kbit)

    def end(self):
        self.network.speed_up(self.nodes[0].number)


# --- clocks ---------------------------------------------------------------------------------------


class ClockStep(Fault):
    """A node's wall clock jumps, forwards or backwards, and later back. Not its monotonic clock."""

    kind = "clock-step"
    needs = ("clock",)
    seconds = (2.0, 10.0)

    def begin(self):
        self.nodes = [self.leader() if self.pick % 2 else self.any_node()]
        step_s = self.random.choice([-86400, -3600, -60, -1, 1, 60, 3600, 86400])
        self.details["step_s"] = step_s
        self.nodes[0].set_clock(f"{step_s:+d}")

    def end(self):
        self.nodes[0].set_clock("+0")


class ClockSkew(Fault):
    """A node's wall clock runs too fast or too slow."""

    kind = "clock-skew"
    needs = ("clock",)
    seconds = (3.0, 15.0)

    def begin(self):
        self.nodes = [self.any_node()]
        speed = self.random.choice([0.5, 0.9, 0.99, 1.01, 1.1, 2.0])
        self.details["speed"] = speed
        self.nodes[0].set_clock(f"+0 x{speed}")

    def end(self):
        self.nodes[0].set_clock("+0")


# --- disks ----------------------------------------------------------------------------------------


class DiskFault(Fault):
    """Base of what a disk does to a node that runs. A node may give up over it; it is started again
    when the disk is well, after a power loss of its machine: nobody knows what a failed disk has."""

    needs = ("disk",)

    def harm(self, node):
        raise NotImplementedError

    def begin(self):
        self.nodes = [self.leader() if self.pick % 2 else self.any_node()]
        for node in self.nodes:
            node.may_end = self.kind
            self.harm(node)

    def end(self):
        for node in self.nodes:
            node.disk.heal()
            node.may_end = None
            if not node.is_running():
                self.details.update(node.disk.unplug(self.pick, SURVIVE_DRAWN))
                node.start()


class DiskFull(DiskFault):
    kind = "disk-full"

    def harm(self, node):
        left = self.random.choice([0, 100_000, 900_000, 3_000_000])
        self.details["left_bytes"] = left
        node.disk.command("full", left)


class DiskReadOnly(DiskFault):
    kind = "disk-readonly"

    def harm(self, node):
        node.disk.command("readonly")


class DiskFailingSync(DiskFault):
    kind = "disk-failsync"

    def harm(self, node):
        node.disk.command("failsync")


class DiskSlow(DiskFault):
    kind = "disk-slow"
    seconds = (3.0, 12.0)

    def harm(self, node):
        write_ms = self.random.choice([0, 0, 1, 5])
        sync_ms = self.random.choice([10, 50, 200, 800])
        self.details.update(write_ms=write_ms, sync_ms=sync_ms)
        node.disk.command("slow", write_ms, sync_ms)


class PowerLoss(Fault):
    """The machine of one node goes dark: what it had not synced is lost, or torn."""

    kind = "power-loss"
    needs = ("disk",)
    seconds = (0.5, 5.0)

    def choose(self):
        return [self.leader() if self.pick % 2 else self.any_node()]

    def begin(self):
        self.nodes = self.choose()
        for node in self.nodes:
            node.kill()
        survive = SURVIVE_NONE if self.pick % 3 == 0 else SURVIVE_DRAWN
        for node in self.nodes:
            told = node.disk.unplug(self.pick + node.number, survive)
            for key, value in told.items():
                self.details[key] = self.details.get(key, 0) + value

    def end(self):
        for node in self.nodes:
            node.start()


class PowerLossMajority(PowerLoss):
    kind = "power-loss-majority"

    def choose(self):
        return self.some(self.majority_size())


class PowerLossAll(PowerLoss):
    kind = "power-loss-all"
    seconds = (0.5, 2.0)

    def choose(self):
        return list(self.cluster.nodes)


# --- faults that need the cluster for themselves --------------------------------------------------


class Replace(Fault):
    """A node loses its disk, and comes back by the procedure of docs/operations.md."""

    kind = "replace"
    exclusive = True

    def perform(self):
        node = self.any_node()
        self.nodes = [node]
        node.kill()
        self.replace(node)

    def replace(self, node):
        run = self.run
        others = self.cluster.others(node)
        told = {other: other.log().count("ready for the replaced node") for other in others}
        teller = others[self.pick // 3 % len(others)]
        run.wait_until(
            lambda: teller.call("CLUSTER", "REPLACE", str(node.number)) == "OK",
            f"CLUSTER REPLACE {node.number} through {teller.name}",
            REPLACE_TIMEOUT_S,
        )
        run.wait_until(
            lambda: all(
                other.log().count("ready for the replaced node") > told[other] for other in others
            ),
            f"the others to be ready for the replaced {node.name}",
            REPLACE_TIMEOUT_S,
        )
        node.lose_disk()
        node.start()
        run.wait_until(
            lambda: self.cluster.why_unhealthy() is None,
            f"the replaced {node.name} to be a voter of all shards",
            REPLACE_TIMEOUT_S,
        )


class BitRot(Replace):
    """Bits of a stopped node's files flip. The node must refuse to start, or, where nothing of
    importance was hit, be right; a node that refuses is replaced."""

    needs = ("disk",)
    where = None

    def perform(self):
        node = self.any_node()
        self.nodes = [node]
        node.ask_to_stop()
        complaint = node.wait_stopped()
        if complaint:
            self.run.problem(complaint)
        self.details["damage"] = self.damage(node.data)
        node.may_end = self.kind
        refused = self.run.refuses_to_start(node)
        node.may_end = None
        self.details["outcome"] = "refused" if refused else "started"
        if refused:
            self.replace(node)

    def damage(self, data):
        raise NotImplementedError


class BitRotLog(BitRot):
    kind = "bitrot-log"

    def damage(self, data):
        return bitrot.flip_in_log(os.path.join(data, "log"), self.random)


class BitRotDatabase(BitRot):
    kind = "bitrot-db"

    def damage(self, data):
        return bitrot.flip_in_database(data, self.random)


class Rolling(Fault):
    """All nodes are restarted one after the other, from the other binary when there is one."""

    kind = "rolling"
    exclusive = True

    def perform(self):
        binaries = self.run.binaries
        self.nodes = self.some(len(self.cluster.nodes))
        for node in self.nodes:
            node.ask_to_stop()
            complaint = node.wait_stopped()
            if complaint:
                self.run.problem(complaint)
            node.binary = binaries[(binaries.index(node.binary) + 1) % len(binaries)]
            node.start()
            self.run.wait_until(
                lambda: self.cluster.why_unhealthy() is None,
                f"a healthy cluster after the restart of {node.name}",
                REPLACE_TIMEOUT_S,
            )


class Membership(Fault):
    """A node joins and leaves again by the procedure of docs/operations.md; perhaps a leader dies while
    it does."""

    kind = "membership"
    exclusive = True

    def perform(self):
        node = self.run.make_newcomer()
        self.nodes = [node]
        self._reload()
        node.start()
        if self.pick % 2:
            self._kill_a_leader()
        self._order("ADD", node)
        self.run.wait_until(
            lambda: self.cluster.why_unhealthy() is None,
            f"{node.name} to vote in all shards",
            REPLACE_TIMEOUT_S,
        )
        self.run.pause(self.random.uniform(0, 2))
        # A node that is told to leave is healthy when all the others agree that it has gone.
        self._order("REMOVE", node)
        self.cluster.nodes.remove(node)
        self.run.wait_until(
            lambda: self.cluster.why_unhealthy() is None,
            f"{node.name} to be gone from all shards",
            REPLACE_TIMEOUT_S,
        )
        node.ask_to_stop()
        complaint = node.wait_stopped()
        if complaint:
            self.run.problem(complaint)
        self._reload()

    def _reload(self):
        for node in self.cluster.nodes:
            node.write_config()
            node.reload()

    def _kill_a_leader(self):
        """It comes back at once."""
        shard = self.pick % self.cluster.n_shards
        victim = self.cluster.node(self.run.watch.leader_of(shard) or 1)
        self.details["killed"] = victim.name
        victim.kill()
        victim.start()

    def _order(self, order, node):
        """Again and again: it is refused while a change is under way, or the nodes have not met, and
        what is done already is OK."""

        def is_done():
            teller = self.random.choice(self.cluster.others(node))
            return teller.call("CLUSTER", order, str(node.number)) == "OK"

        self.run.wait_until(is_done, f"CLUSTER {order} {node.number}", REPLACE_TIMEOUT_S)


KINDS = {
    fault.kind: fault
    for fault in (
        *(KillLeader, KillFollower, KillMajority, KillAll, Pause, Restart),
        *(Partition, IsolateLeader, OneWay, Bridge, Flapping, Loss, SlowLink),
        *(ClockStep, ClockSkew),
        *(DiskFull, DiskReadOnly, DiskSlow, DiskFailingSync),
        *(PowerLoss, PowerLossMajority, PowerLossAll),
        *(Replace, BitRotLog, BitRotDatabase, Rolling, Membership),
    )
}
