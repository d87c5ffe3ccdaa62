"""A report as FHIR has it says what was signed, and is taken by whoever checks it."""

from __future__ import annotations

from base64 import b64decode
from dataclasses import replace
from datetime import UTC, datetime
from hashlib import sha1
from typing import Any

import orjson
import pytest

from readingroom.model import DELIVERED, Addendum, Code, CriticalResult, Passage, Report, Section, Signature
from server.fhir.profiles import profile_issues
from server.fhir.validation import check_resource
from server.reports import fhirjson
from server.reports.fhirjson import Refs, attachment, diagnostic_report
from storage.fhirvalues import profile
from tests.reports import a_report

REFS = Refs(
    subject={"reference": "Patient/p1"},
    organization={"reference": "Organization/local"},
    readers={"ada": {"reference": "Practitioner/ada"}},
    study={"reference": "ImagingStudy/s1"},
)


def checked(resource: dict[str, Any]) -> dict[str, Any]:
    """The resource, which R4 takes."""
    read = orjson.loads(orjson.dumps(resource))
    assert check_resource(read) == []
    return resource


def made(refs: Refs = REFS, forms: Any = (), **changes: Any) -> dict[str, Any]:
    return checked(diagnostic_report(a_report(**changes), refs, forms=forms))


def added(text: str, number: int = 2) -> Addendum:
    grace = Signature(reader="grace", name="Hopper^Grace", role="attending", at=datetime(2026, 11, 25, tzinfo=UTC))
    return Addendum(number=number, passages=(Passage(text=text),), signatures=(grace,))


def test_it_says_what_was_signed() -> None:
    report = made()
    assert report["conclusion"] == "Normal CT of the head."
    assert report["status"] == "final"
    assert report["code"]["coding"][0]["code"] == "18748-4"
    assert report["code"]["text"] == "CT head without contrast"
    assert report["issued"] == "2026-11-24T12:30:00.000Z"
    assert report["effectiveDateTime"] == "2026-11-24T10:15:00-06:00"
    assert report["resultsInterpreter"] == [{"reference": "Practitioner/ada"}]
    assert report["performer"] == [{"reference": "Organization/local"}]
    assert report["imagingStudy"] == [{"reference": "ImagingStudy/s1"}]
    assert [one["value"] for one in report["identifier"]] == ["0" * 31 + "1", "A1"]
    assert "There is no haemorrhage." in report["text"]["div"]


@pytest.mark.parametrize("status", DELIVERED)
def test_its_status_is_that_of_the_version(status: Any) -> None:
    assert made(status=status)["status"] == status


def test_what_nobody_has_signed_is_registered() -> None:
    report = made(status="registered", number=0, signatures=(), signed_at=None)
    assert report["status"] == "registered"
    assert "issued" not in report
    assert "resultsInterpreter" not in report


def test_what_was_added_stands_behind_the_impression_and_its_signer_among_the_interpreters() -> None:
    report = made(status="appended", number=3, addenda=(added("Also a cyst.", 3), added("No fracture.")))
    assert report["conclusion"] == "Normal CT of the head.\n\nAddendum 1: No fracture.\n\nAddendum 2: Also a cyst."
    assert report["resultsInterpreter"] == [
        {"reference": "Practitioner/ada"},
        {
            "type": "Practitioner",
            "identifier": {"system": "https://readingroom.example/fhir/CodeSystem/reader", "value": "grace"},
            "display": "Hopper^Grace",
        },
    ]


def test_a_critical_result_has_its_code_and_its_category() -> None:
    bleeding = Code(value="50960005", system="SCT", meaning="Haemorrhage")
    local = Code(value="X1", system="99LOCAL", meaning="Something local")
    report = made(
        codes=(bleeding, local),
        critical_results=(CriticalResult(category=1, text="Blood in the head.", code=bleeding),),
    )
    sct = {"system": "http://snomed.info/sct", "code": "50960005", "display": "Haemorrhage"}
    assert report["conclusionCode"] == [
        {"coding": [sct], "text": "Haemorrhage"},
        {"text": "Something local"},
        {"coding": [{"system": "http://www.radlex.org", "code": "RID49480"}], "text": "Blood in the head."},
    ]


