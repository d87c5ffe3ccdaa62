"""Calls a peer: asks for an association, and for what it serves (PS3.7 chapters 9 and 10).

What answers may be hostile, or broken: it is waited for within limits, and what it sends is believed no more than what
a caller sends. Whatever becomes of it is an error of ours, never one of sockets.
"""

from __future__ import annotations

from collections.abc import Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Protocol

from pydicom import Dataset

from readingroom.errors import GiveUp, Invalid, NotAcceptable, ReadingRoomError, Unreachable
from readingroom.outbound import Network, Origin, open_socket
from server.associations.association import (
    Aborted,
    Association,
    Context,
    Limits,
    Memory,
    Message,
    Proposal,
    Released,
    Sink,
)
from server.associations.commands import (
    AFFECTED_CLASS,
    AFFECTED_INSTANCE,
    C_CANCEL,
    C_ECHO,
    C_FIND,
    C_GET,
    C_MOVE,
    C_STORE,
    COMMENT,
    COMPLETED,
    DATA_SET_TYPE,
    DESTINATION,
    FAILED,
    FIELD,
    HAS_DATA_SET,
    MESSAGE_ID,
    MOVE_ORIGINATOR,
    MOVE_ORIGINATOR_ID,
    N_ACTION,
    N_DELETE,
    N_GET,
    N_SET,
    NO_DATA_SET,
    PRIORITY,
    REMAINING,
    REQUESTED_CLASS,
    RESPONDED_TO,
    RESPONSE,
    STATUS,
    WARNING,
    CommandSet,
    Value,
    response_to,
)
from server.associations.datasets import MOST_DATA_SET, decode, encode
from server.reports.channels.access import trust
from server.settings import DimsePeer, Settings

VERIFICATION = "1.2.840.10008.1.1"

PATIENCE = Limits(pdu_seconds=30.0, idle_seconds=300.0)
"""How long a peer may take to answer, where nobody says otherwise."""

_CONNECT_SECONDS = 10.0
_PENDING = frozenset((0xFF00, 0xFF01))
_MEDIUM = 0
_MOST_AFTER_CANCEL = 1000
_FAILED_INSTANCES = "FailedSOPInstanceUIDList"


