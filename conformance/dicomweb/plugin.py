"""Runs checks as pytest items: what pytest calls passed, failed and skipped becomes the outcome of a check."""

from __future__ import annotations

import traceback
from collections.abc import Callable, Generator, Iterable, Iterator
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Any, cast

import pytest

from conformance.dicomweb import areas
from conformance.dicomweb.cast import Cast
from conformance.dicomweb.checks import AREAS, CHECKS, Check, Fault, Level, NotApplicable
from conformance.dicomweb.peer import Answer, Peer


class State(StrEnum):
    """What came of a check; what fails it depends on its level."""

    PASS = "pass"
    FAIL = "fail"
    WARN = "warn"
    INFO = "info"
    SKIP = "skip"


OF_LEVEL = {Level.MUST: State.FAIL, Level.SHOULD: State.WARN, Level.MAY: State.INFO}
"""The state of a check of that level whose demand is not met."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What came of one check.

    Attributes
    ----------
    found
        What the server did instead, or why there was nothing to check; empty for what passed.
    answer
        The last exchange, where the demand was not met.
    """

    check: Check
    state: State
    found: str = ""
    answer: Answer | None = None
    seconds: float = 0.0


def run_check(check: Check, peer: Peer, actors: Cast) -> None:
    """Run one check; raises `Fault`, or `NotApplicable`.

    Whatever else goes wrong while an answer is looked at comes of an answer that is not what a client can expect.
    """
    peer.asked.clear()
    try:
        actors.require(check.needs)
        check.run(peer, actors)
    except (Fault, NotApplicable):
        raise
    except Exception as error:
        where = traceback.extract_tb(error.__traceback__)[-1]
        raise Fault(
            f"the answer cannot be made sense of: {type(error).__name__}: {error} ({where.name}, line {where.lineno})"
        ) from error


@dataclass(slots=True)
class Plugin:
    """The pytest plugin of one run.

    Parameters
    ----------
    checks
        What to run.
    told
        Called with each outcome as it comes.
    """

    peer: Peer
    actors: Cast
    checks: Iterable[Check]
    told: Callable[[Outcome], None]
    outcomes: list[Outcome] = field(default_factory=list)

    def pytest_collect_file(self, file_path: Path, parent: pytest.Collector) -> pytest.Collector | None:
        """Collect the checks of a module of `areas`."""
        name = f"{areas.__name__}.{file_path.stem}"
        mine = [check for check in self.checks if check.run.__module__ == name]
        if not mine:
            return None
        return cast(pytest.Collector, _Area.from_parent(parent, path=file_path, checks=mine, plugin=self))

    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        """Run the checks in the order of the areas, whatever the names of their files."""
        order = {check.id: number for number, check in enumerate(self.checks)}
        items.sort(key=lambda item: order[item.name])

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_makereport(
        self, item: pytest.Item, call: pytest.CallInfo[None]
    ) -> Generator[None, pytest.TestReport, pytest.TestReport]:
        """Keep the outcome of a check that has run."""
        report = yield
        if call.when == "call" and isinstance(item, _Item):
            outcome = _outcome(item.check, call, self.peer)
            self.outcomes.append(outcome)
            self.told(outcome)
        return report


def _outcome(check: Check, call: pytest.CallInfo[None], peer: Peer) -> Outcome:
    if call.excinfo is None:
        return Outcome(check=check, state=State.PASS, seconds=call.duration)
    error = call.excinfo.value
    if isinstance(error, pytest.skip.Exception):
        return Outcome(check=check, state=State.SKIP, found=str(error.msg), seconds=call.duration)
    return Outcome(
        check=check,
        state=OF_LEVEL[check.level],
        found=str(error),
        answer=peer.asked[-1] if peer.asked else None,
        seconds=call.duration,
    )


class _Area(pytest.File):
    """The checks of one module."""

    def __init__(self, *, checks: list[Check], plugin: Plugin, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self._checks = checks
        self._plugin = plugin

    def collect(self) -> Iterator[pytest.Item]:
        for check in self._checks:
            yield cast(pytest.Item, _Item.from_parent(self, name=check.id, check=check, plugin=self._plugin))


class _Item(pytest.Item):
    """One check."""

    def __init__(self, *, check: Check, plugin: Plugin, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.check = check
        self._plugin = plugin

    def runtest(self) -> None:
        try:
            run_check(self.check, self._plugin.peer, self._plugin.actors)
        except NotApplicable as why:
            pytest.skip(str(why))

    def reportinfo(self) -> tuple[Path, int | None, str]:
        return self.path, None, self.check.title


def chosen(*, only: Iterable[str] = (), in_areas: Iterable[str] = ()) -> list[Check]:
    """The checks that are asked for by id (or its beginning) and by area; all of them where nothing is asked for.

    Raises
    ------
    ValueError
        There is no such check, or no such area.
    """
    only, in_areas = tuple(only), tuple(in_areas)
    for name in only:
        if not any(check.startswith(name) for check in CHECKS):
            raise ValueError(f"There is no check {name}; --list names them all.")
    for area in in_areas:
        if area not in AREAS.values():
            raise ValueError(f"There is no area {area}; the areas are {', '.join(AREAS.values())}.")
    found = [
        check
        for check in CHECKS.values()
        if (not only or check.id.startswith(only)) and (not in_areas or check.area in in_areas)
    ]
    order = list(AREAS.values())
    return sorted(found, key=lambda check: (order.index(check.area), check.id))
