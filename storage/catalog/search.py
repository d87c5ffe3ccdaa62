"""Searches of the catalog: terms to SQL, one page of hits back. Every search is narrowed by the caller's Scope.

The statement of a search depends only on its shape, not on its values, and is built once for each shape. A page is cut
from the ids alone, over an index where there is one; only what is on it is then read.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence, Set
from dataclasses import dataclass
from functools import lru_cache
from itertools import chain, takewhile
from typing import Any, Literal, NamedTuple

import sqlalchemy as sa
from sqlalchemy.ext.compiler import compiles

from readingroom.model import Scope
from storage.catalog import schema as t
from storage.catalog.keys import KEYS, LISTED, STEP_KEYS, WORDS, Key, Level
from storage.catalog.listed import header_json
from storage.catalog.matching import Alternative, Condition, How, Term, in_zones

OrderKey = tuple[str | int, ...]
"""The values that a hit is ordered by; they tell it from every other."""

Part = Literal[
    "study.row", "study.extra", "study.header", "series.row", "series.extra", "series.header", "instance.metadata"
]

_TABLES: dict[Level, sa.Table] = {
    "study": t.study,
    "series": t.series,
    "instance": t.instance,
    "work_item": t.work_item,
    "procedure_step": t.procedure_step,
}
_COLUMNS: dict[Level, tuple[sa.ColumnElement[Any], ...]] = {
    "study": (t.study.c.id, t.study.c.study_date),
    "series": (t.series.c.id, t.series.c.series_number),
    "instance": (
        t.instance.c.id,
        t.instance.c.series.label("series_id"),
        t.series.c.series_number,
        t.study.c.study_uid,
        t.series.c.series_uid,
        t.instance.c.instance_uid,
        t.instance.c.sop_class,
        t.instance.c.instance_number,
        t.instance.c.rows,
        t.instance.c.columns,
        t.instance.c.bits_allocated,
        t.instance.c.frame_count,
    ),
}
_PARTS: dict[Part, sa.ColumnElement[bytes]] = {
    "study.row": t.study.c.row,
    "study.extra": t.study.c.extra,
    "study.header": header_json("study"),
    "series.row": t.series.c.row,
    "series.extra": t.series.c.extra,
    "series.header": header_json("series"),
    "instance.metadata": t.instance_metadata.c.json,
}
_OF_STUDY = t.series.alias("series_of_study")
_OFFSETS = sa.select(t.study.c.timezone_offset).where(t.study.c.timezone_offset.is_not(None)).distinct()
_BY_UID = tuple(KEYS[tag] for tag in ("0020000D", "0020000E", "00080018"))

# Keys of which a value names few entities: the index on one of these is the way in.
_NARROW = frozenset((*_BY_UID, *(KEYS[tag] for tag in ("00080050", "00100010", "00100020"))))

_PATIENT_ID, _OTHER_ID = KEYS["00100020"], KEYS["00101002.00100020"]
_SURVIVORS = sa.select(t.patient_merge.c.from_id).where(t.patient_merge.c.undone_at.is_(None)).distinct()

_QUICK_PAGE, _QUICK_OFFSET = 250, 1000

_FEW = 200
"""Rows of one word: for so many it is quicker to look at each person's other words than to list those of everybody."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Search:
    """What to search for, and which page of it.

    Attributes
    ----------
    under
        UIDs of the study, or study and series, to stay below; then children come by number, else the newest first.
    zone
        Timezone Offset From UTC in which the dates and times of `conditions` are meant; empty for each study's own.
    after
        The `order_key` of the last hit of the page before.
    parts
        Stored JSON that hits bring along.
    """

    level: Level
    under: tuple[str, ...] = ()
    conditions: tuple[Condition, ...] = ()
    zone: str = ""
    limit: int
    offset: int = 0
    after: OrderKey | None = None
    parts: tuple[Part, ...] = ()

    @property
    def terms(self) -> Iterator[Term]:
        """All comparisons that are made."""
        for condition in self.conditions:
            yield from chain.from_iterable(condition)

    @property
    def is_narrow(self) -> bool:
        """An index leads to the few hits there can be."""
        return bool(self.under) or any(map(_is_narrow, self.conditions))

    @property
    def is_quick(self) -> bool:
        """It takes less time than a thread would take to begin with it."""
        if self.conditions or self.under:
            return self.is_narrow and self.level != "instance"
        return self.limit <= _QUICK_PAGE and self.offset <= _QUICK_OFFSET


