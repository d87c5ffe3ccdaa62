"""Reads by UID: where instances lie, and the JSON kept ready for them. Every read is narrowed by the caller's Scope."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from itertools import batched
from typing import Any

import sqlalchemy as sa

from readingroom.errors import Ambiguous, Gone, NotFound, Unavailable
from readingroom.model import Scope
from storage.catalog import schema as t
from storage.catalog.overlays import load_metadata
from storage.overlay import difference


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredInstance:
    """One current instance: its identity, and where its bytes are.

    `chunk_offset`, `chunk_length` and `chunk_stride` say where frames begin; without a stride, a frame of an object
    with several chunks is found in the shard index (`storage.objects.frame_chunk`).
    """

    id: str
    study_uid: str
    series_uid: str
    instance_uid: str
    owner_facility: str
    version: int
    sop_class: str
    transfer_syntax: str
    instance_number: int | None
    rows: int | None
    columns: int | None
    frame_count: int
    sha256: bytes
    size_bytes: int
    object_key: str
    object_bytes: int
    array_name: str
    array_spec: bytes
    slot: int
    opaque_reason: str
    chunk_count: int
    chunk_offset: int
    chunk_length: int
    chunk_stride: int | None
    received_at: datetime
    overlay_version: int

    @property
    def etag(self) -> str:
        """Strong validator of the instance as it is shown (RFC 9110 8.8.3), without quotes."""
        return f"{self.bytes_etag}-{self.overlay_version}" if self.overlay_version else self.bytes_etag

    @property
    def bytes_etag(self) -> str:
        """The same of the received bytes: frames and bulk data are theirs, whatever lies over the data set."""
        return f"{self.sha256[:12].hex()}-{self.version}"


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredSeries:
    """One series; `version` moves with every change below it."""

    id: str
    study_uid: str
    series_uid: str
    owner_facility: str
    place: str
    modality: str | None
    instance_count: int
    version: int


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredStudy:
    """One study; `version` moves with every change below it."""

    id: str
    study_uid: str
    owner_facility: str
    series_count: int
    instance_count: int
    version: int
    updated_at: datetime


_INSTANCE = (
    sa.select(
        t.instance.c.id,
        t.study.c.study_uid,
        t.series.c.series_uid,
        t.instance.c.instance_uid,
        t.instance.c.owner_facility,
        t.instance.c.version,
        t.instance.c.sop_class,
        t.instance.c.transfer_syntax,
        t.instance.c.instance_number,
        t.instance.c.rows,
        t.instance.c.columns,
        t.instance.c.frame_count,
        t.instance.c.sha256,
        t.instance.c.size_bytes,
        t.instance.c.object_key,
        t.instance.c.object_bytes,
        t.zarr_array.c.name.label("array_name"),
        t.zarr_array.c.spec.label("array_spec"),
        t.instance.c.slot,
        t.instance.c.opaque_reason,
        t.instance.c.chunk_count,
        t.instance.c.chunk_offset,
        t.instance.c.chunk_length,
        t.instance.c.chunk_stride,
        t.instance.c.received_at,
        t.instance.c.overlay_version,
    )
    .join_from(t.instance, t.series, t.instance.c.series == t.series.c.id)
    .join(t.study, t.instance.c.study == t.study.c.id)
    .join(t.zarr_array, t.instance.c.array == t.zarr_array.c.id)
)


# Built once: making a statement costs more than running it, and this one runs for every frame.
_ONE_OF_ANY_VERSION = _INSTANCE.where(
    t.instance.c.instance_uid == sa.bindparam("instance_uid"),
    t.series.c.series_uid == sa.bindparam("series_uid"),
    t.study.c.study_uid == sa.bindparam("study_uid"),
)
_IN_SCOPE = t.instance.c.owner_facility.in_(sa.bindparam("facilities", expanding=True))
_ONE = _ONE_OF_ANY_VERSION.where(t.instance.c.is_current)
_ONE_SCOPED = _ONE.where(_IN_SCOPE)
_IS_REMOVED = sa.exists().where(
    t.removal.c.owner_facility == t.instance.c.owner_facility, t.removal.c.instance_uid == t.instance.c.instance_uid
)
_ONE_VERSION = _ONE_OF_ANY_VERSION.where(t.instance.c.version == sa.bindparam("version"), ~_IS_REMOVED)
_ONE_VERSION_SCOPED = _ONE_VERSION.where(_IN_SCOPE)

_STUDY_IN_SCOPE = t.study.c.owner_facility.in_(sa.bindparam("facilities", expanding=True))
_STUDY = sa.select(
    t.study.c.id,
    t.study.c.study_uid,
    t.study.c.owner_facility,
    t.study.c.series_count,
    t.study.c.instance_count,
    t.study.c.version,
    t.study.c.updated_at,
).where(t.study.c.study_uid == sa.bindparam("study_uid"), t.study.c.instance_count > 0)
_STUDY_SCOPED = _STUDY.where(_STUDY_IN_SCOPE)
EVERY_SERIES = sa.select(
    t.series.c.id,
    t.study.c.study_uid,
    t.series.c.series_uid,
    t.study.c.owner_facility,
    t.series.c.place,
    t.series.c.modality,
    t.series.c.instance_count,
    t.series.c.version,
).join(t.study, t.series.c.study == t.study.c.id)
"""Rows that make a `StoredSeries`, still to be narrowed."""

_SERIES = EVERY_SERIES.where(
    t.study.c.study_uid == sa.bindparam("study_uid"),
    t.series.c.series_uid == sa.bindparam("series_uid"),
    t.series.c.instance_count > 0,
)
_SERIES_SCOPED = _SERIES.where(_STUDY_IN_SCOPE)


def scoped(statement: sa.Select[Any], scope: Scope, column: sa.ColumnElement[str]) -> sa.Select[Any]:
    """`statement` narrowed to the facilities of `scope`; `column` is the owner facility."""
    if scope.facilities is None:
        return statement
    return statement.where(column.in_(sorted(scope.facilities)))


def _only[T](connection: sa.Connection, scope: Scope, found: Sequence[T], what: str, *uids: str) -> T:
    """The one that was found; `uids` are those of the study and what of it was asked for."""
    if not found:
        columns = (t.removal.c.study_uid, t.removal.c.series_uid, t.removal.c.instance_uid)
        known = sa.select(t.removal.c.id).where(
            t.removal.c.state != "awaited", *(column == uid for column, uid in zip(columns, uids, strict=False))
        )
        if connection.execute(scoped(known, scope, t.removal.c.owner_facility).limit(1)).first() is not None:
            raise Gone(f"There is no {what} any more: it was removed.")
        raise NotFound(f"There is no {what}.")
    if len(found) > 1:
        raise Ambiguous(f"More than one facility owns the {what}; ask below /dicomweb/f/{{facility}}.")
    return found[0]


def find_instance(
    connection: sa.Connection,
    scope: Scope,
    study_uid: str,
    series_uid: str,
    instance_uid: str,
    version: int | None = None,
) -> StoredInstance:
    """One instance under its own study and series: the current version of it, or an older one by number.

    Raises
    ------
    NotFound
        No such instance in scope, or not under that study and series.
    Gone
        It was removed, and is known no more than that.
    Ambiguous
        Several facilities in scope own it.
    """
    parameters: dict[str, Any] = {
        "instance_uid": instance_uid,
        "series_uid": series_uid,
        "study_uid": study_uid,
        "version": version,
    }
    statement = _ONE if version is None else _ONE_VERSION
    if scope.facilities is not None:
        statement = _ONE_SCOPED if version is None else _ONE_VERSION_SCOPED
        parameters["facilities"] = sorted(scope.facilities)
    rows = connection.execute(statement, parameters).all()
    what = f"instance {instance_uid} in series {series_uid}"
    return StoredInstance(**_only(connection, scope, rows, what, study_uid, series_uid, instance_uid)._mapping)


def find_study(connection: sa.Connection, scope: Scope, study_uid: str) -> StoredStudy:
    """One study; raises as `find_instance` does."""
    parameters: dict[str, Any] = {"study_uid": study_uid}
    statement = _STUDY
    if scope.facilities is not None:
        statement = _STUDY_SCOPED
        parameters["facilities"] = sorted(scope.facilities)
    rows = connection.execute(statement, parameters).all()
    return StoredStudy(**_only(connection, scope, rows, f"study {study_uid}", study_uid)._mapping)


def find_series(connection: sa.Connection, scope: Scope, study_uid: str, series_uid: str) -> StoredSeries:
    """One series under its own study; raises as `find_instance` does."""
    parameters: dict[str, Any] = {"study_uid": study_uid, "series_uid": series_uid}
    statement = _SERIES
    if scope.facilities is not None:
        statement = _SERIES_SCOPED
        parameters["facilities"] = sorted(scope.facilities)
    rows = connection.execute(statement, parameters).all()
    return StoredSeries(**_only(connection, scope, rows, f"series {series_uid}", study_uid, series_uid)._mapping)


def list_series(connection: sa.Connection, study_id: str) -> list[StoredSeries]:
    """The series of a study by number, then by arrival."""
    statement = EVERY_SERIES.where(t.series.c.study == study_id).order_by(t.series.c.series_number, t.series.c.id)
    return [StoredSeries(**row._mapping) for row in connection.execute(statement)]


def list_instances(connection: sa.Connection, of: StoredStudy | StoredSeries) -> list[StoredInstance]:
    """The current instances of a study or series, by series number, instance number, then arrival."""
    column = t.instance.c.series if isinstance(of, StoredSeries) else t.instance.c.study
    statement = _INSTANCE.where(column == of.id, t.instance.c.is_current).order_by(
        t.series.c.series_number, t.series.c.id, t.instance.c.instance_number, t.instance.c.id
    )
    return [StoredInstance(**row._mapping) for row in connection.execute(statement)]


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """Which instances somebody wants: those that all agree with that is given here.

    Attributes
    ----------
    patient_id, issuer
        Patient ID and Issuer of Patient ID, as they are shown; empty for any.
    study_uids, series_uids, instance_uids
        Empty for all.
    """

    patient_id: str = ""
    issuer: str = ""
    study_uids: tuple[str, ...] = ()
    series_uids: tuple[str, ...] = ()
    instance_uids: tuple[str, ...] = ()


def list_wanted(connection: sa.Connection, scope: Scope, wanted: Wanted) -> list[StoredInstance]:
    """The current instances that are wanted: study by study, each in the order of `list_instances`.

    Raises
    ------
    ValueError
        Nothing is said of which.
    """
    given: list[tuple[sa.ColumnElement[str], tuple[str, ...]]] = [
        (t.study.c.patient_id, (wanted.patient_id,) if wanted.patient_id else ()),
        (t.study.c.issuer, (wanted.issuer,) if wanted.issuer else ()),
        (t.study.c.study_uid, wanted.study_uids),
        (t.series.c.series_uid, wanted.series_uids),
        (t.instance.c.instance_uid, wanted.instance_uids),
    ]
    conditions = [column.in_(values) for column, values in given if values]
    if not conditions:
        raise ValueError("some patient, study, series or instance has to be wanted")
    statement = scoped(_INSTANCE.where(t.instance.c.is_current, *conditions), scope, t.instance.c.owner_facility)
    ordered = statement.order_by(
        *(t.study.c.study_date, t.study.c.id, t.series.c.series_number, t.series.c.id),
        *(t.instance.c.instance_number, t.instance.c.id),
    )
    return [StoredInstance(**row._mapping) for row in connection.execute(ordered)]


def find_instances(connection: sa.Connection, ids: Sequence[str]) -> list[StoredInstance]:
    """The instances of these rows, in any order; those that are gone are not among them."""
    return [StoredInstance(**row._mapping) for row in connection.execute(_INSTANCE.where(t.instance.c.id.in_(ids)))]


def read_metadata(connection: sa.Connection, instance_id: str, *, original: bool = False) -> bytes:
    """One instance's DICOM JSON, zlib-compressed, with `BASE_URL_MARK` in place of the service root.

    It is shown as it was corrected; `original` gives it as it was received.
    """
    statement = _RECEIVED_METADATA if original else _METADATA
    return bytes(connection.execute(statement, {"instance": instance_id}).scalar_one())


def iter_metadata(
    connection: sa.Connection, of: StoredStudy | StoredSeries, *, original: bool = False
) -> Iterator[bytes]:
    """The same for each current instance of a study or series, in the order of `list_instances`."""
    column = t.instance.c.series if isinstance(of, StoredSeries) else t.instance.c.study
    statement = (
        sa.select(_json(original))
        .join(t.instance, t.instance_metadata.c.instance == t.instance.c.id)
        .join(t.series, t.instance.c.series == t.series.c.id)
        .where(column == of.id, t.instance.c.is_current)
        .order_by(t.series.c.series_number, t.series.c.id, t.instance.c.instance_number, t.instance.c.id)
    )
    for (blob,) in connection.execute(statement.execution_options(yield_per=200)):
        yield bytes(blob)


def each_metadata(connection: sa.Connection, instances: Sequence[StoredInstance]) -> Iterator[bytes]:
    """The same for each of `instances`, in their order; as it was received for those without an overlay."""
    columns = t.instance_metadata.c
    statement = sa.select(columns.instance, columns.json, columns.received).where(
        columns.instance.in_(sa.bindparam("instances", expanding=True))
    )
    for some in batched(instances, 200):
        rows = connection.execute(statement, {"instances": [instance.id for instance in some]})
        found = {row.instance: row for row in rows}
        for instance in some:
            row = found[instance.id]
            yield bytes(row.json if instance.overlay_version else row.received or row.json)


def _json(original: bool) -> sa.ColumnElement[bytes]:
    shown, received = t.instance_metadata.c.json, t.instance_metadata.c.received
    return sa.func.coalesce(received, shown) if original else shown


_METADATA, _RECEIVED_METADATA = (
    sa.select(_json(original)).where(t.instance_metadata.c.instance == sa.bindparam("instance"))
    for original in (False, True)
)


def read_overlay(connection: sa.Connection, instance: StoredInstance) -> dict[str, Any]:
    """What lies over the received data set of an instance; None as an element takes it away.

    Raises
    ------
    Unavailable
        The instance was corrected since it was found, so this is not what lay over it then.
    """
    statement = (
        sa.select(t.instance_metadata.c.json, t.instance_metadata.c.received, t.instance.c.overlay_version)
        .join(t.instance, t.instance_metadata.c.instance == t.instance.c.id)
        .where(t.instance.c.id == instance.id)
    )
    shown, received, version = connection.execute(statement).one()
    if version != instance.overlay_version:
        raise Unavailable(f"Instance {instance.instance_uid} was corrected at this moment; ask again.", retry_after=1)
    return difference(load_metadata(received), load_metadata(shown)) if received else {}
