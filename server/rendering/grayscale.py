"""From stored values to shades of gray: Modality LUT, VOI LUT, Presentation LUT (PS3.4 N.2.1)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from server.rendering.item import Item, of_frame
from server.rendering.look import Function, Window, is_valid_width
from server.rendering.tables import Table, table_of
from storage.arrays import ArraySpec

Picture = NDArray[np.uint8]
"""8 bits a sample: shape ``(rows, columns)``, or ``(rows, columns, 3)`` in RGB."""

_FUNCTIONS: dict[str, Function] = {"LINEAR": "linear", "LINEAR_EXACT": "linear-exact", "SIGMOID": "sigmoid"}
_TABLE_VALUES = 1 << 17
"""Up to so many different stored values are looked up in a table; that is quicker than arithmetic on every pixel."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Grayscale:
    """The transformations of one frame.

    Attributes
    ----------
    modality
        A table, or slope and intercept (PS3.3 C.11.1).
    voi
        A window or a table (PS3.3 C.11.2); None for all values there are, or could be where `is_whole_range`.
    presentation
        The table of a presentation state (PS3.3 C.11.6).
    is_inverse
        Low values are shown bright.
    padding
        The lowest and highest stored value of what the scanner filled in around the image (PS3.3 C.7.5.1.1.2): black.
    extent
        The lowest and highest stored value to tell apart where `voi` is None, in place of those of the frame alone.
    palette
        The colours of a pseudo-color presentation state, which take the place of the shades (PS3.4 N.2.3).
    """

    modality: Table | tuple[float, float] = (1.0, 0.0)
    voi: Window | Table | None = None
    presentation: Table | None = None
    is_inverse: bool = False
    is_whole_range: bool = False
    padding: tuple[float, float] | None = None
    extent: tuple[float, float] | None = None
    palette: tuple[Table, Table, Table] | None = None


def grayscale_of(dataset: Item, number: int, photometric: str, window: Window | None) -> Grayscale:
    """What the attributes of a frame say, but for `window`, which takes the place of their own.

    Raises
    ------
    NotAcceptable
        A lookup table is broken.
    """
    voi: Window | Table | None = window or voi_of(of_frame(dataset, number, "FrameVOILUTSequence"), dataset)
    return Grayscale(
        modality=modality_of(of_frame(dataset, number, "PixelValueTransformationSequence"), dataset),
        voi=voi,
        is_inverse=photometric == "MONOCHROME1" or dataset.text("PresentationLUTShape") == "INVERSE",
        padding=padding_of(dataset),
    )


def modality_of(rescale: Item, dataset: Item) -> Table | tuple[float, float]:
    """Of `dataset` the table if there is one, else the slope and intercept of `rescale`."""
    if table := dataset.item("ModalityLUTSequence"):
        return table_of(table)
    slope, intercept = rescale.number("RescaleSlope"), rescale.number("RescaleIntercept")
    return (1.0 if slope is None else slope), intercept or 0.0


def voi_of(windows: Item, dataset: Item) -> Window | Table | None:
    """The first window of `windows` if it is valid, else the first table of `dataset`."""
    center, width = windows.number("WindowCenter"), windows.number("WindowWidth")
    function = _FUNCTIONS.get(windows.text("VOILUTFunction") or "LINEAR", "linear")
    if center is not None and width is not None and is_valid_width(width, function):
        return Window(center=center, width=width, function=function)
    table = dataset.item("VOILUTSequence")
    return table_of(table) if table else None


def padding_of(dataset: Item) -> tuple[float, float] | None:
    """Pixel Padding Value to Pixel Padding Range Limit."""
    value, limit = dataset.number("PixelPaddingValue"), dataset.number("PixelPaddingRangeLimit")
    if value is None:
        return None
    low, high = sorted((value, value if limit is None else limit))
    return low, high


