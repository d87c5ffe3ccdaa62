"""The queue of a SQLite catalog keeps the contract, whatever the clocks do."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta

import pytest

from readingroom.clock import SetClock
from server.queue import Queue
from server.sqlite_queue import SqliteQueue
from storage.catalog.engine import open_engine
from tests.server.queue_contract import LEASE, QueueContract, World, enqueue


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
