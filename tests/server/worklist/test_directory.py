"""Who may be given what, and why all others may not."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo

import pytest
import sqlalchemy as sa
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from readingroom.errors import Refused
from server.worklist.directory import (
    Staffing,
    coverage_gaps,
    eligible_readers,
    may_be_given,
    on_shift_until,
    place_of,
    require_lawful,
)
from storage.catalog.directory import deactivate, write_facility, write_reader
from storage.catalog.engine import begin_write
from storage.directory import FacilityEntry, ReaderEntry
from tests.directory import directory, facility, item, reader

NOON = datetime(2026, 1, 5, 18, tzinfo=UTC)  # Monday, by the clock of Chicago
CHICAGO = ZoneInfo("America/Chicago")


def reasons(one: ReaderEntry, at: datetime = NOON, *facilities: FacilityEntry, **of: Any) -> list[str]:
    found = eligible_readers(directory(one, *facilities), item(**of), at)
    assert [reader.id for reader in found.readers] == ([] if one.id in found.refused else [one.id])
    return [reason.text for reason in found.refused.get(one.id, ())]


def test_one_with_licence_privileges_and_shift_is_eligible() -> None:
    assert reasons(reader()) == []


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ({"licences": []}, ["no licence for US-TX"]),
        ({"licences": [{"state": "US-OK", "number": "1"}]}, ["no licence for US-TX"]),
        (
            {"licences": [{"state": "US-TX", "number": "1", "to": date(2026, 1, 4)}]},
            ["the licence for US-TX ended on 2026-01-04"],
        ),
        (
            {"licences": [{"state": "US-TX", "number": "1", "from": date(2026, 1, 6)}]},
            ["the licence for US-TX begins on 2026-01-06"],
        ),
        ({"licences": [{"state": "US-TX", "number": "1", "to": date(2026, 1, 5)}]}, []),
        ({"credentials": []}, ["no privileges at mercy"]),
        ({"credentials": [{"facility": "north"}]}, ["no privileges at mercy"]),
        ({"credentials": [{"facility": "mercy", "status": "suspended"}]}, ["the privileges at mercy are suspended"]),
        (
            {
                "credentials": [
                    {"facility": "mercy"},
                    {"facility": "mercy", "status": "revoked", "from": date(2026, 1, 5)},
                ]
            },
            ["the privileges at mercy are revoked"],
        ),
        (
            {"credentials": [{"facility": "mercy", "to": date(2026, 1, 4)}]},
            ["the privileges at mercy do not hold on 2026-01-05"],
        ),
        ({"shifts": []}, ["not on shift"]),
        ({"shifts": [{"days": "tue-sun", "starts": "00:00", "ends": "00:00"}]}, ["not on shift"]),
        ({"shifts": [{"date": date(2026, 1, 5), "starts": "12:00", "ends": "12:01"}]}, []),
        ({"shifts": [{"date": date(2026, 1, 5), "starts": "11:00", "ends": "12:00"}]}, ["not on shift"]),
        ({"shifts": [{"date": date(2026, 1, 4), "starts": "13:00", "ends": "12:30"}]}, []),
        ({"leave": [{"from": date(2026, 1, 1), "to": date(2026, 1, 5)}]}, ["on leave until 2026-01-06T06:00Z"]),
        ({"leave": [{"from": date(2026, 1, 1), "to": date(2026, 1, 4)}]}, []),
        (
            {"leave": [{"from": datetime(2026, 1, 5, 12), "to": datetime(2026, 1, 5, 13)}]},
            ["on leave until 2026-01-05T19:00Z"],
        ),
        (
            {"licences": [], "credentials": [], "shifts": []},
            ["no licence for US-TX", "no privileges at mercy", "not on shift"],
        ),
    ],
)
def test_each_reason_is_told(more: dict[str, Any], said: list[str]) -> None:
    assert reasons(reader(**more)) == said


def test_the_licence_is_that_of_where_the_patient_is() -> None:
    assert reasons(reader(), patient_state="OK") == ["no licence for US-OK"]
    both = reader(licences=[{"state": "US-TX", "number": "1"}, {"state": "US-OK", "number": "2"}])
    assert reasons(both, patient_state="ok") == []
    assert reasons(both, patient_state="US-NM") == ["no licence for US-NM"]
    assert reasons(both, patient_state="Texas") == ["no licence for TEXAS"]


def test_where_no_state_licenses_a_licence_of_the_country_is_enough() -> None:
    clinic = facility(state="DE-BY", zone="Europe/Berlin")
    assert reasons(reader(licences=[{"state": "DE", "number": "1"}]), NOON, clinic) == []
    assert reasons(reader(), NOON, clinic) == ["no licence for DE-BY"]
    assert place_of("TX", clinic) == "TX"


def test_a_facility_that_nobody_has_told_of_has_no_readers() -> None:
    assert reasons(reader(), facility="local") == ["facility local is not in the directory"]


def test_privileges_of_an_operator_are_good_for_its_sites_unless_a_site_says_otherwise() -> None:
    wheels = facility("wheels", kind="mobile")
    site = facility("mercy", kind="mobile", parent="wheels")
    assert reasons(reader(credentials=[{"facility": "wheels"}]), NOON, wheels, site) == []
    refused = reader(credentials=[{"facility": "wheels"}, {"facility": "mercy", "status": "suspended"}])
    assert reasons(refused, NOON, wheels, site) == ["the privileges at mercy are suspended"]
    only_here = reader(credentials=[{"facility": "mercy"}])
    assert reasons(only_here, NOON, wheels, site, facility="wheels") == ["no privileges at wheels"]


def test_a_licence_that_ends_during_a_shift_ends_at_midnight_where_the_facility_is() -> None:
    night = {"days": "mon", "starts": "22:00", "ends": "06:00"}
    one = reader(
        zone="America/New_York", shifts=[night], licences=[{"state": "US-TX", "number": "1", "to": date(2026, 1, 5)}]
    )
    midnight = datetime(2026, 1, 6, 6, tzinfo=UTC)
    assert reasons(one, midnight - timedelta(seconds=1)) == []
    assert reasons(one, midnight) == ["the licence for US-TX ended on 2026-01-05"]
    assert on_shift_until(one, midnight) == datetime(2026, 1, 6, 11, tzinfo=UTC)


@pytest.mark.parametrize(
    ("night", "begin", "end"),
    [
        (date(2026, 3, 7), "2026-03-08T05:00", "2026-03-08T12:00"),  # the clock is put forward: seven hours
        (date(2026, 10, 31), "2026-11-01T04:00", "2026-11-01T13:00"),  # put back: nine
    ],
)
def test_a_night_shift_covers_the_night_in_which_the_clock_is_changed(night: date, begin: str, end: str) -> None:
    one = reader(shifts=[{"days": "sat", "starts": "23:00", "ends": "07:00"}])
    first, last = (datetime.fromisoformat(text).replace(tzinfo=UTC) for text in (begin, end))
    assert reasons(one, first - timedelta(seconds=1)) == ["not on shift"]
    minutes = int((last - first).total_seconds() // 60)
    assert all(reasons(one, first + timedelta(minutes=minute)) == [] for minute in range(0, minutes, 15))
    assert reasons(one, last) == ["not on shift"]


def test_where_nobody_is_left_the_alarm_counts_why() -> None:
    many = [reader("a", licences=[]), reader("b", shifts=[]), reader("c", shifts=[])]
    found = eligible_readers(directory(*many), item(), NOON)
    assert found.alarm == "no eligible reader on shift: 1 by licence, 2 by shift"
    assert eligible_readers(directory(facility()), item(), NOON).alarm == (
        "no eligible reader on shift: the directory has no readers"
    )
    assert eligible_readers(directory(*many, reader()), item(), NOON).alarm is None


def test_the_hours_that_nobody_covers_are_found_ahead() -> None:
    day = reader("day", shifts=[{"starts": "08:00", "ends": "20:00"}])
    night = reader(
        "night",
        shifts=[{"starts": "20:00", "ends": "07:00"}],
        leave=[{"from": date(2026, 1, 7), "to": date(2026, 1, 7)}],
    )
    begin = datetime(2026, 1, 5, 6, tzinfo=UTC)
    gaps = coverage_gaps(directory(day, night), item(), begin, begin + timedelta(days=3))
    assert [
        (f"{one.astimezone(CHICAGO):%a %H:%M}", f"{other.astimezone(CHICAGO):%a %H:%M}") for one, other in gaps
    ] == [
        ("Mon 07:00", "Mon 08:00"),
        ("Tue 07:00", "Tue 08:00"),
        ("Wed 00:00", "Wed 08:00"),
        ("Wed 20:00", "Thu 00:00"),
    ]


# -- fuzz --------------------------------------------------------------------------------------------------------------

STATES = ("US-TX", "US-OK", "US-AZ")
ZONES = ("America/Chicago", "America/Phoenix", "America/New_York")
days = st.dates(date(2026, 3, 5), date(2026, 3, 11)) | st.dates(date(2026, 10, 29), date(2026, 11, 4))
ends = st.none() | st.none() | days
periods = st.tuples(ends, ends).map(
    lambda pair: dict(zip(("from", "to"), pair if None in pair else sorted(pair), strict=True))
)
walls = st.tuples(st.integers(0, 23), st.sampled_from([0, 30])).map(lambda pair: f"{pair[0]:02}:{pair[1]:02}")
licences = st.builds(lambda state, period: {"state": state, "number": "1"} | period, st.sampled_from(STATES), periods)
credentials = st.builds(
    lambda facility, status, period: {"facility": facility, "status": status} | period,
    st.sampled_from(("f", "g")),
    st.sampled_from(("granted", "granted", "granted", "granted", "suspended")),
    periods,
)
shifts = st.builds(
    lambda days, starts, ends, period: {"days": days, "starts": starts, "ends": ends} | period,
    st.sampled_from(("mon-sun", "mon-fri", "sat sun")),
    walls,
    walls,
    periods,
)
leaves = st.tuples(days, days).map(lambda pair: dict(zip(("from", "to"), sorted(pair), strict=True)))
readers = st.fixed_dictionaries(
    {
        "zone": st.sampled_from(ZONES),
        "licences": st.lists(licences, min_size=1, max_size=4),
        "credentials": st.lists(credentials, min_size=1, max_size=2),
        "shifts": st.lists(shifts, min_size=1, max_size=3),
        "leave": st.lists(leaves, max_size=1) | st.just([]),
    }
)
moments = st.builds(
    lambda day, minute: datetime(day.year, day.month, day.day, tzinfo=UTC) + timedelta(minutes=minute),
    days,
    st.integers(0, 1439),
)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    drawn=st.lists(readers, min_size=1, max_size=4),
    state=st.sampled_from(STATES),
    zone=st.sampled_from(ZONES),
    patient_state=st.none() | st.sampled_from((*STATES, "TX", "AZ")),
    at=moments,
)
def test_nobody_is_ever_given_what_licence_privileges_or_roster_forbid(
    drawn: list[dict[str, Any]], state: str, zone: str, patient_state: str | None, at: datetime
) -> None:
    """As the file says it, by the clock on the wall, and without the code that decides."""
    here = [facility("g"), facility("f", parent="g", state=state, zone=zone)]
    entries = [reader(f"r{number}", **one) for number, one in enumerate(drawn)]
    wanted = patient_state or state
    wanted = wanted if "-" in wanted else f"US-{wanted}"
    today = at.astimezone(ZoneInfo(zone)).date()

    def holds(period: dict[str, Any]) -> bool:
        return (period["from"] or date.min) <= today <= (period["to"] or date.max)

    found = eligible_readers(directory(*here, *entries), item(facility="f", patient_state=patient_state), at)
    allowed = {one.id for one in found.readers}
    somewhere = item(facility="f", patient_state=patient_state)
    assert Staffing(directory(*here, *entries), at).readers(somewhere) == found.readers
    for number, one in enumerate(drawn):
        licensed = any(part["state"] == wanted and holds(part) for part in one["licences"])
        own = [part for part in one["credentials"] if part["facility"] == "f"]
        deciding = [part for part in own or one["credentials"] if holds(part)]
        trusted = bool(deciding) and all(part["status"] == "granted" for part in deciding)
        clock = at.astimezone(ZoneInfo(one["zone"]))
        away = any(part["from"] <= clock.date() <= part["to"] for part in one["leave"])
        assert (f"r{number}" in allowed) == (licensed and trusted and not away and _is_there(one["shifts"], clock))


def _is_there(drawn: list[dict[str, Any]], clock: datetime) -> bool:
    """By comparing what the clock shows, as a person does; the hour that comes twice belongs to the later shift."""
    for shift in drawn:
        for day in (clock.date() - timedelta(days=1), clock.date()):
            if {"mon-sun": False, "mon-fri": day.weekday() > 4, "sat sun": day.weekday() < 5}[shift["days"]]:
                continue
            if not (shift["from"] or date.min) <= day <= (shift["to"] or date.max):
                continue
            begin = datetime.fromisoformat(f"{day}T{shift['starts']}")
            end = datetime.fromisoformat(f"{day}T{shift['ends']}")
            end += timedelta(days=1) if end <= begin else timedelta()
            shown = clock.replace(tzinfo=None, fold=0)
            if clock.fold:  # the second time that the clock shows it: all of the first hour is over
                shown = max(shown, shown.replace(hour=2, minute=0) - timedelta(seconds=1))
            if begin <= shown < end:
                return True
    return False


def test_a_directory_without_readers_asks_nothing(engine: sa.Engine) -> None:
    with begin_write(engine) as connection:
        write_facility(connection, facility(), NOON)
        require_lawful(connection, item(), "nobody", NOON)
        write_reader(connection, reader())
        deactivate(connection, readers=["ada"])
        require_lawful(connection, item(), "ada", NOON)


def test_the_law_is_asked_of_whoever_is_to_read(engine: sa.Engine) -> None:
    with begin_write(engine) as connection:
        write_facility(connection, facility(), NOON)
        write_reader(connection, reader(shifts=[]))
        write_reader(connection, reader("bob", licences=[]))
        require_lawful(connection, item(), "ada", NOON)
        assert not may_be_given(connection, item(), "ada", NOON)
        write_reader(connection, reader())
        assert may_be_given(connection, item(), "ada", NOON)
        assert not may_be_given(connection, item(patient_state="OK"), "ada", NOON)
        assert not may_be_given(connection, item(), "nobody", NOON)
        with pytest.raises(Refused, match="nobody is no active reader of the directory"):
            require_lawful(connection, item(), "nobody", NOON)
        with pytest.raises(Refused, match="no licence for US-TX"):
            require_lawful(connection, item(), "bob", NOON)
        with pytest.raises(Refused, match="US-OK"):
            require_lawful(connection, item(patient_state="OK"), "ada", NOON)
        with pytest.raises(Refused, match="not in the directory"):
            require_lawful(connection, item(facility="local"), "ada", NOON)
