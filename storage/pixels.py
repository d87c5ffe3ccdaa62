"""One frame's bitstream as an array of stored values (PS3.5 section 8, annexes A and G).

Stored values are what the Modality LUT starts from: signed as Pixel Representation says, the bits above Bits Stored
cleared or sign-extended, samples last, in the machine's byte order, and no colour conversion beyond the component
transform that is part of JPEG 2000 itself. `decoded_photometric` says which colours the samples then mean.
"""

from __future__ import annotations

import struct
import sys
import zlib
from collections.abc import Buffer, Callable, Mapping
from itertools import pairwise
from math import prod
from typing import Any

import imagecodecs
import numpy as np
from numpy.typing import NDArray
from pydicom import uid

from readingroom.errors import NotAcceptable, NotDicom, ReadingRoomError, TooLarge
from storage.codestreams import Codestream, read_jpeg, read_jpeg2000, read_jpeg_xl
from storage.objects import ArraySpec, frame_payload

MAX_DECODED_BYTES = 1 << 28
"""The largest frame that is decompressed; a blank slide of 65,535 x 65,535 fits in a hundred bytes of JPEG 2000."""

NATIVE = frozenset(
    {
        uid.ImplicitVRLittleEndian,
        uid.ExplicitVRLittleEndian,
        uid.DeflatedExplicitVRLittleEndian,
        uid.ExplicitVRBigEndian,
    }
)
"""The transfer syntaxes whose frames lie uncompressed, one after the other, in one value."""

_ENCAPSULATED_UNCOMPRESSED = "1.2.840.10008.1.2.1.98"
_DEFLATED_FRAMES = "1.2.840.10008.1.2.8.1"
_JPEG_FULL_PROGRESSION = "1.2.840.10008.1.2.4.55"
_JPEG_SPECTRAL_SELECTION = "1.2.840.10008.1.2.4.53"
_JPEG_XL = ("1.2.840.10008.1.2.4.110", "1.2.840.10008.1.2.4.111", "1.2.840.10008.1.2.4.112")

_RLE_SLACK = 128
"""Some encoders pad a segment past the last pixel; one run at most is forgiven."""


def decode_frame(bitstream: Buffer, spec: ArraySpec) -> NDArray[Any]:
    """Decode one frame to stored values.

    Parameters
    ----------
    bitstream
        The frame as `frame_payload` cuts it out of its object and WADO-RS sends it: without item headers, native in
        little-endian order, 1-bit pixels from a byte's start. A trailing pad byte is allowed.
    spec
        How the frames of its object are encoded.

    Returns
    -------
    numpy.ndarray
        Shape ``spec.frame_shape``: rows, columns, then samples where there are several; type ``spec.dtype`` in the
        machine's byte order. A read-only view of `bitstream` where nothing had to be changed.

    Raises
    ------
    NotDicom
        The bitstream is broken, cut short, or claims another size than `spec`.
    TooLarge
        A compressed frame of more than `MAX_DECODED_BYTES`.
    NotAcceptable
        The transfer syntax holds no still frames (MPEG, HEVC) or is not known here.
    """
    decode = _DECODERS.get(spec.transfer_syntax)
    if decode is None:
        raise NotAcceptable(f"transfer syntax {spec.transfer_syntax} has no frames that could be decoded")
    size = prod(spec.frame_shape) * np.dtype(spec.dtype).itemsize
    if not size:
        raise NotDicom(f"a frame of {spec.frame_shape} has no pixels")
    if spec.transfer_syntax not in NATIVE and size > MAX_DECODED_BYTES:
        raise TooLarge(f"a frame of {size} bytes is past the limit of {MAX_DECODED_BYTES}")
    try:
        return decode(bitstream, spec).reshape(spec.frame_shape)
    except (ReadingRoomError, MemoryError, KeyboardInterrupt, SystemExit):
        raise
    except BaseException as error:  # foreign code: a decoder written in Rust panics with what is no Exception
        reason = str(error).partition("\n")[0] or type(error).__name__
        raise NotDicom(f"the frame is no valid {uid.UID(spec.transfer_syntax).name}: {reason}") from error


