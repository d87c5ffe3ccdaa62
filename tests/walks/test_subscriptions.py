"""An EHR subscribes, goes away and comes back; the server is ended, or killed, and begins again: nothing is lost."""

from __future__ import annotations

import json
import re
import signal
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import httpx
import pytest
from websockets.sync.client import connect

from server.fhir.topics import BACKPORT
from tests.server.fhir.receiver import Receiver, parameters_of, receiving
from tests.servers import Live, live_server

SIGNED = "https://readingroom.example/fhir/SubscriptionTopic/report-signed"
SETTINGS = {"private_networks": '["127.0.0.0/8"]'}
REPORT = {"resourceType": "DiagnosticReport", "status": "final", "code": {"text": "CT of the head"}}
JSON = {"content-type": "application/fhir+json"}
PATIENCE_SECONDS = 90.0


def subscription(channel: dict[str, Any]) -> dict[str, Any]:
    content = [{"url": f"{BACKPORT}/StructureDefinition/backport-payload-content", "valueCode": "full-resource"}]
    return {
        "resourceType": "Subscription",
        "status": "requested",
        "reason": "Signed reports",
        "criteria": SIGNED,
        "channel": {"payload": "application/fhir+json", "_payload": {"extension": content}, **channel},
    }


def send(live: Live, resource: dict[str, Any]) -> Any:
    where = f"{live.base}/fhir/{resource['resourceType']}"
    answer = httpx.post(where, content=json.dumps(resource), headers=JSON, timeout=30)
    assert answer.status_code == 201, answer.text
    return answer.json()


def wait_for(what: Callable[[], Any]) -> Any:
    """What comes to be true, once it is."""
    until = time.monotonic() + PATIENCE_SECONDS
    while not (found := what()):
        assert time.monotonic() < until, "it never came"
        time.sleep(0.05)
    return found


def told(hook: Receiver) -> list[tuple[int, str]]:
    """Number and resource of each event so far, a repetition of the last one left out."""
    found: list[tuple[int, str]] = []
    for got in list(hook.received):
        events = got.told.get("events", [])
        resources = [entry["resource"]["id"] for entry in got.json["entry"][1:]]
        assert [one["focus"].rpartition("/")[2] for one in events] == resources
        found += [(int(one["event-number"]), id) for one, id in zip(events, resources, strict=True)]
    return [one for one, before in zip(found, [None, *found], strict=False) if one != before]


@pytest.mark.parametrize("end", [signal.SIGTERM, pytest.param(signal.SIGKILL, marks=pytest.mark.slow)])
def test_a_subscriber_who_was_away_hears_of_all_in_order_after_the_server_began_again(
    tmp_path: Path, end: signal.Signals
) -> None:
    with receiving() as hook:
        with ExitStack() as stack:
            live = stack.enter_context(live_server(tmp_path / "data", settings=SETTINGS))
            made = send(live, subscription({"type": "rest-hook", "endpoint": f"{hook.url}/events"}))
            where = f"{live.base}/fhir/Subscription/{made['id']}"
            wait_for(lambda: httpx.get(where).json()["status"] == "active")
            reports = [send(live, REPORT)["id"]]
            wait_for(lambda: len(told(hook)) == 1)
            hook.status = 503
            reports += [send(live, REPORT)["id"] for _ in range(5)]
            wait_for(lambda: hook.received[-1].told["type"] == "event-notification" and len(hook.received) > 2)
            live.process.send_signal(end)
            live.process.wait(20)
        hook.received[:] = [got for got in hook.received if got.told.get("events", [{}])[0].get("event-number") == "1"]
        hook.status = 200
        with live_server(tmp_path / "data", settings=SETTINGS) as live:
            reports.append(send(live, REPORT)["id"])
            wait_for(lambda: len(told(hook)) == len(reports))
            assert told(hook) == list(enumerate(reports, 1))


def test_a_socket_hears_of_what_another_process_of_the_server_was_told(tmp_path: Path) -> None:
    with live_server(tmp_path / "data", workers=2) as live:
        made = send(live, subscription({"type": "websocket"}))
        answer = httpx.get(f"{live.base}/fhir/Subscription/{made['id']}/$get-ws-binding-token").json()
        binding = parameters_of(answer["parameter"])
        assert binding["websocket-url"] == re.sub("^http", "ws", live.base) + "/fhir/ws"
        with connect(binding["websocket-url"]) as socket:
            socket.send(f"bind-with-token {binding['token']}")
            first = json.loads(socket.recv(timeout=20))
            assert parameters_of(first["entry"][0]["resource"]["parameter"])["type"] == "handshake"
            reports = [send(live, REPORT)["id"] for _ in range(6)]
            heard: list[str] = []
            while len(heard) < len(reports):
                entries = json.loads(socket.recv(timeout=20))["entry"]
                heard += [entry["resource"]["id"] for entry in entries[1:]]
            assert heard == reports
