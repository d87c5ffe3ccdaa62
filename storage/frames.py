"""Where the frames of an instance lie: from the image's description and its pixel data element to zarr chunks."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from storage.arrays import ArraySpec, Chunks, frame_bits
from storage.dicomjson import PIXEL_ELEMENTS, Buffer, Limits, MetadataJson, PixelElement, first_value
from storage.part10 import EXPLICIT_BIG, EXPLICIT_LITTLE, IMPLICIT_LITTLE

_NATIVE = frozenset({IMPLICIT_LITTLE, EXPLICIT_LITTLE, EXPLICIT_BIG})
_VIDEO = ("1.2.840.10008.1.2.4.10", "1.2.840.10008.1.2.7.")  # MPEG-2, MPEG-4, HEVC; SMPTE ST 2110
_END_OF_IMAGE = b"\xff\xd9"  # JPEG, JPEG-LS and JPEG 2000 alike


_OVERLAY_BIT_POSITIONS = tuple(f"60{group:02X}0102" for group in range(0, 0x20, 2))

Numbers = np.ndarray[Any, np.dtype[Any]]


class Opaque(Exception):
    """Why an instance has no frames that can be addressed."""


def find_frames(
    data: Buffer, transfer_syntax: str, metadata: MetadataJson, pixels: list[PixelElement], limits: Limits
) -> tuple[ArraySpec, Chunks]:
    """How the frames lie in an array, and where each chunk is.

    Raises
    ------
    Opaque
        They cannot be addressed; says why.
    """
    images = [element for element in pixels if element.tag in PIXEL_ELEMENTS]
    if len(images) != 1:
        raise Opaque("no pixel data" if not images else f"{len(images)} pixel data elements")
    (element,) = images
    spec = _describe(transfer_syntax, metadata, element)
    if spec.frames > limits.max_elements:
        raise Opaque(f"{spec.frames} frames are more than {limits.max_elements}")
    if element.fragments is None:
        return _native(spec, element)
    extended = next((table for table in pixels if table.tag == "7FE00001"), None)
    return _encapsulated(data, spec, element, extended)


def _describe(transfer_syntax: str, metadata: MetadataJson, element: PixelElement) -> ArraySpec:
    """The Image Pixel module (PS3.3 C.7.6.3), refused where it says nothing that an array could be."""
    is_float = element.tag != "7FE00010"
    bits_allocated = _number(metadata, "00280100", "Bits Allocated")
    samples = _number(metadata, "00280002", "Samples per Pixel", 1)
    bits_stored = _number(metadata, "00280101", "Bits Stored", bits_allocated)
    photometric = first_value(metadata, "00280004") or ""
    if not isinstance(photometric, str) or len(photometric) > 16:
        raise Opaque("Photometric Interpretation is no code of up to 16 characters")
    spec = ArraySpec(
        transfer_syntax=transfer_syntax,
        rows=_number(metadata, "00280010", "Rows"),
        columns=_number(metadata, "00280011", "Columns"),
        samples=samples,
        bits_allocated=bits_allocated,
        bits_stored=min(bits_stored or bits_allocated, bits_allocated),
        signed=not is_float and _number(metadata, "00280103", "Pixel Representation", 0) == 1,
        planar_configuration=_number(metadata, "00280006", "Planar Configuration", 0) if samples > 1 else 0,
        photometric=photometric,
        frames=_number(metadata, "00280008", "Number of Frames", 1) or 1,
        pixel_element=element.tag,  # type: ignore[arg-type]
        pixel_vr=element.vr,
        encoding="native" if element.fragments is None else "encapsulated",
        holds_overlays=bits_stored < bits_allocated
        and any(first_value(metadata, key) for key in _OVERLAY_BIT_POSITIONS),
    )
    widths = {"7FE00010": (1, 8, 16, 32, 64), "7FE00008": (32,), "7FE00009": (64,)}[element.tag]
    if bits_allocated not in widths:
        raise Opaque(f"{bits_allocated} bits allocated in {element.tag}; an array has one of {widths}")
    if not (0 < spec.rows < 1 << 16 and 0 < spec.columns < 1 << 16 and 1 <= samples <= 4):
        raise Opaque(f"{spec.rows} rows, {spec.columns} columns and {samples} samples are no image")
    if spec.planar_configuration not in (0, 1):
        raise Opaque(f"planar configuration {spec.planar_configuration} is neither 0 nor 1")
    return spec


def _number(metadata: MetadataJson, key: str, name: str, default: int | None = None) -> int:
    value = first_value(metadata, key)
    if value is None and default is not None:
        return default
    if not isinstance(value, int) or not 0 <= value < 1 << 32:
        raise Opaque(f"{name} is {'missing' if value is None else repr(value)[:20]}")
    return value


def _native(spec: ArraySpec, element: PixelElement) -> tuple[ArraySpec, Chunks]:
    if spec.transfer_syntax not in _NATIVE:
        raise Opaque(f"native pixel data in transfer syntax {spec.transfer_syntax}")
    bits, length = frame_bits(spec), element.length
    needed = (bits * spec.frames + 7) // 8
    sized = (
        f"{spec.rows} x {spec.columns} x {spec.samples} samples x {spec.frames} frames of {spec.bits_allocated} bits"
    )
    if length < needed:
        raise Opaque(f"{length} bytes of pixel data for {sized}, which need {needed}")
    if spec.photometric == "YBR_FULL_422":
        if spec.columns % 2 or spec.samples != 3:
            raise Opaque(f"YBR_FULL_422 of {spec.columns} columns and {spec.samples} samples")
        if length >= needed // 2 * 3:
            raise Opaque(f"{length} bytes of pixel data are a half more than YBR_FULL_422 {sized} have")
    if bits % 8:
        if spec.samples > 1 or spec.swapped > 1:
            raise Opaque(f"1-bit frames off a byte boundary with {spec.samples} samples in {spec.pixel_vr}")
        return replace(spec, encoding="bits"), Chunks.of([(element.offset, needed)])
    frame_bytes = bits // 8
    if spec.swapped == 2 and frame_bytes % 2:  # 8-bit samples in big-endian words
        if spec.frames > 1 or length <= frame_bytes:
            raise Opaque("frames of an odd length in big-endian words")
        frame_bytes += 1
    return spec, Chunks.stride(element.offset, frame_bytes, spec.frames)


def _encapsulated(
    data: Buffer, spec: ArraySpec, element: PixelElement, extended: PixelElement | None
) -> tuple[ArraySpec, Chunks]:
    """Fragments to frames (PS3.5 A.4): by count, then by the offset tables, then by end-of-image markers."""
    _check_encapsulated(spec)
    assert element.fragments is not None
    if len(element.fragments) < 4:
        raise Opaque("no fragments")
    basic, basic_length = element.fragments[:2]
    fragments = np.frombuffer(element.fragments, "<u8").reshape(-1, 2)[1:]
    if len(fragments) == spec.frames:
        return spec, Chunks(fragments.copy())
    if len(fragments) < spec.frames:
        raise Opaque(f"{len(fragments)} fragments for {spec.frames} frames")
    starts = np.zeros(1, np.int64)
    if spec.frames > 1:
        offsets = np.frombuffer(data[basic : basic + basic_length], "<u4", basic_length // 4).astype("<u8")
        if extended is not None and extended.length >= 8:
            offsets = np.frombuffer(data[extended.offset : extended.offset + extended.length // 8 * 8], "<u8")
        starts = (
            _starts_by_offset(offsets, fragments, spec) if len(offsets) else _starts_by_marker(data, fragments, spec)
        )
    ends = np.append(starts[1:], len(fragments))
    first, last = fragments[starts], fragments[ends - 1]
    chunks = np.empty((spec.frames, 2), dtype="<u8")
    chunks[:, 0] = first[:, 0] - 8  # from the first item's tag
    chunks[:, 1] = last[:, 0] + last[:, 1] - chunks[:, 0]
    return replace(spec, framing="items"), Chunks(chunks)


def _check_encapsulated(spec: ArraySpec) -> None:
    if spec.pixel_element != "7FE00010":
        raise Opaque(f"fragments in {spec.pixel_element}")
    if spec.transfer_syntax in _NATIVE or not spec.transfer_syntax.startswith("1.2.840.10008.1.2."):
        raise Opaque(f"fragments in transfer syntax {spec.transfer_syntax}")
    if spec.transfer_syntax.startswith(_VIDEO):
        raise Opaque(f"{spec.transfer_syntax} is a video, whose frames are no bitstreams of their own")
    if spec.bits_allocated > 32:
        raise Opaque(f"{spec.bits_allocated} bits allocated in fragments")


def _starts_by_offset(offsets: Numbers, fragments: Numbers, spec: ArraySpec) -> Numbers:
    """Which fragment each frame starts with, by an offset table (PS3.5 A.4, PS3.3 C.7.6.3.1.8)."""
    places = fragments[:, 0] - fragments[0, 0]
    starts = np.searchsorted(places, offsets)
    if (
        len(offsets) != spec.frames
        or starts[0] != 0
        or starts[-1] >= len(places)
        or not np.array_equal(places[starts], offsets)
        or not np.all(np.diff(starts) > 0)
    ):
        raise Opaque(f"an offset table of {len(offsets)} that does not fit {len(fragments)} fragments")
    return starts


def _starts_by_marker(data: Buffer, fragments: Numbers, spec: ArraySpec) -> Numbers:
    """Which fragment each frame starts with, by the end-of-image markers before it."""
    ends = [
        index
        for index, (offset, length) in enumerate(fragments.tolist())
        if _END_OF_IMAGE in bytes(data[offset + max(length - 10, 0) : offset + length])
    ]
    if len(ends) != spec.frames or ends[-1] != len(fragments) - 1:
        raise Opaque(f"{len(fragments)} fragments for {spec.frames} frames, and no offset table")
    return np.array([0, *(end + 1 for end in ends[:-1])])
