"""Searches of ImagingStudy over the archive's tables, on both databases: what is found is what the resources say."""

from __future__ import annotations

from typing import Any

import pytest

from readingroom.errors import Invalid
from server.fhir.extract import values_of
from server.fhir.parameters import PARAMETERS
from server.fhir.parsing import dump_json
from server.fhir.query import parse_query
from server.fhir.registry import REGISTRY
from server.fhir.search import Page, run
from server.fhir.searching import shown_of
from server.fhir.session import writing
from server.room import Room
from storage.catalog import schema as t
from storage.catalog.engine import begin_write
from storage.catalog.ids import patient_key, study_fhir_id
from storage.catalog.studies import ensure_facility
from tests.catalog import CT, MR_IMAGE, fill, header
from tests.fhir import caller, looking

pytestmark = pytest.mark.rooms("sqlite", "postgres")

ISSUER = [{"LocalNamespaceEntityID": "RIS", "UniversalEntityID": "1.2.9", "UniversalEntityIDType": "ISO"}]
STUDIES: dict[str, dict[str, Any]] = {
    "1.2.1": {
        "PatientID": "P1",
        "StudyDate": "20260102",
        "StudyTime": "233000",
        "TimezoneOffsetFromUTC": "-0600",
        "AccessionNumber": "A1",
        "Modality": "CT",
        "BodyPartExamined": "CHEST",
    },
    "1.2.2": {
        "PatientID": "P1",
        "StudyDate": "20260103",
        "StudyTime": "080000.25",
        "AccessionNumber": "A1",
        "IssuerOfAccessionNumberSequence": ISSUER,
        "Modality": "MR",
        "SOPClassUID": MR_IMAGE,
        "BodyPartExamined": "THORAX",
    },
    "1.2.3": {"PatientID": "P2", "StudyDate": "20260104", "Modality": "CT", "BodyPartExamined": "BODY_PART"},
    "1.2.4": {"Modality": "CR"},
    "1.2.5": {"PatientID": "P2", "StudyDate": "20251231", "StudyTime": "120000", "AccessionNumber": "A%"},
}


@pytest.fixture
def archive(room: Room) -> Room:
    """Five studies, the last of another facility."""
    with begin_write(room.engine) as connection:
        ensure_facility(connection, "north")
    for uid, attributes in STUDIES.items():
        facility = "north" if uid == "1.2.5" else "local"
        known = {"StudyInstanceUID": uid, "SeriesInstanceUID": f"{uid}.1", "SOPInstanceUID": f"{uid}.1.1"}
        fill(room.engine, header(**{"SOPClassUID": CT, **known, **attributes}), facility=facility)
    return room


def id_of(uid: str) -> str:
    return study_fhir_id("north" if uid == "1.2.5" else "local", uid)


def page(room: Room, *pairs: tuple[str, str], facilities: tuple[str, ...] = ()) -> Page:
    with looking(room, *facilities) as session:
        return run(session, parse_query("ImagingStudy", pairs, root=session.root, is_strict=True))


def found(room: Room, query: str, *facilities: str) -> list[str]:
    """The UIDs of the studies that a query finds, sorted."""
    pairs = [tuple(pair.split("=", 1)) for pair in query.split("&")]
    ids = {id_of(uid): uid for uid in STUDIES}
    return sorted(ids[id] for _, id in page(room, *pairs, facilities=facilities).matches)  # type: ignore[arg-type]


