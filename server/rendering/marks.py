"""What a presentation state draws over an image: overlays, lines and texts, layer by layer (PS3.3 C.10.5, C.10.7)."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw

from server.rendering.cielab import rgb_of
from server.rendering.item import Item
from server.rendering.lettering import Colour, Lettering
from server.rendering.overlays import Plane
from server.rendering.placing import Placing, Points
from server.rendering.state import Layer

_MAX_POINTS = 100_000
_MAX_MARKS = 10_000
_CURVE_STEPS = 16
_CIRCLE_STEPS = 128
_FAR = 1e6


@dataclass(frozen=True, slots=True, kw_only=True)
class Ground:
    """Where marks are drawn.

    `placing` brings pixels of the image to the picture. Marks may also be placed in fractions of the displayed area,
    whose size before the last step is `area`; `fitting` brings that to the picture.
    """

    rows: int
    columns: int
    placing: Placing
    area: tuple[int, int]
    fitting: Placing

    def points(self, points: Points, units: str) -> Points:
        """Points in the units of PS3.3 C.10.5 as points of the picture."""
        placed = self.fitting.points(points * self.area) if units == "DISPLAY" else self.placing.points(points)
        return np.clip(np.nan_to_num(placed), -_FAR, _FAR)


def with_marks(
    image: Image.Image,
    ground: Ground,
    layers: Iterable[Layer],
    planes: Iterable[Plane],
    annotations: Iterable[Item],
    lettering: Lettering,
) -> Image.Image:
    """The picture with its marks; in color where a layer has one."""
    layers, planes, annotations = list(layers), list(planes), list(annotations)
    if image.mode == "L" and any(layer.lab and not _is_gray(layer.lab) for layer in layers):
        image = image.convert("RGB")
    budget = _MAX_MARKS
    for layer in layers:
        colour = _colour(layer, image.mode)
        for plane in planes:
            if plane.layer == layer.name:
                image = with_plane(image, ground, plane, colour)
        for annotation in annotations:
            if annotation.text("GraphicLayer") != layer.name:
                continue
            for graphic in annotation.items("GraphicObjectSequence")[:budget]:
                _draw(image, ground, graphic, colour)
                budget -= 1
            for text in annotation.items("TextObjectSequence")[:budget]:
                _write(image, ground, text, colour, lettering)
                budget -= 1
    return image


def with_plane(image: Image.Image, ground: Ground, plane: Plane, colour: Colour) -> Image.Image:
    """The picture with an overlay plane."""
    mask = Image.fromarray(plane.over(ground.rows, ground.columns).astype(np.uint8) * 255)
    image.paste(colour, (0, 0), ground.placing.image(mask))
    return image


def _is_gray(lab: tuple[int, int, int]) -> bool:
    return all(abs(value - 0x8080) <= 0x101 for value in lab[1:])


def _colour(layer: Layer, mode: str) -> Colour:
    if layer.lab and mode == "RGB":
        return rgb_of(layer.lab)
    if layer.gray is not None:
        gray = min(max(layer.gray, 0), 0xFFFF) >> 8
    else:
        gray = rgb_of(layer.lab)[0] if layer.lab else 255
    return gray if mode == "L" else (gray, gray, gray)


def _draw(image: Image.Image, ground: Ground, graphic: Item, colour: Colour) -> None:
    """A graphic object (PS3.3 C.10.5.1.2)."""
    numbers = graphic.numbers("GraphicData")[: 2 * _MAX_POINTS]
    if len(numbers) < 2 or len(numbers) % 2:
        return
    points = np.array(numbers, np.float64).reshape(-1, 2)
    kind = graphic.text("GraphicType")
    pen = ImageDraw.Draw(image)
    width = max(round(max(image.size) / 512), 1)
    if kind == "POINT":
        for x, y in ground.points(points, graphic.text("GraphicAnnotationUnits")).tolist():
            pen.ellipse((x - 2 * width, y - 2 * width, x + 2 * width, y + 2 * width), fill=colour)
        return
    shape = _shape(kind, points)
    if shape is None or len(shape) < 2:
        return
    line = [tuple(point) for point in ground.points(shape, graphic.text("GraphicAnnotationUnits")).tolist()]
    if graphic.text("GraphicFilled") == "Y" and len(line) > 2:
        pen.polygon(line, fill=colour, outline=colour)
    pen.line(line, fill=colour, width=width)


def _shape(kind: str, points: Points) -> Points | None:
    """The points of a line that follows the shape."""
    if kind == "POLYLINE":
        return points
    if kind == "INTERPOLATED":
        return _curve(points)
    around = np.linspace(0, 2 * np.pi, _CIRCLE_STEPS + 1)[:, None]
    if kind == "CIRCLE" and len(points) == 2:
        center, rim = points
        radius = np.hypot(*(rim - center))
        return np.asarray(center + radius * np.concatenate([np.cos(around), np.sin(around)], axis=1))
    if kind == "ELLIPSE" and len(points) == 4:
        center = (points[0] + points[1]) / 2
        major, minor = (points[1] - points[0]) / 2, (points[3] - points[2]) / 2
        return np.asarray(center + np.cos(around) * major + np.sin(around) * minor)
    return None


def _curve(points: Points) -> Points:
    """A smooth line through points (Catmull-Rom): the standard leaves the interpolation open."""
    if len(points) < 3 or len(points) > _MAX_POINTS // _CURVE_STEPS:
        return points
    is_closed = bool(np.allclose(points[0], points[-1]))
    before = points[-2] if is_closed else points[0]
    after = points[1] if is_closed else points[-1]
    padded = np.concatenate([[before], points, [after]])
    p0, p1, p2, p3 = padded[:-3, None], padded[1:-2, None], padded[2:-1, None], padded[3:, None]
    t = np.linspace(0, 1, _CURVE_STEPS, endpoint=False)[None, :, None]
    curve = 0.5 * (2 * p1 + (p2 - p0) * t + (2 * p0 - 5 * p1 + 4 * p2 - p3) * t**2 + (3 * p1 - p0 - 3 * p2 + p3) * t**3)
    return np.concatenate([curve.reshape(-1, 2), points[-1:]])


def _write(image: Image.Image, ground: Ground, text: Item, colour: Colour, lettering: Lettering) -> None:
    """A text object (PS3.3 C.10.5.1.1): in its box, else at its anchor; a line leads from the one to the other."""
    lines = text.text("UnformattedTextValue").replace("\r\n", "\n").replace("\r", "\n").split("\n")[:50]
    size = max(round(max(image.size) / 36), 11)
    box = _corners(ground, text)
    anchor = text.numbers("AnchorPoint")
    point = None
    if len(anchor) == 2:
        units = text.text("AnchorPointAnnotationUnits")
        point = ground.points(np.array([anchor], np.float64), units)[0].tolist()
    if box is None and point is None:
        return
    if box is None:
        left, top = point or (0, 0)
        right = left + max(lettering.width(line, size) for line in lines)
        bottom = top + size * 1.25 * len(lines)
    else:
        left, top, right, bottom = box
    if box is not None and point is not None and text.text("AnchorPointVisibility") == "Y":
        x, y = min(max(point[0], left), right), min(max(point[1], top), bottom)
        ImageDraw.Draw(image).line([(x, y), (point[0], point[1])], fill=colour, width=max(size // 12, 1))
    where = text.text("BoundingBoxTextHorizontalJustification")
    x, side = {"RIGHT": (right, "r"), "CENTER": ((left + right) / 2, "m")}.get(where, (left, "l"))
    for index, line in enumerate(lines):
        lettering.write(image, (x, top + index * size * 1.25), line, size, colour, anchor=f"{side}a")


def _corners(ground: Ground, text: Item) -> tuple[float, float, float, float] | None:
    """Left, top, right and bottom of the box in the picture."""
    first, last = text.numbers("BoundingBoxTopLeftHandCorner"), text.numbers("BoundingBoxBottomRightHandCorner")
    if len(first) != 2 or len(last) != 2:
        return None
    corners = ground.points(np.array([first, last]), text.text("BoundingBoxAnnotationUnits"))
    (left, top), (right, bottom) = corners.min(axis=0).tolist(), corners.max(axis=0).tolist()
    return left, top, right, bottom
