"""The Minimal Lower Layer Protocol (HL7 v2.5.1 appendix C): frames in a stream, and a client that waits for answers.

A frame begins with 0x0B and ends with 0x1C; whatever stands between frames is dropped, so the 0x0D that should follow
an end may be missing, and a greeting or a stray byte does no harm. Where a frame begins within another, the first was
cut off by whoever sent it, and the second one counts.
"""

from __future__ import annotations

import select
import socket
import ssl
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress

from readingroom.errors import RetryLater
from readingroom.outbound import Network, Origin, open_socket

START, END, CR = b"\x0b", b"\x1c", b"\r"
MOST_BYTES = 1 << 20
"""Of an answer; and of what stands between two frames."""

_CONNECT_SECONDS = 10.0
_CHUNK = 64 << 10


class TooMuch(ValueError):
    """A frame, or what stands before one, is longer than is taken."""


def framed(message: bytes) -> bytes:
    """A message as it is sent."""
    return START + message + END + CR


class Frames:
    """Finds the messages in a stream that comes piece by piece; the same for clients and servers.

    Parameters
    ----------
    most
        Bytes that a message may have.
    is_cut
        Whether one that is longer is given all the same, cut off behind its first ``most + 1`` bytes, so that whoever
        sent it can be told; else no end is waited for.
    """

    def __init__(self, most: int = MOST_BYTES, *, is_cut: bool = False) -> None:
        self._most = most
        self._is_cut = is_cut
        self._held = bytearray()

    @property
    def is_amid(self) -> bool:
        """Whether a message has begun that has not ended."""
        return self._held.startswith(START)

    def feed(self, piece: bytes) -> list[bytes]:
        """Take a piece of the stream, and give the messages that it completes.

        Raises
        ------
        TooMuch
            No end comes.
        """
        found: list[bytes] = []
        scanned = len(self._held)
        self._held += piece
        while (end := self._held.find(END, scanned)) >= 0:
            start = self._held.rfind(START, 0, end)
            message = bytes(self._held[start + 1 : end])
            del self._held[: end + 1]
            scanned = 0
            if start >= 0:
                found.append(message[: self._most + 1] if self._is_cut else message)
        start = self._held.rfind(START)
        del self._held[: start if start >= 0 else len(self._held)]
        if len(self._held) > self._most + 1:
            if not self._is_cut:
                raise TooMuch(f"A message has at most {self._most:,} bytes.")
            del self._held[self._most + 2 :]
        return found


class Connection:
    """A client's end: one message in flight, and its answer told from all others. For any thread, one at a time.

    Parameters
    ----------
    context
        For TLS; None: without it.
    """

    def __init__(
        self, origin: Origin, *, networks: Sequence[Network] = (), context: ssl.SSLContext | None = None
    ) -> None:
        self._origin = origin
        self._networks = networks
        self._context = context
        self._lock = threading.Lock()
        self._socket: socket.socket | None = None
        self._frames = Frames()

    def ask(self, message: bytes, is_answer: Callable[[bytes], bool], *, seconds: float) -> bytes:
        """Send a message, and give the answer to it.

        What answers something else (a message that was given up before, or the same one twice) is dropped. A connection
        that was left open and turns out to be closed is opened anew, once.

        Parameters
        ----------
        seconds
            How long the answer may take.

        Raises
        ------
        Unreachable
            Nobody takes a connection.
        GiveUp
            The address is not allowed.
        RetryLater
            It was sent, as far as one can tell, and no whole answer came.
        """
        with self._lock:
            was_open = self._socket is not None and not self._is_stale()
            try:
                return self._exchange(message, is_answer, seconds)
            except (OSError, EOFError, TooMuch) as error:
                may_be_stale = was_open and isinstance(error, EOFError | ConnectionError) and not self._frames.is_amid
                self._close()
                if not may_be_stale:
                    raise RetryLater(f"{self._origin.url} {_told(error)}.") from None
            try:
                return self._exchange(message, is_answer, seconds)
            except (OSError, EOFError, TooMuch) as error:
                self._close()
                raise RetryLater(f"{self._origin.url} {_told(error)}.") from None

    def close(self) -> None:
        """Close it; it is opened anew with the next message."""
        with self._lock:
            self._close()

    def _exchange(self, message: bytes, is_answer: Callable[[bytes], bool], seconds: float) -> bytes:
        if self._socket is None:
            self._frames = Frames()
            self._socket = open_socket(self._origin, self._networks, _CONNECT_SECONDS, context=self._context)
        until = time.monotonic() + seconds
        self._socket.settimeout(seconds)
        self._socket.sendall(framed(message))
        while True:
            left = until - time.monotonic()
            if left <= 0:
                raise TimeoutError
            self._socket.settimeout(left)
            piece = self._socket.recv(_CHUNK)
            if not piece:
                raise EOFError
            for answer in self._frames.feed(piece):
                if is_answer(answer):
                    return answer

    def _is_stale(self) -> bool:
        """Whether the other side has closed it, or something came that nobody waits for; then it is closed."""
        assert self._socket is not None
        while True:
            readable, _, _ = select.select([self._socket], [], [], 0)
            if not readable:
                return False
            piece = b""
            with suppress(OSError):
                self._socket.settimeout(0.1)
                piece = self._socket.recv(_CHUNK)
            try:
                if piece:
                    self._frames.feed(piece)  # it answers what nobody waits for any more
                    continue
            except TooMuch:
                pass
            self._close()
            return True

    def _close(self) -> None:
        if self._socket is not None:
            with suppress(OSError):
                self._socket.close()
        self._socket = None


def _told(error: Exception) -> str:
    if isinstance(error, TimeoutError):
        return "did not answer in time"
    if isinstance(error, EOFError):
        return "closed the connection without a whole answer"
    if isinstance(error, TooMuch):
        return "answers without end"
    return f"broke the connection off ({type(error).__name__})"
