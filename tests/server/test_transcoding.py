"""Instances and frames in other transfer syntaxes than the stored one, over HTTP (PS3.18 8.7.3, 10.4.1)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import httpx
import imagecodecs
import numpy as np
import pytest
from pydicom import FileDataset
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    HTJ2KLossless,
    HTJ2KLosslessRPCL,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGBaseline8Bit,
    JPEGLosslessSV1,
    JPEGLSLossless,
    RLELossless,
)

from server.room import Room
from storage import pixels
from storage.arrays import ArraySpec
from storage.encode import TARGETS, encoded_spec, targets_of, transcode_frame
from storage.objects import scan
from tests import synthetic
from tests.multipart import parts_of
from tests.retrieve import OHIF_FRAMES, compressed, in_syntax, jpeg_ls, keep, read, url_of
from tests.synthetic import cine, ct_series, part10

JPEG_XL = "1.2.840.10008.1.2.4.110"
OCTET_STREAM = "application/octet-stream"


def frames_url(dataset: FileDataset, numbers: str = "1") -> str:
    return f"{url_of(dataset)}/frames/{numbers}"


def decoded(bitstream: bytes, dataset: FileDataset, syntax: str) -> np.ndarray:
    """What a client makes of a frame that came in `syntax`."""
    spec = scan(part10(dataset)).spec
    assert spec is not None
    return pixels.decode_frame(bitstream, encoded_spec(spec, syntax, spec.photometric))


@pytest.fixture
def encodings(room: Room, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The transfer syntaxes of the frames that codecs were called for."""
    called: list[str] = []
    call = room.codecs.call

    def in_a_child(function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        called.append(args[2])
        return call(transcode_frame, *args, **kwargs)

    def here(bitstream: bytes, spec: ArraySpec, target: str) -> bytes:
        called.append(target)
        return transcode_frame(bitstream, spec, target)

    monkeypatch.setattr(room.codecs, "call", in_a_child)
    monkeypatch.setattr("server.dicomweb.frames.transcode_frame", here)
    return called


# -- frames --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("accept", "name", "syntax"),
    [
        ("image/jpeg", "image/jpeg", JPEGLosslessSV1),
        ("image/dicom-rle", "image/dicom-rle", RLELossless),
        ("image/x-dicom-rle", "image/x-dicom-rle", RLELossless),
        ("image/jls", "image/jls", JPEGLSLossless),
        ("image/x-jls", "image/x-jls", JPEGLSLossless),
        ("image/jls; transfer-syntax=1.2.840.10008.1.2.4.81", "image/jls", "1.2.840.10008.1.2.4.81"),
        ("image/jp2", "image/jp2", JPEG2000Lossless),
        ("image/jp2; transfer-syntax=1.2.840.10008.1.2.4.91", "image/jp2", "1.2.840.10008.1.2.4.91"),
        ("image/jphc", "image/jphc", HTJ2KLossless),
        ("image/jphc; transfer-syntax=*", "image/jphc", HTJ2KLossless),
        (f"image/jphc; transfer-syntax={HTJ2KLosslessRPCL}", "image/jphc", HTJ2KLosslessRPCL),
        ('image/jphc; transfer-syntax="1.2.840.10008.1.2.4.203"', "image/jphc", "1.2.840.10008.1.2.4.203"),
        (f"{OCTET_STREAM}; transfer-syntax={HTJ2KLossless}", "image/jphc", HTJ2KLossless),
        (f"*/*; transfer-syntax={JPEGLSLossless}", "image/jls", JPEGLSLossless),
        (f"image/jxl, image/jp2;q=0.5, {OCTET_STREAM};q=0.1", "image/jp2", JPEG2000Lossless),
        ("image/*", "image/jpeg", JPEGLosslessSV1),
    ],
)
def test_a_media_type_gets_its_default_transfer_syntax_or_the_one_that_is_named(
    client: httpx.Client, accept: str, name: str, syntax: str
) -> None:
    """PS3.18 Table 8.7.3-5; the pixels are signed, which image/jxl does not carry."""
    (dataset,) = ct_series(1)
    keep(client, dataset)
    answer = client.get(frames_url(dataset), headers={"Accept": accept})
    assert answer.status_code == 200, answer.text
    if accept.startswith("*/*"):
        ((headers, body),) = parts_of(answer)
    else:
        headers, body = answer.headers, answer.content
    assert headers["content-type"] == f"{name}; transfer-syntax={syntax}"
    assert np.array_equal(decoded(body, dataset, syntax), dataset.pixel_array)


