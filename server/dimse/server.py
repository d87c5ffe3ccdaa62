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
from contextlib import suppress
from dataclasses import dataclass, field

from readingroom.errors import Unavailable
from server.associations.association import (
    Aborted,
    Association,
    Context,
    Limits,
    Memory,
    Released,
    Sink,
    UnknownCalled,
    UnknownCaller,
)
from server.associations.commands import C_CANCEL, C_STORE, FIELD, RESPONDED_TO, RESPONSE, CommandSet
from server.dimse.service import MOST_DATA_SET, UNRECOGNIZED_OPERATION, Served, Services
from server.dimse.storing import Storing
from server.peers import Peers
from server.sending import best_to_send
from server.settings import DimsePeer, DimseSettings

log = logging.getLogger(__name__)

_BACKLOG = 128
_STOP_SECONDS = 5.0
_QUIET_SECONDS = 0.5
"""A peer that has asked for nothing for so long waits for what it is to be told."""


@dataclass(slots=True)
class _Counts:
    """How many connections there are, in all and by address."""

    total: int = 0
    by_address: Counter[str] = field(default_factory=Counter)


class DimseServer:
    """Accepts associations on a bound socket until it is told to stop.

    Parameters
    ----------
    storing
        Takes every object, of whatever class.
    services
        What answers all else; see `server.dimse.services`.
    peers
        Who may call; the settings may also let anybody.
    facility
        Whose work it is that a peer without a facility of its own does.
    """

    def __init__(
        self,
        bound: socket.socket,
        settings: DimseSettings,
        storing: Storing,
        services: Services,
        *,
        peers: Peers,
        facility: str,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        self._bound = bound
        bound.listen(_BACKLOG)
        self._settings = settings
        self._storing = storing
        self._facility = facility
        self._services = services
        self._classes = tuple(dict.fromkeys(sop_class for sop_class, _ in services))
        self._peers = peers
        self._tls = tls
        self._limits = Limits(
            pdu_seconds=settings.pdu_seconds, idle_seconds=settings.idle_seconds, memory_bytes=storing.memory_bytes
        )
        self._counts = _Counts()
        self._open: set[socket.socket] = set()
        self._lock = threading.Lock()
        self._is_stopping = threading.Event()

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
        association.accept(self._classes, self._check, best_to_send)
        peer = self._peers.of(association.calling) or DimsePeer(ae=association.calling)
        served = Served(association=association, peer=peer, facility=peer.facility or self._facility)

        def opener(context: Context, command: CommandSet) -> Sink:
            if command[FIELD] == C_STORE:
                return self._storing.open(context, command, association.calling)
            return Memory(most=MOST_DATA_SET)

        try:
            while True:
                while served.later and association.is_quiet(_QUIET_SECONDS):
                    served.later[:] = [one for one in served.later if not one()]
                message = association.receive(opener)
                field_ = int(message.command[FIELD])
                if field_ & RESPONSE:
                    told = served.asked.pop(int(message.command.get(RESPONDED_TO, 0)), None)
                    if told is not None:
                        told(message)
                    continue
                answer = self._services.get((message.context.abstract_syntax, field_))
                if answer is not None:
                    answer(served, message)
                elif field_ == C_STORE:
                    self._storing.answer(served, message)
                elif field_ != C_CANCEL:  # of something that has been answered already
                    served.answer(message, UNRECOGNIZED_OPERATION, "No such operation here.")
        except (Released, Aborted):
            raise
        except BaseException:
            association.abort()
            raise

    def _check(self, calling: str, called: str) -> None:
        if called != self._settings.ae_title and not self._settings.any_called:
            raise UnknownCalled(f"No AE {called!r} is here.")
        if self._peers.of(calling) is None and not self._settings.any_caller:
            raise UnknownCaller(f"AE {calling!r} may not call here.")
        if self._is_stopping.is_set():
            raise Unavailable("The server is about to stop.")
