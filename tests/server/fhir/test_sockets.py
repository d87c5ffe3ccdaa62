"""Notifications over WebSockets: R4's bind and ping, and topics bound with a token."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

import httpx
import pytest
from starlette.testclient import TestClient

from readingroom.clock import SetClock
from server.fhir import sockets
from server.fhir.subscription_operations import TOKEN_LASTS
from server.room import Room
from tests.server.fhir.receiver import parameters_of
from tests.server.fhir.test_subscriptions import (
    BOTH,
    JSON,
    backport,
    facilities,
    give_away,
    observation,
    plain,
    read,
    report,
    send,
)


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sockets, "_LOOK_SECONDS", 0.01)


def pinged(criteria: str = "Observation") -> Any:
    """A subscription of R4 over a WebSocket."""
    asked = plain("", criteria)
    asked["channel"] = {"type": "websocket"}
    return asked


def topical(*filters: str, **numbers: int) -> Any:
    """A subscription to signed reports over a WebSocket."""
    asked = backport("", *filters, **numbers)
    del asked["channel"]["endpoint"]
    asked["channel"]["type"] = "websocket"
    return asked


def token_of(client: httpx.Client, subscription: Any) -> str:
    answer = client.get(f"/fhir/Subscription/{subscription['id']}/$get-ws-binding-token")
    assert answer.status_code == 200, answer.text
    told = parameters_of(answer.json()["parameter"])
    assert told["websocket-url"] == "ws://127.0.0.1:8780/fhir/ws"
    assert told["subscription"] == subscription["id"]
    return str(told["token"])


@contextmanager
def socket(client: httpx.Client, root: str = "/fhir") -> Iterator[Any]:
    assert isinstance(client, TestClient)
    with client.websocket_connect(f"ws://127.0.0.1:8780{root}/ws") as opened:
        yield opened


def told_by(socket: Any) -> dict[str, Any]:
    """The next notification."""
    return parameters_of(json.loads(socket.receive_text())["entry"][0]["resource"]["parameter"])


@BOTH
def test_who_binds_a_subscription_is_pinged_for_each_event(room: Room, client: httpx.Client) -> None:
    made = send(client, pinged())
    room.queue.drain()
    assert read(client, made)["status"] == "active"
    with socket(client) as opened:
        opened.send_text("hello")
        opened.send_text(f"bind {made['id']}")
        assert opened.receive_text() == f"bound {made['id']}"
        observation(client)
        room.queue.drain()
        assert opened.receive_text() == f"ping {made['id']}"
        opened.send_text("bind nothing")
        assert opened.receive_text() == "unknown nothing"


@BOTH
def test_a_token_binds_a_topic_and_what_was_missed_comes_first(room: Room, client: httpx.Client) -> None:
    made = send(client, topical())
    room.queue.drain()
    report(client)
    room.queue.drain()
    token = token_of(client, made)
    with socket(client) as opened:
        opened.send_text(f"bind-with-token {token}")
        assert told_by(opened)["type"] == "handshake"
        assert [one["event-number"] for one in told_by(opened)["events"]] == ["1"]
        report(client)
        room.queue.drain()
        assert [one["event-number"] for one in told_by(opened)["events"]] == ["2"]
        while client.get(f"/fhir/Subscription/{made['id']}").json()["status"] != "active":
            pass
    report(client)
    room.queue.drain()
    with socket(client) as opened:
        opened.send_text(json.dumps({"type": "bind-with-token", "payload": {"token": token}}))
        assert told_by(opened)["type"] == "handshake"
        assert told_by(opened)["events"][-1]["event-number"] == "3"


def test_a_socket_that_is_silent_has_its_heartbeat(room: Room, client: httpx.Client, clock: SetClock) -> None:
    made = send(client, topical(heartbeat_period=30))
    room.queue.drain()
    token = token_of(client, made)
    with socket(client) as opened:
        opened.send_text(f"bind-with-token: {token}")
        assert told_by(opened)["type"] == "handshake"
        clock.advance(timedelta(seconds=30))
        assert told_by(opened)["type"] == "heartbeat"


def test_a_token_is_good_for_a_while_and_for_its_subscriptions_alone(
    room: Room, client: httpx.Client, clock: SetClock
) -> None:
    made = send(client, topical())
    token = token_of(client, made)
    with socket(client) as opened:
        opened.send_text("bind-with-token guessed")
        assert opened.receive_text() == "unknown token"
        clock.advance(TOKEN_LASTS + timedelta(seconds=1))
        opened.send_text(f"bind-with-token {token}")
        assert opened.receive_text() == "unknown token"


def test_a_token_is_for_subscriptions_that_have_a_socket(client: httpx.Client) -> None:
    made = send(client, {**plain("https://ehr.example/hook"), "status": "off"})
    answer = client.get(f"/fhir/Subscription/{made['id']}/$get-ws-binding-token")
    assert answer.status_code == 400
    mine = send(client, topical())
    answer = client.post("/fhir/Subscription/$get-ws-binding-token", content=b"", headers=JSON)
    assert parameters_of(answer.json()["parameter"])["subscription"] == mine["id"]


def test_a_subscription_of_another_facility_cannot_be_bound(room: Room, client: httpx.Client) -> None:
    facilities(room)
    made = send(client, pinged(), root="/fhir/f/north")
    with socket(client, "/fhir/f/south") as opened:
        opened.send_text(f"bind {made['id']}")
        assert opened.receive_text() == f"unknown {made['id']}"
    with socket(client, "/fhir/f/north") as opened:
        opened.send_text(f"bind {made['id']}")
        assert opened.receive_text() == f"bound {made['id']}"


def test_the_filter_of_a_subscription_holds_over_a_socket_too(room: Room, client: httpx.Client) -> None:
    made = send(client, topical("status=amended"))
    room.queue.drain()
    with socket(client) as opened:
        opened.send_text(f"bind-with-token {token_of(client, made)}")
        assert told_by(opened)["type"] == "handshake"
        report(client)
        amended = report(client, status="amended")
        room.queue.drain()
        [event] = told_by(opened)["events"]
        assert event["focus"].endswith(amended["id"])


def test_who_is_connected_hears_nothing_after_the_subscription_is_off(room: Room, client: httpx.Client) -> None:
    made = send(client, pinged())
    other = send(client, pinged("DiagnosticReport"))
    room.queue.drain()
    with socket(client) as opened:
        for one in (made, other):
            opened.send_text(f"bind {one['id']}")
            assert opened.receive_text() == f"bound {one['id']}"
        send(client, {**pinged(), "status": "off"}, made["id"])
        observation(client)
        report(client)
        room.queue.drain()
        assert opened.receive_text() == f"ping {other['id']}"


def test_who_is_connected_is_told_that_the_server_goes_down(room: Room, client: httpx.Client) -> None:
    with socket(client) as opened:
        room.is_stopping.set()
        assert opened.receive() == {"type": "websocket.close", "code": 1001, "reason": ""}
    assert not room.channels


def test_what_another_client_subscribed_to_is_only_for_it_and_for_supervisors(room: Room, client: httpx.Client) -> None:
    made = send(client, topical())
    give_away(room, made)
    assert client.get(f"/fhir/Subscription/{made['id']}/$events").status_code == 200  # the operator supervises
    answer = client.get("/fhir/Subscription/$get-ws-binding-token")
    assert answer.status_code == 400  # of the caller's own there is none
