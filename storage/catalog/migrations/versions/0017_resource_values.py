"""The values of FHIR resources that searches match.

Revision ID: 0017
Revises: 0016
"""

# What stands here is history: a later schema is a later revision, never a change to this file.

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0017"
down_revision = "0016"
branch_labels = None
depends_on = None

Text = sa.Text().with_variant(sa.Text(collation="C"), "postgresql")
Number = sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def upgrade() -> None:
    """Make the table."""
    op.create_table(
        "resource_value",
        sa.Column("key", Text, nullable=False),
        sa.Column("text", Text, nullable=False),
        sa.Column("rid", Number, nullable=False, autoincrement=False),
        sa.Column("number", sa.Integer(), nullable=False, autoincrement=False),
        sa.Column("space", Text, nullable=False),
        sa.Column("low", sa.Double()),
        sa.Column("high", sa.Double()),
        sa.ForeignKeyConstraint(["rid"], ["resource.rid"], name="fk_resource_value_rid"),
        sa.PrimaryKeyConstraint("key", "text", "rid", "number", name="pk_resource_value"),
        sqlite_with_rowid=False,
    )
    op.create_index("ix_resource_value_rid", "resource_value", ["rid", "key", "text"])
    held = sa.text("low IS NOT NULL")
    op.create_index(
        "ix_resource_value_low", "resource_value", ["key", "low", "rid"], sqlite_where=held, postgresql_where=held
    )
