"""Lists of prices as files: TOML that a person writes; every error is told with its file and line."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from datetime import date
from decimal import Decimal
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from server.worklist.files import Place, Problem, WrongFile, read_toml, said
from storage.prices import CURRENCIES, Price, PriceList, unit_digits


def read_prices(paths: Sequence[Path], facilities: Collection[str] | None = None) -> list[PriceList]:
    """The lists of some files, each of which is one, in the order of their days.

    Parameters
    ----------
    facilities
        Those that prices may be for; None: any.

    Raises
    ------
    WrongFile
        Something is wrong; tells everything that is.
    NotFound
        There is no such file.
    """
    problems: list[Problem] = []
    found: dict[date, tuple[PriceList, str]] = {}
    for path in paths:
        read = read_toml(problems, path)
        if read is None:
            continue
        document, place = read
        prices = _checked(problems, document, place, facilities)
        if prices is None:
            continue
        if prices.valid_from in found:
            what = f"valid_from: {found[prices.valid_from][1]} is of {prices.valid_from} too"
            problems.append(place.problem(what, "valid_from"))
        found[prices.valid_from] = prices, place.file
    if problems:
        raise WrongFile("The prices are", problems)
    return [found[day][0] for day in sorted(found)]


def _checked(
    problems: list[Problem], document: dict[str, Any], place: Place, facilities: Collection[str] | None
) -> PriceList | None:
    before = len(problems)
    for number, given in enumerate(_tables(document)):
        _check_price(problems, given, place.within("prices", number), document.get("currency"), facilities)
    _check_keys(problems, document, place)
    seen_lines = {problem.line for problem in problems[before:]}
    try:
        return PriceList.model_validate(document)
    except ValidationError as error:
        for one in error.errors(include_url=False, include_input=False, include_context=False):
            path = one["loc"]
            problem = place.problem(": ".join(filter(None, (".".join(map(_numbered, path)), said(one)))), *path)
            # What is said of all of the list has been said of its lines above.
            if problem not in problems and not (seen_lines and not path):
                problems.append(problem)
    return None


def _numbered(part: str | int) -> str:
    return str(part + 1) if isinstance(part, int) else part


def _tables(document: dict[str, Any]) -> list[Any]:
    tables = document.get("prices")
    return tables if isinstance(tables, list) else []


def _check_price(
    problems: list[Problem], given: Any, place: Place, currency: Any, facilities: Collection[str] | None
) -> None:
    """What only the list, or the directory, can tell of a price."""
    if not isinstance(given, dict):
        return
    facility, amount = given.get("facility"), given.get("amount")
    if facilities is not None and isinstance(facility, str) and facility not in facilities:
        problems.append(place.problem(f"facility: there is no facility {facility[:64]!r} in the directory", "facility"))
    if currency in CURRENCIES and isinstance(amount, str):
        try:
            places = -int(Decimal(amount).as_tuple().exponent)
        except (ArithmeticError, ValueError):
            return
        if places > unit_digits(currency):
            what = f"amount: {currency} has {unit_digits(currency)} decimal places, and {amount[:20]} has more"
            problems.append(place.problem(what, "amount"))


def _check_keys(problems: list[Problem], document: dict[str, Any], place: Place) -> None:
    """That no two prices are for the same."""
    seen: dict[tuple[str, ...], int] = {}
    for number, given in enumerate(_tables(document)):
        try:
            key = Price.model_validate(given).key
        except ValidationError:
            continue
        here = place.within("prices", number)
        if key in seen:
            what = f"{' '.join(filter(None, key))}: there is a price for the same on line {seen[key]}"
            problems.append(here.problem(what))
        else:
            seen[key] = here.line_of(())
