"""The directory in the catalog: facilities and their contracts, readers and what they may read.

A facility or a reader is written and read whole, as an entry of `storage.directory`. A row that a study has made, of a
facility that nobody has told of yet, is no entry. Nothing is deleted: what is gone is not active, until it is written
anew.
"""

from __future__ import annotations

import threading
from collections import defaultdict
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from datetime import date, datetime
from typing import Any

import orjson
import sqlalchemy as sa
from pydantic import ValidationError

from readingroom.errors import Conflict
from storage.catalog import schema as t
from storage.catalog.writers import insert_for
from storage.directory import Contract, DestinationEntry, Entry, FacilityEntry, ReaderEntry, Shift

_DIRECTORY_LOCK = 0x64697265
_MOST_LEVELS = 16


@dataclass(frozen=True, slots=True, kw_only=True)
class Directory:
    """Facilities and readers by id, as they were at one moment."""

    facilities: Mapping[str, FacilityEntry]
    readers: Mapping[str, ReaderEntry]

    def chain(self, facility: str) -> list[FacilityEntry]:
        """A facility, the one that it is a site of, and so on up; empty where it is not in the directory."""
        found: list[FacilityEntry] = []
        entry = self.facilities.get(facility)
        while entry is not None and entry not in found:
            found.append(entry)
            entry = self.facilities.get(entry.parent or "")
        return found


@dataclass(frozen=True, slots=True, kw_only=True)
class AgreedContract:
    """The version of a contract that holds for a facility, which is its own or one of a facility above."""

    id: str
    facility: str
    version: int
    contract: Contract


def lock_directory(connection: sa.Connection) -> None:
    """Let nobody else write the directory until this transaction ends."""
    if connection.dialect.name == "postgresql":
        connection.exec_driver_sql(f"SELECT pg_advisory_xact_lock({_DIRECTORY_LOCK})")


def read_directory(connection: sa.Connection, *, with_inactive: bool = False) -> Directory:
    """The whole directory, or all of it that is active."""
    return Directory(
        facilities=_facilities(connection, with_inactive=with_inactive),
        readers=_readers(connection, with_inactive=with_inactive),
    )


class LatestDirectory:
    """What is active of the directory, as it is now; read anew only where something has changed. For any thread.

    Parameters
    ----------
    engine
        Read on a connection of its own, so that nothing is kept that somebody is about to write and may yet take back.
    """

    def __init__(self, engine: sa.Engine) -> None:
        self._engine = engine
        self._lock = threading.Lock()
        self._known: tuple[tuple[int, int], Directory] | None = None

    def read(self) -> Directory:
        """All of it that is active."""
        with self._lock, self._engine.connect() as connection:
            edition = _edition(connection)  # first: what is read afterwards is of this edition, or newer
            if self._known is None or self._known[0] != edition:
                self._known = edition, read_directory(connection)
            return self._known[1]


def _edition(connection: sa.Connection) -> tuple[int, int]:
    """Two numbers that tell one state of the directory from all others.

    No row is ever deleted, and each change of a facility or a reader, with all that belongs to it, adds to the version
    of its row: so no two states have the same sum of versions.
    """
    facilities, readers = (sa.select(sa.func.sum(of.c.version)).scalar_subquery() for of in (t.facility, t.reader))
    found = connection.execute(sa.select(facilities, readers)).one()
    return int(found[0] or 0), int(found[1] or 0)


def inactive(connection: sa.Connection) -> tuple[frozenset[str], frozenset[str]]:
    """Ids of the facilities and of the readers that are not active."""
    facilities, readers = (
        frozenset(connection.execute(sa.select(of.c.id).where(~of.c.is_active)).scalars())
        for of in (t.facility, t.reader)
    )
    return facilities, readers


def read_reader(connection: sa.Connection, id: str, *, with_inactive: bool = False) -> ReaderEntry | None:
    """One active reader, or one that is not any more."""
    return _readers(connection, id=id, with_inactive=with_inactive).get(id)


def names_of(connection: sa.Connection, ids: Collection[str]) -> dict[str, str]:
    """What readers are called, by id, whether they are active or not."""
    found = sa.select(t.reader.c.id, t.reader.c.name).where(t.reader.c.id.in_(ids))
    return {row.id: row.name for row in connection.execute(found)} if ids else {}


def has_readers(connection: sa.Connection) -> bool:
    """Whether there is any active reader."""
    return connection.execute(sa.select(t.reader.c.id).where(t.reader.c.is_active).limit(1)).first() is not None


def read_chain(connection: sa.Connection, facility: str) -> Directory:
    """A directory of one facility and those above it, without readers."""
    found: dict[str, FacilityEntry] = {}
    wanted: str | None = facility
    while wanted and wanted not in found and len(found) < _MOST_LEVELS:
        read = _facilities(connection, id=wanted)
        found |= read
        wanted = read[wanted].parent if wanted in read else None
    return Directory(facilities=found, readers={})


