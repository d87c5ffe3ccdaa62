"""Metadata of studies, series and instances (PS3.18 10.4.1.1.2): made at ingest, joined here, and kept ready.

The JSON of each instance lies compressed in the catalog. A series' answer is made of it once for each version of the
series; after that a request costs one look at the version and the sending.
"""

from __future__ import annotations

import re
import zlib
from collections.abc import AsyncIterator, Iterable, Iterator
from itertools import batched

import anyio.to_thread
import orjson
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from server.auth import caller_of
from server.dicomweb.files import find_with_metadata, instance_url, original_of, version_of
from server.dicomweb.kept import keepings_of
from server.dicomweb.negotiation import DICOM_JSON, DICOM_XML, Offer, accepted, choose
from server.dicomweb.respond import CACHING, PIECE_BYTES, Buffers, Made, not_modified, streamed, weak
from server.dicomweb.xmlparts import XML_PARTS, XmlParts
from server.room import Room
from storage.catalog.find import (
    StoredSeries,
    StoredStudy,
    find_study,
    iter_metadata,
)
from storage.dicomjson import MetadataJson, first_value
from storage.nativexml import to_xml
from storage.objects import BASE_URL_MARK

_OFFERS = (Offer(media_type=DICOM_JSON), Offer(media_type="application/json"), XML_PARTS)
ONE = (*_OFFERS, Offer(media_type=DICOM_XML))
"""What the metadata of one instance is sent as."""

_MARK = BASE_URL_MARK.encode()
_GZIP = 31
"""zlib's window bits for the gzip format."""

_LEVEL = 1
_BULK = re.compile(rb'("BulkDataURI":"[^"]*)')
_KEPT_PLAIN = 4000
"""Instances up to which an answer without compression is held as a whole; a larger one is inflated as it is sent."""

_XML_AT_ONCE = 32
"""Instances whose XML is made in one go."""


async def study_metadata(request: Request) -> Response:
    """Retrieve the metadata of a study."""
    room: Room = request.app.state.room
    study = await room.read(find_study, caller_of(request).scope, request.path_params["study"])
    return await _answer(request, room, study)


async def series_metadata(request: Request) -> Response:
    """Retrieve the metadata of a series."""
    room: Room = request.app.state.room
    path, located = request.path_params, keepings_of(request).located
    series = await located.find_series(room, caller_of(request).scope, path["study"], path["series"])
    return await _answer(request, room, series)


async def instance_metadata(request: Request) -> Response:
    """Retrieve the metadata of an instance."""
    room: Room = request.app.state.room
    caller, path = caller_of(request), request.path_params
    uids, version = (path["study"], path["series"], path["instance"]), version_of(request)
    original = original_of(request)
    instance, stored = await room.read(find_with_metadata, caller.scope, *uids, version, original=original)
    offer = choose(accepted(request), ONE)
    location = f"{instance_url(caller.service_root, instance)}/metadata"
    return send_metadata(request, stored, offer, etag=instance.etag, location=location, version=version)


def send_metadata(
    request: Request, stored: bytes, offer: Offer, *, etag: str, location: str, version: int | None
) -> Response:
    """The metadata of one instance, as the catalog holds it, in the representation that was agreed.

    Parameters
    ----------
    etag
        The validator of the instance, without quotes.
    location
        What a part that holds it says of where it is.
    version
        The one that was asked for; None for the current one.
    """
    root = caller_of(request).service_root
    etag = weak(f'"{etag}-metadata{"-xml" if offer.media_type == DICOM_XML else ""}"')
    if unchanged := not_modified(request, etag):
        return unchanged
    is_gzip = _accepts_gzip(request)
    pieces = _joined([stored], root.encode())
    if version is not None:
        pieces = (_BULK.sub(rb"\1?version=%d" % version, piece) for piece in pieces)
    if offer.media_type == DICOM_XML:
        (dataset,) = orjson.loads(b"".join(pieces))
        xml = XmlParts()
        headers = _headers(offer, etag, is_gzip=False)
        if not offer.multipart:
            return Buffers([to_xml(dataset)], headers=headers)
        headers["content-type"] = xml.content_type
        return Buffers([xml.part(dataset, location), xml.end()], headers=headers)
    return Buffers([b"".join(_compressed(pieces) if is_gzip else pieces)], headers=_headers(offer, etag, is_gzip))


