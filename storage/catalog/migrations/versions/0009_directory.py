"""The directory: what facilities are, their contracts; readers, what they may read, and when they are there.

Revision ID: 0009
Revises: 0008
"""

# What stands here is history: a later schema is a later revision, never a change to this file.

from __future__ import annotations

from typing import Any

import sqlalchemy as sa
from alembic import op

revision = "0009"
down_revision = "0008"
branch_labels = None
depends_on = None

Text = sa.Text().with_variant(sa.Text(collation="C"), "postgresql")


def upgrade() -> None:
    """Tell more of a facility, and make the tables of contracts and readers."""
    op.add_column("facility", sa.Column("kind", sa.String(length=32)))
    op.add_column("facility", sa.Column("parent", sa.String(length=64)))
    op.add_column("facility", sa.Column("state", Text))
    op.add_column("facility", sa.Column("zone", Text, nullable=False, server_default="UTC"))
    op.add_column("facility", sa.Column("is_active", sa.Boolean(), nullable=False, server_default=sa.true()))
    op.add_column("facility", sa.Column("details", Text, nullable=False, server_default="{}"))
    op.add_column("facility", sa.Column("version", sa.Integer(), nullable=False, server_default="1"))
    op.create_table(
        "contract",
        _id(),
        sa.Column("facility", sa.String(length=64), nullable=False),
        sa.Column("valid_from", sa.Date(), nullable=False),
        sa.Column("valid_to", sa.Date()),
        sa.Column("version", sa.Integer(), nullable=False),
        sa.Column("is_current", sa.Boolean(), nullable=False),
        sa.Column("terms", Text, nullable=False),
        sa.Column("made_at", sa.DateTime(timezone=True), nullable=False),
        sa.ForeignKeyConstraint(["facility"], ["facility.id"], name="fk_contract_facility"),
        sa.PrimaryKeyConstraint("id", name="pk_contract"),
        sa.UniqueConstraint("facility", "valid_from", "version", name="uq_contract_facility_valid_from_version"),
    )
    op.create_index(
        "uq_contract_current",
        "contract",
        ["facility", "valid_from"],
        unique=True,
        sqlite_where=sa.text("is_current"),
        postgresql_where=sa.text("is_current"),
    )
    op.create_table(
        "reader",
        sa.Column("id", sa.String(length=64), nullable=False),
        sa.Column("name", Text, nullable=False),
        sa.Column("zone", Text, nullable=False),
        sa.Column("is_overflow", sa.Boolean(), nullable=False),
        sa.Column("is_active", sa.Boolean(), nullable=False),
        sa.Column("details", Text, nullable=False),
        sa.Column("version", sa.Integer(), nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_reader"),
    )
    _of_readers(
        "licence", sa.Column("state", Text, nullable=False), sa.Column("number", Text, nullable=False), *_valid()
    )
    _of_readers(
        "credential",
        sa.Column("facility", sa.String(length=64), nullable=False),
        sa.Column("status", sa.String(length=16), nullable=False),
        *_valid(),
        sa.ForeignKeyConstraint(["facility"], ["facility.id"], name="fk_credential_facility"),
    )
    op.create_index("ix_credential_facility", "credential", ["facility"])
    _of_readers("shift", *(sa.Column(name, Text, nullable=False) for name in ("days", "starts", "ends")), *_valid())
    _of_readers("leave", *(sa.Column(name, Text, nullable=False) for name in ("starts", "ends")))


def _of_readers(name: str, *rest: Any) -> None:
    op.create_table(
        name,
        _id(),
        sa.Column("reader", sa.String(length=64), nullable=False),
        *rest,
        sa.ForeignKeyConstraint(["reader"], ["reader.id"], name=f"fk_{name}_reader"),
        sa.PrimaryKeyConstraint("id", name=f"pk_{name}"),
    )
    op.create_index(f"ix_{name}_reader", name, ["reader"])


def _id() -> sa.Column[str]:
    return sa.Column("id", sa.String(length=32), nullable=False)


def _valid() -> list[sa.Column[Any]]:
    return [sa.Column("valid_from", sa.Date()), sa.Column("valid_to", sa.Date())]
