"""A study arrives, is found, is read: the whole way, by a client that somebody else wrote (PyPI dicomweb-client)."""

from __future__ import annotations

import ast
import inspect
import io
import warnings
from collections.abc import Iterator
from http import HTTPStatus
from pathlib import Path
from typing import Any

import imagecodecs
import numpy as np
import pytest
import requests
from dicomweb_client.api import DICOMwebClient
from PIL import Image
from pydicom import FileDataset
from pydicom.datadict import tag_for_keyword
from pydicom.dataset import Dataset
from pydicom.uid import ExplicitVRLittleEndian, JPEG2000Lossless, JPEGLSLossless, RLELossless

from tests.servers import Live
from tests.synthetic import ct_series, new_uid, part10
from tests.walks import archive as walks
from tests.walks.archive import archive_of, names, path_of, same

AS_STORED = (("application/dicom", "*"),)

type Archive = walks.Archive[DICOMwebClient]


def test_every_call_that_the_client_has_is_made_here() -> None:
    has = {name for name, _ in inspect.getmembers(DICOMwebClient, callable) if not name.startswith("_")}
    tree = ast.parse(Path(__file__).read_text())
    calls = [node.func for node in ast.walk(tree) if isinstance(node, ast.Call)]
    assert {call.attr for call in calls if isinstance(call, ast.Attribute)} >= has


@pytest.fixture(scope="module")
def archive(live: Live) -> Archive:
    """The studies of two patients, stored by the client."""
    found = archive_of(DICOMwebClient(live.dicomweb))
    answer = found.client.store_instances(found.everything)
    assert len(answer.ReferencedSOPSequence) == len(found.everything)
    assert "FailedSOPSequence" not in answer
    return found


def metadata_rows(found: Any) -> list[dict[str, Any]]:
    """The client gives a list, or of one instance the data set alone."""
    return found if isinstance(found, list) else [found]


# -- store -----------------------------------------------------------------------------------------------------


def test_the_answer_names_every_instance_and_where_it_is(archive: Archive) -> None:
    answer = archive.client.store_instances(archive.chest, study_instance_uid=archive.chest[0].StudyInstanceUID)
    assert answer.RetrieveURL.endswith(f"/studies/{archive.chest[0].StudyInstanceUID}")
    for item, dataset in zip(answer.ReferencedSOPSequence, archive.chest, strict=True):
        assert item.ReferencedSOPInstanceUID == dataset.SOPInstanceUID
        assert item.ReferencedSOPClassUID == dataset.SOPClassUID
        assert item.RetrieveURL.endswith("/studies/{}/series/{}/instances/{}".format(*path_of(dataset)))


def test_an_instance_of_another_study_is_reported_as_failed(archive: Archive) -> None:
    stray = ct_series(1)[0]
    answer = archive.client.store_instances(
        [archive.chest[0], stray], study_instance_uid=archive.chest[0].StudyInstanceUID
    )
    assert [item.ReferencedSOPInstanceUID for item in answer.FailedSOPSequence] == [stray.SOPInstanceUID]
    assert archive.client.search_for_instances(search_filters={"SOPInstanceUID": stray.SOPInstanceUID}) == []


def test_a_store_in_small_chunks_is_stored_whole(archive: Archive, spare: list[FileDataset]) -> None:
    client = DICOMwebClient(archive.client.base_url)
    client.set_chunk_size(1000)
    answer = client.store_instances(spare)
    assert len(answer.ReferencedSOPSequence) == len(spare)
    kept = {one.SOPInstanceUID: one for one in client.iter_study(spare[0].StudyInstanceUID)}
    assert kept.keys() == {dataset.SOPInstanceUID for dataset in spare}
    assert all(same(kept[dataset.SOPInstanceUID], dataset) for dataset in spare)


# -- search ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("filters", "expected"),
    [
        ({"PatientID": "RR-0001"}, ["RR-0001"]),
        ({"00100020": "RR-0002"}, ["RR-0002"]),
        ({"PatientName": "Phantom*"}, ["RR-0001"]),
        ({"PatientName": "müller^j?rg"}, ["RR-0002"]),
        ({"PatientName": "MULLER*"}, ["RR-0002"]),
        ({"StudyDate": "20251201-20251231"}, ["RR-0002"]),
        ({"StudyDate": "20260101-"}, ["RR-0001"]),
        ({"AccessionNumber": "A100"}, ["RR-0001"]),
        ({"ModalitiesInStudy": "CT"}, ["RR-0001"]),
        ({"PatientID": "RR-000?", "StudyDate": "-20251231"}, ["RR-0002"]),
        ({"PatientID": "nobody"}, []),
        ({}, ["RR-0001", "RR-0002"]),
    ],
)
def test_studies_are_found_by_what_is_asked(archive: Archive, filters: dict[str, str], expected: list[str]) -> None:
    assert sorted(names(archive.client.search_for_studies(search_filters=filters), "00100020")) == expected


