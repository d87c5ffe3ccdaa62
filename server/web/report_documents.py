"""Reports as people read them, over HTTP: ``/reports/ID.html``, ``.pdf`` and ``.txt``, and those of each version.

Without a version it is the one that was signed last. What is being written is seen at ``/reports/ID/preview.html``.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import replace

import anyio.to_thread
import sqlalchemy as sa
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

from readingroom.errors import NotFound
from readingroom.model import Report, Scope
from server.auth import caller_of
from server.reports.documents.forms import CONTENT_TYPES, Form, FormName, form
from server.reports.signing import read_signed
from server.room import Room
from storage.catalog.reports import find_report

_GUARDS: Mapping[str, str] = {
    "content-security-policy": "default-src 'none'; style-src 'unsafe-inline'; frame-ancestors 'self'; sandbox",
    "x-content-type-options": "nosniff",
}


async def signed(request: Request) -> Response:
    """A signed version, looked at before it is shown; the last one where none is named."""
    room: Room = request.app.state.room
    scope, told = caller_of(request).scope, request.path_params
    if told["form"] not in CONTENT_TYPES:
        raise NotFound(f"A report is shown as {', '.join(CONTENT_TYPES)}.")
    name: FormName = told["form"]
    number: int | None = told.get("number")

    def render() -> tuple[Report, Form]:
        with room.engine.connect() as connection:
            report = _read(connection, room, scope, told["id"], number)
        return report, form(report, name, fonts=room.settings.report_fonts)

    report, made = await anyio.to_thread.run_sync(render, limiter=room.codec)
    lasting = "private, max-age=31536000, immutable" if number else "private, no-cache"
    file = f'inline; filename="report-{report.id}-{report.number}.{name}"'
    return _answer(request, made, {"cache-control": lasting, "content-disposition": file})


async def preview(request: Request) -> Response:
    """What is being written, as it would be shown; it says that nobody has signed it."""
    room: Room = request.app.state.room
    scope, id = caller_of(request).scope, request.path_params["id"]

    def render() -> Form:
        with room.engine.connect() as connection:
            written = room.reports.compose(connection, find_report(connection, scope, id))
        return form(replace(written, status="registered", number=0, signed_at=None), "html")

    made = await anyio.to_thread.run_sync(render, limiter=room.db)
    return _answer(request, made, {"cache-control": "private, no-store"})


def _read(connection: sa.Connection, room: Room, scope: Scope, id: str, number: int | None) -> Report:
    found = find_report(connection, scope, id)
    if not found.number:
        raise NotFound(
            f"Report {found.id} is not signed; what is being written is at /reports/{found.id}/preview.html."
        )
    return read_signed(connection, room.reports.keys, found.id, number or found.number)


def _answer(request: Request, made: Form, headers: Mapping[str, str]) -> Response:
    etag = f'"{hashlib.sha256(made.data).hexdigest()[:32]}"'
    told = {**_GUARDS, **headers, "etag": etag}
    held = [one.strip().removeprefix("W/") for one in request.headers.get("if-none-match", "").split(",")]
    if etag in held or held == ["*"]:
        return Response(status_code=304, headers=told)
    return Response(made.data, media_type=made.content_type, headers=told)


routes: list[BaseRoute] = [
    Route("/reports/{id}/versions/{number:int}.{form}", signed, methods=["GET"]),
    Route("/reports/{id}/preview.html", preview, methods=["GET"]),
    Route("/reports/{id}.{form}", signed, methods=["GET"]),
]
"""They stand before those of `server.web.reports`, whose ids have no dots."""
