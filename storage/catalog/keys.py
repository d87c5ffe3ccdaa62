"""Which attributes searches match: the tag, VR and level of each, and the column that holds it."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

import sqlalchemy as sa
from pydicom.datadict import tag_for_keyword

from storage.catalog import schema as t

Level = Literal["study", "series", "instance"]
LEVELS: tuple[Level, ...] = ("study", "series", "instance")

TIMEZONE = "00080201"
"""Timezone Offset From UTC: not matched, but says how the dates and times of the request are meant."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Key:
    """An attribute that searches match.

    Attributes
    ----------
    tag
        Eight hex digits; for an attribute in a sequence the tags of both, with a dot between.
    column
        What is matched. Of a table below the level's own, such as `schema.study_name`, any row that belongs to it.
    partner
        The TM attribute that goes with a DA attribute, for combined date-time matching.
    is_multiple
        An entity may have several values of it: its VM is more than 1.
    """

    tag: str
    vr: str
    level: Level
    column: sa.Column[str] | sa.Column[int]
    partner: str = ""
    is_multiple: bool = False


def _keys() -> Iterator[Key]:
    study, series, instance, request = t.study.c, t.series.c, t.instance.c, t.series_request.c
    table: dict[Level, list[tuple[str, str, sa.Column[str] | sa.Column[int]]]] = {
        "study": [
            ("00080020", "DA", study.study_date),
            ("00080030", "TM", study.study_time),
            ("00080050", "SH", study.accession_number),
            ("00080061", "CS", t.series.c.modality),
            ("00080062", "UI", study.sop_classes),
            ("00080080", "LO", study.institution_name),
            ("00080090", "PN", t.study_name.c.folded),
            ("00081030", "LO", study.study_description),
            ("00100010", "PN", t.study_name.c.folded),
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
            ("00400275.00080050", "SH", request.accession_number),
            ("00400275.00400009", "SH", request.scheduled_step_id),
            ("00400275.00401001", "SH", request.requested_procedure_id),
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
    partners = {"00080020": "00080030", "00080021": "00080031", "00400244": "00400245", "00080023": "00080033"}
    for level, keys in table.items():
        for tag, vr, column in keys:
            yield Key(
                tag=tag,
                vr=vr,
                level=level,
                column=column,
                partner=partners.get(tag, ""),
                is_multiple=tag in ("00080061", "00080062"),
            )


KEYS: Mapping[str, Key] = {key.tag: key for key in _keys()}


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
        elif (number := tag_for_keyword(part)) is not None:
            tags.append(f"{number:08X}")
        else:
            return None
    return ".".join(tags)
