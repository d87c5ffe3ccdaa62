"""Phantom heads: axial CT volumes made in code, with blood whose place is known, and with what looks like blood.

Everything follows from a seed and lies in millimetres, so a head can be made on any grid. A head has scalp, skull with
diploe, grey and white matter, sulci, ventricles, falx, tentorium and venous sinuses, each of a size and density of its
own; thick slices average what they cover. No patient was ever near it, and no patient's head is as simple.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

Bleed = Literal["parenchymal", "subdural", "epidural", "subarachnoid", "ventricular"]
LookAlike = Literal["calcification", "streaks", "motion", "partial volume"]
BLEEDS: tuple[Bleed, ...] = get_args(Bleed)
LOOK_ALIKES: tuple[LookAlike, ...] = get_args(LookAlike)

Volume = NDArray[np.float32]
Mask = NDArray[np.bool_]

FIELD_MM = 224.0
SLICE_MM = 5.0
SLICES = 28
LOWEST_MM = -58.0
"""Where the lowest slice begins, below the middle of the head: the top of the skull base."""

AIR, CSF, WHITE, GREY = -1000.0, 7.0, 28.0, 37.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Head:
    """One phantom.

    Attributes
    ----------
    hu
        int16 Hounsfield units, shape ``(slices, rows, columns)``, the lowest slice first.
    blood
        Which voxels are blood for the most part; same shape.
    blood_ml
        How much blood there is, whole voxels or not.
    spacing_mm
        Between slices, rows and columns.
    """

    hu: NDArray[np.int16]
    blood: Mask
    blood_ml: float
    spacing_mm: tuple[float, float, float]
    bleed: Bleed | None
    look_alike: LookAlike | None


@dataclass(slots=True)
class _Anatomy:
    """A head on its way: a grid of head coordinates in mm (x to the left, y to the back, z up), and what lies on it."""

    rng: np.random.Generator
    x: Volume
    y: Volume
    z: Volume
    step_mm: tuple[float, float, float]
    depth: Volume
    """Below the inner table of the skull; negative in bone and beyond."""
    tissue: Volume
    fluid: Mask = field(init=False)
    vessel_hu: float = 55.0

    def noise(self, scale_mm: float) -> Volume:
        """A smooth random field of mean 0 and standard deviation 1."""
        coarse = max(scale_mm / 2, 4.0)
        shape = [int(count * step / coarse) + 3 for count, step in zip(self.x.shape, self.step_mm, strict=True)]
        smooth = ndimage.gaussian_filter(self.rng.standard_normal(shape), scale_mm / coarse).astype(np.float32)
        for axis, (count, points) in enumerate(zip(self.x.shape, shape, strict=True)):
            smooth = np.moveaxis(np.tensordot(_between(points, count), smooth, (1, axis)), 0, axis)
        field: Volume = ((smooth - smooth.mean()) / smooth.std()).astype(np.float32)
        return field

    def ellipsoid(self, centre: tuple[float, float, float], axes: tuple[float, float, float]) -> Volume:
        """The squared distance from a centre in half axes: below 1 inside."""
        away = np.zeros_like(self.x)
        for along, middle, half in zip((self.x, self.y, self.z), centre, axes, strict=True):
            away += ((along - float(middle)) * float(1 / half)) ** 2
        return away


def _between(points: int, count: int) -> Volume:
    """The matrix that interpolates `count` values between so many points."""
    place = np.linspace(0, points - 1, count)
    weights: Volume = np.maximum(0, 1 - np.abs(place[:, None] - np.arange(points))).astype(np.float32)
    return weights


def make_head(seed: int, *, bleed: Bleed | None = None, look_alike: LookAlike | None = None, size: int = 128) -> Head:
    """Make the head of a seed.

    Parameters
    ----------
    seed
        Heads of different seeds differ in everything; the same seed without its bleed is the same head without blood.
    bleed
        Where blood is, if any.
    look_alike
        What else is to be seen that may be taken for blood.
    size
        Rows and columns; the field of view is 224 mm.
    """
    anatomy = _anatomy(seed, size, is_tilted=look_alike == "partial volume")
    hu = anatomy.tissue
    blood = np.zeros(hu.shape, np.float32)
    if bleed is not None:
        where, density = _BLEEDS[bleed](anatomy, np.random.default_rng((seed, 1)))
        blood[where] = 1.0
        hu = np.where(where, density, hu)
    rng = np.random.default_rng((seed, 2))
    if look_alike == "calcification":
        hu = _calcified(anatomy, hu, rng)
    hu, share = _thick(hu), _thick(blood)
    if look_alike == "streaks":
        hu = _streaked(hu, rng)
    if look_alike == "motion":
        hu = _moved(hu, rng)
    scanned = _scanned(hu, np.random.default_rng((seed, 3)))
    spacing = (SLICE_MM, FIELD_MM / size, FIELD_MM / size)
    return Head(
        hu=scanned,
        blood=share > 0.5,
        blood_ml=float(share.sum() * np.prod(spacing) / 1000),
        spacing_mm=spacing,
        bleed=bleed,
        look_alike=look_alike,
    )


def _anatomy(seed: int, size: int, *, is_tilted: bool) -> _Anatomy:
    rng = np.random.default_rng((seed, 0))
    step = FIELD_MM / size
    across = ((np.arange(size) + 0.5) * step - FIELD_MM / 2).astype(np.float32)
    upward = (LOWEST_MM + (np.arange(2 * SLICES) + 0.5) * SLICE_MM / 2).astype(np.float32)
    z, y, x = np.meshgrid(upward, across, across, indexing="ij")
    x, y, z = _turned(x, y, z, rng, 14.0 if is_tilted else 4.0)
    half = [float(axis) for axis in rng.uniform((70, 86, 76), (78, 98, 84))]
    radius, slope = np.zeros_like(x), np.full_like(x, 1e-9)
    for along, axis in zip((x, y, z), half, strict=True):
        radius += (along / axis) ** 2
        slope += (along / axis**2) ** 2
    depth = (1 - np.sqrt(radius)) * np.sqrt(radius / slope)
    tissue = np.full(x.shape, AIR, np.float32)
    head = _Anatomy(rng=rng, x=x, y=y, z=z, step_mm=(SLICE_MM / 2, step, step), depth=depth, tissue=tissue)
    head.depth += 1.5 * head.noise(40)
    _wrap(head)
    _fill(head)
    return head


def _turned(x: Volume, y: Volume, z: Volume, rng: np.random.Generator, most: float) -> tuple[Volume, Volume, Volume]:
    """Put the head askew: nobody lies straight."""
    for first, second in ((0, 1), (1, 2), (0, 2)):
        angle = math.radians(rng.uniform(-most, most))
        axes = [x, y, z]
        a, b = axes[first], axes[second]
        axes[first] = math.cos(angle) * a - math.sin(angle) * b
        axes[second] = math.sin(angle) * a + math.cos(angle) * b
        x, y, z = axes
    return x + rng.uniform(-6, 6), y + rng.uniform(-6, 6), z


def _wrap(head: _Anatomy) -> None:
    """Scalp and skull; afterwards depth counts from the inner table."""
    rng, depth = head.rng, head.depth
    scalp = rng.uniform(4, 8)
    bone = rng.uniform(5, 8.5) + 1.2 * head.noise(30)
    head.tissue[depth > 0] = rng.uniform(30, 50)
    head.tissue[(depth > 1.6) & (depth < scalp - 1.5)] = -90
    in_bone = (depth > scalp) & (depth < scalp + bone)
    head.tissue[in_bone] = rng.uniform(1000, 1400)
    is_diploe = (depth > scalp + 0.32 * bone) & (depth < scalp + 0.68 * bone)
    head.tissue[is_diploe] = rng.uniform(350, 700)
    head.depth = (depth - scalp - bone).astype(np.float32)


def _fill(head: _Anatomy) -> None:
    """What lies within the skull."""
    rng, x, y, z, depth = head.rng, head.x, head.y, head.z, head.depth
    inside = depth > 0
    atrophy = rng.uniform(0, 1)
    folds = head.noise(7)
    matter = np.where((depth < 6 + 2.5 * folds) | (np.abs(folds) < 0.25) & (depth < 22), GREY, WHITE)
    for side in (-1, 1):  # basal ganglia and thalami
        matter[head.ellipsoid((side * 24, -12, 4), (9, 20, 14)) < 1] = GREY
        matter[head.ellipsoid((side * 10, 8, 2), (8, 13, 10)) < 1] = GREY
    matter += rng.uniform(-3, 3) + 1.2 * head.noise(25)
    sulci = (np.abs(folds) < 0.05 + 0.12 * atrophy) & (depth < 16)
    wide = rng.uniform(0.8, 1.3) + 0.5 * atrophy
    ventricles = np.zeros_like(inside)
    for side in (-1, 1):
        for centre, axes in (
            ((side * 12, -22, 16), (7, 20, 9)),
            ((side * 16, 18, 14), (8, 26, 9)),
            ((side * 27, 14, -4), (6, 17, 7)),
        ):
            ventricles |= head.ellipsoid(centre, (axes[0] * wide, axes[1], axes[2] * wide)) < 1
    ventricles |= head.ellipsoid((0, 2, 2), (2.5 * wide, 14, 10)) < 1
    cisterns = head.ellipsoid((0, -6, -26), (16, 11, 5 + 3 * atrophy)) < 1
    head.fluid = inside & (sulci | ventricles | cisterns | (depth < 0.5 + 3 * atrophy))
    head.tissue[inside] = np.where(head.fluid, rng.uniform(3, 11), matter)[inside]
    # Dura is as dense as blood and thin, a sinus is blood.
    head.vessel_hu = rng.uniform(42, 68)
    dura = rng.uniform(50, 65)
    bend = x + 1.5 * head.noise(40)
    falx = inside & (np.abs(bend) < rng.uniform(0.7, 1.6)) & (z > 0) & ((depth < 38) | (y > 40))
    sheet = (z - 10 + 0.75 * np.abs(x) + 0.15 * (y - 30)) / 1.26
    tentorium = inside & (np.abs(sheet) < rng.uniform(0.7, 1.4)) & (y > 10) & (np.abs(x) > 6)
    head.tissue[falx | tentorium] = dura
    broad = rng.uniform(4, 6.5)
    sagittal = (
        inside & (np.abs(bend) < broad * (1 - depth / (1.6 * broad))) & (depth < 1.6 * broad) & (z > -20) & (y > -40)
    )
    dominant = rng.choice((-1, 1))
    transverse = (
        inside & (np.hypot(sheet, depth - 3) < rng.uniform(3, 5)) & (y > 20) & ((x * dominant > 0) | (np.abs(x) < 6))
    )
    head.tissue[sagittal | transverse] = head.vessel_hu
    # Petrous ridges and the air cells beside them.
    for side in (-1, 1):
        along = head.ellipsoid((side * 42, 14, -50), (26, 9, 12))
        head.tissue[inside & (along < 1)] = rng.uniform(900, 1500)
        head.tissue[head.ellipsoid((side * 56, 26, -52), (7, 7, 8)) < 1] = -600
    head.tissue[inside & (head.ellipsoid((0, -16, -52), (11, 9, 10)) < 1)] = 700


# -- blood -------------------------------------------------------------------------------------------------------------


def _density(head: _Anatomy, rng: np.random.Generator, low: float = 56, high: float = 78) -> Volume:
    uneven: Volume = (rng.uniform(low, high) + rng.uniform(1, 5) * head.noise(10)).astype(np.float32)
    return uneven


def _within(head: _Anatomy, rng: np.random.Generator, where: Mask) -> tuple[float, float, float]:
    """A place drawn from a mask; the same one on every grid, but for what lies at its edge."""
    while True:
        at = tuple(int(part * size) for part, size in zip(rng.uniform(size=3), where.shape, strict=True))
        if where[at]:
            return float(head.x[at]), float(head.y[at]), float(head.z[at])


def _parenchymal(head: _Anatomy, rng: np.random.Generator) -> tuple[Mask, Volume]:
    centre = _within(head, rng, (head.depth > 16) & ~head.fluid & (head.z > -30))
    millilitres = np.exp(rng.uniform(np.log(0.4), np.log(40)))
    radius = (millilitres * 1000 * 3 / (4 * np.pi)) ** (1 / 3)
    axes = radius * np.exp(rng.uniform(-0.3, 0.3, 3))
    shape = head.ellipsoid(centre, tuple(axes)) * np.exp(0.25 * head.noise(max(radius, 5)))
    where = (shape < 1) & (head.depth > 3)
    if rng.uniform() < 0.6:  # oedema around it
        ring = (shape < 1.7) & ~where & (head.depth > 3) & (head.tissue < 60) & ~head.fluid
        head.tissue[ring] -= 8
    return where, _density(head, rng)


def _shell(head: _Anatomy, rng: np.random.Generator, thick: tuple[float, float], wide: tuple[float, float]) -> Mask:
    """A layer on the inner table that gets thinner away from its middle."""
    x, y, z = _within(head, rng, (head.depth > 0) & (head.depth < 3) & (head.z > -15) & (np.abs(head.x) > 20))
    away = np.sqrt((head.x - x) ** 2 + (head.y - y) ** 2 + (head.z - z) ** 2) / rng.uniform(*wide)
    deep = rng.uniform(*thick) * np.sqrt(np.clip(1 - away**2, 0, None))
    layer: Mask = (head.depth > 0) & (head.depth < deep) & (head.x * x > 0)
    return layer


def _subdural(head: _Anatomy, rng: np.random.Generator) -> tuple[Mask, Volume]:
    return _shell(head, rng, (4, 13), (35, 75)), _density(head, rng, 50, 74)


def _epidural(head: _Anatomy, rng: np.random.Generator) -> tuple[Mask, Volume]:
    return _shell(head, rng, (8, 24), (18, 38)), _density(head, rng, 60, 80)


def _subarachnoid(head: _Anatomy, rng: np.random.Generator) -> tuple[Mask, Volume]:
    is_basal = rng.uniform() < 0.5
    x, y, z = (0.0, -6.0, -26.0) if is_basal else _within(head, rng, head.fluid & (head.depth < 8) & (head.z > -15))
    near = head.ellipsoid((x, y, z), (rng.uniform(15, 35), rng.uniform(15, 35), rng.uniform(12, 25))) < 1
    return near & head.fluid & (head.depth > 0), _density(head, rng, 48, 68)


def _ventricular(head: _Anatomy, rng: np.random.Generator) -> tuple[Mask, Volume]:
    level = rng.uniform(14, 32)  # who lies on the back has it in the occipital horns
    side = rng.choice((-1, 0, 1))
    horns = head.fluid & (head.depth > 18) & (head.y > level) & (head.z > -14) & (head.z < 28)
    return horns & ((head.x * side > 0) | (side == 0)), _density(head, rng, 50, 75)


_BLEEDS: Mapping[Bleed, Callable[[_Anatomy, np.random.Generator], tuple[Mask, Volume]]] = {
    "parenchymal": _parenchymal,
    "subdural": _subdural,
    "epidural": _epidural,
    "subarachnoid": _subarachnoid,
    "ventricular": _ventricular,
}

# -- what looks like it ------------------------------------------------------------------------------------------------


def _calcified(head: _Anatomy, hu: Volume, rng: np.random.Generator) -> Volume:
    """Chalk in the pineal, the choroid plexus, the falx or the basal ganglia; some of it no denser than blood."""
    places = [(0, 22, 6), (-22, 24, 12), (22, 24, 12), (-20, -8, 4), (20, -8, 4), (1, -30, 40)]
    hu = hu.copy()
    for number in rng.choice(len(places), rng.integers(1, 5), replace=False):
        centre = tuple(np.array(places[number]) + rng.uniform(-3, 3, 3))
        spot = head.ellipsoid(centre, tuple(rng.uniform(1.5, 4.5, 3)))
        hu = np.where((spot < 1) & (head.depth > 0), rng.uniform(80, 600), hu)
    return hu


def _streaked(hu: Volume, rng: np.random.Generator) -> Volume:
    """Metal with bright and dark rays across the slices it lies in."""
    hu = hu.copy()
    slices, rows, columns = hu.shape
    y, x = np.mgrid[:rows, :columns] * (FIELD_MM / columns) - FIELD_MM / 2
    at = rng.uniform((-50, -60), (50, 60))
    first = int(rng.integers(2, slices - 8))
    angle, away = np.arctan2(y - at[1], x - at[0]), np.hypot(y - at[1], x - at[0])
    for index in range(first, first + int(rng.integers(2, 6))):
        rays = sum(
            rng.uniform(0.4, 1) * np.cos(order * angle + rng.uniform(0, 2 * np.pi)) for order in rng.integers(4, 22, 5)
        )
        hu[index] += rng.uniform(25, 70) * rays * np.exp(-away / rng.uniform(25, 60)) * (hu[index] > -500)
        hu[index][away < rng.uniform(2, 4)] = 3000
    return hu


def _moved(hu: Volume, rng: np.random.Generator) -> Volume:
    """A head that turned while some slices were taken: faint copies, and lines from the bone."""
    hu = hu.copy()
    first = int(rng.integers(4, len(hu) - 10))
    step = FIELD_MM / hu.shape[-1]
    for index in range(first, first + int(rng.integers(3, 9))):
        share = rng.uniform(0.08, 0.35)
        copy = ndimage.shift(hu[index], rng.uniform(-9, 9, 2) / step, order=1, cval=AIR)
        copy = ndimage.rotate(copy, rng.uniform(-5, 5), reshape=False, order=1, cval=AIR)
        lines = ndimage.gaussian_filter1d(rng.standard_normal(hu.shape[1:]), rng.uniform(0.8, 2), axis=0)
        lines = ndimage.gaussian_filter1d(lines, 25, axis=1)
        blended = (1 - share) * hu[index] + share * copy
        hu[index] = blended + rng.uniform(4, 14) * lines / lines.std() * (hu[index] > -500)
    return hu


# -- the scanner -------------------------------------------------------------------------------------------------------


def _thick(fine: Volume) -> Volume:
    """A slice averages what it covers."""
    pairs: Volume = fine.reshape(-1, 2, *fine.shape[1:]).mean(axis=1, dtype=np.float32)
    return pairs


def _scanned(hu: Volume, rng: np.random.Generator) -> NDArray[np.int16]:
    """Blur of the kernel, cupping below the skull, noise that is a little smooth, whole Hounsfield units."""
    blur_mm = rng.uniform(0.4, 0.8)
    step = FIELD_MM / hu.shape[-1]
    seen = ndimage.gaussian_filter(hu, (0, blur_mm / step, blur_mm / step))
    cupping = rng.uniform(0, 8)
    near = ndimage.gaussian_filter((hu > 300).astype(np.float32), (0, 8 / step, 8 / step))
    drawn = ndimage.gaussian_filter(rng.standard_normal(hu.shape), (0, 0.5, 0.5))
    noise = rng.uniform(2.5, 5.5) * drawn / drawn.std()
    return np.clip(np.rint(seen + cupping * near * (hu > -500) + noise), -1024, 3071).astype(np.int16)
