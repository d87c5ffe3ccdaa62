"""From a DICOM JSON header to the rows of the catalog: what searches match, and the JSON that is sent as it stands.

Every function here is pure and takes whatever a header may hold: a value that is broken, too long or of the wrong kind
gives ``None`` in a column, and never an exception. The JSON rows keep every value as it was received.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import orjson

from storage.catalog.normal import OFFSET, normal_day, normal_text, normal_time
from storage.objects import BASE_URL_MARK, MetadataJson


def _tags(listed: str) -> frozenset[str]:
    return frozenset(listed.split())


# Attributes that a Study answer always carries, empty where there is no value (PS3.18 10.6.3.3.1).
STUDY_ROW: Mapping[str, str] = {
    "00080020": "DA",  # Study Date
    "00080030": "TM",  # Study Time
    "00080050": "SH",  # Accession Number
    "00080061": "CS",  # Modalities in Study
    "00080062": "UI",  # SOP Classes in Study
    "00080090": "PN",  # Referring Physician's Name
    "00081030": "LO",  # Study Description
    "00100010": "PN",  # Patient's Name
    "00100020": "LO",  # Patient ID
    "00100030": "DA",  # Patient's Birth Date
    "00100040": "CS",  # Patient's Sex
    "0020000D": "UI",  # Study Instance UID
    "00200010": "SH",  # Study ID
    "00201206": "IS",  # Number of Study Related Series
    "00201208": "IS",  # Number of Study Related Instances
}

# The same for a Series answer (10.6.3.3.2), with the study it belongs to.
SERIES_ROW: Mapping[str, str] = {
    "00080021": "DA",  # Series Date
    "00080031": "TM",  # Series Time
    "00080060": "CS",  # Modality
    "0008103E": "LO",  # Series Description
    "0020000D": "UI",  # Study Instance UID
    "0020000E": "UI",  # Series Instance UID
    "00200011": "IS",  # Series Number
    "00201209": "IS",  # Number of Series Related Instances
    "00400244": "DA",  # Performed Procedure Step Start Date
    "00400245": "TM",  # Performed Procedure Step Start Time
}

# Sent with a row where the header has them.
_STUDY_WHERE_PRESENT = ("00080005", "00080201")
_SERIES_WHERE_PRESENT = ("00080005", "00080201", "00400275")

STUDY_TAGS = frozenset((*STUDY_ROW, *_STUDY_WHERE_PRESENT, "00080056", "00081190"))
"""What a Study answer has without being asked."""

SERIES_TAGS = frozenset((*SERIES_ROW, *_SERIES_WHERE_PRESENT, "00080056", "00081190"))
"""The same for a Series answer."""

# What `includefield` may add to a Study answer: the optional keys of PS3.4 C.6.1.1.2 and C.6.1.1.3, and attributes of
# the Patient, Study and Visit modules.
STUDY_EXTRA = _tags(
    """
    00080051 00080080 00080081 00080082 00080096 0008009C 0008009D 00081032 00081048 00081049 00081060 00081062
    00081080 00081084 00081110 00081120 00100021 00100022 00100024 00100026 00100027 00100032 00100033 00100034
    00100035 00100212 00100213 00100214 00100215 00100216 00100217 00100218 00100219 00100221 00100222 00100223
    00100229 00101000 00101001 00101002 00101010 00101020 00101021 00101022 00101023 00101024 00101030 00101040
    00101100 00102000 00102110 00102154 00102155 00102160 00102180 001021A0 001021B0 001021C0 001021D0 001021F0
    00102201 00102202 00102203 00102292 00102293 00102294 00102295 00102296 00102297 00102298 00102299 00104000
    00120010 00120020 00120021 00120030 00120031 00120040 00120042 00120050 00120051 00120060 00120062 00120063
    00120064 00120071 00120072 00120081 00120082 00120083 00321030 00321032 00321033 00321060 00321064 00321070
    00380010 00380014 00380060 00380062 00380064 00380300 00380500 00401012
    """
)

# The same for a Series answer: the Series, Equipment and Frame of Reference modules.
SERIES_EXTRA = _tags(
    """
    00080064 00080068 00080070 00080080 00080081 00080082 00081010 0008103F 00081040 00081041 00081050 00081052
    00081070 00081072 00081090 00081111 00081250 00120060 00120071 00120072 00180010 00180012 00180015 00180020
    00180021 00180023 00181000 00181002 00181008 00181020 00181030 00181050 00181200 00181201 00185100 00200052
    00200060 00201040 00400250 00400251 00400253 00400254 00400260 00400280 00400555 00540081 00540400 00541000
    00541001 00541002
    """
)

# What a row says that is in no header.
_MADE = _tags("00080056 00080061 00080062 00081190 00201206 00201208 00201209")

_PIXELS = ("7FE00010", "7FE00008", "7FE00009")


def study_columns(metadata: MetadataJson) -> dict[str, Any]:
    """The columns of `schema.study` that one header of the study gives; an unknown `study_date` is empty, not None."""
    return {
        "patient_id": _text(metadata, "00100020"),
        "issuer": _text(metadata, "00100021"),
        "birth_date": _day(metadata, "00100030"),
        "sex": _text(metadata, "00100040"),
        "study_date": _day(metadata, "00080020") or "",
        "study_time": _time(metadata, "00080030"),
        "timezone_offset": _timezone(metadata),
        "accession_number": _text(metadata, "00080050"),
        "study_id": _text(metadata, "00200010"),
        "study_description": _text(metadata, "00081030"),
        "institution_name": _text(metadata, "00080080"),
    }


def series_columns(metadata: MetadataJson) -> dict[str, Any]:
    """The columns of `schema.series` that one header of the series gives."""
    return {
        "modality": _text(metadata, "00080060"),
        "series_number": _whole_number(metadata, "00200011", bits=64),
        "series_description": _text(metadata, "0008103E"),
        "body_part": _text(metadata, "00180015"),
        "laterality": _text(metadata, "00200060"),
        "series_date": _day(metadata, "00080021"),
        "series_time": _time(metadata, "00080031"),
        "performed_date": _day(metadata, "00400244"),
        "performed_time": _time(metadata, "00400245"),
    }


def instance_columns(metadata: MetadataJson) -> dict[str, Any]:
    """The columns of `schema.instance` that its header gives; `frame_count` is 0 where there are no pixels."""
    has_pixels = any(tag in metadata for tag in _PIXELS)
    frames = _whole_number(metadata, "00280008", bits=32)
    return {
        "sop_class": _text(metadata, "00080016") or "",
        "instance_number": _whole_number(metadata, "00200013", bits=64),
        "content_date": _day(metadata, "00080023"),
        "content_time": _time(metadata, "00080033"),
        "rows": _whole_number(metadata, "00280010", bits=32),
        "columns": _whole_number(metadata, "00280011", bits=32),
        "bits_allocated": _whole_number(metadata, "00280100", bits=32),
        "frame_count": max(frames or 1, 1) if has_pixels else 0,
    }


def study_row(
    metadata: MetadataJson,
    *,
    study_uid: str,
    modalities: Sequence[str],
    sop_classes: Sequence[str],
    series_count: int,
    instance_count: int,
) -> tuple[bytes, bytes]:
    """What QIDO sends for a study, and what `includefield` may add: two DICOM JSON objects with sorted keys.

    The first is ready to send but for `BASE_URL_MARK`, which stands for the service root.
    """
    row = {tag: _received(metadata, tag, vr) for tag, vr in STUDY_ROW.items()}
    row |= _present(metadata, _STUDY_WHERE_PRESENT)
    row |= _study_sums(modalities, sop_classes, series_count, instance_count)
    row |= _where(f"/studies/{study_uid}")
    row["0020000D"] = _element("UI", study_uid)
    return _dump(row), _dump(_present(metadata, STUDY_EXTRA))


def restudy_row(
    row: bytes, *, modalities: Sequence[str], sop_classes: Sequence[str], series_count: int, instance_count: int
) -> bytes:
    """A study's row with other sums, without a header at hand."""
    return _dump(_load(row) | _study_sums(modalities, sop_classes, series_count, instance_count))


