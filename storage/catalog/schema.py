"""The tables; they hold the truth, and DICOMweb, FHIR and DIMSE are views of them.

The received attributes of a study and a series are kept twice: as columns that searches match, and as DICOM JSON
ready to send (`row`), so that an answer needs no parsing. `BASE_URL_MARK` stands in that JSON for the service root.
Dates are ``YYYYMMDD`` and times ``HHMMSS.FFFFFF`` as text: they compare as the standard's ranges do.
"""

from __future__ import annotations

import os
import time
from datetime import UTC, datetime
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Dialect
from sqlalchemy.ext.compiler import compiles

metadata = sa.MetaData(
    naming_convention={
        "ix": "ix_%(table_name)s_%(column_0_N_name)s",
        "uq": "uq_%(table_name)s_%(column_0_N_name)s",
        "fk": "fk_%(table_name)s_%(column_0_name)s",
        "pk": "pk_%(table_name)s",
    }
)


class UtcDateTime(sa.types.TypeDecorator[datetime]):
    """An aware UTC datetime on every database (SQLite keeps no zone of its own)."""

    impl = sa.DateTime(timezone=True)
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        if value is None:
            return None
        return value.astimezone(UTC) if dialect.name != "sqlite" else value.astimezone(UTC).replace(tzinfo=None)

    def process_result_value(self, value: Any, dialect: Dialect) -> datetime | None:
        if value is None:
            return None
        result: datetime = value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)
        return result


class as_text(sa.sql.functions.GenericFunction[str]):
    """UTF-8 that a column holds as bytes, as text."""

    type = sa.Text()
    inherit_cache = True


@compiles(as_text, "sqlite")
def _cast(element: as_text, compiler: sa.sql.compiler.SQLCompiler, **kwargs: Any) -> str:
    return f"CAST({compiler.process(element.clauses, **kwargs)} AS TEXT)"


@compiles(as_text, "postgresql")
def _converted(element: as_text, compiler: sa.sql.compiler.SQLCompiler, **kwargs: Any) -> str:
    return f"convert_from({compiler.process(element.clauses, **kwargs)}, 'UTF8')"


