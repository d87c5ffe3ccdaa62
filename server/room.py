"""The live handles of one process: engine, store, clock and pools, built once and passed to everything."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Concatenate

import anyio
import sqlalchemy as sa

from readingroom.clock import Clock
from server.codecs import Codecs
from server.hl7.applying import Applying
from server.hooks import Hooks
from server.peers import Peers
from server.queue import Queue
from server.renditions import Renditions
from server.reports.critical import Criticals
from server.reports.reports import Reports
from server.settings import Settings
from server.tokens import Tokens
from server.worklist.flow import Flow
from server.worklist.reconciling import Reconciling
from storage.blobs import Blobs, Bytes
from storage.catalog.keys import Keys

if TYPE_CHECKING:
    from server.ingest import Ingest


@dataclass(frozen=True, slots=True, kw_only=True)
class Room:
    """Live handles; each kind of blocking work has its own limiter, so that one cannot starve another."""

    settings: Settings
    engine: sa.Engine
    blobs: Blobs
    clock: Clock
    queue: Queue
    ingest: Ingest
    codecs: Codecs
    hooks: Hooks
    flow: Flow
    peers: Peers
    reports: Reports
    criticals: Criticals
    reconciling: Reconciling
    hl7: Applying
    tokens: Tokens
    renditions: Renditions
    db: anyio.CapacityLimiter
    disk: anyio.CapacityLimiter
    codec: anyio.CapacityLimiter
    upload: ThreadPoolExecutor
    keys: Keys
    is_stopping: threading.Event = field(default_factory=threading.Event)
    """Set when the server has been told to stop: what would go on for ever ends."""
    channels: set[object] = field(default_factory=set)
    """WebSockets that are open; before the server ends, they have a moment to tell so."""

    async def read[**P, T](
        self, query: Callable[Concatenate[sa.Connection, P], T], *args: P.args, **kwargs: P.kwargs
    ) -> T:
        """Run a short catalog read.

        On SQLite it runs right here: a read by key takes tens of microseconds, less than the hop to a thread would.
        On PostgreSQL it waits for a network, so it runs on a thread of the `db` limiter.
        """
        if self.engine.dialect.name == "sqlite":
            return self.query(query, *args, **kwargs)
        return await self.read_apart(query, *args, **kwargs)

    async def read_apart[**P, T](
        self, query: Callable[Concatenate[sa.Connection, P], T], *args: P.args, **kwargs: P.kwargs
    ) -> T:
        """Run a read that may take milliseconds (a scan, a big listing) on a thread of the `db` limiter."""
        return await anyio.to_thread.run_sync(lambda: self.query(query, *args, **kwargs), limiter=self.db)

    def query[**P, T](self, query: Callable[Concatenate[sa.Connection, P], T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Run a catalog read here and now."""
        with self.engine.connect() as connection:
            return query(connection, *args, **kwargs)

    async def call_codec[**P, T](self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Call a function in a limited child process; see `server.codecs.Codecs.call`."""
        return await anyio.to_thread.run_sync(lambda: self.codecs.call(function, *args, **kwargs), limiter=self.codec)

    async def read_rendition(self, name: str) -> memoryview | None:
        """A transcoded frame that was kept: at once where it is in the page cache, else on a thread."""
        try:
            return self.renditions.read_now(name)
        except BlockingIOError:
            return await anyio.to_thread.run_sync(self.renditions.read, name, limiter=self.disk)

    async def read_range(self, key: str, offset: int, length: int) -> Bytes:
        """Bytes of a stored object: at once where they are in the page cache, else on a thread."""
        data = self.blobs.try_read_range(key, offset, length)
        if data is not None:
            return data
        return await anyio.to_thread.run_sync(self.blobs.read_range, key, offset, length, limiter=self.disk)
