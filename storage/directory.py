"""What the directory says: facilities with their contracts, readers with all that decides what they may read.

One entry is one facility or one reader, whole. The same models are written in files (`facilities.toml`), kept in the
catalog, and asked by the rules of `server.worklist.directory`; each says of itself what is wrong with it.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from datetime import date, datetime, time, timedelta
from functools import lru_cache
from ipaddress import ip_network
from itertools import pairwise
from typing import Annotated, Any, Literal
from urllib.parse import urlsplit
from zoneinfo import ZoneInfo

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PlainSerializer,
    PlainValidator,
    StringConstraints,
    ValidationInfo,
    field_validator,
    model_validator,
)

from readingroom.model import DELIVERED, Contact, Destination, Facility, Priority, Reader, ReportStatus
from storage.destinations import address_problem, options_problem

FacilityKind = Literal["hospital", "imaging-centre", "urgent-care", "clinic", "mobile", "teleradiology"]
"""The six kinds: `mobile` is an operator of vans and each site that they come to, `teleradiology` a practice or night
service that reads for others."""

Day = Literal["mon", "tue", "wed", "thu", "fri", "sat", "sun"]
DAYS: tuple[Day, ...] = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")
"""In the order of `date.weekday`."""

ContactRole = Literal["referrer", "backup", "desk", "supervisor", "reader"]
CredentialStatus = Literal["granted", "pending", "suspended", "revoked"]

NUCC_RADIOLOGY = {
    "2085B0100X": "Body Imaging",
    "2085D0003X": "Diagnostic Neuroimaging",
    "2085H0002X": "Hospice and Palliative Medicine",
    "2085N0700X": "Neuroradiology",
    "2085N0904X": "Nuclear Radiology",
    "2085P0229X": "Pediatric Radiology",
    "2085R0001X": "Radiation Oncology",
    "2085R0202X": "Diagnostic Radiology",
    "2085R0203X": "Therapeutic Radiology",
    "2085R0204X": "Vascular & Interventional Radiology",
    "2085R0205X": "Radiological Physics",
    "2085U0001X": "Diagnostic Ultrasound",
}
"""The radiology codes of the NUCC Health Care Provider Taxonomy. It has none for musculoskeletal, breast, chest or
emergency radiology: those are local codes, lower-case words."""

STATES = {
    "US": frozenset(
        "AK AL AR AS AZ CA CO CT DC DE FL GA GU HI IA ID IL IN KS KY LA MA MD ME MI MN MO MP MS MT NC ND NE NH NJ NM NV"
        " NY OH OK OR PA PR RI SC SD TN TX UT VA VI VT WA WI WV WY".split()
    ),
    "CA": frozenset("AB BC MB NB NL NS NT NU ON PE QC SK YT".split()),
}
"""Countries in which a state licenses, with their states (ISO 3166-2); elsewhere a licence may be of the country."""

COUNTRIES = frozenset(
    (
        "AD AE AF AG AI AL AM AO AQ AR AS AT AU AW AX AZ BA BB BD BE BF BG BH BI BJ BL BM BN BO BQ BR BS BT BV BW "
        "BY BZ CA CC CD CF CG CH CI CK CL CM CN CO CR CU CV CW CX CY CZ DE DJ DK DM DO DZ EC EE EG EH ER ES ET FI "
        "FJ FK FM FO FR GA GB GD GE GF GG GH GI GL GM GN GP GQ GR GS GT GU GW GY HK HM HN HR HT HU ID IE IL IM IN "
        "IO IQ IR IS IT JE JM JO JP KE KG KH KI KM KN KP KR KW KY KZ LA LB LC LI LK LR LS LT LU LV LY MA MC MD ME "
        "MF MG MH MK ML MM MN MO MP MQ MR MS MT MU MV MW MX MY MZ NA NC NE NF NG NI NL NO NP NR NU NZ OM PA PE PF "
        "PG PH PK PL PM PN PR PS PT PW PY QA RE RO RS RU RW SA SB SC SD SE SG SH SI SJ SK SL SM SN SO SR SS ST SV "
        "SX SY SZ TC TD TF TG TH TJ TK TL TM TN TO TR TT TV TW TZ UA UG UM US UY UZ VA VC VE VG VI VN VU WF WS YE "
        "YT ZA ZM ZW"
    ).split()
)
"""ISO 3166-1."""

_LONGEST = timedelta(days=90)
_UNITS = {"d": timedelta(days=1), "h": timedelta(hours=1), "m": timedelta(minutes=1), "s": timedelta(seconds=1)}


def _state(text: str) -> str:
    country, _, state = text.partition("-")
    if country not in COUNTRIES or not re.fullmatch(r"[A-Z]{2}(-[A-Z0-9]{1,3})?", text):
        raise ValueError(
            f"write a state as ISO 3166-2 has it, such as US-TX, or a country such as DE, not {text[:20]!r}"
        )
    if country in STATES and state not in STATES[country]:
        raise ValueError(
            f"in {country} a state licenses: write {country}- and one of {', '.join(sorted(STATES[country]))}"
        )
    return text


@lru_cache(maxsize=512)
def zone_of(name: str) -> ZoneInfo:
    """The time zone of that IANA name; raises ValueError."""
    try:
        return ZoneInfo(name)
    except (KeyError, ValueError, OSError):
        raise ValueError(f"there is no time zone {name[:40]!r}; the IANA names are such as America/Chicago") from None


def _zone(name: str) -> str:
    zone_of(name)
    return name


def _span(given: Any) -> Any:
    """``1h30m`` as a span."""
    if not isinstance(given, str):
        return given
    found = re.fullmatch(r"(?=.)(?:(\d{1,4})d)?(?:(\d{1,4})h)?(?:(\d{1,5})m)?(?:(\d{1,6})s)?", given.replace(" ", ""))
    if found is None:
        raise ValueError(f"write a span such as 45m, 1h30m or 2d, not {given[:20]!r}")
    span = sum(
        (int(number) * unit for number, unit in zip(found.groups("0"), _UNITS.values(), strict=True)), timedelta()
    )
    if not timedelta() <= span <= _LONGEST:
        raise ValueError(f"a span is at most {_LONGEST.days} days")
    return span


def span_text(span: timedelta) -> str:
    """A span as files have it: ``1h30m``."""
    rest, text = int(span.total_seconds()), ""
    for name, unit in _UNITS.items():
        number, rest = divmod(rest, int(unit.total_seconds()))
        text += f"{number}{name}" if number else ""
    return text or "0s"


def _wall(given: Any) -> Any:
    """``18:00`` as a time; the end of a day, ``24:00``, is the beginning of the next."""
    if isinstance(given, str):
        if not re.fullmatch(r"(?:[01]\d|2[0-3]):[0-5]\d|24:00", given):
            raise ValueError(f"write a time of day as 08:00 or 17:30, not {given[:20]!r}")
        return time() if given == "24:00" else time.fromisoformat(given)
    return given


def _day_or_time(given: Any) -> date:
    """A day, or a time of the clock; never one made into the other."""
    try:
        if isinstance(given, str):
            given = datetime.fromisoformat(given) if "T" in given else date.fromisoformat(given)
    except ValueError:
        pass
    if isinstance(given, datetime) and given.tzinfo is None:
        return given.replace(microsecond=0)
    if isinstance(given, date) and not isinstance(given, datetime):
        return given
    raise ValueError("write a day such as 2026-12-24, or a time without a zone such as 2026-12-24T12:00:00")


def _days(given: Any) -> Any:
    """``mon-fri, sun`` as days of the week, in their order."""
    if not isinstance(given, str):
        return given
    found: set[int] = set()
    for part in filter(None, re.split(r"[\s,]+", given.lower())):
        first, dash, last = part.partition("-")
        if first not in DAYS or (dash and last not in DAYS):
            raise ValueError(f"write days as mon-fri or mon, wed, sat, not {given[:40]!r}")
        begin, end = DAYS.index(first), DAYS.index(last) if dash else DAYS.index(first)
        found.update((begin + step) % 7 for step in range((end - begin) % 7 + 1))
    return tuple(DAYS[index] for index in sorted(found))


def _in_order(days: tuple[Day, ...]) -> tuple[Day, ...]:
    return tuple(day for day in DAYS if day in days)


def _npi(text: str) -> str:
    """A National Provider Identifier (45 CFR 162.406): ten digits, the last a Luhn check with 80840 before them."""
    if not re.fullmatch(r"\d{10}", text):
        raise ValueError("an NPI has ten digits")
    digits = [int(one) for one in f"80840{text}"]
    doubled = (sum(divmod(2 * one, 10)) for one in digits[-2::-2])
    if (sum(digits[-1::-2]) + sum(doubled)) % 10:
        raise ValueError("this is no NPI: its check digit is wrong")
    return text


def _subspecialty(text: str) -> str:
    if re.fullmatch(r"[a-z][a-z0-9-]{1,30}", text) or text in NUCC_RADIOLOGY:
        return text
    known = ", ".join(f"{code} ({name})" for code, name in NUCC_RADIOLOGY.items())
    raise ValueError(
        f"{text[:20]!r} is neither a NUCC code of radiology nor a local one (msk, breast): there are {known}"
    )


def _skill(text: str) -> str:
    if not re.fullmatch(r"(?:[A-Z]{2,16}|\*)(?:/(?:[A-Z0-9_ ]{1,16}|\*))?", text):
        raise ValueError(f"write a skill as a modality, a region or both: CT, CT/HEAD or */HEAD, not {text[:20]!r}")
    return text


def _network(text: str) -> str:
    try:
        return str(ip_network(text))
    except ValueError:
        raise ValueError(f"write a network such as 10.1.0.0/16, or an address, not {text[:40]!r}") from None


Id = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9._-]{1,64}$")]
Line = Annotated[
    str, StringConstraints(strip_whitespace=True, min_length=1, max_length=200, pattern=r"^[^\x00-\x1f\x7f]*$")
]
State = Annotated[str, AfterValidator(_state)]
Zone = Annotated[str, AfterValidator(_zone)]
Npi = Annotated[str, AfterValidator(_npi)]
Clia = Annotated[str, StringConstraints(pattern=r"^\d{2}D\d{7}$")]
Span = Annotated[timedelta, BeforeValidator(_span), PlainSerializer(span_text)]
WallTime = Annotated[time, BeforeValidator(_wall), PlainSerializer(lambda value: f"{value:%H:%M}")]
DayOrTime = Annotated[date, PlainValidator(_day_or_time), PlainSerializer(lambda value: value.isoformat())]
Days = Annotated[tuple[Day, ...], BeforeValidator(_days), AfterValidator(_in_order)]
Subspecialty = Annotated[str, AfterValidator(_subspecialty)]
Skill = Annotated[str, AfterValidator(_skill)]
Word = Annotated[str, StringConstraints(pattern=r"^[a-z][a-z0-9 -]{0,30}$")]
Upper = Annotated[str, StringConstraints(to_upper=True, pattern=r"^[A-Za-z0-9_ ]{1,16}$")]
AeTitle = Annotated[str, StringConstraints(pattern=r"^[!-\[\]-~](?:[ -\[\]-~]{0,14}[!-\[\]-~])?$")]
"""PS3.5 6.2: up to 16 characters without a backslash; spaces at its ends would mean nothing."""
Host = Annotated[str, StringConstraints(pattern=r"^(?:[A-Za-z0-9][A-Za-z0-9.-]{0,252}|\[?[0-9A-Fa-f:.]{2,45}\]?)$")]
HeaderName = Annotated[
    str, StringConstraints(strip_whitespace=True, min_length=1, max_length=180, pattern=r"^[^\x00-\x1f\x7f|]*$")
]
"""A component of MSH-3 or MSH-4, as messages have it."""
NetworkText = Annotated[str, AfterValidator(_network)]


class Entry(BaseModel):
    """A part of the directory: unchangeable, compared by value, and with nothing in it that is not known."""

    model_config = ConfigDict(extra="forbid", frozen=True, validate_by_name=True, validate_by_alias=True)


def _sorted[E: Entry](parts: tuple[E, ...]) -> tuple[E, ...]:
    """In an order of their own, each once: so that entries are compared by what they say."""
    return tuple(sorted(set(parts), key=lambda part: [str(value) for value in vars(part).values()]))


class Validity(Entry):
    """From one day to another, both of them included; without one of them, for ever."""

    valid_from: date | None = Field(None, alias="from")
    valid_to: date | None = Field(None, alias="to")

    def holds_on(self, day: date) -> bool:
        """Whether it holds on a day."""
        return (self.valid_from is None or self.valid_from <= day) and (self.valid_to is None or day <= self.valid_to)

    @model_validator(mode="after")
    def _is_in_order(self) -> Validity:
        if self.valid_from and self.valid_to and self.valid_to < self.valid_from:
            raise ValueError(f"it ends on {self.valid_to}, before it begins on {self.valid_from}")
        return self


class ContactEntry(Entry):
    """One way to reach somebody; `channel` is smtp, webhook, voice, sms or one of a plugin."""

    name: Line
    role: ContactRole
    channel: Annotated[str, StringConstraints(pattern=r"^[a-z][a-z0-9_-]{0,30}$")]
    address: Line

    @property
    def contact(self) -> Contact:
        """The noun."""
        return Contact(name=self.name, role=self.role, channel=self.channel, address=self.address)

    @model_validator(mode="after")
    def _can_be_reached(self) -> ContactEntry:
        what: str | None = None
        if self.channel == "smtp" and not re.fullmatch(r"[^@\s]+@[^@\s]+\.?[^@\s]+", self.address):
            what = "a mail address such as desk@example.org"
        elif self.channel in ("voice", "sms") and not re.fullmatch(r"\+[1-9]\d{6,14}", self.address):
            what = "a number in international form such as +15125550100"
        elif self.channel == "webhook":
            parts = urlsplit(self.address)
            if parts.scheme not in ("https", "http") or not parts.hostname:
                what = "an address such as https://example.org/hooks/desk"
        if what is not None:
            raise ValueError(f"the address of channel {self.channel} is {what}")
        return self


class DestinationEntry(Entry):
    """Where reports go: `channel` is hl7, fhir, stow, dicom, mail, fax, sms or one of a plugin.

    A facility has those of the facilities above it too, but for one whose `id` it has itself: so it can say of one that
    it is not `active`.
    """

    id: Id
    channel: Annotated[str, StringConstraints(pattern=r"^[a-z][a-z0-9_-]{0,30}$")]
    address: Annotated[str, StringConstraints(strip_whitespace=True, max_length=500, pattern=r"^[^\x00-\x1f\x7f]*$")]
    statuses: tuple[ReportStatus, ...] = Field(DELIVERED, min_length=1)
    is_active: bool = Field(True, alias="active")
    options: Mapping[str, str | bool | int | float] = Field(default_factory=dict, validate_default=True)

    def destination(self, facility: str) -> Destination:
        """The noun; `facility` is the one that has this entry."""
        return Destination(
            id=self.id,
            facility=facility,
            channel=self.channel,
            address=self.address,
            statuses=self.statuses,
            is_active=self.is_active,
            options=self.options,
        )

    @field_validator("address")
    @classmethod
    def _can_be_reached(cls, address: str, info: ValidationInfo) -> str:
        channel = info.data.get("channel", "")
        problem = address_problem(channel, address)
        if problem is not None:
            raise ValueError(f"this is no address of channel {channel}: {problem}")
        return address

    @field_validator("statuses")
    @classmethod
    def _are_delivered(cls, statuses: tuple[ReportStatus, ...]) -> tuple[ReportStatus, ...]:
        if not set(statuses) <= set(DELIVERED):
            raise ValueError(f"what is delivered is {', '.join(DELIVERED)}")
        return statuses

    @field_validator("options")
    @classmethod
    def _are_known(cls, options: Mapping[str, Any], info: ValidationInfo) -> Mapping[str, Any]:
        channel = info.data.get("channel", "")
        problem = options_problem(channel, options)
        if problem is not None:
            raise ValueError(f"these are no options of channel {channel}: {problem}")
        return options


class AeEntry(Entry):
    """An application entity of a facility: a modality, a workstation, an archive.

    What it stores is the facility's, and what it finds too. With a `host` it is called as well: for C-MOVE, for what is
    forwarded, and by `readingroom facility check`. `ca` is a file of the server.
    """

    ae: AeTitle
    host: Host | None = None
    port: int = Field(104, ge=1, le=65535)
    tls: bool = False
    ca: Annotated[str, StringConstraints(max_length=500, pattern=r"^[^\x00-\x1f\x7f]*$")] = ""
    may_store: bool = True
    may_find: bool = True
    may_move: bool = True
    modality: Upper | None = None

    @model_validator(mode="after")
    def _is_called_somewhere(self) -> AeEntry:
        if self.host is None and (self.tls or self.ca):
            raise ValueError("tls and ca say how it is called: it needs a host too")
        return self


class SenderEntry(Entry):
    """Who sends HL7 messages for a facility, as MSH-3 and MSH-4 name it; without `facility` whatever MSH-4 says.

    `profile` names the mapping by which they are read. From elsewhere than its `networks`, where it has any, nothing is
    taken.
    """

    application: HeaderName
    facility: HeaderName | None = None
    profile: Id = "default"
    networks: tuple[NetworkText, ...] = ()


# -- contracts ---------------------------------------------------------------------------------------------------------


class Opening(Entry):
    """Hours of days of the week; an end that is not after the beginning is of the next day."""

    days: Days = Field(min_length=1)
    starts: WallTime
    ends: WallTime


_IMPLIED: dict[str, tuple[Priority, ...]] = {"stat": ("stat",), "urgent": ("urgent", "asap"), "routine": ("routine",)}


class StudyClass(Entry):
    """When one type of study is due, and when to warn, both counted from when it can be read.

    `grace` after it is due it counts as breached. It applies to items for which all holds that it names: `priorities`
    (implied for stat, urgent and routine), `modalities`, `body_parts`, `subspecialties`. One that names nothing applies
    to items that were ordered as of this `study_type`.
    """

    study_type: Word
    due: Span
    warn: Span | None = None
    grace: Span = timedelta()
    hours: Literal["24x7", "business"] = "24x7"
    pause_reasons: tuple[Word, ...] = ()
    priorities: tuple[Priority, ...] = ()
    modalities: tuple[Upper, ...] = ()
    body_parts: tuple[Upper, ...] = ()
    subspecialties: tuple[Subspecialty, ...] = ()

    @property
    def warns_after(self) -> timedelta:
        """How long after the beginning it warns; without `warn` after three quarters of the time."""
        return self.due * 3 / 4 if self.warn is None else self.warn

    @property
    def of_priorities(self) -> tuple[Priority, ...]:
        """The priorities that it is for; empty: any."""
        return self.priorities or _IMPLIED.get(self.study_type, ())

    @model_validator(mode="after")
    def _warns_in_time(self) -> StudyClass:
        if not timedelta() < self.due or self.warns_after > self.due:
            raise ValueError("warn has to be before due, and due after nothing: both are counted from the beginning")
        return self


class Contract(Entry):
    """What was agreed with a facility: how soon which type of study is read.

    The first of `classes` that applies to an item is the one. `business_hours` are of the facility's zone; on
    `holidays` none begin.
    """

    valid_from: date = Field(alias="from")
    valid_to: date | None = Field(None, alias="to")
    business_hours: tuple[Opening, ...] = ()
    holidays: tuple[date, ...] = ()
    classes: tuple[StudyClass, ...] = Field(min_length=1)

    def holds_on(self, day: date) -> bool:
        """Whether it holds on a day."""
        return self.valid_from <= day and (self.valid_to is None or day <= self.valid_to)

    @model_validator(mode="after")
    def _is_whole(self) -> Contract:
        if self.valid_to is not None and self.valid_to < self.valid_from:
            raise ValueError(f"it ends on {self.valid_to}, before it begins on {self.valid_from}")
        if not self.business_hours and any(one.hours == "business" for one in self.classes):
            raise ValueError("a class counts business hours, and the contract has no business_hours")
        names = [one.study_type for one in self.classes]
        if len(set(names)) < len(names):
            raise ValueError(f"two classes are of study_type {max(names, key=names.count)!r}")
        return self


# -- facilities --------------------------------------------------------------------------------------------------------


class FacilityEntry(Entry):
    """A facility with its contracts; `state` is where its patients are, unless an item says otherwise.

    `final_by` says who makes its reports final: the `service` that reads for it, or the `facility` by its own
    radiologist, for whom what a service signs is preliminary.
    """

    id: Id
    name: Line
    kind: FacilityKind
    state: State
    zone: Zone
    parent: Id | None = None
    issuer: Line | None = None
    address: tuple[Line, ...] = ()
    city: Line | None = None
    postal_code: Line | None = None
    npi: Npi | None = None
    clia: Clia | None = None
    final_by: Literal["service", "facility"] = "service"
    contacts: tuple[ContactEntry, ...] = ()
    aes: tuple[AeEntry, ...] = ()
    senders: tuple[SenderEntry, ...] = ()
    destinations: tuple[DestinationEntry, ...] = ()
    contracts: Annotated[tuple[Contract, ...], AfterValidator(_sorted)] = ()

    @property
    def facility(self) -> Facility:
        """The noun."""
        return Facility(
            id=self.id,
            name=self.name,
            kind=self.kind,
            parent=self.parent,
            state=self.state,
            zone=self.zone,
            contacts=tuple(one.contact for one in self.contacts),
        )

    @field_validator("destinations")
    @classmethod
    def _have_names_of_their_own(cls, destinations: tuple[DestinationEntry, ...]) -> tuple[DestinationEntry, ...]:
        ids = [one.id for one in destinations]
        if len(set(ids)) < len(ids):
            raise ValueError(f"two destinations have the id {max(ids, key=ids.count)!r}")
        return destinations

    @field_validator("aes")
    @classmethod
    def _have_titles_of_their_own(cls, aes: tuple[AeEntry, ...]) -> tuple[AeEntry, ...]:
        titles = [one.ae for one in aes]
        if len(set(titles)) < len(titles):
            raise ValueError(f"two have the AE title {max(titles, key=titles.count)!r}")
        return aes

    @field_validator("senders")
    @classmethod
    def _are_told_apart(cls, senders: tuple[SenderEntry, ...]) -> tuple[SenderEntry, ...]:
        if len({(one.application, one.facility) for one in senders}) < len(senders):
            raise ValueError("two have the same application and facility")
        return senders

    @model_validator(mode="after")
    def _has_one_contract_at_a_time(self) -> FacilityEntry:
        for before, after in pairwise(self.contracts):
            if before.valid_to is None or after.valid_from <= before.valid_to:
                raise ValueError(f"the contracts of {before.valid_from} and {after.valid_from} hold at the same time")
        return self


def claimed_twice(facilities: Iterable[FacilityEntry]) -> Iterator[tuple[str, str, str]]:
    """What two facilities have that only one can have, since callers are told apart by it: what it is, and the two."""
    owners: dict[tuple[str, ...], str] = {}
    for entry in facilities:
        aes = ((f"the AE title {one.ae!r}", "ae", one.ae) for one in entry.aes)
        senders = (
            (f"the sender {one.application}|{one.facility or '*'}", "sender", one.application, one.facility or "")
            for one in entry.senders
        )
        for what, *key in (*aes, *senders):
            owner = owners.setdefault(tuple(key), entry.id)
            if owner != entry.id:
                yield what, owner, entry.id


# -- readers -----------------------------------------------------------------------------------------------------------


class Licence(Validity):
    """Leave to practise in a state; its days are those of the place where the patient is."""

    state: State
    number: Line


class Credential(Validity):
    """Privileges at a facility, and at the facilities below it that have none of their own for the reader."""

    facility: Id
    status: CredentialStatus = "granted"


class Shift(Validity):
    """Hours of days of the week in the reader's zone; on one day only where `date` names one."""

    days: Days = DAYS
    starts: WallTime
    ends: WallTime

    @model_validator(mode="before")
    @classmethod
    def _of_one_day(cls, given: Any) -> Any:
        if not isinstance(given, dict) or "date" not in given:
            return given
        others = {"days", "from", "to", "valid_from", "valid_to"}.intersection(given)
        if others:
            raise ValueError(f"a shift of one date has no {sorted(others)[0]}")
        rest = {name: value for name, value in given.items() if name != "date"}
        return rest | {"from": given["date"], "to": given["date"]}

    @model_validator(mode="after")
    def _has_days(self) -> Shift:
        if not self.days:
            raise ValueError("a shift is on at least one day")
        return self


