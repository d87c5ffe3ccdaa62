"""Functions that behave as hostile frames make decoders behave, to be called in a child process."""

from __future__ import annotations

import ctypes
import os
import resource
import signal
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

import numpy as np

from readingroom.errors import NotFound, Unavailable


def pid() -> int:
    return os.getpid()


def echo(*args: object, **kwargs: object) -> tuple[object, ...]:
    return (*args, *kwargs.values())


def same(value: Any) -> Any:
    return value


def kind(value: object) -> str:
    return type(value).__name__


def abort(*_frame: object) -> NoReturn:
    os.abort()


def segfault() -> None:
    ctypes.string_at(0)


def leave() -> NoReturn:
    os._exit(0)


def eat(size_bytes: int) -> int:
    """Touch so much memory at once."""
    return int(np.full(size_bytes, 1, np.uint8).sum(dtype=np.int64))


def grow() -> NoReturn:
    """Take memory bit by bit, as a decoder does that believes a header."""
    eaten = []
    while True:
        eaten.append(bytearray(1 << 20))


def spin() -> NoReturn:
    while True:
        pass


def wait(begun: str) -> NoReturn:
    """Say that it has begun, then block for ever."""
    Path(begun).touch()
    while True:
        signal.pause()


class Panic(BaseException):
    """What pyo3 makes of a panic in Rust is no Exception either."""


def panic() -> NoReturn:
    raise Panic("index out of bounds")


def refuse() -> NoReturn:
    raise NotFound("There is no such thing.")


def postpone() -> NoReturn:
    raise Unavailable("Not now.", retry_after=7)


def stumble() -> NoReturn:
    raise KeyError("a bug")


def babble(answer: bytes) -> NoReturn:
    """Answer in place of the child."""
    for name in os.listdir("/proc/self/fd"):
        fd = int(name)
        try:
            if fd > 2 and stat.S_ISSOCK(os.fstat(fd).st_mode):
                os.write(fd, answer)
        except OSError:
            continue
    while True:
        signal.pause()


class Bomb:
    """Has the one who unpickles it call something."""

    def __init__(self, call: Callable[..., object], *args: object) -> None:
        self._call = call, args

    def __reduce__(self) -> Any:
        return self._call


def bomb(path: str) -> Bomb:
    return Bomb(os.mkdir, path)


def lambda_result() -> object:
    """Give what cannot be pickled."""
    return lambda: None


def limits() -> tuple[int, int]:
    return resource.getrlimit(resource.RLIMIT_CORE)[0], resource.getrlimit(resource.RLIMIT_FSIZE)[0]


def likely_victim() -> str:
    return Path("/proc/self/oom_score_adj").read_text().strip()
