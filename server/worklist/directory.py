"""Who may read what, and who is there to do it; with the reason for each one who may not or is not.

Two questions are kept apart. A licence of the patient's state and privileges at the facility are law: nobody reads
without. Shift and leave are the roster: work is given to those who are there, and one who is not may still take some.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import date, datetime, time, timedelta
from typing import Literal, Protocol
from zoneinfo import ZoneInfo

import sqlalchemy as sa

from readingroom.errors import Refused
from readingroom.model import Contact, Destination, Facility, Reader
from server.worklist.hours import moment, span_on
from storage.catalog.directory import Directory, has_readers, read_chain, read_reader
from storage.directory import DAYS, STATES, FacilityEntry, Licence, ReaderEntry, Shift, zone_of

Kind = Literal["place", "licence", "credential", "shift", "leave"]

_DAY = timedelta(days=1)


class Located(Protocol):
    """Something to be read: a work item in either of its forms."""

    @property
    def facility(self) -> str: ...
    @property
    def patient_state(self) -> str | None: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Reason:
    """Why somebody does not get an item, in a few words."""

    kind: Kind
    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Eligibility:
    """The readers who may be given an item at a moment, and of all others what stands against it."""

    readers: tuple[Reader, ...]
    refused: dict[str, tuple[Reason, ...]]

    @property
    def alarm(self) -> str | None:
        """What to tell where nobody is left, with how many readers each reason keeps away; None where somebody is."""
        if self.readers:
            return None
        kinds = [reason.kind for reasons in self.refused.values() for reason in reasons[:1]]
        counted = ", ".join(f"{kinds.count(kind)} by {kind}" for kind in dict.fromkeys(kinds))
        return f"no eligible reader on shift: {counted or 'the directory has no readers'}"


def eligible_readers(directory: Directory, item: Located, at: datetime) -> Eligibility:
    """Who may be given an item at a moment: licensed, credentialed, on shift and not on leave.

    Parameters
    ----------
    directory
        All facilities and readers that are active.
    item
        Its `patient_state` says where the patient is; without one that is where the facility is.

    Returns
    -------
    Eligibility
        The readers by id, with the reasons of all who are not among them: those by law first.
    """
    eligible, refused = [], {}
    for reader in directory.readers.values():
        reasons = reasons_against(directory, item, reader, at)
        if reasons:
            refused[reader.id] = reasons
        else:
            eligible.append(reader.reader)
    return Eligibility(readers=tuple(eligible), refused=refused)


def reasons_against(directory: Directory, item: Located, reader: ReaderEntry, at: datetime) -> tuple[Reason, ...]:
    """All that stands against giving an item to one reader at a moment, what is law first."""
    chain = directory.chain(item.facility)
    return (*lawful_reasons(chain, item, reader, at), *roster_reasons(reader, at))


def may_be_given(connection: sa.Connection, item: Located, reader: str, at: datetime) -> bool:
    """Whether a reader, by id, may be given an item at a moment; reads no more of the directory than that takes."""
    entry = read_reader(connection, reader)
    return entry is not None and not reasons_against(read_chain(connection, item.facility), item, entry, at)


class Staffing:
    """Who may be given what at one moment, without the reasons: for many items, so each thing is worked out once."""

    def __init__(self, directory: Directory, at: datetime) -> None:
        self._directory = directory
        self._at = at
        self._there = [reader for reader in directory.readers.values() if not roster_reasons(reader, at)]
        self._known: dict[tuple[str, str | None], tuple[Reader, ...]] = {}

    def readers(self, item: Located) -> tuple[Reader, ...]:
        """The same readers as `eligible_readers` finds."""
        key = (item.facility, item.patient_state)
        if key not in self._known:
            chain = self._directory.chain(item.facility)
            lawful = (one.reader for one in self._there if not lawful_reasons(chain, item, one, self._at))
            self._known[key] = tuple(lawful)
        return self._known[key]


def facility_of(connection: sa.Connection, id: str) -> Facility:
    """A facility with its contacts, and with those of the facilities above it for roles that it has nobody in.

    One that is not in the directory has none.
    """
    chain = read_chain(connection, id).chain(id)
    if not chain:
        return Facility(id=id, name=id)
    contacts: list[Contact] = []
    for entry in chain:
        has = {contact.role for contact in contacts}
        contacts += (contact for contact in entry.facility.contacts if contact.role not in has)
    return replace(chain[0].facility, contacts=tuple(contacts))


def destinations_of(connection: sa.Connection, id: str) -> tuple[Destination, ...]:
    """Where the reports of a facility go: its own destinations, and those above whose id it does not have itself."""
    found: dict[str, Destination] = {}
    for entry in read_chain(connection, id).chain(id):
        for one in entry.destinations:
            found.setdefault(one.id, one.destination(entry.id))
    return tuple(found.values())


def require_lawful(connection: sa.Connection, item: Located, reader: str, at: datetime) -> None:
    """Let nobody read without licence and privileges. A directory that has no readers cannot tell, and asks nothing.

    Raises
    ------
    Refused
        The reader has none of the patient's state, or none at the facility, or is not in the directory; says which.
    """
    entry = read_reader(connection, reader)
    if entry is None:
        if has_readers(connection):
            raise Refused(f"{reader} is no active reader of the directory; an item is read by one who is.")
        return
    chain = read_chain(connection, item.facility).chain(item.facility)
    for reason in lawful_reasons(chain, item, entry, at):
        raise Refused(f"Reader {reader} may not read for facility {item.facility}: {reason.text}.")


def licence_for(
    connection: sa.Connection, item: Located, reader: str, at: datetime
) -> tuple[ReaderEntry, Licence, FacilityEntry]:
    """The licence by which a reader may read for an item; asks, other than `require_lawful`, whoever the readers are.

    Raises
    ------
    Refused
        There is none, or no privileges at the facility, or no such reader or facility; says which.
    """
    entry = read_reader(connection, reader)
    if entry is None:
        raise Refused(f"{reader[:64]} is no active reader of the directory; see `readingroom directory`.")
    chain = read_chain(connection, item.facility).chain(item.facility)
    for reason in lawful_reasons(chain, item, entry, at):
        raise Refused(f"Reader {reader} may not read for facility {item.facility}: {reason.text}.")
    place, today = place_of(item.patient_state, chain[0]), at.astimezone(zone_of(chain[0].zone)).date()
    holding = [one for one in entry.licences if _covers(one.state, place) and one.holds_on(today)]
    return entry, holding[0], chain[0]


def is_at_home(connection: sa.Connection, reader: ReaderEntry, facility: str) -> bool:
    """Whether a reader is the own radiologist of a facility, or of one above it."""
    return any(one.id == reader.home for one in read_chain(connection, facility).chain(facility))


def lawful_reasons(
    chain: Sequence[FacilityEntry], item: Located, reader: ReaderEntry, at: datetime
) -> tuple[Reason, ...]:
    """What stands against a reader by law; `chain` is the item's facility and those above it."""
    if not chain:
        return (Reason(kind="place", text=f"facility {item.facility} is not in the directory"),)
    facility = chain[0]
    today = at.astimezone(zone_of(facility.zone)).date()
    found = (
        _without_licence(reader, place_of(item.patient_state, facility), today),
        _without_credential(reader, chain, today),
    )
    return tuple(reason for reason in found if reason is not None)


