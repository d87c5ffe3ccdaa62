"""DiagnosticReport: what is reported here, as FHIR shows it; with who has signed it, and which algorithms had a part.

A report of ours is published with every step of its life, in the transaction of that step: so its versions here are
those of its life, and what was signed stands in them word for word. Reports of others are kept as they were sent.
"""

from __future__ import annotations

import base64
from collections.abc import Iterator
from functools import partial
from typing import Any

import sqlalchemy as sa

from readingroom.model import Algorithm, Report, Signature
from server.fhir.publishing import publish
from server.reports.documents.html import page
from server.reports.fhirjson import Refs, attachment, diagnostic_report, signers
from server.room import Room
from server.worklist.items import EVERYWHERE, Work
from storage.catalog import schema as t
from storage.catalog.directory import names_of
from storage.catalog.ids import algorithm_id
from storage.catalog.reports import SignedVersion, StoredReport, find_version
from storage.catalog.resources import read_resources
from storage.fhirvalues import OURS, Element, code_system, local_id, profile, reference, without_none

_PARTICIPANT = "http://terminology.hl7.org/CodeSystem/provenance-participant-type"
_AUTHOR_SIGNATURE = {
    "system": "urn:iso-astm:E1762-95:2013",
    "code": "1.2.840.10065.1.12.1.1",
    "display": "Author's Signature",
}
_ACTIVITY = "http://terminology.hl7.org/CodeSystem/v3-DataOperation"
_CLEARANCE = f"{OURS}/sid/fda-premarket"
_S, _O = t.study.c, t.imaging_order.c


def publish_reports(room: Room) -> None:
    """Have every step of a report's life published from now on."""
    room.reports.published.append(partial(_publish, room))


def _publish(room: Room, work: Work, row: StoredReport) -> None:
    signed = find_version(work.connection, row.id, row.number) if row.number else None
    report = signed.shown if signed else room.reports.about(work.connection, row)
    refs = refs_of(work.connection, row, report)
    whole = page(report).encode()
    forms = [attachment("text/html", whole, title="Report", at=report.signed_at)] if signed else []
    resource = diagnostic_report(report, refs, forms=forms)
    shown = publish(room, work, {**resource, "id": row.id}, facility=row.facility)
    if signed is None:
        return
    told = f"{row.id}-{signed.number}"
    if read_resources(work.connection, EVERYWHERE, "Provenance", [told]):
        return  # this step has signed nothing
    devices = {algorithm_of(one): one for one in _algorithms(report)}
    for id, algorithm in devices.items():
        publish(room, work, {**device(algorithm), "id": id}, facility=row.facility)
    proof = provenance(report, signed, refs, version=shown.version, devices=list(devices))
    publish(room, work, {**proof, "id": told}, facility=row.facility)


def refs_of(connection: sa.Connection, row: StoredReport, report: Report) -> Refs:
    """How what a report refers to is called in this service."""
    study = sa.select(_S.fhir_id).where(_S.owner_facility == row.facility, _S.study_uid == row.study_uid)
    orders = sa.select(_O.id).where(_O.facility == row.facility, _O.accession_number == row.accession_number)
    ordered = orders.order_by(_O.created_at, _O.id)
    fhir_id = connection.execute(study).scalar()
    signed = {one.reader: one for one in signers(report)}
    known = names_of(connection, signed)
    return Refs(
        subject={"reference": f"Patient/{row.patient}"},
        organization={"reference": f"Organization/{local_id(row.facility)}", "display": report.facility_name},
        readers={
            id: {"reference": f"Practitioner/{local_id(id)}", "display": one.name}
            for id, one in signed.items()
            if id in known
        },
        study={"reference": f"ImagingStudy/{fhir_id}"} if fhir_id else None,
        orders=[{"reference": f"ServiceRequest/{id}"} for id in connection.execute(ordered).scalars()],
    )


def provenance(
    report: Report, signed: SignedVersion, refs: Refs, *, version: int, devices: list[str]
) -> dict[str, Any]:
    """Who has signed a version, with the signature; and the algorithms whose sentences are in it."""
    at = report.signed_at.isoformat(timespec="milliseconds") if report.signed_at else None
    who = [_who(one, refs) for one in signers(report) if one.reader == signed.reader]
    agents = [{"type": _participant("author", "Author"), "who": one} for one in who]
    agents += [{"type": _participant("assembler", "Assembler"), "who": reference("Device", id)} for id in devices]
    signature = {
        "type": [_AUTHOR_SIGNATURE],
        "when": at,
        "who": who[0] if who else {"display": signed.reader},
        "sigFormat": "application/jose",
        "data": base64.b64encode(signed.signature.encode()).decode(),
    }
    activity = "CREATE" if signed.number == 1 else "NULLIFY" if report.status == "entered-in-error" else "UPDATE"
    return without_none(
        resourceType="Provenance",
        target=[{"reference": f"DiagnosticReport/{report.id}/_history/{version}"}],
        recorded=at,
        reason=[{"text": report.because}] if report.because else None,
        activity={"coding": [{"system": _ACTIVITY, "code": activity}]},
        agent=agents or [{"who": {"display": signed.reader}}],
        entity=[{"role": "source", "what": refs.study}] if refs.study else None,
        signature=[signature],
    )


def device(algorithm: Algorithm) -> dict[str, Any]:
    """An algorithm as a Device of our profile for such."""
    clearance = {"system": _CLEARANCE, "value": algorithm.clearance}
    says_for_what = bool(algorithm.modalities and algorithm.body_parts)
    return without_none(
        resourceType="Device",
        meta={"profile": [profile("ai-device")]} if says_for_what or not algorithm.clearance else None,
        identifier=[clearance] if algorithm.clearance else None,
        status="active",
        manufacturer=algorithm.manufacturer,
        deviceName=[{"name": algorithm.name, "type": "manufacturer-name"}],
        type={"text": "Image analysis, for research only" if algorithm.is_research else "Image analysis"},
        version=[{"value": algorithm.version}],
        property=[
            *(_property("modality", one) for one in algorithm.modalities),
            *(_property("body-part", one) for one in algorithm.body_parts),
        ],
    )


def algorithm_of(algorithm: Algorithm) -> str:
    """The id of its Device."""
    return algorithm_id(algorithm.manufacturer, algorithm.name, algorithm.version)


def _algorithms(report: Report) -> Iterator[Algorithm]:
    parts = [section.passages for section in report.sections] + [one.passages for one in report.addenda]
    for passage in (one for passages in parts for one in passages):
        if passage.origin in ("ai", "edited") and passage.algorithm is not None:
            yield passage.algorithm


def _who(signature: Signature, refs: Refs) -> Element:
    return refs.readers.get(signature.reader) or {"display": signature.name}


def _participant(code: str, display: str) -> dict[str, Any]:
    return {"coding": [{"system": _PARTICIPANT, "code": code, "display": display}]}


def _property(name: str, value: str) -> dict[str, Any]:
    return {
        "type": {"coding": [{"system": code_system("clearance"), "code": name}]},
        "valueCode": [{"text": value}],
    }
