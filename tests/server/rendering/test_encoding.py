"""Pictures as files: what was drawn comes back, still and in motion (PS3.18 8.7.4)."""

from __future__ import annotations

import io
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from readingroom.errors import Invalid, NotAcceptable
from server.rendering.encoding import GIF, JP2, JPEG, MP4, PNG, animated, check_profile, encoded
from server.rendering.look import Look
from storage.icc import profile_of

NOISE = np.random.default_rng(5).integers(0, 256, (31, 47, 3), np.uint8)


def opened(data: bytes) -> Image.Image:
    return Image.open(io.BytesIO(data))


@pytest.mark.parametrize("media_type", [PNG, JP2])
@pytest.mark.parametrize("pixels", [NOISE, NOISE[..., 0], NOISE[:1, :1], NOISE[:1, :1, 0]], ids=str)
def test_a_lossless_picture_comes_back_as_it_was(media_type: str, pixels: np.ndarray) -> None:
    pixels = np.ascontiguousarray(pixels)
    assert np.array_equal(np.asarray(opened(encoded(Image.fromarray(pixels), media_type, Look()))), pixels)


def test_a_gif_of_grays_is_exact() -> None:
    gray = np.arange(256, dtype=np.uint8).reshape(16, 16)
    assert np.array_equal(np.asarray(opened(encoded(Image.fromarray(gray), GIF, Look())).convert("L")), gray)


def test_a_png_is_made_of_chunks_with_their_checksums() -> None:
    """ISO/IEC 15948 5.3."""
    data = encoded(Image.fromarray(NOISE), PNG, Look(), profile_of("srgb"))
    at, kinds = 8, []
    while at < len(data):
        length, kind = struct.unpack_from(">I4s", data, at)
        content = data[at + 8 : at + 8 + length]
        assert struct.unpack_from(">I", data, at + 8 + length) == (zlib.crc32(kind + content),)
        kinds.append(kind)
        at += 12 + length
    assert kinds == [b"IHDR", b"iCCP", b"IDAT", b"IEND"]


@pytest.mark.parametrize("media_type", [JPEG, PNG, JP2])
def test_a_profile_is_embedded(media_type: str) -> None:
    """PS3.18 8.3.5.1.5, notes 4 to 6."""
    data = encoded(Image.fromarray(NOISE), media_type, Look(), profile_of("rommrgb"))
    if media_type == JP2:
        # Pillow does not read it from a JP2: the box holds method, precedence, approximation, then the profile.
        at = data.index(b"colr")
        (length,) = struct.unpack_from(">I", data, at - 4)
        assert data[at + 4] == 2
        assert data[at + 7 : at - 4 + length] == profile_of("rommrgb")
        assert np.array_equal(np.asarray(opened(data)), NOISE)
    else:
        assert opened(data).info["icc_profile"] == profile_of("rommrgb")
    assert not opened(encoded(Image.fromarray(NOISE), media_type, Look())).info.get("icc_profile")


def test_a_profile_that_a_format_cannot_hold_is_refused() -> None:
    """PS3.18 8.3.5.1.5: 400 unless it is no."""
    for media_type in (GIF, MP4):
        check_profile(media_type, Look(icc="no"))
        check_profile(media_type, Look())
        with pytest.raises(Invalid, match="embeds no ICC profile"):
            check_profile(media_type, Look(icc="yes"))


@pytest.mark.parametrize("media_type", [JPEG, JP2])
def test_quality_is_for_what_can_be_lossy(media_type: str) -> None:
    sizes = [len(encoded(Image.fromarray(NOISE), media_type, Look(quality=quality))) for quality in (1, 40, 100)]
    assert sizes == sorted(set(sizes))
    assert encoded(Image.fromarray(NOISE), PNG, Look(quality=1)) == encoded(Image.fromarray(NOISE), PNG, Look())


def test_what_a_format_cannot_hold_is_told() -> None:
    with pytest.raises(NotAcceptable, match="70000 x 1"):
        encoded(Image.new("L", (70000, 1)), JPEG, Look())


MOVING = [
    Image.fromarray(np.where(np.arange(64) // 8 == index, 250, 5).astype(np.uint8)[None].repeat(48, 0))
    for index in range(8)
]
TIMES = [40.0, 40.0, 40.0, 200.0, 40.0, 40.0, 40.0, 40.0]


def test_an_animated_gif_has_its_frames_and_times() -> None:
    gif = opened(animated(MOVING, TIMES, GIF, Look()))
    assert isinstance(gif, Image.Image)
    assert (gif.n_frames, gif.info["loop"]) == (8, 0)  # type: ignore[attr-defined]
    for index, image in enumerate(MOVING):
        gif.seek(index)
        assert np.array_equal(np.asarray(gif.convert("L")), np.asarray(image))
        assert gif.info["duration"] == TIMES[index]


def boxes(data: bytes, at: int = 0, end: int | None = None) -> dict[bytes, bytes]:
    """The content of each box, those of containers after them (ISO/IEC 14496-12 4.2)."""
    found: dict[bytes, bytes] = {}
    end = len(data) if end is None else end
    while at < end:
        length, kind = struct.unpack_from(">I4s", data, at)
        assert 8 <= length <= end - at
        found[kind] = data[at + 8 : at + length]
        if kind in (b"moov", b"trak", b"mdia", b"minf", b"stbl"):
            found |= boxes(data, at + 8, at + length)
        at += length
    return found


def test_an_mp4_is_a_video_of_av1_and_no_picture() -> None:
    """ISO/IEC 14496-12, AV1 in ISOBMFF 2.1."""
    movie = animated(MOVING, TIMES, MP4, Look())
    found = boxes(movie)
    assert found[b"ftyp"][:4] == b"isom"
    assert b"av01" in found[b"ftyp"]
    assert b"avif" not in found[b"ftyp"]
    assert b"avis" not in found[b"ftyp"]
    assert b"meta" not in found
    assert found[b"hdlr"][8:12] == b"vide"
    assert found[b"stsd"][12:16] == b"av01"
    # Runs of frames that are shown equally long, in milliseconds.
    (scale,) = struct.unpack_from(">I", found[b"mdhd"], 20)
    count, *runs = struct.unpack_from(">I6I", found[b"stts"], 4)
    times = [delta * 1000 / scale for number, delta in zip(runs[::2], runs[1::2], strict=True) for _ in range(number)]
    assert count == 3
    assert times == TIMES


def test_the_frames_of_an_mp4_are_the_pictures() -> None:
    """What was renamed is named back, for Pillow to read it as the sequence of pictures that it came from."""
    movie = bytearray(animated(MOVING, TIMES, MP4, Look(quality=95)))
    length = struct.unpack_from(">I", movie)[0]
    movie[8:length] = (b"avis\0\0\0\0" + b"avifavismsf1iso8mif1miaf" + b"avis" * 9)[: length - 8]
    movie[movie.index(b"free") : movie.index(b"free") + 4] = b"meta"
    movie[movie.index(b"vide") : movie.index(b"vide") + 4] = b"pict"
    frames = opened(bytes(movie))
    assert frames.n_frames == 8  # type: ignore[attr-defined]
    for index, image in enumerate(MOVING):
        frames.seek(index)
        assert np.abs(np.asarray(frames.convert("L")).astype(int) - np.asarray(image)).mean() < 4
