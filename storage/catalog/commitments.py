"""Requests for storage commitment (PS3.4 annex J): which instances somebody wants to be sure of, and what was found.

A request is a Transaction UID of one AE, or of nobody over HTTP, and the instances that it names: sent again, it is the
same request. Who uses the UID for other instances makes another one.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from itertools import batched
from typing import Any, Literal, NamedTuple, get_args

import orjson
import sqlalchemy as sa

from readingroom.model import Scope
from storage.catalog import schema as t
from storage.catalog.find import scoped
from storage.catalog.writers import insert_for

Problem = Literal["missing", "other class", "damaged", "used"]
"""Why an instance is not committed: it is not here; it is of another SOP class than was said; its bytes are not those
that came; the Transaction UID is in use for other instances."""

PROBLEMS: tuple[Problem, ...] = get_args(Problem)

_AT_ONCE = 500


class Wanted(NamedTuple):
    """An instance that is to be committed; study and series are empty where the request does not say them."""

    sop_class: str
    instance_uid: str
    study_uid: str = ""
    series_uid: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Commitment:
    """A request; `problems` has one for each instance, None where it is committed, and is None before it is known."""

    id: str
    realm: str
    ae: str
    transaction_uid: str
    instances: tuple[Wanted, ...]
    problems: tuple[Problem | None, ...] | None
    at: datetime
    told_at: datetime | None

    @property
    def failed(self) -> bool:
        """Whether something is not committed."""
        return any(self.problems or ())


def keep_commitment(
    connection: sa.Connection,
    *,
    realm: str,
    ae: str,
    transaction_uid: str,
    instances: Sequence[Wanted],
    now: datetime,
) -> Commitment:
    """Write a request down, or find it where it has been made before: then it is told again.

    One whose UID is in use is answered with that.
    """
    said = orjson.dumps([list(one) for one in instances])
    digest = hashlib.sha256(said).digest()
    c = t.commitment.c
    known = (c.realm == realm) & (c.ae == ae) & (c.transaction_uid == transaction_uid)
    is_used = connection.execute(sa.select(c.id).where(known, c.digest != digest).limit(1)).first() is not None
    values: dict[str, Any] = {
        "id": t.new_id(),
        "realm": realm,
        "ae": ae,
        "transaction_uid": transaction_uid,
        "digest": digest,
        "instances": said,
        "at": now,
    }
    if is_used:
        values |= {"problems": orjson.dumps(["used"] * len(instances)), "checked_at": now}
    insert = insert_for(connection)(t.commitment).values(values)
    keys = ["realm", "ae", "transaction_uid", "digest"]
    connection.execute(insert.on_conflict_do_update(index_elements=keys, set_={"told_at": None}))
    return _read(connection.execute(_ROWS.where(known, c.digest == digest)).one())


def read_commitment(connection: sa.Connection, id: str) -> Commitment:
    """One request."""
    return _read(connection.execute(_ROWS.where(t.commitment.c.id == id)).one())


def find_commitment(connection: sa.Connection, realm: str, transaction_uid: str) -> Commitment | None:
    """The first request with that Transaction UID; None where there is none."""
    c = t.commitment.c
    mine = _ROWS.where(c.transaction_uid == transaction_uid, c.realm == realm).order_by(c.at, c.id).limit(1)
    row = connection.execute(mine).one_or_none()
    return None if row is None else _read(row)


def note_checked(connection: sa.Connection, id: str, problems: Sequence[Problem | None], now: datetime) -> None:
    """Write down what was found; what has been found before stays."""
    c = t.commitment.c
    mine = t.commitment.update().where(c.id == id, c.problems.is_(None))
    connection.execute(mine.values(problems=orjson.dumps(problems), checked_at=now))


def note_told(connection: sa.Connection, id: str, now: datetime) -> None:
    """Remember that who asked has the report."""
    c = t.commitment.c
    connection.execute(t.commitment.update().where(c.id == id, c.told_at.is_(None)).values(told_at=now))


def held_of(connection: sa.Connection, scope: Scope, instance_uids: Sequence[str]) -> Iterator[Any]:
    """What is in use of these instances, of no patient too: class, study and series, and where their bytes are."""
    i, n = t.instance.c, t.non_patient.c
    of_studies = (
        sa.select(
            *(i.instance_uid, i.owner_facility, i.sop_class, i.sha256, i.size_bytes, i.object_key, i.object_bytes),
            *(i.opaque_reason, i.chunk_count, i.chunk_offset, i.chunk_length),
            *(t.study.c.study_uid, t.series.c.series_uid),
        )
        .join_from(t.instance, t.series, i.series == t.series.c.id)
        .join(t.study, i.study == t.study.c.id)
        .where(i.is_current)
    )
    of_nobody = sa.select(
        *(n.instance_uid, n.owner_facility, n.sop_class, n.sha256, n.size_bytes, n.object_key),
        n.size_bytes.label("object_bytes"),
        sa.literal("it belongs to no patient").label("opaque_reason"),
        *(sa.literal("").label("study_uid"), sa.literal("").label("series_uid")),
    ).where(n.is_current, n.state == "kept")
    for some in batched(instance_uids, _AT_ONCE):
        yield from connection.execute(scoped(of_studies, scope, i.owner_facility).where(i.instance_uid.in_(some)))
        yield from connection.execute(scoped(of_nobody, scope, n.owner_facility).where(n.instance_uid.in_(some)))


_C = t.commitment.c
_ROWS = sa.select(_C.id, _C.realm, _C.ae, _C.transaction_uid, _C.instances, _C.problems, _C.at, _C.told_at)


def _read(row: Any) -> Commitment:
    known = dict(row._mapping)
    known["instances"] = tuple(Wanted(*one) for one in orjson.loads(row.instances))
    known["problems"] = None if row.problems is None else tuple(orjson.loads(row.problems))
    return Commitment(**known)
