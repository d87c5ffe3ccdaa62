"""A directory for tests: a hospital in Texas, one in Arizona (which keeps one time all year), and readers."""

from __future__ import annotations

from typing import Any

from readingroom.model import WorkItem
from storage.catalog.directory import Directory
from storage.directory import FacilityEntry, ReaderEntry

ALWAYS = {"starts": "00:00", "ends": "00:00"}


def facility(id: str = "mercy", **more: Any) -> FacilityEntry:
    """A hospital in Texas."""
    known = {"name": id.title(), "kind": "hospital", "state": "US-TX", "zone": "America/Chicago"}
    return FacilityEntry.model_validate(known | {"id": id} | more)


def reader(id: str = "ada", **more: Any) -> ReaderEntry:
    """One who may read anything for mercy at any time."""
    known = {
        "name": id.title(),
        "zone": "America/Chicago",
        "licences": [{"state": "US-TX", "number": "T1"}],
        "credentials": [{"facility": "mercy"}],
        "shifts": [ALWAYS],
    }
    return ReaderEntry.model_validate(known | {"id": id} | more)


def directory(*entries: FacilityEntry | ReaderEntry) -> Directory:
    """All of these; of mercy and nothing else where no facility is among them."""
    facilities = [one for one in entries if isinstance(one, FacilityEntry)] or [facility()]
    readers = [one for one in entries if isinstance(one, ReaderEntry)]
    return Directory(facilities={one.id: one for one in facilities}, readers={one.id: one for one in readers})


def item(**more: Any) -> WorkItem:
    """Something to be read, of mercy."""
    known = {"id": "i", "kind": "read", "state": "ready", "facility": "mercy", "version": 1}
    return WorkItem(**known | more)
