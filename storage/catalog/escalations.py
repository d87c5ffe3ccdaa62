"""Rows of escalations and of the attempts to reach somebody."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import asdict, dataclass, fields
from datetime import datetime
from typing import Any, Literal

import orjson
import sqlalchemy as sa

from readingroom.errors import Conflict, NotFound
from readingroom.model import Category, Contact, Escalation, Scope
from storage.catalog import schema as t
from storage.catalog.writers import insert_for

EscalationState = Literal["open", "acknowledged", "cancelled"]
AttemptState = Literal["notified", "failed", "reached", "no-answer", "left-message", "read-back", "handed-over"]
"""What became of an attempt: the first two are of messages that the server sends, the others are what people say."""
Order = Literal["opened", "time-left"]


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredEscalation:
    """One row of `schema.escalation`."""

    id: str
    key: str
    facility: str
    item: str | None = None
    study_uid: str | None = None
    reason: str
    category: Category | None = None
    details: bytes = b"{}"
    ladder: bytes
    state: EscalationState = "open"
    rung: int = 0
    due_at: datetime | None
    opened_at: datetime
    closed_at: datetime | None = None
    closed_by: str | None = None
    read_back: str = ""
    version: int = 1
    report: str | None = None
    result: str | None = None
    reach_by: datetime | None = None
    reached_at: datetime | None = None
    withdrawn_at: datetime | None = None
    holder: str | None = None

    def shown(self) -> Escalation:
        """As plugins see it."""
        return Escalation(
            id=self.id,
            facility=self.facility,
            item=self.item,
            study_uid=self.study_uid,
            reason=self.reason,
            category=self.category,
            state=self.state,
            rung=self.rung,
            opened_at=self.opened_at,
            details=orjson.loads(self.details),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Attempt:
    """One attempt to reach one contact: by the server, or by the person whose id is in `by`.

    Of what a person has done the channel of the contact says how, such as by telephone.
    """

    escalation: str
    rung: int
    contact: Contact
    at: datetime
    state: AttemptState
    plugin: str = ""
    reference: str = ""
    error: str = ""
    by: str = ""
    note: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Timing:
    """How long it took to reach somebody, or that it has not been done."""

    category: Category
    state: EscalationState
    opened_at: datetime
    reach_by: datetime | None
    reached_at: datetime | None


_NAMES = tuple(field.name for field in fields(StoredEscalation))
_COLUMNS = sa.select(*(t.escalation.c[name] for name in _NAMES))
_ATTEMPT = t.escalation_attempt.c


def insert_escalation(connection: sa.Connection, row: StoredEscalation) -> bool:
    """Add a row; False where there is one of that key."""
    added = (
        insert_for(connection)(t.escalation)
        .values(**{name: getattr(row, name) for name in _NAMES})
        .on_conflict_do_nothing()
    )
    return connection.execute(added.returning(t.escalation.c.id)).one_or_none() is not None


def update_escalation(connection: sa.Connection, before: StoredEscalation, values: Mapping[str, Any]) -> None:
    """Change a row that is as it was read.

    Raises
    ------
    Conflict
        Somebody else has changed it meanwhile.
    """
    c = t.escalation.c
    mine = t.escalation.update().where(c.id == before.id, c.version == before.version)
    if not connection.execute(mine.values(**values, version=before.version + 1)).rowcount:
        raise Conflict(f"Escalation {before.id} has been changed meanwhile; read it again.")


def find_escalation(connection: sa.Connection, scope: Scope, id: str, *, locked: bool = False) -> StoredEscalation:
    """One in scope; raises `NotFound`."""
    statement = _COLUMNS.where(t.escalation.c.id == id, *_in(scope))
    row = connection.execute(statement.with_for_update() if locked else statement).one_or_none()
    if row is None:
        raise NotFound(f"There is no escalation {id}.")
    return StoredEscalation(**row._mapping)


def is_open_escalation(connection: sa.Connection, id: str) -> bool:
    """Whether there is one of that id, and it is open."""
    c = t.escalation.c
    return connection.execute(sa.select(c.id).where(c.id == id, c.state == "open")).first() is not None


def escalation_of(connection: sa.Connection, key: str) -> StoredEscalation | None:
    """The one that was opened for a cause."""
    row = connection.execute(_COLUMNS.where(t.escalation.c.key == key)).one_or_none()
    return None if row is None else StoredEscalation(**row._mapping)


def list_escalations(
    connection: sa.Connection,
    scope: Scope,
    *,
    state: EscalationState | None = "open",
    item: str | None = None,
    category: Category | None = None,
    order: Order = "opened",
    limit: int = 100,
) -> list[StoredEscalation]:
    """Those in scope, the one that was opened first at first, or the one that has the least time left."""
    statement = _COLUMNS.where(*_in(scope))
    if category is not None:
        statement = statement.where(t.escalation.c.category == category)
    if state is not None:
        statement = statement.where(t.escalation.c.state == state)
    if item is not None:
        statement = statement.where(t.escalation.c.item == item)
    first = () if order == "opened" else (t.escalation.c.reach_by.nulls_last(),)
    ordered = statement.order_by(*first, t.escalation.c.opened_at, t.escalation.c.id).limit(limit)
    return [StoredEscalation(**row._mapping) for row in connection.execute(ordered)]


def escalations_of(
    connection: sa.Connection, reports: Collection[str], *, state: EscalationState | None = None, locked: bool = False
) -> list[StoredEscalation]:
    """Those of the critical results of reports, the one that was opened first at first."""
    statement = _COLUMNS.where(t.escalation.c.report.in_(sorted(reports)), t.escalation.c.report.is_not(None))
    if state is not None:
        statement = statement.where(t.escalation.c.state == state)
    if locked:
        statement = statement.with_for_update()
    ordered = statement.order_by(t.escalation.c.opened_at, t.escalation.c.id)
    return [StoredEscalation(**row._mapping) for row in connection.execute(ordered)] if reports else []


def timings_of(connection: sa.Connection, scope: Scope, since: datetime) -> list[Timing]:
    """Of the critical results of reports signed since then, and of those that are still open, when what happened."""
    c = t.escalation.c
    names = (c.category, c.state, c.opened_at, c.reach_by, c.reached_at)
    found = sa.select(*names).where(c.report.is_not(None), sa.or_(c.opened_at >= since, c.state == "open"), *_in(scope))
    return [Timing(**row._mapping) for row in connection.execute(found.order_by(c.opened_at, c.id))]


def due_escalations(connection: sa.Connection, now: datetime, limit: int) -> list[str]:
    """Ids of those whose next rung is due, the longest due first."""
    c = t.escalation.c
    due = sa.select(c.id).where(c.due_at.is_not(None), c.due_at <= now).order_by(c.due_at, c.id).limit(limit)
    return list(connection.execute(due).scalars())


def keep_attempt(connection: sa.Connection, attempt: Attempt) -> None:
    """Record an attempt; a later one to the same contact on the same rung takes its place."""
    contact = asdict(attempt.contact)
    values = {
        name: getattr(attempt, name) for name in ("escalation", "rung", "at", "state", "plugin", "reference", "error")
    } | {name: contact[name] for name in ("name", "role", "channel", "address")}
    statement = insert_for(connection)(t.escalation_attempt).values(id=t.new_id(), **values)
    told = {name: statement.excluded[name] for name in ("name", "role", "at", "state", "plugin", "reference", "error")}
    key = [_ATTEMPT.escalation, _ATTEMPT.rung, _ATTEMPT.channel, _ATTEMPT.address]
    connection.execute(statement.on_conflict_do_update(index_elements=key, set_=told))


def keep_call(connection: sa.Connection, call: Attempt, now: datetime) -> None:
    """Record what a person has done; nothing takes its place."""
    contact = asdict(call.contact)
    values = {name: getattr(call, name) for name in ("escalation", "rung", "at", "state", "by", "note")}
    connection.execute(t.escalation_call.insert().values(id=t.new_id(), noted_at=now, **contact, **values))


def list_attempts(connection: sa.Connection, escalation: str) -> list[Attempt]:
    """The attempts of an escalation, those of people among them, rung by rung in their order."""
    found = [*_messages(connection, escalation), *_calls(connection, escalation)]
    return sorted(found, key=lambda one: (one.rung, one.at))


def _calls(connection: sa.Connection, escalation: str) -> Iterator[Attempt]:
    c = t.escalation_call.c
    calls = sa.select(t.escalation_call).where(c.escalation == escalation).order_by(c.at, c.id)
    for row in connection.execute(calls):
        yield Attempt(
            escalation=row.escalation,
            rung=row.rung,
            contact=Contact(name=row.name, role=row.role, channel=row.channel, address=row.address),
            at=row.at,
            state=row.state,
            by=row.by,
            note=row.note,
        )


def _messages(connection: sa.Connection, escalation: str) -> list[Attempt]:
    c = _ATTEMPT
    rows = connection.execute(
        sa.select(t.escalation_attempt).where(c.escalation == escalation).order_by(c.rung, c.at, c.id)
    )
    return [
        Attempt(
            escalation=row.escalation,
            rung=row.rung,
            contact=Contact(name=row.name, role=row.role, channel=row.channel, address=row.address),
            at=row.at,
            state=row.state,
            plugin=row.plugin,
            reference=row.reference,
            error=row.error,
        )
        for row in rows
    ]


def _in(scope: Scope) -> list[sa.ColumnElement[bool]]:
    return [] if scope.facilities is None else [t.escalation.c.facility.in_(sorted(scope.facilities))]
