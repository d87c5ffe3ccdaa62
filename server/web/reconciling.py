"""Doubtful matches of studies and orders: the list of them, and what a person says of each.

JSON for programs, and for people a page without scripts.
"""

from __future__ import annotations

import html
from collections.abc import Callable, Sequence
from dataclasses import asdict
from typing import Any

import anyio.to_thread
import orjson
from starlette.requests import Request
from starlette.responses import HTMLResponse, RedirectResponse, Response
from starlette.routing import BaseRoute, Route

from readingroom.errors import Invalid
from server.auth import Caller, caller_of, require
from server.feed import sequence_of
from server.room import Room
from server.web.bodies import body_of, is_form
from server.worklist.items import working
from storage.catalog.reconciling import MATCH_STATES, MOST, Match, MatchState, find_match, list_matches

_KNOWN = ("state", "study", "facility", "limit", "after")
_STATES: dict[str, MatchState | None] = {**{state: state for state in MATCH_STATES}, "any": None}
_NOT_KEPT = {"Cache-Control": "private, no-store"}
_PAGE = """<!doctype html>
<html lang="en"><meta charset="utf-8"><meta name="viewport" content="width=device-width">
<title>Doubtful matches · readingroom</title>
<style>
body {{ font: 16px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem; }}
section {{ border-top: 1px solid; padding: .5rem 0; }} table {{ border-collapse: collapse; }}
td, th {{ text-align: left; vertical-align: top; padding: .2rem .8rem .2rem 0; }}
form {{ display: inline; }} input, button {{ font: inherit; padding: .2rem .6rem; }}
</style>
<h1>Doubtful matches</h1>
{matches}
</html>
"""


async def listed(request: Request) -> Response:
    """The matches of the facilities in scope, the oldest first; those that are doubtful unless asked otherwise."""
    room: Room = request.app.state.room
    caller, told = caller_of(request), request.query_params
    state, limit = told.get("state", "doubtful"), sequence_of(told.get("limit", "100"), "limit") or 0
    if set(told) - set(_KNOWN) or state not in _STATES or not 0 < limit <= MOST:
        raise Invalid(f"The parameters here are {', '.join(_KNOWN)}: state is {', '.join(_STATES)}, limit 1 to {MOST}.")
    scope = caller.scope.narrowed(told["facility"]) if "facility" in told else caller.scope
    found = await room.read_apart(
        lambda connection: list_matches(
            connection,
            scope,
            state=_STATES[state],
            study_uid=told.get("study"),
            after=told.get("after"),
            limit=limit,
        )
    )
    if "text/html" in request.headers.get("accept", ""):
        return HTMLResponse(_page(found), headers=_NOT_KEPT)
    return _json([_shown(one) for one in found])


async def shown(request: Request) -> Response:
    """One match."""
    room: Room = request.app.state.room
    found = await room.read_apart(find_match, caller_of(request).scope, request.path_params["id"])
    return _json(_shown(found))


async def linked(request: Request) -> Response:
    """Link a study to what was ordered under an accession number."""
    kinds: dict[str, type] = {"accession_number": str, "reason": str, "patient": bool}
    if is_form(request):
        kinds["patient"] = str
    told = await body_of(request, kinds)

    def act(room: Room, caller: Caller, id: str) -> Match:
        return room.reconciling.link(
            caller.actor,
            caller.scope,
            id,
            accession_number=told.get("accession_number", ""),
            patient=told.get("patient") in (True, "true"),
            reason=told.get("reason", ""),
        )

    return await _done(request, act)


async def dismissed(request: Request) -> Response:
    """Say that a study is of none of its candidates."""
    told = await body_of(request, {"reason": str})

    def act(room: Room, caller: Caller, id: str) -> Match:
        with working(room.engine, room.clock, caller.actor, caller.scope, queue=room.queue) as work:
            return room.reconciling.dismiss(work, id, told.get("reason", ""))

    return await _done(request, act)


async def unlinked(request: Request) -> Response:
    """Take a link back."""
    told = await body_of(request, {"reason": str})

    def act(room: Room, caller: Caller, id: str) -> Match:
        return room.reconciling.unlink(caller.actor, caller.scope, id, told.get("reason", ""))

    return await _done(request, act)


async def _done(request: Request, act: Callable[[Room, Caller, str], Match]) -> Response:
    room: Room = request.app.state.room
    caller = caller_of(request)
    id: str = request.path_params["id"]
    require(caller.actor, "correct")
    match = await anyio.to_thread.run_sync(act, room, caller, id, limiter=room.db)
    return RedirectResponse("/reconciliation", status_code=303) if is_form(request) else _json(_shown(match))


def _shown(match: Match) -> dict[str, Any]:
    told = asdict(match)
    del told["moved"]
    return told


def _page(found: Sequence[Match]) -> str:
    return _PAGE.format(matches="".join(map(_section, found)) or "<p>There is nothing of that kind.</p>")


def _section(match: Match) -> str:
    head = "<tr><th>Accession number</th><th>Patient</th><th>Modality</th><th>Start</th><th></th></tr>"
    lines = "".join(_line(match, candidate) for candidate in match.candidates) if match.state == "doubtful" else ""
    reasons = " ".join(match.reasons)
    action = {"doubtful": "dismiss", "linked": "unlink"}.get(match.state)
    form = (
        f'<form method="post" action="/reconciliation/{html.escape(match.id)}/{action}">'
        f'<input name="reason" required maxlength="500" placeholder="Why"> '
        f"<button>{action.capitalize()}</button></form>"
        if action
        else ""
    )
    return (
        f"<section><p>Study {html.escape(match.study_uid)}, {html.escape(match.facility)}: {html.escape(match.state)}"
        f" {html.escape(match.accession_number)}. {html.escape(reasons)}</p>"
        + (f"<table>{head}{lines}</table>" if lines else "")
        + f"<p>{form}</p></section>"
    )


def _line(match: Match, candidate: Any) -> str:
    is_other = candidate["agrees"] == "other"
    patient = '<input type="hidden" name="patient" value="true">' if is_other else ""
    label = "Link, and correct the patient" if is_other else "Link"
    cells = "".join(
        f"<td>{html.escape(str(text))}</td>"
        for text in (
            candidate["accession_number"],
            f"{candidate['name']} {candidate['patient_id']}".strip(),
            candidate["modality"],
            candidate["starts"],
        )
    )
    return (
        f'<tr>{cells}<td><form method="post" action="/reconciliation/{html.escape(match.id)}/link">{patient}'
        f'<input type="hidden" name="accession_number" value="{html.escape(candidate["accession_number"])}">'
        f'<input name="reason" required maxlength="500" placeholder="Why"> <button>{label}</button></form></td></tr>'
    )


def _json(value: object) -> Response:
    return Response(orjson.dumps(value), headers=_NOT_KEPT, media_type="application/json")


routes: list[BaseRoute] = [
    Route("/reconciliation", listed, methods=["GET"]),
    Route("/reconciliation/{id}", shown, methods=["GET"]),
    Route("/reconciliation/{id}/link", linked, methods=["POST"]),
    Route("/reconciliation/{id}/dismiss", dismissed, methods=["POST"]),
    Route("/reconciliation/{id}/unlink", unlinked, methods=["POST"]),
]
