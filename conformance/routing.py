"""The reference page of routing: policies compared in the simulation."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from importlib.metadata import entry_points
from random import Random
from typing import Any

from conformance.simulation import (
    Case,
    Figures,
    Policy,
    Seat,
    clairvoyant,
    figures,
    first_come,
    made_cases,
    made_seats,
    simulate,
    strict_priority,
)
from readingroom import Context

SEED, DAYS = 2, 4
LOADS = (0.63, 0.81, 0.93)

_HEAD = """\
# Routing

Made from `plugins/routing` and `conformance/simulation.py` by `make docs`.

Policies in a simulation of {days} days with 25 readers: who reads what next, when 1,500 studies a day keep them busy
for 81 % of their time, when fewer come, and when more do. [How routing works](../how-to/routing.md) says what the index
policy does.

- A day has fewer studies at night than in the afternoon, and no day is like another. Readers have shifts of eight
  hours, two to four subspecialties, licences for 85 % of ten states and credentials at 95 % of twenty facilities.
- Of ten studies two are STAT and due within 30 minutes of their arrival, three are urgent (60 minutes), five routine
  (8 hours). Reading takes 2.7 minutes for a radiograph and 17.1 for a CT of the abdomen in the mean, with a long tail:
  2 % of STAT studies are late however soon they are begun.
- Algorithms look at radiographs of the chest, and CT of head and chest. They flag 90 % of what is critical, and 4 % of
  what is not, after two minutes.
- Four overflow readers can be called, and begin a quarter of an hour later. Only the index policy calls them.
- The reference is out of reach: it knows what is critical and how long each read will take, and everybody may read
  everything.

Minutes are from the arrival of a study to the end of its reading. `covered` are the critical studies of kinds that an
algorithm looks at, flagged or not; `matched` those whose reader has their subspecialty; `violations` those read without
a licence or a credential.

"""
_COLUMNS = (
    "| policy | STAT p95, min | in time, % | STAT in time, % | urgent in time, % | routine in time, % "
    "| covered p95, min | all critical p95, min | matched, % | longest, h | overflow, % | never read | violations |\n"
    f"|---|{'---:|' * 12}\n"
)


def index_policy(**settings: Any) -> Policy:
    """The plugin `routing`, found as the server finds it."""
    (found,) = entry_points(group="readingroom", name="routing")
    plugin = found.load()
    context = Context(plugin="routing", settings=plugin.register_settings()(**settings))
    policy: Policy = lambda snapshot: plugin.assign(snapshot, context)  # noqa: E731
    return policy


POLICIES: dict[str, Callable[[list[Case], list[Seat]], Policy]] = {
    "first in, first out": lambda _cases, _seats: first_come,
    "strict priority": lambda _cases, _seats: strict_priority,
    "index policy": lambda _cases, _seats: index_policy(),
    "reference": clairvoyant,
}


def measured(name: str, load: float, *, seed: int = SEED, days: int = DAYS) -> Figures:
    """What a policy makes of the same readers and studies as every other one of that seed."""
    random = Random(seed)
    seats = made_seats(random)
    cases = made_cases(random, days=days, load=load)
    return figures(simulate(POLICIES[name](cases, seats), cases, seats))


def page() -> str:
    """The page, as Markdown."""
    return _HEAD.format(days=DAYS) + "\n".join(_table(load) for load in LOADS)


def _table(load: float) -> str:
    rows = [_row(name, measured(name, load)) for name in POLICIES]
    return f"## {load:.0%} busy\n\n{_COLUMNS}{''.join(rows)}"


def _row(name: str, found: Figures) -> str:
    return f"| {name} | {' | '.join(_cells(name, found))} |\n"


def _cells(name: str, found: Figures) -> Iterator[str]:
    for value in (getattr(found, field) for field in Figures.__dataclass_fields__):
        yield str(value) if isinstance(value, int) else f"{value:.1f}"
