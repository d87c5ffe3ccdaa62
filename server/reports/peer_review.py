"""Peer review: a second reading by somebody who knows nothing of the first, a RADPEER score, and what comes of it.

1. A reading that a radiologist has finished is shown to plugins; what one of them selects gets a work item.
2. The reviewer writes an impression of his or her own, and only then is shown what the first reader wrote.
3. The reviewer scores. A discrepancy that matters is discussed: the first reader answers, not knowing whom; a
   supervisor says what it comes to, and may have an addendum written.

Nobody hears of it whose scope is that of some facilities. Until it is scored, nothing that is shown of it, or told of
its work item, says who has read first, or what.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from datetime import timedelta
from math import sqrt
from typing import Any, Literal, get_args

import orjson
import sqlalchemy as sa

from readingroom.clock import Clock
from readingroom.errors import Conflict, Invalid, NotFound, ReadingRoomError, Refused
from readingroom.events import ReportSigned
from readingroom.model import Report, Signature
from readingroom.results import Selection
from server.announce import on_event
from server.auth import require
from server.hooks import Hooks
from server.queue import Job, Policy, Queue
from server.reports.signing import SigningKeys, read_signed
from server.settings import PeerReviewSettings
from server.worklist import items
from server.worklist.items import EVERYWHERE, THE_SERVER, Work
from storage.catalog import schema as t
from storage.catalog.directory import facility_zone, names_of
from storage.catalog.events import Event
from storage.catalog.peer_reviews import (
    SCORES,
    Counted,
    FinishedRead,
    PeerReview,
    Score,
    count_before,
    excluded_reviewers,
    find_review,
    finished_read,
    insert_review,
    keep_finished,
    review_of,
    update_review,
)
from storage.catalog.reports import find_report
from storage.catalog.work_items import StoredItem, item_by_id
from storage.directory import zone_of

Outcome = Literal["agreed", "addendum"]
OUTCOMES: tuple[Outcome, ...] = get_args(Outcome)
Publish = Callable[[Work, PeerReview], None]
"""Told of each review that is new or another, in the transaction that makes it so."""

HOOK = "select_peer_review"
DISCUSSED: frozenset[Score] = frozenset(("2b", "3a", "3b"))
"""The scores that open a discussion."""
_PLUGINS = Policy(attempts=5, first=timedelta(seconds=2), most=timedelta(minutes=1), within=timedelta(days=1))
_RULES = Policy(attempts=20, first=timedelta(seconds=2), most=timedelta(minutes=1))
_FINAL = ("final", "amended", "corrected", "appended")
_CHARACTERS = 20_000
_REMARKS = 100


def _tell_nobody(_work: Work, _review: PeerReview) -> None:
    return None


@dataclass(frozen=True, slots=True, kw_only=True)
class PeerReviewing:
    """Has readings selected as their reports are signed; `register` gives its jobs to the queue."""

    engine: sa.Engine
    clock: Clock
    queue: Queue
    hooks: Hooks
    keys: SigningKeys
    settings: PeerReviewSettings
    publish: Publish = _tell_nobody

    def register(self) -> None:
        """Have it react to what is signed; before the worker starts."""
        on_event(self.queue, ReportSigned.__name__, _RULES, by="peer")(self._signed)
        self.queue.on("peer.ask", _PLUGINS)(self._ask)

    def _signed(self, job: Job, event: Event) -> None:
        id, number = event.payload["report"], event.payload["number"]
        with self.engine.connect() as connection:
            report = read_signed(connection, self.keys, id, number)
        with job.finishing() as connection:
            work = Work(connection=connection, now=self.clock.now(), actor=THE_SERVER, queue=self.queue)
            if report.status == "entered-in-error":
                withdraw_review(work, id, self.publish)
            elif finish_reading(work, report) is not None:
                end_addendum(work, report)
                for plugin in self.hooks.having(HOOK):
                    told = {"report": id, "number": number, "plugin": plugin}
                    self.queue.enqueue(connection, "peer.ask", told, lane=f"{plugin} peer {id}")
            work.tell()

    def _ask(self, job: Job) -> None:
        id, number, plugin = (job.payload[name] for name in ("report", "number", "plugin"))
        with self.engine.connect() as connection:
            report = read_signed(connection, self.keys, id, number)
            read = finished_read(connection, id)
            assert read is not None, "it was kept in the transaction that made this job"
            read_before, alike_before = count_before(connection, read)
        selection = self.hooks.react(
            plugin,
            HOOK,
            delivery=job.delivery,
            attempt=job.attempt,
            report=report,
            reader=read.reader,
            read_before=read_before,
            alike_before=alike_before,
        )
        if selection is None:
            return
        with job.finishing() as connection:
            work = Work(connection=connection, now=self.clock.now(), actor=THE_SERVER, queue=self.queue)
            select_review(work, report, plugin, selection, self.settings, self.publish)
            work.tell()


# -- selecting ---------------------------------------------------------------------------------------------------------


def read_by(report: Report) -> Signature | None:
    """Who answers for the reading that a version of a report tells of; None while nobody does.

    That is the last who has signed it neither in training nor as the facility's own radiologist, who finishes what
    another has read; else, once it is final, the last who has signed at all.
    """
    attending = [one for one in report.signatures if one.role == "attending"]
    if attending:
        return attending[-1]
    return report.signatures[-1] if report.signatures and report.status in _FINAL else None


def finish_reading(work: Work, report: Report) -> FinishedRead | None:
    """Keep who has finished a reading, once; None where nobody has yet."""
    known = finished_read(work.connection, report.id)
    if known is not None:
        return known
    signature = read_by(report)
    if signature is None or report.signed_at is None:
        return None
    zone = zone_of(facility_zone(work.connection, report.facility))
    found = find_report(work.connection, EVERYWHERE, report.id)
    read = FinishedRead(
        report=report.id,
        facility=report.facility,
        reader=signature.reader,
        modality=found.modality or next(iter(report.modalities), ""),
        at=report.signed_at,
        read_on=f"{report.signed_at.astimezone(zone):%Y-%m-%d}",
    )
    return read if keep_finished(work.connection, read) else finished_read(work.connection, report.id)


def select_review(
    work: Work,
    report: Report,
    plugin: str,
    selection: Selection,
    settings: PeerReviewSettings,
    publish: Publish = _tell_nobody,
) -> PeerReview | None:
    """Have a reading done once more by a peer; selected again, it is the one that there is.

    Returns
    -------
    PeerReview or None
        None where the report has been withdrawn, or is of no study.
    """
    found = find_report(work.connection, EVERYWHERE, report.id, locked=True)
    read = finished_read(work.connection, report.id)
    if read is None or found.study_uid is None or found.status in ("cancelled", "entered-in-error"):
        return None
    reason = {"plugin": plugin, "because": selection.because[:1000]}
    known = review_of(work.connection, report.id, locked=True)
    if known is not None:
        told = orjson.loads(known.because)
        if reason in told:
            return known
        return _change(work, known, None, publish, because=orjson.dumps([*told, reason]).decode())
    reading = item_by_id(work.connection, found.item) if found.item else None
    item = items.create_item(
        work,
        facility=found.facility,
        kind="peer",
        study_uid=found.study_uid,
        modality=read.modality or None,
        body_part=next(iter(report.body_parts), None),
        subspecialty=reading.subspecialty if reading else None,
        patient_state=report.state or (reading.patient_state if reading else None),
    )
    review = PeerReview(
        id=t.new_id(),
        report=report.id,
        number=report.number,
        item=item.id,
        reader=read.reader,
        because=orjson.dumps([reason]).decode(),
        conflicts=orjson.dumps(sorted(_in_conflict(settings.conflicts, read.reader))).decode(),
        is_outside=settings.outside_reviewers,
        selected_at=work.now,
    )
    insert_review(work.connection, review)
    _tell(work, review, "PeerReviewSelected", item, "server")
    publish(work, review)
    return review


def withdraw_review(work: Work, report: str, publish: Publish = _tell_nobody) -> None:
    """End the review of a report that was withdrawn, unless it is scored already."""
    review = review_of(work.connection, report, locked=True)
    if review is None or review.state not in ("waiting", "revealed"):
        return
    item = item_by_id(work.connection, review.item, locked=True)
    if item.state not in ("completed", "cancelled"):
        items.cancel_item(work, item, "the report was withdrawn", token=item.claim_token)
    _change(work, review, "PeerReviewWithdrawn", publish, part="server", state="withdrawn", closed_at=work.now)


def end_addendum(work: Work, report: Report) -> None:
    """End the work item for an addendum that a review has asked for, now that there is one."""
    review = review_of(work.connection, report.id) if report.kind != "report" else None
    if review is None or review.addendum_item is None:
        return
    item = item_by_id(work.connection, review.addendum_item, locked=True)
    if item.state in ("completed", "cancelled"):
        return
    if item.state == "claimed":
        items.complete_item(work, item, token=item.claim_token or "")
    else:
        items.cancel_item(work, item, f"version {report.number} of the report says it", token=item.claim_token)


def _in_conflict(groups: Iterable[Iterable[str]], reader: str) -> set[str]:
    return {other for group in groups if reader in group for other in group} - {reader}


# -- the second reading ------------------------------------------------------------------------------------------------


def may_review(connection: sa.Connection, review: PeerReview, reader: str) -> bool:
    """Whether neither the first reading nor a conflict keeps a reader from a review."""
    return reader not in excluded_reviewers(connection, review.item)


def write_impression(
    work: Work, id: str, *, reader: str, impression: str, publish: Publish = _tell_nobody
) -> PeerReview:
    """Keep what the reviewer sees in the images, which ends the second reading; then the first report is shown.

    Raises
    ------
    Conflict
        Somebody else does it, or it is written already.
    Refused
        That reader may not: by law, for a conflict, or for having read it first.
    """
    review = _find(work, id)
    _require_reader(work, reader)
    if review.state != "waiting":
        raise Conflict(f"The impression of peer review {id} is written already; it is {review.state}.")
    impression = _text(impression, "your own impression of the study")
    _end_reading(work, item_by_id(work.connection, review.item, locked=True), reader)
    values = {"state": "revealed", "reviewer": reader, "impression": impression, "revealed_at": work.now}
    return _change(work, review, "PeerReviewRevealed", publish, part="reviewer", **values)


def _end_reading(work: Work, item: StoredItem, reader: str) -> None:
    if item.state == "cancelled":
        raise Conflict(f"Work item {item.workitem_uid} was cancelled; this peer review is not to be done.")
    if item.state in ("claimed", "held", "completed") and item.owner not in (None, reader):
        raise Conflict(f"Work item {item.workitem_uid} is another reviewer's.")
    if reader in excluded_reviewers(work.connection, item.id):
        raise Refused(f"Reader {reader} may not do the peer review {item.workitem_uid}; somebody else does.")
    if item.state == "completed":
        return
    if item.state == "held":
        item = items.resume_item(work, item, token=item.claim_token)
    if item.state != "claimed":
        item = items.claim_item(work, item, reader=reader)
    items.complete_item(work, item, token=item.claim_token or "")


def score_review(
    work: Work, id: str, *, reader: str, score: str, comment: str = "", publish: Publish = _tell_nobody
) -> PeerReview:
    """Score the first reading. A score of `DISCUSSED` opens a discussion, any other is the end of it.

    Raises
    ------
    Conflict
        The impression is not written yet, or it is scored already.
    Refused
        It is another reviewer's.
    """
    review = _find(work, id)
    _require_reader(work, reader)
    if review.state != "revealed":
        what = "write your impression first" if review.state == "waiting" else f"it is {review.state}"
        raise Conflict(f"Peer review {id} cannot be scored: {what}.")
    if reader != review.reviewer:
        raise Refused(f"Peer review {id} is another reviewer's.")
    checked = _score(score)
    if checked != "1":
        comment = _text(comment, "in 'comment' what was missed")
    values: dict[str, Any] = {"score": checked, "comment": _short(comment), "scored_at": work.now}
    if checked in DISCUSSED:
        values |= {"state": "discussing"}
    else:
        values |= {"state": "closed", "final_score": checked, "outcome": "agreed", "closed_at": work.now}
    return _change(work, review, "PeerReviewScored", publish, part="reviewer", **values)


# -- the discussion ----------------------------------------------------------------------------------------------------


def discuss(work: Work, id: str, *, reader: str, text: str, publish: Publish = _tell_nobody) -> PeerReview:
    """Say something in a discussion, as the first reader or as the reviewer; neither learns who the other is."""
    review = _find(work, id)
    _require_reader(work, reader)
    part = part_of(review, reader)
    if part is None:
        raise Refused(f"Reader {reader} has no part in peer review {id}.")
    if review.state != "discussing":
        raise Conflict(f"Peer review {id} is {review.state}; there is no discussion.")
    remarks = orjson.loads(review.remarks)
    if len(remarks) >= _REMARKS:
        raise Conflict(f"Peer review {id} has {_REMARKS} remarks; a supervisor says what it comes to.")
    remarks.append({"part": part, "at": work.now, "text": _text(text, "what you think")})
    return _change(work, review, "PeerReviewDiscussed", publish, part=part, remarks=orjson.dumps(remarks).decode())


def adjudicate(
    work: Work, id: str, *, score: str, outcome: str, comment: str = "", publish: Publish = _tell_nobody
) -> PeerReview:
    """Say what a discussion has come to: the score that counts, and whether the report needs an addendum.

    Then there is a work item for the first reader, who is offered it, if still allowed to read there.

    Raises
    ------
    Refused
        The actor may not supervise, or is one of the two.
    Conflict
        There is no discussion.
    """
    require(work.actor, "supervise")
    review = _find(work, id)
    if part_of(review, work.actor.id) is not None:
        raise Refused(f"Peer review {id} is decided by neither of the two.")
    if review.state != "discussing":
        raise Conflict(f"Peer review {id} is {review.state}; there is no discussion to end.")
    if outcome not in OUTCOMES:
        raise Invalid(f"The outcome is one of {', '.join(OUTCOMES)}.")
    remarks = orjson.loads(review.remarks)
    if comment.strip():
        remarks.append({"part": "supervisor", "at": work.now, "text": _short(comment)})
    values: dict[str, Any] = {
        "state": "closed",
        "final_score": _score(score),
        "outcome": outcome,
        "adjudicator": work.actor.id,
        "remarks": orjson.dumps(remarks).decode(),
        "closed_at": work.now,
    }
    if outcome == "addendum":
        values["addendum_item"] = _have_addended(work, review).id
    return _change(work, review, "PeerReviewClosed", publish, part="supervisor", **values)


def _have_addended(work: Work, review: PeerReview) -> StoredItem:
    report = find_report(work.connection, EVERYWHERE, review.report)
    second = item_by_id(work.connection, review.item)
    item = items.create_item(
        work,
        facility=report.facility,
        kind="second",
        priority="urgent",
        study_uid=report.study_uid,
        accession_number=report.accession_number,
        modality=second.modality,
        body_part=second.body_part,
        subspecialty=second.subspecialty,
        patient_state=second.patient_state,
        attributes={"00741204": {"vr": "LO", "Value": ["Addendum to the report"]}},
    )
    try:
        return items.offer_item(work, item, review.reader, "the report needs an addendum")
    except ReadingRoomError:  # who may not read there any more: somebody else adds to the report
        return item


# -- statistics --------------------------------------------------------------------------------------------------------


def wilson(count: int, total: int, z: float = 1.959963984540054) -> tuple[float, float]:
    """Wilson's interval, by default of 95 %, for a share of `count` in `total`; from 0 to 1 where there is none.

    Unlike the one around the share itself it holds where there are few, and where none or all of them count.
    """
    if total == 0:
        return 0.0, 1.0
    share = count / total
    spread = z * sqrt(share * (1 - share) / total + z * z / (4 * total * total))
    centre = share + z * z / (2 * total)
    scale = 1 + z * z / total
    low = 0.0 if count == 0 else max(0.0, (centre - spread) / scale)
    high = 1.0 if count == total else min(1.0, (centre + spread) / scale)
    return low, high


def rates(counted: Counted) -> dict[str, Any]:
    """What is counted of a part of the readings as JSON, each share with its interval."""
    reviewed = sum(counted.scores.values())
    discrepant = sum(counted.scores[score] for score in DISCUSSED)
    return {
        **counted.part,
        "eligible": counted.eligible,
        "selected": counted.selected,
        "reviewed": reviewed,
        "reviewed_share": _share(reviewed, counted.eligible),
        "scores": {score: _share(count, reviewed) for score, count in counted.scores.items()},
        "significant": _share(discrepant, reviewed),
    }


def _share(count: int, total: int) -> dict[str, Any]:
    low, high = wilson(count, total)
    return {"count": count, "rate": count / total if total else None, "low": low, "high": high}


# -- within ------------------------------------------------------------------------------------------------------------


def part_of(review: PeerReview, reader: str) -> Literal["reviewer", "first reader"] | None:
    """Which part a reader has in a review."""
    if reader == review.reviewer:
        return "reviewer"
    return "first reader" if reader == review.reader else None


def _find(work: Work, id: str) -> PeerReview:
    if work.scope.facilities is not None:
        raise NotFound(f"There is no peer review {id[:64]}.")
    return find_review(work.connection, id, locked=True)


def _require_reader(work: Work, reader: str) -> None:
    """That a person acts, and a reader who is known by name for no other."""
    if work.actor.kind != "person" and "sign" not in work.actor.may:
        raise Refused(f"{work.actor.id} may not review; a person does, or who has the permission 'sign'.")
    if not reader:
        raise Invalid("Say which reader you are.")
    if reader != work.actor.id and names_of(work.connection, [work.actor.id]):
        raise Refused(f"{work.actor.id} may not review as {reader}.")


def _change(
    work: Work, review: PeerReview, what: str | None, publish: Publish, *, part: str = "server", **values: Any
) -> PeerReview:
    changed = replace(review, **values, version=review.version + 1)
    update_review(work.connection, review, changed)
    if what is not None:
        _tell(work, changed, what, item_by_id(work.connection, review.item), part)
    publish(work, changed)
    return changed


def _tell(work: Work, review: PeerReview, what: str, item: StoredItem, part: str) -> None:
    """Tell that something has happened; neither of whom, nor what."""
    told: Mapping[str, Any] = {"review": review.id, "state": review.state, "actor": part}
    work.note(what, told, facility=None, study_uid=item.study_uid, item=item.id)


def _score(text: str) -> Score:
    for score in SCORES:
        if text == score:
            return score
    raise Invalid(f"A score is one of {', '.join(SCORES)} (RADPEER), not {text[:10]!r}.")


def _text(text: str, what: str) -> str:
    if not text.strip():
        raise Invalid(f"Say {what}.")
    return _short(text)


def _short(text: str) -> str:
    text = text.strip()
    if len(text) > _CHARACTERS or "\0" in text:
        raise Invalid(f"A text is of at most {_CHARACTERS} characters, none of them NUL.")
    return text
