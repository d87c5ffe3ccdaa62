"""Storage commitment (PS3.4 annex J): N-ACTION asks for it, N-EVENT-REPORT tells what became of that.

A request is durable before it is answered. A peer that then goes on waiting on its association hears the result there;
one that has left is called (`server.committing.Reporting`).
"""

from __future__ import annotations

import logging

import sqlalchemy as sa

from readingroom.errors import Invalid, ReadingRoomError
from server.associations.association import Context, Message
from server.associations.commands import (
    ACTION_TYPE,
    AFFECTED_CLASS,
    AFFECTED_INSTANCE,
    EVENT_TYPE,
    FIELD,
    N_ACTION,
    N_EVENT_REPORT,
    REQUESTED_INSTANCE,
    STATUS,
    CommandSet,
)
from server.committing import PUSH_MODEL, WELL_KNOWN, Committing, report_of, wanted_of
from server.dimse.service import NO_SUCH_INSTANCE, NOT_AUTHORIZED, PROCESSING_FAILURE, Served, Services, dataset_of
from server.room import Room
from storage.catalog.commitments import note_told
from storage.catalog.engine import begin_write
from storage.upsrules import value_of

log = logging.getLogger(__name__)

NO_SUCH_ACTION, INVALID_ARGUMENT = 0x0123, 0x0115
"""Statuses of N-ACTION (PS3.7 10.1.4.1.10)."""


def services(room: Room, *, ae_title: str) -> Services:
    """N-ACTION of the push model."""
    committing = Committing(engine=room.engine, blobs=room.blobs, clock=room.clock, queue=room.queue)

    def commit(served: Served, message: Message) -> None:
        """Take a request, and have its result told when the peer is quiet."""
        command = message.command
        named = {AFFECTED_CLASS: PUSH_MODEL, AFFECTED_INSTANCE: WELL_KNOWN}
        if not served.peer.may_store:
            return served.answer(message, NOT_AUTHORIZED, f"{served.peer.ae} may not store here.", more=named)
        if command.get(REQUESTED_INSTANCE) != WELL_KNOWN:
            return served.answer(message, NO_SUCH_INSTANCE, f"There is {WELL_KNOWN} alone.", more=named)
        if command.get(ACTION_TYPE) != 1:
            return served.answer(message, NO_SUCH_ACTION, "There is action type 1 alone.", more=named)
        try:
            asked = dataset_of(message).to_json_dict()
            uid = str(value_of(asked, "00081195") or "")
            kept = committing.request(served.scope, uid, wanted_of(asked), ae=served.peer.ae)
        except Invalid as error:
            return served.answer(message, INVALID_ARGUMENT, error.message, more=named)
        except sa.exc.SQLAlchemyError:
            log.exception("a request for storage commitment could not be kept")
            return served.answer(message, PROCESSING_FAILURE, "The catalog does not answer.", more=named)
        served.answer(message, 0, more=named)
        return served.later.append(lambda: report(served, message.context, kept.id))

    def report(served: Served, context: Context, id: str) -> bool:
        """Tell the result, if it is known."""
        try:
            commitment = committing.check(id)
        except (ReadingRoomError, sa.exc.SQLAlchemyError) as error:
            log.warning("storage commitment is looked at later: %s", type(error).__name__)
            return True  # by the job
        if commitment.problems is None:
            return False
        event, told = report_of(commitment, ae_title)
        command: CommandSet = {
            FIELD: N_EVENT_REPORT,
            AFFECTED_CLASS: PUSH_MODEL,
            AFFECTED_INSTANCE: WELL_KNOWN,
            EVENT_TYPE: event,
        }
        served.ask(context, command, told, lambda answer: heard(answer, id))
        return True

    def heard(answer: Message, id: str) -> None:
        """Who has said so needs no call; who says anything else is called again."""
        if answer.command.get(STATUS, PROCESSING_FAILURE) == 0:
            with begin_write(room.engine) as connection:
                note_told(connection, id, room.clock.now())

    return {(PUSH_MODEL, N_ACTION): commit}
