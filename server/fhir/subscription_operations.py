"""Operations on subscriptions: ``$status``, ``$events``, ``$get-ws-binding-token`` (Subscriptions R5 Backport 1.1)."""

from __future__ import annotations

import re
import secrets
from collections.abc import Sequence
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from readingroom.errors import Invalid, NotFound
from server.fhir.access import require
from server.fhir.notify import notification, status_parameters
from server.fhir.search import allowed
from server.fhir.session import Session
from server.fhir.shown import instant
from server.fhir.subscriptions import require_owner
from storage.catalog.engine import begin_write, is_writing
from storage.catalog.fhir_subscriptions import (
    Subscription,
    keep_token,
    read_notifications,
    subscriptions_by_id,
)

if TYPE_CHECKING:
    from server.fhir.operations import Asked

TOKEN_LASTS = timedelta(minutes=10)
MOST_EVENTS = 500
"""Of one answer; who wants more asks on, from the number after the last one."""


def status(session: Session, asked: Asked) -> dict[str, Any]:
    """How it goes with one subscription, or with those that `id` and `status` name."""
    found = _subscriptions(session, asked)
    wanted = _all(asked, "status")
    entries = []
    for one in found:
        if wanted and one.status not in wanted:
            continue
        told = status_parameters(one, "query-status")
        entries.append({"fullUrl": f"urn:uuid:{told['id']}", "resource": told, "search": {"mode": "match"}})
    bundle = {"resourceType": "Bundle", "type": "searchset", "total": len(entries)}
    return {"body": bundle | ({"entry": entries} if entries else {})}


def events(session: Session, asked: Asked) -> dict[str, Any]:
    """The events of a subscription that are kept, from one number to another, both of them too."""
    [subscription] = _subscriptions(session, asked)
    require_owner(session, subscription)
    since, until = _number(asked, "eventsSinceNumber"), _number(asked, "eventsUntilNumber")
    content = asked.parameter("content")
    if content not in (None, "empty", "id-only", "full-resource"):
        raise Invalid("'content' is one of empty, id-only, full-resource.")
    found = read_notifications(
        session.connection,
        subscription.rid,
        after=0 if since is None else since - 1,
        until=until,
        limit=MOST_EVENTS,
    )
    return {"body": notification(session, subscription, "query-event", found, content=content)}


def get_ws_binding_token(session: Session, asked: Asked) -> dict[str, Any]:
    """A token that binds a WebSocket to subscriptions: to one, to those that `id` names, or to all of the caller's."""
    found = [one for one in _subscriptions(session, asked) if one.wish.channel == "websocket"]
    if asked.id is None and not _all(asked, "id"):
        found = [one for one in found if one.asker.actor.id == session.actor.id]
    if not found:
        raise Invalid("There is no subscription with the channel websocket among these.")
    for one in found:
        require_owner(session, one)
    token, until = secrets.token_urlsafe(32), session.now + TOKEN_LASTS
    rids = [one.rid for one in found]
    if is_writing(session.connection):
        keep_token(session.connection, token, rids, until)
    else:
        with begin_write(session.room.engine) as connection:
            keep_token(connection, token, rids, until)
    told = [
        {"name": "token", "valueString": token},
        {"name": "expiration", "valueDateTime": instant(until)},
        *({"name": "subscription", "valueString": one.id} for one in found),
        {"name": "websocket-url", "valueUrl": re.sub("^http", "ws", session.root) + "/ws"},
    ]
    return {"body": {"resourceType": "Parameters", "parameter": told}}


def _subscriptions(session: Session, asked: Asked) -> list[Subscription]:
    """Those that are asked for: the one of the path, those that `id` names, or all in scope."""
    ids: Sequence[str] | None = (asked.id,) if asked.id is not None else _all(asked, "id") or None
    require(session, "Subscription", "r")
    held = subscriptions_by_id(session.connection, session.scope, ids)
    visible = set(allowed(session, [("Subscription", one.id) for one in held], "r"))
    found = [one for one in held if ("Subscription", one.id) in visible]
    if asked.id is not None and len(found) != 1:
        raise NotFound(f"There is no Subscription/{asked.id[:64]}.")
    return found


def _all(asked: Asked, name: str) -> list[str]:
    """All values of a parameter, in the query or in the Parameters resource that was sent."""
    found = [part for pair, value in asked.query if pair == name for part in value.split(",") if part]
    parameters = (asked.body or {}).get("parameter") or []
    for told in parameters if isinstance(parameters, list) else []:
        if isinstance(told, dict) and told.get("name") == name:
            found += [str(value) for key, value in told.items() if key.startswith("value")]
    return found


def _number(asked: Asked, name: str) -> int | None:
    told = asked.parameter(name)
    if told is None:
        return None
    text = str(told)
    if not (text.isascii() and text.isdecimal() and len(text) <= 18):
        raise Invalid(f"{name!r} has to be the number of an event, 1 or more.")
    return int(text)
