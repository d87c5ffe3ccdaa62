"""What a search asks for: the query parameters of QIDO-RS (PS3.18 8.3.4), read into a `Search` and what to answer."""

from __future__ import annotations

import base64
import re
from collections import defaultdict
from collections.abc import Mapping
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from typing import Any
from urllib.parse import parse_qsl

import sqlalchemy as sa

from readingroom.errors import Invalid
from storage.catalog.keys import KEYS, LEVELS, TIMEZONE, Level, tag_of
from storage.catalog.matching import parse, zone_minutes
from storage.catalog.rows import SERIES_EXTRA, SERIES_TAGS, STUDY_EXTRA, STUDY_TAGS
from storage.catalog.search import OrderKey, Part, Search, order_key, order_key_types

RECORD_KEY, PRIOR_RECORD_KEY = "0008041B", "0008041C"

_MOST = 5000
"""Rows of one answer."""

_MOST_WHOLE = 500
"""Rows of one answer that carry all of their instance's metadata."""

_MOST_PARAMETERS = 1000
_DIGITS = 18
_SWITCHES = ("fuzzymatching", "emptyvaluematching", "multiplevaluematching")
_CONTROLS = frozenset(("limit", "offset", "accept", *_SWITCHES))
_WORD, _NUMBER = re.compile("[0-9a-f]{0,32}"), re.compile("-?[0-9]{1,19}")  # an id or a date; a series' number

# What an Instance answer has without being asked (PS3.18 10.6.3.3.3).
_INSTANCE_TAGS = frozenset(
    (
        "00080016",  # SOP Class UID
        "00080018",  # SOP Instance UID
        "00080056",  # Instance Availability
        "00081190",  # Retrieve URL
        "0020000D",  # Study Instance UID
        "0020000E",  # Series Instance UID
        "00200013",  # Instance Number
        "00280008",  # Number of Frames
        "00280010",  # Rows
        "00280011",  # Columns
        "00280100",  # Bits Allocated
    )
)

# Where an attribute of an answer is found, the nearest first; the last has all that are left.
_SOURCES: dict[Level, tuple[tuple[Part | None, frozenset[str] | None], ...]] = {
    "study": (("study.row", STUDY_TAGS), ("study.extra", STUDY_EXTRA)),
    "series": (
        ("series.row", SERIES_TAGS),
        ("series.extra", SERIES_EXTRA),
        ("study.row", STUDY_TAGS),
        ("study.extra", STUDY_EXTRA),
    ),
    "instance": (
        (None, _INSTANCE_TAGS),
        ("series.row", SERIES_TAGS),
        ("study.row", STUDY_TAGS),
        ("instance.metadata", None),
    ),
}

# Attributes of the levels below "shall not be returned" (PS3.18 10.6.3.3): who asks for them anyway needs no warning.
_BELOW: dict[Level, frozenset[str]] = {
    "study": SERIES_TAGS | SERIES_EXTRA | _INSTANCE_TAGS | {"00080023", "00080033"},
    "series": _INSTANCE_TAGS | {"00080023", "00080033"},
    "instance": frozenset(),
}

