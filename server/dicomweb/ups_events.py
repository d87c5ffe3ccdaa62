"""Subscriptions to work items, and the channel that reports are sent over (PS3.18 11.10 to 11.13, 8.10).

A channel sends what waits for its subscriber, in the order of the commits, and remembers how far it has come: whoever
comes back within a day goes on where it was. The standard asks for no more than what happens while it is open.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable
from contextlib import suppress

import anyio
import anyio.to_thread
import orjson
import sqlalchemy as sa
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route, WebSocketRoute
from starlette.websockets import WebSocket, WebSocketDisconnect

from readingroom.errors import Invalid
from server.auth import Caller, caller_of
from server.dicomweb.query import is_true
from server.dicomweb.ups_query import parse_filter
from server.room import Room
from server.worklist.reports import GOING_DOWN
from server.worklist.subscribing import subscribe_ae, subscriber_of, suspend_ae, unsubscribe_ae
from storage.catalog.engine import begin_write
from storage.catalog.subscriptions import Subscriber, Waiting, note_sent, sent_so_far, waiting_reports
from storage.catalog.ups import element
from storage.objects import MetadataJson
from storage.upsrules import PUSH, WORKLIST

PARTING_SECONDS = 0.5
"""How long a server that has been told to stop leaves its channels open, so that they can be told too."""

_LOOK_SECONDS = 0.25
_AT_ONCE = 100
_GOING_AWAY = 1001


# -- Subscribe, Unsubscribe, Suspend Global Subscription (11.10, 11.11, 11.12) -----------------------------------------


async def subscribe_to(request: Request) -> Response:
    """Subscribe an AE to a work item, to the worklist, or to what of it matches a filter."""
    caller, subscriber = caller_of(request), _subscriber(request)
    target: str = request.path_params["workitem"]
    query = request.query_params
    has_lock = is_true({"deletionlock": query.get("deletionlock", "false")}, "deletionlock")
    filters = query.getlist("filter")
    asked = parse_filter(",".join(filters)).asked if filters else None

    def run(room: Room, connection: sa.Connection) -> None:
        now = room.clock.now()
        subscribe_ae(connection, caller.scope, subscriber, target, has_lock=has_lock, now=now, filter=asked)

    await _write(request, run)
    channel = re.sub("^http", "ws", caller.service_root) + f"/ws/subscribers/{request.path_params['ae']}"
    return Response(status_code=201, headers={"content-location": channel})


async def unsubscribe_from(request: Request) -> Response:
    """Have an AE hear no more of a work item; of any, where it is the worklist."""
    caller, subscriber = caller_of(request), _subscriber(request)
    target: str = request.path_params["workitem"]

    def run(room: Room, connection: sa.Connection) -> None:
        unsubscribe_ae(connection, caller.scope, subscriber, target, now=room.clock.now())

    await _write(request, run)
    return Response(status_code=200)


async def suspend_subscription(request: Request) -> Response:
    """Have an AE hear of no further work items; those that it knows it still hears of."""
    subscriber = _subscriber(request)
    target: str = request.path_params["workitem"]

    def run(_room: Room, connection: sa.Connection) -> None:
        suspend_ae(connection, subscriber, target)

    await _write(request, run)
    return Response(status_code=200)


def _subscriber(connection: Request | WebSocket) -> Subscriber:
    """The AE that the path names, in the realm of who asks."""
    ae: str = connection.path_params["ae"]
    caller: Caller = connection.scope["readingroom.caller"]
    return subscriber_of(caller.scope, ae)


async def _write(request: Request, command: Callable[[Room, sa.Connection], None]) -> None:
    room: Room = request.app.state.room

    def run() -> None:
        with begin_write(room.engine) as connection:
            command(room, connection)

    await anyio.to_thread.run_sync(run, limiter=room.db)


# -- Open Notification Connection, Send Event Report (8.10.4, 8.10.5) --------------------------------------------------


async def open_channel(websocket: WebSocket) -> None:
    """Send an AE the reports that are for it, until it goes or the server does."""
    room: Room = websocket.app.state.room
    try:
        subscriber = _subscriber(websocket)
    except Invalid:
        await websocket.close(1008)
        return
    offered = websocket.scope.get("subprotocols", [])
    await websocket.accept(subprotocol="dicom" if "dicom" in offered else None)
    room.channels.add(websocket)
    try:
        with suppress(WebSocketDisconnect, RuntimeError):  # it went while something was being sent
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(_listen, websocket, tasks.cancel_scope)
                await _send_reports(websocket, room, subscriber)
                tasks.cancel_scope.cancel()
    finally:
        room.channels.discard(websocket)
    if room.is_stopping.is_set():
        with suppress(RuntimeError):
            await websocket.close(_GOING_AWAY)


async def _listen(websocket: WebSocket, ends: anyio.CancelScope) -> None:
    """Wait until the other side goes; what it sends means nothing here."""
    while (await websocket.receive())["type"] != "websocket.disconnect":
        pass
    ends.cancel()


async def _send_reports(websocket: WebSocket, room: Room, subscriber: Subscriber) -> None:
    sent = await room.read_apart(sent_so_far, subscriber)
    while not room.is_stopping.is_set():
        waiting = await room.read_apart(waiting_reports, subscriber, after=sent, limit=_AT_ONCE)
        for report in waiting:
            await websocket.send_text(event_report(report))
        if waiting:
            sent = waiting[-1].sequence
            await anyio.to_thread.run_sync(_note_sent, room.engine, subscriber, sent, limiter=room.db)
        if len(waiting) < _AT_ONCE:
            await asyncio.sleep(_LOOK_SECONDS)
    await websocket.send_text(event_report(_of_the_server(sent + 1)))


def _of_the_server(sequence: int) -> Waiting:
    type, attributes = GOING_DOWN
    return Waiting(sequence=sequence, workitem_uid=WORKLIST, type=type, attributes=attributes)


def _note_sent(engine: sa.Engine, subscriber: Subscriber, sequence: int) -> None:
    with begin_write(engine) as connection:
        note_sent(connection, subscriber, sequence)


def event_report(report: Waiting) -> str:
    """A report as the text of a WebSocket message: one data set of DICOM JSON (PS3.18 11.13, PS3.7 10.3.1)."""
    dataset: MetadataJson = {
        "00000002": element("UI", PUSH),
        "00000110": element("US", report.sequence % 0xFFFF + 1),
        "00001000": element("UI", report.workitem_uid),
        "00001002": element("US", report.type),
        **report.attributes,
    }
    return orjson.dumps(dict(sorted(dataset.items()))).decode()


_SUBSCRIBERS = "/workitems/{workitem}/subscribers/{ae}"

routes: list[BaseRoute] = [
    Route(_SUBSCRIBERS, subscribe_to, methods=["POST"]),
    Route(_SUBSCRIBERS, unsubscribe_from, methods=["DELETE"]),
    Route(f"{_SUBSCRIBERS}/suspend", suspend_subscription, methods=["POST"]),
    WebSocketRoute("/ws/subscribers/{ae}", open_channel),
    WebSocketRoute("/subscribers/{ae}", open_channel),  # as editions up to 2015 have it
]
