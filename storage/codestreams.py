"""What a codestream says of itself before anyone decodes it.

A decoder allocates what the header asks for, so the header is read here first and compared with the data set:
830 bytes can claim 60,000 x 60,000 samples. Only headers are read, in a few microseconds, and never past the buffer.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass

from readingroom.errors import NotDicom

_END_OF_IMAGE = b"\xff\xd9"
"""Ends JPEG, JPEG-LS and JPEG 2000 alike; bit stuffing keeps it from occurring in the coded data of any of them."""

_JPEG_STANDALONE = frozenset({0x01, *range(0xD0, 0xD9)})
_JPEG_FRAMES = frozenset({*range(0xC0, 0xD0), 0xF7}) - {0xC4, 0xC8, 0xCC}
"""The start-of-frame markers: SOF0-15 without DHT, JPG and DAC (ITU-T T.81 B.1.1.3), SOF55 (ITU-T T.87 C.2.2)."""

_TILE_PART_BYTES = 14
"""No tile of a JPEG 2000 codestream is shorter than its SOT and SOD markers (ITU-T T.800 A.4)."""

_JPEG_XL_RATIOS = {1: (1, 1), 2: (12, 10), 3: (4, 3), 4: (3, 2), 5: (16, 9), 6: (5, 4), 7: (2, 1)}


@dataclass(frozen=True, slots=True, kw_only=True)
class Codestream:
    """The header of one frame's codestream.

    Attributes
    ----------
    data
        The codestream alone, without the JP2 boxes some modalities wrap around it.
    samples, precision, signed
        Samples per pixel, bits a sample and sign as coded; ``None`` where the header was not read that far.
    colour
        ``YBR`` or ``RGB`` where a marker or the component ids say so (JPEG only), else empty.
    """

    data: bytes
    rows: int
    columns: int
    samples: int | None = None
    precision: int | None = None
    signed: bool | None = None
    colour: str = ""


def read_jpeg(data: bytes) -> Codestream:
    """Read the frame header of a JPEG or JPEG-LS codestream (ITU-T T.81 B.2, T.87 C.2)."""
    if data[:2] != b"\xff\xd8":
        raise NotDicom(f"the frame is no JPEG: it starts with {data[:2].hex() or 'nothing'}, not ffd8")
    colour = ""
    at = 2
    while at + 4 <= len(data):
        if data[at] != 0xFF:
            raise NotDicom(f"the JPEG header is broken: byte {at} is {data[at]:02x}, not a marker")
        marker = data[at + 1]
        if marker == 0xFF:
            at += 1
            continue
        if marker in _JPEG_STANDALONE:
            at += 2
            continue
        length = int.from_bytes(data[at + 2 : at + 4])
        if marker in (0xD9, 0xDA) or length < 2 or at + 2 + length > len(data):
            break
        segment = data[at + 4 : at + 2 + length]
        if marker in _JPEG_FRAMES:
            return _jpeg_frame(data, segment, colour)
        is_jfif = marker == 0xE0 and segment.startswith(b"JFIF")
        is_adobe_transformed = marker == 0xEE and segment.startswith(b"Adobe") and segment[11:12] == b"\x01"
        if is_jfif or is_adobe_transformed:
            colour = "YBR"
        at += 2 + length
    raise NotDicom("the JPEG header is broken: no start of frame before the data")


def _jpeg_frame(data: bytes, segment: bytes, colour: str) -> Codestream:
    if len(segment) < 6 or len(segment) < 6 + 3 * segment[5]:
        raise NotDicom("the JPEG header is broken: the start of frame is too short")
    _require_end(data)
    precision, rows, columns, samples = struct.unpack_from(">BHHB", segment)
    if segment[6 : 6 + 3 * samples : 3] in (b"RGB", b"rgb"):
        colour = "RGB"
    return Codestream(
        data=data, rows=rows, columns=columns, samples=samples, precision=precision, signed=False, colour=colour
    )


def read_jpeg2000(data: bytes) -> Codestream:
    """Read the SIZ marker of a JPEG 2000 or HTJ2K codestream, bare or in JP2 boxes (ITU-T T.800 A.5.1, I.4)."""
    data = _without_boxes(data)
    if data[:4] != b"\xff\x4f\xff\x51" or len(data) < 42:
        raise NotDicom(f"the frame is no JPEG 2000: it starts with {data[:4].hex() or 'nothing'}, not ff4fff51")
    right, bottom, left, top, tile_width, tile_height, tiles_left, tiles_top, samples = struct.unpack_from(
        ">8IH", data, 8
    )
    components = data[42 : 42 + 3 * samples]
    if not samples or len(components) < 3 * samples or not tile_width or not tile_height:
        raise NotDicom("the JPEG 2000 header is broken: the SIZ marker is cut short or holds no tile or component")
    if len({components[i : i + 3] for i in range(0, len(components), 3)}) > 1 or components[1:3] != b"\x01\x01":
        raise NotDicom("the JPEG 2000 components differ in size or precision, DICOM wants them alike")
    _require_end(data)
    tiles = -(-max(right - tiles_left, 0) // tile_width) * -(-max(bottom - tiles_top, 0) // tile_height)
    if tiles * _TILE_PART_BYTES > len(data):
        raise NotDicom(f"the JPEG 2000 header claims {tiles} tiles, more than {len(data)} bytes can hold")
    return Codestream(
        data=data,
        rows=bottom - top,
        columns=right - left,
        samples=samples,
        precision=(components[0] & 0x7F) + 1,
        signed=bool(components[0] & 0x80),
    )


def read_jpeg_xl(data: bytes) -> Codestream:
    """Read the size header of a JPEG XL codestream, bare or in boxes (ISO/IEC 18181-1 D.2, 18181-2 9)."""
    codestream = data
    if data[4:8] == b"JXL ":
        codestream = next((body for kind, body in _boxes(data) if kind == b"jxlc"), b"") or next(
            (body[4:] for kind, body in _boxes(data) if kind == b"jxlp"), b""
        )
    if codestream[:2] != b"\xff\x0a":
        raise NotDicom("the frame is no JPEG XL: there is no codestream that starts with ff0a")
    bits = int.from_bytes(codestream[2:14], "little")

    def take(count: int) -> int:
        nonlocal bits
        value = bits & ((1 << count) - 1)
        bits >>= count
        return value

    def side(small: int) -> int:
        return (take(5) + 1) * 8 if small else take((9, 13, 18, 30)[take(2)]) + 1

    small = take(1)
    rows = side(small)
    ratio = _JPEG_XL_RATIOS.get(take(3))
    columns = rows * ratio[0] // ratio[1] if ratio else side(small)
    return Codestream(data=data, rows=rows, columns=columns)


def _without_boxes(data: bytes) -> bytes:
    if data[4:8] != b"jP  ":
        return data
    return next((body for kind, body in _boxes(data) if kind == b"jp2c"), b"")


def _boxes(data: bytes) -> list[tuple[bytes, bytes]]:
    """List the boxes of a JP2 or JPEG XL file, which share their framing (ITU-T T.800 I.4)."""
    boxes = []
    at = 0
    while at + 8 <= len(data):
        length, kind = struct.unpack_from(">I4s", data, at)
        head = 8
        if length == 1 and at + 16 <= len(data):
            length = int.from_bytes(data[at + 8 : at + 16])
            head = 16
        elif length == 0:
            length = len(data) - at
        if length < head:
            break
        boxes.append((kind, data[at + head : at + length]))
        at += length
    return boxes


def _require_end(data: bytes) -> None:
    # libjpeg and OpenJPH fill what is missing with grey: half a radiograph must not pass for a whole one.
    if data.rfind(_END_OF_IMAGE) < 0:
        raise NotDicom(f"the codestream is cut short: no end of image in {len(data)} bytes")
