"""Whether a data set holds what is asked for: the terms of `storage.catalog.matching`, looked at one by one.

It is for what there are few of, and gives what `storage.catalog.search` gives by SQL; a test compares them.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from functools import lru_cache
from itertools import chain

from storage.catalog.keys import TIMEZONE, WORDS, Key, any_key
from storage.catalog.listed import values_of
from storage.catalog.matching import Alternative, Condition, How, Term, in_zones
from storage.catalog.normal import OFFSET
from storage.dicomjson import MetadataJson, first_value

_MIDNIGHT = "000000.000000"
_DIGITS = 4
"""Of the number of an item; an item in several sequences has so many for each."""

_Rows = dict[str, list[tuple[str, str, int]]]
"""Value, item and number by key, as `storage.catalog.listed` lists them."""


def holds(data_set: MetadataJson, conditions: Iterable[Condition], zone: str = "") -> bool:
    """Whether a data set meets all conditions, those on one sequence in the same item of it (PS3.4 C.2.2.2.6).

    Parameters
    ----------
    zone
        Timezone Offset From UTC in which the dates and times of `conditions` are meant; empty for the data set's own.
    """
    offset = first_value(data_set, TIMEZONE)
    own = offset if isinstance(offset, str) and OFFSET.fullmatch(offset) else ""
    asked = [in_zones(one, zone, [own] if own else []) if zone else one for one in conditions]
    rows = _rows(data_set, asked)
    in_items: dict[str, list[tuple[tuple[str, ...], set[str]]]] = defaultdict(list)
    for condition in asked:
        key = condition[0][0].key
        items = set(chain.from_iterable(_items(terms, rows, own) for terms in condition))
        if not items:
            return False
        if len(key.path) > 1 and condition[0][0].how is not How.EMPTY:
            in_items[key.tag].append((key.path[:-1], items))
    return all(_share_an_item(keyed) for keyed in in_items.values())


def _rows(data_set: MetadataJson, conditions: Sequence[Condition]) -> _Rows:
    keys: dict[str, Key] = {}
    for term in chain.from_iterable(chain.from_iterable(conditions)):
        keys[term.key.name] = term.key
        partner = any_key(term.key.partner) if term.how is How.MOMENT else None
        if partner:
            keys[partner.name] = partner
    rows: _Rows = defaultdict(list)
    for name, value, item, number in values_of(data_set, list(keys.values())):
        rows[name].append((value, item, number))
    return rows


def _items(terms: Alternative, rows: _Rows, zone: str) -> set[str]:
    """The items in which all terms of an alternative hold; an empty name stands for the data set itself.

    Terms of a name are of one person: a pattern is of one component group, words are of any.
    """
    found: set[tuple[str, int]] | None = None
    by_row: dict[object, list[Term]] = defaultdict(list)
    for number, term in enumerate(terms):
        match term.how:
            case How.EMPTY:
                return set() if rows.get(term.key.name) else {""}
            case How.ZONE | How.NO_ZONE:
                if zone != (term.values[0] if term.values else ""):
                    return set()
            case How.MOMENT:
                return {""} if _is_then(term, rows) else set()
            case How.WORD:
                by_row[number].append(term)
            case _:
                by_row["group", term.group].append(term)
    for together in by_row.values():
        pairs = _pairs(together, rows)
        found = pairs if found is None else found & pairs
    return {item for item, _ in found or ()}


def _pairs(terms: Sequence[Term], rows: _Rows) -> set[tuple[str, int]]:
    """Item and person of the values that hold what each of these terms of one key asks for."""
    key, group = terms[0].key, terms[0].group
    values = rows.get(WORDS + key.name if terms[0].how is How.WORD else key.name, ())
    is_name = key.vr == "PN"
    return {
        (item, number // 3 if is_name else number)
        for value, item, number in values
        if (group is None or number % 3 == group) and all(_is_so(value, term) for term in terms)
    }


def _is_so(value: str, term: Term) -> bool:
    first, *others = map(str, term.values)
    match term.how:
        case How.IS | How.ANY_OF:
            return value == first or value in others
        case How.PREFIX:
            return first <= value < others[0]
        case How.BETWEEN:
            return first <= value <= others[0]
        case How.LIKE:
            return _is_like(value, _tokens(first))
        case How.WORD:
            return first <= value < others[0] or value == others[1]
        case _:
            raise AssertionError(f"{term.how} is not compared with one value")


def _is_then(term: Term, rows: _Rows) -> bool:
    """Date and time as one (PS3.4 C.2.2.2.5.4); without a time, the beginning of the day."""
    first, last = map(str, term.values[:2]), map(str, term.values[2:])
    dates, times = (rows.get(name, []) for name in (term.key.name, term.key.partner))
    return bool(dates) and tuple(first) <= (dates[0][0], times[0][0] if times else _MIDNIGHT) <= tuple(last)


def _share_an_item(keyed: Sequence[tuple[tuple[str, ...], set[str]]], depth: int = 0) -> bool:
    """Whether items can be chosen so that what is asked of one sequence holds in one item of it, at every depth."""
    by_sequence: dict[str, list[tuple[tuple[str, ...], set[str]]]] = defaultdict(list)
    for path, items in keyed:
        if len(path) > depth:
            by_sequence[path[depth]].append((path, items))
    start, stop = _DIGITS * depth, _DIGITS * (depth + 1)
    for together in by_sequence.values():
        numbers = set.intersection(*({item[start:stop] for item in items} for _, items in together))
        if not any(
            _share_an_item(
                [(path, {item for item in items if item[start:stop] == number}) for path, items in together], depth + 1
            )
            for number in numbers
        ):
            return False
    return True


_ANY, _ONE = object(), object()


@lru_cache(maxsize=512)
def _tokens(pattern: str) -> tuple[object, ...]:
    """An SQL pattern, escaped with ``!``: characters, and what stands for any or one of them."""
    characters = iter(pattern)
    return tuple(next(characters) if one == "!" else {"%": _ANY, "_": _ONE}.get(one, one) for one in characters)


def _is_like(value: str, tokens: Sequence[object]) -> bool:
    """Whether a value is of a pattern, in time that grows with the product of their lengths and no faster."""
    at = token = 0
    star, retry = -1, 0
    while at < len(value):
        if token < len(tokens) and (tokens[token] is _ONE or tokens[token] == value[at]):
            at, token = at + 1, token + 1
        elif token < len(tokens) and tokens[token] is _ANY:
            star, retry = token, at
            token += 1
        elif star >= 0:
            retry += 1
            at, token = retry, star + 1
        else:
            return False
    return all(one is _ANY for one in tokens[token:])
