"""The tables of the queue on PostgreSQL: procrastinate's own, brought to the release of it that is installed.

A comment on its main table says which release they are of. A later one changes them by the scripts that it brings
along, in a revision of ours that calls `install` again; a new catalog has them as that release makes them.
"""

from __future__ import annotations

import re
from pathlib import Path

import procrastinate
import sqlalchemy as sa
from procrastinate.schema import SchemaManager

_COMMENT = "procrastinate "
_VERSION = re.compile(r"(\d+)\.(\d+)\.(\d+)")


def install(connection: sa.Connection) -> None:
    """Make the tables, or bring those that there are up to date, as part of a transaction."""
    found = connection.execute(
        sa.text(
            "SELECT obj_description(to_regclass('procrastinate_jobs'), 'pg_class'), to_regclass('procrastinate_jobs')"
        )
    ).one()
    if found[1] is None:
        _run(connection, SchemaManager.get_schema())
    else:
        since = _version((found[0] or "").removeprefix(_COMMENT))
        for script in sorted(Path(SchemaManager.get_migrations_path()).glob("*.sql")):
            if _version(script.name) > since:
                _run(connection, script.read_text(encoding="utf-8"))
    _run(connection, f"COMMENT ON TABLE procrastinate_jobs IS '{_COMMENT}{procrastinate.__version__}'")


def _run(connection: sa.Connection, script: str) -> None:
    """Run a script of several statements as it stands: without parameters, a percent sign is one."""
    driver = connection.connection.dbapi_connection
    assert driver is not None
    driver.execute(script)


def _version(text: str) -> tuple[int, ...]:
    found = _VERSION.match(text)
    return tuple(map(int, found.groups())) if found else (0, 0, 0)
