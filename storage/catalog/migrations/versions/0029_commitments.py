"""Storage commitment.

Revision ID: 0029
Revises: 0028
"""

# What stands here is history: a later schema is a later revision, never a change to this file.

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0029"
down_revision = "0028"
branch_labels = None
depends_on = None

Text = sa.Text().with_variant(sa.Text(collation="C"), "postgresql")
Time = sa.DateTime(timezone=True)


def upgrade() -> None:
    """Make the table."""
    op.create_table(
        "commitment",
        sa.Column("id", sa.String(length=32), nullable=False),
        sa.Column("realm", Text, nullable=False),
        sa.Column("ae", sa.String(length=16), nullable=False),
        sa.Column("transaction_uid", sa.String(length=64), nullable=False),
        sa.Column("digest", sa.LargeBinary(length=32), nullable=False),
        sa.Column("instances", sa.LargeBinary(), nullable=False),
        sa.Column("problems", sa.LargeBinary()),
        sa.Column("at", Time, nullable=False),
        sa.Column("checked_at", Time),
        sa.Column("told_at", Time),
        sa.PrimaryKeyConstraint("id", name="pk_commitment"),
        sa.UniqueConstraint(
            "realm", "ae", "transaction_uid", "digest", name="uq_commitment_realm_ae_transaction_uid_digest"
        ),
    )
    op.create_index("ix_commitment_transaction_uid", "commitment", ["transaction_uid"])
