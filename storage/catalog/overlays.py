"""Corrections as the catalog keeps them, and what rows and metadata look like under them."""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from datetime import datetime
from itertools import batched
from typing import Any

import orjson
import sqlalchemy as sa

from storage.catalog import rows
from storage.catalog import schema as t
from storage.catalog.listed import relist_values
from storage.catalog.patients import forget_patient, patient_of
from storage.dicomjson import BASE_URL_MARK, MetadataJson, dump
from storage.overlay import Came, Correction, Layer, layers_over, overlay_of, put_over

_MARK = BASE_URL_MARK.encode()

_CORRECTIONS = (
    sa.select(t.overlay)
    .where(
        t.overlay.c.owner_facility == sa.bindparam("owner_facility"),
        t.overlay.c.study_uid == sa.bindparam("study_uid"),
    )
    .order_by(t.overlay.c.version)
)
_SERIES = (
    sa.select(t.series, t.study.c.study_uid)
    .join(t.study, t.series.c.study == t.study.c.id)
    .where(t.series.c.id == sa.bindparam("series"))
)
_UPDATE_INSTANCE = t.instance.update().where(t.instance.c.id == sa.bindparam("this"))
_UPDATE_METADATA = t.instance_metadata.update().where(t.instance_metadata.c.instance == sa.bindparam("this"))
_AT_ONCE = 200


def read_corrections(connection: sa.Connection, owner_facility: str, study_uid: str) -> list[Correction]:
    """Every correction of a study, its series and instances, in order."""
    found = connection.execute(_CORRECTIONS, {"owner_facility": owner_facility, "study_uid": study_uid})
    return [
        Correction(
            owner_facility=row.owner_facility,
            study_uid=row.study_uid,
            series_uid=row.series_uid,
            instance_uid=row.instance_uid,
            version=row.version,
            attributes=orjson.loads(row.attributes),
            actor=row.actor,
            reason=row.reason,
            at=row.at,
        )
        for row in found
    ]


def load_metadata(stored: bytes) -> MetadataJson:
    """Metadata as the catalog keeps it, parsed; the service root's mark is gone from its BulkDataURIs."""
    loaded: MetadataJson = orjson.loads(zlib.decompress(stored).replace(_MARK, b"\\u0001"))
    return loaded


def shown_metadata(
    metadata: MetadataJson, received: bytes, came: Came, corrections: Sequence[Correction]
) -> tuple[MetadataJson, dict[str, Any], int]:
    """An instance as it is shown: its data set, the columns of `schema.instance_metadata`, and its overlay's version.

    Parameters
    ----------
    metadata, received
        The data set as received, parsed and as it is kept.
    corrections
        Those that cover the instance.
    """
    coerced = orjson.dumps(came.coerced) if came.coerced else None
    overlay = overlay_of(metadata, came, corrections)
    if not overlay:
        return metadata, {"json": received, "received": None, "coerced": coerced}, 0
    shown = put_over(metadata, overlay)
    columns = {"json": zlib.compress(dump(shown), 1), "received": received, "coerced": coerced}
    return shown, columns, 1 + max((one.version for one in corrections), default=0)


def rewrite_study(
    connection: sa.Connection, study: sa.Row[Any], corrections: Sequence[Correction], now: datetime
) -> None:
    """Work the corrections of a study into its row and its patient; `study` is its row, locked."""
    header, kept = _under(study, layers_over(corrections, "", ""))
    row, extra = rows.study_row(
        header,
        study_uid=study.study_uid,
        modalities=study.modalities.split("\\")[:-1],
        sop_classes=study.sop_classes.split("\\")[:-1],
        series_count=study.series_count,
        instance_count=study.instance_count,
    )
    columns = rows.study_columns(header)
    patient = patient_of(connection, study.owner_facility, columns, now, study_uid=study.study_uid, header=header)
    connection.execute(
        t.study.update()
        .where(t.study.c.id == study.id)
        .values(row=row, extra=extra, header=kept, patient=patient, updated_at=now, **columns)
    )
    if patient != study.patient:
        forget_patient(connection, study.patient)


def rewrite_series(connection: sa.Connection, series: str, corrections: Sequence[Correction]) -> str | None:
    """Work the corrections of a series and of its study into its row; returns its modality."""
    found = connection.execute(_SERIES, {"series": series}).one()
    header, kept = _under(found, layers_over(corrections, found.series_uid, ""))
    columns = rows.series_columns(header)
    row, extra = rows.series_row(
        header, study_uid=found.study_uid, series_uid=found.series_uid, instance_count=found.instance_count
    )
    connection.execute(
        t.series.update().where(t.series.c.id == series).values(row=row, extra=extra, header=kept, **columns)
    )
    modality: str | None = columns["modality"]
    return modality


def rewrite_instances(
    connection: sa.Connection, study: str, corrections: Sequence[Correction], latest: Correction
) -> dict[str, list[str]]:
    """Work the corrections of a study into the instances that the latest one covers: metadata, columns, listed values.

    Every version of an instance is made anew from what was received of it, so what is done twice comes to the same.
    Returns those that are in use, by series.
    """
    instances = connection.execute(
        sa.select(
            t.instance.c.id,
            t.instance.c.instance_uid,
            t.instance.c.is_current,
            t.instance.c.source,
            t.instance.c.received_at,
            t.series.c.series_uid,
        )
        .join(t.series, t.instance.c.series == t.series.c.id)
        .where(t.instance.c.study == study)
    ).all()
    covered = [one for one in instances if latest.covers(one.series_uid, one.instance_uid)]
    for portion in batched(covered, _AT_ONCE):
        stored = {
            row.instance: row
            for row in connection.execute(
                sa.select(t.instance_metadata).where(t.instance_metadata.c.instance.in_([one.id for one in portion]))
            )
        }
        columns, blobs, headers = [], [], {}
        for one in portion:
            kept = stored.get(one.id)
            if kept is None:
                continue  # purged: only its tombstone is left
            over = [each for each in corrections if each.covers(one.series_uid, one.instance_uid)]
            coerced = orjson.loads(kept.coerced) if kept.coerced else {}
            came = Came(source=one.source, received_at=one.received_at, coerced=coerced)
            received = kept.received or kept.json
            shown, blob, version = shown_metadata(load_metadata(received), received, came, over)
            columns.append({"this": one.id, "overlay_version": version, **rows.instance_columns(shown)})
            blobs.append({"this": one.id, **blob})
            headers[one.id] = shown
        if columns:
            relist_values(connection, "instance", headers)
            connection.execute(_UPDATE_INSTANCE, columns)
            connection.execute(_UPDATE_METADATA, blobs)
    in_use: dict[str, list[str]] = {}
    for one in covered:
        if one.is_current:
            in_use.setdefault(one.series_uid, []).append(one.instance_uid)
    return in_use


def _under(row: sa.Row[Any], layers: Sequence[Layer]) -> tuple[MetadataJson, bytes | None]:
    """The header of a study's or a series' row with `layers` over it, and what its column `header` is then to keep."""
    kept = row.header
    base = orjson.loads(kept) if kept else rows.header_of(row.row, row.extra)
    header = base
    for layer in layers:
        header = put_over(header, layer)
    return header, (kept or orjson.dumps(base)) if layers else None
