"""Hours by the clock: both days on which it is changed, what spans take, and what lies between."""

from __future__ import annotations

from datetime import UTC, date, datetime, time, timedelta
from itertools import pairwise
from zoneinfo import ZoneInfo

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from readingroom.errors import Invalid
from server.worklist.hours import ALWAYS, Calendar, moment, span_on
from storage.directory import Opening

unhurried = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
CHICAGO = ZoneInfo("America/Chicago")
FORWARD, BACK = date(2026, 3, 8), date(2026, 11, 1)
WEEK = Opening.model_validate({"days": "mon-fri", "starts": "08:00", "ends": "18:00"})
OFFICE = Calendar(openings=(WEEK,), zone=CHICAGO)


def utc(text: str) -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=UTC)


@pytest.mark.parametrize(
    ("wall", "expected"),
    [
        ("2026-01-05T08:00", "2026-01-05T14:00"),
        ("2026-07-06T08:00", "2026-07-06T13:00"),
        ("2026-03-08T01:59:59", "2026-03-08T07:59:59"),
        ("2026-03-08T02:00", "2026-03-08T08:00"),
        ("2026-03-08T02:30", "2026-03-08T08:00"),
        ("2026-03-08T03:00", "2026-03-08T08:00"),
        ("2026-11-01T00:59", "2026-11-01T05:59"),
        ("2026-11-01T01:30", "2026-11-01T06:30"),
        ("2026-11-01T02:00", "2026-11-01T08:00"),
    ],
)
def test_a_time_of_the_clock_is_one_moment_on_every_day(wall: str, expected: str) -> None:
    assert moment(datetime.fromisoformat(wall), CHICAGO) == utc(expected)


@unhurried
@given(
    zone=st.sampled_from(
        ["America/Chicago", "Europe/Berlin", "Australia/Lord_Howe", "America/Phoenix", "Asia/Kolkata"]
    ),
    wall=st.datetimes(datetime(2025, 1, 1), datetime(2028, 1, 1)).map(lambda value: value.replace(microsecond=0)),
    later=st.integers(0, 3 * 3600),
)
def test_what_is_later_by_the_clock_is_never_earlier(zone: str, wall: datetime, later: int) -> None:
    where = ZoneInfo(zone)
    assert moment(wall, where) <= moment(wall + timedelta(seconds=later), where)


@pytest.mark.parametrize(("day", "hours"), [(FORWARD, 7), (BACK, 9), (date(2026, 6, 1), 8)])
def test_a_night_shift_is_as_long_as_the_night_is(day: date, hours: int) -> None:
    begin, end = span_on(day - timedelta(days=1), time(23), time(7), CHICAGO)
    assert end - begin == timedelta(hours=hours)


@pytest.mark.parametrize("day", [FORWARD, BACK])
def test_shifts_that_follow_on_each_other_leave_no_gap_and_do_not_overlap(day: date) -> None:
    walls = [time(0), time(1, 30), time(2), time(2, 30), time(3), time(0)]
    spans = [span_on(day, begin, end, CHICAGO) for begin, end in pairwise(walls)]
    for before, after in pairwise(spans):
        assert before[1] == after[0]
    assert spans[-1][1] - spans[0][0] == timedelta(hours=23 if day == FORWARD else 25)


def test_a_clock_that_never_rests_counts_everything() -> None:
    begin = utc("2026-03-07T12:00")
    assert ALWAYS.after(begin, timedelta(hours=30)) == begin + timedelta(hours=30)
    assert ALWAYS.between(begin, begin + timedelta(hours=30)) == timedelta(hours=30)
    assert ALWAYS.between(begin, begin - timedelta(hours=1)) == timedelta()


@pytest.mark.parametrize(
    ("begin", "hours", "end"),
    [
        ("2026-01-05T14:00", 2, "2026-01-05T16:00"),  # Monday morning
        ("2026-01-09T23:00", 2, "2026-01-12T15:00"),  # an hour on Friday, one on Monday
        ("2026-01-10T12:00", 10, "2026-01-13T00:00"),  # of Saturday: all Monday
        ("2026-03-06T23:00", 2, "2026-03-09T14:00"),  # the clock is put forward between: Monday begins an hour earlier
        ("2026-10-30T22:00", 2, "2026-11-02T15:00"),
    ],
)
def test_business_hours_are_counted_by_the_facilitys_clock(begin: str, hours: int, end: str) -> None:
    assert OFFICE.after(utc(begin), timedelta(hours=hours)) == utc(end)
    assert OFFICE.between(utc(begin), utc(end)) == timedelta(hours=hours)


def test_nothing_opens_on_a_holiday_but_what_opened_the_evening_before_stays() -> None:
    night = Opening.model_validate({"days": "mon-sun", "starts": "20:00", "ends": "04:00"})
    calendar = Calendar(openings=(night,), holidays=[date(2026, 1, 6)], zone=CHICAGO)
    begin = utc("2026-01-06T08:00")  # two in the morning of the holiday
    assert calendar.after(begin, timedelta(hours=2)) == utc("2026-01-06T10:00")
    assert calendar.after(begin, timedelta(hours=3)) == utc("2026-01-08T03:00")


def test_hours_that_lie_in_each_other_are_counted_once() -> None:
    whole = Opening.model_validate({"days": "mon", "starts": "06:00", "ends": "22:00"})
    calendar = Calendar(openings=(WEEK, whole), zone=CHICAGO)
    monday = utc("2026-01-05T06:00")
    assert calendar.between(monday, monday + timedelta(days=1)) == timedelta(hours=16)


def test_hours_that_never_come_are_an_error_and_not_for_ever() -> None:
    days = [date(2026, 1, 5) + timedelta(weeks=week) for week in range(530)]
    monday = Opening.model_validate({"days": "mon", "starts": "08:00", "ends": "09:00"})
    with pytest.raises(Invalid, match="never come"):
        Calendar(openings=(monday,), holidays=days, zone=CHICAGO).after(utc("2026-01-05T00:00"), timedelta(hours=1))


@unhurried
@given(
    begin=st.datetimes(datetime(2026, 1, 1), datetime(2026, 12, 31), timezones=st.just(UTC)),
    first=st.integers(0, 5000),
    second=st.integers(1, 5000),
)
def test_what_a_span_takes_is_what_lies_between(begin: datetime, first: int, second: int) -> None:
    one, other = timedelta(minutes=first), timedelta(minutes=second)
    halfway = OFFICE.after(begin, one)
    end = OFFICE.after(halfway, other)
    assert OFFICE.between(begin, end) == one + other
    assert OFFICE.after(begin, one + other) == end
