"""Studies that go on to others, what of them was sent, and how it goes with each destination.

Revision ID: 0034
Revises: 0033
"""

# What stands here is history: a later schema is a later revision, never a change to this file.

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0034"
down_revision = "0033"
branch_labels = None
depends_on = None

Text = sa.Text().with_variant(sa.Text(collation="C"), "postgresql")
Time = sa.DateTime(timezone=True)
Number = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
_QUEUED = "state = 'queued'"


def upgrade() -> None:
    """Make the tables."""
    op.create_table(
        "forward",
        sa.Column("id", Number, autoincrement=True, nullable=False),
        sa.Column("rule", Text, nullable=False),
        sa.Column("destination", Text, nullable=False),
        sa.Column("facility", sa.String(length=64), nullable=False),
        sa.Column("study_uid", Text, nullable=False),
        sa.Column("rank", sa.Integer(), nullable=False),
        sa.Column("state", sa.String(length=8), nullable=False),
        sa.Column("attempts", sa.Integer(), nullable=False),
        sa.Column("error", Text, nullable=False),
        sa.Column("queued_at", Time, nullable=False),
        sa.Column("next_at", Time, nullable=False),
        sa.Column("done_at", Time),
        sa.PrimaryKeyConstraint("id", name="pk_forward"),
        sa.UniqueConstraint(
            "facility", "study_uid", "rule", "destination", name="uq_forward_facility_study_uid_rule_destination"
        ),
        sqlite_autoincrement=True,
    )
    op.create_index(
        "ix_forward_queued",
        "forward",
        ["destination", "next_at"],
        sqlite_where=sa.text(_QUEUED),
        postgresql_where=sa.text(_QUEUED),
    )
    op.create_index("ix_forward_state", "forward", ["state", "id"])
    op.create_table(
        "forwarded",
        sa.Column("forward", Number, autoincrement=False, nullable=False),
        sa.Column("instance_uid", Text, nullable=False),
        sa.Column("version", sa.Integer(), nullable=False),
        sa.Column("overlay_version", sa.Integer(), nullable=False),
        sa.Column("status", sa.String(length=8), nullable=False),
        sa.Column("code", Text, nullable=False),
        sa.Column("at", Time, nullable=False),
        sa.PrimaryKeyConstraint("forward", "instance_uid", name="pk_forwarded"),
        sa.ForeignKeyConstraint(["forward"], ["forward.id"], name="fk_forwarded_forward"),
    )
    op.create_table(
        "forward_way",
        sa.Column("destination", Text, nullable=False),
        sa.Column("failures", sa.Integer(), nullable=False),
        sa.Column("retry_at", Time),
        sa.Column("free_at", Time),
        sa.Column("error", Text, nullable=False),
        sa.PrimaryKeyConstraint("destination", name="pk_forward_way"),
    )
