"""A stored file written anew: in another transfer syntax, with other attributes, or both (PS3.5 Annex A, PS3.10 7).

The bytes of every value stay as they are, turned to little-endian order where they were not; only what has to
change is written anew: element headers, the file meta information, changed attributes and transcoded pixel data.
What is written is Explicit VR Little Endian, deflated or with encapsulated pixels where the transfer syntax says so.
"""

from __future__ import annotations

import re
import struct
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import chain
from tempfile import SpooledTemporaryFile
from typing import Any, NamedTuple

import numpy as np

from readingroom.errors import Invalid, NotAcceptable, NotDicom
from storage.dicomjson import (
    BIG,
    DEFAULT_LIMITS,
    LONG_HEADER,
    PIXEL_ELEMENTS,
    UNDEFINED,
    Buffer,
    Limits,
    MetadataJson,
    first_value,
    has_vr,
)
from storage.elements import (
    CLOSE_ITEM,
    CLOSE_SEQUENCE,
    OPEN_ITEM,
    TEXTS,
    UTF_8,
    UTF_8_TERM,
    NotInCharacterSet,
    fitting_vr,
    head,
    padding,
    write_element,
)
from storage.encode import encoded_spec, is_lossy, refusal, transcode_exactly
from storage.objects import ArraySpec, Scan, frame_payload, inflate, scan
from storage.part10 import DEFLATED, EXPLICIT_BIG, EXPLICIT_LITTLE, IMPLICIT_LITTLE, INFLATED, Front, read_front
from storage.pixels import ALWAYS_LOSSY, decoded_photometric
from storage.values import Codecs, character_set, decode_text

PIECE_BYTES = 1 << 20

Overlay = Mapping[str, Mapping[str, Any] | None]
"""Attributes of the main data set by tag, in the DICOM JSON model, in place of the stored ones; None leaves one out."""

Transcode = Callable[[bytes, ArraySpec, str], bytes]
"""As `storage.encode.transcode_exactly`."""

_FILE_META_AT = 132
_WORD_BYTES = {
    **dict.fromkeys(("AT", "OW", "SS", "US"), 2),
    **dict.fromkeys(("FL", "OF", "OL", "SL", "UL"), 4),
    **dict.fromkeys(("FD", "OD", "OV", "SV", "UV"), 8),
}
_ITEM_END, _SEQUENCE_END = 0xFFFEE00D, 0xFFFEE0DD
_PIXEL_DATA = "7FE00010"
_OFFSET_TABLES = ("7FE00001", "7FE00002")
_CHARACTER_SET = "00080005"
_TRANSFER_SYNTAX = "00020010"
_FILE_META_OF = {"00080016": "00020002", "00080018": "00020003"}
_LARGEST_VALUE = _LARGEST_BASIC_OFFSET = UNDEFINED - 1
_SPOOL_BYTES = 16 << 20
_ITEM = struct.Struct("<HHI")
_NEVER_WRITTEN = frozenset({IMPLICIT_LITTLE, EXPLICIT_BIG})
_NATIVE = _NEVER_WRITTEN | {EXPLICIT_LITTLE, DEFLATED}
_STANDARD = "1.2.840.10008."
_AS_STORED = "ask for transfer-syntax=*."
_TAG = re.compile(r"(?!FFFC|FFFE|0002|7FE0)[0-9A-F]{4}(?!0000)[0-9A-F]{4}")


