"""The worklist of the web room: what is next, and every change as it is committed."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from typing import Any

import httpx
import orjson
import pytest

from readingroom.clock import SetClock
from readingroom.jsonio import dumps
from readingroom.model import Evidence, Finding, Scope
from readingroom.results import Triage
from server import feed
from server.room import Room
from server.web.worklist import told
from server.worklist.items import claim_item, complete_item, flag_item, offer_item
from storage.catalog.answers import keep_answer
from storage.catalog.events import Wanted
from tests.worklist import add, at_work

BOTH = pytest.mark.rooms("sqlite", "postgres")


def listed(client: httpx.Client, **params: str | int) -> list[dict[str, Any]]:
    answer = client.get("/worklist", params=params)
    assert answer.status_code == 200, answer.text
    return answer.json()


@BOTH
def test_the_list_is_in_the_order_to_read_it(room: Room, client: httpx.Client, clock: SetClock) -> None:
    routine, urgent, stat = (add(room.engine, clock, priority=one) for one in ("routine", "urgent", "stat"))
    due_at = clock.now() + timedelta(hours=1)
    late = add(room.engine, clock, facility="north", due_at=due_at, warn_at=clock.now())
    flagged = add(room.engine, clock)
    add(room.engine, clock, is_ready=False)
    with at_work(room.engine) as work:
        flag_item(work, flagged, "blood")
    found = listed(client)
    assert [one["id"] for one in found] == [one.id for one in (flagged, stat, late, urgent, routine)]
    first, second, third, *_ = found
    assert (first["findings"], first["is_flagged"], first["holds"]) == ("blood", True, "routine")
    assert (second["holds"], second["is_at_risk"]) == ("stat", False)
    assert (third["is_at_risk"], third["due_at"]) == (True, "2026-01-01T13:00:00+00:00")
    assert client.get(second["workitem"]).status_code == 200
    assert second["study"].endswith(f"/dicomweb/studies/{stat.study_uid}")
    assert [one["id"] for one in listed(client, limit=2)] == [flagged.id, stat.id]
    assert [one["id"] for one in listed(client, facility="north")] == [late.id]


def test_a_reader_finds_what_is_claimed_and_offered(room: Room, client: httpx.Client) -> None:
    claimed, offered = add(room.engine), add(room.engine)
    with at_work(room.engine) as work:
        claim_item(work, claimed, token="1.2.3.4", reader="ada")
        offer_item(work, offered, "ada")
    found = listed(client, reader="ada")
    assert [(one["id"], one["state"]) for one in found] == [(claimed.id, "claimed"), (offered.id, "assigned")]
    assert "1.2.3.4" not in str(found)
    assert listed(client, reader="bob") == []


@BOTH
def test_an_item_tells_its_history_and_what_plugins_have_found(
    room: Room, client: httpx.Client, clock: SetClock
) -> None:
    item = add(room.engine)
    assert item.study_uid
    finding = Finding(text="Blood", evidence=(Evidence(series_uid="1.2", instance_uid="1.2.3"),))
    with at_work(room.engine) as work:
        claim_item(work, item, token="1.2.3.4", reader="ada")
        keep_answer(
            work.connection,
            facility=item.facility,
            study_uid=item.study_uid,
            revision=1,
            hook="triage_study",
            plugin="bleed",
            answer=dumps(Triage(findings=(finding,))),
            note="cleared",
            at=clock.now(),
        )
    shown = client.get(f"/worklist/{item.workitem_uid}").json()
    assert (shown["id"], shown["state"], [one["what"] for one in shown["timeline"]]) == (
        item.id,
        "claimed",
        ["created", "claimed"],
    )
    (answer,) = shown["answers"]
    assert (answer["plugin"], answer["state"], answer["note"]) == ("bleed", "answered", "cleared")
    assert answer["answer"]["findings"][0]["evidence"][0]["instance_uid"] == "1.2.3"
    assert "1.2.3.4" not in str(shown)
    assert client.get("/worklist/1.2.3.9").status_code == 404
    assert client.get(f"/worklist/{item.workitem_uid}?limit=1").status_code == 400


@pytest.mark.parametrize("query", ["limit=0", "limit=501", "limit=x", "offset=1"])
def test_a_list_that_makes_no_sense_is_400(client: httpx.Client, query: str) -> None:
    assert client.get(f"/worklist?{query}").status_code == 400


@BOTH
def test_the_feed_tells_every_change_once_and_goes_on_where_it_was(room: Room, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(feed, "LOOK_SECONDS", 0.01)
    item, north = add(room.engine), add(room.engine, facility="north")
    seen: list[tuple[int, dict[str, Any]]] = []

    async def hear(scope: Scope, after: int, number: int) -> None:
        async for piece in feed.follow(room, scope, Wanted(item=True), told, after=after):
            if piece.startswith(b"id: "):
                number_line, data, *_ = piece.decode().splitlines()
                seen.append((int(number_line[4:]), orjson.loads(data[6:])))
            if len(seen) >= number:
                return

    async def run() -> None:
        await asyncio.wait_for(hear(Scope(), 0, 2), 20)
        with at_work(room.engine) as work:
            complete_item(work, claim_item(work, item, token="1.2", reader="ada"), token="1.2")
        await asyncio.wait_for(hear(Scope(), seen[-1][0], 4), 20)
        await asyncio.wait_for(hear(Scope(facilities=frozenset({"north"})), 0, 5), 20)

    asyncio.run(run())
    assert [(one["item"], one["what"]) for _, one in seen] == [
        (item.id, "created"),
        (north.id, "created"),
        (item.id, "claimed"),
        (item.id, "completed"),
        (north.id, "created"),
    ]
    claimed = seen[2][1]
    assert (claimed["before"], claimed["after"], claimed["reader"], claimed["actor"]) == (
        "ready",
        "claimed",
        "ada",
        "local-operator",
    )
    assert claimed["facility"] == "local"
    assert claimed["study"] == item.study_uid
    assert claimed["sequence"] == seen[2][0]
    assert claimed["time"] == "2026-01-01T12:00:00.000000Z"


def test_the_feed_is_a_stream_of_its_own_media_type(client: httpx.Client) -> None:
    answer = client.head("/worklist/events")
    assert (answer.status_code, answer.headers["content-type"]) == (200, "text/event-stream; charset=utf-8")
    assert client.head("/worklist/events", headers={"Last-Event-ID": "x"}).status_code == 400
    assert client.head("/worklist/events?limit=1").status_code == 400
