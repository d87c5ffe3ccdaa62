"""Storage commitment (PS3.4 annex J, PS3.18 chapter 13): promises that instances are kept, once they are seen to be.

A request is durable before it is answered. Each instance is looked for in the catalog and in the store; one that is not
there yet may be about to come, so it gets a minute before it counts as missing. The result is decided once, and stays.
"""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from functools import partial
from typing import Any

import sqlalchemy as sa
from pydicom import Dataset

from readingroom.clock import Clock
from readingroom.errors import Invalid, Unavailable, Unreachable
from readingroom.model import Scope
from server.associations.association import Proposal
from server.associations.commands import (
    AFFECTED_INSTANCE,
    COMMENT,
    EVENT_TYPE,
    FIELD,
    N_EVENT_REPORT,
    STATUS,
    CommandSet,
)
from server.associations.requesting import Unsuccessful, call_as
from server.peers import Peers
from server.queue import Job, Policy, Queue
from server.scrub import look_at
from server.settings import Settings
from server.status import COMMITMENT_FAILURE
from storage.blobs import Blobs
from storage.catalog.commitments import (
    Commitment,
    Problem,
    Wanted,
    held_of,
    keep_commitment,
    note_checked,
    note_told,
    read_commitment,
)
from storage.catalog.engine import begin_write
from storage.catalog.subscriptions import realm_of, scope_of
from storage.catalog.ups import element
from storage.objects import MetadataJson
from storage.part10 import check_uid
from storage.upsrules import items_of, value_of

log = logging.getLogger(__name__)

PUSH_MODEL, WELL_KNOWN = "1.2.840.10008.1.20.1", "1.2.840.10008.1.20.1.1"
"""The SOP class, and its one instance (PS3.4 J.3.5)."""

REPORT = "commitment"
"""The kind of job that tells an AE of a result."""

PATIENCE = timedelta(seconds=60)
"""How long an instance may take to come that is asked about before it is committed to the catalog."""

REPORT_AFTER = timedelta(seconds=10)
"""An AE that waits on its association is told there; who has left by then is called."""

LOOK_AGAIN = timedelta(seconds=5)
UNTIL_TOLD = Policy(attempts=1000, first=timedelta(seconds=5), within=timedelta(days=1))
"""An AE that cannot be reached is called again for a day."""

MOST_INSTANCES = 20_000
_THREADS = 4


class Committing:
    """What requests, and who answers them, have in common."""

    def __init__(self, *, engine: sa.Engine, blobs: Blobs, clock: Clock, queue: Queue) -> None:
        self.engine = engine
        self.clock = clock
        self.queue = queue
        self._blobs = blobs

    def request(self, scope: Scope, transaction_uid: str, instances: Sequence[Wanted], *, ae: str = "") -> Commitment:
        """Take a request; it is durable when this returns, and an `ae` is sure to be told.

        Raises
        ------
        Invalid
            It names no instance, or too many, or a UID is none.
        """
        check_uid("Transaction UID (0008,1195)", transaction_uid)
        if not 0 < len(instances) <= MOST_INSTANCES:
            raise Invalid(f"A request for storage commitment names 1 to {MOST_INSTANCES} instances.")
        now = self.clock.now()
        with begin_write(self.engine) as connection:
            kept = keep_commitment(
                connection,
                realm=realm_of(scope),
                ae=ae,
                transaction_uid=transaction_uid,
                instances=instances,
                now=now,
            )
            if ae:
                due = now + REPORT_AFTER
                self.queue.enqueue(connection, REPORT, {"commitment": kept.id}, key=f"{REPORT} {kept.id}", run_at=due)
        return kept

    def check(self, id: str) -> Commitment:
        """Look whether the instances are kept, unless that is known; what is missing too early leaves it open.

        Raises
        ------
        Unavailable
            The store does not answer.
        """
        with self.engine.connect() as connection:
            commitment = read_commitment(connection, id)
        if commitment.problems is not None:
            return commitment
        now = self.clock.now()
        held = self._held(commitment)
        if not all(held) and now - commitment.at < PATIENCE:
            return commitment
        with ThreadPoolExecutor(_THREADS, thread_name_prefix="commit") as pool:
            problems = list(pool.map(self._problem, commitment.instances, held))
        with begin_write(self.engine) as connection:
            note_checked(connection, id, problems, now)
            decided = read_commitment(connection, id)
        if decided.failed:
            log.warning(
                "storage commitment %s of %s: %d of %d instances are not committed",
                *(decided.transaction_uid, decided.ae or "a web client"),
                *(sum(map(bool, decided.problems or ())), len(decided.instances)),
            )
        return decided

    def _held(self, commitment: Commitment) -> list[Sequence[Any]]:
        """Of each instance the rows of it that are in use, of several facilities where the realm has several."""
        rows: dict[str, list[Any]] = defaultdict(list)
        uids = list({one.instance_uid for one in commitment.instances})
        with self.engine.connect() as connection:
            for row in held_of(connection, scope_of(commitment.realm), uids):
                rows[row.instance_uid].append(row)
        return [[row for row in rows.get(one.instance_uid, ()) if _is_of(one, row)] for one in commitment.instances]

    def _problem(self, wanted: Wanted, held: Sequence[Any]) -> Problem | None:
        right = [row for row in held if row.sop_class == wanted.sop_class]
        if not right:
            return "other class" if held else "missing"
        damages = [look_at(self._blobs, row, reads_all=False) for row in right]
        if None in damages:
            return None
        for damage in damages:
            if damage is not None and damage.kind == "unreadable":
                raise Unavailable(f"The store does not give {damage.object_key}: {damage.detail}")
            log.error("instance %s is not committed, for its object is %s", wanted.instance_uid, damage)
        return "damaged"


