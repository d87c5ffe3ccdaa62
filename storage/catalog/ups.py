"""A work item as a data set of the Unified Procedure Step (PS3.3 B.26): the one rendering that all views share.

What others created is what they sent, under the columns that hold the truth. Our own items are made from the row and
from what the catalog shows of their study, so that a correction of the study is one of the item too.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, Literal

import orjson
import sqlalchemy as sa

from readingroom.model import PRIORITIES, ItemState, Priority
from storage.catalog.rows import header_of
from storage.objects import MetadataJson
from storage.upsrules import ALWAYS, PUSH, items_of, value_of

UpsState = Literal["SCHEDULED", "IN PROGRESS", "COMPLETED", "CANCELED"]

SCHEME = "99READINGROOM"
"""Coding scheme of what only this server knows: its readers, and its kinds of work."""

KINDS: Mapping[str, tuple[tuple[str, str, str], str]] = {
    "read": (("110005", "DCM", "Interpretation"), "Interpretation"),
    "second": (("110005", "DCM", "Interpretation"), "Second reading"),
    "peer": (("110007", "DCM", "Report Verification"), "Peer review"),
    "critical": (("critical", SCHEME, "Communication of a critical result"), "Critical result"),
    "followup": (("followup", SCHEME, "Follow-up of a recommendation"), "Follow-up"),
}
"""What is done, as a code and in words, by kind of item."""
TOLD = frozenset(("critical", "followup"))
"""The kinds of item that are about something a report says: `findings` of the row has it."""
_OF_STUDY = ("00100010", "00100020", "00100021", "00100030", "00100040", "00101002", "00380010", "00081080")
_VRS = {
    "00100024": "SQ",
    "00101002": "SQ",
    "00741210": "SQ",
    "00404018": "SQ",
    "00404021": "SQ",
    "00404025": "SQ",
    "00404026": "SQ",
    "00404027": "SQ",
    "00380014": "SQ",
    "00081084": "SQ",
    "0040A370": "SQ",
    "00100010": "PN",
    "00100021": "LO",
    "00100030": "DA",
    "00100040": "CS",
    "00380010": "LO",
    "00081080": "LO",
    "00741202": "LO",
}
"""VRs of what is always there, where nothing fills it."""


def ups_state(state: ItemState, *, is_claimed: bool) -> UpsState:
    """The Procedure Step State; an item that was put on hold after it was claimed stays its claimant's."""
    if state == "completed":
        return "COMPLETED"
    if state == "cancelled":
        return "CANCELED"
    return "IN PROGRESS" if is_claimed else "SCHEDULED"


def ups_priority(rank: int) -> Literal["HIGH", "MEDIUM", "LOW"]:
    """HIGH is for a STAT request, LOW for a routine one (PS3.3 C.30.2)."""
    return "HIGH" if rank == len(PRIORITIES) - 1 else "MEDIUM" if rank else "LOW"


def priority_of(dataset: MetadataJson) -> Priority:
    """The priority that a data set of a UPS asks for."""
    return {"HIGH": "stat", "MEDIUM": "urgent"}.get(str(value_of(dataset, "00741200")), "routine")  # type: ignore[return-value]


def moment(at: datetime) -> str:
    """A time as a DT value (PS3.5 6.2)."""
    return at.astimezone(UTC).strftime("%Y%m%d%H%M%S.%f+0000")


def element(vr: str, *values: Any) -> dict[str, Any]:
    """An element of the DICOM JSON model (PS3.18 F.2)."""
    return {"vr": vr, "Value": list(values)} if values else {"vr": vr}


def code(value: str, scheme: str, meaning: str) -> MetadataJson:
    """An item of a code sequence (PS3.3 8.8)."""
    return {"00080100": element("SH", value), "00080102": element("SH", scheme), "00080104": element("LO", meaning)}


def performer(reader: str, name: str, organization: str) -> MetadataJson:
    """An item of Scheduled or Actual Human Performers Sequence (PS3.3 C.30.2)."""
    return {
        "00404009": element("SQ", code(reader, SCHEME, _as_lo(name))),
        "00404036": element("LO", organization),
        "00404037": element("PN", {"Alphabetic": _as_lo(name).translate(_IN_A_NAME)}),
    }


