"""Studies and patients as plugins see them: the nouns of the contract, read from the catalog with its corrections."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import orjson
import sqlalchemy as sa

from readingroom.errors import NotFound
from readingroom.model import Patient, Series, Study
from storage.catalog import schema as t
from storage.catalog.overlays import load_metadata
from storage.catalog.studies import OUR_SOURCE, PRIOR_SOURCE
from storage.dicomjson import MetadataJson
from storage.objects import BASE_URL_MARK

MOST_STUDIES = 200
"""Of one patient, the newest."""

_S = t.study.c
_MARK = BASE_URL_MARK.encode()
_STUDIES = sa.select(t.study).where(_S.instance_count > 0)
_SERIES = sa.select(t.series).where(t.series.c.instance_count > 0)


def read_study(connection: sa.Connection, facility: str, study_uid: str) -> Study:
    """One study of a facility; raises `NotFound` where there is none, or nothing is left of it."""
    row = connection.execute(_STUDIES.where(_S.owner_facility == facility, _S.study_uid == study_uid)).one_or_none()
    if row is None:
        raise NotFound(f"Facility {facility} has no study {study_uid}.")
    return _shown(connection, [row])[0]


def is_prior(connection: sa.Connection, facility: str, study_uid: str) -> bool:
    """Whether all that there is of a study was fetched from another archive, and so is there to be compared with."""
    mine = _S.owner_facility == facility, _S.study_uid == study_uid
    sources = (
        sa.select(t.instance.c.source)
        .join(t.study, t.instance.c.study == _S.id)
        .where(*mine, t.instance.c.is_current)
        .distinct()
    )
    found = connection.execute(sources).scalars().all()
    return bool(found) and all(source.startswith(PRIOR_SOURCE) for source in found)


def read_removed(connection: sa.Connection, facility: str, study_uid: str) -> Study:
    """One study as it was, with what is removed of it; raises `NotFound` where nothing is known of it any more."""
    row = connection.execute(
        sa.select(t.study).where(_S.owner_facility == facility, _S.study_uid == study_uid)
    ).one_or_none()
    if row is None:
        raise NotFound(f"Facility {facility} has no study {study_uid}.")
    study = _shown(connection, [row], sa.select(t.series))[0]
    return replace(study, modalities=tuple(sorted({one.modality for one in study.series if one.modality})))


def read_header(connection: sa.Connection, facility: str, study_uid: str) -> MetadataJson | None:
    """The header of one instance of a study as it is shown: of an image, where there is one; None without any."""
    is_ours = sa.case((t.instance.c.source == OUR_SOURCE, 1), else_=0)
    statement = (
        sa.select(t.instance_metadata.c.json)
        .join(t.instance, t.instance_metadata.c.instance == t.instance.c.id)
        .join(t.study, t.instance.c.study == t.study.c.id)
        .where(_S.owner_facility == facility, _S.study_uid == study_uid, t.instance.c.is_current)
        .order_by(is_ours, t.instance.c.instance_number, t.instance.c.id)
    )
    stored = connection.execute(statement.limit(1)).scalar_one_or_none()
    return None if stored is None else load_metadata(stored)


def read_patient(connection: sa.Connection, study: Study) -> Patient:
    """The patient of a study, with that patient's other studies in the archive, the newest first.

    A patient is who has the same Patient ID from the same issuer; one without an ID is known by one study alone.
    """
    others = _STUDIES.where(_S.patient == study.patient, _S.study_uid != study.study_uid)
    rows = connection.execute(others.order_by(_S.study_date.desc(), _S.id.desc()).limit(MOST_STUDIES)).all()
    return Patient(
        id=study.patient,
        patient_id=study.patient_id,
        issuer=study.issuer,
        studies=tuple(_shown(connection, rows)),
    )


def _shown(connection: sa.Connection, rows: Sequence[sa.Row[Any]], wanted: sa.Select[Any] = _SERIES) -> list[Study]:
    series: dict[str, list[Series]] = {row.id: [] for row in rows}
    if rows:
        c = t.series.c
        found = wanted.where(c.study.in_(series)).order_by(c.series_number.nulls_last(), c.id)
        for row in connection.execute(found):
            series[row.study].append(
                Series(
                    series_uid=row.series_uid,
                    modality=row.modality,
                    number=row.series_number,
                    description=row.series_description,
                    body_part=row.body_part,
                    laterality=row.laterality,
                    instance_count=row.instance_count,
                )
            )
    return [_study(row, tuple(series[row.id])) for row in rows]


def _study(row: sa.Row[Any], series: tuple[Series, ...]) -> Study:
    return Study(
        study_uid=row.study_uid,
        facility=row.owner_facility,
        patient=row.patient,
        revision=max(row.revision, 1),
        patient_id=row.patient_id or None,
        issuer=row.issuer or None,
        patient_name=_name(orjson.loads(row.row.replace(_MARK, b""))),
        birth_date=row.birth_date or None,
        sex=row.sex or None,
        study_date=row.study_date or None,
        study_time=row.study_time or None,
        accession_number=row.accession_number or None,
        description=row.study_description or None,
        modalities=tuple(one for one in row.modalities.split("\\") if one),
        body_parts=tuple(sorted({one.body_part for one in series if one.body_part})),
        series=series,
        instance_count=row.instance_count,
        received_at=row.received_at,
    )


def _name(header: Mapping[str, Any]) -> str | None:
    """Patient's Name: its first component group."""
    values = header.get("00100010", {}).get("Value") or [{}]
    name = values[0] or {}
    return name.get("Alphabetic") or name.get("Ideographic") or name.get("Phonetic")
