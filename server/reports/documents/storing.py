"""Each signed version goes into the study that it is about, as DICOM: once, however often the job runs.

The objects have the patient and the study of the images beside them, as these are shown at that moment, and UIDs that
follow from the report and the number of the version. They are of `OUR_SOURCE`, so the study does not settle anew for
them, nobody triages it again, and no plugin takes them for images that came late.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Literal

import sqlalchemy as sa

from readingroom.errors import GiveUp, Refused
from readingroom.events import ReportSigned
from readingroom.model import Report
from server.announce import on_event
from server.ingest import Ingest
from server.queue import Job, Policy, Queue
from server.reports.documents import dicom, encapsulated, pdf, sr
from server.reports.signing import SigningKeys, Tampered, read_signed
from storage.catalog.events import Event
from storage.catalog.ids import report_uid
from storage.catalog.shown import read_header
from storage.catalog.studies import OUR_SOURCE, find_current
from storage.dicomjson import MetadataJson

ObjectName = Literal["sr", "pdf"]

_POLICY = Policy(attempts=20, first=timedelta(seconds=2), most=timedelta(minutes=5))


@dataclass(frozen=True, slots=True, kw_only=True)
class Documents:
    """Stores the DICOM objects of what is signed; `register` gives its job to the queue.

    Attributes
    ----------
    objects
        Which of them are made.
    fonts
        A folder of fonts beside those of the machine.
    """

    engine: sa.Engine
    queue: Queue
    ingest: Ingest
    keys: SigningKeys
    objects: Collection[ObjectName]
    fonts: Path | None = None

    def register(self) -> None:
        """Have the queue run it; before the worker starts."""
        wanted = bool(self.objects)
        on_event(self.queue, ReportSigned.__name__, _POLICY, by="documents", if_wanted=lambda _: wanted)(self._signed)

    def _signed(self, job: Job, event: Event) -> None:
        id, number = event.payload["report"], event.payload["number"]
        with self.engine.connect() as connection:
            try:
                report = read_signed(connection, self.keys, id, number)
            except Tampered as error:
                raise GiveUp(error.message) from error
            study = read_header(connection, report.facility, report.study_uid) if report.study_uid else None
            uids = {name: report_uid(id, name, number) for name in self.objects}
            held = find_current(connection, report.facility, uids.values())
        if study is None:
            return  # nothing is left of the study that they would lie in
        for name in ("sr", "pdf"):  # what can fail goes last
            if name in uids and uids[name] not in held:
                self._store(report, self._made(report, study, name))

    def _made(self, report: Report, study: MetadataJson, name: str) -> bytes:
        if name == dicom.SR:
            return sr.render(report, study)
        document = pdf.render(report, fonts=self.fonts)
        return encapsulated.render(report, study, document, has_sr=dicom.SR in self.objects)

    def _store(self, report: Report, made: bytes) -> None:
        (outcome,) = self.ingest.store([made], facility=report.facility, source=OUR_SOURCE, threads=1)
        if isinstance(outcome.error, Refused):
            raise GiveUp(outcome.error.message) from outcome.error
        if outcome.error is not None:
            raise outcome.error
