"""FHIR resources as they were sent, and their versions.

Revision ID: 0014
Revises: 0013
"""

# What stands here is history: a later schema is a later revision, never a change to this file.

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0014"
down_revision = "0013"
branch_labels = None
depends_on = None

Text = sa.Text().with_variant(sa.Text(collation="C"), "postgresql")
Time = sa.DateTime(timezone=True)
Number = sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def upgrade() -> None:
    """Make the tables."""
    op.create_table(
        "resource",
        sa.Column("rid", Number, autoincrement=True, nullable=False),
        sa.Column("type", Text, nullable=False),
        sa.Column("id", Text, nullable=False),
        sa.Column("facility", sa.String(length=64), nullable=False),
        sa.Column("version", sa.Integer(), nullable=False),
        sa.Column("updated_at", Time, nullable=False),
        sa.Column("is_deleted", sa.Boolean(), nullable=False),
        sa.PrimaryKeyConstraint("rid", name="pk_resource"),
        sa.ForeignKeyConstraint(["facility"], ["facility.id"], name="fk_resource_facility"),
        sa.UniqueConstraint("type", "id", "facility", name="uq_resource_type_id_facility"),
        sqlite_autoincrement=True,
    )
    held = sa.text("NOT is_deleted")
    op.create_index(
        "ix_resource_updated", "resource", ["type", "updated_at", "rid"], sqlite_where=held, postgresql_where=held
    )
    op.create_table(
        "resource_version",
        sa.Column("rid", Number, nullable=False, autoincrement=False),
        sa.Column("version", sa.Integer(), nullable=False, autoincrement=False),
        sa.Column("type", Text, nullable=False),
        sa.Column("updated_at", Time, nullable=False),
        sa.Column("is_deleted", sa.Boolean(), nullable=False),
        sa.Column("method", sa.String(length=8), nullable=False),
        sa.Column("actor", Text, nullable=False),
        sa.Column("meta", sa.LargeBinary(), nullable=False),
        sa.Column("rest", sa.LargeBinary(), nullable=False),
        sa.PrimaryKeyConstraint("rid", "version", name="pk_resource_version"),
        sa.ForeignKeyConstraint(["rid"], ["resource.rid"], name="fk_resource_version_rid"),
    )
    op.create_index("ix_resource_version_type", "resource_version", ["type", "updated_at", "rid", "version"])
    op.create_index("ix_resource_version_updated", "resource_version", ["updated_at", "rid", "version"])
