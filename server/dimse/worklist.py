"""C-FIND of the Modality Worklist (PS3.4 annex K): what a modality is to do, for whom and when.

The list has the steps of the peer's facility that nobody has ended; those of one modality, station or day it has where
these are asked for. Whatever is asked for comes back, in sequences too, empty where nothing is known of it.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import orjson
import sqlalchemy as sa
from pydicom import Dataset
from pydicom.charset import python_encoding

from readingroom.errors import Invalid
from readingroom.model import Scope
from server.associations.association import Message
from server.associations.commands import C_FIND, MESSAGE_ID
from server.dimse.finding import UNABLE, key_text, vr_of
from server.dimse.service import (
    CANCELLED,
    NOT_AUTHORIZED,
    PENDING,
    PENDING_WITHOUT_KEYS,
    Served,
    Services,
    json_of,
)
from server.room import Room
from storage.catalog.keys import STEP_KEYS
from storage.catalog.matching import Condition, parse
from storage.catalog.steps import order_key, search_steps
from storage.dicomjson import MetadataJson

log = logging.getLogger(__name__)

MODALITY_WORKLIST = "1.2.840.10008.5.1.4.31"

_CHARSET, _TIMEZONE = "00080005", "00080201"
_ONE_BYTE = frozenset(f"ISO_IR {number}" for number in (100, 101, 109, 110, 126, 127, 138, 144, 148, 166))
"""Character sets of the letters of one script, which fit what has no other letters (PS3.3 C.12.1.1.2)."""
_PAGE = 200
_MOST_DEPTH = 8

type _Tree = Mapping[str, _Tree | None]
"""What is asked for, by tag; of a sequence what is asked of its items, and None for all that they have."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Query:
    """What a modality asks for."""

    wanted: _Tree
    conditions: tuple[Condition, ...]
    charset: str
    """The character set that it has asked in."""
    has_unknown: bool
    """Whether keys with a value are none that are matched here."""


def services(room: Room) -> Services:
    """C-FIND of the Modality Worklist information model."""

    def find(served: Served, message: Message) -> None:
        """A response for each step, and one that says that there are no more."""
        if not served.peer.may_find:
            return served.answer(message, NOT_AUTHORIZED, f"{served.peer.ae} may not ask here.")
        try:
            query = read_query(json_of(message))
        except Invalid as error:
            return served.answer(message, UNABLE, error.message)
        status = PENDING_WITHOUT_KEYS if query.has_unknown else PENDING
        try:
            for item in items(room.engine, served.scope, query):
                served.answer(message, status, data=_written(item, query.charset))
                if served.association.is_cancelled(int(message.command[MESSAGE_ID])):
                    return served.answer(message, CANCELLED)
        except sa.exc.SQLAlchemyError:
            log.exception("a worklist could not be read")
            return served.answer(message, UNABLE, "The catalog does not answer.")
        return served.answer(message, 0)

    return {(MODALITY_WORKLIST, C_FIND): find}


def read_query(told: MetadataJson) -> Query:
    """The identifier of a request (PS3.4 K.4.1.1.3); raises `Invalid` where a value is none of its attribute."""
    charset = key_text(told.get(_CHARSET, {}))
    told = {tag: element for tag, element in told.items() if tag not in (_CHARSET, _TIMEZONE)}
    values = {name: text for name, text in _values(told) if text.strip(" *")}
    known = {name: text for name, text in values.items() if name in STEP_KEYS}
    return Query(
        wanted=_tree(told),
        conditions=tuple(parse(known, keys=STEP_KEYS)),
        charset=charset,
        has_unknown=len(known) < len(values),
    )


def items(engine: sa.Engine, scope: Scope, query: Query) -> Iterator[MetadataJson]:
    """The answers, page by page: a modality that is slow holds no transaction open."""
    after = None
    while True:
        with engine.connect() as connection:
            steps = search_steps(connection, scope, query.conditions, limit=_PAGE, after=after)
        for step in steps:
            yield _picked(step.item, query.wanted)
        if len(steps) < _PAGE:
            return
        after = order_key(steps[-1])


def _values(told: MetadataJson, above: str = "", depth: int = 0) -> Iterator[tuple[str, str]]:
    """Each key with its value; of a sequence its one item says what is to be matched (PS3.4 C.2.2.2.6)."""
    for tag, element in told.items():
        if element.get("vr") != "SQ":
            yield above + tag, key_text(element)
        elif depth < _MOST_DEPTH:
            for item in (element.get("Value") or ())[:1]:
                yield from _values(item, f"{above}{tag}.", depth + 1)


def _tree(told: MetadataJson, depth: int = 0) -> _Tree:
    wanted: dict[str, _Tree | None] = {}
    for tag, element in told.items():
        (item, *_) = (element.get("Value") if element.get("vr") == "SQ" else None) or [None]
        wanted[tag] = _tree(item, depth + 1) if item and depth < _MOST_DEPTH else None
    return MappingProxyType(wanted)


def _picked(known: MetadataJson, wanted: _Tree) -> MetadataJson:
    """What is asked for of a data set, empty where it is not there."""
    picked: MetadataJson = {}
    for tag, within in wanted.items():
        element: dict[str, Any] = known.get(tag) or {"vr": "SQ" if within is not None else vr_of(tag)}
        if within is not None and element.get("Value"):
            element = {"vr": "SQ", "Value": [_picked(item, within) for item in element["Value"]]}
        picked[tag] = element
    return picked


def _written(item: MetadataJson, charset: str) -> Dataset | MetadataJson:
    """An answer in the character set of the question, if that is one of few letters and these will do; else Unicode."""
    text = orjson.dumps(item).decode()
    if text.isascii() or charset not in _ONE_BYTE:
        return item
    try:
        text.encode(python_encoding[charset])
    except UnicodeEncodeError:
        return item
    dataset = Dataset.from_json(item)
    dataset.SpecificCharacterSet = charset
    return dataset
