"""Orders in the catalog: what was asked for, of whom, at which facility, under which accession number."""

from __future__ import annotations

from dataclasses import dataclass, fields
from datetime import datetime
from typing import Any, Literal

import sqlalchemy as sa

from readingroom.model import Order, Priority, priority_rank
from storage.catalog import schema as t
from storage.catalog.writers import insert_for

OrderState = Literal["active", "on-hold", "revoked", "completed"]


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredOrder:
    """An order with everything that its row has; `schema.imaging_order` says what each is."""

    facility: str
    id: str
    accession_number: str
    state: OrderState = "active"
    priority: Priority = "routine"
    patient_id: str | None = None
    issuer: str | None = None
    procedure: str | None = None
    reason: str | None = None
    ordered_at: datetime | None = None
    item: str | None = None

    @property
    def order(self) -> Order:
        """The noun."""
        return Order(**{field.name: getattr(self, field.name) for field in fields(Order)})


_O = t.imaging_order.c
_ROWS = sa.select(*(_O[field.name] for field in fields(StoredOrder)))


def lock_order(connection: sa.Connection, facility: str, id: str) -> StoredOrder | None:
    """One order, which stays as it is until the transaction ends; None where there is none."""
    row = connection.execute(_ROWS.where(_O.facility == facility, _O.id == id).with_for_update()).one_or_none()
    return None if row is None else StoredOrder(**row._mapping)


def orders_for(connection: sa.Connection, facility: str, accession_number: str) -> list[StoredOrder]:
    """The orders of a facility with that accession number, in the order in which they came."""
    found = _ROWS.where(_O.accession_number == accession_number, _O.facility == facility)
    return [StoredOrder(**row._mapping) for row in connection.execute(found.order_by(_O.created_at, _O.id))]


def order_of(connection: sa.Connection, facility: str, accession_number: str | None) -> Order | None:
    """What holds of the orders with that accession number: the most urgent that is not revoked."""
    if not accession_number:
        return None
    holding = [one for one in orders_for(connection, facility, accession_number) if one.state != "revoked"]
    return max(holding, key=lambda one: priority_rank(one.priority)).order if holding else None


def write_order(connection: sa.Connection, order: StoredOrder, now: datetime) -> None:
    """Write an order whole."""
    values: dict[str, Any] = {field.name: getattr(order, field.name) for field in fields(StoredOrder)}
    insert = insert_for(connection)(t.imaging_order).values(**values, created_at=now, updated_at=now)
    again = {name: value for name, value in values.items() if name not in ("facility", "id")} | {"updated_at": now}
    connection.execute(insert.on_conflict_do_update(index_elements=["facility", "id"], set_=again))


def forget_order(connection: sa.Connection, facility: str, id: str) -> None:
    """Remove an order."""
    connection.execute(t.imaging_order.delete().where(_O.facility == facility, _O.id == id))
