"""What the findings of an algorithm may change: nothing, unless the algorithm is cleared for just this study.

An algorithm that the FDA has cleared (a 510(k), De Novo or PMA number) may flag a study of a modality and region of its
indications for use, and so may promote its work item. Whatever else an algorithm says is kept, marked as research, and
moves nothing, except where the operator has put the whole server into research mode. Every decision is told.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from readingroom.model import Algorithm, Study
from readingroom.results import Triage

_CLEARANCE = re.compile(r"(K|DEN|P|H|BK|BP)\d{6}(/S\d{3})?")
"""510(k), De Novo, PMA (with its supplement), HDE, and the numbers of CBER."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Decision:
    """Whether a triage may promote its item, and why or why not, in one line for the audit."""

    may_promote: bool
    because: str


def decide(triage: Triage, study: Study, *, is_research_mode: bool) -> Decision:
    """Look whether each finding of a triage comes from an algorithm that may promote this study.

    A triage without findings promotes nothing: there would be nothing to show for it.
    """
    if not triage.findings:
        return Decision(may_promote=False, because="it has no finding")
    faults = sorted({fault(finding.algorithm, study) for finding in triage.findings} - {""})
    if not faults:
        names = sorted({f"{one.algorithm.name} {one.algorithm.clearance}" for one in triage.findings if one.algorithm})
        return Decision(may_promote=True, because=f"cleared: {', '.join(names)}")
    if is_research_mode:
        return Decision(may_promote=True, because=f"research mode, although {'; '.join(faults)}")
    return Decision(may_promote=False, because="; ".join(faults))


def fault(algorithm: Algorithm | None, study: Study) -> str:
    """Why an algorithm may not promote a study; empty where it may."""
    if algorithm is None:
        return "a finding names no algorithm"
    name = f"{algorithm.name} {algorithm.version}"
    if algorithm.is_research:
        return f"{name} is for research only"
    if algorithm.clearance is None:
        return f"{name} has no clearance number"
    if not _CLEARANCE.fullmatch(algorithm.clearance):
        return f"{name} has the clearance number {algorithm.clearance[:20]!r}, which is none of the FDA's"
    if algorithm.modalities and not study.has(*algorithm.modalities):
        return f"{name} is not cleared for {'/'.join(study.modalities) or 'a study without modality'}"
    if algorithm.body_parts and not study.region(*algorithm.body_parts):
        return f"{name} is not cleared for {'/'.join(study.body_parts) or 'an unnamed region'}"
    return ""
