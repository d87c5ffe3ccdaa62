"""C-MOVE and C-GET of the Query/Retrieve service (PS3.4 annex C.4.2, C.4.3): a patient, studies, series or instances.

Both find the same instances and send them as `server.sending` does; C-MOVE to a peer that is called, C-GET on the
association that asks. Each instance is a sub-operation, and the peer hears of every one.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Generator, Sequence
from contextlib import closing
from dataclasses import dataclass, field

import sqlalchemy as sa
from pydicom import Dataset

from readingroom.errors import Invalid, ReadingRoomError
from server.associations.association import Aborted, Message
from server.associations.commands import (
    C_GET,
    C_MOVE,
    COMPLETED,
    DESTINATION,
    FAILED,
    MESSAGE_ID,
    REMAINING,
    WARNING,
    CommandSet,
)
from server.associations.requesting import Calling
from server.dimse.service import CANCELLED, NOT_AUTHORIZED, PENDING, SUCCESS, Served, Services, dataset_of
from server.peers import Peers
from server.room import Room
from server.sending import Sender, Sent
from server.settings import DimsePeer
from storage.catalog.find import StoredInstance, Wanted, list_wanted

log = logging.getLogger(__name__)

PATIENT_MOVE, STUDY_MOVE = "1.2.840.10008.5.1.4.1.2.1.2", "1.2.840.10008.5.1.4.1.2.2.2"
PATIENT_GET, STUDY_GET = "1.2.840.10008.5.1.4.1.2.1.3", "1.2.840.10008.5.1.4.1.2.2.3"

UNKNOWN_DESTINATION, CANNOT_COUNT, CANNOT_SEND = 0xA801, 0xA701, 0xA702
NOT_THIS_CLASS, UNABLE, SOME_FAILED = 0xA900, 0xC000, 0xB000
"""Of C-MOVE and C-GET (PS3.4 tables C.4-2 and C.4-3)."""

_MOST_UIDS = 10_000
_MOST_COUNTED = 0xFFFF
_KEYS = {
    "PATIENT": "PatientID",
    "STUDY": "StudyInstanceUID",
    "SERIES": "SeriesInstanceUID",
    "IMAGE": "SOPInstanceUID",
}
"""The unique key of each level, from the top."""


class Unfit(Invalid):
    """The identifier does not say what is wanted as the SOP class has it."""


@dataclass(slots=True)
class _Counts:
    """How far the sub-operations have come."""

    remaining: int
    completed: int = 0
    warnings: int = 0
    failed: list[str] = field(default_factory=list)

    def add(self, sent: Sent) -> None:
        """One of them is done."""
        self.remaining -= 1
        if not sent.is_kept:
            self.failed.append(sent.instance.instance_uid)
        elif sent.outcome.status == 0:
            self.completed += 1
        else:
            self.warnings += 1

    def told(self, *, with_remaining: bool) -> CommandSet:
        """The elements of a response; numbers of 16 bits, which is how many can be told."""
        counts = {COMPLETED: self.completed, FAILED: len(self.failed), WARNING: self.warnings}
        if with_remaining:
            counts[REMAINING] = self.remaining
        return {element: min(count, _MOST_COUNTED) for element, count in counts.items()}


type _Deliver = Callable[[Sequence[StoredInstance]], Generator[Sent]]


def services(room: Room) -> Services:
    """C-MOVE and C-GET of both roots."""
    sender = Sender(engine=room.engine, blobs=room.blobs, codecs=room.codecs, settings=room.settings)

    def move(served: Served, message: Message) -> None:
        """C-MOVE: to a peer that is known, of the same facility."""
        title = str(message.command.get(DESTINATION, ""))
        try:
            destination = destination_of(room.peers, served, title, default=room.settings.facility)
        except ReadingRoomError as error:
            return served.answer(message, CANNOT_SEND, error.message)
        if destination is None:
            return served.answer(message, UNKNOWN_DESTINATION, f"Nothing is sent to {title!r} for this AE.")
        originator = (served.association.calling, int(message.command.get(MESSAGE_ID, 0)))
        return _retrieve(
            room, served, message, lambda wanted: sender.send(destination, wanted, originator=originator), set()
        )

    def get(served: Served, message: Message) -> None:
        """C-GET: on the association that asks, in the contexts where its peer is SCP."""
        taker = Calling(served.association, served.peer.ae)

        def deliver(wanted: Sequence[StoredInstance]) -> Generator[Sent]:
            try:
                yield from sender.give(taker, wanted)
            except ReadingRoomError as error:
                served.association.abort()  # within a message, or what was said of it: there is no way on
                raise Aborted(error.message) from error

        _retrieve(room, served, message, deliver, taker.cancelled)

    return {
        **{(sop_class, C_MOVE): move for sop_class in (PATIENT_MOVE, STUDY_MOVE)},
        **{(sop_class, C_GET): get for sop_class in (PATIENT_GET, STUDY_GET)},
    }


def destination_of(peers: Peers, served: Served, title: str, *, default: str) -> DimsePeer | None:
    """The peer that has an AE title, if it can be called and may have what the caller asks for.

    Parameters
    ----------
    default
        The facility of a peer that names none.

    Raises
    ------
    Unavailable
        The directory cannot be read.
    """
    found = peers.of(title)
    if found is None or found.host is None:
        return None
    is_ours = found.ae == served.peer.ae or (found.facility or default) == served.facility
    return found if is_ours or served.peer.sees_all else None


def read_wanted(sop_class: str, identifier: Dataset) -> Wanted:
    """Which instances an identifier asks for.

    The key of its level has to be there (PS3.4 C.4.2.2.1); keys of the levels above narrow it where they are.

    Raises
    ------
    Unfit
        Its level is none of the SOP class, a key is missing or is no list of UIDs.
    """
    level = str(identifier.get("QueryRetrieveLevel") or "")
    levels = list(_KEYS) if sop_class in (PATIENT_MOVE, PATIENT_GET) else list(_KEYS)[1:]
    if level not in levels:
        raise Unfit(f"The Query/Retrieve Level is {level[:16]!r}; it is one of {', '.join(levels)}.")
    given = {}
    for above in list(_KEYS)[: list(_KEYS).index(level) + 1]:
        value = identifier.get(_KEYS[above])
        uids = tuple(text for one in _values(value) if (text := str(one).strip("\0 ")))
        if any(mark in uid for uid in uids for mark in "*?") and above != "PATIENT":
            raise Unfit(f"{_KEYS[above]} is a list of UIDs, without wild cards.")
        given[above] = uids
    if not given[level]:
        raise Unfit(f"{_KEYS[level]} is missing, the unique key of level {level}.")
    if sum(map(len, given.values())) > _MOST_UIDS or len(given.get("PATIENT", ())) > 1:
        raise Unfit(f"An identifier has one patient, and {_MOST_UIDS} UIDs at most.")
    return Wanted(
        patient_id=(given.get("PATIENT") or ("",))[0],
        issuer=str(identifier.get("IssuerOfPatientID") or ""),
        study_uids=given.get("STUDY", ()),
        series_uids=given.get("SERIES", ()),
        instance_uids=given.get("IMAGE", ()),
    )


def _retrieve(room: Room, served: Served, message: Message, deliver: _Deliver, cancelled: set[int]) -> None:
    """Send what is wanted, with a response for each sub-operation and one that says that they are over."""
    if not served.peer.may_move:
        return served.answer(message, NOT_AUTHORIZED, f"{served.peer.ae} may not retrieve here.")
    try:
        wanted = read_wanted(message.context.abstract_syntax, dataset_of(message))
    except Unfit as error:
        return served.answer(message, NOT_THIS_CLASS, error.message)
    except Invalid as error:
        return served.answer(message, UNABLE, error.message)
    try:
        instances = _own(room.query(list_wanted, served.scope, wanted), served.facility)
    except sa.exc.SQLAlchemyError:
        log.exception("what is to be retrieved could not be found")
        return served.answer(message, CANNOT_COUNT, "The catalog does not answer.")
    counts = _Counts(remaining=len(instances))
    id = int(message.command.get(MESSAGE_ID, 0))
    why = ""
    with closing(deliver(instances)) as under_way:
        try:
            for sent in under_way:
                counts.add(sent)
                if not sent.is_kept:
                    why = why or sent.outcome.comment or f"An instance was answered {sent.outcome}."
                served.answer(message, PENDING, more=counts.told(with_remaining=True))
                if id in cancelled or served.association.is_cancelled(id):
                    return _end(served, message, CANCELLED, counts)
        except ReadingRoomError as error:
            log.warning("a retrieval for %s broke off: %s", served.peer.ae, error.message)
            why = error.message
            counts.failed += [one.instance_uid for one in instances[len(instances) - counts.remaining :]]
            counts.remaining = 0
    if not counts.failed and not counts.warnings:
        return _end(served, message, SUCCESS, counts)
    status = SOME_FAILED if counts.completed or counts.warnings else CANNOT_SEND
    return _end(served, message, status, counts, why)


def _end(served: Served, message: Message, status: int, counts: _Counts, why: str = "") -> None:
    """The last response, with the instances that failed (PS3.4 C.4.2.1.4.2)."""
    more = counts.told(with_remaining=status == CANCELLED)
    failed = None
    if counts.failed:
        failed = Dataset()
        failed.FailedSOPInstanceUIDList = counts.failed
    served.answer(message, status, why, data=failed, more=more)


def _own(instances: list[StoredInstance], facility: str) -> list[StoredInstance]:
    """The instances, each once: where several facilities have a study, that of the caller's facility, or of one."""
    owners: dict[str, str] = {}
    for one in instances:
        if owners.setdefault(one.study_uid, one.owner_facility) != facility and one.owner_facility == facility:
            owners[one.study_uid] = facility
    return [one for one in instances if owners[one.study_uid] == one.owner_facility]


def _values(value: object) -> Sequence[object]:
    if value is None:
        return ()
    return (value,) if isinstance(value, str) else tuple(value)  # type: ignore[arg-type]
