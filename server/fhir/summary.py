"""A part of a resource instead of the whole: ``_summary`` and ``_elements`` (FHIR R4 3.1.1.5.8, 3.1.1.5.9)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import cache
from typing import Any, Literal

from server.fhir.definitions import Property, Type, type_of

Summary = Literal["true", "text", "data", "count", "false"]

SUBSETTED = {"system": "http://terminology.hl7.org/CodeSystem/v3-ObservationValue", "code": "SUBSETTED"}
_ALWAYS = frozenset({"resourceType", "id", "meta"})


def summarised(resource: Mapping[str, Any], summary: Summary) -> dict[str, Any]:
    """What ``_summary`` leaves of a resource, with the tag SUBSETTED where that is not the whole.

    Parameters
    ----------
    summary
        ``true``: the elements that R4 marks as summary, in data types too, and those that are mandatory or change the
        meaning of others; ``text``: narrative, id, meta and what is mandatory; ``data``: all but the narrative;
        ``false`` and ``count`` (which is of a Bundle) change nothing.
    """
    type = type_of(resource["resourceType"])
    match summary:
        case "true":
            kept = {name: resource[name] for name in _ALWAYS & resource.keys()} | _summary(resource, type)
            return _subsetted({name: kept[name] for name in resource if name in kept})
        case "text":
            return _subsetted(_only(resource, _mandatory(type.name) | {"text"}))
        case "data":
            return _subsetted({name: value for name, value in resource.items() if name not in ("text", "_text")})
        case _:
            return dict(resource)


def only_elements(resource: Mapping[str, Any], names: Iterable[str]) -> dict[str, Any]:
    """The elements of these names, and those that are mandatory or change the meaning of others; tagged SUBSETTED.

    Parameters
    ----------
    names
        Elements of the resource itself, as ``status`` or ``DiagnosticReport.status``; ``value`` for a ``value[x]``.
        A name that begins with another type than the resource's is left aside.
    """
    own = resource["resourceType"]
    wanted = set()
    for name in names:
        first, *others = name.strip().split(".")
        if not first[:1].isupper():
            wanted.add(first)
        elif first == own and others:
            wanted.add(others[0])
    type = type_of(own)
    modifiers = {element.name for element in type.elements if element.is_modifier}
    return _subsetted(_only(resource, _mandatory(own) | modifiers | wanted))


def _only(resource: Mapping[str, Any], elements: Iterable[str]) -> dict[str, Any]:
    properties = type_of(resource["resourceType"]).properties
    wanted = set(elements)

    def is_kept(name: str) -> bool:
        member = properties.get(name.removeprefix("_"))
        return name in _ALWAYS or (member is not None and (member.element.name in wanted or member.name in wanted))

    return {name: value for name, value in resource.items() if is_kept(name)}


def _subsetted(resource: dict[str, Any]) -> dict[str, Any]:
    meta = resource.get("meta", {})
    tags = meta.get("tag", [])
    if not any(tag.get("code") == SUBSETTED["code"] and tag.get("system") == SUBSETTED["system"] for tag in tags):
        tags = [*tags, SUBSETTED]
    head: dict[str, Any] = {name: resource[name] for name in ("resourceType", "id") if name in resource}
    return {**head, **resource, "meta": {**meta, "tag": tags}}


@cache
def _mandatory(name: str) -> frozenset[str]:
    return frozenset(element.name for element in type_of(name).elements if element.min)


@cache
def _kept(name: str) -> Mapping[str, Property]:
    """The members of a type that a summary has; all, where R4 marks none of its own elements."""
    type = type_of(name)
    has_marks = any(element.is_summary for element in type.elements if element.name != "modifierExtension")
    return {
        each.name: each
        for each in type.properties.values()
        if not has_marks
        or each.element.is_summary
        or each.element.is_modifier
        or each.element.min
        or (each.name == "id" and type.kind != "resource")
    }


def _summary(value: Mapping[str, Any], type: Type) -> dict[str, Any]:
    kept = _kept(type.name)
    found: dict[str, Any] = {}
    for name, item in value.items():
        member = kept.get(name.removeprefix("_"))
        if member is None:
            continue
        if member.is_primitive or member.type in ("Resource", "Extension", "Meta"):
            found[name] = item
        elif isinstance(item, list):
            found[name] = [_summary(each, type_of(member.type)) for each in item]
        else:
            found[name] = _summary(item, type_of(member.type))
    return {name: item for name, item in found.items() if item != {}}
