"""The report of a run: one HTML file that needs nothing else, and a summary for the terminal."""

import html

from harness.figures import NS, distribution, quantile

WIDTH, LEFT, RIGHT = 1160, 110, 20
PLOT = WIDTH - LEFT - RIGHT
ROW = 16
COLOURS = ["#4269d0", "#efb118", "#ff725c", "#6cc5b0", "#3ca951", "#a463f2", "#97bbf5", "#9c6b4e"]

STYLE = """
body { font: 14px/1.45 system-ui, sans-serif; margin: 2em auto; max-width: 1200px; padding: 0 1em; color: #222 }
h1 { font-size: 1.4em } h2 { font-size: 1.1em; margin-top: 2em }
.verdict { padding: .7em 1em; border-radius: 6px; font-weight: 600 }
.ok { background: #dff3e3 } .bad { background: #fbdcd9 } .open { background: #fdf0cd }
table { border-collapse: collapse } td, th { padding: .2em .9em .2em 0; text-align: left; vertical-align: top }
th { border-bottom: 1px solid #bbb } td.n { text-align: right; font-variant-numeric: tabular-nums }
pre { background: #f5f5f3; padding: .8em; overflow-x: auto; white-space: pre-wrap }
svg { display: block } svg text { font: 11px system-ui, sans-serif; fill: #444 }
.legend span { display: inline-block; margin-right: 1.2em } .legend i { display: inline-block; width: .8em;
height: .8em; margin-right: .35em }
"""


def _text(value):
    return html.escape(str(value))


