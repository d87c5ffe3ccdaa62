"""Brings a database to the schema of this release; the revisions lie in `migrations/`, inside the package."""

from __future__ import annotations

from functools import cache

import sqlalchemy as sa
from alembic import command
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory

from readingroom.errors import Conflict
from storage.catalog.engine import begin_write

# Serialises migrations on PostgreSQL: several workers start at the same time. SQLite has its write lock.
_MIGRATION_LOCK = 0x6D696772


def upgrade(engine: sa.Engine) -> list[str]:
    """Run what is missing, in one transaction, and return the revisions that were run (none: it was up to date).

    Safe to call from several processes at once: one migrates, the others wait and find nothing to do.

    Raises
    ------
    Conflict
        The database was migrated by a newer release.
    """
    if not pending(engine):
        return []  # the usual start takes no lock
    with begin_write(engine) as connection:
        if connection.dialect.name == "postgresql":
            connection.exec_driver_sql(f"SELECT pg_advisory_xact_lock({_MIGRATION_LOCK})")
        missing = _pending(_revision(connection))
        if missing:
            command.upgrade(_config(connection), "head")
    return missing


def current(engine: sa.Engine) -> str | None:
    """The revision that the database is at; ``None`` for an empty one."""
    with engine.connect() as connection:
        return _revision(connection)


def pending(engine: sa.Engine) -> list[str]:
    """The revisions that `upgrade` would run, oldest first; raises `Conflict` as it does."""
    return _pending(current(engine))


def head() -> str:
    """The newest revision that this release knows."""
    return _known()[-1]


def _revision(connection: sa.Connection) -> str | None:
    return MigrationContext.configure(connection).get_current_revision()


@cache
def _known() -> list[str]:
    """The revisions of this release, oldest first; read once, for Alembic runs every file of them to find its name."""
    return [script.revision for script in ScriptDirectory.from_config(_config(None)).walk_revisions()][::-1]


def _pending(revision: str | None) -> list[str]:
    known = _known()
    if revision is None:
        return known[:]
    if revision not in known:
        raise Conflict(
            f"The database is at revision {revision}, which this release does not know (its newest is {known[-1]}): "
            "it was migrated by a newer readingroom; run that one, or restore a backup from before."
        )
    return known[known.index(revision) + 1 :]


def _config(connection: sa.Connection | None) -> Config:
    config = Config(attributes={"connection": connection})
    config.set_main_option("script_location", "storage.catalog:migrations")
    return config