def test_a_study_says_what_a_list_shows(archive: Archive) -> None:
    (row,) = archive.client.search_for_studies(search_filters={"StudyInstanceUID": archive.chest[0].StudyInstanceUID})
    study = Dataset.from_json(row)
    assert study.PatientName == "Phantom^Ada"
    assert sorted(study.ModalitiesInStudy) == ["CT", "DOC", "SR"]
    assert (study.NumberOfStudyRelatedSeries, study.NumberOfStudyRelatedInstances) == (3, 7)
    assert study.InstanceAvailability == "ONLINE"
    assert study.StudyDescription == "Made in code"


def test_a_name_beyond_ascii_comes_back_as_it_is_written(archive: Archive) -> None:
    (row,) = archive.client.search_for_studies(search_filters={"PatientID": "RR-0002"})
    assert row["00100010"]["Value"] == [{"Alphabetic": "Müller^Jörg"}]


def test_a_long_answer_is_read_page_by_page(archive: Archive) -> None:
    study_uid = archive.chest[0].StudyInstanceUID
    first = archive.client.search_for_instances(study_uid, limit=3)
    second = archive.client.search_for_instances(study_uid, limit=3, offset=3)
    assert len(first) == len(second) == 3
    everything = archive.client.search_for_instances(study_uid, limit=2, get_remaining=True)
    assert names(everything, "00080018")[:6] == names([*first, *second], "00080018")
    assert set(names(everything, "00080018")) == {
        one.SOPInstanceUID for one in archive.everything if one.StudyInstanceUID == study_uid
    }


def test_studies_and_series_are_read_page_by_page_too(archive: Archive) -> None:
    for search, tag in (
        (archive.client.search_for_studies, "0020000D"),
        (archive.client.search_for_series, "0020000E"),
    ):
        first, second = search(limit=1), search(limit=1, offset=1)
        assert len(first) == len(second) == 1
        everything = search(limit=1, get_remaining=True)
        assert names(everything, tag)[:2] == names([*first, *second], tag)
        assert len(set(names(everything, tag))) == len(everything) == len(search())


def test_series_are_found_within_a_study_and_across_the_archive(archive: Archive) -> None:
    within = archive.client.search_for_series(archive.chest[0].StudyInstanceUID)
    assert sorted(names(within, "00080060")) == ["CT", "DOC", "SR"]
    across = archive.client.search_for_series(search_filters={"Modality": "CT"})
    assert names(across, "0020000E") == [archive.chest[0].SeriesInstanceUID]
    assert names(across, "0020000D") == [archive.chest[0].StudyInstanceUID]
    assert names(across, "00201209") == [5]


def test_instances_are_found_at_every_level(archive: Archive) -> None:
    study_uid, series_uid, instance_uid = path_of(archive.chest[2])
    number = {"InstanceNumber": "3"}
    for rows in (
        archive.client.search_for_instances(study_uid, series_uid, search_filters=number),
        archive.client.search_for_instances(study_uid, search_filters={**number, "Modality": "CT"}),
        archive.client.search_for_instances(search_filters={"SOPInstanceUID": instance_uid}),
    ):
        assert names(rows, "00080018") == [instance_uid]


def test_fields_that_are_asked_for_are_included(archive: Archive) -> None:
    (row,) = archive.client.search_for_series(
        search_filters={"Modality": "CT"}, fields=["SeriesDescription", "BodyPartExamined"]
    )
    assert row["00180015"]["Value"] == ["CHEST"]
    assert row["0008103E"]["Value"] == ["Axial"]


@pytest.mark.parametrize(
    ("name", "expected"),
    [("Joerg Mueller", ["RR-0002"]), ("Muller", ["RR-0002"]), ("Fantom", ["RR-0001"]), ("Smith", [])],
)
def test_a_fuzzy_search_finds_names_as_they_sound(archive: Archive, name: str, expected: list[str]) -> None:
    asked = {"PatientName": name}
    for rows in (
        archive.client.search_for_studies(fuzzymatching=True, search_filters=asked),
        archive.client.search_for_series(fuzzymatching=True, fields=["PatientID"], search_filters=asked),
        archive.client.search_for_instances(fuzzymatching=True, fields=["PatientID"], search_filters=asked),
    ):
        assert sorted(set(names(rows, "00100020"))) == expected
    assert archive.client.search_for_studies(fuzzymatching=False, search_filters=asked) == []


