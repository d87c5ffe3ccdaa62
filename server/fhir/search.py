"""Runs a search: its matches, what comes with them, and how many there are."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from server.fhir.access import limit_of, require, require_conditions
from server.fhir.declared import DeclaredType
from server.fhir.parameters import PARAMETERS
from server.fhir.query import Include, Query, cursor_of
from server.fhir.registry import REGISTRY
from server.fhir.reindexing import unfinished
from server.fhir.session import Session
from server.scopes import Letter
from storage.catalog.fhir_conditions import Ids, Search
from storage.catalog.fhir_search import Searcher, Source

_MOST_INCLUDED = 1000
_MOST_ROUNDS = 5
_COUNTED = frozenset(("DiagnosticReport", "ImagingStudy"))
"""Of these a first page says how many there are, as IHE RAD-143 has it, up to `_MOST_COUNTED`."""
_MOST_COUNTED = 10_000
_MOST_FACILITIES = 10  # that have a resource of one id

Key = tuple[str, str]


@dataclass(frozen=True, slots=True, kw_only=True)
class Page:
    """Types and ids of what was found; `next` is where the next page begins, None after the last."""

    matches: list[Key]
    included: list[Key]
    total: int | None = None
    next: str | None = None
    warnings: tuple[str, ...] = ()


def sources_of(type: str) -> Sequence[Source]:
    """Where resources of a type are looked for; nowhere for a type that is not kept."""
    found = REGISTRY.get(type)
    return () if found is None else found.sources


def searcher_of(session: Session, letter: Letter = "s") -> Searcher:
    """What searches as the caller may: in the session's scope, and where the scopes of its token let it."""
    return Searcher(
        connection=session.connection,
        scope=session.scope,
        sources=sources_of,
        limit=lambda type: limit_of(session, type, letter),
    )


def run(session: Session, query: Query) -> Page:
    """One page of a search, of what the caller may see.

    Raises
    ------
    Refused
        The caller may not search this type, or one that the conditions are about.
    """
    require(session, query.type, "s")
    require_conditions(session, query.conditions)
    type = REGISTRY.get(query.type)
    if isinstance(type, DeclaredType):
        ids, number, following = type.find(session, query)
        return Page(matches=[(query.type, id) for id in ids], included=[], total=number, next=following)
    searcher = searcher_of(session)
    search = Search(
        type=query.type, conditions=query.conditions, sort=query.sort, limit=query.count + 1, after=query.after
    )
    found = searcher.page(search) if query.count else []
    shown = found[: query.count]
    matches = [(query.type, one.id) for one in shown]
    is_all = query.after is None and query.count > 0 and len(found) <= query.count
    total = len(shown) if is_all else None
    if total is None and query.total in ("accurate", "estimate"):
        total = searcher.count(search)
    elif total is None and query.total is None and query.type in _COUNTED and query.after is None:
        total = searcher.count(search, _MOST_COUNTED)
        total = None if total > _MOST_COUNTED else total
    ignored = [f"{query.type} has no search parameter {name[:60]!r}; it was ignored." for name in query.ignored]
    ignored += unfinished(session.connection, query.type, query.conditions)
    included, is_cut = _included(session, searcher, query.includes, matches)
    if is_cut:
        ignored.append(f"Not more than {_MOST_INCLUDED} resources are included; there are others.")
    return Page(
        matches=matches,
        included=included,
        total=None if query.total == "none" else total,
        next=cursor_of(shown[-1].place) if len(found) > query.count and shown else None,
        warnings=tuple(ignored),
    )


def allowed(session: Session, found: Sequence[Key], letter: Letter) -> list[Key]:
    """Of these resources those that the caller may do this with; those that are not there as they are told."""
    refused: set[Key] = set()
    for type in {type for type, _id in found}:
        limit = limit_of(session, type, letter)
        if limit is None:
            continue
        ids = tuple({id for one, id in found if one == type})
        search = Search(type=type, conditions=(Ids(ids=ids),), limit=_MOST_FACILITIES * len(ids))
        visible = {one.id for one in searcher_of(session, letter).page(search)}
        refused |= {(type, id) for id in ids if id not in visible}
    return [key for key in found if key not in refused]


def is_allowed(session: Session, type: str, id: str, letter: Letter) -> bool:
    """Whether the caller may do this with a resource; also where there is none, and all of its type would be."""
    return bool(allowed(session, [(type, id)], letter))


def _included(
    session: Session, searcher: Searcher, includes: Sequence[Include], matches: Sequence[Key]
) -> tuple[list[Key], bool]:
    """What comes with the matches, round by round; and whether that was cut off."""
    seen: dict[Key, None] = dict.fromkeys(matches)
    added: list[Key] = []
    fresh, wanted = list(matches), list(includes)
    for _round in range(_MOST_ROUNDS):
        found = [key for include in wanted for key in _follow(session, searcher, include, fresh)]
        fresh = [key for key in dict.fromkeys(found) if key not in seen]
        if len(added) + len(fresh) > _MOST_INCLUDED:
            return added + fresh[: _MOST_INCLUDED - len(added)], True
        seen |= dict.fromkeys(fresh)
        added += fresh
        wanted = [include for include in includes if include.iterates]
        if not fresh or not wanted:
            break
    return added, False


def _follow(session: Session, searcher: Searcher, include: Include, found: Sequence[Key]) -> list[Key]:
    if include.is_reversed:
        texts = [f"{type}/{id}" for type, id in found]
        ids = searcher.pointing_at(include.source, include.parameter, texts, _MOST_INCLUDED)
        return [(include.source, id) for id in ids]
    ids = [id for type, id in found if type == include.source]
    if not ids:
        return []
    table = PARAMETERS[include.source]
    names = [one.name for one in table.values() if one.kind == "reference"]
    keys = []
    for name in names if include.parameter == "*" else [include.parameter]:
        for text in searcher.pointing(include.source, name, ids, _MOST_INCLUDED):
            type, slash, id = text.partition("/")
            if slash and type in REGISTRY and "/" not in id and include.target in (None, type):
                keys.append((type, id))
    return allowed(session, list(dict.fromkeys(keys)), "r")
