"""Binary resources as what they hold (FHIR R4 2.36): sent and asked for by their own media type."""

from __future__ import annotations

from base64 import b64decode, b64encode
from collections.abc import Mapping
from dataclasses import replace

from starlette.requests import Request
from starlette.responses import Response

from server.fhir import wire
from server.fhir.interactions import Interaction
from server.fhir.shown import Shown

_FHIR = frozenset((wire.JSON, wire.XML, "application/json", "application/xml", "text/json", "text/xml", ""))


def is_sent_natively(path: tuple[str, ...], media_type: str) -> bool:
    """Whether the body is what a Binary holds, not a resource."""
    return path[:1] == ("Binary",) and len(path) <= 2 and media_type not in _FHIR


def native(asked: Interaction, body: bytes, media_type: str) -> Interaction:
    """The same as if a resource had been sent."""
    resource = {"resourceType": "Binary", "contentType": media_type, "data": b64encode(body).decode()}
    if len(asked.path) == 2:
        resource["id"] = asked.path[1]
    return replace(asked, resource=resource)


def is_asked_natively(asked: Interaction, how: wire.Wanted) -> bool:
    """Whether the client wants what a Binary holds."""
    is_read = len(asked.path) == 2 or asked.path[2:3] == ("_history",)
    return asked.method == "GET" and asked.path[:1] == ("Binary",) and is_read and how.native is not None


def content(request: Request, shown: Shown, headers: Mapping[str, str]) -> Response:
    """What a Binary holds; a browser saves it, and never runs it as a page of this server."""
    resource = shown.resource
    kind = str(resource.get("contentType") or "application/octet-stream")
    safe = {"content-disposition": "attachment", "content-security-policy": "default-src 'none'; sandbox"}
    return Response(b64decode(resource.get("data") or ""), headers=dict(headers) | safe, media_type=kind)
