"""Durable work: jobs that are committed with what they are about, and done for certain, in their own time.

This is the port; `server.sqlite_queue` and `server.postgres_queue` are its two adapters, and `server.worker` runs what
is queued. A job is enqueued in the caller's transaction, so it exists exactly if what it is about does. It is run at
least once: a worker that dies, hangs or is cut off loses its lease, and another one takes the job over. What a handler
writes to the catalog within `Job.finishing` is committed together with the end of the job, and so exactly once; what it
sends elsewhere bears `Job.delivery`, which is the same on every attempt.
"""

from __future__ import annotations

import logging
import random
import re
import threading
import time
import traceback
from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, Literal, get_args

import sqlalchemy as sa

from readingroom.clock import Clock
from readingroom.errors import Conflict, GiveUp, ReadingRoomError, RetryLater
from storage.catalog.engine import begin_write, is_outage

log = logging.getLogger(__name__)

LEASE = timedelta(seconds=30)
"""A worker that has not been heard of for so long has lost its jobs; it says that it is there three times in that."""

LOST = "Its worker died, or was not heard of any more."

State = Literal["queued", "running", "dead"]
STATES: tuple[State, ...] = get_args(State)

_KIND = re.compile(r"[A-Za-z][A-Za-z0-9._-]{0,39}")  # PostgreSQL's names of channels, which are made of it, are short
_OUTAGE_WAIT = timedelta(seconds=2)
_MOST_ERROR = 500


class Overtaken(Conflict):
    """This job's lease ran out and somebody else has taken it over; what was about to be written is not."""


