"""Makes the catalog again from the stored objects alone.

Each object says in its trailer (an opaque one in its ``zarr.json``) whose it is and when it came, and holds the file
as it was received. Recorded in the order of their arrival, through the function that ingest uses, they give the catalog
that ingest gave; what is in no object was written beside them as a side record, and is replayed after them.
"""

from __future__ import annotations

import mmap
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime, timedelta
from functools import partial
from itertools import batched, chain
from pathlib import Path
from typing import Any

import orjson
import sqlalchemy as sa

from readingroom.errors import Conflict, Invalid, NotFound, ReadingRoomError
from server import correcting
from server.scrub import PREFIXES, StoreKey, own_description
from storage.blobs import Blobs
from storage.catalog import nonpatient
from storage.catalog import schema as t
from storage.catalog.engine import begin_write
from storage.catalog.nonpatient import place_of, record_received
from storage.catalog.removals import replay_purge, replay_removal, replay_restore
from storage.catalog.studies import Quiet, Received, Recorded, ensure_facility
from storage.objects import Scan, scan
from storage.sidecars import iter_records, withdraw_expired
from storage.trailer import Description

Apply = Callable[[sa.Connection, dict[str, Any]], None]
SIDE_RECORDS: Mapping[str, Apply] = {
    "removal": replay_removal,
    "restore": replay_restore,
    "purge": replay_purge,
    correcting.KIND: correcting.replay,
    nonpatient.REMOVED: nonpatient.replay_removal,
    nonpatient.RESTORED: nonpatient.replay_restore,
    nonpatient.PURGED: nonpatient.replay_purge,
}
"""How to replay a side record, by its ``type``. Each feature that writes one brings its own."""

# What reindex makes, children first. The event table is history and stays.
_REBUILT = (
    t.overlay,
    t.removal,
    t.instance_metadata,
    t.instance_value,
    t.instance,
    t.series_value,
    t.series,
    t.study_value,
    t.study,
    t.patient,
    t.slot_block,
    t.writer,
    t.non_patient,
    t.zarr_array,
)
_TRANSACTION = 256
_GROUP = 200
# Objects that came within this span are recorded as one group, at the time of the first.
_GROUP_SPAN = timedelta(seconds=1)


@dataclass(frozen=True, slots=True, kw_only=True)
class Listed:
    """A stored object and what it says of itself."""

    key: str
    place: StoreKey
    object_bytes: int
    told: Description


@dataclass(slots=True)
class Reindexed:
    """What a reindex has done so far."""

    instances: int = 0
    superfluous: int = 0
    side_records: int = 0
    failures: list[tuple[str, str]] = field(default_factory=list)


def prepare(engine: sa.Engine, *, now: datetime, force: bool) -> None:
    """Make sure that the catalog is empty and that nobody writes to it.

    Raises
    ------
    Conflict
        It holds instances and `force` is not given, or a server is at work on it.
    """
    with begin_write(engine) as connection:
        writers = connection.execute(sa.select(t.writer.c.host, t.writer.c.pid).where(t.writer.c.lease_until >= now))
        for host, pid in writers:
            raise Conflict(
                f"A server or an import is at work on this catalog (process {pid} on {host}). Stop it first; "
                "if it was killed, its lease runs out within a minute."
            )
        held = (connection.execute(sa.select(table.c.id).limit(1)).first() for table in (t.instance, t.non_patient))
        if any(held):
            if not force:
                raise Conflict(
                    "The catalog is not empty. Name an empty database with --database, or let this one be emptied "
                    "and made again with --force."
                )
            for table in _REBUILT:
                connection.execute(table.delete())


def list_objects(blobs: Blobs, reindexed: Reindexed, advance: Callable[[int], None]) -> list[Listed]:
    """Every stored object, in the order of arrival; `advance` is told their number as they are found."""

    def listed(key: str) -> Listed | tuple[str, str]:
        place = StoreKey.of(key)
        assert place is not None
        try:
            size = blobs.size(key)
            return Listed(key=key, place=place, object_bytes=size, told=own_description(blobs, key, size))
        except ReadingRoomError as error:
            return key, error.message

    found: list[Listed] = []
    with ThreadPoolExecutor(4, thread_name_prefix="reindex") as pool:
        for keys in batched(filter(StoreKey.of, chain.from_iterable(map(blobs.keys, PREFIXES))), 1000):
            for one in pool.map(listed, keys):
                if isinstance(one, Listed):
                    found.append(one)
                else:
                    reindexed.failures.append(one)
            advance(len(keys))
    return sorted(found, key=lambda one: (one.told.received_at, one.told.version, one.place.place, one.place.slot))


def record_objects(
    engine: sa.Engine,
    blobs: Blobs,
    objects: Sequence[Listed],
    reindexed: Reindexed,
    *,
    quiet: Quiet,
    advance: Callable[[int], None],
) -> None:
    """Record the objects, given in the order of arrival.

    An object that cannot be read, or lies where it does not belong, is told as a failure and left alone. One that holds
    what another holds already is superfluous: a crash left it, and nobody was told that it was stored.
    """
    arrays: dict[tuple[str, str], str] = {}
    with ThreadPoolExecutor(4, thread_name_prefix="reindex") as pool:
        for portion in batched(objects, _TRANSACTION):
            scans = []
            for one, found in zip(portion, pool.map(partial(_read, blobs), portion), strict=True):
                if isinstance(found, Scan):
                    scans.append((one, found))
                else:
                    reindexed.failures.append((one.key, found.message))
            _record(engine, scans, arrays, reindexed, quiet)
            advance(len(portion))


