"""HL7 messages that tests send, and a listener with an inbox that they send them to."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from ssl import SSLContext
from typing import Any

from readingroom.model import Scope
from server.hl7.header import digest_of, read_header
from server.hl7.keeping import Keeping, enqueue_applying
from server.hl7.listening import Hl7Server
from server.hl7.messages import Answer, read_answer
from server.hl7.mllp import Frames, framed
from server.listen import bind_any
from server.room import Room
from server.senders import Senders
from server.settings import Hl7Sender, Hl7Settings
from storage.catalog.engine import begin_write
from storage.catalog.inbox import Arrival, StoredMessage, keep_messages, list_messages

SECONDS = 20.0
SENDERS = {"ris": Hl7Sender(application="RIS")}


def message(*segments: str, kind: str = "ADT^A08", id: str = "1", **header: str) -> bytes:
    """A message with a header of a usual sender; `header` are other fields of it, as ``f15="AL"``."""
    fields = {3: "RIS", 4: "HOSP", 5: "READINGROOM", 7: "20261124093000", 9: kind, 10: id, 11: "P", 12: "2.5.1"}
    fields |= {int(name[1:]): value for name, value in header.items()}
    msh = "MSH|^~\\&|" + "|".join(fields.get(number, "") for number in range(3, max(fields) + 1))
    return "".join(f"{one}\r" for one in (msh, *segments)).encode()


@dataclass
class Caller:
    """A connection to the listener, and what comes back on it."""

    sock: socket.socket
    frames: Frames = field(default_factory=Frames)
    waiting: list[bytes] = field(default_factory=list)

    def send(self, data: bytes) -> None:
        self.sock.sendall(data)

    def answer(self) -> Answer:
        """The next acknowledgement."""
        return read_answer(self.raw())

    def raw(self) -> bytes:
        while not self.waiting:
            piece = self.sock.recv(1 << 16)
            assert piece, "the connection is closed"
            self.waiting += self.frames.feed(piece)
        return self.waiting.pop(0)

    def ask(self, data: bytes) -> Answer:
        self.send(framed(data))
        return self.answer()

    def is_closed(self) -> bool:
        """Whether nothing comes any more; waits for it."""
        try:
            return not self.waiting and not self.sock.recv(1 << 16)
        except ConnectionError:
            return True


@contextmanager
def calling(port: int, context: SSLContext | None = None) -> Iterator[Caller]:
    with socket.create_connection(("127.0.0.1", port), timeout=SECONDS) as sock:
        yield Caller(context.wrap_socket(sock) if context else sock)


@contextmanager
def listening(room: Room, *, tls: SSLContext | None = None, **settings: Any) -> Iterator[Hl7Server]:
    """A listener over the catalog of a room."""
    chosen = Hl7Settings(**{"senders": SENDERS, **settings})
    with closing(Keeping(room.queue)) as keeping:
        server = Hl7Server(
            bind_any("127.0.0.1", 0),
            chosen,
            senders=Senders(chosen),
            keep=keeping.keep,
            facility=room.settings.facility,
            clock=room.clock,
            tls=tls,
        )
        thread = threading.Thread(target=server.serve)
        thread.start()
        try:
            yield server
        finally:
            server.stop()
            thread.join()


def deliver(room: Room, *messages: bytes, sender: str = "ris") -> list[StoredMessage]:
    """Put messages into the inbox, and apply them; returns all that are there, the oldest first."""
    with begin_write(room.engine) as connection:
        arrivals = [
            Arrival(
                sender=sender,
                control_id=f"{digest_of(one)[:20]}",
                digest=digest_of(one),
                facility="local",
                kind=read_header(one).kind,
                address="127.0.0.1",
                body=one,
                received_at=room.clock.now(),
            )
            for one in messages
        ]
        keep_messages(connection, arrivals)
        enqueue_applying(room.queue, connection, "local")
    room.queue.drain()
    return list(room.query(list_messages, Scope()))[::-1]
