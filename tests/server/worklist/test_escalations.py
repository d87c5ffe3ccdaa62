"""Escalations: they climb by their rows, and end by an acknowledgement alone."""

from __future__ import annotations

import threading
from datetime import timedelta
from typing import Any

import orjson
import pytest
import sqlalchemy as sa

from readingroom.clock import SetClock
from readingroom.errors import Conflict, Invalid, NotFound, Refused
from readingroom.model import LOCAL_OPERATOR, Actor, Contact, Rung, Scope
from server.worklist import escalations as do
from storage.catalog import schema as t
from storage.catalog.escalations import (
    Attempt,
    StoredEscalation,
    find_escalation,
    keep_attempt,
    list_attempts,
    list_escalations,
)
from tests.worklist import READER, at_work

MINUTE = timedelta(minutes=1)
LADDER = tuple(
    Rung(number=number, role=role, after=after * MINUTE)
    for number, (role, after) in enumerate((("referrer", 0), ("desk", 10), ("supervisor", 15)), 1)
)


@pytest.fixture
def clock() -> SetClock:
    return SetClock()


def opened(engine: sa.Engine, clock: SetClock, **values: Any) -> StoredEscalation:
    values = {"key": "k", "facility": "local", "reason": "Blood in the head.", "ladder": LADDER} | values
    with at_work(engine, clock) as work:
        return do.open_escalation(work, **values)


def climb(engine: sa.Engine, clock: SetClock) -> list[tuple[int, str]]:
    """Rung and role of what is climbed now."""
    climbed: list[tuple[int, str]] = []
    do.climb_due(engine, clock.now(), lambda _connection, _row, rung: climbed.append((rung.number, rung.role)))
    return climbed


def now_of(engine: sa.Engine, id: str) -> StoredEscalation:
    with engine.connect() as connection:
        return find_escalation(connection, Scope(), id)


def told(engine: sa.Engine) -> list[str]:
    with engine.connect() as connection:
        return list(connection.execute(sa.select(t.event.c.type).order_by(t.event.c.seq)).scalars())


def test_it_climbs_rung_after_rung_until_somebody_acknowledges(engine: sa.Engine, clock: SetClock) -> None:
    row = opened(engine, clock)
    assert climb(engine, clock) == [(1, "referrer")]
    assert climb(engine, clock) == []
    clock.advance(10 * MINUTE)
    assert climb(engine, clock) == [(2, "desk")]
    with at_work(engine, clock, READER) as work:
        closed = do.acknowledge(work, row.id, by="Dr. Desk", read_back="Blood in the head of the patient in bed 4.")
    assert (closed.state, closed.closed_by, closed.due_at) == ("acknowledged", "Dr. Desk", None)
    clock.advance(timedelta(days=9))
    assert climb(engine, clock) == []
    assert told(engine) == [do.OPENED, do.CLIMBED, do.CLIMBED, do.ACKNOWLEDGED]


def test_of_one_cause_there_is_one(engine: sa.Engine, clock: SetClock) -> None:
    first = opened(engine, clock)
    assert opened(engine, clock, reason="Again.") == first
    assert opened(engine, clock, key="another").id != first.id
    assert told(engine) == [do.OPENED, do.OPENED]


def test_a_ladder_without_more_rungs_repeats_the_last_and_raises_an_alarm_once(
    engine: sa.Engine, clock: SetClock
) -> None:
    row = opened(engine, clock)
    roles = []
    for _ in range(40):
        roles += [role for _, role in climb(engine, clock)]
        clock.advance(MINUTE)
    assert roles[:3] == ["referrer", "desk", "supervisor"]
    assert len(roles) > 5
    assert set(roles[3:]) == {"supervisor"}
    assert told(engine).count(do.EXHAUSTED) == 1
    assert now_of(engine, row.id).state == "open"


def test_after_a_long_absence_each_contact_still_has_its_time(engine: sa.Engine, clock: SetClock) -> None:
    opened(engine, clock)
    clock.advance(timedelta(hours=5))
    assert climb(engine, clock) == [(1, "referrer")]
    assert climb(engine, clock) == []
    clock.advance(10 * MINUTE)
    assert climb(engine, clock) == [(2, "desk")]


def test_rungs_are_as_far_apart_as_the_ladder_says_and_the_last_is_not_repeated_all_the_time(
    engine: sa.Engine, clock: SetClock
) -> None:
    second = timedelta(seconds=1)
    ladder = [Rung(number=1 + number, role=role, after=number * second) for number, role in enumerate(("one", "two"))]
    opened(engine, clock, ladder=ladder)
    roles = []
    for _ in range(90):
        roles += [role for _, role in climb(engine, clock)]
        clock.advance(second)
    assert roles == ["one", "two", "two"]


def test_a_clock_set_back_neither_climbs_twice_nor_closes(engine: sa.Engine, clock: SetClock) -> None:
    row = opened(engine, clock)
    climb(engine, clock)
    clock.advance(-timedelta(hours=2))
    assert climb(engine, clock) == []
    assert now_of(engine, row.id).state == "open"


def test_where_nobody_on_a_rung_was_reached_the_next_is_climbed_at_once(engine: sa.Engine, clock: SetClock) -> None:
    row = opened(engine, clock)
    climb(engine, clock)
    with at_work(engine, clock) as work:
        assert do.miss_rung(work, row.id, rung=1, contacts=1)
    assert climb(engine, clock) == [(2, "desk")]
    with at_work(engine, clock) as work:
        assert not do.miss_rung(work, row.id, rung=1, contacts=1), "it has been climbed meanwhile"
    clock.advance(5 * MINUTE)
    assert climb(engine, clock) == [(3, "supervisor")]
    with at_work(engine, clock) as work:
        assert not do.miss_rung(work, row.id, rung=3, contacts=0), "the last rung is repeated in its own time"
    assert climb(engine, clock) == []


