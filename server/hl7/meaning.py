"""What a message says, as its profile reads it: whose it is, what is asked for, who is merged, when it is to be.

Nothing here writes: `readingroom hl7 check` shows it, and `server.hl7.applying` does what follows from it.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta, timezone
from typing import Any, Literal
from zoneinfo import ZoneInfo

from readingroom.errors import Invalid
from readingroom.model import Priority
from server.hl7.parsing import NULL, Message, Segment, read_path, value_at
from server.hl7.profiles import NOT_IMAGING, Control, Profile
from storage.catalog.orders import OrderState
from storage.dicomjson import MetadataJson

ORDERS = frozenset(("ORM^O01", "OMI^O23", "OMG^O19"))
PATIENTS = frozenset(f"ADT^A{number:02}" for number in (1, 2, 3, 4, 5, 6, 7, 8, 11, 12, 13, 28, 31))
MERGES = frozenset(("ADT^A40", "ADT^A47"))
APPOINTMENTS: Mapping[str, Literal["booked", "cancelled", "noshow"]] = {
    "SIU^S12": "booked",
    "SIU^S13": "booked",
    "SIU^S14": "booked",
    "SIU^S15": "cancelled",
    "SIU^S26": "noshow",
}
NOT_FOR_US: Mapping[str, str] = {
    "ORU": "Reports are made here, not taken.",
    "MDM": "Documents are made here, not taken.",
}
"""Types of messages that are kept and lead to nothing, with why."""

_MOMENT = re.compile(r"(\d{8})(?:(\d{2})(\d{2})?(?:(\d{2})(\.\d{1,6})?)?)?([+-]\d{4})?")
_MODALITY = re.compile(r"[A-Z0-9_ ]{1,16}")
_UID = re.compile(r"[0-9]+(\.[0-9]+)*")
_LONGEST = 64


@dataclass(frozen=True, slots=True, kw_only=True)
class Person:
    """Whose a message is.

    Attributes
    ----------
    issuer
        Of the id; empty for the facility's own.
    who
        Name, birth date and sex as DICOM JSON: what is said, and what is taken away.
    """

    id: str
    issuer: str
    who: MetadataJson


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """One procedure step that an order asks for; an order is all of those with its accession number.

    Attributes
    ----------
    control
        What is to be done with it.
    state
        As ORC-5 has it; None where that says nothing.
    starts_on, starts_at
        ``YYYYMMDD`` and ``HHMMSS``; empty where nobody has said.
    """

    control: Control
    state: OrderState | None
    accession_number: str
    placer: str
    placer_space: str
    filler: str
    procedure_id: str
    step_id: str
    study_uid: str
    modality: str
    station_ae: str
    station_name: str
    code: tuple[str, str, str]
    step_code: tuple[str, str, str]
    procedure: str
    reason: str
    priority: Priority
    starts_on: str
    starts_at: str
    ordered_at: datetime | None
    requester: str
    referrer: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Appointment:
    """When something is to be done; `accession_number` says what, where the message does."""

    id: str
    status: Literal["booked", "cancelled", "noshow"]
    accession_number: str
    starts_on: str
    starts_at: str
    starts: datetime | None
    minutes: int | None
    reason: str
    code: tuple[str, str, str]


@dataclass(frozen=True, slots=True, kw_only=True)
class Visit:
    """A stay: its number, the class of the patient (PV1-2), and when it began and ended (PV1-44, PV1-45)."""

    number: str
    kind: str = ""
    begins: datetime | None = None
    ends: datetime | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Meaning:
    """All that a message says here.

    Attributes
    ----------
    ignored
        Why it leads to nothing; empty where it leads to something.
    merged_id
        The id of `person` that is no more.
    """

    kind: str
    ignored: str = ""
    person: Person | None = None
    merged_id: str = ""
    orders: tuple[Asked, ...] = ()
    appointment: Appointment | None = None
    visit: Visit | None = None

    @property
    def about(self) -> str:
        """What it is about, to tell it from messages about something else."""
        if self.orders:
            return f"order {self.orders[0].accession_number}"
        if self.appointment is not None:
            return f"appointment {self.appointment.id}"
        return f"patient {self.person.issuer}|{self.person.id}" if self.person else ""


def meaning_of(
    message: Message,
    profile: Profile,
    *,
    zone: str = "UTC",
    issuers: Mapping[str, str] | None = None,
    takes_tests: bool = False,
) -> Meaning:
    """What a message says.

    Parameters
    ----------
    zone
        Whose clock a time without a zone is of.
    issuers
        Issuers by assigning authority, beside those of the profile.
    takes_tests
        Whether what is for training or debugging says anything.

    Raises
    ------
    Invalid
        Something that it has to say is missing, or makes no sense.
    """
    header = message.header
    kind = header.kind
    if kind.startswith("ORM"):
        kind = "ORM^O01"  # the type has no other event, and some leave it out
    ignored = NOT_FOR_US.get(header.type, "")
    if not ignored and kind not in ORDERS | PATIENTS | MERGES | APPOINTMENTS.keys():
        ignored = f"Messages {header.kind[:20]} lead to nothing here."
    if not ignored and header.processing in ("T", "D") and not takes_tests:
        ignored = f"It is for {'training' if header.processing == 'T' else 'debugging'} (MSH-11)."
    if ignored:
        return Meaning(kind=kind, ignored=ignored)
    known = {**profile.patient.issuers, **(issuers or {})}
    person = _person(message, profile, known)
    if kind in MERGES:
        return Meaning(kind=kind, person=person, merged_id=_merged(message, profile, known, person))
    visit = _visit(message, profile, zone)
    if kind in PATIENTS:
        return Meaning(kind=kind, person=person, visit=visit)
    if kind in APPOINTMENTS:
        return Meaning(kind=kind, person=person, visit=visit, appointment=_appointment(message, kind, profile, zone))
    orders = tuple(_orders(message, profile, zone))
    imaging = tuple(one for one in orders if one.modality != NOT_IMAGING)
    if not imaging:
        return Meaning(kind=kind, person=person, ignored="It asks for no imaging (OBR-24).")
    return Meaning(kind=kind, person=person, visit=visit, orders=imaging)


# -- patients ----------------------------------------------------------------------------------------------------------


def _person(message: Message, profile: Profile, issuers: Mapping[str, str]) -> Person:
    segment = message.find("PID")
    if segment is None:
        raise Invalid("It says nothing of a patient: there is no segment PID.")
    found = _identifiers(segment, 3, profile, issuers) or _identifiers(segment, 2, profile, issuers)
    if not found:
        raise Invalid("It names no patient: PID-3 has no id.")
    id, issuer = found[0]
    return Person(id=id, issuer=issuer, who=dict(_particulars(segment)))


def _identifiers(segment: Segment, field: int, profile: Profile, issuers: Mapping[str, str]) -> list[tuple[str, str]]:
    """Ids with their issuers, the preferred one first."""
    preferred = profile.patient.preferred
    found: list[tuple[int, str, str]] = []
    for one in segment.repetitions(field):
        id, kind = segment.part(one, 1), segment.part(one, 5)
        if not id or id == NULL:
            continue
        parts = [segment.part(one, 4, 1), segment.part(one, 4, 2)]
        if profile.patient.authority == "universal":
            parts.reverse()
        authority = next(filter(None, parts), "")
        issuer = issuers.get(authority, issuers.get("*", authority) if authority else "")
        found.append((preferred.index(kind) if kind in preferred else len(preferred), id, issuer))
    return [(id, issuer) for _, id, issuer in sorted(found, key=lambda one: one[0])]


def _merged(message: Message, profile: Profile, issuers: Mapping[str, str], person: Person) -> str:
    """The id of MRG-1 that the survivor's issuer has given."""
    segment = message.find("MRG")
    if segment is None:
        raise Invalid("It names nobody who is merged: there is no segment MRG.")
    if sum(1 for _ in message.all("MRG")) > 1:
        raise Invalid("It merges several patients; send a message for each.")
    found = _identifiers(segment, 1, profile, issuers)
    if not found:
        raise Invalid("It names nobody who is merged: MRG-1 has no id.")
    mine = [id for id, issuer in found if issuer == person.issuer]
    if mine:
        return mine[0]
    if found[0][1]:
        raise Invalid("The ids of MRG-1 and PID-3 are of different issuers; such patients cannot be merged.")
    return found[0][0]


