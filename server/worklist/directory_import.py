"""Takes a directory from files into the catalog: what is the same stays, what is new or changed is written."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Literal

import sqlalchemy as sa

from readingroom.errors import Conflict
from server.worklist.directory_file import Told
from storage.catalog.directory import (
    Directory,
    deactivate,
    inactive,
    lock_directory,
    read_directory,
    write_facility,
    write_reader,
)
from storage.catalog.engine import begin_write
from storage.catalog.work_items import restate_items_of
from storage.directory import FacilityEntry, ReaderEntry, claimed_twice


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """What an import does, or would do, to one entry; `fields` are those that are otherwise than before."""

    kind: Literal["facility", "reader"]
    id: str
    what: Literal["added", "changed", "activated", "deactivated"]
    fields: tuple[str, ...] = ()


def import_directory(engine: sa.Engine, told: Told, now: datetime, *, prune: bool = False) -> list[Change]:
    """Make the catalog say what files do, in one transaction; said again, it changes nothing.

    Parameters
    ----------
    prune
        Deactivate what the files do not have: facilities where they have any facility, readers where they have any.

    Raises
    ------
    Conflict
        A facility that has studies would get another issuer of patient ids, or an AE title or a sender of messages
        that another facility has.
    """
    with begin_write(engine) as connection:
        lock_directory(connection)
        changes = changes_of(connection, told, prune=prune)
        for change in changes:
            if change.what == "deactivated":
                gone = {"facilities" if change.kind == "facility" else "readers": [change.id]}
                deactivate(connection, **gone, now=now)
            elif change.kind == "facility":
                write_facility(connection, told.facilities[change.id], now)
            else:
                write_reader(connection, told.readers[change.id], now)
                if change.what != "changed" or "name" in change.fields:
                    restate_items_of(connection, change.id)
        if any(change.kind == "facility" for change in changes):
            require_unique(read_directory(connection))
    return changes


def require_unique(directory: Directory) -> None:
    """Let no two facilities have the same AE title, or sender of messages; raises `Conflict` that names both."""
    for what, first, second in claimed_twice(directory.facilities.values()):
        raise Conflict(f"Facilities {first} and {second} both have {what}; only one can have it.")


def changes_of(connection: sa.Connection, told: Told, *, prune: bool = False) -> list[Change]:
    """What an import would change, facilities first."""
    held = read_directory(connection, with_inactive=True)
    away_facilities, away_readers = inactive(connection)
    return [
        *_compare("facility", held.facilities, away_facilities, told.facilities, prune=prune),
        *_compare("reader", held.readers, away_readers, told.readers, prune=prune),
    ]


def _compare[E: FacilityEntry | ReaderEntry](
    kind: Literal["facility", "reader"],
    held: Mapping[str, E],
    away: frozenset[str],
    told: Mapping[str, E],
    *,
    prune: bool,
) -> Iterable[Change]:
    for id, entry in told.items():
        if id not in held:
            yield Change(kind=kind, id=id, what="added")
        elif id in away:
            yield Change(kind=kind, id=id, what="activated")
        elif entry != held[id]:
            names = type(entry).model_fields
            otherwise = tuple(name for name in names if getattr(entry, name) != getattr(held[id], name))
            yield Change(kind=kind, id=id, what="changed", fields=otherwise)
    if prune and told:
        for id in sorted(held.keys() - told.keys() - away):
            yield Change(kind=kind, id=id, what="deactivated")
