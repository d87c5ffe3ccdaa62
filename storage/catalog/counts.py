"""What a study and its series say of what is in them: numbers, modalities, and the ready JSON that tells them."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime

import sqlalchemy as sa

from storage.catalog import rows
from storage.catalog import schema as t

END = "\\"
"""Ends each entry of a list that is kept as sorted text, so that LIKE finds whole entries only."""


def joined(values: Iterable[str]) -> str:
    """A list as the sorted text that a column keeps."""
    return "".join(f"{value}{END}" for value in sorted(values))


def reopen_study(connection: sa.Connection, study_id: str, at: datetime) -> None:
    """Have a study that has settled settle once more: it is another one now, though nothing more is to come."""
    c = t.study.c
    settled = t.study.update().where(c.id == study_id, c.settled_at.is_not(None), c.settle_due_at.is_(None))
    connection.execute(settled.values(settle_due_at=at))


def recount_study(connection: sa.Connection, study_id: str) -> None:
    """Make the counts and the ready JSON of a study and its series true again, from its current instances."""
    per_series = connection.execute(
        sa.select(
            t.series.c.id,
            t.series.c.modality,
            t.series.c.row,
            t.series.c.version,
            sa.func.count(t.instance.c.id),
            sa.func.coalesce(sa.func.sum(t.instance.c.size_bytes), 0),
        )
        .join_from(
            t.series, t.instance, sa.and_(t.instance.c.series == t.series.c.id, t.instance.c.is_current), isouter=True
        )
        .where(t.series.c.study == study_id)
        .group_by(t.series.c.id, t.series.c.modality, t.series.c.row, t.series.c.version)
    ).all()
    for series_id, _, row, version, count, _ in per_series:
        connection.execute(
            t.series.update()
            .where(t.series.c.id == series_id)
            .values(instance_count=count, row=rows.reseries_row(row, instance_count=count), version=version + 1)
        )
    sop_classes = set(
        connection.execute(
            sa.select(t.instance.c.sop_class).where(t.instance.c.study == study_id, t.instance.c.is_current).distinct()
        ).scalars()
    )
    modalities = {modality for _, modality, _, _, count, _ in per_series if modality and count}
    series_count = sum(count > 0 for *_, count, _ in per_series)
    instance_count = sum(count for *_, count, _ in per_series)
    study = connection.execute(sa.select(t.study).where(t.study.c.id == study_id).with_for_update()).one()
    row_json = rows.restudy_row(
        study.row,
        modalities=sorted(modalities),
        sop_classes=sorted(sop_classes),
        series_count=series_count,
        instance_count=instance_count,
    )
    connection.execute(
        t.study.update()
        .where(t.study.c.id == study_id)
        .values(
            modalities=joined(modalities),
            sop_classes=joined(sop_classes),
            series_count=series_count,
            instance_count=instance_count,
            size_bytes=sum(size for *_, size in per_series),
            row=row_json,
            version=study.version + 1,
        )
    )
