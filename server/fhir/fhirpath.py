"""Paths that lead to elements of a resource: the part of FHIRPath that a patch needs, and no more.

Steps by name (``Patient.name.given``, ``value`` for a ``value[x]``), an index, ``first()``, ``last()``,
``where(use = 'home' and system.exists())``, ``extension('url')``, ``ofType(Quantity)`` and ``as(Quantity)``. Whatever
else FHIRPath has is refused.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

from readingroom.errors import Invalid
from server.fhir.definitions import PRIMITIVES, Property, type_of

MAX_LENGTH = 500
MAX_NODES = 10_000
MAX_NESTING = 32


class BadPath(Invalid):
    """A path is none that this server reads."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Node:
    """One element of a resource, and where it lies.

    Parameters
    ----------
    value
        As JSON has it; None for a primitive element with nothing but extensions.
    beside
        Id and extensions of a primitive element.
    type
        For `type_of`, or of `PRIMITIVES`.
    holder, member, index
        The object that it is a member of, as which, and where in an array. The resource itself has none.
    options
        The members that it may be instead: those of the other types of a ``value[x]``, and `member`.
    """

    value: Any
    type: str
    beside: Any = None
    holder: Any = None
    member: Property | None = None
    index: int | None = None
    options: Sequence[Property] = ()

    @property
    def concrete(self) -> str:
        """The type; of a resource in another one, what it is."""
        return str(self.value["resourceType"]) if self.type == "Resource" else self.type


type Nodes = list[Node]
type Step = Callable[[Nodes], Nodes]
type Condition = Callable[[Node], bool]

_TOKEN = re.compile(
    r"\s*(?:(?P<name>[A-Za-z_][A-Za-z0-9_]*|`[^`]+`)|(?P<text>'(?:[^'\\]|\\.)*'|\"(?:[^\"\\]|\\.)*\")"
    r"|(?P<number>-?[0-9]+(?:\.[0-9]+)?)|(?P<sign>!=|[.()\[\]=$]))"
)
_ESCAPES = {"n": "\n", "r": "\r", "t": "\t", "f": "\f"}
_REFUSED = "The path is none of FHIRPath, or has more of it than this server reads."


@dataclass(frozen=True, slots=True)
class Path:
    """A path that was read: its steps, those that are nothing but a name as that."""

    steps: Sequence[str | Step]

    def nodes(self, resource: Mapping[str, Any]) -> Nodes:
        """The elements that it leads to, in their order.

        Raises
        ------
        BadPath
            R4 has no such element on the way.
        """
        return _led([Node(value=resource, type=resource["resourceType"])], self.steps)

    def split(self) -> tuple[Path, str]:
        """What leads to the holder of a collection, and the name of that; raises `BadPath` where it ends otherwise."""
        last = self.steps[-1] if self.steps else None
        if not isinstance(last, str):
            raise BadPath("The path of a collection ends with its name.")
        return Path(self.steps[:-1]), last


def read_path(text: str) -> Path:
    """The path that a text holds.

    Raises
    ------
    BadPath
        It is none, or has more of FHIRPath than this module does.
    """
    if len(text) > MAX_LENGTH:
        raise BadPath(f"A path has at most {MAX_LENGTH} characters.")
    reader = _Reader(text)
    steps, verb = reader.path()
    if verb or reader.peek() is not None:
        raise BadPath(_REFUSED)
    return Path(steps)


def children(node: Node, name: str) -> Nodes:
    """The elements of this name in one; raises `BadPath` where R4 has none in its type."""
    given = (node.beside or {}) if node.type in PRIMITIVES else node.value
    options = members(node, name)
    return [found for member in options for found in _of_member(given, member, options)]


def members(node: Node, name: str) -> list[Property]:
    """What an element of this name may be in JSON: one, or one for each type of a ``value[x]``.

    Raises
    ------
    BadPath
        R4 has no such element in its type.
    """
    type = "Element" if node.type in PRIMITIVES else node.concrete
    found = [each for each in type_of(type).properties.values() if name in (each.element.name, each.name)]
    if not found:
        raise BadPath(f"{type} of R4 has no element {name[:64]!r}.")
    return found


def _of_member(holder: Mapping[str, Any], member: Property, options: Sequence[Property]) -> Nodes:
    value, beside = holder.get(member.name), holder.get(f"_{member.name}")
    if value is None and beside is None:
        return []
    if not member.is_list:
        return [Node(value=value, beside=beside, type=member.type, holder=holder, member=member, options=options)]
    values, besides = value or [], beside or []
    return [
        Node(
            value=values[index] if index < len(values) else None,
            beside=besides[index] if index < len(besides) else None,
            type=member.type,
            holder=holder,
            member=member,
            index=index,
            options=options,
        )
        for index in range(max(len(values), len(besides)))
    ]


def _led(found: Nodes, steps: Sequence[str | Step]) -> Nodes:
    for step in steps:
        found = [child for node in found for child in children(node, step)] if isinstance(step, str) else step(found)
        if len(found) > MAX_NODES:
            raise BadPath(f"A path leads to at most {MAX_NODES} elements.")
    return found


