"""A signed report as an unsolicited observation: ORU^R01 (HL7 v2.5.1 7.3.1), in the version that a receiver takes.

Each section is an observation of its own, with the LOINC code of its heading; then come the addenda, what is critical
or recommended, who has signed, and which sentences an algorithm wrote. The study is named by its Study Instance UID.
"""

from __future__ import annotations

import base64
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import datetime
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from readingroom.model import Category, Code, Destination, Report, ReportStatus, Signature
from server.hl7.messages import escape, field, header, moment, segment, written
from server.reports.documents.sheet import Part, lay_out, shown
from storage.destinations import Hl7Options

RADLEX: dict[Category, tuple[str, str]] = {
    1: ("RID49480", "Category 1 actionable finding"),
    2: ("RID49481", "Category 2 actionable finding"),
    3: ("RID49482", "Category 3 actionable finding"),
}

_STATUS: dict[ReportStatus, str] = {
    "registered": "O",
    "preliminary": "P",
    "final": "F",
    "amended": "C",
    "corrected": "C",
    "appended": "C",
    "cancelled": "X",
    "entered-in-error": "X",
}
"""OBR-25 (HL7 table 0123)."""
_WRONG = "W"  # HL7 table 0085: what was sent as a result is wrong
_STUDY_UID = field("113014", "DICOM Study", "DCM")
_REPORT = field("18748-4", "Diagnostic imaging study", "LN")
_ADDENDUM = field("55107-7", "Addendum Document", "LN")
_FOLLOW_UP = field("18783-1", "Radiology Study recommendation", "LN")
_ACTIONABLE = field("ACTIONABLE", "Actionable finding", "L")
_SIGNED = field("SIGNED", "Signatures and sources", "L")
_SYSTEMS = {"http://loinc.org": "LN", "DCM": "DCM", "SCT": "SCT", "http://snomed.info/sct": "SCT", "RADLEX": "RADLEX"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Observation:
    """One OBX: its type, what is observed, and the value, both as fields are written."""

    kind: str
    what: str
    value: str
    part: str = ""


def write_oru(
    report: Report,
    destination: Destination,
    options: Hl7Options,
    *,
    control_id: str,
    at: datetime,
    pdf: Callable[[], bytes],
) -> bytes:
    """The message that tells of one signed version.

    Parameters
    ----------
    control_id
        MSH-10; the same on every attempt.
    pdf
        Makes the PDF, where the options want it.

    Raises
    ------
    Invalid
        The character set of the destination lacks a character.
    """
    status = options.corrected if _STATUS[report.status] == "C" else _STATUS[report.status]
    result = _WRONG if report.status == "entered-in-error" else status
    signed_at = _local(report.signed_at, report.zone) if report.signed_at else ""
    segments = [
        _msh(report, options, control_id, at),
        _pid(report),
        segment("ORC", {1: "RE", 3: field(report.accession_number), 5: "CM" if status in "FCX" else "IP"}),
        segment(
            "OBR",
            {
                1: "1",
                3: field(report.accession_number),
                4: _REPORT + (f"^^{escape(report.procedure)}^L" if report.procedure else ""),
                7: _observed_at(report),
                22: signed_at,
                24: "RAD",
                25: status,
                31: field("", report.reason) if report.reason else "",
                32: "~".join(map(_interpreter, _signers(report, is_assistant=False)[-1:])),
                33: "~".join(map(_interpreter, _signers(report, is_assistant=True))),
            },
        ),
    ]
    for number, one in enumerate(_observations(report, options, pdf), 1):
        fields = {1: str(number), 2: one.kind, 3: one.what, 4: one.part, 5: one.value, 11: result, 14: signed_at}
        segments.append(segment("OBX", fields))
    return written(segments, options.character_set)


def _msh(report: Report, options: Hl7Options, control_id: str, at: datetime) -> str:
    kind = field("ORU", "R01") if options.version == "2.3" else field("ORU", "R01", "ORU_R01")
    is_enhanced = options.acknowledgement == "enhanced"
    return header(
        {
            3: field(options.sending_application),
            4: field(options.sending_facility or report.facility),
            5: field(options.receiving_application),
            6: field(options.receiving_facility),
            7: moment(at),
            9: kind,
            10: control_id,
            11: options.processing,
            12: options.version,
            15: "AL" if is_enhanced else "",
            16: "NE" if is_enhanced else "",
            18: options.character_set,
        }
    )


def _pid(report: Report) -> str:
    return segment(
        "PID",
        {
            1: "1",
            3: field(report.patient_id, "", "", report.issuer, "MR") if report.patient_id else "",
            5: "~".join(_names(report.patient_name)),
            7: report.birth_date or "",
            8: report.sex if report.sex in ("M", "F", "O") else "",
        },
    )


def _names(name: str | None) -> Iterator[str]:
    """A PN in each form that it has (PS3.5 6.2.1), as XPN: alphabetic, ideographic, phonetic."""
    for form, group in zip("AIP", (name or "").split("=")[:3], strict=False):
        family, given, middle, prefix, suffix = ([part.strip() for part in group.split("^")] + [""] * 5)[:5]
        if any((family, given, middle)):
            yield field(family, given, middle, suffix, prefix, "", "L", form)


def _observations(report: Report, options: Hl7Options, pdf: Callable[[], bytes]) -> Iterator[Observation]:
    sheet = lay_out(report)
    text = options.text
    if report.study_uid:
        yield Observation(kind="HD", what=_STUDY_UID, value=field("", report.study_uid, "ISO"))
    for section in report.sections:
        yield Observation(
            kind=text, what=_heading(section.name, section.title, section.code), value=_lines(section.text)
        )
    for addendum in sheet.addenda:
        lines = "\n".join((addendum.title, addendum.text, *addendum.signatures))
        yield Observation(kind=text, what=_ADDENDUM, value=_lines(lines))
    coded = "CE" if options.version < "2.6" else "CWE"
    for number, critical in enumerate(report.critical_results, 1):
        told, part = field(*RADLEX[critical.category], "RADLEX"), str(number)
        yield Observation(kind=coded, what=_ACTIONABLE, value=told, part=part)
        yield Observation(kind=text, what=_ACTIONABLE, value=_lines(critical.text), part=part)
    for kept in _of_kind(sheet.parts, "recommendation"):
        yield Observation(kind=text, what=_FOLLOW_UP, value=_lines(kept.text))
    yield Observation(kind=text, what=_SIGNED, value=_lines("\n".join((sheet.status, *sheet.signatures, *sheet.notes))))
    if options.pdf:
        data = base64.b64encode(pdf()).decode()
        yield Observation(kind="ED", what=_REPORT, value=f"^application^pdf^Base64^{data}")


def _of_kind(parts: tuple[Part, ...], kind: str) -> Iterator[Part]:
    return (one for one in parts if one.kind == kind)


def _heading(name: str, title: str, code: Code | None) -> str:
    if code is not None and code.system in _SYSTEMS:
        return field(code.value, title, _SYSTEMS[code.system])
    return field(name, title, "L")


def _lines(text: str) -> str:
    """A text of type FT or TX."""
    return escape(shown(text).strip("\n"))


def _signers(report: Report, *, is_assistant: bool) -> list[Signature]:
    return [one for one in report.signatures if (one.role == "resident") is is_assistant] or (
        [] if is_assistant else list(report.signatures)
    )


def _interpreter(signature: Signature) -> str:
    """Who has read, as NDL: id, name, and where there is an NPI whose id it is."""
    family, given, middle, prefix, suffix = ([*signature.name.split("=")[0].split("^"), "", "", "", ""])[:5]
    authority = ("NPI", "2.16.840.1.113883.4.6", "ISO") if signature.npi else ()
    who = signature.npi or signature.reader
    return field(who, family, given, middle, suffix, prefix, "", "", *authority, separator="&")


def _observed_at(report: Report) -> str:
    """When the study was made: what DICOM says of it, with the zone of the facility where there is a time too."""
    day, time = report.study_date or "", (report.study_time or "").partition(".")[0][:6]
    if len(time) < 4 or len(day) != 8:
        return day
    try:
        at = datetime.strptime(day + time.ljust(6, "0"), "%Y%m%d%H%M%S")
        return f"{day}{time}{at.replace(tzinfo=ZoneInfo(report.zone)):%z}"
    except (ValueError, ZoneInfoNotFoundError):
        return day


def _local(at: datetime, zone: str) -> str:
    try:
        return moment(at.astimezone(ZoneInfo(zone)))
    except (ValueError, ZoneInfoNotFoundError):
        return moment(at)
