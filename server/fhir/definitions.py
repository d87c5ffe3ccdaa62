"""What FHIR R4 says of each type: its elements in order, how many, of which types, bound to which codes.

The table beside this module is made from the official definitions by `conformance.fhir.definitions`. Reading it takes a
few milliseconds; a type is expanded when it is asked for.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any, Literal

import orjson

TABLE = Path(__file__).with_name("definitions.json")
PRIMITIVES = frozenset(
    "base64Binary boolean canonical code date dateTime decimal id instant integer markdown oid positiveInt string time"
    " unsignedInt uri url uuid xhtml".split()
)
# Profiles of Quantity that elements name as their type; properties are called after what they profile.
_QUANTITIES = frozenset({"SimpleQuantity", "MoneyQuantity"})

# Patient/1, an address that ends so, of a version too, or Patient?identifier=1
_LITERAL = re.compile(r"(?:^|/)([A-Z][A-Za-z]+)(?:/[A-Za-z0-9\-.]{1,64}(?:/_history/[A-Za-z0-9\-.]{1,64})?$|\?)")

Kind = Literal["resource", "complex", "backbone", "abstract"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Element:
    """One element of a type.

    Parameters
    ----------
    name
        Without ``[x]``: ``effective``.
    types
        Names for `type_of`, or of `PRIMITIVES`. An element with elements of its own has one, its path.
    max
        None for ``*``.
    codes
        Those of its required binding; empty where there is none, or others register them (media types, languages).
    targets
        The types that a Reference may lead to; empty for any.
    is_attribute
        Whether it is an attribute in XML.
    """

    name: str
    path: str
    types: tuple[str, ...]
    min: int
    max: int | None
    is_choice: bool
    is_summary: bool
    is_modifier: bool
    is_attribute: bool
    codes: frozenset[str]
    targets: frozenset[str]


@dataclass(frozen=True, slots=True, kw_only=True)
class Property:
    """One member that an object of a type may have in JSON: an element, and of its types one."""

    name: str
    element: Element
    type: str
    is_list: bool
    is_primitive: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Type:
    """A type of resource, a data type, or the content of one element, such as ``DiagnosticReport.media``.

    Parameters
    ----------
    elements
        All, inherited ones too, in the order of the specification, which is that of XML.
    properties
        By name in JSON, in the same order: ``effectiveDateTime`` and ``effectivePeriod`` for ``effective[x]``.
    """

    name: str
    kind: Kind
    base: str
    elements: tuple[Element, ...]
    properties: dict[str, Property] = field(repr=False)


def is_known(name: str) -> bool:
    """Whether R4 has a type of resource of this name, which is not abstract."""
    return name in resource_names()


@cache
def resource_names() -> frozenset[str]:
    """The names of all types of resources that R4 has and that are not abstract."""
    return frozenset(_table()["resources"].split())


def type_referred(reference: Any) -> str | None:
    """The type of what a Reference leads to, where it says so: in its address, or else as its type."""
    if not isinstance(reference, dict):
        return None
    for found in (_address_type(reference.get("reference")), reference.get("type")):
        if isinstance(found, str) and found in resource_names():
            return found
    return None


def _address_type(address: Any) -> str | None:
    found = _LITERAL.search(address) if isinstance(address, str) else None
    return found[1] if found else None


@cache
def open_types() -> tuple[str, ...]:
    """The types that ``value[x]`` of an Extension may have."""
    return tuple(_table()["*"].split())


def release_of(path: str) -> str | None:
    """STU3 or R5, where that one has an element at this path of types and R4 has not."""
    found: str | None = _table()["elsewhere"].get(path)
    return found


@cache
def type_of(name: str) -> Type:
    """The type of this name, or the content of the element at this path.

    Raises
    ------
    KeyError
        R4 has no such type, or it is primitive.
    """
    root, _, path = name.partition(".")
    kind, base, lines = _table()["types"][root]
    prefix = f"{path}." if path else ""
    own = [line for line in lines if line[0].startswith(prefix) and "." not in line[0][len(prefix) :]]
    if path:
        (parent,) = (line for line in lines if line[0] == path)
        kind, base = "backbone", parent[2]
    inherited = type_of(base).elements if base else ()
    elements = (*inherited, *(_element(root, line, lines) for line in own))
    properties = {each.name: each for element in elements for each in _properties(element)}
    return Type(name=name, kind=kind, base=base, elements=elements, properties=properties)


def _element(root: str, line: list[str], lines: list[list[str]]) -> Element:
    path, cardinality, types, flags, last = [*line, "", "", ""][:5]
    least, _, most = cardinality.partition("..")
    if types.startswith("#"):
        names = [types[1:]]
    elif types == "*":
        names = list(open_types())
    elif any(each[0].startswith(f"{path}.") for each in lines):
        names = [f"{root}.{path}"]
    else:
        names = types.split()
    return Element(
        name=path.rpartition(".")[2].removesuffix("[x]"),
        path=f"{root}.{path}",
        types=tuple(names),
        min=int(least),
        max=None if most == "*" else int(most),
        is_choice=path.endswith("[x]"),
        is_summary="S" in flags,
        is_modifier="M" in flags,
        is_attribute="A" in flags,
        codes=_codes(last[1:]) if last.startswith("=") else frozenset(),
        targets=frozenset() if last.startswith("=") else frozenset(last.split()),
    )


def _properties(element: Element) -> list[Property]:
    return [
        Property(
            name=element.name + _capital(type) if element.is_choice else element.name,
            element=element,
            type=type,
            is_list=element.max != 1,
            is_primitive=type in PRIMITIVES,
        )
        for type in element.types
    ]


def _capital(type: str) -> str:
    type = "Quantity" if type in _QUANTITIES else type
    return type[0].upper() + type[1:]


@cache
def _codes(name: str) -> frozenset[str]:
    return frozenset(_table()["codes"][name].split())


@cache
def _table() -> dict[str, Any]:
    table: dict[str, Any] = orjson.loads(TABLE.read_bytes())
    return table
