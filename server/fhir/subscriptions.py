"""Subscription: who is to be told of what, and how (FHIR R4 2.46; Subscriptions R5 Backport 1.1 for R4).

What is written is a command: it is read into a `Wish`, and the server says by `status` and `error` how it goes. The
secrets in `channel.header` are kept apart from the resource and its history; only whoever wrote them sees them again.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from ipaddress import ip_address
from typing import Any, NoReturn
from urllib.parse import parse_qsl

import sqlalchemy as sa

from readingroom.errors import Invalid, Refused
from readingroom.model import NOBODY, Scope
from readingroom.outbound import Network, Origin, is_allowed
from server.auth import Caller
from server.fhir.outcome import BrokenRule, Issue
from server.fhir.parsing import HEAD, dump_json
from server.fhir.session import Session, reading
from server.fhir.shown import Shown
from server.fhir.stored import StoredType, meta_of
from server.fhir.topics import BACKPORT, TOPICS
from server.fhir.types import Kind, Resource
from server.room import Room
from server.worklist.items import THE_SERVER
from storage.catalog import resources as kept
from storage.catalog.fhir_subscriptions import (
    Asker,
    Subscription,
    Wish,
    change_subscription,
    count_live,
    drop_subscription,
    find_subscription,
    write_subscription,
)

DELIVER = "fhir.deliver"
"""The kind of the job that does what is to be done for one subscription."""

MEDIA_TYPES = {
    "application/fhir+json": "application/fhir+json",
    "application/json": "application/fhir+json",
    "application/fhir+xml": "application/fhir+xml",
    "application/xml": "application/fhir+xml",
}
MOST_LIVE = 1000
"""Subscriptions of one facility: each of them is looked at with every change of what it tells of."""
MASK = "***"
"""Stands for the value of a header that is kept secret; sent back, it leaves the value as it is."""

Pairs = Sequence[tuple[str, str]]

_EXTENSION = f"{BACKPORT}/StructureDefinition/backport-"
_CONTENTS = ("empty", "id-only", "full-resource")
_MOST_SECONDS, _MOST_HEARTBEAT, _MOST_EVENTS = 60, 86_400 * 7, 1000
_MOST_FILTERS, _MOST_HEADERS, _LONGEST = 20, 20, 4000
_HEADER = re.compile(r"([!#$%&'*+.^_`|~0-9A-Za-z-]{1,100}):[ \t]*([!-~](?:[ -~\t]*[!-~])?)")
_OUR_HEADERS = frozenset(
    (
        *("connection", "content-encoding", "content-length", "content-type", "expect", "host", "keep-alive", "te"),
        *("proxy-authorization", "proxy-connection", "trailer", "transfer-encoding", "upgrade"),
    )
)
_NO_CONDITIONS = re.compile(
    r"_(?:count|cursor|elements|format|include(?::.*)?|pretty|query|revinclude(?::.*)?|sort|summary|total|type)"
)


@dataclass(frozen=True, kw_only=True)
class SubscriptionType(StoredType):
    """The type of subscriptions; see `server.fhir.types.ResourceType`."""

    name: str = "Subscription"
    kind: Kind = "command"

    def read(self, session: Session, ids: Sequence[str]) -> list[Shown]:
        """The current versions; headers whole for whoever wrote them."""
        return [_unmasked(session, one) for one in super().read(session, ids)]

    def lock(self, session: Session, id: str) -> Shown | None:
        """The current version of one, locked."""
        found = super().lock(session, id)
        return None if found is None else _unmasked(session, found)

    def create(self, session: Session, resource: Resource, rest: bytes, id: str) -> Shown:
        """Begin to tell somebody of something, once the way there has been tried."""
        return self._command(session, None, resource, id, session.method or "PUT")

    def update(self, session: Session, before: Shown, resource: Resource, rest: bytes) -> Shown:
        """Tell of something else, or in another way, or no more."""
        return self._command(session, before, resource, before.id, "PUT")

    def delete(self, session: Session, before: Shown) -> Shown:
        """Tell of nothing any more, and forget what was told."""
        row = _row(session, before.id)
        if row is not None:
            drop_subscription(session.connection, row.rid)
        return super().delete(session, before)

    def _command(self, session: Session, before: Shown | None, resource: Resource, id: str, method: str) -> Shown:
        row = _row(session, id) if before is not None else None
        held = None if row is None else find_subscription(session.connection, row.rid, locked=True)
        if held is not None and held.asker.actor.id != session.actor.id:
            # What was to be sent to one is not sent to another, who may see less.
            drop_subscription(session.connection, held.rid)
            held = None
        wish = wish_of(session, resource, held)
        status = "requested"
        if resource.get("status") == "off" or (wish.end_at is not None and wish.end_at <= session.now):
            status = "off"
        elif held is not None and held.status == "active" and held.wish == wish:
            status = "active"
        is_more = status != "off" and (held is None or held.status == "off")
        if is_more and count_live(session.connection, session.facility) >= MOST_LIVE:
            _refuse("status", f"A facility has at most {MOST_LIVE} subscriptions that are not off.", "too-costly")
        told = {name: value for name, value in _masked(resource, status).items() if name not in HEAD}
        rest, meta = dump_json(told), meta_of(resource)
        if before is not None and row is not None and held is not None:
            was = held.wish, held.status, row.rest, row.meta
            if was == (wish, status, rest, dump_json(meta)):
                return before
        shown = self._write(session, before, {**resource, "meta": meta}, rest, id, method)
        row = _row(session, id)
        assert row is not None, "it was written just now"
        due_at = None if status == "off" else wish.end_at
        write_subscription(session.connection, row.rid, wish, _asker(session), status=status, due_at=due_at)
        if status != "off":
            enqueue_delivery(session.room, session.connection, row.rid)
        return _unmasked(session, shown)


def enqueue_delivery(room: Room, connection: sa.Connection, rid: int) -> None:
    """Have done what is to be done for a subscription: one thing at a time, and what waits waits once."""
    lane = f"fhir subscription {rid}"
    room.queue.enqueue(connection, DELIVER, {"subscription": rid}, lane=lane, key=lane)


def hold(session: Session, subscription: Subscription) -> Subscription | None:
    """A subscription as it is now, which stays so until the transaction ends; locked as whoever writes it does."""
    _row(session, subscription.id)
    return find_subscription(session.connection, subscription.rid, locked=True)


def note_status(session: Session, subscription: Subscription, status: str, error: str = "", **values: Any) -> None:
    """Write down how it goes: with the subscription, and as a version of the resource where its status is another."""
    change_subscription(session.connection, subscription.rid, status=status, error=error, **values)
    row = _row(session, subscription.id)
    if row is None or row.is_deleted or status == subscription.status:
        return
    type = SubscriptionType()
    before = StoredType.lock(type, session, subscription.id)
    assert before is not None
    told = {name: value for name, value in before.resource.items() if name not in HEAD}
    told["status"] = status
    told.pop("error", None)
    if error:
        told["error"] = error
    type._write(session, before, {**told, "meta": dict(before.meta)}, dump_json(told), subscription.id, "PUT")


def as_asker(room: Room, connection: sa.Connection, subscription: Subscription) -> Session:
    """A session of whoever wrote a subscription: what that caller could not read now, it does not tell of."""
    asker = subscription.asker
    actor = room.tokens.renewed(connection, asker.actor) or NOBODY
    caller = Caller(
        actor=actor,
        scope=actor.scope,
        service_root=asker.dicomweb,
        fhir_root=asker.root,
        facility=asker.facility,
    )
    return reading(room, caller, connection)


def as_server(room: Room, connection: sa.Connection, subscription: Subscription) -> Session:
    """A session of the server itself, to write down how a subscription goes."""
    session = as_asker(room, connection, subscription)
    scope = Scope(facilities=frozenset((subscription.owner,)))
    return replace(session, actor=THE_SERVER, scope=scope, facility=subscription.owner)


def require_owner(session: Session, subscription: Subscription) -> None:
    """Raise `Refused` where the events of a subscription are somebody else's, who may see more than this caller."""
    if subscription.asker.actor.id != session.actor.id and "supervise" not in session.actor.may:
        raise Refused("These events are for whoever wrote the subscription.")


