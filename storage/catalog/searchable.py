"""What searches match beside a row's own columns: a study's patient and person names, a series' requests."""

from __future__ import annotations

from datetime import datetime
from typing import Any

import sqlalchemy as sa

from storage.catalog import rows
from storage.catalog import schema as t
from storage.catalog.writers import insert_for
from storage.dicomjson import MetadataJson


def patient_of(connection: sa.Connection, owner_facility: str, columns: dict[str, Any], now: datetime) -> str:
    """The patient with that id from that issuer; the facility is the issuer where the object names none."""
    patient_id = columns["patient_id"] or None
    issuer = columns["issuer"]
    if not issuer:
        issuer = connection.execute(
            sa.select(t.facility.c.issuer).where(t.facility.c.id == owner_facility)
        ).scalar_one()
    mine = sa.select(t.patient.c.id).where(t.patient.c.issuer == issuer, t.patient.c.patient_id == patient_id)
    found = connection.execute(mine).scalar_one_or_none() if patient_id else None
    if found is not None:
        return str(found)
    new_id = t.new_id()
    connection.execute(
        insert_for(connection)(t.patient)
        .values(id=new_id, issuer=issuer, patient_id=patient_id, version=1, received_at=now)
        .on_conflict_do_nothing()
    )
    return str(connection.execute(mine).scalar_one()) if patient_id else new_id


def forget_patient(connection: sa.Connection, patient: str) -> None:
    """Remove a patient that has no study any more."""
    has_study = sa.exists().where(t.study.c.patient == patient)
    connection.execute(t.patient.delete().where(t.patient.c.id == patient, ~has_study))


def write_names(connection: sa.Connection, study: str, header: MetadataJson) -> None:
    """Make the person names of a study searchable; there are none yet."""
    names = [
        {"study": study, "attribute": attribute, "position": position, "folded": folded}
        for attribute, position, folded in rows.study_names(header)
    ]
    if names:
        connection.execute(t.study_name.insert(), names)


def rewrite_names(connection: sa.Connection, study: str, header: MetadataJson) -> None:
    """The same, in place of those that there are."""
    connection.execute(t.study_name.delete().where(t.study_name.c.study == study))
    write_names(connection, study, header)


def write_requests(connection: sa.Connection, series: str, header: MetadataJson) -> None:
    """Make the requests of a series searchable; there are none yet."""
    requests = [
        {"series": series, "position": position, **request}
        for position, request in enumerate(rows.series_requests(header))
    ]
    if requests:
        connection.execute(t.series_request.insert(), requests)


def rewrite_requests(connection: sa.Connection, series: str, header: MetadataJson) -> None:
    """The same, in place of those that there are."""
    connection.execute(t.series_request.delete().where(t.series_request.c.series == series))
    write_requests(connection, series, header)
