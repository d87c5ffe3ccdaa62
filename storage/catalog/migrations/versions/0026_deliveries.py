"""Deliveries of signed reports, their attempts, and how it goes with each destination.

Revision ID: 0026
Revises: 0025
"""

# What stands here is history: a later schema is a later revision, never a change to this file.

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0026"
down_revision = "0025"
branch_labels = None
depends_on = None

Text = sa.Text().with_variant(sa.Text(collation="C"), "postgresql")
Time = sa.DateTime(timezone=True)
Number = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
_OPEN = "state IN ('queued', 'sent')"


def upgrade() -> None:
    """Make the tables."""
    op.create_table(
        "delivery",
        sa.Column("id", Number, autoincrement=True, nullable=False),
        sa.Column("report", sa.String(length=32), nullable=False),
        sa.Column("number", sa.Integer(), nullable=False),
        sa.Column("facility", sa.String(length=64), nullable=False),
        sa.Column("owner", sa.String(length=64), nullable=False),
        sa.Column("destination", sa.String(length=64), nullable=False),
        sa.Column("channel", Text, nullable=False),
        sa.Column("told", sa.LargeBinary(), nullable=False),
        sa.Column("lane", Text, nullable=False),
        sa.Column("study_uid", Text),
        sa.Column("item", sa.String(length=32)),
        sa.Column("state", sa.String(length=8), nullable=False),
        sa.Column("control_id", sa.String(length=20), nullable=False),
        sa.Column("attempts", sa.Integer(), nullable=False),
        sa.Column("error", Text, nullable=False),
        sa.Column("receipt", sa.LargeBinary()),
        sa.Column("queued_at", Time, nullable=False),
        sa.Column("next_at", Time, nullable=False),
        sa.Column("first_tried_at", Time),
        sa.Column("done_at", Time),
        sa.PrimaryKeyConstraint("id", name="pk_delivery"),
        sa.ForeignKeyConstraint(["report"], ["report.id"], name="fk_delivery_report"),
        sa.UniqueConstraint("control_id", name="uq_delivery_control_id"),
        sa.UniqueConstraint(
            "report", "number", "owner", "destination", name="uq_delivery_report_number_owner_destination"
        ),
        sqlite_autoincrement=True,
    )
    for name, columns in (
        ("ix_delivery_open", ["owner", "destination", "id"]),
        ("ix_delivery_lane", ["owner", "destination", "lane", "id"]),
    ):
        op.create_index(name, "delivery", columns, sqlite_where=sa.text(_OPEN), postgresql_where=sa.text(_OPEN))
    op.create_index("ix_delivery_state", "delivery", ["state", "id"])
    op.create_table(
        "delivery_attempt",
        sa.Column("delivery", Number, autoincrement=False, nullable=False),
        sa.Column("number", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("control_id", sa.String(length=20), nullable=False),
        sa.Column("begun_at", Time, nullable=False),
        sa.Column("ended_at", Time),
        sa.Column("outcome", sa.String(length=8), nullable=False),
        sa.Column("error", Text, nullable=False),
        sa.PrimaryKeyConstraint("delivery", "number", name="pk_delivery_attempt"),
        sa.ForeignKeyConstraint(["delivery"], ["delivery.id"], name="fk_delivery_attempt_delivery"),
    )
    op.create_table(
        "delivery_way",
        sa.Column("owner", sa.String(length=64), nullable=False),
        sa.Column("destination", sa.String(length=64), nullable=False),
        sa.Column("failures", sa.Integer(), nullable=False),
        sa.Column("retry_at", Time),
        sa.Column("escalation", sa.String(length=32)),
        sa.PrimaryKeyConstraint("owner", "destination", name="pk_delivery_way"),
    )
