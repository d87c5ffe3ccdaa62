"""Notifications: how they look, and how they reach whoever subscribed.

Each subscription has its lane in the queue: its events go out one after the other, in the order of their numbers, and
the next one only when the last was taken. What is not taken is sent again, later and later; after some failures the
subscription's status says so, and goes back once something is taken. An event may be sent twice, but never not at all
while it is kept.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Literal
from urllib.parse import urlsplit
from uuid import uuid4

import sqlalchemy as sa

from readingroom.errors import GiveUp, RetryLater
from readingroom.outbound import SECONDS, allowed_addresses, call, origin_of
from server.fhir import wire
from server.fhir.access import limit_of
from server.fhir.registry import REGISTRY
from server.fhir.search import is_allowed
from server.fhir.session import Session
from server.fhir.shown import Shown, instant
from server.fhir.subscriptions import DELIVER, as_asker, as_server, enqueue_delivery, hold, note_status
from server.fhir.topics import BACKPORT
from server.fhir.types import Resource
from server.queue import Job, NotBegun, Policy
from server.room import Room
from storage.catalog.engine import begin_write
from storage.catalog.fhir_subscriptions import (
    KEPT,
    Notification,
    Subscription,
    change_subscription,
    due_subscriptions,
    find_subscription,
    prune_notifications,
    read_notifications,
)

log = logging.getLogger(__name__)

Kind = Literal["handshake", "heartbeat", "event-notification", "query-status", "query-event"]

FAILURES = 5
"""After so many in a row the status of a subscription is error; it is tried again none the less."""
AGAIN = Policy(first=timedelta(seconds=2), most=timedelta(minutes=10))
"""How long is waited between tries."""

MOST_EVENTS = 50
"""Of one notification, where the subscriber does not say otherwise."""
_MOST_BYTES = 8 << 20
_STRETCH_SECONDS = 15.0
_BUSY = timedelta(seconds=1)
_DUE_AT_ONCE = 200


# -- how they look -----------------------------------------------------------------------------------------------------


def status_parameters(
    subscription: Subscription, kind: Kind, events: Sequence[Notification] = (), *, content: str | None = None
) -> Resource:
    """The state of a subscription, as a Parameters resource (backport-subscription-status-r4)."""
    wish, root = subscription.wish, subscription.asker.root
    shows = (content or wish.content) != "empty"
    told: list[dict[str, Any]] = [
        {"name": "subscription", "valueReference": {"reference": f"{root}/Subscription/{subscription.id}"}},
        *([{"name": "topic", "valueCanonical": wish.topic}] if wish.topic is not None else []),
        {"name": "status", "valueCode": subscription.status},
        {"name": "type", "valueCode": kind},
        {"name": "events-since-subscription-start", "valueString": str(subscription.number)},
        *({"name": "notification-event", "part": list(_event_parts(one, root, shows))} for one in events),
    ]
    if subscription.error:
        told.append({"name": "error", "valueCodeableConcept": {"text": subscription.error}})
    profile = f"{BACKPORT}/StructureDefinition/backport-subscription-status-r4"
    return {"resourceType": "Parameters", "id": str(uuid4()), "meta": {"profile": [profile]}, "parameter": told}


def _event_parts(one: Notification, root: str, shows: bool) -> Iterator[dict[str, Any]]:
    yield {"name": "event-number", "valueString": str(one.number)}
    yield {"name": "timestamp", "valueInstant": instant(one.at)}
    if shows:
        yield {"name": "focus", "valueReference": {"reference": f"{root}/{one.type}/{one.id}"}}
        if one.context:
            yield {"name": "additional-context", "valueReference": {"reference": f"{root}/{one.context}"}}


def notification(
    session: Session,
    subscription: Subscription,
    kind: Kind,
    events: Sequence[Notification] = (),
    *,
    content: str | None = None,
) -> Resource:
    """A notification as a Bundle (backport-subscription-notification-r4); resources in it are those of the session."""
    content = content or subscription.wish.content
    status = status_parameters(subscription, kind, events, content=content)
    where = f"{subscription.asker.root}/Subscription/{subscription.id}/$status"
    entries = [_entry(f"urn:uuid:{status['id']}", "GET", where, resource=status)]
    if content != "empty":
        keys = dict.fromkeys((one.type, one.id, one.version) for one in events)
        for type, id, version in keys:
            url = f"{subscription.asker.root}/{type}/{id}"
            shown = resource_of(session, type, id, version) if content == "full-resource" else None
            method = "GET" if shown is None else ("POST" if shown.version == 1 else "PUT")
            entries.append(_entry(url, method, type if method == "POST" else f"{type}/{id}", resource=shown))
    profile = f"{BACKPORT}/StructureDefinition/backport-subscription-notification-r4"
    return {
        "resourceType": "Bundle",
        "id": str(uuid4()),
        "meta": {"profile": [profile]},
        "type": "history",
        "timestamp": instant(session.now),
        "entry": entries,
    }


def _entry(url: str, method: str, asked: str, *, resource: Shown | Resource | None) -> dict[str, Any]:
    told = {"fullUrl": url, **({} if resource is None else {"resource": resource})}
    status = "201" if method == "POST" else "200"
    return {**told, "request": {"method": method, "url": asked}, "response": {"status": status}}


def resource_of(session: Session, type: str, id: str, version: int) -> Shown | None:
    """That version of a resource, or the current one where it is not kept; None where it may not be seen any more."""
    if not is_allowed(session, type, id, "r"):
        return None
    found = [one for one in REGISTRY[type].read(session, (id,)) if not one.is_deleted]
    if len(found) != 1:
        return None
    if limit_of(session, type, "r") is not None:
        return found[0]  # what an earlier version said may be none of theirs
    return found[0] if found[0].version == version else REGISTRY[type].version(session, id, version) or found[0]


# -- how they go out ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class _Request:
    """What is to be sent, and the number of the last event that it tells of."""

    method: str
    url: str
    body: bytes
    media_type: str = ""
    told: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Deliveries:
    """Does what is to be done for subscriptions.

    `places` leaves a thread to other work, however slow subscribers are to answer.
    """

    room: Room
    places: threading.BoundedSemaphore

    def deliver(self, job: Job) -> None:
        """Go on with one subscription until there is nothing to do now."""
        if not self.places.acquire(blocking=False):
            raise NotBegun("Enough others are being told just now.", after=_BUSY)
        try:
            rid = job.payload["subscription"]
            until = time.monotonic() + _STRETCH_SECONDS
            while self._step(rid):
                if time.monotonic() > until:
                    with job.finishing() as connection:
                        enqueue_delivery(self.room, connection, rid)
                    return
        finally:
            self.places.release()

    def _step(self, rid: int) -> bool:
        """Do the next thing; False where there is none, or it has to wait."""
        now = self.room.clock.now()
        with self.room.engine.connect() as connection:
            subscription = find_subscription(connection, rid)
            if subscription is None or subscription.status == "off":
                return False
            if subscription.wish.end_at is not None and subscription.wish.end_at <= now:
                self._note(subscription, "off", due_at=None)
                return False
            if self.room.tokens.renewed(connection, subscription.asker.actor) is None:
                self._note(subscription, "off", "The client that wrote it is registered no more.", due_at=None)
                return False
            if subscription.wish.channel == "websocket":
                if subscription.status != "active":
                    self._note(subscription, "active", due_at=subscription.wish.end_at)
                return False
            if subscription.failures and subscription.due_at is not None and subscription.due_at > now:
                return False
            request = self._next(connection, subscription, now)
        if request is None and subscription.status == "active":
            due_at = _due_at(subscription, subscription.told_at)
            if due_at != subscription.due_at:
                self._note(subscription, "active", due_at=due_at)
            return False
        try:
            if request is None:
                # R4 knows no handshake: that the way there is allowed is all that can be seen without an event.
                allowed_addresses(origin_of(subscription.wish.endpoint), self.room.settings.private_networks)
            else:
                _send(self.room, subscription, request)
        except (GiveUp, RetryLater) as error:
            self._failed(subscription, error, now)
            return False
        told = max(subscription.told, request.told if request is not None else 0)
        due_at = _due_at(subscription, now)
        self._note(subscription, "active", told=told, told_at=now, failures=0, failing_since=None, due_at=due_at)
        return True

    def _next(self, connection: sa.Connection, subscription: Subscription, now: datetime) -> _Request | None:
        """What is to be sent next; None where there is nothing."""
        wish = subscription.wish
        session = as_asker(self.room, connection, subscription)
        if wish.topic is not None and subscription.status != "active":
            return _posted(wish.endpoint, notification(session, subscription, "handshake"), wish.payload)
        if wish.topic is None:
            return _plain(session, subscription, connection)
        events = read_notifications(
            connection, subscription.rid, after=subscription.told, limit=wish.most_events or MOST_EVENTS
        )
        while events:
            bundle = notification(session, subscription, "event-notification", events)
            request = _posted(wish.endpoint, bundle, wish.payload, told=events[-1].number)
            if len(request.body) <= _MOST_BYTES or len(events) == 1:
                return request
            events = events[: len(events) // 2]
        heartbeat_at = _heartbeat_at(subscription, subscription.told_at)
        if heartbeat_at is not None and heartbeat_at <= now:
            return _posted(wish.endpoint, notification(session, subscription, "heartbeat"), wish.payload)
        return None

    def _failed(self, subscription: Subscription, error: GiveUp | RetryLater, now: datetime) -> None:
        failures = subscription.failures + 1
        since = subscription.failing_since or now
        status = subscription.status
        if failures >= FAILURES or isinstance(error, GiveUp):
            status = "error"
        if now - since >= KEPT:
            said = f"Switched off, since nothing was taken for {KEPT.days} days: {error.message}"
            log.error("subscription %s is switched off: %s", subscription.id, error.message)
            self._note(subscription, "off", said, failures=failures, failing_since=since, due_at=None)
            return
        log.warning("subscription %s was not told: %s", subscription.id, error.message)
        due_at = now + AGAIN.wait(failures)
        shown = error.message if status == "error" else ""
        self._note(subscription, status, shown, failures=failures, failing_since=since, due_at=due_at)

    def _note(self, subscription: Subscription, status: str, error: str = "", **values: Any) -> None:
        """Write down how it went, unless the subscriber wants something else by now."""
        with begin_write(self.room.engine) as connection:
            session = as_server(self.room, connection, subscription)
            current = hold(session, subscription)
            if current is None or _wanted(current) != _wanted(subscription):
                return
            if status == subscription.status and error == current.error:
                change_subscription(connection, subscription.rid, **values)
                return
            note_status(session, subscription, status, error, **values)
            session.tell()


def deliver_from(room: Room) -> None:
    """Have the queue deliver; before the worker starts."""
    places = threading.BoundedSemaphore(max(1, room.settings.job_threads - 1))
    room.queue.on(DELIVER)(Deliveries(room=room, places=places).deliver)


def look_due(room: Room, now: datetime) -> int:
    """Have done what falls due without an event: another try, a heartbeat, an end."""
    rids = room.query(due_subscriptions, now, _DUE_AT_ONCE)
    if rids:
        with begin_write(room.engine) as connection:
            for rid in rids:
                enqueue_delivery(room, connection, rid)
    return len(rids)


def forget_notifications(room: Room, now: datetime) -> int:
    """Forget events that are older than `KEPT`."""
    with begin_write(room.engine) as connection:
        return prune_notifications(connection, now)


def _wanted(subscription: Subscription) -> tuple[Any, ...]:
    """What has to be as it was for what was done to count."""
    return subscription.wish, subscription.asker.actor.id, subscription.status


def _due_at(subscription: Subscription, told_at: datetime | None) -> datetime | None:
    """When there is something to do next without an event."""
    times = (subscription.wish.end_at, _heartbeat_at(subscription, told_at))
    return min((at for at in times if at is not None), default=None)


def _heartbeat_at(subscription: Subscription, told_at: datetime | None) -> datetime | None:
    """When a subscriber who has heard of nothing since then has to hear that all is well."""
    seconds = subscription.wish.heartbeat_seconds
    if subscription.wish.topic is None or seconds is None or told_at is None:
        return None
    return told_at + timedelta(seconds=seconds)


def _plain(session: Session, subscription: Subscription, connection: sa.Connection) -> _Request | None:
    """The next event as R4 has it: an empty POST, or an update of the resource at the endpoint's own service."""
    wish = subscription.wish
    after = subscription.told
    while events := read_notifications(connection, subscription.rid, after=after, limit=1):
        [one] = events
        if not wish.payload:
            return _Request(method="POST", url=wish.endpoint, body=b"", told=one.number)
        shown = resource_of(session, one.type, one.id, one.version)
        if shown is not None:
            parts = urlsplit(wish.endpoint)
            url = parts._replace(path=f"{parts.path.rstrip('/')}/{one.type}/{one.id}").geturl()
            body = _written(shown, wish.payload)
            return _Request(method="PUT", url=url, body=body, media_type=wish.payload, told=one.number)
        after = one.number
    return None


def _posted(url: str, bundle: Resource, media_type: str, *, told: int = 0) -> _Request:
    return _Request(method="POST", url=url, body=_written(bundle, media_type), media_type=media_type, told=told)


def _written(body: Shown | Resource, media_type: str) -> bytes:
    return wire.written(body, wire.Wanted(format="xml" if media_type == wire.XML else "json"))


def _send(room: Room, subscription: Subscription, request: _Request) -> None:
    headers: dict[str, str] = {}
    for line in subscription.wish.headers:
        name, _colon, value = line.partition(":")
        headers[name] = value.strip()
    headers |= {"User-Agent": "readingroom", "Accept": "*/*"}
    if request.media_type:
        headers["Content-Type"] = f"{request.media_type}; fhirVersion=4.0"
    call(
        request.method,
        request.url,
        request.body,
        headers,
        networks=room.settings.private_networks,
        seconds=subscription.wish.timeout_seconds or SECONDS,
    )
