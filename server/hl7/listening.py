"""Listens for HL7 messages by MLLP (HL7 v2.5.1 appendix C), and answers each once it is kept, or says why it is not.

All connections are served by one event loop; another thread writes (`server.hl7.keeping`). A connection counts from the
moment it is accepted, before TLS: who connects and says nothing keeps others out no longer than a deadline. What is
wrong with a message ends no connection; a message that never ends does.
"""

from __future__ import annotations

import asyncio
import logging
import socket
import ssl
from collections import Counter
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass

import uvloop

from readingroom.clock import Clock
from readingroom.errors import Duplicate, ReadingRoomError, Refused, TooLarge, Unprocessable
from server.hl7.answering import answers
from server.hl7.header import Header, decode, digest_of, read_header
from server.hl7.keeping import Kept
from server.hl7.mllp import Frames, framed
from server.senders import Senders
from server.settings import Hl7Settings
from storage.catalog import schema as t
from storage.catalog.inbox import REUSED, Arrival

log = logging.getLogger(__name__)

_BACKLOG = 128
_CHUNK = 64 << 10
_STOP_SECONDS = 5.0
_LONGEST_HANDSHAKE = 10.0


@dataclass(frozen=True, slots=True, kw_only=True)
class _Caller:
    """Who is at the other end of a connection."""

    address: str
    common_name: str | None = None


