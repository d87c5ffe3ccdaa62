"""Rejection notes: Key Object Selection documents that take instances out of use (IHE RAD TF-3 4.66, profile IOCM)."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from storage.dicomjson import MetadataJson

KEY_OBJECT_SELECTION = "1.2.840.10008.5.1.4.1.1.88.59"


@dataclass(frozen=True, slots=True, kw_only=True)
class Title:
    """A document title that rejects (PS3.16 CID 7011), and what follows from it.

    Attributes
    ----------
    is_final
        The same instance is refused when it comes again (4.66.4.2.3.1, 4.66.4.3.3). Of retention the profile lets the
        archive decide that it is no longer in force (4.66.4.4.3), and this one does.
    hides_note
        The note goes out of use with what it rejects.
    """

    code: str
    meaning: str
    is_final: bool
    hides_note: bool


TITLES: Mapping[str, Title] = {
    title.code: title
    for title in (
        Title(code="113001", meaning="Rejected for Quality Reasons", is_final=True, hides_note=False),
        Title(code="113037", meaning="Rejected for Patient Safety Reasons", is_final=True, hides_note=False),
        Title(code="113038", meaning="Incorrect Modality Worklist Entry", is_final=True, hides_note=False),
        Title(code="113039", meaning="Data Retention Policy Expired", is_final=False, hides_note=True),
    )
}

QUALITY = "113001"
"""The one of which a site may choose to go on using what is rejected (4.66.4.1.3)."""

_UID = re.compile(r"[0-9.]{1,64}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Rejection:
    """What a note rejects: SOP Instance UIDs by study and series, as its evidence lists them."""

    title: Title
    studies: Mapping[str, Mapping[str, list[str]]]


def rejection_of(metadata: MetadataJson) -> Rejection | None:
    """What a document rejects; None where its title does not say that it rejects anything."""
    if _uid(metadata, "00080016") != KEY_OBJECT_SELECTION:
        return None
    titles = [
        TITLES[str(_value(item, "00080100"))]
        for item in _items(metadata, "0040A043")
        if _value(item, "00080102") == "DCM" and str(_value(item, "00080100")) in TITLES
    ]
    if not titles:
        return None
    studies: dict[str, dict[str, list[str]]] = defaultdict(lambda: defaultdict(list))
    for study in _items(metadata, "0040A375"):
        for series in _items(study, "00081115"):
            for reference in _items(series, "00081199"):
                uids = _uid(study, "0020000D"), _uid(series, "0020000E"), _uid(reference, "00081155")
                if all(uids):
                    studies[uids[0]][uids[1]].append(uids[2])
    return Rejection(title=titles[0], studies=studies)


def _items(data_set: Mapping[str, Any], tag: str) -> Iterator[Mapping[str, Any]]:
    element = data_set.get(tag)
    values = element.get("Value") if isinstance(element, dict) and element.get("vr") == "SQ" else None
    yield from (item for item in values or () if isinstance(item, dict))


def _value(data_set: Mapping[str, Any], tag: str) -> Any:
    element = data_set.get(tag)
    values = element.get("Value") if isinstance(element, dict) else None
    value = values[0] if values else None
    return value.strip() if isinstance(value, str) else value


def _uid(data_set: Mapping[str, Any], tag: str) -> str:
    """A UID that can be one; else empty."""
    value = _value(data_set, tag)
    return value if isinstance(value, str) and _UID.fullmatch(value) else ""