def search(connection: sa.Connection, scope: Scope, wanted: Search) -> Sequence[sa.Row[Any]]:
    """One page of hits, in an order that is the same every time.

    Returns
    -------
    Sequence of Row
        With `id`, the columns of an instance where instances are searched for, and each of `Search.parts` with an
        underscore for the dot.
    """
    if scope.facilities is not None and not scope.facilities:
        return ()
    under = tuple(((Term(key, How.IS, (uid,)),),) for key, uid in zip(_BY_UID, wanted.under, strict=False))
    conditions = (*under, *wanted.conditions)
    if wanted.zone:
        offsets = list(connection.execute(_OFFSETS).scalars())
        conditions = tuple(in_zones(condition, wanted.zone, offsets) for condition in conditions)
    conditions = tuple(tuple(_rarest_first(connection, terms) for terms in condition) for condition in conditions)
    conditions = tuple(_with_survivors(connection, scope, condition) for condition in conditions)
    facilities = sorted(scope.facilities or ())
    statement = _statement(
        _Shape(
            level=wanted.level,
            conditions=tuple(map(_shape, conditions)),
            by_number=bool(under),
            facilities=min(len(facilities), 2),
            continued=wanted.after is not None,
            is_narrow=wanted.is_narrow,
            parts=wanted.parts,
        )
    )
    values: dict[str, Any] = {"limit": wanted.limit, "offset": wanted.offset}
    if facilities:
        values["facilities"] = facilities if len(facilities) > 1 else facilities[0]
    values.update((f"after_{index}", value) for index, value in enumerate(wanted.after or ()))
    return connection.execute(statement, values | bound(conditions)).all()


def bound(conditions: tuple[Condition, ...]) -> dict[str, Any]:
    """The values that a statement with the tests of `conditions` is run with."""
    values: dict[str, Any] = {}
    for name, term in _named(conditions):
        if term.how is How.ANY_OF:
            values[f"{name}_0"] = list(term.values)
        else:
            values.update((f"{name}_{index}", value) for index, value in enumerate(term.values))
    return values


def _with_survivors(connection: sa.Connection, scope: Scope, condition: Condition) -> Condition:
    """The same condition; of a Patient ID that was merged, also what has become the survivor's and tells that id."""
    if not any(term.key is _PATIENT_ID for terms in condition for term in terms):
        return condition
    found = list(condition)
    for terms in condition:
        for index, term in enumerate(terms):
            if term.key is not _PATIENT_ID or term.how not in (How.IS, How.ANY_OF):
                continue
            survivors = _SURVIVORS.where(t.patient_merge.c.from_id.in_([str(value) for value in term.values]))
            if scope.facilities is not None:
                survivors = survivors.where(t.patient_merge.c.facility.in_(sorted(scope.facilities)))
            told = connection.execute(survivors).scalars()
            found += [(*terms[:index], Term(_OTHER_ID, How.IS, (old,)), *terms[index + 1 :]) for old in told]
    return tuple(found)


def _rarest_first(connection: sa.Connection, terms: Alternative) -> Alternative:
    """The same terms, so that the rarest of several words leads to the persons: a family name may be everybody's."""
    words = [term for term in terms if term.how is How.WORD]
    if len(words) < 2:
        return terms
    counted = [
        (
            connection.execute(_count(term.key, term.group), dict(zip("012", term.values, strict=True))).scalar_one(),
            term,
        )
        for term in words
    ]
    (count, rarest), *others = sorted(counted, key=lambda pair: pair[0])
    if count >= _FEW:
        return terms
    further = (term._replace(how=How.FURTHER_WORD) for _, term in others)
    return (rarest, *further, *(term for term in terms if term.how is not How.WORD))


