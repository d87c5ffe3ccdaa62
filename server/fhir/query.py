"""A search as it is asked for, from its parameters (FHIR R4 3.1.1): conditions, order, what comes with it."""

from __future__ import annotations

import re
from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Decimal, InvalidOperation
from typing import Any, Literal, cast, get_args

import orjson

from readingroom.errors import Invalid
from server.fhir.dates import moments, range_of
from server.fhir.extract import normal, relative
from server.fhir.parameters import COMPARATORS, PARAMETERS, Parameter
from server.fhir.summary import Summary
from storage.catalog.fhir_conditions import (
    AllOf,
    AnyOf,
    Chain,
    Condition,
    Has,
    Ids,
    Match,
    Missing,
    Op,
    Range,
    Sort,
    Test,
    Text,
    Updated,
)
from storage.catalog.normal import sound_of

Pairs = Sequence[tuple[str, str]]
Total = Literal["none", "estimate", "accurate"]

USUAL, MOST = 50, 500
_UNWRITABLE = re.compile("[\0\ufffd]")  # U+FFFD stands where bytes were no UTF-8
_MOST_CONDITIONS, _MOST_VALUES, _MOST_STEPS, _MOST_SORTS = 60, 500, 5, 4
SUMMARIES = get_args(Summary)
_ALSO_CALLED = {("DiagnosticReport", "basedOn"): "based-on", ("DiagnosticReport", "imagingStudy"): "imaging-study"}
"""What IHE RAD-143 calls parameters that R4 and this server call otherwise."""
_NAMES = frozenset((("name", "given"), ("name", "family")))
"""``patient.name.given`` of IHE RAD-143 looks like a chain, and is the parameter `given` of the patient."""
_ABOUT = re.compile(r"([A-Z][A-Za-z]+)/([A-Za-z0-9.-]{1,64})")
_ID = re.compile(r"[A-Za-z0-9.-]{1,64}")
_PREFIX = re.compile(r"(" + "|".join(COMPARATORS) + r")(?=[0-9+-])")
_APPROXIMATELY = 0.1


@dataclass(frozen=True, slots=True, kw_only=True)
class Include:
    """What comes with the matches: to what `parameter` of `source` leads; reversed, what leads to them by it."""

    source: str
    parameter: str
    target: str | None = None
    is_reversed: bool = False
    iterates: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Query:
    """A search; `used` are the parameters that were understood, and `ignored` those that were not."""

    type: str
    conditions: tuple[Condition, ...] = ()
    sort: tuple[Sort, ...] = ()
    count: int = USUAL
    includes: tuple[Include, ...] = ()
    total: Total | None = None
    summary: Summary = "false"
    elements: tuple[str, ...] = ()
    after: tuple[Any, ...] | None = None
    used: tuple[tuple[str, str], ...] = ()
    ignored: tuple[str, ...] = ()

    @property
    def has_conditions(self) -> bool:
        """Whether it asks for anything in particular."""
        return bool(self.conditions)


def parse_query(type: str, pairs: Pairs, *, root: str, is_strict: bool = False) -> Query:
    """The search that these parameters ask for.

    Parameters
    ----------
    root
        The service root: addresses below it are references to what is here.
    is_strict
        Whether a parameter that is not known is an error (``Prefer: handling=strict``), not ignored.

    Raises
    ------
    Invalid
        A parameter has a value or a modifier that it cannot have; says which would be right.
    """
    reader = _Reader(type, root)
    used: list[tuple[str, str]] = []
    ignored: list[str] = []
    for name, value in pairs:
        if name in ("_format", "_pretty"):
            continue
        if not value:
            continue  # R4 3.1.1.4: a parameter without a value is ignored
        if _UNWRITABLE.search(name + value):
            raise Invalid("A search is written in UTF-8, and holds no NUL.")
        if reader.take(name, value):
            used.append((name, value))
        elif is_strict:
            known = ", ".join(sorted(PARAMETERS.get(type, {})))
            raise Invalid(f"{type} has no search parameter {name[:60]!r}; it has {known}.")
        else:
            ignored.append(name)
    return reader.query(tuple(used), tuple(ignored))


