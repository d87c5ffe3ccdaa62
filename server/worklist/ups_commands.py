"""What a Unified Procedure Step is asked to become (PS3.4 annex CC), as commands on a work item.

DICOMweb and DIMSE are two ways to the same: a data set is checked against PS3.4 Table CC.2.5-3 and becomes commands of
`server.worklist.items`. What a request runs against is an `Objection` that says why, in words; the views know the texts
and the numbers that the standard has for it.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta, timezone
from typing import Any, Literal

from pydicom.datadict import dictionary_description

from readingroom.errors import Conflict, Invalid, ReadingRoomError
from server.worklist.items import (
    Work,
    await_input,
    cancel_item,
    claim_item,
    complete_item,
    create_item,
    decline_item,
    make_ready,
    offer_item,
    reassign_item,
    reprioritise_item,
    request_cancellation,
    resume_item,
    schedule_item,
    update_attributes,
)
from server.worklist.states import WrongToken, check
from storage.catalog.normal import normal_moment, offset_minutes
from storage.catalog.ups import code, element, moment, priority_of
from storage.catalog.work_items import StoredItem, ups_of
from storage.objects import MetadataJson
from storage.part10 import check_uid
from storage.upsrules import SET_HERE, Final, check_created, check_final, check_updated, items_of, value_of

Why = Literal["over", "no token", "wrong token", "claimed", "not claimed", "unfinished", "completed", "other"]
"""Why the state of an item does not allow what is asked: it is COMPLETED or CANCELED; the Transaction UID is missing,
or not that of the claim; it is IN PROGRESS already, or is not; the requirements of its final state are not met; it is
COMPLETED, and no more to be cancelled; something else."""

Note = Literal["modified", "not supported", "already"]
"""What to warn of: what was sent is kept otherwise; some of it is not; the item is in the requested state already."""

TRANSACTION = "00081195"
_NO_REASON = code("110513", "DCM", "Discontinued for unspecified reason")
"""Of CID 9300, where nobody gave another."""


class Objection(Exception):
    """A request that the state of an item does not allow: what is told, and why."""

    def __init__(self, error: ReadingRoomError, why: Why) -> None:
        super().__init__(error.message)
        self.error, self.why = error, why


@contextmanager
def _objecting(token: str | None) -> Iterator[None]:
    try:
        yield
    except WrongToken as error:
        # A request without a Transaction UID is none; one with another than the claim's is a conflict with the claim.
        if token:
            raise Objection(error, "wrong token") from None
        raise Objection(Invalid(error.message), "no token") from None
    except Conflict as error:
        raise Objection(error, "other") from None


def create_step(work: Work, dataset: MetadataJson, *, facility: str, uid: str | None) -> tuple[StoredItem, list[Note]]:
    """Put a work item of somebody else's on the worklist.

    Parameters
    ----------
    uid
        Its UID; without one it gets one.

    Raises
    ------
    Invalid
        It cannot become a UPS.
    Conflict
        There is one with that UID.
    """
    sent = {tag: one for tag, one in dataset.items() if tag not in SET_HERE["create"] and tag[:4] != "0000"}
    check_created(sent)
    notes: list[Note] = ["modified"] if "00404010" in dataset or value_of(sent, "00741202") is None else []
    if value_of(sent, "00741202") is None:
        sent["00741202"] = element("LO", facility)
    item = create_item(
        work,
        facility=facility,
        kind="external",
        workitem_uid=uid,
        is_ready=value_of(sent, "00404041") == "READY",
        priority=priority_of(sent),
        attributes=_kept(sent),
        **_columns(sent),
    )
    return item, notes


def update_step(work: Work, uid: str, dataset: MetadataJson, *, token: str | None) -> list[Note]:
    """Set attributes of a work item; of a claimed one, for its claimant.

    Raises
    ------
    NotFound, Invalid, Objection
        There is none; what is to be set cannot be; its state does not allow it.
    """
    sent = {tag: one for tag, one in dataset.items() if tag not in SET_HERE["update"] and tag != TRANSACTION}
    item = work.find(uid)
    if item.ups_state in ("COMPLETED", "CANCELED"):
        what = f"Work item {item.workitem_uid} is {item.ups_state}, and stays as it is."
        raise Objection(Invalid(what), "over")  # and no Conflict (PS3.18 11.6.2)
    if token and not item.is_claimed:
        what = f"Work item {item.workitem_uid} is not claimed, so it is updated without a Transaction UID."
        raise Objection(Conflict(what), "not claimed")
    check_updated(sent)
    with _objecting(token):
        notes = _set(work, item, sent, token)
    if SET_HERE["update"] & dataset.keys():
        notes.append("modified")
    return notes


def change_step(work: Work, uid: str, dataset: MetadataJson) -> list[Note]:
    """Claim a work item, or end what was claimed.

    Raises
    ------
    NotFound, Invalid, Objection
        There is none; that is no state; its state does not allow it.
    """
    state, token = value_of(dataset, "00741000"), value_of(dataset, TRANSACTION)
    if state == "CANCELLED":  # as PS3.18 11.7.1.4 spells it
        state = "CANCELED"
    if state not in ("IN PROGRESS", "COMPLETED", "CANCELED"):
        raise Invalid("Procedure Step State (0074,1000) has to be IN PROGRESS, COMPLETED or CANCELED.")
    if token is not None:
        check_uid("Transaction UID (0008,1195)", token)
    item = work.find(uid)
    if not token:
        raise Objection(Invalid("The Transaction UID (0008,1195) is missing."), "no token")
    with _objecting(token):
        if state != "IN PROGRESS":
            return _finish(work, item, state, token)
        if item.ups_state != "SCHEDULED":
            what = f"Work item {item.workitem_uid} is {item.ups_state}; only a SCHEDULED one is claimed."
            raise Objection(Conflict(what), "claimed" if item.ups_state == "IN PROGRESS" else "over")
        # The standard asks for the token alone (PS3.18 11.7.1.4); of those who share an application, and whom
        # nothing else tells apart yet, the one who is to read says so here.
        reader = _performer(dataset, "00404035") if item.kind != "external" else None
        claim_item(work, item, token=token, reader=reader or "")
    return []


def request_step_cancel(work: Work, uid: str, dataset: MetadataJson) -> list[Note]:
    """Cancel a work item that nobody has claimed, or ask who has to cancel it.

    Raises
    ------
    NotFound, Objection
        There is none; it is COMPLETED.
    """
    item = work.find(uid)
    reason = str(value_of(dataset, "00741238") or "")
    if item.ups_state == "CANCELED":
        return ["already"]
    if item.ups_state == "COMPLETED":
        what = f"Work item {item.workitem_uid} is COMPLETED, and cannot be cancelled any more."
        raise Objection(Conflict(what), "completed")
    if item.ups_state == "SCHEDULED":
        cancel_item(work, item, reason, attributes=_discontinued(work, item, dataset))
    else:
        asked: MetadataJson = {
            tag: dataset[tag] for tag in ("00741238", "0074100A", "0074100C", "0074100E") if tag in dataset
        }
        request_cancellation(work, item, reason, asked)
    return []


def _set(work: Work, item: StoredItem, sent: MetadataJson, token: str | None) -> list[Note]:
    """Give the commands that attributes stand for, and keep the others; returns what there is to warn of."""
    notes: list[Note] = []
    columns = _columns(sent)
    is_own = item.kind != "external"
    if is_own and "00404011" in sent:
        sent = {tag: one for tag, one in sent.items() if tag != "00404011"}  # it is due by contract
        notes.append("not supported")
    if is_own:
        columns = {}
    due_at = columns.pop("due_at", None)
    kept = _kept(sent, is_own=is_own)
    check("update", item, work.actor, token=token)
    if kept or columns:
        item = update_attributes(work, item, kept, token=token, **columns)
    if due_at is not None:
        item = schedule_item(work, item, due_at=due_at, warn_at=item.warn_at)
    if "00741200" in sent:
        item = reprioritise_item(work, item, priority_of(sent))
    if is_own and "00404034" in sent:
        item = _assign(work, item, sent)
    readiness = value_of(sent, "00404041")
    if readiness == "READY" and item.state == "waiting":
        make_ready(work, item)
    elif readiness in ("INCOMPLETE", "UNAVAILABLE") and item.state in ("ready", "assigned"):
        await_input(work, item)
    return notes


def _assign(work: Work, item: StoredItem, sent: MetadataJson) -> StoredItem:
    """Offer one of our own items to the reader that Scheduled Human Performers names, or to nobody."""
    reader = _performer(sent, "00404034")
    if reader is None:
        return decline_item(work, item, reader=item.offered_to or "") if item.state == "assigned" else item
    if item.state == "assigned":
        return item if item.offered_to == reader else reassign_item(work, item, reader)
    return offer_item(work, item, reader)


def _performer(dataset: MetadataJson, tag: str) -> str | None:
    """The one reader that a sequence of human performers names by the code; None where it has no item."""
    performers, named = items_of(dataset, tag), f"{dictionary_description(int(tag, 16))} ({tag[:4]},{tag[4:]})"
    if not performers:
        return None
    if len(performers) > 1:
        raise Invalid(f"A reading has one reader; {named} has several.")
    reader = value_of(performers[0], "00404009", "00080100")
    if not reader:
        raise Invalid(f"{named} has to name a reader by the Code Value of Human Performer Code Sequence (0040,4009).")
    return str(reader)


def _finish(work: Work, item: StoredItem, state: str, token: str) -> list[Note]:
    """End a claimed item (PS3.4 Table CC.1.1-2); returns what there is to warn of."""
    if item.claim_token is not None and item.claim_token != token:
        raise WrongToken(f"The Transaction UID is incorrect: it is not that of work item {item.workitem_uid}.")
    if item.ups_state == state:
        return ["already"]
    if item.ups_state != "IN PROGRESS":
        what = f"Work item {item.workitem_uid} is {item.ups_state}; to be {state}, it has to be IN PROGRESS."
        raise Objection(Conflict(what), "not claimed" if item.ups_state == "SCHEDULED" else "over")
    if state == "COMPLETED":
        _require_final(ups_of(work.connection, item), "COMPLETED")
        if item.state == "held":
            item = resume_item(work, item, token=token)
        complete_item(work, item, token=token)
    else:
        attributes = _discontinued(work, item, {})
        _require_final(ups_of(work.connection, item) | attributes, "CANCELED")
        cancel_item(work, item, token=token, attributes=attributes)
    return []


def _require_final(shown: MetadataJson, state: Final) -> None:
    try:
        check_final(shown, state)
    except Conflict as error:
        raise Objection(error, "unfinished") from None


def _discontinued(work: Work, item: StoredItem, dataset: MetadataJson) -> MetadataJson:
    """The progress of an item that is being cancelled: when and why, as it says itself, or as it was asked."""
    shown = ups_of(work.connection, item)
    progress = dict(next(iter(items_of(shown, "00741002")), {}))
    for tag in ("00741238", "0074100E"):
        if value_of(dataset, tag) is not None:
            progress[tag] = dataset[tag]
    if value_of(progress, "0074100E") is None:
        progress["0074100E"] = element("SQ", _NO_REASON)
    if value_of(progress, "00404052") is None:
        progress["00404052"] = element("DT", moment(work.now))
    return {"00741002": element("SQ", dict(sorted(progress.items())))}


def _kept(sent: MetadataJson, *, is_own: bool = False) -> MetadataJson:
    """What of a data set no column holds."""
    columns = {TRANSACTION, "00741000", "00741200", *(("00404034", "00404041") if is_own else ())}
    return {tag: one for tag, one in sent.items() if tag not in columns}


def _columns(sent: MetadataJson) -> dict[str, Any]:
    """The columns that follow from attributes which a request sets."""
    columns: dict[str, Any] = {}
    if "0040A370" in sent or "00404021" in sent:
        study = value_of(sent, "00404021", "0020000D") or value_of(sent, "0040A370", "0020000D")
        if study is not None:
            columns["study_uid"] = study
        if (accession := value_of(sent, "0040A370", "00080050")) is not None:
            columns["accession_number"] = accession
    if "00404011" in sent:
        columns["due_at"] = _moment(str(value_of(sent, "00404011") or ""))
    return columns


def _moment(text: str) -> datetime | None:
    """A DT value as a time; without an offset it is taken to be in UTC."""
    found = normal_moment(text)
    if found is None:
        return None
    first, _, offset = found
    zone = timezone(timedelta(minutes=offset_minutes(offset))) if offset else UTC
    try:
        return datetime.strptime(f"{first[:12]}{min(int(first[12:14]), 59):02}{first[14:]}", "%Y%m%d%H%M%S.%f").replace(
            tzinfo=zone
        )
    except (ValueError, OverflowError):
        return None
