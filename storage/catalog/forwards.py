"""Rows of studies that go on to others: which of them wait, what of each was sent, how it goes with destinations."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from datetime import datetime
from typing import Any, Literal, get_args

import sqlalchemy as sa

from readingroom.errors import Conflict, NotFound
from storage.catalog import schema as t
from storage.catalog.writers import insert_for

ForwardState = Literal["queued", "done", "refused", "dead", "dropped"]
"""Something of it waits; all of it is there; the destination will not have some of it; it is given up; it is not to go
any more."""
FORWARD_STATES: tuple[ForwardState, ...] = get_args(ForwardState)


@dataclass(frozen=True, slots=True, kw_only=True)
class Forward:
    """One row of `schema.forward`: a study on its way to a destination."""

    id: int
    rule: str
    destination: str
    facility: str
    study_uid: str
    rank: int
    state: ForwardState
    attempts: int
    error: str
    queued_at: datetime
    next_at: datetime
    done_at: datetime | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Sendable:
    """One current instance, with what rules look at."""

    id: str
    instance_uid: str
    version: int
    overlay_version: int
    sop_class: str
    source: str
    size_bytes: int
    modality: str | None
    description: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class ForwardWay:
    """How it goes with a destination; one that nothing was sent to has no row."""

    destination: str
    failures: int = 0
    retry_at: datetime | None = None
    free_at: datetime | None = None
    error: str = ""

    def opens_at(self, now: datetime) -> datetime:
        """When something may be sent there, at the earliest."""
        return max([now, *(at for at in (self.retry_at, self.free_at) if at is not None)])


_C, _D, _W = t.forward.c, t.forwarded.c, t.forward_way.c
_I, _S = t.instance.c, t.series.c
_ROWS = sa.select(*(_C[field.name] for field in fields(Forward)))
_QUEUED: sa.ColumnElement[bool] = sa.literal_column("forward.state = 'queued'", sa.Boolean)
_SENDABLE = (
    sa.select(
        _I.id,
        _I.instance_uid,
        _I.version,
        _I.overlay_version,
        _I.sop_class,
        _I.source,
        _I.size_bytes,
        _S.modality,
        _S.series_description.label("description"),
    )
    .join_from(t.instance, t.series, _I.series == _S.id)
    .join(t.study, _I.study == t.study.c.id)
    .where(_I.is_current)
    .order_by(_S.series_number, _S.id, _I.instance_number, _I.id)
)


def sendable(
    connection: sa.Connection, facility: str, study_uid: str, *, rule: str, destination: str, changes: bool
) -> Iterator[Sendable]:
    """The instances of a study of which a destination has not had, by a rule, what they are now; in their order.

    Parameters
    ----------
    changes
        Whether what it has had in another version, or before a correction, is one of them.
    """
    told = t.forwarded.alias("told")
    mine = sa.select(_C.id).where(
        _C.facility == facility, _C.study_uid == study_uid, _C.rule == rule, _C.destination == destination
    )
    same = [told.c.forward.in_(mine), told.c.instance_uid == _I.instance_uid]
    if changes:
        same += [told.c.version == _I.version, told.c.overlay_version == _I.overlay_version]
    wanted = _SENDABLE.where(
        t.study.c.owner_facility == facility, t.study.c.study_uid == study_uid, ~sa.exists().where(*same)
    )
    for row in connection.execute(wanted):
        yield Sendable(**row._mapping)


def queue_forward(
    connection: sa.Connection,
    *,
    rule: str,
    destination: str,
    facility: str,
    study_uid: str,
    rank: int,
    now: datetime,
) -> None:
    """Have what is new of a study go to a destination; one that waits already keeps its place."""
    values: dict[str, Any] = {"state": "queued", "attempts": 0, "error": "", "queued_at": now, "next_at": now}
    key = {"facility": facility, "study_uid": study_uid, "rule": rule, "destination": destination}
    insert = insert_for(connection)(t.forward).values(**key, rank=rank, **values)
    waits = t.forward.c.state == "queued"
    again = {name: sa.case((waits, _C[name]), else_=insert.excluded[name]) for name in values}
    connection.execute(
        insert.on_conflict_do_update(
            index_elements=["facility", "study_uid", "rule", "destination"],
            set_={**again, "rank": insert.excluded.rank, "done_at": None},
        )
    )


def next_forward(connection: sa.Connection, destination: str, now: datetime) -> Forward | None:
    """What is to go to a destination now, locked: the most urgent one, of these the one that waits longest."""
    due = _ROWS.where(_C.destination == destination, _QUEUED, _C.next_at <= now)
    row = connection.execute(due.order_by(_C.rank.desc(), _C.id).limit(1).with_for_update()).one_or_none()
    return None if row is None else Forward(**row._mapping)


def next_time(connection: sa.Connection, destination: str) -> datetime | None:
    """When something is to go to a destination next; None where nothing is."""
    first = sa.select(sa.func.min(_C.next_at, type_=_C.next_at.type))
    return connection.execute(first.where(_C.destination == destination, _QUEUED)).scalar()


def defer(connection: sa.Connection, rule: str, destination: str, until: datetime) -> None:
    """Let all that waits to go to a destination by a rule wait until a time."""
    mine = t.forward.update().where(_C.destination == destination, _C.rule == rule, _QUEUED, _C.next_at < until)
    connection.execute(mine.values(next_at=until))


def note_sent(
    connection: sa.Connection,
    id: int,
    instance: Sendable,
    *,
    status: Literal["sent", "refused"],
    code: str,
    now: datetime,
) -> None:
    """Remember what a destination has answered to an instance as it is now."""
    values = {
        "version": instance.version,
        "overlay_version": instance.overlay_version,
        "status": status,
        "code": code,
        "at": now,
    }
    insert = insert_for(connection)(t.forwarded).values(forward=id, instance_uid=instance.instance_uid, **values)
    connection.execute(insert.on_conflict_do_update(index_elements=["forward", "instance_uid"], set_=values))


def write_forward(connection: sa.Connection, id: int, **values: Any) -> bool:
    """Change a row that waits; False where it waits no more."""
    return connection.execute(t.forward.update().where(_C.id == id, _QUEUED).values(**values)).rowcount == 1


def count_forwarded(connection: sa.Connection, ids: Sequence[int]) -> dict[int, tuple[int, int]]:
    """How many instances of each were taken, and how many refused."""
    counted = (
        sa.select(_D.forward, _D.status, sa.func.count()).where(_D.forward.in_(ids)).group_by(_D.forward, _D.status)
    )
    found = {id: [0, 0] for id in ids}
    for id, status, count in connection.execute(counted):
        found[id][status == "refused"] = count
    return {id: (sent, refused) for id, (sent, refused) in found.items()}


def end_late(
    connection: sa.Connection, rule: str, destination: str, before: datetime, now: datetime, error: str
) -> int:
    """Give up what waits to go to a destination by a rule since before a time; returns how many studies that is."""
    late = t.forward.update().where(_C.destination == destination, _C.rule == rule, _QUEUED, _C.queued_at <= before)
    return connection.execute(late.values(state="dead", error=error, done_at=now)).rowcount


# -- to look at, and to have go again ----------------------------------------------------------------------------------


def list_forwards(
    connection: sa.Connection, *, state: ForwardState | None = None, limit: int, **known: str | None
) -> list[Forward]:
    """Studies on their way, the newest first; `known` are columns with the value that they have."""
    statement = _ROWS.where(*(_C[name] == value for name, value in known.items() if value is not None))
    if state is not None:
        statement = statement.where(_C.state == state)
    return [Forward(**row._mapping) for row in connection.execute(statement.order_by(_C.id.desc()).limit(limit))]


def retry_forward(connection: sa.Connection, id: int, now: datetime) -> Forward:
    """Have a study go at once, with what was refused of it; its destination is tried at once too.

    Raises `NotFound` where there is no such row.
    """
    found = _find(connection, id)
    connection.execute(t.forwarded.delete().where(_D.forward == id, _D.status == "refused"))
    again = {"state": "queued", "attempts": 0, "error": "", "queued_at": now, "next_at": now, "done_at": None}
    connection.execute(t.forward.update().where(_C.id == id).values(**again))
    connection.execute(
        t.forward_way.update().where(_W.destination == found.destination).values(retry_at=None, failures=0)
    )
    return found


def drop_forward(connection: sa.Connection, id: int, now: datetime) -> None:
    """Have what waits of a study not go; raises `NotFound`, or `Conflict` where nothing of it waits or has failed."""
    found = _find(connection, id)
    if found.state not in ("queued", "refused", "dead"):
        raise Conflict(f"Forward {id} is {found.state}; what waits, was refused or is dead can be dropped.")
    connection.execute(t.forward.update().where(_C.id == id).values(state="dropped", done_at=now))


def count_forwards(connection: sa.Connection) -> list[tuple[str, ForwardState, int, datetime]]:
    """By destination and state, but for those that are done: how many studies, and since when the oldest."""
    oldest = sa.func.min(_C.queued_at, type_=_C.queued_at.type)
    counted = sa.select(_C.destination, _C.state, sa.func.count(), oldest)
    rows = connection.execute(
        counted.where(_C.state.in_(["queued", "refused", "dead"])).group_by(_C.destination, _C.state)
    )
    return [(row[0], row[1], row[2], row[3]) for row in rows]


def _find(connection: sa.Connection, id: int) -> Forward:
    row = connection.execute(_ROWS.where(_C.id == id).with_for_update()).one_or_none()
    if row is None:
        raise NotFound(f"There is no forward {id}; 'readingroom forwards list' shows those that there are.")
    return Forward(**row._mapping)


# -- how it goes with destinations -------------------------------------------------------------------------------------


def read_way(connection: sa.Connection, destination: str) -> ForwardWay:
    """How it goes with a destination."""
    columns = sa.select(*(_W[field.name] for field in fields(ForwardWay)))
    row = connection.execute(columns.where(_W.destination == destination)).one_or_none()
    return ForwardWay(destination=destination) if row is None else ForwardWay(**row._mapping)


def write_way(connection: sa.Connection, way: ForwardWay) -> None:
    """Write down how it goes with a destination."""
    values: Mapping[str, Any] = {field.name: getattr(way, field.name) for field in fields(ForwardWay)}
    insert = insert_for(connection)(t.forward_way).values(**values)
    connection.execute(insert.on_conflict_do_update(index_elements=["destination"], set_=values))


def waiting_destinations(connection: sa.Connection, before: datetime) -> Sequence[str]:
    """The destinations for which something waits whose time came before a moment."""
    due = sa.select(_C.destination).where(_QUEUED, _C.next_at <= before).distinct()
    return connection.execute(due).scalars().all()
