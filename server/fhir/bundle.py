"""Batches and transactions (FHIR R4 3.1.0.11)."""

from __future__ import annotations

import re
from base64 import b64decode
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from email.utils import parsedate_to_datetime
from typing import Any
from urllib.parse import parse_qsl, unquote

from readingroom.errors import Invalid, NotSelective, ReadingRoomError, ReadOnly
from server.auth import Caller
from server.fhir import searching
from server.fhir.interactions import Answer, Interaction, is_write, perform, same_as
from server.fhir.outcome import BadResource, BrokenRule, Issue, issues_of, outcome, placed
from server.fhir.patching import Patch, fhirpath_patch, json_patch
from server.fhir.registry import REGISTRY
from server.fhir.session import Session, reading, writing
from server.fhir.shown import instant
from server.fhir.types import Resource
from server.room import Room
from server.status import http_status

MOST_ENTRIES = 5000
_ORDER = {"DELETE": 0, "POST": 1, "PUT": 2, "PATCH": 2, "GET": 3, "HEAD": 3}
_REFERENCE = re.compile(r"(?:[A-Za-z][A-Za-z0-9+.-]*://[^\s?#]+/)?([A-Z][A-Za-z]+)/([A-Za-z0-9.-]{1,64})")
_VERSION = re.compile(r'(?:W/)?"(\d{1,9})"')
_CONDITIONAL = re.compile(r"([A-Z][A-Za-z]+)\?(.+)")
_IN_NARRATIVE = re.compile(r'(href|src)="([^"]+)"')


@dataclass(frozen=True, slots=True, kw_only=True)
class _Entry:
    """One entry: its place in the Bundle, what it asks, and by which address others in the Bundle refer to it."""

    index: int
    asked: Interaction
    full_url: str = ""

    @property
    def expression(self) -> str:
        """Where it stands."""
        return f"Bundle.entry[{self.index}]"


def perform_bundle(room: Room, caller: Caller, bundle: Resource, *, prefers: str | None = None) -> Resource:
    """Do what a Bundle asks.

    Of a transaction all is done or nothing; each entry of a batch stands for itself.

    Raises
    ------
    ReadingRoomError
        It is no Bundle to be done; or, of a transaction, an entry cannot be done: the issues say which.
    """
    if bundle.get("resourceType") != "Bundle" or bundle.get("type") not in ("batch", "transaction"):
        raise Invalid("What is posted here is a Bundle of type batch or transaction.")
    entries = [_entry(index, told) for index, told in enumerate(_list(bundle.get("entry")))]
    if len(entries) > MOST_ENTRIES:
        raise Invalid(f"A Bundle may have {MOST_ENTRIES} entries.")
    kind = bundle["type"]
    if kind == "batch":
        told = [_alone(room, caller, entry, prefers) for entry in entries]
    else:
        told = _together(room, caller, entries, prefers)
    return {"resourceType": "Bundle", "type": f"{kind}-response", **({"entry": told} if told else {})}


# -- what is asked -----------------------------------------------------------------------------------------------------


def version_of(tag: str | None) -> int | None:
    """The version that an If-Match names; raises `Invalid` where it names none."""
    if tag is None:
        return None
    found = _VERSION.fullmatch(tag.strip())
    if found is None:
        raise Invalid('If-Match has to be the version that was read, such as W/"3".')
    return int(found[1])


def split(url: str) -> tuple[tuple[str, ...], list[tuple[str, str]]]:
    """The parts of a path below the service root, and its query."""
    path, _mark, query = url.partition("?")
    return tuple(unquote(part) for part in path.strip("/").split("/") if part), parse_qsl(query, keep_blank_values=True)


def _list(value: Any) -> list[Any]:
    if value is None:
        return []
    if not isinstance(value, list):
        raise Invalid("Bundle.entry is a list.")
    return value


