"""C-FIND of the Modality Worklist (PS3.4 annex K): what a modality is to do, for whom and when.

The list has the steps of the peer's facility that nobody has ended; those of one modality, station or day it has where
these are asked for. Whatever is asked for comes back, in sequences too, empty where nothing is known of it.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from dataclasses import dataclass

import orjson
import sqlalchemy as sa
from pydicom import Dataset
from pydicom.charset import python_encoding

from readingroom.errors import Invalid
from readingroom.model import Scope
from server.associations.association import Message
from server.associations.commands import C_FIND, MESSAGE_ID
from server.dimse.finding import UNABLE, key_text
from server.dimse.identifiers import key_values, picked
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


@dataclass(frozen=True, slots=True, kw_only=True)
class Query:
    """What a modality asks for."""

    asked: MetadataJson
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
    values = {name: text for name, text in key_values(told) if text.strip(" *")}
    known = {name: text for name, text in values.items() if name in STEP_KEYS}
    return Query(
        asked=told,
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
            yield picked(step.item, query.asked)
        if len(steps) < _PAGE:
            return
        after = order_key(steps[-1])


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
