"""A report as FHIR R4 has it: DiagnosticReport, and what it refers to (FHIR R4 10.4, IHE RAD IMR, US Core).

What refers to what differs between this server and another that is sent a report: that is in `Refs`, and all else is
the same wherever it is read.
"""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from hashlib import sha1

from readingroom.model import Code, Report, Signature
from server.reports.critical import RADLEX
from server.reports.documents.html import narrative
from server.reports.documents.sheet import name_forms, one_line, shown
from storage.catalog.normal import normal_day, normal_time
from storage.fhirvalues import (
    NPI,
    Element,
    accession,
    code_system,
    day,
    gender,
    human_names,
    instant_of,
    issuer_system,
    moment,
    system_of,
    token,
    typed_identifier,
    uid_identifier,
    without_none,
)

LOINC = "http://loinc.org"
REPORT_SYSTEM = code_system("report")
"""Of the identifiers of reports: a report has the same wherever it is sent."""

_CATEGORY = [
    {"coding": [{"system": LOINC, "code": "LP29684-5", "display": "Radiology"}]},
    {"coding": [{"system": "http://terminology.hl7.org/CodeSystem/v2-0074", "code": "RAD", "display": "Radiology"}]},
]
_CODE = {"system": LOINC, "code": "18748-4", "display": "Diagnostic imaging study"}
_FORMS = ("Alphabetic", "Ideographic", "Phonetic")


@dataclass(frozen=True, slots=True, kw_only=True)
class Refs:
    """What a report refers to, each a Reference as the server that is to have the report understands it.

    Attributes
    ----------
    organization
        The facility.
    readers
        By the id of a reader.
    study, orders
        The images, and what was ordered; where they are not known, the report names them by their identifiers.
    """

    subject: Element
    organization: Element
    readers: Mapping[str, Element] = field(default_factory=dict)
    study: Element | None = None
    orders: Sequence[Element] = ()


def diagnostic_report(report: Report, refs: Refs, *, forms: Sequence[Element] = ()) -> Element:
    """A version of a report as a DiagnosticReport without ``id`` and ``meta``.

    Its conclusion is the impression as it was signed; what was added to the report follows it. The narrative says all.

    Parameters
    ----------
    forms
        Attachments (`attachment`).
    """
    orders = list(refs.orders)
    if not orders and (number := token(report.accession_number)):
        orders = [{"type": "ServiceRequest", "identifier": accession(number)}]
    study = refs.study
    if study is None and report.study_uid:
        study = {"type": "ImagingStudy", "identifier": uid_identifier(report.study_uid)}
    return {
        "resourceType": "DiagnosticReport",
        **without_none(
            language=report.language,
            text={"status": "generated", "div": narrative(report)},
            identifier=identifiers(report),
            basedOn=orders,
        ),
        "status": report.status if report.number or report.status == "cancelled" else "registered",
        "category": _CATEGORY,
        "code": without_none(coding=[_CODE], text=one_line(report.procedure)),
        "subject": refs.subject,
        **without_none(
            effectiveDateTime=examined_at(report),
            issued=instant_of(report.signed_at),
            performer=[refs.organization],
            resultsInterpreter=[_reader(one, refs) for one in signers(report)],
            imagingStudy=[study] if study else [],
            conclusion=conclusion(report),
            conclusionCode=_conclusions(report),
            presentedForm=list(forms),
        ),
    }


def conclusion(report: Report) -> str | None:
    """The impression, and each addendum behind it; None where there is neither."""
    parts = [shown(report.section("impression"))]
    for count, addendum in enumerate(sorted(report.addenda, key=lambda one: one.number), start=1):
        parts.append(f"Addendum {count}: {shown(addendum.text)}")
    return "\n\n".join(part for part in parts if part.strip()) or None


def identifiers(report: Report) -> list[Element]:
    """By what a report is known: its id, and the accession number of what was ordered."""
    number = token(report.accession_number)
    return [{"system": REPORT_SYSTEM, "value": report.id}, *([accession(number)] if number else [])]


def signers(report: Report) -> list[Signature]:
    """Who has signed the report or an addendum, each reader once, in their order."""
    signatures = [*report.signatures, *(one for addendum in report.addenda for one in addendum.signatures)]
    return list({one.reader: one for one in reversed(signatures)}.values())[::-1]


def examined_at(report: Report) -> str | None:
    """When the images were made, on the clock of the facility, as FHIR's dateTime."""
    return moment(normal_day(report.study_date or ""), normal_time(report.study_time or ""), None, report.zone)


