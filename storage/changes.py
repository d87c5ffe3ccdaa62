"""What of a stored data set may be corrected, at which level, and whether a new value is one of its VR.

A change is an element of the DICOM JSON model (PS3.18 F.2) under its tag, or None, which takes the attribute away.
Identity stays: no UID, no SOP class, nothing that says how pixels are to be read, no content of a report or plan.
"""

from __future__ import annotations

import binascii
import re
from base64 import b64decode
from collections.abc import Iterable, Mapping
from math import isfinite
from typing import Any, Literal

from pydicom import config
from pydicom.datadict import dictionary_VM, dictionary_VR, keyword_for_tag, tag_for_keyword
from pydicom.valuerep import STANDARD_VR, validate_value

from readingroom.errors import Invalid
from storage.catalog.normal import normal_day
from storage.catalog.rows import SERIES_EXTRA, SERIES_ROW, STUDY_EXTRA, STUDY_ROW

Level = Literal["study", "series", "instance"]
Changes = Mapping[str, dict[str, Any] | None]

_MAX_DEPTH = 8
_MAX_ITEMS = 1000

_BYTES = frozenset({"OB", "OD", "OF", "OL", "OV", "OW", "UN"})
_MAX_INLINE = 1 << 16
_ONE_TEXT = frozenset({"LT", "ST", "UT", "UR"})  # a backslash is a character of it
_LINES = frozenset({"LT", "ST", "UT"})
_NUMBERS = frozenset({"DS", "FD", "FL"})
_INTEGERS = frozenset({"IS", "SL", "SS", "SV", "UL", "US", "UV"})
_NAME_GROUPS = ("Alphabetic", "Ideographic", "Phonetic")

STANDARD_VRS = tuple(sorted(STANDARD_VR))
_TAG = re.compile(r"[0-9A-Fa-f]{8}")
_DATE_TIME = re.compile(r"[0-9]{4,14}(\.[0-9]{1,6})?([+-][0-9]{4})?")
_TIME_OF_DAY = re.compile(r"[0-9]{2,6}(\.[0-9]{1,6})?")
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f]")
_CONTROL_IN_LINES = re.compile(r"[\x00-\x08\x0b\x0e-\x1f\x7f-\x9f]")

# Sums that we make ourselves, references to other objects, and how the images were acquired.
_NOT_DESCRIPTIVE = frozenset(
    """
    00080061 00080062 00201206 00201208 00201209
    00081110 00081111 00081120 00081250
    00180020 00180021 00180023 00181050 00540081 00541000 00541001 00541002
    """.split()
)
_OF_INSTANCE = """
    00080022 00080023 0008002A 00080032 00080033 00082111 00082218 00180010 00181400 00185101 00200012 00200013
    00200020 00200062 00204000 00280301 00420010 00540220 00700080 00700081 00700084
"""


def _changeable(tags: Iterable[str]) -> frozenset[str]:
    return frozenset(tag for tag in tags if tag not in _NOT_DESCRIPTIVE and dictionary_VR(int(tag, 16)) != "UI")


CHANGEABLE: Mapping[Level, frozenset[str]] = {
    "study": _changeable((*STUDY_ROW, *STUDY_EXTRA, "00080201")),
    "series": _changeable((*SERIES_ROW, *SERIES_EXTRA, "00400275")),
    "instance": _changeable(_OF_INSTANCE.split()),
}
"""The tags that may be corrected at each level: what is of a study is corrected for all of it."""


def read_changes(said: Any, level: Level | None) -> dict[str, dict[str, Any] | None]:
    """The changes that a DICOM JSON data set asks for, each value in the form that metadata has it.

    Parameters
    ----------
    said
        Parsed JSON: an object of elements by tag; null as an element takes the attribute away.
    level
        Where they are to apply; None for whatever may be changed at any level.

    Raises
    ------
    Invalid
        It is no data set, names what may not be changed there, or holds a value that is none of its VR.
    """
    if not isinstance(said, dict):
        raise Invalid('One data set of DICOM JSON is expected: {"00100010": {"vr": "PN", "Value": [...]}}.')
    changes = {}
    for name, element in said.items():
        tag = _tag(name)
        _check_changeable(tag, level)
        changes[tag] = None if element is None else _element(tag, element, 0)
    return dict(sorted(changes.items()))