def _record(
    engine: sa.Engine,
    scans: Sequence[tuple[Listed, Scan]],
    arrays: dict[tuple[str, str], str],
    reindexed: Reindexed,
    quiet: Quiet,
) -> None:
    """One transaction; where the database refuses a value, each object alone, so that one does not spoil the others."""
    known = dict(arrays)
    results: list[Recorded] = []
    try:
        with begin_write(engine) as connection:
            for facility in sorted({one.told.owner_facility for one, _ in scans}):
                ensure_facility(connection, facility)
            for group in _groups(scans):
                first_at = group[0][0].told.received_at
                results += record_received(
                    connection,
                    [_received(connection, known, one, found) for one, found in group],
                    now=first_at,
                    quiet=quiet,
                    duplicates="version",
                )
    except (sa.exc.DataError, sa.exc.IntegrityError) as error:
        if len(scans) == 1:
            reindexed.failures.append((scans[0][0].key, f"The database does not take it: {error.orig}"))
        for one in scans if len(scans) > 1 else ():
            _record(engine, [one], arrays, reindexed, quiet)
        return
    arrays |= known
    reindexed.superfluous += sum(one.is_superfluous for one in results)
    reindexed.instances += sum(not one.is_superfluous for one in results)


def replay_side_records(
    engine: sa.Engine,
    blobs: Blobs,
    reindexed: Reindexed,
    appliers: Mapping[str, Apply] = SIDE_RECORDS,
) -> None:
    """Apply the side records in the order in which they were written; what a crash cut off is withdrawn first."""
    withdraw_expired(engine, blobs, now=datetime.now(UTC), patience=timedelta())
    records: list[tuple[str, str, dict[str, Any]]] = []
    for key, record in iter_records(blobs):
        if isinstance(record, Invalid):
            reindexed.failures.append((key, record.message))
        else:
            records.append((record["at"], key, record))
    with begin_write(engine) as connection:
        for _, key, record in sorted(records, key=lambda one: one[:2]):
            apply = appliers.get(str(record.get("type")))
            if apply is None:
                reason = f"This release knows no side record of type {record.get('type')!r}; a newer one wrote it."
                reindexed.failures.append((key, reason))
                continue
            if "owner_facility" in record:
                ensure_facility(connection, record["owner_facility"])
            apply(connection, record)
            reindexed.side_records += 1


def _read(blobs: Blobs, one: Listed) -> Scan | ReadingRoomError:
    """Scan the received file in an object, and check that it lies where it belongs."""
    try:
        found = _scan(blobs, one)
        if one.place.place != place_of(found, one.told.owner_facility):
            return Invalid("It lies in a folder that is not its own.")
        if (found.spec is None) != (one.place.array == "o"):
            return Invalid(
                f"It is stored as {one.place.array}, but reads otherwise: {found.opaque_reason or 'frames'}."
            )
    except ReadingRoomError as error:
        return error
    return found


def _scan(blobs: Blobs, one: Listed) -> Scan:
    path = blobs.local_path(one.key)
    if path is None:
        return scan(blobs.read_range(one.key, 0, one.told.size))
    try:
        return _scan_file(path, one.told.size)
    except OSError as error:
        raise NotFound(f"It cannot be read: {error.strerror}.") from None


def _scan_file(path: Path, size: int) -> Scan:
    with path.open("rb") as file, mmap.mmap(file.fileno(), size, access=mmap.ACCESS_READ) as mapped:
        return scan(mapped)


def _groups(scans: Sequence[tuple[Listed, Scan]]) -> Iterator[list[tuple[Listed, Scan]]]:
    """Runs of objects that came together."""
    group: list[tuple[Listed, Scan]] = []
    for one in scans:
        if group and (len(group) == _GROUP or one[0].told.received_at - group[0][0].told.received_at > _GROUP_SPAN):
            yield group
            group = []
        group.append(one)
    if group:
        yield group


def _received(connection: sa.Connection, arrays: dict[tuple[str, str], str], one: Listed, found: Scan) -> Received:
    return Received.of(
        found,
        one.told,
        object_key=one.key,
        object_bytes=one.object_bytes,
        array_id=_array_id(connection, arrays, one, found),
        slot=one.place.slot,
    )


def _array_id(connection: sa.Connection, arrays: dict[tuple[str, str], str], one: Listed, found: Scan) -> str:
    """The array of the object's folder, with its next slot beyond the object's."""
    name = (one.place.place, one.place.array)
    array, next_slot = t.zarr_array, one.place.slot + 1
    if name in arrays:
        beyond = array.update().where(array.c.id == arrays[name], array.c.next_slot < next_slot)
        connection.execute(beyond.values(next_slot=next_slot))
        return arrays[name]
    spec = found.spec
    arrays[name] = connection.execute(
        array.insert()
        .values(
            place=name[0],
            name=name[1],
            digest=spec.digest() if spec else "",
            spec=orjson.dumps(asdict(spec)) if spec else b"{}",
            next_slot=next_slot,
        )
        .returning(array.c.id)
    ).scalar_one()
    return arrays[name]
