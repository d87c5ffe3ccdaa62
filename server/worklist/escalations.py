"""Escalations: duties to reach a person. One ends by an acknowledgement or by a person who cancels it, and never by
itself: not by time, not by a failure, not by a ladder that has no more rungs (its last one is climbed again and again).

The clock is a row (`due_at`). Whoever acknowledges and whoever climbs lock the same row, so an acknowledgement that has
committed always wins. What people do meanwhile, their calls and how they hand over to each other, is kept beside the
messages that the server sends: one list tells who was told what, when and how (Joint Commission NPSG.02.03.01).
"""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from itertools import pairwise
from typing import Any

import orjson
import sqlalchemy as sa

from readingroom.errors import Conflict, Invalid, NotFound, Refused
from readingroom.jsonio import from_json, to_json
from readingroom.model import Category, Contact, Rung
from server.queue import Queue
from server.worklist.items import EVERYWHERE, THE_SERVER, Work, drop_item, finish_item
from storage.catalog import schema as t
from storage.catalog.engine import begin_write
from storage.catalog.escalations import (
    Attempt,
    AttemptState,
    StoredEscalation,
    due_escalations,
    escalation_of,
    find_escalation,
    insert_escalation,
    keep_call,
    update_escalation,
)
from storage.catalog.studies import ensure_facility
from storage.catalog.work_items import item_by_id

log = logging.getLogger(__name__)

OPENED, CLIMBED, EXHAUSTED = "EscalationOpened", "EscalationClimbed", "EscalationExhausted"
MISSED = "EscalationMissed"
ACKNOWLEDGED, CANCELLED = "EscalationAcknowledged", "EscalationCancelled"
TRIED, HANDED_OVER = "EscalationTried", "EscalationHandedOver"
WITHDRAWN, RESTORED = "EscalationWithdrawn", "EscalationRestored"

_ROLES = ("referrer", "referrer", "backup", "desk", "supervisor")


def _ladder(gap: timedelta) -> tuple[Rung, ...]:
    return tuple(Rung(number=number + 1, role=role, after=number * gap) for number, role in enumerate(_ROLES))


LADDERS: Mapping[Category | None, tuple[Rung, ...]] = {
    1: _ladder(timedelta(minutes=10)),
    2: _ladder(timedelta(minutes=30)),
    3: _ladder(timedelta(hours=12)),
    None: _ladder(timedelta(minutes=15)),
}
"""Whom to reach, by ACR category, where no plugin says otherwise: call, call again, backup, desk, supervisor.
Category 1 is to be communicated within minutes (an hour at most), 2 within hours, 3 within days."""

LIMITS: Mapping[Category, timedelta] = {1: timedelta(hours=1), 2: timedelta(hours=3), 3: timedelta(days=3)}
"""How long it may take to reach somebody: ACR says minutes, hours and days, and the policy of Brigham and Women's
Hospital, which many follow, means these by it."""

OUTCOMES: Mapping[str, AttemptState] = {
    "reached": "reached",
    "no answer": "no-answer",
    "left message": "left-message",
}
"""What may become of a call. To leave a message reaches nobody; to reach somebody is not yet that it was read back."""

AT_ONCE = 100
"""Escalations that one look climbs."""
_LEAST_REPEAT = timedelta(minutes=1)
_LONGEST_TEXT = 2000
_LONGEST_WORDS = 200
_LONGEST_READER = 64
_CONTROL = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]")
_ONLINE = "online"
_CLOCKS_DIFFER = timedelta(minutes=1)

Climbed = Callable[[sa.Connection, StoredEscalation, Rung], None]
"""Told, in the transaction, that a rung was climbed: enqueues what reaches its contacts."""


