"""The clocks of work items in the catalog: rows that outlive any process, and the marks that they come to."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime, timedelta
from typing import Any, Literal

import orjson
import sqlalchemy as sa

from storage.catalog import schema as t
from storage.catalog.writers import insert_for

Mark = Literal["warn", "due", "breached"]
MARKS: tuple[Mark, ...] = ("warn", "due", "breached")
"""In the order in which a clock comes to them."""

Pause = tuple[datetime, datetime]


@dataclass(frozen=True, slots=True, kw_only=True)
class ItemClock:
    """What the clock of an item runs by, and when it stood still."""

    item: str
    started_at: datetime
    contract: str | None = None
    study_type: str = ""
    because: str = ""
    grace: timedelta = timedelta()
    pause_reasons: tuple[str, ...] = ()
    paused_at: datetime | None = None
    pauses: tuple[Pause, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class DueMark:
    """A mark that a clock has come to, and the item that it is of."""

    item: str
    mark: Mark
    due_at: datetime
    facility: str
    study_uid: str | None


def read_clock(connection: sa.Connection, item: str) -> ItemClock | None:
    """The clock of an item; None where it has none."""
    row = connection.execute(sa.select(t.sla_clock).where(t.sla_clock.c.item == item)).one_or_none()
    if row is None:
        return None
    known = dict(row._mapping)
    known["grace"] = timedelta(seconds=known.pop("grace_seconds"))
    known["pause_reasons"] = tuple(orjson.loads(row.pause_reasons))
    known["pauses"] = tuple(
        (datetime.fromisoformat(begin), datetime.fromisoformat(end)) for begin, end in orjson.loads(row.pauses)
    )
    return ItemClock(**known)


def write_clock(connection: sa.Connection, clock: ItemClock) -> None:
    """Write it, whether there was one or not."""
    values: dict[str, Any] = asdict(clock)
    values["grace_seconds"] = int(values.pop("grace").total_seconds())
    values["pause_reasons"] = orjson.dumps(clock.pause_reasons).decode()
    values["pauses"] = orjson.dumps([(begin.isoformat(), end.isoformat()) for begin, end in clock.pauses]).decode()
    insert = insert_for(connection)(t.sla_clock).values(values)
    connection.execute(insert.on_conflict_do_update(index_elements=["item"], set_=values))


# -- marks -------------------------------------------------------------------------------------------------------------


def set_marks(connection: sa.Connection, item: str, marks: Mapping[Mark, datetime | None]) -> None:
    """Say when a clock comes to which mark, None for not now; what was told already is not told again."""
    if marks:
        insert = insert_for(connection)(t.sla_mark).on_conflict_do_nothing()
        connection.execute(insert, [{"item": item, "mark": mark, "due_at": due_at} for mark, due_at in marks.items()])


def drop_marks(connection: sa.Connection, item: str) -> None:
    """Let a clock come to no more marks."""
    c = t.sla_mark.c
    connection.execute(t.sla_mark.delete().where(c.item == item, c.fired_at.is_(None)))


def has_due_marks(connection: sa.Connection, now: datetime) -> bool:
    """Whether a mark is due."""
    return connection.execute(_DUE.with_only_columns(t.sla_mark.c.item).limit(1), {"now": now}).first() is not None


def take_due_marks(connection: sa.Connection, now: datetime, limit: int) -> Sequence[DueMark]:
    """Take marks that are due, in the order in which they were, and note that they are told: each is taken once.

    Whoever takes them tells of them in the same transaction.
    """
    c, w = t.sla_mark.c, t.work_item.c
    due = _DUE.order_by(c.due_at, c.item, c.mark).limit(limit)
    if connection.dialect.name == "postgresql":
        due = due.with_for_update(skip_locked=True)
    found = [(row.item, row.mark, row.due_at) for row in connection.execute(due, {"now": now})]
    if not found:
        return []
    keys = sa.tuple_(c.item, c.mark).in_([(item, mark) for item, mark, _ in found])
    connection.execute(t.sla_mark.update().where(keys, c.fired_at.is_(None)).values(fired_at=now))
    of = sa.select(w.id, w.facility, w.study_uid).where(w.id.in_({item for item, _, _ in found}))
    items = {row.id: row for row in connection.execute(of)}
    marks = [
        DueMark(
            item=item,
            mark=mark,
            due_at=due_at,
            facility=items[item].facility,
            study_uid=items[item].study_uid,
        )
        for item, mark, due_at in found
    ]
    return sorted(marks, key=lambda one: (one.due_at, one.item, MARKS.index(one.mark)))


# Word for word as the partial index has it.
_DUE = sa.select(t.sla_mark.c.item, t.sla_mark.c.mark, t.sla_mark.c.due_at).where(
    sa.text("fired_at IS NULL AND due_at IS NOT NULL"),
    t.sla_mark.c.due_at <= sa.bindparam("now", type_=t.UtcDateTime()),
)
