"""A report as HTML: nothing in it runs, nothing is fetched, and every text is text.

Each paragraph finds its own direction (``dir="auto"``), and each form of a name is isolated from what stands around it
(Unicode TR 9), so that marks of direction in one text turn around no other.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from html import escape
from unicodedata import bidirectional

from readingroom.model import Report
from server.reports.documents.sheet import TITLE, Part, Piece, Sheet, lay_out

_STYLE = (
    "body{font:1rem/1.5 'Noto Sans','DejaVu Sans',system-ui,sans-serif;max-width:48rem;margin:2rem auto;padding:0 1rem;"
    "color:#111;background:#fff;overflow-wrap:anywhere}"
    "h1{font-size:1.4rem;margin:0}h2{font-size:1.05rem;margin:1.4rem 0 .2rem}"
    ".facility{margin:0;color:#444}.status{display:inline-block;margin:.6rem 0;padding:.1rem .6rem;"
    "border:1px solid #111;font-weight:bold}.warning{color:#900;border:2px solid #900}"
    "dl{display:grid;grid-template-columns:max-content 1fr;gap:.1rem 1rem;margin:0}dt{color:#444}dd{margin:0}"
    "dd bdi{margin-inline-end:1em}p{margin:0}.text{white-space:pre-wrap}.ai{border-bottom:1px dashed #555}"
    ".signed,.notes{margin-top:.4rem;font-size:.9rem}footer{margin-top:2rem;border-top:1px solid #999;font-size:.85rem}"
    "@media print{body{margin:0;max-width:none}section{break-inside:avoid-page}}"
)
_LANGUAGE = re.compile(r"[A-Za-z]{2,8}(-[A-Za-z0-9]{1,8})*")


def page(report: Report) -> str:
    """A whole page, for a browser or to print."""
    sheet = lay_out(report)
    return "".join(
        (
            '<!DOCTYPE html>\n<html lang="en" dir="ltr"><head><meta charset="utf-8">',
            '<meta name="viewport" content="width=device-width, initial-scale=1">',
            f"<title>{TITLE}</title><style>{_STYLE}</style></head><body><main>",
            *_body(sheet),
            "</main></body></html>\n",
        )
    )


def narrative(report: Report) -> str:
    """The same as the ``div`` of a FHIR narrative: with no elements or attributes but those that R4 allows there."""
    sheet = lay_out(report)
    return "".join(('<div xmlns="http://www.w3.org/1999/xhtml">', *_narrative(sheet), "</div>"))


def is_rtl(text: str) -> bool:
    """Whether the first letter that has a direction goes from right to left (Unicode TR 9, P2 and P3)."""
    return next((kind != "L" for kind in map(bidirectional, text) if kind in ("L", "R", "AL")), False)


def language_of(sheet: Sheet) -> str:
    """The language that the report is written in, as BCP 47 has it; English where it says nothing sensible."""
    return sheet.language if _LANGUAGE.fullmatch(sheet.language) else "en"


def _body(sheet: Sheet) -> Iterator[str]:
    written = language_of(sheet)
    yield f'<header><p class="facility"><bdi>{escape(sheet.facility)}</bdi></p><h1>{TITLE}</h1>'
    yield f'<p class="status{" warning" if sheet.is_warning else ""}">{sheet.status}</p></header><dl>'
    for fact in sheet.facts:
        values = " ".join(f'<bdi dir="auto">{escape(value)}</bdi>' for value in fact.values)
        yield f"<dt>{fact.label}</dt><dd>{values}</dd>"
    yield "</dl>"
    for part in sheet.parts:
        yield from _part(part, written)
    yield from _signed(sheet.signatures)
    for part in sheet.addenda:
        yield from _part(part, written)
    if sheet.notes:
        yield '<div class="notes">' + "".join(f"<p>{escape(note)}</p>" for note in sheet.notes) + "</div>"
    yield f"<footer><p>{escape(sheet.page)}</p></footer>"


def _part(part: Part, language: str) -> Iterator[str]:
    yield f'<section lang="{language if part.kind == "written" else "en"}"><h2 dir="auto">{escape(part.title)}</h2>'
    for line in lines_of(part):
        yield f'<p class="text" dir="auto">{"".join(map(_marked, line))}</p>'
    yield from _signed(part.signatures)
    yield "</section>"


def _marked(piece: Piece) -> str:
    """Words of a line, marked where an algorithm wrote them."""
    told = escape(piece.text)
    return f'<span class="ai" title="{escape(piece.note)}">{told}</span>' if piece.note else told


def _signed(lines: Iterable[str]) -> Iterator[str]:
    for line in lines:
        yield f'<p class="signed" lang="en"><bdi>{escape(line)}</bdi></p>'


def lines_of(part: Part) -> Iterator[list[Piece]]:
    """The pieces of a part line by line, without the empty lines at its ends."""
    lines: list[list[Piece]] = [[]]
    for piece in part.pieces:
        first, *others = piece.text.split("\n")
        lines[-1].append(Piece(text=first, note=piece.note))
        lines += [[Piece(text=other, note=piece.note)] for other in others]
    told = [[piece for piece in line if piece.text] for line in lines]
    full = [index for index, line in enumerate(told) if line]
    yield from told[full[0] : full[-1] + 1] if full else ()


def _narrative(sheet: Sheet) -> Iterator[str]:
    yield f"<p>{_turned(sheet.facility)}</p><h1>{TITLE}</h1><p><b>{sheet.status}</b></p><table><tbody>"
    for fact in sheet.facts:
        yield f"<tr><th>{fact.label}</th><td>{' '.join(map(_turned, fact.values))}</td></tr>"
    yield "</tbody></table>"
    for part in sheet.parts:
        yield from _narrative_part(part)
    yield from _paragraphs(sheet.signatures)
    for part in sheet.addenda:
        yield from _narrative_part(part)
    yield from _paragraphs((*sheet.notes, sheet.page))


def _narrative_part(part: Part) -> Iterator[str]:
    yield f"<h2>{_turned(part.title)}</h2>"
    yield from _paragraphs(part.text.split("\n"))
    yield from _paragraphs(part.signatures)


def _paragraphs(lines: Iterable[str]) -> Iterator[str]:
    for line in lines:
        yield f'<p dir="{"rtl" if is_rtl(line) else "ltr"}">{escape(line)}</p>'


def _turned(text: str) -> str:
    """A text in a ``span`` that has its direction; FHIR's narrative knows no ``bdi``."""
    return f'<span dir="{"rtl" if is_rtl(text) else "ltr"}">{escape(text)}</span>'
