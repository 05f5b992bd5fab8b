"""What ansible/tests/run does, step by step. Each step leaves a cluster of three that is well."""

import base64
import hashlib
import json
import os
import re
import shutil
import subprocess
import time

from lab import PREFIX, ROOT, CommandFailed, Load, run

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
        self.secrets = {}  # name -> what must be seen nowhere

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


def unchanged(context, *arguments, playbook="site.yml"):
    """A playbook that finds everything as it should be changes nothing."""
    counts = changes(context.play(playbook, *arguments))
    assert set(counts.values()) == {0}, f"{playbook} {arguments}: {counts}"


# --- the steps ------------------------------------------------------------------------------------


def build_packages(directory, *options):
    run(os.path.join(ROOT, "scripts/package"), "--output", directory, *options, timeout_s=1200)
    names = [name for name in os.listdir(directory) if re.match(r"invoke-kv_.*\.deb$", name)]
    return [os.path.join(directory, name) for name in names]


def build_load():
    """The clients that the steps need, before anything else takes time."""
    directory = os.path.join(ROOT, "build")
    if not os.path.exists(os.path.join(directory, "CMakeCache.txt")):
        options = ["-G", "Ninja", "-DCMAKE_BUILD_TYPE=Release"]
        run("cmake", "-S", ROOT, "-B", directory, *options, timeout_s=300)
    run("cmake", "--build", directory, "--target", "ansible-load", timeout_s=1200)


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
    output = context.play("site.yml", "--limit", "kv1", fails=True)
    assert "founded by all" in output, output
    assert not os.path.exists(os.path.join(context.host(1).root, "usr/bin/invoke-kvd"))
    context.play("site.yml")
    status = context.wait_healthy()
    assert all(shard["voters"] == 3 for shard in status["shards"]), status


def step_again(context):
    """a second run changes nothing, also with --check --diff --limit"""
    for arguments in ((), ("--check", "--diff", "--limit", "kv2")):
        unchanged(context, *arguments)


def step_use(context):
    """what one node took another gives"""
    context.host(1).cli("project", "create", "shop")
    context.host(1).cli("--project", "shop", "set", "greeting", "hello")
    for number in (2, 3):
        assert context.host(number).cli("--project", "shop", "get", "greeting").strip() == "hello"
    token = re.search(r"ikv_\S+", context.host(1).cli("project", "token", "add", "shop", "readwrite"))[0]
    context.secrets["a token"] = token.split("_", 2)[2]  # its secret may have more of these
    words = ["invoke-kv", "--server", context.lab.seeds(), "--ca-file", "/etc/invoke-kv/tls/ca.pem", "--project", "shop"]
    shown = context.host(2).execute("env", f"INVOKE_KV_TOKEN={token}", *words, "get", "greeting")
    assert shown.strip() == "hello", shown


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
    unchanged(context)


def step_bad_upgrade(context):
    """a package whose server does not start: the first node gets its old one back, no other is touched"""
    before = context.versions()
    packages = package_versions(context)
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
    assert package_versions(context) == packages, package_versions(context)
    unchanged(context)
    unchanged(context, playbook="upgrade.yml")


def step_add(context):
    """add-node.yml brings in a fourth host under load"""
    context.lab.add_hosts(4)
    load = context.load()
    context.inventory(1, 2, 3, 4)
    context.play("add-node.yml", "-e", "node=kv4")
    context.finish(load)
    status = context.wait_healthy(nodes=4)
    assert all(shard["voters"] == 4 for shard in status["shards"]), status
    unchanged(context)


def step_remove(context):
    """remove-node.yml takes it out again under load, and refuses to go below three"""
    load = context.load()
    context.play("remove-node.yml", "-e", "node=kv4")
    context.finish(load)
    context.inventory(1, 2, 3)
    status = context.wait_healthy()
    assert all(shard["voters"] == 3 for shard in status["shards"]), status
    unchanged(context)
    context.lab.remove_host(4)
    output = context.play("remove-node.yml", "-e", "node=kv3", fails=True)
    assert "stops when one of them does" in output, output
    context.wait_healthy()


