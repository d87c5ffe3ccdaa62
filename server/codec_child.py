"""What runs in the child processes of `server.codecs`: a fork server, and the children that it forks.

The fork server imports what codecs need once, which takes most of a second; each child is a fork of it, so it is there
in milliseconds and shares its memory. The fork server ends when its socket does, and the kernel ends the children with
it: none of them outlives the process that they work for.

Values travel in a segment of shared memory, and messages on a socket say where in it they are. So a frame is copied
once on its way in and once on its way out.

Started as ``python -m server.codec_child SOCKET MEMORY_BYTES IDLE_SECONDS PACKAGE,... MODULE...`` (to import).
"""

from __future__ import annotations

import ctypes
import gc
import importlib
import mmap
import os
import pickle
import resource
import signal
import socket
import struct
import sys
import traceback
from collections.abc import Buffer, Callable, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import NoReturn

from readingroom.errors import ReadingRoomError

IDLE_EXIT = 75
"""The status with which a child exits that nobody had work for."""

RESULT, ERROR, OUT_OF_MEMORY, PANIC, ACCIDENT = b"r", b"e", b"m", b"p", b"a"
"""What the first byte of an answer says: a value; an error with meaning; no memory left; foreign code gave up; any
other error. After one of the last three the child is not used again."""

FORK, WAIT = b"f", b"w"
"""What the fork server is asked for: a child, or how one ended."""

MAX_MESSAGE = 1 << 16
STATUS = struct.Struct("<q")

_PR_SET_PDEATHSIG = 1
_ENTRY = struct.Struct("<QQ")
_ALIGNMENT = 64
_GROWTH = 1 << 20
_KEPT = 16 << 20


