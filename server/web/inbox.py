"""The HL7 messages that came, and what became of them."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import asdict
from typing import Any

import anyio.to_thread
import orjson
import sqlalchemy as sa
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

from readingroom.errors import Invalid, NotFound
from server.auth import caller_of, require
from server.hl7.inbox import drop_message, retry_message
from server.room import Room
from server.web.bodies import body_of
from server.worklist.items import Work, working
from storage.catalog.inbox import MESSAGE_STATES, StoredMessage, body_of_message, find_message, list_messages

_MOST, _USUAL = 1000, 100
_FILTERS = ("state", "sender", "kind", "facility", "control_id")


async def listed(request: Request) -> Response:
    """The messages of the facilities in scope, the newest first, page by page; never what they say."""
    room: Room = request.app.state.room
    caller, told = caller_of(request), request.query_params
    require(caller.actor, "supervise")
    if set(told) - {*_FILTERS, "before", "limit"} or len(told.multi_items()) > len(told):
        raise Invalid(f"The parameters here are {', '.join(_FILTERS)}, before and limit, each once.")
    if told.get("state", MESSAGE_STATES[0]) not in MESSAGE_STATES:
        raise Invalid(f"The states of a message are {', '.join(MESSAGE_STATES)}.")
    known = {name: told.get(name) for name in _FILTERS}
    before, limit = _number(told.get("before"), "before"), _number(told.get("limit"), "limit") or _USUAL
    rows = await room.read_apart(
        lambda connection: list_messages(connection, caller.scope, before=before, limit=min(limit, _MOST), **known)
    )
    return _json([asdict(row) for row in rows])


async def one(request: Request) -> Response:
    """One message, and what became of it."""
    room: Room = request.app.state.room
    caller, id = caller_of(request), _id(request)
    require(caller.actor, "supervise")
    return _json(asdict(await room.read(find_message, caller.scope, id)))


async def raw(request: Request) -> Response:
    """The bytes of a message, as they came."""
    room: Room = request.app.state.room
    caller, id = caller_of(request), _id(request)
    require(caller.actor, "supervise")

    def read(connection: sa.Connection) -> bytes:
        return body_of_message(connection, find_message(connection, caller.scope, id).id)

    body = await room.read_apart(read)
    headers = {"Cache-Control": "private, no-store", "X-Content-Type-Options": "nosniff"}
    return Response(body, 200, headers, media_type="x-application/hl7-v2+er7")


async def retried(request: Request) -> Response:
    """Have it applied again: one that failed, or with ``replay`` any; with ``force`` also over a later one."""
    id = _id(request)
    told = await body_of(request, {"replay": bool, "force": bool}) if await request.body() else {}
    queue = request.app.state.room.queue

    def act(work: Work) -> None:
        replay, force = told.get("replay", False), told.get("force", False)
        retry_message(work, queue, id, is_replay=replay, is_forced=force)

    return await _changed(request, id, act, 202)


async def dropped(request: Request) -> Response:
    """Have it lead to nothing; it stays in the inbox."""
    id = _id(request)
    return await _changed(request, id, lambda work: drop_message(work, id), 200)


async def _changed(request: Request, id: int, act: Callable[[Work], object], status: int) -> Response:
    room: Room = request.app.state.room
    caller = caller_of(request)
    require(caller.actor, "supervise")

    def change() -> StoredMessage:
        with working(room.engine, room.clock, caller.actor, caller.scope, queue=room.queue) as work:
            act(work)
            return find_message(work.connection, caller.scope, id)

    return _json(asdict(await anyio.to_thread.run_sync(change, limiter=room.db)), status=status)


def _id(request: Request) -> int:
    id = request.path_params["id"]
    if not re.fullmatch(r"[0-9]{1,18}", id):
        raise NotFound(f"There is no message {id[:40]}.")
    return int(id)


def _number(given: str | None, what: str) -> int | None:
    if given is None:
        return None
    if not re.fullmatch(r"[0-9]{1,18}", given) or not int(given):
        raise Invalid(f"The parameter {what} is a number from 1 on, not {given[:20]!r}.")
    return int(given)


def _json(value: Any, *, status: int = 200) -> Response:
    return Response(orjson.dumps(value), status, {"Cache-Control": "private, no-store"}, media_type="application/json")


routes: list[BaseRoute] = [
    Route("/hl7/messages", listed, methods=["GET"]),
    Route("/hl7/messages/{id}", one, methods=["GET"]),
    Route("/hl7/messages/{id}/raw", raw, methods=["GET"]),
    Route("/hl7/messages/{id}/retry", retried, methods=["POST"]),
    Route("/hl7/messages/{id}/drop", dropped, methods=["POST"]),
]
