"""Asks one algorithm about each study that has settled, and lets what it finds raise the priority of the reading.

The algorithm is the built-in detector of blood on a CT of the head, or a learned model: in a file (ONNX), or on a
server (KServe v2). Two algorithms are two plugins of this module, each with its own name, settings, process and
retries.
"""

from __future__ import annotations

from readingroom import Context, Study, Triage, hookimpl

from .detectors import detector_of
from .gate import fault, to_look_at
from .settings import Settings


@hookimpl
def register_settings() -> type[Settings]:
    return Settings


@hookimpl
def started(ctx: Context) -> None:
    """Load the model: what is wrong with it is told at once."""
    detector_of(ctx.settings.detector)


@hookimpl
def triage_study(study: Study, ctx: Context) -> Triage | None:
    """Ask the algorithm about each series that it is for.

    Returns
    -------
    Triage or None
        None where nothing in the study is of its modality. `because` says in one line what was found or why nothing was
        asked, and, where the answer is research, why.
    """
    detector = detector_of(ctx.settings.detector)
    algorithm = detector.algorithm
    series, not_asked = to_look_at(algorithm, study.series, is_off_label_tried=ctx.settings.is_off_label_tried)
    if not series:
        return Triage(because=not_asked) if not_asked else None
    look = detector.look(series, ctx)
    name = f"{algorithm.name} {algorithm.version}"
    if look.highest is None:
        return Triage(because=_line(f"{name} was not asked", *look.left_out))
    if not look.findings:
        return Triage(because=_line(f"{name} found nothing, p={look.highest:.2f} at most", *look.left_out))
    research = sorted({because for one in series if (because := fault(algorithm, one))})
    first = max(look.findings, key=lambda finding: finding.probability or 0)
    return Triage(
        findings=look.findings,
        priority=ctx.settings.detector.priority,
        is_flagged=True,
        because=_line(f"{first.text}, p={first.probability:.2f}", *(f"research: {one}" for one in research)),
    )


def _line(*told: str) -> str:
    return "; ".join(told)[:500]
