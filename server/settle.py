"""Settling: a study that has been quiet for its period counts as complete, and its arrays are described anew."""

from __future__ import annotations

from dataclasses import dataclass

import orjson
import sqlalchemy as sa

from server.announce import announce
from server.room import Room
from storage.catalog import schema as t
from storage.catalog.engine import begin_write
from storage.catalog.find import EVERY_SERIES, StoredSeries, list_series
from storage.describe import describe_series

_AT_ONCE = 50


@dataclass(frozen=True, slots=True, kw_only=True)
class _Settled:
    id: str
    study_uid: str
    owner_facility: str
    revision: int


def settle_studies(room: Room) -> int:
    """Settle the studies that are due, each with its event in one transaction; returns how many."""
    now = room.clock.now()
    due = sa.select(t.study.c.id).where(t.study.c.settle_due_at <= now).order_by(t.study.c.settle_due_at)
    with room.engine.connect() as connection:
        waiting = connection.execute(due.limit(_AT_ONCE)).scalars().all()
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
        if settled:
            announce(
                connection,
                room.queue,
                [
                    {
                        "type": "StudySettled",
                        "version": 1,
                        "study_uid": one.study_uid,
                        "facility": one.owner_facility,
                        "at": now,
                        "payload": orjson.dumps({"revision": one.revision}),
                    }
                    for one in settled
                ],
            )
    for one in settled:
        with room.engine.connect() as connection:
            for series in list_series(connection, one.id):
                describe_series(connection, room.blobs, series)
    return len(settled)


def describe_stale(room: Room) -> int:
    """Describe anew the arrays of series of which something was removed or restored; returns how many.

    Their rows say so from the transaction on that changed them, so a crash in between loses nothing.
    """
    c = t.series.c
    with room.engine.connect() as connection:
        stale = connection.execute(
            EVERY_SERIES.add_columns(c.stale_since).where(c.stale_since.is_not(None)).limit(_AT_ONCE)
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
