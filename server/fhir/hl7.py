"""What HL7 messages lead to, as FHIR shows it: ServiceRequest for an order, Patient for whose it is.

Their ids are those of the order and of the patient in the catalog, so a client finds them from a Task or a study, and
what it writes there holds until the next message says otherwise.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import sqlalchemy as sa

from server.fhir.parsing import read_json
from server.fhir.publishing import publish
from server.fhir.stored import StoredType
from server.hl7.applying import Applied
from server.hl7.meaning import Asked, Person
from server.room import Room
from server.worklist.items import Work
from storage.catalog import schema as t
from storage.catalog.ids import patient_key
from storage.catalog.orders import StoredOrder
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
    if applied.orders:
        for order, asked in applied.orders:
            resource = service_request(order, asked, patient=id)
            publish(room, work, {**resource, "id": order.id}, facility=applied.facility, type=_ORDERS)
    known = read_resources(work.connection, work.scope, "Patient", [id])
    before = read_json(known[0].rest) if known and not known[0].is_deleted else {}
    told = patient(applied.person, issuer, before)
    publish(room, work, {"resourceType": "Patient", "id": id, **told}, facility=applied.facility)


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
