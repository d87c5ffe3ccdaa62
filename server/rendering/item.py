"""A data set in the DICOM JSON model, read by keyword and without surprises: what is malformed is absent."""

from __future__ import annotations

from base64 import b64decode
from collections.abc import Callable
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydicom.datadict import tag_for_keyword

from storage.dicomjson import MetadataJson

BulkReader = Callable[[str], bytes]
"""Gives the bytes of a bulk value, in little-endian order, by its path below ``/bulkdata/``."""


class Item:
    """A data set, or an item of a sequence.

    An attribute is named by keyword (``WindowCenter``) or, where it repeats by group, by its tag (``60003000``).
    """

    __slots__ = ("_bulk", "_json")

    def __init__(self, json: MetadataJson, bulk: BulkReader) -> None:
        self._json = json
        self._bulk = bulk

    def __contains__(self, name: str) -> bool:
        element = self._json.get(_key(name), {})
        return bool(element.get("Value") or element.get("InlineBinary") or element.get("BulkDataURI"))

    def keys(self) -> list[str]:
        """The tags that there are."""
        return list(self._json)

    def values(self, name: str) -> list[Any]:
        """All values of an attribute, as the JSON has them."""
        values: list[Any] = self._json.get(_key(name), {}).get("Value") or []
        return values

    def first(self, name: str) -> Any:
        """The first value; None where there is none."""
        values = self.values(name)
        return values[0] if values else None

    def number(self, name: str) -> float | None:
        """The first value as a number; None where it is none."""
        value = self.first(name)
        return float(value) if _is_number(value) else None

    def numbers(self, name: str) -> list[float]:
        """All values as numbers; none where one of them is no number."""
        values = self.values(name)
        return [float(value) for value in values] if all(map(_is_number, values)) else []

    def whole(self, name: str) -> int | None:
        """The first value as a whole number; None where it is none."""
        value = self.first(name)
        return value if isinstance(value, int) and not isinstance(value, bool) else None

    def text(self, name: str) -> str:
        """The first value as text; of a person's name, its alphabetic or else its next component group."""
        return text_of(self.first(name))

    def items(self, name: str) -> list[Item]:
        """The items of a sequence."""
        return [Item(value, self._bulk) for value in self.values(name) if isinstance(value, dict)]

    def item(self, name: str) -> Item | None:
        """The first item of a sequence."""
        items = self.items(name)
        return items[0] if items else None

    def binary(self, name: str) -> bytes:
        """The bytes of a binary value, in little-endian order; empty where there are none."""
        element = self._json.get(_key(name), {})
        if inline := element.get("InlineBinary"):
            return b64decode(inline)
        if uri := element.get("BulkDataURI"):
            return self._bulk(uri.rpartition("/bulkdata/")[2])
        return b""

    def words(self, name: str) -> NDArray[np.uint16] | bytes:
        """A value of 16-bit words: numbers where the JSON has numbers (US, SS), else its bytes (OW, OB, UN)."""
        values = self.values(name)
        if values and all(_is_number(value) for value in values):
            return np.array(values, np.int64).astype(np.uint16)
        return self.binary(name)


def text_of(value: Any) -> str:
    """A value of the JSON as text."""
    if isinstance(value, dict):
        value = next((value[group] for group in ("Alphabetic", "Ideographic", "Phonetic") if value.get(group)), "")
    if isinstance(value, float):
        return repr(value).removesuffix(".0")
    return "" if value is None else str(value).strip()


def of_frame(dataset: Item, number: int, macro: str) -> Item:
    """Where a macro's attributes stand for a frame: its functional group, the one shared by all, or the data set.

    PS3.3 C.7.6.16; `macro` is the keyword of the macro's sequence, and frames count from 1.
    """
    for groups in (
        dataset.items("PerFrameFunctionalGroupsSequence")[number - 1 : number],
        dataset.items("SharedFunctionalGroupsSequence")[:1],
    ):
        for group in groups:
            if found := group.item(macro):
                return found
    return dataset


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


@lru_cache(maxsize=1024)
def _key(name: str) -> str:
    if len(name) == 8 and name[0] in "0123456789":
        return name
    tag = tag_for_keyword(name)
    assert tag is not None, f"{name} is no keyword of the DICOM dictionary"
    return f"{tag:08X}"
