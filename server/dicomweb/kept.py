"""What one process keeps in memory between requests, in bounds: ready bodies, inflated objects, rendered images."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Hashable
from dataclasses import dataclass, field

from starlette.requests import Request

from storage.objects import Scan


class Kept[T]:
    """The values used last, up to a sum of bytes; what several ask for at once is made once.

    For the event loop's thread alone.
    """

    def __init__(self, max_bytes: int) -> None:
        self.max_bytes = max_bytes
        self.bytes = 0
        self._values: OrderedDict[Hashable, tuple[T, int]] = OrderedDict()
        self._making: dict[Hashable, asyncio.Task[T]] = {}

    async def get(self, key: Hashable, make: Callable[[], Awaitable[T]], size_of: Callable[[T], int]) -> T:
        """The value of `key`, made now if it is not kept."""
        kept = self._values.get(key)
        if kept is not None:
            self._values.move_to_end(key)
            return kept[0]
        task = self._making.get(key)
        if task is None:
            task = asyncio.ensure_future(self._make(key, make, size_of))
            self._making[key] = task
            task.add_done_callback(lambda _: self._making.pop(key, None))
        return await asyncio.shield(task)  # one client that goes away must not take the others' answer with it

    async def _make(self, key: Hashable, make: Callable[[], Awaitable[T]], size_of: Callable[[T], int]) -> T:
        value = await make()
        size = size_of(value)
        if size <= self.max_bytes // 4:
            self._values[key] = value, size
            self.bytes += size
            while self.bytes > self.max_bytes:
                _, (_, freed) = self._values.popitem(last=False)
                self.bytes -= freed
        return value


@dataclass(frozen=True, slots=True)
class Inflated:
    """A deflated object as it was before it was deflated, and where its frames are."""

    data: bytearray
    scan: Scan


@dataclass(frozen=True, slots=True)
class Keepings:
    """All that one app keeps for its DICOMweb views."""

    metadata: Kept[bytes] = field(default_factory=lambda: Kept(64 << 20))
    inflated: Kept[Inflated] = field(default_factory=lambda: Kept(64 << 20))
    rendered: Kept[bytes] = field(default_factory=lambda: Kept(16 << 20))


def keepings_of(request: Request) -> Keepings:
    """What the app of this request keeps."""
    state = request.app.state
    try:
        keepings: Keepings = state.dicomweb
    except AttributeError:
        keepings = state.dicomweb = Keepings()
    return keepings
