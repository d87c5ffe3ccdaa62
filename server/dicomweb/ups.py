"""UPS-RS: the Worklist Service (PS3.18 chapter 11), a view of the work items.

A claim is a change to IN PROGRESS; its Transaction UID is the token of the claim, and is never shown. What a request
asks is checked against PS3.4 Table CC.2.5-3 and becomes a command of `server.worklist.items`.
"""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta, timezone
from functools import wraps
from typing import Any
from urllib.parse import quote, urlsplit

import anyio.to_thread
from pydicom.datadict import dictionary_description
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from readingroom.errors import Conflict, Invalid, ReadingRoomError
from server.auth import Caller, caller_of
from server.dicomweb.datasets import OFFERS, PRIVATE, read_dataset, rendered
from server.dicomweb.negotiation import accepted, choose
from server.dicomweb.ups_query import ItemQuery, parse_item_query, record_key
from server.edge import error_response
from server.room import Room
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
    working,
)
from server.worklist.states import WrongToken, check
from storage.catalog.normal import normal_moment, offset_minutes
from storage.catalog.ups import code, element, moment, priority_of
from storage.catalog.work_items import StoredItem, find_item, search_items, ups_of, upses_of
from storage.objects import MetadataJson
from storage.part10 import check_uid
from storage.upsrules import (
    ALWAYS,
    RETURNED,
    SET_HERE,
    check_created,
    check_final,
    check_updated,
    items_of,
    value_of,
)

WHAT = "Work items"
"""What bodies of requests are, in messages."""

# The texts of Warnings that the standard names (PS3.18 11.4.3.2, 11.6.3.2, 11.7.3.2, 11.8.3.2).
CREATED_OTHERWISE = "The Workitem was created with modifications."
UPDATED_OTHERWISE = "The Workitem was updated with modifications."
NOT_SUPPORTED = "Requested optional Attributes are not supported."
NOT_CLAIMED = "The target URI did not reference a claimed Workitem."
NOT_IN_THIS_STATE = "The submitted request is inconsistent with the current state of the Workitem."
NOT_IN_THE_STATE = "The submitted request is inconsistent with the state of the UPS Instance."
NO_TOKEN, WRONG_TOKEN = "The Transaction UID is missing.", "The Transaction UID is incorrect."
ALREADY = "The UPS is already in the requested state of {}."
IS_COMPLETED = "The UPS is already COMPLETED."

_TRANSACTION = "00081195"
_UID = re.compile(r"(?:0|[1-9]\d*)(?:\.(?:0|[1-9]\d*))+", re.ASCII)
_NO_REASON = code("110513", "DCM", "Discontinued for unspecified reason")
"""Of CID 9300, where nobody gave another."""

View = Callable[[Request], Awaitable[Response]]


class _Warned(Exception):
    """An error, with the text of the Warning that the standard wants beside it."""

    def __init__(self, error: ReadingRoomError, warning: str) -> None:
        super().__init__(error.message)
        self.error, self.warning = error, warning


def _warning(view: View) -> View:
    @wraps(view)
    async def warned(request: Request) -> Response:
        try:
            return await view(request)
        except _Warned as found:
            return _warn(request, error_response(found.error), found.warning)

    return warned


def _warn(request: Request, response: Response, *warnings: str) -> Response:
    host = urlsplit(caller_of(request).service_root).hostname
    for warning in warnings:
        response.headers.append("warning", f'299 {host}: "{warning}"')
    return response


# -- Create, Retrieve (11.4, 11.5) -------------------------------------------------------------------------------------


