"""A receiver of HL7 messages over MLLP in this process, which answers well or in whatever way a test wants."""

from __future__ import annotations

import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field

from server.hl7.mllp import Frames, framed

type Answering = Callable[["Receiver", socket.socket, str], object]


def acknowledge(control_id: str, code: str = "AA", text: str = "") -> bytes:
    """An acknowledgement, framed."""
    said = f"MSH|^~\\&|RIS|NORTH|READINGROOM|local|20261124123000||ACK^R01^ACK|R{control_id}|P|2.5.1\r"
    return framed(f"{said}MSA|{code}|{control_id}|{text}\r".encode())


def answering(code: str, text: str = "") -> Answering:
    """Acknowledges with that code."""
    return lambda _, peer, control_id: peer.sendall(acknowledge(control_id, code, text))


def control_id_of(message: str) -> str:
    """MSH-10; empty where it is no message."""
    fields = message.split("|")
    return fields[9] if len(fields) > 9 else ""


@dataclass
class Receiver:
    """What came, and how it is answered: the first of `script` once, and so on, then `usual`."""

    port: int
    script: list[Answering] = field(default_factory=list)
    usual: Answering = field(default_factory=lambda: answering("AA"))
    messages: list[str] = field(default_factory=list)
    heard: bytearray = field(default_factory=bytearray)
    is_strict: bool = False
    """Whether it hangs up on what does not begin as a message does."""
    connections: int = 0

    @property
    def address(self) -> str:
        return f"mllp://127.0.0.1:{self.port}"

    @property
    def control_ids(self) -> list[str]:
        return [control_id_of(one) for one in self.messages]

    def serve(self, peer: socket.socket) -> None:
        """Answer on one connection until it is closed."""
        frames = Frames(64 << 20)
        with suppress(OSError), peer:
            while piece := peer.recv(1 << 16):
                self.heard += piece
                if self.is_strict and not self.heard.startswith(b"\x0b"):
                    return
                for message in frames.feed(piece):
                    text = message.decode("utf-8", "replace")
                    self.messages.append(text)
                    answer = self.script.pop(0) if self.script else self.usual
                    answer(self, peer, control_id_of(text))


@contextmanager
def receiver(context: ssl.SSLContext | None = None) -> Iterator[Receiver]:
    """One that listens on a free port."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        made = Receiver(listening.getsockname()[1])
        peers: list[socket.socket] = []

        def take() -> None:
            while True:
                try:
                    peer, _ = listening.accept()
                except OSError:
                    return
                made.connections += 1
                peers.append(peer)
                threading.Thread(target=serve, args=(peer,), daemon=True).start()

        def serve(peer: socket.socket) -> None:
            with suppress(OSError):
                made.serve(context.wrap_socket(peer, server_side=True) if context else peer)

        threading.Thread(target=take, daemon=True).start()
        try:
            yield made
        finally:
            listening.shutdown(socket.SHUT_RDWR)
            for peer in peers:
                with suppress(OSError):
                    peer.shutdown(socket.SHUT_RDWR)
