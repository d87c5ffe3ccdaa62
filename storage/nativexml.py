"""Data sets in the Native DICOM Model (PS3.19 A.1): from the DICOM JSON model to XML, and back.

Both models say the same of a data set but for two things. XML names the creator of a private attribute with it and
leaves out which block it reserved, so a block is chosen anew on the way back, and one that nothing lies in is gone.
And XML 1.0 has no control characters but tab and line breaks: others, such as a form feed in a text, become U+FFFD.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from functools import lru_cache
from math import isfinite
from typing import Any, NoReturn, cast

from lxml import etree
from pydicom.datadict import dictionary_VR, keyword_for_tag

from readingroom.errors import Invalid, TooLarge
from storage.dicomjson import DEFAULT_LIMITS, Limits, MetadataJson, first_value

NAMESPACE = "http://dicom.nema.org/PS3.19/models/NativeDICOM"

_GROUPS = ("Alphabetic", "Ideographic", "Phonetic")
_COMPONENTS = ("FamilyName", "GivenName", "MiddleName", "NamePrefix", "NameSuffix")
_FLOATS = frozenset({"DS", "FL", "FD"})
_INTEGERS = frozenset({"IS", "SL", "SS", "SV", "UL", "US", "UV"})
_PIECE = 1 << 16

_FORBIDDEN = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\ud800-\udfff\ufffe\uffff]")
_SPECIAL = re.compile("[&<>\"'\t\n\r]")
_REFERENCES = {character: f"&#{ord(character)};" for character in "'\t\n\r"} | {
    "&": "&amp;",
    "<": "&lt;",
    ">": "&gt;",
    '"': "&quot;",
}
_TAG = re.compile(r"[0-9A-F]{8}")
_VR = re.compile(r"[A-Z]{2}")
_NUMBER = re.compile(r"[+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?", re.ASCII)
_INTEGER = re.compile(r"[+-]?\d{1,20}", re.ASCII)


def to_xml(dataset: MetadataJson) -> bytes:
    """A data set of the DICOM JSON model as an XML document in UTF-8, its attributes by tag.

    Parameters
    ----------
    dataset
        As it is sent: with URLs in ``BulkDataURI``, not with `storage.dicomjson.BASE_URL_MARK`.
    """
    pieces = [
        '<?xml version="1.0" encoding="UTF-8"?>\n',
        f'<NativeDicomModel xmlns="{NAMESPACE}" xml:space="preserve">',
        *_data_set(dataset),
        "</NativeDicomModel>\n",
    ]
    return "".join(pieces).encode()


def _data_set(dataset: MetadataJson) -> Iterator[str]:
    for key in sorted(dataset):
        element = dataset[key]
        head = f'vr="{element["vr"]}"'
        if not _is_private(key):
            if keyword := _keyword(key):
                head += f' keyword="{keyword}"'
        elif key[4:6] == "00" and key[6:] >= "10" and element["vr"] == "LO":
            continue  # a private creator: each attribute of its block names it
        elif isinstance(creator := first_value(dataset, f"{key[:4]}00{key[4:6]}"), str):
            key = f"{key[:4]}00{key[6:]}"
            head += f' privateCreator="{_escaped(creator)}"'
        content = "".join(_content(element))
        yield f'<DicomAttribute tag="{key}" {head}' + (f">{content}</DicomAttribute>" if content else "/>")


def _content(element: Mapping[str, Any]) -> Iterator[str]:
    if "BulkDataURI" in element:
        yield f'<BulkData uri="{_escaped(element["BulkDataURI"])}"/>'
    elif "InlineBinary" in element:
        yield f"<InlineBinary>{element['InlineBinary']}</InlineBinary>"
    vr = element["vr"]
    for number, value in enumerate(element.get("Value", ()), 1):
        if vr == "SQ":
            yield f'<Item number="{number}">'
            yield from _data_set(value or {})
            yield "</Item>"
        elif vr == "PN":
            yield f'<PersonName number="{number}">'
            yield from _name(value or {})
            yield "</PersonName>"
        else:
            yield f'<Value number="{number}">{_text(value)}</Value>'


def _name(name: Mapping[str, str]) -> Iterator[str]:
    """The component groups of a name, parsed into components (PS3.5 6.2.1)."""
    for group in _GROUPS:
        if not name.get(group):
            continue
        yield f"<{group}>"
        # What is more than five components is part of the last: PS3.5 has no more, and nothing may be lost.
        for component, text in zip(_COMPONENTS, name[group].split("^", 4), strict=False):
            yield f"<{component}>{_escaped(text)}</{component}>"
        yield f"</{group}>"


def _text(value: object) -> str:
    if value is None:
        return ""
    if isinstance(value, float):
        return repr(value).removesuffix(".0")
    return _escaped(str(value))


def _escaped(text: str) -> str:
    return _SPECIAL.sub(lambda found: _REFERENCES[found[0]], _FORBIDDEN.sub("\ufffd", text))


def _is_private(key: str) -> bool:
    return key[3] in "13579BDF"


@lru_cache(maxsize=8192)
def _keyword(key: str) -> str:
    return keyword_for_tag(int(key, 16))


def from_xml(document: bytes, limits: Limits = DEFAULT_LIMITS) -> MetadataJson:
    """The data set of an XML document in the DICOM JSON model, as `to_xml` takes it.

    A document may leave the namespace out, as the examples of PS3.18 do, and a ``vr`` that the dictionary knows.
    Private attributes come with their creator's name and any block, or with whole tags and the creators' own elements.

    Raises
    ------
    Invalid
        It is no XML in UTF-8, has a document type (and so, perhaps, entities), or is not in the Native DICOM Model.
    TooLarge
        It is past `limits`.
    """
    if b"<!DOCTYPE" in document[: document.find(b"<NativeDicomModel")]:  # nowhere else can it stand
        raise Invalid("The document has a document type, and the Native DICOM Model has none; leave it out.")
    reader = _Reader(limits)
    parser = etree.XMLParser(
        target=cast(Any, reader),
        encoding="utf-8",
        no_network=True,
        load_dtd=False,
        huge_tree=True,  # without a document type there are no entities to unfold, and the limits are our own
        remove_comments=True,
        remove_pis=True,
    )
    try:
        for at in range(0, len(document), _PIECE):
            parser.feed(document[at : at + _PIECE])
        parser.close()
    except etree.XMLSyntaxError as error:
        raise Invalid(f"It is no well-formed XML: {str(error).splitlines()[0][:200]}.") from None
    if reader.result is None:
        _refuse("no data set")
    return reader.result


class _Open:
    """A data set that is being read: its elements, and the private ones whose block is still to be found."""

    def __init__(self) -> None:
        self.elements: MetadataJson = {}
        self.private: list[tuple[str, str, dict[str, Any]]] = []


class _Reader:
    """Builds the data set as the parser goes, without a tree of the document."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._elements = 0
        self._names: list[str] = []  # of the elements that are open
        self._data_sets: list[_Open] = []
        self._attributes: list[dict[str, Any]] = []
        self._texts: list[str] | None = None
        self._components: dict[str, str] = {}
        self.result: MetadataJson | None = None

    def start(self, name: str, attributes: Mapping[str, str]) -> None:
        namespace, _, local = name.rpartition("}")
        parent = self._names[-1] if self._names else ""
        if namespace not in ("", "{" + NAMESPACE) or local not in _CHILDREN.get(parent, ()):
            _refuse(f"<{local[:40]}> {'within <' + parent + '>' if parent else 'as the root'}")
        self._elements += 1
        if self._elements > self._limits.max_elements:
            raise TooLarge(f"The document has more than {self._limits.max_elements} elements.")
        self._names.append(local)
        given = {key.lower(): value for key, value in attributes.items()}
        if local == "NativeDicomModel":
            self._data_sets.append(_Open())
        elif local == "Item":
            if len(self._data_sets) > self._limits.max_depth:
                raise TooLarge(f"Sequences are nested deeper than {self._limits.max_depth} levels.")
            self._add_value(given, "SQ", {})
            self._data_sets.append(_Open())
        elif local == "DicomAttribute":
            self._open_attribute(given)
        elif local == "PersonName":
            self._add_value(given, "PN", {})
        elif local == "BulkData":
            self._set("BulkDataURI", given.get("uri") or given.get("uuid") or "")
        elif local in _GROUPS:
            self._components = {}
        else:
            self._texts = []
            if local == "Value":
                self._add_value(given, "", None)

    def data(self, text: str) -> None:
        if self._texts is not None:
            self._texts.append(text)
        elif text.strip():
            _refuse("text beside the elements")

    def end(self, name: str) -> None:
        local = self._names.pop()
        text = "".join(self._texts or ())
        self._texts = None
        if local == "NativeDicomModel":
            self.result = _with_blocks(self._data_sets.pop())
        elif local == "Item":
            item = _with_blocks(self._data_sets.pop())
            self._attributes[-1]["Value"][-1] = item
        elif local == "DicomAttribute":
            self._close_attribute()
        elif local == "Value":
            attribute = self._attributes[-1]
            attribute["Value"][-1] = _value(attribute["vr"], text)
        elif local == "InlineBinary":
            self._set("InlineBinary", "".join(text.split()))
        elif local in _COMPONENTS:
            self._components[local] = text
        elif local in _GROUPS:
            count = max((_COMPONENTS.index(component) + 1 for component in self._components), default=0)
            if whole := "^".join(self._components.get(component, "") for component in _COMPONENTS[:count]):
                self._attributes[-1]["Value"][-1][local] = whole

    def close(self) -> None:
        """Asked for by the parser, also after an error."""

    def _open_attribute(self, given: Mapping[str, str]) -> None:
        tag = given.get("tag", "").upper()
        if not _TAG.fullmatch(tag):
            _refuse(f"the tag {tag[:20]!r}, which is not eight hexadecimal digits")
        creator = given.get("privatecreator", "")
        vr = given.get("vr") or _dictionary_vr(tag)
        if not _VR.fullmatch(vr):
            _refuse(f"the value representation {vr[:20]!r} of {tag}")
        element: dict[str, Any] = {"vr": vr}
        self._attributes.append(element)
        data_set = self._data_sets[-1]
        if creator and _is_private(tag):
            data_set.private.append((tag, creator, element))
        elif tag in data_set.elements:
            _refuse(f"{tag} twice in one data set")
        else:
            data_set.elements[tag] = element

    def _close_attribute(self) -> None:
        attribute = self._attributes.pop()
        values = attribute.get("Value")
        if values and attribute["vr"] == "PN":
            values[:] = [name or None for name in values]
            if values == [None]:
                del attribute["Value"]

    def _add_value(self, given: Mapping[str, str], vr: str, value: object) -> None:
        attribute = self._attributes[-1]
        values = attribute.setdefault("Value", [])
        if attribute.keys() & {"BulkDataURI", "InlineBinary"}:
            _refuse("an attribute with bulk data and with values")
        if (attribute["vr"] in ("PN", "SQ") or vr) and attribute["vr"] != vr:
            _refuse(f"a value that is none of {attribute['vr']}")
        if given.get("number", "").strip() != str(len(values) + 1):
            _refuse("values that are not numbered 1, 2, 3 ...")
        values.append(value)

    def _set(self, name: str, value: str) -> None:
        attribute = self._attributes[-1]
        if attribute.keys() & {"BulkDataURI", "InlineBinary", "Value"}:
            _refuse("an attribute with bulk data and with values")
        if attribute["vr"] == "SQ":
            _refuse("a sequence that has no items but bulk data")
        if value:
            attribute[name] = value


