"""What this server can do, made from the tables that it runs on: CapabilityStatement (FHIR R4 5.2)."""

from __future__ import annotations

from importlib.metadata import version
from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from readingroom.errors import Invalid
from server.auth import caller_of
from server.fhir import wire
from server.fhir.operations import OPERATIONS, Operation
from server.fhir.ours import OURS
from server.fhir.parameters import PARAMETERS, Parameter
from server.fhir.profiles import profiles
from server.fhir.registry import REGISTRY
from server.fhir.topics import declared_topics
from server.fhir.types import Resource, ResourceType

DATE = "2026-11-24"
"""When what is declared was last changed by hand; the software's version says the rest."""

_OAUTH = "http://fhir-registry.smarthealthit.org/StructureDefinition/oauth-uris"
_SERVICES = "http://terminology.hl7.org/CodeSystem/restful-security-service"

_READ = ("read", "vread", "history-instance", "history-type", "search-type")
_WRITE = ("create", "update", "patch", "delete")


async def metadata(request: Request, how: wire.Wanted) -> Response:
    """Read what this server can do (3.1.0.9)."""
    mode = request.query_params.get("mode", "full")
    if mode not in ("full", "normative", "terminology"):
        raise Invalid("'mode' is one of full, normative, terminology.")
    root = caller_of(request).fhir_root
    needs_tokens: bool = request.app.state.room.settings.require_auth
    body = terminology(root) if mode == "terminology" else statement(root, needs_tokens=needs_tokens)
    return Response(wire.written(body, how), media_type=how.media_type, headers={"cache-control": "max-age=300"})


def statement(root: str, *, needs_tokens: bool = False) -> Resource:
    """The CapabilityStatement of the service at that address.

    Where `needs_tokens`, it says where programs get them; clients that read so do nothing without one.
    """
    operations = [_operation(one) for one in OPERATIONS.values() if "system" in one.levels]
    return {
        "resourceType": "CapabilityStatement",
        "id": "readingroom",
        "url": f"{root}/CapabilityStatement/readingroom",
        "version": version("readingroom"),
        "name": "Readingroom",
        "title": "readingroom, FHIR R4",
        "status": "active",
        "date": DATE,
        "description": "Studies, reading work and reports of a teleradiology service, as FHIR R4.",
        "kind": "instance",
        "software": {"name": "readingroom", "version": version("readingroom")},
        "implementation": {"description": "readingroom", "url": root},
        "fhirVersion": "4.0.1",
        "format": ["application/fhir+json", "application/fhir+xml", "json", "xml"],
        "patchFormat": ["application/json-patch+json", "application/fhir+json", "application/fhir+xml"],
        "rest": [
            {
                "mode": "server",
                "documentation": "One truth, seen over DICOMweb and FHIR alike.",
                **({"security": security(root)} if needs_tokens else {}),
                "resource": [_resource(type, root) for type in REGISTRY.values()],
                "interaction": [{"code": code} for code in ("transaction", "batch", "history-system")],
                **({"operation": operations} if operations else {}),
            }
        ],
    }


def search_parameters(root: str) -> list[Resource]:
    """The definition of each search parameter, of those that several types share one."""
    made: dict[str, Resource] = {}
    for type in REGISTRY:
        for parameter in PARAMETERS.get(type, {}).values():
            where = parameter.description
            if parameter.url in made:
                made[parameter.url]["base"].append(type)
                if where:
                    made[parameter.url]["expression"] += f" | {where}"
                continue
            made[parameter.url] = {
                "resourceType": "SearchParameter",
                "id": parameter.url.rpartition("/")[2],
                "url": parameter.url,
                "name": parameter.name,
                "status": "active",
                "date": DATE,
                "description": f"What {type} says in {where}.",
                "code": parameter.name,
                "base": [type],
                "type": parameter.kind,
                "expression": where,
                **({"target": [one for one in parameter.targets if one in REGISTRY]} if parameter.targets else {}),
                "multipleOr": parameter.kind != "composite",
                "multipleAnd": True,
                **({"comparator": list(parameter.comparators)} if parameter.comparators else {}),
                **(
                    {"modifier": [_MODIFIER.get(one, one) for one in parameter.modifiers]}
                    if parameter.modifiers
                    else {}
                ),
            }
    return [_whole(one) for one in made.values()]


