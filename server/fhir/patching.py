"""Changes to a resource instead of a new one: JSON Patch (RFC 6902) and FHIRPath Patch (FHIR R4 fhirpatch.html).

Both are lists of operations that are done one after the other on a copy; the first that cannot be done ends it, and
nothing is changed. Whether the result is a resource is for `check_resource` to say.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, MutableMapping, Sequence
from dataclasses import dataclass
from typing import Any

from readingroom.errors import Invalid, Unprocessable
from server.fhir.definitions import PRIMITIVES, Property, type_of
from server.fhir.fhirpath import BadPath, Node, Path, members, read_path
from server.fhir.outcome import BadResource, BrokenRule
from server.fhir.parsing import read_json, structure_issues
from server.fhir.validation import check_resource

MAX_OPERATIONS = 200
MAX_COPIED = 8 << 20  # characters, and a few for each value


class BadPatch(Invalid):
    """A patch is none of RFC 6902, and no Parameters of FHIRPath Patch."""


class PatchFailed(Unprocessable):
    """An operation of a patch cannot be done on this resource, or changes what a patch may not change."""


@dataclass(slots=True)
class _Budget:
    """How much a patch may copy, so that it cannot double what it has doubled."""

    left: int = MAX_COPIED

    def spend(self, value: Any) -> None:
        self.left -= _weight(value)
        if self.left < 0:
            raise PatchFailed("the resource would be too large.")


type Operation = Callable[[Any, _Budget], Any]


@dataclass(frozen=True, slots=True)
class Patch:
    """What to do with a resource, in order: each takes the resource as values and returns it changed."""

    operations: Sequence[tuple[str, Operation]]


def json_patch(body: bytes) -> Patch:
    """The patch that a body of ``application/json-patch+json`` holds.

    Raises
    ------
    BadPatch
        It is no array of operations, or one of them is none; the message says which.
    BadResource
        It is no JSON.
    """
    listed = read_json(body)
    if not isinstance(listed, list) or not all(isinstance(each, dict) for each in listed):
        raise BadPatch("A JSON Patch is an array of operations.")
    return _patch([(f"Operation {n} ({_op(each)})", _json_operation(n, each)) for n, each in enumerate(listed, 1)])


def fhirpath_patch(parameters: Mapping[str, Any]) -> Patch:
    """The patch that a Parameters resource holds.

    Raises
    ------
    BadPatch
        It is no Parameters of operations, or one of them is none; the message says which.
    """
    issues = check_resource(parameters, type="Parameters")
    issues = [issue for issue in issues if issue.code != "not-found"]  # what is contained is in the resource
    if issues:
        raise BadResource(issues)
    listed = parameters.get("parameter", [])
    if not listed or any(each["name"] != "operation" for each in listed):
        raise BadPatch("A FHIRPath Patch is a Parameters resource with parameters named operation.")
    return _patch([_path_operation(n, each.get("part", [])) for n, each in enumerate(listed, 1)])


def patched(resource: Mapping[str, Any], patch: Patch) -> dict[str, Any]:
    """The resource with a patch done; `resource` stays as it is.

    Elements that are left empty are taken away, since FHIR has none.

    Raises
    ------
    PatchFailed
        An operation cannot be done, a ``test`` fails, or the type, id or version would be another; nothing is done.
    BrokenRule
        What comes out has what FHIR's JSON never holds.
    """
    changed: Any = _copied(resource)
    budget = _Budget()
    for name, operation in patch.operations:
        try:
            changed = operation(changed, budget)
        except (PatchFailed, BadPath) as error:
            raise PatchFailed(f"{name} cannot be done: {error.message}") from None
        except RecursionError:
            raise PatchFailed(f"{name} makes the resource too deep.") from None
    if not isinstance(changed, dict) or any(_head(changed, *names) != _head(resource, *names) for names in _KEPT):
        raise PatchFailed("A patch changes no resourceType, id, versionId and lastUpdated.")
    try:
        _prune(changed)
    except RecursionError:
        raise PatchFailed("The patch makes the resource too deep.") from None
    if issues := structure_issues(changed):
        raise BrokenRule(issues)
    return changed


_KEPT = (("resourceType",), ("id",), ("meta", "versionId"), ("meta", "lastUpdated"))


def _head(resource: Any, *names: str) -> Any:
    for name in names:
        resource = resource.get(name) if isinstance(resource, dict) else None
    return resource


def _patch(operations: list[tuple[str, Operation]]) -> Patch:
    if len(operations) > MAX_OPERATIONS:
        raise BadPatch(f"A patch has at most {MAX_OPERATIONS} operations.")
    return Patch(operations)


def _copied(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {name: _copied(each) for name, each in value.items()}
    return [_copied(each) for each in value] if isinstance(value, list) else value


def _prune(value: Any, *, is_beside: bool = False) -> None:
    """Take empty objects and arrays out, from the inside; beside values, null keeps their places."""
    if isinstance(value, dict):
        for name, each in list(value.items()):
            if isinstance(each, dict | list):
                _prune(each, is_beside=name.startswith("_"))
                if not each:
                    del value[name]
        return
    for each in value:
        if isinstance(each, dict | list):
            _prune(each)
    value[:] = [None if each in ({}, []) else each for each in value if is_beside or each not in ({}, [])]
    if all(each is None for each in value):
        value.clear()


# JSON Patch

_JSON_OPERATIONS = frozenset({"add", "remove", "replace", "move", "copy", "test"})
_WITH_VALUE = frozenset({"add", "replace", "test"})
_WITH_FROM = frozenset({"move", "copy"})
_ABSENT = object()


def _op(given: Mapping[str, Any]) -> str:
    op = given.get("op")
    return op if isinstance(op, str) and op in _JSON_OPERATIONS else "?"


def _json_operation(number: int, given: Mapping[str, Any]) -> Operation:
    op = _op(given)
    if op == "?":
        raise BadPatch(f"Operation {number} has an op of {', '.join(sorted(_JSON_OPERATIONS))}.")
    path = _pointer(number, given, "path")
    if op in _WITH_VALUE and "value" not in given:
        raise BadPatch(f"Operation {number} ({op}) has a value.")
    value = given.get("value")
    start = _pointer(number, given, "from") if op in _WITH_FROM else ()
    if op == "move" and path[: len(start)] == start and len(path) > len(start):
        raise BadPatch(f"Operation {number} (move) moves nothing into itself.")

    def operate(document: Any, budget: _Budget) -> Any:
        match op:
            case "add":
                return _put(document, path, _copied(value), is_new=True)
            case "replace":
                _found(document, path)
                return _put(document, path, _copied(value), is_new=False)
            case "remove":
                _take(document, path)
            case "test":
                if not _is_same(_found(document, path), value):
                    raise PatchFailed("the value there is another.")
            case "copy":
                original = _found(document, start)
                budget.spend(original)
                return _put(document, path, _copied(original), is_new=True)
            case "move":
                if path == start:
                    _found(document, start)
                else:
                    return _put(document, path, _take(document, start), is_new=True)
        return document

    return operate


def _pointer(number: int, given: Mapping[str, Any], name: str) -> tuple[str, ...]:
    """The steps of a JSON Pointer (RFC 6901)."""
    text = given.get(name)
    if not isinstance(text, str) or (text and not text.startswith("/")) or "~" in _unescaped(text, "0", "1"):
        raise BadPatch(f"Operation {number} has a {name}, a JSON Pointer such as /name/0/family.")
    return tuple(part.replace("~1", "/").replace("~0", "~") for part in text.split("/")[1:])


def _unescaped(text: str, *escapes: str) -> str:
    for each in escapes:
        text = text.replace(f"~{each}", "")
    return text


def _found(document: Any, path: Sequence[str]) -> Any:
    for step in path:
        if isinstance(document, dict) and step in document:
            document = document[step]
        elif isinstance(document, list):
            document = document[_index(step, len(document) - 1)]
        else:
            raise PatchFailed("there is nothing at its path.")
    return document


def _index(step: str, most: int) -> int:
    if not step.isascii() or not step.isdigit() or (step[0] == "0" and step != "0") or len(step) > 9:
        raise PatchFailed("the index of an array is a number from 0, without zeros before it.")
    if int(step) > most:
        raise PatchFailed("there is nothing at its path.")
    return int(step)


def _put(document: Any, path: Sequence[str], value: Any, *, is_new: bool) -> Any:
    if not path:
        return value
    holder, last = _found(document, path[:-1]), path[-1]
    if isinstance(holder, dict):
        holder[last] = value
    elif isinstance(holder, list) and is_new:
        holder.insert(len(holder) if last == "-" else _index(last, len(holder)), value)
    elif isinstance(holder, list):
        holder[_index(last, len(holder) - 1)] = value
    else:
        raise PatchFailed("there is nothing at its path.")
    return document


def _take(document: Any, path: Sequence[str]) -> Any:
    if not path:
        raise PatchFailed("the whole resource cannot be taken away.")
    value = _found(document, path)
    holder = _found(document, path[:-1])
    if isinstance(holder, dict):
        del holder[path[-1]]
    else:
        del holder[int(path[-1])]
    return value


def _weight(value: Any) -> int:
    if isinstance(value, dict):
        return sum(len(name) + _weight(each) for name, each in value.items()) + 8
    if isinstance(value, list):
        return sum(_weight(each) for each in value) + 8
    return len(value) if isinstance(value, str) else 8


def _is_same(one: Any, other: Any) -> bool:
    """Equality of JSON (RFC 6902 4.6): numbers by value, and never equal to true or false."""
    if isinstance(one, bool) or isinstance(other, bool):
        return one is other
    if isinstance(one, dict) and isinstance(other, dict):
        return one.keys() == other.keys() and all(_is_same(each, other[name]) for name, each in one.items())
    if isinstance(one, list) and isinstance(other, list):
        return len(one) == len(other) and all(map(_is_same, one, other))
    return bool(one == other)


# FHIRPath Patch


@dataclass(frozen=True, slots=True)
class _Value:
    """A value of a type: of a data type, or the parts of an element that has no name of its own."""

    type: str
    value: Any
    beside: Any = None


def _path_operation(number: int, parts: Sequence[Mapping[str, Any]]) -> tuple[str, Operation]:
    given = {part["name"]: part for part in parts}
    kind = _plain(given, "type")
    name = f"Operation {number} ({kind if kind in _PATH_OPERATIONS else '?'})"
    if kind not in _PATH_OPERATIONS or len(given) < len(parts):
        raise BadPatch(f"{name} has a type of {', '.join(sorted(_PATH_OPERATIONS))}, and each part once.")
    needed, operate = _PATH_OPERATIONS[kind]
    if missing := [part for part in ("path", *needed) if part not in given]:
        raise BadPatch(f"{name} lacks its {missing[0]}.")
    for each in ("index", "source", "destination"):
        at = _plain(given, each)
        if each in given and not (isinstance(at, int) and not isinstance(at, bool) and at >= 0):
            raise BadPatch(f"{name} has a valueInteger from 0 as its {each}.")
    if not isinstance(_plain(given, "path"), str) or ("name" in given and not isinstance(_plain(given, "name"), str)):
        raise BadPatch(f"{name} has a valueString as its path and name.")
    try:
        path = read_path(_plain(given, "path"))
    except BadPath as error:
        raise BadPatch(f"{name} cannot be read: {error.message}") from None
    return name, lambda resource, _: operate(resource, path, given)


def _plain(given: Mapping[str, Any], name: str) -> Any:
    """The value of a part that is of a primitive type; None where there is none."""
    value = next((value for key, value in given.get(name, {}).items() if key.startswith("value")), None)
    return None if isinstance(value, dict) else value


def _value_of(part: Mapping[str, Any]) -> _Value:
    for key in part:
        name = key.removeprefix("_")
        if name.startswith("value"):
            member = type_of("Parameters.parameter").properties[name]
            return _Value(member.type, part.get(name), part.get(f"_{name}"))
    if "resource" in part:
        return _Value("Resource", part["resource"])
    return _Value("", part.get("part", []))


def _made(value: _Value, member: Property) -> tuple[Any, Any]:
    """The value, and what lies beside it, as the element wants it."""
    if value.type:
        if value.type != ("Quantity" if member.type == "SimpleQuantity" else member.type):
            raise PatchFailed(f"the value is of type {member.type}.")
        return _copied(value.value), _copied(value.beside)
    if member.is_primitive or member.type == "Resource":
        raise PatchFailed(f"the value is of type {member.type}, and has no parts.")
    made: dict[str, Any] = {}
    for part in value.value:
        node = Node(value=made, type=member.type)
        _append(node, part["name"], _value_of(part))
    return made, None


def _member_for(able: Sequence[Property], value: _Value) -> Property:
    """Which of the members that an element may be in JSON takes a value."""
    exact = [each for each in able if value.type == ("Quantity" if each.type == "SimpleQuantity" else each.type)]
    if not exact and value.type and len(able) > 1:
        raise PatchFailed(f"the value is of type {' or '.join(each.type for each in able[:20])}.")
    if not value.type and len(able) > 1:
        raise PatchFailed("the value of an element with [x] says its type.")
    return (exact or able)[0]


def _holder(node: Node) -> MutableMapping[str, Any]:
    """The object that has the members of an element; for a primitive one, what lies beside it."""
    if node.type not in PRIMITIVES:
        return node.value  # type: ignore[no-any-return]
    if node.beside is not None:
        return node.beside  # type: ignore[no-any-return]
    made: dict[str, Any] = {}
    if node.member is None:
        raise PatchFailed("there is no such element.")
    if node.index is None:
        node.holder[f"_{node.member.name}"] = made
    else:
        _beside_all(node.holder, node.member.name)[node.index] = made
    return made


def _beside_all(holder: Any, name: str) -> list[Any]:
    """The array beside that of the values of a primitive element, as long as that."""
    besides: list[Any] = holder.setdefault(f"_{name}", [])
    values = holder.setdefault(name, [])
    size = max(len(values), len(besides))
    besides.extend([None] * (size - len(besides)))
    values.extend([None] * (size - len(values)))
    return besides


def _append(node: Node, name: str, value: _Value) -> None:
    """Give an element a value: after others where it repeats, else where there was none."""
    member = _member_for(members(node, name), value)
    holder = _holder(node)
    if member.is_list:
        _insert(holder, member, None, value)
        return
    if any(each.name in holder or f"_{each.name}" in holder for each in members(node, name)):
        raise PatchFailed("the element is there, and comes once; replace it.")
    _set(holder, member, *_made(value, member))


def _set(holder: Any, member: Property, made: Any, beside: Any) -> None:
    for key, each in ((member.name, made), (f"_{member.name}", beside)):
        if each is None:
            holder.pop(key, None)
        else:
            holder[key] = each


def _insert(holder: Any, member: Property, index: int | None, value: _Value) -> None:
    made, beside = _made(value, member)
    values = holder.setdefault(member.name, [])
    if f"_{member.name}" in holder or beside is not None:
        besides = _beside_all(holder, member.name)
        besides.insert(len(values) if index is None else index, beside)
    if index is not None and index > len(values):
        raise PatchFailed(f"the index is at most {len(values)}.")
    values.insert(len(values) if index is None else index, made)


def _one(resource: Any, path: Path) -> Node:
    found = path.nodes(resource)
    if len(found) != 1:
        raise PatchFailed(f"the path leads to {len(found)} elements, not to one.")
    return found[0]


def _add(resource: Any, path: Path, given: Mapping[str, Any]) -> Any:
    _append(_one(resource, path), _plain(given, "name"), _value_of(given["value"]))
    return resource


def _collection(resource: Any, path: Path) -> tuple[Node, str]:
    before, name = path.split()
    return _one(resource, before), name


def _insert_at(resource: Any, path: Path, given: Mapping[str, Any]) -> Any:
    node, name = _collection(resource, path)
    value = _value_of(given["value"])
    member = _member_for(members(node, name), value)
    if not member.is_list:
        raise PatchFailed("the element comes once; add or replace it.")
    _insert(_holder(node), member, _plain(given, "index"), value)
    return resource


def _delete(resource: Any, path: Path, given: Mapping[str, Any]) -> Any:
    found = path.nodes(resource)
    if not found:
        return resource
    node = _one(resource, path)
    if node.member is None:
        raise PatchFailed("the whole resource cannot be taken away.")
    for name in (node.member.name, f"_{node.member.name}"):
        if node.index is None:
            node.holder.pop(name, None)
        elif node.index < len(node.holder.get(name, ())):
            del node.holder[name][node.index]
    return resource


def _replace(resource: Any, path: Path, given: Mapping[str, Any]) -> Any:
    node = _one(resource, path)
    if node.member is None:
        raise PatchFailed("the whole resource cannot be replaced.")
    value = _value_of(given["value"])
    member = _member_for(node.options, value)
    made, beside = _made(value, member)
    if node.index is None:  # with another type, a value[x] has another name
        _set(node.holder, node.member, None, None)
        _set(node.holder, member, made, beside)
        return resource
    if f"_{member.name}" in node.holder or beside is not None:
        _beside_all(node.holder, member.name)[node.index] = beside
    node.holder[member.name][node.index] = made
    return resource


def _move(resource: Any, path: Path, given: Mapping[str, Any]) -> Any:
    node, name = _collection(resource, path)
    (member, *_) = members(node, name)
    source, destination = _plain(given, "source"), _plain(given, "destination")
    holder = _holder(node)
    values = holder.get(member.name)
    if not isinstance(values, list) or source >= len(values) or destination >= len(values):
        raise PatchFailed("source and destination are indices of the list that the path leads to.")
    if f"_{member.name}" in holder:
        besides = _beside_all(holder, member.name)
        besides.insert(destination, besides.pop(source))
    values.insert(destination, values.pop(source))
    return resource


_PATH_OPERATIONS: Mapping[str, tuple[tuple[str, ...], Callable[[Any, Path, Mapping[str, Any]], Any]]] = {
    "add": (("name", "value"), _add),
    "insert": (("value", "index"), _insert_at),
    "delete": ((), _delete),
    "replace": (("value",), _replace),
    "move": (("source", "destination"), _move),
}
