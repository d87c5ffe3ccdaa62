"""Who reads what next: the index policy, a pure function of a snapshot of the queue.

1. The core has filtered by licence, credential and shift: a snapshot says who is eligible for each item.
2. The order is: flagged by an algorithm, STAT, at risk of being late, then by priority. Among equals the shortest read
   goes first, and of STAT items the one that has to be begun soonest: a long one has little time to wait.
3. An item goes to the free reader of its field with the fewest other skills, so that the versatile stay free.
4. It goes to a reader of another field only if the wait for one of its own would be longer than its slack.

Three guards keep a promise to one class from being paid by another. A STAT item that would be late otherwise goes
before what an algorithm flagged. Where more is due than the readers can do, nothing is promoted for being at risk, for
each promotion would only make the next item late, and overflow readers are called. What is late for long is promoted
all the same, so that nothing waits for ever.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from enum import IntEnum

from plugins.routing.settings import RoutingSettings
from readingroom import Proposal, Reader, Snapshot, Waiting, WorkItem, priority_rank


class Grade(IntEnum):
    """How soon an item is to be read; the lowest goes first."""

    PRESSING = 0
    FLAGGED = 1
    STAT = 2
    AT_RISK = 3
    ASAP = 4
    URGENT = 5
    ROUTINE = 6


WORDS: Mapping[Grade, str] = {
    Grade.PRESSING: "STAT and nearly due",
    Grade.FLAGGED: "flagged",
    Grade.STAT: "STAT",
    Grade.AT_RISK: "at risk",
    Grade.ASAP: "as soon as possible",
    Grade.URGENT: "urgent",
    Grade.ROUTINE: "routine",
}
_STAT = priority_rank("stat")
_BY_RANK = (Grade.ROUTINE, Grade.URGENT, Grade.ASAP, Grade.STAT)


def propose(snapshot: Snapshot, settings: RoutingSettings) -> tuple[Proposal, ...]:
    """What those who are free should read next: an item for each at most, the most pressing first.

    Where an item is better kept for a reader who is free soon, nobody is proposed for it; a later snapshot decides. An
    overflow reader who is proposed is called by that.
    """
    lefts = [seconds_left(waiting, snapshot.at) for waiting in snapshot.waiting]
    is_overloaded = predicted_load(snapshot, lefts, settings) >= settings.overload
    readers = {reader.id: reader for reader in snapshot.readers if is_overloaded or not reader.is_overflow}
    graded = []
    for position, (waiting, left) in enumerate(zip(snapshot.waiting, lefts, strict=True)):
        grade = grade_of(waiting.item, left, settings, is_overloaded=is_overloaded)
        is_by_time = grade is Grade.STAT and left is not None
        graded.append((grade, left if is_by_time else waiting.read_seconds, position))
    ordered = [(grade, snapshot.waiting[position]) for grade, _, position in sorted(graded)]
    return tuple(_planned(ordered, readers, snapshot.at, settings, called=is_overloaded))


def grade_of(item: WorkItem, left: float | None, settings: RoutingSettings, *, is_overloaded: bool) -> Grade:
    """How soon an item is to be read.

    Parameters
    ----------
    left
        The seconds until it has to be begun to be done in time: negative where it will be late, None where nothing is
        due.
    """
    if item.rank >= _STAT:
        if left is not None and 0 <= left <= settings.pressing_minutes * 60:
            return Grade.PRESSING
        return Grade.FLAGGED if item.is_flagged else Grade.STAT
    if item.is_flagged:
        return Grade.FLAGGED
    if left is not None and 0 <= left <= settings.at_risk_minutes * 60 and not is_overloaded:
        return Grade.AT_RISK
    if left is not None and left <= -settings.late_minutes * 60:
        return Grade.AT_RISK
    return _BY_RANK[item.rank]


def is_matched(reader: Reader, item: WorkItem) -> bool:
    """Whether an item is in a reader's field: theirs is its subspecialty, and one of their skills covers it.

    An item without a subspecialty is in everybody's; a reader without skills has all of them.
    """
    if item.subspecialty is not None and item.subspecialty not in reader.subspecialties:
        return False
    return not reader.skills or any(_covers(skill, item) for skill in reader.skills)


def predicted_load(snapshot: Snapshot, lefts: Sequence[float | None], settings: RoutingSettings) -> float:
    """The share of the readers' time that what is due within the horizon takes; from 1.0 on some will be late.

    What they are reading now counts with the rest of it. Overflow readers do not count, and neither does what is due
    later: a long queue of the day after tomorrow is no overload.
    """
    horizon = settings.horizon_minutes * 60
    regular = [reader for reader in snapshot.readers if not reader.is_overflow]
    taken = sum(min(_wait(reader, snapshot.at), horizon) for reader in regular)
    for waiting, left in zip(snapshot.waiting, lefts, strict=True):
        if left is not None and left <= horizon:
            taken += waiting.read_seconds
    if not regular:
        return float("inf") if taken else 0.0
    return taken / (len(regular) * horizon)


def seconds_left(waiting: Waiting, at: datetime) -> float | None:
    """How long an item may still wait and be done in time; None where nothing is due."""
    if waiting.item.due_at is None:
        return None
    return (waiting.item.due_at - at).total_seconds() - waiting.read_seconds


def _planned(
    ordered: Sequence[tuple[Grade, Waiting]],
    readers: Mapping[str, Reader],
    at: datetime,
    settings: RoutingSettings,
    *,
    called: bool,
) -> Iterator[Proposal]:
    """The items one after another, each given to a reader whose time it takes; only who is free now is proposed."""
    waits = {id: _wait(reader, at) for id, reader in readers.items()}
    free = {id for id, wait in waits.items() if wait == 0}
    for position, (grade, waiting) in enumerate(ordered):
        if not free:
            return
        chosen = _chosen(waiting, [readers[id] for id in waiting.eligible if id in readers], waits, grade, settings)
        if chosen is None:
            continue
        reader, why = chosen
        waits[reader.id] += waiting.read_seconds
        if reader.id in free:
            free.remove(reader.id)
            if called and reader.is_overflow:
                why += "; overflow, for more is due than the others can do"
            yield Proposal(
                item=waiting.item.id,
                reader=reader.id,
                score=float(len(ordered) - position),
                because=f"{WORDS[grade]}{_due(waiting, at)}: {why}",
            )


def _chosen(
    waiting: Waiting, eligible: Sequence[Reader], waits: Mapping[str, float], grade: Grade, settings: RoutingSettings
) -> tuple[Reader, str] | None:
    def order(reader: Reader) -> tuple[float, bool, int, str]:
        breadth = len(reader.subspecialties) + len(reader.skills)
        return waits[reader.id], reader.is_overflow, breadth, reader.id

    soonest = min(eligible, key=order, default=None)
    if soonest is None:
        return None
    matched = min((reader for reader in eligible if is_matched(reader, waiting.item)), key=order, default=None)
    if matched is None:
        return soonest, "no reader of its field is eligible"
    wait = waits[matched.id]
    if wait <= _slack(grade, settings) * 60 or wait <= waits[soonest.id]:
        return matched, "in the reader's field, and in the fewest others among who is free"
    return soonest, f"the next reader of its field is free in {wait / 60:.0f} min"


def _slack(grade: Grade, settings: RoutingSettings) -> float:
    slack = settings.slack_minutes
    match grade:
        case Grade.FLAGGED:
            return slack.flagged
        case Grade.PRESSING | Grade.STAT:
            return slack.stat
        case Grade.AT_RISK:
            return slack.at_risk
        case Grade.ASAP:
            return slack.asap
        case Grade.URGENT:
            return slack.urgent
        case Grade.ROUTINE:
            return slack.routine


def _covers(skill: str, item: WorkItem) -> bool:
    modality, _, region = skill.partition("/")
    return modality in ("*", item.modality) and region in ("", "*", item.body_part)


def _wait(reader: Reader, at: datetime) -> float:
    return 0.0 if reader.free_at is None else max(0.0, (reader.free_at - at).total_seconds())


def _due(waiting: Waiting, at: datetime) -> str:
    if waiting.item.due_at is None:
        return ""
    minutes = (waiting.item.due_at - at).total_seconds() / 60
    return f", due in {minutes:.0f} min" if minutes >= 0 else f", late by {-minutes:.0f} min"