@lru_cache(maxsize=64)
def _count(key: Key, group: int | None) -> sa.Select[Any]:
    """How many rows hold a word, up to `_FEW`."""
    rows = _of_word(
        Term(key, How.WORD, (), group), LISTED[key.level].c, [sa.bindparam(name, type_=sa.Text()) for name in "012"]
    )
    few = sa.union_all(*(sa.select(one.limit(_FEW).subquery()) for one in rows)).limit(_FEW).subquery()
    return sa.select(sa.func.count()).select_from(few)


def order_key(level: Level, hit: sa.Row[Any], *, is_under: bool = False) -> OrderKey:
    """Where the page after this hit begins, in the order of a search under a parent, or of one across the archive."""
    if level == "study":
        return hit.study_date, hit.id
    if not is_under:
        return (hit.id,)
    if level == "series":
        return *_numbered(hit.series_number), hit.id
    return *_numbered(hit.series_number), hit.series_id, *_numbered(hit.instance_number), hit.id


def order_key_types(level: Level, *, is_under: bool = False) -> tuple[type[int] | type[str], ...]:
    """What the parts of an `order_key` are."""
    if level == "study":
        return str, str
    if not is_under:
        return (str,)
    return (int, int, str) if level == "series" else (int, int, str, int, int, str)


def _numbered(number: int | None) -> tuple[int, int]:
    """A series or instance number so that it sorts as the databases' NULLS LAST does."""
    return (1, 0) if number is None else (0, number)


class _Shape(NamedTuple):
    """All of a search but its values: two searches of one shape share a statement."""

    level: Level
    conditions: tuple[Condition, ...]
    by_number: bool
    facilities: int
    continued: bool
    is_narrow: bool
    parts: tuple[Part, ...]


def _shape(condition: Condition) -> Condition:
    return tuple(tuple(Term(key, how, (), group) for key, how, _, group in terms) for terms in condition)


def _is_narrow(condition: Condition) -> bool:
    return all(any(term.key in _NARROW and term.how in (How.IS, How.ANY_OF) for term in terms) for terms in condition)


def _named(conditions: tuple[Condition, ...]) -> Iterator[tuple[str, Term]]:
    """The terms, and what the names of their bound values begin with."""
    for c, condition in enumerate(conditions):
        for a, terms in enumerate(condition):
            for number, term in enumerate(terms):
                yield f"v{c}_{a}_{number}", term


class not_by_index(sa.sql.functions.GenericFunction[str]):
    """A column that is no way in; PostgreSQL knows by its statistics."""

    type = sa.String()
    inherit_cache = True


@compiles(not_by_index)
def _plain(element: not_by_index, compiler: sa.sql.compiler.SQLCompiler, **kwargs: Any) -> str:
    return compiler.process(element.clauses, **kwargs)


@compiles(not_by_index, "sqlite")
def _with_plus(element: not_by_index, compiler: sa.sql.compiler.SQLCompiler, **kwargs: Any) -> str:
    return "+" + compiler.process(element.clauses, **kwargs)


