"""Which order a study is of: found when it settles and when an order comes; what is doubtful waits for a person.

A study is matched by its accession number, by the Study Instance UID that a step was given, or by patient, modality and
time. Whatever it is matched by, the patient must agree; an accession number of another patient links nothing. A link
that changes what the study says is a correction: the received values stay, and unlinking brings them back.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from datetime import datetime, timedelta
from typing import Any, Literal

import sqlalchemy as sa

from readingroom.clock import Clock
from readingroom.errors import Changed, Conflict, Invalid, NotFound, Unavailable
from readingroom.model import Actor, Scope, Study
from server.correcting import correct
from server.queue import Job, Policy, Queue
from server.settings import ReconcilingSettings
from server.worklist.items import (
    EVERYWHERE,
    THE_SERVER,
    Work,
    drop_item,
    follow_order,
    item_for_order,
    item_for_study,
    link_item,
    working,
)
from server.worklist.patients import CALLED, PATIENT_ID, Said, lead_reports, read_said, surviving
from server.worklist.reconsidering import RECONCILE
from storage.blobs import Blobs
from storage.catalog import schema as t
from storage.catalog.corrections import Target
from storage.catalog.merges import Known, issuer_at
from storage.catalog.normal import fold_name
from storage.catalog.orders import order_of, orders_for, write_order
from storage.catalog.reconciling import Match, find_match, forget_match, match_of, write_match
from storage.catalog.reports import StoredReport
from storage.catalog.shown import read_study
from storage.catalog.steps import StoredStep, open_steps_of_patient, steps_of, steps_of_study
from storage.catalog.work_items import item_by_id, ordered_reading, reading_of
from storage.overlay import Correction

ACCESSION_NUMBER = "00080050"
LINK = "reconcile.link"

Agreement = Literal["same", "other", "unknown"]
How = Literal["accession number", "study uid", "patient and time", "person"]

ANOTHERS_NUMBER = "An order for another patient has the study's accession number."
ANOTHERS_UID = "A step for another patient has the study's UID."
SEVERAL = "Several orders ask for this study."
NO_NUMBER = "The study has no accession number; the patient has an order that is open at that time."
UNKNOWN_NUMBER = "No order has the study's accession number; the patient has another that is open at that time."

_POLICY = Policy(attempts=20, first=timedelta(seconds=2), most=timedelta(minutes=5))
_OVER = ("completed", "cancelled")
_TRIES = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidate:
    """What was ordered under one accession number, and whether it is for the patient of the study."""

    accession_number: str
    agrees: Agreement
    patient_id: str = ""
    issuer: str = ""
    name: str = ""
    birth_date: str = ""
    sex: str = ""
    modality: str = ""
    starts: str = ""
    orders: tuple[str, ...] = ()
    steps: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Decision:
    """The accession number that a study is linked to, and by what; else why that is doubtful, and what it may be."""

    link: str = ""
    how: How = "accession number"
    reasons: tuple[str, ...] = ()
    candidates: tuple[Candidate, ...] = ()


def is_of_another(connection: sa.Connection, facility: str, study_uid: str, accession_number: str) -> bool:
    """Whether what was ordered under an accession number is for somebody else than a study is of."""
    try:
        study = read_study(connection, facility, study_uid)
    except NotFound:
        return False
    found = candidate_of(connection, study, accession_number)
    return found is not None and found.agrees == "other"


def candidate_of(connection: sa.Connection, study: Study, accession_number: str) -> Candidate | None:
    """What was ordered under an accession number at the facility of a study; None where nothing was."""
    orders = [one for one in orders_for(connection, study.facility, accession_number) if one.state != "revoked"]
    found = steps_of(connection, study.facility, accession_number=accession_number)
    steps = [one for one in found if one.state != "cancelled"]
    if not orders and not steps:
        return None
    whose = [_who(step) for step in steps]
    named = {one["patient_id"] for one in whose}  # a step tells more of its patient than its order does
    whose += [
        {"patient_id": one.patient_id or "", "issuer": one.issuer or ""}
        for one in orders
        if (one.patient_id or "") not in named
    ]
    agreements = [_agreement(connection, study, who) for who in whose]
    agrees: Agreement = "other" if "other" in agreements else "same" if "same" in agreements else "unknown"
    told = next((who for who in whose if who["patient_id"]), whose[0])
    first = steps[0] if steps else None
    return Candidate(
        accession_number=accession_number,
        agrees=agrees,
        modality=first.modality if first else "",
        starts=f"{first.starts_on} {first.starts_at[:4]}".strip() if first else "",
        orders=tuple(one.id for one in orders),
        steps=tuple(one.id for one in steps),
        **told,
    )


def decide(connection: sa.Connection, study: Study, settings: ReconcilingSettings) -> Decision:
    """Which order a study is of, as far as that is beyond doubt."""
    own = study.accession_number or ""
    reasons: list[str] = []
    found: dict[str, Candidate] = {}
    if own and (candidate := candidate_of(connection, study, own)) is not None:
        if candidate.agrees != "other":
            return Decision(link=own)
        reasons.append(ANOTHERS_NUMBER)
        found[own] = candidate
    named = {
        step.accession_number
        for step in steps_of_study(connection, study.facility, study.study_uid)
        if step.accession_number not in ("", own) and step.state != "cancelled"
    }
    for number in sorted(named):
        if (candidate := candidate_of(connection, study, number)) is not None:
            found[number] = candidate
    by_uid = [found[number] for number in sorted(named) if number in found]
    if len(by_uid) == 1 and by_uid[0].agrees != "other" and not reasons:
        return Decision(link=by_uid[0].accession_number, how="study uid")
    if any(one.agrees == "other" for one in by_uid):
        reasons.append(ANOTHERS_UID)
    elif len(by_uid) > 1:
        reasons.append(SEVERAL)
    near = _near(connection, study, settings, {own, *found})
    if near and not reasons:
        if not own and len(near) == 1 and settings.link_single:
            return Decision(link=near[0].accession_number, how="patient and time")
        reasons.append(UNKNOWN_NUMBER if own else NO_NUMBER)
    if not reasons:
        return Decision()
    return Decision(reasons=tuple(reasons), candidates=(*found.values(), *near))


def _near(connection: sa.Connection, study: Study, settings: ReconcilingSettings, known: set[str]) -> list[Candidate]:
    """What is open for the patient of a study at its time, of its modality, and has no images yet."""
    at, whose = _moment(study.study_date, study.study_time), _patient(connection, study)
    if at is None or whose is None:
        return []
    window = timedelta(hours=settings.window_hours)
    numbers: list[str] = []
    for step in open_steps_of_patient(connection, study.facility, whose.issuer, whose.patient_id):
        starts = _moment(step.starts_on, step.starts_at)
        if not step.accession_number or step.accession_number in (*known, *numbers) or starts is None:
            continue
        if abs(starts - at) > window or (step.modality and study.modalities and step.modality not in study.modalities):
            continue
        s = t.study.c
        here = sa.select(s.id).where(
            s.owner_facility == study.facility, s.accession_number == step.accession_number, s.instance_count > 0
        )
        if connection.execute(here.limit(1)).first() is None:
            numbers.append(step.accession_number)
    made = (candidate_of(connection, study, number) for number in numbers)
    return [one for one in made if one is not None and one.agrees == "same"]


def _agreement(connection: sa.Connection, study: Study, who: Mapping[str, str]) -> Agreement:
    """Whether a study and an order are of one patient: by Patient ID, or by name and birth date."""
    names = fold_name(study.patient_name or ""), fold_name(who.get("name", ""))
    days = study.birth_date or "", who.get("birth_date", "")
    both_named = all(names) and all(days)
    is_named_so = both_named and names[0] == names[1] and days[0] == days[1]
    mine = _patient(connection, study)
    if mine is None or not who["patient_id"]:
        return "same" if is_named_so else "other" if both_named else "unknown"
    issuer = who["issuer"] or issuer_at(connection, study.facility)
    other = surviving(connection, Known(facility=study.facility, issuer=issuer, patient_id=who["patient_id"]))
    return "same" if mine == other or is_named_so else "other"


def _patient(connection: sa.Connection, study: Study) -> Known | None:
    if not study.patient_id:
        return None
    issuer = study.issuer or issuer_at(connection, study.facility)
    return surviving(connection, Known(facility=study.facility, issuer=issuer, patient_id=study.patient_id))


def _who(step: StoredStep) -> dict[str, str]:
    """Whom a step is for."""
    item = step.item

    def first(tag: str) -> str:
        values = item.get(tag, {}).get("Value") or [""]
        value = values[0]
        return str(value.get("Alphabetic", "") if isinstance(value, dict) else value or "")

    name, birth_date, sex = (first(tag) for tag in CALLED)
    return {
        "patient_id": step.patient_id,
        "issuer": step.issuer,
        "name": name,
        "birth_date": birth_date,
        "sex": sex,
    }


def _moment(day: str | None, time: str | None) -> datetime | None:
    """A day and a time by the clock of the facility; noon where nobody has said the time."""
    text = f"{day or ''}{(time or '1200').replace(':', '')[:4]:0<4}"
    try:
        return datetime.strptime(text, "%Y%m%d%H%M")
    except ValueError:
        return None


@dataclass(frozen=True, slots=True, kw_only=True)
class Reconciling:
    """The matching of this installation; `register` gives its jobs to the queue."""

    engine: sa.Engine
    blobs: Blobs
    clock: Clock
    queue: Queue
    settings: ReconcilingSettings
    published: Sequence[Callable[[Work, StoredReport], None]] = field(default_factory=list)

    def register(self) -> None:
        """Have the queue run these; before the worker starts."""
        self.queue.on(RECONCILE, _POLICY)(self._again)
        self.queue.on(LINK, _POLICY)(self._link_found)

    def settle(self, work: Work, study: Study) -> Study:
        """A study that has settled with the accession number under which it is to be read; see `Flow.reconcile`.

        A match that is beyond doubt is linked; a doubtful one is kept for a person, and links nothing.
        """
        held = match_of(work.connection, study.facility, study.study_uid)
        if held is not None and held.state == "linked":
            return replace(study, accession_number=held.accession_number)
        found = decide(work.connection, study, self.settings)
        if found.link:
            if found.how == "accession number":
                if held is not None and held.state == "doubtful":
                    forget_match(work.connection, held)
                return study
            if held is not None and held.state == "dismissed":
                return study  # a person has said that it is none of these
            linked = _match(work, study, held, state="linked", accession_number=found.link, how=found.how)
            write_match(work.connection, linked)
            self.queue.enqueue(work.connection, LINK, {"match": linked.id}, lane=f"reconcile {linked.study_uid}")
            return replace(study, accession_number=found.link)
        if found.reasons:
            doubtful = _match(
                work,
                study,
                held,
                state="doubtful",
                reasons=found.reasons,
                candidates=[asdict(one) for one in found.candidates],
            )
            if held is None or held.state == "doubtful" or _numbers(held) != _numbers(doubtful):
                write_match(work.connection, doubtful)
            if ANOTHERS_NUMBER in found.reasons:
                return replace(study, accession_number=None)
        elif held is not None and held.state == "doubtful":
            forget_match(work.connection, held)
        return study

    def _again(self, job: Job) -> None:
        """Match a study that has settled before: an order has come."""
        with job.finishing() as connection:
            work = Work(connection=connection, now=self.clock.now(), actor=THE_SERVER, queue=self.queue)
            try:
                study = read_study(connection, job.payload["facility"], job.payload["study_uid"])
            except NotFound:
                return
            matched = self.settle(work, study)
            item = reading_of(connection, study.facility, study.study_uid)
            if item is None:
                item_for_study(work, matched, order_of(connection, study.facility, matched.accession_number))
            elif item.state not in _OVER and item.accession_number != matched.accession_number:
                _absorb(work, study.facility, study.study_uid, matched.accession_number)
            work.tell()

    def _link_found(self, job: Job) -> None:
        """Have a study say the accession number that it was matched to."""
        with self.engine.connect() as connection:
            match = find_match(connection, EVERYWHERE, job.payload["match"])
        if match.state == "linked" and match.moved is None:
            self._link(match, match.accession_number, THE_SERVER, f"Matched by {match.how}")

    # -- what a person says ------------------------------------------------------------------------------------------

    def link(self, actor: Actor, scope: Scope, id: str, *, accession_number: str, patient: bool, reason: str) -> Match:
        """Link a study to what was ordered under an accession number; its item is the reading of that from now on.

        Parameters
        ----------
        patient
            Whether the study is to be corrected to the patient of the order too.

        Raises
        ------
        Invalid
            Nothing was ordered under that number, or there is no reason.
        Conflict
            It is linked already; or the order is for another patient, and `patient` is not given.
        """
        _require(reason)
        with self.engine.connect() as connection:
            match = find_match(connection, scope, id)
        if match.state == "linked":
            raise Conflict(f"The study of match {match.id} is linked already; unlink it first.")
        return self._link(match, accession_number.strip(), actor, reason, with_patient=patient)

    def dismiss(self, work: Work, id: str, reason: str) -> Match:
        """Say that a study is of none of its candidates; it comes back where others come into question."""
        _require(reason)
        match = find_match(work.connection, work.scope, id, locked=True)
        if match.state != "doubtful":
            raise Conflict(f"Match {match.id} is {match.state}, not doubtful.")
        dismissed = replace(match, state="dismissed", actor=work.actor.id, note=reason.strip(), changed_at=work.now)
        write_match(work.connection, dismissed)
        return dismissed

    def unlink(self, actor: Actor, scope: Scope, id: str, reason: str) -> Match:
        """Take a link back: the study says again what it said, and the order waits for its images."""
        _require(reason)
        with self.engine.connect() as connection:
            match = find_match(connection, scope, id)
        if match.state != "linked":
            raise Conflict(f"Match {match.id} is {match.state}, not linked.")
        moved = match.moved or {"to": {}, "was": {}, "drop": []}

        def wanted(said: Said) -> tuple[dict[str, Any], frozenset[str]]:
            mine = {tag for tag, element in moved["to"].items() if said.layer.get(tag) == element}
            was = {tag: element for tag, element in moved["was"].items() if tag in mine}
            return was, frozenset(mine & set(moved["drop"]))

        def finish(work: Work) -> None:
            held = find_match(work.connection, EVERYWHERE, match.id, locked=True)
            write_match(
                work.connection,
                replace(held, state="dismissed", actor=actor.id, note=reason.strip(), moved=None, changed_at=work.now),
            )
            _release(work, match)
            lead_reports(work, match.facility, match.study_uid, self.published)

        self._correct(match, actor, reason, wanted, finish)
        with self.engine.connect() as connection:
            return find_match(connection, scope, id)

    def _link(
        self, match: Match, accession_number: str, actor: Actor, reason: str, *, with_patient: bool = False
    ) -> Match:
        with self.engine.connect() as connection:
            study = read_study(connection, match.facility, match.study_uid)
            candidate = candidate_of(connection, study, accession_number) if accession_number else None
        if candidate is None:
            raise Invalid("Nothing was ordered under that accession number at the facility of the study.")
        if candidate.agrees == "other" and not with_patient:
            raise Conflict("That order is for another patient: have the patient corrected too, or dismiss the match.")
        moved: dict[str, Any] = {}

        def wanted(said: Said) -> tuple[dict[str, Any], frozenset[str]]:
            to = {ACCESSION_NUMBER: {"vr": "SH", "Value": [accession_number]}}
            if with_patient:
                to |= _patient_elements(candidate)
            change = {tag: element for tag, element in to.items() if said.header.get(tag) != element}
            moved.clear()
            moved.update(
                to=change,
                was={tag: said.layer[tag] for tag in change if tag in said.layer},
                drop=[tag for tag in change if tag not in said.layer],
            )
            return change, frozenset()

        def finish(work: Work) -> None:
            held = find_match(work.connection, EVERYWHERE, match.id, locked=True)
            if held.state == "linked" and held.moved is not None:
                raise Conflict(f"The study of match {match.id} was linked by somebody else at this moment.")
            linked = replace(
                held,
                state="linked",
                accession_number=accession_number,
                how="person" if actor.id != THE_SERVER.id else held.how,
                actor=actor.id,
                note=reason.strip(),
                moved=moved,
                changed_at=work.now,
            )
            write_match(work.connection, linked)
            _absorb(work, match.facility, match.study_uid, accession_number)
            lead_reports(work, match.facility, match.study_uid, self.published)

        self._correct(match, actor, reason, wanted, finish)
        with self.engine.connect() as connection:
            return find_match(connection, EVERYWHERE, match.id)

    def _correct(
        self,
        match: Match,
        actor: Actor,
        reason: str,
        wanted: Callable[[Said], tuple[dict[str, Any], frozenset[str]]],
        finish: Callable[[Work], None],
    ) -> None:
        """Correct a study, and finish in the same transaction; in one of its own where nothing is to be corrected."""

        def along(connection: sa.Connection, correction: Correction) -> None:
            work = Work(connection=connection, now=correction.at, actor=actor, queue=self.queue)
            finish(work)
            work.tell()

        for _ in range(_TRIES):
            with self.engine.connect() as connection:
                said = read_said(connection, match.facility, match.study_uid)
            if said is None:
                raise NotFound(f"There is no study {match.study_uid}.")
            change, drop = wanted(said)
            if not change and not drop:
                with working(self.engine, self.clock, actor, EVERYWHERE, queue=self.queue) as work:
                    finish(work)
                return
            try:
                correct(
                    self.engine,
                    self.blobs,
                    self.clock,
                    Scope(facilities=frozenset((match.facility,))),
                    Target(study_uid=match.study_uid),
                    change,
                    actor=actor.id,
                    reason=" ".join(reason.split())[:500],
                    held=said.tag,
                    drop=drop,
                    along=along,
                )
            except Changed:
                continue
            return
        raise Unavailable(f"Study {match.study_uid} is being corrected again and again; try later.", retry_after=5)


def _absorb(work: Work, facility: str, study_uid: str, accession_number: str | None) -> None:
    """Let the reading of a study be that of an order: the item that waited for its images is no longer needed."""
    item = reading_of(work.connection, facility, study_uid)
    if item is None:
        return
    if not accession_number:
        link_item(work, item, None)
        return
    waiting = ordered_reading(work.connection, facility, accession_number)
    if item.state not in _OVER:
        item = link_item(work, item, accession_number)
        order = order_of(work.connection, facility, accession_number)
        if order is not None:
            item = follow_order(work, item, order)
    if waiting is None or waiting.id == item.id or waiting.study_uid is not None or waiting.state in _OVER:
        return
    drop_item(work, waiting, f"Its images are read as work item {item.workitem_uid}.")
    for order_row in orders_for(work.connection, facility, accession_number):
        write_order(work.connection, replace(order_row, item=item.id), work.now)


def _release(work: Work, match: Match) -> None:
    """Let the reading of a study be its own again, and what was ordered have one that waits."""
    item = reading_of(work.connection, match.facility, match.study_uid)
    number = match.accession_number
    if item is not None and item.accession_number == number and item.state not in _OVER:
        link_item(work, item_by_id(work.connection, item.id, locked=True), None)
    order = order_of(work.connection, match.facility, number)
    left = ordered_reading(work.connection, match.facility, number)
    if order is None or (left is not None and left.state not in _OVER):
        return
    waits = item_for_order(work, order)
    for one in orders_for(work.connection, match.facility, number):
        write_order(work.connection, replace(one, item=waits.id), work.now)


def _patient_elements(candidate: Candidate) -> dict[str, Any]:
    """Whom an order is for, as elements; what it does not tell stays as it is."""
    told: dict[str, Any] = {}
    if candidate.patient_id:
        told[PATIENT_ID] = {"vr": "LO", "Value": [candidate.patient_id]}
    if candidate.name:
        told["00100010"] = {"vr": "PN", "Value": [{"Alphabetic": candidate.name}]}
    if candidate.birth_date:
        told["00100030"] = {"vr": "DA", "Value": [candidate.birth_date]}
    if candidate.sex:
        told["00100040"] = {"vr": "CS", "Value": [candidate.sex]}
    return told


def _match(work: Work, study: Study, held: Match | None, **columns: Any) -> Match:
    return Match(
        id=held.id if held else t.new_id(),
        facility=study.facility,
        study_uid=study.study_uid,
        made_at=held.made_at if held else work.now,
        changed_at=work.now,
        actor=work.actor.id,
        **columns,
    )


def _numbers(match: Match) -> set[str]:
    return {str(one["accession_number"]) for one in match.candidates}


def _require(reason: str) -> None:
    if not reason.strip() or len(reason) > 500 or not reason.isprintable():
        raise Invalid("Say why, in one line of at most 500 characters.")