class Unsuccessful(ReadingRoomError):
    """The peer does not do what it was asked for.

    Parameters
    ----------
    status
        What it has answered.
    """

    def __init__(self, message: str | None = None, *, status: int) -> None:
        super().__init__(message)
        self.status = status


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What the peer says became of a request: its status (PS3.7 annex C), and its own words for that."""

    status: int
    comment: str = ""

    @property
    def is_kept(self) -> bool:
        """Whether the peer has done it, perhaps with a warning."""
        return self.status == 0 or self.status >> 12 == 0xB or self.status in (0x0001, 0x0107, 0x0116)

    def __str__(self) -> str:
        return f"{self.status:04X}" + (f" ({self.comment})" if self.comment else "")


@dataclass(frozen=True, slots=True, kw_only=True)
class Retrieved(Outcome):
    """How far the sub-operations of a C-MOVE or C-GET have come; numbers that the peer does not tell are None."""

    remaining: int | None = None
    completed: int | None = None
    failed: int | None = None
    warning: int | None = None
    failed_instances: tuple[str, ...] = ()

    @property
    def is_over(self) -> bool:
        """Whether this is the last that is heard."""
        return self.status not in _PENDING


class Incoming(Protocol):
    """What takes the requests that a peer makes on an association that we have asked for."""

    def open(self, context: Context, command: CommandSet) -> Sink:
        """Where the data set of a request goes."""

    def answer(self, message: Message) -> tuple[int, str]:
        """Status and error comment of the response, once its data set is there."""


class Calling:
    """An association that a peer has accepted; see `call`. For one thread."""

    def __init__(self, association: Association, name: str) -> None:
        self._association = association
        self._name = name
        self._last = 0
        self._is_amid = False
        """Whether a request has no final answer yet."""
        self.cancelled: set[int] = set()
        """Message IDs of requests of the peer's own that it wants no more answers to (C-CANCEL)."""

    @property
    def contexts(self) -> Sequence[Context]:
        """What the peer accepts."""
        return tuple(self._association.contexts.values())

    def context_of(self, sop_class: str, transfer_syntax: str | None = None) -> Context | None:
        """The presentation context of a SOP class, in that transfer syntax or in any; None where it has none."""
        return next(
            (
                one
                for one in self._association.contexts.values()
                if one.abstract_syntax == sop_class and transfer_syntax in (None, one.transfer_syntax)
            ),
            None,
        )

    # -- operations --------------------------------------------------------------------------------------------------

    def echo(self) -> Outcome:
        """Ask whether the peer is there (C-ECHO)."""
        answer, _ = self.request(VERIFICATION, {FIELD: C_ECHO})
        return _outcome(answer)

    def store(
        self,
        context: Context,
        instance_uid: str,
        data_set: Iterable[bytes | memoryview],
        *,
        originator: tuple[str, int] | None = None,
    ) -> Outcome:
        """Give the peer an object (C-STORE).

        Parameters
        ----------
        context
            One of the object's SOP class, and of the transfer syntax that `data_set` is in.
        data_set
            What follows the file meta information, in pieces. What raises there ends the association, since a message
            cannot be taken back.
        originator
            AE title and Message ID of the C-MOVE that this is for.
        """
        command: CommandSet = {
            FIELD: C_STORE,
            AFFECTED_CLASS: context.abstract_syntax,
            AFFECTED_INSTANCE: instance_uid,
            PRIORITY: _MEDIUM,
        }
        if originator is not None:
            command[MOVE_ORIGINATOR], command[MOVE_ORIGINATOR_ID] = originator
        with self._asking():
            id = self._begin(command)
            with self._reached():
                self._association.send_pieces(context, command, data_set)
            return _outcome(self._answer(id, C_STORE).command)

    def find(self, sop_class: str, identifier: Dataset, *, most: int | None = None) -> Iterator[Dataset]:
        """Ask what is there (C-FIND).

        Parameters
        ----------
        most
            After so many the peer is told that no more are wanted.

        Raises
        ------
        Unsuccessful
            It cannot say.
        """
        context = self._expect(sop_class)
        with self._asking():
            id = self._send(context, {FIELD: C_FIND, AFFECTED_CLASS: sop_class, PRIORITY: _MEDIUM}, identifier)
            count = after = 0
            while True:
                message = self._answer(id, C_FIND)
                outcome = _outcome(message.command)
                if outcome.status not in _PENDING:
                    if outcome.status == 0 or after:
                        return
                    raise Unsuccessful(f"{self._name} does not answer the query: {outcome}.", status=outcome.status)
                if most is not None and count >= most:
                    after += 1
                    if after == 1:
                        self._cancel(context, id)
                    elif after > _MOST_AFTER_CANCEL:
                        raise Unreachable(f"{self._name} goes on answering a query that was cancelled.")
                    continue
                count += 1
                found = _data_set(message)
                if found is not None:
                    yield found

    def move(self, sop_class: str, identifier: Dataset, *, destination: str) -> Iterator[Retrieved]:
        """Have the peer send to a third (C-MOVE); gives each of its answers, the last of which `is_over`."""
        command: CommandSet = {
            FIELD: C_MOVE,
            AFFECTED_CLASS: sop_class,
            PRIORITY: _MEDIUM,
            DESTINATION: destination,
        }
        return self._retrieve(sop_class, command, identifier, None)

    def get(self, sop_class: str, identifier: Dataset, incoming: Incoming) -> Iterator[Retrieved]:
        """Have the peer send on this association (C-GET); gives each of its answers, the last of which `is_over`.

        Parameters
        ----------
        incoming
            Takes the objects; their classes have to be proposed with `Proposal.has_stores`.
        """
        command: CommandSet = {FIELD: C_GET, AFFECTED_CLASS: sop_class, PRIORITY: _MEDIUM}
        return self._retrieve(sop_class, command, identifier, incoming)

    def request(
        self,
        sop_class: str,
        command: Mapping[int, Value],
        data: Dataset | None = None,
        *,
        incoming: Incoming | None = None,
    ) -> tuple[CommandSet, bytes]:
        """Make any request that has one answer, such as those of PS3.7 chapter 10.

        Parameters
        ----------
        sop_class
            Of the presentation context, and of the command where that names none.
        command
            Command Field, and what is particular to the request.
        incoming
            Takes what the peer asks for meanwhile; without it the peer may ask for nothing.

        Returns
        -------
        tuple
            The command set of the answer, whatever its status is, and its data set in the context's transfer syntax
            (`decode` reads it), empty where it has none.
        """
        context = self._expect(sop_class)
        asked = dict(command)
        if AFFECTED_CLASS not in asked and REQUESTED_CLASS not in asked:
            is_requested = asked[FIELD] in (N_GET, N_SET, N_ACTION, N_DELETE)
            asked[REQUESTED_CLASS if is_requested else AFFECTED_CLASS] = sop_class
        with self._asking():
            id = self._send(context, asked, data)
            message = self._answer(id, int(asked[FIELD]), incoming)
        return message.command, bytes(message.sink.data) if isinstance(message.sink, Memory) else b""

    def wait(self, incoming: Incoming, *, seconds: float) -> bool:
        """Answer a request that the peer makes; False where none comes for so long."""
        if self._association.is_quiet(seconds):
            return False
        with self._asking():
            message = self._receive(incoming)
            if int(message.command[FIELD]) & RESPONSE:
                raise self._broken("answers what was not asked")
            self._reply(message, incoming)
        return True

    # -- the way there -----------------------------------------------------------------------------------------------

    def end(self) -> None:
        """Release the association; abort it where the peer still owes an answer."""
        if self._is_amid:
            self._association.abort()
            return
        with suppress(Aborted, Released):  # all that was asked for has been answered
            self._association.release()

    def abort(self) -> None:
        """End the association at once."""
        self._association.abort()

    def _retrieve(
        self, sop_class: str, command: CommandSet, identifier: Dataset, incoming: Incoming | None
    ) -> Iterator[Retrieved]:
        context = self._expect(sop_class)
        with self._asking():
            id = self._send(context, command, identifier)
            while True:
                message = self._answer(id, int(command[FIELD]), incoming)
                told, listed = message.command, _data_set(message)
                counts = [value if isinstance(value := told.get(number), int) else None for number in _COUNTS]
                uids = listed.get(_FAILED_INSTANCES) if listed is not None else None
                answer = Retrieved(
                    status=_status(told),
                    comment=str(told.get(COMMENT, "")),
                    remaining=counts[0],
                    completed=counts[1],
                    failed=counts[2],
                    warning=counts[3],
                    failed_instances=tuple(map(str, [uids] if isinstance(uids, str) else uids or ())),
                )
                if answer.is_over:
                    self._is_amid = False
                yield answer
                if answer.is_over:
                    return

    def _begin(self, command: CommandSet) -> int:
        self._last = self._last % 0xFFFF + 1
        command[MESSAGE_ID] = self._last
        return self._last

    def _send(self, context: Context, command: CommandSet, data: Dataset | None) -> int:
        id = self._begin(command)
        command[DATA_SET_TYPE] = NO_DATA_SET if data is None else HAS_DATA_SET
        with self._reached():
            self._association.send(context, command, b"" if data is None else encode(data, context.transfer_syntax))
        return id

    def _cancel(self, context: Context, id: int) -> None:
        command: CommandSet = {FIELD: C_CANCEL, RESPONDED_TO: id, DATA_SET_TYPE: NO_DATA_SET}
        with self._reached():
            self._association.send(context, command)

    def _answer(self, id: int, field: int, incoming: Incoming | None = None) -> Message:
        """The next answer to a request, while what the peer asks for itself is answered."""
        while True:
            message = self._receive(incoming)
            told = int(message.command[FIELD])
            if told == C_CANCEL:
                self.cancelled.add(int(message.command.get(RESPONDED_TO, 0)))
            elif not told & RESPONSE and incoming is not None:
                self._reply(message, incoming)
            elif told != field | RESPONSE or message.command.get(RESPONDED_TO) != id:
                raise self._broken("answers what was not asked")
            else:
                return message

    def _receive(self, incoming: Incoming | None) -> Message:
        def opener(context: Context, command: CommandSet) -> Sink:
            if incoming is not None and not int(command[FIELD]) & RESPONSE:
                return incoming.open(context, command)
            return Memory(most=MOST_DATA_SET)

        with self._reached():
            return self._association.receive(opener)

    def _reply(self, message: Message, incoming: Incoming) -> None:
        status, comment = incoming.answer(message)
        with self._reached():
            self._association.send(message.context, response_to(message.command, status, comment))

    def _expect(self, sop_class: str) -> Context:
        context = self.context_of(sop_class)
        if context is None:
            raise NotAcceptable(f"{self._name} does not serve SOP class {sop_class}.")
        return context

    def _broken(self, what: str) -> Unreachable:
        self._association.abort(reason=6)
        return Unreachable(f"{self._name} {what}.")

    @contextmanager
    def _asking(self) -> Iterator[None]:
        """What is asked in here has had its answer when this is left without an error."""
        self._is_amid = True
        yield
        self._is_amid = False

    @contextmanager
    def _reached(self) -> Iterator[None]:
        try:
            yield
        except Released:
            raise Unreachable(f"{self._name} releases the association before it has answered.") from None
        except Aborted as error:
            raise Unreachable(f"{self._name}: {error}") from error


