"""A Part 10 file made of what came apart: metadata in the DICOM JSON model, and bulk data (PS3.18 10.5, F.2).

The data set is written in Explicit VR Little Endian, or in the transfer syntax that its frames came in. Text keeps the
Specific Character Set that the metadata names; where that cannot hold what the text says, all of it becomes UTF-8.
"""

from __future__ import annotations

import binascii
import re
import struct
from array import array
from base64 import b64decode
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import accumulate
from typing import Any, NoReturn

from pydicom.charset import decode_bytes, encode_string
from pydicom.datadict import dictionary_VR
from pydicom.valuerep import TEXT_VR_DELIMS, format_number_as_ds

from readingroom.errors import NotDicom, TooLarge, UnsupportedMedia
from storage.codestreams import Coding, read_coding
from storage.dicomjson import DEFAULT_LIMITS, LONG_HEADER, PIXEL_ELEMENTS, UNDEFINED, MetadataJson, first_value
from storage.part10 import EXPLICIT_LITTLE, check_uid, element_head, new_file_meta
from storage.values import Codecs, character_set

_PIECE = 1 << 20
_MOST_LOOKED_INTO = 1 << 28  # of a frame that does not say what it is; it is read as a whole
_LONGEST = UNDEFINED - 1  # a length is even, and 0xFFFFFFFF is none (PS3.5 7.1)
_UTF_8 = "ISO_IR 192"
_CHARACTER_SET, _PIXEL_DATA, _FRAME_COUNT = "00080005", "7FE00010", "00280008"
_OFFSETS, _LENGTHS = "7FE00001", "7FE00002"
_TRANSFER_SYNTAX, _AVAILABLE_TRANSFER_SYNTAX = "00020010", "00083002"
_KEY = re.compile(r"[0-9A-F]{8}")
_LINES = re.compile(r"([\r\n\t\f])")

_OPEN_ITEM = struct.pack("<HHI", 0xFFFE, 0xE000, UNDEFINED)
_CLOSE_ITEM = struct.pack("<HHI", 0xFFFE, 0xE00D, 0)
_CLOSE_SEQUENCE = struct.pack("<HHI", 0xFFFE, 0xE0DD, 0)

_NUMBERS = {"FD": "d", "FL": "f", "SL": "i", "SS": "h", "SV": "q", "UL": "I", "US": "H", "UV": "Q"}
_CODES = frozenset({"AE", "AS", "CS", "DA", "DT", "TM", "UI", "UR"})
_SINGLE = frozenset({"LT", "ST", "UR", "UT"})  # a backslash in them separates nothing
_TEXTS = frozenset({"LO", "LT", "PN", "SH", "ST", "UC", "UT"})
_BYTES = frozenset({"OB", "OD", "OF", "OL", "OV", "OW", "UN"})
_VRS = _CODES | _TEXTS | _BYTES | frozenset(_NUMBERS) | {"AT", "DS", "IS", "SQ"}
_PADDED_BY_ZERO = _BYTES | {"UI"}
_GROUPS = ("Alphabetic", "Ideographic", "Phonetic")


@dataclass(frozen=True, slots=True, kw_only=True)
class BulkPart:
    """One value, or one frame of it, as it was sent.

    Attributes
    ----------
    name
        What a message calls it.
    read
        Gives bytes by offset and length.
    transfer_syntaxes
        The compressed ones that its media type stands for, the default first; none where it is uncompressed.
    """

    name: str
    length: int
    read: Callable[[int, int], bytes]
    transfer_syntaxes: tuple[str, ...] = ()
    is_video: bool = False

    def pieces(self) -> Iterator[bytes]:
        """The whole of it, some at a time."""
        for at in range(0, self.length, _PIECE):
            yield self.read(at, min(_PIECE, self.length - at))


FindBulk = Callable[[str, bool], Sequence[BulkPart]]
"""Gives the parts that a ``BulkDataURI`` names, never none; of pixel data (so the flag) also those of its frames."""


