"""Which series of a study an algorithm may be asked about, and as what its answer counts.

The core lets an algorithm promote a study that its clearance covers. A study may have series of several regions,
though, so what holds for the study is looked at here for each series: an answer about a series that the clearance does
not cover names its algorithm as research, and the core lets that change nothing.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from readingroom import Algorithm, Series


def fault(algorithm: Algorithm, series: Series) -> str:
    """Why what an algorithm says about a series is research; empty where it is not.

    A series that does not say which part of the body it shows is of no region that anything is cleared for.
    """
    name = f"{algorithm.name} {algorithm.version}"
    if algorithm.is_research:
        return f"{name} is for research only"
    if algorithm.clearance is None:
        return f"{name} has no clearance number"
    if not is_of_modality(algorithm, series):
        return f"{name} is not cleared for {series.modality or 'a series without modality'}"
    if not is_of_region(algorithm, series):
        return f"{name} is not cleared for {series.body_part or 'an unnamed region'}"
    return ""


def as_used(algorithm: Algorithm, series: Series) -> Algorithm:
    """The algorithm as a finding in that series may name it."""
    return replace(algorithm, is_research=True) if fault(algorithm, series) else algorithm


def to_look_at(
    algorithm: Algorithm, series: Iterable[Series], *, is_off_label_tried: bool
) -> tuple[tuple[Series, ...], str]:
    """The series that an algorithm is asked about, and what is to be told about those that it is not.

    Those of its modalities and regions; where there are none and off-label use is tried, all of its modalities.
    """
    possible = tuple(one for one in series if one.instance_count and is_of_modality(algorithm, one))
    chosen = tuple(one for one in possible if is_of_region(algorithm, one))
    if chosen or not possible or is_off_label_tried:
        return chosen or possible, ""
    regions = "/".join(sorted({one.body_part or "an unnamed region" for one in possible}))
    return (
        (),
        f"{algorithm.name} {algorithm.version} is for {'/'.join(algorithm.body_parts)}, not for {regions}: not asked",
    )


def is_of_modality(algorithm: Algorithm, series: Series) -> bool:
    """Whether the indications of an algorithm name the modality of a series."""
    return not algorithm.modalities or series.modality in algorithm.modalities


def is_of_region(algorithm: Algorithm, series: Series) -> bool:
    """Whether the indications of an algorithm name the region of a series."""
    return not algorithm.body_parts or series.body_part in algorithm.body_parts
