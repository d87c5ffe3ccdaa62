"""A reading service in a computer: studies come, readers come and go, and a policy says who reads what next.

A discrete-event simulation of 25 readers with shifts, subspecialties, licences and credentials, and of 1,500 studies a
day from 20 facilities in ten states. A policy is given what a plugin is given with `assign`, a `Snapshot`, and answers
with `Proposal` values. Like a plugin it knows of a read how long one of that kind takes in the mean; what it really
takes is drawn. Everything is drawn from one seed.
"""

from __future__ import annotations

import heapq
from bisect import bisect_left, insort
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from itertools import count
from math import ceil, inf, log, sqrt
from random import Random

from readingroom import Proposal, Reader, Snapshot, Waiting, WorkItem, priority_rank
from readingroom.model import Priority

Policy = Callable[[Snapshot], Sequence[Proposal]]

HEAD = 200
"""So many items of the head of the queue are in a snapshot, as in those of the server."""


@dataclass(frozen=True, slots=True)
class Kind:
    """A kind of study: its share of all, the minutes that reading it takes, and how often it shows something critical.

    `has_algorithm` tells that there is one that looks for what is critical.
    """

    modality: str
    body_part: str
    subspecialty: str
    share: float
    minutes: float
    deviation: float
    critical: float
    has_algorithm: bool = False


KINDS = (
    Kind("CR", "CHEST", "chest", 0.38, 2.7, 2.2, 0.018, has_algorithm=True),
    Kind("CR", "EXTREMITY", "msk", 0.14, 2.7, 2.2, 0.006),
    Kind("CT", "HEAD", "neuro", 0.16, 7.0, 6.5, 0.05, has_algorithm=True),
    Kind("CT", "CHEST", "chest", 0.08, 14.2, 11.1, 0.02, has_algorithm=True),
    Kind("CT", "ABDOMEN", "body", 0.11, 17.1, 14.6, 0.015),
    Kind("MR", "HEAD", "neuro", 0.05, 11.0, 7.0, 0.02),
    Kind("US", "ABDOMEN", "body", 0.06, 5.5, 3.5, 0.02),
    Kind("MG", "BREAST", "breast", 0.02, 5.0, 3.0, 0.0),
)
SHARES: Mapping[Priority, float] = {"stat": 0.20, "urgent": 0.30, "routine": 0.50}
DUE_MINUTES: Mapping[Priority, float] = {"stat": 30, "urgent": 60, "routine": 480}
"""Between the arrival of a study and the end of its reading."""
CRITICAL: Mapping[Priority, float] = {"stat": 2.6, "urgent": 1.2, "routine": 0.24}
"""How many times more often than in the mean of all."""
SENSITIVITY, FALSE_ALARMS, FLAG_AFTER = 0.90, 0.04, 120.0

STUDIES_A_DAY = 1500
LOAD = 0.81
"""The share of the readers' time that reading so many takes."""
BY_HOUR = (40, 34, 30, 27, 25, 26, 30, 38, 50, 60, 66, 68, 68, 70, 72, 74, 78, 84, 88, 88, 82, 72, 60, 48)
"""How many studies come in each hour of a day, relative to each other."""
DAY_DEVIATION, HOUR_DEVIATION = 0.12, 0.25
"""How much days, and their hours, differ from what was expected of them."""

SHIFTS = (23,) * 4 + (7,) * 6 + (9,) * 2 + (12,) * 3 + (15,) * 6 + (17,) * 4
"""At which hour each of the readers begins; each has eight hours."""
FIELDS = (
    ("chest", "body", "msk"),
    ("neuro", "body"),
    ("chest", "neuro", "msk"),
    ("body", "chest", "breast"),
    ("neuro", "chest"),
    ("body", "neuro", "msk", "breast"),
)
"""The subspecialties of the readers, in turn."""
OVERFLOW_READERS = 4
OVERFLOW_FIELDS = ("chest", "body", "neuro", "msk")
OVERFLOW_COMES, OVERFLOW_STAYS = 900.0, 3600.0
"""How long an overflow reader takes to begin, and stays without another read."""
STATES, FACILITIES = 10, 20
LICENSED, CREDENTIALED = 0.85, 0.95
LEAST_LEFT = 0.4
"""Who has read for longer than expected is expected to take this share of it more. A reader who always seems to be free
in a minute would be waited for again and again."""

