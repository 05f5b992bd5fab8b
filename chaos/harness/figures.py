"""Figures of a run: from the history, from the faults, from the probes."""

import re
import statistics

NS = 1_000_000_000
LINE = re.compile(rb'"t":(\d+),"w":"(\w+)".*?"n":(\d+),"e":"(\w+)"')
# Faults after which writes may pause, with the shards that they meet when not all.
HORIZON_S = 15.0


class Second:
    """What completed in one second of a run."""

    __slots__ = ("ok", "fail", "unknown", "latencies")

    def __init__(self):
        self.ok = self.fail = self.unknown = 0
        self.latencies = []


class History:
    """Per second: counts and latencies; per workload: counts."""

    def __init__(self, begin_ns):
        self.begin_ns = begin_ns
        self.seconds = {}
        self.workloads = {}

    def read(self, path):
        under_way = {}
        with open(path, "rb") as file:
            for line in file:
                match = LINE.search(line)
                if not match:
                    continue
                moment, number, event = int(match[1]), match[3], match[4]
                if event == b"invoke":
                    under_way[number] = moment
                else:
                    self._note(moment, under_way.pop(number, None), match[2].decode(), event)
        return self

    def _note(self, moment, begun, workload, event):
        second = self.seconds.setdefault((moment - self.begin_ns) // NS, Second())
        counts = self.workloads.setdefault(workload, {"ok": 0, "fail": 0, "unknown": 0})
        name = event.decode()
        if name not in counts:
            return
        counts[name] += 1
        setattr(second, name, getattr(second, name) + 1)
        if begun is not None and name == "ok":
            second.latencies.append((moment - begun) / 1e6)

    def total(self, event):
        return sum(counts[event] for counts in self.workloads.values())


def quantile(values, fraction):
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(len(ordered) * fraction))]


def spans_of(entries):
    """[(kind, target, begin ns, end ns, details)] from the entries of faults.jsonl."""
    spans, open_ones = [], {}
    for entry in entries:
        key = (entry["fault"], entry.get("round"))
        if entry["e"] == "begin":
            open_ones.setdefault(key, []).append(entry)
        elif entry["e"] == "end" and open_ones.get(key):
            begun = open_ones[key].pop(0)
            details = {**begun, **entry}
            spans.append((entry["fault"], entry["target"], begun["t"], entry["t"], details))
    return sorted(spans, key=lambda span: span[2])


def clock_doubts(entries, margin_s=5):
    """[(from ns, to ns)]: when a wall clock was wrong. The checker does not hold keys of these times to
    the moments at which they expire: walls count while most nodes have just been started
    (docs/cluster-time.md)."""
    doubts = []
    begun = {}
    for entry in entries:
        key = (entry["fault"], entry.get("round"))
        if entry["fault"].startswith("clock-") and entry["e"] == "begin":
            begun.setdefault(key, entry["t"])
        elif entry["e"] == "end" and key in begun:
            doubts.append((begun.pop(key), entry["t"] + margin_s * NS))
    never_ended = 1 << 62
    doubts += [(begin, never_ended) for begin in begun.values()]
    return _joined(doubts)


START = re.compile(rb"^--- chaos: start at (\d+)$", re.MULTILINE)


def starts_of(log_path):
    """When the processes of a node were started, ns."""
    try:
        with open(log_path, "rb") as file:
            return [int(text) for text in START.findall(file.read())]
    except FileNotFoundError:
        return []


def walls_count(starts, n_nodes, within_s=5):
    """[(from ns, to ns)]: when a majority had just been started, so that wall clocks may have counted
    (docs/cluster-time.md). `starts` has a list for each node."""
    events = sorted((time, node) for node, times in enumerate(starts) for time in times)
    found = []
    for time, _ in events:
        recent = [event for event in events if time - within_s * NS <= event[0] <= time]
        if len({node for _, node in recent}) > n_nodes // 2:
            found.append((recent[0][0], time + within_s * NS))
    return _joined(found)


def _joined(spans):
    joined = []
    for begin, end in sorted(spans):
        if joined and begin <= joined[-1][1]:
            joined[-1] = (joined[-1][0], max(joined[-1][1], end))
        else:
            joined.append((begin, end))
    return joined


def unavailability(spans, gaps):
    """{kind: [seconds]}: for each fault the longest gap of a shard that overlaps it, 0 when there is
    none. A fault that meets certain shards only, such as those of a leader, counts these."""
    found = {}
    for kind, _, begin, end, details in spans:
        shards = details.get("shards")
        longest = 0.0
        for shard, start, stop in gaps:
            if shards is not None and shard not in shards:
                continue
            if start <= end and stop >= begin:
                longest = max(longest, (stop - start) / NS)
        found.setdefault(kind, []).append(longest)
    return found


def distribution(values):
    return {
        "n": len(values),
        "median": statistics.median(values),
        "p90": quantile(values, 0.9),
        "max": max(values),
    }
