"""Who patients are by the messages of their facility, which of them were merged, and what that has moved."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import asdict, dataclass, fields
from datetime import datetime
from typing import Any, Literal

import orjson
import sqlalchemy as sa

from readingroom.errors import NotFound
from readingroom.model import Scope
from storage.catalog import schema as t
from storage.catalog.ids import patient_key
from storage.catalog.writers import insert_for
from storage.dicomjson import MetadataJson

Kind = Literal["study", "order", "item", "step"]
MOST = 500
"""Merges that one list has."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Known:
    """A patient as a facility knows one: an id means somebody only together with its issuer."""

    facility: str
    issuer: str
    patient_id: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Merge:
    """One merge; it holds as long as it was not undone."""

    id: str
    facility: str
    issuer: str
    from_id: str
    into_id: str
    source: str
    at: datetime
    undone_at: datetime | None = None
    undone_source: str = ""

    @property
    def old(self) -> Known:
        """Whom there is no more."""
        return Known(facility=self.facility, issuer=self.issuer, patient_id=self.from_id)

    @property
    def survivor(self) -> Known:
        """Who is left."""
        return Known(facility=self.facility, issuer=self.issuer, patient_id=self.into_id)


@dataclass(frozen=True, slots=True, kw_only=True)
class Moved:
    """Something that a merge has moved: a study by its UID, others by their id; `before` is what it said until then."""

    merge: str
    kind: Kind
    key: str
    before: Mapping[str, Any]


_M, _V, _K, _S = t.patient_merge.c, t.patient_move.c, t.patient_known.c, t.study.c
_MERGES = sa.select(*(_M[field.name] for field in fields(Merge)))
_HOLDS = _M.undone_at.is_(None)


def issuer_at(connection: sa.Connection, facility: str) -> str:
    """The issuer of a facility's Patient IDs where nothing names another."""
    return str(connection.execute(sa.select(t.facility.c.issuer).where(t.facility.c.id == facility)).scalar_one())


def lock_patients(connection: sa.Connection, facility: str) -> None:
    """Let nobody else change who the patients of a facility are before the transaction ends."""
    # NO KEY: rows that refer to the facility may come meanwhile.
    mine = sa.select(t.facility.c.id).where(t.facility.c.id == facility)
    connection.execute(mine.with_for_update(key_share=True))


# -- who somebody is ---------------------------------------------------------------------------------------------------


def read_known(connection: sa.Connection, who: Known, *, locked: bool = False) -> MetadataJson:
    """What the messages of a facility have said of a patient; empty where they have said nothing."""
    one = sa.select(_K.attributes).where(*_is(_K, who))
    found = connection.execute(one.with_for_update() if locked else one).scalar_one_or_none()
    said: MetadataJson = orjson.loads(found) if found else {}
    return said


def write_known(connection: sa.Connection, who: Known, said: MetadataJson, source: str, now: datetime) -> None:
    """Keep what is said of a patient, whole."""
    values = {"attributes": orjson.dumps(said), "source": source, "at": now}
    insert = insert_for(connection)(t.patient_known).values(**asdict(who), **values)
    connection.execute(insert.on_conflict_do_update(index_elements=["facility", "issuer", "patient_id"], set_=values))


def registered(connection: sa.Connection, who: Known) -> MetadataJson:
    """What the registry has of a patient from studies; empty where it has nothing."""
    c = t.patient.c
    found = sa.select(c.header).where(c.issuer == who.issuer, c.patient_id == who.patient_id)
    header = connection.execute(found).scalar_one_or_none()
    called: MetadataJson = orjson.loads(header) if header else {}
    return called


def register_patient(connection: sa.Connection, who: Known, now: datetime) -> None:
    """Have a patient in the registry, at the next version: what leads to or from that patient is another now."""
    c = t.patient.c
    insert = insert_for(connection)(t.patient).values(
        id=patient_key(who.issuer, who.patient_id),
        issuer=who.issuer,
        patient_id=who.patient_id,
        version=1,
        received_at=now,
        updated_at=now,
    )
    again = {"version": c.version + 1, "updated_at": now}
    connection.execute(insert.on_conflict_do_update(index_elements=["issuer", "patient_id"], set_=again))


# -- merges ------------------------------------------------------------------------------------------------------------


def add_merge(connection: sa.Connection, merge: Merge) -> None:
    """Keep a merge."""
    connection.execute(t.patient_merge.insert().values(asdict(merge)))


def end_merge(connection: sa.Connection, merge: Merge, source: str, now: datetime) -> None:
    """Keep that a merge was undone."""
    undone = {"undone_at": now, "undone_source": source}
    connection.execute(t.patient_merge.update().where(_M.id == merge.id).values(undone))


def merge_of(connection: sa.Connection, who: Known) -> Merge | None:
    """The merge that a patient went into another by; None for one who is there."""
    found = _MERGES.where(_HOLDS, _M.facility == who.facility, _M.issuer == who.issuer, _M.from_id == who.patient_id)
    row = connection.execute(found).one_or_none()
    return None if row is None else Merge(**row._mapping)


