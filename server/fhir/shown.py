"""One version of one resource, as it is sent."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import cached_property
from typing import Any

from server.fhir.parsing import parse_json, with_head


def instant(at: datetime) -> str:
    """A time as FHIR's instant, to the millisecond."""
    return at.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


@dataclass(frozen=True, kw_only=True)
class Shown:
    """One version of one resource.

    `rest` is its JSON object without ``resourceType``, ``id`` and ``meta``: of what was sent, byte for byte. `meta` is
    what `Resource.meta` says besides version and time. `method` is the HTTP method that made this version.
    """

    type: str
    id: str
    version: int
    updated_at: datetime
    rest: bytes
    meta: Mapping[str, Any] = field(default_factory=dict)
    facility: str | None = None
    is_deleted: bool = False
    method: str = "PUT"

    @property
    def etag(self) -> str:
        """Its version as a weak entity tag (FHIR R4 3.1.0.1.3)."""
        return f'W/"{self.version}"'

    @cached_property
    def head(self) -> dict[str, Any]:
        """What stands before the rest."""
        meta = {"versionId": str(self.version), "lastUpdated": instant(self.updated_at), **self.meta}
        return {"resourceType": self.type, "id": self.id, "meta": meta}

    @cached_property
    def body(self) -> bytes:
        """The resource as JSON."""
        return with_head(self.rest, self.type, self.id, self.head["meta"])

    @cached_property
    def resource(self) -> dict[str, Any]:
        """The resource, parsed: numbers that are not whole are Decimal."""
        return parse_json(self.body)
