"""Retrieve bulk data by URI, and all of an instance, series or study, or their pixels (PS3.18 10.4.1.1.5, 10.4.1.1.7).

A value goes as it lies in the file, in little-endian order. Compressed pixel data goes frame by frame, and a video as
the one stream that it is.
"""

from __future__ import annotations

import re
import zlib
from collections.abc import AsyncIterator, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

import anyio.to_thread
import orjson
import sqlalchemy as sa
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from readingroom.errors import NotFound
from readingroom.model import Scope
from server.auth import caller_of
from server.dicomweb.files import find_with_metadata, instance_url, version_of, with_version
from server.dicomweb.frames import agreed_frame, frame_as, frame_spec, inflated
from server.dicomweb.kept import Keepings, keepings_of
from server.dicomweb.negotiation import (
    COMPRESSED,
    DEFLATED,
    EXPLICIT_LITTLE_ENDIAN,
    NATIVE,
    OCTET_STREAM,
    Offer,
    accepted,
    agree,
    choose,
    frame_offers,
)
from server.dicomweb.respond import Made, Part, Piece, Stored, multipart, not_modified, read_pieces, single_part
from server.exporting import received_file
from server.room import Room
from storage.catalog.find import (
    StoredInstance,
    each_metadata,
    find_series,
    find_study,
    list_instances,
)
from storage.objects import BASE_URL_MARK, find_bulk
from storage.part10 import EXPLICIT_BIG
from storage.rewrite import little_endian

ALL = Offer(media_type=OCTET_STREAM, multipart=True, transfer_syntax=EXPLICIT_LITTLE_ENDIAN)
"""What stands, at an instance, series or study, for all its bulk data."""

ANY_VALUE: tuple[Offer, ...] = (replace(ALL, multipart=False), ALL)
"""What any one value is sent as."""

_PIXELS = frozenset({"7FE00010", "7FE00008", "7FE00009"})
_DOCUMENT, _DOCUMENT_TYPE = "00420011", "00420012"
_HARMLESS_DOCUMENTS = frozenset({"application/pdf", "model/mtl", "model/obj", "model/stl"})
"""Named as what they are; a browser would run the scripts of others (HTML, CDA) with this server's rights."""

_PATH = re.compile(rb'"BulkDataURI":"' + BASE_URL_MARK.encode() + rb'[^"]*/bulkdata/([0-9A-Fa-f/]+)"')
_ITEM = b"\xfe\xff\x00\xe0"


@dataclass(frozen=True, slots=True, kw_only=True)
class Value:
    """One bulk value, or one frame of it: where it is named, what can be sent of it, and how it is read."""

    location: str
    offers: tuple[Offer, ...]
    instance: StoredInstance
    path: str
    frame: int | None = None


async def retrieve_bulk(request: Request) -> Response:
    """Retrieve one bulk value."""
    room: Room = request.app.state.room
    caller, path = caller_of(request), request.path_params
    uids, version = (path["study"], path["series"], path["instance"]), version_of(request)
    instance, stored = await room.read(find_with_metadata, caller.scope, *uids, version)
    accept, keepings = accepted(request), keepings_of(request)
    metadata = zlib.decompress(stored)
    if path["path"] not in paths_of(metadata):
        raise NotFound(f"Instance {instance.instance_uid} has no bulk data at {path['path'][:100]!r}.")
    values = list(_values(caller.service_root, instance, path["path"], metadata, version=version))
    first = values[0]
    if unchanged := not_modified(request, _etag(instance, choose(accept, first.offers))):
        return unchanged
    if first.frame is None:
        offer = choose(accept, first.offers)
        body = await body_of(room, keepings, first, offer)
    else:
        offer, frame = await agreed_frame(room, keepings, instance, first.frame, accept, first.offers)
        body = [frame]
    etag = _etag(instance, offer)
    if not offer.multipart:
        return await single_part(request, room, offer, body, etag=etag)
    parts = [_part(room, keepings, value, offer) for value in values]
    parts[0] = replace(parts[0], body=body)
    return await multipart(request, room, offer.name, parts, etag=etag)


def _etag(instance: StoredInstance, offer: Offer) -> str:
    return f'"{instance.bytes_etag}-{offer.transfer_syntax}"'