def cursor_of(place: Sequence[Any]) -> str:
    """A place in the order of matches as an opaque text."""
    return urlsafe_b64encode(orjson.dumps(list(place))).decode().rstrip("=")


class _Reader:
    """Takes one parameter after the other."""

    def __init__(self, type: str, root: str) -> None:
        self._type = type
        self._root = root
        self._conditions: list[Condition] = []
        self._sort: tuple[Sort, ...] = ()
        self._count: int | None = None
        self._includes: list[Include] = []
        self._total: Total | None = None
        self._summary: Summary = "false"
        self._elements: tuple[str, ...] = ()
        self._cursor: tuple[Any, ...] | None = None

    def take(self, name: str, value: str) -> bool:
        """Take a parameter; False where there is none of that name."""
        plain, _colon, modifier = name.partition(":")
        match plain:
            case "_count":
                if not (value.isascii() and value.isdecimal() and len(value) < 9):
                    raise Invalid("'_count' has to be a whole number, 0 or more.")
                self._count = min(int(value), MOST)
            case "_sort":
                names = value.split(",")
                if len(names) > _MOST_SORTS:
                    raise Invalid(f"'_sort' may name {_MOST_SORTS} parameters.")
                self._sort = tuple(map(self._sorted, names))
            case "_include" | "_revinclude":
                self._includes.append(self._include(plain == "_revinclude", modifier, value))
            case "_summary":
                self._summary = cast(Summary, _one_of("_summary", value, SUMMARIES))
            case "_elements":
                self._elements = tuple(one.strip() for one in value.split(",") if one.strip())
            case "_total":
                self._total = cast(Total, _one_of("_total", value, ("none", "estimate", "accurate")))
            case "_cursor":
                self._cursor = _place(value)
            case _:
                condition = condition_of(self._type, name, value, self._root)
                if condition is None:
                    return False
                if len(self._conditions) >= _MOST_CONDITIONS:
                    raise Invalid(f"A search may have {_MOST_CONDITIONS} conditions.")
                self._conditions.append(condition)
        return True

    def query(self, used: tuple[tuple[str, str], ...], ignored: tuple[str, ...]) -> Query:
        """The search of all that was taken."""
        if not self._sort and any(isinstance(one, Updated) for one in self._conditions):
            self._sort = (Sort(parameter="_lastUpdated", is_descending=True),)
        if self._cursor is not None and len(self._cursor) != len(self._sort) + 2:
            raise Invalid("'_cursor' has to be one that a link of this server has, with all that stands beside it.")
        count = USUAL if self._count is None else self._count
        return Query(
            type=self._type,
            conditions=tuple(self._conditions),
            sort=self._sort,
            count=0 if self._summary == "count" else count,
            includes=tuple(self._includes),
            total="accurate" if count == 0 or self._summary == "count" else self._total,
            summary=self._summary,
            elements=self._elements,
            after=self._cursor,
            used=used,
            ignored=ignored,
        )

    def _sorted(self, text: str) -> Sort:
        name = text.strip().removeprefix("-")
        parameter = PARAMETERS.get(self._type, {}).get(name)
        if parameter is None or parameter.kind == "composite":
            raise Invalid(f"{self._type} cannot be sorted by {name[:40]!r}.")
        is_text = parameter.kind in ("token", "string", "reference", "uri") and not parameter.is_ranked
        return Sort(parameter=name, is_descending=text.strip().startswith("-"), is_text=is_text)

    def _include(self, is_reversed: bool, modifier: str, value: str) -> Include:
        name = "_revinclude" if is_reversed else "_include"
        if modifier not in ("", "iterate", "recurse"):
            raise Invalid(f"{name!r} has no modifier {modifier[:40]!r}; it has iterate.")
        source, _colon, rest = value.partition(":")
        parameter, _colon, target = rest.partition(":")
        if source == "*" or (parameter == "*" and is_reversed):
            raise Invalid(f"{name!r} names the type whose parameter it follows: {self._type}:*, or each by its name.")
        table = PARAMETERS.get(source)
        found = None if table is None else table.get(parameter)
        if table is None or (parameter != "*" and (found is None or found.kind != "reference")):
            raise Invalid(f"{name!r} cannot follow {value[:60]!r}: there is no such reference parameter.")
        if found is not None and target and target not in found.targets:
            raise Invalid(f"{source}:{parameter} does not lead to {target[:40]!r}.")
        return Include(
            source=source,
            parameter=parameter,
            target=target or None,
            is_reversed=is_reversed,
            iterates=bool(modifier),
        )


