"""Lookup tables as data sets hold them: plain ones and the segmented ones of palettes (PS3.3 C.11.1.1, C.7.9.2)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from readingroom.errors import NotAcceptable
from server.rendering.item import Item

_ENTRIES = 1 << 16
_COLOURS = ("Red", "Green", "Blue")


@dataclass(frozen=True, slots=True, kw_only=True)
class Table:
    """A lookup table; values before its first entry get the first, values past the last get the last.

    Attributes
    ----------
    first
        The value that the first entry is for.
    entries
        As they are stored.
    bits
        How many of each entry count.
    """

    first: int
    entries: NDArray[np.uint16]
    bits: int

    def __call__(self, values: NDArray[Any]) -> NDArray[np.uint16]:
        """Each value's entry; values that are no whole numbers get the nearest one's."""
        index = np.clip(np.rint(values) - self.first, 0, len(self.entries) - 1).astype(np.intp)
        found: NDArray[np.uint16] = self.entries[index]
        return found

    @property
    def largest(self) -> int:
        """The largest entry that there could be."""
        return (1 << self.bits) - 1


def table_of(item: Item) -> Table:
    """The table of an item of a Modality, VOI or Presentation LUT Sequence (PS3.3 C.11).

    Raises
    ------
    NotAcceptable
        It is broken.
    """
    count, first, bits = _descriptor(item, "LUTDescriptor")
    return Table(first=first, entries=_entries(item, "LUTData", count), bits=bits)


def palette_of(item: Item) -> tuple[Table, Table, Table]:
    """The tables for red, green and blue (PS3.3 C.7.9).

    Raises
    ------
    NotAcceptable
        They are broken, or not there.
    """
    red, green, blue = (_colour_table(item, colour) for colour in _COLOURS)
    return red, green, blue


def _colour_table(item: Item, colour: str) -> Table:
    count, first, bits = _descriptor(item, f"{colour}PaletteColorLookupTableDescriptor")
    segmented = f"Segmented{colour}PaletteColorLookupTableData"
    if segmented in item:
        entries = _expanded(item, segmented, count, is_wide=bits > 8)
    else:
        entries = _entries(item, f"{colour}PaletteColorLookupTableData", count)
    return Table(first=first, entries=entries, bits=bits)


def _descriptor(item: Item, name: str) -> tuple[int, int, int]:
    values = item.values(name)
    if len(values) != 3 or not all(isinstance(value, int) for value in values):
        raise _broken(f"{name} is not three numbers")
    count, first, bits = values
    if bits not in range(8, 17):
        raise _broken(f"{name} says {bits} bits, which are 8 to 16")
    return count or _ENTRIES, first, bits


def _entries(item: Item, name: str, count: int) -> NDArray[np.uint16]:
    words = item.words(name)
    if isinstance(words, bytes):
        # Tables of 8 bits lie in bytes, or in words whose upper half is empty.
        words = np.frombuffer(words[: 2 * count], "<u2") if len(words) >= 2 * count else np.frombuffer(words, "u1")
    if len(words) < count:
        raise _broken(f"{name} holds {len(words)} of {count} entries")
    return words[:count].astype(np.uint16)


def _expanded(item: Item, name: str, count: int, *, is_wide: bool) -> NDArray[np.uint16]:
    """The entries of a segmented table (PS3.3 C.7.9.2)."""
    raw = item.words(name)
    if not isinstance(raw, bytes):
        segments: Sequence[int] = raw.tolist()
    else:
        segments = np.frombuffer(raw[: len(raw) // 2 * 2], "<u2").tolist() if is_wide else list(raw)
    out: list[int] = []
    try:
        _expand(segments, 0, len(segments), out, count, offset_words=2 if is_wide else 4)
    except IndexError:
        raise _broken(f"{name} ends within a segment") from None
    if len(out) < count:
        raise _broken(f"{name} makes {len(out)} of {count} entries")
    return np.array(out[:count], np.uint16)


def _expand(segments: Sequence[int], at: int, most: int, out: list[int], count: int, *, offset_words: int) -> None:
    """Append the entries of at most `most` segments from value `at` on, until there are `count`.

    Each segment makes an entry at least, so that `count` bounds the work whatever the segments say. An offset is of
    `offset_words` values; within what an offset points to there are no others, which 0 stands for.
    """
    for _ in range(most):
        if len(out) >= count or at + 2 > len(segments):
            return
        kind, length = segments[at], segments[at + 1]
        if not length:
            raise _broken("a segment of a palette is empty")
        if kind == 0:
            out.extend(segments[at + 2 : at + 2 + length])
            at += 2 + length
        elif kind == 1 and out:
            start, end = out[-1], segments[at + 2]
            out.extend(round(start + (end - start) * step / length) for step in range(1, length + 1))
            at += 3
        elif kind == 2 and out and offset_words:
            # The lowest part comes first.
            shift = 32 // offset_words
            offset = sum(segments[at + 2 + place] << (shift * place) for place in range(offset_words))
            _expand(segments, offset, length, out, count, offset_words=0)
            at += 2 + offset_words
        else:
            raise _broken(f"a segment of a palette is of kind {kind}, or has nothing to start from")


def _broken(why: str) -> NotAcceptable:
    return NotAcceptable(f"A lookup table of this image cannot be applied: {why}.")
