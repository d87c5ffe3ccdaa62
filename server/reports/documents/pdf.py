"""A report as PDF/A-3a and PDF/UA-1: to be kept for ever, and to be read by everybody.

Typst sets it. Its moment is that of the signature, so a version that is set twice has the same bytes, as long as the
fonts are the same. A character that no font has is an error: a report never shows an empty box for a word.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any

from readingroom.errors import Conflict, Unprintable
from readingroom.model import Report
from server.reports.documents.fonts import PACKAGES, SCRIPTS, Fonts, find_fonts
from server.reports.documents.html import is_rtl, language_of, lines_of
from server.reports.documents.sheet import TITLE, Part, Sheet, lay_out

_LONGEST_WORD = 40
# Whoever writes without spaces between words is broken elsewhere too: everything from U+2E80 on, and Thai to Khmer.
_LONG_WORDS = re.compile(rf"[^\s\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u2e80-\U0010ffff]{{{_LONGEST_WORD}}}(?=\S)")
_NOT_SET = re.compile(r'error: .*?(?:the text|contains the codepoint) `"(.*?)"`')
_ESCAPED = re.compile(r"\\u\{([0-9a-f]+)\}|\\(.)")
_MOST_TOLD = 20
_US_LETTER = ("America/", "US/", "Pacific/Honolulu")


def render(report: Report, *, fonts: Path | None = None) -> bytes:
    """The PDF of a signed version.

    Parameters
    ----------
    fonts
        A folder of fonts beside those of the machine.

    Raises
    ------
    Conflict
        Nobody has signed it.
    Unprintable
        No font has some of its characters; the message names them.
    """
    if report.signed_at is None or not report.number:
        raise Conflict(f"Report {report.id} is not signed; there is a PDF of signed versions only.")
    found = find_fonts(fonts)
    moment = report.signed_at.astimezone(UTC).replace(microsecond=0)  # the date of a PDF has no parts of a second
    return _compiled(_told(lay_out(report), found, report.zone), found, moment)


def settable(fonts: Path | None = None) -> dict[str, bool]:
    """Of each script in `SCRIPTS`, whether the fonts here can set it."""
    import typst

    found = find_fonts(fonts)
    told = {}
    for script, words in SCRIPTS.items():
        source = b"#set document(title: [Sample])\n#set text(font: json(bytes(sys.inputs.fonts)))\n#sys.inputs.words"
        inputs = {"words": words, "fonts": json.dumps(found.preferred("en"))}
        try:
            typst.compile(source, format="pdf", pdf_standards=["a-3b"], font_paths=found.book, sys_inputs=inputs)
        except typst.TypstError:
            told[script] = False
        else:
            told[script] = True
    return told


def _compiled(told: Mapping[str, Any], fonts: Fonts, moment: datetime) -> bytes:
    import typst

    try:
        return typst.compile(
            _template(),
            format="pdf",
            pdf_standards=["a-3a", "ua-1"],
            font_paths=fonts.book,
            sys_inputs={"report": json.dumps(told)},
            timestamp=moment,
        )
    except typst.TypstError as error:
        missing = _code_points(_NOT_SET.findall(error.diagnostic or error.message))
        if not missing:
            raise
        some = ", ".join(missing[:_MOST_TOLD]) + (" ..." if len(missing) > _MOST_TOLD else "")
        raise Unprintable(
            f"No font here can set {some}; install Debian's {PACKAGES}, or name a folder of fonts in report_fonts."
        ) from None


@cache
def _template() -> bytes:
    return files(__package__).joinpath("report.typ").read_bytes()


def _told(sheet: Sheet, fonts: Fonts, zone: str) -> dict[str, Any]:
    """The sheet as the template has it."""
    return {
        "title": TITLE,
        "paper": "us-letter" if zone.startswith(_US_LETTER) else "a4",
        "fonts": fonts.preferred(sheet.language),
        "facility": _words(sheet.facility),
        "status": sheet.status,
        "warning": sheet.is_warning,
        "facts": [{"label": fact.label, "values": [_words(value) for value in fact.values]} for fact in sheet.facts],
        "parts": [_part(part, language_of(sheet)) for part in sheet.parts],
        "signatures": [_words(one) for one in sheet.signatures],
        "addenda": [_part(part, language_of(sheet)) for part in sheet.addenda],
        "notes": [_words(one) for one in sheet.notes],
        "page": _words(sheet.page),
    }


def _part(part: Part, language: str) -> dict[str, Any]:
    primary = language.partition("-")[0].lower()
    return {
        "title": _words(part.title),
        "language": primary if part.kind == "written" and len(primary) < 4 else "en",
        "lines": [
            {
                "rtl": is_rtl("".join(piece.text for piece in line)),
                "pieces": [{"text": _broken(piece.text), "ai": bool(piece.note)} for piece in line],
            }
            for line in lines_of(part)
        ],
        "signatures": [_words(one) for one in part.signatures],
    }


def _words(text: str) -> dict[str, Any]:
    return {"text": _broken(text), "rtl": is_rtl(text)}


def _broken(text: str) -> str:
    """A text whose longest words may be broken, so that none of them leaves the page."""
    return _LONG_WORDS.sub(lambda found: found[0] + "\u200b", text)


def _code_points(texts: Iterable[str]) -> list[str]:
    """The characters that Typst could not set, by number, from its messages."""
    found = "".join(_ESCAPED.sub(lambda one: chr(int(one[1], 16)) if one[1] else one[2], text) for text in texts)
    return [f"U+{ord(one):04X}" for one in sorted(set(found)) if not one.isspace()]
