"""ServiceRequest: kept as it was sent, and the orders and readings that follow from it."""

from __future__ import annotations

import json
from datetime import timedelta
from typing import Any

import httpx
import pytest

from readingroom.clock import SetClock
from server.fhir.imagingstudy import ImagingStudyType
from server.fhir.order import ServiceRequestType
from server.fhir.patient import PatientType
from server.fhir.shown import Shown
from server.fhir.task import TaskType
from server.room import Room
from server.settle import settle_studies
from server.worklist import items
from server.worklist.steps import schedule_step, steps_of
from storage.catalog.ids import patient_key, study_fhir_id
from storage.catalog.orders import order_of, orders_for
from storage.catalog.steps import StoredStep
from storage.catalog.work_items import StoredItem, item_by_id, ordered_reading
from tests import fhir, synthetic
from tests.corpus import FOLDER
from tests.stow import store
from tests.synthetic import part10
from tests.worklist import add, at_work

BOTH = pytest.mark.rooms("sqlite", "postgres")
REQUEST, STUDY, TASK = ServiceRequestType(), ImagingStudyType(), TaskType()
UID = "1.2.3.4"
EXAMPLES = sorted(FOLDER.glob("fhir/*/[Ss]ervice[Rr]equest-*.json"))
ACCESSION = {
    "type": {"coding": [{"system": "http://terminology.hl7.org/CodeSystem/v2-0203", "code": "ACSN"}]},
    "value": "A1",
}


def an_order(**changes: Any) -> dict[str, Any]:
    known = {
        "status": "active",
        "intent": "order",
        "priority": "urgent",
        "identifier": [ACCESSION],
        "code": {"text": "CT of the head"},
        "reasonCode": [{"text": "headache"}],
        "subject": {"identifier": {"system": "urn:x-readingroom:issuer:NORTH", "value": "P1"}},
        "authoredOn": "2026-01-01T08:00:00Z",
    }
    return {name: value for name, value in {**known, **changes}.items() if value is not None}


def place(room: Room, **changes: Any) -> Shown:
    return fhir.create(room, REQUEST, an_order(**changes))


def change(room: Room, order: Shown, **changes: Any) -> Shown:
    return fhir.update(room, REQUEST, {**fhir.check(order), **changes})


def arrive(client: httpx.Client, room: Room, clock: SetClock, *, is_settled: bool = True) -> None:
    told = {"PatientID": "P1", "IssuerOfPatientID": "NORTH", "AccessionNumber": "A1"}
    store(client, part10(synthetic.ct_series(1, StudyInstanceUID=UID, **told)[0]))
    if is_settled:
        clock.advance(timedelta(hours=1))
        assert settle_studies(room) == 1
        room.queue.drain()


def reading(room: Room, accession: str = "A1") -> StoredItem:
    with room.engine.connect() as connection:
        found = ordered_reading(connection, "local", accession)
    assert found is not None
    return found


def study(room: Room) -> dict[str, Any]:
    found = fhir.read(room, STUDY, study_fhir_id("local", UID))
    assert found is not None
    return found.resource


def task(room: Room, item: StoredItem) -> dict[str, Any]:
    found = fhir.read(room, TASK, item.id)
    assert found is not None
    return found.resource


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_an_official_example_comes_back_as_it_was_sent_and_orders_nothing(room: Room, path: Any) -> None:
    sent = json.loads(path.read_text())
    found = fhir.check(fhir.create(room, REQUEST, sent))
    head = {"id", "meta"}
    assert {k: v for k, v in found.items() if k not in head} == {k: v for k, v in sent.items() if k not in head}
    with fhir.looking(room) as session:
        assert TASK.versions(session, None, limit=1) == []


@BOTH
def test_an_order_waits_for_its_images_and_leads_to_them(client: httpx.Client, room: Room, clock: SetClock) -> None:
    order = place(room)
    waiting = reading(room)
    assert (waiting.state, waiting.rank, waiting.study_uid) == ("waiting", 1, None)
    shown = task(room, waiting)
    assert shown["status"] == "requested"
    assert shown["basedOn"] == [{"reference": f"ServiceRequest/{order.id}"}]
    assert shown["for"]["identifier"]["value"] == "P1"
    arrive(client, room, clock)
    ready = reading(room)
    assert (ready.id, ready.state, ready.study_uid, ready.rank) == (waiting.id, "ready", UID, 1)
    assert task(room, ready)["focus"] == {"reference": f"ImagingStudy/{study_fhir_id('local', UID)}"}
    assert task(room, ready)["for"] == {"reference": f"Patient/{patient_key('NORTH', 'P1')}"}
    assert study(room)["basedOn"] == [{"reference": f"ServiceRequest/{order.id}", "identifier": ACCESSION}]


