"""A stored file as Explicit VR Little Endian, which every client reads (PS3.18 8.7.3.4, PS3.5 A.2).

The bytes of every value stay as they are, turned to little-endian order where they were not; only what has to
change is written anew: element headers, the file meta information and, for compressed pixels, the pixel data.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import chain
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from readingroom.errors import NotAcceptable, NotDicom
from storage.dicomjson import BIG, DEFAULT_LIMITS, UNDEFINED, Buffer, Limits, MetadataJson, has_vr
from storage.objects import ArraySpec, Scan, frame_payload, inflate, scan
from storage.part10 import EXPLICIT_LITTLE, Front, read_front
from storage.pixels import decode_frame, decoded_photometric

PIECE_BYTES = 1 << 20

_FILE_META_AT = 132
_LONG_HEADER = frozenset({"OB", "OD", "OF", "OL", "OV", "OW", "SQ", "SV", "UC", "UN", "UR", "UT", "UV"})
_WORD_BYTES = {
    **dict.fromkeys(("AT", "OW", "SS", "US"), 2),
    **dict.fromkeys(("FL", "OF", "OL", "SL", "UL"), 4),
    **dict.fromkeys(("FD", "OD", "OV", "SV", "UV"), 8),
}
_PADDED_BY_ZERO = frozenset({"OB", "UI", "UN"})
_ITEM_END, _SEQUENCE_END = 0xFFFEE00D, 0xFFFEE0DD
_PIXEL_DATA = "7FE00010"
_OFFSET_TABLES = frozenset({"7FE00001", "7FE00002"})
_OPEN_ITEM = struct.pack("<HHI", 0xFFFE, 0xE000, UNDEFINED)
_CLOSE_ITEM = struct.pack("<HHI", 0xFFFE, 0xE00D, 0)
_CLOSE_SEQUENCE = struct.pack("<HHI", 0xFFFE, 0xE0DD, 0)
_LARGEST_VALUE = UNDEFINED - 1


def explicit_little_endian(data: Buffer, limits: Limits = DEFAULT_LIMITS) -> Iterator[Buffer]:
    """Write a received file anew in Explicit VR Little Endian, piece by piece; compressed pixels are decompressed.

    Sequences get undefined lengths, so that nothing has to be known before it is written; group lengths and trailing
    padding are left out. Large values come as views of `data`, decompressed frames one by one.

    Parameters
    ----------
    data
        The file as received; an ``mmap`` of any size.

    Raises
    ------
    NotAcceptable
        The pixels, or an icon within the data set, cannot be written uncompressed.
    NotDicom
        The file cannot be read that far.
    """
    front = read_front(data, limits)
    if front.is_deflated:
        yield from _pieces(memoryview(inflate(data, limits)))
        return
    found = scan(data, limits)
    pixels = _decompressed(data, found) if found.spec and found.spec.encoding == "encapsulated" else None
    body = _Rewrite(data, front.implicit, front.order is BIG, pixels)
    try:
        head = bytes(data[:_FILE_META_AT]) + _file_meta(data, front)
        yield from _gathered(chain([head], body.data_set(found.metadata, front.data_set_at, len(data))))
    except struct.error as error:
        raise NotDicom(f"the data set is cut short: {error}") from None


def native_bytes(values: NDArray[Any], spec: ArraySpec, *, planar: bool = False) -> bytes:
    """Stored values as native pixels in little-endian order (PS3.5 8.1.1, 8.2), samples by plane or by pixel."""
    if spec.bits_allocated == 1:
        return bytes(np.packbits(values, bitorder="little"))
    if planar and spec.samples > 1:
        values = np.moveaxis(values, -1, 0)
    return values.astype(values.dtype.newbyteorder("<"), copy=False).tobytes()


def little_endian(value: memoryview, vr: str, *, word: int | None = None) -> bytes | memoryview:
    """A big-endian value in little-endian order; `word` is the size of its words where `vr` does not tell."""
    size = word or _WORD_BYTES.get(vr, 1)
    if size == 1:
        return value
    whole = len(value) - len(value) % size
    return np.frombuffer(value[:whole], f"u{size}").byteswap().tobytes() + bytes(value[whole:])


@dataclass(frozen=True, slots=True, kw_only=True)
class _Pixels:
    """Decompressed pixels that take the place of compressed ones; `frames` are decoded as they are written."""

    length: int
    frames: Iterator[bytes]
    photometric: str
    bits_allocated: int


def _decompressed(data: Buffer, found: Scan) -> _Pixels:
    spec = found.spec
    assert spec is not None
    bits = spec.rows * spec.columns * spec.samples * spec.bits_allocated
    length = (spec.frames * bits + 7) // 8
    if length > _LARGEST_VALUE:
        raise NotAcceptable(f"{length} bytes of pixels are too long for Explicit VR Little Endian (PS3.5 7.1)")

    def bitstream(index: int) -> bytes:
        offset, size = found.chunks[index]
        return frame_payload(spec, bytes(data[offset : offset + size]), index)

    def decode(index: int) -> NDArray[Any]:
        try:
            return decode_frame(bitstream(index), spec)
        except NotDicom as error:
            raise NotAcceptable(f"A frame cannot be decompressed ({error}); ask for transfer-syntax=*") from None

    first = decode(0)  # now, while the answer can still be an error
    frames = chain([first], map(decode, range(1, spec.frames)))
    return _Pixels(
        length=length,
        frames=_packed(frames) if spec.bits_allocated == 1 else (native_bytes(frame, spec) for frame in frames),
        photometric=decoded_photometric(bitstream(0), spec),
        bits_allocated=spec.bits_allocated,
    )


def _packed(frames: Iterable[NDArray[Any]]) -> Iterator[bytes]:
    """1-bit frames, each beginning at the bit after the last (PS3.5 8.1.1)."""
    rest = np.empty(0, np.uint8)
    for frame in frames:
        bits = np.concatenate([rest, frame.ravel()])
        whole = bits.size - bits.size % 8
        yield bytes(np.packbits(bits[:whole], bitorder="little"))
        rest = bits[whole:]
    yield bytes(np.packbits(rest, bitorder="little"))


def _file_meta(data: Buffer, front: Front) -> bytes:
    """The file meta information with the new transfer syntax, and a group length that is right (PS3.10 7.1)."""
    implicit = not has_vr(data, _FILE_META_AT, len(data))
    file_meta = {**front.file_meta, "00020010": {"vr": "UI"}}
    rewrite = _Rewrite(data, implicit, False, None)
    elements = {
        found.key: b"".join(rewrite.element(found, file_meta[found.key], implicit))
        for found in rewrite.elements(file_meta, _FILE_META_AT, front.data_set_at, implicit)
    }
    uid = EXPLICIT_LITTLE.encode() + b"\0" * (len(EXPLICIT_LITTLE) % 2)
    elements["00020010"] = _head("00020010", "UI", len(uid)) + uid
    elements.pop("00020000", None)
    group = b"".join(elements[key] for key in sorted(elements))
    return _head("00020000", "UL", 4) + struct.pack("<I", len(group)) + group


class _Found(NamedTuple):
    """An element: its VR by the JSON, and where its value is."""

    key: str
    vr: str
    start: int
    end: int


class _Rewrite:
    """One pass over a data set, side by side with its JSON, which knows every VR."""

    def __init__(self, data: Buffer, implicit: bool, is_big: bool, pixels: _Pixels | None) -> None:
        self.view = memoryview(data)
        self.implicit = implicit
        self.is_big = is_big
        self.mark = ">" if is_big else "<"
        self.pixels = pixels

    def data_set(self, metadata: MetadataJson, at: int, end: int) -> Iterator[Buffer]:
        """The elements of the main data set."""
        bits = _first(metadata, "00280100")
        pixel_word = bits // 8 if isinstance(bits, int) and bits > 8 else None
        for found in self.elements(metadata, at, end, self.implicit, main=True):
            key = found.key
            if self.pixels and key in _OFFSET_TABLES:
                continue
            if self.pixels and key == _PIXEL_DATA:
                yield from _written(self.pixels)
            elif self.pixels and key == "00280004":
                photometric = self.pixels.photometric.encode()
                yield _head(key, "CS", len(photometric) + len(photometric) % 2)
                yield photometric + b" " * (len(photometric) % 2)
            elif self.pixels and key == "00280006":
                yield _head(key, "US", 2) + struct.pack("<H", 0)
            else:
                word = pixel_word if key == _PIXEL_DATA else None
                yield from self.element(found, metadata[key], self.implicit, word)

    def element(
        self, found: _Found, element: Mapping[str, Any], implicit: bool, word: int | None = None
    ) -> Iterator[Buffer]:
        """An element in its new form; `word` is the size of its words where its VR does not tell."""
        key, vr, start, end = found
        if vr == "SQ":
            yield _head(key, "SQ", UNDEFINED)
            yield from self._items(element.get("Value", []), start, end, implicit)
            yield _CLOSE_SEQUENCE
            return
        length = end - start
        if vr not in _LONG_HEADER and length > 0xFFFF:
            vr = "UN"  # PS3.5 6.2.2: too long for a 16-bit length
        yield _head(key, vr, length + length % 2)
        for piece in _pieces(self.view[start:end]):
            yield little_endian(piece, found.vr, word=word) if self.is_big else piece
        if length % 2:
            yield b"\0" if vr in _PADDED_BY_ZERO else b" "

    def _items(self, items: list[MetadataJson], at: int, end: int, implicit: bool) -> Iterator[Buffer]:
        for item in items:
            if at + 8 > len(self.view):
                return  # the file was cut short; what there is of it is sent
            _, length = self._tag(at)
            at += 8
            stop = end if length == UNDEFINED else min(at + length, len(self.view))
            is_implicit = implicit or not has_vr(self.view, at, stop)
            yield _OPEN_ITEM
            for found in self.elements(item, at, stop, is_implicit):
                yield from self.element(found, item[found.key], is_implicit)
            yield _CLOSE_ITEM
            at = self._past_item(at, length, is_implicit)

    def elements(
        self, metadata: MetadataJson, at: int, end: int, implicit: bool, *, main: bool = False
    ) -> Iterator[_Found]:
        """Every element that the JSON has."""
        while at + 8 <= end:
            tag, _ = self._tag(at)
            if tag == _ITEM_END:
                return
            start, length, is_sequence = self._header(at, implicit)
            key = f"{tag:08X}"
            vr = metadata[key]["vr"] if key in metadata else ""
            if length != UNDEFINED:
                past = value_end = min(start + length, end)
            elif vr == "SQ" or is_sequence:
                past = value_end = self._past_items(start, implicit)
            elif main and key == _PIXEL_DATA and self.pixels:
                past = value_end = self._past_fragments(start)
            else:
                raise NotAcceptable(
                    f"({key[:4]},{key[4:]}) is compressed within the data set; ask for transfer-syntax=*"
                )
            if vr:
                yield _Found(key, vr, start, value_end)
            at = past

    def _tag(self, at: int) -> tuple[int, int]:
        group, element, length = struct.unpack_from(f"{self.mark}HHI", self.view, at)
        return group << 16 | element, length

    def _header(self, at: int, implicit: bool) -> tuple[int, int, bool]:
        """Where the value starts, its length, and whether the header says that it is a sequence."""
        if not implicit and has_vr(self.view, at, len(self.view)):
            vr = str(self.view[at + 4 : at + 6], "ascii")
            if vr in _LONG_HEADER:
                (length,) = struct.unpack_from(f"{self.mark}I", self.view, at + 8)
                return at + 12, length, vr == "SQ"
            (length,) = struct.unpack_from(f"{self.mark}H", self.view, at + 6)
            return at + 8, length, False
        return at + 8, self._tag(at)[1], False

    def _past_items(self, at: int, implicit: bool) -> int:
        """Where a sequence of undefined length ends, its delimiter included."""
        while at + 8 <= len(self.view):
            tag, length = self._tag(at)
            at += 8
            if tag == _SEQUENCE_END:
                return at
            at = self._past_item(at, length, implicit or not has_vr(self.view, at, len(self.view)))
        return at

    def _past_item(self, at: int, length: int, implicit: bool) -> int:
        if length != UNDEFINED:
            return at + length
        while at + 8 <= len(self.view):
            tag, _ = self._tag(at)
            if tag == _ITEM_END:
                return at + 8
            start, value_length, _ = self._header(at, implicit)
            at = start + value_length if value_length != UNDEFINED else self._past_items(start, implicit)
        return at

    def _past_fragments(self, at: int) -> int:
        while at + 8 <= len(self.view):
            tag, length = self._tag(at)
            at += 8
            if tag == _SEQUENCE_END:
                break
            at += length
        return at


def _written(pixels: _Pixels) -> Iterator[Buffer]:
    yield _head(_PIXEL_DATA, "OW" if pixels.bits_allocated > 8 else "OB", pixels.length + pixels.length % 2)
    yield from pixels.frames
    if pixels.length % 2:
        yield b"\0"


def _first(metadata: MetadataJson, key: str) -> Any:
    values = metadata.get(key, {}).get("Value")
    return values[0] if values else None


def _head(key: str, vr: str, length: int) -> bytes:
    group, element = int(key[:4], 16), int(key[4:], 16)
    if vr in _LONG_HEADER:
        return struct.pack("<HH2sHI", group, element, vr.encode(), 0, length)
    return struct.pack("<HH2sH", group, element, vr.encode(), length)


def _pieces(view: memoryview) -> Iterator[memoryview]:
    for at in range(0, len(view), PIECE_BYTES):
        yield view[at : at + PIECE_BYTES]


def _gathered(pieces: Iterator[Buffer]) -> Iterator[Buffer]:
    """Small pieces joined, large ones left alone."""
    small = bytearray()
    for piece in pieces:
        if len(piece) < PIECE_BYTES // 16:
            small += piece
            if len(small) < PIECE_BYTES // 4:
                continue
            piece = b""
        if small:
            yield bytes(small)
            small.clear()
        if len(piece):
            yield piece
    if small:
        yield bytes(small)
