"""A Report Repository of IHE Interactive Multimedia Report: RAD-141 stores, RAD-143 finds, over GET and POST."""

from __future__ import annotations

import json
from base64 import b64encode
from hashlib import sha1
from typing import Any
from urllib.parse import urlencode

import pytest

from server.fhir.parsing import parse_json
from server.fhir.xml import from_xml, to_xml
from tests.stow import store
from tests.synthetic import ct_series, part10

HTML = b"<html><body><p>No bleeding is seen.</p></body></html>"
STUDY = "2.25.7001"
PATIENT, ORDER, READER, GROUP, IMAGES, FINDING, REPORT = (
    f"urn:uuid:0000000{n}-aaaa-4aaa-8aaa-aaaaaaaaaaaa" for n in range(7)
)


def bundle() -> dict[str, Any]:
    """What a Report Creator sends when a report has been signed (RAD-141, 2:4.141.4.1.2)."""
    patient = {"reference": PATIENT}
    resources: list[dict[str, Any]] = [
        {
            "resourceType": "DiagnosticReport",
            "status": "final",
            "category": [{"coding": [{"system": "http://loinc.org", "code": "LP29684-5"}]}],
            "code": {"coding": [{"system": "http://loinc.org", "code": "24725-4"}]},
            "subject": patient,
            "basedOn": [{"reference": ORDER}],
            "effectiveDateTime": "2026-01-31T10:00:00Z",
            "issued": "2026-01-31T11:00:00Z",
            "performer": [{"reference": GROUP}],
            "resultsInterpreter": [{"reference": READER}],
            "imagingStudy": [{"reference": IMAGES}],
            "result": [{"reference": FINDING}],
            "presentedForm": [
                {
                    "contentType": "text/html",
                    "data": b64encode(HTML).decode(),
                    "size": len(HTML),
                    "hash": b64encode(sha1(HTML, usedforsecurity=False).digest()).decode(),
                }
            ],
        },
        {
            "resourceType": "Patient",
            "identifier": [{"system": "urn:oid:1.2.3", "value": "MRN7"}],
            "name": [{"family": "Stone", "given": ["Rita"]}],
        },
        {
            "resourceType": "ServiceRequest",
            "identifier": [
                {
                    "type": {"coding": [{"system": "http://terminology.hl7.org/CodeSystem/v2-0203", "code": "ACSN"}]},
                    "system": "urn:oid:1.2.3.4",
                    "value": "ACC7",
                }
            ],
            "status": "completed",
            "intent": "order",
            "subject": patient,
        },
        {"resourceType": "Organization", "name": "Night Readers"},
        {"resourceType": "Practitioner", "name": [{"family": "Reader"}]},
        {
            "resourceType": "ImagingStudy",
            "identifier": [{"system": "urn:dicom:uid", "value": f"urn:oid:{STUDY}"}],
            "status": "available",
            "subject": patient,
        },
        {
            "resourceType": "Observation",
            "status": "final",
            "code": {"coding": [{"system": "http://loinc.org", "code": "59776-5"}]},
            "subject": patient,
            "valueString": "No bleeding is seen.",
        },
    ]
    urls = (REPORT, PATIENT, ORDER, GROUP, READER, IMAGES, FINDING)
    return {
        "resourceType": "Bundle",
        "type": "transaction",
        "entry": [
            {"fullUrl": url, "resource": one, "request": {"method": "POST", "url": one["resourceType"]}}
            for url, one in zip(urls, resources, strict=True)
        ],
    }


@pytest.fixture
def images(client: Any) -> Any:
    """The archive with the images that are reported on."""
    series = ct_series(study_uid=STUDY, slices=2)
    store(client, *(part10(one) for one in series))
    return client


def location_of(answer: Any, type: str) -> str:
    [found] = [
        entry["response"]["location"].split("/fhir/")[1].split("/_history")[0]
        for entry in answer["entry"]
        if f"/{type}/" in entry["response"]["location"]
    ]
    return found


@pytest.mark.parametrize("form", ["json", "xml"])
def test_a_report_is_stored_with_all_that_belongs_to_it_and_found_again(images: Any, form: str) -> None:
    sent = json.dumps(bundle()).encode()
    body = sent if form == "json" else to_xml(parse_json(sent))
    kind = f"application/fhir+{form}"
    answer = images.post("/fhir", content=body, headers={"content-type": kind, "accept": kind})
    assert answer.status_code == 200, answer.text
    told = answer.json() if form == "json" else from_xml(answer.content)
    study = images.get(f"/fhir/ImagingStudy?identifier=urn:dicom:uid|urn:oid:{STUDY}").json()["entry"][0]["resource"]
    assert location_of(told, "ImagingStudy") == f"ImagingStudy/{study['id']}"
    report = location_of(told, "DiagnosticReport")
    read = images.get(f"/fhir/{report}").json()
    assert read["imagingStudy"] == [{"reference": f"ImagingStudy/{study['id']}"}]
    assert read["presentedForm"] == bundle()["entry"][0]["resource"]["presentedForm"]
    patient, order = location_of(told, "Patient"), location_of(told, "ServiceRequest")
    for query in (
        {"patient": patient},
        {"patient.identifier": "urn:oid:1.2.3|MRN7"},
        {"patient.name.given": "rita", "patient.name.family": "stone"},
        {"basedOn": order},
        {"basedOn.identifier": "ACC7"},
        {"imagingStudy": f"ImagingStudy/{study['id']}"},
        {"imagingStudy.identifier": f"urn:dicom:uid|urn:oid:{STUDY}"},
        {"imagingStudy.modality": "CT"},
        {"imagingStudy.started": f"ge{study['started'][:4]}", "status": "final"},
        {"status": "final", "_sort": "-issued", "_count": "1", "_include": "DiagnosticReport:patient"},
    ):
        got = images.get("/fhir/DiagnosticReport", params=query).json()
        form_sent = {"content-type": "application/x-www-form-urlencoded"}
        posted = images.post("/fhir/DiagnosticReport/_search", content=urlencode(query), headers=form_sent).json()
        for found in (got, posted):
            matches = [entry for entry in found["entry"] if entry["search"]["mode"] == "match"]
            assert [f"DiagnosticReport/{entry['resource']['id']}" for entry in matches] == [report], query
            assert found["total"] == 1
            assert all(entry["fullUrl"] for entry in found["entry"])


def test_a_report_on_images_that_are_not_here_is_refused_whole(client: Any) -> None:
    answer = client.post("/fhir", json=bundle())
    assert answer.status_code == 405
    assert answer.json()["issue"][0]["expression"] == ["Bundle.entry[5]"]
    assert client.get("/fhir/DiagnosticReport").json()["total"] == 0


def test_a_report_that_claims_the_profile_and_lacks_its_form_is_refused(images: Any) -> None:
    sent = bundle()
    [profile] = [
        one["url"]
        for one in (
            entry["resource"] for entry in images.get("/fhir/StructureDefinition?type=DiagnosticReport").json()["entry"]
        )
    ]
    report = sent["entry"][0]["resource"]
    report["meta"] = {"profile": [profile]}
    assert images.post("/fhir", json=sent).status_code == 200
    del report["presentedForm"]
    refused = images.post("/fhir", json=sent)
    assert refused.status_code == 422
    assert "presentedForm" in json.dumps(refused.json())
