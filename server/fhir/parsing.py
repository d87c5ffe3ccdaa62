"""A resource from JSON bytes and back, without loss (FHIR R4 2.6.2, the JSON representation).

Numbers keep their text, since 72.50 says more than 72.5. What is stored are the bytes that were received: `splice` cuts
what the server decides out of them, `with_head` puts what it decided in front.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator
from decimal import Decimal
from json.decoder import scanstring  # type: ignore[attr-defined]
from typing import Any, NoReturn

import orjson

from server.fhir.outcome import BadResource, Issue

MAX_BYTES = 64 << 20
MAX_DEPTH = 64
MAX_DIGITS = 64
MAX_EXPONENT = 300
MAX_ISSUES = 20
HEAD = ("resourceType", "id", "meta")

_DECIMAL = re.compile(r"-?(?:0|[1-9][0-9]*)(?:\.[0-9]+)?(?:[eE][+-]?[0-9]+)?")
_SPACE = re.compile(r"[ \t\r\n]*")
# What XML 1.0 has no character for, or UTF-8 no bytes. Escapes are the only way to most of them.
_UNWRITABLE = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\ud800-\udfff\ufffe\uffff]")
_MAY_BE_UNWRITABLE = re.compile(rb"\\[bfu]|\xef\xbf[\xbe\xbf]")


class Number(Decimal):
    """A number that is no small integer, with the text that it was written as."""

    text: str

    def __new__(cls, text: str) -> Number:
        number = super().__new__(cls, text)
        number.text = text
        return number

    def __str__(self) -> str:
        return self.text

    def __deepcopy__(self, memo: dict[int, Any]) -> Number:
        return self


def parse_json(body: bytes, *, max_bytes: int = MAX_BYTES) -> dict[str, Any]:
    """The resource that a body holds; numbers that are no small integers as `Number`.

    Raises
    ------
    BadResource
        It is no JSON object with a resourceType, or holds what FHIR's JSON never does: a member twice, null but beside
        an extension in an array, an empty string, array or object, characters that XML cannot have, more than
        `MAX_DEPTH` levels. Each issue says where.
    """
    resource = _read(body, max_bytes)
    if not isinstance(resource, dict) or not isinstance(resource.get("resourceType"), str):
        raise _bad("A resource is a JSON object with a member resourceType.", code="structure")
    if found := structure_issues(resource, odd=_MAY_BE_UNWRITABLE.search(body) is not None):
        raise BadResource(found)
    return resource


def structure_issues(resource: dict[str, Any], *, odd: bool = True) -> list[Issue]:
    """What of a resource FHIR's JSON never holds; the first `MAX_ISSUES`, in the order of the places.

    Parameters
    ----------
    odd
        Whether there may be characters that XML cannot have.
    """
    found = _faults(resource, _quoted(str(resource.get("resourceType"))), odd=odd)
    return sorted(found, key=lambda issue: issue.expression)


def read_json(body: bytes, *, max_bytes: int = MAX_BYTES) -> Any:
    """What any JSON text holds; numbers that are no small integers as `Number`.

    Raises
    ------
    BadResource
        It is no JSON (RFC 8259) in UTF-8, is too long or too deep, or an object in it has a member twice.
    """
    value = _read(body, max_bytes)
    level = [value]
    for _ in range(MAX_DEPTH + 1):
        level = [item for items in level if isinstance(items, dict | list) for item in _items(items)]
        if not level:
            return value
    raise _too_deep()


def _read(body: bytes, max_bytes: int) -> Any:
    if len(body) > max_bytes:
        raise _bad(f"The body has {len(body)} bytes; at most {max_bytes} are read.", code="too-long")
    try:
        return _DECODER.decode(body.decode())
    except UnicodeDecodeError as error:
        raise _bad(f"Byte {error.start} of the body is not UTF-8.", code="structure") from None
    except json.JSONDecodeError as error:
        raise _bad(f"The body is no JSON: {error.msg}, at character {error.pos}.", code="structure") from None
    except RecursionError:
        raise _too_deep() from None


def dump_json(resource: Any) -> bytes:
    """The resource as JSON; each `Number` as it was written."""
    return orjson.dumps(resource, default=_dumped)


def number_of(text: str) -> int | Number:
    """The number that this is the text of, in JSON and in XML.

    Raises
    ------
    BadResource
        It is none of FHIR R4 (2.24.0.1, decimal), or has too many digits.
    """
    if not _DECIMAL.fullmatch(text):
        raise _bad("A number is written as in JSON.", code="value")
    return _integer(text) if text.removeprefix("-").isdigit() else _number(text)


def splice(body: bytes) -> bytes:
    """The JSON object of a body that `parse_json` took, without its own resourceType, id and meta.

    All other members are there in their order, byte for byte.
    """
    text = body.decode()
    start = _SPACE.match(text).end()  # type: ignore[union-attr]
    kept = [span for name, span in _members(text, start) if name not in HEAD]
    return ("{" + ",".join(kept) + "}").encode()


def with_head(rest: bytes, type: str, id: str, meta: dict[str, Any]) -> bytes:
    """The resource that `splice` made `rest` from, with this id and meta."""
    head = orjson.dumps({"resourceType": type, "id": id, "meta": meta}, default=_dumped)
    return head[:-1] + (b"," if len(rest) > 2 else b"") + rest[1:]


def _members(text: str, start: int) -> Iterator[tuple[str, str]]:
    """Each member of the object at `start`: its name, and its text with the space around it."""
    at = start + 1
    if text[_space(text, at)] == "}":
        return
    while True:
        name, end = scanstring(text, _space(text, at) + 1, True)
        colon = _space(text, end)
        _, end = _SCANNER.raw_decode(text, _space(text, colon + 1))
        stop = _space(text, end)
        yield name, text[at:stop]
        if text[stop] == "}":
            return
        at = stop + 1


def _space(text: str, at: int) -> int:
    return _SPACE.match(text, at).end()  # type: ignore[union-attr]


def _faults(value: Any, path: str, *, odd: bool) -> Iterator[Issue]:
    """What of a resource FHIR's JSON cannot have; the first few, with where they are."""
    left = MAX_ISSUES
    stack: list[tuple[Any, tuple[Any, ...], int]] = [(value, (path,), 1)]
    while stack and left:
        value, where, depth = stack.pop()
        said = ""
        if isinstance(value, str):
            if not value:
                said = "A string is never empty; leave the element out."
            elif odd and _UNWRITABLE.search(value):
                said = "A string holds a control character, or half of a surrogate pair."
        elif isinstance(value, dict | list):
            kind = "An object" if isinstance(value, dict) else "An array"
            if not value:
                said = f"{kind} is never empty; leave the element out."
            elif depth > MAX_DEPTH:
                said = f"A resource is at most {MAX_DEPTH} levels deep."
            elif isinstance(value, dict):
                stack += [
                    (member, (where, name), depth + 1)
                    for name, member in value.items()
                    if odd or not member or isinstance(member, dict | list)
                ]
            else:
                if all(item is None for item in value):
                    said = "An array has a value that is not null."
                stack += [
                    (item, (where, index), depth + 1)
                    for index, item in enumerate(value)
                    if item is not None and (odd or not item or isinstance(item, dict | list))
                ]
        elif value is None:
            said = "null stands only in an array, beside an extension; leave the element out."
        if said:
            left -= 1
            yield Issue(code="structure", diagnostics=said, expression=_shown(where))