def _entry(index: int, told: Any) -> _Entry:
    expression = f"Bundle.entry[{index}]"
    request = told.get("request") if isinstance(told, dict) else None
    if not isinstance(request, dict) or not all(isinstance(request.get(name), str) for name in ("method", "url")):
        raise BadResource([Issue(code="required", diagnostics="An entry has a request.", expression=expression)])
    method, resource = request["method"], told.get("resource")
    if method not in _ORDER:
        issue = Issue(code="value", diagnostics="The method is one of GET, HEAD, POST, PUT, PATCH, DELETE.")
        raise BadResource([replace(issue, expression=f"{expression}.request.method")])
    if resource is not None and not isinstance(resource, dict):
        raise BadResource([Issue(diagnostics="A resource is an object.", expression=f"{expression}.resource")])
    for name in ("ifMatch", "ifNoneMatch", "ifNoneExist"):
        if not isinstance(request.get(name, ""), str):
            issue = Issue(code="structure", diagnostics=f"{name} is a text.", expression=f"{expression}.request.{name}")
            raise BadResource([issue])
    path, query = split(request["url"])
    full_url = told.get("fullUrl")
    patch = _patch(resource) if method == "PATCH" and resource is not None else None
    asked = Interaction(
        method="GET" if method == "HEAD" else method,
        path=path,
        query=query,
        resource=None if patch is not None else resource,
        patch=patch,
        if_match=version_of(request.get("ifMatch")),
        if_none_match=request.get("ifNoneMatch"),
        if_modified_since=_time(request.get("ifModifiedSince")),
        if_none_exist=request.get("ifNoneExist"),
    )
    return _Entry(index=index, asked=asked, full_url=full_url if isinstance(full_url, str) else "")


def _time(text: Any) -> datetime | None:
    if not isinstance(text, str):
        return None
    try:
        return datetime.fromisoformat(text)
    except ValueError:
        try:
            return parsedate_to_datetime(text)
        except ValueError:
            raise Invalid("ifModifiedSince has to be a time.") from None


def _patch(resource: Resource) -> Patch:
    if resource.get("resourceType") == "Parameters":
        return fhirpath_patch(resource)
    if resource.get("resourceType") == "Binary" and "json-patch" in str(resource.get("contentType")):
        try:
            return json_patch(b64decode(str(resource.get("data") or ""), validate=True))
        except ValueError:
            raise Invalid("The data of the Binary is no base64.") from None
    raise Invalid("A patch is a Parameters resource, or a Binary of application/json-patch+json.")


# -- a batch -----------------------------------------------------------------------------------------------------------


def _alone(room: Room, caller: Caller, entry: _Entry, prefers: str | None) -> dict[str, Any]:
    try:
        if is_write(entry.asked.method, entry.asked.path):
            with writing(room, caller) as session:
                answer = perform(session, entry.asked)
                return _told(answer, entry, prefers)
        with room.engine.connect() as connection:
            answer = perform(reading(room, caller, connection), entry.asked)
            return _told(answer, entry, prefers)
    except ReadingRoomError as error:
        return {"response": {"status": str(http_status(error)), "outcome": outcome(issues_of(error))}}


# -- a transaction -----------------------------------------------------------------------------------------------------


def _together(room: Room, caller: Caller, entries: Sequence[_Entry], prefers: str | None) -> list[dict[str, Any]]:
    told: dict[int, dict[str, Any]] = {}
    with writing(room, caller) as session:
        for entry in sorted(_linked(session, entries), key=lambda entry: _ORDER[entry.asked.method]):
            with placed(entry.expression):
                told[entry.index] = _told(perform(session, entry.asked), entry, prefers)
    return [told[index] for index in range(len(entries))]


def _linked(session: Session, entries: Sequence[_Entry]) -> Iterator[_Entry]:
    """The entries with their ids, and what they refer to each other by replaced by these."""
    named: list[_Entry] = []
    addresses: dict[str, str] = {}
    for entry in entries:
        with placed(entry.expression):
            entry = _named(session, entry)
        asked = entry.asked
        resource = asked.resource or {}
        if asked.method in ("POST", "PUT") and entry.full_url and resource.get("id") and len(asked.path) <= 2:
            if entry.full_url in addresses:
                raise Invalid(f"{entry.expression}: another entry has the same fullUrl.")
            addresses[entry.full_url] = f"{resource['resourceType']}/{resource['id']}"
        named.append(entry)
    _require_apart(named)
    known: dict[str, str] = {}
    for entry in named:
        if entry.asked.resource is None or not is_write(entry.asked.method, entry.asked.path):
            yield entry
            continue
        with placed(entry.expression):
            links = _Links(session, addresses, entry.full_url, known)
            yield replace(entry, asked=replace(entry.asked, resource=links.rewritten(entry.asked.resource)))