# -- what is wanted ----------------------------------------------------------------------------------------------------


def wish_of(session: Session, resource: Resource, held: Subscription | None = None) -> Wish:
    """What a Subscription asks for.

    Parameters
    ----------
    held
        What it was before, with the secrets that a client may leave masked.

    Raises
    ------
    BrokenRule
        It cannot be done; says what, and where.
    """
    channel = resource["channel"]
    topic = resource["criteria"] if resource["criteria"] in TOPICS else None
    type, criteria = _criteria(session, resource, topic)
    endpoint = channel.get("endpoint", "")
    if channel["type"] not in ("rest-hook", "websocket"):
        _refuse("channel.type", f"The channel is rest-hook or websocket, not {channel['type']}.", "not-supported")
    if channel["type"] == "rest-hook":
        _check_endpoint(endpoint, session.room.settings.private_networks)
    payload = channel.get("payload", "")
    if payload and payload.partition(";")[0].strip() not in MEDIA_TYPES:
        _refuse("channel.payload", "The payload is application/fhir+json or application/fhir+xml.", "not-supported")
    payload = MEDIA_TYPES[payload.partition(";")[0].strip()] if payload else ""
    content = "full-resource" if payload else "empty"
    if topic is not None:
        payload = payload or "application/fhir+json"
        content = _extension(channel.get("_payload"), "payload-content", "valueCode") or "id-only"
        if content not in _CONTENTS:
            _refuse("channel.payload.extension", f"The content is one of {', '.join(_CONTENTS)}.")
    elif payload and channel["type"] == "websocket":
        said = "Over a WebSocket, R4 tells that something happened, and sends no payload; topics do."
        _refuse("channel.payload", said, "not-supported")
    return Wish(
        type=type,
        topic=topic,
        criteria=criteria,
        channel=channel["type"],
        endpoint=endpoint if channel["type"] == "rest-hook" else "",
        headers=_headers(channel, endpoint, held),
        payload=payload,
        content=content,
        heartbeat_seconds=_number(channel, "heartbeat-period", "valueUnsignedInt", _MOST_HEARTBEAT) or None,
        timeout_seconds=_number(channel, "timeout", "valueUnsignedInt", _MOST_SECONDS) or None,
        most_events=_number(channel, "max-count", "valuePositiveInt", _MOST_EVENTS),
        end_at=datetime.fromisoformat(resource["end"]) if "end" in resource else None,
    )


