"""The contract of readingroom: the only package that a plugin imports.

It keeps semantic versioning: what is listed here, and every hook that is not marked EXPERIMENTAL, stays as it is until
the next major version.
"""

from typing import Any

from readingroom import deprecated
from readingroom.clock import Clock, SetClock, SystemClock
from readingroom.context import Context, FramePlace, Layout
from readingroom.errors import (
    Conflict,
    GiveUp,
    Invalid,
    NotFound,
    PluginFailed,
    ReadingRoomError,
    Refused,
    RetryLater,
    Unavailable,
    Unreachable,
)
from readingroom.hooks import hookimpl
from readingroom.model import (
    LOCAL_OPERATOR,
    NOBODY,
    PRIORITIES,
    Actor,
    Addendum,
    Algorithm,
    Code,
    Contact,
    CriticalResult,
    Destination,
    Escalation,
    Evidence,
    Facility,
    Finding,
    FollowUp,
    Order,
    Passage,
    Patient,
    Reader,
    Report,
    Rung,
    Scope,
    Section,
    Series,
    Signature,
    Sla,
    Snapshot,
    Source,
    Study,
    Waiting,
    WorkItem,
    priority_rank,
)
from readingroom.results import (
    Coerce,
    Draft,
    Issue,
    Metric,
    Notified,
    Prior,
    PriorSummary,
    Proposal,
    Receipt,
    Reject,
    Triage,
    Veto,
)

__version__ = "0.1.0"

__all__ = [
    "LOCAL_OPERATOR",
    "NOBODY",
    "PRIORITIES",
    "Actor",
    "Addendum",
    "Algorithm",
    "Clock",
    "Code",
    "Coerce",
    "Conflict",
    "Contact",
    "Context",
    "CriticalResult",
    "Destination",
    "Draft",
    "Escalation",
    "Evidence",
    "Facility",
    "Finding",
    "FollowUp",
    "FramePlace",
    "GiveUp",
    "Invalid",
    "Issue",
    "Layout",
    "Metric",
    "NotFound",
    "Notified",
    "Order",
    "Passage",
    "Patient",
    "PluginFailed",
    "Prior",
    "PriorSummary",
    "Proposal",
    "Reader",
    "ReadingRoomError",
    "Receipt",
    "Refused",
    "Reject",
    "Report",
    "RetryLater",
    "Rung",
    "Scope",
    "Section",
    "Series",
    "SetClock",
    "Signature",
    "Sla",
    "Snapshot",
    "Source",
    "Study",
    "SystemClock",
    "Triage",
    "Unavailable",
    "Unreachable",
    "Veto",
    "Waiting",
    "WorkItem",
    "hookimpl",
    "priority_rank",
]


def __getattr__(name: str) -> Any:
    """Names that are going away (PEP 562)."""
    return globals()[deprecated.replacement(name)]
