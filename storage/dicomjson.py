"""The straight walk over the bytes of a data set to the DICOM JSON model (PS3.5 chapter 7 in, PS3.18 Annex F out).

pydicom builds an object for every element and then JSON from the objects; ingest needs the JSON alone, and the places
of what is too long for it. What the walk meets and cannot be sure of it leaves to pydicom (`storage.lenient`).
"""

from __future__ import annotations

import struct
from array import array
from base64 import b64encode
from dataclasses import dataclass
from functools import lru_cache
from mmap import MADV_DONTNEED, mmap
from typing import Any, NoReturn

import orjson
from pydicom._dicom_dict import DicomDictionary, RepeatersDictionary
from pydicom.datadict import mask_match, private_dictionary_VR

from readingroom.errors import TooLarge
from storage.values import DEFAULT_CHARACTER_SET, Codecs, Reader, WrongLength, character_set, little_endian, readers

Buffer = bytes | bytearray | memoryview | mmap

MetadataJson = dict[str, Any]
"""A data set in the DICOM JSON model (PS3.18 F.2): ``{"00100010": {"vr": "PN", "Value": [...]}, ...}``."""

BASE_URL_MARK = "\x01"
"""Stands in stored JSON where the service root (``http://host/dicomweb``) goes when it is sent.

A control character never occurs raw in JSON (it would be escaped), so a bytes replace is safe.
"""

INLINE_BYTES = 1024
"""Byte values up to this length go into the JSON as ``InlineBinary``, longer ones as ``BulkDataURI``."""

VALUE_BYTES = 1 << 20
"""Numbers and texts longer than this are bulk data too, as PS3.18 F.2.2 allows; names and codes never are so long."""

_SMALL_BYTES = 64
"""Longer values count as so many more elements, so that the limit of elements bounds the memory too."""

UNDEFINED = 0xFFFFFFFF
PIXEL_ELEMENTS = frozenset({"7FE00010", "7FE00008", "7FE00009"})

_BYTES = frozenset({"OB", "OD", "OF", "OL", "OV", "OW", "UN"})
LONG_HEADER = _BYTES | {"SQ", "SV", "UC", "UR", "UT", "UV"}
_LONG_VALUES = frozenset({"DS", "FL", "FD", "IS", "LT", "SL", "SS", "ST", "SV", "UC", "UL", "US", "UT", "UV"})
_LET_GO = 64 << 20
_ITEM, _ITEM_END, _SEQUENCE_END = "FFFEE000", "FFFEE00D", "FFFEE0DD"
_CHARACTER_SET = "00080005"
_ODD = frozenset("13579BDF")
_DICTIONARY = {f"{tag:08X}": entry[0] for tag, entry in DicomDictionary.items() if tag >> 16 != 0xFFFE}
_PLAIN = {key: vr for key, vr in _DICTIONARY.items() if len(vr) == 2}


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """Bounds on what one object may ask of the scanner."""

    max_depth: int = 64
    max_elements: int = 1_000_000
    max_inflated_bytes: int = 1 << 28


DEFAULT_LIMITS = Limits()


class Unsure(Exception):
    """The walk met something that is not as PS3.5 has it; pydicom may still make sense of it."""


@dataclass(slots=True)
class Bulk:
    """A value that is named in the JSON and lies in the file; `element` is its JSON object."""

    element: dict[str, Any]
    path: str
    offset: int
    length: int


@dataclass(frozen=True, slots=True)
class PixelElement:
    """An element of group 7FE0 of the main data set: pixel data or its offset table.

    `fragments` is offset, length, offset, ... of its items, or None if native.
    """

    tag: str
    vr: str
    offset: int
    length: int
    fragments: array[int] | None


class _Tags(dict[int, str]):
    """The eight hex digits of a tag as it lies in the file, made once each (as far as memory allows).

    Empty for what the model leaves out: group lengths, trailing padding and, where `is_data_set`, the groups of
    commands and of file meta information.
    """

    def __init__(self, order: str, is_data_set: bool) -> None:
        self._split = struct.Struct(f"{order}HH").unpack
        self._pack = struct.Struct(f"{order}I").pack
        self._is_data_set = is_data_set

    def __missing__(self, raw: int) -> str:
        group, element = self._split(self._pack(raw))
        key = f"{group:04X}{element:04X}"
        if element == 0 or key == "FFFCFFFC" or (self._is_data_set and group in (0, 2)):
            key = ""
        if len(self) < 1 << 15:
            self[raw] = key
        return key


