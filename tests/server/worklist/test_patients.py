"""Patients that change and merge: what becomes of studies, items, orders and reports, and of what comes later."""

from __future__ import annotations

from typing import Any

import httpx
import orjson
import pytest
import sqlalchemy as sa
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from readingroom.errors import Conflict, Invalid, NotFound
from readingroom.model import LOCAL_OPERATOR, Scope
from server.room import Room
from server.worklist.items import working
from server.worklist.orders import place_order
from server.worklist.patients import merge_patients, undo_merge, update_patient
from server.worklist.steps import schedule_step
from storage.catalog import schema as t
from storage.catalog.merges import count_moves
from storage.catalog.orders import StoredOrder, orders_for
from storage.catalog.reports import report_of
from storage.catalog.steps import StoredStep, steps_of
from storage.catalog.work_items import ordered_reading, ups_of
from tests.catalog import fill, header
from tests.retrieve import JSON
from tests.stow import store
from tests.synthetic import ct_series, new_uid, part10
from tests.worklist import attribute

BOTH = pytest.mark.rooms("sqlite", "postgres")
ADA = {"00100010": attribute("PN", {"Alphabetic": "Ada^A"}), "00100030": attribute("DA", "19700101")}


def change(room: Room, act: Any, **told: Any) -> Any:
    """One command, with all that follows from it done."""
    with working(room.engine, room.clock, LOCAL_OPERATOR, Scope(), queue=room.queue) as work:
        made = act(work, **told)
    room.queue.drain()
    return made


def update(room: Room, patient_id: str, who: dict[str, Any], **told: Any) -> None:
    known = {"facility": "local", "issuer": "", "source": "ADT^A08 of HIS"} | told
    change(room, update_patient, patient_id=patient_id, who=who, **known)


def merge(room: Room, from_id: str, into_id: str, **told: Any) -> str:
    known = {"facility": "local", "issuer": "", "source": "ADT^A40 of HIS"} | told
    id: str = change(room, merge_patients, from_id=from_id, into_id=into_id, **known)
    return id


def undo(room: Room, id: str) -> None:
    change(room, undo_merge, merge_id=id, source="somebody at the desk")


def add(room: Room, patient_id: str, name: str = "Old^Name", facility: str = "local", **attributes: Any) -> str:
    """A study of a patient."""
    study_uid = new_uid()
    made = header(StudyInstanceUID=study_uid, PatientID=patient_id, PatientName=name, **attributes)
    fill(room.engine, made, facility=facility)
    return study_uid


def said(room: Room, study_uid: str) -> tuple[str | None, str | None, tuple[str, ...]]:
    """Patient ID, name and other ids of a study."""
    with room.engine.connect() as connection:
        row = connection.execute(sa.select(t.study).where(t.study.c.study_uid == study_uid)).one()
    shown = orjson.loads(row.row.replace(b"\x01", b"")) if b"\x01" in row.row else orjson.loads(row.row)
    names = shown["00100010"].get("Value", [{}])
    others = orjson.loads(row.extra).get("00101002", {}).get("Value", [])
    return row.patient_id, names[0].get("Alphabetic"), tuple(one["00100020"]["Value"][0] for one in others)


# -- who somebody is ---------------------------------------------------------------------------------------------------


@BOTH
def test_a_message_tells_studies_who_their_patient_is(room: Room, client: httpx.Client) -> None:
    mine, others = add(room, "P1"), add(room, "P2")
    elsewhere = add(room, "P1", facility="north")
    update(room, "P1", ADA)
    assert said(room, mine) == ("P1", "Ada^A", ())
    assert said(room, others)[1] == said(room, elsewhere)[1] == "Old^Name"
    (found,) = client.get("/dicomweb/studies", params={"PatientName": "ada*"}, headers=JSON).json()
    assert found["0020000D"]["Value"] == [mine]
    (entry,) = client.get(f"/dicomweb/studies/{mine}/history").json()
    assert (entry["by"], entry["reason"]) == ("server", "Particulars of the patient as told by ADT^A08 of HIS")


def test_a_message_that_says_nothing_new_changes_nothing(room: Room, client: httpx.Client) -> None:
    mine = add(room, "P1", name="Ada^A^^", PatientBirthDate="19700101")
    update(room, "P1", ADA)
    update(room, "P1", ADA)
    assert client.get(f"/dicomweb/studies/{mine}/history").json() == []


def test_what_comes_later_says_what_the_message_said(room: Room, client: httpx.Client) -> None:
    update(room, "P1", ADA)
    (image,) = ct_series(1, PatientID="P1", PatientName="Typo^Ad")
    store(client, part10(image))
    room.queue.drain()
    assert said(room, image.StudyInstanceUID)[1] == "Ada^A"
    (shown,) = client.get(f"/dicomweb/studies/{image.StudyInstanceUID}/metadata", headers=JSON).json()
    previous = shown["04000561"]["Value"][0]["04000550"]["Value"][0]
    assert previous["00100010"]["Value"] == [{"Alphabetic": "Typo^Ad"}]