@_warning
async def create_workitem(request: Request) -> Response:
    """Put a work item of somebody else's on the worklist."""
    caller = caller_of(request)
    dataset = await read_dataset(request, WHAT)
    uid = _named_uid(request, dataset)
    sent = {tag: one for tag, one in dataset.items() if tag not in SET_HERE["create"] and tag[:4] != "0000"}
    check_created(sent)
    is_modified = "00404010" in dataset or value_of(sent, "00741202") is None
    if value_of(sent, "00741202") is None:
        sent["00741202"] = element("LO", caller.facility)
    columns = _columns(sent)

    def create(work: Work) -> StoredItem:
        return create_item(
            work,
            facility=caller.facility,
            kind="external",
            workitem_uid=uid,
            is_ready=value_of(sent, "00404041") == "READY",
            priority=priority_of(sent),
            attributes=_kept(sent),
            **columns,
        )

    item = await _work(request, create)
    url = f"{caller.service_root}/workitems/{item.workitem_uid}"
    response = Response(status_code=201, headers={"location": url, "content-location": url})
    return _warn(request, response, *([CREATED_OTHERWISE] if is_modified else []))


async def retrieve_workitem(request: Request) -> Response:
    """Retrieve a work item; its Transaction UID is left out."""
    room: Room = request.app.state.room
    caller, offer = caller_of(request), choose(accepted(request), OFFERS)

    def read(connection: Any) -> MetadataJson:
        item = find_item(connection, caller.scope, request.path_params["workitem"])
        return ups_of(connection, item, caller.service_root)

    dataset = await room.read(read)
    response = rendered(offer, [dataset])
    response.headers["content-location"] = f"{caller.service_root}/workitems/{value_of(dataset, '00080018')}"
    return response


def _named_uid(request: Request, dataset: MetadataJson) -> str | None:
    """The UID to create an item with: as the query names it, or the data set; None where neither does."""
    query = request.query_params
    named = [query[name] for name in ("workitem", "AffectedSOPInstanceUID", "affectedSOPInstanceUID") if name in query]
    named += [name for name, value in query.multi_items() if not value and _UID.fullmatch(name)]
    named += [uid for tag in ("00001000", "00080018") if (uid := value_of(dataset, tag))]
    if len(set(named)) > 1:
        raise Invalid("The query and the data set name different UIDs for the work item.")
    return check_uid("Workitem UID", named[0]) if named else None


# -- Update (11.6) -----------------------------------------------------------------------------------------------------


@_warning
async def update_workitem(request: Request) -> Response:
    """Set attributes of a work item; of a claimed one, for its claimant."""
    dataset = await read_dataset(request, WHAT)
    token = _token(request, dataset)
    sent = {tag: one for tag, one in dataset.items() if tag not in SET_HERE["update"] and tag != _TRANSACTION}

    def update(work: Work) -> list[str]:
        item = work.find(request.path_params["workitem"])
        if item.ups_state in ("COMPLETED", "CANCELED"):
            what = f"Work item {item.workitem_uid} is {item.ups_state}, and stays as it is."
            raise _Warned(Invalid(what), NOT_IN_THIS_STATE)  # and no Conflict (11.6.2)
        if token and not item.is_claimed:
            what = f"Work item {item.workitem_uid} is not claimed, so it is updated without a Transaction UID."
            raise _Warned(Conflict(what), NOT_CLAIMED)
        check_updated(sent)
        try:
            return [*_set(work, item, sent, token)]
        except WrongToken as error:
            raise _Warned(_refusal(error, token), NOT_IN_THIS_STATE) from None
        except Conflict as error:
            raise _Warned(error, NOT_IN_THIS_STATE) from None

    warnings = await _work(request, update)
    if SET_HERE["update"] & dataset.keys():
        warnings.append(UPDATED_OTHERWISE)
    return _warn(request, Response(status_code=200), *warnings)


def _set(work: Work, item: StoredItem, sent: MetadataJson, token: str | None) -> list[str]:
    """Give the commands that attributes stand for, and keep the others; returns what there is to warn of."""
    warnings = []
    columns = _columns(sent)
    is_own = item.kind != "external"
    if is_own and "00404011" in sent:
        sent = {tag: one for tag, one in sent.items() if tag != "00404011"}  # it is due by contract
        warnings.append(NOT_SUPPORTED)
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
    return warnings


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


