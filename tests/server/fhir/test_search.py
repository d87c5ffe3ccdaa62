"""Searches over HTTP on both databases: each kind of parameter, modifiers, chains, includes, order, pages."""

from __future__ import annotations

import json
from typing import Any
from urllib.parse import urlencode

import pytest

from server.fhir import operations

pytestmark = pytest.mark.rooms("sqlite", "postgres")

LOINC = "http://loinc.org"
UCUM = "http://unitsofmeasure.org"


def concept(code: str, system: str = LOINC, text: str = "") -> dict[str, Any]:
    return {"coding": [{"system": system, "code": code}], **({"text": text} if text else {})}


RESOURCES: list[dict[str, Any]] = [
    {
        "resourceType": "Patient",
        "id": "p1",
        "identifier": [
            {
                "system": "urn:oid:1.2.3",
                "value": "MRN1",
                "type": {"coding": [{"system": "http://terminology.hl7.org/CodeSystem/v2-0203", "code": "MR"}]},
            }
        ],
        "name": [{"family": "Müller-Łeón", "given": ["Ana", "Beatriz"]}],
        "gender": "female",
        "birthDate": "1970-03-30",
        "telecom": [{"system": "phone", "value": "555-1"}, {"system": "email", "value": "ana@example.org"}],
        "managingOrganization": {"reference": "Organization/north"},
    },
    {
        "resourceType": "Patient",
        "id": "p2",
        "name": [{"family": "Meier", "given": ["Bob"]}],
        "gender": "male",
        "birthDate": "1980",
        "deceasedBoolean": True,
    },
    {
        "resourceType": "Organization",
        "id": "north",
        "name": "North Clinic",
        "partOf": {"reference": "Organization/all"},
    },
    {"resourceType": "Organization", "id": "all", "name": "All 100% Clinics_"},
    {
        "resourceType": "DiagnosticReport",
        "id": "r1",
        "status": "final",
        "category": [concept("RAD", "http://terminology.hl7.org/CodeSystem/v2-0074")],
        "code": concept("24725-4", text="CT Head"),
        "subject": {"reference": "Patient/p1"},
        "effectiveDateTime": "2026-01-31T10:00:00+01:00",
        "result": [{"reference": "Observation/o1"}],
    },
    {
        "resourceType": "DiagnosticReport",
        "id": "r2",
        "status": "preliminary",
        "category": [concept("RAD", "http://terminology.hl7.org/CodeSystem/v2-0074")],
        "code": concept("36643-5"),
        "subject": {"reference": "Patient/p2", "identifier": {"system": "urn:oid:1.2.3", "value": "MRN2"}},
        "effectivePeriod": {"start": "2026-02-01", "end": "2026-02-03"},
    },
    {
        "resourceType": "Observation",
        "id": "o1",
        "status": "final",
        "code": concept("8867-4"),
        "subject": {"reference": "Patient/p1"},
        "valueQuantity": {"value": 72.50, "unit": "beats/min", "system": UCUM, "code": "/min"},
        "component": [{"code": concept("8480-6"), "valueQuantity": {"value": 120, "system": UCUM, "code": "mm[Hg]"}}],
    },
    {
        "resourceType": "Observation",
        "id": "o2",
        "status": "amended",
        "code": {"text": "a note"},
        "subject": {"reference": "Patient/p1"},
        "hasMember": [{"reference": "Observation/o1"}],
        "valueString": "Seen, \\ and | done",
    },
]


@pytest.fixture
def kept(client: Any) -> Any:
    entries = [
        {"resource": one, "request": {"method": "PUT", "url": f"{one['resourceType']}/{one['id']}"}}
        for one in RESOURCES
    ]
    answer = client.post("/fhir", json={"resourceType": "Bundle", "type": "transaction", "entry": entries})
    assert answer.status_code == 200, answer.text
    return client


def ids(client: Any, url: str) -> set[str]:
    answer = client.get(f"/fhir/{url}")
    assert answer.status_code == 200, answer.text
    return {entry["resource"]["id"] for entry in answer.json().get("entry", [])}


def found(client: Any, url: str) -> dict[str, set[str]]:
    modes: dict[str, set[str]] = {}
    for entry in client.get(f"/fhir/{url}").json().get("entry", []):
        modes.setdefault(entry["search"]["mode"], set()).add(entry["resource"].get("id", ""))
    return modes


