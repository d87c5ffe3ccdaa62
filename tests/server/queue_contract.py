"""What every queue promises, as a test class; each adapter's test file runs it in its own `World`."""

from __future__ import annotations

import os
import random
import signal
import sys
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from readingroom.errors import Conflict, GiveUp, NotFound, RetryLater
from server.queue import Job, NotBegun, Overtaken, Policy, Queue
from server.worker import Jobs
from storage.catalog import schema as t
from storage.catalog.engine import begin_write
from tests.servers import environment, running

LEASE = timedelta(seconds=30)
PATIENCE_SECONDS = 120


class World(ABC):
    """A catalog, and any number of processes that have its queue open."""

    engine: sa.Engine

    @abstractmethod
    def process(self) -> Queue:
        """The queue as one more process has it."""

    @abstractmethod
    def advance(self, span: timedelta) -> None:
        """Let time go by, for all of them."""


def enqueue(queue: Queue, *payloads: Mapping[str, Any], kind: str = "note", **options: Any) -> None:
    with begin_write(queue.engine) as connection:
        for payload in payloads:
            queue.enqueue(connection, kind, payload, **options)


def count(queue: Queue, state: str) -> int:
    return sum(tally.count for tally in queue.tallies() if tally.state == state)


def note(connection: sa.Connection, text: str) -> None:
    """A local effect: a row that can be written any number of times."""
    connection.execute(t.facility.insert().values(id=t.new_id(), name=text, issuer="note"))


def notes(queue: Queue) -> list[str]:
    with queue.engine.connect() as connection:
        found = sa.select(t.facility.c.name).where(t.facility.c.issuer == "note").order_by(t.facility.c.name)
        return list(connection.execute(found).scalars())


def wait_until(is_so: Callable[[], object], seconds: float = PATIENCE_SECONDS) -> None:
    give_up = time.monotonic() + seconds
    while not is_so():
        assert time.monotonic() < give_up
        time.sleep(0.05)


@contextmanager
def workers(world: World, folder: Path, *, kills: int) -> Iterator[None]:
    """Two workers in processes of their own, of which so many are killed; see `tests.server.queue_process`."""
    url = world.engine.url.render_as_string(hide_password=False)
    command = [sys.executable, "-m", "tests.server.queue_process", url, str(kills), str(folder)]
    with running(command, log=folder / "workers.log", is_ready=lambda: True, env=environment()):
        yield


