"""What lies on a disk to be imported: DICOM objects in folders, zip files and behind a DICOMDIR (PS3.10, PS3.3 F)."""

from __future__ import annotations

import os
import stat
import tempfile
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import pydicom

from readingroom.errors import Invalid, NotFound, ReadingRoomError, TooLarge

_DICOMDIR_CLASS = b"1.2.840.10008.1.3.10"
_HEAD = 1024  # holds the preamble and the file meta information's first elements
_CHUNK = 1 << 20
_IN_MEMORY = 32 << 20  # a larger member of an archive is unpacked to a file
_DICOMDIR_BYTES = 256 << 20

# An archive may unfold to this much, and beyond it to so many times its own size. CT slices shrink to a half or a
# third; only blank ones shrink a thousandfold, as bombs do.
_FREE_EXPANSION = 1 << 30
_RATIO = 200


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidate:
    """An object to be stored.

    Attributes
    ----------
    name
        What a person calls it: its path, or ``archive.zip!member``.
    weight
        The bytes of disk that were read for it, for a progress bar.
    held_bytes
        What it holds in memory or in a temporary file until it is stored.
    """

    name: str
    body: Path | bytes
    weight: int
    held_bytes: int = 0

    def discard(self) -> None:
        """Let go of what it holds."""
        if self.held_bytes and isinstance(self.body, Path):
            self.body.unlink(missing_ok=True)


@dataclass(frozen=True, slots=True, kw_only=True)
class Skipped:
    """A file in a folder or an archive that is no DICOM object and does not claim to be one."""

    name: str
    weight: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Unreadable:
    """Something that was to be read and cannot be, and why."""

    name: str
    reason: str
    weight: int


Found = Candidate | Skipped | Unreadable


def measure(paths: Sequence[Path]) -> int:
    """Bytes that `find` will go through; the sum of the weights of what it finds comes near it.

    Raises
    ------
    NotFound
        One of the paths does not exist: better said before the first object is stored than after the last.
    """
    for path in paths:
        if not path.exists():
            raise NotFound(f"There is no file or folder {path}.")
    return sum(_size(file) for path in paths for file in ([path] if path.is_file() else _files(path)))


def find(paths: Sequence[Path], spool: Path, *, max_bytes: int) -> Iterator[Found]:
    """Everything below `paths`, in a stable order.

    A file that is named itself is always a candidate; one found in a folder or an archive only if it is DICOM, or
    looks like a DICOM data set that lost its preamble. Links to folders are not followed.

    Parameters
    ----------
    spool
        Folder for large members of archives.
    max_bytes
        Largest member of an archive that is unpacked.
    """
    for path in paths:
        if path.is_dir():
            for file in _files(path):
                yield from _look(file, spool, max_bytes, is_named=False)
        else:
            yield from _look(path, spool, max_bytes, is_named=True)


def _files(folder: Path) -> Iterator[Path]:
    for parent, folders, names in os.walk(folder):
        folders.sort()
        for name in sorted(names):
            yield Path(parent, name)


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return 0


def _look(path: Path, spool: Path, max_bytes: int, *, is_named: bool) -> Iterator[Found]:
    name, weight = str(path), _size(path)
    try:
        if not stat.S_ISREG(path.stat().st_mode):
            yield Skipped(name=name, weight=0)
            return
        with path.open("rb") as file:
            head = file.read(_HEAD)
    except OSError as error:
        yield Unreadable(name=name, reason=f"It cannot be read: {error.strerror}.", weight=weight)
        return
    if head.startswith(b"PK\x03\x04"):
        yield from _unpack(path, spool, max_bytes)
    elif is_named and _is_dicomdir(head):
        yield from _follow(path)
    elif is_named or (_is_dicom(head) and not _is_dicomdir(head)):
        yield Candidate(name=name, body=path, weight=weight)
    else:
        yield Skipped(name=name, weight=weight)


def _is_dicom(head: bytes) -> bool:
    """Part 10, or a data set without preamble: its first element is of group 0002 or 0008 and has a VR or a length."""
    if head[128:132] == b"DICM":
        return True
    if len(head) < 8 or head[0:2] not in (b"\x02\x00", b"\x08\x00") or head[3] != 0:
        return False
    return (head[4:6].isalpha() and head[4:6].isupper()) or int.from_bytes(head[4:8], "little") <= 64


def _is_dicomdir(head: bytes) -> bool:
    return head[128:132] == b"DICM" and _DICOMDIR_CLASS in head[132:]


def _unpack(path: Path, spool: Path, max_bytes: int) -> Iterator[Found]:
    budget = _FREE_EXPANSION + _RATIO * path.stat().st_size
    try:
        with zipfile.ZipFile(path) as archive:
            for member in archive.infolist():
                if member.is_dir():
                    continue
                found = _unpack_member(archive, member, f"{path}!{member.filename}", spool, min(max_bytes, budget))
                if isinstance(found, Candidate):
                    budget -= member.file_size
                yield found
    except (zipfile.BadZipFile, OSError, ValueError) as error:
        yield Unreadable(name=str(path), reason=f"It is no readable zip file: {error}.", weight=0)


