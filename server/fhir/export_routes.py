"""Bulk exports over HTTP: how far one has come, its files, and an end to it (FHIR R4 3.1.6, Bulk Data Access 2.0)."""

from __future__ import annotations

from email.utils import format_datetime
from functools import partial
from typing import Any

import anyio.to_thread
import orjson
import sqlalchemy as sa
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from readingroom.errors import NotFound, ReadingRoomError, Unavailable
from server.auth import caller_of
from server.fhir import wire
from server.fhir.exporting import MEDIA_TYPE, call_off, manifest, own_export, progress
from server.fhir.outcome import issues_of, outcome
from server.fhir.session import reading
from server.room import Room
from server.status import http_status
from storage.catalog.fhir_exports import Export

_AGAIN_SECONDS = "2"
_HEADERS = {"cache-control": "private, no-store", "x-content-type-options": "nosniff"}


async def export_status(request: Request) -> Response:
    """How far an export has come, or its files; DELETE calls it off."""
    room: Room = request.app.state.room
    id = request.path_params["export"]
    try:
        if request.method == "DELETE":
            await anyio.to_thread.run_sync(partial(_call_off, room, request, id), limiter=room.db)
            return Response(status_code=202, headers=_HEADERS)
        held = await room.read_apart(_own, room, request, id)
        if held.state == "failed":
            raise ReadingRoomError(f"The export was not made: {held.error}")
        if held.state != "done":
            told = {"x-progress": progress(held), "retry-after": _AGAIN_SECONDS}
            return Response(status_code=202, headers=_HEADERS | told)
        expires = {"expires": format_datetime(held.expires_at, usegmt=True)}
        return Response(orjson.dumps(manifest(held)), headers=_HEADERS | expires, media_type="application/json")
    except ReadingRoomError as error:
        return _failed(error)


async def export_file(request: Request) -> Response:
    """One file of an export that is done."""
    room: Room = request.app.state.room
    try:
        held = await room.read_apart(_own, room, request, request.path_params["export"])
        number = int(request.path_params["number"])
        if held.state != "done" or number >= len(held.files):
            raise NotFound("There is no such file.")
        content = await anyio.to_thread.run_sync(room.blobs.read, held.key(number), limiter=room.disk)
        return Response(content, headers=_HEADERS, media_type=MEDIA_TYPE)
    except ReadingRoomError as error:
        return _failed(error)


def _own(connection: sa.Connection, room: Room, request: Request, id: str) -> Export:
    return own_export(reading(room, caller_of(request), connection), id)


def _call_off(room: Room, request: Request, id: str) -> None:
    with room.engine.connect() as connection:
        call_off(room, reading(room, caller_of(request), connection), id)


def _failed(error: ReadingRoomError) -> Response:
    headers: dict[str, Any] = dict(_HEADERS)
    if isinstance(error, Unavailable) and error.retry_after is not None:
        headers["retry-after"] = str(error.retry_after)
    content = wire.written(outcome(issues_of(error)), wire.Wanted())
    return Response(content, http_status(error), headers, media_type=wire.JSON)


routes = [
    Route("/_export/{export}", export_status, methods=["GET", "DELETE"]),
    Route("/_export/{export}/{number:int}.ndjson", export_file, methods=["GET"]),
]
