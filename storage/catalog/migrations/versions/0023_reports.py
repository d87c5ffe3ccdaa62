"""Reports, their signed versions, which nobody can change, and the templates that they begin with.

Revision ID: 0023
Revises: 0022
"""

# What stands here is history: a later schema is a later revision, never a change to this file.

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0023"
down_revision = "0022"
branch_labels = None
depends_on = None

Text = sa.Text().with_variant(sa.Text(collation="C"), "postgresql")
Time = sa.DateTime(timezone=True)
_COUNTS = "study_uid IS NOT NULL AND status NOT IN ('cancelled', 'entered-in-error')"
_SIGNED = "A signed version of a report is never changed."


def upgrade() -> None:
    """Make the tables, and what refuses a change of a signed version."""
    op.create_table(
        "report",
        sa.Column("id", sa.String(length=32), nullable=False),
        sa.Column("facility", sa.String(length=64), nullable=False),
        sa.Column("study_uid", Text),
        sa.Column("accession_number", Text),
        sa.Column("item", sa.String(length=32)),
        sa.Column("patient", Text),
        sa.Column("modality", Text),
        sa.Column("status", sa.String(length=16), nullable=False),
        sa.Column("number", sa.Integer(), nullable=False),
        sa.Column("version", sa.Integer(), nullable=False),
        sa.Column("awaits", sa.String(length=16), nullable=False),
        sa.Column("draft", sa.LargeBinary()),
        sa.Column("author", Text),
        sa.Column("created_at", Time, nullable=False),
        sa.Column("changed_at", Time, nullable=False),
        sa.Column("signed_at", Time),
        sa.Column("final_at", Time),
        sa.PrimaryKeyConstraint("id", name="pk_report"),
        sa.ForeignKeyConstraint(["facility"], ["facility.id"], name="fk_report_facility"),
        sa.ForeignKeyConstraint(["item"], ["work_item.id"], name="fk_report_item"),
    )
    op.create_index(
        "uq_report_study",
        "report",
        ["facility", "study_uid"],
        unique=True,
        sqlite_where=sa.text(_COUNTS),
        postgresql_where=sa.text(_COUNTS),
    )
    op.create_index("ix_report_item", "report", ["item"])
    op.create_index("ix_report_study_uid", "report", ["study_uid"])
    op.create_index("ix_report_author", "report", ["author", "status"])
    op.create_index("ix_report_changed", "report", ["changed_at", "id"])
    op.create_index(
        "ix_report_final",
        "report",
        ["final_at", "id"],
        sqlite_where=sa.text("final_at IS NOT NULL"),
        postgresql_where=sa.text("final_at IS NOT NULL"),
    )
    op.create_table(
        "report_version",
        sa.Column("report", sa.String(length=32), nullable=False),
        sa.Column("number", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("status", sa.String(length=16), nullable=False),
        sa.Column("kind", sa.String(length=16), nullable=False),
        sa.Column("reader", Text, nullable=False),
        sa.Column("signed_at", Time, nullable=False),
        sa.Column("content", sa.LargeBinary(), nullable=False),
        sa.Column("signature", Text, nullable=False),
        sa.PrimaryKeyConstraint("report", "number", name="pk_report_version"),
        sa.ForeignKeyConstraint(["report"], ["report.id"], name="fk_report_version_report"),
    )
    op.create_index("ix_report_version_signed", "report_version", ["signed_at", "report", "number"])
    op.create_table(
        "report_template",
        sa.Column("id", sa.String(length=32), nullable=False),
        sa.Column("kind", sa.String(length=16), nullable=False),
        sa.Column("name", Text, nullable=False),
        sa.Column("reader", Text, nullable=False),
        sa.Column("language", sa.String(length=16), nullable=False),
        sa.Column("modality", Text, nullable=False),
        sa.Column("body_part", Text, nullable=False),
        sa.Column("content", sa.LargeBinary(), nullable=False),
        sa.Column("source", Text, nullable=False),
        sa.Column("updated_at", Time, nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_report_template"),
        sa.UniqueConstraint("kind", "name", "reader", "language", name="uq_report_template_kind_name_reader_language"),
    )
    _refuse_changes()


def _refuse_changes() -> None:
    if op.get_bind().dialect.name == "sqlite":
        for change in ("UPDATE", "DELETE"):
            op.execute(
                f"CREATE TRIGGER report_version_no_{change.lower()} BEFORE {change} ON report_version"
                f" BEGIN SELECT RAISE(ABORT, '{_SIGNED}'); END"
            )
        return
    op.execute(
        "CREATE FUNCTION refuse_change_of_signed() RETURNS trigger LANGUAGE plpgsql AS"
        f" $$ BEGIN RAISE EXCEPTION '{_SIGNED}'; END $$"
    )
    op.execute(
        "CREATE TRIGGER report_version_no_change BEFORE UPDATE OR DELETE ON report_version"
        " FOR EACH ROW EXECUTE FUNCTION refuse_change_of_signed()"
    )