# -- conditions --------------------------------------------------------------------------------------------------------


def condition_of(type: str, name: str, value: str, root: str, *, depth: int = 0) -> Condition | None:
    """What a parameter asks of a resource; None where the type has no such parameter.

    Raises
    ------
    Invalid
        It has that parameter, and not that modifier or value.
    """
    if depth > _MOST_STEPS:
        raise Invalid(f"A chain may have {_MOST_STEPS} steps.")
    if name.startswith("_has:"):
        return _has(type, name, value, root, depth)
    head, dot, rest = name.partition(".")
    plain, _colon, modifier = head.partition(":")
    if (type, plain) in _ALSO_CALLED:
        return condition_of(type, _ALSO_CALLED[type, plain] + name[len(plain) :], value, root, depth=depth + 1)
    if (plain, rest) in _NAMES:
        return condition_of(type, rest, value, root, depth=depth + 1)
    parameter = PARAMETERS.get(type, {}).get(plain)
    if parameter is None:
        return None
    if dot:
        return _chain(parameter, modifier, rest, value, root, depth)
    values = _split(value, ",")
    if len(values) > _MOST_VALUES:
        raise Invalid(f"{name!r} may have {_MOST_VALUES} values.")
    if modifier == "missing":
        if plain in ("_id", "_lastUpdated"):
            raise Invalid(f"{plain!r} is never missing.")
        return Missing(parameter=plain, is_missing=_one_of(name, value, ("true", "false")) == "true")
    if parameter.kind == "composite":
        return _composite(parameter, modifier, values, root)
    is_type = parameter.kind == "reference" and modifier[:1].isupper()
    if modifier and modifier not in parameter.modifiers and not is_type:
        some = ", ".join((*parameter.modifiers, *(parameter.targets if parameter.kind == "reference" else ())))
        raise Invalid(f"{plain!r} of {type} has no modifier {modifier[:40]!r}; it has {some}.")
    if plain == "_id":
        if modifier not in ("", "not"):
            raise Invalid("'_id' has the modifier not, and no other.")
        return Ids(ids=tuple(map(_unescaped, values)), is_negated=modifier == "not")
    if plain == "_lastUpdated":
        some_ranges = [_date(parameter, one) for one in values]
        updated = [
            Updated(op=one.op, low=low, high=high) for one in some_ranges for low, high in [moments(one.low, one.high)]
        ]
        return updated[0] if len(updated) == 1 else AnyOf(conditions=tuple(updated))
    read = {
        "token": _token,
        "string": _string,
        "reference": _reference,
        "uri": _uri,
        "date": _date_test,
        "number": _number_test,
        "quantity": _quantity,
    }[parameter.kind]
    tests = tuple(test for one in values for test in read(parameter, modifier, one, root))
    suffix = {"text": ":text", "of-type": ":of-type", "identifier": ":identifier"}.get(modifier, "")
    return Match(parameter=plain + suffix, tests=tests, is_negated=modifier == "not")


def _has(type: str, name: str, value: str, root: str, depth: int) -> Condition:
    parts = name.split(":", 3)
    if len(parts) != 4:
        raise Invalid(
            "'_has' names a type, a reference parameter of it, and a parameter: _has:Observation:patient:code."
        )
    source, by, rest = parts[1:]
    parameter = PARAMETERS.get(source, {}).get(by)
    if parameter is None or parameter.kind != "reference" or type not in parameter.targets:
        raise Invalid(f"{source[:40]!r} has no reference parameter {by[:40]!r} that leads to {type}.")
    inner = condition_of(source, rest, value, root, depth=depth + 1)
    if inner is None:
        raise Invalid(f"{source} has no search parameter {rest[:60]!r}.")
    return Has(source=source, parameter=by, conditions=(inner,))


