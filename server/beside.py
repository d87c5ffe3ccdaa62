"""Processes that `serve` keeps beside itself: one that dies is replaced, and all end with the one that started them."""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

log = logging.getLogger(__name__)

_AGAIN_SECONDS, _STOP_SECONDS = 1.0, 20.0
_WITH_PARENT = "READINGROOM_PROCESS_WITH_PARENT"


@contextmanager
def kept_beside(name: str, *arguments: str) -> Iterator[None]:
    """While this is open, a process of its own runs that command of ours.

    Parameters
    ----------
    name
        What it serves, for the log.
    """
    over = threading.Event()
    running: list[subprocess.Popen[bytes]] = []

    def keep() -> None:
        while not over.is_set():
            # However this process ends, the pipe does too, and the child with it.
            child = subprocess.Popen(
                [sys.executable, "-m", "server.cli", *arguments],
                stdin=subprocess.PIPE,
                stdout=subprocess.DEVNULL,
                env={**os.environ, _WITH_PARENT: "1"},
            )
            running[:] = [child]
            status = child.wait()
            if not over.is_set():
                log.error("the process that serves %s ended with status %d; another one is started", name, status)
                over.wait(_AGAIN_SECONDS)

    keeper = threading.Thread(target=keep, name=f"{name}-keeper", daemon=True)
    keeper.start()
    try:
        yield
    finally:
        over.set()
        for child in running:
            child.terminate()
        keeper.join(_STOP_SECONDS)


def told_to_stop() -> threading.Event:
    """An event that is set by SIGINT and SIGTERM, and when the process that keeps this one is gone."""
    told = threading.Event()

    def stop(_number: int, _frame: FrameType | None) -> None:
        told.set()

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, stop)
    if os.environ.pop(_WITH_PARENT, None):
        threading.Thread(target=_wait_for_the_end, args=(told,), daemon=True).start()
    return told


def _wait_for_the_end(told: threading.Event) -> None:
    sys.stdin.buffer.read()
    told.set()
