"""Which part of an image is shown, how it is turned, and how large (PS3.3 C.10.4, C.10.6; PS3.18 8.3.5.1.3)."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from readingroom.errors import Invalid, NotAcceptable, TooLarge
from server.rendering.look import Viewport

MAX_SIDE = 16384
"""The longest side of a viewport."""

MAX_PIXELS = 64 << 20
"""The largest picture that is made."""

Points = NDArray[np.float64]
"""Shape ``(count, 2)``: x and y, of which 0, 0 is the top left corner of the top left pixel."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Area:
    """What a presentation state shows of an image.

    `left` and `top` are counted from 0, in pixels of the image before it is turned; `right` and `bottom` are the
    first that are not shown. It is turned by `rotation` (0, 90, 180, 270 degrees clockwise), then mirrored.
    `pixel_aspect` is the height of a pixel of the image to its width.
    """

    left: int
    top: int
    right: int
    bottom: int
    rotation: int = 0
    is_mirrored: bool = False
    pixel_aspect: float = 1.0
    magnification: float | None = None


@dataclass(frozen=True, slots=True)
class Placing:
    """Steps from pixels of the image to pixels of the picture, for images and for points alike."""

    steps: tuple[_Step, ...] = ()

    def image(self, image: Image.Image, *, resampling: Image.Resampling = Image.Resampling.BILINEAR) -> Image.Image:
        """The picture of an image of the size that this was made for."""
        for step in self.steps:
            image = step.image(image, resampling)
        return image

    def points(self, points: Points) -> Points:
        """Where points of the image are in the picture."""
        for step in self.steps:
            points = step.points(points)
        return points


@dataclass(frozen=True, slots=True)
class _Crop:
    left: int
    top: int
    right: int
    bottom: int

    def image(self, image: Image.Image, _resampling: Image.Resampling) -> Image.Image:
        return image.crop((self.left, self.top, self.right, self.bottom))

    def points(self, points: Points) -> Points:
        return points - (self.left, self.top)


_TURNS = {90: Image.Transpose.ROTATE_270, 180: Image.Transpose.ROTATE_180, 270: Image.Transpose.ROTATE_90}
"""Pillow turns to the left, DICOM to the right."""

Turn = Literal["90", "180", "270", "mirror", "upside-down"]


@dataclass(frozen=True, slots=True)
class _Turn:
    """By how much, and the size before."""

    how: Turn
    width: int
    height: int

    def image(self, image: Image.Image, _resampling: Image.Resampling) -> Image.Image:
        if self.how == "mirror":
            return image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        if self.how == "upside-down":
            return image.transpose(Image.Transpose.FLIP_TOP_BOTTOM)
        return image.transpose(_TURNS[int(self.how)])

    def points(self, points: Points) -> Points:
        x, y = points[:, 0], points[:, 1]
        turned = {
            "90": (self.height - y, x),
            "180": (self.width - x, self.height - y),
            "270": (y, self.width - x),
            "mirror": (self.width - x, y),
            "upside-down": (x, self.height - y),
        }
        return np.stack(turned[self.how], axis=-1)


@dataclass(frozen=True, slots=True)
class _Scale:
    """Of the box with these corners, to the size of the picture."""

    box: tuple[float, float, float, float]
    size: tuple[int, int]

    def image(self, image: Image.Image, resampling: Image.Resampling) -> Image.Image:
        if self.size == image.size and self.box == (0.0, 0.0, float(self.size[0]), float(self.size[1])):
            return image
        left, top, right, bottom = self.box
        # Cropped first: what lies outside of the region must not shine into its edges.
        x, y = math.floor(left), math.floor(top)
        image = image.crop((x, y, math.ceil(right), math.ceil(bottom)))
        return image.resize(self.size, resampling, box=(left - x, top - y, right - x, bottom - y))

    def points(self, points: Points) -> Points:
        left, top, right, bottom = self.box
        scale = self.size[0] / (right - left), self.size[1] / (bottom - top)
        return (points - (left, top)) * scale


