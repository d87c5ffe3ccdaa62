"""FHIR resources that are kept as they were sent: the current one of each, and all its versions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

import sqlalchemy as sa

from readingroom.errors import Ambiguous, Conflict
from readingroom.model import Scope
from storage.catalog import schema as t
from storage.catalog.writers import insert_for

_TICK = timedelta(milliseconds=1)


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredResource:
    """One version of a resource; `schema.resource` and `schema.resource_version` say what each field is."""

    rid: int
    type: str
    id: str
    facility: str
    version: int
    updated_at: datetime
    is_deleted: bool
    method: str
    actor: str
    meta: bytes
    rest: bytes


def read_resources(connection: sa.Connection, scope: Scope, type: str, ids: Sequence[str]) -> list[StoredResource]:
    """The current versions of those that are there and in scope, deleted ones too."""
    if not ids:
        return []
    asked: dict[str, Any] = {"type": type, "ids": list(ids)}
    if scope.facilities is None:
        found = _ONE if len(ids) == 1 else _SOME
        asked["id"] = ids[0]
    else:
        found = _SOME.where(*_in(scope))
    return [_stored(row) for row in connection.execute(found, asked)]


def lock_resource(connection: sa.Connection, scope: Scope, type: str, id: str) -> StoredResource | None:
    """The current version of one, which stays so until the transaction ends; None where there is none in scope.

    Raises
    ------
    Ambiguous
        Several facilities in scope have one of that id.
    """
    c = t.resource.c
    row = sa.select(c.rid).where(c.type == type, c.id == id, *_in(scope)).with_for_update()
    rids = connection.execute(row).scalars().all()
    if len(rids) > 1:
        raise Ambiguous(f"Several facilities have a {type} of that id; ask below /fhir/f/FACILITY.")
    if not rids:
        return None
    return _stored(connection.execute(_CURRENT.where(c.rid == rids[0])).one())


def read_version(connection: sa.Connection, scope: Scope, type: str, id: str, version: int) -> StoredResource | None:
    """One version; None where there is none in scope."""
    found = _ALL.where(
        t.resource.c.type == type, t.resource.c.id == id, t.resource_version.c.version == version, *_in(scope)
    )
    row = connection.execute(found).first()
    return None if row is None else _stored(row)


def read_versions(
    connection: sa.Connection,
    scope: Scope,
    type: str | None = None,
    id: str | None = None,
    *,
    limit: int,
    until: datetime | None = None,
    since: datetime | None = None,
) -> list[StoredResource]:
    """Versions of one resource, of all of a type, or of all, the newest first.

    Those that were made at one time follow type, id and version, so that the order is the same each time.

    Parameters
    ----------
    until, since
        Only those that were made at this time or before, and at this time or later.
    """
    c, v = t.resource.c, t.resource_version.c
    found = _ALL.where(*_in(scope))
    if type is not None:
        found = found.where(v.type == type)
    if id is not None:
        found = found.where(c.id == id)
    if since is not None:
        found = found.where(v.updated_at >= since)
    if until is not None:
        found = found.where(v.updated_at <= until)
    order = (v.updated_at.desc(), v.type, c.id, v.version.desc())
    return [_stored(row) for row in connection.execute(found.order_by(*order).limit(limit))]


def count_versions(
    connection: sa.Connection,
    scope: Scope,
    type: str | None = None,
    id: str | None = None,
    *,
    since: datetime | None = None,
) -> int:
    """How many versions `read_versions` would tell of."""
    c, v = t.resource.c, t.resource_version.c
    found = sa.select(sa.func.count()).select_from(t.resource_version.join(t.resource, c.rid == v.rid))
    found = found.where(*_in(scope))
    if type is not None:
        found = found.where(v.type == type)
    if id is not None:
        found = found.where(c.id == id)
    if since is not None:
        found = found.where(v.updated_at >= since)
    return int(connection.execute(found).scalar_one())


def write_resource(
    connection: sa.Connection,
    before: StoredResource | None,
    *,
    type: str,
    id: str,
    facility: str,
    now: datetime,
    method: str,
    actor: str,
    meta: bytes,
    rest: bytes,
    is_deleted: bool = False,
    version: int | None = None,
) -> StoredResource:
    """Write a version: the first, or the one after `before`, which is locked.

    Parameters
    ----------
    version
        Its number, where something else counts them; by default the next one.

    Raises
    ------
    Conflict
        Somebody else has made one of that id at this moment.
    """
    # A clock that was set back must not put a version before the one that it follows.
    at = now if before is None else max(now, before.updated_at + _TICK)
    number = version or (1 if before is None else before.version + 1)
    row = {
        "type": type,
        "id": id,
        "facility": facility,
        "version": number,
        "updated_at": at,
        "is_deleted": is_deleted,
    }
    c = t.resource.c
    if before is None:
        insert = insert_for(connection)(t.resource).values(row).on_conflict_do_nothing().returning(c.rid)
        rid = connection.execute(insert).scalar_one_or_none()
        if rid is None:
            raise Conflict(f"There is a {type} of that id already.")
    else:
        rid = before.rid
        connection.execute(t.resource.update().where(c.rid == rid).values(row))
    told = {"method": method, "actor": actor, "meta": meta, "rest": rest}
    kept = {name: row[name] for name in ("type", "version", "updated_at", "is_deleted")}
    connection.execute(t.resource_version.insert().values(rid=rid, **kept, **told))
    return StoredResource(
        rid=rid,
        type=type,
        id=id,
        facility=facility,
        version=number,
        updated_at=at,
        is_deleted=is_deleted,
        method=method,
        actor=actor,
        meta=meta,
        rest=rest,
    )


_COLUMNS = (
    *(t.resource.c[name] for name in ("rid", "type", "id", "facility")),
    *(
        t.resource_version.c[name]
        for name in ("version", "updated_at", "is_deleted", "method", "actor", "meta", "rest")
    ),
)
_ALL = sa.select(*_COLUMNS).join_from(t.resource_version, t.resource, t.resource.c.rid == t.resource_version.c.rid)
_CURRENT = _ALL.where(t.resource_version.c.version == t.resource.c.version)
_ONE = _CURRENT.where(
    t.resource.c.type == sa.bindparam("type", type_=t.Text), t.resource.c.id == sa.bindparam("id", type_=t.Text)
)
_SOME = _CURRENT.where(
    t.resource.c.type == sa.bindparam("type", type_=t.Text),
    t.resource.c.id.in_(sa.bindparam("ids", type_=t.Text, expanding=True)),
)


def _in(scope: Scope) -> Sequence[sa.ColumnElement[bool]]:
    return () if scope.facilities is None else (t.resource.c.facility.in_(sorted(scope.facilities)),)


def _stored(row: sa.Row[Any]) -> StoredResource:
    return StoredResource(**row._mapping)
