"""What the views of FHIR need of studies, patients, work items, orders and the directory.

Revision ID: 0015
Revises: 0014
"""

# What stands here is history: a later schema is a later revision, never a change to this file.

from __future__ import annotations

from itertools import batched
from typing import Any
from uuid import UUID, uuid5

import orjson
import sqlalchemy as sa
from alembic import op

revision = "0015"
down_revision = "0014"
branch_labels = None
depends_on = None

Text = sa.Text().with_variant(sa.Text(collation="C"), "postgresql")
Time = sa.DateTime(timezone=True)

NAMESPACE = UUID("0d1c0a3e-7a0c-5d5f-9a47-6d1e2f8b3c51")
PATIENT = ("00100010", "00100020", "00100021", "00100022", "00100024", "00100030", "00100040", "00101002")
MARK = b"\x01"
_NAMED = ("header", "updated_at")
_AT_ONCE = 500


def upgrade() -> None:
    """Make columns and tables, and fill in the ids of studies and what patients are called."""
    op.add_column("study", sa.Column("fhir_id", sa.String(length=32)))
    op.create_index("uq_study_fhir_id", "study", ["fhir_id"], unique=True)
    op.create_index("ix_study_updated", "study", ["updated_at", "id"])
    op.add_column("patient", sa.Column("header", sa.LargeBinary()))
    op.add_column("patient", sa.Column("updated_at", Time))
    op.add_column("facility", sa.Column("updated_at", Time))
    op.add_column("reader", sa.Column("updated_at", Time))
    op.add_column("work_item", sa.Column("extras", sa.LargeBinary()))
    op.create_index("ix_work_item_changed", "work_item", ["changed_at", "id"])
    op.create_table(
        "study_version",
        sa.Column("study", sa.String(length=32), nullable=False),
        sa.Column("version", sa.Integer(), nullable=False),
        sa.Column("updated_at", Time, nullable=False),
        sa.Column("is_deleted", sa.Boolean(), nullable=False),
        sa.Column("rest", sa.LargeBinary(), nullable=False),
        sa.ForeignKeyConstraint(["study"], ["study.id"], name="fk_study_version_study", ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("study", "version", name="pk_study_version"),
    )
    op.create_index("ix_study_version_updated", "study_version", ["updated_at", "study", "version"])
    op.create_table(
        "work_item_version",
        sa.Column("item", sa.String(length=32), nullable=False),
        sa.Column("version", sa.Integer(), nullable=False),
        sa.Column("changed_at", Time, nullable=False),
        sa.Column("row", sa.LargeBinary(), nullable=False),
        sa.ForeignKeyConstraint(["item"], ["work_item.id"], name="fk_work_item_version_item", ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("item", "version", name="pk_work_item_version"),
    )
    op.create_index("ix_work_item_version_changed", "work_item_version", ["changed_at", "item", "version"])
    op.create_table(
        "imaging_order",
        sa.Column("facility", sa.String(length=64), nullable=False),
        sa.Column("id", sa.String(length=64), nullable=False),
        sa.Column("accession_number", Text, nullable=False),
        sa.Column("state", sa.String(length=16), nullable=False),
        sa.Column("priority", sa.String(length=16), nullable=False),
        sa.Column("patient_id", Text),
        sa.Column("issuer", Text),
        sa.Column("procedure", Text),
        sa.Column("reason", Text),
        sa.Column("ordered_at", Time),
        sa.Column("item", sa.String(length=32)),
        sa.Column("created_at", Time, nullable=False),
        sa.Column("updated_at", Time, nullable=False),
        sa.ForeignKeyConstraint(["facility"], ["facility.id"], name="fk_imaging_order_facility"),
        sa.ForeignKeyConstraint(["item"], ["work_item.id"], name="fk_imaging_order_item"),
        sa.PrimaryKeyConstraint("facility", "id", name="pk_imaging_order"),
    )
    op.create_index("ix_imaging_order_accession", "imaging_order", ["accession_number", "facility"])
    op.create_index("ix_imaging_order_item", "imaging_order", ["item"])
    _fill(op.get_bind())


def _fill(connection: sa.Connection) -> None:
    """Give ids to studies; let patients be called what their last study calls them."""
    names = ("id", "owner_facility", "study_uid", "fhir_id", "patient", "row", "extra", "received_at", "updated_at")
    study, patient = sa.table("study", *map(sa.column, names)), sa.table("patient", *map(sa.column, ("id", *_NAMED)))
    identify = study.update().where(study.c.id == sa.bindparam("this")).values(fhir_id=sa.bindparam("made"))
    name = patient.update().where(patient.c.id == sa.bindparam("this"))
    name = name.values({column: sa.bindparam(f"new_{column}") for column in _NAMED})
    found = connection.execute(sa.select(study.c.id, study.c.owner_facility, study.c.study_uid)).all()
    for some in batched(found, _AT_ONCE):
        made = [{"this": id, "made": uuid5(NAMESPACE, f"{facility}|{uid}").hex} for id, facility, uid in some]
        connection.execute(identify, made)
    wanted = (study.c.patient, study.c.row, study.c.extra, study.c.updated_at)
    for ids in batched(connection.execute(sa.select(patient.c.id)).scalars().all(), _AT_ONCE):
        latest: dict[str, dict[str, Any]] = {}
        rows = sa.select(*wanted).where(study.c.patient.in_(ids)).order_by(study.c.received_at, study.c.id)
        for row in connection.execute(rows):
            if row.row and row.extra:
                told = orjson.loads(bytes(row.row).replace(MARK, b"")) | orjson.loads(row.extra)
                header = orjson.dumps({tag: told[tag] for tag in PATIENT if tag in told})
                latest[row.patient] = {"this": row.patient, "new_header": header, "new_updated_at": row.updated_at}
        if latest:
            connection.execute(name, list(latest.values()))
