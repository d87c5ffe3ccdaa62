"""The DICOMDIR of a file-set: which files there are, below their patients, studies and series (PS3.10 8, PS3.3 F).

It is made of the JSON of the instances. What a directory record has to say and an instance does not is said in its
place where it can be (a number, a modality), else left empty: a study is not withheld for want of a date.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from itertools import zip_longest

from storage.compose import encode
from storage.dicomjson import UNDEFINED, MetadataJson, first_value
from storage.part10 import EXPLICIT_LITTLE, element_head, new_file_meta

DIRECTORY_CLASS = "1.2.840.10008.1.3.10"

_IMAGE = "IMAGE"
_PATIENT_KEYS = ("00100010", "00100020")
_STUDY_KEYS = ("00080020", "00080030", "00080050", "00081030", "0020000D", "00200010")
_SERIES_KEYS = ("00080060", "0020000E", "00200011")
_NUMBER, _DATE, _TIME = "00200013", "00080023", "00080033"
_LABELLED = (_DATE, _TIME, _NUMBER, "00700080", "00700081", "00700084")

# Keys by type of record (PS3.3 F.5), those that may be empty among them.
_KEYS: dict[str, tuple[str, ...]] = {
    _IMAGE: (_NUMBER,),
    "RT DOSE": (_NUMBER, "3004000A"),
    "RT STRUCTURE SET": (_NUMBER, "30060002", "30060008", "30060009"),
    "RT PLAN": (_NUMBER, "300A0002", "300A0006", "300A0007"),
    "RT TREAT RECORD": (_NUMBER, "30080250", "30080251"),
    "PRESENTATION": ("00700082", "00700083", _NUMBER, "00700080", "00700081", "00700084", "00081115", "00700402"),
    "WAVEFORM": (_DATE, _TIME, _NUMBER),
    "SR DOCUMENT": (_DATE, _TIME, _NUMBER, "0040A491", "0040A493", "0040A030", "0040A043", "0040A730"),
    "KEY OBJECT DOC": (_DATE, _TIME, _NUMBER, "0040A043", "0040A730"),
    "SPECTROSCOPY": (
        *("00080008", _DATE, _TIME, "00089092", _NUMBER),
        *("00280008", "00280010", "00280011", "00289001", "00289002"),
    ),
    "RAW DATA": (_DATE, _TIME, _NUMBER),
    "ENCAP DOC": (_DATE, _TIME, _NUMBER, "0040A043", "0040E001", "00420010", "00420012"),
    "STEREOMETRIC": (),
    "PLAN": (),
    "SURFACE SCAN": (_DATE, _TIME),
    "ASSESSMENT": (_NUMBER, "00080012", "00080013"),
    "RADIOTHERAPY": (_NUMBER, "30100033", "30100034", "00700081", "00700084"),
    **dict.fromkeys(("REGISTRATION", "FIDUCIAL", "VALUE MAP", "MEASUREMENT", "SURFACE", "TRACT"), _LABELLED),
}
# Types of records by SOP class (PS3.3 F.4), what follows the root of all storage classes; with a dot, all below it.
_STORAGE = "1.2.840.10008.5.1.4.1.1."
_KINDS = {
    "4.2": "SPECTROSCOPY",
    "9.": "WAVEFORM",
    "11.": "PRESENTATION",
    "66": "RAW DATA",
    "66.1": "REGISTRATION",
    "66.2": "FIDUCIAL",
    "66.3": "REGISTRATION",
    "66.5": "SURFACE",
    "66.6": "TRACT",
    "67": "VALUE MAP",
    "68.": "SURFACE SCAN",
    "77.1.5.3": "STEREOMETRIC",
    "78.": "MEASUREMENT",
    "78.6": "SR DOCUMENT",
    "79.1": "SR DOCUMENT",
    "80.1": "MEASUREMENT",
    "88.": "SR DOCUMENT",
    "88.59": "KEY OBJECT DOC",
    "90.1": "ASSESSMENT",
    "104.": "ENCAP DOC",
    "131": "PRESENTATION",
    "481.2": "RT DOSE",
    "481.3": "RT STRUCTURE SET",
    **dict.fromkeys(("481.4", "481.6", "481.7", "481.9"), "RT TREAT RECORD"),
    **dict.fromkeys(("481.5", "481.8"), "RT PLAN"),
    **dict.fromkeys((f"481.{n}" for n in (10, 11, 12, 13, 14, 15, 16, 17, 18)), "RADIOTHERAPY"),
}
_CONDITIONAL = frozenset(
    {"00081115", "00089092", "0040A030", "0040A730", "0040E001", "00700402", "30100033", "30100034"}
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Member:
    """One file of the set.

    Attributes
    ----------
    file_id
        Its path, in components of up to eight capitals, digits and underscores (PS3.10 8.2).
    transfer_syntax
        Of the file in the set.
    kind
        The type of its record, as `record_type` has it.
    keys
        What `directory_keys` picked of its data set.
    """

    file_id: tuple[str, ...]
    kind: str
    sop_class: str
    instance_uid: str
    transfer_syntax: str
    keys: MetadataJson


def record_type(sop_class: str) -> str:
    """The Directory Record Type for an instance of that class; an image's where there is no other."""
    if not sop_class.startswith(_STORAGE):
        return _IMAGE
    name = sop_class.removeprefix(_STORAGE)
    return _KINDS.get(name) or _KINDS.get(name.partition(".")[0] + ".") or _IMAGE


