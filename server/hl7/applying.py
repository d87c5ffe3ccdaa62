"""What follows from a message: patients, merges, orders with their steps, and what is told of them in FHIR.

Messages of one facility are applied one after the other, in the order in which they came, each in a transaction of its
own together with what becomes of it in the inbox: a message that was applied is never applied twice, and one that fails
leaves nothing behind but the reason. It holds up none of the later ones.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from datetime import timedelta
from pathlib import Path
from typing import Any
from uuid import UUID, uuid5

import orjson
import sqlalchemy as sa

from readingroom.clock import Clock
from readingroom.errors import ReadingRoomError, Unavailable
from readingroom.model import Actor, Scope
from server.hl7.keeping import APPLY, enqueue_applying
from server.hl7.meaning import Appointment, Asked, Meaning, Person, Visit, meaning_of
from server.hl7.parsing import read_message
from server.hl7.profiles import Profile, load_profile
from server.queue import Job, Policy, Queue, reason_of
from server.senders import Senders
from server.settings import Hl7Sender
from server.worklist.items import Work, working
from server.worklist.orders import place_order
from server.worklist.patients import merge_patients, update_patient
from server.worklist.steps import cancel_step, schedule_step
from storage.catalog import schema as t
from storage.catalog.engine import is_outage
from storage.catalog.inbox import MessageState, StoredMessage, body_of_message, end_message, next_message
from storage.catalog.orders import OrderState, StoredOrder, lock_order
from storage.catalog.steps import StoredStep, steps_of
from storage.catalog.studies import ensure_facility
from storage.catalog.ups import element
from storage.dicomjson import MetadataJson

log = logging.getLogger(__name__)

CANCELLED = "The order was cancelled."
_POLICY = Policy(attempts=1_000_000, most=timedelta(seconds=30))
"""The messages that fail do so in the inbox; the job itself only ever waits for the catalog."""
_SECONDS = 5.0
_ORDERS = UUID("2f5c9f0e-0d0b-5a0e-9d53-6a2a0c6e6b57")
_PRIORITIES = {"stat": "STAT", "asap": "HIGH", "urgent": "HIGH", "routine": "ROUTINE"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Applied:
    """What a message has led to, for those who show it.

    `orders` are as they are now, each with what was asked of it last.
    """

    facility: str
    person: Person | None
    orders: tuple[tuple[StoredOrder, Asked], ...] = ()
    appointment: Appointment | None = None
    visit: Visit | None = None
    kind: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Applying:
    """Applies messages; `register` gives its job to the queue.

    Attributes
    ----------
    profiles
        Folder of an operator's profiles.
    published
        Told, in the transaction, of what each message has led to.
    """

    engine: sa.Engine
    clock: Clock
    queue: Queue
    senders: Senders
    profiles: Path | None = None
    published: list[Callable[[Work, Applied], None]] = field(default_factory=list)

    def register(self) -> None:
        """Have the queue run it; before the worker starts."""
        self.queue.on(APPLY, _POLICY)(self._apply_all)

    def _apply_all(self, job: Job) -> None:
        facility, until = job.payload["facility"], time.monotonic() + _SECONDS
        while time.monotonic() < until:
            with self.engine.connect() as connection:
                row = next_message(connection, facility)
            if row is None:
                return
            self.apply(row)
        with job.finishing() as connection:  # others wait for this thread too
            enqueue_applying(self.queue, connection, facility)

    def apply(self, row: StoredMessage) -> None:
        """Apply one message, or write down why it cannot be; raises only what says that the catalog does not answer."""
        about = ""
        try:
            sender = self.senders.named(row.sender)
            profile = load_profile(sender.profile if sender else "default", self.profiles)
            meaning = self._meaning(row, sender, profile)
            about = meaning.about
            actor = Actor(id=f"hl7:{row.sender}"[:200], name=row.sender, kind="sender", facility=row.facility)
            scope = Scope(facilities=frozenset((row.facility,)))
            with working(self.engine, self.clock, actor, scope, queue=self.queue) as work:
                why = meaning.ignored or self._follow(work, row, meaning)
                state: MessageState = "ignored" if why else "applied"
                read_by = f"{profile.name} {profile.edition}"
                if not end_message(work.connection, row.id, state, work.now, error=why, profile=read_by, about=about):
                    raise _Done
        except _Done:
            pass  # somebody else has been quicker; what was about to be written is not
        except Unavailable:
            raise
        except Exception as error:
            # The worker loop: this message fails, and the next one goes on.
            if is_outage(error):
                raise
            log.warning("message %d of %s fails: %s", row.id, row.sender, reason_of(error), exc_info=_unforeseen(error))
            with working(self.engine, self.clock, _US, Scope(), queue=self.queue) as work:
                end_message(work.connection, row.id, "failed", work.now, error=reason_of(error), about=about)

    def _meaning(self, row: StoredMessage, sender: Hl7Sender | None, profile: Profile) -> Meaning:
        with self.engine.connect() as connection:
            body = body_of_message(connection, row.id)
            zone = connection.execute(sa.select(t.facility.c.zone).where(t.facility.c.id == row.facility)).scalar()
        return meaning_of(
            read_message(body),
            profile,
            zone=zone or "UTC",
            issuers=sender.issuers if sender else None,
            takes_tests=bool(sender and sender.takes_tests),
        )

    def _follow(self, work: Work, row: StoredMessage, meaning: Meaning) -> str:
        """Do what a message says; returns why there was nothing to be done, empty where there was."""
        person, source = meaning.person, f"{row.kind} {row.control_id} of {row.sender}"
        ensure_facility(work.connection, row.facility)
        if person is not None:
            known: dict[str, Any] = {"facility": row.facility, "issuer": person.issuer, "source": source}
            update_patient(work, patient_id=person.id, who=person.who, **known)
            if meaning.merged_id:
                merge_patients(work, from_id=meaning.merged_id, into_id=person.id, **known)
        orders, unknown = self._orders(work, row.facility, meaning)
        if meaning.orders and not orders:
            return unknown
        if meaning.appointment is not None:
            _set_appointment(work, row.facility, meaning.appointment)
        applied = Applied(
            facility=row.facility,
            person=person,
            orders=orders,
            appointment=meaning.appointment,
            visit=meaning.visit,
            kind=meaning.kind,
        )
        for tell in self.published:
            tell(work, applied)
        return ""

    def _orders(self, work: Work, facility: str, meaning: Meaning) -> tuple[tuple[tuple[StoredOrder, Asked], ...], str]:
        """The orders of a message as they are now, and why there are none."""
        groups: dict[str, list[Asked]] = {}
        for asked in meaning.orders:
            if asked.control != "nothing":
                groups.setdefault(order_id(facility, asked), []).append(asked)
        done: list[tuple[StoredOrder, Asked]] = []
        why = "It only tells what has become of an order (ORC-1)."
        for id, group in groups.items():
            order = _set_order(work, facility, id, group, meaning)
            if order is None:
                why = "It cancels an order that is not known here."
            else:
                done.append((order, group[-1]))
        return tuple(done), why


class _Done(Exception):
    """The message has been applied already."""


_US = Actor(id="server", name="This server", kind="server")


def order_id(facility: str, asked: Asked) -> str:
    """The id of an order: by its placer's number, else by its accession number; the same each time."""
    named = f"placer|{asked.placer_space}|{asked.placer}" if asked.placer else f"accession|{asked.accession_number}"
    return uuid5(_ORDERS, f"{facility}|{named}").hex


