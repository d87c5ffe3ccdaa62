"""How the primitive types of R4 are written (2.24.0.1): for each a check that says what is wrong, or nothing."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from datetime import date, datetime
from decimal import Decimal
from typing import Any

type Check = Callable[[Any], str | None]

MAX_STRING = 1 << 20  # characters: "strings SHALL NOT exceed 1 MB in size"

_ID = re.compile(r"[A-Za-z0-9\-.]{1,64}")
_CODE = re.compile(r"\S+(?:\s\S+)*")
_URI = re.compile(r"\S+")
_OID = re.compile(r"urn:oid:[0-2](?:\.(?:0|[1-9][0-9]*))+")
_UUID = re.compile(r"urn:uuid:[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}")
_DATE = re.compile(r"([0-9]{4})(?:-([0-9]{2})(?:-([0-9]{2}))?)?")
_CLOCK = r"(?:[01][0-9]|2[0-3]):[0-5][0-9]:(?:[0-5][0-9]|60)(?:\.[0-9]{1,12})?"
_MOMENT = re.compile(
    rf"([0-9]{{4}})-([0-9]{{2}})-([0-9]{{2}})T{_CLOCK}(?:Z|[+-](?:(?:0[0-9]|1[0-3]):[0-5][0-9]|14:00))"
)
_TIME = re.compile(_CLOCK)
_BASE64 = re.compile(r"[A-Za-z0-9+/]*={0,2}")
_SPACES = str.maketrans("", "", " \t\r\n")


def _written(pattern: re.Pattern[str], said: str) -> Check:
    match = pattern.fullmatch
    return lambda value: None if isinstance(value, str) and len(value) <= MAX_STRING and match(value) else said


def _string(value: Any) -> str | None:
    if not isinstance(value, str):
        return "A string is written in quotes."
    if not value:
        return "A string is never empty; leave the element out."
    return None if len(value) <= MAX_STRING else "A string has at most 1,048,576 characters."


def _boolean(value: Any) -> str | None:
    return None if value is True or value is False else "A boolean is true or false, without quotes."


def _integer(least: int, said: str) -> Check:
    def check(value: Any) -> str | None:
        is_one = isinstance(value, int) and not isinstance(value, bool) and least <= value < 1 << 31
        return None if is_one else said

    return check


def _decimal(value: Any) -> str | None:
    is_one = isinstance(value, int | float | Decimal) and not isinstance(value, bool)
    return None if is_one else "A decimal is a number, without quotes."


def _is_day(year: str, month: str | None, day: str | None) -> bool:
    try:
        date(int(year), int(month or 1), int(day or 1))
    except ValueError:
        return False
    return True


def _date(value: Any) -> str | None:
    if isinstance(value, str) and (found := _DATE.fullmatch(value)) and _is_day(*found.groups()):
        return None
    return "A date is YYYY, YYYY-MM or YYYY-MM-DD, of a day that there is."


def _is_moment(value: Any) -> bool:
    found = _MOMENT.fullmatch(value) if isinstance(value, str) else None
    return found is not None and _is_day(*found.groups())


def _date_time(value: Any) -> str | None:
    if _is_moment(value) or _date(value) is None:
        return None
    return "A dateTime is YYYY, YYYY-MM, YYYY-MM-DD or YYYY-MM-DDThh:mm:ss with a zone, of a day that there is."


def _instant(value: Any) -> str | None:
    return None if _is_moment(value) else "An instant is YYYY-MM-DDThh:mm:ss with a zone, of a day that there is."


def _base64(value: Any) -> str | None:
    if isinstance(value, str):
        packed = value if value.isalnum() else value.translate(_SPACES)
        if len(packed) % 4 == 0 and _BASE64.fullmatch(packed):
            return None
    return "Bytes are written in base64."


def _xhtml(value: Any) -> str | None:
    return None if isinstance(value, str) else "A narrative is written in quotes."


_uri = _written(_URI, "A URI has no spaces.")

CHECKS: Mapping[str, Check] = {
    "base64Binary": _base64,
    "boolean": _boolean,
    "canonical": _uri,
    "code": _written(_CODE, "A code has no spaces at its ends, and single ones within."),
    "date": _date,
    "dateTime": _date_time,
    "decimal": _decimal,
    "id": _written(_ID, "An id has 1 to 64 of A-Z, a-z, 0-9, hyphen and dot."),
    "instant": _instant,
    "integer": _integer(-(1 << 31), "An integer is a whole number of 32 bits, without quotes."),
    "markdown": _string,
    "oid": _written(_OID, "An OID is urn:oid: and numbers with dots."),
    "positiveInt": _integer(1, "This is a whole number from 1 to 2,147,483,647, without quotes."),
    "string": _string,
    "time": _written(_TIME, "A time is hh:mm:ss, without a zone."),
    "unsignedInt": _integer(0, "This is a whole number from 0 to 2,147,483,647, without quotes."),
    "uri": _uri,
    "url": _uri,
    "uuid": _written(_UUID, "A UUID is urn:uuid: and a UUID in small letters."),
    "xhtml": _xhtml,
}


def moment(text: str) -> datetime:
    """A dateTime that has a time, as a moment; a leap second as the last one before it."""
    day, _, clock = text.partition("T")
    return datetime.fromisoformat(f"{day}T{clock[:8].replace(':60', ':59')}{clock[8:]}")
