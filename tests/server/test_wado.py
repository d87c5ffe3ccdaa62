"""WADO-RS over HTTP: instances, frames, metadata and bulk data, and the HTTP around them (PS3.18 10.4)."""

from __future__ import annotations

import gzip
import io
import itertools
from collections.abc import Callable
from typing import Any

import httpx
import imagecodecs
import numpy as np
import pydicom
import pytest
from pydicom import FileDataset
from pydicom.dataset import Dataset
from pydicom.encaps import encapsulate
from pydicom.uid import (
    MPEG4HP41,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    HTJ2KLossless,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGBaseline8Bit,
    JPEGLSLossless,
    RLELossless,
)

from server.dicomweb import metadata as metadata_view
from server.room import Room
from storage.catalog import schema as t
from tests import synthetic
from tests.multipart import parts_of
from tests.stow import AS_STORED, store
from tests.synthetic import cine, ct_series, new_uid, part10

ROOT = "http://127.0.0.1:8780/dicomweb"
AS_STORED_PARTS = {"Accept": 'multipart/related; type="application/dicom"; transfer-syntax=*'}
OHIF_FRAMES = {"Accept": "multipart/related; type=application/octet-stream; transfer-syntax=*"}
NATIVE_FRAMES = {"Accept": "multipart/related; type=application/octet-stream"}
OCTETS = {"Accept": "application/octet-stream"}
JSON = {"Accept": "application/dicom+json"}


def url_of(dataset: Dataset, *, level: str = "instance") -> str:
    url = f"/dicomweb/studies/{dataset.StudyInstanceUID}"
    if level != "study":
        url += f"/series/{dataset.SeriesInstanceUID}"
    return url if level != "instance" else f"{url}/instances/{dataset.SOPInstanceUID}"


def keep(client: httpx.Client, *datasets: FileDataset) -> list[bytes]:
    """Store the data sets; gives their files."""
    files = [part10(dataset) for dataset in datasets]
    answer = store(client, *files)
    assert answer.status in (200, 202), answer.body
    return files


def read(content: bytes) -> FileDataset:
    return pydicom.dcmread(io.BytesIO(content))


def in_syntax(dataset: FileDataset, syntax: str) -> FileDataset:
    """The same data set in another native transfer syntax."""
    dataset.file_meta.TransferSyntaxUID = syntax
    if syntax == ExplicitVRBigEndian:
        swapped = np.frombuffer(dataset.PixelData, "<u2").byteswap()
        dataset.PixelData = swapped.tobytes()
    implicit = syntax == ImplicitVRLittleEndian
    target = io.BytesIO()
    pydicom.dcmwrite(
        target,
        dataset,
        implicit_vr=implicit,
        little_endian=syntax != ExplicitVRBigEndian,
        force_encoding=True,
    )
    return read(target.getvalue())


def compressed(dataset: FileDataset, syntax: str, encode: Callable[[Any], bytes]) -> FileDataset:
    """A native data set with its frames encoded."""
    pixels = dataset.pixel_array
    frames = list(pixels) if (dataset.get("NumberOfFrames") or 1) > 1 else [pixels]
    dataset.file_meta.TransferSyntaxUID = syntax
    dataset.PixelData = encapsulate([bytes(encode(frame)) for frame in frames])
    dataset["PixelData"].VR = "OB"
    dataset["PixelData"].is_undefined_length = True
    return dataset


def jpeg_ls(frame: np.ndarray) -> bytes:
    return bytes(imagecodecs.jpegls_encode(frame.view("u1" if frame.dtype.itemsize == 1 else "<u2")))


# -- instances -------------------------------------------------------------------------------------------------


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
        ("application/dicom; transfer-syntax=1.2.840.10008.1.2.4.90", 406),
        ("application/dicom; transfer-syntax=1.2.840.10008.1.2", 406),
        ('multipart/related; type="application/dicom+xml"', 406),
        ("application/zip", 406),
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


# -- studies and series ----------------------------------------------------------------------------------------


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
    native, other = ct_series(2)
    lossless = compressed(other, JPEGLSLossless, jpeg_ls)
    files = keep(client, native, lossless)
    accept = f'multipart/related; type="application/dicom"; transfer-syntax={JPEGLSLossless}'
    answer = client.get(url_of(native, level="series"), headers={"Accept": accept})
    assert answer.status_code == 206
    assert "1 of 2 instances" in answer.headers["warning"]
    assert [body for _, body in parts_of(answer)] == files[1:]
    accept = f'multipart/related; type="application/dicom"; transfer-syntax={HTJ2KLossless}'
    assert client.get(url_of(native, level="series"), headers={"Accept": accept}).status_code == 406


