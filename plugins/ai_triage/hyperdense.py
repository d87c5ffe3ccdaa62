"""Looks for fresh blood on a CT of the head by its density, without any learning from patients.

Fresh blood is denser than brain and less dense than bone: 50 to 90 Hounsfield units. So are a thin falx, a venous
sinus, faint chalk, the brain beside thick bone, and the streaks of metal or motion. Every dense spot within the skull
therefore gets a probability from its size, density, thickness and what surrounds it. It is for research: nobody has
cleared it, and it was fitted to phantoms (docs/reference/ai-triage.md), not to patients.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

type Volume = NDArray[np.float32]
type Mask = NDArray[np.bool_]

BONE_HU, CHALK_HU = 250, 100
DENSE_HU, CORE_HU = 45, 50
"""A spot reaches as far as the first, and somewhere it is above the second."""
MOST_SPOTS = 40
"""So many of the largest are looked at: a volume of noise has thousands."""
LEAST_ML, LEAST_BRAIN_ML = 0.15, 150
THRESHOLD = 0.46
"""Nine in ten of the sound phantoms that it was fitted to stay below it."""
GRID_MM = (5.0, 2.0, 2.0)
"""Between slices, rows and columns: finer ones are averaged, so noise goes and blood stays."""
MOST_MM = 700
"""Of a side of the volume: what says that it is larger would need memory without end."""
VOXEL_ML = math.prod(GRID_MM) / 1000
FURTHEST = 2.5
"""Of a standard score: what lies further out was never seen, so it counts no more."""


@dataclass(frozen=True, slots=True)
class Term:
    """What one feature of a spot counts in the logistic regression: both weights are of its standard score."""

    mean: float
    deviation: float
    weight: float
    square: float


BIAS = -5.551
TERMS: Mapping[str, Term] = {
    "size": Term(-0.375, 1.070, 0.000, 0.366),
    "contrast": Term(26.161, 6.986, 1.757, -0.182),
    "thickness": Term(1.244, 0.368, 0.044, 0.204),
    "thin_at_bone": Term(0.462, 0.364, -0.105, 1.095),
    "thin_in_middle": Term(0.291, 0.386, -1.225, 0.036),
    "chalk": Term(0.042, 0.103, -2.546, 0.301),
    "darkness": Term(-8.635, 9.099, -0.170, -0.127),
    "unrest": Term(0.182, 0.399, -1.194, -0.005),
    "slice_unrest": Term(0.476, 0.491, -1.388, -0.964),
    "asymmetry": Term(15.334, 11.195, 0.499, 0.205),
    "height": Term(0.563, 0.261, 0.837, -0.048),
}
"""Fitted by ``python -m conformance.triage fit``, to phantoms of other seeds than those it is measured on."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Spot:
    """A dense spot within the skull.

    Attributes
    ----------
    probability
        That it is blood, among phantoms.
    millilitres, mean_hu
        How large and how dense it is.
    slices
        Indices of the slices it is seen in, the one with most of it first.
    middle
        Slice, row and column of the voxel in the first of the slices that lies deepest in it.
    box
        Left, top, right and bottom in that slice, in pixels of the volume, right and bottom exclusive.
    features
        What the probability comes from, in the order of `TERMS`.
    """

    probability: float
    millilitres: float
    mean_hu: float
    slices: tuple[int, ...]
    middle: tuple[int, int, int]
    box: tuple[int, int, int, int]
    features: tuple[float, ...]


