"""From stored values to an 8-bit picture: the grayscale and colour pipelines of PS3.4 N.2, then region and scale."""

from __future__ import annotations

import io
import math
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from pydicom.dataset import Dataset
from pydicom.pixels.processing import apply_color_lut, apply_modality_lut, apply_voi

from readingroom.errors import Invalid, NotAcceptable
from storage.objects import ArraySpec, MetadataJson

Function = Literal["linear", "linear-exact", "sigmoid"]
Picture = NDArray[np.uint8]

_FUNCTIONS: dict[str, Function] = {"LINEAR": "linear", "LINEAR_EXACT": "linear-exact", "SIGMOID": "sigmoid"}
_SHARED, _PER_FRAME = "52009229", "52009230"
_VALUE_TRANSFORMATION, _FRAME_VOI = "00289145", "00289132"
_INTERCEPT, _SLOPE = "00281052", "00281053"
_CENTER, _WIDTH, _FUNCTION = "00281050", "00281051", "00281056"
_MODALITY_LUTS, _VOI_LUTS = "00283000", "00283010"
_PADDING, _PADDING_LIMIT = "00280120", "00280121"
_TABLE_VALUES = 1 << 17
"""Up to so many different stored values are looked up in a table; that is quicker than arithmetic on every pixel."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Window:
    """A window over the values after the Modality LUT (PS3.3 C.11.2.1.2)."""

    center: float
    width: float
    function: Function = "linear"


@dataclass(frozen=True, slots=True, kw_only=True)
class Viewport:
    """What the picture is fitted into, and the region of the image that it shows (PS3.18 8.3.5.1.3).

    `width` and `height` are pixels of the picture, the others pixels of the image; None for up to the edge.
    """

    width: int
    height: int
    left: float = 0.0
    top: float = 0.0
    region_width: float | None = None
    region_height: float | None = None
    is_mirrored: bool = False
    is_upside_down: bool = False


class Attributes:
    """The attributes of one frame: its functional groups, those shared by all, the data set (PS3.3 C.7.6.16)."""

    def __init__(self, metadata: MetadataJson, number: int) -> None:
        per_frame = metadata.get(_PER_FRAME, {}).get("Value", [])
        self._groups = [
            *per_frame[number - 1 : number],
            *metadata.get(_SHARED, {}).get("Value", [])[:1],
        ]
        self.metadata = metadata

    def first(self, key: str, macro: str = "") -> Any:
        """The first value of an attribute, from the macro's sequence in the functional groups if it is there."""
        for group in self._groups if macro else ():
            for item in group.get(macro, {}).get("Value", [])[:1]:
                if values := item.get(key, {}).get("Value"):
                    return values[0]
        values = self.metadata.get(key, {}).get("Value")
        return values[0] if values else None

    def number(self, key: str, macro: str = "") -> float | None:
        """The same as a number; None where it is none."""
        value = self.first(key, macro)
        return float(value) if isinstance(value, int | float) else None


def picture_of(
    values: NDArray[Any],
    spec: ArraySpec,
    photometric: str,
    attributes: Attributes,
    window: Window | None,
    header: Callable[[], Dataset],
) -> Picture:
    """Stored values as 8 bits a sample: shape ``(rows, columns)``, or ``(rows, columns, 3)`` in RGB.

    Parameters
    ----------
    values, photometric
        What `storage.pixels` decoded.
    window
        Takes the place of the data set's own.
    header
        Gives the data set without its pixels, for lookup tables; called only where there are any.

    Raises
    ------
    NotAcceptable
        The image cannot be shown: too many samples, or broken lookup tables.
    """
    if photometric == "PALETTE COLOR":
        return _through_palette(values, header)
    if spec.samples == 3:
        return _colour(values, spec, photometric)
    if spec.samples != 1:
        raise NotAcceptable(f"An image of {spec.samples} samples a pixel ({photometric}) is not rendered.")
    return _grayscale(values, spec, photometric, attributes, window, header)


