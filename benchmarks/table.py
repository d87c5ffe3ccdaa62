"""The table and the plot of a run."""

from __future__ import annotations

import datetime
import os
import platform
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import median

from benchmarks.measure import Goal, Result

INTRODUCTION = """\
# Benchmarks

Written by `make bench`; do not edit. One run on one machine, client and servers on the same {cores} shared cores:
trust the ratios, not the absolute figures. The peers take turns on the same data (A B C, A B C, ...). A figure is
the median of the rounds, in parentheses the lowest and the highest; below it stands the server's own processor
time for a request. The ratio to Orthanc says how many times better this server is than the better of Orthanc's
columns; the one to nginx, how many times longer it takes than nginx with the very same bytes from files, the limit
of the machine. Every answer is checked: the instances' count and UIDs, every frame's bytes, the rows and
attributes of the JSON, the pixels of pictures.

- Run on {day}: {machine}
- Peers: {peers}
- Data: CT slices of 512 x 512 x 16 bit, 516 KiB, 166 elements; JPEG-LS by CharLS; an index of {studies} studies.
- Stored means durable: Orthanc runs with `SyncStorageArea`, and its metadata is complete (`SeriesMetadata: Full`).

"""


def cell(result: Result, peer: str) -> str:
    """Say what a peer did: median (lowest..highest), processor time."""
    if peer in result.failures:
        return "wrong answer"
    values = result.values.get(peer)
    if not values:
        return "-"
    figure = f"{number(median(values))}"
    if len(values) > 1:
        figure += f" ({number(min(values))}..{number(max(values))})"
    cpu = median(result.cpu_ms.get(peer, [0.0]))
    return f"{figure}<br>{number(cpu)} ms CPU" if cpu else figure


def number(value: float) -> str:
    """Write a figure with as many digits as it deserves."""
    return f"{value:.0f}" if abs(value) >= 100 else f"{value:.1f}" if abs(value) >= 10 else f"{value:.2f}"


def verdicts(result: Result, goals: Sequence[Goal]) -> str:
    """Say for each goal whether it is reached."""
    words = {True: "reached", False: "**missed**", None: "not measured"}
    return "; ".join(f"{goal.text(result.row.unit)}: {words[result.is_reached(goal)]}" for goal in goals) or "-"


def markdown(results: Sequence[Result], *, versions: Mapping[str, str], studies: Sequence[int]) -> str:
    """Make the page: how it was measured, and the table."""
    peers = list(dict.fromkeys(name for result in results for name in result.kinds))
    lines = [
        INTRODUCTION.format(
            cores=os.cpu_count(),
            day=datetime.datetime.now(datetime.UTC).date(),
            machine=machine(),
            peers="; ".join(versions.values()),
            studies=" and ".join(f"{count:,}" for count in studies),
        ),
        "| workload | " + " | ".join(peers) + " | times better than Orthanc | times nginx | goal now | goal later |\n",
        "|---" * (len(peers) + 5) + "|\n",
    ]
    for result in results:
        ratios = [f"{number(ratio)}x" if (ratio := result.ratio(kind)) else "-" for kind in ("orthanc", "nginx")]
        goals = [verdicts(result, result.row.goals), verdicts(result, result.row.aims)]
        cells = [f"{result.row.title}, {result.row.unit}", *(cell(result, peer) for peer in peers), *ratios, *goals]
        lines.append("| " + " | ".join(cells) + " |\n")
    lines.append("\n![How many times faster than Orthanc, and beside nginx](../images/benchmarks.png)\n")
    return "".join(lines)


def machine() -> str:
    """Describe what it ran on, without its name."""
    fields = dict(line.partition(":")[::2] for line in Path("/proc/cpuinfo").read_text().splitlines() if ":" in line)
    model = {key.strip(): value.strip() for key, value in fields.items()}.get("model name", platform.machine())
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") >> 30
    return f"{os.cpu_count()} shared cores ({model}), {memory} GiB, Linux {platform.release()}"


def plot(results: Sequence[Result], path: Path) -> None:
    """Draw for each workload how many times better this server is than Orthanc, and where nginx stands."""
    import matplotlib  # late: only a whole run draws

    matplotlib.use("Agg")
    from matplotlib import pyplot

    shown = [(result, ratio) for result in results if (ratio := result.ratio("orthanc"))]
    if not shown:
        return
    figure, axes = pyplot.subplots(figsize=(10, 0.32 * len(shown) + 1.6), layout="constrained")
    places = range(len(shown), 0, -1)
    axes.barh(places, [ratio for _, ratio in shown], color="#3b7ea1", height=0.7)
    axes.axvline(1, color="black", linewidth=0.8)
    for place, (result, ratio) in zip(places, shown, strict=True):
        axes.annotate(f" {number(ratio)}x", (max(ratio, 1), place), va="center", fontsize=8)
        if to_nginx := result.ratio("nginx"):
            axes.plot(ratio * to_nginx, place, marker="D", color="#c4820e", markersize=5)
    axes.plot([], [], marker="D", color="#c4820e", linestyle="", label="nginx, the same bytes from files")
    axes.set_yticks(list(places), [result.row.title for result, _ in shown], fontsize=8)
    axes.set_xscale("log")
    axes.set_xlabel("times better than Debian's Orthanc (1: the same), logarithmic")
    axes.legend(loc="lower right", fontsize=8)
    axes.margins(y=0.01)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=130)
    pyplot.close(figure)
