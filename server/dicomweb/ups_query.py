"""What a search of the worklist asks for (PS3.18 11.9, 8.3.4): query parameters, read into conditions and fields.

The filter of a subscription (11.10.1.2) is the same without paging.
"""

from __future__ import annotations

import base64
import re
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import unquote_plus

from readingroom.errors import Invalid
from server.dicomweb.query import PRIOR_RECORD_KEY, Names, is_true, read_parameters, whole_number
from storage.catalog.keys import TIMEZONE
from storage.catalog.matching import Condition, parse, zone_minutes
from storage.catalog.work_items import ITEM_KEYS

MOST = 1000
"""Items of one answer."""

SWITCHES = ("fuzzymatching", "emptyvaluematching", "multiplevaluematching")
_CONTROLS = frozenset(("limit", "offset", "accept", *SWITCHES))
_ID = re.compile("[0-9a-f]{32}")


@dataclass(frozen=True, slots=True, kw_only=True)
class ItemQuery:
    """What a request asks for.

    Attributes
    ----------
    asked
        What `conditions` were parsed from, as it can be kept: the arguments of `storage.catalog.matching.parse`.
    fields
        Outermost attributes that answers shall have beside those that they always have; None for all.
    ignored
        Parameters that are neither matching keys of a UPS nor anything else that is known here.
    """

    conditions: tuple[Condition, ...]
    asked: dict[str, Any]
    fields: frozenset[str] | None
    limit: int
    offset: int
    after: str | None
    ignored: tuple[str, ...]


def parse_item_query(query_string: bytes) -> ItemQuery:
    """Read the query of a search; raises `Invalid` where a value cannot be what its parameter is for."""
    return _read(read_parameters(query_string))


def parse_filter(text: str) -> ItemQuery:
    """Read the filter of a subscription: matching keys with their values, and commas between (PS3.18 11.10.1.2).

    A comma that no name and equals sign come after belongs to the value before it.

    Raises
    ------
    Invalid
        There is no matching key in it, or something else.
    """
    pairs: list[tuple[str, str]] = []
    for part in text.split(","):
        name, equals, value = part.partition("=")
        if equals:
            pairs.append((name.strip(), unquote_plus(value)))
        elif pairs:
            pairs[-1] = (pairs[-1][0], f"{pairs[-1][1]},{part}")
        else:
            raise Invalid("A filter is name=value, or several with commas between.")
    query = _read(pairs)
    if query.ignored:
        raise Invalid(
            f"The filter has {query.ignored[0][:40]!r}, which is no attribute that work items are matched by."
        )
    if not query.conditions:
        raise Invalid("The filter matches everything; subscribe to the whole worklist instead.")
    return query


def _read(parameters: Sequence[tuple[str, str]]) -> ItemQuery:
    names = Names(parameters)
    keys: dict[str, list[str]] = defaultdict(list)
    fields, controls, ignored = set[str](), dict[str, str](), list[str]()
    has_all = False
    for spelled, value in parameters:
        if spelled in _CONTROLS:
            controls[spelled] = value
        elif spelled == "includefield":
            for field in filter(None, (field.strip() for field in value.split(","))):
                name = names.of(field)
                has_all |= field == "all"
                if name is not None:
                    fields.add(name.split(".")[0])
                elif field != "all":
                    ignored.append(field)
        elif (name := names.of(spelled)) is None:
            ignored.append(spelled)
        elif name in (TIMEZONE, PRIOR_RECORD_KEY):
            controls[name] = value
        elif not value.strip(" *"):
            fields.add(name.split(".")[0])
        elif name in ITEM_KEYS:
            fields.add(name.split(".")[0])
            keys[name].append(value)
        else:
            ignored.append(spelled)
    zone = controls.get(TIMEZONE, "").replace(" ", "+")
    if zone:
        zone_minutes(zone)
    fuzzy, empty, multiple = (is_true(controls, name) for name in SWITCHES)
    asked: dict[str, Any] = {
        "values": {name: "\\".join(values) for name, values in keys.items()},
        "zone": zone,
        "is_fuzzy": fuzzy,
        "empty_values": empty,
        "multiple_values": multiple,
    }
    return ItemQuery(
        conditions=tuple(parse(**asked, keys=ITEM_KEYS)),
        asked=asked,
        fields=None if has_all else frozenset(fields),
        limit=min(whole_number(controls, "limit", MOST), MOST),
        offset=whole_number(controls, "offset", 0),
        after=_read_key(controls.get(PRIOR_RECORD_KEY)),
        ignored=tuple(ignored),
    )


def record_key(id: str) -> str:
    """The Record Key of an item: where the page after it begins."""
    return base64.b64encode(f"workitem {id}".encode()).decode()


def _read_key(text: str | None) -> str | None:
    if not text:
        return None
    try:
        kind, _, id = base64.b64decode(text, validate=True).decode("ascii").partition(" ")
    except ValueError:
        kind, id = "", ""
    if kind != "workitem" or not _ID.fullmatch(id):
        raise Invalid("PriorRecordKey is none that a search of work items gave; begin without it.")
    return id
