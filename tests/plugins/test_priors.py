"""Priors: the earlier studies of this patient and of no other, the most relevant first, each with its source."""

from __future__ import annotations

import json
import re
import tomllib
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from plugins import priors as plugin
from plugins.priors.relevance import REGIONS_OF, Shown, day_of, relevance
from plugins.priors.remote import LARGEST_ANSWER, is_same_patient
from plugins.priors.settings import Remote, Settings
from readingroom import Context, Patient, Prior, RetryLater, Study
from readingroom.testing import PluginContract
from server.settings import Settings as ServerSettings
from tests.plugins.http import Answer, Request, Server, serving

PRESENT = Study(
    study_uid="1.2.3",
    facility="north",
    patient="p1",
    patient_id="0815",
    issuer="CITY",
    birth_date="19700101",
    sex="F",
    study_date="20260102",
    modalities=("CT",),
    body_parts=("HEAD",),
)


def earlier(uid: str, **attributes: Any) -> Study:
    known = {
        "patient": "p1",
        "facility": "north",
        "study_date": "20250102",
        "modalities": ("CT",),
        "body_parts": ("HEAD",),
    }
    return Study(study_uid=uid, **{**known, **attributes})


def find(*studies: Study, attempt: int = 1, **settings: Any) -> tuple[Prior, ...]:
    context = Context(plugin="priors", settings=Settings(**settings), attempt=attempt)
    return plugin.find_priors(PRESENT, Patient(id="p1", studies=studies), context)


# -- relevance ---------------------------------------------------------------------------------------------------------


def test_the_same_region_counts_more_than_modality_and_age() -> None:
    old_radiograph = earlier("1.1", modalities=("CR",), body_parts=("SKULL",), study_date="20100101")
    fresh_chest = earlier("1.2", body_parts=("CHEST",), study_date="20251230")
    assert [prior.study_uid for prior in find(fresh_chest, old_radiograph, least_relevance=0)] == ["1.1", "1.2"]


def test_of_the_same_region_the_same_modality_comes_first_and_then_the_newest() -> None:
    studies = (
        earlier("1.1", study_date="20200101"),
        earlier("1.2", modalities=("MR",)),
        earlier("1.3"),
        earlier("1.4", modalities=("US",)),
    )
    assert [prior.study_uid for prior in find(*studies)] == ["1.3", "1.1", "1.2", "1.4"]


def test_a_prior_says_why_it_is_relevant() -> None:
    (prior,) = find(earlier("1.1", body_parts=("BRAIN",), modalities=("CT", "SR")))
    assert prior.because == "same region (head), also CT, 12 months before"
    assert 0.9 < prior.relevance < 1


def test_a_structured_report_alone_makes_no_modality_the_same() -> None:
    both = Shown(body_parts=("HEAD",), modalities=("MR", "SR"))
    assert relevance(Shown(body_parts=("HEAD",), modalities=("CT", "SR")), both)[1].split(", ")[1] == "MR/SR"


def test_regions_that_overlap_are_shared() -> None:
    assert REGIONS_OF["NECKCHEST"] == {"neck", "chest"}
    assert relevance(Shown(body_parts=("CHESTABDPELVIS",)), Shown(body_parts=("LIVER",)))[1].startswith("same region")
    assert relevance(Shown(body_parts=("KNEE",)), Shown(body_parts=("HAND",)))[1].startswith("another region")


def test_a_region_that_is_not_said_lies_between_the_same_and_another() -> None:
    scores = [
        relevance(Shown(body_parts=("HEAD",)), Shown(body_parts=parts))[0] for parts in (("CHEST",), (), ("BRAIN",))
    ]
    assert scores == sorted(scores)
    assert len(set(scores)) == 3


def test_what_is_barely_relevant_is_left_out_and_the_others_are_cut_to_the_most() -> None:
    assert find(earlier("1.1", body_parts=("FOOT",), modalities=("CR",))) == ()
    assert len(find(*(earlier(f"1.{number}") for number in range(30)), most=7)) == 7


def test_a_later_study_is_no_prior() -> None:
    assert find(earlier("1.1", study_date="20260103")) == ()
    assert len(find(earlier("1.1", study_date="20260102"))) == 1


shown = st.builds(
    Shown,
    body_parts=st.lists(st.sampled_from([*sorted(REGIONS_OF), "ODD THING"]), max_size=3).map(tuple),
    modalities=st.lists(st.sampled_from(["CT", "MR", "CR", "US", "SR", "??"]), max_size=3).map(tuple),
    day=st.one_of(st.none(), st.dates()),
)


@given(shown, shown)
def test_relevance_is_between_0_and_1(present: Shown, prior: Shown) -> None:
    share, because = relevance(present, prior)
    assert 0 <= share <= 1
    assert because