def test_frames_come_in_the_order_asked_for_each_in_its_part(client: httpx.Client) -> None:
    dataset = cine(4, rows=16, columns=12)
    keep(client, dataset)
    accept = f'multipart/related; type="image/jls"; transfer-syntax={JPEGLSLossless}'
    parts = parts_of(client.get(frames_url(dataset, "3,1,3"), headers={"Accept": accept}))
    assert [headers["content-location"].rpartition("/")[2] for headers, _ in parts] == ["3", "1", "3"]
    assert [int(decoded(body, dataset, JPEGLSLossless).max()) for _, body in parts] == [3, 1, 3]


@pytest.mark.parametrize("stored", [ImplicitVRLittleEndian, ExplicitVRBigEndian, DeflatedExplicitVRLittleEndian])
def test_frames_of_every_native_transfer_syntax_are_encoded(client: httpx.Client, stored: str) -> None:
    (dataset,) = ct_series(1)
    expected = dataset.pixel_array.copy()
    dataset = in_syntax(dataset, stored)
    keep(client, dataset)
    answer = client.get(frames_url(dataset), headers={"Accept": "image/jphc"})
    assert answer.headers["content-type"] == f"image/jphc; transfer-syntax={HTJ2KLossless}"
    assert np.array_equal(pixels.decode_frame(answer.content, ct_spec(HTJ2KLossless)), expected)


def ct_spec(syntax: str) -> Any:
    spec = scan(part10(ct_series(1)[0])).spec
    assert spec is not None
    return replace(spec, transfer_syntax=syntax, encoding="encapsulated")


def test_compressed_frames_are_encoded_anew(client: httpx.Client) -> None:
    (dataset,) = ct_series(1)
    expected = dataset.pixel_array.copy()
    dataset = compressed(dataset, JPEGLSLossless, jpeg_ls)
    keep(client, dataset)
    answer = client.get(frames_url(dataset), headers={"Accept": "image/jphc"})
    assert np.array_equal(pixels.decode_frame(answer.content, ct_spec(HTJ2KLossless)), expected)
    as_stored = client.get(frames_url(dataset), headers={"Accept": "image/jls"})
    assert jpeg_ls(expected).startswith(as_stored.content.rstrip(b"\0"))


def test_pixels_lose_nothing_unless_a_lossy_transfer_syntax_is_named(client: httpx.Client) -> None:
    dataset = synthetic.secondary_capture()
    keep(client, dataset)
    for accept in ("image/jpeg", "image/jpeg; transfer-syntax=*", "image/*"):
        answer = client.get(frames_url(dataset), headers={"Accept": accept})
        assert answer.headers["content-type"] == f"image/jpeg; transfer-syntax={JPEGLosslessSV1}"
    lossy = f"image/jpeg; transfer-syntax={JPEGBaseline8Bit}"
    answer = client.get(frames_url(dataset), headers={"Accept": lossy})
    assert answer.headers["content-type"] == lossy
    assert imagecodecs.jpeg8_decode(answer.content).shape == dataset.pixel_array.shape


@pytest.mark.parametrize(
    "accept",
    [
        "image/jxl",
        f"image/jpeg; transfer-syntax={JPEGBaseline8Bit}",
        "image/jpeg; transfer-syntax=1.2.840.10008.1.2.4.57",
        "image/jxl; transfer-syntax=1.2.840.10008.1.2.4.111",
        f"image/jls; transfer-syntax={JPEG2000Lossless}",
        f"{OCTET_STREAM}; transfer-syntax={DeflatedExplicitVRLittleEndian}",
        "image/jpx",
        "video/mp4",
    ],
)
def test_what_a_codec_cannot_carry_is_not_acceptable_and_there_is_said_what_is(
    client: httpx.Client, accept: str
) -> None:
    (dataset,) = ct_series(1)
    keep(client, dataset)
    answer = client.get(frames_url(dataset), headers={"Accept": accept})
    assert answer.status_code == 406
    assert f"image/jphc; transfer-syntax={HTJ2KLossless}" in answer.text


def test_a_frame_that_cannot_be_transcoded_goes_as_it_is_to_who_takes_that_too(client: httpx.Client) -> None:
    dataset = synthetic.encapsulated([b"\xff\x4f\xff\x51no codestream at all"])
    keep(client, dataset)
    refused = client.get(frames_url(dataset), headers={"Accept": "image/jls"})
    assert refused.status_code == 406
    assert "cannot be decompressed" in refused.text
    answer = client.get(frames_url(dataset), headers={"Accept": "image/jls, image/jp2;q=0.1"})
    assert answer.headers["content-type"] == f"image/jp2; transfer-syntax={JPEG2000Lossless}"
    assert answer.content.startswith(b"\xff\x4f\xff\x51no")


# -- renditions ----------------------------------------------------------------------------------------------------


