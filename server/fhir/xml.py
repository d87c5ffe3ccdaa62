"""A resource as XML and back (FHIR R4 2.6.1), led by the table of definitions.

XML has elements in the order of the specification, primitive values as attributes, and what repeats one after the
other; JSON has none of these, so that neither can be told from the other without knowing the types.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping
from functools import cache
from typing import Any, NoReturn
from xml.sax.saxutils import quoteattr

from lxml import etree

from server.fhir.definitions import Property, Type, is_known, type_of
from server.fhir.narrative import XHTML
from server.fhir.outcome import BadResource, Issue
from server.fhir.parsing import MAX_BYTES, MAX_DEPTH, number_of, structure_issues

FHIR = "http://hl7.org/fhir"
DECLARATION = '<?xml version="1.0" encoding="UTF-8"?>'

_MANY_BYTES = 8 << 20  # past which libxml2 has to be told that long texts are meant
_XSI = "{http://www.w3.org/2001/XMLSchema-instance}"
_SPACES = {"\t": "&#9;", "\n": "&#10;", "\r": "&#13;"}  # which a parser would make blanks of
_INTEGERS = frozenset({"integer", "positiveInt", "unsignedInt"})


def to_xml(resource: Mapping[str, Any]) -> bytes:
    """The XML of a resource that `check_resource` takes.

    Raises
    ------
    BadResource
        It has members that R4 does not have, or a narrative that is no XHTML.
    """
    parts = [DECLARATION]
    _write_resource(parts.append, resource, f' xmlns="{FHIR}"', str(resource.get("resourceType")))
    return "".join(parts).encode()


def from_xml(body: bytes, *, max_bytes: int = MAX_BYTES) -> dict[str, Any]:
    """The resource that an XML body holds, as `parse_json` would give it.

    Raises
    ------
    BadResource
        It is no XML in UTF-8, has a DOCTYPE, is too long or too deep, or has elements, attributes or text where R4 has
        none. The issue says where.
    """
    if len(body) > max_bytes:
        _refuse("", f"The body has {len(body)} bytes; at most {max_bytes} are read.", code="too-long")
    root = _parsed(body)
    name = _local(root, FHIR)
    if not is_known(name):
        _refuse("", f"The body is no resource of R4: its root is one, of the namespace {FHIR}.")
    resource = _read_resource(root, name, name, 1)
    if issues := structure_issues(resource, odd=False):  # JSON has more levels, and has to hold it too
        raise BadResource(issues)
    return resource


# Writing


def _write_resource(write: Callable[[str], None], resource: Mapping[str, Any], namespace: str, path: str) -> None:
    name = resource.get("resourceType")
    if not isinstance(name, str) or not is_known(name):
        _refuse(path, "R4 has no type of resource of this name.")
    write(f"<{name}{namespace}>")
    _write_members(write, resource, type_of(name), path)
    write(f"</{name}>")


def _write_object(write: Callable[[str], None], tag: str, value: Any, type: Type, path: str) -> None:
    if not isinstance(value, Mapping):
        _refuse(path, "This is an object.")
    write(f"<{tag}")
    for element in type.elements:
        if element.is_attribute and element.name in value:
            write(f" {element.name}={_attribute(value[element.name])}")
    write(">")
    _write_members(write, value, type, path)
    write(f"</{tag}>")


def _write_members(write: Callable[[str], None], value: Mapping[str, Any], type: Type, path: str) -> None:
    order = _order(type.name)
    names = {name.removeprefix("_") for name in value} - {"resourceType" if type.kind == "resource" else ""}
    for name in names - order.keys():
        _refuse(f"{path}.{name[:64]}", "R4 has no such element here.")
    for name in sorted(names, key=order.__getitem__):
        member = type.properties[name]
        if member.element.is_attribute:
            continue
        where = f"{path}.{name}"
        if member.is_list:
            values, besides = value.get(name, ()), value.get(f"_{name}", ())
            for index in range(max(len(values), len(besides))):
                item = values[index] if index < len(values) else None
                beside = besides[index] if index < len(besides) else None
                _write_member(write, member, item, beside, f"{where}[{index}]")
        else:
            _write_member(write, member, value.get(name), value.get(f"_{name}"), where)


def _write_member(write: Callable[[str], None], member: Property, value: Any, beside: Any, path: str) -> None:
    if member.type == "xhtml":
        write(_narrative(value, path))
    elif member.is_primitive:
        _write_primitive(write, member.name, value, beside, path)
    elif member.type == "Resource":
        write(f"<{member.name}>")
        _write_resource(write, value, "", path)
        write(f"</{member.name}>")
    else:
        _write_object(write, member.name, value, type_of(member.type), path)


def _write_primitive(write: Callable[[str], None], name: str, value: Any, beside: Any, path: str) -> None:
    beside = beside or {}
    given = "" if value is None else f" value={_attribute(value)}"
    named = f" id={_attribute(beside['id'])}" if "id" in beside else ""
    if "extension" not in beside:
        write(f"<{name}{named}{given}/>")
        return
    write(f"<{name}{named}{given}>")
    for index, extension in enumerate(beside["extension"]):
        _write_object(write, "extension", extension, type_of("Extension"), f"{path}.extension[{index}]")
    write(f"</{name}>")


def _attribute(value: Any) -> str:
    if isinstance(value, bool):
        return '"true"' if value else '"false"'
    return quoteattr(str(value), _SPACES)


def _narrative(value: Any, path: str) -> str:
    try:
        div = etree.fromstring(str(value).encode(), _parser(0))
    except etree.XMLSyntaxError:
        div = None
    if div is None or div.tag != f"{{{XHTML}}}div":
        _refuse(path, f'A narrative is a <div xmlns="{XHTML}">.')
    return etree.tostring(div, encoding="unicode", with_tail=False)


@cache
def _order(name: str) -> dict[str, int]:
    """Where each member of a type stands."""
    return {each: index for index, each in enumerate(type_of(name).properties)}


# Reading


def _parsed(body: bytes) -> etree._Element:
    try:
        if "<!DOCTYPE" in body.decode():
            _refuse("", "XML of FHIR has no DOCTYPE.")
        return etree.fromstring(body, _parser(len(body)))
    except UnicodeDecodeError as error:
        _refuse("", f"Byte {error.start} of the body is not UTF-8.")
    except etree.XMLSyntaxError as error:
        _refuse("", f"The body is no XML, in line {error.lineno}.")


def _parser(size: int) -> etree.XMLParser:
    """A parser that knows no entities, opens nothing, and takes whatever encoding is declared for UTF-8."""
    return etree.XMLParser(
        encoding="utf-8", resolve_entities=False, load_dtd=False, no_network=True, huge_tree=size > _MANY_BYTES
    )


def _local(element: etree._Element, namespace: str) -> str:
    """The name of an element of a namespace; empty for one of another."""
    start, _, name = str(element.tag).rpartition("}")
    return name if start == f"{{{namespace}" else ""


def _read_resource(element: etree._Element, name: str, path: str, depth: int) -> dict[str, Any]:
    for attribute in element.attrib:
        if not str(attribute).startswith(_XSI):
            _refuse(path, "A resource has no attributes.")
    return {"resourceType": name, **_read_members(element, type_of(name), path, depth)}


def _read_object(element: etree._Element, type: Type, path: str, depth: int) -> dict[str, Any]:
    attributes = [each.name for each in type.elements if each.is_attribute]
    if any(name not in attributes for name in element.attrib):
        _refuse(path, f"This has no attributes but {' and '.join(attributes)}.")
    given = {str(name): _text(value, path) for name, value in element.attrib.items()}
    return {**given, **_read_members(element, type, path, depth)}


def _read_members(element: etree._Element, type: Type, path: str, depth: int) -> dict[str, Any]:
    if depth > MAX_DEPTH:
        _refuse(path, f"A resource is at most {MAX_DEPTH} levels deep.", code="too-long")
    found: dict[str, Any] = {}
    besides: dict[str, list[Any]] = {}
    for child in _children(element, path):
        member = _member(child, type)
        if member is None:
            _refuse(f"{path}.{_local(child, FHIR)[:64]}".rstrip("."), "R4 has no such element here.")
        where = f"{path}.{member.name}"
        if member.is_list:
            where += f"[{len(found.get(member.name, ()))}]"
        value, beside = _read_member(child, member, where, depth)
        if not member.is_list:
            if member.name in found or f"_{member.name}" in found:
                _refuse(where, "This comes once.")
            found |= {
                name: each for name, each in ((member.name, value), (f"_{member.name}", beside)) if each is not None
            }
            continue
        found.setdefault(member.name, []).append(value)
        besides.setdefault(member.name, []).append(beside)
    for name, each in besides.items():
        if all(value is None for value in found[name]):
            del found[name]
        if any(beside is not None for beside in each):
            found[f"_{name}"] = each
    return found


def _children(element: etree._Element, path: str) -> Iterator[etree._Element]:
    """The elements in one; comments are passed over, text is refused."""
    texts = [element.text or ""]
    for child in element:
        texts.append(child.tail or "")
        if isinstance(child, etree._Entity):
            _refuse(path, "XML of FHIR has no entities but those of XML itself.")
        if isinstance(child, etree._Comment | etree._ProcessingInstruction):
            continue
        yield child
    if any(text.strip() for text in texts):
        _refuse(path, "XML of FHIR has its values in attributes, and text in a narrative alone.")


def _member(child: etree._Element, type: Type) -> Property | None:
    div = _local(child, XHTML)
    member = type.properties.get(div or _local(child, FHIR))
    if member is None or member.element.is_attribute or (member.type == "xhtml") != bool(div):
        return None
    return member


def _read_member(child: etree._Element, member: Property, path: str, depth: int) -> tuple[Any, Any]:
    """The value of an element, and what of a primitive one lies beside it."""
    if member.type == "xhtml":
        return _div(child, path), None
    if member.is_primitive:
        return _read_primitive(child, member, path, depth)
    if member.type != "Resource":
        return _read_object(child, type_of(member.type), path, depth + 1), None
    inner = list(_children(child, path))
    name = _local(inner[0], FHIR) if len(inner) == 1 else ""
    if not is_known(name) or child.attrib:
        _refuse(path, "In this is one resource of R4, and nothing else.")
    return _read_resource(inner[0], name, path, depth + 1), None


def _read_primitive(child: etree._Element, member: Property, path: str, depth: int) -> tuple[Any, Any]:
    if any(name not in ("id", "value") for name in child.attrib):
        _refuse(path, "A primitive element has no attributes but id and value.")
    text = child.attrib.get("value")
    value = None if text is None else _value(_text(text, path), member.type, path)
    beside: dict[str, Any] = {}
    if len(child) or child.text:  # seldom
        beside = _read_members(child, type_of("Element"), path, depth + 1)
    if "id" in child.attrib:
        beside = {"id": _text(child.attrib["id"], path), **beside}
    if value is None and not beside:
        _refuse(path, "An element has a value or children (ele-1).")
    return value, beside or None


def _value(text: str, type: str, path: str) -> Any:
    if type == "boolean":
        if text not in ("true", "false"):
            _refuse(path, "A boolean is true or false.", code="value")
        return text == "true"
    if type == "decimal" or type in _INTEGERS:
        try:
            return number_of(text)
        except BadResource as error:
            _refuse(path, error.message, code="value")
    return text


def _text(value: str | bytes, path: str) -> str:
    if not value:
        _refuse(path, "A value is never empty; leave the element out.")
    return str(value)


def _div(child: etree._Element, path: str) -> str:
    """A narrative by itself, without what its surroundings declared."""
    alone = copy.deepcopy(child)
    alone.tail = None
    if any(each.prefix for each in alone.iter("*")):
        etree.strip_tags(alone, etree.Comment, etree.ProcessingInstruction)
        try:
            alone = _unprefixed(alone)
        except RecursionError:
            _refuse(path, "A narrative is not that deep.", code="too-long")
    etree.cleanup_namespaces(alone)
    return etree.tostring(alone, encoding="unicode")


def _unprefixed(element: etree._Element) -> etree._Element:
    attributes = {str(name): str(value) for name, value in element.attrib.items()}
    made = etree.Element(str(element.tag), attributes, nsmap={None: XHTML})  # type: ignore[dict-item]
    made.text, made.tail = element.text, element.tail
    made.extend(_unprefixed(each) for each in element.iterchildren("*"))
    return made


def _refuse(path: str, said: str, *, code: str = "structure") -> NoReturn:
    raise BadResource([Issue(severity="error" if path else "fatal", code=code, diagnostics=said, expression=path)])