def _named(session: Session, entry: _Entry) -> _Entry:
    """The entry as one whose id is known before anything is written."""
    asked = entry.asked
    if asked.resource is None or len(asked.path) != 1:
        return entry
    name = asked.path[0]
    type = REGISTRY.get(name)
    if type is None or asked.resource.get("resourceType") != name:
        return entry
    if type.read_only_because:
        if asked.method != "POST":
            return entry
        if (same := same_as(session, type, asked.resource)) is None:
            raise ReadOnly(f"{name} cannot be written, and nothing here is the same: {type.read_only_because}")
        return replace(entry, asked=replace(asked, resource={**asked.resource, "id": same}))
    condition = asked.if_none_exist if asked.method == "POST" else searching.encoded(asked.query)
    found = searching.ids_of(session, name, condition, limit=2) if condition else []
    if len(found) > 1:
        raise NotSelective(f"More than one {name} meets the condition; nothing was written.")
    if asked.method == "POST":
        id = found[0] if found else type.new_id(session, asked.resource)
    elif asked.method == "PUT":
        id = found[0] if found else asked.resource.get("id") or type.new_id(session, asked.resource)
    else:
        return entry
    return replace(entry, asked=replace(asked, resource={**asked.resource, "id": id}, chosen_id=id))


def _require_apart(entries: Sequence[_Entry]) -> None:
    """Raise `Invalid` where two entries would write one resource (bdl: "identities overlap", 3.1.0.11.2)."""
    seen: dict[tuple[str, ...], int] = {}
    for entry in entries:
        asked = entry.asked
        path: tuple[str, ...] = asked.path
        if asked.chosen_id is not None:
            path = (*path[:1], asked.chosen_id)
        if asked.method in ("GET", "HEAD") or len(path) != 2:
            continue
        if path in seen and not (asked.method == "POST"):
            raise Invalid(f"Entries {seen[path]} and {entry.index} of the Bundle write the same resource.")
        seen[path] = entry.index


class _Links:
    """Replaces what the entries of a transaction refer to each other by."""

    def __init__(self, session: Session, addresses: Mapping[str, str], full_url: str, known: dict[str, str]) -> None:
        self._session = session
        self._addresses = addresses
        self._known = known
        found = _REFERENCE.fullmatch(full_url)
        self._base = full_url[: found.start(1)] if found else ""

    def rewritten(self, value: Any, name: str = "") -> Any:
        """A value with each link in it replaced."""
        if isinstance(value, dict):
            return {key: self.rewritten(inner, key) for key, inner in value.items()}
        if isinstance(value, list):
            return [self.rewritten(inner, name) for inner in value]
        if not isinstance(value, str):
            return value
        if name == "div":
            return _IN_NARRATIVE.sub(lambda found: f'{found[1]}="{self._addresses.get(found[2], found[2])}"', value)
        if name == "reference":
            return self._reference(value)
        return self._addresses.get(value, value) if value.startswith(("urn:", "http:", "https:")) else value

    def _reference(self, value: str) -> str:
        address, mark, fragment = value.partition("#")
        if not address:
            return value
        found = self._addresses.get(address) or (self._base and self._addresses.get(self._base + address))
        if found:
            return found + mark + fragment
        if address.startswith(("urn:uuid:", "urn:oid:")):
            raise BrokenRule([Issue(code="not-found", diagnostics="No entry of the Bundle has the fullUrl of a link.")])
        conditional = _CONDITIONAL.fullmatch(address)
        if conditional is None:
            return value
        if address not in self._known:
            ids = searching.ids_of(self._session, conditional[1], conditional[2], limit=2)
            if len(ids) != 1:
                number = "no" if not ids else "more than one"
                raise NotSelective(f"A conditional reference is met by {number} {conditional[1]}.")
            self._known[address] = f"{conditional[1]}/{ids[0]}"
        return self._known[address]


# -- what is answered --------------------------------------------------------------------------------------------------


def _told(answer: Answer, entry: _Entry, prefers: str | None) -> dict[str, Any]:
    response: dict[str, Any] = {"status": str(answer.status)}
    told: dict[str, Any] = {}
    if answer.location:
        response["location"] = answer.location
    if answer.shown is not None:
        response |= {"etag": answer.shown.etag, "lastModified": instant(answer.shown.updated_at)}
        is_wanted = prefers == "representation" or not is_write(entry.asked.method, entry.asked.path)
        if is_wanted and not answer.shown.is_deleted and answer.status != 304:
            told["resource"] = answer.shown
    elif answer.body is not None:
        told["resource"] = answer.body
    if prefers == "OperationOutcome" or answer.issues:
        response["outcome"] = outcome(answer.issues)
    return {**told, "response": response}
