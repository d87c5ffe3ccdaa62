"""The catalog's side of instances that belong to no patient: recorded with what else is stored, found by UID."""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from itertools import chain
from typing import Any

import orjson
import sqlalchemy as sa

from readingroom.errors import Ambiguous, Gone, NotFound
from readingroom.model import Scope
from storage.catalog import schema as t
from storage.catalog.events import append_events
from storage.catalog.find import StoredInstance, scoped
from storage.catalog.holds import holds
from storage.catalog.matching import Condition, How
from storage.catalog.readmission import Removing
from storage.catalog.studies import Duplicates, Quiet, Received, Recorded, Result, Tell, identity, record_instances
from storage.catalog.writers import series_place
from storage.nonpatient import CATEGORIES, non_patient_place
from storage.objects import BASE_URL_MARK, MetadataJson, Scan, dump

REMOVED, RESTORED, PURGED = "non-patient removal", "non-patient restore", "non-patient purge"
"""Types of side records; they lie where those of a study would that has the instance's UID."""

_C = t.non_patient.c


def record_received(
    connection: sa.Connection,
    received: Sequence[Received],
    *,
    now: datetime,
    quiet: Quiet,
    duplicates: Duplicates,
    removing: Removing | None = None,
    tell: Tell = append_events,
) -> list[Recorded]:
    """Record a group, of studies and of no patient; as `storage.catalog.studies.record_instances`."""
    recorded: dict[int, Recorded] = {}
    in_studies = [index for index, one in enumerate(received) if not one.category]
    if in_studies:
        results = record_instances(
            connection,
            [received[index] for index in in_studies],
            now=now,
            quiet=quiet,
            duplicates=duplicates,
            removing=removing,
            tell=tell,
        )
        recorded |= zip(in_studies, results, strict=True)
    # By the time of receipt, which the objects keep: `reindex` decides between versions as this did.
    for index, one in sorted(enumerate(received), key=lambda pair: pair[1].received_at):
        if one.category:
            recorded[index] = _record(connection, one, duplicates, removing)
    return [recorded[index] for index in range(len(received))]


def _record(connection: sa.Connection, one: Received, duplicates: Duplicates, removing: Removing | None) -> Recorded:
    mine = _versions_of(one.owner_facility, one.category, one.instance_uid)
    held = lock_non_patient(connection, one.owner_facility, one.category, one.instance_uid)
    if held is not None and held.state in ("hidden", "purged") and removing:
        record = removing.records.take(one.owner_facility, one.instance_uid)
        record.write(connection, RESTORED, told_of(held, one.source))
    if held is not None and held.state == "purged":
        connection.execute(t.non_patient.delete().where(mine))
        held = None
    result: Result = "stored"
    if held is not None:
        result = _decide(held, one, duplicates)
        if held.state == "hidden":
            bring_back(connection, held)
        if result != "new version":
            return Recorded(result=result, version=held.version)
        connection.execute(t.non_patient.update().where(mine).values(is_current=False))
    version = held.version + 1 if held is not None else 1
    connection.execute(t.non_patient.insert().values(version=version, is_current=True, state="kept", **_columns(one)))
    return Recorded(result=result, version=version)


def _decide(held: Any, one: Received, duplicates: Duplicates) -> Result:
    """What becomes of an instance whose UID is known; what was removed may always be followed by another version."""
    if held.state == "purging":
        return "not now"
    if held.sha256 == one.sha256:
        return "restored" if held.state == "hidden" else "identical"
    if duplicates == "version" or held.state == "hidden":
        return "new version"
    return "refused" if duplicates == "reject" else "kept first"


def _columns(one: Received) -> dict[str, Any]:
    return {
        "owner_facility": one.owner_facility,
        "category": one.category,
        "sop_class": one.metadata["00080016"]["Value"][0],
        "instance_uid": one.instance_uid,
        "transfer_syntax": one.transfer_syntax,
        "sha256": one.sha256,
        "size_bytes": one.size_bytes,
        "object_key": one.object_key,
        "array": one.array_id,
        "slot": one.slot,
        "source": one.source,
        "received_at": one.received_at,
        "row": dump(_row(one.metadata, one.category)),
        "json": one.metadata_zlib,
    }


def _row(metadata: MetadataJson, category: str) -> MetadataJson:
    wanted = CATEGORIES[category].row
    return {tag: element for tag, element in metadata.items() if tag in wanted}


def place_of(found: Scan, owner_facility: str) -> str:
    """The folder in the store where an object of a facility belongs: that of its series, or its own."""
    known = identity(found)
    if found.category:
        return non_patient_place(owner_facility, found.category, known["instance_uid"])
    return series_place(owner_facility, known["study_uid"], known["series_uid"])


