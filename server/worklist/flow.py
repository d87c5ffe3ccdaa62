"""From a settled study to a reader, and from a duty to the person it is to reach: what follows from what, as jobs.

A study that has settled gets its work item; plugins are asked for priors and triage, each in a job of its own, so that
one that is slow, fails or never answers holds up neither the others nor the item. An answer is kept, looked at by the
gate, and may promote the item. Each job reads the state again before it acts, and writes what follows from it in the
transaction that ends it.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import timedelta
from typing import Any

import orjson
import sqlalchemy as sa

from readingroom.clock import Clock
from readingroom.errors import NotFound, ReadingRoomError, RetryLater
from readingroom.events import ItemChanged, SlaCrossed, StudyChanged, StudySettled
from readingroom.jsonio import dumps, from_json, to_json
from readingroom.model import Actor, Contact, Escalation, Rung, Sla, SlaMark, Study, WorkItem
from readingroom.results import Draft, Prior, Triage
from server.announce import announce, on_event
from server.hooks import Hooks
from server.queue import Job, Policy, Queue
from server.worklist import escalations, gate, items
from server.worklist.assigning import apply_proposals, take_snapshot, withdraw_offers
from server.worklist.directory import facility_of
from server.worklist.items import EVERYWHERE, THE_SERVER, Work
from server.worklist.sla import apply_sla, contract_of
from server.worklist.steps import end_imaged
from storage.catalog.answers import ask, keep_answer, miss, read_answers
from storage.catalog.directory import LatestDirectory
from storage.catalog.engine import begin_write
from storage.catalog.escalations import Attempt, StoredEscalation, find_escalation, keep_attempt, list_attempts
from storage.catalog.events import Event, read_event
from storage.catalog.orders import order_of
from storage.catalog.shown import is_prior, read_patient, read_study
from storage.catalog.work_items import StoredItem, item_by_id, reading_of

log = logging.getLogger(__name__)

TRIAGE_DEADLINE = timedelta(minutes=5)
"""After so long an item goes on without the answers that are missing, and its timeline says so."""
ANSWERED, MISSED = "TriageAnswered", "TriageMissed"

_SCHEDULES = ("created", "ready", "reprioritised")
"""What has been done with an item that may change when it is due."""
_ASKED = ("find_priors", "triage_study")
_SUMMARIZED, _DRAFTED = "summarize_priors", "draft_report"
OFFERED = "offered"
"""The note of a draft that whoever reads the study may be shown; any other says why not."""
_RULES = Policy(attempts=20, first=timedelta(seconds=2), most=timedelta(minutes=1))
_PLUGINS = Policy(attempts=5, first=timedelta(seconds=2), most=timedelta(minutes=1), within=timedelta(days=1))
_ONCE = Policy(attempts=1)
_NOTICES = Policy(attempts=50, first=timedelta(seconds=2), most=timedelta(minutes=5))
_FIRST, _SOON = 100, 50
"""Priorities of jobs: what a person waits for goes before what a plugin may take its time for."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Flow:
    """What follows from what happens; `register` gives its jobs to the queue.

    Attributes
    ----------
    is_research_mode
        Whether algorithms that are not cleared may promote items too; see `gate`.
    tried
        Told, in the transaction that keeps it, of each attempt to reach somebody.
    came
        Told, by facility and UID, of a study that has begun to come in, in the transaction that keeps it; and again
        when it settles.
    reconcile
        Gives a study that has settled with the accession number under which it is to be read.
    """

    engine: sa.Engine
    clock: Clock
    queue: Queue
    hooks: Hooks
    directory: LatestDirectory
    is_research_mode: bool = False
    tried: list[Callable[[Work, StoredEscalation], None]] = field(default_factory=list)
    came: list[Callable[[sa.Connection, str, str], None]] = field(default_factory=list)
    reconcile: list[Callable[[Work, Study], Study]] = field(default_factory=list)

    def register(self) -> None:
        """Have the queue run these; before the worker starts."""
        for type, reaction in (
            (StudySettled.__name__, self._settled),
            (StudyChanged.__name__, self._is_another),
            (ItemChanged.__name__, self._changed),
            (SlaCrossed.__name__, self._crossed),
        ):
            on_event(self.queue, type, _RULES)(reaction)
        for kind, handler, policy in (
            ("flow.schedule", self._schedule, _RULES),
            ("flow.ask", self._ask, _PLUGINS),
            ("flow.late", self._late, _RULES),
            ("flow.tell", self._tell, _PLUGINS),
            ("flow.study", self._tell_of_study, _PLUGINS),
            ("flow.assign", self._assign, _ONCE),
            ("flow.notify", self._notify, _NOTICES),
        ):
            self.queue.on(kind, policy)(handler)

    def stored(self, connection: sa.Connection, events: Sequence[Mapping[str, Any]]) -> None:
        """Take note of what came, was restored or was removed; plugins hear of a study that has begun to come in."""
        plugins = self.hooks.having("study_arrived")
        for sequence, event in zip(announce(connection, self.queue, events), events, strict=True):
            if event["type"] == "InstancesStored" and orjson.loads(event["payload"])["arrived"]:
                where = event["facility"], event["study_uid"]
                for follow in self.came:
                    follow(connection, *where)
                if plugins:
                    self._tell_all_of_study(connection, "study_arrived", *where, sequence)

    def climbed(self, connection: sa.Connection, row: StoredEscalation, rung: Rung) -> None:
        """A rung of an escalation is to be climbed; as `escalations.climb_due` wants it."""
        told = {"escalation": row.id, "rung": to_json(rung)}
        self.queue.enqueue(connection, "flow.notify", told, lane=f"escalation {row.id}", priority=_FIRST)

    def ladder(self, **about: Any) -> tuple[Rung, ...] | None:
        """Whom a plugin would have reached for an escalation of which this is known; None where none says so."""
        with self.engine.connect() as connection:
            facility = facility_of(connection, about["facility"])
        rungs: tuple[Rung, ...] | None = self.hooks.decide(
            "ladder_for", escalation=Escalation(id="", **about), facility=facility
        )
        return rungs

    def assign(self, connection: sa.Connection) -> None:
        """Have readers proposed; asked for several times before it is done, it is done once."""
        if self.hooks.having("assign"):
            self.queue.enqueue(connection, "flow.assign", {}, key="assign", priority=_SOON)

    def assign_now(self) -> None:
        """The same, for the clock has moved on and nothing else has."""
        if self.hooks.having("assign"):
            with begin_write(self.engine) as connection:
                self.assign(connection)

    # -- a study that comes in, or is another one now ---------------------------------------------------------------

    def _is_another(self, job: Job, event: Event) -> None:
        with job.finishing() as connection:
            self._tell_all_of_study(
                connection, "study_changed", event.facility or "", event.study_uid or "", event.sequence
            )

    def _tell_all_of_study(
        self, connection: sa.Connection, hook: str, facility: str, study_uid: str, sequence: int
    ) -> None:
        for plugin in self.hooks.having(hook):
            told = {"hook": hook, "plugin": plugin, "sequence": sequence}
            self.queue.enqueue(connection, "flow.study", told, lane=_lane(plugin, facility, study_uid))

    def _tell_of_study(self, job: Job) -> None:
        hook = job.payload["hook"]
        with self.engine.connect() as connection:
            event = read_event(connection, job.payload["sequence"])
            try:
                study = read_study(connection, event.facility or "", event.study_uid or "")
            except NotFound:
                return
            order = order_of(connection, study.facility, study.accession_number)
        told: dict[str, Any] = {"order": order}
        if hook == "study_changed":
            study = replace(study, revision=event.payload["revision"])
            told = {name: tuple(event.payload[name]) for name in ("added", "removed")}
        self.hooks.react(job.payload["plugin"], hook, delivery=job.delivery, attempt=job.attempt, study=study, **told)

    # -- a study that has settled ----------------------------------------------------------------------------------

    def _settled(self, job: Job, event: Event) -> None:
        told = {
            "facility": event.facility or "",
            "study_uid": event.study_uid or "",
            "revision": event.payload.get("revision", 1),
        }
        now = self.clock.now()
        with job.finishing() as connection:
            try:
                study = read_study(connection, told["facility"], told["study_uid"])
            except NotFound:
                return  # nothing is left of it, so there is nothing to read
            if is_prior(connection, study.facility, study.study_uid):
                return  # it was fetched to be compared with
            for follow in self.came:
                follow(connection, study.facility, study.study_uid)
            work = self._work(connection)
            for match in self.reconcile:
                study = match(work, study)
            items.item_for_study(work, study, order_of(connection, study.facility, study.accession_number))
            end_imaged(work, study)
            for hook in _ASKED:
                plugins = self.hooks.having(hook)
                ask(connection, hook=hook, plugins=plugins, at=now, **told)
                for plugin in plugins:
                    self._have_asked(connection, {**told, "hook": hook, "plugin": plugin})
            self._have_drafted(connection, told)
            self.queue.enqueue(connection, "flow.late", told, run_at=now + TRIAGE_DEADLINE)
            work.tell()

    def ask_priors(self, connection: sa.Connection, facility: str, study_uid: str) -> None:
        """Have plugins asked once more for the priors of a study: there are others now."""
        study = read_study(connection, facility, study_uid)
        told = {"facility": facility, "study_uid": study_uid, "revision": study.revision}
        for plugin in self.hooks.having("find_priors"):
            self._have_asked(connection, {**told, "hook": "find_priors", "plugin": plugin})

    def _have_asked(self, connection: sa.Connection, asked: Mapping[str, Any]) -> None:
        """Have a plugin asked: of one study it is asked one thing at a time, and what is still to be asked once."""
        lane = _lane(asked["plugin"], asked["facility"], asked["study_uid"])
        key = f"{asked['hook']} {lane} {asked['revision']}"
        self.queue.enqueue(connection, "flow.ask", asked, lane=lane, priority=_SOON, key=key)

    def _have_drafted(self, connection: sa.Connection, told: Mapping[str, Any]) -> None:
        """Have the report drafted once all have said what is to be seen in a study, or their time is over."""
        plugins = self.hooks.having(_DRAFTED)
        if not plugins:
            return
        about = {name: told[name] for name in ("facility", "study_uid", "revision")}
        kept = read_answers(connection, about["facility"], about["study_uid"])
        asked = [one for one in kept if one.revision == about["revision"]]
        if any(one.hook == "triage_study" and one.state == "asked" for one in asked):
            return
        ask(connection, hook=_DRAFTED, plugins=plugins, at=self.clock.now(), **about)
        # A draft that was offered stays: sentences of it may be in the report by now.
        drafted = {one.plugin for one in asked if one.hook == _DRAFTED and one.state == "answered"}
        for plugin in plugins:
            if plugin not in drafted:
                self._have_asked(connection, {**about, "hook": _DRAFTED, "plugin": plugin})

    def _draft(self, job: Job, study: Study, priors: tuple[Prior, ...]) -> None:
        """Keep what a plugin would write, to be offered or not as its algorithm may be used for this study."""
        plugin = job.payload["plugin"]
        with self.engine.connect() as connection:
            item = reading_of(connection, study.facility, study.study_uid)
            kept = read_answers(connection, study.facility, study.study_uid)
        if item is None:
            return
        if any(
            (one.hook, one.plugin, one.revision) == (_DRAFTED, plugin, study.revision) and one.answer for one in kept
        ):
            return
        found = [
            from_json(Triage, orjson.loads(one.answer)) for one in kept if one.hook == "triage_study" and one.answer
        ]
        findings = tuple(
            one
            for triage in found
            for one in triage.findings
            if self.is_research_mode or not gate.fault(one.algorithm, study)
        )
        draft: Draft | None = self.hooks.react(
            plugin,
            _DRAFTED,
            delivery=job.delivery,
            attempt=job.attempt,
            study=study,
            item=item.shown,
            findings=findings,
            priors=priors,
        )
        note = OFFERED
        if draft is not None and not self.is_research_mode:
            passages = [passage for section in draft.sections for passage in section.passages]
            algorithms = {passage.algorithm or draft.algorithm for passage in passages}
            note = "; ".join(sorted({gate.fault(one, study) for one in algorithms} - {""})) or OFFERED
        with job.finishing() as connection:
            self._keep(connection, job, draft, note="nothing to say" if draft is None else note)

    def _schedule(self, job: Job) -> None:
        """Give an item its due time: as a plugin says, else as the contract does."""
        with self.engine.connect() as connection:
            item = item_by_id(connection, job.payload["item"]).shown
            facility = facility_of(connection, item.facility)
            order = order_of(connection, item.facility, item.accession_number)
            sla = self.hooks.decide("sla_for", item=item, order=order, facility=facility)
            sla = sla or contract_of(connection, item)
        with job.finishing() as connection:
            found = item_by_id(connection, item.id, locked=True)
            if sla is None or found.state in ("completed", "cancelled"):
                return
            work = self._work(connection)
            apply_sla(work, found, sla)
            work.tell()

    def _ask(self, job: Job) -> None:
        told, hook, plugin = job.payload, job.payload["hook"], job.payload["plugin"]
        with self.engine.connect() as connection:
            try:
                study = replace(read_study(connection, told["facility"], told["study_uid"]), revision=told["revision"])
            except NotFound:
                return
            patient = read_patient(connection, study)
            priors = self._priors(connection, study)
            order = order_of(connection, study.facility, study.accession_number)
        if hook == "find_priors":
            answer = self.hooks.react(
                plugin, hook, delivery=job.delivery, attempt=job.attempt, study=study, patient=patient
            )
            known = {other.study_uid for other in patient.studies}
            # Of our own archive only what is this patient's: a plugin that errs must not show another person's images.
            answer = tuple(prior for prior in answer or () if prior.root is not None or prior.study_uid in known)
            with job.finishing() as connection:
                self._keep(connection, job, answer, note=f"{len(answer)} priors")
                for summarizer in self.hooks.having(_SUMMARIZED):
                    self._have_asked(connection, {**told, "hook": _SUMMARIZED, "plugin": summarizer})
            return
        if hook == _DRAFTED:
            self._draft(job, study, priors)
            return
        if hook == _SUMMARIZED:
            summary = self.hooks.react(
                plugin, hook, delivery=job.delivery, attempt=job.attempt, study=study, priors=priors
            )
            with job.finishing() as connection:
                self._keep(connection, job, summary, note="nothing to say" if summary is None else "")
            return
        answer = self.hooks.react(
            plugin, hook, delivery=job.delivery, attempt=job.attempt, study=study, order=order, priors=priors
        )
        with job.finishing() as connection:
            self._apply(connection, job, study, answer)
            self._have_drafted(connection, told)

    def _priors(self, connection: sa.Connection, study: Study) -> tuple[Prior, ...]:
        """What is known so far: of each study the best that a plugin said."""
        best: dict[str, Prior] = {}
        for kept in read_answers(connection, study.facility, study.study_uid, "find_priors"):
            for prior in from_json(tuple[Prior, ...], orjson.loads(kept.answer)) if kept.answer else ():
                if prior.study_uid not in best or prior.relevance > best[prior.study_uid].relevance:
                    best[prior.study_uid] = prior
        return tuple(sorted(best.values(), key=lambda prior: (-prior.relevance, prior.study_uid)))

    def _apply(self, connection: sa.Connection, job: Job, study: Study, triage: Triage | None) -> None:
        """Keep a triage, and promote the item as far as the gate lets it."""
        plugin = job.payload["plugin"]
        if triage is None:
            self._keep(connection, job, None, note="nothing to say")
            return
        decision = gate.decide(triage, study, is_research_mode=self.is_research_mode)
        actor = Actor(id=plugin, name=plugin, kind="plugin")
        work = self._work(connection, actor)
        item = reading_of(connection, study.facility, study.study_uid)
        is_promoted = False
        if item and decision.may_promote and item.state not in ("completed", "cancelled"):
            is_promoted = _promote(work, item, triage)
        because = decision.because if item else "there is no work item"
        self._keep(connection, job, triage, note=because)
        told = {"plugin": plugin, "revision": study.revision, "promoted": is_promoted, "because": because}
        work.note(ANSWERED, told, facility=study.facility, study_uid=study.study_uid, item=item.id if item else None)
        work.tell()

    def _keep(self, connection: sa.Connection, job: Job, answer: object, *, note: str) -> None:
        told = {name: job.payload[name] for name in ("facility", "study_uid", "revision", "hook", "plugin")}
        kept = b"" if answer is None else dumps(answer)
        keep_answer(connection, answer=kept, note=note, at=self.clock.now(), **told)

    def _late(self, job: Job) -> None:
        told = {name: job.payload[name] for name in ("facility", "study_uid", "revision")}
        with job.finishing() as connection:
            missed = [name for hook in _ASKED for name in miss(connection, hook=hook, note="no answer in time", **told)]
            self._have_drafted(connection, told)
            item = reading_of(connection, told["facility"], told["study_uid"]) if missed else None
            if item is None:
                return
            work = self._work(connection)
            work.note(MISSED, {"plugins": missed}, facility=item.facility, study_uid=told["study_uid"], item=item.id)
            work.tell()

    def _changed(self, job: Job, event: Event) -> None:
        """An item has gone from one state to another: plugins are told, and what has come to wait is proposed anew."""
        with job.finishing() as connection:
            try:
                item = item_by_id(connection, event.payload["item"])
            except NotFound:
                return
            was, after = event.payload["before"], event.payload["after"]
            shown = replace(item.shown, state=after)
            before = None if was is None else replace(shown, state=was)
            told = {"item": to_json(shown), "before": None if before is None else to_json(before)}
            self._tell_all(connection, "item_changed", told, lane=f"item {item.id}")
            # No contract says when a peer review is due.
            if event.payload["what"] in _SCHEDULES and item.kind in items.READINGS - {"peer"}:
                key = f"schedule {item.id}"
                self.queue.enqueue(connection, "flow.schedule", {"item": item.id}, key=key, priority=_FIRST)
            if after in ("ready", "completed", "cancelled"):
                self.assign(connection)

    def _crossed(self, job: Job, event: Event) -> None:
        """The clock of an item has passed a mark; when it is late, somebody has to know."""
        mark: SlaMark = event.payload["mark"]
        with self.engine.connect() as connection:
            item = item_by_id(connection, event.payload["item"])
        reason, category = f"The reading of item {item.workitem_uid} is late.", None
        if item.kind == "followup":
            reason, category = f"Follow-up {item.workitem_uid} was due, and nobody has closed it.", 3
        # A critical result that was not told in time has an escalation of its own, which climbs.
        is_late = mark == "breached" and item.kind != "critical" and item.state not in ("completed", "cancelled")
        ladder = None
        about: dict[str, Any] = {"item": item.id, "study_uid": item.study_uid, "category": category}
        if is_late:
            ladder = self.ladder(facility=item.facility, reason=reason, **about)
        with job.finishing() as connection:
            if item.due_at is not None:
                sla = Sla(due_at=item.due_at, warn_at=item.warn_at)
                told = {"item": to_json(item.shown), "sla": to_json(sla), "mark": mark}
                self._tell_all(connection, "sla_crossed", told, lane=f"item {item.id}")
            if is_late:
                work = self._work(connection)
                escalations.open_escalation(
                    work,
                    key=f"late {item.id} {item.due_at}",
                    facility=item.facility,
                    reason=reason,
                    ladder=ladder or _LATE_LADDER,
                    **about,
                )
                work.tell()
            self.assign(connection)

    def _tell_all(self, connection: sa.Connection, hook: str, told: Mapping[str, Any], *, lane: str) -> None:
        for plugin in self.hooks.having(hook):
            job = {"hook": hook, "plugin": plugin, "arguments": told}
            self.queue.enqueue(connection, "flow.tell", job, lane=f"{plugin} {lane}")

    def _tell(self, job: Job) -> None:
        hook, told = job.payload["hook"], job.payload["arguments"]
        arguments = {name: from_json(_TOLD[name], value) for name, value in told.items()}
        self.hooks.react(job.payload["plugin"], hook, delivery=job.delivery, attempt=job.attempt, **arguments)

    def _work(self, connection: sa.Connection, actor: Actor = THE_SERVER) -> Work:
        return Work(connection=connection, now=self.clock.now(), actor=actor, queue=self.queue)

    # -- who reads it ----------------------------------------------------------------------------------------------

    def _assign(self, job: Job) -> None:
        """Ask one plugin after the other whom to offer what; one that fails leaves the built-in order as it is."""
        withdraw_offers(self.engine, self.directory.read(), self.clock.now(), self.queue)
        for plugin in self.hooks.having("assign"):
            now, directory = self.clock.now(), self.directory.read()
            with self.engine.connect() as connection:
                queued = take_snapshot(connection, directory, now)
            if not queued.snapshot.waiting:
                return
            try:
                proposals = self.hooks.react(plugin, "assign", delivery=job.delivery, snapshot=queued.snapshot)
            except ReadingRoomError as error:
                log.warning("%s proposed nobody: %s", plugin, error.message)
                continue
            apply_proposals(self.engine, self.queue, now, queued, plugin, proposals or ())

    # -- escalations -----------------------------------------------------------------------------------------------

    def _notify(self, job: Job) -> None:
        """Reach a contact of a rung: one after the other, until a message was handed over; else climb on."""
        id, rung = job.payload["escalation"], from_json(Rung, job.payload["rung"])
        with self.engine.connect() as connection:
            row = find_escalation(connection, EVERYWHERE, id)
            contacts = [one for one in facility_of(connection, row.facility).contacts if one.role == rung.role]
            is_done = any(one.rung == rung.number and one.state == "notified" for one in list_attempts(connection, id))
        if row.state != "open" or is_done:
            return
        waits: list[RetryLater] = []
        for contact in contacts:
            attempt = self._reach(row, rung, contact, waits)
            with begin_write(self.engine) as connection:
                keep_attempt(connection, attempt)
                tried = find_escalation(connection, EVERYWHERE, id, locked=True)
                for tell in self.tried:
                    tell(self._work(connection), tried)
            if attempt.state == "notified":
                return
        soonest = min(waits, key=lambda one: one.after, default=None)
        # Up to the next rung it is waited as asked; beyond that somebody else is to be reached meanwhile.
        if soonest and row.due_at and self.clock.now() + soonest.after < row.due_at:
            raise soonest
        with job.finishing() as connection:
            work = self._work(connection)
            escalations.miss_rung(work, id, rung=rung.number, contacts=len(contacts))
            work.tell()

    def _reach(self, row: StoredEscalation, rung: Rung, contact: Contact, waits: list[RetryLater]) -> Attempt:
        where = hashlib.sha256(f"{contact.channel} {contact.address}".encode()).hexdigest()[:16]
        tried = Attempt(escalation=row.id, rung=rung.number, contact=contact, at=self.clock.now(), state="failed")
        error = f"no plugin carries the channel {contact.channel}"
        for plugin in self.hooks.having("notify_contact"):
            try:
                notified = self.hooks.react(
                    plugin,
                    "notify_contact",
                    delivery=f"{row.id}-{rung.number}-{where}",
                    escalation=row.shown(),
                    rung=rung,
                    contact=contact,
                )
            except ReadingRoomError as failure:
                log.warning("%s could not reach a contact of escalation %s: %s", plugin, row.id, failure.message)
                tried, error = replace(tried, plugin=plugin), failure.message
                if isinstance(failure, RetryLater):
                    waits.append(failure)
                continue
            if notified is not None:
                return replace(
                    tried, at=notified.at, state="notified", plugin=plugin, reference=notified.reference, error=""
                )
        return replace(tried, error=error)


_LATE_LADDER = (
    Rung(number=1, role="desk", after=timedelta(0)),
    Rung(number=2, role="supervisor", after=timedelta(minutes=15)),
)
_TOLD: Mapping[str, Any] = {"item": WorkItem, "before": WorkItem | None, "sla": Sla, "mark": SlaMark}


def _lane(plugin: str, facility: str, study_uid: str) -> str:
    """What a plugin is told and asked about one study, it is told and asked one at a time."""
    return f"{plugin} study {facility} {study_uid}"


def _promote(work: Work, item: StoredItem, triage: Triage) -> bool:
    """Flag an item, or raise its priority; False where it stays as it was."""
    if triage.is_flagged:
        texts = "; ".join(finding.text for finding in triage.findings)
        return items.flag_item(work, item, texts[:1000], triage.priority) is not item
    if triage.priority is not None:
        return items.raise_priority(work, item, triage.priority, triage.because[:1000]) is not item
    return False
