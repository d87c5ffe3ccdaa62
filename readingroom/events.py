"""What happened, as values that outlive the process and the release that made them.

Each class has a version. What an older release has written is brought up to date by `_UPGRADES` when it is read; what a
newer one has written is refused, not guessed at.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, ClassVar

from readingroom.errors import Invalid
from readingroom.jsonio import TAG, from_json, to_json
from readingroom.model import ItemState, ReportKind, ReportStatus, SlaMark


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """Something happened at a time; the subclasses say what."""

    version: ClassVar[int] = 1

    at: datetime
    facility: str


@dataclass(frozen=True, slots=True, kw_only=True)
class StudyArrived(Event):
    """The first instance of a study was stored."""

    study_uid: str


@dataclass(frozen=True, slots=True, kw_only=True)
class StudySettled(Event):
    """A study has been quiet for its period and counts as complete; `revision` counts how often."""

    study_uid: str
    revision: int = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class StudyChanged(Event):
    """Instances of a settled study came, were corrected or removed; the tuples are SOP Instance UIDs."""

    study_uid: str
    revision: int
    added: tuple[str, ...] = ()
    removed: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class ItemChanged(Event):
    """A work item went from one state to another; `before` is None where it was created."""

    item: str
    before: ItemState | None
    after: ItemState
    study_uid: str | None = None
    actor: str | None = None
    reason: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class SlaCrossed(Event):
    """The clock of an item passed a mark, or was stopped or started again."""

    item: str
    mark: SlaMark
    study_uid: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class EscalationOpened(Event):
    """Somebody has to be reached."""

    escalation: str
    item: str | None = None
    study_uid: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class EscalationAcknowledged(Event):
    """Somebody was reached, and has said so: by whom, and what was read back."""

    escalation: str
    actor: str
    read_back: str = ""
    item: str | None = None
    study_uid: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ReportSigned(Event):
    """A version of a report was signed; `number` says which, and `status` as what."""

    report: str
    number: int
    status: ReportStatus
    kind: ReportKind = "report"
    reader: str = ""
    item: str | None = None
    study_uid: str | None = None


EVENTS: Mapping[str, type[Event]] = {
    kind.__name__: kind
    for kind in (
        StudyArrived,
        StudySettled,
        StudyChanged,
        ItemChanged,
        SlaCrossed,
        EscalationOpened,
        EscalationAcknowledged,
        ReportSigned,
    )
}
"""The classes by the type that rows and messages name."""

_UPGRADES: Mapping[tuple[str, int], Callable[[dict[str, Any]], dict[str, Any]]] = {}
"""By type and the version that was written: what makes the fields of the next version of it."""


def pack_event(event: Event) -> dict[str, Any]:
    """The event as JSON, with its type and version."""
    told = to_json(event)
    return {"type": told.pop(TAG), "version": event.version, **told}


def unpack_event(told: Mapping[str, Any]) -> Event:
    """The event that `pack_event` made it from, now or in an older release.

    Raises
    ------
    Invalid
        It is of no type or version that is known here, or lacks something.
    """
    content = dict(told)
    name, version = content.pop("type", None), content.pop("version", None)
    kind = EVENTS.get(name) if isinstance(name, str) else None
    if kind is None or not isinstance(version, int) or version > kind.version:
        raise Invalid(f"There is no event {str(name)[:60]!r} of version {str(version)[:10]} here.")
    for older in range(version, kind.version):
        content = _UPGRADES[kind.__name__, older](content)
    event: Event = from_json(kind, {TAG: kind.__name__, **content})
    return event
