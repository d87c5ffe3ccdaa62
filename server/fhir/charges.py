"""Charges and prices as FHIR: one ChargeItem for what a report was charged, one ChargeItemDefinition for each price."""

from __future__ import annotations

import hashlib
from datetime import date, timedelta
from functools import partial
from itertools import groupby

import sqlalchemy as sa

from server.fhir.parsing import Number
from server.fhir.publishing import publish
from server.queue import Job
from server.reports.charges import PUBLISHED, Charging
from server.room import Room
from server.worklist.items import EVERYWHERE, THE_SERVER, Work
from storage.catalog import schema as t
from storage.catalog.charges import Charge, Published, all_lists, charges_of, find_charge
from storage.catalog.reports import find_report
from storage.fhirvalues import DCM, Element, code_system, instant_of, local_id, reference, without_none
from storage.prices import PRICE_ORDER, Price, amount_text

_DEFINITIONS = "urn:x-readingroom:price"
_DAY = timedelta(days=1)
_S = t.study.c


def publish_charges(room: Room) -> None:
    """Charge readings, and have ChargeItem and ChargeItemDefinition follow; before the worker starts."""
    charging = Charging(engine=room.engine, clock=room.clock, queue=room.queue, publish=partial(_publish, room))
    charging.register()

    @room.queue.on(PUBLISHED)
    def follow(job: Job) -> None:
        with job.finishing() as connection:
            work = Work(connection=connection, now=room.clock.now(), actor=THE_SERVER, queue=room.queue)
            _publish_lists(room, work)
            for id in job.payload["charges"]:
                _publish(room, work, find_charge(connection, id))
            work.tell()


def _publish(room: Room, work: Work, row: Charge) -> None:
    """Publish the charge of a report: what is credited is the same ChargeItem, entered in error."""
    rows = {one.kind: one for one in charges_of(work.connection, row.report)}
    report = find_report(work.connection, EVERYWHERE, row.report)
    known = sa.select(_S.fhir_id).where(_S.owner_facility == row.facility, _S.study_uid == row.study_uid)
    study = work.connection.execute(known).scalar()
    item = charge_item(rows["charge"], patient=report.patient, study=study, is_credited="credit" in rows)
    publish(room, work, item, facility=row.facility)


def _publish_lists(room: Room, work: Work) -> None:
    """Publish each price: one that is for a facility to that, any other to the facility that the server is of."""
    days = [
        (day, list(versions)) for day, versions in groupby(all_lists(work.connection), lambda one: one.list.valid_from)
    ]
    for (_, versions), following in zip(days, [*days[1:], None], strict=True):
        for one in versions:
            for price in one.list.prices:
                definition = charge_definition(one, price, until=following[0] if following else None)
                publish(room, work, definition, facility=price.facility or room.settings.facility)


def charge_item(charge: Charge, *, patient: str | None, study: str | None = None, is_credited: bool = False) -> Element:
    """A charge as a ChargeItem; its id is that of the charge.

    It is billable once it has a price, unknown before, and entered-in-error where a credit takes it back.

    Parameters
    ----------
    patient
        Id of the Patient; None where nobody is known.
    study
        Id of the ImagingStudy that was read.
    """
    modality = charge.price.modality if charge.price else next(iter(charge.asked.modalities), None)
    status = "entered-in-error" if is_credited else "billable" if charge.state == "priced" else "unknown"
    text = " ".join(filter(None, ("Reading of", modality or "a study", charge.asked.subspecialty)))
    coding = [{"system": DCM, "code": modality}] if modality else []
    money = None
    if charge.amount is not None and charge.currency is not None:
        money = _money(amount_text(charge.amount, charge.currency), charge.currency)
    definition = _definition_url(charge.price_list, charge.price) if charge.price_list and charge.price else None
    return without_none(
        resourceType="ChargeItem",
        id=charge.id,
        identifier=[{"system": code_system("charge"), "value": charge.id}],
        definitionUri=[definition] if definition else None,
        status=status,
        code=without_none(coding=coding, text=text),
        subject=reference("Patient", patient) if patient else {"display": "not known"},
        occurrenceDateTime=instant_of(charge.at),
        requestingOrganization=reference("Organization", local_id(charge.facility)),
        quantity={"value": 1},
        priceOverride=money,
        service=[
            reference("DiagnosticReport", charge.report),
            *([reference("ImagingStudy", study)] if study else []),
        ],
        enteredDate=instant_of(charge.changed_at),
    )


def charge_definition(published: Published, price: Price, *, until: date | None = None) -> Element:
    """A price as a ChargeItemDefinition; its id is `definition_id`.

    Parameters
    ----------
    until
        The day on which the next list begins to hold; None where there is none yet.
    """
    prices = published.list
    period = {"start": prices.valid_from.isoformat()}
    if until is not None:
        period["end"] = (until - _DAY).isoformat()
    named = [price.modality, price.subspecialty, price.urgency]
    conditions = [f"modality {price.modality}"]
    conditions += [f"subspecialty {price.subspecialty}"] if price.subspecialty else []
    conditions += [f"urgency {price.urgency}"] if price.urgency else []
    conditions += [f"facility {price.facility}"] if price.facility else []
    amount = _money(amount_text(prices.minor(price), prices.currency), prices.currency)
    return without_none(
        resourceType="ChargeItemDefinition",
        id=definition_id(published.id, price),
        url=_definition_url(published.id, price),
        version=str(published.version),
        title=f"Reading of {' '.join(filter(None, named))}",
        status="active" if published.is_current else "retired",
        date=instant_of(published.made_at),
        description=PRICE_ORDER,
        effectivePeriod=period,
        code={"coding": [{"system": DCM, "code": price.modality}], "text": f"Reading of {price.modality}"},
        applicability=[{"description": ", ".join(conditions)}],
        propertyGroup=[{"priceComponent": [{"type": "base", "amount": amount}]}],
    )


def definition_id(price_list: str, price: Price) -> str:
    """The id of the ChargeItemDefinition of a price of a list."""
    return f"{price_list}.{hashlib.sha256(repr(price.key).encode()).hexdigest()[:16]}"


def _definition_url(price_list: str, price: Price) -> str:
    return f"{_DEFINITIONS}:{definition_id(price_list, price)}"


def _money(amount: str, currency: str) -> Element:
    return {"value": Number(amount), "currency": currency}