def test_a_large_study_is_streamed(client: httpx.Client) -> None:
    """More than one piece of a mebibyte for each instance."""
    series = ct_series(3, rows=900, columns=700)
    files = keep(client, *series)
    parts = parts_of(client.get(url_of(series[0], level="study"), headers=AS_STORED_PARTS))
    assert [body for _, body in parts] == files


# -- not here --------------------------------------------------------------------------------------------------


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
        assert client.get(url).status_code == 404


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


# -- frames ----------------------------------------------------------------------------------------------------


@pytest.mark.rooms("sqlite", "postgres", "s3")
def test_frames_come_in_the_order_asked_for_as_often_as_asked_for(client: httpx.Client) -> None:
    """PS3.18 10.4.1.1.6."""
    dataset = cine(4)
    keep(client, dataset)
    answer = client.get(f"{url_of(dataset)}/frames/4,1,3,1", headers=OHIF_FRAMES)
    assert answer.headers["content-type"].startswith('multipart/related; type="application/octet-stream"; boundary=')
    parts = parts_of(answer)
    assert [np.frombuffer(body, "<u2").tolist() for _, body in parts] == [[n] * 80 for n in (4, 1, 3, 1)]
    assert [headers["content-location"].rpartition("/")[2] for headers, _ in parts] == ["4", "1", "3", "1"]
    native = f"application/octet-stream; transfer-syntax={ExplicitVRLittleEndian}"
    assert {headers["content-type"] for headers, _ in parts} == {native}
    assert [body for _, body in parts_of(client.get(f"{url_of(dataset)}/frames/2%2C1"))] == [
        np.full(80, n, "<u2").tobytes() for n in (2, 1)
    ]


@pytest.mark.parametrize(
    ("frames", "status"),
    [
        ("0", 400),
        ("-1", 400),
        ("+1", 400),
        ("1.0", 400),
        ("x", 400),
        ("1,", 400),
        (",1", 400),
        ("1;2", 400),
        ("\u0661", 400),
        ("1" * 5000, 400),
        ("1,2,0", 400),
        ("5", 404),
        ("1,5", 404),
        ("999999999", 404),
    ],
)
def test_a_frame_that_is_none_is_refused(client: httpx.Client, frames: str, status: int) -> None:
    """PS3.18 10.4.3.1: 400 for what is no frame number, 404 for one past the last."""
    dataset = cine(4)
    keep(client, dataset)
    assert client.get(f"{url_of(dataset)}/frames/{frames}", headers=OHIF_FRAMES).status_code == status


def test_what_has_no_pixels_has_no_frames(client: httpx.Client) -> None:
    dataset = synthetic.text_report()
    keep(client, dataset)
    answer = client.get(f"{url_of(dataset)}/frames/1", headers=OHIF_FRAMES)
    assert answer.status_code == 404
    assert "no frames" in answer.text


def test_one_frame_may_come_in_one_part_and_several_may_not(client: httpx.Client) -> None:
    """PS3.18 Table 10.4.4-1: single part is for single response items."""
    dataset = cine(4)
    keep(client, dataset)
    answer = client.get(f"{url_of(dataset)}/frames/2", headers=OCTETS)
    assert answer.content == np.full(80, 2, "<u2").tobytes()
    assert answer.headers["content-type"] == f"application/octet-stream; transfer-syntax={ExplicitVRLittleEndian}"
    assert client.get(f"{url_of(dataset)}/frames/2,3", headers=OCTETS).status_code == 406


def test_compressed_frames_come_as_stored_or_decompressed(client: httpx.Client) -> None:
    """PS3.18 8.7.3.3, 8.7.3.5.2: the part names the media type and the transfer syntax."""
    dataset = cine(3, rows=24, columns=20)
    pixels = dataset.pixel_array
    bitstreams = [jpeg_ls(frame) for frame in pixels]
    keep(client, compressed(dataset, JPEGLSLossless, jpeg_ls))
    answer = client.get(f"{url_of(dataset)}/frames/3,1", headers=OHIF_FRAMES)
    assert answer.headers["content-type"].startswith('multipart/related; type="image/jls"')
    parts = parts_of(answer)
    assert [body.rstrip(b"\0") for _, body in parts] == [bitstreams[2].rstrip(b"\0"), bitstreams[0].rstrip(b"\0")]
    assert {headers["content-type"] for headers, _ in parts} == {f"image/jls; transfer-syntax={JPEGLSLossless}"}
    for headers in (NATIVE_FRAMES, {"Accept": 'multipart/related; type="*/*"'}):
        answer = client.get(f"{url_of(dataset)}/frames/3,1", headers=headers)
        assert [body for _, body in parts_of(answer)] == [pixels[2].tobytes(), pixels[0].tobytes()]
    alone = client.get(f"{url_of(dataset)}/frames/1", headers={"Accept": "image/jls"})
    assert alone.content.rstrip(b"\0") == bitstreams[0].rstrip(b"\0")


