"""Instances that belong to no patient.

Revision ID: 0007
Revises: 0006
"""

# What stands here is history: a later schema is a later revision, never a change to this file.

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None

Text = sa.Text().with_variant(sa.Text(collation="C"), "postgresql")
Time = sa.DateTime(timezone=True)


def upgrade() -> None:
    """From 0006."""
    op.create_table(
        "non_patient",
        sa.Column("id", sa.String(length=32), nullable=False),
        sa.Column("owner_facility", sa.String(length=64), nullable=False),
        sa.Column("category", Text, nullable=False),
        sa.Column("sop_class", Text, nullable=False),
        sa.Column("instance_uid", Text, nullable=False),
        sa.Column("version", sa.Integer(), nullable=False),
        sa.Column("is_current", sa.Boolean(), nullable=False),
        sa.Column("state", sa.String(length=8), nullable=False),
        sa.Column("transfer_syntax", Text, nullable=False),
        sa.Column("sha256", sa.LargeBinary(length=32), nullable=False),
        sa.Column("size_bytes", sa.BigInteger(), nullable=False),
        sa.Column("object_key", Text, nullable=False),
        sa.Column("array", sa.String(length=32), nullable=False),
        sa.Column("slot", sa.Integer(), nullable=False),
        sa.Column("source", Text, nullable=False),
        sa.Column("received_at", Time, nullable=False),
        sa.Column("removed_at", Time),
        sa.Column("actor", Text),
        sa.Column("row", sa.LargeBinary(), nullable=False),
        sa.Column("json", sa.LargeBinary(), nullable=False),
        sa.ForeignKeyConstraint(["owner_facility"], ["facility.id"], name="fk_non_patient_owner_facility"),
        sa.ForeignKeyConstraint(["array"], ["zarr_array.id"], name="fk_non_patient_array"),
        sa.PrimaryKeyConstraint("id", name="pk_non_patient"),
        sa.UniqueConstraint(
            "owner_facility",
            "category",
            "instance_uid",
            "version",
            name=op.f("uq_non_patient_owner_facility_category_instance_uid_version"),
        ),
        sa.UniqueConstraint("array", "slot", name=op.f("uq_non_patient_array_slot")),
        sa.UniqueConstraint("object_key", name=op.f("uq_non_patient_object_key")),
    )
    op.create_index("ix_non_patient_category_instance_uid", "non_patient", ["category", "instance_uid"])
    for name, columns, where in (
        ("ix_non_patient_category_id", ["category", "id"], "is_current AND state = 'kept'"),
        ("ix_non_patient_removed_at", ["removed_at"], "removed_at IS NOT NULL"),
    ):
        condition = sa.text(where)
        op.create_index(name, "non_patient", columns, sqlite_where=condition, postgresql_where=condition)