def step_replace(context):
    """replace-node.yml puts a new host in the place of a lost one under load"""
    load = context.load((1, 3))
    context.host(2).power_cut()
    context.lab.remove_host(2)
    context.lab.forget(2)
    context.lab.add_hosts(2)
    context.play("replace-node.yml", "-e", "node=kv2")
    context.finish(load)
    context.wait_healthy()
    unchanged(context)
    # The wrong name: the node that it means runs, the one that is down is another.
    context.host(1).execute("systemctl", "stop", "invoke-kv")
    output = context.play("replace-node.yml", "-e", "node=kv2", fails=True)
    assert "Nothing was changed" in output, output
    context.host(2).execute("systemctl", "is-active", "invoke-kv")
    context.host(1).execute("systemctl", "start", "invoke-kv")
    context.wait_healthy()
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
    # Cut short where the new authority is made, then started again: there is one new authority, not two.
    context.play("rotate-certs.yml", "-e", "authority=true", "-e", "invoke_kv_make_certs=/bin/false", fails=True)
    context.play("rotate-certs.yml", "-e", "authority=true")
    pki = os.listdir(os.path.join(context.lab.inventory, "pki/lab"))
    assert len([name for name in pki if name.startswith("ca.pem.old-")]) == 1, pki
    assert not [name for name in pki if name.startswith("trusted.pem")], pki
    third = fingerprints(context)
    assert set(second.values()).isdisjoint(third.values()), (second, third)
    load.stop_quietly()
    context.wait_healthy()
    context.finish(context.load())
    unchanged(context)
    # Nothing is put aside where nothing can be signed.
    key = os.path.join(context.lab.inventory, "pki/lab/ca.key")
    os.rename(key, key + ".elsewhere")
    before = sorted(os.listdir(os.path.dirname(key)))
    output = context.play("rotate-certs.yml", fails=True)
    assert "nothing can be signed here" in output, output
    assert sorted(os.listdir(os.path.dirname(key))) == before
    os.rename(key + ".elsewhere", key)
    unchanged(context)


def contents(context):
    """Every project's keys and values, as the command line exports them."""
    host = context.host(1)
    projects = [line.split()[0] for line in host.cli("project", "list").splitlines() if line.startswith(("load", "shop"))]
    assert projects
    return {name: host.cli("--project", name, "export", "-", "--format", "lines") for name in projects}


def assert_equal_contents(context, expected):
    found = contents(context)
    for name in sorted(expected.keys() | found.keys()):
        wanted, got = (of.get(name, "").splitlines() for of in (expected, found))
        assert got == wanted, f"{name}: {sorted(set(wanted) ^ set(got))[:10]} of {len(wanted)} and {len(got)} lines"


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
    wrong = ["-e", "confirm=lab", "-e", f"backup={backup}", "-e", "invoke_kv_shards=4"]
    output = context.play("restore.yml", *wrong, fails=True)
    assert "The backup has 8 shards and invoke_kv_shards is 4" in output, output
    context.play("restore.yml", "-e", "confirm=lab", "-e", f"backup={backup}")
    context.wait_healthy()
    assert_equal_contents(context, expected)
    context.finish(context.load())
    unchanged(context)


def step_quorum(context):
    """two of three hosts are lost for good: restore.yml makes a cluster of the third and two new ones"""
    context.host(1).cli("project", "create", "shop", check=False)
    context.host(1).cli("--project", "shop", "set", "still", "there")
    expected = contents(context)
    for number in (2, 3):
        context.host(number).power_cut()
        context.lab.remove_host(number)
        context.lab.forget(number)
    context.lab.add_hosts(2, 3)
    context.play("restore.yml", "-e", "confirm=lab", "-e", "survivor=kv1")
    context.wait_healthy()
    assert_equal_contents(context, expected)
    context.finish(context.load())
    unchanged(context)


