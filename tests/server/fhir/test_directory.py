"""The directory as FHIR: right resources, in scope, and kept apart from what clients say of them."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from readingroom.errors import Conflict
from server.fhir.directory_types import ENDPOINT, LOCATION, ORGANIZATION, PRACTITIONER, PRACTITIONER_ROLE, SCHEDULE
from server.fhir.mixed import MixedType
from server.fhir.outcome import BrokenRule
from server.fhir.shown import Shown
from server.room import Room
from storage.catalog.directory import deactivate, write_facility, write_reader
from storage.catalog.engine import begin_write
from tests import fhir
from tests.corpus import FOLDER
from tests.directory import facility, reader

NOW = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
TYPES: tuple[MixedType, ...] = (ORGANIZATION, LOCATION, ENDPOINT, PRACTITIONER, PRACTITIONER_ROLE, SCHEDULE)
EXAMPLES = [
    (type, path)
    for type in (ORGANIZATION, LOCATION, PRACTITIONER, PRACTITIONER_ROLE)
    for path in sorted(FOLDER.glob(f"fhir/R4/{type.name}-*.json"))
]


@pytest.fixture(autouse=True)
def directory(room: Room) -> None:
    """A hospital of an operator, a clinic that is none of theirs, and a reader for the first."""
    desk = {"name": "Front desk", "role": "desk", "channel": "voice", "address": "+15125550100"}
    told = {"address": ["1 Main St"], "city": "Austin", "postal_code": "78701", "npi": "1234567893"}
    with begin_write(room.engine) as connection:
        write_facility(connection, facility("group", kind="teleradiology"), NOW)
        write_facility(connection, facility("mercy", parent="group", contacts=[desk], **told), NOW)
        write_facility(connection, facility("north_clinic", kind="clinic"), NOW)
        entry = reader(
            "ada",
            name="Ada Lovelace",
            npi="1234567893",
            subspecialties=["2085N0700X", "msk"],
            licences=[{"state": "US-TX", "number": "T1", "from": "2020-01-01", "to": "2027-12-31"}],
            credentials=[{"facility": "mercy", "from": "2025-01-01"}],
            shifts=[{"days": "mon-fri", "starts": "20:00", "ends": "06:00"}],
            leave=[{"from": "2026-12-24", "to": "2026-12-26"}],
            contacts=[{"name": "Ada", "role": "reader", "channel": "smtp", "address": "ada@example.org"}],
        )
        write_reader(connection, entry, NOW)


def shown(room: Room, type: MixedType, id: str, *scope: str) -> dict[str, Any]:
    found = fhir.read(room, type, id, *scope)
    assert found is not None
    resource = fhir.check(found)
    assert resource.pop("meta") == {"versionId": "1", "lastUpdated": "2026-01-02T03:04:05.000Z"}
    return resource


def test_a_facility_is_an_organization(room: Room) -> None:
    assert shown(room, ORGANIZATION, "mercy") == {
        "resourceType": "Organization",
        "id": "mercy",
        "identifier": [
            {"system": "https://readingroom.example/fhir/CodeSystem/facility", "value": "mercy"},
            {"system": "http://hl7.org/fhir/sid/us-npi", "value": "1234567893"},
        ],
        "active": True,
        "type": [
            {
                "coding": [
                    {"system": "http://terminology.hl7.org/CodeSystem/organization-type", "code": "prov"},
                    {"system": "https://readingroom.example/fhir/CodeSystem/facility-kind", "code": "hospital"},
                ]
            }
        ],
        "name": "Mercy",
        "address": [{"line": ["1 Main St"], "city": "Austin", "state": "TX", "postalCode": "78701", "country": "US"}],
        "partOf": {"reference": "Organization/group"},
        "contact": [
            {
                "purpose": {
                    "coding": [{"system": "https://readingroom.example/fhir/CodeSystem/contact-role", "code": "desk"}]
                },
                "name": {"text": "Front desk"},
                "telecom": [{"system": "phone", "value": "+15125550100"}],
            }
        ],
        "endpoint": [{"reference": "Endpoint/mercy"}],
    }


def test_a_facility_is_a_location_in_its_zone(room: Room) -> None:
    found = shown(room, LOCATION, "mercy")
    assert found["extension"] == [
        {"url": "http://hl7.org/fhir/StructureDefinition/timezone", "valueCode": "America/Chicago"}
    ]
    assert found["type"][0]["coding"][0]["code"] == "HOSP"
    assert (found["managingOrganization"], found["partOf"]) == (
        {"reference": "Organization/mercy"},
        {"reference": "Location/group"},
    )


def test_an_endpoint_leads_to_the_images_of_the_facility(room: Room) -> None:
    found = shown(room, ENDPOINT, "mercy")
    assert found["address"] == "http://here/dicomweb/f/mercy"
    assert found["connectionType"]["code"] == "dicom-wado-rs"
    assert found["payloadType"][0]["coding"] == [
        {"system": "http://dicom.nema.org/resources/ontology/DCM", "code": "113014", "display": "DICOM Study"}
    ]


def test_a_reader_is_a_practitioner_with_licences(room: Room) -> None:
    found = shown(room, PRACTITIONER, "ada")
    assert found["name"] == [{"text": "Ada Lovelace"}]
    assert found["telecom"] == [{"system": "email", "value": "ada@example.org"}]
    [licence] = found["qualification"]
    assert licence["identifier"][0]["value"] == "T1"
    assert licence["period"] == {"start": "2020-01-01", "end": "2027-12-31"}
    assert licence["issuer"]["identifier"] == {"system": "urn:iso:std:iso:3166:-2", "value": "US-TX"}


def test_privileges_are_a_role_with_specialties_and_roster(room: Room) -> None:
    found = shown(room, PRACTITIONER_ROLE, "ada.mercy")
    assert found["active"] is True
    assert found["period"] == {"start": "2025-01-01"}
    assert found["practitioner"] == {"reference": "Practitioner/ada", "display": "Ada Lovelace"}
    assert [one["coding"][0]["code"] for one in found["specialty"]] == ["2085N0700X", "msk"]
    assert found["availableTime"] == [
        {
            "daysOfWeek": ["mon", "tue", "wed", "thu", "fri"],
            "availableStartTime": "20:00:00",
            "availableEndTime": "06:00:00",
        }
    ]
    assert found["notAvailable"][0]["during"] == {
        "start": "2026-12-24T00:00:00-06:00",
        "end": "2026-12-27T00:00:00-06:00",
    }


def test_a_role_whose_names_are_long_has_an_id_all_the_same(room: Room) -> None:
    long = "x" * 60
    with begin_write(room.engine) as connection:
        write_reader(connection, reader(long, credentials=[{"facility": "mercy"}]), NOW)
    with fhir.looking(room) as session:
        ids = [one.id for one in PRACTITIONER_ROLE.rows(session, None)]
    assert len(ids) == 2
    for id in ids:
        assert fhir.read(room, PRACTITIONER_ROLE, id) is not None


def test_a_reader_has_a_schedule(room: Room) -> None:
    assert shown(room, SCHEDULE, "ada")["actor"][0]["reference"] == "Practitioner/ada"


def test_an_id_that_fhir_does_not_know_has_another_that_stays(room: Room) -> None:
    with fhir.looking(room) as session:
        ids = {one.facility: one.id for one in ORGANIZATION.rows(session, None)}
    assert ids["north_clinic"] != "north_clinic"
    assert shown(room, ORGANIZATION, ids["north_clinic"])["name"] == "North_Clinic"


@pytest.mark.parametrize("type", TYPES, ids=lambda type: type.name)
def test_another_facility_sees_nothing_of_it(room: Room, type: MixedType) -> None:
    with fhir.looking(room) as session:
        all_ids = [one.id for one in type.versions(session, None, limit=99)]
    with fhir.looking(room, "mercy") as session:
        mine = {one.id for one in type.read(session, all_ids)}
    with fhir.looking(room, "north_clinic") as session:
        others = {one.id for one in type.read(session, all_ids)}
    assert mine
    assert not mine & others


def test_what_is_not_active_any_more_says_so(room: Room) -> None:
    with begin_write(room.engine) as connection:
        deactivate(connection, facilities=["mercy"], readers=["ada"], now=NOW + timedelta(days=1))
    for type, id in ((ORGANIZATION, "mercy"), (PRACTITIONER, "ada"), (PRACTITIONER_ROLE, "ada.mercy")):
        found = fhir.read(room, type, id)
        assert found is not None
        assert found.version == 2
        assert found.resource["active"] is False


# -- what clients write ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("type", "path"), EXAMPLES, ids=lambda value: getattr(value, "stem", ""))
def test_what_is_not_of_the_directory_is_kept_as_it_was_sent(room: Room, type: MixedType, path: Any) -> None:
    sent = json.loads(path.read_text())
    found = fhir.check(fhir.create(room, type, sent))
    head = {"id", "meta"}
    assert {k: v for k, v in found.items() if k not in head} == {k: v for k, v in sent.items() if k not in head}


def written(room: Room, type: MixedType, id: str, **changes: Any) -> Shown:
    before = fhir.read(room, type, id)
    assert before is not None
    return fhir.update(room, type, {**fhir.check(before), **changes})


def test_what_a_client_adds_is_kept_while_the_directory_goes_on(room: Room) -> None:
    alias = ["The Mercy"]
    after = written(room, ORGANIZATION, "mercy", alias=alias)
    assert after.version == 2
    assert written(room, ORGANIZATION, "mercy", alias=alias).version == 2
    with begin_write(room.engine) as connection:
        write_facility(connection, facility("mercy", name="Mercy West"), NOW + timedelta(days=1))
    found = fhir.read(room, ORGANIZATION, "mercy")
    assert found is not None
    assert (found.version, found.resource["name"], found.resource["alias"]) == (3, "Mercy West", alias)
    again = written(room, ORGANIZATION, "mercy", alias=["Mercy W"])
    assert again.version == 4
    with fhir.looking(room) as session:
        history = ORGANIZATION.versions(session, "mercy", limit=9)
        assert [one.version for one in history] == [4, 2]
        assert ORGANIZATION.version(session, "mercy", 2) == after


@pytest.mark.parametrize(
    ("type", "id", "changes", "where"),
    [
        (ORGANIZATION, "mercy", {"name": "Ours"}, "Organization.name"),
        (LOCATION, "mercy", {"status": "inactive"}, "Location.status"),
        (PRACTITIONER, "ada", {"qualification": []}, "Practitioner.qualification"),
    ],
)
def test_what_the_directory_says_is_not_changed_by_a_client(
    room: Room, type: MixedType, id: str, changes: dict[str, Any], where: str
) -> None:
    before = fhir.read(room, type, id)
    assert before is not None
    resource = {**fhir.check(before), **changes}
    with pytest.raises(BrokenRule, match="directory import") as caught:
        fhir.update(room, type, {name: value for name, value in resource.items() if value != []})
    assert caught.value.issues[0].expression == where


def test_what_is_in_use_is_not_deleted(room: Room) -> None:
    with fhir.changing(room) as session:
        before = ORGANIZATION.lock(session, "mercy")
        assert before is not None
        with pytest.raises(Conflict, match="in use"):
            ORGANIZATION.delete(session, before)
