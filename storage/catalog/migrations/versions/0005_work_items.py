"""Work items: readings to be done, and whatever others put on the worklist as a UPS or a Task.

Revision ID: 0005
Revises: 0004
"""

# What stands here is history: a later schema is a later revision, never a change to this file.

from __future__ import annotations

from typing import Any

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None

Text = sa.Text().with_variant(sa.Text(collation="C"), "postgresql")
Time = sa.DateTime(timezone=True)


def upgrade() -> None:
    """Make the tables, and let an event say which item it is of."""
    op.create_table(
        "work_item",
        sa.Column("id", sa.String(length=32), nullable=False),
        sa.Column("workitem_uid", Text, nullable=False),
        sa.Column("kind", sa.String(length=16), nullable=False),
        sa.Column("state", sa.String(length=16), nullable=False),
        sa.Column("facility", sa.String(length=64), nullable=False),
        sa.Column("study_uid", Text),
        sa.Column("accession_number", Text),
        sa.Column("priority", sa.String(length=16), nullable=False),
        sa.Column("rank", sa.Integer(), nullable=False),
        sa.Column("is_flagged", sa.Boolean(), nullable=False),
        sa.Column("findings", Text, nullable=False),
        *(sa.Column(name, Text) for name in ("modality", "body_part", "subspecialty", "study_type", "patient_state")),
        *(sa.Column(name, Text) for name in ("owner", "offered_to", "claim_token")),
        sa.Column("claimed_at", Time),
        sa.Column("claim_expires_at", Time),
        sa.Column("held_from", sa.String(length=16)),
        sa.Column("reason", Text, nullable=False),
        sa.Column("created_at", Time, nullable=False),
        sa.Column("changed_at", Time, nullable=False),
        *(sa.Column(name, Time) for name in ("ready_at", "warn_at", "due_at")),
        sa.Column("order_at", Time, nullable=False),
        sa.Column("attributes", sa.LargeBinary(), nullable=False),
        sa.Column("version", sa.Integer(), nullable=False),
        sa.ForeignKeyConstraint(["facility"], ["facility.id"], name="fk_work_item_facility"),
        sa.PrimaryKeyConstraint("id", name="pk_work_item"),
        sa.UniqueConstraint("workitem_uid", name="uq_work_item_workitem_uid"),
    )
    is_read = _where("kind = 'read' AND study_uid IS NOT NULL")
    op.create_index("uq_work_item_read", "work_item", ["facility", "study_uid"], unique=True, **is_read)
    ready = _where("state = 'ready' AND kind != 'external'")
    for name, columns in (
        ("next", ["is_flagged", "rank", "order_at", "id", "facility", "warn_at"]),
        ("next_of", ["facility", "is_flagged", "rank", "order_at", "id", "warn_at"]),
        ("risk", ["warn_at", "id", "facility", "is_flagged", "rank"]),
    ):
        op.create_index(f"ix_work_item_{name}", "work_item", columns, **ready)
    op.create_index("ix_work_item_study_uid", "work_item", ["study_uid"])
    op.create_index("ix_work_item_accession", "work_item", ["accession_number"])
    op.create_index("ix_work_item_owner", "work_item", ["owner", "state"])
    op.create_index("ix_work_item_offered_to", "work_item", ["offered_to"], **_where("state = 'assigned'"))
    op.create_index("ix_work_item_expiry", "work_item", ["claim_expires_at"], **_where("claim_expires_at IS NOT NULL"))
    op.create_table(
        "work_item_value",
        sa.Column("key", Text, nullable=False),
        sa.Column("value", Text, nullable=False),
        sa.Column("entity", sa.String(length=32), nullable=False),
        sa.Column("item", Text, nullable=False),
        sa.Column("number", sa.Integer(), nullable=False),
        sa.ForeignKeyConstraint(["entity"], ["work_item.id"], name="fk_work_item_value_entity", ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("key", "value", "entity", "item", "number", name="pk_work_item_value"),
        sqlite_with_rowid=False,
    )
    op.create_index("ix_work_item_value_entity", "work_item_value", ["entity", "key"])
    op.add_column("event", sa.Column("item", sa.String(length=32)))
    op.create_index("ix_event_item", "event", ["item", "seq"], **_where("item IS NOT NULL"))


def _where(condition: str) -> dict[str, Any]:
    """A partial index, on either database."""
    return {"sqlite_where": sa.text(condition), "postgresql_where": sa.text(condition)}
