"""The nouns of the contract."""

from __future__ import annotations

import pytest

from readingroom.model import PRIORITIES, Study, priority_rank


def head_ct() -> Study:
    return Study(study_uid="1.2.3", facility="local", patient="p", modalities=("CT", "SR"), body_parts=("HEAD",))


@pytest.mark.parametrize(
    ("modalities", "is_there"), [(("CT",), True), (("MR", "SR"), True), (("MR",), False), ((), False)]
)
def test_a_study_has_a_modality_where_one_of_its_series_is_of_it(modalities: tuple[str, ...], is_there: bool) -> None:
    assert head_ct().has(*modalities) is is_there


def test_a_study_is_of_a_region_where_one_of_its_series_shows_it() -> None:
    assert head_ct().region("CHEST", "HEAD")
    assert not head_ct().region("CHEST")


def test_priorities_rank_from_routine_to_stat() -> None:
    assert [priority_rank(priority) for priority in PRIORITIES] == [0, 1, 2, 3]
    assert priority_rank("stat") > priority_rank("asap") > priority_rank("urgent") > priority_rank("routine")