class NotBegun(RetryLater):
    """What does this job is busy or switched off: it has not been tried, so no attempt is counted."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Policy:
    """How often jobs of one kind are tried before they are given up, as dead letters.

    The wait doubles from `first` up to `most`, and is shortened at random by up to half, so that what failed together
    does not come back together. A job that is older than `within` is not tried again.
    """

    attempts: int = 10
    first: timedelta = timedelta(seconds=1)
    most: timedelta = timedelta(minutes=10)
    within: timedelta | None = None

    def wait(self, attempt: int) -> timedelta:
        """How long to wait after that attempt, the first of which is 1."""
        longest: timedelta = min(self.first * 2 ** min(attempt - 1, 40), self.most)
        return longest * random.uniform(0.5, 1)


USUAL = Policy()


@dataclass(slots=True)
class Claim:
    """The right to run a job, until it is over or somebody else has taken it."""

    queue: Queue
    id: int
    token: str
    is_over: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """One job as its handler sees it.

    `delivery` is the same on every attempt, also after a dead letter was told to try again: a receiver can tell by it
    what it has had already. `attempt` is 1 on the first one; `since` is when the job came.
    """

    id: int
    delivery: str
    kind: str
    lane: str
    payload: Mapping[str, Any]
    priority: int
    attempt: int
    since: datetime
    claim: Claim = field(repr=False, compare=False)

    @contextmanager
    def finishing(self) -> Iterator[sa.Connection]:
        """The transaction that ends this job: what is written in it is committed exactly once.

        A handler that returns without having called it has its job ended in a transaction of its own.

        Raises
        ------
        Overtaken
            Somebody else has the job by now, or it has been finished already: nothing is written.
        """
        claim = self.claim
        with begin_write(claim.queue.engine) as connection:
            if claim.is_over or not claim.queue.finish(connection, claim):
                raise Overtaken
            yield connection
        claim.is_over = True


Handler = Callable[[Job], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """One job as an operator sees it; `error` says why its last attempt failed."""

    id: int
    delivery: str
    kind: str
    lane: str
    key: str | None
    priority: int
    state: State
    attempt: int
    run_at: datetime
    since: datetime
    error: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Tally:
    """How many jobs of one kind are in one state, and for how long the oldest of them has been due."""

    kind: str
    state: State
    count: int
    lag: timedelta


class Queue(ABC):
    """The jobs of one catalog.

    In a lane one job runs at a time, the one of highest priority first and else in the order in which they came; one
    that waits to be tried again holds its lane. Jobs of a kind that nobody here handles wait for somebody who does.

    Parameters
    ----------
    lease
        How long a worker may be silent.
    """

    def __init__(self, engine: sa.Engine, clock: Clock, *, lease: timedelta = LEASE) -> None:
        self.engine = engine
        self.clock = clock
        self.lease = lease
        self.handlers: dict[str, Handler] = {}
        self.reactions: dict[str, list[tuple[str, str, Callable[[sa.Connection], bool] | None]]] = {}
        """By type of event, what `server.announce` enqueues: the kind, who reacts, and whether that is wanted."""
        self._policies: dict[str, Policy] = {}
        self.wake = threading.Event()
        """Set when there may be something to do."""

    # -- for those who have work to be done ------------------------------------------------------------------------

    def on(self, kind: str, policy: Policy = USUAL) -> Callable[[Handler], Handler]:
        """Decorates the function that handles jobs of a kind; before the worker starts.

        What it raises decides: `RetryLater` says when to try again, `GiveUp` that it is no use; after anything else it
        is tried again as `policy` has it. `NotBegun`, and a database that does not answer, cost no attempt.
        """
        if not _KIND.fullmatch(kind):
            raise ValueError(
                f"{kind!r} is no kind of job: a letter, then letters, digits, '.', '_' or '-', 40 at most."
            )
        if kind in self.handlers:
            raise ValueError(f"Jobs of kind {kind!r} have a handler already.")

        def register(handler: Handler) -> Handler:
            self.handlers[kind] = handler
            self._policies[kind] = policy
            return handler

        return register

    @abstractmethod
    def enqueue(
        self,
        connection: sa.Connection,
        kind: str,
        payload: Mapping[str, Any],
        *,
        lane: str = "",
        priority: int = 0,
        run_at: datetime | None = None,
        key: str | None = None,
    ) -> None:
        """Add a job in a transaction opened by `begin_write`.

        Parameters
        ----------
        payload
            What JSON can hold, and small: uids and ids.
        lane
            Of jobs in one lane, one runs at a time; empty: in none.
        priority
            The higher, the sooner.
        run_at
            Not before then.
        key
            Of jobs with one key one waits at a time: enqueued again, it takes the new payload, the earlier time and the
            higher priority. One that is running already is not the one that waits.
        """

    # -- for the worker ----------------------------------------------------------------------------------------------

    @abstractmethod
    def claim(self, limit: int = 1, kinds: Collection[str] | None = None) -> list[Job]:
        """Take up to so many jobs that are due, of kinds that have a handler; each is the caller's to run."""

    @abstractmethod
    def keep(self, jobs: Sequence[Job]) -> None:
        """Say that these claimed jobs, and no others, are still being run here."""

    @abstractmethod
    def rescue(self) -> int:
        """Put back, or bury, jobs whose worker has not been heard of; returns how many."""

    @abstractmethod
    def finish(self, connection: sa.Connection, claim: Claim) -> bool:
        """End a job well, in this transaction; False if it is somebody else's by now."""

    @abstractmethod
    def put_back(self, connection: sa.Connection, claim: Claim, wait: timedelta, error: str, *, counts: bool) -> bool:
        """Let a job be tried again after a while, and count the attempt or not; False as above."""

    @abstractmethod
    def bury(self, connection: sa.Connection, claim: Claim, error: str) -> bool:
        """Make a job a dead letter; False as above."""

    @contextmanager
    def listening(self) -> Iterator[None]:
        """While this is open, `wake` is set also for what other processes enqueue, where the database tells of it."""
        yield

    def run(self, job: Job) -> None:
        """Run a claimed job, and write down how it ended; never raises."""
        try:
            self.handlers[job.kind](job)
        except BaseException as error:
            # The worker loop. Whatever a handler raises, were it SystemExit, its job has to end.
            if job.claim.is_over:
                log.exception("job %d (%s) failed after it was done", job.id, job.kind)
            else:
                self._settle_failed(job, error)
        else:
            if not job.claim.is_over:
                self._settle(job, lambda connection: self.finish(connection, job.claim))

    def drain(self) -> int:
        """Run what is due, here and now and one after the other, until nothing is; returns how many that was."""
        done = 0
        while jobs := self.claim():
            self.run(jobs[0])
            done += 1
        return done

    def policy(self, kind: str) -> Policy:
        """How jobs of a kind are tried."""
        return self._policies.get(kind, USUAL)

    def _settle_failed(self, job: Job, error: BaseException) -> None:
        policy, reason, claim = self.policy(job.kind), reason_of(error), job.claim
        if isinstance(error, Exception) and is_outage(error):
            log.warning("job %d (%s) waits for the database: %s", job.id, job.kind, reason)
            wait = _OUTAGE_WAIT * random.uniform(0.5, 1)
            self._settle(job, lambda connection: self.put_back(connection, claim, wait, reason, counts=False))
            return
        is_late = policy.within is not None and self.clock.now() - job.since >= policy.within
        counts = not isinstance(error, NotBegun)
        if isinstance(error, GiveUp) or is_late or (counts and job.attempt >= policy.attempts):
            log.error("job %d (%s) is given up: %s", job.id, job.kind, reason, exc_info=_unforeseen(error))
            self._settle(job, lambda connection: self.bury(connection, claim, reason))
            return
        wait = error.after if isinstance(error, RetryLater) else policy.wait(job.attempt)
        log.warning("job %d (%s) is tried again: %s", job.id, job.kind, reason, exc_info=_unforeseen(error))
        self._settle(job, lambda connection: self.put_back(connection, claim, wait, reason, counts=counts))

    def _settle(self, job: Job, end: Callable[[sa.Connection], bool]) -> None:
        """Write down how a job ended. Where the database does not answer for as long as a lease, others take over."""
        give_up = time.monotonic() + self.lease.total_seconds()
        while True:
            try:
                with begin_write(self.engine) as connection:
                    is_mine = end(connection)
                if not is_mine:
                    log.warning("job %d (%s) was taken over before it ended", job.id, job.kind)
                job.claim.is_over = True
                return
            except sa.exc.SQLAlchemyError as error:
                if not is_outage(error) or time.monotonic() > give_up:
                    log.exception("how job %d (%s) ended could not be written", job.id, job.kind)
                    return
            time.sleep(min(1.0, self.lease.total_seconds() / 10))

    # -- for operators -----------------------------------------------------------------------------------------------

    @abstractmethod
    def view(self) -> sa.FromClause:
        """All jobs, with a column for each field of `Entry`."""

    @abstractmethod
    def retry(self, id: int) -> None:
        """Have a dead letter, or a job that waits, tried at once, with all its attempts before it.

        Raises
        ------
        NotFound
            There is no such job.
        Conflict
            It is running, or another one with its key waits already.
        """

    @abstractmethod
    def drop(self, id: int) -> None:
        """Forget a dead letter, or a job that waits, for good; raises as `retry` does."""

    def entries(self, *, state: State | None = None, kind: str | None = None, limit: int = 100) -> list[Entry]:
        """Jobs in the order in which they came."""
        view = self.view()
        statement = sa.select(view).order_by(view.c.id).limit(limit)
        if state is not None:
            statement = statement.where(view.c.state == state)
        if kind is not None:
            statement = statement.where(view.c.kind == kind)
        with self.engine.connect() as connection:
            return [Entry(**row._mapping) for row in connection.execute(statement)]

    def tallies(self) -> list[Tally]:
        """How many jobs there are, by kind and state."""
        view, now = self.view(), self.clock.now()
        oldest = sa.func.min(view.c.run_at, type_=view.c.run_at.type)
        statement = sa.select(view.c.kind, view.c.state, sa.func.count(), oldest)
        with self.engine.connect() as connection:
            rows = connection.execute(statement.group_by(view.c.kind, view.c.state).order_by(view.c.kind, view.c.state))
            return [
                Tally(kind=kind, state=state, count=count, lag=max(now - run_at, timedelta(0)))
                for kind, state, count, run_at in rows
            ]


def count_states(tallies: Sequence[Tally]) -> dict[State, int]:
    """How many jobs are in each state, whatever their kind."""
    return {state: sum(one.count for one in tallies if one.state == state) for state in STATES}


def reason_of(error: BaseException) -> str:
    """Why an attempt failed, in one line without data: of an error that is not ours, what it is and where it arose."""
    if isinstance(error, ReadingRoomError):
        return error.message[:_MOST_ERROR]
    frames = traceback.extract_tb(error.__traceback__)
    where = f" at {Path(frames[-1].filename).name}:{frames[-1].lineno}" if frames else ""
    return f"{type(error).__name__}{where}"


def _unforeseen(error: BaseException) -> BaseException | None:
    return None if isinstance(error, ReadingRoomError) else error