def test_each_value_that_a_resource_shows_finds_the_resources_that_show_it(archive: Room) -> None:
    with looking(archive) as session:
        resources = REGISTRY["ImagingStudy"].read(session, [id_of(uid) for uid in STUDIES])
        listed = [(one.id, value) for one in resources for value in values_of(one.type, one.resource, session.root)]
        asked = 0
        for name, parameter in PARAMETERS["ImagingStudy"].items():
            if parameter.kind not in ("token", "reference") or name == "_id":
                continue
            for suffix in ("", ":identifier"):
                held = [(id, one.text, one.space) for id, one in listed if one.key == f"{parameter.key}{suffix}"]
                for _, text, space in held:
                    same = {id for id, other, _ in held if other == text}
                    asks = [(text, same)]
                    if parameter.kind == "token" or suffix:
                        of = parameter.systems[0] if parameter.systems and not suffix else space
                        asks.append((f"{of}|{text}", {id for id, *both in held if both == [text, space]}))
                    for value, wanted in asks:
                        query = parse_query("ImagingStudy", [(name + suffix, value)], root=session.root)
                        assert {id for _, id in run(session, query).matches} == wanted, (name + suffix, value)
                        asked += 1
    assert asked > 40


def test_a_search_by_days_is_by_the_clock_of_the_study_and_one_by_times_by_the_sun(archive: Room) -> None:
    assert found(archive, "started=2026-01-02") == ["1.2.1"]
    assert found(archive, "started=2026-01") == ["1.2.1", "1.2.2", "1.2.3"]
    assert found(archive, "started=lt2026-01-03") == ["1.2.1", "1.2.5"]
    assert found(archive, "started=gt2026-01-02") == ["1.2.2", "1.2.3"]
    assert found(archive, "started=ne2026-01-02") == ["1.2.2", "1.2.3", "1.2.5"]
    assert found(archive, "started=ge2026-01-03&started=le2026-01-04") == ["1.2.2", "1.2.3"]
    # 23:30 in Chicago is half past five of the next day in Greenwich.
    assert found(archive, "started=2026-01-03T05:30:00Z") == ["1.2.1"]
    assert found(archive, "started=ge2026-01-03T05:30:00Z&started=lt2026-01-03T06:00:00Z") == ["1.2.1"]
    assert found(archive, "started=2026-01-02T23:30:00-06:00") == ["1.2.1"]
    assert found(archive, "started=2026-01-03T08:00:00.250Z") == ["1.2.2"]
    assert found(archive, "started=2026-01-03T08:00:00Z") == ["1.2.2"]
    assert found(archive, "started=2026-01-03T08:00:01Z") == []
    assert found(archive, "started=gt2026-01-04T10:00:00Z") == ["1.2.3"]


def test_a_day_by_the_clock_of_a_facility_that_is_not_at_greenwich(archive: Room) -> None:
    with begin_write(archive.engine) as connection:
        connection.execute(t.facility.update().where(t.facility.c.id == "local").values(zone="America/Chicago"))
    assert found(archive, "started=2026-01-03T14:00:00.250Z") == ["1.2.2"]
    assert found(archive, "started=2026-01-03T08:00:00.250Z") == []


def test_a_scope_narrows_matches_totals_and_what_is_known_of_identifiers(archive: Room) -> None:
    assert found(archive, "_id:not=x", "local") == ["1.2.1", "1.2.2", "1.2.3", "1.2.4"]
    assert found(archive, "identifier=urn:oid:1.2.5", "local") == []
    assert found(archive, "identifier=urn:oid:1.2.5", "north") == ["1.2.5"]
    assert page(archive, ("_total", "accurate"), ("_count", "1"), facilities=("north",)).total == 1


def test_identifiers_are_found_with_their_system_or_without(archive: Room) -> None:
    assert found(archive, "identifier=urn:dicom:uid|urn:oid:1.2.1") == ["1.2.1"]
    assert found(archive, "identifier=urn:oid:1.2.1") == ["1.2.1"]
    assert found(archive, "identifier=A1") == ["1.2.1", "1.2.2"]
    assert found(archive, "identifier=urn:oid:1.2.9|A1") == ["1.2.2"]
    assert found(archive, "identifier=urn:oid:1.2|A1") == []
    assert found(archive, "identifier=|A1") == ["1.2.1"]
    assert found(archive, "identifier=A%25") == []
    assert found(archive, "identifier=A%") == ["1.2.5"]


