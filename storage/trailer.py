"""What is added after the received file, so that it is a zarr shard too and says what it is.

::

    [the file as received]
    [(FFFC,FFFC) Data Set Trailing Padding: 8 bytes in implicit VR, else 12]
    [magic 8][layout version u16][length of the JSON u32][JSON, padded with spaces]     little endian
    [offset u64, nbytes u64 of each chunk][crc32c of these u32]                         little endian

The value of the padding element is all that follows it, so DICOM readers skip it (PS3.10 7.2); the index is the very
end, where zarr's ``sharding_indexed`` codec looks for it.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import TYPE_CHECKING, Any

import google_crc32c
import numpy as np
import orjson

from readingroom.errors import Invalid
from storage.arrays import Chunk, Chunks

if TYPE_CHECKING:
    from storage.objects import Scan

ReadAt = Callable[[int, int], bytes]
"""Reads ``(offset, length)`` of a stored object: an ``os.pread``, a ranged GET."""

LAYOUT_VERSION = 1

_MAGIC = b"\x89RRoom\r\n"
_FIXED = struct.Struct("<8sHI")
_CHECK = struct.Struct("<I")
_ENTRY = struct.Struct("<QQ")
_FIRST_LOOK = 4096


@dataclass(frozen=True, slots=True, kw_only=True)
class Description:
    """What a stored object says of itself, so that a store without its database can be read by anyone."""

    size: int
    sha256: str
    owner_facility: str
    source: str
    received_at: datetime
    version: int
    extras: Mapping[str, str] = field(default_factory=dict)


def make_trailer(scan: Scan, description: Description) -> bytes:
    """The bytes that make the file that was scanned a shard; nothing for an opaque object."""
    if scan.spec is None:
        return b""
    chunks = scan.chunks if isinstance(scan.chunks, Chunks) else Chunks.of(scan.chunks)
    index = chunks.index_bytes()
    text = orjson.dumps(
        {
            "size": description.size,
            "sha256": description.sha256,
            "owner_facility": description.owner_facility,
            "source": description.source,
            "received_at": description.received_at.isoformat(),
            "version": description.version,
            "extras": dict(description.extras),
        }
    )
    text += b" " * (len(text) % 2)
    value = b"".join((_FIXED.pack(_MAGIC, LAYOUT_VERSION, len(text)), text, index, _CHECK.pack(_crc32c(index))))
    order = ">" if scan.big_endian else "<"
    if scan.implicit_vr:
        return struct.pack(f"{order}HHI", 0xFFFC, 0xFFFC, len(value)) + value
    return struct.pack(f"{order}HH2sHI", 0xFFFC, 0xFFFC, b"OB", 0, len(value)) + value


def read_description(read_at: ReadAt, total_size: int) -> Description:
    """What a stored object with a trailer says of itself.

    Looks for it from the end, in ever longer reads: the index lies behind it, and its length is nowhere written down.

    Raises
    ------
    Invalid
        There is no whole trailer: the object is opaque, or was cut short.
    """
    reach = min(_FIRST_LOOK, total_size)
    while True:
        tail = read_at(total_size - reach, reach)
        at = tail.rfind(_MAGIC)
        while at >= 0:
            found = _description_at(tail, at, total_size - reach, total_size)
            if found is not None:
                return found
            at = tail.rfind(_MAGIC, 0, at)
        if reach == total_size:
            raise Invalid(f"the object of {total_size} bytes has no trailer that describes it")
        reach = min(reach * 4, total_size)


def _description_at(tail: bytes, at: int, tail_at: int, total_size: int) -> Description | None:
    """The description whose magic lies at `at`, if everything around it agrees that it is one."""
    if at + _FIXED.size > len(tail):
        return None
    _, layout, length = _FIXED.unpack_from(tail, at)
    value_at = tail_at + at
    if layout != LAYOUT_VERSION or (total_size - value_at - _FIXED.size - length - _CHECK.size) % _ENTRY.size:
        return None
    try:
        told: dict[str, Any] = orjson.loads(tail[at + _FIXED.size : at + _FIXED.size + length])
        description = Description(**{**told, "received_at": datetime.fromisoformat(told["received_at"])})
    except (ValueError, KeyError, TypeError):
        return None
    return description if value_at - description.size in (8, 12) else None


def original_size(read_at: ReadAt, total_size: int) -> int:
    """How many bytes at the start of a stored object with a trailer are the file as it was received."""
    return read_description(read_at, total_size).size


def frame_chunk(read_at: ReadAt, total_size: int, count: int, index: int) -> Chunk:
    """Offset and length of one of `count` chunks, at the cost of reading 16 bytes.

    `index` counts from 0.
    """
    if not 0 <= index < count:
        raise IndexError(f"chunk {index} of {count}")
    offset, length = _ENTRY.unpack(read_at(total_size - _CHECK.size - _ENTRY.size * (count - index), _ENTRY.size))
    return offset, length


def read_index(read_at: ReadAt, total_size: int, count: int) -> Chunks:
    """Offset and length of all `count` chunks.

    Raises
    ------
    Invalid
        The checksum is not that of the index: bytes were changed, or there are not `count` chunks.
    """
    size = _ENTRY.size * count
    raw = read_at(total_size - _CHECK.size - size, size + _CHECK.size)
    if len(raw) != size + _CHECK.size or _CHECK.unpack_from(raw, size)[0] != _crc32c(raw[:size]):
        raise Invalid(f"the shard index of {count} chunks at the end of {total_size} bytes fails its checksum")
    return Chunks(np.frombuffer(raw, "<u8", count * 2).reshape(-1, 2))


def _crc32c(data: bytes) -> int:
    return int(google_crc32c.value(data))
