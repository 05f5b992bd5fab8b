#!/usr/bin/env python3
"""Deliberate bugs, each of which the simulator has to find: the check of its checks.

    bugs.py list                    names, one a line
    bugs.py source NAME             the files of the source tree that the bug is in, one a line
    bugs.py check ROOT              whether all of them still apply
    bugs.py apply NAME ROOT FILE OUT   writes one of these files with the bug in it to OUT
    bugs.py table ROOT BUILD [NAME ...]   builds and runs them, all or some, and prints a table;
                                    LIMIT_S in the environment: seconds of processor time for each
                                    (240, which are two minutes on two cores that have nothing else
                                    to do)

A bug replaces a piece of text that must occur exactly once: when the code moves on, the build of the
bug fails and the table below has to follow.
"""

import os
import re
import resource
import subprocess
import sys

LIMIT_S = int(os.environ.get("LIMIT_S", "240"))

# name: (what it is, file, text, what comes in its place, and perhaps more such pairs, or another
# file and its pairs)
BUGS = {
    "ack-before-fsync": (
        "entries are acknowledged without having been synced", "raft/log_writer.c",
        "    result = writer->files.storage->sync(writer->files.storage->context, tail->file);\n",
        "    result = 0;\n"),
    "read-any-term": (
        "read index: answers of another term confirm a leader", "raft/group_receive.c",
        "    if (group->raft.state != RAFT_LEADER || wire->term != raft_current_term(&group->raft)) {\n"
        "        return;\n    }\n    unsigned n = group_voters(group, voters);\n",
        "    if (group->raft.state != RAFT_LEADER) {\n"
        "        return;\n    }\n    unsigned n = group_voters(group, voters);\n",
        "    if (wire->term != raft_current_term(&group->raft) || group->votes_pending > 0) {\n"
        "        return;\n    }\n    port->clock(",
        "    port->clock("),
    "apply-twice": (
        "the last entry is applied again after a restart", "node/machine/machine.c",
        "        .applied_index = database_u64(database, get, META_APPLIED_INDEX),\n",
        "        .applied_index = database_u64(database, get, META_APPLIED_INDEX) -\n"
        "                         (database_u64(database, get, META_APPLIED_INDEX) > 2 ? 1 : 0),\n"),
    "local-clock-expiry": (
        "a replica expires keys by its own clock", "node/machine/apply.c",
        "    if (context.now_ms < machine->state.clock_ms) {\n",
        "    struct timespec now;\n    clock_gettime(CLOCK_REALTIME, &now);\n"
        "    context.now_ms = (uint64_t)now.tv_sec * 1000 + (uint64_t)now.tv_nsec / 1000000;\n"
        "    if (context.now_ms < machine->state.clock_ms) {\n"),
    "vote-twice": (
        "a vote is not on disk: after a crash the node votes again in that term", "raft/group.c",
        "    log_set_vote(group->options.log, group->options.number, term, voted_for,"
        " &write->request);\n",
        "    (void)voted_for;\n"
        "    log_set_vote(group->options.log, group->options.number, term, 0, &write->request);\n"),
    "vote-before-disk": (
        "messages do not wait until term and vote are on disk", "raft/group.c",
        "        if (group->votes_pending == 0) {\n"
        "            group_send_message(group, &update->messages.batch[i]);\n"
        "            continue;\n        }\n",
        "        if (group->votes_pending < 1000000) {\n"
        "            group_send_message(group, &update->messages.batch[i]);\n"
        "            continue;\n        }\n"),
    "torn-tail": (
        "recovery believes records whose payload is not intact", "raft/log_format.c",
        "        if (!log_record_decode(segment, offset, seed, &record) ||"
        " record.sequence != sequence ||\n"
        "            !log_record_intact(segment, offset, &record)) {\n",
        "        if (!log_record_decode(segment, offset, seed, &record) ||"
        " record.sequence != sequence) {\n"),
    "removed-node-counts": (
        "nodes that were removed, or have no vote yet, confirm reads like voters", "raft/group.c",
        "    for (unsigned i = 0; i < n; i++) {\n"
        "        if (voters[i] != group->options.self) {\n"
        "            group_send_wire(group, voters[i], &wire);\n        }\n    }\n",
        "    for (unsigned i = 0; i < group->n_peers; i++) {\n"
        "        group_send_wire(group, group->peers[i].id, &wire);\n    }\n",
        "raft/read_index.c",
        "    unsigned answered = 0;\n    for (unsigned i = 0; i < n_voters; i++) {\n"
        "        if (voters[i] == self || acked_round(reads, voters[i]) >= reads->started) {\n",
        "    unsigned answered = 1;\n    for (unsigned i = 0; i < reads->n_acks; i++) {\n"
        "        (void)voters;\n        (void)self;\n"
        "        if (acked_round(reads, reads->acks[i].node) >= reads->started) {\n"),
    "quorum-of-one-less": (
        "a read is confirmed by half of the voters",
        "raft/read_index.c",
        "    if (answered <= n_voters / 2) {\n",
        "    if (answered + 1 <= n_voters / 2) {\n"),
    "reads-unconfirmed": (
        "a leader answers reads without asking whether it still leads", "raft/read_index.c",
        "    if (answered <= n_voters / 2) {\n",
        "    if (answered == 0 && n_voters > 0) {\n"),
    "wiped-node-votes": (
        "a node that lost its disk is let in under its old identity", "node/server_join.c",
        "    if (!met || server_may_forget(server, node)) {\n",
        "    if (!met || known != 0) {\n"),
    "lost-clock": (
        "the shard's clock is lost with a restart and in snapshots", "node/machine/machine.c",
        "        .clock_ms = database_u64(database, get, META_CLOCK),\n", ""),
    "fold-without-sync": (
        "the log is cut behind a checkpoint that is not on disk", "node/machine/database.c",
        '"SELECT 1 FROM meta", NULL, NULL, NULL);',
        '"PRAGMA synchronous = OFF; SELECT 1 FROM meta", NULL, NULL,\n'
        "                          NULL);"),
    "reset-not-durable": (
        "the log is reset behind a database that is not on disk yet", "node/server.c",
        "    code = code != ERROR_NONE ? code : secure_databases(server, error);\n",
        "    code = code != ERROR_NONE || error != NULL ? code : secure_databases(server, error);\n"),
    "lost-results": (
        "what exactly-once sessions remember is lost with a restart and in snapshots",
        "node/machine/once_rows.c",
        "    if (code == ERROR_NONE) {\n"
        "        code = load_rows(&loading, STATEMENT_RESULTS_ALL, load_chunk, error);\n",
        "    if (code == ERROR_NONE && machine == NULL) {\n"
        "        code = load_rows(&loading, STATEMENT_RESULTS_ALL, load_chunk, error);\n"),
    "session-goes-back": (
        "session reads do not wait for what the session has seen", "node/router_local.c",
        "    op->index = op->level == READ_SESSION ? op->min_index : route->shard->settled;\n",
        "    op->index = route->shard->settled;\n"),
    "maxstale-ignored": (
        "a bounded read is answered however old the replica is", "node/router_local.c",
        "           (route->fresh_ms == 0 || now_ms > route->fresh_ms + op->max_stale_ms);\n",
        "           now_ms == 0 && route->fresh_ms == 0;\n"),
    "retry-too-soon": (
        "a write is sent again before the fate of its first attempt is known", "node/router.c",
        "    return op->state == OP_FORWARDED && op->fence < fence;\n",
        "    (void)fence;\n    return op->state == OP_FORWARDED;\n"),
    "corrupt-frames": (
        "peers believe frames without looking at their checksum", "raft/wire.c",
        "    return decoder->crc == bytes_get_u32(decoder->header + 8) ? NULL : \"checksum mismatch\";\n",
        "    return NULL;\n"),
}


