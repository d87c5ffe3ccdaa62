"""How quickly bytes may go at which hours: what a site's line can spare while people work on it."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from zoneinfo import ZoneInfo

from server.worklist.hours import span_on
from storage.directory import DAYS, Opening

_DAY = timedelta(days=1)


@dataclass(frozen=True, slots=True, kw_only=True)
class Bandwidth:
    """Bytes a second that may go: at some hours so many, at all others the usual number; None: as many as can.

    Where hours overlap, the fewest of them hold.
    """

    usual: float | None
    hours: Sequence[tuple[Opening, float]] = ()
    zone: ZoneInfo = field(default_factory=lambda: ZoneInfo("UTC"))

    def at(self, moment: datetime) -> float | None:
        """Bytes a second at a moment; 0: none."""
        holding = [rate for opening, rate in self.hours if self._is_in(opening, moment)]
        return min(holding) if holding else self.usual

    def _is_in(self, opening: Opening, moment: datetime) -> bool:
        today = moment.astimezone(self.zone).date()
        for day in (today - _DAY, today):
            begin, end = span_on(day, opening.starts, opening.ends, self.zone)
            if DAYS[day.weekday()] in opening.days and begin <= moment < end:
                return True
        return False


class Pace:
    """Spreads bytes over time. For any thread: all who send by it together keep to the rate.

    Parameters
    ----------
    seconds
        A clock that only goes on, in seconds.
    """

    def __init__(self, seconds: Callable[[], float]) -> None:
        self._seconds = seconds
        self._lock = threading.Lock()
        self._free_at = 0.0

    def delay(self, amount: int, rate: float | None) -> float:
        """Seconds to wait before so many bytes go at a rate, which is not 0; they count as sent."""
        if rate is None:
            return 0.0
        with self._lock:
            now = self._seconds()
            begin = max(now, self._free_at)
            self._free_at = begin + amount / rate
            return begin - now
