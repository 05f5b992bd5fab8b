"""Runs load.mjs, one process of Node.js, against a server."""

import json
import os
import subprocess

from common import ROOT, build, give_up, say

HERE = os.path.dirname(os.path.abspath(__file__))


def prepare(*folders):
    """Builds server and package, and installs what the folders' package-lock.json name."""
    build()
    for folder in folders:
        path = os.path.join(ROOT, folder)
        if not os.path.isdir(os.path.join(path, "node_modules")):
            say(f"installing what {folder} needs with npm ...")
            command = ["npm", "ci", "--ignore-scripts", "--no-audit", "--no-fund", "--loglevel=error"]
            if subprocess.run(command, cwd=path, check=False).returncode != 0:
                give_up(f"npm could not install what {folder} needs")
    subprocess.run(["node", "scripts/build.js"], cwd=os.path.join(ROOT, "client/nodejs"), check=True)


def measure(client, port, calls):
    """{"set": {"rate": calls/s, "p50": ms, "p99": ms}, "get": ...} of the client of that name."""
    result = subprocess.run(
        ["node", "load.mjs", client, str(port), str(calls)], cwd=HERE, capture_output=True, text=True, check=False
    )
    if result.returncode != 0:
        give_up(f"{client}: {result.stderr}")
    return json.loads(result.stdout)