def changes_of(name):
    """File and its pairs, for each file."""
    changes = {}
    left = list(BUGS[name][1:])
    while left:
        if left[0].endswith(".c"):
            path = left.pop(0)
        changes.setdefault(path, []).append((left.pop(0), left.pop(0)))
    return changes


def with_bug(name, root, path):
    with open(os.path.join(root, path), encoding="utf-8") as file:
        text = file.read()
    for old, new in changes_of(name)[path]:
        if text.count(old) != 1:
            sys.exit(f"bugs.py: the text of {name} occurs {text.count(old)} times in {path}, "
                     "not once: the code has moved on")
        text = text.replace(old, new)
    if name == "local-clock-expiry":
        text = "#include <time.h>\n" + text
    return text


def apply(name, root, path, out):
    text = with_bug(name, root, path)
    os.makedirs(os.path.dirname(out), exist_ok=True)
    with open(out, "w", encoding="utf-8") as file:
        file.write(text)


def run_one(build, name):
    program = os.path.join(build, "tests", "sim", f"sim_bug_{name}")
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    result = subprocess.run([program, "--swarm", "--cpu", "--minutes", str(LIMIT_S / 60),
                             "--no-shrink"],
                            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
                            check=False)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    took = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    failed = re.search(r"^FAILED at [0-9.]+ s: (.*)$", result.stdout, re.M)
    seeds = re.search(r"^(\d+) seeds in", result.stdout, re.M)
    crashed = re.search(r"^seed \d+ failed: (\S+)", result.stdout, re.M)
    kind = failed.group(1) if failed else crashed.group(1) if crashed else None
    return took, seeds.group(1) if seeds else "?", kind


def table(root, build, names):
    del root
    names = names or list(BUGS)
    targets = [f"sim_bug_{name}" for name in names]
    subprocess.run(["cmake", "--build", build, "--target"] + targets, check=True,
                   stdout=subprocess.DEVNULL)
    missed = 0
    print(f"{'bug':20} {'processor time':>14} {'seeds':>6}  by")
    for name in names:
        took, seeds, kind = run_one(build, name)
        found = f"{took:.0f} s" if kind else "NOT FOUND"
        missed += 0 if kind else 1
        print(f"{name:20} {found:>14} {seeds:>6}  {(kind or '')[:80]}", flush=True)
    print(f"{len(names) - missed} of {len(names)} deliberate bugs found")
    return 1 if missed else 0


def main(arguments):
    if arguments[:1] == ["list"]:
        print("\n".join(BUGS))
        return 0
    if arguments[:1] == ["source"] and len(arguments) == 2:
        print("\n".join(changes_of(arguments[1])))
        return 0
    if arguments[:1] == ["check"] and len(arguments) == 2:
        for name in BUGS:
            for path in changes_of(name):
                with_bug(name, arguments[1], path)
        return 0
    if arguments[:1] == ["apply"] and len(arguments) == 5:
        apply(*arguments[1:])
        return 0
    if arguments[:1] == ["table"] and len(arguments) >= 3:
        return table(arguments[1], arguments[2], arguments[3:])
    print(__doc__)
    return 64


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
