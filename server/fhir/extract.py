"""The values of a resource that searches match: what each parameter's paths lead to, by the kind of the parameter."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Iterator, Mapping
from decimal import Decimal
from functools import lru_cache
from typing import Any

from readingroom.model import PRIORITIES
from server.fhir.dates import BEGINNING, END, range_of
from server.fhir.parameters import PARAMETERS, Parameter
from storage.catalog.fhir_values import Value
from storage.catalog.normal import sound_of

_STEP = re.compile(r"(\w+)(?:\[(\w+|\*)\])?(?:\((\w+)\))?")
_LITERAL = re.compile(r"(?:.*/)?([A-Z][A-Za-z]+)/([A-Za-z0-9.-]{1,64})(?:/_history/[A-Za-z0-9.-]{1,64})?")
_SPACES = re.compile(r"\s+")
_CURRENCIES = "urn:iso:std:iso:4217"
_NOT_LISTED = frozenset(("_id", "_lastUpdated"))


def values_of(type: str, resource: Mapping[str, Any], root: str) -> list[Value]:
    """All values of a resource; references below `root` are relative ones."""
    found: list[Value] = []
    for parameter in PARAMETERS.get(type, {}).values():
        if parameter.kind == "composite" or parameter.name in _NOT_LISTED:
            continue
        read = _READERS[parameter.kind]
        for path in parameter.paths:
            if path.endswith("!"):
                is_there = any(value is not False for value in _follow(resource, path.removesuffix("!")))
                found.append(Value(key=parameter.key, text="true" if is_there else "false"))
                continue
            for value in _follow(resource, path):
                found += read(parameter, value, root)
    return list(dict.fromkeys(found))


def normal(text: str) -> str:
    """A string as it is compared: without case, accents and more than one space (R4 3.1.1.4.8)."""
    plain = unicodedata.normalize("NFKD", text)
    plain = "".join(character for character in plain if not unicodedata.combining(character))
    return _SPACES.sub(" ", plain.casefold()).strip()


def relative(address: str, root: str) -> str:
    """A reference as the index has it: ``Patient/1`` where it leads here, else as it is."""
    if address.startswith(root + "/"):
        address = address[len(root) + 1 :]
    if "://" in address or address.startswith(("urn:", "#")):
        return address
    found = _LITERAL.fullmatch(address)
    return f"{found[1]}/{found[2]}" if found else address


# -- paths -------------------------------------------------------------------------------------------------------------


@lru_cache(maxsize=1024)
def _steps(path: str) -> tuple[tuple[str, str | None, str | None], ...]:
    found = [_STEP.fullmatch(step) for step in path.split(".")]
    return tuple((one[1], one[2], one[3]) for one in found if one is not None)


def _follow(value: Any, path: str) -> Iterator[Any]:
    held = [value]
    for name, choice, system in _steps(path):
        held = [inner for outer in held if isinstance(outer, dict) for inner in _step(outer, name, choice)]
        if system is not None:
            held = [inner for inner in held if isinstance(inner, dict) and inner.get("system") == system]
    yield from held


def _step(value: Mapping[str, Any], name: str, choice: str | None) -> Iterator[Any]:
    if choice == "*":
        names = [key for key in value if key.startswith(name) and key[len(name) : len(name) + 1].isupper()]
    else:
        names = [name + (choice or "")]
    for key in names:
        found = value.get(key)
        if isinstance(found, list):
            yield from found
        elif found is not None:
            yield found


# -- values ------------------------------------------------------------------------------------------------------------


def _tokens(parameter: Parameter, value: Any, root: str) -> Iterator[Value]:
    key = parameter.key
    if isinstance(value, bool):
        yield Value(key=key, text="true" if value else "false")
    elif isinstance(value, str):
        rank = float(PRIORITIES.index(value)) if parameter.is_ranked and value in PRIORITIES else None
        yield Value(key=key, text=value, low=rank, high=rank)
    elif not isinstance(value, dict):
        return
    elif "coding" in value or ("text" in value and "value" not in value):
        for coding in value.get("coding") or ():
            yield from _tokens(parameter, coding, root)
        if isinstance(value.get("text"), str):
            yield Value(key=f"{key}:text", text=normal(value["text"]), space=value["text"])
    elif "code" in value:
        yield Value(key=key, text=_text(value["code"]), space=_text(value.get("system")))
        if isinstance(value.get("display"), str):
            yield Value(key=f"{key}:text", text=normal(value["display"]), space=value["display"])
    elif "value" in value:
        yield from _identifier(key, value)


def _identifier(key: str, value: Mapping[str, Any]) -> Iterator[Value]:
    """An Identifier, or a ContactPoint, whose system says how it is reached and is no namespace."""
    text = _text(value["value"])
    is_namespace = ":" in _text(value.get("system"))
    yield Value(key=key, text=text, space=_text(value.get("system")) if is_namespace else "")
    kind = value.get("type")
    if isinstance(kind, dict):
        for coding in kind.get("coding") or ():
            if isinstance(coding, dict):
                of = f"{_text(coding.get('system'))}|{_text(coding.get('code'))}|{text}"
                yield Value(key=f"{key}:of-type", text=of)
        if isinstance(kind.get("text"), str):
            yield Value(key=f"{key}:text", text=normal(kind["text"]), space=kind["text"])


def _strings(parameter: Parameter, value: Any, root: str) -> Iterator[Value]:
    if isinstance(value, dict):
        for inner in value.values():
            for text in inner if isinstance(inner, list) else [inner]:
                if isinstance(text, str):
                    yield from _strings(parameter, text, root)
    elif isinstance(value, str):
        if parameter.name == "phonetic":
            for word in normal(value).split():
                if sound := sound_of(word):
                    yield Value(key=parameter.key, text=sound, space=word)
        else:
            yield Value(key=parameter.key, text=normal(value), space=value)


def _references(parameter: Parameter, value: Any, root: str) -> Iterator[Value]:
    if isinstance(value, str):  # a canonical
        yield Value(key=parameter.key, text=value.partition("|")[0])
        return
    if not isinstance(value, dict):
        return
    address = value.get("reference")
    if isinstance(address, str) and not address.startswith("#"):
        text = relative(address, root)
        kind = text.partition("/")[0]
        # `patient` is `subject` where that is a patient; of an address elsewhere the server cannot know.
        if len(parameter.targets) != 1 or kind == parameter.targets[0] or f"/{parameter.targets[0]}/" in text:
            yield Value(key=parameter.key, text=text)
    if isinstance(value.get("identifier"), dict):
        told = value.get("type")
        if told is None or len(parameter.targets) != 1 or told == parameter.targets[0]:
            for one in _tokens(parameter, value["identifier"], root):
                if one.key == parameter.key:
                    yield Value(key=f"{parameter.key}:identifier", text=one.text, space=one.space)


def _dates(parameter: Parameter, value: Any, root: str) -> Iterator[Value]:
    if isinstance(value, str):
        if (found := range_of(value)) is not None:
            yield Value(key=parameter.key, low=found[0], high=found[1])
    elif isinstance(value, dict) and ("start" in value or "end" in value):
        low = range_of(_text(value.get("start"))) or (BEGINNING, BEGINNING)
        high = range_of(_text(value.get("end"))) or (END, END)
        yield Value(key=parameter.key, low=low[0], high=high[1])
    elif isinstance(value, dict) and isinstance(value.get("event"), list):
        ranges = [found for text in value["event"] if (found := range_of(_text(text))) is not None]
        if ranges:
            yield Value(key=parameter.key, low=min(one[0] for one in ranges), high=max(one[1] for one in ranges))


def _numbers(parameter: Parameter, value: Any, root: str) -> Iterator[Value]:
    if isinstance(value, int | Decimal) and not isinstance(value, bool):
        yield Value(key=parameter.key, low=float(value), high=float(value))


def _quantities(parameter: Parameter, value: Any, root: str) -> Iterator[Value]:
    if not isinstance(value, dict):
        return
    low, high = value.get("low"), value.get("high")
    if isinstance(low, dict) or isinstance(high, dict):
        of = low if isinstance(low, dict) else high
        assert isinstance(of, dict)
        begin = _number(low.get("value")) if isinstance(low, dict) else None
        end = _number(high.get("value")) if isinstance(high, dict) else None
        bounds = (BEGINNING if begin is None else begin, END if end is None else end)
    elif (number := _number(value.get("value"))) is not None:
        of, bounds = value, (number, number)
    else:
        return
    if "currency" in value:
        yield Value(key=parameter.key, text=_text(value["currency"]), space=_CURRENCIES, low=bounds[0], high=bounds[1])
        return
    code, unit = _text(of.get("code")), _text(of.get("unit"))
    yield Value(key=parameter.key, text=code, space=_text(of.get("system")), low=bounds[0], high=bounds[1])
    if unit and unit != code:
        yield Value(key=parameter.key, text=unit, low=bounds[0], high=bounds[1])


def _uris(parameter: Parameter, value: Any, root: str) -> Iterator[Value]:
    if isinstance(value, str):
        yield Value(key=parameter.key, text=value)


def _text(value: Any) -> str:
    return value if isinstance(value, str) else ""


def _number(value: Any) -> float | None:
    return float(value) if isinstance(value, int | Decimal) and not isinstance(value, bool) else None


_READERS: Mapping[str, Callable[[Parameter, Any, str], Iterator[Value]]] = {
    "token": _tokens,
    "string": _strings,
    "reference": _references,
    "date": _dates,
    "number": _numbers,
    "quantity": _quantities,
    "uri": _uris,
}
