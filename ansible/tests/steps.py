"""What ansible/tests/run does, step by step. Each step leaves a cluster of three that is well."""

import os
import re
import subprocess
import threading
import time

from lab import ROOT, CommandFailed, Load, run

LOAD_BINARY = os.path.join(ROOT, "build/ansible/tests/ansible-load")
PLAY_CHANGED = re.compile(r"^(kv\d)\s.*changed=(\d+)\s+unreachable=(\d+)\s+failed=(\d+)", re.MULTILINE)
PROJECTS = 8  # as in load.c


class Context:
    """What the steps share."""

    def __init__(self, lab, say):
        self.lab = lab
        self.say = say
        self.packages = None
        self.newer = None
        self.n_loads = 0

    def host(self, number):
        return self.lab.hosts[number]

    def play(self, name, *arguments, fails=False, timeout_s=900):
        done = self.lab.play(name, *arguments, timeout_s=timeout_s)
        if (done.returncode != 0) != fails:
            raise AssertionError(f"{name} ended with {done.returncode}:\n{done.stdout}")
        return done.stdout

    def inventory(self, *numbers, **settings):
        self.lab.write_inventory(numbers, invoke_kv_package_files=self.packages, **settings)

    def load(self, numbers=(1, 2, 3)):
        """Clients that write and read until stop()."""
        self.n_loads += 1
        project = f"load{self.n_loads}"
        asker = self.host(numbers[0])
        for i in range(PROJECTS):
            asker.cli("project", "create", f"{project}-{i}")
        load = Load(self.lab, LOAD_BINARY, project, numbers)
        time.sleep(2)
        return load

    def finish(self, load, may_fail=False):
        """Nothing acknowledged is lost, nothing was read wrong, and nothing failed."""
        result = load.stop()
        words = result.pop("words")
        self.say(f"    load: {result}")
        assert result["done"] > 100, result
        assert (result["lost"], result["wrong"]) == (0, 0), f"{result}\n{words}"
        if not may_fail:
            assert (result["failed"], result["unknown"]) == (0, 0), f"{result}\n{words}"

    def wait_healthy(self, asker=1, timeout_s=120, nodes=3):
        deadline = time.monotonic() + timeout_s
        while True:
            status = self.host(asker).status()
            if status.get("health") == "good" and len(status["nodes"]) == nodes:
                return status
            if time.monotonic() > deadline:
                raise AssertionError(f"the cluster is not well: {status.get('problems', status)}")
            time.sleep(0.5)

    def busiest(self):
        """The node that leads most shards."""
        leaders = [shard["leader"] for shard in self.wait_healthy()["shards"]]
        return max(set(leaders), key=leaders.count)

    def versions(self):
        return {node["id"]: node.get("version") for node in self.wait_healthy()["nodes"]}

    def explain(self):
        """The ends of the hosts' journals, after a failure."""
        for host in self.lab.hosts.values():
            try:
                text = host.execute("journalctl", "-u", "invoke-kv", "-n", "15", "--no-pager", "-o", "cat")
            except (CommandFailed, AttributeError, OSError, IndexError, subprocess.TimeoutExpired) as error:
                text = f"{type(error).__name__}\n"
            print(f"--- {host.name}\n{text}", flush=True)


def changes(output):
    """Host -> number of changed tasks, from a play's recap."""
    found = {match[1]: int(match[2]) for match in PLAY_CHANGED.finditer(output)}
    assert found, output
    return found


# --- the steps ------------------------------------------------------------------------------------


def build_packages(directory, *options):
    run(os.path.join(ROOT, "scripts/package"), "--output", directory, *options, timeout_s=1200)
    names = [name for name in os.listdir(directory) if re.match(r"invoke-kv_.*\.deb$", name)]
    return [os.path.join(directory, name) for name in names]


def step_packages(context):
    """the packages, and those of a higher version"""
    directory = context.lab.directory
    context.packages = build_packages(os.path.join(directory, "packages"))
    context.newer = build_packages(os.path.join(directory, "newer"), "--next")


