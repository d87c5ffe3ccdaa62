"""All that an association can ask for beside storage."""

from __future__ import annotations

from server.associations.association import Message
from server.associations.commands import C_ECHO
from server.dimse import committing, finding, performed, retrieving, ups, worklist
from server.dimse.service import SUCCESS, Served, Services
from server.room import Room

VERIFICATION = "1.2.840.10008.1.1"


def all_services(room: Room, *, ae_title: str) -> Services:
    """What answers, by SOP class and operation."""
    return {
        (VERIFICATION, C_ECHO): echo,
        **finding.services(room, ae_title=ae_title),
        **retrieving.services(room),
        **committing.services(room, ae_title=ae_title),
        **worklist.services(room),
        **performed.services(room),
        **ups.services(room),
    }


def echo(served: Served, message: Message) -> None:
    """C-ECHO (PS3.7 9.1.5)."""
    served.answer(message, SUCCESS)
