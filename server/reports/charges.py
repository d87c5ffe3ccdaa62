"""What readings are charged: one charge for one report, a credit where it is withdrawn, and the statement of a month.

A charge follows from the signed versions of a report and from the list of prices of the day on which the reading was
done, by the clock of the facility. It is worked out anew whenever something happens to the report, and kept once: so it
does not matter how often, or in which order, it is told. A reading that no list has a price for is charged as unpriced,
and stays an alarm until one has.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, date, datetime, time, timedelta
from typing import Any

import sqlalchemy as sa

from readingroom.clock import Clock
from readingroom.errors import Invalid, NotFound
from readingroom.model import Report, Scope
from server.announce import on_event
from server.queue import Job, Policy, Queue
from server.worklist.hours import moment
from server.worklist.items import THE_SERVER, Work
from storage.catalog import schema as t
from storage.catalog.charges import (
    Charge,
    Published,
    charges_between,
    charges_of,
    insert_charge,
    list_on,
    lock_prices,
    publish_list,
    unpriced_charges,
    update_charge,
)
from storage.catalog.directory import facility_zone, read_chain
from storage.catalog.engine import begin_write
from storage.catalog.events import Event
from storage.catalog.reports import SignedVersion, find_report, list_versions
from storage.catalog.work_items import item_by_id
from storage.directory import zone_of
from storage.prices import Asked, ChargeAt, PriceList, amount_text

log = logging.getLogger(__name__)

Publish = Callable[[Work, Charge], None]
"""Told of each charge that is new or another, in the transaction that makes it so."""

CHARGED = "ReportCharged"
PUBLISHED = "prices.published"
"""The job by which others follow what was published: `charges` are the ids of those that have a price by it."""
REPORT_EVENTS = ("ReportSigned", "ReportCancelled")
_POLICY = Policy(attempts=20, first=timedelta(seconds=2), most=timedelta(minutes=5))
_OVER = ("cancelled", "entered-in-error")
_EVERYWHERE = Scope()
_FORMULA = tuple("=+-@\t\r\n")
_NUMBER = re.compile(r"-?[0-9]+(?:\.[0-9]+)?")


def _tell_nobody(_work: Work, _charge: Charge) -> None:
    return None


@dataclass(frozen=True, slots=True, kw_only=True)
class Charging:
    """Charges readings as their reports are signed; `register` gives its jobs to the queue."""

    engine: sa.Engine
    clock: Clock
    queue: Queue
    publish: Publish = _tell_nobody

    def register(self) -> None:
        """Have it react to what happens to reports; before the worker starts."""
        for type in REPORT_EVENTS:
            on_event(self.queue, type, _POLICY, by="charges")(self._react)

    def _react(self, job: Job, event: Event) -> None:
        with job.finishing() as connection:
            work = Work(connection=connection, now=self.clock.now(), actor=THE_SERVER, queue=self.queue)
            charge_report(work, event.payload["report"], self.publish)
            work.tell()


def charge_report(work: Work, report: str, publish: Publish = _tell_nobody) -> list[Charge]:
    """Charge a report what it is to be charged, and credit it where it was withdrawn; returns what is new."""
    found = find_report(work.connection, _EVERYWHERE, report, locked=True)
    versions = list_versions(work.connection, report)
    done = [one.kind for one in charges_of(work.connection, report)]
    made = []
    finished = _finished(work.connection, found.facility, versions)
    if finished is not None and "charge" not in done:
        version, prices = finished
        asked = _asked(work.connection, version.shown)
        charge = Charge(
            id=t.new_id(),
            report=report,
            kind="charge",
            facility=found.facility,
            study_uid=found.study_uid,
            accession_number=found.accession_number,
            number=version.number,
            at=version.signed_at,
            asked=asked,
            state="unpriced",
            changed_at=work.now,
        )
        made += _kept(work, _priced(charge, prices))
        if made and made[0].state == "unpriced":
            log.error("report %s has no price: %s; publish one", report, _described(asked))
    if found.status in _OVER and "credit" not in done:
        charged = next((one for one in charges_of(work.connection, report) if one.kind == "charge"), None)
        if charged is not None:
            at = versions[-1].signed_at if versions[-1].status in _OVER else work.now
            credit = replace(
                charged,
                id=t.new_id(),
                kind="credit",
                number=versions[-1].number,
                at=at,
                amount=None if charged.amount is None else -charged.amount,
                changed_at=work.now,
                version=1,
            )
            made += _kept(work, credit)
    for one in made:
        _tell(work, one, found.item)
        publish(work, one)
    return made


def publish_prices(
    engine: sa.Engine,
    lists: Iterable[PriceList],
    now: datetime,
    queue: Queue | None = None,
) -> tuple[list[Published], int]:
    """Have lists hold from their days on, and price by them what had no price; said again, it changes nothing.

    Returns
    -------
    list, int
        The lists that are new or say otherwise than before, and how many charges have a price now.
    """
    with begin_write(engine) as connection:
        lock_prices(connection)
        made = [one for prices in lists if (one := publish_list(connection, prices, now)) is not None]
        work = Work(connection=connection, now=now, actor=THE_SERVER, queue=queue)
        priced = price_unpriced(work)
        if queue is not None and (made or priced):
            queue.enqueue(connection, PUBLISHED, {"charges": [one.id for one in priced]})
        work.tell()
    return made, len(priced)


def price_unpriced(work: Work) -> list[Charge]:
    """Give what was charged without a price the one that there is by now; returns those that have one."""
    made = []
    for charge in unpriced_charges(work.connection, _EVERYWHERE):
        if charge.kind == "credit":
            continue  # it takes the price of what it takes back, below
        priced = _priced(charge, list_on(work.connection, _day(work.connection, charge.facility, charge.at)))
        if priced.state == "unpriced":
            continue
        for one in charges_of(work.connection, charge.report):
            amount = priced.amount if one.kind == "charge" or priced.amount is None else -priced.amount
            changed = replace(
                one,
                state="priced",
                price_list=priced.price_list,
                price=priced.price,
                currency=priced.currency,
                amount=amount,
                version=one.version + 1,
                changed_at=work.now,
            )
            update_charge(work.connection, changed)
            _tell(work, changed, find_report(work.connection, _EVERYWHERE, one.report).item)
            made.append(changed)
    return made


def _finished(
    connection: sa.Connection, facility: str, versions: Sequence[SignedVersion]
) -> tuple[SignedVersion, Published | None] | None:
    """The version that a reading is charged for, with the prices of its day; None while there is none."""
    for version in versions:
        prices = list_on(connection, _day(connection, facility, version.signed_at))
        if is_read(version.shown, prices.list.charge_at if prices else "final"):
            return version, prices
    return None


def is_read(report: Report, charge_at: ChargeAt) -> bool:
    """Whether a version of a report is one that has to be paid."""
    if report.status in ("final", "amended", "corrected", "appended"):
        return True
    is_signed = any(one.role != "resident" for one in report.signatures)
    return charge_at == "preliminary" and report.status == "preliminary" and is_signed


def _asked(connection: sa.Connection, report: Report) -> Asked:
    item = item_by_id(connection, report.item) if report.item else None
    chain = [entry.id for entry in read_chain(connection, report.facility).chain(report.facility)]
    modalities = report.modalities or ((item.modality,) if item and item.modality else ())
    return Asked(
        facilities=tuple(chain) or (report.facility,),
        modalities=modalities,
        subspecialty=item.subspecialty if item else None,
        urgency=item.priority if item else "routine",
    )


def _priced(charge: Charge, prices: Published | None) -> Charge:
    price = prices.list.find(charge.asked) if prices else None
    if prices is None or price is None:
        return charge
    return replace(
        charge,
        state="priced",
        price_list=prices.id,
        price=price,
        currency=prices.list.currency,
        amount=prices.list.minor(price),
    )


def _kept(work: Work, charge: Charge) -> list[Charge]:
    return [charge] if insert_charge(work.connection, charge) else []


def _tell(work: Work, charge: Charge, item: str | None) -> None:
    told = {"charge": charge.id, "report": charge.report, "kind": charge.kind, "state": charge.state}
    work.note(CHARGED, told, facility=charge.facility, study_uid=charge.study_uid, item=item)


def _described(asked: Asked) -> str:
    words = ["+".join(asked.modalities) or "no modality", asked.subspecialty, asked.urgency]
    return ", ".join(filter(None, words))


def _day(connection: sa.Connection, facility: str, at: datetime) -> date:
    return at.astimezone(zone_of(facility_zone(connection, facility))).date()


# -- statements --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Statement:
    """What a facility is charged for a month of its zone; `totals` are by currency, in its smallest unit."""

    facility: str
    month: str
    zone: str
    begin: datetime
    end: datetime
    charges: tuple[Charge, ...]
    totals: dict[str, int] = field(default_factory=dict)

    @property
    def unpriced(self) -> int:
        """How many of the charges have no price yet, so that the totals are not the last word."""
        return sum(one.state == "unpriced" for one in self.charges)


def statement_of(connection: sa.Connection, scope: Scope, facility: str, month: str) -> Statement:
    """The statement of a facility for a month such as ``2026-11``.

    Raises
    ------
    Invalid
        That is no month.
    NotFound
        There is no such facility in scope.
    """
    first = _month(month)
    is_known = connection.execute(sa.select(t.facility.c.id).where(t.facility.c.id == facility)).first() is not None
    if not is_known or (scope.facilities is not None and facility not in scope.facilities):
        raise NotFound(f"There is no facility {facility[:64]!r}.")
    zone = facility_zone(connection, facility)
    begin, end = (
        moment(datetime.combine(day, time()), zone_of(zone)).astimezone(UTC) for day in (first, _next_month(first))
    )
    charges = charges_between(connection, facility, begin, end)
    totals: dict[str, int] = {}
    for charge in charges:
        if charge.currency is not None and charge.amount is not None:
            totals[charge.currency] = totals.get(charge.currency, 0) + charge.amount
    return Statement(
        facility=facility,
        month=month,
        zone=zone,
        begin=begin,
        end=end,
        charges=tuple(charges),
        totals=dict(sorted(totals.items())),
    )


COLUMNS = (
    *("date", "kind", "accession", "study", "report", "modality", "subspecialty", "urgency"),
    *("state", "currency", "amount", "price_list"),
)


def lines_of(statement: Statement) -> Iterator[dict[str, str]]:
    """The lines of a statement, each with `COLUMNS`; days are those of the facility."""
    zone = zone_of(statement.zone)
    for one in statement.charges:
        yield {
            "date": f"{one.at.astimezone(zone):%Y-%m-%d}",
            "kind": one.kind,
            "accession": one.accession_number or "",
            "study": one.study_uid or "",
            "report": one.report,
            "modality": one.price.modality if one.price else " ".join(one.asked.modalities),
            "subspecialty": one.asked.subspecialty or "",
            "urgency": one.asked.urgency,
            "state": one.state,
            "currency": one.currency or "",
            "amount": "" if one.amount is None or one.currency is None else amount_text(one.amount, one.currency),
            "price_list": one.price_list or "",
        }


def statement_told(statement: Statement) -> dict[str, Any]:
    """A statement as JSON has it."""
    return {
        "facility": statement.facility,
        "month": statement.month,
        "zone": statement.zone,
        "from": statement.begin.isoformat(),
        "to": statement.end.isoformat(),
        "totals": {currency: amount_text(amount, currency) for currency, amount in statement.totals.items()},
        "unpriced": statement.unpriced,
        "lines": list(lines_of(statement)),
    }


def safe_cell(text: str) -> str:
    """A cell that no spreadsheet takes for a formula: an apostrophe goes before one that would be, but for numbers."""
    if text[:1] in _FORMULA and not _NUMBER.fullmatch(text):
        return f"'{text}"
    return text


def _month(text: str) -> date:
    try:
        found = datetime.strptime(text, "%Y-%m").date()
    except ValueError:
        found = None
    if found is None or f"{found:%Y-%m}" != text or not 1900 <= found.year <= 9998:
        raise Invalid(f"A month is such as 2026-11, not {text[:20]!r}.")
    return found


def _next_month(first: date) -> date:
    return (first + timedelta(days=31)).replace(day=1)
