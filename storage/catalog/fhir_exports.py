"""Bulk exports of FHIR resources: what was asked for, by whom, and how far each has come."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import orjson
import sqlalchemy as sa

from readingroom.jsonio import from_json, to_json
from readingroom.model import Actor
from storage.catalog import schema as t


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """What an export is of: of these types what meets one of the filters of the type, if there are any.

    `is_of_patients`: only what is about a patient.
    """

    types: tuple[str, ...]
    filters: tuple[tuple[str, str], ...] = ()
    since: datetime | None = None
    is_of_patients: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class File:
    """One file: lines of one type."""

    type: str
    count: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Export:
    """One export; `schema.fhir_export` says what each field is. `actor` has the scope of the request."""

    id: str
    actor: Actor
    facility: str
    root: str
    dicomweb: str
    request: str
    wanted: Wanted
    state: str
    error: str
    begun_at: datetime
    expires_at: datetime
    step: int
    place: str
    files: tuple[File, ...]

    def key(self, number: int) -> str:
        """The key of a file in the store; the first one is 0."""
        return f"exports/{self.id}/{number}.ndjson"


def add_export(
    connection: sa.Connection, wanted: Wanted, actor: Actor, *, now: datetime, until: datetime, **how: str
) -> str:
    """Write down that an export is wanted, by `how`: facility, root, dicomweb and request; returns its id."""
    id = t.new_id()
    row: dict[str, Any] = {
        "id": id,
        "actor": actor.id,
        "sees": orjson.dumps(to_json(actor)),
        "wanted": orjson.dumps(to_json(wanted)),
        "state": "running",
        "error": "",
        "step": 0,
        "place": "",
        "begun_at": now,
        "expires_at": until,
        "files": b"[]",
        **how,
    }
    connection.execute(t.fhir_export.insert().values(row))
    return id


def find_export(connection: sa.Connection, id: str, *, locked: bool = False) -> Export | None:
    """An export by its id; `locked` until the transaction ends."""
    found = sa.select(t.fhir_export).where(t.fhir_export.c.id == id)
    row = connection.execute(found.with_for_update() if locked else found).one_or_none()
    if row is None:
        return None
    told = dict(row._mapping)
    sees = told.pop("sees")
    actor: Actor = from_json(Actor, orjson.loads(sees))
    wanted: Wanted = from_json(Wanted, orjson.loads(told["wanted"]))
    files = tuple(File(**one) for one in orjson.loads(told["files"]))
    return Export(**told | {"actor": actor, "wanted": wanted, "files": files})


def advance_export(
    connection: sa.Connection, id: str, *, step: int, place: str, files: Sequence[File], is_done: bool, until: datetime
) -> None:
    """Write down how far an export has come; it is kept until then, unless it comes further."""
    told = [{"type": one.type, "count": one.count} for one in files]
    values = {
        "step": step,
        "place": place,
        "files": orjson.dumps(told),
        "state": "done" if is_done else "running",
        "expires_at": until,
    }
    connection.execute(t.fhir_export.update().where(t.fhir_export.c.id == id).values(values))


def fail_export(connection: sa.Connection, id: str, error: str, *, until: datetime) -> None:
    """Write down why an export will not be done; that is told until then."""
    values = {"state": "failed", "error": error, "expires_at": until}
    connection.execute(t.fhir_export.update().where(t.fhir_export.c.id == id).values(values))


def count_running(connection: sa.Connection, actor: str) -> int:
    """How many exports of somebody are not done yet."""
    c = t.fhir_export.c
    counted = sa.select(sa.func.count()).where(c.actor == actor, c.state == "running")
    return int(connection.execute(counted).scalar_one())


def expired_exports(connection: sa.Connection, now: datetime, *, limit: int) -> list[str]:
    """Ids of exports whose time is over."""
    c = t.fhir_export.c
    found = sa.select(c.id).where(c.expires_at <= now).order_by(c.expires_at)
    return list(connection.execute(found.limit(limit)).scalars())


def drop_export(connection: sa.Connection, id: str) -> None:
    """Forget an export, whose files are gone."""
    connection.execute(t.fhir_export.delete().where(t.fhir_export.c.id == id))
