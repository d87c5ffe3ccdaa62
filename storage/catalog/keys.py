"""Which attributes searches match: the tag, VR and level of each, and where its values are kept.

A column of a study, series or instance holds what has one value. What may have several, stands in a sequence or was
made searchable by configuration is listed: a row for each value in `schema.study_value`, ``series_value`` or
``instance_value``.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Literal

import sqlalchemy as sa
from pydicom.datadict import (
    dictionary_has_tag,
    dictionary_VM,
    dictionary_VR,
    private_dictionary_VM,
    private_dictionary_VR,
    tag_for_keyword,
)

from readingroom.errors import Invalid
from storage.catalog import schema as t
from storage.catalog.rows import SERIES_EXTRA, SERIES_TAGS, STUDY_EXTRA, STUDY_TAGS

Level = Literal["study", "series", "instance", "work_item", "procedure_step"]
LEVELS: tuple[Level, ...] = ("study", "series", "instance")

TIMEZONE = "00080201"
"""Timezone Offset From UTC: not matched, but says how the dates and times of the request are meant."""

WORDS = "~"
"""Stands before the name of a PN key where its words and sounds are listed, for fuzzy matching."""

LISTED: Mapping[Level, sa.Table] = {
    "study": t.study_value,
    "series": t.series_value,
    "instance": t.instance_value,
    "work_item": t.work_item_value,
    "procedure_step": t.procedure_step_value,
}

MATCHED_VRS = frozenset("AE AS AT CS DA DS DT FD FL IS LO LT PN SH SL SS ST SV TM UC UI UL UR US UT UV".split())
"""What can be made searchable; bulk values and whole sequences cannot."""

_MOST_SEQUENCES = 4


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Key:
    """An attribute that searches match.

    Attributes
    ----------
    name
        Its tag in eight hex digits; a private one as ``0009xx10:CREATOR``; in sequences all from the outermost on,
        with dots between.
    column
        What is matched; of a table below the level's own, such as `schema.series` for Modalities in Study, any row
        that belongs to it.
    partner
        The TM attribute that goes with a DA attribute, for combined date-time matching.
    is_multiple
        An entity may have several values of it: its VM is more than 1.
    """

    name: str
    vr: str
    level: Level
    column: sa.Column[str] | sa.Column[int]
    partner: str = ""
    is_multiple: bool = False

    @property
    def is_listed(self) -> bool:
        """Its values have rows of their own."""
        return self.column.table is LISTED[self.level]

    @property
    def path(self) -> tuple[str, ...]:
        """Its name, a part for each level of sequences."""
        return tuple(self.name.split("."))

    @property
    def tag(self) -> str:
        """The outermost attribute; of a private one as its name has it."""
        return self.path[0]


_PARTNERS = {
    "00080012": "00080013",  # Instance Creation
    "00080020": "00080030",
    "00080021": "00080031",
    "00080023": "00080033",
    "00400244": "00400245",
}
"""The TM attribute that goes with a DA attribute."""


def _columns() -> Iterator[Key]:
    study, series, instance = t.study.c, t.series.c, t.instance.c
    table: dict[Level, list[tuple[str, str, sa.Column[str] | sa.Column[int]]]] = {
        "study": [
            ("00080020", "DA", study.study_date),
            ("00080030", "TM", study.study_time),
            ("00080050", "SH", study.accession_number),
            ("00080061", "CS", t.series.c.modality),
            ("00080062", "UI", study.sop_classes),
            ("00080080", "LO", study.institution_name),
            ("00081030", "LO", study.study_description),
            ("00100020", "LO", study.patient_id),
            ("00100021", "LO", study.issuer),
            ("00100030", "DA", study.birth_date),
            ("00100040", "CS", study.sex),
            ("0020000D", "UI", study.study_uid),
            ("00200010", "SH", study.study_id),
            ("00201206", "IS", study.series_count),
            ("00201208", "IS", study.instance_count),
        ],
        "series": [
            ("00080021", "DA", series.series_date),
            ("00080031", "TM", series.series_time),
            ("00080060", "CS", series.modality),
            ("0008103E", "LO", series.series_description),
            ("00180015", "CS", series.body_part),
            ("0020000E", "UI", series.series_uid),
            ("00200011", "IS", series.series_number),
            ("00200060", "CS", series.laterality),
            ("00201209", "IS", series.instance_count),
            ("00400244", "DA", series.performed_date),
            ("00400245", "TM", series.performed_time),
        ],
        "instance": [
            ("00080016", "UI", instance.sop_class),
            ("00080018", "UI", instance.instance_uid),
            ("00080023", "DA", instance.content_date),
            ("00080033", "TM", instance.content_time),
            ("00200013", "IS", instance.instance_number),
            ("00280008", "IS", instance.frame_count),
            ("00280010", "US", instance.rows),
            ("00280011", "US", instance.columns),
            ("00280100", "US", instance.bits_allocated),
        ],
    }
    for level, keys in table.items():
        for tag, vr, column in keys:
            yield Key(
                name=tag,
                vr=vr,
                level=level,
                column=column,
                partner=_PARTNERS.get(tag, ""),
                is_multiple=tag in ("00080061", "00080062"),
            )


_CODE = ("00080100", "00080102", "00080104")

# Names, and attributes of sequences: the keys of PS3.4 C.6.1.1 and PS3.18 10.6.1.2 that no column holds.
_LISTED: Mapping[Level, tuple[str, ...]] = {
    "study": (
        "00080090",  # Referring Physician's Name
        "00081060",  # Name of Physician(s) Reading Study
        "00100010",  # Patient's Name
        "00101001",  # Other Patient Names
        "00101002.00100020",  # Other Patient IDs Sequence
        *(f"00081032.{tag}" for tag in _CODE),  # Procedure Code Sequence
    ),
    "series": (
        "00081050",  # Performing Physician's Name
        "00081070",  # Operators' Name
        "00400275.00080050",  # Request Attributes Sequence
        "00400275.00321060",
        "00400275.00400007",
        "00400275.00400009",
        "00400275.00401001",
        *(f"00400275.00321064.{tag}" for tag in _CODE),  # Requested Procedure Code Sequence in it
        *(f"00400260.{tag}" for tag in _CODE),  # Performed Protocol Code Sequence
    ),
    "instance": (
        "0040A491",  # Completion Flag
        "0040A493",  # Verification Flag
        "0040A073.0040A075",  # Verifying Observer Sequence
        *(f"0040A043.{tag}" for tag in _CODE),  # Concept Name Code Sequence: the title of a report
        "00700080",  # Content Label
        "00700084",  # Content Creator's Name
    ),
}


@lru_cache(maxsize=4096)
def listed_key(name: str, vr: str, level: Level) -> Key:
    """The key of an attribute whose values are listed; the same object for the same attribute."""
    return Key(
        name=name,
        vr=vr,
        level=level,
        column=LISTED[level].c.value,
        is_multiple=_multiplicity(name.split(".")[-1]) != "1",
    )


def configured_key(attribute: str, *, creator: str = "", vr: str = "", level: Level | None = None) -> Key:
    """The key of an attribute that an operator makes searchable.

    Parameters
    ----------
    attribute
        Keyword, tag, or path of them through sequences. The last part may be private: ``0009xx10``, or ``00091010``.
    creator
        The Private Creator, for a private attribute.
    vr, level
        As the dictionary and the attribute's place in the information model have them, if left empty; an attribute
        that is no other level's is the instance's.

    Raises
    ------
    Invalid
        There is no such attribute, or it cannot be matched; says what to give.
    """
    *outer, last = attribute.split(".")
    private = re.fullmatch(r"([0-9A-Fa-f]{3}[13579BDFbdf])(?:xx|XX|[0-9A-Fa-f]{2})([0-9A-Fa-f]{2})", last)
    if private and not creator:
        raise Invalid(f"The private attribute {last} needs its creator.")
    if creator and not private:
        raise Invalid(f"{last} is not private, so it has no creator.")
    inner = private_name(private[1], private[2], creator) if private else tag_of(last)
    path = [tag_of(part) for part in outer]
    if inner is None or None in path:
        raise Invalid(f"{attribute} is no keyword, tag, or path of them.")
    if len(path) > _MOST_SEQUENCES or any(_dictionary_vr(str(tag)) != "SQ" for tag in path):
        raise Invalid(f"{attribute}: what stands before a dot has to be a sequence, and no more than four of them.")
    found = vr or _dictionary_vr(inner)
    if found not in MATCHED_VRS:
        what = f"{found} cannot be matched" if found else "no dictionary has its VR; give it"
        raise Invalid(f"{attribute}: {what}; it has to be one of {', '.join(sorted(MATCHED_VRS))}.")
    name = ".".join([*map(str, path), inner])
    return listed_key(name, found, level or _level_of(str(path[0]) if path else inner))


@lru_cache(maxsize=4096)
def any_key(name: str) -> Key | None:
    """The key of any attribute, for what is matched without a table of keys; None where its VR cannot be matched."""
    *outer, last = name.split(".")
    vr = _dictionary_vr(last)
    if vr not in MATCHED_VRS or len(outer) > _MOST_SEQUENCES or any(_dictionary_vr(tag) != "SQ" for tag in outer):
        return None
    return replace(listed_key(name, vr, "instance"), partner=_PARTNERS.get(name, ""))


def private_name(group: str, element: str, creator: str) -> str:
    """The part of a key's name that stands for a private attribute: its block is another one in every data set."""
    escaped = creator.strip().replace("%", "%25").replace(".", "%2E")
    return f"{group.upper()}xx{element.upper()}:{escaped}"