async def _answer(request: Request, room: Room, of: StoredStudy | StoredSeries) -> Response:
    offer = choose(accepted(request), _OFFERS)
    original = original_of(request)
    etag = f'W/"{of.id}-{of.version}{"-original" if original else ""}{"-xml" if offer.media_type == DICOM_XML else ""}"'
    if unchanged := not_modified(request, etag):
        return unchanged
    if offer == XML_PARTS:
        xml, headers = XmlParts(), _headers(offer, etag, is_gzip=False)
        headers["content-type"] = xml.content_type
        stored = await room.read_apart(lambda connection: list(iter_metadata(connection, of, original=original)))
        root = caller_of(request).service_root
        return await streamed(request, room, [Made(lambda: _in_xml(room, stored, root, xml))], headers)
    wants_gzip = _accepts_gzip(request)
    is_gzip = wants_gzip or of.instance_count > _KEPT_PLAIN
    prefix = caller_of(request).service_root.encode()

    async def make() -> bytes:
        return await anyio.to_thread.run_sync(_body, room, of, prefix, is_gzip, original, limiter=room.db)

    body = await keepings_of(request).metadata.get((of.id, of.version, prefix, is_gzip, original), make, len)
    headers = _headers(offer, etag, wants_gzip)
    if is_gzip and not wants_gzip:
        return await streamed(request, room, [Made(lambda: _inflated(body))], headers)
    return Buffers([body], headers=headers)


async def _inflated(body: bytes) -> AsyncIterator[bytes]:
    stream = zlib.decompressobj(_GZIP)
    rest = body
    while not stream.eof:
        yield stream.decompress(rest, PIECE_BYTES)
        rest = stream.unconsumed_tail


async def _in_xml(room: Room, stored: list[bytes], root: str, xml: XmlParts) -> AsyncIterator[bytes]:
    """A part for each instance, a few at a time: what is made is sent before the next is."""

    def parts(some: Iterable[bytes]) -> bytes:
        datasets = orjson.loads(b"".join(_joined(some, root.encode())))
        return b"".join(xml.part(dataset, _location(dataset, root)) for dataset in datasets)

    for some in batched(stored, _XML_AT_ONCE):
        yield await anyio.to_thread.run_sync(parts, some, limiter=room.codec)
    yield xml.end()


def _location(dataset: MetadataJson, root: str) -> str:
    study, series, instance = (first_value(dataset, key) for key in ("0020000D", "0020000E", "00080018"))
    return f"{root}/studies/{study}/series/{series}/instances/{instance}/metadata"


def _body(room: Room, of: StoredStudy | StoredSeries, root: bytes, is_gzip: bool, original: bool) -> bytes:
    with room.engine.connect() as connection:
        pieces = _joined(iter_metadata(connection, of, original=original), root)
        return b"".join(_compressed(pieces) if is_gzip else pieces)


def _joined(stored: Iterable[bytes], root: bytes) -> Iterator[bytes]:
    """One JSON array of what the catalog holds compressed."""
    before = b"["
    for one in stored:
        yield before
        yield zlib.decompress(one).replace(_MARK, root)
        before = b","
    yield b"[]" if before == b"[" else b"]"


def _compressed(pieces: Iterable[bytes]) -> Iterator[bytes]:
    stream = zlib.compressobj(_LEVEL, wbits=_GZIP)
    for piece in pieces:
        yield stream.compress(piece)
    yield stream.flush()


def _accepts_gzip(request: Request) -> bool:
    """Whether the client takes gzip (RFC 9110 12.5.3)."""
    weights = {}
    for element in request.headers.get("accept-encoding", "").lower().split(","):
        coding, _, parameter = element.partition(";")
        weights[coding.strip()] = parameter.replace(" ", "")
    weight = weights.get("gzip", weights.get("*"))
    return weight is not None and weight.rstrip("0.") != "q="


def _headers(offer: Offer, etag: str, is_gzip: bool) -> dict[str, str]:
    headers = {"content-type": offer.media_type, "etag": etag, **CACHING, "vary": "Accept, Accept-Encoding"}
    if is_gzip:
        headers["content-encoding"] = "gzip"
    return headers


routes = [
    Route("/studies/{study}/metadata", study_metadata),
    Route("/studies/{study}/series/{series}/metadata", series_metadata),
    Route("/studies/{study}/series/{series}/instances/{instance}/metadata", instance_metadata),
]