@dataclass(frozen=True, slots=True)
class Composed:
    """A Part 10 file: its size, and its bytes as they are asked for."""

    size_bytes: int
    _pieces: Sequence[bytes | BulkPart]

    def pieces(self) -> Iterator[bytes]:
        """The file, a mebibyte at a time where it is long."""
        small: list[bytes] = []
        for piece in self._pieces:
            if isinstance(piece, bytes):
                small.append(piece)
                continue
            yield b"".join(small)
            small = []
            yield from piece.pieces()
        yield b"".join(small)


def compose(metadata: MetadataJson, find_bulk: FindBulk) -> Composed:
    """The file of one instance; all that can be wrong with it is found now.

    Raises
    ------
    NotDicom
        The metadata is not in the DICOM JSON model, or bulk data is missing, named twice or of a wrong length.
    UnsupportedMedia
        Bulk data is of a media type that cannot be what it is named for.
    TooLarge
        Sequences are nested too deeply, or a value is too long for DICOM.
    """
    dataset = {key: metadata[key] for key in sorted(metadata) if not _is_left_out(key)}
    _check_elements(dataset)
    pixels = _find_pixels(dataset, find_bulk, _declared(metadata))
    if pixels.coding is not None and not _is_described(dataset):
        dataset = _with_description(dataset, pixels.frames, pixels.coding)
    file_meta = new_file_meta(
        check_uid("SOP Class UID (0008,0016)", first_value(dataset, "00080016")),
        check_uid("SOP Instance UID (0008,0018)", first_value(dataset, "00080018")),
        pixels.transfer_syntax,
    )
    whole = [file_meta, *_written(dataset, find_bulk, pixels)]
    return Composed(sum(len(piece) if isinstance(piece, bytes) else piece.length for piece in whole), whole)


def encode(dataset: MetadataJson) -> bytes:
    """A data set without bulk data in Explicit VR Little Endian; raises as `compose` does."""
    dataset = {key: dataset[key] for key in sorted(dataset) if not _is_left_out(key)}
    _check_elements(dataset)
    written = _written(dataset, _no_bulk, _Pixels())
    return b"".join(piece for piece in written if isinstance(piece, bytes))


def _no_bulk(uri: str, _is_pixel_data: bool) -> NoReturn:
    _refuse(f"there is no bulk data {uri[:200]!r}")


def _written(dataset: MetadataJson, find_bulk: FindBulk, pixels: _Pixels) -> list[bytes | BulkPart]:
    """The elements, in the character set that the data set names or in UTF-8."""
    try:
        return _Writer(find_bulk, utf_8=False).data_set(dataset, pixels)
    except _NoSuchCharacter:
        dataset = dict(sorted({**dataset, _CHARACTER_SET: {"vr": "CS", "Value": [_UTF_8]}}.items()))
        return _Writer(find_bulk, utf_8=True).data_set(dataset, pixels)


def _is_left_out(key: str) -> bool:
    """What says something of the transport, or is written anew."""
    return key[:4] in ("0000", "0002") or key[4:] == "0000" or key in (_AVAILABLE_TRANSFER_SYNTAX, "FFFCFFFC")


def _declared(metadata: MetadataJson) -> list[str]:
    """The transfer syntaxes that the metadata names, whatever else it says in their place."""
    found = (metadata.get(key) for key in (_TRANSFER_SYNTAX, _AVAILABLE_TRANSFER_SYNTAX))
    values = [element.get("Value") for element in found if isinstance(element, dict)]
    return [uid for some in values if isinstance(some, list) for uid in some if isinstance(uid, str)]


