"""Listens for associations: one thread each, with limits for each peer and for all, and serves what they ask for.

A connection counts from the moment it is accepted, before anybody knows who calls: who connects and says nothing keeps
others out no longer than a deadline. TLS is spoken on the thread of the connection, never on the one that accepts.
"""

from __future__ import annotations

import logging
import socket
import ssl
import threading
from collections import Counter
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field

import sqlalchemy as sa

from readingroom.errors import Invalid, Unavailable
from readingroom.model import Scope
from server.dimse.association import (
    Aborted,
    Association,
    Context,
    Limits,
    Memory,
    Message,
    Released,
    Sink,
    UnknownCalled,
    UnknownCaller,
)
from server.dimse.commands import (
    C_CANCEL,
    C_ECHO,
    C_FIND,
    C_STORE,
    DATA_SET_TYPE,
    FIELD,
    HAS_DATA_SET,
    MESSAGE_ID,
    CommandSet,
    response_to,
)
from server.dimse.finding import (
    CANCELLED,
    NO_SUCH_LEVEL,
    PATIENT_ROOT,
    PENDING,
    PENDING_WITHOUT_KEYS,
    STUDY_ROOT,
    UNABLE,
    NoSuchLevel,
    encode,
    matches,
    read_find,
)
from server.dimse.storing import Storing
from server.settings import DimsePeer, DimseSettings
from storage.catalog.keys import KEYS, Keys

log = logging.getLogger(__name__)

VERIFICATION = "1.2.840.10008.1.1"
UNRECOGNIZED_OPERATION = 0x0211
NOT_AUTHORIZED = 0x0124

_BACKLOG = 128
_MOST_IDENTIFIER = 1 << 20
_STOP_SECONDS = 5.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Served:
    """Who is at the other end, and whose facility's work that is."""

    association: Association
    peer: DimsePeer
    facility: str


@dataclass(slots=True)
class _Counts:
    """How many connections there are, in all and by address."""

    total: int = 0
    by_address: Counter[str] = field(default_factory=Counter)


