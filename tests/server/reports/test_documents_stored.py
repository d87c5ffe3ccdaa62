"""What is signed goes into its study as DICOM, once, and is no image that came late; and it is shown over HTTP."""

from __future__ import annotations

import io
from datetime import timedelta
from pathlib import Path
from typing import Any

import httpx
import pydicom
import pytest
import sqlalchemy as sa
from pydicom import Dataset
from starlette.testclient import TestClient

from readingroom.clock import SetClock
from readingroom.model import LOCAL_OPERATOR, Scope
from server import removing
from server.app import build_room, create_app
from server.reports.documents import pdf
from server.room import Room
from server.settings import Settings
from server.settle import settle_studies
from storage.catalog import schema as t
from storage.catalog.engine import begin_write
from storage.catalog.events import Wanted, read_events
from storage.catalog.studies import OUR_SOURCE
from tests import synthetic
from tests.multipart import parts_of
from tests.reports import TEXT, Desk, reader_at
from tests.synthetic import part10


@pytest.fixture
def desk(room: Room, client: httpx.Client, clock: SetClock) -> Desk:
    """A desk with a CT that has come in and settled."""
    series = synthetic.ct_series(2)
    desk = Desk(room=room, client=client, study=str(series[0].StudyInstanceUID))
    desk.furnish(reader_at("ada"), reader_at("bob"))
    store(room, *series)
    settle(room, clock)
    return desk


def store(room: Room, *datasets: Dataset) -> None:
    for outcome in room.ingest.store([part10(one) for one in datasets], facility="local", source="test"):
        assert outcome.error is None


def settle(room: Room, clock: SetClock) -> int:
    clock.advance(timedelta(seconds=room.settings.settle_seconds + 1))
    settled = settle_studies(room)
    room.queue.drain()
    return settled


def objects(desk: Desk) -> list[Dataset]:
    """What the study holds beside its images, in the order of series and instances."""
    study = f"/dicomweb/studies/{desk.study}"
    made = []
    for row in desk.client.get(f"{study}/instances", params={"includefield": "Modality"}).json():
        modality, series, instance = (row[tag]["Value"][0] for tag in ("00080060", "0020000E", "00080018"))
        if modality in ("SR", "DOC"):
            url = f"{study}/series/{series}/instances/{instance}"
            answer = desk.client.get(url, headers={"Accept": 'multipart/related; type="application/dicom"'})
            ((_, part),) = parts_of(answer)
            made.append(pydicom.dcmread(io.BytesIO(part)))
    return sorted(made, key=lambda one: (one.SeriesNumber, one.InstanceNumber))


def types(room: Room) -> list[str]:
    with room.engine.connect() as connection:
        return [event.type for event in read_events(connection, Scope(), Wanted(), after=0, limit=1000)]


def test_a_signed_report_is_in_its_study_as_sr_and_as_pdf(desk: Desk) -> None:
    signed = desk.signed()
    desk.room.queue.drain()
    report, document = objects(desk)
    assert report.SOPClassUID == "1.2.840.10008.5.1.4.1.1.88.11"
    assert document.SOPClassUID == "1.2.840.10008.5.1.4.1.1.104.1"
    for one in (report, document):
        assert (one.StudyInstanceUID, one.PatientName, one.PatientID) == (desk.study, "Phantom^Ada", "RR-0001")
    shown = desk.client.get(f"/reports/{signed['id']}/versions/1.pdf")
    assert document.EncapsulatedDocument[: document.EncapsulatedDocumentLength] == shown.content


def test_each_version_is_stored_and_names_the_one_before(desk: Desk) -> None:
    signed = desk.signed()
    revised = desk.give(signed, "revise", kind="addendum")
    desk.give(desk.write(revised, {"kind": "addendum", "addendum": "Discussed.", "sections": []}), "sign", reader="ada")
    desk.room.queue.drain()
    first, second, *documents = objects(desk)
    assert [one.InstanceNumber for one in documents] == [1, 2]
    (before,) = second.PredecessorDocumentsSequence[0].ReferencedSeriesSequence[0].ReferencedSOPSequence
    assert before.ReferencedSOPInstanceUID == first.SOPInstanceUID


