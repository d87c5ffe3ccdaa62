"""Pictures as files: JPEG, PNG, GIF and JPEG 2000, still or in motion (PS3.18 8.7.4)."""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Callable, Sequence

import imagecodecs
import numpy as np
from PIL import Image

from readingroom.errors import Invalid, NotAcceptable
from server.rendering.look import Look

JPEG, PNG, GIF, JP2, MP4 = "image/jpeg", "image/png", "image/gif", "image/jp2", "video/mp4"
STILL = (JPEG, PNG, GIF, JP2)
HOLDS_PROFILE = frozenset({JPEG, PNG, JP2})

_QUALITY = 90
_JP2_COLOUR = b"colr"


def encoded(image: Image.Image, media_type: str, look: Look, profile: bytes | None = None) -> bytes:
    """A picture as a file.

    Parameters
    ----------
    image
        8-bit gray (``L``) or ``RGB``.
    look
        Its quality is for JPEG and JPEG 2000: JPEG's own scale, of which 90 is the default; JPEG 2000 is lossless
        unless one is asked for, which then means a peak signal-to-noise ratio of 20 (at 1) to 60 decibel (at 100).
    profile
        An ICC profile to embed.

    Raises
    ------
    NotAcceptable
        The picture is too large for its format.
    """
    try:
        return _ENCODERS[media_type](image, look, profile)
    except (OSError, ValueError, struct.error) as error:
        raise NotAcceptable(f"A picture of {image.width} x {image.height} is no {media_type}: {error}.") from None


def check_profile(media_type: str, look: Look) -> None:
    """Refuse an ICC profile that the media type cannot hold (PS3.18 8.3.5.1.5).

    Raises
    ------
    Invalid
        It was asked for.
    """
    if look.icc not in (None, "no") and media_type not in HOLDS_PROFILE:
        raise Invalid(f"iccprofile={look.icc}: {media_type} embeds no ICC profile; iccprofile=no would do.")


def _jpeg(image: Image.Image, look: Look, profile: bytes | None) -> bytes:
    target = io.BytesIO()
    image.save(target, "JPEG", quality=look.quality or _QUALITY, icc_profile=profile)
    return target.getvalue()


def _png(image: Image.Image, _look: Look, profile: bytes | None) -> bytes:
    """A PNG whose rows hold differences to the pixel on the left (ISO/IEC 15948, filter Sub).

    ISA-L deflates some ten times as fast as Pillow's zlib; and with one filter for all rows the files are as small as
    where Pillow tries five on each.
    """
    samples = len(image.getbands())
    pixels = np.asarray(image).reshape(image.height, -1)
    rows = np.empty((image.height, 1 + image.width * samples), np.uint8)
    rows[:, 0] = 1
    rows[:, 1 : 1 + samples] = pixels[:, :samples]
    np.subtract(pixels[:, samples:], pixels[:, :-samples], out=rows[:, 1 + samples :])
    header = struct.pack(">IIBBBBB", image.width, image.height, 8, 2 if image.mode == "RGB" else 0, 0, 0, 0)
    chunks = [_chunk(b"IHDR", header)]
    if profile:
        chunks.append(_chunk(b"iCCP", b"ICC Profile\0\0" + zlib.compress(profile)))
    chunks += [_chunk(b"IDAT", _deflated(rows.data)), _chunk(b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunks)


def _deflated(data: memoryview) -> bytes:
    if imagecodecs.ISAL.available:
        return bytes(imagecodecs.isal_encode(data, level=1))
    return zlib.compress(data, 1)


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(data, zlib.crc32(kind)))


def _gif(image: Image.Image, _look: Look, _profile: bytes | None) -> bytes:
    target = io.BytesIO()
    image.save(target, "GIF")
    return target.getvalue()


def _jp2(image: Image.Image, look: Look, profile: bytes | None) -> bytes:
    target = io.BytesIO()
    if look.quality is None:
        image.save(target, "JPEG2000", mct=int(image.mode == "RGB"))
    else:
        decibel = 20 + 40 * (look.quality - 1) / 99
        image.save(target, "JPEG2000", irreversible=True, quality_mode="dB", quality_layers=[decibel])
    return _with_profile(target.getvalue(), profile) if profile else target.getvalue()


