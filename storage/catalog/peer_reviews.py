"""Rows of finished readings and of peer reviews, and what is counted of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from datetime import datetime
from typing import Any, Literal, get_args

import orjson
import sqlalchemy as sa

from readingroom.errors import Conflict, NotFound
from readingroom.model import Scope
from storage.catalog import schema as t
from storage.catalog.directory import read_chain
from storage.catalog.writers import insert_for

ReviewState = Literal["waiting", "revealed", "discussing", "closed", "withdrawn"]
Score = Literal["1", "2a", "2b", "3a", "3b"]
"""RADPEER (2016): agreement; a discrepancy that is understandable; one that should usually not have been. With b it is
likely to be clinically significant."""
SCORES: tuple[Score, ...] = get_args(Score)
Part = Literal["reader", "modality", "facility", "month"]
"""What statistics may be parted by."""
PARTS: tuple[Part, ...] = get_args(Part)


@dataclass(frozen=True, slots=True, kw_only=True)
class FinishedRead:
    """One row of `schema.finished_read`."""

    report: str
    facility: str
    reader: str
    modality: str
    at: datetime
    read_on: str


@dataclass(frozen=True, slots=True, kw_only=True)
class PeerReview:
    """One row of `schema.peer_review`, which says what each is."""

    id: str
    report: str
    number: int
    item: str
    reader: str
    selected_at: datetime
    state: ReviewState = "waiting"
    because: str = "[]"
    conflicts: str = "[]"
    is_outside: bool = False
    reviewer: str | None = None
    impression: str = ""
    revealed_at: datetime | None = None
    score: Score | None = None
    comment: str = ""
    scored_at: datetime | None = None
    remarks: str = "[]"
    final_score: Score | None = None
    outcome: str = ""
    adjudicator: str | None = None
    addendum_item: str | None = None
    closed_at: datetime | None = None
    version: int = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Counted:
    """Of one part of the readings: how many there are, were selected, and were scored as what."""

    part: Mapping[str, str]
    eligible: int
    selected: int
    scores: Mapping[Score, int]


_F, _P = t.finished_read.c, t.peer_review.c
_READS = sa.select(*(_F[field.name] for field in fields(FinishedRead)))
_REVIEWS = sa.select(*(_P[field.name] for field in fields(PeerReview)))


def keep_finished(connection: sa.Connection, read: FinishedRead) -> bool:
    """Keep that a reading is finished; False where that is known."""
    added = insert_for(connection)(t.finished_read).values(_values(read)).on_conflict_do_nothing()
    return connection.execute(added.returning(_F.report)).one_or_none() is not None


def finished_read(connection: sa.Connection, report: str) -> FinishedRead | None:
    """The reading that led to a report; None while it is not finished."""
    row = connection.execute(_READS.where(_F.report == report)).one_or_none()
    return None if row is None else FinishedRead(**row._mapping)


def count_before(connection: sa.Connection, read: FinishedRead) -> tuple[int, int]:
    """How many readings the same reader has finished before this one; and of these how many are like it.

    Those are of the same modality and facility.
    """
    before = sa.tuple_(_F.at, _F.report) < sa.tuple_(sa.literal(read.at, t.UtcDateTime()), sa.literal(read.report))
    is_alike = sa.and_(_F.modality == read.modality, _F.facility == read.facility)
    counts = sa.select(sa.func.count(), sa.func.count(sa.case((is_alike, 1))))
    found = connection.execute(counts.select_from(t.finished_read).where(_F.reader == read.reader, before)).one()
    return found[0], found[1]


def insert_review(connection: sa.Connection, review: PeerReview) -> bool:
    """Add a review; False where its report has one already."""
    added = insert_for(connection)(t.peer_review).values(_values(review)).on_conflict_do_nothing()
    return connection.execute(added.returning(_P.id)).one_or_none() is not None


def update_review(connection: sa.Connection, before: PeerReview, after: PeerReview) -> None:
    """Write a review that is as it was read; raises `Conflict` where somebody else was quicker."""
    mine = t.peer_review.update().where(_P.id == before.id, _P.version == before.version)
    if not connection.execute(mine.values(_values(after))).rowcount:
        raise Conflict(f"Peer review {before.id} has been changed meanwhile; read it again.")


def find_review(connection: sa.Connection, id: str, *, locked: bool = False) -> PeerReview:
    """One by its id; raises `NotFound`."""
    statement = _REVIEWS.where(_P.id == id)
    row = connection.execute(statement.with_for_update() if locked else statement).one_or_none()
    if row is None:
        raise NotFound(f"There is no peer review {id[:64]}.")
    return PeerReview(**row._mapping)


def review_of(connection: sa.Connection, report: str, *, locked: bool = False) -> PeerReview | None:
    """The review of a report; None where it was not selected."""
    statement = _REVIEWS.where(_P.report == report)
    row = connection.execute(statement.with_for_update() if locked else statement).one_or_none()
    return None if row is None else PeerReview(**row._mapping)


def list_reviews(
    connection: sa.Connection,
    *,
    states: Sequence[ReviewState] = (),
    reviewer: str | None = None,
    reader: str | None = None,
    limit: int,
) -> list[PeerReview]:
    """Reviews, the one that was selected first at first."""
    statement = _REVIEWS
    if states:
        statement = statement.where(_P.state.in_(states))
    if reviewer is not None:
        statement = statement.where(_P.reviewer == reviewer)
    if reader is not None:
        statement = statement.where(_P.reader == reader)
    rows = connection.execute(statement.order_by(_P.selected_at, _P.id).limit(limit))
    return [PeerReview(**row._mapping) for row in rows]


def excluded_reviewers(connection: sa.Connection, item: str) -> frozenset[str]:
    """Who may not do the second reading that an item asks for: who has signed the first, and who is in conflict."""
    found = sa.select(_P.report, _P.reader, _P.conflicts, _P.is_outside, t.report.c.facility, t.report.c.author)
    joined = found.join_from(t.peer_review, t.report, _P.report == t.report.c.id)
    row = connection.execute(joined.where(_P.item == item)).one_or_none()
    if row is None:
        return frozenset()
    v = t.report_version.c
    signed = connection.execute(sa.select(v.reader).where(v.report == row.report).distinct()).scalars()
    own = _radiologists_of(connection, row.facility) if row.is_outside else ()
    return frozenset((row.reader, *((row.author,) if row.author else ()), *signed, *orjson.loads(row.conflicts), *own))


def _radiologists_of(connection: sa.Connection, facility: str) -> list[str]:
    """The own radiologists of a facility and of those above it."""
    chain = {one.id for one in read_chain(connection, facility).chain(facility)} or {facility}
    rows = connection.execute(sa.select(t.reader.c.id, t.reader.c.details))
    return [row.id for row in rows if orjson.loads(row.details).get("home") in chain]


def count_reviews(
    connection: sa.Connection, scope: Scope, *, by: Sequence[Part], begin: str | None = None, end: str | None = None
) -> list[Counted]:
    """How many readings there are of each part, how many of them were selected, and how they were scored.

    Parameters
    ----------
    begin, end
        Days by the clock of each facility, such as ``2026-11-01``; `end` is not included.
    """
    month = sa.func.substr(_F.read_on, 1, 7)
    columns = {"reader": _F.reader, "modality": _F.modality, "facility": _F.facility, "month": month}
    parts = [columns[name].label(name) for name in by]
    score = sa.func.coalesce(_P.final_score, _P.score).label("score")
    is_selected = sa.and_(_P.id.is_not(None), _P.state != "withdrawn").label("is_selected")
    found = sa.select(*parts, score, is_selected, sa.func.count().label("count_"))
    found = found.select_from(t.finished_read.outerjoin(t.peer_review, _P.report == _F.report))
    if scope.facilities is not None:
        found = found.where(_F.facility.in_(sorted(scope.facilities)))
    if begin is not None:
        found = found.where(_F.read_on >= begin)
    if end is not None:
        found = found.where(_F.read_on < end)
    tallies: dict[tuple[str, ...], dict[str, Any]] = {}
    for row in connection.execute(found.group_by(*parts, score, is_selected)):
        key = tuple(row._mapping[name] for name in by)
        tally = tallies.setdefault(key, {"eligible": 0, "selected": 0, "scores": dict.fromkeys(SCORES, 0)})
        tally["eligible"] += row.count_
        tally["selected"] += row.count_ if row.is_selected else 0
        if row.is_selected and row.score is not None:
            tally["scores"][row.score] += row.count_
    return [Counted(part=dict(zip(by, key, strict=True)), **tally) for key, tally in sorted(tallies.items())]


def _values(row: Any) -> dict[str, Any]:
    return {field.name: getattr(row, field.name) for field in fields(row)}