class ByteOrder:
    """The precompiled structs and readers of one byte order."""

    def __init__(self, mark: str, *, is_data_set: bool = True) -> None:
        self.mark = mark
        self.tags = _Tags(mark, is_data_set)
        self.explicit_head = struct.Struct(f"{mark}IHH").unpack_from  # tag, VR as a number, 16-bit length
        self.implicit_head = struct.Struct(f"{mark}II").unpack_from
        self.length = struct.Struct(f"{mark}I").unpack_from
        self.readers: dict[str, Reader] = readers(mark)
        self.explicit: dict[int, tuple[str, bool, Reader | None]] = {
            struct.unpack(f"{mark}H", vr.encode())[0]: (vr, vr in LONG_HEADER, self.readers.get(vr))
            for vr in LONG_HEADER | set(self.readers)
        }
        self.vrs = frozenset(vr for vr, _, _ in self.explicit.values())


LITTLE, BIG = ByteOrder("<"), ByteOrder(">")
FILE_META = ByteOrder("<", is_data_set=False)


class Walk:
    """One pass over a data set.

    Attributes
    ----------
    bulk
        The values that the JSON only names.
    pixels
        Pixel data and offset tables of the main data set.
    trouble
        Where the file was found to be cut short, or empty.
    """

    def __init__(self, data: Buffer, limits: Limits, order: ByteOrder = LITTLE) -> None:
        self.data = data
        self.size = len(data)
        self.limits = limits
        self.order = order
        self.bulk: list[Bulk] = []
        self.pixels: list[PixelElement] = []
        self.trouble = ""
        self._spent = 0
        self.path: list[str] = []
        self._undecided: list[tuple[dict[str, Any], bytes]] = []  # US or SS, for want of a Pixel Representation

    def data_set(
        self, at: int, end: int, implicit: bool, codecs: Codecs = DEFAULT_CHARACTER_SET, depth: int = 0
    ) -> tuple[MetadataJson, int]:
        """The data set at `at` as DICOM JSON, and where it ended: at `end`, or after an item delimiter.

        Raises
        ------
        Unsure
            Something is not as PS3.5 has it.
        TooLarge
            Past `limits`.
        """
        data, order = self.data, self.order
        tags, explicit, all_readers, long_length = order.tags, order.explicit, order.readers, order.length
        head = order.implicit_head if implicit else order.explicit_head
        undecided = len(self._undecided)
        out: MetadataJson = {}
        counted = used = 0
        for used in range(self.limits.max_elements - self._spent + 1):
            if at + 8 > end:
                break
            if implicit:
                tag, length = head(data, at)
                key = tags[tag]
                if key == _ITEM_END:
                    at += 8
                    break
                start = at + 8
                vr = _PLAIN.get(key) or self._implicit_vr(key, out, length, start)
                read = all_readers.get(vr)
            else:
                tag, code, length = head(data, at)
                key = tags[tag]
                entry = explicit.get(code)
                if entry is None:
                    if key == _ITEM_END:
                        at += 8
                        break
                    vr, start, length = self._odd_vr(key, out, at, end)
                    read = all_readers.get(vr)
                else:
                    vr, is_long, read = entry
                    start = at + 8
                    if is_long:
                        start = at + 12
                        if start > end:
                            break
                        (length,) = long_length(data, at + 8)

            if read is not None:
                at = start + length
                if at > end or length == UNDEFINED:
                    at = self._cut(key, start, length, end)
                if at == start:
                    out[key] = {"vr": vr}
                elif length > _SMALL_BYTES:
                    out[key] = self.value(key, vr, start, at, codecs)
                else:
                    try:
                        values = read(data[start:at], codecs)
                    except WrongLength:
                        out[key] = self.bytes_value(key, "UN", start, at)
                        continue
                    out[key] = {"vr": vr} if values is None else {"vr": vr, "Value": values}
                if key == _CHARACTER_SET:
                    codecs = character_set(out[key].get("Value"))
                continue

            if vr == "UN" and length != UNDEFINED and not implicit:
                vr = self.known_vr(key, out, length)
            if vr == "SQ" or (vr == "UN" and length == UNDEFINED and not implicit):
                self.spend(used - counted)
                counted = used
                items, at = self._items(key, start, length, end, implicit, codecs, depth)
                out[key] = {"vr": "SQ", "Value": items} if items else {"vr": "SQ"}
                continue
            fragments = None
            if length == UNDEFINED:
                fragments, value_end, at = self.fragments(start, end)
            else:
                value_end = at = start + length
                if at > end:
                    value_end = at = self._cut(key, start, length, end)
            if depth == 0 and key[:4] == "7FE0":
                self.pixels.append(PixelElement(key, vr, start, value_end - start, fragments))
            if key:
                out[key] = self.value(key, vr, start, value_end, codecs)
        else:
            self._too_many()
        self.spend(used - counted)
        out = self.finished(out, undecided, depth)
        if out and (last := next(reversed(out)))[:4] == "FFFE":
            self._unsure("a delimiter with a VR", last, at)
        return out, at

    def finished(self, out: MetadataJson, undecided: int, depth: int) -> MetadataJson:
        """The data set once all its elements are read: in order, and without what the model leaves out."""
        out.pop("", None)
        if len(self._undecided) > undecided:
            self._decide(out, undecided, depth)
        if "00281101" in out or "00283002" in out:
            _correct_descriptors(out)
        keys = list(out)
        ordered = sorted(keys)
        return out if keys == ordered else {key: out[key] for key in ordered}

    def undecided_count(self) -> int:
        """How many values wait for a Pixel Representation; what `finished` is told of where a data set began."""
        return len(self._undecided)

    def spend(self, elements: int) -> None:
        self._spent += elements
        if self._spent > self.limits.max_elements:
            self._too_many()

    def _cut(self, key: str, start: int, length: int, end: int) -> int:
        """Where a value ends that claims to go past `end`; only a file that was cut short may do that."""
        if end < self.size or length == UNDEFINED:
            self._unsure(f"a value claims {length} bytes of {end - start}", key, start)
        self.trouble = self.trouble or f"({key[:4]},{key[4:]}) claims {length} bytes, the file has {end - start} more"
        return end

    def _too_many(self) -> NoReturn:
        raise TooLarge(
            f"more than {self.limits.max_elements} elements, or {_SMALL_BYTES} times as many bytes of values"
        )

    def _unsure(self, what: str, key: str, at: int) -> NoReturn:
        raise Unsure(f"({key[:4]},{key[4:]}) at byte {at}: {what}")

    # What is rare enough for a call of its own.

    def value(self, key: str, vr: str, start: int, end: int, codecs: Codecs) -> dict[str, Any]:
        """An element that is long, of bytes, or of a VR that had to be found out."""
        is_open = vr == "US or SS"
        read = self.order.readers.get(vr)
        if (start == end or read is None) and not is_open:
            return self.bytes_value(key, vr, start, end)
        if end - start > VALUE_BYTES:
            return self._named(key, vr if vr in _LONG_VALUES else "UN", start, end)
        self.spend((end - start) // _SMALL_BYTES)
        if read is None:
            element = {"vr": vr}
            self._undecided.append((element, bytes(self.data[start:end])))
            return element
        try:
            values = read(self.data[start:end], codecs)
        except WrongLength:
            return self.bytes_value(key, "UN", start, end)
        return {"vr": vr} if values is None else {"vr": vr, "Value": values}

    def bytes_value(self, key: str, vr: str, start: int, end: int) -> dict[str, Any]:
        if start == end:
            return {"vr": vr}
        if end - start > INLINE_BYTES or key in PIXEL_ELEMENTS:
            return self._named(key, vr, start, end)
        self.spend((end - start) // _SMALL_BYTES)
        raw = bytes(self.data[start:end])
        return {"vr": vr, "InlineBinary": b64encode(little_endian(raw, vr) if self.order is BIG else raw).decode()}

    def _named(self, key: str, vr: str, start: int, end: int) -> dict[str, Any]:
        """An element that only names its value; whose it is will be known when the walk is over."""
        element = {"vr": vr, "BulkDataURI": ""}
        self.bulk.append(Bulk(element, "/".join((*self.path, key)), start, end - start))
        return element

    def _items(
        self, key: str, start: int, length: int, end: int, implicit: bool, codecs: Codecs, depth: int
    ) -> tuple[list[MetadataJson], int]:
        """The items of a sequence, and what follows it (PS3.5 7.5)."""
        if depth >= self.limits.max_depth:
            raise TooLarge(f"sequences nested deeper than {self.limits.max_depth} levels")
        if length != UNDEFINED:
            if start + length > end:
                self._unsure(f"a sequence claims {length} bytes of {end - start}", key, start)
            end = start + length
        data, order = self.data, self.order
        items: list[MetadataJson] = []
        at = start
        self.path += key, ""
        while length == UNDEFINED or at < end:
            if at + 8 > end:
                self._unsure("the sequence does not end", key, start)
            tag, item_length = order.implicit_head(data, at)
            mark = order.tags[tag]
            at += 8
            if mark == _SEQUENCE_END:
                if length != UNDEFINED and at != end:
                    self._unsure("the sequence ends before its length", key, start)
                break
            item_end = end if item_length == UNDEFINED else at + item_length
            if mark != _ITEM or item_end > end:
                self._unsure(f"no item that fits into sequence {key}", mark, at - 8)
            self.path[-1] = str(len(items) + 1)
            item, past = self.data_set(at, item_end, implicit or not has_vr(data, at, item_end), codecs, depth + 1)
            if item_length != UNDEFINED and past != item_end:
                self._unsure("the item ends before its length", mark, at - 8)
            items.append(item)
            self.spend(1)
            at = past
        del self.path[-2:]
        return items, at

    def fragments(self, start: int, end: int) -> tuple[array[int], int, int]:
        """The items of an encapsulated value (PS3.5 A.4): offset and length of each; its end, and what follows."""
        data, head, tags = self.data, self.order.implicit_head, self.order.tags
        found = array("Q")
        at = looked_through = start
        for _ in range(self.limits.max_elements):
            if at + 8 > end:
                break
            if at - looked_through > _LET_GO and isinstance(data, mmap):
                data.madvise(MADV_DONTNEED)  # pages read from a file count as our memory until they are given back
                looked_through = at
            tag, length = head(data, at)
            mark = tags[tag]
            if mark == _SEQUENCE_END:
                return found, at, at + 8
            if mark != _ITEM or length == UNDEFINED:
                self._unsure("no fragment", mark, at)
            at += 8
            found.extend((at, length))
            at += length
        else:
            raise TooLarge(f"more than {self.limits.max_elements} fragments in one object")
        if end < self.size:
            self._unsure("the fragments do not end", _ITEM, start)
        self.trouble = self.trouble or f"the fragments from byte {start} do not end before the file does"
        return found, end, end

    def _implicit_vr(self, key: str, out: MetadataJson, length: int, start: int) -> str:
        if key[:4] == "FFFE":
            self._unsure("outside of a sequence", key, start - 8)
        if length == UNDEFINED and key not in _DICTIONARY and start + 8 <= self.size:
            tag, _ = self.order.implicit_head(self.data, start)
            return "SQ" if self.order.tags[tag] in (_ITEM, _SEQUENCE_END) else "UN"
        return self.dictionary_vr(key, out, length, implicit=True)

    def known_vr(self, key: str, out: MetadataJson, length: int) -> str:
        """The VR of an element that was sent as UN although the dictionary knows it (PS3.5 6.2.2 note 2)."""
        if length >= 0xFFFF and not _is_private(key):
            return "UN"
        return self.dictionary_vr(key, out, length, implicit=False)

    def dictionary_vr(self, key: str, out: MetadataJson, length: int, *, implicit: bool) -> str:
        """The dictionary's VR; where that is a choice, which one it is (PS3.5 Annex A, PS3.3 C.11.1.1.1)."""
        vr = _DICTIONARY.get(key) or (_private_vr(key, out) if _is_private(key) else _repeated_vr(key))
        if len(vr) == 2 or vr == "US or SS":
            return vr
        if vr == "US or OW" and first_value(out, "00283002") == 1:
            return "US"
        if key == "7FE00010" and length == UNDEFINED:
            return "OB"
        bits_allocated = {"7FE0": "00280100", "5400": "54001004"}.get(key[:4])
        if vr == "OB or OW" and bits_allocated and not implicit:
            bits = first_value(out, bits_allocated)
            return "OB" if isinstance(bits, int) and bits <= 8 else "OW"
        return "OW"

    def _odd_vr(self, key: str, out: MetadataJson, at: int, end: int) -> tuple[str, int, int]:
        """VR, start and length of an element in an explicit data set whose VR is none of PS3.5's."""
        vr = bytes(self.data[at + 4 : at + 6])
        if b"AA" <= vr <= b"ZZ" and key[:4] != "FFFE":
            short = int.from_bytes(self.data[at + 6 : at + 8], "big" if self.order is BIG else "little")
            if short == 0 and at + 12 <= end:
                (length,) = self.order.length(self.data, at + 8)
                if at + 12 + length <= end:
                    return "UN", at + 12, length  # a VR of the future (PS3.5 7.1.2)
            return "UN", at + 8, short
        (length,) = self.order.length(self.data, at + 4)  # some writers fall into implicit VR
        return _PLAIN.get(key) or self._implicit_vr(key, out, length, at + 8), at + 8, length

    def _decide(self, out: MetadataJson, since: int, depth: int) -> None:
        """Make US or SS of what was read in this data set, by the nearest Pixel Representation (PS3.3 C.7.6.3)."""
        signed = first_value(out, "00280103")
        if signed is None and depth:
            return
        vr = "SS" if signed == 1 else "US"
        for element, raw in self._undecided[since:]:
            element["vr"] = vr
            if raw and len(raw) % 2:
                element.update(vr="UN", InlineBinary=b64encode(raw).decode())
            elif raw:
                element["Value"] = self.order.readers[vr](raw, ())
        del self._undecided[since:]


def has_vr(data: Buffer, at: int, end: int) -> bool:
    """Whether the element at `at` has a VR, as explicit data sets do; pydicom's test, right for all real lengths."""
    return at + 6 <= end and 0x40 < data[at + 4] < 0x5B and 0x40 < data[at + 5] < 0x5B


def first_value(metadata: MetadataJson, key: str) -> Any:
    """The first value of an attribute; None where it is absent or empty."""
    values = metadata.get(key, {}).get("Value")
    return values[0] if values else None


def _correct_descriptors(out: MetadataJson) -> None:
    """The first value of a lookup table descriptor is unsigned whatever the VR says (PS3.3 C.11.1.1)."""
    for key in ("00281101", "00281102", "00281103", "00283002"):
        values = out.get(key, {}).get("Value")
        if values and isinstance(values[0], int) and values[0] < 0:
            values[0] += 1 << 16


def _is_private(key: str) -> bool:
    return key[3:4] in _ODD


@lru_cache(maxsize=4096)
def _repeated_vr(key: str) -> str:
    """The VR in the repeating groups (50xx, 60xx); UN if there is none."""
    mask = mask_match(int(key or "0", 16))
    return RepeatersDictionary[mask][0] if mask else "UN"


def _private_vr(key: str, out: MetadataJson) -> str:
    """The VR that pydicom's private dictionary has for the creator that reserved the block (PS3.5 7.8.1)."""
    if key[4:6] == "00":
        return "LO" if key[6:] >= "10" else "UN"
    creator = first_value(out, f"{key[:4]}00{key[4:6]}")
    return _creators_vr(key, creator) if isinstance(creator, str) else "UN"


@lru_cache(maxsize=4096)
def _creators_vr(key: str, creator: str) -> str:
    try:
        return private_dictionary_VR(int(key, 16), creator)
    except KeyError:
        return "UN"


def name_bulk(bulk: list[Bulk], instance_path: str) -> None:
    """Fill in the URIs of the named values: below the instance, by the path of tags and item numbers to the value."""
    root = f"{BASE_URL_MARK}{instance_path}/bulkdata/"
    for value in bulk:
        value.element["BulkDataURI"] = root + value.path


_MARK_ESCAPED, _MARK_RAW = b'"BulkDataURI":"\\u0001', b'"BulkDataURI":"' + BASE_URL_MARK.encode()


def dump(metadata: MetadataJson) -> bytes:
    """The data set as JSON text with `BASE_URL_MARK` raw, ready for a bytes replace.

    A value cannot forge the mark: within a string the quotes around ``BulkDataURI`` would be escaped.
    """
    return orjson.dumps(metadata).replace(_MARK_ESCAPED, _MARK_RAW)
