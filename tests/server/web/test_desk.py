"""The escalation desk over HTTP."""

from __future__ import annotations

from typing import Any

import httpx
import pytest

from readingroom.model import Contact
from server.room import Room
from storage.catalog.escalations import Attempt, keep_attempt
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
        ({"content": b"x" * 70_000, "headers": {"Content-Type": "application/json"}}, 400),
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
