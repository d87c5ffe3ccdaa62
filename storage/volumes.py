"""A series as one volume: its frames in slice order, read as a zarr array or straight into memory.

Nothing is written or moved for it. The array's metadata is computed, and the key of a chunk is looked up in a list of
byte ranges, so slices that arrived in any order come out sorted, and superseded or missing slots never show.
"""

from __future__ import annotations

import asyncio
import json
import os
import threading
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import repeat
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import zarr
from numpy.typing import NDArray
from zarr.abc.store import ByteRequest, OffsetByteRequest, RangeByteRequest, Store, SuffixByteRequest
from zarr.core.buffer import Buffer, BufferPrototype, default_buffer_prototype
from zarr.registry import register_codec

from readingroom.errors import Invalid, NotDicom, NotFound
from storage.arrays import FrameRef
from storage.codecs import CODEC_NAME, DicomFrame
from storage.objects import ArraySpec
from storage.pixels import decode_chunk, keep_bits, lies_as_stored

if TYPE_CHECKING:
    from zarr.core.metadata.v3 import ArrayV3Metadata

_METADATA_KEY = "zarr.json"
_FUSED_PIPELINE = {"codec_pipeline.path": "zarr.core.codec_pipeline.FusedCodecPipeline"}

_opening = threading.Lock()  # zarr's configuration is one for the process

register_codec(CODEC_NAME, DicomFrame)


class ByteSource(Protocol):
    """Where stored objects lie; `storage.blobs` has it."""

    def read_range(self, key: str, offset: int, length: int) -> bytes | bytearray:
        """Bytes ``offset..offset+length``, fewer at the object's end; `NotFound` where there is no object."""

    def local_path(self, key: str) -> Path | None:
        """The object's file, where it is one on this machine."""


class SortedVolumeStore(Store):
    """A read-only zarr store that holds one array: `frames` in their given order, one chunk each.

    The frames may lie anywhere in any object. A frame whose object is gone or too short raises `NotFound`; it never
    reads as fill value.
    """

    def __init__(
        self, source: ByteSource, frames: Sequence[FrameRef], spec: ArraySpec, attributes: Mapping[str, Any]
    ) -> None:
        super().__init__(read_only=True)
        self._source = source
        self._frames = frames
        self._zarr_json = json.dumps(_array_metadata(len(frames), spec, attributes)).encode()
        self._chunk_key_end = "/0" * len(spec.frame_shape)

    def __eq__(self, other: object) -> bool:
        return (
            isinstance(other, SortedVolumeStore)
            and self._source == other._source
            and self._zarr_json == other._zarr_json
            and list(self._frames) == list(other._frames)
        )

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        return f"SortedVolumeStore({len(self._frames)} chunks)"

    def get_sync(
        self, key: str, *, prototype: BufferPrototype | None = None, byte_range: ByteRequest | None = None
    ) -> Buffer | None:
        """Give the bytes under a key; for zarr's fused pipeline, which reads on its own threads."""
        make = (prototype or default_buffer_prototype()).buffer.from_bytes
        if key == _METADATA_KEY:
            start, length = _range_within(len(self._zarr_json), byte_range)
            return make(self._zarr_json[start : start + length])
        frame = self._frame(key)
        if frame is None:
            return None
        start, length = _range_within(frame.length, byte_range)
        return make(_read(self._source, FrameRef(key=frame.key, offset=frame.offset + start, length=length)))

    async def get(self, key: str, prototype: BufferPrototype, byte_range: ByteRequest | None = None) -> Buffer | None:
        return await asyncio.to_thread(self.get_sync, key, prototype=prototype, byte_range=byte_range)

    async def get_partial_values(
        self, prototype: BufferPrototype, key_ranges: Iterable[tuple[str, ByteRequest | None]]
    ) -> list[Buffer | None]:
        return list(await asyncio.gather(*(self.get(key, prototype, wanted) for key, wanted in key_ranges)))

    async def exists(self, key: str) -> bool:
        return key == _METADATA_KEY or self._frame(key) is not None

    async def getsize(self, key: str) -> int:
        if key == _METADATA_KEY:
            return len(self._zarr_json)
        frame = self._frame(key)
        if frame is None:
            raise FileNotFoundError(key)
        return frame.length

    def list(self) -> AsyncIterator[str]:
        return self.list_prefix("")

    async def list_prefix(self, prefix: str) -> AsyncIterator[str]:
        for key in self._keys():
            if key.startswith(prefix):
                yield key

    async def list_dir(self, prefix: str) -> AsyncIterator[str]:
        folder = f"{prefix.rstrip('/')}/" if prefix else ""
        seen = dict.fromkeys(key[len(folder) :].partition("/")[0] for key in self._keys() if key.startswith(folder))
        for name in seen:
            yield name

    @property
    def supports_listing(self) -> bool:
        return True

    @property
    def supports_writes(self) -> bool:
        return False

    @property
    def supports_deletes(self) -> bool:
        return False

    def with_read_only(self, read_only: bool = False) -> Store:
        if not read_only:
            self._check_writable()
        return self

    # Every way to change something says no. The fused pipeline asks for the *_sync ones to be there.

    async def set(self, key: str, value: Buffer) -> None:
        self._check_writable()

    async def set_if_not_exists(self, key: str, value: Buffer) -> None:
        self._check_writable()

    async def delete(self, key: str) -> None:
        self._check_writable()

    async def delete_dir(self, prefix: str) -> None:
        self._check_writable()

    async def clear(self) -> None:
        self._check_writable()

    def set_sync(self, key: str, value: Buffer) -> None:
        self._check_writable()

    def delete_sync(self, key: str) -> None:
        self._check_writable()

    def _keys(self) -> Iterable[str]:
        yield _METADATA_KEY
        for index in range(len(self._frames)):
            yield f"c/{index}{self._chunk_key_end}"

    def _frame(self, key: str) -> FrameRef | None:
        index = key.removeprefix("c/").removesuffix(self._chunk_key_end)
        if not index.isdecimal() or len(index) > 9 or int(index) >= len(self._frames):
            return None
        return self._frames[int(index)] if key == f"c/{int(index)}{self._chunk_key_end}" else None


