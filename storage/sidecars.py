"""Side records: rare facts that are in no object (a deletion, a correction), each a small JSON file in the store.

A record lies in the folder ``s/ab/cd/<key of the study>/x`` and is durable before the transaction that it tells of
commits, so that `readingroom reindex` can replay it. It is announced by a row of its own before it is written; the row
ends with that transaction. What a crash leaves in between is an announced record whose transaction never was:
`withdraw_expired` removes it, so the store never tells what the catalog does not know.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

import orjson
import sqlalchemy as sa

from readingroom.clock import Clock
from readingroom.errors import Invalid, ReadingRoomError, Unavailable
from storage.blobs import Blobs
from storage.catalog import schema as t
from storage.catalog.engine import begin_write
from storage.catalog.writers import series_place

log = logging.getLogger(__name__)

PATIENCE = timedelta(minutes=5)
"""How long a transaction may take before its record is taken for one that a crash left."""

_KEY = re.compile(r"s/../../[^/]+/x/[^/]+\.json")


def write_record(blobs: Blobs, key: str, kind: str, at: datetime, payload: dict[str, Any]) -> None:
    """Write a record and wait for the disk. Use `begin_recorded`, which also sees to it that no record is left over."""
    told = {"type": kind, "at": at.isoformat(timespec="microseconds"), **payload}
    blobs.put(key, orjson.dumps(told, option=orjson.OPT_INDENT_2), durable=True)


def iter_records(blobs: Blobs, folder: str = "s") -> Iterator[tuple[str, dict[str, Any] | Invalid]]:
    """The key of every record below a folder and what it tells, in no particular order; or why it cannot be read."""
    for key in blobs.keys(f"{folder}/"):
        if _KEY.fullmatch(key):
            yield key, _read(blobs, key)


def records_folder(owner_facility: str, study_uid: str) -> str:
    """Where the records of a study lie; computed as the folder of a series is, with no series named."""
    return f"{series_place(owner_facility, study_uid, '')}/x"


@dataclass(slots=True)
class SideRecord:
    """A record that is announced, and may be written by one transaction."""

    id: str
    key: str
    blobs: Blobs
    clock: Clock
    is_written: bool = False

    def write(self, connection: sa.Connection, kind: str, payload: dict[str, Any]) -> datetime:
        """Write the record as part of a transaction that has locked what it is about; gives the time that it bears.

        Records are replayed by their times, so these have to be in the order of the transactions.

        Raises
        ------
        Unavailable
            The transaction took longer than `PATIENCE`, so that the record has been withdrawn.
        """
        mine = t.side_record.delete().where(t.side_record.c.id == self.id, ~t.side_record.c.is_withdrawn)
        if connection.execute(mine).rowcount != 1:
            raise Unavailable("The catalog took too long; nothing was changed, try again.", retry_after=1)
        at = self.clock.now()
        write_record(self.blobs, self.key, kind, at, payload)
        self.is_written = True
        return at


class NeedsRecord(Exception):
    """A transaction has to write a record that was not announced; to be begun again once it is."""

    def __init__(self, owner_facility: str, study_uid: str) -> None:
        super().__init__()
        self.study = owner_facility, study_uid


class SideRecords:
    """Announced records that wait to be written."""

    def __init__(self, records: Iterable[tuple[tuple[str, str], SideRecord]] = ()) -> None:
        self._waiting = list(records)

    def take(self, owner_facility: str, study_uid: str) -> SideRecord:
        """A record of that study, to be written now; raises `NeedsRecord` where there is none left."""
        for index, (study, record) in enumerate(self._waiting):
            if study == (owner_facility, study_uid):
                del self._waiting[index]
                return record
        raise NeedsRecord(owner_facility, study_uid)


@contextmanager
def announced(
    engine: sa.Engine, blobs: Blobs, studies: Iterable[tuple[str, str]], *, clock: Clock
) -> Iterator[SideRecords]:
    """A record for each of the studies, given by owner facility and UID, to be written by a transaction within.

    Raised through, or not written, a record leaves nothing behind.
    """
    records = []
    for study in studies:
        record_id = t.new_id()
        key = f"{records_folder(*study)}/{record_id}.json"
        records.append((study, SideRecord(record_id, key, blobs, clock)))
    if records:
        rows = [
            {"id": one.id, "object_key": one.key, "begun_at": clock.now(), "is_withdrawn": False} for _, one in records
        ]
        with begin_write(engine) as connection:
            connection.execute(t.side_record.insert(), rows)
    try:
        yield SideRecords(records)
    except BaseException:
        with suppress(sa.exc.DBAPIError, ReadingRoomError):  # then the sweep does it
            _withdraw(engine, blobs, (one.id for _, one in records))
        raise
    _withdraw(engine, blobs, (one.id for _, one in records if not one.is_written))


@contextmanager
def begin_recorded(
    engine: sa.Engine, blobs: Blobs, owner_facility: str, study_uid: str, *, clock: Clock
) -> Iterator[tuple[sa.Connection, SideRecord]]:
    """A transaction that changes one study and writes its record: both are durable when it ends, or neither is.

    Examples
    --------
    ::

        with begin_recorded(engine, blobs, facility, study_uid, clock=clock) as (connection, record):
            ...  # lock the study's row, decide
            at = record.write(connection, "note", {"study_uid": study_uid})
            ...  # change rows, append events
    """
    study = owner_facility, study_uid
    with announced(engine, blobs, [study], clock=clock) as records, begin_write(engine) as connection:
        yield connection, records.take(*study)


def withdraw_expired(engine: sa.Engine, blobs: Blobs, *, now: datetime, patience: timedelta = PATIENCE) -> int:
    """Remove the records whose transactions a crash ended; returns how many.

    Parameters
    ----------
    patience
        Zero where nobody else is at work.
    """
    late = t.side_record.c.begun_at <= now - patience
    with engine.connect() as connection:
        expired = connection.execute(sa.select(t.side_record.c.id).where(late | t.side_record.c.is_withdrawn)).scalars()
        ids = list(expired)
    return _withdraw(engine, blobs, ids)


def _withdraw(engine: sa.Engine, blobs: Blobs, ids: Iterable[str]) -> int:
    """Remove records and their rows; one whose transaction did commit has no row any more and stays."""
    withdrawn = 0
    for record_id in ids:
        with begin_write(engine) as connection:
            # Waits for the transaction that is at it, if there is one.
            key = connection.execute(
                t.side_record.update()
                .where(t.side_record.c.id == record_id)
                .values(is_withdrawn=True)
                .returning(t.side_record.c.object_key)
            ).scalar_one_or_none()
        if key is None:
            continue
        blobs.delete(key)
        with begin_write(engine) as connection:
            connection.execute(t.side_record.delete().where(t.side_record.c.id == record_id))
        withdrawn += 1
    return withdrawn


def _read(blobs: Blobs, key: str) -> dict[str, Any] | Invalid:
    try:
        record = orjson.loads(blobs.read(key))
        datetime.fromisoformat(record["at"])
        str(record["type"])
    except (ReadingRoomError, ValueError, KeyError, TypeError):
        return Invalid("It is no side record: JSON with a type and a time is expected.")
    found: dict[str, Any] = record
    return found
