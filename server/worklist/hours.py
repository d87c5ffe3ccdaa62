"""Hours by the clock on the wall: when they begin and end, and how much of them a span of time takes.

A time of the clock is one moment on every day. Where the clock is put back and a time comes twice, it is the first;
where it is put forward and a time is left out, it is the moment at which the clock jumps. So what follows on each
other by the clock does so without a gap and without an overlap, on those two days as well.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from zoneinfo import ZoneInfo

from readingroom.errors import Invalid
from storage.directory import DAYS, Opening

_DAY = timedelta(days=1)
_TEN_YEARS = 3660
_UTC = ZoneInfo("UTC")


def moment(wall: datetime, zone: ZoneInfo) -> datetime:
    """The moment, in UTC, at which the clock of a zone shows `wall` (a time without a zone)."""
    first = wall.replace(tzinfo=zone, fold=0).astimezone(UTC)
    if first.astimezone(zone).replace(tzinfo=None) == wall:
        return first
    # Left out: by the old offset it lies after the jump, by the new one before it. Halve until the jump is found.
    low, high = wall.replace(tzinfo=zone, fold=1).astimezone(UTC), first
    offset = low.astimezone(zone).utcoffset()
    while high - low > timedelta(seconds=1):
        middle = (low + (high - low) / 2).replace(microsecond=0)
        if middle.astimezone(zone).utcoffset() == offset:
            low = middle
        else:
            high = middle
    return high


def span_on(day: date, starts: time, ends: time, zone: ZoneInfo) -> tuple[datetime, datetime]:
    """When hours begin that begin on a day, and when they end: on the next one where `ends` is not after `starts`."""
    last = day if starts < ends else day + _DAY
    return moment(datetime.combine(day, starts), zone), moment(datetime.combine(last, ends), zone)


@dataclass(frozen=True, slots=True, kw_only=True)
class Calendar:
    """The hours in which a clock runs: all of them, or those of `openings` in a zone, but for its holidays."""

    openings: Sequence[Opening] = ()
    holidays: Collection[date] = ()
    zone: ZoneInfo = _UTC

    def after(self, begin: datetime, span: timedelta) -> datetime:
        """The moment at which so much of the hours has passed since `begin`.

        Raises
        ------
        Invalid
            There are not that many in ten years.
        """
        if not self.openings or span <= timedelta():
            return begin + span
        rest = span
        for opens, closes in self._spans(begin):
            if closes - opens >= rest:
                return opens + rest
            rest -= closes - opens
        raise Invalid("The business hours of this contract never come to that much time.")

    def between(self, begin: datetime, end: datetime) -> timedelta:
        """How much of the hours lies between two moments; nothing if the second is not after the first."""
        if end <= begin:
            return timedelta()
        if not self.openings:
            return end - begin
        passed = timedelta()
        for opens, closes in self._spans(begin):
            if opens >= end:
                break
            passed += min(closes, end) - opens
        return passed

    def _spans(self, begin: datetime) -> Iterator[tuple[datetime, datetime]]:
        """The open spans after a moment, in order, none of them in another; ten years of them."""
        reached = begin
        first = begin.astimezone(self.zone).date() - _DAY
        for number in range(_TEN_YEARS):
            day = first + number * _DAY
            if day in self.holidays:
                continue
            name = DAYS[day.weekday()]
            today = (span_on(day, one.starts, one.ends, self.zone) for one in self.openings if name in one.days)
            for opens, closes in sorted(today):
                opens = max(opens, reached)
                if closes > opens:
                    yield opens, closes
                    reached = closes


ALWAYS = Calendar()
"""Every hour of every day."""
