"""The DICOM JSON Model, read strictly (PS3.18 Annex F), and compared with the data set that was stored."""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from decimal import Decimal, InvalidOperation
from typing import Any

from pydicom.dataelem import DataElement
from pydicom.dataset import Dataset

TEXTS = frozenset("AE AS CS DA DT LO LT SH ST TM UC UI UR UT".split())
BINARIES = frozenset("OB OD OF OL OV OW UN".split())
WHOLE = frozenset("SL SS UL US".split())
FLOATS = frozenset("FL FD".split())
EITHER = frozenset("DS IS SV UV".split())
"""What may be a number or a string (Table F.2.3-1)."""

VRS = TEXTS | BINARIES | WHOLE | FLOATS | EITHER | {"AT", "PN", "SQ"}
_BULK_VRS = VRS - {"AE", "AS", "AT", "CS", "DA", "DT", "LO", "PN", "SH", "SQ", "TM", "UI", "UR"}
_GROUPS = frozenset(("Alphabetic", "Ideographic", "Phonetic"))
_KEY = re.compile(r"[0-9A-F]{8}")
_MEMBERS = frozenset(("vr", "Value", "BulkDataURI", "InlineBinary"))


@dataclass(frozen=True, slots=True)
class Blemish:
    """One breach of Annex F.

    Attributes
    ----------
    rule
        key, order, group, vr, members, empty, kind, name, tag, padding, or bulk.
    """

    rule: str
    path: str
    text: str

    def __str__(self) -> str:
        return f"{self.path}: {self.text}"


def blemishes(dataset: dict[str, Any], path: str = "") -> Iterator[Blemish]:
    """Every breach of Annex F in a data set."""
    keys = list(dataset)
    if keys != sorted(keys):
        at = next(index for index, (one, other) in enumerate(zip(keys, sorted(keys), strict=True)) if one != other)
        yield Blemish("order", path or "data set", f"{keys[at]} stands where {sorted(keys)[at]} has to")
    for key, attribute in dataset.items():
        here = f"{path}/{key}" if path else key
        if not _KEY.fullmatch(key):
            yield Blemish("key", here, "a key has eight upper-case hexadecimal digits (F.2.2)")
        elif key.startswith("0002"):
            yield Blemish("group", here, "file meta information is no part of a data set")
        elif key.endswith("0000"):
            yield Blemish("group", here, "group lengths shall not be there (F.2.2)")
        if not isinstance(attribute, dict):
            yield Blemish("members", here, "an attribute is an object")
            continue
        yield from _attribute(attribute, here)


def _attribute(attribute: dict[str, Any], here: str) -> Iterator[Blemish]:
    vr = attribute.get("vr")
    if vr not in VRS:
        yield Blemish("vr", here, f"{vr!r} is no value representation")
        return
    held = attribute.keys() - {"vr"}
    if unknown := attribute.keys() - _MEMBERS:
        yield Blemish("members", here, f"an attribute has no member {', '.join(sorted(unknown))}")
    if len(held & _MEMBERS) > 1:
        yield Blemish("members", here, f"{' and '.join(sorted(held))} exclude each other (F.2.2)")
    if "BulkDataURI" in held and (vr not in _BULK_VRS or not isinstance(attribute["BulkDataURI"], str)):
        yield Blemish("bulk", here, f"a BulkDataURI is no string, or is given for a value of VR {vr}")
    if "InlineBinary" in held:
        yield from _inline(attribute["InlineBinary"], vr, here)
    if "Value" in held:
        yield from _values(attribute["Value"], vr, here)


def _inline(text: Any, vr: str, here: str) -> Iterator[Blemish]:
    if vr not in BINARIES:
        yield Blemish("bulk", here, f"a value of VR {vr} is no InlineBinary (F.2.7)")
    try:
        base64.b64decode(text, validate=True)
    except (binascii.Error, TypeError, ValueError):
        yield Blemish("bulk", here, "an InlineBinary is one base64 string")


def _values(values: Any, vr: str, here: str) -> Iterator[Blemish]:
    if not isinstance(values, list) or not values:
        yield Blemish("empty", here, "a Value is an array that is not empty; an empty attribute has none (F.2.5)")
        return
    if vr in BINARIES:
        yield Blemish("bulk", here, f"a value of VR {vr} is no Value array")
        return
    for index, value in enumerate(values):
        where = f"{here}[{index}]"
        if vr == "SQ":
            if isinstance(value, dict):
                yield from blemishes(value, where)
            else:
                yield Blemish("kind", where, f"an item is an object, and an empty one {{}}, not {value!r} (F.2.2)")
        elif value is None:
            if len(values) == 1:
                yield Blemish("empty", where, "an attribute without a value has no Value (F.2.5)")
        else:
            yield from _value(value, vr, where)


