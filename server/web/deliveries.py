"""What became of the reports that are to be delivered, and the command that has one go again."""

from __future__ import annotations

import re
from dataclasses import asdict
from typing import Any, get_args

import anyio.to_thread
import orjson
import sqlalchemy as sa
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

from readingroom.errors import Invalid, NotFound, Refused
from server.auth import caller_of
from server.reports.delivery import repeat_delivery
from server.room import Room
from server.web.bodies import body_of
from server.worklist.items import working
from storage.catalog.deliveries import (
    DELIVERY_STATES,
    DeliveryState,
    StoredDelivery,
    find_delivery,
    list_deliveries,
    list_delivery_attempts,
)

_MOST = 1000
_USUAL = 100
_FILTERS = ("report", "state", "facility", "destination", "channel")


async def listed(request: Request) -> Response:
    """The deliveries of the facilities in scope, the newest first, page by page."""
    room: Room = request.app.state.room
    told = request.query_params
    if set(told) - {*_FILTERS, "before", "limit"} or len(told.multi_items()) > len(told):
        raise Invalid(f"The parameters here are {', '.join(_FILTERS)}, before and limit, each once.")
    if told.get("state", DELIVERY_STATES[0]) not in get_args(DeliveryState):
        raise Invalid(f"The states of a delivery are {', '.join(DELIVERY_STATES)}.")
    known = {name: told.get(name) for name in _FILTERS}
    before, limit = _number(told.get("before"), "before", None), _number(told.get("limit"), "limit", _USUAL)
    scope = caller_of(request).scope
    found = await room.read_apart(
        lambda connection: list_deliveries(connection, scope, before=before, limit=min(limit or _USUAL, _MOST), **known)
    )
    return _json([shown(row) for row in found])


async def one(request: Request) -> Response:
    """One delivery with its attempts."""
    room: Room = request.app.state.room
    scope, id = caller_of(request).scope, _id(request)

    def read(connection: sa.Connection) -> dict[str, Any]:
        row = find_delivery(connection, scope, id)
        return {**shown(row), "attempts": [asdict(one) for one in list_delivery_attempts(connection, id)]}

    return _json(await room.read(read))


async def repeated(request: Request) -> Response:
    """Have it go again at once; under a new control id where ``new`` is true."""
    room: Room = request.app.state.room
    caller, id = caller_of(request), _id(request)
    told = await body_of(request, {"new": bool}) if await request.body() else {}
    if not caller.actor.may.intersection(("supervise", "sign")):
        raise Refused(f"{caller.actor.id} may not do this; the permission 'supervise' or 'sign' is needed.")

    def act() -> StoredDelivery:
        with working(room.engine, room.clock, caller.actor, caller.scope, queue=room.queue) as work:
            return repeat_delivery(work, room.queue, id, is_new=told.get("new", False))

    return _json(shown(await anyio.to_thread.run_sync(act, limiter=room.db)), status=202)


def shown(row: StoredDelivery) -> dict[str, Any]:
    """A delivery as JSON has it."""
    answered = row.answered
    return {
        "id": row.id,
        "report": row.report,
        "number": row.number,
        "facility": row.facility,
        "destination": {"id": row.destination, "facility": row.owner, "channel": row.channel},
        "address": row.where.address,
        "study_uid": row.study_uid,
        "state": row.state,
        "control_id": row.control_id,
        "error": row.error,
        "receipt": None if answered is None else asdict(answered),
        "queued_at": row.queued_at,
        "next_at": row.next_at if row.state in ("queued", "sent") else None,
        "first_tried_at": row.first_tried_at,
        "done_at": row.done_at,
    }


def _id(request: Request) -> int:
    id = request.path_params["id"]
    if not re.fullmatch(r"[0-9]{1,18}", id):
        raise NotFound(f"There is no delivery {id[:40]}.")
    return int(id)


def _number(given: str | None, what: str, usual: int | None) -> int | None:
    if given is None:
        return usual
    if not re.fullmatch(r"[0-9]{1,18}", given) or not int(given):
        raise Invalid(f"The parameter {what} is a number from 1 on, not {given[:20]!r}.")
    return int(given)


def _json(value: object, *, status: int = 200) -> Response:
    return Response(orjson.dumps(value), status, {"Cache-Control": "private, no-store"}, media_type="application/json")


routes: list[BaseRoute] = [
    Route("/deliveries", listed, methods=["GET"]),
    Route("/deliveries/{id}", one, methods=["GET"]),
    Route("/deliveries/{id}/repeat", repeated, methods=["POST"]),
]
