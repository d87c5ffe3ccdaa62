"""Opens catalog and store for an operator's commands: without ingest, and so without a writer's lease."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import sqlalchemy as sa

from readingroom.clock import Clock
from readingroom.errors import Conflict, Invalid, NotFound
from server.queue import Queue
from server.settings import Settings
from server.sqlite_queue import SqliteQueue
from storage.blobs import Blobs, open_blobs
from storage.catalog.clocks import clock_of
from storage.catalog.engine import database_url, open_engine
from storage.catalog.migrate import pending, upgrade


@contextmanager
def open_archive(settings: Settings) -> Iterator[tuple[sa.Engine, Blobs]]:
    """Catalog and store as they are; makes neither, so that a mistyped folder is told and not filled.

    Raises
    ------
    NotFound
        There is no catalog.
    Conflict
        It is not of this release.
    """
    path = sqlite_file(settings)
    if path is not None and not path.exists():
        raise NotFound(f"There is no catalog {path}. Name the folder that 'serve' and 'import' use with --data.")
    with open_catalog(settings) as engine:
        missing = pending(engine)
        if missing:
            raise Conflict(f"The catalog is {len(missing)} revisions behind this release: run 'readingroom migrate'.")
        with open_store(settings) as blobs:
            yield engine, blobs


@contextmanager
def open_new_archive(settings: Settings) -> Iterator[tuple[sa.Engine, Blobs]]:
    """The same, where the catalog is made and migrated if need be."""
    with open_catalog(settings) as engine, open_store(settings) as blobs:
        upgrade(engine)
        yield engine, blobs


@contextmanager
def open_catalog(settings: Settings) -> Iterator[sa.Engine]:
    """The database alone, at whatever revision it is."""
    try:
        engine = open_engine(database_url(settings.database, settings.data))
    except (sa.exc.ArgumentError, sa.exc.NoSuchModuleError):
        raise Invalid(
            "The setting 'database' is no address of a database; "
            "it looks like postgresql://user:password@host/name or sqlite:////folder/catalog.sqlite."
        ) from None
    try:
        yield engine
    finally:
        engine.dispose()


@contextmanager
def open_store(settings: Settings) -> Iterator[Blobs]:
    """The place of the objects."""
    try:
        blobs = open_blobs(
            settings.data,
            settings.store,
            endpoint=settings.s3_endpoint,
            region=settings.s3_region,
            access_key=settings.s3_access_key,
            secret_key=settings.s3_secret_key.get_secret_value() if settings.s3_secret_key else None,
        )
    except ValueError as error:
        raise Invalid(str(error)) from None
    try:
        yield blobs
    finally:
        blobs.close()


def open_queue(engine: sa.Engine, clock: Clock) -> Queue:
    """The queue of a catalog, without handlers."""
    if engine.dialect.name == "sqlite":
        return SqliteQueue(engine, clock)
    from server.postgres_queue import PostgresQueue  # here: it takes a while, and SQLite needs none of it

    return PostgresQueue(engine, clock)


def sqlite_file(settings: Settings) -> Path | None:
    """The file of the catalog where it is a SQLite one."""
    if settings.database is None:
        return settings.data / "catalog.sqlite"
    if not settings.database.startswith("sqlite"):
        return None
    name = sa.make_url(settings.database).database
    return Path(name) if name else None


@contextmanager
def open_archive_queue(settings: Settings) -> Iterator[Queue]:
    """The queue of an archive that is there, for commands on what waits in it; raises as `open_archive` does."""
    with open_archive(settings) as (engine, _):
        yield open_queue(engine, clock_of(engine))
