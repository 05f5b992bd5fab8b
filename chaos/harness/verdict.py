"""What is decided at the end of a run: are the replicas equal, do the histories keep the promises, did
any node complain."""

import json
import os
import shutil
import sqlite3
import subprocess
import time

from harness.hosts import REPORTS

MAX_ROWS_TOLD = 10
QUIET_S = 2.5  # longer than the state machine takes to commit what it applied
CHECK_TIMEOUT_S = 1800


def log_complaints(nodes):
    found = []
    for node in nodes:
        lines = [line for line in node.log().splitlines() if REPORTS.search(line)]
        if lines:
            more = f" (and {len(lines) - 1} more)" if len(lines) > 1 else ""
            found.append(f"log of {node.name}: {lines[0]}{more}")
    return found


class NotYet(Exception):
    pass


# --- replicas -------------------------------------------------------------------------------------


def copy_databases(cluster, folder):
    """Copies of all shards of all nodes while every node is stopped for a moment, so that none of them
    changes a file under the copy."""
    for node in cluster.nodes:
        node.pause()
    try:
        for node in cluster.nodes:
            target = os.path.join(folder, node.name)
            shutil.rmtree(target, ignore_errors=True)
            os.makedirs(target)
            for name in os.listdir(node.data):
                if name.startswith("shard-") and name.endswith((".db", ".db-wal")):
                    shutil.copy(os.path.join(node.data, name), os.path.join(target, name))
    finally:
        for node in cluster.nodes:
            node.resume()


def _state(path):
    database = sqlite3.connect(path)
    database.row_factory = sqlite3.Row
    damage = database.execute("PRAGMA integrity_check").fetchone()[0]
    if damage != "ok":
        raise ValueError(f"{path}: {damage}")
    return database


def _recount(database):
    """What does not agree with the running totals of projects and shard."""
    found = []
    keys = used = 0
    query = """SELECT p.name, p.keys, p.used_bytes, count(k.key), coalesce(sum(length(k.key) + k.size), 0)
               FROM projects p LEFT JOIN kv k ON k.project = p.id AND k.epoch = p.epoch GROUP BY p.id"""
    for name, kept_keys, kept_bytes, counted_keys, counted_bytes in database.execute(query):
        keys += counted_keys
        used += counted_bytes
        if (kept_keys, kept_bytes) != (counted_keys, counted_bytes):
            found.append(
                f"project {name} says {kept_keys} keys and {kept_bytes} bytes, and has "
                f"{counted_keys} and {counted_bytes}"
            )
    meta = database.execute("SELECT keys, used_bytes FROM meta").fetchone()
    if tuple(meta) != (keys, used):
        found.append(f"the shard says {tuple(meta)} keys and bytes, and has {(keys, used)}")
    return found


ROWS = """SELECT p.name, k.key, k.version, k.expires_at, k.hash, k.size FROM kv k
          JOIN projects p ON p.id = k.project AND p.epoch = k.epoch ORDER BY p.name, k.key"""


def _differing_rows(first, second):
    """Rows that only one of two replicas has."""
    one = {tuple(row) for row in first.execute(ROWS)}
    other = {tuple(row) for row in second.execute(ROWS)}
    return sorted(one ^ other)[:MAX_ROWS_TOLD], len(one ^ other)


def _compare_shard(shard, paths):
    """paths: {node name: database file}"""
    found = []
    states = {name: _state(path) for name, path in paths.items()}
    metas = {}
    for name, database in states.items():
        row = database.execute("SELECT applied_index, digest, keys, used_bytes FROM meta").fetchone()
        metas[name] = tuple(row)
        found += [f"shard {shard} of {name}: {text}" for text in _recount(database)]
    if len(set(metas.values())) > 1:
        found.append(f"shard {shard}: replicas differ (applied index, digest, keys, bytes): {metas}")
        names = sorted(states)
        for name in names[1:]:
            rows, n = _differing_rows(states[names[0]], states[name])
            found.append(f"shard {shard}: {n} rows differ between {names[0]} and {name}: {rows}")
    for database in states.values():
        database.close()
    return found


def compare_replicas(cluster, folder):
    """(complaints, summary). The cluster is at rest; the copies stay in `folder` when they differ."""
    copy_databases(cluster, folder)
    found, keys = [], 0
    for shard in range(cluster.n_shards):
        paths = {node.name: os.path.join(folder, node.name, f"shard-{shard}.db") for node in cluster.nodes}
        try:
            found += _compare_shard(shard, paths)
            with sqlite3.connect(next(iter(paths.values()))) as database:
                keys += database.execute("SELECT keys FROM meta").fetchone()[0]
        except (sqlite3.Error, ValueError) as error:
            found.append(f"shard {shard}: {error}")
    if not found:
        shutil.rmtree(folder)
    return found, f"{len(cluster.nodes)} replicas of {cluster.n_shards} shards, {keys} keys"


def wait_quiet(run, cluster, timeout_s):
    """Until nothing changes any more and everything applied is in the files."""
    since, last = time.monotonic(), None

    def quiet():
        nonlocal since, last
        behind = cluster.why_behind()
        if behind is not None:
            last = None
            raise NotYet(behind)
        now = [(shard["commit"], shard["applied"]) for shard in cluster.nodes[0].shards()]
        if now != last:
            since, last = time.monotonic(), now
        if time.monotonic() - since <= QUIET_S:
            raise NotYet("entries are still written")
        return True

    return run.wait_until(quiet, "replicas at rest", timeout_s)


# --- histories ------------------------------------------------------------------------------------


def check_histories(program, histories, json_path, log_path, clock_doubts=(), walls_count=()):
    """(status, {workload: verdict text}, output); status as of chaos-check: 0 fine, 1 violation, 2
    undecided."""
    command = [program, "--json", json_path, *histories]
    for begin, end in clock_doubts:
        command += ["--clock-doubt", f"{begin}:{end}"]
    for begin, end in walls_count:
        command += ["--walls-count", f"{begin}:{end}"]
    try:
        result = subprocess.run(
            command, capture_output=True, text=True, timeout=CHECK_TIMEOUT_S, check=False, errors="replace"
        )
        status, output = result.returncode, result.stdout + result.stderr
    except subprocess.TimeoutExpired:
        status, output = 2, f"chaos-check did not end within {CHECK_TIMEOUT_S} s\n"
    with open(log_path, "w", encoding="utf-8") as file:
        file.write(output)
    if status not in (0, 1, 2):
        output += f"chaos-check ended with status {status}\n"
        status = 2
    return status, output


def read_verdicts(json_path):
    try:
        with open(json_path, encoding="utf-8") as file:
            return json.load(file)
    except (OSError, ValueError):
        return None
