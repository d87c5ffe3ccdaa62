"""When an item is due by the contract of its facility, and the marks that its clock comes to.

The contract is the last to be asked: a plugin's `sla_for` goes before it. Either answer is an `Sla`, and `apply_sla`
makes the clock of the item run by it. Marks are rows; `fire_marks` tells of each once, however often and by however
many it is called, whatever the clock on the wall does.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from typing import Any

import orjson
import sqlalchemy as sa

from readingroom.events import SlaCrossed
from readingroom.model import PRIORITIES, Sla, WorkItem
from server.worklist.items import Work, schedule_item
from server.worklist.marks import after_pause, calendar_for, calendar_of, place_marks
from storage.catalog.directory import contract_for, facility_zone
from storage.catalog.engine import begin_write
from storage.catalog.sla import ItemClock, has_due_marks, read_clock, take_due_marks, write_clock
from storage.catalog.work_items import StoredItem
from storage.directory import Contract, StudyClass, zone_of

Tell = Callable[[sa.Connection, Sequence[Mapping[str, Any]]], object]
"""Appends events in a transaction, as `server.announce.announce` and `append_events` do."""

_AT_ONCE = 200


def contract_of(connection: sa.Connection, item: WorkItem) -> Sla | None:
    """What the contract of its facility says of an item; its clock began when the item could first be read.

    The contract is the one that held on that day. Pauses are not in its times: `apply_sla` adds them.

    Returns
    -------
    Sla or None
        None where the item cannot be read yet, or no contract or class of one applies to it.
    """
    clock = read_clock(connection, item.id)
    begin = clock.started_at if clock else item.ready_at
    if begin is None:
        return None
    day = begin.astimezone(zone_of(facility_zone(connection, item.facility))).date()
    agreed = contract_for(connection, item.facility, day)
    found = class_of(agreed.contract, item) if agreed else None
    if agreed is None or found is None:
        return None
    calendar = calendar_for(connection, agreed, found, item.facility)
    return Sla(
        due_at=calendar.after(begin, found.due),
        warn_at=calendar.after(begin, found.warns_after),
        grace=found.grace,
        pause_reasons=found.pause_reasons,
        because=f"{found.study_type} of the contract of {agreed.facility} from {agreed.contract.valid_from},"
        f" version {agreed.version}",
        contract=agreed.id,
        study_type=found.study_type,
    )


def class_of(contract: Contract, item: WorkItem) -> StudyClass | None:
    """The first class of a contract that applies to an item, by what it is now and not by what was ordered."""
    return next((one for one in contract.classes if _applies(one, item)), None)


def _applies(one: StudyClass, item: WorkItem) -> bool:
    asked = (
        (one.of_priorities, PRIORITIES[item.rank]),
        (one.modalities, (item.modality or "").upper()),
        (one.body_parts, (item.body_part or "").upper()),
        (one.subspecialties, item.subspecialty or ""),
    )
    if not any(wanted for wanted, _ in asked):
        return item.study_type == one.study_type
    return all(value in wanted for wanted, value in asked if wanted)


def apply_sla(work: Work, item: StoredItem, sla: Sla) -> StoredItem:
    """Let the clock of an item run by this from now on; what was told of it already is not told again.

    Pauses that are over are added to its times, and one that is not is added when it is.
    """
    before = read_clock(work.connection, item.id)
    clock = before or ItemClock(item=item.id, started_at=item.ready_at or item.created_at)
    clock = replace(
        clock,
        contract=sla.contract or None,
        study_type=sla.study_type,
        because=sla.because,
        grace=sla.grace,
        pause_reasons=sla.pause_reasons,
    )
    write_clock(work.connection, clock)
    calendar, due_at, warn_at = calendar_of(work.connection, clock, item.facility), sla.due_at, sla.warn_at
    for pause in clock.pauses:
        due_at = after_pause(calendar, due_at, pause)
        warn_at = warn_at and after_pause(calendar, warn_at, pause)
    # What an order has said of its type stays; what a contract has said before does not.
    is_ordered = item.study_type not in (None, before.study_type if before else None)
    study_type = item.study_type if is_ordered else sla.study_type or None
    changed = schedule_item(work, item, due_at=due_at, warn_at=warn_at, study_type=study_type)
    place_marks(work.connection, changed, clock)
    return changed


def fire_marks(engine: sa.Engine, now: datetime, tell: Tell) -> int:
    """Tell of the marks that clocks have come to, each in an event; returns how many. Called once a second."""
    fired = 0
    while True:
        with engine.connect() as connection:
            if not has_due_marks(connection, now):
                return fired
        with begin_write(engine) as connection:
            marks = take_due_marks(connection, now, _AT_ONCE)
            events = [
                {
                    "type": SlaCrossed.__name__,
                    "version": SlaCrossed.version,
                    "study_uid": one.study_uid,
                    "facility": one.facility,
                    "item": one.item,
                    "at": now,
                    "payload": orjson.dumps(
                        {
                            "item": one.item,
                            "mark": one.mark,
                            "study_uid": one.study_uid,
                            "due_at": one.due_at.isoformat(),
                        }
                    ),
                }
                for one in marks
            ]
            if events:
                tell(connection, events)
        if not marks:
            return fired  # others have them
        fired += len(marks)
