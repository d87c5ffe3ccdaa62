"""What the plugin asks about a series: one class for the built-in detector, one for learned models."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from readingroom import Algorithm, Code, Context, Evidence, Finding, FramePlace, Series

from .gate import as_used
from .hyperdense import Spot, find_spots
from .settings import HyperdenseTable, KServeTable, OnnxTable
from .tensors import prepared, probabilities

if TYPE_CHECKING:
    from .models import Model

HYPERDENSE = Algorithm(
    name="Hyperdense",
    version="1",
    manufacturer="readingroom",
    modalities=("CT",),
    body_parts=("HEAD", "BRAIN", "SKULL"),
    is_research=True,
)
BLOOD = Code(value="1386000", system="SCT", meaning="Intracranial hemorrhage")
MOST_FINDINGS = 5
"""Of one series: who reads it wants to be pointed somewhere, not everywhere."""
FEWEST_SLICES = 8
"""Of a CT of the head; a scout has one or two."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Look:
    """What was seen: findings, the greatest probability (also of what is no finding), and why a series was left out."""

    findings: tuple[Finding, ...] = ()
    highest: float | None = None
    left_out: tuple[str, ...] = ()


class Detector(Protocol):
    """Something that looks at series."""

    @property
    def algorithm(self) -> Algorithm:
        """What it is, and what it is for."""

    def look(self, series: Sequence[Series], ctx: Context) -> Look:
        """Look at these series of one study."""


@dataclass(frozen=True, slots=True)
class Hyperdense:
    """Blood on an axial CT of the head without contrast medium."""

    table: HyperdenseTable

    @property
    def algorithm(self) -> Algorithm:
        return HYPERDENSE

    def look(self, series: Sequence[Series], ctx: Context) -> Look:
        """Look at the series of the fewest slices: thick ones, of which most are read."""
        unfit = [(one, _unfit(one, ctx)) for one in series]
        fit = [one for one, because in unfit if not because]
        left_out = tuple(f"series {one.number}: {because}" for one, because in unfit if because)
        if not fit:
            return Look(left_out=left_out)
        chosen = min(fit, key=lambda one: len(ctx.pixels.layout(one).frames))
        layout = ctx.pixels.layout(chosen)
        assert layout.spacing_mm is not None  # else it is unfit
        spots = find_spots(ctx.pixels.values(chosen), layout.spacing_mm)
        found = [spot for spot in spots[:MOST_FINDINGS] if spot.probability >= self.table.threshold]
        return Look(
            findings=tuple(self._finding(spot, chosen, layout.frames) for spot in found),
            highest=spots[0].probability if spots else 0.0,
            left_out=left_out,
        )

    def _finding(self, spot: Spot, series: Series, frames: Sequence[FramePlace]) -> Finding:
        first, *others = (frames[index] for index in spot.slices)
        return Finding(
            text=f"Dense spot within the skull, {spot.millilitres:.1f} mL",
            code=BLOOD,
            category=self.table.category,
            probability=round(spot.probability, 3),
            evidence=(_evidence(series, first, spot.box), *(_evidence(series, frame) for frame in others)),
            algorithm=as_used(HYPERDENSE, series),
            measurements={"volume_ml": round(spot.millilitres, 2), "mean_hu": round(spot.mean_hu, 1)},
        )


@dataclass(frozen=True, slots=True)
class Learned:
    """Whatever a model was taught."""

    table: OnnxTable | KServeTable
    model: Model

    @property
    def algorithm(self) -> Algorithm:
        return self.table.algorithm.algorithm

    def look(self, series: Sequence[Series], ctx: Context) -> Look:
        looks = [self._look(one, ctx) for one in series]
        return Look(
            findings=tuple(finding for look in looks for finding in look.findings),
            highest=max((look.highest for look in looks if look.highest is not None), default=None),
            left_out=tuple(because for look in looks for because in look.left_out),
        )

    def _look(self, series: Series, ctx: Context) -> Look:
        if ctx.pixels.volume(series).ndim != 3:
            return Look(left_out=(f"series {series.number}: it is in colour",))
        is_inverted = _value(ctx.metadata.instances(series)[0], "00280004") == "MONOCHROME1"
        by_sample = np.concatenate(
            [
                probabilities(self.model.infer(tensor), len(tensor), self.table.output)
                for tensor in prepared(ctx.pixels.values(series), self.table.input, is_inverted=is_inverted)
            ]
        )
        highest = float(by_sample.max())
        if highest < self.table.threshold:
            return Look(highest=highest)
        frames = ctx.pixels.layout(series).frames
        if self.table.input.layout == "slices":
            seen = np.argsort(-by_sample, kind="stable")[: int((by_sample >= self.table.threshold).sum())]
            frames = tuple(frames[index] for index in seen)
        finding = Finding(
            text=self.table.text,
            code=self.table.code.code if self.table.code else None,
            category=self.table.category,
            probability=round(highest, 4),
            evidence=tuple(_evidence(series, frame) for frame in frames),
            algorithm=as_used(self.algorithm, series),
        )
        return Look(findings=(finding,), highest=highest)


def detector_of(table: HyperdenseTable | OnnxTable | KServeTable) -> Detector:
    """The detector that a table of the settings describes; its model is loaded once in a process."""
    if isinstance(table, HyperdenseTable):
        return Hyperdense(table)
    from .models import model_of  # late: the built-in detector needs nothing of it

    return Learned(table, model_of(table))


def _unfit(series: Series, ctx: Context) -> str:
    """Why a series is none in which the built-in detector could see blood; empty where it is one."""
    if any(_value(instance, "00180010") for instance in ctx.metadata.instances(series)):
        return "there is contrast medium in it"
    if ctx.pixels.volume(series).ndim != 3:
        return "it is in colour"
    layout = ctx.pixels.layout(series)
    if len(layout.frames) < FEWEST_SLICES:
        return f"it has fewer than {FEWEST_SLICES} slices"
    first, last = layout.frames[0].position_mm, layout.frames[-1].position_mm
    if first is None or last is None or layout.spacing_mm is None or not all(0.1 < mm < 20 for mm in layout.spacing_mm):
        return "its slices do not say where they lie"
    way = np.subtract(last, first)
    return "" if abs(way[2]) > 0.85 * np.linalg.norm(way) else "it is not axial"


def _evidence(series: Series, frame: FramePlace, box: tuple[int, int, int, int] | None = None) -> Evidence:
    return Evidence(series_uid=series.series_uid, instance_uid=frame.instance_uid, frames=(frame.number,), box=box)


def _value(instance: Mapping[str, Any], tag: str) -> Any:
    return (instance.get(tag, {}).get("Value") or [None])[0]