def test_what_a_person_has_corrected_stays_and_the_rest_follows(room: Room, client: httpx.Client) -> None:
    mine = add(room, "P1")
    body = orjson.dumps({"00100010": attribute("PN", {"Alphabetic": "Seen^By"})})
    kind = {"Content-Type": "application/dicom+json"}
    client.patch(f"/dicomweb/studies/{mine}", params={"reason": "ask her"}, content=body, headers=kind)
    update(room, "P1", ADA)
    with room.engine.connect() as connection:
        row = connection.execute(sa.select(t.study).where(t.study.c.study_uid == mine)).one()
    assert said(room, mine)[1] == "Seen^By"
    assert row.birth_date == "19700101"


def test_an_empty_element_takes_a_value_away_and_ids_are_left_alone(room: Room) -> None:
    mine = add(room, "P1", PatientBirthDate="19700101", PatientSex="F")
    update(room, "P1", {"00100030": attribute("DA"), "00100020": attribute("LO", "P9")})
    with room.engine.connect() as connection:
        row = connection.execute(sa.select(t.study).where(t.study.c.study_uid == mine)).one()
    assert (row.patient_id, row.birth_date, row.sex) == ("P1", None, "F")


@pytest.mark.parametrize("patient_id", ["", "x" * 65, "a\\b", "a\nb"])
def test_an_id_that_is_none_is_refused(room: Room, patient_id: str) -> None:
    with pytest.raises(Invalid):
        update(room, patient_id, ADA)
    with pytest.raises(Invalid):
        merge(room, "P1", patient_id)


def test_an_id_of_another_issuer_is_another_patient(room: Room) -> None:
    mine, theirs = add(room, "P1"), add(room, "P1", IssuerOfPatientID="ELSEWHERE")
    update(room, "P1", ADA, issuer="ELSEWHERE")
    assert [said(room, one)[1] for one in (mine, theirs)] == ["Old^Name", "Ada^A"]
    merge(room, "P1", "P2")
    assert [said(room, one)[0] for one in (mine, theirs)] == ["P2", "P1"]


# -- merges ------------------------------------------------------------------------------------------------------------


@BOTH
def test_a_merge_moves_studies_orders_items_and_reports_and_its_undoing_moves_them_back(
    room: Room, client: httpx.Client
) -> None:
    old, survivors = add(room, "A", AccessionNumber="ACC1"), add(room, "B", name="Bea^B")
    order = StoredOrder(facility="local", id="o1", accession_number="ACC2", patient_id="A")
    step = StoredStep(facility="local", id="s1", accession_number="ACC2", patient_id="A")
    with working(room.engine, room.clock, LOCAL_OPERATOR, Scope(), queue=room.queue) as work:
        place_order(work, order)
        schedule_step(work, step)
        report, _ = room.reports.begin(work, facility="local", study_uid=old)
    history = client.get(f"/dicomweb/studies/{old}/history").json()

    id = merge(room, "A", "B")
    assert said(room, old) == ("B", "Bea^B", ("A",))
    assert said(room, survivors) == ("B", "Bea^B", ())
    with room.engine.connect() as connection:
        assert count_moves(connection, id) == {"study": 1, "order": 1, "item": 1, "step": 1}
        item = ordered_reading(connection, "local", "ACC2")
        assert item is not None
        assert ups_of(connection, item)["00100020"]["Value"] == ["B"]
        assert [one.patient_id for one in orders_for(connection, "local", "ACC2")] == ["B"]
        (planned,) = steps_of(connection, "local", accession_number="ACC2")
        assert (planned.patient_id, planned.item["00100010"]["Value"]) == ("B", [{"Alphabetic": "Bea^B"}])
        led = report_of(connection, "local", old)
        owner = sa.select(t.study.c.patient).where(t.study.c.study_uid == survivors)
        assert led is not None
        assert led.patient == connection.execute(owner).scalar_one() != report.patient
    for patient, found in (("A", {old}), ("B", {old, survivors})):
        rows = client.get("/dicomweb/studies", params={"PatientID": patient}, headers=JSON).json()
        assert {row["0020000D"]["Value"][0] for row in rows} == found
        assert {row["00100020"]["Value"][0] for row in rows} == {"B"}

    undo(room, id)
    assert said(room, old) == ("A", "Old^Name", ())
    assert said(room, survivors) == ("B", "Bea^B", ())
    assert len(client.get(f"/dicomweb/studies/{old}/history").json()) == len(history) + 2
    with room.engine.connect() as connection:
        item = ordered_reading(connection, "local", "ACC2")
        assert item is not None
        assert ups_of(connection, item)["00100020"]["Value"] == ["A"]
        assert [one.patient_id for one in orders_for(connection, "local", "ACC2")] == ["A"]
        (planned,) = steps_of(connection, "local", accession_number="ACC2")
        assert (planned.patient_id, "Value" in planned.item["00100010"]) == ("A", False)
        back = report_of(connection, "local", old)
        assert back is not None
        assert back.patient == report.patient
    assert len(client.get("/dicomweb/studies", params={"PatientID": "A"}, headers=JSON).json()) == 1


