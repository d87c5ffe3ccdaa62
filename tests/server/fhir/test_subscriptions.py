"""Subscriptions: what is told, in which order, over which channel; what is never called, and what comes back."""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Iterator
from datetime import timedelta
from ipaddress import ip_network
from typing import Any

import httpx
import orjson
import pytest
from fhir.resources.R4B.bundle import Bundle

from readingroom.clock import SetClock
from readingroom.jsonio import to_json
from readingroom.model import Actor, Scope
from server.fhir import notify, subscriptions
from server.fhir.notify import AGAIN, FAILURES, forget_notifications, look_due
from server.fhir.subscriptions import DELIVER
from server.fhir.topics import TOPICS
from server.room import Room
from server.settings import Settings
from storage.catalog.clients import remove_client
from storage.catalog.engine import begin_write
from storage.catalog.fhir_subscriptions import KEPT, change_subscription, subscriptions_by_id
from storage.catalog.studies import ensure_facility
from tests.reports import Desk
from tests.server.fhir.receiver import Receiver, parameters_of, receiving
from tests.servers import REPOSITORY
from tests.smart import register

BOTH = pytest.mark.rooms("sqlite", "postgres")
JSON = {"content-type": "application/fhir+json"}
BACKPORT = "http://hl7.org/fhir/uv/subscriptions-backport"
SIGNED = "https://readingroom.example/fhir/SubscriptionTopic/report-signed"
LOOPBACK = (ip_network("127.0.0.0/8"),)
CODE = {"coding": [{"system": "http://loinc.org", "code": "1975-2"}]}


@pytest.fixture
def settings(settings: Settings) -> Settings:
    """Lets subscriptions send to the loopback."""
    return settings.model_copy(update={"private_networks": LOOPBACK})


@pytest.fixture
def hook() -> Iterator[Receiver]:
    """A subscriber's endpoint."""
    with receiving() as receiver:
        yield receiver


def plain(hook: Receiver | str, criteria: str = "Observation?code=http://loinc.org|1975-2", **channel: Any) -> Any:
    """A subscription as R4 has it."""
    url = hook if isinstance(hook, str) else f"{hook.url}/fhir"
    return {
        "resourceType": "Subscription",
        "status": "requested",
        "reason": "To be told",
        "criteria": criteria,
        "channel": {"type": "rest-hook", "endpoint": url, "payload": "application/fhir+json", **channel},
    }


def backport(hook: Receiver | str, *filters: str, topic: str = SIGNED, content: str = "id-only", **numbers: int) -> Any:
    """A subscription to a topic; numbers such as ``heartbeat_period=10``."""
    asked = plain(hook, topic)
    extension = [{"url": f"{BACKPORT}/StructureDefinition/backport-payload-content", "valueCode": content}]
    asked["channel"]["_payload"] = {"extension": extension}
    told = [
        {
            "url": f"{BACKPORT}/StructureDefinition/backport-{name.replace('_', '-')}",
            "valuePositiveInt" if name == "max_count" else "valueUnsignedInt": value,
        }
        for name, value in numbers.items()
    ]
    if told:
        asked["channel"]["extension"] = told
    if filters:
        url = f"{BACKPORT}/StructureDefinition/backport-filter-criteria"
        asked["_criteria"] = {"extension": [{"url": url, "valueString": one} for one in filters]}
    return asked


def send(client: httpx.Client, resource: dict[str, Any], id: str = "", root: str = "/fhir") -> Any:
    """Create a resource, or write it under an id; returns what came back."""
    where = f"{root}/{resource['resourceType']}"
    if id:
        answer = client.put(f"{where}/{id}", content=json.dumps({**resource, "id": id}), headers=JSON)
    else:
        answer = client.post(where, content=json.dumps(resource), headers=JSON)
    assert answer.status_code in (200, 201), answer.text
    return answer.json()


def refused(client: httpx.Client, resource: dict[str, Any], status: int = 422) -> Any:
    """What is said where a subscription cannot be: the place, and why."""
    answer = client.post("/fhir/Subscription", content=json.dumps(resource), headers=JSON)
    assert answer.status_code == status, answer.text
    [issue] = answer.json()["issue"]
    return issue["expression"][0], issue["diagnostics"]


def observation(client: httpx.Client, id: str = "", root: str = "/fhir", **changes: Any) -> Any:
    return send(client, {"resourceType": "Observation", "status": "final", "code": CODE, **changes}, id, root)


def report(client: httpx.Client, id: str = "", status: str = "final", **changes: Any) -> Any:
    return send(client, {"resourceType": "DiagnosticReport", "status": status, "code": CODE, **changes}, id)


