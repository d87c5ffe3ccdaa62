"""DICOM JSON as elements in Explicit VR Little Endian (PS3.18 F.2, PS3.5 7.1.2); `storage.values` is the other way."""

from __future__ import annotations

import binascii
import struct
from base64 import b64decode
from collections.abc import Callable, Mapping
from typing import Any

from pydicom.valuerep import format_number_as_ds

from readingroom.errors import Invalid
from storage.dicomjson import LONG_HEADER, UNDEFINED, MetadataJson
from storage.values import Codecs

UTF_8: Codecs = ("UTF8",)
UTF_8_TERM = "ISO_IR 192"

TEXTS = frozenset({"LO", "LT", "PN", "SH", "ST", "UC", "UT"})
"""The value representations that Specific Character Set (0008,0005) applies to (PS3.5 6.1.2.2)."""

OPEN_ITEM = struct.pack("<HHI", 0xFFFE, 0xE000, UNDEFINED)
CLOSE_ITEM = struct.pack("<HHI", 0xFFFE, 0xE00D, 0)
CLOSE_SEQUENCE = struct.pack("<HHI", 0xFFFE, 0xE0DD, 0)

_BYTES = frozenset({"OB", "OD", "OF", "OL", "OV", "OW", "UN"})
_PADDED_BY_ZERO = frozenset({"OB", "UI", "UN"})
_NUMBERS = {"FL": "f", "FD": "d", "SL": "i", "SS": "h", "SV": "q", "UL": "I", "US": "H", "UV": "Q"}
_NAME_GROUPS = ("Alphabetic", "Ideographic", "Phonetic")
_DS_LENGTH = 16

_WITHOUT_EXTENSIONS = frozenset(
    {"latin_1", "GB18030", "GBK", *UTF_8}
    | {f"iso8859_{part}" for part in (2, 3, 4)}
    | {f"iso_ir_{number}" for number in (126, 127, 138, 144, 148, 166)}
)
"""Codecs whose output needs no escape sequences, and that have no more characters than DICOM's character set has."""


class NotInCharacterSet(ValueError):
    """The text holds a character that the character set does not have."""


def head(key: str, vr: str, length: int) -> bytes:
    """The header of an element (PS3.5 7.1.2)."""
    group, element = int(key[:4], 16), int(key[4:], 16)
    if vr in LONG_HEADER:
        return struct.pack("<HH2sHI", group, element, vr.encode(), 0, length)
    return struct.pack("<HH2sH", group, element, vr.encode(), length)


def padding(vr: str, length: int) -> bytes:
    """What brings a value field of `length` to an even length (PS3.5 7.1.1)."""
    return (b"\0" if vr in _PADDED_BY_ZERO or vr in _BYTES else b" ") * (length % 2)


def fitting_vr(vr: str, length: int) -> str:
    """The value representation itself, or UN where its header has no room for `length` (PS3.5 6.2.2)."""
    return "UN" if vr not in LONG_HEADER and length > 0xFFFF else vr


def write_element(key: str, element: Mapping[str, Any], codecs: Codecs = UTF_8) -> bytes:
    """One attribute of the DICOM JSON model as an element.

    Parameters
    ----------
    key
        The tag as eight hex digits.
    element
        ``vr`` and ``Value`` or ``InlineBinary``; an element with neither is empty.
    codecs
        The Python codecs of the data set's character set, as `storage.values.character_set` gives them.

    Raises
    ------
    NotInCharacterSet
        A text holds what `codecs` cannot carry.
    Invalid
        A value is not one of its value representation.
    """
    vr = element.get("vr")
    if not isinstance(vr, str) or not (vr == "SQ" or vr in _WRITERS or vr in _BYTES):
        raise Invalid(f"({key[:4]},{key[4:]}) has the value representation {str(vr)[:10]!r}, none of PS3.5 6.2")
    try:
        if vr == "SQ":
            items = b"".join(
                OPEN_ITEM + write_data_set(item or {}, codecs) + CLOSE_ITEM for item in element.get("Value", ())
            )
            return head(key, "SQ", UNDEFINED) + items + CLOSE_SEQUENCE
        value = _value(vr, element, codecs)
    except NotInCharacterSet:
        raise
    except (ValueError, TypeError, AttributeError, OverflowError, struct.error, binascii.Error) as error:
        raise Invalid(f"({key[:4]},{key[4:]}) holds a value that is no {vr}: {type(error).__name__}") from None
    value += padding(vr, len(value))
    return head(key, fitting_vr(vr, len(value)), len(value)) + value