def _chain(parameter: Parameter, modifier: str, rest: str, value: str, root: str, depth: int) -> Condition:
    name = parameter.name
    if parameter.kind != "reference":
        raise Invalid(f"{name!r} of {parameter.type} is no reference, so nothing is chained to it.")
    if modifier and modifier not in parameter.targets:
        raise Invalid(f"{name!r} of {parameter.type} does not lead to {modifier[:40]!r}.")
    some: list[Condition] = []
    for target in (modifier,) if modifier else parameter.targets:
        inner = condition_of(target, rest, value, root, depth=depth + 1)
        if inner is not None:
            some.append(Chain(parameter=name, target=target, conditions=(inner,)))
    if not some:
        raise Invalid(f"What {name!r} of {parameter.type} leads to has no search parameter {rest[:60]!r}.")
    return some[0] if len(some) == 1 else AnyOf(conditions=tuple(some))


def _composite(parameter: Parameter, modifier: str, values: Sequence[str], root: str) -> Condition:
    if modifier:
        raise Invalid(f"{parameter.name!r} has no modifiers.")
    # Both hold of one resource that has one of each: see `parameters`. Alternatives would have to be ORs of ANDs.
    if len(values) != 1:
        raise Invalid(f"{parameter.name!r} takes one value at a time; repeat the request for others.")
    parts = _split(values[0], "$")
    if len(parts) != len(parameter.parts):
        raise Invalid(f"{parameter.name!r} has {len(parameter.parts)} parts with $ between.")
    held = [condition_of(parameter.type, name, part, root) for name, part in zip(parameter.parts, parts, strict=True)]
    return AllOf(conditions=tuple(one for one in held if one is not None))


# -- values ------------------------------------------------------------------------------------------------------------


def _token(parameter: Parameter, modifier: str, value: str, root: str) -> list[Test]:
    if modifier == "text":
        return [Text(text=normal(_unescaped(value)), how="begins")]
    parts = [_unescaped(part) for part in _split(value, "|")]
    if modifier == "of-type":
        if len(parts) != 3 or not all(parts):
            raise Invalid(f"'{parameter.name}:of-type' has the form SYSTEM|CODE|VALUE.")
        return [Text(text="|".join(parts))]
    if len(parts) > 2:
        raise Invalid(f"{parameter.name!r} has the form CODE, SYSTEM|CODE, |CODE or SYSTEM|.")
    if len(parts) == 1:
        return [Text(text=parts[0])]
    space, code = parts
    if not code and not space:
        raise Invalid(f"{parameter.name!r} has the form CODE, SYSTEM|CODE, |CODE or SYSTEM|.")
    held: str | None = space
    if parameter.systems:
        if space not in parameter.systems:
            return []
        held = None  # codes that stand alone are held without the system that they are of
    return [Text(text=code, space=held) if code else Text(text="", space=held, how="in space")]


def _string(parameter: Parameter, modifier: str, value: str, root: str) -> list[Test]:
    text = _unescaped(value)
    if parameter.name == "phonetic":
        return [Text(text=sound) for word in normal(text).split() if (sound := sound_of(word))] or [Text(text="")]
    if modifier == "exact":
        return [Text(text=normal(text), space=text, how="exact")]
    return [Text(text=normal(text), how="contains" if modifier == "contains" else "begins")]


def _reference(parameter: Parameter, modifier: str, value: str, root: str) -> list[Test]:
    if modifier == "identifier":
        return _token(parameter, "", value, root)
    text = relative(_unescaped(value).partition("|")[0], root)
    if _ABOUT.fullmatch(text):
        kind = text.partition("/")[0]
        if modifier and kind != modifier:
            raise Invalid(f"'{parameter.name}:{modifier}' refers to a {modifier}.")
        return [Text(text=text)]
    if _ID.fullmatch(text):
        return [Text(text=f"{target}/{text}") for target in ((modifier,) if modifier else parameter.targets)]
    return [Text(text=text)]


