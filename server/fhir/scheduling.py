"""What a ServiceRequest asks a modality to do: a scheduled procedure step, on the worklist while the order is active.

Nothing is asked for where the images of its accession number are here already, or where another system has scheduled
the steps of this order.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import replace
from datetime import datetime
from typing import Any
from zoneinfo import ZoneInfo

import orjson
import sqlalchemy as sa

from server.fhir.parsing import read_json
from server.fhir.session import Session
from server.fhir.task_commands import local_reference
from server.fhir.types import Resource
from server.worklist.steps import cancel_step, schedule_step, steps_of
from storage.catalog import schema as t
from storage.catalog.ids import order_step_id
from storage.catalog.orders import StoredOrder
from storage.catalog.resources import read_resources
from storage.catalog.steps import StoredStep
from storage.catalog.ups import code, element
from storage.dicomjson import MetadataJson
from storage.directory import zone_of
from storage.fhirvalues import DCM, UID, designator, issuer_of, text

_OVER = {
    "on-hold": "The order is on hold.",
    "revoked": "The order was revoked.",
    "completed": "The order was completed.",
}
_CODE = re.compile(r"[A-Z0-9_]{1,16}")
_SEXES = {"male": "M", "female": "F", "other": "O"}
_PRIORITIES = {"stat": "STAT", "urgent": "HIGH", "routine": "ROUTINE"}


def follow_request(session: Session, order: StoredOrder, resource: Resource) -> None:
    """Have the step of an order as it says now."""
    id = order_step_id(order.id)
    steps = steps_of(session.connection, order.facility, order=order.id)
    if order.state != "active":
        for step in steps:
            cancel_step(session.work, order.facility, step.id, _OVER[order.state])
    elif any(step.id == id for step in steps) or not (steps or _has_images(session, order)):
        schedule_step(session.work, _step(session, order, resource, id))
    else:
        for step in steps:
            if step.state == "cancelled" and step.reason in _OVER.values():
                schedule_step(session.work, replace(step, state="scheduled"))


def forget_request(session: Session, facility: str, id: str) -> None:
    """Take back what an order asked for that is none any more."""
    for step in steps_of(session.connection, facility, order=id):
        cancel_step(session.work, facility, step.id, _OVER["revoked"])


def _has_images(session: Session, order: StoredOrder) -> bool:
    c = t.study.c
    found = sa.select(c.id).where(c.accession_number == order.accession_number, c.owner_facility == order.facility)
    return session.connection.execute(found.limit(1)).first() is not None


def _step(session: Session, order: StoredOrder, resource: Resource, id: str) -> StoredStep:
    facility = session.connection.execute(
        sa.select(t.facility.c.zone).where(t.facility.c.id == order.facility)
    ).scalar_one_or_none()
    starts_on, starts_at = _start(resource, zone_of(facility or "UTC"))
    concept = resource.get("code") or {}
    codes = list(_codes([concept]))
    planned: MetadataJson = {
        "00400007": _lo(order.procedure),
        "00400008": element("SQ", *codes),
        "00400006": _pn(*_performers(resource, "Practitioner", "PractitionerRole")),
        "00400010": _sh(*_performers(resource, "Device")),
        "00400011": _sh(*(one.get("display") for one in resource.get("locationReference") or ())),
    }
    requester = resource.get("requester") or {}
    header: MetadataJson = {
        **_patient(session, resource, order),
        "00321032": _pn(requester.get("display")),
        "00321060": _lo(order.procedure),
        "00321064": element("SQ", *codes),
        "00400100": element("SQ", planned),
        "00401002": _lo(order.reason),
        "00401003": element("SH", _PRIORITIES.get(order.priority, "HIGH")),
        "00402016": _lo(_identifier(resource, "PLAC")),
        "00402017": _lo(_identifier(resource, "FILL")),
    }
    return StoredStep(
        facility=order.facility,
        id=id,
        order=order.id,
        accession_number=order.accession_number,
        procedure_id=id,
        study_uid=_study_uid(resource),
        modality=_modality(resource),
        station_ae=_station(resource),
        starts_on=starts_on,
        starts_at=starts_at,
        patient_id=order.patient_id or "",
        issuer=order.issuer or "",
        header=orjson.dumps(header),
    )


def _start(resource: Resource, zone: ZoneInfo) -> tuple[str, str]:
    """The day and the time at which it is to be done, by the clock of the facility."""
    timing = resource.get("occurrenceTiming") or {}
    period = resource.get("occurrencePeriod") or (timing.get("repeat") or {}).get("boundsPeriod") or {}
    written = resource.get("occurrenceDateTime") or next(iter(timing.get("event") or ()), None) or period.get("start")
    try:
        at = datetime.fromisoformat(str(written))
    except ValueError:
        return "", ""
    if at.tzinfo is not None:
        at = at.astimezone(zone)
    return f"{at:%Y%m%d}", f"{at:%H%M%S}" if "T" in str(written) else ""


def _modality(resource: Resource) -> str:
    """A code of modalities (PS3.16 CID 29), of what is to be done or of its details."""
    for concept in (*(resource.get("orderDetail") or ()), resource.get("code") or {}):
        for coding in concept.get("coding") or ():
            said = str(coding.get("code") or "")
            if coding.get("system") == DCM and _CODE.fullmatch(said) and not said.isdecimal():
                return said
    return ""


def _station(resource: Resource) -> str:
    """The AE title of the device that is to do it, if one is named by such an identifier."""
    for one in resource.get("performer") or ():
        said = text((one.get("identifier") or {}).get("value")) or ""
        if _is_of(one, "Device") and 0 < len(said) <= 16 and said.isascii() and "\\" not in said:
            return said
    return ""


def _performers(resource: Resource, *types: str) -> list[str | None]:
    return [one.get("display") for one in resource.get("performer") or () if _is_of(one, *types)]


def _is_of(found: Any, *types: str) -> bool:
    said = found.get("type") or str(found.get("reference") or "").split("/")[0]
    return said in types


def _identifier(resource: Resource, kind: str) -> str | None:
    for identifier in resource.get("identifier") or ():
        if any(one.get("code") == kind for one in (identifier.get("type") or {}).get("coding") or ()):
            return text(identifier.get("value"))
    return None


def _study_uid(resource: Resource) -> str:
    for identifier in resource.get("identifier") or ():
        said = str(identifier.get("value") or "").removeprefix("urn:oid:")
        if identifier.get("system") == UID and re.fullmatch(r"[0-9.]{1,64}", said):
            return said
    return ""


def _codes(concepts: list[Any]) -> Iterator[MetadataJson]:
    for concept in concepts:
        for one in (concept.get("coding") or ())[:1]:
            value, meaning = text(one.get("code")), text(one.get("display")) or text(concept.get("text"))
            if value and len(value) <= 16:
                yield code(value, designator(one.get("system")), (meaning or value).replace("\\", "/")[:64])


def _patient(session: Session, resource: Resource, order: StoredOrder) -> MetadataJson:
    """What a patient is called: as the registry says, else as the Patient that the order is for does."""
    c = t.patient.c
    if order.patient_id:
        issuer = (
            order.issuer or sa.select(t.facility.c.issuer).where(t.facility.c.id == order.facility).scalar_subquery()
        )
        known = sa.select(c.header).where(c.patient_id == order.patient_id, c.issuer == issuer)
        header = session.connection.execute(known).scalar_one_or_none()
        if header:
            loaded: MetadataJson = orjson.loads(header)
            return loaded
    found = re.fullmatch(r"Patient/([A-Za-z0-9.-]{1,64})", local_reference(session, resource.get("subject")))
    rows = read_resources(session.connection, session.scope, "Patient", [found[1]]) if found else []
    if not rows or rows[0].is_deleted:
        return {"00100010": _pn((resource.get("subject") or {}).get("display"))}
    return _called(read_json(rows[0].rest))


def _called(patient: Resource) -> MetadataJson:
    name: Mapping[str, Any] = next(iter(patient.get("name") or ()), {})
    given = [text(one) or "" for one in name.get("given") or ()]
    parts = [
        text(name.get("family")) or "",
        " ".join(given[:1]),
        " ".join(given[1:]),
        *(" ".join(text(one) or "" for one in name.get(part) or ()) for part in ("prefix", "suffix")),
    ]
    written = "^".join(re.sub(r"[\\^=]", " ", part).strip() for part in parts).rstrip("^") or text(name.get("text"))
    made: MetadataJson = {"00100010": _pn(written), "00100040": element("CS", *filter(None, [_sex(patient)]))}
    born = str(patient.get("birthDate") or "").replace("-", "")
    made["00100030"] = element("DA", *([born] if re.fullmatch(r"[0-9]{8}", born) else []))
    for identifier in patient.get("identifier") or ():
        if number := text(identifier.get("value")):
            made["00100020"] = _lo(number)
            made["00100021"] = _lo(issuer_of(str(identifier.get("system") or "")))
            break
    return made


def _sex(patient: Resource) -> str | None:
    return _SEXES.get(str(patient.get("gender")))


def _pn(*names: str | None) -> dict[str, Any]:
    told = [text(name) for name in names]
    return element("PN", *({"Alphabetic": name.replace("\\", " ")[:64]} for name in told if name))


def _lo(*texts: str | None) -> dict[str, Any]:
    return element("LO", *(said.replace("\\", "/")[:64] for one in texts if (said := text(one))))


def _sh(*texts: str | None) -> dict[str, Any]:
    return element("SH", *(said.replace("\\", "/")[:16].strip() for one in texts if (said := text(one))))
