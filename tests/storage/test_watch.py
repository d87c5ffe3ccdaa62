"""The watch sees every commit of others, whoever they are."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import sqlalchemy as sa

from storage.catalog import schema as t
from storage.catalog.engine import begin_write, open_engine
from storage.catalog.watch import watch


def add_facility(engine: sa.Engine, name: str) -> None:
    with begin_write(engine) as connection:
        connection.execute(t.facility.insert().values(id=name, name=name, issuer=name))


def test_a_commit_of_this_process_is_seen(sqlite_url: str) -> None:
    engine = open_engine(sqlite_url)
    watching = watch(engine)
    assert watching is not None
    before = watching.count()
    assert watching.count() == before
    with engine.connect() as connection:
        connection.execute(sa.select(t.facility)).all()
    assert watching.count() == before, "a read changes nothing"
    add_facility(engine, "north")
    after = watching.count()
    assert after != before
    assert watching.count() == after
    engine.dispose()


def test_a_commit_of_another_process_is_seen(sqlite_url: str) -> None:
    engine = open_engine(sqlite_url)
    watching = watch(engine)
    assert watching is not None
    before = watching.count()
    path = sqlite_url.removeprefix("sqlite:///")
    insert = "INSERT INTO facility (id, name, issuer) VALUES ('south', 'South', 'S')"
    code = f"import sqlite3; c = sqlite3.connect({path!r}); c.execute({insert!r}); c.commit()"
    subprocess.run([sys.executable, "-c", code], check=True)
    assert watching.count() != before
    engine.dispose()


def test_the_log_is_folded_back_when_the_engine_is_disposed_of(sqlite_url: str) -> None:
    engine = open_engine(sqlite_url)
    watching = watch(engine)
    assert watching is not None
    add_facility(engine, "north")
    watching.count()
    wal = Path(sqlite_url.removeprefix("sqlite:///") + "-wal")
    assert wal.exists()
    engine.dispose()
    assert not wal.exists()


def test_there_is_no_watch_over_what_has_no_cheap_count(postgres_url: str) -> None:
    engine = open_engine(postgres_url)
    assert watch(engine) is None
    engine.dispose()