def rewrite(
    data: Buffer,
    target: str | None = None,
    *,
    overlay: Overlay | None = None,
    transcode: Transcode = transcode_exactly,
    limits: Limits = DEFAULT_LIMITS,
) -> Iterator[Buffer]:
    """Write a received file anew, piece by piece.

    Sequences get undefined lengths, so that nothing has to be known before it is written; group lengths and trailing
    padding are left out. Large values come as views of `data`, transcoded frames one by one. Pixels whose transfer
    syntax stays are not touched.

    Parameters
    ----------
    data
        The file as received; an ``mmap`` of any size.
    target
        The UID of the transfer syntax to write; None for that of the file, or for Explicit VR Little Endian where
        the file is in one that PS3.18 8.7.3 keeps off the web.
    overlay
        What to change. Texts that the file's character set cannot carry make the whole data set UTF-8 (ISO_IR 192);
        Specific Character Set (0008,0005) is therefore not the overlay's to set, and ignored in it.
    transcode
        What makes the bitstream of a frame in another transfer syntax.

    Raises
    ------
    NotAcceptable
        The pixels, or an icon within the data set, cannot be written so.
    NotDicom
        The file cannot be read that far.
    Invalid
        The overlay holds what cannot be written.
    """
    front = read_front(data, limits)
    target = target or (EXPLICIT_LITTLE if front.transfer_syntax in _NEVER_WRITTEN else front.transfer_syntax)
    if target in _NEVER_WRITTEN:
        raise NotAcceptable(f"Nothing is written in transfer syntax {target}; ask for {EXPLICIT_LITTLE}.")
    if front.is_deflated:
        data = inflate(data, limits)
        front = read_front(data, limits)
    if front.implicit and target == front.transfer_syntax and not target.startswith(_STANDARD):
        raise NotAcceptable(f"Transfer syntax {target} is not known here; retrieve the instance as it was received.")
    found = scan(data, limits)
    pixels = _changed_pixels(data, found, target, transcode)
    changes = _Changes.of(found.metadata, overlay or {}, pixels)
    body = _Rewrite(data, front.implicit, front.order is BIG, changes, keeps_fragments=pixels is None)
    try:
        start = bytes(data[:_FILE_META_AT]) + _file_meta(data, front, target, overlay or {})
        data_set = body.data_set(found.metadata, front.data_set_at, len(data))
        yield from _gathered(chain([start], _deflated(data_set) if target in INFLATED else data_set))
    except struct.error as error:
        raise NotDicom(f"the data set is cut short: {error}") from None


def little_endian(value: memoryview, vr: str, *, word: int | None = None) -> bytes | memoryview:
    """A big-endian value in little-endian order; `word` is the size of its words where `vr` does not tell."""
    size = word or _WORD_BYTES.get(vr, 1)
    if size == 1:
        return value
    whole = len(value) - len(value) % size
    return np.frombuffer(value[:whole], f"u{size}").byteswap().tobytes() + bytes(value[whole:])


@dataclass(frozen=True, slots=True, kw_only=True)
class _Pixels:
    """Pixel data in another transfer syntax: what it changes in the data set, and its element in pieces."""

    attributes: Overlay
    element: Iterator[Buffer]


def _changed_pixels(data: Buffer, found: Scan, target: str, transcode: Transcode) -> _Pixels | None:
    """The pixel data as it has to be written; None where it stays as it is, or there is none."""
    stored = found.transfer_syntax
    if stored == INFLATED.get(target, target) or (stored in _NATIVE and target in _NATIVE):
        return None
    if found.spec is None:
        if target in _NATIVE and found.metadata.keys().isdisjoint(PIXEL_ELEMENTS):
            return None
        raise NotAcceptable(f"The pixels cannot be written in {target} ({found.opaque_reason}); {_AS_STORED}")
    spec = found.spec

    def bitstream(index: int) -> bytes:
        offset, size = found.chunks[0 if spec.encoding == "bits" else index]
        return frame_payload(spec, bytes(data[offset : offset + size]), index)

    if reason := refusal(spec, target):
        raise NotAcceptable(f"The pixels cannot be written in {target}: {reason}; {_AS_STORED}")
    if is_lossy(spec, target):
        raise NotAcceptable(
            f"An instance in {target} would be another one, with another UID (PS3.3 C.7.6.1.1.5);"
            " ask for its frames, or for a rendered image."
        )
    frames = (transcode(bitstream(index), spec, target) for index in range(spec.frames))
    try:
        written = encoded_spec(spec, target, decoded_photometric(bitstream(0), spec))
    except NotDicom as error:
        raise NotAcceptable(f"The pixels cannot be decompressed ({error.message}); {_AS_STORED}") from None
    element = _native_element(frames, written) if target in _NATIVE else _encapsulated_element(frames)
    return _Pixels(attributes=_pixel_attributes(found.metadata, spec, written), element=element)


