"""Non-Patient Instances: color palettes, protocols, templates and inventories (PS3.18 chapter 12).

Each category is a resource of its own; what is stored there is in no study, and no search of studies finds it.
"""

from __future__ import annotations

import zlib
from dataclasses import dataclass
from functools import partial

import orjson
import sqlalchemy as sa
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from readingroom.errors import Invalid, NotFound
from readingroom.model import Scope
from server.auth import caller_of
from server.dicomweb.bulk import ANY_VALUE, Value, body_of, paths_of
from server.dicomweb.files import version_of, with_version
from server.dicomweb.kept import keepings_of
from server.dicomweb.metadata import ONE, send_metadata
from server.dicomweb.negotiation import DICOM, accepted, choose, instance_offers
from server.dicomweb.pages import OFFERS, Page, answer, encoded, picked, takes_gzip
from server.dicomweb.query import MOST, MOST_WHOLE, PRIOR_RECORD_KEY, read_parameters, read_query, whole_number
from server.dicomweb.removal import allow_deletion, run_change
from server.dicomweb.respond import Part, multipart, not_modified, single_part
from server.dicomweb.stow import store_in
from server.dicomweb.wado import send_instance
from server.dicomweb.xmlparts import XML_PARTS, XmlParts
from server.removing import remove_non_patient, restore_non_patient
from server.room import Room
from server.staging import SentTo
from storage.catalog.keys import Key, any_key
from storage.catalog.nonpatient import Found, Wanted, find_non_patient, search_non_patient
from storage.nonpatient import CATEGORIES
from storage.objects import BASE_URL_MARK

_ADDED = frozenset(("00080056", "00081190"))
"""Instance Availability and Retrieve URL: what rows have beside what was stored."""


async def retrieve(request: Request, *, category: str) -> Response:
    """Retrieve an instance (12.4): what it says, as JSON or XML, or the file."""
    found = await _find(request, category)
    stored = found.stored
    offer = choose(accepted(request), (*ONE, *instance_offers(stored.transfer_syntax, has_single_part=True)))
    url = caller_of(request).service_root + found.path
    if offer.media_type == DICOM:
        return await send_instance(request, stored, offer, url=url)
    return send_metadata(request, found.json, offer, etag=stored.etag, location=url, version=version_of(request))


async def retrieve_bulk(request: Request, *, category: str) -> Response:
    """Retrieve a value that is too long for the JSON and XML, from where these say that it is."""
    room: Room = request.app.state.room
    found, path = await _find(request, category), request.path_params["path"]
    if path not in paths_of(zlib.decompress(found.json)):
        raise NotFound(f"Instance {found.stored.instance_uid} has no bulk data at {path[:100]!r}.")
    offer = choose(accepted(request), ANY_VALUE)
    etag = f'"{found.stored.bytes_etag}-{path.replace("/", ".")}"'
    if unchanged := not_modified(request, etag):
        return unchanged
    url = f"{caller_of(request).service_root}{found.path}/bulkdata/{path}"
    location = with_version(url, version_of(request))
    value = Value(location=location, offers=ANY_VALUE, instance=found.stored, path=path)
    body = await body_of(room, keepings_of(request), value, offer)
    if not offer.multipart:
        return await single_part(request, room, offer, body, etag=etag)
    part = Part(media_type=offer.part_type, location=location, body=body)
    return await multipart(request, room, offer.name, [part], etag=etag)


@dataclass(frozen=True, slots=True, kw_only=True)
class Query:
    """What a request asks for in a category.

    Attributes
    ----------
    names
        The attributes of a row; None for all but bulk values.
    ignored, left_out
        As `server.dicomweb.query.Query` has them.
    """

    wanted: Wanted
    names: frozenset[str] | None
    ignored: tuple[str, ...]
    left_out: tuple[str, ...]


