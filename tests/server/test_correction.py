"""Corrections over HTTP: what they are seen in, what they leave alone, who may, and how they are refused."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import httpx
import orjson
import pytest
import sqlalchemy as sa
from pydicom import FileDataset
from pydicom.encaps import generate_frames
from pydicom.uid import DeflatedExplicitVRLittleEndian, ExplicitVRBigEndian, ImplicitVRLittleEndian

from readingroom.clock import SetClock
from readingroom.errors import Invalid, Unavailable
from readingroom.model import LOCAL_OPERATOR, Permission, Scope
from server import edge
from server.archive import open_new_archive
from server.correcting import correct
from server.reindex import Reindexed, list_objects, prepare, record_objects, replay_side_records
from server.room import Room
from server.settings import Settings
from storage.catalog import schema as t
from storage.catalog.corrections import Target
from storage.catalog.find import find_instance, read_overlay
from storage.changes import read_change
from tests import multipart
from tests.retrieve import AS_STORED_PARTS, JSON, compressed, in_syntax, jpeg_ls, keep, read, url_of
from tests.stow import AS_STORED, store
from tests.synthetic import cine, ct_series, new_uid, part10, text_report

ALL = pytest.mark.rooms("sqlite", "postgres", "s3")

JPEG_LS = "1.2.840.10008.1.2.4.80"
REASON = {"reason": "Wrong worklist item was chosen"}
RITA = {"00100010": {"vr": "PN", "Value": [{"Alphabetic": "Right^Rita"}]}, "00100020": {"vr": "LO", "Value": ["R2"]}}
ORIGINAL = {"original": "true"}


def patch(client: httpx.Client, url: str, changes: Any = RITA, **kwargs: Any) -> httpx.Response:
    headers = {"Content-Type": "application/dicom+json"} | kwargs.pop("headers", {})
    content = changes if isinstance(changes, bytes) else orjson.dumps(changes)
    return client.patch(url, content=content, params=kwargs.pop("params", REASON), headers=headers)


def corrected(client: httpx.Client, url: str, changes: Any = RITA) -> dict[str, Any]:
    answer = patch(client, url, changes)
    assert answer.status_code == 200, answer.text
    found: dict[str, Any] = answer.json()
    return found


def names(client: httpx.Client, url: str, **params: str) -> list[str]:
    rows = client.get(url, params=params, headers=JSON).json()
    return [row["00100010"]["Value"][0]["Alphabetic"] for row in rows]


@pytest.fixture
def study(client: httpx.Client) -> list[FileDataset]:
    """Two slices of Phantom^Ada that are in truth Right^Rita's."""
    series = ct_series(2)
    keep(client, *series)
    return series


# -- what is seen -----------------------------------------------------------------------------------------------------


@ALL
def test_a_corrected_study_is_found_and_shown_as_its_true_patients(
    client: httpx.Client, study: list[FileDataset]
) -> None:
    url = url_of(study[0], level="study")
    answer = corrected(client, url)
    assert answer["version"] == 1
    assert answer["changed"]["00100020"]["before"]["Value"] == ["RR-0001"]
    assert answer["changed"]["00100020"]["after"]["Value"] == ["R2"]
    assert client.get("/dicomweb/studies", params={"PatientID": "RR-0001"}).status_code == 204
    assert names(client, "/dicomweb/studies", PatientID="R2", PatientName="right*") == ["Right^Rita"]
    assert names(client, f"{url}/instances", includefield="PatientName") == ["Right^Rita"] * 2
    for level in ("study", "series", "instance"):
        assert set(names(client, f"{url_of(study[0], level=level)}/metadata")) == {"Right^Rita"}


