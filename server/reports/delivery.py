"""Signed reports on their way to those who are to have them: nothing is lost, and what goes wrong is loud.

A version that is signed gets a row for each destination of its facility, in one transaction; what has gone to one
before is followed there by every later version, whatever the destination has become since: a correction has to reach
whom the error has reached. The rows are the queue of a destination, and one job at a time sends what they hold. So
what goes one way goes in its order, and a receiver that is away is asked once in a while, however much waits for it, by
a job that holds up no other.

A report may come twice, where somebody died between sending it and hearing the answer; then it bears the same control
id. After a day it is given up, and a person is called (`server.worklist.escalations`).
"""

from __future__ import annotations

import logging
import time
from base64 import b64encode
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import Any, Protocol

import sqlalchemy as sa

from readingroom.clock import Clock
from readingroom.errors import (
    Conflict,
    GiveUp,
    NotFound,
    PluginFailed,
    ReadingRoomError,
    RetryLater,
    Unavailable,
    Unprintable,
    Unreachable,
)
from readingroom.events import ReportSigned
from readingroom.jsonio import dumps
from readingroom.model import DELIVERED, Destination, Facility, Report, Rung
from readingroom.results import Receipt
from server.announce import on_event
from server.queue import Job, NotBegun, Policy, Queue, reason_of
from server.worklist.directory import destinations_of, facility_of
from server.worklist.escalations import open_escalation
from server.worklist.items import EVERYWHERE, THE_SERVER, Work
from storage.catalog.deliveries import (
    DeliveryState,
    StoredDelivery,
    Way,
    add_delivery,
    begin_attempt,
    deliveries_of,
    end_attempt,
    end_late,
    find_delivery,
    next_delivery,
    next_time,
    queue_again,
    read_way,
    waiting_ways,
    write_way,
)
from storage.catalog.engine import begin_write, is_outage
from storage.catalog.escalations import find_escalation
from storage.catalog.events import Event
from storage.catalog.reports import find_report, find_version
from storage.destinations import address_problem, options_problem

log = logging.getLogger(__name__)

GIVEN_UP_AFTER = timedelta(days=1)
ACCEPTED, DEAD = "DeliveryAccepted", "DeliveryDead"

