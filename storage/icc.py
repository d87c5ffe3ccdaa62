"""ICC profiles: the well-known ones, made here, and colors brought from one profile to another (PS3.18 8.3.5.1.5).

Profiles come with the objects, and LittleCMS reads them: foreign bytes for a library in C, as bitstreams are.
"""

from __future__ import annotations

import io
import struct
from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageCms

from readingroom.errors import NotAcceptable

Space = Literal["srgb", "adobergb", "rommrgb"]

_XYZ = tuple[float, float, float]
_D50: _XYZ = (0.9642, 1.0, 0.8249)
_CURVE_POINTS = 1024


def _srgb(value: float) -> float:
    return value / 12.92 if value <= 0.04045 else ((value + 0.055) / 1.055) ** 2.4


def _romm(value: float) -> float:
    return value / 16 if value < 16 / 512 else value**1.8


# Name, the primaries relative to D50, and the curve: a gamma, or a function from encoded to linear.
_SPACES: dict[Space, tuple[str, tuple[_XYZ, _XYZ, _XYZ], float | Callable[[float], float]]] = {
    "srgb": (
        "sRGB IEC61966-2.1",
        ((0.43607, 0.22249, 0.01392), (0.38515, 0.71687, 0.09708), (0.14307, 0.06061, 0.71410)),
        _srgb,
    ),
    "adobergb": (
        "Adobe RGB (1998) compatible",
        ((0.60974, 0.31111, 0.01947), (0.20528, 0.62567, 0.06087), (0.14919, 0.06322, 0.74457)),
        563 / 256,
    ),
    "rommrgb": (
        "ROMM RGB ISO 22028-2",
        ((0.79767, 0.28804, 0.00000), (0.13519, 0.71188, 0.00000), (0.03134, 0.00009, 0.82490)),
        _romm,
    ),
}


@lru_cache(maxsize=len(_SPACES))
def profile_of(space: Space) -> bytes:
    """The profile of a well-known color space: three primaries and a curve, as ICC.1:2001-04 (version 2) has them."""
    name, primaries, curve = _SPACES[space]
    curve_tag = _gamma(curve) if isinstance(curve, float) else _curve(curve)
    ascii_name = name.encode() + b"\0"
    tags = [
        ([b"desc"], b"desc" + struct.pack(">II", 0, len(ascii_name)) + ascii_name + bytes(78)),
        ([b"cprt"], b"text" + bytes(4) + b"No copyright\0"),
        ([b"wtpt"], _xyz(_D50)),
        *(([name], _xyz(value)) for name, value in zip((b"rXYZ", b"gXYZ", b"bXYZ"), primaries, strict=True)),
        ([b"rTRC", b"gTRC", b"bTRC"], curve_tag),
    ]
    return _profile(tags)


def _profile(tags: Sequence[tuple[Sequence[bytes], bytes]]) -> bytes:
    count = sum(len(names) for names, _ in tags)
    at = 128 + 4 + 12 * count
    table, body = struct.pack(">I", count), b""
    for names, data in tags:
        for name in names:
            table += name + struct.pack(">II", at + len(body), len(data))
        body += data + bytes(-len(data) % 4)
    size = at + len(body)
    header = struct.pack(">I4sI4s4s4s", size, bytes(4), 0x02100000, b"mntr", b"RGB ", b"XYZ ")
    header += struct.pack(">6H", 2026, 1, 1, 0, 0, 0) + b"acsp" + bytes(28) + _numbers(_D50)
    return header.ljust(128, b"\0") + table + body


def _numbers(values: Sequence[float]) -> bytes:
    return struct.pack(f">{len(values)}i", *(round(value * 65536) for value in values))


def _xyz(values: _XYZ) -> bytes:
    return b"XYZ " + bytes(4) + _numbers(values)


def _gamma(value: float) -> bytes:
    return b"curv" + struct.pack(">IIH", 0, 1, round(value * 256))


def _curve(linear: Callable[[float], float]) -> bytes:
    points = [round(65535 * linear(at / (_CURVE_POINTS - 1))) for at in range(_CURVE_POINTS)]
    return b"curv" + struct.pack(f">II{_CURVE_POINTS}H", 0, _CURVE_POINTS, *points)


def converted(pixels: NDArray[np.uint8], source: bytes, space: Space) -> NDArray[np.uint8]:
    """RGB of a profile as RGB of a well-known color space.

    Parameters
    ----------
    pixels
        Shape ``(rows, columns, 3)``.
    source
        The profile that they come with; empty for sRGB.

    Raises
    ------
    NotAcceptable
        The profile is broken, or none of RGB.
    """
    if not source and space == "srgb":
        return pixels
    try:
        transform = ImageCms.buildTransform(
            ImageCms.ImageCmsProfile(io.BytesIO(source or profile_of("srgb"))),
            ImageCms.ImageCmsProfile(io.BytesIO(profile_of(space))),
            "RGB",
            "RGB",
            ImageCms.Intent.RELATIVE_COLORIMETRIC,
        )
        out = ImageCms.applyTransform(Image.fromarray(pixels), transform)
    except (ImageCms.PyCMSError, OSError, TypeError, ValueError) as error:
        raise NotAcceptable(f"The ICC profile of this image cannot be applied: {str(error)[:100]}.") from None
    assert out is not None
    return np.asarray(out)