def _token(request: Request, dataset: MetadataJson) -> str | None:
    """The Transaction UID of an update; the parameter's name has been spelled in many ways, and left out."""
    found = value_of(dataset, _TRANSACTION)
    for name, value in request.query_params.multi_items():
        if name.lower().replace("-", "").removesuffix("uid") in ("transaction", _TRANSACTION):
            found = value
        elif not value and _UID.fullmatch(name):
            found = name
    return found or None


# -- Change Workitem State, Request Cancellation (11.7, 11.8) ----------------------------------------------------------


@_warning
async def change_state(request: Request) -> Response:
    """Claim a work item, or end what was claimed."""
    dataset = await read_dataset(request, WHAT)
    state = value_of(dataset, "00741000")
    token = value_of(dataset, _TRANSACTION)
    if state == "CANCELLED":  # as PS3.18 11.7.1.4 spells it
        state = "CANCELED"
    if state not in ("IN PROGRESS", "COMPLETED", "CANCELED"):
        raise Invalid("Procedure Step State (0074,1000) has to be IN PROGRESS, COMPLETED or CANCELED.")
    if token is not None:
        check_uid("Transaction UID (0008,1195)", token)

    def change(work: Work) -> list[str]:
        item = work.find(request.path_params["workitem"])
        if not token:
            raise _Warned(Invalid("The Transaction UID (0008,1195) is missing."), NO_TOKEN)
        try:
            if state == "IN PROGRESS":
                if item.ups_state != "SCHEDULED":
                    raise Conflict(
                        f"Work item {item.workitem_uid} is {item.ups_state}; only a SCHEDULED one is claimed."
                    )
                # The standard asks for the token alone (PS3.18 11.7.1.4); of those who share an application, and whom
                # nothing else tells apart yet, the one who is to read says so here.
                reader = _performer(dataset, "00404035") if item.kind != "external" else None
                claim_item(work, item, token=token, reader=reader or "")
                return []
            return [*_finish(work, item, state, token)]
        except WrongToken as error:
            raise _Warned(_refusal(error, token), WRONG_TOKEN) from None
        except Conflict as error:
            raise _Warned(error, NOT_IN_THE_STATE) from None

    return _warn(request, Response(status_code=200), *await _work(request, change))


def _refusal(error: WrongToken, token: str | None) -> ReadingRoomError:
    """A request without a Transaction UID is none; one with another than the claim's is a conflict with the claim."""
    return error if token else Invalid(error.message)


def _finish(work: Work, item: StoredItem, state: str, token: str) -> list[str]:
    """End a claimed item (PS3.4 Table CC.1.1-2); returns what there is to warn of."""
    if item.claim_token is not None and item.claim_token != token:
        raise WrongToken(f"The Transaction UID is incorrect: it is not that of work item {item.workitem_uid}.")
    if item.ups_state == state:
        return [ALREADY.format(state)]
    if item.ups_state != "IN PROGRESS":
        raise Conflict(f"Work item {item.workitem_uid} is {item.ups_state}; to be {state}, it has to be IN PROGRESS.")
    if state == "COMPLETED":
        check_final(ups_of(work.connection, item), "COMPLETED")
        if item.state == "held":
            item = resume_item(work, item, token=token)
        complete_item(work, item, token=token)
    else:
        attributes = _discontinued(work, item, {})
        check_final(ups_of(work.connection, item) | attributes, "CANCELED")
        cancel_item(work, item, token=token, attributes=attributes)
    return []


@_warning
async def request_cancel(request: Request) -> Response:
    """Cancel a work item that nobody has claimed, or ask who has to cancel it."""
    dataset = await read_dataset(request, WHAT, may_be_empty=True)

    def cancel(work: Work) -> list[str]:
        item = work.find(request.path_params["workitem"])
        reason = str(value_of(dataset, "00741238") or "")
        if item.ups_state == "CANCELED":
            return [ALREADY.format("CANCELED")]
        if item.ups_state == "COMPLETED":
            what = f"Work item {item.workitem_uid} is COMPLETED, and cannot be cancelled any more."
            raise _Warned(Conflict(what), IS_COMPLETED)
        if item.ups_state == "SCHEDULED":
            cancel_item(work, item, reason, attributes=_discontinued(work, item, dataset))
        else:
            asked: MetadataJson = {
                tag: dataset[tag] for tag in ("00741238", "0074100A", "0074100C", "0074100E") if tag in dataset
            }
            request_cancellation(work, item, reason, asked)
        return []

    return _warn(request, Response(status_code=202), *await _work(request, cancel))


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


