"""What a search of FHIR resources asks (FHIR R4 3.1.1), and its shape: all of it but the values.

Two searches of one shape are one SQL statement with other values.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any, Literal

import sqlalchemy as sa

from storage.catalog import schema as t

Op = Literal["eq", "ne", "lt", "le", "gt", "ge", "sa", "eb", "ap"]
_BY_VALUE = ("is", "begins", "in space")
"""How texts are compared by the text as it is, and not by what is made of it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Text:
    """The value is this text, begins with it, or contains it; a token or a URI is, with its system where given."""

    text: str
    space: str | None = None
    how: Literal["is", "begins", "contains", "exact", "in space", "below"] = "is"


@dataclass(frozen=True, slots=True, kw_only=True)
class Range:
    """The value stands so to the range from `low` to `high`; of a quantity, in this unit and system where given."""

    op: Op
    low: float
    high: float
    text: str | None = None
    space: str | None = None


Test = Text | Range


@dataclass(frozen=True, slots=True, kw_only=True)
class Match:
    """One of the tests holds for a value of the parameter; negated, for none of its values."""

    parameter: str
    tests: tuple[Test, ...]
    is_negated: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Missing:
    """The resource has no value of the parameter, or has one."""

    parameter: str
    is_missing: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Chain:
    """The parameter refers to a resource of a type that meets conditions."""

    parameter: str
    target: str
    conditions: tuple[Condition, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Has:
    """A resource of a type refers by a parameter to this one, and meets conditions."""

    source: str
    parameter: str
    conditions: tuple[Condition, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Ids:
    """The id is one of these."""

    ids: tuple[str, ...]
    is_negated: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Updated:
    """The resource was last changed within a range of times."""

    op: Op
    low: datetime
    high: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class AnyOf:
    """One of these holds."""

    conditions: tuple[Condition, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class AllOf:
    """All of these hold."""

    conditions: tuple[Condition, ...]


Condition = Match | Missing | Chain | Has | Ids | Updated | AnyOf | AllOf


@dataclass(frozen=True, slots=True, kw_only=True)
class Sort:
    """An order; by the parameter, by id, or by time of change (``_lastUpdated``)."""

    parameter: str
    is_descending: bool = False
    is_text: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class Search:
    """What is searched; `after` is where the page before ended: the values of `sort`, the source, its key."""

    type: str
    conditions: tuple[Condition, ...] = ()
    sort: tuple[Sort, ...] = ()
    limit: int
    after: tuple[Any, ...] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """One match; `place` is what `Search.after` takes."""

    id: str
    place: tuple[Any, ...]


# -- shapes ------------------------------------------------------------------------------------------------------------


def is_plain(search: Search) -> bool:
    """Whether all of its SQL follows from its shape: nothing is looked up, or made of a value, to write it."""
    is_continued_by_time = search.after is not None and any(sort.parameter[0] == "_" for sort in search.sort)
    return not is_continued_by_time and all(map(_is_plain, search.conditions))


def _is_plain(condition: Condition) -> bool:
    match condition:
        case Match(tests=tests):
            return all(isinstance(test, Range) or test.how in _BY_VALUE for test in tests)
        case AnyOf(conditions=some) | AllOf(conditions=some):
            return all(map(_is_plain, some))
    return not isinstance(condition, Chain | Has)


def shape_of(search: Search) -> tuple[Search, dict[str, Any]]:
    """The search with the type of each value in the place of the value; and the values, by the names of `bound`."""
    values: dict[str, Any] = {}

    def take(value: Any) -> Any:
        values[f"v{len(values)}"] = value
        return type(value)

    return _with_values(search, take), values


def bound(shape: Search) -> Search:
    """A search whose values are bound when its statement is run."""
    number = 0

    def bind(kind: Any) -> Any:
        nonlocal number
        name, number = f"v{number}", number + 1
        if kind is tuple:
            return sa.bindparam(name, type_=sa.Text(), expanding=True)
        return sa.bindparam(name, type_=_TYPES.get(kind))

    return _with_values(shape, bind)


_TYPES: dict[type, Any] = {
    str: sa.Text(),
    float: sa.Double(),
    datetime: t.UtcDateTime(),
}
"""Of values; others are of the type of the column that they are compared with."""


def _with_values(search: Search, put: Callable[[Any], Any]) -> Search:
    after = search.after
    if after is not None:
        *values, number, key = after
        after = (*map(put, values), number, put(key))
    conditions = tuple(_condition(one, put) for one in search.conditions)
    return replace(search, conditions=conditions, after=after, limit=put(search.limit))


def _condition(condition: Condition, put: Callable[[Any], Any]) -> Condition:
    match condition:
        case Match(tests=tests):
            return replace(condition, tests=tuple(_test(test, put) for test in tests))
        case AnyOf(conditions=some) | AllOf(conditions=some):
            return replace(condition, conditions=tuple(_condition(one, put) for one in some))
        case Ids(ids=ids):
            return replace(condition, ids=put(ids))
        case Updated(low=low, high=high):
            return replace(condition, low=put(low), high=put(high))
    return condition


def _test(test: Test, put: Callable[[Any], Any]) -> Test:
    space = None if test.space is None else put(test.space)
    if isinstance(test, Text):
        return replace(test, text=put(test.text), space=space)
    text = None if test.text is None else put(test.text)
    return replace(test, low=put(test.low), high=put(test.high), text=text, space=space)