def _pixel_attributes(metadata: MetadataJson, spec: ArraySpec, written: ArraySpec) -> Overlay:
    """What the pixels in their new form are (PS3.5 8.2), and that they were compressed with loss where they were."""
    attributes: dict[str, Mapping[str, Any] | None] = dict.fromkeys(_OFFSET_TABLES, None)
    attributes["00280004"] = {"vr": "CS", "Value": [written.photometric]}
    if written.samples > 1:
        attributes["00280006"] = {"vr": "US", "Value": [written.planar_configuration]}
    if spec.transfer_syntax in ALWAYS_LOSSY and first_value(metadata, "00282110") != "01":
        attributes["00282110"] = {"vr": "CS", "Value": ["01"]}  # PS3.3 C.7.6.1.1.5: it stays so once decompressed
    return attributes


def _native_element(frames: Iterator[bytes], spec: ArraySpec) -> Iterator[Buffer]:
    """Uncompressed frames, one after the other, the first made now, while the answer can still be an error."""
    bits = spec.rows * spec.columns * spec.samples * spec.bits_allocated
    length = (spec.frames * bits + 7) // 8
    if length > _LARGEST_VALUE:
        raise NotAcceptable(f"{length} bytes of pixels are too long for {spec.transfer_syntax} (PS3.5 7.1)")
    frames = chain([next(frames)], frames)
    return chain(
        [head(_PIXEL_DATA, spec.pixel_vr, length + length % 2)],
        _packed(frames, bits) if bits % 8 else frames,
        [b"\0" * (length % 2)],
    )


def _encapsulated_element(frames: Iterable[bytes]) -> Iterator[Buffer]:
    """Compressed frames, a fragment each, behind the table of their offsets (PS3.5 A.4).

    The table comes first and knows the length of every frame, so all are made before anything is sent: beyond
    `_SPOOL_BYTES` they wait on disk. What cannot be made is therefore an error, never half an answer.
    """
    spool = SpooledTemporaryFile(max_size=_SPOOL_BYTES)  # noqa: SIM115 - closed when it has been sent
    lengths = []
    for frame in frames:
        spool.write(_ITEM.pack(0xFFFE, 0xE000, len(frame) + len(frame) % 2) + frame + b"\0" * (len(frame) % 2))
        lengths.append(len(frame))
    return _spooled_element(spool, lengths)


def _spooled_element(spool: SpooledTemporaryFile[bytes], lengths: list[int]) -> Iterator[Buffer]:
    with spool:
        offsets = np.cumsum([0, *(8 + length + length % 2 for length in lengths)])[:-1]
        table = b""
        if offsets[-1] <= _LARGEST_BASIC_OFFSET:
            table = offsets.astype("<u4").tobytes()
        else:  # PS3.3 C.7.6.3.1.8, C.7.6.3.1.9
            yield head("7FE00001", "OV", 8 * len(offsets)) + offsets.astype("<u8").tobytes()
            yield head("7FE00002", "OV", 8 * len(offsets)) + np.array(lengths, "<u8").tobytes()
        yield head(_PIXEL_DATA, "OB", UNDEFINED) + _ITEM.pack(0xFFFE, 0xE000, len(table)) + table
        spool.seek(0)
        while piece := spool.read(PIECE_BYTES):
            yield piece
        yield CLOSE_SEQUENCE


def _packed(frames: Iterable[bytes], bits: int) -> Iterator[bytes]:
    """1-bit frames, each beginning at the bit after the last (PS3.5 8.1.1)."""
    rest = np.empty(0, np.uint8)
    for frame in frames:
        found = np.unpackbits(np.frombuffer(frame, np.uint8), count=bits, bitorder="little")
        rest = np.concatenate([rest, found])
        whole = rest.size - rest.size % 8
        yield bytes(np.packbits(rest[:whole], bitorder="little"))
        rest = rest[whole:]
    yield bytes(np.packbits(rest, bitorder="little"))