def read_data_set(said: Any) -> dict[str, dict[str, Any]]:
    """A data set of DICOM JSON of whatever attributes, private ones too, each value in the form that metadata has it.

    Bulk data by URI is refused (PS3.18 11.1.3: work items have none). Raises `Invalid`.
    """
    if not isinstance(said, dict):
        raise Invalid('One data set of DICOM JSON is expected: {"00741000": {"vr": "CS", "Value": [...]}}.')
    elements = {}
    for name, element in said.items():
        tag = _tag(name)
        elements[tag] = _element(tag, element, 0, is_open=True)
    return dict(sorted(elements.items()))


def read_change(name: str, text: str | None) -> tuple[str, dict[str, Any] | None]:
    """A tag and its element from a keyword (or tag) and the text of its value, as one writes it in a file of settings.

    Values are parted by backslashes and component groups of names by ``=``; None takes the attribute away. Raises
    `Invalid`.

    Examples
    --------
    >>> read_change("PatientName", "Doe^Jane")
    ('00100010', {'vr': 'PN', 'Value': [{'Alphabetic': 'Doe^Jane'}]})
    >>> read_change("PatientWeight", "71.5")
    ('00101030', {'vr': 'DS', 'Value': [71.5]})
    >>> read_change("AccessionNumber", "")
    ('00080050', {'vr': 'SH'})
    """
    tag = tag_of(name)
    if text is None:
        return tag, None
    vr = _vr(tag)
    if vr == "SQ":
        raise Invalid(f"{_named(tag)} is a sequence; its items are sent as DICOM JSON.")
    values: list[Any] = [text] if vr in _ONE_TEXT else text.split("\\")
    if vr == "PN":
        values = [dict(zip(_NAME_GROUPS, value.split("="), strict=False)) for value in values]
    return tag, _element(tag, {"vr": vr, "Value": values} if text else {"vr": vr}, 0)


def tag_of(name: str) -> str:
    """The tag of a keyword, or of eight hex digits, that may be changed at some level; raises `Invalid`."""
    number = tag_for_keyword(name)
    tag = f"{number:08X}" if number is not None else _tag(name)
    _check_changeable(tag, None)
    return tag


def _check_changeable(tag: str, level: Level | None) -> None:
    at = [where for where, tags in CHANGEABLE.items() if tag in tags]
    if not at:
        raise Invalid(f"{_named(tag)} cannot be changed; patient and other descriptive attributes can.")
    if level is not None and level not in at:
        raise Invalid(f"{_named(tag)} is changed for a whole {at[0]}, not for {_a(level)}.")


def _a(level: Level) -> str:
    return "an instance" if level == "instance" else f"a {level}"


def _tag(name: object) -> str:
    if not (isinstance(name, str) and _TAG.fullmatch(name)):
        shown = name[:40] if isinstance(name, str) and name[:40].isalnum() else "It"
        raise Invalid(f"{shown} is no attribute: a tag is eight hex digits, as in 00100010.")
    return name.upper()


def _named(tag: str) -> str:
    return f"({tag[:4]},{tag[4:]}) {keyword_for_tag(int(tag, 16))}".rstrip()


def _open_vr(tag: str, element: Any) -> str:
    """The VR of an attribute that may be private or retired, or that the dictionary leaves a choice for."""
    said = element.get("vr") if isinstance(element, dict) else None
    try:
        known = dictionary_VR(int(tag, 16))
    except KeyError:
        known = " or ".join(STANDARD_VRS)
    return str(said) if said in known.split(" or ") else known.partition(" or ")[0]


def _vr(tag: str) -> str:
    try:
        return dictionary_VR(int(tag, 16))
    except KeyError:
        raise Invalid(f"{_named(tag)} is not in the dictionary of DICOM, and cannot be set.") from None


def _element(tag: str, element: Any, depth: int, *, is_open: bool = False) -> dict[str, Any]:
    """An element, checked and in the form that metadata has it; with `is_open` of whatever attribute."""
    vr = _open_vr(tag, element) if is_open else _vr(tag)
    if is_open and vr in _BYTES and isinstance(element, dict) and element.keys() <= {"vr", "InlineBinary"}:
        return _inline(tag, vr, element)
    if not isinstance(element, dict) or not element.keys() <= {"vr", "Value"}:
        raise Invalid(f'{_named(tag)} is no element of DICOM JSON that can be set: {{"vr": "{vr}", "Value": [...]}}.')
    if element.get("vr") != vr:
        raise Invalid(f"{_named(tag)} is of VR {vr}; its element has another one, or none.")
    if vr in _BYTES or len(vr) != 2:
        raise Invalid(f"{_named(tag)} holds bytes, and cannot be set.")
    values = element.get("Value", [])
    if not isinstance(values, list) or len(values) > _MAX_ITEMS:
        raise Invalid(f"The Value of {_named(tag)} is no list of at most {_MAX_ITEMS} values.")
    if vr == "SQ":
        items = [_item(tag, item, depth + 1, is_open=is_open) for item in values]
        return {"vr": "SQ", "Value": items} if items else {"vr": "SQ"}
    most = _most_values(tag)
    if most is not None and len(values) > most:
        raise Invalid(f"{_named(tag)} has {len(values)} values; {most} is the most that it may have.")
    made = [None if value is None or value == "" else _value(tag, vr, value) for value in values]
    return {"vr": vr, "Value": made} if any(value is not None for value in made) or len(made) > 1 else {"vr": vr}


