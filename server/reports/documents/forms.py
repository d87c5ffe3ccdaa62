"""The forms in which a signed version is handed out: over HTTP, as FHIR's ``presentedForm``, by what delivers it."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from readingroom.model import Report
from server.reports.documents import html, pdf, text

FormName = Literal["txt", "html", "pdf"]
Render = Callable[[Report, Path | None], bytes]

CONTENT_TYPES: Mapping[FormName, str] = {
    "txt": "text/plain; charset=utf-8",
    "html": "text/html; charset=utf-8",
    "pdf": "application/pdf",
}
_RENDERS: Mapping[FormName, Render] = {
    "txt": lambda report, _: text.plain(report).encode(),
    "html": lambda report, _: html.page(report).encode(),
    "pdf": lambda report, fonts: pdf.render(report, fonts=fonts),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Form:
    """A rendering, as FHIR's Attachment tells of it: `sha1` is of the raw bytes, and not yet in base64."""

    content_type: str
    data: bytes

    @property
    def size(self) -> int:
        """How many bytes it has."""
        return len(self.data)

    @property
    def sha1(self) -> bytes:
        """The digest of these bytes."""
        return hashlib.sha1(self.data, usedforsecurity=False).digest()


def form(report: Report, name: FormName, *, fonts: Path | None = None) -> Form:
    """One rendering; raises as `server.reports.documents.pdf.render` does."""
    return Form(content_type=CONTENT_TYPES[name], data=_RENDERS[name](report, fonts))


def presented(report: Report, *, fonts: Path | None = None) -> list[Form]:
    """HTML and PDF, as IHE Interactive Multimedia Report wants them; raises as `form` does."""
    return [form(report, "html"), form(report, "pdf", fonts=fonts)]