@pytest.mark.parametrize("say", [{"by": " ", "read_back": "yes"}, {"by": "Dr. A", "read_back": ""}])
def test_an_acknowledgement_says_who_was_reached_and_what_was_read_back(
    engine: sa.Engine, clock: SetClock, say: dict[str, str]
) -> None:
    row = opened(engine, clock)
    with pytest.raises(Invalid, match="Say w"), at_work(engine, clock) as work:
        do.acknowledge(work, row.id, **say)
    assert now_of(engine, row.id).state == "open"


def test_it_is_closed_once(engine: sa.Engine, clock: SetClock) -> None:
    row = opened(engine, clock)
    with at_work(engine, clock) as work:
        do.acknowledge(work, row.id, by="Dr. A", read_back="Blood.")
    with pytest.raises(Conflict, match=r"was acknowledged by Dr\. A"), at_work(engine, clock) as work:
        do.acknowledge(work, row.id, by="Dr. B", read_back="Blood.")
    with pytest.raises(Conflict), at_work(engine, clock) as work:
        do.cancel_escalation(work, row.id, reason="too late")


def test_only_a_supervisor_cancels_and_says_why(engine: sa.Engine, clock: SetClock) -> None:
    row = opened(engine, clock)
    with pytest.raises(Refused), at_work(engine, clock, Actor(id="tech", name="T")) as work:
        do.cancel_escalation(work, row.id, reason="no")
    with at_work(engine, clock, LOCAL_OPERATOR) as work:
        assert do.cancel_escalation(work, row.id, reason="Of a phantom.").state == "cancelled"
    assert climb(engine, clock) == []


def test_one_of_another_facility_is_as_unknown(engine: sa.Engine, clock: SetClock) -> None:
    row = opened(engine, clock)
    elsewhere = Scope(facilities=frozenset({"north"}))
    with pytest.raises(NotFound), at_work(engine, clock, scope=elsewhere) as work:
        do.acknowledge(work, row.id, by="A", read_back="B")
    with engine.connect() as connection:
        assert list_escalations(connection, elsewhere) == []
        assert [one.id for one in list_escalations(connection, Scope())] == [row.id]


@pytest.mark.parametrize(
    "ladder",
    [
        (),
        (Rung(number=1, role="", after=timedelta(0)),),
        (Rung(number=1, role="a", after=MINUTE), Rung(number=2, role="b", after=timedelta(0))),
        (Rung(number=1, role="a", after=-MINUTE),),
    ],
)
def test_a_ladder_that_nobody_can_climb_is_refused(ladder: tuple[Rung, ...]) -> None:
    with pytest.raises(Invalid):
        do.checked_ladder(ladder)


def test_every_category_has_a_ladder_in_time() -> None:
    longest = {1: timedelta(hours=1), 2: timedelta(hours=12), 3: timedelta(days=3), None: timedelta(hours=2)}
    assert set(do.LADDERS) == set(longest)
    for category, ladder in do.LADDERS.items():
        assert do.checked_ladder(ladder) == ladder
        assert ladder[0].after == timedelta(0)
        assert ladder[-1].after <= longest[category]


@pytest.mark.parametrize("races", [30, pytest.param(1000, marks=pytest.mark.slow)])
def test_an_acknowledgement_that_has_committed_always_wins(engine: sa.Engine, clock: SetClock, races: int) -> None:
    """Whoever acknowledges and whoever climbs meet at the same instant: what is climbed after is nothing."""
    for number in range(races):
        row = opened(engine, clock, key=str(number))
        gate, climbed, acknowledged_at = threading.Barrier(2), [], []

        def climbing(gate: threading.Barrier = gate, climbed: list[int] = climbed) -> None:
            gate.wait()
            do.climb_due(engine, clock.now(), lambda _c, found, _r: climbed.append(found.version))

        thread = threading.Thread(target=climbing)
        thread.start()
        gate.wait()
        with at_work(engine, clock) as work:
            acknowledged_at.append(do.acknowledge(work, row.id, by="A", read_back="B").version)
        thread.join()
        assert all(version < acknowledged_at[0] for version in climbed)
        closed = now_of(engine, row.id)
        assert (closed.state, closed.due_at) == ("acknowledged", None)


def test_attempts_are_kept_in_their_order_and_the_last_word_on_each_counts(engine: sa.Engine, clock: SetClock) -> None:
    row = opened(engine, clock)
    mail = Contact(name="Desk", role="desk", channel="smtp", address="desk@example.org")
    call = Contact(name="Desk", role="desk", channel="voice", address="+15550100")
    with at_work(engine, clock) as work:
        for contact, error in ((call, "busy"), (mail, "refused")):
            failed = Attempt(escalation=row.id, rung=1, contact=contact, at=clock.now(), state="failed", error=error)
            keep_attempt(work.connection, failed)
            clock.advance(MINUTE)
        sent = Attempt(
            escalation=row.id, rung=1, contact=mail, at=clock.now(), state="notified", plugin="p", reference="<1@x>"
        )
        keep_attempt(work.connection, sent)
    with engine.connect() as connection:
        first, second = list_attempts(connection, row.id)
    assert (first.contact, first.state, first.error) == (call, "failed", "busy")
    assert second == sent


def test_what_is_told_names_no_patient(engine: sa.Engine, clock: SetClock) -> None:
    opened(engine, clock, item="i", category=1)
    with engine.connect() as connection:
        (row,) = connection.execute(sa.select(t.event)).all()
    assert row.item == "i"
    assert set(orjson.loads(row.payload)) == {"escalation", "state", "rung", "category", "actor"}
