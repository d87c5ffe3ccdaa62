"""The types that show the directory: what a file says of a facility or a reader, and what clients say besides."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

import sqlalchemy as sa

from readingroom.errors import ReadOnly
from server.fhir import directory
from server.fhir.directory import Entries
from server.fhir.directory_source import directory_source
from server.fhir.mixed import MixedType
from server.fhir.parsing import read_json
from server.fhir.session import Session
from server.fhir.shown import Shown
from server.fhir.types import Kind, Resource
from storage.catalog import schema as t
from storage.catalog.fhir_search import Source
from storage.fhirvalues import is_hashed, name_of


@dataclass(frozen=True, kw_only=True)
class DirectoryType(MixedType):
    """One of the types that show the directory."""

    entries: Entries
    table: sa.Table | None = None
    """Whose row counts the versions; without one nothing is kept beside an entry."""

    @property
    def sources(self) -> Sequence[Source]:
        """The directory, and what is kept."""
        return (*super().sources, directory_source(self.name))

    def rows(
        self,
        session: Session,
        ids: Sequence[str] | None,
        *,
        limit: int | None = None,
        until: datetime | None = None,
        since: datetime | None = None,
    ) -> list[Shown]:
        """Entries in scope."""
        wanted = None if ids is None else frozenset(ids)
        is_named = wanted is not None and not any(map(is_hashed, wanted))
        names = frozenset(map(name_of, wanted)) if wanted is not None and is_named else None
        found = [
            row
            for row in self.entries(session.connection, session.scope, session.dicomweb, names)
            if (wanted is None or row.id in wanted)
            and (until is None or row.updated_at <= until)
            and (since is None or row.updated_at >= since)
        ]
        found.sort(key=lambda row: (-row.updated_at.timestamp(), row.id))
        return [
            Shown(
                type=self.name,
                id=row.id,
                version=row.version,
                updated_at=row.updated_at,
                rest=row.rest(),
                facility=row.facility,
                method="POST" if row.version == 1 else "PUT",
            )
            for row in found[:limit]
        ]

    def command(self, session: Session, row: Shown, resource: Resource, version: int) -> None:
        """Keep what a client says besides what the directory does; the entry is then at its next version."""
        told = read_json(row.rest)
        for name, value in told.items():
            if self.table is None or resource.get(name) != value:
                raise self.refusal(name, "is what the directory says; `readingroom directory import` changes that")
        assert self.table is not None
        c = self.table.c
        moved = self.table.update().where(c.id == name_of(row.id)).values(version=version, updated_at=session.now)
        session.connection.execute(moved)


@dataclass(frozen=True, kw_only=True)
class EndpointType(DirectoryType):
    """Where the images of each facility are; nobody writes it."""

    takes_ids: bool = False
    kind: Kind = "projection"
    read_only_because: str = "An Endpoint of this server leads to its own DICOMweb service."

    def create(self, session: Session, resource: Resource, rest: bytes, id: str | None) -> Shown:
        """None is made here."""
        raise ReadOnly(self.read_only_because)


ORGANIZATION = DirectoryType(name="Organization", entries=directory.organizations, table=t.facility)
LOCATION = DirectoryType(name="Location", entries=directory.locations, table=t.facility)
PRACTITIONER = DirectoryType(name="Practitioner", entries=directory.practitioners, table=t.reader)
PRACTITIONER_ROLE = DirectoryType(name="PractitionerRole", entries=directory.practitioner_roles)
SCHEDULE = DirectoryType(name="Schedule", entries=directory.schedules, table=t.reader)
ENDPOINT = EndpointType(name="Endpoint", entries=directory.endpoints)
