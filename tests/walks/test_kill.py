"""A server that is killed again and again under load loses nothing that it acknowledged, and shows nothing half."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest

from server.settings import Settings
from storage.catalog.engine import database_url, open_engine
from tests.walks.crashing import POINTS
from tests.walks.kill import catalog_of, check_archive, deaths_in, reindexed, storm_over


def survive(tmp_path: Path, *, each: int, workers: int, database: str | None, seconds: float) -> None:
    """Kill a server `each` times at each point, and look at what is left."""
    data, notes = tmp_path / "data", tmp_path / "notes"
    told: dict[str, Any] = {"database": database} if database else {}
    give_up = time.monotonic() + seconds
    with storm_over(data, notes, each=each, workers=workers, settings=told) as (server, storm):
        while True:
            time.sleep(0.3)
            found = deaths_in(notes).by_point
            if all(found.get(point, 0) >= each for point in POINTS):
                break
            assert time.monotonic() < give_up, f"only {found} in {seconds} s\n{server.log.read_text()[-3000:]}"
            assert not storm.faults, storm.faults[:5]
        before = len(storm.acknowledged)
        while len(storm.acknowledged) < before + 20:  # what is left of it serves on
            time.sleep(0.1)
            assert time.monotonic() < give_up, "after the last death nothing is stored any more"
    assert not storm.faults, storm.faults[:5]
    assert storm.reads > 0
    deaths = deaths_in(notes)
    assert len(deaths.survivors) >= len(POINTS) * each
    if workers > 1:
        assert all(deaths.survivors), "the others go on"

    settings = Settings(data=data, **told)
    wrong = check_archive(settings, storm)
    assert not wrong, f"{len(wrong)} faults after {deaths.by_point}, the first: {wrong[:5]}"

    engine = open_engine(database_url(database, data))
    again = reindexed(settings, f"sqlite:///{tmp_path / 'again.sqlite'}")
    expected, made = catalog_of(engine), catalog_of(again)
    for table in expected:
        assert expected[table], table
        assert made[table] == expected[table], table
    engine.dispose()
    again.dispose()
    print(f"{deaths.by_point}: {len(storm.acknowledged)} acknowledged of {len(storm.sent)}, {storm.reads} reads")


@pytest.mark.timeout(300)
def test_a_dozen_kills_on_sqlite_lose_nothing(tmp_path: Path) -> None:
    survive(tmp_path, each=2, workers=1, database=None, seconds=240)


@pytest.mark.timeout(300)
@pytest.mark.postgres
def test_a_dozen_kills_of_one_of_two_workers_on_postgres_lose_nothing(tmp_path: Path, postgres_url: str) -> None:
    survive(tmp_path, each=2, workers=2, database=postgres_url, seconds=240)


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_two_hundred_kills_on_sqlite_lose_nothing(tmp_path: Path) -> None:
    survive(tmp_path, each=34, workers=1, database=None, seconds=1500)


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.postgres
def test_two_hundred_kills_of_one_of_two_workers_on_postgres_lose_nothing(tmp_path: Path, postgres_url: str) -> None:
    survive(tmp_path, each=34, workers=2, database=postgres_url, seconds=1500)
