"""The clocks of work items: what each runs by, its pauses, and the marks that it passes.

Revision ID: 0012
Revises: 0011
"""

# What stands here is history: a later schema is a later revision, never a change to this file.

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0012"
down_revision = "0011"
branch_labels = None
depends_on = None

Text = sa.Text().with_variant(sa.Text(collation="C"), "postgresql")
Time = sa.DateTime(timezone=True)


def upgrade() -> None:
    """Make the tables."""
    op.create_table(
        "sla_clock",
        sa.Column("item", sa.String(length=32), nullable=False),
        sa.Column("started_at", Time, nullable=False),
        sa.Column("contract", sa.String(length=32)),
        sa.Column("study_type", Text, nullable=False),
        sa.Column("because", Text, nullable=False),
        sa.Column("grace_seconds", sa.Integer(), nullable=False),
        sa.Column("pause_reasons", Text, nullable=False),
        sa.Column("paused_at", Time),
        sa.Column("pauses", Text, nullable=False),
        sa.ForeignKeyConstraint(["item"], ["work_item.id"], name="fk_sla_clock_item", ondelete="CASCADE"),
        sa.ForeignKeyConstraint(["contract"], ["contract.id"], name="fk_sla_clock_contract"),
        sa.PrimaryKeyConstraint("item", name="pk_sla_clock"),
    )
    op.create_table(
        "sla_mark",
        sa.Column("item", sa.String(length=32), nullable=False),
        sa.Column("mark", sa.String(length=16), nullable=False),
        sa.Column("due_at", Time),
        sa.Column("fired_at", Time),
        sa.ForeignKeyConstraint(["item"], ["work_item.id"], name="fk_sla_mark_item", ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("item", "mark", name="pk_sla_mark"),
    )
    waiting = sa.text("fired_at IS NULL AND due_at IS NOT NULL")
    op.create_index("ix_sla_mark_due", "sla_mark", ["due_at"], sqlite_where=waiting, postgresql_where=waiting)
