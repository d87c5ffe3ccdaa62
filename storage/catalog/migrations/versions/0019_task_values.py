"""What clients have said of work items over FHIR that searches match.

Revision ID: 0019
Revises: 0018
"""

# What stands here is history: a later schema is a later revision, never a change to this file.

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0019"
down_revision = "0018"
branch_labels = None
depends_on = None

Text = sa.Text().with_variant(sa.Text(collation="C"), "postgresql")


def upgrade() -> None:
    """Make the table."""
    op.create_table(
        "task_value",
        sa.Column("key", Text, nullable=False),
        sa.Column("text", Text, nullable=False),
        sa.Column("item", sa.String(32), nullable=False),
        sa.Column("number", sa.Integer(), nullable=False, autoincrement=False),
        sa.Column("space", Text, nullable=False),
        sa.Column("low", sa.Double()),
        sa.Column("high", sa.Double()),
        sa.ForeignKeyConstraint(["item"], ["work_item.id"], name="fk_task_value_item", ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("key", "text", "item", "number", name="pk_task_value"),
        sqlite_with_rowid=False,
    )
    op.create_index("ix_task_value_item", "task_value", ["item", "key", "text"])
