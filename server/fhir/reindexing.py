"""Lists stored resources anew where a release searches them otherwise than the one that stored them.

`schema.resource_index` says by which parameters the resources of each type are listed, and how far a change of them has
come. Some resources are listed in each round of the upkeep, so that it goes on after any stop; searches of a type that
is not done yet say so.
"""

from __future__ import annotations

import re
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from hashlib import sha256

import orjson
import sqlalchemy as sa

from readingroom.errors import Invalid
from server.fhir.extract import values_of
from server.fhir.parameters import PARAMETERS, Parameter
from server.fhir.parsing import read_json
from server.fhir.registry import REGISTRY
from server.room import Room
from server.settings import Settings
from storage.catalog import schema as t
from storage.catalog.engine import begin_write
from storage.catalog.fhir_conditions import AllOf, AnyOf, Chain, Condition, Has
from storage.catalog.fhir_values import list_resource
from storage.catalog.writers import insert_for

LISTING = 1
"""Count it up where `server.fhir.extract` reads values otherwise, so that all is listed anew."""

AT_ONCE = 100
_ROUND_SECONDS = 0.5


@cache
def digests() -> Mapping[str, str]:
    """By type, what tells this way of listing its resources from another."""
    return {
        type: sha256(
            orjson.dumps(
                [
                    LISTING,
                    *sorted((one.name, one.kind, one.paths, one.targets) for one in table.values()),
                    *_ranked(table),
                ]
            )
        ).hexdigest()[:16]
        for type, table in PARAMETERS.items()
    }


def _ranked(table: Mapping[str, Parameter]) -> list[str]:
    return sorted(one.name for one in table.values() if one.is_ranked)


def reindex(room: Room) -> bool:
    """List some of the resources whose parameters have changed; says whether there is more to do."""
    until = time.monotonic() + _ROUND_SECONDS
    has_more = begin(room.engine) and step(room.engine, room.settings)
    while has_more and time.monotonic() < until:
        has_more = step(room.engine, room.settings)
    return has_more


def begin(engine: sa.Engine, again: Sequence[str] = ()) -> bool:
    """Take note of what is to be listed anew, all of the types `again` too; says whether something is.

    Raises
    ------
    Invalid
        Resources of one of these types are not kept as they were sent.
    """
    c = t.resource_index.c
    for type in again:
        if type not in REGISTRY or not any(source.can_walk for source in REGISTRY[type].sources):
            raise Invalid(f"No {type[:60]!r} resources are stored; a type is written as in /fhir/Observation.")
    with engine.connect() as connection:
        rows = connection.execute(sa.select(c.type, c.digest, c.reached)).all()
    known = {row.type: row.digest for row in rows}
    changed = {type: digest for type, digest in digests().items() if known.get(type) != digest or type in again}
    if changed:
        with begin_write(engine) as connection:
            for type, digest in changed.items():
                total = connection.execute(_count(type)).scalar_one()
                told = {"digest": digest, "reached": 0 if total else None, "done": 0, "total": total}
                insert = insert_for(connection)(t.resource_index).values(type=type, **told)
                connection.execute(insert.on_conflict_do_update(index_elements=[c.type], set_=told))
    return bool(changed) or any(row.reached is not None for row in rows)


def _count(type: str) -> sa.Select[int]:
    c = t.resource.c
    return sa.select(sa.func.count()).select_from(t.resource).where(c.type == type, sa.not_(c.is_deleted))


def step(engine: sa.Engine, settings: Settings) -> bool:
    """List the next resources; False where there are none left."""
    c, r, v = t.resource_index.c, t.resource.c, t.resource_version.c
    with begin_write(engine) as connection:
        row = connection.execute(
            sa.select(c.type, c.reached).where(c.reached.is_not(None)).order_by(c.type).limit(1).with_for_update()
        ).one_or_none()
        if row is None:
            return False
        mine = (r.type == row.type, r.rid > row.reached, sa.not_(r.is_deleted))
        locked = sa.select(r.rid).where(*mine).order_by(r.rid).limit(AT_ONCE).with_for_update()
        rids = connection.execute(locked).scalars().all()
        found = sa.select(r.rid, v.meta, v.rest).join_from(
            t.resource, t.resource_version, sa.and_(v.rid == r.rid, v.version == r.version)
        )
        for rid, meta, rest in connection.execute(found.where(r.rid.in_(rids))).all():
            resource = {"resourceType": row.type, "meta": read_json(meta), **read_json(rest)}
            list_resource(connection, rid, values_of(row.type, resource, _root_in(rest, settings)))
        told = {"reached": rids[-1] if rids else None, "done": c.done + len(rids)}
        connection.execute(t.resource_index.update().where(c.type == row.type).values(told))
        return True


def _root_in(rest: bytes, settings: Settings) -> str:
    """The service root that references of a resource are below, if they say where it is."""
    names = [*settings.allowed_hosts, (settings.public_url or "").partition("://")[2]]
    hosts = "|".join(re.escape(name) for name in names if name)
    found = re.search(rf'"(https?://(?:{hosts})(?::\d+)?/fhir(?:/f/[^/"]+)?)/'.encode(), rest)
    return found[1].decode() if found else "/"


@dataclass(frozen=True, slots=True, kw_only=True)
class Listing:
    """How far the resources of a type are listed anew; `total` is how many there were at the beginning."""

    type: str
    done: int
    total: int


def progress(engine: sa.Engine) -> list[Listing]:
    """The types that are not done yet."""
    with engine.connect() as connection:
        return [Listing(type=type, done=done, total=total) for type, done, total in connection.execute(_UNFINISHED)]


_UNFINISHED = (
    sa.select(t.resource_index.c.type, t.resource_index.c.done, t.resource_index.c.total)
    .where(t.resource_index.c.reached.is_not(None))
    .order_by(t.resource_index.c.type)
)
"""Built once: each search asks it."""


# -- what is not done yet ----------------------------------------------------------------------------------------------


def unfinished(connection: sa.Connection, type: str, conditions: Sequence[Condition]) -> list[str]:
    """What a client is told of the types of a search that are being listed anew."""
    rows = connection.execute(_UNFINISHED).all()
    if not rows:
        return []
    asked = {type, *_types(conditions)}
    return [
        f"{row.type} resources are being listed anew, {row.done} of {row.total} are; some may be missing until all are."
        for row in rows
        if row.type in asked
    ]


def _types(conditions: Iterable[Condition]) -> Iterator[str]:
    for condition in conditions:
        match condition:
            case Chain(target=type, conditions=inner) | Has(source=type, conditions=inner):
                yield type
                yield from _types(inner)
            case AnyOf(conditions=inner) | AllOf(conditions=inner):
                yield from _types(inner)
