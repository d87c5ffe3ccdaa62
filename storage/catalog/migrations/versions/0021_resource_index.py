"""How far the values of FHIR resources are listed.

Revision ID: 0021
Revises: 0020
"""

# What stands here is history: a later schema is a later revision, never a change to this file.

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0021"
down_revision = "0020"
branch_labels = None
depends_on = None

Text = sa.Text().with_variant(sa.Text(collation="C"), "postgresql")


def upgrade() -> None:
    """Make the table."""
    op.create_table(
        "resource_index",
        sa.Column("type", Text, nullable=False),
        sa.Column("digest", sa.String(16), nullable=False),
        sa.Column("reached", sa.BigInteger()),
        sa.Column("done", sa.BigInteger(), nullable=False),
        sa.Column("total", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("type", name="pk_resource_index"),
    )