def directory_keys(kind: str, metadata: MetadataJson) -> MetadataJson:
    """What a DICOMDIR says of an instance, its series, study and patient; little, where the data set is large."""
    wanted = {*_PATIENT_KEYS, *_STUDY_KEYS, *_SERIES_KEYS, *_KEYS[kind], "00080005"}
    keys = {key: _inline(metadata[key]) for key in wanted & metadata.keys()}
    if "0040A730" in keys:  # those content items alone that modify the title (PS3.3 F.5.25)
        items = [
            item for item in keys["0040A730"].get("Value", []) if first_value(item, "0040A010") == "HAS CONCEPT MOD"
        ]
        keys["0040A730"] = {"vr": "SQ", "Value": items}
        if not items:
            del keys["0040A730"]
    return keys


def _inline(element: MetadataJson) -> MetadataJson:
    """The element without what is bulk data in it."""
    if element.get("vr") == "SQ":
        items = [
            {key: _inline(one) for key, one in item.items() if "BulkDataURI" not in one}
            for item in element.get("Value", [])
        ]
        return {"vr": "SQ", "Value": items} if items else {"vr": "SQ"}
    return {name: value for name, value in element.items() if name != "BulkDataURI"}


@dataclass(slots=True)
class _Record:
    """A directory record: its elements but for the two offsets, and the records below it."""

    body: bytes
    below: list[_Record] = field(default_factory=list)
    at: int = 0

    @property
    def size(self) -> int:
        return 8 + 12 + 10 + 12 + len(self.body)  # item, next record, in-use flag, lower level, the rest

    def written(self, following: int) -> bytes:
        """The item; `following` is where the next record of its level is, 0 after the last (PS3.3 F.3.2.2)."""
        return (
            struct.pack("<HHI", 0xFFFE, 0xE000, self.size - 8)
            + element_head("00041400", "UL", 4)
            + struct.pack("<I", following)
            + element_head("00041410", "US", 2)
            + struct.pack("<H", 0xFFFF)
            + element_head("00041420", "UL", 4)
            + struct.pack("<I", self.below[0].at if self.below else 0)
            + self.body
        )


