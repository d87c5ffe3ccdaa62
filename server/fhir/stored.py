"""Resources that are kept as they were sent."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import orjson

from server.fhir.extract import values_of
from server.fhir.ours import require_theirs
from server.fhir.parsing import dump_json
from server.fhir.session import Session
from server.fhir.shown import Shown
from server.fhir.types import Kind, Resource
from storage.catalog import resources as kept
from storage.catalog import schema as t
from storage.catalog.fhir_search import Source, stored
from storage.catalog.fhir_values import list_resource
from storage.catalog.resources import StoredResource
from storage.catalog.studies import ensure_facility

_OURS = ("versionId", "lastUpdated")


@dataclass(frozen=True, kw_only=True)
class StoredType:
    """A type whose resources are kept; see `server.fhir.types.ResourceType`."""

    name: str
    kind: Kind = "stored"
    read_only_because: str = ""
    takes_ids: bool = True
    kept_because: str = ""

    def condition_of(self, resource: Resource) -> str | None:
        """Clients say by a condition of their own."""
        return None

    @property
    def sources(self) -> Sequence[Source]:
        """The resources that are kept."""
        return (stored(self.name),)

    def read(self, session: Session, ids: Sequence[str]) -> list[Shown]:
        """The current versions."""
        found = kept.read_resources(session.connection, session.scope, self.name, ids)
        return [shown(row) for row in found]

    def lock(self, session: Session, id: str) -> Shown | None:
        """The current version of one, locked."""
        row = kept.lock_resource(session.connection, session.scope, self.name, id)
        return None if row is None else shown(row)

    def version(self, session: Session, id: str, version: int) -> Shown | None:
        """One version."""
        row = kept.read_version(session.connection, session.scope, self.name, id, version)
        return None if row is None else shown(row)

    def versions(
        self,
        session: Session,
        id: str | None,
        *,
        limit: int,
        until: datetime | None = None,
        since: datetime | None = None,
    ) -> list[Shown]:
        """Versions, the newest first."""
        found = kept.read_versions(
            session.connection, session.scope, self.name, id, limit=limit, until=until, since=since
        )
        return [shown(row) for row in found]

    def new_id(self, session: Session, resource: Resource) -> str:
        """An id that nothing else has."""
        return t.new_id()

    def create(self, session: Session, resource: Resource, rest: bytes, id: str) -> Shown:
        """Make one."""
        require_theirs(session.connection, self.name, id)
        return self._write(session, None, resource, rest, id, session.method or "PUT")

    def update(self, session: Session, before: Shown, resource: Resource, rest: bytes) -> Shown:
        """Write the next version, unless it says what is there already."""
        require_theirs(session.connection, self.name, before.id)
        return self.publish(session, before, resource, rest, before.id)

    def publish(self, session: Session, before: Shown | None, resource: Resource, rest: bytes, id: str) -> Shown:
        """Write the first version or the next, unless it says what is there already, whosever it is."""
        if before is None:
            return self._write(session, None, resource, rest, id, "PUT")
        if not before.is_deleted and (before.rest, dict(before.meta)) == (rest, meta_of(resource)):
            return before
        return self._write(session, before, resource, rest, id, "PUT")

    def delete(self, session: Session, before: Shown) -> Shown:
        """Write a version that says it is gone; what was before stays in its history."""
        require_theirs(session.connection, self.name, before.id)
        return self._write(session, before, None, b"{}", before.id, "DELETE")

    def _write(
        self,
        session: Session,
        before: Shown | None,
        resource: Resource | None,
        rest: bytes,
        id: str,
        method: str,
        version: int | None = None,
    ) -> Shown:
        earlier = None
        if before is None:
            ensure_facility(session.connection, session.facility)
        else:
            earlier = kept.lock_resource(session.connection, session.scope, self.name, before.id)
        row = kept.write_resource(
            session.connection,
            earlier,
            type=self.name,
            id=id,
            facility=session.facility if earlier is None else earlier.facility,
            now=session.now,
            method=method,
            actor=session.actor.id,
            meta=dump_json({} if resource is None else meta_of(resource)),
            rest=rest,
            is_deleted=resource is None,
            version=version,
        )
        values = () if resource is None else values_of(self.name, resource, session.root)
        list_resource(session.connection, row.rid, values, is_new=earlier is None)
        session.changed.append((self.name, id, row.version))
        return shown(row)


def meta_of(resource: Resource) -> dict[str, Any]:
    """What a client says in `Resource.meta` that is not ours to say."""
    meta = resource.get("meta") or {}
    return {name: value for name, value in meta.items() if name not in _OURS}


def shown(row: StoredResource) -> Shown:
    """A row as it is sent."""
    return Shown(
        type=row.type,
        id=row.id,
        version=row.version,
        updated_at=row.updated_at,
        rest=row.rest,
        meta=orjson.loads(row.meta),
        facility=row.facility,
        is_deleted=row.is_deleted,
        method=row.method,
    )