def _grayscale(
    values: NDArray[Any],
    spec: ArraySpec,
    photometric: str,
    attributes: Attributes,
    window: Window | None,
    header: Callable[[], Dataset],
) -> Picture:
    low, high = values.min(), values.max()
    if values.dtype.kind in "iu" and int(high) - int(low) < _TABLE_VALUES:
        stored = np.arange(int(low), int(high) + 1, dtype=np.int64)
        index = values.astype(np.intp) - int(low)
    else:
        stored, index = np.nan_to_num(values), None
    modality = _modality_values(stored, attributes, header)
    if window := window or _own_window(attributes):
        gray = windowed(modality, window)
    elif luts := attributes.metadata.get(_VOI_LUTS, {}).get("Value"):
        gray = _through_voi_lut(modality, luts[0], header)
    else:
        gray = _stretched(modality, _modality_values(_extent(values, spec, attributes), attributes, header))
    shown: Picture = np.rint(np.clip(gray, 0.0, 1.0) * 255).astype(np.uint8)
    if photometric == "MONOCHROME1":
        shown = 255 - shown
    return shown if index is None else shown[index]


def _modality_values(stored: NDArray[Any], attributes: Attributes, header: Callable[[], Dataset]) -> NDArray[Any]:
    """Through the Modality LUT (PS3.3 C.11.1)."""
    if attributes.metadata.get(_MODALITY_LUTS, {}).get("Value"):
        return _looked_up(apply_modality_lut, stored, header).astype(np.float64)
    slope = attributes.number(_SLOPE, _VALUE_TRANSFORMATION)
    intercept = attributes.number(_INTERCEPT, _VALUE_TRANSFORMATION)
    return stored * (1.0 if slope is None else slope) + (intercept or 0.0)


def _through_voi_lut(modality: NDArray[Any], lut: MetadataJson, header: Callable[[], Dataset]) -> NDArray[Any]:
    """Through the first VOI LUT, 0 to 1 (PS3.3 C.11.2.1.1)."""
    descriptor = lut.get("00283002", {}).get("Value", [])
    bits = descriptor[2] if len(descriptor) == 3 and descriptor[2] in range(8, 17) else 16
    return _looked_up(apply_voi, np.rint(modality).astype(np.int64), header) / ((1 << bits) - 1)


def _extent(values: NDArray[Any], spec: ArraySpec, attributes: Attributes) -> NDArray[Any]:
    """The lowest and highest stored value to tell apart: all that 8 bits hold, else what there is but padding."""
    if spec.bits_stored <= 8 and not spec.signed:
        return np.array([0, (1 << spec.bits_stored) - 1])
    inside = values[np.isfinite(values) & ~_is_padding(values, attributes)]
    return np.array([inside.min(), inside.max()]) if inside.size else np.zeros(2)


def _own_window(attributes: Attributes) -> Window | None:
    center, width = attributes.number(_CENTER, _FRAME_VOI), attributes.number(_WIDTH, _FRAME_VOI)
    function = _FUNCTIONS.get(str(attributes.first(_FUNCTION, _FRAME_VOI) or "LINEAR"), "linear")
    if center is None or width is None or not is_valid_width(width, function):
        return None
    return Window(center=center, width=width, function=function)


def is_valid_width(width: float, function: Function) -> bool:
    """Whether a window may be that wide (PS3.3 C.11.2.1.2: at least 1 if linear, else more than 0)."""
    return width >= 1 if function == "linear" else width > 0


def windowed(values: NDArray[Any], window: Window) -> NDArray[Any]:
    """Values through a window, 0 to 1 (PS3.3 C.11.2.1.2.1, C.11.2.1.3)."""
    center, width = window.center, window.width
    if window.function == "sigmoid":
        return 1 / (1 + np.exp(np.clip(-4 * (values - center) / width, -700, 700)))
    if window.function == "linear":
        center, width = center - 0.5, width - 1
        if width == 0:
            return (values > center).astype(np.float64)
    return np.clip((values - center) / width + 0.5, 0.0, 1.0)


def _stretched(values: NDArray[Any], extent: NDArray[Any]) -> NDArray[Any]:
    low, high = float(extent.min()), float(extent.max())
    return (values - low) / (high - low) if high > low else np.zeros_like(values)


