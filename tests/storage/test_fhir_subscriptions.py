"""Subscriptions as rows, and the numbers of their events."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import sqlalchemy as sa

from readingroom.model import Actor, Scope
from storage.catalog.engine import begin_write
from storage.catalog.fhir_subscriptions import (
    KEPT,
    Asker,
    Wish,
    append_notification,
    bound_by,
    change_subscription,
    drop_subscription,
    due_subscriptions,
    find_subscription,
    is_watched,
    keep_token,
    live_subscriptions,
    prune_notifications,
    read_notifications,
    subscriptions_by_id,
    write_subscription,
)
from storage.catalog.resources import write_resource
from storage.catalog.studies import ensure_facility

NOW = datetime(2026, 11, 24, 20, tzinfo=UTC)
WISH = Wish(
    type="Observation",
    topic=None,
    criteria=("code=1",),
    channel="rest-hook",
    endpoint="https://ehr.example/hook",
    headers=("Authorization: Bearer s3cret",),
    payload="application/fhir+json",
    content="full-resource",
    heartbeat_seconds=None,
    timeout_seconds=None,
    most_events=None,
    end_at=None,
)


def begin(engine: sa.Engine, id: str, facility: str = "north", wish: Wish = WISH, **state: Any) -> int:
    """A subscription of whoever sees that facility; returns its number."""
    with begin_write(engine) as connection:
        ensure_facility(connection, facility)
        head = {"type": "Subscription", "id": id, "facility": facility, "now": NOW, "method": "POST"}
        row = write_resource(connection, None, actor="ehr", meta=b"{}", rest=b"{}", **head)
        actor = Actor(id="ehr", name="EHR", scope=Scope(facilities=frozenset((facility,))), may=frozenset(("remove",)))
        asker = Asker(actor=actor, facility=facility, root="http://a/fhir", dicomweb="http://a/dicomweb")
        write_subscription(connection, row.rid, wish, asker, **{"status": "active", "due_at": None, **state})
        return row.rid


def happen(engine: sa.Engine, rid: int, id: str, cause: str = "v1", at: datetime = NOW) -> bool:
    with begin_write(engine) as connection:
        about = {"type": "Observation", "id": id, "version": 1, "context": ""}
        return append_notification(connection, rid, cause=cause, at=at, **about)


def test_what_a_subscriber_wants_comes_back_as_it_was_written(engine: sa.Engine) -> None:
    rid = begin(engine, "one")
    with engine.connect() as connection:
        found = find_subscription(connection, rid)
        assert found is not None
        assert (found.id, found.wish, found.status, found.number, found.told) == ("one", WISH, "active", 0, 0)
        assert found.asker.actor.scope == Scope(facilities=frozenset(("north",)))
        assert find_subscription(connection, rid + 1) is None


def test_events_are_numbered_without_gaps_and_a_cause_is_told_once(engine: sa.Engine) -> None:
    rid, other = begin(engine, "one"), begin(engine, "two")
    assert [happen(engine, rid, id) for id in ("a", "b", "a")] == [True, True, False]
    assert happen(engine, rid, "a", "v2")
    assert happen(engine, other, "a")
    with engine.connect() as connection:
        told = read_notifications(connection, rid, after=0, limit=9)
        assert [(one.number, one.id, one.cause) for one in told] == [(1, "a", "v1"), (2, "b", "v1"), (3, "a", "v2")]
        assert [one.number for one in read_notifications(connection, rid, after=1, until=2, limit=9)] == [2]
        assert [one.number for one in read_notifications(connection, other, after=0, limit=9)] == [1]


def test_who_is_switched_off_or_dropped_hears_of_nothing(engine: sa.Engine) -> None:
    rid = begin(engine, "one")
    with engine.connect() as connection:
        assert is_watched(connection, ("Patient", "Observation"))
        assert not is_watched(connection, ("Patient",))
        assert [one.rid for one in live_subscriptions(connection, ("Observation",))] == [rid]
    with begin_write(engine) as connection:
        change_subscription(connection, rid, status="off")
        assert not is_watched(connection, ("Observation",))
    assert not happen(engine, rid, "a")
    with begin_write(engine) as connection:
        drop_subscription(connection, rid)
    assert not happen(engine, rid, "a")


def test_written_anew_a_subscription_goes_on_with_its_numbers(engine: sa.Engine) -> None:
    rid = begin(engine, "one")
    happen(engine, rid, "a")
    with begin_write(engine) as connection:
        change_subscription(connection, rid, status="error", failures=7, error="It did not answer.")
        found = find_subscription(connection, rid, locked=True)
        assert found is not None
        wish = replace(WISH, endpoint="https://other.example/")
        write_subscription(connection, rid, wish, found.asker, status="requested", due_at=NOW)
        again = find_subscription(connection, rid)
        assert again is not None
        assert (again.wish, again.number, again.failures, again.error) == (wish, 1, 0, "")


def test_subscriptions_are_found_in_scope_and_when_they_are_due(engine: sa.Engine) -> None:
    north, south = begin(engine, "one", due_at=NOW), begin(engine, "two", "south", due_at=NOW - timedelta(hours=1))
    begin(engine, "off", due_at=NOW, status="off")
    with engine.connect() as connection:
        there = Scope(facilities=frozenset(("south",)))
        assert [one.id for one in subscriptions_by_id(connection, there, ("one", "two"))] == ["two"]
        assert [one.id for one in subscriptions_by_id(connection, Scope(), None)] == ["off", "one", "two"]
        assert due_subscriptions(connection, NOW, 9) == [south, north]
        assert due_subscriptions(connection, NOW, 1) == [south]


def test_old_events_and_tokens_are_forgotten(engine: sa.Engine) -> None:
    rid = begin(engine, "one")
    happen(engine, rid, "a")
    happen(engine, rid, "b", at=NOW + timedelta(days=1))
    with begin_write(engine) as connection:
        keep_token(connection, "token", [rid], NOW + timedelta(minutes=1))
        assert bound_by(connection, "token", NOW) == [rid]
        assert bound_by(connection, "other", NOW) == []
        assert bound_by(connection, "token", NOW + timedelta(minutes=2)) == []
        assert prune_notifications(connection, NOW + KEPT + timedelta(hours=1)) == 1
        assert [one.id for one in read_notifications(connection, rid, after=0, limit=9)] == ["b"]
        assert bound_by(connection, "token", NOW) == []
