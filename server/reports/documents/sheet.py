"""What every rendering of a report shows, in its order: heading, facts, parts, signatures, addenda, notes.

Text, HTML and PDF each lay this out; none of them looks at the report for more, so none can show more or less.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Literal
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from readingroom.model import Category, Passage, Report, ReportStatus, Signature, SignatureRole

TITLE = "Radiology report"

STATUS: Mapping[ReportStatus, str] = {
    "registered": "DRAFT - NOT SIGNED",
    "preliminary": "PRELIMINARY REPORT",
    "final": "FINAL REPORT",
    "amended": "AMENDED REPORT",
    "corrected": "CORRECTED REPORT",
    "appended": "FINAL REPORT WITH ADDENDUM",
    "cancelled": "CANCELLED",
    "entered-in-error": "ENTERED IN ERROR - DO NOT USE",
}
"""The line that says what a version is."""

_USUAL: frozenset[ReportStatus] = frozenset({"final", "appended"})
_WITHIN: Mapping[Category, str] = {1: "within minutes", 2: "within hours", 3: "within days"}
_ROLES: Mapping[SignatureRole, str] = {
    "resident": "resident",
    "attending": "attending radiologist",
    "facility": "radiologist of the facility",
}
_SEXES = {"F": "female", "M": "male", "O": "other"}

_LINE_ENDS = re.compile("\r\n|[\r\v\f\x1c-\x1e\x85\u2028\u2029]")
_NO_CHARACTERS = re.compile("[\0-\x08\x0e-\x1b\x1f\x7f-\x84\x86-\x9f\ud800-\udfff\ufdd0-\ufdef\ufffe\uffff]")


@dataclass(frozen=True, slots=True, kw_only=True)
class Fact:
    """Something known, by a label; of several values each is to be set apart, as the forms of a name are."""

    label: str
    values: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Piece:
    """Words of a part. `note` says of what an algorithm wrote which one it was and whether it has been accepted."""

    text: str
    note: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """What stands under a heading, and the signatures of that part alone.

    Only what is `written` is in the language of the report: the lines of the others are put together here, in English.
    """

    title: str
    pieces: tuple[Piece, ...]
    signatures: tuple[str, ...] = ()
    kind: Literal["written", "critical", "recommendation"] = "written"

    @property
    def text(self) -> str:
        """What it says."""
        return "".join(piece.text for piece in self.pieces).strip("\n")


@dataclass(frozen=True, slots=True, kw_only=True)
class Sheet:
    """A report as it is laid out; all text in it can be shown as it is.

    `is_warning` is True where a reader must not take it for the final report. `page` identifies it at the foot of
    each page.
    """

    facility: str
    status: str
    is_warning: bool
    language: str
    facts: tuple[Fact, ...]
    parts: tuple[Part, ...]
    signatures: tuple[str, ...]
    addenda: tuple[Part, ...]
    notes: tuple[str, ...]
    page: str


def lay_out(report: Report) -> Sheet:
    """The sheet of a report; that of one which nobody has signed says so."""
    is_draft = not report.number and report.status != "cancelled"
    status = STATUS["registered" if is_draft else report.status]
    return Sheet(
        facility=shown(report.facility_name or report.facility),
        status=status,
        is_warning=is_draft or report.status not in _USUAL,
        language=report.language,
        facts=tuple(Fact(label=label, values=values) for label, values in _facts(report) if values),
        parts=tuple(_parts(report)),
        signatures=tuple(_signed(one, report.zone) for one in report.signatures),
        addenda=tuple(_addenda(report)),
        notes=tuple(_notes(report)),
        page=_page(report),
    )


def shown(text: str) -> str:
    """A text with line feeds at the ends of its lines, and a replacement for each control character or half of one."""
    return _NO_CHARACTERS.sub("\ufffd", _LINE_ENDS.sub("\n", text))


def one_line(text: str | None) -> str:
    """The same without ends of lines."""
    return " ".join(shown(text or "").split())


def name_forms(name: str | None) -> tuple[str, ...]:
    """A PN as it is read, in each form that it has: alphabetic, ideographic, phonetic (PS3.5 6.2.1).

    Alphabetic names are told family name first, with a comma; the others without, as they are written.
    """
    made = []
    for index, group in enumerate(one_line(name).split("=")[:3]):
        family, given, middle, prefix, suffix = ([part.strip() for part in group.split("^")] + [""] * 5)[:5]
        rest = " ".join(part for part in (prefix, given, middle, suffix) if part)
        if family or rest:
            made.append((" " if index else ", ").join(part for part in (family, rest) if part))
    return tuple(made)


def local_time(moment: datetime, zone: str) -> str:
    """A moment on the clock of a zone, with the zone's abbreviation: ``2026-11-24 13:05 EST``."""
    try:
        return f"{moment.astimezone(ZoneInfo(zone)):%Y-%m-%d %H:%M %Z}"
    except (ZoneInfoNotFoundError, ValueError):
        return f"{moment.astimezone(ZoneInfo('UTC')):%Y-%m-%d %H:%M %Z}"


