"""Frames in other transfer syntaxes: what each can carry, and the encoders (PS3.5 section 8.2, annexes A and G).

Whatever is written here is lossless, but for JPEG Baseline: also in a transfer syntax that allows more (JPEG-LS
Near-Lossless, JPEG 2000, HTJ2K, JPEG XL), since nothing is gained by a loss that nobody asked for.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import lru_cache, partial
from math import prod
from typing import Any
from zlib import crc32

import imagecodecs
import numpy as np
from numpy.typing import NDArray
from pydicom import uid

from readingroom.errors import NotAcceptable, NotDicom
from storage.arrays import ArraySpec
from storage.part10 import DEFLATED, EXPLICIT_LITTLE
from storage.pixels import DECODABLE, MAX_DECODED_BYTES, decode_frame, decoded_photometric

GENERATION = f"{crc32(f'1 {imagecodecs.__version__}'.encode()):08x}"
"""Changes with the encoders, and so with the bytes that they make of the same pixels."""

NATIVE_TARGETS = (EXPLICIT_LITTLE, DEFLATED)

_JPEG_XL_LOSSLESS, _JPEG_XL_FROM_JPEG, _JPEG_XL = (f"1.2.840.10008.1.2.4.{number}" for number in (110, 111, 112))
_JPEG_QUALITY = 90
_JPEG_MAX_SIDE = 65_500
"""The largest side that libjpeg takes."""

_COLOURS = ("RGB", "YBR_FULL")
_GREYS = ("MONOCHROME1", "MONOCHROME2")
_UNDONE_BY_DECODING = {"YBR_ICT": "RGB", "YBR_RCT": "RGB", "XYB": "RGB", "YBR_FULL_422": "YBR_FULL"}

Values = NDArray[Any]
Encoded = bytes | bytearray | memoryview


@dataclass(frozen=True, slots=True, kw_only=True)
class Encoding:
    """What a transfer syntax carries, as the tables of PS3.5 section 8.2 say and the encoder can do, and the encoder.

    Attributes
    ----------
    encode
        Takes values, Bits Stored and Photometric Interpretation.
    widths
        Bits Allocated.
    lowest_bits
        The least Bits Stored.
    colour_widths, ybr_widths
        Bits Allocated of RGB and of YBR_FULL.
    has_palette
        Whether PALETTE COLOR is carried, whose indices must not lose anything.
    is_signed
        Whether signed values can be told from unsigned ones by whoever decodes them.
    colour
        The Photometric Interpretation that RGB gets.
    min_side, max_side
        The fewest and the most rows and columns.
    is_lossy
        Whether the pixels change.
    """

    encode: Callable[[Values, int, str], Encoded]
    widths: tuple[int, ...] = (8, 16)
    lowest_bits: int = 1
    colour_widths: tuple[int, ...] = (8, 16)
    ybr_widths: tuple[int, ...] = (8, 16)
    has_palette: bool = True
    is_signed: bool = True
    colour: str = "RGB"
    min_side: int = 1
    max_side: int = 65_535
    is_lossy: bool = False


def refusal(spec: ArraySpec, target: str) -> str:
    """Why frames of an object cannot be had in another transfer syntax; empty where they can.

    Parameters
    ----------
    spec
        How the frames are encoded.
    target
        The UID of the transfer syntax.
    """
    if spec.transfer_syntax not in DECODABLE:
        return f"frames in transfer syntax {spec.transfer_syntax} are not decoded"
    if target in NATIVE_TARGETS:
        return ""
    if keeps_bits(spec.transfer_syntax, target):
        return (
            "" if spec.photometric in ("MONOCHROME2", "YBR_FULL_422", "RGB") else f"no {spec.photometric} in {target}"
        )
    encoding = ENCODINGS.get(target)
    if encoding is None:
        return f"nothing is encoded in transfer syntax {target}"
    photometric = _UNDONE_BY_DECODING.get(spec.photometric, spec.photometric) if spec.samples == 3 else spec.photometric
    widths = {"RGB": encoding.colour_widths, "YBR_FULL": encoding.ybr_widths}.get(photometric, encoding.widths)
    if spec.pixel_element != "7FE00010":
        return "floating-point pixels are not compressed"
    if spec.holds_overlays:
        return "overlays lie in the unused bits of the pixels and would be lost"
    if (spec.samples, photometric) not in _CARRIED:
        return f"{spec.samples} samples of {photometric or 'no photometric interpretation'} are not compressed"
    if photometric == "PALETTE COLOR" and not encoding.has_palette:
        return "a palette is carried only where nothing is ever lost"
    if spec.bits_allocated not in widths:
        return f"{spec.bits_allocated} bits allocated are not one of {', '.join(map(str, widths)) or 'none'}"
    if spec.bits_stored < encoding.lowest_bits:
        return f"{spec.bits_stored} bits stored are fewer than {encoding.lowest_bits}"
    if spec.signed and (not encoding.is_signed or photometric not in _GREYS):
        return "signed pixels are not carried"
    if not encoding.min_side <= min(spec.rows, spec.columns) <= max(spec.rows, spec.columns) <= encoding.max_side:
        return f"{spec.rows} rows and {spec.columns} columns are not {encoding.min_side} to {encoding.max_side}"
    if prod(spec.frame_shape) * spec.bits_allocated // 8 > MAX_DECODED_BYTES:
        return f"a frame is longer than {MAX_DECODED_BYTES} bytes"
    return ""


@lru_cache(maxsize=1024)
def targets_of(spec: ArraySpec) -> tuple[str, ...]:
    """Every transfer syntax that frames of an object can be had in, beside the stored one, as `TARGETS` has them."""
    return tuple(target for target in TARGETS if target != spec.transfer_syntax and not refusal(spec, target))


def is_lossy(spec: ArraySpec, target: str) -> bool:
    """Whether frames of an object lose by being written in another transfer syntax.

    Such a frame is sent to who names that transfer syntax; an instance never: it would become another one, with a UID
    of its own (PS3.3 C.7.6.1.1.5).
    """
    return target in ENCODINGS and ENCODINGS[target].is_lossy and not keeps_bits(spec.transfer_syntax, target)


def keeps_bits(stored: str, target: str) -> bool:
    """Whether frames go from one transfer syntax to another without being decoded, and so can come back."""
    return (stored, target) in _RECODERS


def encoded_spec(spec: ArraySpec, target: str, photometric: str) -> ArraySpec:
    """How frames of `spec` are encoded once they are in another transfer syntax.

    Parameters
    ----------
    photometric
        What `storage.pixels.decoded_photometric` says of them.
    """
    if target in NATIVE_TARGETS:
        return replace(
            spec,
            transfer_syntax=EXPLICIT_LITTLE,
            photometric=photometric,
            pixel_vr="OW" if spec.bits_allocated > 8 else "OB",
            encoding="native",
            framing="none",
        )
    if keeps_bits(spec.transfer_syntax, target):
        photometric = spec.photometric
    elif photometric == "RGB" or (ENCODINGS[target].is_lossy and photometric == "YBR_FULL"):
        photometric = ENCODINGS[target].colour
    return replace(
        spec,
        transfer_syntax=target,
        planar_configuration=0,
        photometric=photometric,
        pixel_vr="OB",
        encoding="encapsulated",
        framing="none",
    )


def encode_frame(values: Values, spec: ArraySpec, target: str) -> bytes:
    """Stored values as a frame's bitstream.

    Parameters
    ----------
    values
        As `storage.pixels.decode_frame` gives them: samples last, in the machine's byte order.
    spec
        How their object describes them; its `photometric` is that of `values`.
    target
        The UID of the transfer syntax.

    Raises
    ------
    NotAcceptable
        It cannot carry them.
    """
    if reason := refusal(replace(spec, transfer_syntax=EXPLICIT_LITTLE), target):
        raise NotAcceptable(f"The pixels cannot be written in {target}: {reason}.")
    if target in NATIVE_TARGETS:
        return native_bytes(values, spec, planar=spec.planar_configuration == 1)
    try:
        return bytes(ENCODINGS[target].encode(values, spec.bits_stored, spec.photometric))
    except (RuntimeError, ValueError) as error:  # as imagecodecs has them
        raise NotAcceptable(f"The pixels cannot be written in {target}: {error}.") from None


def transcode_frame(bitstream: bytes | bytearray, spec: ArraySpec, target: str, *, verify: bool = False) -> bytes:
    """One frame in another transfer syntax.

    The first frame of each kind that this process encodes is decoded again, for what does not come back as it was is
    never called lossless.

    Parameters
    ----------
    bitstream
        The frame as `storage.objects.frame_payload` cuts it out of its object.
    spec
        How the frames of its object are encoded.
    target
        The UID of the transfer syntax to write.
    verify
        Decode it again whatever came back before.

    Raises
    ------
    NotAcceptable
        The frame cannot be decoded, or `target` cannot carry it.
    """
    if reason := refusal(spec, target):
        raise NotAcceptable(f"The pixels cannot be written in {target}: {reason}.")
    if recode := _RECODERS.get((spec.transfer_syntax, target)):
        return _recoded(recode, bytes(bitstream), target)
    try:
        values = decode_frame(bitstream, spec)
        photometric = decoded_photometric(bitstream, spec)
    except NotDicom as error:
        raise NotAcceptable(f"The frame cannot be decompressed ({error.message}); ask for transfer-syntax=*.") from None
    encoded = encode_frame(values, replace(spec, photometric=photometric), target)
    written = encoded_spec(spec, target, photometric)
    if (verify or (spec, written) not in _VERIFIED) and not is_lossy(spec, target):
        if not _comes_back(encoded, written, values):
            raise NotAcceptable(f"The pixels do not come back from {target} as they were; ask for transfer-syntax=*.")
        if len(_VERIFIED) < _MAX_VERIFIED:
            _VERIFIED.add((spec, written))
    return encoded


def transcode_exactly(bitstream: bytes | bytearray, spec: ArraySpec, target: str) -> bytes:
    """The same for files, which outlive this server: every frame is decoded again."""
    return transcode_frame(bitstream, spec, target, verify=True)


def _recoded(recode: Callable[[bytes], Encoded], bitstream: bytes, target: str) -> bytes:
    try:
        return bytes(recode(bitstream))
    except (RuntimeError, ValueError) as error:
        raise NotAcceptable(f"The frame cannot be recompressed as {target} ({error}).") from None


def native_bytes(values: Values, spec: ArraySpec, *, planar: bool = False) -> bytes:
    """Stored values as native pixels in little-endian order (PS3.5 8.1.1, 8.2), samples by plane or by pixel."""
    if spec.bits_allocated == 1:
        return bytes(np.packbits(values, bitorder="little"))
    if planar and spec.samples > 1:
        values = np.moveaxis(values, -1, 0)
    return values.astype(values.dtype.newbyteorder("<"), copy=False).tobytes()


def _comes_back(encoded: bytes, written: ArraySpec, values: Values) -> bool:
    try:
        return np.array_equal(decode_frame(encoded, written), values)
    except NotDicom:
        return False


_VERIFIED: set[tuple[ArraySpec, ArraySpec]] = set()
_MAX_VERIFIED = 4096


def _narrowed(values: Values, bits: int) -> Values:
    """Values of up to 8 bits as bytes, as encoders want them."""
    if bits > 8 or values.dtype.itemsize == 1:
        return values
    return values.astype(np.int8 if values.dtype.kind == "i" else np.uint8)


def _unsigned(values: Values, bits: int) -> Values:
    """The low `bits` of signed values; who decodes them fills the sign in again (PS3.5 8.1.1)."""
    values = _narrowed(values, bits)
    if values.dtype.kind == "u":
        return values
    values = values.view(f"u{values.dtype.itemsize}")
    return values & values.dtype.type((1 << bits) - 1) if bits < 8 * values.dtype.itemsize else values


def _encode_rle(values: Values, bits: int, photometric: str) -> bytes:
    """RLE Lossless: a segment for each byte of each sample, the highest first; no run crosses a row (PS3.5 annex G)."""
    rows, columns = values.shape[:2]
    big = values.astype(values.dtype.newbyteorder(">")).tobytes()
    planes = np.moveaxis(np.frombuffer(big, np.uint8).reshape(rows, columns, -1), -1, 0)
    segments = [bytes(imagecodecs.packbits_encode(plane)) for plane in planes.copy()]
    segments = [segment + b"\0" * (len(segment) % 2) for segment in segments]
    offsets = [64 + sum(map(len, segments[:index])) for index in range(len(segments))]
    header = struct.pack("<16I", len(segments), *offsets, *[0] * (15 - len(segments)))
    return b"".join([header, *segments])


def _encode_jpeg_lossless(values: Values, bits: int, photometric: str) -> Encoded:
    return imagecodecs.jpeg8_encode(
        _unsigned(values, bits),
        lossless=True,
        predictor=1,
        bitspersample=max(bits, 2),  # ITU-T T.81 has no fewer
        colorspace={"RGB": "RGB", "YBR_FULL": "UNKNOWN"}.get(photometric),  # libjpeg's own YCbCr does not come back
    )


def _encode_jpeg_baseline(values: Values, bits: int, photometric: str) -> Encoded:
    colours = {"RGB": "RGB", "YBR_FULL": "YCBCR"}.get(photometric)
    return imagecodecs.jpeg8_encode(
        values,
        level=_JPEG_QUALITY,
        colorspace=colours,
        outcolorspace="YCBCR" if colours else None,
        subsampling="422" if colours else None,
    )


def _encode_jpeg_ls(values: Values, bits: int, photometric: str) -> Encoded:
    return imagecodecs.jpegls_encode(_unsigned(values, bits), bitspersample=bits)


def _encode_jpeg2000(values: Values, bits: int, photometric: str) -> Encoded:
    return imagecodecs.jpeg2k_encode(
        _narrowed(values, bits),
        level=0,
        codecformat="j2k",
        reversible=True,
        mct=photometric == "RGB",
        bitspersample=bits,
        numthreads=1,
    )


def _encode_htj2k(values: Values, bits: int, photometric: str, **options: Any) -> Encoded:
    return imagecodecs.htj2k_encode(
        _narrowed(values, bits), reversible=True, rgb=photometric == "RGB", planar=False, bitspersample=bits, **options
    )


def _encode_jpeg_xl(values: Values, bits: int, photometric: str) -> Encoded:
    return imagecodecs.jpegxl_encode(
        _narrowed(values, bits), lossless=True, effort=1, bitspersample=bits, usecontainer=False, numthreads=1
    )


_RPCL: Mapping[str, Any] = {"prog_order": "RPCL", "tlm": True, "resolutions": 5, "tilepart": "RESOLUTIONS"}
"""What 1.2.840.10008.1.2.4.202 asks for (PS3.5 A.4.4): every resolution is a tile-part that can be read alone."""

_RLE = Encoding(encode=_encode_rle, widths=(8, 16, 32), ybr_widths=(8,))
_JPEG_LOSSLESS = Encoding(encode=_encode_jpeg_lossless, max_side=_JPEG_MAX_SIDE)
_JPEG_LS = Encoding(encode=_encode_jpeg_ls, lowest_bits=2, ybr_widths=(8,))
_JPEG_2000 = Encoding(encode=_encode_jpeg2000, colour="YBR_RCT")
_HTJ2K = Encoding(
    encode=_encode_htj2k,
    widths=(8, 16, 32),
    colour="YBR_RCT",
    min_side=2,  # some single rows and columns do not come back from OpenJPH
)
_JPEG_XL_ENCODING = Encoding(encode=_encode_jpeg_xl, is_signed=False)
_JPEG_BASELINE = Encoding(
    encode=_encode_jpeg_baseline,
    widths=(8,),
    lowest_bits=8,
    colour_widths=(8,),
    ybr_widths=(8,),
    has_palette=False,
    is_signed=False,
    colour="YBR_FULL_422",
    max_side=_JPEG_MAX_SIDE,
    is_lossy=True,
)

ENCODINGS: Mapping[str, Encoding] = {
    str(uid.JPEGLosslessSV1): _JPEG_LOSSLESS,
    str(uid.RLELossless): _RLE,
    str(uid.JPEGLSLossless): _JPEG_LS,
    str(uid.JPEG2000Lossless): _JPEG_2000,
    str(uid.HTJ2KLossless): _HTJ2K,
    str(uid.HTJ2KLosslessRPCL): replace(_HTJ2K, encode=partial(_encode_htj2k, **_RPCL)),
    _JPEG_XL_LOSSLESS: _JPEG_XL_ENCODING,
    str(uid.JPEGLSNearLossless): replace(_JPEG_LS, has_palette=False),
    str(uid.JPEG2000): replace(_JPEG_2000, has_palette=False),
    str(uid.HTJ2K): replace(_HTJ2K, has_palette=False),
    _JPEG_XL: replace(_JPEG_XL_ENCODING, has_palette=False),
    str(uid.JPEGBaseline8Bit): _JPEG_BASELINE,
}
"""The compressed transfer syntaxes that frames are written in, the lossless ones of Table 8.7.3-5 of PS3.18 first."""

_CARRIED = frozenset({*((1, grey) for grey in (*_GREYS, "PALETTE COLOR")), *((3, colour) for colour in _COLOURS)})
"""Samples per Pixel and Photometric Interpretation of what is compressed."""


def _jpeg_xl_from_jpeg(bitstream: bytes) -> Encoded:
    return imagecodecs.jpegxl_encode_jpeg(bitstream[: bitstream.rfind(b"\xff\xd9") + 2], numthreads=1)


def _jpeg_from_jpeg_xl(bitstream: bytes) -> Encoded:
    return imagecodecs.jpegxl_decode_jpeg(bitstream, numthreads=1)


_RECODERS: Mapping[tuple[str, str], Callable[[bytes], Encoded]] = {
    (str(uid.JPEGBaseline8Bit), _JPEG_XL_FROM_JPEG): _jpeg_xl_from_jpeg,
    (_JPEG_XL_FROM_JPEG, str(uid.JPEGBaseline8Bit)): _jpeg_from_jpeg_xl,
}
"""From one bitstream straight to another and back, byte for byte: JPEG XL JPEG Recompression (PS3.5 8.2.15)."""

_RECODED = frozenset({"MONOCHROME2", "YBR_FULL_422", "RGB"})

TARGETS = (*NATIVE_TARGETS, *ENCODINGS, _JPEG_XL_FROM_JPEG)
"""Every transfer syntax that something is written in, in the order of preference of who names none."""
