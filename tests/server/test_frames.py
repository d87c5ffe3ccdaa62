"""Frames over HTTP: as stored and decompressed, in the order asked for (PS3.18 10.4.1.1.6)."""

from __future__ import annotations

import httpx
import numpy as np
import pytest
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGLSLossless,
    RLELossless,
)

from tests import synthetic
from tests.multipart import parts_of
from tests.retrieve import (
    NATIVE_FRAMES,
    OCTETS,
    OHIF_FRAMES,
    compressed,
    in_syntax,
    jpeg_ls,
    keep,
    url_of,
)
from tests.stow import AS_STORED
from tests.synthetic import cine, ct_series


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
