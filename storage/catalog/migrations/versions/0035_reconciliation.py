"""Studies whose order is in doubt.

Revision ID: 0035
Revises: 0034
"""

# What stands here is history: a later schema is a later revision, never a change to this file.

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0035"
down_revision = "0034"
branch_labels = None
depends_on = None

Text = sa.Text().with_variant(sa.Text(collation="C"), "postgresql")
Time = sa.DateTime(timezone=True)


def upgrade() -> None:
    """Make the table."""
    op.create_table(
        "reconciliation",
        sa.Column("id", sa.String(length=32), nullable=False),
        sa.Column("facility", sa.String(length=64), nullable=False),
        sa.Column("study_uid", Text, nullable=False),
        sa.Column("state", sa.String(length=16), nullable=False),
        sa.Column("reasons", sa.LargeBinary(), nullable=False),
        sa.Column("candidates", sa.LargeBinary(), nullable=False),
        sa.Column("accession_number", Text, nullable=False),
        sa.Column("how", sa.String(length=32), nullable=False),
        sa.Column("actor", Text, nullable=False),
        sa.Column("note", Text, nullable=False),
        sa.Column("moved", sa.LargeBinary()),
        sa.Column("made_at", Time, nullable=False),
        sa.Column("changed_at", Time, nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_reconciliation"),
        sa.UniqueConstraint("facility", "study_uid", name="uq_reconciliation_facility_study_uid"),
        sa.ForeignKeyConstraint(["facility"], ["facility.id"], name="fk_reconciliation_facility"),
    )
    op.create_index("ix_reconciliation_state", "reconciliation", ["state", "id"])
