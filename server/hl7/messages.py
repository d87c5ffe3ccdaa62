"""HL7 version 2 as text: fields and segments that are written with their escapes, and answers that are read.

Segments are read by python-hl7. It escapes each character beyond ASCII, though MSH-18 says which there are, so the
escapes are our own (HL7 v2.5.1 2.7).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime

import hl7

from readingroom.errors import Invalid

CHARACTER_SETS: Mapping[str, str] = {
    "UNICODE UTF-8": "utf-8",
    "8859/1": "iso8859-1",
    "8859/2": "iso8859-2",
    "8859/5": "iso8859-5",
    "8859/7": "iso8859-7",
    "8859/15": "iso8859-15",
    "ASCII": "ascii",
}
"""Those of HL7 table 0211 that messages are written in, with Python's names."""

_ESCAPES = {"|": "\\F\\", "^": "\\S\\", "&": "\\T\\", "~": "\\R\\", "\\": "\\E\\"}
_MEANINGS = {"F": "|", "S": "^", "T": "&", "R": "~", "E": "\\"}
_LINE_ENDS = re.compile(r"\r\n?|\n")
_SEQUENCE = re.compile(r"\\([^\\]*)\\")
_LONGEST_TEXT = 500


def escape(text: str) -> str:
    """A text as a field has it: separators escaped, ends of lines as ``\\.br\\``, control characters in hexadecimal."""
    lines = _LINE_ENDS.split(text)
    return "\\.br\\".join("".join(map(_escaped, line)) for line in lines)


def _escaped(character: str) -> str:
    if character < " " or character == "\x7f":
        return f"\\X{ord(character):02X}\\"
    return _ESCAPES.get(character, character)


def unescape(text: str, encoding: str = "utf-8") -> str:
    """A field as it was meant; a sequence that is not known stays as it is.

    Parameters
    ----------
    encoding
        Of the bytes that ``\\X..\\`` gives.
    """

    def meant(found: re.Match[str]) -> str:
        told = found[1]
        if told in _MEANINGS:
            return _MEANINGS[told]
        if re.fullmatch(r"\.(br|sp)", told):
            return "\n"
        if re.fullmatch(r"X(?:[0-9A-Fa-f]{2})+", told):
            return bytes.fromhex(told[1:]).decode(encoding, "replace")
        if told in ("H", "N"):
            return ""  # highlighting begins and ends
        return found[0]

    return _SEQUENCE.sub(meant, text)


def field(*components: str | None, separator: str = "^") -> str:
    """A field of components, or a component of subcomponents; None and what is empty at the end is left out."""
    return separator.join(escape(one or "") for one in components).rstrip(separator)


def segment(name: str, fields: Mapping[int, str]) -> str:
    """A segment with these fields, by their numbers in the standard; they are escaped already."""
    last = max((number for number, value in fields.items() if value), default=0)
    return "|".join([name, *(fields.get(number, "") for number in range(1, last + 1))])


def header(fields: Mapping[int, str]) -> str:
    """MSH, whose first field is the separator itself."""
    return segment("MSH", {number - 1: value for number, value in fields.items()} | {1: "^~\\&"})


def moment(at: datetime) -> str:
    """A moment of type TS, with its zone: ``20261124061500-0600``."""
    return f"{at:%Y%m%d%H%M%S%z}"


def written(segments: list[str], character_set: str) -> bytes:
    """A message as it is sent.

    Raises
    ------
    Invalid
        The character set lacks a character of it.
    """
    text = "".join(f"{one}\r" for one in segments)
    try:
        return text.encode(CHARACTER_SETS[character_set])
    except UnicodeEncodeError as error:
        points = ", ".join(sorted({f"U+{ord(one):04X}" for one in error.object[error.start : error.end]}))
        raise Invalid(f"The character set {character_set} lacks {points}; UNICODE UTF-8 has every character.") from None


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """An acknowledgement: MSA-1, MSA-2 with the control id that it answers, and what else it says."""

    code: str
    control_id: str
    own_id: str = ""
    text: str = ""


def read_answer(message: bytes) -> Answer:
    """Read an acknowledgement.

    Raises
    ------
    Invalid
        It is none: no MSH, or no MSA.
    """
    lines = [line for line in _LINE_ENDS.split(message.decode("utf-8", "replace")) if line.strip()]
    try:
        read = hl7.parse("".join(f"{line}\r" for line in lines))  # type: ignore[no-untyped-call]
        acknowledged = read.segment("MSA")
        told, separator = read.segment("MSH"), str(read.esc)
    except (hl7.HL7Exception, LookupError, ValueError, TypeError, AssertionError):
        raise Invalid("This is no acknowledgement of HL7 version 2.") from None

    def of(segment: hl7.Segment, number: int) -> str:
        value = str(segment[number]) if number < len(segment) else ""
        return (unescape(value) if separator == "\\" else value).strip()

    return Answer(
        code=of(acknowledged, 1).upper(),
        control_id=of(acknowledged, 2),
        own_id=of(told, 10)[:64],
        text=of(acknowledged, 3)[:_LONGEST_TEXT],
    )
