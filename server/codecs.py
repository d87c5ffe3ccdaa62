"""Decoders and encoders run in limited child processes: what a hostile frame does, it does to one of them alone.

A child gets one call at a time, with so much memory and so much time. A call that crashes, or takes more than that,
costs its caller an `Undecodable`; the child is replaced within milliseconds.
"""

from __future__ import annotations

import dataclasses
import fcntl
import hashlib
import io
import logging
import os
import pickle
import select
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Buffer, Callable, Sequence
from contextlib import ExitStack, suppress
from typing import Any, Literal, cast

import numpy as np
from numpy.typing import NDArray
from prometheus_client import Counter

from readingroom.errors import ReadingRoomError, Unavailable, Undecodable
from server import codec_child as c
from storage.arrays import ArraySpec
from storage.pixels import decode_frame

log = logging.getLogger(__name__)

_IDLE_SECONDS = 300.0
_START_SECONDS = 60.0
_REPLY_SECONDS = 10.0
_DEADLY_SECONDS = 60.0
_MAX_DEADLY = 1000
# With the codecs, each of which is imported at its first use otherwise.
_PRELOADED = (
    "storage.encode",
    *(f"imagecodecs._{name}" for name in ("htj2k", "imcd", "jpeg2k", "jpeg8", "jpegls", "jpegxl")),
)
_ONE_THREAD = {"OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"}


