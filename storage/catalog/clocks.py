"""The time that all who use one catalog agree on."""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta

import sqlalchemy as sa

from readingroom.clock import Clock, SystemClock


class DatabaseClock:
    """The clock of a PostgreSQL server, read now and then and carried on by this machine's monotonic clock.

    So hosts whose clocks differ, or are set while they run, agree on what is due.
    """

    def __init__(self, engine: sa.Engine, *, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._engine = engine
        self._monotonic = monotonic
        self._read = self._ask()

    def now(self) -> datetime:
        at, monotonic = self._read
        return at + timedelta(seconds=self._monotonic() - monotonic)

    def measure(self) -> None:
        """Read the server's clock again."""
        self._read = self._ask()

    def _ask(self) -> tuple[datetime, float]:
        with self._engine.connect() as connection:
            before = self._monotonic()
            at: datetime = connection.execute(sa.select(sa.func.clock_timestamp())).scalar_one()
            return at.astimezone(UTC), (before + self._monotonic()) / 2


def clock_of(engine: sa.Engine) -> Clock:
    """The clock for a catalog: its server's, or the machine's where the catalog is a file on it."""
    return SystemClock() if engine.dialect.name == "sqlite" else DatabaseClock(engine)
