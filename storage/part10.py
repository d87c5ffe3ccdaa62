"""The front of a DICOM file: preamble, file meta information, and how the data set after them is encoded (PS3.10 7)."""

from __future__ import annotations

import re
import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

from readingroom.errors import NotDicom, TooLarge
from storage.dicomjson import (
    BIG,
    DEFAULT_LIMITS,
    FILE_META,
    LITTLE,
    LONG_HEADER,
    Buffer,
    ByteOrder,
    Limits,
    MetadataJson,
    Walk,
    has_vr,
)
from storage.values import DEFAULT_CHARACTER_SET

IMPLICIT_LITTLE, EXPLICIT_LITTLE, EXPLICIT_BIG = "1.2.840.10008.1.2", "1.2.840.10008.1.2.1", "1.2.840.10008.1.2.2"
DEFLATED = "1.2.840.10008.1.2.1.99"
IMPLEMENTATION_CLASS_UID = "2.25.180047883888995079000731985831798735358"
IMPLEMENTATION_VERSION_NAME = "READINGROOM"

INFLATED = {
    DEFLATED: EXPLICIT_LITTLE,
    "1.2.840.10008.1.2.4.95": "1.2.840.10008.1.2.4.94",  # JPIP Referenced
    "1.2.840.10008.1.2.4.205": "1.2.840.10008.1.2.4.204",  # JPIP HTJ2K Referenced
}
"""What a deflated data set is once inflated, by transfer syntax."""
_PIECE = 1 << 20
_DATA_SET_AT = 132
_UID = re.compile(r"[0-9A-Za-z][0-9A-Za-z._-]{0,63}")


@dataclass(frozen=True, slots=True)
class Front:
    """What stands before the data set, and how to read that."""

    file_meta: MetadataJson
    transfer_syntax: str
    syntax_span: tuple[int, int]
    data_set_at: int
    implicit: bool
    order: ByteOrder

    @property
    def is_deflated(self) -> bool:
        return self.transfer_syntax in INFLATED


def read_front(data: Buffer, limits: Limits) -> Front:
    """Check the preamble, read the file meta information and find out the encoding.

    The encoding is the one the bytes have, also where the Transfer Syntax UID says another (PS3.5 Annex A).

    Raises
    ------
    NotDicom
        There is no preamble, or the file meta information is broken.
    """
    if len(data) < _DATA_SET_AT or data[128:132] != b"DICM":
        raise NotDicom(f"no DICOM file: {len(data)} bytes without DICM at byte 128 (PS3.10 7.1)")
    meta = _read_file_meta(data, limits)
    end, declared = meta.end, meta.elements.get("00020010", {}).get("Value", [None])[0]
    transfer_syntax = check_uid("Transfer Syntax UID (0002,0010)", declared) if declared else _guess(data, end)
    order = BIG if transfer_syntax == EXPLICIT_BIG else LITTLE
    implicit = not has_vr(data, end, len(data)) if end + 6 <= len(data) else transfer_syntax == IMPLICIT_LITTLE
    return Front(meta.elements, transfer_syntax, meta.syntax_span, end, implicit, order)


class _FileMeta(NamedTuple):
    elements: MetadataJson
    syntax_span: tuple[int, int]
    end: int


def _read_file_meta(data: Buffer, limits: Limits) -> _FileMeta:
    """The elements of group 2; their group length, often wrong, counts only where deflated bytes follow."""
    walk = Walk(data, limits, FILE_META)
    size, at, declared = len(data), _DATA_SET_AT, 0
    elements: MetadataJson = {}
    span, is_deflated = (0, 0), False
    while at + 8 <= size:
        group, element, code, length = struct.unpack_from("<HH2sH", data, at)
        if group != 2 or (at == declared and is_deflated):
            break
        key, start, vr = f"{group:04X}{element:04X}", at + 8, code.decode("latin-1")
        if not b"AA" <= code <= b"ZZ":  # as some writers do; pydicom's test
            (length,) = struct.unpack_from("<I", data, at + 4)
            vr = walk.dictionary_vr(key, elements, length, implicit=True)
        elif vr in LONG_HEADER and at + 12 <= size:
            start = at + 12
            (length,) = struct.unpack_from("<I", data, at + 8)
        if start + length > size:
            raise NotDicom(f"the file meta information is cut short: (0002,{element:04X}) claims {length} bytes")
        if element:
            vr = vr if vr in FILE_META.vrs else "UN"
            elements[key] = walk.value(key, vr, start, start + length, DEFAULT_CHARACTER_SET)
        elif length == 4:
            (group_length,) = struct.unpack_from("<I", data, start)
            declared = start + 4 + group_length
        if element == 0x10:
            span = (at, start + length)
            is_deflated = str(elements[key].get("Value", [""])[0]) in INFLATED
        at = start + length
    for value in walk.bulk:
        del value.element["BulkDataURI"]  # nothing serves bulk data of file meta information
    return _FileMeta(elements, span, at)