@given(st.one_of(st.none(), st.text(max_size=10), st.from_regex(r"\A\d{8}\Z")))
def test_whatever_stands_in_a_date_is_a_day_or_none(value: str | None) -> None:
    day = day_of(value)
    assert day is None or day.strftime("%Y%m%d").zfill(8) == value


# -- never another patient ---------------------------------------------------------------------------------------------


@given(st.lists(st.tuples(st.sampled_from(["p1", "p2", "", "P1"]), st.sampled_from(["1.2.3", "1.4", "1.5", "1.6"]))))
def test_no_study_of_another_patient_is_a_prior_whatever_is_handed_over(studies: list[tuple[str, str]]) -> None:
    found = find(*(earlier(uid, patient=patient) for patient, uid in studies))
    allowed = {uid for patient, uid in studies if patient == "p1"} - {PRESENT.study_uid}
    assert {prior.study_uid for prior in found} <= allowed


def dataset(**elements: Any) -> dict[str, Any]:
    return {tag.removeprefix("t"): {"vr": "LO", "Value": [value]} for tag, value in elements.items()}


answers = st.fixed_dictionaries(
    {},
    optional={
        "00100020": st.sampled_from(["0815", "0815 ", "815", "08*", ""]),
        "00100021": st.sampled_from(["CITY", "OTHER", ""]),
        "00100030": st.sampled_from(["19700101", "19700102", ""]),
        "00100040": st.sampled_from(["F", "M", "O", ""]),
        "0020000D": st.sampled_from(["1.9.1", "1.9.2", "../x", "1.2.3"]),
        "00080020": st.sampled_from(["20240101", "20270101", "x"]),
    },
)


@given(st.lists(answers, max_size=4))
def test_no_answer_about_another_patient_is_believed(told: list[dict[str, str]]) -> None:
    for answer in told:
        sets = {tag: {"vr": "LO", "Value": [value]} for tag, value in answer.items()}
        is_ours = (
            answer.get("00100020", "").strip() == "0815"
            and answer.get("00100030") == "19700101"
            and answer.get("00100021", "") in ("CITY", "")
            and answer.get("00100040", "") != "M"
        )
        assert is_same_patient(PRESENT, sets) == is_ours


@pytest.mark.parametrize(
    "answer", [{}, {"00100020": None}, {"00100020": {"Value": "0815"}}, {"00100020": {"Value": [{}]}}]
)
def test_an_answer_that_is_no_data_set_is_of_nobody(answer: dict[str, Any]) -> None:
    assert not is_same_patient(PRESENT, answer)


# -- other archives ----------------------------------------------------------------------------------------------------

PRIOR = dataset(
    t0020000D="1.9.1", t00100020="0815", t00100021="CITY", t00100030="19700101", t00080020="20240501",
    t00081030="CT head", t00080061="CT",
)  # fmt: skip
SERIES = dataset(t0020000E="1.9.1.1", t00080060="CT", t00180015="BRAIN")


def archive(routes: dict[str, Any]) -> Callable[[Request], Answer]:
    """Answers the JSON of a path; 404 to any other."""

    def answer(request: Request) -> Answer:
        if request.path not in routes:
            return 404, b"", {}
        told = routes[request.path]
        return told if isinstance(told, tuple) else (200, json.dumps(told).encode(), {})

    return answer


@pytest.fixture
def city() -> Iterator[Server]:
    """An archive of the city: one prior of ours, one of somebody else under the same number, and the study itself."""
    other = {**PRIOR, **dataset(t0020000D="1.9.2", t00100030="19880808")}
    same = {**PRIOR, **dataset(t0020000D=PRESENT.study_uid)}
    with serving(archive({"/dicom/studies": [other, PRIOR, same], "/dicom/studies/1.9.1/series": [SERIES]})) as server:
        yield server


def remote(server: Server, **settings: Any) -> dict[str, Any]:
    return {"name": "city", "url": f"{server.url}/dicom", "facilities": ("north",), **settings}


def test_another_archive_is_asked_for_the_patient_and_believed_about_nobody_else(city: Server) -> None:
    (prior,) = find(remotes=(remote(city, token="secret"),))
    assert (prior.study_uid, prior.root, prior.study_date) == ("1.9.1", f"{city.url}/dicom", "20240501")
    assert prior.because == "same region (head), also CT, 20 months before, in city"
    assert city.asked[0].query["PatientID"] == ["0815"]
    assert {request.headers["Authorization"] for request in city.asked} == {"Bearer secret"}


def test_a_study_that_is_here_too_is_told_once_as_ours(city: Server) -> None:
    (prior,) = find(earlier("1.9.1", study_date="20240501"), remotes=(remote(city),))
    assert prior.root is None