class Hl7Server:
    """Accepts connections on a bound socket until it is told to stop.

    Parameters
    ----------
    keep
        Keeps a message durably; see `server.hl7.keeping.Keeping`.
    facility
        Whose messages those of a sender without a facility of its own are.
    """

    def __init__(
        self,
        bound: socket.socket,
        settings: Hl7Settings,
        *,
        senders: Senders,
        keep: Callable[[Arrival], Awaitable[Kept]],
        facility: str,
        clock: Clock,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        self._bound = bound
        bound.listen(_BACKLOG)
        bound.setblocking(False)
        self._settings = settings
        self._senders = senders
        self._keep = keep
        self._facility = facility
        self._clock = clock
        self._tls = tls
        self._by_address: Counter[str] = Counter()
        self._readers: dict[asyncio.Task[None], asyncio.StreamReader] = {}
        self._loop: asyncio.AbstractEventLoop | None = None
        self._is_stopping = asyncio.Event()

    @property
    def port(self) -> int:
        """Where it listens."""
        port: int = self._bound.getsockname()[1]
        return port

    def serve(self) -> None:
        """Accept until `stop`; then what has come is answered."""
        uvloop.run(self._serve())

    def stop(self) -> None:
        """Accept nobody any more, and end what is open once its message is answered; for any thread."""
        if self._loop is not None:
            with suppress(RuntimeError):  # it has ended by itself
                self._loop.call_soon_threadsafe(self._is_stopping.set)

    async def _serve(self) -> None:
        self._loop = asyncio.get_running_loop()
        accepting = asyncio.create_task(self._accept())
        await self._is_stopping.wait()
        accepting.cancel()
        await asyncio.wait([accepting])
        self._bound.close()
        for reader in self._readers.values():
            reader.feed_eof()  # whoever waits for a message waits no longer; what has come is still answered
        if self._readers:
            _, late = await asyncio.wait(list(self._readers), timeout=_STOP_SECONDS)
            for task in late:
                task.cancel()

    async def _accept(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            try:
                sock, told = await loop.sock_accept(self._bound)
            except OSError:
                log.exception("a connection could not be accepted")
                await asyncio.sleep(0.1)  # out of descriptors, perhaps: others will close theirs
                continue
            address = str(told[0])
            if (
                self._by_address.total() >= self._settings.max_connections
                or self._by_address[address] >= self._settings.max_per_address
            ):
                log.warning("a connection from %s is refused: there are as many as there may be", address)
                sock.close()
                continue
            self._by_address[address] += 1
            reader = asyncio.StreamReader(limit=_CHUNK)
            task = asyncio.create_task(self._run(sock, reader, address))
            self._readers[task] = reader
            task.add_done_callback(self._readers.pop)

    async def _run(self, sock: socket.socket, reader: asyncio.StreamReader, address: str) -> None:
        writer: asyncio.StreamWriter | None = None
        try:
            writer = await self._open(sock, reader)
            certificate = writer.get_extra_info("peercert") or {}
            names = (pair for part in certificate.get("subject", ()) for pair in part)
            common_name = next((value for name, value in names if name == "commonName"), None)
            await self._converse(reader, writer, _Caller(address=address, common_name=common_name))
        except TimeoutError:
            log.info("a connection from %s is closed: nothing whole came in time", address)
        except (ssl.SSLError, OSError) as error:
            log.info("a connection from %s came to nothing: %s", address, type(error).__name__)
        except Exception:
            # The edge: whatever it was, this connection ends, and the others go on.
            log.exception("a connection from %s failed", address)
        finally:
            self._by_address[address] -= 1
            if not self._by_address[address]:
                del self._by_address[address]
            if writer is None:
                sock.close()
            else:
                writer.close()

    async def _open(self, sock: socket.socket, reader: asyncio.StreamReader) -> asyncio.StreamWriter:
        loop = asyncio.get_running_loop()
        protocol = asyncio.StreamReaderProtocol(reader)
        seconds = min(self._settings.frame_seconds, _LONGEST_HANDSHAKE) if self._tls else None
        transport, _ = await loop.connect_accepted_socket(
            lambda: protocol, sock, ssl=self._tls, ssl_handshake_timeout=seconds
        )
        return asyncio.StreamWriter(transport, protocol, reader, loop)

    async def _converse(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, caller: _Caller) -> None:
        now = asyncio.get_running_loop().time
        frames = Frames(self._settings.max_message_bytes, is_cut=True)
        until = now() + self._settings.idle_seconds
        while True:
            async with asyncio.timeout_at(until):
                piece = await reader.read(_CHUNK)
            if not piece:
                return
            was_amid = frames.is_amid
            messages = frames.feed(piece)
            if messages:
                writer.write(await self._answer_all(messages, caller))
                if writer.transport.get_write_buffer_size():
                    async with asyncio.timeout(self._settings.frame_seconds):
                        await writer.drain()
                until = now() + self._settings.idle_seconds
            if frames.is_amid and (messages or not was_amid):
                until = now() + self._settings.frame_seconds

    async def _answer_all(self, messages: list[bytes], caller: _Caller) -> bytes:
        if len(messages) == 1:  # as nearly always: a sender waits for its answer
            return await self._answer(messages[0], caller)
        return b"".join(await asyncio.gather(*(self._answer(one, caller) for one in messages)))

    async def _answer(self, message: bytes, caller: _Caller) -> bytes:
        """The acknowledgements of a message, framed; nothing where none is wanted."""
        header: Header | None = None
        error: ReadingRoomError | None = None
        try:
            header = read_header(message)
            if header.type != "ACK":
                await self._take(message, header, caller)
        except ReadingRoomError as wrong:
            error = wrong
            log.warning("a message from %s is not taken: %s", caller.address, wrong.message)
        id = t.new_id()[-20:].upper()
        return b"".join(framed(one) for one in answers(header, error, id, self._clock.now()))

    async def _take(self, message: bytes, header: Header, caller: _Caller) -> None:
        """Keep a message, once it is clear who sends it and that it can be read."""
        if len(message) > self._settings.max_message_bytes:
            raise TooLarge(f"A message has at most {self._settings.max_message_bytes} bytes.")
        if not header.control_id or not header.type:
            raise Unprocessable("A message has a type (MSH-9) and a control id (MSH-10).")
        decode(message, header)  # what cannot be read is told while somebody listens
        known = self._senders.of(
            header.first(header.application),
            header.first(header.facility),
            address=caller.address,
            common_name=caller.common_name,
        )
        if known is None:
            raise Refused("MSH-3 and MSH-4 name no sender that may send here.")
        name, sender = known
        state, is_new = await self._keep(
            Arrival(
                sender=name,
                control_id=header.control_id,
                digest=digest_of(message),
                facility=sender.facility or self._facility,
                kind=header.kind,
                address=caller.address,
                body=message,
                received_at=self._clock.now(),
                is_reuse_fine=sender.reuses_control_ids,
            )
        )
        if state == "duplicate":
            raise Duplicate(REUSED)
        if not is_new:
            log.info("a message of %s came again", name)
