"""The escalation desk: what is open and how long there is, whom to call and what to say, who was reached, and the
acknowledgement that ends a duty.

JSON for programs, and for the person who follows the link of a message a page without scripts. Looking at it changes
nothing: mail programs open links by themselves.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict
from datetime import datetime, timedelta
from functools import partial
from typing import Any

import anyio.to_thread
import orjson
import sqlalchemy as sa
from starlette.requests import Request
from starlette.responses import HTMLResponse, RedirectResponse, Response
from starlette.routing import BaseRoute, Route

from readingroom.errors import Invalid
from readingroom.jsonio import to_json
from readingroom.model import Category, Contact, Scope
from server.auth import caller_of
from server.reports.calling import Call, call_of
from server.reports.critical import MEASURED, measure_criticals
from server.room import Room
from server.web.bodies import body_of, is_form
from server.web.desk_page import desk_page, escalation_page
from server.worklist import escalations
from server.worklist.directory import facility_of
from server.worklist.items import Work, working
from storage.catalog.escalations import (
    Attempt,
    EscalationState,
    Order,
    StoredEscalation,
    find_escalation,
    list_attempts,
    list_escalations,
    timings_of,
)

_MOST = 1000
_STATES: dict[str, EscalationState | None] = {
    "open": "open",
    "acknowledged": "acknowledged",
    "cancelled": "cancelled",
    "any": None,
}
_CATEGORIES: Mapping[str, Category] = {"1": 1, "2": 2, "3": 3}
_ORDERS: Mapping[str, Order] = {"opened": "opened", "time left": "time-left", "time-left": "time-left"}
_CALLED = ("name", "role", "how", "number", "outcome", "at", "note")
_MINUTE = timedelta(minutes=1)
_NOT_KEPT = {"Cache-Control": "no-store"}


async def listed(request: Request) -> Response:
    """The escalations of the facilities in scope, the longest open first, or the one with the least time left."""
    room: Room = request.app.state.room
    caller, told = caller_of(request), request.query_params
    state, order, category = told.get("state", "open"), told.get("sort", "opened"), told.get("category")
    if set(told) - {"state", "item", "category", "sort"}:
        raise Invalid("The parameters here are state, item, category and sort.")
    for name, value, known in (
        ("state", state, _STATES),
        ("sort", order, _ORDERS),
        ("category", category, _CATEGORIES),
    ):
        if value is not None and value not in known:
            raise Invalid(f"{name!r} is one of {', '.join(known)}.")
    wanted: dict[str, Any] = {
        "state": _STATES[state],
        "item": told.get("item"),
        "category": None if category is None else _CATEGORIES[category],
        "order": _ORDERS[order],
    }
    rows = await room.read_apart(_with_calls, caller.scope, wanted)
    if _wants_page(request):
        return HTMLResponse(desk_page([row for row, _call in rows], room.clock.now()), headers=_NOT_KEPT)
    return _json([_shown(row, room.clock.now(), call) for row, call in rows])


async def measured(request: Request) -> Response:
    """How long it takes until critical results of reports were read back, by category; see `measure_criticals`."""
    room: Room = request.app.state.room
    if set(request.query_params) - {"since"}:
        raise Invalid("The parameter here is since.")
    now = room.clock.now()
    since = _moment(request.query_params.get("since")) or now - MEASURED
    timings = await room.read_apart(timings_of, caller_of(request).scope, since)
    return _json({"since": since, "until": now, "categories": [asdict(one) for one in measure_criticals(timings, now)]})


async def opened(request: Request) -> Response:
    """Open one: a critical result that has to reach somebody. Told again with its key, it is the one that is there."""
    told = await body_of(request, {"reason": str, "category": int, "item": str, "study": str, "key": str})
    category = told.get("category")
    if category not in (None, 1, 2, 3):
        raise Invalid("The category of an actionable finding is 1, 2 or 3.")
    caller = caller_of(request)
    key = told.get("key") or f"call {told.get('item') or told.get('study') or ''} {told.get('reason', '')}"

    room: Room = request.app.state.room
    about: dict[str, Any] = {
        "facility": caller.facility,
        "reason": told.get("reason", ""),
        "item": told.get("item"),
        "study_uid": told.get("study"),
        "category": category,
    }

    def act(work: Work) -> StoredEscalation:
        return escalations.open_escalation(work, key=f"{caller.facility} {key}", ladder=ladder, **about)

    ladder = await anyio.to_thread.run_sync(partial(room.flow.ladder, **about), limiter=room.db)
    row = await _act(request, act)
    return _json(_shown(row, room.clock.now()), status=201, headers={"Location": f"/escalations/{row.id}"})


async def shown(request: Request) -> Response:
    """One escalation with its attempts, as a page for people and as JSON for programs."""
    room: Room = request.app.state.room
    id = request.path_params["id"]
    row, call, attempts = await room.read(_whole, caller_of(request).scope, id)
    if _wants_page(request):
        return HTMLResponse(escalation_page(row, call, attempts), headers=_NOT_KEPT)
    return _json({**_shown(row, room.clock.now(), call), "attempts": [_attempt(one) for one in attempts]})


async def acknowledged(request: Request) -> Response:
    """Close one: somebody was reached, and has read the message back."""
    told = await body_of(request, dict.fromkeys(("by", "read_back", "how", "role", "at"), str))
    id, at = request.path_params["id"], _moment(told.get("at"))

    def act(work: Work) -> StoredEscalation:
        said = {name: told.get(name, "") for name in ("by", "read_back", "how", "role")}
        return escalations.acknowledge(work, id, at=at, **said)

    return await _done(request, act)


async def called(request: Request) -> Response:
    """Keep an attempt of a person to reach somebody: who was called, how, when, and what became of it."""
    told = await body_of(request, dict.fromkeys(_CALLED, str))
    contact = Contact(
        name=told.get("name", ""),
        role=told.get("role", ""),
        channel=told.get("how", ""),
        address=told.get("number", ""),
    )
    at, outcome, note = _moment(told.get("at")), told.get("outcome", ""), told.get("note", "")
    id = request.path_params["id"]
    return await _done(
        request,
        lambda work: escalations.note_call(work, id, contact=contact, outcome=outcome, at=at, note=note),
        status=201,
    )


async def handed_over(request: Request) -> Response:
    """Have somebody else at the desk go on with one, with a note of what there is to know."""
    told = await body_of(request, {"to": str, "note": str})
    id, to, note = request.path_params["id"], told.get("to", ""), told.get("note", "")
    return await _done(request, lambda work: escalations.hand_over(work, id, to=to, note=note))


async def cancelled(request: Request) -> Response:
    """Close one that was opened in error, or whose result was withdrawn."""
    told = await body_of(request, {"reason": str})
    id = request.path_params["id"]
    return await _done(request, lambda work: escalations.cancel_escalation(work, id, reason=told.get("reason", "")))


async def _done(request: Request, act: Callable[[Work], StoredEscalation], *, status: int = 200) -> Response:
    """Do it, and show what came of it: to a form its page."""
    row = await _act(request, act)
    if is_form(request):
        return RedirectResponse(f"/escalations/{row.id}", status_code=303)
    room: Room = request.app.state.room
    found, call, attempts = await room.read(_whole, caller_of(request).scope, row.id)
    body = {**_shown(found, room.clock.now(), call), "attempts": [_attempt(one) for one in attempts]}
    return _json(body, status=status)


async def _act(request: Request, act: Callable[[Work], StoredEscalation]) -> StoredEscalation:
    room: Room = request.app.state.room
    caller = caller_of(request)

    def run() -> StoredEscalation:
        with working(room.engine, room.clock, caller.actor, caller.scope, queue=room.queue) as work:
            row = act(work)
            room.criticals.publish(work, row)
            return row

    return await anyio.to_thread.run_sync(run, limiter=room.db)


def _wants_page(request: Request) -> bool:
    return "text/html" in request.headers.get("accept", "")


def _json(value: object, *, status: int = 200, headers: dict[str, str] | None = None) -> Response:
    told = {**_NOT_KEPT, **(headers or {})}
    return Response(orjson.dumps(value), status, told, media_type="application/json")


def _with_calls(
    connection: sa.Connection, scope: Scope, wanted: Mapping[str, Any]
) -> list[tuple[StoredEscalation, Call | None]]:
    """Those that are wanted, and of those that are open the call; a facility is looked up once."""
    rows = list_escalations(connection, scope, limit=_MOST, **wanted)
    facilities = {id: facility_of(connection, id) for id in {row.facility for row in rows if row.state == "open"}}
    return [(row, call_of(row, facilities[row.facility]) if row.state == "open" else None) for row in rows]


def _whole(connection: sa.Connection, scope: Scope, id: str) -> tuple[StoredEscalation, Call | None, list[Attempt]]:
    row = find_escalation(connection, scope, id)
    call = call_of(row, facility_of(connection, row.facility)) if row.state == "open" else None
    return row, call, list_attempts(connection, id)


def _moment(text: str | None) -> datetime | None:
    """A time with its zone, as RFC 3339 writes it."""
    if not text:
        return None
    try:
        found = datetime.fromisoformat(text.replace(" ", "+"))
    except ValueError:
        found = None
    if found is None or found.tzinfo is None:
        raise Invalid(f"Write a time with its zone, such as 2026-11-24T22:10:00Z, not {text[:40]!r}.")
    return found


def _shown(row: StoredEscalation, now: datetime, call: Call | None = None) -> dict[str, Any]:
    told = to_json(row.shown())
    told.pop("@")
    left = (row.reach_by - now) // _MINUTE if row.reach_by is not None and row.state == "open" else None
    shown = {
        **told,
        "due_at": row.due_at,
        "reach_by": row.reach_by,
        "minutes_left": left,
        "report": row.report,
        "is_withdrawn": row.withdrawn_at is not None,
        "holder": row.holder,
        "closed_at": row.closed_at,
        "closed_by": row.closed_by,
        "reached_at": row.reached_at,
        "read_back": row.read_back,
        "ladder": to_json(escalations.rungs_of(row)),
    }
    return shown if call is None else {**shown, "call": asdict(call)}


def _attempt(one: Attempt) -> dict[str, Any]:
    contact = {"name": one.contact.name, "role": one.contact.role, "channel": one.contact.channel}
    done = {"at": one.at, "state": one.state, "plugin": one.plugin, "error": one.error}
    return {"rung": one.rung, **contact, **done, "by": one.by, "note": one.note}


routes: list[BaseRoute] = [
    Route("/escalations", listed, methods=["GET"]),
    Route("/escalations", opened, methods=["POST"]),
    Route("/escalations/statistics", measured, methods=["GET"]),
    Route("/escalations/{id}", shown, methods=["GET"]),
    Route("/escalations/{id}/acknowledge", acknowledged, methods=["POST"]),
    Route("/escalations/{id}/attempts", called, methods=["POST"]),
    Route("/escalations/{id}/handover", handed_over, methods=["POST"]),
    Route("/escalations/{id}/cancel", cancelled, methods=["POST"]),
]
