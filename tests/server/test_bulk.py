"""Bulk data over HTTP: by URI, frame by frame, all or the pixels of a study (PS3.18 10.4.1.1.5, 10.4.1.1.7)."""

from __future__ import annotations

import httpx
import numpy as np
import pytest
from pydicom import FileDataset
from pydicom.dataset import Dataset
from pydicom.encaps import encapsulate
from pydicom.uid import (
    MPEG4HP41,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
)

from tests import synthetic
from tests.multipart import parts_of
from tests.retrieve import (
    NATIVE_FRAMES,
    OCTETS,
    OHIF_FRAMES,
    keep,
    palette,
    url_of,
)
from tests.synthetic import ct_series


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


@pytest.mark.parametrize("level", ["study", "series", "instance"])
def test_pixel_data_comes_without_other_bulk_data_and_is_named_as_in_the_metadata(
    client: httpx.Client, level: str
) -> None:
    """PS3.18 10.4.3.3.6: no icon, no palette, no private value; frames say where the whole value is."""
    dataset = palette(ExplicitVRLittleEndian)
    dataset.add_new(0x00090010, "LO", "MAKER")
    dataset.add_new(0x00091010, "OB", b"other" * 500)
    lossless = synthetic.encapsulated([b"a" * 10, b"b" * 10])
    lossless.StudyInstanceUID, lossless.SeriesInstanceUID = dataset.StudyInstanceUID, dataset.SeriesInstanceUID
    lossless.InstanceNumber = 2
    keep(client, dataset, lossless)
    accept = {"Accept": 'multipart/related; type="*/*"; transfer-syntax=*'}
    parts = parts_of(client.get(f"{url_of(dataset, level=level)}/pixeldata", headers=accept))
    expected = [(dataset, dataset.PixelData)]
    if level != "instance":
        expected += [(lossless, b"a" * 10), (lossless, b"b" * 10)]
    uris = [client.get(f"{url_of(one)}/metadata").json()[0]["7FE00010"]["BulkDataURI"] for one, _ in expected]
    assert [(headers["content-location"], body) for headers, body in parts] == [
        (uri, body) for uri, (_, body) in zip(uris, expected, strict=True)
    ]


def test_pixel_data_that_is_not_there_is_not_found(client: httpx.Client) -> None:
    report = synthetic_report(client)
    for url in (url_of(report), url_of(report, level="study"), "/dicomweb/studies/1.2.3"):
        assert client.get(f"{url}/pixeldata").status_code == 404


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


def test_a_part_of_a_value_is_sent_for_a_range(client: httpx.Client) -> None:
    """RFC 9110 14: of one value in one part, what is asked for; and all of it where it has changed since."""
    (dataset,) = ct_series(1)
    keep(client, dataset)
    url = f"{url_of(dataset)}/bulkdata/7FE00010"
    whole = client.get(url, headers=OCTETS)
    assert whole.headers["accept-ranges"] == "bytes"
    part = client.get(url, headers=OCTETS | {"Range": "bytes=10-29"})
    assert (part.status_code, part.content) == (206, dataset.PixelData[10:30])
    assert part.headers["content-range"] == f"bytes 10-29/{len(dataset.PixelData)}"
    held = {"Range": "bytes=-4", "If-Range": whole.headers["etag"]}
    assert client.get(url, headers=OCTETS | held).content == dataset.PixelData[-4:]
    other = client.get(url, headers=OCTETS | {"Range": "bytes=-4", "If-Range": '"another"'})
    assert (other.status_code, other.content) == (200, dataset.PixelData)
    assert client.get(url, headers=OCTETS | {"Range": "bytes=999999-"}).status_code == 416


@pytest.mark.parametrize("resource", ["bulkdata", "pixeldata"])
@pytest.mark.parametrize("level", ["study", "series", "instance", "value"])
def test_head_and_a_held_copy_cost_no_body(client: httpx.Client, level: str, resource: str) -> None:
    (dataset,) = ct_series(1)
    keep(client, dataset)
    url = f"{url_of(dataset)}/bulkdata/7FE00010"
    if level != "value":
        url = f"{url_of(dataset, level=level)}/{resource}"
    answer = client.get(url, headers=NATIVE_FRAMES)
    head = client.head(url, headers=NATIVE_FRAMES)
    assert (head.status_code, head.content) == (200, b"")
    assert head.headers["etag"] == answer.headers["etag"]
    held = client.get(url, headers=NATIVE_FRAMES | {"If-None-Match": answer.headers["etag"]})
    assert (held.status_code, held.content) == (304, b"")
