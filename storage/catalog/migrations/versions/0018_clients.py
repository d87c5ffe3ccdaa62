"""Clients, their used assertions, and the keys that sign their tokens.

Revision ID: 0018
Revises: 0017
"""

# What stands here is history: a later schema is a later revision, never a change to this file.

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0018"
down_revision = "0017"
branch_labels = None
depends_on = None

Text = sa.Text().with_variant(sa.Text(collation="C"), "postgresql")
Time = sa.DateTime(timezone=True)


def upgrade() -> None:
    """Make the tables."""
    op.create_table(
        "client",
        sa.Column("id", sa.String(length=64), nullable=False),
        sa.Column("name", Text, nullable=False),
        sa.Column("jwks", Text),
        sa.Column("jwks_uri", Text),
        sa.Column("scopes", Text, nullable=False),
        sa.Column("facilities", Text),
        sa.Column("facility", sa.String(length=64)),
        sa.Column("may", Text, nullable=False),
        sa.Column("patient", Text),
        sa.Column("created_at", Time, nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_client"),
    )
    op.create_table(
        "assertion",
        sa.Column("client", Text, nullable=False),
        sa.Column("digest", sa.LargeBinary(length=32), nullable=False),
        sa.Column("expires_at", Time, nullable=False),
        sa.PrimaryKeyConstraint("client", "digest", name="pk_assertion"),
    )
    op.create_index("ix_assertion_expires_at", "assertion", ["expires_at"])
    op.create_table(
        "signing_key",
        sa.Column("kid", sa.String(length=64), nullable=False),
        sa.Column("jwk", Text, nullable=False),
        sa.Column("created_at", Time, nullable=False),
        sa.PrimaryKeyConstraint("kid", name="pk_signing_key"),
    )