def _particulars(segment: Segment) -> Iterator[tuple[str, Any]]:
    """Name, birth date and sex, as DICOM has them; what is not said is left out."""
    if segment.first(5, None) == NULL:
        yield "00100010", {"vr": "PN"}
    elif name := _person_name(segment, 5):
        yield "00100010", {"vr": "PN", "Value": [name]}
    born = segment.first(7)
    if born == NULL:
        yield "00100030", {"vr": "DA"}
    elif day := _day(born):
        yield "00100030", {"vr": "DA", "Value": [day]}
    sex = segment.first(8).upper()
    if sex == NULL:
        yield "00100040", {"vr": "CS"}
    elif sex in ("M", "F", "O", "A"):
        yield "00100040", {"vr": "CS", "Value": ["O" if sex == "A" else sex]}


def _person_name(segment: Segment, field: int) -> dict[str, str]:
    """A name of type XPN in each of its forms; of several in one form the first, which is the legal one."""
    forms = {"I": "Ideographic", "P": "Phonetic"}
    found: dict[str, str] = {}
    for one in segment.repetitions(field):
        name = _pn(*(segment.part(one, number) for number in (1, 2, 3, 5, 4)))
        if name:
            found.setdefault(forms.get(segment.part(one, 8), "Alphabetic"), name)
    return found