_MONDAY = datetime(2024, 1, 1, tzinfo=UTC)
_HOUR, _DAY, _MINUTE = 3600.0, 86_400.0, 60.0
_LAST_WAIT = 10 * _DAY


@dataclass(slots=True)
class Case:
    """A study, what only the simulation knows of it, and what became of it; times are seconds."""

    number: int
    item: WorkItem
    kind: Kind
    facility: int
    arrived: float
    seconds: float
    is_critical: bool
    flagged_at: float | None
    eligible: tuple[str, ...] = ()
    reader: Reader | None = None
    began: float | None = None
    ended: float | None = None

    @property
    def turnaround(self) -> float:
        """Minutes from arrival to the end of reading; endless where it was never read."""
        return inf if self.ended is None else (self.ended - self.arrived) / _MINUTE

    @property
    def is_in_time(self) -> bool:
        """Whether it was read before it was due."""
        return self.turnaround <= DUE_MINUTES[self.item.priority]

    @property
    def place(self) -> tuple[bool, int, float, int]:
        """Where it is in the queue: what is flagged first, then by priority, then what is due soonest."""
        return (not self.item.is_flagged, -self.item.rank, self.arrived, self.number)


@dataclass(slots=True)
class Seat:
    """A reader at work; `begins` is the hour of their shift, None for overflow, who can be called at all times."""

    reader: Reader
    begins: int | None
    facilities: frozenset[int]
    case: Case | None = None
    stays_until: float = -inf

    def is_on(self, now: float) -> bool:
        """Whether this reader begins reads at this time."""
        return self.begins is None or (now - self.begins * _HOUR) % _DAY < 8 * _HOUR

    def shown(self, now: float) -> Reader:
        """The reader as a snapshot has them, with when they are expected to be free."""
        if self.case is None or self.case.began is None:
            return self.reader
        mean = self.case.kind.minutes * _MINUTE
        return replace(self.reader, free_at=_moment(max(self.case.began + mean, now + LEAST_LEFT * mean)))


def simulate(policy: Policy, cases: list[Case], seats: list[Seat]) -> list[Case]:
    """Let the readers read the studies as the policy says; gives the cases with what became of them."""
    _Service(policy, cases, seats).run()
    return cases


def made_cases(random: Random, *, days: int, load: float = LOAD) -> list[Case]:
    """The studies of some days, in the order of their arrival; the readers are busy for that share of their time."""
    hours, weights = [], []
    for day in range(days):
        busy = random.lognormvariate(0, DAY_DEVIATION)
        for hour, weight in enumerate(BY_HOUR):
            hours.append(day * 24 + hour)
            weights.append(weight * busy * random.lognormvariate(0, HOUR_DEVIATION))
    chosen = random.choices(hours, weights, k=round(STUDIES_A_DAY * days * load / LOAD))
    arrivals = sorted(round((hour + random.random()) * _HOUR, 3) for hour in chosen)
    return [_made_case(random, number, arrived) for number, arrived in enumerate(arrivals)]


def made_seats(random: Random, *, overflow: int = OVERFLOW_READERS) -> list[Seat]:
    """The readers, with their shifts, subspecialties, licences and credentials, and so many who can be called."""
    seats = []
    for number, begins in enumerate([*SHIFTS, *[None] * overflow]):
        states = {state for state in range(STATES) if random.random() < LICENSED}
        facilities = [facility for facility in range(FACILITIES) if random.random() < CREDENTIALED]
        reader = Reader(
            id=f"reader-{number:02}",
            name=f"Reader {number}",
            subspecialties=OVERFLOW_FIELDS if begins is None else FIELDS[number % len(FIELDS)],
            is_overflow=begins is None,
        )
        may = frozenset(facility for facility in facilities if facility % STATES in states)
        seats.append(Seat(reader=reader, begins=begins, facilities=may))
    return seats


