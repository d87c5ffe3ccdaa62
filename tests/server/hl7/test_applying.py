"""What follows from messages: orders with their steps, patients, merges, appointments, and what fails."""

from __future__ import annotations

from typing import Any

import httpx
import pytest

from readingroom.model import LOCAL_OPERATOR, Scope
from server.hl7.inbox import retry_message
from server.room import Room
from server.settings import Settings
from server.worklist.items import working
from storage.catalog.inbox import list_messages
from storage.catalog.orders import StoredOrder, orders_for
from storage.catalog.steps import StoredStep, steps_of
from tests.hl7 import SENDERS, deliver, message

PID = "PID|||4711^^^^MR||Müller^Jürgen^^^Dr.||19700101|M"


@pytest.fixture
def settings(settings: Settings) -> Settings:
    return settings.model_copy(update={"hl7": settings.hl7.model_copy(update={"senders": SENDERS})})


def order(control: str = "NW", *, accession: str = "A1", placer: str = "P1", **f: str) -> bytes:
    """An order of a CT; `f` are further fields of the message: ``orc5``, ``obr20``, ``zds1``."""

    def segment(name: str, fields: dict[int, str]) -> str:
        known = {**fields, **{int(key[3:]): value for key, value in f.items() if key.startswith(name.lower())}}
        return name + "".join(f"|{known.get(number, '')}" for number in range(1, max(known) + 1))

    orc = segment("ORC", {1: control, 2: placer, 3: f"F{placer}"})
    obr = segment("OBR", {1: "1", 4: "CTHEAD^CT of the head^99HOSP", 18: accession, 19: f"R{placer}", 24: "CT"})
    zds = [segment("ZDS", {})] if "zds1" in f else []
    tq1 = segment("TQ1", {1: "1", 7: "20261125093000", 9: f.get("tq19", "R")})
    return message(PID, orc, tq1, obr, *zds, kind="ORM^O01", id="o")


def orders(room: Room, accession: str = "A1") -> list[StoredOrder]:
    return room.query(orders_for, "local", accession)


def steps(room: Room, accession: str = "A1") -> list[StoredStep]:
    return room.query(steps_of, "local", accession_number=accession)


@pytest.mark.rooms("sqlite", "postgres")
def test_an_order_leads_to_a_reading_a_step_and_a_service_request(room: Room, client: httpx.Client) -> None:
    sent = order(obr20="SPS1", zds1="1.2.3^100^Application^DICOM", tq19="S", obr31="^Headache")
    (row,) = deliver(room, sent)
    assert (row.state, row.error, row.about) == ("applied", "", "order A1")
    (placed,) = orders(room)
    assert (placed.state, placed.priority, placed.patient_id, placed.reason) == ("active", "stat", "4711", "Headache")
    assert placed.item is not None
    (step,) = steps(room)
    assert (step.id, step.study_uid, step.modality, step.procedure_id) == ("SPS1", "1.2.3", "CT", "RP1")
    assert (step.starts_on, step.order) == ("20261125", placed.id)
    assert step.item["00100010"]["Value"] == [{"Alphabetic": "Müller^Jürgen^^Dr."}]
    request = client.get(f"/fhir/ServiceRequest/{placed.id}").json()
    assert [one["value"] for one in request["identifier"]] == ["A1", "P1", "FP1"]
    assert (request["status"], request["priority"]) == ("active", "stat")
    person = client.get(f"/fhir/{request['subject']['reference']}").json()
    assert person["name"][0]["family"] == "Müller"


def test_said_again_an_order_changes_nothing(room: Room) -> None:
    deliver(room, order())
    before = orders(room), steps(room)
    deliver(room, order("XO", f7="20261124094000"))
    assert (orders(room), steps(room)) == before


def test_an_order_is_changed_held_released_and_cancelled(room: Room) -> None:
    states = []
    for control, more in (("NW", {}), ("HD", {}), ("RL", {}), ("SC", {"orc5": "CM"}), ("CA", {})):
        rows = deliver(room, order(control, **more))
        assert rows[-1].state == "applied", rows[-1].error
        states.append(orders(room)[0].state)
    assert states == ["active", "on-hold", "active", "completed", "revoked"]
    assert [one.state for one in steps(room)] == ["cancelled"]


def test_a_change_moves_the_step(room: Room) -> None:
    deliver(room, order(obr20="S1"), order("XO", obr20="S1", obr24="MR"))
    assert [(one.id, one.modality) for one in steps(room)] == [("S1", "MR")]