_IN_A_NAME = str.maketrans("^=", "  ")
"""What is in no component of a person's name, for it stands between components and their groups (PS3.5 6.2.1)."""


def _as_lo(text: str) -> str:
    """A text as one value of 64 characters at most, without what stands between values (PS3.5 6.2, 6.4)."""
    return text.replace("\\", "/")[:64]


def dataset_of(
    row: Mapping[str, Any], study: sa.Row[Any] | None, root: str = "", names: Mapping[str, str] | None = None
) -> MetadataJson:
    """A row of `schema.work_item`, with its row of `schema.study` if there is one, as a UPS; by tag.

    `root` is that of the services, with which URLs begin; `names` are those of readers, by id. The Transaction UID is
    left out: it is the lock (PS3.18 11.5.2).
    """
    made: MetadataJson = {tag: element(_VRS[tag]) for tag in ALWAYS if tag in _VRS}
    is_own = row["kind"] != "external"
    if is_own:
        made |= _own(row, study, root)
    made |= orjson.loads(row["attributes"])
    if is_own:
        made |= _held_by(row, names or {}, made)
    state = ups_state(row["state"], is_claimed=row["claim_token"] is not None)
    readiness = made.get("00404041") or element("CS", "INCOMPLETE")
    if row["state"] == "waiting" or row["held_from"] == "waiting":
        readiness = element("CS", "INCOMPLETE") if readiness == element("CS", "READY") else readiness
    elif is_own or row["state"] in ("ready", "assigned"):
        readiness = element("CS", "READY")
    made |= {
        "00080016": element("UI", PUSH),
        "00080018": element("UI", row["workitem_uid"]),
        "00404010": element("DT", moment(row["changed_at"])),
        "00404041": readiness,
        "00741000": element("CS", state),
        "00741200": element("CS", ups_priority(row["rank"])),
    }
    return dict(sorted(made.items()))


def _own(row: Mapping[str, Any], study: sa.Row[Any] | None, root: str) -> MetadataJson:
    header = header_of(study.row, study.extra) if study is not None else {}
    work, label = KINDS[row["kind"]]
    described = value_of(header, "00081030") or " ".join(filter(None, (row["modality"], row["body_part"])))
    if row["kind"] in TOLD:
        described = row["findings"] or described
    made: MetadataJson = {
        "00080005": element("CS", "ISO_IR 192"),
        **{tag: header[tag] for tag in _OF_STUDY if tag in header},
        "00400400": element("LT", *filter(None, (row["findings"],))),
        "00404005": element("DT", moment(row["ready_at"] or row["created_at"])),
        "00404018": element("SQ", code(*work)),
        "00741202": element("LO", row["facility"]),
        "00741204": element("LO", _as_lo(f"{label}: {described}") if described else label),
        "00741002": element("SQ"),
        "00741216": element("SQ"),
    }
    uid = row["study_uid"]
    if uid:
        url = f"{root}/studies/{uid}"
        made["00404021"] = element(
            "SQ",
            {
                "0020000D": element("UI", uid),
                "0040E020": element("CS", "DICOM"),
                "0040E025": element("SQ", {"00081190": element("UR", url)}),
            },
        )
        request = {
            "00080050": element("SH", *filter(None, (row["accession_number"],))),
            "00080051": header.get("00080051", element("SQ")),
            "0020000D": element("UI", uid),
            "00321060": header.get("00321060", element("LO")),
            "00321064": header.get("00321064", element("SQ")),
            "00400026": element("SQ"),
            "00400027": element("SQ"),
            "00401001": element("SH"),
        }
        made["0040A370"] = element("SQ", request)
    return made


def _held_by(row: Mapping[str, Any], names: Mapping[str, str], known: MetadataJson) -> MetadataJson:
    """Who is to read an item and who does, and until when; `known` is what else there is of it."""
    made: MetadataJson = {}
    if reader := row["owner"] or row["offered_to"]:
        held_by = element("SQ", performer(reader, names.get(reader, reader), row["facility"]))
        made["00404034"] = held_by
        if row["owner"]:
            performed = dict(next(iter(items_of(known, "00741216")), {}))
            if not items_of(performed, "00404035"):
                performed["00404035"] = held_by
            made["00741216"] = element("SQ", dict(sorted(performed.items())))
    if row["due_at"]:
        made["00404011"] = element("DT", moment(row["due_at"]))
    return made
