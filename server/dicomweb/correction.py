"""Corrections of studies, series and instances, and their history. PS3.18 has no such transaction; this one is ours.

``PATCH`` with a data set of DICOM JSON says what is to be otherwise from now on; ``GET .../history`` tells what was
changed, by whom, when and why, and ``POST .../history`` goes back to one of its versions, which makes a further one.
The received bytes stay: ``?original=true`` retrieves them.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any

import anyio.to_thread
import orjson
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from readingroom.errors import Invalid, TooLarge, UnsupportedMedia
from server.auth import Caller, caller_of, require
from server.correcting import correct
from server.dicomweb.multipart import parse_header_value
from server.dicomweb.negotiation import DICOM_JSON, Offer, accepted, choose
from server.dicomweb.respond import CACHING, not_modified
from server.room import Room
from storage.catalog.corrections import Entry, Target, read_history
from storage.changes import Changes, read_changes

MAX_BODY_BYTES = 1 << 20

_JSON = Offer(media_type="application/json")


async def correct_study(request: Request) -> Response:
    """Correct what a study says of itself."""
    return await _correct(request, _changes)


async def correct_series(request: Request) -> Response:
    """Correct what a series says of itself."""
    return await _correct(request, _changes)


async def correct_instance(request: Request) -> Response:
    """Correct what an instance says of itself."""
    return await _correct(request, _changes)


async def revert_study(request: Request) -> Response:
    """Let an earlier version of a study's corrections hold again."""
    return await _correct(request, _version)


async def revert_series(request: Request) -> Response:
    """Let an earlier version of a series' corrections hold again."""
    return await _correct(request, _version)


async def revert_instance(request: Request) -> Response:
    """Let an earlier version of an instance's corrections hold again."""
    return await _correct(request, _version)


async def study_history(request: Request) -> Response:
    """The corrections of a study, its series and instances."""
    return await _history(request)


async def series_history(request: Request) -> Response:
    """The corrections that lie over a series or within it."""
    return await _history(request)


async def instance_history(request: Request) -> Response:
    """The corrections that lie over an instance."""
    return await _history(request)


async def _correct(request: Request, read: Callable[[Request, Target], Awaitable[Changes | int]]) -> Response:
    room: Room = request.app.state.room
    caller, target = caller_of(request), _target(request)
    require(caller.actor, "correct")
    choose(accepted(request), (_JSON,))
    work = partial(
        correct,
        room.engine,
        room.blobs,
        room.clock,
        caller.scope,
        target,
        await read(request, target),
        actor=caller.actor.id,
        reason=request.query_params.get("reason", ""),
        held=_held(request),
    )
    correction = await anyio.to_thread.run_sync(work, limiter=room.db)
    history = await room.read_apart(read_history, caller.scope, target)
    made = [one for one in history.entries if correction and one.correction.version == correction.version]
    body = _entry(made[0], caller) if made else {"version": None, "changed": {}}
    return Response(orjson.dumps(body), headers={"etag": f'"{history.tag}"'}, media_type=_JSON.name)


async def _history(request: Request) -> Response:
    room: Room = request.app.state.room
    caller = caller_of(request)
    require(caller.actor, "original")
    choose(accepted(request), (_JSON,))
    history = await room.read_apart(read_history, caller.scope, _target(request))
    etag = f'"{history.tag}"'
    if unchanged := not_modified(request, etag):
        return unchanged
    body = orjson.dumps([_entry(entry, caller) for entry in history.entries])
    return Response(body, headers={"etag": etag, **CACHING}, media_type=_JSON.name)


def _target(request: Request) -> Target:
    path = request.path_params
    return Target(study_uid=path["study"], series_uid=path.get("series", ""), instance_uid=path.get("instance", ""))


def _entry(entry: Entry, caller: Caller) -> dict[str, Any]:
    one = entry.correction
    url = f"{caller.service_root}/studies/{one.study_uid}"
    if one.series_uid:
        url += f"/series/{one.series_uid}"
    if one.instance_uid:
        url += f"/instances/{one.instance_uid}"
    return {
        "version": one.version,
        "at": one.at.isoformat(),
        "by": one.actor,
        "reason": one.reason,
        "url": url,
        "changed": {tag: {"before": before, "after": after} for tag, (before, after) in entry.changed.items()},
    }


def _held(request: Request) -> str | None:
    """What `If-Match` says that the caller has seen (RFC 9110 13.1.1); None where it says nothing, or anything."""
    said = request.headers.get("if-match", "*").strip()
    return None if said == "*" else said.strip('"')


async def _version(request: Request, _target: Target) -> int:
    """The version that a request wants to hold again."""
    asked = request.query_params.get("version", "")
    if not (asked.isascii() and asked.isdigit() and len(asked) < 10):
        raise Invalid(f"version={asked[:20]!r} is no version of corrections; 0 is what was received.")
    return int(asked)


async def _changes(request: Request, target: Target) -> Changes:
    """The changes in the body of a request."""
    kind, _ = parse_header_value(request.headers.get("content-type", ""))
    if kind not in (DICOM_JSON, "application/json"):
        raise UnsupportedMedia(f"Changes are read as {DICOM_JSON}, not as {kind or 'nothing'}.")
    try:
        said = orjson.loads(await _body(request))
    except orjson.JSONDecodeError:
        raise Invalid("The body is no JSON; one data set of DICOM JSON is expected.") from None
    if isinstance(said, list) and len(said) == 1:
        (said,) = said
    changes = read_changes(said, target.level)
    if not changes:
        raise Invalid("The data set is empty, so there is nothing to change.")
    return changes


async def _body(request: Request) -> bytes:
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > MAX_BODY_BYTES:
            raise TooLarge(f"Changes of more than {MAX_BODY_BYTES} bytes are not read.")
    return bytes(body)


_SERIES = "/studies/{study}/series/{series}"
_INSTANCE = _SERIES + "/instances/{instance}"

routes = [
    Route("/studies/{study}/history", study_history),
    Route(f"{_SERIES}/history", series_history),
    Route(f"{_INSTANCE}/history", instance_history),
    Route("/studies/{study}/history", revert_study, methods=["POST"]),
    Route(f"{_SERIES}/history", revert_series, methods=["POST"]),
    Route(f"{_INSTANCE}/history", revert_instance, methods=["POST"]),
    Route("/studies/{study}", correct_study, methods=["PATCH"]),
    Route(_SERIES, correct_series, methods=["PATCH"]),
    Route(_INSTANCE, correct_instance, methods=["PATCH"]),
]