# -- facilities --------------------------------------------------------------------------------------------------------


def write_facility(connection: sa.Connection, entry: FacilityEntry, now: datetime) -> None:
    """Write a facility whole, and make it active; contracts that it has no more are taken back.

    Raises
    ------
    Conflict
        Its issuer of patient ids would be another one, and it has studies.
    """
    c = t.facility.c
    issuer = entry.issuer or entry.id
    before = connection.execute(sa.select(c.issuer).where(c.id == entry.id).with_for_update()).scalar_one_or_none()
    if before not in (None, issuer) and _has_studies(connection, entry.id):
        raise Conflict(
            f"Facility {entry.id} has studies whose patient ids are of issuer {before!r}; it cannot become {issuer!r}."
        )
    named = {"address", "city", "postal_code", "npi", "clia", "contacts", "final_by", "aes", "senders", "destinations"}
    details = _json(entry, named)
    values = {
        "name": entry.name,
        "issuer": issuer,
        "kind": entry.kind,
        "parent": entry.parent,
        "state": entry.state,
        "zone": entry.zone,
        "is_active": True,
        "details": details,
        "updated_at": now,
    }
    insert = insert_for(connection)(t.facility).values(id=entry.id, **values)
    connection.execute(insert.on_conflict_do_update(index_elements=["id"], set_=values | {"version": c.version + 1}))
    _write_contracts(connection, entry, now)


def _has_studies(connection: sa.Connection, facility: str) -> bool:
    one = sa.select(t.study.c.id).where(t.study.c.owner_facility == facility).limit(1)
    return connection.execute(one).first() is not None


def _write_contracts(connection: sa.Connection, entry: FacilityEntry, now: datetime) -> None:
    """Keep each version of a contract: an item's due time is explained by the one that it was made from."""
    c = t.contract.c
    rows = connection.execute(sa.select(t.contract).where(c.facility == entry.id).order_by(c.version)).all()
    current = {row.valid_from: row for row in rows if row.is_current}
    versions = {row.valid_from: row.version for row in rows}
    wanted = {one.valid_from: one for one in entry.contracts}
    for valid_from, row in current.items():
        if wanted.get(valid_from) == _contract(row):
            del wanted[valid_from]
        else:
            connection.execute(t.contract.update().where(c.id == row.id).values(is_current=False))
    for one in wanted.values():
        connection.execute(
            t.contract.insert().values(
                facility=entry.id,
                valid_from=one.valid_from,
                valid_to=one.valid_to,
                version=versions.get(one.valid_from, 0) + 1,
                is_current=True,
                terms=_json(one, {"business_hours", "holidays", "classes"}),
                made_at=now,
            )
        )


def contract_for(connection: sa.Connection, facility: str, day: date) -> AgreedContract | None:
    """The contract that holds for a facility on a day: its own, else that of the nearest facility above it with one."""
    c, seen = t.contract.c, set[str]()
    holds = sa.select(t.contract).where(
        c.is_current, c.valid_from <= day, sa.or_(c.valid_to.is_(None), c.valid_to >= day)
    )
    parent = sa.select(t.facility.c.parent)
    while facility and facility not in seen:
        row = connection.execute(holds.where(c.facility == facility)).one_or_none()
        if row is not None:
            return AgreedContract(id=row.id, facility=facility, version=row.version, contract=_contract(row))
        seen.add(facility)
        facility = connection.execute(parent.where(t.facility.c.id == facility)).scalar() or ""
    return None


def agreed_contract(connection: sa.Connection, id: str) -> AgreedContract | None:
    """One version of a contract, whether it still holds or not."""
    row = connection.execute(sa.select(t.contract).where(t.contract.c.id == id)).one_or_none()
    if row is None:
        return None
    return AgreedContract(id=row.id, facility=row.facility, version=row.version, contract=_contract(row))


def facility_zone(connection: sa.Connection, facility: str) -> str:
    """The name of the time zone of a facility; UTC where it is not known."""
    return connection.execute(sa.select(t.facility.c.zone).where(t.facility.c.id == facility)).scalar() or "UTC"


def _contract(row: Any) -> Contract:
    known = {"valid_from": row.valid_from, "valid_to": row.valid_to}
    return Contract.model_validate(known | orjson.loads(row.terms))


