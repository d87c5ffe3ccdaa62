"""A catalog filled with headers made in code, by the very transaction that ingest uses; no objects lie behind it."""

from __future__ import annotations

import hashlib
import zlib
from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any

import orjson
import sqlalchemy as sa
from pydicom.dataset import Dataset

from readingroom.clock import SetClock
from storage.catalog import schema as t
from storage.catalog.engine import begin_write
from storage.catalog.studies import Received, ensure_facility, record_instances
from storage.catalog.writers import series_place
from storage.dicomjson import dump
from storage.objects import MetadataJson
from tests.synthetic import new_uid

CT, MR_IMAGE = "1.2.840.10008.5.1.4.1.1.2", "1.2.840.10008.5.1.4.1.1.4"


def header(**attributes: Any) -> MetadataJson:
    """A header in DICOM JSON with its UIDs; `attributes` are keyword and value, a dict or a list of them for items."""
    uids = ("StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID")
    made = {"SOPClassUID": CT, **{name: new_uid() for name in uids}, **attributes}
    json: MetadataJson = orjson.loads(_dataset(made).to_json())
    return dict(sorted(json.items()))


def _dataset(attributes: dict[str, Any]) -> Dataset:
    dataset = Dataset()
    for keyword, value in attributes.items():
        if isinstance(value, list) and value and isinstance(value[0], dict):
            value = [_dataset(item) for item in value]
        setattr(dataset, keyword, value)
    return dataset


def fill(engine: sa.Engine, *headers: MetadataJson, facility: str = "local") -> None:
    """Record instances with these headers, in this order, each as an arrival of its own."""
    for metadata in headers:
        _record(engine, metadata, facility)


def fill_together(
    engine: sa.Engine, headers: Sequence[MetadataJson], *, now: datetime, quiet: timedelta, facility: str = "local"
) -> None:
    """Record instances with these headers as one arrival."""
    with begin_write(engine) as connection:
        ensure_facility(connection, facility)
        received = [_received(connection, metadata, facility, now) for metadata in headers]
        record_instances(connection, received, now=now, quiet=lambda _: quiet, duplicates="version")


def _record(engine: sa.Engine, metadata: MetadataJson, facility: str) -> None:
    fill_together(engine, [metadata], now=SetClock().now(), quiet=timedelta(minutes=1), facility=facility)


def _received(connection: sa.Connection, metadata: MetadataJson, facility: str, now: datetime) -> Received:
    study_uid, series_uid, instance_uid = (metadata[tag]["Value"][0] for tag in ("0020000D", "0020000E", "00080018"))
    json = dump(metadata)
    array = t.new_id()
    place = f"{series_place(facility, study_uid, series_uid)}/{array}"
    connection.execute(t.zarr_array.insert().values(id=array, place=place, name="a0", digest="", spec=b"", next_slot=1))
    return Received(
        owner_facility=facility,
        study_uid=study_uid,
        series_uid=series_uid,
        instance_uid=instance_uid,
        transfer_syntax="1.2.840.10008.1.2.1",
        metadata=metadata,
        metadata_zlib=zlib.compress(json),
        sha256=hashlib.sha256(json).digest(),
        size_bytes=len(json),
        object_key=f"{place}/c.0.0.0",
        object_bytes=len(json),
        array_id=array,
        slot=0,
        opaque_reason="",
        chunk_count=1,
        chunk_offset=0,
        chunk_length=1,
        chunk_stride=None,
        source="test",
        received_at=now,
    )