def _set_order(work: Work, facility: str, id: str, group: list[Asked], meaning: Meaning) -> StoredOrder | None:
    """Have an order and its steps as a message says; None for the end of one that nobody knows."""
    before = lock_order(work.connection, facility, id)
    if before is None and all(_ends(asked) for asked in group):
        return None
    told, person = group[-1], meaning.person
    order = StoredOrder(
        facility=facility,
        id=id,
        accession_number=told.accession_number,
        priority=told.priority,
        procedure=told.procedure or None,
        reason=told.reason or None,
        ordered_at=told.ordered_at,
        patient_id=person.id if person else None,
        issuer=(person.issuer or None) if person else None,
    )
    if before is not None and all(asked.control != "place" for asked in group):
        # What only ends, holds or releases an order need not say again what it is.
        order = replace(before, state="active")
    for asked in group:
        if not _ends(asked) and (asked.control == "place" or before is None):
            schedule_step(work, _step(facility, id, asked, meaning))
    steps = steps_of(work.connection, facility, order=id)
    for asked in group:
        if _ends(asked):
            for step in [one for one in steps if one.id == asked.step_id] or (steps if len(group) == 1 else []):
                cancel_step(work, facility, step.id, CANCELLED)
    order = replace(order, state=_state(work, facility, order, group, before))
    place_order(work, order)
    return order


