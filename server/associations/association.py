"""One association over a socket (PS3.8): PDUs with a deadline each, negotiation, and the messages that come and go.

It is read by the one thread that it belongs to, which blocks: an association that is idle costs nothing. Negotiation is
pynetdicom's; the way of the data is our own, since that is where the time goes. Who has asked for the association and
who has taken it on differ in negotiation and release alone.
"""

from __future__ import annotations

import select
import socket
import ssl
import struct
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from pydicom.uid import UID, ExplicitVRLittleEndian, ImplicitVRLittleEndian
from pynetdicom.pdu import A_ASSOCIATE_AC, A_ASSOCIATE_RJ, A_ASSOCIATE_RQ
from pynetdicom.pdu_primitives import (
    A_ASSOCIATE,
    AsynchronousOperationsWindowNegotiation,
    ImplementationClassUIDNotification,
    ImplementationVersionNameNotification,
    MaximumLengthNotification,
    SCP_SCU_RoleSelectionNegotiation,
    SOPClassExtendedNegotiation,
    UserIdentityNegotiation,
)
from pynetdicom.presentation import PresentationContext, build_context, negotiate_unrestricted

from readingroom.errors import Invalid, Refused, RetryLater, TooLarge, Unavailable
from server.associations.commands import (
    C_CANCEL,
    DATA_SET_TYPE,
    FIELD,
    HAS_DATA_SET,
    NO_DATA_SET,
    RESPONDED_TO,
    CommandSet,
    read_command,
    write_command,
)
from storage.part10 import IMPLEMENTATION_CLASS_UID, IMPLEMENTATION_VERSION_NAME

ASSOCIATE_RQ, ASSOCIATE_AC, ASSOCIATE_RJ, P_DATA, RELEASE_RQ, RELEASE_RP, ABORT = 1, 2, 3, 4, 5, 6, 7

APPLICATION_CONTEXT = "1.2.840.10008.3.1.1.1"

MOST_CONTEXTS = 128
"""That one association can have: their ids are odd, and below 256 (PS3.8 9.3.2.2)."""

MOST_PDU = 131_072
"""Bytes of a P-DATA-TF that peers may send; with 16 KiB everything takes twice as long."""

_MOST_NEGOTIATION = 1 << 20
"""Bytes of an A-ASSOCIATE-RQ: 128 contexts with all transfer syntaxes have a tenth of it."""
_USUAL_PDU = 16_384
_LEAST_PDU = 1024
_BUFFER = 1 << 20
_LINGER_SECONDS = 5.0
_HEAD = struct.Struct(">BxL")
_PDV = struct.Struct(">BxLLBB")
_IS_COMMAND, _IS_LAST = 1, 2


# What pynetdicom's decoder raises of what a stranger has sent.
_UNREADABLE = (ValueError, TypeError, KeyError, IndexError, AttributeError, struct.error, NotImplementedError)


class Released(Exception):
    """The peer has released the association."""


class Aborted(Exception):
    """The association is over without a release: the peer has aborted or gone, or broken the protocol."""


class Rejected(RetryLater):
    """The peer rejects the association; perhaps it does not know this AE title."""


class Sink(Protocol):
    """What takes the data set of a message, as it comes."""

    def write(self, data: memoryview) -> None:
        """The next bytes; what it raises ends the association."""


@dataclass(slots=True)
class Memory:
    """A data set in memory, with room for what stands before it.

    Raises
    ------
    TooLarge
        There is more than it may hold.
    """

    most: int
    data: bytearray = field(default_factory=bytearray)

    def write(self, data: memoryview) -> None:
        """Append."""
        if len(self.data) + len(data) > self.most:
            raise TooLarge(f"A data set has more than {self.most} bytes.")
        self.data += data


