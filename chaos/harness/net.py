"""The simulated network: a namespace for each node, one for the clients, and one with the bridge that
joins them. Nothing of it is seen by the rest of the machine, so several runs can go on at once.

Packets are dropped where they arrive, by nftables in the namespace of the receiver: so a path can be
cut in one direction. Delays are made by chaos-wire, a program that sits between a node and the bridge
while the node's link is slow."""

import ctypes
import os
import subprocess

from harness.disk import end_with_parent

CLONE_NEWNET = 0x40000000
CLIENT_HOST = 200
PREFIX = "10.77.0"

RULES = """
table inet chaos {
  set cut { type ipv4_addr; }
  set lossy { type ipv4_addr; }
  chain arriving {
    type filter hook input priority 0; policy accept;
    ip saddr @cut drop
    %s
  }
}
"""
LOSS_RULE = "ip saddr @lossy numgen random mod 1000 < %d drop"


class NetworkError(Exception):
    pass


def run_tool(*arguments, text=None):
    result = subprocess.run(arguments, input=text, capture_output=True, text=True, check=False)
    if result.returncode != 0:
        raise NetworkError(f"{' '.join(arguments)}: {result.stderr.strip()}")
    return result.stdout


def namespace_path(name):
    return os.path.join("/run/netns", name)


def enter_namespace(path):
    """The calling thread, and what it starts from here on, is in the network namespace."""
    file = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        libc = ctypes.CDLL(None, use_errno=True)
        if libc.setns(file, CLONE_NEWNET) != 0:
            raise OSError(ctypes.get_errno(), f"setns {path}")
    finally:
        os.close(file)