_KIND = "deliver"
_RULES = Policy(attempts=20, first=timedelta(seconds=2), most=timedelta(minutes=1))
_SENDS = Policy(attempts=20, first=timedelta(seconds=2), most=timedelta(minutes=5))
_HOLDS = Policy(first=timedelta(seconds=5), most=timedelta(hours=1))
"""How long one report waits that was not taken for now."""
_AWAY = Policy(first=timedelta(seconds=2), most=timedelta(minutes=5))
"""How long a destination is left alone."""
_MANY = 3
"""After so many failures, one after the other and of whatever reports, it is the destination that is away."""
_LONG = 12
"""After so many, which take some twenty minutes, the desk is called, though nothing is lost yet."""
_TURN_SECONDS = 2.0
"""A job that has sent for so long lets others have its thread, and goes on behind them."""
_LADDER = (
    Rung(number=1, role="desk", after=timedelta(0)),
    Rung(number=2, role="supervisor", after=timedelta(minutes=15)),
)
_FORGOTTEN = timedelta(seconds=30)
_AT_ONCE = 100
_FIRST = 100
"""Priority of the jobs: somebody waits for a report."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Sending:
    """What a channel is told beside the report and its destination.

    `control_id` is the same on every attempt: 20 characters, hexadecimal digits. `attempt` counts from 1 those in which
    somebody was there.
    """

    control_id: str
    attempt: int
    at: datetime
    facility: Facility


Channel = Callable[[Report, Destination, Sending], Receipt]
"""Hands a report over. It returns what the receiver has answered, and raises `Unreachable` where nobody answers,
`RetryLater` where this report is not taken for now, and any other of our errors where it never will be."""

Reading = Callable[[sa.Connection, str, int], Report]


class Plugins(Protocol):
    """What is asked of `server.hooks.Hooks`."""

    def having(self, hook: str) -> tuple[str, ...]: ...
    def react(self, plugin: str, hook: str, *, delivery: str, attempt: int = 1, **arguments: Any) -> Any: ...


def read_version(connection: sa.Connection, report: str, number: int) -> Report:
    """A signed version as it is kept."""
    return find_version(connection, report, number).shown


@dataclass(frozen=True, slots=True, kw_only=True)
class Deliveries:
    """Delivers what is signed; `register` gives its jobs to the queue.

    Attributes
    ----------
    pdf
        Makes the PDF of a report, for plugins.
    channels
        By the name of a channel what carries it; the others are those of plugins.
    read
        Gives a signed version, and raises where it is not what was signed.
    """

    engine: sa.Engine
    clock: Clock
    queue: Queue
    hooks: Plugins
    pdf: Callable[[Report], bytes]
    channels: Mapping[str, Channel] = field(default_factory=dict)
    read: Reading = read_version

    def register(self) -> None:
        """Have the queue run these; before the worker starts."""
        on_event(self.queue, ReportSigned.__name__, _RULES, by="delivery")(self._signed)
        self.queue.on(_KIND, _SENDS)(self._send)

    def _signed(self, job: Job, event: Event) -> None:
        report, number = event.payload["report"], event.payload["number"]
        with job.finishing() as connection:
            queue_version(self._work(connection), self.queue, report, number)

    # -- what goes one way -------------------------------------------------------------------------------------------

    def _send(self, job: Job) -> None:
        """Send what is to go to one destination, for a while; what is left is another job's."""
        owner, destination = job.payload["owner"], job.payload["destination"]
        until = time.monotonic() + _TURN_SECONDS
        while time.monotonic() < until and self._send_one(owner, destination):
            pass
        with job.finishing() as connection:
            at = next_time(connection, owner, destination)
            if at is not None:
                go_on(connection, self.queue, owner, destination, at)

    def _send_one(self, owner: str, destination: str) -> bool:
        """Make one attempt; False where there is nothing to send now."""
        with begin_write(self.engine) as connection:
            now, way = self.clock.now(), read_way(connection, owner, destination)
            if way.retry_at is not None and way.retry_at > now:
                return False
            row = next_delivery(connection, owner, destination, now)
            if row is None:
                return False
            where = _current(connection, row)
            facility = facility_of(connection, row.facility)
            attempt = begin_attempt(connection, row, where, now)
        sending = Sending(control_id=row.control_id, attempt=row.attempts + 1, at=now, facility=facility)
        outcome: Receipt | BaseException
        try:
            outcome = self._hand_over(row, where, sending)
        except Exception as error:
            # The worker loop of a destination: whatever a channel raises, it is of this delivery alone.
            if is_outage(error):
                raise
            outcome = error
        with begin_write(self.engine) as connection:
            self._note(self._work(connection), row, attempt, outcome)
        return True

    def _hand_over(self, row: StoredDelivery, where: Destination, sending: Sending) -> Receipt:
        problem = address_problem(where.channel, where.address) or options_problem(where.channel, where.options)
        if problem is not None:
            raise GiveUp(f"Destination {where.id} of facility {where.facility} is not right: {problem}.")
        with self.engine.connect() as connection:
            report = self.read(connection, row.report, row.number)
        channel = self.channels.get(where.channel)
        if channel is not None:
            return channel(report, where, sending)
        for plugin in self.hooks.having("deliver_report"):
            told = {"report": report, "destination": where, "pdf": self._document(report)}
            receipt: Receipt | None = self.hooks.react(
                plugin, "deliver_report", delivery=sending.control_id, attempt=sending.attempt, **told
            )
            if receipt is not None:
                return receipt
        raise GiveUp(f"Nothing here carries the channel {where.channel}.")

    def _document(self, report: Report) -> str | None:
        try:
            return b64encode(self.pdf(report)).decode()
        except Unprintable:
            return None

    # -- how it went -------------------------------------------------------------------------------------------------

    def _note(self, work: Work, row: StoredDelivery, attempt: int, outcome: Receipt | BaseException) -> None:
        """Write down how an attempt went, and all that follows from it."""
        way = read_way(work.connection, row.owner, row.destination)
        state, error, values = self._judged(row, outcome, work.now)
        if not end_attempt(work.connection, row.id, attempt, work.now, state, error, **values):
            return
        failed: list[StoredDelivery] = [row] if state in ("refused", "dead") else []
        if state == "accepted":
            tell(work, row, ACCEPTED, state=state)
        if _is_failure(outcome):
            log.warning("delivery %d (%s) has failed: %s", row.id, row.channel, error)
            way, late = self._left_alone(work, way, row, outcome, error)
            failed += late
        elif way.failures and not isinstance(outcome, NotBegun):
            way = replace(way, failures=0, retry_at=None)
            write_way(work.connection, way)
        if failed:
            self._lament(work, failed, way, state if state == "refused" else "dead", error)
        work.tell()

    def _judged(
        self, row: StoredDelivery, outcome: Receipt | BaseException, now: datetime
    ) -> tuple[DeliveryState, str, dict[str, Any]]:
        """What an attempt came to: the state, why, and what else is written of it."""
        if isinstance(outcome, Receipt):
            ended = {"receipt": dumps(outcome), "done_at": now}
            if outcome.accepted:
                return "accepted", "", ended
            # What the receiver says in words may name the patient: that is in the receipt alone.
            return "refused", f"The receiver refused it ({outcome.code or 'without a code'}); see the receipt.", ended
        error = reason_of(outcome)
        if not _is_failure(outcome) and not isinstance(outcome, NotBegun):
            return "dead", error, {"done_at": now}
        if now - row.queued_at >= GIVEN_UP_AFTER:
            return "dead", error, {"done_at": now}
        if not isinstance(outcome, ReadingRoomError):
            log.error("delivery %d (%s) failed", row.id, row.channel, exc_info=outcome)
        if isinstance(outcome, Unreachable):
            return "queued", error, {"next_at": now, "attempts": row.attempts}
        if isinstance(outcome, NotBegun):
            return "queued", error, {"next_at": now + outcome.after, "attempts": row.attempts}
        wait = _HOLDS.wait(row.attempts + 1)
        if isinstance(outcome, RetryLater):
            wait = max(wait, outcome.after)
        return "queued", error, {"next_at": now + wait}

    def _left_alone(
        self, work: Work, way: Way, row: StoredDelivery, outcome: Receipt | BaseException, error: str
    ) -> tuple[Way, list[StoredDelivery]]:
        """One failure more at a destination. One that is away is left alone for a while, and what has waited too long
        for it is given up."""
        way = replace(way, failures=way.failures + 1)
        late: list[StoredDelivery] = []
        if isinstance(outcome, Unreachable) or way.failures >= _MANY:
            way = replace(way, retry_at=work.now + _AWAY.wait(way.failures))
            before = work.now - GIVEN_UP_AFTER
            late = end_late(work.connection, way.owner, way.destination, before, work.now, error, _AT_ONCE)
        write_way(work.connection, way)
        if way.failures == _LONG and not late:
            way = self._call(work, way, row, error)
        return way, late

    def _lament(self, work: Work, rows: list[StoredDelivery], way: Way, state: DeliveryState, error: str) -> None:
        """Tell of what has ended badly, and have somebody called."""
        for row in rows:
            log.error("delivery %d (%s) is %s: %s", row.id, row.channel, state, error)
            tell(work, row, DEAD, state=state, error=error)
        self._call(work, way, rows[0], error)

    def _call(self, work: Work, way: Way, row: StoredDelivery, error: str) -> Way:
        """Have somebody called, unless somebody is being called about this destination already."""
        if way.escalation is not None:
            try:
                if find_escalation(work.connection, EVERYWHERE, way.escalation).state == "open":
                    return way
            except NotFound:
                pass
        opened = open_escalation(
            work,
            key=f"delivery {row.id} {work.now.isoformat()}",
            facility=row.owner,
            item=row.item,
            study_uid=row.study_uid,
            reason=f"A report does not reach destination {row.destination} of facility {row.owner} "
            f"(delivery {row.id}): {error}"[:1000],
            ladder=_LADDER,
            details={"delivery": row.id, "report": row.report, "number": row.number, "destination": row.destination},
        )
        way = replace(way, escalation=opened.id)
        write_way(work.connection, way)
        return way

    def _work(self, connection: sa.Connection) -> Work:
        return Work(connection=connection, now=self.clock.now(), actor=THE_SERVER, queue=self.queue)


