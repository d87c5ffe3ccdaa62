"""A report as plain text: for people at a terminal, and line by line for HL7."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from readingroom.model import Report
from server.reports.documents.sheet import TITLE, Part, lay_out


def plain(report: Report) -> str:
    """All that the report says, each line ended by a line feed."""
    return "".join(f"{line}\n" for line in hl7_ft(report))


def hl7_ft(report: Report) -> list[str]:
    """The lines of the same text, for OBX-5 of type FT (HL7 v2.5.1 2.7); whoever writes the message escapes them."""
    return list(_lines(report))


def _lines(report: Report) -> Iterator[str]:
    sheet = lay_out(report)
    yield sheet.facility
    yield TITLE
    yield sheet.status
    yield ""
    for fact in sheet.facts:
        yield f"{fact.label}: {' / '.join(fact.values)}"
    for part in sheet.parts:
        yield from _part(part)
    yield from _group(sheet.signatures)
    for part in sheet.addenda:
        yield from _part(part)
    yield from _group(sheet.notes)
    yield from _group((sheet.page,))


def _part(part: Part) -> Iterator[str]:
    yield ""
    yield part.title.upper()
    yield from part.text.split("\n")
    yield from part.signatures


def _group(lines: Sequence[str]) -> Iterator[str]:
    if lines:
        yield ""
        yield from lines