@dataclass(frozen=True, slots=True)
class _Changes:
    """What differs from the data set as received.

    Attributes
    ----------
    elements
        Whole elements by tag; None for one that is left out.
    pixels
        What takes the place of the pixel data; None where it stays.
    codecs
        The character set of the main data set as received.
    is_recoded
        Whether every text is written as UTF-8.
    """

    elements: dict[str, bytes | None]
    pixels: Iterator[Buffer] | None
    codecs: Codecs
    is_recoded: bool

    @classmethod
    def of(cls, metadata: MetadataJson, overlay: Overlay, pixels: _Pixels | None) -> _Changes:
        if wrong := next((key for key in overlay if not _TAG.fullmatch(key)), None):
            raise Invalid(f"{wrong[:20]!r} is no attribute that an overlay can change")
        attributes = {**overlay, **(pixels.attributes if pixels else {})}
        attributes.pop(_CHARACTER_SET, None)
        codecs = character_set(metadata.get(_CHARACTER_SET, {}).get("Value"))
        element = pixels.element if pixels else None
        try:
            return cls(_elements(attributes, codecs), element, codecs, False)
        except NotInCharacterSet:
            attributes[_CHARACTER_SET] = {"vr": "CS", "Value": [UTF_8_TERM]}
        try:
            return cls(_elements(attributes, UTF_8), element, codecs, True)
        except NotInCharacterSet:
            raise Invalid("the overlay holds a text that is no Unicode") from None


def _elements(attributes: Overlay, codecs: Codecs) -> dict[str, bytes | None]:
    return {key: None if it is None else write_element(key, it, codecs) for key, it in attributes.items()}


def _file_meta(data: Buffer, front: Front, target: str, overlay: Overlay) -> bytes:
    """The file meta information for what is written, with a group length that is right (PS3.10 7.1)."""
    implicit = not has_vr(data, _FILE_META_AT, len(data))
    received = _Rewrite(data, implicit, False, _Changes({}, None, UTF_8, False), keeps_fragments=False)
    elements = {
        found.key: b"".join(received.element(found, front.file_meta[found.key], implicit, UTF_8))
        for found in received.elements(front.file_meta, _FILE_META_AT, front.data_set_at, implicit)
    }
    uids = {_TRANSFER_SYNTAX: target}
    uids |= {key: uid for of, key in _FILE_META_OF.items() if (uid := first_value(dict(overlay), of))}
    elements |= {key: write_element(key, {"vr": "UI", "Value": [uid]}) for key, uid in uids.items()}
    elements.pop("00020000", None)
    group = b"".join(elements[key] for key in sorted(elements))
    return head("00020000", "UL", 4) + struct.pack("<I", len(group)) + group


class _Found(NamedTuple):
    """An element: its VR by the JSON, where its value is, and whether that is fragments with their delimiter."""

    key: str
    vr: str
    start: int
    end: int
    is_fragments: bool


