"""Writers, their leases, and the slots they reserve.

Each writing process is a writer with a lease. It reserves slots in blocks, in a short transaction of their own, and a
slot is never given twice: one that is lost with its writer stays a gap. What an expired writer left behind (temporary
files, objects published but never committed) is found from its blocks and removed by `sweep`.
"""

from __future__ import annotations

import hashlib
import os
import socket
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

import orjson
import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite

from readingroom.errors import Unavailable
from storage import opaque
from storage.arrays import ArraySpec
from storage.catalog import schema as t
from storage.catalog.engine import begin_write

LEASE = timedelta(seconds=60)
_TAKEN = 0  # the process id of a writer whose work the sweeper has taken over
OPAQUE = "o"
"""Name of the group that holds a series' objects without frames."""

_BLOCKS = (1, 8, 64)
_ARRAYS_REMEMBERED = 1024


class LeaseLost(Unavailable):
    """This writer lost its lease while it was stopped; send again."""


_HOLD = t.writer.update().where(t.writer.c.id == sa.bindparam("this"), t.writer.c.pid != _TAKEN)


@dataclass(frozen=True, slots=True, kw_only=True)
class ArrayKey:
    """One zarr array: its series' folder and the digest of its spec (empty for opaque objects)."""

    place: str
    digest: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Slot:
    """A place in an array that this writer alone may fill."""

    array_id: str
    array_name: str
    number: int


@dataclass(slots=True)
class _Block:
    array_id: str
    array_name: str
    next: int
    end: int
    taken: int  # blocks reserved for this array so far: the next ones are larger


def insert_for(connection: sa.Connection) -> Callable[[sa.Table], sqlite.Insert | postgresql.Insert]:
    """The dialect's INSERT, which knows ON CONFLICT."""
    return postgresql.insert if connection.dialect.name == "postgresql" else sqlite.insert


class Writer:
    """This process as a writer: its lease and its reserved slots. Used by one thread at a time."""

    def __init__(self, engine: sa.Engine, now: datetime) -> None:
        self._engine = engine
        self._blocks: OrderedDict[ArrayKey, _Block] = OrderedDict()
        self.id = t.new_id()
        with begin_write(engine) as connection:
            connection.execute(
                t.writer.insert().values(
                    id=self.id, host=socket.gethostname(), pid=os.getpid(), lease_until=now + LEASE
                )
            )

    def hold(self, connection: sa.Connection, now: datetime) -> None:
        """Renew the lease within a transaction; a writer whose lease was taken away may not commit.

        Raises
        ------
        LeaseLost
            The lease expired and the sweeper has taken over what this writer had begun.
        """
        held = connection.execute(_HOLD, {"this": self.id, "lease_until": now + LEASE})
        if held.rowcount != 1:
            raise LeaseLost(retry_after=1)

    def reserve(self, needs: Mapping[ArrayKey, tuple[bytes, int]], now: datetime) -> dict[ArrayKey, list[Slot]]:
        """Reserve slots: for each array its spec (JSON) and how many are needed; new arrays are made.

        Returns
        -------
        dict
            As many slots as asked for, in rising order.
        """
        result: dict[ArrayKey, list[Slot]] = {key: self._take(key, count) for key, (_, count) in needs.items()}
        short = {key: count - len(result[key]) for key, (_, count) in needs.items() if len(result[key]) < count}
        if short:
            with begin_write(self._engine) as connection:
                self.hold(connection, now)
                for key in sorted(short, key=lambda k: (k.place, k.digest)):
                    self._reserve_block(connection, key, needs[key][0], short[key])
            for key, count in short.items():
                result[key] += self._take(key, count)
        return result

    def _take(self, key: ArrayKey, count: int) -> list[Slot]:
        block = self._blocks.get(key)
        if block is None:
            return []
        self._blocks.move_to_end(key)
        first, block.next = block.next, min(block.next + count, block.end)
        return [Slot(array_id=block.array_id, array_name=block.array_name, number=n) for n in range(first, block.next)]

    def _reserve_block(self, connection: sa.Connection, key: ArrayKey, spec: bytes, count: int) -> None:
        before = self._blocks.get(key)
        taken = before.taken if before else 0
        size = max(count, _BLOCKS[min(taken, len(_BLOCKS) - 1)])
        array_id, array_name = _array_of(connection, key, spec)
        end = connection.execute(
            t.zarr_array.update()
            .where(t.zarr_array.c.id == array_id)
            .values(next_slot=t.zarr_array.c.next_slot + size)
            .returning(t.zarr_array.c.next_slot)
        ).scalar_one()
        connection.execute(t.slot_block.insert().values(array=array_id, writer=self.id, first=end - size, count=size))
        self._blocks[key] = _Block(array_id, array_name, end - size, end, taken + 1)
        self._blocks.move_to_end(key)
        while len(self._blocks) > _ARRAYS_REMEMBERED:
            self._blocks.popitem(last=False)

    def renew(self, now: datetime) -> None:
        """Renew the lease; call it well within `LEASE`."""
        with begin_write(self._engine) as connection:
            self.hold(connection, now)

    def close(self) -> None:
        """Give the lease back; everything published has been committed or deleted."""
        with begin_write(self._engine) as connection:
            connection.execute(t.slot_block.delete().where(t.slot_block.c.writer == self.id))
            connection.execute(t.writer.delete().where(t.writer.c.id == self.id))