@pytest.mark.rooms("sqlite", "postgres", "s3")
def test_a_transcoded_frame_is_made_once(client: httpx.Client, room: Room, encodings: list[str]) -> None:
    dataset = cine(3, rows=16, columns=12)
    keep(client, dataset)
    answers = []
    for number in (1, 2, 1, 1):
        answers.append(client.get(frames_url(dataset, str(number)), headers={"Accept": "image/jphc"}).content)
        room.renditions.flush()
    assert encodings == [HTJ2KLossless] * 2
    assert answers[0] == answers[2] == answers[3] != answers[1]
    client.get(frames_url(dataset), headers={"Accept": "image/jls"})
    assert encodings == [HTJ2KLossless, HTJ2KLossless, JPEGLSLossless]


def test_a_damaged_rendition_is_made_again(client: httpx.Client, room: Room, encodings: list[str]) -> None:
    dataset = cine(1, rows=16, columns=12)
    keep(client, dataset)
    good = client.get(frames_url(dataset), headers={"Accept": "image/jphc"})
    room.renditions.flush()
    (path,) = (path for path in (room.settings.data / "renditions").rglob("*") if path.is_file())
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 255
    path.write_bytes(data)
    again = client.get(frames_url(dataset), headers={"Accept": "image/jphc"})
    assert again.content == good.content
    assert len(encodings) == 2


def test_decompressed_frames_are_renditions_too(client: httpx.Client, room: Room, encodings: list[str]) -> None:
    dataset = compressed(cine(1), JPEGLSLossless, jpeg_ls)
    keep(client, dataset)
    for _ in range(2):
        answer = client.get(frames_url(dataset), headers={"Accept": OCTET_STREAM})
        assert answer.headers["content-type"] == f"{OCTET_STREAM}; transfer-syntax={ExplicitVRLittleEndian}"
        room.renditions.flush()
    assert encodings == [ExplicitVRLittleEndian]


def test_another_version_of_an_instance_has_renditions_of_its_own(client: httpx.Client, room: Room) -> None:
    dataset = cine(1, rows=16, columns=12)
    keep(client, dataset)
    old = client.get(frames_url(dataset), headers={"Accept": "image/jphc"}).content
    room.renditions.flush()
    dataset.PixelData = bytes(len(dataset.PixelData))
    keep(client, dataset)
    new = client.get(frames_url(dataset), headers={"Accept": "image/jphc"}).content
    assert decoded(new, dataset, HTJ2KLossless).max() == 0
    assert client.get(frames_url(dataset) + "?version=1", headers={"Accept": "image/jphc"}).content == old


def test_each_representation_has_its_own_validator(client: httpx.Client) -> None:
    """RFC 9110 8.8.3: two representations at one URL never share a strong ETag."""
    (dataset,) = ct_series(1)
    keep(client, dataset)
    accepts = ["image/jphc", "image/jls", f"image/jphc; transfer-syntax={HTJ2KLosslessRPCL}", OCTET_STREAM]
    for url in (frames_url(dataset), url_of(dataset)):
        if url == url_of(dataset):
            accepts = [f"application/dicom; transfer-syntax={target}" for target in (HTJ2KLossless, RLELossless, "*")]
        tags = [client.get(url, headers={"Accept": accept}).headers["etag"] for accept in accepts]
        assert len(set(tags)) == len(accepts)
        for accept, tag in zip(accepts, tags, strict=True):
            held = client.get(url, headers={"Accept": accept, "If-None-Match": tag})
            assert held.status_code == 304
            other = client.get(url, headers={"Accept": accept, "If-None-Match": tags[accepts.index(accept) - 1]})
            assert other.status_code == 200


def test_a_range_of_a_transcoded_frame(client: httpx.Client) -> None:
    (dataset,) = ct_series(1)
    keep(client, dataset)
    whole = client.get(frames_url(dataset), headers={"Accept": "image/jphc"}).content
    part = client.get(frames_url(dataset), headers={"Accept": "image/jphc", "Range": "bytes=4-9"})
    assert part.status_code == 206
    assert part.content == whole[4:10]
    head = client.head(frames_url(dataset), headers={"Accept": "image/jphc"})
    assert (int(head.headers["content-length"]), head.content) == (len(whole), b"")