def _inline(tag: str, vr: str, element: dict[str, Any]) -> dict[str, Any]:
    text = element.get("InlineBinary", "")
    try:
        if element.get("vr") == vr and isinstance(text, str) and len(text) <= _MAX_INLINE:
            b64decode(text, validate=True)
            return {"vr": vr, "InlineBinary": text} if text else {"vr": vr}
    except binascii.Error:
        pass
    raise Invalid(f"{_named(tag)} has no InlineBinary of VR {vr} and at most {_MAX_INLINE} characters of base64.")


def _item(tag: str, item: Any, depth: int, *, is_open: bool = False) -> dict[str, Any]:
    if depth > _MAX_DEPTH:
        raise Invalid(f"{_named(tag)} is nested deeper than {_MAX_DEPTH} levels.")
    if not isinstance(item, dict):
        raise Invalid(f"An item of {_named(tag)} is no data set.")
    elements = {}
    for name, element in item.items():
        inner = _tag(name)
        if inner == "00080005" or int(inner[:4], 16) < 8:
            raise Invalid(f"{_named(inner)} is nothing that an item says.")
        elements[inner] = _element(inner, element, depth, is_open=is_open)
    return dict(sorted(elements.items()))


def _most_values(tag: str) -> int | None:
    """How many values an attribute may have (PS3.6 6); None where there is no end to it."""
    try:
        last = dictionary_VM(int(tag, 16)).rpartition("-")[2]
    except KeyError:
        return None
    return int(last) if last.isdigit() else None


def _value(tag: str, vr: str, value: Any) -> Any:
    made = _name(value) if vr == "PN" else _number(vr, value) if vr in _NUMBERS | _INTEGERS else _text(vr, value)
    if made is None:
        raise Invalid(f"A value of {_named(tag)} is no {vr} (PS3.5 6.2).")
    return made


def _name(value: Any) -> dict[str, str] | None:
    """A person name (PS3.5 6.2.1): at most 64 characters and five components in each group."""
    if not isinstance(value, dict) or not value.keys() <= set(_NAME_GROUPS):
        return None
    made = {}
    for group in _NAME_GROUPS:
        text = value.get(group, "")
        if not isinstance(text, str) or len(text) > 64 or text.count("^") > 4:
            return None
        if _CONTROL.search(text) or "\\" in text or "=" in text or not _is_text(text):
            return None
        if text.rstrip():
            made[group] = text.rstrip()
    return made or None


def _number(vr: str, value: Any) -> int | float | None:
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return None
    if isinstance(value, str):
        if vr not in ("DS", "IS") or not _is_valid(vr, value):
            return None
        value = float(value) if vr == "DS" else int(value)
    if vr in _INTEGERS:
        if value != int(value):
            return None
        value = int(value)
        in_range = -(1 << 31) <= value < 1 << 31 if vr == "IS" else _is_valid(vr, value)
        return value if in_range else None
    return float(value) if isfinite(value) else None


def _text(vr: str, value: Any) -> str | None:
    if not isinstance(value, str) or not _is_text(value):
        return None
    if (_CONTROL_IN_LINES if vr in _LINES else _CONTROL).search(value) or ("\\" in value and vr not in _ONE_TEXT):
        return None
    value = value.rstrip() if vr in _ONE_TEXT else value.strip()
    if vr == "AT":
        return value.upper() if _TAG.fullmatch(value) else None
    if vr == "DA":
        is_right = len(value) == 8 and normal_day(value) is not None
    else:
        form = {"DT": _DATE_TIME, "TM": _TIME_OF_DAY}.get(vr)
        is_right = (form is None or form.fullmatch(value) is not None) and _is_valid(vr, value)
    return value if value and is_right else None


def _is_valid(vr: str, value: Any) -> bool:
    """Whether pydicom's rules for the VR (length, repertoire, range) hold."""
    try:
        validate_value(vr, value, config.RAISE)
    except ValueError:
        return False
    return True


def _is_text(text: str) -> bool:
    """Whether it can be written as UTF-8: JSON may hold half of a surrogate pair."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
