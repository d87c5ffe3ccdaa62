"""What readers do with items of the worklist over HTTP."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import httpx
import pytest

from readingroom.clock import SetClock
from server.room import Room
from server.web.commands import COMMANDS
from server.worklist.items import expire_claims
from storage.catalog.work_items import StoredItem
from tests.worklist import add


@pytest.fixture
def item(room: Room, clock: SetClock) -> StoredItem:
    return add(room.engine, clock)


def give(client: httpx.Client, item: StoredItem, command: str, **told: str) -> httpx.Response:
    return client.post(f"/worklist/{item.workitem_uid}/{command}", json=told)


def given(client: httpx.Client, item: StoredItem, command: str, **told: str) -> dict[str, Any]:
    answer = give(client, item, command, **told)
    assert answer.status_code == 200, answer.text
    shown: dict[str, Any] = answer.json()
    return shown


def test_a_claim_answers_its_token_which_every_further_command_needs(client: httpx.Client, item: StoredItem) -> None:
    claimed = given(client, item, "claim", reader="ada")
    assert (claimed["state"], claimed["owner"]) == ("claimed", "ada")
    token = claimed["token"]
    assert give(client, item, "claim", reader="bob").status_code == 409
    for command, told in (("hold", {"reason": "no prior"}), ("release", {}), ("complete", {}), ("renew", {})):
        assert give(client, item, command, **told).status_code == 409, command
        assert give(client, item, command, **told, token="1.2").status_code == 409, command
    held = given(client, item, "hold", reason="no prior", token=token)
    assert (held["state"], "token" in held) == ("held", False)
    assert given(client, item, "resume", token=token)["state"] == "claimed"
    assert given(client, item, "release", token=token)["state"] == "ready"
    token = given(client, item, "claim", reader="bob")["token"]
    assert given(client, item, "complete", token=token)["state"] == "completed"
    timeline = client.get(f"/worklist/{item.workitem_uid}").json()["timeline"]
    told = [event["what"] for event in timeline]
    assert told == ["created", "claimed", "held", "resumed", "released", "claimed", "completed"]


def test_a_claim_that_is_renewed_does_not_expire(
    client: httpx.Client, room: Room, item: StoredItem, clock: SetClock
) -> None:
    token = given(client, item, "claim", reader="ada")["token"]
    lasts = timedelta(minutes=room.settings.claim_minutes)
    clock.advance(lasts * 0.9)
    given(client, item, "renew", token=token)
    clock.advance(lasts * 0.9)
    assert expire_claims(room.engine, clock.now()) == 0
    clock.advance(lasts * 0.2)
    assert expire_claims(room.engine, clock.now()) == 1
    assert give(client, item, "renew", token=token).status_code == 409


def test_an_offer_is_declined_or_given_to_another(client: httpx.Client, item: StoredItem) -> None:
    assert give(client, item, "offer").status_code == 400
    assert given(client, item, "offer", reader="ada")["offered_to"] == "ada"
    assert give(client, item, "decline", reader="bob").status_code == 409
    assert given(client, item, "decline", reader="ada", reason="not mine")["state"] == "ready"
    given(client, item, "offer", reader="ada")
    moved = given(client, item, "reassign", reader="bob", reason="ada is ill")
    assert (moved["state"], moved["offered_to"]) == ("assigned", "bob")
    assert given(client, item, "reassign")["state"] == "ready"


def test_priority_changes_and_what_is_cancelled_stays_so(client: httpx.Client, item: StoredItem) -> None:
    assert given(client, item, "prioritise", priority="stat", reason="called")["holds"] == "stat"
    assert give(client, item, "prioritise", priority="soon").status_code == 400
    assert given(client, item, "cancel", reason="stored twice")["state"] == "cancelled"
    assert give(client, item, "claim", reader="ada").status_code == 409


@pytest.mark.parametrize("command", sorted(COMMANDS))
def test_what_makes_no_sense_is_refused_and_changes_nothing(
    client: httpx.Client, item: StoredItem, command: str
) -> None:
    address = f"/worklist/{item.workitem_uid}/{command}"
    assert client.post(address, json={"nonsense": "x"}).status_code == 400
    assert client.post(address, json=["x"]).status_code == 400
    assert client.post(address, json=dict.fromkeys(COMMANDS[command].takes, 1)).status_code == 400
    assert client.post(address, content=b"{", headers={"Content-Type": "application/json"}).status_code == 400
    assert client.post(address, content=b"x", headers={"Content-Type": "text/plain"}).status_code == 415
    assert client.get(address).status_code == 405
    assert client.post(f"/worklist/1.2.3/{command}", json={}).status_code in (400, 404)
    assert client.get(f"/worklist/{item.workitem_uid}").json()["version"] == item.version


def test_a_command_that_is_not_one_is_not_found(client: httpx.Client, item: StoredItem) -> None:
    answer = give(client, item, "eat")
    assert answer.status_code == 404
    assert "claim, renew" in answer.text
