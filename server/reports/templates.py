"""What texts begin with: templates of whole reports, and macros, which are a text for a name.

They are written as TOML, or come as HTML of the IHE profile Management of Radiology Report Templates (MRRT), such as
those of radreport.org. A field that is to be filled stands in the text as ``[ ]``, a choice as ``[none|small|large]``.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterator, Sequence
from datetime import datetime
from pathlib import Path
from typing import Annotated, Any

import orjson
from lxml import etree, html
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from readingroom.errors import Invalid, TooLarge
from server.reports.drafting import SECTIONS, Text, WrittenSection, checked
from storage.catalog import schema as t
from storage.catalog.reports import StoredTemplate, TemplateKind

MOST_BYTES = 1 << 20
"""Of one file."""

_BLANK = "[ ]"
_BLOCKS = frozenset(("p", "div", "br", "li", "tr", "header", "section", "h1", "h2", "h3", "h4", "ul", "ol", "table"))
_DROPPED = frozenset(("script", "style", "head", "object", "embed", "iframe", "template", "link", "meta"))
_ALIASES = {
    "clinical information": "indication",
    "clinical history": "indication",
    "history": "indication",
    "procedure": "technique",
    "procedure information": "technique",
    "imaging procedure": "technique",
    "observations": "findings",
    "conclusion": "impression",
    "summary": "impression",
    "recommendations": "recommendation",
}
"""Headings that templates use for the usual sections."""

_Name = Annotated[str, Field(min_length=1, max_length=200, pattern=r"^[^\x00-\x1f\x7f]+$")]
_Word = Annotated[str, Field(max_length=16, pattern=r"^[A-Z0-9_ ]*$")]


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str
    title: str = ""
    text: str = ""


class _Common(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)

    name: _Name
    reader: Annotated[str, Field(max_length=64)] = ""
    language: Annotated[str, Field(max_length=16)] = "en"
    modality: _Word = ""
    body_part: _Word = ""
    source: Annotated[str, Field(max_length=500)] = ""


class Template(_Common):
    """A template as a file or a client has it."""

    sections: tuple[_Part, ...] = Field(min_length=1)


class Macro(_Common):
    """A macro as a file or a client has it."""

    text: str = Field(min_length=1)


class _File(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)

    template: tuple[Template, ...] = ()
    macro: tuple[Macro, ...] = ()


def stored_template(given: Template | Macro, now: datetime) -> StoredTemplate:
    """The row of a template or a macro; raises `Invalid`, which says what is wrong with its text."""
    about = given.model_dump(include={"name", "reader", "language", "modality", "body_part", "source"})
    kind: TemplateKind
    if isinstance(given, Macro):
        checked(Text(addendum=given.text, language=given.language))
        kind, content = "macro", orjson.dumps(given.text)
    else:
        written = tuple(WrittenSection(name=one.name, title=one.title, text=one.text) for one in given.sections)
        text = checked(Text(sections=written, language=given.language))
        kind = "template"
        content = orjson.dumps([{"name": one.name, "title": one.title, "text": one.text} for one in text.sections])
    return StoredTemplate(id=t.new_id(), kind=kind, content=content, updated_at=now, **about)


def text_of_template(template: StoredTemplate) -> Text:
    """What a report is begun with."""
    if template.kind != "template":
        raise Invalid(f"{template.name[:80]!r} is a macro; a report is begun with a template.")
    sections = tuple(WrittenSection(**one) for one in orjson.loads(template.content))
    return Text(sections=sections, language=template.language, template=template.name)


def read_templates(path: Path) -> Sequence[Template | Macro]:
    """The templates and macros of a file, ``.toml`` or MRRT ``.html``.

    Raises
    ------
    Invalid
        The file is neither, or something is wrong in it; says where.
    """
    with path.open("rb") as file:
        data = file.read(MOST_BYTES + 1)
    if len(data) > MOST_BYTES:
        raise TooLarge(f"{path.name} is larger than {MOST_BYTES} bytes.")
    if path.suffix.lower() in (".html", ".htm", ".xhtml"):
        return (read_mrrt(data, path.stem),)
    try:
        found = _File.model_validate(tomllib.loads(data.decode()))
    except (UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise Invalid(f"{path.name} is no TOML: {error}.") from None
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        raise Invalid(f"{path.name}, {'.'.join(map(str, first['loc']))}: {first['msg']}.") from None
    return (*found.template, *found.macro)


def read_mrrt(data: bytes, name: str) -> Template:
    """A template of the profile MRRT (IHE RAD TF-3 4.103): its sections as plain text, with blanks for its fields.

    Parameters
    ----------
    name
        What it is called where it has no title.

    Raises
    ------
    Invalid
        It is no HTML, or has no section.
    """
    try:
        root = html.document_fromstring(data, parser=html.HTMLParser(no_network=True, huge_tree=False))
    except (etree.LxmlError, ValueError) as error:
        raise Invalid(f"The template {name[:80]} is no HTML.") from error
    parts: dict[str, _Part] = {}
    for section in root.iter("section"):
        if any(one.tag == "section" for one in section.iterancestors()):
            continue
        title = _line(section.get("data-section-name") or str(section.xpath("string(./header)")))
        text = _tidy("".join(_text(section, skips_header=True)))
        key = _section_name(title, len(parts))
        if key in parts:
            text = f"{parts[key].text}\n{text}"
        parts[key] = _Part(name=key, title=title, text=text)
    if not parts:
        raise Invalid(f"The template {name[:80]} has no section; MRRT puts each part of a report into one.")
    title = _line(str(root.xpath("string(//title)"))) or name
    language = root.get("lang") or str(root.xpath("string(//meta[@name='dcterms.language']/@content)")) or "en"
    source = _line(str(root.xpath("string(//meta[@name='dcterms.identifier']/@content)")))
    return Template(name=title[:200], language=language[:16], source=source[:500], sections=tuple(parts.values()))


def _text(element: Any, *, skips_header: bool = False) -> Iterator[str]:
    """The text of an element, blanks for what is to be filled in, and a line for each block."""
    for child in _children(element):
        if isinstance(child, str):
            yield re.sub(r"\s+", " ", child)
            continue
        tag = child.tag if isinstance(child.tag, str) else ""
        if tag in _DROPPED or not tag or (skips_header and tag == "header"):
            continue
        if tag in _BLOCKS:
            yield "\n"
        if tag == "input":
            yield _input(child)
        elif tag == "textarea":
            yield _line(child.text or "") or _BLANK
        elif tag == "select":
            yield _choice(child)
        else:
            yield from _text(child)
        if tag in _BLOCKS and tag != "br":
            yield "\n"


def _children(element: Any) -> Iterator[Any]:
    if element.text:
        yield element.text
    for child in element:
        yield child
        if child.tail:
            yield child.tail


def _input(field: Any) -> str:
    kind = (field.get("type") or "text").lower()
    if kind in ("hidden", "button", "submit", "reset", "image"):
        return ""
    if kind in ("checkbox", "radio"):
        mark = "x" if field.get("checked") is not None else " "
        return f"[{mark}] {_line(field.get('value') or '')} "
    return _line(field.get("value") or "") or _BLANK


def _choice(field: Any) -> str:
    options = [(_line(one.text_content()), one.get("selected") is not None) for one in field.iter("option")]
    chosen = [text for text, is_chosen in options if is_chosen and text]
    if chosen:
        return ", ".join(chosen)
    return f"[{'|'.join(text for text, _ in options if text)}]" if options else _BLANK


def _section_name(title: str, number: int) -> str:
    plain = title.lower()
    if plain in SECTIONS:
        return plain
    if plain in _ALIASES:
        return _ALIASES[plain]
    word = re.sub(r"[^a-z0-9]+", "-", plain).strip("-")[:40].strip("-")
    return word if re.match(r"[a-z]", word) else f"section-{number + 1}"


def _line(text: str) -> str:
    return " ".join(text.split())


def _tidy(text: str) -> str:
    lines = [" ".join(line.split()) for line in text.splitlines()]
    return re.sub(r"\n{3,}", "\n\n", "\n".join(lines)).strip()
