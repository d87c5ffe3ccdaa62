"""The FHIR service over HTTP: a request becomes an interaction, and what became of it an answer."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from email.utils import format_datetime, parsedate_to_datetime
from functools import partial
from typing import Any, cast
from urllib.parse import parse_qsl

import anyio.to_thread
import orjson
import sqlalchemy as sa
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from readingroom.errors import Invalid, NotAcceptable, ReadingRoomError, Unavailable, UnsupportedMedia
from server.auth import Caller, caller_of
from server.fhir import binary, capability, export_routes, wire
from server.fhir.bundle import perform_bundle, version_of
from server.fhir.interactions import Answer, Interaction, is_write, perform
from server.fhir.openapi import openapi
from server.fhir.outcome import issues_of, outcome
from server.fhir.parsing import splice
from server.fhir.patching import fhirpath_patch, json_patch
from server.fhir.query import SUMMARIES
from server.fhir.session import reading, writing
from server.fhir.shown import Shown
from server.fhir.summary import Summary, only_elements, summarised
from server.fhir.types import Resource
from server.room import Room
from server.status import http_status

log = logging.getLogger(__name__)

_METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE")
_ABOUT_THE_ANSWER = frozenset(("_format", "_pretty", "_summary", "_elements"))
_HEADERS = {"cache-control": "private, no-cache", "vary": "Accept, Prefer", "x-content-type-options": "nosniff"}
_FORM = "application/x-www-form-urlencoded"


async def fhir(request: Request) -> Response:
    """Answer one request below the service root."""
    how = wire.Wanted()
    try:
        how = wire.wanted(request)
        return await _answer(request, how)
    except ReadingRoomError as error:
        return _failed(error, how, request)
    except sa.exc.OperationalError as error:
        log.error("%s: the catalog does not answer: %s", request.method, error.orig)
        return _failed(Unavailable("The catalog does not answer; try again.", retry_after=5), how, request)


async def _answer(request: Request, how: wire.Wanted) -> Response:
    room: Room = request.app.state.room
    caller = caller_of(request)
    path = tuple(part for part in request.path_params.get("path", "").split("/") if part)
    query = parse_qsl(request.url.query, keep_blank_values=True)
    method = "GET" if request.method == "HEAD" else request.method
    prefer = _preferences(request)
    if method == "GET" and path == ("metadata",):
        return await capability.metadata(request, how)
    if method == "POST" and not path:
        sent = wire.read_resource(await wire.body_of(request), wire.media_type_of(request))
        told = await _in_thread(room, partial(perform_bundle, room, caller, sent, prefers=prefer.get("return")))
        return _response(request, how, 200, told)
    asked = await _interaction(request, method, path, query, prefer)
    if how.format is None and not binary.is_asked_natively(asked, how):
        raise NotAcceptable(f"Resources are sent as {wire.JSON} or {wire.XML}.")
    if is_write(method, path):
        answer = await _in_thread(room, partial(_write, room, caller, asked))
    elif len(path) == 2 and not path[1].startswith(("_", "$")):
        answer = await room.read(partial(_read, room, caller, asked))
    else:
        answer = await room.read_apart(partial(_read, room, caller, asked))
    return _answered(request, how, asked, answer)


def _write(room: Room, caller: Caller, asked: Interaction) -> Answer:
    with writing(room, caller) as session:
        return perform(session, asked)


def _read(room: Room, caller: Caller, asked: Interaction, connection: sa.Connection) -> Answer:
    return perform(reading(room, caller, connection), asked)


async def _in_thread[T](room: Room, act: Callable[[], T]) -> T:
    return await anyio.to_thread.run_sync(act, limiter=room.db)


# -- what is asked -----------------------------------------------------------------------------------------------------


def _preferences(request: Request) -> dict[str, str]:
    told = (part.partition("=") for header in request.headers.getlist("prefer") for part in header.split(","))
    return {name.strip().lower(): value.strip().strip('"') for name, _mark, value in told}


async def _interaction(
    request: Request, method: str, path: tuple[str, ...], query: list[tuple[str, str]], prefer: dict[str, str]
) -> Interaction:
    asked = Interaction(
        method=method,
        path=path,
        query=[pair for pair in query if pair[0] not in ("_format", "_pretty")],
        if_match=version_of(request.headers.get("if-match")),
        if_none_match=request.headers.get("if-none-match"),
        if_modified_since=_http_date(request.headers.get("if-modified-since")),
        if_none_exist=request.headers.get("if-none-exist"),
        prefer=_return(prefer.get("return")),
        is_strict=prefer.get("handling") == "strict",
    )
    if method in ("GET", "DELETE"):
        return asked
    body = await wire.body_of(request)
    media_type = wire.media_type_of(request)
    if path[-1:] == ("_search",):
        if body and media_type != _FORM:
            raise UnsupportedMedia(f"A search is posted as {_FORM}.")
        try:
            form = parse_qsl(body.decode("ascii"), keep_blank_values=True, max_num_fields=1000)
        except ValueError:
            raise Invalid(f"The body is no {_FORM}.") from None
        return replace(asked, query=[*asked.query, *(pair for pair in form if pair[0] not in ("_format", "_pretty"))])
    if method == "PATCH":
        if wire.is_json_patch(media_type):
            return replace(asked, patch=json_patch(body))
        return replace(asked, patch=fhirpath_patch(wire.read_resource(body, media_type)))
    if binary.is_sent_natively(path, media_type):
        return binary.native(asked, body, media_type)
    if not body and path[-1:] and path[-1].startswith("$"):
        return asked
    resource = wire.read_resource(body, media_type)
    rest = splice(body) if media_type.endswith("json") else None
    return replace(asked, resource=resource, rest=rest)


def _http_date(text: str | None) -> datetime | None:
    if text is None:
        return None
    try:
        found = parsedate_to_datetime(text)
    except ValueError:
        return None  # RFC 9110 13.1.3: what is no date is not looked at
    return found if found.tzinfo else found.replace(tzinfo=UTC)


def _return(text: str | None) -> Any:
    return text if text in ("minimal", "representation", "OperationOutcome") else None


# -- what is answered --------------------------------------------------------------------------------------------------


def _answered(request: Request, how: wire.Wanted, asked: Interaction, answer: Answer) -> Response:
    headers = dict(answer.headers)
    shown = answer.shown
    if shown is not None:
        headers["etag"] = shown.etag
        headers["last-modified"] = format_datetime(shown.updated_at.astimezone(UTC), usegmt=True)
    if answer.location:
        headers["location"] = answer.location
    if answer.status in (204, 304):
        return Response(status_code=answer.status, headers=_HEADERS | headers)
    if asked.method in ("POST", "PUT", "PATCH") and answer.location:
        if asked.prefer == "minimal":
            return Response(status_code=answer.status, headers=_HEADERS | headers)
        if asked.prefer == "OperationOutcome":
            return _response(request, how, answer.status, outcome(answer.issues), headers)
    body = answer.body if shown is None else shown
    assert body is not None
    if shown is not None and binary.is_asked_natively(asked, how):
        return binary.content(request, shown, _HEADERS | headers)
    if shown is not None and asked.method == "GET":
        body = _part(shown, dict(asked.query))
    return _response(request, how, answer.status, body, headers)


def _part(shown: Shown, query: dict[str, str]) -> Shown | Resource:
    """The whole, or what ``_summary`` or ``_elements`` leaves of it."""
    summary, elements = query.get("_summary"), query.get("_elements")
    if summary in SUMMARIES:
        return shown if summary == "false" else summarised(shown.resource, cast(Summary, summary))
    if elements:
        return only_elements(shown.resource, elements.split(","))
    return shown


def _response(
    request: Request, how: wire.Wanted, status: int, body: Shown | Resource, headers: dict[str, str] | None = None
) -> Response:
    content = wire.written(body, how)
    return Response(content, status, _HEADERS | (headers or {}), media_type=how.media_type)


def _failed(error: ReadingRoomError, how: wire.Wanted, request: Request) -> Response:
    headers = {}
    if isinstance(error, Unavailable) and error.retry_after is not None:
        headers["retry-after"] = str(error.retry_after)
    return _response(request, how, http_status(error), outcome(issues_of(error)), headers)


async def openapi_document(request: Request) -> Response:
    """The OpenAPI document of the service."""
    headers = {"cache-control": "private, max-age=300"}
    return Response(orjson.dumps(openapi(caller_of(request).fhir_root)), headers=headers, media_type="application/json")


routes = [
    Route("/openapi.json", openapi_document, methods=["GET"]),
    *export_routes.routes,
    Route("/", fhir, methods=_METHODS),
    Route("/{path:path}", fhir, methods=_METHODS),
]

roots = [
    # A Bundle is posted to the service root, which has no slash at its end.
    Route("/fhir", fhir, methods=_METHODS),
    Route("/fhir/f/{facility}", fhir, methods=_METHODS),
]
