"""The patients that studies are of."""

from __future__ import annotations

from datetime import datetime
from typing import Any

import orjson
import sqlalchemy as sa

from storage.catalog import schema as t
from storage.catalog.ids import nameless_key, patient_key
from storage.catalog.work_items import touch_items
from storage.catalog.writers import insert_for
from storage.dicomjson import MetadataJson

_WHO = ("00100010", "00100020", "00100021", "00100022", "00100024", "00100030", "00100040", "00101002")
"""What a patient is called by: the attributes of a study that `schema.patient.header` keeps."""

_KNOWN = sa.select(t.patient.c.id, t.patient.c.header).where(
    t.patient.c.issuer == sa.bindparam("issuer"), t.patient.c.patient_id == sa.bindparam("patient_id")
)


_M = t.patient_merge.c
_MERGED = sa.and_(
    _M.undone_at.is_(None),
    _M.issuer == t.patient.c.issuer,
    sa.or_(_M.from_id == t.patient.c.patient_id, _M.into_id == t.patient.c.patient_id),
)


def patient_of(
    connection: sa.Connection,
    owner_facility: str,
    columns: dict[str, Any],
    now: datetime,
    *,
    study_uid: str,
    header: MetadataJson,
) -> str:
    """The patient of a study, who is then called what its header says.

    It is the one with that id from that issuer; the facility is the issuer where the object names none. A study whose
    patient has no id has one of its own.
    """
    patient_id = columns["patient_id"] or None
    issuer = columns["issuer"]
    if not issuer:
        issuer = connection.execute(
            sa.select(t.facility.c.issuer).where(t.facility.c.id == owner_facility)
        ).scalar_one()
    called = orjson.dumps({tag: header[tag] for tag in _WHO if tag in header})
    known = {"issuer": issuer, "patient_id": patient_id}
    found = connection.execute(_KNOWN, known).one_or_none() if patient_id else None
    if found is None:
        made = patient_key(issuer, patient_id) if patient_id else nameless_key(owner_facility, study_uid)
        insert = insert_for(connection)(t.patient).values(
            id=made, version=1, received_at=now, updated_at=now, header=called, **known
        )
        is_new = connection.execute(insert.on_conflict_do_nothing().returning(t.patient.c.id)).first() is not None
        if is_new and patient_id:
            _tell_items(connection, patient_id, now)
        if not patient_id:
            rename_patient(connection, made, called, now)
            return made
        found = connection.execute(_KNOWN, known).one()
    if found.header != called:
        rename_patient(connection, found.id, called, now)
    return str(found.id)


def _tell_items(connection: sa.Connection, patient_id: str, now: datetime) -> None:
    """Let items that name a patient who is known only now be at their next version: they lead to that patient."""
    v = t.work_item_value.c
    named = sa.select(v.entity).where(v.key == "00100020", v.value == patient_id)
    touch_items(connection, now, t.work_item.c.id.in_(named), t.work_item.c.study_uid.is_(None))


def rename_patient(connection: sa.Connection, patient: str, called: bytes, now: datetime) -> None:
    """Have a patient called otherwise; changes nothing where that is so already."""
    c = t.patient.c
    other = t.patient.update().where(c.id == patient, sa.or_(c.header.is_(None), c.header != called))
    connection.execute(other.values(header=called, version=c.version + 1, updated_at=now))


def forget_patient(connection: sa.Connection, patient: str) -> None:
    """Remove a patient that has no study any more, and that no merge that holds is from or into."""
    # Locked first: a study of this patient that is being recorded is then seen, or comes after.
    connection.execute(sa.select(t.patient.c.id).where(t.patient.c.id == patient).with_for_update())
    has_study = sa.exists().where(t.study.c.patient == patient)
    kept = sa.exists().where(_MERGED)
    connection.execute(t.patient.delete().where(t.patient.c.id == patient, ~has_study, ~kept))