# -- commands ----------------------------------------------------------------------------------------------------------


def queue_version(work: Work, queue: Queue, report: str, number: int) -> None:
    """Have a signed version go to all who are to have it: however often it is called, once."""
    connection = work.connection
    stored = find_report(connection, EVERYWHERE, report)
    status = find_version(connection, report, number).status
    earlier = {(row.owner, row.destination): row for row in deliveries_of(connection, report) if row.number < number}
    going = {key: row.where for key, row in earlier.items() if row.state != "skipped"}
    current = {(one.facility, one.id): one for one in destinations_of(connection, stored.facility)}
    if status not in DELIVERED:
        return
    for key, where in {**going, **current}.items():
        is_wanted = key in going or (where.is_active and status in where.statuses)
        why = "" if is_wanted else "It does not take this status." if where.is_active else "It is not active."
        is_added = add_delivery(
            connection,
            where,
            report=report,
            number=number,
            facility=stored.facility,
            lane=stored.accession_number or stored.study_uid or report,
            study_uid=stored.study_uid,
            item=stored.item,
            state="queued" if is_wanted else "skipped",
            error=why,
            queued_at=work.now,
            next_at=work.now,
            done_at=None if is_wanted else work.now,
        )
        if is_added and is_wanted:
            go_on(connection, queue, *key, work.now)


