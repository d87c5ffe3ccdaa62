"""A study arrives, is found, is read: the whole way, by a client that somebody else wrote (PyPI dicomweb-client)."""

from __future__ import annotations

import io
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import imagecodecs
import numpy as np
import pydicom
import pytest
from dicomweb_client.api import DICOMwebClient
from PIL import Image
from pydicom import FileDataset
from pydicom.dataset import Dataset
from pydicom.encaps import encapsulate
from pydicom.uid import ExplicitVRLittleEndian, JPEG2000Lossless

from tests import synthetic
from tests.servers import Live
from tests.synthetic import ct_series, new_uid, part10

AS_STORED = (("application/dicom", "*"),)


@dataclass(frozen=True, slots=True, kw_only=True)
class Archive:
    """A client of a live server, and the studies that it has stored there."""

    client: DICOMwebClient
    chest: list[FileDataset]
    cine: FileDataset
    lossless: FileDataset
    colour: FileDataset
    report: FileDataset
    document: FileDataset

    @property
    def everything(self) -> list[FileDataset]:
        return [*self.chest, self.cine, self.lossless, self.colour, self.report, self.document]


def lossless_cine(study_uid: str) -> FileDataset:
    """Three frames in JPEG 2000 Lossless."""
    dataset = synthetic.cine(3, rows=24, columns=32, StudyInstanceUID=study_uid, SeriesNumber=3)
    frames = [dataset.pixel_array[index] * 1000 for index in range(3)]
    dataset.file_meta.TransferSyntaxUID = JPEG2000Lossless
    dataset.PixelData = encapsulate(
        [bytes(imagecodecs.jpeg2k_encode(frame, level=0, codecformat="j2k")) for frame in frames]
    )
    dataset["PixelData"].VR = "OB"
    dataset["PixelData"].is_undefined_length = True
    return dataset


@pytest.fixture(scope="module")
def archive(live: Live) -> Archive:
    """Two studies: a chest CT with a report and a document, and another patient's odds and ends."""
    chest = ct_series(5, rows=64, columns=48)
    of_chest: dict[str, Any] = {"StudyInstanceUID": chest[0].StudyInstanceUID}
    other: dict[str, Any] = {
        "StudyInstanceUID": new_uid(),
        "PatientName": "Müller^Jörg",
        "PatientID": "RR-0002",
        "StudyDate": "20251224",
        "AccessionNumber": "B200",
        "SpecificCharacterSet": "ISO_IR 192",
    }
    found = Archive(
        client=DICOMwebClient(f"{live.dicomweb}"),
        chest=chest,
        cine=synthetic.cine(4, rows=40, columns=30, SeriesNumber=2, **other),
        lossless=lossless_cine(other["StudyInstanceUID"]),
        colour=synthetic.secondary_capture(SeriesNumber=4, **other),
        report=synthetic.text_report(SeriesNumber=5, **of_chest),
        document=synthetic.pdf_document(b"%PDF-1.4 " + bytes(3_000_000), SeriesNumber=6, **of_chest),
    )
    for keyword in ("PatientName", "PatientID", "StudyDate", "AccessionNumber", "SpecificCharacterSet"):
        setattr(found.lossless, keyword, other[keyword])
    answer = found.client.store_instances(found.everything)
    assert len(answer.ReferencedSOPSequence) == len(found.everything)
    assert "FailedSOPSequence" not in answer
    return found


def names(rows: list[dict[str, Any]], tag: str) -> list[Any]:
    return [row[tag]["Value"][0] for row in rows]


def metadata_rows(found: Any) -> list[dict[str, Any]]:
    """The client gives a list, or of one instance the data set alone."""
    return found if isinstance(found, list) else [found]


def path_of(dataset: Dataset) -> tuple[str, str, str]:
    return dataset.StudyInstanceUID, dataset.SeriesInstanceUID, dataset.SOPInstanceUID


def same(one: Dataset, other: Dataset) -> bool:
    """Whether two data sets have equal elements, whatever files they come from."""
    return [element for element in one if element.tag.group != 2] == [
        element for element in other if element.tag.group != 2
    ]


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


def test_a_fuzzy_search_finds_or_says_that_it_did_not_try(archive: Archive) -> None:
    rows = archive.client.search_for_studies(fuzzymatching=True, search_filters={"PatientName": "Phantom"})
    assert names(rows, "00100020") in ([], ["RR-0001"])


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
        uri = row[f"{pydicom.datadict.tag_for_keyword(keyword):08X}"]["BulkDataURI"]
        value = dataset[keyword].value
        assert archive.client.retrieve_bulkdata(uri) == [value]
        assert list(archive.client.iter_bulkdata(uri)) == [value]
        assert archive.client.retrieve_bulkdata(uri, media_types=("application/octet-stream",)) == [value]
        part = archive.client.retrieve_bulkdata(uri, media_types=("application/octet-stream",), byte_range=(4, 99))
        assert part in ([value[4:100]], [value]), "the range, or all of it: servers may ignore Range"


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


@pytest.fixture(autouse=True)
def _client_warnings() -> Iterator[None]:
    """The client warns of what servers other than this do; here a warning is a fault."""
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message="message sent by origin server")
        yield
