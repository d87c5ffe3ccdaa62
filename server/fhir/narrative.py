"""What the XHTML of a narrative may hold (FHIR R4 2.4.2: txt-1, txt-2): text that is shown, and nothing that acts."""

from __future__ import annotations

import re

from lxml import etree

XHTML = "http://www.w3.org/1999/xhtml"

ELEMENTS = frozenset(
    "a abbr acronym address area b bdo big blockquote br caption cite code col colgroup dd del dfn div dl dt em h1 h2"
    " h3 h4 h5 h6 hr i img ins kbd li map ol p pre q samp small span strong sub sup table tbody td tfoot th thead tr tt"
    " u ul var".split()
)
ATTRIBUTES = frozenset(
    "abbr accesskey align alt axis bgcolor border cellpadding cellspacing char charoff charset cite class clear cols"
    " colspan compact coords datetime dir frame headers height href hreflang hspace id ismap lang longdesc name nohref"
    " noshade nowrap rel rev rows rowspan rules scope shape size span src start style summary tabindex title type"
    " usemap valign value vspace width {http://www.w3.org/XML/1998/namespace}lang"
    " {http://www.w3.org/XML/1998/namespace}space {http://www.w3.org/XML/1998/namespace}id".split()
)
ADDRESSES = frozenset({"href", "src", "cite", "longdesc", "usemap"})

_SCHEME = re.compile(r"[\x00-\x20]*([a-z][a-z0-9+.\-]*):", re.IGNORECASE)
_SCHEMES = frozenset({"http", "https", "mailto", "tel", "ftp", "urn"})
_PICTURE = re.compile(r"data:\s*image/(?:png|jpeg|gif|webp|bmp);base64,[A-Za-z0-9+/=\s]*")
_PICTURE_IN_STYLE = re.compile(rf"url\(\s*{_PICTURE.pattern}\)")
_ACTING = re.compile(r"url\s*\(|expression\s*\(|javascript:|@import|behavior\s*:|-moz-binding|\\|/\*", re.IGNORECASE)
_SAID = 5


def narrative_faults(div: str) -> list[str]:
    """What of a narrative's ``div`` is not allowed; the first few."""
    if "<!DOCTYPE" in div or "<!ENTITY" in div:
        return ["A narrative has no DOCTYPE and no entities of its own."]
    try:
        root = etree.fromstring(div.encode(), _parser())
    except etree.XMLSyntaxError:
        return ["A narrative is well-formed XHTML, with no entities but those of XML: &#160; stands for &nbsp;."]
    if root.tag != f"{{{XHTML}}}div":
        return [f'A narrative is a <div xmlns="{XHTML}">.']
    found = list(dict.fromkeys(said for element in root.iter() for said in _faults(element)))
    if not found and not _says_something(root):
        found = ["A narrative has text or a picture (txt-2)."]
    return found[:_SAID]


def _parser() -> etree.XMLParser:
    return etree.XMLParser(resolve_entities=False, no_network=True, load_dtd=False, encoding="utf-8")


def _faults(element: etree._Element) -> list[str]:
    if isinstance(element, etree._Comment):
        return []
    if isinstance(element, etree._ProcessingInstruction | etree._Entity):
        return ["A narrative has no processing instructions and no entities (txt-1)."]
    namespace, _, name = str(element.tag).rpartition("}")
    if namespace != f"{{{XHTML}" or name not in ELEMENTS:
        return ["A narrative has only elements of XHTML that format text, tables and pictures (txt-1)."]
    return [said for name, value in element.attrib.items() if (said := _attribute(str(name), str(value)))]


def _attribute(name: str, value: str) -> str:
    if name not in ATTRIBUTES:
        return "A narrative has only attributes of XHTML that format or lead to, and no events (txt-1)."
    if name == "style" and _ACTING.search(_PICTURE_IN_STYLE.sub("", value)):
        return "A style in a narrative loads nothing and runs nothing (txt-1)."
    if name in ADDRESSES and (scheme := _SCHEME.match(value)):
        is_picture = name == "src" and _PICTURE.fullmatch(value)
        if scheme[1].lower() not in _SCHEMES and not is_picture:
            return "A narrative leads to http, https, mailto, tel, ftp, urn, or to its own pictures (txt-1)."
    return ""


def _says_something(root: etree._Element) -> bool:
    return any(text.strip() for text in root.itertext("*")) or root.find(f".//{{{XHTML}}}img") is not None