def facilities(room: Room) -> None:
    """Two sites."""
    with begin_write(room.engine) as connection:
        for name in ("north", "south"):
            ensure_facility(connection, name)


def read(client: httpx.Client, subscription: Any) -> Any:
    return client.get(f"/fhir/Subscription/{subscription['id']}").json()


def later(room: Room, clock: SetClock, **spans: float) -> None:
    """Let time pass, and have done what falls due."""
    clock.advance(timedelta(**spans))
    look_due(room, clock.now())
    room.queue.drain()


def status_of(client: httpx.Client, subscription: Any) -> dict[str, Any]:
    bundle = client.get(f"/fhir/Subscription/{subscription['id']}/$status").json()
    assert (bundle["type"], bundle["total"]) == ("searchset", 1)
    return parameters_of(bundle["entry"][0]["resource"]["parameter"])


# -- as R4 has it ------------------------------------------------------------------------------------------------------


@BOTH
def test_a_resource_that_meets_the_criteria_is_put_to_the_endpoint(
    room: Room, client: httpx.Client, hook: Receiver
) -> None:
    made = send(client, plain(hook, header=["Authorization: Bearer s3cret"]))
    assert made["status"] == "requested"
    room.queue.drain()
    assert read(client, made)["status"] == "active"
    assert hook.take() == []
    seen = observation(client)
    observation(client, code={"text": "other"})
    report(client)
    room.queue.drain()
    [got] = hook.take()
    assert (got.method, got.path) == ("PUT", f"/fhir/Observation/{seen['id']}")
    assert got.json == client.get(f"/fhir/Observation/{seen['id']}").json()
    assert got.headers["Authorization"] == "Bearer s3cret"
    assert got.headers["Content-Type"].startswith("application/fhir+json")
    observation(client, seen["id"], status="amended")
    observation(client, seen["id"], code={"text": "no longer"})
    room.queue.drain()
    assert [got.json["status"] for got in hook.take()] == []  # by now it is another one


@BOTH
def test_a_report_that_is_signed_here_is_told_of_once(room: Room, client: httpx.Client, hook: Receiver) -> None:
    send(client, backport(hook))
    room.queue.drain()
    hook.take()
    desk = Desk(room=room, client=client)
    desk.furnish()
    desk.receive()
    report = desk.write(desk.begin())
    room.queue.drain()
    assert hook.take() == []
    report = desk.give(report, "sign", reader="ada")
    room.queue.drain()
    [got] = hook.take()
    assert f"DiagnosticReport/{report['id']}" in json.dumps(got.json)
    desk.give(report, "revise", kind="addendum")
    room.queue.drain()
    assert hook.take() == []


def test_without_a_payload_the_endpoint_is_posted_to_with_nothing(
    room: Room, client: httpx.Client, hook: Receiver
) -> None:
    asked = plain(hook, "Observation")
    del asked["channel"]["payload"]
    send(client, asked)
    room.queue.drain()
    observation(client)
    observation(client)
    room.queue.drain()
    assert [(got.method, got.path, got.body) for got in hook.take()] == [("POST", "/fhir", b"")] * 2


def test_a_payload_of_xml_is_xml(room: Room, client: httpx.Client, hook: Receiver) -> None:
    send(client, plain(hook, payload="application/fhir+xml"))
    room.queue.drain()
    observation(client)
    room.queue.drain()
    [got] = hook.take()
    assert got.body.startswith(b"<")
    assert b"http://hl7.org/fhir" in got.body
    assert got.headers["Content-Type"].startswith("application/fhir+xml")


def test_a_transaction_is_told_of_in_one_go(room: Room, client: httpx.Client, hook: Receiver) -> None:
    send(client, plain(hook))
    room.queue.drain()
    entries = [
        {
            "resource": {"resourceType": "Observation", "status": "final", "code": CODE, "note": [{"text": str(n)}]},
            "request": {"method": "POST", "url": "Observation"},
        }
        for n in range(3)
    ]
    bundle = {"resourceType": "Bundle", "type": "transaction", "entry": entries}
    assert client.post("/fhir", content=json.dumps(bundle), headers=JSON).status_code == 200
    room.queue.drain()
    assert sorted(got.json["note"][0]["text"] for got in hook.take()) == ["0", "1", "2"]


