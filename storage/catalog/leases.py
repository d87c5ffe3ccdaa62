"""Who leads: of all processes that use one catalog, one at a time does what need be done only once."""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import timedelta

import sqlalchemy as sa

from storage.catalog import schema as t
from storage.catalog.engine import begin_write
from storage.catalog.writers import insert_for

LEADING = timedelta(seconds=30)


class Lease:
    """The right to lead, under a name; it ends by itself where its holder does not renew it.

    Times are those of a clock that all who want the lease share, and that nobody sets: on SQLite the machine's
    monotonic one, on PostgreSQL the database's. Two may take themselves for the leader for a moment, as one that was
    stopped does until it looks again: what is done under a lease has to bear that.

    Parameters
    ----------
    monotonic
        Seconds of this machine's monotonic clock.
    """

    def __init__(
        self,
        engine: sa.Engine,
        name: str,
        *,
        lasts: timedelta = LEADING,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._engine = engine
        self._name = name
        self._lasts = lasts.total_seconds()
        self._monotonic = monotonic
        self._holder = t.new_id()
        self._renew_at = float("-inf")

    def hold(self) -> bool:
        """Take the lease, if nobody else has it, or renew it when a third of it is over; says whether it is held."""
        now = self._monotonic()
        if now < self._renew_at:
            return True
        self._renew_at = float("-inf")
        with self._engine.connect() as connection:
            shared = self._shared_now(connection)
            row = connection.execute(sa.select(t.lease).where(t.lease.c.name == self._name)).one_or_none()
            if row is not None and row.holder != self._holder and not self._is_over(row.until, shared):
                return False
        with begin_write(self._engine) as connection:
            shared = self._shared_now(connection)
            values = {"holder": self._holder, "until": shared + self._lasts}
            c = t.lease.c
            free = (c.holder == self._holder) | (c.until < shared) | (c.until > shared + self._lasts)
            insert = insert_for(connection)(t.lease).values(name=self._name, **values)
            taken = insert.on_conflict_do_update(index_elements=[c.name], set_=values, where=free).returning(c.name)
            if connection.execute(taken).one_or_none() is None:
                return False
        self._renew_at = now + self._lasts / 3
        return True

    def release(self) -> None:
        """Let somebody else lead at once."""
        if self._renew_at > float("-inf"):
            self._renew_at = float("-inf")
            mine = t.lease.delete().where(t.lease.c.name == self._name, t.lease.c.holder == self._holder)
            with begin_write(self._engine) as connection:
                connection.execute(mine)

    def _is_over(self, until: float, shared: float) -> bool:
        # One that would last longer than leases do was given before the machine was started again.
        return until < shared or until > shared + self._lasts

    def _shared_now(self, connection: sa.Connection) -> float:
        if connection.dialect.name == "sqlite":
            return self._monotonic()
        return float(connection.execute(sa.select(sa.extract("epoch", sa.func.clock_timestamp()))).scalar_one())
