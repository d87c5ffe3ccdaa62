"""Work items in the catalog: which are next, which are found, and that they follow their study."""

from __future__ import annotations

import random
from datetime import timedelta
from typing import Any

import pytest
import sqlalchemy as sa

from readingroom.clock import SetClock
from readingroom.model import Scope, priority_rank
from server.worklist.items import claim_item, flag_item, offer_item, reprioritise_item
from storage.catalog.engine import begin_write, open_engine
from storage.catalog.matching import parse
from storage.catalog.work_items import (
    ITEM_KEYS,
    StoredItem,
    find_item,
    items_of_reader,
    next_items,
    restate_items,
    search_items,
    ups_of,
)
from storage.upsrules import value_of
from tests.catalog import fill, header
from tests.worklist import add, at_work

EVERYWHERE = Scope()


def ids(items: list[StoredItem]) -> list[str]:
    return [item.id for item in items]


def found(engine: sa.Engine, scope: Scope = EVERYWHERE, *, is_fuzzy: bool = False, **values: str) -> list[str]:
    conditions = tuple(parse(values, keys=ITEM_KEYS, is_fuzzy=is_fuzzy))
    with engine.connect() as connection:
        return ids(search_items(connection, scope, conditions, limit=100))


def urgency(item: StoredItem, now: Any) -> tuple[Any, ...]:
    """Where an item stands in the order to read, told apart from how the catalog finds it."""
    if item.is_flagged:
        return 0, -item.rank, item.order_at, item.id
    if item.rank == 3:
        return 1, 0, item.order_at, item.id
    if item.warn_at is not None and item.warn_at <= now:
        return 2, 0, item.warn_at, item.id
    return 3, -item.rank, item.order_at, item.id


# -- what is next ------------------------------------------------------------------------------------------------------


def test_the_next_items_come_flagged_then_stat_then_at_risk_then_by_priority(engine: sa.Engine) -> None:
    clock, dice = SetClock(), random.Random(11)
    items = []
    for _ in range(120):
        due_at = dice.choice((None, clock.now() + timedelta(minutes=dice.randrange(-60, 600))))
        item = add(
            engine,
            clock,
            facility=dice.choice(("north", "south", "west")),
            priority=dice.choice(("routine", "routine", "urgent", "asap", "stat")),
            due_at=due_at,
            warn_at=due_at and due_at - timedelta(minutes=90),
        )
        if dice.random() < 0.2:
            with at_work(engine, clock) as work:
                item = flag_item(work, item, "blood")
        items.append(item)
    external = add(engine, clock, kind="external", facility="north", priority="stat")
    with at_work(engine, clock) as work:
        claim_item(work, items.pop())
        offer_item(work, items.pop(), "ada")
    for facilities in (None, {"north"}, {"north", "west"}, set()):
        scope = Scope(facilities=None if facilities is None else frozenset(facilities))
        mine = [item for item in items if facilities is None or item.facility in facilities]
        expected = ids(sorted(mine, key=lambda item: urgency(item, clock.now())))
        with engine.connect() as connection:
            for limit in (1, 7, 500):
                next_ids = ids(next_items(connection, scope, now=clock.now(), limit=limit))
                assert next_ids == expected[:limit]
    assert external.id not in expected


def test_of_the_next_items_some_kinds_can_be_asked_for(engine: sa.Engine) -> None:
    second, peer = add(engine, kind="second"), add(engine, kind="peer")
    add(engine)
    with engine.connect() as connection:
        asked = next_items(connection, EVERYWHERE, now=SetClock().now(), limit=9, kinds=["second", "peer"])
    assert ids(asked) == [second.id, peer.id]


@pytest.mark.parametrize("facilities", [None, frozenset({"f7"}), frozenset({"f1", "f2"})])
def test_the_heads_of_the_classes_are_cut_from_indexes(sqlite_url: str, facilities: frozenset[str] | None) -> None:
    engine, plans = open_engine(sqlite_url), list[str]()

    @sa.event.listens_for(engine, "before_cursor_execute")
    def explain(_connection: Any, cursor: Any, statement: str, parameters: Any, *_more: Any) -> None:
        rows = cursor.execute(f"EXPLAIN QUERY PLAN {statement}", parameters).fetchall()
        plans.append("; ".join(row[3] for row in rows))

    with engine.connect() as connection:
        next_items(connection, Scope(facilities=facilities), now=SetClock().now(), limit=9)
    engine.dispose()
    assert len(plans) == 9
    for plan in plans:
        assert "SEARCH work_item USING INDEX ix_work_item_" in plan
        assert "SCAN work_item" not in plan