@lru_cache(maxsize=512)
def _statement(shape: _Shape) -> sa.Select[Any]:
    own = _TABLES[shape.level]
    order: list[sa.ColumnElement[Any]]
    if own is t.study:
        order = [t.study.c.study_date.desc(), t.study.c.id.desc()]
    elif not shape.by_number:
        order = [own.c.id.desc()]
    else:
        order = [t.series.c.series_number.nulls_last(), t.series.c.id]
        if own is t.instance:
            order += [t.instance.c.instance_number.nulls_last(), t.instance.c.id]
    page = (
        sa.select(own.c.id)
        .select_from(_joined(shape.level, _needed(shape)))
        .where(*_where(shape))
        .order_by(*order)
        .limit(sa.bindparam("limit", type_=sa.Integer))
        .offset(sa.bindparam("offset", type_=sa.Integer))
        .subquery("page")
    )
    parts = (_PARTS[part].label(part.replace(".", "_")) for part in shape.parts)
    joined = _joined(shape.level, {t.study, t.series})
    if "instance.metadata" in shape.parts:
        joined = joined.join(t.instance_metadata, t.instance_metadata.c.instance == t.instance.c.id)
    return (
        sa.select(*_COLUMNS[shape.level], *parts).select_from(joined.join(page, own.c.id == page.c.id)).order_by(*order)
    )


def _joined(level: Level, needed: Set[sa.Table]) -> sa.FromClause:
    joined: sa.FromClause = _TABLES[level]
    if level == "instance" and t.series in needed:
        joined = joined.join(t.series, t.instance.c.series == t.series.c.id)
    if level != "study" and t.study in needed:
        joined = joined.join(t.study, _TABLES[level].c.study == t.study.c.id)
    return joined


def _needed(shape: _Shape) -> set[sa.Table]:
    """The tables above that a page is cut by; the ids of instances are listed quicker without."""
    terms = [term for condition in shape.conditions for terms in condition for term in terms]
    needed = {_TABLES[term.key.level] for term in terms}
    if shape.facilities or any(term.how in (How.ZONE, How.NO_ZONE) for term in terms):
        needed.add(t.study)
    if shape.by_number:
        needed.add(t.series)
    return needed


def _where(shape: _Shape) -> Iterator[sa.ColumnElement[bool]]:
    if shape.level == "instance":
        yield t.instance.c.is_current
    else:
        yield _is_inhabited(_TABLES[shape.level])
    if shape.facilities:
        owner: sa.ColumnElement[str] = t.study.c.owner_facility
        if shape.is_narrow or shape.facilities > 1:
            owner = not_by_index(owner)  # SQLite would take the index of a facility for its order
        names: sa.BindParameter[Any] = sa.bindparam("facilities", expanding=shape.facilities > 1)
        yield owner.in_(names) if shape.facilities > 1 else owner == names
    if shape.continued:
        yield _is_after(shape.level, is_under=shape.by_number)
    yield from holds(shape.conditions)


def holds(conditions: tuple[Condition, ...]) -> Iterator[sa.ColumnElement[bool]]:
    """That all conditions hold; their values are bound with `bound`."""
    in_items: dict[tuple[Level, str], list[tuple[Key, sa.FromClause]]] = defaultdict(list)
    for c, condition in enumerate(conditions):
        key = condition[0][0].key
        alternatives = [(f"v{c}_{a}", terms) for a, terms in enumerate(condition)]
        if not all(map(_is_of_values, chain.from_iterable(condition))):
            yield sa.or_(*(sa.and_(*_tests(terms, name)) for name, terms in alternatives))
            continue
        found = [_rows(terms, name) for name, terms in alternatives]
        rows = (sa.union_all(*found) if len(found) > 1 else found[0]).subquery()
        if len(key.path) > 1:
            in_items[key.level, key.path[0]].append((key, rows))
        else:
            # Distinct, so that PostgreSQL lists them first and never looks for the values of one study after the other.
            yield _TABLES[key.level].c.id.in_(sa.select(rows.c.entity).distinct())
    for (level, _), keyed in in_items.items():
        yield _TABLES[level].c.id.in_(_in_one_item(keyed))


def _is_of_values(term: Term) -> bool:
    """Whether rows of values say what a term asks for, and nothing else does."""
    return term.key.is_listed and term.how not in (How.EMPTY, How.ZONE, How.NO_ZONE)


