"""Display shutters: what lies outside of them is covered (PS3.3 C.7.6.11, C.7.6.15)."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from server.rendering.cielab import rgb_of
from server.rendering.grayscale import Picture
from server.rendering.item import Item
from server.rendering.overlays import GROUPS, plane_of

_EDGES = (
    "ShutterLeftVerticalEdge",
    "ShutterRightVerticalEdge",
    "ShutterUpperHorizontalEdge",
    "ShutterLowerHorizontalEdge",
)


def covered(picture: Picture, dataset: Item) -> Picture:
    """The picture with what its shutters leave out in the color that they name, or black."""
    shapes = dataset.values("ShutterShape")
    if not shapes:
        return picture
    rows, columns = picture.shape[:2]
    is_open = np.ones((rows, columns), np.bool_)
    for shape in dict.fromkeys(map(str, shapes)):
        if shape == "RECTANGULAR":
            is_open &= _rectangle(dataset, rows, columns)
        elif shape == "CIRCULAR":
            is_open &= _circle(dataset, rows, columns)
        elif shape == "POLYGONAL":
            is_open &= _polygon(dataset, rows, columns)
        elif shape == "BITMAP" and (group := dataset.whole("ShutterOverlayGroup")) in GROUPS:
            is_open &= ~_bitmap(dataset, group, rows, columns)
    lab = [int(value) for value in dataset.numbers("ShutterPresentationColorCIELabValue")]
    if len(lab) == 3 and lab != [0, 0x8080, 0x8080]:
        colour = rgb_of((lab[0], lab[1], lab[2]))
        picture = picture if picture.ndim == 3 else np.repeat(picture[..., None], 3, axis=-1)
        return np.where(is_open[..., None], picture, np.array(colour, np.uint8))
    gray = np.uint8(min(max(dataset.whole("ShutterPresentationValue") or 0, 0), 0xFFFF) >> 8)
    return np.where(is_open if picture.ndim == 2 else is_open[..., None], picture, gray)


def _rectangle(dataset: Item, rows: int, columns: int) -> NDArray[np.bool_]:
    """Rows and columns count from 1, and the edges are still seen."""
    left, right, top, bottom = (dataset.whole(edge) for edge in _EDGES)
    y, x = np.ogrid[1 : rows + 1, 1 : columns + 1]
    is_open: NDArray[np.bool_] = (
        (x >= (left or 1)) & (x <= (columns if right is None else right))
        & (y >= (top or 1)) & (y <= (rows if bottom is None else bottom))
    )  # fmt: skip
    return is_open


def _circle(dataset: Item, rows: int, columns: int) -> NDArray[np.bool_]:
    center, radius = dataset.numbers("CenterOfCircularShutter"), dataset.number("RadiusOfCircularShutter")
    if len(center) != 2 or radius is None:
        return np.ones((rows, columns), np.bool_)
    y, x = np.ogrid[1 : rows + 1, 1 : columns + 1]
    is_open: NDArray[np.bool_] = (y - center[0]) ** 2 + (x - center[1]) ** 2 <= radius**2
    return is_open


def _polygon(dataset: Item, rows: int, columns: int) -> NDArray[np.bool_]:
    vertices = np.array(dataset.numbers("VerticesOfThePolygonalShutter"))
    if len(vertices) < 6 or len(vertices) % 2:
        return np.ones((rows, columns), np.bool_)
    mask = Image.new("1", (columns, rows))
    points = [(x - 1, y - 1) for y, x in np.clip(vertices, -(1 << 20), 1 << 20).reshape(-1, 2)]
    ImageDraw.Draw(mask).polygon(points, fill=1, outline=1)
    return np.asarray(mask)


def _bitmap(dataset: Item, group: int, rows: int, columns: int) -> NDArray[np.bool_]:
    plane = plane_of(dataset, group, 1)
    return plane.over(rows, columns) if plane else np.zeros((rows, columns), np.bool_)