def test_what_a_search_does_not_tell_is_read_from_the_metadata_of_one_image() -> None:
    series, base = dataset(t0020000E="1.9.1.1", t00080060="CT"), "/dicom/studies/1.9.1/series"
    routes = {
        "/dicom/studies": [PRIOR],
        base: [series],
        f"{base}/1.9.1.1/instances": [dataset(t00080018="1.9.1.1.1")],
        f"{base}/1.9.1.1/instances/1.9.1.1.1/metadata": [dataset(t00180015="HEAD")],
    }
    with serving(archive(routes)) as server:
        (prior,) = find(remotes=(remote(server),))
    assert prior.because.startswith("same region (head)")


@pytest.mark.parametrize(
    "present",
    [{"facility": "south"}, {"patient_id": None}, {"birth_date": None}],
    ids=["a facility of other numbers", "no number", "no birth date"],
)
def test_an_archive_that_cannot_know_the_patient_is_not_asked(city: Server, present: dict[str, Any]) -> None:
    context = Context(plugin="priors", settings=Settings(remotes=(Remote(**remote(city)),)))
    assert plugin.find_priors(replace(PRESENT, **present), Patient(id="p1"), context) == ()
    assert city.asked == []


@pytest.mark.parametrize(
    "answer",
    [
        (500, b"", {}),
        (302, b"", {"Location": "/dicom/elsewhere"}),
        (200, b"<html>", {}),
        (200, b'{"00100020": {}}', {}),
        (200, b"[1]", {}),
        (200, b" " * (LARGEST_ANSWER + 1), {}),
    ],
    ids=["fails", "redirects", "html", "no array", "no data sets", "too much"],
)
def test_an_archive_that_does_not_answer_is_asked_again_and_then_done_without(answer: Answer) -> None:
    with serving(archive({"/dicom/studies": answer, "/dicom/elsewhere": [PRIOR]})) as server:
        with pytest.raises(RetryLater, match=r"The archive city answers"):
            find(earlier("1.1"), remotes=(remote(server),), attempt=2)
        (prior,) = find(earlier("1.1"), remotes=(remote(server),), attempt=3)
        assert prior.study_uid == "1.1"
        assert {request.path for request in server.asked} == {"/dicom/studies"}


def test_an_archive_that_is_not_there_says_so_without_the_number_of_the_patient() -> None:
    with serving(archive({})) as server:
        gone = remote(server)
    with pytest.raises(RetryLater, match=r"^The archive city does not answer: ConnectError\.$"):
        find(remotes=(gone,))


def test_no_address_comes_out_of_an_answer() -> None:
    crooked = {**PRIOR, **dataset(t0020000D="1.9.1/../../admin")}
    with serving(
        archive({"/dicom/studies": [crooked, PRIOR], "/dicom/studies/1.9.1/series": [dataset(t0020000E="..")]})
    ) as server:
        (prior,) = find(remotes=(remote(server),))
        assert {request.path for request in server.asked} == {"/dicom/studies", "/dicom/studies/1.9.1/series"}
    assert prior.because.startswith("region not said")


def test_the_settings_of_the_guide_are_accepted() -> None:
    page = (Path(__file__).parents[2] / "docs" / "how-to" / "priors.md").read_text(encoding="utf-8")
    (block,) = re.findall(r"^```toml\n(.*?)^```", page, re.DOTALL | re.MULTILINE)
    table = ServerSettings(**tomllib.loads(block)).plugins["priors"]  # type: ignore[arg-type]
    assert table.network
    assert [remote.name for remote in Settings(**table.own).remotes] == ["city"]


# -- the summary -------------------------------------------------------------------------------------------------------


def test_the_summary_tells_each_prior_with_its_day_and_cites_it() -> None:
    found = find(earlier("1.1", description="CT head"), earlier("1.2", modalities=("MR",), study_date=None))
    summary = plugin.summarize_priors(PRESENT, found)
    assert summary is not None
    assert summary.text == (
        "2 earlier studies:\n"
        "- CT CT head of 2025-01-02: same region (head), also CT, 12 months before [1.1]\n"
        "- MR of an unknown day: same region (head), MR, age not known [1.2]"
    )
    assert summary.cites == ("1.1", "1.2")


def test_a_summary_cites_every_prior_that_it_tells_and_no_other() -> None:
    summary = plugin.summarize_priors(PRESENT, find(*(earlier(f"1.{number}") for number in range(12))))
    assert summary is not None
    assert len(summary.cites) == 8
    assert all(f"[{uid}]" in summary.text for uid in summary.cites)
    assert summary.text.endswith("- and 4 less relevant")


def test_where_there_are_no_priors_there_is_no_summary() -> None:
    assert plugin.summarize_priors(PRESENT, ()) is None


class TestTheContract(PluginContract):
    plugin = "priors"
