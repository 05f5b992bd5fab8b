"""Hosts for tests of playbooks: systemd machines in containers, on a bridge of their own.

Everything lives in network namespaces and a temporary directory whose names carry this process's
id, so that runs do not meet, and Lab.close() takes all of it away.
"""

import contextlib
import glob
import json
import os
import shutil
import signal
import subprocess
import tempfile
import time
import uuid

HERE = os.path.dirname(os.path.abspath(__file__))
ROOT = os.path.dirname(os.path.dirname(HERE))

SUITE = "bookworm"
IMAGE_PACKAGES = """systemd systemd-sysv dbus openssh-server python3 python3-apt iproute2 procps nftables
    ca-certificates openssl kmod libuv1 libsqlite3-0 libmicrohttpd12 libssl3 libhiredis0.14
    libraft0/bookworm-backports""".split()

PREFIX = "10.93.7"


class CommandFailed(Exception):
    pass


def run(*command, timeout_s=300, **options):
    done = subprocess.run(
        [str(word) for word in command], capture_output=True, text=True, timeout=timeout_s, check=False, **options
    )
    if done.returncode != 0:
        raise CommandFailed(f"{' '.join(map(str, command))}\n{done.stdout}{done.stderr}")
    return done.stdout


def cgroup_roots():
    """Where a cgroup of the service manager's hierarchies is made by mkdir."""
    roots = []
    with open("/proc/self/mountinfo", encoding="utf-8") as file:
        for line in file:
            fields = line.split()
            kind = fields[fields.index("-") + 1]
            options = fields[-1].split(",")
            if kind == "cgroup2" or (kind == "cgroup" and "name=systemd" in options):
                roots.append(fields[4])
    return roots


def kill_cgroups(name):
    """Ends every process in the cgroups of this name, however it came to be there, and takes them away."""
    deadline = time.monotonic() + 20
    for root in cgroup_roots():
        top = os.path.join(root, name)
        while os.path.isdir(top) and time.monotonic() < deadline:
            for folder, _, _ in os.walk(top, topdown=False):
                kill_listed(os.path.join(folder, "cgroup.procs"))
                try:
                    os.rmdir(folder)
                except OSError:  # its processes are still on their way out
                    pass
            time.sleep(0.05)


def kill_listed(path):
    try:
        with open(path, encoding="utf-8") as file:
            pids = [int(line) for line in file]
    except OSError:
        return
    for pid in pids:
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            pass


def mounts_below(directory):
    """What is mounted there, the innermost first."""
    with open("/proc/self/mountinfo", encoding="utf-8") as file:
        found = [line.split()[4] for line in file]
    return [path for path in reversed(found) if path.startswith(directory + "/")]


