"""What lies over the received values: corrections of studies, series and instances.

Revision ID: 0003
Revises: 0002
"""

# What stands here is history: a later schema is a later revision, never a change to this file.

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None

Text = sa.Text().with_variant(sa.Text(collation="C"), "postgresql")
Time = sa.DateTime(timezone=True)


def upgrade() -> None:
    """The first table of overlays was never written to, and let NULLs pass by its unique constraint."""
    op.drop_table("overlay")
    op.create_table(
        "overlay",
        sa.Column("id", sa.String(length=32), nullable=False),
        sa.Column("owner_facility", sa.String(length=64), nullable=False),
        sa.Column("study_uid", Text, nullable=False),
        sa.Column("series_uid", Text, nullable=False),
        sa.Column("instance_uid", Text, nullable=False),
        sa.Column("version", sa.Integer(), nullable=False),
        sa.Column("attributes", sa.LargeBinary(), nullable=False),
        sa.Column("actor", Text, nullable=False),
        sa.Column("reason", Text, nullable=False),
        sa.Column("at", Time, nullable=False),
        sa.ForeignKeyConstraint(["owner_facility"], ["facility.id"], name="fk_overlay_owner_facility"),
        sa.PrimaryKeyConstraint("id", name="pk_overlay"),
        sa.UniqueConstraint(
            "owner_facility", "study_uid", "version", name="uq_overlay_owner_facility_study_uid_version"
        ),
    )
    op.add_column("study", sa.Column("header", sa.LargeBinary()))
    op.add_column("study", sa.Column("overlay_version", sa.Integer(), nullable=False, server_default="0"))
    op.add_column("series", sa.Column("header", sa.LargeBinary()))
    op.add_column("instance", sa.Column("overlay_version", sa.Integer(), nullable=False, server_default="0"))
    op.add_column("instance_metadata", sa.Column("received", sa.LargeBinary()))
    op.add_column("instance_metadata", sa.Column("coerced", sa.LargeBinary()))
