"""Where searches look for facilities and readers: in the tables of the directory.

There are thousands of them at most, so that what is not a reference is compared here: with the values that the index
would have of the resource that each is shown as.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cache
from typing import Any

import sqlalchemy as sa

from readingroom.model import Scope
from server.fhir.directory import (
    Entries,
    endpoints,
    locations,
    organizations,
    practitioner_roles,
    practitioners,
    schedules,
)
from server.fhir.extract import values_of
from server.fhir.parsing import read_json
from storage.catalog import schema as t
from storage.catalog.fhir_conditions import Op, Range, Test
from storage.catalog.fhir_search import Relation, Source
from storage.catalog.fhir_values import LONGEST, Value
from storage.fhirvalues import UNDERSCORE

_BEFORE = datetime(1970, 1, 1, tzinfo=UTC)
_EVERYTHING = Scope()


@dataclass(frozen=True, slots=True, kw_only=True)
class _Readers(Source):
    """Readers: of those who are out of scope nothing is seen."""

    def within(self, scope: Scope) -> list[sa.ColumnElement[bool]]:
        """Who has privileges at a facility in scope, or at one above it."""
        held = list(self.visible)
        if scope.facilities is not None:
            c = t.credential.c
            facilities = sa.select(c.reader).where(c.facility.in_(_and_above(scope.facilities)))
            held.append(self.key.in_(facilities))
        return held


def _and_above(facilities: frozenset[str]) -> sa.Select[tuple[str]]:
    c, above = t.facility.c, t.facility.alias("above")
    found = sa.select(c.id, c.parent).where(c.id.in_(sorted(facilities))).cte("chain", recursive=True)
    found = found.union(sa.select(above.c.id, above.c.parent).join(found, above.c.id == found.c.parent))
    return sa.select(found.c.id)


def _written(name: Any) -> sa.ColumnElement[str]:
    """A name as `storage.fhirvalues.local_id` makes it an id."""
    return sa.func.replace(name, "_", UNDERSCORE)


@cache
def directory_source(type: str) -> Source:
    """The entries of the directory that are shown as resources of a type, and that no client has written."""
    return _MAKERS[type]()


def _source(
    type: str,
    entries: Entries,
    rows: sa.FromClause,
    *,
    key: Any,
    name: Any,
    references: Mapping[str, tuple[str, Any]],
    values: Mapping[str, Any],
    facility: Any = None,
    of: Callable[..., Source] = Source,
) -> Source:
    """`values` are the parameters that an entry has values of, each with a column that is NULL where it has none."""
    id = _written(name)
    r = t.resource.alias("written")
    is_written = sa.select(sa.literal(1)).where(r.c.type == type, r.c.id == id).correlate(rows).exists()

    def relation(parameter: str) -> Relation | None:
        if parameter in references:
            target, named = references[parameter]
            held = _written(named)
            text = sa.literal(f"{target}/").concat(held)
            return Relation(rows=rows, key=key, text=text, target=target, held=held)
        if parameter not in values:
            return None

        def holds(connection: sa.Connection, test: Test) -> sa.ColumnElement[bool]:
            return id.in_(list(_matching(connection, type, entries, parameter, test)))

        text = sa.func.lower(values[parameter])
        return Relation(rows=rows, key=key, text=text, space=sa.literal(""), holds=holds)

    return of(
        type=type,
        rows=rows,
        key=key,
        id=id,
        updated_at=sa.func.coalesce(rows.c.updated_at, sa.literal(_BEFORE, t.UtcDateTime())),
        facility=facility,
        visible=(sa.not_(is_written),),
        relation=relation,
    )


def _matching(connection: sa.Connection, type: str, entries: Entries, parameter: str, test: Test) -> Iterator[str]:
    key = f"{type}.{parameter}"
    for row in entries(connection, _EVERYTHING, ""):
        values = values_of(type, read_json(row.rest()), "")
        if any(value.key == key and holds(test, value) for value in values):
            yield row.id


def holds(test: Test, value: Value) -> bool:
    """Whether a test holds for a value, as `storage.catalog.fhir_search` says it in SQL."""
    if isinstance(test, Range):
        if value.low is None or value.high is None:
            return False
        return compared(test.op, value.low, value.high, test.low, test.high)
    is_of_space = test.space is None or test.space == value.space
    match test.how:
        case "begins":
            return value.text.startswith(test.text)
        case "contains":
            return test.text in value.text
        case "exact":
            return value.text == test.text[:LONGEST] and is_of_space
        case "in space":
            return is_of_space
        case "below":
            return value.text == test.text or value.text.startswith(test.text.rstrip("/") + "/")
    return value.text == test.text and is_of_space


def compared(op: Op, low: float, high: float, begin: float, end: float) -> bool:
    """How a value, which is a range, stands to the range asked for (R4 3.1.1.4.7)."""
    is_inside = begin <= low <= end and high <= end
    answers: dict[Op, bool] = {
        "eq": is_inside,
        "ne": not is_inside,
        "lt": low < begin,
        "gt": high > end,
        "le": low <= end,
        "ge": high >= begin,
        "sa": low > end,
        "eb": high < begin,
        "ap": low <= end and high >= begin,
    }
    return answers[op]


def _facilities(type: str, entries: Entries) -> Source:
    f = t.facility.alias(f"{type.lower()}_row")
    c = f.c
    places = ("address", "address-city", "address-country", "address-postalcode", "address-state")
    address = dict.fromkeys(places, c.state)
    known: dict[str, tuple[dict[str, tuple[str, Any]], dict[str, Any]]] = {
        "Organization": (
            {"partof": ("Organization", c.parent), "endpoint": ("Endpoint", c.id)},
            {"active": c.id, "identifier": c.id, "name": c.name, "phonetic": c.name, "type": c.id, **address},
        ),
        "Location": (
            {
                "organization": ("Organization", c.id),
                "partof": ("Location", c.parent),
                "endpoint": ("Endpoint", c.id),
            },
            {"status": c.id, "identifier": c.id, "name": c.name, "type": c.kind, **address},
        ),
        "Endpoint": (
            {"organization": ("Organization", c.id)},
            {"connection-type": c.id, "name": c.name, "payload-type": c.id, "status": c.id},
        ),
    }
    references, values = known[type]
    return _source(type, entries, f, key=c.id, name=c.id, references=references, values=values, facility=c.id)


def _readers(type: str, entries: Entries) -> Source:
    r = t.reader.alias(f"{type.lower()}_row")
    c = r.c
    common = {"active": c.id, "identifier": c.id}
    if type == "Schedule":
        references: dict[str, tuple[str, Any]] = {"actor": ("Practitioner", c.id)}
        values = {**common, "specialty": c.id}
    else:
        references = {}
        values = {**common, "name": c.name, "phonetic": c.name, "telecom": c.id, "email": c.id, "phone": c.id}
    return _source(type, entries, r, key=c.id, name=c.id, references=references, values=values, of=_Readers)


def _roles() -> Source:
    credential, reader = t.credential.c, t.reader.c
    rows = (
        sa.select(credential.reader, credential.facility, sa.func.min(credential.id).label("key"), reader.updated_at)
        .join_from(t.credential, t.reader, credential.reader == reader.id)
        .group_by(credential.reader, credential.facility, reader.updated_at)
        .subquery("practitioner_role_row")
    )
    c = rows.c
    references = {
        "practitioner": ("Practitioner", c.reader),
        "organization": ("Organization", c.facility),
        "location": ("Location", c.facility),
        "endpoint": ("Endpoint", c.facility),
    }
    values = dict.fromkeys(("active", "date", "identifier", "role", "specialty"), c.key)
    name = c.reader.concat(".").concat(c.facility)
    return _source(
        "PractitionerRole",
        practitioner_roles,
        rows,
        key=c.key,
        name=name,
        references=references,
        values=values,
        facility=c.facility,
    )


_MAKERS: Mapping[str, Callable[[], Source]] = {
    "Organization": lambda: _facilities("Organization", organizations),
    "Location": lambda: _facilities("Location", locations),
    "Endpoint": lambda: _facilities("Endpoint", endpoints),
    "Practitioner": lambda: _readers("Practitioner", practitioners),
    "Schedule": lambda: _readers("Schedule", schedules),
    "PractitionerRole": _roles,
}