def _facts(report: Report) -> Iterator[tuple[str, tuple[str, ...]]]:
    yield "Patient", name_forms(report.patient_name)
    yield "Patient ID", _one(report.patient_id)
    yield "Born", _one(_day(report.birth_date))
    yield "Sex", _one(_SEXES.get(report.sex or "", report.sex))
    done = report.procedure or " ".join((*report.modalities, *report.body_parts))
    yield "Examination", _one(done)
    yield "Examined", _one(f"{_day(report.study_date)} {_hour(report.study_time)}")
    yield "Accession number", _one(report.accession_number)
    yield "Reason", _one(report.reason)
    if report.number:
        kind = "" if report.kind == "report" else f" ({report.kind})"
        yield "Version", (f"{report.number}{kind}",)
    yield "Why", _one(report.because)
    if report.discrepancy in ("minor", "major"):
        yield "Differs from the preliminary report", (f"{report.discrepancy} discrepancy",)


def _parts(report: Report) -> Iterator[Part]:
    for section in report.sections:
        yield Part(title=one_line(section.title) or one_line(section.name), pieces=_pieces(section.passages))
    critical = [
        f"Category {one.category} ({_WITHIN[one.category]}): {shown(one.text)}" for one in report.critical_results
    ]
    if critical:
        yield Part(title="Critical results", pieces=(Piece(text="\n".join(critical)),), kind="critical")
    follow_ups = [
        f"By {one_line(one.due_on)}: {shown(one.text)}" + (f" ({one_line(one.procedure)})" if one.procedure else "")
        for one in report.follow_ups
    ]
    if follow_ups:
        yield Part(title="Recommended follow-up", pieces=(Piece(text="\n".join(follow_ups)),), kind="recommendation")


def _addenda(report: Report) -> Iterator[Part]:
    for count, addendum in enumerate(sorted(report.addenda, key=lambda one: one.number), start=1):
        yield Part(
            title=f"Addendum {count}",
            pieces=_pieces(addendum.passages),
            signatures=tuple(_signed(one, report.zone) for one in addendum.signatures),
        )


def _pieces(passages: Sequence[Passage]) -> tuple[Piece, ...]:
    return tuple(Piece(text=shown(one.text), note=_origin(one)) for one in passages)


def _origin(passage: Passage) -> str:
    """What has to be said of words that an algorithm wrote; nothing of any others."""
    if passage.origin not in ("ai", "edited"):
        return ""
    who = one_line(passage.source) or "an algorithm"
    if passage.algorithm is not None:
        algorithm = passage.algorithm
        cleared = f", {algorithm.clearance}" if algorithm.clearance else ", not cleared"
        who = f"{one_line(algorithm.name)} {one_line(algorithm.version)}{one_line(cleared)}"
    if passage.origin == "edited":
        return f"drafted by {who} and edited by the reader"
    return f"drafted by {who} and {'accepted by the reader' if passage.is_accepted else 'NOT YET ACCEPTED'}"


def _notes(report: Report) -> Iterator[str]:
    passages = [one for section in report.sections for one in section.passages]
    passages += [one for addendum in report.addenda for one in addendum.passages]
    for origin, count in Counter(filter(None, map(_origin, passages))).items():
        yield f"{count} {'sentence' if count == 1 else 'sentences'} {origin}."


def _signed(signature: Signature, zone: str) -> str:
    state = f" ({signature.state})" if signature.state else ""
    licence = f" Licence {signature.licence}{state}." if signature.licence else ""
    npi = f" NPI {signature.npi}." if signature.npi else ""
    who = f"{_spoken(signature.name)}, {_ROLES[signature.role]}"
    return one_line(f"Signed by {who}, {local_time(signature.at, zone)}.{licence}{npi}")


def _spoken(name: str) -> str:
    """A name as one says it, where it is a PN, otherwise as it is; in the scripts of East Asia the family is first."""
    family, *others = name.partition("=")[0].split("^")
    given, middle, prefix, suffix = (others + [""] * 4)[:4]
    if family and family[0] >= "\u2e80":
        return " ".join(part for part in (family, given) if part)
    return " ".join(part for part in (prefix, given, middle, family, suffix) if part)


def _page(report: Report) -> str:
    patient = f", patient {one_line(report.patient_id)}" if report.patient_id else ""
    return f"Report {report.id}{patient}, " + (f"version {report.number}" if report.number else "not signed")


def _one(value: str | None) -> tuple[str, ...]:
    told = one_line(value)
    return (told,) if told else ()


def _day(written: str | None) -> str:
    """A DA as ``2026-11-24``; whatever else it is, as it is."""
    told = written or ""
    return f"{told[:4]}-{told[4:6]}-{told[6:]}" if re.fullmatch(r"\d{8}", told) else told


def _hour(written: str | None) -> str:
    """A TM as ``10:32``; whatever else it is, as it is."""
    told = written or ""
    return f"{told[:2]}:{told[2:4]}" if re.fullmatch(r"\d{4}(\d\d(\.\d+)?)?", told) else told
