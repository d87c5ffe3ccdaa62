"""Workers that kill themselves: ``python -m tests.walks.crashing_work NOTES EACH serve|work --data DIR ...``.

As `tests.walks.crashing`, for what is done after the answer. The end of a life lies in a step of the work: when jobs
have been taken, before or after a plugin is called, in the transaction that ends a job, when a timer has turned what is
due into jobs, before or after any commit; or a moment is. Leases are short, so that what is lost is soon taken over.
"""

from __future__ import annotations

import argparse
import ctypes
import os
import signal
import threading
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import storage.catalog.engine
from tests.walks.crashing import around, fatal_write, fate, keep_alive, live

REACH = {"claim": 4, "react": 6, "finish": 6, "timer": 3, "commit": 30, "anytime": 1}
"""The points, and how far into the work of a life its end may lie."""

_LEASE = timedelta(seconds=3)
_PATIENCE_SECONDS = 5.0


def when_something_was_done[**P, T](point: str, call: Callable[P, T]) -> Callable[P, T]:
    """The call, and perhaps the end after it; one that had nothing to do does not count."""

    def wrapped(*args: P.args, **kwargs: P.kwargs) -> T:
        result = call(*args, **kwargs)
        if result:
            fate.choose()
            if fate.is_here(point):
                fate.fulfil()
        return result

    return wrapped


def wrap_the_work() -> None:
    """Wrap the steps; before the modules that use them are imported."""
    storage.catalog.engine.begin_write = fatal_write

    import server.app
    import server.listen
    import server.worker
    from server.hooks import Hooks
    from server.postgres_queue import PostgresQueue
    from server.sqlite_queue import SqliteQueue
    from storage.catalog.leases import Lease

    worker: Any = server.worker
    for name in ("settle_studies", "climb_due", "_fire_marks"):
        setattr(worker, name, when_something_was_done("timer", getattr(worker, name)))
    hooks: Any = Hooks
    hooks.react = around("react", hooks.react)
    queues: tuple[Any, ...] = (SqliteQueue, PostgresQueue)
    for queue in queues:
        queue.claim = when_something_was_done("claim", queue.claim)
        queue.finish = around("finish", queue.finish)
        queue.__init__.__kwdefaults__["lease"] = _LEASE
    Lease.__init__.__kwdefaults__["lasts"] = _LEASE  # type: ignore[index]


def pass_on_in_time() -> None:
    """Pass the turn on now and then: of two workers one has the timers, and the other would wait for them."""
    while not threading.Event().wait(_PATIENCE_SECONDS):
        fate.pass_on()


def work() -> None:
    """One life of a worker apart from the server, which ends with that of its parent at the latest."""
    threading.Thread(target=pass_on_in_time, daemon=True).start()
    ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG
    from server.app import build_room
    from server.settings import Settings
    from server.worker import working

    told = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: told.set())
    settings = Settings()
    with build_room(settings) as room, working(room, threads=settings.job_threads):
        told.wait()


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("notes", type=Path)
    parser.add_argument("each", type=int)
    parser.add_argument("command", choices=["serve", "work"])
    parser.add_argument("--data", required=True)
    parser.add_argument("--host")
    parser.add_argument("--port", type=int)
    parser.add_argument("--workers", type=int)
    args = parser.parse_args()
    os.environ["READINGROOM_DATA"] = args.data
    fate.notes, fate.each, fate.reach = args.notes, args.each, REACH
    wrap_the_work()
    if args.command == "work":
        keep_alive(args.workers, work, args.notes)
        return
    from server.listen import bind

    bound = bind(args.host, args.port)
    bound.listen(128)
    keep_alive(args.workers, lambda: live(bound), args.notes)
    bound.close()


if __name__ == "__main__":
    main()
