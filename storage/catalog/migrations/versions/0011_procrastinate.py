"""The queue's tables on PostgreSQL.

Revision ID: 0011
Revises: 0010
"""

# What stands here is history: a later schema is a later revision, never a change to this file.

from __future__ import annotations

from alembic import op

revision = "0011"
down_revision = "0010"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Make procrastinate's tables; SQLite has ``job``."""
    connection = op.get_bind()
    if connection.dialect.name == "postgresql":
        from storage.catalog.jobtables import install  # here: SQLite need not load it

        install(connection)