def creator_of(part: str) -> str:
    """The Private Creator that `private_name` was made with; empty for an attribute that is not private."""
    return part.partition(":")[2].replace("%2E", ".").replace("%25", "%")


def _dictionary_vr(part: str) -> str:
    if ":" not in part:
        vr = dictionary_VR(part) if dictionary_has_tag(part) else ""
        return vr.partition(" or ")[0]
    try:
        return private_dictionary_VR(_any_block(part), creator_of(part))
    except KeyError:
        return ""


def _multiplicity(part: str) -> str:
    if ":" not in part:
        return dictionary_VM(part) if dictionary_has_tag(part) else "1"
    try:
        return private_dictionary_VM(_any_block(part), creator_of(part))
    except KeyError:
        return "1-n"


def _any_block(part: str) -> int:
    return int(part[:8].replace("xx", "10"), 16)


def _level_of(tag: str) -> Level:
    if tag in STUDY_TAGS or tag in STUDY_EXTRA:
        return "study"
    return "series" if tag in SERIES_TAGS or tag in SERIES_EXTRA else "instance"


class Keys(dict[str, Key]):
    """Keys by name, and what answers may have because of them."""

    def __init__(self, keys: Iterable[Key]) -> None:
        super().__init__((key.name, key) for key in keys)
        in_rows = STUDY_TAGS | STUDY_EXTRA | SERIES_TAGS | SERIES_EXTRA
        self.in_headers: dict[Level, frozenset[str]] = {
            level: frozenset(key.tag for key in self.values() if key.level == level and key.is_listed) - in_rows
            for level in LEVELS
        }
        """The outermost attributes that only the header of an entity has, and no row that is kept ready."""


