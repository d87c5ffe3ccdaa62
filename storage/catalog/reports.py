"""Reports in the catalog: one row for each, its signed versions, and the templates and macros that texts begin with."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from datetime import datetime
from typing import Any, Literal

import sqlalchemy as sa

from readingroom.errors import Changed, NotFound
from readingroom.jsonio import loads
from readingroom.model import Report, ReportKind, ReportStatus, Scope
from storage.catalog import schema as t
from storage.catalog.writers import insert_for

Awaited = Literal["", "attending", "facility"]
MOST = 1000
"""Reports that one list has."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredReport:
    """One report with everything that its row has; `schema.report` says what each is."""

    id: str
    facility: str
    status: ReportStatus
    created_at: datetime
    changed_at: datetime
    number: int = 0
    version: int = 1
    awaits: Awaited = ""
    study_uid: str | None = None
    accession_number: str | None = None
    item: str | None = None
    patient: str | None = None
    modality: str | None = None
    draft: bytes | None = None
    author: str | None = None
    signed_at: datetime | None = None
    final_at: datetime | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class SignedVersion:
    """One signed version: the bytes that were signed, and the signature over them."""

    report: str
    number: int
    status: ReportStatus
    kind: ReportKind
    reader: str
    signed_at: datetime
    content: bytes
    signature: str

    @property
    def shown(self) -> Report:
        """The report that it is."""
        found: Report = loads(Report, self.content)
        return found


_R, _V = t.report.c, t.report_version.c
_REPORTS = sa.select(*(_R[field.name] for field in fields(StoredReport)))
_VERSIONS = sa.select(*(_V[field.name] for field in fields(SignedVersion)))
_ALL: Mapping[str, None] = {}
_OVER: tuple[ReportStatus, ...] = ("cancelled", "entered-in-error")


def insert_report(connection: sa.Connection, report: StoredReport) -> bool:
    """Add a report; False where its study has one already."""
    added = insert_for(connection)(t.report).values(**_values(report)).on_conflict_do_nothing()
    return connection.execute(added.returning(_R.id)).one_or_none() is not None


def update_report(connection: sa.Connection, before: StoredReport, after: StoredReport) -> None:
    """Write a report that is as it was read.

    Raises
    ------
    Changed
        Somebody else has changed it meanwhile.
    """
    mine = t.report.update().where(_R.id == before.id, _R.version == before.version)
    if not connection.execute(mine.values(**_values(after))).rowcount:
        raise Changed(f"Report {before.id} has been changed since version {before.version}; read it again.")


def find_report(connection: sa.Connection, scope: Scope, id: str, *, locked: bool = False) -> StoredReport:
    """One in scope; raises `NotFound`."""
    statement = _REPORTS.where(_R.id == id, *_in(scope))
    row = connection.execute(statement.with_for_update() if locked else statement).one_or_none()
    if row is None:
        raise NotFound(f"There is no report {id[:64]}.")
    return StoredReport(**row._mapping)


def report_of(connection: sa.Connection, facility: str, study_uid: str) -> StoredReport | None:
    """The report of a study that counts; None where there is none."""
    counts = _REPORTS.where(_R.facility == facility, _R.study_uid == study_uid, _R.status.not_in(_OVER))
    row = connection.execute(counts).one_or_none()
    return None if row is None else StoredReport(**row._mapping)


def reports_of_study(connection: sa.Connection, facility: str, study_uid: str) -> list[StoredReport]:
    """All reports of a study, those that do not count any more too."""
    found = _REPORTS.where(_R.facility == facility, _R.study_uid == study_uid).order_by(_R.id)
    return [StoredReport(**row._mapping) for row in connection.execute(found)]


