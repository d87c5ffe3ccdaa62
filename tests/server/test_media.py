"""What is found on a disk, and what is refused there."""

from __future__ import annotations

import os
import struct
import zipfile
from pathlib import Path

import pydicom
import pytest
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian

from readingroom.errors import NotFound
from server import media
from server.media import Candidate, Found, Skipped, Unreadable, find, measure
from tests.synthetic import ct_series, part10

LARGEST = 1 << 30

# PS3.10 allows capitals only in a File ID; discs have others, and so have these tests.
pytestmark = pytest.mark.filterwarnings("ignore:Invalid value for VR CS")


@pytest.fixture
def spool(tmp_path: Path) -> Path:
    folder = tmp_path / "spool"
    folder.mkdir()
    return folder


@pytest.fixture
def disc(tmp_path: Path) -> Path:
    """A folder with three slices, one in a folder below, and things that are no DICOM."""
    folder = tmp_path / "disc"
    (folder / "more").mkdir(parents=True)
    for name, slice_ in zip(("a.dcm", "b.dcm", "more/IM0003"), ct_series(3), strict=True):
        (folder / name).write_bytes(part10(slice_))
    (folder / "README.TXT").write_text("Insert the disc and wait.\n")
    (folder / "empty").touch()
    (folder / "short").write_bytes(b"\x02\x00")
    return folder


def names(found: list[Found], kind: type[Found]) -> list[str]:
    return [Path(one.name).name for one in found if isinstance(one, kind)]


def dicomdir(folder: Path, *file_ids: list[str], name: str = "DICOMDIR") -> Path:
    """A DICOMDIR (PS3.3 F) whose image records name the files."""
    directory = Dataset()
    records = []
    for file_id in file_ids:
        record = Dataset()
        record.RecordInUseFlag = 0xFFFF
        record.DirectoryRecordType = "IMAGE"
        record.ReferencedFileID = file_id
        records.append(record)
    directory.FileSetID = "TEST"
    directory.DirectoryRecordSequence = records
    directory.file_meta = FileMetaDataset()
    directory.file_meta.MediaStorageSOPClassUID = "1.2.840.10008.1.3.10"
    directory.file_meta.MediaStorageSOPInstanceUID = "1.2.3"
    directory.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    directory.preamble = b"\0" * 128
    path = folder / name
    pydicom.dcmwrite(path, directory, enforce_file_format=True)
    return path


def test_a_folder_is_searched_through_and_what_is_no_dicom_is_skipped(disc: Path, spool: Path) -> None:
    found = list(find([disc], spool, max_bytes=LARGEST))
    assert names(found, Candidate) == ["a.dcm", "b.dcm", "IM0003"]
    assert sorted(names(found, Skipped)) == ["README.TXT", "empty", "short"]
    assert sum(one.weight for one in found) == measure([disc])


def test_a_data_set_without_preamble_in_a_folder_is_a_candidate(tmp_path: Path, spool: Path) -> None:
    (tmp_path / "bare").write_bytes(b"\x08\x00\x05\x00CS\x0a\x00ISO_IR 100")
    (tmp_path / "implicit").write_bytes(b"\x08\x00\x05\x00\x0a\x00\x00\x00ISO_IR 100")
    found = list(find([tmp_path], spool, max_bytes=LARGEST))
    assert names(found, Candidate) == ["bare", "implicit"]


def test_a_file_that_is_named_is_a_candidate_whatever_it_is(disc: Path, spool: Path) -> None:
    (only,) = find([disc / "README.TXT"], spool, max_bytes=LARGEST)
    assert isinstance(only, Candidate)


def test_a_path_that_is_not_there_is_told_before_anything_is_stored(disc: Path) -> None:
    with pytest.raises(NotFound, match="There is no file or folder"):
        measure([disc, disc / "nowhere"])