def pairs_of(criteria: Sequence[str]) -> list[tuple[str, str]]:
    """The parameters of searches, all of which a resource has to meet."""
    return [pair for one in criteria for pair in parse_qsl(one, keep_blank_values=True)]


def _criteria(session: Session, resource: Resource, topic: str | None) -> tuple[str, tuple[str, ...]]:
    """The type, and the searches by which resources of it are chosen; each of them was tried."""
    # Here, since searches need the table of types, and that has this one in it.
    from server.fhir.query import parse_query
    from server.fhir.search import run

    told = str(resource["criteria"])
    if topic is not None:
        type, searches = TOPICS[topic].type, []
        for text in list(_extensions(resource.get("_criteria"), "filter-criteria"))[: _MOST_FILTERS + 1]:
            of, mark, query = str(text.get("valueString", "")).rpartition("?")
            if of not in ("", type) or (not mark and "=" not in query):
                _refuse("criteria.extension", f"A filter of this topic begins with {type}?, parameters follow.")
            searches.append(query)
        if len(searches) > _MOST_FILTERS:
            _refuse("criteria.extension", f"There are at most {_MOST_FILTERS} filters.", "too-long")
    else:
        type, _mark, query = told.removeprefix(f"{session.root}/").lstrip("/").partition("?")
        if "://" in type or "/" in type:
            _refuse("criteria", f"There is no such topic here. The topics are {', '.join(TOPICS)}.", "not-found")
        searches = [query] if query else []
    for place, query in zip(_places(topic), searches, strict=False):
        if len(query) > _LONGEST:
            _refuse(place, f"A search has at most {_LONGEST} characters.", "too-long")
    pairs = pairs_of(searches)
    if wrong := next((name for name, _value in pairs if _NO_CONDITIONS.fullmatch(name)), None):
        _refuse("criteria", f"{wrong} says how to answer a search, not which resources to tell of.")
    try:
        # It is run as well, since whether the caller may ask for this shows when it does.
        run(
            session,
            replace(
                parse_query(type, [*pairs, ("_id", "none")], root=session.root, is_strict=True), count=1, total="none"
            ),
        )
    except (Invalid, Refused) as error:
        _refuse("criteria.extension" if topic else "criteria", error.message)
    return type, tuple(searches)


