"""Colors as DICOM recommends them: CIELab in 16 bits, relative to D50 (PS3.3 C.10.7.1.1)."""

from __future__ import annotations

RGB = tuple[int, int, int]

# The D50 white point; D50 XYZ to linear sRGB by Bradford adaptation (ICC.1, Annex E; IEC 61966-2-1).
_WHITE = (0.9642, 1.0, 0.8249)
_TO_SRGB = (
    (3.1338561, -1.6168667, -0.4906146),
    (-0.9787684, 1.9161415, 0.0334540),
    (0.0719453, -0.2289914, 1.4052427),
)


def rgb_of(lab: tuple[int, int, int]) -> RGB:
    """The sRGB color of an encoded CIELab value: L* 0 to 100, a* and b* -128 to 127, each as 0 to 65535."""
    lightness, a, b = lab[0] / 65535 * 100, lab[1] / 65535 * 255 - 128, lab[2] / 65535 * 255 - 128
    y = (lightness + 16) / 116
    xyz = [white * _cube(f) for white, f in zip(_WHITE, (y + a / 500, y, y - b / 200), strict=True)]
    red, green, blue = (_gamma(sum(w * v for w, v in zip(weights, xyz, strict=True))) for weights in _TO_SRGB)
    return red, green, blue


def _cube(f: float) -> float:
    return f**3 if f > 6 / 29 else 3 * (6 / 29) ** 2 * (f - 4 / 29)


def _gamma(linear: float) -> int:
    linear = min(max(linear, 0.0), 1.0)
    encoded = 12.92 * linear if linear <= 0.0031308 else 1.055 * linear ** (1 / 2.4) - 0.055
    return round(encoded * 255)