def test_the_tags_of_an_answer_have_the_keywords_that_the_client_knows(archive: Archive) -> None:
    (row,) = archive.client.search_for_studies(search_filters={"AccessionNumber": "B200"})
    assert row[archive.client.lookup_tag("PatientID")]["Value"] == ["RR-0002"]
    assert "NumberOfStudyRelatedInstances" in {archive.client.lookup_keyword(tag) for tag in row}


# -- retrieve --------------------------------------------------------------------------------------------------


def test_a_study_comes_back_whole(archive: Archive) -> None:
    study_uid = archive.chest[0].StudyInstanceUID
    expected = {one.SOPInstanceUID: one for one in archive.everything if one.StudyInstanceUID == study_uid}
    for got in (archive.client.retrieve_study(study_uid), list(archive.client.iter_study(study_uid))):
        assert {one.SOPInstanceUID for one in got} == expected.keys()
        assert all(same(one, expected[one.SOPInstanceUID]) for one in got)


def test_a_series_comes_back_in_the_order_of_its_instances(archive: Archive) -> None:
    study_uid, series_uid, _ = path_of(archive.chest[0])
    for got in (
        archive.client.retrieve_series(study_uid, series_uid),
        list(archive.client.iter_series(study_uid, series_uid)),
    ):
        assert [one.InstanceNumber for one in got] == [1, 2, 3, 4, 5]
        assert all(same(one, dataset) for one, dataset in zip(got, archive.chest, strict=True))


def test_an_instance_comes_back_as_it_was_stored(archive: Archive) -> None:
    for dataset in archive.everything:
        got = archive.client.retrieve_instance(*path_of(dataset), media_types=AS_STORED)
        assert got.file_meta.TransferSyntaxUID == dataset.file_meta.TransferSyntaxUID
        assert same(got, dataset)
        assert part10(got) == part10(dataset)


def test_without_a_transfer_syntax_a_lossless_instance_comes_decompressed(archive: Archive) -> None:
    got = archive.client.retrieve_instance(*path_of(archive.lossless), media_types=("application/dicom",))
    assert got.file_meta.TransferSyntaxUID == ExplicitVRLittleEndian
    assert (got.pixel_array == archive.lossless.pixel_array).all()


def test_metadata_at_every_level_is_what_was_stored_without_its_bulk(archive: Archive) -> None:
    study_uid, series_uid, instance_uid = path_of(archive.chest[0])
    for rows, count in (
        (archive.client.retrieve_study_metadata(study_uid), 7),
        (archive.client.retrieve_series_metadata(study_uid, series_uid), 5),
        (archive.client.retrieve_instance_metadata(study_uid, series_uid, instance_uid), 1),
    ):
        assert len(metadata_rows(rows)) == count
        row = next(one for one in metadata_rows(rows) if one["00080018"]["Value"] == [instance_uid])
        assert row["7FE00010"].keys() == {"vr", "BulkDataURI"}
        del row["7FE00010"]
        expected = Dataset({element.tag: element for element in archive.chest[0] if element.keyword != "PixelData"})
        assert same(Dataset.from_json(row), expected)


def test_frames_come_in_the_order_asked_for(archive: Archive) -> None:
    pixels = archive.cine.pixel_array
    for got in (
        archive.client.retrieve_instance_frames(*path_of(archive.cine), [3, 1, 3]),
        list(archive.client.iter_instance_frames(*path_of(archive.cine), [3, 1, 3])),
        archive.client.retrieve_instance_frames(
            *path_of(archive.cine), [3, 1, 3], media_types=("application/octet-stream",)
        ),
    ):
        assert [np.frombuffer(frame, "<u2").reshape(40, 30).tolist() for frame in got] == [
            pixels[number - 1].tolist() for number in (3, 1, 3)
        ]


def test_compressed_frames_come_as_they_are_stored(archive: Archive) -> None:
    for media_types in (
        (("image/jp2", JPEG2000Lossless),),
        (("application/octet-stream", "*"),),
    ):
        got = archive.client.retrieve_instance_frames(*path_of(archive.lossless), [2], media_types=media_types)
        assert (imagecodecs.jpeg2k_decode(got[0]) == archive.lossless.pixel_array[1]).all()


