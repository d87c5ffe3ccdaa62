"""Signed versions of reports, kept as signing keeps them but for the signature, and told of."""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa

from readingroom.jsonio import dumps
from readingroom.model import Code, Passage, Report, Section
from server.queue import Queue
from server.worklist.items import THE_SERVER, Work
from storage.catalog import schema as t
from storage.catalog.engine import begin_write
from storage.catalog.reports import SignedVersion, StoredReport, add_version, insert_report
from storage.catalog.studies import ensure_facility
from tests.reports import a_report
from tests.synthetic import new_uid


def made_report(**changes: Any) -> Report:
    """A report of its own, on a study of its own."""
    return a_report(**{"id": t.new_id(), "study_uid": new_uid(), **changes})


def section(name: str, text: str, loinc: str) -> Section:
    """A part of a report that a person has written."""
    code = Code(value=loinc, system="http://loinc.org", meaning=name.title())
    return Section(name=name, title=name.title(), code=code, passages=(Passage(text=text),))


def keep_report(engine: sa.Engine, queue: Queue, report: Report) -> Report:
    """Keep a signed version, and tell that it was signed; further versions of a report are told by their `number`."""
    assert report.signed_at is not None
    with begin_write(engine) as connection:
        ensure_facility(connection, report.facility)
        if report.number == 1:
            row = StoredReport(
                id=report.id,
                facility=report.facility,
                status=report.status,
                number=1,
                study_uid=report.study_uid,
                accession_number=report.accession_number,
                modality=next(iter(report.modalities), None),
                created_at=report.signed_at,
                changed_at=report.signed_at,
                signed_at=report.signed_at,
            )
            assert insert_report(connection, row)
        version = SignedVersion(
            report=report.id,
            number=report.number,
            status=report.status,
            kind=report.kind,
            reader=report.signatures[-1].reader,
            signed_at=report.signed_at,
            content=dumps(report),
            signature="",
        )
        add_version(connection, version)
        work = Work(connection=connection, now=report.signed_at, actor=THE_SERVER, queue=queue)
        told = {"report": report.id, "number": report.number, "status": report.status, "kind": report.kind}
        work.note("ReportSigned", told, facility=report.facility, study_uid=report.study_uid, item=report.item)
        work.tell()
    return report