class Leave(Entry):
    """Time away, in the reader's zone. Days are whole days, both included; a time is exact."""

    starts: DayOrTime = Field(alias="from")
    ends: DayOrTime = Field(alias="to")

    @model_validator(mode="after")
    def _is_in_order(self) -> Leave:
        if self.first >= self.last:
            raise ValueError(f"the leave ends at {self.ends}, before it begins at {self.starts}")
        return self

    @property
    def first(self) -> datetime:
        """Its beginning, by the clock of the reader's zone."""
        return self.starts if isinstance(self.starts, datetime) else datetime.combine(self.starts, time())

    @property
    def last(self) -> datetime:
        """Its end, not included."""
        if isinstance(self.ends, datetime):
            return self.ends
        return datetime.combine(self.ends + timedelta(days=1), time())


class ReaderEntry(Entry):
    """A reader with all that decides what he or she may read, and when.

    What one who `is_trainee` signs is preliminary until an attending signs it too. `home` is the facility whose own
    radiologist this is; those who read for others have none.
    """

    id: Id
    name: Line
    zone: Zone
    npi: Npi | None = None
    subspecialties: tuple[Subspecialty, ...] = ()
    skills: tuple[Skill, ...] = ()
    is_overflow: bool = Field(False, alias="overflow")
    is_trainee: bool = Field(False, alias="trainee")
    home: Id | None = None
    contacts: tuple[ContactEntry, ...] = ()
    licences: Annotated[tuple[Licence, ...], AfterValidator(_sorted)] = ()
    credentials: Annotated[tuple[Credential, ...], AfterValidator(_sorted)] = ()
    shifts: Annotated[tuple[Shift, ...], AfterValidator(_sorted)] = ()
    leave: Annotated[tuple[Leave, ...], AfterValidator(_sorted)] = ()

    @property
    def reader(self) -> Reader:
        """The noun."""
        return Reader(
            id=self.id,
            name=self.name,
            subspecialties=self.subspecialties,
            skills=self.skills,
            zone=self.zone,
            is_overflow=self.is_overflow,
        )
