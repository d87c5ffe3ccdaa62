"""From stored colours to RGB of 8 bits: palettes, YBR, depth (PS3.4 N.2.2, PS3.3 C.7.6.3.1.2, C.7.9)."""

from __future__ import annotations

from colorsys import hsv_to_rgb
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from readingroom.errors import NotAcceptable
from server.rendering.cielab import RGB, rgb_of
from server.rendering.grayscale import Picture
from server.rendering.item import Item
from server.rendering.tables import palette_of
from storage.arrays import ArraySpec


def through_palette(values: NDArray[Any], dataset: Item) -> Picture:
    """Through the Palette Color Lookup Tables (PS3.3 C.7.9)."""
    if values.dtype.kind not in "iu" or values.ndim != 2:
        raise NotAcceptable("A palette is for whole numbers, one a pixel.")
    low, high = int(values.min()), int(values.max())
    tables = palette_of(dataset)
    if high - low >= 1 << 16:
        low, high = 0, (1 << 16) - 1
        values = np.clip(values, low, high)
    stored = np.arange(low, high + 1)
    colours = np.stack([table(stored) >> (table.bits - 8) for table in tables], axis=-1).astype(np.uint8)
    found: Picture = np.take(colours, (values - values.dtype.type(low)).view(f"u{values.dtype.itemsize}"), axis=0)
    return found


def with_supplement(shades: Picture, values: NDArray[Any], dataset: Item) -> Picture:
    """Shades of gray, but for the stored values that a Supplemental Palette has colors for (PS3.3 C.7.6.19)."""
    red, green, blue = palette_of(dataset)
    is_coloured = values >= red.first
    if not is_coloured.any():
        return shades
    picture = np.repeat(shades[..., None], 3, axis=-1)
    stored = values[is_coloured]
    picture[is_coloured] = np.stack([table(stored) >> (table.bits - 8) for table in (red, green, blue)], axis=-1)
    return picture


def labelled(values: NDArray[Any], dataset: Item) -> Picture:
    """Labels of segments in the colors that are recommended for them, 0 and unknown ones black (PS3.3 C.8.20.4)."""
    if values.dtype.kind != "u" or values.dtype.itemsize > 2:
        raise NotAcceptable(f"Labels of type {values.dtype} are not rendered.")
    colours = np.zeros((1 << (8 * values.dtype.itemsize), 3), np.uint8)
    for segment in dataset.items("SegmentSequence"):
        number = segment.whole("SegmentNumber")
        if number and 0 < number < len(colours):
            lab = [int(value) for value in segment.numbers("RecommendedDisplayCIELabValue")]
            colours[number] = rgb_of((lab[0], lab[1], lab[2])) if len(lab) == 3 else _hue(number)
    picture: Picture = np.take(colours, values, axis=0)
    return picture


def _hue(number: int) -> RGB:
    """A color unlike those of the numbers near by: hues a golden section apart."""
    red, green, blue = hsv_to_rgb(number * 0.618033988749895 % 1, 0.65, 0.95)
    return round(red * 255), round(green * 255), round(blue * 255)


def in_rgb(values: NDArray[Any], spec: ArraySpec, photometric: str) -> Picture:
    """Three samples a pixel in RGB."""
    if values.dtype.kind != "u":
        raise NotAcceptable(f"Colours of type {values.dtype} are not rendered.")
    if spec.bits_stored > 8:
        values = values >> (spec.bits_stored - 8)
    elif spec.bits_stored < 8:
        values = values.astype(np.uint16) * 255 // ((1 << spec.bits_stored) - 1)
    picture = np.ascontiguousarray(values.astype(np.uint8))
    if photometric == "RGB":
        return picture
    if photometric.startswith("YBR_PARTIAL"):
        picture = _full_range(picture)
    elif photometric != "YBR_FULL":
        raise NotAcceptable(f"Photometric Interpretation {photometric} is not rendered.")
    # Pillow's YCbCr is that of JFIF, which is the full-range one of PS3.3 C.7.6.3.1.2.
    rows, columns = picture.shape[:2]
    return np.asarray(Image.frombuffer("YCbCr", (columns, rows), picture, "raw", "YCbCr", 0, 1).convert("RGB"))


def _full_range(picture: Picture) -> Picture:
    """Y of 16 to 235, Cb and Cr of 16 to 240 over all 8 bits (PS3.3 C.7.6.3.1.2, as it was until 2017)."""
    stretched = (picture - np.array([16.0, 128.0, 128.0])) * np.array([255 / 219, 255 / 224, 255 / 224])
    full: Picture = np.rint(np.clip(stretched + np.array([0.0, 128.0, 128.0]), 0, 255)).astype(np.uint8)
    return full
