"""What a plugin is shown of a study: its pixels in shared memory, its metadata as it was corrected."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import groupby
from math import prod
from typing import Any

import numpy as np
import orjson
import sqlalchemy as sa
from numpy.typing import NDArray

from readingroom.context import Dataset, SharedVolume, new_volume
from readingroom.errors import NotAcceptable, NotFound, TooLarge
from readingroom.model import Scope
from server.codecs import Codecs
from storage.arrays import ArraySpec, FrameRef, frame_payload
from storage.blobs import Blobs
from storage.catalog.find import StoredInstance, StoredSeries, each_metadata, find_series, list_instances
from storage.catalog.overlays import load_metadata
from storage.objects import read_index
from storage.slices import slice_order

MAX_VOLUME_BYTES = 4 << 30
_THREADS = 2


@dataclass(frozen=True, slots=True)
class _Image:
    """An instance with frames, and how they are encoded."""

    stored: StoredInstance
    spec: ArraySpec

    @property
    def shape(self) -> tuple[str, tuple[int, ...]]:
        """What images of one volume have in common."""
        return self.spec.dtype, self.spec.frame_shape


class ShownStudies:
    """An archive of the studies that one call of a plugin is about; see `readingroom.context.Archive`.

    Compressed frames are decoded in child processes, as for everybody else.

    Parameters
    ----------
    studies
        Facility and Study Instance UID of each; no other is shown.
    """

    def __init__(self, engine: sa.Engine, blobs: Blobs, codecs: Codecs, studies: frozenset[tuple[str, str]]) -> None:
        self._engine = engine
        self._blobs = blobs
        self._codecs = codecs
        self._studies = studies

    def instances(self, series_uid: str) -> Sequence[Dataset]:
        """The data sets of a series in slice order; raises `NotFound`."""
        with self._engine.connect() as connection:
            datasets = self._datasets(connection, list_instances(connection, self._series(connection, series_uid)))
        return [datasets[index] for index in slice_order(datasets)]

    def volume(self, series_uid: str) -> SharedVolume:
        """The stored values of a series in slice order.

        Raises
        ------
        NotFound
            No study that is shown has that series, or it has no images.
        NotAcceptable
            Its frames cannot be told apart or decoded.
        TooLarge
            They need more than `MAX_VOLUME_BYTES`.
        """
        with self._engine.connect() as connection:
            stored = list_instances(connection, self._series(connection, series_uid))
            images = _largest_stack(stored, series_uid)
            order = slice_order(self._datasets(connection, [image.stored for image in images]))
        images = [images[index] for index in order]
        frames = [(image.stored.instance_uid, n) for image in images for n in range(1, image.spec.frames + 1)]
        dtype, frame_shape = images[0].shape
        shape = (len(frames), *frame_shape)
        size = len(frames) * _bytes_of(images[0].spec)
        if size > MAX_VOLUME_BYTES:
            raise TooLarge(f"Series {series_uid} has {size:,} bytes of pixels; {MAX_VOLUME_BYTES:,} can be shown.")
        volume, target = new_volume(shape, dtype, frames)
        try:
            self._fill(target, images)
        except BaseException:
            os.close(volume.fd)
            raise
        return volume

    def _series(self, connection: sa.Connection, series_uid: str) -> StoredSeries:
        for facility, study_uid in sorted(self._studies):
            try:
                return find_series(connection, Scope().narrowed(facility), study_uid, series_uid)
            except NotFound:
                continue
        raise NotFound(f"No study of this call has the series {series_uid}.")

    def _datasets(self, connection: sa.Connection, instances: Sequence[StoredInstance]) -> list[dict[str, Any]]:
        return [load_metadata(one) for one in each_metadata(connection, instances)]

    def _fill(self, target: NDArray[Any], images: Sequence[_Image]) -> None:
        # zarr takes a good part of a second to load, which the server's start does not wait for.
        from storage.volumes import read_into

        def read(part: tuple[NDArray[Any], FrameRef, ArraySpec]) -> None:
            rows, frame, spec = part
            if spec.encoding != "encapsulated":
                read_into(rows, self._blobs, frame, spec)
                return
            chunk = self._blobs.read_range(frame.key, frame.offset, frame.length)
            rows[0] = self._codecs.decode(frame_payload(spec, bytes(chunk), 0), spec)

        with ThreadPoolExecutor(_THREADS, thread_name_prefix="volume") as pool:
            for _ in pool.map(read, self._parts(target, images)):
                pass  # the first error is raised here

    def _parts(
        self, target: NDArray[Any], images: Sequence[_Image]
    ) -> Iterator[tuple[NDArray[Any], FrameRef, ArraySpec]]:
        """Each chunk, and where in the volume it belongs."""
        at = 0
        for image in images:
            frames = image.spec.frames if image.spec.encoding == "bits" else 1
            for chunk in self._chunks(image.stored):
                yield target[at : at + frames], chunk, image.spec
                at += frames

    def _chunks(self, stored: StoredInstance) -> Iterator[FrameRef]:
        key = stored.object_key
        if stored.chunk_stride is None and stored.chunk_count > 1:
            index = read_index(
                lambda offset, length: bytes(self._blobs.read_range(key, offset, length)),
                stored.object_bytes,
                stored.chunk_count,
            )
            for offset, length in index:
                yield FrameRef(key=key, offset=offset, length=length)
            return
        for number in range(stored.chunk_count):
            offset = stored.chunk_offset + number * (stored.chunk_stride or 0)
            yield FrameRef(key=key, offset=offset, length=stored.chunk_length)


def _largest_stack(stored: Sequence[StoredInstance], series_uid: str) -> list[_Image]:
    """The images of the shape that most frames have: localizers and key images stay out of a stack."""
    images = [_Image(one, ArraySpec(**orjson.loads(one.array_spec))) for one in stored if not one.opaque_reason]
    if not images:
        reasons = {one.opaque_reason for one in stored if one.frame_count}
        if reasons:
            raise NotAcceptable(
                f"The frames of series {series_uid} cannot be told apart: {', '.join(sorted(reasons))}."
            )
        raise NotFound(f"Series {series_uid} has no images.")
    images.sort(key=lambda image: image.shape)
    stacks = [list(group) for _, group in groupby(images, key=lambda image: image.shape)]
    return max(stacks, key=lambda stack: sum(image.spec.frames for image in stack))


def _bytes_of(spec: ArraySpec) -> int:
    return prod(spec.frame_shape) * np.dtype(spec.dtype).itemsize
