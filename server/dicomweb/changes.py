"""The change feed: what was stored, settled, corrected, removed, restored and purged, in the order of the commits.

PS3.18 has none. An entry has a number; numbers rise, and who has read one will never see a smaller one appear. So a
reader keeps the last number that it has dealt with and asks for what comes ``since`` then; or it keeps a stream open.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator, Mapping
from datetime import UTC, datetime
from typing import Any
from urllib.parse import urlencode

import orjson
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.routing import Route

from readingroom.errors import Invalid
from readingroom.model import Scope
from server.auth import caller_of
from server.dicomweb.negotiation import Offer, accepted, choose
from server.feed import follow, sequence_of
from server.room import Room
from storage.catalog.events import Event, Wanted, last_sequence, latest_event, read_events

_OFFERS = (Offer(media_type="application/json"), Offer(media_type="text/event-stream"))
_ONE = _OFFERS[:1]
_MOST = 1000
_USUAL = 100
_MOST_INSTANCES = 10_000
"""Of one answer, which is cut after the entry that reaches it."""

_ACTIONS = {
    "InstancesStored": "create",
    "InstancesRemoved": "delete",
    "InstancesRestored": "restore",
    "InstancesPurged": "purge",
}
"""What an event of this type says of each instance that it names."""

_FILTERS = frozenset({"type", "study", "from", "to", "accept"})
_HEADERS = {"cache-control": "private, no-store", "vary": "Accept"}


async def read_changes(request: Request) -> Response:
    """Read the feed: a page of it as JSON, or as server-sent events all that comes from there on."""
    room: Room = request.app.state.room
    caller, offer = caller_of(request), choose(accepted(request), _OFFERS)
    wanted = _wanted(request, _FILTERS | {"since", "limit"})
    since = sequence_of(request.query_params.get("since"), "since")
    if offer.name == "text/event-stream":
        if wanted.end is not None or "limit" in request.query_params:
            raise Invalid("A stream has no end: it takes neither 'to' nor 'limit'.")
        after = sequence_of(request.headers.get("last-event-id"), "Last-Event-ID")
        if after is None:
            after = since
        if after is None:
            after = await room.read(last_sequence)
        body = stream(room, caller.scope, wanted, caller.service_root, after=after)
        headers = _HEADERS | {"x-accel-buffering": "no"}
        if request.method == "HEAD":
            return Response(headers=headers, media_type=offer.name)
        return StreamingResponse(body, headers=headers, media_type=offer.name)
    limit = sequence_of(request.query_params.get("limit", str(_USUAL)), "limit")
    if not limit:
        raise Invalid("'limit' has to be at least 1.")
    limit = min(limit, _MOST)
    found = await room.read_apart(read_events, caller.scope, wanted, after=since or 0, limit=limit + 1)
    events = _cut(found[:limit])
    headers = dict(_HEADERS)
    if len(events) < len(found):
        following = {name: value for name, value in request.query_params.items() if name != "since"}
        query = urlencode(following | {"since": events[-1].sequence})
        headers["link"] = f'<{caller.service_root}/changes?{query}>; rel="next"'
    body_json = orjson.dumps([entry(event, caller.service_root) for event in events])
    return Response(body_json, headers=headers, media_type=offer.name)


async def read_latest(request: Request) -> Response:
    """Read the last entry of the feed; 204 where there is none."""
    room: Room = request.app.state.room
    caller, offer = caller_of(request), choose(accepted(request), _ONE)
    found = await room.read_apart(latest_event, caller.scope, _wanted(request, _FILTERS))
    if found is None:
        return Response(status_code=204, headers=_HEADERS)
    return Response(orjson.dumps(entry(found, caller.service_root)), headers=_HEADERS, media_type=offer.name)


def entry(event: Event, service_root: str) -> dict[str, Any]:
    """An event as the feed tells it.

    Returns
    -------
    dict
        `sequence`, `type`, `time`, `facility`, `study` and its `url`; `instances`, each with its series, what was
        done with it, and where its metadata is where it may be; in `details` what else an event of this type says.
    """
    payload = dict(event.payload)
    series: Mapping[str, list[str]] = payload.pop("series", {})
    versions: Mapping[str, int] = payload.pop("versions", {})
    url = f"{service_root}/studies/{event.study_uid}"
    return {
        "sequence": event.sequence,
        "type": event.type,
        "time": event.at.isoformat(timespec="microseconds").replace("+00:00", "Z"),
        "facility": event.facility,
        "study": event.study_uid,
        "url": url,
        "instances": list(_instances(event.type, series, versions, url)),
        "details": payload,
    }


def _instances(
    kind: str, series: Mapping[str, list[str]], versions: Mapping[str, int], url: str
) -> Iterator[dict[str, Any]]:
    for series_uid, uids in series.items():
        for uid in uids:
            told: dict[str, Any] = {"series": series_uid, "instance": uid, "action": _ACTIONS.get(kind, "update")}
            if kind == "InstancesStored":
                told["version"] = versions.get(uid, 1)
                if told["version"] > 1:
                    told["action"] = "update"
            if told["action"] not in ("delete", "purge"):
                told["metadata"] = f"{url}/series/{series_uid}/instances/{uid}/metadata"
            yield told


def stream(room: Room, scope: Scope, wanted: Wanted, service_root: str, *, after: int) -> AsyncIterator[bytes]:
    """Server-sent events: those that there are, then each as it is committed, until the client or the server ends."""
    return follow(room, scope, wanted, lambda event: orjson.dumps(entry(event, service_root)), after=after, cut=_cut)


def _cut(events: list[Event]) -> list[Event]:
    """The first of them, up to the one that makes it too much for one answer."""
    number = 0
    for index, event in enumerate(events):
        number += sum(map(len, event.payload.get("series", {}).values()))
        if number >= _MOST_INSTANCES:
            return events[: index + 1]
    return events


def _wanted(request: Request, known: frozenset[str]) -> Wanted:
    parameters = request.query_params
    unknown = sorted(set(parameters) - known)
    if unknown:
        raise Invalid(f"The feed has no parameter {unknown[0][:40]!r}; it has {', '.join(sorted(known))}.")
    study_uid = parameters.get("study")
    if study_uid is not None and not study_uid.replace(".", "").isalnum():
        raise Invalid("'study' has to be a Study Instance UID.")
    types = tuple(parameters["type"].split(",")) if "type" in parameters else ()
    if not all(name.isalnum() for name in types):
        raise Invalid("'type' has to be the name of a type of events, or several with commas between.")
    return Wanted(
        types=types,
        study_uid=study_uid,
        item=False,
        begin=_moment(parameters.get("from"), "from"),
        end=_moment(parameters.get("to"), "to"),
    )


def _moment(text: str | None, name: str) -> datetime | None:
    if text is None:
        return None
    try:
        moment = datetime.fromisoformat(text.replace(" ", "+"))  # a plus sign that was not escaped
        if moment.tzinfo is not None:
            return moment.astimezone(UTC)
    except (ValueError, OverflowError):
        pass
    raise Invalid(f"{name!r} has to be a time with its zone, such as 2026-01-31T08:00:00Z.")


routes = [
    Route("/changes", read_changes, methods=["GET"]),
    Route("/changes/latest", read_latest, methods=["GET"]),
]
