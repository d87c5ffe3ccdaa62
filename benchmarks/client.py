"""An HTTP/1.1 client that costs next to nothing and is the same for every peer.

It reads into memory it already owns, parses no more than it must while the clock runs, and checks nothing itself:
what a reply holds is looked at after its time was taken.
"""

from __future__ import annotations

import gzip
import multiprocessing
import select
import selectors
import socket
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection as Pipe
from time import perf_counter

SPARE = 64 * 1024  # room in a buffer for a response's head and the lines of chunked coding


class WrongAnswer(Exception):
    """A peer answered something else than what was asked for."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Reply:
    """One response; `raw` is lent memory, good until the connection's next exchange.

    Attributes
    ----------
    status
        The HTTP status.
    headers
        Names in lower case.
    raw
        The body as it came over the wire, chunk lines included.
    seconds
        From the first byte sent to the last byte received.
    done_at
        When the last byte came, on the clock of `time.perf_counter`.
    """

    status: int
    headers: Mapping[str, str]
    raw: memoryview
    seconds: float
    done_at: float

    @property
    def coded(self) -> memoryview:
        """The body without chunk lines, still gzip where the peer sent gzip."""
        chunked = self.headers.get("transfer-encoding", "").lower() == "chunked"
        return memoryview(b"".join(_chunks(self.raw))) if chunked else self.raw

    @property
    def body(self) -> memoryview:
        """The body, chunked and gzip coding undone."""
        is_gzip = self.headers.get("content-encoding") == "gzip"
        return memoryview(gzip.decompress(self.coded)) if is_gzip else self.coded

    def expect(self, *statuses: int) -> Reply:
        """Give the reply itself, or raise WrongAnswer when its status is none of `statuses`."""
        if self.status not in statuses:
            raise WrongAnswer(f"status {self.status}, not {statuses}: {bytes(self.body[:300])!r}")
        return self


class Connection:
    """A keep-alive connection with one request under way at a time; reconnects where the peer hung up."""

    def __init__(self, port: int, *, buffer: bytearray | None = None) -> None:
        self.port = port
        self.buffer = buffer or bytearray(1 << 20)
        self._socket: socket.socket | None = None
        self._started = 0.0
        self._have = 0
        self._parser: _Parser | None = None

    def exchange(self, head: bytes, body: Iterable[bytes] = ()) -> Reply:
        """Send one request, its body in pieces, and wait for its whole response."""
        self.send(head, body)
        while (reply := self.receive()) is None:
            pass
        return reply

    def send(self, head: bytes, body: Iterable[bytes] = ()) -> None:
        """Send one request over the open connection; the clock of its reply starts here."""
        self.connect()
        assert self._socket is not None
        self._started = perf_counter()
        self._socket.sendall(head)
        for piece in body:
            self._socket.sendall(piece)
        self._have, self._parser = 0, None

    def connect(self) -> None:
        """Open the connection where it is not open, or where the peer has closed it as idle."""
        if self._socket is not None and select.select([self._socket], [], [], 0)[0]:
            self.close()  # nothing is under way, so what there is to read can only be the end
        if self._socket is None:
            self._socket = socket.create_connection(("127.0.0.1", self.port), timeout=600)
            self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def close(self) -> None:
        if self._socket is not None:
            self._socket.close()
            self._socket = None

    def fileno(self) -> int:
        assert self._socket is not None
        return self._socket.fileno()

    def receive(self) -> Reply | None:
        """Take what has arrived; give the reply once it is whole."""
        assert self._socket is not None
        if self._have == len(self.buffer):
            self._grow(2 * len(self.buffer))
        with memoryview(self.buffer) as view:
            count = self._socket.recv_into(view[self._have :])
        self._have += count
        if self._parser is None:
            head_end = self.buffer.find(b"\r\n\r\n", 0, self._have)
            if head_end < 0:
                if not count:
                    raise WrongAnswer("the connection was closed before a response")
                return None
            self._parser = _Parser(bytes(self.buffer[: head_end + 4]))
            if (self._parser.end or 0) > len(self.buffer):
                self._grow(self._parser.end or 0)
        if not self._parser.is_whole(self.buffer, self._have, closed=not count):
            return None
        done = perf_counter()
        parser = self._parser
        if parser.closes:
            self.close()
        return Reply(
            status=parser.status,
            headers=parser.headers,
            raw=memoryview(self.buffer).toreadonly()[parser.start : parser.end],
            seconds=done - self._started,
            done_at=done,
        )

    def _grow(self, size: int) -> None:
        # A new one, since an older reply may still look at the old. Touched, so that no page fault falls into a timing.
        grown = touched(size + SPARE)
        grown[: self._have] = self.buffer[: self._have]
        self.buffer = grown


class _Parser:
    """Knows where a response ends."""

    def __init__(self, head: bytes) -> None:
        lines = head[:-4].decode("latin-1").split("\r\n")
        self.status = int(lines[0].split(" ", 2)[1])
        self.headers = {n.strip().lower(): v.strip() for n, _, v in (line.partition(":") for line in lines[1:])}
        self.start = len(head)
        self.end: int | None = None
        self.closes = self.headers.get("connection", "").lower() == "close"
        self._chunk_at: int | None = None
        if self.headers.get("transfer-encoding", "").lower() == "chunked":
            self._chunk_at = self.start
        elif self.status in (204, 304):
            self.end = self.start
        elif "content-length" in self.headers:
            self.end = self.start + int(self.headers["content-length"])
        else:
            self.closes = True

    def is_whole(self, buffer: bytearray, have: int, *, closed: bool) -> bool:
        if self._chunk_at is not None:
            while (line_end := buffer.find(b"\r\n", self._chunk_at, have)) >= 0:
                size = int(buffer[self._chunk_at : line_end].partition(b";")[0], 16)
                following = line_end + 2 + size + 2
                if size == 0 and following <= have:
                    self.end = self._chunk_at  # the last chunk says nothing (no peer here sends trailers)
                    return True
                if following > have:
                    break
                self._chunk_at = following
        elif self.end is not None:
            if have >= self.end:
                return True
        elif closed:
            self.end = have
            return True
        if closed:
            raise WrongAnswer(f"the connection was closed after {have} bytes of a response of status {self.status}")
        return False


def _chunks(raw: memoryview) -> Iterator[memoryview]:
    at = 0
    while at < len(raw):
        line = bytes(raw[at : at + 20]).partition(b"\r\n")[0]
        size = int(line.partition(b";")[0], 16)
        at += len(line) + 2
        yield raw[at : at + size]
        at += size + 2


def touched(size: int) -> bytearray:
    """Make memory whose pages are really there: the first write to a page would cost more than the read it is for."""
    return bytearray(b"\1") * size


def fetch_all(
    connections: Sequence[Connection], heads: Sequence[bytes], buffers: Sequence[bytearray]
) -> tuple[float, list[Reply]]:
    """Fetch many things over a few connections at once, each connection taking the next as soon as it is free.

    Parameters
    ----------
    connections
        Open ones: a viewer, too, has them when it asks for its frames.
    heads
        The requests, in the order in which they start.
    buffers
        One for each request; the replies look into them.

    Returns
    -------
    tuple[float, list[Reply]]
        When the first request went out, and the replies in the order of `heads`.
    """
    waiting = deque(enumerate(heads))
    replies: dict[int, Reply] = {}
    with selectors.EpollSelector() as selector:

        def start(connection: Connection) -> None:
            if waiting:
                index, head = waiting.popleft()
                connection.buffer = buffers[index]
                connection.send(head)
                selector.register(connection, selectors.EVENT_READ, (index, connection))

        started = perf_counter()
        for connection in connections:
            start(connection)
        while len(replies) < len(heads):
            for key, _ in selector.select():
                index, connection = key.data
                if (reply := connection.receive()) is not None:
                    replies[index] = reply
                    selector.unregister(key.fd)
                    start(connection)
    return started, [replies[index] for index in range(len(heads))]


def crowd[T](tasks: Sequence[Callable[[Callable[[], object]], T]]) -> list[T]:
    """Run every task in a process of its own, and give what they return.

    A task makes ready, calls the function it is handed, which lets all of them go at the same moment, and then works.

    Raises
    ------
    WrongAnswer
        A task failed; all have ended.
    """
    fork = multiprocessing.get_context("fork")  # forked: what the parent prepared is there without a copy
    gate = fork.Barrier(len(tasks))

    def run(task: Callable[[Callable[[], object]], T], outcome: Pipe) -> None:
        try:
            outcome.send((task(gate.wait), None))
        except Exception as error:  # the edge of a process: its parent is told
            gate.abort()
            outcome.send((None, f"{type(error).__name__}: {error}"))

    pipes = [fork.Pipe(duplex=False) for _ in tasks]
    children = [fork.Process(target=run, args=(task, out)) for task, (_, out) in zip(tasks, pipes, strict=True)]
    for child in children:
        child.start()
    outcomes = [inbox.recv() for inbox, _ in pipes]
    for child in children:
        child.join()
    errors = [error for _, error in outcomes if error]
    if errors:
        # A broken barrier is what the others see of the first failure, so it says the least.
        raise WrongAnswer(min(errors, key=lambda error: error.startswith("BrokenBarrierError")))
    return [value for value, _ in outcomes]
