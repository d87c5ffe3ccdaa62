"""What modalities are to do: scheduled procedure steps.

Revision ID: 0030
Revises: 0029
"""

# What stands here is history: a later schema is a later revision, never a change to this file.

from __future__ import annotations

from typing import Any

import sqlalchemy as sa
from alembic import op

revision = "0030"
down_revision = "0029"
branch_labels = None
depends_on = None

Text = sa.Text().with_variant(sa.Text(collation="C"), "postgresql")
Time = sa.DateTime(timezone=True)


def upgrade() -> None:
    """Make the tables."""
    op.create_table(
        "procedure_step",
        sa.Column("id", sa.String(length=32), nullable=False),
        sa.Column("facility", sa.String(length=64), nullable=False),
        sa.Column("step_id", Text, nullable=False),
        sa.Column("imaging_order", sa.String(length=64)),
        sa.Column("accession_number", Text, nullable=False),
        sa.Column("procedure_id", Text, nullable=False),
        sa.Column("study_uid", Text, nullable=False),
        sa.Column("state", sa.String(length=16), nullable=False),
        sa.Column("reason", Text, nullable=False),
        sa.Column("modality", Text, nullable=False),
        sa.Column("station_ae", Text, nullable=False),
        sa.Column("starts_on", Text, nullable=False),
        sa.Column("starts_at", Text, nullable=False),
        sa.Column("patient_id", Text, nullable=False),
        sa.Column("issuer", Text, nullable=False),
        sa.Column("header", sa.LargeBinary(), nullable=False),
        sa.Column("created_at", Time, nullable=False),
        sa.Column("updated_at", Time, nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_procedure_step"),
        sa.UniqueConstraint("facility", "step_id", name="uq_procedure_step_facility_step_id"),
        sa.ForeignKeyConstraint(["facility"], ["facility.id"], name="fk_procedure_step_facility"),
    )
    op.create_index(
        "ix_procedure_step_open",
        "procedure_step",
        ["facility", "starts_on", "starts_at", "id"],
        **_where("state IN ('scheduled', 'arrived', 'started')"),
    )
    op.create_index("ix_procedure_step_accession", "procedure_step", ["accession_number", "facility"])
    op.create_index("ix_procedure_step_order", "procedure_step", ["imaging_order", "facility"])
    op.create_index("ix_procedure_step_study_uid", "procedure_step", ["study_uid"])
    op.create_index("ix_procedure_step_patient_id", "procedure_step", ["patient_id", "issuer"])
    op.create_table(
        "procedure_step_value",
        sa.Column("key", Text, nullable=False),
        sa.Column("value", Text, nullable=False),
        sa.Column("entity", sa.String(length=32), nullable=False),
        sa.Column("item", Text, nullable=False),
        sa.Column("number", sa.Integer(), nullable=False),
        sa.ForeignKeyConstraint(
            ["entity"], ["procedure_step.id"], name="fk_procedure_step_value_entity", ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("key", "value", "entity", "item", "number", name="pk_procedure_step_value"),
        sqlite_with_rowid=False,
    )
    op.create_index("ix_procedure_step_value_entity", "procedure_step_value", ["entity", "key"])


def _where(condition: str) -> dict[str, Any]:
    """A partial index, on either database."""
    return {"sqlite_where": sa.text(condition), "postgresql_where": sa.text(condition)}
