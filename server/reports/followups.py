"""Follow-ups: what a signed report recommends is work that somebody tracks until it is closed.

Signing makes a work item for each recommendation, in the transaction of the signature. It waits, is due at the end of
the day that the report names, and is seen as a Task and as a workitem like all work. A study that comes in later may
be what was recommended: that is suggested and never taken for granted. One that is overdue escalates.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from datetime import date, datetime, time, timedelta
from functools import cache
from typing import get_args

import sqlalchemy as sa

from readingroom.errors import Conflict, Invalid
from readingroom.model import FollowUp, Report, Scope
from server.reports.critical import digest_of
from server.worklist.hours import moment
from server.worklist.items import Work, create_item, drop_item, finish_item, schedule_item
from storage.bodyparts import BODY_PARTS
from storage.catalog.counts import joined
from storage.catalog.follow_ups import (
    ListedFollowUp,
    Outcome,
    StoredFollowUp,
    find_follow_up,
    follow_ups_of,
    insert_follow_up,
    is_study_of,
    later_studies,
    may_be,
    update_follow_up,
)
from storage.catalog.reports import StoredReport
from storage.catalog.work_items import item_by_id
from storage.directory import zone_of

OPENED, CLOSED, MOVED = "FollowUpOpened", "FollowUpClosed", "FollowUpMoved"

OUTCOMES: tuple[Outcome, ...] = tuple(one for one in get_args(Outcome) if one not in ("", "withdrawn"))
"""What a person may close it with. That it was withdrawn is what a later version of the report says."""

_VOID = ("cancelled", "entered-in-error")
_ENDED = ("completed", "cancelled")
_NO_IMAGES = frozenset(("SR", "PR", "KO", "SEG", "DOC", "OT", "AU", "ECG", "REG", "RTSTRUCT", "RTPLAN", "RTDOSE"))
_MODALITIES: Sequence[tuple[re.Pattern[str], tuple[str, ...]]] = tuple(
    (re.compile(rf"\b(?:{words})\b", flags), modalities)
    for words, flags, modalities in (
        (r"CTA?|CT-?scans?", 0, ("CT",)),
        (r"computed tomograph\w+", re.IGNORECASE, ("CT",)),
        (r"MRI?|MRA|MRCP", 0, ("MR",)),
        (r"magnetic resonance", re.IGNORECASE, ("MR",)),
        (r"US", 0, ("US",)),
        (r"ultraso\w+|sonogra\w+|echogra\w+", re.IGNORECASE, ("US",)),
        (r"CXR|XR", 0, ("CR", "DX")),
        (r"x-?rays?|radiogra\w+|plain films?", re.IGNORECASE, ("CR", "DX")),
        (r"mammogra\w+|tomosynthesis", re.IGNORECASE, ("MG",)),
        (r"PET(?:[-/ ]?CT)?", 0, ("PT",)),
        (r"scintigra\w+|bone scans?|SPECT", re.IGNORECASE, ("NM",)),
    )
)
"""Words for what is to be done, and the modalities that its images are of (PS3.16 CID 33)."""

_LINE = 1000
_LONGEST_WORDS, _LONGEST_NOTE = 200, 2000


def follow_recommendations(work: Work, stored: StoredReport, report: Report) -> None:
    """Keep what a version recommends that is being signed.

    What an earlier version recommends too has one item, and moves with its day. What this one recommends no more is
    cancelled, with the reason. As `server.reports.reports.Reports.signed` has it, with the report locked.

    Raises
    ------
    Invalid
        A day is none.
    """
    wanted = {} if report.status in _VOID else {digest_of(one.text): one for one in report.follow_ups}
    known = {row.digest: row for row in follow_ups_of(work.connection, report.id)}
    for digest, row in known.items():
        if digest not in wanted and not row.outcome:
            _take_out(work, row, f"Version {report.number} of the report recommends it no more.")
    for digest, told in wanted.items():
        found = known.get(digest)
        if found is None or found.outcome == "withdrawn":
            _open(work, stored, report, told, digest)
        elif not found.outcome and found.due_on != told.due_on:
            _move(work, found, told, report)


def close_follow_up(
    work: Work, id: str, *, outcome: str, by: str, note: str = "", study_uid: str | None = None
) -> ListedFollowUp:
    """Close one, as a person says.

    Parameters
    ----------
    id
        Of its work item.
    outcome
        One of `OUTCOMES`.
    by
        Who says so: a person, a practice.
    study_uid
        The study that was the follow-up, where it is in the archive.

    Raises
    ------
    Conflict
        It is closed already.
    Invalid
        There is no such outcome; or no such study of that patient.
    """
    found = find_follow_up(work.connection, work.scope, id)
    item = item_by_id(work.connection, id, locked=True)
    if item.state in _ENDED:
        raise Conflict(f"Follow-up {id} is closed already: its work item is {item.state}.")
    if outcome not in OUTCOMES:
        raise Invalid(f"A follow-up is closed as {', '.join(OUTCOMES)}.")
    by = _said(by, _LONGEST_WORDS)
    if not by:
        raise Invalid("Say who has closed it: a person, or a practice.")
    note = _said(note, _LONGEST_NOTE)
    if study_uid:
        if outcome != "done":
            raise Invalid("A study is named where the follow-up was done.")
        if study_uid == found.row.study_uid or not is_study_of(
            work.connection, work.scope, study_uid, found.row.patient
        ):
            raise Invalid(f"There is no other study {study_uid[:64]} of that patient.")
    if outcome == "done":
        finish_item(work, item, reader=work.actor.id[:64])
    else:
        drop_item(work, item, f"{outcome}: {note}" if note else outcome)
    _close(work, found.row, outcome=outcome, closed_by=by, note=note, fulfilled_by=study_uid or None)
    return find_follow_up(work.connection, work.scope, id)


def suggestions(
    connection: sa.Connection, scope: Scope, found: Sequence[ListedFollowUp]
) -> Mapping[str, tuple[str, ...]]:
    """Of follow-ups that are open, by the id of their item, the studies that may be what was recommended."""
    rows = [one.row for one in found if one.is_open]
    candidates = later_studies(connection, scope, rows)
    return {row.item: tuple(dict.fromkeys(one.study_uid for one in candidates if may_be(one, row))) for row in rows}


def _open(work: Work, stored: StoredReport, report: Report, told: FollowUp, digest: str) -> None:
    modalities, body_parts = _wanted(told, report)
    item = create_item(
        work,
        facility=report.facility,
        kind="followup",
        is_ready=False,
        study_uid=report.study_uid,
        accession_number=report.accession_number,
        modality=next(iter(sorted(modalities)), None),
        body_part=next(iter(report.body_parts), None),
        findings=" ".join(told.text.split())[:_LINE],
        due_at=_end_of(told.due_on, report.zone),
    )
    row = StoredFollowUp(
        item=item.id,
        report=report.id,
        number=report.number,
        digest=digest,
        facility=report.facility,
        patient=stored.patient,
        study_uid=report.study_uid,
        text=told.text,
        procedure=told.procedure,
        due_on=told.due_on,
        modalities=joined(modalities),
        body_parts=joined(body_parts),
        recommended_at=work.now,
    )
    insert_follow_up(work.connection, row)
    _tell(work, row, OPENED, number=row.number, due_on=row.due_on)


def _move(work: Work, row: StoredFollowUp, told: FollowUp, report: Report) -> None:
    item = item_by_id(work.connection, row.item, locked=True)
    if item.state in _ENDED:
        return
    schedule_item(work, item, due_at=_end_of(told.due_on, report.zone), warn_at=None)
    update_follow_up(work.connection, row.item, {"due_on": told.due_on})
    _tell(work, row, MOVED, number=report.number, due_on=told.due_on)


def _take_out(work: Work, row: StoredFollowUp, reason: str) -> None:
    item = item_by_id(work.connection, row.item, locked=True)
    if item.state in _ENDED:
        return
    drop_item(work, item, reason)
    _close(work, row, outcome="withdrawn", closed_by=work.actor.id, note=reason)


def _close(work: Work, row: StoredFollowUp, *, outcome: str, **values: str | None) -> None:
    update_follow_up(work.connection, row.item, {"outcome": outcome, "closed_at": work.now, **values})
    _tell(work, row, CLOSED, outcome=outcome)


def _tell(work: Work, row: StoredFollowUp, what: str, **told: object) -> None:
    about = {"followup": row.item, "report": row.report, **told}
    work.note(what, about, facility=row.facility, study_uid=row.study_uid, item=row.item)


def _end_of(day: str, zone: str) -> datetime:
    """When a day ends where the facility is."""
    try:
        after = date.fromisoformat(day) + timedelta(days=1)
    except (ValueError, OverflowError):
        raise Invalid(f"A follow-up is due on a day such as 2027-05-24; there is no {day[:20]!r}.") from None
    return moment(datetime.combine(after, time()), zone_of(zone))


def _wanted(told: FollowUp, report: Report) -> tuple[frozenset[str], frozenset[str]]:
    """The modalities and regions of what is recommended: those it names, else those of the report."""
    text = f"{told.procedure or ''} {told.text}"
    named = {modality for words, modalities in _MODALITIES if words.search(text) for modality in modalities}
    modalities = named or set(report.modalities) - _NO_IMAGES
    regions = {part for words, part in _regions() if words.search(text)}
    return frozenset(modalities), frozenset(regions.union(part.strip().upper() for part in report.body_parts)) - {""}


@cache
def _regions() -> Sequence[tuple[re.Pattern[str], str]]:
    """Words for regions, and how Body Part Examined has them."""
    return tuple(
        (re.compile(rf"\b{re.escape(meaning)}\b", re.IGNORECASE), term) for term, (_code, meaning) in BODY_PARTS.items()
    )


def _said(text: str, longest: int) -> str:
    line = " ".join(text.split())
    if len(line) > longest or any(ord(one) < 32 or one == "\x7f" for one in line):
        raise Invalid(f"A name or a note is at most {longest} characters, without control characters.")
    return line