def test_a_zip_file_gives_its_members_byte_for_byte(disc: Path, tmp_path: Path, spool: Path) -> None:
    archive = tmp_path / "disc.zip"
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as target:
        for path in sorted(disc.rglob("*")):
            target.write(path, path.relative_to(disc))
    found = list(find([archive], spool, max_bytes=LARGEST))
    candidates = [one for one in found if isinstance(one, Candidate)]
    assert {one.body for one in candidates} == {(disc / n).read_bytes() for n in ("a.dcm", "b.dcm", "more/IM0003")}
    assert f"{archive}!more/IM0003" in [one.name for one in candidates]
    assert len([one for one in found if isinstance(one, Skipped)]) == 3


def test_a_large_member_goes_to_a_file_and_is_gone_when_it_is_let_go(
    disc: Path, tmp_path: Path, spool: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(media, "_IN_MEMORY", 100)
    archive = tmp_path / "disc.zip"
    with zipfile.ZipFile(archive, "w") as target:
        target.write(disc / "a.dcm", "a.dcm")
    (found,) = find([archive], spool, max_bytes=LARGEST)
    assert isinstance(found, Candidate)
    assert isinstance(found.body, Path)
    assert found.body.read_bytes() == (disc / "a.dcm").read_bytes()
    found.discard()
    assert list(spool.iterdir()) == []


def test_the_members_names_lead_nowhere(disc: Path, tmp_path: Path, spool: Path) -> None:
    archive = tmp_path / "evil.zip"
    with zipfile.ZipFile(archive, "w") as target:
        target.writestr("../../escaped.dcm", (disc / "a.dcm").read_bytes())
    (found,) = find([archive], spool, max_bytes=LARGEST)
    assert isinstance(found, Candidate)
    assert isinstance(found.body, bytes)
    assert not (tmp_path.parent / "escaped.dcm").exists()


def test_a_zip_bomb_is_not_unpacked(disc: Path, tmp_path: Path, spool: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(media, "_FREE_EXPANSION", 4 << 20)
    archive = tmp_path / "bomb.zip"
    head = (disc / "a.dcm").read_bytes()
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as target:
        for number in range(4):
            target.writestr(f"{number}.dcm", head + bytes(3 << 20))
    found = list(find([archive], spool, max_bytes=LARGEST))
    unpacked = [one for one in found if isinstance(one, Candidate)]
    refused = [one for one in found if isinstance(one, Unreadable)]
    assert sum(one.held_bytes for one in unpacked) <= (4 << 20) + 200 * archive.stat().st_size
    assert refused
    assert "are left for this archive" in refused[0].reason


def test_a_member_above_the_limit_is_refused_without_unpacking_it(disc: Path, tmp_path: Path, spool: Path) -> None:
    archive = tmp_path / "large.zip"
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as target:
        target.write(disc / "a.dcm", "a.dcm")
    (found,) = find([archive], spool, max_bytes=1000)
    assert isinstance(found, Unreadable)
    assert "1,000 are left" in found.reason
    assert list(spool.iterdir()) == []


def test_a_member_that_lies_about_its_length_gives_no_more_than_it_says(
    disc: Path, tmp_path: Path, spool: Path
) -> None:
    archive = tmp_path / "liar.zip"
    content = (disc / "a.dcm").read_bytes() + bytes(5 << 20)
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as target:
        target.writestr("a.dcm", content)
    raw = bytearray(archive.read_bytes())
    raw = raw.replace(struct.pack("<I", len(content)), struct.pack("<I", 2000))
    archive.write_bytes(raw)
    (found,) = find([archive], spool, max_bytes=LARGEST)
    assert isinstance(found, Unreadable)  # the checksum is that of the whole
    assert "damaged" in found.reason


def test_a_damaged_member_does_not_spoil_the_others(disc: Path, tmp_path: Path, spool: Path) -> None:
    archive = tmp_path / "damaged.zip"
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_STORED) as target:
        target.write(disc / "a.dcm", "a.dcm")
        target.write(disc / "b.dcm", "b.dcm")
    raw = bytearray(archive.read_bytes())
    raw[2000] ^= 1
    archive.write_bytes(raw)
    first, second = find([archive], spool, max_bytes=LARGEST)
    assert isinstance(first, Unreadable)
    assert isinstance(second, Candidate)


def test_an_archive_within_an_archive_is_told(disc: Path, tmp_path: Path, spool: Path) -> None:
    inner, outer = tmp_path / "inner.zip", tmp_path / "outer.zip"
    with zipfile.ZipFile(inner, "w") as target:
        target.write(disc / "a.dcm", "a.dcm")
    with zipfile.ZipFile(outer, "w") as target:
        target.write(inner, "inner.zip")
    (found,) = find([outer], spool, max_bytes=LARGEST)
    assert isinstance(found, Unreadable)
    assert "unpack it first" in found.reason


def test_a_file_that_only_begins_like_a_zip_file_is_told(tmp_path: Path, spool: Path) -> None:
    (tmp_path / "x.zip").write_bytes(b"PK\x03\x04 and nothing more")
    (found,) = find([tmp_path / "x.zip"], spool, max_bytes=LARGEST)
    assert isinstance(found, Unreadable)


def test_a_dicomdir_is_followed_whatever_the_case_of_the_names(disc: Path, spool: Path) -> None:
    directory = dicomdir(disc, ["A.DCM"], ["MORE", "IM0003"])
    found = list(find([directory], spool, max_bytes=LARGEST))
    assert [one.body for one in found if isinstance(one, Candidate)] == [disc / "a.dcm", disc / "more" / "IM0003"]


def test_a_dicomdir_never_leads_out_of_its_folder(disc: Path, tmp_path: Path, spool: Path) -> None:
    (tmp_path / "secret.dcm").write_bytes((disc / "a.dcm").read_bytes())
    (disc / "LINK").symlink_to(tmp_path / "secret.dcm")
    directory = dicomdir(disc, ["..", "secret.dcm"], ["LINK"], ["a.dcm"])
    out, link, inside = find([directory], spool, max_bytes=LARGEST)
    assert isinstance(out, Unreadable)
    assert isinstance(link, Unreadable)
    assert "leads out of the folder" in out.reason
    assert "leads out of the folder" in link.reason
    assert isinstance(inside, Candidate)


def test_a_file_that_a_dicomdir_names_in_vain_is_told(disc: Path, spool: Path) -> None:
    (found,) = find([dicomdir(disc, ["GONE"])], spool, max_bytes=LARGEST)
    assert isinstance(found, Unreadable)
    assert "no such file" in found.reason


def test_a_dicomdir_in_a_folder_is_no_candidate(disc: Path, spool: Path) -> None:
    dicomdir(disc, ["a.dcm"], name="index.dcm")
    assert "index.dcm" in names(list(find([disc], spool, max_bytes=LARGEST)), Skipped)


def test_a_broken_dicomdir_is_told(disc: Path, spool: Path) -> None:
    directory = dicomdir(disc, ["a.dcm"])
    whole = directory.read_bytes()
    directory.write_bytes(whole[: whole.index(b"\x04\x00\x20\x12")])  # up to the Directory Record Sequence
    (found,) = find([directory], spool, max_bytes=LARGEST)
    assert isinstance(found, Unreadable)
    assert "no directory records" in found.reason


def test_a_loop_of_links_and_a_pipe_do_not_stop_the_search(disc: Path, spool: Path) -> None:
    (disc / "more" / "loop").symlink_to(disc)
    os.mkfifo(disc / "pipe")
    (disc / "dangling").symlink_to(disc / "nowhere")
    found = list(find([disc], spool, max_bytes=LARGEST))
    assert len(names(found, Candidate)) == 3
    assert names(found, Unreadable) == ["dangling"]
