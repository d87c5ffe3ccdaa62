"""Settling: a study that has been quiet for its period counts as complete, and its arrays are described anew."""

from __future__ import annotations

from dataclasses import dataclass

import orjson
import sqlalchemy as sa

from server.room import Room
from storage.catalog import schema as t
from storage.catalog.engine import begin_write, lock_events
from storage.catalog.find import list_series
from storage.describe import describe_series

_AT_ONCE = 50


@dataclass(frozen=True, slots=True, kw_only=True)
class _Settled:
    id: str
    study_uid: str
    owner_facility: str


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
                .values(settle_due_at=None, settled_at=now)
                .returning(t.study.c.id, t.study.c.study_uid, t.study.c.owner_facility)
            )
        ]
        if settled:
            lock_events(connection)
            connection.execute(
                t.event.insert(),
                [
                    {
                        "type": "StudySettled",
                        "version": 1,
                        "study_uid": one.study_uid,
                        "facility": one.owner_facility,
                        "at": now,
                        "payload": orjson.dumps({}),
                    }
                    for one in settled
                ],
            )
    for one in settled:
        with room.engine.connect() as connection:
            for series in list_series(connection, one.id):
                describe_series(connection, room.blobs, series)
    return len(settled)
