"""Histories: of one resource, of a type, of all (FHIR R4 3.1.0.14).

Who may see only some resources of a type sees of each the current version alone: what an earlier one said may be none
of theirs.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any
from urllib.parse import urlencode

from readingroom.errors import Invalid, NotFound, Refused
from server.fhir.access import FOR_EVERYBODY, limit_of, may, require
from server.fhir.registry import REGISTRY
from server.fhir.search import is_allowed, searcher_of
from server.fhir.session import Session
from server.fhir.shown import Shown, instant
from server.fhir.types import Resource, ResourceType
from server.scopes import Letter
from storage.catalog.fhir_conditions import Condition, Ids, Search, Sort, Updated

Pairs = Sequence[tuple[str, str]]
_Read = Callable[..., list[Shown]]

_USUAL = 50
_MOST = 500
_MOST_SKIPPED = 100_000
_CURSOR = re.compile(r"(\d{1,17})\.(\d{1,6})")


@dataclass(frozen=True, slots=True, kw_only=True)
class _Page:
    """Which page of a history; `until` and `skip` are where the one before it ended."""

    count: int
    since: datetime | None
    until: datetime | None
    skip: int
    asked: tuple[tuple[str, str], ...]


def of_one(session: Session, type: ResourceType, id: str, query: Pairs) -> Resource:
    """The history of one resource; raises `NotFound` where there is none."""
    require(session, type.name, "r")
    page = _page(query)

    def versions(**kwargs: Any) -> list[Shown]:
        return _versions(session, type, id, "r", **kwargs)

    found = _bundle(session, f"{type.name}/{id}/_history", page, versions)
    if not found.get("entry") and not (is_allowed(session, type.name, id, "r") and type.read(session, (id,))):
        raise NotFound(f"There is no {type.name}/{id[:64]}.")
    return found


def of_type(session: Session, type: ResourceType, query: Pairs) -> Resource:
    """The history of all resources of a type."""
    require(session, type.name, "s")

    def versions(**kwargs: Any) -> list[Shown]:
        return _versions(session, type, None, "s", **kwargs)

    return _bundle(session, f"{type.name}/_history", _page(query), versions)


def of_all(session: Session, query: Pairs) -> Resource:
    """The history of everything that the caller may search."""
    own = [type for type in REGISTRY.values() if type.name not in FOR_EVERYBODY]
    types = [type for type in own if may(session, type.name, "s")]
    if not types:
        raise Refused("The token has no scope for this; it would be system/*.s.")

    def versions(**kwargs: Any) -> list[Shown]:
        return [shown for type in types for shown in _versions(session, type, None, "s", **kwargs)]

    return _bundle(session, "_history", _page(query), versions)


def _versions(
    session: Session,
    type: ResourceType,
    id: str | None,
    letter: Letter,
    *,
    limit: int,
    until: datetime | None = None,
    since: datetime | None = None,
) -> list[Shown]:
    """Versions that the caller may see, the newest first."""
    if limit_of(session, type.name, letter) is None:
        return type.versions(session, id, limit=limit, until=until, since=since)
    held: list[Condition] = [] if id is None else [Ids(ids=(id,))]
    held += [] if since is None else [Updated(op="ge", low=since, high=since)]
    held += [] if until is None else [Updated(op="le", low=until, high=until)]
    newest = Sort(parameter="_lastUpdated", is_descending=True, is_text=False)
    search = Search(type=type.name, conditions=tuple(held), sort=(newest,), limit=limit)
    ids = [one.id for one in searcher_of(session, letter).page(search)]
    found = [one for one in type.read(session, ids) if not one.is_deleted]
    return sorted(found, key=lambda shown: shown.updated_at, reverse=True)


def _page(query: Pairs) -> _Page:
    count, since, until, skip = _USUAL, None, None, 0
    used = []
    for name, value in query:
        if name == "_count":
            if not (value.isdecimal() and len(value) < 9):
                raise Invalid("'_count' has to be a whole number, 0 or more.")
            count = min(int(value), _MOST)
        elif name in ("_since", "_at"):
            moment = _moment(name, value)
            since = moment if name == "_since" else since
            until = moment if name == "_at" else until
        elif name == "_page":
            found = _CURSOR.fullmatch(value)
            if found is None or int(found[2]) > _MOST_SKIPPED:
                raise Invalid("'_page' has to be one that a link of this server has.")
            try:
                until = datetime.fromtimestamp(int(found[1]) / 1_000_000, UTC)
            except (ValueError, OverflowError, OSError):
                raise Invalid("'_page' has to be one that a link of this server has.") from None
            skip = int(found[2])
            continue
        elif name == "_sort" and value in ("-_lastUpdated", "none"):
            pass
        elif name not in ("_format", "_pretty"):
            raise Invalid(f"A history has no parameter {name[:40]!r}; it has _count, _since and _at.")
        used.append((name, value))
    return _Page(count=count, since=since, until=until, skip=skip, asked=tuple(used))


def _moment(name: str, value: str) -> datetime:
    try:
        moment = datetime.fromisoformat(value.replace(" ", "+"))
        return moment.astimezone(UTC) if moment.tzinfo else moment.replace(tzinfo=UTC)
    except (ValueError, OverflowError):
        raise Invalid(f"{name!r} has to be a time with its zone, such as 2026-01-31T08:00:00Z.") from None


def _bundle(session: Session, path: str, page: _Page, versions: _Read) -> Resource:
    wanted = page.skip + page.count + 1
    found = versions(limit=wanted, until=page.until, since=page.since)
    # Stable: those of one time stay in the order of their types and ids.
    found.sort(key=lambda shown: shown.updated_at, reverse=True)
    shown = found[page.skip : page.skip + page.count]
    url = f"{session.root}/{path}"
    links = [{"relation": "self", "url": url + (f"?{urlencode(page.asked)}" if page.asked else "")}]
    if page.count and len(found) > page.skip + page.count:
        at = shown[-1].updated_at
        same = sum(one.updated_at == at for one in found[: page.skip + page.count])
        cursor = f"{_microseconds(at)}.{same}"
        links.append({"relation": "next", "url": f"{url}?{urlencode([*page.asked, ('_page', cursor)])}"})
    return {
        "resourceType": "Bundle",
        "type": "history",
        "meta": {"lastUpdated": instant(session.now)},
        "link": links,
        **({"entry": [_entry(session, one) for one in shown]} if shown else {}),
    }


def _microseconds(at: datetime) -> int:
    whole = at.astimezone(UTC)
    return int(whole.replace(microsecond=0).timestamp()) * 1_000_000 + whole.microsecond


def _entry(session: Session, shown: Shown) -> dict[str, Any]:
    address = f"{shown.type}/{shown.id}"
    is_new = shown.version == 1
    entry: dict[str, Any] = {"fullUrl": f"{session.root}/{address}"}
    if not shown.is_deleted:
        entry["resource"] = shown
    return entry | {
        "request": {"method": shown.method, "url": shown.type if shown.method == "POST" else address},
        "response": {
            "status": "204" if shown.is_deleted else "201" if is_new else "200",
            "lastModified": instant(shown.updated_at),
            "etag": shown.etag,
        },
    }
