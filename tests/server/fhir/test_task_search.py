"""Searches of Task over the work items, on both databases: what is found is what the resources say."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest

from readingroom.clock import SetClock
from server.fhir.dates import moments
from server.fhir.extract import values_of
from server.fhir.parameters import PARAMETERS
from server.fhir.query import parse_query
from server.fhir.registry import REGISTRY
from server.fhir.search import Page, run
from server.fhir.session import Session
from server.fhir.shown import instant
from server.room import Room
from server.worklist import items
from storage.catalog import schema as t
from storage.catalog.directory import write_reader
from storage.catalog.engine import begin_write
from storage.catalog.ids import patient_key, study_fhir_id
from storage.catalog.ups import code, element
from storage.catalog.work_items import item_by_id
from tests import fhir
from tests.catalog import fill, header
from tests.directory import reader
from tests.worklist import add, at_work

pytestmark = pytest.mark.rooms("sqlite", "postgres")

TASK = REGISTRY["Task"]
SENT: dict[str, Any] = {
    "identifier": [{"system": "http://ris.example", "value": "T1"}],
    "status": "received",
    "intent": "plan",
    "code": {"coding": [{"system": "http://loinc.org", "code": "18748-4"}]},
    "for": {"identifier": {"system": "urn:x-readingroom:issuer:NORTH", "value": "P1"}},
    "authoredOn": "2026-01-02",
    "owner": {"reference": "Organization/abc"},
    "groupIdentifier": {"system": "http://ris.example", "value": "G1"},
    "restriction": {"period": {"end": "2026-02-03T10:00:00Z"}},
}


@pytest.fixture
def work(room: Room, clock: SetClock) -> dict[str, str]:
    """Items of every kind: ids by name."""
    study = header(StudyInstanceUID="1.2.3", PatientID="P1", IssuerOfPatientID="NORTH", AccessionNumber="A1")
    fill(room.engine, study)
    with begin_write(room.engine) as connection:
        order = {"facility": "local", "id": "order1", "accession_number": "A1", "state": "active"}
        told = {**order, "priority": "routine", "created_at": clock.now(), "updated_at": clock.now()}
        connection.execute(t.imaging_order.insert().values(**told))
    reading = add(room.engine, clock, study_uid="1.2.3", accession_number="A1", priority="urgent")
    due = add(room.engine, clock, kind="followup", due_at=clock.now() + timedelta(hours=2), is_ready=False)
    clock.advance(timedelta(minutes=5))
    attributes = {
        "00404018": element("SQ", code("111", "LN", "Else")),
        "00100020": element("LO", "P1"),
        "00100021": element("LO", "NORTH"),
    }
    ups = add(room.engine, clock, kind="external", attributes=attributes)
    with at_work(room.engine, clock) as doing:
        items.claim_item(doing, reading, reader="ada")
        items.cancel_item(doing, ups, "no more")
    with begin_write(room.engine) as connection:  # from now on only readers of the directory claim
        write_reader(connection, reader("ada", credentials=[]))
    sent = fhir.create(room, TASK, SENT)
    other = fhir.create(room, TASK, {"status": "draft", "intent": "order", "priority": "routine"})
    shown = fhir.read(room, TASK, due.id)
    assert shown is not None
    added = {"identifier": [*shown.resource["identifier"], {"system": "http://ris.example", "value": "T2"}]}
    fhir.update(room, TASK, {**shown.resource, **added}, if_match=shown.version)
    return {"reading": reading.id, "due": due.id, "ups": ups.id, "sent": sent.id, "other": other.id}


def page(session: Session, *pairs: tuple[str, str]) -> Page:
    return run(session, parse_query("Task", pairs, root=session.root, is_strict=True))


def found(room: Room, work: dict[str, str], query: str, *facilities: str) -> list[str]:
    pairs = [tuple(pair.split("=", 1)) for pair in query.split("&")]
    names = {id: name for name, id in work.items()}
    with fhir.looking(room, *facilities) as session:
        return sorted(names[id] for _, id in page(session, *pairs).matches)  # type: ignore[arg-type]


def test_each_value_that_a_task_shows_finds_the_tasks_that_show_it(room: Room, work: dict[str, str]) -> None:
    names = {id: name for name, id in work.items()}
    with fhir.looking(room) as session:
        resources = TASK.read(session, list(work.values()))
        listed = [(one.id, value) for one in resources for value in values_of(one.type, one.resource, session.root)]
        asked = set()
        for name, parameter in PARAMETERS["Task"].items():
            if name in ("_id", "_lastUpdated"):
                continue
            for suffix in ("", ":identifier"):
                held = [(id, one) for id, one in listed if one.key == f"{parameter.key}{suffix}"]
                for _, value in held:
                    if parameter.kind == "date":
                        assert value.low is not None
                        low, high = moments(value.low, value.low)[0], value.high
                        wanted = {id for id, one in held if one.low == value.low and one.high == high}
                        ask = instant(low) if high == value.low else instant(low)[:10]
                        if high is not None and high - value.low not in (0, 86_399_999):
                            continue
                    else:
                        wanted = {id for id, one in held if one.text == value.text}
                        ask = value.text
                    got = {id for _, id in page(session, (name + suffix, ask)).matches}
                    told = sorted(map(names.get, got)), sorted(map(names.get, wanted))  # type: ignore[type-var]
                    assert got == wanted, (name + suffix, ask, *told)
                    asked.add(name)
                    if parameter.kind == "token":
                        within = {id for id, one in held if (one.text, one.space) == (value.text, value.space)}
                        of = parameter.systems[0] if parameter.systems and not suffix else value.space
                        got = {id for _, id in page(session, (name + suffix, f"{of}|{value.text}")).matches}
                        assert got == within, (name, of, value.text)
    assert asked >= {"status", "priority", "code", "patient", "focus", "owner", "identifier", "due", "based-on"}
    assert asked >= {"authored-on", "modified", "intent", "group-identifier", "business-status", "requester"}


def test_a_task_of_a_client_is_found_by_what_the_work_has_made_of_it(
    room: Room, work: dict[str, str], clock: SetClock
) -> None:
    assert found(room, work, "status=received") == ["sent"]
    assert found(room, work, "status=draft,requested") == ["due", "other"]
    with at_work(room.engine, clock) as doing:
        items.make_ready(doing, item_by_id(doing.connection, work["sent"]))
        items.reprioritise_item(doing, item_by_id(doing.connection, work["sent"]), "stat")
    assert found(room, work, "status=received") == []
    assert found(room, work, "status=ready") == ["sent"]
    assert found(room, work, "priority=stat") == ["sent"]


def test_what_is_asked_about_references_leads_on(room: Room, work: dict[str, str]) -> None:
    assert found(room, work, "focus.patient=" + patient_key("NORTH", "P1")) == ["reading"]
    assert found(room, work, "focus:ImagingStudy.status=available") == ["reading"]
    assert found(room, work, "patient:missing=false") == ["reading", "ups"]
    with fhir.looking(room) as session:
        one = page(session, ("_id", work["reading"]), ("_include", "Task:focus"))
        assert one.included == [("ImagingStudy", study_fhir_id("local", "1.2.3"))]
        query = parse_query("ImagingStudy", [("_has:Task:focus:status", "in-progress")], root=session.root)
        assert len(run(session, query).matches) == 1


def test_times_compare_with_ranges(room: Room, work: dict[str, str], clock: SetClock) -> None:
    due = clock.now() + timedelta(hours=1, minutes=55)
    assert found(room, work, f"due=le{instant(due)}&due=gt2026-01-01T12:05:00Z") == ["due"]
    assert found(room, work, f"due={instant(due)}") == ["due"]
    assert found(room, work, "due=2026-02-03T10:00:00Z") == ["sent"]
    assert found(room, work, "due=ge2026-01-01&due=lt2026-02-03") == ["due"]
    assert found(room, work, "due:missing=true") == ["other", "reading", "ups"]
    assert found(room, work, "authored-on=2026-01-02") == ["sent"]
    assert found(room, work, "authored-on=2026-01-01") == ["due", "reading", "ups"]


def test_priorities_sort_by_how_soon_and_what_is_due_first_comes_first(room: Room, work: dict[str, str]) -> None:
    names = {id: name for name, id in work.items()}
    with fhir.looking(room) as session:
        by_priority = [names[id] for _, id in page(session, ("_sort", "-priority")).matches]
        assert by_priority[0] == "reading"
        by_due = [names[id] for _, id in page(session, ("_sort", "due")).matches]
    assert set(by_due[:2]) == {"sent", "due"}


@pytest.mark.parametrize("type", ["Task", "ServiceRequest"])
def test_all_priorities_sort_by_how_soon_page_by_page(room: Room, type: str) -> None:
    said = {
        "Task": {"status": "received", "intent": "plan"},
        "ServiceRequest": {"status": "active", "intent": "order", "subject": {"reference": "Patient/p"}},
    }[type]
    held = {
        fhir.create(room, REGISTRY[type], {**said, **({"priority": one} if one else {})}).id: one
        for one in ("asap", "stat", None, "routine", "urgent")
    }
    for sort, wanted in (
        ("priority", ["routine", "urgent", "asap", "stat", None]),
        ("-priority", ["stat", "asap", "urgent", "routine", None]),
    ):
        seen: list[str | None] = []
        cursor: str | None = ""
        while cursor is not None:
            pairs = [("_sort", sort), ("_count", "2"), *([("_cursor", cursor)] if cursor else [])]
            with fhir.looking(room) as session:
                one = run(session, parse_query(type, pairs, root=session.root))
            seen += [held[id] for _, id in one.matches]
            cursor = one.next
        assert seen == wanted


def test_pages_over_each_order_hold_every_task_once(room: Room, work: dict[str, str]) -> None:
    for sort in ("", "due", "-due", "priority", "-modified", "status,-authored-on", "owner", "-_lastUpdated", "code"):
        seen: list[str] = []
        cursor: str | None = ""
        while cursor is not None:
            pairs = [("_count", "2")] + ([("_sort", sort)] if sort else []) + ([("_cursor", cursor)] if cursor else [])
            with fhir.looking(room) as session:
                one = page(session, *pairs)
            seen += [id for _, id in one.matches]
            cursor = one.next
        assert sorted(seen) == sorted(work.values()), sort


def test_another_facility_finds_none_of_it(room: Room, work: dict[str, str]) -> None:
    assert found(room, work, "identifier=T1", "north") == []
    assert found(room, work, "identifier=T1", "local") == ["sent"]
