"""The plugins of routing, due times and escalation where they really run: confined, in processes of their own."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from datetime import timedelta
from typing import Any

import pytest
import sqlalchemy as sa

from readingroom import Contact, Escalation, GiveUp, Proposal, RetryLater, Rung, SetClock
from readingroom.confine import Limits
from readingroom.contained import Contained, Launch
from readingroom.hookspecs import HOOKS
from readingroom.jsonio import from_json
from server.worklist.assigning import apply_proposals, take_snapshot
from storage.catalog.directory import LatestDirectory, write_facility, write_reader
from storage.catalog.engine import begin_write
from storage.catalog.work_items import item_by_id
from tests.directory import facility, reader
from tests.plugins.peers import mail_server, web_service
from tests.worklist import add

LIMIT = timedelta(seconds=60)
RUNG = Rung(number=1, role="desk", after=timedelta(0))
CRITICAL = Escalation(id="esc-1", facility="mercy", reason="Blood.", category=1)
DESK = Contact(name="Desk", role="desk", channel="smtp", address="desk@mercy.example")

Start = Callable[..., Contained]


@pytest.fixture
def clock() -> SetClock:
    return SetClock()


@pytest.fixture
def start(clock: SetClock) -> Iterator[Start]:
    with ExitStack() as ends:

        def started(name: str, *, network: bool = False, **settings: Any) -> Contained:
            launch = Launch(name=name, settings=settings, limits=Limits(network=network))
            child = Contained(launch, now=clock.now())
            ends.callback(child.kill)
            return child

        yield started


def test_what_routing_proposes_is_offered_with_its_reason(engine: sa.Engine, clock: SetClock, start: Start) -> None:
    with begin_write(engine) as connection:
        write_facility(connection, facility("mercy"), clock.now())
        write_reader(connection, reader("ada", subspecialties=["neuro"]))
        write_reader(connection, reader("ben", subspecialties=["body"]))
        write_reader(connection, reader("cleo", subspecialties=["neuro"], licences=[{"state": "US-CA", "number": "C"}]))
    described = {"facility": "mercy", "modality": "CT", "body_part": "HEAD", "subspecialty": "neuro"}
    routine = add(engine, clock, **described)
    stat = add(engine, clock, **described, priority="stat")
    with engine.connect() as connection:
        queued = take_snapshot(connection, LatestDirectory(engine).read(), clock.now())
    assign = HOOKS["assign"]
    answer = start("routing").call(assign, {"snapshot": queued.snapshot}, limit=LIMIT, now=clock.now())
    proposals: tuple[Proposal, ...] = from_json(assign.result, answer)
    assert [(one.item, one.reader) for one in proposals] == [(stat.id, "ada")]
    assert apply_proposals(engine, None, clock.now(), queued, "routing", proposals) == 1
    with engine.connect() as connection:
        assert item_by_id(connection, stat.id).offered_to == "ada"
        assert item_by_id(connection, routine.id).state == "ready"


def test_messages_go_out_of_a_process_that_may_use_the_network(clock: SetClock, start: Start) -> None:
    notify = HOOKS["notify_contact"]
    with mail_server() as post, web_service() as web:
        smtp = {"host": "127.0.0.1", "port": post.port, "security": "none", "sender": "room@mercy.example"}
        voice = {"url": f"{web.url}/calls", "fields": {"to": "$to", "say": "$text"}}
        settings: dict[str, Any] = {
            "base_url": "https://room.example.org",
            "private_networks": ["127.0.0.0/8"],
            "smtp": smtp,
            "gateways": {"voice": voice},
        }
        child = start("escalation", network=True, **settings)

        def reach(child: Contained, contact: Contact) -> Any:
            told = {"escalation": CRITICAL, "rung": RUNG, "contact": contact}
            return from_json(notify.result, child.call(notify, told, limit=LIMIT, now=clock.now(), delivery="d"))

        call = Contact(name="Ward", role="desk", channel="voice", address="+15125550100")
        assert reach(child, DESK).reference == post.mails[0]["Message-ID"]
        assert reach(child, call).reference == web.requests[0][1]["idempotency-key"]
        with pytest.raises(GiveUp, match="no telephone number"):
            reach(child, Contact(name="Ward", role="desk", channel="voice", address="ward"))
        with pytest.raises(RetryLater, match="PermissionError"):
            reach(start("escalation", **settings), DESK)
        assert len(post.mails) == len(web.requests) == 1
