"""Charges: one for one report, whatever is repeated; by the prices of its day, and never silently nothing."""

from __future__ import annotations

import threading
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from readingroom.clock import SetClock
from readingroom.errors import Invalid, NotFound
from readingroom.jsonio import dumps
from readingroom.model import Report, Scope, Signature, SignatureRole
from server.reports.charges import (
    charge_report,
    lines_of,
    publish_prices,
    safe_cell,
    statement_of,
)
from server.reports.prices_file import read_prices
from server.worklist.files import WrongFile
from server.worklist.items import create_item
from storage.catalog import schema as t
from storage.catalog.charges import Charge, charges_of, current_lists, unpriced_charges
from storage.catalog.directory import write_facility
from storage.catalog.engine import begin_write
from storage.catalog.reports import (
    SignedVersion,
    StoredReport,
    add_version,
    find_report,
    insert_report,
    update_report,
)
from storage.prices import PriceList
from tests.directory import facility
from tests.reports import a_report
from tests.servers import REPOSITORY
from tests.synthetic import new_uid
from tests.worklist import at_work

NOW = datetime(2026, 11, 24, 12, 30, tzinfo=UTC)
EXAMPLE = REPOSITORY / "docs" / "examples" / "prices.toml"


@pytest.fixture
def clock() -> SetClock:
    return SetClock(NOW)


def listed(*rows: tuple[str, str], **more: Any) -> PriceList:
    prices = [{"modality": modality, "amount": amount} for modality, amount in rows]
    return PriceList.model_validate({"currency": "USD", "valid_from": "2026-01-01", "prices": prices} | more)


def furnish(engine: sa.Engine, *lists: PriceList, **more: Any) -> None:
    with begin_write(engine) as connection:
        write_facility(connection, facility("local", **more), NOW)
    publish_prices(engine, lists or (listed(("CT", "30.00")),), NOW)


def signed_by(reader: str, role: SignatureRole, at: datetime) -> Signature:
    return Signature(reader=reader, name=reader.title(), role=role, at=at)


def keep(engine: sa.Engine, *, at: datetime = NOW, role: SignatureRole = "attending", **changes: Any) -> Report:
    """A report with its next version, as signing leaves it."""
    report = a_report(
        **{"study_uid": new_uid(), "signed_at": at, "signatures": (signed_by("ada", role, at),)} | changes
    )
    if "id" not in changes:
        report = a_report(**{name: getattr(report, name) for name in Report.__dataclass_fields__} | {"id": t.new_id()})
    version = SignedVersion(
        report=report.id,
        number=report.number,
        status=report.status,
        kind=report.kind,
        reader="ada",
        signed_at=at,
        content=dumps(report),
        signature="",
    )
    with begin_write(engine) as connection:
        stored = StoredReport(
            id=report.id,
            facility=report.facility,
            status=report.status,
            created_at=at,
            changed_at=at,
            number=report.number,
            study_uid=report.study_uid,
            accession_number=report.accession_number,
            item=report.item,
        )
        if not insert_report(connection, stored):
            update_report(connection, find_report(connection, Scope(), report.id), stored)
        add_version(connection, version)
    return report


def charge(engine: sa.Engine, clock: SetClock, report: str) -> list[Charge]:
    with at_work(engine, clock) as work:
        return charge_report(work, report)


def kept(engine: sa.Engine, report: str) -> list[tuple[str, str, int | None]]:
    with engine.connect() as connection:
        return [(one.kind, one.state, one.amount) for one in charges_of(connection, report)]


def test_a_final_report_is_charged_once_and_what_is_added_to_it_costs_nothing(
    engine: sa.Engine, clock: SetClock
) -> None:
    furnish(engine)
    report = keep(engine)
    assert [one.amount for one in charge(engine, clock, report.id)] == [3000]
    assert charge(engine, clock, report.id) == []
    for number, (status, kind) in enumerate((("appended", "addendum"), ("amended", "amendment")), 2):
        keep(engine, id=report.id, study_uid=report.study_uid, number=number, status=status, kind=kind)
        assert charge(engine, clock, report.id) == []
    assert kept(engine, report.id) == [("charge", "priced", 3000)]


def test_a_preliminary_report_is_charged_when_it_becomes_final(engine: sa.Engine, clock: SetClock) -> None:
    furnish(engine)
    report = keep(engine, status="preliminary")
    assert charge(engine, clock, report.id) == []
    later = NOW + timedelta(hours=3)
    keep(engine, id=report.id, study_uid=report.study_uid, number=2, at=later)
    (made,) = charge(engine, clock, report.id)
    assert (made.number, made.at) == (2, later)