def find_version(connection: sa.Connection, owner_facility: str, category: str, uid: str) -> tuple[int, bytes]:
    """Version and sha256 of the instance that the facility has in use; 0 and nothing where it has none."""
    statement = sa.select(_C.version, _C.sha256).where(
        _versions_of(owner_facility, category, uid), _C.is_current, _C.state == "kept"
    )
    found = connection.execute(statement).one_or_none()
    return (found.version, found.sha256) if found else (0, b"")


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """An instance that belongs to no patient: where its file lies, as one that is in no study, and its JSON, zlib."""

    category: str
    stored: StoredInstance
    json: bytes

    @property
    def path(self) -> str:
        """Where it is, below the service root."""
        return f"/{self.category}/{self.stored.instance_uid}"


def find_non_patient(
    connection: sa.Connection, scope: Scope, category: str, uid: str, version: int | None = None
) -> Found:
    """One instance: its current version, or an older one by number.

    Raises
    ------
    NotFound
        No such instance in scope.
    Gone
        It was removed.
    Ambiguous
        Several facilities in scope own it.
    """
    title = CATEGORIES[category].title
    is_wanted = _C.is_current if version is None else _C.version == version
    statement = sa.select(t.non_patient).where(_C.category == category, _C.instance_uid == uid, is_wanted)
    rows = connection.execute(scoped(statement, scope, _C.owner_facility)).all()
    kept = [row for row in rows if row.state == "kept"]
    if len(kept) > 1:
        raise Ambiguous(f"More than one facility owns the {title} {uid}; ask below /dicomweb/f/{{facility}}.")
    if not kept and rows:
        raise Gone(f"There is no {title} {uid} any more: it was removed.")
    if not kept:
        raise NotFound(f"There is no {title} {uid}.")
    (row,) = kept
    stored = StoredInstance(
        id=row.id,
        study_uid="",
        series_uid="",
        instance_uid=row.instance_uid,
        owner_facility=row.owner_facility,
        version=row.version,
        sop_class=row.sop_class,
        transfer_syntax=row.transfer_syntax,
        instance_number=None,
        rows=None,
        columns=None,
        frame_count=0,
        sha256=row.sha256,
        size_bytes=row.size_bytes,
        object_key=row.object_key,
        object_bytes=row.size_bytes,
        array_name="o",
        array_spec=b"{}",
        slot=row.slot,
        opaque_reason="it belongs to no patient",
        chunk_count=0,
        chunk_offset=0,
        chunk_length=0,
        chunk_stride=None,
        received_at=row.received_at,
        overlay_version=0,
    )
    return Found(category=category, stored=stored, json=bytes(row.json))


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """What to search for in a category, and which page of it.

    Attributes
    ----------
    conditions, zone
        As `storage.catalog.holds.holds` takes them.
    is_whole
        Whether hits bring along all that they say; else the attributes of a row.
    most_bytes
        A page ends after the hit with which it has so many.
    """

    category: str
    conditions: tuple[Condition, ...] = ()
    zone: str = ""
    limit: int
    offset: int = 0
    is_whole: bool = False
    most_bytes: int = 32 << 20


def search_non_patient(connection: sa.Connection, scope: Scope, wanted: Wanted) -> tuple[list[bytes], bool]:
    """One page of hits as DICOM JSON, in the order of their arrival, with `BASE_URL_MARK`; and whether there are more.

    There are few instances of a kind, so each is looked at; the UIDs that are asked for narrow them.
    """
    in_row = CATEGORIES[wanted.category].row
    tags = {term.key.tag for term in chain.from_iterable(chain.from_iterable(wanted.conditions))}
    columns = [_C.row, *([_C.json] if wanted.is_whole or not tags <= in_row else [])]
    statement = scoped(sa.select(*columns), scope, _C.owner_facility).where(
        _C.category == wanted.category, _C.is_current, _C.state == "kept", *_narrowed(wanted.conditions)
    )
    hits: list[bytes] = []
    size = found = 0
    for row in connection.execute(statement.order_by(_C.id).execution_options(yield_per=20)):
        said = row.row if len(columns) == 1 else zlib.decompress(row.json)
        if wanted.conditions and not holds(_loaded(said), wanted.conditions, wanted.zone):
            continue
        found += 1
        if found <= wanted.offset:
            continue
        if len(hits) == wanted.limit or size > wanted.most_bytes:
            return hits, True
        hits.append(said if wanted.is_whole else bytes(row.row))
        size += len(hits[-1])
    return hits, False


def _narrowed(conditions: Iterable[Condition]) -> Iterator[sa.ColumnElement[bool]]:
    """What columns say of conditions, where these ask for nothing else."""
    columns = {"00080016": _C.sop_class, "00080018": _C.instance_uid}
    for condition in conditions:
        term = condition[0][0]
        if term.key.name in columns and len(condition) == len(condition[0]) == 1 and term.how in (How.IS, How.ANY_OF):
            yield columns[term.key.name].in_(term.values)


def _loaded(said: bytes) -> MetadataJson:
    """DICOM JSON to be matched; the mark of the service root stands raw in it and is left out."""
    loaded: MetadataJson = orjson.loads(said.replace(BASE_URL_MARK.encode(), b""))
    return loaded