def test_a_frame_that_cannot_be_decompressed_is_sent_as_it_is_or_refused(client: httpx.Client) -> None:
    """Any frame at all is what a bare wildcard accepts; native pixels are not what a broken bitstream gives."""
    dataset = synthetic.encapsulated([b"no codestream at all"])
    keep(client, dataset)
    refused = client.get(f"{url_of(dataset)}/frames/1", headers=NATIVE_FRAMES)
    assert refused.status_code == 406
    assert "ask for transfer-syntax=*" in refused.text
    ((headers, body),) = parts_of(client.get(f"{url_of(dataset)}/frames/1"))
    assert body == b"no codestream at all"
    assert headers["content-type"] == f"image/jp2; transfer-syntax={JPEG2000Lossless}"


@pytest.mark.rooms("sqlite", "s3")
@pytest.mark.parametrize("is_extended", [False, True])
def test_frames_of_any_length_are_found_by_the_shard_index(client: httpx.Client, is_extended: bool) -> None:
    """PS3.5 A.4, PS3.3 C.7.6.3.1.8: basic and extended offset tables alike."""
    frames = [bytes([n]) * (2 * n + 2) for n in range(1, 30)]
    dataset = synthetic.encapsulated(frames, is_extended=is_extended)
    keep(client, dataset)
    answer = client.get(f"{url_of(dataset)}/frames/{','.join(map(str, range(29, 0, -1)))}", headers=OHIF_FRAMES)
    assert [body for _, body in parts_of(answer)] == frames[::-1]


def test_a_frame_in_several_fragments_comes_without_their_headers(client: httpx.Client) -> None:
    """PS3.18 8.7.3.3.2: only the compressed octet stream without the fragment delimiters."""
    frames = [bytes(range(n, n + 60)) for n in (1, 2, 3)]
    dataset = synthetic.encapsulated(frames, fragments_per_frame=4)
    keep(client, dataset)
    answer = client.get(f"{url_of(dataset)}/frames/2,3", headers=OHIF_FRAMES)
    assert [body.rstrip(b"\0") for _, body in parts_of(answer)] == frames[1:]


@pytest.mark.parametrize("syntax", [ImplicitVRLittleEndian, ExplicitVRBigEndian, DeflatedExplicitVRLittleEndian])
def test_native_frames_are_little_endian_whatever_is_stored(client: httpx.Client, syntax: str) -> None:
    """PS3.18 8.7.3.3.1."""
    dataset = cine(4)
    keep(client, in_syntax(dataset, syntax))
    for headers in (OHIF_FRAMES, NATIVE_FRAMES):
        parts = parts_of(client.get(f"{url_of(dataset)}/frames/3,1", headers=headers))
        assert [body for _, body in parts] == [np.full(80, n, "<u2").tobytes() for n in (3, 1)]


def test_one_bit_frames_begin_on_a_byte_of_their_own(client: httpx.Client) -> None:
    bits = np.random.default_rng(2).integers(0, 2, (3, 5, 7), np.uint8)
    dataset = cine(3, rows=5, columns=7)
    dataset.BitsAllocated = dataset.BitsStored = 1
    dataset.HighBit = 0
    packed = np.packbits(bits.ravel(), bitorder="little").tobytes()
    dataset.PixelData = packed + b"\0" * (len(packed) % 2)
    dataset["PixelData"].VR = "OB"
    keep(client, dataset)
    parts = parts_of(client.get(f"{url_of(dataset)}/frames/2,3", headers=OHIF_FRAMES))
    for frame, (_, body) in zip(bits[1:], parts, strict=True):
        assert body == np.packbits(frame.ravel(), bitorder="little").tobytes()


def test_frames_by_plane_stay_so_when_they_are_decompressed(client: httpx.Client) -> None:
    """The metadata says Planar Configuration 1, and who asks for native frames reads them by it."""
    dataset = synthetic.secondary_capture()
    pixels = dataset.pixel_array
    dataset.compress(RLELossless, generate_instance_uid=False)
    dataset.PlanarConfiguration = 1
    keep(client, dataset)
    answer = client.get(f"{url_of(dataset)}/frames/1", headers=OCTETS)
    assert answer.content == np.moveaxis(pixels, -1, 0).tobytes()


def test_frames_nobody_can_tell_apart_are_not_acceptable(client: httpx.Client) -> None:
    dataset = synthetic.encapsulated([b"a" * 10, b"b" * 10], fragments_per_frame=5, has_offsets=False)
    (file,) = keep(client, dataset)
    answer = client.get(f"{url_of(dataset)}/frames/1", headers=OHIF_FRAMES)
    assert answer.status_code == 406
    assert "cannot be told apart" in answer.text
    assert client.get(url_of(dataset), headers=AS_STORED).content == file


