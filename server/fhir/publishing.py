"""Writes the resources that this server makes of its own rows, in the transaction that changes those."""

from __future__ import annotations

from readingroom.model import Scope
from server.fhir.parsing import dump_json, read_json
from server.fhir.registry import REGISTRY
from server.fhir.session import Session
from server.fhir.shown import Shown
from server.fhir.stored import StoredType
from server.fhir.types import Resource
from server.room import Room
from server.worklist.items import Work

_HEAD = ("resourceType", "id", "meta")
_NOWHERE = "/"
"""Our own references are relative: there is no root that they are below."""


def publish(room: Room, work: Work, resource: Resource, *, facility: str, type: StoredType | None = None) -> Shown:
    """Write a version of a resource, unless it says what is there already; returns what is there now.

    It is listed for searches and told to subscribers as one that a client writes. Its type is one whose resources are
    kept; `server.fhir.ours` says which ids of that type no client may write.

    Parameters
    ----------
    resource
        With its ``resourceType`` and ``id``.
    facility
        Whose it is.
    type
        How it is kept, where its own type would give commands; default: that type.
    """
    kept = type or REGISTRY[resource["resourceType"]]
    assert isinstance(kept, StoredType), "what is a view of other rows is never kept"
    session = Session(
        room=room,
        connection=work.connection,
        now=work.now,
        actor=work.actor,
        scope=Scope(facilities=frozenset((facility,))),
        facility=facility,
        root=_NOWHERE,
        dicomweb=_NOWHERE,
    )
    rest = dump_json({name: value for name, value in resource.items() if name not in _HEAD})
    meta = {"meta": resource["meta"]} if "meta" in resource else {}
    told = {"resourceType": kept.name, **meta, **read_json(rest)}
    before = kept.lock(session, resource["id"])
    shown = kept.publish(session, before, told, rest, resource["id"])
    session.tell()
    return shown