def series_row(metadata: MetadataJson, *, study_uid: str, series_uid: str, instance_count: int) -> tuple[bytes, bytes]:
    """What QIDO sends for a series, and what `includefield` may add, as `study_row` does."""
    row = {tag: _received(metadata, tag, vr) for tag, vr in SERIES_ROW.items()}
    row |= _present(metadata, _SERIES_WHERE_PRESENT)
    row |= _where(f"/studies/{study_uid}/series/{series_uid}")
    row["0020000D"] = _element("UI", study_uid)
    row["0020000E"] = _element("UI", series_uid)
    row["00201209"] = _element("IS", instance_count)
    return _dump(row), _dump(_present(metadata, SERIES_EXTRA))


def reseries_row(row: bytes, *, instance_count: int) -> bytes:
    """A series' row with another number of instances."""
    return _dump(_load(row) | {"00201209": _element("IS", instance_count)})


def header_of(row: bytes, extra: bytes) -> MetadataJson:
    """What a row and its extra keep of the header that they were made of; a row made of it again is the same."""
    kept: MetadataJson = orjson.loads(row.replace(BASE_URL_MARK.encode(), b"")) | orjson.loads(extra)
    return {tag: element for tag, element in kept.items() if tag not in _MADE}


def _text(metadata: MetadataJson, tag: str) -> str | None:
    """The first value as it is matched."""
    return normal_text(next(_values(metadata, tag), None))