@ALL
def test_files_are_sent_with_the_corrected_head_and_the_received_pixels(
    client: httpx.Client, study: list[FileDataset]
) -> None:
    corrected(client, url_of(study[0], level="study"))
    single = read(client.get(url_of(study[0]), headers=AS_STORED).content)
    parts = [
        read(body)
        for _, body in multipart.parts_of(client.get(url_of(study[0], level="study"), headers=AS_STORED_PARTS))
    ]
    assert len(parts) == 2
    for sent in (single, *parts):
        (kept,) = [one for one in study if one.SOPInstanceUID == sent.SOPInstanceUID]
        assert (sent.PatientName, sent.PatientID) == ("Right^Rita", "R2")
        assert sent.PixelData == kept.PixelData
        assert sent.file_meta.TransferSyntaxUID == kept.file_meta.TransferSyntaxUID
        (item,) = sent.OriginalAttributesSequence
        assert item.ReasonForTheAttributeModification == "CORRECT"
        assert item.ModifyingSystem == "readingroom"
        assert item.SourceOfPreviousValues == "stow"
        assert item.ModifiedAttributesSequence[0].PatientName == "Phantom^Ada"
        del sent.OriginalAttributesSequence
        sent.PatientName, sent.PatientID = kept.PatientName, kept.PatientID
        assert list(sent) == list(kept)


@ALL
def test_original_gives_what_was_received(client: httpx.Client) -> None:
    series = ct_series(2)
    files = keep(client, *series)
    url = url_of(series[0], level="study")
    before = {
        level: client.get(f"{url_of(series[0], level=level)}/metadata", headers=JSON).json()
        for level in ("study", "series", "instance")
    }
    etag = client.get(url_of(series[0]), headers=AS_STORED).headers["etag"]
    corrected(client, url)
    answer = client.get(url_of(series[0]), headers=AS_STORED, params=ORIGINAL)
    assert answer.content == files[0]
    assert answer.headers["etag"] == etag
    for level in ("study", "series"):
        parts = multipart.parts_of(client.get(url_of(series[0], level=level), headers=AS_STORED_PARTS, params=ORIGINAL))
        assert sorted(body for _, body in parts) == sorted(files)
        assert all(headers["content-location"].endswith("?original=true") for headers, _ in parts)
    for level, metadata in before.items():
        shown = client.get(f"{url_of(series[0], level=level)}/metadata", headers=JSON).json()
        assert shown != metadata
        assert (
            client.get(f"{url_of(series[0], level=level)}/metadata", headers=JSON, params=ORIGINAL).json() == metadata
        )
    xml = {"Accept": 'multipart/related; type="application/dicom+xml"'}
    assert b"Phantom" in client.get(f"{url}/metadata", headers=xml, params=ORIGINAL).content
    assert b"Right" in client.get(f"{url}/metadata", headers=xml).content


def test_validators_move_for_what_has_changed_and_stay_for_pixels(
    client: httpx.Client, study: list[FileDataset]
) -> None:
    urls = {
        "file": (url_of(study[0]), AS_STORED),
        "study": (url_of(study[0], level="study"), AS_STORED_PARTS),
        "metadata": (f"{url_of(study[0])}/metadata", JSON),
        "study metadata": (f"{url_of(study[0], level='study')}/metadata", JSON),
        "frames": (f"{url_of(study[0])}/frames/1", {}),
        "bulk": (f"{url_of(study[0])}/bulkdata/7FE00010", {}),
    }

    def etags() -> dict[str, str]:
        return {name: client.get(url, headers=headers).headers["etag"] for name, (url, headers) in urls.items()}

    seen = [etags()]
    for patient_id in ("R2", "R3"):
        corrected(client, url_of(study[0], level="study"), {"00100020": {"vr": "LO", "Value": [patient_id]}})
        seen.append(etags())
        held = client.get(urls["file"][0], headers={**AS_STORED, "If-None-Match": seen[-2]["file"]})
        assert held.status_code == 200
    for name in urls:
        assert len({one[name] for one in seen}) == (1 if name in ("frames", "bulk") else 3), name


@pytest.mark.parametrize("syntax", [ImplicitVRLittleEndian, ExplicitVRBigEndian, DeflatedExplicitVRLittleEndian])
def test_a_file_of_any_native_syntax_is_corrected(client: httpx.Client, syntax: str) -> None:
    dataset = ct_series(1)[0]
    pixels = dataset.pixel_array
    dataset = in_syntax(dataset, syntax)
    keep(client, dataset)
    before = client.get(url_of(dataset), headers=AS_STORED)
    corrected(client, url_of(dataset, level="study"))
    answer = client.get(url_of(dataset), headers=AS_STORED)
    sent = read(answer.content)
    assert answer.headers["content-type"] == before.headers["content-type"]
    assert sent.file_meta.TransferSyntaxUID in answer.headers["content-type"]
    assert sent.PatientName == "Right^Rita"
    assert (sent.pixel_array == pixels).all()
    original = client.get(url_of(dataset), headers=AS_STORED, params=ORIGINAL)
    assert (original.content, original.headers["etag"]) == (before.content, before.headers["etag"])