def test_two_orders_of_one_accession_number_are_two_steps_and_end_one_by_one(room: Room) -> None:
    deliver(room, order(placer="P1"), order(placer="P2"))
    deliver(room, order("CA", placer="P1"))
    assert sorted((one.procedure_id, one.state) for one in steps(room)) == [("RP1", "cancelled"), ("RP2", "scheduled")]
    assert sorted(one.state for one in orders(room)) == ["active", "revoked"]


def test_the_steps_of_one_order_end_one_by_one(room: Room) -> None:
    group = f"ORC|{{0}}|P1\rOBR|1{'|' * 17}A1|R1|{{1}}||||CT"
    both = message(PID, group.format("NW", "S1"), group.format("NW", "S2"), "ZDS|1.2.3^100", kind="ORM^O01")
    one, other = (message(PID, group.format("CA", id), kind="ORM^O01") for id in ("S1", "S2"))
    deliver(room, both)
    assert [(step.id, step.study_uid) for step in steps(room)] == [("S1", "1.2.3"), ("S2", "1.2.3")]
    deliver(room, one)
    assert ([step.state for step in steps(room)], orders(room)[0].state) == (["cancelled", "scheduled"], "active")
    deliver(room, other)
    assert ([step.state for step in steps(room)], orders(room)[0].state) == (["cancelled"] * 2, "revoked")


def test_an_accession_number_that_is_given_later_moves_the_order(room: Room) -> None:
    deliver(room, order(accession=""), order("NA", accession="A2"))
    assert orders(room, "FP1") == []
    assert steps(room, "FP1") == []
    assert [one.accession_number for one in (*orders(room, "A2"), *steps(room, "A2"))] == ["A2", "A2"]


@pytest.mark.parametrize(
    ("sent", "state", "why"),
    [
        (message(kind="ORU^R01"), "ignored", "Reports are made here"),
        (message(PID, kind="ADT^A60"), "ignored", "lead to nothing here"),
        (message(PID, kind="ADT^A08", f11="T"), "ignored", "for training"),
        (order(obr24="LAB"), "ignored", "asks for no imaging"),
        (order("CA"), "ignored", "not known here"),
        (order("UC"), "ignored", "only tells"),
        (order("ZZ"), "failed", "'ZZ', which is no order control"),
        (order(accession="", placer="", orc3=""), "failed", "names no order"),
        (order(zds1="1.2.x"), "failed", "Study Instance UID"),
        (message(kind="ADT^A08"), "failed", "no segment PID"),
        (message("PID|||^^^^MR||X", kind="ADT^A08"), "failed", "PID-3 has no id"),
        (message(PID, kind="ADT^A40"), "failed", "no segment MRG"),
        (message(PID, "MRG|1^^^OTHER", kind="ADT^A40"), "failed", "different issuers"),
    ],
)
def test_what_leads_to_nothing_says_why(room: Room, sent: bytes, state: str, why: str) -> None:
    (row,) = deliver(room, sent)
    assert (row.state, orders(room)) == (state, [])
    assert why in row.error


def test_a_message_that_fails_holds_up_no_other_and_can_be_tried_again(room: Room, monkeypatch: Any) -> None:
    def fail(*_: object) -> None:
        raise ZeroDivisionError

    with monkeypatch.context() as patch:
        patch.setattr("server.hl7.applying.place_order", fail)
        deliver(room, order())
    assert (orders(room), steps(room)) == ([], [])
    failed, done = deliver(room, message(PID))
    assert (failed.state, failed.attempts, done.state) == ("failed", 1, "applied")
    assert failed.error.startswith("ZeroDivisionError at ")
    with working(room.engine, room.clock, LOCAL_OPERATOR, Scope(), queue=room.queue) as work:
        retry_message(work, room.queue, failed.id)
    room.queue.drain()
    assert [one.state for one in orders(room)] == ["active"]
    assert [row.state for row in room.query(list_messages, Scope())] == ["applied", "applied"]


def test_messages_are_applied_in_the_order_in_which_they_came(room: Room) -> None:
    deliver(room, order("CA"), order("NW"), order("CA", f7="2"), order("NW", f12="2.4"))
    assert [one.state for one in orders(room)] == ["active"]


@pytest.mark.rooms("sqlite", "postgres")
def test_a_merge_moves_orders_to_the_survivor(room: Room) -> None:
    deliver(room, order(), message("PID|||4712^^^^MR||Müller^Jörg", "MRG|4711", kind="ADT^A40^ADT_A39"))
    assert [one.patient_id for one in orders(room)] == ["4712"]
    assert [one.patient_id for one in steps(room)] == ["4712"]