def repeat_delivery(work: Work, queue: Queue, id: int, *, is_new: bool = False) -> StoredDelivery:
    """Have a delivery go at once: one that is done once more, one that waits without waiting longer.

    Parameters
    ----------
    is_new
        Under another control id, for a receiver that would take it for what it has already.

    Raises
    ------
    Conflict
        A later version has been there already.
    """
    row = find_delivery(work.connection, work.scope, id, locked=True)
    way = read_way(work.connection, row.owner, row.destination)
    later = (
        one
        for one in deliveries_of(work.connection, row.report)
        if (one.owner, one.destination) == (row.owner, row.destination) and one.number > row.number
    )
    if any(one.attempts or one.state == "accepted" for one in later):
        raise Conflict(f"A later version of report {row.report} has gone to {row.destination}; repeat that one.")
    where = _current(work.connection, row)
    queue_again(work.connection, row, where, work.now, is_new=is_new)
    write_way(work.connection, replace(way, failures=0, retry_at=None))
    tell(work, row, "DeliveryRepeated", state="queued")
    go_on(work.connection, queue, row.owner, row.destination, work.now)
    return find_delivery(work.connection, work.scope, id)


def remember_ways(engine: sa.Engine, queue: Queue, now: datetime) -> int:
    """See to it that a job goes to each destination for which something has waited for a while."""
    with engine.connect() as connection:
        ways = waiting_ways(connection, now - _FORGOTTEN)
    for owner, destination in ways:
        with begin_write(engine) as connection:
            go_on(connection, queue, owner, destination, now)
    return len(ways)


def go_on(connection: sa.Connection, queue: Queue, owner: str, destination: str, at: datetime) -> None:
    """Have a destination looked after at a time, or when it is left alone no more; asked for twice, it is done once."""
    retry_at = read_way(connection, owner, destination).retry_at
    name, told = f"{_KIND} {owner} {destination}", {"owner": owner, "destination": destination}
    run_at = at if retry_at is None else max(at, retry_at)
    queue.enqueue(connection, _KIND, told, lane=name, key=name, run_at=run_at, priority=_FIRST)


def tell(work: Work, row: StoredDelivery, what: str, **told: Any) -> None:
    """Have the log told of what became of a delivery."""
    known = {"delivery": row.id, "report": row.report, "number": row.number, "destination": row.destination}
    work.note(what, {**known, **told}, facility=row.facility, study_uid=row.study_uid, item=row.item)


def _is_failure(outcome: Receipt | BaseException) -> bool:
    """Whether it may go well the next time."""
    if isinstance(outcome, Receipt | NotBegun):
        return False
    return isinstance(outcome, Unavailable | PluginFailed) or not isinstance(outcome, ReadingRoomError)


def _current(connection: sa.Connection, row: StoredDelivery) -> Destination:
    """A destination as the directory has it now; where it has it no more, as it was when something last went there."""
    there = destinations_of(connection, row.owner)
    return next((one for one in there if (one.facility, one.id) == (row.owner, row.destination)), row.where)
