"""Structured reports and key object selections as text: HTML for a browser, or plain (PS3.3 C.17.3; PS3.18 8.7.4)."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from html import escape

from server.rendering.item import Item, text_of

MAX_LINES = 50_000

# What a relationship adds to the line, where it is not just that something contains it (PS3.3 C.17.3.2.4).
_RELATIONS = {
    "HAS OBS CONTEXT": "context",
    "HAS ACQ CONTEXT": "acquisition",
    "HAS CONCEPT MOD": "modifier",
    "HAS PROPERTIES": "property",
    "INFERRED FROM": "inferred from",
    "SELECTED FROM": "selected from",
}
_REFERENCES = frozenset({"IMAGE", "COMPOSITE", "WAVEFORM"})
_VALUES = {
    "TEXT": "TextValue",
    "DATETIME": "DateTime",
    "DATE": "Date",
    "TIME": "Time",
    "UIDREF": "UID",
    "PNAME": "PersonName",
}
_STYLE = (
    "body{font:16px/1.5 sans-serif;max-width:50em;margin:2em auto;padding:0 1em;color:#111;background:#fff}"
    "h1{font-size:1.4em}dl{display:grid;grid-template-columns:max-content auto;gap:0 1em}dd{margin:0}"
    "dt,b{color:#444;font-weight:600}ul{padding-left:1.2em}p,li{white-space:pre-wrap;overflow-wrap:anywhere}"
    "small{color:#666}"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """A content item: how deep it lies, what it is about, its value, and an instance that it refers to."""

    depth: int
    name: str
    value: str
    relation: str = ""
    reference: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """A report to be read: its title, what is known of it, and its content in order."""

    title: str
    facts: tuple[tuple[str, str], ...]
    lines: tuple[Line, ...]


def read_report(dataset: Item) -> Report:
    """The report in a data set with the SR Document Content module."""
    lines: list[Line] = []
    for item in dataset.items("ContentSequence"):
        _walk(item, 0, lines)
    verifiers = ", ".join(
        _person(observer.text("VerifyingObserverName")) for observer in dataset.items("VerifyingObserverSequence")
    )
    status = [dataset.text("CompletionFlag"), dataset.text("VerificationFlag"), dataset.text("PreliminaryFlag")]
    facts = [
        ("Patient", _person(dataset.text("PatientName"))),
        ("Patient ID", dataset.text("PatientID")),
        ("Birth date", _date(dataset.text("PatientBirthDate"))),
        ("Sex", dataset.text("PatientSex")),
        ("Study", " ".join(filter(None, (_date(dataset.text("StudyDate")), dataset.text("StudyDescription"))))),
        ("Accession number", dataset.text("AccessionNumber")),
        ("Referring physician", _person(dataset.text("ReferringPhysicianName"))),
        ("Document", " ".join(filter(None, (_date(dataset.text("ContentDate")), _time(dataset.text("ContentTime")))))),
        ("Status", ", ".join(word.lower() for word in status if word)),
        ("Verified by", verifiers),
    ]
    title = _code(dataset.item("ConceptNameCodeSequence")) or dataset.text("SeriesDescription") or "Report"
    return Report(title=title, facts=tuple(fact for fact in facts if fact[1]), lines=tuple(lines))


def _walk(item: Item, depth: int, lines: list[Line]) -> None:
    if len(lines) >= MAX_LINES:
        return
    kind = item.text("ValueType")
    value, reference = _value(item, kind)
    lines.append(
        Line(
            depth=depth,
            name=_code(item.item("ConceptNameCodeSequence")),
            value=value,
            relation=_RELATIONS.get(item.text("RelationshipType"), ""),
            reference=reference,
        )
    )
    for child in item.items("ContentSequence"):
        _walk(child, depth + 1, lines)


def _value(item: Item, kind: str) -> tuple[str, str]:
    """The value of a content item as text, and the UID of the instance that it refers to."""
    if kind == "CODE":
        return _code(item.item("ConceptCodeSequence")), ""
    if kind == "NUM":
        return _measurement(item), ""
    if kind in _REFERENCES:
        reference = item.item("ReferencedSOPSequence")
        if reference is None:
            return kind.lower(), ""
        frames = ", ".join(text_of(number) for number in reference.values("ReferencedFrameNumber")[:20])
        return f"{kind.lower()}{f', frames {frames}' if frames else ''}", reference.text("ReferencedSOPInstanceUID")
    if kind in ("SCOORD", "SCOORD3D"):
        points = len(item.values("GraphicData")) // (3 if kind == "SCOORD3D" else 2)
        return f"{item.text('GraphicType').lower()} of {points} point{'' if points == 1 else 's'}", ""
    if kind == "TCOORD":
        return item.text("TemporalRangeType").lower(), ""
    text = item.text(_VALUES.get(kind, "TextValue"))
    return {"DATE": _date, "TIME": _time, "DATETIME": _date_time, "PNAME": _person}.get(kind, str)(text), ""


def _measurement(item: Item) -> str:
    measured = item.item("MeasuredValueSequence")
    if measured is None:
        return _code(item.item("NumericValueQualifierCodeSequence"))
    unit = measured.item("MeasurementUnitsCodeSequence")
    symbol = unit.text("CodeValue") if unit else ""
    shown = "" if symbol == "1" or symbol.startswith("{") else symbol
    return f"{measured.text('NumericValue')} {shown}".strip()


def _code(item: Item | None) -> str:
    """The meaning of a code, else the code."""
    if item is None:
        return ""
    return item.text("CodeMeaning") or item.text("CodeValue") or item.text("LongCodeValue") or item.text("URNCodeValue")


def _person(name: str) -> str:
    return " ".join(name.replace("^", " ").split())


def _date(text: str) -> str:
    return f"{text[:4]}-{text[4:6]}-{text[6:]}" if len(text) == 8 and text.isdigit() else text


def _time(text: str) -> str:
    return ":".join(filter(None, (text[:2], text[2:4], text[4:6]))) if text[:4].isdigit() else text


def _date_time(text: str) -> str:
    return f"{_date(text[:8])} {_time(text[8:14])}".strip()


def as_plain(report: Report) -> str:
    """The report as plain text, two spaces for a level."""
    width = max((len(name) for name, _ in report.facts), default=0)
    head = [report.title, "=" * len(report.title), *(f"{name + ':':{width + 1}} {text}" for name, text in report.facts)]
    return "\n".join([*head, "", *_plain_lines(report.lines)]) + "\n"


def _plain_lines(lines: tuple[Line, ...]) -> Iterator[str]:
    for line in lines:
        indent = "  " * line.depth
        name = f"({line.relation}) {line.name}" if line.relation else line.name
        value = " ".join(filter(None, (line.value, line.reference)))
        text = f"{name}: {value}" if name and value else name or value
        yield from (f"{indent}{part}" for part in text.splitlines() or [""])


def as_html(report: Report, location_of: Callable[[str], str]) -> str:
    """The report as an HTML document without a script, image or anything else from elsewhere.

    Parameters
    ----------
    location_of
        Gives the URL where an instance is seen, by its UID; empty where it is not known.
    """
    facts = "".join(f"<dt>{escape(name)}</dt><dd>{escape(text)}</dd>" for name, text in report.facts)
    return (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">'
        f"<title>{escape(report.title)}</title><style>{_STYLE}</style></head>\n"
        f"<body><h1>{escape(report.title)}</h1>\n<dl>{facts}</dl>\n{''.join(_nested(report.lines, location_of))}"
        "</body></html>\n"
    )


def _nested(lines: tuple[Line, ...], location_of: Callable[[str], str]) -> Iterator[str]:
    """The lines as lists in lists."""
    depth = -1
    for line in lines:
        if line.depth > depth:
            yield "<ul>" * (line.depth - depth)
        else:
            yield "</li></ul>" * (depth - line.depth) + "</li>\n"
        depth = line.depth
        yield f"<li>{_html_of(line, location_of)}"
    yield "</li></ul>" * (depth + 1) + "\n"


def _html_of(line: Line, location_of: Callable[[str], str]) -> str:
    parts = []
    if line.relation:
        parts.append(f"<small>{escape(line.relation)}</small>")
    if line.name:
        parts.append(f"<b>{escape(line.name)}{':' if line.value or line.reference else ''}</b>")
    value = escape(line.value)
    if line.reference and (url := location_of(line.reference)):
        value = f'<a href="{escape(url)}">{value}</a>'
    elif line.reference:
        value = f"{value} {escape(line.reference)}"
    if value:
        parts.append(value)
    return " ".join(parts)
