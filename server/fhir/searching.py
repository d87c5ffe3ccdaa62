"""Searches as a client is answered: Bundles of type searchset (FHIR R4 3.1.1)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any
from urllib.parse import parse_qsl, urlencode

from readingroom.errors import Invalid
from server.fhir.outcome import Issue, outcome
from server.fhir.query import Query, parse_query
from server.fhir.registry import REGISTRY
from server.fhir.search import run
from server.fhir.session import Session
from server.fhir.shown import Shown, instant
from server.fhir.summary import only_elements, summarised
from server.fhir.types import Resource

Pairs = Sequence[tuple[str, str]]


def encoded(pairs: Pairs) -> str:
    """A query as text."""
    return urlencode(list(pairs))


def search_type(session: Session, type: str, pairs: Pairs, *, is_strict: bool = False) -> Resource:
    """One page of the resources of a type that meet all conditions, and what was asked to come with them."""
    query = parse_query(type, pairs, root=session.root, is_strict=is_strict)
    page = run(session, query)
    shown = shown_of(session, [*page.matches, *page.included])
    matches = set(page.matches)
    url = f"{session.root}/{type}"
    links = [{"relation": "self", "url": url + (f"?{encoded(query.used)}" if query.used else "")}]
    if page.next is not None:
        used = [(name, value) for name, value in query.used if name != "_cursor"]
        links.append({"relation": "next", "url": f"{url}?{encoded([*used, ('_cursor', page.next)])}"})
    entries = [_entry(session, query, one, is_match=(one.type, one.id) in matches) for one in shown]
    if page.warnings:
        told = [Issue(severity="warning", code="processing", diagnostics=text) for text in page.warnings]
        entries.append({"resource": outcome(told), "search": {"mode": "outcome"}})
    return {
        "resourceType": "Bundle",
        "type": "searchset",
        "meta": {"lastUpdated": instant(session.now)},
        **({} if page.total is None else {"total": page.total}),
        "link": links,
        **({"entry": entries} if entries else {}),
    }


def search_all(session: Session, pairs: Pairs, *, is_strict: bool = False) -> Resource:
    """The same over the types that `_type` lists, for conditions that all of them have."""
    types = [name for pair, value in pairs if pair == "_type" for name in value.split(",")]
    unknown = [name for name in types if name not in REGISTRY]
    if unknown or not types:
        raise Invalid("To search several types at once, list in '_type' which: Patient,Observation.")
    if len(types) == 1:
        return search_type(session, types[0], [pair for pair in pairs if pair[0] != "_type"], is_strict=is_strict)
    raise Invalid("Several types are searched by one request each, or by a batch of them.")


def ids_of(session: Session, type: str, condition: str, *, limit: int) -> list[str]:
    """Ids of the resources that meet a condition, all of whose parameters have to be known; not more than `limit`.

    Raises
    ------
    Invalid
        There is no condition, or one that a type does not have: what is written by it may not be a guess.
    """
    pairs = parse_qsl(condition.lstrip("?"), keep_blank_values=False)
    query = parse_query(type, pairs, root=session.root, is_strict=True)
    if not query.has_conditions:
        raise Invalid(f"The condition has to say which {type}: such as identifier=SYSTEM|VALUE.")
    page = run(session, replace(query, count=limit, includes=(), total="none"))
    return [id for _type, id in page.matches]


def matches_of(session: Session, type: str, pairs: Pairs, *, most: int) -> list[tuple[str, str]]:
    """Types and ids of the resources that meet conditions, not more than `most`."""
    query = parse_query(type, pairs, root=session.root, is_strict=True)
    return run(session, replace(query, count=most, includes=(), total="none")).matches


def shown_of(session: Session, found: Sequence[tuple[str, str]]) -> list[Shown]:
    """The current versions of resources, in the order in which they were found."""
    ids: dict[str, list[str]] = {}
    for type, id in found:
        ids.setdefault(type, []).append(id)
    shown = {
        (one.type, one.id): one
        for type, some in ids.items()
        for one in REGISTRY[type].read(session, some)
        if not one.is_deleted
    }
    return [shown[key] for key in dict.fromkeys(found) if key in shown]


def _entry(session: Session, query: Query, shown: Shown, *, is_match: bool) -> dict[str, Any]:
    resource: Shown | Resource = shown
    if query.summary not in ("false", "count"):
        resource = summarised(shown.resource, query.summary)
    elif query.elements and is_match:
        resource = only_elements(shown.resource, query.elements)
    return {
        "fullUrl": f"{session.root}/{shown.type}/{shown.id}",
        "resource": resource,
        "search": {"mode": "match" if is_match else "include"},
    }
