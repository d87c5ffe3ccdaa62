"""The OpenAPI 3.1 document of the DICOMweb services, made from the table of operations."""

from __future__ import annotations

import re
from http import HTTPStatus
from typing import Any

from server.dicomweb.operations import ACCEPT, OPERATIONS, Operation, Parameter

_UID = {"type": "string", "pattern": r"^[0-9]+(\.[0-9]+)*$", "maxLength": 64}
_PATH_PARAMETERS: dict[str, tuple[str, dict[str, Any]]] = {
    "study": ("Study Instance UID", _UID),
    "series": ("Series Instance UID", _UID),
    "instance": ("SOP Instance UID", _UID),
    "uid": ("SOP Instance UID", _UID),
    "frames": (
        "Frame numbers, from 1, with commas between",
        {"type": "string", "pattern": r"^[1-9][0-9]{0,3}(,[1-9][0-9]{0,3}){0,5}$"},
    ),
    "workitem": ("Workitem UID", _UID),
    "performed": ("SOP Instance UID of the performed procedure step", _UID),
    "transaction": ("Transaction UID of the request", _UID),
    "ae": ("AE title of the subscriber", {"type": "string", "pattern": "^[A-Z0-9_]{1,16}$"}),
    "path": (
        "The attribute: its tag, and within sequences the number of the item and the tag inside it",
        {"type": "string", "pattern": r"^[0-9A-F]{8}$"},
    ),
}
_PLACES = re.compile(r"\{(\w+)\}")
_MEANING = {
    206: "A range of the representation; or, with a Warning, not all of what was asked for",
    304: "The client has this representation already",
    400: "The request cannot be understood; the answer says why",
    404: "There is no such resource",
    406: "No representation of the resource is acceptable to the client",
    409: "The state of the resource does not allow it; or none of the instances was stored",
    410: "The resource was here and has been deleted",
    412: "The resource was changed since the version that If-Match names",
    503: "Not now; Retry-After says when to ask again",
}
_DATA_SETS = {"type": "array", "items": {"type": "object", "patternProperties": {"^[0-9A-F]{8}$": {"type": "object"}}}}
_DATA_SET = _DATA_SETS["items"]


def openapi(root: str, template: str = "/") -> dict[str, Any]:
    """The document of a resource and of what is below it.

    Parameters
    ----------
    root
        The service root, which is the server of the document.
    template
        The path template of the resource; ``/`` for all.
    """
    inside = template.rstrip("/") + "/"
    paths: dict[str, dict[str, Any]] = {}
    for operation in OPERATIONS:
        if operation.path == template or operation.path.startswith(inside):
            paths.setdefault(operation.path, {})[operation.method.lower()] = _operation(operation)
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "readingroom DICOMweb services",
            "summary": "DICOM PS3.18: store, search and retrieve studies, and work on them, over HTTP",
            "version": "1",
            "license": {"name": "MIT", "identifier": "MIT"},
        },
        "servers": [{"url": root}],
        "paths": paths,
    }


def _operation(operation: Operation) -> dict[str, Any]:
    described: dict[str, Any] = {
        "operationId": operation.name,
        "summary": operation.title,
        "tags": [operation.service],
        "parameters": [
            *(_path_parameter(name) for name in _PLACES.findall(operation.path)),
            *(
                _query_parameter(one)
                for one in (*([ACCEPT] if operation.answers and operation.has_accept else []), *operation.parameters)
            ),
        ],
        "responses": {str(status): _response(operation, status) for status in operation.statuses},
    }
    if operation.section:
        described["description"] = f"DICOM PS3.18 {operation.section}"
    if operation.takes:
        content = {media_type: {"schema": {"type": "string", "format": "binary"}} for media_type in operation.takes}
        described["requestBody"] = {"required": True, "content": content}
    return described


def _path_parameter(name: str) -> dict[str, Any]:
    meaning, schema = _PATH_PARAMETERS[name]
    return {"name": name, "in": "path", "required": True, "description": meaning, "schema": schema}


def _query_parameter(parameter: Parameter) -> dict[str, Any]:
    described: dict[str, Any] = {
        "name": parameter.name,
        "in": "query",
        "required": parameter.is_required,
        "description": parameter.meaning,
        "schema": parameter.schema,
    }
    if parameter.example is not None:
        described["example"] = parameter.example
    return described


def _response(operation: Operation, status: int) -> dict[str, Any]:
    described: dict[str, Any] = {"description": _MEANING.get(status, HTTPStatus(status).phrase)}
    stores = operation.method == "POST" and "application/dicom+json" in operation.answers
    if status in operation.with_body or (status == 409 and stores and 202 in operation.with_body):
        described["content"] = {media_type: _content(operation, media_type) for media_type in operation.answers}
    if status >= 400:
        described.setdefault("content", {})["text/plain"] = {"schema": {"type": "string"}}
    if status == 200 and (links := _links(operation)):
        described["links"] = links
    return described


_IN_A_ROW = {
    "study": "/0/0020000D/Value/0",
    "series": "/0/0020000E/Value/0",
    "instance": "/0/00080018/Value/0",
    "workitem": "/0/00080018/Value/0",
}
_CONSTANT = {"ae": "WATCHER", "frames": "1", "path": "7FE00010"}


def _links(operation: Operation) -> dict[str, Any]:
    """Where an answer leads: the first row of a search to all that can be done with what it found."""
    if operation.service == "Non-Patient Instances":
        return _links_of_category(operation)
    held = set(_PLACES.findall(operation.path))
    if operation.name.startswith("Search"):
        level = "study" if operation.path == "/studies" else operation.path.rpartition("/")[2].removesuffix("s")
        below = {"study": ["study"], "serie": ["study", "series"], "instance": ["study", "series", "instance"]}
        values = {name: f"$response.body#{_IN_A_ROW[name]}" for name in below.get(level, [level]) if name in _IN_A_ROW}
        values |= {name: f"$request.path.{name}" for name in held}
    elif operation.section == "10.5":
        values = {"study": r"$response.body#/00081190/Value/0#regex:/studies/([0-9.]+)"}
        values |= {name: f"$request.path.{name}" for name in held}
    else:
        return {}
    links = {}
    for other in OPERATIONS:
        needed = set(_PLACES.findall(other.path))
        if needed and needed - _CONSTANT.keys() == values.keys():
            parameters = {name: values.get(name, _CONSTANT.get(name)) for name in sorted(needed)}
            links[other.name] = {"operationId": other.name, "parameters": parameters}
    return links


def _links_of_category(operation: Operation) -> dict[str, Any]:
    """The same of what belongs to no patient: to what can be done with the first that was found or stored."""
    if operation.method == "GET":
        uid = "$response.body#/0/00080018/Value/0"
    else:
        uid = "$response.body#/00081199/Value/0/00081155/Value/0"
    to = (other for other in OPERATIONS if other.path == f"{operation.path}/{{uid}}")
    return {other.name: {"operationId": other.name, "parameters": {"uid": uid}} for other in to}


def _content(operation: Operation, media_type: str) -> dict[str, Any]:
    if media_type in ("application/dicom+json", "application/json"):
        return {"schema": operation.json or (_DATA_SET if operation.method == "POST" else _DATA_SETS)}
    return {"schema": {"type": "string", "format": "binary"}}
