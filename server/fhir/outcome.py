"""What was wrong with a request, as a FHIR client is told: OperationOutcome (R4)."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
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
    issues: tuple[Issue, ...] = getattr(error, "issues", ())
    return issues or (Issue(code=issue_code(error), diagnostics=error.message),)


@contextmanager
def placed(expression: str) -> Iterator[None]:
    """Has what goes wrong in here tell its place: that of an entry in a Bundle."""
    try:
        yield
    except ReadingRoomError as error:
        error.__dict__["issues"] = tuple(_placed(issue, expression) for issue in issues_of(error))
        raise


def _placed(issue: Issue, expression: str) -> Issue:
    _type, dot, inside = issue.expression.partition(".")
    return replace(issue, expression=f"{expression}.resource.{inside}" if dot else expression)


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
