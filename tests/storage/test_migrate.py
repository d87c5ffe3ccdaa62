"""The migrations and schema.py say the same."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext

from readingroom.errors import Conflict
from storage.catalog import migrate, schema
from storage.catalog.engine import begin_write, open_engine
from storage.catalog.migrate import current, head, pending, upgrade

REVISIONS = sorted(path.name[:4] for path in Path(migrate.__file__).parent.glob("migrations/versions/[0-9]*.py"))

KINDS = ("sqlite", "postgres")


@pytest.fixture(params=KINDS)
def empty(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[sa.Engine]:
    """A database without any table."""
    if request.param == "sqlite":
        engine = open_engine(f"sqlite:///{tmp_path / 'catalog.sqlite'}")
        yield engine
        engine.dispose()
    else:
        server = request.getfixturevalue("postgres")
        url = server.new_database()
        engine = open_engine(url)
        yield engine
        engine.dispose()
        server.drop_database(url)


def description(connection: sa.Connection) -> dict[str, Any]:
    """Everything that reflection sees of the tables but Alembic's own."""
    inspector = sa.inspect(connection)

    def text(value: Any) -> str:
        if isinstance(value, dict):
            return str(sorted((key, text(inner)) for key, inner in value.items()))
        return str(value)

    def plain(rows: list[Any]) -> list[str]:
        return sorted(map(text, rows))

    return {
        name: {
            "columns": [text(column) for column in inspector.get_columns(name)],
            "primary key": inspector.get_pk_constraint(name),
            "foreign keys": plain(inspector.get_foreign_keys(name)),
            "unique": plain(inspector.get_unique_constraints(name)),
            "indexes": plain(inspector.get_indexes(name)),
        }
        for name in inspector.get_table_names()
        if name != "alembic_version"
    }


def test_a_migrated_database_is_what_schema_says(empty: sa.Engine) -> None:
    assert upgrade(empty) == REVISIONS
    with empty.connect() as connection:
        context = MigrationContext.configure(connection, opts={"compare_server_default": True})
        assert compare_metadata(context, schema.metadata) == []
        migrated = description(connection)
        connection.rollback()

    with begin_write(empty) as connection:
        schema.metadata.drop_all(connection)
        schema.metadata.create_all(connection)
    with empty.connect() as connection:
        assert description(connection) == migrated


def test_a_second_upgrade_finds_nothing_to_do(empty: sa.Engine) -> None:
    assert current(empty) is None
    assert pending(empty) == REVISIONS
    upgrade(empty)
    assert upgrade(empty) == []
    assert current(empty) == head()
    assert pending(empty) == []


def test_workers_that_start_together_migrate_once(empty: sa.Engine) -> None:
    with ThreadPoolExecutor(6) as pool:
        runs = list(pool.map(lambda _: upgrade(empty), range(6)))
    assert sorted(runs) == [[]] * 5 + [REVISIONS]


def test_a_migration_that_fails_half_way_leaves_nothing(empty: sa.Engine) -> None:
    with begin_write(empty) as connection:
        connection.exec_driver_sql("CREATE TABLE event (seq INTEGER)")  # the last table that 0001 makes
    with pytest.raises(sa.exc.DBAPIError):
        upgrade(empty)
    assert current(empty) is None
    with empty.connect() as connection:
        assert sa.inspect(connection).get_table_names() == ["event"]


def test_a_database_of_a_newer_release_is_refused(empty: sa.Engine) -> None:
    upgrade(empty)
    with begin_write(empty) as connection:
        connection.exec_driver_sql("UPDATE alembic_version SET version_num = '9999'")
    with pytest.raises(Conflict, match="revision 9999, which this release does not know"):
        upgrade(empty)


def test_migrations_need_no_file_outside_the_package(tmp_path: Path) -> None:
    code = (
        "from pathlib import Path; from storage.catalog.engine import *; from storage.catalog.migrate import *;"
        "print(upgrade(open_engine('sqlite:///catalog.sqlite')))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, timeout=60, check=True
    )
    assert done.stdout.strip() == str(REVISIONS)