def test_compressed_frames_stay_as_they_are(client: httpx.Client) -> None:
    dataset = compressed(cine(3), JPEG_LS, jpeg_ls)
    keep(client, dataset)
    corrected(client, url_of(dataset, level="study"))
    sent = read(client.get(url_of(dataset), headers=AS_STORED).content)
    assert (sent.PatientID, sent.file_meta.TransferSyntaxUID) == ("R2", JPEG_LS)
    assert list(generate_frames(sent.PixelData, number_of_frames=3)) == list(
        generate_frames(dataset.PixelData, number_of_frames=3)
    )
    native = read(client.get(url_of(dataset), headers={"Accept": "application/dicom"}).content)
    assert native.PatientID == "R2"
    assert (native.pixel_array == cine(3).pixel_array).all()


def test_a_name_that_the_files_character_set_cannot_write_is_written_all_the_same(client: httpx.Client) -> None:
    dataset = ct_series(1, SpecificCharacterSet="ISO_IR 100", PatientName="Müller^Jörg")[0]
    keep(client, dataset)
    corrected(client, url_of(dataset), {"00204000": {"vr": "LT", "Value": ["山田先生"]}})
    sent = read(client.get(url_of(dataset), headers=AS_STORED).content)
    assert (sent.ImageComments, sent.PatientName) == ("山田先生", "Müller^Jörg")


def test_objects_without_frames_are_corrected(client: httpx.Client) -> None:
    report = text_report()
    keep(client, report)
    corrected(client, url_of(report, level="study"))
    sent = read(client.get(url_of(report), headers=AS_STORED).content)
    assert sent.PatientID == "R2"
    assert sent.ContentSequence[0].TextValue == "No finding."


def test_series_and_instances_are_corrected_by_themselves(client: httpx.Client, study: list[FileDataset]) -> None:
    series = url_of(study[0], level="series")
    corrected(client, series, {"0008103E": {"vr": "LO", "Value": ["Sagittal"]}, "00180015": None})
    corrected(client, url_of(study[0]), {"00200013": {"vr": "IS", "Value": [9]}})
    (row,) = client.get("/dicomweb/series", params={"SeriesDescription": "Sag*"}, headers=JSON).json()
    assert row["0008103E"]["Value"] == ["Sagittal"]
    assert len(client.get(f"{series}/instances", params={"InstanceNumber": "9"}, headers=JSON).json()) == 1
    first, second = client.get(f"{series}/metadata", headers=JSON).json()
    assert (first["00200013"]["Value"], second["00200013"]["Value"]) == ([2], [9])
    assert len(second["04000561"]["Value"]) == 2
    assert "00180015" not in first


def test_an_earlier_version_of_an_instance_is_corrected_too(client: httpx.Client) -> None:
    dataset = ct_series(1)[0]
    (first,) = keep(client, dataset)
    dataset.ImageComments = "again"
    keep(client, dataset)
    corrected(client, url_of(dataset, level="study"))
    old = {"version": "1"}
    assert read(client.get(url_of(dataset), headers=AS_STORED, params=old).content).PatientID == "R2"
    assert client.get(url_of(dataset), headers=AS_STORED, params=old | ORIGINAL).content == first


def test_what_arrives_later_comes_under_the_correction(
    client: httpx.Client, study: list[FileDataset], clock: SetClock
) -> None:
    corrected(client, url_of(study[0], level="study"))
    clock.advance(timedelta(minutes=5))
    late = ct_series(1, study_uid=study[0].StudyInstanceUID, Modality="SR")[0]
    answer = store(client, part10(late))
    (item,) = answer.stored.values()
    assert (answer.status, item["00081196"]["Value"]) == (202, [0xB000])
    (told,) = item["04000561"]["Value"]
    assert told["04000550"]["Value"][0]["00100020"]["Value"] == ["RR-0001"]
    assert read(client.get(url_of(late), headers=AS_STORED).content).PatientName == "Right^Rita"
    assert len(client.get("/dicomweb/studies", params={"PatientID": "R2"}, headers=JSON).json()) == 1