SEARCHES = {
    # tokens
    "Patient?gender=female": "p1",
    "Patient?gender=female,male": "p1 p2",
    "Patient?gender:not=female": "p2",
    "Patient?gender=Female": "",
    "Patient?gender=http://hl7.org/fhir/administrative-gender|female": "p1",
    "Patient?gender=http://hl7.org/fhir/administrative-gender|": "p1 p2",
    "Patient?gender=http://hl7.org/fhir/sex|female": "",
    "Patient?gender=|female": "",
    "Patient?gender:not=http://hl7.org/fhir/administrative-gender|female": "p2",
    "DiagnosticReport?status=http://hl7.org/fhir/diagnostic-report-status|final": "r1",
    "DiagnosticReport?status=http://hl7.org/fhir/diagnostic-report-status|cancelled,preliminary": "r2",
    "Patient?identifier=MRN1": "p1",
    "Patient?identifier=urn:oid:1.2.3|MRN1": "p1",
    "Patient?identifier=urn:oid:1.2.3|": "p1",
    "Patient?identifier=|MRN1": "",
    "Patient?identifier=other|MRN1": "",
    "Patient?identifier:of-type=http://terminology.hl7.org/CodeSystem/v2-0203|MR|MRN1": "p1",
    "Patient?identifier:missing=true": "p2",
    "Patient?identifier:missing=false": "p1",
    "Patient?deceased=true": "p2",
    "Patient?deceased=false": "p1",
    "Patient?phone=555-1": "p1",
    "Patient?email=555-1": "",
    "Patient?telecom=ana@example.org": "p1",
    "DiagnosticReport?code:text=ct": "r1",
    "DiagnosticReport?code=http://loinc.org|24725-4,http://loinc.org|36643-5": "r1 r2",
    # strings
    "Patient?name=muller": "p1",
    "Patient?name=MEI": "p2",
    "Patient?family=le": "",
    "Patient?family:contains=er": "p1 p2",
    "Patient?family:exact=Meier": "p2",
    "Patient?family:exact=meier": "",
    "Patient?phonetic=Maier": "p2",
    "Patient?given=ana&given=beatriz": "p1",
    "Patient?given=ana&given=bob": "",
    "Organization?name:contains=100%25": "all",
    "Organization?name:contains=c_n": "",
    "Organization?name:contains=cs_": "all",
    r"Observation?value-string=seen\, \\ and \| d": "o2",
    # dates
    "Patient?birthdate=1970-03-30": "p1",
    "Patient?birthdate=1970": "p1",
    "Patient?birthdate=ne1970": "p2",
    "Patient?birthdate=lt1980": "p1",
    "Patient?birthdate=ge1980": "p2",
    "Patient?birthdate=1980-01": "",
    "DiagnosticReport?date=2026-01-31": "r1",
    "DiagnosticReport?date=2026-01-31T09:00:00Z": "r1",
    "DiagnosticReport?date=2026-01-31T10:00:00Z": "",
    "DiagnosticReport?date=ge2026-02-01": "r2",
    "DiagnosticReport?date=gt2026-02-02": "r2",
    "DiagnosticReport?date=sa2026-01-31": "r2",
    "DiagnosticReport?date=eb2026-02-01": "r1",
    "DiagnosticReport?date=2026-02": "r2",
    "DiagnosticReport?date=ap2026-01-31": "r1 r2",
    "DiagnosticReport?date=ge2026-01-01&date=lt2026-02-01": "r1",
    # numbers and quantities
    "Observation?value-quantity=72.5": "o1",
    "Observation?value-quantity=72.50||beats/min": "o1",
    "Observation?value-quantity=72.5|http://unitsofmeasure.org|/min": "o1",
    "Observation?value-quantity=72.5|http://unitsofmeasure.org|mg": "",
    "Observation?value-quantity=72.6": "",
    "Observation?value-quantity=gt72.4": "o1",
    "Observation?value-quantity=lt72.5": "",
    "Observation?component-value-quantity=1e2": "o1",
    "Observation?component-value-quantity=100": "",
    "Observation?component-value-quantity=ap110": "o1",
    "Observation?code-value-quantity=8867-4$gt70": "o1",
    "Observation?code-value-quantity=8867-4$gt80": "",
    # references
    "DiagnosticReport?subject=Patient/p1": "r1",
    "DiagnosticReport?patient=p1": "r1",
    "DiagnosticReport?subject:Patient=p2": "r2",
    "DiagnosticReport?subject=http://127.0.0.1:8780/fhir/Patient/p1": "r1",
    "DiagnosticReport?subject:identifier=urn:oid:1.2.3|MRN2": "r2",
    "DiagnosticReport?patient:identifier=MRN2": "r2",
    "DiagnosticReport?patient=p3": "",
    # chains
    "DiagnosticReport?patient.name=ana": "r1",
    "DiagnosticReport?subject:Patient.family:exact=Meier": "r2",
    "DiagnosticReport?patient.organization.name=north": "r1",
    "DiagnosticReport?patient.organization.partof.name=all": "r1",
    "DiagnosticReport?result.value-quantity=gt70": "r1",
    "DiagnosticReport?patient._id=p2": "r2",
    "Patient?_has:DiagnosticReport:patient:status=final": "p1",
    "Patient?_has:Observation:patient:_has:DiagnosticReport:result:status=final": "p1",
    "Patient?_has:DiagnosticReport:patient:status=cancelled": "",
    # of all
    "Patient?_id=p1,p2": "p1 p2",
    "Patient?_id=p1&gender=male": "",
    "Patient?_lastUpdated=gt2020": "p1 p2",
    "Patient?_lastUpdated=lt2020": "",
}