def step_site(context):
    """site.yml makes a cluster of three blank hosts"""
    context.lab.add_hosts(1, 2, 3)
    context.inventory(1, 2, 3)
    context.play("site.yml", "--check", "--diff")
    assert not os.path.exists(os.path.join(context.host(1).root, "usr/bin/invoke-kvd"))
    output = context.play("site.yml")
    status = context.wait_healthy()
    assert all(shard["voters"] == 3 for shard in status["shards"]), status
    secret = open(os.path.join(context.lab.inventory, "secrets/lab/admin.secret"), encoding="utf-8").read().strip()
    assert secret and secret not in output


def step_again(context):
    """a second run changes nothing, also with --check --diff --limit"""
    for arguments in ((), ("--check", "--diff", "--limit", "kv2")):
        counts = changes(context.play("site.yml", *arguments))
        assert set(counts.values()) == {0}, f"site.yml {arguments}: {counts}"


def step_use(context):
    """what one node took another gives"""
    context.host(1).cli("project", "create", "shop")
    context.host(1).cli("--project", "shop", "set", "greeting", "hello")
    for number in (2, 3):
        assert context.host(number).cli("--project", "shop", "get", "greeting").strip() == "hello"


def step_unit(context):
    """the unit is sandboxed, its watchdog notices a stuck node"""
    host = context.host(2)
    text = host.execute("systemd-analyze", "security", "--no-pager", "invoke-kv.service")
    exposure = float(re.search(r"Overall exposure level for \S+: ([0-9.]+)", text)[1])
    context.say(f"    systemd-analyze security: {exposure}")
    assert exposure <= 2.0, text
    pid = host.execute("systemctl", "show", "-p", "MainPID", "--value", "invoke-kv").strip()
    status = host.execute("cat", f"/proc/{pid}/status")
    assert re.search(r"^CapEff:\s+0+$", status, re.MULTILINE) and re.search(r"^Seccomp:\s+2$", status, re.MULTILINE)
    host.execute("kill", "-STOP", pid)
    deadline = time.monotonic() + 90
    while host.execute("systemctl", "show", "-p", "NRestarts", "--value", "invoke-kv").strip() == "0":
        assert time.monotonic() < deadline, "the watchdog does not notice a stopped process"
        time.sleep(1)
    context.wait_healthy()


def step_power_cut(context):
    """a host's power goes under load: nothing acknowledged is lost, service goes on"""
    victim = context.busiest()
    survivor = next(n for n in (1, 2, 3) if n != victim)
    load = context.load()
    context.host(victim).power_cut()
    time.sleep(8)
    begun = time.monotonic()
    context.host(survivor).cli("project", "create", "power-cut")
    context.host(survivor).cli("--project", "power-cut", "set", "during", "the cut")
    context.say(f"    kv{victim} is gone; a write at kv{survivor} took {time.monotonic() - begun:.1f} s")
    context.host(victim).boot()
    context.wait_healthy(asker=survivor)
    context.finish(load)


def step_upgrade(context):
    """upgrade.yml to a higher version under load: no client operation fails, the leader goes last"""
    load = context.load()
    before = context.versions()
    context.packages = context.newer
    context.inventory(1, 2, 3)
    output = context.play("upgrade.yml")
    context.finish(load)
    after = context.versions()
    context.say(f"    {before} -> {after}")
    assert len(set(after.values())) == 1 and set(after.values()).isdisjoint(before.values()), (before, after)
    led = {host: int(number) for number, host in re.findall(r"item=(\d+) (kv\d) \(shards led", output)}
    order = re.findall(r"changed: \[(kv\d)\] => \(item=timeout", output)
    context.say(f"    shards led: {led}; order: {order}")
    assert len(led) == 3 and order == sorted(order, key=lambda host: (led[host], host)), (led, order)
    assert set(changes(context.play("site.yml")).values()) == {0}


