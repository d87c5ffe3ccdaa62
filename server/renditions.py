"""Renditions: frames in other transfer syntaxes than the stored one, kept on local disk so that they are made once.

The folder belongs to all workers and may be deleted at any time. A rendition is a file that appears whole; nothing of
it is waited for on the disk, and what the disk got wrong is noticed by its checksum and made again.
"""

from __future__ import annotations

import hashlib
import logging
import os
import struct
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import google_crc32c

from server.settings import Settings

log = logging.getLogger(__name__)

_NAME_BYTES = 16
_CHECK = struct.Struct("<I")
_GOOD = 0x48674BC7
"""The CRC32C of anything that ends in its own CRC32C."""

_PENDING_BYTES = 32 << 20
_STALE_SECONDS = 3600.0
_TOUCH_SECONDS = 600.0
_REST_SECONDS = 60.0


def open_renditions(settings: Settings) -> Renditions:
    """The renditions in the data folder."""
    return Renditions(settings.data / "renditions", max_bytes=settings.rendition_bytes, workers=settings.workers)


class Renditions:
    """Frames by name, the ones read last up to a sum of bytes.

    Parameters
    ----------
    folder
        Where they lie.
    max_bytes
        What all workers together may keep; with 0 nothing is kept.
    workers
        How many processes share the folder. Each looks through it when it has written its share of what may be there
        beyond the last look.
    """

    def __init__(self, folder: Path, *, max_bytes: int, workers: int = 1) -> None:
        self._folder = folder
        self._max_bytes = max_bytes
        self._share = max_bytes // (8 * workers)
        self._written = self._share  # so that the first to be kept looks what is there
        self._pending = 0
        self._resting_until = 0.0
        self._lock = threading.Lock()
        self._writer = ThreadPoolExecutor(1, thread_name_prefix="renditions")

    def read_now(self, name: str) -> memoryview | None:
        """A rendition from the page cache, None where there is none; for the event loop.

        Raises
        ------
        BlockingIOError
            It is there, and would have to be waited for: ask `read`, on a thread.
        """
        return self._read(name, may_wait=False)

    def read(self, name: str) -> memoryview | None:
        """A rendition, None where there is none or it is damaged."""
        return self._read(name, may_wait=True)

    def keep(self, name: str, data: bytes) -> None:
        """Keep a rendition, in a while; returns at once."""
        if len(data) >= self._share or time.monotonic() < self._resting_until:
            return
        with self._lock:
            if self._pending + len(data) > _PENDING_BYTES:
                return  # the disk is slower than the codecs
            self._pending += len(data)
        with suppress(RuntimeError):  # closed
            self._writer.submit(self._write, name, data)

    def forget(self, prefix: str) -> None:
        """Remove every rendition whose name begins so; names of one object begin with its sha256."""
        self.flush()
        with suppress(FileNotFoundError):
            for path in self._path(prefix).parent.iterdir():
                if path.name.startswith(prefix):
                    path.unlink(missing_ok=True)

    def flush(self) -> None:
        """Wait until what was to be kept is kept."""
        with suppress(RuntimeError):
            self._writer.submit(int).result()

    def close(self) -> None:
        """Finish what was begun."""
        self._writer.shutdown()

    def _path(self, name: str) -> Path:
        return self._folder / name[:2] / name

    def _read(self, name: str, *, may_wait: bool) -> memoryview | None:
        try:
            fd = os.open(f"{self._folder}/{name[:2]}/{name}", os.O_RDONLY | os.O_CLOEXEC)
        except OSError:
            return None
        try:
            status = os.fstat(fd)
            data = os.pread(fd, status.st_size, 0) if may_wait else _read_now(fd, status.st_size)
            if time.time() - status.st_mtime > _TOUCH_SECONDS:
                os.utime(fd)
        finally:
            os.close(fd)
        if data[:_NAME_BYTES] != _digest(name) or google_crc32c.value(data) != _GOOD:
            log.warning("the rendition %s is damaged; it is made again", name)
            return None
        return memoryview(data)[_NAME_BYTES : -_CHECK.size]

    def _write(self, name: str, data: bytes) -> None:
        try:
            path = self._path(name)
            path.parent.mkdir(parents=True, exist_ok=True)
            whole = _digest(name) + data
            whole += _CHECK.pack(google_crc32c.value(whole))
            new = path.with_name(f".{os.getpid()}-{name}")
            try:
                new.write_bytes(whole)
                new.rename(path)
            except BaseException:
                new.unlink(missing_ok=True)
                raise
            self._written += len(whole)
            if self._written > self._share:
                self._written = 0
                self._make_room()
        except OSError as error:
            log.warning("renditions cannot be kept for a while: %s", error)
            self._resting_until = time.monotonic() + _REST_SECONDS
        finally:
            with self._lock:
                self._pending -= len(data)

    def _make_room(self) -> None:
        """Remove those read longest ago until there is room for what all workers may write before they look again."""
        found = sorted(self._files())
        surplus = sum(size for _, size, _ in found) - (self._max_bytes - self._max_bytes // 8)
        now = time.time()
        for mtime, size, path in found:
            is_left_over = path.startswith(".", path.rfind("/") + 1)
            if is_left_over and now - mtime < _STALE_SECONDS:
                continue
            if surplus <= 0 and not is_left_over:
                continue
            with suppress(FileNotFoundError):  # another worker was quicker
                os.unlink(path)
            surplus -= size

    def _files(self) -> Iterator[tuple[float, int, str]]:
        with os.scandir(self._folder) as folders:
            for folder in folders:
                with suppress(NotADirectoryError, FileNotFoundError), os.scandir(folder) as files:
                    for file in files:
                        with suppress(FileNotFoundError):
                            status = file.stat(follow_symlinks=False)
                            yield status.st_mtime, status.st_size, file.path


def _read_now(fd: int, size: int) -> bytes:
    """The first `size` bytes of a file where they are in memory, else BlockingIOError."""
    buffer = bytearray(size)
    try:
        got = os.preadv(fd, (buffer,), 0, os.RWF_NOWAIT)
    except (AttributeError, OSError):  # also of a system or a file system that cannot tell
        raise BlockingIOError from None
    if got != size:
        raise BlockingIOError
    return bytes(buffer)


def _digest(name: str) -> bytes:
    return hashlib.blake2b(name.encode(), digest_size=_NAME_BYTES).digest()
