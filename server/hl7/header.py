"""What has to be known of a message before it is kept: its header, and the characters that it is written in.

Nothing else is parsed while a sender waits. The header is read as single bytes, so that an acknowledgement echoes what
stands there byte for byte, whatever the character set.
"""

from __future__ import annotations

import codecs
import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass

from readingroom.errors import Invalid, TooLarge, UnsupportedMedia

USUAL_ENCODING = "^~\\&"

CODECS: Mapping[str, str] = {
    "UNICODE UTF-8": "utf-8",
    **{f"8859/{part}": f"iso8859-{part}" for part in (1, 2, 3, 4, 5, 6, 7, 8, 9, 15)},
    "ISO IR87": "iso2022_jp",
    "ISO IR159": "iso2022_jp_1",
    "GB 18030-2000": "gb18030",
    "KS X 1001": "euc_kr",
    "BIG-5": "big5",
}
"""Character sets of HL7 table 0211, with Python's names; of the others, none leaves the separators what they are."""

_UNDECLARED = frozenset(("", "ASCII", "ISO IR6"))
"""What senders say who never thought of it: their messages hold UTF-8 or Latin-1 all the same."""

_BEFORE = b" \t\r\n\x00"
_MOST_HEADER = 8 << 10
_LONGEST_ID = 199
_LINE_END = re.compile(rb"[\r\n]")


@dataclass(frozen=True, slots=True, kw_only=True)
class Header:
    """MSH, by the names of its fields (HL7 v2.5.1 2.15.9); each text is as it stands there, one character a byte.

    Attributes
    ----------
    encoding
        MSH-2: separators of components and repetitions, the escape character, the separator of subcomponents.
    accept, apply
        MSH-15 and MSH-16: which acknowledgements are wanted.
    """

    separator: str
    encoding: str
    application: str
    facility: str
    receiving_application: str
    receiving_facility: str
    type: str
    event: str
    control_id: str
    processing: str
    version: str
    accept: str
    apply: str
    character_set: str

    @property
    def kind(self) -> str:
        """Such as ``ADT^A08``."""
        return f"{self.type}^{self.event}" if self.event else self.type

    @property
    def is_enhanced(self) -> bool:
        """Whether it says which acknowledgements are wanted (HL7 v2.5.1 2.9.3)."""
        return bool(self.accept or self.apply)

    def first(self, field: str) -> str:
        """The first component of a field."""
        return field.partition(self.encoding[0])[0].strip()


def begin(message: bytes) -> bytes:
    """A message without a byte order mark and blanks before its first segment."""
    return message.removeprefix(codecs.BOM_UTF8).lstrip(_BEFORE)


def read_header(message: bytes) -> Header:
    """The header of a message.

    Raises
    ------
    Invalid
        It does not begin with a segment MSH, or that says nothing that can be.
    TooLarge
        The segment is longer than any.
    """
    message = begin(message)
    if not message.startswith(b"MSH") or len(message) < 8:
        told = (
            "a batch, which is not taken: send its messages one by one" if message[:3] in (b"FHS", b"BHS") else "none"
        )
        raise Invalid(f"A message begins with a segment MSH; this is {told}.")
    end = _LINE_END.search(message, 0, _MOST_HEADER)
    line = message[: end.start() if end else None]
    if len(line) >= _MOST_HEADER:
        raise TooLarge(f"A segment MSH has less than {_MOST_HEADER} bytes.")
    text = line.decode("latin-1")
    separator = text[3]
    fields = text.split(separator)
    encoding = USUAL_ENCODING if fields[1] == "^~\\\\&" else fields[1]  # some write the escape character escaped
    if not _are_separators(separator + encoding):
        raise Invalid("MSH-1 and MSH-2 name no separators: those are five different signs, usually |^~\\&.")

    def of(number: int) -> str:
        return fields[number - 1].strip() if number <= len(fields) else ""

    kind = of(9).split(encoding[0])
    made = Header(
        separator=separator,
        encoding=encoding,
        application=of(3),
        facility=of(4),
        receiving_application=of(5),
        receiving_facility=of(6),
        type=kind[0].strip().upper()[:20],
        event=kind[1].strip().upper()[:20] if len(kind) > 1 else "",
        control_id=of(10),
        processing=of(11).partition(encoding[0])[0].upper(),
        version=of(12).partition(encoding[0])[0],
        accept=of(15).upper(),
        apply=of(16).upper(),
        character_set=of(18).split(encoding[1])[0].strip().upper(),
    )
    if len(made.control_id) > _LONGEST_ID:
        raise TooLarge(f"A control id (MSH-10) has at most {_LONGEST_ID} characters.")
    return made


def _are_separators(signs: str) -> bool:
    """Whether those are separators; a sixth one is that for what was truncated (HL7 v2.7 2.5.5.2)."""
    are_signs = all("!" <= one <= "~" and not one.isalnum() for one in signs)
    return are_signs and 5 <= len(signs) <= 6 and len(set(signs)) == len(signs)


def decode(message: bytes, header: Header) -> str:
    """A message as text, in the character set that MSH-18 says first; where it says none, UTF-8 or else Latin-1.

    Raises
    ------
    UnsupportedMedia
        No such character set is read here.
    Invalid
        The message is not written in it.
    """
    message = begin(message)
    declared = header.character_set
    if declared in _UNDECLARED:
        try:
            return message.decode("utf-8")
        except UnicodeDecodeError:
            return message.decode("latin-1")
    codec = CODECS.get(declared)
    if codec is None:
        known = ", ".join(("ASCII", *CODECS))
        raise UnsupportedMedia(f"MSH-18 says {declared[:40]!r}; the character sets that are read here are {known}.")
    try:
        return message.decode(codec)
    except UnicodeDecodeError:
        raise Invalid(f"MSH-18 says {declared}, and the message is not written in that.") from None


def digest_of(message: bytes) -> str:
    """A digest of what a message says: without MSH-7, for some senders write the time anew when they send it again."""
    message = begin(message).rstrip()
    parts = message.split(message[3:4], 7)
    if len(parts) == 8:
        parts[6] = b""
    return hashlib.sha256(message[3:4].join(parts)).hexdigest()
