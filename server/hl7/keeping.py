"""Keeps messages durably: those of all connections that come together are one transaction.

A commit that reaches the disk takes as long for many messages as for one. One transaction is written at a time, on a
thread of its own, and the next one takes whatever has come meanwhile.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import sqlalchemy as sa

from readingroom.errors import Unavailable
from server.queue import Queue, reason_of
from storage.catalog.engine import begin_write
from storage.catalog.inbox import Arrival, MessageState, keep_messages

log = logging.getLogger(__name__)

APPLY = "hl7.apply"
"""The job that applies the messages of one facility, in the order in which they came."""

_AT_ONCE = 256

type Kept = tuple[MessageState, bool]
"""The state of a message, and whether it has come only now."""


class Keeping:
    """Writes arrivals into the inbox; `keep` is called in one event loop."""

    def __init__(self, queue: Queue) -> None:
        self._queue = queue
        self._waiting: list[tuple[Arrival, asyncio.Future[Kept]]] = []
        self._is_writing = False
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="hl7-inbox")

    async def keep(self, arrival: Arrival) -> Kept:
        """Keep a message, and come back after the commit.

        Raises
        ------
        Unavailable
            The catalog does not answer, or is full.
        """
        loop = asyncio.get_running_loop()
        kept: asyncio.Future[Kept] = loop.create_future()
        self._waiting.append((arrival, kept))
        if not self._is_writing:
            self._is_writing = True
            loop.call_soon(self._begin, loop)  # what else came in this turn of the loop goes with it
        return await kept

    def close(self) -> None:
        """End, when what waits is kept."""
        self._thread.shutdown()

    def _begin(self, loop: asyncio.AbstractEventLoop) -> None:
        batch, self._waiting = self._waiting[:_AT_ONCE], self._waiting[_AT_ONCE:]
        written = loop.run_in_executor(self._thread, self._write, [arrival for arrival, _ in batch])

        def done(written: asyncio.Future[list[Kept] | None]) -> None:
            found = written.result()
            for number, (_, kept) in enumerate(batch):
                if kept.done():
                    continue  # whoever waited for it has gone
                if found is None:
                    kept.set_exception(Unavailable("The catalog does not answer; send the message again."))
                else:
                    kept.set_result(found[number])
            self._is_writing = bool(self._waiting)
            if self._is_writing:
                self._begin(loop)

        written.add_done_callback(done)

    def _write(self, arrivals: Sequence[Arrival]) -> list[Kept] | None:
        try:
            with begin_write(self._queue.engine) as connection:
                kept = keep_messages(connection, arrivals)
                new = {one.facility for one, found in zip(arrivals, kept, strict=True) if found == ("received", True)}
                for facility in sorted(new):
                    enqueue_applying(self._queue, connection, facility)
        except Exception as error:
            # The edge of this thread: whatever it was, those who wait hear of it, and the next ones are kept.
            log.error("%d messages could not be kept: %s", len(arrivals), reason_of(error))
            return None
        return kept


def enqueue_applying(queue: Queue, connection: sa.Connection, facility: str) -> None:
    """Have the messages of a facility applied that are in its inbox when this transaction ends."""
    lane = f"hl7 {facility}"
    queue.enqueue(connection, APPLY, {"facility": facility}, lane=lane, key=lane)
