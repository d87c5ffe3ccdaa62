"""The queue of a SQLite catalog: one table, on one machine.

Leases are kept in seconds of the machine's monotonic clock, which every process here shares and nobody sets: a step of
the wall clock takes no job away from anybody. A lease that would last longer than leases do was given before the
machine was started again, and is over.
"""

from __future__ import annotations

import functools
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any

import orjson
import sqlalchemy as sa

from readingroom.clock import Clock
from readingroom.errors import Conflict, NotFound
from server.queue import LEASE, LOST, Claim, Job, Queue
from storage.catalog import schema as t
from storage.catalog.engine import after_commit, begin_write

_IDLE: dict[str, Any] = {"token": None, "lease_until": None}

# Conditions of partial indexes have to stand in a statement as they are: a bound value is not known when it is planned.
_QUEUED: sa.ColumnElement[str] = sa.literal_column("'queued'")
_RUNNING: sa.ColumnElement[str] = sa.literal_column("'running'")
_NONE: sa.ColumnElement[str] = sa.literal_column("''")

_c = t.job.c


class SqliteQueue(Queue):
    """Jobs in the table ``job``.

    Parameters
    ----------
    monotonic
        The clock of leases.
    """

    def __init__(
        self,
        engine: sa.Engine,
        clock: Clock,
        *,
        lease: timedelta = LEASE,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        super().__init__(engine, clock, lease=lease)
        self._monotonic = monotonic

    def enqueue(
        self,
        connection: sa.Connection,
        kind: str,
        payload: Mapping[str, Any],
        *,
        lane: str = "",
        priority: int = 0,
        run_at: datetime | None = None,
        key: str | None = None,
    ) -> None:
        after_commit(connection, self.wake.set)
        now = self.clock.now()
        run_at, json = run_at or now, orjson.dumps(payload)
        if key is not None:
            waiting = t.job.update().where(_c.key == key, _c.state == _QUEUED)
            sooner = {
                "run_at": sa.case((_c.run_at > run_at, sa.bindparam(None, run_at, _c.run_at.type)), else_=_c.run_at),
                "rank": sa.func.min(_c.rank, -priority),
            }
            if connection.execute(waiting.values(payload=json, **sooner)).rowcount:
                return
        values = {
            "delivery": t.new_id(),
            "kind": kind,
            "lane": lane,
            "key": key,
            "rank": -priority,
            "payload": json,
            "state": "queued",
            "run_at": run_at,
            "since": now,
            "attempt": 0,
        }
        connection.execute(t.job.insert(), values)

    def claim(self, limit: int = 1, kinds: Collection[str] | None = None) -> list[Job]:
        known = self.handlers if kinds is None else self.handlers.keys() & kinds
        wanted = {"kinds": sorted(known), "now": self.clock.now(), "most": limit}
        with self.engine.connect() as connection:
            if connection.execute(_due(), wanted).first() is None:
                return []  # the usual look takes no lock
        token = t.new_id()
        with begin_write(self.engine) as connection:
            chosen = connection.execute(_due(), wanted).scalars().all()
            rows = connection.execute(
                t.job.update()
                .where(_c.id.in_(chosen))
                .values(state="running", token=token, lease_until=self._lease_until(), attempt=_c.attempt + 1)
                .returning(t.job)
            ).all()
        return [
            Job(
                id=row.id,
                delivery=row.delivery,
                kind=row.kind,
                lane=row.lane,
                payload=orjson.loads(row.payload),
                priority=-row.rank,
                attempt=row.attempt,
                since=row.since,
                claim=Claim(self, row.id, token),
            )
            for row in sorted(rows, key=lambda row: (row.rank, row.id))
        ]

    def keep(self, jobs: Sequence[Job]) -> None:
        if jobs:
            running = [(job.id, job.claim.token) for job in jobs]
            held = sa.tuple_(_c.id, _c.token).in_(running) & (_c.state == _RUNNING)
            with begin_write(self.engine) as connection:
                connection.execute(t.job.update().where(held).values(lease_until=self._lease_until()))

    def rescue(self) -> int:
        lost = sa.select(_c.id, _c.token, _c.kind, _c.attempt).where(
            _c.state == _RUNNING,
            (_c.lease_until < self._monotonic()) | (_c.lease_until > self._lease_until()),
            _c.kind.in_(sorted(self.handlers)),
        )
        with self.engine.connect() as connection:
            if connection.execute(lost.limit(1)).first() is None:
                return 0
        with begin_write(self.engine) as connection:
            rows = connection.execute(lost).all()
            for row in rows:
                claim = Claim(self, row.id, row.token)
                if row.attempt >= self.policy(row.kind).attempts:
                    self.bury(connection, claim, LOST)
                else:
                    self.put_back(connection, claim, timedelta(0), LOST, counts=True)
            after_commit(connection, self.wake.set)
        return len(rows)

    def finish(self, connection: sa.Connection, claim: Claim) -> bool:
        return connection.execute(t.job.delete().where(_held(claim))).rowcount == 1

    def put_back(self, connection: sa.Connection, claim: Claim, wait: timedelta, error: str, *, counts: bool) -> bool:
        other = t.job.alias()
        covered = sa.exists().where(other.c.key == _c.key, other.c.state == _QUEUED).correlate(t.job)
        if connection.execute(t.job.delete().where(_held(claim), covered)).rowcount:
            return True  # it has been enqueued again meanwhile, and that one will do
        values = {"state": "queued", "run_at": self.clock.now() + wait, "error": error, **_IDLE}
        if not counts:
            values["attempt"] = _c.attempt - 1
        return _change(connection, claim, values)

    def bury(self, connection: sa.Connection, claim: Claim, error: str) -> bool:
        return _change(connection, claim, {"state": "dead", "error": error, **_IDLE})

    def _lease_until(self) -> float:
        return self._monotonic() + self.lease.total_seconds()

    def view(self) -> sa.FromClause:
        same = (_c.id, _c.delivery, _c.kind, _c.lane, _c.key, _c.state, _c.attempt, _c.run_at, _c.since, _c.error)
        return sa.select(*same, (-_c.rank).label("priority")).subquery()

    def retry(self, id: int) -> None:
        now = self.clock.now()
        with begin_write(self.engine) as connection:
            row = _resting(connection, id)
            other = sa.select(_c.id).where(_c.key == row.key, _c.state == _QUEUED, _c.id != id)
            if row.key is not None and connection.execute(other).first():
                raise Conflict(f"Job {id} need not be tried: another one with its key waits already; drop this one.")
            values = {"state": "queued", "run_at": now, "since": now, "attempt": 0}
            connection.execute(t.job.update().where(_c.id == id).values(values))
            after_commit(connection, self.wake.set)

    def drop(self, id: int) -> None:
        with begin_write(self.engine) as connection:
            _resting(connection, id)
            connection.execute(t.job.delete().where(_c.id == id))


def _held(claim: Claim) -> sa.ColumnElement[bool]:
    return (_c.id == claim.id) & (_c.token == claim.token) & (_c.state == _RUNNING)


def _change(connection: sa.Connection, claim: Claim, values: dict[str, Any]) -> bool:
    return connection.execute(t.job.update().where(_held(claim)).values(values)).rowcount == 1


@functools.cache
def _due() -> sa.Select[tuple[int]]:
    """Ids of jobs that may be run now: of each lane its first one, unless one of it is running."""
    other = t.job.alias()
    is_busy = sa.exists().where(other.c.lane == _c.lane, other.c.lane != _NONE, other.c.state == _RUNNING)
    is_first = ~sa.exists().where(
        other.c.lane == _c.lane,
        other.c.lane != _NONE,
        other.c.state == _QUEUED,
        (other.c.rank < _c.rank) | ((other.c.rank == _c.rank) & (other.c.id < _c.id)),
    )
    return (
        sa.select(_c.id)
        .where(
            _c.state == _QUEUED,
            _c.run_at <= sa.bindparam("now"),
            _c.kind.in_(sa.bindparam("kinds", expanding=True)),
            (_c.lane == _NONE) | (~is_busy & is_first),
        )
        .order_by(_c.rank, _c.id)
        .limit(sa.bindparam("most"))
    )


def _resting(connection: sa.Connection, id: int) -> sa.Row[Any, Any]:
    """The row of a job that is not running."""
    row = connection.execute(sa.select(_c.key, _c.state).where(_c.id == id)).one_or_none()
    if row is None:
        raise NotFound(f"There is no job {id}; it may be done. 'readingroom jobs list' shows those that there are.")
    if row.state == "running":
        raise Conflict(f"Job {id} is running; wait until it has ended.")
    return row
