"""Data sets that are no instances: one in the body of a request, and those of an answer, as JSON or XML (PS3.18 8.7.3).

Work items, procedure steps and requests for storage commitment travel so.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import orjson
from starlette.requests import Request
from starlette.responses import Response

from readingroom.errors import Invalid, TooLarge, UnsupportedMedia
from server.dicomweb.multipart import PartData, PartStart, boundary_of, parse_header_value, read_parts
from server.dicomweb.negotiation import DICOM_JSON, DICOM_XML, Offer
from server.dicomweb.xmlparts import XML_PARTS, XmlParts
from storage.changes import read_data_set
from storage.nativexml import from_xml
from storage.objects import MetadataJson

OFFERS = (Offer(media_type=DICOM_JSON), Offer(media_type="application/json"), XML_PARTS)
"""What answers of data sets are offered as."""

PRIVATE = {"cache-control": "private, no-store", "vary": "Accept"}
"""Headers of what changes at any moment, and is of patients."""

MOST_BYTES = 1 << 20


def rendered(offer: Offer, rows: Sequence[MetadataJson], status_code: int = 200) -> Response:
    """An answer of data sets, as one of `OFFERS`."""
    if offer == XML_PARTS:
        xml = XmlParts()
        return Response(xml.whole(rows), status_code, PRIVATE, media_type=xml.content_type)
    return Response(orjson.dumps(rows), status_code, PRIVATE, media_type=offer.media_type)


async def read_dataset(
    request: Request, what: str, *, may_be_empty: bool = False, most_bytes: int = MOST_BYTES
) -> MetadataJson:
    """The data set in the body of a request: JSON, an array of one, XML, or a multipart message of one part.

    Parameters
    ----------
    what
        What bodies are, in the plural, for messages: ``Work items``.

    Raises
    ------
    Invalid, TooLarge, UnsupportedMedia
        It cannot be read as one data set.
    """
    content_type = request.headers.get("content-type", "")
    kind, _ = parse_header_value(content_type)
    if kind == "multipart/related":
        kind, body = await _part(request, content_type, what, most_bytes)
    else:
        body = await _body(request, what, most_bytes)
    if may_be_empty and not body.strip():
        return {}
    said: Any
    if kind == DICOM_XML:
        said = from_xml(body)
    elif kind in (DICOM_JSON, "application/json"):
        try:
            said = orjson.loads(body)
        except orjson.JSONDecodeError:
            raise Invalid("The body is no JSON; one data set of DICOM JSON is expected.") from None
        if isinstance(said, list) and len(said) == 1:
            (said,) = said
    else:
        raise UnsupportedMedia(f"{what} are read as {DICOM_JSON} or {DICOM_XML}, not as {kind[:60] or 'nothing'}.")
    return read_data_set(said)


async def _body(request: Request, what: str, most_bytes: int) -> bytes:
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > most_bytes:
            raise TooLarge(f"{what} of more than {most_bytes} bytes are not read.")
    return bytes(body)


async def _part(request: Request, content_type: str, what: str, most_bytes: int) -> tuple[str, bytes]:
    """The type and the body of the one part of a multipart message."""
    boundary, parameters = boundary_of(content_type)
    kinds, body = list[str](), bytearray()
    async for event in read_parts(request.stream(), boundary):
        if isinstance(event, PartStart):
            kinds.append(parse_header_value(event.headers.get("content-type", ""))[0] or parameters.get("type", ""))
            if len(kinds) > 1:
                raise Invalid("A request has one data set, so one part.")
        elif isinstance(event, PartData):
            body += event.data
            if len(body) > most_bytes:
                raise TooLarge(f"{what} of more than {most_bytes} bytes are not read.")
    if not kinds:
        raise Invalid("The multipart message has no part.")
    return kinds[0].lower(), bytes(body)
