"""What a plugin may touch while it is called: pixels and metadata of its study, settings, clock and log."""

from __future__ import annotations

import fcntl
import mmap
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from logging import Logger, getLogger
from math import dist, prod
from typing import TYPE_CHECKING, Any, Protocol

from readingroom.clock import Clock, SystemClock
from readingroom.errors import Refused
from readingroom.model import Series

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

_SEALS = fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL | 0x10  # F_SEAL_FUTURE_WRITE

type Dataset = Mapping[str, Any]
"""A data set in the DICOM JSON model (PS3.18 annex F)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SharedVolume:
    """An array in a file descriptor, whose new owner closes it; `frames` are SOP Instance UID and frame number."""

    fd: int
    shape: tuple[int, ...]
    dtype: str
    frames: tuple[tuple[str, int], ...]


class Archive(Protocol):
    """What a context asks for the studies of its call."""

    def volume(self, series_uid: str) -> SharedVolume:
        """The stored values of a series."""

    def instances(self, series_uid: str) -> Sequence[Dataset]:
        """The data sets of a series without bulk data."""


class NoArchive:
    """Stands where a hook is called without a study."""

    def volume(self, series_uid: str) -> SharedVolume:
        raise Refused("This hook is called without a study, so there are no pixels.")

    def instances(self, series_uid: str) -> Sequence[Dataset]:
        raise Refused("This hook is called without a study, so there is no metadata.")


@dataclass(frozen=True, slots=True, kw_only=True)
class FramePlace:
    """Which frame of which instance lies at an index of a volume; position and rescale where it has them.

    `position_mm` is Image Position (Patient) (PS3.3 C.7.6.2.1.1); a stored value times `slope` plus `intercept` is in
    the unit of the modality (PS3.3 C.11.1), which for CT are Hounsfield units.
    """

    instance_uid: str
    number: int
    position_mm: tuple[float, float, float] | None
    slope: float
    intercept: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Layout:
    """What lies where in a volume.

    `spacing_mm` is the distance between the centres of two frames, rows and columns; None where they are not known. The
    first is the median, for a stack may have gaps.
    """

    frames: tuple[FramePlace, ...]
    spacing_mm: tuple[float, float, float] | None


class Metadata:
    """The data sets of the studies that a call is about."""

    def __init__(self, archive: Archive) -> None:
        self._archive = archive
        self._kept: dict[str, tuple[Dataset, ...]] = {}

    def instances(self, series: Series | str) -> tuple[Dataset, ...]:
        """The instances of a series in slice order, as they were corrected, without bulk data.

        Raises
        ------
        NotFound
            No study of this call has that series.
        """
        uid = _uid(series)
        if uid not in self._kept:
            self._kept[uid] = tuple(self._archive.instances(uid))
        return self._kept[uid]


class Pixels:
    """The pixels of the studies that a call is about."""

    def __init__(self, archive: Archive, metadata: Metadata) -> None:
        self._archive = archive
        self._metadata = metadata
        self._kept: dict[str, tuple[NDArray[Any], tuple[tuple[str, int], ...]]] = {}

    def volume(self, series: Series | str) -> NDArray[Any]:
        """The stored values of a series, in slice order.

        Of a series with images of several shapes it is the largest part of one shape.

        Returns
        -------
        numpy.ndarray
            Shape ``(frames, rows, columns)``, or ``(frames, rows, columns, 3)`` of colour. Not writeable: it is mapped,
            not copied.

        Raises
        ------
        NotFound
            No study of this call has that series, or it has no images.
        NotAcceptable
            Its frames cannot be decoded.
        """
        return self._opened(series)[0]

    def values(self, series: Series | str) -> NDArray[np.float32]:
        """The same in the unit of the modality (Hounsfield units of a CT), as an array of its own.

        Rescale Slope and Intercept are applied (PS3.3 C.11.1); a Modality LUT Sequence is not.
        """
        import numpy as np

        values = self.volume(series).astype(np.float32)
        for index, frame in enumerate(self.layout(series).frames):
            if (frame.slope, frame.intercept) != (1.0, 0.0):
                values[index] *= frame.slope
                values[index] += frame.intercept
        return values

    def layout(self, series: Series | str) -> Layout:
        """Which frame lies at which index of the volume, and the distances between them."""
        datasets = {_first(dataset, "00080018"): dataset for dataset in self._metadata.instances(series)}
        frames = []
        planes = []
        for instance_uid, number in self._opened(series)[1]:
            dataset = datasets.get(instance_uid, {})
            position = _numbers(_of_frame(dataset, number, "00209113", "00200032"), 3)
            (slope,) = _numbers(_of_frame(dataset, number, "00289145", "00281053"), 1) or (1.0,)
            (intercept,) = _numbers(_of_frame(dataset, number, "00289145", "00281052"), 1) or (0.0,)
            planes.append(_numbers(_of_frame(dataset, number, "00289110", "00280030"), 2))
            frames.append(
                FramePlace(
                    instance_uid=instance_uid,
                    number=number,
                    position_mm=(position[0], position[1], position[2]) if position else None,
                    slope=slope,
                    intercept=intercept,
                )
            )
        between = _median_distance(frames)
        spacing = (between, *planes[0]) if between is not None and planes[0] else None
        return Layout(frames=tuple(frames), spacing_mm=spacing)  # type: ignore[arg-type]

    def _opened(self, series: Series | str) -> tuple[NDArray[Any], tuple[tuple[str, int], ...]]:
        uid = _uid(series)
        if uid not in self._kept:
            shared = self._archive.volume(uid)
            self._kept[uid] = _mapped(shared), shared.frames
        return self._kept[uid]


class Context:
    """What a plugin is given with a call.

    Attributes
    ----------
    plugin
        Its name.
    settings
        The instance of its own model that the settings made; None where it has none.
    pixels, metadata
        Of the studies among the arguments, and of no other.
    clock
        Tells the time: ask this one, so that tests can set it.
    log
        Goes to the server's log. Write no patient's data to it.
    delivery
        The same on every attempt of one job: the key by which what the plugin does outside happens once.
    attempt
        1 for the first.
    """

    def __init__(
        self,
        *,
        plugin: str,
        settings: Any = None,
        archive: Archive | None = None,
        clock: Clock | None = None,
        log: Logger | None = None,
        delivery: str = "",
        attempt: int = 1,
    ) -> None:
        archive = archive or NoArchive()
        self.plugin = plugin
        self.settings = settings
        self.metadata = Metadata(archive)
        self.pixels = Pixels(archive, self.metadata)
        self.clock = clock or SystemClock()
        self.log = log or getLogger(f"readingroom.plugin.{plugin}")
        self.delivery = delivery
        self.attempt = attempt


def new_volume(
    shape: tuple[int, ...], dtype: str, frames: Sequence[tuple[str, int]]
) -> tuple[SharedVolume, NDArray[Any]]:
    """A volume in memory, and the one array through which it is filled; others can only read it."""
    import numpy as np

    size = prod(shape) * np.dtype(dtype).itemsize
    fd = os.memfd_create("volume", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    try:
        os.ftruncate(fd, max(size, 1))
        memory = mmap.mmap(fd, size) if size else bytearray()
        fcntl.fcntl(fd, fcntl.F_ADD_SEALS, _SEALS)
    except BaseException:
        os.close(fd)
        raise
    target = np.frombuffer(memory, dtype).reshape(shape)
    return SharedVolume(fd=fd, shape=shape, dtype=target.dtype.str, frames=tuple(frames)), target


def _mapped(shared: SharedVolume) -> NDArray[Any]:
    import numpy as np

    try:
        dtype = np.dtype(shared.dtype)
        size = prod(shared.shape) * dtype.itemsize
        memory = mmap.mmap(shared.fd, size, prot=mmap.PROT_READ) if size else b""
    finally:
        os.close(shared.fd)
    return np.frombuffer(memory, dtype).reshape(shared.shape)


def _uid(series: Series | str) -> str:
    return series if isinstance(series, str) else series.series_uid


def _first(dataset: Dataset, tag: str) -> str:
    return str((dataset.get(tag, {}).get("Value") or [""])[0])


def _of_frame(dataset: Dataset, number: int, macro: str, tag: str) -> Dataset:
    """An element of a frame: from its functional group or the shared ones (PS3.3 C.7.6.16), or of the image itself."""
    each = dataset.get("52009230", {}).get("Value") or []
    shared = dataset.get("52009229", {}).get("Value") or []
    for groups in (*each[number - 1 : number], *shared[:1]):
        for item in groups.get(macro, {}).get("Value") or []:
            if tag in item:
                found: Dataset = item[tag]
                return found
    plain: Dataset = dataset.get(tag, {})
    return plain


def _numbers(element: Dataset, count: int) -> tuple[float, ...]:
    try:
        numbers = tuple(float(value) for value in element.get("Value", ()))
    except (TypeError, ValueError):
        return ()
    return numbers if len(numbers) == count else ()


def _median_distance(frames: Sequence[FramePlace]) -> float | None:
    positions = [frame.position_mm for frame in frames]
    between = sorted(dist(one, other) for one, other in pairwise(positions) if one and other)
    return between[len(between) // 2] if between and between[len(between) // 2] > 0 else None
