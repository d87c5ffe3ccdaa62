"""The work beside the archive: ``python -m benchmarks.work``.

What plugins cost those who store, by what they decide of each object and by what they look at meanwhile; how long a
settled study waits for the first plugin, how long a flagged one waits for its place on the worklist, and what ten
thousand clocks cost a server that has nothing else to do.
"""

from __future__ import annotations

import itertools
import json
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime, timedelta
from pathlib import Path
from statistics import median, quantiles
from typing import Any

from benchmarks import phantom
from benchmarks.client import WrongAnswer
from benchmarks.multipart import pack
from benchmarks.peers import Readingroom
from benchmarks.stow import store
from readingroom.clock import SystemClock
from readingroom.model import LOCAL_OPERATOR, Scope, Sla
from server.archive import open_catalog
from server.settings import Settings
from server.worklist.items import create_item, working
from server.worklist.sla import apply_sla

A_REQUEST = 20
SHORT, SHORT_ROUNDS = 5, 15
LONG, LONG_ROUNDS = 30, 5
QUIET_SECONDS = 2.0  # by then what a server has been sent is settled and looked at
STUDIES = 40
TIMERS = 10_000
IDLE_SECONDS = 20.0
PATIENCE_SECONDS = 60.0

# It looks at each object and at the pixels of each study, tells when it was called, and flags what it sees.
PLUGIN = """
import time

from readingroom import Algorithm, Finding, Triage, hookimpl

EYE = Algorithm(name="Eye", version="1", clearance="K000001", modalities=("CT",), body_parts=("CHEST",))


@hookimpl
def triage_study(study, ctx):
    called = time.time()
    ctx.pixels.volume(study.series[0]).mean()
    return Triage(findings=(Finding(text="Seen", algorithm=EYE),), is_flagged=True, because=repr(called))


@hookimpl
def accept_instance(header):
    header["00080060"]
    return None
"""
_SETTLED_SOON = {"settle_seconds": "0.3"}
_fresh = itertools.count(500_000)


class Department(Readingroom):
    """This server with what the settings name."""

    def __init__(self, home: Path, **settings: str) -> None:
        super().__init__(home)
        self._settings = settings

    def command(self) -> Sequence[str]:
        told = [f"READINGROOM_{name.upper()}={value}" for name, value in self._settings.items()]
        return ("env", *told, *super().command())

    def page(self, path: str) -> Any:
        """The JSON of a page of the web room."""
        connection = self.connect()
        reply = connection.exchange(self._head("GET", path, "Accept: application/json"))
        answer = json.loads(bytes(reply.expect(200).body))
        connection.close()
        return answer


@contextmanager
def serving(home: Path, **settings: str) -> Iterator[Department]:
    """A server that runs as long as this lasts."""
    peer = Department(home, **settings)
    peer.start()
    try:
        yield peer
    finally:
        peer.stop()


def plugins_of(home: Path) -> dict[str, str]:
    """All plugins that come with the server, and one that flags every study at once."""
    folder = home / "plugins"
    folder.mkdir(parents=True)
    (folder / "eye.py").write_text(PLUGIN)
    own = {"ai_triage": {}, "priors": {}, "routing": {}, "sla": {}}
    return {"plugins_folder": str(folder), "plugins": json.dumps(own), **_SETTLED_SOON}


def times_without(without: Department, having: Department, *, requests: int, rounds: int) -> list[float]:
    """How many times longer it takes to store with plugins, in each of some rounds in which both servers take turns.

    Each request is a study of its own. A round begins when both have nothing to do any more; one that lasts longer than
    a study takes to settle has plugins that look at what came first while the rest comes in.
    """
    ratios = []
    for number in range(rounds + 1):
        seconds: dict[int, float] = {}
        for peer in (without, having) if number % 2 else (having, without):
            series = [phantom.ct_series(next(_fresh), A_REQUEST, compressed=False) for _ in range(requests)]
            bodies = [pack(files) for files in series]
            time.sleep(QUIET_SECONDS)
            connection = peer.connect()
            begun = time.perf_counter()
            for body in bodies:
                store(peer, connection, body, A_REQUEST)
            seconds[peer.port] = time.perf_counter() - begun
            connection.close()
        if number:  # the first warms them up
            ratios.append(seconds[having.port] / seconds[without.port])
    return ratios


