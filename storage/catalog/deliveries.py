"""Rows of deliveries: which signed version of a report goes where, how often that was tried, and how it ended."""

from __future__ import annotations

import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from datetime import datetime
from typing import Any, Literal, get_args

import sqlalchemy as sa

from readingroom.errors import NotFound
from readingroom.jsonio import dumps, loads
from readingroom.model import Destination, Scope
from readingroom.results import Receipt
from storage.catalog import schema as t
from storage.catalog.writers import insert_for

DeliveryState = Literal["queued", "sent", "accepted", "refused", "dead", "skipped"]
"""It waits; it is under way, or whoever sent it has died; its receiver has it; its receiver will not have it; it is
given up; it is not to go."""
DELIVERY_STATES: tuple[DeliveryState, ...] = get_args(DeliveryState)

MOST = 1000


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredDelivery:
    """One row of `schema.delivery`."""

    id: int
    report: str
    number: int
    facility: str
    owner: str
    destination: str
    channel: str
    told: bytes
    lane: str
    study_uid: str | None
    item: str | None
    state: DeliveryState
    control_id: str
    attempts: int
    error: str
    receipt: bytes | None
    queued_at: datetime
    next_at: datetime
    first_tried_at: datetime | None
    done_at: datetime | None

    @property
    def where(self) -> Destination:
        """The destination as it was when it was last asked."""
        found: Destination = loads(Destination, self.told)
        return found

    @property
    def answered(self) -> Receipt | None:
        """What its receiver has answered."""
        if self.receipt is None:
            return None
        found: Receipt = loads(Receipt, self.receipt)
        return found


@dataclass(frozen=True, slots=True, kw_only=True)
class DeliveryAttempt:
    """One row of `schema.delivery_attempt`."""

    number: int
    control_id: str
    begun_at: datetime
    ended_at: datetime | None
    outcome: DeliveryState
    error: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Way:
    """How it goes with a destination; one that nothing was wrong with has no row."""

    owner: str
    destination: str
    failures: int = 0
    retry_at: datetime | None = None
    escalation: str | None = None


_C, _A, _W = t.delivery.c, t.delivery_attempt.c, t.delivery_way.c
_ROWS = sa.select(*(_C[field.name] for field in fields(StoredDelivery)))
_OPEN: sa.ColumnElement[bool] = sa.literal_column("delivery.state IN ('queued', 'sent')", sa.Boolean)


def new_control_id() -> str:
    """20 characters, as many as MSH-10 takes, that no other installation comes upon either."""
    return secrets.token_hex(10)


def add_delivery(connection: sa.Connection, destination: Destination, **values: Any) -> bool:
    """Add a delivery to a destination; False where that version goes there already."""
    row = {
        "owner": destination.facility,
        "destination": destination.id,
        "channel": destination.channel,
        "told": dumps(destination),
        "control_id": new_control_id(),
        "attempts": 0,
        "error": "",
        **values,
    }
    added = insert_for(connection)(t.delivery).values(**row).on_conflict_do_nothing().returning(_C.id)
    return connection.execute(added).one_or_none() is not None


def next_delivery(connection: sa.Connection, owner: str, destination: str, now: datetime) -> StoredDelivery | None:
    """What is to go to a destination now, locked: the first that is due and has none of its lane before it."""
    due = _ROWS.where(*_heads(owner, destination), _C.next_at <= now)
    row = connection.execute(due.order_by(_C.id).limit(1).with_for_update()).one_or_none()
    return None if row is None else StoredDelivery(**row._mapping)


def next_time(connection: sa.Connection, owner: str, destination: str) -> datetime | None:
    """When something is to go to a destination next; None where nothing is."""
    heads = sa.select(sa.func.min(_C.next_at, type_=_C.next_at.type)).where(*_heads(owner, destination))
    return connection.execute(heads).scalar()


def _heads(owner: str, destination: str) -> tuple[sa.ColumnElement[bool], ...]:
    other = t.delivery.alias("other")
    is_open = sa.literal_column("other.state IN ('queued', 'sent')", sa.Boolean)
    before = sa.exists().where(
        other.c.owner == _C.owner,
        other.c.destination == _C.destination,
        other.c.lane == _C.lane,
        other.c.id < _C.id,
        is_open,
    )
    return _C.owner == owner, _C.destination == destination, _OPEN, ~before


def begin_attempt(connection: sa.Connection, row: StoredDelivery, where: Destination, now: datetime) -> int:
    """Write down that it is about to be sent; gives the number of the attempt, of all that there were."""
    number = (connection.execute(sa.select(sa.func.max(_A.number)).where(_A.delivery == row.id)).scalar() or 0) + 1
    connection.execute(
        t.delivery_attempt.insert().values(
            delivery=row.id, number=number, control_id=row.control_id, begun_at=now, outcome="sent", error=""
        )
    )
    values = {"state": "sent", "attempts": row.attempts + 1, "told": dumps(where), "channel": where.channel}
    if row.first_tried_at is None:
        values["first_tried_at"] = now
    connection.execute(t.delivery.update().where(_C.id == row.id).values(**values))
    return number


