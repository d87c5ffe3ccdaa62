"""A server that kills itself: ``python -m tests.walks.crashing NOTES EACH serve --data DIR --port N ...``.

Nothing of this is in the product. The calls through which an instance becomes durable are wrapped from outside, and one
of them is chosen to be the last of a worker: in the middle of a write, before or after a sync, a rename, a commit, an
answer; or a moment is. SIGKILL leaves no time for anything. Another worker is started at once; it is forked from a
process that has everything imported, so that two hundred lives take minutes and not an hour. Of several workers one is
fated at a time, and the others go on.

NOTES is the folder in which each death is noted, EACH how many there shall be of each kind; once they have been, the
workers live on.
"""

from __future__ import annotations

import argparse
import ctypes
import fcntl
import os
import random
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator, MutableMapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TextIO

import sqlalchemy as sa

import storage.catalog.engine

REACH = {"write": 8, "fsync": 12, "rename": 8, "commit": 6, "answer": 4, "anytime": 1}
"""The points, and how far into the work of a life its end may lie, in calls of the chosen kind."""
POINTS = tuple(REACH)

_open, _close, _write, _writev = os.open, os.close, os.write, os.writev
_begin_write = storage.catalog.engine.begin_write


class Fate:
    """Where and when this process ends."""

    def __init__(self) -> None:
        self.notes = Path()
        self.each = 0
        self.reach = REACH
        self.point = ""
        self._turn: TextIO | None = None
        self._calls_left = 0
        self._lock = threading.Lock()
        self._random = random.SystemRandom()

    def choose(self) -> None:
        """Choose a point that has not had its number of deaths, once it is this process's turn."""
        with self._lock:
            if self.point:
                return
            self._turn = self._turn or (self.notes / "turn").open("w")
            try:
                fcntl.flock(self._turn, fcntl.LOCK_EX | fcntl.LOCK_NB)  # until this process ends
            except BlockingIOError:
                return
            counts = self.deaths()
            due = [point for point in self.reach if counts[point] < self.each]
            self.point = self._random.choice(due) if due else "none"
            self._calls_left = self._random.randint(1, self.reach.get(self.point, 1))
            if self.point == "anytime":
                threading.Timer(self._random.uniform(0, 0.5), self.fulfil).start()

    def pass_on(self) -> None:
        """Let another process choose, where a point was chosen that this one does not come to."""
        with self._lock:
            if self._turn and self.point not in ("none", "anytime"):
                self._turn.close()
                self._turn, self.point = None, ""

    def is_here(self, point: str) -> bool:
        """Count a call; True for the one that is to be the last."""
        if point != self.point:
            return False
        with self._lock:
            self._calls_left -= 1
            return self._calls_left == 0

    def comes_first(self) -> bool:
        """Whether the end comes before the effect of the call, or after it."""
        return self._random.random() < 0.5

    def fulfil(self) -> None:
        """Note the death, and die."""
        _close(_open(self.notes / f"{self.point}.{os.getpid()}", os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o644))
        os.kill(os.getpid(), signal.SIGKILL)
        threading.Event().wait()

    def deaths(self) -> dict[str, int]:
        """How many deaths of each kind have been noted."""
        names = os.listdir(self.notes)
        return {point: sum(name.startswith(f"{point}.") for name in names) for point in self.reach}


fate = Fate()


def around[**P, T](point: str, call: Callable[P, T]) -> Callable[P, T]:
    """The call, and perhaps the end before or after it."""

    def wrapped(*args: P.args, **kwargs: P.kwargs) -> T:
        is_last = fate.is_here(point)
        if is_last and fate.comes_first():
            fate.fulfil()
        result = call(*args, **kwargs)
        if is_last:
            fate.fulfil()
        return result

    return wrapped


def torn_writev(fd: int, buffers: Sequence[Any], /) -> int:
    """Write, and perhaps only some of it before the end."""
    if fate.is_here("write"):
        whole = b"".join(buffers)
        _write(fd, whole[: random.SystemRandom().randint(0, len(whole))])
        fate.fulfil()
    return _writev(fd, buffers)


@contextmanager
def fatal_write(engine: sa.Engine) -> Iterator[sa.Connection]:
    """A write transaction that may end before its commit, or right after."""
    is_last = False
    with _begin_write(engine) as connection:
        yield connection
        is_last = fate.is_here("commit")
        if is_last and fate.comes_first():
            fate.fulfil()
    if is_last:
        fate.fulfil()


def fatal_app(create_app: Callable[[], Any]) -> Callable[[], Any]:
    """The app, and perhaps the end instead of an answer, or in the middle of it."""

    def create() -> Any:
        app = create_app()

        async def fatal(scope: MutableMapping[str, Any], receive: Any, send: Any) -> None:
            if scope["type"] != "http" or scope["method"] != "POST":
                await app(scope, receive, send)
                return
            fate.choose()
            last = ""

            async def answer(message: MutableMapping[str, Any]) -> None:
                nonlocal last
                if message["type"] == "http.response.start" and fate.is_here("answer"):
                    last = "http.response.start" if fate.comes_first() else "http.response.body"
                if message["type"] == last:
                    fate.fulfil()
                await send(message)

            await app(scope, receive, answer)

        return fatal

    return create


def wrap_everything() -> None:
    """Wrap the calls; before the modules that use them are imported."""
    os.writev = torn_writev  # type: ignore[assignment]
    os.fsync, os.fdatasync = around("fsync", os.fsync), around("fsync", os.fdatasync)
    os.rename, os.replace = around("rename", os.rename), around("rename", os.replace)
    storage.catalog.engine.begin_write = fatal_write

    import server.app

    server.app.create_app = fatal_app(server.app.create_app)  # type: ignore[assignment]


def live(bound: socket.socket) -> None:
    """One life of a worker, which ends with that of its parent at the latest."""
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG
    from server.listen import serve
    from server.settings import Settings

    serve(Settings(workers=1), bound, lambda _root: None)  # type: ignore[call-arg]


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("notes", type=Path)
    parser.add_argument("each", type=int)
    parser.add_argument("command", choices=["serve"])
    for name in ("data", "host", "port", "workers"):
        parser.add_argument(f"--{name}", required=True)
    args = parser.parse_args()
    os.environ["READINGROOM_DATA"] = args.data
    fate.notes, fate.each = args.notes, args.each
    wrap_everything()
    from server.listen import bind

    bound = bind(args.host, int(args.port))
    bound.listen(128)
    keep_alive(int(args.workers), lambda: live(bound), args.notes)
    bound.close()


def keep_alive(count: int, live: Callable[[], None], notes: Path) -> None:
    """Fork so many lives, and another one for each that ends, until this process is told to stop."""
    workers: set[int] = set()
    is_over = False

    def stop(*_: object) -> None:
        nonlocal is_over
        is_over = True
        for pid in workers:
            os.kill(pid, signal.SIGTERM)

    signal.signal(signal.SIGTERM, stop)
    while workers or not is_over:
        while not is_over and len(workers) < count:
            pid = os.fork()
            if pid == 0:
                live()
                sys.exit(0)
            workers.add(pid)
        pid, status = os.wait()
        workers.discard(pid)
        if os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL:
            with (notes / "survivors").open("a") as survivors:
                survivors.write(f"{len(workers)}\n")
        elif not is_over:
            time.sleep(0.5)  # it did not start: not too often, then


if __name__ == "__main__":
    main()
