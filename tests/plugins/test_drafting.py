"""Drafts from findings, and what is looked for before a report is signed."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, ClassVar

import pytest

from plugins.drafting.checks import checks_of
from plugins.drafting.writing import draft_of
from readingroom import Addendum, Algorithm, Evidence, Finding, Passage, Report, Section, Series, Study
from readingroom.testing import PluginContract

CLEARED = Algorithm(name="Bleed", version="2", clearance="K123456")
BLEED = Finding(
    text="Acute subdural haematoma",
    probability=0.9,
    category=1,
    algorithm=CLEARED,
    evidence=(Evidence(series_uid="1.2", instance_uid="1.2.3"),),
    measurements={"volume_ml": 12.5},
)


def report(sex: str | None = None, kind: Any = "report", **texts: str) -> Report:
    sections = tuple(
        Section(name=name, title=name.title(), passages=(Passage(text=text),)) for name, text in texts.items()
    )
    return Report(id="r", facility="f", status="registered", sex=sex, kind=kind, sections=sections)


def codes(report: Report, study: Study | None = None) -> set[str]:
    return {issue.code for issue in checks_of(report, study)}


def test_each_finding_is_a_sentence_with_its_images_and_its_algorithm() -> None:
    later = replace(BLEED, text="Old infarct.", category=None, probability=0.6, measurements={})
    draft = draft_of((later, BLEED), ())
    assert draft is not None
    findings, impression = draft.sections
    assert findings.text == "Acute subdural haematoma (volume ml 12.5).\nOld infarct.\n"
    assert impression.text == "Acute subdural haematoma.\nOld infarct.\n"
    assert all(one.algorithm == CLEARED and one.evidence == BLEED.evidence for one in findings.passages)


def test_nothing_is_written_where_nothing_was_found() -> None:
    assert draft_of((), ()) is None
    assert draft_of((replace(BLEED, probability=0.2),), ()) is None


@pytest.mark.parametrize(
    ("texts", "found"),
    [
        ({"impression": "Normal."}, set()),
        ({"findings": "x"}, {"no-impression"}),
        ({"impression": "A nodule of [ ] mm."}, {"blank"}),
        ({"impression": "Effusion: [none|small|large]"}, {"blank"}),
        ({"impression": "See [1] and image [12]."}, set()),
        ({"findings": "A left effusion.", "impression": "Right effusion."}, {"laterality"}),
        ({"findings": "A left-sided effusion.", "impression": "Left effusion."}, set()),
        ({"findings": "Bilateral effusions.", "impression": "Effusions, right more than left."}, set()),
        ({"impression": "Unchanged."}, {"comparison"}),
        ({"comparison": "CT of 2020.", "impression": "Unchanged."}, set()),
    ],
)
def test_words_that_do_not_fit_together_are_found(texts: dict[str, str], found: set[str]) -> None:
    assert codes(report(**texts)) == found


@pytest.mark.parametrize(
    ("sex", "text", "found"),
    [
        ("F", "The prostate is enlarged.", {"sex"}),
        ("M", "The uterus is normal.", {"sex"}),
        ("F", "The uterus is normal.", set()),
        (None, "The uterus is normal.", set()),
        ("O", "The prostate is normal.", set()),
    ],
)
def test_an_organ_that_the_patient_has_not_is_found(sex: str | None, text: str, found: set[str]) -> None:
    assert codes(report(sex, impression=text)) == found


def test_a_text_of_the_other_side_than_the_images_is_found() -> None:
    study = Study(study_uid="1", facility="f", patient="p", series=(Series(series_uid="1.1", laterality="L"),))
    assert codes(report(impression="The right knee is normal."), study) == {"laterality"}
    assert codes(report(impression="The left knee is normal."), study) == set()
    both = replace(study, series=(*study.series, Series(series_uid="1.2")))
    assert codes(report(impression="The right knee is normal."), both) == set()


def test_of_an_addendum_only_its_own_text_is_looked_at() -> None:
    signed = report(kind="addendum", findings="[ ]")
    added = Addendum(number=2, passages=(Passage(text="The size is [ ]."),))
    assert codes(signed) == set()
    assert codes(replace(signed, addenda=(added,))) == {"blank"}


class TestContract(PluginContract):
    plugin = "drafting"
    settings: ClassVar = {"least_probability": 0.4}