def _ends(asked: Asked) -> bool:
    return asked.control == "cancel" or (asked.control == "status" and asked.state == "revoked")


def _state(work: Work, facility: str, order: StoredOrder, group: list[Asked], before: StoredOrder | None) -> OrderState:
    """The state of an order: what was said last of it; revoked only when nothing of it is left."""
    was: OrderState = before.state if before else "active"
    if all(_ends(asked) for asked in group):
        left = [one for one in steps_of(work.connection, facility, order=order.id) if one.state != "cancelled"]
        return was if any(one.is_open for one in left) else "revoked"
    told = next(asked for asked in reversed(group) if not _ends(asked))
    if told.control == "hold":
        return "on-hold"
    if told.control == "status":
        return told.state or was
    if told.control == "place" and told.state == "on-hold":
        return "on-hold"
    return "active"


def _set_appointment(work: Work, facility: str, appointment: Appointment) -> None:
    """Move the steps of an accession number to another time, or take them off the worklist."""
    if not appointment.accession_number:
        return
    for step in steps_of(work.connection, facility, accession_number=appointment.accession_number):
        if appointment.status == "booked":
            if step.state in ("scheduled", "cancelled") and appointment.starts_on:
                on, at = appointment.starts_on, appointment.starts_at
                schedule_step(work, replace(step, state="scheduled", starts_on=on, starts_at=at))
        elif step.state == "scheduled":
            missed = "The patient did not come." if appointment.status == "noshow" else "The appointment was cancelled."
            cancel_step(work, facility, step.id, appointment.reason or missed)


def _step(facility: str, order: str, asked: Asked, meaning: Meaning) -> StoredStep:
    """A step with its item of the modality worklist (PS3.4 table K.6-1)."""
    person = meaning.person
    planned = _told(
        {
            "00400007": ("LO", asked.step_code[2] or asked.procedure),
            "00400008": ("SQ", _code(*asked.step_code)),
            "00400010": ("SH", asked.station_name),
        }
    )
    item = _told(
        {
            "00080090": ("PN", asked.referrer),
            "00321032": ("PN", asked.requester),
            "00321060": ("LO", asked.procedure),
            "00321064": ("SQ", _code(*asked.code)),
            "00380010": ("LO", meaning.visit.number if meaning.visit else ""),
            "00401002": ("LO", asked.reason),
            "00401003": ("SH", _PRIORITIES[asked.priority]),
            "00402016": ("LO", asked.placer),
            "00402017": ("LO", asked.filler),
        }
    )
    who = {tag: told for tag, told in person.who.items() if told.get("Value")} if person else {}
    header = {**item, **who, "00400100": element("SQ", planned)}
    return StoredStep(
        facility=facility,
        id=asked.step_id,
        order=order,
        accession_number=asked.accession_number,
        procedure_id=asked.procedure_id,
        study_uid=asked.study_uid,
        modality=asked.modality,
        station_ae=asked.station_ae,
        starts_on=asked.starts_on,
        starts_at=asked.starts_at,
        patient_id=person.id if person else "",
        issuer=person.issuer if person else "",
        header=orjson.dumps(header),
    )


def _told(values: Mapping[str, tuple[str, Any]]) -> MetadataJson:
    """Elements of those attributes that have a value, no longer than DICOM allows."""
    made: MetadataJson = {}
    for tag, (vr, value) in values.items():
        if not value:
            continue
        if vr == "PN":
            value = {"Alphabetic": value}
        elif isinstance(value, str):
            value = " ".join(value.replace("\\", " ").split())[: 16 if vr == "SH" else 64]
        made[tag] = element(vr, value)
    return made


def _code(code: str, scheme: str, meaning: str) -> MetadataJson | None:
    """An item of a code sequence (PS3.3 table 8.8-1); None where there is no code, or none that DICOM takes."""
    if not code or len(code) > 16 or len(scheme) > 16:
        return None
    return _told({"00080100": ("SH", code), "00080102": ("SH", scheme or "L"), "00080104": ("LO", meaning or code)})


def _unforeseen(error: BaseException) -> BaseException | None:
    return None if isinstance(error, ReadingRoomError) else error