def open_volume(
    source: ByteSource,
    frames: Sequence[FrameRef],
    spec: ArraySpec,
    *,
    attributes: Mapping[str, Any] | None = None,
) -> zarr.Array[ArrayV3Metadata]:
    """Open frames as one read-only zarr array, in the order given.

    Parameters
    ----------
    source
        Where their objects lie.
    frames
        One for each chunk, in slice order (`storage.slices`). Not copied: do not change it while the array is in use.
    spec
        What they have in common.
    attributes
        The array's attributes, JSON values only: positions, SOP Instance UIDs.

    Returns
    -------
    zarr.Array
        Shape ``(frames, rows, columns[, samples])`` of stored values as `storage.pixels.decode_frame` gives them, one
        chunk a frame; reads decode on as many threads as zarr's ``codec_pipeline.max_workers`` says. A frame that
        cannot be read or decoded raises its `readingroom.errors` class.
    """
    store = SortedVolumeStore(source, frames, spec, attributes or {})
    with _opening, zarr.config.set(_FUSED_PIPELINE):
        return zarr.open_array(store, mode="r", config={"read_missing_chunks": False})


def read_volume(source: ByteSource, frames: Sequence[FrameRef], spec: ArraySpec, *, threads: int) -> NDArray[Any]:
    """Read frames into one array, the same as ``open_volume(source, frames, spec)[:]`` without zarr.

    Native frames of a local file are read in place, without a copy.
    """
    per_chunk = spec.frames if spec.encoding == "bits" else 1
    volume = np.empty((len(frames) * per_chunk, *spec.frame_shape), spec.dtype)
    with ThreadPoolExecutor(min(threads, len(frames) or 1), thread_name_prefix="volume") as pool:
        targets = (volume[i * per_chunk : (i + 1) * per_chunk] for i in range(len(frames)))
        for _ in pool.map(read_into, targets, repeat(source), frames, repeat(spec)):
            pass  # the first error is raised here and cancels what has not begun
    return volume


def _array_metadata(chunks: int, spec: ArraySpec, attributes: Mapping[str, Any]) -> dict[str, Any]:
    per_chunk = spec.frames if spec.encoding == "bits" else 1
    shape = spec.frame_shape
    return {
        "zarr_format": 3,
        "node_type": "array",
        "shape": [chunks * per_chunk, *shape],
        "data_type": spec.dtype,
        "chunk_grid": {"name": "regular", "configuration": {"chunk_shape": [per_chunk, *shape]}},
        "chunk_key_encoding": {"name": "default", "configuration": {"separator": "/"}},
        "fill_value": 0,
        "codecs": [{"name": CODEC_NAME, "configuration": spec.codec_configuration()}],
        "dimension_names": ["frame", "row", "column", "sample"][: 1 + len(shape)],
        "attributes": dict(attributes),
    }


def _range_within(size: int, wanted: ByteRequest | None) -> tuple[int, int]:
    """Give ``(start, length)`` of a byte request in a value of that size."""
    match wanted:
        case None:
            return 0, size
        case RangeByteRequest(start=start, end=end):
            return min(start, size), max(min(end, size) - start, 0)
        case OffsetByteRequest(offset=start):
            return min(start, size), max(size - start, 0)
        case SuffixByteRequest(suffix=length):
            return max(size - length, 0), min(length, size)
    raise Invalid(f"{wanted!r} is no byte range")


def _read(source: ByteSource, frame: FrameRef) -> bytes | bytearray:
    data = source.read_range(frame.key, frame.offset, frame.length)
    if len(data) != frame.length:
        raise NotFound(f"{frame.key} ends before the frame at {frame.offset} of {frame.length} bytes")
    return data


def read_into(target: NDArray[Any], source: ByteSource, frame: FrameRef, spec: ArraySpec) -> None:
    """Read and decode one chunk into an array of shape ``(frames of the chunk, *spec.frame_shape)``."""
    path = source.local_path(frame.key) if lies_as_stored(spec) else None
    if path is None:
        target[...] = decode_chunk(_read(source, frame), spec)
        return
    if frame.length < target.nbytes:
        raise NotDicom(f"the frame is cut short: {frame.length} of {target.nbytes} bytes")
    rest = memoryview(target.reshape(-1).view(np.uint8))
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        raise NotFound(f"The store has no object {frame.key}.") from None
    try:
        at = frame.offset
        while rest and (got := os.preadv(fd, [rest], at)):  # one read gives 2 GiB at most
            rest, at = rest[got:], at + got
    finally:
        os.close(fd)
    if rest:
        raise NotFound(f"{frame.key} ends before the frame at {frame.offset} of {frame.length} bytes")
    keep_bits(target, spec.bits_stored, in_place=True)