class Network:
    """Nodes are numbered from 1. `prefix` begins the names of all namespaces."""

    simulated = True

    def __init__(self, prefix, n_nodes, wire_program, log_path):
        self.prefix = prefix
        self.wire_program = wire_program
        self.log_path = log_path
        self.numbers = []
        self.cuts = set()  # (from, to)
        self.loss = {}  # node: thousandths
        self.wires = {}  # node: process
        self._create()
        for number in range(1, n_nodes + 1):
            self.add_node(number)

    # --- names ---------------------------------------------------------------------------------

    def hub(self):
        return f"{self.prefix}-hub"

    def space(self, number):
        return f"{self.prefix}-n{number}"

    def clients(self):
        return f"{self.prefix}-clients"

    def host(self, number):
        return f"{PREFIX}.{number}"

    def node_namespace(self, number):
        return namespace_path(self.space(number))

    def client_namespace(self):
        return namespace_path(self.clients())

    # --- making and removing -------------------------------------------------------------------

    def _create(self):
        run_tool("ip", "netns", "add", self.hub())
        run_tool("ip", "-n", self.hub(), "link", "add", "bridge", "type", "bridge")
        run_tool("ip", "-n", self.hub(), "link", "set", "bridge", "up")
        self._join(self.clients(), CLIENT_HOST, "clients")

    def _join(self, space, host_number, port):
        """A namespace with an address, its cable plugged into the bridge."""
        run_tool("ip", "netns", "add", space)
        hub = self.hub()
        run_tool("ip", "-n", hub, "link", "add", port, "type", "veth", "peer", "name", "eth0", "netns", space)
        run_tool("ip", "-n", hub, "link", "set", port, "master", "bridge")
        run_tool("ip", "-n", hub, "link", "set", port, "up")
        run_tool("ip", "-n", space, "addr", "add", f"{self.host(host_number)}/24", "dev", "eth0")
        run_tool("ip", "-n", space, "link", "set", "eth0", "up")
        run_tool("ip", "-n", space, "link", "set", "lo", "up")

    def add_node(self, number):
        self._join(self.space(number), number, f"n{number}")
        self.numbers.append(number)
        self._write_rules(number)

    def remove(self):
        for number in list(self.wires):
            self._end_wire(number)
        for space in [self.space(number) for number in self.numbers] + [self.clients(), self.hub()]:
            subprocess.run(["ip", "netns", "del", space], check=False, capture_output=True)

    # --- faults --------------------------------------------------------------------------------

    def _nft(self, number, text):
        run_tool("nsenter", f"--net={self.node_namespace(number)}", "nft", "-f", "-", text=text)

    def _write_rules(self, number):
        """All rules of a node, in one transaction."""
        loss = self.loss.get(number, 0)
        lines = ["table inet chaos", "delete table inet chaos", RULES % (LOSS_RULE % loss if loss else "")]
        cut = [self.host(source) for source, target in self.cuts if target == number]
        if cut:
            lines.append(f"add element inet chaos cut {{ {', '.join(cut)} }}")
        if loss:
            others = [self.host(other) for other in self.numbers if other != number]
            lines.append(f"add element inet chaos lossy {{ {', '.join(others)} }}")
        self._nft(number, "\n".join(lines) + "\n")

    def set_cuts(self, cuts):
        """Cuts exactly these paths, (from, to) each; the path back is another."""
        changed = {target for _, target in self.cuts ^ set(cuts)}
        self.cuts = set(cuts)
        for number in changed:
            self._write_rules(number)

    def add_cuts(self, cuts):
        self.set_cuts(self.cuts | set(cuts))

    def remove_cuts(self, cuts):
        self.set_cuts(self.cuts - set(cuts))

    def set_loss(self, number, thousandths):
        """Of the packets that arrive at the node from other nodes so many are lost."""
        if thousandths:
            self.loss[number] = thousandths
        else:
            self.loss.pop(number, None)
        self._write_rules(number)

    def slow_down(self, number, delay_ms, jitter_ms, rate_kbit):
        """What the node exchanges with other nodes takes longer, both ways."""
        if number in self.wires:
            return
        hub, port = self.hub(), f"n{number}"
        run_tool("ip", "-n", hub, "link", "add", f"w{number}", "type", "veth", "peer", "name", f"x{number}")
        run_tool("ip", "-n", hub, "link", "set", f"x{number}", "master", "bridge")
        run_tool("ip", "-n", hub, "link", "set", f"x{number}", "up")
        run_tool("ip", "-n", hub, "link", "set", f"w{number}", "up")
        run_tool("ip", "-n", hub, "link", "set", port, "nomaster")
        with open(self.log_path, "ab") as log:
            self.wires[number] = subprocess.Popen(
                [
                    *("nsenter", f"--net={namespace_path(hub)}", self.wire_program),
                    *(port, f"w{number}", str(delay_ms), str(jitter_ms), str(rate_kbit)),
                    self.host(CLIENT_HOST),
                ],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                preexec_fn=end_with_parent,
                start_new_session=True,
            )

    def _end_wire(self, number):
        process = self.wires.pop(number)
        process.terminate()
        try:
            process.wait(5)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait(5)

    def speed_up(self, number):
        if number not in self.wires:
            return
        self._end_wire(number)
        hub = self.hub()
        run_tool("ip", "-n", hub, "link", "del", f"w{number}")
        run_tool("ip", "-n", hub, "link", "set", f"n{number}", "master", "bridge")

    def heal(self):
        self.set_cuts(set())
        for number in list(self.loss):
            self.set_loss(number, 0)
        for number in list(self.wires):
            self.speed_up(number)

    def wires_ended(self):
        """Nodes whose chaos-wire ended by itself."""
        return [number for number, process in self.wires.items() if process.poll() is not None]


class Loopback:
    """Without root: all on 127.0.0.1, and no faults of the network."""

    simulated = False

    def __init__(self):
        self.cuts = set()
        self.wires = {}

    def host(self, number):
        del number
        return "127.0.0.1"

    def heal(self):
        pass

    def remove(self):
        pass

    def wires_ended(self):
        return []