def _facilities(
    connection: sa.Connection, *, id: str | None = None, with_inactive: bool = False
) -> dict[str, FacilityEntry]:
    c, k = t.facility.c, t.contract.c
    rows = sa.select(t.facility).where(c.kind.is_not(None)).order_by(c.id)
    agreed = sa.select(t.contract).where(k.is_current).order_by(k.facility, k.valid_from)
    if id is not None:
        rows, agreed = rows.where(c.id == id), agreed.where(k.facility == id)
    if not with_inactive:
        rows = rows.where(c.is_active)
    contracts = defaultdict[str, list[Contract]](list)
    for row in connection.execute(agreed):
        contracts[row.facility].append(_contract(row))
    found = {}
    for row in connection.execute(rows):
        known = {name: row._mapping[name] for name in ("id", "name", "kind", "parent", "state", "zone")}
        known["issuer"] = None if row.issuer == row.id else row.issuer
        known["contracts"] = contracts[row.id]
        details = orjson.loads(row.details)
        destinations = tuple(map(_kept_destination, details.pop("destinations", ())))
        entry = FacilityEntry.model_validate(known | details)
        found[row.id] = entry.model_copy(update={"destinations": destinations}) if destinations else entry
    return found


def _kept_destination(kept: Mapping[str, Any]) -> DestinationEntry:
    """A destination as it was kept, though it may be less than right: so it is met, and told of, when it is used."""
    try:
        return DestinationEntry.model_validate(kept)
    except ValidationError:
        id, channel, address = (str(kept.get(name) or "") for name in ("id", "channel", "address"))
        is_active = kept.get("is_active", True) is not False
        return DestinationEntry.model_construct(id=id, channel=channel, address=address, is_active=is_active)


# -- readers -----------------------------------------------------------------------------------------------------------


def write_reader(connection: sa.Connection, entry: ReaderEntry, now: datetime | None = None) -> None:
    """Write a reader whole, and make him or her active."""
    c = t.reader.c
    values = {
        "name": entry.name,
        "zone": entry.zone,
        "is_overflow": entry.is_overflow,
        "is_active": True,
        "details": _json(entry, {"npi", "subspecialties", "skills", "contacts", "is_trainee", "home"}),
        "updated_at": now,
    }
    insert = insert_for(connection)(t.reader).values(id=entry.id, version=1, **values)
    connection.execute(insert.on_conflict_do_update(index_elements=["id"], set_=values | {"version": c.version + 1}))
    for name, table in _PARTS.items():
        _write_part(connection, table, entry.id, [_part_row(one) for one in getattr(entry, name)])


def _write_part(connection: sa.Connection, table: sa.Table, reader: str, wanted: list[dict[str, Any]]) -> None:
    """Make the rows of a reader those that are wanted; one that stays keeps its id."""
    rows = connection.execute(sa.select(table).where(table.c.reader == reader)).all()
    for row in rows:
        known = {name: value for name, value in row._mapping.items() if name not in ("id", "reader")}
        if known in wanted:
            wanted.remove(known)
        else:
            connection.execute(table.delete().where(table.c.id == row.id))
    if wanted:
        connection.execute(table.insert(), [one | {"id": t.new_id(), "reader": reader} for one in wanted])


def deactivate(
    connection: sa.Connection,
    *,
    facilities: Collection[str] = (),
    readers: Collection[str] = (),
    now: datetime | None = None,
) -> None:
    """Let these be in the directory no more; what was read by them, or for them, stays theirs."""
    for table, ids in ((t.facility, facilities), (t.reader, readers)):
        off = table.update().where(table.c.id.in_(ids), table.c.is_active)
        connection.execute(off.values(is_active=False, version=table.c.version + 1, updated_at=now))


_PARTS: Mapping[str, sa.Table] = {
    "licences": t.licence,
    "credentials": t.credential,
    "shifts": t.shift,
    "leave": t.leave,
}


def _part_row(part: Entry) -> dict[str, Any]:
    row = part.model_dump()
    if isinstance(part, Shift):
        row["days"] = " ".join(part.days)
    return row


def _readers(
    connection: sa.Connection, *, id: str | None = None, with_inactive: bool = False
) -> dict[str, ReaderEntry]:
    c = t.reader.c
    rows = sa.select(t.reader).order_by(c.id)
    if id is not None:
        rows = rows.where(c.id == id)
    if not with_inactive:
        rows = rows.where(c.is_active)
    parts = defaultdict[str, dict[str, list[Any]]](lambda: {name: [] for name in _PARTS})
    for name, table in _PARTS.items():
        of = sa.select(*(column for column in table.c if column.name != "id"))
        for row in connection.execute(of if id is None else of.where(table.c.reader == id)):
            values = dict(row._mapping)
            parts[values.pop("reader")][name].append(values)
    found = {}
    for row in connection.execute(rows):
        known = {name: row._mapping[name] for name in ("id", "name", "zone", "is_overflow")}
        found[row.id] = ReaderEntry.model_validate(known | orjson.loads(row.details) | parts[row.id])
    return found


def _json(entry: Entry, names: set[str]) -> str:
    return orjson.dumps(entry.model_dump(mode="json", include=names, exclude_defaults=True)).decode()