def _check_elements(dataset: MetadataJson) -> None:
    """That each attribute is an object with a VR that there is, and a list of values if any (PS3.18 F.2.2)."""
    for key, element in dataset.items():
        if not _KEY.fullmatch(key) or key[:4] == "FFFE":
            _refuse(f"{key[:20]!r} is no tag of eight upper-case hexadecimal digits")
        if not isinstance(element, dict):
            _refuse(f"{_name(key)} is no object")
        element.setdefault("vr", _dictionary_vr(key))
        if element["vr"] not in _VRS:
            _refuse(f"{_name(key)} has the VR {str(element['vr'])[:20]!r}, which is none")
        held = element.keys() & {"BulkDataURI", "InlineBinary", "Value"}
        if len(held) > 1:
            _refuse(f"{_name(key)} has {' and '.join(sorted(held))}; one of them is right")
        if not isinstance(element.get("Value", []), list):
            _refuse(f"{_name(key)} has a Value that is no list")


def _refuse(what: str) -> NoReturn:
    raise NotDicom(f"The metadata cannot be made an object: {what}.")


def _name(key: str) -> str:
    return f"({key[:4]},{key[4:]})"


@lru_cache(maxsize=4096)
def _dictionary_vr(key: str) -> str:
    try:
        vr = dictionary_VR(int(key, 16))
    except KeyError:
        return "UN"
    return vr if len(vr) == 2 else "OW"


# -- pixel data


@dataclass(frozen=True, slots=True, kw_only=True)
class _Pixels:
    """How the pixel data goes into the file: `frames` are encapsulated where there are any."""

    transfer_syntax: str = EXPLICIT_LITTLE
    frames: Sequence[BulkPart] = ()
    coding: Coding | None = None


def _find_pixels(dataset: MetadataJson, find_bulk: FindBulk, declared: Sequence[str]) -> _Pixels:
    uri = dataset.get(_PIXEL_DATA, {}).get("BulkDataURI")
    if uri is None:
        return _Pixels()
    count = _frame_count(dataset)
    parts = find_bulk(str(uri), True)
    first = parts[0]
    if not first.transfer_syntaxes:
        return _Pixels()
    if any(part.transfer_syntaxes != first.transfer_syntaxes for part in parts):
        raise UnsupportedMedia(f"The frames of {first.name} are not all of one media type and transfer syntax.")
    if first.is_video:
        if len(parts) != 1:
            _refuse(f"{first.name} is a video, which is one part, and came in {len(parts)}")
    elif count not in (0, len(parts)):
        _refuse(f"{first.name} came in {len(parts)} parts; of {count} compressed frames each is one")
    if max(part.length for part in parts) > _LONGEST:
        raise TooLarge(f"A frame of {first.name} is longer than {_LONGEST} bytes.")
    coding = None
    stated = next((uid for uid in declared if uid in first.transfer_syntaxes), "")
    is_told = stated or len(first.transfer_syntaxes) == 1 or first.is_video
    if not first.is_video and not (is_told and _is_described(dataset)):
        if first.length > _MOST_LOOKED_INTO:
            raise TooLarge(
                f"{first.name} is longer than {_MOST_LOOKED_INTO} bytes, too long to be looked into; "
                "name its transfer syntax, and send the Image Pixel Description."
            )
        coding = read_coding(first.read(0, first.length))
        if not is_told and coding.transfer_syntax in first.transfer_syntaxes:
            stated = coding.transfer_syntax
    return _Pixels(transfer_syntax=stated or first.transfer_syntaxes[0], frames=parts, coding=coding)


def _frame_count(dataset: MetadataJson) -> int:
    """Number of Frames; 1 of what has none but describes an image, 0 where nothing is said."""
    value = first_value(dataset, _FRAME_COUNT)
    try:
        return int(value) if value is not None else int(_is_described(dataset))
    except (ValueError, TypeError, OverflowError):
        return 0


def _is_described(dataset: MetadataJson) -> bool:
    return "00280010" in dataset  # Rows: who leaves the Image Pixel Description out leaves out all of it