class Host:
    """A machine: boot(), power_cut(), and what runs on it."""

    def __init__(self, lab, number):
        self.lab = lab
        self.number = number
        self.name = f"kv{number}"
        self.address = f"{PREFIX}.{number}"
        self.namespace = f"{lab.id}-{self.name}"
        self.directory = os.path.join(lab.directory, self.name)
        self.root = os.path.join(self.directory, "root")
        self.cgroup = f"{lab.id}-{self.name}"
        self.process = None
        self.mounted = False

    def create(self):
        for name in ("root", "upper", "work"):
            os.makedirs(os.path.join(self.directory, name), exist_ok=True)
        layers = f"lowerdir={self.lab.image},upperdir={self.directory}/upper,workdir={self.directory}/work"
        run("mount", "-t", "overlay", "overlay", "-o", layers, self.root)
        self.mounted = True
        self._write("etc/hostname", self.name + "\n")
        self._write("etc/machine-id", uuid.uuid4().hex + "\n")
        self._write("etc/hosts", "127.0.0.1 localhost\n" + "".join(f"{PREFIX}.{n} kv{n}\n" for n in range(1, 10)))
        self._write("root/.ssh/authorized_keys", self.lab.public_key, 0o600)
        # Without a journal on disk a host's story ends with its power.
        os.makedirs(os.path.join(self.root, "var/log/journal"), exist_ok=True)
        policy = os.path.join(self.root, "usr/sbin/policy-rc.d")
        if os.path.exists(policy):
            os.unlink(policy)
        # No mirror can be reached from here.
        shutil.rmtree(os.path.join(self.root, "etc/apt/sources.list.d"))
        os.makedirs(os.path.join(self.root, "etc/apt/sources.list.d"))
        self._write("etc/apt/sources.list", "")
        run("ssh-keygen", "-A", "-f", self.root)
        with open(os.path.join(self.root, "etc/ssh/ssh_host_ed25519_key.pub"), encoding="utf-8") as file:
            kind, key = file.read().split()[:2]
        with open(self.lab.known_hosts, "a", encoding="utf-8") as file:
            file.write(f"{self.address} {kind} {key}\n")
        self._connect()

    def _write(self, path, text, mode=0o644):
        path = os.path.join(self.root, path)
        os.makedirs(os.path.dirname(path), mode=0o700 if mode == 0o600 else 0o755, exist_ok=True)
        with open(path, "w", encoding="utf-8") as file:
            file.write(text)
        os.chmod(path, mode)

    def _connect(self):
        hub, own = self.lab.hub, self.namespace
        run("ip", "netns", "add", own)
        run("ip", "-n", own, "link", "set", "lo", "up")
        run("ip", "link", "add", "eth0", "netns", own, "type", "veth", "peer", "name", self.name, "netns", hub)
        run("ip", "-n", hub, "link", "set", self.name, "master", "bridge", "up")
        run("ip", "-n", own, "address", "add", f"{self.address}/24", "dev", "eth0")
        run("ip", "-n", own, "link", "set", "eth0", "up")

    def boot(self, wait_s=90):
        groups = [os.path.join(root, self.cgroup) for root in cgroup_roots()]
        for group in groups:
            os.makedirs(group, exist_ok=True)

        def enter():
            for group in groups:
                with open(os.path.join(group, "cgroup.procs"), "w", encoding="utf-8") as file:
                    file.write(str(os.getpid()))

        command = ["systemd-nspawn", "--quiet", "--register=no", "--keep-unit", "--boot", "--console=pipe"]
        command += [f"--directory={self.root}", f"--machine={self.name}", "--resolv-conf=off", "--timezone=off"]
        # For firewall rules; the network is the host's own.
        command += ["--capability=CAP_NET_ADMIN"]
        command += ["--link-journal=no", f"--network-namespace-path=/run/netns/{self.namespace}"]
        with open(os.path.join(self.directory, "console.log"), "ab") as console:
            # pylint: disable=subprocess-popen-preexec-fn
            # A session of its own: Ctrl-C is for the run, which then takes the hosts away in order.
            self.process = subprocess.Popen(  # pylint: disable=consider-using-with
                command,
                stdin=subprocess.DEVNULL,
                stdout=console,
                stderr=console,
                preexec_fn=enter,
                start_new_session=True,
            )
        deadline = time.monotonic() + wait_s
        while not self._answers():
            if time.monotonic() > deadline:
                raise CommandFailed(f"{self.name} does not boot; see {self.directory}/console.log")
            time.sleep(0.2)

    def _answers(self):
        probe = f"exec 3<>/dev/tcp/{self.address}/22 && head -c 3 <&3"
        done = subprocess.run(
            ["ip", "netns", "exec", self.lab.hub, "timeout", "2", "bash", "-c", probe],
            capture_output=True,
            check=False,
        )
        return done.stdout == b"SSH"

    def leader(self):
        """Process id of the container's init."""
        children = f"/proc/{self.process.pid}/task/{self.process.pid}/children"
        with open(children, encoding="utf-8") as file:
            return int(file.read().split()[0])

    def power_cut(self):
        """Everything on the host ends at once; nothing gets a chance to say good-bye."""
        if self.process is None:
            return
        try:
            os.kill(self.leader(), signal.SIGKILL)
        except (FileNotFoundError, IndexError, ProcessLookupError):
            pass
        try:
            self.process.wait(20)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        self.process = None

    def execute(self, *command, timeout_s=120, check=True):
        """Runs a command on the host."""
        full = ["nsenter", "--target", self.leader(), "--all", "env", "-i", "HOME=/root", "LC_ALL=C"]
        full += ["PATH=/usr/sbin:/usr/bin:/sbin:/bin", *command]
        if check:
            return run(*full, timeout_s=timeout_s)
        words = [str(word) for word in full]
        return subprocess.run(words, capture_output=True, text=True, timeout=timeout_s, check=False)

    def cli(self, *arguments, **options):
        """invoke-kv as the operator on the host has it."""
        return self.execute("invoke-kv", "--config", "/etc/invoke-kv/client.conf", *arguments, **options)

    def status(self):
        done = self.cli("cluster", "status", "--json", check=False)
        return json.loads(done.stdout) if done.stdout.startswith("{") else {}

    def journal(self):
        """All of its journal on disk, also of a host that does not run."""
        command = ["journalctl", "--directory", f"{self.root}/var/log/journal", "--no-pager", "--output=cat", "--all"]
        done = subprocess.run(command, capture_output=True, check=False, timeout=120)
        return done.stdout.decode(errors="replace")

    def remove(self):
        """Whatever state it is in, and also for a second time."""
        self.power_cut()
        if self.mounted:
            self._keep_journal()
        kill_cgroups(self.cgroup)
        for path in mounts_below(self.directory):
            subprocess.run(["umount", "--lazy", path], check=False, capture_output=True)
        self.mounted = False
        subprocess.run(["ip", "netns", "del", self.namespace], check=False, capture_output=True)

    def _keep_journal(self):
        try:
            self.lab.journals.append(self.journal())
        except Exception as error:  # pylint: disable=broad-exception-caught
            # It is looked through for secrets only; what follows matters more.
            print(f"{self.name}: its journal cannot be read: {error}", flush=True)