def test_what_was_changed_again_in_the_meantime_is_told_of_once_as_it_is(
    room: Room, client: httpx.Client, hook: Receiver
) -> None:
    made = send(client, plain(hook))
    room.queue.drain()
    seen = observation(client)
    observation(client, seen["id"], status="amended")
    room.queue.drain()
    assert [got.json["status"] for got in hook.take()] == ["amended"]
    assert status_of(client, made)["events-since-subscription-start"] == "1"
    observation(client, seen["id"], status="corrected")
    room.queue.drain()
    assert [got.json["status"] for got in hook.take()] == ["corrected"]


def test_a_subscription_to_subscriptions_hears_of_those_that_fail(
    room: Room, client: httpx.Client, hook: Receiver
) -> None:
    send(client, plain(hook, "Subscription?status=error"))
    room.queue.drain()
    with receiving() as other:
        other.status = 401
        failing = send(client, backport(other))
        room.queue.drain()
    [got] = hook.take()
    assert (got.json["id"], got.json["status"]) == (failing["id"], "error")


def test_nobody_is_told_of_another_facilitys_resources(room: Room, client: httpx.Client, hook: Receiver) -> None:
    facilities(room)
    send(client, plain(f"{hook.url}/north"), root="/fhir/f/north")
    send(client, plain(f"{hook.url}/all"))
    room.queue.drain()
    observation(client, root="/fhir/f/south")
    room.queue.drain()
    assert [got.path.split("/")[1] for got in hook.take()] == ["all"]
    observation(client, root="/fhir/f/north")
    room.queue.drain()
    assert sorted(got.path.split("/")[1] for got in hook.take()) == ["all", "north"]


def test_where_nobody_is_to_be_told_nothing_is_enqueued(room: Room, client: httpx.Client, hook: Receiver) -> None:
    made = send(client, plain(hook))
    room.queue.drain()
    report(client)
    assert room.queue.entries() == []
    send(client, {**plain(hook), "status": "off"}, made["id"])
    observation(client)
    assert room.queue.entries() == []
    assert client.delete(f"/fhir/Subscription/{made['id']}").status_code == 204
    assert client.get(f"/fhir/Subscription/{made['id']}").status_code == 410


# -- topics ------------------------------------------------------------------------------------------------------------


@BOTH
def test_a_topic_begins_with_a_handshake_and_tells_of_events_by_number(
    room: Room, client: httpx.Client, hook: Receiver
) -> None:
    made = send(client, backport(hook))
    room.queue.drain()
    [handshake] = hook.take()
    root = "http://127.0.0.1:8780/fhir"
    where = f"{root}/Subscription/{made['id']}"
    assert (handshake.method, handshake.path) == ("POST", "/fhir")
    assert handshake.told == {
        "subscription": where,
        "topic": SIGNED,
        "status": "requested",
        "type": "handshake",
        "events-since-subscription-start": "0",
    }
    entry = handshake.json["entry"][0]
    assert entry["request"] == {"method": "GET", "url": f"{where}/$status"}
    assert read(client, made)["status"] == "active"
    first = report(client)
    report(client, status="preliminary")
    room.queue.drain()
    [got] = hook.take()
    Bundle.model_validate(got.json)
    assert got.json["type"] == "history"
    assert got.told["type"] == "event-notification"
    assert got.told["events-since-subscription-start"] == "1"
    [event] = got.told["events"]
    assert (event["event-number"], event["focus"]) == ("1", f"{root}/DiagnosticReport/{first['id']}")
    [focus] = got.json["entry"][1:]
    assert focus["fullUrl"] == f"{root}/DiagnosticReport/{first['id']}"
    assert "resource" not in focus
    report(client, first["id"], "amended")
    room.queue.drain()
    [got] = hook.take()
    assert [one["event-number"] for one in got.told["events"]] == ["2"]
    assert status_of(client, made)["events-since-subscription-start"] == "2"


@pytest.mark.parametrize("content", ["empty", "full-resource"])
def test_how_much_a_notification_says_is_for_the_subscriber_to_choose(
    room: Room, client: httpx.Client, hook: Receiver, content: str
) -> None:
    send(client, backport(hook, content=content))
    room.queue.drain()
    signed = report(client)
    room.queue.drain()
    got = hook.take()[-1]
    [event] = got.told["events"]
    if content == "empty":
        assert set(event) == {"event-number", "timestamp"}
        assert len(got.json["entry"]) == 1
        assert signed["id"] not in got.body.decode()
    else:
        [focus] = got.json["entry"][1:]
        assert focus["resource"] == signed
        assert focus["request"] == {"method": "POST", "url": "DiagnosticReport"}


