"""UPS-RS: the Worklist Service (PS3.18 chapter 11), a view of the work items.

A claim is a change to IN PROGRESS; its Transaction UID is the token of the claim, and is never shown. What a request
asks is a command of `server.worklist.ups_commands`.
"""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from datetime import timedelta
from functools import wraps
from typing import Any
from urllib.parse import quote, urlsplit

import anyio.to_thread
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from readingroom.errors import Invalid
from server.auth import Caller, caller_of
from server.dicomweb.datasets import OFFERS, PRIVATE, read_dataset, rendered
from server.dicomweb.negotiation import accepted, choose
from server.dicomweb.ups_query import ItemQuery, parse_item_query, record_key
from server.edge import error_response
from server.room import Room
from server.worklist.items import Work, working
from server.worklist.ups_commands import (
    TRANSACTION,
    Note,
    Objection,
    Why,
    change_step,
    create_step,
    request_step_cancel,
    update_step,
)
from storage.catalog.work_items import find_item, search_items, ups_of, upses_of
from storage.objects import MetadataJson
from storage.part10 import check_uid
from storage.upsrules import ALWAYS, RETURNED, value_of

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

_UID = re.compile(r"(?:0|[1-9]\d*)(?:\.(?:0|[1-9]\d*))+", re.ASCII)

View = Callable[[Request], Awaitable[Response]]


def _explaining(texts: Mapping[Why, str], otherwise: str = "") -> Callable[[View], View]:
    """Decorates a view: where the state of the item does not allow what is asked, a Warning says why."""

    def explain(view: View) -> View:
        @wraps(view)
        async def explained(request: Request) -> Response:
            try:
                return await view(request)
            except Objection as found:
                return _warn(request, error_response(found.error), texts.get(found.why, otherwise))

        return explained

    return explain


def _warn(request: Request, response: Response, *warnings: str) -> Response:
    host = urlsplit(caller_of(request).service_root).hostname
    for warning in warnings:
        response.headers.append("warning", f'299 {host}: "{warning}"')
    return response


# -- Create, Retrieve (11.4, 11.5) -------------------------------------------------------------------------------------


async def create_workitem(request: Request) -> Response:
    """Put a work item of somebody else's on the worklist."""
    caller = caller_of(request)
    dataset = await read_dataset(request, WHAT)
    uid = _named_uid(request, dataset)
    facility = caller.facility
    item, notes = await _work(request, lambda work: create_step(work, dataset, facility=facility, uid=uid))
    url = f"{caller.service_root}/workitems/{item.workitem_uid}"
    response = Response(status_code=201, headers={"location": url, "content-location": url})
    return _warn(request, response, *([CREATED_OTHERWISE] if "modified" in notes else []))


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


@_explaining({"not claimed": NOT_CLAIMED}, NOT_IN_THIS_STATE)
async def update_workitem(request: Request) -> Response:
    """Set attributes of a work item; of a claimed one, for its claimant."""
    dataset = await read_dataset(request, WHAT)
    token = _token(request, dataset)
    uid = request.path_params["workitem"]
    notes = await _work(request, lambda work: update_step(work, uid, dataset, token=token))
    texts: dict[Note, str] = {"not supported": NOT_SUPPORTED, "modified": UPDATED_OTHERWISE}
    return _warn(request, Response(status_code=200), *(texts[note] for note in notes))


def _token(request: Request, dataset: MetadataJson) -> str | None:
    """The Transaction UID of an update; the parameter's name has been spelled in many ways, and left out."""
    found = value_of(dataset, TRANSACTION)
    for name, value in request.query_params.multi_items():
        if name.lower().replace("-", "").removesuffix("uid") in ("transaction", TRANSACTION):
            found = value
        elif not value and _UID.fullmatch(name):
            found = name
    return found or None


# -- Change Workitem State, Request Cancellation (11.7, 11.8) ----------------------------------------------------------


@_explaining({"no token": NO_TOKEN, "wrong token": WRONG_TOKEN}, NOT_IN_THE_STATE)
async def change_state(request: Request) -> Response:
    """Claim a work item, or end what was claimed."""
    dataset = await read_dataset(request, WHAT)
    uid = request.path_params["workitem"]
    notes = await _work(request, lambda work: change_step(work, uid, dataset))
    state = str(value_of(dataset, "00741000")).replace("CANCELLED", "CANCELED")
    warnings = [ALREADY.format(state)] if "already" in notes else []
    return _warn(request, Response(status_code=200), *warnings)


@_explaining({"completed": IS_COMPLETED}, NOT_IN_THE_STATE)
async def request_cancel(request: Request) -> Response:
    """Cancel a work item that nobody has claimed, or ask who has to cancel it."""
    dataset = await read_dataset(request, WHAT, may_be_empty=True)

    uid = request.path_params["workitem"]
    notes = await _work(request, lambda work: request_step_cancel(work, uid, dataset))
    warnings = [ALREADY.format("CANCELED")] if "already" in notes else []
    return _warn(request, Response(status_code=202), *warnings)


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
