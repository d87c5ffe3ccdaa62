"""Published prices in the catalog, and what readings were charged by them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from datetime import date, datetime
from typing import Any, Literal

import orjson
import sqlalchemy as sa

from readingroom.errors import NotFound
from readingroom.model import Scope
from storage.catalog import schema as t
from storage.catalog.writers import insert_for
from storage.prices import Asked, Price, PriceList

ChargeKind = Literal["charge", "credit"]
ChargeState = Literal["priced", "unpriced"]

_PRICES_LOCK = 0x70726963


@dataclass(frozen=True, slots=True, kw_only=True)
class Published:
    """One version of a list of prices."""

    id: str
    version: int
    made_at: datetime
    list: PriceList
    is_current: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class Charge:
    """One row of `schema.charge`, which says what each is."""

    id: str
    report: str
    kind: ChargeKind
    facility: str
    number: int
    at: datetime
    asked: Asked
    state: ChargeState
    changed_at: datetime
    study_uid: str | None = None
    accession_number: str | None = None
    price_list: str | None = None
    price: Price | None = None
    currency: str | None = None
    amount: int | None = None
    version: int = 1


_C, _L = t.charge.c, t.price_list.c
_CHARGES = sa.select(*(_C[field.name] for field in fields(Charge)))
_LISTS = sa.select(_L.id, _L.version, _L.is_current, _L.made_at, _L.content)


# -- prices ------------------------------------------------------------------------------------------------------------


def lock_prices(connection: sa.Connection) -> None:
    """Let nobody else publish prices until this transaction ends."""
    if connection.dialect.name == "postgresql":
        connection.exec_driver_sql(f"SELECT pg_advisory_xact_lock({_PRICES_LOCK})")


def publish_list(connection: sa.Connection, prices: PriceList, now: datetime) -> Published | None:
    """Have a list hold from its day on, instead of the one of that day; None where that says the same already."""
    same_day = _L.valid_from == prices.valid_from
    before = connection.execute(_LISTS.where(same_day).order_by(_L.version.desc()).limit(1)).one_or_none()
    if before is not None and _published(before).list == prices:
        return None
    connection.execute(t.price_list.update().where(same_day, _L.is_current).values(is_current=False))
    made = Published(id=t.new_id(), version=before.version + 1 if before else 1, made_at=now, list=prices)
    content = orjson.dumps(prices.model_dump(mode="json", exclude_defaults=True)).decode()
    connection.execute(
        t.price_list.insert().values(
            id=made.id,
            valid_from=prices.valid_from,
            version=made.version,
            is_current=True,
            content=content,
            made_at=now,
        )
    )
    return made


def list_on(connection: sa.Connection, day: date) -> Published | None:
    """The list that holds on a day; None before the first one."""
    holds = _LISTS.where(_L.is_current, _L.valid_from <= day).order_by(_L.valid_from.desc()).limit(1)
    row = connection.execute(holds).one_or_none()
    return None if row is None else _published(row)


def current_lists(connection: sa.Connection) -> list[Published]:
    """The lists that hold at some time, the first one first."""
    return [_published(row) for row in connection.execute(_LISTS.where(_L.is_current).order_by(_L.valid_from))]


def all_lists(connection: sa.Connection) -> list[Published]:
    """Every version of every list, in the order of their days."""
    return [_published(row) for row in connection.execute(_LISTS.order_by(_L.valid_from, _L.version))]


def _published(row: Any) -> Published:
    found = PriceList.model_validate_json(row.content)
    return Published(id=row.id, version=row.version, is_current=row.is_current, made_at=row.made_at, list=found)


# -- charges -----------------------------------------------------------------------------------------------------------


def insert_charge(connection: sa.Connection, charge: Charge) -> bool:
    """Add a row; False where the report has one of that kind already."""
    added = insert_for(connection)(t.charge).values(_row(charge)).on_conflict_do_nothing()
    return connection.execute(added.returning(_C.id)).one_or_none() is not None


def update_charge(connection: sa.Connection, charge: Charge) -> None:
    """Write a row anew."""
    connection.execute(t.charge.update().where(_C.id == charge.id).values(_row(charge)))


def charges_of(connection: sa.Connection, report: str) -> list[Charge]:
    """What a report was charged, and credited."""
    rows = connection.execute(_CHARGES.where(_C.report == report).order_by(_C.kind))
    return [_charge(row) for row in rows]


def find_charge(connection: sa.Connection, id: str) -> Charge:
    """One by its id; raises `NotFound`."""
    row = connection.execute(_CHARGES.where(_C.id == id)).one_or_none()
    if row is None:
        raise NotFound(f"There is no charge {id[:64]}.")
    return _charge(row)


def charges_between(connection: sa.Connection, facility: str, begin: datetime, end: datetime) -> list[Charge]:
    """What a facility was charged in a time, in its order; `end` is not included."""
    mine = _CHARGES.where(_C.facility == facility, _C.at >= begin, _C.at < end)
    return [_charge(row) for row in connection.execute(mine.order_by(_C.at, _C.id))]


def unpriced_charges(connection: sa.Connection, scope: Scope, *, limit: int | None = None) -> list[Charge]:
    """Those that no list has a price for, the oldest first."""
    found = _CHARGES.where(sa.text("state = 'unpriced'"))
    if scope.facilities is not None:
        found = found.where(_C.facility.in_(sorted(scope.facilities)))
    return [_charge(row) for row in connection.execute(found.order_by(_C.at, _C.id).limit(limit))]


def count_unpriced(connection: sa.Connection) -> Sequence[tuple[str, int]]:
    """How many there are of each facility that has any."""
    counted = sa.select(_C.facility, sa.func.count()).where(sa.text("state = 'unpriced'")).group_by(_C.facility)
    return [(facility, count) for facility, count in connection.execute(counted)]


def _row(charge: Charge) -> dict[str, Any]:
    row = {field.name: getattr(charge, field.name) for field in fields(charge)}
    row["asked"] = charge.asked.model_dump_json(exclude_defaults=True)
    row["price"] = None if charge.price is None else charge.price.model_dump_json(exclude_defaults=True)
    return row


def _charge(row: Any) -> Charge:
    known = dict(row._mapping)
    known["asked"] = Asked.model_validate_json(known["asked"])
    known["price"] = None if known["price"] is None else Price.model_validate_json(known["price"])
    return Charge(**known)