async def instance_bulk(request: Request) -> Response:
    """Retrieve all bulk data of an instance."""
    return await _retrieve_all(request)


async def series_bulk(request: Request) -> Response:
    """Retrieve all bulk data of a series."""
    return await _retrieve_all(request)


async def study_bulk(request: Request) -> Response:
    """Retrieve all bulk data of a study."""
    return await _retrieve_all(request)


async def pixel_data(request: Request) -> Response:
    """Retrieve the pixel data of an instance, a series or a study, and no other bulk data.

    Each part says where the metadata has its value, as PS3.18 10.4.3.3.6 demands: several frames say the same.
    """
    return await _retrieve_all(request, is_pixels=True)


async def _retrieve_all(request: Request, *, is_pixels: bool = False) -> Response:
    room: Room = request.app.state.room
    caller, accept = caller_of(request), accepted(request)
    version = version_of(request) if "instance" in request.path_params else None
    values = await room.read_apart(_find_all, caller.scope, caller.service_root, version, **request.path_params)
    if is_pixels:
        values = [
            replace(value, location=_uri(caller.service_root, value.instance, value.path, version))
            for value in values
            if value.path in _PIXELS
        ]
    etags = list(dict.fromkeys(value.instance.bytes_etag for value in values))
    etag = f'W/"{zlib.crc32(repr((accept, etags)).encode()):x}-{"pixels" if is_pixels else "bulk"}"'
    if values and (unchanged := not_modified(request, etag)):
        return unchanged
    if not values:
        what = "There is no pixel data here" if is_pixels else "There is no bulk data here; the metadata holds it all"
        raise NotFound(f"{what}.")
    agreed = [(value, offer) for value in values if (offer := agree(accept, value.offers))]
    if not agreed:
        choose(accept, tuple(dict.fromkeys(offer for value in values for offer in value.offers)))
    missing = len(values) - len(agreed)
    warning = f"{missing} of {len(values)} values are in no acceptable media type" if missing else ""
    parts = [_part(room, keepings_of(request), value, offer) for value, offer in agreed]
    return await multipart(request, room, agreed[0][1].name, parts, etag=etag, warning=warning)


def _find_all(
    connection: sa.Connection,
    scope: Scope,
    service_root: str,
    version: int | None,
    study: str,
    series: str = "",
    instance: str = "",
    facility: str = "",
) -> list[Value]:
    """All bulk values below a path; `facility` is part of the path and, by now, of `scope`."""
    found: Iterable[tuple[StoredInstance, bytes]]
    if instance:
        found = [find_with_metadata(connection, scope, study, series, instance, version)]
    else:
        of = find_series(connection, scope, study, series) if series else find_study(connection, scope, study)
        instances = list_instances(connection, of)
        found = zip(instances, each_metadata(connection, instances), strict=True)
    return [
        value
        for one, stored in found
        for metadata in [zlib.decompress(stored)]
        for path in paths_of(metadata)
        for value in _values(service_root, one, path, metadata, version=version, is_alone=False)
    ]


def paths_of(metadata: bytes) -> list[str]:
    """The bulk values that the JSON names."""
    return [path.decode() for path in _PATH.findall(metadata)]


def _uri(service_root: str, instance: StoredInstance, path: str, version: int | None) -> str:
    """The BulkDataURI of a value."""
    return with_version(f"{instance_url(service_root, instance)}/bulkdata/{path}", version)


def _values(
    service_root: str,
    instance: StoredInstance,
    path: str,
    metadata: bytes,
    *,
    version: int | None,
    is_alone: bool = True,
) -> Iterator[Value]:
    """The parts that a bulk value is sent in: one, or one a frame where its pixels are compressed."""
    location = _uri(service_root, instance, path, version)
    syntax = instance.transfer_syntax
    if path not in _PIXELS or syntax in NATIVE:
        offers: tuple[Offer, ...] = ANY_VALUE
        if path == _DOCUMENT and (media_type := _document_type(metadata)) in _HARMLESS_DOCUMENTS:
            document = Offer(media_type=media_type)
            offers = (document, replace(document, multipart=True), *ANY_VALUE)
        yield _value(location, offers, instance, path, is_alone)
    elif _is_video(syntax):
        streams = [Offer(media_type=name, transfer_syntax=syntax) for name in COMPRESSED[syntax]]
        offers = (*streams, *(replace(stream, multipart=True) for stream in streams))
        yield _value(location, offers, instance, path, is_alone)
    else:
        is_one = is_alone and instance.frame_count == 1
        for number in range(1, instance.frame_count + 1):
            yield Value(
                location=with_version(f"{instance_url(service_root, instance)}/frames/{number}", version),
                offers=frame_offers(syntax, has_single_part=is_one),
                instance=instance,
                path=path,
                frame=number,
            )


