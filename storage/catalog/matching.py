"""What a value of a matching key asks for: the matching of PS3.4 C.2.2.2, for QIDO and C-FIND alike.

A value becomes a `Condition`: a set of alternatives, each a set of terms that must all hold. `storage.catalog.search`
turns terms into SQL.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from datetime import timedelta
from enum import Enum, auto
from itertools import chain
from typing import Literal, NamedTuple

from readingroom.errors import Invalid
from storage.catalog import schema as t
from storage.catalog.keys import KEYS, Key
from storage.catalog.normal import (
    LOCAL,
    LONGEST,
    OFFSET,
    UTC,
    fold_name,
    in_utc,
    join_word,
    name_words,
    normal_day,
    normal_moment,
    normal_number,
    normal_time,
    offset_minutes,
    shifted,
    sound_of,
)

_VALUE, _UIDS, _WILD, _RANGE, _FUZZY = "single value", "list of UIDs", "wild card", "range", "fuzzy"

MATCHING: Mapping[str, tuple[str, ...]] = {
    **dict.fromkeys(("AE", "CS", "LO", "LT", "SH", "ST", "UC", "UR", "UT"), (_VALUE, _WILD)),
    **dict.fromkeys(("AS", "AT"), (_VALUE,)),
    **dict.fromkeys(("DS", "FD", "FL", "IS", "SL", "SS", "SV", "UL", "US", "UV"), (_VALUE,)),
    **dict.fromkeys(("DA", "DT", "TM"), (_VALUE, _RANGE)),
    "PN": (_VALUE, _WILD, _FUZZY),
    "UI": (_VALUE, _UIDS),
}
"""The kinds of matching by VR (PS3.4 C.2.2.2); universal and empty value matching are done for all."""

_MOST_VALUES = 1000
_MOST_ALTERNATIVES = 24  # SQLite takes expressions 1,000 deep, and each may be asked in every time zone
_FIRST_DATE, _LAST_DATE = "0", "~"  # sort before and after every date, but not before an unknown one, which is empty
_FIRST_TIME, _LAST_TIME = "000000.000000", "235960.999999"
_FIRST_MOMENT, _LAST_MOMENT = "00000000000000.000000", "99999999999999.999999"
_DT = r"[0-9]{4,14}(?:\.[0-9]{1,6})?(?:[+-](?:0[0-9]|1[0-4])[0-5][0-9])?"
_MOMENTS = re.compile(rf"({_DT})|({_DT})? *- *({_DT})?")
_WITHIN_A_WORD = re.compile(r"\w\*+\w")
_END = "\U0010ffff"  # sorts after every text that begins like what stands before it


class How(Enum):
    """How a column is compared with the values of a term."""

    IS = auto()
    ANY_OF = auto()
    PREFIX = auto()
    """Two values: where texts that begin so begin, and where they end."""
    LIKE = auto()
    """An SQL pattern, escaped with ``!``."""
    HOLDS = auto()
    """The same, on a list of which each entry ends with a backslash."""
    BETWEEN = auto()
    """Two values, both included."""
    MOMENT = auto()
    """A date, the time on it, a last date, the time on it: PS3.4 C.2.2.2.5.4."""
    WORD = auto()
    """A word of a name that begins so: two values, as for `PREFIX`; or that sounds so: the third, empty for none."""
    FURTHER_WORD = auto()
    """The same, of persons whom a word has found already."""
    EMPTY = auto()
    ZONE = auto()
    NO_ZONE = auto()


class Term(NamedTuple):
    """One comparison; `group` is the component group of a person name, None for any."""

    key: Key
    how: How
    values: tuple[str | int, ...] = ()
    group: int | None = None


Alternative = tuple[Term, ...]
Condition = tuple[Alternative, ...]


def parse(
    values: Mapping[str, str],
    *,
    keys: Mapping[str, Key] = KEYS,
    zone: str = "",
    is_fuzzy: bool = False,
    empty_values: bool = False,
    multiple_values: bool = False,
) -> list[Condition]:
    """What the values of a request ask for; universal matching asks for nothing.

    Parameters
    ----------
    values
        By name, each in `keys`. Backslashes stand between several values, or commas for UI and CS.
    keys
        By name, with the partners of dates.
    zone
        Timezone Offset From UTC in which dates and times are meant: then they are moments, as `in_zones` takes them.
        Empty for each data set's own.
    is_fuzzy
        Whether names also match by their words, whatever the order, and by how these sound (PS3.4 C.2.2.2.1.1).
    empty_values
        Whether two double quotes match what has no value (PS3.4 C.2.2.2.7).
    multiple_values
        Whether all values of a list have to be there, in attributes that may have several (PS3.4 C.2.2.2.8). What a
        list means otherwise the standard leaves open: here, that any of its values matches.

    Raises
    ------
    Invalid
        A value is none of its attribute's VR; the message names the attribute, not the value.
    """
    asked = {keys[name]: value.strip() for name, value in values.items() if value.strip(" *")}
    for key, value in asked.items():
        if "\0" in value:
            raise _invalid(key, "text without NUL characters")
        if value.count("\\") + value.count(",") >= _MOST_VALUES:
            raise _invalid(key, f"at most {_MOST_VALUES} values")
    conditions: list[Condition] = []
    if empty_values:
        conditions = [((Term(key, How.EMPTY),),) for key, value in asked.items() if value == '""']
        asked = {key: value for key, value in asked.items() if value != '""'}
    for date in [key for key in asked if key.partner]:
        time = keys[date.partner]
        days = _spans(date, asked[date])
        if combined := _combined(date, days, _spans(time, asked.get(time, "")), bool(zone)):
            conditions.append(combined)
            asked.pop(time)
        else:
            conditions.append(_whole_days(date, days) if zone else _days(date, days))
        asked.pop(date)
    for key, value in asked.items():
        for part in _all_of(key, value) if multiple_values and key.is_multiple else [value]:
            if key.vr == "PN":
                conditions.append(_names(key, part, is_fuzzy))
            elif key.vr == "DT":
                conditions.append(_moments(key, part, zone))
            else:
                conditions.append(_PARSERS[key.vr](key, part))
    for condition in conditions:
        if len(condition) > _MOST_ALTERNATIVES:
            raise _invalid(condition[0][0].key, f"at most {_MOST_ALTERNATIVES} values with wild cards")
    return [condition for condition in conditions if condition and all(condition)]


def zone_minutes(offset: str) -> int:
    """Minutes east of UTC of a Timezone Offset From UTC such as ``+0530``; raises `Invalid` where it is none."""
    if not OFFSET.fullmatch(offset):
        raise Invalid("TimezoneOffsetFromUTC has to be ±HHMM, between -1459 and +1459 (a + is written %2B).")
    return offset_minutes(offset)


def in_zones(condition: Condition, zone: str, offsets: list[str]) -> Condition:
    """A condition whose dates and times are meant in `zone`, for studies whose own are in any of `offsets`.

    Studies that do not say their offset are taken to share the zone of the request.
    """
    asked = zone_minutes(zone)
    alternatives = list[Alternative]()
    for alternative in condition:
        if not any(map(_is_zoned, alternative)):
            alternatives.append(alternative)
            continue
        key = alternative[0].key
        alternatives.append((Term(key, How.NO_ZONE), *alternative))
        for offset in offsets:
            shift = timedelta(minutes=zone_minutes(offset) - asked)
            moved = [_shifted(term, shift) for term in alternative]
            alternatives += [(Term(key, How.ZONE, (offset,)), *terms) for terms in _product(moved)]
    return tuple(alternatives)


class _Span(NamedTuple):
    first: str
    last: str
    form: Literal["single", "closed", "since", "until"]


def _spans(key: Key, value: str) -> list[_Span]:
    """The dates or times of a value (PS3.4 C.2.2.2.5); what is not precise spans all that it may mean."""
    return [_span(key, one.strip()) for one in value.split("\\") if one.strip()]


def _span(key: Key, value: str) -> _Span:
    is_date = key.vr == "DA"
    first, dash, last = (part.strip() for part in value.partition("-"))
    since = normal_day(first) if is_date else normal_time(first)
    until = normal_day(last) if is_date else normal_time(last, latest=True)
    if not dash:
        end = since if is_date else normal_time(first, latest=True)
        if since and end:
            return _Span(since, end, "single")
    elif since and until:
        return _Span(since, until, "closed")
    elif since and not last:
        return _Span(since, _LAST_DATE if is_date else _LAST_TIME, "since")
    elif until and not first:
        return _Span(_FIRST_DATE if is_date else _FIRST_TIME, until, "until")
    wanted = "YYYYMMDD" if is_date else "HHMMSS.FFFFFF or its beginning"
    raise _invalid(key, f"{wanted}, or a range of them")


def _combined(date: Key, dates: list[_Span], times: list[_Span], is_zoned: bool) -> Condition | None:
    """Date and time as one (PS3.4 C.2.2.2.5.4); None where they are matched each for itself."""
    if len(dates) != 1 or len(times) != 1:
        return None
    (day,), (time,) = dates, times
    if (day.form == time.form != "single") or (is_zoned and day.form == "single"):
        return ((Term(date, How.MOMENT, (day.first, time.first, day.last, time.last)),),)
    return None


def _whole_days(date: Key, days: list[_Span]) -> Condition:
    return tuple((Term(date, How.MOMENT, (day.first, _FIRST_TIME, day.last, _LAST_TIME)),) for day in days)


def _days(key: Key, days: list[_Span]) -> Condition:
    return tuple(
        (Term(key, How.IS, (day.first,)) if day.form == "single" else Term(key, How.BETWEEN, (day.first, day.last)),)
        for day in days
    )


def _dates(key: Key, value: str) -> Condition:
    return _days(key, _spans(key, value))


def _times(key: Key, value: str) -> Condition:
    return tuple((Term(key, How.BETWEEN, (time.first, time.last)),) for time in _spans(key, value))


def _moments(key: Key, value: str, zone: str) -> Condition:
    """DT (PS3.4 C.2.2.2.5.3): by the clock of each data set, or in UTC where an offset is given.

    Moments of data sets that do not say their offset are taken to share that of the request.
    """
    alternatives: list[Alternative] = []
    for one in filter(None, map(str.strip, value.split("\\"))):
        found = _MOMENTS.fullmatch(one)
        single, since, until = found.groups() if found else (None, None, None)
        first, last = normal_moment(single or since or ""), normal_moment(single or until or "")
        if not (first or last) or (since and not first) or (until and not last):
            raise _invalid(key, "YYYYMMDDHHMMSS.FFFFFF&ZZXX or its beginning, or a range of them")
        ends = [first[0] if first else _FIRST_MOMENT, last[1] if last else _LAST_MOMENT]
        offsets = [(end and end[2]) or zone for end in (first, last)]
        if any(offsets):
            moved = [in_utc(end, offset) if offset else end for end, offset in zip(ends, offsets, strict=True)]
            alternatives.append((Term(key, How.BETWEEN, (UTC + moved[0], UTC + moved[1])),))
            alternatives.append((Term(key, How.BETWEEN, (LOCAL + ends[0], LOCAL + ends[1])),))
        else:
            alternatives.append((Term(key, How.BETWEEN, (ends[0], ends[1])),))
    return tuple(alternatives)


def _numbers(key: Key, value: str) -> Condition:
    numbers = [one.strip() for one in value.split("\\") if one.strip()]
    if not all(re.fullmatch(r"[+-]?[0-9]{1,18}", number) for number in numbers):
        raise _invalid(key, "a whole number")
    if key.is_listed:
        return _exactly(key, [str(int(number)) for number in numbers])
    return _exactly(key, [int(number) for number in numbers])


def _decimals(key: Key, value: str) -> Condition:
    numbers = [normal_number(key.vr, one.strip()) for one in value.split("\\") if one.strip()]
    known = [number for number in numbers if number is not None]
    if len(known) < len(numbers):
        raise _invalid(key, "a number")
    return _exactly(key, known)


def _uids(key: Key, value: str) -> Condition:
    uids = [uid.strip() for uid in re.split(r"[,\\]", value) if uid.strip()]
    if key.column is t.study.c.sop_classes:
        return tuple((Term(key, How.HOLDS, (f"%\\{_escaped(uid)}\\%",)),) for uid in uids)
    return _exactly(key, uids)


def _codes(key: Key, value: str) -> Condition:
    # A comma is no character of a CS, and viewers send lists so: ModalitiesInStudy=CT,MR.
    return _texts(key, value.replace(",", "\\"))


def _texts(key: Key, value: str) -> Condition:
    texts = [one.strip() for one in value.split("\\") if one.strip()]
    plain = [one for one in texts if not _is_wild(one)]
    return _exactly(key, plain) + tuple(_pattern(key, one) for one in texts if _is_wild(one))


def _one_text(key: Key, value: str) -> Condition:
    """LT ST UT UR: one value, in which a backslash is a character."""
    return (_pattern(key, value),)


def _plain(key: Key, value: str) -> Condition:
    """AS AT: no wild cards (PS3.4 C.2.2.2.4)."""
    texts = [one.strip().upper() for one in value.split("\\") if one.strip()]
    form = "[0-9A-F]{8}" if key.vr == "AT" else "[0-9]{3}[DWMY]"
    if not all(re.fullmatch(form, one) for one in texts):
        raise _invalid(key, "eight hex digits" if key.vr == "AT" else "nnnD, nnnW, nnnM or nnnY")
    return _exactly(key, texts)


def _names(key: Key, value: str, is_fuzzy: bool) -> Condition:
    """Each component group against its own, one without ``=`` against any; without case and accents."""
    names = [one for one in value.split("\\") if one.strip()]
    return tuple(chain.from_iterable(_name(key, name, is_fuzzy) for name in names))


def _name(key: Key, name: str, is_fuzzy: bool) -> Condition:
    groups = name.split("=")
    if len(groups) > 3:
        raise _invalid(key, "at most three component groups")
    alternatives = [
        _group(key, group, index if len(groups) > 1 else None, is_fuzzy)
        for index, group in enumerate(groups)
        if group.strip(" *^")  # one that says nothing matches whatever is there
    ]
    return tuple(_product(alternatives))


def _group(key: Key, text: str, group: int | None, is_fuzzy: bool) -> Condition:
    folded = fold_name(text)
    fuzzy = _fuzzy(key, folded, group) if is_fuzzy else ()
    if not _is_wild(folded):
        return fuzzy or ((Term(key, How.IS, (folded,), group),),)
    matches = [_pattern(key, folded, group)]
    if folded.endswith("^*"):  # a component that is not there is empty, with or without its delimiter
        matches.append(_pattern(key, folded[:-2], group))
    return (*matches, *fuzzy)


def _fuzzy(key: Key, folded: str, group: int | None) -> Condition:
    """Each word asked for begins a word of the name or sounds like one, in whatever component and order they stand.

    A star around a word says no more than that; a wild card within one has its literal meaning alone.
    """
    if "?" in folded or _WITHIN_A_WORD.search(folded):
        return ()
    words = name_words(folded.replace("*", " "))
    apart, joined = list(chain.from_iterable(words)), [join_word(parts) for parts in words]
    return tuple(
        tuple(_word(key, word, group) for word in each)
        for each in ([apart] if apart == joined else [apart, joined])
        if each
    )


def _word(key: Key, word: str, group: int | None) -> Term:
    return Term(key, How.WORD, (word, word + _END, sound_of(word)), group)


def _all_of(key: Key, value: str) -> list[str]:
    """The values that have all to be there; UIDs are a list of which any may match, always (PS3.4 C.2.2.2.2)."""
    if key.vr == "UI":
        return [value]
    values = [one for one in (value.replace(",", "\\") if key.vr == "CS" else value).split("\\") if one.strip(" *")]
    if len(values) > _MOST_ALTERNATIVES:
        raise _invalid(key, f"at most {_MOST_ALTERNATIVES} values that have all to be there")
    return values


def _exactly[T: (str, int)](key: Key, values: list[T]) -> Condition:
    if len(values) == 1:
        return ((Term(key, How.IS, (values[0],)),),)
    return ((Term(key, How.ANY_OF, tuple(values)),),) if values else ()


def _pattern(key: Key, pattern: str, group: int | None = None) -> Alternative:
    """Wild card matching: a range over the index as far as the pattern is plain, then the pattern itself."""
    if len(pattern) > LONGEST:
        raise _invalid(key, f"at most {LONGEST} characters")
    if not _is_wild(pattern):
        return (Term(key, How.IS, (pattern,), group),)
    pattern = re.sub(r"\*+", "*", pattern)
    prefix = re.split(r"[*?]", pattern, maxsplit=1)[0]
    like = Term(key, How.LIKE, (_escaped(pattern).replace("*", "%").replace("?", "_"),), group)
    if not prefix:
        return (like,)
    starts = Term(key, How.PREFIX, (prefix, prefix + _END), group)
    return (starts,) if pattern == prefix + "*" else (starts, like)


def _is_wild(text: str) -> bool:
    return "*" in text or "?" in text


def _escaped(text: str) -> str:
    return re.sub(r"[!%_]", r"!\g<0>", text)


def _is_zoned(term: Term) -> bool:
    return term.how is How.MOMENT or (term.how is How.BETWEEN and term.key.vr == "TM")


def _shifted(term: Term, shift: timedelta) -> Condition:
    """A term in another zone; a span of times that then crosses midnight becomes two."""
    if not _is_zoned(term):
        return ((term,),)
    if term.how is How.MOMENT:
        first_date, first_time, last_date, last_time = map(str, term.values)
        values = (*_moved(first_date, first_time, shift), *_moved(last_date, last_time, shift))
        return ((term._replace(values=values),),)
    first, last = (_moved("20000102", str(time), shift)[1] for time in term.values)
    spans = [(first, last)] if first <= last else [(first, _LAST_TIME), (_FIRST_TIME, last)]
    return tuple((term._replace(values=span),) for span in spans)


def _moved(date: str, time: str, shift: timedelta) -> tuple[str, str]:
    if date in (_FIRST_DATE, _LAST_DATE):
        return date, time
    moved = shifted(date + time, shift)
    return moved[:8], moved[8:]


def _product(choices: list[Condition]) -> Iterator[Alternative]:
    """Every way to take one alternative of each."""
    chosen: list[Alternative] = [()]
    for alternatives in choices:
        chosen = [(*before, *alternative) for before in chosen for alternative in alternatives]
    yield from chosen


def _invalid(key: Key, right: str) -> Invalid:
    return Invalid(f"The value of matching key {key.name} ({key.vr}) cannot be matched; it has to be {right}.")


_PARSERS: Mapping[str, Callable[[Key, str], Condition]] = {
    **dict.fromkeys(("AE", "LO", "SH", "UC"), _texts),
    **dict.fromkeys(("LT", "ST", "UR", "UT"), _one_text),
    **dict.fromkeys(("AS", "AT"), _plain),
    **dict.fromkeys(("IS", "SL", "SS", "SV", "UL", "US", "UV"), _numbers),
    **dict.fromkeys(("DS", "FD", "FL"), _decimals),
    "CS": _codes,
    "DA": _dates,
    "TM": _times,
    "UI": _uids,
}
