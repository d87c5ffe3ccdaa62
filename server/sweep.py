"""Removes what writers that died left behind: temporary files, and objects published but never committed."""

from __future__ import annotations

import logging
import os
import shutil
import socket
from collections.abc import Sequence
from contextlib import suppress
from datetime import datetime
from pathlib import Path

import orjson
import sqlalchemy as sa

from readingroom.errors import Invalid, NotFound
from storage import opaque
from storage.blobs import Blobs
from storage.catalog.writers import forget, leftovers, object_keys, take_expired
from storage.objects import read_description

log = logging.getLogger(__name__)


def sweep(engine: sa.Engine, blobs: Blobs, tmp: Path, *, now: datetime, own: str) -> int:
    """Remove what writers that died left behind; returns how many objects and files that was.

    An object that was received after its writer's lease had ended stays: then the catalog is older than its store
    (restored from a backup), and what it does not know is no leftover. `readingroom reindex` finds it again.
    """
    removed = 0
    for expired in take_expired(engine, now, own=own, is_dead=_is_dead_here):
        folder = tmp / expired.id
        removed += sum(1 for _ in folder.iterdir()) if folder.is_dir() else 0
        shutil.rmtree(folder, ignore_errors=True)
        with engine.connect() as connection:
            left = leftovers(connection, expired.id)
        for one in left:
            keys = object_keys(one.place, one.array_name, one.spec, one.slot)
            received_at = _received_at(blobs, keys)
            if received_at is not None and received_at > expired.lease_until:
                log.warning("%s is not in the catalog, yet no leftover: run `readingroom reindex`", keys[0])
                continue
            for key in keys:
                with suppress(NotFound):
                    blobs.size(key)
                    blobs.delete(key)
                    removed += 1
        forget(engine, expired.id)
    return removed


def _received_at(blobs: Blobs, keys: Sequence[str]) -> datetime | None:
    """When the object under `keys` says that it was received; None where there is none, or none that is whole."""
    try:
        if len(keys) > 1:
            return opaque.read_description(orjson.loads(blobs.read(keys[1]))).received_at

        def read_at(offset: int, length: int) -> bytes:
            return bytes(blobs.read_range(keys[0], offset, length))

        return read_description(read_at, blobs.size(keys[0])).received_at
    except (NotFound, Invalid, orjson.JSONDecodeError):
        return None


def _is_dead_here(host: str, pid: int) -> bool:
    """Whether a writer of this host is gone, so that its lease need not be waited for."""
    if host != socket.gethostname():
        return False
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    except PermissionError:
        return False
    return False