def test_filters_of_a_topic_have_all_to_be_met(room: Room, client: httpx.Client, hook: Receiver) -> None:
    asked = backport(hook, "DiagnosticReport?code=http://loinc.org|1975-2", "status=final", content="full-resource")
    send(client, asked)
    room.queue.drain()
    report(client, status="amended")
    report(client, code={"text": "other"})
    signed = report(client)
    room.queue.drain()
    told = [entry["resource"]["id"] for got in hook.take()[1:] for entry in got.json["entry"][1:]]
    assert told == [signed["id"]]


def test_a_notification_holds_no_more_events_than_the_subscriber_takes(
    room: Room, client: httpx.Client, hook: Receiver
) -> None:
    send(client, backport(hook, max_count=2))
    for _ in range(5):
        report(client)
    room.queue.drain()
    handshake, *rest = hook.take()
    assert handshake.told["type"] == "handshake"
    numbers = [[one["event-number"] for one in got.told["events"]] for got in rest]
    assert numbers == [["1", "2"], ["3", "4"], ["5"]]


def test_a_heartbeat_is_sent_when_nothing_else_was(
    room: Room, client: httpx.Client, hook: Receiver, clock: SetClock
) -> None:
    made = send(client, backport(hook, heartbeat_period=60))
    room.queue.drain()
    hook.take()
    send(client, {**backport(hook, heartbeat_period=60), "reason": "Another"}, made["id"])
    room.queue.drain()
    later(room, clock, seconds=59)
    assert hook.take() == []
    later(room, clock, seconds=1)
    assert [got.told["type"] for got in hook.take()] == ["heartbeat"]
    clock.advance(timedelta(seconds=30))
    report(client)
    room.queue.drain()
    later(room, clock, seconds=59)
    assert [got.told["type"] for got in hook.take()] == ["event-notification"]
    later(room, clock, seconds=1)
    assert [got.told["type"] for got in hook.take()] == ["heartbeat"]


def test_the_topics_are_declared(client: httpx.Client) -> None:
    statement = client.get("/fhir/metadata").json()
    [declared] = [one for one in statement["rest"][0]["resource"] if one["type"] == "Subscription"]
    url = f"{BACKPORT}/StructureDefinition/capabilitystatement-subscriptiontopic-canonical"
    assert {"url": url, "valueCanonical": SIGNED} in declared["extension"]
    assert {one["name"] for one in declared["operation"]} >= {"status", "events", "get-ws-binding-token"}


# -- what goes wrong ---------------------------------------------------------------------------------------------------


@BOTH
def test_what_was_not_taken_is_sent_again_in_its_order_and_an_error_recovers(
    room: Room, client: httpx.Client, hook: Receiver, clock: SetClock
) -> None:
    made = send(client, backport(hook))
    room.queue.drain()
    hook.take()
    hook.status = 503
    for _ in range(3):
        report(client)
        room.queue.drain()
    assert len(hook.take()) == 1  # the others wait behind it
    for tried in range(1, FAILURES):
        assert read(client, made)["status"] == "active"
        later(room, clock, seconds=AGAIN.most.total_seconds())
        assert len(hook.take()) == 1, tried
    shown = read(client, made)
    assert (shown["status"], shown["error"]) == ("error", "It was answered 503.")
    assert status_of(client, made)["error"] == {"text": "It was answered 503."}
    report(client)
    room.queue.drain()
    assert hook.take() == []
    hook.status = 200
    later(room, clock, seconds=AGAIN.most.total_seconds())
    handshake, events = hook.take()
    assert (handshake.told["type"], handshake.told["status"]) == ("handshake", "error")
    assert [one["event-number"] for one in events.told["events"]] == ["1", "2", "3", "4"]
    shown = read(client, made)
    assert shown["status"] == "active"
    assert "error" not in shown
    versions = client.get(f"/fhir/Subscription/{made['id']}/_history").json()["entry"]
    assert [one["resource"]["status"] for one in versions] == ["active", "error", "active", "requested"]