class Reporting:
    """Tells AEs what became of their requests, on associations of its own (PS3.4 J.3.3).

    Parameters
    ----------
    peers
        Whom to call, by AE title.
    """

    def __init__(self, committing: Committing, peers: Peers, settings: Settings) -> None:
        self._committing = committing
        self._peers = peers
        self._settings = settings

    def register(self) -> None:
        """Have the queue report what was not told on the association that it was asked on."""
        self._committing.queue.on(REPORT, UNTIL_TOLD)(self._report)

    def _report(self, job: Job) -> None:
        committing = self._committing
        commitment = committing.check(job.payload["commitment"])
        if commitment.problems is None:
            with job.finishing() as connection:
                due = committing.clock.now() + LOOK_AGAIN
                committing.queue.enqueue(connection, REPORT, job.payload, key=f"{REPORT} {commitment.id}", run_at=due)
        elif commitment.told_at is None:
            self._tell(commitment)
            with job.finishing() as connection:
                note_told(connection, commitment.id, committing.clock.now())

    def _tell(self, commitment: Commitment) -> None:
        peer, settings = self._peers.of(commitment.ae), self._settings
        if peer is None or peer.host is None:
            raise Unreachable(
                f"{commitment.ae} has left the association, and nothing says where it is called: give it a host."
            )
        event, told = report_of(commitment, settings.dimse.ae_title)
        # It stays the SCU, and who calls is the SCP (J.3.3).
        with call_as(settings, peer, [Proposal(sop_class=PUSH_MODEL, has_stores=True)]) as called:
            command: CommandSet = {FIELD: N_EVENT_REPORT, AFFECTED_INSTANCE: WELL_KNOWN, EVENT_TYPE: event}
            answer, _ = called.request(PUSH_MODEL, command, Dataset.from_json(told))
        status = int(answer.get(STATUS, 0x0110))
        if status:
            comment = str(answer.get(COMMENT, ""))
            raise Unsuccessful(f"{peer.ae} does not take the report: {status:04X} {comment}".rstrip(), status=status)


def _is_of(wanted: Wanted, row: Any) -> bool:
    """Whether a row is of the study and the series that are said."""
    return all(
        not said or said == known
        for said, known in ((wanted.study_uid, row.study_uid), (wanted.series_uid, row.series_uid))
    )


# -- data sets ---------------------------------------------------------------------------------------------------------