def _guess(data: Buffer, at: int) -> str:
    """The transfer syntax of a data set that comes without one, by its first element (as pydicom does)."""
    if at + 8 > len(data) or not has_vr(data, at, len(data)):
        return IMPLICIT_LITTLE
    (group,) = struct.unpack_from("<H", data, at)
    return EXPLICIT_BIG if group >= 0x0400 else EXPLICIT_LITTLE


def element_head(key: str, vr: str, length: int) -> bytes:
    """Tag, VR and length of an element in Explicit VR Little Endian (PS3.5 7.1.2)."""
    group, element = int(key[:4], 16), int(key[4:], 16)
    if vr in LONG_HEADER:
        return struct.pack("<HH2sHI", group, element, vr.encode(), 0, length)
    return struct.pack("<HH2sH", group, element, vr.encode(), length)


def new_file_meta(sop_class: str, instance_uid: str, transfer_syntax: str) -> bytes:
    """Preamble, prefix and file meta information of a file that is written here (PS3.10 7.1)."""
    group = element_head("00020001", "OB", 2) + b"\0\1"
    for key, vr, text in (
        ("00020002", "UI", sop_class),
        ("00020003", "UI", instance_uid),
        ("00020010", "UI", transfer_syntax),
        ("00020012", "UI", IMPLEMENTATION_CLASS_UID),
        ("00020013", "SH", IMPLEMENTATION_VERSION_NAME),
    ):
        value = text.encode() + (b"\0" if vr == "UI" else b" ") * (len(text) % 2)
        group += element_head(key, vr, len(value)) + value
    return bytes(128) + b"DICM" + element_head("00020000", "UL", 4) + struct.pack("<I", len(group)) + group


def check_uid(what: str, uid: object) -> str:
    """The UID, if it may stand in a path, a URL and a header.

    PS3.5 9.1 has digits and dots alone; letters, ``-`` and ``_`` are borne, since systems in use make them.

    Raises
    ------
    NotDicom
        It is empty, longer than 64 characters, or holds anything else.
    """
    if not uid:
        raise NotDicom(f"no {what}")
    if not isinstance(uid, str) or not _UID.fullmatch(uid):
        raise NotDicom(f"{what} is {str(uid)[:70]!r}; a UID is 1 to 64 digits and dots (PS3.5 9.1)")
    return uid


def inflate(data: Buffer, limits: Limits = DEFAULT_LIMITS) -> bytearray:
    """A file with a deflated data set as the file it is once inflated (PS3.5 A.5), in name and in fact.

    Raises
    ------
    TooLarge
        It would be longer than ``limits.max_inflated_bytes``.
    NotDicom
        The deflated bytes are broken.
    """
    front = read_front(data, limits)
    if not front.is_deflated:
        raise NotDicom(f"transfer syntax {front.transfer_syntax} is not deflated")
    size = 0  # counted first: what is too long is never held
    for piece in _inflated(data, front.data_set_at):
        size += len(piece)
        if size > limits.max_inflated_bytes:
            raise TooLarge(f"the deflated data set is longer than {limits.max_inflated_bytes} bytes")
    head = _with_transfer_syntax(bytes(data[: front.data_set_at]), front.syntax_span, INFLATED[front.transfer_syntax])
    whole = bytearray(len(head) + size)
    whole[: len(head)] = head
    at = len(head)
    for piece in _inflated(data, front.data_set_at):
        whole[at : at + len(piece)] = piece
        at += len(piece)
    return whole


def _inflated(data: Buffer, at: int) -> Iterator[bytes]:
    stream = zlib.decompressobj(-zlib.MAX_WBITS)
    try:
        while not stream.eof and at < len(data):
            tail = bytes(data[at : at + _PIECE])
            at += len(tail)
            while tail and not stream.eof:
                yield stream.decompress(tail, _PIECE)
                tail = stream.unconsumed_tail
        while not stream.eof and (piece := stream.decompress(b"", _PIECE)):
            yield piece
    except zlib.error as broken:
        raise NotDicom(f"the deflated data set is broken: {broken}") from None
    if not stream.eof:
        raise NotDicom("the deflated data set is cut short")


def _with_transfer_syntax(head: bytes, span: tuple[int, int], uid: str) -> bytes:
    """File meta information with another transfer syntax in place of the element at `span`."""
    value = uid.encode() + b"\0" * (len(uid) % 2)
    new = struct.pack("<HH2sH", 2, 0x10, b"UI", len(value)) + value
    changed = bytearray(head[: span[0]] + new + head[span[1] :])
    if head[_DATA_SET_AT : _DATA_SET_AT + 4] == b"\x02\0\0\0":
        (group_length,) = struct.unpack_from("<I", head, _DATA_SET_AT + 8)
        struct.pack_into("<I", changed, _DATA_SET_AT + 8, max(group_length + len(changed) - len(head), 0))
    return bytes(changed)