class Chart:
    """An SVG over the time of the run."""

    def __init__(self, seconds, height):
        self.seconds = max(1.0, seconds)
        self.height = height
        self.parts = []

    def x(self, second):
        return LEFT + PLOT * min(max(second, 0.0), self.seconds) / self.seconds

    def axis(self):
        step = next(s for s in (5, 10, 15, 30, 60, 120, 300, 600, 1800, 7200) if self.seconds / s <= 14 or s == 7200)
        second = 0
        while second <= self.seconds:
            x = self.x(second)
            self.parts.append(
                f'<line x1="{x:.1f}" x2="{x:.1f}" y1="0" y2="{self.height}" stroke="#eee"/>'
                f'<text x="{x:.1f}" y="{self.height + 13}" text-anchor="middle">{second} s</text>'
            )
            second += step

    def label(self, y, text, title=""):
        self.parts.append(
            f'<text x="{LEFT - 8}" y="{y:.1f}" text-anchor="end">{_text(text)}<title>{_text(title)}</title></text>'
        )

    def bar(self, begin, end, y, height, colour, title):
        x, width = self.x(begin), max(1.5, self.x(end) - self.x(begin))
        self.parts.append(
            f'<rect x="{x:.1f}" y="{y:.1f}" width="{width:.1f}" height="{height}" fill="{colour}">'
            f"<title>{_text(title)}</title></rect>"
        )

    def line(self, points, colour):
        path = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
        self.parts.append(f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="1.4"/>')

    def svg(self):
        return (
            f'<svg viewBox="0 0 {WIDTH} {self.height + 18}" width="{WIDTH}" height="{self.height + 18}">'
            + "".join(self.parts)
            + "</svg>"
        )


def _legend(pairs):
    spans = "".join(f'<span><i style="background:{colour}"></i>{_text(name)}</span>' for name, colour in pairs)
    return f'<p class="legend">{spans}</p>'


def _plot(seconds, series, top, ticks, scale):
    """series: [(points by second, colour)]; scale maps a value to 0..1."""
    height = 160
    chart = Chart(seconds, height)
    chart.axis()
    for tick in ticks:
        y = height * (1 - scale(tick))
        chart.parts.append(f'<line x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y:.1f}" y2="{y:.1f}" stroke="#ddd"/>')
        chart.label(y + 4, f"{tick:g}")
    for points, colour in series:
        chart.line([(chart.x(s + 0.5), height * (1 - scale(min(v, top)))) for s, v in points], colour)
    return chart.svg()


def _nice_ticks(top):
    step = 1
    while top / step > 5:
        step *= 2 if str(step)[0] in "15" else 2.5
    return [step * i for i in range(int(top / step) + 1)]


def _throughput(history, seconds):
    every = range(max(1, int(seconds)))  # the last one is cut short by the end
    counts = {name: [] for name in ("ok", "fail", "unknown")}
    for second in every:
        found = history.seconds.get(second)
        for name, points in counts.items():
            points.append((second, getattr(found, name) if found else 0))
    top = max(value for points in counts.values() for _, value in points) or 1
    colours = {"ok": COLOURS[4], "fail": COLOURS[1], "unknown": COLOURS[2]}
    svg = _plot(
        seconds,
        [(points, colours[name]) for name, points in counts.items()],
        top,
        _nice_ticks(top),
        lambda value: value / top,
    )
    names = {"ok": "done", "fail": "refused without effect", "unknown": "of unknown outcome"}
    return svg + _legend([(names[name], colours[name]) for name in names])


def _latency(history, seconds):
    import math

    low, high = 0.1, 60000.0

    def scale(value):
        return (math.log10(max(value, low)) - math.log10(low)) / (math.log10(high) - math.log10(low))

    series = []
    for fraction, colour in ((0.5, COLOURS[0]), (0.99, COLOURS[1]), (1.0, COLOURS[2])):
        points = [
            (second, quantile(found.latencies, fraction))
            for second, found in sorted(history.seconds.items())
            if found.latencies and 0 <= second < max(1, int(seconds))
        ]
        series.append((points, colour))
    svg = _plot(seconds, series, high, [0.1, 1, 10, 100, 1000, 10000], scale)
    return svg + _legend(
        [("median, ms", COLOURS[0]), ("99th percentile", COLOURS[1]), ("longest", COLOURS[2])]
    )


def _fault_bars(spans, begin_ns, seconds):
    kinds = sorted({span[0] for span in spans}, key=lambda kind: min(s[2] for s in spans if s[0] == kind))
    chart = Chart(seconds, ROW * max(1, len(kinds)))
    chart.axis()
    for row, kind in enumerate(kinds):
        chart.label(ROW * row + 12, kind)
        for name, target, begin, end, details in spans:
            if name == kind:
                from_s, to_s = (begin - begin_ns) / NS, (end - begin_ns) / NS
                known = {k: v for k, v in details.items() if k not in ("t", "e", "fault", "target")}
                chart.bar(from_s, to_s, ROW * row + 2, ROW - 4, COLOURS[row % len(COLOURS)],
                          f"{kind} {target}, {from_s:.1f}-{to_s:.1f} s, {known}")
    return chart.svg()


def _leader_bars(changes, n_shards, begin_ns, seconds):
    chart = Chart(seconds, ROW * n_shards)
    chart.axis()
    nodes = set()
    for shard in range(n_shards):
        chart.label(ROW * shard + 12, f"shard {shard}")
        own = [change for change in changes if change[1] == shard]
        for i, (moment, _, term, node) in enumerate(own):
            nodes.add(node)
            begin = (moment - begin_ns) / NS
            end = (own[i + 1][0] - begin_ns) / NS if i + 1 < len(own) else seconds
            chart.bar(begin, end, ROW * shard + 2, ROW - 4, COLOURS[node % len(COLOURS)],
                      f"n{node} leads in term {term} from {begin:.1f} s")
    return chart.svg() + _legend([(f"n{node}", COLOURS[node % len(COLOURS)]) for node in sorted(nodes)])


def _gap_bars(gaps, n_shards, begin_ns, seconds):
    chart = Chart(seconds, ROW * n_shards)
    chart.axis()
    for shard in range(n_shards):
        chart.label(ROW * shard + 12, f"shard {shard}")
        for number, begin, end in gaps:
            if number == shard:
                from_s, to_s = (begin - begin_ns) / NS, (end - begin_ns) / NS
                chart.bar(from_s, to_s, ROW * shard + 2, ROW - 4, COLOURS[2], f"{to_s - from_s:.2f} s without a write")
    return chart.svg()


def _table(head, rows):
    lines = ["<table><tr>" + "".join(f"<th>{_text(cell)}</th>" for cell in head) + "</tr>"]
    for row in rows:
        cells = "".join(
            f'<td class="n">{cell:,}</td>' if isinstance(cell, int) else f"<td>{_text(cell)}</td>" for cell in row
        )
        lines.append(f"<tr>{cells}</tr>")
    return "".join(lines) + "</table>"


def _list(lines):
    return "<ul>" + "".join(f"<li>{_text(line)}</li>" for line in lines) + "</ul>" if lines else "<p>none</p>"


def unavailability_rows(outages):
    rows = []
    for kind, values in sorted(outages.items()):
        told = distribution(values)
        rows.append(
            (kind, told["n"], *(f"{told[key]:.2f} s" if told[key] else "< 0.1 s" for key in ("median", "p90", "max")))
        )
    return rows


def verdict_text(run):
    status = run.exit_status()
    if status == 1:
        return "bad", "A PROMISE WAS BROKEN, or the cluster did not recover"
    if status == 2:
        return "open", "UNDECIDED: the checker could not read or decide everything"
    return "ok", "No promise was broken"


def write(path, run, history, spans, outages):
    begin_ns = run.load_begin_ns
    seconds = run.load_end - run.load_begin
    kind, verdict = verdict_text(run)
    n_shards = run.cluster.n_shards
    parts = [
        f'<!DOCTYPE html><html lang="en"><head><meta charset="utf-8"><title>chaos run, seed {run.options.seed}</title>'
        f"<style>{STYLE}</style></head><body>",
        f"<h1>invoke-kv chaos run, seed {run.options.seed}</h1>",
        f'<p class="verdict {kind}">{_text(verdict)}</p>',
        f"<p>{run.options.nodes} nodes, {n_shards} shards, {seconds:.0f} s under load, {len(spans)} faults, "
        f"{history.total('ok'):,} operations done, {history.total('unknown'):,} of unknown outcome. Again with:</p>",
        f"<pre>{_text(run.options.command)}</pre>",
        "<h2>Problems</h2>" + _list(run.problems),
        "<h2>Checker</h2>" + f"<pre>{_text(run.check_output.strip() or '(said nothing)')}</pre>",
        "<h2>Replicas at the end</h2>",
        f"<p>{_text(run.summary_of_replicas or 'not compared')}</p>",
        "<h2>Operations per second</h2>" + _throughput(history, seconds),
        "<h2>Latency</h2>" + _latency(history, seconds),
        "<h2>Faults</h2>" + _fault_bars(spans, begin_ns, seconds),
        "<h2>Leaders</h2>" + _leader_bars(run.watch.changes, n_shards, begin_ns, seconds),
        f"<h2>Gaps in availability</h2><p>Times of a tenth of a second or more in which no write to the shard "
        f"was answered through any node ({run.prober.n_ok:,} were).</p>"
        + _gap_bars(run.prober.gaps, n_shards, begin_ns, seconds),
        "<h2>Longest gap around each fault</h2>"
        + _table(("fault", "times", "median", "90th percentile", "longest"), unavailability_rows(outages)),
        "<h2>Operations</h2>"
        + _table(
            ("workload", "done", "refused", "unknown"),
            [(name, c["ok"], c["fail"], c["unknown"]) for name, c in sorted(history.workloads.items())],
        ),
        "<h2>Schedule</h2><pre>" + _text("\n".join(run.schedule_lines)) + "</pre>",
        "<h2>Notes</h2>" + _list(run.notes),
        "</body></html>\n",
    ]
    with open(path, "w", encoding="utf-8") as file:
        file.write("\n".join(parts))


def summary(run, history, spans, outages):
    _, verdict = verdict_text(run)
    lines = ["", f"operations  {history.total('ok'):,} done, {history.total('fail'):,} refused, "
                 f"{history.total('unknown'):,} of unknown outcome",
             f"faults      {len(spans)}", f"leaders     {len(run.watch.changes)} changes",
             f"replicas    {run.summary_of_replicas or 'not compared'}"]
    for kind, times, median, p90, longest in unavailability_rows(outages):
        lines.append(f"  {kind:20} {times:4} times, writes paused: median {median}, p90 {p90}, longest {longest}")
    lines += [line for line in run.check_output.strip().splitlines()]
    lines += [f"PROBLEM: {text}" for text in run.problems]
    lines += [f"verdict     {verdict}"]
    return lines
