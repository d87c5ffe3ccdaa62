"""Charges and prices as FHIR: one ChargeItem for what a report was charged, one ChargeItemDefinition for each price."""

from __future__ import annotations

from datetime import date, timedelta

from server.fhir.parsing import Number, dump_json
from storage.catalog.charges import Charge, Published
from storage.fhirvalues import DCM, Element, code_system, instant_of, local_id, reference, without_none
from storage.prices import PRICE_ORDER, Price, amount_text

_DEFINITIONS = "urn:x-readingroom:price"
_DAY = timedelta(days=1)


def charge_item(charge: Charge, *, patient: str | None, study: str | None = None, is_credited: bool = False) -> bytes:
    """A charge as the JSON of a ChargeItem; its id is that of the charge.

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
    return dump_json(
        without_none(
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
    )


def charge_definition(published: Published, price: Price, *, until: date | None = None) -> bytes:
    """A price as the JSON of a ChargeItemDefinition; its id is `definition_id`.

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
    return dump_json(
        without_none(
            resourceType="ChargeItemDefinition",
            id=definition_id(published.id, price),
            url=_definition_url(published.id, price),
            version=str(published.version),
            title=f"Reading of {' '.join(filter(None, named))}",
            status="active",
            date=instant_of(published.made_at),
            description=PRICE_ORDER,
            effectivePeriod=period,
            code={"coding": [{"system": DCM, "code": price.modality}], "text": f"Reading of {price.modality}"},
            applicability=[{"description": ", ".join(conditions)}],
            propertyGroup=[{"priceComponent": [{"type": "base", "amount": amount}]}],
        )
    )


def definition_id(price_list: str, price: Price) -> str:
    """The id of the ChargeItemDefinition of a price of a list."""
    return local_id(".".join((price_list, *(part or "any" for part in price.key))))


def _definition_url(price_list: str, price: Price) -> str:
    return f"{_DEFINITIONS}:{definition_id(price_list, price)}"


def _money(amount: str, currency: str) -> Element:
    return {"value": Number(amount), "currency": currency}
