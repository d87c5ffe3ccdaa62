"""The queue of a PostgreSQL catalog keeps the contract, on any number of hosts."""

from __future__ import annotations

import itertools
import random
import signal
import threading
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

import pytest
import sqlalchemy as sa

from readingroom.clock import SetClock
from server.postgres_queue import PostgresQueue
from server.queue import Job, Policy
from server.worker import Jobs
from storage.catalog.clocks import DatabaseClock
from storage.catalog.engine import begin_write, open_engine
from storage.catalog.migrate import upgrade
from tests.conftest import absent
from tests.server.queue_contract import LEASE, QueueContract, World, enqueue, note, notes, wait_until
from tests.servers import Absent, Postgres, Start, postgres_to_start

type Started = tuple[Postgres, Start]

PATIENCE_SECONDS = 20


class PostgresWorld(World):
    """Hosts that share a database; time goes by when everything that it says has happened longer ago."""

    def __init__(self, url: str) -> None:
        self.engine = open_engine(url)

    def process(self) -> PostgresQueue:
        return PostgresQueue(self.engine, DatabaseClock(self.engine), lease=LEASE)

    def advance(self, span: timedelta) -> None:
        earlier = {"span": span}
        with begin_write(self.engine) as connection:
            connection.execute(
                sa.text("UPDATE procrastinate_workers SET last_heartbeat = last_heartbeat - :span"), earlier
            )
            connection.execute(
                sa.text(
                    "UPDATE procrastinate_jobs SET scheduled_at = scheduled_at - :span,"
                    " args = args || jsonb_build_object('since', (args->>'since')::timestamptz - :span)"
                ),
                earlier,
            )


@pytest.fixture
def world(postgres_url: str) -> Iterator[PostgresWorld]:
    world = PostgresWorld(postgres_url)
    yield world
    world.engine.dispose()


class TestPostgresQueue(QueueContract):
    """The contract, on PostgreSQL."""


def test_a_job_of_a_worker_that_was_pruned_is_not_stuck(world: PostgresWorld) -> None:
    queue, other = world.process(), world.process()
    done: list[Job] = []
    for each in (queue, other):
        each.on("note")(done.append)
    enqueue(queue, {})
    assert len(queue.claim()) == 1
    world.advance(LEASE * 2)
    with begin_write(world.engine) as connection:  # as procrastinate's own workers do when they start
        connection.exec_driver_sql("SELECT procrastinate_prune_stalled_workers_v1(30)")
    assert other.rescue() == 1
    assert other.drain() == 1


def test_what_a_worker_has_claimed_and_does_not_run_is_put_back(world: PostgresWorld) -> None:
    queue = world.process()
    queue.on("note")(lambda job: None)
    enqueue(queue, {"n": 1}, {"n": 2})
    kept, _lost = queue.claim(2)
    queue.keep([kept])
    assert [job.payload["n"] for job in queue.claim(2)] == [2]


def test_a_commit_elsewhere_wakes_who_listens(world: PostgresWorld) -> None:
    queue, other = world.process(), world.process()
    with queue.listening():
        assert queue.wake.wait(PATIENCE_SECONDS)  # it listens
        queue.wake.clear()
        enqueue(other, {})
        assert queue.wake.wait(PATIENCE_SECONDS)


def test_a_listener_whose_connection_was_cut_listens_again(world: PostgresWorld) -> None:
    queue = world.process()
    with queue.listening():
        assert queue.wake.wait(PATIENCE_SECONDS)
        queue.wake.clear()
        with world.engine.connect() as connection:
            connection.exec_driver_sql(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
                " WHERE datname = current_database() AND starts_with(query, 'LISTEN')"
            )
        assert queue.wake.wait(PATIENCE_SECONDS)


def test_who_enqueues_a_key_again_is_not_overtaken_by_the_job_that_waits(world: PostgresWorld) -> None:
    """What waits is not run before the transaction that enqueued it again has been committed."""
    queue = world.process()
    queue.on("note")(lambda job: None)
    enqueue(queue, {}, key="k")
    with begin_write(world.engine) as connection:
        queue.enqueue(connection, "note", {}, key="k")
        assert queue.claim() == []
    assert len(queue.claim()) == 1


def test_two_transactions_that_enqueue_one_key_at_once_leave_one_job(world: PostgresWorld) -> None:
    queue = world.process()
    first_is_in, first_may_end = threading.Event(), threading.Event()

    def first() -> None:
        with begin_write(world.engine) as connection:
            queue.enqueue(connection, "note", {"n": 1}, key="k")
            first_is_in.set()
            assert first_may_end.wait(PATIENCE_SECONDS)

    thread = threading.Thread(target=first)
    thread.start()
    assert first_is_in.wait(PATIENCE_SECONDS)
    second = threading.Thread(target=enqueue, args=(queue, {"n": 2}), kwargs={"key": "k"})
    second.start()
    first_may_end.set()
    thread.join(PATIENCE_SECONDS)
    second.join(PATIENCE_SECONDS)
    queue.on("note")(lambda job: None)
    assert [job.payload["n"] for job in queue.claim(5)] == [2]


