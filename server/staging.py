"""What happens to an object before its commit: it is written beside the store, on its way to the disk, and known."""

from __future__ import annotations

import hashlib
import mmap
import os
import zlib
from collections.abc import Iterator, Sequence
from concurrent.futures import Executor, Future
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import orjson

from readingroom.errors import Invalid, NotDicom, NotThisStudy, ReadingRoomError, TooLarge
from storage import opaque
from storage.blobs import meaning_of
from storage.catalog.schema import new_id
from storage.catalog.studies import Identity, Result
from storage.nonpatient import CATEGORIES
from storage.objects import Description, MetadataJson, Scan, dump, make_trailer, scan

Body = bytes | bytearray | memoryview

_IN_MEMORY = 8 << 20
_COPY = 1 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class SentTo:
    """Where an object was sent to be stored: to the studies or one of them, or to what belongs to no patient."""

    study_uid: str | None = None
    category: str = ""
    instance_uid: str | None = None

    def check(self, known: Identity) -> None:
        """Raise `NotThisStudy` where the object does not belong there."""
        category, uid = known["category"], known["instance_uid"]
        if self.category and category != self.category:
            where = f"/{category}" if category else "/studies"
            raise NotThisStudy(f"Instance {uid} is no {CATEGORIES[self.category].title}; send it to {where}.")
        if category and not self.category:
            raise NotThisStudy(f"Instance {uid} is one of the {CATEGORIES[category].plural}; send it to /{category}.")
        if self.study_uid is not None and known["study_uid"] != self.study_uid:
            raise NotThisStudy(f"The object is of study {known['study_uid']}, and was sent to {self.study_uid}.")
        if self.instance_uid is not None and uid != self.instance_uid:
            raise NotThisStudy(f"The object is instance {uid}, and was sent to {self.instance_uid}.")