def test_what_is_corrected_while_it_is_sent_is_not_sent_half(room: Room, client: httpx.Client) -> None:
    dataset = ct_series(1)[0]
    keep(client, dataset)
    correct_here(room, dataset.StudyInstanceUID, PatientID="R2")
    uids = dataset.StudyInstanceUID, dataset.SeriesInstanceUID, dataset.SOPInstanceUID
    with room.engine.connect() as connection:
        found = find_instance(connection, Scope(), *uids)
        assert read_overlay(connection, found)["00100020"]["Value"] == ["R2"]
    correct_here(room, dataset.StudyInstanceUID, PatientID="R3")
    with room.engine.connect() as connection, pytest.raises(Unavailable):
        read_overlay(connection, found)


# -- history ----------------------------------------------------------------------------------------------------------


def test_history_tells_who_what_when_and_why(client: httpx.Client, study: list[FileDataset], clock: SetClock) -> None:
    url = url_of(study[0], level="study")
    assert client.get(f"{url}/history").json() == []
    first = corrected(client, url)
    clock.advance(timedelta(minutes=1))
    corrected(client, url_of(study[0], level="series"), {"0008103E": None})
    entries = client.get(f"{url}/history").json()
    assert entries[0] == first
    assert [(entry["version"], entry["by"], entry["reason"]) for entry in entries] == [
        (1, "local-operator", REASON["reason"]),
        (2, "local-operator", REASON["reason"]),
    ]
    assert entries[0]["url"] == f"http://127.0.0.1:8780{url}"
    assert entries[1]["url"] == f"http://127.0.0.1:8780{url_of(study[0], level='series')}"
    assert entries[1]["at"] == "2026-01-01T12:01:00+00:00"
    assert entries[1]["changed"] == {"0008103E": {"before": {"vr": "LO", "Value": ["Axial"]}, "after": None}}
    for level in ("series", "instance"):
        assert client.get(f"{url_of(study[0], level=level)}/history").json() == entries


def test_going_back_is_one_more_version(client: httpx.Client, clock: SetClock) -> None:
    dataset = ct_series(1)[0]
    (received,) = keep(client, dataset)
    url = url_of(dataset, level="study")
    etag = client.get(url_of(dataset), headers=AS_STORED).headers["etag"]
    corrected(client, url)
    corrected(client, url, {"00100020": {"vr": "LO", "Value": ["R3"]}})
    back = client.post(f"{url}/history", params={"version": "1", **REASON})
    assert (back.status_code, back.json()["version"]) == (200, 3)
    assert read(client.get(url_of(dataset), headers=AS_STORED).content).PatientID == "R2"
    assert client.post(f"{url}/history", params={"version": "0", **REASON}).json()["version"] == 4
    answer = client.get(url_of(dataset), headers=AS_STORED)
    assert (answer.content, answer.headers["etag"]) == (received, etag)
    assert len(client.get(f"{url}/history").json()) == 4
    assert client.post(f"{url}/history", params={"version": "9", **REASON}).status_code == 404
    assert client.post(f"{url}/history", params={"version": "x", **REASON}).status_code == 400


def test_a_correction_that_changes_nothing_makes_no_version(client: httpx.Client, study: list[FileDataset]) -> None:
    url = url_of(study[0], level="study")
    corrected(client, url)
    assert corrected(client, url) == {"version": None, "changed": {}}
    assert len(client.get(f"{url}/history").json()) == 1


def test_who_has_not_seen_the_last_correction_is_told(client: httpx.Client, study: list[FileDataset]) -> None:
    url = url_of(study[0], level="study")
    seen = client.get(f"{url}/history").headers["etag"]
    made = patch(client, url, headers={"If-Match": seen})
    assert made.status_code == 200
    assert made.headers["etag"] == client.get(f"{url}/history").headers["etag"] != seen
    assert client.get(f"{url}/history", headers={"If-None-Match": made.headers["etag"]}).status_code == 304
    for answer in (
        patch(client, url, {"00100020": None}, headers={"If-Match": seen}),
        client.post(f"{url}/history", params={"version": "0", **REASON}, headers={"If-Match": seen}),
    ):
        assert answer.status_code == 412
    assert patch(client, url, {"00100020": None}, headers={"If-Match": "*"}).status_code == 200


