"""What a run takes from the machine stands in a file under /run while it goes on, so that a later run
can give back what one left behind that was killed."""

import json
import os
import shutil
import signal
import subprocess
import tempfile

FOLDER = "/run/invoke-kv-chaos"


def start_time_of(pid):
    """When a process began, in clock ticks since boot; None when there is none."""
    try:
        with open(f"/proc/{pid}/stat", encoding="ascii") as file:
            return int(file.read().rsplit(")", 1)[1].split()[19])
    except (OSError, ValueError, IndexError):
        return None


class Place:
    """A folder for mounts and sockets (whose paths must be short), and the note about this run."""

    def __init__(self, is_root):
        self.is_root = is_root
        self.prefix = f"ikvc-{os.getpid()}"
        if is_root:
            os.makedirs(FOLDER, mode=0o700, exist_ok=True)
            self.folder = os.path.join(FOLDER, self.prefix)
            os.makedirs(self.folder, mode=0o700)
        else:
            self.folder = tempfile.mkdtemp(prefix="ikvc-")
        with open(os.path.join(self.folder, "owner"), "w", encoding="ascii") as file:
            json.dump({"pid": os.getpid(), "started": start_time_of(os.getpid())}, file)

    def path(self, name):
        return os.path.join(self.folder, name)

    def remove(self):
        shutil.rmtree(self.folder, ignore_errors=True)


def _is_orphan(folder):
    try:
        with open(os.path.join(folder, "owner"), encoding="ascii") as file:
            owner = json.load(file)
    except (OSError, ValueError):
        return True
    return start_time_of(owner["pid"]) != owner["started"]


def _mounts_below(folder):
    with open("/proc/self/mounts", encoding="utf-8") as file:
        points = [line.split()[1] for line in file]
    return [point for point in points if point.startswith(folder + "/")]


def _remove_orphan(prefix):
    folder = os.path.join(FOLDER, prefix)
    for space in sorted(os.listdir("/run/netns")) if os.path.isdir("/run/netns") else []:
        if not space.startswith(prefix + "-"):
            continue
        listed = subprocess.run(["ip", "netns", "pids", space], capture_output=True, text=True, check=False)
        for pid in listed.stdout.split():
            os.kill(int(pid), signal.SIGKILL)
        subprocess.run(["ip", "netns", "del", space], check=False, capture_output=True)
    for mount in _mounts_below(folder):
        subprocess.run(["umount", "-l", mount], check=False, capture_output=True)
    shutil.rmtree(folder, ignore_errors=True)


def remove_orphans():
    """Names of the runs that were killed and are cleaned up now."""
    if not os.path.isdir(FOLDER):
        return []
    orphans = [name for name in sorted(os.listdir(FOLDER)) if _is_orphan(os.path.join(FOLDER, name))]
    for prefix in orphans:
        _remove_orphan(prefix)
    return orphans
