"""UPS event reports by DIMSE (PS3.4 CC.2.4): calls the AEs for whom reports wait, and tells them in their order.

It is the same channel that a WebSocket reads: an AE that has both gets each report once, by whichever is sooner.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator

import sqlalchemy as sa
from pydicom import Dataset

from server.associations.association import Proposal
from server.associations.commands import (
    AFFECTED_CLASS,
    AFFECTED_INSTANCE,
    COMMENT,
    EVENT_TYPE,
    FIELD,
    N_EVENT_REPORT,
    STATUS,
    CommandSet,
)
from server.associations.requesting import Outcome, Unsuccessful, call_as
from server.peers import Peers
from server.queue import Job, Policy, Queue
from server.settings import DimsePeer, Settings
from storage.catalog.engine import begin_write
from storage.catalog.subscriptions import KEPT, Subscriber, Waiting, note_sent, sent_so_far, waited_for, waiting_reports
from storage.upsrules import PUSH

log = logging.getLogger(__name__)

EVENT = "1.2.840.10008.5.1.4.34.6.4"
"""The SOP class that reports are negotiated with (PS3.4 CC.3.1)."""

CALL = "ups-reports"
"""The kind of job that calls one AE."""

_AT_ONCE = 100
_MOST_JOBS = 10_000
_TRIED_AGAIN = (0x0110, 0x0213)
"""Processing failure, resource limitation; who says anything else has heard the report, and does not want it."""


class Notifying:
    """Whom to call, and what they are told."""

    def __init__(self, *, engine: sa.Engine, queue: Queue, peers: Peers, settings: Settings) -> None:
        self._engine = engine
        self._queue = queue
        self._peers = peers
        self._settings = settings

    def register(self) -> None:
        """Have the queue call; a peer that does not answer is called again for as long as reports are kept."""
        self._queue.on(CALL, Policy(attempts=1000, within=KEPT))(self._call)

    def look(self) -> int:
        """Have those called for whom something waits, unless they are about to be; returns how many."""
        aes = [ae for ae, peer in self._peers.known().items() if peer.host is not None]
        if not aes:
            return 0
        with self._engine.connect() as connection:
            waited = waited_for(connection, aes)
        if not waited:
            return 0
        entries = self._queue.entries(kind=CALL, limit=_MOST_JOBS)
        called = {entry.key for entry in entries if entry.state != "dead"}
        due = [one for one in waited if _key(one) not in called]
        if due:
            with begin_write(self._engine) as connection:
                for one in due:
                    self._queue.enqueue(connection, CALL, one._asdict(), lane=_key(one), key=_key(one))
        return len(due)

    def _call(self, job: Job) -> None:
        subscriber = Subscriber(**job.payload)
        peer = self._peers.of(subscriber.ae)
        if peer is None or peer.host is None:
            return  # no more
        reports = self._waiting(subscriber)
        first = next(reports, None)
        if first is None:
            return
        with call_as(self._settings, peer, [Proposal(sop_class=EVENT, has_stores=True)]) as called:
            report: Waiting | None = first
            while report is not None:
                command: CommandSet = {
                    FIELD: N_EVENT_REPORT,
                    AFFECTED_CLASS: PUSH,
                    AFFECTED_INSTANCE: report.workitem_uid,
                    EVENT_TYPE: report.type,
                }
                answer, _ = called.request(EVENT, command, Dataset.from_json(report.attributes))
                self._heard(peer, subscriber, report, answer)
                report = next(reports, None)

    def _heard(self, peer: DimsePeer, subscriber: Subscriber, report: Waiting, answer: CommandSet) -> None:
        outcome = Outcome(status=int(answer.get(STATUS, 0x0110)), comment=str(answer.get(COMMENT, "")))
        if outcome.status in _TRIED_AGAIN:
            raise Unsuccessful(f"{peer.ae} does not take an event report: {outcome}.", status=outcome.status)
        if outcome.status:
            log.warning("%s does not want an event report of type %d: %s", peer.ae, report.type, outcome)
        with begin_write(self._engine) as connection:
            note_sent(connection, subscriber, report.sequence)

    def _waiting(self, subscriber: Subscriber) -> Iterator[Waiting]:
        with self._engine.connect() as connection:
            sent = sent_so_far(connection, subscriber)
        while True:
            with self._engine.connect() as connection:
                some = waiting_reports(connection, subscriber, after=sent, limit=_AT_ONCE)
            if not some:
                return
            yield from some
            sent = some[-1].sequence


def _key(subscriber: Subscriber) -> str:
    return f"{CALL} {subscriber.ae} {subscriber.realm}"
