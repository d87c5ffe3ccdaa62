"""What the directory takes, and that the catalog gives it back as it was."""

from __future__ import annotations

from datetime import UTC, date, datetime, time, timedelta
from typing import Any

import pytest
import sqlalchemy as sa
from pydantic import ValidationError

from readingroom.errors import Conflict
from readingroom.model import Contact
from storage.catalog import schema as t
from storage.catalog.directory import (
    contract_for,
    deactivate,
    facility_zone,
    inactive,
    read_chain,
    read_directory,
    read_reader,
    write_facility,
    write_reader,
)
from storage.catalog.engine import begin_write
from storage.catalog.studies import ensure_facility
from storage.directory import (
    Contract,
    Days,
    Entry,
    FacilityEntry,
    Leave,
    ReaderEntry,
    Shift,
    Span,
    StudyClass,
    span_text,
)
from tests.catalog import fill, header
from tests.directory import facility, reader

NOW = datetime(2026, 1, 5, 18, tzinfo=UTC)
CONTRACT: dict[str, Any] = {
    "from": date(2026, 1, 1),
    "business_hours": [{"days": "mon-fri", "starts": "08:00", "ends": "18:00"}],
    "holidays": [date(2026, 12, 25)],
    "classes": [
        {"study_type": "stat", "due": "1h", "warn": "40m"},
        {"study_type": "neuro", "due": "4h", "subspecialties": ["2085N0700X"], "pause_reasons": ["missing prior"]},
        {"study_type": "routine", "due": "1d", "hours": "business", "grace": "30m"},
    ],
}


def said(entry: type[Entry], given: dict[str, Any]) -> str:
    with pytest.raises(ValidationError) as error:
        entry.model_validate(given)
    return "; ".join(f"{'.'.join(map(str, one['loc']))}: {one['msg']}" for one in error.value.errors())


# -- what is taken -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"id": "a b"}, "id: String should match"),
        ({"kind": "vet"}, "'hospital', 'imaging-centre', 'urgent-care', 'clinic', 'mobile' or 'teleradiology'"),
        ({"state": "TX"}, "such as US-TX"),
        ({"state": "Texas"}, "such as US-TX"),
        ({"state": "US"}, "in US a state licenses"),
        ({"state": "US-TK"}, "in US a state licenses: write US- and one of AK, AL"),
        ({"zone": "America/Dallas"}, "there is no time zone 'America/Dallas'"),
        ({"zone": "../etc/passwd"}, "there is no time zone"),
        ({"npi": "1234567890"}, "its check digit is wrong"),
        ({"npi": "12345"}, "ten digits"),
        ({"clia": "45D12"}, "clia: String should match"),
        ({"colour": "red"}, "colour: Extra inputs are not permitted"),
        ({"contacts": [{"name": "D", "role": "boss", "channel": "smtp", "address": "a@b.c"}]}, "contacts.0.role"),
        ({"contacts": [{"name": "D", "role": "desk", "channel": "smtp", "address": "nobody"}]}, "a mail address"),
        ({"contacts": [{"name": "D", "role": "desk", "channel": "sms", "address": "555"}]}, "international form"),
        ({"contacts": [{"name": "D", "role": "desk", "channel": "webhook", "address": "ftp://x"}]}, "https://"),
        ({"contracts": [CONTRACT, CONTRACT | {"from": date(2026, 6, 1)}]}, "hold at the same time"),
    ],
)
def test_a_facility_says_what_is_wrong_with_it(wrong: dict[str, Any], message: str) -> None:
    assert message in said(FacilityEntry, facility().model_dump() | wrong)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"subspecialties": ["2085N9999X"]}, "neither a NUCC code of radiology nor a local one"),
        ({"skills": ["ct head"]}, "CT, CT/HEAD or */HEAD"),
        ({"licences": [{"state": "US-TX"}]}, "licences.0.number: Field required"),
        (
            {"licences": [{"state": "US-TX", "number": "1", "from": date(2026, 2, 1), "to": date(2026, 1, 1)}]},
            "it ends on 2026-01-01, before it begins on 2026-02-01",
        ),
        ({"credentials": [{"facility": "f", "status": "maybe"}]}, "credentials.0.status"),
        ({"shifts": [{"days": "mon-foo", "starts": "08:00", "ends": "09:00"}]}, "write days as mon-fri"),
        ({"shifts": [{"days": "", "starts": "08:00", "ends": "09:00"}]}, "at least one day"),
        ({"shifts": [{"starts": "8", "ends": "25:00"}]}, "write a time of day as 08:00 or 17:30, not '8'"),
        (
            {"shifts": [{"date": date(2026, 1, 1), "days": "mon", "starts": "08:00", "ends": "09:00"}]},
            "a shift of one date has no days",
        ),
        ({"leave": [{"from": date(2026, 1, 2), "to": date(2026, 1, 1)}]}, "before it begins"),
        ({"leave": [{"from": datetime(2026, 1, 2, tzinfo=UTC), "to": date(2026, 1, 3)}]}, "a time without a zone"),
        ({"leave": [{"from": "tomorrow", "to": date(2026, 1, 3)}]}, "write a day such as"),
    ],
)
def test_a_reader_says_what_is_wrong(wrong: dict[str, Any], message: str) -> None:
    assert message in said(ReaderEntry, {"id": "r", "name": "R", "zone": "UTC"} | wrong)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"due": "soon"}, "write a span such as 45m, 1h30m or 2d"),
        ({"due": "400d"}, "at most 90 days"),
        ({"due": "1h", "warn": "2h"}, "warn has to be before due"),
        ({"due": "0m"}, "due after nothing"),
        ({"due": "1h", "hours": "office"}, "'24x7' or 'business'"),
        ({"due": "1h", "priorities": ["now"]}, "priorities.0"),
        ({"warn": "1h"}, "due: Field required"),
    ],
)
def test_a_class_of_a_contract_says_what_is_wrong(wrong: dict[str, Any], message: str) -> None:
    assert message in said(StudyClass, {"study_type": "stat"} | wrong)