def step_bad_upgrade(context):
    """a package whose server does not start: the first node gets its old one back, no other is touched"""
    before = context.versions()
    broken = os.path.join(context.lab.directory, "broken")
    tree = os.path.join(broken, "tree")
    os.makedirs(broken)
    run("dpkg-deb", "--raw-extract", context.packages[0], tree)
    with open(os.path.join(tree, "usr/bin/invoke-kvd"), "w", encoding="utf-8") as file:
        file.write("#!/bin/sh\n[ $1 != --config ] || exit 1\n")
    control = os.path.join(tree, "DEBIAN/control")
    with open(control, encoding="utf-8") as file:
        text = re.sub(r"^Version: .*$", "Version: 9.0-1", file.read(), flags=re.MULTILINE)
    with open(control, "w", encoding="utf-8") as file:
        file.write(text)
    package = os.path.join(broken, "invoke-kv_9.0-1_amd64.deb")
    run("dpkg-deb", "--build", "--root-owner-group", tree, package)
    good = context.packages
    load = context.load()
    context.packages = [package]
    context.inventory(1, 2, 3, invoke_kv_wait_s=20)
    output = context.play("upgrade.yml", fails=True)
    context.packages = good
    context.inventory(1, 2, 3)
    context.finish(load)
    assert context.versions() == before, (before, context.versions())
    assert "did not come back well" in output, output
    touched = {host for host, count in changes(output).items() if count > 0}
    assert len(touched) == 1, touched


def step_add(context):
    """add-node.yml brings in a fourth host under load"""
    context.lab.add_hosts(4)
    load = context.load()
    context.inventory(1, 2, 3, 4)
    context.play("add-node.yml", "-e", "node=kv4")
    context.finish(load)
    status = context.wait_healthy(nodes=4)
    assert all(shard["voters"] == 4 for shard in status["shards"]), status
    assert set(changes(context.play("site.yml")).values()) == {0}


def step_remove(context):
    """remove-node.yml takes it out again under load, and refuses to go below three"""
    load = context.load()
    context.play("remove-node.yml", "-e", "node=kv4")
    context.finish(load)
    context.inventory(1, 2, 3)
    status = context.wait_healthy()
    assert all(shard["voters"] == 3 for shard in status["shards"]), status
    assert set(changes(context.play("site.yml")).values()) == {0}
    context.lab.hosts.pop(4).remove()
    output = context.play("remove-node.yml", "-e", "node=kv3", fails=True)
    assert "stops when one of them does" in output, output
    context.wait_healthy()


def step_replace(context):
    """replace-node.yml puts a new host in the place of a lost one under load"""
    load = context.load((1, 3))
    context.host(2).power_cut()
    context.lab.hosts.pop(2).remove()
    context.lab.forget(2)
    context.lab.add_hosts(2)
    context.play("replace-node.yml", "-e", "node=kv2")
    context.finish(load)
    context.wait_healthy()
    assert set(changes(context.play("site.yml")).values()) == {0}
    # A blank host is not let in by site.yml.
    context.host(3).execute("systemctl", "stop", "invoke-kv")
    context.host(3).execute("mv", "/var/lib/invoke-kv", "/var/lib/aside")
    output = context.play("site.yml", fails=True)
    assert "replace-node.yml" in output, output
    context.host(3).execute("mv", "/var/lib/aside", "/var/lib/invoke-kv")
    context.host(3).execute("systemctl", "start", "invoke-kv")
    context.wait_healthy()


def fingerprints(context):
    """What certificate each node shows to clients."""
    found = {}
    for number, host in context.lab.hosts.items():
        command = f"openssl s_client -connect {host.address}:7101 </dev/null 2>/dev/null"
        command += " | openssl x509 -noout -fingerprint -issuer_hash"
        found[number] = host.execute("sh", "-c", command)
    return found


def step_certificates(context):
    """rotate-certs.yml under load: new certificates, then a new authority"""
    first = fingerprints(context)
    load = context.load()
    context.play("rotate-certs.yml")
    second = fingerprints(context)
    assert set(first.values()).isdisjoint(second.values()), (first, second)
    context.finish(load)
    # Clients that know the old authority only: they keep their connections.
    load = context.load()
    context.play("rotate-certs.yml", "-e", "authority=true")
    third = fingerprints(context)
    assert set(second.values()).isdisjoint(third.values()), (second, third)
    load.stop_quietly()
    context.wait_healthy()
    context.finish(context.load())
    assert set(changes(context.play("site.yml")).values()) == {0}