@pytest.mark.parametrize("step", [timedelta(hours=2), timedelta(hours=-2)])
def test_a_host_whose_clock_is_wrong_takes_no_job_away_and_is_not_late(world: PostgresWorld, step: timedelta) -> None:
    wrong = SetClock(datetime.now(UTC) + step)
    queue, other = world.process(), PostgresQueue(world.engine, wrong, lease=LEASE)
    for each in (queue, other):
        each.on("note")(lambda job: None)
    enqueue(queue, {"n": 1})
    assert len(queue.claim()) == 1
    assert other.rescue() == 0
    enqueue(other, {"n": 2})
    enqueue(other, {"n": 3}, run_at=wrong.now() + timedelta(minutes=5))
    assert [job.payload["n"] for job in queue.claim(5)] == [2]
    world.advance(timedelta(minutes=5, seconds=1))
    assert [job.payload["n"] for job in queue.claim(5)] == [3]


@pytest.mark.slow
def test_a_database_that_goes_away_again_and_again_costs_no_job(world: PostgresWorld, postgres: Postgres) -> None:
    queue = PostgresQueue(world.engine, DatabaseClock(world.engine), lease=timedelta(seconds=5))
    url = world.engine.url.render_as_string(hide_password=False)

    @queue.on("note", Policy(attempts=2))
    def work(job: Job) -> None:
        time.sleep(0.01)
        with job.finishing() as connection:
            note(connection, f"{job.payload['n']:04}")

    jobs = Jobs(queue, threads=4)
    jobs.start()
    numbers = iter(range(10_000))
    told: list[int] = []
    for _ in range(5):
        until = time.monotonic() + 1
        while time.monotonic() < until:
            told.append(next(numbers))
            enqueue(queue, {"n": told[-1]})
        postgres.cut_off(url)
        time.sleep(0.5)
        postgres.let_in(url)
        world.engine.dispose()
    wait_until(lambda: not queue.entries(limit=1))
    assert jobs.stop() == 0
    assert notes(queue) == [f"{number:04}" for number in told]


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_a_database_that_crashes_under_load_and_starts_again_costs_no_job(crashing: Started) -> None:
    server, start = crashing
    told, doubtful, is_over = list[str](), list[str](), threading.Event()
    with start(signal.SIGINT):
        url = server.new_database()
        engine = open_engine(url)
        upgrade(engine)
        queue = PostgresQueue(engine, DatabaseClock(engine), lease=timedelta(seconds=5))

    @queue.on("note", Policy(attempts=2))
    def work(job: Job) -> None:
        time.sleep(0.01)
        with job.finishing() as connection:
            note(connection, job.payload["text"])

    def send() -> None:
        for number in itertools.count():
            if is_over.is_set():
                return
            text = f"{number:06}"
            try:
                enqueue(queue, {"text": text})
            except sa.exc.DBAPIError:
                doubtful.append(text)  # it may have been committed, and the answer was lost
                time.sleep(0.05)
            else:
                told.append(text)

    jobs, sender = Jobs(queue, threads=4), threading.Thread(target=send)
    jobs.start()
    sender.start()
    for _ in range(5):
        with start(signal.SIGQUIT):
            time.sleep(random.uniform(0.5, 2))
    with start(signal.SIGINT):
        is_over.set()
        sender.join()
        wait_until(lambda: not [one for one in queue.entries(limit=10) if one.state != "dead"])
        assert jobs.stop() == 0
        assert queue.entries() == []
        done = notes(queue)
        engine.dispose()
    assert len(told) > 100
    assert doubtful
    assert done == sorted({*told, *(set(done) & set(doubtful))})


@pytest.fixture
def crashing() -> Iterator[Started]:
    """A server of this test's own, to be started and ended."""
    try:
        with postgres_to_start() as found:
            yield found
    except Absent as error:
        absent(error)


def test_a_worker_that_leaves_is_no_more_among_the_workers(world: PostgresWorld) -> None:
    queue = world.process()
    queue.on("note")(lambda job: None)
    enqueue(queue, {})
    with queue.listening():
        assert queue.drain() == 1
    with world.engine.connect() as connection:
        assert connection.exec_driver_sql("SELECT count(*) FROM procrastinate_workers").scalar_one() == 0