@pytest.mark.rooms("sqlite", "postgres")
def test_what_was_remembered_of_a_frame_is_forgotten_when_the_catalog_changes(client: httpx.Client) -> None:
    """Another worker may have stored other bytes under the UID."""
    series = ct_series(3)
    keep(client, *series)
    for dataset in series:
        client.get(f"{url_of(dataset)}/frames/1", headers=OCTETS)
    first = series[0]
    first.PixelData = bytes(len(first.PixelData))
    keep(client, first)
    assert client.get(f"{url_of(first)}/frames/1", headers=OCTETS).content == first.PixelData
    changed = client.get(f"{url_of(series[1])}/frames/1", headers=OCTETS)
    assert changed.content == series[1].PixelData


# -- earlier versions ------------------------------------------------------------------------------------------


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


# -- metadata --------------------------------------------------------------------------------------------------


@pytest.mark.rooms("sqlite", "postgres")
@pytest.mark.parametrize("level", ["study", "series", "instance"])
def test_metadata_is_the_data_set_in_json(client: httpx.Client, chest_ct: list[FileDataset], level: str) -> None:
    """PS3.18 10.4.1.1.2, F.2.1: one top-level array; pixel data by URI."""
    keep(client, *reversed(chest_ct))
    answer = client.get(f"{url_of(chest_ct[0], level=level)}/metadata")
    assert answer.status_code == 200
    assert answer.headers["content-type"] == "application/dicom+json"
    found = answer.json()
    expected = chest_ct[:1] if level == "instance" else chest_ct
    assert [one["00080018"]["Value"][0] for one in found] == [dataset.SOPInstanceUID for dataset in expected]
    for one, dataset in zip(found, expected, strict=True):
        assert one.pop("7FE00010") == {
            "vr": "OW",
            "BulkDataURI": f"http://127.0.0.1:8780{url_of(dataset)}/bulkdata/7FE00010",
        }
        del dataset.PixelData
        assert one == dataset.to_json_dict()


@pytest.mark.parametrize(
    ("accept", "status", "media_type"),
    [
        ("application/dicom+json", 200, "application/dicom+json"),
        ("application/json", 200, "application/json"),
        ("application/json, application/dicom+json", 200, "application/json"),
        ("application/dicom+json; transfer-syntax=1.2.840.10008.1.2.1", 200, "application/dicom+json"),
        ("*/*", 200, "application/dicom+json"),
        ('multipart/related; type="application/dicom+xml", */*;q=0.1', 200, "application/dicom+json"),
        ('multipart/related; type="application/dicom+xml"', 406, ""),
        ("application/dicom", 406, ""),
    ],
)
def test_metadata_is_json_for_now(
    client: httpx.Client, chest_ct: list[FileDataset], accept: str, status: int, media_type: str
) -> None:
    """PS3.18 Table 10.4.4-1; XML comes later and is not acceptable until then."""
    keep(client, chest_ct[0])
    for level in ("study", "series", "instance"):
        answer = client.get(f"{url_of(chest_ct[0], level=level)}/metadata", headers={"Accept": accept})
        assert answer.status_code == status
        assert status != 200 or answer.headers["content-type"] == media_type


@pytest.mark.parametrize("level", ["study", "series", "instance"])
@pytest.mark.parametrize(
    ("coding", "is_gzip"),
    [
        ("gzip", True),
        ("deflate, gzip;q=0.5, br", True),
        ("*", True),
        ("GZIP; q=1.0", True),
        ("identity", False),
        ("gzip;q=0, *", False),
        ("gzip; q=0.000", False),
        ("", False),
    ],
)
def test_metadata_is_compressed_for_who_takes_it(
    client: httpx.Client, chest_ct: list[FileDataset], level: str, coding: str, is_gzip: bool
) -> None:
    """RFC 9110 12.5.3."""
    keep(client, *chest_ct)
    url = f"{url_of(chest_ct[0], level=level)}/metadata"
    plain = client.get(url, headers={"Accept-Encoding": "identity"})
    with client.stream("GET", url, headers={"Accept-Encoding": coding}) as answer:
        raw = b"".join(answer.iter_raw())
    assert ("content-encoding" in answer.headers) == is_gzip
    assert (gzip.decompress(raw) if is_gzip else raw) == plain.content
    assert int(answer.headers["content-length"]) == len(raw)
    assert "Accept-Encoding" in answer.headers["vary"]


def test_metadata_of_a_series_is_kept_until_the_series_changes(
    client: httpx.Client, chest_ct: list[FileDataset]
) -> None:
    *first, last = chest_ct
    keep(client, *first)
    url = f"{url_of(last, level='series')}/metadata"
    before = client.get(url)
    assert client.get(url).content == before.content
    assert client.get(url, headers={"If-None-Match": before.headers["etag"]}).status_code == 304
    keep(client, last)
    after = client.get(url, headers={"If-None-Match": before.headers["etag"]})
    assert after.status_code == 200
    assert len(after.json()) == len(chest_ct)
    assert after.headers["etag"] != before.headers["etag"]


