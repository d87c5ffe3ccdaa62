"""The index of the instances of a series has them in the whole of their order.

Revision ID: 0027
Revises: 0026
"""

# What stands here is history: a later schema is a later revision, never a change to this file.

from __future__ import annotations

from alembic import op

revision = "0027"
down_revision = "0026"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Make the index anew."""
    op.drop_index("ix_instance_series", table_name="instance")
    op.create_index("ix_instance_series", "instance", ["series", "is_current", "instance_number", "id"])