class Lab:
    """The bridge, the hosts, and the controller that runs the playbooks."""

    def __init__(self, keep=False):
        self.id = f"ikv{os.getpid()}"
        self.hub = self.id + "-hub"
        self.keep = keep
        # Short: paths of sockets have little room.
        self.directory = tempfile.mkdtemp(prefix=f"{self.id}-", dir="/var/tmp")
        self.inventory = os.path.join(self.directory, "inventory")
        self.known_hosts = os.path.join(self.directory, "known_hosts")
        self.key = os.path.join(self.directory, "key")
        self.hosts = {}
        self.image = None
        self.public_key = None
        self.loads = []
        self.servers = []
        self.outputs = []  # of all playbooks
        self.journals = []  # of hosts that are gone

    def open(self):
        words = run(os.path.join(ROOT, "scripts/lib/debian-root"), "host", SUITE, *IMAGE_PACKAGES, timeout_s=1200)
        self.image = words.strip()
        run("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", self.key)
        with open(self.key + ".pub", encoding="utf-8") as file:
            self.public_key = file.read()
        run("ip", "netns", "add", self.hub)
        run("ip", "-n", self.hub, "link", "set", "lo", "up")
        run("ip", "-n", self.hub, "link", "add", "bridge", "type", "bridge")
        run("ip", "-n", self.hub, "address", "add", f"{PREFIX}.254/24", "dev", "bridge")
        run("ip", "-n", self.hub, "link", "set", "bridge", "up")

    def add_hosts(self, *numbers):
        for number in numbers:
            self.hosts[number] = Host(self, number)
            self.hosts[number].create()
        for number in numbers:
            self.hosts[number].boot()

    def remove_host(self, number):
        # It is in the list until it is gone, so that close() finds one whose removal was interrupted.
        self.hosts[number].remove()
        del self.hosts[number]

    def write_inventory(self, numbers, **settings):
        """`settings` are variables of the group."""
        os.makedirs(self.inventory, exist_ok=True)
        hosts = {
            f"kv{n}": {"ansible_host": f"{PREFIX}.{n}", "invoke_kv_node_id": n} for n in numbers
        }
        variables = {
            "ansible_user": "root",
            "ansible_python_interpreter": "/usr/bin/python3",
            "ansible_ssh_private_key_file": self.key,
            "ansible_ssh_common_args": f"-o UserKnownHostsFile={self.known_hosts}",
            "invoke_kv_cluster": "lab",
            **settings,
        }
        with open(os.path.join(self.inventory, "hosts.json"), "w", encoding="utf-8") as file:
            json.dump({"invoke_kv": {"hosts": hosts, "vars": variables}}, file, indent=1)

    @contextlib.contextmanager
    def vault(self, **settings):
        """Variables of the group that stand in a vault: the file with its password."""
        path = os.path.join(self.inventory, "group_vars/invoke_kv.yml")
        password = os.path.join(self.directory, "vault-password")
        os.makedirs(os.path.dirname(path), exist_ok=True)
        with open(password, "w", encoding="utf-8") as file:
            file.write(os.urandom(16).hex())
        with open(path, "w", encoding="utf-8") as file:
            json.dump(settings, file)
        command = ["ansible-vault", "encrypt", "--vault-password-file", password, path]
        subprocess.run(command, check=True, capture_output=True)
        try:
            yield password
        finally:
            os.unlink(path)

    def forget(self, number):
        """The host that comes next under this address is another one."""
        with open(self.known_hosts, encoding="utf-8") as file:
            lines = [line for line in file if not line.startswith(f"{PREFIX}.{number} ")]
        with open(self.known_hosts, "w", encoding="utf-8") as file:
            file.writelines(lines)
        self.disconnect()

    def in_hub(self, *command):
        return ["ip", "netns", "exec", self.hub, *command]

    def play(self, name, *arguments, timeout_s=900):
        """Runs a playbook; returns its CompletedProcess, output in stdout."""
        environment = {
            **os.environ,
            "ANSIBLE_CONFIG": os.path.join(ROOT, "ansible/ansible.cfg"),
            "ANSIBLE_SSH_CONTROL_PATH_DIR": os.path.join(self.directory, "cp"),
            "ANSIBLE_LOCAL_TEMP": os.path.join(self.directory, "tmp"),
            "ANSIBLE_NOCOLOR": "1",
            "ANSIBLE_HOME": os.path.join(self.directory, "home"),
        }
        command = ["ansible-playbook", "-i", os.path.join(self.inventory, "hosts.json")]
        command += [os.path.join(ROOT, "ansible", name), *arguments]
        done = subprocess.run(
            self.in_hub(*command),
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            stdin=subprocess.DEVNULL,
            text=True,
            timeout=timeout_s,
            check=False,
        )
        self.outputs.append(done.stdout)
        return done

    def serve(self, directory, port=8000):
        """What is in the directory, to the hosts: the address of it."""
        command = self.in_hub("python3", "-m", "http.server", "--bind", f"{PREFIX}.254", "--directory", directory, str(port))
        quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
        self.servers.append(subprocess.Popen(command, **quiet))  # pylint: disable=consider-using-with
        return f"http://{PREFIX}.254:{port}/"

    def seeds(self, numbers=(1, 2, 3)):
        return ",".join(f"rediss://{PREFIX}.{n}:7101" for n in numbers)

    def disconnect(self):
        """Ends the connections that Ansible keeps for the next play."""
        control = os.path.join(self.directory, "cp")
        for name in os.listdir(control) if os.path.isdir(control) else []:
            path = os.path.join(control, name)
            subprocess.run(["ssh", "-o", f"ControlPath={path}", "-O", "exit", "x"], check=False, capture_output=True)

    def close(self):
        for load in self.loads:
            load.kill()
        for server in self.servers:
            server.kill()
            server.wait()
        self.disconnect()
        if self.keep:
            print(f"kept: {self.directory}; hosts run on in the namespaces {self.id}-*", flush=True)
            return
        for host in self.hosts.values():
            try:
                host.remove()
            except Exception as error:  # pylint: disable=broad-exception-caught
                # leftovers() tells what remains; the other hosts go all the same.
                print(f"{host.name} cannot be removed: {type(error).__name__}: {error}", flush=True)
        subprocess.run(["ip", "netns", "del", self.hub], check=False, capture_output=True)
        shutil.rmtree(self.directory, ignore_errors=True)

    def leftovers(self):
        """What carries this run's name although close() has ended."""
        found = [path for path in (self.directory, f"/run/netns/{self.hub}") if os.path.exists(path)]
        found += glob.glob(f"/run/netns/{self.id}-*") + glob.glob(f"/run/systemd/nspawn/*/{self.id}*")
        for root in cgroup_roots():
            found += glob.glob(os.path.join(root, f"{self.id}-*"))
        with open("/proc/self/mountinfo", encoding="utf-8") as file:
            found += [line.strip() for line in file if self.id in line]
        for path in glob.glob("/proc/[0-9]*/cmdline"):
            try:
                with open(path, "rb") as file:
                    words = file.read().replace(b"\0", b" ").decode(errors="replace")
            except OSError:
                continue
            if self.id in words:
                found.append(f"{path}: {words}")
        return found


class Load:
    """ansible-load: clients that write and read without pause and count what fails."""

    def __init__(self, lab, binary, project, numbers=(1, 2, 3)):
        pki = os.path.join(lab.inventory, "pki/lab/ca.pem")
        secret = os.path.join(lab.inventory, "secrets/lab/admin.secret")
        command = lab.in_hub(binary, lab.seeds(numbers), pki, secret, project)
        self.process = subprocess.Popen(  # pylint: disable=consider-using-with
            command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        lab.loads.append(self)

    def stop(self):
        """What became of it, as load.c prints it."""
        self.process.terminate()
        out, err = self.process.communicate(timeout=180)
        if self.process.returncode != 0:
            raise CommandFailed(f"the load ended with {self.process.returncode}: {err}")
        result = json.loads(out)
        result["words"] = err[-2000:]
        return result

    def stop_quietly(self):
        """For clients that the step itself locked out."""
        self.process.terminate()
        self.process.communicate(timeout=180)

    def kill(self):
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()