def find_spots(hu: NDArray[Any], spacing_mm: Sequence[float]) -> tuple[Spot, ...]:
    """Find the dense spots of an axial CT of the head.

    Parameters
    ----------
    hu
        Hounsfield units, shape ``(slices, rows, columns)``, in slice order.
    spacing_mm
        Between slices, rows and columns.

    Returns
    -------
    tuple of Spot
        The likeliest first; none where no skull is seen, or the volume is larger than one of a head.
    """
    if any(not 0 < count * mm < MOST_MM for count, mm in zip(hu.shape, spacing_mm, strict=True)):
        return ()
    coarse = _averaged(np.clip(np.nan_to_num(hu), -1100, 3100), spacing_mm)
    inner = inside_skull(coarse)
    if not inner.any():
        return ()
    from_bone = ndimage.distance_transform_edt(np.pad(inner, ((1, 1), (0, 0), (0, 0))), GRID_MM)[1:-1]
    is_chalk = inner & (coarse > CHALK_HU)
    smooth = _smoothed(coarse, inner & ~is_chalk & (coarse > -30))
    labels = _parted(inner & (smooth > DENSE_HU) & (from_bone > 2))
    scene = _scene(coarse, smooth, inner, is_chalk, from_bone.astype(np.float32))
    sizes = np.bincount(labels.ravel())[1:] * VOXEL_ML
    found = []
    boxes = ndimage.find_objects(labels)
    for label in np.argsort(-sizes, kind="stable")[:MOST_SPOTS] + 1:
        if sizes[label - 1] < LEAST_ML:
            break
        spot = _spot(scene, labels == label, boxes[label - 1])
        if spot is not None:
            found.append(_placed(spot, spacing_mm, hu.shape))
    return tuple(sorted(found, key=lambda spot: -spot.probability))


def _placed(spot: Spot, spacing_mm: Sequence[float], shape: tuple[int, ...]) -> Spot:
    """The spot in slices and pixels of the volume that was given."""
    factors = [wanted / mm for wanted, mm in zip(GRID_MM, spacing_mm, strict=True)]

    def at(place: float, axis: int) -> int:
        return min(int(place * factors[axis]), shape[axis] - 1)

    left, top, right, bottom = spot.box
    return replace(
        spot,
        slices=tuple(dict.fromkeys(at(index + 0.5, 0) for index in spot.slices)),
        middle=(at(spot.middle[0] + 0.5, 0), at(spot.middle[1] + 0.5, 1), at(spot.middle[2] + 0.5, 2)),
        box=(at(left, 2), at(top, 1), at(right - 1e-6, 2) + 1, at(bottom - 1e-6, 1) + 1),
    )


def inside_skull(hu: Volume) -> Mask:
    """What lies within the skull, on the grid that all is looked at on: the largest body that bone surrounds."""
    bone = hu > BONE_HU
    disc = _disc(2)
    inner = np.zeros(hu.shape, np.bool_)
    for index, slice_bone in enumerate(bone):
        closed = ndimage.binary_closing(np.pad(slice_bone, 2), disc)
        within = ndimage.binary_fill_holes(closed) & ~closed
        # A narrow neck leads to orbits and sinuses.
        inner[index] = ndimage.binary_opening(within, disc)[2:-2, 2:-2]
    labels, count = ndimage.label(inner)
    if not count:
        return inner
    sizes = np.bincount(labels.ravel())
    sizes[0] = 0
    body: Mask = labels == int(sizes.argmax())
    return body if sizes.max() * VOXEL_ML > LEAST_BRAIN_ML else np.zeros_like(body)


@dataclass(frozen=True, slots=True)
class _Scene:
    """A head, and what holds for all spots in it."""

    hu: Volume
    smooth: Volume
    inner: Mask
    is_chalk: Mask
    from_bone: Volume
    brain_hu: float
    noise_hu: float
    slice_unrest: NDArray[np.float64]
    middle: tuple[float, float, float, float]
    """A point (column, row) of the line that parts the halves of the brain, and cosine and sine of its turn."""

    def off_middle(self, rows: NDArray[Any], columns: NDArray[Any]) -> NDArray[np.float64]:
        """How many pixels places lie to the right of the middle."""
        column, row, cosine, sine = self.middle
        off: NDArray[np.float64] = (columns - column) * cosine - (rows - row) * sine
        return off