def find_merge(connection: sa.Connection, scope: Scope, id: str, *, locked: bool = False) -> Merge:
    """One in scope; raises `NotFound`."""
    found = _MERGES.where(_M.id == id, *_in(scope))
    row = connection.execute(found.with_for_update() if locked else found).one_or_none()
    if row is None:
        raise NotFound(f"There is no merge {id[:32]}.")
    return Merge(**row._mapping)


def list_merges(
    connection: sa.Connection,
    scope: Scope,
    *,
    patient_id: str | None = None,
    before: str | None = None,
    limit: int = MOST,
) -> list[Merge]:
    """Merges in scope, the newest first; `before` is the id of the last one seen, `patient_id` of either patient."""
    found = _MERGES.where(*_in(scope)).order_by(_M.id.desc()).limit(limit)
    if patient_id is not None:
        found = found.where(sa.or_(_M.from_id == patient_id, _M.into_id == patient_id))
    if before is not None:
        found = found.where(_M.id < before)
    return [Merge(**row._mapping) for row in connection.execute(found)]


def links_of(connection: sa.Connection, scope: Scope, patients: Collection[tuple[str, str]]) -> list[Merge]:
    """The merges in scope that hold, from or into any of these patients, given by issuer and Patient ID."""
    ids = sorted({patient_id for _, patient_id in patients})
    if not ids:
        return []
    found = _MERGES.where(_HOLDS, sa.or_(_M.from_id.in_(ids), _M.into_id.in_(ids)), *_in(scope)).order_by(_M.id)
    merges = [Merge(**row._mapping) for row in connection.execute(found)]
    return [one for one in merges if {(one.issuer, one.from_id), (one.issuer, one.into_id)} & set(patients)]


def is_merged(patient: sa.FromClause, scope: Scope) -> sa.ColumnElement[bool]:
    """That a row of the registry is of a patient that a merge in scope is from or into."""
    mine = sa.and_(
        _HOLDS,
        _M.issuer == patient.c.issuer,
        sa.or_(_M.from_id == patient.c.patient_id, _M.into_id == patient.c.patient_id),
        *_in(scope),
    )
    return sa.select(sa.literal(1)).select_from(t.patient_merge).where(mine).correlate(patient).exists()


# -- what they move ----------------------------------------------------------------------------------------------------


def add_move(connection: sa.Connection, moved: Moved) -> None:
    """Keep what a merge has moved; what it has moved before keeps what it said at first."""
    insert = insert_for(connection)(t.patient_move).values(
        merge=moved.merge, kind=moved.kind, key=moved.key, before=orjson.dumps(moved.before)
    )
    connection.execute(insert.on_conflict_do_nothing())


def moves_of(connection: sa.Connection, merge: str, *kinds: Kind) -> list[Moved]:
    """What a merge has moved and an undo has not moved back, in a steady order."""
    found = sa.select(_V.merge, _V.kind, _V.key, _V.before).where(_V.merge == merge, _V.kind.in_(kinds))
    return [
        Moved(merge=row.merge, kind=row.kind, key=row.key, before=orjson.loads(row.before))
        for row in connection.execute(found.order_by(_V.kind, _V.key))
    ]


def forget_move(connection: sa.Connection, moved: Moved) -> None:
    """Keep no longer that something was moved: it has been moved back."""
    mine = _V.merge == moved.merge, _V.kind == moved.kind, _V.key == moved.key
    connection.execute(t.patient_move.delete().where(*mine))


def count_moves(connection: sa.Connection, merge: str) -> dict[str, int]:
    """How much a merge has moved, by kind."""
    found = sa.select(_V.kind, sa.func.count()).where(_V.merge == merge).group_by(_V.kind)
    return {row[0]: row[1] for row in connection.execute(found)}


def studies_of(connection: sa.Connection, who: Known) -> list[str]:
    """UIDs of the studies of a patient that the facility owns, in the order in which they came."""
    issued = _S.issuer == who.issuer
    if issuer_at(connection, who.facility) == who.issuer:
        issued = sa.or_(issued, _S.issuer.is_(None))
    mine = sa.select(_S.study_uid).where(_S.owner_facility == who.facility, _S.patient_id == who.patient_id, issued)
    return list(connection.execute(mine.order_by(_S.id)).scalars())


def patient_of_study(connection: sa.Connection, facility: str, study_uid: str) -> Known | None:
    """Whose a study is; None where it is not there, or its patient has no id."""
    found = sa.select(_S.patient_id, _S.issuer).where(_S.owner_facility == facility, _S.study_uid == study_uid)
    row = connection.execute(found).one_or_none()
    if row is None or not row.patient_id:
        return None
    issuer = row.issuer or issuer_at(connection, facility)
    return Known(facility=facility, issuer=issuer, patient_id=row.patient_id)


def _is(columns: Any, who: Known) -> list[sa.ColumnElement[bool]]:
    return [columns[name] == value for name, value in asdict(who).items()]


def _in(scope: Scope) -> list[sa.ColumnElement[bool]]:
    return [] if scope.facilities is None else [_M.facility.in_(sorted(scope.facilities))]
