"""The patients that studies are of."""

from __future__ import annotations

from datetime import datetime
from typing import Any

import sqlalchemy as sa

from storage.catalog import schema as t
from storage.catalog.writers import insert_for


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
    # Locked first: a study of this patient that is being recorded is then seen, or comes after.
    connection.execute(sa.select(t.patient.c.id).where(t.patient.c.id == patient).with_for_update())
    has_study = sa.exists().where(t.study.c.patient == patient)
    connection.execute(t.patient.delete().where(t.patient.c.id == patient, ~has_study))