def test_each_kind_of_condition_finds_what_it_says(kept: Any) -> None:
    wrong = {}
    for url, wanted in SEARCHES.items():
        got = " ".join(sorted(ids(kept, url)))
        if got != wanted:
            wrong[url] = got
    assert wrong == {}


@pytest.mark.parametrize(
    "url",
    [
        "Patient?gender:in=x",
        "Patient?name:not=x",
        "Patient?birthdate=yesterday",
        "Patient?birthdate:exact=2020",
        "Patient?identifier=a|b|c",
        "Patient?identifier=|",
        "Patient?_sort=nothing",
        "Patient?_sort=name,gender,birthdate,family,given",
        "Patient?_count=-1",
        "Patient?_total=some",
        "Patient?_summary=all",
        "Patient?_cursor=abc",
        "Patient?_include=Patient:nothing",
        "Patient?_include=*",
        "Patient?_include:other=Patient:organization",
        "Patient?_include=Patient:organization:Device",
        "Patient?_has:Observation:patient=x",
        "Patient?_has:Observation:nothing:code=x",
        "Patient?_has:Observation:patient:nothing=x",
        "Patient?organization.nothing=x",
        "Patient?gender.code=x",
        "DiagnosticReport?subject:Task.status=x",
        "DiagnosticReport?subject:Patient=Device/1",
        "Observation?value-quantity=many",
        "Observation?value-quantity=1|2",
        "Observation?code-value-quantity=1",
        "Patient?gender:missing=maybe",
        "Patient?" + "organization.partof." * 9 + "name=x",
        "Patient?" + "&".join(["gender=male"] * 61),
        "Patient?_id=" + ",".join(map(str, range(501))),
    ],
)
def test_what_cannot_be_asked_is_refused_with_what_could_be(client: Any, url: str) -> None:
    answer = client.get(f"/fhir/{url}")
    assert answer.status_code == 400, answer.text
    assert len(answer.json()["issue"][0]["diagnostics"]) > 20


def test_an_unknown_parameter_is_told_of_and_left_out_of_self_unless_handling_is_strict(kept: Any) -> None:
    answer = kept.get("/fhir/Patient?gender=male&color=blue").json()
    assert answer["link"][0]["url"].endswith("/fhir/Patient?gender=male")
    assert [entry["search"]["mode"] for entry in answer["entry"]] == ["match", "outcome"]
    assert "color" in answer["entry"][1]["resource"]["issue"][0]["diagnostics"]
    strict = kept.get("/fhir/Patient?color=blue", headers={"prefer": "handling=strict"})
    assert strict.status_code == 400


def test_what_matches_refer_to_comes_with_them(kept: Any) -> None:
    url = "DiagnosticReport?_id=r1&_include=DiagnosticReport:patient&_include=DiagnosticReport:result"
    assert found(kept, url) == {"match": {"r1"}, "include": {"p1", "o1"}}
    url = "DiagnosticReport?_include=DiagnosticReport:patient&_include:iterate=Patient:organization"
    url += "&_include:iterate=Organization:partof"
    assert found(kept, url) == {"match": {"r1", "r2"}, "include": {"p1", "p2", "north", "all"}}
    assert found(kept, "DiagnosticReport?_id=r1&_include=DiagnosticReport:*")["include"] == {"p1", "o1"}
    assert found(kept, "DiagnosticReport?_id=r1&_include=DiagnosticReport:subject:Device") == {"match": {"r1"}}


