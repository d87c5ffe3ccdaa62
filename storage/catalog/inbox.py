"""The inbox: every HL7 message that came, as it came, and what became of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from datetime import datetime
from functools import cache
from typing import Any, Literal, get_args

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite

from readingroom.errors import NotFound
from readingroom.model import Scope
from storage.catalog import schema as t

MessageState = Literal["received", "applied", "failed", "ignored", "duplicate"]
MESSAGE_STATES: tuple[MessageState, ...] = get_args(MessageState)

REUSED = "Its control id is that of another message of this sender; if it is to hold all the same, replay it."


@dataclass(frozen=True, slots=True, kw_only=True)
class Arrival:
    """A message that is to be kept.

    Attributes
    ----------
    sender
        Name of who sends; its control ids are its own.
    is_reuse_fine
        Whether another message under a known control id is one more message; else it is kept as a duplicate.
    """

    sender: str
    control_id: str
    digest: str
    facility: str
    kind: str
    address: str
    body: bytes
    received_at: datetime
    is_reuse_fine: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredMessage:
    """A message with everything that its row has but the bytes; `schema.hl7_message` says what each is."""

    id: int
    sender: str
    control_id: str
    facility: str
    kind: str
    address: str
    state: MessageState
    error: str
    attempts: int
    profile: str
    about: str
    received_at: datetime
    done_at: datetime | None


_TOLD = tuple(field.name for field in fields(Arrival) if field.name != "is_reuse_fine")
_M = t.hl7_message.c
_ROWS = sa.select(*(_M[field.name] for field in fields(StoredMessage)))
_SAME = sa.select(_M.sender, _M.control_id, _M.digest, _M.state).where(
    sa.tuple_(_M.sender, _M.control_id).in_(sa.bindparam("names", expanding=True))
)
_RECEIVED: sa.ColumnElement[str] = sa.literal_column("'received'")


def keep_messages(connection: sa.Connection, arrivals: Sequence[Arrival]) -> list[tuple[MessageState, bool]]:
    """Keep messages, each once; returns the state that each has, and whether it is there only now.

    The same message again is the one that is there already.
    """
    names = {(one.sender, one.control_id) for one in arrivals}
    there: dict[tuple[str, str], dict[str, MessageState]] = {}
    for sender, control_id, digest, state in connection.execute(_SAME, {"names": list(names)}):
        there.setdefault((sender, control_id), {})[digest] = state
    kept: list[tuple[MessageState, bool]] = []
    new: list[dict[str, Any]] = []
    for one in arrivals:
        known = there.setdefault((one.sender, one.control_id), {})
        if one.digest in known:
            kept.append((known[one.digest], False))
            continue
        is_reused = bool(known) and not one.is_reuse_fine
        known[one.digest] = "duplicate" if is_reused else "received"
        kept.append((known[one.digest], True))
        told = {name: getattr(one, name) for name in _TOLD}
        new.append({**told, "state": known[one.digest], "error": REUSED if is_reused else ""})
    if new:
        # Another process may have kept the same message meanwhile: then that is the one.
        connection.execute(_insert(connection.dialect.name), new)
    return kept


@cache
def _insert(dialect: str) -> Any:
    table = postgresql.insert(t.hl7_message) if dialect == "postgresql" else sqlite.insert(t.hl7_message)
    values: dict[str, Any] = {name: sa.bindparam(name) for name in (*_TOLD, "state", "error")}
    made = table.values(**values, attempts=0, profile="", about="")
    return made.on_conflict_do_nothing(index_elements=["sender", "control_id", "digest"])


def next_message(connection: sa.Connection, facility: str) -> StoredMessage | None:
    """The first message of a facility that is still to be applied; None where all have been."""
    row = connection.execute(
        _ROWS.where(_M.facility == facility, _M.state == _RECEIVED).order_by(_M.id).limit(1)
    ).one_or_none()
    return None if row is None else StoredMessage(**row._mapping)


def body_of_message(connection: sa.Connection, id: int) -> bytes:
    """The bytes of a message, as they came."""
    body: bytes = connection.execute(sa.select(_M.body).where(_M.id == id)).scalar_one()
    return body


def end_message(
    connection: sa.Connection,
    id: int,
    state: MessageState,
    now: datetime,
    *,
    error: str = "",
    profile: str = "",
    about: str = "",
) -> bool:
    """Write down what became of a message that is to be applied; False where that is known already."""
    values = {"state": state, "error": error, "profile": profile, "about": about, "done_at": now}
    changed = t.hl7_message.update().where(_M.id == id, _M.state == _RECEIVED)
    return connection.execute(changed.values(attempts=_M.attempts + 1, **values)).rowcount == 1


def receive_again(connection: sa.Connection, row: StoredMessage) -> None:
    """Have a message applied once more."""
    changed = t.hl7_message.update().where(_M.id == row.id)
    connection.execute(changed.values(state="received", error="", done_at=None))


def later_about(connection: sa.Connection, row: StoredMessage) -> int | None:
    """Id of a message that came after this one, is about the same, and holds already; None where there is none."""
    if not row.about:
        return None
    mine = [_M.facility == row.facility, _M.about == row.about, _M.id > row.id, _M.state == "applied"]
    return connection.execute(sa.select(sa.func.max(_M.id)).where(*mine)).scalar()


def ignore_message(connection: sa.Connection, row: StoredMessage, now: datetime, why: str) -> None:
    """Have a message led to nothing any more; it stays in the inbox."""
    changed = t.hl7_message.update().where(_M.id == row.id)
    connection.execute(changed.values(state="ignored", error=why, done_at=now))


def find_message(connection: sa.Connection, scope: Scope, id: int, *, locked: bool = False) -> StoredMessage:
    """One in scope; raises `NotFound`."""
    statement = _ROWS.where(_M.id == id, *_in(scope))
    row = connection.execute(statement.with_for_update() if locked else statement).one_or_none()
    if row is None:
        raise NotFound(f"There is no message {id}.")
    return StoredMessage(**row._mapping)


def list_messages(
    connection: sa.Connection, scope: Scope, *, before: int | None = None, limit: int = 100, **known: Any
) -> Sequence[StoredMessage]:
    """Messages in scope, the newest first.

    Parameters
    ----------
    before
        Only those with a smaller id.
    known
        Columns with the value that they have; None: any.
    """
    statement = _ROWS.where(*_in(scope), *(_M[name] == value for name, value in known.items() if value is not None))
    if before is not None:
        statement = statement.where(_M.id < before)
    rows = connection.execute(statement.order_by(_M.id.desc()).limit(limit))
    return [StoredMessage(**row._mapping) for row in rows]


def _in(scope: Scope) -> list[sa.ColumnElement[bool]]:
    return [] if scope.facilities is None else [_M.facility.in_(sorted(scope.facilities))]