def _is_padding(stored: NDArray[Any], attributes: Attributes) -> NDArray[np.bool_]:
    """What the scanner filled in around the image (PS3.3 C.7.5.1.1.2)."""
    value, limit = attributes.number(_PADDING), attributes.number(_PADDING_LIMIT)
    if value is None:
        return np.zeros(stored.shape, np.bool_)
    low, high = sorted((value, value if limit is None else limit))
    return (stored >= low) & (stored <= high)


def _through_palette(values: NDArray[Any], header: Callable[[], Dataset]) -> Picture:
    """Through the Palette Color Lookup Tables (PS3.3 C.7.9)."""

    def lookup(values: NDArray[Any], dataset: Dataset) -> NDArray[Any]:
        colours = apply_color_lut(values, dataset)[..., :3]
        is_wide = dataset.RedPaletteColorLookupTableDescriptor[2] > 8
        return colours >> 8 if is_wide and colours.dtype.itemsize > 1 else colours

    return _looked_up(lookup, values, header).astype(np.uint8)


def _colour(values: NDArray[Any], spec: ArraySpec, photometric: str) -> Picture:
    if values.dtype.kind != "u":
        raise NotAcceptable(f"Colours of type {values.dtype} are not rendered.")
    if spec.bits_stored > 8:
        values = values >> (spec.bits_stored - 8)
    elif spec.bits_stored < 8:
        values = values.astype(np.uint16) * 255 // ((1 << spec.bits_stored) - 1)
    picture = np.ascontiguousarray(values.astype(np.uint8))
    if photometric == "RGB":
        return picture
    if photometric == "YBR_FULL":
        # Pillow's YCbCr is that of JFIF, which is the full-range one of PS3.3 C.7.6.3.1.2.
        size = (spec.columns, spec.rows)
        return np.asarray(Image.frombuffer("YCbCr", size, picture.tobytes(), "raw", "YCbCr", 0, 1).convert("RGB"))
    raise NotAcceptable(f"Photometric Interpretation {photometric} is not rendered.")


def _looked_up(
    lookup: Callable[[NDArray[Any], Dataset], NDArray[Any]], values: NDArray[Any], header: Callable[[], Dataset]
) -> NDArray[Any]:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return lookup(values, header())
    except (ArithmeticError, AttributeError, LookupError, NotImplementedError, OSError, TypeError, ValueError) as error:
        raise NotAcceptable(f"The lookup tables of this image cannot be applied: {str(error)[:100]}") from None


def fitted(picture: Picture, viewport: Viewport | None) -> Image.Image:
    """The region, flipped and scaled into the viewport without distortion (PS3.18 8.3.5.1.3).

    Raises
    ------
    Invalid
        The region lies outside of the image.
    """
    image = Image.fromarray(picture)
    if viewport is None:
        return image
    left, top = viewport.left, viewport.top
    right = image.width if viewport.region_width is None else min(left + viewport.region_width, image.width)
    bottom = image.height if viewport.region_height is None else min(top + viewport.region_height, image.height)
    if left >= right or top >= bottom:
        raise Invalid(f"The viewport's region lies outside of the image of {image.width} x {image.height} pixels.")
    scale = min(viewport.width / (right - left), viewport.height / (bottom - top))
    size = (
        min(max(round((right - left) * scale), 1), viewport.width),
        min(max(round((bottom - top) * scale), 1), viewport.height),
    )
    # Cropped first: what lies outside of the region must not shine into its edges.
    x, y = math.floor(left), math.floor(top)
    image = image.crop((x, y, math.ceil(right), math.ceil(bottom)))
    image = image.resize(size, Image.Resampling.BILINEAR, box=(left - x, top - y, right - x, bottom - y))
    if viewport.is_mirrored:
        image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    if viewport.is_upside_down:
        image = image.transpose(Image.Transpose.FLIP_TOP_BOTTOM)
    return image


def encoded(image: Image.Image, media_type: str, quality: int) -> bytes:
    """The picture as a file; `quality` is for JPEG alone (PS3.18 8.3.5.1.2)."""
    target = io.BytesIO()
    try:
        if media_type == "image/png":
            image.save(target, "PNG", compress_level=1)
        else:
            image.save(target, "JPEG", quality=quality)
    except (OSError, ValueError) as error:
        raise NotAcceptable(f"A picture of {image.width} x {image.height} is no {media_type}: {error}.") from None
    return target.getvalue()