def test_a_patient_who_is_called_otherwise_is_so_on_the_worklist_and_in_fhir(room: Room, client: httpx.Client) -> None:
    deliver(room, order(), message('PID|||4711^^^^MR||Meier^Jürgen||""|M', kind="ADT^A31"))
    assert steps(room)[0].item["00100010"]["Value"] == [{"Alphabetic": "Meier^Jürgen"}]
    request = client.get(f"/fhir/ServiceRequest/{orders(room)[0].id}").json()
    person = client.get(f"/fhir/{request['subject']['reference']}").json()
    assert (person["name"][0]["family"], "birthDate" in person) == ("Meier", False)


def test_an_appointment_moves_the_steps_of_its_order_and_takes_them_back(room: Room) -> None:
    def appointment(kind: str, starts: str) -> bytes:
        schedule = "SCH|1|APP1|||||Routine||30||" + "|" * 16 + "A1"
        return message(schedule, PID, "RGS|1", f"AIS|1||CTHEAD^CT^L|{starts}", kind=f"SIU^{kind}")

    deliver(room, order(), appointment("S13", "202611261015"))
    (step,) = steps(room)
    assert (step.starts_on, step.starts_at[:4], step.state) == ("20261126", "1015", "scheduled")
    deliver(room, appointment("S26", "202611261015"))
    assert (steps(room)[0].state, orders(room)[0].state) == ("cancelled", "active")
    deliver(room, appointment("S12", "202611271015"))
    assert (steps(room)[0].state, steps(room)[0].starts_on) == ("scheduled", "20261127")


def test_a_stay_is_an_encounter_from_admission_to_discharge(room: Room, client: httpx.Client) -> None:
    def adt(event: str, ends: str = "") -> bytes:
        stay = f"PV1|1|I{'|' * 17}V1{'|' * 25}202611241000+0000|{ends}"
        return message(PID, stay, kind=f"ADT^{event}")

    found = []
    for sent in (adt("A01"), adt("A08"), adt("A03", "202611251000+0000"), adt("A13"), adt("A11")):
        deliver(room, sent)
        (entry,) = client.get("/fhir/Encounter").json()["entry"]
        found.append((entry["resource"]["status"], "end" in entry["resource"]["period"]))
    states = ["in-progress", "in-progress", "finished", "in-progress", "cancelled"]
    assert found == [(state, state == "finished") for state in states]
    assert entry["resource"]["class"]["code"] == "IMP"


def test_an_appointment_is_shown_with_its_order(room: Room, client: httpx.Client) -> None:
    head = f"SCH|1|APP1|||||Routine||30||{'|' * 16}A1"
    deliver(room, order(), message(head, PID, "AIS|1||CTHEAD^CT^L|202611261015+0000", kind="SIU^S12"))
    (entry,) = client.get("/fhir/Appointment", params={"status": "booked"}).json()["entry"]
    told = entry["resource"]
    assert (told["start"], told["end"]) == ("2026-11-26T10:15:00.000Z", "2026-11-26T10:45:00.000Z")
    assert told["basedOn"] == [{"reference": f"ServiceRequest/{orders(room)[0].id}"}]
    deliver(room, message(head, PID, kind="SIU^S15"))
    assert client.get(f"/fhir/Appointment/{told['id']}").json()["status"] == "cancelled"


# -- the inbox ---------------------------------------------------------------------------------------------------------


def test_the_inbox_is_shown_without_what_messages_say(room: Room, client: httpx.Client) -> None:
    sent = order()
    deliver(room, sent, order("ZZ"))
    listed = client.get("/hl7/messages", params={"state": "failed"})
    assert [(one["kind"], one["state"]) for one in listed.json()] == [("ORM^O01", "failed")]
    assert "Müller" not in client.get("/hl7/messages").text
    one = client.get("/hl7/messages/1").json()
    assert (one["sender"], one["state"], one["about"]) == ("ris", "applied", "order A1")
    assert client.get("/hl7/messages/1/raw").content == sent
    wrong = {"state": "lost"}, {"limit": "0"}, {"who": "me"}
    assert [client.get("/hl7/messages", params=told).status_code for told in wrong] == [400] * 3
    assert client.get("/hl7/messages/99").status_code == 404


def test_a_message_is_replayed_and_one_that_failed_is_given_up(room: Room, client: httpx.Client) -> None:
    deliver(room, order(), order("XO", obr24="MR"), order("ZZ"))
    assert client.post("/hl7/messages/1/retry").status_code == 409  # it did not fail
    assert client.post("/hl7/messages/1/retry", json={"replay": True}).status_code == 409  # a later one holds
    assert client.post("/hl7/messages/1/retry", json={"replay": True, "force": True}).status_code == 202
    room.queue.drain()
    assert steps(room)[0].modality == "CT"
    assert client.post("/hl7/messages/3/drop").json()["state"] == "ignored"
    assert client.post("/hl7/messages/1/drop").status_code == 409