def test_chains_and_includes_lead_to_resources_of_other_types_and_back(archive: Room) -> None:
    patient, study = patient_key("local", "P1"), id_of("1.2.2")
    report = {
        "resourceType": "DiagnosticReport",
        "status": "final",
        "code": {"text": "MR"},
        "imagingStudy": [{"reference": f"ImagingStudy/{study}"}],
    }
    with writing(archive, caller()) as session:
        for id, resource in (
            (patient, {"resourceType": "Patient", "name": [{"family": "Doe"}]}),
            ("r1", report),
        ):
            rest = {name: value for name, value in resource.items() if name != "resourceType"}
            REGISTRY[str(resource["resourceType"])].create(session, resource, dump_json(rest), id)
    assert found(archive, "patient.family=doe") == ["1.2.1", "1.2.2"]
    assert found(archive, "subject:Patient.family=doe&modality=MR") == ["1.2.2"]
    assert found(archive, "patient.family=roe") == []
    assert found(archive, "_has:DiagnosticReport:imaging-study:status=final") == ["1.2.2"]
    assert found(archive, "_has:DiagnosticReport:imaging-study:status=final", "north") == []
    one = page(
        archive,
        ("identifier", "urn:oid:1.2.2"),
        ("_include", "ImagingStudy:patient"),
        ("_revinclude", "DiagnosticReport:imaging-study"),
    )
    assert one.included == [("Patient", patient), ("DiagnosticReport", "r1")]
    with looking(archive) as session:
        pairs = [("imaging-study.modality", "MR"), ("_include", "DiagnosticReport:imaging-study")]
        reports = run(session, parse_query("DiagnosticReport", pairs, root=session.root))
    assert reports.matches == [("DiagnosticReport", "r1")]
    assert reports.included == [("ImagingStudy", study)]


def test_pages_over_each_order_hold_every_study_once(archive: Room) -> None:
    for sort in ("", "started", "-started", "_lastUpdated", "-_id", "status,-started", "patient"):
        seen: list[str] = []
        cursor: str | None = ""
        while cursor is not None:
            pairs = [("_count", "2")] + ([("_sort", sort)] if sort else []) + ([("_cursor", cursor)] if cursor else [])
            one = page(archive, *pairs)
            seen += [id for _, id in one.matches]
            cursor = one.next
        assert sorted(seen) == sorted(map(id_of, STUDIES)), sort


def test_the_latest_come_first_where_that_is_asked_for(archive: Room) -> None:
    ids = {id_of(uid): uid for uid in STUDIES}
    latest = [ids[id] for _, id in page(archive, ("_sort", "-started")).matches]
    assert latest == ["1.2.3", "1.2.2", "1.2.1", "1.2.5", "1.2.4"]


def test_a_study_that_was_deleted_is_not_found(archive: Room) -> None:
    with begin_write(archive.engine) as connection:
        c = t.study.c
        connection.execute(t.study.update().where(c.study_uid == "1.2.4").values(instance_count=0))
        uids = {"study_uid": "1.2.4", "series_uid": "1.2.4.1", "instance_uid": "1.2.4.1.1"}
        told = {"owner_facility": "local", "state": "hidden", "reason": "deleted", "note": "", "actor": "x"}
        connection.execute(t.removal.insert().values(**uids, **told, at=archive.clock.now()))
        connection.execute(t.instance.update().where(t.instance.c.instance_uid == "1.2.4.1.1").values(is_current=False))
    assert found(archive, "_id:not=x") == ["1.2.1", "1.2.2", "1.2.3", "1.2.5"]
    with looking(archive) as session:
        assert [one.is_deleted for one in REGISTRY["ImagingStudy"].read(session, [id_of("1.2.4")])] == [True]
        assert shown_of(session, [("ImagingStudy", id_of("1.2.4"))]) == []


def test_a_cursor_that_is_none_of_ours_is_refused(archive: Room) -> None:
    bad = page(archive, ("_count", "1"), ("_sort", "_lastUpdated")).next
    assert bad is not None
    with pytest.raises(Invalid, match="_cursor"):
        page(archive, ("_sort", "_lastUpdated"), ("_cursor", "WyJ4IiwwLDFd"))