def _shown(where: tuple[Any, ...]) -> str:
    """The FHIRPath of a place: ``Observation.component[1].code``."""
    parts: list[str] = []
    while len(where) == 2:
        where, name = where
        parts.append(f"[{name}]" if isinstance(name, int) else f".{_quoted(name)}")
    return str(where[0]) + "".join(reversed(parts))


def _items(items: dict[str, Any] | list[Any]) -> Iterable[Any]:
    return items.values() if isinstance(items, dict) else items


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise _bad(f"An object has the member {_quoted(twice)} twice.", code="structure")
    return found


def _number(text: str) -> Number:
    _, _, exponent = text.lower().partition("e")
    if len(text) <= MAX_DIGITS and len(exponent) < 5:
        number = Number(text)
        if abs(number.adjusted()) <= MAX_EXPONENT:
            return number
    raise _bad(f"A number has at most {MAX_DIGITS} digits and an exponent up to {MAX_EXPONENT}.", code="value")


def _integer(text: str) -> int | Number:
    return int(text) if len(text) < 19 and text != "-0" else _number(text)


def _no_number(text: str) -> NoReturn:
    raise _bad(f"{text} is no number of JSON.", code="structure")


def _dumped(value: Any) -> orjson.Fragment:
    if isinstance(value, Number):
        return orjson.Fragment(value.text)
    if isinstance(value, Decimal):
        return orjson.Fragment(str(value))
    raise TypeError(f"{type(value).__name__} is nothing that a resource holds")


def _quoted(name: str) -> str:
    """A name that a client chose, fit for a message."""
    return name if len(name) <= 64 and name.isidentifier() else repr(name[:64])


def _too_deep() -> BadResource:
    return _bad(f"The body is more than {MAX_DEPTH} levels deep.", code="too-long")


def _bad(said: str, *, code: str) -> BadResource:
    return BadResource([Issue(severity="fatal", code=code, diagnostics=said)])


_DECODER = json.JSONDecoder(object_pairs_hook=_once, parse_float=_number, parse_int=_integer, parse_constant=_no_number)
# To find where a value ends; what it is was looked at before.
_SCANNER = json.JSONDecoder(parse_float=str, parse_int=str)
