"""Published prices, and what readings were charged by them.

Revision ID: 0025
Revises: 0024
"""

# What stands here is history: a later schema is a later revision, never a change to this file.

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0025"
down_revision = "0024"
branch_labels = None
depends_on = None

Text = sa.Text().with_variant(sa.Text(collation="C"), "postgresql")
Time = sa.DateTime(timezone=True)


def upgrade() -> None:
    """Make the tables."""
    op.create_table(
        "price_list",
        sa.Column("id", sa.String(length=32), nullable=False),
        sa.Column("valid_from", sa.Date(), nullable=False),
        sa.Column("version", sa.Integer(), nullable=False),
        sa.Column("is_current", sa.Boolean(), nullable=False),
        sa.Column("content", Text, nullable=False),
        sa.Column("made_at", Time, nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_price_list"),
        sa.UniqueConstraint("valid_from", "version", name="uq_price_list_valid_from_version"),
    )
    op.create_index(
        "uq_price_list_current",
        "price_list",
        ["valid_from"],
        unique=True,
        sqlite_where=sa.text("is_current"),
        postgresql_where=sa.text("is_current"),
    )
    op.create_table(
        "charge",
        sa.Column("id", sa.String(length=32), nullable=False),
        sa.Column("report", sa.String(length=32), nullable=False),
        sa.Column("kind", sa.String(length=8), nullable=False),
        sa.Column("facility", sa.String(length=64), nullable=False),
        sa.Column("study_uid", Text),
        sa.Column("accession_number", Text),
        sa.Column("number", sa.Integer(), nullable=False),
        sa.Column("at", Time, nullable=False),
        sa.Column("asked", Text, nullable=False),
        sa.Column("state", sa.String(length=8), nullable=False),
        sa.Column("price_list", sa.String(length=32)),
        sa.Column("price", Text),
        sa.Column("currency", sa.String(length=3)),
        sa.Column("amount", sa.BigInteger()),
        sa.Column("version", sa.Integer(), nullable=False),
        sa.Column("changed_at", Time, nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_charge"),
        sa.UniqueConstraint("report", "kind", name="uq_charge_report_kind"),
        sa.ForeignKeyConstraint(["report"], ["report.id"], name="fk_charge_report"),
        sa.ForeignKeyConstraint(["facility"], ["facility.id"], name="fk_charge_facility"),
        sa.ForeignKeyConstraint(["price_list"], ["price_list.id"], name="fk_charge_price_list"),
    )
    op.create_index("ix_charge_facility", "charge", ["facility", "at", "id"])
    op.create_index(
        "ix_charge_unpriced",
        "charge",
        ["at", "id"],
        sqlite_where=sa.text("state = 'unpriced'"),
        postgresql_where=sa.text("state = 'unpriced'"),
    )
