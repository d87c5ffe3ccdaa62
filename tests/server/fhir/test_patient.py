"""Patient: the registry that studies make, and what clients say of the people in it."""

from __future__ import annotations

import json
from datetime import timedelta
from typing import Any

import pytest

from readingroom.clock import SetClock
from readingroom.errors import Conflict
from server.fhir.outcome import BrokenRule
from server.fhir.patient import PatientType
from server.fhir.shown import Shown
from server.room import Room
from storage.catalog.ids import nameless_key, patient_key
from tests import fhir
from tests.catalog import fill, fill_together, header
from tests.corpus import FOLDER

PATIENT = PatientType()
EXAMPLES = sorted(FOLDER.glob("fhir/R4/Patient-*.json"))
ID = patient_key("NORTH", "P1")
SYSTEM = "urn:x-readingroom:issuer:NORTH"


def a_study(**attributes: Any) -> dict[str, Any]:
    known = {
        "PatientID": "P1",
        "IssuerOfPatientID": "NORTH",
        "PatientName": "Doe^Jane^Mary Ann^Dr.^III",
        "PatientBirthDate": "19700131",
        "PatientSex": "F",
    }
    return header(**{**known, **attributes})


def shown(room: Room, id: str = ID, *scope: str) -> dict[str, Any]:
    found = fhir.read(room, PATIENT, id, *scope)
    assert found is not None
    return fhir.check(found)


def put(room: Room, resource: dict[str, Any], **changes: Any) -> Shown:
    return fhir.update(room, PATIENT, {**resource, **changes})


def test_a_patient_is_what_the_last_study_says(room: Room, clock: SetClock) -> None:
    fill(room.engine, a_study(), a_study())
    found = shown(room)
    assert found.pop("meta")["versionId"] == "1"
    assert found == {
        "resourceType": "Patient",
        "id": ID,
        "identifier": [
            {
                "type": {"coding": [{"system": "http://terminology.hl7.org/CodeSystem/v2-0203", "code": "MR"}]},
                "use": "usual",
                "system": SYSTEM,
                "assigner": {"display": "NORTH"},
                "value": "P1",
            }
        ],
        "name": [
            {
                "text": "Dr. Jane Mary Ann Doe III",
                "family": "Doe",
                "given": ["Jane", "Mary", "Ann"],
                "prefix": ["Dr."],
                "suffix": ["III"],
            }
        ],
        "gender": "female",
        "birthDate": "1970-01-31",
    }
    fill(room.engine, a_study(PatientName="Roe^Jane"))
    assert shown(room)["name"][0]["family"] == "Roe"
    assert shown(room)["meta"]["versionId"] == "2"


def test_names_in_several_scripts_say_in_which(room: Room) -> None:
    told = a_study()
    told["00100010"] = {
        "vr": "PN",
        "Value": [{"Alphabetic": "Yamada^Tarou", "Ideographic": "山田^太郎", "Phonetic": "やまだ^たろう"}],
    }
    fill(room.engine, told)
    names = shown(room)["name"]
    assert [one["extension"][0]["valueCode"] for one in names] == ["ABC", "IDE", "SYL"]
    assert [one["family"] for one in names] == ["Yamada", "山田", "やまだ"]


def test_a_patient_without_id_has_a_resource_of_its_own(room: Room) -> None:
    told = a_study(PatientID="", StudyInstanceUID="1.2.3", PatientSex="X")
    told["00100030"]["Value"] = ["1970"]
    fill(room.engine, told)
    found = shown(room, nameless_key("local", "1.2.3"))
    assert not {"identifier", "gender", "birthDate"} & set(found)


def test_other_ids_are_identifiers_too(room: Room) -> None:
    fill(room.engine, a_study(OtherPatientIDsSequence=[{"PatientID": "X9", "IssuerOfPatientID": "1.2.9"}]))
    assert shown(room)["identifier"][1] == {
        "use": "secondary",
        "system": "urn:oid:1.2.9",
        "value": "X9",
        "assigner": {"display": "1.2.9"},
    }


def test_who_has_no_study_in_scope_is_not_there(room: Room) -> None:
    fill(room.engine, a_study())
    assert fhir.read(room, PATIENT, ID, "local") is not None
    assert fhir.read(room, PATIENT, ID, "north") is None


def test_what_a_client_says_of_a_patient_is_shown_from_then_on(room: Room) -> None:
    fill(room.engine, a_study())
    after = put(room, shown(room), name=[{"family": "Doe-Roe"}], telecom=[{"system": "phone", "value": "1"}])
    assert after.version == 2
    fill(room.engine, a_study(PatientName="Wrong^Name"))
    found = shown(room)
    assert (found["name"], found["telecom"][0]["value"]) == ([{"family": "Doe-Roe"}], "1")
    version = int(found["meta"]["versionId"])
    again = put(room, found, active=True)
    assert again.version == version + 1
    assert put(room, shown(room), active=True).version == again.version
    with fhir.looking(room) as session:
        assert [one.version for one in PATIENT.versions(session, ID, limit=9)] == [again.version, 2]


def test_a_patient_keeps_the_identifier_that_studies_have(room: Room) -> None:
    fill(room.engine, a_study())
    with pytest.raises(BrokenRule, match="by which studies find it"):
        put(room, shown(room), identifier=[{"system": SYSTEM, "value": "P2"}])


def test_a_patient_that_comes_before_the_images_is_the_one_that_they_are_of(room: Room, clock: SetClock) -> None:
    fill(room.engine, header())
    sent = {"identifier": [{"system": "urn:x-readingroom:issuer:local", "value": "P7"}], "name": [{"text": "Jane"}]}
    made = fhir.create(room, PATIENT, sent)
    assert made.id == patient_key("local", "P7")
    put(room, fhir.check(made), gender="female")
    fill_together(room.engine, [header(PatientID="P7", PatientName="J")], now=clock.now(), quiet=timedelta(minutes=1))
    found = shown(room, made.id)
    assert (found["name"], found["meta"]["versionId"]) == ([{"text": "Jane"}], "2")
    assert put(room, found, active=True).version == 3
    second = fhir.create(room, PATIENT, sent)
    assert second.id != made.id


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_an_official_example_comes_back_as_it_was_sent(room: Room, path: Any) -> None:
    sent = json.loads(path.read_text())
    found = fhir.check(fhir.create(room, PATIENT, sent))
    head = {"id", "meta"}
    assert {k: v for k, v in found.items() if k not in head} == {k: v for k, v in sent.items() if k not in head}


def test_who_has_studies_is_not_deleted(room: Room) -> None:
    fill(room.engine, a_study())
    with fhir.changing(room) as session:
        before = PATIENT.lock(session, ID)
        assert before is not None
        with pytest.raises(Conflict):
            PATIENT.delete(session, before)
