"""Value fields as DICOM JSON values, one reader a value representation (PS3.5 6.2 in, PS3.18 F.2.3 out).

Every reader takes the bytes of a value field that is not empty and the Python codecs of its character set, and
returns the ``Value`` array, or None where nothing is left once the padding is gone. They give what pydicom gives,
and a string in place of a number that is none: bad values never break a response.
"""

from __future__ import annotations

import codecs
import struct
from collections.abc import Callable
from functools import lru_cache
from math import isfinite
from typing import Any

from pydicom.charset import convert_encodings, decode_bytes, python_encoding
from pydicom.valuerep import TEXT_VR_DELIMS

Bytes = bytes | bytearray | memoryview
Values = list[Any] | None
Codecs = tuple[str, ...]
Reader = Callable[[Bytes, Codecs], Values]

DEFAULT_CHARACTER_SET = ("iso8859",)

_DICOM_CODECS = frozenset(codecs.lookup(codec).name for codec in python_encoding.values())
_SAFE_INTEGER = 1 << 53  # what a JSON reader keeps exactly


class WrongLength(ValueError):
    """A value field's length is no multiple of its value representation's."""


def character_set(terms: Values) -> Codecs:
    """Python codecs for a Specific Character Set (0008,0005); what is unknown reads as the default repertoire.

    pydicom would take any name of a codec that Python has (``utf_16``, ``unicode_escape``); here it must be one of
    DICOM's, which all keep ASCII, so that a value of ASCII bytes need never be decoded with them.
    """
    return _character_set(tuple(term if isinstance(term, str) else "" for term in terms or ("",)))


@lru_cache(maxsize=256)
def _character_set(terms: tuple[str, ...]) -> Codecs:
    try:
        return tuple(
            codec if codecs.lookup(codec).name in _DICOM_CODECS else DEFAULT_CHARACTER_SET[0]
            for codec in convert_encodings(list(terms))
        )
    except ValueError:  # no codec has a NUL in its name
        return DEFAULT_CHARACTER_SET


def decode_text(raw: Bytes, charset: Codecs) -> str:
    """A text in a character set, its padding and delimiters as they are."""
    text = str(raw, "latin-1")
    if text.isascii() and "\x1b" not in text:
        return text
    return decode_bytes(bytes(raw), list(charset), TEXT_VR_DELIMS)


def _read_codes(raw: Bytes, charset: Codecs) -> Values:
    """AS CS DA DT TM: the default repertoire, padding at the end of the field only."""
    text = str(raw, "latin-1").rstrip(" \0")
    if "\\" in text:
        return [value or None for value in text.split("\\")]
    return [text] if text else None


def _read_titles(raw: Bytes, charset: Codecs) -> Values:
    """AE: spaces on both sides of each value mean nothing."""
    text = str(raw, "latin-1")
    if "\\" in text:
        return [value.strip() or None for value in text.split("\\")]
    text = text.strip()
    return [text] if text else None


def _read_uids(raw: Bytes, charset: Codecs) -> Values:
    text = str(raw, "latin-1").rstrip("\0 ")
    if "\\" in text:
        return [value.strip() or None for value in text.split("\\")]
    text = text.strip()
    return [text] if text else None


def _read_address(raw: Bytes, charset: Codecs) -> Values:
    """UR: one value, whatever backslashes it holds."""
    text = str(raw, "latin-1").rstrip()
    return [text] if text else None


def _read_words(raw: Bytes, charset: Codecs) -> Values:
    """LO SH UC."""
    text = decode_text(raw, charset)
    if "\\" in text:
        return [value.rstrip("\0 ") or None for value in text.split("\\")]
    text = text.rstrip("\0 ")
    return [text] if text else None


def _read_text(raw: Bytes, charset: Codecs) -> Values:
    """LT ST UT: one value, in which a backslash is a character."""
    text = decode_text(raw, charset).rstrip("\0 ")
    return [text] if text else None


_NAME_GROUPS = ("Alphabetic", "Ideographic", "Phonetic")


