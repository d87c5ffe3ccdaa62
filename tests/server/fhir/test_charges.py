"""Charges and prices as FHIR: valid resources, amounts as they were written."""

from __future__ import annotations

from datetime import UTC, date, datetime
from typing import Any

import orjson
import pytest

from server.fhir.charges import charge_definition, charge_item, definition_id
from server.fhir.parsing import dump_json, read_json
from server.fhir.validation import check_resource
from storage.catalog.charges import Charge, Published
from storage.prices import Asked, PriceList

AT = datetime(2026, 11, 24, 12, 30, tzinfo=UTC)
LIST = PriceList.model_validate(
    {
        "currency": "USD",
        "valid_from": "2026-01-01",
        "prices": [{"modality": "CT", "subspecialty": "msk", "urgency": "stat", "facility": "a_b", "amount": "40"}],
    }
)
PUBLISHED = Published(id="1" * 32, version=2, made_at=AT, list=LIST)
CHARGE: dict[str, Any] = {
    "id": "2" * 32,
    "report": "3" * 32,
    "kind": "charge",
    "facility": "a_b",
    "number": 1,
    "at": AT,
    "asked": Asked(facilities=("a_b",), modalities=("CT",), subspecialty="msk"),
    "changed_at": AT,
}
PRICED: dict[str, Any] = CHARGE | {
    "state": "priced",
    "price_list": PUBLISHED.id,
    "price": LIST.prices[0],
    "currency": "USD",
    "amount": 4000,
}


def valid(resource: dict[str, Any]) -> dict[str, Any]:
    """The resource, once the rules of FHIR have found nothing wrong with it."""
    body = dump_json(resource)
    assert check_resource(read_json(body)) == []
    found: dict[str, Any] = orjson.loads(body)
    return found


def test_a_priced_charge_is_billable_and_names_its_price() -> None:
    body = charge_item(Charge(**PRICED), patient="p1", study="s1")
    assert b'"value":40.00' in dump_json(body)
    found = valid(body)
    assert (found["resourceType"], found["id"], found["status"]) == ("ChargeItem", "2" * 32, "billable")
    assert found["subject"] == {"reference": "Patient/p1"}
    assert found["requestingOrganization"]["reference"] == "Organization/a-.-b"
    assert [one["reference"] for one in found["service"]] == [f"DiagnosticReport/{'3' * 32}", "ImagingStudy/s1"]
    definition = valid(charge_definition(PUBLISHED, LIST.prices[0]))
    assert found["definitionUri"] == [definition["url"]]


@pytest.mark.parametrize(
    ("charge", "is_credited", "status"),
    [(CHARGE | {"state": "unpriced"}, False, "unknown"), (PRICED, True, "entered-in-error")],
)
def test_what_has_no_price_or_was_taken_back_is_not_billable(
    charge: dict[str, Any], is_credited: bool, status: str
) -> None:
    found = valid(charge_item(Charge(**charge), patient=None, is_credited=is_credited))
    assert found["status"] == status
    assert ("priceOverride" in found) is (charge is PRICED)


def test_a_price_is_a_definition_of_its_days() -> None:
    body = charge_definition(PUBLISHED, LIST.prices[0], until=date(2027, 1, 1))
    assert b'"value":40.00' in dump_json(body)
    found = valid(body)
    assert found["id"] == definition_id(PUBLISHED.id, LIST.prices[0])
    assert found["effectivePeriod"] == {"start": "2026-01-01", "end": "2026-12-31"}
    (condition,) = found["applicability"]
    assert condition["description"] == "modality CT, subspecialty msk, urgency stat, facility a_b"