def open_escalation(
    work: Work,
    *,
    key: str,
    facility: str,
    reason: str,
    item: str | None = None,
    study_uid: str | None = None,
    category: Category | None = None,
    ladder: Sequence[Rung] | None = None,
    details: Mapping[str, Any] | None = None,
    report: str | None = None,
    result: str | None = None,
) -> StoredEscalation:
    """Have somebody reached. However often it is called with a key, there is one.

    Parameters
    ----------
    key
        What it is for, such as the item and the mark that its clock has passed.
    ladder
        Whom to reach and when; by default the one of the category in `LADDERS`.
    report, result
        The report whose critical result it is about, and the digest of the text of that.
    """
    rungs = checked_ladder(ladder if ladder is not None else LADDERS[category])
    ensure_facility(work.connection, facility)
    row = StoredEscalation(
        id=t.new_id(),
        key=key,
        facility=facility,
        item=item,
        study_uid=study_uid,
        reason=_text(reason, "why somebody has to be reached"),
        category=category,
        details=orjson.dumps(details or {}),
        ladder=orjson.dumps(to_json(rungs)),
        due_at=work.now + rungs[0].after,
        opened_at=work.now,
        report=report,
        result=result,
        reach_by=None if category is None else work.now + LIMITS[category],
    )
    if insert_escalation(work.connection, row):
        _tell(work, row, OPENED)
        return row
    found = escalation_of(work.connection, key)
    assert found is not None, "it is the one that was in the way"
    return found


def acknowledge(
    work: Work, id: str, *, by: str, read_back: str, how: str = "", role: str = "", at: datetime | None = None
) -> StoredEscalation:
    """Close an escalation: a person was reached, and has read back what was said.

    Parameters
    ----------
    by
        Who was reached.
    read_back
        What that person said back: proof that the message has arrived (Joint Commission NPSG.02.03.01).
    how, role
        By which way, such as telephone; by default it was here. And as whom of the facility's contacts.
    at
        When; by default now.

    Raises
    ------
    Invalid
        It is not said who, or what was read back; or `at` is to come, or before there was anything to tell.
    Conflict
        It is closed already; says by whom and when.
    """
    found = find_escalation(work.connection, work.scope, id, locked=True)
    _check_open(found)
    by, read_back = _text(by, "who was reached"), _text(read_back, "what was read back")
    reached_at = _when(work, found, at)
    told = Contact(name=by, role=_words(role), channel=_words(how) or _ONLINE, address="")
    _call(work, found, told, "read-back", reached_at, read_back)
    closed = {
        "state": "acknowledged",
        "closed_at": work.now,
        "closed_by": by,
        "read_back": read_back,
        "reached_at": reached_at,
        "due_at": None,
    }
    # With what the log has, everything that is measured can be measured again.
    times = {"opened_at": found.opened_at.isoformat(), "reached_at": reached_at.isoformat()}
    changed = _change(work, found, ACKNOWLEDGED, closed, by=by, read_back=read_back, how=told.channel, **times)
    _end_item(work, changed)
    return changed


def note_call(
    work: Work, id: str, *, contact: Contact, outcome: str, at: datetime | None = None, note: str = ""
) -> StoredEscalation:
    """Keep that a person has called somebody, and what became of it. Whatever that is, the escalation stays open.

    Parameters
    ----------
    contact
        Who was called, as whom, and how: its `channel` is a word such as telephone, its `address` the number.
    outcome
        One of `OUTCOMES`.
    """
    found = find_escalation(work.connection, work.scope, id, locked=True)
    _check_open(found)
    if outcome not in OUTCOMES:
        raise Invalid(f"The outcome of an attempt is one of {', '.join(OUTCOMES)}.")
    if not contact.name.strip() or not contact.channel.strip():
        raise Invalid("Say who was called, and how.")
    told = Contact(
        name=_words(contact.name),
        role=_words(contact.role),
        channel=_words(contact.channel),
        address=_words(contact.address),
    )
    _call(work, found, told, OUTCOMES[outcome], _when(work, found, at), note)
    return _change(work, found, TRIED, {}, role=told.role, how=told.channel, outcome=outcome)