class _Rewrite:
    """One pass over a data set, side by side with its JSON, which knows every VR."""

    def __init__(self, data: Buffer, implicit: bool, is_big: bool, changes: _Changes, *, keeps_fragments: bool) -> None:
        self.view = memoryview(data)
        self.implicit = implicit
        self.is_big = is_big
        self.mark = ">" if is_big else "<"
        self.changes = changes
        self.keeps_fragments = keeps_fragments

    def data_set(self, metadata: MetadataJson, at: int, end: int) -> Iterator[Buffer]:
        """The elements of the main data set, the changed ones in their places."""
        changed, pixels = self.changes.elements, self.changes.pixels
        new = sorted(key for key, element in changed.items() if element is not None)
        bits = first_value(metadata, "00280100")
        pixel_word = bits // 8 if isinstance(bits, int) and bits > 8 else None
        for found in self.elements(metadata, at, end, self.implicit, main=True):
            while new and new[0] <= found.key:
                yield changed[new.pop(0)] or b""
            if found.key in changed:
                continue
            if pixels and found.key == _PIXEL_DATA:
                yield from pixels
                continue
            word = pixel_word if found.key == _PIXEL_DATA else None
            yield from self.element(found, metadata[found.key], self.implicit, self.changes.codecs, word)
        for key in new:
            yield changed[key] or b""

    def element(
        self, found: _Found, element: Mapping[str, Any], implicit: bool, codecs: Codecs, word: int | None = None
    ) -> Iterator[Buffer]:
        """An element in its new form; `word` is the size of its words where its VR does not tell."""
        key, vr, start, end, is_fragments = found
        if vr == "SQ":
            yield head(key, "SQ", UNDEFINED)
            yield from self._items(element.get("Value", []), start, end, implicit, codecs)
            yield CLOSE_SEQUENCE
            return
        if is_fragments:
            yield head(key, "OB", UNDEFINED)
            yield from _pieces(self.view[start:end])
            return
        if self.changes.is_recoded and vr in TEXTS:
            text = decode_text(bytes(self.view[start:end]), codecs).encode(errors="replace")
            text += padding(vr, len(text))
            yield head(key, fitting_vr(vr, len(text)), len(text)) + text
            return
        length = end - start
        yield head(key, fitting_vr(vr, length), length + length % 2)
        for piece in _pieces(self.view[start:end]):
            yield little_endian(piece, vr, word=word) if self.is_big else piece
        yield padding(vr, length)

    def _items(self, items: list[MetadataJson], at: int, end: int, implicit: bool, codecs: Codecs) -> Iterator[Buffer]:
        for item in items:
            if at + 8 > len(self.view):
                return  # the file was cut short; what there is of it is sent
            _, length = self._tag(at)
            at += 8
            stop = end if length == UNDEFINED else min(at + length, len(self.view))
            is_implicit = implicit or not has_vr(self.view, at, stop)
            terms = item.get(_CHARACTER_SET, {}).get("Value")
            own = character_set(terms) if terms else codecs
            yield OPEN_ITEM
            for found in self.elements(item, at, stop, is_implicit):
                if not (self.changes.is_recoded and found.key == _CHARACTER_SET):
                    yield from self.element(found, item[found.key], is_implicit, own)
            yield CLOSE_ITEM
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
            is_fragments = False
            if length != UNDEFINED:
                past = min(start + length, end)
            elif vr == "SQ" or is_sequence:
                past = self._past_items(start, implicit)
            elif self.keeps_fragments or (main and key == _PIXEL_DATA and self.changes.pixels):
                past = self._past_fragments(start)
                is_fragments = True
            else:
                raise NotAcceptable(f"({key[:4]},{key[4:]}) is compressed within the data set; {_AS_STORED}")
            if vr:
                yield _Found(key, vr, start, past, is_fragments)
            at = past

    def _tag(self, at: int) -> tuple[int, int]:
        group, element, length = struct.unpack_from(f"{self.mark}HHI", self.view, at)
        return group << 16 | element, length

    def _header(self, at: int, implicit: bool) -> tuple[int, int, bool]:
        """Where the value starts, its length, and whether the header says that it is a sequence."""
        if not implicit and has_vr(self.view, at, len(self.view)):
            vr = str(self.view[at + 4 : at + 6], "ascii")
            if vr in LONG_HEADER:
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


def _deflated(pieces: Iterable[Buffer]) -> Iterator[bytes]:
    """A data set as a raw RFC 1951 bitstream, padded to an even length (PS3.5 A.5)."""
    stream = zlib.compressobj(wbits=-zlib.MAX_WBITS)
    size = 0
    for piece in pieces:
        written = stream.compress(piece)
        size += len(written)
        yield written
    last = stream.flush()
    yield last + b"\0" * ((size + len(last)) % 2)


def _pieces(view: memoryview) -> Iterator[memoryview]:
    for at in range(0, len(view), PIECE_BYTES):
        yield view[at : at + PIECE_BYTES]


def _gathered(pieces: Iterable[Buffer]) -> Iterator[Buffer]:
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