Pick = tuple[Part | None, frozenset[str] | None]
"""A source of attributes, and which of them go into an answer, None for all; no part: the columns of an instance."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Query:
    """What a request asks for.

    Attributes
    ----------
    picks
        What a row is made of; what comes later holds where both have an attribute.
    ignored
        Parameters that are neither matching keys of this level nor anything else that is known here.
    left_out
        Values of ``includefield`` that name no attribute which answers of this level may have.
    """

    search: Search
    picks: tuple[Pick, ...]
    has_record_keys: bool
    ignored: tuple[str, ...]
    left_out: tuple[str, ...]


def parse_query(level: Level, under: tuple[str, ...], query_string: bytes) -> Query:
    """The query parameters of a search (PS3.18 8.3.4); values are decoded once, as UTF-8.

    Raises
    ------
    Invalid
        A value cannot be what its parameter is for.
    """
    if any("\0" in uid for uid in under):
        raise Invalid("A UID has digits and dots, and no NUL character.")
    keys: dict[str, list[str]] = defaultdict(list)
    fields = dict[str, str]()  # by tag, as it was spelled
    controls: dict[str, str] = {}
    ignored, left_out = [], []
    has_all = False
    for name, value in _parameters(query_string):
        if name in _CONTROLS:
            controls[name] = value
        elif name == "includefield":
            for field in filter(None, (field.strip() for field in value.split(","))):
                if field == "all":
                    has_all = True
                elif (tag := tag_of(field)) is None:
                    left_out.append(field)
                else:
                    fields[tag[:8]] = field
        elif (tag := tag_of(name)) is None:
            ignored.append(name)
        elif tag in (TIMEZONE, PRIOR_RECORD_KEY):
            controls[tag] = value
        elif not value.strip(" *"):
            fields[tag[:8]] = name  # universal matching: asked for, not matched
        elif tag in KEYS and LEVELS.index(KEYS[tag].level) <= LEVELS.index(level):
            fields[tag[:8]] = name
            keys[tag].append(value)
        else:
            ignored.append(name)
    zone = controls.get(TIMEZONE, "").replace(" ", "+")  # a plus sign that was not escaped
    if zone:
        zone_minutes(zone)
    switches = {name: _is_true(controls, name) for name in _SWITCHES}
    conditions = parse(
        {tag: "\\".join(values) for tag, values in keys.items()},
        zone=zone,
        is_fuzzy=switches["fuzzymatching"],
        empty_values=switches["emptyvaluematching"],
        multiple_values=switches["multiplevaluematching"],
    )
    has_record_keys = fields.pop(RECORD_KEY, None) is not None
    picks, nowhere = _picks(level, fields.keys(), is_across=level != "study" and not under, has_all=has_all)
    left_out += [fields[tag] for tag in sorted(nowhere - _BELOW[level])]
    most = _MOST_WHOLE if ("instance.metadata", None) in picks else _MOST
    return Query(
        search=Search(
            level=level,
            under=under,
            conditions=tuple(conditions),
            zone=zone,
            limit=min(_whole_number(controls, "limit", most), most),
            offset=_whole_number(controls, "offset", 0),
            after=_read_record_key(level, controls.get(PRIOR_RECORD_KEY), is_under=bool(under)),
            parts=tuple(part for part, _ in picks if part),
        ),
        picks=picks,
        has_record_keys=has_record_keys,
        ignored=tuple(ignored),
        left_out=tuple(left_out),
    )


def _parameters(query_string: bytes) -> list[tuple[str, str]]:
    text = query_string.decode("utf-8", "replace")
    try:
        return parse_qsl(text, keep_blank_values=True, max_num_fields=_MOST_PARAMETERS)
    except ValueError:
        raise Invalid(f"The query has more than {_MOST_PARAMETERS} parameters.") from None


def _picks(
    level: Level, tags: AbstractSet[str], *, is_across: bool, has_all: bool
) -> tuple[tuple[Pick, ...], AbstractSet[str]]:
    """What a row is made of, and those of `tags` that it cannot have."""
    picks: list[Pick] = []
    for part, held in _SOURCES[level]:
        taken = frozenset(tags if held is None else tags & held)
        tags = tags - taken
        is_own = part is None or part.startswith(level)
        is_row = part is None or part.endswith(".row")
        if (is_row or has_all) and (is_own or is_across):
            picks.append((part, None))
        elif taken:
            picks.append((part, taken))
    return tuple(reversed(picks)), tags


def _whole_number(controls: Mapping[str, str], name: str, default: int) -> int:
    text = controls.get(name)
    if text is None:
        return default
    if not (text.isascii() and text.isdecimal() and len(text) <= _DIGITS):
        raise Invalid(f"The parameter {name} has to be a whole number, 0 or more.")
    return int(text)


def _is_true(controls: Mapping[str, str], name: str) -> bool:
    text = controls.get(name, "false").lower()
    if text not in ("true", "false"):
        raise Invalid(f"The parameter {name} has to be true or false.")
    return text == "true"


def record_key(wanted: Search, hit: sa.Row[Any]) -> str:
    """The Record Key of a hit, in base64: the kind of search that gave it, and where it stands in its order."""
    parts = order_key(wanted.level, hit, is_under=bool(wanted.under))
    return base64.b64encode(" ".join((_kind(wanted.level, bool(wanted.under)), *map(str, parts))).encode()).decode()


def _read_record_key(level: Level, text: str | None, *, is_under: bool) -> OrderKey | None:
    if not text:
        return None
    try:
        kind, *parts = base64.b64decode(text, validate=True).decode("ascii").split(" ")
    except ValueError:
        kind, parts = "", []
    types = order_key_types(level, is_under=is_under)
    if kind != _kind(level, is_under) or len(parts) != len(types) or not all(map(_is_part, types, parts)):
        raise Invalid("PriorRecordKey is none that a search of this kind gave; begin without it.")
    return tuple(one(part) for one, part in zip(types, parts, strict=True))


def _is_part(kind: type[int] | type[str], part: str) -> bool:
    if kind is str:
        return bool(_WORD.fullmatch(part))
    return bool(_NUMBER.fullmatch(part)) and abs(int(part)) < 1 << 63


def _kind(level: Level, is_under: bool) -> str:
    return f"{level}/" if is_under else level
