"""Searches of the directory and of the patients: over their own tables, and over what clients have written."""

from __future__ import annotations

from typing import Any

import httpx
import pytest

from readingroom.model import Scope
from server.fhir.query import parse_query
from server.fhir.search import run
from server.room import Room
from storage.catalog.directory import write_facility, write_reader
from storage.catalog.engine import begin_write
from storage.catalog.ids import patient_key
from tests import fhir
from tests.catalog import fill, header
from tests.directory import facility, reader

pytestmark = pytest.mark.rooms("sqlite", "postgres")

ADA, BEN = patient_key("NORTH", "P1"), patient_key("local", "P2")

SEARCHES = {
    "Organization?name=mercy": "mercy mercy-.-east",
    "Organization?name:exact=Mercy": "mercy",
    "Organization?name:contains=E": "mercy mercy-.-east",
    "Organization?identifier=mercy_east": "mercy-.-east",
    "Organization?identifier=http://hl7.org/fhir/sid/us-npi|1234567893": "mercy",
    "Organization?identifier=http://hl7.org/fhir/sid/us-npi|": "mercy",
    "Organization?partof=group": "mercy mercy-.-east",
    "Organization?partof=Organization/mercy-.-east": "",
    "Organization?partof:Organization.name=group": "mercy mercy-.-east",
    "Organization?partof:missing=true": "group lab local",
    "Organization?active=false": "",
    "Organization?type=hospital": "mercy mercy-.-east",
    "Organization?address-state=ZZ": "",
    "Organization?address-city=austin": "mercy",
    "Organization?_id=mercy-.-east": "mercy-.-east",
    "Organization?name=laboratory": "lab",
    "Organization?_has:Location:organization:name=mercy": "mercy mercy-.-east",
    "Location?organization=Organization/mercy": "mercy",
    "Location?status=active&name=mercy": "mercy mercy-.-east",
    "Endpoint?organization=mercy-.-east": "mercy-.-east",
    "Endpoint?connection-type=dicom-wado-rs&organization:Organization.name=mercy": "mercy mercy-.-east",
    "Practitioner?name=ada": "ada",
    "Practitioner?identifier=https://readingroom.example/fhir/CodeSystem/reader|ada": "ada",
    "Practitioner?email=ada@example.org": "ada",
    "PractitionerRole?practitioner=Practitioner/ada": "ada.mercy",
    "PractitionerRole?specialty=http://nucc.org/provider-taxonomy|2085N0700X": "ada.mercy",
    "PractitionerRole?organization=mercy&active=true": "ada.mercy",
    "PractitionerRole?practitioner.name=ada": "ada.mercy",
    "PractitionerRole?date=ge2025-06-01": "ada.mercy",
    "PractitionerRole?date=lt2024": "",
    "Schedule?actor=Practitioner/ada": "ada",
    "Patient?identifier=P1": ADA,
    "Patient?identifier=urn:x-readingroom:issuer:NORTH|P1": ADA,
    "Patient?identifier=urn:x-readingroom:issuer:NORTH|": ADA,
    "Patient?identifier=urn:x-readingroom:issuer:SOUTH|P1": "",
    "Patient?name=doe": ADA,
    "Patient?family=DOE&given=jane": ADA,
    "Patient?birthdate=1970-01-31": ADA,
    "Patient?birthdate=1970": ADA,
    "Patient?birthdate=gt1970-01-31": BEN,
    "Patient?birthdate=ge1970-01-31&gender=female": ADA,
    "Patient?gender=male": BEN,
    "Patient?active=true": "written",
    "Patient?_id=" + ADA: ADA,
    "ImagingStudy?patient.identifier=P1&_elements=id": "1",
    "ImagingStudy?patient:Patient.name=doe": "1",
    "ImagingStudy?endpoint:Endpoint.name=mercy": "",
}


