"""Overlay planes: bitmaps that lie over an image, in groups 6000 to 601E (PS3.3 C.9)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from server.rendering.item import Item

GROUPS = tuple(range(0x6000, 0x6020, 2))


@dataclass(frozen=True, slots=True, kw_only=True)
class Plane:
    """A bitmap whose top left pixel lies at `top`, `left` of the image, counted from 0; `layer` may be empty."""

    bits: NDArray[np.bool_]
    top: int
    left: int
    layer: str = ""

    def over(self, rows: int, columns: int) -> NDArray[np.bool_]:
        """The part of it that lies over an image of that size."""
        out = np.zeros((rows, columns), np.bool_)
        height, width = self.bits.shape
        top, left = max(self.top, 0), max(self.left, 0)
        bottom, right = min(self.top + height, rows), min(self.left + width, columns)
        if top < bottom and left < right:
            out[top:bottom, left:right] = self.bits[
                top - self.top : bottom - self.top, left - self.left : right - self.left
            ]
        return out


def plane_of(dataset: Item, group: int, number: int, embedded: NDArray[Any] | None = None) -> Plane | None:
    """The plane of a group over frame `number`; None where there is none, or no complete one.

    Parameters
    ----------
    embedded
        The native pixels with all their bits, for planes that lie in those above Bits Stored, as they did until 2004.
    """
    key = f"{group:04X}"
    rows, columns = dataset.whole(f"{key}0010"), dataset.whole(f"{key}0011")
    if not rows or not columns or not (0 < rows < 1 << 16 and 0 < columns < 1 << 16):
        return None
    origin = [int(value) for value in dataset.numbers(f"{key}0050")] or [1, 1]
    if len(origin) != 2:
        return None
    bits = _bits(dataset, key, rows, columns, number) if f"{key}3000" in dataset else None
    if bits is None and embedded is not None and embedded.shape == (rows, columns):
        position = dataset.whole(f"{key}0102") or 0
        if 0 < position < 8 * embedded.dtype.itemsize:
            bits = (embedded >> position & 1).astype(np.bool_)
    if bits is None:
        return None
    return Plane(bits=bits, top=origin[0] - 1, left=origin[1] - 1, layer=dataset.text(f"{key}1001"))


def _bits(dataset: Item, key: str, rows: int, columns: int, number: int) -> NDArray[np.bool_] | None:
    """The bits for a frame: the first of an overlay frame in the lowest bit, frames without a gap (PS3.5 8.1.2)."""
    frames, first = dataset.whole(f"{key}0015") or 1, dataset.whole(f"{key}0051") or 1
    index = number - first if frames > 1 else 0
    size = rows * columns
    data = dataset.binary(f"{key}3000")
    if not 0 <= index < frames or 8 * len(data) < (index + 1) * size:
        return None
    start = index * size // 8
    skipped = index * size - 8 * start
    unpacked = np.unpackbits(np.frombuffer(data, np.uint8, offset=start), count=skipped + size, bitorder="little")
    return unpacked[skipped : skipped + size].reshape(rows, columns).astype(np.bool_)