class Codecs:
    """Calls functions in child processes, from any thread.

    Parameters
    ----------
    children
        How many run at once. Each starts when it is needed, and ends when it had nothing to do for `idle_seconds`.
    memory_bytes, seconds
        What one call may take; arguments and result count as memory.
    packages
        Whose functions may be called.
    preloaded
        The modules that children have when they start.

    Attributes
    ----------
    losses
        Counts the children that were lost, by reason: crash, memory, time, or garbled where the answer was none.
    """

    def __init__(
        self,
        *,
        children: int,
        memory_bytes: int,
        seconds: float,
        idle_seconds: float = _IDLE_SECONDS,
        packages: Sequence[str] = ("storage",),
        preloaded: Sequence[str] = _PRELOADED,
    ) -> None:
        self.losses = Counter(
            "readingroom_codec_losses", "Child processes of codecs that were lost", ["reason"], registry=None
        )
        self._memory_bytes = memory_bytes
        self._seconds = seconds
        self._slots = threading.Semaphore(children)
        self._idle: list[_Child] = []
        self._deadly = _Deadly()
        self._forks = _ForkServer([str(memory_bytes), str(idle_seconds), ",".join(packages), *preloaded])

    def call[**P, T](self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Give what a function gives, called in a child; blocks until one is free.

        Parameters
        ----------
        function
            One of a module's top level. Arguments and result are copied, `bytes` and arrays quickly and the rest by
            pickle; the result is made of these, of numbers and text, and of dataclasses of ours.

        Raises
        ------
        Undecodable
            The call crashed, or needed more memory or time than there is; now, or less than a minute ago.
        ReadingRoomError
            The function raised it.
        Unavailable
            There is no child: none could be started, or the server is stopping.
        RuntimeError
            The function raised what is no `ReadingRoomError`; the message is its traceback.
        """
        request = (
            function.__module__,
            function.__qualname__,
            [c.direct(value) for value in args],
            {name: c.direct(value) for name, value in kwargs.items()},
        )
        with self._slots:
            self._deadly.check(request)
            while True:
                child = self._take()
                try:
                    result = child.ask(request, self._memory_bytes, self._seconds)
                except _Lost as lost:
                    ended = child.end()
                    if lost.reason == "crash" and ended == c.IDLE_EXIT and child.is_used:
                        continue  # it left just as it was asked
                    if self._forks.is_closed:
                        raise Unavailable("The server is stopping.", retry_after=5) from None
                    reason = self._reason(lost, ended, f"{request[0]}.{request[1]}")
                    self._deadly.add(request, reason)
                    raise Undecodable(reason) from None
                except BaseException:
                    child.end()
                    raise
                self._idle.append(child)
                break
        if isinstance(result, ReadingRoomError):
            raise result
        return cast(T, result)

    def decode(self, bitstream: bytes | bytearray | memoryview, spec: ArraySpec) -> NDArray[Any]:
        """As `storage.pixels.decode_frame`; what is not compressed is not worth a child."""
        if spec.encoding != "encapsulated":
            return decode_frame(bitstream, spec)
        return self.call(decode_frame, bitstream, spec)

    def close(self) -> None:
        """End all children; whoever waits for one is told that there is none."""
        self._forks.close()
        while self._idle:
            self._idle.pop().end()

    def _take(self) -> _Child:
        while True:
            try:
                child = self._idle.pop()  # the one used last: the others may go when they have been idle for long
            except IndexError:
                return self._forks.fork()
            if child.is_there():
                return child
            child.end()

    def _reason(self, lost: _Lost, ended: int, name: str) -> str:
        """Record the loss of a child, and say what it means for who asked."""
        self.losses.labels(lost.reason).inc()
        how = lost.how
        if lost.reason == "crash" and not how:
            how = signal.strsignal(-ended) or f"signal {-ended}" if ended < 0 else f"exit status {ended}"
        log.warning("a child process was lost in %s: %s%s", name, lost.reason, f" ({how})" if how else "")
        return {
            "crash": f"The codec crashed on it ({how}).",
            "memory": f"The codec needs more than {self._memory_bytes >> 20} MiB of memory for it.",
            "time": f"The codec needs more than {self._seconds:g} seconds for it.",
            "garbled": "The codec gave no usable answer.",
        }[lost.reason]


class _Deadly:
    """The calls that have just cost a child: a client that tries them again must not hold up everybody else again."""

    def __init__(self) -> None:
        self._reasons: dict[bytes, tuple[float, str]] = {}

    def add(self, request: object, reason: str) -> None:
        """Remember a call."""
        now = time.monotonic()
        self._reasons = {key: kept for key, kept in self._reasons.items() if kept[0] > now}
        if len(self._reasons) < _MAX_DEADLY:
            self._reasons[_digest(request)] = now + _DEADLY_SECONDS, reason

    def check(self, request: object) -> None:
        """Raise `Undecodable` for one that is remembered."""
        if not self._reasons:
            return  # as nearly always; a digest takes longer than to ask a child
        until, reason = self._reasons.get(_digest(request), (0.0, ""))
        if time.monotonic() < until:
            raise Undecodable(reason)


def _digest(request: object) -> bytes:
    buffers: list[pickle.PickleBuffer] = []
    digest = hashlib.blake2b(pickle.dumps(request, pickle.HIGHEST_PROTOCOL, buffer_callback=buffers.append))
    for buffer in buffers:
        digest.update(buffer.raw())
    return digest.digest()


class _Lost(Exception):
    """A child did not answer, or so that it cannot be used any more."""

    def __init__(self, reason: str, how: str = "") -> None:
        super().__init__(reason, how)
        self.reason = reason
        self.how = how


class _Child:
    """One child as its user sees it: a socket, shared memory, and a handle to kill it by."""

    def __init__(self, work: socket.socket, segment: c.Segment, pid: int, pidfd: int, forks: _ForkServer) -> None:
        self.is_used = False
        self._work = work
        self._segment = segment
        self._pid = pid
        self._pidfd = pidfd
        self._forks = forks
        self._poll = select.poll()
        self._poll.register(work, select.POLLIN)

    def is_there(self) -> bool:
        """Whether it still waits for a call."""
        return not self._poll.poll(0)

    def ask(self, request: object, max_bytes: int, seconds: float) -> Any:
        """Have one call made; gives its result, or the `ReadingRoomError` that it raised."""
        try:
            message = self._segment.write(request, 0, max_bytes)
        except ValueError as error:
            return Undecodable(f"This is too much for a codec: {error}.")
        self._work.settimeout(seconds)
        try:
            self._work.send(message)
            answer = self._work.recv(c.MAX_MESSAGE)
        except TimeoutError:
            raise _Lost("time") from None
        except OSError:
            answer = b""
        kind, message = answer[:1], answer[1:]
        if kind in (c.RESULT, c.ERROR):
            result = self._result(message)
            if isinstance(result, ReadingRoomError) != (kind == c.ERROR):
                raise _Lost("garbled")
            self.is_used = True
            self._segment.trim()
            return result
        if kind == c.ACCIDENT:
            raise RuntimeError(f"in a child process: {message.decode(errors='replace')}")
        reason = {c.OUT_OF_MEMORY: "memory", c.PANIC: "crash", b"": "crash"}.get(kind, "garbled")
        raise _Lost(reason, message.decode(errors="replace") if kind == c.PANIC else "")

    def end(self) -> int:
        """Kill it, where it has not ended, and give everything back; gives its exit status, minus the signal if any."""
        with suppress(ProcessLookupError):
            signal.pidfd_send_signal(self._pidfd, signal.SIGKILL)
        os.close(self._pidfd)
        self._work.close()
        self._segment.close()
        return self._forks.wait(self._pid)

    def _result(self, message: bytes) -> Any:
        try:
            stream, buffers = self._segment.read(message)
            return _Unpickler(io.BytesIO(stream), buffers=buffers).load()
        except Exception:  # whatever a child that has lost its mind makes pickle raise
            raise _Lost("garbled") from None


class _Unpickler(pickle.Unpickler):
    """Makes values and calls nothing else: what comes from a child that a frame may have taken over is not believed."""

    def find_class(self, module: str, name: str) -> Any:
        if maker := _MAKERS.get((module, name)):
            return maker
        found = super().find_class(module, name) if module.partition(".")[0] in ("readingroom", "storage") else None
        if isinstance(found, type) and (dataclasses.is_dataclass(found) or issubclass(found, ReadingRoomError)):
            return found
        raise pickle.UnpicklingError(f"{module}.{name} is no part of a result")


def _copied_array(data: Buffer, dtype: np.dtype[Any], shape: tuple[int, ...], order: str) -> NDArray[Any]:
    return np.frombuffer(bytearray(memoryview(data)), dtype).reshape(shape, order=cast(Literal["C", "F"], order))


# Each copies: nothing of a result is left where the next call of the child would write.
_MAKERS: dict[tuple[str, str], Callable[..., object]] = {
    (c.__name__, "copied_bytes"): c.copied_bytes,
    (c.__name__, "copied_bytearray"): c.copied_bytearray,
    ("builtins", "memoryview"): lambda data: memoryview(c.copied_bytes(data)),
    ("numpy", "dtype"): np.dtype,
    ("numpy._core.numeric", "_frombuffer"): _copied_array,
}


class _ForkServer:
    """The process that children are forked from; started when the first is needed, and again when it has ended."""

    def __init__(self, arguments: Sequence[str]) -> None:
        self.is_closed = False
        self._arguments = arguments
        self._lock = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None
        self._control: socket.socket | None = None

    def fork(self) -> _Child:
        """Give a new child."""
        with ExitStack() as on_failure:
            try:
                work, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
                on_failure.enter_context(work)
                with theirs:
                    memory = os.memfd_create("codec", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
                    on_failure.callback(os.close, memory)
                    fcntl.fcntl(memory, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK)
                    pid, pidfd = self._forked(theirs.fileno(), memory)
            except OSError as error:  # no more memory, processes or open files
                raise Unavailable(f"No child process for a codec can be started: {error}.", retry_after=5) from error
            on_failure.pop_all()
        return _Child(work, c.Segment(memory), pid, pidfd, self)

    def _forked(self, *given: int) -> tuple[int, int]:
        """The process id of a new child, and a handle of it."""
        with self._lock:
            for _ in range(2):
                control = self._started()
                with suppress(OSError):
                    socket.send_fds(control, [c.FORK], given)
                    reply, fds, *_rest = socket.recv_fds(control, c.MAX_MESSAGE, 1)
                    if reply:
                        os.set_inheritable(fds[0], False)
                        return *c.STATUS.unpack(reply), fds[0]
                self._stop()  # it had nothing to do and has left, or somebody killed it
        raise Unavailable("No child process for a codec can be started.", retry_after=5)

    def wait(self, pid: int) -> int:
        """How a child has ended; -9 where nobody knows."""
        with self._lock:
            if self._control is not None:
                try:
                    self._control.send(c.WAIT + c.STATUS.pack(pid))
                    if reply := self._control.recv(c.MAX_MESSAGE):
                        (status,) = c.STATUS.unpack(reply)
                        return int(status)
                except OSError:
                    pass
                self._stop()
        return -signal.SIGKILL

    def close(self) -> None:
        """End it and with it all children; none is started any more."""
        self.is_closed = True
        with self._lock:
            self._stop()

    def _started(self) -> socket.socket:
        if self._control is not None:
            return self._control
        if self.is_closed:
            raise Unavailable("The server is stopping.", retry_after=5)
        control, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs, ExitStack() as on_failure:
            on_failure.enter_context(control)
            self._process = subprocess.Popen(
                [sys.executable, "-m", c.__name__, str(theirs.fileno()), *self._arguments],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                env=os.environ | _ONE_THREAD,
                pass_fds=[theirs.fileno()],
                start_new_session=True,
            )
            on_failure.pop_all()
        self._control = control
        control.settimeout(_START_SECONDS)
        with suppress(OSError):
            if control.recv(c.MAX_MESSAGE):
                control.settimeout(_REPLY_SECONDS)
                return control
        self._stop()
        raise Unavailable("The codecs' processes cannot be started; the server's log may say why.", retry_after=5)

    def _stop(self) -> None:
        if self._process is not None and self._control is not None:
            self._process.kill()
            self._process.wait()
            self._control.close()
            self._process = self._control = None