def _tests(terms: Alternative, name: str) -> Iterator[sa.ColumnElement[bool]]:
    """What columns say of an alternative; names of bound values begin with `name`."""
    for number, term in enumerate(terms):
        if not _is_of_values(term):
            yield _test(term, f"{name}_{number}")
        else:
            rows = _holding([(f"{name}_{number}", term)]).subquery()
            yield _TABLES[term.key.level].c.id.in_(sa.select(rows.c.entity))


def _rows(terms: Alternative, name: str) -> sa.Select[Any]:
    """Entity and item of the rows of values that an alternative asks for.

    Several terms are of one person: a pattern is of one row of a name, words are of any.
    """
    by_row: dict[object, list[tuple[str, Term]]] = defaultdict(list)
    further = []
    for number, term in enumerate(terms):
        if term.how is How.FURTHER_WORD:
            further.append((f"{name}_{number}", term))
            continue
        by_row[number if term.how is How.WORD else ("group", term.group)].append((f"{name}_{number}", term))
    found = [_holding(named) for named in by_row.values()]
    rows = (sa.intersect(*found) if len(found) > 1 else found[0]).subquery()
    return sa.select(rows.c.entity, rows.c.item).where(*(_has_word(rows, *named) for named in further))


def _has_word(rows: sa.FromClause, name: str, term: Term) -> sa.ColumnElement[bool]:
    """Whether the person of a row has that word too."""
    held = LISTED[term.key.level].alias().c
    same = (held.entity == rows.c.entity, held.item == rows.c.item, held.number // 3 == rows.c.person)
    return sa.or_(*(one.where(*same).exists() for one in _of_word(term, held, _word_parameters(name))))


def _of_word(
    term: Term, held: sa.ColumnCollection[str, sa.ColumnElement[Any]], values: Sequence[sa.BindParameter[Any]]
) -> list[sa.Select[Any]]:
    """Entity, item and person of the rows that hold a word or what begins with it, and of those that sound so."""
    starts, ends, sound = values
    rows = sa.select(held.entity, held.item, (held.number // 3).label("person"))
    rows = rows.where(held.key == WORDS + term.key.name)
    if term.group is not None:
        rows = rows.where(held.number % 3 == term.group)
    return [rows.where(held.value >= starts, held.value < ends), rows.where(held.value == sound)]


def _word_parameters(name: str) -> list[sa.BindParameter[Any]]:
    return [sa.bindparam(f"{name}_{index}", type_=sa.Text()) for index in range(3)]


def _holding(named: Sequence[tuple[str, Term]]) -> sa.Select[Any]:
    """Entity, item and person of the rows of values that hold what each of these terms of one key asks for."""
    name, term = named[0]
    held = LISTED[term.key.level].c
    if term.how is How.WORD:
        either = sa.union_all(*_of_word(term, held, _word_parameters(name))).subquery()
        return sa.select(either.c.entity, either.c.item, either.c.person)
    person = (held.number // 3).label("person") if term.key.vr == "PN" else held.number.label("person")
    rows = sa.select(held.entity, held.item, person)
    if term.group is not None:
        rows = rows.where(held.number % 3 == term.group)
    tests = [_compare(held.value, term, name) for name, term in named]
    return rows.where(held.key == term.key.name, *tests)


def _in_one_item(keyed: Sequence[tuple[Key, sa.FromClause]]) -> sa.Select[Any]:
    """The entities that have one item of a sequence for which all conditions hold (PS3.4 C.2.2.2.6).

    Of conditions on different depths, the items that they share are the same.
    """
    (_, first), *others = keyed
    joined = first
    for number, (key, rows) in enumerate(others, 1):
        same = [rows.c.entity == first.c.entity]
        for earlier_key, earlier in keyed[:number]:
            shared = takewhile(lambda both: both[0] == both[1], zip(key.path[:-1], earlier_key.path[:-1], strict=False))
            digits = 4 * len(list(shared))
            same.append(sa.func.substr(rows.c.item, 1, digits) == sa.func.substr(earlier.c.item, 1, digits))
        joined = joined.join(rows, sa.and_(*same))
    return sa.select(first.c.entity).select_from(joined)


def _is_after(level: Level, *, is_under: bool) -> sa.ColumnElement[bool]:
    """Whether an entity comes after the one whose `order_key` is bound."""
    types = order_key_types(level, is_under=is_under)
    values = sa.tuple_(
        *(
            sa.bindparam(f"after_{n}", type_=sa.BigInteger() if kind is int else sa.Text())
            for n, kind in enumerate(types)
        )
    )
    if level == "study":
        return sa.tuple_(t.study.c.study_date, t.study.c.id) < values
    if not is_under:
        return sa.tuple_(_TABLES[level].c.id) < values
    columns: list[sa.ColumnElement[Any]] = [*_nulls_last(t.series.c.series_number), t.series.c.id]
    if level == "instance":
        columns += [*_nulls_last(t.instance.c.instance_number), t.instance.c.id]
    return sa.tuple_(*columns) > values


def _nulls_last(number: sa.ColumnElement[int]) -> tuple[sa.ColumnElement[int], sa.ColumnElement[int]]:
    """In SQL what `_numbered` is."""
    big = sa.BigInteger()
    return sa.cast(sa.case((number.is_(None), 1), else_=0), big), sa.func.coalesce(number, 0, type_=big)


def _is_inhabited(table: sa.FromClause) -> sa.ColumnElement[bool]:
    """What all instances have left is not found; the zero is spelled out, as partial indexes ask for."""
    return table.c.instance_count > sa.literal_column("0")


def _test(term: Term, name: str) -> sa.ColumnElement[bool]:
    key, column = term.key, term.key.column
    if key.is_listed and term.how is How.EMPTY:
        listed = LISTED[key.level].c
        return _TABLES[key.level].c.id.not_in(sa.select(listed.entity).where(listed.key == key.name))
    if column.table is t.series and key.level == "study":
        series = sa.exists().where(_OF_STUDY.c.study == t.study.c.id, _is_inhabited(_OF_STUDY))
        held = _OF_STUDY.c[column.name]
        return ~series.where(held.is_not(None)) if term.how is How.EMPTY else series.where(_compare(held, term, name))
    return _compare(column, term, name)


def _compare(column: sa.ColumnElement[Any], term: Term, name: str) -> sa.ColumnElement[bool]:
    kind = sa.BigInteger() if isinstance(column.type, sa.Integer) else sa.String()  # not the column's own collation
    value = [sa.bindparam(f"{name}_{index}", type_=kind) for index in range(4)]
    match term.how:
        case How.IS:
            return column == value[0]
        case How.ANY_OF:
            return column.in_(sa.bindparam(f"{name}_0", expanding=True, type_=kind))
        case How.PREFIX:
            return sa.and_(column >= value[0], column < value[1])
        case How.LIKE:
            return column.like(value[0], escape="!")
        case How.HOLDS:
            return sa.literal_column("'\\'", sa.Text).concat(column).like(value[0], escape="!")
        case How.BETWEEN:
            return column.between(value[0], value[1])
        case How.MOMENT:
            keys = STEP_KEYS if term.key.level == "procedure_step" else KEYS
            time = sa.func.coalesce(keys[term.key.partner].column, "000000.000000")
            return sa.and_(
                column.between(value[0], value[2]),
                sa.or_(column > value[0], time >= value[1]),
                sa.or_(column < value[2], time <= value[3]),
            )
        case How.EMPTY:
            return sa.or_(column.is_(None), column == "") if isinstance(column.type, sa.Text) else column.is_(None)
        case How.WORD | How.FURTHER_WORD:
            raise AssertionError("words are rows of their own")
        case How.ZONE:
            return t.study.c.timezone_offset == value[0]
        case How.NO_ZONE:
            return t.study.c.timezone_offset.is_(None)
