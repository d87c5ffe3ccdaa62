"""ServiceRequest: kept as it was sent; one that orders imaging under an accession number is an order of the work.

What a client sends comes back byte for byte; what follows from it is a command of `server.worklist.orders`, given in
the same transaction, and a step of a modality's worklist where the images are still to come (`server.fhir.scheduling`).
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa

from server.fhir.scheduling import follow_request, forget_request
from server.fhir.session import Session
from server.fhir.shown import Shown
from server.fhir.stored import StoredType
from server.fhir.task_commands import local_reference, moment_of, priority_of
from server.fhir.types import Kind, Resource
from server.worklist.orders import place_order, withdraw_order
from storage.catalog import schema as t
from storage.catalog.orders import OrderState, StoredOrder
from storage.fhirvalues import IDENTIFIER_TYPE, issuer_of, text

_STATES: dict[str, OrderState] = {
    "active": "active",
    "on-hold": "on-hold",
    "completed": "completed",
    "revoked": "revoked",
    "entered-in-error": "revoked",
}
_ORDERS = frozenset(("order", "original-order", "reflex-order", "filler-order", "instance-order"))
"""Intents that ask for something to be done; a proposal or a plan does not."""


def parse(session: Session, shown: Shown, resource: Resource) -> StoredOrder | None:
    """The order of imaging that a ServiceRequest is; None for one that is none, or not yet."""
    state, number = _STATES.get(str(resource.get("status"))), accession_of(resource)
    if state is None or number is None or resource.get("intent") not in _ORDERS or resource.get("doNotPerform"):
        return None
    patient_id, issuer = _patient(session, resource.get("subject") or {})
    return StoredOrder(
        facility=shown.facility or session.facility,
        id=shown.id,
        accession_number=number,
        state=state,
        priority=priority_of(resource) or "routine",
        patient_id=patient_id,
        issuer=issuer,
        procedure=_said(resource.get("code")),
        reason=next((said for one in resource.get("reasonCode") or () if (said := _said(one))), None),
        ordered_at=moment_of(resource.get("authoredOn")),
    )


def accession_of(resource: Resource) -> str | None:
    """The accession number: an identifier of type ACSN (HL7 table 0203)."""
    for identifier in resource.get("identifier") or ():
        codes = (identifier.get("type") or {}).get("coding") or ()
        is_accession = any(
            one.get("code") == "ACSN" and one.get("system", IDENTIFIER_TYPE) == IDENTIFIER_TYPE for one in codes
        )
        if is_accession and (number := text(identifier.get("value"))):
            return number[:64]
    return None


def _said(concept: Any) -> str | None:
    """A CodeableConcept in words."""
    codes = (concept or {}).get("coding") or ()
    return text((concept or {}).get("text")) or next(
        (said for one in codes if (said := text(one.get("display")) or text(one.get("code")))), None
    )


def _patient(session: Session, subject: Any) -> tuple[str | None, str | None]:
    """Patient ID and issuer of whom an order is for, where the registry knows them or an identifier says them."""
    found = re.fullmatch(r"Patient/([A-Za-z0-9.-]{1,64})", local_reference(session, subject))
    if found:
        c = t.patient.c
        row = session.connection.execute(sa.select(c.patient_id, c.issuer).where(c.id == found[1])).one_or_none()
        if row is not None:
            return row.patient_id, row.issuer
    identifier = subject.get("identifier") or {}
    number = text(identifier.get("value"))
    return (number[:64], issuer_of(str(identifier.get("system") or ""))) if number else (None, None)


@dataclass(frozen=True, kw_only=True)
class ServiceRequestType(StoredType):
    """Orders; see `server.fhir.types.ResourceType`."""

    name: str = "ServiceRequest"
    kind: Kind = "command"

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
        shown = super()._write(session, before, resource, rest, id, method, version)
        order = parse(session, shown, resource) if resource is not None else None
        if order is not None:
            place_order(session.work, order)
            follow_request(session, order, resource or {})
        elif before is not None:
            withdraw_order(session.work, shown.facility or session.facility, id)
            forget_request(session, shown.facility or session.facility, id)
        return shown
