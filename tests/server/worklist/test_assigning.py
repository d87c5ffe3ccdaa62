"""Who reads what next: what plugins see of the queue, and what becomes of what they propose."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
import sqlalchemy as sa

from readingroom.clock import SetClock
from readingroom.model import LOCAL_OPERATOR
from readingroom.results import Proposal
from server.worklist import items as do
from server.worklist.assigning import OFFER_LASTS, Queued, apply_proposals, read_time, take_snapshot, withdraw_offers
from storage.catalog.directory import LatestDirectory, deactivate, write_facility, write_reader
from storage.catalog.engine import begin_write
from storage.catalog.work_items import StoredItem, item_by_id
from tests.directory import facility, reader
from tests.worklist import add, at_work


@pytest.fixture
def clock() -> SetClock:
    return SetClock()


@pytest.fixture
def staffed(engine: sa.Engine, clock: SetClock) -> sa.Engine:
    """Mercy has two readers, and one who is licensed elsewhere."""
    with begin_write(engine) as connection:
        write_facility(connection, facility("mercy"), clock.now())
        for entry in (reader("ada"), reader("ben"), reader("cleo", licences=[{"state": "US-CA", "number": "C1"}])):
            write_reader(connection, entry)
    return engine


def waiting(engine: sa.Engine, clock: SetClock, **columns: Any) -> StoredItem:
    return add(engine, clock, **{"facility": "mercy", "modality": "CT", "body_part": "HEAD"} | columns)


def snapshot(engine: sa.Engine, clock: SetClock) -> Queued:
    with engine.connect() as connection:
        return take_snapshot(connection, LatestDirectory(engine).read(), clock.now())


def now_of(engine: sa.Engine, item: StoredItem) -> StoredItem:
    with engine.connect() as connection:
        return item_by_id(connection, item.id)


def propose(engine: sa.Engine, clock: SetClock, queued: Queued, *pairs: tuple[StoredItem, str]) -> int:
    proposals = [
        Proposal(item=item.id, reader=reader, score=-number, because="the next")
        for number, (item, reader) in enumerate(pairs)
    ]
    return apply_proposals(engine, None, clock.now(), queued, "routing", proposals)


def test_a_snapshot_shows_each_item_with_those_alone_who_may_read_it(staffed: sa.Engine, clock: SetClock) -> None:
    routine = waiting(staffed, clock)
    stat = waiting(staffed, clock, priority="stat")
    unknown = add(staffed, clock, facility="nowhere")
    shown = snapshot(staffed, clock).snapshot
    assert [one.item.id for one in shown.waiting] == [stat.id, routine.id, unknown.id]
    assert [one.eligible for one in shown.waiting] == [("ada", "ben"), ("ada", "ben"), ()]
    assert [one.id for one in shown.readers] == ["ada", "ben"]
    assert shown.waiting[0].read_seconds == read_time(stat).total_seconds() == 420


def test_a_reader_is_expected_to_be_free_when_what_was_claimed_has_been_read(
    staffed: sa.Engine, clock: SetClock
) -> None:
    item = waiting(staffed, clock)
    waiting(staffed, clock)
    with at_work(staffed, clock) as work:
        do.claim_item(work, item, reader="ada")
    clock.advance(timedelta(minutes=4))
    free = {one.id: one.free_at for one in snapshot(staffed, clock).snapshot.readers}
    assert free == {"ada": clock.now() + timedelta(minutes=3), "ben": clock.now()}
    clock.advance(timedelta(hours=1))
    free = {one.id: one.free_at for one in snapshot(staffed, clock).snapshot.readers}
    assert free["ada"] == clock.now() + 0.4 * read_time(item)


def test_a_proposal_is_offered_and_each_reader_has_one_offer_at_a_time(staffed: sa.Engine, clock: SetClock) -> None:
    first, second, third = (waiting(staffed, clock) for _ in range(3))
    queued = snapshot(staffed, clock)
    assert propose(staffed, clock, queued, (first, "ada"), (second, "ada"), (third, "ben")) == 2
    offered = now_of(staffed, first)
    assert (offered.state, offered.offered_to) == ("assigned", "ada")
    assert now_of(staffed, second).state == "ready"
    assert now_of(staffed, third).offered_to == "ben"
    assert propose(staffed, clock, snapshot(staffed, clock), (second, "ada")) == 0


def test_an_offer_gives_way_to_what_is_more_urgent_and_to_nothing_else(staffed: sa.Engine, clock: SetClock) -> None:
    routine = waiting(staffed, clock)
    propose(staffed, clock, snapshot(staffed, clock), (routine, "ada"))
    another, stat = waiting(staffed, clock), waiting(staffed, clock, priority="stat")
    assert propose(staffed, clock, snapshot(staffed, clock), (another, "ada")) == 0
    assert propose(staffed, clock, snapshot(staffed, clock), (stat, "ada")) == 1
    assert (now_of(staffed, routine).state, now_of(staffed, stat).offered_to) == ("ready", "ada")


def test_nobody_without_licence_gets_anything_whatever_a_plugin_says(staffed: sa.Engine, clock: SetClock) -> None:
    item = waiting(staffed, clock)
    assert propose(staffed, clock, snapshot(staffed, clock), (item, "cleo"), (item, "nobody")) == 0
    assert now_of(staffed, item).state == "ready"


def test_a_licence_that_ended_since_the_snapshot_counts(staffed: sa.Engine, clock: SetClock) -> None:
    item = waiting(staffed, clock)
    queued = snapshot(staffed, clock)
    with begin_write(staffed) as connection:
        write_reader(connection, reader("ada", licences=[]))
    assert propose(staffed, clock, queued, (item, "ada")) == 0


def test_what_was_claimed_since_the_snapshot_is_left_alone(staffed: sa.Engine, clock: SetClock) -> None:
    item = waiting(staffed, clock)
    queued = snapshot(staffed, clock)
    with at_work(staffed, clock) as work:
        do.claim_item(work, item, reader="ben")
    assert propose(staffed, clock, queued, (item, "ada")) == 0
    assert now_of(staffed, item).owner == "ben"


def test_an_offer_that_nobody_takes_up_comes_back(staffed: sa.Engine, clock: SetClock) -> None:
    item = waiting(staffed, clock)
    propose(staffed, clock, snapshot(staffed, clock), (item, "ada"))
    assert withdraw_offers(staffed, LatestDirectory(staffed).read(), clock.now(), None) == 0
    clock.advance(OFFER_LASTS)
    assert withdraw_offers(staffed, LatestDirectory(staffed).read(), clock.now(), None) == 1
    assert now_of(staffed, item).state == "ready"


def test_what_was_offered_to_somebody_who_may_not_read_it_any_more_comes_back_at_once(
    staffed: sa.Engine, clock: SetClock
) -> None:
    item = waiting(staffed, clock)
    propose(staffed, clock, snapshot(staffed, clock), (item, "ada"))
    with begin_write(staffed) as connection:
        write_reader(connection, reader("ada", licences=[]))
    assert withdraw_offers(staffed, LatestDirectory(staffed).read(), clock.now(), None) == 1


def test_what_was_offered_to_somebody_who_has_left_comes_back_at_once(staffed: sa.Engine, clock: SetClock) -> None:
    item = waiting(staffed, clock)
    propose(staffed, clock, snapshot(staffed, clock), (item, "ada"))
    with begin_write(staffed) as connection:
        deactivate(connection, readers=["ada"])
    assert withdraw_offers(staffed, LatestDirectory(staffed).read(), clock.now(), None) == 1


def test_without_a_directory_an_offer_to_anybody_stays_for_its_time(engine: sa.Engine, clock: SetClock) -> None:
    item = waiting(engine, clock)
    with at_work(engine, clock, LOCAL_OPERATOR) as work:
        do.offer_item(work, item, "a locum")
    assert withdraw_offers(engine, LatestDirectory(engine).read(), clock.now(), None) == 0
    clock.advance(OFFER_LASTS)
    assert withdraw_offers(engine, LatestDirectory(engine).read(), clock.now(), None) == 1
