"""The migrations and schema.py say the same."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import orjson
import pytest
import sqlalchemy as sa
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory

from readingroom.errors import Conflict
from storage.catalog import migrate, schema
from storage.catalog.engine import begin_write, open_engine
from storage.catalog.ids import study_fhir_id
from storage.catalog.keys import KEYS
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


def is_ours(_object: object, name: str | None, *_: object) -> bool:
    """Leaves out what procrastinate makes of its own."""
    return not (name or "").startswith("procrastinate")


def test_a_migrated_database_is_what_schema_says(empty: sa.Engine) -> None:
    assert upgrade(empty) == REVISIONS
    with empty.connect() as connection:
        options = {"compare_server_default": True, "include_object": is_ours}
        context = MigrationContext.configure(connection, opts=options)
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


def test_names_and_requests_keep_their_values_and_what_is_new_is_to_be_listed(empty: sa.Engine) -> None:
    with begin_write(empty) as connection:
        command.upgrade(migrate._config(connection), "0003")
        for line in (
            "INSERT INTO facility (id, name, issuer) VALUES ('f', 'f', 'f')",
            "INSERT INTO patient (id, issuer, version, received_at) VALUES ('p', 'f', 1, '2026-01-01')",
            "INSERT INTO study (id, owner_facility, study_uid, patient, study_date, modalities, sop_classes,"
            " series_count, instance_count, size_bytes, row, extra, version, received_at, updated_at)"
            " VALUES ('s', 'f', '1.2', 'p', '', '', '', 1, 1, 1, '', '', 1, '2026-01-01', '2026-01-01')",
            "INSERT INTO series (id, study, series_uid, place, instance_count, row, extra, version, received_at)"
            " VALUES ('e', 's', '1.3', 's/1', 1, '', '', 1, '2026-01-01')",
            "INSERT INTO study_name VALUES ('s', '00100010', 0, 'doe^jane'), ('s', '00100010', 1, '山田')",
            "INSERT INTO series_request VALUES ('e', 0, 'S1', NULL, NULL), ('e', 26, 'S2', 'R2', 'A2')",
        ):
            connection.exec_driver_sql(line)
    upgrade(empty)
    with empty.connect() as connection:
        assert sorted(connection.execute(sa.select(schema.study_value)).all()) == [
            ("00100010", "doe^jane", "s", "", 0),
            ("00100010", "山田", "s", "", 1),
        ]
        assert sorted(connection.execute(sa.select(schema.series_value)).all()) == [
            ("00400275.00080050", "A2", "e", "001a", 0),
            ("00400275.00400009", "S1", "e", "0000", 0),
            ("00400275.00400009", "S2", "e", "001a", 0),
            ("00400275.00401001", "R2", "e", "001a", 0),
        ]
        rows = connection.execute(sa.select(schema.search_key)).all()
    # Of instances there are none yet, so there is nothing to list of them.
    listed = {key.name: (key.level, key.vr) for key in KEYS.values() if key.is_listed and key.level != "instance"}
    moved = {"00400275.00080050", "00400275.00400009", "00400275.00401001"}
    assert {row.name: (row.level, row.vr) for row in rows} == {
        name: kind for name, kind in listed.items() if name not in moved
    }
    assert {(row.state, row.reached, row.done) for row in rows} == {("listing", "", 0)}
    assert {row.total for row in rows} == {1}


def test_an_empty_catalog_has_nothing_to_list(empty: sa.Engine) -> None:
    upgrade(empty)
    with empty.connect() as connection:
        assert connection.execute(sa.select(schema.search_key)).all() == []


def test_tables_of_the_queue_are_brought_to_a_later_release_of_their_maker(
    empty: sa.Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if empty.dialect.name == "sqlite":
        pytest.skip("SQLite has a table of ours")
    import procrastinate
    from procrastinate.schema import SchemaManager

    from storage.catalog.jobtables import install

    upgrade(empty)
    for name, script in (
        ("03.09.00_01_pre_before.sql", "CREATE TABLE procrastinate_before ()"),
        ("99.02.00_01_pre_second.sql", "ALTER TABLE procrastinate_first ADD rate text DEFAULT '50 %'"),
        ("99.01.00_50_post_first.sql", "CREATE TABLE procrastinate_first ()"),
    ):
        (tmp_path / name).write_text(script)
    monkeypatch.setattr(SchemaManager, "get_migrations_path", lambda: str(tmp_path))
    monkeypatch.setattr(procrastinate, "__version__", "99.2.0")
    for _ in range(2):  # the second time there is nothing to do
        with begin_write(empty) as connection:
            install(connection)
    with empty.connect() as connection:
        names = sa.inspect(connection).get_table_names()
    assert "procrastinate_first" in names
    assert "procrastinate_before" not in names


def test_the_queue_is_of_the_release_of_procrastinate_that_is_installed(postgres_url: str) -> None:
    import procrastinate

    engine = open_engine(postgres_url)
    with engine.connect() as connection:
        said = connection.execute(sa.text("SELECT obj_description('procrastinate_jobs'::regclass)")).scalar_one()
    engine.dispose()
    assert said == f"procrastinate {procrastinate.__version__}"


def test_studies_and_patients_that_are_there_get_their_ids_and_names(empty: sa.Engine) -> None:
    with begin_write(empty) as connection:
        command.upgrade(migrate._config(connection), "0014")
        facility, patient, study = schema.facility, schema.patient, schema.study
        at = datetime(2026, 1, 1, tzinfo=UTC)
        connection.execute(sa.insert(facility).values(id="f", name="f", issuer="f"))
        known = {"version": 1, "received_at": at}
        connection.execute(sa.insert(patient).values(id="p", issuer="f", patient_id="P1", **known))
        name = {"vr": "PN", "Value": [{"Alphabetic": "Doe^Jane"}]}
        counts = {"series_count": 1, "instance_count": 1, "size_bytes": 1, "modalities": "", "sop_classes": ""}
        row = orjson.dumps({"00100010": name, "0020000D": {"vr": "UI", "Value": ["1.2"]}})
        told = {"owner_facility": "f", "study_uid": "1.2", "patient": "p", "study_date": "", "updated_at": at}
        connection.execute(sa.insert(study).values(id="s", row=row, extra=b"{}", **told, **counts, **known))
    upgrade(empty)
    with empty.connect() as connection:
        assert connection.execute(sa.select(study.c.fhir_id)).scalar_one() == study_fhir_id("f", "1.2")
        named = connection.execute(sa.select(patient)).one()
    assert orjson.loads(named.header) == {"00100010": name}
    assert named.updated_at == at


def test_the_revisions_are_those_that_alembic_finds(engine: sa.Engine) -> None:
    with engine.connect() as connection:
        walked = ScriptDirectory.from_config(migrate._config(connection)).walk_revisions()
    assert migrate.head() == migrate._known()[-1]
    assert migrate._known() == [script.revision for script in walked][::-1]