def decode_chunk(chunk: Buffer, spec: ArraySpec) -> NDArray[Any]:
    """Decode one zarr chunk as it lies in its object, with its frames as first axis; else as `decode_frame`.

    A chunk is one frame, or all 1-bit frames of an instance of encoding ``bits``.
    """
    if spec.encoding == "bits":
        return _unpack_bits(chunk, (spec.frames, *spec.frame_shape)).view(spec.dtype)
    is_as_sent = spec.framing == "none" and spec.swapped == 1
    return decode_frame(chunk if is_as_sent else frame_payload(spec, bytes(chunk), 0), spec)[np.newaxis]


def decoded_photometric(bitstream: Buffer, spec: ArraySpec) -> str:
    """Give the Photometric Interpretation of what `decode_frame` makes of `bitstream` (PS3.3 C.7.6.3.1.2).

    It differs from the data set's where decoding undoes a transform (JPEG 2000, chroma subsampling), and where the
    JPEG codestream contradicts the data set, as many a converter leaves it: then the codestream is believed.
    """
    if spec.samples != 3:
        return spec.photometric
    if spec.photometric in ("YBR_ICT", "YBR_RCT") and spec.transfer_syntax not in NATIVE:
        return "RGB"
    if spec.transfer_syntax in _JPEG or spec.transfer_syntax in _JPEG_LS:
        colour = read_jpeg(bytes(bitstream)).colour
        if colour == "RGB":
            return "RGB"
        if colour == "YBR" and not spec.photometric.startswith("YBR"):
            return "YBR_FULL"
    if spec.transfer_syntax in _JPEG_XL and spec.photometric in ("XYB", "YBR_FULL_422"):
        return "RGB"  # the latter is a JPEG within, whose colours libjxl converts
    return "YBR_FULL" if spec.photometric == "YBR_FULL_422" else spec.photometric


def lies_as_stored(spec: ArraySpec) -> bool:
    """Tell whether a frame's bytes are its stored values in the machine's order, but for the unused bits."""
    return (
        sys.byteorder == "little"
        and spec.encoding == "native"
        and spec.swapped == 1
        and spec.bits_allocated > 1
        and not _is_subsampled(spec)
        and (spec.samples == 1 or spec.planar_configuration == 0)
    )


def keep_bits(values: NDArray[Any], bits: int, *, in_place: bool = False) -> NDArray[Any]:
    """Clear what is above the low `bits`, or fill it with the sign (PS3.5 8.1.1): old files keep overlays there."""
    width = 8 * values.dtype.itemsize
    if not 0 < bits < width or values.dtype.kind == "f":
        return values
    lowest, highest = (0, (1 << bits) - 1) if values.dtype.kind == "u" else (-(1 << bits - 1), (1 << bits - 1) - 1)
    if not in_place and lowest <= values.min() and values.max() <= highest:
        return values  # as nearly always; two reductions cost less than a copy
    kept = values if in_place else np.empty_like(values)
    if values.dtype.kind == "u":
        np.bitwise_and(values, values.dtype.type(highest), out=kept)
    else:
        np.left_shift(values, width - bits, out=kept)
        np.right_shift(kept, width - bits, out=kept)
    return kept


def _decode_native(data: Buffer, spec: ArraySpec) -> NDArray[Any]:
    """Decode uncompressed values in little-endian order (PS3.5 8.1.1, 8.2)."""
    dtype = np.dtype(spec.dtype)
    if spec.bits_allocated == 1:
        return _unpack_bits(data, spec.frame_shape).view(dtype)
    count = spec.rows * spec.columns * (2 if _is_subsampled(spec) else spec.samples)
    values = keep_bits(_values(data, dtype.newbyteorder("<"), count).astype(dtype, copy=False), spec.bits_stored)
    if _is_subsampled(spec):
        return _upsample(values)
    if spec.planar_configuration == 1:
        return _interleaved(values.reshape(spec.samples, spec.rows, spec.columns))
    return values


def _decode_deflated(data: Buffer, spec: ArraySpec) -> NDArray[Any]:
    """Decode a frame of Deflated Image Frame Compression: a native frame in RFC 1951 (PS3.5 A.4.13)."""
    size = (spec.rows * spec.columns * spec.samples * spec.bits_allocated + 7) // 8
    return _decode_native(zlib.decompressobj(-zlib.MAX_WBITS).decompress(data, size), spec)


