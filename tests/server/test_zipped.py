"""Studies, series and instances as zip files: file-sets with a DICOMDIR (PS3.18 8.6.1.3, PS3.10 8)."""

from __future__ import annotations

import io
import subprocess
import zipfile
from pathlib import Path

import httpx
import imagecodecs
import numpy as np
import orjson
import pydicom
import pytest
from pydicom import FileDataset
from pydicom.fileset import FileSet
from pydicom.uid import ImplicitVRLittleEndian, JPEG2000Lossless

from server.dicomweb import zipped as zipped_view
from server.importing import Tally, import_paths
from server.room import Room
from tests import synthetic
from tests.conftest import absent
from tests.corpus import entries
from tests.retrieve import compressed, in_syntax, keep, palette, read, url_of
from tests.servers import Absent, program
from tests.stow import store

ZIP = {"Accept": "application/zip"}
AS_STORED = {"Accept": "application/zip; transfer-syntax=*"}
LEVELS = ("study", "series", "instance")


def files_of(answer: httpx.Response) -> dict[str, bytes]:
    """The members of a zip, each checked against its checksum."""
    assert answer.status_code in (200, 206), answer.text
    assert answer.headers["content-type"] == "application/zip"
    with zipfile.ZipFile(io.BytesIO(answer.content)) as archive:
        assert archive.testzip() is None
        return {member.filename: archive.read(member) for member in archive.infolist()}


def unpacked(answer: httpx.Response, folder: Path) -> FileSet:
    with zipfile.ZipFile(io.BytesIO(answer.content)) as archive:
        archive.extractall(folder)
    return FileSet(folder / "DICOMDIR")


@pytest.mark.rooms("sqlite", "s3")
@pytest.mark.parametrize("level", LEVELS)
def test_the_files_that_were_sent_come_back_in_a_zip(
    client: httpx.Client, chest_ct: list[FileDataset], level: str
) -> None:
    sent = keep(client, *chest_ct)
    answer = client.get(url_of(chest_ct[0], level=level), headers=AS_STORED)
    files = files_of(answer)
    expected = sent if level != "instance" else sent[:1]
    names = [f"DICOM/SE000001/IM{n:06}" for n in range(1, len(expected) + 1)]
    assert list(files) == [*names, "DICOMDIR"]
    assert [files[name] for name in names] == expected
    uid = {"study": "StudyInstanceUID", "series": "SeriesInstanceUID", "instance": "SOPInstanceUID"}[level]
    assert answer.headers["content-disposition"] == f'attachment; filename="{chest_ct[0][uid].value}.zip"'


@pytest.mark.parametrize("level", LEVELS)
def test_a_corrected_study_is_packed_as_corrected_and_as_received_where_that_is_asked_for(
    client: httpx.Client, chest_ct: list[FileDataset], level: str
) -> None:
    sent = keep(client, *chest_ct)
    was = str(chest_ct[0].PatientName)
    changes = [{"00100010": {"vr": "PN", "Value": [{"Alphabetic": "Right^Rita"}]}}]
    answer = client.patch(
        url_of(chest_ct[0], level="study"),
        params={"reason": "wrong worklist item"},
        content=orjson.dumps(changes),
        headers={"Content-Type": "application/dicom+json"},
    )
    assert answer.status_code == 200, answer.text
    url = url_of(chest_ct[0], level=level)
    for params, name in (({}, "Right^Rita"), ({"original": "true"}, was)):
        answer = client.get(url, params=params, headers=AS_STORED)
        files = files_of(answer)
        directory = pydicom.dcmread(io.BytesIO(files.pop("DICOMDIR")))
        patients = [one.PatientName for one in directory.DirectoryRecordSequence if "PatientName" in one]
        assert patients == [name]
        assert {str(read(file).PatientName) for file in files.values()} == {name}
        if params:
            assert list(files.values()) == (sent if level != "instance" else sent[:1])


