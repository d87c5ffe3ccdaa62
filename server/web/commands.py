"""What a reader does with an item of the worklist: ``POST /worklist/UID/COMMAND`` with a small JSON object.

The same commands that a UPS has (PS3.18 11), and those that it has not: to put an item aside and go on with it, to
release a claim, to keep it, to give it to another. A claim answers with its token, which each further command needs.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import anyio.to_thread
import orjson
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from readingroom.errors import Invalid, NotFound
from readingroom.model import PRIORITIES, Priority
from server.auth import caller_of
from server.room import Room
from server.web.bodies import body_of
from server.web.worklist import shown
from server.worklist import items
from server.worklist.items import Work, working
from storage.catalog.work_items import StoredItem

Told = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Command:
    """What is done, and the members that the body may have."""

    act: Callable[[Work, StoredItem, Told], StoredItem]
    takes: tuple[str, ...] = ()


def _claim(work: Work, item: StoredItem, told: Told) -> StoredItem:
    return items.claim_item(work, item, reader=told.get("reader", ""))


def _renew(work: Work, item: StoredItem, told: Told) -> StoredItem:
    return items.renew_claim(work, item, token=told.get("token", ""))


def _release(work: Work, item: StoredItem, told: Told) -> StoredItem:
    return items.release_item(work, item, token=told.get("token", ""), reason=told.get("reason", ""))


def _hold(work: Work, item: StoredItem, told: Told) -> StoredItem:
    return items.hold_item(work, item, told.get("reason", ""), token=told.get("token"))


def _resume(work: Work, item: StoredItem, told: Told) -> StoredItem:
    return items.resume_item(work, item, token=told.get("token"))


def _decline(work: Work, item: StoredItem, told: Told) -> StoredItem:
    return items.decline_item(work, item, reader=told.get("reader", ""), reason=told.get("reason", ""))


def _offer(work: Work, item: StoredItem, told: Told) -> StoredItem:
    if not told.get("reader"):
        raise Invalid("Say which reader it is offered to.")
    return items.offer_item(work, item, told["reader"], because=told.get("reason", ""))


def _reassign(work: Work, item: StoredItem, told: Told) -> StoredItem:
    return items.reassign_item(work, item, told.get("reader") or None, told.get("reason", ""))


def _prioritise(work: Work, item: StoredItem, told: Told) -> StoredItem:
    priority = told.get("priority")
    if priority not in PRIORITIES:
        raise Invalid(f"The priority is one of {', '.join(PRIORITIES)}.")
    chosen: Priority = priority
    return items.reprioritise_item(work, item, chosen, told.get("reason", ""))


def _complete(work: Work, item: StoredItem, told: Told) -> StoredItem:
    return items.complete_item(work, item, token=told.get("token", ""))


def _cancel(work: Work, item: StoredItem, told: Told) -> StoredItem:
    return items.cancel_item(work, item, told.get("reason", ""), token=told.get("token"))


COMMANDS: Mapping[str, Command] = {
    "claim": Command(_claim, ("reader",)),
    "renew": Command(_renew, ("token",)),
    "release": Command(_release, ("token", "reason")),
    "hold": Command(_hold, ("reason", "token")),
    "resume": Command(_resume, ("token",)),
    "decline": Command(_decline, ("reader", "reason")),
    "offer": Command(_offer, ("reader", "reason")),
    "reassign": Command(_reassign, ("reader", "reason")),
    "prioritise": Command(_prioritise, ("priority", "reason")),
    "complete": Command(_complete, ("token",)),
    "cancel": Command(_cancel, ("reason", "token")),
}


async def command(request: Request) -> Response:
    """Give a command, and answer with the item as it is then; with the token, where it was claimed."""
    room: Room = request.app.state.room
    caller = caller_of(request)
    name, uid = request.path_params["command"], request.path_params["workitem_uid"]
    if (found := COMMANDS.get(name)) is None:
        raise NotFound(f"There is no command {name[:40]!r}; there are {', '.join(COMMANDS)}.")
    told = await body_of(request, dict.fromkeys(found.takes, str))

    def run() -> StoredItem:
        lasts = timedelta(minutes=room.settings.claim_minutes)
        with working(room.engine, room.clock, caller.actor, caller.scope, queue=room.queue, claim_lasts=lasts) as work:
            return found.act(work, work.find(uid), told)

    item = await anyio.to_thread.run_sync(run, limiter=room.db)
    body = shown(item, room.clock.now(), caller.service_root)
    if name == "claim":
        body["token"] = item.claim_token
    return Response(orjson.dumps(body), headers={"cache-control": "no-store"}, media_type="application/json")


routes = [Route("/worklist/{workitem_uid}/{command}", command, methods=["POST"])]
