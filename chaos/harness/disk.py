"""The disks that nodes' data sits on: chaos-fs mounts, whose power can fail."""

import ctypes
import os
import signal
import socket
import subprocess
import time

SURVIVE_NONE = 0
SURVIVE_ALL = 1000
SURVIVE_DRAWN = -1


class DiskError(Exception):
    pass


def end_with_parent():
    """Runs in a child: when the harness dies, so does it, and with it what it mounted."""
    pr_set_pdeathsig = 1
    ctypes.CDLL(None).prctl(pr_set_pdeathsig, signal.SIGTERM)


class ChaosDisk:
    """A mounted chaos-fs. Commands: chaos/fs/control.c."""

    def __init__(self, program, mountpoint, socket_path, log_path):
        self.mountpoint = mountpoint
        self.socket_path = socket_path
        os.makedirs(mountpoint, exist_ok=True)
        with open(log_path, "ab") as log:
            self.process = subprocess.Popen(
                [program, mountpoint, socket_path],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                preexec_fn=end_with_parent,
                start_new_session=True,  # Ctrl-C is for the harness
            )
        self._wait_mounted(log_path)

    def _wait_mounted(self, log_path):
        deadline = time.monotonic() + 20
        while not (os.path.ismount(self.mountpoint) and os.path.exists(self.socket_path)):
            if self.process.poll() is not None or time.monotonic() > deadline:
                with open(log_path, encoding="utf-8", errors="replace") as log:
                    told = log.read().strip()
                self.remove()
                raise DiskError(f"chaos-fs does not mount {self.mountpoint}: {told}")
            time.sleep(0.01)

    def command(self, *words):
        """Answer as {key: number}."""
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
            connection.settimeout(30)
            connection.connect(self.socket_path)
            connection.sendall(" ".join(str(word) for word in words).encode() + b"\n")
            answer = connection.recv(1000).decode().strip()
        if not answer.startswith("ok"):
            raise DiskError(f"{' '.join(map(str, words))}: {answer}")
        return {key: int(value) for key, value in (word.split("=") for word in answer.split()[1:])}

    def unplug(self, seed, survive=SURVIVE_DRAWN):
        """The power fails: what was not synced is lost, or a part of it. Whatever uses the disk has
        to be killed before."""
        return self.command("unplug", seed, survive)

    def heal(self):
        self.command("heal")

    def remove(self):
        if self.process.poll() is None:
            self.process.terminate()
            try:
                self.process.wait(10)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait(10)
        if os.path.ismount(self.mountpoint):
            subprocess.run(["umount", "-l", self.mountpoint], check=False, capture_output=True)
