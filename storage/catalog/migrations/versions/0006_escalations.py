"""Escalations, and the attempts to reach somebody.

Revision ID: 0006
Revises: 0005
"""

# What stands here is history: a later schema is a later revision, never a change to this file.

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None

Text = sa.Text().with_variant(sa.Text(collation="C"), "postgresql")
Time = sa.DateTime(timezone=True)


def upgrade() -> None:
    """Make the tables."""
    op.create_table(
        "escalation",
        sa.Column("id", sa.String(length=32), nullable=False),
        sa.Column("key", Text, nullable=False),
        sa.Column("facility", sa.String(length=64), nullable=False),
        sa.Column("item", Text),
        sa.Column("study_uid", Text),
        sa.Column("reason", Text, nullable=False),
        sa.Column("category", sa.Integer),
        sa.Column("details", sa.LargeBinary, nullable=False),
        sa.Column("ladder", sa.LargeBinary, nullable=False),
        sa.Column("state", sa.String(length=16), nullable=False),
        sa.Column("rung", sa.Integer, nullable=False),
        sa.Column("due_at", Time),
        sa.Column("opened_at", Time, nullable=False),
        sa.Column("closed_at", Time),
        sa.Column("closed_by", Text),
        sa.Column("read_back", Text, nullable=False),
        sa.Column("version", sa.Integer, nullable=False),
        sa.ForeignKeyConstraint(["facility"], ["facility.id"], name="fk_escalation_facility"),
        sa.PrimaryKeyConstraint("id", name="pk_escalation"),
        sa.UniqueConstraint("key", name="uq_escalation_key"),
    )
    for name, columns, condition in (
        ("ix_escalation_due", ["due_at"], "due_at IS NOT NULL"),
        ("ix_escalation_open", ["facility", "opened_at"], "state = 'open'"),
    ):
        where = sa.text(condition)
        op.create_index(name, "escalation", columns, sqlite_where=where, postgresql_where=where)
    op.create_index("ix_escalation_item", "escalation", ["item"])
    op.create_index("ix_escalation_study_uid", "escalation", ["study_uid"])
    op.create_table(
        "escalation_attempt",
        sa.Column("id", sa.String(length=32), nullable=False),
        sa.Column("escalation", sa.String(length=32), nullable=False),
        sa.Column("rung", sa.Integer, nullable=False),
        sa.Column("name", Text, nullable=False),
        sa.Column("role", Text, nullable=False),
        sa.Column("channel", Text, nullable=False),
        sa.Column("address", Text, nullable=False),
        sa.Column("at", Time, nullable=False),
        sa.Column("state", sa.String(length=16), nullable=False),
        sa.Column("plugin", Text, nullable=False),
        sa.Column("reference", Text, nullable=False),
        sa.Column("error", Text, nullable=False),
        sa.ForeignKeyConstraint(
            ["escalation"], ["escalation.id"], name="fk_escalation_attempt_escalation", ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("id", name="pk_escalation_attempt"),
        sa.UniqueConstraint(
            "escalation",
            "rung",
            "channel",
            "address",
            name="uq_escalation_attempt_escalation_rung_channel_address",
        ),
    )