def _with_description(dataset: MetadataJson, frames: Sequence[BulkPart], coding: Coding) -> MetadataJson:
    """The Image Pixel Description where it was left out, as PS3.18 10.5.1.4 lets a client: from the codestream."""
    header = coding.header
    if header.samples is None or header.precision is None:
        _refuse(f"{frames[0].name} does not tell what the image is like; send the Image Pixel Description with it")
    described: MetadataJson = {
        "00280002": {"vr": "US", "Value": [header.samples]},
        "00280004": {"vr": "CS", "Value": [coding.photometric]},
        "00280010": {"vr": "US", "Value": [header.rows]},
        "00280011": {"vr": "US", "Value": [header.columns]},
        "00280100": {"vr": "US", "Value": [8 if header.precision <= 8 else 16 if header.precision <= 16 else 32]},
        "00280101": {"vr": "US", "Value": [header.precision]},
        "00280102": {"vr": "US", "Value": [header.precision - 1]},
        "00280103": {"vr": "US", "Value": [int(bool(header.signed))]},
    }
    if header.samples > 1:
        described["00280006"] = {"vr": "US", "Value": [0]}
    if len(frames) > 1:
        described[_FRAME_COUNT] = {"vr": "IS", "Value": [len(frames)]}
    return dict(sorted((described | dataset).items()))


def _encapsulated(pixels: _Pixels, *, has_table: bool) -> list[bytes | BulkPart]:
    """Frames as fragments, one each, behind a Basic Offset Table unless there is an extended one (PS3.5 A.4)."""
    lengths = [frame.length + frame.length % 2 for frame in pixels.frames]
    offsets = [0, *accumulate(length + 8 for length in lengths)][:-1]
    table = b""
    if len(lengths) > 1 and has_table and offsets[-1] < UNDEFINED:
        table = struct.pack(f"<{len(offsets)}I", *offsets)
    written: list[bytes | BulkPart] = [
        element_head(_PIXEL_DATA, "OB", UNDEFINED),
        struct.pack("<HHI", 0xFFFE, 0xE000, len(table)) + table,
    ]
    for frame, length in zip(pixels.frames, lengths, strict=True):
        written += [struct.pack("<HHI", 0xFFFE, 0xE000, length), frame, b"\0" * (length - frame.length)]
    return [*written, _CLOSE_SEQUENCE]


def _extended_table(key: str, pixels: _Pixels) -> bytes:
    """Extended Offset Table or its Lengths for these frames (PS3.3 C.7.6.3.1.8)."""
    lengths = [frame.length for frame in pixels.frames]
    offsets = [0, *accumulate(length + length % 2 + 8 for length in lengths)][:-1]
    return array("Q", offsets if key == _OFFSETS else lengths).tobytes()


