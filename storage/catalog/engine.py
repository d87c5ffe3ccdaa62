"""Opens the catalog's database: SQLite by default, PostgreSQL by URL; the same tables and statements on both."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from sqlalchemy import event as sa_event

# Serialises commits that write events on PostgreSQL, so that `event.seq` is in commit order.
_EVENT_LOCK = 0x72656164

_of_thread = threading.local()

_AFTER_COMMIT = "readingroom.after_commit"
# What PostgreSQL (classes of SQLSTATE) and SQLite say when the database itself is what fails.
_OUTAGE_CLASSES = ("08", "40", "53", "57", "58")
_OUTAGE_NAMES = ("SQLITE_BUSY", "SQLITE_FULL", "SQLITE_IOERR", "SQLITE_LOCKED", "SQLITE_NOMEM", "SQLITE_CANTOPEN")


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
    """A transaction that will write: on SQLite it holds the write lock from its first statement.

    A second one within it, on the same thread, would wait for a lock that only the first can give back: on SQLite it
    is refused at once, with a `RuntimeError`.
    """
    writing = _writing()
    if engine.dialect.name == "sqlite" and engine in writing:
        raise RuntimeError("This thread writes already; a second transaction would wait for it without end.")
    with engine.connect() as connection:
        acts: list[Callable[[], object]] = []
        info = connection.info
        info[_AFTER_COMMIT] = acts
        try:
            if engine.dialect.name == "sqlite":
                connection.exec_driver_sql("BEGIN IMMEDIATE")
                writing.add(engine)
                try:
                    yield connection
                    connection.exec_driver_sql("COMMIT")
                except BaseException:
                    # A full disk has rolled back already; else what is left open would go on holding the lock.
                    if connection.connection.dbapi_connection.in_transaction:  # type: ignore[union-attr]
                        connection.exec_driver_sql("ROLLBACK")
                    raise
                finally:
                    writing.discard(engine)
            else:
                with connection.begin():
                    yield connection
        finally:
            info.pop(_AFTER_COMMIT, None)
    for act in acts:
        act()


def _writing() -> set[sa.Engine]:
    """The engines with which this thread has a write transaction open."""
    if not hasattr(_of_thread, "writing"):
        _of_thread.writing = set()
    found: set[sa.Engine] = _of_thread.writing
    return found


def after_commit(connection: sa.Connection, act: Callable[[], object]) -> None:
    """Have something done once the transaction that `begin_write` opened has been committed, and not if it fails."""
    if _AFTER_COMMIT not in connection.info:
        raise RuntimeError("This is done within a transaction that begin_write has opened.")
    connection.info[_AFTER_COMMIT].append(act)


def is_writing(connection: sa.Connection) -> bool:
    """Whether it is of a transaction that `begin_write` has opened."""
    return _AFTER_COMMIT in connection.info


def is_outage(error: BaseException) -> bool:
    """Whether the database does not answer, is full, or is held by others; what it was told may well be right."""
    if not isinstance(error, sa.exc.DBAPIError):
        return isinstance(error, sa.exc.TimeoutError)  # no connection came free
    state, name = getattr(error.orig, "sqlstate", None), getattr(error.orig, "sqlite_errorname", "")
    if state is None and not name:
        return error.connection_invalidated or isinstance(error, sa.exc.OperationalError)
    return (state or "").startswith(_OUTAGE_CLASSES) or name.startswith(_OUTAGE_NAMES)


def lock_events(connection: sa.Connection) -> None:
    """Hold the order of events until this transaction ends; call before the first `event` row is written."""
    if connection.dialect.name == "postgresql":
        connection.exec_driver_sql(f"SELECT pg_advisory_xact_lock({_EVENT_LOCK})")


def hold_name(connection: sa.Connection, name: str) -> None:
    """Let one transaction at a time do what goes by this name; until it ends.

    SQLite has one writer at a time whatever it does.
    """
    if connection.dialect.name == "postgresql":
        connection.execute(sa.text("SELECT pg_advisory_xact_lock(hashtextextended(:name, 0))"), {"name": name})


def database_url(url: str | None, data_folder: Path) -> str:
    """The configured URL, else the SQLite file in the data folder."""
    return url or f"sqlite:///{data_folder / 'catalog.sqlite'}"