def contents(context):
    """Every project's keys and values, as the command line exports them."""
    host = context.host(1)
    projects = [line.split()[0] for line in host.cli("project", "list").splitlines() if line.startswith(("load", "shop"))]
    assert projects
    return {name: host.cli("--project", name, "export", "-", "--format", "lines") for name in projects}


def step_backup(context):
    """backup.yml under load, wipe, restore.yml: the data is equal"""
    host = context.host(1)
    host.cli("project", "create", "shop", check=False)
    host.cli("--project", "shop", "set", "before", "the backup")
    load = context.load()
    fetched = os.path.join(context.lab.directory, "backups")
    context.play("backup.yml", "-e", f"invoke_kv_backup_fetch_dir={fetched}", "-e", "invoke_kv_backup_keep=1")
    context.finish(load)
    # One of a cluster that rests, to compare with.
    expected = contents(context)
    context.play("backup.yml", "-e", f"invoke_kv_backup_fetch_dir={fetched}", "-e", "invoke_kv_backup_keep=1")
    assert len(host.execute("ls", "/var/backups/invoke-kv").split()) == 1
    folder = os.path.join(fetched, "lab")
    backup = os.path.join(folder, sorted(os.listdir(folder))[-1])
    host.cli("--project", "shop", "set", "after", "the backup")
    for each in context.lab.hosts.values():
        each.execute("sh", "-c", "systemctl kill -s KILL invoke-kv; systemctl stop invoke-kv; rm -rf /var/lib/invoke-kv/*")
    output = context.play("restore.yml", "-e", f"backup={backup}", fails=True)
    assert "confirm=lab" in output, output
    context.play("restore.yml", "-e", "confirm=lab", "-e", f"backup={backup}")
    context.wait_healthy()
    restored = contents(context)
    assert restored == expected, sorted(name for name in expected if restored.get(name) != expected[name])
    context.finish(context.load())
    assert set(changes(context.play("site.yml")).values()) == {0}


def step_quorum(context):
    """two of three hosts are lost for good: restore.yml makes a cluster of the third and two new ones"""
    context.host(1).cli("project", "create", "shop", check=False)
    context.host(1).cli("--project", "shop", "set", "still", "there")
    expected = contents(context)
    for number in (2, 3):
        context.host(number).power_cut()
        context.lab.hosts.pop(number).remove()
        context.lab.forget(number)
    context.lab.add_hosts(2, 3)
    context.play("restore.yml", "-e", "confirm=lab", "-e", "survivor=kv1")
    context.wait_healthy()
    assert contents(context) == expected
    context.finish(context.load())
    assert set(changes(context.play("site.yml")).values()) == {0}


def step_firewall(context):
    """firewall rules: nodes reach each other, a client from elsewhere only where it may"""

    def reachable(port):
        probe = ["timeout", "3", "bash", "-c", f"exec 3<>/dev/tcp/{context.host(1).address}/{port}"]
        return subprocess.run(context.lab.in_hub(*probe), check=False, capture_output=True).returncode == 0

    assert reachable(7101) and reachable(7201)
    nobody = {"invoke_kv_firewall": True, "invoke_kv_client_sources": ["192.0.2.0/24"]}
    context.inventory(1, 2, 3, **nobody)
    context.play("site.yml")
    context.wait_healthy()
    assert not reachable(7101) and not reachable(7201)
    context.inventory(1, 2, 3, invoke_kv_firewall=True)
    context.play("site.yml")
    assert reachable(7101) and not reachable(7201)
    for host in context.lab.hosts.values():
        host.execute("nft", "delete", "table", "inet", "invoke_kv")
        host.execute("sed", "-i", "/invoke-kv/d", "/etc/nftables.conf")
    context.inventory(1, 2, 3)


ALL = [
    "packages",
    "site",
    "again",
    "use",
    "unit",
    "power-cut",
    "upgrade",
    "bad-upgrade",
    "add",
    "remove",
    "replace",
    "certificates",
    "firewall",
    "backup",
    "quorum",
]
FOUNDATIONS = ("packages", "site")
QUICK = ("packages", "site", "again", "use", "power-cut", "upgrade")


def describe(name):
    return globals()["step_" + name.replace("-", "_")].__doc__
