"""Recommendations of signed reports in the catalog: what each is, what became of it, and which studies may be it."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from datetime import datetime, timedelta
from typing import Any, Literal

import sqlalchemy as sa

from readingroom.errors import NotFound
from readingroom.model import ItemState, Scope
from storage.catalog import schema as t

Outcome = Literal["", "done", "declined", "not-needed", "died", "withdrawn"]
"""What became of it; empty is that nobody has said so."""

MOST = 1000
"""Follow-ups that one list has."""

_MOST_STUDIES = 10_000
_ENDED: tuple[ItemState, ...] = ("completed", "cancelled")
_ONE_DAY = timedelta(days=1)


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredFollowUp:
    """One row of `schema.follow_up`, which says what each is."""

    item: str
    report: str
    number: int
    digest: str
    facility: str
    patient: str | None = None
    study_uid: str | None = None
    text: str
    procedure: str | None = None
    due_on: str
    modalities: str = ""
    body_parts: str = ""
    recommended_at: datetime
    outcome: Outcome = ""
    closed_by: str | None = None
    closed_at: datetime | None = None
    note: str = ""
    fulfilled_by: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ListedFollowUp:
    """A follow-up with what its work item says; it is open as long as that is."""

    row: StoredFollowUp
    workitem_uid: str
    state: ItemState
    due_at: datetime | None
    reason: str
    changed_at: datetime

    @property
    def is_open(self) -> bool:
        """Nobody has closed it, and nobody has ended its item either."""
        return self.state not in _ENDED


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidate:
    """A study of a patient that came in later, and may be a follow-up."""

    patient: str
    study_uid: str
    study_date: str
    modalities: frozenset[str]
    body_parts: frozenset[str]
    received_at: datetime


_F, _W = t.follow_up.c, t.work_item.c
_NAMES = tuple(field.name for field in fields(StoredFollowUp))
_ROWS = sa.select(*(_F[name] for name in _NAMES))
_LISTED: sa.Select[Any] = sa.select(
    *(_F[name] for name in _NAMES), _W.workitem_uid, _W.state, _W.due_at, _W.reason, _W.changed_at
).join_from(t.follow_up, t.work_item, _F.item == _W.id)


def insert_follow_up(connection: sa.Connection, row: StoredFollowUp) -> None:
    """Add a row."""
    connection.execute(t.follow_up.insert().values(**asdict(row)))


def update_follow_up(connection: sa.Connection, item: str, values: Mapping[str, Any]) -> None:
    """Change a row, whose item is locked."""
    connection.execute(t.follow_up.update().where(_F.item == item).values(**values))


def follow_ups_of(connection: sa.Connection, report: str) -> list[StoredFollowUp]:
    """Those of a report, in the order in which they were recommended; the report is locked."""
    found = _ROWS.where(_F.report == report).order_by(_F.number, _F.item)
    return [StoredFollowUp(**row._mapping) for row in connection.execute(found)]


def find_follow_up(connection: sa.Connection, scope: Scope, item: str) -> ListedFollowUp:
    """One in scope, by the id of its item; raises `NotFound`."""
    row = connection.execute(_LISTED.where(_F.item == item, *_in(scope))).one_or_none()
    if row is None:
        raise NotFound(f"There is no follow-up {item[:64]}.")
    return _listed(row)


def list_follow_ups(
    connection: sa.Connection,
    scope: Scope,
    *,
    is_open: bool | None = True,
    overdue_at: datetime | None = None,
    report: str | None = None,
    after: str | None = None,
    limit: int = 100,
) -> list[ListedFollowUp]:
    """Those in scope, what is due first at first.

    Parameters
    ----------
    overdue_at
        Only those that are past their time at this moment.
    after
        Only those after this one in the list, named by its id.
    """
    statement = _LISTED.where(*_in(scope))
    if is_open is not None:
        statement = statement.where(_W.state.not_in(_ENDED) if is_open else _W.state.in_(_ENDED))
    if is_open:
        statement = statement.where(sa.text("outcome = ''"))  # as the partial index has it
    if overdue_at is not None:
        statement = statement.where(_W.due_at <= overdue_at)
    if report is not None:
        statement = statement.where(_F.report == report)
    if after is not None:
        last = sa.select(_F.due_on).where(_F.item == after).scalar_subquery()
        statement = statement.where(sa.or_(_F.due_on > last, sa.and_(_F.due_on == last, _F.item > after)))
    return [_listed(row) for row in connection.execute(statement.order_by(_F.due_on, _F.item).limit(limit))]


def count_follow_ups(connection: sa.Connection, now: datetime) -> tuple[int, int]:
    """How many are open, and how many of those are past their time."""
    late = sa.func.coalesce(sa.func.sum(sa.case((_W.due_at <= now, 1), else_=0)), 0)
    counted = sa.select(sa.func.count(), late).select_from(t.follow_up.join(t.work_item, _F.item == _W.id))
    row = connection.execute(counted.where(sa.text("outcome = ''"), _W.state.not_in(_ENDED))).one()
    return int(row[0]), int(row[1])


def later_studies(connection: sa.Connection, scope: Scope, rows: Collection[StoredFollowUp]) -> list[Candidate]:
    """Studies of the patients of some follow-ups that came in after the first of them was recommended."""
    patients = sorted({row.patient for row in rows if row.patient})
    if not patients:
        return []
    s = t.study.c
    begin = min(row.recommended_at for row in rows)
    names = (s.id, s.patient, s.study_uid, s.study_date, s.modalities, s.received_at)
    found = sa.select(*names).where(s.patient.in_(patients), s.instance_count > 0, s.received_at > begin)
    if scope.facilities is not None:
        found = found.where(s.owner_facility.in_(sorted(scope.facilities)))
    studies = connection.execute(found.order_by(s.received_at, s.id).limit(_MOST_STUDIES)).all()
    parts: dict[str, set[str]] = {row.id: set() for row in studies}
    e = t.series.c
    shown = sa.select(e.study, e.body_part).where(e.study.in_(parts), e.body_part.is_not(None), e.instance_count > 0)
    for row in connection.execute(shown) if parts else ():
        parts[row.study].add(row.body_part.strip().upper())
    return [
        Candidate(
            patient=row.patient,
            study_uid=row.study_uid,
            study_date=row.study_date,
            modalities=entries(row.modalities),
            body_parts=frozenset(parts[row.id] - {""}),
            received_at=row.received_at,
        )
        for row in studies
    ]


def may_be(candidate: Candidate, row: StoredFollowUp) -> bool:
    """Whether a study may be what was recommended: of that patient, later, of a modality and a region that fit.

    What is not known of either of them stands against nothing.
    """
    earliest = f"{row.recommended_at - _ONE_DAY:%Y%m%d}"
    modalities, body_parts = entries(row.modalities), entries(row.body_parts)
    return (
        candidate.patient == row.patient
        and candidate.study_uid != row.study_uid
        and candidate.received_at > row.recommended_at
        and (not candidate.study_date or candidate.study_date >= earliest)
        and (not modalities or not modalities.isdisjoint(candidate.modalities))
        and (not body_parts or not candidate.body_parts or not body_parts.isdisjoint(candidate.body_parts))
    )


def is_study_of(connection: sa.Connection, scope: Scope, study_uid: str, patient: str | None) -> bool:
    """Whether there is such a study in scope, of that patient."""
    s = t.study.c
    found = sa.select(s.id).where(s.study_uid == study_uid, s.patient == patient)
    if scope.facilities is not None:
        found = found.where(s.owner_facility.in_(sorted(scope.facilities)))
    return connection.execute(found.limit(1)).first() is not None


def entries(listed: str) -> frozenset[str]:
    """The entries of a column, each of which ends with a backslash."""
    return frozenset(filter(None, listed.split("\\")))


def _listed(row: sa.Row[Any]) -> ListedFollowUp:
    told = dict(row._mapping)
    kept = StoredFollowUp(**{name: told.pop(name) for name in _NAMES})
    return ListedFollowUp(row=kept, **told)


def _in(scope: Scope) -> Sequence[sa.ColumnElement[bool]]:
    return () if scope.facilities is None else (_F.facility.in_(sorted(scope.facilities)),)
