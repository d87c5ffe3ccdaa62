"""What is removed, side records that are being written, series whose zarr files are out of date.

Revision ID: 0002
Revises: 0001
"""

# What stands here is history: a later schema is a later revision, never a change to this file.

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

Text = sa.Text().with_variant(sa.Text(collation="C"), "postgresql")
Time = sa.DateTime(timezone=True)


def upgrade() -> None:
    """From 0001."""
    op.create_table(
        "removal",
        sa.Column("id", sa.String(length=32), nullable=False),
        sa.Column("owner_facility", sa.String(length=64), nullable=False),
        sa.Column("study_uid", Text, nullable=False),
        sa.Column("series_uid", Text, nullable=False),
        sa.Column("instance_uid", Text, nullable=False),
        sa.Column("state", sa.String(length=16), nullable=False),
        sa.Column("reason", Text, nullable=False),
        sa.Column("note", Text, nullable=False),
        sa.Column("actor", Text, nullable=False),
        sa.Column("at", Time, nullable=False),
        sa.ForeignKeyConstraint(["owner_facility"], ["facility.id"], name="fk_removal_owner_facility"),
        sa.PrimaryKeyConstraint("id", name="pk_removal"),
        sa.UniqueConstraint("owner_facility", "instance_uid", name=op.f("uq_removal_owner_facility_instance_uid")),
    )
    op.create_index("ix_removal_study_uid_series_uid", "removal", ["study_uid", "series_uid"])
    op.create_index("ix_removal_state_at", "removal", ["state", "at"])
    op.create_table(
        "side_record",
        sa.Column("id", sa.String(length=32), nullable=False),
        sa.Column("object_key", Text, nullable=False),
        sa.Column("begun_at", Time, nullable=False),
        sa.Column("is_withdrawn", sa.Boolean(), nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_side_record"),
    )
    op.add_column("series", sa.Column("stale_since", Time))
    op.create_index(
        "ix_series_stale",
        "series",
        ["stale_since"],
        sqlite_where=sa.text("stale_since IS NOT NULL"),
        postgresql_where=sa.text("stale_since IS NOT NULL"),
    )
    op.create_index("ix_event_at", "event", ["at", "seq"])