class QueueContract:
    """Subclass it and give a fixture `world`."""

    @pytest.fixture
    def queue(self, world: World) -> Queue:
        return world.process()

    @pytest.fixture
    def seen(self, queue: Queue) -> list[Job]:
        """The jobs of kind ``note`` that were run, as their handler saw them."""
        seen: list[Job] = []
        queue.on("note")(seen.append)
        return seen

    # -- enqueuing

    def test_a_job_is_run_once_with_what_it_was_given(self, queue: Queue, seen: list[Job]) -> None:
        payload = {"study_uid": "1.2.3", "text": "nul \0, é, \U0001f600", "numbers": [1, 2.5, None, True]}
        enqueue(queue, payload, lane="a", priority=3)
        assert queue.drain() == 1
        assert queue.drain() == 0
        (job,) = seen
        assert job.payload == payload
        assert (job.kind, job.lane, job.priority, job.attempt) == ("note", "a", 3, 1)
        assert queue.entries() == []

    def test_a_job_of_a_transaction_that_is_rolled_back_never_was(self, queue: Queue, seen: list[Job]) -> None:
        def fail_late(connection: sa.Connection) -> None:
            queue.enqueue(connection, "note", {})
            raise ZeroDivisionError

        with pytest.raises(ZeroDivisionError), begin_write(queue.engine) as connection:
            fail_late(connection)
        assert queue.drain() == 0
        assert not queue.wake.is_set()

    def test_a_commit_wakes_the_worker(self, queue: Queue) -> None:
        with begin_write(queue.engine) as connection:
            queue.enqueue(connection, "note", {})
            assert not queue.wake.is_set()
        assert queue.wake.is_set()

    def test_who_enqueues_beside_a_write_that_goes_on_waits_no_longer_than_it_lasts(
        self, world: World, queue: Queue, seen: list[Job]
    ) -> None:
        other = world.process()
        with ThreadPoolExecutor(1) as pool:
            with begin_write(queue.engine) as connection:
                queue.enqueue(connection, "note", {"n": 1})
                beside = pool.submit(enqueue, other, {"n": 2})
            beside.result(PATIENCE_SECONDS)
        assert queue.drain() == 2

    def test_enqueuing_outside_of_a_transaction_is_refused(self, queue: Queue) -> None:
        with queue.engine.connect() as connection, pytest.raises(RuntimeError, match="begin_write"):
            queue.enqueue(connection, "note", {})

    def test_the_higher_priority_goes_first_and_else_the_older(self, queue: Queue, seen: list[Job]) -> None:
        enqueue(queue, {"n": 1}, {"n": 2})
        enqueue(queue, {"n": 3}, priority=5)
        enqueue(queue, {"n": 4}, priority=-1)
        queue.drain()
        assert [job.payload["n"] for job in seen] == [3, 1, 2, 4]

    def test_a_job_waits_for_its_time(self, world: World, queue: Queue, seen: list[Job]) -> None:
        enqueue(queue, {}, run_at=queue.clock.now() + timedelta(minutes=5))
        assert queue.drain() == 0
        world.advance(timedelta(minutes=5, seconds=1))
        assert queue.drain() == 1

    def test_jobs_of_a_kind_without_a_handler_wait_for_one(self, world: World, queue: Queue, seen: list[Job]) -> None:
        enqueue(queue, {}, kind="of-tomorrow")
        enqueue(queue, {})
        assert queue.drain() == 1
        newer = world.process()
        done: list[Job] = []
        newer.on("of-tomorrow")(done.append)
        assert newer.drain() == 1
        assert [job.kind for job in done] == ["of-tomorrow"]

    def test_a_worker_may_take_jobs_of_some_kinds_only(self, queue: Queue, seen: list[Job]) -> None:
        queue.on("other")(seen.append)
        enqueue(queue, {})
        enqueue(queue, {}, kind="other")
        assert [job.kind for job in queue.claim(10, ["other", "unknown"])] == ["other"]

    @pytest.mark.parametrize("kind", ["", "has space", "1st", "x" * 41, "drop'table"])
    def test_a_kind_is_a_short_word(self, queue: Queue, kind: str) -> None:
        with pytest.raises(ValueError, match="is no kind of job"):
            queue.on(kind)

    # -- keys

    def test_jobs_with_one_key_wait_as_one(self, world: World, queue: Queue, seen: list[Job]) -> None:
        later = queue.clock.now() + timedelta(minutes=1)
        enqueue(queue, {"n": 1}, key="k", run_at=later)
        enqueue(queue, {"n": 2}, key="k", run_at=later + timedelta(minutes=1), priority=7)
        assert queue.drain() == 0
        world.advance(timedelta(minutes=1, seconds=1))
        assert queue.drain() == 1
        assert [(job.payload["n"], job.priority) for job in seen] == [(2, 7)]

    def test_a_job_that_is_enqueued_again_sooner_is_run_sooner(self, queue: Queue, seen: list[Job]) -> None:
        enqueue(queue, {"n": 1}, key="k", run_at=queue.clock.now() + timedelta(minutes=1), priority=7)
        enqueue(queue, {"n": 2}, key="k")
        assert queue.drain() == 1
        assert [(job.payload["n"], job.priority) for job in seen] == [(2, 7)]

    def test_a_running_job_is_not_the_one_that_waits(self, queue: Queue, seen: list[Job]) -> None:
        enqueue(queue, {"n": 1}, key="k")
        (running,) = queue.claim()
        enqueue(queue, {"n": 2}, key="k")
        queue.run(running)
        assert queue.drain() == 1
        assert [job.payload["n"] for job in seen] == [1, 2]

    def test_a_failed_job_gives_way_to_the_one_with_its_key_that_waits(self, queue: Queue) -> None:
        tried: list[int] = []

        @queue.on("note")
        def fail(job: Job) -> None:
            tried.append(job.payload["n"])
            if job.payload["n"] == 1:
                enqueue(queue, {"n": 2}, key="k")
                raise ValueError

        enqueue(queue, {"n": 1}, key="k")
        assert queue.drain() == 2
        assert tried == [1, 2]
        assert queue.entries() == []

    # -- lanes

    def test_in_a_lane_one_job_runs_at_a_time_in_order(self, world: World, queue: Queue, seen: list[Job]) -> None:
        other = world.process()
        other.on("note")(seen.append)
        enqueue(queue, {"n": 1}, {"n": 2}, lane="study 1")
        enqueue(queue, {"n": 3}, lane="study 2")
        first = queue.claim(10)
        assert [job.payload["n"] for job in first] == [1, 3]
        assert other.claim(10) == []
        queue.run(first[0])
        assert [job.payload["n"] for job in other.claim(10)] == [2]

    def test_a_job_that_waits_to_be_tried_again_holds_its_lane(self, world: World, queue: Queue) -> None:
        tried: list[tuple[int, int]] = []

        @queue.on("note")
        def fail_once(job: Job) -> None:
            tried.append((job.payload["n"], job.attempt))
            if (job.payload["n"], job.attempt) == (1, 1):
                raise RetryLater(after=timedelta(seconds=10))

        enqueue(queue, {"n": 1}, {"n": 2}, lane="a")
        enqueue(queue, {"n": 3})
        queue.drain()
        assert tried == [(1, 1), (3, 1)]
        world.advance(timedelta(seconds=11))
        queue.drain()
        assert tried == [(1, 1), (3, 1), (1, 2), (2, 1)]

    # -- failing

    def test_a_failed_job_is_tried_again_with_growing_waits_and_the_same_delivery(
        self, world: World, queue: Queue
    ) -> None:
        deliveries: list[tuple[int, str]] = []

        @queue.on("note", Policy(attempts=4, first=timedelta(minutes=8), most=timedelta(minutes=20)))
        def fail(job: Job) -> None:
            deliveries.append((job.attempt, job.delivery))
            raise KeyError("Doe^Jane")

        enqueue(queue, {})
        for at_least, at_most in ((4, 8), (8, 16), (10, 20)):
            assert queue.drain() == 1
            world.advance(timedelta(minutes=at_least - 1))
            assert queue.drain() == 0
            world.advance(timedelta(minutes=at_most - at_least + 2))
        assert queue.drain() == 1
        assert [attempt for attempt, _ in deliveries] == [1, 2, 3, 4]
        assert len({delivery for _, delivery in deliveries}) == 1
        (dead,) = queue.entries(state="dead")
        assert (dead.attempt, dead.delivery) == (4, deliveries[0][1])
        assert dead.error is not None
        assert dead.error.startswith("KeyError at queue_contract.py:")  # and nothing of what it held
        world.advance(timedelta(days=1))
        assert queue.drain() == 0

    def test_a_handler_may_say_when_to_try_again(self, world: World, queue: Queue) -> None:
        tried: list[int] = []

        @queue.on("note")
        def busy(job: Job) -> None:
            tried.append(job.attempt)
            if job.attempt == 1:
                raise RetryLater("The receiver is busy.", after=timedelta(hours=2))

        enqueue(queue, {})
        queue.drain()
        (waiting,) = queue.entries(state="queued")
        assert waiting.error == "The receiver is busy."
        world.advance(timedelta(hours=2) - timedelta(minutes=1))
        assert queue.drain() == 0
        world.advance(timedelta(minutes=2))
        assert queue.drain() == 1
        assert tried == [1, 2]

    def test_what_was_not_begun_costs_no_attempt(self, world: World, queue: Queue) -> None:
        tried: list[int] = []

        @queue.on("note", Policy(attempts=2))
        def busy(job: Job) -> None:
            tried.append(job.attempt)
            if len(tried) < 5:
                raise NotBegun("It is busy.", after=timedelta(seconds=5))
            raise ValueError

        enqueue(queue, {})
        for _ in range(8):
            queue.drain()
            world.advance(timedelta(seconds=6))
        assert tried == [1, 1, 1, 1, 1, 2]
        assert count(queue, "dead") == 1

    def test_a_handler_may_give_up_at_once(self, queue: Queue) -> None:
        @queue.on("note")
        def hopeless(job: Job) -> None:
            raise GiveUp("No such receiver.")

        enqueue(queue, {})
        assert queue.drain() == 1
        assert [dead.error for dead in queue.entries(state="dead")] == ["No such receiver."]

    def test_a_handler_that_would_end_the_thread_only_fails(self, queue: Queue) -> None:
        @queue.on("note")
        def leave(job: Job) -> None:
            raise SystemExit

        enqueue(queue, {})
        assert queue.drain() == 1
        assert count(queue, "queued") == 1

    def test_a_receiver_that_is_down_too_long_leaves_a_dead_letter_that_can_be_sent(
        self, world: World, queue: Queue
    ) -> None:
        is_up = False
        had: list[str] = []

        @queue.on("send", Policy(attempts=1000, within=timedelta(hours=24)))
        def send(job: Job) -> None:
            had.append(job.delivery)
            if not is_up:
                raise RetryLater("The receiver does not answer.", after=timedelta(hours=1))

        enqueue(queue, {}, kind="send")
        for _ in range(24):
            assert queue.drain() == 1
            assert count(queue, "dead") == 0
            world.advance(timedelta(hours=1, seconds=1))
        assert queue.drain() == 1
        (dead,) = queue.entries(state="dead")
        is_up = True
        queue.retry(dead.id)
        assert queue.drain() == 1
        assert queue.entries() == []
        assert len(had) == 26
        assert set(had) == {dead.delivery}

    # -- finishing

    def test_effects_and_the_end_of_the_job_are_committed_together(self, queue: Queue, seen: list[Job]) -> None:
        @queue.on("work")
        def work(job: Job) -> None:
            with job.finishing() as connection:
                note(connection, "done")
                queue.enqueue(connection, "note", {"after": job.delivery})

        enqueue(queue, {}, kind="work")
        assert queue.drain() == 2
        assert notes(queue) == ["done"]
        assert queue.entries() == []

    def test_what_fails_while_it_finishes_leaves_no_effect(self, world: World, queue: Queue) -> None:
        @queue.on("work")
        def work(job: Job) -> None:
            with job.finishing() as connection:
                note(connection, f"attempt {job.attempt}")
                if job.attempt == 1:
                    raise ValueError

        enqueue(queue, {}, kind="work")
        queue.drain()
        world.advance(timedelta(minutes=1))
        queue.drain()
        assert notes(queue) == ["attempt 2"]

    def test_a_job_is_finished_once(self, queue: Queue) -> None:
        refused: list[Exception] = []

        @queue.on("work")
        def work(job: Job) -> None:
            for _ in range(2):
                try:
                    with job.finishing() as connection:
                        note(connection, "done")
                except Overtaken as error:
                    refused.append(error)
            raise ValueError("after it was done")

        enqueue(queue, {}, kind="work")
        assert queue.drain() == 1
        assert (notes(queue), len(refused), queue.entries()) == (["done"], 1, [])

    # -- workers that die

    def test_what_a_dead_worker_ran_is_taken_over_when_its_lease_has_run_out(self, world: World, queue: Queue) -> None:
        done: list[Job] = []
        survivor = world.process()
        for each in (queue, survivor):
            each.on("note")(done.append)
        enqueue(queue, {"n": 1}, {"n": 2}, lane="a")
        (lost,) = queue.claim()
        world.advance(LEASE / 2)
        assert survivor.rescue() == 0
        assert survivor.drain() == 0
        world.advance(LEASE)
        assert survivor.rescue() == 1
        assert survivor.drain() == 2
        assert [(job.payload["n"], job.attempt) for job in done] == [(1, 2), (2, 1)]
        assert done[0].delivery == lost.delivery

    def test_who_says_that_it_is_there_keeps_its_jobs(self, world: World, queue: Queue, seen: list[Job]) -> None:
        enqueue(queue, {})
        jobs = queue.claim()
        other = world.process()
        other.on("note")(seen.append)
        for _ in range(4):
            world.advance(LEASE / 2)
            queue.keep(jobs)
            assert other.rescue() == 0
        queue.run(jobs[0])
        assert [job.attempt for job in seen] == [1]

    def test_a_worker_that_was_stopped_past_its_lease_can_write_nothing(self, world: World, queue: Queue) -> None:
        runs: list[str] = []

        def work(job: Job) -> None:
            with job.finishing() as connection:
                note(connection, f"attempt {job.attempt}")
            runs.append("finished")

        survivor = world.process()
        for each in (queue, survivor):
            each.on("work")(work)
        enqueue(queue, {}, kind="work")
        (stale,) = queue.claim()
        world.advance(LEASE * 2)  # it is stopped
        survivor.rescue()
        (taken,) = survivor.claim()
        queue.run(stale)  # it goes on: neither its effect nor its failure counts
        assert notes(queue) == []
        assert [entry.state for entry in queue.entries()] == ["running"]
        survivor.run(taken)
        assert notes(queue) == ["attempt 2"]
        assert (runs, queue.entries()) == (["finished"], [])
        enqueue(queue, {}, kind="work")
        assert queue.drain() == 1  # and it is a good worker again

    def test_a_stale_failure_does_not_disturb_who_has_the_job(self, world: World, queue: Queue) -> None:
        survivor = world.process()

        @queue.on("note")
        def fail(job: Job) -> None:
            raise GiveUp("stale")

        done: list[Job] = []
        survivor.on("note")(done.append)
        enqueue(queue, {})
        (stale,) = queue.claim()
        world.advance(LEASE * 2)
        survivor.rescue()
        (taken,) = survivor.claim()
        queue.run(stale)
        survivor.run(taken)
        assert ([job.attempt for job in done], queue.entries()) == ([2], [])

    def test_a_job_that_kills_its_workers_is_buried_and_its_neighbours_finish(self, world: World) -> None:
        done: list[Job] = []

        def process() -> Queue:
            queue = world.process()
            queue.on("note")(done.append)
            queue.on("poison", Policy(attempts=3))(done.append)
            return queue

        queue = process()
        enqueue(queue, {}, kind="poison", lane="a")
        enqueue(queue, {}, lane="a")
        for attempt in (1, 2, 3):
            (taken,) = process().claim()  # and dies of it
            assert (taken.kind, taken.attempt) == ("poison", attempt)
            world.advance(LEASE * 2)
            assert queue.rescue() == 1
        assert queue.drain() == 1
        assert [job.kind for job in done] == ["note"]
        (dead,) = queue.entries(state="dead")
        assert (dead.kind, dead.attempt) == ("poison", 3)
        assert dead.error == "Its worker died, or was not heard of any more."

    # -- faults that take their time

    @pytest.mark.slow
    @pytest.mark.timeout(900)
    def test_five_hundred_kills_of_two_processes_lose_nothing_and_do_nothing_twice(
        self, world: World, queue: Queue, tmp_path: Path
    ) -> None:
        promised: list[str] = []
        with workers(world, tmp_path, kills=500):
            while not (tmp_path / "over").exists():
                batch = [f"first {len(promised) + number}" for number in range(random.randint(1, 5))]
                lanes = [random.choice(["", "a", "b"]) for _ in batch]
                with suppress(ZeroDivisionError), begin_write(world.engine) as connection:
                    is_kept = random.random() < 0.8
                    for text, lane in zip(batch, lanes, strict=True):
                        told = text if is_kept else text.replace("first", "never")
                        queue.enqueue(connection, "effect", {"text": told}, lane=lane)
                    if not is_kept:
                        raise ZeroDivisionError
                if is_kept:
                    promised += batch
                time.sleep(0.05)
            wait_until(lambda: not [one for one in queue.entries(limit=10) if one.state != "dead"])
        assert queue.entries() == []
        assert len(promised) > 100
        wanted = sorted([*promised, *(text.replace("first", "second") for text in promised)])
        assert sorted(notes(queue)) == wanted

    @pytest.mark.slow
    def test_a_worker_that_was_stopped_by_a_signal_past_its_lease_is_refused_when_it_goes_on(
        self, world: World, queue: Queue, tmp_path: Path
    ) -> None:
        with workers(world, tmp_path, kills=0):
            enqueue(queue, {}, kind="slow")
            wait_until(lambda: notes(queue))
            stopped = int(notes(queue)[0].split()[-1])
            os.kill(stopped, signal.SIGSTOP)
            wait_until(lambda: any(text.startswith("begun 2") for text in notes(queue)))
            os.kill(stopped, signal.SIGCONT)  # while another one has the job
            wait_until(lambda: {"refused 1", "done 2"} <= set(notes(queue)))
        assert [text for text in notes(queue) if text.startswith("done")] == ["done 2"]
        assert queue.entries() == []

    @pytest.mark.slow
    @pytest.mark.timeout(300)
    def test_a_thousand_jobs_of_one_lane_on_two_hosts_never_run_two_at_once(self, world: World) -> None:
        running: list[int] = []
        most: list[int] = []
        order: list[int] = []

        def work(job: Job) -> None:
            running.append(job.id)
            most.append(len(running))
            order.append(job.payload["n"])
            running.remove(job.id)

        hosts = [world.process() for _ in range(2)]
        for host in hosts:
            host.on("note")(work)
        enqueue(hosts[0], *({"n": number} for number in range(1000)), lane="one")
        at_work = [Jobs(host, threads=3) for host in hosts]
        for jobs in at_work:
            jobs.start()
        wait_until(lambda: len(order) >= 1000 and not hosts[0].entries(limit=1))
        for jobs in at_work:
            jobs.stop()
        assert order == list(range(1000))
        assert set(most) == {1}

    @pytest.mark.slow
    def test_ten_thousand_jobs_that_wait_for_their_time_cost_no_thread(
        self, world: World, queue: Queue, seen: list[Job]
    ) -> None:
        jobs = Jobs(queue, threads=3)
        jobs.start()
        threads = threading.active_count()
        at = queue.clock.now() + timedelta(hours=1)
        enqueue(queue, *({"n": number} for number in range(10_000)), run_at=at)
        time.sleep(1)  # it looks at them again and again
        assert threading.active_count() <= threads
        assert jobs.stop() == 0
        assert seen == []
        world.advance(timedelta(hours=1, seconds=1))
        assert [job.payload["n"] for job in queue.claim(200)] == list(range(200))

    @pytest.mark.slow
    def test_of_who_drops_a_job_at_the_moment_it_begins_and_who_runs_it_one_wins(
        self, world: World, queue: Queue, seen: list[Job]
    ) -> None:
        operator = world.process()
        dropped: list[int] = []

        def drop(id: int) -> None:
            with suppress(NotFound, Conflict):
                operator.drop(id)
                dropped.append(id)

        with ThreadPoolExecutor(2) as pool:
            for _ in range(1000):
                enqueue(queue, {})
                (waiting,) = queue.entries()
                race = [pool.submit(drop, waiting.id), pool.submit(queue.drain)]
                for one in race:
                    one.result()
                assert queue.entries() == []
                assert [waiting.id in dropped, waiting.id in [job.id for job in seen]].count(True) == 1
        assert dropped
        assert seen

    # -- operators

    def test_an_operator_sees_what_there_is(self, world: World, queue: Queue) -> None:
        @queue.on("work", Policy(attempts=1))
        def fail(job: Job) -> None:
            raise GiveUp("no")

        enqueue(queue, {}, kind="work")
        queue.drain()
        enqueue(queue, {}, {}, kind="work", lane="a", key=None, priority=2)
        enqueue(queue, {}, run_at=queue.clock.now() + timedelta(days=2))
        queue.claim(5)
        world.advance(timedelta(hours=1))
        found = {(one.kind, one.state): (one.count, round(one.lag / timedelta(hours=1))) for one in queue.tallies()}
        assert {name: number for name, (number, _) in found.items()} == {
            ("note", "queued"): 1,
            ("work", "dead"): 1,
            ("work", "queued"): 1,
            ("work", "running"): 1,
        }
        assert (found["note", "queued"][1], found["work", "queued"][1]) == (0, 1)
        assert [entry.state for entry in queue.entries(kind="work")] == ["dead", "running", "queued"]
        assert len(queue.entries(limit=2)) == 2
        (waiting,) = queue.entries(kind="work", state="queued")
        assert (waiting.lane, waiting.priority, waiting.attempt, waiting.error) == ("a", 2, 0, None)

    def test_a_dead_letter_is_tried_again_with_all_its_attempts(self, world: World, queue: Queue) -> None:
        attempts: list[int] = []

        @queue.on("note", Policy(attempts=2))
        def fail(job: Job) -> None:
            attempts.append(job.attempt)
            raise ValueError

        enqueue(queue, {})
        enqueue(queue, {}, kind="another-without-a-key")
        for _ in range(2):
            queue.drain()
            world.advance(timedelta(minutes=1))
            queue.drain()
            (dead,) = queue.entries(state="dead")
            queue.retry(dead.id)
        assert attempts == [1, 2, 1, 2]

    def test_a_job_that_waits_can_be_tried_at_once(self, queue: Queue, seen: list[Job]) -> None:
        enqueue(queue, {}, run_at=queue.clock.now() + timedelta(days=1))
        queue.retry(queue.entries()[0].id)
        assert queue.drain() == 1

    def test_a_dead_letter_can_be_dropped(self, queue: Queue) -> None:
        @queue.on("note")
        def hopeless(job: Job) -> None:
            raise GiveUp("no")

        enqueue(queue, {})
        queue.drain()
        (dead,) = queue.entries()
        queue.drop(dead.id)
        assert queue.entries() == []
        with pytest.raises(NotFound, match=f"no job {dead.id}"):
            queue.drop(dead.id)
        with pytest.raises(NotFound, match=f"no job {dead.id}"):
            queue.retry(dead.id)

    def test_a_running_job_is_neither_dropped_nor_tried_again(self, queue: Queue, seen: list[Job]) -> None:
        enqueue(queue, {})
        (job,) = queue.claim()
        for command in (queue.drop, queue.retry):
            with pytest.raises(Conflict, match="is running"):
                command(job.id)

    def test_a_dead_letter_whose_successor_waits_is_not_tried_again(self, queue: Queue) -> None:
        @queue.on("note")
        def hopeless(job: Job) -> None:
            raise GiveUp("no")

        enqueue(queue, {}, key="k")
        queue.drain()
        enqueue(queue, {}, key="k")
        with pytest.raises(Conflict, match="waits already"):
            queue.retry(queue.entries(state="dead")[0].id)
