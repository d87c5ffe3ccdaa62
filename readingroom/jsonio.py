"""Values of the contract as JSON and back, without loss: they cross a pipe, and wait in a queue.

A dataclass becomes an object that names its class under ``@``, so that one of several may stand in a place. Tuples and
sets become arrays, moments become ISO 8601 text, spans of time become whole microseconds. What is read is checked
against the type that its place has: whatever the other side sends, nothing else comes out.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import MISSING, fields, is_dataclass
from datetime import UTC, datetime, timedelta
from functools import cache
from numbers import Integral, Real
from types import NoneType, UnionType
from typing import Any, Literal, TypeAliasType, Union, get_args, get_origin, get_type_hints

from readingroom.errors import Invalid

TAG = "@"
_AS_THEY_ARE = frozenset({bool, int, str})
_MICROSECOND = timedelta(microseconds=1)

type Path = tuple[str | int, ...]
type Reader = Callable[[Any, Path], Any]


def to_json(value: object) -> Any:
    """The value as dictionaries, lists, text and numbers.

    Raises
    ------
    Invalid
        It holds what JSON cannot: a moment without a zone, a number that is none, an object of any other class.
    """
    return _written(value, ())


def from_json(kind: Any, value: Any) -> Any:
    """The value of this type that `to_json` made it from.

    Parameters
    ----------
    kind
        A dataclass, a builtin, or what annotations make of them: unions, tuples, frozensets, mappings by text,
        literals. `Any` takes whatever JSON can hold, as it is.

    Raises
    ------
    Invalid
        It is none of this type; the message says where.
    """
    return _reader(kind)(value, ())


def dumps(value: object) -> bytes:
    """The JSON text of a value, for a pipe or a row."""
    return json.dumps(to_json(value), ensure_ascii=False, separators=(",", ":"), allow_nan=False).encode()


def loads(kind: Any, text: bytes | str) -> Any:
    """The value in a JSON text; raises `Invalid` where it is none of this type, or no JSON."""
    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise Invalid(f"This is no JSON: {error}.") from None
    return from_json(kind, value)


def _written(value: object, path: Path) -> Any:
    if value is None or type(value) in _AS_THEY_ARE:
        return value  # nearly all of them, and at once
    if hasattr(value, "__dataclass_fields__") and not isinstance(value, type):
        told: dict[str, Any] = {TAG: type(value).__name__}
        for name in value.__dataclass_fields__:
            told[name] = _written(getattr(value, name), (*path, name))
        return told
    match value:
        case str():
            return str(value)
        case Integral():  # those of numpy too
            return int(value)
        case Real():
            number = float(value)
            if not math.isfinite(number):
                raise Invalid(f"{_at(path)} is {number}, which is no number that JSON has.")
            return number
        case datetime():
            if value.tzinfo is None:
                raise Invalid(f"{_at(path)} is a time without a zone; make it an aware one.")
            return value.astimezone(UTC).isoformat()
        case timedelta():
            return value // _MICROSECOND
        case Mapping():
            for key in value:
                if not isinstance(key, str):
                    raise Invalid(f"{_at(path)} has the key {key!r}, which is no text.")
            return {key: _written(item, (*path, key)) for key, item in value.items()}
        case frozenset() | set():
            return sorted(_written(item, path) for item in value)
        case tuple() | list():
            return [_written(item, (*path, index)) for index, item in enumerate(value)]
    raise Invalid(f"{_at(path)} is a {type(value).__name__}, which does not travel.")


@cache
def _reader(kind: Any) -> Reader:
    """What reads values of a type."""
    if kind is Any or kind is object:
        return lambda value, path: value
    if isinstance(kind, TypeAliasType):
        return _reader(kind.__value__)
    origin, arguments = get_origin(kind), get_args(kind)
    if origin in (Union, UnionType):
        return _union_reader(arguments)
    if origin is Literal:
        return _literal_reader(arguments)
    if origin in (tuple, list, frozenset, Sequence):
        return _array_reader(tuple if origin is Sequence else origin, arguments)
    if isinstance(origin, type) and issubclass(origin, Mapping):
        if arguments[1] is Any:
            return _PLAIN[dict]
        item = _reader(arguments[1])
        return lambda value, path: {
            key: item(one, (*path, key)) for key, one in _expect(value, dict, "an object", path).items()
        }
    if isinstance(kind, type) and is_dataclass(kind):
        return _dataclass_reader(kind)
    if kind in _PLAIN:
        return _PLAIN[kind]
    raise TypeError(f"{kind!r} is no type that travels")


def _dataclass_reader(kind: type[Any]) -> Reader:
    hints = get_type_hints(kind)
    wanted = {one.name: one for one in fields(kind)}

    def read(value: Any, path: Path) -> Any:
        told = _expect(value, dict, f"a {kind.__name__}", path)
        if told.get(TAG) != kind.__name__:
            raise Invalid(f"{_at(path)} is no {kind.__name__}.")
        for name in told.keys() - wanted.keys() - {TAG}:
            raise Invalid(f"{_at(path)} has no field {str(name)[:40]!r}: it is a {kind.__name__}.")
        for name, one in wanted.items():
            if name not in told and one.default is MISSING and one.default_factory is MISSING:
                raise Invalid(f"{_at(path)} lacks the field {name!r} of a {kind.__name__}.")
        return kind(**{name: _reader(hints[name])(told[name], (*path, name)) for name in wanted if name in told})

    return read


def _union_reader(kinds: Sequence[Any]) -> Reader:
    tagged: dict[str, Any] = {kind.__name__: kind for kind in kinds if is_dataclass(kind) and isinstance(kind, type)}
    others = [kind for kind in kinds if not is_dataclass(kind)]
    told = " or ".join(_name(kind) for kind in kinds)

    def read(value: Any, path: Path) -> Any:
        if isinstance(value, dict) and value.get(TAG) in tagged:
            return _reader(tagged[value[TAG]])(value, path)
        if value is None and NoneType in others:
            return None
        possible = [kind for kind in others if kind is not NoneType]
        if len(possible) == 1 and not tagged:
            return _reader(possible[0])(value, path)  # its complaint says more than ours
        for kind in possible:
            try:
                return _reader(kind)(value, path)
            except Invalid:
                continue
        raise Invalid(f"{_at(path)} is no {told}.")

    return read


def _literal_reader(choices: Sequence[Any]) -> Reader:
    def read(value: Any, path: Path) -> Any:
        for choice in choices:
            if type(choice) is type(value) and choice == value:
                return choice
        raise Invalid(f"{_at(path)} is none of {', '.join(map(repr, choices))}.")

    return read


def _array_reader(kind: type[Any], arguments: Sequence[Any]) -> Reader:
    if kind is tuple and arguments[-1] is not Ellipsis:
        items = [_reader(argument) for argument in arguments]

        def read_all(value: Any, path: Path) -> Any:
            told = _expect(value, list, "an array", path)
            if len(told) != len(items):
                raise Invalid(f"{_at(path)} has {len(told)} values, not {len(items)}.")
            return tuple(item(one, (*path, index)) for index, (item, one) in enumerate(zip(items, told, strict=True)))

        return read_all
    item = _reader(arguments[0])
    return lambda value, path: kind(
        [item(one, (*path, index)) for index, one in enumerate(_expect(value, list, "an array", path))]
    )


def _read_number(value: Any, path: Path) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise Invalid(f"{_at(path)} is no number.")
    return float(value)


def _read_whole(value: Any, path: Path) -> int:
    if isinstance(value, bool) or not isinstance(value, int):
        raise Invalid(f"{_at(path)} is no whole number.")
    return value


def _read_text(value: Any, path: Path) -> str:
    text = _expect(value, str, "a text", path)
    if not text.isascii() or "\0" in text:
        try:
            text.encode()
        except UnicodeEncodeError:
            raise Invalid(f"{_at(path)} is no text of Unicode characters.") from None
        if "\0" in text:
            raise Invalid(f"{_at(path)} holds a NUL character.")
    return text


def _read_moment(value: Any, path: Path) -> datetime:
    try:
        moment = datetime.fromisoformat(_expect(value, str, "a time", path))
    except ValueError:
        raise Invalid(f"{_at(path)} is no time of ISO 8601.") from None
    if moment.tzinfo is None:
        raise Invalid(f"{_at(path)} is a time without a zone.")
    return moment.astimezone(UTC)


def _read_span(value: Any, path: Path) -> timedelta:
    try:
        return _read_whole(value, path) * _MICROSECOND
    except OverflowError:
        raise Invalid(f"{_at(path)} is too long a time.") from None


def _expect[T](value: Any, kind: type[T], what: str, path: Path) -> T:
    if not isinstance(value, kind):
        raise Invalid(f"{_at(path)} is no {what.removeprefix('a ').removeprefix('an ')}.")
    return value


_PLAIN: dict[Any, Reader] = {
    NoneType: lambda value, path: _expect(value, NoneType, "a null", path),
    bool: lambda value, path: _expect(value, bool, "a truth value", path),
    int: _read_whole,
    float: _read_number,
    str: _read_text,
    datetime: _read_moment,
    timedelta: _read_span,
    dict: lambda value, path: _expect(value, dict, "an object", path),
}


def _at(path: Path) -> str:
    """A place in a value, as one would write it."""
    told = "".join(f"[{step}]" if isinstance(step, int) else f".{step}" for step in path).lstrip(".")
    return told[:200] or "The value"


def _name(kind: Any) -> str:
    return kind.__name__ if isinstance(kind, type) else str(kind)
