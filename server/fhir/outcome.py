"""What was wrong with a request, as a FHIR client is told: OperationOutcome (R4)."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from readingroom.errors import Invalid, ReadingRoomError, Unprocessable
from server.status import issue_code

Severity = Literal["fatal", "error", "warning", "information"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Issue:
    """One thing that was wrong; `code` is of http://hl7.org/fhir/issue-type, `expression` the FHIRPath of the fault."""

    severity: Severity = "error"
    code: str = "invalid"
    diagnostics: str
    expression: str = ""


class BadResource(Invalid):
    """A resource cannot be read.

    Parameters
    ----------
    issues
        All that was found, at least one.
    """

    def __init__(self, issues: Sequence[Issue]) -> None:
        super().__init__(issues[0].diagnostics)
        self.issues = tuple(issues)


class BrokenRule(Unprocessable):
    """A resource can be read, and breaks rules of its type or of this server.

    Parameters
    ----------
    issues
        All that was found, at least one.
    """

    def __init__(self, issues: Sequence[Issue]) -> None:
        super().__init__(issues[0].diagnostics)
        self.issues = tuple(issues)


def issues_of(error: ReadingRoomError) -> tuple[Issue, ...]:
    """What an error tells a client."""
    if isinstance(error, BadResource | BrokenRule):
        return error.issues
    return (Issue(code=issue_code(error), diagnostics=error.message),)


def outcome(issues: Iterable[Issue]) -> dict[str, Any]:
    """An OperationOutcome of these issues; of none, it says that all is well."""
    told = [_told(issue) for issue in issues]
    return {
        "resourceType": "OperationOutcome",
        "issue": told or [{"severity": "information", "code": "informational", "diagnostics": "All is well."}],
    }


def _told(issue: Issue) -> dict[str, Any]:
    told: dict[str, Any] = {"severity": issue.severity, "code": issue.code, "diagnostics": issue.diagnostics}
    if issue.expression:
        told["expression"] = [issue.expression]
    return told
