"""QIDO-RS: the Search transaction (PS3.18 10.6), at every level, under a parent and across the archive.

Rows of studies and series lie in the catalog as the JSON that is sent, so the usual answer is a join of bytes; they
are parsed only where ``includefield`` asks for what a row does not have, or an answer spans several levels.
"""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from dataclasses import replace
from typing import Any
from urllib.parse import quote

import orjson
import sqlalchemy as sa
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from readingroom.errors import NotFound
from readingroom.model import Scope
from server.auth import caller_of
from server.dicomweb.negotiation import accepted, choose
from server.dicomweb.pages import OFFERS, Page, answer, encoded, picked, takes_gzip
from server.dicomweb.query import RECORD_KEY, Query, parse_query, record_key
from server.dicomweb.xmlparts import XML_PARTS, XmlParts
from server.room import Room
from storage.catalog.find import find_study
from storage.catalog.keys import LEVELS, Level
from storage.catalog.listed import incomplete
from storage.catalog.search import Part, Search, search
from storage.objects import BASE_URL_MARK

_MARK = BASE_URL_MARK.encode()
_PLURAL: dict[Level, str] = {"study": "studies", "series": "series", "instance": "instances"}


async def search_studies(request: Request) -> Response:
    """Search for studies."""
    return await _search(request, "study")


async def search_series(request: Request) -> Response:
    """Search for series, of one study or of all."""
    return await _search(request, "series")


async def search_instances(request: Request) -> Response:
    """Search for instances, of one series, of one study or of all."""
    return await _search(request, "instance")


routes = [
    Route("/studies", search_studies, methods=["GET"]),
    Route("/series", search_series, methods=["GET"]),
    Route("/instances", search_instances, methods=["GET"]),
    Route("/studies/{study}/series", search_series, methods=["GET"]),
    Route("/studies/{study}/instances", search_instances, methods=["GET"]),
    Route("/studies/{study}/series/{series}/instances", search_instances, methods=["GET"]),
]


async def _search(request: Request, level: Level) -> Response:
    room: Room = request.app.state.room
    caller = caller_of(request)
    offer = choose(accepted(request), OFFERS)
    under = tuple(request.path_params[name] for name in ("study", "series") if name in request.path_params)
    query_string: bytes = request.scope["query_string"]
    query = parse_query(level, under, query_string, room.keys)
    read = room.read if query.search.is_quick else room.read_apart
    xml = XmlParts() if offer == XML_PARTS else None
    gzips = takes_gzip(request)
    page = await read(find_page, caller.scope, query, caller.service_root, gzips=gzips, xml=xml)
    media_type = xml.content_type if xml else offer.media_type
    return answer(request, page, media_type, _path(query.search), ignored=query.ignored, left_out=query.left_out)


def find_page(
    connection: sa.Connection,
    scope: Scope,
    query: Query,
    service_root: str,
    *,
    gzips: bool = False,
    xml: XmlParts | None = None,
) -> Page:
    """Search, and render what was found: as JSON, or in `xml`.

    Raises
    ------
    Ambiguous
        Several facilities own the study to search under.
    """
    wanted = query.search
    hits: Sequence[sa.Row[Any]] = ()
    if wanted.limit and (not wanted.under or _is_one_study(connection, scope, wanted.under[0])):
        hits = search(connection, scope, replace(wanted, limit=wanted.limit + 1))
    hits, rest = hits[: wanted.limit], hits[wanted.limit :]
    following = f"PriorRecordKey={quote(record_key(wanted, hits[-1]))}" if rest else ""
    body, is_gzip = encoded(_render(query, hits, service_root), gzips=gzips, xml=xml)
    listed = {term.key for term in wanted.terms if term.key.is_listed}
    names = tuple(sorted(incomplete(connection, listed)))
    return Page(body=body, is_gzip=is_gzip, count=len(hits), next=following, incomplete=names)


def _is_one_study(connection: sa.Connection, scope: Scope, study_uid: str) -> bool:
    try:
        find_study(connection, scope, study_uid)
    except NotFound:
        return False
    return True


def _render(query: Query, hits: Sequence[sa.Row[Any]], service_root: str) -> bytes:
    root = orjson.dumps(service_root)[1:-1]
    if len(query.picks) == 1 and query.search.parts and not query.has_record_keys:
        return _stored(hits, query.search.parts[0]).replace(_MARK, root)
    sources: list[tuple[list[dict[str, Any]], frozenset[str] | None]] = []
    for part, tags in query.picks:
        if part is None:
            sources.append(([_instance(hit, service_root) for hit in hits], tags))
        elif part in ("instance.metadata", "series.header", "study.header"):
            stored = [getattr(hit, part.replace(".", "_")) for hit in hits]
            sources.append(([picked(_header(each, root), tags) for each in stored], None))
        else:
            sources.append((orjson.loads(_stored(hits, part).replace(_MARK, root)), tags))
    rows = []
    for index, hit in enumerate(hits):
        row: dict[str, Any] = {}
        for source, tags in sources:
            row |= source[index] if tags is None else picked(source[index], tags)
        if query.has_record_keys:
            row[RECORD_KEY] = {"vr": "OB", "InlineBinary": record_key(query.search, hit)}
        rows.append(dict(sorted(row.items())))
    return orjson.dumps(rows)


def _stored(hits: Sequence[sa.Row[Any]], part: Part) -> bytes:
    name = part.replace(".", "_")
    return b"[" + b",".join([getattr(hit, name) for hit in hits]) + b"]"


def _header(stored: bytes | None, root: bytes) -> dict[str, Any]:
    """A header with its own URLs; empty where the object that had it is gone."""
    loaded: dict[str, Any] = orjson.loads(zlib.decompress(stored).replace(_MARK, root)) if stored else {}
    return loaded


def _instance(hit: sa.Row[Any], service_root: str) -> dict[str, Any]:
    """A row of an Instance answer (PS3.18 10.6.3.3.3)."""
    url = f"{service_root}/studies/{hit.study_uid}/series/{hit.series_uid}/instances/{hit.instance_uid}"
    row: dict[str, Any] = {
        "00080016": {"vr": "UI", "Value": [hit.sop_class]},
        "00080018": {"vr": "UI", "Value": [hit.instance_uid]},
        "00080056": {"vr": "CS", "Value": ["ONLINE"]},
        "00081190": {"vr": "UR", "Value": [url]},
        "0020000D": {"vr": "UI", "Value": [hit.study_uid]},
        "0020000E": {"vr": "UI", "Value": [hit.series_uid]},
        "00200013": {"vr": "IS"} if hit.instance_number is None else {"vr": "IS", "Value": [hit.instance_number]},
    }
    if hit.frame_count > 1:
        row["00280008"] = {"vr": "IS", "Value": [hit.frame_count]}
    for tag, value in (("00280010", hit.rows), ("00280011", hit.columns), ("00280100", hit.bits_allocated)):
        if value is not None:
            row[tag] = {"vr": "US", "Value": [value]}
    return row


def _path(wanted: Search) -> str:
    """The path of a search, below the service root."""
    path = "/".join(f"{_PLURAL[level]}/{quote(uid, safe='')}" for level, uid in zip(LEVELS, wanted.under, strict=False))
    return f"{'/' + path if path else ''}/{_PLURAL[wanted.level]}"
