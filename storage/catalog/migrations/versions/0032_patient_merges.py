"""Who patients are by the messages of their facility, and which of them were merged.

Revision ID: 0032
Revises: 0031
"""

# What stands here is history: a later schema is a later revision, never a change to this file.

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0032"
down_revision = "0031"
branch_labels = None
depends_on = None

Text = sa.Text().with_variant(sa.Text(collation="C"), "postgresql")
Time = sa.DateTime(timezone=True)


def upgrade() -> None:
    """Make the tables."""
    op.create_table(
        "patient_known",
        sa.Column("facility", sa.String(length=64), nullable=False),
        sa.Column("issuer", Text, nullable=False),
        sa.Column("patient_id", Text, nullable=False),
        sa.Column("attributes", sa.LargeBinary(), nullable=False),
        sa.Column("source", Text, nullable=False),
        sa.Column("at", Time, nullable=False),
        sa.PrimaryKeyConstraint("facility", "issuer", "patient_id", name="pk_patient_known"),
        sa.ForeignKeyConstraint(["facility"], ["facility.id"], name="fk_patient_known_facility"),
    )
    op.create_table(
        "patient_merge",
        sa.Column("id", sa.String(length=32), nullable=False),
        sa.Column("facility", sa.String(length=64), nullable=False),
        sa.Column("issuer", Text, nullable=False),
        sa.Column("from_id", Text, nullable=False),
        sa.Column("into_id", Text, nullable=False),
        sa.Column("source", Text, nullable=False),
        sa.Column("at", Time, nullable=False),
        sa.Column("undone_at", Time),
        sa.Column("undone_source", Text, nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_patient_merge"),
        sa.ForeignKeyConstraint(["facility"], ["facility.id"], name="fk_patient_merge_facility"),
    )
    holds = sa.text("undone_at IS NULL")
    op.create_index(
        "uq_patient_merge_from",
        "patient_merge",
        ["facility", "issuer", "from_id"],
        unique=True,
        sqlite_where=holds,
        postgresql_where=holds,
    )
    op.create_index("ix_patient_merge_from_id", "patient_merge", ["from_id"])
    op.create_index("ix_patient_merge_into_id", "patient_merge", ["into_id"])
    op.create_table(
        "patient_move",
        sa.Column("merge", sa.String(length=32), nullable=False),
        sa.Column("kind", sa.String(length=8), nullable=False),
        sa.Column("key", Text, nullable=False),
        sa.Column("before", sa.LargeBinary(), nullable=False),
        sa.PrimaryKeyConstraint("merge", "kind", "key", name="pk_patient_move"),
        sa.ForeignKeyConstraint(["merge"], ["patient_merge.id"], name="fk_patient_move_merge"),
    )