def _pn(*parts: str) -> str:
    """Family, given and middle name, prefix and suffix as PN has them (PS3.5 6.2.1)."""
    clean = (" ".join(re.sub(r"[\\^=\x00-\x1f]", " ", part).split()) for part in parts)
    return "^".join("" if part == NULL else part for part in clean).rstrip("^")[:_LONGEST]


def _visit(message: Message, profile: Profile, zone: str) -> Visit | None:
    number, stay = _value(message.segments, profile.visit.number), message.find("PV1")
    if not number:
        return None
    if stay is None:
        return Visit(number=number[:_LONGEST])
    begins, ends = (moment_of(stay.first(field), zone) for field in (44, 45))
    return Visit(number=number[:_LONGEST], kind=stay.first(2).upper()[:1], begins=begins, ends=ends)


# -- orders ------------------------------------------------------------------------------------------------------------


def _orders(message: Message, profile: Profile, zone: str) -> Iterator[Asked]:
    """What each order control segment asks for, and within it each segment IPC; steps are told apart by their ids."""
    groups = _groups(message)
    if not groups:
        raise Invalid("It asks for nothing: there is no segment ORC or OBR.")
    seen: set[tuple[str, str]] = set()
    for segments in groups:
        asked = _asked(segments, profile, zone)
        number = 1
        while (asked.accession_number, asked.step_id) in seen:
            number += 1
            asked = replace(
                asked, step_id=f"{asked.step_id.rpartition('.')[0] if number > 2 else asked.step_id}.{number}"
            )
        seen.add((asked.accession_number, asked.step_id))
        yield asked


def _groups(message: Message) -> list[list[Segment]]:
    """The segments that each step is read from: those of its order, then those before the first order."""
    before: list[Segment] = []
    orders: list[list[Segment]] = []
    for one in message.segments:
        begins = one.name == "ORC" or (one.name == "OBR" and (not orders or any(s.name == "OBR" for s in orders[-1])))
        if begins:
            orders.append([])
        (orders[-1] if orders else before).append(one)
    studies = [one for order in orders for one in order if one.name == "ZDS"]
    groups: list[list[Segment]] = []
    for order in orders:
        rest = [one for one in order if one.name != "IPC"]
        if len(studies) == 1 and studies[0] not in rest:
            rest.append(studies[0])  # said once, at the end, for all orders of the message
        steps = [one for one in order if one.name == "IPC"]
        groups += [[step, *rest, *before] for step in steps] or [[*rest, *before]]
    return groups


def _asked(segments: Sequence[Segment], profile: Profile, zone: str) -> Asked:
    p = profile.order
    accession_number = _value(segments, p.accession_number)
    if not accession_number:
        raise Invalid("It names no order: " + ", ".join(p.accession_number) + " are empty.")
    control, state = _control(segments, profile)
    placer, filler = _value(segments, p.placer), _value(segments, p.filler)
    study_uid = _value(segments, p.study_uid)
    if study_uid and (not _UID.fullmatch(study_uid) or len(study_uid) > 64):
        raise Invalid("The Study Instance UID that it names is none.")
    procedure_id, step_id = _value(segments, p.procedure_id), _value(segments, p.step_id)
    if not step_id:
        of = "|".join((_value(segments, p.placer_space), placer or filler or accession_number, procedure_id))
        step_id = f"S{hashlib.sha256(of.encode()).hexdigest()[:13].upper()}"
    starts = _value(segments, p.starts)
    code = tuple(_value(segments, paths) for paths in (p.code, p.code_system, p.procedure))
    step_code = tuple(_value(segments, paths) for paths in (p.step_code, p.step_code_system, p.step))
    priority = _value(segments, p.priority).upper()
    return Asked(
        control=control,
        state=state,
        accession_number=accession_number[:_LONGEST],
        placer=placer[:_LONGEST],
        placer_space=_value(segments, p.placer_space)[:_LONGEST],
        filler=filler[:_LONGEST],
        procedure_id=procedure_id[:_LONGEST],
        step_id=step_id[:_LONGEST],
        study_uid=study_uid,
        modality=_modality(segments, profile),
        station_ae=_value(segments, p.station_ae)[:16],
        station_name=_value(segments, p.station_name)[:16],
        code=(code[0][:_LONGEST], code[1][:_LONGEST], code[2][:_LONGEST]),
        step_code=(step_code[0][:_LONGEST], step_code[1][:_LONGEST], step_code[2][:_LONGEST]),
        procedure=_value(segments, p.procedure)[:200],
        reason=_value(segments, p.reason)[:1024],
        priority=p.priorities.get(priority, "routine"),
        starts_on=_day(starts),
        starts_at=_time(starts),
        ordered_at=moment_of(_value(segments, p.ordered_at), zone),
        requester=_name_at(segments, p.requester),
        referrer=_name_at(segments, p.referrer),
    )