def end_attempt(
    connection: sa.Connection, id: int, attempt: int, now: datetime, outcome: DeliveryState, error: str, **values: Any
) -> bool:
    """Write down how an attempt ended, and its delivery with it; False where somebody else has tried it since."""
    mine = t.delivery_attempt.update().where(_A.delivery == id, _A.number == attempt)
    connection.execute(mine.values(ended_at=now, outcome=outcome, error=error))
    later = sa.exists().where(_A.delivery == id, _A.number > attempt)
    changed = t.delivery.update().where(_C.id == id, _OPEN, ~later)
    return connection.execute(changed.values(state=outcome, error=error, **values)).rowcount == 1


def end_late(
    connection: sa.Connection, owner: str, destination: str, before: datetime, now: datetime, error: str, limit: int
) -> list[StoredDelivery]:
    """Give up what has waited for a destination since before a time; returns up to `limit`, as they were."""
    late = _ROWS.where(_C.owner == owner, _C.destination == destination, _OPEN, _C.queued_at <= before)
    rows = connection.execute(late.order_by(_C.id).limit(limit)).all()
    ids = [row.id for row in rows]
    connection.execute(t.delivery.update().where(_C.id.in_(ids)).values(state="dead", error=error, done_at=now))
    return [StoredDelivery(**row._mapping) for row in rows]


def queue_again(
    connection: sa.Connection, row: StoredDelivery, where: Destination, now: datetime, *, is_new: bool
) -> None:
    """Have it go once more; `is_new` under a control id that its receiver does not know."""
    values: dict[str, Any] = {"control_id": new_control_id()} if is_new else {}
    again = {"state": "queued", "attempts": 0, "error": "", "queued_at": now, "next_at": now, "done_at": None}
    connection.execute(t.delivery.update().where(_C.id == row.id).values(told=dumps(where), **again, **values))


# -- to look at --------------------------------------------------------------------------------------------------------


def find_delivery(connection: sa.Connection, scope: Scope, id: int, *, locked: bool = False) -> StoredDelivery:
    """One in scope; raises `NotFound`."""
    statement = _ROWS.where(_C.id == id, *_in(scope))
    row = connection.execute(statement.with_for_update() if locked else statement).one_or_none()
    if row is None:
        raise NotFound(f"There is no delivery {id}.")
    return StoredDelivery(**row._mapping)


def list_deliveries(
    connection: sa.Connection, scope: Scope, *, before: int | None = None, limit: int = MOST, **known: Any
) -> list[StoredDelivery]:
    """Deliveries in scope, the newest first.

    Parameters
    ----------
    before
        Only those with a smaller id.
    known
        Columns with the value that they have; None: any.
    """
    statement = _ROWS.where(*_in(scope), *(_C[name] == value for name, value in known.items() if value is not None))
    if before is not None:
        statement = statement.where(_C.id < before)
    rows = connection.execute(statement.order_by(_C.id.desc()).limit(limit))
    return [StoredDelivery(**row._mapping) for row in rows]


def list_delivery_attempts(connection: sa.Connection, id: int) -> list[DeliveryAttempt]:
    """The attempts of a delivery, the first one first."""
    columns = (_A[field.name] for field in fields(DeliveryAttempt))
    rows = connection.execute(sa.select(*columns).where(_A.delivery == id).order_by(_A.number))
    return [DeliveryAttempt(**row._mapping) for row in rows]


def deliveries_of(connection: sa.Connection, report: str) -> list[StoredDelivery]:
    """All deliveries of all versions of a report, in their order."""
    rows = connection.execute(_ROWS.where(_C.report == report).order_by(_C.id))
    return [StoredDelivery(**row._mapping) for row in rows]


def count_deliveries(connection: sa.Connection) -> list[tuple[DeliveryState, int, datetime]]:
    """For each state that is not a good end, how many deliveries are in it, and when the oldest of them was queued."""
    oldest = sa.func.min(_C.queued_at, type_=_C.queued_at.type)
    rows = connection.execute(
        sa.select(_C.state, sa.func.count(), oldest)
        .where(_C.state.in_(["queued", "sent", "refused", "dead"]))
        .group_by(_C.state)
    )
    return [(row[0], row[1], row[2]) for row in rows]


# -- how it goes with destinations -------------------------------------------------------------------------------------


def read_way(connection: sa.Connection, owner: str, destination: str) -> Way:
    """How it goes with a destination."""
    columns = sa.select(*(_W[field.name] for field in fields(Way)))
    row = connection.execute(columns.where(_W.owner == owner, _W.destination == destination)).one_or_none()
    return Way(owner=owner, destination=destination) if row is None else Way(**row._mapping)


def write_way(connection: sa.Connection, way: Way) -> None:
    """Write down how it goes with a destination."""
    values: Mapping[str, Any] = {field.name: getattr(way, field.name) for field in fields(Way)}
    insert = insert_for(connection)(t.delivery_way).values(**values)
    connection.execute(insert.on_conflict_do_update(index_elements=["owner", "destination"], set_=values))


def waiting_ways(connection: sa.Connection, before: datetime) -> Sequence[tuple[str, str]]:
    """The destinations for which something waits whose time came before a moment."""
    due = sa.select(_C.owner, _C.destination).where(_OPEN, _C.next_at <= before).distinct()
    return [(row.owner, row.destination) for row in connection.execute(due)]


def _in(scope: Scope) -> list[sa.ColumnElement[bool]]:
    return [] if scope.facilities is None else [_C.facility.in_(sorted(scope.facilities))]
