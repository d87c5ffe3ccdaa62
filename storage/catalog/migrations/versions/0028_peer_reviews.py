"""Readings that are finished, and peer reviews of them.

Revision ID: 0028
Revises: 0027
"""

# What stands here is history: a later schema is a later revision, never a change to this file.

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0028"
down_revision = "0027"
branch_labels = None
depends_on = None

Text = sa.Text().with_variant(sa.Text(collation="C"), "postgresql")
Time = sa.DateTime(timezone=True)


def upgrade() -> None:
    """Make the tables."""
    op.create_table(
        "finished_read",
        sa.Column("report", sa.String(length=32), nullable=False),
        sa.Column("facility", sa.String(length=64), nullable=False),
        sa.Column("reader", Text, nullable=False),
        sa.Column("modality", Text, nullable=False),
        sa.Column("at", Time, nullable=False),
        sa.Column("read_on", sa.String(length=10), nullable=False),
        sa.PrimaryKeyConstraint("report", name="pk_finished_read"),
        sa.ForeignKeyConstraint(["report"], ["report.id"], name="fk_finished_read_report"),
        sa.ForeignKeyConstraint(["facility"], ["facility.id"], name="fk_finished_read_facility"),
    )
    op.create_index("ix_finished_read_reader", "finished_read", ["reader", "at", "report"])
    op.create_index("ix_finished_read_on", "finished_read", ["read_on", "report"])
    op.create_table(
        "peer_review",
        sa.Column("id", sa.String(length=32), nullable=False),
        sa.Column("report", sa.String(length=32), nullable=False),
        sa.Column("number", sa.Integer(), nullable=False),
        sa.Column("item", sa.String(length=32), nullable=False),
        sa.Column("state", sa.String(length=16), nullable=False),
        sa.Column("reader", Text, nullable=False),
        sa.Column("because", Text, nullable=False),
        sa.Column("conflicts", Text, nullable=False),
        sa.Column("is_outside", sa.Boolean(), nullable=False),
        sa.Column("selected_at", Time, nullable=False),
        sa.Column("reviewer", Text),
        sa.Column("impression", Text, nullable=False),
        sa.Column("revealed_at", Time),
        sa.Column("score", sa.String(length=2)),
        sa.Column("comment", Text, nullable=False),
        sa.Column("scored_at", Time),
        sa.Column("remarks", Text, nullable=False),
        sa.Column("final_score", sa.String(length=2)),
        sa.Column("outcome", sa.String(length=16), nullable=False),
        sa.Column("adjudicator", Text),
        sa.Column("addendum_item", sa.String(length=32)),
        sa.Column("closed_at", Time),
        sa.Column("version", sa.Integer(), nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_peer_review"),
        sa.UniqueConstraint("report", name="uq_peer_review_report"),
        sa.UniqueConstraint("item", name="uq_peer_review_item"),
        sa.ForeignKeyConstraint(["report"], ["report.id"], name="fk_peer_review_report"),
        sa.ForeignKeyConstraint(["item"], ["work_item.id"], name="fk_peer_review_item"),
    )
    op.create_index("ix_peer_review_state", "peer_review", ["state", "selected_at", "id"])
    op.create_index("ix_peer_review_reviewer", "peer_review", ["reviewer", "state"])
    op.create_index("ix_peer_review_reader", "peer_review", ["reader", "state"])
