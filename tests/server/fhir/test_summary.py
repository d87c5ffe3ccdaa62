"""A part of a resource: what is kept, and that it says so."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any, get_args

import pytest

from server.fhir.parsing import parse_json
from server.fhir.summary import SUBSETTED, Summary, only_elements, summarised
from server.fhir.validation import check_resource
from tests.corpus import each_example

REPORT: dict[str, Any] = {
    "resourceType": "DiagnosticReport",
    "id": "r1",
    "meta": {"versionId": "3", "tag": [{"system": "urn:a", "code": "b"}]},
    "text": {"status": "generated", "div": '<div xmlns="http://www.w3.org/1999/xhtml">a</div>'},
    "contained": [{"resourceType": "Organization", "id": "o", "name": "O"}],
    "extension": [{"url": "urn:a", "valueCode": "b"}],
    "modifierExtension": [{"url": "urn:b", "valueCode": "b"}],
    "identifier": [{"system": "urn:a", "value": "1", "extension": [{"url": "urn:a", "valueCode": "b"}]}],
    "status": "final",
    "_status": {"id": "s"},
    "code": {"text": "CT"},
    "subject": {"reference": "Patient/1"},
    "effectiveDateTime": "2026-03-01",
    "performer": [{"reference": "#o"}],
    "media": [{"id": "m", "comment": "a", "link": {"reference": "Media/1"}}],
    "conclusion": "c",
    "presentedForm": [{"contentType": "text/plain", "data": "aGVsbG8="}],
}


def test_a_summary_has_what_r4_marks_as_that() -> None:
    before = copy.deepcopy(REPORT)
    assert summarised(REPORT, "true") == {
        "resourceType": "DiagnosticReport",
        "id": "r1",
        "meta": {"versionId": "3", "tag": [{"system": "urn:a", "code": "b"}, SUBSETTED]},
        "modifierExtension": REPORT["modifierExtension"],
        "identifier": [{"system": "urn:a", "value": "1"}],
        "status": "final",
        "_status": {"id": "s"},
        "code": {"text": "CT"},
        "subject": {"reference": "Patient/1"},
        "effectiveDateTime": "2026-03-01",
        "performer": [{"reference": "#o"}],
        "media": [{"id": "m", "link": {"reference": "Media/1"}}],
    }
    assert before == REPORT


def test_a_summary_of_an_attachment_leaves_its_bytes_out() -> None:
    document = {
        "resourceType": "DocumentReference",
        "status": "current",
        "content": [{"attachment": {"contentType": "text/plain", "data": "aGVsbG8=", "size": 5}}],
    }
    assert summarised(document, "true")["content"] == [{"attachment": {"contentType": "text/plain", "size": 5}}]


def test_the_text_comes_with_what_is_mandatory() -> None:
    assert list(summarised(REPORT, "text")) == ["resourceType", "id", "meta", "text", "status", "_status", "code"]


def test_the_data_comes_without_the_text() -> None:
    assert summarised(REPORT, "data").keys() == REPORT.keys() - {"text"}


@pytest.mark.parametrize("summary", ["false", "count"])
def test_the_whole_is_not_marked(summary: Summary) -> None:
    assert summarised(REPORT, summary) == REPORT


def test_elements_are_kept_by_name_beside_what_is_mandatory_or_changes_the_meaning() -> None:
    only = only_elements(REPORT, ["effective", "DiagnosticReport.conclusion", "Patient.name", "nonsense"])
    assert list(only) == [
        *("resourceType", "id", "meta", "modifierExtension", "status", "_status", "code"),
        *("effectiveDateTime", "conclusion"),
    ]
    assert only["meta"]["tag"] == [{"system": "urn:a", "code": "b"}, SUBSETTED]


def test_a_resource_without_meta_gets_one_and_the_tag_stands_once() -> None:
    patient = only_elements({"resourceType": "Patient", "gender": "other", "active": True}, ["gender"])
    assert patient == {"resourceType": "Patient", "gender": "other", "active": True, "meta": {"tag": [SUBSETTED]}}
    assert only_elements(patient, ["gender"]) == patient


@each_example()
def test_every_part_of_every_official_example_is_a_resource(corpus: Path, example: Path) -> None:
    resource = parse_json(example.read_bytes())
    for part in (*(summarised(resource, summary) for summary in get_args(Summary)), only_elements(resource, ["id"])):
        assert part.items() >= {"resourceType": resource["resourceType"]}.items()
        assert [issue for issue in check_resource(part) if issue.code in ("structure", "value", "required")] == []
