"""What searches answer with (PS3.18 8.3.4, 10.6.3, 12.6.3): a page of rows, and what there is to say of it."""

from __future__ import annotations

import re
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote, urlsplit

import orjson
from starlette.requests import Request
from starlette.responses import Response

from server.auth import caller_of
from server.dicomweb.negotiation import DICOM_JSON, Offer
from server.dicomweb.query import PRIOR_RECORD_KEY
from server.dicomweb.xmlparts import XML_PARTS, XmlParts
from storage.catalog.listed import find_element

OFFERS = (Offer(media_type=DICOM_JSON), Offer(media_type="application/json"), XML_PARTS)
"""What a page is sent as."""

_GZIP_FROM_BYTES = 8192
_GZIP = 31
"""zlib's window bits for the gzip format."""

_PRINTED = re.compile(r"[A-Za-z0-9_.-]{1,64}")
_PAGING = frozenset((b"offset", b"PriorRecordKey", PRIOR_RECORD_KEY.encode()))
_AS_SENT = "%=+,;:@/?!$'()*[]~\\"


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
    incomplete: tuple[str, ...] = ()


def encoded(body: bytes, *, gzips: bool, xml: XmlParts | None) -> tuple[bytes, bool]:
    """Rows that are a JSON array, as they are sent; and whether that is compressed."""
    if xml:
        body = xml.whole(orjson.loads(body))
    if gzips and len(body) >= _GZIP_FROM_BYTES:
        return zlib.compress(body, 1, _GZIP), True
    return body, False


def answer(
    request: Request, page: Page, media_type: str, path: str, *, ignored: Sequence[str], left_out: Sequence[str]
) -> Response:
    """The answer to a search; `path` is where it was asked for, below the service root.

    Parameters
    ----------
    ignored, left_out
        As `server.dicomweb.query.Query` has them.
    """
    root = caller_of(request).service_root
    headers = {"cache-control": "private, no-store", "vary": "Accept, Accept-Encoding"}
    if page.is_gzip:
        headers["content-encoding"] = "gzip"
    if page.next:
        headers["link"] = f'<{root}{path}?{_next_page(request.scope["query_string"], page.next)}>; rel="next"'
    if page.count:
        response = Response(page.body, headers=headers, media_type=media_type)
    else:
        response = Response(status_code=204, headers=headers)
    for warning in _warnings(page, ignored, left_out):
        response.headers.append("warning", f'299 {urlsplit(root).hostname}: "{warning}"')
    return response


def picked(row: dict[str, Any], names: frozenset[str] | None) -> dict[str, Any]:
    """Those of `names` that a row has, private ones with their creators; without `names` all but bulk values."""
    if names is None:
        return {tag: element for tag, element in row.items() if not element.keys() & {"BulkDataURI", "InlineBinary"}}
    found = {}
    for name in names:
        tag, element = find_element(row, name)
        if tag:
            found[tag] = element
            creator = f"{tag[:4]}00{tag[4:6]}"
            if int(tag[3], 16) % 2 and creator in row:
                found[creator] = row[creator]
    return found


def takes_gzip(request: Request) -> bool:
    """Whether the client takes a compressed answer (RFC 9110 12.5.3)."""
    for coding in request.headers.get("accept-encoding", "").lower().split(","):
        name, _, weight = coding.partition(";")
        if name.strip() == "gzip":
            return weight.replace(" ", "").rstrip("0.") != "q="
    return False


def _next_page(query_string: bytes, following: str) -> str:
    """The query of the next page: the same question, from there on."""
    kept = [part for part in query_string.split(b"&") if part and part.partition(b"=")[0] not in _PAGING]
    return "&".join([*(quote(part, safe=_AS_SENT) for part in kept), following])


def _warnings(page: Page, ignored: Sequence[str], left_out: Sequence[str]) -> Iterator[str]:
    if ignored:
        yield f"These parameters are not supported at this level and have not been matched: {_named(ignored)}."
    if left_out:
        yield f"Answers of this level cannot include: {_named(left_out)}."
    if page.incomplete:
        names = [name.partition(":")[0] for name in page.incomplete]
        yield f"What was stored before these became searchable may be missing: {_named(names)}."
    if page.next:
        yield "There are additional results that can be requested."


def _named(names: Sequence[str]) -> str:
    return ", ".join(name if _PRINTED.fullmatch(name) else "(one that is not printed)" for name in names[:9])