@dataclass(frozen=True, slots=True, kw_only=True)
class Ready:
    """A staged instance: written, in no slot and in no table yet.

    `syncs` are done when it is safe on the disk, which it has to be before its row is. `unseen` names the plugins that
    should have looked at it and failed, with their reasons.
    """

    study_uid: str
    series_uid: str
    instance_uid: str
    sop_class: str
    scan: Scan
    description: Description
    metadata_zlib: bytes
    path: Path
    object_bytes: int
    zarr_json: Path | None
    category: str
    syncs: tuple[Future[None], ...] = ()
    unseen: tuple[tuple[str, str], ...] = ()

    def wait(self) -> ReadingRoomError | None:
        """Wait until it is safe on the disk; gives the reason where it does not come to that."""
        try:
            for sync in self.syncs:
                sync.result()
        except OSError as error:
            return meaning_of(error)
        return None


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What became of one object sent; either `result` or `error`. UIDs are None where they could not be read.

    `category` is that of what belongs to no patient; the UIDs of its study and series are empty.

    `original_attributes` tells what is shown otherwise than it came: items of the Original Attributes Sequence (PS3.3
    C.12.1.1.9).
    """

    study_uid: str | None = None
    series_uid: str | None = None
    instance_uid: str | None = None
    sop_class: str | None = None
    result: Result | None = None
    error: ReadingRoomError | None = None
    original_attributes: Sequence[MetadataJson] = ()
    category: str = ""


class Spool:
    """A body that is too large for memory, written to the writer's folder as it arrives and hashed on the way."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.size = 0
        self._hash = hashlib.sha256()
        self._fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644)

    @classmethod
    def open(cls, folder: Path) -> Spool:
        """A new one in a writer's folder; raises `OutOfSpace` where the disk is full."""
        with disk_errors():
            return cls(folder / new_id())

    def write(self, data: Body) -> None:
        """Append; raises `OutOfSpace` where the disk is full."""
        self._hash.update(data)
        with disk_errors():
            _write_all(self._fd, [data])
        self.size += len(data)

    def read(self, offset: int, length: int) -> bytes:
        """Bytes that were written; for any thread."""
        return os.pread(self._fd, length, offset)

    @property
    def sha256(self) -> bytes:
        return self._hash.digest()

    def finish(self, trailer: bytes) -> None:
        """Append the trailer and wait for the disk."""
        if trailer:
            _write_all(self._fd, [trailer])
        _sync(self._fd)
        self.close()

    def close(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def discard(self) -> None:
        self.close()
        with suppress(FileNotFoundError):
            self.path.unlink()


def write_ready(
    folder: Path, body: Body | Spool, found: Scan, known: Identity, told: Description, syncing: Executor
) -> Ready:
    """Write an object, with its trailer or its ``zarr.json``; a `Spool` is taken over.

    A spool is on the disk when this returns; smaller ones are on their way, synced by `syncing`: the name that the
    commit gives an object goes to the disk at the same time as its bytes, and both together wait once instead of twice.

    Raises `OutOfSpace` or `Unavailable`; then only the spool is left, for its owner to discard.
    """
    trailer = make_trailer(found, told) if found.spec else b""
    zarr_json, syncs = None, []
    with disk_errors():
        if not found.spec:
            zarr_json, sync = _write(folder, [orjson.dumps(opaque.zarr_json(found, told))], syncing)
            syncs.append(sync)
        try:
            if isinstance(body, Spool):
                path = body.path
                body.finish(trailer)
            else:
                path, sync = _write(folder, [body, trailer], syncing)
                syncs.append(sync)
        except BaseException:
            if zarr_json is not None:
                zarr_json.unlink(missing_ok=True)
            raise
    return Ready(
        **known,
        scan=found,
        description=told,
        metadata_zlib=zlib.compress(dump(found.metadata), 1),
        path=path,
        object_bytes=found.size + len(trailer),
        zarr_json=zarr_json,
        syncs=tuple(syncs),
    )


def discard(ready: Ready) -> None:
    """Remove what was staged and will not be committed."""
    for path in (ready.path, ready.zarr_json):
        if path is not None:
            path.unlink(missing_ok=True)


def take_file(path: Path, folder: Path, max_bytes: int) -> bytes | Spool:
    """The bytes of somebody's file: in memory where small, else copied to a spool.

    Raises `Invalid` where it cannot be read, `TooLarge` past `max_bytes`, and what a `Spool` raises.
    """
    with _reading():
        size = path.stat().st_size
        if size <= min(_IN_MEMORY, max_bytes):
            return path.read_bytes()
    if size > max_bytes:
        raise TooLarge(f"The file has {size} bytes; at most {max_bytes} are taken.")
    spool = Spool.open(folder)
    try:
        with _reading(), path.open("rb") as file:
            while piece := file.read(_COPY):
                with disk_errors():
                    spool.write(piece)
    except BaseException:
        spool.discard()
        raise
    return spool


def scan_file(path: Path) -> Scan:
    """Scan a file through a map: only the pages that the scan touches are read."""
    with path.open("rb") as file:
        try:
            mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        except ValueError:
            raise NotDicom("The object is empty.") from None
        with mapped:
            return scan(mapped)


def _write(folder: Path, pieces: list[Body], syncing: Executor) -> tuple[Path, Future[None]]:
    """Write a file; the future is done when it is on the disk."""
    path = folder / new_id()
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644)
    try:
        _write_all(fd, pieces)
        return path, syncing.submit(_sync_and_close, fd)
    except BaseException:
        os.close(fd)
        with suppress(OSError):
            os.unlink(path)
        raise


def _sync_and_close(fd: int) -> None:
    try:
        _sync(fd)
    finally:
        os.close(fd)


def _write_all(fd: int, pieces: Sequence[Body]) -> None:
    left = [memoryview(piece) for piece in pieces if len(piece)]
    while left:
        written = os.writev(fd, left)
        while left and written >= len(left[0]):
            written -= len(left.pop(0))
        if written:
            left[0] = left[0][written:]


def _sync(fd: int) -> None:
    os.fdatasync(fd)


@contextmanager
def _reading() -> Iterator[None]:
    """For somebody else's file: that it cannot be read is no trouble of the store."""
    try:
        yield
    except OSError as error:
        raise Invalid(f"It cannot be read: {error.strerror or error}.") from None


@contextmanager
def disk_errors() -> Iterator[None]:
    """A failed write as this project's error."""
    try:
        yield
    except OSError as error:
        raise meaning_of(error) from error
