"""Merges of patients over HTTP: which there are, one more, and the undoing of one. All of it takes the permission
``correct``, for it says whose a study was."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from typing import Any

import anyio.to_thread
import orjson
import sqlalchemy as sa
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

from readingroom.errors import Invalid
from readingroom.model import Scope
from server.auth import caller_of, require
from server.feed import sequence_of
from server.room import Room
from server.web.bodies import body_of
from server.worklist.items import Work, working
from server.worklist.patients import merge_patients, undo_merge
from storage.catalog.merges import MOST, Merge, count_moves, find_merge, list_merges, studies_of

_KNOWN = ("facility", "patient_id", "limit", "before")


async def listed(request: Request) -> Response:
    """The merges of the facilities in scope, the newest first."""
    room: Room = request.app.state.room
    caller, told = caller_of(request), request.query_params
    require(caller.actor, "correct")
    limit = sequence_of(told.get("limit", "100"), "limit") or 0
    if set(told) - set(_KNOWN) or not 0 < limit <= MOST:
        raise Invalid(f"The parameters here are {', '.join(_KNOWN)}; limit is 1 to {MOST}.")
    scope = caller.scope.narrowed(told["facility"]) if "facility" in told else caller.scope

    def read(connection: sa.Connection) -> list[dict[str, Any]]:
        found = list_merges(
            connection, scope, patient_id=told.get("patient_id"), before=told.get("before"), limit=limit
        )
        return [_shown(connection, one) for one in found]

    return _json(await room.read_apart(read))


async def shown(request: Request) -> Response:
    """One merge, with how much it has moved and how many studies are still to follow."""
    room: Room = request.app.state.room
    caller = caller_of(request)
    require(caller.actor, "correct")
    return _json(await room.read_apart(_one, caller.scope, request.path_params["id"]))


async def merged(request: Request) -> Response:
    """Merge a patient of the caller's facility into another."""
    told = await body_of(request, dict.fromkeys(("from", "into", "issuer", "reason"), str))
    caller = caller_of(request)
    if not told.get("reason", "").strip():
        raise Invalid("Say why they are merged; the history of each study keeps it.")

    def act(work: Work) -> str:
        id: str = merge_patients(
            work,
            facility=caller.facility,
            issuer=told.get("issuer", ""),
            from_id=told.get("from", ""),
            into_id=told.get("into", ""),
            source=f"{caller.actor.id}: {told['reason']}",
        )
        if not id:
            raise Invalid("A patient is merged into another one; both ids are the same.")
        return id

    return await _done(request, act, status=201)


async def undone(request: Request) -> Response:
    """Undo a merge."""
    told = await body_of(request, {"reason": str})
    caller = caller_of(request)
    id: str = request.path_params["id"]
    if not told.get("reason", "").strip():
        raise Invalid("Say why it is undone; the history of each study keeps it.")

    def act(work: Work) -> str:
        undo_merge(work, id, f"{caller.actor.id}: {told['reason']}")
        return id

    return await _done(request, act)


async def _done(request: Request, act: Callable[[Work], str], *, status: int = 200) -> Response:
    room: Room = request.app.state.room
    caller = caller_of(request)
    require(caller.actor, "correct")

    def run() -> dict[str, Any]:
        with working(room.engine, room.clock, caller.actor, caller.scope, queue=room.queue) as work:
            return _one(work.connection, caller.scope, act(work))

    made = await anyio.to_thread.run_sync(run, limiter=room.db)
    return _json(made, status=status, headers={"Location": f"/patients/merges/{made['id']}"})


def _one(connection: sa.Connection, scope: Scope, id: str) -> dict[str, Any]:
    return _shown(connection, find_merge(connection, scope, id))


def _shown(connection: sa.Connection, merge: Merge) -> dict[str, Any]:
    told = asdict(merge)
    moved = count_moves(connection, merge.id)
    holds = merge.undone_at is None
    waiting = len(studies_of(connection, merge.old)) if holds else moved.get("study", 0)
    return {
        "id": told.pop("id"),
        "facility": told.pop("facility"),
        "issuer": told.pop("issuer"),
        "from": told.pop("from_id"),
        "into": told.pop("into_id"),
        **told,
        "moved": moved,
        "studies_waiting": waiting,
    }


def _json(value: object, *, status: int = 200, headers: dict[str, str] | None = None) -> Response:
    told = {"Cache-Control": "private, no-store", **(headers or {})}
    return Response(orjson.dumps(value), status, told, media_type="application/json")


routes: list[BaseRoute] = [
    Route("/patients/merges", listed, methods=["GET"]),
    Route("/patients/merges", merged, methods=["POST"]),
    Route("/patients/merges/{id}", shown, methods=["GET"]),
    Route("/patients/merges/{id}/undo", undone, methods=["POST"]),
]
