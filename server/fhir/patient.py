"""Patient: the registry of those whom studies are of, each known by a Patient ID of an issuer (FHIR R4 8.1).

Until a client writes it, a Patient is what the last study of that person says. What a client writes is shown from then
on, and comes back as it was sent; it keeps the identifier by which studies find it. One that was merged into another is
not active any more, and each links to the other (8.1.10).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any

import orjson
import sqlalchemy as sa

from server.fhir.mixed import MixedType
from server.fhir.patient_source import patient_source
from server.fhir.session import Session
from server.fhir.shown import Shown
from server.fhir.types import Resource
from storage.catalog import schema as t
from storage.catalog.fhir_search import Source
from storage.catalog.ids import patient_key
from storage.catalog.merges import Merge, is_merged, links_of
from storage.catalog.normal import normal_day
from storage.fhirvalues import (
    Element,
    day,
    first,
    gender,
    human_names,
    issuer_of,
    issuer_system,
    items,
    text,
    typed_identifier,
    without_none,
)

_P, _S = t.patient.c, t.study.c


def render(row: Any, merges: Sequence[Merge] = ()) -> bytes:
    """A row of the registry as the JSON of a Patient, without ``resourceType``, ``id`` and ``meta``.

    `merges` are those that hold, from or into that patient.
    """
    header = orjson.loads(row.header or b"{}")
    links = _links(row, merges)
    made = without_none(
        active=False if any(link["type"] == "replaced-by" for link in links) else None,
        identifier=[*([_identifier(row)] if row.patient_id else []), *_others(header)],
        name=human_names(header, "00100010"),
        gender=gender(text(first(header, "00100040"))),
        birthDate=day(normal_day(text(first(header, "00100030")) or "")),
        link=links or None,
    )
    return orjson.dumps(made)


def _links(row: Any, merges: Sequence[Merge]) -> list[Element]:
    """Whom a patient was replaced by, or replaces."""
    made = []
    for merge in merges:
        if merge.issuer != row.issuer or row.patient_id not in (merge.from_id, merge.into_id):
            continue
        is_old = row.patient_id == merge.from_id
        other = patient_key(merge.issuer, merge.into_id if is_old else merge.from_id)
        made.append({"other": {"reference": f"Patient/{other}"}, "type": "replaced-by" if is_old else "replaces"})
    return made


def _identifier(row: Any) -> Element:
    assigner = {"display": row.issuer}
    return typed_identifier("MR", row.patient_id, use="usual", system=issuer_system(row.issuer), assigner=assigner)


def _others(header: dict[str, Any]) -> list[Element]:
    """Other Patient IDs Sequence (0010,1002)."""
    made = []
    for item in items(header, "00101002"):
        number, issuer = text(first(item, "00100020")), text(first(item, "00100021"))
        if number:
            system = issuer_system(issuer) if issuer else None
            assigner = {"display": issuer} if issuer else None
            made.append(without_none(use="secondary", system=system, value=number, assigner=assigner))
    return made


@dataclass(frozen=True, kw_only=True)
class PatientType(MixedType):
    """Patients; see `server.fhir.types.ResourceType`."""

    name: str = "Patient"

    @property
    def sources(self) -> Sequence[Source]:
        """The registry, and what is kept."""
        return (*super().sources, patient_source())

    def rows(
        self,
        session: Session,
        ids: Sequence[str] | None,
        *,
        limit: int | None = None,
        until: datetime | None = None,
        since: datetime | None = None,
    ) -> list[Shown]:
        """Those of whom a study in scope is, or who were merged there."""
        if ids is not None and not ids:
            return []
        changed_at = sa.func.coalesce(_P.updated_at, _P.received_at)
        of_study = sa.exists().where(_S.patient == _P.id)
        facilities = session.scope.facilities
        if facilities is not None:
            of_study = of_study.where(_S.owner_facility.in_(sorted(facilities)))
        found = sa.select(t.patient).where(sa.or_(of_study, is_merged(t.patient, session.scope)))
        if ids is not None:
            found = found.where(_P.id.in_(list(ids)))
        if until is not None:
            found = found.where(changed_at <= until)
        if since is not None:
            found = found.where(changed_at >= since)
        found = found.order_by(changed_at.desc(), _P.id).limit(limit)
        rows = session.connection.execute(found).all()
        merges = links_of(
            session.connection, session.scope, {(row.issuer, row.patient_id) for row in rows if row.patient_id}
        )
        return [
            Shown(
                type="Patient",
                id=row.id,
                version=row.version,
                updated_at=row.updated_at or row.received_at,
                rest=render(row, merges),
                method="POST" if row.version == 1 else "PUT",
            )
            for row in rows
        ]

    def new_id(self, session: Session, resource: Resource) -> str:
        """The id by which studies will find this patient, where an identifier is of an issuer that is known here."""
        issuers = set(session.connection.execute(sa.select(t.facility.c.issuer)).scalars())
        for identifier in resource.get("identifier") or ():
            issuer, number = issuer_of(str(identifier.get("system") or "")), text(identifier.get("value"))
            if issuer in issuers and number:
                id = patient_key(str(issuer), number)
                if self.lock(session, id) is None:
                    return id
        return t.new_id()

    def command(self, session: Session, row: Shown, resource: Resource, version: int) -> None:
        """Let a patient be who a client says; studies still find the same one."""
        c = t.patient.c
        found = session.connection.execute(sa.select(t.patient).where(c.id == row.id).with_for_update()).one()
        if found.patient_id:
            own = _identifier(found)
            kept = ((one.get("system"), one.get("value")) for one in resource.get("identifier") or ())
            if (own["system"], own["value"]) not in kept:
                raise self.refusal("identifier", f"keeps the one of system {own['system']}, by which studies find it")
        moved = t.patient.update().where(c.id == row.id).values(version=version, updated_at=session.now)
        session.connection.execute(moved)

    def over(self, stored: Shown, row: Shown) -> Shown:
        """What was sent: a client knows better who somebody is than the next study does, but not of whom else."""
        newest = replace(stored, version=max(row.version, stored.version))
        links = orjson.loads(row.rest).get("link") if b'"link"' in row.rest else None
        if not links:
            return newest
        sent = orjson.loads(stored.rest)
        is_old = any(link["type"] == "replaced-by" for link in links)
        told = {**sent, **({"active": False} if is_old else {}), "link": [*sent.get("link", ()), *links]}
        return replace(newest, rest=orjson.dumps(told))
