"""The interactions of the RESTful API (FHIR R4 3.1.0), each a plain function in one transaction.

A request and an entry of a Bundle are both an `Interaction`, and both go through `perform`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Literal

from readingroom.errors import Changed, Gone, Invalid, NotFound, NotSelective, ReadOnly, Refused
from server.fhir import history, operations, patching, searching
from server.fhir.access import limit_of, require
from server.fhir.outcome import BrokenRule, Issue
from server.fhir.parsing import dump_json
from server.fhir.registry import REGISTRY
from server.fhir.search import is_allowed
from server.fhir.session import Session
from server.fhir.shown import Shown
from server.fhir.types import Resource, ResourceType
from server.fhir.validation import check_resource
from server.scopes import Letter, require_facility
from storage.catalog.engine import hold_name

Pairs = Sequence[tuple[str, str]]
Return = Literal["minimal", "representation", "OperationOutcome"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Interaction:
    """One request, or one entry of a Bundle.

    `path` is what follows the service root, by its parts; `rest` is the body as it was sent, without resourceType, id
    and meta, and `resource` the same as values.
    """

    method: str
    path: tuple[str, ...] = ()
    query: Pairs = ()
    resource: Resource | None = None
    rest: bytes | None = None
    patch: patching.Patch | None = None
    if_match: int | None = None
    if_none_match: str | None = None
    if_modified_since: datetime | None = None
    if_none_exist: str | None = None
    chosen_id: str | None = None
    """The id that a new resource gets: an entry of a transaction has it before it is written."""
    prefer: Return | None = None
    is_strict: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What becomes of an interaction: a version of a resource, or a body of its own."""

    status: int = 200
    shown: Shown | None = None
    body: Resource | None = None
    location: str | None = None
    issues: Sequence[Issue] = ()
    headers: Mapping[str, str] = field(default_factory=dict)


def perform(session: Session, asked: Interaction) -> Answer:
    """Do what is asked.

    Raises
    ------
    ReadingRoomError
        It cannot be done; nothing has been written that may stay.
    """
    if any("\0" in part for part in asked.path):
        raise Invalid("An address holds no NUL.")
    match asked.method, asked.path:
        case ("GET", ()) | ("POST", ("_search",)):
            return Answer(body=searching.search_all(session, asked.query, is_strict=asked.is_strict))
        case ("GET", ("_history",)):
            return Answer(body=history.of_all(session, asked.query))
        case (_, (*_, last)) if last.startswith("$"):
            return Answer(**operations.run(session, asked.method, asked.path, asked.query, asked.resource))
        case ("GET", (type,)) | ("POST", (type, "_search")):
            found = searching.search_type(session, _type(type).name, asked.query, is_strict=asked.is_strict)
            return Answer(body=found)
        case ("GET", (type, "_history")):
            return Answer(body=history.of_type(session, _type(type), asked.query))
        case ("GET", (type, id)):
            return read(session, _type(type), id, asked)
        case ("GET", (type, id, "_history")):
            return Answer(body=history.of_one(session, _type(type), id, asked.query))
        case ("GET", (type, id, "_history", version)):
            return read_version(session, _type(type), id, version)
        case ("POST", (type,)):
            return create(session, _type(type), asked)
        case ("PUT" | "PATCH" | "DELETE", (type,)):
            return _conditional(session, _type(type), asked)
        case ("PUT", (type, id)):
            return update(session, _type(type), id, asked)
        case ("PATCH", (type, id)):
            return patch(session, _type(type), id, asked)
        case ("DELETE", (type, id)):
            return delete(session, _type(type), id, asked)
    raise NotFound(f"There is no interaction {asked.method} {'/'.join(asked.path)[:80]}; /fhir/metadata lists them.")


def is_write(method: str, path: Sequence[str]) -> bool:
    """Whether an interaction may write."""
    if method == "POST" and path and path[-1].startswith("$"):
        return operations.is_write(path[-1])
    return method in ("PUT", "PATCH", "DELETE") or (method == "POST" and path[-1:] != ("_search",))


# -- reading -----------------------------------------------------------------------------------------------------------


def read(session: Session, type: ResourceType, id: str, asked: Interaction) -> Answer:
    """The current version (3.1.0.1); 304 where the client has it."""
    shown = current(session, type, id)
    if asked.if_none_match is not None and shown.etag in map(str.strip, asked.if_none_match.split(",")):
        return Answer(status=304, shown=shown)
    if (
        asked.if_none_match is None
        and asked.if_modified_since is not None
        and shown.updated_at.replace(microsecond=0) <= asked.if_modified_since
    ):
        return Answer(status=304, shown=shown)
    return Answer(shown=shown)