def waits(peer: Department) -> tuple[list[float], list[float]]:
    """Seconds from a settled study's item to the call of a plugin, and from there to the flag on the worklist."""
    calls, flags = [], []
    for _ in range(STUDIES):
        known = {row["id"] for row in peer.page("/worklist?limit=500")}
        (file,) = phantom.ct_series(next(_fresh), 1, compressed=False)
        connection = peer.connect()
        store(peer, connection, pack([file]), 1)
        connection.close()
        give_up = time.monotonic() + PATIENCE_SECONDS
        while True:
            if time.monotonic() > give_up:
                raise WrongAnswer(f"no study was flagged within {PATIENCE_SECONDS:g} s")
            new = [row for row in peer.page("/worklist?limit=500") if row["id"] not in known and row["is_flagged"]]
            if new:
                break
            time.sleep(0.005)
        seen = time.time()
        shown = peer.page(f"/worklist/{new[0]['workitem'].rsplit('/', 1)[1]}")
        called = next(float(one["answer"]["because"]) for one in shown["answers"] if one["plugin"] == "eye")
        created = next(event["time"] for event in shown["timeline"] if event.get("what") == "created")
        calls.append(called - datetime.fromisoformat(created).timestamp())
        flags.append(seen - called)
    return calls, flags


def idle_share(peer: Department) -> float:
    """The share of a core that a server takes that has nothing to do."""
    before = peer.cpu_seconds()
    time.sleep(IDLE_SECONDS)
    return (peer.cpu_seconds() - before) / IDLE_SECONDS


def set_timers(data: Path, count: int) -> None:
    """Put items with a clock on the worklist of a server that does not run."""
    due_at = SystemClock().now() + timedelta(days=1)
    with open_catalog(Settings(data=data)) as engine:
        for some in itertools.batched(range(count), 500):
            with working(engine, SystemClock(), LOCAL_OPERATOR, Scope()) as work:
                for number in some:
                    item = create_item(work, facility="local", kind="read", study_uid=f"2.25.{7_000_000 + number}")
                    apply_sla(work, item, Sla(due_at=due_at, warn_at=due_at - timedelta(hours=1)))


def p95(seconds: Sequence[float]) -> float:
    """The 95th percentile."""
    return quantiles(seconds, n=20)[-1]


def main() -> None:
    """Measure, and print one line for each figure."""
    with tempfile.TemporaryDirectory(prefix="readingroom-bench-") as folder:
        home = Path(folder)
        with (
            serving(home / "without", **_SETTLED_SOON) as without,
            serving(home / "with", **plugins_of(home / "first")) as having,
        ):
            short = times_without(without, having, requests=SHORT, rounds=SHORT_ROUNDS)
            long = times_without(without, having, requests=LONG, rounds=LONG_ROUNDS)
        for what, ratios in (("", short), (" that look at what came before", long)):
            spread = f"({min(ratios):.2f}..{max(ratios):.2f})"
            print(f"STOW with plugins{what}, times that without: {median(ratios):.2f} {spread}; goal 1.05", flush=True)
        with serving(home / "work", **plugins_of(home / "second")) as peer:
            calls, flags = waits(peer)
        for what, seconds, goal in (("settled to called", calls, 1000), ("called to flagged", flags, 2000)):
            print(
                f"{what}: median {median(seconds) * 1000:.0f}, p95 {p95(seconds) * 1000:.0f} ms; goal {goal}",
                flush=True,
            )
        with serving(home / "idle") as peer:
            idle = idle_share(peer)
        set_timers(home / "idle" / "data", TIMERS)
        with serving(home / "idle") as peer:
            busy = idle_share(peer)
        print(f"{TIMERS:,} timers: {busy - idle:.2%} of a core, beyond {idle:.2%} without; goal 2 %", flush=True)


if __name__ == "__main__":
    main()
