"""The worklist for the web room: what is to be read next, what a reader has, and a live feed of every change.

``/worklist`` is a list in the order to read it, and ``/worklist/UID`` all that is known of one item.
``/worklist/events`` are server-sent events; a client that comes back sends the number of the last one it has seen as
``Last-Event-ID``, as browsers do, and misses none.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Any

import orjson
import sqlalchemy as sa
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.routing import Route

from readingroom.errors import Invalid
from readingroom.model import PRIORITIES, Scope
from server.auth import caller_of
from server.feed import follow, sequence_of
from server.room import Room
from storage.catalog.answers import StoredAnswer, read_answers
from storage.catalog.events import Event, Wanted, last_sequence
from storage.catalog.work_items import StoredItem, find_item, items_of_reader, next_items, read_timeline

_MOST, _USUAL = 500, 50
_HEADERS = {"cache-control": "private, no-store"}


async def read_worklist(request: Request) -> Response:
    """The next items to read, or with ``reader`` what that one has claimed, on hold or is offered."""
    room: Room = request.app.state.room
    parameters = _parameters(request, {"limit", "reader", "facility"})
    limit = sequence_of(parameters.get("limit", str(_USUAL)), "limit") or 0
    if not 0 < limit <= _MOST:
        raise Invalid(f"'limit' has to be 1 to {_MOST}.")
    scope, now = _scope(request, parameters), room.clock.now()
    if (reader := parameters.get("reader")) is not None:
        found = (await room.read_apart(items_of_reader, scope, reader))[:limit]
    else:
        found = await room.read_apart(next_items, scope, now=now, limit=limit)
    root = caller_of(request).service_root
    return Response(
        orjson.dumps([shown(item, now, root) for item in found]), headers=_HEADERS, media_type="application/json"
    )


async def read_item(request: Request) -> Response:
    """One item by its UID: what happened to it, and what plugins have found in its study, or have said of it."""
    room: Room = request.app.state.room
    _parameters(request, set())
    caller = caller_of(request)
    found = await room.read_apart(_read_item, caller.scope, request.path_params["workitem_uid"])
    body = {**shown(found.item, room.clock.now(), caller.service_root)}
    body["timeline"] = [_entry(event) for event in found.timeline]
    body["answers"] = [_answer(answer) for answer in found.answers]
    return Response(orjson.dumps(body), headers=_HEADERS, media_type="application/json")


async def follow_worklist(request: Request) -> Response:
    """Every change of an item from now on, or from the last one that the client has seen."""
    room: Room = request.app.state.room
    parameters = _parameters(request, {"since", "facility"})
    after = sequence_of(request.headers.get("last-event-id"), "Last-Event-ID")
    if after is None:
        after = sequence_of(parameters.get("since"), "since")
    if after is None:
        after = await room.read(last_sequence)
    headers = {**_HEADERS, "x-accel-buffering": "no"}
    if request.method == "HEAD":
        return Response(headers=headers, media_type="text/event-stream")
    body = follow(room, _scope(request, parameters), Wanted(item=True), told, after=after)
    return StreamingResponse(body, headers=headers, media_type="text/event-stream")


def told(event: Event) -> bytes:
    """An event as the feed tells it: which item, what was done, from which state to which, by whom and when."""
    return orjson.dumps(_entry(event))


def _entry(event: Event) -> dict[str, Any]:
    return {
        **event.payload,
        "type": event.type,
        "sequence": event.sequence,
        "time": event.at.isoformat(timespec="microseconds").replace("+00:00", "Z"),
        "facility": event.facility,
        "study": event.study_uid,
    }


def _answer(answer: StoredAnswer) -> dict[str, Any]:
    """What a plugin was asked and has answered; a finding in it names the instances in which it is seen."""
    return {**asdict(answer), "answer": orjson.loads(answer.answer) if answer.answer else None}


@dataclass(frozen=True, slots=True)
class _Item:
    item: StoredItem
    timeline: list[Event]
    answers: list[StoredAnswer]


def _read_item(connection: sa.Connection, scope: Scope, workitem_uid: str) -> _Item:
    item = find_item(connection, scope, workitem_uid)
    answers = read_answers(connection, item.facility, item.study_uid) if item.study_uid else []
    return _Item(item=item, timeline=read_timeline(connection, item.id), answers=answers)


def shown(item: StoredItem, now: datetime, root: str) -> dict[str, Any]:
    """An item as the list has it: what travels, its priority as it holds now, and where it and its study are."""
    shown = asdict(item.shown)
    return {
        **shown,
        "holds": PRIORITIES[item.rank],
        "is_at_risk": item.warn_at is not None and item.warn_at <= now,
        "workitem": f"{root}/workitems/{item.workitem_uid}",
        "study": f"{root}/studies/{item.study_uid}" if item.study_uid else None,
    }


def _parameters(request: Request, known: set[str]) -> Mapping[str, str]:
    unknown = sorted(set(request.query_params) - known)
    if unknown:
        told = f"there are {', '.join(sorted(known))}" if known else "there is none"
        raise Invalid(f"There is no parameter {unknown[0][:40]!r} here; {told}.")
    return request.query_params


def _scope(request: Request, parameters: Mapping[str, str]) -> Scope:
    scope = caller_of(request).scope
    return scope.narrowed(parameters["facility"]) if "facility" in parameters else scope


routes = [
    Route("/worklist", read_worklist, methods=["GET"]),
    Route("/worklist/events", follow_worklist, methods=["GET"]),
    Route("/worklist/{workitem_uid}", read_item, methods=["GET"]),
]