def _whole(parameter: Resource) -> Resource:
    """The definition without what is empty; a composite says what it is made of."""
    parameter = {name: value for name, value in parameter.items() if value not in ([], "")}
    if parameter["type"] != "composite":
        return parameter
    [type] = parameter["base"]
    parts = [PARAMETERS[type][name] for name in PARAMETERS[type][parameter["code"]].parts]
    told = [{"definition": part.url, "expression": part.description} for part in parts]
    return parameter | {"expression": type, "component": told}


_MODIFIER = {"of-type": "ofType"}


def operation_definitions(root: str) -> list[Resource]:
    """The definition of each operation."""
    return [
        {
            "resourceType": "OperationDefinition",
            "id": operation.definition.rpartition("/")[2],
            "url": operation.definition,
            "name": "".join(part.capitalize() for part in operation.name.split("-")),
            "status": "active",
            "kind": "operation",
            "date": DATE,
            "description": (operation.run.__doc__ or operation.name).strip().splitlines()[0],
            "affectsState": operation.is_write,
            "code": operation.name,
            "resource": [name for name in REGISTRY if operation.is_of(name)],
            "system": "system" in operation.levels,
            "type": "type" in operation.levels,
            "instance": "instance" in operation.levels,
        }
        for operation in OPERATIONS.values()
    ]


def security(root: str) -> Resource:
    """How programs get in: SMART on FHIR, and where the token endpoint is (SMART App Launch 2.2, Conformance)."""
    token = {"url": "token", "valueUri": f"{root.rpartition('/fhir')[0]}/auth/token"}
    return {
        "extension": [{"url": _OAUTH, "extension": [token]}],
        "service": [{"coding": [{"system": _SERVICES, "code": "SMART-on-FHIR"}], "text": "SMART Backend Services"}],
        "description": "A program gets tokens by its own key; their scopes say what it may do.",
    }


def terminology(root: str) -> Resource:
    """The TerminologyCapabilities: no terminology service is here."""
    return {
        "resourceType": "TerminologyCapabilities",
        "url": f"{root}/TerminologyCapabilities/readingroom",
        "status": "active",
        "date": DATE,
        "kind": "instance",
        "implementation": {"description": "readingroom", "url": root},
    }


def _resource(type: ResourceType, root: str) -> dict[str, Any]:
    is_written = not type.read_only_because
    is_deleted = is_written and not type.kept_because
    kept = {"delete"} if type.kept_because else set()
    parameters = PARAMETERS.get(type.name, {})
    operations = [one for one in OPERATIONS.values() if one.levels & {"type", "instance"} and one.is_of(type.name)]
    told: dict[str, Any] = {
        "type": type.name,
        "profile": f"http://hl7.org/fhir/StructureDefinition/{type.name}",
        "supportedProfile": [one["url"] for one in profiles().values() if one["type"] == type.name],
        "documentation": type.read_only_because or type.kept_because or _made_here(type.name),
        "interaction": [{"code": code} for code in (*_READ, *(_WRITE if is_written else ())) if code not in kept],
        "versioning": "versioned-update" if is_written else "versioned",
        "readHistory": True,
        "updateCreate": is_written and type.takes_ids,
        "conditionalCreate": is_written,
        "conditionalRead": "full-support",
        "conditionalUpdate": is_written,
        "conditionalDelete": "single" if is_deleted else "not-supported",
        "referencePolicy": ["literal", "logical"],
        "searchInclude": [f"{type.name}:{one.name}" for one in parameters.values() if one.kind == "reference"],
        "searchRevInclude": sorted(_pointing_at(type.name)),
        "searchParam": [_parameter(one) for one in parameters.values()],
        "operation": [_operation(one) for one in operations],
        **(declared_topics() if type.name == "Subscription" else {}),
    }
    return {name: value for name, value in told.items() if value not in ([], "")}


def _pointing_at(type: str) -> list[str]:
    return [
        f"{source}:{one.name}"
        for source, parameters in PARAMETERS.items()
        if source in REGISTRY
        for one in parameters.values()
        if one.kind == "reference" and type in one.targets
    ]


def _made_here(type: str) -> str:
    """That resources of a type that clients write may be this server's own."""
    ours = OURS.get(type)
    return f"One that this server makes is not written by clients: {ours.instead.format(id='[id]')}." if ours else ""


def _parameter(parameter: Parameter) -> dict[str, Any]:
    told = {"name": parameter.name, "definition": parameter.url, "type": parameter.kind}
    return told | ({"documentation": parameter.description} if parameter.description else {})


def _operation(operation: Operation) -> dict[str, Any]:
    return {"name": operation.name, "definition": operation.definition}