def _scene(hu: Volume, smooth: Volume, inner: Mask, is_chalk: Mask, from_bone: Volume) -> _Scene:
    rough = np.abs(hu - smooth)
    noise = float(np.median(rough[inner])) + 0.5
    _, rows, columns = np.nonzero(inner)
    row, column = float(rows.mean()), float(columns.mean())
    spread = np.cov(columns - column, rows - row)
    turn = 0.5 * np.arctan2(2 * spread[0, 1], spread[1, 1] - spread[0, 0])
    return _Scene(
        hu=hu,
        smooth=smooth,
        inner=inner,
        is_chalk=is_chalk,
        from_bone=from_bone,
        brain_hu=float(np.median(smooth[inner])),
        noise_hu=noise,
        slice_unrest=_slice_unrest(smooth, inner),
        middle=(column, row, float(np.cos(turn)), float(np.sin(turn))),
    )


def _slice_unrest(smooth: Volume, inner: Mask) -> NDArray[np.float64]:
    """How widely the values of each slice are spread, as a multiple of what is usual in this head."""
    spreads = [
        np.ptp(np.percentile(values[mask], (10, 90))) if mask.any() else 0.0
        for values, mask in zip(smooth, inner, strict=True)
    ]
    usual = float(np.median([spread for spread in spreads if spread]))
    return np.maximum(np.array(spreads) / usual, 0.1)


def _parted(dense: Mask) -> NDArray[np.int32]:
    """Label what hangs together, thick bodies apart from thin sheets: a bleed apart from the falx it touches."""
    disc = _disc(2)[None]
    thick = ndimage.binary_dilation(ndimage.binary_opening(dense, disc), disc) & dense
    labels, count = ndimage.label(thick)
    thin, _ = ndimage.label(dense & ~thick)
    parted: NDArray[np.int32] = np.where(thin > 0, thin + count, labels)
    return parted


def _spot(scene: _Scene, where: Mask, box: tuple[slice, ...]) -> Spot | None:
    if scene.smooth[where].max() < CORE_HU:
        return None
    near = tuple(
        slice(max(part.start - more, 0), min(part.stop + more, size))
        for part, more, size in zip(box, (0, 8, 8), where.shape, strict=True)
    )
    spot = where[near]
    in_slice = spot.sum(axis=(1, 2))
    order = [int(index) for index in np.argsort(-in_slice, kind="stable") if in_slice[index]]
    rows, columns = np.nonzero(spot[order[0]])
    deep = _depth(spot)
    row, column = np.unravel_index(int(deep[order[0]].argmax()), spot.shape[1:])
    top, left = near[1].start, near[2].start
    features = _features(scene, spot, near, near[0].start + order[0], float(deep.max()))
    return Spot(
        probability=probability(features),
        millilitres=float(spot.sum()) * VOXEL_ML,
        mean_hu=float(scene.smooth[where].mean()),
        slices=tuple(near[0].start + index for index in order),
        middle=(near[0].start + order[0], int(top + row), int(left + column)),
        box=(
            int(left + columns.min()),
            int(top + rows.min()),
            int(left + columns.max() + 1),
            int(top + rows.max() + 1),
        ),
        features=features,
    )


