"""Earlier studies of a patient come from other archives, so that whoever reads has them at hand.

When a study has settled, the archives that have patients of its facility are asked for theirs. What they have and this
one not is shown to plugins (`find_priors`), whose answers say what is wanted; that is fetched, the most relevant first.
Each object is looked at before it is kept: never another patient. What was fetched is nobody's work: it makes no item,
and goes on to nobody.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import Any

import sqlalchemy as sa

from readingroom.clock import Clock
from readingroom.errors import GiveUp, NotFound, NotThisStudy, Refused, TooLarge, Unreachable
from readingroom.events import StudySettled
from readingroom.model import Patient, Study
from readingroom.results import Prior
from server.announce import on_event
from server.hooks import Hooks
from server.ingest import Ingest
from server.queue import Job, Policy, Queue
from server.remote_archives import RemoteArchive, candidate, is_same_patient, text_of
from server.settings import ArchiveSettings
from storage.catalog.events import Event
from storage.catalog.shown import is_prior, read_patient, read_study
from storage.catalog.studies import PRIOR_SOURCE, find_current
from storage.objects import scan

log = logging.getLogger(__name__)

_RULES = Policy(attempts=20, first=timedelta(seconds=2), most=timedelta(minutes=1))
_ASKS = Policy(attempts=8, first=timedelta(seconds=5), most=timedelta(minutes=10), within=timedelta(days=1))
_LAST = -50
"""Priority of the jobs: what is new is read first."""
_YEAR = timedelta(days=365.25)
_STUDY_UID = "0020000D"


@dataclass(frozen=True, slots=True, kw_only=True)
class Priors:
    """Fetches earlier studies; `register` gives its jobs to the queue.

    Attributes
    ----------
    archives
        Those of the settings, by name.
    remote
        Gives the archive of a name; None where it cannot be asked.
    came
        Told, in the transaction that ends a fetch, of the study that it was for.
    """

    engine: sa.Engine
    clock: Clock
    queue: Queue
    hooks: Hooks
    ingest: Ingest
    archives: Mapping[str, ArchiveSettings]
    remote: Callable[[str], RemoteArchive | None]
    came: Callable[[sa.Connection, str, str], None]

    def register(self) -> None:
        """Have the queue run these; before the worker starts."""
        self.queue.on("priors.find", _ASKS)(self._find)
        self.queue.on("priors.fetch", _ASKS)(self._fetch)
        if any(archive.facilities for archive in self.archives.values()):
            on_event(self.queue, StudySettled.__name__, _RULES, by="priors")(self._settled)

    def _settled(self, job: Job, event: Event) -> None:
        with job.finishing() as connection:
            facility, study_uid = event.facility or "", event.study_uid or ""
            try:
                study = read_study(connection, facility, study_uid)
            except NotFound:
                return
            if is_prior(connection, facility, study_uid) or not self.hooks.having("find_priors"):
                return
            for name, archive in self.archives.items():
                if facility in archive.facilities:
                    told = {"archive": name, "facility": facility, "study_uid": study_uid}
                    self._enqueue(connection, "priors.find", study, told)

    def _enqueue(self, connection: sa.Connection, kind: str, study: Study, told: Mapping[str, Any]) -> None:
        """One at a time of each patient and archive."""
        lane = f"priors {told['archive']} {study.patient}"
        key = " ".join((kind, *map(str, told.values())))
        self.queue.enqueue(connection, kind, told, lane=lane, key=key, priority=_LAST)

    def _find(self, job: Job) -> None:
        """Ask an archive what it has, and plugins what of it is wanted."""
        name, archive, remote = self._asked(job)
        with self.engine.connect() as connection:
            try:
                study = read_study(connection, job.payload["facility"], job.payload["study_uid"])
            except NotFound:
                return
            patient = read_patient(connection, study)
        told = (one for one in remote.find(study) if is_same_patient(study, one, issuer=archive.issuer))
        oldest = f"{self.clock.now() - archive.years * _YEAR:%Y%m%d}"
        here = {one.study_uid for one in patient.studies}
        elsewhere = {
            one.study_uid: one
            for one in (candidate(study, header) for header in told)
            if one is not None and one.study_uid not in here and (one.study_date or oldest) >= oldest
        }
        if not elsewhere:
            return
        wanted = self._wanted(job, study, replace(patient, elsewhere=tuple(elsewhere.values())))
        best = sorted(
            (prior for prior in wanted.values() if prior.study_uid in elsewhere),
            key=lambda prior: (-prior.relevance, prior.study_uid),
        )
        best = best[: archive.most]
        with job.finishing() as connection:
            for prior in best:
                self._enqueue(connection, "priors.fetch", study, {**job.payload, "prior": prior.study_uid})
        log.info("archive %s has %d further studies of a patient; %d are fetched", name, len(elsewhere), len(best))

    def _wanted(self, job: Job, study: Study, patient: Patient) -> dict[str, Prior]:
        """By study what a plugin thinks most of it."""
        wanted: dict[str, Prior] = {}
        for plugin in self.hooks.having("find_priors"):
            told = {"study": study, "patient": patient}
            answer = self.hooks.react(plugin, "find_priors", delivery=job.delivery, attempt=job.attempt, **told)
            for prior in answer or ():
                if prior.study_uid not in wanted or prior.relevance > wanted[prior.study_uid].relevance:
                    wanted[prior.study_uid] = prior
        return wanted

    def _fetch(self, job: Job) -> None:
        name, archive, remote = self._asked(job)
        facility, prior = job.payload["facility"], job.payload["prior"]
        with self.engine.connect() as connection:
            try:
                study = read_study(connection, facility, job.payload["study_uid"])
            except NotFound:
                return

        def keep(file: bytes) -> None:
            header = scan(file).metadata
            if text_of(header, _STUDY_UID) != prior:
                raise NotThisStudy(f"Archive {name} sends an object of another study than {prior}.")
            if not is_same_patient(study, header, issuer=archive.issuer):
                raise Refused(f"Archive {name} sends an object of another patient in study {prior}.")
            (outcome,) = self.ingest.store([file], facility=facility, source=PRIOR_SOURCE + name, threads=1)
            if outcome.error is not None:
                raise outcome.error

        def has(instance_uid: str) -> bool:
            with self.engine.connect() as connection:
                return bool(find_current(connection, facility, (instance_uid,)))

        try:
            remote.fetch(prior, keep, has=has, most_bytes=archive.megabytes * 1_000_000)
        except (NotThisStudy, Refused, TooLarge) as error:
            raise GiveUp(error.message) from error
        with job.finishing() as connection:
            self.came(connection, facility, study.study_uid)

    def _asked(self, job: Job) -> tuple[str, ArchiveSettings, RemoteArchive]:
        name = job.payload["archive"]
        archive, remote = self.archives.get(name), self.remote(name)
        if archive is None:
            raise GiveUp(f"The settings have no archive {name} any more.")
        if remote is None:
            raise Unreachable(f"Archive {name} is a peer that is not known.")
        return name, archive, remote
