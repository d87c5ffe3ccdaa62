"""FHIR Subscriptions: what the server does for each, the events that they are told of, tokens of WebSockets.

Revision ID: 0016
Revises: 0015
"""

# What stands here is history: a later schema is a later revision, never a change to this file.

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0016"
down_revision = "0015"
branch_labels = None
depends_on = None

Text = sa.Text().with_variant(sa.Text(collation="C"), "postgresql")
Time = sa.DateTime(timezone=True)
Number = sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def upgrade() -> None:
    """Make the tables."""
    op.create_table(
        "fhir_subscription",
        sa.Column("rid", Number, autoincrement=False, nullable=False),
        sa.Column("type", Text, nullable=False),
        sa.Column("topic", Text),
        sa.Column("criteria", sa.LargeBinary(), nullable=False),
        sa.Column("status", sa.String(length=16), nullable=False),
        sa.Column("channel", sa.String(length=16), nullable=False),
        sa.Column("endpoint", Text, nullable=False),
        sa.Column("headers", sa.LargeBinary(), nullable=False),
        sa.Column("payload", Text, nullable=False),
        sa.Column("content", sa.String(length=16), nullable=False),
        sa.Column("heartbeat_seconds", sa.Integer()),
        sa.Column("timeout_seconds", sa.Integer()),
        sa.Column("most_events", sa.Integer()),
        sa.Column("end_at", Time),
        sa.Column("actor", Text, nullable=False),
        sa.Column("sees", sa.LargeBinary(), nullable=False),
        sa.Column("facility", sa.String(length=64), nullable=False),
        sa.Column("root", Text, nullable=False),
        sa.Column("dicomweb", Text, nullable=False),
        sa.Column("number", sa.BigInteger(), server_default="0", nullable=False),
        sa.Column("told", sa.BigInteger(), server_default="0", nullable=False),
        sa.Column("told_at", Time),
        sa.Column("failures", sa.Integer(), server_default="0", nullable=False),
        sa.Column("failing_since", Time),
        sa.Column("error", Text, nullable=False),
        sa.Column("due_at", Time),
        sa.ForeignKeyConstraint(["rid"], ["resource.rid"], name="fk_fhir_subscription_rid"),
        sa.PrimaryKeyConstraint("rid", name="pk_fhir_subscription"),
    )
    live, due = sa.text("status <> 'off'"), sa.text("due_at IS NOT NULL")
    op.create_index(
        "ix_fhir_subscription_type", "fhir_subscription", ["type"], sqlite_where=live, postgresql_where=live
    )
    op.create_index("ix_fhir_subscription_due", "fhir_subscription", ["due_at"], sqlite_where=due, postgresql_where=due)
    op.create_table(
        "fhir_notification",
        sa.Column("rid", Number, autoincrement=False, nullable=False),
        sa.Column("number", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("type", Text, nullable=False),
        sa.Column("id", Text, nullable=False),
        sa.Column("version", sa.Integer(), nullable=False),
        sa.Column("cause", Text, nullable=False),
        sa.Column("context", Text, nullable=False),
        sa.Column("at", Time, nullable=False),
        sa.ForeignKeyConstraint(
            ["rid"], ["fhir_subscription.rid"], name="fk_fhir_notification_rid", ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("rid", "number", name="pk_fhir_notification"),
        sa.UniqueConstraint("rid", "type", "id", "cause", name="uq_fhir_notification_rid_type_id_cause"),
    )
    op.create_index("ix_fhir_notification_at", "fhir_notification", ["at"])
    op.create_table(
        "fhir_socket_token",
        sa.Column("digest", sa.String(length=64), nullable=False),
        sa.Column("rids", Text, nullable=False),
        sa.Column("until", Time, nullable=False),
        sa.PrimaryKeyConstraint("digest", name="pk_fhir_socket_token"),
    )