async def search(request: Request, *, category: str) -> Response:
    """Search for instances of a category (12.6): by any attribute that they have."""
    room: Room = request.app.state.room
    caller = caller_of(request)
    offer = choose(accepted(request), OFFERS)
    query = parse_search(category, request.scope["query_string"])
    xml = XmlParts() if offer == XML_PARTS else None
    root = caller.service_root
    page = await room.read_apart(_find_page, caller.scope, query, root, gzips=takes_gzip(request), xml=xml)
    media_type = xml.content_type if xml else offer.media_type
    return answer(request, page, media_type, f"/{category}", ignored=query.ignored, left_out=query.left_out)


def parse_search(category: str, query_string: bytes) -> Query:
    """The query parameters of a search (PS3.18 8.3.4); raises `Invalid` as `server.dicomweb.query.parse_query` does."""
    asked = read_query(read_parameters(query_string), lambda name: any_key(name) is not None)
    keys: dict[str, Key] = {}
    for name in asked.keys:
        key = any_key(name)
        partner = any_key(key.partner) if key else None
        keys |= {one.name: one for one in (key, partner) if one}
    in_row = CATEGORIES[category].row
    is_whole = asked.has_all or not asked.fields.keys() <= in_row | _ADDED
    most = MOST_WHOLE if is_whole else MOST
    ignored = [*asked.ignored, *(["PriorRecordKey"] if PRIOR_RECORD_KEY in asked.controls else [])]
    return Query(
        wanted=Wanted(
            category=category,
            conditions=asked.conditions(keys),
            zone=asked.zone,
            limit=min(whole_number(asked.controls, "limit", most), most),
            offset=whole_number(asked.controls, "offset", 0),
            is_whole=is_whole,
        ),
        names=None if asked.has_all else in_row | asked.fields.keys(),
        ignored=tuple(ignored),
        left_out=tuple(asked.left_out),
    )


def _find_page(
    connection: sa.Connection, scope: Scope, query: Query, root: str, *, gzips: bool, xml: XmlParts | None
) -> Page:
    wanted = query.wanted
    hits, has_more = search_non_patient(connection, scope, wanted)
    mark, there = BASE_URL_MARK.encode(), orjson.dumps(root)[1:-1]
    rows = []
    for hit in hits:
        row = picked(orjson.loads(hit.replace(mark, there)), query.names)
        url = f"{root}/{wanted.category}/{row['00080018']['Value'][0]}"
        row |= {"00080056": {"vr": "CS", "Value": ["ONLINE"]}, "00081190": {"vr": "UR", "Value": [url]}}
        rows.append(dict(sorted(row.items())))
    body, is_gzip = encoded(orjson.dumps(rows), gzips=gzips, xml=xml)
    following = f"offset={wanted.offset + len(hits)}" if has_more and hits else ""
    return Page(body=body, is_gzip=is_gzip, count=len(hits), next=following)


async def store(request: Request, *, category: str) -> Response:
    """Store instances of a category, or one of a given UID (12.5)."""
    return await store_in(request, SentTo(category=category, instance_uid=request.path_params.get("uid")))


async def delete(request: Request, *, category: str) -> Response:
    """Delete an instance; it can be restored until it is purged."""
    allow_deletion(request)
    return await run_change(request, remove_non_patient, category, request.path_params["uid"])


async def put_back(request: Request, *, category: str) -> Response:
    """Restore an instance that was deleted."""
    if request.query_params:
        raise Invalid("There are no parameters here.")
    return await run_change(request, restore_non_patient, category, request.path_params["uid"])


async def _find(request: Request, category: str) -> Found:
    room: Room = request.app.state.room
    scope, uid = caller_of(request).scope, request.path_params["uid"]
    return await room.read(find_non_patient, scope, category, uid, version_of(request))


routes = [
    Route(path, partial(endpoint, category=name), methods=[method])
    for name in CATEGORIES
    for path, endpoint, method in (
        (f"/{name}", search, "GET"),
        (f"/{name}", store, "POST"),
        (f"/{name}/{{uid}}", store, "POST"),
        (f"/{name}/{{uid}}", retrieve, "GET"),
        (f"/{name}/{{uid}}", delete, "DELETE"),
        (f"/{name}/{{uid}}/restore", put_back, "POST"),
        (f"/{name}/{{uid}}/bulkdata/{{path:path}}", retrieve_bulk, "GET"),
    )
]