def in_order(key: Callable[[Waiting], object]) -> Policy:
    """A policy that gives the first item in an order to the first free reader who may read it, whatever their field."""

    def policy(snapshot: Snapshot) -> list[Proposal]:
        free = [reader.id for reader in snapshot.readers if reader.free_at is None and not reader.is_overflow]
        proposals = []
        for waiting in sorted(snapshot.waiting, key=key):  # type: ignore[arg-type]
            reader = next((id for id in free if id in waiting.eligible), None)
            if reader is not None:
                free.remove(reader)
                proposals.append(Proposal(item=waiting.item.id, reader=reader))
        return proposals

    return policy


first_come = in_order(lambda waiting: waiting.item.ready_at)
"""First in, first out."""
strict_priority = in_order(lambda waiting: (-waiting.item.rank, waiting.item.ready_at))
"""STAT, urgent, routine; first in, first out among equals."""


def clairvoyant(cases: Sequence[Case], seats: Sequence[Seat]) -> Policy:
    """What no policy can reach: it knows what is critical and how long each read will take, and all may read all."""
    known = {case.item.id: case for case in cases}
    everybody = tuple(seat.reader.id for seat in seats)
    for case in cases:
        case.eligible = everybody

    def key(waiting: Waiting) -> tuple[bool, int, float]:
        case = known[waiting.item.id]
        return (not (case.is_critical or case.item.priority == "stat"), -case.item.rank, case.seconds)

    return in_order(key)


def _made_case(random: Random, number: int, arrived: float) -> Case:
    (kind,) = random.choices(KINDS, [kind.share for kind in KINDS])
    (priority,) = random.choices(list(SHARES), list(SHARES.values()))
    spread = log(1 + (kind.deviation / kind.minutes) ** 2)
    minutes = random.lognormvariate(log(kind.minutes) - spread / 2, sqrt(spread))
    is_critical = random.random() < kind.critical * CRITICAL[priority]
    is_flagged = random.random() < (SENSITIVITY if is_critical else FALSE_ALARMS)
    facility = random.randrange(FACILITIES)
    item = WorkItem(
        id=f"item-{number}",
        kind="read",
        state="ready",
        facility=f"facility-{facility}",
        version=1,
        priority=priority,
        rank=priority_rank(priority),
        modality=kind.modality,
        body_part=kind.body_part,
        subspecialty=kind.subspecialty,
        ready_at=_moment(arrived),
        due_at=_moment(arrived) + timedelta(minutes=DUE_MINUTES[priority]),
    )
    return Case(
        number=number,
        item=item,
        kind=kind,
        facility=facility,
        arrived=arrived,
        seconds=round(max(20.0, min(minutes, 6 * kind.minutes) * _MINUTE), 3),
        is_critical=is_critical,
        flagged_at=arrived + FLAG_AFTER if kind.has_algorithm and is_flagged else None,
    )


def _moment(seconds: float) -> datetime:
    return _MONDAY + timedelta(seconds=seconds)