def write_data_set(metadata: MetadataJson, codecs: Codecs = UTF_8) -> bytes:
    """A data set of the DICOM JSON model as elements, sorted by tag; raises as `write_element` does."""
    return b"".join(write_element(key, metadata[key], codecs) for key in sorted(metadata))


def encode_text(text: str, codecs: Codecs) -> bytes:
    """A text in a character set; what is not ASCII only in one that needs no escape sequences (PS3.5 6.1.2.5).

    Raises
    ------
    NotInCharacterSet
        It cannot be written so.
    """
    if text.isascii():
        return text.encode()
    if len(codecs) > 1 or codecs[0] not in _WITHOUT_EXTENSIONS:
        raise NotInCharacterSet
    try:
        return text.encode(codecs[0])
    except UnicodeEncodeError:
        raise NotInCharacterSet from None


def _value(vr: str, element: Mapping[str, Any], codecs: Codecs) -> bytes:
    if "BulkDataURI" in element:
        raise ValueError("bulk data is not at hand")
    if vr in _BYTES:
        return b64decode(element.get("InlineBinary", ""), validate=True)
    return _WRITERS[vr](element.get("Value") or [], codecs)


def _write_codes(values: list[Any], codecs: Codecs) -> bytes:
    return "\\".join(map(_word, values)).encode("latin-1")  # ASCII by PS3.5; what is not was read so, too


def _write_words(values: list[Any], codecs: Codecs) -> bytes:
    return encode_text("\\".join(map(_word, values)), codecs)


def _word(value: Any) -> str:
    """One of several values, which a backslash keeps apart."""
    if value is None:
        return ""
    if not isinstance(value, str) or "\\" in value:
        raise ValueError("no text without a backslash")
    return value


def _write_text(values: list[Any], codecs: Codecs) -> bytes:
    """The one value of LT, ST, UR or UT, in which a backslash is a character."""
    if len(values) > 1 or not isinstance(text := values[0] or "" if values else "", str):
        raise ValueError("not one text")
    return encode_text(text, codecs)


def _write_names(values: list[Any], codecs: Codecs) -> bytes:
    return encode_text("\\".join(map(_name, values)), codecs)


def _name(value: Any) -> str:
    if value is None:
        return ""
    if unknown := value.keys() - set(_NAME_GROUPS):
        raise ValueError(f"{unknown} are no component groups")
    return "=".join(_word(value.get(group)) for group in _NAME_GROUPS).rstrip("=")


def _write_decimals(values: list[Any], codecs: Codecs) -> bytes:
    return "\\".join(map(_decimal, values)).encode("ascii")


def _decimal(value: Any) -> str:
    """A DS of at most 16 characters; a string is kept as it is, it may hold more precision (PS3.18 F.2.3)."""
    if value is None or isinstance(value, str):
        return value or ""
    if isinstance(value, bool):
        raise TypeError
    text = str(int(value)) if float(value).is_integer() and abs(value) < 10**_DS_LENGTH else repr(float(value))
    return text if len(text) <= _DS_LENGTH else format_number_as_ds(float(value))


def _write_integers(values: list[Any], codecs: Codecs) -> bytes:
    return "\\".join(map(_integer, values)).encode("ascii")


def _integer(value: Any) -> str:
    if value is None or isinstance(value, str):
        return value or ""
    if isinstance(value, bool) or int(value) != value:
        raise TypeError
    return str(int(value))


def _write_tags(values: list[Any], codecs: Codecs) -> bytes:
    return b"".join(struct.pack("<HH", int(value[:4], 16), int(value[4:], 16)) for value in values)


def _number_writer(code: str) -> Callable[[list[Any], Codecs], bytes]:
    number: type = float if code in "fd" else int

    def write(values: list[Any], codecs: Codecs) -> bytes:
        return struct.pack(f"<{len(values)}{code}", *map(number, values))

    return write


_WRITERS: dict[str, Callable[[list[Any], Codecs], bytes]] = {
    **dict.fromkeys(("AE", "AS", "CS", "DA", "DT", "TM", "UI"), _write_codes),
    **dict.fromkeys(("LO", "SH", "UC"), _write_words),
    **dict.fromkeys(("LT", "ST", "UR", "UT"), _write_text),
    **{vr: _number_writer(code) for vr, code in _NUMBERS.items()},
    "PN": _write_names,
    "DS": _write_decimals,
    "IS": _write_integers,
    "AT": _write_tags,
}