def test_metadata_names_the_host_that_was_asked(client: httpx.Client, chest_ct: list[FileDataset]) -> None:
    """What is kept ready for one root is not sent for another."""
    keep(client, *chest_ct)
    url = f"{url_of(chest_ct[0], level='series')}/metadata"
    for host in ("127.0.0.1:8780", "localhost:8780", "127.0.0.1:8780"):
        found = client.get(url, headers={"Host": host}).json()
        assert {one["7FE00010"]["BulkDataURI"].split("/dicomweb")[0] for one in found} == {f"http://{host}"}


def test_metadata_of_a_huge_series_is_inflated_as_it_is_sent(
    client: httpx.Client, chest_ct: list[FileDataset], monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is held compressed alone."""
    keep(client, *chest_ct)
    url = f"{url_of(chest_ct[0], level='series')}/metadata"
    expected = client.get(url, headers={"Accept-Encoding": "identity"})
    monkeypatch.setattr(metadata_view, "_KEPT_PLAIN", 2)
    answer = client.get(url, headers={"Accept-Encoding": "identity"})
    assert "content-length" not in answer.headers
    assert "content-encoding" not in answer.headers
    assert answer.content == expected.content
    head = client.head(url, headers={"Accept-Encoding": "identity"})
    assert (head.status_code, head.content, head.headers.get("content-length")) == (200, b"", None)


# -- bulk data -------------------------------------------------------------------------------------------------


def palette(transfer_syntax: str) -> FileDataset:
    dataset = synthetic.new_dataset("1.2.840.10008.5.1.4.1.1.7", Modality="OT", ConversionType="WSD")
    synthetic.set_pixels(dataset, np.arange(64 * 64, dtype="<u2").reshape(64, 64))
    dataset.PhotometricInterpretation = "PALETTE COLOR"
    for shift, colour in enumerate(("Red", "Green", "Blue")):
        setattr(dataset, f"{colour}PaletteColorLookupTableDescriptor", [4096, 0, 16])
        table = np.arange(4096, dtype="<u2") << shift
        table = table.byteswap() if transfer_syntax == ExplicitVRBigEndian else table
        setattr(dataset, f"{colour}PaletteColorLookupTableData", table.tobytes())
    return in_syntax(dataset, transfer_syntax)


@pytest.mark.rooms("sqlite", "s3")
@pytest.mark.parametrize(
    "syntax",
    [ExplicitVRLittleEndian, ImplicitVRLittleEndian, ExplicitVRBigEndian, DeflatedExplicitVRLittleEndian],
)
def test_a_bulk_value_comes_from_where_the_metadata_says_in_little_endian(client: httpx.Client, syntax: str) -> None:
    """PS3.18 10.4.1.1.5, 8.7.3.3.1; OHIF reads the three tables of a palette like this."""
    dataset = palette(syntax)
    keep(client, dataset)
    (metadata,) = client.get(f"{url_of(dataset)}/metadata").json()
    for shift, tag in enumerate(("00281201", "00281202", "00281203")):
        expected = (np.arange(4096, dtype="<u2") << shift).tobytes()
        uri = metadata[tag]["BulkDataURI"]
        single = client.get(uri)
        assert single.content == expected
        assert single.headers["content-type"].startswith("application/octet-stream")
        ((headers, body),) = parts_of(client.get(uri, headers={"Accept": 'multipart/related; type="*/*"'}))
        assert (headers["content-location"], body) == (uri, expected)
    pixels = client.get(metadata["7FE00010"]["BulkDataURI"]).content
    assert pixels == np.arange(64 * 64, dtype="<u2").tobytes()


def test_compressed_pixel_data_comes_frame_by_frame(client: httpx.Client) -> None:
    """PS3.18 8.7.3.3.2: compressed multi-frame image pixel data is encoded as individual frames."""
    frames = [bytes([n]) * 20 for n in (1, 2, 3)]
    dataset = synthetic.encapsulated(frames)
    keep(client, dataset)
    uri = f"{url_of(dataset)}/bulkdata/7FE00010"
    answer = client.get(uri, headers={"Accept": 'multipart/related; type="*/*"; transfer-syntax=*'})
    parts = parts_of(answer)
    assert [body for _, body in parts] == frames
    assert [headers["content-location"].rpartition("/")[2] for headers, _ in parts] == ["1", "2", "3"]
    assert client.get(uri, headers={"Accept": "image/jp2"}).status_code == 406, "three frames are not one part"


def test_the_one_frame_of_compressed_pixel_data_may_come_in_one_part(client: httpx.Client) -> None:
    dataset = synthetic.encapsulated([b"bitstream!"])
    keep(client, dataset)
    answer = client.get(f"{url_of(dataset)}/bulkdata/7FE00010", headers={"Accept": "image/jp2"})
    assert answer.content == b"bitstream!"


def test_a_video_comes_as_the_stream_that_it_is_with_ranges(client: httpx.Client) -> None:
    """PS3.18 8.7.3.3.2; a browser's player asks for ranges."""
    stream = bytes(range(256)) * 40
    dataset = synthetic.encapsulated([stream])
    dataset.file_meta.TransferSyntaxUID = MPEG4HP41
    dataset.NumberOfFrames = 250
    dataset.PixelData = encapsulate([stream], fragments_per_frame=3, has_bot=False)
    keep(client, dataset)
    uri = f"{url_of(dataset)}/bulkdata/7FE00010"
    for accept in ("*/*", "video/mp4", "video/*"):
        answer = client.get(uri, headers={"Accept": accept})
        assert (answer.headers["content-type"], answer.content.rstrip(b"\0")) == (
            f"video/mp4; transfer-syntax={MPEG4HP41}",
            stream.rstrip(b"\0"),
        )
    part = client.get(uri, headers={"Accept": "video/mp4", "Range": "bytes=3000-9000"})
    assert (part.status_code, part.content) == (206, answer.content[3000:9001])
    assert client.get(f"{url_of(dataset)}/frames/1", headers=OHIF_FRAMES).status_code == 406


def test_an_encapsulated_document_comes_under_its_own_type_where_that_is_harmless(client: httpx.Client) -> None:
    """PS3.18 8.7.3.3; scripts in a stored page must not run with the rights of this server."""
    content = b"%PDF-1.7 " + bytes(range(256)) * 8
    pdf = synthetic.pdf_document(content)
    page = synthetic.pdf_document(b"<script>alert(1)</script>" * 60, MIMETypeOfEncapsulatedDocument="text/html")
    keep(client, pdf, page)
    for accept in ("*/*", "application/pdf", "text/html, */*;q=0.1"):
        answer = client.get(f"{url_of(pdf)}/bulkdata/00420011", headers={"Accept": accept})
        assert answer.headers["content-type"] == "application/pdf"
        assert answer.content.startswith(content)
    octets = client.get(f"{url_of(pdf)}/bulkdata/00420011", headers=OCTETS)
    assert octets.headers["content-type"].startswith("application/octet-stream")
    answer = client.get(f"{url_of(page)}/bulkdata/00420011", headers={"Accept": "text/html, */*;q=0.1"})
    assert answer.headers["content-type"].startswith("application/octet-stream")


def test_a_value_within_a_sequence_has_its_own_uri(client: httpx.Client) -> None:
    dataset = synthetic.text_report()
    item, other = Dataset(), Dataset()
    item.add_new(0x00091010, "OB", b"first" * 500)
    other.add_new(0x00091010, "OB", b"second" * 500)
    for one in (item, other):
        one.add_new(0x00090010, "LO", "MAKER")
    dataset.ContentSequence = [item, other]
    keep(client, dataset)
    (metadata,) = client.get(f"{url_of(dataset)}/metadata").json()
    uris = [one["00091010"]["BulkDataURI"] for one in metadata["0040A730"]["Value"]]
    assert [client.get(uri).content for uri in uris] == [b"first" * 500, b"second" * 500]


@pytest.mark.parametrize("path", ["00100010", "7FE00011", "../metadata", "x", "0040A730/1/00091010", "00281201/"])
def test_there_is_no_bulk_data_where_the_metadata_names_none(
    client: httpx.Client, chest_ct: list[FileDataset], path: str
) -> None:
    keep(client, chest_ct[0])
    url = f"{url_of(chest_ct[0])}/bulkdata/{path.replace('/', '%2F') if '..' in path else path}"
    assert client.get(url).status_code == 404


@pytest.mark.parametrize("level", ["study", "series", "instance"])
def test_all_bulk_data_comes_in_one_message(client: httpx.Client, level: str) -> None:
    """PS3.18 10.4.1.1.5; octet-stream at a study, series or instance means the same (Table 10.4.4-1)."""
    (dataset,) = ct_series(1)
    lossless = synthetic.encapsulated([b"a" * 10, b"b" * 10])
    lossless.StudyInstanceUID, lossless.SeriesInstanceUID = dataset.StudyInstanceUID, dataset.SeriesInstanceUID
    report = synthetic.text_report(
        StudyInstanceUID=dataset.StudyInstanceUID, SeriesInstanceUID=dataset.SeriesInstanceUID
    )
    keep(client, dataset, lossless, report)
    accept = {"Accept": 'multipart/related; type="*/*"; transfer-syntax=*'}
    parts = parts_of(client.get(f"{url_of(dataset, level=level)}/bulkdata", headers=accept))
    found = {headers["content-location"].partition("/instances/")[2]: body for headers, body in parts}
    expected = {f"{dataset.SOPInstanceUID}/bulkdata/7FE00010": dataset.PixelData}
    if level != "instance":
        expected[f"{lossless.SOPInstanceUID}/frames/1"] = b"a" * 10
        expected[f"{lossless.SOPInstanceUID}/frames/2"] = b"b" * 10
    assert found == expected
    octets = client.get(url_of(dataset), headers=NATIVE_FRAMES)
    assert [body for _, body in parts_of(octets)] == [dataset.PixelData]


def test_bulk_data_that_is_not_acceptable_is_missed_out_and_said_so(client: httpx.Client) -> None:
    """PS3.18 10.4.3: 206."""
    (dataset,) = ct_series(1)
    lossless = synthetic.encapsulated([b"a" * 10], is_extended=True)
    lossless.StudyInstanceUID = dataset.StudyInstanceUID
    keep(client, dataset, lossless)
    answer = client.get(
        f"{url_of(dataset, level='study')}/bulkdata", headers={"Accept": "multipart/related; type=image/jp2"}
    )
    assert answer.status_code == 206
    assert "1 of 2 values" in answer.headers["warning"]
    assert [body for _, body in parts_of(answer)] == [b"a" * 10]
    assert client.get(f"{url_of(synthetic_report(client))}/bulkdata").status_code == 404


def synthetic_report(client: httpx.Client) -> FileDataset:
    report = synthetic.text_report()
    keep(client, report)
    return report


# -- HTTP ------------------------------------------------------------------------------------------------------

RANGES = [
    ("bytes=0-9", 206, slice(0, 10)),
    ("bytes=100-", 206, slice(100, None)),
    ("bytes=-7", 206, slice(-7, None)),
    ("bytes=5-5", 206, slice(5, 6)),
    ("bytes=0-99999999", 206, slice(0, None)),
    ("bytes=-99999999", 206, slice(0, None)),
    ("Bytes=0-9", 200, slice(None)),
    ("bytes=9-0", 200, slice(None)),
    ("bytes=0-1,3-4", 200, slice(None)),
    ("bytes=-", 200, slice(None)),
    ("bytes=a-b", 200, slice(None)),
    ("items=0-1", 200, slice(None)),
    ("bytes=0-" + "9" * 5000, 200, slice(None)),
]


@pytest.mark.rooms("sqlite", "s3")
@pytest.mark.parametrize("tail", ["", "/frames/1", "/bulkdata/7FE00010"])
def test_ranges_of_a_single_part(client: httpx.Client, tail: str) -> None:
    """RFC 9110 14; what is malformed, of another unit, or several ranges is answered in full."""
    (dataset,) = ct_series(1)
    keep(client, dataset)
    url = url_of(dataset) + tail
    accept = {"Accept": "application/dicom, application/octet-stream"}
    whole = client.get(url, headers=accept)
    assert whole.headers["accept-ranges"] == "bytes"
    for text, status, part in RANGES:
        answer = client.get(url, headers={**accept, "Range": text})
        assert (answer.status_code, answer.content) == (status, whole.content[part]), text
        if status == 206:
            start, stop, size = part.indices(len(whole.content))[0], len(answer.content), len(whole.content)
            assert answer.headers["content-range"] == f"bytes {start}-{start + stop - 1}/{size}"
        assert int(answer.headers["content-length"]) == len(answer.content)
    for text in (f"bytes={len(whole.content)}-", "bytes=999999999-", "bytes=-0"):
        answer = client.get(url, headers={**accept, "Range": text})
        assert (answer.status_code, answer.headers["content-range"]) == (416, f"bytes */{len(whole.content)}")


def test_a_range_of_a_large_instance_is_cut_from_the_pieces(client: httpx.Client) -> None:
    (dataset,) = ct_series(1, rows=1200, columns=1100)
    (file,) = keep(client, dataset)
    answer = client.get(url_of(dataset), headers={**AS_STORED, "Range": "bytes=1000-2500000"})
    assert (answer.status_code, answer.content) == (206, file[1000:2500001])


def test_a_range_holds_only_for_the_bytes_it_was_meant_for(client: httpx.Client) -> None:
    """RFC 9110 13.1.5: If-Range."""
    (dataset,) = ct_series(1)
    (file,) = keep(client, dataset)
    url, etag = url_of(dataset), client.get(url_of(dataset), headers=AS_STORED).headers["etag"]
    wanted = {**AS_STORED, "Range": "bytes=0-9"}
    assert client.get(url, headers={**wanted, "If-Range": etag}).content == file[:10]
    for other in ('"other"', f"W/{etag}", "Mon, 05 Jan 2026 10:00:00 GMT"):
        answer = client.get(url, headers={**wanted, "If-Range": other})
        assert (answer.status_code, answer.content) == (200, file)


def test_a_multipart_answer_has_no_ranges(client: httpx.Client, chest_ct: list[FileDataset]) -> None:
    """Its boundary is another one each time, so no bytes of it go with those of an earlier answer."""
    (file,) = keep(client, chest_ct[0])
    answer = client.get(url_of(chest_ct[0]), headers={**AS_STORED_PARTS, "Range": "bytes=0-9"})
    assert answer.status_code == 200
    assert "accept-ranges" not in answer.headers
    assert answer.headers["etag"].startswith('W/"')
    assert parts_of(answer)[0][1] == file


RESOURCES = [
    ("study", "", AS_STORED_PARTS),
    ("series", "", AS_STORED_PARTS),
    ("instance", "", AS_STORED_PARTS),
    ("instance", "", AS_STORED),
    ("study", "/metadata", JSON),
    ("series", "/metadata", JSON),
    ("instance", "/metadata", JSON),
    ("instance", "/frames/1", OHIF_FRAMES),
    ("instance", "/frames/1", OCTETS),
    ("instance", "/bulkdata/7FE00010", OCTETS),
    ("study", "/bulkdata", NATIVE_FRAMES),
]


@pytest.mark.parametrize(("level", "tail", "accept"), RESOURCES)
def test_head_tells_what_get_would_send(
    client: httpx.Client, chest_ct: list[FileDataset], level: str, tail: str, accept: dict[str, str]
) -> None:
    """RFC 9110 9.3.2."""
    keep(client, *chest_ct)
    url = url_of(chest_ct[0], level=level) + tail
    get, head = client.get(url, headers=accept), client.head(url, headers=accept)
    assert (head.status_code, head.content) == (200, b"")
    assert head.headers.get("content-length") == get.headers.get("content-length")
    assert head.headers["content-type"].partition("boundary")[0] == get.headers["content-type"].partition("boundary")[0]
    assert head.headers["etag"] == get.headers["etag"]


@pytest.mark.parametrize(("level", "tail", "accept"), RESOURCES)
def test_what_the_client_holds_already_is_not_sent_again(
    client: httpx.Client, chest_ct: list[FileDataset], level: str, tail: str, accept: dict[str, str]
) -> None:
    """RFC 9110 13.1.2; nothing is kept without asking, and only by the client itself."""
    keep(client, *chest_ct)
    url = url_of(chest_ct[0], level=level) + tail
    answer = client.get(url, headers=accept)
    assert answer.headers["cache-control"] == "private, no-cache"
    assert "Accept" in answer.headers["vary"]
    etag = answer.headers["etag"]
    for held in (etag, f'"other", {etag}', "*", etag.removeprefix("W/")):
        again = client.get(url, headers={**accept, "If-None-Match": held})
        assert (again.status_code, again.content) == (304, b"")
        assert again.headers["etag"] == etag or again.headers["etag"] == etag.removeprefix("W/")
    assert client.get(url, headers={**accept, "If-None-Match": '"other"'}).status_code == 200


@pytest.mark.parametrize(("level", "tail", "accept"), RESOURCES)
def test_an_unknown_parameter_is_ignored(
    client: httpx.Client, chest_ct: list[FileDataset], level: str, tail: str, accept: dict[str, str]
) -> None:
    """PS3.18 8.3: and 400 for one would crash OHIF."""
    keep(client, chest_ct[0])
    url = f"{url_of(chest_ct[0], level=level)}{tail}?limit=-1&frame=x&%zz=%%%&=&&"
    assert client.get(url, headers=accept).status_code == 200


def test_an_object_shorter_than_the_catalog_says_is_never_taken_for_a_whole_one(
    client: httpx.Client, room: Room, chest_ct: list[FileDataset]
) -> None:
    """The connection breaks off, or the answer is an error: half an image must not pass for one."""
    (dataset,) = ct_series(1, rows=900, columns=700)
    keep(client, dataset, chest_ct[0])
    for one in (dataset, chest_ct[0]):
        (key,) = room.query(
            lambda connection, uid=one.SOPInstanceUID: connection.execute(
                t.instance.select().with_only_columns(t.instance.c.object_key).where(t.instance.c.instance_uid == uid)
            ).one()
        )
        path = room.blobs.local_path(key)
        assert path is not None
        with path.open("r+b") as file:
            file.truncate(500)
    assert client.get(url_of(chest_ct[0]), headers=AS_STORED).status_code == 503
    with pytest.raises(RuntimeError, match="response already started"):
        client.get(url_of(dataset), headers=AS_STORED)
