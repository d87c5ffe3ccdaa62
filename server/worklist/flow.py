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
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import Any, Protocol

import orjson
import sqlalchemy as sa

from readingroom.clock import Clock
from readingroom.errors import NotFound, ReadingRoomError
from readingroom.jsonio import dumps, from_json, to_json
from readingroom.model import Actor, Contact, Rung, Sla, SlaMark, Study, WorkItem
from readingroom.results import Prior, Triage
from server.queue import Job, Policy, Queue
from server.worklist import escalations, gate, items
from server.worklist.directory import facility_of
from server.worklist.items import EVERYWHERE, THE_SERVER, Work
from storage.catalog.answers import ask, keep_answer, miss, read_answers
from storage.catalog.engine import begin_write
from storage.catalog.escalations import Attempt, StoredEscalation, find_escalation, keep_attempt, list_attempts
from storage.catalog.shown import read_patient, read_study
from storage.catalog.work_items import StoredItem, item_by_id, reading_of

log = logging.getLogger(__name__)

TRIAGE_DEADLINE = timedelta(minutes=5)
"""After so long an item goes on without the answers that are missing, and its timeline says so."""
ANSWERED, MISSED = "TriageAnswered", "TriageMissed"

_ASKED = ("find_priors", "triage_study")
_PLUGINS = Policy(attempts=5, first=timedelta(seconds=2), most=timedelta(minutes=1))
_NOTICES = Policy(attempts=50, first=timedelta(seconds=2), most=timedelta(minutes=5))
_FIRST, _SOON = 100, 50
"""Priorities of jobs: what a person waits for goes before what a plugin may take its time for."""


