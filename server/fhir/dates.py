"""Dates and times of FHIR as ranges of milliseconds: what is less precise stands for more of them (R4 3.1.1.4.7)."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta

BEGINNING, END = -1e300, 1e300
"""Of a period that has none."""

_DATE_TIME = re.compile(
    r"(\d{4})(?:-(\d\d)(?:-(\d\d)(?:[T ](\d\d):(\d\d)(?::(\d\d)(?:\.(\d{1,9}))?)?)?)?)?(Z|[+ -]\d\d:\d\d)?"
)
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MILLISECOND = timedelta(milliseconds=1)


def range_of(text: str) -> tuple[float, float] | None:
    """The first and the last millisecond of a date, time or instant; None where it is none.

    Without a zone it is taken to be UTC.
    """
    found = _DATE_TIME.fullmatch(text.strip())
    if found is None:
        return None
    year, month, day, hour, minute, second, fraction, zone = found.groups()
    if zone and hour is None:
        return None
    try:
        begin = datetime(int(year), int(month or 1), int(day or 1), int(hour or 0), int(minute or 0), tzinfo=UTC)
        # A leap second is taken for the one before it: clocks of most systems have none.
        begin += timedelta(seconds=min(int(second or 0), 59), microseconds=int((fraction or "0").ljust(6, "0")[:6]))
        if second and int(second) > 60:
            return None
        if month is None:
            end = begin.replace(year=begin.year + 1)
        elif day is None:
            end = begin.replace(year=begin.year + begin.month // 12, month=begin.month % 12 + 1)
        elif hour is None:
            end = begin + timedelta(days=1)
        elif second is None:
            end = begin + timedelta(minutes=1)
        elif fraction is None:
            end = begin + timedelta(seconds=1)
        else:
            end = begin + _MILLISECOND
        shift = _shift(zone)
    except (ValueError, OverflowError):
        return None
    low = (begin - _EPOCH - shift) // _MILLISECOND
    return float(low), float((end - _EPOCH - shift) // _MILLISECOND - 1)


def moments(low: float, high: float) -> tuple[datetime, datetime]:
    """The same range as times; what is beyond the calendar is its first or last time."""
    return _moment(low), _moment(high) + _MILLISECOND - timedelta(microseconds=1)


def _moment(milliseconds: float) -> datetime:
    try:
        return _EPOCH + timedelta(milliseconds=milliseconds)
    except OverflowError:
        edge = datetime.min if milliseconds < 0 else datetime.max - timedelta(days=1)
        return edge.replace(tzinfo=UTC)


def _shift(zone: str | None) -> timedelta:
    if zone is None or zone == "Z":
        return timedelta(0)
    hours, minutes = int(zone[1:3]), int(zone[4:])
    if hours > 14 or minutes > 59:
        raise ValueError(zone)
    return timedelta(hours=hours, minutes=minutes) * (-1 if zone[0] == "-" else 1)
