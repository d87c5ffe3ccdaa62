"""Writes the reference pages that are made from the code: ``python -m conformance.reference``, or ``make docs``."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import orjson

from conformance.statement import statement_page
from server.dicomweb.openapi import openapi
from server.settings import Settings

PAGES = Path(__file__).parents[1] / "docs" / "reference"

_SETTINGS_HEAD = """\
# Settings

Made from `server/settings.py` by `make docs`.

A setting comes from the option of a command (`--data`), else from an environment variable
(`READINGROOM_DATA=/srv/images`), else from a TOML file: the one that `--config` or `READINGROOM_CONFIG` names, or
`readingroom.toml` in the working folder. `readingroom doctor` says what is wrong with them.

    # readingroom.toml
    data = "/srv/images"
    port = 8781
    allowed_hosts = ["images.example.org", "127.0.0.1"]

In a variable a list is written as JSON: `READINGROOM_ALLOWED_HOSTS='["images.example.org"]'`.

| setting | environment | default | meaning |
|---|---|---|---|
"""


def settings_page() -> str:
    """The reference of every setting, as Markdown."""
    return _SETTINGS_HEAD + "".join(
        f"| `{name}` | `READINGROOM_{name.upper()}` | {_default(field.default)} | {_meaning(field)} |\n"
        for name, field in Settings.model_fields.items()
    )


def _default(value: Any) -> str:
    match value:
        case None | ():
            return "none"
        case tuple():
            return ", ".join(f"`{item}`" for item in value)
        case int() if value >= 1 << 20 and value % (1 << 20) == 0:
            size = f"{value >> 30} GiB" if value % (1 << 30) == 0 else f"{value >> 20} MiB"
            return f"`{value}` ({size})"
        case _:
            return f"`{value}`"


def _meaning(field: Any) -> str:
    bounds = [
        f"{sign} {getattr(bound, name)}"
        for bound in field.metadata
        for name, sign in (("ge", "at least"), ("gt", "more than"), ("le", "at most"))
        if getattr(bound, name, None) is not None
    ]
    choices = getattr(field.annotation, "__args__", ()) if "Literal" in str(field.annotation) else ()
    told = [field.description, *bounds, f"one of {', '.join(f'`{choice}`' for choice in choices)}" if choices else ""]
    return "; ".join(filter(None, told))


def openapi_document() -> str:
    """The OpenAPI document of the DICOMweb services, as it is served but for its server."""
    document = orjson.dumps(openapi("http://127.0.0.1:8780/dicomweb"), option=orjson.OPT_INDENT_2)
    return document.decode() + "\n"


PAGE_MAKERS: Mapping[str, Callable[[], str]] = {
    "conformance-statement.md": statement_page,
    "openapi.json": openapi_document,
    "settings.md": settings_page,
}
"""What makes each page of the reference that is made from the code."""


def main() -> None:
    """Write the pages."""
    PAGES.mkdir(parents=True, exist_ok=True)
    for name, make in PAGE_MAKERS.items():
        (PAGES / name).write_text(make(), encoding="utf-8")


if __name__ == "__main__":
    main()
