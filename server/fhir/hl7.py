"""What HL7 messages lead to, as FHIR shows it: Patient, ServiceRequest, Encounter and Appointment.

Ids are those of the patient and the order in the catalog, and made of the number of a stay or an appointment; so a
client finds them from a Task or a study, and what it writes there holds until the next message says otherwise.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta
from functools import partial
from typing import Any
from uuid import UUID, uuid5

import sqlalchemy as sa

from server.fhir.parsing import read_json
from server.fhir.publishing import publish
from server.fhir.stored import StoredType
from server.hl7.applying import Applied
from server.hl7.meaning import Appointment, Asked, Person, Visit
from server.room import Room
from server.worklist.items import Work
from storage.catalog import schema as t
from storage.catalog.ids import patient_key
from storage.catalog.orders import StoredOrder, orders_for
from storage.catalog.resources import read_resources
from storage.fhirvalues import (
    Element,
    accession,
    day,
    first,
    gender,
    human_names,
    instant_of,
    issuer_system,
    person_name,
    reference,
    system_of,
    typed_identifier,
    without_none,
)

_ORDERS = StoredType(name="ServiceRequest")
"""Kept as any other: the order behind it is placed already, and is not to be placed once more by its resource."""
_NUMBERS = UUID("8a0c2f64-7f0e-5b53-9c57-3d0b5f1f6a11")
_USUAL_MINUTES = 30
_ACT_CODE = "http://terminology.hl7.org/CodeSystem/v3-ActCode"
_CLASSES = {
    "I": {"system": _ACT_CODE, "code": "IMP", "display": "inpatient encounter"},
    "O": {"system": _ACT_CODE, "code": "AMB", "display": "ambulatory"},
    "E": {"system": _ACT_CODE, "code": "EMER", "display": "emergency"},
    "P": {"system": _ACT_CODE, "code": "PRENC", "display": "pre-admission"},
}
"""By the patient class (HL7 table 0004)."""
_STAYS = {
    "ADT^A01": "in-progress",
    "ADT^A03": "finished",
    "ADT^A04": "in-progress",
    "ADT^A05": "planned",
    "ADT^A11": "cancelled",
    "ADT^A13": "in-progress",
}
"""What an event makes of a stay; after any other it is as it was."""
_IMAGING = {"coding": [{"system": "http://snomed.info/sct", "code": "363679005", "display": "Imaging"}]}


def publish_messages(room: Room) -> None:
    """Have orders and patients of messages published from now on."""
    room.hl7.published.append(partial(_publish, room))


def _publish(room: Room, work: Work, applied: Applied) -> None:
    if applied.person is None:
        return
    issuer = applied.person.issuer or str(
        work.connection.execute(sa.select(t.facility.c.issuer).where(t.facility.c.id == applied.facility)).scalar_one()
    )
    id = patient_key(issuer, applied.person.id)
    for order, asked in applied.orders:
        resource = service_request(order, asked, patient=id)
        publish(room, work, {**resource, "id": order.id}, facility=applied.facility, type=_ORDERS)
    if applied.visit is not None and applied.kind.startswith("ADT"):
        stay = _id(applied.facility, "visit", applied.visit.number)
        rows = read_resources(work.connection, work.scope, "Encounter", [stay])
        status = _STAYS.get(applied.kind) or (read_json(rows[0].rest).get("status") if rows else None)
        resource = encounter(applied.visit, status=str(status or "in-progress"), patient=id)
        publish(room, work, {**resource, "id": stay}, facility=applied.facility)
    if applied.appointment is not None:
        one = applied.appointment
        asked_for = orders_for(work.connection, applied.facility, one.accession_number) if one.accession_number else []
        resource = appointment(one, patient=id, orders=[order.id for order in asked_for])
        made = _id(applied.facility, "appointment", one.id)
        publish(room, work, {**resource, "id": made}, facility=applied.facility)
    known = read_resources(work.connection, work.scope, "Patient", [id])
    before = read_json(known[0].rest) if known and not known[0].is_deleted else {}
    told = patient(applied.person, issuer, before)
    publish(room, work, {"resourceType": "Patient", "id": id, **told}, facility=applied.facility)


def encounter(visit: Visit, *, status: str, patient: str) -> Element:
    """A stay as an Encounter."""
    return without_none(
        resourceType="Encounter",
        identifier=[typed_identifier("VN", visit.number)],
        status=status,
        class_=_CLASSES.get(visit.kind, _CLASSES["O"]),
        subject=reference("Patient", patient),
        period=without_none(start=instant_of(visit.begins), end=instant_of(visit.ends)),
    )


def appointment(told: Appointment, *, patient: str, orders: Sequence[str]) -> Element:
    """An appointment; one that is at no time is only proposed, or cancelled (R4's app-3)."""
    status: str = told.status
    if told.starts is None:
        status = "proposed" if told.status == "booked" else "cancelled"
    ends = told.starts + timedelta(minutes=told.minutes or _USUAL_MINUTES) if told.starts else None
    code, scheme, meaning = told.code
    coding = without_none(system=system_of(scheme), code=code, display=meaning) if code else None
    reason = {"text": told.reason} if told.reason else None
    return without_none(
        resourceType="Appointment",
        identifier=[typed_identifier("FILL", told.id)],
        status=status,
        cancelationReason=reason if status in ("cancelled", "noshow") else None,
        serviceType=[without_none(coding=[coding] if coding else None, text=meaning)] if code or meaning else None,
        reasonCode=[reason] if reason and status not in ("cancelled", "noshow") else None,
        start=instant_of(told.starts),
        end=instant_of(ends),
        basedOn=[reference("ServiceRequest", id) for id in orders],
        participant=[{"actor": reference("Patient", patient), "status": "accepted"}],
    )


def _id(facility: str, what: str, number: str) -> str:
    return uuid5(_NUMBERS, f"{what}|{facility}|{number}").hex


def service_request(order: StoredOrder, asked: Asked, *, patient: str) -> Element:
    """An order as a ServiceRequest.

    Parameters
    ----------
    patient
        Id of the Patient.
    """
    code, scheme, meaning = asked.code
    coding = without_none(system=system_of(scheme), code=code, display=meaning) if code else None
    placer = typed_identifier("PLAC", asked.placer) if asked.placer else None
    filler = typed_identifier("FILL", asked.filler) if asked.filler else None
    requester = person_name({"Alphabetic": asked.requester}) if asked.requester else None
    return without_none(
        resourceType="ServiceRequest",
        identifier=[one for one in (accession(order.accession_number), placer, filler) if one],
        status=order.state,
        intent="order",
        category=[_IMAGING],
        priority=order.priority,
        code=without_none(coding=[coding] if coding else None, text=order.procedure),
        subject=reference("Patient", patient),
        authoredOn=instant_of(order.ordered_at),
        requester={"display": requester} if requester else None,
        reasonCode=[{"text": order.reason}] if order.reason else None,
    )


def patient(person: Person, issuer: str, before: dict[str, Any]) -> Element:
    """A patient as a message says; what else is known of one stays as it was."""
    identifier = typed_identifier(
        "MR", person.id, use="usual", system=issuer_system(issuer), assigner={"display": issuer}
    )
    made = {**before, "identifier": before.get("identifier") or [identifier]}
    for tag, name, value in (
        ("00100010", "name", human_names(person.who, "00100010")),
        ("00100030", "birthDate", day(first(person.who, "00100030"))),
        ("00100040", "gender", gender(first(person.who, "00100040"))),
    ):
        if value:
            made[name] = value
        elif tag in person.who:
            made.pop(name, None)
    return made
