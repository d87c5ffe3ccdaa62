"""Who is told of work items: subscriptions, the reports that are to be sent, and how far each subscriber has come.

Revision ID: 0013
Revises: 0012
"""

# What stands here is history: a later schema is a later revision, never a change to this file.

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0013"
down_revision = "0012"
branch_labels = None
depends_on = None

Text = sa.Text().with_variant(sa.Text(collation="C"), "postgresql")
Time = sa.DateTime(timezone=True)


def upgrade() -> None:
    """Make the tables."""
    op.create_table(
        "ups_subscription",
        sa.Column("realm", Text, nullable=False),
        sa.Column("ae", sa.String(length=16), nullable=False),
        sa.Column("kind", sa.String(length=8), nullable=False),
        sa.Column("item", sa.String(length=32), nullable=False),
        sa.Column("has_lock", sa.Boolean(), nullable=False),
        sa.Column("filter", sa.LargeBinary(), nullable=False),
        sa.Column("at", Time, nullable=False),
        sa.PrimaryKeyConstraint("realm", "ae", "kind", "item", name="pk_ups_subscription"),
    )
    op.create_index("ix_ups_subscription_item", "ups_subscription", ["item", "realm", "ae"])
    op.create_table(
        "ups_report",
        sa.Column(
            "seq",
            sa.BigInteger().with_variant(sa.Integer(), "sqlite"),
            autoincrement=True,
            nullable=False,
        ),
        sa.Column("realm", Text, nullable=False),
        sa.Column("ae", sa.String(length=16), nullable=False),
        sa.Column("workitem_uid", Text, nullable=False),
        sa.Column("type", sa.Integer(), nullable=False),
        sa.Column("at", Time, nullable=False),
        sa.Column("attributes", sa.LargeBinary(), nullable=False),
        sa.PrimaryKeyConstraint("seq", name="pk_ups_report"),
        sqlite_autoincrement=True,
    )
    op.create_index("ix_ups_report_to", "ups_report", ["realm", "ae", "seq"])
    op.create_index("ix_ups_report_at", "ups_report", ["at"])
    op.create_table(
        "ups_channel",
        sa.Column("realm", Text, nullable=False),
        sa.Column("ae", sa.String(length=16), nullable=False),
        sa.Column("sent", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("realm", "ae", name="pk_ups_channel"),
    )
