"""Where nobody can read what is open before it is due, somebody is called; once, and only there."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
import sqlalchemy as sa

from readingroom.clock import SetClock
from server.worklist import items
from server.worklist.coverage import watch_coverage
from storage.catalog import schema as t
from storage.catalog.directory import LatestDirectory, write_facility, write_reader
from storage.catalog.engine import begin_write
from storage.catalog.work_items import item_by_id
from tests.directory import facility, reader
from tests.worklist import add, at_work

EVENING = datetime(2026, 1, 6, 3, tzinfo=UTC)  # Monday, nine in the evening in Chicago
HOUR = timedelta(hours=1)


@pytest.fixture
def clock() -> SetClock:
    """An evening on which nobody is there until eight in the morning."""
    return SetClock(EVENING)


@pytest.fixture
def mercy(engine: sa.Engine) -> sa.Engine:
    """A hospital, and one reader who works by day."""
    with begin_write(engine) as connection:
        write_facility(connection, facility(), EVENING)
        write_reader(connection, reader(shifts=[{"starts": "08:00", "ends": "18:00"}]))
    return engine


def reasons(engine: sa.Engine) -> list[tuple[str | None, str]]:
    with engine.connect() as connection:
        rows = connection.execute(sa.select(t.escalation.c.item, t.escalation.c.reason).order_by(t.escalation.c.id))
        return [(row.item, row.reason) for row in rows]


def test_what_is_due_before_the_next_shift_calls_the_desk_once(mercy: sa.Engine, clock: SetClock) -> None:
    one = add(mercy, clock, facility="mercy", due_at=EVENING + HOUR)
    for _ in range(3):
        assert watch_coverage(mercy, LatestDirectory(mercy).read(), clock.now()) == 1
        clock.advance(timedelta(minutes=40))
    said = f"Nobody can read item {one.workitem_uid} before it is due: no eligible reader on shift: 1 by shift."
    assert reasons(mercy) == [(one.id, said)]


def test_what_can_wait_for_the_next_shift_calls_nobody(mercy: sa.Engine, clock: SetClock) -> None:
    add(mercy, clock, facility="mercy", due_at=EVENING + 12 * HOUR)
    add(mercy, clock, facility="mercy")
    assert watch_coverage(mercy, LatestDirectory(mercy).read(), clock.now()) == 0


def test_a_state_without_a_licensed_reader_calls_at_once(mercy: sa.Engine, clock: SetClock) -> None:
    add(mercy, clock, facility="mercy", due_at=EVENING + 12 * HOUR)
    other = add(mercy, clock, facility="mercy", patient_state="OK")
    assert watch_coverage(mercy, LatestDirectory(mercy).read(), clock.now()) == 1
    ((item, reason),) = reasons(mercy)
    assert item == other.id
    assert "1 by licence" in reason


def test_what_is_being_read_or_over_calls_nobody(mercy: sa.Engine, clock: SetClock) -> None:
    claimed, cancelled = (add(mercy, clock, facility="mercy", due_at=EVENING + HOUR) for _ in range(2))
    add(mercy, clock, facility="mercy", kind="external", due_at=EVENING)
    with at_work(mercy, clock) as work:
        items.claim_item(work, item_by_id(work.connection, claimed.id, locked=True), reader="ada")
        items.cancel_item(work, item_by_id(work.connection, cancelled.id, locked=True))
    assert watch_coverage(mercy, LatestDirectory(mercy).read(), clock.now()) == 0


def test_without_readers_or_for_other_facilities_nothing_is_watched(engine: sa.Engine, clock: SetClock) -> None:
    add(engine, clock, facility="local", due_at=EVENING)
    with begin_write(engine) as connection:
        write_facility(connection, facility(), EVENING)
    add(engine, clock, facility="mercy", due_at=EVENING)
    assert watch_coverage(engine, LatestDirectory(engine).read(), clock.now()) == 0
    with begin_write(engine) as connection:
        write_reader(connection, reader(shifts=[]))
    assert watch_coverage(engine, LatestDirectory(engine).read(), clock.now()) == 1