def test_bulk_data_comes_from_the_address_that_the_metadata_gives(archive: Archive) -> None:
    for dataset, keyword in ((archive.document, "EncapsulatedDocument"), (archive.chest[0], "PixelData")):
        (row,) = metadata_rows(archive.client.retrieve_instance_metadata(*path_of(dataset)))
        uri = row[f"{tag_for_keyword(keyword):08X}"]["BulkDataURI"]
        value = dataset[keyword].value
        assert archive.client.retrieve_bulkdata(uri) == [value]
        assert list(archive.client.iter_bulkdata(uri)) == [value]
        assert archive.client.retrieve_bulkdata(uri, media_types=("application/octet-stream",)) == [value]
        part = archive.client.retrieve_bulkdata(uri, media_types=("application/octet-stream",), byte_range=(4, 99))
        assert part in ([value[4:100]], [value]), "the range, or all of it: servers may ignore Range"


@pytest.mark.parametrize(
    ("media_type", "syntax", "decode"),
    [
        ("image/jls", JPEGLSLossless, imagecodecs.jpegls_decode),
        ("image/jp2", JPEG2000Lossless, imagecodecs.jpeg2k_decode),
    ],
)
def test_native_frames_come_compressed_for_who_asks(
    archive: Archive, media_type: str, syntax: str, decode: Any
) -> None:
    got = archive.client.retrieve_instance_frames(*path_of(archive.cine), [4, 2], media_types=((media_type, syntax),))
    assert [decode(frame).tolist() for frame in got] == archive.cine.pixel_array[[3, 1]].tolist()


def test_a_series_comes_in_the_transfer_syntax_that_is_asked_for(archive: Archive) -> None:
    study_uid, series_uid, _ = path_of(archive.chest[0])
    asked = (("application/dicom", RLELossless),)
    for got in (
        archive.client.retrieve_series(study_uid, series_uid, media_types=asked),
        list(archive.client.iter_series(study_uid, series_uid, media_types=asked)),
    ):
        assert {one.file_meta.TransferSyntaxUID for one in got} == {RLELossless}
        for one, dataset in zip(got, archive.chest, strict=True):
            assert (one.pixel_array == dataset.pixel_array).all()


# -- rendered --------------------------------------------------------------------------------------------------


def image(data: bytes) -> np.ndarray[Any, Any]:
    return np.asarray(Image.open(io.BytesIO(data)))


@pytest.mark.parametrize(("media_type", "kind"), [("image/png", "PNG"), ("image/jpeg", "JPEG")])
def test_an_instance_is_rendered_with_its_window(archive: Archive, media_type: str, kind: str) -> None:
    data = archive.client.retrieve_instance_rendered(*path_of(archive.chest[4]), media_types=(media_type,))
    assert Image.open(io.BytesIO(data)).format == kind
    shown = image(data)
    assert shown.shape[:2] == (64, 48)
    # 40 HU of window 400 around 40 is the middle grey; -1000 HU is black.
    disc = archive.chest[4].pixel_array > 1000
    assert abs(int(np.median(shown[disc])) - 128) <= 4
    assert np.median(shown[~disc]) <= 2


def test_frames_and_series_are_rendered(archive: Archive) -> None:
    frame = archive.client.retrieve_instance_frames_rendered(
        *path_of(archive.lossless), [2], media_types=("image/png",)
    )
    assert image(frame).shape[:2] == (24, 32)
    study_uid, series_uid, _ = path_of(archive.colour)
    assert (image(archive.client.retrieve_series_rendered(study_uid, series_uid)) >= 0).all()
    colour = image(archive.client.retrieve_instance_rendered(*path_of(archive.colour), media_types=("image/png",)))
    assert (colour == archive.colour.pixel_array).all()


def test_a_viewport_and_a_window_shape_what_is_rendered(archive: Archive) -> None:
    data = archive.client.retrieve_instance_rendered(
        *path_of(archive.chest[-1]), media_types=("image/png",), params={"viewport": "24,32", "window": "40,1,linear"}
    )
    shown = image(data)
    assert max(shown.shape[:2]) <= 32
    assert set(np.unique(shown)) <= {0, *range(1, 256)}
    assert shown.max() >= 250, "the disc is above the window"


def test_a_multi_frame_image_moves(archive: Archive) -> None:
    gif = archive.client.retrieve_instance_rendered(*path_of(archive.cine), media_types=("image/gif",))
    assert Image.open(io.BytesIO(gif)).n_frames == 4  # type: ignore[attr-defined]
    video = archive.client.retrieve_instance_rendered(*path_of(archive.cine), media_types=("video/mp4",))
    assert video[4:8] == b"ftyp"
    assert b"av01" in video