_CHILDREN = {
    "": ("NativeDicomModel",),
    "NativeDicomModel": ("DicomAttribute",),
    "DicomAttribute": ("Value", "Item", "PersonName", "BulkData", "InlineBinary"),
    "Item": ("DicomAttribute",),
    "PersonName": _GROUPS,
    **dict.fromkeys(_GROUPS, _COMPONENTS),
}


def _refuse(what: str) -> NoReturn:
    raise Invalid(f"The document is not in the Native DICOM Model (PS3.19 A.1): it has {what}.")


def _with_blocks(data_set: _Open) -> MetadataJson:
    """The data set with its private attributes in blocks that their creators reserve (PS3.5 7.8.1)."""
    elements = data_set.elements
    current: dict[tuple[str, str], int] = {}
    for tag, creator, element in data_set.private:
        group, block = tag[:4], tag[4:6]
        if block < "10":
            block = _find_block(elements, tag, creator, current.get((group, creator), 0x10))
            current[group, creator] = int(block, 16)
        key = f"{group}{block}{tag[6:]}"
        holder = elements.setdefault(f"{group}00{block}", {"vr": "LO", "Value": [creator]})
        if key in elements or holder.get("Value") != [creator]:
            _refuse(f"no place for the private attribute {key}: it is there twice, or in a block of somebody else")
        elements[key] = element
    return {key: elements[key] for key in sorted(elements)}


def _find_block(elements: MetadataJson, tag: str, creator: str, first: int) -> str:
    """The block of the creator, or one that is free; the next one where the attribute is in it already."""
    for block in range(first, 0x100):
        holder = first_value(elements, f"{tag[:4]}00{block:02X}")
        if holder in (creator, None) and f"{tag[:4]}{block:02X}{tag[6:]}" not in elements:
            return f"{block:02X}"
    _refuse(f"no block left for the private attribute {tag}")


def _value(vr: str, text: str) -> Any:
    """The text of a value as the JSON model has it; what is no number stays the string that it is."""
    if vr in _FLOATS or vr in _INTEGERS:
        text = text.strip()
        if vr in _INTEGERS and _INTEGER.fullmatch(text):
            return int(text)
        if vr in _FLOATS and _NUMBER.fullmatch(text) and isfinite(number := float(text)):
            return number
    elif vr == "AT":
        text = text.strip().upper()
    return text or None


@lru_cache(maxsize=1024)
def _dictionary_vr(tag: str) -> str:
    try:
        vr = dictionary_VR(int(tag, 16))
    except KeyError:
        return "UN"
    return vr if len(vr) == 2 else "OW"