def test_files_are_stored_plainly(client: httpx.Client, chest_ct: list[FileDataset]) -> None:
    """What streams cannot be asked for its length first: sizes and checksums stand behind (ISO/IEC 21320-1)."""
    keep(client, *chest_ct)
    answer = client.get(url_of(chest_ct[0], level="study"), headers=AS_STORED)
    with zipfile.ZipFile(io.BytesIO(answer.content)) as archive:
        assert {member.compress_type for member in archive.infolist()} == {zipfile.ZIP_STORED}
        assert {member.extract_version for member in archive.infolist()} == {20}, "any reader can read it"


def test_the_dicomdir_names_every_file_below_its_series(client: httpx.Client, tmp_path: Path) -> None:
    study = synthetic.new_uid()
    series = [*synthetic.ct_series(3, study_uid=study), *synthetic.ct_series(2, study_uid=study, SeriesNumber=2)]
    others = [synthetic.text_report(StudyInstanceUID=study), synthetic.pdf_document(StudyInstanceUID=study)]
    keep(client, *series, *others)
    answer = client.get(url_of(series[0], level="study"), headers=ZIP)
    found = unpacked(answer, tmp_path)
    assert {str(instance.SOPInstanceUID) for instance in found} == {one.SOPInstanceUID for one in [*series, *others]}
    for instance in found:
        dataset = instance.load()
        assert dataset.SOPInstanceUID == instance.SOPInstanceUID
        assert dataset.file_meta.TransferSyntaxUID == instance.ReferencedTransferSyntaxUIDInFile
    directory = pydicom.dcmread(tmp_path / "DICOMDIR")
    records = directory.DirectoryRecordSequence
    kinds = [record.DirectoryRecordType for record in records]
    assert sorted(kinds) == sorted(["PATIENT", "STUDY", *["SERIES"] * 4, *["IMAGE"] * 5, "SR DOCUMENT", "ENCAP DOC"])
    assert records[0].PatientName == "Phantom^Ada"
    assert records[1].StudyInstanceUID == study
    tree = found.find_values("Modality")
    assert set(tree) == {"CT", "SR", "DOC"}


@pytest.mark.parametrize(
    "make", [synthetic.ct_series, lambda: [synthetic.text_report()], lambda: [palette("1.2.840.10008.1.2.1")]]
)
def test_other_programs_read_the_directory(client: httpx.Client, tmp_path: Path, make: object) -> None:
    try:
        dcmdump, dciodvfy = program("dcmdump"), program("dcentvfy")
    except Absent as reason:
        absent(reason)
    datasets = make()  # type: ignore[operator]
    keep(client, *datasets)
    answer = client.get(url_of(datasets[0], level="study"), headers=ZIP)
    files = unpacked(answer, tmp_path)
    dumped = subprocess.run([dcmdump, str(tmp_path / "DICOMDIR")], capture_output=True, text=True, check=True)
    assert dumped.stdout.count("DirectoryRecordType") == 3 + len(datasets)
    assert not dumped.stderr
    paths = [str(path.path) for path in files]
    entities = subprocess.run([dciodvfy, str(tmp_path / "DICOMDIR"), *paths], capture_output=True, text=True)
    assert "Error" not in entities.stderr, entities.stderr


def test_text_in_the_directory_keeps_its_character_set(client: httpx.Client, tmp_path: Path) -> None:
    dataset = synthetic.cine(PatientName="Müller^Jörg", SpecificCharacterSet="ISO_IR 100")
    keep(client, dataset)
    unpacked(client.get(url_of(dataset, level="study"), headers=ZIP), tmp_path)
    records = pydicom.dcmread(tmp_path / "DICOMDIR").DirectoryRecordSequence
    assert records[0].PatientName == "Müller^Jörg"
    assert records[0].SpecificCharacterSet == "ISO_IR 100"


