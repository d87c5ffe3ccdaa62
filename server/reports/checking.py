"""What is amiss with a report that is about to be signed, as plugins see it."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

from readingroom.errors import Conflict
from readingroom.model import Report, Study
from readingroom.results import Issue
from server.hooks import Hooks

MOST = 100
"""Issues that one check may have."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Checked:
    """What one plugin says of a report, or why it says nothing."""

    plugin: str
    issues: tuple[Issue, ...] = ()
    problem: str = ""


def check_report(hooks: Hooks, report: Report, study: Study | None) -> list[Checked]:
    """Ask all plugins; one that fails is told of, and holds nothing up."""
    return [
        Checked(plugin=answer.plugin, issues=tuple(answer.value or ())[:MOST], problem=answer.problem or "")
        for answer in hooks.decide_all("check_report", report=report, study=study)
    ]


def require_passed(checked: Sequence[Checked], blocking: Collection[str]) -> None:
    """Raise `Conflict` where something is amiss that the operator does not let be signed."""
    for one in checked:
        for issue in one.issues:
            if issue.severity == "block" and issue.code in blocking:
                raise Conflict(f"Check {issue.code} of {one.plugin} keeps the report from being signed: {issue.text}")
