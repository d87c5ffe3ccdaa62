"""Critical results: what a signed report has of them is told to somebody in time, or is open for everybody to see.

Signing opens an escalation for each, in the transaction of the signature, so there is no signed result that nobody has
been told to tell. Which one it is follows from what the result says: a later version that says it too opens no second
one. What a later version has no more is not closed by that. The desk is told, and whoever has heard of it hears again.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from math import ceil
from typing import Any

import sqlalchemy as sa

from readingroom.errors import Invalid
from readingroom.model import Category, CriticalResult, Priority, Report, Rung
from server.worklist.escalations import LIMITS, checked_ladder, cut, open_escalation, restore_result, withdraw_result
from server.worklist.items import Work, create_item
from storage.catalog.escalations import StoredEscalation, Timing, escalations_of

log = logging.getLogger(__name__)

Ask = Callable[..., Sequence[Rung] | None]
"""Asks plugins whom to reach, given what is known of an escalation; `server.worklist.flow.Flow.ladder`."""

Ladders = Mapping[str, Sequence[Rung]]
"""By the digest of a result, whom a plugin would have reached for it."""

Publish = Callable[[Work, StoredEscalation], None]
"""Writes, in the transaction, what other views keep of an escalation that has changed."""

RADLEX: Mapping[Category, str] = {1: "RID49480", 2: "RID49481", 3: "RID49482"}
"""The categories of actionable findings as RadLex codes them."""

MEASURED = timedelta(days=30)
"""What is measured where nobody says since when."""

_VOID = ("cancelled", "entered-in-error")
_PRIORITIES: Mapping[Category, Priority] = {1: "stat", 2: "urgent", 3: "routine"}
_DETAILS = ("accession_number", "patient_id", "patient_name", "birth_date", "study_date", "procedure")
_LINE = 1000


def digest_of(text: str) -> str:
    """What a text is known by: 32 hex digits, the same however its white space is."""
    return hashlib.sha256(" ".join(text.split()).encode()).hexdigest()[:32]


@dataclass(frozen=True, slots=True, kw_only=True)
class Criticals:
    """The critical results of a room: who says whom to reach, and who is told, in the transaction, of what changes."""

    ask: Ask
    published: list[Publish] = field(default_factory=list)

    def ladders(self, report: Report) -> Ladders:
        """Whom plugins would have reached for what a report says; to be asked before the transaction that signs it."""
        found: dict[str, Sequence[Rung]] = {}
        about = {"facility": report.facility, "study_uid": report.study_uid, "item": report.item}
        for result in report.critical_results:
            ladder = self.ask(reason=cut(result.text), category=result.category, details=_details(report), **about)
            if ladder is None:
                continue
            try:
                found[digest_of(result.text)] = checked_ladder(ladder)
            except Invalid as error:  # of a plugin: no reason not to sign, there is a ladder of ours
                log.warning("the ladder of a plugin for category %d is of no use: %s", result.category, error.message)
        return found

    def follow(self, work: Work, _stored: object, report: Report) -> None:
        """Open what a signed version calls for; as `server.reports.reports.Reports.signed` has it."""
        for row in open_criticals(work, report):
            self.publish(work, row)

    def publish(self, work: Work, row: StoredEscalation) -> None:
        """Tell that an escalation is another one now."""
        for publish in self.published:
            publish(work, row)


def open_criticals(work: Work, report: Report) -> list[StoredEscalation]:
    """Have somebody told of the critical results of a version that is being signed; returns what changed by that.

    Called in the transaction that signs, with the report locked, for versions that are withdrawn as well. Whom to
    reach is what `Work.ladders` has for the digest of a result; by default it is the ladder of the category.
    """
    wanted = {} if report.status in _VOID else _most_urgent(report.critical_results)
    known = {row.result: row for row in escalations_of(work.connection, [report.id], locked=True) if row.result}
    changed = []
    for result, found in known.items():
        if result not in wanted and found.withdrawn_at is None:
            changed += _take_out(work, report, found)
    for result, told in wanted.items():
        changed += _put_in(work, report, told, known.get(result))
    return changed


def open_criticals_of(connection: sa.Connection, reports: Collection[str]) -> Mapping[str, list[StoredEscalation]]:
    """Of those of some reports that have any, the critical results that nobody has read back yet."""
    found: dict[str, list[StoredEscalation]] = {}
    for row in escalations_of(connection, reports, state="open"):
        found.setdefault(row.report or "", []).append(row)
    return found


def is_finished(criticals: Iterable[StoredEscalation]) -> bool:
    """Whether a report with these open critical results may be shown as finished: none is of category 1."""
    return not any(one.category == 1 for one in criticals)


def _most_urgent(results: Iterable[CriticalResult]) -> dict[str, CriticalResult]:
    """By digest, what a report says; of what it says twice, the more urgent."""
    found: dict[str, CriticalResult] = {}
    for one in sorted(results, key=lambda one: one.category):
        found.setdefault(digest_of(one.text), one)
    return found


def _put_in(
    work: Work, report: Report, result: CriticalResult, found: StoredEscalation | None
) -> list[StoredEscalation]:
    if found is not None and found.category is not None and found.category <= result.category:
        if found.withdrawn_at is None:
            return []
        if found.state == "open":
            return [restore_result(work, found, cut(result.text))]
    changed = []
    if found is not None and found.withdrawn_at is None:
        changed.append(withdraw_result(work, found, f"More urgent in version {report.number} of the report:"))
    key = digest_of(result.text)
    again = "" if found is None else f" {report.number}"
    changed.append(_open(work, report, result, f"critical: {report.id} {key}{again}", key))
    return changed


def _take_out(work: Work, report: Report, found: StoredEscalation) -> list[StoredEscalation]:
    gone = withdraw_result(work, found, f"Not in the report any more, since version {report.number}:")
    if found.state != "acknowledged" or found.category is None:
        return [gone]
    # Who was told of it has to hear that it does not hold.
    heard = CriticalResult(
        category=found.category,
        text=f"Version {report.number} of the report does not have what {found.closed_by} was told: {found.reason}",
    )
    return [gone, _open(work, report, heard, f"withdrawn: {found.id} {report.number}", None)]


def _open(work: Work, report: Report, result: CriticalResult, key: str, digest: str | None) -> StoredEscalation:
    row = open_escalation(
        work,
        key=key,
        facility=report.facility,
        reason=cut(result.text),
        item=report.item,
        study_uid=report.study_uid,
        category=result.category,
        ladder=work.ladders.get(digest or ""),
        details=_details(report),
        report=report.id,
        result=digest,
    )
    # Whoever looks at the work, as workitems or as Tasks, sees the call that is to be made.
    create_item(
        work,
        facility=report.facility,
        kind="critical",
        id=row.id,
        is_ready=False,
        priority=_PRIORITIES[result.category],
        study_uid=report.study_uid,
        accession_number=report.accession_number,
        modality=next(iter(report.modalities), None),
        body_part=next(iter(report.body_parts), None),
        findings=" ".join(result.text.split())[:_LINE],
        due_at=row.reach_by,
    )
    return row


def _details(report: Report) -> dict[str, Any]:
    told: dict[str, Any] = {name: value for name in _DETAILS if (value := getattr(report, name))}
    if report.signatures:
        told["reader"] = report.signatures[-1].name
    return {"report": report.id, "number": report.number, **told}


# -- how long it takes -------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """How long it takes to tell critical results of a category, from the signature until they were read back.

    `within` is the share of those that were told within `limit_seconds`, of those that were or should have been by now;
    None where there is none. `overdue` are those that are open past it.
    """

    category: Category
    limit_seconds: float
    opened: int
    open: int
    overdue: int
    acknowledged: int
    cancelled: int
    p50_seconds: float | None
    p95_seconds: float | None
    within: float | None


def measure_criticals(timings: Sequence[Timing], now: datetime) -> list[Measured]:
    """The measures of each category; the same can be computed of the log, from what was opened and acknowledged."""
    return [_measured(category, [one for one in timings if one.category == category], now) for category in LIMITS]


def _measured(category: Category, timings: Sequence[Timing], now: datetime) -> Measured:
    reached = [one for one in timings if one.state == "acknowledged" and one.reached_at is not None]
    seconds = sorted((one.reached_at - one.opened_at).total_seconds() for one in reached if one.reached_at)
    limit = LIMITS[category].total_seconds()
    overdue = sum(one.state == "open" and one.reach_by is not None and now > one.reach_by for one in timings)
    counted = len(seconds) + overdue
    return Measured(
        category=category,
        limit_seconds=limit,
        opened=len(timings),
        open=sum(one.state == "open" for one in timings),
        overdue=overdue,
        acknowledged=sum(one.state == "acknowledged" for one in timings),
        cancelled=sum(one.state == "cancelled" for one in timings),
        p50_seconds=_percentile(seconds, 0.5),
        p95_seconds=_percentile(seconds, 0.95),
        within=sum(one <= limit for one in seconds) / counted if counted else None,
    )


def _percentile(ordered: Sequence[float], share: float) -> float | None:
    """The smallest value that so great a share of all does not exceed."""
    return ordered[max(ceil(share * len(ordered)), 1) - 1] if ordered else None