@BOTH
def test_an_order_that_comes_late_is_linked_to_the_study_that_is_there(
    client: httpx.Client, room: Room, clock: SetClock
) -> None:
    arrive(client, room, clock)
    before, item = study(room), reading(room)
    assert "reference" not in before["basedOn"][0]
    order = place(room, priority="stat")
    after, ordered = study(room), reading(room)
    assert (ordered.id, ordered.priority, ordered.rank) == (item.id, "stat", 3)
    assert after["basedOn"][0]["reference"] == f"ServiceRequest/{order.id}"
    assert int(after["meta"]["versionId"]) > int(before["meta"]["versionId"])
    assert task(room, ordered)["basedOn"] == [{"reference": f"ServiceRequest/{order.id}"}]


def test_an_order_that_comes_while_images_arrive_has_one_reading(
    client: httpx.Client, room: Room, clock: SetClock
) -> None:
    arrive(client, room, clock, is_settled=False)
    place(room)
    waiting = reading(room)
    clock.advance(timedelta(hours=1))
    settle_studies(room)
    room.queue.drain()
    assert reading(room).id == waiting.id
    with fhir.looking(room) as session:
        assert {one.id for one in TASK.versions(session, None, limit=99)} == {waiting.id}


def test_the_order_says_how_urgent_it_is(room: Room) -> None:
    order = place(room)
    change(room, order, priority="stat")
    assert (reading(room).rank, reading(room).priority) == (3, "stat")
    with at_work(room.engine) as work:
        items.flag_item(work, item_by_id(work.connection, reading(room).id), "bleeding", "stat")
    change(room, order, priority="routine")
    assert (reading(room).rank, reading(room).priority) == (3, "routine")


@pytest.mark.parametrize("status", ["revoked", "entered-in-error"])
def test_an_order_that_is_taken_back_cancels_its_reading(room: Room, status: str) -> None:
    change(room, place(room), status=status)
    assert (reading(room).state, reading(room).reason) == ("cancelled", "The order was revoked.")


def test_a_reading_that_somebody_has_is_asked_to_be_cancelled(room: Room) -> None:
    order = place(room)
    with at_work(room.engine) as work:
        found = items.make_ready(work, item_by_id(work.connection, reading(room).id))
        items.claim_item(work, found)
    change(room, order, status="revoked")
    assert reading(room).state == "claimed"


def test_an_order_on_hold_holds_its_reading(room: Room) -> None:
    order = place(room)
    held = change(room, order, status="on-hold")
    assert (reading(room).state, reading(room).reason) == ("held", "The order is on hold.")
    change(room, held, status="active")
    assert reading(room).state == "waiting"


def test_several_orders_of_one_accession_number_have_one_reading(room: Room) -> None:
    first, second = place(room, priority="routine"), place(room, priority="stat")
    item = reading(room)
    assert item.rank == 3
    refs = [{"reference": f"ServiceRequest/{one.id}"} for one in (first, second)]
    assert task(room, item)["basedOn"] == refs
    change(room, second, status="revoked")
    assert (reading(room).id, reading(room).state, reading(room).rank) == (item.id, "waiting", 0)
    change(room, first, status="revoked")
    assert reading(room).state == "cancelled"


def test_an_order_that_is_taken_up_again_has_a_new_reading(room: Room) -> None:
    order = place(room)
    revoked = change(room, order, status="revoked")
    cancelled = reading(room)
    change(room, revoked, status="active")
    assert reading(room).id != cancelled.id
    assert reading(room).state == "waiting"


def test_another_accession_number_is_another_reading(room: Room) -> None:
    order = place(room)
    change(room, order, identifier=[{**ACCESSION, "value": "A2"}])
    assert reading(room, "A1").state == "cancelled"
    assert reading(room, "A2").state == "waiting"


def test_what_is_deleted_asks_for_nothing_any_more(room: Room) -> None:
    order = place(room)
    with fhir.changing(room) as session:
        before = REQUEST.lock(session, order.id)
        assert before is not None
        REQUEST.delete(session, before)
    assert reading(room).state == "cancelled"
    with room.engine.connect() as connection:
        assert orders_for(connection, "local", "A1") == []


@pytest.mark.parametrize(
    "changes",
    [{"status": "draft"}, {"intent": "proposal"}, {"identifier": [{"value": "A1"}]}, {"doNotPerform": True}],
)
def test_what_asks_for_nothing_makes_no_reading(room: Room, changes: dict[str, Any]) -> None:
    place(room, **changes)
    with room.engine.connect() as connection:
        assert ordered_reading(connection, "local", "A1") is None


def test_said_again_an_order_changes_nothing(room: Room) -> None:
    order = place(room)
    version = reading(room).version
    change(room, order, note=[{"text": "again"}])
    assert reading(room).version == version


def test_the_work_knows_what_was_ordered(room: Room) -> None:
    place(room)
    with room.engine.connect() as connection:
        order = order_of(connection, "local", "A1")
    assert order is not None
    assert (order.procedure, order.reason, order.patient_id, order.issuer) == (
        "CT of the head",
        "headache",
        "P1",
        "NORTH",
    )


