"""The worker runs what is queued and stops well; the sweeper does what is due, one process at a time."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable, Iterator
from datetime import timedelta

import httpx
import pytest
import sqlalchemy as sa

from readingroom.clock import SetClock
from readingroom.errors import GiveUp
from readingroom.model import Rung
from server import settle
from server.announce import announce, on_event
from server.queue import Job, Policy, Queue
from server.room import Room
from server.worker import TIMERS, UPKEEP, Duty, Jobs, Sweeper, working
from server.worklist import escalations, items
from storage.catalog import schema as t
from storage.catalog.clocks import DatabaseClock, clock_of
from storage.catalog.engine import begin_write
from storage.catalog.events import Event
from storage.catalog.leases import Lease
from tests.catalog import fill_together, header
from tests.server.queue_contract import count, enqueue
from tests.worklist import at_work

PATIENCE_SECONDS = 20


class Meeting:
    """A handler that reports each job it has begun, and goes on when it is let."""

    def __init__(self, queue: Queue, kind: str = "note") -> None:
        self.begun = threading.Semaphore(0)
        self.let_go = threading.Semaphore(0)
        self.jobs: list[Job] = []
        queue.on(kind)(self._run)

    def _run(self, job: Job) -> None:
        self.jobs.append(job)
        self.begun.release()
        assert self.let_go.acquire(timeout=PATIENCE_SECONDS)


@pytest.fixture
def start() -> Iterator[Callable[[Jobs], Jobs]]:
    """Starts a worker, and stops it when the test has ended."""
    started: list[Jobs] = []

    def start(jobs: Jobs) -> Jobs:
        started.append(jobs)
        jobs.start()
        return jobs

    yield start
    for jobs in started:
        jobs.stop(PATIENCE_SECONDS)


def test_jobs_run_on_so_many_threads_and_no_more(room: Room, start: Callable[[Jobs], Jobs]) -> None:
    meeting = Meeting(room.queue)
    enqueue(room.queue, *({} for _ in range(5)))
    jobs = start(Jobs(room.queue, threads=2))
    for _ in range(2):
        assert meeting.begun.acquire(timeout=PATIENCE_SECONDS)
    assert (count(room.queue, "running"), count(room.queue, "queued")) == (2, 3)
    meeting.let_go.release(5)
    for _ in range(3):
        assert meeting.begun.acquire(timeout=PATIENCE_SECONDS)
    assert jobs.stop(PATIENCE_SECONDS) == 0
    assert room.queue.entries() == []


def test_what_runs_is_let_end_and_nothing_new_is_begun(room: Room) -> None:
    meeting = Meeting(room.queue)
    enqueue(room.queue, {}, {})
    jobs = Jobs(room.queue, threads=1)
    jobs.start()
    assert meeting.begun.acquire(timeout=PATIENCE_SECONDS)
    stopping = threading.Thread(target=jobs.stop, args=(PATIENCE_SECONDS,))
    stopping.start()
    meeting.let_go.release(2)
    stopping.join(PATIENCE_SECONDS)
    assert len(meeting.jobs) == 1
    assert [entry.state for entry in room.queue.entries()] == ["queued"]


def test_a_job_that_does_not_end_holds_up_nobody_who_stops(room: Room) -> None:
    meeting = Meeting(room.queue)
    enqueue(room.queue, {})
    jobs = Jobs(room.queue, threads=1)
    jobs.start()
    assert meeting.begun.acquire(timeout=PATIENCE_SECONDS)
    assert jobs.stop(0.01) == 1
    assert count(room.queue, "running") == 1
    meeting.let_go.release()


def test_a_worker_that_cannot_take_jobs_goes_on_when_it_can(
    room: Room, start: Callable[[Jobs], Jobs], monkeypatch: pytest.MonkeyPatch
) -> None:
    failures = iter([OSError("no descriptors"), RuntimeError("no memory")])
    claim = room.queue.claim

    def fail_twice(limit: int = 1, kinds: object = None) -> list[Job]:
        error = next(failures, None)
        if error:
            raise error
        return claim(limit)

    monkeypatch.setattr(room.queue, "claim", fail_twice)
    meeting = Meeting(room.queue)
    meeting.let_go.release()
    enqueue(room.queue, {})
    start(Jobs(room.queue, threads=1))
    assert meeting.begun.acquire(timeout=PATIENCE_SECONDS)


@pytest.mark.rooms("sqlite", "postgres")
def test_one_sweeper_leads_and_another_follows_when_it_stops(room: Room) -> None:
    done: list[str] = []

    def sweeper(name: str) -> Sweeper:
        duty = Duty(name="due", act=lambda room, now: done.append(name), every=0)
        return Sweeper(room, "sweeper", [duty])

    first, second = sweeper("first"), sweeper("second")
    first.round()
    second.round()
    first.round()
    assert done == ["first", "first"]
    first.start()
    first.stop(PATIENCE_SECONDS)
    done.clear()
    second.round()
    assert done == ["second"]


def test_a_duty_of_each_process_is_done_by_who_does_not_lead(room: Room) -> None:
    done: list[str] = []
    assert Lease(room.engine, "sweeper").hold()
    Sweeper(
        room,
        "sweeper",
        [
            Duty(name="leader's", act=lambda room, now: done.append("leader's")),
            Duty(name="each one's", act=lambda room, now: done.append("each one's"), is_of_each=True),
        ],
    ).round()
    assert done == ["each one's"]


def test_a_duty_that_fails_leaves_the_others_alone_and_is_due_again(room: Room) -> None:
    done: list[str] = []

    def fail(room: Room, now: object) -> None:
        done.append("failed")
        raise ValueError

    ok = Duty(name="ok", act=lambda room, now: done.append("ok"), every=0)
    sweeper = Sweeper(room, "sweeper", [Duty(name="bad", act=fail, every=0), ok])
    sweeper.round()
    sweeper.round()
    assert done == ["failed", "ok", "failed", "ok"]


def test_a_duty_that_did_as_much_as_it_does_at_a_time_is_due_at_once_and_after_the_others(room: Room) -> None:
    left, done = [2, 2, 1], list[str]()

    def some(room: Room, now: object) -> int:
        done.append("some")
        return left.pop(0)

    others = (Duty(name=name, act=lambda room, now, name=name: done.append(name)) for name in "ab")  # type: ignore[misc]
    sweeper = Sweeper(room, "sweeper", [next(others), Duty(name="some", act=some, at_once=2), next(others)])
    assert [sweeper.round() for _ in range(4)] == [True, True, False, False]
    assert done == ["a", "some", "b", "some", "some"]


def test_however_much_falls_due_at_one_moment_it_is_done_before_the_clock_moves_on(room: Room, clock: SetClock) -> None:
    studies, number = settle.AT_ONCE + 1, items.AT_ONCE + 1
    headers = [header(StudyInstanceUID=f"1.2.{n}", SeriesInstanceUID=f"1.2.{n}.1") for n in range(studies)]
    fill_together(room.engine, headers, now=clock.now(), quiet=timedelta(0))
    with at_work(room.engine, clock) as work:
        for n in range(number):
            item = items.create_item(work, facility="local", kind="read", study_uid=f"1.3.{n}")
            items.claim_item(work, item)
            at_once = (Rung(number=1, role="desk", after=timedelta(0)),)
            escalations.open_escalation(work, key=str(n), facility="local", reason="Blood", ladder=at_once)
    clock.advance(timedelta(days=1))
    sweeper = Sweeper(room, "timers", TIMERS)
    while sweeper.round():
        pass
    with room.engine.connect() as connection:
        events = connection.execute(sa.select(t.event.c.type, t.event.c.at, t.event.c.payload)).all()
    told = Counter(one.type for one in events if one.at == clock.now())
    expired = sum(one.type == "ItemChanged" and b'"expired"' in one.payload for one in events)
    assert (told["StudySettled"], told["EscalationClimbed"], expired) == (studies, number, number)


@pytest.mark.rooms("sqlite", "postgres")
def test_all_duties_can_be_done_on_an_empty_archive(room: Room, caplog: pytest.LogCaptureFixture) -> None:
    Sweeper(room, "all", [*TIMERS, *UPKEEP]).round()
    assert [record for record in caplog.records if record.levelname == "ERROR"] == []


def test_a_room_at_work_does_what_is_due_and_what_is_queued(room: Room) -> None:
    meeting = Meeting(room.queue)
    meeting.let_go.release()
    with working(room, threads=1):
        enqueue(room.queue, {})
        assert meeting.begun.acquire(timeout=PATIENCE_SECONDS)
    assert room.queue.entries() == []


# -- leases


def test_of_many_who_want_to_lead_one_does(engine: sa.Engine) -> None:
    leases = [Lease(engine, "sweeper") for _ in range(5)]
    assert [lease.hold() for lease in leases] == [True, False, False, False, False]
    assert leases[0].hold()
    leases[0].release()
    assert leases[3].hold()
    assert not leases[0].hold()
    assert Lease(engine, "other").hold()


def test_a_leader_that_is_not_heard_of_is_followed_by_another(sqlite_url: str, engine: sa.Engine) -> None:
    lasts = timedelta(seconds=30) if engine.dialect.name == "sqlite" else timedelta(microseconds=1)
    now = 1000.0
    first, second = (Lease(engine, "sweeper", lasts=lasts, monotonic=lambda: now) for _ in range(2))
    assert first.hold()
    now += 20
    if engine.dialect.name == "sqlite":
        assert not second.hold()
        assert first.hold()  # renewed
    now += 31
    assert second.hold()
    if engine.dialect.name == "sqlite":
        assert not first.hold()


def test_a_lease_from_before_the_machine_was_started_again_is_free(sqlite_url: str) -> None:
    from storage.catalog.engine import open_engine

    engine = open_engine(sqlite_url)
    assert Lease(engine, "sweeper", monotonic=lambda: 1e6).hold()
    assert Lease(engine, "sweeper", monotonic=lambda: 5.0).hold()
    engine.dispose()


# -- the clock


def test_the_time_is_that_of_the_database_wherever_it_is_not_a_file(engine: sa.Engine) -> None:
    clock = clock_of(engine)
    assert clock.now().tzinfo is not None
    assert isinstance(clock, DatabaseClock) == (engine.dialect.name == "postgresql")


def test_the_database_clock_goes_on_by_the_monotonic_clock(postgres_url: str) -> None:
    from storage.catalog.engine import open_engine

    seconds = 100.0
    engine = open_engine(postgres_url)
    clock = DatabaseClock(engine, monotonic=lambda: seconds)
    at = clock.now()
    seconds += 5
    assert clock.now() - at == timedelta(seconds=5)
    clock.measure()
    assert clock.now() - at < timedelta(seconds=5)  # the server's own clock had not moved that far
    engine.dispose()


# -- events


@pytest.mark.rooms("sqlite", "postgres")
def test_an_event_that_somebody_reacts_to_becomes_a_job(room: Room, clock: SetClock) -> None:
    seen: list[Event] = []
    on_event(room.queue, "StudyMoved")(lambda job, event: seen.append(event))
    event = {
        "type": "StudyMoved",
        "version": 1,
        "study_uid": "1.2",
        "facility": "local",
        "at": clock.now(),
        "payload": b'{"revision":2}',
    }
    with begin_write(room.engine) as connection:
        announce(connection, room.queue, [{**event, "type": "Other"}, event, {**event, "study_uid": "1.3"}])
    assert {entry.lane for entry in room.queue.entries()} == {"event study local 1.2", "event study local 1.3"}
    assert room.queue.drain() == 2
    assert [(one.type, one.study_uid, one.payload) for one in seen] == [
        ("StudyMoved", "1.2", {"revision": 2}),
        ("StudyMoved", "1.3", {"revision": 2}),
    ]
    assert [one.sequence for one in seen] == [2, 3]


def test_several_react_to_an_event_each_in_a_job_of_its_own_and_only_where_it_is_wanted(
    room: Room, clock: SetClock
) -> None:
    seen: list[str] = []
    is_wanted = False
    on_event(room.queue, "StudyMoved")(lambda job, event: seen.append("first"))
    on_event(room.queue, "StudyMoved", by="other", if_wanted=lambda connection: is_wanted)(
        lambda job, event: seen.append("other")
    )
    event = {"type": "StudyMoved", "version": 1, "study_uid": "1.2", "facility": "local", "at": clock.now()}
    for is_wanted in (False, True):
        with begin_write(room.engine) as connection:
            announce(connection, room.queue, [{**event, "payload": b"{}"}])
        lanes = {entry.lane for entry in room.queue.entries()}
        assert lanes == {"event study local 1.2", *(["other event study local 1.2"] if is_wanted else [])}
        room.queue.drain()
    assert seen == ["first", "first", "other"]


# -- figures


def test_jobs_are_counted_by_kind_and_state(client: httpx.Client, room: Room, clock: SetClock) -> None:
    @room.queue.on("hopeless", Policy(attempts=1))
    def fail(job: Job) -> None:
        raise GiveUp("no")

    enqueue(room.queue, {}, kind="hopeless")
    room.queue.drain()
    enqueue(room.queue, {}, {})
    clock.advance(timedelta(seconds=90))
    text = client.get("/metrics").text
    assert 'readingroom_jobs{kind="hopeless",state="dead"} 1.0' in text
    assert 'readingroom_jobs{kind="note",state="queued"} 2.0' in text
    assert 'readingroom_job_lag_seconds{kind="note"} 90.0' in text
    assert "readingroom_http_requests_total" in text or "readingroom_http_requests" in text
