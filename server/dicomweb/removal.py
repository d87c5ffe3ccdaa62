"""Delete and restore studies, series and instances.

PS3.18 has no such transactions; the resources are those of 10.4, and what was deleted is 410 Gone to who asks for it.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import anyio.to_thread
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from readingroom.errors import Invalid, Refused
from server.auth import caller_of
from server.removing import remove, restore
from server.room import Room

_LEVELS = ("study", "series", "instance")


async def delete(request: Request) -> Response:
    """Delete a study, a series or an instance; it can be restored until it is purged."""
    allow_deletion(request)
    return await run_change(request, remove, *_uids(request))


async def put_back(request: Request) -> Response:
    """Restore what was deleted of a study, a series, or an instance.

    ``?rejected=true`` restores what a rejection note took out of use as well.
    """
    rejected = request.query_params.get("rejected", "false")
    if rejected not in ("true", "false") or set(request.query_params) - {"rejected"}:
        raise Invalid("The only parameter here is rejected, which is true or false.")
    return await run_change(request, partial(restore, rejected=rejected == "true"), *_uids(request))


def allow_deletion(request: Request) -> None:
    """Raise `Refused` where nothing may be deleted, and `Invalid` where only a part of it should be."""
    room: Room = request.app.state.room
    if room.settings.deletion == "refused":
        raise Refused("Nothing is deleted here: the setting 'deletion' refuses it.")
    if request.query_params:
        raise Invalid("A deletion takes no parameters: it removes an instance with all its versions.")


async def run_change(request: Request, change: Callable[..., int | None], *what: str) -> Response:
    """Remove or restore what is named, as the caller; the answer has no body."""
    room: Room = request.app.state.room
    caller = caller_of(request)
    await anyio.to_thread.run_sync(
        partial(change, room.engine, room.blobs, room.clock, caller.actor, caller.scope, *what), limiter=room.db
    )
    return Response(status_code=204)


def _uids(request: Request) -> list[str]:
    return [request.path_params[level] for level in _LEVELS if level in request.path_params]


routes = [
    route
    for path in (
        "/studies/{study}/series/{series}/instances/{instance}",
        "/studies/{study}/series/{series}",
        "/studies/{study}",
    )
    for route in (Route(path, delete, methods=["DELETE"]), Route(f"{path}/restore", put_back, methods=["POST"]))
]
