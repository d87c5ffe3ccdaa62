"""Where the zarr arrays of a study or series lie, and how a researcher opens them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import orjson
import sqlalchemy as sa

from readingroom.errors import NotFound
from readingroom.model import Scope
from server.settings import Settings
from storage.arrays import ArraySpec
from storage.blobs import Blobs
from storage.catalog import schema as t
from storage.catalog.find import EVERY_SERIES, StoredSeries, scoped
from storage.catalog.writers import OPAQUE
from storage.describe import describe_series


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredArray:
    """One array of a series, and how many instances are live in it; without `spec` the group of opaque objects."""

    series: StoredSeries
    key: str
    spec: ArraySpec | None
    instances: int

    @property
    def summary(self) -> str:
        """One line: what is in it."""
        what = f"series {self.series.series_uid} ({self.series.modality or 'no modality'})"
        if self.spec is None:
            return f"{what}: {self.instances} objects without frames, each a folder with a uint8 array of its bytes"
        shape = " x ".join(map(str, self.spec.frame_shape))
        frames = f"{self.spec.frames} frames" if self.spec.frames > 1 else "a frame"
        return f"{what}: {self.instances} instances of {frames} of {shape}, {self.spec.dtype}"

    def address(self, blobs: Blobs, settings: Settings) -> str:
        """Its folder, or its s3:// address."""
        path = blobs.local_path(self.key)
        return str(path) if path is not None else f"{(settings.store or '').rstrip('/')}/{self.key}"

    def snippet(self, blobs: Blobs, settings: Settings) -> str:
        """Python that opens it; empty for opaque objects. The codec ``dicom_frame`` comes with this package."""
        if self.spec is None:
            return ""
        path = blobs.local_path(self.key)
        if path is not None:
            opening = f'array = zarr.open_array({str(path)!r}, mode="r")'
            head = "import zarr"
        else:
            head = "import zarr; from obstore.store import S3Store; from zarr.storage import ObjectStore"
            opening = f'array = zarr.open_array(ObjectStore({self._s3(settings)}, read_only=True), mode="r")'
        slots = 'array.attrs["dicom"]["live_slots"]'
        if self.spec.frames == 1:
            reading = f"volume = array.oindex[{slots}]  # in slice order"
        else:
            count = self.spec.frames
            reading = f"frames = [array[slot * {count} : (slot + 1) * {count}] for slot in {slots}]"
        return f"    {head}\n    {opening}\n    {reading}"

    def _s3(self, settings: Settings) -> str:
        """The call that opens its place in the bucket; credentials come from the usual AWS variables."""
        bucket, _, prefix = (settings.store or "").removeprefix("s3://").rstrip("/").partition("/")
        arguments = [repr(bucket), f"prefix={f'{prefix}/{self.key}'.lstrip('/')!r}", f"region={settings.s3_region!r}"]
        if settings.s3_endpoint:
            arguments += [f"endpoint={settings.s3_endpoint!r}", "virtual_hosted_style_request=False"]
            if settings.s3_endpoint.startswith("http://"):
                arguments.append('client_options={"allow_http": True}')
        return f"S3Store({', '.join(arguments)})"


def describe_arrays(connection: sa.Connection, blobs: Blobs, scope: Scope, uid: str) -> Iterator[StoredArray]:
    """Bring the ``zarr.json`` files of a study or series up to date, and tell its arrays that hold live instances.

    Raises
    ------
    NotFound
        No study and no series in scope has that UID.
    """
    found = _series(connection, scope, uid)
    if not found:
        raise NotFound(f"There is no study and no series {uid}.")
    for series in found:
        describe_series(connection, blobs, series)
        live = (
            sa.select(t.zarr_array.c.name, t.zarr_array.c.spec, sa.func.count())
            .join(t.instance, t.instance.c.array == t.zarr_array.c.id)
            .where(t.instance.c.series == series.id, t.instance.c.is_current)
            .group_by(t.zarr_array.c.name, t.zarr_array.c.spec)
            .order_by(t.zarr_array.c.name)
        )
        for name, spec, count in connection.execute(live).all():
            yield StoredArray(
                series=series,
                key=f"{series.place}/{name}",
                spec=None if name == OPAQUE else ArraySpec(**orjson.loads(spec)),
                instances=count,
            )


def _series(connection: sa.Connection, scope: Scope, uid: str) -> list[StoredSeries]:
    is_it = sa.or_(t.study.c.study_uid == uid, t.series.c.series_uid == uid)
    statement = EVERY_SERIES.where(is_it, t.series.c.instance_count > 0).order_by(
        t.study.c.owner_facility, t.series.c.series_number, t.series.c.id
    )
    rows = connection.execute(scoped(statement, scope, t.study.c.owner_facility)).all()
    return [StoredSeries(**row._mapping) for row in rows]