def test_an_object_that_lacks_what_a_record_says_is_in_the_directory_too(client: httpx.Client, tmp_path: Path) -> None:
    dataset = synthetic.cine()
    for keyword in (
        "PatientID",
        "PatientName",
        "StudyDate",
        "StudyTime",
        "StudyID",
        "Modality",
        "SeriesNumber",
        "InstanceNumber",
    ):
        delattr(dataset, keyword)
    keep(client, dataset)
    found = unpacked(client.get(url_of(dataset, level="study"), headers=ZIP), tmp_path)
    (instance,) = found
    assert (instance.Modality, instance.SeriesNumber, instance.InstanceNumber) == ("OT", 1, 1)
    assert instance.PatientID == dataset.StudyInstanceUID


# -- negotiation -----------------------------------------------------------------------------------------------


def j2k() -> FileDataset:
    encode = lambda frame: imagecodecs.jpeg2k_encode(frame, codecformat="J2K", reversible=True)  # noqa: E731
    return compressed(synthetic.cine(frames=2, rows=16, columns=16), JPEG2000Lossless, encode)


@pytest.mark.parametrize("level", LEVELS)
def test_without_a_transfer_syntax_files_are_explicit_little_endian(client: httpx.Client, level: str) -> None:
    """PS3.18 8.7.3: the default; lossless frames are decompressed for it."""
    native, lossless = synthetic.cine(frames=2, rows=16, columns=16), j2k()
    keep(client, lossless)
    files = files_of(client.get(url_of(lossless, level=level), headers=ZIP))
    found = read(files["DICOM/SE000001/IM000001"])
    assert found.file_meta.TransferSyntaxUID == "1.2.840.10008.1.2.1"
    assert np.array_equal(found.pixel_array, native.pixel_array)
    directory = read(files["DICOMDIR"]).DirectoryRecordSequence[-1]
    assert directory.ReferencedTransferSyntaxUIDInFile == "1.2.840.10008.1.2.1"


def test_implicit_vr_never_leaves(client: httpx.Client) -> None:
    dataset = in_syntax(synthetic.cine(), ImplicitVRLittleEndian)
    keep(client, dataset)
    files = files_of(client.get(url_of(dataset, level="study"), headers=AS_STORED))
    assert read(files["DICOM/SE000001/IM000001"]).file_meta.TransferSyntaxUID == "1.2.840.10008.1.2.1"


def test_what_cannot_be_sent_in_the_syntax_asked_for_is_left_out_with_a_warning(client: httpx.Client) -> None:
    lossless = j2k()
    native = synthetic.cine(StudyInstanceUID=lossless.StudyInstanceUID)
    keep(client, lossless, native)
    accept = {"Accept": f"application/zip; transfer-syntax={JPEG2000Lossless}"}
    answer = client.get(url_of(lossless, level="study"), headers=accept)
    files = files_of(answer)
    if answer.status_code == 206:
        assert "1 of 2 instances" in answer.headers["warning"]
        assert list(files) == ["DICOM/SE000001/IM000001", "DICOMDIR"]
    for name, content in files.items():
        if name != "DICOMDIR":
            assert read(content).file_meta.TransferSyntaxUID == JPEG2000Lossless


@pytest.mark.parametrize(
    ("accept", "is_zip"),
    [
        ("*/*", False),
        ('multipart/related; type="application/dicom", application/zip;q=0.5', False),
        ('multipart/related; type="application/dicom";q=0.5, application/zip', True),
        ("application/zip, */*;q=0.1", True),
    ],
)
@pytest.mark.parametrize("level", LEVELS)
def test_a_zip_is_for_who_prefers_it(client: httpx.Client, level: str, accept: str, is_zip: bool) -> None:
    dataset = synthetic.cine()
    keep(client, dataset)
    answer = client.get(url_of(dataset, level=level), headers={"Accept": accept})
    assert (answer.headers["content-type"] == "application/zip") == is_zip


def test_a_link_asks_for_a_zip_by_its_query(client: httpx.Client) -> None:
    """PS3.18 8.3.3.1: for browsers, which set no Accept of their own."""
    dataset = synthetic.cine()
    keep(client, dataset)
    answer = client.get(f"{url_of(dataset, level='study')}?accept=application/zip", headers={"Accept": "text/html"})
    assert answer.headers["content-type"] == "application/zip"


