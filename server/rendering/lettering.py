"""Letters on pictures."""

from __future__ import annotations

import unicodedata
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

Colour = int | tuple[int, int, int]
_MAX_LETTERS = 200


@dataclass(frozen=True, slots=True)
class Lettering:
    """Writes in the font of a file, or in Pillow's own, which has the letters of ASCII and no more.

    With the latter, letters lose their accents, and what is left that it has not becomes ``?``.
    """

    path: Path | None = None

    def write(
        self, image: Image.Image, at: tuple[float, float], text: str, size: int, colour: Colour, *, anchor: str = "la"
    ) -> None:
        """Write a line on the image, with an outline that keeps it legible on any ground.

        `anchor` says which point of the line `at` is, in Pillow's letters: ``la`` is its top left.
        """
        ground: Colour = 0 if image.mode == "L" else (0, 0, 0)
        ImageDraw.Draw(image).text(
            at,
            self._legible(text),
            fill=colour,
            font=self.font(size),
            anchor=anchor,
            stroke_width=max(size // 12, 1),
            stroke_fill=ground,
        )

    def width(self, text: str, size: int) -> float:
        """How many pixels wide a line is."""
        return float(self.font(size).getlength(self._legible(text)))

    def font(self, size: int) -> ImageFont.FreeTypeFont:
        """The font in that size, in pixels."""
        return _font(self.path, size)

    def _legible(self, text: str) -> str:
        text = "".join(letter if letter.isprintable() else " " for letter in text[:_MAX_LETTERS])
        if self.path is not None:
            return text
        bare = "".join(letter for letter in unicodedata.normalize("NFKD", text) if not unicodedata.combining(letter))
        return "".join(_SPELLED.get(letter, letter if letter.isascii() else "?") for letter in bare)


_SPELLED = {"ß": "ss", "ø": "o", "Ø": "O", "ł": "l", "Ł": "L", "æ": "ae", "Æ": "AE", "œ": "oe", "Œ": "OE"} | {
    "đ": "d", "Đ": "D", "þ": "th", "Þ": "Th", "ı": "i", "\N{EN DASH}": "-", "\N{MICRO SIGN}": "u", "°": " deg"
}  # fmt: skip


@lru_cache(maxsize=64)
def _font(path: Path | None, size: int) -> ImageFont.FreeTypeFont:
    if path is not None:
        return ImageFont.truetype(str(path), size)
    font = ImageFont.load_default(size)
    assert isinstance(font, ImageFont.FreeTypeFont)
    return font
