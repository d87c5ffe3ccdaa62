"""Where stored objects lie: a local folder or an S3 bucket, behind one small interface.

Keys are relative paths with ``/``. An object is published once under its key and never changes; only the small
``zarr.json`` files and side records are rewritten, each atomically.
"""

from __future__ import annotations

import errno
import filecmp
import hashlib
import os
import tempfile
import threading
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol
from urllib.parse import urlsplit

import obstore
from obstore.exceptions import AlreadyExistsError, BaseError, NotFoundError
from obstore.store import S3Store

from readingroom.errors import Conflict, NotFound, OutOfSpace, Unavailable

Bytes = bytes | bytearray

_CONDITIONAL_PUT_LIMIT = 16 << 20  # obstore would hold a larger body whole; the slot makes the key unique anyway


@dataclass(frozen=True, slots=True, kw_only=True)
class Staged:
    """A finished local file that waits to be published under `key`; whoever has written it sees that it is synced."""

    path: Path
    key: str
    size_bytes: int


class Blobs(Protocol):
    """What every place for objects can do."""

    def publish(self, staged: Sequence[Staged]) -> None:
        """Make the staged files durable under their keys; when it returns they outlive a power cut.

        The staged files are gone afterwards. Raises `Conflict` where a key holds other bytes and `OutOfSpace` where
        the place is full; then none of `staged` may be counted on.
        """

    def put(self, key: str, data: bytes, *, durable: bool = True) -> None:
        """Write a small object, replacing the old one atomically; `durable` also waits for the disk."""

    def read_range(self, key: str, offset: int, length: int) -> Bytes:
        """Bytes ``offset..offset+length`` (fewer at the end); raises `NotFound` where there is no such object."""

    def try_read_range(self, key: str, offset: int, length: int) -> Bytes | None:
        """The same where it needs no waiting (page cache), else None: for the event loop."""

    def read(self, key: str) -> bytes:
        """A whole (small) object; raises `NotFound`."""

    def size(self, key: str) -> int:
        """Its length in bytes; raises `NotFound`."""

    def keys(self, prefix: str = "") -> Iterator[str]:
        """All keys that begin with `prefix`, in no particular order."""

    def delete(self, key: str) -> None:
        """Remove an object; no error where it is gone already."""

    def local_path(self, key: str) -> Path | None:
        """The file itself where there is one, for readers that map it."""

    def close(self) -> None:
        """Let go of open files and connections."""


def open_blobs(
    data_folder: Path,
    store: str | None = None,
    *,
    endpoint: str | None = None,
    region: str = "us-east-1",
    access_key: str | None = None,
    secret_key: str | None = None,
) -> Blobs:
    """The place that `store` names: ``s3://bucket/prefix``, or the folder ``store`` in the data folder."""
    if store is None:
        return LocalBlobs(data_folder / "store")
    url = urlsplit(store)
    if url.scheme != "s3" or not url.netloc:
        raise ValueError(f"The store {store!r} is neither empty nor an s3://bucket/prefix address.")
    options: dict[str, object] = {"region": region}
    if endpoint:
        options |= {"endpoint": endpoint, "virtual_hosted_style_request": False}
    if access_key and secret_key:
        options |= {"access_key_id": access_key, "secret_access_key": secret_key}
    client_options = {"allow_http": True} if endpoint and endpoint.startswith("http://") else {}
    prefix = url.path.strip("/")
    return S3Blobs(S3Store(url.netloc, prefix=prefix or None, client_options=client_options, **options))  # type: ignore[arg-type]