@dataclass(frozen=True, slots=True, kw_only=True)
class Context:
    """A presentation context that was accepted, and which roles the peer has in it."""

    id: int
    abstract_syntax: str
    transfer_syntax: str
    peer_is_scu: bool = True
    peer_is_scp: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Proposal:
    """A presentation context to ask for.

    Attributes
    ----------
    has_stores
        Whether the peer may send objects of this class to us (SCP role, PS3.7 D.3.3.4), as the answers of C-GET are.
    """

    sop_class: str
    transfer_syntaxes: tuple[str, ...] = (ExplicitVRLittleEndian, ImplicitVRLittleEndian)
    has_stores: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Message:
    """A message: its command, and the sink that has its data set; None where it has none."""

    context: Context
    command: CommandSet
    sink: Sink | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What a peer may take: seconds for one PDU once it has begun, seconds between two, bytes in memory."""

    pdu_seconds: float = 30.0
    idle_seconds: float = 600.0
    memory_bytes: int = 64 << 20


Opener = Callable[[Context, CommandSet], Sink]
"""Given the command of a message with a data set, says where that goes."""


class Association:
    """The end of an association that is here.

    Parameters
    ----------
    sock
        Connected, with TLS where that is wanted; closed by whoever has opened it.
    """

    def __init__(self, sock: socket.socket, limits: Limits) -> None:
        self._sock = sock
        self._limits = limits
        self._buffer = bytearray(_BUFFER)
        self._view = memoryview(self._buffer)
        self._begin = self._end = 0
        self.contexts: Mapping[int, Context] = {}
        self.calling = self.called = ""
        self.peer_most = _USUAL_PDU
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    # -- negotiation -------------------------------------------------------------------------------------------------

    def accept(
        self,
        supported: Sequence[str],
        check: Callable[[str, str], None],
        best_to_send: Callable[[str, Sequence[str]], str] = lambda _sop_class, proposed: proposed[0],
    ) -> None:
        """Take on the association that a peer asks for.

        Every storage class is accepted, known or not, in the transfer syntax that was proposed first, so that what the
        peer stores is as it prefers it.

        Parameters
        ----------
        supported
            The SOP classes that are served beside storage.
        check
            Given the AE titles of caller and called, raises `Refused` where there is none.
        best_to_send
            Given a SOP class that the peer wants to be sent (it is its SCP), and the transfer syntaxes that it
            proposes, which one to take.

        Raises
        ------
        Aborted
            What came is no request, or was refused; the peer knows.
        """
        kind, body = self._read_pdu()
        if kind != ASSOCIATE_RQ:
            self.abort()
            raise Aborted("The peer does not begin with A-ASSOCIATE-RQ.")
        request = _request(body)
        if request is None:
            self.abort()
            raise Aborted("An A-ASSOCIATE-RQ cannot be read.")
        self.calling, self.called = request.calling_ae_title.strip(), request.called_ae_title.strip()
        if request.application_context_name != APPLICATION_CONTEXT:
            self._reject(1, 1, 2)  # permanent, service user, application context name not supported
        try:
            check(self.calling, self.called)
        except _Unknown as error:
            self._reject(1, 1, error.diagnostic)
        except Unavailable:
            self._reject(2, 3, 2)  # transient, presentation, local limit exceeded
        self._agree(request, supported, best_to_send)

    def _agree(
        self, request: A_ASSOCIATE, supported: Sequence[str], best_to_send: Callable[[str, Sequence[str]], str]
    ) -> None:
        wanted = [one for one in request.presentation_context_definition_list if (one.context_id or 0) % 2 == 1]
        roles: dict[UID, tuple[bool | None, bool | None]] = {}
        answers: list[Any] = []
        for item in request.user_information:
            if isinstance(item, SCP_SCU_RoleSelectionNegotiation) and item.sop_class_uid:
                roles[item.sop_class_uid] = (item.scu_role, item.scp_role)
            if isinstance(item, MaximumLengthNotification):
                self._may_have(item.maximum_length_received)
            elif (answer := _negotiated(item)) is not None:
                answers.append(answer)
        for one in wanted:
            if roles.get(UID(str(one.abstract_syntax)), (True, False))[1]:
                proposed = [str(syntax) for syntax in one.transfer_syntax]
                best = best_to_send(str(one.abstract_syntax), proposed)
                one.transfer_syntax = [best, *(syntax for syntax in proposed if syntax != best)]
        agreed, replies = negotiate_unrestricted(wanted, [_supported(uid) for uid in supported], roles)
        self.contexts = {one.context_id: _context(one, roles) for one in agreed if one.result == 0 and one.context_id}
        request.result, request.result_source = 0, 1
        request.presentation_context_definition_results_list = agreed
        request.user_information = [*_who_we_are(), *replies, *answers]
        self._send(A_ASSOCIATE_AC(request).encode())

    def _reject(self, result: int, source: int, diagnostic: int) -> None:
        """Answer A-ASSOCIATE-RJ (PS3.8 table 9-21)."""
        primitive = A_ASSOCIATE()
        primitive.result, primitive.result_source, primitive.diagnostic = result, source, diagnostic
        self._send(A_ASSOCIATE_RJ(primitive).encode())
        self._linger()
        raise Aborted(f"An association of {self.calling!r} with {self.called!r} was rejected.")

    def ask(self, proposals: Sequence[Proposal], *, calling: str, called: str) -> None:
        """Ask the peer for an association; `contexts` are those that it accepts.

        Raises
        ------
        Rejected
            It takes none.
        Aborted
            What it answers is no answer, or it is silent.
        """
        if not 0 < len(proposals) <= MOST_CONTEXTS:
            raise Invalid(f"An association has 1 to {MOST_CONTEXTS} presentation contexts, not {len(proposals)}.")
        self.calling, self.called = calling, called
        wanted = {2 * place + 1: one for place, one in enumerate(proposals)}
        self._send(A_ASSOCIATE_RQ(_asked(wanted, calling, called)).encode())
        kind, body = self._read_pdu(self._limits.pdu_seconds)
        if kind == ASSOCIATE_RJ:
            raise Rejected(_why_rejected(bytes(body)))
        if kind == ABORT:
            raise Aborted("The peer aborts instead of taking the association.")
        answer = _answer(body) if kind == ASSOCIATE_AC else None
        if answer is None:
            raise self._broken("What should be A-ASSOCIATE-AC cannot be read.")
        roles: dict[str, SCP_SCU_RoleSelectionNegotiation] = {}
        for item in answer.user_information:
            if isinstance(item, SCP_SCU_RoleSelectionNegotiation) and item.sop_class_uid:
                roles[str(item.sop_class_uid)] = item
            if isinstance(item, MaximumLengthNotification):
                self._may_have(item.maximum_length_received)
        contexts = {}
        for one in answer.presentation_context_definition_results_list:
            asked, id = wanted.get(one.context_id or 0), one.context_id or 0
            syntax = str(one.transfer_syntax[0]) if one.transfer_syntax else ""
            if one.result != 0 or asked is None or syntax not in asked.transfer_syntaxes:
                continue  # refused, or nothing that was asked for
            role = roles.get(asked.sop_class) if asked.has_stores else None
            contexts[id] = Context(
                id=id,
                abstract_syntax=asked.sop_class,
                transfer_syntax=syntax,
                peer_is_scu=bool(role and role.scp_role),
                peer_is_scp=not asked.has_stores or bool(role and role.scu_role),
            )
        self.contexts = contexts

    def release(self) -> None:
        """End an association that was asked for, once the peer says that it has heard (PS3.8 7.2).

        Raises
        ------
        Aborted
            It does not.
        """
        self._send(bytes((RELEASE_RQ, 0, 0, 0, 0, 4, 0, 0, 0, 0)))
        until = time.monotonic() + self._limits.pdu_seconds
        while (left := until - time.monotonic()) > 0:
            kind, _ = self._read_pdu(left)
            if kind == RELEASE_RP:
                return
            if kind == RELEASE_RQ:  # both at once
                self._send(bytes((RELEASE_RP, 0, 0, 0, 0, 4, 0, 0, 0, 0)))
            elif kind != P_DATA:  # what was on its way is dropped
                break
        raise self._broken("The peer does not release the association.")

    def _may_have(self, told: int | None) -> None:
        """Note how long the PDUs are that the peer takes; 0 is without end (PS3.8 D.1)."""
        self.peer_most = max(_LEAST_PDU, min(told, _BUFFER)) if told else _BUFFER

    # -- messages ----------------------------------------------------------------------------------------------------

    def receive(self, opener: Opener) -> Message:
        """The next message, whole.

        Raises
        ------
        Released
            The peer has released the association; it has its answer.
        Aborted
            It is over.
        """
        command_bytes = bytearray()
        command: CommandSet | None = None
        context: Context | None = None
        sink: Sink | None = None
        for id, header, data in self._pdvs():
            if context is None:
                context = self.contexts.get(id)
                if context is None:
                    raise self._broken(f"Presentation context {id} was not accepted.")
            elif id != context.id:
                raise self._broken("A message changes its presentation context.")
            if header & _IS_COMMAND:
                if command is not None:
                    raise self._broken("A command comes where a data set should.")
                command_bytes += data
                if len(command_bytes) > 1 << 16:
                    raise self._broken("A command set has no end.")
                if not header & _IS_LAST:
                    continue
                try:
                    command = read_command(command_bytes)
                except Invalid as error:
                    raise self._broken(error.message) from None
                if command.get(DATA_SET_TYPE, NO_DATA_SET) == NO_DATA_SET:
                    return Message(context=context, command=command, sink=None)
                sink = opener(context, command)
                continue
            if command is None or sink is None:
                raise self._broken("A data set comes before its command.")
            sink.write(data)
            if header & _IS_LAST:
                return Message(context=context, command=command, sink=sink)
        raise AssertionError("PDVs do not end but by an exception")

    def send(self, context: Context, command: Mapping[int, int | str], data: bytes | memoryview = b"") -> None:
        """Send a message; raises `Aborted` where the peer has gone."""
        fragments = [*self._fragments(context.id, write_command(command), _IS_COMMAND)]
        if data:
            fragments += self._fragments(context.id, data, 0)
        self._send(b"".join(fragments))

    def send_pieces(
        self, context: Context, command: Mapping[int, int | str], pieces: Iterable[bytes | memoryview]
    ) -> None:
        """Send a message whose data set comes in pieces, of which little is held; raises as `send` does."""
        command = {**command, DATA_SET_TYPE: HAS_DATA_SET}
        head = b"".join(self._fragments(context.id, write_command(command), _IS_COMMAND))
        room = self._room
        held = bytearray()
        for piece in pieces:
            view = memoryview(piece)
            place = 0
            while place < len(view):
                if len(held) == room:  # more comes, so that this one is not the last
                    self._send(head + _PDV.pack(P_DATA, room + 6, room + 2, context.id, 0) + held)
                    head = b""
                    held.clear()
                taken = view[place : place + room - len(held)]
                held += taken
                place += len(taken)
        self._send(head + _PDV.pack(P_DATA, len(held) + 6, len(held) + 2, context.id, _IS_LAST) + held)

    def is_quiet(self, seconds: float) -> bool:
        """Whether nothing comes for so long."""
        if self._begin != self._end or (isinstance(self._sock, ssl.SSLSocket) and self._sock.pending()):
            return False
        return not select.select([self._sock], [], [], seconds)[0]

    def is_cancelled(self, message_id: int) -> bool:
        """Whether the peer has asked for no more answers to a request of its (PS3.7 9.3.2.3); does not wait.

        Raises
        ------
        Aborted, Released
            It is over; or the peer asks for something else while it is being answered.
        """
        if self.is_quiet(0):
            return False
        message = self.receive(lambda _context, _command: Memory(most=self._limits.memory_bytes))
        if message.command[FIELD] == C_CANCEL:
            return message.command.get(RESPONDED_TO) == message_id
        raise self._broken("The peer asks for more than one thing at a time, which was not agreed on.")

    def abort(self, reason: int = 0) -> None:
        """Tell the peer that it is over (A-ABORT, PS3.8 9.3.8)."""
        try:
            self._send(bytes((ABORT, 0, 0, 0, 0, 4, 0, 0, 2, reason)))
            self._linger()
        except Aborted:
            pass  # it has gone already

    @property
    def _room(self) -> int:
        """Bytes of a fragment, an even number (PS3.8 annex E.2)."""
        return (self.peer_most - 6) & ~1

    def _fragments(self, id: int, data: bytes | memoryview, header: int) -> Iterator[bytes]:
        room = self._room
        view = memoryview(data)
        for place in range(0, max(len(view), 1), room):
            part = view[place : place + room]
            last = _IS_LAST if place + room >= len(view) else 0
            yield _PDV.pack(P_DATA, len(part) + 6, len(part) + 2, id, header | last) + part

    def _pdvs(self) -> Iterator[tuple[int, int, memoryview]]:
        """The presentation data values that come (PS3.8 9.3.5.1): context id, message control header, data."""
        while True:
            kind, body = self._read_pdu()
            if kind == RELEASE_RQ:
                self._send(bytes((RELEASE_RP, 0, 0, 0, 0, 4, 0, 0, 0, 0)))
                raise Released
            if kind == ABORT:
                raise Aborted("The peer has aborted.")
            if kind != P_DATA:
                raise self._broken(f"A PDU of type {kind} comes where data should.")
            place, end = 0, len(body)
            while place < end:
                if place + 6 > end:
                    raise self._broken("A PDU ends within a value.")
                length = int.from_bytes(body[place : place + 4], "big")
                after = place + 4 + length
                if length < 2 or after > end:
                    raise self._broken("A value ends behind its PDU.")
                yield body[place + 4], body[place + 5], body[place + 6 : after]
                place = after

    # -- PDUs --------------------------------------------------------------------------------------------------------

    def _read_pdu(self, seconds: float | None = None) -> tuple[int, memoryview]:
        """Type and body of the next PDU; the body is good until the next one is read.

        Parameters
        ----------
        seconds
            Until it has to begin; by default those between two messages.
        """
        until = time.monotonic() + (self._limits.idle_seconds if seconds is None else seconds)
        if self._end == self._begin:
            self._begin = self._end = 0
            self._fill(until)
        until = time.monotonic() + self._limits.pdu_seconds
        while self._end - self._begin < 6:
            self._fill(until)
        kind, length = _HEAD.unpack_from(self._view, self._begin)
        most = MOST_PDU + 6 if kind == P_DATA else _MOST_NEGOTIATION - 6
        if not ASSOCIATE_RQ <= kind <= ABORT or length > most:
            raise self._broken(f"A PDU of type {kind} and {length} bytes is none that may come.")
        while self._end - self._begin < 6 + length:
            self._fill(until)
        body = self._view[self._begin + 6 : self._begin + 6 + length]
        self._begin += 6 + length
        return kind, body

    def _fill(self, until: float) -> None:
        """Read some more; raises `Aborted` where none comes in time."""
        if self._begin and len(self._buffer) - self._end < _BUFFER // 4:
            rest = bytes(self._view[self._begin : self._end])
            self._view[: len(rest)] = rest
            self._begin, self._end = 0, len(rest)
        left = until - time.monotonic()
        try:
            self._sock.settimeout(max(left, 0.001))
            count = self._sock.recv_into(self._view[self._end :]) if left > 0 else -1
        except TimeoutError:
            count = -1
        except (OSError, ValueError) as error:
            raise Aborted("The connection broke.") from error
        if count < 0:
            self.abort()
            raise Aborted("The peer was silent for too long.")
        if count == 0:
            raise Aborted("The peer has closed the connection.")
        self._end += count

    def _send(self, data: bytes) -> None:
        try:
            self._sock.settimeout(self._limits.pdu_seconds)
            self._sock.sendall(data)
        except OSError as error:
            raise Aborted("The peer takes nothing.") from error

    def _linger(self) -> None:
        """Let the peer read what was said last before the connection closes; for a moment, even if it goes on."""
        until = time.monotonic() + _LINGER_SECONDS
        try:
            self._sock.shutdown(socket.SHUT_WR)
            self._sock.settimeout(1)
            while time.monotonic() < until and self._sock.recv(65536):
                pass
        except OSError:
            pass

    def _broken(self, why: str) -> Aborted:
        """Abort for a peer that breaks the protocol."""
        self.abort(reason=6)  # invalid PDU parameter value
        return Aborted(why)


class _Unknown(Refused):
    """No such AE title here."""

    diagnostic = 3  # calling AE title not recognized


class UnknownCaller(_Unknown):
    """This AE title may not call here."""


class UnknownCalled(_Unknown):
    """No AE of this title is here."""

    diagnostic = 7  # called AE title not recognized


def _request(body: memoryview) -> A_ASSOCIATE | None:
    pdu = A_ASSOCIATE_RQ()
    try:
        pdu.decode(_HEAD.pack(ASSOCIATE_RQ, len(body)) + bytes(body))
        primitive: A_ASSOCIATE = pdu.to_primitive()
        # What is wrong with a value shows when it is asked for.
        _ = primitive.calling_ae_title, primitive.called_ae_title, primitive.presentation_context_definition_list
    except _UNREADABLE:
        return None
    return primitive


_QUERY_RETRIEVE = "1.2.840.10008.5.1.4.1.2."
_NULL_RESPONSES = frozenset((1, 2, 5))
"""User names, with or without passcodes, and JSON web tokens: what is answered to them is empty (PS3.7 D.3.3.7.2)."""


def _negotiated(item: Any) -> Any | None:
    """What is answered to an item of extended negotiation (PS3.7 D.3.3.3, D.3.3.5, D.3.3.7); None for nothing."""
    if isinstance(item, AsynchronousOperationsWindowNegotiation):
        return AsynchronousOperationsWindowNegotiation()  # one operation at a time, either way
    if isinstance(item, SOPClassExtendedNegotiation) and str(item.sop_class_uid).startswith(_QUERY_RETRIEVE):
        answer = SOPClassExtendedNegotiation()
        answer.sop_class_uid = item.sop_class_uid
        # None of the options of PS3.4 C.5.1.1 and C.5.2.1: no relational queries, and so on.
        answer.service_class_application_information = bytes(len(item.service_class_application_information or b"\0"))
        return answer
    if isinstance(item, UserIdentityNegotiation) and item.positive_response_requested:
        if item.user_identity_type not in _NULL_RESPONSES:
            return None  # a ticket or an assertion would have to be answered with one
        identity = UserIdentityNegotiation()
        identity.server_response = b""
        return identity
    return None


def _who_we_are() -> list[Any]:
    """What either side says of itself (PS3.7 annex D.3.3)."""
    most = MaximumLengthNotification()
    most.maximum_length_received = MOST_PDU
    implementation = ImplementationClassUIDNotification()
    implementation.implementation_class_uid = IMPLEMENTATION_CLASS_UID
    version = ImplementationVersionNameNotification()
    version.implementation_version_name = IMPLEMENTATION_VERSION_NAME
    return [most, implementation, version]


def _asked(wanted: Mapping[int, Proposal], calling: str, called: str) -> A_ASSOCIATE:
    """The request for an association."""
    primitive = A_ASSOCIATE()
    primitive.application_context_name = APPLICATION_CONTEXT
    primitive.calling_ae_title, primitive.called_ae_title = calling, called
    contexts = []
    for id, one in wanted.items():
        context = build_context(one.sop_class, list(one.transfer_syntaxes))
        context.context_id = id
        contexts.append(context)
    primitive.presentation_context_definition_list = contexts
    roles = []
    for sop_class in dict.fromkeys(one.sop_class for one in wanted.values() if one.has_stores):
        role = SCP_SCU_RoleSelectionNegotiation()
        role.sop_class_uid, role.scu_role, role.scp_role = UID(sop_class), False, True
        roles.append(role)
    primitive.user_information = [*_who_we_are(), *roles]
    return primitive


def _answer(body: memoryview) -> A_ASSOCIATE | None:
    pdu = A_ASSOCIATE_AC()
    try:
        pdu.decode(_HEAD.pack(ASSOCIATE_AC, len(body)) + bytes(body))
        primitive: A_ASSOCIATE = pdu.to_primitive()
        _ = primitive.presentation_context_definition_results_list, primitive.user_information
    except _UNREADABLE:
        return None
    return primitive if primitive.application_context_name == APPLICATION_CONTEXT else None


_REJECTIONS = {
    (1, 1): "it gives no reason",
    (1, 2): "application context name not supported",
    (1, 3): "it does not know this AE title",
    (1, 7): "it does not have the AE title that was called",
    (2, 2): "protocol version not supported",
    (3, 1): "it is busy",
    (3, 2): "it has as many associations as it may have",
}
"""By source and reason (PS3.8 table 9-21)."""


def _why_rejected(body: bytes) -> str:
    _, result, source, reason = (*body, 0, 0, 0, 0)[:4]
    why = _REJECTIONS.get((source, reason), f"source {source}, reason {reason}")
    return f"The peer rejects the association {'for now' if result == 2 else 'for good'}: {why}."


def _supported(uid: str) -> PresentationContext:
    context: PresentationContext = build_context(uid, [ExplicitVRLittleEndian, ImplicitVRLittleEndian])
    return context


def _context(agreed: PresentationContext, roles: Mapping[UID, tuple[bool | None, bool | None]]) -> Context:
    scu, scp = roles.get(UID(str(agreed.abstract_syntax)), (True, False))
    return Context(
        id=agreed.context_id or 0,
        abstract_syntax=str(agreed.abstract_syntax),
        transfer_syntax=str(agreed.transfer_syntax[0]),
        peer_is_scu=bool(scu),
        peer_is_scp=bool(scp),
    )
