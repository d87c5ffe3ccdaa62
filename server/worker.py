"""Runs jobs on threads, and once a second looks at the rows that fall due.

Both go on in every process that serves, and in those that `readingroom work` starts. Timers are rows, so they outlive
any process; whichever of them leads turns what is due into jobs or transitions.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from functools import partial

from server import settle
from server.announce import announce
from server.fhir.exporting import forget_exports
from server.fhir.notify import forget_notifications, look_due
from server.fhir.reindexing import reindex
from server.forwarding import remember_forwards
from server.listing import list_attributes
from server.notifying import Notifying
from server.purging import purge_due
from server.queue import Job, Queue
from server.reports.delivery import remember_ways
from server.room import Room
from server.settle import describe_stale, settle_studies
from server.worklist import escalations, items
from server.worklist.coverage import watch_coverage
from server.worklist.escalations import climb_due
from server.worklist.items import expire_claims
from server.worklist.reports import forget_reports
from server.worklist.sla import fire_marks
from storage.catalog.clocks import DatabaseClock
from storage.catalog.leases import Lease

log = logging.getLogger(__name__)

GRACE_SECONDS = 10.0
"""What runs when the worker is told to stop gets so long to end; what has not is done by another one later."""

_LOOK_SECONDS = 0.5  # for what other processes enqueue, and what waited for its time
_ROUND_SECONDS = 1.0
_SWEEP_SECONDS = 30.0
_ASSIGN_SECONDS = 60.0
_CLOCK_SECONDS = 10.0
_AFTER_FAILURE_SECONDS = 1.0


class Jobs:
    """Runs the jobs of a queue: one thread takes them and keeps their leases, and each runs on a thread of its own.

    Those are daemons, so that a job which never ends holds up no process that does.
    """

    def __init__(self, queue: Queue, *, threads: int, kinds: Collection[str] | None = None) -> None:
        self._queue = queue
        self._threads = threads
        self._kinds = kinds
        self._running: dict[int, Job] = {}
        self._is_stopping = threading.Event()
        self._is_over = threading.Event()
        self._beat_at = 0.0
        self._taker = threading.Thread(target=self._take, name="jobs", daemon=True)

    def start(self) -> None:
        """Begin to take jobs."""
        self._taker.start()

    def stop(self, seconds: float = GRACE_SECONDS) -> int:
        """Take no more jobs, and wait for those that run; returns how many have not ended by then."""
        self._is_stopping.set()
        self._queue.wake.set()
        self._taker.join(seconds)
        self._is_over.set()
        left = len(self._running)
        if left:
            log.warning("%d jobs have not ended in %.0f s; they will be taken over", left, seconds)
        return left

    def _take(self) -> None:
        with self._queue.listening():
            while not self._is_over.is_set() and (self._running or not self._is_stopping.is_set()):
                self._queue.wake.clear()
                pause = _LOOK_SECONDS
                try:
                    self._take_some()
                except Exception:
                    # The worker loop: what could not be taken now is there in the next round.
                    log.exception("jobs could not be taken")
                    pause = _AFTER_FAILURE_SECONDS
                self._queue.wake.wait(pause)

    def _take_some(self) -> None:
        now = time.monotonic()
        if now >= self._beat_at:
            self._queue.keep(list(self._running.values()))
            self._queue.rescue()
            self._beat_at = now + self._queue.lease.total_seconds() / 3
        free = self._threads - len(self._running)
        if free > 0 and not self._is_stopping.is_set():
            for job in self._queue.claim(free, self._kinds):
                self._running[job.id] = job
                try:
                    threading.Thread(target=self._run, args=(job,), name=f"job {job.kind}", daemon=True).start()
                except RuntimeError:
                    del self._running[job.id]  # no thread to be had: its lease runs out, and then it is tried again
                    raise

    def _run(self, job: Job) -> None:
        try:
            self._queue.run(job)
        finally:
            del self._running[job.id]
            self._queue.wake.set()


@dataclass(frozen=True, slots=True, kw_only=True)
class Duty:
    """Something that falls due; called with the room and the time, it does what is due then.

    Whatever it does, it does in transactions in which it looks again: two leaders at once do no harm.
    """

    name: str
    act: Callable[[Room, datetime], object]
    every: float = _ROUND_SECONDS
    is_of_each: bool = False
    """Whether each process has it to do, and not the leader alone."""
    at_once: int = 0
    """How many it does at a time, where that may not be all: after so many it goes on at once, after the others."""


TIMERS: tuple[Duty, ...] = (
    Duty(name="settle", act=lambda room, _: settle_studies(room), at_once=settle.AT_ONCE),
    Duty(name="marks", act=lambda room, now: _fire_marks(room, now)),
    Duty(name="cover", act=lambda room, now: _watch_coverage(room, now), every=_ASSIGN_SECONDS),
    Duty(name="claims", act=lambda room, now: expire_claims(room.engine, now, room.queue), at_once=items.AT_ONCE),
    Duty(
        name="climb",
        act=lambda room, now: climb_due(room.engine, now, room.flow.climbed, room.queue),
        at_once=escalations.AT_ONCE,
    ),
    Duty(name="ways", act=lambda room, now: remember_ways(room.engine, room.queue, now), every=_SWEEP_SECONDS),
    Duty(name="entities", act=lambda room, _: _call_entities(room)),
    Duty(name="forwards", act=lambda room, now: remember_forwards(room.engine, room.queue, now), every=_SWEEP_SECONDS),
    Duty(name="subscribers", act=lambda room, now: look_due(room, now)),
    Duty(name="assign", act=lambda room, _: room.flow.assign_now(), every=_ASSIGN_SECONDS),
    Duty(name="clock", act=lambda room, _: _measure_clock(room), every=_CLOCK_SECONDS, is_of_each=True),
)
"""What somebody waits for; each is done within moments."""

UPKEEP: tuple[Duty, ...] = (
    Duty(name="describe", act=lambda room, _: describe_stale(room)),
    Duty(name="list", act=lambda room, _: list_attributes(room)),
    Duty(name="resources", act=lambda room, _: reindex(room)),
    Duty(name="purge", act=lambda room, _: purge_due(room), every=_SWEEP_SECONDS),
    Duty(name="reports", act=lambda room, now: forget_reports(room.engine, now), every=_SWEEP_SECONDS),
    Duty(name="notifications", act=lambda room, now: forget_notifications(room, now), every=_SWEEP_SECONDS),
    Duty(name="exports", act=lambda room, now: forget_exports(room, now), every=_SWEEP_SECONDS),
    # What a dead writer left on this host, only this host can remove.
    Duty(name="sweep", act=lambda room, _: room.ingest.sweep_others(), every=_SWEEP_SECONDS, is_of_each=True),
)
"""What may take its time, on a thread of its own so that no timer waits for it."""


class Sweeper:
    """Does its duties once a second, or as often as they want, as long as it leads.

    Parameters
    ----------
    name
        Under which one of all processes leads.
    """

    def __init__(self, room: Room, name: str, duties: Sequence[Duty]) -> None:
        self._room = room
        self._lease = Lease(room.engine, name)
        self._next = dict.fromkeys(duties, 0.0)
        self._is_stopping = threading.Event()
        self._thread = threading.Thread(target=self._sweep, name=name, daemon=True)

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def stop(self, seconds: float = GRACE_SECONDS) -> None:
        """Begin nothing more, and let another process lead."""
        self._is_stopping.set()
        self._thread.join(seconds)

    def round(self) -> bool:
        """Do what is due now; says whether there may be more of it."""
        is_leader = self._try("lead", self._lease.hold) is True
        is_more = False
        for duty, at in self._next.items():
            now = time.monotonic()
            if now >= at and (is_leader or duty.is_of_each):
                done = self._try(duty.name, partial(duty.act, self._room, self._room.clock.now()))
                goes_on = bool(duty.at_once) and isinstance(done, int) and done >= duty.at_once
                self._next[duty] = now if goes_on else now + duty.every
                is_more = is_more or goes_on
        return is_more

    def _sweep(self) -> None:
        while not self._is_stopping.is_set():
            begun = time.monotonic()
            is_more = self.round()
            self._is_stopping.wait(0.0 if is_more else max(0.0, begun + _ROUND_SECONDS - time.monotonic()))
        self._try("release", self._lease.release)

    def _try(self, name: str, act: Callable[[], object]) -> object:
        try:
            return act()
        except Exception:
            # The worker loop: what failed now is due again in the next round.
            log.exception("the duty %r failed", name)
            return None


@contextmanager
def working(room: Room, *, threads: int, kinds: Collection[str] | None = None) -> Iterator[None]:
    """Run jobs and the sweepers as long as this is open; with 0 threads the sweepers alone."""
    jobs = Jobs(room.queue, threads=threads, kinds=kinds)
    sweepers = [Sweeper(room, name, duties) for name, duties in (("timers", TIMERS), ("upkeep", UPKEEP))]
    for sweeper in sweepers:
        sweeper.start()
    if threads:
        jobs.start()
    try:
        yield
    finally:
        until = time.monotonic() + GRACE_SECONDS
        if threads:
            jobs.stop()
        for sweeper in sweepers:
            sweeper.stop(max(0.0, until - time.monotonic()))


def _fire_marks(room: Room, now: datetime) -> int:
    return fire_marks(room.engine, now, lambda connection, events: announce(connection, room.queue, events))


def _call_entities(room: Room) -> int:
    return Notifying(engine=room.engine, queue=room.queue, peers=room.peers, settings=room.settings).look()


def _watch_coverage(room: Room, now: datetime) -> int:
    return watch_coverage(room.engine, room.flow.directory.read(), now, room.queue)


def _measure_clock(room: Room) -> None:
    if isinstance(room.clock, DatabaseClock):
        room.clock.measure()