def test_what_a_crash_cuts_off_is_sent_again(
    room: Room, client: httpx.Client, hook: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    send(client, plain(hook))
    room.queue.drain()
    observation(client)
    note = notify.Deliveries._note

    def die(*_: Any, **__: Any) -> None:
        raise SystemExit

    monkeypatch.setattr(notify.Deliveries, "_note", die)
    room.queue.drain()
    [first] = hook.take()
    monkeypatch.setattr(notify.Deliveries, "_note", note)
    [entry] = room.queue.entries()
    room.queue.retry(entry.id)
    room.queue.drain()
    [second] = hook.take()
    assert second == first
    room.queue.drain()
    assert hook.take() == []


def test_a_subscriber_who_refuses_is_in_error_at_once_and_tried_again(
    room: Room, client: httpx.Client, hook: Receiver, clock: SetClock
) -> None:
    hook.status = 401
    made = send(client, backport(hook))
    room.queue.drain()
    assert (read(client, made)["status"], read(client, made)["error"]) == ("error", "It was refused with 401.")
    hook.status = 204
    later(room, clock, minutes=10)
    assert read(client, made)["status"] == "active"


def test_who_takes_nothing_for_a_week_is_switched_off(
    room: Room, client: httpx.Client, hook: Receiver, clock: SetClock
) -> None:
    hook.status = 500
    made = send(client, backport(hook))
    room.queue.drain()
    later(room, clock, days=KEPT.days)
    shown = read(client, made)
    assert shown["status"] == "off"
    assert "Switched off" in shown["error"]
    later(room, clock, days=1)
    hook.take()
    later(room, clock, days=1)
    assert hook.take() == []


def test_a_redirect_is_not_followed(room: Room, client: httpx.Client, hook: Receiver) -> None:
    with receiving() as other:
        hook.status, hook.location = 307, f"{other.url}/fhir"
        made = send(client, backport(hook))
        room.queue.drain()
        assert read(client, made)["error"] == "It was answered 307, and redirects are not followed."
        assert other.take() == []


def test_a_subscription_ends_when_it_says(room: Room, client: httpx.Client, hook: Receiver, clock: SetClock) -> None:
    end = (clock.now() + timedelta(hours=1)).isoformat()
    made = send(client, {**plain(hook), "end": end})
    over = send(client, {**plain(hook), "end": clock.now().isoformat()})
    assert over["status"] == "off"
    later(room, clock, minutes=59)
    assert read(client, made)["status"] == "active"
    later(room, clock, minutes=1)
    assert read(client, made)["status"] == "off"
    observation(client)
    room.queue.drain()
    assert hook.take() == []


def test_two_subscribers_do_not_wait_for_each_other(room: Room, client: httpx.Client, hook: Receiver) -> None:
    with receiving() as other:
        other.status = 503
        for receiver in (other, hook):
            send(client, plain(receiver))
        room.queue.drain()
        for _ in range(3):
            observation(client)
        room.queue.drain()
        assert (len(other.take()), len(hook.take())) == (1, 3)


def test_a_delivery_leaves_a_place_for_other_work(room: Room, client: httpx.Client, hook: Receiver) -> None:
    places = threading.BoundedSemaphore(1)
    room.queue.handlers[DELIVER] = notify.Deliveries(room=room, places=places).deliver
    with places:
        send(client, plain(hook))
        room.queue.drain()
        [waiting] = room.queue.entries()
        assert (waiting.state, waiting.attempt) == ("queued", 0)
    room.queue.retry(waiting.id)
    room.queue.drain()
    assert room.queue.entries() == []


# -- written anew ------------------------------------------------------------------------------------------------------


def test_a_subscription_that_wants_something_else_begins_anew_and_keeps_what_waits(
    room: Room, client: httpx.Client, hook: Receiver
) -> None:
    made = send(client, backport(hook))
    room.queue.drain()
    hook.take()
    same = send(client, {**backport(hook), "reason": "Another reason", "status": "active"}, made["id"])
    assert same["status"] == "active"
    hook.status = 503
    report(client)
    room.queue.drain()
    hook.status = 200
    hook.take()
    with receiving() as other:
        changed = send(client, backport(other), made["id"])
        assert changed["status"] == "requested"
        room.queue.drain()
        handshake, events = other.take()
        assert handshake.told["type"] == "handshake"
        assert [one["event-number"] for one in events.told["events"]] == ["1"]


def test_what_comes_back_is_what_was_sent(client: httpx.Client, hook: Receiver) -> None:
    asked = {**backport(hook, "status=final", heartbeat_period=60), "contact": [{"system": "phone", "value": "1"}]}
    made = send(client, {**asked, "status": "active", "error": "a client's own"})
    assert {**made, "id": None, "meta": None} == {**asked, "id": None, "meta": None}


def test_the_subscriptions_of_the_documentation_are_taken(client: httpx.Client) -> None:
    page = (REPOSITORY / "docs/how-to/fhir-subscriptions.md").read_text()
    blocks = re.findall(r"^```json\n(.*?)^```", page, re.DOTALL | re.MULTILINE)
    assert len(blocks) == 2
    for block in blocks:
        assert send(client, json.loads(block))["status"] == "requested"
    assert all(url.rpartition("/")[2] in page for url in TOPICS)


@pytest.mark.parametrize(
    ("changes", "place", "says"),
    [
        ({"criteria": "Observation?colour=red"}, "criteria", "colour"),
        ({"criteria": "Observation?status:near=final"}, "criteria", "near"),
        ({"criteria": "Spaceship?name=x"}, "criteria", "Spaceship"),
        ({"criteria": "Observation?_count=5"}, "criteria", "_count"),
        ({"criteria": "Observation?_include=Observation:subject"}, "criteria", "_include"),
        ({"criteria": "https://example.org/topic"}, "criteria", "no such topic"),
        ({"channel": {"type": "email", "endpoint": "mailto:a@b.example"}}, "channel.type", "rest-hook or websocket"),
        ({"channel": {"type": "rest-hook"}}, "channel.endpoint", "has to have an endpoint"),
        ({"channel": {"type": "rest-hook", "endpoint": "https://a.example", "payload": "text/plain"}}, "", "payload"),
        ({"channel": {"type": "websocket", "payload": "application/fhir+json"}}, "channel.payload", "no payload"),
    ],
)
def test_what_cannot_be_is_refused_with_its_place(
    client: httpx.Client, changes: dict[str, Any], place: str, says: str
) -> None:
    expression, diagnostics = refused(client, {**plain("https://ehr.example/hook"), **changes})
    assert expression.startswith(f"Subscription.{place}")
    assert says in diagnostics
    assert client.get("/fhir/Subscription").json().get("entry") is None


def test_a_facility_has_so_many_subscriptions_and_no_more(
    room: Room, client: httpx.Client, hook: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(subscriptions, "MOST_LIVE", 2)
    facilities(room)
    made = [send(client, plain(hook)) for _ in range(2)]
    assert "at most 2" in refused(client, plain(hook))[1]
    send(client, plain(hook), root="/fhir/f/north")
    send(client, plain(hook), made[0]["id"])  # one of them may be changed
    send(client, {**plain(hook), "status": "off"}, made[0]["id"])
    send(client, plain(hook))


@pytest.mark.parametrize(
    "header",
    [
        *("Host: evil.example", "Content-Length: 5", "Transfer-Encoding: chunked", "no colon", "Sp ace: x", ": x"),
        *("X: a\r\nY: b", "X: \x00", "X: é", "X:"),
    ],
)
def test_a_header_that_could_do_harm_is_refused(client: httpx.Client, header: str) -> None:
    answer = client.post("/fhir/Subscription", content=json.dumps(plain("https://a.example", header=[header])))
    assert answer.status_code in (400, 415, 422)
    answer = client.post(
        "/fhir/Subscription", content=json.dumps(plain("https://a.example", header=[header])), headers=JSON
    )
    assert answer.status_code in (400, 422), answer.text


@pytest.mark.parametrize(
    ("filters", "numbers", "says"),
    [
        (("Observation?status=final",), {}, "begins with DiagnosticReport?"),
        (("colour=red",), {}, "colour"),
        ((), {"timeout": 61}, "at most 60"),
        ((), {"heartbeat_period": 10**9}, "at most"),
    ],
)
def test_a_topic_takes_filters_and_numbers_that_make_sense(
    client: httpx.Client, hook: Receiver, filters: tuple[str, ...], numbers: dict[str, int], says: str
) -> None:
    _expression, diagnostics = refused(client, backport(hook, *filters, **numbers))
    assert says in diagnostics


# -- clients -----------------------------------------------------------------------------------------------------------


def test_a_client_that_is_registered_no_more_is_told_of_nothing(
    room: Room, client: httpx.Client, hook: Receiver
) -> None:
    program = register(room, "ehr", scopes="system/*.cruds")
    headers = {**JSON, "authorization": f"Bearer {program.token(client, 'system/*.cruds')}"}
    answer = client.post("/fhir/Subscription", content=json.dumps(plain(hook)), headers=headers)
    assert answer.status_code == 201, answer.text
    made = answer.json()
    room.queue.drain()
    observation(client)
    room.queue.drain()
    assert len(hook.take()) == 1
    hook.status = 503
    observation(client)
    room.queue.drain()
    hook.status = 200
    hook.take()
    with begin_write(room.engine) as connection:
        remove_client(connection, "ehr")
    observation(client)
    room.queue.drain()
    assert isinstance(room.clock, SetClock)
    later(room, room.clock, minutes=10)
    assert hook.take() == []
    assert read(client, made)["status"] == "off"


def test_a_client_hears_of_no_more_than_its_scopes_let_it_read(
    room: Room, client: httpx.Client, hook: Receiver
) -> None:
    scopes = "system/Subscription.cruds system/Observation.rs?status=final"
    program = register(room, "ehr", scopes=scopes)
    headers = {**JSON, **program.headers(client, scopes)}
    answer = client.post("/fhir/Subscription", content=json.dumps(plain(hook, "DiagnosticReport")), headers=headers)
    assert answer.status_code == 422, answer.text
    chained = plain(hook, "Observation?subject:Patient.name=x")
    assert client.post("/fhir/Subscription", content=json.dumps(chained), headers=headers).status_code == 422
    answer = client.post("/fhir/Subscription", content=json.dumps(plain(hook, "Observation")), headers=headers)
    assert answer.status_code == 201, answer.text
    room.queue.drain()
    observation(client, status="preliminary")
    seen = observation(client)
    room.queue.drain()
    assert [got.json["id"] for got in hook.take()] == [seen["id"]]
    hook.status = 503
    changed = observation(client)
    room.queue.drain()
    hook.take()
    observation(client, changed["id"], status="amended")  # by the time that it is sent, it may not be read any more
    hook.status = 200
    assert isinstance(room.clock, SetClock)
    later(room, room.clock, minutes=10)
    assert hook.take() == []


# -- secrets -----------------------------------------------------------------------------------------------------------


def test_a_secret_is_shown_to_nobody_but_its_owner_and_stands_in_no_history(
    room: Room, client: httpx.Client, hook: Receiver, caplog: pytest.LogCaptureFixture
) -> None:
    hook.status = 500
    made = send(client, plain(hook, header=["Authorization: Bearer s3cret", "X-Other: t0ken"]))
    room.queue.drain()
    observation(client)
    room.queue.drain()
    assert made["channel"]["header"] == ["Authorization: Bearer s3cret", "X-Other: t0ken"]
    assert read(client, made)["channel"]["header"] == made["channel"]["header"]
    assert "s3cret" not in client.get(f"/fhir/Subscription/{made['id']}/_history").text
    assert "s3cret" not in client.get(f"/fhir/Subscription/{made['id']}/$status").text
    assert "s3cret" not in caplog.text
    give_away(room, made)
    shown = read(client, made)
    assert shown["channel"]["header"] == ["Authorization: ***", "X-Other: ***"]
    assert "s3cret" not in client.get("/fhir/Subscription").text


def give_away(room: Room, subscription: Any) -> None:
    """Have a subscription be one that another client wrote."""
    other = to_json(Actor(id="other", name="Other"))
    with begin_write(room.engine) as connection:
        [found] = subscriptions_by_id(connection, Scope(), (subscription["id"],))
        change_subscription(connection, found.rid, actor="other", sees=orjson.dumps(other))


def test_a_masked_header_stays_as_it_was_but_goes_to_no_other_host(
    room: Room, client: httpx.Client, hook: Receiver
) -> None:
    made = send(client, plain(hook, header=["Authorization: Bearer s3cret"]))
    kept = send(client, plain(f"{hook.url}/other", header=["Authorization: ***"]), made["id"])
    assert kept["channel"]["header"] == ["Authorization: Bearer s3cret"]
    room.queue.drain()
    observation(client)
    room.queue.drain()
    [got] = hook.take()
    assert got.path.startswith("/other/")
    assert got.headers["Authorization"] == "Bearer s3cret"
    stolen = {**plain("https://evil.example", header=["Authorization: ***"]), "id": made["id"]}
    answer = client.put(f"/fhir/Subscription/{made['id']}", content=json.dumps(stolen), headers=JSON)
    assert answer.status_code == 422
    assert "not known for this endpoint" in answer.text


# -- what is never called ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "url",
    [
        *(
            "http://169.254.169.254/latest/meta-data/",
            "https://169.254.169.254/",
            "https://10.0.0.1/",
            "https://[::1]/",
        ),
        *("https://[::ffff:10.0.0.1]/", "https://[fd00:ec2::254]/", "https://0.0.0.0/", "https://192.168.1.1:8443/"),
        *("ftp://a.example/", "https://user:pass@a.example/", "https://a.example/#x", "javascript:alert(1)", "//a/"),
        "https://a.example\\@b.example/",
    ],
)
def test_an_endpoint_that_can_be_seen_to_be_wrong_is_refused(client: httpx.Client, url: str) -> None:
    expression, _said = refused(client, plain(url))
    assert expression == "Subscription.channel.endpoint"


def test_a_name_that_leads_inside_is_not_called(
    room: Room, client: httpx.Client, hook: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    from readingroom import outbound

    resolve, addresses = outbound.socket.getaddrinfo, iter(["127.0.0.1", "10.0.0.1", "169.254.169.254"])

    def found(host: str, port: int, **how: Any) -> Any:
        return resolve(next(addresses) if host == "hooks.example" else host, port, **how)

    monkeypatch.setattr(outbound.socket, "getaddrinfo", found)
    port = hook.url.rpartition(":")[2]
    made = send(client, plain(f"http://hooks.example:{port}/fhir"))  # allowed when it is looked at first
    room.queue.drain()
    assert read(client, made)["status"] == "active"
    observation(client)
    room.queue.drain()
    shown = read(client, made)
    assert shown["status"] == "error"
    assert "neither of the public Internet" in shown["error"]
    assert hook.take() == []


def test_http_without_tls_goes_nowhere_but_to_networks_that_are_allowed(
    room: Room, client: httpx.Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    from readingroom import outbound

    monkeypatch.setattr(outbound.socket, "getaddrinfo", lambda *_, **__: [(2, 1, 6, "", ("93.184.215.14", 80))])
    made = send(client, plain("http://hooks.example/"))
    room.queue.drain()
    assert "https alone" in read(client, made)["error"]


# -- what can be asked -------------------------------------------------------------------------------------------------


def test_events_are_told_again_from_one_number_to_another(
    room: Room, client: httpx.Client, hook: Receiver, clock: SetClock
) -> None:
    made = send(client, backport(hook))
    reports = [report(client) for _ in range(4)]
    room.queue.drain()
    where = f"/fhir/Subscription/{made['id']}/$events"
    bundle = client.get(where, params={"eventsSinceNumber": "2", "eventsUntilNumber": "3"}).json()
    told = parameters_of(bundle["entry"][0]["resource"]["parameter"])
    assert (told["type"], bundle["type"]) == ("query-event", "history")
    assert [one["event-number"] for one in told["events"]] == ["2", "3"]
    assert [entry["fullUrl"].rpartition("/")[2] for entry in bundle["entry"][1:]] == [one["id"] for one in reports[1:3]]
    asked = {
        "resourceType": "Parameters",
        "parameter": [
            {"name": "eventsSinceNumber", "valueString": "4"},
            {"name": "content", "valueCode": "full-resource"},
        ],
    }
    answer = client.post(where, content=json.dumps(asked), headers=JSON)
    assert [entry["resource"]["id"] for entry in answer.json()["entry"][1:]] == [reports[3]["id"]]
    assert client.get(where, params={"eventsSinceNumber": "x"}).status_code == 400
    clock.advance(KEPT + timedelta(hours=1))
    assert forget_notifications(room, clock.now()) == 4
    assert len(client.get(where).json()["entry"]) == 1


def test_the_state_of_several_is_told_by_id_and_status(room: Room, client: httpx.Client, hook: Receiver) -> None:
    facilities(room)
    first = send(client, plain(hook))
    room.queue.drain()
    second = send(client, plain(hook))
    send(client, plain(hook), root="/fhir/f/north")

    def told(**params: Any) -> set[str]:
        entries = client.get("/fhir/f/local/Subscription/$status", params=params).json().get("entry", [])
        parameters = [parameters_of(entry["resource"]["parameter"]) for entry in entries]
        return {one["subscription"].rpartition("/")[2] for one in parameters}

    assert told() == {first["id"], second["id"]}
    assert told(id=[first["id"], "unknown"]) == {first["id"]}
    assert told(status="requested") == {second["id"]}
    assert client.get("/fhir/f/south/Subscription/" + first["id"] + "/$status").status_code == 404


def test_subscriptions_are_found_by_their_parameters(room: Room, client: httpx.Client, hook: Receiver) -> None:
    made = send(client, backport(hook))
    send(client, {**plain(hook), "status": "off"})
    room.queue.drain()
    for query in ("status=active", f"criteria={SIGNED}", f"url={hook.url}/fhir&status=active", "type=rest-hook"):
        found = client.get(f"/fhir/Subscription?{query}").json()
        assert made["id"] in {entry["resource"]["id"] for entry in found["entry"]}, query


def test_what_waits_for_one_is_not_sent_to_another_who_takes_the_subscription_over(
    room: Room, client: httpx.Client, hook: Receiver
) -> None:
    made = send(client, backport(hook))
    hook.status = 503
    report(client)
    room.queue.drain()
    hook.take()
    give_away(room, made)
    with receiving() as other:
        send(client, backport(other), made["id"])
        room.queue.drain()
        assert [got.told["type"] for got in other.take()] == ["handshake"]
    assert hook.take() == []
