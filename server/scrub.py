"""Reads every stored object and compares it with the catalog: bit rot, losses and strays come to light here."""

from __future__ import annotations

import hashlib
import random
import re
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import datetime
from functools import partial
from itertools import batched, chain
from typing import Any, Literal

import orjson
import sqlalchemy as sa

from readingroom.errors import Invalid, NotFound, ReadingRoomError
from server.exporting import read_received
from storage.blobs import Blobs
from storage.catalog import schema as t
from storage.catalog.nonpatient import named_objects
from storage.opaque import read_description as read_opaque_description
from storage.trailer import Description, read_description, read_index

Kind = Literal["missing", "changed", "index broken", "misdescribed", "unreadable", "orphan"]

_PAGE = 500
_PLACE = r"(?P<place>(?:s/..|n/[^/]+)/../[^/]+)"
_OBJECT = re.compile(_PLACE + r"/(?:(?P<array>a\d+)/c\.(?P<slot>\d+)(?:\.0)+|o/(?P<opaque>\d+)/c\.0)")
_OPAQUE_JSON = re.compile(_PLACE + r"/o/\d+/zarr\.json")

PREFIXES = ("s/", "n/")
"""What the keys of objects begin with: those of series, and those of what belongs to no patient."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Damage:
    """One thing that is not as it should be. `instance_uid` is None for an orphan, which no row names."""

    kind: Kind
    object_key: str
    instance_uid: str | None
    detail: str


@dataclass(slots=True)
class Scrubbed:
    """What a scrub has found so far."""

    objects: int = 0
    size_bytes: int = 0
    damages: list[Damage] = field(default_factory=list)


@dataclass(frozen=True, slots=True, kw_only=True)
class StoreKey:
    """What the key of a stored object says: its folder, its array (``o`` for opaque ones) and its slot.

    The folder is that of its series, or its own where it belongs to no patient.
    """

    place: str
    array: str
    slot: int

    @classmethod
    def of(cls, key: str) -> StoreKey | None:
        """None for a key that is no object's: a ``zarr.json``, a side record."""
        found = _OBJECT.fullmatch(key)
        if found is None:
            return None
        slot = found["slot"] if found["array"] else found["opaque"]
        return cls(place=found["place"], array=found["array"] or "o", slot=int(slot))


def count(engine: sa.Engine) -> tuple[int, int]:
    """How many objects the catalog names, and their bytes."""
    objects = size_bytes = 0
    with engine.connect() as connection:
        for table in (t.instance, t.non_patient):
            statement = sa.select(sa.func.count(), sa.func.coalesce(sa.func.sum(table.c.size_bytes), 0))
            more = connection.execute(_with_bytes(statement, table)).one()
            objects, size_bytes = objects + more[0], size_bytes + int(more[1])
    return objects, size_bytes


def scrub(
    engine: sa.Engine,
    blobs: Blobs,
    scrubbed: Scrubbed,
    *,
    now: datetime,
    sample: float = 1.0,
    threads: int = 4,
    advance: Callable[[int], None],
) -> None:
    """Check every object of the catalog, or a random part of them, then look for objects that no row names.

    Safe beside a running server: what was deleted meanwhile is no damage, and what a living writer has published and
    not yet committed is no orphan.

    Parameters
    ----------
    sample
        The part of the objects to read, 0 to 1.
    advance
        Told the bytes of each object that is dealt with.
    """
    with ThreadPoolExecutor(threads, thread_name_prefix="scrub") as pool:
        for page in chain(_pages(engine, t.instance), _pages(engine, t.non_patient)):
            chosen = [row for row in page if sample >= 1 or random.random() < sample]
            for row, damage in zip(chosen, pool.map(partial(look_at, blobs), chosen), strict=True):
                scrubbed.objects += 1
                scrubbed.size_bytes += row.size_bytes
                if damage is not None and _is_named(engine, row.object_key):
                    scrubbed.damages.append(damage)
                advance(row.size_bytes)
    scrubbed.damages += _orphans(engine, blobs, now)


def _pages(engine: sa.Engine, table: sa.Table) -> Iterator[Sequence[Any]]:
    c = table.c
    columns: list[sa.ColumnElement[Any]] = [
        c.id,
        c.instance_uid,
        c.owner_facility,
        c.sha256,
        c.size_bytes,
        c.object_key,
    ]
    if table is t.instance:
        columns += [c.object_bytes, c.opaque_reason, c.chunk_count, c.chunk_offset, c.chunk_length]
    else:
        columns += [c.size_bytes.label("object_bytes"), sa.literal("it belongs to no patient").label("opaque_reason")]
    statement = _with_bytes(sa.select(*columns), table).order_by(c.id).limit(_PAGE)
    last = ""
    while True:
        with engine.connect() as connection:
            page = connection.execute(statement.where(c.id > last)).all()
        if not page:
            return
        yield page
        last = page[-1].id


