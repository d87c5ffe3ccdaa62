"""An edge and its centre for tests: a room served over HTTP in this process, and a line that breaks."""

from __future__ import annotations

import random
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from ipaddress import IPv4Network
from pathlib import Path

import uvicorn

from server.app import create_app
from server.listen import bind_any
from server.room import Room

LOOPBACK = (IPv4Network("127.0.0.0/8"),)
PATIENCE = 60.0


def wait_until(is_so: Callable[[], object]) -> None:
    waited = threading.Event()
    for _ in range(int(PATIENCE / 0.01)):
        if is_so():
            return
        waited.wait(0.01)
    raise AssertionError("it has not come to that")


def is_empty(folder: Path) -> bool:
    return not list((folder / "waiting").iterdir())


@contextmanager
def served(room: Room) -> Iterator[str]:
    """The room over HTTP, on a thread; its DICOMweb root."""
    bound = bind_any("127.0.0.1", 0)
    server = uvicorn.Server(uvicorn.Config(create_app(room), lifespan="on", log_level="error", ws="none"))
    thread = threading.Thread(target=server.run, args=([bound],))
    thread.start()
    wait_until(lambda: server.started)
    try:
        yield f"http://127.0.0.1:{bound.getsockname()[1]}/dicomweb"
    finally:
        server.should_exit = True
        thread.join()


class BadLine:
    """A line to a port that is cut again and again: amid a request, amid an answer, or before one.

    Parameters
    ----------
    cuts
        How often; after that it holds.
    """

    def __init__(self, port: int, *, cuts: int, seed: int = 1) -> None:
        self._to = port
        self._left, self.cuts = cuts, 0
        self._random = random.Random(seed)
        self._lock = threading.Lock()
        self._bound = bind_any("127.0.0.1", 0)
        self._bound.listen(64)
        threading.Thread(target=self._accept, daemon=True).start()

    @property
    def port(self) -> int:
        """Where it begins."""
        port: int = self._bound.getsockname()[1]
        return port

    def close(self) -> None:
        with suppress(OSError):
            self._bound.shutdown(socket.SHUT_RDWR)
        self._bound.close()

    def _accept(self) -> None:
        while True:
            try:
                near, _ = self._bound.accept()
            except OSError:
                return
            try:
                far = socket.create_connection(("127.0.0.1", self._to), timeout=20)
            except OSError:
                near.close()
                continue
            for one, other, most in ((near, far, 60_000), (far, near, 400)):
                threading.Thread(target=self._carry, args=(one, other, most), daemon=True).start()

    def _carry(self, one: socket.socket, other: socket.socket, most: int) -> None:
        """Carry what comes from one end to the other, and no more than a little while there are cuts left."""
        left = self._random.randrange(most)
        with suppress(OSError):
            while data := one.recv(16_384):
                with self._lock:
                    is_cut = self._left > 0 and len(data) > left
                    if is_cut:
                        self._left -= 1
                        self.cuts += 1
                if is_cut:
                    other.sendall(data[:left])
                    break
                left -= min(len(data), left)
                other.sendall(data)
        for end in (one, other):
            with suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