def _check_native_length(dataset: MetadataJson, length: int) -> None:
    """That uncompressed pixel data is as long as the image that the data set describes (PS3.5 8.1.1)."""
    try:
        rows, columns, bits = (int(first_value(dataset, key)) for key in ("00280010", "00280011", "00280100"))
        samples = int(first_value(dataset, "00280002") or 1)
        frames = int(first_value(dataset, _FRAME_COUNT) or 1)
    except (ValueError, TypeError, OverflowError):
        return  # no image is described; what is missing is for who reads it to miss
    needed = (rows * columns * samples * bits * frames + 7) // 8
    fitting = [needed]
    if first_value(dataset, "00280004") == "YBR_FULL_422":
        fitting.append((rows * columns * 2 * bits * frames + 7) // 8)
    if length not in [size + pad for size in fitting for pad in (0, size % 2)]:
        _refuse(f"the pixel data has {length} bytes, and the image that is described {needed}")


# -- the data set


class _NoSuchCharacter(Exception):
    """The character set of the data set does not have what a text says."""


class _Writer:
    """Writes elements in Explicit VR Little Endian; bulk data stays where it is until it is read."""

    def __init__(self, find_bulk: FindBulk, *, utf_8: bool) -> None:
        self._find_bulk = find_bulk
        self._utf_8 = utf_8
        self._frame_count = 1

    def data_set(self, dataset: MetadataJson, pixels: _Pixels) -> list[bytes | BulkPart]:
        """The main data set."""
        written: list[bytes | BulkPart] = []
        codecs = self._codecs(dataset, ())
        self._frame_count = _frame_count(dataset)
        for key, element in dataset.items():
            if key == _PIXEL_DATA and pixels.frames:
                written += _encapsulated(pixels, has_table=_OFFSETS not in dataset)
            elif key in (_OFFSETS, _LENGTHS) and pixels.frames:
                table = _extended_table(key, pixels)
                written += [element_head(key, "OV", len(table)), table]
            else:
                pieces = self._element(key, element, codecs, 0)
                if key in PIXEL_ELEMENTS and len(element) > 1:
                    _check_native_length(dataset, _length(pieces[1:]))
                written += pieces
        return written

    def _codecs(self, dataset: MetadataJson, of_parent: Codecs) -> Codecs:
        """How text is encoded; none for ASCII alone, which is the default (PS3.3 C.12.1.1.2)."""
        if self._utf_8:
            return ("utf8",)
        if _CHARACTER_SET not in dataset:
            return of_parent
        terms = dataset[_CHARACTER_SET].get("Value") or []
        return () if not any(terms) or terms == ["ISO_IR 6"] else character_set(terms)

    def _element(self, key: str, element: dict[str, Any], codecs: Codecs, depth: int) -> list[bytes | BulkPart]:
        vr: str = element["vr"]
        if "BulkDataURI" in element:
            return self._bulk(key, vr, str(element["BulkDataURI"]))
        if vr == "SQ":
            return self._sequence(key, element.get("Value") or [], codecs, depth)
        if self._utf_8 and key == _CHARACTER_SET:
            element = {"vr": "CS", "Value": [_UTF_8]}
        try:
            raw = _value(vr, element, codecs)
        except (ValueError, TypeError, AttributeError, struct.error, binascii.Error, OverflowError):
            _refuse(f"{_name(key)} has a value that is none of {vr}")
        if len(raw) % 2:
            raw += b"\0" if vr in _PADDED_BY_ZERO else b" "
        return [_head(key, vr, len(raw)), raw]

    def _bulk(self, key: str, vr: str, uri: str) -> list[bytes | BulkPart]:
        parts = self._find_bulk(uri, key == _PIXEL_DATA)
        if len(parts) != 1 and (key != _PIXEL_DATA or len(parts) != self._frame_count):
            _refuse(f"{_name(key)} names bulk data that came in {len(parts)} parts")
        if any(part.transfer_syntaxes for part in parts):
            raise UnsupportedMedia(
                f"{parts[0].name} is compressed, and {_name(key)} is no pixel data of the image; "
                "send it as application/octet-stream."
            )
        if vr == "SQ":
            _refuse(f"{_name(key)} is a sequence; only values can be bulk data")
        if self._utf_8 and vr in _TEXTS:
            _refuse(f"{_name(key)} is bulk data in a character set that does not hold the other texts")
        length = sum(part.length for part in parts)
        if length > _LONGEST:
            raise TooLarge(f"{parts[0].name} is longer than {_LONGEST} bytes, and no value can be.")
        pad = b"" if length % 2 == 0 else b"\0" if vr in _PADDED_BY_ZERO else b" "
        return [_head(key, vr, length + length % 2), *parts, pad]

    def _sequence(self, key: str, items: list[Any], codecs: Codecs, depth: int) -> list[bytes | BulkPart]:
        if depth >= DEFAULT_LIMITS.max_depth:
            raise TooLarge(f"Sequences are nested deeper than {DEFAULT_LIMITS.max_depth} levels.")
        if not items:
            return [element_head(key, "SQ", 0)]
        written: list[bytes | BulkPart] = [element_head(key, "SQ", UNDEFINED)]
        for item in items:
            if not isinstance(item, dict | None):
                _refuse(f"{_name(key)} has an item that is no object")
            dataset = {tag: item[tag] for tag in sorted(item) if not _is_left_out(tag)} if item else {}
            _check_elements(dataset)
            of_item = self._codecs(dataset, codecs)
            written.append(_OPEN_ITEM)
            for tag, element in dataset.items():
                written += self._element(tag, element, of_item, depth + 1)
            written.append(_CLOSE_ITEM)
        return [*written, _CLOSE_SEQUENCE]


def _head(key: str, vr: str, length: int) -> bytes:
    if vr not in LONG_HEADER and length > 0xFFFF:
        vr = "UN"  # PS3.5 6.2.2: too long for a 16-bit length
    return element_head(key, vr, length)


def _length(pieces: Sequence[bytes | BulkPart]) -> int:
    return sum(len(piece) if isinstance(piece, bytes) else piece.length for piece in pieces)


def _value(vr: str, element: dict[str, Any], codecs: Codecs) -> bytes:
    """A value field (PS3.5 6.2)."""
    if "InlineBinary" in element:
        return b64decode(element["InlineBinary"], validate=True)
    values: list[Any] = element.get("Value") or []
    if not values:
        return b""
    if vr in _NUMBERS:
        return struct.pack(f"<{len(values)}{_NUMBERS[vr]}", *[_number(vr, value) for value in values])
    if vr == "AT":
        return b"".join(_tag(value) for value in values)
    if vr in _BYTES or (vr in _SINGLE and len(values) > 1):
        raise ValueError
    separator = b"" if vr in _SINGLE else b"\\"
    return separator.join(b"" if value is None else _text(vr, value, codecs) for value in values)


def _number(vr: str, value: Any) -> int | float:
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        raise TypeError
    if vr in ("FD", "FL"):
        return float(value)
    if isinstance(value, float) and not value.is_integer():
        raise ValueError
    return int(value)


def _tag(value: str) -> bytes:
    if not _KEY.fullmatch(value.upper()):
        raise ValueError
    return struct.pack("<HH", int(value[:4], 16), int(value[4:], 16))


def _text(vr: str, value: Any, codecs: Codecs) -> bytes:
    if isinstance(value, bool):
        raise TypeError
    if vr == "PN":
        return _person_name(value, codecs)
    if vr in ("DS", "IS") and isinstance(value, int | float):
        number = str(value) if isinstance(value, int) else format_number_as_ds(value).removesuffix(".0")
        if vr == "IS" and not number.lstrip("-").isdigit():
            raise ValueError
        return number.encode("ascii")
    if not isinstance(value, str) or (vr not in _SINGLE and "\\" in value):
        raise TypeError
    if vr in _TEXTS:
        return b"".join(_encoded(part, codecs) for part in _LINES.split(value))
    return value.encode("latin-1")


def _person_name(value: Any, codecs: Codecs) -> bytes:
    """Component groups, each component encoded on its own: a delimiter ends a code extension (PS3.5 6.1.2.5.3)."""
    if isinstance(value, str):
        value = {"Alphabetic": value}
    if not isinstance(value, dict) or any(not isinstance(value.get(group) or "", str) for group in _GROUPS):
        raise TypeError
    groups = [value.get(group) or "" for group in _GROUPS]
    if any(set(group) & set("=\\") for group in groups):
        raise ValueError
    encoded = [b"^".join(_encoded(part, codecs) for part in group.split("^")) for group in groups]
    return b"=".join(encoded).rstrip(b"=")


def _encoded(text: str, codecs: Codecs) -> bytes:
    if text.isascii():
        return text.encode()
    if not codecs:
        raise _NoSuchCharacter
    try:
        raw = text.encode(codecs[0]) if len(codecs) == 1 else encode_string(text, codecs)
    except (UnicodeError, LookupError):
        raise _NoSuchCharacter from None
    if decode_bytes(raw, list(codecs), TEXT_VR_DELIMS) != text:
        raise _NoSuchCharacter
    return raw