def test_what_refers_to_matches_comes_with_them(kept: Any) -> None:
    url = "Patient?_id=p1&_revinclude=DiagnosticReport:patient&_revinclude=Observation:subject"
    assert found(kept, url) == {"match": {"p1"}, "include": {"r1", "o1", "o2"}}


def test_an_include_takes_nothing_from_the_count_of_matches(kept: Any) -> None:
    page = kept.get("/fhir/DiagnosticReport?_count=1&_include=DiagnosticReport:patient").json()
    assert [entry["search"]["mode"] for entry in page["entry"]] == ["match", "include"]


@pytest.mark.parametrize(
    ("order", "wanted"),
    [
        ("_sort=value-quantity", [f"n{number}" for number in range(12)]),
        ("_sort=_id", ["n0", "n1", "n10", "n11", "n2", "n3", "n4", "n5", "n6", "n7", "n8", "n9"]),
        ("_sort=date", ["n9", "n7", "n5", "n3", "n1", "n11", "n0", "n2", "n4", "n6", "n8", "n10"]),
        ("_sort=-date", ["n11", "n1", "n3", "n5", "n7", "n9", "n10", "n8", "n6", "n4", "n2", "n0"]),
        ("_sort=status,-_id", ["n9", "n6", "n3", "n0", "n8", "n7", "n5", "n4", "n2", "n11", "n10", "n1"]),
        ("", [f"n{number}" for number in range(11, -1, -1)]),
    ],
)
def test_pages_follow_each_other_in_the_order_asked_for_and_miss_nothing(
    client: Any, order: str, wanted: list[str]
) -> None:
    for number in range(12):
        dated = {"effectiveDateTime": f"20{30 - number}-05-05"} if number % 2 and number < 11 else {}
        late = {"effectiveDateTime": "2040"} if number == 11 else {}
        one = {
            "resourceType": "Observation",
            "id": f"n{number}",
            "status": "amended" if number % 3 == 0 else "final",
            "code": {"text": "x"},
            **dated,
            **late,
        }
        assert client.put(f"/fhir/Observation/n{number}", json=one).status_code == 201
    seen: list[str] = []
    url = f"/fhir/Observation?_count=5&{order}"
    while url:
        page = client.get(url).json()
        seen += [entry["resource"]["id"] for entry in page["entry"]]
        url = next((link["url"] for link in page["link"] if link["relation"] == "next"), "")
        if len(seen) == 5:  # what comes in between moves no later page
            between = {"resourceType": "Observation", "status": "final", "code": {"text": "x"}}
            client.post("/fhir/Observation", json=between)
    assert sorted(set(seen)) == sorted(seen)
    assert [one for one in seen if one in wanted] == wanted


def test_totals_are_given_where_they_are_cheap_or_asked_for(kept: Any) -> None:
    assert kept.get("/fhir/Patient").json()["total"] == 2
    assert "total" not in kept.get("/fhir/Patient?_count=1").json()
    assert kept.get("/fhir/Patient?_count=1&_total=accurate").json()["total"] == 2
    only = kept.get("/fhir/Patient?_summary=count").json()
    assert (only["total"], "entry" in only) == (2, False)
    assert kept.get("/fhir/Patient?_count=0").json()["total"] == 2
    assert "total" not in kept.get("/fhir/Patient?_total=none").json()


def test_a_search_is_posted_as_a_form(kept: Any) -> None:
    form = {"content-type": "application/x-www-form-urlencoded"}
    answer = kept.post("/fhir/Patient/_search?gender=male", content=urlencode({"name": "meier"}), headers=form)
    assert [entry["resource"]["id"] for entry in answer.json()["entry"]] == ["p2"]
    assert kept.post("/fhir/Patient/_search", content="{}", headers={"content-type": "text/plain"}).status_code == 415
    assert kept.post("/fhir/Patient/_search").json()["total"] == 2


def test_a_changed_resource_is_found_by_what_it_says_now(kept: Any) -> None:
    patient = json.loads(json.dumps(RESOURCES[1])) | {"gender": "other"}
    assert kept.put("/fhir/Patient/p2", json=patient).status_code == 200
    assert ids(kept, "Patient?gender=male") == set()
    assert ids(kept, "Patient?gender=other") == {"p2"}
    kept.delete("/fhir/Patient/p2")
    assert ids(kept, "Patient?gender=other") == set()
    assert ids(kept, "Patient") == {"p1"}


