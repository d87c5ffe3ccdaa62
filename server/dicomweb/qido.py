"""QIDO-RS: the Search transaction (PS3.18 10.6), at every level, under a parent and across the archive.

Rows of studies and series lie in the catalog as the JSON that is sent, so the usual answer is a join of bytes; they
are parsed only where ``includefield`` asks for what a row does not have, or an answer spans several levels.
"""

from __future__ import annotations

import re
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any
from urllib.parse import quote, urlsplit

import orjson
import sqlalchemy as sa
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from readingroom.errors import NotFound
from readingroom.model import Scope
from server.auth import caller_of
from server.dicomweb.negotiation import DICOM_JSON, Offer, accepted, choose
from server.dicomweb.query import PRIOR_RECORD_KEY, RECORD_KEY, Query, parse_query, record_key
from server.dicomweb.xmlparts import XML_PARTS, XmlParts
from server.room import Room
from storage.catalog.find import find_study
from storage.catalog.keys import LEVELS, Level
from storage.catalog.listed import find_element, incomplete
from storage.catalog.search import Part, Search, search
from storage.objects import BASE_URL_MARK

_OFFERS = (Offer(media_type=DICOM_JSON), Offer(media_type="application/json"), XML_PARTS)
_GZIP_FROM_BYTES = 8192
_GZIP = 31
"""zlib's window bits for the gzip format."""

_MARK = BASE_URL_MARK.encode()
_PRINTED = re.compile(r"[A-Za-z0-9_.-]{1,64}")

_PAGING = frozenset((b"offset", b"PriorRecordKey", PRIOR_RECORD_KEY.encode()))
_AS_SENT = "%=+,;:@/?!$'()*[]~\\"

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


@dataclass(frozen=True, slots=True, kw_only=True)
class Page:
    """The rows of an answer.

    Attributes
    ----------
    next
        The parameter that asks for the next page; empty at the end.
    incomplete
        Attributes that were matched, and of which not all stored values are listed yet.
    """

    body: bytes
    is_gzip: bool
    count: int
    next: str
    incomplete: tuple[str, ...]


async def _search(request: Request, level: Level) -> Response:
    room: Room = request.app.state.room
    caller = caller_of(request)
    offer = choose(accepted(request), _OFFERS)
    under = tuple(request.path_params[name] for name in ("study", "series") if name in request.path_params)
    query_string: bytes = request.scope["query_string"]
    query = parse_query(level, under, query_string, room.keys)
    read = room.read if query.search.is_quick else room.read_apart
    xml = XmlParts() if offer == XML_PARTS else None
    takes_gzip = _takes_gzip(request)
    page = await read(find_page, caller.scope, query, caller.service_root, takes_gzip=takes_gzip, xml=xml)
    headers = {"cache-control": "private, no-store", "vary": "Accept, Accept-Encoding"}
    if page.is_gzip:
        headers["content-encoding"] = "gzip"
    if page.next:
        headers["link"] = f'<{caller.service_root}{_next_page(query.search, query_string, page.next)}>; rel="next"'
    if page.count:
        response = Response(page.body, headers=headers, media_type=xml.content_type if xml else offer.media_type)
    else:
        response = Response(status_code=204, headers=headers)
    for warning in _warnings(query, page):
        response.headers.append("warning", f'299 {urlsplit(caller.service_root).hostname}: "{warning}"')
    return response


def find_page(
    connection: sa.Connection,
    scope: Scope,
    query: Query,
    service_root: str,
    *,
    takes_gzip: bool = False,
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
    body = _render(query, hits, service_root)
    if xml:
        body = xml.whole(orjson.loads(body))
    is_gzip = takes_gzip and len(body) >= _GZIP_FROM_BYTES
    if is_gzip:
        body = zlib.compress(body, 1, _GZIP)
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
            sources.append(([_picked(_header(each, root), tags) for each in stored], None))
        else:
            sources.append((orjson.loads(_stored(hits, part).replace(_MARK, root)), tags))
    rows = []
    for index, hit in enumerate(hits):
        row: dict[str, Any] = {}
        for source, tags in sources:
            row |= source[index] if tags is None else _picked(source[index], tags)
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


def _picked(row: dict[str, Any], names: frozenset[str] | None) -> dict[str, Any]:
    """Those of `names` that a row has, private ones with their creators; without `names` all but bulk values."""
    if names is None:
        return {tag: element for tag, element in row.items() if not element.keys() & {"BulkDataURI", "InlineBinary"}}
    picked = {}
    for name in names:
        tag, element = find_element(row, name)
        if tag:
            picked[tag] = element
            creator = f"{tag[:4]}00{tag[4:6]}"
            if int(tag[3], 16) % 2 and creator in row:
                picked[creator] = row[creator]
    return picked


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


def _next_page(wanted: Search, query_string: bytes, following: str) -> str:
    """Path and query of the next page: the same question, from there on."""
    kept = [part for part in query_string.split(b"&") if part and part.partition(b"=")[0] not in _PAGING]
    query = "&".join([*(quote(part, safe=_AS_SENT) for part in kept), following])
    path = "/".join(f"{_PLURAL[level]}/{quote(uid, safe='')}" for level, uid in zip(LEVELS, wanted.under, strict=False))
    return f"{'/' + path if path else ''}/{_PLURAL[wanted.level]}?{query}"


def _warnings(query: Query, page: Page) -> Iterator[str]:
    if query.ignored:
        yield f"These parameters are not supported at this level and have not been matched: {_named(query.ignored)}."
    if query.left_out:
        yield f"Answers of this level cannot include: {_named(query.left_out)}."
    if page.incomplete:
        names = [name.partition(":")[0] for name in page.incomplete]
        yield f"What was stored before these became searchable may be missing: {_named(names)}."
    if page.next:
        yield "There are additional results that can be requested."


def _named(names: Sequence[str]) -> str:
    return ", ".join(name if _PRINTED.fullmatch(name) else "(one that is not printed)" for name in names[:9])


def _takes_gzip(request: Request) -> bool:
    for coding in request.headers.get("accept-encoding", "").lower().split(","):
        name, _, weight = coding.partition(";")
        if name.strip() == "gzip":
            return weight.replace(" ", "").rstrip("0.") != "q="
    return False