def hand_over(work: Work, id: str, *, to: str, note: str) -> StoredEscalation:
    """Have somebody else at the desk go on with it, who is told what there is to know."""
    found = find_escalation(work.connection, work.scope, id, locked=True)
    _check_open(found)
    to, note = _words(to), _text(note, "what whoever goes on with it has to know")
    if not to:
        raise Invalid("Say to whom it is handed over.")
    _call(work, found, Contact(name=to, role="", channel="", address=""), "handed-over", work.now, note)
    return _change(work, found, HANDED_OVER, {"holder": to}, to=to)


def withdraw_result(work: Work, found: StoredEscalation, reason: str) -> StoredEscalation:
    """Tell the desk that what somebody is to be told is in the report no more. A person closes it, never this."""
    values = {"withdrawn_at": work.now, "reason": cut(f"{reason} {found.reason}")}
    return _change(work, found, WITHDRAWN, values)


def restore_result(work: Work, found: StoredEscalation, reason: str) -> StoredEscalation:
    """Take that back: the report has it again."""
    return _change(work, found, RESTORED, {"withdrawn_at": None, "reason": reason})


def cancel_escalation(work: Work, id: str, *, reason: str) -> StoredEscalation:
    """Close an escalation that was opened in error; only a person who may `supervise` can.

    Raises
    ------
    Refused
        The actor may not.
    Conflict
        It is closed already.
    """
    found = find_escalation(work.connection, work.scope, id, locked=True)
    if "supervise" not in work.actor.may:
        raise Refused(f"{work.actor.id} may not cancel an escalation; the permission 'supervise' is needed.")
    _check_open(found)
    reason = _text(reason, "why it is cancelled")
    closed = {
        "state": "cancelled",
        "closed_at": work.now,
        "closed_by": work.actor.id,
        "read_back": reason,
        "due_at": None,
    }
    changed = _change(work, found, CANCELLED, closed, reason=reason)
    _end_item(work, changed)
    return changed


def miss_rung(work: Work, id: str, *, rung: int, contacts: int) -> bool:
    """Climb on at once, for none of the contacts on that rung could be reached.

    Returns
    -------
    bool
        False where it was closed or climbed meanwhile; or where it was the last rung, which is repeated in its time.
    """
    found = find_escalation(work.connection, EVERYWHERE, id, locked=True)
    if found.state != "open" or found.rung != rung:
        return False
    _tell(work, found, MISSED, contacts=contacts)
    if rung >= len(rungs_of(found)):
        return False
    update_escalation(work.connection, found, {"due_at": work.now})
    return True


def climb_due(engine: sa.Engine, now: datetime, climbed: Climbed, queue: Queue | None = None) -> int:
    """Climb the next rung of every escalation that is due; returns how many. Called once a second."""
    with engine.connect() as connection:
        due = due_escalations(connection, now, AT_ONCE)
    count = 0
    for id in due:
        with begin_write(engine) as connection:
            work = Work(connection=connection, now=now, actor=THE_SERVER, queue=queue)
            try:
                found = find_escalation(connection, EVERYWHERE, id, locked=True)
            except NotFound:
                continue
            # Asked again under the lock: somebody may have acknowledged meanwhile.
            if found.state != "open" or found.due_at is None or found.due_at > now:
                continue
            _climb(work, found, climbed)
            work.tell()
            count += 1
    return count


def rungs_of(found: StoredEscalation) -> tuple[Rung, ...]:
    """The ladder that was fixed when it was opened."""
    rungs: tuple[Rung, ...] = from_json(tuple[Rung, ...], orjson.loads(found.ladder))
    return rungs


def checked_ladder(rungs: Sequence[Rung]) -> tuple[Rung, ...]:
    """The rungs, numbered as they come; raises `Invalid` where there are none, or a later one comes earlier."""
    if not rungs or any(not rung.role for rung in rungs):
        raise Invalid("A ladder has at least one rung, and each rung a role.")
    spans = [rung.after for rung in rungs]
    if spans != sorted(spans) or spans[0] < timedelta(0):
        raise Invalid("The rungs of a ladder come one after the other: each no earlier than the one before.")
    return tuple(replace(rung, number=number) for number, rung in enumerate(rungs, 1))


