"""Critical results of reports, what people do about them, and follow-ups.

Revision ID: 0024
Revises: 0023
"""

# What stands here is history: a later schema is a later revision, never a change to this file.

from __future__ import annotations

from datetime import timedelta

import sqlalchemy as sa
from alembic import op

revision = "0024"
down_revision = "0023"
branch_labels = None
depends_on = None

Text = sa.Text().with_variant(sa.Text(collation="C"), "postgresql")
Time = sa.DateTime(timezone=True)
_LIMITS = {1: timedelta(hours=1), 2: timedelta(hours=3), 3: timedelta(days=3)}


def upgrade() -> None:
    """Make the columns and tables; what is open has to be reached in the time of its category."""
    op.add_column("escalation", sa.Column("report", Text))
    op.add_column("escalation", sa.Column("result", sa.String(length=32)))
    for name in ("reach_by", "reached_at", "withdrawn_at"):
        op.add_column("escalation", sa.Column(name, Time))
    op.add_column("escalation", sa.Column("holder", Text))
    has_report = sa.text("report IS NOT NULL")
    for name, column in (("ix_escalation_report", "report"), ("ix_escalation_reported", "opened_at")):
        op.create_index(name, "escalation", [column], sqlite_where=has_report, postgresql_where=has_report)
    _fill()
    op.create_table(
        "escalation_call",
        sa.Column("id", sa.String(length=32), nullable=False),
        sa.Column("escalation", sa.String(length=32), nullable=False),
        sa.Column("rung", sa.Integer, nullable=False),
        sa.Column("name", Text, nullable=False),
        sa.Column("role", Text, nullable=False),
        sa.Column("channel", Text, nullable=False),
        sa.Column("address", Text, nullable=False),
        sa.Column("at", Time, nullable=False),
        sa.Column("state", sa.String(length=16), nullable=False),
        sa.Column("by", Text, nullable=False),
        sa.Column("note", Text, nullable=False),
        sa.Column("noted_at", Time, nullable=False),
        sa.ForeignKeyConstraint(
            ["escalation"], ["escalation.id"], name="fk_escalation_call_escalation", ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("id", name="pk_escalation_call"),
    )
    op.create_index("ix_escalation_call_escalation", "escalation_call", ["escalation", "at"])
    op.create_table(
        "follow_up",
        sa.Column("item", sa.String(length=32), nullable=False),
        sa.Column("report", sa.String(length=32), nullable=False),
        sa.Column("number", sa.Integer, nullable=False),
        sa.Column("digest", sa.String(length=32), nullable=False),
        sa.Column("facility", sa.String(length=64), nullable=False),
        sa.Column("patient", Text),
        sa.Column("study_uid", Text),
        sa.Column("text", Text, nullable=False),
        sa.Column("procedure", Text),
        sa.Column("due_on", sa.String(length=10), nullable=False),
        sa.Column("modalities", Text, nullable=False),
        sa.Column("body_parts", Text, nullable=False),
        sa.Column("recommended_at", Time, nullable=False),
        sa.Column("outcome", sa.String(length=16), nullable=False),
        sa.Column("closed_by", Text),
        sa.Column("closed_at", Time),
        sa.Column("note", Text, nullable=False),
        sa.Column("fulfilled_by", Text),
        sa.ForeignKeyConstraint(["item"], ["work_item.id"], name="fk_follow_up_item"),
        sa.ForeignKeyConstraint(["report"], ["report.id"], name="fk_follow_up_report"),
        sa.ForeignKeyConstraint(["facility"], ["facility.id"], name="fk_follow_up_facility"),
        sa.PrimaryKeyConstraint("item", name="pk_follow_up"),
        sa.UniqueConstraint("report", "digest", "number", name="uq_follow_up_report_digest_number"),
    )
    open_ = sa.text("outcome = ''")
    op.create_index("ix_follow_up_due", "follow_up", ["due_on", "item"], sqlite_where=open_, postgresql_where=open_)
    op.create_index("ix_follow_up_recommended", "follow_up", ["recommended_at", "item"])


def _fill() -> None:
    known = sa.table(
        "escalation",
        sa.column("id", sa.String),
        sa.column("category", sa.Integer),
        sa.column("state", sa.String),
        sa.column("opened_at", Time),
        sa.column("closed_at", Time),
        sa.column("reach_by", Time),
        sa.column("reached_at", Time),
    )
    c = known.c
    connection = op.get_bind()
    for row in connection.execute(sa.select(known).where(c.category.is_not(None))).all():
        reached_at = row.closed_at if row.state == "acknowledged" else None
        values = {"reach_by": row.opened_at + _LIMITS[row.category], "reached_at": reached_at}
        connection.execute(known.update().where(c.id == row.id).values(**values))
