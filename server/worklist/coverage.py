"""Watches that what is open can be read in time: where nobody could be given an item before it is due, it escalates."""

from __future__ import annotations

from datetime import datetime, timedelta

import sqlalchemy as sa

from readingroom.model import Rung
from server.queue import Queue
from server.worklist.directory import Eligibility, coverage_gaps, eligible_readers
from server.worklist.escalations import open_escalation
from server.worklist.items import THE_SERVER, Work
from storage.catalog.directory import Directory
from storage.catalog.engine import begin_write
from storage.catalog.work_items import StoredItem, first_of_each_place

LADDER = (
    Rung(number=1, role="desk", after=timedelta()),
    Rung(number=2, role="supervisor", after=timedelta(minutes=10)),
)
"""Who can call a reader in."""

_AHEAD = timedelta(days=1)
"""For what has no due time."""
_FARTHEST = timedelta(days=7)


def watch_coverage(engine: sa.Engine, directory: Directory, now: datetime, queue: Queue | None = None) -> int:
    """Escalate, once for each item, that nobody may be given it before it is due; returns how many items that are now.

    Of each facility, and of each state that patients are in, the item that is due first is looked at. Facilities that
    are not in the directory, and a directory without readers, are not watched.
    """
    if not directory.readers:
        return 0
    with engine.connect() as connection:
        first = first_of_each_place(connection)
    uncovered = [(item, found) for item in first if (found := _uncovered(directory, item, now)) is not None]
    for item, found in uncovered:
        with begin_write(engine) as connection:
            work = Work(connection=connection, now=now, actor=THE_SERVER, queue=queue)
            open_escalation(
                work,
                key=f"uncovered {item.id}",
                facility=item.facility,
                item=item.id,
                study_uid=item.study_uid,
                reason=f"Nobody can read item {item.workitem_uid} before it is due: {found.alarm}.",
                ladder=LADDER,
            )
            work.tell()
    return len(uncovered)


def _uncovered(directory: Directory, item: StoredItem, now: datetime) -> Eligibility | None:
    if item.facility not in directory.facilities:
        return None
    found = eligible_readers(directory, item, now)
    if found.readers:
        return None
    due_at = item.due_at or item.created_at + _AHEAD
    until = min(max(due_at, now + timedelta(minutes=1)), now + _FARTHEST)
    return found if coverage_gaps(directory, item, now, until) == [(now, until)] else None
