"""Types of which some resources are rows of the domain, and others are kept as they were sent.

A row is shown under an id of its own. Where a client has written such a resource, what it sent is kept with the number
that the row's version then had: as long as the row stays at that version, it comes back as it was sent; later, what
the row says stands in place of what was sent of it.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime

from readingroom.errors import Conflict
from server.fhir.outcome import BrokenRule, Issue
from server.fhir.parsing import dump_json, read_json
from server.fhir.session import Session
from server.fhir.shown import Shown
from server.fhir.stored import StoredType, meta_of
from server.fhir.types import Kind, Resource
from storage.catalog import schema as t


@dataclass(frozen=True, kw_only=True)
class MixedType(StoredType):
    """See the module, and `server.fhir.types.ResourceType`."""

    kind: Kind = "command"

    @abstractmethod
    def rows(
        self,
        session: Session,
        ids: Sequence[str] | None,
        *,
        limit: int | None = None,
        until: datetime | None = None,
        since: datetime | None = None,
    ) -> list[Shown]:
        """Rows of the domain in scope, each as its resource: these, or the ones that were changed last."""

    @abstractmethod
    def command(self, session: Session, row: Shown, resource: Resource, version: int) -> None:
        """Do to the row what a write asks for, and give it that version.

        Raises
        ------
        BrokenRule
            It is not for a client to say; says what.
        """

    def over(self, stored: Shown, row: Shown) -> Shown:
        """What is shown of a row that a client has written, and that has changed since."""
        sent, told = read_json(stored.rest), read_json(row.rest)
        return replace(row, rest=dump_json({**sent, **told}), meta=stored.meta)

    def refusal(self, name: str, because: str) -> BrokenRule:
        """That an element is not changed by a write."""
        where = f"{self.name}.{name}"
        return BrokenRule([Issue(code="business-rule", diagnostics=f"{where} {because}.", expression=where)])

    def read(self, session: Session, ids: Sequence[str]) -> list[Shown]:
        """The current versions."""
        rows = {one.id: one for one in self.rows(session, ids)}
        stored = super().read(session, ids)
        found = [self._current(one, rows.pop(one.id, None)) for one in stored]
        return [*found, *rows.values()]

    def lock(self, session: Session, id: str) -> Shown | None:
        """The current version of one, locked."""
        stored = super().lock(session, id)
        row = next(iter(self.rows(session, [id])), None)
        return row if stored is None else self._current(stored, row)

    def version(self, session: Session, id: str, version: int) -> Shown | None:
        """The current version, or one that was written."""
        current = next(iter(self.read(session, [id])), None)
        if current is not None and current.version == version:
            return current
        return super().version(session, id, version)

    def versions(
        self,
        session: Session,
        id: str | None,
        *,
        limit: int,
        until: datetime | None = None,
        since: datetime | None = None,
    ) -> list[Shown]:
        """The current versions, and those that were written; the newest first."""
        stored = super().versions(session, id, limit=limit, until=until, since=since)
        rows = self.rows(session, None if id is None else [id], limit=limit, until=until, since=since)
        found = {(one.id, one.version): one for one in stored}
        latest = {one.id: one for one in super().read(session, [one.id for one in rows])}
        for row in rows:
            written = latest.get(row.id)
            current = row if written is None else self._current(written, row)
            found.setdefault((current.id, current.version), current)
        inside = [
            one
            for one in found.values()
            if (until is None or one.updated_at <= until) and (since is None or one.updated_at >= since)
        ]
        return sorted(inside, key=lambda one: (-one.updated_at.timestamp(), one.id, -one.version))[:limit]

    def new_id(self, session: Session, resource: Resource) -> str:
        """An id that nothing else has."""
        return t.new_id()

    def update(self, session: Session, before: Shown, resource: Resource, rest: bytes) -> Shown:
        """Write the next version; of a row of the domain by a command."""
        row = next(iter(self.rows(session, [before.id])), None)
        if row is None:
            return super().update(session, before, resource, rest)
        if not before.is_deleted and (before.rest, dict(before.meta)) == (rest, meta_of(resource)):
            return before
        version = max(row.version, before.version) + 1
        self.command(session, row, resource, version)
        written = super().lock(session, before.id)
        return self._write(session, written, resource, rest, before.id, "PUT", version)

    def delete(self, session: Session, before: Shown) -> Shown:
        """Delete what was sent; a row of the domain stays."""
        if self.rows(session, [before.id]):
            raise Conflict(f"{self.name}/{before.id} is in use by this server; it is not deleted by a client.")
        return super().delete(session, before)

    def _current(self, stored: Shown, row: Shown | None) -> Shown:
        return stored if row is None or row.version == stored.version else self.over(stored, row)