def _features(scene: _Scene, spot: Mask, near: tuple[slice, ...], best: int, deepest_mm: float) -> tuple[float, ...]:
    hu, smooth, inner = scene.hu[near], scene.smooth[near], scene.inner[near]
    halo = ndimage.binary_dilation(spot, _disc(2)[None])
    around = ndimage.binary_dilation(halo, _disc(5)[None]) & inner & ~halo & (scene.from_bone[near] > 3)
    slices, rows, columns = (places + part.start for places, part in zip(np.nonzero(spot), near, strict=True))
    off = scene.off_middle(rows, columns)
    _, _, cosine, sine = scene.middle
    mirror_rows = np.clip(np.rint(rows + 2 * off * sine), 0, scene.hu.shape[1] - 1).astype(int)
    mirror_columns = np.clip(np.rint(columns - 2 * off * cosine), 0, scene.hu.shape[2] - 1).astype(int)
    is_seen = scene.inner[slices, mirror_rows, mirror_columns]
    mirrored = np.where(is_seen, scene.smooth[slices, mirror_rows, mirror_columns], scene.brain_hu)
    brain_slices = np.flatnonzero(scene.inner.any(axis=(1, 2)))
    # Dura, sinuses and what bone lends its neighbours are thin; a bleed may lie in the same place and be thick.
    thinness = float(np.clip((9 - deepest_mm) / 6, 0, 1))
    is_bony = scene.from_bone[near][spot] < 6
    is_middle = np.abs(off) * GRID_MM[2] < 8
    return (
        float(np.log(spot.sum() * VOXEL_ML)),
        float(np.percentile(smooth[spot], 75)) - scene.brain_hu,
        float(np.log(deepest_mm)),
        float(np.mean(is_bony)) * thinness,
        float(np.mean(is_middle)) * thinness,
        float(scene.is_chalk[near][halo].mean()),
        float(np.percentile(smooth[around], 10)) - scene.brain_hu if around.any() else 0.0,
        float(np.log(np.median(np.abs(hu - smooth)[around]) / scene.noise_hu + 0.1)) if around.any() else 0.0,
        float(np.log(scene.slice_unrest[best])),
        float(np.mean(smooth[spot]) - np.mean(mirrored)),
        float((best - brain_slices[0]) / max(int(np.ptp(brain_slices)), 1)),
    )


def _depth(spot: Mask) -> Volume:
    """How deep each voxel lies in a spot, in its slice: a sheet through many slices is no thicker for it."""
    padded = np.pad(spot, ((0, 0), (1, 1), (1, 1)))
    deep = ndimage.distance_transform_edt(padded, (1e3, *GRID_MM[1:]))[:, 1:-1, 1:-1]
    return np.asarray(deep, np.float32)


def probability(features: Sequence[float]) -> float:
    """What the regression makes of features."""
    scores = [
        min(max((value - term.mean) / term.deviation, -FURTHEST), FURTHEST)
        for value, term in zip(features, TERMS.values(), strict=True)
    ]
    logit = BIAS + sum(
        score * term.weight + score**2 * term.square for score, term in zip(scores, TERMS.values(), strict=True)
    )
    return float(1 / (1 + np.exp(-np.clip(logit, -30, 30))))


def _smoothed(hu: Volume, counted: Mask) -> Volume:
    """A Gaussian mean in the slice over what counts; bone, chalk and air next to it do not leak in."""
    sigma = (0.0, 1.0, 1.0)
    weights = ndimage.gaussian_filter(counted.astype(np.float32), sigma)
    mean = ndimage.gaussian_filter(np.where(counted, hu, 0).astype(np.float32), sigma)
    smooth: Volume = np.where(weights > 0.2, mean / np.maximum(weights, 0.2), 0).astype(np.float32)
    return smooth


def _averaged(hu: NDArray[Any], spacing_mm: Sequence[float]) -> Volume:
    """Average on the grid that all is looked at on, by how much of each voxel lies in each of its voxels."""
    coarse = hu.astype(np.float32)
    for axis, (mm, wanted) in enumerate(zip(spacing_mm, GRID_MM, strict=True)):
        if abs(mm - wanted) > 1e-3:
            shares = _shares(hu.shape[axis], mm / wanted)
            coarse = np.moveaxis(np.tensordot(shares, coarse, (1, axis)), 0, axis)
    return np.ascontiguousarray(coarse)


def _shares(count: int, width: float) -> Volume:
    """How much each of `count` steps of that width has in each step of width 1, as a matrix whose rows add up to 1."""
    edges = np.arange(count + 1) * width
    steps = np.arange(max(int(count * width + 0.5), 1))[:, None]
    overlap = np.minimum(edges[1:], steps + 1) - np.maximum(edges[:-1], steps)
    shares = np.maximum(overlap, 0)
    return np.asarray(shares / np.maximum(shares.sum(axis=1, keepdims=True), 1e-6), np.float32)


def _disc(radius: int) -> Mask:
    y, x = np.mgrid[-radius : radius + 1, -radius : radius + 1]
    disc: Mask = x**2 + y**2 <= radius**2
    return disc
