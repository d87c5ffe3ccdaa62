"""The queue of a SQLite catalog keeps the contract, whatever the clocks do."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import pytest
import sqlalchemy as sa

from readingroom.clock import SetClock, SystemClock
from server.queue import Job, Policy, Queue
from server.sqlite_queue import SqliteQueue
from server.worker import Jobs
from storage.catalog.engine import begin_write, is_outage, open_engine
from tests.server.queue_contract import LEASE, QueueContract, World, enqueue, note, notes, wait_until


class SqliteWorld(World):
    """Processes of one machine: they share its clocks and a file."""

    def __init__(self, url: str) -> None:
        self.engine = open_engine(url)
        self.clock = SetClock()
        self.monotonic = 1000.0

    def process(self) -> SqliteQueue:
        return SqliteQueue(self.engine, self.clock, lease=LEASE, monotonic=lambda: self.monotonic)

    def advance(self, span: timedelta) -> None:
        self.clock.advance(span)
        self.monotonic += span.total_seconds()


@pytest.fixture
def world(sqlite_url: str) -> Iterator[SqliteWorld]:
    world = SqliteWorld(sqlite_url)
    yield world
    world.engine.dispose()


class TestSqliteQueue(QueueContract):
    """The contract, on SQLite."""


def test_who_enqueues_within_a_write_of_its_own_by_another_transaction_fails_at_once(world: SqliteWorld) -> None:
    queue = world.process()
    queue.on("note")(lambda job: None)
    with begin_write(world.engine) as connection:
        queue.enqueue(connection, "note", {})
        with pytest.raises(RuntimeError, match="writes already"):
            enqueue(queue, {})
    assert queue.drain() == 1


def test_who_enqueues_while_another_process_never_ends_its_write_fails_in_time(
    world: SqliteWorld, sqlite_url: str
) -> None:
    queue = world.process()
    elsewhere = open_engine(sqlite_url)
    with world.engine.connect() as connection:
        connection.exec_driver_sql("PRAGMA busy_timeout = 50")
    with begin_write(elsewhere), pytest.raises(sa.exc.OperationalError) as failed:
        enqueue(queue, {})
    assert is_outage(failed.value)
    enqueue(queue, {})
    assert len(queue.entries()) == 1
    elsewhere.dispose()


def test_a_full_disk_costs_no_job_and_all_go_on_in_the_same_process_once_it_is_freed(
    world: SqliteWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("server.queue._OUTAGE_WAIT", timedelta(milliseconds=20))
    most_pages, refused, text = [1 << 30], threading.Event(), "x" * 10_000

    @sa.event.listens_for(world.engine, "checkout")
    def limit(connection: Any, *_: object) -> None:
        connection.execute(f"PRAGMA max_page_count = {most_pages[0]}")

    queue = SqliteQueue(world.engine, SystemClock(), lease=timedelta(seconds=1))

    @queue.on("note", Policy(attempts=1))
    def work(job: Job) -> None:
        try:
            with job.finishing() as connection:
                note(connection, f"{job.payload['n']} {text}")
        except sa.exc.OperationalError:
            refused.set()
            raise

    enqueue(queue, *({"n": number} for number in range(20)))
    most_pages[0] = 1  # SQLite takes it for the pages that there are: not one more
    jobs = Jobs(queue, threads=2)
    jobs.start()
    assert refused.wait(20)
    with pytest.raises(sa.exc.OperationalError, match="full"):
        enqueue(queue, {"n": 99, "text": "y" * 100_000})
    most_pages[0] = 1 << 30
    wait_until(lambda: not queue.entries())
    assert jobs.stop() == 0
    assert len(notes(queue)) == 20


@pytest.mark.parametrize("step", [timedelta(hours=2), timedelta(hours=-2)])
def test_a_step_of_the_wall_clock_takes_no_job_away(world: SqliteWorld, step: timedelta) -> None:
    queue, other = world.process(), world.process()
    for each in (queue, other):
        each.on("note")(lambda job: None)
    enqueue(queue, {})
    assert len(queue.claim()) == 1
    world.clock.advance(step)
    assert other.rescue() == 0
    world.advance(LEASE + timedelta(seconds=1))
    assert other.rescue() == 1


def test_a_lease_from_before_the_machine_was_started_again_is_over(world: SqliteWorld) -> None:
    queue: Queue = world.process()
    queue.on("note")(lambda job: None)
    enqueue(queue, {})
    assert len(queue.claim()) == 1
    world.monotonic = 20.0
    assert queue.rescue() == 1
    assert queue.drain() == 1
