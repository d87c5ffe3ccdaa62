"""Writes a study's files into a folder or a zip file, and checks each against its sha256."""

from __future__ import annotations

import hashlib
import zipfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from mmap import ACCESS_READ, mmap
from pathlib import Path
from typing import IO

import sqlalchemy as sa

from readingroom.errors import Conflict, NotFound, ReadingRoomError
from readingroom.model import Scope
from storage.blobs import Blobs
from storage.catalog.find import StoredInstance, find_series, find_study, list_instances, read_overlay
from storage.dicomjson import Buffer
from storage.rewrite import rewrite

_CHUNK = 4 << 20


class Damaged(ReadingRoomError):
    """A stored object is not what was received."""


OpenFile = Callable[[str], AbstractContextManager[IO[bytes]]]
"""Opens a new file by its relative name; it counts when it was closed without an error."""


def choose_instances(
    connection: sa.Connection, scope: Scope, study_uid: str, series_uid: str | None
) -> Sequence[StoredInstance]:
    """The current instances of a study, or of one series in it; raises as `find_study` does."""
    if series_uid is None:
        return list_instances(connection, find_study(connection, scope, study_uid))
    return list_instances(connection, find_series(connection, scope, study_uid, series_uid))


def export(
    engine: sa.Engine,
    blobs: Blobs,
    instances: Sequence[StoredInstance],
    target: Path,
    advance: Callable[[int], None],
    *,
    original: bool = False,
) -> None:
    """Write the instances as ``<series uid>/<instance uid>.dcm`` below `target`, a folder or a new ``.zip`` file.

    Parameters
    ----------
    advance
        Told the bytes that were read of each object.
    original
        Write what was received of an instance that has been corrected, too; else that one is written as it was
        corrected, its pixels as they are.

    Raises
    ------
    Conflict
        A file is there already; nothing is ever overwritten.
    Damaged
        An object does not have the sha256 it came with. The file is not written; run ``readingroom scrub``.
    """
    with _zip_file(target) if target.suffix.lower() == ".zip" else _folder(target) as open_file:
        for instance in instances:
            with open_file(f"{instance.series_uid}/{instance.instance_uid}.dcm") as file:
                if original or not instance.overlay_version:
                    for chunk in _checked(blobs, instance, advance):
                        file.write(chunk)
                    continue
                for _ in _checked(blobs, instance, advance):
                    pass  # all of it is good, so what is made of it is
                with engine.connect() as connection:
                    overlay = read_overlay(connection, instance)
                for piece in rewrite(received_file(blobs, instance), overlay=overlay):
                    file.write(piece)


def _checked(blobs: Blobs, instance: StoredInstance, advance: Callable[[int], None]) -> Iterator[bytes | bytearray]:
    """The file as it was received, in pieces; raises `Damaged` after the last one."""
    digest = hashlib.sha256()
    for chunk in read_received(blobs, instance.object_key, instance.size_bytes):
        digest.update(chunk)
        yield chunk
        advance(len(chunk))
    if digest.digest() != instance.sha256:
        raise Damaged(
            f"Instance {instance.instance_uid} is stored with another sha256 than it came with; "
            "it is not exported. Run 'readingroom scrub' to see what is damaged."
        )


def received_file(blobs: Blobs, instance: StoredInstance) -> Buffer:
    """The file as it was received: mapped where it lies on this machine, else read; not for the event loop."""
    path = blobs.local_path(instance.object_key)
    if path is None:
        return blobs.read_range(instance.object_key, 0, instance.size_bytes)
    try:
        with path.open("rb") as file:
            # Closed when the last view of it is gone: pieces of it may still be held.
            return mmap(file.fileno(), instance.size_bytes, access=ACCESS_READ)
    except FileNotFoundError:
        raise NotFound(f"The store has no object {instance.object_key}.") from None


def read_received(blobs: Blobs, key: str, size: int) -> Iterator[bytes | bytearray]:
    """The first `size` bytes of an object, which are the file as it was received, in pieces."""
    for offset in range(0, size, _CHUNK):
        yield blobs.read_range(key, offset, min(_CHUNK, size - offset))


@contextmanager
def _folder(root: Path) -> Iterator[OpenFile]:
    if root.exists() and not root.is_dir():
        raise Conflict(f"{root} is a file; name a folder, or a new file that ends in .zip.")
    yield lambda name: _new_file(root / name)


@contextmanager
def _zip_file(path: Path) -> Iterator[OpenFile]:
    # Pixels hardly shrink, and what is stored plainly can be read from the middle.
    with _new_file(path) as file, zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as archive:
        yield lambda name: archive.open(name, "w", force_zip64=True)


@contextmanager
def _new_file(path: Path) -> Iterator[IO[bytes]]:
    """A file that appears under its name only when it is whole."""
    if path.exists():
        raise Conflict(f"{path} exists already, and export overwrites nothing; name a new place.")
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f"{path.name}.part")
    try:
        with part.open("wb") as file:
            yield file
        part.rename(path)
    finally:
        part.unlink(missing_ok=True)