def _control(segments: Sequence[Segment], profile: Profile) -> tuple[Control, OrderState | None]:
    """What ORC-1 and ORC-5 want; an order without ORC is a new one."""
    code = value_at(segments, read_path("ORC-1")).upper()
    control = profile.order.controls.get(code or "NW")
    if control is None:
        raise Invalid(f"ORC-1 says {code[:10]!r}, which is no order control of the profile {profile.name}.")
    return control, profile.order.states.get(value_at(segments, read_path("ORC-5.1")).upper())


def _modality(segments: Sequence[Segment], profile: Profile) -> str:
    """The modality, by the profile's table where the field has something else; empty where nobody has said."""
    for path in profile.order.modality:
        told = value_at(segments, read_path(path)).upper()
        found = profile.order.modalities.get(told, told)
        if found == NOT_IMAGING or (found and _MODALITY.fullmatch(found)):
            return found
    return ""


def _appointment(message: Message, kind: str, profile: Profile, zone: str) -> Appointment:
    p, segments = profile.appointment, message.segments
    id = _value(segments, p.id)
    if not id:
        raise Invalid("It names no appointment: SCH-1 and SCH-2 are empty.")
    starts, minutes = _value(segments, p.starts), _value(segments, p.minutes)
    return Appointment(
        id=id[:_LONGEST],
        status=APPOINTMENTS[kind],
        accession_number=_value(segments, p.accession_number)[:_LONGEST],
        starts_on=_day(starts),
        starts_at=_time(starts),
        starts=moment_of(starts, zone),
        minutes=int(minutes) if re.fullmatch(r"[0-9]{1,5}", minutes) and int(minutes) else None,
        reason=_value(segments, p.reason)[:1024],
        code=(_value(segments, p.code), _value(segments, p.code_system), _value(segments, p.what)),
    )


# -- values ------------------------------------------------------------------------------------------------------------


def _value(segments: Sequence[Segment], paths: Sequence[str]) -> str:
    return next((found for path in paths if (found := value_at(segments, read_path(path)))), "")


def _name_at(segments: Sequence[Segment], paths: Sequence[str]) -> str:
    """A name of type XCN as PN: behind its id come family, given and middle name, suffix and prefix."""
    for text in paths:
        path = read_path(text)
        for segment in segments:
            repetitions = segment.repetitions(path.field) if segment.name == path.segment else []
            if repetitions and (name := _pn(*(segment.part(repetitions[0], number) for number in (2, 3, 4, 6, 5)))):
                return name
    return ""


def _day(written: str) -> str:
    """The day of a moment, as DICOM has it; empty where it is none."""
    try:
        return f"{datetime.strptime(written[:8], '%Y%m%d'):%Y%m%d}" if re.match(r"\d{8}", written) else ""
    except ValueError:
        return ""


def _time(written: str) -> str:
    """The time of day of a moment, as it stands there; empty where there is none."""
    found = _MOMENT.fullmatch(written)
    if not _day(written) or found is None or found[2] is None:
        return ""
    hour, minute, second = int(found[2]), int(found[3] or 0), int(found[4] or 0)
    return f"{hour:02}{minute:02}{second:02}" if hour < 24 and minute < 60 and second < 60 else ""


def moment_of(written: str, zone: str) -> datetime | None:
    """A moment of type TS or DTM, in UTC; None where it is none, or has no time of day."""
    found, time = _MOMENT.fullmatch(written), _time(written)
    if found is None or not time:
        return None
    at = datetime.strptime(found[1] + time, "%Y%m%d%H%M%S")
    if found[6]:
        minutes = int(found[6][1:3]) * 60 + int(found[6][3:])
        if minutes >= 24 * 60:
            return None
        shift = timedelta(minutes=-minutes if found[6][0] == "-" else minutes)
        return at.replace(tzinfo=timezone(shift)).astimezone(UTC)
    try:
        return at.replace(tzinfo=ZoneInfo(zone)).astimezone(UTC)
    except (ValueError, OSError, OverflowError, LookupError):
        return at.replace(tzinfo=UTC)
