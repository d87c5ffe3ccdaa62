"""Bulk export (HL7 Bulk Data Access 2.0): ``$export`` of all, or of what is about patients, as files of lines of JSON.

An export is a durable job that writes one file at a time and then queues the next one, so it goes on where it was after
a restart. It sees what its client may see as each file is written, by facility and by scope. What was changed until it
was asked for is in it; of what changes meanwhile it may have the newer version, which the next export has too.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator
from dataclasses import replace
from datetime import datetime, timedelta
from functools import partial
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qsl

from readingroom.errors import Invalid, NotFound, ReadingRoomError, Refused, Unavailable
from server.auth import Caller
from server.fhir import searching
from server.fhir.access import COMPARTMENT, FOR_EVERYBODY, may, require, require_conditions
from server.fhir.outcome import Issue, outcome
from server.fhir.query import MOST, Query, parse_query
from server.fhir.registry import REGISTRY
from server.fhir.search import run
from server.fhir.session import Session, reading
from server.queue import Job, reason_of
from server.room import Room
from server.scopes import Limit, limits
from storage.catalog.engine import begin_write, is_writing
from storage.catalog.fhir_conditions import AllOf, AnyOf, Condition, Missing, Updated
from storage.catalog.fhir_exports import (
    Export,
    File,
    Wanted,
    add_export,
    advance_export,
    count_running,
    drop_export,
    expired_exports,
    fail_export,
    find_export,
)

if TYPE_CHECKING:
    from server.fhir.operations import Asked

log = logging.getLogger(__name__)

EXPORT = "fhir.export"
"""The kind of the job that writes the next file."""
MEDIA_TYPE = "application/fhir+ndjson"

_FORMATS = (MEDIA_TYPE, "application/ndjson", "ndjson")
_PARAMETERS = ("_outputFormat", "_since", "_type", "_typeFilter")
_FILTER = re.compile(r"([A-Z][A-Za-z]+)\?(.+)", re.DOTALL)
_BETWEEN = re.compile(r",(?=[A-Z][A-Za-z]+\?)")
_NO_CONDITIONS = re.compile(r"_(?:count|sort|summary|elements|total|cursor|include|revinclude)(?::.*)?")
_ON_ONE_LINE = bytes.maketrans(b"\r\n", b"  ")  # what is kept as it was sent may have line ends, though in no string
_MOST_RUNNING = 4
_MOST_BYTES = 8 << 20
_MOST_LINES = 10_000
_FORGOTTEN_AT_ONCE = 20


# -- asking for one ----------------------------------------------------------------------------------------------------


def export(session: Session, asked: Asked) -> dict[str, Any]:
    """Begin an export of all, or of what is about patients; where it has come to is told at Content-Location."""
    wanted = _wanted(session, asked)
    if is_writing(session.connection):
        id = _begin(session, session.connection, wanted, asked)
    else:
        with begin_write(session.room.engine) as connection:
            id = _begin(session, connection, wanted, asked)
    where = f"{session.root}/_export/{id}"
    told = outcome([Issue(severity="information", code="informational", diagnostics=f"It is begun: {where}")])
    return {"status": 202, "body": told, "headers": {"content-location": where}}


def _begin(session: Session, connection: Any, wanted: Wanted, asked: Asked) -> str:
    actor = replace(session.actor, scope=session.scope)
    if count_running(connection, actor.id) >= _MOST_RUNNING:
        raise Unavailable(f"{_MOST_RUNNING} exports of yours are being made; ask again.", retry_after=30)
    id = add_export(
        connection,
        wanted,
        actor,
        now=session.now,
        until=session.now + kept_for(session.room),
        facility=session.facility,
        root=session.root,
        dicomweb=session.dicomweb,
        request=_request(session, asked),
    )
    session.room.queue.enqueue(connection, EXPORT, {"export": id}, lane=f"{EXPORT} {id}")
    return id


def _request(session: Session, asked: Asked) -> str:
    type = f"/{asked.type.name}" if asked.type is not None else ""
    query = searching.encoded(asked.query)
    return f"{session.root}{type}/$export" + (f"?{query}" if query else "")


def _wanted(session: Session, asked: Asked) -> Wanted:
    told: dict[str, list[str]] = {}
    for name, value in _pairs(asked):
        if name not in _PARAMETERS:
            raise Invalid(f"An export has no parameter {name[:40]!r}; it has {', '.join(_PARAMETERS)}.")
        told.setdefault(name, []).append(value)
    for text in told.get("_outputFormat", ()):
        if text.replace(" ", "+") not in _FORMATS:
            raise Invalid(f"'_outputFormat' is one of {', '.join(_FORMATS)}.")
    is_of_patients = asked.type is not None
    types = _types(session, told.get("_type", []), is_of_patients)
    filters = tuple(_filters(session, told.get("_typeFilter", []), types))
    since = [_instant(text) for text in told.get("_since", ())]
    return Wanted(types=types, filters=filters, since=max(since, default=None), is_of_patients=is_of_patients)


def _pairs(asked: Asked) -> Iterator[tuple[str, str]]:
    yield from asked.query
    parameters = (asked.body or {}).get("parameter") or []
    for one in parameters if isinstance(parameters, list) else []:
        if not isinstance(one, dict):
            raise Invalid("A parameter is an object with a name and a value.")
        values = [value for key, value in one.items() if key.startswith("value")]
        yield str(one.get("name")), str(values[0]) if values else ""


def _types(session: Session, told: list[str], is_of_patients: bool) -> tuple[str, ...]:
    """What is exported: the types that are asked for, or all that the caller may read and search."""
    asked = dict.fromkeys(part.strip() for text in told for part in text.split(",") if part.strip())
    if not asked:
        # What a Binary holds is told by what refers to it: a Binary alone is nobody's.
        found = [
            type
            for type in REGISTRY
            if type not in FOR_EVERYBODY | {"Binary"}
            and (type in COMPARTMENT or not is_of_patients)
            and may(session, type, "r")
            and may(session, type, "s")
        ]
        if not found:
            raise Refused("The token has no scope for this; it would be system/*.rs.")
        return tuple(found)
    for type in asked:
        if type not in REGISTRY:
            raise Invalid(f"Resources of type {type[:40]!r} are not kept here; /fhir/metadata lists those that are.")
        if is_of_patients and type not in COMPARTMENT:
            raise Invalid(f"{type} is not about a patient; ask for it at /fhir/$export.")
        require(session, type, "r", "s")
    return tuple(asked)


def _filters(session: Session, told: list[str], types: tuple[str, ...]) -> Iterator[tuple[str, str]]:
    for text in (part for one in told for part in _BETWEEN.split(one)):
        found = _FILTER.fullmatch(text)
        if found is None or found[1] not in types:
            raise Invalid("'_typeFilter' is a search of one of the types: Observation?status=final.")
        conditions = _conditions(session, found[1], found[2])
        if not conditions:
            raise Invalid(f"'_typeFilter' has to say which {found[1]}.")
        require_conditions(session, conditions)
        yield found[1], found[2]


def _conditions(session: Session, type: str, query: str) -> tuple[Condition, ...]:
    pairs = parse_qsl(query, keep_blank_values=True)
    if wrong := next((name for name, _value in pairs if _NO_CONDITIONS.fullmatch(name)), None):
        raise Invalid(f"'_typeFilter' has no {wrong[:40]!r}: it says which resources, not how they are told.")
    return parse_query(type, pairs, root=session.root, is_strict=True).conditions


def _instant(text: str) -> datetime:
    try:
        moment = datetime.fromisoformat(text.replace(" ", "+"))
    except ValueError:
        moment = datetime.min
    if moment.tzinfo is None:
        raise Invalid("'_since' has to be a time with its zone, such as 2026-01-31T08:00:00Z.")
    return moment


# -- making one --------------------------------------------------------------------------------------------------------


def export_from(room: Room) -> None:
    """Have the queue of a room make what is asked for."""
    room.queue.on(EXPORT)(partial(_write_next, room))


def _write_next(room: Room, job: Job) -> None:
    """Write the next file of an export, and queue the one after it."""
    id = str(job.payload["export"])
    with room.engine.connect() as connection:
        held = find_export(connection, id)
    if held is None or held.state != "running":
        return  # it was called off
    try:
        lines, type, step, place = _read(room, held)
    except (Invalid, Refused) as error:
        with job.finishing() as connection:
            fail_export(connection, id, reason_of(error), until=room.clock.now() + kept_for(room))
        return
    files = held.files
    if lines:
        room.blobs.put(held.key(len(files)), b"".join(lines))
        files = (*files, File(type=type, count=len(lines)))
    is_done = step >= len(held.wanted.types)
    with job.finishing() as connection:
        if find_export(connection, id, locked=True) is None:
            _drop_files(room, replace(held, files=files))
            return
        until = room.clock.now() + kept_for(room)
        advance_export(connection, id, step=step, place=place, files=files, is_done=is_done, until=until)
        if not is_done:
            room.queue.enqueue(connection, EXPORT, {"export": id}, lane=job.lane)


def _read(room: Room, held: Export) -> tuple[list[bytes], str, int, str]:
    """The lines of the next file, of which type they are, and where the one after it begins."""
    step, place = held.step, held.place
    while step < len(held.wanted.types):
        type = held.wanted.types[step]
        lines: list[bytes] = []
        size = 0
        while size < _MOST_BYTES and len(lines) < _MOST_LINES:
            found, place = _page(room, held, type, place)
            lines += found
            size += sum(map(len, found))
            if not place:
                break
        step += 0 if place else 1
        if lines:
            return lines, type, step, place
    return [], "", step, ""


def _page(room: Room, held: Export, type: str, place: str) -> tuple[list[bytes], str]:
    with room.engine.connect() as connection:
        session = _session(room, connection, held)
        page = run(session, _query(session, held.wanted, type, place))
        shown = searching.shown_of(session, page.matches)
        return [one.body.translate(_ON_ONE_LINE) + b"\n" for one in shown], page.next or ""


def kept_for(room: Room) -> timedelta:
    """How long an export is kept that comes no further."""
    return timedelta(hours=room.settings.export_hours)


def _session(room: Room, connection: Any, held: Export) -> Session:
    actor = room.tokens.renewed(connection, held.actor)
    if actor is None:
        raise Refused("The client that asked for this is registered no more.")
    caller = Caller(
        actor=actor, scope=actor.scope, service_root=held.dicomweb, fhir_root=held.root, facility=held.facility
    )
    return reading(room, caller, connection)


def _query(session: Session, wanted: Wanted, type: str, place: str) -> Query:
    """One page of what is wanted of a type, in an order that does not change while others come."""
    query = parse_query(type, [("_cursor", place)] if place else [], root=session.root)
    some = [AllOf(conditions=_conditions(session, of, text)) for of, text in wanted.filters if of == type]
    held: list[Condition] = [AnyOf(conditions=tuple(some))] if some else []
    if wanted.since is not None:
        held.append(Updated(op="gt", low=wanted.since, high=wanted.since))
    if wanted.is_of_patients and type != "Patient":
        held.append(Missing(parameter="patient", is_missing=False))
    return replace(query, conditions=tuple(held), count=MOST, total="none")


# -- what has become of it ---------------------------------------------------------------------------------------------


def own_export(session: Session, id: str) -> Export:
    """An export of the caller's.

    Raises
    ------
    NotFound
        There is none of that id, or it is somebody else's, or its time is over.
    Refused
        The caller's token says less than that by which it was asked for.
    """
    held = find_export(session.connection, id)
    if held is None or held.actor.id != session.actor.id or held.expires_at <= session.now:
        raise NotFound(f"There is no export {id[:64]}, or none any more.")
    facilities, seen = held.actor.scope.facilities, session.scope.facilities
    is_seen = seen is None or (facilities is not None and facilities <= seen)
    for type in held.wanted.types:
        for letter in ("r", "s"):
            asked, now = limits(held.actor, type, letter), limits(session.actor, type, letter)
            if not is_seen or not (Limit() in now or set(asked) <= set(now)):
                raise Refused("The token says less than the one by which this export was asked for.")
    return held


def progress(held: Export) -> str:
    """How far an export has come, for people."""
    count = sum(file.count for file in held.files)
    return f"{held.step} of {len(held.wanted.types)} types, {count} resources"


def manifest(held: Export) -> dict[str, Any]:
    """The files of an export that is done (Bulk Data Access 2.0, "Response - Complete Status")."""
    return {
        "transactionTime": held.begun_at.isoformat(timespec="milliseconds").replace("+00:00", "Z"),
        "request": held.request,
        "requiresAccessToken": held.actor.scopes is not None,
        "output": [
            {"type": file.type, "url": f"{held.root}/_export/{held.id}/{number}.ndjson", "count": file.count}
            for number, file in enumerate(held.files)
        ],
        "error": [],
    }


def call_off(room: Room, session: Session, id: str) -> None:
    """Forget an export of the caller's, whether it is done or not; raises as `own_export`."""
    held = own_export(session, id)
    with begin_write(room.engine) as connection:
        drop_export(connection, id)
    _drop_files(room, held)


def forget_exports(room: Room, now: datetime) -> int:
    """Forget exports whose time is over, with their files; returns how many there were."""
    with room.engine.connect() as connection:
        found = [find_export(connection, id) for id in expired_exports(connection, now, limit=_FORGOTTEN_AT_ONCE)]
    for held in found:
        if held is None:
            continue
        _drop_files(room, held)
        with begin_write(room.engine) as connection:
            drop_export(connection, held.id)
    return len(found)


def _drop_files(room: Room, held: Export) -> None:
    # One more than are known: a file may have been written whose job did not end.
    for number in range(len(held.files) + 1):
        try:
            room.blobs.delete(held.key(number))
        except ReadingRoomError as error:
            log.warning("file %d of export %s was not removed: %s", number, held.id, error.message)
