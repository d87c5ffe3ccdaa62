"""What a codestream says of itself before anyone decodes it.

A decoder allocates what the header asks for, so the header is read here first and compared with the data set:
830 bytes can claim 60,000 x 60,000 samples. Only headers are read, in a few microseconds, and never past the buffer.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
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
    colour = ""
    for marker, segment in _jpeg_segments(data):
        if marker in _JPEG_FRAMES:
            return _jpeg_frame(data, segment, colour)
        is_jfif = marker == 0xE0 and segment.startswith(b"JFIF")
        is_adobe_transformed = marker == 0xEE and segment.startswith(b"Adobe") and segment[11:12] == b"\x01"
        if is_jfif or is_adobe_transformed:
            colour = "YBR"
    raise NotDicom("the JPEG header is broken: no start of frame before the data")


def _jpeg_segments(data: bytes) -> Iterator[tuple[int, bytes]]:
    """Marker and content of each segment of the header, up to the start of the first scan."""
    if data[:2] != b"\xff\xd8":
        raise NotDicom(f"the frame is no JPEG: it starts with {data[:2].hex() or 'nothing'}, not ffd8")
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
        if marker == 0xD9 or length < 2 or at + 2 + length > len(data):
            return
        yield marker, data[at + 4 : at + 2 + length]
        if marker == 0xDA:
            return
        at += 2 + length


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


@dataclass(frozen=True, slots=True, kw_only=True)
class Coding:
    """How a codestream is coded: the DICOM transfer syntax of that, and the photometric interpretation it implies."""

    header: Codestream
    transfer_syntax: str
    photometric: str


def read_coding(data: bytes) -> Coding:
    """Tell from a still image's codestream in which transfer syntax it can be (PS3.5 8.2, A.4).

    Raises
    ------
    NotDicom
        It is none of JPEG, JPEG-LS, JPEG 2000, HTJ2K and JPEG XL, or its header is broken.
    """
    if data[:2] == b"\xff\xd8":
        return _jpeg_coding(data)
    if data[:2] == b"\xff\x0a" or data[4:8] == b"JXL ":
        return Coding(header=read_jpeg_xl(data), transfer_syntax="1.2.840.10008.1.2.4.112", photometric="")
    return _jpeg2000_coding(data)


def _jpeg_coding(data: bytes) -> Coding:
    process, scan = 0, b""
    for marker, segment in _jpeg_segments(data):
        if marker in _JPEG_FRAMES:
            process = marker
        elif marker == 0xDA:
            scan = segment
    if len(scan) < 4:
        raise NotDicom("the JPEG header is broken: no whole start of scan")
    parameter = scan[-3]  # Ss: the predictor of lossless JPEG, the NEAR of JPEG-LS
    uids = {
        0xC0: ".50",
        0xC1: ".51",
        0xC2: ".55",
        0xC3: ".70" if parameter == 1 else ".57",
        0xF7: ".81" if parameter else ".80",
    }
    if process not in uids:
        raise NotDicom(f"the JPEG process of marker ff{process:02x} has no transfer syntax")
    header = read_jpeg(data)
    if header.samples == 1:
        photometric = "MONOCHROME2"
    elif process in (0xC3, 0xF7):
        photometric = "YBR_FULL" if header.colour == "YBR" else "RGB"
    else:
        photometric = "RGB" if header.colour == "RGB" else "YBR_FULL_422"
    return Coding(header=header, transfer_syntax=f"1.2.840.10008.1.2.4{uids[process]}", photometric=photometric)


def _jpeg2000_coding(data: bytes) -> Coding:
    header = read_jpeg2000(data)
    data, at = header.data, 2
    while at + 4 <= len(data) and data[at : at + 2] != b"\xff\x90":
        marker, length = struct.unpack_from(">HH", data, at)
        if marker == 0xFF52 and length >= 12 and at + 14 <= len(data):
            # COD (T.800 A.6.1): Scod, progression, layers, component transform, levels, block, style, wavelet
            transforms, style, is_reversible = bool(data[at + 8]), data[at + 12], data[at + 13] == 1
            number = (201 if is_reversible else 203) if style & 0x40 else (90 if is_reversible else 91)
            photometric = "MONOCHROME2" if header.samples == 1 else "RGB"
            if transforms and header.samples == 3:
                photometric = "YBR_RCT" if is_reversible else "YBR_ICT"
            return Coding(header=header, transfer_syntax=f"1.2.840.10008.1.2.4.{number}", photometric=photometric)
        at += 2 + length
    raise NotDicom("the JPEG 2000 header is broken: no coding style before the first tile")