def named_objects(connection: sa.Connection, object_keys: Iterable[str]) -> set[str]:
    """Those of the keys that a row names, of an instance of a study or of one of no patient."""
    keys = list(object_keys)
    of_studies = sa.select(t.instance.c.object_key).where(t.instance.c.object_key.in_(keys))
    of_nobody = sa.select(_C.object_key).where(_C.object_key.in_(keys), _C.state != "purged")
    return set(connection.execute(of_studies.union_all(of_nobody)).scalars())


# -- removed and brought back


def told_of(row: Any, actor: str) -> dict[str, Any]:
    """What a side record tells of an instance."""
    return {
        "owner_facility": row.owner_facility,
        "category": row.category,
        "instance_uid": row.instance_uid,
        "actor": actor,
    }


def lock_non_patient(connection: sa.Connection, owner_facility: str, category: str, uid: str) -> Any:
    """The row of the last version of an instance, locked against all who change it; None where there is none."""
    mine = sa.select(t.non_patient).where(_versions_of(owner_facility, category, uid), _C.is_current)
    return connection.execute(mine.with_for_update()).one_or_none()


def hide(connection: sa.Connection, row: Any, at: datetime, actor: str) -> None:
    """Take an instance out of use, with all its versions."""
    mine = _versions_of(row.owner_facility, row.category, row.instance_uid)
    connection.execute(t.non_patient.update().where(mine).values(state="hidden", removed_at=at, actor=actor))


def bring_back(connection: sa.Connection, row: Any) -> None:
    """Have an instance in use again, with all its versions."""
    mine = _versions_of(row.owner_facility, row.category, row.instance_uid)
    back = t.non_patient.update().where(mine, _C.state == "hidden")
    connection.execute(back.values(state="kept", removed_at=None, actor=None))


def find_removed(connection: sa.Connection, scope: Scope, category: str, uid: str) -> Any:
    """The row of an instance that was removed and can be brought back.

    Raises
    ------
    NotFound
        None in scope was removed.
    Gone
        Its bytes have been purged.
    Ambiguous
        Several facilities in scope removed it.
    """
    statement = sa.select(t.non_patient).where(_C.category == category, _C.instance_uid == uid, _C.is_current)
    rows = connection.execute(scoped(statement, scope, _C.owner_facility)).all()
    removed = [row for row in rows if row.state == "hidden"]
    if len(removed) > 1:
        raise Ambiguous()
    if removed:
        return removed[0]
    if any(row.state != "kept" for row in rows):
        raise Gone("It has been purged: its bytes are gone, and only storing it again brings it back.")
    raise NotFound("Nothing was removed there.")


# -- purged: condemned, its objects deleted, and then all but its UIDs forgotten


def due_for_purge(
    connection: sa.Connection, before: datetime, at_most: int | None = None
) -> list[tuple[str, str, str]]:
    """Facility, category and UID of what is hidden since before that time, or of which a purge was begun."""
    is_due = ((_C.state == "hidden") & (_C.removed_at < before)) | (_C.state == "purging")
    wanted = sa.select(_C.owner_facility, _C.category, _C.instance_uid).where(is_due, _C.is_current)
    return [(row[0], row[1], row[2]) for row in connection.execute(wanted.order_by(_C.id).limit(at_most))]


def condemn(connection: sa.Connection, row: Any) -> list[str]:
    """Decide that an instance is purged; gives the keys of the objects of all its versions."""
    mine = _versions_of(row.owner_facility, row.category, row.instance_uid)
    condemned = t.non_patient.update().where(mine).values(state="purging").returning(_C.object_key)
    return sorted(connection.execute(condemned).scalars())


def erase(connection: sa.Connection, row: Any) -> None:
    """Forget all but the UIDs of a condemned instance whose objects are deleted."""
    mine = _versions_of(row.owner_facility, row.category, row.instance_uid)
    connection.execute(t.non_patient.delete().where(mine, ~_C.is_current))
    connection.execute(t.non_patient.update().where(mine).values(state="purged", row=b"{}", json=b""))


# -- making a catalog again; of what was purged no object is left, so nothing is known of it


def replay_removal(connection: sa.Connection, record: Mapping[str, Any]) -> None:
    """Take out of use again what a side record says was removed."""
    if row := _told(connection, record):
        hide(connection, row, datetime.fromisoformat(record["at"]), record["actor"])


def replay_restore(connection: sa.Connection, record: Mapping[str, Any]) -> None:
    """Bring back again what a side record says was restored, or stored again."""
    if row := _told(connection, record):
        bring_back(connection, row)


def replay_purge(connection: sa.Connection, record: Mapping[str, Any]) -> None:
    """Condemn again what a crash left of what was purged; the next purge finishes it."""
    row = _told(connection, record)
    # What lies under one of the keys and came later is another object.
    if row and row.object_key in record["objects"] and row.received_at < datetime.fromisoformat(record["at"]):
        condemn(connection, row)


def _told(connection: sa.Connection, record: Mapping[str, Any]) -> Any:
    return lock_non_patient(connection, record["owner_facility"], record["category"], record["instance_uid"])


def _versions_of(owner_facility: str, category: str, uid: str) -> sa.ColumnElement[bool]:
    return sa.and_(_C.owner_facility == owner_facility, _C.category == category, _C.instance_uid == uid)
