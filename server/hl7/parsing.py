"""Messages as they are read: segments, fields, and the paths by which a profile names them.

python-hl7 tells segments and fields apart, by the separators that the message names. Within a field the escapes are our
own, as in `server.hl7.messages`. What is no segment is passed over.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache

import hl7

from readingroom.errors import Invalid
from server.hl7.header import CODECS, Header, decode, read_header
from server.hl7.messages import unescape

NULL = '""'
"""What a field says whose value is to be taken away (HL7 v2.5.1 2.5.3)."""

_LINE_END = re.compile(r"\r\n?|\n")
_SEGMENT = re.compile(r"[A-Z][A-Z0-9]{2}")
_PATH = re.compile(
    r"([A-Z][A-Z0-9]{2})(?:\[(\d{1,3})(?:\.(\d{1,3}))?=([^\]]*)\])?-(\d{1,3})(?:\.(\d{1,3}))?(?:\.(\d{1,3}))?"
)
_MOST_SEGMENTS = 10_000


@dataclass(frozen=True, slots=True)
class Path:
    """Where in a message something stands: ``PID-3.4.2``, or ``OBX[3.1=MODALITY]-5.1`` of the segment that says so."""

    segment: str
    field: int
    component: int | None = None
    subcomponent: int | None = None
    where: tuple[int, int, str] | None = None


@lru_cache(maxsize=1000)
def read_path(text: str) -> Path:
    """A path as it is written; raises `Invalid`."""
    found = _PATH.fullmatch(text)
    if found is None:
        raise Invalid(f"{text[:60]!r} names no field; write PID-3, PID-3.4, PID-3.4.2 or OBX[3.1=MODALITY]-5.1.")
    segment, at, part, value, field, component, subcomponent = found.groups()
    return Path(
        segment=segment,
        field=int(field),
        component=int(component) if component else None,
        subcomponent=int(subcomponent) if subcomponent else None,
        where=(int(at), int(part or 1), value) if at else None,
    )


@dataclass(frozen=True, slots=True)
class Segment:
    """One segment; its fields are as they stand there, escapes and all."""

    name: str
    fields: tuple[str, ...]
    header: Header

    def repetitions(self, field: int) -> list[str]:
        """The repetitions of a field that say something; fields are numbered as in the standard."""
        raw = self.fields[field] if 0 < field < len(self.fields) else ""
        return [one for one in raw.split(self.header.encoding[1]) if one.strip()]

    def part(self, repetition: str, component: int | None = None, subcomponent: int | None = None) -> str:
        """A component of a repetition, as it was meant; of its subcomponents the first, where none is named."""
        encoding = self.header.encoding
        if component is not None:
            parts = repetition.split(encoding[0])
            found = parts[component - 1] if component <= len(parts) else ""
            within = found.split(encoding[3])
            repetition = within[(subcomponent or 1) - 1] if (subcomponent or 1) <= len(within) else ""
        return _meant(repetition, self.header).strip()

    def first(self, field: int, component: int | None = 1, subcomponent: int | None = None) -> str:
        """A component of the first repetition of a field; empty where there is none."""
        found = self.repetitions(field)
        return self.part(found[0], component, subcomponent) if found else ""


@dataclass(frozen=True, slots=True)
class Message:
    """A message that was read."""

    header: Header
    segments: tuple[Segment, ...]

    def all(self, name: str) -> Iterator[Segment]:
        """The segments of that name."""
        return (one for one in self.segments if one.name == name)

    def find(self, name: str) -> Segment | None:
        """The first segment of that name."""
        return next(self.all(name), None)


def read_message(message: bytes) -> Message:
    """A message as it came.

    Raises
    ------
    Invalid
        It cannot be read.
    """
    header = read_header(message)
    lines = [one.strip() for one in _LINE_END.split(decode(message, header))]
    told = [line for line in lines if _SEGMENT.fullmatch(line[:3]) and line[3:4] in ("", header.separator)]
    if len(told) > _MOST_SEGMENTS:
        raise Invalid(f"A message has at most {_MOST_SEGMENTS} segments.")
    # Some write the escape character of MSH-2 escaped; what the header was read by is what python-hl7 is given.
    first = header.separator.join(["MSH", header.encoding, *told[0].split(header.separator)[2:]])
    try:
        read = hl7.parse("".join(f"{line}\r" for line in (first, *told[1:])))  # type: ignore[no-untyped-call]
        segments = tuple(
            Segment(str(one[0]), tuple(str(one[number]) for number in range(len(one))), header) for one in read
        )
    except (hl7.HL7Exception, LookupError, ValueError, TypeError, AssertionError):
        raise Invalid("The segments of this message cannot be told apart.") from None
    return Message(header, segments)


def value_at(segments: Sequence[Segment], path: Path) -> str:
    """What stands at a path, in the first of these segments that says something there; empty where none does."""
    for one in segments:
        if one.name != path.segment:
            continue
        if path.where is not None and one.first(path.where[0], path.where[1]) != path.where[2]:
            continue
        found = one.first(path.field, path.component, path.subcomponent)
        if found and found != NULL:
            return found
    return ""


def _meant(text: str, header: Header) -> str:
    """A field without its escapes (HL7 v2.5.1 2.7), by the separators that the message names."""
    component, repetition, escape, subcomponent = tuple(header.encoding)[:4]
    if escape not in text:
        return text
    signs = {"F": header.separator, "S": component, "R": repetition, "E": escape, "T": subcomponent}
    encoding = CODECS.get(header.character_set, "utf-8")

    def meant(found: re.Match[str]) -> str:
        return signs.get(found[1]) or unescape(f"\\{found[1]}\\", encoding)

    sign = re.escape(escape)
    return re.sub(f"{sign}([^{sign}]*){sign}", meant, text)