def new_id() -> str:
    """A UUIDv7 (RFC 9562 5.7) as 32 hex digits: unique everywhere, and sorted by the time it was made."""
    head = (time.time_ns() // 1_000_000) << 80
    tail = int.from_bytes(os.urandom(10))
    value = (head | tail) & ~(0xF << 76) | (0x7 << 76)
    value = value & ~(0x3 << 62) | (0x2 << 62)
    return f"{value:032x}"


def _id(**kwargs: Any) -> sa.Column[str]:
    return sa.Column("id", sa.String(32), primary_key=True, default=new_id, **kwargs)


def _where(condition: str) -> dict[str, Any]:
    """A partial index, on either database."""
    return {"sqlite_where": sa.text(condition), "postgresql_where": sa.text(condition)}


# UIDs are compared byte by byte in PostgreSQL too, whatever the database's locale.
Text = sa.Text().with_variant(sa.Text(collation="C"), "postgresql")

facility = sa.Table(
    "facility",
    metadata,
    sa.Column("id", sa.String(64), primary_key=True),
    sa.Column("name", Text, nullable=False),
    sa.Column("issuer", Text, nullable=False, doc="Issuer of Patient ID where an object names none"),
    sa.Column("kind", sa.String(32), doc="NULL until the directory tells of it"),
    sa.Column("parent", sa.String(64), doc="id of the organisation that it is a site of"),
    sa.Column("state", Text, doc="where its patients are: ISO 3166-2"),
    sa.Column("zone", Text, nullable=False, server_default="UTC"),
    sa.Column("is_active", sa.Boolean, nullable=False, server_default=sa.true()),
    sa.Column("details", Text, nullable=False, server_default="{}", doc="JSON: address, identifiers, contacts"),
    sa.Column("version", sa.Integer, nullable=False, server_default="1"),
    sa.Column("updated_at", UtcDateTime, doc="when the directory last told otherwise of it; NULL: it never did"),
)

contract = sa.Table(
    "contract",
    metadata,
    _id(),
    sa.Column("facility", sa.ForeignKey("facility.id"), nullable=False),
    sa.Column("valid_from", sa.Date, nullable=False),
    sa.Column("valid_to", sa.Date),
    sa.Column("version", sa.Integer, nullable=False, doc="1, 2 ... of what the facility agreed on from that day on"),
    sa.Column("is_current", sa.Boolean, nullable=False, doc="false: a later version holds, or it was taken back"),
    sa.Column("terms", Text, nullable=False, doc="JSON: hours, holidays and classes"),
    sa.Column("made_at", UtcDateTime, nullable=False),
    sa.UniqueConstraint("facility", "valid_from", "version"),
    sa.Index("uq_contract_current", "facility", "valid_from", unique=True, **_where("is_current")),
)

reader = sa.Table(
    "reader",
    metadata,
    sa.Column("id", sa.String(64), primary_key=True),
    sa.Column("name", Text, nullable=False),
    sa.Column("zone", Text, nullable=False),
    sa.Column("is_overflow", sa.Boolean, nullable=False),
    sa.Column("is_active", sa.Boolean, nullable=False),
    sa.Column("details", Text, nullable=False, doc="JSON: NPI, subspecialties, skills, contacts"),
    sa.Column("version", sa.Integer, nullable=False, doc="moves with its licences, credentials, shifts and leave too"),
    sa.Column("updated_at", UtcDateTime),
)

licence = sa.Table(
    "licence",
    metadata,
    _id(),
    sa.Column("reader", sa.ForeignKey("reader.id"), nullable=False, index=True),
    sa.Column("state", Text, nullable=False),
    sa.Column("number", Text, nullable=False),
    sa.Column("valid_from", sa.Date),
    sa.Column("valid_to", sa.Date, doc="the last day"),
)

credential = sa.Table(
    "credential",
    metadata,
    _id(),
    sa.Column("reader", sa.ForeignKey("reader.id"), nullable=False, index=True),
    sa.Column("facility", sa.ForeignKey("facility.id"), nullable=False, index=True),
    sa.Column("status", sa.String(16), nullable=False),
    sa.Column("valid_from", sa.Date),
    sa.Column("valid_to", sa.Date),
)

shift = sa.Table(
    "shift",
    metadata,
    _id(),
    sa.Column("reader", sa.ForeignKey("reader.id"), nullable=False, index=True),
    sa.Column("days", Text, nullable=False, doc="mon tue ..."),
    sa.Column("starts", Text, nullable=False, doc="HH:MM by the clock of the reader's zone"),
    sa.Column("ends", Text, nullable=False, doc="of the next day where it is not after the start"),
    sa.Column("valid_from", sa.Date),
    sa.Column("valid_to", sa.Date),
)

leave = sa.Table(
    "leave",
    metadata,
    _id(),
    sa.Column("reader", sa.ForeignKey("reader.id"), nullable=False, index=True),
    sa.Column("starts", Text, nullable=False, doc="a day or a time, ISO 8601, by the clock of the reader's zone"),
    sa.Column("ends", Text, nullable=False, doc="the last day, or a time"),
)

patient = sa.Table(
    "patient",
    metadata,
    _id(),
    sa.Column("issuer", Text, nullable=False),
    sa.Column("patient_id", Text, nullable=True, doc="NULL where the object names none: then each study has its own"),
    sa.Column("version", sa.Integer, nullable=False, default=1),
    sa.Column("received_at", UtcDateTime, nullable=False),
    sa.Column("header", sa.LargeBinary, doc="what the last study says of who it is, DICOM JSON"),
    sa.Column("updated_at", UtcDateTime, doc="when that was last another"),
    sa.UniqueConstraint("issuer", "patient_id"),
)

patient_known = sa.Table(
    "patient_known",
    metadata,
    sa.Column("facility", sa.ForeignKey("facility.id"), primary_key=True),
    sa.Column("issuer", Text, primary_key=True),
    sa.Column("patient_id", Text, primary_key=True),
    sa.Column("attributes", sa.LargeBinary, nullable=False, doc="DICOM JSON"),
    sa.Column("source", Text, nullable=False, doc="who has said it last"),
    sa.Column("at", UtcDateTime, nullable=False),
)
"""What the messages of a facility say of who its patients are, whether they have studies or not."""

patient_merge = sa.Table(
    "patient_merge",
    metadata,
    _id(),
    sa.Column("facility", sa.ForeignKey("facility.id"), nullable=False),
    sa.Column("issuer", Text, nullable=False),
    sa.Column("from_id", Text, nullable=False, doc="Patient ID of whom there is no more"),
    sa.Column("into_id", Text, nullable=False, doc="Patient ID of the survivor"),
    sa.Column("source", Text, nullable=False, doc="who has said it"),
    sa.Column("at", UtcDateTime, nullable=False),
    sa.Column("undone_at", UtcDateTime, doc="NULL: it holds"),
    sa.Column("undone_source", Text, nullable=False),
    sa.Index("uq_patient_merge_from", "facility", "issuer", "from_id", unique=True, **_where("undone_at IS NULL")),
    sa.Index("ix_patient_merge_from_id", "from_id"),
    sa.Index("ix_patient_merge_into_id", "into_id"),
)

patient_move = sa.Table(
    "patient_move",
    metadata,
    sa.Column("merge", sa.ForeignKey("patient_merge.id"), primary_key=True),
    sa.Column("kind", sa.String(8), primary_key=True, doc="study, order, item, step"),
    sa.Column("key", Text, primary_key=True, doc="UID of the study, else an id"),
    sa.Column("before", sa.LargeBinary, nullable=False, doc="JSON of what it said until then"),
)
"""What a merge has moved, so that its undoing moves only that."""

study = sa.Table(
    "study",
    metadata,
    _id(),
    sa.Column("owner_facility", sa.ForeignKey("facility.id"), nullable=False),
    sa.Column("study_uid", Text, nullable=False),
    sa.Column("patient", sa.ForeignKey("patient.id"), nullable=False),
    sa.Column("patient_id", Text, doc="(0010,0020) as received"),
    sa.Column("issuer", Text, doc="(0010,0021) as received"),
    sa.Column("birth_date", Text),
    sa.Column("sex", Text),
    sa.Column("study_date", Text, nullable=False, default="", doc="empty where unknown: so it sorts last, descending"),
    sa.Column("study_time", Text),
    sa.Column("timezone_offset", Text, doc="(0008,0201) as received"),
    sa.Column("accession_number", Text),
    sa.Column("study_id", Text),
    sa.Column("study_description", Text),
    sa.Column("institution_name", Text),
    sa.Column("modalities", Text, nullable=False, doc="sorted, each followed by a backslash"),
    sa.Column("sop_classes", Text, nullable=False, doc="sorted, each followed by a backslash"),
    sa.Column("series_count", sa.Integer, nullable=False),
    sa.Column("instance_count", sa.Integer, nullable=False),
    sa.Column("size_bytes", sa.BigInteger, nullable=False),
    sa.Column("row", sa.LargeBinary, nullable=False, doc="what QIDO sends for it, DICOM JSON"),
    sa.Column("extra", sa.LargeBinary, nullable=False, doc="what includefield may add, DICOM JSON"),
    sa.Column("version", sa.Integer, nullable=False),
    sa.Column("received_at", UtcDateTime, nullable=False),
    sa.Column("updated_at", UtcDateTime, nullable=False),
    sa.Column("settle_due_at", UtcDateTime, doc="when it counts as complete if nothing more comes; NULL once it has"),
    sa.Column("settled_at", UtcDateTime, doc="when it last did, if no instance has come since"),
    sa.Column("header", sa.LargeBinary, doc="row and extra as they came, where a correction lies over them"),
    sa.Column("overlay_version", sa.Integer, nullable=False, server_default="0", doc="corrections of it so far"),
    sa.Column("revision", sa.Integer, nullable=False, server_default="0", doc="how often it has settled"),
    sa.Column("fhir_id", sa.String(32), doc="id of its ImagingStudy, which its facility and its UID give"),
    sa.UniqueConstraint("owner_facility", "study_uid"),
    sa.Index("ix_study_study_uid", "study_uid"),
    # Lists of studies, newest first, are paged over these without reading the table.
    sa.Index("ix_study_date", "study_date", "id", "owner_facility", **_where("instance_count > 0")),
    sa.Index("ix_study_facility_date", "owner_facility", "study_date", "id", **_where("instance_count > 0")),
    sa.Index("ix_study_accession", "accession_number"),
    sa.Index("ix_study_patient_id", "patient_id"),
    sa.Index("ix_study_patient", "patient"),
    sa.Index("ix_study_settle_due", "settle_due_at"),
    sa.Index("uq_study_fhir_id", "fhir_id", unique=True),
    sa.Index("ix_study_updated", "updated_at", "id"),
)

study_version = sa.Table(
    "study_version",
    metadata,
    sa.Column("study", sa.ForeignKey("study.id", ondelete="CASCADE"), primary_key=True),
    sa.Column("version", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("updated_at", UtcDateTime, nullable=False),
    sa.Column("is_deleted", sa.Boolean, nullable=False),
    sa.Column("rest", sa.LargeBinary, nullable=False, doc="its ImagingStudy as it was when it settled, zlib"),
    sa.Index("ix_study_version_updated", "updated_at", "study", "version"),
)

series = sa.Table(
    "series",
    metadata,
    _id(),
    sa.Column("study", sa.ForeignKey("study.id", ondelete="CASCADE"), nullable=False),
    sa.Column("series_uid", Text, nullable=False),
    sa.Column("place", Text, nullable=False, doc="its folder in the store"),
    sa.Column("modality", Text),
    sa.Column("series_number", sa.BigInteger),
    sa.Column("series_description", Text),
    sa.Column("body_part", Text),
    sa.Column("laterality", Text),
    sa.Column("series_date", Text),
    sa.Column("series_time", Text),
    sa.Column("performed_date", Text, doc="(0040,0244)"),
    sa.Column("performed_time", Text, doc="(0040,0245)"),
    sa.Column("instance_count", sa.Integer, nullable=False),
    sa.Column("row", sa.LargeBinary, nullable=False),
    sa.Column("extra", sa.LargeBinary, nullable=False),
    sa.Column("version", sa.Integer, nullable=False),
    sa.Column("received_at", UtcDateTime, nullable=False),
    sa.Column("stale_since", UtcDateTime, doc="its settled zarr files say other than this catalog; NULL: they do not"),
    sa.Column("header", sa.LargeBinary, doc="row and extra as they came, where a correction lies over them"),
    sa.UniqueConstraint("study", "series_uid"),
    sa.Index("ix_series_series_uid", "series_uid"),
    sa.Index("ix_series_study_modality", "study", "modality", **_where("instance_count > 0")),
    sa.Index("ix_series_modality", "modality"),
    sa.Index("ix_series_stale", "stale_since", **_where("stale_since IS NOT NULL")),
)

zarr_array = sa.Table(
    "zarr_array",
    metadata,
    _id(),
    sa.Column("place", Text, nullable=False, doc="the folder of its series in the store"),
    sa.Column("name", sa.String(16), nullable=False, doc="a0, a1 ...; o for what has no frames"),
    sa.Column("digest", sa.String(64), nullable=False, doc="of its ArraySpec; empty for o"),
    sa.Column("spec", sa.LargeBinary, nullable=False),
    sa.Column("next_slot", sa.Integer, nullable=False),
    sa.UniqueConstraint("place", "name"),
    sa.UniqueConstraint("place", "digest"),
)

writer = sa.Table(
    "writer",
    metadata,
    sa.Column("id", sa.String(32), primary_key=True),
    sa.Column("host", Text, nullable=False),
    sa.Column("pid", sa.Integer, nullable=False),
    sa.Column("lease_until", UtcDateTime, nullable=False),
)

slot_block = sa.Table(
    "slot_block",
    metadata,
    _id(),
    sa.Column("array", sa.ForeignKey("zarr_array.id"), nullable=False),
    sa.Column("writer", sa.ForeignKey("writer.id", ondelete="CASCADE"), nullable=False, index=True),
    sa.Column("first", sa.Integer, nullable=False),
    sa.Column("count", sa.Integer, nullable=False),
)

instance = sa.Table(
    "instance",
    metadata,
    _id(),
    sa.Column("owner_facility", sa.ForeignKey("facility.id"), nullable=False),
    sa.Column("study", sa.ForeignKey("study.id", ondelete="CASCADE"), nullable=False),
    sa.Column("series", sa.ForeignKey("series.id", ondelete="CASCADE"), nullable=False),
    sa.Column("instance_uid", Text, nullable=False),
    sa.Column("version", sa.Integer, nullable=False, doc="1, 2 ... for other bytes under the same UID"),
    sa.Column("is_current", sa.Boolean, nullable=False),
    sa.Column("sop_class", Text, nullable=False),
    sa.Column("transfer_syntax", Text, nullable=False),
    sa.Column("instance_number", sa.BigInteger),
    sa.Column("content_date", Text),
    sa.Column("content_time", Text),
    sa.Column("rows", sa.Integer),
    sa.Column("columns", sa.Integer),
    sa.Column("bits_allocated", sa.Integer),
    sa.Column("frame_count", sa.Integer, nullable=False, doc="0 without pixel data"),
    sa.Column("sha256", sa.LargeBinary(32), nullable=False),
    sa.Column("size_bytes", sa.BigInteger, nullable=False, doc="of the file as received"),
    sa.Column("object_key", Text, nullable=False, unique=True),
    sa.Column("object_bytes", sa.BigInteger, nullable=False, doc="with the trailer"),
    sa.Column("array", sa.ForeignKey("zarr_array.id"), nullable=False),
    sa.Column("slot", sa.Integer, nullable=False),
    sa.Column("opaque_reason", Text, nullable=False, doc="empty where the object is a shard"),
    sa.Column("chunk_count", sa.Integer, nullable=False),
    sa.Column("chunk_offset", sa.BigInteger, nullable=False, doc="of the first chunk"),
    sa.Column("chunk_length", sa.BigInteger, nullable=False),
    sa.Column("chunk_stride", sa.BigInteger, doc="from chunk to chunk where constant, else look in the shard index"),
    sa.Column("source", Text, nullable=False, doc="where it came from: stow, import, an AE title"),
    sa.Column("received_at", UtcDateTime, nullable=False),
    sa.Column(
        "overlay_version",
        sa.Integer,
        nullable=False,
        server_default="0",
        doc="0 where it is shown as received, else one more than the last correction over it",
    ),
    sa.UniqueConstraint("owner_facility", "instance_uid", "version"),
    sa.UniqueConstraint("array", "slot"),
    sa.Index(
        "uq_instance_current",
        "owner_facility",
        "instance_uid",
        unique=True,
        **_where("is_current"),
    ),
    sa.Index("ix_instance_instance_uid", "instance_uid"),
    sa.Index("ix_instance_series", "series", "is_current", "instance_number", "id"),
    sa.Index("ix_instance_study", "study"),
)

instance_metadata = sa.Table(
    "instance_metadata",
    metadata,
    sa.Column("instance", sa.ForeignKey("instance.id", ondelete="CASCADE"), primary_key=True),
    sa.Column("json", sa.LargeBinary, nullable=False, doc="DICOM JSON as it is shown, zlib"),
    sa.Column("received", sa.LargeBinary, doc="as it was received, zlib; NULL where that is the same"),
    sa.Column("coerced", sa.LargeBinary, doc="what was coerced as it came: DICOM JSON, null takes away"),
)

removal = sa.Table(
    "removal",
    metadata,
    _id(),
    sa.Column("owner_facility", sa.ForeignKey("facility.id"), nullable=False),
    sa.Column("study_uid", Text, nullable=False),
    sa.Column("series_uid", Text, nullable=False),
    sa.Column("instance_uid", Text, nullable=False),
    sa.Column(
        "state",
        sa.String(16),
        nullable=False,
        doc="awaited: rejected, not received yet; hidden; purging; purged: the bytes are gone",
    ),
    sa.Column("reason", Text, nullable=False, doc="deleted, or the code of a rejection note's title: 113001 ..."),
    sa.Column("note", Text, nullable=False, doc="SOP Instance UID of the rejection note; empty without one"),
    sa.Column("actor", Text, nullable=False, doc="who removed it"),
    sa.Column("at", UtcDateTime, nullable=False),
    sa.UniqueConstraint("owner_facility", "instance_uid"),
    sa.Index("ix_removal_study_uid_series_uid", "study_uid", "series_uid"),
    sa.Index("ix_removal_state_at", "state", "at"),
)

side_record = sa.Table(
    "side_record",
    metadata,
    _id(),
    sa.Column("object_key", Text, nullable=False),
    sa.Column("begun_at", UtcDateTime, nullable=False),
    sa.Column("is_withdrawn", sa.Boolean, nullable=False, doc="its transaction may not commit any more"),
)

work_item = sa.Table(
    "work_item",
    metadata,
    _id(),
    sa.Column("workitem_uid", Text, nullable=False, unique=True, doc="its SOP Instance UID as a UPS"),
    sa.Column("kind", sa.String(16), nullable=False),
    sa.Column("state", sa.String(16), nullable=False),
    sa.Column("facility", sa.ForeignKey("facility.id"), nullable=False),
    sa.Column("study_uid", Text),
    sa.Column("accession_number", Text),
    sa.Column("priority", sa.String(16), nullable=False, doc="as it was ordered"),
    sa.Column("rank", sa.Integer, nullable=False, doc="what holds now: the index in `readingroom.model.PRIORITIES`"),
    sa.Column("is_flagged", sa.Boolean, nullable=False),
    sa.Column("findings", Text, nullable=False, doc="what flagged it, in one line"),
    sa.Column("modality", Text),
    sa.Column("body_part", Text),
    sa.Column("subspecialty", Text),
    sa.Column("study_type", Text),
    sa.Column("patient_state", Text),
    sa.Column("owner", Text, doc="id of the reader who has claimed it, or had at its end"),
    sa.Column("offered_to", Text, doc="id of the reader whom it was assigned to"),
    sa.Column("claim_token", Text, doc="the Transaction UID; shown to nobody"),
    sa.Column("claimed_at", UtcDateTime),
    sa.Column("claim_expires_at", UtcDateTime),
    sa.Column("held_from", sa.String(16), doc="the state that it goes back to"),
    sa.Column("reason", Text, nullable=False, doc="of being held or cancelled"),
    sa.Column("created_at", UtcDateTime, nullable=False),
    sa.Column("changed_at", UtcDateTime, nullable=False),
    sa.Column("ready_at", UtcDateTime),
    sa.Column("warn_at", UtcDateTime),
    sa.Column("due_at", UtcDateTime),
    sa.Column("order_at", UtcDateTime, nullable=False, doc="due_at; without one, long after what is due"),
    sa.Column("attributes", sa.LargeBinary, nullable=False, doc="DICOM JSON of the UPS that no column has"),
    sa.Column("version", sa.Integer, nullable=False),
    sa.Column("extras", sa.LargeBinary, doc="JSON: what a client has said of its Task that no column has"),
    # One reading of a study, however often it settles.
    sa.Index(
        "uq_work_item_read", "facility", "study_uid", unique=True, **_where("kind = 'read' AND study_uid IS NOT NULL")
    ),
    # The next items to read are cut from these: a few rows from the head of each class.
    sa.Index(
        "ix_work_item_next",
        *("is_flagged", "rank", "order_at", "id", "facility", "warn_at"),
        **_where("state = 'ready' AND kind != 'external'"),
    ),
    sa.Index(
        "ix_work_item_next_of",
        *("facility", "is_flagged", "rank", "order_at", "id", "warn_at"),
        **_where("state = 'ready' AND kind != 'external'"),
    ),
    sa.Index(
        "ix_work_item_risk",
        *("warn_at", "id", "facility", "is_flagged", "rank"),
        **_where("state = 'ready' AND kind != 'external'"),
    ),
    sa.Index("ix_work_item_study_uid", "study_uid"),
    sa.Index("ix_work_item_accession", "accession_number"),
    sa.Index("ix_work_item_owner", "owner", "state"),
    sa.Index("ix_work_item_offered_to", "offered_to", **_where("state = 'assigned'")),
    sa.Index("ix_work_item_expiry", "claim_expires_at", **_where("claim_expires_at IS NOT NULL")),
    sa.Index("ix_work_item_changed", "changed_at", "id"),
)

work_item_version = sa.Table(
    "work_item_version",
    metadata,
    sa.Column("item", sa.ForeignKey("work_item.id", ondelete="CASCADE"), primary_key=True),
    sa.Column("version", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("changed_at", UtcDateTime, nullable=False),
    sa.Column("row", sa.LargeBinary, nullable=False, doc="JSON of the row as it was, without the claim token"),
    sa.Index("ix_work_item_version_changed", "changed_at", "item", "version"),
)

imaging_order = sa.Table(
    "imaging_order",
    metadata,
    sa.Column("facility", sa.ForeignKey("facility.id"), primary_key=True),
    sa.Column("id", sa.String(64), primary_key=True, doc="of its ServiceRequest"),
    sa.Column("accession_number", Text, nullable=False),
    sa.Column("state", sa.String(16), nullable=False, doc="active, on-hold, revoked, completed"),
    sa.Column("priority", sa.String(16), nullable=False),
    sa.Column("patient_id", Text),
    sa.Column("issuer", Text),
    sa.Column("procedure", Text),
    sa.Column("reason", Text),
    sa.Column("ordered_at", UtcDateTime),
    sa.Column("item", sa.ForeignKey("work_item.id"), index=True, doc="the reading that it has led to"),
    sa.Column("created_at", UtcDateTime, nullable=False),
    sa.Column("updated_at", UtcDateTime, nullable=False),
    sa.Index("ix_imaging_order_accession", "accession_number", "facility"),
)

procedure_step = sa.Table(
    "procedure_step",
    metadata,
    _id(),
    sa.Column("facility", sa.ForeignKey("facility.id"), nullable=False),
    sa.Column("step_id", Text, nullable=False, doc="Scheduled Procedure Step ID"),
    sa.Column("imaging_order", sa.String(64), doc="id of the row of imaging_order that asks for it"),
    sa.Column("accession_number", Text, nullable=False),
    sa.Column("procedure_id", Text, nullable=False, doc="Requested Procedure ID"),
    sa.Column("study_uid", Text, nullable=False),
    sa.Column("state", sa.String(16), nullable=False),
    sa.Column("reason", Text, nullable=False, doc="of being cancelled or discontinued"),
    sa.Column("modality", Text, nullable=False),
    sa.Column("station_ae", Text, nullable=False, doc="AE titles, with backslashes between them"),
    sa.Column("starts_on", Text, nullable=False, doc="YYYYMMDD; empty where nobody has said"),
    sa.Column("starts_at", Text, nullable=False, doc="HHMMSS.FFFFFF; empty where nobody has said"),
    sa.Column("patient_id", Text, nullable=False),
    sa.Column("issuer", Text, nullable=False, doc="that of the facility where nobody has said"),
    sa.Column("header", sa.LargeBinary, nullable=False, doc="DICOM JSON of its item of the modality worklist"),
    sa.Column("created_at", UtcDateTime, nullable=False),
    sa.Column("updated_at", UtcDateTime, nullable=False),
    sa.UniqueConstraint("facility", "step_id"),
    sa.Index(
        "ix_procedure_step_open",
        *("facility", "starts_on", "starts_at", "id"),
        **_where("state IN ('scheduled', 'arrived', 'started')"),
    ),
    sa.Index("ix_procedure_step_accession", "accession_number", "facility"),
    sa.Index("ix_procedure_step_order", "imaging_order", "facility"),
    sa.Index("ix_procedure_step_study_uid", "study_uid"),
    sa.Index("ix_procedure_step_patient_id", "patient_id", "issuer"),
)

hl7_message = sa.Table(
    "hl7_message",
    metadata,
    sa.Column(
        "id",
        sa.BigInteger().with_variant(sa.Integer, "sqlite"),
        primary_key=True,
        autoincrement=True,
        doc="in the order in which they came",
    ),
    sa.Column("sender", Text, nullable=False, doc="name of who sent it; its control ids are its own"),
    sa.Column("control_id", Text, nullable=False, doc="MSH-10"),
    sa.Column("digest", sa.String(64), nullable=False, doc="of what it says, but for MSH-7"),
    sa.Column("facility", sa.String(64), nullable=False),
    sa.Column("kind", Text, nullable=False, doc="ADT^A08"),
    sa.Column("address", Text, nullable=False, doc="where it came from"),
    sa.Column("body", sa.LargeBinary, nullable=False, doc="as it came, without the frame"),
    sa.Column("state", sa.String(16), nullable=False, doc="received, applied, failed, ignored, duplicate"),
    sa.Column("error", Text, nullable=False, doc="why it failed, or leads to nothing"),
    sa.Column("attempts", sa.Integer, nullable=False),
    sa.Column("profile", Text, nullable=False, doc="how it was read when it was applied"),
    sa.Column("about", Text, nullable=False, doc="what it was about: an order, else a patient"),
    sa.Column("received_at", UtcDateTime, nullable=False),
    sa.Column("done_at", UtcDateTime),
    sa.UniqueConstraint("sender", "control_id", "digest"),
    sa.Index("ix_hl7_message_next", "facility", "id", **_where("state = 'received'")),
    sa.Index("ix_hl7_message_state", "state", "id"),
    sa.Index("ix_hl7_message_about", "facility", "about", "id", **_where("about <> ''")),
    sqlite_autoincrement=True,
)
"""Messages of HL7 version 2 that came."""

performed_step = sa.Table(
    "performed_step",
    metadata,
    sa.Column("instance_uid", Text, primary_key=True, doc="its SOP Instance UID"),
    sa.Column("facility", sa.ForeignKey("facility.id"), nullable=False),
    sa.Column("source", Text, nullable=False, doc="who has said that it began: an AE title, or who called over HTTP"),
    sa.Column("state", sa.String(16), nullable=False, doc="in progress, completed, discontinued"),
    sa.Column("study_uid", Text, nullable=False),
    sa.Column("steps", Text, nullable=False, doc="JSON: ids of the scheduled procedure steps that it performs"),
    sa.Column("doubt", Text, nullable=False, doc="why somebody has to look at it; empty where it is as scheduled"),
    sa.Column("attributes", sa.LargeBinary, nullable=False, doc="DICOM JSON of all that was said of it"),
    sa.Column("created_at", UtcDateTime, nullable=False),
    sa.Column("changed_at", UtcDateTime, nullable=False),
    sa.Index("ix_performed_step_study_uid", "study_uid", "facility"),
    sa.Index("ix_performed_step_doubt", "created_at", "instance_uid", **_where("doubt != ''")),
)

reconciliation = sa.Table(
    "reconciliation",
    metadata,
    _id(),
    sa.Column("facility", sa.ForeignKey("facility.id"), nullable=False),
    sa.Column("study_uid", Text, nullable=False),
    sa.Column("state", sa.String(16), nullable=False, doc="doubtful, linked, dismissed"),
    sa.Column("reasons", sa.LargeBinary, nullable=False, doc="JSON: why it is doubtful"),
    sa.Column("candidates", sa.LargeBinary, nullable=False, doc="JSON: of each accession number what is known of it"),
    sa.Column("accession_number", Text, nullable=False, doc="that it was linked to"),
    sa.Column("how", sa.String(32), nullable=False, doc="study uid, patient and time, person"),
    sa.Column("actor", Text, nullable=False),
    sa.Column("note", Text, nullable=False),
    sa.Column("moved", sa.LargeBinary, doc="JSON: what the link has corrected, and what was there before"),
    sa.Column("made_at", UtcDateTime, nullable=False),
    sa.Column("changed_at", UtcDateTime, nullable=False),
    sa.UniqueConstraint("facility", "study_uid"),
    sa.Index("ix_reconciliation_state", "state", "id"),
)
"""Studies whose order is, or was, in doubt."""

ups_subscription = sa.Table(
    "ups_subscription",
    metadata,
    sa.Column("realm", Text, primary_key=True, doc="the scope of who subscribed: facilities with commas, or *"),
    sa.Column("ae", sa.String(16), primary_key=True, doc="AE title of the subscriber"),
    sa.Column("kind", sa.String(8), primary_key=True, doc="worklist or filtered: what comes; item, or ended: one"),
    sa.Column("item", sa.String(32), primary_key=True, doc="id of the work item; empty for what comes"),
    sa.Column("has_lock", sa.Boolean, nullable=False, doc="a deletion lock (PS3.4 CC.2.3.1)"),
    sa.Column("filter", sa.LargeBinary, nullable=False, doc="JSON of what items have to match; empty for all"),
    sa.Column("at", UtcDateTime, nullable=False),
    sa.Index("ix_ups_subscription_item", "item", "realm", "ae"),
)

ups_report = sa.Table(
    "ups_report",
    metadata,
    sa.Column(
        "seq",
        sa.BigInteger().with_variant(sa.Integer, "sqlite"),
        primary_key=True,
        autoincrement=True,
        doc="in commit order",
    ),
    sa.Column("realm", Text, nullable=False),
    sa.Column("ae", sa.String(16), nullable=False),
    sa.Column("workitem_uid", Text, nullable=False),
    sa.Column("type", sa.Integer, nullable=False, doc="Event Type ID of PS3.4 Table CC.2.4-1"),
    sa.Column("at", UtcDateTime, nullable=False),
    sa.Column("attributes", sa.LargeBinary, nullable=False, doc="DICOM JSON"),
    sa.Index("ix_ups_report_to", "realm", "ae", "seq"),
    sa.Index("ix_ups_report_at", "at"),
    sqlite_autoincrement=True,
)

ups_channel = sa.Table(
    "ups_channel",
    metadata,
    sa.Column("realm", Text, primary_key=True),
    sa.Column("ae", sa.String(16), primary_key=True),
    sa.Column("sent", sa.BigInteger, nullable=False, doc="number of the last report that was sent"),
)


sla_clock = sa.Table(
    "sla_clock",
    metadata,
    sa.Column("item", sa.ForeignKey("work_item.id", ondelete="CASCADE"), primary_key=True),
    sa.Column("started_at", UtcDateTime, nullable=False),
    sa.Column("contract", sa.ForeignKey("contract.id"), doc="NULL where a plugin has said when the item is due"),
    sa.Column("study_type", Text, nullable=False, doc="the class of the contract"),
    sa.Column("because", Text, nullable=False),
    sa.Column("grace_seconds", sa.Integer, nullable=False),
    sa.Column("pause_reasons", Text, nullable=False, doc="JSON"),
    sa.Column("paused_at", UtcDateTime, doc="NULL while it runs"),
    sa.Column("pauses", Text, nullable=False, doc="JSON: the ones that are over, each its begin and end"),
)

sla_mark = sa.Table(
    "sla_mark",
    metadata,
    sa.Column("item", sa.ForeignKey("work_item.id", ondelete="CASCADE"), primary_key=True),
    sa.Column("mark", sa.String(16), primary_key=True, doc="warn, due, breached"),
    sa.Column("due_at", UtcDateTime, doc="NULL while the clock of the item is paused"),
    sa.Column("fired_at", UtcDateTime, doc="it has been told, and is not told again"),
    sa.Index("ix_sla_mark_due", "due_at", **_where("fired_at IS NULL AND due_at IS NOT NULL")),
)


def _values(of: str) -> sa.Table:
    """Values of one level that searches match beside its columns: of names, in sequences, and as configured."""
    return sa.Table(
        f"{of}_value",
        metadata,
        sa.Column("key", Text, primary_key=True, doc="of `storage.catalog.keys`; ~ before it: the words of a name"),
        sa.Column("value", Text, primary_key=True, doc="as `storage.catalog.normal` has it"),
        sa.Column("entity", sa.ForeignKey(f"{of}.id", ondelete="CASCADE"), primary_key=True),
        sa.Column("item", Text, primary_key=True, doc="four hex digits for each sequence that it is in"),
        sa.Column("number", sa.Integer, primary_key=True, doc="which value; of names 3 a value, one a component group"),
        sa.Index(f"ix_{of}_value_entity", "entity", "key"),
        sqlite_with_rowid=False,
    )


study_value = _values("study")
series_value = _values("series")
instance_value = _values("instance")
work_item_value = _values("work_item")
procedure_step_value = _values("procedure_step")

plugin_answer = sa.Table(
    "plugin_answer",
    metadata,
    _id(),
    sa.Column("facility", sa.ForeignKey("facility.id"), nullable=False),
    sa.Column("study_uid", Text, nullable=False),
    sa.Column("revision", sa.Integer, nullable=False, doc="of the study that it was asked about"),
    sa.Column("hook", Text, nullable=False),
    sa.Column("plugin", Text, nullable=False),
    sa.Column("state", sa.String(16), nullable=False, doc="asked, answered, missed: not in time"),
    sa.Column("answer", sa.LargeBinary, nullable=False, doc="JSON as `readingroom.jsonio` writes it; empty for none"),
    sa.Column("note", Text, nullable=False, doc="what the core did with it and why"),
    sa.Column("asked_at", UtcDateTime, nullable=False),
    sa.Column("answered_at", UtcDateTime),
    sa.UniqueConstraint("facility", "study_uid", "revision", "hook", "plugin"),
)

escalation = sa.Table(
    "escalation",
    metadata,
    _id(),
    sa.Column("key", Text, nullable=False, unique=True, doc="what it is for: of one cause there is one"),
    sa.Column("facility", sa.ForeignKey("facility.id"), nullable=False),
    sa.Column("item", Text, doc="id of the work item"),
    sa.Column("study_uid", Text),
    sa.Column("reason", Text, nullable=False),
    sa.Column("category", sa.Integer, doc="of an actionable finding: 1 minutes, 2 hours, 3 days"),
    sa.Column("details", sa.LargeBinary, nullable=False, doc="JSON"),
    sa.Column("ladder", sa.LargeBinary, nullable=False, doc="JSON of its rungs, as they were when it was opened"),
    sa.Column("state", sa.String(16), nullable=False, doc="open, acknowledged, cancelled"),
    sa.Column(
        "rung", sa.Integer, nullable=False, doc="how many rungs were climbed; goes on past the last, which repeats"
    ),
    sa.Column("due_at", UtcDateTime, doc="when the next is; NULL once it is closed"),
    sa.Column("opened_at", UtcDateTime, nullable=False),
    sa.Column("closed_at", UtcDateTime),
    sa.Column("closed_by", Text, doc="who acknowledged or cancelled it"),
    sa.Column("read_back", Text, nullable=False, doc="what the person reached said back; of a cancelled one, why"),
    sa.Column("version", sa.Integer, nullable=False),
    sa.Column("report", Text, doc="id of the report whose critical result it is about"),
    sa.Column("result", sa.String(32), doc="digest of the text of that result"),
    sa.Column("reach_by", UtcDateTime, doc="when the person has to be reached by; NULL where it has no category"),
    sa.Column("reached_at", UtcDateTime, doc="when the person was reached who has read it back"),
    sa.Column("withdrawn_at", UtcDateTime, doc="when a version was signed that has that result no more"),
    sa.Column("holder", Text, doc="whom it was handed over to at the desk"),
    sa.Index("ix_escalation_due", "due_at", **_where("due_at IS NOT NULL")),
    sa.Index("ix_escalation_open", "facility", "opened_at", **_where("state = 'open'")),
    sa.Index("ix_escalation_item", "item"),
    sa.Index("ix_escalation_study_uid", "study_uid"),
    sa.Index("ix_escalation_report", "report", **_where("report IS NOT NULL")),
    sa.Index("ix_escalation_reported", "opened_at", **_where("report IS NOT NULL")),
)

escalation_attempt = sa.Table(
    "escalation_attempt",
    metadata,
    _id(),
    sa.Column("escalation", sa.ForeignKey("escalation.id", ondelete="CASCADE"), nullable=False),
    sa.Column("rung", sa.Integer, nullable=False),
    sa.Column("name", Text, nullable=False),
    sa.Column("role", Text, nullable=False),
    sa.Column("channel", Text, nullable=False),
    sa.Column("address", Text, nullable=False),
    sa.Column("at", UtcDateTime, nullable=False),
    sa.Column("state", sa.String(16), nullable=False, doc="notified, failed"),
    sa.Column("plugin", Text, nullable=False, doc="whose channel carried it; empty where none did"),
    sa.Column("reference", Text, nullable=False, doc="what the channel knows the message by"),
    sa.Column("error", Text, nullable=False),
    sa.UniqueConstraint("escalation", "rung", "channel", "address"),
)
"""What the server has tried: of one message on one rung there is one row, however often it was sent."""

escalation_call = sa.Table(
    "escalation_call",
    metadata,
    _id(),
    sa.Column("escalation", sa.ForeignKey("escalation.id", ondelete="CASCADE"), nullable=False),
    sa.Column("rung", sa.Integer, nullable=False, doc="that it was at"),
    sa.Column("name", Text, nullable=False, doc="who was called; of a hand-over, to whom"),
    sa.Column("role", Text, nullable=False),
    sa.Column("channel", Text, nullable=False, doc="how: telephone, in person"),
    sa.Column("address", Text, nullable=False, doc="such as the number"),
    sa.Column("at", UtcDateTime, nullable=False, doc="when, as was said"),
    sa.Column("state", sa.String(16), nullable=False, doc="reached, no-answer, left-message, read-back, handed-over"),
    sa.Column("by", Text, nullable=False, doc="id of who has called"),
    sa.Column("note", Text, nullable=False),
    sa.Column("noted_at", UtcDateTime, nullable=False, doc="when it was written down"),
    sa.Index("ix_escalation_call_escalation", "escalation", "at"),
)
"""What people have tried and done: every call is a row, and none is changed."""

report = sa.Table(
    "report",
    metadata,
    _id(),
    sa.Column("facility", sa.ForeignKey("facility.id"), nullable=False),
    sa.Column("study_uid", Text),
    sa.Column("accession_number", Text),
    sa.Column("item", sa.ForeignKey("work_item.id"), doc="the reading that it is the result of"),
    sa.Column("patient", Text, doc="the catalog's key of the patient"),
    sa.Column("modality", Text),
    sa.Column("status", sa.String(16), nullable=False),
    sa.Column("number", sa.Integer, nullable=False, doc="of the last signed version; 0: nobody has signed"),
    sa.Column("version", sa.Integer, nullable=False, doc="of this row: its ETag"),
    sa.Column("awaits", sa.String(16), nullable=False, doc="whose signature is still to come: attending, facility"),
    sa.Column("draft", sa.LargeBinary, doc="JSON of what is being written; NULL where all is signed"),
    sa.Column("author", Text, doc="id of the reader who writes it, or has last"),
    sa.Column("created_at", UtcDateTime, nullable=False),
    sa.Column("changed_at", UtcDateTime, nullable=False),
    sa.Column("signed_at", UtcDateTime, doc="when the last version was"),
    sa.Column("final_at", UtcDateTime, doc="when it was first signed as final"),
    # Of one study there is one report that counts.
    sa.Index(
        "uq_report_study",
        *("facility", "study_uid"),
        unique=True,
        **_where("study_uid IS NOT NULL AND status NOT IN ('cancelled', 'entered-in-error')"),
    ),
    sa.Index("ix_report_item", "item"),
    sa.Index("ix_report_study_uid", "study_uid"),
    sa.Index("ix_report_author", "author", "status"),
    sa.Index("ix_report_changed", "changed_at", "id"),
    sa.Index("ix_report_final", "final_at", "id", **_where("final_at IS NOT NULL")),
)

report_version = sa.Table(
    "report_version",
    metadata,
    sa.Column("report", sa.ForeignKey("report.id"), primary_key=True),
    sa.Column("number", sa.Integer, primary_key=True, autoincrement=False, doc="1, 2 ... in the order of signing"),
    sa.Column("status", sa.String(16), nullable=False),
    sa.Column("kind", sa.String(16), nullable=False, doc="report, addendum, amendment, correction"),
    sa.Column("reader", Text, nullable=False, doc="id of who signed it last"),
    sa.Column("signed_at", UtcDateTime, nullable=False),
    sa.Column("content", sa.LargeBinary, nullable=False, doc="the bytes that were signed: JSON of a `Report`"),
    sa.Column("signature", Text, nullable=False, doc="JSON Web Signature over them, detached (RFC 7515 appendix F)"),
    sa.Index("ix_report_version_signed", "signed_at", "report", "number"),
)
"""Signed versions of reports. A row is added and never changed; triggers of the database see to that."""

_OPEN = "state IN ('queued', 'sent')"

delivery = sa.Table(
    "delivery",
    metadata,
    sa.Column(
        "id",
        sa.BigInteger().with_variant(sa.Integer, "sqlite"),
        primary_key=True,
        autoincrement=True,
        doc="in the order in which they go",
    ),
    sa.Column("report", sa.ForeignKey("report.id"), nullable=False),
    sa.Column("number", sa.Integer, nullable=False, doc="of the signed version"),
    sa.Column("facility", sa.String(64), nullable=False, doc="that the report is of"),
    sa.Column("owner", sa.String(64), nullable=False, doc="id of the facility whose destination it is"),
    sa.Column("destination", sa.String(64), nullable=False),
    sa.Column("channel", Text, nullable=False),
    sa.Column("told", sa.LargeBinary, nullable=False, doc="JSON of the destination as it was when it was last asked"),
    sa.Column("lane", Text, nullable=False, doc="at one destination, what is of one lane goes in its order"),
    sa.Column("study_uid", Text),
    sa.Column("item", sa.String(32)),
    sa.Column("state", sa.String(8), nullable=False, doc="queued, sent, accepted, refused, dead, skipped"),
    sa.Column("control_id", sa.String(20), nullable=False, unique=True, doc="the same on every attempt"),
    sa.Column(
        "attempts", sa.Integer, nullable=False, doc="since it was queued or told to go again, where somebody was there"
    ),
    sa.Column("error", Text, nullable=False, doc="why the last attempt failed, or it is not to go"),
    sa.Column("receipt", sa.LargeBinary, doc="JSON of what the receiver answered"),
    sa.Column("queued_at", UtcDateTime, nullable=False, doc="or when it was told to go again"),
    sa.Column("next_at", UtcDateTime, nullable=False, doc="not before"),
    sa.Column("first_tried_at", UtcDateTime),
    sa.Column("done_at", UtcDateTime),
    sa.UniqueConstraint("report", "number", "owner", "destination"),
    sa.Index("ix_delivery_open", "owner", "destination", "id", **_where(_OPEN)),
    sa.Index("ix_delivery_lane", "owner", "destination", "lane", "id", **_where(_OPEN)),
    sa.Index("ix_delivery_state", "state", "id"),
    sqlite_autoincrement=True,
)
"""One signed version of a report on its way to one destination."""

delivery_attempt = sa.Table(
    "delivery_attempt",
    metadata,
    sa.Column("delivery", sa.ForeignKey("delivery.id"), primary_key=True, autoincrement=False),
    sa.Column("number", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("control_id", sa.String(20), nullable=False),
    sa.Column("begun_at", UtcDateTime, nullable=False),
    sa.Column("ended_at", UtcDateTime, doc="NULL: it is under way, or whoever made it has died"),
    sa.Column("outcome", sa.String(8), nullable=False, doc="sent, accepted, refused, dead; queued: it is tried again"),
    sa.Column("error", Text, nullable=False),
)

delivery_way = sa.Table(
    "delivery_way",
    metadata,
    sa.Column("owner", sa.String(64), primary_key=True),
    sa.Column("destination", sa.String(64), primary_key=True),
    sa.Column("failures", sa.Integer, nullable=False, doc="one after the other, of any delivery"),
    sa.Column("retry_at", UtcDateTime, doc="nothing goes there before"),
    sa.Column("escalation", sa.String(32), doc="id of the last one that was opened for it"),
)
"""How it goes with each destination, whatever is delivered to it."""

forward = sa.Table(
    "forward",
    metadata,
    sa.Column("id", sa.BigInteger().with_variant(sa.Integer, "sqlite"), primary_key=True, autoincrement=True),
    sa.Column("rule", Text, nullable=False, doc="name of it, in the settings"),
    sa.Column("destination", Text, nullable=False, doc="name of an archive or a peer"),
    sa.Column("facility", sa.String(64), nullable=False),
    sa.Column("study_uid", Text, nullable=False),
    sa.Column("rank", sa.Integer, nullable=False, doc="how urgent it is: the highest goes first"),
    sa.Column("state", sa.String(8), nullable=False, doc="queued, done, refused, dead, dropped"),
    sa.Column("attempts", sa.Integer, nullable=False, doc="that have failed, one after the other"),
    sa.Column("error", Text, nullable=False, doc="why the last one has"),
    sa.Column("queued_at", UtcDateTime, nullable=False),
    sa.Column("next_at", UtcDateTime, nullable=False, doc="nothing of it is sent before"),
    sa.Column("done_at", UtcDateTime),
    sa.UniqueConstraint("facility", "study_uid", "rule", "destination"),
    sa.Index("ix_forward_queued", "destination", "next_at", **_where("state = 'queued'")),
    sa.Index("ix_forward_state", "state", "id"),
    sqlite_autoincrement=True,
)
"""A study that goes to a destination by a rule, as often as there is something new of it."""

forwarded = sa.Table(
    "forwarded",
    metadata,
    sa.Column("forward", sa.ForeignKey("forward.id"), primary_key=True),
    sa.Column("instance_uid", Text, primary_key=True),
    sa.Column("version", sa.Integer, nullable=False),
    sa.Column("overlay_version", sa.Integer, nullable=False, doc="its corrections by then"),
    sa.Column("status", sa.String(8), nullable=False, doc="sent, refused"),
    sa.Column("code", Text, nullable=False, doc="what the destination has answered"),
    sa.Column("at", UtcDateTime, nullable=False),
)
"""What a destination has been sent, and has taken or refused: by instance, and so nothing twice."""

forward_way = sa.Table(
    "forward_way",
    metadata,
    sa.Column("destination", Text, primary_key=True),
    sa.Column("failures", sa.Integer, nullable=False, doc="one after the other, of any study"),
    sa.Column("retry_at", UtcDateTime, doc="it is left alone until then"),
    sa.Column("free_at", UtcDateTime, doc="what was sent has used up its share of the line until then"),
    sa.Column("error", Text, nullable=False, doc="why the last attempt has failed"),
)
"""How it goes with each destination, whatever is sent to it."""

report_template = sa.Table(
    "report_template",
    metadata,
    _id(),
    sa.Column("kind", sa.String(16), nullable=False, doc="template, or macro: a text for a name"),
    sa.Column("name", Text, nullable=False),
    sa.Column("reader", Text, nullable=False, doc="id of whose own it is; empty: everybody's"),
    sa.Column("language", sa.String(16), nullable=False),
    sa.Column("modality", Text, nullable=False, doc="that it is for; empty: any"),
    sa.Column("body_part", Text, nullable=False, doc="the same"),
    sa.Column("content", sa.LargeBinary, nullable=False, doc="JSON: sections with title and text, or the text"),
    sa.Column("source", Text, nullable=False, doc="where it comes from, such as its address at radreport.org"),
    sa.Column("updated_at", UtcDateTime, nullable=False),
    sa.UniqueConstraint("kind", "name", "reader", "language"),
)

follow_up = sa.Table(
    "follow_up",
    metadata,
    sa.Column("item", sa.ForeignKey("work_item.id"), primary_key=True, doc="the work item that it is"),
    sa.Column("report", sa.ForeignKey("report.id"), nullable=False, doc="that recommends it"),
    sa.Column("number", sa.Integer, nullable=False, doc="of the signed version that was the first to do so"),
    sa.Column("digest", sa.String(32), nullable=False, doc="of its text"),
    sa.Column("facility", sa.ForeignKey("facility.id"), nullable=False),
    sa.Column("patient", Text, doc="the catalog's key of the patient"),
    sa.Column("study_uid", Text, doc="that the report is of"),
    sa.Column("text", Text, nullable=False),
    sa.Column("procedure", Text),
    sa.Column("due_on", sa.String(10), nullable=False, doc="2027-05-24"),
    sa.Column("modalities", Text, nullable=False, doc="that what fulfils it may be of; each ends with a backslash"),
    sa.Column("body_parts", Text, nullable=False, doc="the same"),
    sa.Column("recommended_at", UtcDateTime, nullable=False),
    sa.Column("outcome", sa.String(16), nullable=False, doc="done, declined, not-needed, died, withdrawn; empty: none"),
    sa.Column("closed_by", Text),
    sa.Column("closed_at", UtcDateTime),
    sa.Column("note", Text, nullable=False),
    sa.Column("fulfilled_by", Text, doc="Study Instance UID of the study that was the follow-up"),
    sa.UniqueConstraint("report", "digest", "number"),
    sa.Index("ix_follow_up_due", "due_on", "item", **_where("outcome = ''")),
    sa.Index("ix_follow_up_recommended", "recommended_at", "item"),
)
"""Recommendations of signed reports; the work item says whether one is still open and when it is due."""

finished_read = sa.Table(
    "finished_read",
    metadata,
    sa.Column("report", sa.ForeignKey("report.id"), primary_key=True),
    sa.Column("facility", sa.ForeignKey("facility.id"), nullable=False),
    sa.Column("reader", Text, nullable=False, doc="id of who answers for the reading"),
    sa.Column("modality", Text, nullable=False, doc="empty: not known"),
    sa.Column("at", UtcDateTime, nullable=False),
    sa.Column("read_on", sa.String(10), nullable=False, doc="that day by the clock of the facility: 2026-11-24"),
    sa.Index("ix_finished_read_reader", "reader", "at", "report"),
    sa.Index("ix_finished_read_on", "read_on", "report"),
)
"""Readings that a radiologist has signed: what may be reviewed by another, and what shares are of."""

peer_review = sa.Table(
    "peer_review",
    metadata,
    _id(),
    sa.Column("report", sa.ForeignKey("report.id"), nullable=False, unique=True),
    sa.Column("number", sa.Integer, nullable=False, doc="of the version of the report that is looked at"),
    sa.Column("item", sa.ForeignKey("work_item.id"), nullable=False, unique=True, doc="the second reading"),
    sa.Column("state", sa.String(16), nullable=False, doc="waiting, revealed, discussing, closed, withdrawn"),
    sa.Column("reader", Text, nullable=False, doc="id of the first reader"),
    sa.Column("because", Text, nullable=False, doc="JSON: of each plugin that selected it, why"),
    sa.Column("conflicts", Text, nullable=False, doc="JSON: ids of readers who are not to review it"),
    sa.Column("is_outside", sa.Boolean, nullable=False, doc="nor are the facility's own radiologists"),
    sa.Column("selected_at", UtcDateTime, nullable=False),
    sa.Column("reviewer", Text),
    sa.Column("impression", Text, nullable=False, doc="the reviewer's own, written before the first text was shown"),
    sa.Column("revealed_at", UtcDateTime),
    sa.Column("score", sa.String(2), doc="RADPEER: 1, 2a, 2b, 3a, 3b"),
    sa.Column("comment", Text, nullable=False),
    sa.Column("scored_at", UtcDateTime),
    sa.Column("remarks", Text, nullable=False, doc="JSON: the discussion, each with whose part it is"),
    sa.Column("final_score", sa.String(2), doc="what it has come to"),
    sa.Column("outcome", sa.String(16), nullable=False, doc="agreed, addendum; empty: not closed"),
    sa.Column("adjudicator", Text),
    sa.Column("addendum_item", sa.String(32), doc="id of the work item to write an addendum"),
    sa.Column("closed_at", UtcDateTime),
    sa.Column("version", sa.Integer, nullable=False),
    sa.Index("ix_peer_review_state", "state", "selected_at", "id"),
    sa.Index("ix_peer_review_reviewer", "reviewer", "state"),
    sa.Index("ix_peer_review_reader", "reader", "state"),
)
"""Blinded second readings of what another has read."""

price_list = sa.Table(
    "price_list",
    metadata,
    _id(),
    sa.Column("valid_from", sa.Date, nullable=False),
    sa.Column("version", sa.Integer, nullable=False, doc="1, 2 ... of what was published for that day"),
    sa.Column("is_current", sa.Boolean, nullable=False, doc="false: a later version holds"),
    sa.Column("content", Text, nullable=False, doc="JSON of a `storage.prices.PriceList`"),
    sa.Column("made_at", UtcDateTime, nullable=False),
    sa.UniqueConstraint("valid_from", "version"),
    sa.Index("uq_price_list_current", "valid_from", unique=True, **_where("is_current")),
)
"""Published prices. A row stays as it is: what was charged by it is explained by it."""

charge = sa.Table(
    "charge",
    metadata,
    _id(),
    sa.Column("report", sa.ForeignKey("report.id"), nullable=False),
    sa.Column("kind", sa.String(8), nullable=False, doc="charge; credit: it is taken back"),
    sa.Column("facility", sa.ForeignKey("facility.id"), nullable=False),
    sa.Column("study_uid", Text),
    sa.Column("accession_number", Text),
    sa.Column("number", sa.Integer, nullable=False, doc="of the version of the report that it is for"),
    sa.Column("at", UtcDateTime, nullable=False, doc="when that was signed, or withdrawn"),
    sa.Column("asked", Text, nullable=False, doc="JSON of the `storage.prices.Asked` that a price was looked for"),
    sa.Column("state", sa.String(8), nullable=False, doc="priced; unpriced: no list has a price for it"),
    sa.Column("price_list", sa.ForeignKey("price_list.id")),
    sa.Column("price", Text, doc="JSON of the `storage.prices.Price` that applied"),
    sa.Column("currency", sa.String(3)),
    sa.Column("amount", sa.BigInteger, doc="in the smallest unit of the currency; of a credit, below 0"),
    sa.Column("version", sa.Integer, nullable=False),
    sa.Column("changed_at", UtcDateTime, nullable=False),
    # One charge for one report, and at most one credit, whatever is repeated.
    sa.UniqueConstraint("report", "kind"),
    sa.Index("ix_charge_facility", "facility", "at", "id"),
    sa.Index("ix_charge_unpriced", "at", "id", **_where("state = 'unpriced'")),
)

resource = sa.Table(
    "resource",
    metadata,
    sa.Column(
        "rid",
        sa.BigInteger().with_variant(sa.Integer, "sqlite"),
        primary_key=True,
        autoincrement=True,
        doc="what its index rows know it by",
    ),
    sa.Column("type", Text, nullable=False, doc="of FHIR: Observation"),
    sa.Column("id", Text, nullable=False),
    sa.Column("facility", sa.ForeignKey("facility.id"), nullable=False),
    sa.Column("version", sa.Integer, nullable=False),
    sa.Column("updated_at", UtcDateTime, nullable=False),
    sa.Column("is_deleted", sa.Boolean, nullable=False),
    sa.UniqueConstraint("type", "id", "facility"),
    sa.Index("ix_resource_updated", "type", "updated_at", "rid", **_where("NOT is_deleted")),
    sa.Index("ix_resource_type", "type", "rid", **_where("NOT is_deleted")),
    sqlite_autoincrement=True,
)
"""The FHIR resources that are kept as they were sent; those that are views of other tables have no row."""

resource_version = sa.Table(
    "resource_version",
    metadata,
    sa.Column("rid", sa.ForeignKey("resource.rid"), primary_key=True, autoincrement=False),
    sa.Column("version", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("type", Text, nullable=False, doc="as of its resource: lists of a type's versions are cut from an index"),
    sa.Column("updated_at", UtcDateTime, nullable=False),
    sa.Column("is_deleted", sa.Boolean, nullable=False),
    sa.Column("method", sa.String(8), nullable=False, doc="of HTTP, that made it"),
    sa.Column("actor", Text, nullable=False, doc="id of who made it"),
    sa.Column("meta", sa.LargeBinary, nullable=False, doc="JSON of Resource.meta as sent, but for version and time"),
    sa.Column("rest", sa.LargeBinary, nullable=False, doc="the JSON as sent, but for resourceType, id and meta"),
    sa.Index("ix_resource_version_type", "type", "updated_at", "rid", "version"),
    sa.Index("ix_resource_version_updated", "updated_at", "rid", "version"),
)

fhir_subscription = sa.Table(
    "fhir_subscription",
    metadata,
    sa.Column("rid", sa.ForeignKey("resource.rid"), primary_key=True, autoincrement=False),
    sa.Column("type", Text, nullable=False, doc="of the resources that it tells of"),
    sa.Column("topic", Text, doc="canonical URL; NULL: it has criteria as R4 has them, and is told as R4 says"),
    sa.Column(
        "criteria", sa.LargeBinary, nullable=False, doc="JSON: the searches, all of which a resource has to meet"
    ),
    sa.Column("status", sa.String(16), nullable=False, doc="requested, active, error, off"),
    sa.Column("channel", sa.String(16), nullable=False, doc="rest-hook, websocket"),
    sa.Column("endpoint", Text, nullable=False),
    sa.Column("headers", sa.LargeBinary, nullable=False, doc="JSON: lines as sent, secrets in them; nowhere else"),
    sa.Column("payload", Text, nullable=False, doc="media type; empty: nothing is sent but that something happened"),
    sa.Column("content", sa.String(16), nullable=False, doc="empty, id-only, full-resource"),
    sa.Column("heartbeat_seconds", sa.Integer),
    sa.Column("timeout_seconds", sa.Integer),
    sa.Column("most_events", sa.Integer, doc="of one notification"),
    sa.Column("end_at", UtcDateTime),
    sa.Column("actor", Text, nullable=False, doc="id of who wrote it, and sees its secrets"),
    sa.Column(
        "sees", sa.LargeBinary, nullable=False, doc="JSON of that `readingroom.model.Actor`: scope, and the like"
    ),
    sa.Column("facility", sa.String(64), nullable=False),
    sa.Column("root", Text, nullable=False, doc="address of the FHIR service as who wrote it sees it"),
    sa.Column("dicomweb", Text, nullable=False),
    sa.Column("number", sa.BigInteger, nullable=False, server_default="0", doc="of its last event"),
    sa.Column("told", sa.BigInteger, nullable=False, server_default="0", doc="number of the last event acknowledged"),
    sa.Column("told_at", UtcDateTime, doc="when something was last sent and taken"),
    sa.Column("failures", sa.Integer, nullable=False, server_default="0", doc="since something was last taken"),
    sa.Column("failing_since", UtcDateTime),
    sa.Column("error", Text, nullable=False, doc="why it failed last"),
    sa.Column("due_at", UtcDateTime, doc="when there is something to do without an event: again, heartbeat, end"),
    sa.Index("ix_fhir_subscription_type", "type", **_where("status <> 'off'")),
    sa.Index("ix_fhir_subscription_due", "due_at", **_where("due_at IS NOT NULL")),
)
"""What the server does for each FHIR Subscription; the resource itself is in `resource`."""

fhir_notification = sa.Table(
    "fhir_notification",
    metadata,
    sa.Column("rid", sa.ForeignKey("fhir_subscription.rid", ondelete="CASCADE"), primary_key=True, autoincrement=False),
    sa.Column("number", sa.BigInteger, primary_key=True, autoincrement=False, doc="1, 2 ... of its subscription"),
    sa.Column("type", Text, nullable=False),
    sa.Column("id", Text, nullable=False),
    sa.Column("version", sa.Integer, nullable=False, doc="of the resource when it was found to match"),
    sa.Column("cause", Text, nullable=False, doc="what happened to it; told once"),
    sa.Column("context", Text, nullable=False, doc="reference to what it is about besides"),
    sa.Column("at", UtcDateTime, nullable=False),
    sa.UniqueConstraint("rid", "type", "id", "cause"),
    sa.Index("ix_fhir_notification_at", "at"),
)

fhir_socket_token = sa.Table(
    "fhir_socket_token",
    metadata,
    sa.Column("digest", sa.String(64), primary_key=True, doc="SHA-256 of the token"),
    sa.Column("rids", Text, nullable=False, doc="JSON: the subscriptions that it binds a WebSocket to"),
    sa.Column("until", UtcDateTime, nullable=False),
)

resource_value = sa.Table(
    "resource_value",
    metadata,
    sa.Column("key", Text, primary_key=True, doc="type and search parameter: Observation.code"),
    sa.Column("text", Text, primary_key=True, doc="what is compared; empty of dates and numbers"),
    sa.Column("rid", sa.ForeignKey("resource.rid"), primary_key=True, autoincrement=False),
    sa.Column("number", sa.Integer, primary_key=True, autoincrement=False, doc="which value of the resource"),
    sa.Column("space", Text, nullable=False, doc="the system of a code; a string as it was written"),
    sa.Column("low", sa.Double, doc="of a date, in milliseconds since 1970; of a number"),
    sa.Column("high", sa.Double),
    sa.Index("ix_resource_value_rid", "rid", "key", "text"),
    sa.Index("ix_resource_value_low", "key", "low", "rid", **_where("low IS NOT NULL")),
    sa.Index("ix_resource_value_high", "key", "high", **_where("high IS NOT NULL")),
    sqlite_with_rowid=False,
)
"""What of stored resources searches match; `storage.catalog.fhir_values` writes it."""

task_value = sa.Table(
    "task_value",
    metadata,
    sa.Column("key", Text, primary_key=True, doc="as of `resource_value`: Task.identifier"),
    sa.Column("text", Text, primary_key=True),
    sa.Column("item", sa.ForeignKey("work_item.id", ondelete="CASCADE"), primary_key=True),
    sa.Column("number", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("space", Text, nullable=False),
    sa.Column("low", sa.Double),
    sa.Column("high", sa.Double),
    sa.Index("ix_task_value_item", "item", "key", "text"),
    sqlite_with_rowid=False,
)
"""The same of what clients have said of a work item over FHIR that no column of it has."""

resource_index = sa.Table(
    "resource_index",
    metadata,
    sa.Column("type", Text, primary_key=True),
    sa.Column("digest", sa.String(16), nullable=False, doc="of the parameters by which its resources are listed"),
    sa.Column("reached", sa.BigInteger, doc="rid of the last one listed so; NULL: all are"),
    sa.Column("done", sa.BigInteger, nullable=False, doc="how many are"),
    sa.Column("total", sa.BigInteger, nullable=False, doc="how many there were at the beginning"),
)
"""How far the values of stored resources are listed; see `server.fhir.reindexing`."""

search_key = sa.Table(
    "search_key",
    metadata,
    sa.Column("name", Text, primary_key=True, doc="of `storage.catalog.keys`"),
    sa.Column("level", sa.String(8), nullable=False),
    sa.Column("vr", sa.String(2), nullable=False),
    sa.Column("state", sa.String(8), nullable=False, doc="listing: what is stored already; complete; dropping"),
    sa.Column("reached", sa.String(32), nullable=False, doc="id of the last entity whose values are listed"),
    sa.Column("done", sa.BigInteger, nullable=False, doc="entities looked at so far"),
    sa.Column("total", sa.BigInteger, nullable=False, doc="entities there were at the beginning"),
)

overlay = sa.Table(
    "overlay",
    metadata,
    _id(),
    sa.Column("owner_facility", sa.ForeignKey("facility.id"), nullable=False),
    sa.Column("study_uid", Text, nullable=False),
    sa.Column("series_uid", Text, nullable=False, doc="empty: over all of the study"),
    sa.Column("instance_uid", Text, nullable=False, doc="empty: over all of the series"),
    sa.Column("version", sa.Integer, nullable=False, doc="1, 2 ... of the study's corrections"),
    sa.Column("attributes", sa.LargeBinary, nullable=False, doc="DICOM JSON of the whole layer, null takes away"),
    sa.Column("actor", Text, nullable=False, doc="id of who corrected"),
    sa.Column("reason", Text, nullable=False),
    sa.Column("at", UtcDateTime, nullable=False),
    sa.UniqueConstraint("owner_facility", "study_uid", "version"),
)

non_patient = sa.Table(
    "non_patient",
    metadata,
    _id(),
    sa.Column("owner_facility", sa.ForeignKey("facility.id"), nullable=False),
    sa.Column("category", Text, nullable=False, doc="of `storage.nonpatient`"),
    sa.Column("sop_class", Text, nullable=False),
    sa.Column("instance_uid", Text, nullable=False),
    sa.Column("version", sa.Integer, nullable=False, doc="1, 2 ... for other bytes under the same UID"),
    sa.Column("is_current", sa.Boolean, nullable=False, doc="the last version, in whatever state"),
    sa.Column("state", sa.String(8), nullable=False, doc="kept; hidden; purging; purged: the bytes are gone"),
    sa.Column("transfer_syntax", Text, nullable=False),
    sa.Column("sha256", sa.LargeBinary(32), nullable=False),
    sa.Column("size_bytes", sa.BigInteger, nullable=False),
    sa.Column("object_key", Text, nullable=False, unique=True),
    sa.Column("array", sa.ForeignKey("zarr_array.id"), nullable=False),
    sa.Column("slot", sa.Integer, nullable=False),
    sa.Column("source", Text, nullable=False, doc="where it came from: stow, import, an AE title"),
    sa.Column("received_at", UtcDateTime, nullable=False),
    sa.Column("removed_at", UtcDateTime),
    sa.Column("actor", Text, doc="who removed it"),
    sa.Column("row", sa.LargeBinary, nullable=False, doc="what a search sends for it, DICOM JSON"),
    sa.Column("json", sa.LargeBinary, nullable=False, doc="DICOM JSON, zlib"),
    sa.UniqueConstraint("owner_facility", "category", "instance_uid", "version"),
    sa.UniqueConstraint("array", "slot"),
    sa.Index("ix_non_patient_category_instance_uid", "category", "instance_uid"),
    sa.Index("ix_non_patient_category_id", "category", "id", **_where("is_current AND state = 'kept'")),
    sa.Index("ix_non_patient_removed_at", "removed_at", **_where("removed_at IS NOT NULL")),
)

event = sa.Table(
    "event",
    metadata,
    sa.Column(
        "seq",
        sa.BigInteger().with_variant(sa.Integer, "sqlite"),
        primary_key=True,
        autoincrement=True,
        doc="in commit order",
    ),
    sa.Column("type", Text, nullable=False),
    sa.Column("version", sa.Integer, nullable=False),
    sa.Column("study_uid", Text),
    sa.Column("facility", Text),
    sa.Column("at", UtcDateTime, nullable=False),
    sa.Column("payload", sa.LargeBinary, nullable=False, doc="JSON"),
    sa.Column("item", sa.String(32), doc="id of the work item that it is of"),
    sa.Index("ix_event_study", "study_uid", "seq"),
    sa.Index("ix_event_item", "item", "seq", **_where("item IS NOT NULL")),
    sa.Index("ix_event_at", "at", "seq"),
    sqlite_autoincrement=True,
)

job = sa.Table(
    "job",
    metadata,
    sa.Column(
        "id",
        sa.BigInteger().with_variant(sa.Integer, "sqlite"),
        primary_key=True,
        autoincrement=True,
        doc="in the order in which they came",
    ),
    sa.Column("delivery", sa.String(32), nullable=False, unique=True, doc="the same on every attempt"),
    sa.Column("kind", Text, nullable=False),
    sa.Column("lane", Text, nullable=False, doc="of jobs in one lane one runs at a time; empty: in none"),
    sa.Column("key", Text, doc="of jobs with one key one waits at a time; NULL: any number"),
    sa.Column("rank", sa.Integer, nullable=False, doc="minus the priority: the smallest goes first"),
    sa.Column("payload", sa.LargeBinary, nullable=False, doc="JSON"),
    sa.Column("state", sa.String(8), nullable=False, doc="queued, running, dead; what is done has no row any more"),
    sa.Column("run_at", UtcDateTime, nullable=False, doc="not before"),
    sa.Column("since", UtcDateTime, nullable=False, doc="when it came, or was told to try again"),
    sa.Column("attempt", sa.Integer, nullable=False, doc="how often it was begun"),
    sa.Column("token", sa.String(32), doc="of whoever runs it"),
    sa.Column("lease_until", sa.Float, doc="seconds of the machine's monotonic clock"),
    sa.Column("error", Text, doc="why the last attempt failed"),
    sa.Index("ix_job_next", "rank", "id", **_where("state = 'queued'")),
    sa.Index("ix_job_lane", "lane", "rank", "id", **_where("state = 'queued' AND lane <> ''")),
    sa.Index("uq_job_lane", "lane", unique=True, **_where("state = 'running' AND lane <> ''")),
    sa.Index("uq_job_key", "key", unique=True, **_where("state = 'queued'")),
    sa.Index("ix_job_lease", "lease_until", **_where("state = 'running'")),
    sqlite_autoincrement=True,
)
"""The queue of a SQLite catalog (`server.sqlite_queue`); PostgreSQL has procrastinate's tables instead."""

lease = sa.Table(
    "lease",
    metadata,
    sa.Column("name", sa.String(32), primary_key=True),
    sa.Column("holder", sa.String(32), nullable=False),
    sa.Column("until", sa.Float, nullable=False, doc="seconds of the clock that all who want it share"),
)

client = sa.Table(
    "client",
    metadata,
    sa.Column("id", sa.String(64), primary_key=True, doc="of OAuth: client_id"),
    sa.Column("name", Text, nullable=False),
    sa.Column("jwks", Text, doc="JSON: its public keys, where it has registered them itself"),
    sa.Column("jwks_uri", Text, doc="where they are, where it has not"),
    sa.Column("scopes", Text, nullable=False, doc="all that it may be granted, with spaces between them"),
    sa.Column("facilities", Text, doc="JSON: ids of those whose data it may see; NULL: of all"),
    sa.Column("facility", sa.String(64), doc="id of the one that owns what it writes"),
    sa.Column("may", Text, nullable=False, doc="JSON: its permissions, as `readingroom.model` names them"),
    sa.Column("patient", Text, doc="id of the FHIR Patient that its patient/ scopes are for"),
    sa.Column("created_at", UtcDateTime, nullable=False),
)
"""The programs that may have tokens, beside those of the settings."""

assertion = sa.Table(
    "assertion",
    metadata,
    sa.Column("client", Text, primary_key=True, doc="id of the client that it came from"),
    sa.Column("digest", sa.LargeBinary(32), primary_key=True, doc="SHA-256 of its jti"),
    sa.Column("expires_at", UtcDateTime, nullable=False),
    sa.Index("ix_assertion_expires_at", "expires_at"),
)
"""Assertions that have been used, as long as they would be good: none is good twice."""

signing_key = sa.Table(
    "signing_key",
    metadata,
    sa.Column("kid", sa.String(64), primary_key=True),
    sa.Column("jwk", Text, nullable=False, doc="JSON of the private key"),
    sa.Column("created_at", UtcDateTime, nullable=False),
)
"""What signs tokens: the newest. Those before it are good for the tokens that they have signed."""

fhir_export = sa.Table(
    "fhir_export",
    metadata,
    _id(),
    sa.Column("actor", Text, nullable=False, doc="id of who asked for it, and alone may fetch it"),
    sa.Column(
        "sees", sa.LargeBinary, nullable=False, doc="JSON of that `readingroom.model.Actor`: scope, and the like"
    ),
    sa.Column("facility", sa.String(64), nullable=False),
    sa.Column("root", Text, nullable=False, doc="address of the FHIR service as who asked sees it"),
    sa.Column("dicomweb", Text, nullable=False),
    sa.Column("request", Text, nullable=False, doc="URL that it was asked for by"),
    sa.Column("wanted", sa.LargeBinary, nullable=False, doc="JSON: types, filters and since when"),
    sa.Column("state", sa.String(16), nullable=False, doc="running, done, failed"),
    sa.Column("error", Text, nullable=False, doc="why it was not made; else empty"),
    sa.Column("begun_at", UtcDateTime, nullable=False, doc="what was changed until then is in it"),
    sa.Column("expires_at", UtcDateTime, nullable=False, doc="later with each file that is made"),
    sa.Column("step", sa.Integer, nullable=False, doc="index of the type that is next"),
    sa.Column("place", Text, nullable=False, doc="where in that type it goes on"),
    sa.Column("files", sa.LargeBinary, nullable=False, doc="JSON: of each, its type and how many resources are in it"),
    sa.Index("ix_fhir_export_expires_at", "expires_at"),
    sa.Index("ix_fhir_export_actor", "actor", "state"),
)
"""Bulk exports, as far as they have come; their files lie in the store."""

commitment = sa.Table(
    "commitment",
    metadata,
    _id(),
    sa.Column("realm", Text, nullable=False, doc="facilities whose instances it is about, as of subscriptions"),
    sa.Column("ae", sa.String(16), nullable=False, doc="AE title of who asked, and is told; empty: over HTTP"),
    sa.Column("transaction_uid", sa.String(64), nullable=False),
    sa.Column("digest", sa.LargeBinary(32), nullable=False, doc="SHA-256 of `instances`: a request may be repeated"),
    sa.Column("instances", sa.LargeBinary, nullable=False, doc="JSON: class, instance, study and series of each"),
    sa.Column("problems", sa.LargeBinary, doc="JSON: of each why it is not committed, or null; NULL: not looked at"),
    sa.Column("at", UtcDateTime, nullable=False),
    sa.Column("checked_at", UtcDateTime),
    sa.Column("told_at", UtcDateTime, doc="when its AE had the report and said so"),
    sa.UniqueConstraint("realm", "ae", "transaction_uid", "digest"),
    sa.Index("ix_commitment_transaction_uid", "transaction_uid"),
)
"""Requests for storage commitment (PS3.4 annex J), and what was promised."""