def place_of(patient_state: str | None, facility: FacilityEntry) -> str:
    """Whose licence it takes: the patient's state as ISO 3166-2 has it, by default the facility's.

    A bare ``TX``, as messages of orders have it, is one of the facility's country if a state licenses there.
    """
    if not patient_state:
        return facility.state
    given = patient_state.strip().upper()
    country = facility.state.partition("-")[0]
    return f"{country}-{given}" if given in STATES.get(country, ()) else given


def _without_licence(reader: ReaderEntry, place: str, today: date) -> Reason | None:
    there = [one for one in reader.licences if _covers(one.state, place)]
    if any(one.holds_on(today) for one in there):
        return None
    if not there:
        return Reason(kind="licence", text=f"no licence for {place}")
    ended = [one.valid_to for one in there if one.valid_to is not None and one.valid_to < today]
    if len(ended) == len(there):
        return Reason(kind="licence", text=f"the licence for {place} ended on {max(ended)}")
    begins = min(one.valid_from for one in there if one.valid_from is not None and one.valid_from > today)
    return Reason(kind="licence", text=f"the licence for {place} begins on {begins}")


def _without_credential(reader: ReaderEntry, chain: Sequence[FacilityEntry], today: date) -> Reason | None:
    """The nearest facility that says anything of the reader decides: so one site may refuse whom its operator has."""
    for facility in chain:
        there = [one for one in reader.credentials if one.facility == facility.id]
        if not there:
            continue
        holding = [one.status for one in there if one.holds_on(today)]
        against = [status for status in holding if status != "granted"]
        if against:
            return Reason(kind="credential", text=f"the privileges at {facility.id} are {against[0]}")
        if not holding:
            return Reason(kind="credential", text=f"the privileges at {facility.id} do not hold on {today}")
        return None
    return Reason(kind="credential", text=f"no privileges at {chain[0].id}")