def _decode_rle(data: Buffer, spec: ArraySpec) -> NDArray[Any]:
    """Decode a frame of RLE Lossless: one segment for each byte of each sample, highest first (PS3.5 annex G)."""
    data = bytes(data)
    if len(data) < 64:
        raise NotDicom(f"the RLE header is 64 bytes long, the frame {len(data)}")
    count, *offsets = struct.unpack_from("<16I", data)
    dtype = np.dtype(spec.dtype)
    planes = spec.samples * dtype.itemsize
    if count != planes:
        raise NotDicom(f"the RLE frame holds {count} segments, {planes} are expected")
    pixels = spec.rows * spec.columns
    size = pixels if spec.bits_allocated > 1 else (pixels + 7) // 8
    bounds = [*offsets[:count], len(data)]
    segment_bytes = np.empty(size + _RLE_SLACK, np.uint8)
    decoded = np.empty((spec.samples, size, dtype.itemsize), np.uint8)
    for index, (start, end) in enumerate(pairwise(bounds)):
        if not 64 <= start <= end <= len(data):
            raise NotDicom(f"RLE segment {index + 1} lies at {start}..{end} of {len(data)} bytes")
        segment = imagecodecs.packbits_decode(data[start:end], out=segment_bytes.data)
        if len(segment) < size:
            raise NotDicom(f"RLE segment {index + 1} holds {len(segment)} of {size} bytes")
        sample, byte = divmod(index, dtype.itemsize)
        decoded[sample, :, byte] = segment[:size]
    if spec.bits_allocated == 1:
        return _unpack_bits(decoded, spec.frame_shape).view(dtype)
    values = decoded.view(dtype.newbyteorder(">")).reshape(spec.samples, spec.rows, spec.columns)
    return keep_bits(_interleaved(values).astype(dtype), spec.bits_stored, in_place=True)


def _decode_jpeg(data: Buffer, spec: ArraySpec) -> NDArray[Any]:
    codestream = _checked(read_jpeg(bytes(data)), spec)
    unconverted = "YCBCR" if spec.samples == 3 else None
    values = imagecodecs.jpeg8_decode(codestream.data, colorspace=unconverted, outcolorspace=unconverted)
    return _fitted(values, spec, spec.bits_stored)


def _decode_jpeg_ls(data: Buffer, spec: ArraySpec) -> NDArray[Any]:
    codestream = _checked(read_jpeg(bytes(data)), spec)
    return _signed_as_told(imagecodecs.jpegls_decode(codestream.data), codestream, spec)


def _decode_jpeg2000(data: Buffer, spec: ArraySpec) -> NDArray[Any]:
    codestream = _checked(read_jpeg2000(bytes(data)), spec)
    return _signed_as_told(imagecodecs.jpeg2k_decode(codestream.data, numthreads=1), codestream, spec)


def _decode_htj2k(data: Buffer, spec: ArraySpec) -> NDArray[Any]:
    codestream = _checked(read_jpeg2000(bytes(data)), spec)
    return _signed_as_told(imagecodecs.htj2k_decode(codestream.data, planar=False), codestream, spec)


def _decode_jpeg_xl(data: Buffer, spec: ArraySpec) -> NDArray[Any]:
    codestream = _checked(read_jpeg_xl(bytes(data)), spec)
    values = imagecodecs.jpegxl_decode(codestream.data, keeporientation=True, numthreads=1)
    return _fitted(values, spec, spec.bits_stored)


def _checked(codestream: Codestream, spec: ArraySpec) -> Codestream:
    """Refuse a codestream of another size than the data set says, before anything is allocated for it."""
    samples = spec.samples if codestream.samples is None else codestream.samples
    if (codestream.rows, codestream.columns, samples) != (spec.rows, spec.columns, spec.samples):
        raise NotDicom(
            f"the codestream is {codestream.rows}x{codestream.columns}x{samples},"
            f" the data set says {spec.rows}x{spec.columns}x{spec.samples}"
        )
    if codestream.precision is not None and codestream.precision > 8 * np.dtype(spec.dtype).itemsize:
        raise NotDicom(f"the codestream is {codestream.precision}-bit, Bits Allocated is {spec.bits_allocated}")
    return codestream