def scraped(context, path):
    """What Prometheus would make of the file with its targets."""
    parse = "import json, sys, yaml; print(json.dumps(yaml.safe_load(open(sys.argv[1]))))"
    groups = json.loads(run("/usr/bin/python3", "-c", parse, path))
    targets = [target for group in groups for target in group["targets"]]
    assert len(targets) == 3, groups
    assert all(group["labels"] == {"cluster": "lab"} for group in groups), groups
    for number, target in enumerate(targets, start=1):
        fetch = "import sys, urllib.request as web; print(web.urlopen(sys.argv[1], timeout=10).read().decode())"
        text = run(*context.lab.in_hub("python3", "-c", fetch, f"http://{target}/metrics"))
        assert re.search(rf'^invokekv_build_info\{{.*node="{number}".*\}} 1$', text, re.MULTILINE), text[:2000]


def step_firewall(context):
    """firewall rules: nodes reach each other, a client or Prometheus from elsewhere only where it may"""

    def reachable(port):
        probe = ["timeout", "3", "bash", "-c", f"exec 3<>/dev/tcp/{context.host(1).address}/{port}"]
        return subprocess.run(context.lab.in_hub(*probe), check=False, capture_output=True).returncode == 0

    assert reachable(7101) and reachable(7201)
    nobody = {"invoke_kv_firewall": True, "invoke_kv_client_sources": ["192.0.2.0/24"]}
    context.inventory(1, 2, 3, **nobody)
    context.play("site.yml")
    context.wait_healthy()
    assert not reachable(7101) and not reachable(7201)
    targets = os.path.join(context.lab.directory, "prometheus-targets.yml")
    monitored = {
        "invoke_kv_firewall": True,
        "invoke_kv_http_listen": "{{ invoke_kv_own_host }}:7301",
        "invoke_kv_http_sources": [f"{PREFIX}.254"],
        "invoke_kv_prometheus_targets_file": targets,
    }
    context.inventory(1, 2, 3, **monitored)
    context.play("site.yml")
    assert reachable(7101) and not reachable(7201)
    scraped(context, targets)
    unchanged(context)
    context.inventory(1, 2, 3)
    context.play("site.yml")
    assert reachable(7101) and reachable(7201)
    for host in context.lab.hosts.values():
        assert "invoke" not in host.execute("cat", "/etc/nftables.conf")
    unchanged(context)


def repository(context, name, packages):
    """A signed apt repository of these packages in the folder NAME of the lab; its public key."""
    directory = os.path.join(context.lab.directory, name)
    home = os.path.join(context.lab.directory, "gnupg")
    os.makedirs(directory, exist_ok=True)
    gpg = ["gpg", "--homedir", home, "--batch", "--yes", "--quiet"]
    if not os.path.exists(home):
        os.makedirs(home, mode=0o700)
        run(*gpg, "--passphrase", "", "--quick-generate-key", "packages@lab", "ed25519", "sign", "never")
    for package in packages:
        shutil.copy(package, directory)
    lists = run("dpkg-scanpackages", "--multiversion", ".", cwd=directory).encode()
    now = time.strftime("%a, %d %b %Y %H:%M:%S UTC", time.gmtime())
    release = f"Origin: lab\nLabel: lab\nDate: {now}\nSHA256:\n {hashlib.sha256(lists).hexdigest()} {len(lists)} Packages\n"
    for file_name, data in (("Packages", lists), ("Release", release.encode())):
        with open(os.path.join(directory, file_name), "wb") as file:
            file.write(data)
    run(*gpg, "--clearsign", "--output", os.path.join(directory, "InRelease"), os.path.join(directory, "Release"))
    os.unlink(os.path.join(directory, "Release"))
    run(*gpg, "--armor", "--output", os.path.join(directory, "key.asc"), "--export", "packages@lab")
    run("gpgconf", "--homedir", home, "--kill", "all")
    return os.path.join(directory, "key.asc")


def renamed(context, package, version):
    """The same package under another version."""
    tree = os.path.join(context.lab.directory, "renamed")
    shutil.rmtree(tree, ignore_errors=True)
    run("dpkg-deb", "--raw-extract", package, tree)
    control = os.path.join(tree, "DEBIAN/control")
    with open(control, encoding="utf-8") as file:
        text = re.sub(r"^Version: .*$", f"Version: {version}", file.read(), flags=re.MULTILINE)
    with open(control, "w", encoding="utf-8") as file:
        file.write(text)
    name = os.path.basename(package).split("_")
    result = os.path.join(context.lab.directory, f"{name[0]}_{version}_{name[2]}")
    run("dpkg-deb", "--build", "--root-owner-group", tree, result)
    return result