def _array_of(connection: sa.Connection, key: ArrayKey, spec: bytes) -> tuple[str, str]:
    """Find or make an array; on PostgreSQL the series' arrays are locked, so names never clash."""
    if connection.dialect.name == "postgresql":
        connection.execute(sa.select(sa.func.pg_advisory_xact_lock(sa.func.hashtextextended(key.place, 0))))
    columns = (t.zarr_array.c.id, t.zarr_array.c.name)
    mine = sa.select(*columns).where(t.zarr_array.c.place == key.place, t.zarr_array.c.digest == key.digest)
    found = connection.execute(mine).one_or_none()
    if found is None:
        taken = connection.execute(
            sa.select(sa.func.count()).where(t.zarr_array.c.place == key.place, t.zarr_array.c.name != OPAQUE)
        ).scalar_one()
        name = f"a{taken}" if key.digest else OPAQUE
        found = connection.execute(
            t.zarr_array.insert()
            .values(place=key.place, name=name, digest=key.digest, spec=spec, next_slot=0)
            .returning(*columns)
        ).one()
    return found.id, found.name


def series_place(owner_facility: str, study_uid: str, series_uid: str) -> str:
    """The folder of a series: fanned out by hash, and the same whoever computes it."""
    key = hashlib.sha256(f"{owner_facility}\n{study_uid}\n{series_uid}".encode()).hexdigest()[:32]
    return f"s/{key[:2]}/{key[2:4]}/{key}"


def object_keys(place: str, array_name: str, spec: Mapping[str, Any], slot: int) -> list[str]:
    """The keys of the object in a slot: ``<place>/a0/c.3.0.0``, or the two of an opaque one below ``<place>/o/3``."""
    if array_name == OPAQUE:
        return [f"{place}/{OPAQUE}/{slot}/{opaque.CHUNK}", f"{place}/{OPAQUE}/{slot}/zarr.json"]
    return [f"{place}/{array_name}/{ArraySpec(**spec).chunk_key(slot)}"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Leftover:
    """A slot that an expired writer reserved and no instance fills; its object, if it is there, is an orphan."""

    place: str
    array_name: str
    digest: str
    spec: dict[str, object]
    slot: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Expired:
    """A writer that can commit no more, and until when it could."""

    id: str
    lease_until: datetime


def take_expired(
    engine: sa.Engine, now: datetime, *, own: str, is_dead: Callable[[str, int], bool] = lambda _host, _pid: False
) -> list[Expired]:
    """Other writers whose lease has run out, or that `is_dead` (host, pid) says are gone.

    They are taken for good: none of them can commit any more.
    """
    with begin_write(engine) as connection:
        others = connection.execute(sa.select(t.writer).where(t.writer.c.id != own)).all()
        expired = [
            Expired(id=one.id, lease_until=one.lease_until)
            for one in others
            if one.pid == _TAKEN or one.lease_until < now or is_dead(one.host, one.pid)
        ]
        if expired:
            taken = t.writer.c.id.in_([one.id for one in expired])
            connection.execute(t.writer.update().where(taken).values(pid=_TAKEN))
    return expired


def leftovers(connection: sa.Connection, writer_id: str) -> list[Leftover]:
    """The unfilled slots of a writer."""
    blocks = connection.execute(
        sa.select(t.slot_block.c.array, t.slot_block.c.first, t.slot_block.c.count).where(
            t.slot_block.c.writer == writer_id
        )
    ).all()
    result = []
    for array_id, first, count in blocks:
        filled: set[int] = set()
        for table in (t.instance, t.non_patient):
            slots = sa.select(table.c.slot).where(
                table.c.array == array_id, table.c.slot >= first, table.c.slot < first + count
            )
            filled.update(connection.execute(slots).scalars())
        place, name, digest, spec = connection.execute(
            sa.select(t.zarr_array.c.place, t.zarr_array.c.name, t.zarr_array.c.digest, t.zarr_array.c.spec).where(
                t.zarr_array.c.id == array_id
            )
        ).one()
        result += [
            Leftover(place=place, array_name=name, digest=digest, spec=orjson.loads(spec), slot=slot)
            for slot in range(first, first + count)
            if slot not in filled
        ]
    return result


def forget(engine: sa.Engine, writer_id: str) -> None:
    """Remove an expired writer and its blocks, once its leftovers are gone."""
    with begin_write(engine) as connection:
        connection.execute(t.slot_block.delete().where(t.slot_block.c.writer == writer_id))
        connection.execute(t.writer.delete().where(t.writer.c.id == writer_id))
