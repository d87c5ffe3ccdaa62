"""The clock of an item follows what happens to it: it is paused for reasons that its contract allows, goes on, ends.

Called with every change of an item, in the transaction of the change; most changes cost it nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from datetime import datetime
from typing import Any

import sqlalchemy as sa

from readingroom.model import SlaMark
from server.worklist.hours import ALWAYS, Calendar
from storage.catalog.directory import AgreedContract, agreed_contract, facility_zone
from storage.catalog.sla import ItemClock, Mark, drop_marks, read_clock, set_marks, write_clock
from storage.catalog.work_items import StoredItem
from storage.directory import StudyClass, zone_of

Note = Callable[[SlaMark, Mapping[str, Any]], None]
"""Has it told that a clock was paused or goes on."""

_ENDED = ("completed", "cancelled")
_STILL = ("held", "waiting")


def follow(connection: sa.Connection, before: StoredItem, after: StoredItem, now: datetime, note: Note) -> StoredItem:
    """Let the clock follow a change of its item; returns the item, with other times where it goes on after a pause."""
    if after.kind == "external":
        return after
    if after.state in _ENDED:
        drop_marks(connection, after.id)
        return after
    if after.state in _STILL and before.state != after.state:
        _pause(connection, after, now, note)
    elif before.state in _STILL and after.state not in _STILL:
        after = _go_on(connection, after, now, note)
    if (before.due_at, before.warn_at) != (after.due_at, after.warn_at):
        place_marks(connection, after, read_clock(connection, after.id))
    return after


def place_marks(connection: sa.Connection, item: StoredItem, clock: ItemClock | None) -> None:
    """Put the marks where the times of the item are; nowhere as long as its clock is paused."""
    marks: dict[Mark, datetime | None] = {}
    if item.warn_at is not None:
        marks["warn"] = item.warn_at
    if item.due_at is not None:
        marks["due"] = item.due_at
        marks["breached"] = item.due_at + clock.grace if clock else item.due_at
    is_paused = clock is not None and clock.paused_at is not None
    drop_marks(connection, item.id)
    set_marks(connection, item.id, dict.fromkeys(marks) if is_paused else marks)


def is_reason(reason: str, allowed: tuple[str, ...]) -> bool:
    """Whether a reason is one of those allowed, or begins with one: ``Missing prior: CT of 2024`` does."""
    words = _words(reason)
    return any(words == one or words.startswith((f"{one}:", f"{one},")) for one in map(_words, allowed))


def _words(text: str) -> str:
    return " ".join(text.lower().replace("-", " ").replace("_", " ").split())


def _pause(connection: sa.Connection, item: StoredItem, now: datetime, note: Note) -> None:
    clock = read_clock(connection, item.id)
    if clock is None or clock.paused_at is not None or not is_reason(item.reason, clock.pause_reasons):
        return
    clock = replace(clock, paused_at=now)
    write_clock(connection, clock)
    place_marks(connection, item, clock)
    note("paused", {"reason": item.reason})


def _go_on(connection: sa.Connection, item: StoredItem, now: datetime, note: Note) -> StoredItem:
    """Give an item back, after a pause, the time that it had left."""
    clock = read_clock(connection, item.id)
    if clock is None or clock.paused_at is None:
        return item
    pause = (clock.paused_at, max(now, clock.paused_at))
    clock = replace(clock, paused_at=None, pauses=(*clock.pauses, pause))
    write_clock(connection, clock)
    calendar = calendar_of(connection, clock, item.facility)
    due_at, warn_at = (at and after_pause(calendar, at, pause) for at in (item.due_at, item.warn_at))
    item = replace(item, due_at=due_at, warn_at=warn_at, order_at=due_at or item.order_at)
    place_marks(connection, item, clock)
    note("resumed", {"due_at": due_at and due_at.isoformat()})
    return item


def after_pause(calendar: Calendar, moment: datetime, pause: tuple[datetime, datetime]) -> datetime:
    """When a clock that has stood still comes to what it would have come to at `moment`."""
    begin, end = pause
    return moment if moment <= begin else calendar.after(end, calendar.between(begin, moment))


# -- the hours that it runs in -----------------------------------------------------------------------------------------


def calendar_of(connection: sa.Connection, clock: ItemClock, facility: str) -> Calendar:
    """The hours that the clock of an item runs in: those of the very version of the contract that it began with."""
    agreed = agreed_contract(connection, clock.contract) if clock.contract else None
    for one in agreed.contract.classes if agreed else ():
        if agreed and one.study_type == clock.study_type:
            return calendar_for(connection, agreed, one, facility)
    return ALWAYS


def calendar_for(connection: sa.Connection, agreed: AgreedContract, of: StudyClass, facility: str) -> Calendar:
    """The hours of a class of a contract, by the clock of the facility."""
    if of.hours == "24x7":
        return ALWAYS
    contract, zone = agreed.contract, zone_of(facility_zone(connection, facility))
    return Calendar(openings=contract.business_hours, holidays=frozenset(contract.holidays), zone=zone)
