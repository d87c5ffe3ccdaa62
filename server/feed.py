"""Server-sent events (WHATWG HTML 9.2) of the log: what there is from a number on, then each as it is committed."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from typing import Any, Protocol

from readingroom.errors import Invalid
from readingroom.model import Scope
from storage.catalog.events import Event, Wanted, last_sequence, read_events

LOOK_SECONDS = 0.5
HEARTBEAT_SECONDS = 15.0
AT_ONCE = 100
_RETRY_MILLISECONDS = 1000


class Reading(Protocol):
    """What is needed of a room."""

    @property
    def is_stopping(self) -> threading.Event: ...

    def read(self, query: Callable[..., Any], *args: Any, **kwargs: Any) -> Awaitable[Any]: ...

    def read_apart(self, query: Callable[..., Any], *args: Any, **kwargs: Any) -> Awaitable[Any]: ...


def sequence_of(text: str | None, name: str) -> int | None:
    """The number of an event that a parameter or a header names; raises `Invalid` where it is none."""
    if text is None:
        return None
    if not (text.isascii() and text.isdecimal() and len(text) <= 18):
        raise Invalid(f"{name!r} has to be a whole number, 0 or more.")
    return int(text)


async def follow(
    room: Reading,
    scope: Scope,
    wanted: Wanted,
    render: Callable[[Event], bytes],
    *,
    after: int,
    cut: Callable[[list[Event]], Sequence[Event]] = lambda events: events,
) -> AsyncIterator[bytes]:
    """The stream, until the client or the server ends.

    Parameters
    ----------
    render
        What an event's data is: one line.
    after
        The number of the last event that the client has seen.
    cut
        The first of some events, where they would be too much to be read at once.
    """
    yield b"retry: %d\n\n" % _RETRY_MILLISECONDS
    loop = asyncio.get_running_loop()
    spoke_at = loop.time()
    while not room.is_stopping.is_set():
        last = await room.read(last_sequence)
        while after < last:
            # Up to a number that was seen, so that what does not match is not looked through again.
            found = await room.read_apart(read_events, scope, wanted, after=after, limit=AT_ONCE, last=last)
            events = cut(found)
            for event in events:
                yield b"id: %d\ndata: %s\n\n" % (event.sequence, render(event))
                spoke_at = loop.time()
            after = events[-1].sequence if len(found) == AT_ONCE or len(events) < len(found) else last
        if loop.time() - spoke_at >= HEARTBEAT_SECONDS:
            yield b": still here\n\n"
            spoke_at = loop.time()
        await asyncio.sleep(LOOK_SECONDS)