def meaning_of(error: OSError) -> OutOfSpace | Unavailable:
    """The readingroom error behind a failed write."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        return OutOfSpace("The store is full; free space or move the data folder, then send again.")
    return Unavailable(f"The store could not be written ({errno.errorcode.get(error.errno or 0, 'unknown')}).")


def sync_folder(path: Path | str) -> None:
    """Make the names in a folder durable."""
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


class _OpenFile:
    """A descriptor that closes with its last user: a reader on another thread keeps it alive past eviction."""

    __slots__ = ("fd",)

    def __init__(self, path: str) -> None:
        self.fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)

    def __del__(self) -> None:
        with suppress(AttributeError, OSError):
            os.close(self.fd)


class LocalBlobs:
    """A folder on this machine."""

    def __init__(self, root: Path, *, open_files: int = 256) -> None:
        self.root = root.resolve()
        self.root.mkdir(parents=True, exist_ok=True)
        self._root = f"{self.root}/"
        self._open: OrderedDict[str, _OpenFile] = OrderedDict()
        self._open_limit = open_files
        self._lock = threading.Lock()
        self._known_folders: set[str] = {str(self.root)}
        self._nowait = hasattr(os, "RWF_NOWAIT")

    def publish(self, staged: Sequence[Staged]) -> None:
        touched: set[str] = set()
        try:
            for one in staged:
                target = self._root + one.key
                folder = os.path.dirname(target)
                self._make_folder(folder)
                # A slot is given out once; only a catalog older than its store can give one out again.
                if os.path.lexists(target) and not filecmp.cmp(one.path, target, shallow=False):
                    raise Conflict(f"The store already has other bytes under {one.key}.")
                os.rename(one.path, target)
                touched.add(folder)
            for folder in touched:
                sync_folder(folder)
        except OSError as error:
            raise meaning_of(error) from error

    def put(self, key: str, data: bytes, *, durable: bool = True) -> None:
        target = self._root + key
        folder = os.path.dirname(target)
        try:
            self._make_folder(folder)
            fd, temporary = tempfile.mkstemp(dir=folder, prefix=".put-")
            try:
                with os.fdopen(fd, "wb") as file:
                    file.write(data)
                    file.flush()
                    if durable:
                        os.fsync(fd)
                os.replace(temporary, target)
            except BaseException:
                with suppress(OSError):
                    os.unlink(temporary)
                raise
            if durable:
                sync_folder(folder)
        except OSError as error:
            raise meaning_of(error) from error
        with self._lock:
            self._open.pop(key, None)

    def read_range(self, key: str, offset: int, length: int) -> Bytes:
        file = self._file(key)
        data = os.pread(file.fd, length, offset)
        if len(data) == length or not data:
            return data
        pieces = [data]  # one read gives 2 GiB at most
        got = len(data)
        while got < length and (piece := os.pread(file.fd, length - got, offset + got)):
            pieces.append(piece)
            got += len(piece)
        return b"".join(pieces)

    def try_read_range(self, key: str, offset: int, length: int) -> Bytes | None:
        if not self._nowait:
            return None
        buffer = bytearray(length)
        try:
            got = os.preadv(self._file(key).fd, (buffer,), offset, os.RWF_NOWAIT)
        except BlockingIOError:
            return None
        except OSError as error:
            if error.errno not in (errno.EOPNOTSUPP, errno.EINVAL):
                raise
            self._nowait = False  # a file system that cannot tell: read on a thread from now on
            return None
        return buffer if got == length else None

    def read(self, key: str) -> bytes:
        try:
            return (self.root / key).read_bytes()
        except FileNotFoundError:
            raise NotFound(f"The store has no object {key}.") from None

    def size(self, key: str) -> int:
        try:
            return os.stat(self._root + key).st_size
        except FileNotFoundError:
            raise NotFound(f"The store has no object {key}.") from None

    def keys(self, prefix: str = "") -> Iterator[str]:
        start = self.root / prefix.rpartition("/")[0]
        for folder, _, names in os.walk(start):
            for name in names:
                key = os.path.join(folder, name)[len(self._root) :]
                if key.startswith(prefix) and not name.startswith(".put-"):
                    yield key

    def delete(self, key: str) -> None:
        with self._lock:
            self._open.pop(key, None)
        with suppress(FileNotFoundError):
            os.unlink(self._root + key)

    def local_path(self, key: str) -> Path | None:
        return self.root / key

    def close(self) -> None:
        with self._lock:
            self._open.clear()

    def _file(self, key: str) -> _OpenFile:
        with self._lock:
            file = self._open.get(key)
            if file is not None:
                self._open.move_to_end(key)
                return file
        try:
            file = _OpenFile(self._root + key)
        except FileNotFoundError:
            raise NotFound(f"The store has no object {key}.") from None
        with self._lock:
            self._open[key] = file
            if len(self._open) > self._open_limit:
                self._open.popitem(last=False)
        return file

    def _make_folder(self, folder: str) -> None:
        """Make a folder and its parents, each new name durable in the folder above."""
        if folder in self._known_folders:
            return
        parent = os.path.dirname(folder)
        self._make_folder(parent)
        with suppress(FileExistsError):  # made by another worker, which may not have synced it yet
            os.mkdir(folder)
        sync_folder(parent)
        if len(self._known_folders) > 100_000:
            self._known_folders = {str(self.root)}
        self._known_folders.add(folder)


class S3Blobs:
    """A bucket of an S3-compatible service."""

    def __init__(self, store: S3Store, *, threads: int = 8) -> None:
        self._store = store
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="s3")

    def publish(self, staged: Sequence[Staged]) -> None:
        with _s3_errors():
            list(self._pool.map(self._publish_one, staged))

    def _publish_one(self, one: Staged) -> None:
        if one.size_bytes > _CONDITIONAL_PUT_LIMIT:
            with one.path.open("rb") as file:
                obstore.put(self._store, one.key, file, use_multipart=True)
        else:
            data = one.path.read_bytes()
            try:
                obstore.put(self._store, one.key, data, mode="create", use_multipart=False)
            except AlreadyExistsError:
                # A reply that was lost on the way makes our own retry find our own object.
                if hashlib.sha256(self.read(one.key)).digest() != hashlib.sha256(data).digest():
                    raise Conflict(f"The store already has other bytes under {one.key}.") from None
        one.path.unlink(missing_ok=True)

    def put(self, key: str, data: bytes, *, durable: bool = True) -> None:
        with _s3_errors():
            obstore.put(self._store, key, data, use_multipart=False)

    def read_range(self, key: str, offset: int, length: int) -> Bytes:
        if not length:
            return b""
        with _s3_errors(key):
            return bytes(obstore.get_range(self._store, key, start=offset, length=length))

    def try_read_range(self, key: str, offset: int, length: int) -> Bytes | None:
        return None

    def read(self, key: str) -> bytes:
        with _s3_errors(key):
            return bytes(obstore.get(self._store, key).bytes())

    def size(self, key: str) -> int:
        with _s3_errors(key):
            return int(obstore.head(self._store, key)["size"])

    def keys(self, prefix: str = "") -> Iterator[str]:
        folder, _, rest = prefix.rpartition("/")
        with _s3_errors():
            for page in obstore.list(self._store, prefix=folder or None):
                for meta in page:
                    if not rest or meta["path"].startswith(prefix):
                        yield meta["path"]

    def delete(self, key: str) -> None:
        with _s3_errors(), suppress(FileNotFoundError, NotFoundError):
            obstore.delete(self._store, key)

    def local_path(self, key: str) -> Path | None:
        return None

    def close(self) -> None:
        self._pool.shutdown()


class _s3_errors:
    """Turns what obstore raises into this project's errors."""

    def __init__(self, key: str = "") -> None:
        self.key = key

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        if isinstance(error, (FileNotFoundError, NotFoundError)) and self.key:
            raise NotFound(f"The store has no object {self.key}.") from None
        if isinstance(error, BaseError):
            raise Unavailable(f"The object store did not answer as it should ({type(error).__name__}).") from error