def package_versions(context):
    query = ["dpkg-query", "--show", "--showformat=${Version}", "invoke-kv"]
    return {number: host.execute(*query) for number, host in context.lab.hosts.items()}


def step_repository(context):
    """a new host gets the package from a signed apt repository, and all are upgraded from it"""
    lab = context.lab
    present = package_versions(context)
    assert len(set(present.values())) == 1, present
    key = repository(context, "repository", context.packages)
    address = lab.serve(os.path.join(lab.directory, "repository"))
    stranger = repository_of_a_stranger(context)
    lab.add_hosts(4)
    settings = {"invoke_kv_repository": address, "invoke_kv_repository_key": key}
    # What is not signed with the key is not taken.
    lab.write_inventory((1, 2, 3, 4), invoke_kv_repository=address, invoke_kv_repository_key=stranger)
    output = context.play("add-node.yml", "-e", "node=kv4", fails=True)
    assert not os.path.exists(os.path.join(context.host(4).root, "usr/bin/invoke-kvd")), output
    lab.write_inventory((1, 2, 3, 4), **settings)
    context.play("add-node.yml", "-e", "node=kv4")
    context.wait_healthy(nodes=4)
    assert set(package_versions(context).values()) == set(present.values()), package_versions(context)
    # Only the new host has been told of it: the others have the package.
    context.play("site.yml")
    unchanged(context)
    later = renamed(context, context.packages[0], "99.1.0-1")
    repository(context, "repository", [later])
    load = context.load()
    context.play("upgrade.yml")
    context.finish(load)
    assert set(package_versions(context).values()) == {"99.1.0-1"}, package_versions(context)
    unchanged(context, playbook="upgrade.yml")
    # And back, from the repository too.
    back = present[1]
    context.play("upgrade.yml", "-e", f"invoke_kv_version={back}")
    assert set(package_versions(context).values()) == {back}, package_versions(context)
    context.play("remove-node.yml", "-e", "node=kv4")
    lab.remove_host(4)
    lab.forget(4)
    context.inventory(1, 2, 3)
    for host in lab.hosts.values():
        host.execute("rm", "/etc/apt/sources.list.d/invoke-kv.sources")
    unchanged(context)


def repository_of_a_stranger(context):
    """A public key that signed nothing."""
    home = os.path.join(context.lab.directory, "stranger")
    os.makedirs(home, mode=0o700)
    gpg = ["gpg", "--homedir", home, "--batch", "--quiet"]
    run(*gpg, "--passphrase", "", "--quick-generate-key", "stranger@lab", "ed25519", "sign", "never")
    run(*gpg, "--armor", "--output", f"{home}.asc", "--export", "stranger@lab")
    run("gpgconf", "--homedir", home, "--kill", "all")
    return f"{home}.asc"


def standing(context):
    """What no playbook may change with --check, or when it refuses."""
    status = context.wait_healthy()
    starts = {}
    for number, host in context.lab.hosts.items():
        show = ["systemctl", "show", "-p", "MainPID", "-p", "NRestarts", "--value", "invoke-kv"]
        files = "cd / && find etc/invoke-kv etc/systemd/system etc/apt etc/nftables.conf var/backups -type f | sort | xargs sha256sum"
        folders = "ls -d /var/lib/invoke-kv* /var/lib/invoke-kv/identity"
        starts[number] = [host.execute(*show), host.execute("sh", "-c", files), host.execute("sh", "-c", folders)]
    members = sorted((node["id"], node.get("version")) for node in status["nodes"])
    pki = os.path.join(context.lab.inventory, "pki/lab")
    return members, starts, fingerprints(context), sorted(os.listdir(pki))


