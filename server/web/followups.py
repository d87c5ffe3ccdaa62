"""Follow-ups over HTTP: what signed reports recommend, which of it is overdue, and what became of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from datetime import datetime
from typing import Any

import anyio.to_thread
import orjson
import sqlalchemy as sa
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

from readingroom.errors import Invalid
from readingroom.model import Scope
from server.auth import caller_of
from server.feed import sequence_of
from server.reports.followups import close_follow_up, suggestions
from server.room import Room
from server.web.bodies import body_of
from server.worklist.items import working
from storage.catalog.follow_ups import MOST, ListedFollowUp, find_follow_up, list_follow_ups

_STATES: dict[str, bool | None] = {"open": True, "closed": False, "any": None}
_ANSWERS: dict[str, bool] = {"true": True, "false": False}
_KNOWN = ("state", "overdue", "facility", "report", "limit", "after")


async def listed(request: Request) -> Response:
    """The follow-ups of the facilities in scope, what is due first at first."""
    room: Room = request.app.state.room
    told, scope, now = request.query_params, caller_of(request).scope, room.clock.now()
    state, overdue = told.get("state", "open"), told.get("overdue", "false")
    limit = sequence_of(told.get("limit", "100"), "limit") or 0
    if set(told) - set(_KNOWN) or state not in _STATES or overdue not in _ANSWERS or not 0 < limit <= MOST:
        raise Invalid(
            f"The parameters here are {', '.join(_KNOWN)}: state is {', '.join(_STATES)}, overdue true or false, "
            f"limit 1 to {MOST}."
        )
    if "facility" in told:
        scope = scope.narrowed(told["facility"])
    wanted: dict[str, Any] = {
        "is_open": _STATES[state],
        "overdue_at": now if _ANSWERS[overdue] else None,
        "report": told.get("report"),
        "after": told.get("after"),
        "limit": limit,
    }

    def read(connection: sa.Connection) -> list[dict[str, Any]]:
        return _shown(connection, scope, list_follow_ups(connection, scope, **wanted), now)

    return _json(await room.read_apart(read))


async def shown(request: Request) -> Response:
    """One follow-up."""
    room: Room = request.app.state.room
    return _json(await room.read_apart(_one, caller_of(request).scope, request.path_params["id"], room.clock.now()))


async def closed(request: Request) -> Response:
    """Close one: it was done, declined, is not needed, or the patient has died."""
    room: Room = request.app.state.room
    caller, id = caller_of(request), request.path_params["id"]
    told = await body_of(request, {"outcome": str, "by": str, "note": str, "study_uid": str})

    def run() -> dict[str, Any]:
        with working(room.engine, room.clock, caller.actor, caller.scope, queue=room.queue) as work:
            close_follow_up(
                work,
                id,
                outcome=told.get("outcome", ""),
                by=told.get("by") or caller.actor.name,
                note=told.get("note", ""),
                study_uid=told.get("study_uid"),
            )
            return _one(work.connection, caller.scope, id, work.now)

    return _json(await anyio.to_thread.run_sync(run, limiter=room.db))


def _one(connection: sa.Connection, scope: Scope, id: str, now: datetime) -> dict[str, Any]:
    return _shown(connection, scope, [find_follow_up(connection, scope, id)], now)[0]


def _shown(
    connection: sa.Connection, scope: Scope, found: Sequence[ListedFollowUp], now: datetime
) -> list[dict[str, Any]]:
    suggested = suggestions(connection, scope, found)
    return [
        {
            **_row(one),
            "is_overdue": one.is_open and one.due_at is not None and one.due_at <= now,
            "suggested": suggested.get(one.row.item, ()),
        }
        for one in found
    ]


def _row(one: ListedFollowUp) -> dict[str, Any]:
    told = asdict(one.row)
    for hidden in ("digest", "modalities", "body_parts"):
        del told[hidden]
    return {
        "id": told.pop("item"),
        **told,
        "workitem": one.workitem_uid,
        "state": "open" if one.is_open else "closed",
        "due_at": one.due_at,
        "outcome": one.row.outcome or None,
        # One that was ended as a work item, by somebody who said no more, has the reason of that.
        "note": one.row.note or one.reason,
        "closed_at": one.row.closed_at or (None if one.is_open else one.changed_at),
    }


def _json(value: object) -> Response:
    return Response(orjson.dumps(value), headers={"Cache-Control": "private, no-store"}, media_type="application/json")


routes: list[BaseRoute] = [
    Route("/followups", listed, methods=["GET"]),
    Route("/followups/{id}", shown, methods=["GET"]),
    Route("/followups/{id}/close", closed, methods=["POST"]),
]