class Segment:
    """Memory that two processes share. It never shrinks, so neither can cut it off under the other's feet."""

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self._shared = mmap.mmap(-1, 1)

    def write(self, value: object, at: int, max_bytes: int) -> bytes:
        """Put a value at an offset; gives the message from which the other process reads it.

        Raises
        ------
        ValueError
            It would end past `max_bytes`, or has too many buffers.
        """
        buffers: list[pickle.PickleBuffer] = []
        stream = pickle.dumps(value, pickle.HIGHEST_PROTOCOL, buffer_callback=buffers.append)
        raws = [memoryview(stream), *(buffer.raw() for buffer in buffers)]
        places = []
        for raw in raws:
            places.append(at)
            at += _aligned(raw.nbytes)
        if at > max_bytes or len(raws) * _ENTRY.size >= MAX_MESSAGE:
            raise ValueError(f"{at} bytes in {len(raws)} buffers are too much to hand over")
        shared = self._mapped(at)
        for raw, place in zip(raws, places, strict=True):
            shared[place : place + raw.nbytes] = raw
        return b"".join(_ENTRY.pack(at, raw.nbytes) for at, raw in zip(places, raws, strict=True))

    def read(self, message: bytes) -> tuple[bytes, list[memoryview]]:
        """The pickle and the buffers that a message tells of, the buffers as they lie there.

        Raises
        ------
        ValueError
            The message is none that `write` makes, or tells of more than there is.
        """
        if not message or len(message) % _ENTRY.size:
            raise ValueError(f"a message of {len(message)} bytes")
        entries = list(_ENTRY.iter_unpack(message))
        size = os.fstat(self._fd).st_size
        if any(at + length > size for at, length in entries) or sum(length for _, length in entries) > size:
            raise ValueError("a message that tells of more than there is")
        view = memoryview(self._mapped(size))
        stream, *buffers = (view[at : at + length] for at, length in entries)
        return bytes(stream), buffers

    def trim(self) -> None:
        """Give back what a large value took, for when nothing here is needed any more."""
        if len(self._shared) > _KEPT:
            self._shared.madvise(mmap.MADV_REMOVE, _KEPT, len(self._shared) - _KEPT)

    def close(self) -> None:
        """Give it all back."""
        os.close(self._fd)
        self._shared = mmap.mmap(-1, 1)

    def _mapped(self, size: int) -> mmap.mmap:
        if len(self._shared) < size:
            if os.fstat(self._fd).st_size < size:
                os.ftruncate(self._fd, -(-size // _GROWTH) * _GROWTH)
            self._shared = mmap.mmap(self._fd, 0)
        return self._shared


def end_of(message: bytes) -> int:
    """Where in the segment there is room after what a message tells of."""
    return max(int(at) + _aligned(length) for at, length in _ENTRY.iter_unpack(message))


def direct(value: object) -> object:
    """The value in a form that travels as a buffer, where it is `bytes` or the like: pickle copies those otherwise."""
    return _Direct(value) if isinstance(value, bytes | bytearray | memoryview) else value


class _Direct:
    def __init__(self, value: bytes | bytearray | memoryview) -> None:
        self._value = value

    def __reduce__(self) -> tuple[Callable[[Buffer], object], tuple[pickle.PickleBuffer]]:
        return _ARRIVING[type(self._value)], (pickle.PickleBuffer(self._value),)


def copied_bytes(data: Buffer) -> bytes:
    """`bytes` that travelled as a buffer."""
    return bytes(memoryview(data))


def copied_bytearray(data: Buffer) -> bytearray:
    """A `bytearray` that travelled as a buffer."""
    return bytearray(memoryview(data))


_ARRIVING: dict[type, Callable[[Buffer], object]] = {
    bytes: copied_bytes,
    bytearray: copied_bytearray,
    memoryview: memoryview,
}


def main(arguments: Sequence[str]) -> None:
    """Be the fork server, until the socket ends."""
    fd, memory_bytes, idle_seconds, packages, *modules = arguments
    control = socket.socket(fileno=int(fd))
    for asked_to_end in (signal.SIGHUP, signal.SIGINT, signal.SIGTERM):
        # Sent to every process of a service; the server still finishes what it answers, and needs its codecs for it.
        signal.signal(asked_to_end, signal.SIG_IGN)
    with suppress(OSError), open("/proc/self/oom_score_adj", "w") as file:
        file.write("1000")  # where memory runs out, the kernel should rather end one of these than the server
    for module in modules:
        importlib.import_module(module)
    die_with_parent = partial(ctypes.CDLL(None).prctl, _PR_SET_PDEATHSIG, signal.SIGKILL)
    gc.collect()
    gc.freeze()  # a collection would write to every shared page, and so copy it
    control.send(b"ready")
    while True:
        message, fds, *_ = socket.recv_fds(control, MAX_MESSAGE, 2)
        if message == FORK:
            own_pid = os.getpid()
            child = os.fork()
            if not child:
                die_with_parent()
                control.close()
                if os.getppid() == own_pid:
                    _serve(fds[0], fds[1], int(memory_bytes), float(idle_seconds), packages.split(","))
                os._exit(1)
            pidfd = os.pidfd_open(child)
            socket.send_fds(control, [STATUS.pack(child)], [pidfd])
            for received in (*fds, pidfd):
                os.close(received)
        elif message.startswith(WAIT):
            status: int = signal.SIGKILL
            with suppress(ChildProcessError):  # of a fork server before this one, with which it was killed
                (child,) = STATUS.unpack(message[1:])
                status = os.waitpid(child, 0)[1]
            control.send(STATUS.pack(os.waitstatus_to_exitcode(status)))
        else:
            return


def _serve(work_fd: int, segment_fd: int, memory_bytes: int, idle_seconds: float, packages: Sequence[str]) -> NoReturn:
    """Be a child: answer one call after the other."""
    # What is mapped already does not count. The segment does, with arguments and results.
    mapped = int(Path("/proc/self/statm").read_text().split()[0]) * mmap.PAGESIZE
    for limit, value in (
        (resource.RLIMIT_AS, mapped + memory_bytes),
        (resource.RLIMIT_FSIZE, memory_bytes),
        (resource.RLIMIT_CORE, 0),
    ):
        resource.setrlimit(limit, (value, value))
    work = socket.socket(fileno=work_fd)
    segment = Segment(segment_fd)
    while True:
        work.settimeout(idle_seconds)
        try:
            message = work.recv(MAX_MESSAGE)
        except TimeoutError:
            os._exit(IDLE_EXIT)
        if not message:
            os._exit(0)
        work.send(_answer(segment, message, memory_bytes, packages))


def _answer(segment: Segment, message: bytes, memory_bytes: int, packages: Sequence[str]) -> bytes:
    try:
        stream, buffers = segment.read(message)
        module, name, args, kwargs = pickle.loads(stream, buffers=buffers)
        if module.partition(".")[0] not in packages:
            raise LookupError(f"{module}.{name} is not called in a child")
        result = getattr(importlib.import_module(module), name)(*args, **kwargs)
        return RESULT + segment.write(direct(result), end_of(message), memory_bytes)
    except ReadingRoomError as error:
        return ERROR + segment.write(error, end_of(message), memory_bytes)
    except MemoryError:
        return OUT_OF_MEMORY
    except Exception:
        # The caller's to record: it raises this anew where the call was made.
        return ACCIDENT + traceback.format_exc().encode()[1 - MAX_MESSAGE :]
    except BaseException as error:  # what is written in Rust panics so
        return PANIC + type(error).__name__.encode()


def _aligned(size: int) -> int:
    return -(-size // _ALIGNMENT) * _ALIGNMENT


if __name__ == "__main__":
    importlib.import_module("server.codec_child").main(sys.argv[1:])  # so named, as pickles name what is in here
