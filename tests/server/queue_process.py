"""Workers in processes of their own: ``python -m tests.server.queue_process URL KILLS FOLDER``.

Two at a time, forked from a process that has everything imported. That many of them are killed, each at some moment of
its short life; ``FOLDER/over`` says when the last has been. The two that are left work on until this process is told to
stop. Jobs of kind ``effect`` write a note and enqueue another job with their end; those of kind ``slow`` say in a note
that they have begun, and where, and take their time.
"""

from __future__ import annotations

import argparse
import ctypes
import os
import random
import signal
import sys
import threading
import time
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

from server.archive import open_queue
from server.queue import Job, Overtaken, Policy, Queue
from server.worker import Jobs
from storage.catalog.clocks import clock_of
from storage.catalog.engine import begin_write, open_engine
from tests.server.queue_contract import note

LEASE = timedelta(seconds=1)
SLOW_SECONDS = 1.0
_OFTEN = Policy(attempts=100, first=timedelta(milliseconds=10), most=timedelta(milliseconds=50))


def register(queue: Queue) -> None:
    """What the workers do."""

    @queue.on("effect", _OFTEN)
    def effect(job: Job) -> None:
        time.sleep(random.uniform(0, 0.01))
        with job.finishing() as connection:
            note(connection, job.payload["text"])
            if job.payload["text"].startswith("first"):
                after = {"text": job.payload["text"].replace("first", "second")}
                queue.enqueue(connection, "effect", after, lane=job.lane)

    @queue.on("slow", _OFTEN)
    def slow(job: Job) -> None:
        with begin_write(queue.engine) as connection:
            note(connection, f"begun {job.attempt} {os.getpid()}")
        time.sleep(SLOW_SECONDS)
        try:
            with job.finishing() as connection:
                note(connection, f"done {job.attempt}")
        except Overtaken:
            with begin_write(queue.engine) as connection:
                note(connection, f"refused {job.attempt}")
            raise


def live(url: str) -> None:
    """One life, which ends with that of its parent at the latest."""
    ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    engine = open_engine(url)
    queue = open_queue(engine, clock_of(engine))
    queue.lease = LEASE
    register(queue)
    Jobs(queue, threads=3).start()
    threading.Event().wait()


def fork(act: Callable[[], None]) -> int:
    pid = os.fork()
    if pid == 0:
        act()
        sys.exit(0)
    return pid


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("url")
    parser.add_argument("kills", type=int)
    parser.add_argument("folder", type=Path)
    args = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))  # and the lives end with this one
    lives = [fork(lambda: live(args.url)) for _ in range(2)]
    for _ in range(args.kills):
        time.sleep(random.uniform(0.01, 0.3))
        doomed = lives.pop(random.randrange(len(lives)))
        os.kill(doomed, signal.SIGKILL)
        os.waitpid(doomed, 0)
        lives.append(fork(lambda: live(args.url)))
    (args.folder / "over").touch()
    threading.Event().wait()


if __name__ == "__main__":
    main()
