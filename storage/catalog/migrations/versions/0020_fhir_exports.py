"""Bulk exports of FHIR resources.

Revision ID: 0020
Revises: 0019
"""

# What stands here is history: a later schema is a later revision, never a change to this file.

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0020"
down_revision = "0019"
branch_labels = None
depends_on = None

Text = sa.Text().with_variant(sa.Text(collation="C"), "postgresql")
Time = sa.DateTime(timezone=True)


def upgrade() -> None:
    """Make the table."""
    op.create_table(
        "fhir_export",
        sa.Column("id", sa.String(length=32), nullable=False),
        sa.Column("actor", Text, nullable=False),
        sa.Column("sees", sa.LargeBinary(), nullable=False),
        sa.Column("facility", sa.String(length=64), nullable=False),
        sa.Column("root", Text, nullable=False),
        sa.Column("dicomweb", Text, nullable=False),
        sa.Column("request", Text, nullable=False),
        sa.Column("wanted", sa.LargeBinary(), nullable=False),
        sa.Column("state", sa.String(length=16), nullable=False),
        sa.Column("error", Text, nullable=False),
        sa.Column("begun_at", Time, nullable=False),
        sa.Column("expires_at", Time, nullable=False),
        sa.Column("step", sa.Integer(), nullable=False),
        sa.Column("place", Text, nullable=False),
        sa.Column("files", sa.LargeBinary(), nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_fhir_export"),
    )
    op.create_index("ix_fhir_export_expires_at", "fhir_export", ["expires_at"])
    op.create_index("ix_fhir_export_actor", "fhir_export", ["actor", "state"])
