"""C-FIND of the Query/Retrieve service (PS3.4 annex C.4.1): patients, studies, series and instances of one facility.

The catalog is asked as QIDO-RS asks it: the same keys, the same matching. Whatever a peer asks for comes back, empty
where nothing is known of it (PS3.4 C.4.1.3.3).
"""

from __future__ import annotations

import logging
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import orjson
import sqlalchemy as sa
from pydicom import Dataset
from pydicom.datadict import dictionary_VR

from readingroom.errors import Invalid
from readingroom.model import Scope
from server.associations.association import Message
from server.associations.commands import C_FIND, MESSAGE_ID
from server.dimse.service import (
    CANCELLED,
    MOST_DATA_SET,
    NOT_AUTHORIZED,
    PENDING,
    PENDING_WITHOUT_KEYS,
    Served,
    Services,
    dataset_of,
)
from server.room import Room
from storage.catalog.keys import Keys, Level
from storage.catalog.matching import parse
from storage.catalog.search import Part, Search, order_key, search
from storage.objects import BASE_URL_MARK

log = logging.getLogger(__name__)

PATIENT_ROOT, STUDY_ROOT = "1.2.840.10008.5.1.4.1.2.1.1", "1.2.840.10008.5.1.4.1.2.2.1"

NO_SUCH_LEVEL, UNABLE = 0xA900, 0xC000
"""The identifier does not match the SOP class; unable to process (PS3.4 table C.4-1)."""

_LEVELS: Mapping[str, Level] = {"PATIENT": "study", "STUDY": "study", "SERIES": "series", "IMAGE": "instance"}
_PARTS: Mapping[Level, tuple[Part, ...]] = {
    "study": ("study.extra", "study.row"),
    "series": ("study.extra", "study.row", "series.extra", "series.row"),
    "instance": ("study.extra", "study.row", "series.extra", "series.row", "instance.metadata"),
}
_OF_PATIENT = frozenset(("00100010", "00100020", "00100021", "00100030", "00100032", "00100040"))
_CONTROLS = frozenset(("00080005", "00080052", "00080053", "00080054", "00080056", "00080201"))
_MARK = BASE_URL_MARK.encode()
_PAGE = 500


class NoSuchLevel(Invalid):
    """The Query/Retrieve Level is none that this SOP class has."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Find:
    """What a peer asks for: at which level, the attributes to come back, and what they have to match."""

    level: str
    wanted: tuple[str, ...]
    search: Search
    has_unknown: bool
    """Whether keys with a value are none that are matched here."""


def services(room: Room, *, ae_title: str) -> Services:
    """C-FIND of both roots."""

    def find(served: Served, message: Message) -> None:
        """A response for each match, and one that says that there are no more."""
        association, wanted = served.association, message.context.abstract_syntax
        if not served.peer.may_find:
            return served.answer(message, NOT_AUTHORIZED, f"{served.peer.ae} may not ask here.")
        try:
            found = read_find(wanted, dataset_of(message), room.keys)
        except NoSuchLevel as error:
            return served.answer(message, NO_SUCH_LEVEL, error.message)
        except Invalid as error:
            return served.answer(message, UNABLE, error.message)
        status = PENDING_WITHOUT_KEYS if found.has_unknown else PENDING
        try:
            for one in matches(room.engine, served.scope, found, ae_title=ae_title):
                served.answer(message, status, data=one)
                if association.is_cancelled(int(message.command[MESSAGE_ID])):
                    return served.answer(message, CANCELLED)
        except sa.exc.SQLAlchemyError:
            log.exception("a query could not be answered")
            return served.answer(message, UNABLE, "The catalog does not answer.")
        return served.answer(message, 0)

    return {(PATIENT_ROOT, C_FIND): find, (STUDY_ROOT, C_FIND): find}


def read_find(sop_class: str, dataset: Dataset, keys: Keys) -> Find:
    """The identifier of a request.

    Raises
    ------
    NoSuchLevel
        Its level is none of the SOP class.
    Invalid
        A value is none of its attribute.
    """
    level = str(dataset.get("QueryRetrieveLevel") or "")
    if level not in _LEVELS or (level == "PATIENT" and sop_class != PATIENT_ROOT):
        raise NoSuchLevel(f"The Query/Retrieve Level is {level[:16]!r}; it is PATIENT, STUDY, SERIES or IMAGE.")
    told = dataset.to_json_dict(bulk_data_threshold=MOST_DATA_SET)
    wanted = tuple(tag for tag in told if tag not in _CONTROLS)
    values = {tag: text for tag in wanted if (text := key_text(told[tag])).strip(" *")}
    known = {tag: text for tag, text in values.items() if tag in keys}
    conditions = parse(known, keys=keys)
    found = Search(level=_LEVELS[level], conditions=tuple(conditions), limit=_PAGE, parts=_PARTS[_LEVELS[level]])
    return Find(level=level, wanted=wanted, search=found, has_unknown=len(known) < len(values))


def matches(engine: sa.Engine, scope: Scope, find: Find, *, ae_title: str) -> Iterator[dict[str, Any]]:
    """The answers, as DICOM JSON, page by page: a peer that is slow holds no transaction open."""
    patients: set[str] = set()
    after = None
    while True:
        wanted = replace(find.search, after=after)
        with engine.connect() as connection:
            hits = search(connection, scope, wanted)
        for hit in hits:
            known = _known(hit, find.search.parts)
            if find.level == "PATIENT":
                patient = orjson.dumps([known.get(tag) for tag in ("00100020", "00100021")]).decode()
                if patient in patients:
                    continue
                patients.add(patient)
                known = {tag: element for tag, element in known.items() if tag in _OF_PATIENT}
            answer = {tag: known.get(tag, {"vr": vr_of(tag)}) for tag in find.wanted}
            yield answer | {
                "00080052": {"vr": "CS", "Value": [find.level]},
                "00080054": {"vr": "AE", "Value": [ae_title]},
                "00080056": {"vr": "CS", "Value": ["ONLINE"]},
            }
        if len(hits) < _PAGE:
            return
        after = order_key(find.search.level, hits[-1])


def key_text(element: Mapping[str, Any]) -> str:
    """The values of an element as a query has them, with backslashes between them; of a sequence nothing."""
    values = element.get("Value", ())
    if element.get("vr") == "PN":
        values = [
            one.get("Alphabetic") or one.get("Ideographic") or "" if isinstance(one, dict) else "" for one in values
        ]
    return "\\".join(str(one) for one in values if not isinstance(one, dict) and one is not None)


def _known(hit: sa.Row[Any], parts: tuple[Part, ...]) -> dict[str, Any]:
    known: dict[str, Any] = {}
    for part in parts:
        stored = getattr(hit, part.replace(".", "_"))
        if stored:
            known |= orjson.loads(
                (zlib.decompress(stored) if part == "instance.metadata" else stored).replace(_MARK, b"")
            )
    return known


def vr_of(tag: str) -> str:
    """The VR of an attribute of which nothing is known here."""
    try:
        return dictionary_VR(int(tag, 16)).split(" ")[0]
    except KeyError:
        return "UN"