def _read_names(raw: Bytes, charset: Codecs) -> Values:
    """PN: an object of the component groups that are not empty (PS3.18 F.2.2)."""
    text = decode_text(bytes(raw).rstrip(b"\0 "), charset)
    if not text:
        return None
    names = [
        {group: part for group, part in zip(_NAME_GROUPS, name.split("="), strict=False) if part} or None
        for name in text.split("\\")
    ]
    return names if len(names) > 1 or names[0] else None


def _read_decimals(raw: Bytes, charset: Codecs) -> Values:
    """DS: numbers; what is none (``abc``, ``1e999``, ``nan``) stays the string it was."""
    text = str(raw, "latin-1").strip(" \0")
    if not text:
        return None
    values = text.split("\\")
    try:
        numbers = [float(value) for value in values]
        if all(map(isfinite, numbers)):
            return numbers
    except ValueError:
        pass
    return [_decimal(value.strip(" \0\t\r\n")) for value in values]


def _decimal(text: str) -> float | str | None:
    try:
        number = float(text)
    except ValueError:
        return text or None
    return number if isfinite(number) else text


def _read_integers(raw: Bytes, charset: Codecs) -> Values:
    """IS: integers, also when written ``1.0``; what is none stays the string it was."""
    text = str(raw, "latin-1").strip(" \0")
    if not text:
        return None
    values = text.split("\\")
    if len(text) <= 11:  # as long as a 32-bit integer can be
        try:
            return [int(value) for value in values]
        except ValueError:
            pass
    return [_integer(value.strip(" \0\t\r\n")) for value in values]


def _integer(text: str) -> int | str | None:
    try:
        number = float(text)
    except ValueError:
        return text or None
    return int(number) if number.is_integer() and abs(number) <= _SAFE_INTEGER else text


def _number_reader(code: str, order: str) -> Reader:
    one = struct.Struct(order + code)
    size, unpack_one = one.size, one.unpack

    def read(raw: Bytes, charset: Codecs) -> Values:
        length = len(raw)
        if length == size:
            return list(unpack_one(raw))
        if length % size:
            raise WrongLength
        return list(struct.unpack(f"{order}{length // size}{code}", raw))

    if code not in "fd":
        return read

    def read_finite(raw: Bytes, charset: Codecs) -> Values:
        values = read(raw, charset)
        assert values is not None
        return values if all(map(isfinite, values)) else [_finite(value) for value in values]

    return read_finite


def _finite(value: float) -> float | str:
    """JSON has no number for these; the strings are the ones that other servers send and read."""
    if isfinite(value):
        return value
    return "NaN" if value != value else "Infinity" if value > 0 else "-Infinity"


def _tag_reader(order: str) -> Reader:
    pairs = struct.Struct(f"{order}HH")

    def read(raw: Bytes, charset: Codecs) -> Values:
        whole = raw[: len(raw) - len(raw) % 4]
        return [f"{group:04X}{element:04X}" for group, element in pairs.iter_unpack(whole)] or None

    return read


def readers(order: str) -> dict[str, Reader]:
    """The readers by value representation, for ``<`` or ``>`` byte order; those not named here are bytes or items."""
    return {
        **dict.fromkeys(("AS", "CS", "DA", "DT", "TM"), _read_codes),
        **dict.fromkeys(("LO", "SH", "UC"), _read_words),
        **dict.fromkeys(("LT", "ST", "UT"), _read_text),
        "AE": _read_titles,
        "AT": _tag_reader(order),
        "DS": _read_decimals,
        "IS": _read_integers,
        "PN": _read_names,
        "UI": _read_uids,
        "UR": _read_address,
        **{
            vr: _number_reader(code, order)
            for vr, code in {
                "FL": "f", "FD": "d", "SS": "h", "US": "H", "SL": "i", "UL": "I", "SV": "q", "UV": "Q",
            }.items()
        },
    }  # fmt: skip


_WORD_BYTES = {"OW": 2, "OF": 4, "OL": 4, "OD": 8, "OV": 8}


def little_endian(raw: bytes, vr: str) -> bytes:
    """A big-endian value field of a byte VR in little-endian order, as everything that goes over the web is."""
    size = _WORD_BYTES.get(vr, 1)
    if size == 1 or len(raw) % size:
        return raw
    swapped = bytearray(len(raw))
    for byte in range(size):
        swapped[byte::size] = raw[size - 1 - byte :: size]
    return bytes(swapped)
