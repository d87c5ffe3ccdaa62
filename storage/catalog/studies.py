"""The ingest transaction: instances that lie in the store become rows, and so visible.

One call records a group of instances, whoever sent them, in one transaction: patient, study, series and instance rows,
the counts and the JSON kept ready for searches, the settle timer and the events. Studies are locked in UID order.
"""

from __future__ import annotations

import zlib
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import Any, Literal, TypedDict

import orjson
import sqlalchemy as sa

from readingroom.errors import Duplicate, NotDicom, ReadingRoomError, Refused, Unavailable
from storage.catalog import rows
from storage.catalog import schema as t
from storage.catalog.counts import END, joined, recount_study
from storage.catalog.events import append_events
from storage.catalog.ids import study_fhir_id
from storage.catalog.listed import ListedKeys, keys_at_ingest, list_values
from storage.catalog.overlays import read_corrections, rewrite_series, shown_metadata
from storage.catalog.patients import patient_of
from storage.catalog.readmission import Removing, Return, readmit, reject
from storage.catalog.work_items import restate_items
from storage.catalog.writers import insert_for, series_place
from storage.objects import Description, MetadataJson, Scan, dump
from storage.overlay import Came, Correction, Layer, coerced_of, put_over, told_changes
from storage.rejection import Rejection, rejection_of

Quiet = Callable[[Collection[str]], timedelta]
"""The period of quiet for a study of these modalities."""
Tell = Callable[[sa.Connection, Sequence[Mapping[str, Any]]], object]
"""Takes note of events, as `storage.catalog.events.append_events` does."""
Duplicates = Literal["version", "reject", "keep-first"]
OUR_SOURCE = "readingroom/report"
"""The source of what this server makes of reports itself; longer than an AE title, so no sender is called that."""
PRIOR_SOURCE = "readingroom/archive:"
"""What the source begins with of an earlier study that was fetched from another archive, whose name follows."""
Result = Literal["stored", "identical", "new version", "kept first", "refused", "restored", "rejected", "not now"]


_IDENTITY: tuple[tuple[str, Literal["study_uid", "series_uid", "instance_uid", "sop_class"], str], ...] = (
    ("0020000D", "study_uid", "Study Instance UID"),
    ("0020000E", "series_uid", "Series Instance UID"),
    ("00080018", "instance_uid", "SOP Instance UID"),
    ("00080016", "sop_class", "SOP Class UID"),
)