class DimseServer:
    """Accepts associations on a bound socket until it is told to stop.

    Parameters
    ----------
    peers
        By calling AE title, who may call; the settings may also let anybody.
    facility
        Whose work it is that a peer without a facility of its own does.
    """

    def __init__(
        self,
        bound: socket.socket,
        settings: DimseSettings,
        storing: Storing,
        *,
        facility: str,
        engine: sa.Engine,
        keys: Keys = KEYS,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        self._bound = bound
        bound.listen(_BACKLOG)
        self._settings = settings
        self._storing = storing
        self._facility = facility
        self._engine, self._keys = engine, keys
        self._tls = tls
        self._peers: Mapping[str, DimsePeer] = {peer.ae: peer for peer in settings.peers.values()}
        self._limits = Limits(
            pdu_seconds=settings.pdu_seconds, idle_seconds=settings.idle_seconds, memory_bytes=storing.memory_bytes
        )
        self._counts = _Counts()
        self._open: set[socket.socket] = set()
        self._lock = threading.Lock()
        self._is_stopping = threading.Event()
        self._services: dict[int, Callable[[Served, Message], None]] = {
            C_ECHO: self._echo,
            C_STORE: self._store,
            C_FIND: self._find,
        }

    @property
    def port(self) -> int:
        """Where it listens."""
        port: int = self._bound.getsockname()[1]
        return port

    def serve(self) -> None:
        """Accept until `stop`; then those who are being served have a moment to finish."""
        while not self._is_stopping.is_set():
            try:
                sock, address = self._bound.accept()
            except OSError:
                if self._is_stopping.is_set():
                    break
                log.exception("an association could not be accepted")
                self._is_stopping.wait(0.1)  # out of descriptors, perhaps: others will close theirs
                continue
            self._begin(sock, str(address[0]))
        self._bound.close()

    def stop(self) -> None:
        """Accept nobody any more, and end what is open once its message is done, or after some seconds."""
        self._is_stopping.set()
        with suppress(OSError):
            self._bound.shutdown(socket.SHUT_RDWR)
        with self._lock:
            open_now = list(self._open)
        for sock in open_now:
            with suppress(OSError):
                sock.shutdown(socket.SHUT_RD)  # what has come is still answered
        for thread in threading.enumerate():
            if thread.name.startswith("association-"):
                thread.join(_STOP_SECONDS)

    def _begin(self, sock: socket.socket, address: str) -> None:
        with self._lock:
            is_full = (
                self._counts.total >= self._settings.max_associations
                or self._counts.by_address[address] >= self._settings.max_per_address
            )
            if not is_full:
                self._counts.total += 1
                self._counts.by_address[address] += 1
                self._open.add(sock)
        if is_full:
            # Without reading a request there is nobody to answer; a peer takes a closed connection for "try again".
            log.warning("a connection from %s is refused: there are as many as there may be", address)
            sock.close()
            return
        threading.Thread(target=self._run, args=(sock, address), name=f"association-{address}", daemon=True).start()

    def _run(self, sock: socket.socket, address: str) -> None:
        spoken = sock
        try:
            if self._tls is not None:
                sock.settimeout(self._limits.pdu_seconds)
                spoken = self._tls.wrap_socket(sock, server_side=True)
            self._serve(Association(spoken, self._limits))
        except Released:
            pass
        except Aborted as error:
            log.info("association from %s: %s", address, error)
        except (ssl.SSLError, OSError) as error:
            log.info("a connection from %s came to nothing: %s", address, type(error).__name__)
        except Exception:
            # The edge: whatever it was, this association ends, and the others go on.
            log.exception("an association from %s failed", address)
        finally:
            spoken.close()
            with self._lock:
                self._open.discard(sock)
                self._counts.total -= 1
                self._counts.by_address[address] -= 1
                if not self._counts.by_address[address]:
                    del self._counts.by_address[address]

    def _serve(self, association: Association) -> None:
        association.accept((VERIFICATION, PATIENT_ROOT, STUDY_ROOT), self._check)
        peer = self._peers.get(association.calling) or DimsePeer(ae=association.calling)
        served = Served(association=association, peer=peer, facility=peer.facility or self._facility)

        def opener(context: Context, command: CommandSet) -> Sink:
            if command[FIELD] == C_STORE:
                return self._storing.open(context, command, association.calling)
            return Memory(most=_MOST_IDENTIFIER)

        try:
            while True:
                message = association.receive(opener)
                field_ = int(message.command[FIELD])
                if field_ == C_CANCEL:
                    continue  # of something that has been answered already
                service = self._services.get(field_)
                if service is None:
                    refused = response_to(message.command, UNRECOGNIZED_OPERATION, "No such operation here.")
                    association.send(message.context, refused)
                else:
                    service(served, message)
        except (Released, Aborted):
            raise
        except BaseException:
            association.abort()
            raise

    def _check(self, calling: str, called: str) -> None:
        if called != self._settings.ae_title and not self._settings.any_called:
            raise UnknownCalled(f"No AE {called!r} is here.")
        if calling not in self._peers and not self._settings.any_caller:
            raise UnknownCaller(f"AE {calling!r} may not call here.")
        if self._is_stopping.is_set():
            raise Unavailable("The server is about to stop.")

    # -- services ----------------------------------------------------------------------------------------------------

    def _echo(self, served: Served, message: Message) -> None:
        """C-ECHO (PS3.7 9.1.5)."""
        served.association.send(message.context, response_to(message.command, 0))

    def _store(self, served: Served, message: Message) -> None:
        """C-STORE."""
        if message.sink is None:
            status, comment = 0xC000, "The request has no data set."
        elif not served.peer.may_store:
            status, comment = NOT_AUTHORIZED, f"{served.peer.ae} may not store here."
        else:
            status, comment = self._storing.store(
                message.context, message.command, message.sink, facility=served.facility, source=served.peer.ae
            )
        served.association.send(message.context, response_to(message.command, status, comment))

    def _find(self, served: Served, message: Message) -> None:
        """C-FIND (PS3.4 C.4.1): a response for each match, and one that says that there are no more."""
        association, context, command = served.association, message.context, message.command

        def end(status: int, comment: str = "") -> None:
            association.send(context, response_to(command, status, comment))

        if not served.peer.may_find:
            return end(NOT_AUTHORIZED, f"{served.peer.ae} may not ask here.")
        if context.abstract_syntax not in (PATIENT_ROOT, STUDY_ROOT) or not isinstance(message.sink, Memory):
            return end(UNABLE, "The request has no identifier, or is of another SOP class.")
        try:
            found = read_find(context.abstract_syntax, context.transfer_syntax, message.sink.data, self._keys)
        except NoSuchLevel as error:
            return end(NO_SUCH_LEVEL, error.message)
        except Invalid as error:
            return end(UNABLE, error.message)
        status = PENDING_WITHOUT_KEYS if found.has_unknown else PENDING
        pending = {**response_to(command, status), DATA_SET_TYPE: HAS_DATA_SET}
        scope = Scope() if served.peer.sees_all else Scope(facilities=frozenset((served.facility,)))
        try:
            for answer in matches(self._engine, scope, found, ae_title=self._settings.ae_title):
                association.send(context, pending, encode(answer, context.transfer_syntax))
                if association.is_cancelled(int(command[MESSAGE_ID])):
                    return end(CANCELLED)
        except sa.exc.SQLAlchemyError:
            log.exception("a query could not be answered")
            return end(UNABLE, "The catalog does not answer.")
        return end(0)