def _value(location: str, offers: tuple[Offer, ...], instance: StoredInstance, path: str, is_alone: bool) -> Value:
    if not is_alone:
        offers = tuple(offer for offer in offers if offer.multipart)
    return Value(location=location, offers=offers, instance=instance, path=path)


def _is_video(transfer_syntax: str) -> bool:
    return COMPRESSED.get(transfer_syntax, ("",))[0].startswith("video/")


def _document_type(metadata: bytes) -> str:
    values = orjson.loads(metadata.replace(BASE_URL_MARK.encode(), b"")).get(_DOCUMENT_TYPE, {}).get("Value", [""])
    return str(values[0]).strip().lower()


def _part(room: Room, keepings: Keepings, value: Value, offer: Offer) -> Part:
    async def make() -> AsyncIterator[bytes | memoryview]:
        for piece in await body_of(room, keepings, value, offer):
            async for made in read_pieces(room, [piece]):
                yield made

    return Part(media_type=offer.part_type, location=value.location, body=[Made(make)])


async def body_of(room: Room, keepings: Keepings, value: Value, offer: Offer) -> Sequence[Piece]:
    """The bytes of a value, or where they lie."""
    instance = value.instance
    if value.frame is not None:
        return [await frame_as(room, keepings, instance, value.frame, offer)]
    if instance.transfer_syntax == DEFLATED:
        data = (await inflated(room, keepings, instance)).data
        offset, length, _ = await anyio.to_thread.run_sync(find_bulk, data, value.path, limiter=room.codec)
        return [memoryview(data)[offset : offset + length]]
    spec = None if instance.opaque_reason else await frame_spec(room, keepings, instance)
    pixel_word = spec.swapped if spec and value.path in _PIXELS else None
    return await anyio.to_thread.run_sync(_find_value, room, instance, value.path, pixel_word, limiter=room.codec)


def _find_value(room: Room, instance: StoredInstance, path: str, pixel_word: int | None) -> list[Piece]:
    """Where a value lies in the stored object; its bytes, where they have to be turned."""
    data = memoryview(received_file(room.blobs, instance))
    offset, length, vr = find_bulk(data, path)
    if instance.transfer_syntax == EXPLICIT_BIG:
        return [little_endian(data[offset : offset + length], vr, word=pixel_word)]
    if instance.transfer_syntax in COMPRESSED and path.endswith("7FE00010") and data[offset : offset + 4] == _ITEM:
        return [Stored(instance.object_key, *fragment) for fragment in _fragments(data, offset, offset + length)]
    return [Stored(instance.object_key, offset, length)]


def _fragments(data: memoryview, at: int, end: int) -> Iterator[tuple[int, int]]:
    """Offset and length of the fragments of an encapsulated value, without its offset table (PS3.5 A.4)."""
    is_table = True
    while at + 8 <= end:
        length = min(int.from_bytes(data[at + 4 : at + 8], "little"), end - at - 8)
        if not is_table:
            yield at + 8, length
        is_table = False
        at += 8 + length


routes = [
    Route("/studies/{study}/series/{series}/instances/{instance}/bulkdata/{path:path}", retrieve_bulk),
    Route("/studies/{study}/series/{series}/instances/{instance}/bulkdata", instance_bulk),
    Route("/studies/{study}/series/{series}/bulkdata", series_bulk),
    Route("/studies/{study}/bulkdata", study_bulk),
    Route("/studies/{study}/series/{series}/instances/{instance}/pixeldata", pixel_data),
    Route("/studies/{study}/series/{series}/pixeldata", pixel_data),
    Route("/studies/{study}/pixeldata", pixel_data),
]
