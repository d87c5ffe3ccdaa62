"""What a workload is, and how it is measured: peers take turns, and every figure is a median over the rounds."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from statistics import median
from time import perf_counter

from benchmarks.client import Connection, Reply, WrongAnswer
from benchmarks.peers import Peer

HIGHER_IS_BETTER = frozenset({"inst/s", "/s", "x/s"})


@dataclass(frozen=True, kw_only=True, slots=True)
class Goal:
    """A figure to reach: by itself, or as a ratio to what a kind of peer did in the same run."""

    limit: float
    against: str = ""

    def text(self, unit: str) -> str:
        if self.against == "orthanc":
            return f"≥ {self.limit:g}x Orthanc"
        if self.against == "nginx":
            return f"≤ {self.limit:g}x nginx"
        return f"{'≥' if unit in HIGHER_IS_BETTER else '≤'} {self.limit:g} {unit}"


@dataclass(frozen=True, kw_only=True, slots=True)
class Row:
    """One line of the table.

    Attributes
    ----------
    title
        What was done.
    unit
        Of the figures; ``inst/s`` and ``/s`` are better when higher, all others when lower.
    goals
        What the first round is to reach.
    aims
        What is to be reached later.
    """

    title: str
    unit: str = "ms"
    goals: tuple[Goal, ...] = ()
    aims: tuple[Goal, ...] = ()


@dataclass(frozen=True, kw_only=True, slots=True)
class Sample:
    """What one peer did in one round: a figure for each row of the workload, and how many requests it took."""

    values: tuple[float, ...]
    requests: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Workload:
    """Something a client does, and the rows it fills.

    Attributes
    ----------
    name
        For ``--only``.
    rows
        One for each value of a sample.
    kinds
        Which kinds of peers can do it.
    run
        Does it once against one peer; raises WrongAnswer when an answer is not what it should be.
    """

    name: str
    rows: tuple[Row, ...]
    run: Callable[[Peer], Sample]
    kinds: frozenset[str] = frozenset({"readingroom", "orthanc"})


@dataclass(kw_only=True, slots=True)
class Result:
    """The figures of one row.

    Attributes
    ----------
    row
        What they are figures of.
    values
        For each peer's name, one a round.
    cpu_ms
        For each peer's name, the server's processor time for a request, one a round.
    failures
        For each peer's name, why it has no figures.
    kinds
        For each peer's name, its kind.
    """

    row: Row
    values: dict[str, list[float]] = field(default_factory=dict)
    cpu_ms: dict[str, list[float]] = field(default_factory=dict)
    failures: dict[str, str] = field(default_factory=dict)
    kinds: dict[str, str] = field(default_factory=dict)

    def best(self, kind: str) -> float | None:
        """Give the median of the better of the peers of one kind."""
        medians = [median(values) for name, values in self.values.items() if self.kinds[name] == kind and values]
        pick = max if self.row.unit in HIGHER_IS_BETTER else min
        return pick(medians, default=None)

    def ratio(self, kind: str) -> float | None:
        """Say how many times faster (Orthanc) or slower (nginx) this server is, or how much bigger."""
        ours, other = self.best("readingroom"), self.best(kind)
        if not ours or not other:
            return None
        is_gain = (kind == "orthanc") != (self.row.unit in HIGHER_IS_BETTER)
        return other / ours if is_gain else ours / other

    def is_reached(self, goal: Goal) -> bool | None:
        """Say whether this server reached the goal; None when a figure it needs is missing."""
        figure = self.ratio(goal.against) if goal.against else self.best("readingroom")
        if figure is None:
            return None
        more = goal.against == "orthanc" or (not goal.against and self.row.unit in HIGHER_IS_BETTER)
        return figure >= goal.limit if more else figure <= goal.limit


def compare(
    workload: Workload, peers: Sequence[Peer], rounds: int, *, suffix: str = "", warm_up: bool = True
) -> list[Result]:
    """Run the workload against all peers in turn, `rounds` times after one that only warms up.

    A peer that answers wrongly is left out from there on, and its result says why.
    """
    peers = [peer for peer in peers if peer.kind in workload.kinds]
    rows = [Row(title=row.title + suffix, unit=row.unit, goals=row.goals, aims=row.aims) for row in workload.rows]
    results = [Result(row=row, kinds={peer.name: peer.kind for peer in peers}) for row in rows]
    failures: dict[str, str] = {}
    for turn in range(0 if warm_up else 1, rounds + 1):
        for peer in peers:
            if peer.name in failures:
                continue
            cpu = peer.cpu_seconds()
            try:
                sample = workload.run(peer)
            except (WrongAnswer, OSError) as error:
                failures[peer.name] = f"{type(error).__name__}: {error}"
                continue
            cpu = peer.cpu_seconds() - cpu
            if turn:
                for result, value in zip(results, sample.values, strict=True):
                    result.values.setdefault(peer.name, []).append(value)
                    result.cpu_ms.setdefault(peer.name, []).append(cpu * 1000 / sample.requests)
    for result in results:
        result.failures = failures
        for name in failures:
            result.values.pop(name, None)
    return results


def latencies(
    connection: Connection,
    asks: Iterable[tuple[bytes, Callable[[Reply], object]]],
    *,
    least: int = 3,
    budget_seconds: float = 1.0,
) -> list[float]:
    """Ask one thing after the other until the time is spent, and give how long each took, in milliseconds.

    Parameters
    ----------
    asks
        Heads of requests, each with the check of its reply, which is made with the clock stopped.
    least
        So many at least, however slow the peer.
    """
    deadline = perf_counter() + budget_seconds
    took: list[float] = []
    for head, check in asks:
        if len(took) >= least and perf_counter() > deadline:
            break
        reply = connection.exchange(head)
        took.append(reply.seconds * 1000)
        check(reply)
    return took


def percentile(values: Sequence[float], share: float) -> float:
    """Give the value below which `share` (0..1) of the values lie."""
    return sorted(values)[min(len(values) - 1, int(len(values) * share))]