def test_nothing_of_another_facility_is_found_or_counted_or_chained_to(kept: Any) -> None:
    there = "/fhir/f/north"
    mine = {"resourceType": "DiagnosticReport", "id": "r9", "status": "final", "code": {"text": "x"}}
    mine["subject"] = {"reference": "Patient/p1"}
    assert kept.put(f"{there}/DiagnosticReport/r9", json=mine).status_code == 201
    assert kept.get(f"{there}/Patient?_summary=count").json()["total"] == 0
    for url in (
        "DiagnosticReport?patient.name=ana",
        "DiagnosticReport?result.status=final",
        "Patient?_has:DiagnosticReport:patient:status=final",
    ):
        assert "entry" not in kept.get(f"{there}/{url}").json()
    page = kept.get(f"{there}/DiagnosticReport?_include=DiagnosticReport:patient").json()
    assert [entry["resource"]["id"] for entry in page["entry"]] == ["r9"]
    page = kept.get(f"{there}/DiagnosticReport?_revinclude=Observation:subject&_id=r9").json()
    assert len(page["entry"]) == 1


def test_a_condition_decides_what_is_made_changed_and_deleted(kept: Any) -> None:
    patient = {"resourceType": "Patient", "identifier": [{"system": "urn:x", "value": "7"}]}
    first = kept.post("/fhir/Patient", json=patient, headers={"if-none-exist": "identifier=urn:x|7"})
    assert first.status_code == 201
    again = kept.post("/fhir/Patient", json=patient, headers={"if-none-exist": "identifier=urn:x|7"})
    assert (again.status_code, again.json()["id"]) == (200, first.json()["id"])
    assert kept.post("/fhir/Patient?identifier=urn:x|7", json=patient).status_code == 200
    many = kept.post("/fhir/Patient", json=patient, headers={"if-none-exist": "gender=male,female"})
    assert many.status_code == 412
    assert kept.post("/fhir/Patient", json=patient, headers={"if-none-exist": "color=blue"}).status_code == 400
    changed = kept.put("/fhir/Patient?identifier=urn:x|7", json={**patient, "gender": "other"})
    assert (changed.status_code, changed.json()["meta"]["versionId"]) == (200, "2")
    other = kept.put("/fhir/Patient?identifier=urn:x|7", json={**patient, "id": "another"})
    assert other.status_code == 400
    made = kept.put("/fhir/Patient?identifier=urn:x|8", json={**patient, "identifier": [{"value": "8"}]})
    assert made.status_code == 201
    assert kept.delete("/fhir/Patient?gender=male,female").status_code == 412
    assert kept.delete("/fhir/Patient").status_code == 400
    assert kept.delete("/fhir/Patient?identifier=urn:x|7").status_code == 204
    assert kept.delete("/fhir/Patient?identifier=urn:x|7").status_code == 204


def test_a_transaction_refers_by_conditions(kept: Any) -> None:
    report = {
        "resourceType": "DiagnosticReport",
        "status": "final",
        "code": {"text": "x"},
        "subject": {"reference": "Patient?identifier=urn:oid:1.2.3|MRN1"},
    }
    entry = {"resource": report, "request": {"method": "POST", "url": "DiagnosticReport"}}
    answer = kept.post("/fhir", json={"resourceType": "Bundle", "type": "transaction", "entry": [entry]})
    made = answer.json()["entry"][0]["response"]["location"].split("8780", 1)[1]
    assert kept.get(made).json()["subject"]["reference"] == "Patient/p1"
    report["subject"] = {"reference": "Patient?identifier=nobody"}
    refused = kept.post("/fhir", json={"resourceType": "Bundle", "type": "transaction", "entry": [entry]})
    assert refused.status_code == 412


def test_all_about_a_patient_comes_together(kept: Any) -> None:
    everything = kept.get("/fhir/Patient/p1/$everything").json()
    assert {entry["resource"]["id"] for entry in everything["entry"]} == {"p1", "r1", "o1", "o2"}
    some = kept.get("/fhir/Patient/p1/$everything?_type=Observation").json()
    assert {entry["resource"]["id"] for entry in some["entry"]} == {"p1", "o1", "o2"}


def test_where_there_is_too_much_about_a_patient_the_rest_is_told_of(
    kept: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(operations, "_MOST", 1)
    told = kept.get("/fhir/Patient/p1/$everything").json()
    assert (told["total"], len(told["entry"])) == (3, 4)
    [issue] = told["entry"][-1]["resource"]["issue"]
    assert "Observation?patient=p1" in issue["diagnostics"]
