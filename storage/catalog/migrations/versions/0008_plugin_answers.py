"""What plugins have answered about a study.

Revision ID: 0008
Revises: 0007
"""

# What stands here is history: a later schema is a later revision, never a change to this file.

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0008"
down_revision = "0007"
branch_labels = None
depends_on = None

Text = sa.Text().with_variant(sa.Text(collation="C"), "postgresql")
Time = sa.DateTime(timezone=True)


def upgrade() -> None:
    """Make the table."""
    op.create_table(
        "plugin_answer",
        sa.Column("id", sa.String(length=32), nullable=False),
        sa.Column("facility", sa.String(length=64), nullable=False),
        sa.Column("study_uid", Text, nullable=False),
        sa.Column("revision", sa.Integer, nullable=False),
        sa.Column("hook", Text, nullable=False),
        sa.Column("plugin", Text, nullable=False),
        sa.Column("state", sa.String(length=16), nullable=False),
        sa.Column("answer", sa.LargeBinary, nullable=False),
        sa.Column("note", Text, nullable=False),
        sa.Column("asked_at", Time, nullable=False),
        sa.Column("answered_at", Time),
        sa.ForeignKeyConstraint(["facility"], ["facility.id"], name="fk_plugin_answer_facility"),
        sa.PrimaryKeyConstraint("id", name="pk_plugin_answer"),
        sa.UniqueConstraint(
            "facility",
            "study_uid",
            "revision",
            "hook",
            "plugin",
            name="uq_plugin_answer_facility_study_uid_revision_hook_plugin",
        ),
    )
