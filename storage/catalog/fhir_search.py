"""Searches of FHIR resources as SQL (FHIR R4 3.1.1), over the index of what is stored and over the domain's tables.

A `Source` is a set of resources of one type: the stored ones, or rows of the domain that are shown as resources. Of
each search parameter it knows a `Relation`: rows of (resource, value). Conditions are compiled against relations alone,
so that both kinds of source are searched by the same code, and nothing of the domain is kept twice.

Of the conditions of a search the rarest leads, which is found by counting a few rows of each; the others are looked up
for each resource that it leads to. Where none is rare, resources are walked in the order that is asked for, and the
first ones that meet the conditions make the page. Neither depends on the planner's statistics.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from functools import cache, cmp_to_key, lru_cache, partial
from typing import Any, Literal, cast

import sqlalchemy as sa

from readingroom.errors import Invalid
from readingroom.model import Scope
from storage.catalog import schema as t
from storage.catalog.fhir_conditions import (
    AllOf,
    AnyOf,
    Chain,
    Condition,
    Found,
    Has,
    Ids,
    Match,
    Missing,
    Op,
    Range,
    Search,
    Sort,
    Test,
    Text,
    Updated,
    bound,
    is_plain,
    shape_of,
)
from storage.catalog.fhir_values import LONGEST

Part = Literal["keys", "page", "walk", "valueless", "count"]
_RARE, _FEW, _ALL = 2000, 50, 2**31 - 1
_MOST_VALUES = 40  # of a search whose statements are kept
_HELD: Any = sa.text("NOT r.is_deleted")
"""As the partial indexes have it, word for word."""
_LAST_TEXT = "\uffff"
_LAST_NUMBER = 1e300
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MILLISECOND = timedelta(milliseconds=1)


# -- where it is looked for --------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Relation:
    """The values of one parameter of one source.

    `rows` has the columns; `where` says which of its rows, and so does `seen`, written so that no index serves but that
    of the key; `key` is the resource's. A column that there is not is None.

    Of references that all lead to the type `target`, `held` is the id, so that an index on it serves; `text` is the
    address made of it. `holds` says of a test what it comes to for these rows, where values are not held as they are
    shown; None where they are, for that test.
    """

    rows: sa.FromClause
    key: sa.ColumnElement[Any]
    text: sa.ColumnElement[Any] | None = None
    space: sa.ColumnElement[Any] | None = None
    low: sa.ColumnElement[Any] | None = None
    high: sa.ColumnElement[Any] | None = None
    where: tuple[sa.ColumnElement[bool], ...] = ()
    seen: tuple[sa.ColumnElement[bool], ...] = ()
    target: str | None = None
    held: sa.ColumnElement[Any] | None = None
    holds: Callable[[sa.Connection, Test], sa.ColumnElement[bool] | None] | None = None

    def is_one_of(self, addresses: Sequence[str]) -> sa.ColumnElement[bool]:
        """That it is a reference to one of these."""
        if self.text is None:
            return sa.false()
        if self.held is None:
            return self.text.in_(list(addresses))
        start = f"{self.target}/"
        return self.held.in_([one[len(start) :] for one in addresses if one.startswith(start)])


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """Resources of one type; see the module.

    `key` identifies a row and sorts by age; `id` is the resource's. `visible` are conditions that hold for what may be
    seen; of `facility` is the scope. `relation` gives the values of a parameter: ``status``, ``patient:identifier``.
    """

    type: str
    rows: sa.FromClause
    key: sa.ColumnElement[Any]
    id: sa.ColumnElement[str]
    updated_at: sa.ColumnElement[datetime]
    facility: sa.ColumnElement[str] | None
    visible: tuple[sa.ColumnElement[bool], ...] = ()
    relation: Callable[[str], Relation | None]
    can_walk: bool = False
    """Its relations are all of `schema.resource_value`, whose indexes give each order."""
    seen: tuple[sa.ColumnElement[bool], ...] = ()
    """The same as `visible`, written so that no index serves: for rows that something else leads to."""

    def within(self, scope: Scope) -> list[sa.ColumnElement[bool]]:
        """What holds for the rows that are there and in scope."""
        held = list(self.visible)
        if scope.facilities is not None and self.facility is not None:
            held.append(self.facility.in_(sorted(scope.facilities)))
        return held


@cache
def stored(type: str) -> Source:
    """The resources of a type that are kept as they were sent."""
    r, v = t.resource.alias("r"), t.resource_value.alias("v")

    @cache
    def relation(parameter: str) -> Relation:
        return Relation(
            rows=v,
            key=v.c.rid,
            text=v.c.text,
            space=v.c.space,
            low=v.c.low,
            high=v.c.high,
            where=(v.c.key == f"{type}.{parameter}",),
            seen=(v.c.key.concat("") == f"{type}.{parameter}",),
        )

    return Source(
        type=type,
        rows=r,
        key=r.c.rid,
        id=r.c.id,
        updated_at=r.c.updated_at,
        facility=r.c.facility,
        visible=(r.c.type == type, _HELD),
        seen=(r.c.type.concat("") == type, _HELD),
        relation=relation,
        can_walk=True,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Searcher:
    """Runs searches within a scope; `sources` gives those of a type.

    `limit` gives what else holds for all resources of a type that may be found, asked about or led to; None: nothing.
    """

    connection: sa.Connection
    scope: Scope
    sources: Callable[[str], Sequence[Source]]
    limit: Callable[[str], Condition | None] = lambda _type: None

    def page(self, search: Search) -> list[Found]:
        """The first matches in the order asked for; without one the newest first.

        Raises
        ------
        Invalid
            `after` is no place in that order.
        """
        search = replace(search, conditions=self._limited(search.type, search.conditions))
        sources = self.sources(search.type)
        if search.after is not None and not self._is_place(search.after, search.sort, sources):
            raise Invalid("'_cursor' has to be one that a link of this server has.")
        found = [one for number, source in enumerate(sources) for one in self._of(search, source, number)]
        found.sort(key=cmp_to_key(partial(_compare, search.sort)))
        return found[: search.limit]

    def count(self, search: Search, most: int | None = None) -> int:
        """How many matches there are; where `most` is given, not beyond one more than that."""
        total = 0
        conditions = self._limited(search.type, search.conditions)
        for source in self.sources(search.type):
            limit = _ALL if most is None else most + 1 - total
            asked = Search(type=search.type, conditions=conditions, limit=limit)
            leader = None if self._are_keys(source, conditions) else self._leader(source, conditions)
            total += int(self._run("count", source, asked, leader).scalar_one())
            if total > (_ALL if most is None else most):
                break
        return total

    def pointing(self, type: str, parameter: str, ids: Sequence[str], limit: int) -> list[str]:
        """What these resources of a type refer to by a parameter: ``Patient/1``."""
        found: list[str] = []
        for source in self.sources(type):
            relation = source.relation(parameter)
            if relation is None or relation.text is None or not ids:
                continue
            keys = sa.select(source.key).select_from(source.rows)
            keys = keys.where(*self._tests(source, self._limited(type), None), source.id.in_(list(ids)))
            statement = sa.select(relation.text).distinct().select_from(relation.rows)
            statement = statement.where(
                *(relation.seen or relation.where), relation.text.is_not(None), relation.key.in_(keys)
            )
            statement = statement.order_by(relation.text)
            found += self.connection.execute(statement.limit(limit)).scalars()
        return found

    def pointing_at(self, type: str, parameter: str, texts: Sequence[str], limit: int) -> list[str]:
        """The ids of resources of a type that refer by a parameter to one of these."""
        found: list[str] = []
        for source in self.sources(type):
            relation = source.relation(parameter)
            if relation is None or relation.text is None or not texts:
                continue
            keys = sa.select(relation.key).select_from(relation.rows)
            keys = keys.where(*relation.where, relation.is_one_of(texts))
            statement = sa.select(source.id).select_from(source.rows)
            held = self._tests(source, self._limited(type), None)
            statement = statement.where(*held, source.key.in_(keys)).order_by(source.key)
            found += self.connection.execute(statement.limit(limit)).scalars()
        return found

    # -- a page of one source ------------------------------------------------------------------------------------------

    def _is_place(self, after: Sequence[Any], sorts: Sequence[Sort], sources: Sequence[Source]) -> bool:
        """Whether its values are of the types of what is sorted by: PostgreSQL compares no others."""
        *values, number, key = after
        if not 0 <= number < len(sources) or len(values) != len(sorts):
            return False
        source = sources[number]
        columns = (self._sort_key(source, sort) for sort in sorts)
        pairs = [(source.key, key), *zip(columns, values, strict=True)]
        return all(isinstance(value, str) is isinstance(column.type, sa.String) for column, value in pairs) and (
            isinstance(key, str | int)
        )

    def _of(self, search: Search, source: Source, number: int) -> list[Found]:
        leader = self._leader(source, search.conditions)
        if leader is None and len(search.sort) == 1 and source.can_walk and search.sort[0].parameter[0] != "_":
            return self._walked(search, source, number)
        return [
            Found(id=id, place=(*map(_plain, values), number, key))
            for id, key, *values in self._run("page", source, search, leader, number)
        ]

    def _walked(self, search: Search, source: Source, number: int) -> list[Found]:
        """The page cut from the index of what it is sorted by; then what has no value of it."""
        [sort] = search.sort
        if source.relation(sort.parameter) is None:
            return self._valueless(search, source, number)
        after = search.after
        found: list[Found] = []
        if after is None or after[0] != _last(sort):
            rows = self._run("walk", source, search, None, number)
            found = [Found(id=id, place=(value, number, key)) for id, key, value in rows]
            after = None
        if len(found) < search.limit:
            rest = replace(search, limit=search.limit - len(found), after=after)
            found += self._valueless(rest, source, number)
        return found

    def _valueless(self, search: Search, source: Source, number: int) -> list[Found]:
        if search.after is not None and number < search.after[1]:
            return []
        rows = self._run("valueless", source, search, None, number)
        return [Found(id=id, place=(_last(search.sort[0]), number, key)) for id, key in rows]

    # -- statements ----------------------------------------------------------------------------------------------------

    def _run(
        self, part: Part, source: Source, search: Search, leader: int | None = None, number: int = 0
    ) -> sa.CursorResult[*tuple[Any, ...]]:
        """Run one of the statements of a search; `leader` is the place of a condition, `number` that of the source.

        To write a statement takes longer than to run it, so those of stored resources are kept by their shape.
        """
        if source.can_walk and is_plain(search):
            shape, values = shape_of(search)
            if len(values) <= _MOST_VALUES:
                statement = _kept(part, source.type, shape, leader, number, self.scope)
                return self.connection.execute(statement, values)
        return self.connection.execute(self._statement(part, source, search, leader, number))

    def _statement(self, part: Part, source: Source, search: Search, leader: int | None, number: int) -> sa.Select[Any]:
        match part:
            case "keys":
                [condition] = search.conditions
                some = self._keys(source, condition).limit(search.limit).subquery()
                return sa.select(sa.func.count()).select_from(some)
            case "page":
                return self._page_statement(source, search, leader, number)
            case "walk":
                return self._walk_statement(source, search, number)
            case "valueless":
                return self._valueless_statement(source, search, number)
            case "count":
                return self._count_statement(source, search, leader)

    def _page_statement(self, source: Source, search: Search, leader: int | None, number: int) -> sa.Select[Any]:
        tests = self._tests(source, search.conditions, leader)
        keys = [self._sort_key(source, sort) for sort in search.sort]
        statement = sa.select(source.id, source.key, *keys).select_from(source.rows).where(*tests)
        if search.after is not None:
            statement = statement.where(_after(search.sort, search.after, number, keys, source.key))
        order = [key.desc() if sort.is_descending else key for key, sort in zip(keys, search.sort, strict=True)]
        # Where ids are given there is little to sort, and no index for the order is to be thought of.
        has_ids = any(isinstance(one, Ids) and not one.is_negated for one in search.conditions)
        key = _not_by_index(source.key) if has_ids else source.key
        return statement.order_by(*order, _tied(search.sort, key)).limit(search.limit)

    def _walk_statement(self, source: Source, search: Search, number: int) -> sa.Select[Any]:
        [sort] = search.sort
        relation = source.relation(sort.parameter)
        assert relation is not None
        tests = self._tests(source, search.conditions, None, is_led=True)
        column = _sorted_column(relation, sort)
        # Of several values of a resource the one counts that comes first in this order.
        other = t.resource_value.alias("other")
        its = other.c[column.name]
        earlier = its > column if sort.is_descending else its < column
        same = (other.c.rid == relation.key, other.c.key.concat("") == f"{source.type}.{sort.parameter}", earlier)
        statement = sa.select(source.id, relation.key, column).select_from(
            relation.rows.join(source.rows, source.key == relation.key)
        )
        statement = statement.where(*relation.where, column.is_not(None), *tests)
        statement = statement.where(~sa.select(sa.literal(1)).where(*same).correlate(relation.rows).exists())
        if search.after is not None:
            statement = statement.where(_after(search.sort, search.after, number, [column], relation.key))
        ordered = column.desc() if sort.is_descending else column
        return statement.distinct().order_by(ordered, _tied(search.sort, relation.key)).limit(search.limit)

    def _valueless_statement(self, source: Source, search: Search, number: int) -> sa.Select[Any]:
        [sort] = search.sort
        tests = self._tests(source, search.conditions, None)
        relation = source.relation(sort.parameter)
        statement = sa.select(source.id, source.key).select_from(source.rows).where(*tests)
        if relation is not None:
            statement = statement.where(~_exists(source, relation, ()))
        if search.after is not None:
            _value, before, key = search.after
            if number == before:
                statement = statement.where(source.key < key if _newest_first(search.sort) else source.key > key)
        return statement.order_by(_tied(search.sort, source.key)).limit(search.limit)

    def _count_statement(self, source: Source, search: Search, leader: int | None) -> sa.Select[Any]:
        if self._are_keys(source, search.conditions):
            found = self._keys(source, search.conditions[0]).distinct()
        else:
            tests = self._tests(source, search.conditions, leader)
            found = sa.select(source.key).select_from(source.rows).where(*tests)
        return sa.select(sa.func.count()).select_from(found.limit(search.limit).subquery())

    def _are_keys(self, source: Source, conditions: Sequence[Condition]) -> bool:
        """Whether the values alone say what meets the conditions: there are none of what is deleted."""
        if not source.can_walk or self.scope.facilities is not None or len(conditions) != 1:
            return False
        return isinstance(conditions[0], Match) and not conditions[0].is_negated

    def _sort_key(self, source: Source, sort: Sort) -> sa.ColumnElement[Any]:
        if sort.parameter == "_id":
            return source.id
        if sort.parameter == "_lastUpdated":
            return source.updated_at
        relation = source.relation(sort.parameter)
        if relation is None:
            return sa.literal(_last(sort))
        column: sa.ColumnElement[Any] = _sorted_column(relation, sort)
        if relation.rows is source.rows:
            return sa.func.coalesce(column, _last_of(column, sort))
        first: sa.ColumnElement[Any] = sa.func.max(column) if sort.is_descending else sa.func.min(column)
        value = sa.select(first).select_from(relation.rows)
        value = value.where(*(relation.seen or relation.where), relation.key == source.key)
        sorted_by: sa.ColumnElement[Any] = sa.func.coalesce(value.correlate(source.rows).scalar_subquery(), _last(sort))
        return sorted_by

    # -- conditions ----------------------------------------------------------------------------------------------------

    def _limited(self, type: str, conditions: Sequence[Condition] = ()) -> tuple[Condition, ...]:
        limit = self.limit(type)
        return (*conditions, *(() if limit is None else (limit,)))

    def _tests(
        self, source: Source, conditions: Sequence[Condition], leader: int | None, *, is_led: bool = False
    ) -> list[sa.ColumnElement[bool]]:
        led = replace(source, visible=source.seen) if source.seen and (is_led or leader is not None) else source
        tests = led.within(self.scope)
        if leader is not None:
            tests.append(source.key.in_(self._keys(source, conditions[leader])))
        return tests + [self._test(source, one) for place, one in enumerate(conditions) if place != leader]

    def _leader(self, source: Source, conditions: Sequence[Condition]) -> int | None:
        """The place of the rarest of the conditions, if it is rare at all."""
        best: tuple[int, int] | None = None
        for place, condition in sorted(enumerate(conditions), key=lambda one: _costs_to_count(one[1])):
            if not isinstance(condition, Match | Chain | Has) or (
                isinstance(condition, Match) and condition.is_negated
            ):
                continue
            if best is not None and _costs_to_count(condition) > 0:
                break  # what is dear to count is not counted where something cheap is rare
            some = Search(type=source.type, conditions=(condition,), limit=_RARE + 1)
            number = int(self._run("keys", source, some).scalar_one())
            if number <= _RARE and (best is None or number < best[0]):
                best = number, place
            if number <= _FEW:
                break
        return None if best is None else best[1]

    def _keys(self, source: Source, condition: Condition) -> sa.Select[Any]:
        """The keys of what meets a condition, from the side of the values."""
        if isinstance(condition, Has):
            keys = sa.select(source.key).select_from(source.rows).correlate(None)
            return keys.where(*source.visible, self._test(source, condition))
        assert isinstance(condition, Match | Chain)
        relation = source.relation(condition.parameter)
        if relation is None:
            return sa.select(source.key).select_from(source.rows).where(sa.false()).correlate(None)
        keys = sa.select(relation.key).select_from(relation.rows).correlate(None)
        return keys.where(*relation.where, self._value_test(relation, condition))

    def _test(self, source: Source, condition: Condition) -> sa.ColumnElement[bool]:
        match condition:
            case Ids(ids=ids, is_negated=is_negated):
                return source.id.not_in(ids) if is_negated else source.id.in_(ids)
            case Updated(op=op, low=low, high=high):
                return compared(op, source.updated_at, source.updated_at, low, high)
            case AnyOf(conditions=some):
                return sa.or_(sa.false(), *(self._test(source, one) for one in some))
            case AllOf(conditions=some):
                return sa.and_(sa.true(), *(self._test(source, one) for one in some))
            case Has():
                return source.id.in_(self._referred(source.type, condition))
            case Missing(parameter=parameter, is_missing=is_missing):
                relation = source.relation(parameter)
                held = sa.false() if relation is None else _exists(source, relation, ())
                return sa.not_(held) if is_missing else held
            case Match() | Chain():
                relation = source.relation(condition.parameter)
                if relation is None:
                    held = sa.false()
                else:
                    is_range = isinstance(condition, Match) and any(isinstance(one, Range) for one in condition.tests)
                    test = self._value_test(relation, condition, is_led=True)
                    held = _exists(source, relation, (test,), is_range=is_range)
                return sa.not_(held) if isinstance(condition, Match) and condition.is_negated else held
        raise TypeError(condition)  # pragma: no cover

    def _value_test(
        self, relation: Relation, condition: Match | Chain, *, is_led: bool = False
    ) -> sa.ColumnElement[bool]:
        if isinstance(condition, Match):
            return sa.or_(sa.false(), *(self._holds(relation, test) for test in condition.tests))
        if relation.text is None or relation.target not in (None, condition.target):
            return sa.false()
        referred = relation.text if relation.held is None else relation.held
        if is_led:
            # A resource refers to few, and a chain may lead to many: these are not looked up one by one.
            referred = _not_by_index(referred)
        return referred.in_(self._referring(condition, are_addresses=relation.held is None))

    def _holds(self, relation: Relation, test: Test) -> sa.ColumnElement[bool]:
        held = None if relation.holds is None else relation.holds(self.connection, test)
        return _holds(relation, test) if held is None else held

    def _referring(self, chain: Chain, *, are_addresses: bool) -> sa.Select[Any] | sa.CompoundSelect[Any]:
        """What a chain leads to: the ids, or addresses such as ``Patient/1``, of resources that meet its conditions."""
        conditions = self._limited(chain.target, chain.conditions)
        some = [
            sa.select(sa.literal(f"{chain.target}/").concat(source.id) if are_addresses else source.id)
            .select_from(source.rows)
            .where(*self._tests(source, conditions, self._leader(source, conditions)))
            .correlate(None)
            for source in self.sources(chain.target)
        ]
        if not some:
            return sa.select(sa.null()).where(sa.false())
        return some[0] if len(some) == 1 else sa.union_all(*some)

    def _referred(self, type: str, condition: Has) -> sa.Select[Any] | sa.CompoundSelect[Any]:
        """Ids of the resources of a type that those of another refer to."""
        some = []
        for source in self.sources(condition.source):
            relation = source.relation(condition.parameter)
            if relation is None or relation.text is None or relation.target not in (None, type):
                continue
            conditions = self._limited(source.type, condition.conditions)
            tests = self._tests(source, conditions, self._leader(source, conditions))
            keys = sa.select(source.key).select_from(source.rows).where(*tests).correlate(None)
            is_to_it = _begins(relation.text, f"{type}/") if relation.held is None else relation.held.is_not(None)
            id = sa.func.substr(relation.text, len(type) + 2) if relation.held is None else relation.held
            statement = sa.select(id).select_from(relation.rows).correlate(None)
            some.append(statement.where(*relation.where, is_to_it, relation.key.in_(keys)))
        if not some:
            return sa.select(sa.null()).where(sa.false())
        return some[0] if len(some) == 1 else sa.union_all(*some)


@lru_cache(maxsize=512)
def _kept(part: Part, type: str, shape: Search, leader: int | None, number: int, scope: Scope) -> sa.Select[Any]:
    """A statement of this shape. What is plain asks nothing of the database, or of other types, to be written."""
    searcher = Searcher(connection=cast(sa.Connection, None), scope=scope, sources=lambda _type: ())
    return searcher._statement(part, stored(type), bound(shape), leader, number)


# -- values ------------------------------------------------------------------------------------------------------------


def _exists(
    source: Source, relation: Relation, tests: Sequence[sa.ColumnElement[bool]], *, is_range: bool = False
) -> sa.ColumnElement[bool]:
    """That the resource has a value of which this holds."""
    if relation.rows is source.rows:
        is_there = [column.is_not(None) for column in (relation.text, relation.low) if column is not None]
        return sa.and_(*relation.where, *(tests or is_there))
    found = sa.select(sa.literal(1)).select_from(relation.rows)
    where = (relation.seen if is_range else ()) or relation.where
    return found.where(relation.key == source.key, *where, *tests).correlate(source.rows).exists()


def _holds(relation: Relation, test: Test) -> sa.ColumnElement[bool]:
    if isinstance(test, Text):
        return _text_holds(relation, test)
    if relation.low is None or relation.high is None:
        return sa.false()
    held = [compared(test.op, relation.low, relation.high, test.low, test.high)]
    if test.text is not None:
        held.append(sa.false() if relation.text is None else relation.text == test.text)
    if test.space is not None:
        held.append(sa.false() if relation.space is None else relation.space == test.space)
    return sa.and_(*held)


def _text_holds(relation: Relation, test: Text) -> sa.ColumnElement[bool]:
    text, space = relation.text, relation.space
    if text is None:
        return sa.false()
    of_space = [] if test.space is None else [sa.literal(test.space) == "" if space is None else space == test.space]
    if relation.held is not None and test.how == "is":
        return relation.is_one_of([test.text])
    match test.how:
        case "begins":
            return _begins(text, test.text)
        case "contains":
            return text.contains(test.text, autoescape=True)
        case "exact":
            return sa.false() if space is None else sa.and_(text == test.text[:LONGEST], *of_space)
        case "in space":
            return sa.and_(sa.true(), *of_space)
        case "below":
            return sa.or_(text == test.text, _begins(text, test.text.rstrip("/") + "/"))
    return sa.and_(text == test.text, *of_space)


def _begins(text: sa.ColumnElement[Any], start: str) -> sa.ColumnElement[bool]:
    """As a range, so that an index serves whatever the database thinks of LIKE."""
    return sa.and_(text >= start, text < start + _LAST_TEXT)


def compared(op: Op, low: Any, high: Any, begin: Any, end: Any) -> sa.ColumnElement[bool]:
    """How a value, which is a range, stands to the range asked for (R4 3.1.1.4.7)."""
    inside = sa.and_(low >= begin, low <= end, high <= end)
    answers: dict[Op, Callable[[], sa.ColumnElement[bool]]] = {
        "eq": lambda: inside,
        "ne": lambda: sa.not_(inside),
        "lt": lambda: low < begin,
        "gt": lambda: high > end,
        "le": lambda: low <= end,
        "ge": lambda: high >= begin,
        "sa": lambda: low > end,
        "eb": lambda: high < begin,
        "ap": lambda: sa.and_(low <= end, high >= begin),
    }
    return answers[op]()


# -- order -------------------------------------------------------------------------------------------------------------


def _sorted_column(relation: Relation, sort: Sort) -> Any:
    column = relation.text if sort.is_text else relation.low
    assert column is not None
    return column


def _last(sort: Sort) -> Any:
    """Stands for no value: after all others, whichever way it is sorted."""
    if sort.is_text:
        return "" if sort.is_descending else _LAST_TEXT
    return -_LAST_NUMBER if sort.is_descending else _LAST_NUMBER


def _last_of(column: sa.ColumnElement[Any], sort: Sort) -> sa.ColumnElement[Any]:
    """The same in a column of the domain, which may hold times, or dates as text."""
    if isinstance(column.type, t.UtcDateTime):
        edge = datetime.min if sort.is_descending else datetime.max
        return sa.literal(edge.replace(tzinfo=UTC), t.UtcDateTime())
    if isinstance(column.type, sa.String):
        return sa.literal("" if sort.is_descending else _LAST_TEXT)
    return sa.literal(_last(sort))


def _plain(value: Any) -> Any:
    """A value as a cursor has it: times as the index of stored resources has them, so that sources compare."""
    return (value - _EPOCH) / _MILLISECOND if isinstance(value, datetime) else value


def _moment(milliseconds: Any) -> datetime:
    try:
        return _EPOCH + timedelta(milliseconds=milliseconds)
    except OverflowError:
        return (datetime.min if milliseconds < 0 else datetime.max).replace(tzinfo=UTC)
    except TypeError:
        raise Invalid("'_cursor' has to be one that a link of this server has.") from None


def _after(
    sorts: Sequence[Sort],
    after: Sequence[Any],
    number: int,
    keys: Sequence[sa.ColumnElement[Any]],
    key: sa.ColumnElement[Any],
) -> sa.ColumnElement[bool]:
    """What comes after a place in the order: by the values, then by the source, then by age."""
    *values, before, last = after
    if before < number:
        held: sa.ColumnElement[bool] = sa.true()
    elif before > number:
        held = sa.false()
    else:
        held = key < last if _newest_first(sorts) else key > last
    for sort, column, value in reversed(list(zip(sorts, keys, values, strict=True))):
        if isinstance(column.type, t.UtcDateTime):
            value = sa.literal(_moment(value), t.UtcDateTime())
        beyond = column < value if sort.is_descending else column > value
        held = sa.or_(beyond, sa.and_(column == value, held))
    return held


def _compare(sorts: Sequence[Sort], one: Found, other: Found) -> int:
    for index, sort in enumerate(sorts):
        a, b = one.place[index], other.place[index]
        if a != b:
            return (1 if a > b else -1) * (-1 if sort.is_descending else 1)
    a, b = one.place[len(sorts) :], other.place[len(sorts) :]
    if a[0] != b[0]:
        return 1 if a[0] > b[0] else -1
    return (int(a[1] < b[1]) - int(a[1] > b[1])) * (1 if _newest_first(sorts) else -1)


def _newest_first(sorts: Sequence[Sort]) -> bool:
    """How what is the same otherwise is ordered: as the last of the values is, so that one index gives both."""
    return not sorts or sorts[-1].is_descending


def _not_by_index(column: sa.ColumnElement[Any]) -> sa.ColumnElement[Any]:
    """The same value, as no index has it."""
    return column + 0 if isinstance(column.type, sa.Integer) else column.concat("")


def _tied(sorts: Sequence[Sort], key: sa.ColumnElement[Any]) -> sa.ColumnElement[Any]:
    return key.desc() if _newest_first(sorts) else key


def _costs_to_count(condition: Condition) -> int:
    """0 for what an index counts at once."""
    if isinstance(condition, Match) and all(isinstance(test, Text) and test.how == "is" for test in condition.tests):
        return 0
    return 1 if isinstance(condition, Chain | Has) else 2
