"""What one process keeps in memory between requests, in bounds: ready bodies, inflated objects, rendered images."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Hashable
from dataclasses import dataclass, field

from starlette.requests import Request

from readingroom.errors import ReadingRoomError
from readingroom.model import Scope
from server.dicomweb.files import find_all
from server.room import Room
from storage.catalog.find import StoredInstance, StoredSeries, find_instance, find_series
from storage.catalog.watch import Watch, watch
from storage.objects import Scan

_MAX_LOCATED = 4096


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


class Located:
    """Where instances and series are, for as long as nothing in the catalog changes.

    Who asks for frames of two instances of a series scrolls, and will ask for the others: they are all looked up in
    the background. For the event loop's thread alone.
    """

    def __init__(self) -> None:
        self._found: dict[Hashable, StoredInstance] = {}
        self._found_series: dict[Hashable, StoredSeries] = {}
        self._series: dict[Hashable, int] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._watch: Watch | None = None
        self._count = -1

    async def find(
        self,
        room: Room,
        scope: Scope,
        study_uid: str,
        series_uid: str,
        instance_uid: str,
        version: int | None = None,
    ) -> StoredInstance:
        """As `storage.catalog.find.find_instance`."""
        count = self._still(room)
        if count is None or version is not None:
            return await room.read(find_instance, scope, study_uid, series_uid, instance_uid, version)
        series = scope.facilities, study_uid, series_uid
        found = self._found.get((*series, instance_uid))
        if found is None:
            # Read after the count: should the catalog change in between, the next look finds out.
            found = await room.read(find_instance, scope, study_uid, series_uid, instance_uid)
            self._found[*series, instance_uid] = found
            self._series[series] = misses = self._series.get(series, 0) + 1
            if misses == 2:
                task = asyncio.create_task(self._find_series(room, scope, study_uid, series_uid, count))
                self._tasks.add(task)
                task.add_done_callback(self._tasks.discard)
        return found

    async def find_series(self, room: Room, scope: Scope, study_uid: str, series_uid: str) -> StoredSeries:
        """As `storage.catalog.find.find_series`."""
        if self._still(room) is None:
            return await room.read(find_series, scope, study_uid, series_uid)
        key = scope.facilities, study_uid, series_uid
        found = self._found_series.get(key)
        if found is None:
            found = self._found_series[key] = await room.read(find_series, scope, study_uid, series_uid)
        return found

    def _still(self, room: Room) -> int | None:
        """The count of the catalog's changes, of which nothing older is remembered; None where none is kept."""
        if self._watch is None:
            self._watch = watch(room.engine)
        if self._watch is None:
            return None
        count = self._watch.count()
        if count != self._count or len(self._found) + len(self._found_series) > _MAX_LOCATED:
            self._found.clear()
            self._found_series.clear()
            self._series.clear()
            self._count = count
        return count

    async def _find_series(self, room: Room, scope: Scope, study_uid: str, series_uid: str, count: int) -> None:
        try:
            _, instances = await room.read_apart(find_all, scope, study_uid, series_uid)
        except ReadingRoomError:
            return  # who asks for one of them will be told
        if count == self._count and len(instances) < _MAX_LOCATED // 2:
            key = scope.facilities, study_uid, series_uid
            self._found.update(((*key, instance.instance_uid), instance) for instance in instances)


@dataclass(frozen=True, slots=True)
class Keepings:
    """All that one app keeps for its DICOMweb views."""

    located: Located = field(default_factory=Located)
    metadata: Kept[bytes] = field(default_factory=lambda: Kept(64 << 20))
    inflated: Kept[Inflated] = field(default_factory=lambda: Kept(64 << 20))
    transcoded: Kept[bytes] = field(default_factory=lambda: Kept(0))  # made once at a time; kept on disk
    rendered: Kept[bytes] = field(default_factory=lambda: Kept(16 << 20))


def keepings_of(request: Request) -> Keepings:
    """What the app of this request keeps."""
    state = request.app.state
    try:
        keepings: Keepings = state.dicomweb
    except AttributeError:
        keepings = state.dicomweb = Keepings()
    return keepings
