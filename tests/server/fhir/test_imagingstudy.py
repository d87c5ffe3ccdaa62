"""ImagingStudy: what is made of DICOM, that it is right FHIR, and that it is what DICOMweb shows."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import httpx
import orjson
import pytest
import sqlalchemy as sa
from fhir.resources.R4B.imagingstudy import ImagingStudy
from pydicom import Dataset

from readingroom.clock import SetClock
from readingroom.errors import ReadOnly
from readingroom.model import LOCAL_OPERATOR, Scope
from server.auth import Caller
from server.fhir.imagingstudy import ImagingStudyType
from server.fhir.session import Session, reading
from server.fhir.shown import Shown
from server.room import Room
from server.settle import settle_studies
from storage.catalog import schema as t
from storage.catalog.engine import begin_write
from storage.catalog.ids import patient_key, study_fhir_id
from tests import synthetic
from tests.catalog import fill, header
from tests.stow import store
from tests.synthetic import new_uid, part10

TYPE = ImagingStudyType()
STUDY, SERIES = "1.2.3.4", "1.2.3.4.1"


def session_of(room: Room, connection: sa.Connection, *facilities: str) -> Session:
    scope = Scope(facilities=frozenset(facilities)) if facilities else Scope()
    caller = Caller(
        actor=LOCAL_OPERATOR,
        scope=scope,
        service_root="http://here/dicomweb",
        fhir_root="http://here/fhir",
        facility="local",
    )
    return reading(room, caller, connection)


def shown(room: Room, study_uid: str = STUDY, *scope: str) -> Shown | None:
    with room.engine.connect() as connection:
        session = session_of(room, connection, *scope)
        found = TYPE.read(session, [study_fhir_id("local", study_uid)])
    assert len(found) < 2
    return found[0] if found else None


def resource(room: Room, study_uid: str = STUDY) -> dict[str, Any]:
    """The resource, once fhir.resources has found that it is one."""
    found = shown(room, study_uid)
    assert found is not None
    ImagingStudy.model_validate_json(found.body)
    return found.resource


def a_study(**attributes: Any) -> dict[str, Any]:
    known = {
        "StudyInstanceUID": STUDY,
        "SeriesInstanceUID": SERIES,
        "PatientID": "P1",
        "IssuerOfPatientID": "NORTH",
        "PatientName": "Doe^Jane",
        "StudyDate": "20260102",
        "StudyTime": "101112.25",
        "AccessionNumber": "A1",
        "Modality": "CT",
        "StudyDescription": "CT of the chest",
        "SeriesNumber": 3,
        "SeriesDescription": "Lung",
        "BodyPartExamined": "CHEST",
        "Laterality": "L",
        "InstanceNumber": 7,
        "Rows": 4,
        "Columns": 4,
    }
    return header(**{**known, **attributes})


def test_a_study_is_an_imaging_study(room: Room) -> None:
    fill(
        room.engine,
        a_study(
            SOPInstanceUID="1.2.3.4.1.1",
            TimezoneOffsetFromUTC="-0600",
            ReferringPhysicianName="Roe^Richard^^Dr.",
            OperatorsName="Poe^Edna",
            ProcedureCodeSequence=[{"CodeValue": "24627-2", "CodingSchemeDesignator": "LN", "CodeMeaning": "CT Chest"}],
            ReasonForStudy="cough",
            IssuerOfAccessionNumberSequence=[
                {"LocalNamespaceEntityID": "RIS", "UniversalEntityID": "1.2.9", "UniversalEntityIDType": "ISO"}
            ],
        ),
    )
    accession = {
        "type": {"coding": [{"system": "http://terminology.hl7.org/CodeSystem/v2-0203", "code": "ACSN"}]},
        "system": "urn:oid:1.2.9",
        "assigner": {"display": "RIS"},
        "value": "A1",
    }
    ct = {"system": "http://dicom.nema.org/resources/ontology/DCM", "code": "CT"}
    found = resource(room)
    meta = found.pop("meta")
    assert found == {
        "resourceType": "ImagingStudy",
        "id": study_fhir_id("local", STUDY),
        "identifier": [{"system": "urn:dicom:uid", "value": f"urn:oid:{STUDY}"}, accession],
        "status": "available",
        "modality": [ct],
        "subject": {"reference": f"Patient/{patient_key('NORTH', 'P1')}"},
        "started": "2026-01-02T10:11:12.25-06:00",
        "basedOn": [{"type": "ServiceRequest", "identifier": accession}],
        "referrer": {"display": "Dr. Richard Roe"},
        "endpoint": [{"reference": "Endpoint/local"}],
        "procedureCode": [
            {
                "coding": [{"system": "http://loinc.org", "code": "24627-2", "display": "CT Chest"}],
                "text": "CT Chest",
            }
        ],
        "reasonCode": [{"text": "cough"}],
        "description": "CT of the chest",
        "numberOfSeries": 1,
        "numberOfInstances": 1,
        "series": [
            {
                "uid": SERIES,
                "number": 3,
                "modality": ct,
                "description": "Lung",
                "bodySite": {"system": "http://snomed.info/sct", "code": "816094009", "display": "Chest"},
                "laterality": {"system": "http://snomed.info/sct", "code": "7771000", "display": "Left"},
                "performer": [
                    {
                        "function": {
                            "coding": [
                                {
                                    "system": "http://terminology.hl7.org/CodeSystem/v3-ParticipationType",
                                    "code": "SPRF",
                                }
                            ]
                        },
                        "actor": {"display": "Edna Poe"},
                    }
                ],
                "numberOfInstances": 1,
                "instance": [
                    {
                        "uid": "1.2.3.4.1.1",
                        "number": 7,
                        "sopClass": {
                            "system": "urn:ietf:rfc:3986",
                            "code": "urn:oid:1.2.840.10008.5.1.4.1.1.2",
                        },
                    }
                ],
            }
        ],
    }
    assert meta["versionId"] == "1"


def test_a_clock_without_offset_is_that_of_the_facility(room: Room) -> None:
    fill(room.engine, a_study())
    with begin_write(room.engine) as connection:
        connection.execute(t.facility.update().values(zone="America/Chicago"))
    assert resource(room)["started"] == "2026-01-02T10:11:12.25-06:00"


@pytest.mark.parametrize(
    ("attributes", "started"),
    [
        ({"StudyTime": ""}, "2026-01-02"),
        ({"StudyDate": ""}, None),
        ({"StudyTime": "235960"}, "2026-01-02T23:59:59+00:00"),
        ({"StudyTime": "07"}, "2026-01-02T07:00:00+00:00"),
    ],
)
def test_what_is_not_known_of_the_moment_is_not_told(room: Room, attributes: Any, started: str | None) -> None:
    fill(room.engine, a_study(**attributes))
    assert resource(room).get("started") == started


def test_broken_values_leave_a_resource_that_is_right(room: Room) -> None:
    hostile = a_study(
        Modality="", SeriesNumber=-4, InstanceNumber=-1, BodyPartExamined="GIZZARD", Laterality="X", AccessionNumber=""
    )
    hostile["00081030"] = {"vr": "LO", "Value": ["\x1b \x00 "]}
    hostile["00080090"] = {"vr": "PN", "Value": [None, {"Alphabetic": "^^^^"}]}
    hostile["00081032"] = {"vr": "SQ", "Value": [{}, {"00080100": {"vr": "SH", "Value": [None]}}]}
    hostile["0008103E"] = {"vr": "LO", "Value": ['"quoted" \\ \x02 text']}
    fill(room.engine, hostile)
    found = resource(room)
    [series] = found["series"]
    assert series["bodySite"] == {"display": "GIZZARD"}
    assert "code" not in series["modality"]
    assert not {"number", "laterality"} & set(series)
    assert series["description"] == '"quoted" \\  text'
    assert not {"basedOn", "description", "referrer", "procedureCode"} & set(found)


def test_documents_have_titles(client: httpx.Client, room: Room) -> None:
    report = synthetic.text_report(StudyInstanceUID=STUDY)
    report.ConceptNameCodeSequence = [Dataset()]
    report.ConceptNameCodeSequence[0].CodeMeaning = "Radiology report"
    store(client, part10(report), part10(synthetic.pdf_document(StudyInstanceUID=STUDY, DocumentTitle="Consent")))
    assert {one["instance"][0].get("title") for one in resource(room)["series"]} == {"Consent", "Radiology report"}


@pytest.mark.rooms("sqlite", "postgres")
def test_instances_come_by_number_each_with_its_own_title(room: Room) -> None:
    odd = '{"uid":"1.2.3.4.1.1","sopClass":'
    told: list[tuple[str, int | None, str | None]] = [
        ("1.2.3.4.1.10", 2, None),
        ("1.2.3.4.1.1", 2, "Second"),
        ("1.2.3.4.1.4", 1, odd),
        ("1.2.3.4.1.3", 4294967296, "Huge"),
        ("1.2.3.4.1.2", -1, None),
    ]
    fill(
        room.engine,
        *(
            a_study(SOPInstanceUID=uid, InstanceNumber=number, **({} if title is None else {"DocumentTitle": title}))
            for uid, number, title in told
        ),
    )
    [series] = resource(room)["series"]
    assert [(one["uid"], one.get("number"), one.get("title")) for one in series["instance"]] == [
        ("1.2.3.4.1.2", None, None),
        ("1.2.3.4.1.4", 1, odd),
        ("1.2.3.4.1.10", 2, None),
        ("1.2.3.4.1.1", 2, "Second"),
        ("1.2.3.4.1.3", None, "Huge"),
    ]
    assert series["numberOfInstances"] == 5


def test_a_study_of_another_facility_is_not_there(room: Room) -> None:
    fill(room.engine, a_study())
    assert shown(room) is not None
    assert shown(room, STUDY, "local") is not None
    assert shown(room, STUDY, "north") is None


def test_each_change_is_a_version_and_history_has_those_that_settled(
    client: httpx.Client, room: Room, clock: SetClock
) -> None:
    first, second = synthetic.ct_series(2, StudyInstanceUID=STUDY, SeriesInstanceUID=SERIES)
    store(client, part10(first))
    arriving = shown(room)
    assert arriving is not None
    clock.advance(timedelta(hours=1))
    assert settle_studies(room) == 1
    settled = shown(room)
    assert settled == arriving  # settling changes nothing of it
    store(client, part10(first))
    assert shown(room) == settled  # nor does what is there already
    store(client, part10(second))
    later = shown(room)
    assert later is not None
    assert later.version > settled.version
    assert later.updated_at > settled.updated_at
    assert later.resource["numberOfInstances"] == 2
    with room.engine.connect() as connection:
        session = session_of(room, connection)
        assert TYPE.versions(session, later.id, limit=9) == [later, settled]
        assert TYPE.versions(session, None, limit=9) == [later, settled]
        assert TYPE.versions(session, None, limit=1) == [later]
        assert TYPE.versions(session, None, limit=9, until=settled.updated_at) == [settled]
        assert TYPE.versions(session, None, limit=9, since=later.updated_at) == [later]
        assert TYPE.version(session, later.id, settled.version) == settled
        assert TYPE.version(session, later.id, 999) is None
        assert TYPE.versions(session_of(room, connection, "north"), later.id, limit=9) == []


def test_a_correction_is_shown_at_once_and_is_a_version(client: httpx.Client, room: Room) -> None:
    store(client, part10(synthetic.ct_series(1, StudyInstanceUID=STUDY, StudyDescription="wrong")[0]))
    before = shown(room)
    correction = {"00081030": {"vr": "LO", "Value": ["right"]}}
    url = f"/dicomweb/studies/{STUDY}"
    headers = {"content-type": "application/dicom+json"}
    answer = client.patch(url, content=orjson.dumps(correction), headers=headers, params={"reason": "misspelt"})
    assert answer.status_code < 300, answer.text
    after = shown(room)
    assert before is not None
    assert after is not None
    assert (before.resource["description"], after.resource["description"]) == ("wrong", "right")
    assert after.version > before.version


def test_what_is_deleted_is_gone_and_comes_back(client: httpx.Client, room: Room, clock: SetClock) -> None:
    slices = synthetic.ct_series(1, StudyInstanceUID=STUDY)
    store(client, *map(part10, slices))
    there = shown(room)
    clock.advance(timedelta(hours=1))
    settle_studies(room)
    assert client.delete(f"/dicomweb/studies/{STUDY}").status_code < 300
    gone = shown(room)
    assert gone is not None
    assert there is not None
    assert gone.is_deleted
    assert gone.version > there.version
    clock.advance(timedelta(hours=1))
    settle_studies(room)
    assert shown(room) == gone
    store(client, *map(part10, slices))
    back = shown(room)
    assert back is not None
    assert not back.is_deleted
    with room.engine.connect() as connection:
        history = TYPE.versions(session_of(room, connection), there.id, limit=9)
    assert [(one.version, one.is_deleted) for one in history] == [
        (back.version, False),
        (gone.version, True),
        (there.version, False),
    ]


@pytest.mark.parametrize(("title", "status"), [("113001", "cancelled"), ("113038", "entered-in-error")])
def test_a_study_that_was_rejected_says_so(room: Room, title: str, status: str) -> None:
    instance = new_uid()
    fill(room.engine, a_study(SOPInstanceUID=instance))
    note = a_study(
        SOPClassUID="1.2.840.10008.5.1.4.1.1.88.59",
        SeriesInstanceUID="1.2.3.4.2",
        SOPInstanceUID=new_uid(),
        Modality="KO",
    )
    fill(room.engine, note)
    with begin_write(room.engine) as connection:
        gone = t.instance.c.instance_uid == instance
        connection.execute(t.instance.update().where(gone).values(is_current=False))
        connection.execute(
            t.removal.insert().values(
                owner_facility="local",
                study_uid=STUDY,
                series_uid=SERIES,
                instance_uid=instance,
                state="hidden",
                reason=title,
                note="1.2.3",
                actor="a",
                at=room.clock.now(),
            )
        )
    assert resource(room)["status"] == status


def test_many_studies_are_read_together(room: Room) -> None:
    uids = [new_uid() for _ in range(5)]
    fill(room.engine, *(a_study(StudyInstanceUID=uid, SeriesInstanceUID=f"{uid}.1") for uid in uids))
    ids = [study_fhir_id("local", uid) for uid in uids]
    with room.engine.connect() as connection:
        found = TYPE.read(session_of(room, connection), ids)
    assert sorted(one.id for one in found) == sorted(ids)
    assert {one.resource["identifier"][0]["value"] for one in found} == {f"urn:oid:{uid}" for uid in uids}


def test_nobody_writes_an_imaging_study(room: Room) -> None:
    with room.engine.connect() as connection:
        session = session_of(room, connection)
        for refused in (
            lambda: TYPE.create(session, {}, b"{}", "x"),
            lambda: TYPE.new_id(session, {}),
            lambda: TYPE.update(session, None, {}, b"{}"),  # type: ignore[arg-type]
            lambda: TYPE.delete(session, None),  # type: ignore[arg-type]
        ):
            with pytest.raises(ReadOnly, match="over DICOMweb"):
                refused()
