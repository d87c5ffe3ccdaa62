"""What modalities say that they have done: performed procedure steps.

Revision ID: 0033
Revises: 0032
"""

# What stands here is history: a later schema is a later revision, never a change to this file.

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0033"
down_revision = "0032"
branch_labels = None
depends_on = None

Text = sa.Text().with_variant(sa.Text(collation="C"), "postgresql")
Time = sa.DateTime(timezone=True)


def upgrade() -> None:
    """Make the table."""
    op.create_table(
        "performed_step",
        sa.Column("instance_uid", Text, nullable=False),
        sa.Column("facility", sa.String(length=64), nullable=False),
        sa.Column("source", Text, nullable=False),
        sa.Column("state", sa.String(length=16), nullable=False),
        sa.Column("study_uid", Text, nullable=False),
        sa.Column("steps", Text, nullable=False),
        sa.Column("doubt", Text, nullable=False),
        sa.Column("attributes", sa.LargeBinary(), nullable=False),
        sa.Column("created_at", Time, nullable=False),
        sa.Column("changed_at", Time, nullable=False),
        sa.PrimaryKeyConstraint("instance_uid", name="pk_performed_step"),
        sa.ForeignKeyConstraint(["facility"], ["facility.id"], name="fk_performed_step_facility"),
    )
    op.create_index("ix_performed_step_study_uid", "performed_step", ["study_uid", "facility"])
    op.create_index(
        "ix_performed_step_doubt",
        "performed_step",
        ["created_at", "instance_uid"],
        sqlite_where=sa.text("doubt != ''"),
        postgresql_where=sa.text("doubt != ''"),
    )