def _value(value: Any, vr: str, where: str) -> Iterator[Blemish]:
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    if vr == "PN":
        yield from _name(value, where)
    elif vr == "AT":
        if not (isinstance(value, str) and _KEY.fullmatch(value)):
            yield Blemish("tag", where, f"a value of VR AT is eight upper-case hexadecimal digits, not {value!r}")
    elif vr in TEXTS:
        if not isinstance(value, str):
            yield Blemish("kind", where, f"a value of VR {vr} is a string, not {value!r}")
        elif not value:
            yield Blemish("empty", where, "an empty value between others is null (F.2.5)")
        elif value != value.rstrip("\0 ") and (vr not in ("LT", "ST", "UT", "UC") or value.endswith("\0")):
            yield Blemish("padding", where, f"{value[-20:]!r} ends with padding")
    elif vr in WHOLE:
        if not isinstance(value, int) or isinstance(value, bool):
            yield Blemish("kind", where, f"a value of VR {vr} is a whole number, not {value!r}")
    elif vr in FLOATS:
        if not is_number and value not in ("NaN", "Infinity", "-Infinity", "inf", "-inf"):
            yield Blemish("kind", where, f"a value of VR {vr} is a number, not {value!r}")
    elif not is_number and not isinstance(value, str):
        yield Blemish("kind", where, f"a value of VR {vr} is a number or a string, not {value!r}")


def _name(value: Any, where: str) -> Iterator[Blemish]:
    if not isinstance(value, dict):
        yield Blemish("name", where, f"a name is an object of component groups, not {value!r} (F.2.2)")
    elif value.keys() - _GROUPS or not all(isinstance(text, str) for text in value.values()):
        yield Blemish("name", where, f"a name has Alphabetic, Ideographic and Phonetic strings, not {sorted(value)}")


def values(dataset: dict[str, Any], tag: str) -> list[Any]:
    """The values of an attribute; none where it is empty or absent."""
    attribute = dataset.get(tag)
    found = attribute.get("Value") if isinstance(attribute, dict) else None
    return found if isinstance(found, list) else []


def first(dataset: dict[str, Any], tag: str) -> Any:
    """The first value of an attribute, or None."""
    found = values(dataset, tag)
    return found[0] if found else None


def differences(sent: Dataset, came: dict[str, Any], path: str = "") -> Iterator[str]:
    """Where a JSON data set differs from the one that was stored; binary and large values are not looked at."""
    for element in sent:
        key = f"{int(element.tag):08X}"
        here = f"{path}/{key}" if path else key
        if key not in came:
            yield f"{here} is not there"
        else:
            yield from element_differences(element, came[key], here)
    expected = {f"{int(element.tag):08X}" for element in sent}
    for key in came.keys() - expected - _ADDED:
        yield f"{path}/{key}".lstrip("/") + " was not in what was stored"


_ADDED = frozenset(("00080056", "00081190", "00083002", "00083003", "00080005", "04000561"))
"""What a server may put there itself."""


def element_differences(element: DataElement, attribute: dict[str, Any], here: str) -> Iterator[str]:
    """Where one attribute differs from the one that was stored."""
    vr = str(element.VR)
    if attribute.get("vr") != vr:
        yield f"{here} has the VR {attribute.get('vr')}, not {vr}"
        return
    if vr in BINARIES or "BulkDataURI" in attribute:
        return
    came = attribute.get("Value", [])
    if vr == "SQ":
        if len(came) != len(element.value):
            yield f"{here} has {len(came)} items, not {len(element.value)}"
            return
        for index, (item, found) in enumerate(zip(element.value, came, strict=True)):
            yield from differences(item, found, f"{here}[{index}]")
        return
    sent = _expected(element)
    found = [_plain(value, vr) for value in came]
    if found != sent and here != "00080005":
        yield f"{here} is {came!r}, not {sent!r}"[:300]


def _expected(element: DataElement) -> list[Any]:
    value, vr = element.value, str(element.VR)
    if element.is_empty:
        return []
    many = list(value) if element.VM > 1 or isinstance(value, list | tuple) else [value]
    return [_sent(one, vr) for one in many]


def _sent(value: Any, vr: str) -> Any:
    if value is None or value == "":
        return None
    if vr == "AT":
        return f"{int(value):08X}"
    if vr == "PN":
        return str(value).rstrip("=")
    if vr in WHOLE | EITHER:
        return Decimal(str(value).strip())
    if vr in FLOATS:
        return float(value)
    return str(value).rstrip() if vr not in ("LT", "ST", "UT") else str(value)


def _plain(value: Any, vr: str) -> Any:
    if vr == "PN" and isinstance(value, dict):
        groups = [value.get(group, "") for group in ("Alphabetic", "Ideographic", "Phonetic")]
        return "=".join(groups).rstrip("=") or None
    if value is None or vr not in WHOLE | EITHER | FLOATS:
        return value
    if vr in FLOATS:
        return float(value) if isinstance(value, int | float) else value
    try:
        return Decimal(str(value).strip())
    except InvalidOperation:
        return value


def said(found: Iterable[object], *, most: int = 4) -> str:
    """Several findings in one line."""
    listed = [str(one) for one in found]
    more = f"; and {len(listed) - most} more" if len(listed) > most else ""
    return "; ".join(listed[:most]) + more
