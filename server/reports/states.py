"""Where a report can go: one table, which every command asks first.

The states are those of FHIR R4's diagnostic-report-status. What is signed stays as it is; whatever comes after it is a
version of its own.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from readingroom.errors import Conflict
from readingroom.model import ReportKind, ReportStatus
from storage.catalog.reports import StoredReport

Command = Literal[
    "write", "sign preliminary", "sign final", "revise", "append", "amend", "correct", "cancel", "withdraw"
]


@dataclass(frozen=True, slots=True)
class Step:
    """The states that a command may be given in, and the one that it leads to; None: the report stays where it is."""

    sources: tuple[ReportStatus, ...]
    target: ReportStatus | None


_UNSIGNED: tuple[ReportStatus, ...] = ("registered", "preliminary")
FINAL: tuple[ReportStatus, ...] = ("final", "amended", "corrected", "appended")
"""The states of a report that somebody has signed for good."""

STEPS: Mapping[Command, Step] = {
    "write": Step((*_UNSIGNED, *FINAL), None),
    "sign preliminary": Step(_UNSIGNED, "preliminary"),
    "sign final": Step(_UNSIGNED, "final"),
    "revise": Step(FINAL, None),
    "append": Step(FINAL, "appended"),
    "amend": Step(FINAL, "amended"),
    "correct": Step(FINAL, "corrected"),
    "cancel": Step(("registered",), "cancelled"),
    "withdraw": Step(("preliminary", *FINAL), "entered-in-error"),
}

SIGNING: Mapping[ReportKind, Command] = {
    "report": "sign final",
    "addendum": "append",
    "amendment": "amend",
    "correction": "correct",
}
"""What signing a text means, by what the text is to the version before."""


def check(command: Command, report: StoredReport) -> Step:
    """The step of a command, if it may be taken; raises `Conflict`, which says what would be right."""
    step = STEPS[command]
    if report.status not in step.sources:
        legal = " or ".join(step.sources)
        raise Conflict(f"Report {report.id} is {report.status}; to {command} it, it has to be {legal}.")
    return step
