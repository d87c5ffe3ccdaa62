"""What goes over the wire: which of JSON and XML a client wants, what it sends, and the bytes of an answer."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any, Literal

import orjson
from starlette.requests import Request

from readingroom.errors import Invalid, NotAcceptable, TooLarge, UnsupportedMedia
from server.fhir.parsing import dump_json, parse_json
from server.fhir.shown import Shown
from server.fhir.types import Resource
from server.fhir.xml import from_xml, to_xml

JSON = "application/fhir+json"
XML = "application/fhir+xml"
MOST_BYTES = 64 << 20
"""Of one body; a Binary of a report with its pictures takes some."""

Format = Literal["json", "xml"]
_FORMATS: dict[str, Format] = {
    **dict.fromkeys(("json", "application/json", JSON, "text/json", "*/*", "application/*"), "json"),
    **dict.fromkeys(("xml", "application/xml", XML, "text/xml"), "xml"),
}
_JSON_PATCH = "application/json-patch+json"
_RANGE = re.compile(r"\s*([^;,\s]+)\s*((?:;[^,]*)?)\s*")
_Q = re.compile(r";\s*q\s*=\s*([0-9.]+)")
_FHIR_VERSION = re.compile(r";\s*fhirVersion\s*=\s*\"?([0-9.]+)")


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """How a client wants its answer; without a format, only as `native`: the first media type that is not FHIR's."""

    format: Format | None = "json"
    is_pretty: bool = False
    native: str | None = None

    @property
    def media_type(self) -> str:
        """Of the answer."""
        return XML if self.format == "xml" else JSON


def wanted(request: Request) -> Wanted:
    """The format of the answer: ``_format`` goes before the Accept header (FHIR R4 3.1.0.1.11).

    Raises
    ------
    NotAcceptable
        Neither JSON nor XML of R4 would do.
    """
    is_pretty = request.query_params.get("_pretty") == "true"
    asked = request.query_params.get("_format")
    if asked:
        name = asked.replace(" ", "+").partition(";")[0].strip()
        if name not in _FORMATS:
            raise NotAcceptable(f"Resources are sent as {JSON} or {XML}, not as {name[:60]!r}.")
        _require_r4(asked)
        return Wanted(format=_FORMATS[name], is_pretty=is_pretty)
    accept = request.headers.get("accept", "").strip()
    if not accept:
        return Wanted(is_pretty=is_pretty)
    ranges = sorted(((_quality(rest), name.lower(), rest) for name, rest in _ranges(accept)), key=lambda one: -one[0])
    native = next((name for q, name, _rest in ranges if q > 0 and name not in _FORMATS), None)
    for q, name, rest in ranges:
        if q > 0 and name in _FORMATS:
            _require_r4(rest)
            return Wanted(format=_FORMATS[name], is_pretty=is_pretty, native=native)
    if native is not None:
        return Wanted(format=None, is_pretty=is_pretty, native=native)
    raise NotAcceptable(f"Resources are sent as {JSON} or {XML}.")


def _ranges(accept: str) -> list[tuple[str, str]]:
    return [(found[1], found[2]) for part in accept.split(",") if (found := _RANGE.fullmatch(part))]


def _quality(parameters: str) -> float:
    found = _Q.search(parameters)
    try:
        return float(found[1]) if found else 1.0
    except ValueError:
        return 0.0


def _require_r4(parameters: str) -> None:
    found = _FHIR_VERSION.search(parameters)
    if found and found[1] not in ("4.0", "4.0.1"):
        raise NotAcceptable(f"This server speaks FHIR 4.0 (R4), not {found[1]}.")


async def body_of(request: Request) -> bytes:
    """The bytes that were sent; raises `TooLarge`, and `UnsupportedMedia` for bytes that would have to be unpacked."""
    if request.headers.get("content-encoding", "identity").strip().lower() not in ("", "identity"):
        raise UnsupportedMedia("A body is sent as it is, without a Content-Encoding.")
    length = request.headers.get("content-length", "0")
    if length.isdecimal() and int(length) > MOST_BYTES:
        raise TooLarge(f"A body may have {MOST_BYTES} bytes.")
    pieces, size = [], 0
    async for piece in request.stream():
        size += len(piece)
        if size > MOST_BYTES:
            raise TooLarge(f"A body may have {MOST_BYTES} bytes.")
        pieces.append(piece)
    return b"".join(pieces)


def media_type_of(request: Request) -> str:
    """The Content-Type, without its parameters; raises `UnsupportedMedia` for another version or character set."""
    sent = request.headers.get("content-type", "")
    name, _mark, parameters = sent.partition(";")
    version = _FHIR_VERSION.search(";" + parameters)
    if version and version[1] not in ("4.0", "4.0.1"):
        raise UnsupportedMedia(f"This server reads FHIR 4.0 (R4), not {version[1]}.")
    charset = re.search(r"charset\s*=\s*\"?([^\s\";]+)", parameters, re.IGNORECASE)
    if charset and charset[1].lower() not in ("utf-8", "utf8", "us-ascii"):
        raise UnsupportedMedia("Resources are sent in UTF-8.")
    return name.strip().lower()


def is_json_patch(media_type: str) -> bool:
    """Whether a body is a JSON Patch (RFC 6902)."""
    return media_type == _JSON_PATCH


def read_resource(body: bytes, media_type: str) -> Resource:
    """What was sent, as values.

    Raises
    ------
    BadResource
        It is no resource.
    UnsupportedMedia
        It is of another media type.
    """
    if not body.strip():
        raise Invalid("A resource has to be sent as the body.")
    form = _FORMATS.get(media_type)
    if form is None or media_type.endswith("*"):
        raise UnsupportedMedia(f"Send {JSON} or {XML}.")
    return parse_json(body) if form == "json" else from_xml(body)


def written(body: Shown | Resource, how: Wanted) -> bytes:
    """The bytes of an answer; what is stored in it is sent as it was received."""
    if how.format != "xml" and not how.is_pretty:
        return (
            body.body
            if isinstance(body, Shown)
            else orjson.dumps(body, default=_dumped, option=orjson.OPT_PASSTHROUGH_DATACLASS)
        )
    resource = (
        body.resource
        if isinstance(body, Shown)
        else parse_json(orjson.dumps(body, default=_dumped, option=orjson.OPT_PASSTHROUGH_DATACLASS))
    )
    if how.format == "xml":
        return to_xml(resource)
    return orjson.dumps(resource, default=_dumped, option=orjson.OPT_INDENT_2)


def _dumped(value: Any) -> orjson.Fragment:
    return orjson.Fragment(value.body if isinstance(value, Shown) else dump_json(value))