class Hooks(Protocol):
    """What is needed of the plugin host."""

    def having(self, hook: str) -> Sequence[str]:
        """Names of the plugins that implement a hook, in their order."""

    def decide(self, hook: str, **arguments: Any) -> Any:
        """What the plugins decide, here and now; None where they say nothing."""

    def react(self, plugin: str, hook: str, *, delivery: str, **arguments: Any) -> Any:
        """What one plugin answers, in its own process; raises `PluginFailed`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Flow:
    """What follows from what happens; `register` gives its jobs to the queue.

    Attributes
    ----------
    contract_of
        What the contract of its facility says of an item.
    is_research_mode
        Whether algorithms that are not cleared may promote items too; see `gate`.
    """

    engine: sa.Engine
    clock: Clock
    queue: Queue
    hooks: Hooks
    contract_of: Callable[[sa.Connection, WorkItem], Sla | None]
    is_research_mode: bool = False

    def register(self) -> None:
        """Have the queue run these; before the worker starts."""
        for kind, handler, policy in (
            ("flow.settled", self._settled, _PLUGINS),
            ("flow.schedule", self._schedule, _PLUGINS),
            ("flow.ask", self._ask, _PLUGINS),
            ("flow.late", self._late, _PLUGINS),
            ("flow.tell", self._tell, _PLUGINS),
            ("flow.notify", self._notify, _NOTICES),
        ):
            self.queue.on(kind, policy)(handler)

    # -- what sets it going: each in the transaction of what has happened -------------------------------------------

    def study_settled(self, connection: sa.Connection, facility: str, study_uid: str, revision: int) -> None:
        """A study has been quiet for its period."""
        told = {"facility": facility, "study_uid": study_uid, "revision": revision}
        self.queue.enqueue(connection, "flow.settled", told, lane=f"study {facility} {study_uid}", priority=_FIRST)

    def item_changed(self, connection: sa.Connection, item: WorkItem, before: WorkItem | None) -> None:
        """An item has gone from one state to another."""
        told = {"item": to_json(item), "before": None if before is None else to_json(before)}
        self._tell_all(connection, "item_changed", told, lane=f"item {item.id}")

    def sla_crossed(self, connection: sa.Connection, item: StoredItem, sla: Sla, mark: SlaMark) -> None:
        """The clock of an item has passed a mark."""
        told = {"item": to_json(item.shown), "sla": to_json(sla), "mark": mark}
        self._tell_all(connection, "sla_crossed", told, lane=f"item {item.id}")

    def climbed(self, connection: sa.Connection, row: StoredEscalation, rung: Rung) -> None:
        """A rung of an escalation is to be climbed; as `escalations.climb_due` wants it."""
        told = {"escalation": row.id, "rung": to_json(rung)}
        self.queue.enqueue(connection, "flow.notify", told, lane=f"escalation {row.id}", priority=_FIRST)

    def _tell_all(self, connection: sa.Connection, hook: str, told: Mapping[str, Any], *, lane: str) -> None:
        for plugin in self.hooks.having(hook):
            job = {"hook": hook, "plugin": plugin, "arguments": told}
            self.queue.enqueue(connection, "flow.tell", job, lane=f"{plugin} {lane}")

    # -- a study that has settled ----------------------------------------------------------------------------------

    def _settled(self, job: Job) -> None:
        told = {name: job.payload[name] for name in ("facility", "study_uid", "revision")}
        now = self.clock.now()
        with job.finishing() as connection:
            try:
                study = read_study(connection, told["facility"], told["study_uid"])
            except NotFound:
                return  # nothing is left of it, so there is nothing to read
            work = Work(connection=connection, now=now, actor=THE_SERVER)
            item = items.item_for_study(work, study)
            if item.due_at is None:
                self.queue.enqueue(connection, "flow.schedule", {"item": item.id}, priority=_FIRST)
            for hook in _ASKED:
                plugins = self.hooks.having(hook)
                ask(connection, hook=hook, plugins=plugins, at=now, **told)
                for plugin in plugins:
                    lane = f"{plugin} study {study.facility} {study.study_uid}"
                    asked = {**told, "hook": hook, "plugin": plugin}
                    self.queue.enqueue(connection, "flow.ask", asked, lane=lane, priority=_SOON)
            self.queue.enqueue(connection, "flow.late", told, run_at=now + TRIAGE_DEADLINE)
            work.tell()

    def _schedule(self, job: Job) -> None:
        """Give an item its due time: as a plugin says, else as the contract does."""
        with self.engine.connect() as connection:
            item = item_by_id(connection, job.payload["item"]).shown
            facility = facility_of(connection, item.facility)
            sla = self.hooks.decide("sla_for", item=item, order=None, facility=facility)
            sla = sla or self.contract_of(connection, item)
        with job.finishing() as connection:
            found = item_by_id(connection, item.id, locked=True)
            if sla is None or found.state in ("completed", "cancelled"):
                return
            work = Work(connection=connection, now=self.clock.now(), actor=THE_SERVER)
            items.schedule_item(work, found, due_at=sla.due_at, warn_at=sla.warn_at)
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
        if hook == "find_priors":
            answer = self.hooks.react(plugin, hook, delivery=job.delivery, study=study, patient=patient)
            known = {other.study_uid for other in patient.studies}
            # Of our own archive only what is this patient's: a plugin that errs must not show another person's images.
            answer = tuple(prior for prior in answer or () if prior.root is not None or prior.study_uid in known)
            with job.finishing() as connection:
                self._keep(connection, job, answer, note=f"{len(answer)} priors")
            return
        answer = self.hooks.react(plugin, hook, delivery=job.delivery, study=study, order=None, priors=priors)
        with job.finishing() as connection:
            self._apply(connection, job, study, answer)

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
        work = Work(connection=connection, now=self.clock.now(), actor=actor)
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
            item = reading_of(connection, told["facility"], told["study_uid"]) if missed else None
            if item is None:
                return
            work = Work(connection=connection, now=self.clock.now(), actor=THE_SERVER)
            work.note(MISSED, {"plugins": missed}, facility=item.facility, study_uid=told["study_uid"], item=item.id)
            work.tell()

    def _tell(self, job: Job) -> None:
        hook, told = job.payload["hook"], job.payload["arguments"]
        arguments = {name: from_json(_TOLD[name], value) for name, value in told.items()}
        self.hooks.react(job.payload["plugin"], hook, delivery=job.delivery, **arguments)

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
        for contact in contacts:
            attempt = self._reach(row, rung, contact)
            with begin_write(self.engine) as connection:
                keep_attempt(connection, attempt)
            if attempt.state == "notified":
                return
        with job.finishing() as connection:
            work = Work(connection=connection, now=self.clock.now(), actor=THE_SERVER)
            escalations.miss_rung(work, id, rung=rung.number, contacts=len(contacts))
            work.tell()

    def _reach(self, row: StoredEscalation, rung: Rung, contact: Contact) -> Attempt:
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
                continue
            if notified is not None:
                return replace(
                    tried, at=notified.at, state="notified", plugin=plugin, reference=notified.reference, error=""
                )
        return replace(tried, error=error)


_TOLD: Mapping[str, Any] = {"item": WorkItem, "before": WorkItem | None, "sla": Sla, "mark": SlaMark}


def _promote(work: Work, item: StoredItem, triage: Triage) -> bool:
    """Flag an item, or raise its priority; False where it stays as it was."""
    if triage.is_flagged:
        texts = "; ".join(finding.text for finding in triage.findings)
        return items.flag_item(work, item, texts[:1000], triage.priority) is not item
    if triage.priority is not None:
        return items.raise_priority(work, item, triage.priority, triage.because[:1000]) is not item
    return False
