"""Lists of prices: which of them counts, and amounts that no computer rounds."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from storage.prices import Asked, PriceList, amount_text


def prices(*rows: dict[str, Any], **more: Any) -> PriceList:
    return PriceList.model_validate({"currency": "USD", "valid_from": "2026-01-01", "prices": rows} | more)


def price(amount: str, modality: str = "CT", **more: Any) -> dict[str, Any]:
    return {"modality": modality, "amount": amount} | more


def asked(*modalities: str, **more: Any) -> Asked:
    known = {"facilities": ("site", "group"), "modalities": modalities or ("CT",)}
    return Asked.model_validate(known | more)


def found(listed: PriceList, one: Asked) -> str | None:
    price = listed.find(one)
    return None if price is None else price.amount


LISTED = prices(
    price("1"),
    price("2", urgency="stat"),
    price("3", subspecialty="msk"),
    price("4", subspecialty="msk", urgency="stat"),
    price("5", facility="group"),
    price("6", facility="group", subspecialty="msk"),
    price("7", facility="site"),
    price("8", facility="elsewhere", urgency="stat"),
    price("9", modality="MR"),
)


@pytest.mark.parametrize(
    ("more", "amount"),
    [
        ({"facilities": ("other",)}, "1"),
        ({"facilities": ("other",), "urgency": "stat"}, "2"),
        ({"facilities": ("other",), "subspecialty": "msk"}, "3"),
        ({"facilities": ("other",), "subspecialty": "msk", "urgency": "stat"}, "4"),
        ({"facilities": ("group",), "urgency": "stat"}, "5"),
        ({"facilities": ("group",), "subspecialty": "msk"}, "6"),
        ({"urgency": "stat", "subspecialty": "msk"}, "7"),
        ({"facilities": ("elsewhere",)}, "1"),
    ],
)
def test_the_most_specific_price_counts_the_facility_before_the_field_before_the_urgency(
    more: dict[str, Any], amount: str
) -> None:
    assert found(LISTED, asked(**more)) == amount


def test_a_study_of_several_modalities_costs_what_the_dearest_does_once() -> None:
    assert found(LISTED, asked("SR", "CT", "MR", facilities=("other",))) == "9"


def test_what_has_no_price_has_none_and_never_nothing() -> None:
    assert found(LISTED, asked("US")) is None
    assert found(LISTED, asked("SR", "PR")) is None


@pytest.mark.parametrize(
    ("currency", "amount", "minor", "text"),
    [
        ("USD", "40", 4000, "40.00"),
        ("USD", "0.1", 10, "0.10"),
        ("JPY", "4500", 4500, "4500"),
        ("KWD", "1.255", 1255, "1.255"),
    ],
)
def test_amounts_are_whole_numbers_of_the_smallest_unit(currency: str, amount: str, minor: int, text: str) -> None:
    listed = prices(price(amount), currency=currency)
    assert listed.minor(listed.prices[0]) == minor
    assert amount_text(minor, currency) == text
    assert amount_text(-minor, currency) == f"-{text}"


@pytest.mark.parametrize(
    ("rows", "more", "says"),
    [
        ([price("1.001")], {}, "USD has 2 decimal places"),
        ([price("1.5")], {"currency": "JPY"}, "JPY has 0 decimal places"),
        ([price("-1")], {}, "write an amount as text"),
        ([price("1e3")], {}, "write an amount as text"),
        ([{"modality": "CT", "amount": 40.1}], {}, "write an amount as text"),
        ([price("1")], {"currency": "usd"}, "ISO 4217"),
        ([price("1"), price("2")], {}, "two prices are for the same: CT"),
        ([price("1", urgency="now")], {}, "an urgency is one of"),
        ([], {}, "at least 1 item"),
    ],
)
def test_what_is_wrong_with_a_list_is_said(rows: list[dict[str, Any]], more: dict[str, Any], says: str) -> None:
    with pytest.raises(ValidationError, match=says):
        prices(*rows, **more)


def test_prices_of_one_facility_are_shown_to_who_sees_it() -> None:
    assert [one.amount for one in LISTED.shown_to(frozenset({"site"}))] == ["1", "2", "3", "4", "7", "9"]
    assert len(list(LISTED.shown_to(frozenset()))) == 5
    assert len(list(LISTED.shown_to(None))) == 9
