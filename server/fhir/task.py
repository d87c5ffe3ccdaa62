"""Task: a work item as FHIR shows it (FHIR R4 8.16), the same item that UPS-RS shows as a workitem.

Our own items are made of their row, of what the catalog knows of their study, and of what clients have added that
changes nothing of the work. An item that a client has made as a Task is what it sent, until the work says otherwise.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import orjson

from readingroom.errors import Conflict, NotFound, ReadOnly
from readingroom.model import PRIORITIES
from server.fhir import task_commands as commands
from server.fhir.extract import values_of
from server.fhir.parsing import dump_json, read_json
from server.fhir.session import Session
from server.fhir.shown import Shown
from server.fhir.task_commands import STATE, STATUS
from server.fhir.task_source import listed, task_sources
from server.fhir.types import Kind, Resource
from storage.catalog import schema as t
from storage.catalog.fhir_items import Links, links_of
from storage.catalog.fhir_search import Source
from storage.catalog.fhir_values import list_task
from storage.catalog.ups import KINDS, SCHEME, TOLD
from storage.catalog.work_items import StoredItem, is_seen, item_by_id, item_versions, items_by_id
from storage.fhirvalues import (
    Element,
    accession,
    code_system,
    coding,
    first,
    human_names,
    instant_of,
    issuer_system,
    items,
    local_id,
    profile,
    reference,
    text,
    typed_identifier,
    uid_identifier,
    without_none,
)

_ORDERED, _FLAGGED = profile("ordered-priority"), profile("flagged")
EXTENSIONS = frozenset((_ORDERED, _FLAGGED))
"""Those that are made here."""


# -- render ------------------------------------------------------------------------------------------------------------


def render(item: StoredItem, links: Links) -> bytes:
    """A work item as the JSON of a Task, without ``resourceType``, ``id`` and ``meta``."""
    extras = commands.extras_of(item)
    if extras.sent is not None:
        return _as_sent(item, extras.sent, links)
    made = rendered(item, links)
    for name, value in extras.more.items():
        made[name] = [*made.get(name, ()), *value] if name in ("extension", "identifier") else value
    return dump_json(made)


def rendered(item: StoredItem, links: Links) -> Element:
    """What a Task says of its own, without what clients have added."""
    attributes = orjson.loads(item.attributes)
    study = links.studies.get((item.facility, item.study_uid or ""))
    number = text(item.accession_number)
    orders = links.orders.get((item.facility, item.accession_number or ""), ())
    ended = item.changed_at if item.state in ("completed", "cancelled") else None
    period = without_none(start=instant_of(item.claimed_at), end=instant_of(ended))
    return without_none(
        extension=_extensions(item),
        identifier=[uid_identifier(item.workitem_uid)],
        basedOn=[reference("ServiceRequest", id) for id in orders],
        groupIdentifier=accession(number) if number else None,
        status=STATUS[item.state],
        statusReason={"text": item.reason} if text(item.reason) else None,
        businessStatus={"coding": [{"system": code_system("item-state"), "code": item.state}]},
        intent="order",
        priority=PRIORITIES[item.rank],
        code=_code(item, attributes),
        description=_described(item, study, attributes),
        focus=reference("ImagingStudy", study.fhir_id) if study is not None else None,
        for_=_patient(item, study, links, attributes),
        executionPeriod=period,
        authoredOn=instant_of(item.created_at),
        lastModified=instant_of(item.changed_at),
        requester=reference("Organization", local_id(item.facility)),
        owner=owner_shown(item.owner or item.offered_to, links),
        restriction={"period": {"end": instant_of(item.due_at)}} if item.due_at else None,
        output=_output(item, links),
    )


def _output(item: StoredItem, links: Links) -> list[Element]:
    """The report that a reading has led to."""
    report = links.reports.get((item.facility, item.study_uid or ""))
    if report is None or item.state != "completed" or item.kind not in ("read", "second"):
        return []
    study = {"system": "http://loinc.org", "code": "18748-4", "display": "Diagnostic imaging study"}
    return [{"type": {"coding": [study]}, "valueReference": reference("DiagnosticReport", report)}]


def _extensions(item: StoredItem) -> list[Element]:
    found: list[Element] = []
    if item.priority != PRIORITIES[item.rank]:
        found.append({"url": _ORDERED, "valueCode": item.priority})
    if item.is_flagged:
        found.append({"url": _FLAGGED, "valueString": text(item.findings) or "flagged"})
    return found


def _code(item: StoredItem, attributes: Mapping[str, Any]) -> Element:
    if item.kind == "external":
        codes = [one for one in map(coding, items(attributes, "00404018")) if one]
        return without_none(coding=codes, text=text(first(attributes, "00741204")))
    (value, scheme, meaning), label = KINDS[item.kind]
    ours = {"system": code_system("item-kind"), "code": item.kind, "display": label}
    known = coding(
        {
            "00080100": {"Value": [value]},
            "00080102": {"Value": [scheme]},
            "00080104": {"Value": [meaning]},
        }
    )
    return {"coding": [ours] if scheme == SCHEME else [ours, known], "text": label}


def _described(item: StoredItem, study: Any, attributes: Mapping[str, Any]) -> str | None:
    if item.kind == "external":
        return text(first(attributes, "00741204"))
    told = study.study_description if study is not None else None
    if item.kind in TOLD:
        told = text(item.findings) or told
    described = told or " ".join(filter(None, (item.modality, item.body_part)))
    label = KINDS[item.kind][1]
    return f"{label}: {described}" if text(described) else label


def _patient(item: StoredItem, study: Any, links: Links, attributes: Mapping[str, Any]) -> Element | None:
    if study is not None:
        return reference("Patient", study.patient)
    named = next((name["text"] for name in human_names(dict(attributes), "00100010") if "text" in name), None)
    known = links.patients.get(item.id)
    if known is None:
        return {"display": named} if named else None
    identifier = typed_identifier("MR", known.patient_id, system=issuer_system(known.issuer))
    where = f"Patient/{known.key}" if known.key else None
    return without_none(reference=where, type="Patient", identifier=identifier, display=named)


def owner_shown(holder: str | None, links: Links) -> Element | None:
    """Who has an item, or is offered it: a reader of the directory, or somebody of whom only the name is known."""
    if not holder:
        return None
    if holder in links.readers:
        return reference("Practitioner", local_id(holder))
    if commands.REFERENCE.fullmatch(holder):
        return {"reference": holder}
    return {"identifier": {"system": commands.HOLDERS, "value": holder}, "display": holder}


def _as_sent(item: StoredItem, sent: str, links: Links) -> bytes:
    """A Task that a client has made: what it sent, with what the work has changed since."""
    told = read_json(sent.encode())
    changes = without_none(
        status=STATUS[item.state] if STATE.get(told.get("status", "")) != item.state else None,
        priority=PRIORITIES[item.rank] if told.get("priority", PRIORITIES[0]) != PRIORITIES[item.rank] else None,
    )
    holder = item.owner or item.offered_to
    if holder and commands.holder_of(told) != holder:
        changes["owner"] = owner_shown(holder, links)
    if commands.due_of(told) != item.due_at:
        period = {**told.get("restriction", {}).get("period", {}), "end": instant_of(item.due_at)}
        changes["restriction"] = {**told.get("restriction", {}), "period": without_none(**period)}
    if item.state in ("held", "cancelled") and "status" in changes and text(item.reason):
        changes["statusReason"] = {"text": item.reason}
    is_freed = "owner" in told and holder is None and "status" in changes and item.state in ("waiting", "ready")
    if not changes and not is_freed:
        return sent.encode()
    made = {**told, **changes, "lastModified": instant_of(item.changed_at)}
    if is_freed:
        del made["owner"]
    return dump_json(made)


# -- the type ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class TaskType:
    """The work; see `server.fhir.types.ResourceType`. What is written to a Task becomes commands on its item."""

    name: str = "Task"
    kind: Kind = "command"
    read_only_because: str = ""
    takes_ids: bool = False
    kept_because: str = "A Task is never deleted: change its status to cancelled."

    def condition_of(self, resource: Resource) -> str | None:
        """Clients say by a condition of their own."""
        return None

    @property
    def sources(self) -> Sequence[Source]:
        """The work items."""
        return task_sources()

    def read(self, session: Session, ids: Sequence[str]) -> list[Shown]:
        """The current versions."""
        return _shown(session, items_by_id(session.connection, session.scope, ids))

    def lock(self, session: Session, id: str) -> Shown | None:
        """The current version of one, locked."""
        item = _locked(session, id)
        return None if item is None else _shown(session, [item])[0]

    def version(self, session: Session, id: str, version: int) -> Shown | None:
        """One version of an item."""
        current = items_by_id(session.connection, session.scope, [id])
        found = [one for one in current if one.version == version]
        found = found or item_versions(session.connection, session.scope, id, version=version)
        return next(iter(_shown(session, found)), None)

    def versions(
        self,
        session: Session,
        id: str | None,
        *,
        limit: int,
        until: datetime | None = None,
        since: datetime | None = None,
    ) -> list[Shown]:
        """Versions of items, the newest first."""
        found = item_versions(session.connection, session.scope, id, limit=limit, until=until, since=since)
        return _shown(session, found)

    def new_id(self, session: Session, resource: Resource) -> str:
        """The id of a new item."""
        return t.new_id()

    def create(self, session: Session, resource: Resource, rest: bytes, id: str) -> Shown:
        """Put an item on the worklist that is done elsewhere: of kind ``external``, and a UPS as well."""
        if not commands.is_made_here(id):
            raise ReadOnly("The ids of Tasks are given here: POST it to /Task.")
        made = commands.create(session, resource, rest, id)
        _list(session, made, resource, is_sent=True)
        return _shown(session, [made])[0]

    def update(self, session: Session, before: Shown, resource: Resource, rest: bytes) -> Shown:
        """Do what is asked by the difference between what is there and what was sent."""
        item = _locked(session, before.id)
        assert item is not None
        extras = commands.extras_of(item)
        if extras.sent is not None:
            after = commands.rewrite(session, item, resource, rest)
        else:
            links = links_of(session.connection, [item])
            after = commands.change(session, item, rendered(item, links), resource, EXTENSIONS)
        if after is item:
            return before
        _list(session, after, resource, is_sent=extras.sent is not None)
        return _shown(session, [after])[0]

    def delete(self, session: Session, before: Shown) -> Shown:
        """Nothing that was to be done is forgotten."""
        raise Conflict(self.kept_because)


def _list(session: Session, item: StoredItem, resource: Resource, *, is_sent: bool) -> None:
    values = values_of("Task", resource, session.root)
    list_task(session.connection, item.id, listed(item.id, values, is_sent=is_sent))


def _locked(session: Session, id: str) -> StoredItem | None:
    try:
        item = item_by_id(session.connection, id, locked=True)
    except NotFound:
        return None
    return item if is_seen(item, session.scope.facilities) else None


def _shown(session: Session, found: Sequence[StoredItem]) -> list[Shown]:
    links = links_of(session.connection, found)
    return [
        Shown(
            type="Task",
            id=one.id,
            version=one.version,
            updated_at=one.changed_at,
            rest=render(one, links),
            meta=_meta(one),
            facility=one.facility,
            method="POST" if one.version == 1 else "PUT",
        )
        for one in found
    ]


def _meta(item: StoredItem) -> Mapping[str, Any]:
    meta = commands.extras_of(item).meta
    if item.kind == "external":
        return meta
    return {**meta, "profile": [commands.PROFILE, *meta.get("profile", ())]}
