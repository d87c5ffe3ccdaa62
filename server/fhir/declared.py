"""What the server says of itself as resources: CapabilityStatement, SearchParameter, OperationDefinition, profiles.

They are made from the tables that the server runs on, so they can be read and searched like others, and not written.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from readingroom.errors import Invalid, ReadOnly
from server.fhir.extract import values_of
from server.fhir.parsing import dump_json
from server.fhir.query import Query, cursor_of
from server.fhir.session import Session
from server.fhir.shown import Shown
from server.fhir.types import Kind, Resource
from storage.catalog.fhir_conditions import AllOf, AnyOf, Condition, Ids, Match, Missing, Op, Test, Text, Updated
from storage.catalog.fhir_search import Source
from storage.catalog.fhir_values import Value

DATE = datetime(2026, 11, 24, tzinfo=UTC)
"""When what is declared was last changed by hand; the version of the software says the rest."""

_HEAD = ("resourceType", "id", "meta")


@dataclass(frozen=True, kw_only=True)
class DeclaredType:
    """A type whose resources the server makes; `make` gives them for a service root. See `server.fhir.types`."""

    name: str
    make: Callable[[str], Sequence[Resource]]
    kind: Kind = "projection"
    read_only_because: str = "the server says it of itself."
    takes_ids: bool = False
    kept_because: str = ""
    sources: tuple[Source, ...] = ()

    def condition_of(self, resource: Resource) -> str | None:
        """Nothing of a client's is the same."""
        return None

    def all(self, root: str) -> dict[str, Shown]:
        """All of them by id."""
        return {one["id"]: _shown(self.name, one) for one in self.make(root)}

    def read(self, session: Session, ids: Sequence[str]) -> list[Shown]:
        """Those of these ids."""
        made = self.all(session.root)
        return [made[id] for id in ids if id in made]

    def lock(self, session: Session, id: str) -> Shown | None:
        """Nothing changes it."""
        return self.all(session.root).get(id)

    def version(self, session: Session, id: str, version: int) -> Shown | None:
        """The only version."""
        return self.all(session.root).get(id) if version == 1 else None

    def versions(
        self,
        session: Session,
        id: str | None,
        *,
        limit: int,
        until: datetime | None = None,
        since: datetime | None = None,
    ) -> list[Shown]:
        """The only version of each, where it is of that time."""
        if (until is not None and until < DATE) or (since is not None and since > DATE):
            return []
        made = self.all(session.root)
        found = [made[one] for one in sorted(made) if id in (None, one)]
        return found[:limit] if id is not None else []

    def new_id(self, session: Session, resource: Resource) -> str:
        """Never asked for."""
        raise ReadOnly(self.read_only_because)

    def create(self, session: Session, resource: Resource, rest: bytes, id: str) -> Shown:
        """Refused."""
        raise ReadOnly(self.read_only_because)

    def update(self, session: Session, before: Shown, resource: Resource, rest: bytes) -> Shown:
        """Refused."""
        raise ReadOnly(self.read_only_because)

    def delete(self, session: Session, before: Shown) -> Shown:
        """Refused."""
        raise ReadOnly(self.read_only_because)

    def find(self, session: Session, query: Query) -> tuple[list[str], int, str | None]:
        """Ids of one page of those that meet the conditions, how many there are, and where the next page begins."""
        if query.sort and query.sort[0].parameter not in ("_id", "_lastUpdated"):  # all are of one time
            raise Invalid(f"{self.name} is sorted by _id, and by nothing else.")
        made = self.all(session.root)
        ids = sorted(id for id, one in made.items() if _meets(query.conditions, id, self._values(one, session.root)))
        if query.sort and query.sort[0].is_descending and query.sort[0].parameter == "_id":
            ids.reverse()
        begin = 0 if query.after is None else query.after[-1]
        if not isinstance(begin, int) or begin < 0:
            raise Invalid("'_cursor' has to be one that a link of this server has.")
        page = ids[begin : begin + query.count]
        end = begin + len(page)
        place = (*("" for _ in query.sort), 0, end)
        return page, len(ids), cursor_of(place) if page and end < len(ids) else None

    def _values(self, shown: Shown, root: str) -> Mapping[str, list[Value]]:
        found: dict[str, list[Value]] = {}
        for value in values_of(self.name, shown.resource, root):
            found.setdefault(value.key.partition(".")[2], []).append(value)
        return found


def _shown(type: str, resource: Resource) -> Shown:
    rest = dump_json({name: value for name, value in resource.items() if name not in _HEAD})
    return Shown(type=type, id=resource["id"], version=1, updated_at=DATE, rest=rest)


# -- conditions, on a few resources in memory --------------------------------------------------------------------------


def _meets(conditions: Sequence[Condition], id: str, values: Mapping[str, list[Value]]) -> bool:
    return all(_holds(condition, id, values) for condition in conditions)


def _holds(condition: Condition, id: str, values: Mapping[str, list[Value]]) -> bool:
    match condition:
        case Ids(ids=ids, is_negated=is_negated):
            return (id in ids) is not is_negated
        case Missing(parameter=parameter, is_missing=is_missing):
            return (not values.get(parameter)) is is_missing
        case Updated(op=op, low=low, high=high):
            return _stands(op, DATE, low, high)
        case Match(parameter=parameter, tests=tests, is_negated=is_negated):
            is_met = any(_is(value, test) for value in values.get(parameter, ()) for test in tests)
            return is_met is not is_negated
        case AnyOf(conditions=some):
            return any(_holds(one, id, values) for one in some)
        case AllOf(conditions=some):
            return all(_holds(one, id, values) for one in some)
    raise Invalid("What the server says of itself is searched by its own parameters, without chains.")


def _stands(op: Op, at: datetime, low: datetime, high: datetime) -> bool:
    is_inside = low <= at <= high
    stands: dict[Op, bool] = {
        "eq": is_inside,
        "ap": is_inside,
        "ne": not is_inside,
        "lt": at < low,
        "eb": at < low,
        "le": at <= high,
        "gt": at > high,
        "sa": at > high,
        "ge": at >= low,
    }
    return stands[op]


def _is(value: Value, test: Test) -> bool:
    if not isinstance(test, Text):
        return value.low is not None and value.high is not None and test.low <= value.low and value.high <= test.high
    if test.space is not None and value.space != test.space:
        return False
    match test.how:
        case "begins":
            return value.text.startswith(test.text)
        case "contains":
            return test.text in value.text
        case "in space":
            return True
        case "below":
            return value.text == test.text or value.text.startswith(test.text.rstrip("/") + "/")
    return value.text == test.text
