"""Durable work: the queue, leases, and how often a study has settled.

Revision ID: 0010
Revises: 0009
"""

# What stands here is history: a later schema is a later revision, never a change to this file.

from __future__ import annotations

from typing import Any

import sqlalchemy as sa
from alembic import op

revision = "0010"
down_revision = "0009"
branch_labels = None
depends_on = None

Text = sa.Text().with_variant(sa.Text(collation="C"), "postgresql")
Time = sa.DateTime(timezone=True)
Number = sa.BigInteger().with_variant(sa.Integer, "sqlite")


def upgrade() -> None:
    """Make the tables; what has settled already is at its first revision."""
    op.create_table(
        "job",
        sa.Column("id", Number, autoincrement=True, nullable=False),
        sa.Column("delivery", sa.String(length=32), nullable=False),
        sa.Column("kind", Text, nullable=False),
        sa.Column("lane", Text, nullable=False),
        sa.Column("key", Text),
        sa.Column("rank", sa.Integer(), nullable=False),
        sa.Column("payload", sa.LargeBinary(), nullable=False),
        sa.Column("state", sa.String(length=8), nullable=False),
        sa.Column("run_at", Time, nullable=False),
        sa.Column("since", Time, nullable=False),
        sa.Column("attempt", sa.Integer(), nullable=False),
        sa.Column("token", sa.String(length=32)),
        sa.Column("lease_until", sa.Float()),
        sa.Column("error", Text),
        sa.PrimaryKeyConstraint("id", name="pk_job"),
        sa.UniqueConstraint("delivery", name="uq_job_delivery"),
        sqlite_autoincrement=True,
    )
    op.create_index("ix_job_next", "job", ["rank", "id"], **_where("state = 'queued'"))
    op.create_index("ix_job_lane", "job", ["lane", "rank", "id"], **_where("state = 'queued' AND lane <> ''"))
    op.create_index("uq_job_lane", "job", ["lane"], unique=True, **_where("state = 'running' AND lane <> ''"))
    op.create_index("uq_job_key", "job", ["key"], unique=True, **_where("state = 'queued'"))
    op.create_index("ix_job_lease", "job", ["lease_until"], **_where("state = 'running'"))
    op.create_table(
        "lease",
        sa.Column("name", sa.String(length=32), nullable=False),
        sa.Column("holder", sa.String(length=32), nullable=False),
        sa.Column("until", sa.Float(), nullable=False),
        sa.PrimaryKeyConstraint("name", name="pk_lease"),
    )
    op.add_column("study", sa.Column("revision", sa.Integer(), nullable=False, server_default="0"))
    study = sa.table("study", sa.column("revision"), sa.column("settled_at"))
    op.get_bind().execute(study.update().where(study.c.settled_at.is_not(None)).values(revision=1))


def _where(condition: str) -> dict[str, Any]:
    """A partial index, on either database."""
    return {"sqlite_where": sa.text(condition), "postgresql_where": sa.text(condition)}
