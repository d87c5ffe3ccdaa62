"""The fonts that reports are set in: those of the machine, those of a folder, and the few that Typst brings along."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

PACKAGES = "fonts-noto-core and fonts-noto-cjk"
"""The packages of Debian that have a glyph for nearly every character that people write."""

SCRIPTS: Mapping[str, str] = {
    "Latin": "Größe Łódź İstanbul",
    "Greek": "Ακτινογραφία",
    "Cyrillic": "Рентген",
    "Arabic": "تقرير",
    "Hebrew": "צילום",
    "Devanagari": "रिपोर्ट",
    "Thai": "รายงาน",
    "Chinese": "放射报告 放射報告",
    "Japanese": "放射線レポート",
    "Korean": "영상의학",
}
"""Words by which a script is tried."""

_BY_LANGUAGE: Mapping[str, str] = {
    "ja": "Noto Sans CJK JP",
    "ko": "Noto Sans CJK KR",
    "zh": "Noto Sans CJK SC",
    "zh-tw": "Noto Sans CJK TC",
    "zh-hant": "Noto Sans CJK TC",
    "zh-hk": "Noto Sans CJK HK",
}
_USUAL = ("Noto Sans", "Noto Sans Arabic", "Noto Sans Hebrew")
_LAST = ("Noto Sans CJK JP", "Noto Sans Symbols", "Noto Sans Symbols 2", "DejaVu Sans", "Libertinus Serif")


@dataclass(frozen=True, slots=True)
class Fonts:
    """What there is to set text in: `book` is what Typst made of it."""

    book: Any
    families: frozenset[str]

    def preferred(self, language: str) -> list[str]:
        """The families to be tried, in their order; after them any that has the glyph.

        The characters that Chinese, Japanese and Korean share are drawn as the language of the report has them,
        otherwise as Japanese has them.
        """
        told = language.lower()
        ours = _BY_LANGUAGE.get(told) or _BY_LANGUAGE.get(told.partition("-")[0])
        wanted: Sequence[str] = (*_USUAL, *((ours,) if ours else ()), *_LAST)
        return [family for family in wanted if family in self.families]


@cache
def find_fonts(folder: Path | None) -> Fonts:
    """The fonts of this machine and of a folder; looked for once, which takes some 0.2 s."""
    import typst  # here, for most processes set no report

    book = typst.Fonts(font_paths=[folder] if folder else [])
    return Fonts(book, frozenset(book.families()))