@pytest.fixture
def kept(client: httpx.Client, room: Room) -> httpx.Client:
    """Two hospitals of an operator, a reader, two patients with studies, and what clients have written."""
    with begin_write(room.engine) as connection:
        write_facility(connection, facility("group", kind="teleradiology", name="Group"), room.clock.now())
        told = {"city": "Austin", "npi": "1234567893", "parent": "group"}
        write_facility(connection, facility("mercy", **told), room.clock.now())
        write_facility(connection, facility("mercy_east", name="Mercy East", parent="group"), room.clock.now())
        contact = {"name": "Ada", "role": "reader", "channel": "smtp", "address": "ada@example.org"}
        credentials = [{"facility": "mercy", "from": "2025-01-01"}]
        entry = reader("ada", credentials=credentials, subspecialties=["2085N0700X"], contacts=[contact])
        write_reader(connection, entry)
    one = {"PatientID": "P1", "IssuerOfPatientID": "NORTH", "PatientName": "Doe^Jane", "PatientSex": "F"}
    other = {"PatientID": "P2", "PatientName": "Roe^Ben", "PatientSex": "M", "PatientBirthDate": "19800101"}
    fill(room.engine, header(**one, PatientBirthDate="19700131"), header(**other))
    for resource in (
        {"resourceType": "Organization", "id": "lab", "name": "Laboratory"},
        {"resourceType": "Patient", "id": "written", "active": True, "name": [{"family": "Else"}]},
    ):
        url = f"/fhir/{resource['resourceType']}/{resource['id']}"
        assert client.put(url, json=resource).status_code == 201
    return client


def ids_of(client: httpx.Client, query: str) -> list[str]:
    answer = client.get(f"/fhir/{query}")
    assert answer.status_code == 200, answer.text
    return sorted(one["resource"]["id"] for one in answer.json().get("entry", ()) if one["search"]["mode"] == "match")


def test_each_search_finds_what_it_should(kept: httpx.Client) -> None:
    wrong = {}
    for query, wanted in SEARCHES.items():
        found = ids_of(kept, query)
        if (len(found) != int(wanted)) if wanted.isdecimal() else (found != sorted(wanted.split())):
            wrong[query] = found
    assert wrong == {}


def test_what_a_search_finds_is_whole_and_comes_with_what_it_leads_to(kept: httpx.Client) -> None:
    found = kept.get("/fhir/PractitionerRole?_include=PractitionerRole:*&_include:iterate=Organization:partof").json()
    assert {f"{one['resource']['resourceType']}/{one['resource']['id']}" for one in found["entry"]} == {
        "PractitionerRole/ada.mercy",
        "Practitioner/ada",
        "Organization/mercy",
        "Organization/group",
        "Location/mercy",
        "Endpoint/mercy",
    }
    back = kept.get("/fhir/Organization?_id=mercy&_revinclude=Endpoint:organization").json()
    assert [one["resource"]["resourceType"] for one in back["entry"]] == ["Organization", "Endpoint"]


def test_pages_go_on_from_what_is_kept_to_the_directory(kept: httpx.Client) -> None:
    seen: list[str] = []
    url: str | None = "/fhir/Organization?_count=2&_sort=name"
    while url:
        page = kept.get(url).json()
        seen += [one["resource"]["name"] for one in page["entry"]]
        url = next((link["url"] for link in page["link"] if link["relation"] == "next"), None)
    assert seen == ["Group", "Laboratory", "local", "Mercy", "Mercy East"]


def test_what_a_client_has_written_is_found_once(kept: httpx.Client) -> None:
    organization = kept.get("/fhir/Organization/mercy").json()
    assert kept.put("/fhir/Organization/mercy", json={**organization, "alias": ["West Side"]}).status_code == 200
    assert ids_of(kept, "Organization?name=mercy") == ["mercy", "mercy-.-east"]
    assert ids_of(kept, "Organization?name=west") == ["mercy"]
    patient = kept.get(f"/fhir/Patient/{ADA}").json()
    assert kept.put(f"/fhir/Patient/{ADA}", json={**patient, "name": [{"family": "Doe-Roe"}]}).status_code == 200
    assert ids_of(kept, "Patient?name=doe-roe") == [ADA]
    assert ids_of(kept, "Patient?given=jane") == []


def test_nothing_is_found_out_of_scope(kept: httpx.Client, room: Room) -> None:
    def found(type: str, query: str, *scope: str) -> Any:
        with fhir.looking(room, *scope) as session:
            assert session.scope == Scope(facilities=frozenset(scope))
            page = run(session, parse_query(type, [tuple(query.split("="))], root=session.root, is_strict=True))
        return [id for _, id in page.matches]

    assert found("Practitioner", "name=ada", "mercy") == ["ada"]
    assert found("Practitioner", "name=ada", "mercy_east") == []
    assert found("Organization", "name=m", "mercy_east") == ["mercy-.-east"]
    assert found("PractitionerRole", "practitioner=ada", "mercy_east") == []
    assert found("Patient", "identifier=P1", "local") == [ADA]
    assert found("Patient", "identifier=P1", "mercy") == []
