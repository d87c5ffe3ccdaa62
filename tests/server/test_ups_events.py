"""Subscriptions to work items, and the reports that come over a WebSocket (PS3.4 CC.2.3, CC.2.4; PS3.18 11.10)."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

import httpx
import pytest
import websockets.exceptions
from starlette.testclient import TestClient, WebSocketDenialResponse
from starlette.websockets import WebSocketDisconnect
from websockets.sync.client import connect

from readingroom.clock import SetClock
from readingroom.model import Scope
from server.dicomweb import ups_events
from server.room import Room
from server.worklist.reports import forget_reports, report_restart
from storage.catalog.subscriptions import KEPT, Subscriber, subscribers_of, waiting_reports
from storage.catalog.work_items import find_item
from storage.upsrules import FILTERED, WORKLIST
from tests.servers import Live
from tests.worklist import CODE, add, attribute, performed, workitem

BOTH = pytest.mark.rooms("sqlite", "postgres")
JSON = {"Content-Type": "application/dicom+json"}
WORKITEMS = "/dicomweb/workitems"
TOKEN = "1.2.840.99.1"
AE = Subscriber("*", "WATCHER")
STATE, CANCEL, PROGRESS, SCP, ASSIGNED = 1, 2, 3, 4, 5


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ups_events, "_LOOK_SECONDS", 0.01)


def create(client: httpx.Client, root: str = WORKITEMS, **changes: Any) -> str:
    answer = client.post(root, json=workitem(**changes), headers=JSON)
    assert answer.status_code == 201, answer.text
    return answer.headers["location"].rpartition("/")[2]


def subscribe(client: httpx.Client, target: str, ae: str = "WATCHER", root: str = WORKITEMS, **params: str) -> str:
    answer = client.post(f"{root}/{target}/subscribers/{ae}", params=params)
    assert answer.status_code == 201, answer.text
    return answer.headers["content-location"]


def change(client: httpx.Client, uid: str, state: str) -> None:
    dataset = {"00741000": attribute("CS", state), "00081195": attribute("UI", TOKEN)}
    assert client.put(f"{WORKITEMS}/{uid}/state", json=dataset, headers=JSON).status_code == 200


def update(client: httpx.Client, uid: str, dataset: dict[str, Any], token: str = "") -> None:
    params = {"transaction-uid": token} if token else {}
    answer = client.post(f"{WORKITEMS}/{uid}", json=dataset, headers=JSON, params=params)
    assert answer.status_code == 200, answer.text


def waiting(room: Room, subscriber: Subscriber = AE) -> list[tuple[str, int, str]]:
    """Item, type and state of what waits for a subscriber."""
    reports = room.query(waiting_reports, subscriber, after=0, limit=1000)
    return [(one.workitem_uid, one.type, one.attributes.get("00741000", {}).get("Value", [""])[0]) for one in reports]


def subscribed(room: Room, uid: str) -> list[str]:
    with room.engine.connect() as connection:
        item = find_item(connection, Scope(), uid)
        return [one.ae for one in subscribers_of(connection, item)]


# -- what is reported --------------------------------------------------------------------------------------------------


@BOTH
def test_a_subscriber_hears_of_every_step_of_a_work_item_in_its_order(room: Room, client: httpx.Client) -> None:
    uid = create(client)
    create(client)
    assert subscribe(client, uid) == "ws://127.0.0.1:8780/dicomweb/ws/subscribers/WATCHER"
    update(client, uid, {"00404025": attribute("SQ", CODE)})
    update(client, uid, {"00404041": attribute("CS", "INCOMPLETE")})
    change(client, uid, "IN PROGRESS")
    progress = {"00741004": attribute("DS", 50.0), "00741006": attribute("ST", "half of it")}
    update(client, uid, {"00741002": attribute("SQ", progress)}, TOKEN)
    asked = {
        "00741238": attribute("LT", "ordered twice"),
        "0074100A": attribute("UR", "tel:1"),
        "0074100E": attribute("SQ", CODE),
    }
    assert client.post(f"{WORKITEMS}/{uid}/cancelrequest", json=asked, headers=JSON).status_code == 202
    update(client, uid, performed(), TOKEN)
    change(client, uid, "COMPLETED")
    assert waiting(room) == [
        (uid, STATE, "SCHEDULED"),
        (uid, ASSIGNED, ""),
        (uid, STATE, "SCHEDULED"),
        (uid, STATE, "IN PROGRESS"),
        (uid, PROGRESS, ""),
        (uid, CANCEL, ""),
        (uid, STATE, "COMPLETED"),
    ]
    reports = room.query(waiting_reports, AE, after=0, limit=9)
    assert reports[0].attributes == {"00404041": attribute("CS", "READY"), "00741000": attribute("CS", "SCHEDULED")}
    assert reports[1].attributes == {"00404025": attribute("SQ", CODE)}
    assert reports[2].attributes["00404041"] == attribute("CS", "INCOMPLETE")
    assert reports[4].attributes == {"00741002": attribute("SQ", progress)}
    assert reports[5].attributes == {"00741236": attribute("AE", "local-operator"), **asked}
    assert TOKEN not in str(reports)


@BOTH
def test_what_nobody_has_claimed_is_cancelled_by_way_of_in_progress(room: Room, client: httpx.Client) -> None:
    uid = create(client)
    subscribe(client, uid)
    client.post(f"{WORKITEMS}/{uid}/cancelrequest", json={"00741238": attribute("LT", "twice")}, headers=JSON)
    assert [state for _, _, state in waiting(room)] == ["SCHEDULED", "IN PROGRESS", "CANCELED"]
    last = room.query(waiting_reports, AE, after=0, limit=9)[-1].attributes
    assert last["00741238"] == attribute("LT", "twice")
    assert last["0074100E"]["Value"][0]["00080100"]["Value"] == ["110513"]


def test_a_reading_that_is_offered_and_claimed_is_reported_as_assigned(room: Room, client: httpx.Client) -> None:
    uid = add(room.engine).workitem_uid
    subscribe(client, uid)
    ada = {
        "00404009": attribute("SQ", {**CODE, "00080100": attribute("SH", "ada")}),
        "00404036": attribute("LO", "local"),
        "00404037": attribute("PN", {"Alphabetic": "Ada"}),
    }
    update(client, uid, {"00404034": attribute("SQ", ada)})
    _, report = room.query(waiting_reports, AE, after=0, limit=9)
    assert report.type == ASSIGNED
    assert report.attributes["00404009"]["Value"][0]["00080100"]["Value"] == ["ada"]
    assert report.attributes["00404036"]["Value"] == ["local"]


def test_a_restart_is_reported_once_to_everybody(room: Room, client: httpx.Client, clock: SetClock) -> None:
    uid = create(client)
    for ae in ("A", "B"):
        subscribe(client, uid, ae)
    clock.advance(timedelta(hours=1))
    for _ in range(3):
        report_restart(room.engine, clock.now())
    for ae in ("A", "B"):
        *_, last = room.query(waiting_reports, Subscriber("*", ae), after=0, limit=9)
        assert (last.workitem_uid, last.type) == (WORKLIST, SCP)
        assert last.attributes["00741242"] == attribute("CS", "RESTARTED")
        assert len(waiting(room, Subscriber("*", ae))) == 2


def test_reports_that_nobody_comes_for_are_forgotten(room: Room, client: httpx.Client, clock: SetClock) -> None:
    subscribe(client, create(client))
    clock.advance(KEPT)
    assert forget_reports(room.engine, clock.now()) == 0
    clock.advance(timedelta(seconds=1))
    assert forget_reports(room.engine, clock.now()) == 1
    assert waiting(room) == []


# -- the subscription states (PS3.4 Table CC.2.3-2) --------------------------------------------------------------------


@BOTH
def test_the_worklist_is_subscribed_to_as_it_is_and_as_it_will_be(room: Room, client: httpx.Client) -> None:
    first = create(client)
    subscribe(client, WORKLIST)
    assert waiting(room) == []
    second = create(client, **{"00404025": attribute("SQ", CODE)})
    change(client, first, "IN PROGRESS")
    assert waiting(room) == [(second, STATE, "SCHEDULED"), (second, ASSIGNED, ""), (first, STATE, "IN PROGRESS")]


@BOTH
def test_with_a_lock_the_state_of_all_that_there_is_is_reported(room: Room, client: httpx.Client) -> None:
    first, second = create(client), create(client)
    subscribe(client, first, deletionlock="true")
    subscribe(client, WORKLIST, deletionlock="true")
    assert waiting(room) == [(first, STATE, "SCHEDULED"), (second, STATE, "SCHEDULED")]
    subscribe(client, WORKLIST, deletionlock="true")
    assert len(waiting(room)) == 2, "who is subscribed already is not told again"
    subscribe(client, first)
    assert len(waiting(room)) == 3, "but who subscribes to one item is, each time"


@BOTH
def test_a_suspended_subscription_goes_on_for_what_it_knows(room: Room, client: httpx.Client) -> None:
    first = create(client)
    subscribe(client, WORKLIST)
    assert client.post(f"{WORKITEMS}/{WORKLIST}/subscribers/WATCHER/suspend").status_code == 200
    second = create(client)
    change(client, first, "IN PROGRESS")
    change(client, second, "IN PROGRESS")
    assert waiting(room) == [(first, STATE, "IN PROGRESS")]
    assert client.post(f"{WORKITEMS}/{WORKLIST}/subscribers/WATCHER/suspend").status_code == 404


@BOTH
def test_who_unsubscribes_from_the_worklist_hears_nothing_more(room: Room, client: httpx.Client) -> None:
    first = create(client)
    subscribe(client, WORKLIST)
    subscribe(client, first, "OTHER")
    assert client.delete(f"{WORKITEMS}/{WORKLIST}/subscribers/WATCHER").status_code == 200
    change(client, first, "IN PROGRESS")
    create(client)
    assert waiting(room) == []
    assert len(waiting(room, Subscriber("*", "OTHER"))) == 2
    assert client.delete(f"{WORKITEMS}/{WORKLIST}/subscribers/WATCHER").status_code == 404


def test_who_unsubscribes_from_one_item_hears_of_the_others(room: Room, client: httpx.Client) -> None:
    first, second = create(client), create(client)
    subscribe(client, WORKLIST)
    assert client.delete(f"{WORKITEMS}/{first}/subscribers/WATCHER").status_code == 200
    assert client.delete(f"{WORKITEMS}/{first}/subscribers/WATCHER").status_code == 404
    change(client, first, "IN PROGRESS")
    change(client, second, "IN PROGRESS")
    assert [uid for uid, _, _ in waiting(room)] == [second]


@BOTH
def test_a_filter_catches_what_matches_when_it_comes_and_keeps_it(room: Room, client: httpx.Client) -> None:
    first = create(client)
    other = create(client, **{"00741202": attribute("LO", "BREAST CAD")})
    subscribe(client, FILTERED, filter="WorklistLabel=LUNG*,ProcedureStepState=SCHEDULED", deletionlock="true")
    second = create(client)
    change(client, first, "IN PROGRESS")  # does not match any more, and is reported all the same
    assert waiting(room) == [(first, STATE, "SCHEDULED"), (second, STATE, "SCHEDULED"), (first, STATE, "IN PROGRESS")]
    update(client, other, {"00741202": attribute("LO", "LUNG CAD")})
    assert waiting(room)[3:] == [(other, STATE, "SCHEDULED")]
    assert client.delete(f"{WORKITEMS}/{other}/subscribers/WATCHER").status_code == 200
    update(client, other, {"00404041": attribute("CS", "INCOMPLETE")})
    assert len(waiting(room)) == 4, "who unsubscribed from an item is not subscribed again by a filter"
    assert client.delete(f"{WORKITEMS}/{FILTERED}/subscribers/WATCHER").status_code == 200
    change(client, second, "IN PROGRESS")
    assert len(waiting(room)) == 4


def test_an_item_that_is_over_is_forgotten_but_by_those_with_a_lock(room: Room, client: httpx.Client) -> None:
    uid = create(client)
    subscribe(client, uid, "LOCKED", deletionlock="true")
    subscribe(client, uid, "LOOSE")
    client.post(f"{WORKITEMS}/{uid}/cancelrequest")
    assert waiting(room, Subscriber("*", "LOOSE"))[-1] == (uid, STATE, "CANCELED")
    assert subscribed(room, uid) == ["LOCKED"]


@BOTH
def test_a_facility_hears_of_its_own_work_items_alone(room: Room, client: httpx.Client) -> None:
    north = "/dicomweb/f/north/workitems"
    subscribe(client, WORKLIST, root=north)
    uid = create(client, north)
    create(client)
    mine = Subscriber("north", "WATCHER")
    assert waiting(room, mine) == [(uid, STATE, "SCHEDULED")]
    assert waiting(room) == []
    assert client.post(f"/dicomweb/f/south/workitems/{uid}/subscribers/WATCHER").status_code == 404


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("POST", "1.2.3/subscribers/AE", 404),
        ("DELETE", "1.2.3/subscribers/AE", 404),
        ("POST", f"{FILTERED}/subscribers/AE", 400),
        ("POST", f"{FILTERED}/subscribers/AE?filter=", 400),
        ("POST", f"{FILTERED}/subscribers/AE?filter=PatientName=*", 400),
        ("POST", f"{FILTERED}/subscribers/AE?filter=PixelData=1", 400),
        ("POST", f"{FILTERED}/subscribers/AE?filter=PatientBirthDate=x", 400),
        ("POST", f"{WORKLIST}/subscribers/AE?filter=PatientID=1", 400),
        ("POST", f"{WORKLIST}/subscribers/AE?deletionlock=perhaps", 400),
        ("POST", f"{WORKLIST}/subscribers/AN-AE-TITLE-THAT-IS-TOO-LONG", 400),
        ("POST", f"{WORKLIST}/subscribers/A%5CB", 400),
        ("POST", "1.2.3/subscribers/AE/suspend", 400),
        ("POST", f"{FILTERED}/subscribers/AE/suspend", 404),
    ],
)
def test_a_subscription_that_makes_no_sense_is_refused(
    client: httpx.Client, method: str, path: str, status: int
) -> None:
    answer = client.request(method, f"{WORKITEMS}/{path}")
    assert answer.status_code == status, answer.text
    assert len(answer.text.splitlines()) == 1


# -- the channel -------------------------------------------------------------------------------------------------------


@contextmanager
def channel(client: httpx.Client, ae: str = "WATCHER", path: str = "ws/subscribers", **kwargs: Any) -> Iterator[Any]:
    assert isinstance(client, TestClient)
    with client.websocket_connect(f"ws://127.0.0.1:8780/dicomweb/{path}/{ae}", **kwargs) as socket:
        yield socket


@BOTH
def test_a_channel_sends_reports_as_they_come(room: Room, client: httpx.Client) -> None:
    uid = create(client)
    with channel(client, subprotocols=["dicom"]) as socket:
        assert socket.accepted_subprotocol == "dicom"
        subscribe(client, uid)
        report = json.loads(socket.receive_text())
        number = report.pop("00000110")["Value"][0]
        assert 1 <= number <= 0xFFFF
        assert report == {
            "00000002": attribute("UI", "1.2.840.10008.5.1.4.34.6.1"),
            "00001000": attribute("UI", uid),
            "00001002": attribute("US", 1),
            "00404041": attribute("CS", "READY"),
            "00741000": attribute("CS", "SCHEDULED"),
        }
        change(client, uid, "IN PROGRESS")
        report = json.loads(socket.receive_text())
        assert report["00741000"]["Value"] == ["IN PROGRESS"]
        assert report["00000110"]["Value"][0] != number


def test_who_comes_back_goes_on_where_the_channel_was_broken(room: Room, client: httpx.Client) -> None:
    uid = create(client)
    subscribe(client, uid)
    with channel(client) as socket:
        assert json.loads(socket.receive_text())["00741000"]["Value"] == ["SCHEDULED"]
        while room.query(ups_events.sent_so_far, AE) == 0:
            pass
    change(client, uid, "IN PROGRESS")
    update(client, uid, performed(), TOKEN)
    change(client, uid, "COMPLETED")
    with channel(client, path="subscribers") as socket:
        seen = [json.loads(socket.receive_text())["00741000"]["Value"][0] for _ in range(2)]
    assert seen == ["IN PROGRESS", "COMPLETED"]


def test_what_a_client_says_in_a_channel_means_nothing(client: httpx.Client) -> None:
    uid = create(client)
    with channel(client) as socket:
        socket.send_text("hello")
        socket.send_bytes(b"\0")
        subscribe(client, uid)
        assert "00741000" in socket.receive_text()


def test_who_is_connected_is_told_that_the_server_goes_down(room: Room, client: httpx.Client) -> None:
    with channel(client) as socket:
        subscribe(client, create(client))
        assert "00741000" in socket.receive_text()
        assert len(room.channels) == 1
        room.is_stopping.set()
        report = json.loads(socket.receive_text())
        assert (report["00001000"], report["00001002"]) == (attribute("UI", WORKLIST), attribute("US", SCP))
        assert report["00741242"] == attribute("CS", "GOING DOWN")
        assert socket.receive() == {"type": "websocket.close", "code": 1001, "reason": ""}
    assert not room.channels


@pytest.mark.parametrize("headers", [{"Origin": "https://evil.example"}, {"Origin": "null"}, {"Host": "evil.example"}])
def test_a_page_of_another_site_opens_no_channel(client: httpx.Client, headers: dict[str, str]) -> None:
    with pytest.raises((WebSocketDisconnect, WebSocketDenialResponse)), channel(client, headers=headers):
        pass


def test_a_page_of_our_own_opens_one(client: httpx.Client) -> None:
    with channel(client, headers={"Origin": "http://127.0.0.1:8780"}):
        pass


def test_an_ae_title_that_is_none_opens_no_channel(client: httpx.Client) -> None:
    with pytest.raises(WebSocketDisconnect), channel(client, "AN-AE-TITLE-THAT-IS-TOO-LONG"):
        pass


def test_a_real_client_hears_over_a_real_connection_until_the_server_ends(live: Live) -> None:
    with httpx.Client(base_url=live.base, headers={"Accept": "*/*"}) as client:
        uid = create(client)
        url = subscribe(client, uid)
        assert url.startswith(live.base.replace("http", "ws", 1))
        with connect(url, subprotocols=["dicom"], origin=live.base) as socket:
            assert socket.subprotocol == "dicom"
            assert json.loads(socket.recv(timeout=10))["00741000"]["Value"] == ["SCHEDULED"]
            change(client, uid, "IN PROGRESS")
            assert json.loads(socket.recv(timeout=10))["00741000"]["Value"] == ["IN PROGRESS"]
            live.process.terminate()
            report = json.loads(socket.recv(timeout=10))
            assert (report["00001002"], report["00741242"]) == (attribute("US", SCP), attribute("CS", "GOING DOWN"))
            with pytest.raises(websockets.exceptions.ConnectionClosed):
                socket.recv(timeout=10)
    assert live.process.wait(15) is not None