def test_a_job_that_runs_again_stores_nothing_again(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    """It dies between the two objects, and then again after both."""
    render = pdf.render

    def dying(*args: Any, **kwargs: Any) -> bytes:
        raise OSError("the power went")

    desk.signed()
    monkeypatch.setattr(pdf, "render", dying)
    desk.room.queue.drain()
    assert [one.Modality for one in objects(desk)] == ["SR"]
    monkeypatch.setattr(pdf, "render", render)
    run_again(desk.room)
    assert [one.Modality for one in objects(desk)] == ["SR", "DOC"]
    run_again(desk.room)
    with desk.room.engine.connect() as connection:
        versions = connection.execute(sa.select(t.instance.c.version)).scalars().all()
    assert versions == [1] * 4


def run_again(room: Room) -> None:
    """Have the job done once more, as after a crash that nobody could write down."""
    with begin_write(room.engine) as connection:
        statement = sa.select(t.event.c.seq).where(t.event.c.type == "ReportSigned")
        sequence = connection.execute(statement).scalar_one()
        room.queue.enqueue(connection, "event.ReportSigned.documents", {"sequence": sequence}, lane="again")
    room.queue.drain()


def test_the_study_does_not_settle_anew_for_its_own_report(desk: Desk, room: Room, clock: SetClock) -> None:
    before = types(room)
    desk.signed()
    room.queue.drain()
    assert settle(room, clock) == 0
    later = types(room)[len(before) :]
    assert "InstancesStored" in later
    assert not {"StudySettled", "StudyChanged", "StudyArrived"} & set(later)


def test_an_image_that_comes_late_is_told_without_the_report(desk: Desk, room: Room, clock: SetClock) -> None:
    desk.signed()
    room.queue.drain()
    late = synthetic.ct_series(1, study_uid=desk.study)[0]
    store(room, late)
    assert settle(room, clock) == 1
    with room.engine.connect() as connection:
        (changed,) = read_events(connection, Scope(), Wanted(types=("StudyChanged",)), after=0, limit=10)
    assert changed.payload["added"] == [late.SOPInstanceUID]


def test_an_image_that_comes_together_with_the_report_settles_its_study(
    desk: Desk, room: Room, clock: SetClock
) -> None:
    """Both are committed in one group."""
    ours = synthetic.text_report(StudyInstanceUID=desk.study)
    late = synthetic.ct_series(1, study_uid=desk.study)[0]
    ready = [
        room.ingest.stage(part10(ours), facility="local", source=OUR_SOURCE),
        room.ingest.stage(part10(late), facility="local", source="test"),
    ]
    assert all(one.error is None for one in room.ingest.commit(ready).result())  # type: ignore[arg-type]
    assert settle(room, clock) == 1
    with room.engine.connect() as connection:
        (changed,) = read_events(connection, Scope(), Wanted(types=("StudyChanged",)), after=0, limit=10)
    assert changed.payload["added"] == [late.SOPInstanceUID]


def test_the_arrays_of_the_report_are_described_all_the_same(desk: Desk, room: Room) -> None:
    desk.signed()
    room.queue.drain()
    stale = sa.select(t.series.c.modality).where(t.series.c.stale_since.is_not(None))
    assert sorted(room.query(lambda connection: connection.execute(stale).scalars().all())) == ["DOC", "SR"]


def test_a_study_that_was_corrected_has_a_report_of_the_right_patient(desk: Desk) -> None:
    correct(desk, "Phantom^Grace")
    desk.signed()
    desk.room.queue.drain()
    assert {str(one.PatientName) for one in objects(desk)} == {"Phantom^Grace"}
    correct(desk, "Phantom^Edith")
    assert {str(one.PatientName) for one in objects(desk)} == {"Phantom^Edith"}


def correct(desk: Desk, name: str) -> None:
    change = {"00100010": {"vr": "PN", "Value": [{"Alphabetic": name}]}}
    url, params = f"/dicomweb/studies/{desk.study}", {"reason": "The wrong patient was chosen"}
    headers = {"Content-Type": "application/dicom+json"}
    answer = desk.client.patch(url, json=change, params=params, headers=headers)
    assert answer.status_code in (200, 204), answer.text


def test_a_study_that_is_gone_gets_no_report(desk: Desk, room: Room, clock: SetClock) -> None:
    desk.signed()
    removing.remove(room.engine, room.blobs, clock, LOCAL_OPERATOR, Scope(), desk.study)
    room.queue.drain()
    with room.engine.connect() as connection:
        assert connection.execute(sa.select(sa.func.count()).where(t.instance.c.is_current)).scalar_one() == 0
    assert not dead(room)


def test_what_no_font_can_set_is_a_dead_letter_and_the_sr_is_stored(desk: Desk) -> None:
    text = {"sections": [{"name": "findings", "text": "A private character: \ue000."}]}
    signed = desk.give(desk.write(desk.begin(), text), "sign", reader="ada")
    desk.room.queue.drain()
    assert [one.Modality for one in objects(desk)] == ["SR"]
    (letter,) = dead(desk.room)
    assert letter.kind == "event.ReportSigned.documents"
    assert "U+E000" in letter.error
    answer = desk.client.get(f"/reports/{signed['id']}.pdf")
    assert answer.status_code == 503
    assert "U+E000" in answer.text
    assert desk.client.get(f"/reports/{signed['id']}.html").status_code == 200


def dead(room: Room) -> list[Any]:
    return list(room.queue.entries(state="dead"))


@pytest.mark.parametrize(("wanted", "made"), [(("sr",), ["SR"]), (("pdf",), ["DOC"]), ((), [])])
def test_objects_that_are_switched_off_are_not_made(
    tmp_path: Path, clock: SetClock, wanted: Any, made: list[str]
) -> None:
    settings = Settings(data=tmp_path, report_objects=wanted)  # type: ignore[call-arg]
    with build_room(settings, clock=clock) as room, TestClient(create_app(room), base_url="http://localhost") as client:
        image = synthetic.ct_series(1)[0]
        desk = Desk(room=room, client=client, study=str(image.StudyInstanceUID))
        desk.furnish(reader_at("ada"))
        store(room, image)
        desk.signed()
        room.queue.drain()
        assert [one.Modality for one in objects(desk)] == made


# -- over HTTP ---------------------------------------------------------------------------------------------------------


def test_a_version_is_shown_in_each_form_and_may_be_kept(desk: Desk) -> None:
    id = desk.signed()["id"]
    for name, kind in (("txt", "text/plain"), ("html", "text/html"), ("pdf", "application/pdf")):
        answer = desk.client.get(f"/reports/{id}/versions/1.{name}")
        assert answer.status_code == 200
        assert answer.headers["content-type"].startswith(kind)
        assert "immutable" in answer.headers["cache-control"]
        assert "sandbox" in answer.headers["content-security-policy"]
        latest = desk.client.get(f"/reports/{id}.{name}")
        assert latest.content == answer.content
        assert "no-cache" in latest.headers["cache-control"]
        again = desk.client.get(f"/reports/{id}.{name}", headers={"If-None-Match": latest.headers["etag"]})
        assert (again.status_code, again.content) == (304, b"")
    assert "There is no haemorrhage." in desk.client.get(f"/reports/{id}.txt").text


def test_what_is_being_written_has_a_preview_that_says_so_and_no_pdf(desk: Desk) -> None:
    begun = desk.write(desk.begin(), TEXT)
    answer = desk.client.get(f"/reports/{begun['id']}/preview.html")
    assert "DRAFT - NOT SIGNED" in answer.text
    assert "There is no haemorrhage." in answer.text
    assert "no-store" in answer.headers["cache-control"]
    refused = desk.client.get(f"/reports/{begun['id']}.pdf")
    assert refused.status_code == 404
    assert "preview.html" in refused.text


def test_an_addendum_that_is_being_written_is_a_draft_too(desk: Desk) -> None:
    revised = desk.give(desk.signed(), "revise", kind="addendum")
    written = desk.write(revised, {"kind": "addendum", "addendum": "Discussed.", "sections": []})
    told = desk.client.get(f"/reports/{written['id']}/preview.html").text
    assert "DRAFT - NOT SIGNED" in told
    assert "Discussed." in told


@pytest.mark.parametrize("path", ["{id}.docx", "{id}/versions/2.pdf", "{id}/versions/1.exe", "{other}.pdf"])
def test_what_there_is_not_is_not_found(desk: Desk, path: str) -> None:
    id = desk.signed()["id"]
    assert desk.client.get("/reports/" + path.format(id=id, other="f" * 32)).status_code == 404


def test_a_version_that_was_tampered_with_is_not_shown_nor_stored(desk: Desk, room: Room) -> None:
    id = desk.signed()["id"]
    with begin_write(room.engine) as connection:
        connection.exec_driver_sql("DROP TRIGGER report_version_no_update")
        row = connection.execute(sa.select(t.report_version.c.content)).scalar_one()
        connection.execute(t.report_version.update().values(content=row.replace(b"no haemorrhage", b"a haemorrhage")))
    assert desk.client.get(f"/reports/{id}.html").status_code == 500
    room.queue.drain()
    assert objects(desk) == []
    assert [letter.kind for letter in dead(room)].count("event.ReportSigned.documents") == 1