# -- the roster --------------------------------------------------------------------------------------------------------


def roster_reasons(reader: ReaderEntry, at: datetime) -> tuple[Reason, ...]:
    """Why a reader is not there at a moment; empty where he or she is."""
    zone = zone_of(reader.zone)
    for one in reader.leave:
        ends = moment(one.last, zone)
        if moment(one.first, zone) <= at < ends:
            return (Reason(kind="leave", text=f"on leave until {ends:%Y-%m-%dT%H:%MZ}"),)
    if on_shift_until(reader, at) is None:
        return (Reason(kind="shift", text="not on shift"),)
    return ()


def on_shift_until(reader: ReaderEntry, at: datetime) -> datetime | None:
    """When the shift ends that a reader is on at a moment; of several the last; None where there is none."""
    zone = zone_of(reader.zone)
    today = at.astimezone(zone).date()
    ends = [
        end for shift in reader.shifts for begin, end in _spans(shift, today - _DAY, today, zone) if begin <= at < end
    ]
    return max(ends, default=None)


def coverage_gaps(
    directory: Directory, item: Located, begin: datetime, end: datetime
) -> list[tuple[datetime, datetime]]:
    """The spans between two moments in which no reader could be given an item, in their order."""
    chain = directory.chain(item.facility)
    if not chain:
        return [(begin, end)]
    edges = {begin, *_midnights(chain[0], begin, end)}
    could = [reader for reader in directory.readers.values() if _could(reader, chain, item)]
    for reader in could:
        edges.update(_roster_edges(reader, begin, end))
    gaps: list[tuple[datetime, datetime]] = []
    inside = sorted(edge for edge in edges if begin <= edge < end)
    for edge, following in zip(inside, [*inside[1:], end], strict=True):
        if any(not reasons_against(directory, item, reader, edge) for reader in could):
            continue
        if gaps and gaps[-1][1] == edge:
            gaps[-1] = (gaps[-1][0], following)
        else:
            gaps.append((edge, following))
    return gaps


def _could(reader: ReaderEntry, chain: Sequence[FacilityEntry], item: Located) -> bool:
    """Whether a reader may ever be given an item: all others need not be asked for each hour."""
    place, facilities = place_of(item.patient_state, chain[0]), {facility.id for facility in chain}
    is_licensed = any(_covers(one.state, place) for one in reader.licences)
    return is_licensed and any(one.facility in facilities for one in reader.credentials)


def _covers(licensed: str, place: str) -> bool:
    """Whether a licence of a state or country is good for a place."""
    return place == licensed or place.startswith(f"{licensed}-")


def _midnights(facility: FacilityEntry, begin: datetime, end: datetime) -> Iterator[datetime]:
    """When licences and privileges may begin or end."""
    zone = zone_of(facility.zone)
    day = begin.astimezone(zone).date()
    while day <= end.astimezone(zone).date():
        yield moment(datetime.combine(day, time()), zone)
        day += _DAY


def _roster_edges(reader: ReaderEntry, begin: datetime, end: datetime) -> Iterator[datetime]:
    zone = zone_of(reader.zone)
    first, last = begin.astimezone(zone).date() - _DAY, end.astimezone(zone).date()
    for shift in reader.shifts:
        for span in _spans(shift, first, last, zone):
            yield from span
    for one in reader.leave:
        yield moment(one.first, zone)
        yield moment(one.last, zone)


def _spans(shift: Shift, first: date, last: date, zone: ZoneInfo) -> Iterator[tuple[datetime, datetime]]:
    """When a shift begins and ends, for each of some days that it begins on."""
    day = first
    while day <= last:
        if DAYS[day.weekday()] in shift.days and shift.holds_on(day):
            yield span_on(day, shift.starts, shift.ends, zone)
        day += _DAY
