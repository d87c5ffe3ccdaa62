"""The FHIR types of a room without HTTP: sessions, writes as the routes do them, and the check of what is rendered."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import orjson
from fhir.resources.R4B import get_fhir_model_class

from readingroom.errors import Changed
from readingroom.model import LOCAL_OPERATOR, Actor, Scope
from server.auth import Caller
from server.fhir.parsing import dump_json, parse_json
from server.fhir.session import Session, reading, writing
from server.fhir.shown import Shown
from server.fhir.types import ResourceType
from server.fhir.validation import check_resource
from server.room import Room

_HEAD = ("resourceType", "id", "meta")


def caller(*facilities: str, actor: Actor = LOCAL_OPERATOR) -> Caller:
    """Somebody who sees these facilities, or all, and writes for the first, or for ``local``."""
    return Caller(
        actor=actor,
        scope=Scope(facilities=frozenset(facilities)) if facilities else Scope(),
        service_root="http://here/dicomweb",
        fhir_root="http://here/fhir",
        facility=facilities[0] if facilities else "local",
    )


@contextmanager
def looking(room: Room, *facilities: str) -> Iterator[Session]:
    """A session that reads."""
    with room.engine.connect() as connection:
        yield reading(room, caller(*facilities), connection)


def read(room: Room, type: ResourceType, id: str, *facilities: str) -> Shown | None:
    """The current version of a resource, once all checks have found it right; None where there is none."""
    with looking(room, *facilities) as session:
        found = type.read(session, [id])
    assert len(found) < 2
    if found and not found[0].is_deleted:
        check(found[0])
    return found[0] if found else None


def check(shown: Shown) -> dict[str, Any]:
    """A version as values, once it is found to be right FHIR."""
    resource = parse_json(shown.body)
    assert check_resource(resource, type=shown.type) == []
    get_fhir_model_class(shown.type).model_validate_json(shown.body)
    plain: dict[str, Any] = orjson.loads(shown.body)
    return plain


def create(
    room: Room, type: ResourceType, resource: dict[str, Any], *facilities: str, actor: Actor = LOCAL_OPERATOR
) -> Shown:
    """Make one, as POST does."""
    resource = parse_json(orjson.dumps({"resourceType": type.name, **resource}))
    with writing(room, caller(*facilities, actor=actor)) as session:
        return type.create(session, resource, _rest(resource), type.new_id(session, resource))


def update(
    room: Room,
    type: ResourceType,
    resource: dict[str, Any],
    *facilities: str,
    if_match: int | None = None,
    actor: Actor = LOCAL_OPERATOR,
) -> Shown:
    """Change one, as PUT does; with `if_match` only that version."""
    resource = parse_json(orjson.dumps(resource))
    with writing(room, caller(*facilities, actor=actor)) as session:
        before = type.lock(session, resource["id"])
        if if_match is not None and (before is None or before.version != if_match):
            raise Changed("another version")
        session = replace(session, if_match=if_match)
        if before is None:
            return type.create(session, resource, _rest(resource), resource["id"])
        return type.update(session, before, resource, _rest(resource))


def _rest(resource: dict[str, Any]) -> bytes:
    return dump_json({name: value for name, value in resource.items() if name not in _HEAD})


@contextmanager
def changing(room: Room, *facilities: str) -> Iterator[Session]:
    """A transaction."""
    with writing(room, caller(*facilities)) as session:
        yield session