def wanted_of(dataset: MetadataJson) -> list[Wanted]:
    """The instances that a request names: in Referenced SOP Sequence, or by study and series (PS3.18 J.1).

    Raises
    ------
    Invalid
        One of them lacks a UID.
    """
    found = [_wanted(one) for one in items_of(dataset, "00081199")]
    for study in items_of(dataset, "00081110"):
        study_uid = _uid(study, "0020000D")
        for series in items_of(study, "00081115"):
            series_uid = _uid(series, "0020000E")
            found += [_wanted(one, study_uid, series_uid) for one in items_of(series, "00081199")]
            for of_class in items_of(series, "00081112"):
                sop_class = _uid(of_class, "00081150")
                found += [
                    Wanted(sop_class, _uid(one, "00081155"), study_uid, series_uid)
                    for one in items_of(of_class, "0008114A")
                ]
    return list(dict.fromkeys(found))


def _wanted(item: MetadataJson, study_uid: str = "", series_uid: str = "") -> Wanted:
    return Wanted(_uid(item, "00081150"), _uid(item, "00081155"), study_uid, series_uid)


_NAMES: Mapping[str, str] = {
    "0020000D": "Study Instance UID (0020,000D)",
    "0020000E": "Series Instance UID (0020,000E)",
    "00081150": "Referenced SOP Class UID (0008,1150)",
    "00081155": "Referenced SOP Instance UID (0008,1155)",
}


def _uid(item: MetadataJson, tag: str) -> str:
    return check_uid(_NAMES[tag], value_of(item, tag))


def result_of(commitment: Commitment) -> MetadataJson:
    """What is committed and what is not, each in the form in which it was asked for (PS3.18 J.2, PS3.3 C.14)."""
    problems = commitment.problems
    assert problems is not None, "it has been checked"
    told = list(zip(commitment.instances, problems, strict=True))
    of_studies = [(one, problem) for one, problem in told if one.study_uid]
    others = [(one, problem) for one, problem in told if not one.study_uid]
    made: MetadataJson = {}
    for tag, some in (("00081198", _failed(others)), ("00081199", _committed(others))):
        if some:
            made[tag] = element("SQ", *(_reference(one) | _reason(problem) for one, problem in some))
    for tag, some in (("00081110", _committed(of_studies)), ("0008119B", _failed(of_studies))):
        if some:
            made[tag] = element("SQ", *_by_study(some))
    return dict(sorted(made.items()))


type _Told = tuple[Wanted, Problem | None]


def _failed(told: Sequence[_Told]) -> list[_Told]:
    return [one for one in told if one[1]]


def _committed(told: Sequence[_Told]) -> list[_Told]:
    return [one for one in told if not one[1]]


def _reference(one: Wanted) -> MetadataJson:
    return {"00081150": element("UI", one.sop_class), "00081155": element("UI", one.instance_uid)}


def _reason(problem: Problem | None) -> MetadataJson:
    return {"00081197": element("US", COMMITMENT_FAILURE[problem])} if problem else {}


def _by_study(told: Sequence[_Told]) -> list[MetadataJson]:
    """Items of Referenced Study Sequence: series in a study, SOP classes in a series, instances in a class."""
    tree: dict[str, dict[str, dict[str, list[MetadataJson]]]] = defaultdict(
        partial(defaultdict, partial(defaultdict, list))
    )
    for one, problem in told:
        item = {"00081155": element("UI", one.instance_uid), **_reason(problem)}
        tree[one.study_uid][one.series_uid][one.sop_class].append(dict(sorted(item.items())))
    return [
        {
            "00081115": element("SQ", *(_series(series_uid, classes) for series_uid, classes in series.items())),
            "0020000D": element("UI", study_uid),
        }
        for study_uid, series in tree.items()
    ]


def _series(series_uid: str, classes: Mapping[str, Sequence[MetadataJson]]) -> MetadataJson:
    by_class = (
        {"0008114A": element("SQ", *instances), "00081150": element("UI", sop_class)}
        for sop_class, instances in classes.items()
    )
    return {"00081112": element("SQ", *by_class), "0020000E": element("UI", series_uid)}


def report_of(commitment: Commitment, ae_title: str) -> tuple[int, MetadataJson]:
    """Event type and event information of the report to an AE (PS3.4 Table J.3-2)."""
    told = result_of(commitment) | {
        "00080054": element("AE", ae_title),
        "00081195": element("UI", commitment.transaction_uid),
    }
    return (2 if commitment.failed else 1), dict(sorted(told.items()))
