"""Data sets that are not as PS3.5 has them: pydicom finds the elements, the walk reads their values.

pydicom recurses at every level and reads what a length field says, so it is given a file that counts what is taken.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable
from typing import BinaryIO, cast

from pydicom.dataelem import DataElement, RawDataElement
from pydicom.dataset import Dataset
from pydicom.filereader import read_dataset, read_sequence

from readingroom.errors import NotDicom, TooLarge
from storage.dicomjson import LITTLE, UNDEFINED, Buffer, MetadataJson, Unsure, Walk
from storage.values import DEFAULT_CHARACTER_SET, Codecs, character_set

_BUDGET = 64 << 20  # what pydicom may read, a few bytes more for each call
_CALL = 32
_DEFERRED = 1 << 20  # longer values of the main data set are passed over

_CANNOT = (
    OSError,
    EOFError,
    ValueError,
    LookupError,
    TypeError,
    AttributeError,
    NotImplementedError,
    ArithmeticError,
    struct.error,
)


class _Budget:
    def __init__(self) -> None:
        self.left = _BUDGET

    def take(self, amount: int) -> None:
        self.left -= amount
        if self.left < 0:
            raise OSError("the budget is spent")


class _Window:
    """A stretch of a buffer as pydicom wants a file to be, with the offsets of the whole buffer."""

    def __init__(self, data: Buffer, at: int, end: int, budget: _Budget) -> None:
        self._data, self._at, self._end, self._budget = data, at, end, budget

    def read(self, length: int = -1) -> bytes:
        left = max(self._end - self._at, 0)
        length = left if length < 0 else min(length, left)
        self._budget.take(length + _CALL)
        piece = bytes(self._data[self._at : self._at + length])
        self._at += length
        return piece

    def seek(self, offset: int, whence: int = 0) -> int:
        self._at = offset + (0, self._at, self._end)[whence]
        return self._at

    def tell(self) -> int:
        return self._at


def read_leniently(walk: Walk, at: int, implicit: bool) -> MetadataJson:
    """The data set at `at` as DICOM JSON, as far as pydicom makes sense of it.

    Raises
    ------
    NotDicom
        pydicom cannot read it either.
    TooLarge
        It is past a limit.
    """
    budget = _Budget()
    try:
        found = read_dataset(
            _as_file(_Window(walk.data, at, walk.size, budget)), implicit, walk.order is LITTLE, defer_size=_DEFERRED
        )
        return _data_set(walk, found, budget, walk.size, DEFAULT_CHARACTER_SET, 0)
    except RecursionError:
        raise TooLarge("sequences nested deeper than can be read") from None
    except _CANNOT as reason:
        if budget.left < 0:
            raise TooLarge(f"the data set is broken and takes more than {_BUDGET} bytes to make sense of") from None
        raise NotDicom(f"the data set cannot be read: {type(reason).__name__}") from None


def _as_file(window: _Window) -> BinaryIO:
    return cast(BinaryIO, window)


def _data_set(walk: Walk, found: Dataset, budget: _Budget, end: int, codecs: Codecs, depth: int) -> MetadataJson:
    if depth > walk.limits.max_depth:
        raise TooLarge(f"sequences nested deeper than {walk.limits.max_depth} levels")
    out: MetadataJson = {}
    elements = sorted(found.values(), key=lambda element: int(element.tag))
    undecided = walk.undecided_count()
    walk.spend(len(elements))
    for element in elements:
        key = f"{int(element.tag):08X}"
        if key[4:] == "0000" or key[:4] in ("0000", "0002", "FFFE") or key == "FFFCFFFC":
            continue
        if isinstance(element, DataElement):
            out[key] = _sequence(walk, key, element.value, budget, end, codecs, depth)
            continue
        start, stop = element.value_tell, _value_end(walk, element, end)
        vr = _vr(walk, key, element, out, stop - start)
        if vr == "SQ":
            out[key] = _raw_sequence(walk, key, element, stop, budget, codecs, depth)
            continue
        out[key] = walk.value(key, vr, start, stop, codecs)
        if key == "00080005":
            codecs = character_set(out[key].get("Value"))
    return walk.finished(out, undecided, depth)


def _raw_sequence(
    walk: Walk, key: str, element: RawDataElement, stop: int, budget: _Budget, codecs: Codecs, depth: int
) -> MetadataJson:
    """A sequence that pydicom has not read yet; as bytes where it cannot be read."""
    start = element.value_tell
    window = _as_file(_Window(walk.data, start, stop, budget))
    try:
        items = read_sequence(window, element.is_implicit_VR, element.is_little_endian, stop - start, list(codecs))
    except _CANNOT:
        budget.take(0)
        return walk.bytes_value(key, "UN", start, stop)
    return _sequence(walk, key, items, budget, stop, codecs, depth)


def _value_end(walk: Walk, element: RawDataElement, end: int) -> int:
    if element.length != UNDEFINED:
        return min(element.value_tell + element.length, end)
    if element.value is not None:
        return element.value_tell + len(element.value)
    try:
        return walk.fragments(element.value_tell, end)[1]
    except Unsure:
        return element.value_tell


def _vr(walk: Walk, key: str, element: RawDataElement, out: MetadataJson, length: int) -> str:
    if element.VR is None:
        return walk.dictionary_vr(key, out, element.length, implicit=element.is_implicit_VR)
    if element.VR == "UN":
        return walk.known_vr(key, out, length)
    return element.VR if element.VR in walk.order.vrs else "UN"


def _sequence(
    walk: Walk, key: str, items: Iterable[Dataset], budget: _Budget, end: int, codecs: Codecs, depth: int
) -> MetadataJson:
    values = []
    for number, item in enumerate(items, 1):
        walk.path += key, str(number)
        values.append(_data_set(walk, item, budget, end, codecs, depth + 1))
        del walk.path[-2:]
    return {"vr": "SQ", "Value": values} if values else {"vr": "SQ"}