def test_the_log_tells_of_each_corrected_instance(client: httpx.Client, room: Room, study: list[FileDataset]) -> None:
    corrected(client, url_of(study[0]), {"00204000": {"vr": "LT", "Value": ["seen"]}})
    with room.engine.connect() as connection:
        row = connection.execute(sa.select(t.event).order_by(t.event.c.seq.desc()).limit(1)).one()
    assert (row.type, row.study_uid, row.facility) == ("InstancesCorrected", study[0].StudyInstanceUID, "local")
    assert orjson.loads(row.payload) == {
        "series": {study[0].SeriesInstanceUID: [study[0].SOPInstanceUID]},
        "correction": 1,
        "actor": "local-operator",
    }


# -- what is refused --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "status", "says"),
    [
        (b"{", 400, "no JSON"),
        (b"", 400, "no JSON"),
        (b"[]", 400, "data set"),
        (b"{}", 400, "nothing to change"),
        ({"0020000D": {"vr": "UI", "Value": ["1.2.3"]}}, 400, "(0020,000D) StudyInstanceUID"),
        ({"00280010": {"vr": "US", "Value": [5]}}, 400, "(0028,0010) Rows"),
        ({"0008103E": {"vr": "LO", "Value": ["x"]}}, 400, "(0008,103E) SeriesDescription"),
        ({"00100030": {"vr": "DA", "Value": ["20261301"]}}, 400, "(0010,0030) PatientBirthDate"),
        (b" " * ((1 << 20) + 1), 413, "1048576 bytes"),
    ],
)
def test_what_cannot_be_taken_is_refused_with_a_reason(
    client: httpx.Client, study: list[FileDataset], changes: Any, status: int, says: str
) -> None:
    answer = patch(client, url_of(study[0], level="study"), changes)
    assert (answer.status_code, says in answer.text) == (status, True), answer.text
    assert client.get(f"{url_of(study[0], level='study')}/history").json() == []


def test_a_reason_is_one_line_that_says_something(client: httpx.Client, study: list[FileDataset]) -> None:
    url = url_of(study[0], level="study")
    for params in ({}, {"reason": " "}, {"reason": "x" * 1025}, {"reason": "two\nlines"}):
        answer = patch(client, url, params=params)
        assert (answer.status_code, "Say why" in answer.text) == (400, True)


def test_other_media_types_are_not_read_nor_sent(client: httpx.Client, study: list[FileDataset]) -> None:
    url = url_of(study[0], level="study")
    assert patch(client, url, headers={"Content-Type": "text/plain"}).status_code == 415
    assert patch(client, url, headers={"Accept": "image/png"}).status_code == 406
    assert client.get(f"{url}/history", headers={"Accept": "image/png"}).status_code == 406
    assert client.get(f"{url}/metadata", headers=JSON, params={"original": "yes"}).status_code == 400


def test_what_is_not_there_is_not_found(client: httpx.Client, study: list[FileDataset]) -> None:
    series = url_of(study[0], level="series")
    for url in (
        f"/dicomweb/studies/{new_uid()}",
        f"{url_of(study[0], level='study')}/series/{new_uid()}",
        f"{series}/instances/{new_uid()}",
    ):
        level = {"00204000": None} if "instances" in url else {"0008103E": None} if "series" in url else RITA
        assert patch(client, url, level).status_code == 404
        assert client.get(f"{url}/history").status_code == 404


def test_a_facility_corrects_its_own_copy(client: httpx.Client) -> None:
    dataset = ct_series(1)[0]
    keep(client, dataset)
    url = url_of(dataset, level="study").removeprefix("/dicomweb")
    client.post(
        "/dicomweb/f/north/studies",
        content=multipart.encode([part10(dataset)]),
        headers={"Content-Type": multipart.content_type()},
    )
    assert patch(client, f"/dicomweb{url}").status_code == 409
    corrected(client, f"/dicomweb/f/north{url}")
    assert names(client, f"/dicomweb/f/north{url}/metadata") == ["Right^Rita"]
    assert names(client, f"/dicomweb/f/local{url}/metadata") == ["Phantom^Ada"]
    assert patch(client, f"/dicomweb/f/south{url}").status_code == 404


def allow(monkeypatch: pytest.MonkeyPatch, *permissions: Permission) -> None:
    actor = replace(LOCAL_OPERATOR, id="guest", may=frozenset(permissions))
    monkeypatch.setattr(edge, "LOCAL_OPERATOR", actor)


