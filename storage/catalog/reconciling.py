"""Studies and the orders that they may be of: what is doubtful, what was linked, and what it said before."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from datetime import datetime
from typing import Any, Literal

import orjson
import sqlalchemy as sa

from readingroom.errors import NotFound
from readingroom.model import Scope
from storage.catalog import schema as t
from storage.catalog.writers import insert_for

MatchState = Literal["doubtful", "linked", "dismissed"]
MATCH_STATES: tuple[MatchState, ...] = ("doubtful", "linked", "dismissed")
MOST = 500
"""Matches that one list has."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Match:
    """A study with the orders that it may be of, or the one that it was linked to; of a study there is one.

    Attributes
    ----------
    how
        What linked it: study uid, patient and time, person.
    candidates
        Of each accession number that comes into question what is known of it.
    moved
        Of a link, by tag: the elements that it has set (`to`), those of the layer before (`was`), and tags of which the
        layer said nothing (`drop`).
    """

    id: str
    facility: str
    study_uid: str
    state: MatchState
    made_at: datetime
    changed_at: datetime
    reasons: Sequence[str] = ()
    candidates: Sequence[Mapping[str, Any]] = ()
    accession_number: str = ""
    how: str = ""
    actor: str = ""
    note: str = ""
    moved: Mapping[str, Any] | None = None


_R = t.reconciliation.c
_NAMES = tuple(field.name for field in fields(Match))
_ROWS = sa.select(*(_R[name] for name in _NAMES))
_JSON = ("reasons", "candidates", "moved")


def match_of(connection: sa.Connection, facility: str, study_uid: str) -> Match | None:
    """The match of a study, locked; None where nothing was ever in doubt."""
    found = _ROWS.where(_R.facility == facility, _R.study_uid == study_uid).with_for_update()
    row = connection.execute(found).one_or_none()
    return None if row is None else _match(row)


def find_match(connection: sa.Connection, scope: Scope, id: str, *, locked: bool = False) -> Match:
    """One in scope; raises `NotFound`."""
    found = _ROWS.where(_R.id == id, *_in(scope))
    row = connection.execute(found.with_for_update() if locked else found).one_or_none()
    if row is None:
        raise NotFound(f"There is no match {id[:32]}.")
    return _match(row)


def list_matches(
    connection: sa.Connection,
    scope: Scope,
    *,
    state: MatchState | None = "doubtful",
    study_uid: str | None = None,
    after: str | None = None,
    limit: int = MOST,
) -> list[Match]:
    """Matches in scope, the oldest first; `after` is the id of the last one seen."""
    found = _ROWS.where(*_in(scope)).order_by(_R.id).limit(limit)
    if state is not None:
        found = found.where(_R.state == state)
    if study_uid is not None:
        found = found.where(_R.study_uid == study_uid)
    if after is not None:
        found = found.where(_R.id > after)
    return [_match(row) for row in connection.execute(found)]


def write_match(connection: sa.Connection, match: Match) -> None:
    """Write the match of a study whole."""
    values = {name: getattr(match, name) for name in _NAMES}
    for name in _JSON:
        values[name] = None if values[name] is None else orjson.dumps(values[name])
    insert = insert_for(connection)(t.reconciliation).values(values)
    again = {name: value for name, value in values.items() if name not in ("id", "facility", "study_uid", "made_at")}
    connection.execute(insert.on_conflict_do_update(index_elements=["facility", "study_uid"], set_=again))


def forget_match(connection: sa.Connection, match: Match) -> None:
    """Remove a match: there is nothing in doubt any more."""
    connection.execute(t.reconciliation.delete().where(_R.id == match.id))


def _match(row: sa.Row[Any]) -> Match:
    told = dict(row._mapping)
    for name in _JSON:
        told[name] = None if told[name] is None else orjson.loads(told[name])
    return Match(**told)


def _in(scope: Scope) -> list[sa.ColumnElement[bool]]:
    return [] if scope.facilities is None else [_R.facility.in_(sorted(scope.facilities))]
