"""Reports for tests: a desk to write and sign them over HTTP, and one that is composed and signed by nobody."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import UTC, date, datetime
from typing import Any

import httpx

from readingroom.model import Passage, Report, Section, Signature
from server.room import Room
from storage.catalog.directory import write_facility, write_reader
from storage.catalog.engine import begin_write
from tests.catalog import fill, header
from tests.directory import facility, reader
from tests.synthetic import new_uid

TEXT = {
    "sections": [
        {"name": "findings", "text": "There is no haemorrhage. The ventricles are of normal size.\n"},
        {"name": "impression", "text": "Normal CT of the head."},
    ]
}


@dataclass(kw_only=True)
class Desk:
    """Writes and signs reports of studies of the facility ``local``, which is in Texas."""

    room: Room
    client: httpx.Client
    study: str = field(default_factory=new_uid)

    def furnish(self, *readers: Any, **of_facility: Any) -> None:
        """Have the facility in the directory, with ada, who may read there, or with these readers."""
        now = self.room.clock.now()
        known = readers or (reader_at("ada"),)
        with begin_write(self.room.engine) as connection:
            write_facility(connection, facility("local", **of_facility), now)
            for one in known:
                write_reader(connection, one, now)

    def receive(self, **attributes: Any) -> str:
        """A study that has come in; its UID."""
        known = {
            "StudyInstanceUID": self.study,
            "Modality": "CT",
            "PatientID": "P1",
            "PatientName": "Doe^Jane",
            "AccessionNumber": "A1",
        }
        fill(self.room.engine, header(**known | attributes))
        return self.study

    def begin(self, **told: Any) -> dict[str, Any]:
        """The report of the study."""
        answer = self.client.post("/reports", json={"study": self.study} | told)
        assert answer.status_code in (200, 201), answer.text
        return self._noted(answer)

    def read(self, id: str) -> dict[str, Any]:
        return self._noted(self.client.get(f"/reports/{id}"))

    def write(self, report: dict[str, Any], text: Any = TEXT) -> dict[str, Any]:
        answer = self.client.put(f"/reports/{report['id']}", json=text, headers={"If-Match": report["etag"]})
        assert answer.status_code == 200, answer.text
        return self._noted(answer)

    def ask(self, report: dict[str, Any], command: str, **told: Any) -> httpx.Response:
        return self.client.post(f"/reports/{report['id']}/{command}", json=told, headers={"If-Match": report["etag"]})

    def give(self, report: dict[str, Any], command: str, **told: Any) -> dict[str, Any]:
        answer = self.ask(report, command, **told)
        assert answer.status_code == 200, answer.text
        return self._noted(answer)

    def signed(self, **told: Any) -> dict[str, Any]:
        """The report of the study, written and signed by ada."""
        return self.give(self.write(self.begin()), "sign", **{"reader": "ada"} | told)

    def _noted(self, answer: httpx.Response) -> dict[str, Any]:
        return {**answer.json(), "etag": answer.headers["etag"]}


def reader_at(id: str, place: str = "local", **more: Any) -> Any:
    """A reader with privileges at a facility of Texas."""
    return reader(id, **{"credentials": [{"facility": place}]} | more)


def a_report(**changes: Any) -> Report:
    """A final report as a version of it is kept."""
    at = datetime(2026, 11, 24, 12, 30, tzinfo=UTC)
    known: dict[str, Any] = {
        "id": "0" * 31 + "1",
        "facility": "local",
        "facility_name": "Local Hospital",
        "state": "US-TX",
        "zone": "America/Chicago",
        "status": "final",
        "number": 1,
        "study_uid": "1.2.3.4",
        "accession_number": "A1",
        "patient_id": "P1",
        "issuer": "local",
        "patient_name": "Doe^Jane",
        "birth_date": f"{date(1970, 1, 31):%Y%m%d}",
        "sex": "F",
        "study_date": "20261124",
        "study_time": "101500",
        "modalities": ("CT",),
        "body_parts": ("HEAD",),
        "procedure": "CT head without contrast",
        "sections": (
            Section(name="findings", title="Findings", passages=(Passage(text="There is no haemorrhage."),)),
            Section(name="impression", title="Impression", passages=(Passage(text="Normal CT of the head."),)),
        ),
        "signatures": (
            Signature(reader="ada", name="Ada Byron, MD", role="attending", at=at, licence="T1", state="US-TX"),
        ),
        "signed_at": at,
    }
    return Report(**known | changes)