@pytest.mark.parametrize(("role", "is_charged"), [("attending", True), ("resident", False)])
def test_a_night_service_is_paid_for_what_its_radiologist_signed_as_preliminary(
    engine: sa.Engine, clock: SetClock, role: SignatureRole, is_charged: bool
) -> None:
    furnish(engine, listed(("CT", "30.00"), charge_at="preliminary"))
    report = keep(engine, status="preliminary", role=role)
    assert bool(charge(engine, clock, report.id)) is is_charged
    keep(engine, id=report.id, study_uid=report.study_uid, number=2)
    charge(engine, clock, report.id)
    assert kept(engine, report.id) == [("charge", "priced", 3000)]


def test_however_many_charge_a_report_at_once_there_is_one_charge(engine: sa.Engine, clock: SetClock) -> None:
    furnish(engine)
    report = keep(engine)
    made: list[Charge] = []

    def run() -> None:
        made.extend(charge(engine, clock, report.id))

    threads = [threading.Thread(target=run) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(made) == 1
    assert len(kept(engine, report.id)) == 1


def test_a_withdrawn_report_is_credited_once_whatever_comes_first(engine: sa.Engine, clock: SetClock) -> None:
    furnish(engine)
    first, second = keep(engine), keep(engine)
    charge(engine, clock, first.id)
    for report in (first, second):
        withdrawn = {"number": 2, "status": "entered-in-error", "kind": "correction", "at": NOW + timedelta(days=9)}
        keep(engine, id=report.id, study_uid=report.study_uid, **withdrawn)
        charge(engine, clock, report.id)
        charge(engine, clock, report.id)
        assert kept(engine, report.id) == [("charge", "priced", 3000), ("credit", "priced", -3000)]


def test_what_was_cancelled_unsigned_is_neither_charged_nor_credited(engine: sa.Engine, clock: SetClock) -> None:
    furnish(engine)
    report = keep(engine, status="preliminary")
    with begin_write(engine) as connection:
        connection.execute(t.report.update().values(status="cancelled"))
    assert charge(engine, clock, report.id) == []


def test_the_prices_of_the_day_in_the_zone_of_the_facility_count(engine: sa.Engine, clock: SetClock) -> None:
    furnish(engine, listed(("CT", "30.00")), listed(("CT", "33.00"), valid_from="2026-12-01"))
    # Texas is six hours behind: in UTC both are of December.
    before = keep(engine, at=datetime(2026, 12, 1, 5, 59, tzinfo=UTC))
    after = keep(engine, at=datetime(2026, 12, 1, 6, 0, tzinfo=UTC))
    assert [charge(engine, clock, one.id)[0].amount for one in (before, after)] == [3000, 3300]


def test_how_urgent_it_was_ordered_and_its_field_are_those_of_the_item(engine: sa.Engine, clock: SetClock) -> None:
    rows = [
        {"modality": "MR", "amount": "45.00"},
        {"modality": "MR", "subspecialty": "msk", "urgency": "stat", "amount": "75.00"},
    ]
    furnish(engine, listed(prices=rows))
    uid = new_uid()
    with at_work(engine, clock) as work:
        item = create_item(
            work, facility="local", kind="read", study_uid=uid, priority="stat", subspecialty="msk", modality="MR"
        )
    report = keep(engine, study_uid=uid, item=item.id, modalities=("MR", "SR"))
    assert charge(engine, clock, report.id)[0].amount == 7500


def test_a_reading_without_a_price_is_an_alarm_until_one_is_published(
    engine: sa.Engine, clock: SetClock, caplog: pytest.LogCaptureFixture
) -> None:
    furnish(engine)
    report = keep(engine, modalities=("XA",))
    charge(engine, clock, report.id)
    assert kept(engine, report.id) == [("charge", "unpriced", None)]
    assert f"report {report.id} has no price" in caplog.text
    keep(engine, id=report.id, study_uid=report.study_uid, number=2, status="entered-in-error")
    charge(engine, clock, report.id)
    with engine.connect() as connection:
        assert [one.kind for one in unpriced_charges(connection, Scope())] == ["charge", "credit"]
        assert unpriced_charges(connection, Scope(facilities=frozenset({"other"}))) == []
    _, count = publish_prices(engine, [listed(("CT", "30.00"), ("XA", "80.00"))], NOW)
    assert count == 2
    assert kept(engine, report.id) == [("charge", "priced", 8000), ("credit", "priced", -8000)]


def test_another_list_of_the_same_day_is_a_new_version_and_leaves_what_was_charged(
    engine: sa.Engine, clock: SetClock
) -> None:
    furnish(engine)
    report = keep(engine)
    charge(engine, clock, report.id)
    assert publish_prices(engine, [listed(("CT", "30.00"))], NOW)[0] == []
    (made,), _ = publish_prices(engine, [listed(("CT", "31.00"))], NOW)
    assert made.version == 2
    assert publish_prices(engine, [listed(("CT", "31.00"))], NOW)[0] == []
    assert kept(engine, report.id) == [("charge", "priced", 3000)]
    with engine.connect() as connection:
        assert [one.version for one in current_lists(connection)] == [2]
    assert charge(engine, clock, keep(engine).id)[0].amount == 3100


# -- statements --------------------------------------------------------------------------------------------------------


def test_a_month_begins_and_ends_by_the_clock_of_the_facility(engine: sa.Engine, clock: SetClock) -> None:
    furnish(engine)
    moments = ("2026-11-01T04:59", "2026-11-01T05:00", "2026-12-01T05:59", "2026-12-01T06:00")  # summer time ends
    for moment in moments:
        charge(engine, clock, keep(engine, at=datetime.fromisoformat(f"{moment}+00:00")).id)
    with engine.connect() as connection:
        found = statement_of(connection, Scope(), "local", "2026-11")
        assert [line["date"] for line in lines_of(found)] == ["2026-11-01", "2026-11-30"]
        assert found.totals == {"USD": 6000}
        counts = [len(statement_of(connection, Scope(), "local", month).charges) for month in ("2026-10", "2026-12")]
    assert counts == [1, 1]


def test_a_statement_adds_charges_and_credits_and_says_what_has_no_price(engine: sa.Engine, clock: SetClock) -> None:
    furnish(engine)
    for report in (keep(engine), keep(engine), keep(engine, modalities=("XA",))):
        charge(engine, clock, report.id)
    withdrawn = keep(engine)
    keep(engine, id=withdrawn.id, study_uid=withdrawn.study_uid, number=2, status="entered-in-error")
    charge(engine, clock, withdrawn.id)
    with engine.connect() as connection:
        found = statement_of(connection, Scope(), "local", "2026-11")
    assert (len(found.charges), found.totals, found.unpriced) == (5, {"USD": 6000}, 1)
    assert sorted(line["amount"] for line in lines_of(found)) == ["", "-30.00", "30.00", "30.00", "30.00"]


def test_a_facility_sees_its_own_statement_alone(engine: sa.Engine) -> None:
    furnish(engine)
    with engine.connect() as connection:
        mine, other = Scope(facilities=frozenset({"local"})), Scope(facilities=frozenset({"other"}))
        assert statement_of(connection, mine, "local", "2026-11").charges == ()
        for scope, name in ((other, "local"), (Scope(), "nowhere")):
            with pytest.raises(NotFound, match="There is no facility"):
                statement_of(connection, scope, name, "2026-11")


@pytest.mark.parametrize("month", ["2026-13", "2026-1", "november", "2026-11-01", "0000-01", "9999-12", ""])
def test_what_is_no_month_is_refused(engine: sa.Engine, month: str) -> None:
    with engine.connect() as connection, pytest.raises(Invalid, match="A month is such as 2026-11"):
        statement_of(connection, Scope(), "local", month)


@pytest.mark.parametrize(
    ("text", "cell"),
    [
        ("=1+1", "'=1+1"),
        ("+A1", "'+A1"),
        ("-1+1", "'-1+1"),
        ("@x", "'@x"),
        ("\tx", "'\tx"),
        ("-30.00", "-30.00"),
        ("A1", "A1"),
    ],
)
def test_no_cell_is_a_formula(text: str, cell: str) -> None:
    assert safe_cell(text) == cell


# -- files -------------------------------------------------------------------------------------------------------------


def test_the_example_has_the_prices_that_are_usual() -> None:
    (example,) = read_prices([EXAMPLE], {"mercy"})
    ranges = {"CR": (10, 15), "DX": (10, 15), "CT": (30, 50), "MR": (45, 75), "MG": (25, 40)}
    for modality, (least, most) in ranges.items():
        amounts = [float(one.amount) for one in example.prices if one.modality == modality]
        assert least == min(amounts)
        assert max(amounts) <= most


def test_all_errors_of_a_file_are_told_with_their_lines(tmp_path: Path) -> None:
    path = tmp_path / "p.toml"
    path.write_text(
        'currency = "USD"\nvalid_from = 2027-01-01\ncolour = 3\n[[prices]]\nmodality = "CT"\namount = 40.0\n'
        '[[prices]]\nmodality = "MR"\namount = "1.001"\n[[prices]]\nmodality = "US"\namount = "2"\n'
        'facility = "nobody"\n[[prices]]\nmodality = "US"\namount = "3"\nfacility = "nobody"\n'
    )
    with pytest.raises(WrongFile) as error:
        read_prices([path], {"mercy"})
    assert [(one.line, one.what.partition(":")[0]) for one in error.value.problems] == [
        (3, "colour"),
        (6, "prices.1.amount"),
        (9, "amount"),
        (13, "facility"),
        (14, "US nobody"),
        (17, "facility"),
    ]
    assert "The prices are not right:" in error.value.message


def test_two_files_of_one_day_are_refused(tmp_path: Path) -> None:
    other = tmp_path / "other.toml"
    other.write_text(EXAMPLE.read_text())
    with pytest.raises(WrongFile, match="is of 2026-01-01 too"):
        read_prices([EXAMPLE, other], {"mercy"})