def _places(topic: str | None) -> Iterator[str]:
    while True:
        yield "criteria" if topic is None else "criteria.extension"


def _check_endpoint(url: str, networks: Sequence[Network]) -> None:
    """Refuse what can be seen to be wrong; where a name leads is looked at each time something is sent."""
    if not url:
        _refuse("channel.endpoint", "A rest-hook has to have an endpoint.", "required")
    try:
        origin = Origin.of(url)
    except ValueError as error:
        _refuse("channel.endpoint", f"The endpoint is not right: {error}.")
    try:
        address = ip_address(origin.host)
    except ValueError:
        address = None
    if address is not None and not is_allowed(address, networks):
        said = "The endpoint is neither of the public Internet nor in one of private_networks."
        _refuse("channel.endpoint", said, "forbidden")
    if origin.scheme == "http" and not networks:
        _refuse("channel.endpoint", "The endpoint is asked over https alone.", "forbidden")


def _headers(channel: Mapping[str, Any], endpoint: str, held: Subscription | None) -> tuple[str, ...]:
    lines = channel.get("header", [])
    if len(lines) > _MOST_HEADERS:
        _refuse("channel.header", f"There are at most {_MOST_HEADERS} headers.", "too-long")
    return tuple(_header(line, index, endpoint, held) for index, line in enumerate(lines))


def _header(line: str, index: int, endpoint: str, held: Subscription | None) -> str:
    found = _HEADER.fullmatch(line) if len(line) <= _LONGEST else None
    place = f"channel.header[{index}]"
    if found is None:
        _refuse(place, "A header is a name, a colon and a value of printable ASCII.")
    name, value = found.groups()
    if name.lower() in _OUR_HEADERS:
        _refuse(place, f"The header {name} is the server's to set.")
    if value != MASK:
        return line
    known: str | None = None
    if held is not None and held.wish.endpoint and Origin.of(held.wish.endpoint) == Origin.of(endpoint):
        known = next((one for one in held.wish.headers if one.partition(":")[0].lower() == name.lower()), None)
    if known is None:
        _refuse(place, "The value of this header is not known for this endpoint; send it.")
    return known


def _number(channel: Mapping[str, Any], name: str, member: str, most: int) -> int | None:
    value = _extension(channel, name, member)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= most:
        _refuse("channel.extension", f"backport-{name} is {member}, at most {most}.")
    return value


def _extensions(element: Any, name: str) -> Iterator[Mapping[str, Any]]:
    for one in element.get("extension", ()) if isinstance(element, Mapping) else ():
        if one.get("url") == _EXTENSION + name:
            yield one


def _extension(element: Any, name: str, member: str) -> Any:
    return next((one.get(member) for one in _extensions(element, name)), None)


def _refuse(place: str, said: str, code: str = "value") -> NoReturn:
    raise BrokenRule([Issue(code=code, diagnostics=said, expression=f"Subscription.{place}")])


# -- as it is shown ----------------------------------------------------------------------------------------------------


def _masked(resource: Resource, status: str) -> Resource:
    """The resource as it is kept: with the status that the server gives it, and without secrets."""
    told = {**resource, "status": status}
    told.pop("error", None)
    if lines := resource["channel"].get("header"):
        masked = [f"{line.partition(':')[0]}: {MASK}" for line in lines]
        told["channel"] = {**resource["channel"], "header": masked}
    return told


def _unmasked(session: Session, shown: Shown) -> Shown:
    if shown.is_deleted or MASK.encode() not in shown.rest:
        return shown
    row = kept.read_resources(session.connection, session.scope, "Subscription", (shown.id,))
    held = find_subscription(session.connection, row[0].rid) if len(row) == 1 else None
    if held is None or held.asker.actor.id != session.actor.id or not held.wish.headers:
        return shown
    told = {name: value for name, value in shown.resource.items() if name not in HEAD}
    told["channel"] = {**told["channel"], "header": list(held.wish.headers)}
    return replace(shown, rest=dump_json(told))


def _row(session: Session, id: str) -> kept.StoredResource | None:
    return kept.lock_resource(session.connection, session.scope, "Subscription", id)


def _asker(session: Session) -> Asker:
    actor = replace(session.actor, scope=session.scope)
    return Asker(actor=actor, facility=session.facility, root=session.root, dicomweb=session.dicomweb)
