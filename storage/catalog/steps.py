"""Scheduled procedure steps in the catalog: what a modality is to do, for whom, where and when."""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any, Literal

import orjson
import sqlalchemy as sa

from readingroom.model import Scope
from storage.catalog import schema as t
from storage.catalog.keys import STEP_KEYS
from storage.catalog.listed import list_values
from storage.catalog.matching import Condition
from storage.catalog.search import bound, holds, not_by_index
from storage.dicomjson import MetadataJson

StepState = Literal["scheduled", "arrived", "started", "completed", "discontinued", "cancelled"]

_KEYS = tuple(STEP_KEYS.values())
_S = t.procedure_step.c
_OPEN = sa.text("state IN ('scheduled', 'arrived', 'started')")
"""As the partial index has it, word for word."""
_NARROW = frozenset((t.procedure_step_value.c.value, _S.accession_number, _S.patient_id, _S.study_uid))
"""Columns of which a value leads to few steps by an index."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredStep:
    """A scheduled procedure step with what its row has; `schema.procedure_step` says what each is.

    Attributes
    ----------
    id
        Scheduled Procedure Step ID, unique in the facility.
    order
        Id of the row of `schema.imaging_order`.
    header
        The whole item as a modality worklist gives it: DICOM JSON, with the Scheduled Procedure Step Sequence.
    key
        Id of the row; empty for one that is still to be written.
    """

    facility: str
    id: str
    order: str | None = None
    accession_number: str = ""
    procedure_id: str = ""
    study_uid: str = ""
    state: StepState = "scheduled"
    reason: str = ""
    modality: str = ""
    station_ae: str = ""
    starts_on: str = ""
    starts_at: str = ""
    patient_id: str = ""
    issuer: str = ""
    header: bytes = b"{}"
    key: str = ""

    @property
    def is_open(self) -> bool:
        """Still on the worklist."""
        return self.state in ("scheduled", "arrived", "started")

    @property
    def item(self) -> MetadataJson:
        """What a modality worklist gives."""
        loaded: MetadataJson = orjson.loads(self.header)
        return loaded


_NAMED = {"id": "step_id", "order": "imaging_order", "key": "id"}
"""Columns that are called otherwise than the attributes of a step."""
_COLUMNS = {name: _NAMED.get(name, name) for name in StoredStep.__dataclass_fields__}
_ROWS: sa.Select[Any] = sa.select(*(_S[column].label(name) for name, column in _COLUMNS.items()))


def lock_step(connection: sa.Connection, facility: str, id: str) -> StoredStep | None:
    """One step, which stays as it is until the transaction ends; None where there is none."""
    row = connection.execute(_ROWS.where(_S.facility == facility, _S.step_id == id).with_for_update()).one_or_none()
    return None if row is None else StoredStep(**row._mapping)


def insert_step(connection: sa.Connection, step: StoredStep, now: datetime) -> StoredStep:
    """Write a new step, and list what searches match of it."""
    step = replace(step, key=t.new_id())
    connection.execute(t.procedure_step.insert().values(**_values(step), created_at=now, updated_at=now))
    list_values(connection, "procedure_step", {step.key: step.item}, _KEYS)
    return step


def update_step(connection: sa.Connection, step: StoredStep, now: datetime) -> None:
    """Write a step anew."""
    connection.execute(t.procedure_step.update().where(_S.id == step.key).values(**_values(step), updated_at=now))
    values = t.procedure_step_value
    connection.execute(values.delete().where(values.c.entity == step.key))
    list_values(connection, "procedure_step", {step.key: step.item}, _KEYS)


def _values(step: StoredStep) -> dict[str, Any]:
    return {column: getattr(step, name) for name, column in _COLUMNS.items()}


def steps_of(
    connection: sa.Connection, facility: str, *, order: str | None = None, accession_number: str | None = None
) -> list[StoredStep]:
    """The steps of a facility that an order asks for, or that have an accession number; in the order they came."""
    wanted = [_S.facility == facility]
    if order is not None:
        wanted.append(_S.imaging_order == order)
    if accession_number is not None:
        wanted.append(_S.accession_number == accession_number)
    return _found(connection, *wanted)


def steps_of_study(connection: sa.Connection, facility: str, study_uid: str) -> list[StoredStep]:
    """The steps of a facility whose images go into a study."""
    return _found(connection, _S.facility == facility, _S.study_uid == study_uid)


def open_steps_of_patient(connection: sa.Connection, facility: str, issuer: str, patient_id: str) -> list[StoredStep]:
    """The steps of a facility that are still to be done for a patient, locked."""
    whose = (_S.facility == facility, _S.issuer == issuer, _S.patient_id == patient_id)
    return _found(connection, *whose, _OPEN, is_locked=True)


def _found(
    connection: sa.Connection, *where: sa.ColumnElement[bool] | sa.TextClause, is_locked: bool = False
) -> list[StoredStep]:
    found = _ROWS.where(*where).order_by(_S.created_at, _S.id)
    return [StoredStep(**row._mapping) for row in connection.execute(found.with_for_update() if is_locked else found)]


OrderKey = tuple[str, str, str]
"""What a step is ordered by: the day and the time at which it begins, and its key."""


def order_key(step: StoredStep) -> OrderKey:
    """Where the page after a step begins."""
    return step.starts_on, step.starts_at, step.key


def search_steps(
    connection: sa.Connection,
    scope: Scope,
    conditions: tuple[Condition, ...],
    *,
    limit: int,
    offset: int = 0,
    after: OrderKey | None = None,
) -> list[StoredStep]:
    """One page of the open steps for which all conditions hold, the one that begins first at the head."""
    by = [_S.starts_on, _S.starts_at, _S.id]
    # Who names a patient, an order or a station has few steps, whatever the day: they are found first, and then sorted.
    asked = {term.key.column for condition in conditions for terms in condition for term in terms}
    is_narrow = _S.starts_on not in asked and bool(asked & _NARROW)
    facility = not_by_index(_S.facility) if is_narrow else _S.facility
    statement = _ROWS.where(_OPEN, *holds(conditions)).limit(limit).offset(offset)
    statement = statement.order_by(*(not_by_index(one) for one in by) if is_narrow else by)
    if scope.facilities is not None:
        statement = statement.where(facility.in_(sorted(scope.facilities)))
    if after is not None:
        statement = statement.where(sa.tuple_(_S.starts_on, _S.starts_at, _S.id) > sa.tuple_(*after))
    return [StoredStep(**row._mapping) for row in connection.execute(statement, bound(conditions))]
