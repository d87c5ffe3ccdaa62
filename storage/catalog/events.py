"""What happened, in the order in which it was committed: rows that transactions append, and that the feed reads."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from itertools import batched
from typing import Any

import orjson
import sqlalchemy as sa

from readingroom.model import Scope
from storage.catalog import schema as t
from storage.catalog.engine import lock_events

_MOST_INSTANCES = 1000
"""Of one event; what concerns more is told in several."""

_INSERT = t.event.insert().returning(t.event.c.seq, sort_by_parameter_order=True)
_READ = sa.select(*(t.event.c[name] for name in ("seq", "type", "study_uid", "facility", "item", "at", "payload")))


def append_events(connection: sa.Connection, events: Sequence[Mapping[str, Any]]) -> Sequence[int]:
    """Append rows to the log, as the last thing that a transaction does; returns their numbers.

    Whoever appends holds a lock until the commit, so that numbers are given in the order of commits: a reader who has
    seen one has seen all before it.
    """
    if not events:
        return ()
    lock_events(connection)
    return connection.execute(_INSERT, list(events)).scalars().all()


def instance_events(
    kind: str,
    *,
    owner_facility: str,
    study_uid: str,
    at: datetime,
    instances: Mapping[str, Sequence[str]],
    **told: Any,
) -> Iterator[dict[str, Any]]:
    """The rows that tell of instances of one study, given by series; none where there are none."""
    pairs = [(series_uid, uid) for series_uid, uids in sorted(instances.items()) for uid in uids]
    for some in batched(pairs, _MOST_INSTANCES):
        series: dict[str, list[str]] = {}
        for series_uid, uid in some:
            series.setdefault(series_uid, []).append(uid)
        yield {
            "type": kind,
            "version": 1,
            "study_uid": study_uid,
            "facility": owner_facility,
            "at": at,
            "payload": orjson.dumps({"series": series, **told}),
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """One thing that happened; `payload` depends on the type."""

    sequence: int
    type: str
    study_uid: str | None
    facility: str | None
    item: str | None
    at: datetime
    payload: Mapping[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """Which events: of these types, of a study, from a time on and before another; without one of these, all.

    `item` is the id of a work item; True for those of any of them, False for those of none.
    """

    types: tuple[str, ...] = ()
    study_uid: str | None = None
    item: str | bool | None = None
    begin: datetime | None = None
    end: datetime | None = None


def last_sequence(connection: sa.Connection) -> int:
    """The number of the last event; no later commit brings one that is smaller."""
    return int(connection.execute(sa.select(sa.func.coalesce(sa.func.max(t.event.c.seq), 0))).scalar_one())


def read_events(
    connection: sa.Connection, scope: Scope, wanted: Wanted, *, after: int, limit: int, last: int | None = None
) -> list[Event]:
    """Events of the facilities in scope, in their order, from the one after a number to the last one."""
    statement = _matching(scope, wanted).where(t.event.c.seq > after)
    if last is not None:
        statement = statement.where(t.event.c.seq <= last)
    return [_event(row) for row in connection.execute(statement.order_by(t.event.c.seq).limit(limit))]


def read_event(connection: sa.Connection, sequence: int) -> Event:
    """The event of that number."""
    return _event(connection.execute(_READ.where(t.event.c.seq == sequence)).one())


def latest_event(connection: sa.Connection, scope: Scope, wanted: Wanted) -> Event | None:
    """The last of them."""
    row = connection.execute(_matching(scope, wanted).order_by(t.event.c.seq.desc()).limit(1)).one_or_none()
    return None if row is None else _event(row)


def _matching(scope: Scope, wanted: Wanted) -> sa.Select[Any]:
    c = t.event.c
    statement = _READ
    if scope.facilities is not None:
        statement = statement.where(c.facility.in_(sorted(scope.facilities)))
    if wanted.types:
        statement = statement.where(c.type.in_(wanted.types))
    if wanted.study_uid is not None:
        statement = statement.where(c.study_uid == wanted.study_uid)
    if isinstance(wanted.item, str):
        statement = statement.where(c.item == wanted.item)
    elif wanted.item is not None:
        statement = statement.where(c.item.is_not(None) if wanted.item else c.item.is_(None))
    if wanted.begin is not None:
        statement = statement.where(c.at >= wanted.begin)
    if wanted.end is not None:
        statement = statement.where(c.at < wanted.end)
    return statement


def _event(row: Any) -> Event:
    return Event(
        sequence=row.seq,
        type=row.type,
        study_uid=row.study_uid,
        facility=row.facility,
        item=row.item,
        at=row.at,
        payload=orjson.loads(row.payload),
    )