# -- Search (11.9) -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class _Page:
    rows: list[MetadataJson]
    next: str


async def search_workitems(request: Request) -> Response:
    """Search for work items, the newest first."""
    room: Room = request.app.state.room
    caller, offer = caller_of(request), choose(accepted(request), OFFERS)
    query = parse_item_query(request.scope["query_string"])
    page = await room.read_apart(_page, caller, query)
    if page.rows:
        response = rendered(offer, page.rows, status_code=206 if page.next else 200)
    else:
        response = Response(status_code=204, headers=PRIVATE)
    if page.next:
        following = [(name, value) for name, value in request.query_params.multi_items() if name not in _PAGING]
        text = "&".join(f"{quote(name)}={quote(value)}" for name, value in [*following, ("PriorRecordKey", page.next)])
        response.headers["link"] = f'<{caller.service_root}/workitems?{text}>; rel="next"'
        _warn(request, response, "There are additional results that can be requested.")
    if query.ignored:
        names = ", ".join(
            name if _PRINTED.fullmatch(name) else "(one that is not printed)" for name in query.ignored[:9]
        )
        _warn(request, response, f"These parameters are not supported and have not been matched: {names}.")
    return response


_PAGING = frozenset(("offset", "PriorRecordKey", "0008041C"))
_PRINTED = re.compile(r"[A-Za-z0-9_.-]{1,64}")


def _page(connection: Any, caller: Caller, query: ItemQuery) -> _Page:
    if not query.limit:
        return _Page(rows=[], next="")
    found = search_items(
        connection,
        caller.scope,
        query.conditions,
        limit=query.limit + 1,
        offset=query.offset,
        after=query.after,
    )
    items, rest = found[: query.limit], found[query.limit :]
    rows = upses_of(connection, items, caller.service_root)
    if query.fields is not None:
        wanted = RETURNED | query.fields
        rows = [{tag: one for tag, one in row.items() if tag in wanted and _is_told(tag, one, query)} for row in rows]
    return _Page(rows=rows, next=record_key(items[-1].id) if rest else "")


def _is_told(tag: str, one: Mapping[str, Any], query: ItemQuery) -> bool:
    """Whether an answer has an attribute: what it has only where it is there, not where it is empty."""
    return tag in ALWAYS or tag in (query.fields or ()) or len(one) > 1


# -- bodies ------------------------------------------------------------------------------------------------------------


def _kept(sent: MetadataJson, *, is_own: bool = False) -> MetadataJson:
    """What of a data set no column holds."""
    columns = {_TRANSACTION, "00741000", "00741200", *(("00404034", "00404041") if is_own else ())}
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


async def _work[T](request: Request, command: Callable[[Work], T]) -> T:
    """Give a command in a transaction of its own."""
    room: Room = request.app.state.room
    caller = caller_of(request)

    def run() -> T:
        lasts = timedelta(minutes=room.settings.claim_minutes)
        with working(room.engine, room.clock, caller.actor, caller.scope, claim_lasts=lasts, queue=room.queue) as work:
            return command(work)

    return await anyio.to_thread.run_sync(run, limiter=room.db)


routes = [
    Route("/workitems", create_workitem, methods=["POST"]),
    Route("/workitems", search_workitems, methods=["GET"]),
    Route("/workitems/{workitem}", retrieve_workitem, methods=["GET"]),
    Route("/workitems/{workitem}", update_workitem, methods=["POST"]),
    Route("/workitems/{workitem}/state", change_state, methods=["PUT"]),
    Route("/workitems/{workitem}/cancelrequest", request_cancel, methods=["POST"]),
]