def test_business_hours_are_needed_where_a_class_counts_them() -> None:
    assert "no business_hours" in said(Contract, CONTRACT | {"business_hours": []})


def test_a_class_knows_its_priorities_and_when_to_warn() -> None:
    one = StudyClass.model_validate({"study_type": "urgent", "due": "2h"})
    assert (one.of_priorities, one.warns_after) == (("urgent", "asap"), timedelta(minutes=90))
    assert StudyClass.model_validate({"study_type": "stroke", "due": "20m"}).of_priorities == ()


class Given(Entry):
    days: Days = ()
    span: Span = timedelta()


@pytest.mark.parametrize(
    ("text", "days"),
    [
        ("mon-fri", "mon tue wed thu fri"),
        ("Sat, Sun", "sat sun"),
        ("fri-mon", "mon fri sat sun"),
        ("wed", "wed"),
        ("sun mon mon", "mon sun"),
    ],
)
def test_days_are_written_as_people_do(text: str, days: str) -> None:
    assert Given(days=text).days == tuple(days.split())  # type: ignore[arg-type]


@pytest.mark.parametrize("text", ["45m", "1h30m", "2d", "1d12h", "90s", "0s"])
def test_a_span_is_written_as_it_was_read(text: str) -> None:
    assert span_text(Given(span=text).span) == {"90s": "1m30s"}.get(text, text)  # type: ignore[arg-type]


def test_days_of_leave_are_whole_and_times_are_exact() -> None:
    whole = Leave.model_validate({"from": date(2026, 1, 1), "to": date(2026, 1, 2)})
    assert (whole.first, whole.last) == (datetime(2026, 1, 1), datetime(2026, 1, 3))
    exact = Leave.model_validate({"from": "2026-01-01T12:00", "to": datetime(2026, 1, 1, 13)})
    assert (exact.first, exact.last) == (datetime(2026, 1, 1, 12), datetime(2026, 1, 1, 13))


def test_the_end_of_a_day_is_the_beginning_of_the_next() -> None:
    assert Shift.model_validate({"starts": "18:00", "ends": "24:00"}).ends == time()


def test_entries_are_compared_by_what_they_say_in_whatever_order() -> None:
    two = [{"state": "US-TX", "number": "1"}, {"state": "US-OK", "number": "2"}]
    assert reader(licences=two) == reader(licences=[*two[::-1], two[0]])


# -- the catalog -------------------------------------------------------------------------------------------------------


def whole_facility() -> FacilityEntry:
    desk = {"name": "Desk", "role": "desk", "channel": "smtp", "address": "desk@example.org"}
    return facility(
        issuer="MERCY",
        address=["1 Main Street"],
        city="Austin",
        postal_code="78701",
        npi="1234567893",
        clia="45D1234567",
        contacts=[desk],
        contracts=[CONTRACT],
    )


def whole_reader() -> ReaderEntry:
    return reader(
        npi="1234567893",
        subspecialties=["2085N0700X", "msk"],
        skills=["CT", "MR/BRAIN"],
        overflow=True,
        licences=[{"state": "US-TX", "number": "1", "from": date(2020, 1, 1)}, {"state": "US-OK", "number": "2"}],
        credentials=[{"facility": "mercy", "status": "pending", "to": date(2027, 1, 1)}],
        shifts=[
            {"days": "mon-fri", "starts": "22:00", "ends": "06:00"},
            {"date": date(2026, 1, 1), "starts": "08:00", "ends": "24:00"},
        ],
        leave=[
            {"from": date(2026, 7, 1), "to": date(2026, 7, 14)},
            {"from": "2026-08-01T12:00:00", "to": "2026-08-01T18:00:00"},
        ],
    )


