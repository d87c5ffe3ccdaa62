"""What a list of prices says: from which day on it holds, in which currency, and what each reading costs.

The same models are written in files (`prices.toml`) and kept in the catalog; each says of itself what is wrong with it.
Amounts are whole numbers of the smallest unit of their currency (ISO 4217), and decimal text where people see them.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from datetime import date
from decimal import Decimal
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, Field, model_validator

from readingroom.model import PRIORITIES, Priority
from storage.directory import Entry, Id, Subspecialty, Upper

ChargeAt = Literal["final", "preliminary"]
"""When a reading has to be paid: once its report is final; or once a radiologist of ours has signed it, as a night
service has it whose preliminary reports the facility's own radiologist finishes."""

CURRENCIES = frozenset(
    (
        "AED AFN ALL AMD AOA ARS AUD AWG AZN BAM BBD BDT BGN BHD BIF BMD BND BOB BRL BSD BTN BWP BYN BZD CAD CDF CHF "
        "CLP CNY COP CRC CUP CVE CZK DJF DKK DOP DZD EGP ERN ETB EUR FJD FKP GBP GEL GHS GIP GMD GNF GTQ GYD HKD HNL "
        "HTG HUF IDR ILS INR IQD IRR ISK JMD JOD JPY KES KGS KHR KMF KPW KRW KWD KYD KZT LAK LBP LKR LRD LSL LYD MAD "
        "MDL MGA MKD MMK MNT MOP MRU MUR MVR MWK MXN MYR MZN NAD NGN NIO NOK NPR NZD OMR PAB PEN PGK PHP PKR PLN PYG "
        "QAR RON RSD RUB RWF SAR SBD SCR SDG SEK SGD SHP SLE SOS SRD SSP STN SVC SYP SZL THB TJS TMT TND TOP TRY TTD "
        "TWD TZS UAH UGX USD UYU UZS VES VND VUV WST XAF XCD XOF XPF YER ZAR ZMW ZWG"
    ).split()
)
"""ISO 4217."""

PRICE_ORDER = (
    "Of the prices that apply the most specific counts: first one of the facility, then one of the facility above "
    "it; among these one of the subspecialty; then one of the urgency. A study of several modalities costs what the "
    "dearest of them does, once."
)
"""Which price counts, in words for people."""

_UNITS = {
    **dict.fromkeys("BIF CLP DJF GNF ISK JPY KMF KRW PYG RWF UGX VND VUV XAF XOF XPF".split(), 0),
    **dict.fromkeys("BHD IQD JOD KWD LYD OMR TND".split(), 3),
}
_AMOUNT = re.compile(r"[0-9]{1,9}(?:\.[0-9]{1,3})?")
_MOST_PRICES = 10_000


def unit_digits(currency: str) -> int:
    """How many decimal places a currency has."""
    return _UNITS.get(currency, 2)


def amount_text(minor: int, currency: str) -> str:
    """An amount in the smallest unit as people write it: 4000 as ``40.00``."""
    return str(Decimal(minor).scaleb(-unit_digits(currency)))


def _currency(text: str) -> str:
    if text not in CURRENCIES:
        raise ValueError(f"write a currency as ISO 4217 has it, such as USD or EUR, not {text[:10]!r}")
    return text


def _amount(given: Any) -> Any:
    """Text, as it was written; never a number that a computer has rounded."""
    if isinstance(given, int) and not isinstance(given, bool):
        given = str(given)
    if not isinstance(given, str) or not _AMOUNT.fullmatch(given):
        raise ValueError(f'write an amount as text such as "40.00", not {str(given)[:20]!r}')
    return given


def _urgency(text: Any) -> Any:
    if text not in PRIORITIES:
        raise ValueError(f"an urgency is one of {', '.join(PRIORITIES)}, not {str(text)[:20]!r}")
    return text


Currency = Annotated[str, AfterValidator(_currency)]
Amount = Annotated[str, BeforeValidator(_amount)]


class Price(Entry):
    """What reading one study costs; it is for the readings to which all holds that it names."""

    modality: Upper
    amount: Amount
    subspecialty: Subspecialty | None = None
    urgency: Annotated[Priority, BeforeValidator(_urgency)] | None = None
    facility: Id | None = None

    @property
    def key(self) -> tuple[str, str, str, str]:
        """What it is for: of one key a list has one price."""
        return self.modality, self.facility or "", self.subspecialty or "", self.urgency or ""

    def applies_to(self, asked: Asked) -> bool:
        """Whether all that it names is so of a reading."""
        return (
            self.modality in asked.modalities
            and self.subspecialty in (None, asked.subspecialty)
            and self.urgency in (None, asked.urgency)
            and (self.facility is None or self.facility in asked.facilities)
        )


class Asked(Entry):
    """A reading that a price is looked for. `facilities` are its facility and those above it, the nearest first."""

    facilities: tuple[str, ...]
    modalities: tuple[str, ...]
    subspecialty: str | None = None
    urgency: Priority = "routine"


class PriceList(Entry):
    """Prices that hold from a day on, by the clock of each facility, until the next list does."""

    currency: Currency
    valid_from: date
    charge_at: ChargeAt = "final"
    prices: tuple[Price, ...] = Field(min_length=1, max_length=_MOST_PRICES)

    def minor(self, price: Price) -> int:
        """The amount in the smallest unit of the currency."""
        return int(Decimal(price.amount).scaleb(unit_digits(self.currency)))

    def find(self, asked: Asked) -> Price | None:
        """The price of a reading; None where the list has none.

        Of those that apply the most specific counts: one of the facility before one of the facility above it before one
        of none; among these one of the subspecialty before one of none; then one of the urgency before one of none. A
        study of several modalities costs what the dearest of them does, once.
        """
        found = (self._of_modality(asked, modality) for modality in dict.fromkeys(asked.modalities))
        priced = [price for price in found if price is not None]
        return max(priced, key=lambda price: (self.minor(price), price.key), default=None)

    def _of_modality(self, asked: Asked, modality: str) -> Price | None:
        def specific(price: Price) -> tuple[int, bool, bool]:
            nearness = len(asked.facilities) - asked.facilities.index(price.facility) if price.facility else 0
            return nearness, price.subspecialty is not None, price.urgency is not None

        applying = (price for price in self.prices if price.modality == modality and price.applies_to(asked))
        return max(applying, key=specific, default=None)

    def shown_to(self, facilities: frozenset[str] | None) -> Iterator[Price]:
        """The prices that somebody may see who sees these facilities (None: all): those for all, and their own."""
        for price in self.prices:
            if price.facility is None or facilities is None or price.facility in facilities:
                yield price

    @model_validator(mode="after")
    def _is_right(self) -> PriceList:
        digits = unit_digits(self.currency)
        for price in self.prices:
            if -int(Decimal(price.amount).as_tuple().exponent) > digits:
                raise ValueError(f"{self.currency} has {digits} decimal places, and {price.amount} has more")
        twice = _twice([price.key for price in self.prices])
        if twice is not None:
            raise ValueError(f"two prices are for the same: {' '.join(filter(None, twice))}")
        return self


def _twice(keys: Sequence[tuple[str, str, str, str]]) -> tuple[str, str, str, str] | None:
    seen = set[tuple[str, str, str, str]]()
    for key in keys:
        if key in seen:
            return key
        seen.add(key)
    return None