def _whole_number(metadata: MetadataJson, tag: str, *, bits: int) -> int | None:
    """An IS or US value that fits a signed integer of `bits`; None otherwise."""
    plain = _text(metadata, tag) or ""
    if not re.fullmatch(r"[+-]?[0-9]{1,20}(\.0*)?", plain):
        return None
    value = int(plain.partition(".")[0])
    return value if -(1 << bits - 1) <= value < 1 << bits - 1 else None


def _day(metadata: MetadataJson, tag: str) -> str | None:
    return normal_day(_text(metadata, tag) or "")


def _time(metadata: MetadataJson, tag: str) -> str | None:
    return normal_time(_text(metadata, tag) or "")


def _timezone(metadata: MetadataJson) -> str | None:
    offset = _text(metadata, "00080201") or ""
    return offset if OFFSET.fullmatch(offset) else None


def _values(metadata: MetadataJson, tag: str) -> Iterator[Any]:
    element = metadata.get(tag)
    values = element.get("Value") if isinstance(element, dict) else None
    yield from values if isinstance(values, list) else ()


def _element(vr: str, *values: Any) -> dict[str, Any]:
    return {"vr": vr, "Value": list(values)} if values else {"vr": vr}


def _received(metadata: MetadataJson, tag: str, vr: str) -> dict[str, Any]:
    """The element as received, empty where it is absent or is no list of values of that VR."""
    element = metadata.get(tag)
    if isinstance(element, dict) and element.get("vr") == vr and isinstance(element.get("Value"), list):
        return element
    return _element(vr)


def _present(metadata: MetadataJson, tags: Iterable[str]) -> dict[str, Any]:
    """Those of `tags` that the header has, as received but for bulk values."""
    return {tag: _without_bulk(metadata[tag]) for tag in tags if tag in metadata and not _is_bulk(metadata[tag])}


def _is_bulk(element: dict[str, Any]) -> bool:
    return "BulkDataURI" in element or "InlineBinary" in element


def _without_bulk(element: dict[str, Any]) -> dict[str, Any]:
    if element.get("vr") != "SQ":
        return element
    items = element.get("Value") or ()
    return (
        {"vr": "SQ", "Value": [_present(item, item) for item in items if item is not None]} if items else {"vr": "SQ"}
    )


def _study_sums(
    modalities: Sequence[str], sop_classes: Sequence[str], series_count: int, instance_count: int
) -> dict[str, Any]:
    return {
        "00080061": _element("CS", *modalities),
        "00080062": _element("UI", *sop_classes),
        "00201206": _element("IS", series_count),
        "00201208": _element("IS", instance_count),
    }


def _where(path: str) -> dict[str, Any]:
    """Availability, and the URL of `path` below the service root; the mark is raw, where orjson would escape it."""
    url = b'"' + BASE_URL_MARK.encode() + orjson.dumps(path)[1:]
    return {"00080056": _element("CS", "ONLINE"), "00081190": _element("UR", orjson.Fragment(url))}


def _load(row: bytes) -> dict[str, Any]:
    """A row that `_dump` wrote, as a dict that it writes again."""
    loaded: dict[str, Any] = orjson.loads(row.replace(BASE_URL_MARK.encode(), b""))
    return loaded | _where(loaded["00081190"]["Value"][0])


def _dump(row: dict[str, Any]) -> bytes:
    return orjson.dumps(dict(sorted(row.items())))