def attachment(content_type: str, data: bytes, *, title: str, at: datetime | None) -> Element:
    """A document as an Attachment: size and hash are of its bytes before they are written in base64."""
    return without_none(
        contentType=content_type.partition(";")[0],
        data=b64encode(data).decode(),
        size=len(data),
        hash=b64encode(sha1(data, usedforsecurity=False).digest()).decode(),
        title=title,
        creation=instant_of(at),
    )


# -- what it refers to, for a server that may not have it yet ----------------------------------------------------------


def patient(report: Report, *, system: str | None = None) -> Element:
    """The Patient of a report; where nobody has given a Patient ID, known by the report alone.

    Parameters
    ----------
    system
        What the other server calls the system of Patient IDs; by default what we call that of their issuer.
    """
    groups = (report.patient_name or "").split("=")
    name = {form: one_line(group) for form, group in zip(_FORMS, groups, strict=False) if one_line(group)}
    return {
        "resourceType": "Patient",
        **without_none(
            identifier=[_patient_identifier(report, system)],
            name=human_names({"00100010": {"Value": [name]}}, "00100010") if name_forms(report.patient_name) else None,
            gender=gender(report.sex),
            birthDate=day(normal_day(report.birth_date or "")),
        ),
    }


def _patient_identifier(report: Report, system: str | None) -> Element:
    number = token(report.patient_id)
    if number is None:
        return {"system": code_system("patient-of-report"), "value": report.id}
    known = system or issuer_system(report.issuer or report.facility)
    return typed_identifier("MR", number, use="usual", system=known)


def organization(report: Report) -> Element:
    """The facility of a report."""
    return {
        "resourceType": "Organization",
        "identifier": [{"system": code_system("facility"), "value": report.facility}],
        "active": True,
        "name": one_line(report.facility_name) or report.facility,
    }


def practitioner(signature: Signature) -> Element:
    """Who has signed, known by the National Provider Identifier, or else by the id that we have."""
    written = one_line(signature.name) or signature.reader
    is_dicom = "^" in written
    names = human_names({"00100010": {"Value": [{"Alphabetic": written}]}}, "00100010") if is_dicom else []
    return {
        "resourceType": "Practitioner",
        "identifier": [reader_identifier(signature)],
        "active": True,
        "name": names or [{"text": written}],
    }


def reader_identifier(signature: Signature) -> Element:
    """By what a reader is known elsewhere."""
    if signature.npi:
        return {"system": NPI, "value": signature.npi}
    return {"system": code_system("reader"), "value": signature.reader}


def imaging_study(report: Report, subject: Element) -> Element | None:
    """The images of a report, as much as it says of them; None where it has none."""
    if not report.study_uid:
        return None
    return {
        "resourceType": "ImagingStudy",
        "identifier": [uid_identifier(report.study_uid)],
        "status": "available",
        **without_none(
            modality=[{"system": system_of("DCM"), "code": code} for code in map(token, report.modalities) if code],
            subject=subject,
            started=examined_at(report),
            description=one_line(report.procedure),
        ),
    }


def service_request(report: Report, subject: Element, *, system: str) -> Element | None:
    """What was ordered, known by its accession number in a system; None where there is none."""
    number = token(report.accession_number)
    if number is None:
        return None
    return {
        "resourceType": "ServiceRequest",
        "identifier": [typed_identifier("ACSN", number, system=system)],
        "status": "completed",
        "intent": "order",
        **without_none(code={"text": procedure} if (procedure := one_line(report.procedure)) else None),
        "subject": subject,
        **without_none(reasonCode=[{"text": reason}] if (reason := one_line(report.reason)) else None),
    }


def _reader(signature: Signature, refs: Refs) -> Element:
    known = refs.readers.get(signature.reader)
    if known is not None:
        return known
    display = one_line(signature.name) or signature.reader
    return {"type": "Practitioner", "identifier": reader_identifier(signature), "display": display}


def _conclusions(report: Report) -> list[Element]:
    """The codes of a report, and of each critical result its code and how actionable it is."""
    made = [concept(one) for one in report.codes]
    for one in report.critical_results:
        if one.code is not None:
            made.append(concept(one.code))
        category = {"system": system_of("RADLEX"), "code": RADLEX[one.category]}
        made.append(without_none(coding=[category], text=shown(one.text)))
    return list({str(one): one for one in made}.values())


def concept(code: Code) -> Element:
    """A code as a CodeableConcept; one whose system FHIR does not know is told in words alone."""
    system, said = system_of(code.system), one_line(code.meaning) or one_line(code.value)
    coding = {"system": system, **without_none(code=token(code.value), display=said)}
    return without_none(coding=[coding] if system else None, text=said)
