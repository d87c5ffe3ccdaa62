"""Where stored objects lie: a local folder or an S3 bucket, behind one small interface.

Keys are relative paths with ``/``. An object is published once under its key and never changes.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol


@dataclass(frozen=True, slots=True, kw_only=True)
class Staged:
    """A finished local file that waits to be published under `key`."""

    path: Path
    key: str
    size_bytes: int


class Blobs(Protocol):
    """What every place for objects can do."""

    def publish(self, staged: Sequence[Staged]) -> None:
        """Make the staged files durable under their keys; when it returns they outlive a power cut.

        Raises
        ------
        Conflict
            A key is taken by other bytes.
        OutOfSpace
            The place is full; nothing of `staged` may be counted on.
        """

    def put(self, key: str, data: bytes) -> None:
        """Write a small object (``zarr.json``, a side record), replacing the old one atomically and durably."""

    def read_range(self, key: str, offset: int, length: int) -> bytes:
        """Bytes ``offset..offset+length``; raises `NotFound` where there is no such object."""

    def try_read_range(self, key: str, offset: int, length: int) -> bytes | None:
        """The same where it needs no waiting (page cache), else None: for the event loop."""

    def read(self, key: str) -> bytes:
        """A whole (small) object."""

    def size(self, key: str) -> int:
        """Its length in bytes; raises `NotFound`."""

    def keys(self, prefix: str = "") -> Iterator[str]:
        """All keys below `prefix`, in no particular order."""

    def delete(self, key: str) -> None:
        """Remove an object; no error where it is gone already."""

    def local_path(self, key: str) -> Path | None:
        """The file itself where there is one, for readers that map it."""
