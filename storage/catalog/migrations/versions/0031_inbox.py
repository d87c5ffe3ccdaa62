"""Messages of HL7 version 2 that came, and what became of them.

Revision ID: 0031
Revises: 0030
"""

# What stands here is history: a later schema is a later revision, never a change to this file.

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0031"
down_revision = "0030"
branch_labels = None
depends_on = None

Text = sa.Text().with_variant(sa.Text(collation="C"), "postgresql")
Time = sa.DateTime(timezone=True)


def upgrade() -> None:
    """Make the table."""
    op.create_table(
        "hl7_message",
        sa.Column("id", sa.BigInteger().with_variant(sa.Integer, "sqlite"), autoincrement=True, nullable=False),
        sa.Column("sender", Text, nullable=False),
        sa.Column("control_id", Text, nullable=False),
        sa.Column("digest", sa.String(length=64), nullable=False),
        sa.Column("facility", sa.String(length=64), nullable=False),
        sa.Column("kind", Text, nullable=False),
        sa.Column("address", Text, nullable=False),
        sa.Column("body", sa.LargeBinary(), nullable=False),
        sa.Column("state", sa.String(length=16), nullable=False),
        sa.Column("error", Text, nullable=False),
        sa.Column("attempts", sa.Integer(), nullable=False),
        sa.Column("profile", Text, nullable=False),
        sa.Column("about", Text, nullable=False),
        sa.Column("received_at", Time, nullable=False),
        sa.Column("done_at", Time),
        sa.PrimaryKeyConstraint("id", name="pk_hl7_message"),
        sa.UniqueConstraint("sender", "control_id", "digest", name="uq_hl7_message_sender_control_id_digest"),
        sqlite_autoincrement=True,
    )
    for name, columns, where in (
        ("ix_hl7_message_next", ["facility", "id"], "state = 'received'"),
        ("ix_hl7_message_about", ["facility", "about", "id"], "about <> ''"),
    ):
        op.create_index(name, "hl7_message", columns, sqlite_where=sa.text(where), postgresql_where=sa.text(where))
    op.create_index("ix_hl7_message_state", "hl7_message", ["state", "id"])
