"""Notifications over a WebSocket: R4's ``bind ID`` and ``ping ID``, and the Backport's ``bind-with-token TOKEN``.

A socket may hang on another process than the one in which something happens: each looks for the events of the
subscriptions that it is bound to. It begins where the last one has stopped.
"""

from __future__ import annotations

import asyncio
import logging
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

import anyio
import anyio.to_thread
import orjson
import sqlalchemy as sa
from starlette.routing import WebSocketRoute
from starlette.websockets import WebSocket, WebSocketDisconnect

from server.auth import Caller
from server.fhir import wire
from server.fhir.notify import MOST_EVENTS, Kind, notification
from server.fhir.subscriptions import as_asker
from server.room import Room
from storage.catalog.engine import begin_write
from storage.catalog.fhir_subscriptions import (
    Notification,
    Subscription,
    bound_by,
    change_subscription,
    find_subscription,
    read_notifications,
    subscriptions_by_id,
)

log = logging.getLogger(__name__)

_LOOK_SECONDS = 0.25
_GOING_AWAY = 1001
_MOST_BOUND = 100
_LONGEST_MESSAGE = 4096


@dataclass(slots=True)
class _Bound:
    """How far a socket has come with a subscription."""

    told: int
    spoke_at: datetime


@dataclass(frozen=True, slots=True)
class _Socket:
    websocket: WebSocket
    room: Room
    caller: Caller
    bound: dict[int, _Bound] = field(default_factory=dict)

    async def listen(self, ends: anyio.CancelScope) -> None:
        """Bind what the client asks to be bound, until it goes."""
        while (message := await self.websocket.receive())["type"] != "websocket.disconnect":
            text = message.get("text")
            if text is not None and len(text) <= _LONGEST_MESSAGE:
                await self._hear(text)
        ends.cancel()

    async def _hear(self, text: str) -> None:
        word, rest = _command(text)
        if word == "bind":
            found = await self.room.read_apart(_by_id, self.caller, rest)
        elif word == "bind-with-token":
            found = await self.room.read_apart(_by_token, rest, self.room.clock.now())
        else:
            return
        if not found:
            await self.websocket.send_text(f"unknown {rest[:64]}" if word == "bind" else "unknown token")
            return
        for subscription in found[: _MOST_BOUND - len(self.bound)]:
            if subscription.wish.topic is None:
                await self.websocket.send_text(f"bound {subscription.id}")
            else:
                await self._send(subscription, "handshake")
            self.bound[subscription.rid] = _Bound(subscription.told, self.room.clock.now())

    async def tell(self) -> None:
        """Send what there is for the subscriptions that are bound, until the server ends."""
        while not self.room.is_stopping.is_set():
            is_more = False
            for rid, bound in list(self.bound.items()):
                subscription, events = await self.room.read_apart(_events, rid, bound.told)
                if subscription is None or subscription.status == "off":
                    del self.bound[rid]
                    continue
                is_more |= await self._tell_one(subscription, bound, events)
            if not is_more:
                await asyncio.sleep(_LOOK_SECONDS)

    async def _tell_one(self, subscription: Subscription, bound: _Bound, events: list[Notification]) -> bool:
        """Send the next events of one, or a heartbeat where it is due; True where there may be more events."""
        now, wish = self.room.clock.now(), subscription.wish
        if not events:
            if wish.heartbeat_seconds and bound.spoke_at + timedelta(seconds=wish.heartbeat_seconds) <= now:
                if wish.topic is not None:
                    await self._send(subscription, "heartbeat")
                bound.spoke_at = now
            return False
        if wish.topic is None:
            for _event in events:
                await self.websocket.send_text(f"ping {subscription.id}")
        else:
            await self._send(subscription, "event-notification", events)
        bound.told, bound.spoke_at = events[-1].number, now
        await anyio.to_thread.run_sync(_note, self.room, subscription.rid, bound.told, limiter=self.room.db)
        return True

    async def _send(self, subscription: Subscription, kind: Kind, events: list[Notification] | None = None) -> None:
        text = await self.room.read_apart(_rendered, self.room, subscription, kind, events or [])
        await self.websocket.send_text(text)


async def open_socket(websocket: WebSocket) -> None:
    """Tell whoever is connected what the subscriptions it binds are told, until it goes or the server does."""
    room: Room = websocket.app.state.room
    await websocket.accept()
    socket = _Socket(websocket, room, websocket.scope["readingroom.caller"])
    room.channels.add(websocket)
    try:
        with suppress(WebSocketDisconnect, RuntimeError):  # it went while something was being sent
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(socket.listen, tasks.cancel_scope)
                await socket.tell()
                tasks.cancel_scope.cancel()
    finally:
        room.channels.discard(websocket)
    if room.is_stopping.is_set():
        with suppress(RuntimeError):
            await websocket.close(_GOING_AWAY)


def _command(text: str) -> tuple[str, str]:
    """What a client says: a word and what follows, or the same as JSON, as some clients have it."""
    if text.lstrip().startswith("{"):
        try:
            told = orjson.loads(text)
            return str(told["type"]), str(told["payload"]["token"])
        except (ValueError, KeyError, TypeError):
            return "", ""
    word, _space, rest = text.strip().partition(" ")
    return word.rstrip(":"), rest.strip()


def _by_id(connection: sa.Connection, caller: Caller, id: str) -> list[Subscription]:
    found = subscriptions_by_id(connection, caller.scope, (id,))
    return [one for one in found if _is_open(one) and _may_hear(caller, one)]


def _may_hear(caller: Caller, subscription: Subscription) -> bool:
    return subscription.asker.actor.id == caller.actor.id or "supervise" in caller.actor.may


def _by_token(connection: sa.Connection, token: str, now: datetime) -> list[Subscription]:
    found = (find_subscription(connection, rid) for rid in bound_by(connection, token, now))
    return [one for one in found if one is not None and _is_open(one)]


def _is_open(subscription: Subscription) -> bool:
    return subscription.wish.channel == "websocket" and subscription.status != "off"


def _events(connection: sa.Connection, rid: int, after: int) -> tuple[Subscription | None, list[Notification]]:
    subscription = find_subscription(connection, rid)
    if subscription is None:
        return None, []
    limit = subscription.wish.most_events or MOST_EVENTS
    return subscription, read_notifications(connection, rid, after=after, limit=limit)


def _rendered(connection: sa.Connection, room: Room, subscription: Subscription, kind: Kind, events: Any) -> str:
    session = as_asker(room, connection, subscription)
    bundle = notification(session, subscription, kind, events)
    media_type = subscription.wish.payload
    return wire.written(bundle, wire.Wanted(format="xml" if media_type == wire.XML else "json")).decode()


def _note(room: Room, rid: int, told: int) -> None:
    """Remember how far a subscriber has come, so that another socket goes on there."""
    with begin_write(room.engine) as connection:
        subscription = find_subscription(connection, rid, locked=True)
        if subscription is not None and subscription.told < told <= subscription.number:
            change_subscription(connection, rid, told=told, told_at=room.clock.now())


routes = [WebSocketRoute("/ws", open_socket)]
