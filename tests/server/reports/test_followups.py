"""Follow-ups: what reports recommend is tracked until it is closed, and nothing closes it by itself."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import httpx
import orjson
import pytest
import sqlalchemy as sa

from readingroom.clock import SetClock
from readingroom.errors import Conflict, Invalid, NotFound
from readingroom.model import FollowUp, Report, Scope
from server.announce import announce
from server.reports import followups as do
from server.room import Room
from server.worklist import items
from server.worklist.sla import fire_marks
from storage.catalog import schema as t
from storage.catalog.follow_ups import ListedFollowUp, find_follow_up, list_follow_ups
from storage.catalog.reports import StoredReport, insert_report
from storage.catalog.studies import ensure_facility
from storage.catalog.work_items import StoredItem, item_by_id, next_items, ups_of
from tests.catalog import fill, fill_together, header
from tests.reports import TEXT, Desk
from tests.synthetic import new_uid
from tests.worklist import at_work

CHEST = FollowUp(text="CT chest in three months.", due_on="2027-02-24")
HEAD = FollowUp(text="Look again.", due_on="2026-12-01", procedure="MRI of the brain")
ID = "a" * 32


@pytest.fixture
def clock() -> SetClock:
    return SetClock(datetime(2026, 11, 24, 12, tzinfo=UTC))


def version(*recommended: FollowUp, **changes: Any) -> Report:
    """A signed version of one report of a facility in Texas."""
    known: dict[str, Any] = {
        "id": ID,
        "facility": "local",
        "status": "final",
        "number": 1,
        "zone": "America/Chicago",
        "study_uid": "1.2.3",
        "accession_number": "A1",
        "modalities": ("CT", "SR"),
        "body_parts": ("CHEST",),
        "follow_ups": recommended,
    }
    return Report(**known | changes)


def signed(engine: sa.Engine, clock: SetClock, report: Report, *, patient: str | None = None) -> list[ListedFollowUp]:
    """All the follow-ups that there are once a version is signed."""
    with at_work(engine, clock) as work:
        row = StoredReport(
            id=report.id,
            facility=report.facility,
            status=report.status,
            study_uid=report.study_uid,
            patient=patient,
            created_at=work.now,
            changed_at=work.now,
        )
        ensure_facility(work.connection, report.facility)
        insert_report(work.connection, row)
        do.follow_recommendations(work, row, report)
        return list_follow_ups(work.connection, Scope(), is_open=None)


def closed(engine: sa.Engine, clock: SetClock, id: str, **said: Any) -> ListedFollowUp:
    with at_work(engine, clock) as work:
        return do.close_follow_up(work, id, **{"outcome": "done", "by": "Dr. Family"} | said)


def the_item(engine: sa.Engine, id: str) -> StoredItem:
    with engine.connect() as connection:
        return item_by_id(connection, id)


def test_each_recommendation_is_an_item_that_is_due_when_its_day_ends_there(engine: sa.Engine, clock: SetClock) -> None:
    head, chest = signed(engine, clock, version(CHEST, HEAD, CHEST))
    assert chest.due_at == datetime(2027, 2, 25, 6, tzinfo=UTC), "midnight in Chicago"
    assert [(one.row.text, one.is_open, one.state) for one in (head, chest)] == [
        (HEAD.text, True, "waiting"),
        (CHEST.text, True, "waiting"),
    ]
    item = the_item(engine, chest.row.item)
    assert (item.kind, item.modality, item.due_at) == ("followup", "CT", chest.due_at)
    with engine.connect() as connection:
        ups = ups_of(connection, item)
        assert next_items(connection, Scope(), now=clock.now(), limit=9) == [], "it is nothing to be read"
    assert ups["00741204"]["Value"] == ["Follow-up: CT chest in three months."]
    assert ups["00404011"]["Value"] == ["20270225060000.000000+0000"]
    assert (head.row.modalities, chest.row.modalities) == ("MR\\", "CT\\")
    assert (head.row.body_parts, chest.row.body_parts) == ("BRAIN\\CHEST\\", "CHEST\\")


@pytest.mark.parametrize("day", ["2027-02-29", "2027-13-01", "soon", "9999-12-31"])
def test_a_day_that_is_none_is_refused_and_nothing_is_signed(engine: sa.Engine, clock: SetClock, day: str) -> None:
    with pytest.raises(Invalid, match="there is no"):
        signed(engine, clock, version(FollowUp(text="CT", due_on=day)))
    with engine.connect() as connection:
        assert list_follow_ups(connection, Scope(), is_open=None) == []


def test_a_later_version_that_recommends_it_too_makes_no_second_item_and_may_move_it(
    engine: sa.Engine, clock: SetClock
) -> None:
    (first,) = signed(engine, clock, version(CHEST))
    (same,) = signed(engine, clock, version(CHEST, number=2))
    assert same == first
    (moved,) = signed(engine, clock, version(FollowUp(text=CHEST.text, due_on="2027-01-31"), number=3))
    assert (moved.row.item, moved.row.due_on) == (first.row.item, "2027-01-31")
    assert moved.due_at == datetime(2027, 2, 1, 6, tzinfo=UTC)


@pytest.mark.parametrize("change", [{}, {"follow_ups": (CHEST,), "status": "entered-in-error"}])
def test_what_a_later_version_does_not_recommend_is_cancelled_with_the_reason(
    engine: sa.Engine, clock: SetClock, change: dict[str, Any]
) -> None:
    signed(engine, clock, version(CHEST))
    (gone,) = signed(engine, clock, version(**{"number": 2} | change))
    assert (gone.state, gone.row.outcome) == ("cancelled", "withdrawn")
    assert gone.reason == "Version 2 of the report recommends it no more."
    again = signed(engine, clock, version(CHEST, number=3))
    assert sorted(one.state for one in again) == ["cancelled", "waiting"]


def test_what_was_closed_stays_so_whatever_is_signed_later(engine: sa.Engine, clock: SetClock) -> None:
    (one,) = signed(engine, clock, version(CHEST))
    closed(engine, clock, one.row.item)
    (after,) = signed(engine, clock, version(CHEST, number=2))
    assert (after.state, after.row.outcome) == ("completed", "done")
    (after,) = signed(engine, clock, version(number=3))
    assert after.row.outcome == "done"


@pytest.mark.parametrize(
    ("outcome", "state"),
    [("done", "completed"), ("declined", "cancelled"), ("not-needed", "cancelled"), ("died", "cancelled")],
)
@pytest.mark.parametrize("has_it", ["nobody", "a claimant", "on hold"])
def test_a_person_closes_it_whoever_has_its_item(
    engine: sa.Engine, clock: SetClock, outcome: str, state: str, has_it: str
) -> None:
    (one,) = signed(engine, clock, version(CHEST))
    with at_work(engine, clock) as work:
        item = item_by_id(work.connection, one.row.item, locked=True)
        if has_it == "a claimant":
            items.claim_item(work, item)
        if has_it == "on hold":
            items.hold_item(work, item, "calling the practice")
    done = closed(engine, clock, one.row.item, outcome=outcome, note="By telephone.")
    assert (done.state, done.row.outcome, done.row.closed_by, done.row.note) == (
        state,
        outcome,
        "Dr. Family",
        "By telephone.",
    )
    with pytest.raises(Conflict, match="closed already"):
        closed(engine, clock, one.row.item)


@pytest.mark.parametrize(
    "said",
    [
        {"outcome": "withdrawn"},
        {"outcome": ""},
        {"by": " "},
        {"by": "x" * 201},
        {"by": "x\0"},
        {"note": "x" * 2001},
        {"study_uid": "1.2.3.4"},
        {"study_uid": "1.2.3"},
        {"outcome": "died", "study_uid": "1.2.3"},
    ],
)
def test_what_cannot_be_is_refused_and_leaves_it_open(engine: sa.Engine, clock: SetClock, said: dict[str, Any]) -> None:
    (one,) = signed(engine, clock, version(CHEST))
    with pytest.raises(Invalid):
        closed(engine, clock, one.row.item, **said)
    assert the_item(engine, one.row.item).state == "waiting"


def test_one_of_another_facility_is_as_unknown(engine: sa.Engine, clock: SetClock) -> None:
    (one,) = signed(engine, clock, version(CHEST))
    elsewhere = Scope(facilities=frozenset({"north"}))
    with engine.connect() as connection:
        assert list_follow_ups(connection, elsewhere, is_open=None) == []
        with pytest.raises(NotFound):
            find_follow_up(connection, elsewhere, one.row.item)
    with pytest.raises(NotFound), at_work(engine, clock, scope=elsewhere) as work:
        do.close_follow_up(work, one.row.item, outcome="done", by="A")


def test_lists_are_by_the_day_in_pages_and_of_what_is_overdue(engine: sa.Engine, clock: SetClock) -> None:
    signed(engine, clock, version(CHEST, HEAD, FollowUp(text="US", due_on="2026-12-01")))
    clock.advance(timedelta(days=8))
    with engine.connect() as connection:
        first = list_follow_ups(connection, Scope(), limit=2)
        second = list_follow_ups(connection, Scope(), limit=2, after=first[-1].row.item)
        late = list_follow_ups(connection, Scope(), overdue_at=clock.now())
        assert list_follow_ups(connection, Scope(), is_open=False) == []
        assert len(list_follow_ups(connection, Scope(), report=ID)) == 3
        assert list_follow_ups(connection, Scope(), report="b" * 32) == []
    assert [one.row.due_on for one in (*first, *second)] == ["2026-12-01", "2026-12-01", "2027-02-24"]
    assert late == first


def test_one_that_somebody_gives_back_waits_again_and_is_nothing_to_be_read(engine: sa.Engine, clock: SetClock) -> None:
    (one,) = signed(engine, clock, version(CHEST))
    with at_work(engine, clock) as work:
        item = items.claim_item(work, item_by_id(work.connection, one.row.item, locked=True), token="2.25.1")
        assert items.release_item(work, item, token="2.25.1").state == "waiting"
    with at_work(engine, clock) as work:
        items.claim_item(work, item_by_id(work.connection, one.row.item, locked=True))
    clock.advance(items.CLAIM_LASTS)
    assert items.expire_claims(engine, clock.now()) == 1
    assert the_item(engine, one.row.item).state == "waiting"


# -- what may be it ----------------------------------------------------------------------------------------------------


def patient_of(engine: sa.Engine, study_uid: str) -> str:
    with engine.connect() as connection:
        patient = connection.execute(sa.select(t.study.c.patient).where(t.study.c.study_uid == study_uid)).scalar_one()
        return str(patient)


def arrives(engine: sa.Engine, clock: SetClock, **attributes: Any) -> str:
    """A study of the same patient that comes in now; its UID."""
    uid = new_uid()
    known = {"Modality": "CT", "PatientID": "P1", "BodyPartExamined": "CHEST", "StudyDate": "20270220"}
    made = header(StudyInstanceUID=uid, **known | attributes)
    fill_together(engine, [made], now=clock.now(), quiet=timedelta(minutes=1))
    return uid


def suggested(engine: sa.Engine, scope: Scope | None = None) -> list[list[str]]:
    with engine.connect() as connection:
        found = list_follow_ups(connection, Scope(), is_open=None)
        told = do.suggestions(connection, scope or Scope(), found)
    return [list(told.get(one.row.item, ())) for one in found]


@pytest.mark.parametrize(
    ("attributes", "fits"),
    [
        ({}, True),
        ({"BodyPartExamined": ""}, True),
        ({"StudyDate": ""}, True),
        ({"Modality": "MR"}, False),
        ({"BodyPartExamined": "KNEE"}, False),
        ({"PatientID": "P2"}, False),
        ({"StudyDate": "20260101"}, False),
    ],
)
def test_a_later_study_of_that_patient_and_kind_is_suggested_and_closes_nothing(
    engine: sa.Engine, clock: SetClock, attributes: dict[str, Any], fits: bool
) -> None:
    before = arrives(engine, clock, StudyDate="20261124")
    signed(engine, clock, version(CHEST, study_uid=before), patient=patient_of(engine, before))
    clock.advance(timedelta(days=80))
    later = arrives(engine, clock, **attributes)
    assert suggested(engine) == [[later] if fits else []]
    assert suggested(engine, Scope(facilities=frozenset({"north"}))) == [[]]
    with engine.connect() as connection:
        (one,) = list_follow_ups(connection, Scope())
    if fits:
        done = closed(engine, clock, one.row.item, study_uid=later)
        assert done.row.fulfilled_by == later
        assert suggested(engine) == [[]]


@pytest.mark.parametrize(
    ("text", "modalities"),
    [
        ("MRI brain", "MR\\"),
        ("Ultrasound of the liver or CT", "CT\\US\\"),
        ("let us see", "CT\\"),
        ("Chest x-ray", "CR\\DX\\"),
        ("Diagnostic mammography", "MG\\"),
        ("PET-CT", "CT\\PT\\"),
        ("Bone scan", "NM\\"),
    ],
)
def test_what_is_recommended_is_known_by_its_words_else_by_what_the_report_is_of(
    engine: sa.Engine, clock: SetClock, text: str, modalities: str
) -> None:
    (one,) = signed(engine, clock, version(FollowUp(text=text, due_on="2027-01-01")))
    assert one.row.modalities == modalities


# -- over HTTP ---------------------------------------------------------------------------------------------------------


@pytest.mark.rooms("sqlite", "postgres")
def test_a_recommendation_of_a_signed_report_is_listed_escalated_and_closed(
    client: httpx.Client, room: Room, clock: SetClock
) -> None:
    desk = Desk(room=room, client=client)
    desk.furnish()
    desk.receive()
    text = {**TEXT, "follow_ups": [{"text": CHEST.text, "due_on": CHEST.due_on}]}
    report = desk.give(desk.write(desk.begin(), text), "sign", reader="ada")
    (one,) = client.get("/followups").json()
    assert (one["report"], one["text"], one["state"], one["is_overdue"]) == (report["id"], CHEST.text, "open", False)
    task = client.get(f"/fhir/Task/{one['id']}").json()
    assert (task["description"], task["restriction"]["period"]["end"][:10]) == (
        "Follow-up: CT chest in three months.",
        "2027-02-25",
    )
    clock.advance(timedelta(days=95))
    fire_marks(room.engine, clock.now(), lambda connection, events: announce(connection, room.queue, events))
    room.queue.drain()
    (escalation,) = client.get("/escalations").json()
    assert (escalation["category"], escalation["item"]) == (3, one["id"])
    assert escalation["reason"] == f"Follow-up {one['workitem']} was due, and nobody has closed it."
    assert [rung["role"] for rung in escalation["ladder"]] == ["desk", "supervisor"]
    assert [found["is_overdue"] for found in client.get("/followups?overdue=true").json()] == [True]
    assert 'readingroom_follow_ups{state="overdue"} 1.0' in client.get("/metrics").text
    later = new_uid()
    fill(
        room.engine,
        header(StudyInstanceUID=later, Modality="CT", PatientID="P1", StudyDate="20270301"),
    )
    with at_work(room.engine, clock) as work:
        work.connection.execute(t.study.update().where(t.study.c.study_uid == later).values(received_at=clock.now()))
    assert client.get(f"/followups/{one['id']}").json()["suggested"] == [later]
    answer = client.post(f"/followups/{one['id']}/close", json={"outcome": "done", "study_uid": later})
    assert (answer.status_code, answer.json()["state"], answer.json()["fulfilled_by"]) == (200, "closed", later)
    assert answer.json()["closed_by"] == "Local operator"
    assert client.get("/followups").json() == []
    assert client.get("/followups?state=closed").json() == [answer.json()]
    assert client.post(f"/followups/{one['id']}/close", json={"outcome": "done"}).status_code == 409
    with room.engine.connect() as connection:
        events = connection.execute(
            sa.select(t.event.c.type, t.event.c.payload).where(t.event.c.type.startswith("FollowUp"))
        ).all()
    assert [event.type for event in events] == [do.OPENED, do.CLOSED]
    assert CHEST.text not in orjson.dumps([orjson.loads(event.payload) for event in events]).decode()


def test_one_that_a_client_ends_as_a_task_is_closed_too(client: httpx.Client, room: Room, clock: SetClock) -> None:
    (one,) = signed(room.engine, clock, version(CHEST))
    task = client.get(f"/fhir/Task/{one.row.item}")
    ended = task.json() | {"status": "cancelled", "statusReason": {"text": "moved away"}}
    headers = {"If-Match": task.headers["etag"], "Content-Type": "application/fhir+json"}
    assert client.put(f"/fhir/Task/{one.row.item}", json=ended, headers=headers).status_code == 200
    (shown,) = client.get("/followups?state=closed").json()
    assert (shown["state"], shown["outcome"], shown["note"]) == ("closed", None, "moved away")
    assert shown["closed_at"]


@pytest.mark.parametrize(
    "query", ["state=done", "overdue=yes", "limit=0", "limit=1001", "limit=x", "patient=P1", "facility=north&sort=x"]
)
def test_a_parameter_that_is_none_is_refused(client: httpx.Client, query: str) -> None:
    answer = client.get(f"/followups?{query}")
    assert answer.status_code == 400
    assert client.get("/followups?facility=north").json() == []
    assert client.get("/followups/nobody").status_code == 404
    assert client.post("/followups/nobody/close", json={"outcome": "done"}).status_code == 404
