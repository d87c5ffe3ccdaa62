"""What a search asks for: the query parameters of QIDO-RS (PS3.18 8.3.4), read into a `Search` and what to answer."""

from __future__ import annotations

import base64
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field, replace
from typing import Any
from urllib.parse import parse_qsl

import sqlalchemy as sa

from readingroom.errors import Invalid
from storage.catalog.keys import KEYS, LEVELS, TIMEZONE, Key, Keys, Level, private_name, tag_of
from storage.catalog.matching import Condition, parse, zone_minutes
from storage.catalog.rows import SERIES_EXTRA, SERIES_TAGS, STUDY_EXTRA, STUDY_TAGS
from storage.catalog.search import OrderKey, Part, Search, order_key, order_key_types

RECORD_KEY, PRIOR_RECORD_KEY = "0008041B", "0008041C"

MOST = 5000
"""Rows of one answer."""

MOST_WHOLE = 500
"""Rows of one answer that carry all of their instance's metadata."""

_MOST_PARAMETERS = 1000
_DIGITS = 18
_SWITCHES = ("fuzzymatching", "emptyvaluematching", "multiplevaluematching")
_CONTROLS = frozenset(("limit", "offset", "accept", *_SWITCHES))
_CREATOR = re.compile("[0-9A-F]{3}[13579BDF]00[1-9A-F][0-9A-F]")
_PRIVATE = re.compile("(?P<group>[0-9A-F]{3}[13579BDF])(?P<block>[1-9A-F][0-9A-F])(?P<element>[0-9A-F]{2})")
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

Source = tuple[Part | None, frozenset[str] | None]
"""Stored JSON, and which attributes are found in it, None for all; no part: the columns of an instance."""

Pick = tuple[Part | None, frozenset[str] | None]
"""A source of attributes, and which of them go into an answer, None for all; no part: the columns of an instance."""


