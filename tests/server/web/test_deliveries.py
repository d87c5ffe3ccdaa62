"""From a signature to a receipt over HTTP: deliveries can be looked at and repeated, by those who may see them."""

from __future__ import annotations

from collections.abc import Iterator
from ipaddress import IPv4Network
from pathlib import Path

import httpx
import pytest

from readingroom.model import LOCAL_OPERATOR, Actor, Scope
from server.room import Room
from server.settings import Settings
from storage.catalog import schema as t
from storage.catalog.engine import begin_write
from tests.commands import Run
from tests.receiver import Receiver, answering, receiver
from tests.reports import Desk


@pytest.fixture
def settings(tmp_path: Path, sqlite_url: str) -> Settings:
    return Settings(data=tmp_path / "data", database=sqlite_url, private_networks=(IPv4Network("127.0.0.0/8"),))


@pytest.fixture
def ris() -> Iterator[Receiver]:
    with receiver() as made:
        yield made


@pytest.fixture
def desk(room: Room, client: httpx.Client, ris: Receiver) -> Desk:
    made = Desk(room=room, client=client)
    made.furnish(destinations=[{"id": "ris", "channel": "hl7", "address": ris.address}])
    made.receive()
    return made


def test_a_signed_report_is_sent_and_its_receipt_can_be_looked_at(room: Room, desk: Desk, ris: Receiver) -> None:
    report = desk.signed()
    room.queue.drain()
    (listed,) = desk.client.get("/deliveries", params={"report": report["id"], "state": "accepted"}).json()
    assert listed["destination"] == {"id": "ris", "facility": "local", "channel": "hl7"}
    assert [listed["control_id"]] == ris.control_ids
    assert listed["receipt"]["code"] == "AA"
    shown = desk.client.get(f"/deliveries/{listed['id']}").json()
    assert [one["outcome"] for one in shown["attempts"]] == ["accepted"]
    assert "Normal CT of the head." in ris.messages[0]
    with room.engine.connect() as connection:
        types = connection.exec_driver_sql("SELECT type FROM event").scalars().all()
    assert types.count("DeliveryAccepted") == 1


def test_an_addendum_follows_as_a_correction(room: Room, desk: Desk, ris: Receiver) -> None:
    report = desk.signed()
    room.queue.drain()
    revised = desk.give(report, "revise", kind="addendum")
    text = {"kind": "addendum", "addendum": "Compared with 2025."}
    desk.give(desk.write(revised, text), "sign", reader="ada")
    room.queue.drain()
    obr = next(line for line in ris.messages[1].split("\r") if line.startswith("OBR")).split("|")
    assert obr[25] == "C"
    assert "Compared with 2025." in ris.messages[1]


def test_a_version_that_was_changed_in_the_database_goes_nowhere_and_is_loud(
    room: Room, desk: Desk, ris: Receiver
) -> None:
    report = desk.signed()
    with begin_write(room.engine) as connection:
        row = connection.exec_driver_sql("SELECT content FROM report_version").scalar_one()
        connection.exec_driver_sql("DROP TRIGGER report_version_no_update")
        forged = row.replace(b"Normal CT", b"Broken CT")
        connection.execute(t.report_version.update().values(content=forged))
    room.queue.drain()
    (found,) = desk.client.get("/deliveries").json()
    assert (found["state"], ris.messages) == ("dead", [])
    (escalation,) = desk.client.get("/escalations").json()
    assert report["id"] in escalation["reason"] or "destination ris" in escalation["reason"]


def test_what_was_refused_can_be_repeated(room: Room, desk: Desk, ris: Receiver) -> None:
    ris.script = [answering("AR", "no Jane Doe here")]
    desk.signed()
    room.queue.drain()
    (found,) = desk.client.get("/deliveries").json()
    assert found["state"] == "refused"
    assert "Jane" not in found["error"]  # what the receiver says in words is in the receipt alone
    assert found["receipt"]["text"] == "no Jane Doe here"
    answer = desk.client.post(f"/deliveries/{found['id']}/repeat")
    assert (answer.status_code, answer.json()["state"]) == (202, "queued")
    room.queue.drain()
    answer = desk.client.post(f"/deliveries/{found['id']}/repeat", json={"new": True})
    room.queue.drain()
    assert ris.control_ids[0] == ris.control_ids[1] != ris.control_ids[2]


@pytest.mark.parametrize(
    ("path", "status"),
    [
        ("/deliveries?state=lost", 400),
        ("/deliveries?colour=red", 400),
        ("/deliveries?limit=0", 400),
        ("/deliveries?limit=-1", 400),
        ("/deliveries?before=x", 400),
        ("/deliveries?state=dead&state=queued", 400),
        ("/deliveries/99", 404),
        ("/deliveries/x", 404),
        ("/deliveries/99999999999999999999", 404),
    ],
)
def test_what_is_asked_wrongly_is_said(client: httpx.Client, path: str, status: int) -> None:
    assert client.get(path).status_code == status


def test_deliveries_of_other_facilities_are_not_seen(room: Room, desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    desk.signed()
    room.queue.drain()
    (found,) = desk.client.get("/deliveries").json()
    elsewhere = Actor(
        id="north", name="North", scope=Scope(facilities=frozenset({"north"})), facility="north", may=LOCAL_OPERATOR.may
    )
    monkeypatch.setattr("server.edge.LOCAL_OPERATOR", elsewhere)
    assert desk.client.get("/deliveries").json() == []
    assert desk.client.get(f"/deliveries/{found['id']}").status_code == 404
    assert desk.client.post(f"/deliveries/{found['id']}/repeat").status_code == 404


def test_who_may_neither_sign_nor_supervise_repeats_nothing(
    room: Room, desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    desk.signed()
    room.queue.drain()
    monkeypatch.setattr("server.edge.LOCAL_OPERATOR", Actor(id="guest", name="Guest"))
    assert desk.client.post("/deliveries/1/repeat").status_code == 403


def test_what_has_not_arrived_is_on_the_metrics_page(room: Room, desk: Desk, ris: Receiver) -> None:
    ris.usual = answering("AR")
    desk.signed()
    room.queue.drain()
    assert 'readingroom_deliveries{state="refused"} 1.0' in desk.client.get("/metrics").text


def test_the_command_lists_shows_and_repeats(room: Room, desk: Desk, ris: Receiver, run: Run) -> None:
    ris.script = [answering("AR")]
    desk.signed()
    room.queue.drain()
    where = ("--data", str(room.settings.data), "--database", str(room.settings.database))
    assert "refused" in run("deliveries", "list", "--state", "refused", *where).out
    assert "control_id" in run("deliveries", "show", "1", "--json", *where).out
    assert "1 deliveries go again." in run("deliveries", "repeat", "--dead", *where).out
    room.queue.drain()
    assert "accepted" in run("deliveries", "show", "1", *where).out