def _uri(parameter: Parameter, modifier: str, value: str, root: str) -> list[Test]:
    return [Text(text=_unescaped(value), how="below" if modifier == "below" else "is")]


def _date_test(parameter: Parameter, modifier: str, value: str, root: str) -> list[Test]:
    return [_date(parameter, value)]


def _date(parameter: Parameter, value: str) -> Range:
    op, text = _compared(value)
    found = range_of(text.replace(" ", "+"))
    if found is None:
        raise Invalid(f"{parameter.name!r} has to be a date or a time, such as ge2026-01-31 or 2026-01-31T08:00:00Z.")
    low, high = found
    if op == "ap":
        span = max(high - low, 86_400_000.0)
        low, high = low - span, high + span
    return Range(op=op, low=low, high=high)


def _number_test(parameter: Parameter, modifier: str, value: str, root: str) -> list[Test]:
    op, text = _compared(value)
    low, high = _bounds(parameter, op, text)
    return [Range(op=op, low=low, high=high)]


def _quantity(parameter: Parameter, modifier: str, value: str, root: str) -> list[Test]:
    op, text = _compared(value)
    parts = [_unescaped(part) for part in _split(text, "|")]
    if len(parts) not in (1, 3):
        raise Invalid(f"{parameter.name!r} has the form NUMBER, NUMBER|SYSTEM|CODE or NUMBER||UNIT.")
    low, high = _bounds(parameter, op, parts[0])
    if len(parts) == 1:
        return [Range(op=op, low=low, high=high)]
    return [Range(op=op, low=low, high=high, text=parts[2] or None, space=parts[1] or None)]


def _compared(value: str) -> tuple[Op, str]:
    found = _PREFIX.match(value)
    return (cast(Op, found[1]), value[2:]) if found else ("eq", value)


def _bounds(parameter: Parameter, op: Op, text: str) -> tuple[float, float]:
    """The range that a number stands for by its digits (R4 3.1.1.4.5): 100 is 99.5 to 100.5; of lt and gt, itself."""
    try:
        number = Decimal(text)
    except InvalidOperation:
        number = Decimal("NaN")
    if not number.is_finite() or len(text) > 40:
        raise Invalid(f"{parameter.name!r} has to be a number, such as 5.4 or gt100.")
    if op == "ap":
        margin = abs(number) * Decimal(str(_APPROXIMATELY))
    elif op in ("eq", "ne"):
        exponent = number.as_tuple().exponent
        margin = Decimal(5).scaleb((exponent if isinstance(exponent, int) else 0) - 1)
    else:
        margin = Decimal(0)
    return float(number - margin), float(number + margin)


def _split(text: str, mark: str) -> list[str]:
    """The parts between marks that no backslash stands before; what is escaped stays so."""
    parts, held, is_escaped = [], [], False
    for character in text:
        if is_escaped or character == "\\":
            is_escaped = not is_escaped
            held.append(character)
        elif character == mark:
            parts.append("".join(held))
            held = []
        else:
            held.append(character)
    parts.append("".join(held))
    return parts if len(parts) == 1 or mark != "," else [part for part in parts if part]


def _unescaped(text: str) -> str:
    return re.sub(r"\\([\\,|$])", r"\1", text)


def _one_of(name: str, value: str, known: Sequence[str]) -> str:
    if value not in known:
        raise Invalid(f"{name[:40]!r} is one of {', '.join(known)}.")
    return value


def _place(text: str) -> tuple[Any, ...]:
    try:
        place = orjson.loads(urlsafe_b64decode(text + "=" * (-len(text) % 4)))
    except ValueError:
        place = None
    is_place = isinstance(place, list) and len(place) >= 2 and isinstance(place[-2], int)
    if not is_place or not all(map(_is_of_place, place)):
        raise Invalid("'_cursor' has to be one that a link of this server has.")
    return tuple(place)


def _is_of_place(one: Any) -> bool:
    return isinstance(one, str | float) or (isinstance(one, int) and not isinstance(one, bool) and abs(one) < 1 << 63)
