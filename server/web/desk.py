"""The escalation desk: what is open, who was reached, and the acknowledgement that ends a duty.

JSON for programs, and for the person who follows the link of a message a page without scripts. Looking at it changes
nothing: mail programs open links by themselves.
"""

from __future__ import annotations

import html
from collections.abc import Callable
from functools import partial
from typing import Any

import anyio.to_thread
import orjson
from starlette.requests import Request
from starlette.responses import HTMLResponse, RedirectResponse, Response
from starlette.routing import BaseRoute, Route

from readingroom.errors import Invalid
from readingroom.jsonio import to_json
from server.auth import caller_of
from server.room import Room
from server.web.bodies import body_of, is_form
from server.worklist import escalations
from server.worklist.items import Work, working
from storage.catalog.escalations import (
    Attempt,
    EscalationState,
    StoredEscalation,
    find_escalation,
    list_attempts,
    list_escalations,
)

_MOST = 1000
_STATES: dict[str, EscalationState | None] = {
    "open": "open",
    "acknowledged": "acknowledged",
    "cancelled": "cancelled",
    "any": None,
}
_PAGE = """<!doctype html>
<html lang="en"><meta charset="utf-8"><meta name="viewport" content="width=device-width">
<title>Escalation · readingroom</title>
<style>
body {{ font: 16px/1.5 system-ui, sans-serif; max-width: 44rem; margin: 2rem auto; padding: 0 1rem; }}
dt {{ font-weight: 600; }} dd {{ margin: 0 0 .5rem; }} label {{ display: block; margin: .75rem 0; }}
input, textarea {{ font: inherit; width: 100%; box-sizing: border-box; padding: .4rem; }}
button {{ font: inherit; padding: .5rem 1.25rem; }} table {{ border-collapse: collapse; }}
td, th {{ text-align: left; padding: .2rem .8rem .2rem 0; }}
</style>
<h1>{title}</h1>
<dl>
<dt>What</dt><dd>{reason}</dd>
<dt>Study</dt><dd>{study}</dd>
<dt>Opened</dt><dd><time>{opened}</time></dd>
{closed}
</dl>
{form}
<h2>Attempts</h2>
{attempts}
</html>
"""
_FORM = """<form method="post" action="{id}/acknowledge">
<label>Who was reached <input name="by" required maxlength="200" autocomplete="name"></label>
<label>What was read back <textarea name="read_back" required maxlength="2000" rows="3"></textarea></label>
<button>Acknowledge</button>
</form>
"""


async def listed(request: Request) -> Response:
    """The escalations of the facilities in scope, the longest open first."""
    room: Room = request.app.state.room
    caller = caller_of(request)
    state = request.query_params.get("state", "open")
    if state not in _STATES or set(request.query_params) - {"state", "item"}:
        raise Invalid(f"The parameters here are state ({', '.join(_STATES)}) and item.")
    found = await room.read_apart(
        list_escalations, caller.scope, state=_STATES[state], item=request.query_params.get("item"), limit=_MOST
    )
    return _json([_shown(row) for row in found])


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
    return _json(_shown(row), status=201, headers={"Location": f"/escalations/{row.id}"})


async def shown(request: Request) -> Response:
    """One escalation with its attempts, as a page for people and as JSON for programs."""
    room: Room = request.app.state.room
    id = request.path_params["id"]
    row = await room.read(find_escalation, caller_of(request).scope, id)
    attempts = await room.read(list_attempts, id)
    if "text/html" in request.headers.get("accept", ""):
        return HTMLResponse(_page(row, attempts), headers={"Cache-Control": "no-store"})
    return _json({**_shown(row), "attempts": [_attempt(one) for one in attempts]})


async def acknowledged(request: Request) -> Response:
    """Close one: somebody was reached, and has read the message back."""
    told = await body_of(request, {"by": str, "read_back": str})
    id = request.path_params["id"]
    row = await _act(
        request,
        lambda work: escalations.acknowledge(work, id, by=told.get("by", ""), read_back=told.get("read_back", "")),
    )
    if is_form(request):
        return RedirectResponse(f"/escalations/{id}", status_code=303)
    return _json(_shown(row))


async def cancelled(request: Request) -> Response:
    """Close one that was opened in error."""
    told = await body_of(request, {"reason": str})
    id = request.path_params["id"]
    row = await _act(request, lambda work: escalations.cancel_escalation(work, id, reason=told.get("reason", "")))
    return _json(_shown(row))


async def _act(request: Request, act: Callable[[Work], StoredEscalation]) -> StoredEscalation:
    room: Room = request.app.state.room
    caller = caller_of(request)

    def run() -> StoredEscalation:
        with working(room.engine, room.clock, caller.actor, caller.scope, queue=room.queue) as work:
            return act(work)

    return await anyio.to_thread.run_sync(run, limiter=room.db)


def _json(value: object, *, status: int = 200, headers: dict[str, str] | None = None) -> Response:
    told = {"Cache-Control": "no-store", **(headers or {})}
    return Response(orjson.dumps(value), status, told, media_type="application/json")


def _shown(row: StoredEscalation) -> dict[str, Any]:
    told = to_json(row.shown())
    told.pop("@")
    closed = {"closed_at": row.closed_at, "closed_by": row.closed_by, "read_back": row.read_back}
    return {**told, "due_at": row.due_at, **closed, "ladder": to_json(escalations.rungs_of(row))}


def _attempt(one: Attempt) -> dict[str, Any]:
    contact = {"name": one.contact.name, "role": one.contact.role, "channel": one.contact.channel}
    return {"rung": one.rung, **contact, "at": one.at, "state": one.state, "plugin": one.plugin, "error": one.error}


def _page(row: StoredEscalation, attempts: list[Attempt]) -> str:
    closed = ""
    if row.closed_at is not None:
        closed = (
            f"<dt>{html.escape(row.state.capitalize())}</dt>"
            f"<dd><time>{row.closed_at:%Y-%m-%d %H:%M:%S} UTC</time> by {html.escape(row.closed_by or '')}: "
            f"{html.escape(row.read_back)}</dd>"
        )
    lines = "".join(
        f"<tr><td>{one.rung}</td><td>{html.escape(one.contact.role)}</td><td>{html.escape(one.contact.name)}</td>"
        f"<td>{html.escape(one.contact.channel)}</td><td><time>{one.at:%H:%M:%S}</time></td>"
        f"<td>{html.escape(one.state)}{html.escape(f': {one.error}' if one.error else '')}</td></tr>"
        for one in attempts
    )
    head = "<tr><th>Rung</th><th>Role</th><th>Who</th><th>By</th><th>At</th><th></th></tr>"
    return _PAGE.format(
        title="Escalation" if row.category is None else f"Critical result, category {row.category}",
        reason=html.escape(row.reason),
        study=html.escape(row.study_uid or "none"),
        opened=f"{row.opened_at:%Y-%m-%d %H:%M:%S} UTC",
        closed=closed,
        form=_FORM.format(id=html.escape(row.id)) if row.state == "open" else "",
        attempts=f"<table>{head}{lines}</table>" if attempts else "<p>Nobody was called yet.</p>",
    )


routes: list[BaseRoute] = [
    Route("/escalations", listed, methods=["GET"]),
    Route("/escalations", opened, methods=["POST"]),
    Route("/escalations/{id}", shown, methods=["GET"]),
    Route("/escalations/{id}/acknowledge", acknowledged, methods=["POST"]),
    Route("/escalations/{id}/cancel", cancelled, methods=["POST"]),
]
