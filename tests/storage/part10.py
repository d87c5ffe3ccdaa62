"""A little writer of Part 10 files that can also write what no library would."""

from __future__ import annotations

import struct
from collections.abc import Sequence

IMPLICIT_LITTLE, EXPLICIT_LITTLE, EXPLICIT_BIG = "1.2.840.10008.1.2", "1.2.840.10008.1.2.1", "1.2.840.10008.1.2.2"
LONG = {"OB", "OD", "OF", "OL", "OV", "OW", "SQ", "SV", "UC", "UN", "UR", "UT", "UV"}
UNDEFINED = 0xFFFFFFFF


def element(
    group: int, number: int, vr: str, raw: bytes, syntax: str = EXPLICIT_LITTLE, *, length: int | None = None
) -> bytes:
    """One data element; `length` may lie."""
    order = ">" if syntax == EXPLICIT_BIG else "<"
    if length is None:
        length = len(raw)
    if syntax == IMPLICIT_LITTLE:
        return struct.pack("<HHI", group, number, length) + raw
    if vr in LONG:
        return struct.pack(f"{order}HH2sHI", group, number, vr.encode(), 0, length) + raw
    return struct.pack(f"{order}HH2sH", group, number, vr.encode(), length & 0xFFFF) + raw


def item(*elements: bytes, undefined: bool = False) -> bytes:
    """An item of little-endian elements."""
    raw = b"".join(elements)
    if undefined:
        return struct.pack("<HHI", 0xFFFE, 0xE000, UNDEFINED) + raw + struct.pack("<HHI", 0xFFFE, 0xE00D, 0)
    return struct.pack("<HHI", 0xFFFE, 0xE000, len(raw)) + raw


def sequence(
    group: int, number: int, *items: bytes, syntax: str = EXPLICIT_LITTLE, vr: str = "SQ", undefined: bool | None = None
) -> bytes:
    """A sequence; of undefined length where asked for, or sent as UN."""
    raw = b"".join(items)
    if undefined or (undefined is None and vr == "UN"):
        raw += struct.pack("<HHI", 0xFFFE, 0xE0DD, 0)
        return element(group, number, vr, raw, syntax, length=UNDEFINED)
    return element(group, number, vr, raw, syntax)


def fragments(*pieces: bytes, table: Sequence[int] = ()) -> bytes:
    """Encapsulated pixel data with its Basic Offset Table."""
    raw = item(struct.pack(f"<{len(table)}I", *table)) + b"".join(item(piece) for piece in pieces)
    return element(0x7FE0, 0x10, "OB", raw + struct.pack("<HHI", 0xFFFE, 0xE0DD, 0), length=UNDEFINED)


def uids(syntax: str = EXPLICIT_LITTLE, *, instance: bytes = b"1.2.3.4\0") -> dict[tuple[int, int], bytes]:
    """The elements that an instance cannot be without."""
    return {
        (0x0008, 0x0016): element(0x0008, 0x0016, "UI", b"1.2.840.10008.5.1.4.1.1.7\0", syntax),
        (0x0008, 0x0018): element(0x0008, 0x0018, "UI", instance, syntax),
        (0x0020, 0x000D): element(0x0020, 0x000D, "UI", b"1.2\0", syntax),
        (0x0020, 0x000E): element(0x0020, 0x000E, "UI", b"1.2.3\0", syntax),
    }


def image(
    rows: int,
    columns: int,
    *,
    frames: int | None = None,
    bits: int = 8,
    stored: int | None = None,
    signed: int = 0,
    samples: int = 1,
    planar: int = 0,
    photometric: bytes = b"MONOCHROME2 ",
    syntax: str = EXPLICIT_LITTLE,
) -> list[bytes]:
    """The elements of group 0028 of an image."""
    order = ">" if syntax == EXPLICIT_BIG else "<"

    def us(number: int, number_value: int) -> bytes:
        return element(0x0028, number, "US", struct.pack(f"{order}H", number_value), syntax)

    count = f"{frames}".encode() if frames is not None else b""
    return [
        us(0x0002, samples),
        element(0x0028, 0x0004, "CS", photometric, syntax),
        *([us(0x0006, planar)] if samples > 1 else []),
        *([element(0x0028, 0x0008, "IS", count + b" " * (len(count) % 2), syntax)] if count else []),
        us(0x0010, rows),
        us(0x0011, columns),
        us(0x0100, bits),
        us(0x0101, stored or bits),
        us(0x0103, signed),
    ]


def part10(elements: Sequence[bytes], syntax: str = EXPLICIT_LITTLE, *, bare: bool = False) -> bytes:
    """A file of these elements, with the UIDs of an instance unless `bare`."""
    order = ">" if syntax == EXPLICIT_BIG else "<"
    body = list(elements)
    if not bare:
        sent = [struct.unpack_from(f"{order}HH", one) for one in elements]
        body += [raw for tag, raw in uids(syntax).items() if tag not in sent]
        body.sort(key=lambda one: struct.unpack_from(f"{order}HH", one))
    uid = syntax.encode() + b"\0" * (len(syntax) % 2)
    meta = element(2, 0x10, "UI", uid)
    return bytes(128) + b"DICM" + element(2, 0, "UL", struct.pack("<I", len(meta))) + meta + b"".join(body)