def _is_equal(found: Nodes, literal: Any) -> bool:
    if len(found) != 1:
        return False
    value = found[0].value
    if isinstance(literal, bool) or isinstance(value, bool):
        return value is literal
    if isinstance(literal, Decimal) and isinstance(value, int | Decimal):
        return value == literal
    return isinstance(literal, str) and value == literal


def _of_root(type: str) -> Step:
    """The resource itself, where it is of this type."""

    def step(found: Nodes) -> Nodes:
        if type not in (found[0].concrete, "Resource", "DomainResource"):
            raise BadPath(f"The path leads to a {type[:64]!r}, and the resource is none.")
        return found

    return step


def _indexed(number: str) -> Step:
    if not number.isdigit():
        raise BadPath("An index is a whole number from 0.")
    index = int(number)
    return lambda found: found[index : index + 1]


def _extension(url: Any) -> Step:
    return lambda found: [
        each for node in found for each in children(node, "extension") if each.value.get("url") == url
    ]


def _of_type(type: str) -> Step:
    return lambda found: [node for node in found if node.concrete == type]


def _where(holds: Condition) -> Step:
    return lambda found: [node for node in found if holds(node)]


class _Reader:
    """Reads a path from left to right."""

    def __init__(self, text: str) -> None:
        self.tokens: list[tuple[str, str]] = []
        self.at = 0
        self.depth = 0
        text, end = text.rstrip(), 0
        while end < len(text):
            found = _TOKEN.match(text, end)
            if found is None:
                raise BadPath(_REFUSED)
            self.tokens.append((str(found.lastgroup), found[str(found.lastgroup)]))
            end = found.end()

    def peek(self) -> str | None:
        return self.tokens[self.at][1] if self.at < len(self.tokens) else None

    def next(self, kind: str) -> str:
        if self.at >= len(self.tokens) or self.tokens[self.at][0] != kind:
            raise BadPath(_REFUSED)
        self.at += 1
        return self.tokens[self.at - 1][1]

    def is_next(self, token: str) -> bool:
        if self.peek() == token:
            self.at += 1
            return True
        return False

    def expect(self, sign: str) -> None:
        if not self.is_next(sign):
            raise BadPath(_REFUSED)

    def path(self) -> tuple[list[str | Step], str]:
        """The steps of a path, and whether it ends by asking ``exists`` or ``empty``, which only a condition may."""
        steps: list[str | Step] = []
        if self.is_next("$"):
            if self.next("name") != "this":
                raise BadPath(_REFUSED)
            if not self.is_next("."):
                return steps, ""
        while True:
            name = self.next("name")
            if self.is_next("("):
                if name in ("exists", "empty"):
                    self.expect(")")
                    return steps, name
                steps.append(self.function(name))
                self.expect(")")
            else:
                name = name.strip("`")
                steps.append(_of_root(name) if not steps and name[0].isupper() else name)
            while self.is_next("["):
                steps.append(_indexed(self.next("number")))
                self.expect("]")
            if not self.is_next("."):
                return steps, ""

    def function(self, name: str) -> Step:
        match name:
            case "where":
                return _where(self.condition())
            case "first":
                return lambda found: found[:1]
            case "last":
                return lambda found: found[-1:]
            case "extension":
                return _extension(self.literal())
            case "ofType" | "as":
                type = self.next("name")
                return _of_type(self.next("name") if self.is_next(".") else type)  # FHIR.Quantity
        raise BadPath(f"This server reads no function {name[:64]}() in a path.")

    def condition(self) -> Condition:
        """Comparisons with ``and`` and ``or`` between; ``and`` binds closer."""
        self.depth += 1
        if self.depth > MAX_NESTING:
            raise BadPath(_REFUSED)
        either = [self.conjunction()]
        while self.is_next("or"):
            either.append(self.conjunction())
        self.depth -= 1
        return lambda node: any(holds(node) for holds in either)

    def conjunction(self) -> Condition:
        both = [self.comparison()]
        while self.is_next("and"):
            both.append(self.comparison())
        return lambda node: all(holds(node) for holds in both)

    def comparison(self) -> Condition:
        if self.is_next("("):
            holds = self.condition()
            self.expect(")")
            return holds
        steps, verb = self.path()
        if verb:
            return lambda node: bool(_led([node], steps)) == (verb == "exists")
        is_wanted = not self.is_next("!=")
        literal = self.literal() if not is_wanted or self.is_next("=") else True
        return lambda node: bool(found := _led([node], steps)) and _is_equal(found, literal) == is_wanted

    def literal(self) -> Any:
        if self.at >= len(self.tokens):
            raise BadPath(_REFUSED)
        kind, token = self.tokens[self.at]
        self.at += 1
        if kind == "text":
            return re.sub(r"\\(.)", lambda found: _ESCAPES.get(found[1], found[1]), token[1:-1])
        if kind == "number":
            return Decimal(token)
        if token in ("true", "false"):
            return token == "true"
        raise BadPath(_REFUSED)