def dicomdir(members: Iterable[Member], file_set_uid: str, file_set_id: str = "") -> bytes:
    """The DICOMDIR file.

    Parameters
    ----------
    members
        In their order; those of a patient, study or series need not follow each other.
    file_set_uid
        The SOP Instance UID of the directory, which is the file-set's (PS3.10 8.1).
    """
    roots: list[_Record] = []
    known: dict[tuple[str, ...], _Record] = {}
    for member in members:
        keys = member.keys
        study, series = (str(first_value(keys, key)) for key in ("0020000D", "0020000E"))
        patient = str(first_value(keys, "00100020") or study)
        level = roots
        for names, kind, wanted in (
            ((patient,), "PATIENT", _PATIENT_KEYS),
            ((patient, study), "STUDY", _STUDY_KEYS),
            ((patient, study, series), "SERIES", _SERIES_KEYS),
        ):
            record = known.get(names)
            if record is None:
                record = known[names] = _Record(_body(kind, _filled(keys, wanted, patient, len(level) + 1)))
                level.append(record)
            level = record.below
        said = _filled(keys, _KEYS[member.kind], patient, len(level) + 1)
        level.append(_Record(_body(member.kind, said, member)))
    return _file(roots, file_set_uid, file_set_id)


def _filled(keys: MetadataJson, wanted: Sequence[str], patient: str, number: int) -> MetadataJson:
    """The keys of one record; a number, a modality, a patient's id where the instance has none."""
    found = {key: keys.get(key, {}) for key in wanted if key in keys or key not in _CONDITIONAL}
    substitutes = {
        "00080060": {"vr": "CS", "Value": ["OT"]},
        "00100020": {"vr": "LO", "Value": [patient]},
        "00200011": {"vr": "IS", "Value": [number]},
        "00200013": {"vr": "IS", "Value": [number]},
    }
    for key in found.keys() & substitutes.keys():
        if first_value(found, key) is None:
            found[key] = substitutes[key]
    if "00080005" in keys and wanted != _KEYS[_IMAGE]:  # whose record holds no text
        found["00080005"] = keys["00080005"]
    return found


def _body(kind: str, keys: MetadataJson, member: Member | None = None) -> bytes:
    written = _text("00041430", "CS", kind)
    if member is not None:
        written += (
            _text("00041500", "CS", "\\".join(member.file_id))
            + _text("00041510", "UI", member.sop_class)
            + _text("00041511", "UI", member.instance_uid)
            + _text("00041512", "UI", member.transfer_syntax)
        )
    return written + encode(keys)


def _text(key: str, vr: str, text: str) -> bytes:
    raw = text.encode("ascii") + (b"\0" if vr == "UI" else b" ") * (len(text) % 2)
    return element_head(key, vr, len(raw)) + raw


def _file(roots: Sequence[_Record], file_set_uid: str, file_set_id: str) -> bytes:
    head = new_file_meta(DIRECTORY_CLASS, file_set_uid, EXPLICIT_LITTLE)
    head += _text("00041130", "CS", file_set_id)
    at = len(head) + 12 + 12 + 10 + 12
    records = list(_in_order(roots))
    for record, _ in records:
        record.at = at
        at += record.size
    first, last = (roots[0].at, roots[-1].at) if roots else (0, 0)
    written = [
        head,
        element_head("00041200", "UL", 4) + struct.pack("<I", first),
        element_head("00041202", "UL", 4) + struct.pack("<I", last),
        element_head("00041212", "US", 2) + struct.pack("<H", 0),
        element_head("00041220", "SQ", UNDEFINED),
        *(record.written(following.at if following else 0) for record, following in records),
        struct.pack("<HHI", 0xFFFE, 0xE0DD, 0),
    ]
    return b"".join(written)


def _in_order(level: Sequence[_Record]) -> Iterable[tuple[_Record, _Record | None]]:
    """Each record with the next of its level, those below right after it."""
    for record, following in zip_longest(level, level[1:]):
        yield record, following
        yield from _in_order(record.below)