def _signed_as_told(values: NDArray[Any], codestream: Codestream, spec: ArraySpec) -> NDArray[Any]:
    # JPEG-LS has no sign and some JPEG 2000 encoders get it wrong: the data set's sign holds, over the coded bits.
    bits = codestream.precision if codestream.precision and codestream.signed != spec.signed else spec.bits_allocated
    return _fitted(values, spec, bits)


def _fitted(values: NDArray[Any], spec: ArraySpec, bits: int) -> NDArray[Any]:
    dtype = np.dtype(spec.dtype)
    if values.shape != spec.frame_shape or values.dtype.kind not in "iu" or values.dtype.itemsize > dtype.itemsize:
        raise NotDicom(
            f"the codestream holds {values.shape} of {values.dtype}, the data set says {spec.frame_shape} of {dtype}"
        )
    return keep_bits(values.astype(dtype, copy=False), bits, in_place=True)


def _values(data: Buffer, dtype: np.dtype[Any], count: int) -> NDArray[Any]:
    size = memoryview(data).nbytes
    if size < count * dtype.itemsize:
        raise NotDicom(f"the frame is cut short: {size} of {count * dtype.itemsize} bytes")
    return np.frombuffer(data, dtype, count)


def _unpack_bits(data: Buffer, shape: tuple[int, ...]) -> NDArray[np.uint8]:
    """Unpack 1-bit pixels, the first in the lowest bit (PS3.5 8.1.1); frames follow each other without a gap."""
    packed = _values(data, np.dtype(np.uint8), (prod(shape) + 7) // 8)
    return np.unpackbits(packed, count=prod(shape), bitorder="little").reshape(shape)


def _is_subsampled(spec: ArraySpec) -> bool:
    return spec.photometric == "YBR_FULL_422" and spec.samples == 3


def _upsample(values: NDArray[Any]) -> NDArray[Any]:
    """Give each of two neighbours its Cb and Cr: Y1 Y2 Cb Cr becomes Y1 Cb Cr Y2 Cb Cr (PS3.3 C.7.6.3.1.2)."""
    if len(values) % 4:
        raise NotDicom("a frame of YBR_FULL_422 needs an even number of pixels")
    return np.take(values.reshape(-1, 4), [0, 2, 3, 1, 2, 3], axis=1)


def _interleaved(planes: NDArray[Any]) -> NDArray[Any]:
    """Bring ``(samples, rows, columns)`` to ``(rows, columns, samples)`` (PS3.3 C.7.6.3.1.3)."""
    return np.ascontiguousarray(np.moveaxis(planes, 0, -1))


_JPEG = (
    uid.JPEGBaseline8Bit,
    uid.JPEGExtended12Bit,
    _JPEG_SPECTRAL_SELECTION,
    _JPEG_FULL_PROGRESSION,
    uid.JPEGLossless,
    uid.JPEGLosslessSV1,
)
_JPEG_LS = (uid.JPEGLSLossless, uid.JPEGLSNearLossless)

_DECODERS: Mapping[str, Callable[[Buffer, ArraySpec], NDArray[Any]]] = {
    **dict.fromkeys([*NATIVE, _ENCAPSULATED_UNCOMPRESSED], _decode_native),
    _DEFLATED_FRAMES: _decode_deflated,
    uid.RLELossless: _decode_rle,
    **dict.fromkeys(_JPEG, _decode_jpeg),
    **dict.fromkeys(_JPEG_LS, _decode_jpeg_ls),
    **dict.fromkeys([uid.JPEG2000Lossless, uid.JPEG2000], _decode_jpeg2000),
    **dict.fromkeys([uid.HTJ2KLossless, uid.HTJ2KLosslessRPCL, uid.HTJ2K], _decode_htj2k),
    **dict.fromkeys(_JPEG_XL, _decode_jpeg_xl),
}

DECODABLE = frozenset(_DECODERS)
"""The transfer syntaxes whose frames `decode_frame` decodes."""

ALWAYS_LOSSY = frozenset(
    {uid.JPEGBaseline8Bit, uid.JPEGExtended12Bit, _JPEG_SPECTRAL_SELECTION, _JPEG_FULL_PROGRESSION}
)
"""The transfer syntaxes whose every frame has lost something; others may hold lossy pixels or not."""
