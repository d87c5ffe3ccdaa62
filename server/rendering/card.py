"""What stands for an object that must not be shown small, or has no picture: a sheet with its kind on it."""

from __future__ import annotations

from PIL import Image, ImageDraw

from server.rendering.lettering import Lettering
from server.rendering.look import Viewport

_GROUND, _SHEET, _INK = 24, 224, 40


def card(label: str, viewport: Viewport | None, lettering: Lettering) -> Image.Image:
    """A gray square with a sheet of paper and a label such as ``SR``, as large as fits into the viewport."""
    side = min(viewport.width, viewport.height) if viewport else 128
    image = Image.new("L", (side, side), _GROUND)
    pen = ImageDraw.Draw(image)
    left, top, right, bottom, corner = side * 0.22, side * 0.1, side * 0.78, side * 0.9, side * 0.16
    pen.polygon(
        [(left, top), (right - corner, top), (right, top + corner), (right, bottom), (left, bottom)], fill=_SHEET
    )
    pen.polygon([(right - corner, top), (right - corner, top + corner), (right, top + corner)], fill=_SHEET - 60)
    size = max(round(side * 0.2), 6)
    while size > 6 and lettering.width(label, size) > (right - left) * 0.9:
        size -= 1
    pen.text((side / 2, side * 0.52), label, fill=_INK, font=lettering.font(size), anchor="mm")
    return image