def _with_bytes(statement: sa.Select[Any], table: sa.Table) -> sa.Select[Any]:
    """`statement` without the rows whose bytes have been purged."""
    return statement.where(table.c.state != "purged") if table is t.non_patient else statement


def look_at(blobs: Blobs, row: Any, *, reads_all: bool = True) -> Damage | None:
    """What is wrong with a stored object, if anything.

    Parameters
    ----------
    row
        What the catalog says of it.
    reads_all
        Whether its bytes are compared with their digest; else its size, its index and what it says of itself are.
    """
    damaged = partial(Damage, object_key=row.object_key, instance_uid=row.instance_uid)
    try:
        size = blobs.size(row.object_key)
        if size != row.object_bytes:
            return damaged(kind="changed", detail=f"It has {size:,} bytes; {row.object_bytes:,} were stored.")
        digest = hashlib.sha256()
        for chunk in read_received(blobs, row.object_key, row.size_bytes) if reads_all else ():
            digest.update(chunk)
        if reads_all and digest.digest() != row.sha256:
            return damaged(kind="changed", detail="Its sha256 is not that of the file that was received.")
        if not row.opaque_reason:
            chunks = read_index(_reader(blobs, row.object_key), size, row.chunk_count)
            if chunks and chunks[0] != (row.chunk_offset, row.chunk_length):
                return damaged(kind="index broken", detail="Its first frame is not where the catalog says.")
        described = own_description(blobs, row.object_key, size)
        if (described.sha256, described.owner_facility) != (row.sha256.hex(), row.owner_facility):
            return damaged(kind="misdescribed", detail="It says of itself that it is another object.")
    except NotFound:
        return damaged(kind="missing", detail="The store does not have it, or not all of it.")
    except Invalid as error:
        return damaged(kind="index broken", detail=error.message)
    except ReadingRoomError as error:
        return damaged(kind="unreadable", detail=error.message)
    except OSError as error:
        return damaged(kind="unreadable", detail=str(error.strerror))
    return None


def own_description(blobs: Blobs, key: str, size: int) -> Description:
    """What a stored object says of itself, in its trailer or beside it; raises `Invalid` or `NotFound`."""
    found = StoreKey.of(key)
    if found is not None and found.array == "o":
        try:
            document = orjson.loads(blobs.read(f"{key.rpartition('/')[0]}/zarr.json"))
        except orjson.JSONDecodeError:
            raise Invalid("The zarr.json beside it is no JSON.") from None
        return read_opaque_description(document)
    return read_description(_reader(blobs, key), size)


def _reader(blobs: Blobs, key: str) -> Callable[[int, int], bytes]:
    return lambda offset, length: bytes(blobs.read_range(key, offset, length))


def _is_named(engine: sa.Engine, object_key: str) -> bool:
    """Whether a row still names an object that is not being purged."""
    i, c = t.instance.c, t.removal.c
    is_purged = sa.exists().where(
        c.owner_facility == i.owner_facility, c.instance_uid == i.instance_uid, c.state == "purging"
    )
    of_studies = sa.select(i.id).where(i.object_key == object_key, ~is_purged)
    n = t.non_patient.c
    of_nobody = sa.select(n.id).where(n.object_key == object_key, n.state.in_(("kept", "hidden")))
    with engine.connect() as connection:
        return connection.execute(of_studies.union_all(of_nobody)).first() is not None


def _orphans(engine: sa.Engine, blobs: Blobs, now: datetime) -> Iterator[Damage]:
    for keys in batched(chain.from_iterable(map(blobs.keys, PREFIXES)), _PAGE):
        # The zarr.json of an opaque object belongs to the object; that of an array or a series to no one object.
        objects = {key: key for key in keys if StoreKey.of(key)}
        objects |= {key: f"{key.rpartition('/')[0]}/c.0" for key in keys if _OPAQUE_JSON.fullmatch(key)}
        with engine.connect() as connection:
            named = named_objects(connection, objects.values())
            for key, object_key in objects.items():
                if object_key in named or _is_being_stored(connection, object_key, now):
                    continue
                if not named_objects(connection, [object_key]):  # nor has it been committed since we asked
                    detail = "No row names it; it was never acknowledged, or the catalog lost it."
                    yield Damage(kind="orphan", object_key=key, instance_uid=None, detail=detail)


def _is_being_stored(connection: sa.Connection, object_key: str, now: datetime) -> bool:
    """Whether a writer with a lease holds the object's slot, so that its row may come at any moment."""
    key = StoreKey.of(object_key)
    assert key is not None
    block, array, writer = t.slot_block.c, t.zarr_array.c, t.writer.c
    statement = (
        sa.select(sa.true())
        .select_from(t.slot_block)
        .join(t.zarr_array, block.array == array.id)
        .join(t.writer, block.writer == writer.id)
        .where(
            array.place == key.place,
            array.name == key.array,
            block.first <= key.slot,
            block.first + block.count > key.slot,
            writer.lease_until >= now,
        )
        .limit(1)
    )
    return connection.execute(statement).first() is not None
