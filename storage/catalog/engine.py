"""Opens the catalog's database: SQLite by default, PostgreSQL by URL; the same tables and statements on both."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from sqlalchemy import event as sa_event

# Serialises commits that write events on PostgreSQL, so that `event.seq` is in commit order.
_EVENT_LOCK = 0x72656164


def open_engine(url: str) -> sa.Engine:
    """An engine with this project's settings.

    SQLite runs in WAL mode with ``synchronous=FULL``: a commit that returned has reached the disk. Reads take no lock
    and may run on any thread; writes are opened by `begin_write`. Errors leave out what was searched for or stored,
    so that it comes into no log.
    """
    parsed = sa.make_url(url)
    if parsed.get_backend_name() == "postgresql":
        parsed = parsed.set(drivername="postgresql+psycopg")
        return sa.create_engine(parsed, pool_size=10, max_overflow=20, pool_pre_ping=True, hide_parameters=True)
    if parsed.database and parsed.database != ":memory:":
        Path(parsed.database).parent.mkdir(parents=True, exist_ok=True)
    engine = sa.create_engine(parsed, pool_size=8, max_overflow=32, hide_parameters=True)

    @sa_event.listens_for(engine, "connect")
    def configure(connection: Any, _record: Any) -> None:
        connection.isolation_level = None  # we say BEGIN ourselves, below
        cursor = connection.cursor()
        cursor.execute("PRAGMA busy_timeout = 30000")
        cursor.execute("PRAGMA journal_mode = WAL")
        cursor.execute("PRAGMA synchronous = FULL")
        cursor.execute("PRAGMA foreign_keys = ON")
        cursor.execute("PRAGMA case_sensitive_like = ON")
        cursor.execute("PRAGMA temp_store = MEMORY")
        cursor.execute("PRAGMA cache_size = -16384")
        cursor.execute("PRAGMA mmap_size = 268435456")
        cursor.close()

    return engine


@contextmanager
def begin_write(engine: sa.Engine) -> Iterator[sa.Connection]:
    """A transaction that will write: on SQLite it holds the write lock from its first statement."""
    with engine.connect() as connection:
        if engine.dialect.name == "sqlite":
            connection.exec_driver_sql("BEGIN IMMEDIATE")
            try:
                yield connection
            except BaseException:
                connection.exec_driver_sql("ROLLBACK")
                raise
            connection.exec_driver_sql("COMMIT")
        else:
            with connection.begin():
                yield connection


def lock_events(connection: sa.Connection) -> None:
    """Hold the order of events until this transaction ends; call before the first `event` row is written."""
    if connection.dialect.name == "postgresql":
        connection.exec_driver_sql(f"SELECT pg_advisory_xact_lock({_EVENT_LOCK})")


def database_url(url: str | None, data_folder: Path) -> str:
    """The configured URL, else the SQLite file in the data folder."""
    return url or f"sqlite:///{data_folder / 'catalog.sqlite'}"