_Step = _Crop | _Turn | _Scale


@dataclass(frozen=True, slots=True)
class Placed:
    """A placing, and the size of the picture that it makes."""

    placing: Placing
    width: int
    height: int

    def then(self, step: _Step, width: int, height: int) -> Placed:
        """With another step."""
        return Placed(Placing((*self.placing.steps, step)), width, height)


def shown_area(width: int, height: int, area: Area) -> Placed:
    """How an image of that size is shown by a presentation state.

    Raises
    ------
    NotAcceptable
        The area is empty, or not turned by quarters.
    TooLarge
        It is past `MAX_PIXELS`.
    """
    if area.right <= area.left or area.bottom <= area.top:
        raise NotAcceptable("The displayed area of the presentation state is empty.")
    if area.rotation not in (0, *_TURNS):
        raise NotAcceptable(f"An image turned by {area.rotation} degrees is not rendered; 0, 90, 180 and 270 are.")
    if not math.isfinite(area.pixel_aspect) or not 0.01 <= area.pixel_aspect <= 100:
        raise NotAcceptable("The pixels of the displayed area have no sensible aspect ratio.")
    size = area.right - area.left, area.bottom - area.top
    _check(*size)
    placed = Placed(Placing(), width, height)
    if (area.left, area.top, area.right, area.bottom) != (0, 0, width, height):
        placed = placed.then(_Crop(area.left, area.top, area.right, area.bottom), *size)
    aspect = area.pixel_aspect
    scale = area.magnification or 1.0
    scaled = round(size[0] * scale / min(aspect, 1.0)), round(size[1] * scale * max(aspect, 1.0))
    if scaled != size:
        _check(*scaled)
        placed = placed.then(_Scale((0, 0, *size), (max(scaled[0], 1), max(scaled[1], 1))), *scaled)
    if area.rotation:
        turn = _Turn(_quarter(area.rotation), placed.width, placed.height)
        is_on_its_side = area.rotation != 180
        width, height = (placed.height, placed.width) if is_on_its_side else (placed.width, placed.height)
        placed = placed.then(turn, width, height)
    if area.is_mirrored:
        placed = placed.then(_Turn("mirror", placed.width, placed.height), placed.width, placed.height)
    return placed


def _quarter(rotation: int) -> Turn:
    return "90" if rotation == 90 else "180" if rotation == 180 else "270"


def fitted(placed: Placed, viewport: Viewport | None, *, is_cut: bool = False) -> Placed:
    """The region of the viewport, flipped and scaled into it without distortion (PS3.18 8.3.5.1.3).

    With `is_cut` what does not fit is cut off instead: so it is for a magnified area (PS3.18 9.5.2.3).

    Raises
    ------
    Invalid
        The region lies outside of the image.
    """
    if viewport is None:
        return placed
    left, top = viewport.left, viewport.top
    right = placed.width if viewport.region_width is None else min(left + viewport.region_width, placed.width)
    bottom = placed.height if viewport.region_height is None else min(top + viewport.region_height, placed.height)
    if left >= right or top >= bottom:
        raise Invalid(f"The viewport's region lies outside of the image of {placed.width} x {placed.height} pixels.")
    if is_cut:
        width, height = min(placed.width, viewport.width), min(placed.height, viewport.height)
        return placed.then(_Crop(0, 0, width, height), width, height)
    scale = min(viewport.width / (right - left), viewport.height / (bottom - top))
    size = (
        min(max(round((right - left) * scale), 1), viewport.width),
        min(max(round((bottom - top) * scale), 1), viewport.height),
    )
    placed = placed.then(_Scale((left, top, right, bottom), size), *size)
    if viewport.is_mirrored:
        placed = placed.then(_Turn("mirror", *size), *size)
    if viewport.is_upside_down:
        placed = placed.then(_Turn("upside-down", *size), *size)
    return placed


def _check(width: int, height: int) -> None:
    if width * height > MAX_PIXELS:
        raise TooLarge(f"A picture of {width} x {height} pixels is past the limit of {MAX_PIXELS}.")
