"""The OpenAPI 3.1 document of the FHIR service, made from the tables that it runs on."""

from __future__ import annotations

import re
from typing import Any

from server.fhir import wire
from server.fhir.operations import OPERATIONS, Operation
from server.fhir.parameters import PARAMETERS, Parameter
from server.fhir.registry import REGISTRY
from server.fhir.types import ResourceType

_ID = {"type": "string", "pattern": r"^[A-Za-z0-9\-.]{1,64}$"}
_VERSION = {"type": "string", "pattern": "^[1-9][0-9]{0,8}$"}
_BOTH = (wire.JSON, wire.XML)
_MEANING = {
    200: "Done",
    201: "A new resource was made, or one that was deleted is there again",
    202: "Begun; Content-Location says where to ask how far it is",
    204: "Done, or there was nothing to do; there is nothing to tell",
    304: "The client has this version already",
    400: "The request cannot be understood; the issues say why",
    401: "A token is needed, or the one that came is not good",
    403: "The caller may not do that",
    404: "There is no such resource",
    405: "Resources of this type are made from other things and cannot be written",
    406: "Neither JSON nor XML of FHIR R4 would do for the client",
    409: "The state of the resource does not allow it",
    410: "The resource was deleted; its history is still there",
    412: "The version is not the one of If-Match, or the condition is met by several",
    415: "The body is of a media type that is not read here",
    422: "The resource breaks a rule of its type or of this server; the issues say which and where",
    428: "The change has to say by If-Match which version it is of",
    503: "Not now; Retry-After says when to ask again",
}
_COUNT = {"type": "integer", "minimum": 0, "maximum": 500}
_COMMON: tuple[tuple[str, str, dict[str, Any]], ...] = (
    ("_count", "How many matches a page has at most", _COUNT),
    ("_summary", "Which part of each resource is sent", {"enum": ["true", "text", "data", "count", "false"]}),
    ("_total", "Whether matches are counted", {"enum": ["none", "estimate", "accurate"]}),
)
_ALWAYS = (400, 401, 403, 406, 503)
_READ_STATUSES = (200, 304, 400, 404, 406, 409, 410, 503)
_WRITE_STATUSES = (400, 403, 404, 405, 406, 409, 410, 412, 415, 422, 428, 503)


def openapi(root: str) -> dict[str, Any]:
    """The document of the service at that address."""
    paths: dict[str, dict[str, Any]] = {
        "/": {"post": _described("Batch", "A batch or a transaction", (200, *_WRITE_STATUSES), body=("Bundle",))},
        "/metadata": {"get": _described("Capabilities", "What this server can do", (200,))},
        **_history_paths(),
    }
    for type in REGISTRY.values():
        paths |= _type_paths(type)
    for operation in OPERATIONS.values():
        paths |= _operation_paths(operation)
    parameters: dict[str, dict[str, Any]] = {}
    for described in (one for path in paths.values() for one in path.values()):
        described["parameters"] = [_shared(one, parameters) for one in described["parameters"]]
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "readingroom FHIR service",
            "summary": "FHIR R4: studies, reading work, reports and what belongs to them",
            "version": "1",
            "license": {"name": "MIT", "identifier": "MIT"},
        },
        "servers": [{"url": root}],
        "paths": paths,
        "components": {
            "parameters": parameters,
            "requestBodies": {"Patch": _patch_body()},
            "responses": {str(status): _response(status) for status in _MEANING},
        },
    }


