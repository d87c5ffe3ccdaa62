"""Sampling for peer review: the rates hold, in each stratum too, and the same report is always taken or never."""

from __future__ import annotations

import random
from collections import Counter
from dataclasses import replace
from typing import Any, ClassVar

import pytest
from pydantic import ValidationError

from plugins import peer_review as plugin
from plugins.peer_review.sampling import PeerReviewSettings, rate_of, reason_for
from readingroom import Context, CriticalResult, Report
from readingroom.testing import PluginContract
from tests.reports import a_report

REPORT = a_report()
NOTHING: dict[str, Any] = {"rate": 0, "corrected": False, "discrepant": False}


def settings(**told: Any) -> PeerReviewSettings:
    return PeerReviewSettings.model_validate(told)


def reason(
    report: Report = REPORT, reader: str = "ada", before: int = 1000, alike: int = 500, **told: Any
) -> str | None:
    return reason_for(report, reader, before, alike, settings(**told))


def taken(count: int, reader: str = "ada", report: Report = REPORT, **told: Any) -> set[int]:
    """Which of so many readings of one reader, modality and facility are selected."""
    rules = settings(**{"seed": "s"} | told)
    return {number for number in range(count) if reason_for(report, reader, number, number, rules) is not None}


@pytest.mark.parametrize("rate", [0.0, 0.01, 0.03, 0.05, 0.1, 1 / 3, 0.9, 1.0])
@pytest.mark.parametrize("seed", ["a", "b", "c"])
def test_the_rate_holds_among_few_readings_already(rate: float, seed: str) -> None:
    numbers = taken(10_000, rate=rate, seed=seed)
    for count in (100, 1000, 10_000):
        # The last block may not be whole.
        assert abs(sum(number < count for number in numbers) - rate * count) <= 2


def test_of_ten_thousand_reports_the_rates_hold_within_half_a_point_in_each_stratum() -> None:
    """A simulation: readers who read what comes, at two facilities, with rates of their own."""
    strata = [
        {"rate": 0.08, "readers": ["new"]},
        {"rate": 0.05, "modalities": ["MG"]},
        {"rate": 0.01, "facilities": ["north"]},
    ]
    rules = settings(rate=0.03, seed="a site", strata=strata)
    drawn = random.Random(1)
    counts, read, selected = Counter[Any](), Counter[Any](), Counter[Any]()
    expected = Counter[Any]()
    for _ in range(10_000):
        reader = drawn.choices(["ada", "bob", "eve", "new"], [5, 4, 3, 1])[0]
        modality = drawn.choices(["CT", "DX", "MR", "MG"], [4, 4, 2, 1])[0]
        facility = drawn.choices(["local", "north"], [3, 1])[0]
        report = replace(REPORT, modalities=(modality,), facility=facility)
        because = reason_for(report, reader, 1000, counts[reader, modality, facility], rules)
        counts[reader, modality, facility] += 1
        for part in ("all", reader, modality, facility):
            read[part] += 1
            selected[part] += because is not None
            expected[part] += rate_of(report, reader, rules)
    assert read["all"] == 10_000
    for part, count in read.items():
        # Of one reader, modality and facility at most one too many or too few is taken.
        assert abs(selected[part] - expected[part]) <= max(0.005 * count, 4), part
    assert abs(selected["all"] - expected["all"]) <= 0.005 * 10_000


def test_the_same_reading_is_always_taken_or_never_and_the_seed_says_which() -> None:
    first, again, other = (taken(2000, rate=0.05, seed=seed) for seed in ("a", "a", "b"))
    assert first == again
    assert len(first & other) < len(first) / 2
    assert len({number % 20 for number in first}) > 10  # nobody can count on which one it is


@pytest.mark.parametrize(
    ("changes", "told", "because"),
    [
        ({"kind": "correction"}, {"corrected": True}, "the report was corrected"),
        ({"kind": "amendment"}, {"corrected": True}, None),
        ({"discrepancy": "major"}, {"discrepant": True}, "the final report differs much"),
        ({"discrepancy": "minor"}, {"discrepant": True}, None),
        ({"critical_results": (CriticalResult(category=1, text="Blood"),)}, {"critical": True}, "a critical result"),
    ],
)
def test_rules_take_what_they_are_for(changes: dict[str, Any], told: dict[str, Any], because: str | None) -> None:
    found = reason(replace(REPORT, **changes), **NOTHING | told)
    assert (found is None) if because is None else because in (found or "")
    assert reason(replace(REPORT, **changes), **NOTHING) is None


def test_the_first_readings_of_a_new_reader_are_all_reviewed() -> None:
    told = NOTHING | {"first_of_new_readers": 20}
    assert "one of the first 20 readings" in (reason(before=19, **told) or "")
    assert reason(before=20, **told) is None


@pytest.mark.parametrize(
    "wrong",
    [
        {"rate": 1.1},
        {"rate": -0.1},
        {"rate": 1e-9},
        {"rate": "nan"},
        {"strata": [{"readers": ["a"]}]},
        {"colour": "red"},
    ],
)
def test_settings_that_are_not_right_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        settings(**wrong)


def test_it_answers_the_hook() -> None:
    context = Context(plugin="peer_review", settings=settings(rate=1))
    found = plugin.select_peer_review(REPORT, "ada", 5, 5, context)
    assert found is not None
    assert found.because == "chance, at a rate of 100.0%"


class TestContract(PluginContract):
    plugin = "peer_review"
    settings: ClassVar = {"rate": 0.05, "seed": "a", "strata": [{"rate": 0.1, "modalities": ["MG"]}]}