def _with_profile(jp2: bytes, profile: bytes) -> bytes:
    """With its Colour Specification box holding the profile (ISO/IEC 15444-1 I.5.3.3)."""
    header = jp2.index(b"jp2h") - 4
    colour = jp2.index(_JP2_COLOUR, header) - 4
    (header_length,) = struct.unpack_from(">I", jp2, header)
    (colour_length,) = struct.unpack_from(">I", jp2, colour)
    box = struct.pack(">I4sBBB", 11 + len(profile), _JP2_COLOUR, 2, 0, 0) + profile
    grown = struct.pack(">I", header_length + len(box) - colour_length)
    return jp2[:header] + grown + jp2[header + 4 : colour] + box + jp2[colour + colour_length :]


_ENCODERS: dict[str, Callable[[Image.Image, Look, bytes | None], bytes]] = {
    JPEG: _jpeg,
    PNG: _png,
    GIF: _gif,
    JP2: _jp2,
}


def animated(images: Sequence[Image.Image], milliseconds: Sequence[float], media_type: str, look: Look) -> bytes:
    """A moving picture: an animated GIF that goes round and round, or an MP4 of AV1.

    Parameters
    ----------
    images
        Of one size and mode.
    milliseconds
        How long each of them is shown.
    """
    try:
        return (_animated_gif if media_type == GIF else _mp4)(images, milliseconds, look)
    except (OSError, ValueError, struct.error) as error:
        raise NotAcceptable(f"{len(images)} pictures make no {media_type}: {error}.") from None


def _animated_gif(images: Sequence[Image.Image], milliseconds: Sequence[float], _look: Look) -> bytes:
    target = io.BytesIO()
    # Hundredths of a second; what is shorter than two of them, browsers show much slower.
    durations = [max(10 * round(each / 10), 20) for each in milliseconds]
    first, *others = images
    first.save(target, "GIF", save_all=True, append_images=others, duration=durations, loop=0, optimize=False)
    return target.getvalue()


def _mp4(images: Sequence[Image.Image], milliseconds: Sequence[float], look: Look) -> bytes:
    """AV1 in an MP4: what Pillow writes as an AVIF sequence, with the boxes that call it pictures renamed to video.

    Both are ISO base media files (ISO/IEC 14496-12) with the same track of AV1 (AV1-ISOBMFF 2): the sequence has a
    brand, a handler and an extra still picture of its own.
    """
    target = io.BytesIO()
    durations = [max(round(each), 1) for each in milliseconds]
    first, *others = (image.convert("RGB") for image in images)
    first.save(
        target,
        "AVIF",
        save_all=True,
        append_images=others,
        duration=durations,
        quality=look.quality or _QUALITY,
        codec="aom",
        speed=9,
        max_threads=1,
    )
    movie = bytearray(target.getvalue())
    for at, length, kind in _boxes(movie, 0, len(movie)):
        if kind == b"ftyp":
            brands = b"isomav01iso2mp41" + b"isom" * (length // 4)
            movie[at + 8 : at + length] = (b"isom" + struct.pack(">I", 512) + brands)[: length - 8]
        elif kind == b"meta":
            movie[at + 4 : at + 8] = b"free"
        elif kind == b"moov":
            _call_video(movie, at, length)
    return bytes(movie)


def _call_video(movie: bytearray, at: int, length: int) -> None:
    """Rename the handlers of the tracks in a box."""
    for inner, inner_length, kind in _boxes(movie, at + 8, at + length):
        if kind in (b"trak", b"mdia"):
            _call_video(movie, inner, inner_length)
        elif kind == b"hdlr":
            movie[inner + 16 : inner + 20] = b"vide"


def _boxes(movie: bytearray, at: int, end: int) -> list[tuple[int, int, bytes]]:
    found = []
    while at + 8 <= end:
        length, kind = struct.unpack_from(">I4s", movie, at)
        found.append((at, length, kind))
        at += max(length, 8)
    return found