def _climb(work: Work, found: StoredEscalation, climbed: Climbed) -> None:
    rungs = rungs_of(found)
    number = found.rung + 1
    rung = replace(rungs[min(number, len(rungs)) - 1], number=number)
    # A server that was away does not climb several rungs at once: each contact has the time that the ladder gives.
    gaps = [after.after - before.after for before, after in pairwise(rungs)] or [LADDERS[None][1].after]
    wait = gaps[number - 1] if number < len(rungs) else max(gaps[-1], _LEAST_REPEAT)
    changed = _change(work, found, CLIMBED, {"rung": number, "due_at": work.now + wait}, role=rung.role)
    if number == len(rungs) + 1:
        log.error("escalation %s has nobody left to reach; its last rung is repeated", found.id)
        _tell(work, changed, EXHAUSTED)
    climbed(work.connection, changed, rung)


def _change(work: Work, found: StoredEscalation, what: str, values: Mapping[str, Any], **told: Any) -> StoredEscalation:
    update_escalation(work.connection, found, values)
    changed = replace(found, **values, version=found.version + 1)
    _tell(work, changed, what, **told)
    return changed


def _end_item(work: Work, row: StoredEscalation) -> None:
    """End the work item that shows the call of a critical result, whoever has it; it has the id of its escalation."""
    if row.report is None:
        return
    item = item_by_id(work.connection, row.id, locked=True)
    if row.state == "acknowledged":
        finish_item(work, item, reader=work.actor.id[:_LONGEST_READER])
    else:
        drop_item(work, item, row.read_back)


def _tell(work: Work, row: StoredEscalation, what: str, **told: Any) -> None:
    payload = {
        "escalation": row.id,
        "state": row.state,
        "rung": row.rung,
        "category": row.category,
        **told,
    }
    work.note(what, payload, facility=row.facility, study_uid=row.study_uid, item=row.item)


def _check_open(found: StoredEscalation) -> None:
    if found.state != "open":
        raise Conflict(f"Escalation {found.id} was {found.state} by {found.closed_by} at {found.closed_at}.")


def _when(work: Work, found: StoredEscalation, at: datetime | None) -> datetime:
    """When something was done, as somebody says; a clock that is a minute off does no harm."""
    if at is None:
        return work.now
    if at.tzinfo is None:
        raise Invalid("A time has a zone: 2026-11-24T22:10:00Z.")
    if at > work.now + _CLOCKS_DIFFER:
        raise Invalid("That is still to come; say when it was.")
    if at < found.opened_at - _CLOCKS_DIFFER:
        raise Invalid(f"At that time there was nothing to tell yet: escalation {found.id} was opened later.")
    return min(max(at, found.opened_at), work.now)


def _call(work: Work, found: StoredEscalation, contact: Contact, state: AttemptState, at: datetime, note: str) -> None:
    call = Attempt(
        escalation=found.id,
        rung=found.rung,
        contact=contact,
        at=at,
        state=state,
        by=work.actor.id,
        note=_text(note, "it") if note.strip() else "",
    )
    keep_call(work.connection, call, work.now)


def _words(text: str) -> str:
    """A few words on one line."""
    words = " ".join(text.split())
    if len(words) > _LONGEST_WORDS or _CONTROL.search(words):
        raise Invalid(f"A name, a role, a way or a number is one line of at most {_LONGEST_WORDS} characters.")
    return words


def cut(text: str) -> str:
    """As much of a text as may be the reason of an escalation."""
    return text if len(text) <= _LONGEST_TEXT else f"{text[: _LONGEST_TEXT - 1]}…"


def _text(text: str, what: str) -> str:
    text = text.strip()
    if not text or len(text) > _LONGEST_TEXT:
        raise Invalid(f"Say {what}, in at most {_LONGEST_TEXT} characters.")
    if _CONTROL.search(text):
        raise Invalid(f"Say {what} without control characters.")
    return text
