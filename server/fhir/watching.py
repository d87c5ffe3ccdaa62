"""From what happens to the events that subscriptions tell of.

What happens becomes a job in the transaction in which it happens, where anybody is to be told. The job looks which
resources now meet which criteria, each with the eyes of whoever wrote the subscription, and appends the events. So what
was changed again in the meantime is told of once, as it is now.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import batched

import sqlalchemy as sa

from readingroom.errors import NotFound, ReadingRoomError
from readingroom.events import EscalationOpened, ItemChanged, StudyChanged, StudySettled
from server.announce import on_event
from server.fhir.access import require
from server.fhir.query import parse_query
from server.fhir.registry import REGISTRY
from server.fhir.search import allowed, run
from server.fhir.session import CHANGED
from server.fhir.subscriptions import as_asker, enqueue_delivery, pairs_of
from server.fhir.topics import ON_THEIR_OWN, TOPICS, What
from server.queue import Job
from server.room import Room
from storage.catalog.events import Event
from storage.catalog.fhir_subscriptions import Subscription, append_notification, is_watched, live_subscriptions
from storage.catalog.ids import study_fhir_id

log = logging.getLogger(__name__)

_AT_ONCE = 100


@dataclass(frozen=True, slots=True, kw_only=True)
class Happened:
    """One thing that happened to a resource.

    `cause` is what a topic tells of it once for; empty, and to who has a search: the version that it has when that is
    looked at. `context` is a reference to what it is about besides.
    """

    what: What
    type: str
    id: str
    cause: str = ""
    context: str = ""


def watch(room: Room) -> None:
    """Have the queue find who is to be told of what happens; before the worker starts."""

    @room.queue.on(CHANGED)
    def written(job: Job) -> None:
        told = [
            Happened(what="written", type=type, id=id)
            for type, id, _version in job.payload["resources"]
            if type not in ON_THEIR_OWN
        ]
        tell(room, job, told)

    def studies(connection: sa.Connection) -> bool:
        return is_watched(connection, ("ImagingStudy",))

    def tasks(connection: sa.Connection) -> bool:
        return is_watched(connection, ("Task",))

    @on_event(room.queue, StudySettled.__name__, by="fhir", if_wanted=studies)
    def settled(job: Job, event: Event) -> None:
        cause = f"settled {event.payload.get('revision', 1)}"
        tell(room, job, [Happened(what="settled", type="ImagingStudy", id=_study(event), cause=cause)])

    @on_event(room.queue, StudyChanged.__name__, by="fhir", if_wanted=studies)
    def changed(job: Job, event: Event) -> None:
        tell(room, job, [Happened(what="changed", type="ImagingStudy", id=_study(event))])

    @on_event(room.queue, ItemChanged.__name__, by="fhir", if_wanted=tasks)
    def moved(job: Job, event: Event) -> None:
        tell(room, job, [Happened(what="item", type="Task", id=event.payload["item"])])

    @on_event(room.queue, EscalationOpened.__name__, by="fhir", if_wanted=studies)
    def opened(job: Job, event: Event) -> None:
        if event.payload.get("category") is None or event.study_uid is None:
            return
        context = f"Task/{event.item}" if event.item else ""
        cause = f"escalation {event.payload['escalation']}"
        tell(
            room,
            job,
            [Happened(what="critical", type="ImagingStudy", id=_study(event), cause=cause, context=context)],
        )


def tell(room: Room, job: Job, happened: Sequence[Happened]) -> None:
    """Append the events that follow, have them delivered, and end the job."""
    with room.engine.connect() as connection:
        found = list(_events(room, connection, happened)) if happened else []
    with job.finishing() as connection:
        now = room.clock.now()
        rids = {
            rid: None
            for rid, one, version, cause in found
            if append_notification(
                connection,
                rid,
                type=one.type,
                id=one.id,
                version=version,
                cause=cause,
                context=one.context,
                at=now,
            )
        }
        for rid in rids:
            enqueue_delivery(room, connection, rid)


def _events(
    room: Room, connection: sa.Connection, happened: Sequence[Happened]
) -> Iterator[tuple[int, Happened, int, str]]:
    """Which subscription is to tell of what, of which version, and what for."""
    for subscription in live_subscriptions(connection, {one.type for one in happened}):
        concerned = [one for one in happened if _concerns(subscription, one)]
        for some in batched(concerned, _AT_ONCE):
            try:
                versions = _matching(room, connection, subscription, sorted({one.id for one in some}))
            except ReadingRoomError as error:
                log.warning("subscription %s cannot be looked at: %s", subscription.id, error.message)
                continue
            for one in some:
                if one.id in versions:
                    version = versions[one.id]
                    cause = one.cause if subscription.wish.topic is not None else ""
                    yield subscription.rid, one, version, cause or f"version {version}"


def _concerns(subscription: Subscription, one: Happened) -> bool:
    wish = subscription.wish
    if wish.type != one.type:
        return False
    if wish.topic is None:
        return one.what in ON_THEIR_OWN.get(one.type, ("written",))
    topic = TOPICS.get(wish.topic)
    return topic is not None and topic.what == one.what


def _matching(room: Room, connection: sa.Connection, subscription: Subscription, ids: Sequence[str]) -> dict[str, int]:
    """Of these resources those that meet the criteria, with their versions."""
    wish = subscription.wish
    session = as_asker(room, connection, subscription)
    pairs = pairs_of(wish.criteria)
    if wish.topic is not None:
        pairs += TOPICS[wish.topic].condition
    if pairs:
        query = parse_query(wish.type, [*pairs, ("_id", ",".join(ids))], root=session.root, is_strict=True)
        found = [id for _type, id in run(session, replace(query, count=len(ids), total="none")).matches]
    else:
        require(session, wish.type, "s")
        found = [id for _type, id in allowed(session, [(wish.type, id) for id in ids], "s")]
    shown = REGISTRY[wish.type].read(session, found) if found else []
    return {one.id: one.version for one in shown if not one.is_deleted}


def _study(event: Event) -> str:
    if event.facility is None or event.study_uid is None:
        raise NotFound("An event of a study names it.")
    return study_fhir_id(event.facility, event.study_uid)
