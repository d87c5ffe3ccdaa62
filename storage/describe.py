"""Brings the ``zarr.json`` files of a series up to date: what its arrays hold now, in slice order.

Rewritten when a study settles, and before somebody opens the series as zarr; never for a single instance.
"""

from __future__ import annotations

import zlib
from collections import defaultdict
from typing import Any

import orjson
import sqlalchemy as sa

from storage.arrays import ArraySpec
from storage.blobs import Blobs
from storage.catalog import schema as t
from storage.catalog.find import StoredSeries
from storage.catalog.writers import OPAQUE
from storage.slices import slice_order


def describe_series(connection: sa.Connection, blobs: Blobs, series: StoredSeries) -> list[str]:
    """Rewrite the ``zarr.json`` of a series and of its arrays; returns the keys of the arrays' folders.

    The attributes of an array list its live slots in slice order, with the SOP Instance UID and the position of each:
    a slot that is not listed is a gap, or holds a version that has been superseded.
    """
    arrays = connection.execute(sa.select(t.zarr_array).where(t.zarr_array.c.place == series.place)).all()
    live: dict[str, list[tuple[int, str, dict[str, Any]]]] = defaultdict(list)
    for array_id, slot, instance_uid, metadata in connection.execute(
        sa.select(t.instance.c.array, t.instance.c.slot, t.instance.c.instance_uid, t.instance_metadata.c.json)
        .join(t.instance_metadata, t.instance_metadata.c.instance == t.instance.c.id)
        .where(t.instance.c.series == series.id, t.instance.c.is_current)
        .order_by(t.instance.c.id)
        .execution_options(yield_per=200)
    ):
        # The service root's mark stands raw in the JSON and has no meaning here.
        parsed = orjson.loads(zlib.decompress(metadata).replace(b"\x01", b""))
        geometry = {tag: parsed[tag] for tag in ("00200013", "00200032", "00200037") if tag in parsed}
        live[array_id].append((slot, instance_uid, geometry))

    identity = {
        "study_uid": series.study_uid,
        "series_uid": series.series_uid,
        "owner_facility": series.owner_facility,
    }
    written = []
    for array in arrays:
        folder = f"{series.place}/{array.name}"
        if array.name == OPAQUE:
            document: dict[str, Any] = {"zarr_format": 3, "node_type": "group", "attributes": {"dicom": identity}}
        else:
            found = live[array.id]
            order = slice_order([geometry for _, _, geometry in found])
            attributes = identity | {
                "live_slots": [found[index][0] for index in order],
                "instance_uids": [found[index][1] for index in order],
                "positions_mm": [found[index][2].get("00200032", {}).get("Value") for index in order],
            }
            slots = 1 + max((slot for slot, _, _ in found), default=-1)
            document = ArraySpec(**orjson.loads(array.spec)).zarr_json(slots, {"dicom": attributes})
        _write(blobs, f"{folder}/zarr.json", document)
        written.append(folder)
    _write(
        blobs,
        f"{series.place}/zarr.json",
        {"zarr_format": 3, "node_type": "group", "attributes": {"dicom": identity}},
    )
    return written


def _write(blobs: Blobs, key: str, document: dict[str, Any]) -> None:
    blobs.put(key, orjson.dumps(document), durable=False)