KEYS = Keys(
    (
        *_columns(),
        *(listed_key(name, _dictionary_vr(name.split(".")[-1]), level) for level in LEVELS for name in _LISTED[level]),
    )
)
"""The keys that are always there."""


_SPS = "00400100"


def _step_keys() -> Iterator[Key]:
    step = t.procedure_step.c
    for name, vr, column in (
        ("00080050", "SH", step.accession_number),
        ("00100020", "LO", step.patient_id),
        ("0020000D", "UI", step.study_uid),
        ("00401001", "SH", step.procedure_id),
        (f"{_SPS}.00080060", "CS", step.modality),
        (f"{_SPS}.00400002", "DA", step.starts_on),
        (f"{_SPS}.00400003", "TM", step.starts_at),
        (f"{_SPS}.00400009", "SH", step.step_id),
    ):
        partner = f"{_SPS}.00400003" if vr == "DA" else ""
        yield Key(name=name, vr=vr, level="procedure_step", column=column, partner=partner)
    for name in (
        "00080080",  # Institution Name
        "00080090",  # Referring Physician's Name
        "00100010",
        "00100021",
        "00100030",
        "00100040",
        "00321032",  # Requesting Physician
        "00321033",  # Requesting Service
        "00321060",  # Requested Procedure Description
        *(f"00321064.{tag}" for tag in _CODE),
        "00380010",  # Admission ID
        "00380300",  # Current Patient Location
        "00401003",  # Requested Procedure Priority
        "00402016",  # Placer and Filler Order Number
        "00402017",
        f"{_SPS}.00400001",  # Scheduled Station AE Title: there may be several
        f"{_SPS}.00400006",  # Scheduled Performing Physician's Name
        f"{_SPS}.00400007",
        *(f"{_SPS}.00400008.{tag}" for tag in _CODE),
        f"{_SPS}.00400010",  # Scheduled Station Name, Scheduled Procedure Step Location
        f"{_SPS}.00400011",
        f"{_SPS}.00400020",
    ):
        yield listed_key(name, _dictionary_vr(name.split(".")[-1]), "procedure_step")


STEP_KEYS = Keys(_step_keys())
"""The attributes of a modality worklist that searches match: PS3.4 table K.6-1, and what else tells steps apart."""


def with_configured(configured: Iterable[Key]) -> Keys:
    """All keys of an installation; one that is always there stays what it is."""
    return Keys((*configured, *KEYS.values()))


def listed_keys(keys: Iterable[Key]) -> dict[Level, tuple[Key, ...]]:
    """Those of `keys` whose values are listed, by level."""
    listed = [key for key in keys if key.is_listed]
    return {level: tuple(key for key in listed if key.level == level) for level in LEVELS}


@lru_cache(maxsize=4096)
def tag_of(name: str) -> str | None:
    """The tag that a keyword, a tag in hex, or a dotted path of either names (PS3.18 8.3.4.1); None for neither.

    Examples
    --------
    >>> tag_of("PatientName"), tag_of("0020000d"), tag_of("RequestAttributesSequence.00400009"), tag_of("limit")
    ('00100010', '0020000D', '00400275.00400009', None)
    """
    tags = []
    for part in name.split("."):
        if re.fullmatch(r"[0-9A-Fa-f]{8}", part):
            tags.append(part.upper())
        elif part and (number := tag_for_keyword(part)) is not None:
            tags.append(f"{number:08X}")
        else:
            return None
    return ".".join(tags)
