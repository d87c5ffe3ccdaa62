"""Brings a database to the schema of this release; the revisions lie in `migrations/`, inside the package.

Alembic is loaded where there is something to run: the usual start only compares two numbers.
"""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

import sqlalchemy as sa

from readingroom.errors import Conflict
from storage.catalog.engine import begin_write

if TYPE_CHECKING:
    from alembic.config import Config

_REVISION = re.compile(r'^revision = "(\w+)"$', re.MULTILINE)
_BEFORE = re.compile(r'^down_revision = (?:None|"(\w+)")$', re.MULTILINE)

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
            from alembic import command

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
    if not sa.inspect(connection).has_table("alembic_version"):
        return None
    found: str | None = connection.exec_driver_sql("SELECT version_num FROM alembic_version").scalar_one_or_none()
    return found


@cache
def _known() -> list[str]:
    """The revisions of this release, oldest first, as the files say of themselves."""
    after: dict[str | None, str] = {}
    for file in sorted(Path(__file__).with_name("migrations").glob("versions/*.py")):
        text = file.read_text()
        revision, before = _REVISION.search(text), _BEFORE.search(text)
        if revision is None or before is None or before[1] in after:
            raise RuntimeError(f"{file.name} does not follow the other revisions in one line.")
        after[before[1]] = revision[1]
    known: list[str] = []
    while (following := after.get(known[-1] if known else None)) is not None:
        known.append(following)
    return known


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


def _config(connection: sa.Connection) -> Config:
    from alembic.config import Config

    config = Config(attributes={"connection": connection})
    config.set_main_option("script_location", "storage.catalog:migrations")
    return config
