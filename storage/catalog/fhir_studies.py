"""Studies with all that an ImagingStudy tells of them, in a few queries however many there are; and their history."""

from __future__ import annotations

import zlib
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal

import sqlalchemy as sa

from readingroom.model import Scope
from storage.catalog import schema as t
from storage.catalog.find import scoped
from storage.catalog.overlays import load_metadata
from storage.catalog.writers import insert_for
from storage.objects import MetadataJson
from storage.rejection import KEY_OBJECT_SELECTION, QUALITY, TITLES

State = Literal["available", "registered", "cancelled", "entered-in-error", "deleted"]

_MOST_TITLES = 200
"""Of documents in one answer: each is read from the metadata of its instance."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ShownStudy:
    """One study: its row with the facility's `zone`, and the rows of its series.

    A series has `instances`: the objects of its ``instance`` array as text, with commas between, or None. `documents`
    are, by id of the series, the UID and the header of instances that may have a title; `orders` the ids of the orders
    with its accession number.
    """

    row: Any
    state: State
    series: Sequence[Any]
    documents: Mapping[str, Sequence[tuple[str, MetadataJson]]]
    orders: Sequence[str]


@dataclass(frozen=True, slots=True, kw_only=True)
class KeptVersion:
    """A study as it was when it settled; `row` is that of the study as it is now."""

    row: Any
    version: int
    updated_at: datetime
    is_deleted: bool
    rest: bytes


_S, _E, _I = t.study.c, t.series.c, t.instance.c
# Built once: making a statement costs more than running it.
_V = t.study_version.c
_IS_CURRENT = sa.and_(_V.study == _S.id, _V.version == _S.version)
_STUDIES = (
    sa.select(t.study, t.facility.c.zone, _V.is_deleted, _V.rest)
    .join_from(t.study, t.facility, _S.owner_facility == t.facility.c.id)
    .join(t.study_version, _IS_CURRENT, isouter=True)
)
_BY_FHIR_ID = _STUDIES.where(_S.fhir_id.in_(sa.bindparam("ids", expanding=True)))
_URI = "urn:ietf:rfc:3986"
_LARGEST = (1 << 31) - 1


def _instances() -> sa.ScalarSelect[str]:
    """The instances of a series as ImagingStudy has them; the database writes thousands in the time of reading them.

    UIDs need no escape.
    """
    is_told = sa.and_(_I.instance_number >= 0, _I.instance_number <= _LARGEST)
    number = sa.literal('"number":').concat(sa.cast(_I.instance_number, sa.Text())).concat(",")
    text = sa.literal('{"uid":"').concat(_I.instance_uid).concat('",')
    text = text.concat(sa.case((is_told, number), else_=""))
    text = text.concat(f'"sopClass":{{"system":"{_URI}","code":"urn:oid:').concat(_I.sop_class).concat('"}}')
    # In an order that an index has: to sort them would take as long again.
    ordered = sa.select(text.label("text")).where(_I.series == _E.id, _I.is_current == sa.true())
    each = ordered.order_by(_I.instance_number, _I.id).correlate(t.series).subquery("each")
    return sa.select(sa.func.aggregate_strings(each.c.text, ",")).scalar_subquery()


_HAS_IMAGES = (
    sa.select(sa.literal(1))
    .where(_I.series == _E.id, _I.is_current, _I.sop_class != KEY_OBJECT_SELECTION)
    .correlate(t.series)
    .exists()
)
_SERIES = (
    sa.select(
        *(_E[name] for name in ("id", "study", "series_uid", "modality", "series_number", "series_description")),
        *(_E[name] for name in ("body_part", "laterality", "series_date", "series_time")),
        *(_E[name] for name in ("performed_date", "performed_time", "instance_count", "row", "extra")),
        _instances().label("instances"),
        _HAS_IMAGES.label("has_images"),
    )
    .where(_E.study.in_(sa.bindparam("ids", expanding=True)), _E.instance_count > 0)
    .order_by(_E.study, _E.series_number, _E.id)
)
_DOCUMENTS = (
    sa.select(_I.series, _I.instance_uid, _I.id)
    .where(_I.series.in_(sa.bindparam("ids", expanding=True)), _I.is_current, _I.frame_count == 0)
    .order_by(_I.series, _I.instance_number, _I.id)
    .limit(_MOST_TITLES)
)
_METADATA = sa.select(t.instance_metadata.c.instance, t.instance_metadata.c.json).where(
    t.instance_metadata.c.instance.in_(sa.bindparam("ids", expanding=True))
)
_ORDERS = (
    sa.select(t.imaging_order.c.facility, t.imaging_order.c.accession_number, t.imaging_order.c.id)
    .where(t.imaging_order.c.accession_number.in_(sa.bindparam("accessions", expanding=True)))
    .order_by(t.imaging_order.c.created_at, t.imaging_order.c.id)
)


def studies_by_fhir_id(connection: sa.Connection, scope: Scope, ids: Sequence[str]) -> list[ShownStudy | KeptVersion]:
    """Those that are there and in scope, in any order; what is deleted too, as long as its row is there.

    One that has not changed since it settled comes as it was kept then.
    """
    rows = connection.execute(scoped(_BY_FHIR_ID, scope, _S.owner_facility), {"ids": list(ids)}).all()
    return _current(connection, rows)


def study_by_id(connection: sa.Connection, id: str) -> ShownStudy:
    """One study, by the id of its row."""
    return _with_contents(connection, [connection.execute(_STUDIES.where(_S.id == id)).one()])[0]


def latest_studies(
    connection: sa.Connection,
    scope: Scope,
    *,
    limit: int,
    until: datetime | None = None,
    since: datetime | None = None,
) -> list[ShownStudy | KeptVersion]:
    """The studies that were changed last, that first."""
    found = scoped(_STUDIES, scope, _S.owner_facility).order_by(_S.updated_at.desc(), _S.fhir_id)
    found = found.where(*_between(_S.updated_at, until, since)).limit(limit)
    return _current(connection, connection.execute(found).all())


def _current(connection: sa.Connection, rows: Sequence[Any]) -> list[ShownStudy | KeptVersion]:
    kept = [_kept(row, row.version, row.updated_at) for row in rows if row.rest is not None]
    return [*kept, *_with_contents(connection, [row for row in rows if row.rest is None])]


def _kept(row: Any, version: int, updated_at: datetime) -> KeptVersion:
    rest = zlib.decompress(row.rest)
    return KeptVersion(row=row, version=version, updated_at=updated_at, is_deleted=row.is_deleted, rest=rest)


def _with_contents(connection: sa.Connection, rows: Sequence[Any]) -> list[ShownStudy]:
    if not rows:
        return []
    series = defaultdict[str, list[Any]](list)
    for one in connection.execute(_SERIES, {"ids": [row.id for row in rows]}):
        series[one.study].append(one)
    documents = _documents(connection, [one.id for some in series.values() for one in some])
    orders = _orders(connection, rows)
    return [
        ShownStudy(
            row=row,
            state="available"
            if any(one.has_images for one in series[row.id])
            else _state_without_images(connection, row),
            series=series[row.id],
            documents=documents,
            orders=orders.get((row.owner_facility, row.accession_number), ()),
        )
        for row in rows
    ]


def _documents(connection: sa.Connection, series: Sequence[str]) -> dict[str, list[tuple[str, MetadataJson]]]:
    found = connection.execute(_DOCUMENTS, {"ids": list(series)}).all()
    if not found:
        return {}
    headers = {
        row.instance: load_metadata(row.json)
        for row in connection.execute(_METADATA, {"ids": [row.id for row in found]})
    }
    documents = defaultdict[str, list[tuple[str, MetadataJson]]](list)
    for row in found:
        documents[row.series].append((row.instance_uid, headers.get(row.id, {})))
    return documents


def _orders(connection: sa.Connection, rows: Sequence[Any]) -> dict[tuple[str, str], list[str]]:
    accessions = sorted({row.accession_number for row in rows if row.accession_number})
    found = defaultdict[tuple[str, str], list[str]](list)
    if accessions:
        for row in connection.execute(_ORDERS, {"accessions": accessions}):
            found[row.facility, row.accession_number].append(row.id)
    return found


def _state_without_images(connection: sa.Connection, row: Any) -> State:
    """What a study is of which no image is in use: taken back by a rejection note, deleted, or yet to come.

    One that was rejected for its quality was not carried through (cancelled); for the patient's safety or a wrong
    worklist entry it is an error.
    """
    c = t.removal.c
    mine = sa.select(c.reason).where(c.owner_facility == row.owner_facility, c.study_uid == row.study_uid)
    reasons = set(connection.execute(mine.where(c.state != "awaited").distinct()).scalars())
    errors = {code for code, title in TITLES.items() if title.is_final} - {QUALITY}
    if reasons & errors:
        return "entered-in-error"
    if QUALITY in reasons:
        return "cancelled"
    if row.instance_count:
        return "available"  # key objects alone
    return "deleted" if reasons else "registered"


# -- history -----------------------------------------------------------------------------------------------------------


def keep_version(connection: sa.Connection, study: ShownStudy, rest: bytes) -> None:
    """Keep what is told of a study now; it stays when the study changes."""
    insert = insert_for(connection)(t.study_version).values(
        study=study.row.id,
        version=study.row.version,
        updated_at=study.row.updated_at,
        is_deleted=study.state == "deleted",
        rest=zlib.compress(rest, 1),
    )
    connection.execute(insert.on_conflict_do_nothing())


def kept_versions(
    connection: sa.Connection,
    scope: Scope,
    fhir_id: str | None,
    *,
    version: int | None = None,
    limit: int | None = None,
    until: datetime | None = None,
    since: datetime | None = None,
) -> list[KeptVersion]:
    """Versions that were kept, of one study or of all, the newest first."""
    found = sa.select(t.study, _V.version.label("then"), _V.updated_at.label("at"), _V.is_deleted, _V.rest)
    found = scoped(found.join_from(t.study_version, t.study, _V.study == _S.id), scope, _S.owner_facility)
    found = found.where(*_between(_V.updated_at, until, since))
    if fhir_id is not None:
        found = found.where(_S.fhir_id == fhir_id)
    if version is not None:
        found = found.where(_V.version == version)
    rows = connection.execute(found.order_by(_V.updated_at.desc(), _S.fhir_id, _V.version.desc()).limit(limit))
    return [_kept(row, row.then, row.at) for row in rows]


def touch_study(connection: sa.Connection, facility: str, accession_number: str, at: datetime) -> None:
    """Let studies be at their next version, since what is told of their order has changed."""
    mine = t.study.update().where(_S.owner_facility == facility, _S.accession_number == accession_number)
    connection.execute(mine.values(version=_S.version + 1, updated_at=at))


def _between(
    column: sa.ColumnElement[datetime], until: datetime | None, since: datetime | None
) -> list[sa.ColumnElement[bool]]:
    return [
        *([column <= until] if until is not None else []),
        *([column >= since] if since is not None else []),
    ]