def test_images_that_come_later_under_the_old_id_join_the_survivor_until_it_is_undone(
    room: Room, client: httpx.Client
) -> None:
    id = merge(room, "RR-0001", "B")  # nobody knows that patient yet
    (image,) = ct_series(1)
    store(client, part10(image))
    room.queue.drain()
    assert said(room, image.StudyInstanceUID) == ("B", "Phantom^Ada", ("RR-0001",))
    (late,) = ct_series(1, study_uid=image.StudyInstanceUID)
    store(client, part10(late))
    shown = client.get(f"/dicomweb/studies/{image.StudyInstanceUID}/metadata", headers=JSON).json()
    assert [one["00100020"]["Value"] for one in shown] == [["B"], ["B"]]
    assert all("04000561" in one for one in shown)
    undo(room, id)
    assert said(room, image.StudyInstanceUID) == ("RR-0001", "Phantom^Ada", ())


def test_an_undo_leaves_what_a_person_has_moved_on_since(room: Room, client: httpx.Client) -> None:
    mine, other = add(room, "A"), add(room, "A")
    id = merge(room, "A", "B")
    body = orjson.dumps({"00100020": attribute("LO", "C")})
    kind = {"Content-Type": "application/dicom+json"}
    client.patch(f"/dicomweb/studies/{mine}", params={"reason": "it is hers"}, content=body, headers=kind)
    undo(room, id)
    assert [said(room, one)[0] for one in (mine, other)] == ["C", "A"]


@BOTH
def test_chains_hold_and_are_undone_from_their_end(room: Room) -> None:
    mine = add(room, "A")
    first = merge(room, "A", "B")
    second = merge(room, "B", "C")
    assert said(room, mine) == ("C", "Old^Name", ("A", "B"))
    assert merge(room, "A", "C") == first  # they are the same already
    with pytest.raises(Conflict, match=second):
        undo(room, first)
    undo(room, second)
    assert said(room, mine) == ("B", "Old^Name", ("A",))
    undo(room, first)
    assert said(room, mine) == ("A", "Old^Name", ())
    with pytest.raises(Conflict, match="undone before"):
        undo(room, first)


def test_loops_are_refused_and_repeats_change_nothing(room: Room) -> None:
    mine = add(room, "A")
    id = merge(room, "A", "B")
    assert merge(room, "A", "B") == id
    assert merge(room, "B", "B") == merge(room, "A", "A ", issuer="ELSEWHERE") == ""
    for from_id, into_id in (("B", "A"), ("A", "C")):
        with pytest.raises(Conflict):
            merge(room, from_id, into_id)
    merge(room, "B", "C")
    with pytest.raises(Conflict):
        merge(room, "C", "A")
    assert said(room, mine)[0] == "C"


def test_a_merge_of_another_facility_is_not_there_to_be_undone(room: Room) -> None:
    id = merge(room, "A", "B", facility="north")
    mine = Scope(facilities=frozenset({"local"}))
    with working(room.engine, room.clock, LOCAL_OPERATOR, mine, queue=room.queue) as work, pytest.raises(NotFound):
        undo_merge(work, id, "somebody")


@given(st.lists(st.tuples(st.sampled_from("ABC"), st.sampled_from("ABC"), st.booleans()), max_size=5))
@settings(max_examples=5, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_when_all_merges_are_undone_every_study_is_whose_it_was(room: Room, steps: list[tuple[str, str, bool]]) -> None:
    own = new_uid()[-12:]  # every example has patients of its own
    came = {add(room, f"{patient_id}{own}"): f"{patient_id}{own}" for patient_id in "ABC"}
    open_merges: list[str] = []
    for from_id, into_id, is_undone in steps:
        try:
            id = merge(room, from_id + own, into_id + own)
            if id and id not in open_merges:
                open_merges.append(id)
        except Conflict:
            pass
        if is_undone and open_merges:
            undo(room, open_merges.pop())
    while open_merges:
        undo(room, open_merges.pop())
    assert {one: said(room, one)[0] for one in came} == came
    assert all(said(room, one)[2] == () for one in came)