def test_documents_are_rendered_as_what_they_are(archive: Archive) -> None:
    pdf = archive.client.retrieve_instance_rendered(*path_of(archive.document), media_types=("application/pdf",))
    assert pdf == archive.document.EncapsulatedDocument[: archive.document.EncapsulatedDocumentLength]
    for media_type in ("text/html", "text/plain"):
        text = archive.client.retrieve_instance_rendered(*path_of(archive.report), media_types=(media_type,))
        assert b"No finding." in text


def test_the_client_s_own_default_is_rendered_as_jpeg(archive: Archive) -> None:
    study_uid, series_uid, _ = path_of(archive.chest[0])
    for data in (
        archive.client.retrieve_series_rendered(study_uid, series_uid),
        archive.client.retrieve_instance_rendered(*path_of(archive.chest[0])),
        archive.client.retrieve_instance_frames_rendered(*path_of(archive.chest[0]), [1]),
    ):
        assert Image.open(io.BytesIO(data)).format == "JPEG"


# -- delete ----------------------------------------------------------------------------------------------------


@pytest.fixture
def spare(archive: Archive) -> Iterator[list[FileDataset]]:
    """A study of a third patient in two series, not stored yet, and gone again after the test."""
    one = ct_series(2, rows=16, columns=16, PatientID="RR-0003")
    other = ct_series(1, rows=16, columns=16, PatientID="RR-0003", study_uid=one[0].StudyInstanceUID)
    yield [*one, *other]
    if archive.client.search_for_studies(search_filters={"PatientID": "RR-0003"}):
        archive.client.delete_study(one[0].StudyInstanceUID)


def test_what_is_deleted_is_gone_level_by_level(archive: Archive, spare: list[FileDataset]) -> None:
    client = archive.client
    client.store_instances(spare)
    study_uid, series_uid, instance_uid = path_of(spare[0])

    def is_left() -> list[str]:
        rows = client.search_for_instances(search_filters={"StudyInstanceUID": study_uid})
        return sorted(names(rows, "00080018"))

    assert is_left() == sorted(one.SOPInstanceUID for one in spare)
    client.delete_instance(study_uid, series_uid, instance_uid)
    assert is_left() == sorted(one.SOPInstanceUID for one in spare[1:])
    client.delete_series(study_uid, series_uid)
    assert is_left() == [spare[2].SOPInstanceUID]
    client.delete_study(study_uid)
    assert is_left() == []
    for call in (
        lambda: client.retrieve_instance(study_uid, series_uid, instance_uid),
        lambda: client.retrieve_series_metadata(study_uid, series_uid),
        lambda: client.retrieve_study(study_uid),
        lambda: client.delete_study(study_uid),
    ):
        with pytest.raises(requests.HTTPError, match="410"):
            call()


# -- what is not there -----------------------------------------------------------------------------------------


def test_what_was_never_stored_is_not_found(archive: Archive) -> None:
    study_uid, series_uid, instance_uid = path_of(archive.chest[0])
    wrong_parent = path_of(archive.cine)[1]
    for call in (
        lambda: archive.client.retrieve_study_metadata(new_uid()),
        lambda: archive.client.retrieve_series(study_uid, new_uid()),
        lambda: archive.client.retrieve_instance(study_uid, wrong_parent, instance_uid),
        lambda: archive.client.retrieve_instance_frames(study_uid, series_uid, instance_uid, [2]),
        lambda: archive.client.retrieve_instance_rendered(*path_of(archive.report), media_types=("image/png",)),
    ):
        with pytest.raises(Exception, match=r"40[46]"):
            call()


def test_a_client_that_tries_again_gets_the_same_answer(archive: Archive) -> None:
    seen: list[int] = []
    client = DICOMwebClient(archive.client.base_url, callback=lambda answer, **_: seen.append(answer.status_code))
    client.set_http_retry_params(
        max_attempts=3, wait_exponential_multiplier=1, retriable_error_codes=(HTTPStatus.NOT_FOUND,)
    )
    with pytest.raises(Exception, match="404"):
        client.retrieve_study_metadata(new_uid())
    assert seen == [404, 404, 404]


@pytest.fixture(autouse=True)
def _client_warnings() -> Iterator[None]:
    """The client warns of what servers other than this do; here a warning is a fault."""
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message="message sent by origin server")
        yield