def _unpack_member(archive: zipfile.ZipFile, member: zipfile.ZipInfo, name: str, spool: Path, max_bytes: int) -> Found:
    weight = member.compress_size
    try:
        with archive.open(member) as source:  # yields no more than `file_size`, whatever the stream holds
            head = source.read(_HEAD)
            if head.startswith(b"PK\x03\x04"):
                raise Invalid("An archive within an archive is not opened: unpack it first.")
            if not _is_dicom(head) or _is_dicomdir(head):
                return Skipped(name=name, weight=weight)
            if member.file_size > max_bytes:
                raise TooLarge(
                    f"It unpacks to {member.file_size:,} bytes; {max_bytes:,} are left for this archive "
                    f"({_RATIO} times its size, and no member above max_object_bytes)."
                )
            if member.file_size <= _IN_MEMORY:
                body: Path | bytes = head + source.read()
            else:
                body = _spool(head, source, spool)
    except ReadingRoomError as error:
        return Unreadable(name=name, reason=error.message, weight=weight)
    except (zipfile.BadZipFile, zlib.error, EOFError, OSError) as error:
        return Unreadable(name=name, reason=f"The archive is damaged here: {error}.", weight=weight)
    except (RuntimeError, NotImplementedError) as error:  # encrypted, or packed by a method that zipfile lacks
        return Unreadable(name=name, reason=f"It cannot be unpacked: {error}.", weight=weight)
    return Candidate(name=name, body=body, weight=weight, held_bytes=member.file_size)


def _spool(head: bytes, source: IO[bytes], spool: Path) -> Path:
    descriptor, name = tempfile.mkstemp(dir=spool, suffix=".dcm")
    path = Path(name)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(head)
            while chunk := source.read(_CHUNK):
                file.write(chunk)
    except BaseException:
        path.unlink()
        raise
    return path


def _follow(path: Path) -> Iterator[Found]:
    """The files that a DICOMDIR names, never one outside its own folder (PS3.3 F.3.2.2, PS3.10 8)."""
    root = path.resolve().parent
    try:
        if path.stat().st_size > _DICOMDIR_BYTES:
            raise TooLarge(f"A DICOMDIR above {_DICOMDIR_BYTES:,} bytes is not read.")
        named = _referenced(path)
    except ReadingRoomError as error:
        yield Unreadable(name=str(path), reason=error.message, weight=0)
        return
    for components in named:
        name = f"{path}!{'/'.join(components)}"
        try:
            file = _resolve(root, components)
        except ReadingRoomError as error:
            yield Unreadable(name=name, reason=error.message, weight=0)
        else:
            yield Candidate(name=name, body=file, weight=_size(file))


def _referenced(path: Path) -> list[list[str]]:
    """Referenced File ID (0004,1500) of every directory record that is in use, as its components."""
    try:
        records = pydicom.dcmread(path).DirectoryRecordSequence
        return [
            [str(part) for part in ([value] if isinstance(value, str) else value)]
            for record in records
            if (value := record.get("ReferencedFileID")) and record.get("RecordInUseFlag", 0xFFFF) != 0
        ]
    except (pydicom.errors.InvalidDicomError, OSError, ValueError, TypeError, KeyError, EOFError) as error:
        raise Invalid(f"It is no readable DICOMDIR: {error}.") from error
    except (RecursionError, NotImplementedError, AttributeError, MemoryError) as error:
        raise Invalid("It is no readable DICOMDIR: it has no directory records, or broken ones.") from error


def _resolve(root: Path, components: Sequence[str]) -> Path:
    """The file, found whatever the case of its name: ISO 9660 knows capitals only, and mounts show small letters."""
    place = root
    for part in components:
        if part in ("", ".", "..") or "/" in part or "\0" in part:
            raise Invalid("Its File ID leads out of the folder of the DICOMDIR.")
        exact = place / part
        place = exact if exact.exists() else _in_any_case(place, part)
    if not place.resolve().is_relative_to(root):
        raise Invalid("Its File ID leads out of the folder of the DICOMDIR.")
    if not place.is_file():
        raise NotFound("The DICOMDIR names it, but there is no such file.")
    return place


def _in_any_case(folder: Path, name: str) -> Path:
    wanted = (name.casefold(), f"{name.casefold()};1")
    try:
        return next(entry for entry in sorted(folder.iterdir()) if entry.name.casefold() in wanted)
    except (StopIteration, OSError):
        raise NotFound("The DICOMDIR names it, but there is no such file.") from None
