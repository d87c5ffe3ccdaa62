"""Performed procedure steps by DIMSE (PS3.4 annex F): N-CREATE and N-SET of what a modality does, and N-GET of it."""

from __future__ import annotations

import logging
from collections.abc import Callable

import sqlalchemy as sa
from pydicom.uid import generate_uid

from readingroom.errors import Conflict, Invalid, NotFound, ReadingRoomError
from server.associations.association import Message
from server.associations.commands import (
    AFFECTED_CLASS,
    AFFECTED_INSTANCE,
    ATTRIBUTES,
    ERROR_ID,
    N_CREATE,
    N_GET,
    N_SET,
    REQUESTED_INSTANCE,
    Value,
)
from server.dimse.service import (
    DUPLICATE_INSTANCE,
    INVALID_VALUE,
    MISSING_VALUE,
    NO_SUCH_ATTRIBUTE,
    NO_SUCH_INSTANCE,
    NOT_AUTHORIZED,
    PROCESSING_FAILURE,
    SUCCESS,
    Served,
    Services,
    json_of,
)
from server.room import Room
from server.worklist.items import Work, working
from server.worklist.performed import (
    OVER,
    MissingAttribute,
    MissingValue,
    NoSuchAttribute,
    Taken,
    change_performed,
    create_performed,
)
from storage.catalog.performed import find_performed
from storage.dicomjson import MetadataJson

log = logging.getLogger(__name__)

PERFORMED = "1.2.840.10008.3.1.2.3.3"
PERFORMED_RETRIEVE = "1.2.840.10008.3.1.2.3.4"

MISSING_ATTRIBUTE, SOME_NOT_KNOWN = 0x0120, 0x0001
"""Statuses of N-CREATE and N-SET, and of N-GET where attributes are asked for that are not there (table F.8.2-2)."""
_OVER_ID = 0xA710
"""Error ID of what may no longer be updated (table F.7.2-2)."""
_STATUSES: tuple[tuple[type[ReadingRoomError], int], ...] = (
    (MissingAttribute, MISSING_ATTRIBUTE),
    (MissingValue, MISSING_VALUE),
    (NoSuchAttribute, NO_SUCH_ATTRIBUTE),
    (Invalid, INVALID_VALUE),
    (Taken, DUPLICATE_INSTANCE),
    (Conflict, PROCESSING_FAILURE),
    (NotFound, NO_SUCH_INSTANCE),
    (ReadingRoomError, PROCESSING_FAILURE),
)
"""The first that an error is."""


def services(room: Room) -> Services:
    """All three operations; the last on the SOP class for it."""

    def create(served: Served, message: Message) -> None:
        """N-CREATE (F.7.2.1)."""
        uid = str(message.command.get(AFFECTED_INSTANCE) or "") or str(generate_uid())

        def done(work: Work, told: MetadataJson) -> None:
            create_performed(work, facility=served.facility, instance_uid=uid, dataset=told, source=served.peer.ae)

        write(served, message, uid, done)

    def change(served: Served, message: Message) -> None:
        """N-SET (F.7.2.2)."""
        uid = str(message.command.get(REQUESTED_INSTANCE) or "")
        write(served, message, uid, lambda work, told: change_performed(work, uid, told))

    def write(served: Served, message: Message, uid: str, done: Callable[[Work, MetadataJson], object]) -> None:
        more: dict[int, Value] = {AFFECTED_CLASS: PERFORMED, AFFECTED_INSTANCE: uid}
        if not served.peer.may_store:
            return served.answer(message, NOT_AUTHORIZED, f"{served.peer.ae} may not store here.", more=more)
        try:
            told = json_of(message)
            with working(room.engine, room.clock, served.actor, served.scope, queue=room.queue) as work:
                done(work, told)
        except ReadingRoomError as error:
            if error.message == OVER:
                more[ERROR_ID] = _OVER_ID
            status = next(status for kind, status in _STATUSES if isinstance(error, kind))
            return served.answer(message, status, error.message, more=more)
        except sa.exc.SQLAlchemyError:
            log.exception("a performed procedure step could not be kept")
            return served.answer(message, PROCESSING_FAILURE, "The catalog does not answer.", more=more)
        return served.answer(message, SUCCESS, more=more)

    def get(served: Served, message: Message) -> None:
        """N-GET (F.8.2): the attributes that are asked for, or all."""
        uid = str(message.command.get(REQUESTED_INSTANCE) or "")
        more: dict[int, Value] = {AFFECTED_CLASS: PERFORMED_RETRIEVE, AFFECTED_INSTANCE: uid}
        if not served.peer.may_find:
            return served.answer(message, NOT_AUTHORIZED, f"{served.peer.ae} may not ask here.", more=more)
        try:
            performed = room.query(find_performed, served.scope, uid)
        except sa.exc.SQLAlchemyError:
            log.exception("a performed procedure step could not be read")
            return served.answer(message, PROCESSING_FAILURE, "The catalog does not answer.", more=more)
        if performed is None:
            return served.answer(message, NO_SUCH_INSTANCE, "No such performed procedure step.", more=more)
        known = performed.dataset
        asked = [tag for tag in str(message.command.get(ATTRIBUTES) or "").split("\\") if tag]
        shown = {tag: known[tag] for tag in sorted(asked) if tag in known} if asked else known
        status = SUCCESS if set(asked) <= known.keys() else SOME_NOT_KNOWN
        return served.answer(message, status, data=shown, more=more)

    return {(PERFORMED, N_CREATE): create, (PERFORMED, N_SET): change, (PERFORMED_RETRIEVE, N_GET): get}
