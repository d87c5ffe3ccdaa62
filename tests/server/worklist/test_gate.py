"""The gate: an algorithm changes what it is cleared for, and nothing else."""

from __future__ import annotations

from dataclasses import replace

import pytest

from readingroom.model import Algorithm, Finding
from readingroom.results import Triage
from server.worklist.gate import decide
from tests.worklist import study

CLEARED = Algorithm(name="Bleed", version="2.1", clearance="K221234", modalities=("CT",), body_parts=("HEAD", "BRAIN"))


def triage(*algorithms: Algorithm | None) -> Triage:
    return Triage(findings=tuple(Finding(text="Blood", algorithm=one) for one in algorithms), priority="stat")


def test_a_cleared_algorithm_promotes_a_study_of_its_indications() -> None:
    decision = decide(triage(CLEARED), study(), is_research_mode=False)
    assert decision.may_promote
    assert decision.because == "cleared: Bleed K221234"


@pytest.mark.parametrize(
    ("algorithm", "because"),
    [
        (None, "a finding names no algorithm"),
        (replace(CLEARED, clearance=None), "Bleed 2.1 has no clearance number"),
        (
            replace(CLEARED, clearance="pending"),
            "Bleed 2.1 has the clearance number 'pending', which is none of the FDA's",
        ),
        (replace(CLEARED, is_research=True), "Bleed 2.1 is for research only"),
        (replace(CLEARED, modalities=("MR",)), "Bleed 2.1 is not cleared for CT"),
        (replace(CLEARED, body_parts=("CHEST",)), "Bleed 2.1 is not cleared for HEAD"),
    ],
)
def test_any_other_algorithm_promotes_nothing_and_the_reason_is_told(algorithm: Algorithm | None, because: str) -> None:
    decision = decide(triage(algorithm), study(), is_research_mode=False)
    assert not decision.may_promote
    assert decision.because == because
    research = decide(triage(algorithm), study(), is_research_mode=True)
    assert research.may_promote
    assert research.because == f"research mode, although {because}"


def test_one_finding_of_an_algorithm_that_is_not_cleared_spoils_the_others() -> None:
    assert not decide(triage(CLEARED, None), study(), is_research_mode=False).may_promote


def test_a_triage_without_findings_promotes_nothing_even_in_research_mode() -> None:
    assert not decide(Triage(priority="stat", is_flagged=True), study(), is_research_mode=True).may_promote


@pytest.mark.parametrize("number", ["K221234", "DEN180001", "P190012", "P190012/S001", "BK170001"])
def test_the_numbers_of_the_fda_are_known(number: str) -> None:
    assert decide(triage(replace(CLEARED, clearance=number)), study(), is_research_mode=False).may_promote


def test_a_study_that_says_no_region_is_of_no_region_that_was_cleared() -> None:
    decision = decide(triage(CLEARED), study(body_parts=()), is_research_mode=False)
    assert decision.because == "Bleed 2.1 is not cleared for an unnamed region"
