"""Critical results over FHIR: a Communication and a Flag that follow the escalation, and that no client writes."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx
import orjson
import pytest

from readingroom.clock import SetClock
from readingroom.model import Contact
from server.fhir.communication import communication, flag
from server.fhir.parsing import dump_json, read_json
from server.fhir.publishing import publish
from server.fhir.validation import check_resource
from server.room import Room
from server.worklist.escalations import climb_due
from storage.catalog.escalations import Attempt, StoredEscalation
from tests.reports import TEXT, Desk
from tests.worklist import at_work

AT = datetime(2026, 11, 24, 22, 0, tzinfo=UTC)
FHIR = {"Content-Type": "application/fhir+json"}
OPEN = StoredEscalation(
    id="e" * 32,
    key="k",
    facility="local",
    study_uid="1.2.3",
    reason="Acute subdural <haematoma>.",
    category=1,
    ladder=b"[]",
    due_at=AT,
    opened_at=AT,
    report="a" * 32,
)
TOLD = replace(
    OPEN,
    state="acknowledged",
    due_at=None,
    closed_at=AT + timedelta(minutes=9),
    closed_by="Dr. Ward",
    read_back="Subdural, left.",
    reached_at=AT + timedelta(minutes=8),
)


def attempt(minutes: int, state: Any, channel: str, **more: Any) -> Attempt:
    contact = Contact(name="Ward 4", role="backup", channel=channel, address="")
    return Attempt(escalation=OPEN.id, rung=1, contact=contact, at=AT + timedelta(minutes=minutes), state=state, **more)


TRIED = [
    attempt(0, "failed", "smtp", plugin="escalation", error="refused"),
    attempt(1, "notified", "voice", plugin="escalation"),
    attempt(4, "no-answer", "telephone", by="ada"),
    attempt(8, "read-back", "telephone", by="ada", note="Subdural, left."),
]


def checked(resource: dict[str, Any]) -> dict[str, Any]:
    """As a client reads it; it is valid R4."""
    read: dict[str, Any] = read_json(dump_json(resource))
    assert check_resource(read) == []
    return read


def test_one_that_is_open_is_in_progress(room: Room) -> None:
    told = checked(communication(OPEN, TRIED[:1], patient="p", study="s"))
    assert (told["status"], told["priority"]) == ("in-progress", "stat")
    assert not {"sent", "received", "recipient", "medium", "sender"}.intersection(told)
    assert told["category"][1]["coding"] == [{"system": "http://www.radlex.org", "code": "RID49480"}]
    assert (told["subject"], told["about"]) == ({"reference": "Patient/p"}, [{"reference": "ImagingStudy/s"}])
    assert told["reasonReference"] == [{"reference": f"DiagnosticReport/{OPEN.report}"}]
    assert told["basedOn"] == [{"reference": f"Task/{OPEN.id}"}]
    assert [one["text"] for one in told["note"]] == ["Ward 4 (backup) by smtp: could not be reached. refused"]


def test_one_that_was_read_back_says_who_was_told_when_how_and_what_came_back() -> None:
    told = checked(communication(TOLD, TRIED, patient="p"))
    assert (told["status"], told["sent"], told["received"]) == (
        "completed",
        "2026-11-24T22:01:00.000Z",
        "2026-11-24T22:08:00.000Z",
    )
    assert told["recipient"] == [{"display": "Dr. Ward (backup)"}]
    assert told["sender"] == {"display": "ada"}
    assert told["medium"][0]["coding"][0]["code"] == "PHONE"
    assert [one["contentString"] for one in told["payload"]] == [OPEN.reason, "Read back: Subdural, left."]
    assert [one["authorString"] for one in told["note"]] == ["escalation", "escalation", "ada", "ada"]


def test_one_that_was_cancelled_is_stopped_with_the_reason() -> None:
    gone = replace(OPEN, state="cancelled", due_at=None, closed_at=AT, closed_by="ada", read_back="Of a phantom.")
    told = checked(communication(gone, []))
    assert (told["status"], told["statusReason"]) == ("stopped", {"text": "Of a phantom."})
    assert "recipient" not in told


@pytest.mark.parametrize("category", [1, 2, 3, None])
def test_every_category_makes_a_valid_resource(category: Any) -> None:
    row = replace(OPEN, category=category, reason="Line\nand \x07 bell")
    for resource in (communication(row, TRIED), flag(row, patient="p")):
        checked(resource)


def test_the_flag_stands_until_it_was_told() -> None:
    raised = checked(flag(OPEN, patient="p"))
    assert (raised["status"], raised["period"]) == ("active", {"start": "2026-11-24T22:00:00.000Z"})
    assert raised["code"]["text"].startswith("CRITICAL RESULT - NOT YET COMMUNICATED: Acute")
    lowered = checked(flag(TOLD, patient="p"))
    assert (lowered["status"], lowered["period"]["end"]) == ("inactive", "2026-11-24T22:09:00.000Z")


# -- over HTTP ---------------------------------------------------------------------------------------------------------


def signed(room: Room, client: httpx.Client, **of_facility: Any) -> dict[str, Any]:
    """A report with a result of category 1, signed; its escalation."""
    desk = Desk(room=room, client=client)
    desk.furnish(**of_facility)
    desk.receive()
    desk.give(
        desk.write(desk.begin(), {**TEXT, "critical_results": [{"category": 1, "text": "A bleed."}]}),
        "sign",
        reader="ada",
    )
    (row,) = client.get("/escalations").json()
    return dict(row)


@pytest.mark.rooms("sqlite", "postgres")
def test_signing_and_reading_back_are_versions_that_clients_find(
    client: httpx.Client, room: Room, clock: SetClock
) -> None:
    row = signed(room, client)
    told = client.get(f"/fhir/Communication/{row['id']}")
    assert (told.json()["status"], told.headers["etag"]) == ("in-progress", 'W/"1"')
    patient = told.json()["subject"]["reference"]
    found = client.get(f"/fhir/Communication?subject={patient}&status=in-progress&category=RID49480").json()
    assert [one["resource"]["id"] for one in found["entry"]] == [row["id"]]
    assert client.get(f"/fhir/Flag/{row['id']}").json()["status"] == "active"
    task = client.get(f"/fhir/Task/{row['id']}").json()
    assert (task["status"], task["description"]) == ("requested", "Critical result: A bleed.")

    clock.advance(timedelta(minutes=3))
    call = {"name": "Ward 4", "how": "telephone", "outcome": "no answer"}
    client.post(f"/escalations/{row['id']}/attempts", json=call)
    clock.advance(timedelta(minutes=3))
    said = {"by": "Dr. Ward", "how": "telephone", "read_back": "A bleed."}
    client.post(f"/escalations/{row['id']}/acknowledge", json=said)
    history = client.get(f"/fhir/Communication/{row['id']}/_history").json()["entry"]
    assert [one["resource"]["status"] for one in history] == ["completed", "in-progress", "in-progress"]
    assert len(history[0]["resource"]["note"]) == 2
    assert client.get(f"/fhir/Flag/{row['id']}").json()["status"] == "inactive"
    assert client.get(f"/fhir/Task/{row['id']}").json()["status"] == "completed"
    assert client.get(f"/fhir/Communication?subject={patient}&status=in-progress").json()["total"] == 0


def test_what_the_server_tries_by_itself_is_told_too(client: httpx.Client, room: Room, clock: SetClock) -> None:
    contacts = [{"name": "Dr. Ward", "role": "referrer", "channel": "voice", "address": "+15550101"}]
    row = signed(room, client, contacts=contacts)
    climb_due(room.engine, clock.now(), room.flow.climbed, room.queue)
    room.queue.drain()
    told = client.get(f"/fhir/Communication/{row['id']}").json()
    assert [one["text"] for one in told["note"]] == [
        "Dr. Ward (referrer) by voice: could not be reached. no plugin carries the channel voice"
    ]
    assert told["meta"]["versionId"] == "2"


@pytest.mark.parametrize("type", ["Communication", "Flag"])
def test_no_client_writes_what_is_made_here(client: httpx.Client, room: Room, type: str) -> None:
    row = signed(room, client)
    address = f"/fhir/{type}/{row['id']}"
    resource = client.get(address).json()
    patch = [{"op": "replace", "path": "/status", "value": "completed" if type == "Communication" else "inactive"}]
    for answer in (
        client.put(address, json=resource, headers=FHIR),
        client.put(f"/fhir/f/north/{type}/{row['id']}", json=resource, headers=FHIR),
        client.patch(address, content=orjson.dumps(patch), headers={"Content-Type": "application/json-patch+json"}),
        client.delete(address),
    ):
        assert answer.status_code == 405, answer.text
        assert f"/escalations/{row['id']}" in answer.text
    assert client.get(address).json() == resource


def test_what_clients_write_of_these_types_stays_theirs(client: httpx.Client) -> None:
    sent = {"resourceType": "Communication", "id": "theirs", "status": "completed"}
    assert client.put("/fhir/Communication/theirs", json=sent, headers=FHIR).status_code == 201
    assert client.put("/fhir/Communication/theirs", json={**sent, "status": "stopped"}, headers=FHIR).status_code == 200
    assert client.delete("/fhir/Communication/theirs").status_code == 204


def test_what_says_the_same_is_published_once(room: Room, clock: SetClock) -> None:
    resource = communication(OPEN, [])
    versions = []
    for status in ("in-progress", "in-progress", "completed"):
        with at_work(room.engine, clock) as work:
            versions.append(publish(room, work, {**resource, "status": status}, facility="local").version)
    assert versions == [1, 1, 2]


def test_nothing_is_published_where_the_transaction_fails(room: Room, client: httpx.Client, clock: SetClock) -> None:
    def fail() -> None:
        with at_work(room.engine, clock) as work:
            publish(room, work, communication(OPEN, []), facility="local")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    assert client.get(f"/fhir/Communication/{OPEN.id}").status_code == 404
