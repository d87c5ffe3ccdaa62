"""The order of the slices of a series."""

from __future__ import annotations

from collections.abc import Sequence
from math import isfinite

import numpy as np

from storage.objects import MetadataJson

_SAME_DIRECTION = 1e-4
"""How far direction cosines of one stack may differ; modalities write them with six digits or fewer."""


def slice_order(instances: Sequence[MetadataJson]) -> list[int]:
    """Sort the instances of a series as slices of a stack.

    By the projection of Image Position (Patient) on the normal of Image Orientation (Patient), PS3.3 C.7.6.2.1.1, if
    all instances have both and one orientation; slices at one place (phases, echoes) by Instance Number. Else by
    Instance Number if all have one; else as given.

    Parameters
    ----------
    instances
        Their metadata in the DICOM JSON model, in order of arrival.

    Returns
    -------
    list of int
        Indices into `instances`. The first slice is the one that lies furthest against the normal (row direction x
        column direction): the most inferior one of an axial stack in standard orientation.
    """
    numbers = [_numbers(instance, "00200013", 1) for instance in instances]
    projections = _projections(instances)
    keys: list[tuple[float, ...]] = [()] * len(instances)
    if all(numbers):
        keys = [(number,) for (number,) in numbers]
    if projections is not None:
        keys = [(round(at, 3), *then) for at, then in zip(projections, keys, strict=True)]  # to a micrometre
    return sorted(range(len(instances)), key=keys.__getitem__)


def _projections(instances: Sequence[MetadataJson]) -> list[float] | None:
    positions = [_numbers(instance, "00200032", 3) for instance in instances]
    directions = [_numbers(instance, "00200037", 6) for instance in instances]
    if not instances or not all(positions) or not all(directions):
        return None
    if np.ptp(directions, axis=0).max() > _SAME_DIRECTION:
        return None
    normal = np.cross(directions[0][:3], directions[0][3:])
    if np.linalg.norm(normal) < 0.5:  # row and column directions that are no right angle, or no directions at all
        return None
    return [float(at) for at in np.asarray(positions) @ normal]


def _numbers(instance: MetadataJson, tag: str, count: int) -> tuple[float, ...]:
    """Give the finite numbers of an element if there are `count`, else none: real files hold text here as well."""
    try:
        numbers = tuple(float(value) for value in instance[tag]["Value"])
    except (KeyError, TypeError, ValueError):
        return ()
    return numbers if len(numbers) == count and all(map(isfinite, numbers)) else ()
