"""Findings in sentences."""

from __future__ import annotations

from readingroom import Draft, Finding, Passage, Prior, Section

_MOST = 50


def draft_of(
    findings: tuple[Finding, ...], priors: tuple[Prior, ...], *, least_probability: float = 0.5
) -> Draft | None:
    """A draft with a sentence for each finding, the most probable first; None where there is nothing to say.

    Every sentence keeps the algorithm whose finding it tells, and the images in which it is to be seen.
    """
    told = [one for one in findings if one.probability is None or one.probability >= least_probability]
    told = sorted(told, key=lambda one: (one.category or 9, -(one.probability or 0)))[:_MOST]
    if not told:
        return None
    sections = [
        Section(name="findings", title="Findings", passages=tuple(_passage(one, _in_full(one)) for one in told)),
        Section(name="impression", title="Impression", passages=tuple(_passage(one, _line(one.text)) for one in told)),
    ]
    first = told[0].algorithm
    count = "1 finding" if len(told) == 1 else f"{len(told)} findings"
    compared = f", {len(priors)} earlier studies known" if priors else ""
    return Draft(sections=tuple(sections), algorithm=first, because=f"{count}{compared}")


def _passage(finding: Finding, sentence: str) -> Passage:
    return Passage(text=f"{sentence}\n", evidence=finding.evidence, algorithm=finding.algorithm)


def _in_full(finding: Finding) -> str:
    values = ", ".join(f"{name.replace('_', ' ')} {value:g}" for name, value in finding.measurements.items())
    return _line(f"{finding.text}{f' ({values})' if values else ''}")


def _line(text: str) -> str:
    line = " ".join(text.split())
    return line if line.endswith((".", "!", "?")) else f"{line}."