class Identity(TypedDict, total=False):
    """The UIDs by which an object is known; empty as long as they could not be read.

    What belongs to no patient has a category, and a study and a series UID that are empty.
    """

    study_uid: str
    series_uid: str
    instance_uid: str
    sop_class: str
    category: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Received:
    """An instance whose object lies in the store under a reserved slot, and which no row names yet.

    `category` is that of one that belongs to no patient (`storage.nonpatient`); its study and series UIDs are empty.
    `unseen` names the plugins that should have looked at it and failed, with their reasons.
    """

    owner_facility: str
    study_uid: str
    series_uid: str
    instance_uid: str
    transfer_syntax: str
    metadata: MetadataJson
    metadata_zlib: bytes
    sha256: bytes
    size_bytes: int
    object_key: str
    object_bytes: int
    array_id: str
    slot: int
    opaque_reason: str
    chunk_count: int
    chunk_offset: int
    chunk_length: int
    chunk_stride: int | None
    source: str
    received_at: datetime
    coerced: Layer = field(default_factory=dict)
    category: str = ""
    unseen: tuple[tuple[str, str], ...] = ()

    @property
    def header(self) -> MetadataJson:
        """The data set with what was coerced as it came."""
        return put_over(self.metadata, self.coerced) if self.coerced else self.metadata

    @classmethod
    def of(
        cls,
        found: Scan,
        told: Description,
        *,
        object_key: str,
        object_bytes: int,
        array_id: str,
        slot: int,
        metadata_zlib: bytes | None = None,
    ) -> Received:
        """What the catalog will say of a scanned file that lies under `object_key` and tells `told` of itself."""
        known = identity(found)
        first_offset, first_length = found.chunks[0] if len(found.chunks) else (0, 0)
        has_stride = found.spec is not None and found.spec.encoding == "native" and len(found.chunks) > 1
        return cls(
            owner_facility=told.owner_facility,
            study_uid=known["study_uid"],
            series_uid=known["series_uid"],
            instance_uid=known["instance_uid"],
            transfer_syntax=found.transfer_syntax,
            metadata=found.metadata,
            metadata_zlib=zlib.compress(dump(found.metadata), 1) if metadata_zlib is None else metadata_zlib,
            sha256=bytes.fromhex(told.sha256),
            size_bytes=told.size,
            object_key=object_key,
            object_bytes=object_bytes,
            array_id=array_id,
            slot=slot,
            opaque_reason=found.opaque_reason,
            chunk_count=len(found.chunks),
            chunk_offset=first_offset,
            chunk_length=first_length,
            chunk_stride=first_length if has_stride else None,
            source=told.source,
            received_at=told.received_at,
            coerced=coerced_of(told),
            category=found.category,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Recorded:
    """What became of one received instance, and under which version it is held.

    `original_attributes` tells what is shown otherwise than it came: by coercion, or by corrections that it came under.
    """

    result: Result
    version: int
    original_attributes: Sequence[MetadataJson] = ()

    @property
    def is_superfluous(self) -> bool:
        """The object just received has no row and may be deleted."""
        return self.result not in ("stored", "new version")


@dataclass(frozen=True, slots=True, kw_only=True)
class _Current:
    """The version of an instance that holds now; `row_id` is None for one of this very group."""

    row_id: str | None
    study_id: str | None
    version: int
    sha256: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class _Accepted:
    index: int
    received: Received
    version: int
    is_current: bool


def identity(found: Scan) -> Identity:
    """The UIDs by which an object is known; `NotDicom` where one is missing."""
    known = Identity(category=found.category)
    for tag, key, name in _IDENTITY:
        if found.category and key in ("study_uid", "series_uid"):
            known[key] = ""
            continue
        value = (found.metadata.get(tag, {}).get("Value") or [None])[0]
        if not isinstance(value, str) or not value:
            raise NotDicom(f"The object has no {name} ({tag[:4]},{tag[4:]}).")
        known[key] = value
    return known


# Built once: making a statement costs more than running it.
_CURRENTS = sa.select(
    t.instance.c.instance_uid, t.instance.c.id, t.instance.c.study, t.instance.c.version, t.instance.c.sha256
).where(
    t.instance.c.owner_facility == sa.bindparam("owner_facility"),
    t.instance.c.instance_uid.in_(sa.bindparam("instance_uids", expanding=True)),
    t.instance.c.is_current,
)


_LOCK_STUDY = (
    sa.select(t.study)
    .where(t.study.c.owner_facility == sa.bindparam("owner_facility"), t.study.c.study_uid == sa.bindparam("study_uid"))
    .with_for_update()
)
_UPDATE_STUDY = t.study.update().where(t.study.c.id == sa.bindparam("this"))
_FIND_SERIES = sa.select(
    t.series.c.id, t.series.c.modality, t.series.c.instance_count, t.series.c.row, t.series.c.version
).where(t.series.c.study == sa.bindparam("study"), t.series.c.series_uid == sa.bindparam("series_uid"))
_UPDATE_SERIES = t.series.update().where(t.series.c.id == sa.bindparam("this"))
_INSERT_INSTANCES = t.instance.insert()
_INSERT_METADATA = t.instance_metadata.insert()


def find_current(
    connection: sa.Connection, owner_facility: str, instance_uids: Iterable[str]
) -> dict[str, tuple[int, bytes]]:
    """Version and sha256 of those of the instances that the facility has."""
    found = _currents(connection, owner_facility, instance_uids)
    return {uid: (current.version, current.sha256) for uid, current in found.items()}


def ensure_facility(connection: sa.Connection, facility: str) -> None:
    """The row of a facility; its id is also its issuer of patient ids until it is configured otherwise."""
    insert = insert_for(connection)(t.facility)
    connection.execute(insert.values(id=facility, name=facility, issuer=facility).on_conflict_do_nothing())


def record_instances(
    connection: sa.Connection,
    received: Sequence[Received],
    *,
    now: datetime,
    quiet: Quiet,
    duplicates: Duplicates,
    removing: Removing | None = None,
    tell: Tell = append_events,
) -> list[Recorded]:
    """Record a group; the caller commits, and only then may anyone be told that it is stored.

    Parameters
    ----------
    quiet
        For how long a study has to be quiet to count as complete; each instance that comes begins it anew.
    removing
        What to do about removals; None where side records are going to tell of them.
    tell
        What the events of all this are told to, as the last act of the transaction.

    Returns
    -------
    list of Recorded
        One for each received instance, in their order.

    Raises
    ------
    NeedsRecord
        Something that was removed has come again, or a note that rejects: a side record has to be announced first.
    """
    results: dict[int, Recorded] = {}
    by_study: dict[tuple[str, str, bool], list[int]] = defaultdict(list)
    # By the time of receipt, which the objects keep: `reindex` decides between versions as this did.
    for index, one in sorted(enumerate(received), key=lambda pair: pair[1].received_at):
        by_study[one.owner_facility, one.study_uid, one.source == OUR_SOURCE].append(index)
    notes = _notes(received) if removing else {}
    if connection.dialect.name == "postgresql":
        rejected = {(received[index].owner_facility, uid) for index, note in notes.items() for uid in note.studies}
        for owner_facility, study_uid in sorted({*((facility, uid) for facility, uid, _ in by_study), *rejected}):
            connection.execute(_LOCK_STUDY, {"owner_facility": owner_facility, "study_uid": study_uid})
    events: list[dict[str, Any]] = []
    keys = keys_at_ingest(connection)
    for (owner_facility, study_uid, _), indexes in sorted(by_study.items()):
        mine = {index: received[index] for index in indexes}
        followed: dict[str, int] = {}
        if removing:
            came = {
                one.instance_uid: Return(series_uid=one.series_uid, sha256=one.sha256, source=one.source)
                for one in reversed(mine.values())
            }
            readmitted = readmit(connection, removing, owner_facility, study_uid, came)
            for index, one in list(mine.items()):
                if one.instance_uid in readmitted.results:
                    result, version = readmitted.results[one.instance_uid]
                    results[index] = Recorded(result=result, version=version)
                    del mine[index]
            followed, events = readmitted.followed, events + readmitted.events
        accepted = _decide(connection, owner_facility, mine, results, duplicates, followed)
        if accepted:
            events.append(_record_study(connection, accepted, results, keys, now, quiet))
    for index, note in notes.items():
        if removing and not results[index].is_superfluous:
            one = received[index]
            uids = one.study_uid, one.series_uid, one.instance_uid
            events += reject(
                connection, removing, note, owner_facility=one.owner_facility, note=uids, source=one.source
            )
    tell(connection, events)
    return [results[index] for index in range(len(received))]


def _notes(received: Sequence[Received]) -> dict[int, Rejection]:
    """The rejection notes of a group, by their place in it."""
    found = ((index, rejection_of(one.metadata)) for index, one in enumerate(received))
    return {index: note for index, note in found if note}


def _currents(connection: sa.Connection, owner_facility: str, instance_uids: Iterable[str]) -> dict[str, _Current]:
    rows = connection.execute(
        _CURRENTS, {"owner_facility": owner_facility, "instance_uids": sorted(set(instance_uids))}
    )
    return {
        uid: _Current(row_id=row_id, study_id=study_id, version=version, sha256=sha256)
        for uid, row_id, study_id, version, sha256 in rows
    }


def _decide(
    connection: sa.Connection,
    owner_facility: str,
    received: dict[int, Received],
    results: dict[int, Recorded],
    duplicates: Duplicates,
    followed: Mapping[str, int],
) -> list[_Accepted]:
    """Say of each instance of a study what becomes of it; supersede the rows that new versions replace.

    `followed` are the last versions of what was removed: whatever the policy, another one may come after them.
    """
    currents = _currents(connection, owner_facility, (one.instance_uid for one in received.values()))
    accepted: dict[str, list[_Accepted]] = defaultdict(list)
    superseded: list[_Current] = []
    for index, one in received.items():
        current = currents.get(one.instance_uid)
        if current is None and one.instance_uid in followed:
            version = followed[one.instance_uid] + 1
            result = Recorded(result="new version", version=version)
        elif current is None:
            result, version = Recorded(result="stored", version=1), 1
        elif current.sha256 == one.sha256:
            results[index] = Recorded(result="identical", version=current.version)
            continue
        elif duplicates == "version":
            version = current.version + 1
            result = Recorded(result="new version", version=version)
            if current.row_id is not None:
                superseded.append(current)
        else:
            outcome: Result = "refused" if duplicates == "reject" else "kept first"
            results[index] = Recorded(result=outcome, version=current.version)
            continue
        results[index] = result
        currents[one.instance_uid] = _Current(row_id=None, study_id=None, version=version, sha256=one.sha256)
        accepted[one.instance_uid].append(_Accepted(index=index, received=one, version=version, is_current=True))
    if superseded:
        connection.execute(
            t.instance.update().where(t.instance.c.id.in_([c.row_id for c in superseded])).values(is_current=False)
        )
        for study_id in {c.study_id for c in superseded if c.study_id}:
            recount_study(connection, study_id)
    return [
        one if one is versions[-1] else replace(one, is_current=False)
        for versions in accepted.values()
        for one in versions
    ]


def _record_study(
    connection: sa.Connection,
    accepted: Sequence[_Accepted],
    results: dict[int, Recorded],
    keys: ListedKeys,
    now: datetime,
    quiet: Quiet,
) -> dict[str, Any]:
    """Write the accepted instances of one study, and into `results` what of them is changed; gives the event.

    All of them are of `OUR_SOURCE`, or none is. A study that gets what was made of its own report alone does not begin
    to be quiet anew, nor has it to be triaged again.
    """
    first = accepted[0].received
    study = _lock_study(connection, first, keys, now)
    corrections: Sequence[Correction] = ()
    if study.overlay_version:
        corrections = read_corrections(connection, first.owner_facility, first.study_uid)
    by_series: dict[str, list[_Accepted]] = defaultdict(list)
    for one in accepted:
        by_series[one.received.series_uid].append(one)

    instances: list[dict[str, Any]] = []
    blobs: list[dict[str, Any]] = []
    headers: dict[str, MetadataJson] = {}
    modalities = set(study.modalities.split(END)) - {""}
    sop_classes = set(study.sop_classes.split(END)) - {""}
    series_count, instance_count, size_bytes = study.series_count, study.instance_count, study.size_bytes
    for _, members in sorted(by_series.items()):
        series_id, modality, was_empty = _record_series(connection, study.id, members, corrections, keys, now)
        live = [one for one in members if one.is_current]
        series_count += was_empty and bool(live)
        instance_count += len(live)
        if modality:
            modalities.add(modality)
        for one in members:
            shown, columns, blob = _shown(one.received, corrections)
            instances.append(_instance_row(one, columns, study.id, series_id))
            headers[instances[-1]["id"]] = shown
            blobs.append({"instance": instances[-1]["id"], **blob})
            if columns["overlay_version"]:
                told = told_changes(one.received.metadata, shown)
                results[one.index] = replace(results[one.index], original_attributes=told)
            if one.is_current:
                sop_classes.add(columns["sop_class"])
                size_bytes += one.received.size_bytes
    connection.execute(_INSERT_INSTANCES, instances)
    connection.execute(_INSERT_METADATA, blobs)
    list_values(connection, "instance", headers, keys["instance"])

    counts: dict[str, Any] = {
        "modalities": sorted(modalities),
        "sop_classes": sorted(sop_classes),
        "series_count": series_count,
        "instance_count": instance_count,
    }
    extra: bytes = study.extra
    if study.row:
        row = rows.restudy_row(study.row, **counts)
    else:
        row, extra = rows.study_row(first.header, study_uid=first.study_uid, **counts)
    is_ours = bool(study.row) and first.source == OUR_SOURCE
    if is_ours:  # nothing settles, so their arrays are described as those that have changed
        theirs = t.series.c.study == study.id, t.series.c.series_uid.in_(sorted(by_series))
        connection.execute(t.series.update().where(*theirs).values(stale_since=now))
    connection.execute(
        _UPDATE_STUDY,
        {
            "this": study.id,
            "modalities": joined(modalities),
            "sop_classes": joined(sop_classes),
            "series_count": series_count,
            "instance_count": instance_count,
            "size_bytes": size_bytes,
            "row": row,
            "extra": extra,
            "version": study.version + 1,
            "updated_at": now,
            "settle_due_at": study.settle_due_at if is_ours else now + quiet(modalities),
            "settled_at": study.settled_at if is_ours else None,
        },
    )
    stored = {uid: [one.received.instance_uid for one in members] for uid, members in sorted(by_series.items())}
    versions = {one.received.instance_uid: one.version for one in accepted if one.version > 1}
    return {
        "type": "InstancesStored",
        "version": 1,
        "study_uid": first.study_uid,
        "facility": first.owner_facility,
        "at": now,
        "payload": orjson.dumps(
            {
                "series": stored,
                "versions": versions,
                "arrived": not study.row,
                "reopened": study.settled_at is not None and not is_ours,
                "source": first.source,
            }
        ),
    }


def _lock_study(connection: sa.Connection, first: Received, keys: ListedKeys, now: datetime) -> sa.Row[Any]:
    """The row of the study, locked; made (still without JSON) where it is new."""
    mine = {"owner_facility": first.owner_facility, "study_uid": first.study_uid}
    found = connection.execute(_LOCK_STUDY, mine).one_or_none()
    if found is not None:
        return found
    header = first.header
    columns = rows.study_columns(header)
    study_id = t.new_id()
    made = connection.execute(
        insert_for(connection)(t.study)
        .values(
            id=study_id,
            owner_facility=first.owner_facility,
            study_uid=first.study_uid,
            fhir_id=study_fhir_id(first.owner_facility, first.study_uid),
            patient=patient_of(
                connection, first.owner_facility, columns, now, study_uid=first.study_uid, header=header
            ),
            modalities="",
            sop_classes="",
            series_count=0,
            instance_count=0,
            size_bytes=0,
            row=b"",
            extra=b"",
            version=0,
            received_at=now,
            updated_at=now,
            **columns,
        )
        .on_conflict_do_nothing()
        .returning(t.study.c.id)
    ).one_or_none()
    if made is not None:
        list_values(connection, "study", {study_id: header}, keys["study"])
        restate_items(connection, first.owner_facility, first.study_uid, now)
    return connection.execute(_LOCK_STUDY, mine).one()


def _record_series(
    connection: sa.Connection,
    study_id: str,
    members: Sequence[_Accepted],
    corrections: Sequence[Correction],
    keys: ListedKeys,
    now: datetime,
) -> tuple[str, str | None, bool]:
    """Make or update a series; returns its id, its modality, and whether it had no instances before.

    The study's row is locked, so nobody else makes the same series now.
    """
    first = members[0].received
    live = sum(one.is_current for one in members)
    found = connection.execute(_FIND_SERIES, {"study": study_id, "series_uid": first.series_uid}).one_or_none()
    if found is not None:
        count = found.instance_count + live
        connection.execute(
            _UPDATE_SERIES,
            {
                "this": found.id,
                "instance_count": count,
                "row": rows.reseries_row(found.row, instance_count=count),
                "version": found.version + 1,
            },
        )
        return found.id, found.modality, found.instance_count == 0
    header = first.header
    columns = rows.series_columns(header)
    row_json, extra = rows.series_row(
        header, study_uid=first.study_uid, series_uid=first.series_uid, instance_count=live
    )
    series_id = t.new_id()
    connection.execute(
        t.series.insert().values(
            id=series_id,
            study=study_id,
            series_uid=first.series_uid,
            place=series_place(first.owner_facility, first.study_uid, first.series_uid),
            instance_count=live,
            row=row_json,
            extra=extra,
            version=1,
            received_at=now,
            **columns,
        )
    )
    shown, _, _ = _shown(first, corrections)
    list_values(connection, "series", {series_id: shown}, keys["series"])
    modality = columns["modality"]
    if corrections:
        modality = rewrite_series(connection, series_id, corrections)
    return series_id, modality, True


def _shown(
    received: Received, corrections: Sequence[Correction]
) -> tuple[MetadataJson, dict[str, Any], dict[str, Any]]:
    """An instance's header as it is shown, the columns that it gives, and those of its metadata."""
    over = [one for one in corrections if one.covers(received.series_uid, received.instance_uid)]
    if not over and not received.coerced:
        blob = {"json": received.metadata_zlib, "received": None, "coerced": None}
        return received.metadata, {**rows.instance_columns(received.metadata), "overlay_version": 0}, blob
    came = Came(source=received.source, received_at=received.received_at, coerced=received.coerced)
    shown, blob, version = shown_metadata(received.metadata, received.metadata_zlib, came, over)
    return shown, {**rows.instance_columns(shown), "overlay_version": version}, blob


def _instance_row(one: _Accepted, columns: dict[str, Any], study_id: str, series_id: str) -> dict[str, Any]:
    received = one.received
    return {
        "id": t.new_id(),
        "owner_facility": received.owner_facility,
        "study": study_id,
        "series": series_id,
        "instance_uid": received.instance_uid,
        "version": one.version,
        "is_current": one.is_current,
        "transfer_syntax": received.transfer_syntax,
        "sha256": received.sha256,
        "size_bytes": received.size_bytes,
        "object_key": received.object_key,
        "object_bytes": received.object_bytes,
        "array": received.array_id,
        "slot": received.slot,
        "opaque_reason": received.opaque_reason,
        "chunk_count": received.chunk_count,
        "chunk_offset": received.chunk_offset,
        "chunk_length": received.chunk_length,
        "chunk_stride": received.chunk_stride,
        "source": received.source,
        "received_at": received.received_at,
        **columns,
    }


def refusal(instance_uid: str, result: Result) -> ReadingRoomError | None:
    """The error of an instance that was not taken; None for what was."""
    match result:
        case "refused":
            return Duplicate(f"SOP Instance UID {instance_uid} is already held with other bytes.")
        case "rejected":
            return Refused(
                f"Instance {instance_uid} was rejected by a rejection note; it is refused until it is restored."
            )
        case "not now":
            return Unavailable(f"Instance {instance_uid} is just being purged; send it again.", retry_after=5)
        case _:
            return None
