"""Instance Availability Notification (PS3.4 annex R): tells peers that want to know that a study is here.

A study that has settled is told to each peer with `wants_availability`, of its facility or one that sees all, by a job
of its own: the peer that does not answer is called again, and holds up no other.
"""

from __future__ import annotations

import uuid
from collections.abc import Iterator, Sequence
from itertools import groupby

import sqlalchemy as sa
from pydicom import Dataset

from readingroom.errors import NotFound
from readingroom.events import StudySettled
from readingroom.model import Scope
from server.announce import on_event
from server.associations.association import Proposal
from server.associations.commands import AFFECTED_INSTANCE, COMMENT, FIELD, N_CREATE, STATUS, CommandSet
from server.associations.requesting import Outcome, Unsuccessful, call_as
from server.peers import Peers
from server.queue import Job, Policy, Queue
from server.settings import DimsePeer, Settings
from storage.catalog.events import Event
from storage.catalog.find import StoredInstance, find_study, list_instances
from storage.catalog.ups import element
from storage.objects import MetadataJson

NOTIFICATION = "1.2.840.10008.5.1.4.33"
TELL = "availability"
"""The kind of job that tells one peer of one study."""

UNTIL_TOLD = Policy(attempts=1000)
_DUPLICATE = 0x0111
_NOTICES = uuid.UUID("5f1c3e0a-6f2a-5b8e-9a55-3b1d0c5a7f42")


class Availability:
    """Whom to tell, and what of."""

    def __init__(self, *, engine: sa.Engine, queue: Queue, peers: Peers, settings: Settings) -> None:
        self._engine = engine
        self._queue = queue
        self._peers = peers
        self._settings = settings

    def register(self) -> None:
        """Have the queue tell peers of what settles."""
        on_event(self._queue, StudySettled.__name__, by=TELL, if_wanted=lambda _: any(self._wanting()))(self._follow)
        self._queue.on(TELL, UNTIL_TOLD)(self._tell)

    def _wanting(self) -> Iterator[DimsePeer]:
        return (peer for peer in self._peers.known().values() if peer.wants_availability)

    def _follow(self, job: Job, event: Event) -> None:
        told = {"study_uid": event.study_uid, "facility": event.facility}
        with job.finishing() as connection:
            for peer in self._wanting():
                if peer.sees_all or (peer.facility or self._settings.facility) == event.facility:
                    key = f"{TELL} {peer.ae} {event.facility} {event.study_uid}"
                    self._queue.enqueue(connection, TELL, {**told, "ae": peer.ae}, lane=key, key=key)

    def _tell(self, job: Job) -> None:
        peer = self._peers.of(job.payload["ae"])
        if peer is None or not peer.wants_availability:
            return  # no more
        scope = Scope(facilities=frozenset((job.payload["facility"],)))
        try:
            with self._engine.connect() as connection:
                instances = list_instances(connection, find_study(connection, scope, job.payload["study_uid"]))
        except NotFound:
            instances = []
        if not instances:
            return  # it has been deleted since
        settings = self._settings
        told = notice_of(instances, ae_title=settings.dimse.ae_title, public_url=settings.public_url)
        command: CommandSet = {FIELD: N_CREATE, AFFECTED_INSTANCE: notice_uid(job.delivery)}
        with call_as(settings, peer, [Proposal(sop_class=NOTIFICATION)]) as called:
            answer, _ = called.request(NOTIFICATION, command, Dataset.from_json(told))
        outcome = Outcome(status=int(answer.get(STATUS, 0x0110)), comment=str(answer.get(COMMENT, "")))
        if not outcome.is_kept and outcome.status != _DUPLICATE:  # which it has had before
            raise Unsuccessful(f"{peer.ae} does not take the notification: {outcome}.", status=outcome.status)


def notice_uid(delivery: str) -> str:
    """The SOP Instance UID of a notification: the same on every attempt, so that a peer can tell what it has had."""
    return f"2.25.{uuid.uuid5(_NOTICES, delivery).int}"


def notice_of(instances: Sequence[StoredInstance], *, ae_title: str, public_url: str | None) -> MetadataJson:
    """The attributes of a notification (PS3.4 Table R.3.2-1): every instance of a study, where and how it is had.

    Parameters
    ----------
    instances
        Those of one study, at least one, series by series.
    public_url
        Where web clients reach this server, if that is known.
    """
    study_uid = instances[0].study_uid
    series = []
    for series_uid, some in groupby(instances, key=lambda one: one.series_uid):
        items = []
        for one in some:
            item: MetadataJson = {
                "00080054": element("AE", ae_title),
                "00080056": element("CS", "ONLINE"),
                "00081150": element("UI", one.sop_class),
                "00081155": element("UI", one.instance_uid),
            }
            if public_url:
                path = f"/dicomweb/studies/{study_uid}/series/{series_uid}/instances/{one.instance_uid}"
                item["00081190"] = element("UR", public_url.rstrip("/") + path)
            items.append(item)
        series.append({"00081199": element("SQ", *items), "0020000E": element("UI", series_uid)})
    return {
        "00081111": element("SQ"),
        "00081115": element("SQ", *series),
        "0020000D": element("UI", study_uid),
    }