def test_what_is_not_known_here_is_named_by_its_identifier() -> None:
    report = made(Refs(subject={"reference": "Patient/p1"}, organization={"display": "Local Hospital"}))
    assert report["imagingStudy"][0]["identifier"] == {"system": "urn:dicom:uid", "value": "urn:oid:1.2.3.4"}
    assert report["basedOn"][0]["identifier"]["value"] == "A1"
    bare = made(study_uid=None, accession_number=None, study_date=None, study_time=None)
    assert "basedOn" not in bare
    assert "effectiveDateTime" not in bare


def test_a_form_has_the_size_and_the_hash_of_its_bytes_so_that_it_is_a_report_of_imr() -> None:
    page = b"<html><body>Normal.</body></html>"
    form = attachment("text/html; charset=utf-8", page, title="Report", at=datetime(2026, 11, 24, tzinfo=UTC))
    assert b64decode(form["data"]) == page
    assert form["size"] == len(page)
    assert b64decode(form["hash"]) == sha1(page, usedforsecurity=False).digest()
    report = made(forms=[form])
    assert profile_issues({**report, "meta": {"profile": [profile("imr-report")]}}) == []


def test_what_no_string_of_fhir_can_hold_is_replaced() -> None:
    text = "a\x00b\ud800c <b>&amp;</b>"
    section = Section(name="impression", title="Imp\x01ression", passages=(Passage(text=text),))
    report = made(sections=(section,), procedure="CT\x02\n head")
    assert report["conclusion"] == "a�b�c <b>&amp;</b>"
    assert report["code"]["text"] == "CT� head"


def test_what_it_refers_to_can_be_sent_along() -> None:
    report = a_report(patient_name="Yamada^Tarou=山田^太郎=やまだ^たろう")
    subject = {"reference": "urn:uuid:00000001-aaaa-4aaa-8aaa-aaaaaaaaaaaa"}
    patient = checked(fhirjson.patient(report))
    assert patient["identifier"][0]["system"] == "urn:x-readingroom:issuer:local"
    assert [one["family"] for one in patient["name"]] == ["Yamada", "山田", "やまだ"]
    assert checked(fhirjson.patient(report, system="urn:oid:1.2.3"))["identifier"][0]["system"] == "urn:oid:1.2.3"
    nameless = checked(fhirjson.patient(replace(report, patient_id=None, patient_name="^^", birth_date="x", sex=None)))
    assert nameless["identifier"][0]["value"] == report.id
    assert "name" not in nameless
    study = fhirjson.imaging_study(report, subject)
    order = fhirjson.service_request(report, subject, system="urn:oid:1.2.3.4")
    assert study is not None
    assert order is not None
    assert checked(study)["modality"][0]["code"] == "CT"
    assert checked(order)["identifier"][0]["value"] == "A1"
    assert fhirjson.imaging_study(replace(report, study_uid=None), subject) is None
    assert fhirjson.service_request(replace(report, accession_number=None), subject, system="urn:x") is None
    checked(fhirjson.organization(report))
    (ada,) = report.signatures
    assert checked(fhirjson.practitioner(ada))["name"] == [{"text": "Ada Byron, MD"}]
    known = checked(fhirjson.practitioner(replace(ada, npi="1234567893", name="Byron^Ada")))
    assert known["identifier"] == [{"system": "http://hl7.org/fhir/sid/us-npi", "value": "1234567893"}]
    assert known["name"][0]["family"] == "Byron"


def test_a_report_of_which_little_is_known_can_be_told() -> None:
    report = checked(diagnostic_report(Report(id="r", facility="f", status="preliminary", number=1), REFS))
    assert report["status"] == "preliminary"
    assert "conclusion" not in report
