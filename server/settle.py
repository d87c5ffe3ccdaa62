"""Settling: a study that has been quiet for its period counts as complete, and its arrays are described anew."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from itertools import batched, zip_longest
from typing import Any

import orjson
import sqlalchemy as sa

from readingroom.events import StudyChanged, StudySettled
from readingroom.model import Scope
from server.announce import announce
from server.fhir.imagingstudy import keep_settled
from server.queue import Job, Queue
from server.room import Room
from storage.blobs import Blobs
from storage.catalog import schema as t
from storage.catalog.engine import begin_write
from storage.catalog.events import Event, Wanted, latest_event, read_events
from storage.catalog.find import EVERY_SERIES, StoredSeries, list_series
from storage.catalog.studies import OUR_SOURCE
from storage.describe import describe_series

_DESCRIBE = "describe"
_LAST = -100
"""The priority of what nobody waits for: who opens a study's arrays by name has them described there and then."""
AT_ONCE = 50
"""Studies, and series, of one transaction."""
_EVENTS_AT_ONCE = 100
_MOST_INSTANCES = 1000
"""Of one event, that came and that went; what concerns more is told in several."""

_ADDING, _REMOVING = ("InstancesStored", "InstancesRestored"), ("InstancesRemoved",)
_CHANGING = (*_ADDING, *_REMOVING, "InstancesCorrected")


@dataclass(frozen=True, slots=True, kw_only=True)
class _Settled:
    id: str
    study_uid: str
    owner_facility: str
    revision: int


def settle_studies(room: Room) -> int:
    """Settle the studies that are due, each with its events in one transaction; returns how many.

    One that had settled before is at its next revision, and what has changed in between is told as well.
    """
    now = room.clock.now()
    due = sa.select(t.study.c.id).where(t.study.c.settle_due_at <= now).order_by(t.study.c.settle_due_at)
    with room.engine.connect() as connection:
        waiting = connection.execute(due.limit(AT_ONCE)).scalars().all()
    if not waiting:
        return 0
    with begin_write(room.engine) as connection:
        # Asked again under the lock: an instance that came meanwhile has moved the time.
        settled = [
            _Settled(**row._mapping)
            for row in connection.execute(
                t.study.update()
                .where(t.study.c.id.in_(waiting), t.study.c.settle_due_at <= now)
                .values(settle_due_at=None, settled_at=now, revision=t.study.c.revision + 1)
                .returning(t.study.c.id, t.study.c.study_uid, t.study.c.owner_facility, t.study.c.revision)
            )
        ]
        for one in settled:
            keep_settled(connection, one.id)
            name = f"{_DESCRIBE} {one.id}"
            room.queue.enqueue(connection, _DESCRIBE, {"study": one.id}, key=name, lane=name, priority=_LAST)
        announce(connection, room.queue, [event for one in settled for event in _events(connection, one, now)])
    return len(settled)


def register_describing(queue: Queue, blobs: Blobs) -> None:
    """Have the queue describe the arrays of studies that have settled."""

    @queue.on(_DESCRIBE)
    def describe(job: Job) -> None:
        with queue.engine.connect() as connection:
            for series in list_series(connection, job.payload["study"]):
                describe_series(connection, blobs, series)


def _events(connection: sa.Connection, one: _Settled, now: datetime) -> Iterator[dict[str, Any]]:
    common = {"version": 1, "study_uid": one.study_uid, "facility": one.owner_facility, "at": now}
    settled = {**common, "type": StudySettled.__name__, "payload": orjson.dumps({"revision": one.revision})}
    if one.revision == 1:
        yield settled
        return
    added, removed = _changes(connection, one)
    yield settled
    pages = zip_longest(batched(added, _MOST_INSTANCES), batched(removed, _MOST_INSTANCES), fillvalue=())
    for came, went in list(pages) or [((), ())]:
        payload = {"revision": one.revision, "added": came, "removed": went}
        yield {**common, "type": StudyChanged.__name__, "payload": orjson.dumps(payload)}


def _changes(connection: sa.Connection, one: _Settled) -> tuple[list[str], list[str]]:
    """The SOP Instance UIDs that came, or came back, and those that went, since a study last settled.

    What was made here of the study's report is none of them.
    """
    scope = Scope(facilities=frozenset({one.owner_facility}))
    before = latest_event(connection, scope, Wanted(study_uid=one.study_uid, types=(StudySettled.__name__,)))
    after = before.sequence if before else 0
    wanted = Wanted(study_uid=one.study_uid, types=_CHANGING)
    added: dict[str, None] = {}
    removed: dict[str, None] = {}
    while events := read_events(connection, scope, wanted, after=after, limit=_EVENTS_AT_ONCE):
        for event in events:
            if event.payload.get("source") == OUR_SOURCE:
                continue
            into, out_of = (removed, added) if event.type in _REMOVING else (added, removed)
            for uid in _uids(event) if event.type != "InstancesCorrected" else ():
                out_of.pop(uid, None)
                into[uid] = None
        after = events[-1].sequence
    return list(added), list(removed)


def _uids(event: Event) -> Iterator[str]:
    for uids in event.payload["series"].values():
        yield from uids


def describe_stale(room: Room) -> int:
    """Describe anew the arrays of series of which something was removed or restored; returns how many.

    Their rows say so from the transaction on that changed them, so a crash in between loses nothing.
    """
    c = t.series.c
    with room.engine.connect() as connection:
        stale = connection.execute(
            EVERY_SERIES.add_columns(c.stale_since).where(c.stale_since.is_not(None)).limit(AT_ONCE)
        ).all()
        for row in stale:
            told = {name: value for name, value in row._mapping.items() if name != "stale_since"}
            describe_series(connection, room.blobs, StoredSeries(**told))
    if stale:
        with begin_write(room.engine) as connection:
            for row in stale:
                # Unless it has changed again meanwhile.
                mine = t.series.update().where(c.id == row.id, c.stale_since == row.stale_since)
                connection.execute(mine.values(stale_since=None))
    return len(stale)