def test_who_may_not_is_refused(
    client: httpx.Client, study: list[FileDataset], monkeypatch: pytest.MonkeyPatch
) -> None:
    url = url_of(study[0], level="study")
    corrected(client, url)
    allow(monkeypatch, "original")
    assert patch(client, url).status_code == 403
    assert client.post(f"{url}/history", params={"version": "0", **REASON}).status_code == 403
    assert client.get(f"{url}/history").status_code == 200
    allow(monkeypatch, "correct")
    hidden = [f"{url}/history"]
    assert client.get(hidden[0]).status_code == 403
    for level in ("study", "series", "instance"):
        for path in (url_of(study[0], level=level), f"{url_of(study[0], level=level)}/metadata"):
            assert client.get(path, params=ORIGINAL).status_code == 403
            assert client.get(path, params={"original": "false"}, headers={"Accept": "*/*"}).status_code == 200


# -- without HTTP -----------------------------------------------------------------------------------------------------


def correct_here(room: Room, study_uid: str, **changes: str | None) -> None:
    made = dict(read_change(keyword, text) for keyword, text in changes.items())
    target = Target(study_uid=study_uid)
    correct(room.engine, room.blobs, room.clock, Scope(), target, made, actor="rita", reason="because")


@ALL
def test_reindex_gives_the_corrected_catalog(
    room: Room, client: httpx.Client, settings: Settings, clock: SetClock, tmp_path: Path
) -> None:
    series = ct_series(2)
    keep(client, *series)
    clock.advance(timedelta(minutes=1))
    correct_here(room, series[0].StudyInstanceUID, PatientID="R2", StudyDescription=None)
    corrected(client, url_of(series[0], level="series"), {"00080060": {"vr": "CS", "Value": ["MR"]}})
    clock.advance(timedelta(minutes=1))
    keep(client, ct_series(1, study_uid=series[0].StudyInstanceUID)[0])
    corrected(client, url_of(series[1]), {"00200013": {"vr": "IS", "Value": [7]}})
    reindexed = Reindexed()
    database = f"sqlite:///{tmp_path / 'again.sqlite'}"
    with open_new_archive(settings.model_copy(update={"database": database})) as (engine, blobs):
        prepare(engine, now=clock.now(), force=False)
        objects = list_objects(blobs, reindexed, lambda _: None)
        record_objects(engine, blobs, objects, reindexed, quiet=Settings().quiet_period, advance=lambda _: None)
        replay_side_records(engine, blobs, reindexed)
        assert reindexed.failures == []
        assert reindexed.side_records == 3
        for statement in (
            sa.select(
                t.study.c.patient_id, t.study.c.modalities, t.study.c.overlay_version, t.study.c.row, t.study.c.header
            ),
            sa.select(t.series.c.modality, t.series.c.row, t.series.c.header).order_by(t.series.c.series_uid),
            sa.select(
                t.instance.c.instance_number,
                t.instance.c.overlay_version,
                t.instance_metadata.c.json,
                t.instance_metadata.c.received,
            )
            .join(t.instance_metadata, t.instance_metadata.c.instance == t.instance.c.id)
            .order_by(t.instance.c.instance_uid),
            sa.select(t.patient.c.issuer, t.patient.c.patient_id),
            sa.select(t.overlay.c.version, t.overlay.c.attributes, t.overlay.c.actor, t.overlay.c.at).order_by(
                t.overlay.c.version
            ),
        ):
            with room.engine.connect() as ours, engine.connect() as theirs:
                assert ours.execute(statement).all() == theirs.execute(statement).all()


def test_a_correction_that_fails_leaves_no_record(room: Room, client: httpx.Client, study: list[FileDataset]) -> None:
    with pytest.raises(Invalid):
        correct(
            room.engine,
            room.blobs,
            room.clock,
            Scope(),
            Target(study_uid=study[0].StudyInstanceUID),
            {},
            actor="rita",
            reason="",
        )
    correct_here(room, study[0].StudyInstanceUID, PatientID="RR-0001")
    url = url_of(study[0], level="study")
    patch(client, url, headers={"If-Match": '"another"'})
    assert len([key for key in room.blobs.keys("s/") if "/x/" in key]) == 1
    assert len(client.get(f"{url}/history").json()) == 1
