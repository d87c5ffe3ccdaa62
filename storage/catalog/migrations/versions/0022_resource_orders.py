"""Indexes that FHIR resources are walked by: the newest of a type first, and what ends after a time.

Revision ID: 0022
Revises: 0021
"""

# What stands here is history: a later schema is a later revision, never a change to this file.

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0022"
down_revision = "0021"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Make the indexes."""
    for name, table, columns, held in (
        ("ix_resource_type", "resource", ["type", "rid"], "NOT is_deleted"),
        ("ix_resource_value_high", "resource_value", ["key", "high"], "high IS NOT NULL"),
    ):
        condition = sa.text(held)
        op.create_index(name, table, columns, sqlite_where=condition, postgresql_where=condition)