def list_reports(
    connection: sa.Connection,
    scope: Scope,
    *,
    known: Mapping[str, str | Sequence[str] | None] = _ALL,
    before: tuple[datetime, str] | None = None,
    limit: int = MOST,
) -> list[StoredReport]:
    """Reports in scope, the one that was changed last at first.

    Parameters
    ----------
    known
        Columns with the value that they have, or with several of which they have one; None: any.
    before
        Only those after this one in the list, named by when it was changed and its id.
    """
    statement = _REPORTS.where(*_in(scope))
    for name, value in known.items():
        if value is not None:
            statement = statement.where(_R[name] == value if isinstance(value, str) else _R[name].in_(value))
    if before is not None:
        statement = statement.where(sa.tuple_(_R.changed_at, _R.id) < before)
    rows = connection.execute(statement.order_by(_R.changed_at.desc(), _R.id.desc()).limit(limit))
    return [StoredReport(**row._mapping) for row in rows]


def all_reports(connection: sa.Connection) -> list[str]:
    """The ids of all that were signed, the oldest first."""
    return list(connection.execute(sa.select(_R.id).where(_R.number > 0).order_by(_R.id)).scalars())


# -- signed versions ---------------------------------------------------------------------------------------------------


def add_version(connection: sa.Connection, version: SignedVersion) -> None:
    """Keep a signed version for ever."""
    connection.execute(t.report_version.insert().values(**_values(version)))


def list_versions(connection: sa.Connection, report: str) -> list[SignedVersion]:
    """The signed versions of a report, the first one first."""
    rows = connection.execute(_VERSIONS.where(_V.report == report).order_by(_V.number))
    return [SignedVersion(**row._mapping) for row in rows]


def find_version(connection: sa.Connection, report: str, number: int) -> SignedVersion:
    """One signed version; raises `NotFound`."""
    row = connection.execute(_VERSIONS.where(_V.report == report, _V.number == number)).one_or_none()
    if row is None:
        raise NotFound(f"Report {report[:64]} has no signed version {number}.")
    return SignedVersion(**row._mapping)


# -- templates and macros ----------------------------------------------------------------------------------------------

TemplateKind = Literal["template", "macro"]


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredTemplate:
    """A template or a macro; `schema.report_template` says what each column is."""

    id: str
    kind: TemplateKind
    name: str
    content: bytes
    updated_at: datetime
    reader: str = ""
    language: str = "en"
    modality: str = ""
    body_part: str = ""
    source: str = ""


_T = t.report_template.c
_TEMPLATES = sa.select(*(_T[field.name] for field in fields(StoredTemplate)))


def write_template(connection: sa.Connection, template: StoredTemplate) -> None:
    """Add a template or a macro, or write the one of that name anew; it keeps its id."""
    values = _values(template)
    key = ("kind", "name", "reader", "language")
    again = {name: value for name, value in values.items() if name not in (*key, "id")}
    insert = insert_for(connection)(t.report_template).values(**values)
    connection.execute(insert.on_conflict_do_update(index_elements=list(key), set_=again))


def list_templates(
    connection: sa.Connection, kind: TemplateKind, *, reader: str = "", limit: int = MOST
) -> list[StoredTemplate]:
    """Everybody's, and those of one reader, by name."""
    mine = _TEMPLATES.where(_T.kind == kind, _T.reader.in_(["", reader]))
    return [StoredTemplate(**row._mapping) for row in connection.execute(mine.order_by(_T.name, _T.id).limit(limit))]


def find_template(connection: sa.Connection, id: str) -> StoredTemplate:
    """One by its id; raises `NotFound`."""
    row = connection.execute(_TEMPLATES.where(_T.id == id)).one_or_none()
    if row is None:
        raise NotFound(f"There is no template {id[:64]}.")
    return StoredTemplate(**row._mapping)


def forget_template(connection: sa.Connection, id: str) -> None:
    """Remove one; texts that began with it stay as they are."""
    connection.execute(t.report_template.delete().where(_T.id == id))


def _values(row: Any) -> Mapping[str, Any]:
    return {field.name: getattr(row, field.name) for field in fields(row)}


def _in(scope: Scope) -> list[sa.ColumnElement[bool]]:
    return [] if scope.facilities is None else [_R.facility.in_(sorted(scope.facilities))]
