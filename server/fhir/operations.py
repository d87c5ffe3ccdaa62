"""The operations (FHIR R4 3.2.0): ``$validate``, ``$meta``, ``$everything``; one table, which is also declared."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from readingroom.errors import Invalid, NotFound, ReadOnly, Refused
from server.fhir import exporting, searching, subscription_operations
from server.fhir.access import may, require
from server.fhir.outcome import Issue, outcome
from server.fhir.parameters import PARAMETERS
from server.fhir.registry import REGISTRY
from server.fhir.search import is_allowed
from server.fhir.session import Session
from server.fhir.shown import Shown
from server.fhir.topics import BACKPORT
from server.fhir.types import Resource, ResourceType
from server.fhir.validation import check_resource

Pairs = Sequence[tuple[str, str]]
Level = Literal["system", "type", "instance"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """What an operation is asked for: of all, of a type, or of one resource."""

    type: ResourceType | None
    id: str | None
    query: Pairs
    body: Resource | None

    def parameter(self, name: str) -> Any:
        """The value of an input parameter: in the query, or in the Parameters resource that was sent."""
        for pair in self.query:
            if pair[0] == name:
                return pair[1]
        if self.body is not None and self.body.get("resourceType") == "Parameters":
            for told in self.body.get("parameter") or []:
                if isinstance(told, dict) and told.get("name") == name:
                    return told.get("resource") or next((v for k, v in told.items() if k.startswith("value")), None)
        return None


@dataclass(frozen=True, slots=True, kw_only=True)
class Operation:
    """One operation: `definition` is the canonical URL of its OperationDefinition."""

    name: str
    definition: str
    levels: frozenset[Level]
    run: Callable[[Session, Asked], dict[str, Any]]
    methods: tuple[str, ...] = ("GET", "POST")
    types: frozenset[str] = frozenset()
    """Of which it is; empty for all."""
    is_write: bool = False

    def is_of(self, type: str) -> bool:
        """Whether a type has it."""
        return not self.types or type in self.types


def run(session: Session, method: str, path: Sequence[str], query: Pairs, body: Resource | None) -> dict[str, Any]:
    """Run the operation that a path ends with; returns the fields of an `Answer`.

    Raises
    ------
    NotFound
        There is no such operation there.
    """
    *of, name = path
    operation = OPERATIONS.get(name.removeprefix("$"))
    type = REGISTRY.get(of[0]) if of else None
    level: Level | None = {0: "system", 1: "type", 2: "instance"}.get(len(of))  # type: ignore[assignment]
    if (
        operation is None
        or level not in operation.levels
        or (of and (type is None or not operation.is_of(of[0])))
        or method not in operation.methods
    ):
        raise NotFound(f"There is no operation {method} {'/'.join(path)[:80]}; /fhir/metadata lists them.")
    return operation.run(session, Asked(type=type, id=of[1] if len(of) == 2 else None, query=query, body=body))


def is_write(name: str) -> bool:
    """Whether an operation, named with its dollar sign, may write."""
    found = OPERATIONS.get(name.removeprefix("$"))
    return found is not None and found.is_write


# -- $validate ---------------------------------------------------------------------------------------------------------


def _validate(session: Session, asked: Asked) -> dict[str, Any]:
    """Whether a resource would be taken (R4 resource-operation-validate); 200, whatever is found."""
    resource = asked.body
    if resource is not None and resource.get("resourceType") == "Parameters" and asked.parameter("resource"):
        resource = asked.parameter("resource")
    if resource is None and asked.type is not None and asked.id is not None:
        [resource] = [one.resource for one in _current(session, asked.type, asked.id)]
    if not isinstance(resource, dict):
        raise Invalid("Send the resource that is to be validated, alone or as the parameter 'resource'.")
    mode = asked.parameter("mode")
    if mode == "delete":
        return {"body": outcome(())}
    issues = check_resource(resource, type=asked.type.name if asked.type else None)
    return {"body": outcome(issues)}


def _current(session: Session, type: ResourceType, id: str) -> list[Shown]:
    require(session, type.name, "r")
    found = [one for one in type.read(session, (id,)) if not one.is_deleted]
    if len(found) != 1 or not is_allowed(session, type.name, id, "r"):
        raise NotFound(f"There is no {type.name}/{id[:64]}.")
    return found


# -- $meta -------------------------------------------------------------------------------------------------------------

_LISTS = ("profile", "security", "tag")


def _meta(session: Session, asked: Asked) -> dict[str, Any]:
    """What `meta` of a resource says (R4 resource-operation-meta)."""
    assert asked.type is not None
    assert asked.id is not None
    [shown] = _current(session, asked.type, asked.id)
    return {"body": _told(shown)}


def _meta_add(session: Session, asked: Asked) -> dict[str, Any]:
    """Add profiles, labels and tags; of the content nothing changes (R4 resource-operation-meta-add)."""
    return _change_meta(session, asked, lambda held, sent: [*held, *(one for one in sent if one not in held)])


def _meta_delete(session: Session, asked: Asked) -> dict[str, Any]:
    """Take them away (R4 resource-operation-meta-delete); what is not there is no error."""

    def without(held: list[Any], sent: list[Any]) -> list[Any]:
        gone = [_identity(one) for one in sent]
        return [one for one in held if _identity(one) not in gone]

    return _change_meta(session, asked, without)


def _identity(value: Any) -> Any:
    return (value.get("system"), value.get("code")) if isinstance(value, dict) else value


def _change_meta(session: Session, asked: Asked, change: Callable[[list[Any], list[Any]], list[Any]]) -> dict[str, Any]:
    assert asked.type is not None
    assert asked.id is not None
    sent = asked.parameter("meta")
    if not isinstance(sent, dict):
        raise Invalid("Send a Parameters resource with the parameter 'meta', a valueMeta.")
    if asked.type.read_only_because:
        raise ReadOnly(f"{asked.type.name} cannot be written: {asked.type.read_only_because}")
    type = asked.type.name
    require(session, type, "r", "u")
    before = asked.type.lock(session, asked.id)
    is_seen = all(is_allowed(session, type, asked.id, letter) for letter in ("r", "u"))
    if before is None or before.is_deleted or not is_seen:
        raise NotFound(f"There is no {asked.type.name}/{asked.id[:64]}.")
    meta = dict(before.meta)
    for name in _LISTS:
        changed = change(list(meta.get(name) or []), list(sent.get(name) or []))
        meta.pop(name, None)
        if changed:
            meta[name] = changed
    resource = before.resource | {"meta": meta}
    shown = asked.type.update(replace(session, if_match=before.version), before, resource, before.rest)
    if not is_allowed(session, type, asked.id, "u"):
        raise Refused(f"The token has scopes for some {type} resources, and this would be none of them any more.")
    return {"body": _told(shown)}


def _told(shown: Shown) -> Resource:
    return {"resourceType": "Parameters", "parameter": [{"name": "return", "valueMeta": shown.head["meta"]}]}


# -- $everything -------------------------------------------------------------------------------------------------------

_MOST = 1000


def _everything(session: Session, asked: Asked) -> dict[str, Any]:
    """A patient and all that is about the patient (R4 patient-operation-everything); says where that is too much."""
    assert asked.type is not None
    assert asked.id is not None
    [patient] = _current(session, asked.type, asked.id)
    wanted = set((asked.parameter("_type") or ",".join(PARAMETERS)).split(","))
    since = asked.parameter("_since")
    found: list[tuple[str, str]] = [(patient.type, patient.id)]
    cut: list[Issue] = []
    for type, parameters in PARAMETERS.items():
        if type not in wanted or type not in REGISTRY or type == patient.type or "patient" not in parameters:
            continue
        if not may(session, type, "s"):
            continue
        pairs = [("patient", f"Patient/{patient.id}"), ("_count", str(_MOST))]
        if since:
            pairs.append(("_lastUpdated", f"ge{since}"))
        some = searching.matches_of(session, type, pairs, most=_MOST + 1)
        if len(some) > _MOST:
            rest = f"Of {type} the {_MOST} newest are here; ask for the others by {type}?patient={patient.id}."
            cut.append(Issue(severity="warning", code="incomplete", diagnostics=rest))
        found += some[:_MOST]
    shown = searching.shown_of(session, found)
    entries: list[dict[str, Any]] = [
        {"fullUrl": f"{session.root}/{one.type}/{one.id}", "resource": one, "search": {"mode": "match"}}
        for one in shown
    ]
    if cut:
        entries.append({"resource": outcome(cut), "search": {"mode": "outcome"}})
    bundle = {"resourceType": "Bundle", "type": "searchset", "total": len(shown), "entry": entries}
    return {"body": bundle}


_BASE = "http://hl7.org/fhir/OperationDefinition/"
_OF_SUBSCRIPTIONS = f"{BACKPORT}/OperationDefinition/backport-subscription-"
_ONE: frozenset[Level] = frozenset(("instance",))
_SUBSCRIPTION = frozenset(("Subscription",))

OPERATIONS: Mapping[str, Operation] = {
    operation.name: operation
    for operation in (
        Operation(
            name="validate",
            definition=_BASE + "Resource-validate",
            levels=frozenset(("type", "instance")),
            run=_validate,
        ),
        Operation(name="meta", definition=_BASE + "Resource-meta", levels=_ONE, run=_meta, methods=("GET", "POST")),
        Operation(
            name="meta-add",
            definition=_BASE + "Resource-meta-add",
            levels=_ONE,
            run=_meta_add,
            methods=("POST",),
            is_write=True,
        ),
        Operation(
            name="meta-delete",
            definition=_BASE + "Resource-meta-delete",
            levels=_ONE,
            run=_meta_delete,
            methods=("POST",),
            is_write=True,
        ),
        Operation(
            name="everything",
            definition=_BASE + "Patient-everything",
            levels=_ONE,
            run=_everything,
            types=frozenset(("Patient",)),
        ),
        Operation(
            name="export",
            definition="http://hl7.org/fhir/uv/bulkdata/OperationDefinition/export",
            levels=frozenset(("system", "type")),
            run=exporting.export,
            types=frozenset(("Patient",)),
        ),
        Operation(
            name="status",
            definition=_OF_SUBSCRIPTIONS + "status",
            levels=frozenset(("type", "instance")),
            run=subscription_operations.status,
            types=_SUBSCRIPTION,
        ),
        Operation(
            name="events",
            definition=_OF_SUBSCRIPTIONS + "events",
            levels=_ONE,
            run=subscription_operations.events,
            types=_SUBSCRIPTION,
        ),
        Operation(
            name="get-ws-binding-token",
            definition=_OF_SUBSCRIPTIONS + "get-ws-binding-token",
            levels=frozenset(("type", "instance")),
            run=subscription_operations.get_ws_binding_token,
            types=_SUBSCRIPTION,
        ),
    )
}
"""All operations, by name."""