def step_check(context):
    """--check --diff of every playbook runs and changes nothing"""
    before = standing(context)
    context.packages, present = context.newer, context.packages
    context.inventory(1, 2, 3, invoke_kv_settings={"slow_ms": 900}, invoke_kv_firewall=True)
    output = context.play("site.yml", "--check", "--diff")
    assert "slow_ms = 900" in output, output
    for name, *arguments in (
        ("upgrade.yml",),
        ("backup.yml",),
        ("rotate-certs.yml", "-e", "authority=true"),
        ("replace-node.yml", "-e", "node=kv2"),
        ("remove-node.yml", "-e", "node=kv3", "-e", "fewer_than_three=true"),
        ("restore.yml", "-e", "confirm=lab", "-e", "survivor=kv1"),
        ("status.yml",),
    ):
        context.play(name, *arguments, "--check", "--diff")
    context.packages = present
    context.inventory(1, 2, 3)
    after = standing(context)
    assert after == before, f"{before}\n{after}"
    unchanged(context)


def step_limit(context):
    """--limit: what needs all hosts refuses and touches nothing, the rest keeps to the hosts named"""
    before = standing(context)
    for name, *arguments in (
        ("add-node.yml", "-e", "node=kv2"),
        ("remove-node.yml", "-e", "node=kv2", "-e", "fewer_than_three=true"),
        ("replace-node.yml", "-e", "node=kv2"),
        ("rotate-certs.yml",),
        ("restore.yml", "-e", "confirm=lab", "-e", "survivor=kv1"),
    ):
        output = context.play(name, *arguments, "--limit", "kv1", fails=True)
        assert "--limit" in output, output
    assert standing(context) == before, f"{before}\n{standing(context)}"
    # A setting reaches the host named, which restarts, and no other.
    context.inventory(1, 2, 3, invoke_kv_settings={"slow_ms": 900})
    counts = changes(context.play("site.yml", "--limit", "kv2"))
    assert set(counts) == {"kv2"} and counts["kv2"] > 0, counts
    now = standing(context)[1]
    assert now[1] == before[1][1] and now[3] == before[1][3] and now[2] != before[1][2]
    context.inventory(1, 2, 3)
    context.play("site.yml")
    unchanged(context)


def step_status(context):
    """status.yml tells that all is well, and names the node that is not"""
    output = context.play("status.yml")
    assert output.count("ActiveState=active") == 3 and output.count("notAfter=") == 3, output
    context.host(2).execute("systemctl", "stop", "invoke-kv")
    output = context.play("status.yml", fails=True)
    assert "ActiveState=inactive" in output and re.search(r"node 2\b", output), output
    context.host(2).execute("systemctl", "start", "invoke-kv")
    context.wait_healthy()
    context.play("status.yml")


def pasted(context, heading, *numbers):
    """Carries out the commands below a heading of docs/operations.md, as an operator would paste them.
    `numbers` are the hosts of each part, which begins with a comment that names a place."""
    with open(os.path.join(ROOT, "docs/operations.md"), encoding="utf-8") as file:
        section = re.split(r"^#+ ", file.read().split(f"# {heading}\n", 1)[1], maxsplit=1, flags=re.MULTILINE)[0]
    lines = "".join(line[4:] for line in section.splitlines(keepends=True) if line.startswith("    "))
    parts = [part for part in re.split(r"^(?=# on )", lines, flags=re.MULTILINE) if part.strip()]
    assert len(parts) == len(numbers), parts
    prelude = 'kv() { invoke-kv --config /etc/invoke-kv/client.conf "$@"; }\n'
    for part, hosts in zip(parts, numbers):
        for number in hosts:
            context.host(number).execute("bash", "-c", prelude + part, timeout_s=300)


def step_runbook(context):
    """the commands of the failure runbook (docs/operations.md), pasted on the hosts"""
    host = context.host(1)
    host.cli("project", "create", "shop", check=False)
    host.cli("--project", "shop", "set", "runbook", "followed")

    def is_well():
        context.wait_healthy()
        assert context.host(3).cli("--project", "shop", "get", "runbook").strip() == "followed"

    context.host(2).execute("sh", "-c", "systemctl kill -s KILL invoke-kv; systemctl stop invoke-kv")
    pasted(context, "One node is dead", (2,))
    is_well()
    damage = "systemctl stop invoke-kv; printf XXXXXX | dd of=$(ls /var/lib/invoke-kv/log/*.seg | head -1) bs=1 seek=4200 conv=notrunc"
    context.host(2).execute("sh", "-c", damage)
    assert context.host(2).execute("invoke-kvd", "verify", "/var/lib/invoke-kv", check=False).returncode == 2
    pasted(context, "A node lost its disk, or a file is damaged", (2,), (3,), (2,))
    is_well()
    for number in (2, 3):
        command = "systemctl kill -s KILL invoke-kv; systemctl stop invoke-kv; rm -rf /var/lib/invoke-kv"
        context.host(number).execute("sh", "-c", command)
    pasted(context, "When the majority is lost for good", (1,), (2, 3), (1,))
    is_well()
    unchanged(context)