def test_metadata_and_frames_are_in_no_zip(client: httpx.Client) -> None:
    dataset = synthetic.cine()
    keep(client, dataset)
    for path in ("metadata", "frames/1", "bulkdata"):
        assert client.get(f"{url_of(dataset)}/{path}", headers=ZIP).status_code == 406


# -- requests --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("level", LEVELS)
def test_a_zip_that_is_held_is_not_sent_again(client: httpx.Client, level: str) -> None:
    dataset = synthetic.cine()
    keep(client, dataset)
    url = url_of(dataset, level=level)
    first = client.get(url, headers=ZIP)
    assert client.get(url, headers=ZIP | {"If-None-Match": first.headers["etag"]}).status_code == 304
    other = client.get(
        url, headers={"Accept": "multipart/related; type=application/dicom"} | {"If-None-Match": first.headers["etag"]}
    )
    assert other.status_code == 200


def test_head_says_what_get_would(client: httpx.Client) -> None:
    dataset = synthetic.cine()
    keep(client, dataset)
    answer = client.head(url_of(dataset, level="study"), headers=ZIP)
    assert answer.status_code == 200
    assert answer.headers["content-type"] == "application/zip"
    assert "content-length" not in answer.headers


def test_an_earlier_version_comes_in_a_zip(client: httpx.Client) -> None:
    dataset = synthetic.cine()
    (first,) = keep(client, dataset)
    dataset.PatientID = "RR-0002"
    keep(client, dataset)
    files = files_of(client.get(f"{url_of(dataset)}?version=1", headers=AS_STORED))
    assert files["DICOM/SE000001/IM000001"] == first
    assert read(files["DICOMDIR"]).DirectoryRecordSequence[0].PatientID == "RR-0001"


def test_files_that_may_pass_4_gib_are_written_so_that_they_can(
    client: httpx.Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(zipped_view, "_LARGE", 100)
    dataset = synthetic.cine()
    (sent,) = keep(client, dataset)
    files = files_of(client.get(url_of(dataset), headers=AS_STORED))
    assert files["DICOM/SE000001/IM000001"] == sent


def test_import_takes_the_zip_again(client: httpx.Client, room: Room, tmp_path: Path) -> None:
    series = [*synthetic.ct_series(3), synthetic.pdf_document()]
    keep(client, *series)
    for number, dataset in enumerate((series[0], series[-1])):
        (tmp_path / f"{number}.zip").write_bytes(client.get(url_of(dataset, level="study"), headers=AS_STORED).content)
    tally = Tally()
    import_paths(
        room.ingest,
        sorted(tmp_path.glob("*.zip")),
        tally,
        facility="elsewhere",
        source="import",
        max_bytes=1 << 30,
        advance=lambda _: None,
    )
    assert tally.results == {"stored": 4}
    assert (tally.skipped, tally.failures) == (2, []), "the two directories"


@pytest.mark.filterwarnings("ignore::UserWarning:pydicom")
def test_every_class_of_the_corpus_has_a_record(client: httpx.Client, corpus: Path, tmp_path: Path) -> None:
    """One object of each SOP class, each zip read by pydicom."""
    by_class = {entry.sop_class: entry for entry in reversed(entries())}
    kinds = set()
    for number, entry in enumerate(by_class.values()):
        answer = store(client, entry.read(), to=f"/dicomweb/f/c{number}/studies")
        if answer.status != 200:
            continue
        (item,) = answer.stored.values()
        found = unpacked(client.get(item["00081190"]["Value"][0], headers=AS_STORED), tmp_path / str(number))
        (instance,) = found
        assert instance.load().SOPInstanceUID == item["00081155"]["Value"][0]
        kinds.add(str(instance.DirectoryRecordType))
    assert {"IMAGE", "SR DOCUMENT", "RT DOSE", "RT PLAN", "PRESENTATION", "VALUE MAP"} <= kinds
