"""The stored object that is at once the received DICOM Part 10 file and a zarr v3 shard.

::

    [the file exactly as received][(FFFC,FFFC) Data Set Trailing Padding][description][shard index]
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from readingroom.errors import NotFound
from storage.arrays import ArraySpec, Chunks, frame_payload
from storage.dicomjson import (
    BASE_URL_MARK,
    BIG,
    DEFAULT_LIMITS,
    Buffer,
    Limits,
    MetadataJson,
    Unsure,
    Walk,
    dump,
    first_value,
    name_bulk,
)
from storage.frames import Opaque, find_frames
from storage.lenient import read_leniently
from storage.nonpatient import category_of
from storage.part10 import Front, check_uid, inflate, read_front
from storage.trailer import (
    Description,
    frame_chunk,
    make_trailer,
    original_size,
    read_description,
    read_index,
)

__all__ = [
    "BASE_URL_MARK",
    "ArraySpec",
    "Description",
    "Limits",
    "MetadataJson",
    "Scan",
    "dump",
    "find_bulk",
    "frame_chunk",
    "frame_payload",
    "inflate",
    "make_trailer",
    "original_size",
    "read_description",
    "read_index",
    "scan",
]


@dataclass(frozen=True, slots=True, kw_only=True)
class Scan:
    """What one pass over a Part 10 file found.

    Attributes
    ----------
    metadata
        The data set in the DICOM JSON model, equal to pydicom's where pydicom is right; bulk values are
        ``BulkDataURI`` below `BASE_URL_MARK`. Without group 2, group lengths and trailing padding.
    spec
        How the frames lie in a zarr array, or ``None`` for an opaque object.
    chunks
        ``(offset, length)`` of each zarr chunk in the file: one a frame, or one alone for ``bits``.
    opaque_reason
        Why the object has no chunks; empty where `spec` is given.
    implicit_vr, big_endian
        How the data set is really encoded, and so must be what is added to it.
    category
        Of an instance that belongs to no patient (`storage.nonpatient`); empty for one of a study.
    """

    transfer_syntax: str
    file_meta: MetadataJson
    metadata: MetadataJson
    spec: ArraySpec | None
    chunks: Sequence[tuple[int, int]]
    opaque_reason: str
    size: int
    implicit_vr: bool = False
    big_endian: bool = False
    category: str = ""


def scan(data: Buffer, limits: Limits = DEFAULT_LIMITS) -> Scan:
    """Read a received file once: its metadata, and where its frames are.

    Pixel data is neither copied nor looked at, so a file of any size may come as an ``mmap``. A file that pydicom can
    read is never refused: what cannot be addressed makes an opaque object.

    Raises
    ------
    NotDicom
        It is no Part 10 file, cannot be read, or lacks the UIDs of its SOP class, study, series or instance.
    TooLarge
        It is past `limits`.
    """
    front = read_front(data, limits)
    if front.is_deflated:
        inner = scan(inflate(data, limits), limits)
        return replace(
            inner,
            transfer_syntax=front.transfer_syntax,
            file_meta=front.file_meta,
            spec=None,
            chunks=(),
            opaque_reason="the data set is deflated",
            size=len(data),
        )
    metadata, walk, reason = read_data_set(data, front, limits)
    category = category_of(metadata)
    name_bulk(walk.bulk, _instance_path(metadata, category))
    spec, chunks = None, Chunks.of(())
    if not reason:
        try:
            spec, chunks = find_frames(data, front.transfer_syntax, metadata, walk.pixels, limits)
        except Opaque as opaque:
            reason = str(opaque)
    if category:
        spec, chunks, reason = None, Chunks.of(()), reason or "it belongs to no patient"
    return Scan(
        transfer_syntax=front.transfer_syntax,
        file_meta=front.file_meta,
        metadata=metadata,
        spec=spec,
        chunks=chunks,
        opaque_reason=reason,
        size=len(data),
        implicit_vr=front.implicit,
        big_endian=front.order is BIG,
        category=category,
    )


def _instance_path(metadata: MetadataJson, category: str) -> str:
    """Where an instance is, below the service root; raises `NotDicom` where a UID is missing or is none."""

    def uid(name: str, key: str) -> str:
        return check_uid(f"{name} ({key[:4]},{key[4:]})", first_value(metadata, key))

    uid("SOP Class UID", "00080016")
    if category:
        return f"/{category}/{uid('SOP Instance UID', '00080018')}"
    study, series = uid("Study Instance UID", "0020000D"), uid("Series Instance UID", "0020000E")
    return f"/studies/{study}/series/{series}/instances/{uid('SOP Instance UID', '00080018')}"


def read_data_set(data: Buffer, front: Front, limits: Limits) -> tuple[MetadataJson, Walk, str]:
    """The data set as JSON, the walk over it, and what keeps its frames from being addressed."""
    size = len(data)
    walk = Walk(data, limits, front.order)
    try:
        metadata, end = walk.data_set(front.data_set_at, size, front.implicit)
    except Unsure as unsure:
        walk = Walk(data, limits, front.order)
        return read_leniently(walk, front.data_set_at, front.implicit), walk, str(unsure)
    if not walk.trouble and end != size:
        return metadata, walk, f"{size - end} bytes after the end of the data set"
    return metadata, walk, walk.trouble


def find_bulk(data: Buffer, path: str, limits: Limits = DEFAULT_LIMITS) -> tuple[int, int, str]:
    """Where the value is that a ``BulkDataURI`` names: offset and length in `data`, and its VR.

    Parameters
    ----------
    data
        The file as it was received, or `inflate` of it where its data set is deflated.
    path
        What follows ``/bulkdata/`` in the URI: tags in hex with 1-based item numbers between them.

    Raises
    ------
    NotFound
        The object has no such value.
    """
    _, walk, _ = read_data_set(data, read_front(data, limits), limits)
    for value in walk.bulk:
        if value.path == path:
            return value.offset, value.length, value.element["vr"]
    raise NotFound(f"no bulk value at {path[:200]!r} in this object")