# Where an attribute of an answer is found, the nearest first; the last has all that are left. What is configured is
# looked up in the header that a study or series is known by.
_SOURCES: dict[Level, tuple[Source, ...]] = {
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


def parse_query(level: Level, under: tuple[str, ...], query_string: bytes, known: Keys = KEYS) -> Query:
    """The query parameters of a search (PS3.18 8.3.4); values are decoded once, as UTF-8.

    Parameters
    ----------
    known
        The keys of this installation, by name.

    Raises
    ------
    Invalid
        A value cannot be what its parameter is for.
    """
    if any("\0" in uid for uid in under):
        raise Invalid("A UID has digits and dots, and no NUL character.")
    asked = read_query(
        read_parameters(query_string),
        lambda name: name in known and LEVELS.index(known[name].level) <= LEVELS.index(level),
    )
    fields = asked.fields
    has_record_keys = fields.pop(RECORD_KEY, None) is not None
    is_across = level != "study" and not under
    picks, nowhere = _picks(_sources(level, known), level, fields.keys(), is_across=is_across, has_all=asked.has_all)
    left_out = [*asked.left_out, *(fields[name] for name in sorted(nowhere - _BELOW[level]))]
    is_whole = any(part and part.endswith(("header", "metadata")) for part, _ in picks)
    most = MOST_WHOLE if is_whole else MOST
    return Query(
        search=Search(
            level=level,
            under=under,
            conditions=asked.conditions(known),
            zone=asked.zone,
            limit=min(whole_number(asked.controls, "limit", most), most),
            offset=whole_number(asked.controls, "offset", 0),
            after=_read_record_key(level, asked.controls.get(PRIOR_RECORD_KEY), is_under=bool(under)),
            parts=tuple(part for part, _ in picks if part),
        ),
        picks=picks,
        has_record_keys=has_record_keys,
        ignored=tuple(asked.ignored),
        left_out=tuple(left_out),
    )


@dataclass(frozen=True, slots=True)
class Parameters:
    """The query parameters of a search, as they stand.

    Attributes
    ----------
    keys
        Values to match, by name of the attribute.
    fields
        How attributes that an answer is to have were spelled, by the name of the outermost.
    controls
        The parameters that are no attributes, and the attributes that are no keys.
    ignored, left_out
        As `Query` has them.
    has_all
        Whether ``includefield`` asks for all that there is.
    """

    keys: dict[str, list[str]] = field(default_factory=dict)
    fields: dict[str, str] = field(default_factory=dict)
    controls: dict[str, str] = field(default_factory=dict)
    ignored: list[str] = field(default_factory=list)
    left_out: list[str] = field(default_factory=list)
    has_all: bool = False

    @property
    def zone(self) -> str:
        """Timezone Offset From UTC that dates and times are meant in; empty where it is not said."""
        return self.controls.get(TIMEZONE, "").replace(" ", "+")  # a plus sign that was not escaped

    def conditions(self, known: Mapping[str, Key]) -> tuple[Condition, ...]:
        """What the keys ask for; raises `Invalid` where a value cannot be what its parameter is for."""
        if self.zone:
            zone_minutes(self.zone)
        switches = {name: is_true(self.controls, name) for name in _SWITCHES}
        return tuple(
            parse(
                {name: "\\".join(values) for name, values in self.keys.items()},
                keys=known,
                zone=self.zone,
                is_fuzzy=switches["fuzzymatching"],
                empty_values=switches["emptyvaluematching"],
                multiple_values=switches["multiplevaluematching"],
            )
        )


def read_query(parameters: Sequence[tuple[str, str]], is_key: Callable[[str], bool]) -> Parameters:
    """What each of the parameters of a search is (PS3.18 8.3.4).

    Parameters
    ----------
    is_key
        Whether the attribute of a name is matched.
    """
    names = Names(parameters)
    asked, has_all = Parameters(), False
    for spelled, value in parameters:
        if spelled in _CONTROLS:
            asked.controls[spelled] = value
        elif spelled == "includefield":
            for one in filter(None, (one.strip() for one in value.split(","))):
                if one == "all":
                    has_all = True
                elif (name := names.of(one)) is None:
                    asked.left_out.append(one)
                else:
                    asked.fields[name.split(".")[0]] = one
        elif (name := names.of(spelled)) is None:
            asked.ignored.append(spelled)
        elif name in (TIMEZONE, PRIOR_RECORD_KEY):
            asked.controls[name] = value
        elif names.is_creator(name):
            continue  # says whose private attributes are meant, and is no key itself
        elif not value.strip(" *"):
            asked.fields[name.split(".")[0]] = spelled  # universal matching: asked for, not matched
        elif is_key(name):
            asked.fields[name.split(".")[0]] = spelled
            asked.keys.setdefault(name, []).append(value)
        else:
            asked.ignored.append(spelled)
    return replace(asked, has_all=has_all)


class Names:
    """The names of attributes as `storage.catalog.keys` has them, from how a request spells them.

    A private attribute is meant with the creator whose element stands among the parameters (PS3.18 8.3.4.3):
    ``00091010=x&00090010=ACME``, in whatever block the data sets have reserved for it.
    """

    def __init__(self, parameters: Sequence[tuple[str, str]]) -> None:
        self._creators: dict[str, str] = {}
        self._used: set[str] = set()
        for spelled, value in parameters:
            tag = tag_of(spelled)
            if tag and _CREATOR.fullmatch(tag.split(".")[-1]) and value.strip(" *"):
                self._creators[tag] = value
        if self._creators:
            self._used = {creator for spelled, value in parameters for creator in self._creators_of(spelled, value)}

    def of(self, spelled: str) -> str | None:
        """The name; None where it is no attribute."""
        tag = tag_of(spelled)
        if tag is None:
            return None
        *outer, last = tag.split(".")
        private = _PRIVATE.fullmatch(last)
        creator = self._creators.get(".".join([*outer, _creator_tag(private)])) if private else None
        if private and creator:
            return ".".join([*outer, private_name(private["group"], private["element"], creator)])
        return tag

    def is_creator(self, name: str) -> bool:
        """Whether it says whose another parameter is."""
        return name in self._used

    def _creators_of(self, spelled: str, value: str) -> Iterator[str]:
        for one in value.split(",") if spelled == "includefield" else [spelled]:
            *outer, last = (tag_of(one.strip()) or "").split(".")
            if private := _PRIVATE.fullmatch(last):
                yield ".".join([*outer, _creator_tag(private)])


def _creator_tag(private: re.Match[str]) -> str:
    return f"{private['group']}00{private['block']}"


def read_parameters(query_string: bytes) -> list[tuple[str, str]]:
    """Names and values of a query, decoded once as UTF-8; raises `Invalid` where there are too many."""
    text = query_string.decode("utf-8", "replace")
    try:
        return parse_qsl(text, keep_blank_values=True, max_num_fields=_MOST_PARAMETERS)
    except ValueError:
        raise Invalid(f"The query has more than {_MOST_PARAMETERS} parameters.") from None


def _sources(level: Level, known: Keys) -> Iterator[Source]:
    """`_SOURCES`, with what was configured for the study and the series."""
    for part, held in _SOURCES[level]:
        yield part, held
        if part == "study.extra" and known.in_headers["study"]:
            yield "study.header", known.in_headers["study"]
        elif part == "series.extra" and known.in_headers["series"]:
            yield "series.header", known.in_headers["series"]


def _picks(
    sources: Iterable[Source], level: Level, names: AbstractSet[str], *, is_across: bool, has_all: bool
) -> tuple[tuple[Pick, ...], AbstractSet[str]]:
    """What a row is made of, and those of `names` that it cannot have."""
    picks: list[Pick] = []
    for part, held in sources:
        taken = frozenset(names if held is None else names & held)
        names = names - taken
        is_own = part is None or part.startswith(level)
        is_row = part is None or part.endswith(".row")
        if (is_row or has_all) and (is_own or is_across):
            picks.append((part, held if part and part.endswith(".header") else None))
        elif taken:
            picks.append((part, taken))
    return tuple(reversed(picks)), names


def whole_number(controls: Mapping[str, str], name: str, default: int) -> int:
    """The value of a parameter that counts; raises `Invalid` where it is none."""
    text = controls.get(name)
    if text is None:
        return default
    if not (text.isascii() and text.isdecimal() and len(text) <= _DIGITS):
        raise Invalid(f"The parameter {name} has to be a whole number, 0 or more.")
    return int(text)


def is_true(controls: Mapping[str, str], name: str) -> bool:
    """The value of a parameter that is true or false; raises `Invalid` where it is neither."""
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
