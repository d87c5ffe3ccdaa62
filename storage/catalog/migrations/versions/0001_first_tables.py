"""The tables of the first release.

Revision ID: 0001
Revises:
"""

# What stands here is history: a later schema is a later revision, never a change to this file.

from __future__ import annotations

from typing import Any

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

Text = sa.Text().with_variant(sa.Text(collation="C"), "postgresql")
Time = sa.DateTime(timezone=True)
Serial = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
INHABITED: dict[str, Any] = {
    "sqlite_where": sa.text("instance_count > 0"),
    "postgresql_where": sa.text("instance_count > 0"),
}


def upgrade() -> None:
    """From an empty database."""
    op.create_table(
        "facility",
        sa.Column("id", sa.String(length=64), nullable=False),
        sa.Column("name", Text, nullable=False),
        sa.Column("issuer", Text, nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_facility"),
    )
    op.create_table(
        "patient",
        sa.Column("id", sa.String(length=32), nullable=False),
        sa.Column("issuer", Text, nullable=False),
        sa.Column("patient_id", Text),
        sa.Column("version", sa.Integer(), nullable=False),
        sa.Column("received_at", Time, nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_patient"),
        sa.UniqueConstraint("issuer", "patient_id", name="uq_patient_issuer_patient_id"),
    )
    op.create_table(
        "study",
        sa.Column("id", sa.String(length=32), nullable=False),
        sa.Column("owner_facility", sa.String(length=64), nullable=False),
        sa.Column("study_uid", Text, nullable=False),
        sa.Column("patient", sa.String(length=32), nullable=False),
        sa.Column("patient_id", Text),
        sa.Column("issuer", Text),
        sa.Column("birth_date", Text),
        sa.Column("sex", Text),
        sa.Column("study_date", Text, nullable=False),
        sa.Column("study_time", Text),
        sa.Column("timezone_offset", Text),
        sa.Column("accession_number", Text),
        sa.Column("study_id", Text),
        sa.Column("study_description", Text),
        sa.Column("institution_name", Text),
        sa.Column("modalities", Text, nullable=False),
        sa.Column("sop_classes", Text, nullable=False),
        sa.Column("series_count", sa.Integer(), nullable=False),
        sa.Column("instance_count", sa.Integer(), nullable=False),
        sa.Column("size_bytes", sa.BigInteger(), nullable=False),
        sa.Column("row", sa.LargeBinary(), nullable=False),
        sa.Column("extra", sa.LargeBinary(), nullable=False),
        sa.Column("version", sa.Integer(), nullable=False),
        sa.Column("received_at", Time, nullable=False),
        sa.Column("updated_at", Time, nullable=False),
        sa.Column("settle_due_at", Time),
        sa.Column("settled_at", Time),
        sa.ForeignKeyConstraint(["owner_facility"], ["facility.id"], name="fk_study_owner_facility"),
        sa.ForeignKeyConstraint(["patient"], ["patient.id"], name="fk_study_patient"),
        sa.PrimaryKeyConstraint("id", name="pk_study"),
        sa.UniqueConstraint("owner_facility", "study_uid", name="uq_study_owner_facility_study_uid"),
    )
    op.create_index("ix_study_accession", "study", ["accession_number"])
    op.create_index("ix_study_date", "study", ["study_date", "id", "owner_facility"], **INHABITED)
    op.create_index("ix_study_facility_date", "study", ["owner_facility", "study_date", "id"], **INHABITED)
    op.create_index("ix_study_patient", "study", ["patient"])
    op.create_index("ix_study_patient_id", "study", ["patient_id"])
    op.create_index("ix_study_settle_due", "study", ["settle_due_at"])
    op.create_index("ix_study_study_uid", "study", ["study_uid"])
    op.create_table(
        "study_name",
        sa.Column("study", sa.String(length=32), nullable=False),
        sa.Column("attribute", sa.String(length=8), nullable=False),
        sa.Column("position", sa.Integer(), nullable=False),
        sa.Column("folded", Text, nullable=False),
        sa.ForeignKeyConstraint(["study"], ["study.id"], name="fk_study_name_study", ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("study", "attribute", "position", name="pk_study_name"),
    )
    op.create_index("ix_study_name_folded", "study_name", ["attribute", "folded", "study"])
    op.create_table(
        "series",
        sa.Column("id", sa.String(length=32), nullable=False),
        sa.Column("study", sa.String(length=32), nullable=False),
        sa.Column("series_uid", Text, nullable=False),
        sa.Column("place", Text, nullable=False),
        sa.Column("modality", Text),
        sa.Column("series_number", sa.BigInteger()),
        sa.Column("series_description", Text),
        sa.Column("body_part", Text),
        sa.Column("laterality", Text),
        sa.Column("series_date", Text),
        sa.Column("series_time", Text),
        sa.Column("performed_date", Text),
        sa.Column("performed_time", Text),
        sa.Column("instance_count", sa.Integer(), nullable=False),
        sa.Column("row", sa.LargeBinary(), nullable=False),
        sa.Column("extra", sa.LargeBinary(), nullable=False),
        sa.Column("version", sa.Integer(), nullable=False),
        sa.Column("received_at", Time, nullable=False),
        sa.ForeignKeyConstraint(["study"], ["study.id"], name="fk_series_study", ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("id", name="pk_series"),
        sa.UniqueConstraint("study", "series_uid", name="uq_series_study_series_uid"),
    )
    op.create_index("ix_series_modality", "series", ["modality"])
    op.create_index("ix_series_series_uid", "series", ["series_uid"])
    op.create_index("ix_series_study_modality", "series", ["study", "modality"], **INHABITED)
    op.create_table(
        "series_request",
        sa.Column("series", sa.String(length=32), nullable=False),
        sa.Column("position", sa.Integer(), nullable=False),
        sa.Column("scheduled_step_id", Text),
        sa.Column("requested_procedure_id", Text),
        sa.Column("accession_number", Text),
        sa.ForeignKeyConstraint(["series"], ["series.id"], name="fk_series_request_series", ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("series", "position", name="pk_series_request"),
    )
    op.create_index("ix_series_request_procedure", "series_request", ["requested_procedure_id"])
    op.create_index("ix_series_request_step", "series_request", ["scheduled_step_id"])
    op.create_table(
        "zarr_array",
        sa.Column("id", sa.String(length=32), nullable=False),
        sa.Column("place", Text, nullable=False),
        sa.Column("name", sa.String(length=16), nullable=False),
        sa.Column("digest", sa.String(length=64), nullable=False),
        sa.Column("spec", sa.LargeBinary(), nullable=False),
        sa.Column("next_slot", sa.Integer(), nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_zarr_array"),
        sa.UniqueConstraint("place", "digest", name="uq_zarr_array_place_digest"),
        sa.UniqueConstraint("place", "name", name="uq_zarr_array_place_name"),
    )
    op.create_table(
        "writer",
        sa.Column("id", sa.String(length=32), nullable=False),
        sa.Column("host", Text, nullable=False),
        sa.Column("pid", sa.Integer(), nullable=False),
        sa.Column("lease_until", Time, nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_writer"),
    )
    op.create_table(
        "slot_block",
        sa.Column("id", sa.String(length=32), nullable=False),
        sa.Column("array", sa.String(length=32), nullable=False),
        sa.Column("writer", sa.String(length=32), nullable=False),
        sa.Column("first", sa.Integer(), nullable=False),
        sa.Column("count", sa.Integer(), nullable=False),
        sa.ForeignKeyConstraint(["array"], ["zarr_array.id"], name="fk_slot_block_array"),
        sa.ForeignKeyConstraint(["writer"], ["writer.id"], name="fk_slot_block_writer", ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("id", name="pk_slot_block"),
    )
    op.create_index("ix_slot_block_writer", "slot_block", ["writer"])
    op.create_table(
        "instance",
        sa.Column("id", sa.String(length=32), nullable=False),
        sa.Column("owner_facility", sa.String(length=64), nullable=False),
        sa.Column("study", sa.String(length=32), nullable=False),
        sa.Column("series", sa.String(length=32), nullable=False),
        sa.Column("instance_uid", Text, nullable=False),
        sa.Column("version", sa.Integer(), nullable=False),
        sa.Column("is_current", sa.Boolean(), nullable=False),
        sa.Column("sop_class", Text, nullable=False),
        sa.Column("transfer_syntax", Text, nullable=False),
        sa.Column("instance_number", sa.BigInteger()),
        sa.Column("content_date", Text),
        sa.Column("content_time", Text),
        sa.Column("rows", sa.Integer()),
        sa.Column("columns", sa.Integer()),
        sa.Column("bits_allocated", sa.Integer()),
        sa.Column("frame_count", sa.Integer(), nullable=False),
        sa.Column("sha256", sa.LargeBinary(length=32), nullable=False),
        sa.Column("size_bytes", sa.BigInteger(), nullable=False),
        sa.Column("object_key", Text, nullable=False),
        sa.Column("object_bytes", sa.BigInteger(), nullable=False),
        sa.Column("array", sa.String(length=32), nullable=False),
        sa.Column("slot", sa.Integer(), nullable=False),
        sa.Column("opaque_reason", Text, nullable=False),
        sa.Column("chunk_count", sa.Integer(), nullable=False),
        sa.Column("chunk_offset", sa.BigInteger(), nullable=False),
        sa.Column("chunk_length", sa.BigInteger(), nullable=False),
        sa.Column("chunk_stride", sa.BigInteger()),
        sa.Column("source", Text, nullable=False),
        sa.Column("received_at", Time, nullable=False),
        sa.ForeignKeyConstraint(["array"], ["zarr_array.id"], name="fk_instance_array"),
        sa.ForeignKeyConstraint(["owner_facility"], ["facility.id"], name="fk_instance_owner_facility"),
        sa.ForeignKeyConstraint(["series"], ["series.id"], name="fk_instance_series", ondelete="CASCADE"),
        sa.ForeignKeyConstraint(["study"], ["study.id"], name="fk_instance_study", ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("id", name="pk_instance"),
        sa.UniqueConstraint("array", "slot", name="uq_instance_array_slot"),
        sa.UniqueConstraint("object_key", name="uq_instance_object_key"),
        sa.UniqueConstraint(
            "owner_facility", "instance_uid", "version", name="uq_instance_owner_facility_instance_uid_version"
        ),
    )
    op.create_index("ix_instance_instance_uid", "instance", ["instance_uid"])
    op.create_index("ix_instance_series", "instance", ["series", "is_current", "instance_number"])
    op.create_index("ix_instance_study", "instance", ["study"])
    op.create_index(
        "uq_instance_current",
        "instance",
        ["owner_facility", "instance_uid"],
        unique=True,
        sqlite_where=sa.text("is_current"),
        postgresql_where=sa.text("is_current"),
    )
    op.create_table(
        "instance_metadata",
        sa.Column("instance", sa.String(length=32), nullable=False),
        sa.Column("json", sa.LargeBinary(), nullable=False),
        sa.ForeignKeyConstraint(
            ["instance"], ["instance.id"], name="fk_instance_metadata_instance", ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("instance", name="pk_instance_metadata"),
    )
    op.create_table(
        "overlay",
        sa.Column("id", sa.String(length=32), nullable=False),
        sa.Column("owner_facility", sa.String(length=64), nullable=False),
        sa.Column("study_uid", Text, nullable=False),
        sa.Column("series_uid", Text),
        sa.Column("instance_uid", Text),
        sa.Column("version", sa.Integer(), nullable=False),
        sa.Column("attributes", sa.LargeBinary(), nullable=False),
        sa.Column("at", Time, nullable=False),
        sa.ForeignKeyConstraint(["owner_facility"], ["facility.id"], name="fk_overlay_owner_facility"),
        sa.PrimaryKeyConstraint("id", name="pk_overlay"),
        sa.UniqueConstraint(
            "owner_facility",
            "study_uid",
            "series_uid",
            "instance_uid",
            "version",
            name=op.f("uq_overlay_owner_facility_study_uid_series_uid_instance_uid_version"),
        ),
    )
    op.create_table(
        "event",
        sa.Column("seq", Serial, autoincrement=True, nullable=False),
        sa.Column("type", Text, nullable=False),
        sa.Column("version", sa.Integer(), nullable=False),
        sa.Column("study_uid", Text),
        sa.Column("facility", Text),
        sa.Column("at", Time, nullable=False),
        sa.Column("payload", sa.LargeBinary(), nullable=False),
        sa.PrimaryKeyConstraint("seq", name="pk_event"),
        sqlite_autoincrement=True,
    )
    op.create_index("ix_event_study", "event", ["study_uid", "seq"])