def current(session: Session, type: ResourceType, id: str) -> Shown:
    """The current version that the caller may read; raises `NotFound`, and `Gone` where it was deleted."""
    require(session, type.name, "r")
    found = type.read(session, (id,)) if is_allowed(session, type.name, id, "r") else []
    if len(found) > 1:
        raise NotSelective(f"Several facilities have a {type.name} of that id; ask below /fhir/f/FACILITY.")
    if not found:
        raise NotFound(f"There is no {type.name}/{id[:64]}.")
    if found[0].is_deleted:
        raise Gone(f"{type.name}/{id} was deleted; its history is at {type.name}/{id}/_history.")
    return found[0]


def read_version(session: Session, type: ResourceType, id: str, version: str) -> Answer:
    """One version (3.1.0.2); of resources that the caller may read but in part, the current one alone."""
    require(session, type.name, "r")
    shown = type.version(session, id, int(version)) if version.isdecimal() and len(version) < 10 else None
    if shown is not None and limit_of(session, type.name, "r") is not None:
        is_current = any(one.version == shown.version for one in type.read(session, (id,)))
        shown = shown if is_current and is_allowed(session, type.name, id, "r") else None
    if shown is None:
        raise NotFound(f"There is no version {version[:64]} of {type.name}/{id[:64]}, or it is not kept.")
    if shown.is_deleted:
        raise Gone(f"Version {version} of {type.name}/{id} says that it was deleted.")
    return Answer(shown=shown)


# -- writing -----------------------------------------------------------------------------------------------------------


def create(session: Session, type: ResourceType, asked: Interaction) -> Answer:
    """A new resource (3.1.0.8), unless one meets the condition that comes with it (3.1.0.8.1)."""
    if (same := same_as(session, type, asked.resource)) is not None:
        shown = current(session, type, same)
        return Answer(shown=shown, location=_location(session, shown))
    require(session, type.name, "c")
    resource, rest = _body(type, asked)
    condition = asked.if_none_exist
    if condition is None and asked.query:
        # Some clients put the condition into the address; to make a second resource would be worse than to look.
        condition = searching.encoded(asked.query)
    if condition is not None:
        hold_name(session.connection, f"fhir {type.name}")
        found = searching.ids_of(session, type.name, condition, limit=2)
        if len(found) > 1:
            raise NotSelective(f"More than one {type.name} meets the condition; nothing was written.")
        if found:
            shown = current(session, type, found[0])
            return Answer(shown=shown, location=_location(session, shown))
    return _create(session, type, resource, rest, asked.chosen_id)


def same_as(session: Session, type: ResourceType, resource: Resource | None) -> str | None:
    """The id of what a client would make that is here already, and of which the server alone makes resources.

    Whoever sends a report sends the ImagingStudy of its images with it (IHE RAD-141): that is the one of this archive.
    """
    condition = None if resource is None or not type.read_only_because else type.condition_of(resource)
    if condition is None:
        return None
    found = searching.ids_of(session, type.name, condition, limit=2)
    return found[0] if len(found) == 1 else None


def _create(
    session: Session, type: ResourceType, resource: Resource, rest: bytes, chosen_id: str | None = None
) -> Answer:
    _check(resource, type)
    session = replace(session, method="POST")
    shown = type.create(session, resource, rest, chosen_id or type.new_id(session, resource))
    require_written(session, shown, "c")
    return Answer(status=201, shown=shown, location=_location(session, shown))


def update(session: Session, type: ResourceType, id: str, asked: Interaction) -> Answer:
    """The next version of a resource, or the first under this id (3.1.0.4)."""
    require(session, type.name, "u")
    resource, rest = _body(type, asked)
    if id in (".", ".."):
        raise Invalid("The id is a step of a path, which clients and proxies walk before it comes here.")
    if resource.get("id") != id:
        raise Invalid(f"The id in the resource has to be the one in the address, {id[:64]!r}.")
    before = locked(session, type, id, "u")
    _check_match(type, id, before, asked)
    if before is None:
        # Of an id that the caller may not see nobody says whether it is taken.
        if limit_of(session, type.name, "u") is not None:
            raise NotFound(f"There is no {type.name}/{id[:64]}.")
        require_facility(session.scope, session.facility)
    if before is not None and asked.if_none_match == "*" and not before.is_deleted:
        raise Changed(f"There is a {type.name}/{id} already, and If-None-Match: * asks for a new one.")
    _check(resource, type)
    session = replace(session, if_match=asked.if_match)
    if before is None:
        shown = type.create(session, resource, rest, id)
    else:
        shown = type.update(session, before, resource, rest)
    require_written(session, shown, "u")
    is_new = before is None or before.is_deleted
    return Answer(status=201 if is_new else 200, shown=shown, location=_location(session, shown))


