"""Modality performed procedure steps in the catalog: what a modality says that it has done, as it says it."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Any, Literal

import orjson
import sqlalchemy as sa

from readingroom.model import Scope
from storage.catalog import schema as t
from storage.catalog.writers import insert_for
from storage.dicomjson import MetadataJson

PerformedState = Literal["in progress", "completed", "discontinued"]

_AT_ONCE = 500


@dataclass(frozen=True, slots=True, kw_only=True)
class PerformedStep:
    """A performed procedure step with what its row has; `schema.performed_step` says what each is.

    Attributes
    ----------
    instance_uid
        Its SOP Instance UID.
    steps
        Ids of the scheduled procedure steps that it performs, as JSON.
    doubt
        Why somebody has to look at it; empty where it fits what was scheduled.
    """

    instance_uid: str
    facility: str
    source: str
    state: PerformedState
    study_uid: str
    steps: str
    doubt: str
    attributes: bytes
    created_at: datetime
    changed_at: datetime

    @property
    def step_ids(self) -> list[str]:
        """Ids of the scheduled procedure steps that it performs."""
        ids: list[str] = orjson.loads(self.steps)
        return ids

    @property
    def dataset(self) -> MetadataJson:
        """All that was said of it, by tag."""
        loaded: MetadataJson = orjson.loads(self.attributes)
        return loaded


_P = t.performed_step.c
_ROWS: sa.Select[Any] = sa.select(*(_P[name] for name in PerformedStep.__dataclass_fields__))


def insert_performed(connection: sa.Connection, performed: PerformedStep) -> bool:
    """Write a new row; False where its UID is taken."""
    insert = insert_for(connection)(t.performed_step).values(asdict(performed)).on_conflict_do_nothing()
    return connection.execute(insert.returning(_P.instance_uid)).first() is not None


def update_performed(connection: sa.Connection, performed: PerformedStep) -> None:
    """Write a row anew."""
    mine = t.performed_step.update().where(_P.instance_uid == performed.instance_uid)
    connection.execute(mine.values(asdict(performed)))


def find_performed(
    connection: sa.Connection, scope: Scope, instance_uid: str, *, locked: bool = False
) -> PerformedStep | None:
    """The one of that UID in scope; None where there is none."""
    found = _ROWS.where(_P.instance_uid == instance_uid, *_in(scope))
    row = connection.execute(found.with_for_update() if locked else found).one_or_none()
    return None if row is None else PerformedStep(**row._mapping)


def performed_of_study(connection: sa.Connection, facility: str, study_uid: str) -> list[PerformedStep]:
    """Those that belong to a study, in the order in which they began."""
    found = _ROWS.where(_P.facility == facility, _P.study_uid == study_uid).order_by(_P.created_at, _P.instance_uid)
    return [PerformedStep(**row._mapping) for row in connection.execute(found)]


def doubtful_steps(connection: sa.Connection, scope: Scope, *, limit: int) -> list[PerformedStep]:
    """Those that do not fit what was scheduled, the newest first."""
    found = _ROWS.where(_P.doubt != sa.literal_column("''"), *_in(scope))
    rows = connection.execute(found.order_by(_P.created_at.desc(), _P.instance_uid).limit(limit))
    return [PerformedStep(**row._mapping) for row in rows]


def hurry_study(
    connection: sa.Connection, facility: str, study_uid: str, instance_uids: Collection[str], now: datetime
) -> bool:
    """Let a study settle at once if all these instances of it are here; returns whether it does."""
    mine = (t.study.c.owner_facility == facility, t.study.c.study_uid == study_uid)
    id = connection.execute(sa.select(t.study.c.id).where(*mine).with_for_update()).scalar_one_or_none()
    if id is None or not instance_uids:
        return False
    i = t.instance.c
    wanted, found = sorted(set(instance_uids)), 0
    for start in range(0, len(wanted), _AT_ONCE):
        held = sa.select(sa.func.count()).where(
            i.study == id, i.is_current, i.instance_uid.in_(wanted[start : start + _AT_ONCE])
        )
        found += connection.execute(held).scalar_one()
    if found < len(wanted):
        return False
    due = t.study.update().where(t.study.c.id == id, t.study.c.settle_due_at > now)
    return connection.execute(due.values(settle_due_at=now)).rowcount > 0


def _in(scope: Scope) -> Iterator[sa.ColumnElement[bool]]:
    if scope.facilities is not None:
        yield _P.facility.in_(sorted(scope.facilities))