def test_every_item_that_leads_to_an_order_is_at_another_version_with_it(room: Room) -> None:
    first, second = (add(room.engine, accession_number="A1") for _ in range(2))
    before = {one.id: task(room, one)["meta"]["versionId"] for one in (first, second)}
    order = place(room)
    for one in (first, second):
        now = task(room, one)
        assert now["basedOn"] == [{"reference": f"ServiceRequest/{order.id}"}]
        assert int(now["meta"]["versionId"]) == int(before[one.id]) + 1


# -- what a modality is to do ------------------------------------------------------------------------------------------

DETAILS = {
    "orderDetail": [{"coding": [{"system": "http://dicom.nema.org/resources/ontology/DCM", "code": "CT"}]}],
    "code": {"coding": [{"system": "http://www.radlex.org", "code": "RPID22", "display": "CT Head"}], "text": "Head"},
    "occurrenceDateTime": "2026-01-02T09:30:00Z",
    "requester": {"display": "Okafor, Ada"},
    "performer": [{"type": "Device", "identifier": {"value": "CT1"}, "display": "Room 1"}],
    "locationReference": [{"display": "North wing"}],
    "subject": {"display": "Jane Doe", "identifier": {"system": "urn:x-readingroom:issuer:NORTH", "value": "P1"}},
}


def steps(room: Room) -> list[StoredStep]:
    with room.engine.connect() as connection:
        return steps_of(connection, "local", accession_number="A1")


@BOTH
def test_an_order_puts_a_step_on_the_worklist_and_takes_it_off(room: Room) -> None:
    order = place(room, **DETAILS)
    (step,) = steps(room)
    assert (step.state, step.modality, step.station_ae) == ("scheduled", "CT", "CT1")
    assert (step.starts_on, step.starts_at) == ("20260102", "093000.000000")
    assert (step.patient_id, step.issuer, step.order) == ("P1", "NORTH", order.id)
    item = step.item
    assert item["00100010"]["Value"] == [{"Alphabetic": "Jane Doe"}]
    assert item["00321060"]["Value"] == ["Head"]
    assert item["00321064"]["Value"][0]["00080102"]["Value"] == ["RADLEX"]
    assert item["00400100"]["Value"][0]["00400011"]["Value"] == ["North wing"]
    assert item["00401003"]["Value"] == ["HIGH"]

    held = change(room, order, status="on-hold")
    assert [(one.state, one.reason) for one in steps(room)] == [("cancelled", "The order is on hold.")]
    again = change(room, held, status="active", occurrenceDateTime="2026-01-03")
    assert [(one.state, one.reason, one.starts_on) for one in steps(room)] == [("scheduled", "", "20260103")]
    change(room, again, intent="plan")
    assert [(one.id, one.state) for one in steps(room)] == [(step.id, "cancelled")]


def test_two_orders_of_a_number_are_two_steps_of_one_study(room: Room) -> None:
    place(room, **DETAILS)
    place(room, **DETAILS)
    one, two = steps(room)
    assert (one.id != two.id, one.study_uid) == (True, two.study_uid)


def test_an_order_for_images_that_are_here_asks_no_modality(client: httpx.Client, room: Room, clock: SetClock) -> None:
    arrive(client, room, clock)
    place(room, **DETAILS)
    assert steps(room) == []


def test_a_step_is_of_the_patient_that_a_client_has_told_of(room: Room) -> None:
    person = {
        "name": [{"family": "Müller", "given": ["Jürgen", "Max"]}],
        "birthDate": "1970-01-02",
        "gender": "male",
        "identifier": [{"system": "urn:x-readingroom:issuer:NORTH", "value": "P7"}],
    }
    patient = fhir.create(room, PatientType(), person)
    place(room, **{**DETAILS, "subject": {"reference": f"Patient/{patient.id}"}})
    (step,) = steps(room)
    assert (step.patient_id, step.issuer) == ("P7", "NORTH")
    assert step.item["00100010"]["Value"] == [{"Alphabetic": "Müller^Jürgen^Max"}]
    assert step.item["00100030"]["Value"] == ["19700102"]
    assert step.item["00100040"]["Value"] == ["M"]


def test_a_step_that_another_system_has_scheduled_follows_its_order(room: Room) -> None:
    order = place(room, **DETAILS, status="draft")
    with at_work(room.engine) as work:
        schedule_step(work, StoredStep(facility="local", id="S9", order=order.id, accession_number="A1"))
    revoked = change(room, change(room, order, status="active"), status="revoked")
    assert [(one.id, one.state) for one in steps(room)] == [("S9", "cancelled")]
    change(room, revoked, status="active")
    assert [(one.id, one.state) for one in steps(room)] == [("S9", "scheduled")]
