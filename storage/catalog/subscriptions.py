"""Who is told of which work items (PS3.4 CC.2.3): the subscription states, and the reports that wait to be sent.

A subscriber is an AE title in a realm: what one facility's users subscribe to is no concern of another's. For every
item that an AE is subscribed to there is a row, as the standard's state table has it; a subscription to the worklist is
a row more, by which those of coming items are made.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Literal, NamedTuple

import orjson
import sqlalchemy as sa

from readingroom.model import Scope
from storage.catalog import schema as t
from storage.catalog.engine import lock_events
from storage.catalog.matching import Condition, parse
from storage.catalog.search import bound, holds
from storage.catalog.work_items import ITEM_KEYS, StoredItem, is_seen, matches
from storage.catalog.writers import insert_for
from storage.objects import MetadataJson

Coming = Literal["worklist", "filtered"]
"""The subscriptions to items that are still to come: to all of them, or to those that match."""

Filter = Mapping[str, Any]
"""What `storage.catalog.matching.parse` takes, but for the keys."""

KEPT = timedelta(days=1)
"""How long a report waits for its subscriber to come back; the standard asks for no time at all (PS3.4 CC.2.4.3)."""

_EVERYWHERE = "*"
_OVER = ("completed", "cancelled")


class Subscriber(NamedTuple):
    """An AE title, and the realm that it is one of."""

    realm: str
    ae: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """One report to one subscriber: what happened to which item, as PS3.4 Table CC.2.4-1 tells it."""

    subscriber: Subscriber
    workitem_uid: str
    type: int
    attributes: MetadataJson


@dataclass(frozen=True, slots=True, kw_only=True)
class Waiting:
    """A report as it lies there; numbers rise with the commits."""

    sequence: int
    workitem_uid: str
    type: int
    attributes: MetadataJson


def realm_of(scope: Scope) -> str:
    """The realm of a scope."""
    return _EVERYWHERE if scope.facilities is None else ",".join(sorted(scope.facilities))


def scope_of(realm: str) -> Scope:
    """The scope that a realm is of."""
    return Scope() if realm == _EVERYWHERE else Scope(facilities=frozenset(realm.split(",")))


def subscribe(
    connection: sa.Connection, subscriber: Subscriber, item: StoredItem, *, has_lock: bool, now: datetime
) -> None:
    """Subscribe to one item, with or without a lock, whatever there was before."""
    _delete(connection, subscriber, "ended", item.id)
    values = {"kind": "item", "item": item.id, "has_lock": has_lock, "filter": b"", "at": now}
    insert = insert_for(connection)(t.ups_subscription).values(**subscriber._asdict(), **values)
    keys = ["realm", "ae", "kind", "item"]
    connection.execute(insert.on_conflict_do_update(index_elements=keys, set_={"has_lock": has_lock}))
    _open_channel(connection, subscriber)


def subscribe_to_coming(
    connection: sa.Connection,
    scope: Scope,
    subscriber: Subscriber,
    kind: Coming,
    *,
    has_lock: bool,
    now: datetime,
    filter: Filter | None = None,
) -> Sequence[str]:
    """Subscribe to all items that are open and that come, or to those that match; a subscription to one item stays.

    Returns
    -------
    Sequence of str
        Ids of the items that there are, and that the AE was not subscribed to.
    """
    c = t.work_item.c
    told = orjson.dumps(dict(filter)) if filter else b""
    _delete(connection, subscriber, "ended")
    values = {"kind": kind, "item": "", "has_lock": has_lock, "filter": told, "at": now}
    insert = insert_for(connection)(t.ups_subscription).values(**subscriber._asdict(), **values)
    keys = ["realm", "ae", "kind", "item"]
    connection.execute(
        insert.on_conflict_do_update(index_elements=keys, set_={"has_lock": has_lock, "filter": told, "at": now})
    )
    conditions = conditions_of(told)
    columns = (*map(sa.literal, subscriber), sa.literal("item"), c.id, sa.literal(has_lock), sa.literal(b""))
    there_are = sa.select(*columns, sa.literal(now, t.UtcDateTime())).where(c.state.not_in(_OVER), *holds(conditions))
    if scope.facilities is not None:
        there_are = there_are.where(c.facility.in_(sorted(scope.facilities)), c.kind != "peer")
    names = [*keys, "has_lock", "filter", "at"]
    made = insert_for(connection)(t.ups_subscription).from_select(names, there_are).on_conflict_do_nothing()
    new = connection.execute(made.returning(t.ups_subscription.c.item), bound(conditions)).scalars().all()
    _open_channel(connection, subscriber)
    return new


def unsubscribe(connection: sa.Connection, subscriber: Subscriber, item: StoredItem, *, now: datetime) -> bool:
    """Hear no more of one item, even if it comes to match a filter; False where the AE was not subscribed to it."""
    if not _delete(connection, subscriber, "item", item.id):
        return False
    values = {"kind": "ended", "item": item.id, "has_lock": False, "filter": b"", "at": now}
    connection.execute(t.ups_subscription.insert().values(**subscriber._asdict(), **values))
    return True


def suspend(connection: sa.Connection, subscriber: Subscriber, kind: Coming) -> bool:
    """Hear of no further items; those that there are stay subscribed to. False where there was no such subscription."""
    return bool(_delete(connection, subscriber, kind, ""))


def unsubscribe_all(connection: sa.Connection, subscriber: Subscriber, kind: Coming) -> bool:
    """Hear of no item any more, neither one that is there nor one that comes; False where there was no such one."""
    if not suspend(connection, subscriber, kind):
        return False
    _delete(connection, subscriber, "item")
    _delete(connection, subscriber, "ended")
    return True


def _delete(connection: sa.Connection, subscriber: Subscriber, kind: str, item: str | None = None) -> int:
    c = t.ups_subscription.c
    mine = t.ups_subscription.delete().where(c.realm == subscriber.realm, c.ae == subscriber.ae, c.kind == kind)
    return connection.execute(mine if item is None else mine.where(c.item == item)).rowcount


def _open_channel(connection: sa.Connection, subscriber: Subscriber) -> None:
    """Begin to count what is sent to a subscriber: what was reported before is not for a new one."""
    last = sa.select(sa.func.coalesce(sa.func.max(t.ups_report.c.seq), 0)).scalar_subquery()
    insert = insert_for(connection)(t.ups_channel).values(**subscriber._asdict(), sent=last)
    connection.execute(insert.on_conflict_do_nothing())


def subscribers_of(connection: sa.Connection, item: StoredItem) -> list[Subscriber]:
    """Who is subscribed to an item."""
    c = t.ups_subscription.c
    found = sa.select(c.realm, c.ae).where(c.item == item.id, c.kind == "item")
    rows = connection.execute(found.order_by(c.realm, c.ae))
    return [Subscriber(*row) for row in rows]


def subscribe_those_who_wait(
    connection: sa.Connection, item: StoredItem, already: Sequence[Subscriber], *, is_new: bool, now: datetime
) -> list[Subscriber]:
    """Subscribe to an item those who asked for all that comes, if it is new, or for what it has come to match."""
    c = t.ups_subscription.c
    waiting = sa.select(t.ups_subscription).where(c.item == "")
    if not is_new:
        waiting = waiting.where(c.kind == "filtered")
    rows = connection.execute(waiting.order_by(c.realm, c.ae, c.kind)).all()
    ended = sa.select(c.realm, c.ae).where(c.item == item.id, c.kind == "ended")
    already = [*already, *(Subscriber(*row) for row in (connection.execute(ended) if rows else ()))]
    found: list[Subscriber] = []
    for row in rows:
        subscriber = Subscriber(row.realm, row.ae)
        if subscriber in already or subscriber in found or not _is_in(item, row.realm):
            continue
        if row.filter and not matches(connection, item.id, conditions_of(row.filter)):
            continue
        subscribe(connection, subscriber, item, has_lock=row.has_lock, now=now)
        found.append(subscriber)
    return found


def release(connection: sa.Connection, item: StoredItem) -> None:
    """Forget who is, or is no more, subscribed to an item that is over, but for those who have a lock on it."""
    c = t.ups_subscription.c
    connection.execute(t.ups_subscription.delete().where(c.item == item.id, c.has_lock.is_(False)))


def conditions_of(told: bytes) -> tuple[Condition, ...]:
    """The conditions of a stored filter."""
    return tuple(parse(**orjson.loads(told), keys=ITEM_KEYS)) if told else ()


def _is_in(item: StoredItem, realm: str) -> bool:
    return is_seen(item, None if realm == _EVERYWHERE else realm.split(","))


# -- reports -----------------------------------------------------------------------------------------------------------


def add_reports(connection: sa.Connection, reports: Sequence[Report], now: datetime) -> None:
    """Have reports wait for their subscribers, in the order of the commits."""
    if not reports:
        return
    lock_events(connection)
    rows = [
        {
            **report.subscriber._asdict(),
            "workitem_uid": report.workitem_uid,
            "type": report.type,
            "at": now,
            "attributes": orjson.dumps(report.attributes),
        }
        for report in reports
    ]
    connection.execute(t.ups_report.insert(), rows)


def sent_so_far(connection: sa.Connection, subscriber: Subscriber) -> int:
    """The number of the last report that was sent to a subscriber; of the last there is for one that is new."""
    c = t.ups_channel.c
    mine = sa.select(c.sent).where(c.realm == subscriber.realm, c.ae == subscriber.ae)
    last = sa.select(sa.func.coalesce(sa.func.max(t.ups_report.c.seq), 0))
    sent = connection.execute(mine).scalar()
    return int(connection.execute(last).scalar_one() if sent is None else sent)


def waiting_reports(connection: sa.Connection, subscriber: Subscriber, *, after: int, limit: int) -> list[Waiting]:
    """The reports to a subscriber that come after a number, in their order."""
    c = t.ups_report.c
    mine = sa.select(c.seq, c.workitem_uid, c.type, c.attributes).where(
        c.realm == subscriber.realm, c.ae == subscriber.ae, c.seq > after
    )
    return [
        Waiting(sequence=row.seq, workitem_uid=row.workitem_uid, type=row.type, attributes=orjson.loads(row.attributes))
        for row in connection.execute(mine.order_by(c.seq).limit(limit))
    ]


def waited_for(connection: sa.Connection, aes: Sequence[str]) -> list[Subscriber]:
    """Which subscribers with these AE titles there are reports for that have not been sent."""
    c, r = t.ups_channel.c, t.ups_report.c
    waits = sa.exists().where(r.realm == c.realm, r.ae == c.ae, r.seq > c.sent)
    rows = connection.execute(sa.select(c.realm, c.ae).where(c.ae.in_(aes), waits).order_by(c.realm, c.ae))
    return [Subscriber(*row) for row in rows]


def note_sent(connection: sa.Connection, subscriber: Subscriber, sequence: int) -> None:
    """Remember how far a subscriber has come, so that it goes on there when it comes back."""
    c = t.ups_channel.c
    mine = t.ups_channel.update().where(c.realm == subscriber.realm, c.ae == subscriber.ae, c.sent < sequence)
    connection.execute(mine.values(sent=sequence))


def all_subscribers(connection: sa.Connection) -> Iterator[Subscriber]:
    """Everybody who is subscribed to anything."""
    c = t.ups_subscription.c
    for row in connection.execute(sa.select(c.realm, c.ae).distinct().order_by(c.realm, c.ae)):
        yield Subscriber(*row)


def was_told(connection: sa.Connection, type: int, since: datetime) -> bool:
    """Whether a report of that type was made since then."""
    c = t.ups_report.c
    return connection.execute(sa.select(c.seq).where(c.at >= since, c.type == type).limit(1)).first() is not None


def prune_reports(connection: sa.Connection, now: datetime) -> int:
    """Forget the reports that nobody has come for in time; returns how many."""
    return connection.execute(t.ups_report.delete().where(t.ups_report.c.at < now - KEPT)).rowcount
