"""The escalation desk over HTTP."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import httpx
import pytest

from readingroom.clock import SetClock
from readingroom.model import Contact, CriticalResult, Report
from server.reports.critical import open_criticals
from server.room import Room
from storage.catalog.directory import write_facility
from storage.catalog.escalations import Attempt, keep_attempt
from tests.directory import facility
from tests.worklist import at_work

CRITICAL = {"reason": "Blood <b>in</b> the head.", "category": 1, "study": "1.2.3", "key": "k"}


def opened(client: httpx.Client, **told: Any) -> dict[str, Any]:
    answer = client.post("/escalations", json=CRITICAL | told)
    assert answer.status_code == 201, answer.text
    row: dict[str, Any] = answer.json()
    assert answer.headers["location"] == f"/escalations/{row['id']}"
    return row


def test_a_critical_result_is_opened_listed_acknowledged_and_gone_from_the_desk(client: httpx.Client) -> None:
    row = opened(client)
    assert opened(client) == row, "told again it is the same"
    assert [one["id"] for one in client.get("/escalations").json()] == [row["id"]]
    assert [rung["role"] for rung in row["ladder"]] == ["referrer", "referrer", "backup", "desk", "supervisor"]
    answer = client.post(f"/escalations/{row['id']}/acknowledge", json={"by": "Dr. Desk", "read_back": "Blood."})
    assert (answer.status_code, answer.json()["state"]) == (200, "acknowledged")
    assert client.get("/escalations").json() == []
    assert [one["closed_by"] for one in client.get("/escalations?state=any").json()] == ["Dr. Desk"]
    again = client.post(f"/escalations/{row['id']}/acknowledge", json={"by": "Dr. B", "read_back": "Blood."})
    assert again.status_code == 409
    assert "acknowledged by Dr. Desk" in again.text


def test_one_opened_in_error_is_cancelled_with_a_reason(client: httpx.Client) -> None:
    address = f"/escalations/{opened(client)['id']}"
    assert client.post(f"{address}/cancel", json={"reason": " "}).status_code == 400
    assert client.post(f"{address}/cancel", json={"reason": "A phantom."}).json()["state"] == "cancelled"


def test_the_page_shows_the_attempts_and_a_form_that_acknowledges(client: httpx.Client, room: Room) -> None:
    address = f"/escalations/{opened(client)['id']}"
    contact = Contact(name="<Desk>", role="desk", channel="smtp", address="desk@example.org")
    with at_work(room.engine, room.clock) as work:
        tried = Attempt(
            escalation=address[13:], rung=1, contact=contact, at=room.clock.now(), state="failed", error="busy"
        )
        keep_attempt(work.connection, tried)
    page = client.get(address, headers={"Accept": "text/html,*/*"})
    assert page.headers["content-type"] == "text/html; charset=utf-8"
    assert "Critical result, category 1" in page.text
    assert "Blood &lt;b&gt;in&lt;/b&gt; the head." in page.text
    assert "&lt;Desk&gt;" in page.text
    assert "failed: busy" in page.text
    assert "desk@example.org" not in client.get(address).text
    form = {"by": "Dr. Ä", "read_back": "Blood."}
    answer = client.post(f"{address}/acknowledge", data=form, follow_redirects=False)
    assert (answer.status_code, answer.headers["location"]) == (303, address)
    page = client.get(address, headers={"Accept": "text/html"})
    assert "by Dr. Ä: Blood." in page.text
    assert "<form" not in page.text


def test_another_site_s_form_acknowledges_nothing(client: httpx.Client) -> None:
    address = f"/escalations/{opened(client)['id']}"
    form = {"by": "x", "read_back": "y"}
    answer = client.post(f"{address}/acknowledge", data=form, headers={"Sec-Fetch-Site": "cross-site"})
    assert answer.status_code == 403
    assert client.get(address).json()["state"] == "open"


@pytest.mark.parametrize(
    ("sent", "status"),
    [
        ({"content": b"{", "headers": {"Content-Type": "application/json"}}, 400),
        ({"json": []}, 400),
        ({"json": {"reason": 7}}, 400),
        ({"json": {"reason": "x", "category": 4}}, 400),
        ({"json": {"reason": "x", "category": True}}, 400),
        ({"json": {"reason": ""}}, 400),
        ({"json": {"reason": "x", "else": "y"}}, 400),
        ({"content": b"x" * 70_000, "headers": {"Content-Type": "application/json"}}, 413),
        ({"content": b"x", "headers": {"Content-Type": "text/plain"}}, 415),
    ],
)
def test_a_body_that_is_none_is_refused_with_a_reason(client: httpx.Client, sent: dict[str, Any], status: int) -> None:
    answer = client.post("/escalations", **sent)
    assert answer.status_code == status
    assert answer.text.strip()


def test_an_unknown_one_is_not_found_and_an_unknown_parameter_refused(client: httpx.Client) -> None:
    assert client.get("/escalations/nobody").status_code == 404
    assert client.post("/escalations/nobody/acknowledge", json={"by": "a", "read_back": "b"}).status_code == 404
    assert client.get("/escalations?state=closed").status_code == 400
    assert client.get("/escalations?limit=1").status_code == 400


# -- calls -------------------------------------------------------------------------------------------------------------


def signed(room: Room, *categories: int) -> list[str]:
    """The escalations of a report with critical results of these categories."""
    results = tuple(CriticalResult(category=one, text=f"Result {number}.") for number, one in enumerate(categories))
    report = Report(id="r" * 32, facility="local", status="final", number=1, critical_results=results)
    with at_work(room.engine, room.clock) as work:
        return [row.id for row in open_criticals(work, report)]


def test_the_desk_lists_by_category_and_by_the_time_that_is_left(
    client: httpx.Client, room: Room, clock: SetClock
) -> None:
    opened(client, category=3, key="a")
    clock.advance(timedelta(minutes=10))
    opened(client, category=1, key="b")
    opened(client, category=2, key="c")
    client.post("/escalations", json={"reason": "A reading is late.", "key": "d"})
    clock.advance(timedelta(minutes=65))
    listed = client.get("/escalations?sort=time left").json()
    assert [(one["category"], one["minutes_left"]) for one in listed] == [(1, -5), (2, 115), (3, 4245), (None, None)]
    assert [one["category"] for one in client.get("/escalations").json()] == [3, 1, 2, None]
    assert [one["category"] for one in client.get("/escalations?category=2").json()] == [2]
    for wrong in ("category=4", "sort=name"):
        assert client.get(f"/escalations?{wrong}").status_code == 400


def test_the_desk_is_a_page_for_a_browser_too(client: httpx.Client, clock: SetClock) -> None:
    page = client.get("/escalations", headers={"Accept": "text/html"})
    assert "There is nothing of that kind." in page.text
    row = opened(client)
    clock.advance(timedelta(minutes=61))
    page = client.get("/escalations?sort=time left", headers={"Accept": "text/html"})
    assert page.headers["content-type"] == "text/html; charset=utf-8"
    assert f'<a href="/escalations/{row["id"]}">Blood &lt;b&gt;in&lt;/b&gt; the head.</a>' in page.text
    assert '<td class="late">-1 min</td>' in page.text


def test_an_open_one_says_whom_to_call_and_what_to_say(client: httpx.Client, room: Room) -> None:
    contacts = [
        {"name": "Desk", "role": "desk", "channel": "voice", "address": "+15550102"},
        {"name": "Dr. <Ward>", "role": "referrer", "channel": "voice", "address": "+15550101"},
    ]
    with at_work(room.engine, room.clock) as work:
        write_facility(work.connection, facility("local", contacts=contacts), work.now)
    row = opened(client)
    (listed,) = client.get("/escalations").json()
    assert [one["address"] for one in listed["call"]["contacts"]] == ["+15550101", "+15550102"]
    assert "Blood <b>in</b> the head." in listed["call"]["say"]
    assert "read back" in listed["call"]["ask"]
    page = client.get(f"/escalations/{row['id']}", headers={"Accept": "text/html"}).text
    assert 'Dr. &lt;Ward&gt; (referrer): <a href="tel:+15550101">+15550101</a>' in page
    closed = client.post(f"/escalations/{row['id']}/acknowledge", json={"by": "Dr. Ward", "read_back": "Blood."})
    assert "call" not in closed.json()


def test_calls_and_a_handover_are_kept_and_shown(client: httpx.Client, room: Room, clock: SetClock) -> None:
    address = f"/escalations/{opened(client)['id']}"
    call = {"name": "Ward 4", "role": "backup", "how": "telephone", "number": "+15550100", "outcome": "left message"}
    assert client.post(f"{address}/attempts", json=call | {"note": "Nurse."}).status_code == 201
    moved = client.post(f"{address}/handover", json={"to": "night desk", "note": "<b>Ward</b> calls back."})
    assert (moved.status_code, moved.json()["holder"], moved.json()["state"]) == (200, "night desk", "open")
    page = client.get(address, headers={"Accept": "text/html"}).text
    assert "left-message: Nurse." in page
    assert "&lt;b&gt;Ward&lt;/b&gt; calls back." in page
    clock.advance(timedelta(minutes=9))
    at = (clock.now() - timedelta(minutes=4)).isoformat()
    told = {"by": "Dr. Ward", "read_back": "Blood.", "how": "telephone", "role": "referrer", "at": at}
    closed = client.post(f"{address}/acknowledge", json=told).json()
    assert (closed["state"], closed["reached_at"]) == ("acknowledged", at)
    assert [one["state"] for one in closed["attempts"]] == ["left-message", "handed-over", "read-back"]
    assert closed["attempts"][2]["by"] == "local-operator"
    assert client.post(f"{address}/attempts", json=call).status_code == 409


def test_the_form_of_an_attempt_leads_back_to_its_page(client: httpx.Client) -> None:
    address = f"/escalations/{opened(client)['id']}"
    form = {"name": "Ward 4", "how": "telephone", "outcome": "no answer", "note": ""}
    answer = client.post(f"{address}/attempts", data=form, follow_redirects=False)
    assert (answer.status_code, answer.headers["location"]) == (303, address)


@pytest.mark.parametrize(
    ("to", "told"),
    [
        ("attempts", {"name": "A", "how": "telephone", "outcome": "perhaps"}),
        ("attempts", {"name": "", "how": "telephone", "outcome": "reached"}),
        ("attempts", {"name": "A", "how": "telephone", "outcome": "reached", "at": "yesterday"}),
        ("attempts", {"name": "A", "how": "telephone", "outcome": "reached", "at": "2026-11-24T12:00:00"}),
        ("attempts", {"name": "A", "how": "telephone", "outcome": "reached", "at": "2999-01-01T00:00:00Z"}),
        ("attempts", {"name": "A", "how": "telephone", "outcome": "reached", "note": "x\u0000"}),
        ("handover", {"to": "", "note": "x"}),
        ("handover", {"to": "night desk", "note": ""}),
        ("acknowledge", {"by": "A", "read_back": "B", "at": "0001-01-01T00:00:00Z"}),
        ("acknowledge", {"by": "A\u0000", "read_back": "B"}),
    ],
)
@pytest.mark.rooms("sqlite", "postgres")
def test_a_call_that_cannot_have_been_is_refused(client: httpx.Client, to: str, told: dict[str, Any]) -> None:
    address = f"/escalations/{opened(client)['id']}"
    answer = client.post(f"{address}/{to}", json=told)
    assert answer.status_code == 400, answer.text
    assert client.get(address).json()["attempts"] == []


def test_how_soon_critical_results_are_told_is_measured(client: httpx.Client, room: Room, clock: SetClock) -> None:
    begin = clock.now()
    first, _second = signed(room, 1, 2)
    opened(client)
    clock.advance(timedelta(minutes=12))
    client.post(f"/escalations/{first}/acknowledge", json={"by": "Dr. Ward", "read_back": "Blood."})
    clock.advance(timedelta(hours=3))
    told = client.get("/escalations/statistics").json()
    assert [(one["opened"], one["open"], one["overdue"], one["within"]) for one in told["categories"]] == [
        (1, 0, 0, 1.0),
        (1, 1, 1, 0.0),
        (0, 0, 0, None),
    ]
    assert told["categories"][0]["p95_seconds"] == 720.0
    scraped = client.get("/metrics").text
    assert 'readingroom_critical_seconds{category="1",quantile="0.95"} 720.0' in scraped
    assert 'readingroom_criticals{category="2",state="overdue"} 1.0' in scraped
    later = (begin + timedelta(seconds=1)).isoformat()
    assert client.get("/escalations/statistics", params={"since": later}).json()["categories"][0]["opened"] == 0
    assert client.get("/escalations/statistics?since=never").status_code == 400
    assert client.get("/escalations/statistics?until=now").status_code == 400