def step_secrets(context):
    """no secret, token or private key in what playbooks say, also with -vvv --diff, nor in any journal"""
    lab = context.lab
    # Secrets that change are those that a diff would show.
    fresh = "Fresh" + os.urandom(16).hex()
    context.inventory(1, 2, 3, invoke_kv_admin_secret=fresh)
    counts = changes(context.play("site.yml", "--check", "--diff", "-vvv"))
    assert all(count > 0 for count in counts.values()), counts
    context.inventory(1, 2, 3)
    with lab.vault(invoke_kv_admin_secret=fresh) as password:
        counts = changes(context.play("site.yml", "--check", "--diff", "-vvv", "--vault-password-file", password))
        assert all(count > 0 for count in counts.values()), counts
    # As with a PKI of one's own: nobody here can sign.
    authority = os.path.join(lab.inventory, "pki/lab/ca.key")
    os.rename(authority, f"{authority}.elsewhere")
    unchanged(context, "--diff", "-vvv")
    os.rename(f"{authority}.elsewhere", authority)
    wanted = {"a secret that changes": fresh, **context.secrets}
    for folder in ("secrets/lab", "pki/lab"):
        for name in os.listdir(os.path.join(lab.inventory, folder)):
            with open(os.path.join(lab.inventory, folder, name), encoding="utf-8") as file:
                text = file.read()
            if folder == "secrets/lab":
                wanted[name] = text.strip()
            elif ".key" in name:
                # The lines that are the key's own; the first is alike in all keys of a kind.
                wanted.update({f"{name}:{i}": line for i, line in enumerate(text.splitlines()[2:-1])})
    with open(lab.key, encoding="utf-8") as file:
        wanted["key of ssh"] = file.read().splitlines()[3]
    lengths = {name: len(value) for name, value in wanted.items()}
    assert len(wanted) >= 10 and min(lengths.values()) >= 16, lengths
    texts = {f"output {i}": text for i, text in enumerate(lab.outputs)}
    texts.update({f"journal of a host that is gone, {i}": text for i, text in enumerate(lab.journals)})
    texts.update({f"journal of {host.name}": host.journal() for host in lab.hosts.values()})
    for host in lab.hosts.values():
        assert "invoke-kv" in texts[f"journal of {host.name}"], f"{host.name} has no journal"
        with open(os.path.join(host.directory, "console.log"), encoding="utf-8", errors="replace") as file:
            texts[f"console of {host.name}"] = file.read()
    seen = []
    for name, value in wanted.items():
        forms = (value, base64.b64encode(value.encode()).decode().rstrip("=")[:-2])
        seen += [f"{name} in {where}" for where, text in texts.items() if any(form in text for form in forms)]
    assert not seen, seen
    size = sum(map(len, texts.values()))
    context.say(f"    {len(wanted)} secrets, in none of {len(texts)} texts of {size // 1024} KiB")


ALL = [
    "packages",
    "site",
    "again",
    "use",
    "unit",
    "status",
    "check",
    "limit",
    "power-cut",
    "upgrade",
    "bad-upgrade",
    "repository",
    "add",
    "remove",
    "replace",
    "certificates",
    "firewall",
    "backup",
    "quorum",
    "runbook",
    "secrets",
]
FOUNDATIONS = ("packages", "site")
QUICK = ("packages", "site", "again", "use", "power-cut", "upgrade")


def describe(name):
    return globals()["step_" + name.replace("-", "_")].__doc__
