"""Side records and the transactions that they tell of: both, or neither, whatever happens in between."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from datetime import timedelta
from pathlib import Path

import pytest
import sqlalchemy as sa

from readingroom.clock import SetClock
from readingroom.errors import Invalid, Unavailable
from storage.blobs import Blobs, LocalBlobs
from storage.catalog import schema as t
from storage.catalog.engine import begin_write
from storage.catalog.studies import ensure_facility
from storage.sidecars import (
    PATIENCE,
    announced,
    begin_recorded,
    iter_records,
    records_folder,
    withdraw_expired,
    write_record,
)


@pytest.fixture
def blobs(tmp_path: Path) -> Blobs:
    return LocalBlobs(tmp_path / "store")


def facilities(engine: sa.Engine) -> list[str]:
    with engine.connect() as connection:
        return list(connection.execute(sa.select(t.facility.c.id)).scalars())


def is_tidy(engine: sa.Engine) -> bool:
    with engine.connect() as connection:
        return connection.execute(sa.select(t.side_record.c.id)).first() is None


def test_a_record_and_its_transaction_come_together(engine: sa.Engine, blobs: Blobs, clock: SetClock) -> None:
    with begin_recorded(engine, blobs, "north", "1.2.3", clock=clock) as (connection, record):
        ensure_facility(connection, "north")
        record.write(connection, "note", {"text": "first"})
    assert facilities(engine) == ["north"]
    ((key, told),) = iter_records(blobs)
    assert key.startswith(records_folder("north", "1.2.3"))
    assert told == {"type": "note", "at": clock.now().isoformat(timespec="microseconds"), "text": "first"}
    assert is_tidy(engine)
    assert withdraw_expired(engine, blobs, now=clock.now() + 2 * PATIENCE) == 0
    assert list(blobs.keys("s/")) == [key]


def fail_after_the_record(engine: sa.Engine, blobs: Blobs, clock: SetClock) -> None:
    with begin_recorded(engine, blobs, "north", "1.2.3", clock=clock) as (connection, record):
        ensure_facility(connection, "north")
        record.write(connection, "note", {})
        raise ZeroDivisionError


def test_a_transaction_that_fails_leaves_no_record(engine: sa.Engine, blobs: Blobs, clock: SetClock) -> None:
    with pytest.raises(ZeroDivisionError):
        fail_after_the_record(engine, blobs, clock)
    assert facilities(engine) == []
    assert list(blobs.keys("s/")) == []
    assert is_tidy(engine)


def test_a_record_that_was_announced_and_not_written_leaves_nothing(
    engine: sa.Engine, blobs: Blobs, clock: SetClock
) -> None:
    studies = [("north", "1.2.3"), ("north", "1.2.4")]
    with announced(engine, blobs, studies, clock=clock) as records, begin_write(engine) as connection:
        records.take("north", "1.2.4").write(connection, "note", {})
    assert [key.rpartition("/")[0] for key in blobs.keys("s/")] == [records_folder("north", "1.2.4")]
    assert is_tidy(engine)


def take_too_long(engine: sa.Engine, blobs: Blobs, clock: SetClock) -> None:
    with announced(engine, blobs, [("north", "1.2.3")], clock=clock) as records:
        assert withdraw_expired(engine, blobs, now=clock.now() + PATIENCE - timedelta(seconds=1)) == 0
        assert withdraw_expired(engine, blobs, now=clock.now() + PATIENCE) == 1
        with begin_write(engine) as connection:
            ensure_facility(connection, "north")
            records.take("north", "1.2.3").write(connection, "note", {})


def test_a_transaction_that_took_too_long_does_not_commit(engine: sa.Engine, blobs: Blobs, clock: SetClock) -> None:
    with pytest.raises(Unavailable, match="took too long"):
        take_too_long(engine, blobs, clock)
    assert facilities(engine) == []
    assert list(blobs.keys("s/")) == []
    assert is_tidy(engine)


_DIE = """
import os, signal, sys
from pathlib import Path
from readingroom.clock import SetClock
from storage import sidecars
from storage.blobs import LocalBlobs
from storage.catalog.engine import open_engine
from storage.catalog.studies import ensure_facility

engine, blobs = open_engine(sys.argv[1]), LocalBlobs(Path(sys.argv[2]))
with sidecars.begin_recorded(engine, blobs, "north", "1.2.3", clock=SetClock()) as (connection, record):
    ensure_facility(connection, "north")
    record.write(connection, "note", {})
    os.kill(os.getpid(), signal.SIGKILL)
"""


def test_a_kill_between_record_and_commit_leaves_neither(engine: sa.Engine, tmp_path: Path, clock: SetClock) -> None:
    url = engine.url.render_as_string(hide_password=False)
    done = subprocess.run([sys.executable, "-c", _DIE, url, str(tmp_path / "store")], timeout=60, env=os.environ)
    assert done.returncode == -signal.SIGKILL
    blobs = LocalBlobs(tmp_path / "store")
    assert len(list(iter_records(blobs))) == 1
    assert withdraw_expired(engine, blobs, now=clock.now(), patience=timedelta()) == 1
    assert facilities(engine) == []
    assert list(blobs.keys("s/")) == []
    assert is_tidy(engine)


def test_what_is_no_record_is_told(blobs: Blobs, clock: SetClock) -> None:
    folder = records_folder("north", "1.2.3")
    write_record(blobs, f"{folder}/1.json", "note", clock.now(), {})
    for name, content in {
        "2": b"no json",
        "3": b"[]",
        "4": b'{"type": "note"}',
        "5": b'{"type": "n", "at": "x"}',
    }.items():
        blobs.put(f"{folder}/{name}.json", content)
    blobs.put("s/ab/cd/abcd/zarr.json", b"{}")
    found = {key.rpartition("/")[2]: told for key, told in iter_records(blobs)}
    assert set(found) == {"1.json", "2.json", "3.json", "4.json", "5.json"}
    assert [name for name, told in sorted(found.items()) if isinstance(told, Invalid)] == [
        "2.json",
        "3.json",
        "4.json",
        "5.json",
    ]