@dataclass(slots=True)
class _Service:
    """A run of the simulation."""

    policy: Policy
    cases: Sequence[Case]
    seats: Sequence[Seat]
    queue: list[tuple[tuple[bool, int, float, int], Waiting]] = field(default_factory=list)
    events: list[tuple[float, int, Callable[[float], None]]] = field(default_factory=list)
    numbers: Iterator[int] = field(default_factory=count)

    def run(self) -> None:
        for case in self.cases:
            if not case.eligible:
                case.eligible = tuple(seat.reader.id for seat in self.seats if case.facility in seat.facilities)
            self._at(case.arrived, lambda _now, case=case: self._arrive(case))  # type: ignore[misc]
            if case.flagged_at is not None:
                self._at(case.flagged_at, lambda _now, case=case: self._flag(case))  # type: ignore[misc]
        last = self.cases[-1].arrived
        self._at(_MINUTE, lambda now: self._tick(now, last + _LAST_WAIT))
        while self.events:
            now, _, happen = heapq.heappop(self.events)
            happen(now)
            if not self.events or self.events[0][0] > now:
                self._assign(now)

    def _at(self, when: float, happen: Callable[[float], None]) -> None:
        heapq.heappush(self.events, (when, next(self.numbers), happen))

    def _tick(self, now: float, end: float) -> None:
        """Once a minute as long as something is to come."""
        if now < end and (self.events or self.queue):
            self._at(now + _MINUTE, lambda now: self._tick(now, end))

    def _arrive(self, case: Case) -> None:
        waiting = Waiting(item=case.item, eligible=case.eligible, read_seconds=case.kind.minutes * _MINUTE)
        insort(self.queue, (case.place, waiting), key=lambda entry: entry[0])

    def _flag(self, case: Case) -> None:
        if case.began is not None:
            return
        self._leave(case)
        case.item = replace(case.item, is_flagged=True)
        self._arrive(case)

    def _leave(self, case: Case) -> None:
        del self.queue[bisect_left(self.queue, case.place, key=lambda entry: entry[0])]

    def _assign(self, now: float) -> None:
        on = [seat for seat in self.seats if seat.is_on(now)]
        if not self.queue or all(seat.case for seat in on):
            return
        snapshot = Snapshot(
            at=_moment(now),
            waiting=tuple(waiting for _, waiting in self.queue[:HEAD]),
            readers=tuple(seat.shown(now) for seat in on),
        )
        by_id = {seat.reader.id: seat for seat in on}
        for proposal in self.policy(snapshot):
            case = self.cases[int(proposal.item.removeprefix("item-"))]
            seat = by_id[proposal.reader]
            if seat.case is None and case.began is None:
                self._begin(now, seat, case)

    def _begin(self, now: float, seat: Seat, case: Case) -> None:
        self._leave(case)
        is_called = seat.begins is None and now > seat.stays_until
        case.began, case.reader, seat.case = now + (OVERFLOW_COMES if is_called else 0.0), seat.reader, case
        ends = round(case.began + case.seconds, 3)
        seat.stays_until = ends + OVERFLOW_STAYS
        self._at(ends, lambda now: self._end(now, seat, case))

    def _end(self, now: float, seat: Seat, case: Case) -> None:
        case.ended, seat.case = now, None


@dataclass(frozen=True, slots=True, kw_only=True)
class Figures:
    """What became of the studies: minutes and shares in percent."""

    stat_p95: float
    in_time: float
    stat_in_time: float
    urgent_in_time: float
    routine_in_time: float
    covered_p95: float
    critical_p95: float
    matched: float
    longest_hours: float
    overflow: float
    never_read: int
    violations: int


def figures(cases: Sequence[Case]) -> Figures:
    """What became of the studies; `covered` are the critical ones of kinds that an algorithm looks at."""
    critical = [case for case in cases if case.is_critical]
    read = [case for case in cases if case.reader is not None]

    def in_time(priority: Priority) -> float:
        return _percent([case.is_in_time for case in cases if case.item.priority == priority])

    return Figures(
        stat_p95=_p95([case.turnaround for case in cases if case.item.priority == "stat"]),
        in_time=_percent([case.is_in_time for case in cases]),
        stat_in_time=in_time("stat"),
        urgent_in_time=in_time("urgent"),
        routine_in_time=in_time("routine"),
        covered_p95=_p95([case.turnaround for case in critical if case.kind.has_algorithm]),
        critical_p95=_p95([case.turnaround for case in critical]),
        matched=_percent([case.kind.subspecialty in case.reader.subspecialties for case in read if case.reader]),
        longest_hours=max(case.turnaround for case in cases) / 60,
        overflow=_percent([bool(case.reader and case.reader.is_overflow) for case in cases]),
        never_read=sum(case.ended is None for case in cases),
        violations=sum(case.reader is not None and case.reader.id not in case.eligible for case in cases),
    )


def _p95(minutes: Sequence[float]) -> float:
    """The least value that 95 % of all do not exceed."""
    return sorted(minutes)[ceil(0.95 * len(minutes)) - 1]


def _percent(claims: Sequence[bool]) -> float:
    return 100 * sum(claims) / len(claims)
