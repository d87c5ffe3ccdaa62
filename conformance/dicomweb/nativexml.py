"""The Native DICOM Model, read strictly (PS3.19 A.1), as the DICOM JSON Model that says the same."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

from lxml import etree
from pydicom.datadict import keyword_for_tag

from conformance.dicomweb.jsonmodel import BINARIES, EITHER, FLOATS, VRS, WHOLE

NAMESPACE = "http://dicom.nema.org/PS3.19/models/NativeDICOM"

_TAG = re.compile(r"[0-9A-F]{8}")
_GROUPS = ("Alphabetic", "Ideographic", "Phonetic")
_COMPONENTS = ("FamilyName", "GivenName", "MiddleName", "NamePrefix", "NameSuffix")
_NUMBERS = WHOLE | FLOATS | EITHER


@dataclass(frozen=True, slots=True)
class Blemish:
    """One breach of PS3.19 A.1.

    Attributes
    ----------
    rule
        root, tag, vr, keyword, creator, number, name, bulk, or element.
    """

    rule: str
    text: str

    def __str__(self) -> str:
        return self.text


@dataclass(frozen=True, slots=True, kw_only=True)
class Native:
    """A data set that was read from XML, and what is wrong with how it was written."""

    dataset: dict[str, Any]
    blemishes: tuple[Blemish, ...]


def read_native(text: bytes) -> Native:
    """Read a Native DICOM Model document.

    Raises
    ------
    ValueError
        It is no well-formed XML.
    """
    parser = etree.XMLParser(resolve_entities=False, no_network=True, load_dtd=False, remove_comments=True)
    try:
        root = etree.fromstring(text, parser)
    except etree.XMLSyntaxError as error:
        raise ValueError(f"the document is no well-formed XML: {error}") from None
    if b"<!DOCTYPE" in text:
        raise ValueError("the document has a document type declaration, which no reader follows")
    reader = _Reader()
    if root.tag not in ("NativeDicomModel", f"{{{NAMESPACE}}}NativeDicomModel"):
        reader.note("root", f"the root element is {root.tag}, not NativeDicomModel")
    elif root.tag == "NativeDicomModel":
        reader.note("root", f"the root element is not in the namespace {NAMESPACE}")
    return Native(dataset=reader.dataset(root), blemishes=tuple(reader.blemishes))


class _Reader:
    def __init__(self) -> None:
        self.blemishes: list[Blemish] = []

    def note(self, rule: str, text: str) -> None:
        self.blemishes.append(Blemish(rule, text))

    def dataset(self, element: Any) -> dict[str, Any]:
        found: dict[str, Any] = {}
        for child in element:
            if _local(child) != "DicomAttribute":
                self.note("element", f"{_local(child)} stands where a DicomAttribute has to")
                continue
            tag = _whole_tag(child.get("tag", ""), child.get("privateCreator"), found)
            if not _TAG.fullmatch(tag):
                self.note("tag", f"the tag {tag!r} has not eight upper-case hexadecimal digits")
            if tag in found:
                self.note("tag", f"{tag} is there twice")
            found[tag] = self.attribute(child, tag)
        return dict(sorted(found.items()))

    def attribute(self, element: Any, tag: str) -> dict[str, Any]:
        vr = element.get("vr", "")
        if vr not in VRS:
            self.note("vr", f"{tag} has the vr {vr!r}")
        is_private = _TAG.fullmatch(tag) and int(tag[3], 16) % 2 == 1
        if is_private and int(tag[4:], 16) > 0xFF and not element.get("privateCreator"):
            self.note("creator", f"{tag} has no privateCreator")
        if not is_private and _TAG.fullmatch(tag):
            keyword = keyword_for_tag(int(tag, 16))
            if keyword and element.get("keyword") != keyword:
                self.note("keyword", f"{tag} has the keyword {element.get('keyword')!r}, not {keyword}")
        kinds = {_local(child) for child in element}
        if len(kinds) > 1:
            self.note("element", f"{tag} mixes {' and '.join(sorted(kinds))}")
        found: dict[str, Any] = {"vr": vr}
        children = list(element)
        if not children:
            return found
        kind = _local(children[0])
        children = [child for child in children if _local(child) == kind]
        match kind:
            case "BulkData":
                if not (children[0].get("uri") or children[0].get("uuid")):
                    self.note("bulk", f"the BulkData of {tag} has neither uri nor uuid")
                found["BulkDataURI"] = children[0].get("uri") or children[0].get("uuid", "")
            case "InlineBinary":
                found["InlineBinary"] = "".join((children[0].text or "").split())
            case "Value":
                found["Value"] = self.numbered(children, tag, lambda child: _number(child.text, vr))
            case "Item":
                found["Value"] = self.numbered(children, tag, self.dataset)
            case "PersonName":
                found["Value"] = self.numbered(children, tag, self.name)
            case other:
                self.note("element", f"{tag} holds {other}")
        if vr in BINARIES and "Value" in found:
            self.note("bulk", f"{tag} is binary and has Value elements")
        return found

    def numbered(self, children: list[Any], tag: str, read: Any) -> list[Any]:
        """Values, items or names by their number; numbers that are left out are empty values."""
        found: dict[int, Any] = {}
        for child in children:
            text = child.get("number", "")
            if not re.fullmatch(r"[1-9][0-9]*", text):
                self.note("number", f"{_local(child)} of {tag} has the number {text!r}")
                continue
            if int(text) in found:
                self.note("number", f"{tag} has the number {text} twice")
            found[int(text)] = read(child)
        if list(found) != sorted(found):
            self.note("number", f"the numbers of {tag} do not ascend")
        return [found.get(number) for number in range(1, max(found, default=0) + 1)]

    def name(self, element: Any) -> dict[str, str]:
        found: dict[str, str] = {}
        for group in element:
            if _local(group) not in _GROUPS:
                self.note("name", f"a PersonName holds {_local(group)}")
                continue
            components = dict.fromkeys(_COMPONENTS, "")
            for component in group:
                if _local(component) not in _COMPONENTS:
                    self.note("name", f"{_local(group)} holds {_local(component)}")
                else:
                    components[_local(component)] = component.text or ""
            found[_local(group)] = "^".join(components.values()).rstrip("^")
        return found


def _whole_tag(tag: str, creator: str | None, dataset: dict[str, Any]) -> str:
    """The tag of a private attribute with its block; one that comes without (gggg00ee) gets that of its creator.

    The creator's own element, which XML may leave out since each attribute names its creator, is put back.
    """
    if not creator or not _TAG.fullmatch(tag):
        return tag
    block = int(tag[4:6], 16)
    if not block:
        taken = {int(key[6:], 16): one for key, one in dataset.items() if key[:6] == f"{tag[:4]}00"}
        mine = [number for number, one in taken.items() if one.get("Value") == [creator]]
        block = mine[0] if mine else max(taken, default=0x0F) + 1
    dataset.setdefault(f"{tag[:4]}00{block:02X}", {"vr": "LO", "Value": [creator]})
    return f"{tag[:4]}{block:02X}{tag[6:]}"


def _local(element: Any) -> str:
    return str(etree.QName(element).localname)


def _number(text: str | None, vr: str) -> Any:
    if text is None:
        return None
    if vr in _NUMBERS:
        try:
            return int(text) if re.fullmatch(r"\s*[+-]?\d+\s*", text) else float(text)
        except ValueError:
            return text
    return text


def write_native(dataset: dict[str, Any]) -> bytes:
    """Write a data set, given as DICOM JSON, as a Native DICOM Model document."""
    root = etree.Element(f"{{{NAMESPACE}}}NativeDicomModel", nsmap={None: NAMESPACE})  # type: ignore[dict-item]
    _write_dataset(root, dataset)
    return bytes(etree.tostring(root, xml_declaration=True, encoding="UTF-8"))


def _write_dataset(parent: Any, dataset: dict[str, Any]) -> None:
    for tag, attribute in dataset.items():
        vr = attribute["vr"]
        element = _child(parent, "DicomAttribute", tag=tag, vr=vr, keyword=keyword_for_tag(int(tag, 16)))
        if "BulkDataURI" in attribute:
            _child(element, "BulkData", uri=attribute["BulkDataURI"])
        elif "InlineBinary" in attribute:
            _child(element, "InlineBinary").text = attribute["InlineBinary"]
        for number, value in enumerate(attribute.get("Value", []), 1):
            if vr == "SQ":
                _write_dataset(_child(element, "Item", number=str(number)), value)
            elif vr == "PN":
                name = _child(element, "PersonName", number=str(number))
                for group, text in (value or {}).items():
                    held = _child(name, group)
                    for component, part in zip(_COMPONENTS, text.split("^"), strict=False):
                        _child(held, component).text = part
            elif value is not None:
                _child(element, "Value", number=str(number)).text = str(value)


def _child(parent: Any, name: str, **attributes: str) -> Any:
    return etree.SubElement(parent, f"{{{NAMESPACE}}}{name}", {key: text for key, text in attributes.items() if text})