@contextmanager
def call(
    peer: DimsePeer,
    proposals: Sequence[Proposal],
    *,
    calling: str,
    networks: Sequence[Network] = (),
    limits: Limits = PATIENCE,
    certificate: str = "",
    key: str = "",
) -> Generator[Calling]:
    """An association with a peer, while this is open.

    Parameters
    ----------
    proposals
        The presentation contexts to ask for, `MOST_CONTEXTS` at most.
    calling
        Our AE title.
    networks
        Networks beside the public Internet where the peer may be; without TLS it has to be in one of them.
    certificate, key
        Files with our own certificate and its key, where we are to show one.

    Raises
    ------
    GiveUp
        The peer is not called: its address is not allowed, or it has none.
    Unreachable
        Nobody is there, or it speaks no DICOM.
    Rejected
        It does not take the association.
    """
    if peer.host is None:
        raise GiveUp(f"{peer.ae} is never called: its peer has no host.")
    origin = Origin(scheme="dicoms" if peer.tls else "dicom", host=peer.host, port=peer.port)
    context = trust(str(peer.ca or ""), certificate=certificate, key=key) if peer.tls else None
    sock = open_socket(origin, networks, min(_CONNECT_SECONDS, limits.pdu_seconds), context=context)
    with sock:
        association = Association(sock, limits)
        try:
            association.ask(proposals, calling=calling, called=peer.ae)
        except (Aborted, Released) as error:
            raise Unreachable(f"{peer.ae} takes no association: {error}") from error
        called = Calling(association, peer.ae)
        try:
            yield called
        finally:
            called.end()


@contextmanager
def call_as(
    settings: Settings, peer: DimsePeer, proposals: Sequence[Proposal], *, limits: Limits = PATIENCE
) -> Generator[Calling]:
    """The same as this server: under its AE title, with its certificate, where its settings allow."""
    own = settings.dimse
    with call(
        peer,
        proposals,
        calling=own.ae_title,
        networks=settings.private_networks,
        limits=limits,
        certificate=str(own.certificate or ""),
        key=str(own.key or ""),
    ) as calling:
        yield calling


_COUNTS = (REMAINING, COMPLETED, FAILED, WARNING)


def _status(command: CommandSet) -> int:
    return int(command.get(STATUS, 0x0110))  # who tells no status has failed


def _outcome(command: CommandSet) -> Outcome:
    return Outcome(status=_status(command), comment=str(command.get(COMMENT, "")))


def _data_set(message: Message) -> Dataset | None:
    if not isinstance(message.sink, Memory):
        return None
    try:
        return decode(message.sink.data, message.context.transfer_syntax)
    except Invalid as error:
        raise Unreachable(f"What was answered cannot be read: {error.message}") from None
