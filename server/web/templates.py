"""Templates and macros over HTTP: what there are, one more, one less."""

from __future__ import annotations

from typing import Any

import anyio.to_thread
import orjson
from pydantic import ValidationError
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

from readingroom.errors import Invalid
from server.auth import caller_of, require
from server.reports.templates import MOST_BYTES, Macro, Template, read_mrrt, stored_template
from server.room import Room
from server.web.bodies import read_body
from storage.catalog.engine import begin_write
from storage.catalog.reports import StoredTemplate, find_template, forget_template, list_templates, write_template

_KINDS = ("template", "macro")


async def listed(request: Request) -> Response:
    """Everybody's templates, or with ``kind=macro`` macros; with ``reader`` that one's own too."""
    room: Room = request.app.state.room
    wanted = dict(request.query_params)
    kind, reader = wanted.pop("kind", "template"), wanted.pop("reader", "")
    matches = {name: wanted.pop(name) for name in ("modality", "body_part", "language") if name in wanted}
    if wanted or kind not in _KINDS:
        raise Invalid("The parameters here are kind (template or macro), reader, modality, body_part and language.")
    found = await room.read_apart(list_templates, "macro" if kind == "macro" else "template", reader=reader)
    shown = [one for one in found if all(getattr(one, name) in ("", value) for name, value in matches.items())]
    return _json([_shown(one) for one in shown])


async def shown(request: Request) -> Response:
    """One of them."""
    room: Room = request.app.state.room
    return _json(_shown(await room.read(find_template, request.path_params["id"])))


async def added(request: Request) -> Response:
    """Add a template or a macro, or write the one of that name anew: JSON, or HTML of the profile MRRT."""
    room: Room = request.app.state.room
    require(caller_of(request).actor, "sign")
    body = await read_body(request, MOST_BYTES)
    given = _read(request.headers.get("content-type", ""), body)

    def run() -> StoredTemplate:
        row = stored_template(given, room.clock.now())
        with begin_write(room.engine) as connection:
            write_template(connection, row)
            mine = list_templates(connection, row.kind, reader=row.reader)
            key = (row.name, row.reader, row.language)
            return next(one for one in mine if (one.name, one.reader, one.language) == key)

    row = await anyio.to_thread.run_sync(run, limiter=room.db)
    return _json(_shown(row), status=201, headers={"Location": f"/templates/{row.id}"})


async def removed(request: Request) -> Response:
    """Remove one; texts that have begun with it stay as they are."""
    room: Room = request.app.state.room
    require(caller_of(request).actor, "sign")
    id = request.path_params["id"]

    def run() -> None:
        with begin_write(room.engine) as connection:
            find_template(connection, id)
            forget_template(connection, id)

    await anyio.to_thread.run_sync(run, limiter=room.db)
    return Response(status_code=204)


def _read(content_type: str, body: bytes) -> Template | Macro:
    if content_type.partition(";")[0].strip().lower() in ("text/html", "application/xhtml+xml"):
        return read_mrrt(body, "template")
    try:
        told = orjson.loads(body)
        return Macro.model_validate(told) if "text" in told else Template.model_validate(told)
    except (orjson.JSONDecodeError, TypeError):
        raise Invalid("Send a template as JSON, or as HTML of the profile MRRT with Content-Type text/html.") from None
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        raise Invalid(f"{'.'.join(map(str, first['loc'])) or 'the body'}: {first['msg']}.") from None


def _shown(row: StoredTemplate) -> dict[str, Any]:
    names = ("id", "kind", "name", "reader", "language", "modality", "body_part", "source", "updated_at")
    told = {name: getattr(row, name) for name in names}
    return {**told, "text" if row.kind == "macro" else "sections": orjson.loads(row.content)}


def _json(value: object, *, status: int = 200, headers: dict[str, str] | None = None) -> Response:
    told = {"Cache-Control": "private, no-store", **(headers or {})}
    return Response(orjson.dumps(value), status, told, media_type="application/json")


routes: list[BaseRoute] = [
    Route("/templates", listed, methods=["GET"]),
    Route("/templates", added, methods=["POST"]),
    Route("/templates/{id}", shown, methods=["GET"]),
    Route("/templates/{id}", removed, methods=["DELETE"]),
]
