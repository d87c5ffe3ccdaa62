"""The directory that is kept in memory: read anew where something has changed, by whomever, and only then."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, date, datetime

import pytest
import sqlalchemy as sa

from storage.catalog import directory as catalog
from storage.catalog.directory import LatestDirectory, deactivate, read_directory, write_facility, write_reader
from storage.catalog.engine import begin_write
from storage.catalog.studies import ensure_facility
from tests.directory import facility, reader

NOW = datetime(2026, 1, 5, tzinfo=UTC)
CONTRACT = {"from": date(2026, 1, 1), "classes": [{"study_type": "stat", "due": "1h"}]}

type Change = Callable[[sa.Connection], object]

CHANGES: dict[str, Change] = {
    "a new facility": lambda connection: write_facility(connection, facility("north"), NOW),
    "another name": lambda connection: write_facility(connection, facility("mercy", name="Mercy West"), NOW),
    "a contract": lambda connection: write_facility(connection, facility("mercy", contracts=[CONTRACT]), NOW),
    "a new reader": lambda connection: write_reader(connection, reader("ben")),
    "another shift": lambda connection: write_reader(connection, reader("ada", shifts=[])),
    "a licence less": lambda connection: write_reader(connection, reader("ada", licences=[])),
    "a reader who is gone": lambda connection: deactivate(connection, readers=["ada"]),
    "a facility that is gone": lambda connection: deactivate(connection, facilities=["mercy"]),
}


@pytest.fixture
def filled(engine: sa.Engine) -> sa.Engine:
    """Mercy, and Ada who reads there."""
    with begin_write(engine) as connection:
        write_facility(connection, facility(), NOW)
        write_reader(connection, reader())
    return engine


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_a_change_is_seen_at_once(filled: sa.Engine, change: Change) -> None:
    latest = LatestDirectory(filled)
    before = latest.read()
    with begin_write(filled) as connection:
        change(connection)
    after = latest.read()
    assert after != before
    with filled.connect() as connection:
        assert after == read_directory(connection)


def test_what_another_process_changes_is_seen_too(filled: sa.Engine) -> None:
    latest = LatestDirectory(filled)
    assert latest.read().readers["ada"].shifts
    other = sa.create_engine(filled.url, isolation_level="AUTOCOMMIT")
    try:
        with other.connect() as connection:
            write_reader(connection, reader(shifts=[]))
    finally:
        other.dispose()
    assert not latest.read().readers["ada"].shifts


def test_nothing_is_read_again_that_has_not_changed(filled: sa.Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    latest = LatestDirectory(filled)
    first = latest.read()
    monkeypatch.setattr(catalog, "read_directory", None)
    assert latest.read() is first


def test_what_is_taken_back_was_never_seen(filled: sa.Engine) -> None:
    latest = LatestDirectory(filled)
    with suppress(ZeroDivisionError), begin_write(filled) as connection:
        write_reader(connection, reader("ada", name="Ada the Wrong"))
        assert latest.read().readers["ada"].name == "Ada"
        raise ZeroDivisionError
    with begin_write(filled) as connection:
        write_reader(connection, reader("ada", name="Ada the Right"))
    assert latest.read().readers["ada"].name == "Ada the Right"


def test_an_empty_directory_is_read_and_a_facility_of_studies_alone_is_none(engine: sa.Engine) -> None:
    latest = LatestDirectory(engine)
    assert not latest.read().readers
    with begin_write(engine) as connection:
        ensure_facility(connection, "south")
    assert not latest.read().facilities
