"""Studies that go on to others by rules of the settings: what, when, to whom.

What happens to a study is compared with the rules, and what is new of it gets a row for each destination, in one
transaction. The rows are the queue of a destination, and one job at a time sends what they hold, some instances after
the other; what a destination has answered is remembered by instance. So a late series sends what is new, a server that
dies goes on where it was, and what is sent twice is what nobody has heard an answer to.

A destination that is away is asked once in a while, however much waits for it, by a job that holds up no other. Its
share of a line that is limited is a time until which it is busy: nothing sleeps, and it survives a restart.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from fnmatch import fnmatchcase
from zoneinfo import ZoneInfo

import sqlalchemy as sa

from readingroom.clock import Clock
from readingroom.errors import NotFound, ReadingRoomError, RetryLater, Unreachable
from readingroom.events import ItemChanged, StudySettled
from readingroom.model import Study, priority_rank
from server.announce import on_event
from server.outgoing import Destination, Told
from server.queue import Job, NotBegun, Policy, Queue, reason_of
from server.settings import ForwardRule
from server.worklist.hours import span_on
from storage.catalog.engine import begin_write, is_outage
from storage.catalog.events import Event
from storage.catalog.find import StoredInstance, find_instances
from storage.catalog.forwards import (
    Forward,
    ForwardWay,
    Sendable,
    count_forwarded,
    defer,
    end_late,
    next_forward,
    next_time,
    note_sent,
    queue_forward,
    read_way,
    sendable,
    waiting_destinations,
    write_forward,
    write_way,
)
from storage.catalog.orders import order_of
from storage.catalog.shown import read_study
from storage.catalog.studies import OUR_SOURCE, PRIOR_SOURCE
from storage.catalog.work_items import reading_of

log = logging.getLogger(__name__)

_KIND = "forward"
_RULES = Policy(attempts=20, first=timedelta(seconds=2), most=timedelta(minutes=1))
_SENDS = Policy(attempts=20, first=timedelta(seconds=2), most=timedelta(minutes=5))
_HOLDS = Policy(first=timedelta(seconds=5), most=timedelta(hours=1))
"""How long a study waits of which something was not taken for now."""
_AWAY = Policy(first=timedelta(seconds=2), most=timedelta(minutes=5))
"""How long a destination is left alone."""
_MANY = 3
"""After so many failures, one after the other and of whatever studies, it is the destination that is away."""
_TURN_SECONDS = 2.0
"""A job that has sent for so long lets others have its thread, and goes on behind them."""
_AT_ONCE = 50
_BYTES_AT_ONCE = 32 << 20
_LIMITED_SECONDS = 2.0
"""Where a line is limited, so much of it is sent at once."""
_FORGOTTEN = timedelta(seconds=30)
_WEEK = timedelta(days=7)
_DAY_NAMES = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")
_COMING = ("InstancesStored", "InstancesRestored")


# -- rules -------------------------------------------------------------------------------------------------------------


def concerns(rule: ForwardRule, study: Study, *, rank: int = 0, is_flagged: bool = False) -> bool:
    """Whether a rule is for a study; `rank` is how urgent it is."""
    return (
        _is_any(rule.facilities, [study.facility])
        and (not rule.modalities or study.has(*rule.modalities))
        and _is_any(rule.body_parts, study.body_parts)
        and _is_any(rule.descriptions, [study.description or ""])
        and (not rule.priorities or rank in map(priority_rank, rule.priorities))
        and (is_flagged or not rule.flagged)
    )


def takes(rule: ForwardRule, instance: Sendable) -> bool:
    """Whether a rule sends an instance of a study that it is for.

    What this server makes of reports is delivered, and what it has fetched from an archive is there already: neither
    is forwarded.
    """
    return (
        instance.source != OUR_SOURCE
        and not instance.source.startswith(PRIOR_SOURCE)
        and _is_any(rule.sources, [instance.source])
        and (not rule.series_modalities or instance.modality in rule.series_modalities)
        and _is_any(rule.series_descriptions, [instance.description or ""])
        and (not rule.sop_classes or instance.sop_class in rule.sop_classes)
    )


def _is_any(patterns: Sequence[str], values: Sequence[str]) -> bool:
    folded = [value.casefold() for value in values]
    return not patterns or any(fnmatchcase(value, pattern.casefold()) for pattern in patterns for value in folded)


@dataclass(frozen=True, slots=True, kw_only=True)
class Opened:
    """Hours in which a rule sends: until when, and how many bytes in a second; None as many as go."""

    until: datetime | None = None
    rate: float | None = None


def opening(rule: ForwardRule, now: datetime) -> Opened | datetime:
    """The hours of a rule that it is now; the moment at which the next ones begin where it is outside of them.

    Of hours that lie over each other those hold that are limited most.
    """
    if not rule.hours:
        return Opened()
    zone = ZoneInfo(rule.zone)
    today = now.astimezone(zone).date()
    open_now: list[Opened] = []
    to_come: list[datetime] = []
    for days in range(-1, 8):
        day = today + timedelta(days=days)
        for hours in rule.hours:
            if _DAY_NAMES[day.weekday()] not in hours.days:
                continue
            begins, ends = span_on(day, hours.starts, hours.ends, zone)
            if begins <= now < ends:
                limit = hours.kilobytes_per_second
                open_now.append(Opened(until=ends, rate=None if limit is None else limit * 1000))
            elif begins > now:
                to_come.append(begins)
    if open_now:
        return min(open_now, key=lambda one: float("inf") if one.rate is None else one.rate)
    return min(to_come, default=now + _WEEK)


# -- sending -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Forwards:
    """Sends studies on; `register` gives its jobs to the queue.

    Attributes
    ----------
    find
        The destination of a name; None where there is none.
    came_from
        Whether instances of that source came from that destination, and need not go back there.
    at_once
        So many jobs send at a time: the others have a thread left.
    """

    engine: sa.Engine
    clock: Clock
    queue: Queue
    rules: Mapping[str, ForwardRule]
    find: Callable[[str], Destination | None]
    came_from: Callable[[str, str], bool] = lambda source, destination: False
    at_once: threading.Semaphore = field(default_factory=lambda: threading.Semaphore(2))

    def register(self) -> None:
        """Have the queue run these; before the worker starts."""
        self.queue.on(_KIND, _SENDS)(self._send)
        if not self.rules:
            return
        on_event(self.queue, StudySettled.__name__, _RULES, by="forward")(self._settled)
        if any(rule.when == "received" for rule in self.rules.values()):
            for type in _COMING:
                on_event(self.queue, type, _RULES, by="forward")(self._came)
        if any(rule.priorities or rule.flagged for rule in self.rules.values()):
            on_event(self.queue, ItemChanged.__name__, _RULES, by="forward")(self._is_other)

    # -- what follows from what --------------------------------------------------------------------------------------

    def _settled(self, job: Job, event: Event) -> None:
        self._compare(job, event, [*self.rules.values()])

    def _came(self, job: Job, event: Event) -> None:
        self._compare(job, event, [rule for rule in self.rules.values() if rule.when == "received"])

    def _is_other(self, job: Job, event: Event) -> None:
        """A study may be as urgent as a rule wants it only now, or flagged."""
        self._compare(job, event, [rule for rule in self.rules.values() if rule.priorities or rule.flagged])

    def _compare(self, job: Job, event: Event, rules: Sequence[ForwardRule]) -> None:
        with job.finishing() as connection:
            if event.study_uid is None or event.facility is None:
                return
            try:
                study = read_study(connection, event.facility, event.study_uid)
            except NotFound:
                return  # nothing is left of it
            self.queue_study(connection, study, rules)

    def queue_study(self, connection: sa.Connection, study: Study, rules: Sequence[ForwardRule]) -> None:
        """Have a study go wherever these rules send it, as far as something of it is new there."""
        now = self.clock.now()
        order = order_of(connection, study.facility, study.accession_number)
        item = reading_of(connection, study.facility, study.study_uid)
        rank = max(priority_rank(order.priority) if order else 0, item.rank if item else 0)
        is_flagged = item is not None and item.is_flagged
        wanted = [rule for rule in rules if concerns(rule, study, rank=rank, is_flagged=is_flagged)]
        for rule in wanted:
            for destination in rule.to:
                where = (study.facility, study.study_uid)
                if next(self._new(connection, rule, destination, *where), None) is None:
                    continue
                queue_forward(
                    connection,
                    rule=rule.name,
                    destination=destination,
                    facility=study.facility,
                    study_uid=study.study_uid,
                    rank=rank,
                    now=now,
                )
                go_on(connection, self.queue, destination, now)

    def _new(
        self, connection: sa.Connection, rule: ForwardRule, destination: str, facility: str, study_uid: str
    ) -> Iterator[Sendable]:
        new = sendable(connection, facility, study_uid, rule=rule.name, destination=destination, changes=rule.changes)
        for one in new:
            if takes(rule, one) and not self.came_from(one.source, destination):
                yield one

    # -- what goes one way -------------------------------------------------------------------------------------------

    def _send(self, job: Job) -> None:
        """Send what is to go to one destination, for a while; what is left is another job's."""
        destination = job.payload["destination"]
        if not self.at_once.acquire(blocking=False):
            raise NotBegun("Others are being sent to.", after=timedelta(seconds=1))
        try:
            until = time.monotonic() + _TURN_SECONDS
            while self._send_some(destination) and time.monotonic() < until:
                pass
        finally:
            self.at_once.release()
        with job.finishing() as connection:
            at = next_time(connection, destination)
            if at is not None:
                go_on(connection, self.queue, destination, at)

    def _send_some(self, destination: str) -> bool:
        """Send some instances of one study; False where nothing is to be sent now."""
        with begin_write(self.engine) as connection:
            now, way = self.clock.now(), read_way(connection, destination)
            row = next_forward(connection, destination, now) if way.opens_at(now) <= now else None
            if row is None:
                return False
            rule = self.rules.get(row.rule)
            if rule is None or destination not in rule.to:
                why = f"The settings have no rule {row.rule} that sends to {destination} any more."
                write_forward(connection, row.id, state="dropped", error=why, done_at=now)
                return True
            hours = opening(rule, now)
            if isinstance(hours, datetime):
                defer(connection, row.rule, destination, hours)
                return True
            some, instances = self._next(connection, rule, row, hours.rate)
            if not some:
                _end(connection, row, now)
                return True
        outcome: Mapping[str, Told] | Exception
        try:
            outcome = self._hand_over(destination, instances, rule)
        except Exception as error:
            # The worker loop of a destination: whatever sending raises, it is of this study alone.
            if is_outage(error):
                raise
            outcome = error
        with begin_write(self.engine) as connection:
            self._note(connection, row, rule, some, outcome, begun=now, rate=hours.rate)
        return True

    def _next(
        self, connection: sa.Connection, rule: ForwardRule, row: Forward, rate: float | None
    ) -> tuple[list[Sendable], list[StoredInstance]]:
        """What of a study goes next, in one request; at least one instance, however large, where there is any."""
        most = _BYTES_AT_ONCE if rate is None else min(_BYTES_AT_ONCE, int(rate * _LIMITED_SECONDS))
        some: list[Sendable] = []
        size = 0
        for one in self._new(connection, rule, row.destination, row.facility, row.study_uid):
            size += one.size_bytes
            if some and (len(some) == _AT_ONCE or size > most):
                break
            some.append(one)
        found = {one.id: one for one in find_instances(connection, [one.id for one in some])}
        some = [one for one in some if one.id in found]
        return some, [found[one.id] for one in some]

    def _hand_over(
        self, destination: str, instances: Sequence[StoredInstance], rule: ForwardRule
    ) -> Mapping[str, Told]:
        where = self.find(destination)
        if where is None:
            raise Unreachable(f"There is neither an archive nor a peer that is called {destination}.")
        return where.send(instances, rule.transcode)

    def _note(
        self,
        connection: sa.Connection,
        row: Forward,
        rule: ForwardRule,
        some: Sequence[Sendable],
        outcome: Mapping[str, Told] | Exception,
        *,
        begun: datetime,
        rate: float | None,
    ) -> None:
        """Write down what became of some instances, and what follows from it."""
        now, way = self.clock.now(), read_way(connection, row.destination)
        if isinstance(outcome, NotBegun):
            write_forward(connection, row.id, next_at=now + outcome.after)
            return
        if isinstance(outcome, Exception):
            self._failed(connection, row, rule, way, outcome, now)
            return
        size = 0
        later: list[str] = []
        for one in some:
            told = outcome.get(one.instance_uid, Told(ending="later", code="not told of"))
            size += one.size_bytes
            if told.ending == "later":
                later.append(told.code)
            else:
                note_sent(connection, row.id, one, status=told.ending, code=told.code, now=now)
        free_at = None if rate is None else max(begun, way.free_at or begun) + timedelta(seconds=size / rate)
        write_way(connection, ForwardWay(destination=row.destination, free_at=free_at))
        if later:
            error = f"{len(later)} instances are not taken for now ({later[0]})."
            self._put_off(connection, row, rule, error, now)
        elif row.attempts:
            write_forward(connection, row.id, attempts=0, error="")

    def _failed(
        self,
        connection: sa.Connection,
        row: Forward,
        rule: ForwardRule,
        way: ForwardWay,
        error: Exception,
        now: datetime,
    ) -> None:
        """One failure more at a destination. One that is away is left alone for a while, and what has waited too long
        for it is given up."""
        reason, failures = reason_of(error), way.failures + 1
        if not isinstance(error, ReadingRoomError):
            log.error("forward %d to %s failed", row.id, row.destination, exc_info=error)
        log.warning("forward %d to %s is tried again: %s", row.id, row.destination, reason)
        is_away = isinstance(error, Unreachable) or failures >= _MANY
        way = replace(way, failures=failures, error=reason)
        if is_away:
            way = replace(way, retry_at=now + _AWAY.wait(failures))
            before = now - timedelta(hours=rule.retry_hours)
            ended = end_late(connection, row.rule, row.destination, before, now, reason)
            if ended:
                log.error("%d studies for %s are given up: %s", ended, row.destination, reason)
        write_way(connection, way)
        after = error.after if isinstance(error, RetryLater) and not isinstance(error, Unreachable) else timedelta()
        self._put_off(connection, row, rule, reason, now, after=after, counts=not isinstance(error, Unreachable))

    def _put_off(
        self,
        connection: sa.Connection,
        row: Forward,
        rule: ForwardRule,
        error: str,
        now: datetime,
        *,
        after: timedelta = timedelta(),
        counts: bool = True,
    ) -> None:
        """Let a study wait, or give it up where it has waited too long."""
        if now - row.queued_at >= timedelta(hours=rule.retry_hours):
            if write_forward(connection, row.id, state="dead", error=error, done_at=now):
                log.error("forward %d to %s is given up: %s", row.id, row.destination, error)
            return
        wait = max(_HOLDS.wait(row.attempts + 1), after) if counts else timedelta()
        write_forward(connection, row.id, next_at=now + wait, attempts=row.attempts + counts, error=error)


def _end(connection: sa.Connection, row: Forward, now: datetime) -> None:
    """All of a study has been answered to."""
    _, refused = count_forwarded(connection, [row.id])[row.id]
    error = f"{refused} instances were refused." if refused else ""
    if refused:
        log.error("forward %d to %s: %s", row.id, row.destination, error)
    write_forward(connection, row.id, state="refused" if refused else "done", error=error, done_at=now)


# -- the jobs of destinations ------------------------------------------------------------------------------------------


def go_on(connection: sa.Connection, queue: Queue, destination: str, at: datetime) -> None:
    """Have a destination looked after at a time, or when it is to be left alone no more; asked for twice, it is done
    once."""
    name = f"{_KIND} {destination}"
    run_at = read_way(connection, destination).opens_at(at)
    queue.enqueue(connection, _KIND, {"destination": destination}, lane=name, key=name, run_at=run_at)


def remember_forwards(engine: sa.Engine, queue: Queue, now: datetime) -> int:
    """See to it that a job goes to each destination for which something has waited for a while."""
    with engine.connect() as connection:
        destinations = waiting_destinations(connection, now - _FORGOTTEN)
    for destination in destinations:
        with begin_write(engine) as connection:
            go_on(connection, queue, destination, now)
    return len(destinations)