# -- instances -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("target", [target for target in TARGETS if not target.endswith((".111", ".50"))])
def test_an_instance_comes_in_every_lossless_transfer_syntax_that_is_named(client: httpx.Client, target: str) -> None:
    """PS3.18 8.7.3.5: with the same SOP Instance UID, since its pixels are the same (PS3.3 C.7.6.1.1.2)."""
    dataset = cine(3, rows=16, columns=12)
    keep(client, dataset)
    answer = client.get(url_of(dataset), headers={"Accept": f"application/dicom; transfer-syntax={target}"})
    assert answer.headers["content-type"] == f"application/dicom; transfer-syntax={target}"
    got = read(answer.content)
    assert got.file_meta.TransferSyntaxUID == target
    assert got.SOPInstanceUID == got.file_meta.MediaStorageSOPInstanceUID == dataset.SOPInstanceUID
    inflated = client.get(url_of(dataset), headers={"Accept": "application/dicom"}).content
    assert np.array_equal(read(inflated).pixel_array, dataset.pixel_array)
    if target not in (DeflatedExplicitVRLittleEndian, ExplicitVRLittleEndian):
        found = scan(answer.content)
        frames = [answer.content[offset : offset + length] for offset, length in found.chunks]
        assert [int(decoded(frame, dataset, target).min()) for frame in frames] == [1, 2, 3]


@pytest.mark.parametrize("level", ["study", "series"])
def test_all_instances_come_in_the_transfer_syntax_that_is_named(client: httpx.Client, level: str) -> None:
    series = ct_series(3)
    expected = [dataset.pixel_array.copy() for dataset in series]
    stored = [series[0], compressed(series[1], JPEGLSLossless, jpeg_ls), in_syntax(series[2], ImplicitVRLittleEndian)]
    keep(client, *stored)
    accept = f'multipart/related; type="application/dicom"; transfer-syntax={HTJ2KLossless}'
    answer = client.get(url_of(series[0], level=level), headers={"Accept": accept})
    assert answer.status_code == 200
    for (headers, body), pixel_array in zip(parts_of(answer), expected, strict=True):
        assert headers["content-type"] == f"application/dicom; transfer-syntax={HTJ2KLossless}"
        offset, length = scan(body).chunks[0]
        assert np.array_equal(pixels.decode_frame(body[offset : offset + length], ct_spec(HTJ2KLossless)), pixel_array)


def test_a_deflated_instance_is_compressed_otherwise(client: httpx.Client) -> None:
    (dataset,) = ct_series(1)
    expected = dataset.pixel_array.copy()
    keep(client, in_syntax(dataset, DeflatedExplicitVRLittleEndian))
    accept = f'multipart/related; type="application/dicom"; transfer-syntax={JPEGLSLossless}'
    for level in ("instance", "series"):
        ((_, body),) = parts_of(client.get(url_of(dataset, level=level), headers={"Accept": accept}))
        offset, length = scan(body).chunks[0]
        assert np.array_equal(pixels.decode_frame(body[offset : offset + length], ct_spec(JPEGLSLossless)), expected)


def test_an_object_without_pixels_is_deflated_and_never_compressed(client: httpx.Client) -> None:
    report = synthetic.text_report()
    keep(client, report)
    accept = f"application/dicom; transfer-syntax={DeflatedExplicitVRLittleEndian}"
    got = read(client.get(url_of(report), headers={"Accept": accept}).content)
    assert got.file_meta.TransferSyntaxUID == DeflatedExplicitVRLittleEndian
    assert got.ContentSequence[0].TextValue == "No finding."
    accept = f"application/dicom; transfer-syntax={JPEGLSLossless}"
    assert client.get(url_of(report), headers={"Accept": accept}).status_code == 406


def test_an_instance_never_comes_with_a_loss(client: httpx.Client) -> None:
    """PS3.3 C.7.6.1.1.5: it would be another instance, with another UID; so 406, at every level."""
    dataset = synthetic.secondary_capture()
    keep(client, dataset)
    for level in ("instance", "series", "study"):
        accept = f'multipart/related; type="application/dicom"; transfer-syntax={JPEGBaseline8Bit}'
        answer = client.get(url_of(dataset, level=level), headers={"Accept": accept})
        assert answer.status_code == 406


def test_viewers_still_get_what_is_stored(client: httpx.Client) -> None:
    """``transfer-syntax=*`` never transcodes, whatever else could be sent."""
    native, other = ct_series(2)
    lossless = compressed(other, JPEGLSLossless, jpeg_ls)
    keep(client, native, lossless)
    for dataset, content_type in (
        (native, f"{OCTET_STREAM}; transfer-syntax={ExplicitVRLittleEndian}"),
        (lossless, f"image/jls; transfer-syntax={JPEGLSLossless}"),
    ):
        ((headers, _),) = parts_of(client.get(frames_url(dataset), headers=OHIF_FRAMES))
        assert headers["content-type"] == content_type


def test_every_target_is_offered_where_it_is_carried() -> None:
    spec = scan(part10(cine(1))).spec
    assert spec is not None
    assert JPEG_XL in targets_of(spec)
    assert JPEG_XL not in targets_of(replace(spec, signed=True))
    assert spec.transfer_syntax not in targets_of(spec)
