"""Non-Patient Instances: color palettes, protocols, templates and inventories (PS3.18 chapter 12).

Each category is a resource of its own; what is stored there is in no study, and no search of studies finds it.
"""

from __future__ import annotations

import zlib
from functools import partial

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from readingroom.errors import NotFound
from server.auth import caller_of
from server.dicomweb.bulk import ANY_VALUE, Value, body_of, paths_of
from server.dicomweb.files import version_of, with_version
from server.dicomweb.kept import keepings_of
from server.dicomweb.metadata import ONE, send_metadata
from server.dicomweb.negotiation import DICOM, accepted, choose, instance_offers
from server.dicomweb.respond import Part, multipart, not_modified, single_part
from server.dicomweb.stow import store_in
from server.dicomweb.wado import send_instance
from server.room import Room
from server.staging import SentTo
from storage.catalog.nonpatient import Found, find_non_patient
from storage.nonpatient import CATEGORIES


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


async def store(request: Request, *, category: str) -> Response:
    """Store instances of a category, or one of a given UID (12.5)."""
    return await store_in(request, SentTo(category=category, instance_uid=request.path_params.get("uid")))


async def _find(request: Request, category: str) -> Found:
    room: Room = request.app.state.room
    scope, uid = caller_of(request).scope, request.path_params["uid"]
    return await room.read(find_non_patient, scope, category, uid, version_of(request))


routes = [
    Route(path, partial(endpoint, category=name), methods=[method])
    for name in CATEGORIES
    for path, endpoint, method in (
        (f"/{name}", store, "POST"),
        (f"/{name}/{{uid}}", store, "POST"),
        (f"/{name}/{{uid}}", retrieve, "GET"),
        (f"/{name}/{{uid}}/bulkdata/{{path:path}}", retrieve_bulk, "GET"),
    )
]