def test_a_reader_sees_what_is_claimed_held_and_offered(engine: sa.Engine) -> None:
    claimed, offered, others, urgent = (add(engine) for _ in range(4))
    with at_work(engine) as work:
        claim_item(work, claimed, reader="ada")
        offer_item(work, offered, "ada")
        claim_item(work, others, reader="bob")
        offer_item(work, reprioritise_item(work, urgent, "stat"), "ada")
    with engine.connect() as connection:
        assert ids(items_of_reader(connection, EVERYWHERE, "ada")) == [urgent.id, claimed.id, offered.id]
        assert items_of_reader(connection, Scope(facilities=frozenset({"north"})), "ada") == []


# -- searches ----------------------------------------------------------------------------------------------------------


def test_an_item_is_found_by_what_its_study_says(engine: sa.Engine) -> None:
    fill(
        engine,
        header(
            StudyInstanceUID="1.2.840.1",
            PatientName="Müller^Jürgen",
            PatientID="P1",
            AccessionNumber="A1",
            StudyDescription="Head",
        ),
    )
    item = add(engine, study_uid="1.2.840.1", accession_number="A1", modality="CT")
    other = add(engine)
    assert found(engine) == [other.id, item.id]
    for tag, value in (
        ("00100010", "MULLER*"),
        ("00100020", "P1"),
        ("0040A370.00080050", "A1"),
        ("0040A370.0020000D", "1.2.840.1,1.2.3"),
        ("00404021.0020000D", "1.2.840.1"),
        ("00741204", "*Head"),
    ):
        assert found(engine, **{tag: value}) == [item.id], tag
    assert found(engine, is_fuzzy=True, **{"00100010": "jurgen mueller"}) == [item.id]
    assert found(engine, **{"00100020": "P2"}) == []
    assert found(engine, Scope(facilities=frozenset({"north"}))) == []


def test_an_item_is_found_by_its_own_state_time_and_performer(engine: sa.Engine) -> None:
    clock = SetClock()
    first = add(engine, clock, priority="stat")
    clock.advance(timedelta(hours=2))
    second = add(engine, clock, is_ready=False)
    with at_work(engine, clock) as work:
        claim_item(work, first, reader="ada")
    assert found(engine, **{"00741000": "IN PROGRESS"}) == [first.id]
    assert found(engine, **{"00741000": "SCHEDULED", "00404041": "INCOMPLETE"}) == [second.id]
    assert found(engine, **{"00741200": "HIGH"}) == [first.id]
    assert found(engine, **{"00404005": "20260101130000-20260101150000"}) == [second.id]
    assert found(engine, **{"00404005": "20260101130000+0100-20260101143000+0200"}) == [first.id]
    assert found(engine, **{"00404034.00404009.00080100": "ada"}) == [first.id]
    assert found(engine, **{"00404018.00080100": "110005", "00404018.00080102": "DCM"}) == [second.id, first.id]
    assert found(engine, **{"00080018": f"{first.workitem_uid}\\1.2"}) == [first.id]


def test_an_item_follows_its_study_when_that_is_corrected(engine: sa.Engine) -> None:
    fill(engine, header(StudyInstanceUID="1.2.840.1", PatientName="Wrong^Wilma"))
    item = add(engine, study_uid="1.2.840.1")
    with begin_write(engine) as connection:
        row = connection.exec_driver_sql("SELECT id, row FROM study").one()
        study = sa.table("study", sa.column("id"), sa.column("row"))
        right = bytes(row.row).replace(b"Wrong^Wilma", b"Right^Rita")
        connection.execute(study.update().where(study.c.id == row.id).values(row=right))
        restate_items(connection, "local", "1.2.840.1", item.changed_at)
    assert found(engine, **{"00100010": "Right*"}) == [item.id]
    assert found(engine, **{"00100010": "Wrong*"}) == []
    with engine.connect() as connection:
        shown = ups_of(connection, find_item(connection, EVERYWHERE, item.workitem_uid), "https://x/dicomweb")
    assert value_of(shown, "00100010") == {"Alphabetic": "Right^Rita"}
    url = value_of(shown, "00404021", "0040E025", "00081190")
    assert url == "https://x/dicomweb/studies/1.2.840.1"


def test_the_token_of_a_claim_is_in_nothing_that_is_shown(engine: sa.Engine) -> None:
    item = add(engine)
    with at_work(engine) as work:
        item = claim_item(work, item, token="1.2.3.4.5")
    with engine.connect() as connection:
        assert "1.2.3.4.5" not in str(ups_of(connection, item))
        assert (
            connection.exec_driver_sql("SELECT count(*) FROM work_item_value WHERE value = '1.2.3.4.5'").scalar() == 0
        )
    assert "1.2.3.4.5" not in str(item.shown)
    assert priority_rank("stat") == 3