def test_what_is_written_is_read_again_as_it_was(engine: sa.Engine) -> None:
    with begin_write(engine) as connection:
        write_facility(connection, whole_facility(), NOW)
        write_reader(connection, whole_reader())
    with engine.connect() as connection:
        found = read_directory(connection)
        assert found.facilities == {"mercy": whole_facility()}
        assert found.readers == {"ada": whole_reader()}
        assert read_reader(connection, "ada") == whole_reader()
        assert facility_zone(connection, "mercy") == "America/Chicago"
    assert whole_facility().facility.contacts == (
        Contact(name="Desk", role="desk", channel="smtp", address="desk@example.org"),
    )
    assert whole_reader().reader.is_overflow


def test_a_facility_that_only_sends_is_no_entry_until_it_is_told_of(engine: sa.Engine) -> None:
    with begin_write(engine) as connection:
        ensure_facility(connection, "mercy")
        assert read_directory(connection).facilities == {}
        write_facility(connection, facility(), NOW)
        assert list(read_directory(connection).facilities) == ["mercy"]


def test_what_does_not_change_keeps_its_row(engine: sa.Engine) -> None:
    with begin_write(engine) as connection:
        write_facility(connection, whole_facility(), NOW)
        write_reader(connection, whole_reader())
        before = {row.state: row.id for row in connection.execute(sa.select(t.licence))}
        changed = whole_reader().model_copy(update={"licences": whole_reader().licences[1:]})
        write_reader(connection, changed)
        after = {row.state: row.id for row in connection.execute(sa.select(t.licence))}
        assert read_reader(connection, "ada") == changed
    assert after == {state: id for state, id in before.items() if state == changed.licences[0].state}


def test_each_version_of_a_contract_is_kept_and_the_last_one_holds(engine: sa.Engine) -> None:
    second = CONTRACT | {"classes": [{"study_type": "stat", "due": "30m"}]}
    with begin_write(engine) as connection:
        for terms in (CONTRACT, CONTRACT, second):
            write_facility(connection, facility(contracts=[terms]), NOW)
        agreed = contract_for(connection, "mercy", date(2026, 1, 5))
        assert agreed is not None
        assert (agreed.version, agreed.contract.classes[0].due) == (2, timedelta(minutes=30))
        assert contract_for(connection, "mercy", date(2025, 12, 31)) is None
        write_facility(connection, facility(), NOW)
        assert contract_for(connection, "mercy", date(2026, 1, 5)) is None
        write_facility(connection, facility(contracts=[CONTRACT]), NOW)
        rows = connection.execute(sa.select(t.contract.c.version, t.contract.c.is_current).order_by(t.contract.c.id))
        assert rows.all() == [(1, False), (2, False), (3, True)]


def test_a_site_without_a_contract_has_that_of_its_operator(engine: sa.Engine) -> None:
    with begin_write(engine) as connection:
        write_facility(connection, facility("wheels", contracts=[CONTRACT]), NOW)
        write_facility(connection, facility("site", parent="wheels"), NOW)
        agreed = contract_for(connection, "site", date(2026, 1, 5))
        assert agreed is not None
        assert agreed.facility == "wheels"
        assert [one.id for one in read_chain(connection, "site").chain("site")] == ["site", "wheels"]


def test_what_is_inactive_is_in_the_directory_again_when_it_is_written(engine: sa.Engine) -> None:
    with begin_write(engine) as connection:
        write_facility(connection, facility(), NOW)
        write_reader(connection, reader())
        deactivate(connection, facilities=["mercy"], readers=["ada"])
        assert read_directory(connection).readers == {}
        assert read_directory(connection).facilities == {}
        assert inactive(connection) == (frozenset({"mercy"}), frozenset({"ada"}))
        assert list(read_directory(connection, with_inactive=True).readers) == ["ada"]
        write_reader(connection, reader())
        assert list(read_directory(connection).readers) == ["ada"]


def test_the_issuer_of_a_facility_with_studies_stays(engine: sa.Engine) -> None:
    fill(engine, header(PatientID="1"), facility="mercy")
    with begin_write(engine) as connection:
        write_facility(connection, facility(), NOW)
        with pytest.raises(Conflict, match="patient ids are of issuer 'mercy'; it cannot become 'MERCY'"):
            write_facility(connection, facility(issuer="MERCY"), NOW)