def _shared(parameter: dict[str, Any], known: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """A reference to a parameter, told once for all that have it; those of one name that differ have numbers."""
    name = re.sub(r"[^A-Za-z0-9_-]", "_", parameter["name"])
    number = 1
    while known.setdefault(key := f"{name}{number if number > 1 else ''}", parameter) != parameter:
        number += 1
    return {"$ref": f"#/components/parameters/{key}"}


def _type_paths(type: ResourceType) -> dict[str, dict[str, Any]]:
    name = type.name
    searched = [_query(*common) for common in _COMMON]
    searched += [_searched(one) for one in PARAMETERS.get(name, {}).values()]
    search = (200, 400, 403, 406, 503)
    one, of_type = f"/{name}/{{id}}", f"/{name}"
    paths: dict[str, dict[str, Any]] = {
        of_type: {"get": _described(f"Search{name}", f"Search {name}", search, searched)},
        f"{of_type}/_search": {"post": _search_by_post(name, search)},
        one: {"get": _described(f"Read{name}", f"Read a {name}", _READ_STATUSES, [_path("id", _ID)])},
    }
    if not type.read_only_because:
        paths[of_type]["post"] = _described(
            f"Create{name}", f"Make a {name}", (200, 201, *_WRITE_STATUSES), body=(name,)
        )
        paths[one]["put"] = _described(
            f"Update{name}", f"Change a {name}, or make it", (200, 201, *_WRITE_STATUSES), [_path("id", _ID)], (name,)
        )
        paths[one]["delete"] = _described(
            f"Delete{name}", f"Delete a {name}", (204, *_WRITE_STATUSES), [_path("id", _ID)]
        )
        paths[one]["patch"] = _patch(name)
    return paths


def _history_paths() -> dict[str, dict[str, Any]]:
    of = [_path("type", {"enum": list(REGISTRY)})]
    one = [*of, _path("id", _ID)]
    version = [*one, _path("version", _VERSION)]
    return {
        "/_history": {"get": _described("HistoryOfAll", "All versions of everything", (200,), _paging())},
        "/{type}/_history": {
            "get": _described("HistoryOfType", "Versions of all of a type", (200,), [*of, *_paging()])
        },
        "/{type}/{id}/_history": {
            "get": _described("HistoryOfOne", "Versions of one", (200, 404, 409, 412), [*one, *_paging()])
        },
        "/{type}/{id}/_history/{version}": {
            "get": _described("ReadVersion", "Read a version", _READ_STATUSES, version)
        },
    }


def _operation_paths(operation: Operation) -> dict[str, dict[str, Any]]:
    """Where an operation is; one of several types is told once."""
    statuses = (200, 202, *_WRITE_STATUSES) if operation.is_write else (200, 202, 404, 409, 410, 412, 415, 422)
    types = [
        type.name
        for type in REGISTRY.values()
        if operation.is_of(type.name) and not (operation.is_write and type.read_only_because)
    ]
    of = [_path("type", {"enum": types})]
    begins = "/{type}"
    if len(types) == 1:
        of, begins = [], f"/{types[0]}"
    name = operation.name
    paths: dict[str, dict[str, Any]] = {}
    if "system" in operation.levels:
        paths[f"/${name}"] = _methods(operation, "", statuses, [])
    if "type" in operation.levels:
        paths[f"{begins}/${name}"] = _methods(operation, "OfType", statuses, of)
    if "instance" in operation.levels:
        paths[f"{begins}/{{id}}/${name}"] = _methods(operation, "OfOne", statuses, [*of, _path("id", _ID)])
    return paths


def _methods(
    operation: Operation, of: str, statuses: tuple[int, ...], parameters: list[dict[str, Any]]
) -> dict[str, Any]:
    name = "".join(part.capitalize() for part in operation.name.split("-"))
    described = {}
    for method in operation.methods:
        id = f"{name}{of}{'ByPost' if method == 'POST' and len(operation.methods) > 1 else ''}"
        body = ("Parameters",) if method == "POST" else ()
        told = _described(id, f"${operation.name}: {operation.definition}", statuses, parameters, body)
        if body:
            told["requestBody"]["required"] = False
        described[method.lower()] = told
    return described


def _described(
    id: str,
    summary: str,
    statuses: tuple[int, ...],
    parameters: list[dict[str, Any]] | None = None,
    body: tuple[str, ...] = (),
) -> dict[str, Any]:
    told: dict[str, Any] = {
        "operationId": re.sub(r"[^A-Za-z0-9]", "", id),
        "summary": summary,
        "tags": ["FHIR"],
        "parameters": parameters or [],
        "responses": {
            str(status): {"$ref": f"#/components/responses/{status}"} for status in sorted({*statuses, *_ALWAYS})
        },
    }
    if body:
        schema = {"type": "object", "properties": {"resourceType": {"const": body[0]}}, "required": ["resourceType"]}
        content = {wire.JSON: {"schema": schema}, wire.XML: {"schema": {"type": "string"}}}
        told["requestBody"] = {"required": True, "content": content}
    return told


def _patch(name: str) -> dict[str, Any]:
    told = _described(f"Patch{name}", f"Change parts of a {name}", (200, *_WRITE_STATUSES), [_path("id", _ID)])
    told["requestBody"] = {"$ref": "#/components/requestBodies/Patch"}
    return told


def _patch_body() -> dict[str, Any]:
    step = {
        "type": "object",
        "properties": {
            "op": {"enum": ["add", "remove", "replace", "move", "copy", "test"]},
            "path": {"type": "string", "pattern": "^(/[A-Za-z0-9]{1,20}){1,4}$"},
        },
        "required": ["op", "path"],
    }
    parameters = {
        "type": "object",
        "properties": {"resourceType": {"const": "Parameters"}},
        "required": ["resourceType"],
    }
    content = {
        "application/json-patch+json": {"schema": {"type": "array", "items": step}},
        wire.JSON: {"schema": parameters},
    }
    return {"required": True, "content": content}


def _search_by_post(name: str, statuses: tuple[int, ...]) -> dict[str, Any]:
    told = _described(f"Search{name}ByPost", f"Search {name}, the conditions in the body", (*statuses, 415))
    properties = {one.name: {"type": "string"} for one in PARAMETERS.get(name, {}).values()}
    form = {"schema": {"type": "object", "properties": properties}}
    told["requestBody"] = {"required": False, "content": {"application/x-www-form-urlencoded": form}}
    return told


def _response(status: int) -> dict[str, Any]:
    told: dict[str, Any] = {"description": _MEANING.get(status, "See the issues")}
    if status not in (204, 304):
        told["content"] = {media_type: {"schema": {}} for media_type in _BOTH}
    return told


def _searched(parameter: Parameter) -> dict[str, Any]:
    return _query(parameter.name, parameter.description, {"type": "string"})


def _paging() -> list[dict[str, Any]]:
    since = {"type": "string", "format": "date-time"}
    return [_query("_count", "How many versions a page has", _COUNT), _query("_since", "Not before this time", since)]


def _query(name: str, meaning: str, schema: dict[str, Any]) -> dict[str, Any]:
    return {"name": name, "in": "query", "required": False, "description": meaning, "schema": schema}


def _path(name: str, schema: dict[str, Any]) -> dict[str, Any]:
    return {"name": name, "in": "path", "required": True, "schema": schema}
