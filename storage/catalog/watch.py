"""Whether the catalog has changed: what makes it safe to remember what was read from it, whoever else writes."""

from __future__ import annotations

import sqlite3
from typing import Any
from urllib.parse import quote

import sqlalchemy as sa
from sqlalchemy import event as sa_event


class Watch:
    """Counts the commits of others, by SQLite's ``data_version`` on a connection that itself never writes.

    The pragma costs a few microseconds and sees every commit of every process, so a value is good for as long as the
    count stays what it was before the value was read. For one thread at a time.
    """

    def __init__(self, engine: sa.Engine) -> None:
        # Not read-only: closed last, a connection folds the write-ahead log back, and this one may well be the last.
        path = f"file:{quote(str(engine.url.database))}?mode=rw"
        self._connection = sqlite3.connect(path, uri=True, check_same_thread=False, isolation_level=None)
        self._cursor = self._connection.cursor()
        sa_event.listen(engine, "engine_disposed", self._close)

    def count(self) -> int:
        """A number that is another one after each commit."""
        return int(self._cursor.execute("PRAGMA data_version").fetchone()[0])

    def _close(self, _engine: Any) -> None:
        self._connection.close()


def watch(engine: sa.Engine) -> Watch | None:
    """A watch over the catalog; None where there is none so cheap (PostgreSQL)."""
    if engine.dialect.name != "sqlite":
        return None
    return Watch(engine)
