"""When an item is due, what a pause gives back, and that each mark is told once."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, date, datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo

import pytest
import sqlalchemy as sa
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from readingroom.clock import SetClock
from readingroom.model import Scope, Sla
from server.room import Room
from server.worker import TIMERS, Sweeper
from server.worklist import items
from server.worklist.hours import Calendar
from server.worklist.marks import after_pause, is_reason
from server.worklist.sla import apply_sla, class_of, contract_of, fire_marks
from storage.catalog.directory import write_facility
from storage.catalog.engine import begin_write
from storage.catalog.events import Event, Wanted, append_events, read_events
from storage.catalog.sla import has_due_marks, read_clock
from storage.catalog.work_items import StoredItem, item_by_id
from storage.directory import Contract, Opening
from tests.directory import facility, item
from tests.worklist import add, at_work

CHICAGO = ZoneInfo("America/Chicago")
MONDAY = datetime(2026, 1, 5, 16, tzinfo=UTC)  # ten in the morning in Chicago
HOUR = timedelta(hours=1)
REASONS = ["missing prior", "missing order"]
CONTRACT: dict[str, Any] = {
    "from": date(2026, 1, 1),
    "business_hours": [{"days": "mon-fri", "starts": "08:00", "ends": "18:00"}],
    "holidays": [date(2026, 1, 19)],
    "classes": [
        {"study_type": "stat", "due": "1h", "warn": "40m", "pause_reasons": REASONS},
        {"study_type": "neuro", "due": "3h", "subspecialties": ["2085N0700X"], "priorities": ["routine"]},
        {"study_type": "second look", "due": "5h"},
        {"study_type": "urgent", "due": "4h", "grace": "30m", "pause_reasons": REASONS},
        {"study_type": "routine", "due": "8h", "hours": "business", "pause_reasons": REASONS},
    ],
}


@pytest.fixture
def clock() -> SetClock:
    """A Monday morning."""
    return SetClock(MONDAY)


@pytest.fixture
def mercy(engine: sa.Engine) -> sa.Engine:
    """A catalog with a hospital that has a contract."""
    with begin_write(engine) as connection:
        write_facility(connection, facility(contracts=[CONTRACT]), MONDAY)
    return engine


def schedule(engine: sa.Engine, clock: SetClock, of: StoredItem) -> StoredItem:
    """Let the contract say when an item is due."""
    with at_work(engine, clock) as work:
        found = item_by_id(work.connection, of.id, locked=True)
        sla = contract_of(work.connection, found.shown)
        assert sla is not None
        return apply_sla(work, found, sla)


def waiting(engine: sa.Engine, clock: SetClock, **columns: Any) -> StoredItem:
    """An item of mercy that is due by its contract."""
    return schedule(engine, clock, add(engine, clock, facility="mercy", **columns))


def fire(engine: sa.Engine, clock: SetClock) -> int:
    return fire_marks(engine, clock.now(), append_events)


def crossed(engine: sa.Engine, of: StoredItem) -> list[str]:
    return [event.payload["mark"] for event in crossings(engine, of)]


def crossings(engine: sa.Engine, of: StoredItem) -> Sequence[Event]:
    with engine.connect() as connection:
        return read_events(connection, Scope(), Wanted(types=("SlaCrossed",), item=of.id), after=0, limit=100)


def now(engine: sa.Engine, of: StoredItem) -> StoredItem:
    with engine.connect() as connection:
        return item_by_id(connection, of.id)


def hold(engine: sa.Engine, clock: SetClock, of: StoredItem, reason: str) -> StoredItem:
    with at_work(engine, clock) as work:
        return items.hold_item(work, item_by_id(work.connection, of.id, locked=True), reason)


def resume(engine: sa.Engine, clock: SetClock, of: StoredItem) -> StoredItem:
    with at_work(engine, clock) as work:
        return items.resume_item(work, item_by_id(work.connection, of.id, locked=True))


# -- when it is due ----------------------------------------------------------------------------------------------------


def test_an_item_is_due_as_the_class_says_that_its_priority_is_of(mercy: sa.Engine, clock: SetClock) -> None:
    stat = waiting(mercy, clock, priority="stat")
    assert (stat.due_at, stat.warn_at) == (MONDAY + HOUR, MONDAY + timedelta(minutes=40))
    assert stat.study_type == "stat"
    assert waiting(mercy, clock, priority="asap").due_at == MONDAY + 4 * HOUR
    with mercy.connect() as connection:
        kept = read_clock(connection, stat.id)
    assert kept is not None
    assert kept.because == "stat of the contract of mercy from 2026-01-01, version 1"


def test_business_hours_are_those_of_the_facility(mercy: sa.Engine, clock: SetClock) -> None:
    assert waiting(mercy, clock).due_at == MONDAY + 8 * HOUR
    clock.advance(7 * HOUR)  # five in the afternoon
    assert waiting(mercy, clock).due_at == datetime(2026, 1, 6, 21, tzinfo=UTC)  # three the next afternoon


@pytest.mark.parametrize(
    ("columns", "study_type"),
    [
        ({"rank": 3, "subspecialty": "2085N0700X"}, "stat"),
        ({"rank": 0, "subspecialty": "2085N0700X"}, "neuro"),
        ({"rank": 1, "subspecialty": "2085N0700X"}, "urgent"),
        ({"rank": 0, "study_type": "second look"}, "second look"),
        ({"rank": 3, "study_type": "second look"}, "stat"),
        ({"rank": 2}, "urgent"),
        ({"rank": 0, "subspecialty": "msk"}, "routine"),
    ],
)
def test_the_first_class_that_applies_is_the_one(columns: dict[str, Any], study_type: str) -> None:
    found = class_of(Contract.model_validate(CONTRACT), item(**columns))
    assert found is not None
    assert found.study_type == study_type


def test_modality_and_region_choose_a_class_however_they_are_written() -> None:
    one = {"study_type": "stroke", "due": "20m", "modalities": ["ct"], "body_parts": ["head"]}
    stroke = Contract.model_validate({"from": date(2026, 1, 1), "classes": [one]})
    assert class_of(stroke, item(modality="CT", body_part="Head")) == stroke.classes[0]
    assert class_of(stroke, item(modality="MR", body_part="HEAD")) is None
    assert class_of(stroke, item()) is None


def test_without_a_contract_or_before_it_can_be_read_nothing_is_due(mercy: sa.Engine, clock: SetClock) -> None:
    elsewhere = add(mercy, clock, facility="local")
    to_come = add(mercy, clock, facility="mercy", is_ready=False)
    with mercy.connect() as connection:
        assert contract_of(connection, elsewhere.shown) is None
        assert contract_of(connection, to_come.shown) is None


def test_the_contract_is_the_one_of_the_day_on_which_the_clock_began(mercy: sa.Engine, clock: SetClock) -> None:
    first = CONTRACT | {"to": date(2026, 1, 5)}
    second = {"from": date(2026, 1, 6), "classes": [{"study_type": "stat", "due": "2h"}]}
    with begin_write(mercy) as connection:
        write_facility(connection, facility(contracts=[first, second]), MONDAY)
    clock.at = datetime(2026, 1, 6, 5, 59, tzinfo=UTC)  # one minute to midnight in Chicago
    last = waiting(mercy, clock, priority="stat")
    clock.advance(timedelta(minutes=1))
    assert waiting(mercy, clock, priority="stat").due_at == clock.now() + 2 * HOUR
    assert schedule(mercy, clock, last).due_at == last.due_at


def test_a_raised_priority_makes_it_due_as_if_it_had_been_so_from_the_beginning(
    mercy: sa.Engine, clock: SetClock
) -> None:
    one = waiting(mercy, clock)
    clock.advance(timedelta(minutes=10))
    with at_work(mercy, clock) as work:
        items.reprioritise_item(work, item_by_id(work.connection, one.id, locked=True), "stat")
    raised = schedule(mercy, clock, one)
    assert (raised.due_at, raised.study_type) == (MONDAY + HOUR, "stat")
    clock.at = MONDAY + HOUR
    assert fire(mercy, clock) == 3
    assert crossed(mercy, one) == ["warn", "due", "breached"]


def test_an_ordered_type_of_study_is_not_forgotten(mercy: sa.Engine, clock: SetClock) -> None:
    one = waiting(mercy, clock, study_type="second look", priority="stat")
    assert (one.due_at, one.study_type) == (MONDAY + HOUR, "second look")
    with at_work(mercy, clock) as work:
        items.reprioritise_item(work, item_by_id(work.connection, one.id, locked=True), "routine")
    assert schedule(mercy, clock, one).due_at == MONDAY + 5 * HOUR


# -- pauses ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("reason", "is_one"),
    [
        ("missing prior", True),
        ("Missing-Prior", True),
        ("missing  prior: CT of 2024, asked of Mercy", True),
        ("missing prior, order", True),
        ("missing priority", False),
        ("coffee", False),
        ("", False),
    ],
)
def test_a_reason_is_known_by_its_first_words(reason: str, is_one: bool) -> None:
    assert is_reason(reason, ("missing prior",)) == is_one


def test_a_pause_for_an_allowed_reason_gives_the_time_back(mercy: sa.Engine, clock: SetClock) -> None:
    one = waiting(mercy, clock, priority="stat")
    clock.advance(timedelta(minutes=30))
    assert hold(mercy, clock, one, "missing prior: CT").due_at == one.due_at
    clock.advance(5 * HOUR)
    assert fire(mercy, clock) == 0
    back = resume(mercy, clock, one)
    assert back.due_at == clock.now() + timedelta(minutes=30)
    assert back.warn_at == clock.now() + timedelta(minutes=10)
    clock.advance(timedelta(minutes=10))
    assert fire(mercy, clock) == 1
    assert crossed(mercy, one) == ["paused", "resumed", "warn"]


def test_a_pause_for_any_other_reason_gives_nothing_back(mercy: sa.Engine, clock: SetClock) -> None:
    one = waiting(mercy, clock, priority="stat")
    hold(mercy, clock, one, "lunch")
    clock.advance(2 * HOUR)
    assert fire(mercy, clock) == 3
    assert resume(mercy, clock, one).due_at == one.due_at
    assert crossed(mercy, one) == ["warn", "due", "breached"]


def test_what_comes_too_late_is_not_made_good_by_a_pause(mercy: sa.Engine, clock: SetClock) -> None:
    one = waiting(mercy, clock, priority="stat")
    clock.advance(2 * HOUR)
    fire(mercy, clock)
    hold(mercy, clock, one, "missing prior")
    clock.advance(HOUR)
    assert resume(mercy, clock, one).due_at == one.due_at
    assert fire(mercy, clock) == 0
    assert crossed(mercy, one) == ["warn", "due", "breached", "paused", "resumed"]


def test_a_pause_of_business_hours_gives_back_business_hours(mercy: sa.Engine, clock: SetClock) -> None:
    clock.at = datetime(2026, 1, 9, 22, tzinfo=UTC)  # Friday, four in the afternoon: eight hours are Monday at two
    one = waiting(mercy, clock)
    assert one.due_at == datetime(2026, 1, 12, 20, tzinfo=UTC)
    clock.advance(HOUR)
    hold(mercy, clock, one, "missing order")
    clock.at = datetime(2026, 1, 11, 12, tzinfo=UTC)  # Sunday: an hour of Friday was lost, and is given back
    assert resume(mercy, clock, one).due_at == datetime(2026, 1, 12, 21, tzinfo=UTC)
    assert schedule(mercy, clock, one).due_at == datetime(2026, 1, 12, 21, tzinfo=UTC)


def test_what_is_missing_again_pauses_the_clock_too(mercy: sa.Engine, clock: SetClock) -> None:
    one = waiting(mercy, clock, priority="stat")
    with at_work(mercy, clock) as work:
        items.await_input(work, item_by_id(work.connection, one.id, locked=True), "missing order")
    clock.advance(HOUR)
    with at_work(mercy, clock) as work:
        items.make_ready(work, item_by_id(work.connection, one.id, locked=True))
    assert now(mercy, one).due_at == MONDAY + 2 * HOUR
    assert schedule(mercy, clock, one).due_at == MONDAY + 2 * HOUR


def test_a_priority_that_is_raised_during_a_pause_counts_from_its_end(mercy: sa.Engine, clock: SetClock) -> None:
    one = waiting(mercy, clock, priority="urgent")
    clock.advance(timedelta(minutes=20))
    hold(mercy, clock, one, "missing prior")
    clock.advance(3 * HOUR)
    with at_work(mercy, clock) as work:
        items.reprioritise_item(work, item_by_id(work.connection, one.id, locked=True), "stat")
    schedule(mercy, clock, one)
    clock.advance(3 * HOUR)
    assert fire(mercy, clock) == 0
    assert resume(mercy, clock, one).due_at == clock.now() + timedelta(minutes=40)


def test_a_plugin_s_word_runs_by_no_calendar_and_pauses_as_it_says(mercy: sa.Engine, clock: SetClock) -> None:
    one = add(mercy, clock, facility="mercy")
    with at_work(mercy, clock) as work:
        said = Sla(due_at=MONDAY + 20 * HOUR, pause_reasons=("scanner",), grace=HOUR)
        apply_sla(work, item_by_id(work.connection, one.id, locked=True), said)
    hold(mercy, clock, one, "scanner")
    clock.advance(48 * HOUR)
    assert resume(mercy, clock, one).due_at == MONDAY + 68 * HOUR
    with at_work(mercy, clock) as work:  # said again, after a pause of which it knows nothing
        assert apply_sla(work, item_by_id(work.connection, one.id, locked=True), said).due_at == MONDAY + 68 * HOUR
    clock.at = MONDAY + 68 * HOUR
    assert fire(mercy, clock) == 1
    clock.advance(HOUR)
    assert fire(mercy, clock) == 1
    assert crossed(mercy, one) == ["paused", "resumed", "due", "breached"]


openings = st.lists(
    st.builds(
        lambda days, starts, ends: Opening.model_validate(
            {"days": days, "starts": f"{starts:02}:00", "ends": f"{ends:02}:30"}
        ),
        st.sampled_from(["mon-sun", "mon-fri", "tue"]),
        st.integers(0, 23),
        st.integers(0, 23),
    ),
    max_size=2,
)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    openings=openings,
    begin=st.datetimes(datetime(2026, 3, 1), datetime(2026, 3, 20), timezones=st.just(UTC)),
    span=st.integers(1, 3000),
    steps=st.lists(st.integers(0, 2000), max_size=6),
)
def test_pauses_give_back_what_of_the_hours_lay_in_them(
    openings: list[Opening], begin: datetime, span: int, steps: list[int]
) -> None:
    calendar = Calendar(openings=openings, zone=CHICAGO)
    wanted, due = timedelta(minutes=span), calendar.after(begin, timedelta(minutes=span))
    at, paused = begin, timedelta()
    for runs, stands in zip(steps[::2], steps[1::2], strict=False):
        at += timedelta(minutes=runs)
        if at >= due:
            break
        end = at + timedelta(minutes=stands)
        due = after_pause(calendar, due, (at, end))
        paused += calendar.between(at, end)
        at = end
    assert calendar.between(begin, due) == wanted + paused


# -- marks -------------------------------------------------------------------------------------------------------------


def test_each_mark_is_told_once_whatever_the_clock_does(mercy: sa.Engine, clock: SetClock) -> None:
    one = waiting(mercy, clock, priority="urgent")
    assert fire(mercy, clock) == 0
    for moved, fired in (
        (3 * HOUR, 1),
        (timedelta(), 0),
        (HOUR, 1),
        (-3 * HOUR, 0),
        (4 * HOUR, 1),
        (-HOUR, 0),
        (2 * HOUR, 0),
    ):
        clock.advance(moved)
        assert fire(mercy, clock) == fired
    assert crossed(mercy, one) == ["warn", "due", "breached"]
    assert [event.payload["due_at"] for event in crossings(mercy, one)] == [
        (MONDAY + late).isoformat() for late in (3 * HOUR, 4 * HOUR, 4.5 * HOUR)
    ]


def test_what_falls_due_while_nobody_looks_is_told_in_its_order_later(mercy: sa.Engine, clock: SetClock) -> None:
    stat, urgent = waiting(mercy, clock, priority="stat"), waiting(mercy, clock, priority="urgent")
    clock.advance(timedelta(days=2))
    assert fire(mercy, clock) == 6
    with mercy.connect() as connection:
        told = read_events(connection, Scope(), Wanted(types=("SlaCrossed",)), after=0, limit=10)
    assert [(event.item == stat.id, event.payload["mark"]) for event in told] == [
        (is_stat, mark) for is_stat in (True, False) for mark in ("warn", "due", "breached")
    ]
    assert urgent.id in {event.item for event in told}


def test_what_has_ended_is_late_no_more(mercy: sa.Engine, clock: SetClock) -> None:
    done, cancelled = (waiting(mercy, clock, priority="stat") for _ in range(2))
    with at_work(mercy, clock) as work:
        claimed = items.claim_item(work, item_by_id(work.connection, done.id, locked=True), token="1.2.3")
        items.complete_item(work, claimed, token="1.2.3")
        items.cancel_item(work, item_by_id(work.connection, cancelled.id, locked=True), "not needed")
    clock.advance(2 * HOUR)
    assert fire(mercy, clock) == 0


def test_being_claimed_stops_no_clock(mercy: sa.Engine, clock: SetClock) -> None:
    one = waiting(mercy, clock, priority="stat")
    with at_work(mercy, clock) as work:
        items.claim_item(work, item_by_id(work.connection, one.id, locked=True))
    clock.advance(HOUR)
    assert fire(mercy, clock) == 3


def test_what_others_put_on_the_worklist_has_no_clock_here(mercy: sa.Engine, clock: SetClock) -> None:
    add(mercy, clock, facility="mercy", kind="external", due_at=MONDAY)
    own = add(mercy, clock, facility="mercy", due_at=MONDAY, warn_at=MONDAY)
    assert fire(mercy, clock) == 3
    assert crossed(mercy, own) == ["warn", "due", "breached"]


def test_many_who_look_at_once_tell_of_each_mark_once(mercy: sa.Engine, clock: SetClock) -> None:
    some = [waiting(mercy, clock, priority="stat") for _ in range(5)]
    clock.advance(2 * HOUR)
    with ThreadPoolExecutor(4) as pool:
        fired = list(pool.map(lambda _: fire(mercy, clock), range(8)))
    assert sum(fired) == 15
    for one in some:
        assert crossed(mercy, one) == ["warn", "due", "breached"]


def test_a_mark_whose_event_is_not_kept_is_not_taken(mercy: sa.Engine, clock: SetClock) -> None:
    one = waiting(mercy, clock, priority="stat")
    clock.advance(2 * HOUR)

    def lost(*_: object) -> None:
        raise OSError("the disk is full")

    with pytest.raises(OSError, match="full"):
        fire_marks(mercy, clock.now(), lost)
    assert crossed(mercy, one) == []
    assert fire(mercy, clock) == 3


def test_what_is_due_is_found_by_the_index_of_what_waits(engine: sa.Engine) -> None:
    asked: list[str] = []

    @sa.event.listens_for(engine, "before_cursor_execute")
    def note(_connection: Any, _cursor: Any, statement: str, *_: Any) -> None:
        asked.append(statement)

    with engine.connect() as connection:
        if engine.dialect.name == "postgresql":
            connection.exec_driver_sql("SET LOCAL enable_seqscan = off")
        assert not has_due_marks(connection, MONDAY)
        statement, explain = asked[-1], "EXPLAIN " + ("" if engine.dialect.name == "postgresql" else "QUERY PLAN ")
        given: Any = {"now": MONDAY, "param_1": 1} if engine.dialect.name == "postgresql" else ("2026-01-05", 1, 0)
        plan = " ".join(map(str, connection.exec_driver_sql(explain + statement, given)))
    assert "ix_sla_mark_due" in plan


def test_the_sweeper_tells_of_marks(room: Room, clock: SetClock) -> None:
    one = add(room.engine, clock, facility="local", due_at=MONDAY + HOUR, warn_at=MONDAY)
    clock.advance(2 * HOUR)
    sweeper = Sweeper(room, "timers", TIMERS)
    for _ in range(2):
        sweeper.round()
    assert crossed(room.engine, one) == ["warn", "due", "breached"]
