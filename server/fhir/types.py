"""What this server does with each type of resource: one object a type, in one table.

A **projection** is made from the tables of the archive and cannot be written. A write to a **command** changes the row
of the domain that the resource is a view of. What is **stored** is kept as it was sent.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any, Literal, Protocol

from server.fhir.session import Session
from server.fhir.shown import Shown
from storage.catalog.fhir_search import Source

Kind = Literal["projection", "command", "stored"]
Resource = dict[str, Any]


class ResourceType(Protocol):
    """One type of resource."""

    @property
    def name(self) -> str:
        """Such as ``Observation``."""

    @property
    def kind(self) -> Kind:
        """Where the truth of it is."""

    @property
    def read_only_because(self) -> str:
        """Why it cannot be written; empty where it can be."""

    @property
    def takes_ids(self) -> bool:
        """Whether a client may choose the id of a new one."""

    @property
    def kept_because(self) -> str:
        """Why none is ever deleted; empty where clients delete."""

    def condition_of(self, resource: Resource) -> str | None:
        """A search that finds what this resource of a client's is here; None where nothing says so."""

    @property
    def sources(self) -> Sequence[Source]:
        """Where searches look for it."""

    def read(self, session: Session, ids: Sequence[str]) -> list[Shown]:
        """The current versions of those that are there and in scope, in any order; deleted ones too."""

    def lock(self, session: Session, id: str) -> Shown | None:
        """The current version of one, which stays so until the transaction ends; deleted ones too."""

    def version(self, session: Session, id: str, version: int) -> Shown | None:
        """One version; None where there is none, or it is not kept."""

    def versions(
        self,
        session: Session,
        id: str | None,
        *,
        limit: int,
        until: datetime | None = None,
        since: datetime | None = None,
    ) -> list[Shown]:
        """Versions of one resource, or of all of the type: the newest first; of one time by id, the last one first."""

    def new_id(self, session: Session, resource: Resource) -> str:
        """The id that this resource gets where the client chooses none."""

    def create(self, session: Session, resource: Resource, rest: bytes, id: str) -> Shown:
        """Make one, under an id that the client chose or that `new_id` gave."""

    def update(self, session: Session, before: Shown, resource: Resource, rest: bytes) -> Shown:
        """Change one that `lock` gave; returns `before` itself where that changes nothing."""

    def delete(self, session: Session, before: Shown) -> Shown:
        """Delete one that `lock` gave."""
