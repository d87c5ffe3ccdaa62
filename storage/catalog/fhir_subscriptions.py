"""Who is told of which FHIR resources: subscriptions as the server works on them, and the events that they are told of.

Events of a subscription are numbered without gaps, in the transaction that appends them. They stay for a while after
they were acknowledged, so that a subscriber can have them again.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime, timedelta
from typing import Any

import orjson
import sqlalchemy as sa

from readingroom.jsonio import from_json, to_json
from readingroom.model import Actor, Scope
from storage.catalog import schema as t
from storage.catalog.writers import insert_for

KEPT = timedelta(days=7)
"""How long an event is kept, acknowledged or not."""

_OFF = "off"


@dataclass(frozen=True, slots=True, kw_only=True)
class Wish:
    """What a subscriber wants; `schema.fhir_subscription` says what each field is."""

    type: str
    topic: str | None
    criteria: tuple[str, ...]
    channel: str
    endpoint: str
    headers: tuple[str, ...]
    payload: str
    content: str
    heartbeat_seconds: int | None
    timeout_seconds: int | None
    most_events: int | None
    end_at: datetime | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Asker:
    """Who wants it, and how that caller sees the server; `actor` with the scope of that request."""

    actor: Actor
    facility: str
    root: str
    dicomweb: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Subscription:
    """A subscription, and how far it has come; `owner` is the facility that its resource belongs to."""

    rid: int
    id: str
    owner: str
    wish: Wish
    asker: Asker
    status: str
    number: int
    told: int
    told_at: datetime | None
    failures: int
    failing_since: datetime | None
    error: str
    due_at: datetime | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Notification:
    """One event that a subscription tells of; `version` is that of the resource when it was found to match."""

    number: int
    type: str
    id: str
    version: int
    cause: str
    context: str
    at: datetime


def write_subscription(
    connection: sa.Connection, rid: int, wish: Wish, asker: Asker, *, status: str, due_at: datetime | None
) -> None:
    """Begin a subscription, or have one that goes on be another: its events keep their numbers."""
    told = asdict(wish) | {"criteria": orjson.dumps(wish.criteria), "headers": orjson.dumps(wish.headers)}
    whose = {
        "actor": asker.actor.id,
        "sees": orjson.dumps(to_json(asker.actor)),
        "facility": asker.facility,
        "root": asker.root,
        "dicomweb": asker.dicomweb,
    }
    state = {"status": status, "due_at": due_at, "failures": 0, "failing_since": None, "error": ""}
    insert = insert_for(connection)(t.fhir_subscription).values(rid=rid, **told, **whose, **state)
    connection.execute(insert.on_conflict_do_update(index_elements=["rid"], set_={**told, **whose, **state}))


def drop_subscription(connection: sa.Connection, rid: int) -> None:
    """End a subscription, and forget its events."""
    connection.execute(t.fhir_subscription.delete().where(t.fhir_subscription.c.rid == rid))


def change_subscription(connection: sa.Connection, rid: int, **values: Any) -> None:
    """Note how far it has come."""
    connection.execute(t.fhir_subscription.update().where(t.fhir_subscription.c.rid == rid).values(values))


def find_subscription(connection: sa.Connection, rid: int, *, locked: bool = False) -> Subscription | None:
    """The subscription of that resource, where it has one; locked until the transaction ends, if wanted."""
    found = _ALL.where(t.fhir_subscription.c.rid == rid)
    if locked:
        found = found.with_for_update(of=t.fhir_subscription)
    row = connection.execute(found).one_or_none()
    return None if row is None else _subscription(row)


def subscriptions_by_id(connection: sa.Connection, scope: Scope, ids: Collection[str] | None) -> list[Subscription]:
    """Those of these ids in scope; of all ids where there are none."""
    found = _ALL.where(sa.true() if ids is None else t.resource.c.id.in_(list(ids)))
    if scope.facilities is not None:
        found = found.where(t.resource.c.facility.in_(sorted(scope.facilities)))
    return [_subscription(row) for row in connection.execute(found.order_by(t.resource.c.id))]


def live_subscriptions(connection: sa.Connection, types: Collection[str]) -> list[Subscription]:
    """Those that tell of resources of these types, and are not switched off."""
    c = t.fhir_subscription.c
    found = _ALL.where(c.type.in_(list(types)), c.status != _OFF).order_by(c.rid)
    return [_subscription(row) for row in connection.execute(found)]


def is_watched(connection: sa.Connection, types: Collection[str]) -> bool:
    """Whether anybody is told of resources of these types."""
    c = t.fhir_subscription.c
    found = sa.select(c.rid).where(c.type.in_(list(types)), c.status != _OFF).limit(1)
    return connection.execute(found).first() is not None


def count_live(connection: sa.Connection, facility: str) -> int:
    """How many of a facility are not switched off."""
    c = t.fhir_subscription.c
    found = sa.select(sa.func.count()).where(c.facility == facility, c.status != _OFF)
    return int(connection.execute(found).scalar_one())


def due_subscriptions(connection: sa.Connection, now: datetime, limit: int) -> list[int]:
    """Those that have something to do now, the longest due first."""
    c = t.fhir_subscription.c
    found = sa.select(c.rid).where(c.due_at <= now, c.status != _OFF).order_by(c.due_at).limit(limit)
    return list(connection.execute(found).scalars())


# -- events ------------------------------------------------------------------------------------------------------------


def append_notification(
    connection: sa.Connection,
    rid: int,
    *,
    type: str,
    id: str,
    version: int,
    cause: str,
    context: str,
    at: datetime,
) -> bool:
    """Append an event; False where this cause was told of already, or nobody is to be told any more."""
    s, n = t.fhir_subscription.c, t.fhir_notification.c
    mine = sa.select(s.number).where(s.rid == rid, s.status != _OFF).with_for_update()
    number = connection.execute(mine).scalar_one_or_none()
    if number is None:
        return False
    same = sa.select(n.number).where(n.rid == rid, n.type == type, n.id == id, n.cause == cause)
    if connection.execute(same).first() is not None:
        return False
    row = {"type": type, "id": id, "version": version, "cause": cause, "context": context, "at": at}
    connection.execute(t.fhir_notification.insert().values(rid=rid, number=number + 1, **row))
    change_subscription(connection, rid, number=number + 1)
    return True


def read_notifications(
    connection: sa.Connection, rid: int, *, after: int, until: int | None = None, limit: int
) -> list[Notification]:
    """The events after a number, in their order."""
    c = t.fhir_notification.c
    columns = (c.number, c.type, c.id, c.version, c.cause, c.context, c.at)
    found = sa.select(*columns).where(c.rid == rid, c.number > after)
    if until is not None:
        found = found.where(c.number <= until)
    return [Notification(**row._mapping) for row in connection.execute(found.order_by(c.number).limit(limit))]


def prune_notifications(connection: sa.Connection, now: datetime) -> int:
    """Forget old events, and tokens that are over; returns how many events."""
    connection.execute(t.fhir_socket_token.delete().where(t.fhir_socket_token.c.until < now))
    return connection.execute(t.fhir_notification.delete().where(t.fhir_notification.c.at < now - KEPT)).rowcount


# -- tokens of WebSockets ----------------------------------------------------------------------------------------------


def keep_token(connection: sa.Connection, token: str, rids: Sequence[int], until: datetime) -> None:
    """Let whoever shows this token be told of these subscriptions for a while."""
    told = {"digest": _digest(token), "rids": orjson.dumps(list(rids)).decode(), "until": until}
    connection.execute(t.fhir_socket_token.insert().values(told))


def bound_by(connection: sa.Connection, token: str, now: datetime) -> list[int]:
    """The subscriptions that a token is for; none where it is not known, or over."""
    c = t.fhir_socket_token.c
    found = sa.select(c.rids).where(c.digest == _digest(token), c.until >= now)
    rids = connection.execute(found).scalar_one_or_none()
    return [] if rids is None else orjson.loads(rids)


def _digest(token: str) -> str:
    return hashlib.sha256(token.encode()).hexdigest()


# -- rows --------------------------------------------------------------------------------------------------------------

_ALL = sa.select(t.fhir_subscription, t.resource.c.id, t.resource.c.facility.label("owner")).join_from(
    t.fhir_subscription, t.resource, t.resource.c.rid == t.fhir_subscription.c.rid
)


def _subscription(row: sa.Row[Any]) -> Subscription:
    told = dict(row._mapping)
    actor: Actor = from_json(Actor, orjson.loads(told["sees"]))
    wish = {name: told[name] for name in Wish.__slots__}
    wish |= {name: tuple(orjson.loads(told[name])) for name in ("criteria", "headers")}
    whose = {name: told[name] for name in ("facility", "root", "dicomweb")}
    state = {name: told[name] for name in Subscription.__slots__ if name not in ("wish", "asker")}
    return Subscription(wish=Wish(**wish), asker=Asker(actor=actor, **whose), **state)
