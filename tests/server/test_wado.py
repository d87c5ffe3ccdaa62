"""Whole instances over HTTP: as stored, written anew, by study and series, and not at all (PS3.18 10.4.1.1.1)."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import httpx
import imagecodecs
import numpy as np
import pytest
from pydicom import FileDataset
from pydicom.dataset import Dataset
from pydicom.encaps import encapsulate
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    HTJ2KLossless,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGBaseline8Bit,
    JPEGLSLossless,
)

from tests import synthetic
from tests.multipart import parts_of
from tests.retrieve import (
    AS_STORED_PARTS,
    JSON,
    OCTETS,
    ROOT,
    compressed,
    in_syntax,
    jpeg_ls,
    keep,
    read,
    url_of,
)
from tests.stow import AS_STORED
from tests.synthetic import cine, ct_series, new_uid

# -- instances -----------------------------------------------------------------------------------------------------


@pytest.mark.rooms("sqlite", "postgres", "s3")
def test_an_instance_comes_back_as_it_was_sent_in_one_part(client: httpx.Client, chest_ct: list[FileDataset]) -> None:
    (file,) = keep(client, chest_ct[0])
    answer = client.get(url_of(chest_ct[0]), headers=AS_STORED)
    assert answer.status_code == 200
    assert answer.content == file
    assert answer.headers["content-type"] == f"application/dicom; transfer-syntax={ExplicitVRLittleEndian}"
    assert answer.headers["content-length"] == str(len(file))


def test_an_instance_comes_in_multipart_by_default(client: httpx.Client, chest_ct: list[FileDataset]) -> None:
    """PS3.18 Table 10.4.4-1, 8.6.1.2: quoted type, Content-Type and Content-Location in the part."""
    (file,) = keep(client, chest_ct[0])
    answer = client.get(url_of(chest_ct[0]))
    assert answer.headers["content-type"].startswith('multipart/related; type="application/dicom"; boundary=')
    ((headers, body),) = parts_of(answer)
    assert body == file
    assert headers["content-type"] == f"application/dicom; transfer-syntax={ExplicitVRLittleEndian}"
    assert client.get(headers["content-location"], headers=AS_STORED).content == file
    assert headers["content-location"].startswith(ROOT)


@pytest.mark.parametrize("syntax", [ImplicitVRLittleEndian, ExplicitVRBigEndian])
def test_implicit_vr_and_big_endian_leave_as_explicit_little_endian(client: httpx.Client, syntax: str) -> None:
    """PS3.18 8.7.3: they shall not be used with Web Services."""
    (original,) = ct_series(1)
    expected = original.pixel_array.copy()
    sequence = Dataset()
    sequence.ReferencedSOPInstanceUID, sequence.PixelSpacing = new_uid(), [1, 2]
    original.SourceImageSequence = [sequence, Dataset()]
    original.SmallestImagePixelValue = -3
    dataset = in_syntax(original, syntax)
    keep(client, dataset)
    for accept in (AS_STORED, {"Accept": "application/dicom"}):
        got = read(client.get(url_of(dataset), headers=accept).content)
        assert got.file_meta.TransferSyntaxUID == ExplicitVRLittleEndian
        assert np.array_equal(got.pixel_array, expected)
        assert got.SmallestImagePixelValue == -3
        for element in dataset:
            if element.keyword != "PixelData":
                assert got[element.tag] == element


def test_a_deflated_instance_is_inflated_unless_any_transfer_syntax_will_do(client: httpx.Client) -> None:
    """PS3.18 8.7.3.4."""
    (dataset,) = ct_series(1)
    pixels = dataset.pixel_array
    (file,) = keep(client, in_syntax(dataset, DeflatedExplicitVRLittleEndian))
    assert client.get(url_of(dataset), headers=AS_STORED).content == file
    got = read(client.get(url_of(dataset), headers={"Accept": "application/dicom"}).content)
    assert got.file_meta.TransferSyntaxUID == ExplicitVRLittleEndian
    assert np.array_equal(got.pixel_array, pixels)


@pytest.mark.parametrize(
    ("syntax", "encode"),
    [
        (JPEGLSLossless, jpeg_ls),
        (JPEG2000Lossless, lambda frame: imagecodecs.jpeg2k_encode(frame, level=0, codecformat="j2k", mct=False)),
        (HTJ2KLossless, lambda frame: imagecodecs.htj2k_encode(frame, reversible=True)),
    ],
)
def test_a_lossless_instance_is_decompressed_for_who_names_no_transfer_syntax(
    client: httpx.Client, syntax: str, encode: Callable[[Any], bytes]
) -> None:
    """PS3.18 8.7.3.4 note 2: every origin server is required to be able to."""
    dataset = cine(3, rows=24, columns=20)
    pixels = dataset.pixel_array * 300
    dataset.PixelData = pixels.tobytes()
    (file,) = keep(client, compressed(dataset, syntax, encode))
    assert client.get(url_of(dataset), headers=AS_STORED).content == file
    got = read(client.get(url_of(dataset), headers={"Accept": "application/dicom"}).content)
    assert got.file_meta.TransferSyntaxUID == ExplicitVRLittleEndian
    assert np.array_equal(got.pixel_array, pixels)
    assert got.file_meta.MediaStorageSOPInstanceUID == dataset.SOPInstanceUID


def test_decompressed_colours_say_what_they_are(client: httpx.Client) -> None:
    """PS3.5 8.2.4: YBR_RCT is undone by the codec."""
    dataset = synthetic.secondary_capture()
    pixels = dataset.pixel_array
    dataset = compressed(
        dataset, JPEG2000Lossless, lambda frame: imagecodecs.jpeg2k_encode(frame, level=0, codecformat="j2k", mct=True)
    )
    dataset.PhotometricInterpretation = "YBR_RCT"
    keep(client, dataset)
    got = read(client.get(url_of(dataset), headers={"Accept": "application/dicom"}).content)
    assert (got.PhotometricInterpretation, got.PlanarConfiguration) == ("RGB", 0)
    assert np.array_equal(got.pixel_array, pixels)


def test_one_bit_frames_are_packed_again_where_the_last_one_ended(client: httpx.Client) -> None:
    """PS3.5 8.1.1: frames of one bit do not begin on a byte."""
    dataset = cine(3, rows=5, columns=7)
    bits = np.random.default_rng(1).integers(0, 2, (3, 5, 7), np.uint8)
    dataset.PixelData = bits.tobytes() + b"\0"
    dataset.BitsAllocated = dataset.BitsStored = 8
    dataset.HighBit = 7
    dataset = compressed(dataset, JPEGLSLossless, jpeg_ls)
    dataset.BitsAllocated = dataset.BitsStored = 1
    dataset.HighBit = 0
    keep(client, dataset)
    got = read(client.get(url_of(dataset), headers={"Accept": "application/dicom"}).content)
    assert np.array_equal(got.pixel_array, bits)


def test_lossy_pixels_are_sent_as_they_are_to_who_names_no_transfer_syntax(client: httpx.Client) -> None:
    """PS3.18 8.7.3.4 note 2."""
    dataset = compressed(synthetic.secondary_capture(), JPEGBaseline8Bit, imagecodecs.jpeg8_encode)
    dataset.PhotometricInterpretation = "YBR_FULL_422"
    (file,) = keep(client, dataset)
    answer = client.get(url_of(dataset), headers={"Accept": "application/dicom"})
    assert answer.content == file
    assert answer.headers["content-type"] == f"application/dicom; transfer-syntax={JPEGBaseline8Bit}"


def test_an_icon_that_is_compressed_too_keeps_an_instance_from_being_decompressed(client: httpx.Client) -> None:
    dataset = compressed(cine(1), JPEGLSLossless, jpeg_ls)
    icon = Dataset()
    icon.Rows = icon.Columns = 1
    icon.PixelData = encapsulate([b"\xff\xd8\xff\xd9"])
    icon["PixelData"].VR = "OB"
    icon["PixelData"].is_undefined_length = True
    dataset.IconImageSequence = [icon]
    (file,) = keep(client, dataset)
    refused = client.get(url_of(dataset), headers={"Accept": "application/dicom"})
    assert refused.status_code == 406
    assert "transfer-syntax=*" in refused.text
    assert client.get(url_of(dataset), headers=AS_STORED).content == file


@pytest.mark.parametrize(
    ("accept", "status"),
    [
        ("application/dicom; transfer-syntax=1.2.840.10008.1.2.4.57", 406),
        ("application/dicom; transfer-syntax=1.2.840.10008.1.2.4.50", 406),
        ("application/dicom; transfer-syntax=1.2.840.10008.1.2", 406),
        ('multipart/related; type="application/dicom+xml"', 406),
        ("application/zip; transfer-syntax=1.2.840.10008.1.2", 406),
        ("text/html", 406),
        ("text/html, */*;q=0.1", 200),
    ],
)
def test_what_cannot_be_sent_is_not_acceptable(
    client: httpx.Client, chest_ct: list[FileDataset], accept: str, status: int
) -> None:
    """PS3.18 8.7.8.1: 406, with what there is; never a wrong answer."""
    keep(client, chest_ct[0])
    answer = client.get(url_of(chest_ct[0]), headers={"Accept": accept})
    assert answer.status_code == status
    assert status == 200 or "there is: multipart/related" in answer.text


# -- studies and series --------------------------------------------------------------------------------------------


@pytest.mark.rooms("sqlite", "postgres", "s3")
@pytest.mark.parametrize("level", ["study", "series"])
def test_all_instances_come_in_one_message(client: httpx.Client, chest_ct: list[FileDataset], level: str) -> None:
    files = keep(client, *reversed(chest_ct))
    answer = client.get(url_of(chest_ct[0], level=level), headers=AS_STORED_PARTS)
    assert answer.status_code == 200
    parts = parts_of(answer)
    assert [body for _, body in parts] == files[::-1], "by instance number"
    assert [headers["content-location"] for headers, _ in parts] == [
        f"http://127.0.0.1:8780{url_of(dataset)}" for dataset in chest_ct
    ]
    assert int(answer.headers["content-length"]) == len(answer.content)


@pytest.mark.parametrize("level", ["study", "series"])
@pytest.mark.parametrize("accept", ["application/dicom", "application/dicom; transfer-syntax=*", "image/jpeg"])
def test_a_study_or_series_never_comes_in_one_part(
    client: httpx.Client, chest_ct: list[FileDataset], level: str, accept: str
) -> None:
    """PS3.18 Table 10.4.4-1: 406, even if there is one instance."""
    keep(client, chest_ct[0])
    assert client.get(url_of(chest_ct[0], level=level), headers={"Accept": accept}).status_code == 406


def test_the_transfer_syntax_is_agreed_for_each_instance(client: httpx.Client) -> None:
    """PS3.18 8.7.8.1: determined independently for each message part."""
    native, other = ct_series(2)
    lossless = compressed(other, JPEGLSLossless, jpeg_ls)
    files = keep(client, native, lossless)
    parts = parts_of(client.get(url_of(native, level="study"), headers=AS_STORED_PARTS))
    assert [body for _, body in parts] == files
    assert [headers["content-type"].rpartition("=")[2] for headers, _ in parts] == [
        ExplicitVRLittleEndian,
        JPEGLSLossless,
    ]
    parts = parts_of(client.get(url_of(native, level="study")))
    assert {headers["content-type"].rpartition("=")[2] for headers, _ in parts} == {ExplicitVRLittleEndian}


def test_a_partial_answer_says_that_it_is_one(client: httpx.Client) -> None:
    """PS3.18 10.4.3: 206 with a Warning where some of the instances cannot be sent."""
    (other,) = ct_series(1)
    lossless = compressed(other, JPEGLSLossless, jpeg_ls)
    native = synthetic.text_report(StudyInstanceUID=other.StudyInstanceUID, SeriesInstanceUID=other.SeriesInstanceUID)
    files = keep(client, native, lossless)
    accept = f'multipart/related; type="application/dicom"; transfer-syntax={JPEGLSLossless}'
    answer = client.get(url_of(native, level="series"), headers={"Accept": accept})
    assert answer.status_code == 206
    assert "1 of 2 instances" in answer.headers["warning"]
    assert [body for _, body in parts_of(answer)] == files[1:]
    accept = f'multipart/related; type="application/dicom"; transfer-syntax={JPEGBaseline8Bit}'
    assert client.get(url_of(native, level="series"), headers={"Accept": accept}).status_code == 406


def test_a_large_study_is_streamed(client: httpx.Client) -> None:
    """More than one piece of a mebibyte for each instance."""
    series = ct_series(3, rows=900, columns=700)
    files = keep(client, *series)
    parts = parts_of(client.get(url_of(series[0], level="study"), headers=AS_STORED_PARTS))
    assert [body for _, body in parts] == files


# -- not here ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("tail", ["", "/metadata", "/frames/1", "/bulkdata/7FE00010", "/bulkdata"])
def test_an_instance_is_only_found_under_its_own_study_and_series(client: httpx.Client, tail: str) -> None:
    """PS3.18 10.4.3.1: 404 for a child under the wrong parent."""
    (first,), (second,) = ct_series(1), ct_series(1)
    keep(client, first, second)
    assert client.get(url_of(first) + tail).status_code == 200
    for study, series, instance in itertools.product((first, second), repeat=3):
        if study is series is instance:
            continue
        url = (
            f"/dicomweb/studies/{study.StudyInstanceUID}/series/{series.SeriesInstanceUID}"
            f"/instances/{instance.SOPInstanceUID}{tail}"
        )
        assert client.get(url).status_code == 404


@pytest.mark.parametrize("uid", ["1.2.3", "' OR 1=1 --", "%00", "%2e%2e%2f", "x" * 5000])
def test_what_is_no_uid_is_not_found(client: httpx.Client, chest_ct: list[FileDataset], uid: str) -> None:
    keep(client, chest_ct[0])
    for url in (
        f"/dicomweb/studies/{uid}",
        f"{url_of(chest_ct[0], level='study')}/series/{uid}/metadata",
        f"{url_of(chest_ct[0], level='series')}/instances/{uid}/frames/1",
    ):
        assert client.get(url).status_code == (400 if uid == "%00" else 404)


def test_a_facility_sees_its_own_alone(client: httpx.Client, chest_ct: list[FileDataset]) -> None:
    """/dicomweb/f/{facility} is the same API narrowed, and its own URLs stay below it."""
    (file,) = keep(client, chest_ct[0])
    path = url_of(chest_ct[0]).removeprefix("/dicomweb")
    assert client.get(f"/dicomweb/f/elsewhere{path}", headers=AS_STORED).status_code == 404
    assert client.get(f"/dicomweb/f/local{path}", headers=AS_STORED).content == file
    ((headers, _),) = parts_of(client.get(f"/dicomweb/f/local{path}/frames/1"))
    assert headers["content-location"] == f"{ROOT}/f/local{path}/frames/1"
    assert client.get(f"/dicomweb/f/local{path}/bulkdata").status_code == 200
    (found,) = client.get(f"/dicomweb/f/local{path}/metadata", headers=JSON).json()
    assert found["7FE00010"]["BulkDataURI"].startswith(f"{ROOT}/f/local/studies/")


# -- earlier versions ----------------------------------------------------------------------------------------------


def test_an_earlier_version_stays_retrievable(client: httpx.Client) -> None:
    (dataset,) = ct_series(1)
    (old,) = keep(client, dataset)
    old_pixels = dataset.PixelData
    dataset.PixelData = bytes(len(dataset.PixelData))
    dataset.PatientComments = "second"
    (new,) = keep(client, dataset)
    url = url_of(dataset)
    assert client.get(url, headers=AS_STORED).content == new
    assert client.get(f"{url}?version=2", headers=AS_STORED).content == new
    assert client.get(f"{url}?version=1", headers=AS_STORED).content == old
    assert client.get(f"{url}/frames/1?version=1", headers=OCTETS).content == old_pixels
    (metadata,) = client.get(f"{url}/metadata?version=1", headers=JSON).json()
    assert "00104000" not in metadata
    assert client.get(metadata["7FE00010"]["BulkDataURI"], headers=OCTETS).content == old_pixels
    ((headers, body),) = parts_of(client.get(f"{url}?version=1", headers=AS_STORED_PARTS))
    assert client.get(headers["content-location"], headers=AS_STORED).content == body == old
    assert client.get(f"{url}?version=3", headers=AS_STORED).status_code == 404
    assert client.get(f"{url}?version=x", headers=AS_STORED).status_code == 400
