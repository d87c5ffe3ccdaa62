"""The simulated service, and what the index policy reaches in it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from itertools import pairwise
from random import Random

import pytest

from conformance.reference import PAGES
from conformance.routing import LOADS, POLICIES
from conformance.simulation import (
    KINDS,
    LOAD,
    SHIFTS,
    STUDIES_A_DAY,
    Case,
    Figures,
    figures,
    first_come,
    made_cases,
    made_seats,
    simulate,
)


def ran(seed: int = 5) -> list[Case]:
    random = Random(seed)
    seats = made_seats(random, overflow=0)
    return simulate(first_come, made_cases(random, days=1), seats)


def test_the_readers_are_as_busy_as_is_said() -> None:
    minutes = STUDIES_A_DAY * sum(kind.share * kind.minutes for kind in KINDS)
    assert minutes / (len(SHIFTS) * 8 * 60) == pytest.approx(LOAD, abs=0.01)
    assert sum(kind.share for kind in KINDS) == pytest.approx(1)


def test_a_seed_says_all() -> None:
    assert [case.ended for case in ran()] == [case.ended for case in ran()]
    assert [case.ended for case in ran()] != [case.ended for case in ran(6)]


def test_nobody_reads_two_studies_at_once_or_before_they_have_come() -> None:
    cases = ran()
    assert all(case.began is not None and case.began >= case.arrived for case in cases)
    by_reader: dict[str, list[tuple[float, float]]] = {}
    for case in cases:
        assert case.reader is not None
        assert case.began is not None
        assert case.ended is not None
        by_reader.setdefault(case.reader.id, []).append((case.began, case.ended))
    for spans in by_reader.values():
        spans.sort()
        assert all(ended <= began for (_, ended), (began, _) in pairwise(spans))
    assert min(Counter(case.reader.id for case in cases if case.reader).values()) > 10


def test_figures_count_what_was_done_wrong() -> None:
    cases = ran()
    good = figures(cases)
    assert (good.never_read, good.violations) == (0, 0)
    cases[0].ended = None
    cases[1].eligible = ()
    bad = figures(cases)
    assert (bad.never_read, bad.violations) == (1, 1)
    assert bad.longest_hours == float("inf")
    assert bad.in_time < good.in_time


def rows() -> Iterator[tuple[str, dict[str, float]]]:
    """The lines of the tables in the reference page, which another test holds equal to what the code makes."""
    for line in (PAGES / "routing.md").read_text(encoding="utf-8").splitlines():
        name, *cells = [cell.strip() for cell in line.strip("|").split("|")]
        if name in POLICIES:
            yield name, dict(zip(Figures.__dataclass_fields__, map(float, cells), strict=True))


@pytest.mark.parametrize("place", range(len(LOADS)), ids=[f"{load:.0%}" for load in LOADS])
def test_the_index_policy_keeps_its_goals(place: int) -> None:
    every = list(rows())
    assert len(every) == len(LOADS) * len(POLICIES)
    table = dict(every[place * len(POLICIES) :][: len(POLICIES)])
    index, strict, reference = table["index policy"], table["strict priority"], table["reference"]
    assert (index["violations"], index["never_read"]) == (0, 0)
    assert index["matched"] >= 95
    assert index["stat_in_time"] >= strict["stat_in_time"] - 0.3
    assert index["urgent_in_time"] >= 90
    assert index["in_time"] >= reference["in_time"] - 0.5
    assert index["covered_p95"] <= strict["covered_p95"]
