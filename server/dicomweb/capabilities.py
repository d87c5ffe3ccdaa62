"""Capabilities (PS3.18 8.9, Annex H): what this server does, for machines to read, as WADL and as OpenAPI.

``OPTIONS`` on the service root describes all of it, on a resource that resource and what is below it. A CORS preflight
is an ``OPTIONS`` too; the edge has answered it before it gets here.
"""

from __future__ import annotations

import re
from dataclasses import replace
from functools import lru_cache
from typing import Any

import orjson
from lxml import etree
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Match, Route, compile_path
from starlette.types import Scope

from readingroom.errors import NotFound
from server.auth import caller_of
from server.dicomweb.negotiation import Offer, accepted, choose
from server.dicomweb.openapi import openapi
from server.dicomweb.operations import OPERATIONS, Operation, Parameter

WADL = "application/vnd.sun.wadl+xml"
_NAMESPACE = "http://wadl.dev.java.net/2009/02"
_PREFIXES: dict[Any, str] = {None: _NAMESPACE, "xsd": "http://www.w3.org/2001/XMLSchema"}
_OFFERS = (
    Offer(media_type=WADL),
    Offer(media_type="application/json"),
    Offer(media_type="application/xml", sent_as=WADL),
)
_TYPES = {"integer": "xsd:integer", "number": "xsd:decimal"}


async def capabilities(request: Request) -> Response:
    """Describe the services, or the resource that the path names and what is below it."""
    root = caller_of(request).service_root
    offer = choose(accepted(request), _OFFERS)
    template = _template(request.path_params.get("resource", ""))
    if offer.name == WADL:
        body = wadl(root, template)
    else:
        body = orjson.dumps(openapi(root, template), option=orjson.OPT_INDENT_2)
    headers = {"cache-control": "private, max-age=60", "vary": "Accept", "allow": _allowed(template)}
    return Response(body, headers=headers, media_type=offer.name)


async def openapi_document(request: Request) -> Response:
    """The OpenAPI document of the services, for tools that fetch it with GET."""
    body = orjson.dumps(openapi(caller_of(request).service_root), option=orjson.OPT_INDENT_2)
    return Response(body, media_type="application/json")


def below(template: str) -> list[Operation]:
    """The operations of a resource and of what is below it."""
    inside = template.rstrip("/") + "/"
    return [one for one in OPERATIONS if one.path == template or one.path.startswith(inside)]


@lru_cache(maxsize=64)
def wadl(root: str, template: str = "/") -> bytes:
    """The Capabilities Description of a resource (PS3.18 Annex H).

    Parameters
    ----------
    root
        The service root, which becomes the base of the resources.
    template
        The path template of the resource to describe; ``/`` for all.
    """
    application = etree.Element(f"{{{_NAMESPACE}}}application", nsmap=_PREFIXES)
    _add(application, "doc", title="readingroom: DICOMweb (DICOM PS3.18)")
    resources = _add(application, "resources", base=root)
    made: dict[str, etree._Element] = {"": resources}
    for operation in below(template):
        _describe(_resource(made, operation.path), operation)
    return etree.tostring(application, xml_declaration=True, encoding="UTF-8", pretty_print=True)


def _resource(made: dict[str, etree._Element], path: str) -> etree._Element:
    """The element of a resource, inside those of its parents."""
    if path not in made:
        parent, _, name = path.rpartition("/")
        element = _add(_resource(made, parent), "resource", path=name)
        if name.startswith("{"):
            _add(element, "param", name=name.strip("{}"), style="template", type="xsd:string", required="true")
        made[path] = element
    return made[path]


def _describe(resource: etree._Element, operation: Operation) -> None:
    method = _add(resource, "method", name=operation.method, id=operation.name)
    section = f" (PS3.18 {operation.section})" if operation.section else ""
    _add(method, "doc", title=operation.title + section)
    request = _add(method, "request")
    if operation.answers:
        accept = _add(request, "param", name="Accept", style="header", default=operation.answers[0])
        for media_type in operation.answers:
            _add(accept, "option", value=media_type)
    for parameter in operation.parameters:
        _query(request, parameter)
    for media_type in operation.takes:
        _add(request, "representation", mediaType=media_type)
    for status in operation.success:
        response = _add(method, "response", status=str(status))
        for media_type in operation.answers if status in operation.with_body else ():
            _add(response, "representation", mediaType=media_type)
    _add(method, "response", status=" ".join(map(str, sorted({*operation.errors, 400, 503}))))


def _query(request: etree._Element, parameter: Parameter) -> None:
    if together := parameter.schema.get("properties"):
        for name, schema in together.items():
            _query(request, replace(parameter, name=name, schema=schema))
        return
    kind = _TYPES.get(parameter.schema.get("type", "string"), "xsd:string")
    required = "true" if parameter.is_required else "false"
    element = _add(request, "param", name=parameter.name, style="query", type=kind, required=required)
    _add(element, "doc", title=parameter.meaning)
    for value in parameter.schema.get("enum", ()):
        _add(element, "option", value=value)


def _add(parent: etree._Element, element: str, /, **attributes: str) -> etree._Element:
    return etree.SubElement(parent, f"{{{_NAMESPACE}}}{element}", attributes)


_TEMPLATES = sorted(
    {path[: at.end()] for path in {one.path for one in OPERATIONS} for at in re.finditer(r"/[^/]+", path)},
    key=lambda path: path.count("{"),  # what is named exactly goes before what has a gap there
)
_MATCHERS = [(compile_path(re.sub(r"\{path\}", "{path:path}", template))[0], template) for template in _TEMPLATES]


def _template(resource: str) -> str:
    """The template of the resource that a path names; raises `NotFound` where there can be none."""
    path = "/" + resource.strip("/")
    if path == "/":
        return path
    for regex, template in _MATCHERS:
        if regex.match(path):
            return template
    raise NotFound("There is no such resource in these services.")


def _allowed(template: str) -> str:
    own = {one.method for one in OPERATIONS if one.path == template}
    return ", ".join(sorted(own | ({"HEAD"} if "GET" in own else set()) | {"OPTIONS"}))


class _AnyResource(Route):
    """A route for one method of every path, which says nothing of other methods: those stay 404 or 405 as they are."""

    def matches(self, scope: Scope) -> tuple[Match, Scope]:
        found, child = super().matches(scope)
        return (found, child) if found is Match.FULL else (Match.NONE, {})


routes = [
    Route("/openapi.json", openapi_document, methods=["GET"]),
    _AnyResource("/{resource:path}", capabilities, methods=["OPTIONS"]),
]