def shaded(values: NDArray[Any], spec: ArraySpec, steps: Grayscale) -> Picture:
    """Stored values of one sample a pixel as 8-bit shades, or in the colours of `steps.palette`."""
    low, high = values.min(), values.max()
    if values.dtype.kind in "iu" and int(high) - int(low) < _TABLE_VALUES:
        table = _shades(np.arange(int(low), int(high) + 1, dtype=np.int64), values, spec, steps)
        # Differences wrap around, and an unsigned view makes them right again.
        index = np.subtract(values, low, dtype=values.dtype).view(f"u{values.dtype.itemsize}")
        found: Picture = np.take(table, index, axis=0)
        return found
    return _shades(np.nan_to_num(values), values, spec, steps)


def _shades(stored: NDArray[Any], values: NDArray[Any], spec: ArraySpec, steps: Grayscale) -> Picture:
    """The shades of `stored`; `values` are those of the whole image."""
    modality = _through_modality(stored, steps.modality)
    if isinstance(steps.voi, Window):
        gray = windowed(modality, steps.voi)
    elif steps.voi is not None:
        gray = steps.voi(modality) / steps.voi.largest
    else:
        gray = _stretched(modality, _through_modality(np.array(extent_of(values, spec, steps)), steps.modality))
    gray = np.clip(gray, 0.0, 1.0)
    if steps.presentation is not None:
        table = steps.presentation
        gray = table(table.first + gray * (len(table.entries) - 1)) / table.largest
    if steps.is_inverse:
        gray = 1.0 - gray
    if steps.palette is not None:
        return _coloured(gray, steps.palette)
    shades: Picture = np.rint(gray * 255).astype(np.uint8)
    if steps.padding is not None:
        shades[(stored >= steps.padding[0]) & (stored <= steps.padding[1])] = 0
    return shades


def _coloured(gray: NDArray[Any], palette: tuple[Table, Table, Table]) -> Picture:
    colours = [table(table.first + gray * (len(table.entries) - 1)) >> (table.bits - 8) for table in palette]
    return np.stack(colours, axis=-1).astype(np.uint8)


def _through_modality(stored: NDArray[Any], modality: Table | tuple[float, float]) -> NDArray[Any]:
    if isinstance(modality, Table):
        return modality(stored).astype(np.float64)
    slope, intercept = modality
    return stored * slope + intercept


def extent_of(values: NDArray[Any], spec: ArraySpec, steps: Grayscale) -> tuple[float, float]:
    """The lowest and highest stored value to tell apart: all that 8 bits hold, else what there is but padding."""
    if steps.extent is not None:
        return steps.extent
    if values.dtype.kind != "f" and (steps.is_whole_range or (spec.bits_stored <= 8 and not spec.signed)):
        span = 1 << spec.bits_stored
        return (-span // 2, span // 2 - 1) if spec.signed else (0, span - 1)
    inside = values if values.dtype.kind != "f" else values[np.isfinite(values)]
    if steps.padding is not None:
        inside = inside[(inside < steps.padding[0]) | (inside > steps.padding[1])]
    return (float(inside.min()), float(inside.max())) if inside.size else (0.0, 0.0)


def windowed(values: NDArray[Any], window: Window) -> NDArray[Any]:
    """Values through a window, 0 to 1 (PS3.3 C.11.2.1.2.1, C.11.2.1.3)."""
    center, width = window.center, window.width
    if window.function == "sigmoid":
        return 1 / (1 + np.exp(np.clip(-4 * (values - center) / width, -80, 80)))
    if window.function == "linear":
        center, width = center - 0.5, width - 1
        if width == 0:
            return (values > center).astype(np.float64)
    return np.clip((values - center) / width + 0.5, 0.0, 1.0)


def _stretched(values: NDArray[Any], extent: NDArray[Any]) -> NDArray[Any]:
    low, high = float(extent.min()), float(extent.max())
    return (values - low) / (high - low) if high > low else np.zeros(np.shape(values))
