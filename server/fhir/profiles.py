"""The profiles of this server, and whether a resource that claims one keeps to it (FHIR R4 5.1).

Each is a StructureDefinition beside this module, published as it is. What is read of its differential: cardinality,
fixed values and patterns, targets of references, slices by value, pattern and type of what is referred to, and the
constraints that are written in `_CONSTRAINTS`. Other profiles that a resource claims are not looked at.
"""

from __future__ import annotations

import re
from base64 import b64decode
from collections.abc import Callable, Iterator, Mapping
from functools import cache
from hashlib import sha1
from pathlib import Path
from typing import Any

import orjson

from server.fhir.definitions import type_referred
from server.fhir.fhirpath import Node, children
from server.fhir.outcome import Issue

FOLDER = Path(__file__).with_name("structures")
HL7 = "http://hl7.org/fhir/StructureDefinition/"

type Definition = Mapping[str, Any]
type Placed = tuple[Node, str]

_CLEARANCE = re.compile(r"(K|DEN|P|H|BK|BP)[0-9]{6}(/S[0-9]{3})?")
_PREMARKET = "https://readingroom.example/fhir/sid/fda-premarket"


@cache
def profiles() -> Mapping[str, Definition]:
    """All StructureDefinitions of this server, by id."""
    found = [orjson.loads(path.read_bytes()) for path in sorted(FOLDER.glob("*.json"))]
    return {definition["id"]: definition for definition in found}


def profile_issues(resource: Mapping[str, Any]) -> list[Issue]:
    """What of a resource that R4 takes is not as the profiles of ours have it that it claims in ``meta.profile``."""
    by_url = {definition["url"]: definition for definition in profiles().values()}
    issues: list[Issue] = []
    for index, claimed in enumerate(resource.get("meta", {}).get("profile", ())):
        definition = by_url.get(claimed.partition("|")[0]) if claimed else None
        if definition is None:
            continue
        if definition["type"] != resource["resourceType"]:
            where = f"{resource['resourceType']}.meta.profile[{index}]"
            issues.append(
                Issue(code="value", diagnostics=f"It is a profile of {definition['type']}.", expression=where)
            )
        else:
            issues += _Check(definition, resource).issues()
    return issues


class _Check:
    """One resource against one profile."""

    def __init__(self, definition: Definition, resource: Mapping[str, Any]) -> None:
        self.name = definition["id"]
        self.elements = {element["id"]: element for element in definition["differential"]["element"]}
        root = resource["resourceType"]
        self.placed: dict[str, list[Placed]] = {root: [(Node(value=resource, type=root), root)]}

    def issues(self) -> list[Issue]:
        return [issue for id, element in self.elements.items() for issue in self._of_element(id, element)]

    def _say(self, code: str, where: str, said: str) -> Issue:
        return Issue(code=code, diagnostics=f"The profile {self.name} asks for more: {said}", expression=where)

    def _of_element(self, id: str, element: Definition) -> Iterator[Issue]:
        parent, _, step = id.rpartition(".")
        name, _, slice = step.partition(":")
        if parent:
            for holder, where in self._at(parent):
                count = len(self._steps(holder, where, parent, step))
                least, most = element.get("min", 0), element.get("max", "*")
                if count < least or (most != "*" and count > int(most)):
                    said = f"{least}..{most} of this{f' ({slice})' if slice else ''}."
                    yield self._say("required" if count < least else "structure", f"{where}.{name}", said)
        for node, where in self._at(id):
            expected = _value(element)
            if expected is not None and not _fits(node.value, expected):
                yield self._say("value", where, "the value that it has fixed here.")
            if (targets := _targets(element)) and not _leads(node.value, targets):
                yield self._say("value", where, f"a reference to {' or '.join(targets)}.")
            for constraint in element.get("constraint", ()):
                if not _CONSTRAINTS[constraint["key"]](node.value):
                    yield self._say("invariant", where, f"{constraint['human']} ({constraint['key']}).")

    def _at(self, id: str) -> list[Placed]:
        """The elements of the resource that an element of the profile is about."""
        if id not in self.placed:
            parent, _, step = id.rpartition(".")
            found = [each for holder, where in self._at(parent) for each in self._steps(holder, where, parent, step)]
            self.placed[id] = found
        return self.placed[id]

    def _steps(self, holder: Node, where: str, parent: str, step: str) -> list[Placed]:
        name, _, slice = step.partition(":")
        found = [(node, f"{where}.{_place(node)}") for node in children(holder, name.removesuffix("[x]"))]
        if not slice:
            return found
        slicing = self.elements[f"{parent}.{name}"]["slicing"]
        return [each for each in found if self._is_of_slice(each[0], f"{parent}.{step}", slicing["discriminator"])]

    def _is_of_slice(self, node: Node, id: str, discriminators: list[Definition]) -> bool:
        for each in discriminators:
            if each["type"] == "type":
                if not _leads(node.value, _targets(self.elements[id])):
                    return False
            else:
                expected = _value(self.elements[f"{id}.{each['path']}"])
                if not any(_fits(child.value, expected) for child in children(node, each["path"])):
                    return False
        return True


def _place(node: Node) -> str:
    name = node.member.name if node.member else ""
    return name if node.index is None else f"{name}[{node.index}]"


def _value(element: Definition) -> Any:
    """What an element has as its fixed value or pattern; None where it has neither."""
    return next((value for name, value in element.items() if name.startswith(("fixed", "pattern"))), None)


def _fits(value: Any, pattern: Any) -> bool:
    """Whether a value has all that a pattern has (5.1.0.13, ElementDefinition.pattern)."""
    if isinstance(pattern, dict):
        return isinstance(value, dict) and all(_fits(value.get(name), each) for name, each in pattern.items())
    if isinstance(pattern, list):
        return isinstance(value, list) and all(any(_fits(each, one) for each in value) for one in pattern)
    return bool(value == pattern)


def _targets(element: Definition) -> list[str]:
    return [target.removeprefix(HL7) for type in element.get("type", ()) for target in type.get("targetProfile", ())]


def _leads(reference: Any, targets: list[str]) -> bool:
    """Whether a reference leads to one of these types, or does not say where it leads to."""
    found = type_referred(reference)
    return found is None or found in targets


# Constraints


def _is_clearance(identifier: Mapping[str, Any]) -> bool:
    return _CLEARANCE.fullmatch(identifier.get("value", "")) is not None


def _says_what_for(device: Mapping[str, Any]) -> bool:
    if not any(each.get("system") == _PREMARKET for each in device.get("identifier", ())):
        return True
    said = {
        coding.get("code") for each in device.get("property", ()) for coding in each.get("type", {}).get("coding", ())
    }
    return {"modality", "body-part"} <= said


def _has_form(attachment: Mapping[str, Any]) -> bool:
    return "data" in attachment or "url" in attachment


def _is_as_it_says(attachment: Mapping[str, Any]) -> bool:
    """Size and hash; the hash in base64, as R4 has it, or in hexadecimal, as the example of IHE."""
    if "data" not in attachment:
        return True
    raw = b64decode(attachment["data"])
    digest = sha1(raw, usedforsecurity=False).digest()
    told = attachment.get("hash", "")
    is_hash = told.lower() == digest.hex() if len(told) == 40 else b64decode(told) == digest
    return attachment.get("size") == len(raw) and is_hash


_CONSTRAINTS: Mapping[str, Callable[[Mapping[str, Any]], bool]] = {
    "rr-dev-1": _is_clearance,
    "rr-dev-2": _says_what_for,
    "rr-imr-1": _has_form,
    "rr-imr-2": _is_as_it_says,
}