def patch(session: Session, type: ResourceType, id: str, asked: Interaction) -> Answer:
    """A change of parts of a resource (3.1.0.6)."""
    _writable(type)
    require(session, type.name, "r", "u")
    if asked.patch is None:
        raise Invalid("A patch is application/json-patch+json, or a Parameters resource of FHIRPath Patch.")
    before = locked(session, type, id, "r", "u")
    if before is None or before.is_deleted:
        current(session, type, id)
        raise NotFound(f"There is no {type.name}/{id[:64]}.")
    _check_match(type, id, before, asked)
    resource = patching.patched(before.resource, asked.patch)
    if resource.get("resourceType") != type.name or resource.get("id") != id:
        raise Invalid("A patch may not change resourceType or id.")
    _check(resource, type)
    rest = dump_json({name: value for name, value in resource.items() if name not in _HEAD})
    shown = type.update(replace(session, if_match=asked.if_match), before, resource, rest)
    require_written(session, shown, "u")
    return Answer(shown=shown, location=_location(session, shown))


def delete(session: Session, type: ResourceType, id: str, asked: Interaction) -> Answer:
    """Delete a resource (3.1.0.7); to delete what is not there is no error."""
    _writable(type)
    require(session, type.name, "d")
    before = locked(session, type, id, "d")
    _check_match(type, id, before, asked)
    if before is None or before.is_deleted:
        return Answer(status=204, shown=before)
    return Answer(status=204, shown=type.delete(replace(session, if_match=asked.if_match), before))


def _conditional(session: Session, type: ResourceType, asked: Interaction) -> Answer:
    """Update, patch or delete the one resource that meets a condition (3.1.0.4.3, 3.1.0.6.1, 3.1.0.7.1)."""
    _writable(type)
    if not asked.query:
        raise Invalid(f"Say which {type.name}: by its id, or by a search after the question mark.")
    hold_name(session.connection, f"fhir {type.name}")
    found = searching.ids_of(session, type.name, searching.encoded(asked.query), limit=2)
    if len(found) > 1:
        raise NotSelective(f"More than one {type.name} meets the condition; nothing was changed.")
    if asked.method == "DELETE":
        return delete(session, type, found[0], asked) if found else Answer(status=204)
    if asked.method == "PATCH":
        if not found:
            raise NotFound(f"No {type.name} meets the condition.")
        return patch(session, type, found[0], asked)
    resource, rest = _body(type, asked)
    own = resource.get("id")
    if found:
        if own not in (None, found[0]):
            raise Invalid(f"The {type.name} that meets the condition has another id than the one that was sent.")
        return update(session, type, found[0], replace(asked, resource={**resource, "id": found[0]}))
    require(session, type.name, "u")
    if own is not None:
        if locked(session, type, own, "u") is not None:
            raise Changed(f"There is a {type.name}/{own}, and it does not meet the condition.")
        return update(session, type, own, asked)
    return _create(session, type, resource, rest, asked.chosen_id)


_HEAD = ("resourceType", "id", "meta")


def locked(session: Session, type: ResourceType, id: str, *letters: Letter) -> Shown | None:
    """The current version of one, locked; None also where the caller may not do each of these with it."""
    before = type.lock(session, id)
    if before is None or not all(is_allowed(session, type.name, id, letter) for letter in letters):
        return None
    return before


def require_written(session: Session, shown: Shown, letter: Letter) -> None:
    """Raise `Refused` where what has been written is none that the caller may write; then nothing is kept."""
    if not is_allowed(session, shown.type, shown.id, letter):
        raise Refused(f"The token has scopes for some {shown.type} resources, and this would not be one of them.")


def _type(name: str) -> ResourceType:
    found = REGISTRY.get(name)
    if found is None:
        raise NotFound(f"Resources of type {name[:64]!r} are not kept here; /fhir/metadata lists those that are.")
    return found


def _writable(type: ResourceType) -> None:
    if type.read_only_because:
        raise ReadOnly(f"{type.name} cannot be written: {type.read_only_because}")


def _body(type: ResourceType, asked: Interaction) -> tuple[Resource, bytes]:
    _writable(type)
    resource, rest = asked.resource, asked.rest
    if resource is None:
        raise Invalid(f"The body has to be a {type.name}, and there is none.")
    if resource.get("resourceType") != type.name:
        raise Invalid(f"The body has to be a {type.name}, as the address says.")
    if rest is None:
        rest = dump_json({name: value for name, value in resource.items() if name not in _HEAD})
    return resource, rest


def _check(resource: Resource, type: ResourceType) -> None:
    issues = check_resource(resource, type=type.name)
    if any(issue.severity in ("fatal", "error") for issue in issues):
        raise BrokenRule(issues)


def _check_match(type: ResourceType, id: str, before: Shown | None, asked: Interaction) -> None:
    if asked.if_match is None:
        return
    if before is None or before.version != asked.if_match:
        held = "is not there" if before is None else f"has version {before.version}"
        raise Changed(f"{type.name}/{id[:64]} {held}, and If-Match asks for {asked.if_match}; read it again.")


def _location(session: Session, shown: Shown) -> str:
    return f"{session.root}/{shown.type}/{shown.id}/_history/{shown.version}"
