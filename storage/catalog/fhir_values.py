"""The index of stored FHIR resources: the values that searches match, one row each."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa

from storage.catalog import schema as t

LONGEST = 512
"""Characters of a value that are compared; more of a text is looked at only for `:exact` and `:contains`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Value:
    """One value of a resource.

    `key` is the type and the search parameter, ``Observation.code``. `text` is what is compared: a code, a normalised
    string, a URI, ``Patient/1``; `space` its system, or the string as it was written. `low` and `high` bound a date
    (milliseconds since 1970, UTC) or a number.
    """

    key: str
    text: str = ""
    space: str = ""
    low: float | None = None
    high: float | None = None


def list_resource(connection: sa.Connection, rid: int, values: Iterable[Value], *, is_new: bool = False) -> None:
    """Write the values of a resource instead of those that there are."""
    if not is_new:
        connection.execute(t.resource_value.delete().where(t.resource_value.c.rid == rid))
    if rows := [{"rid": rid, **row} for row in _rows(values)]:
        connection.execute(_INSERT, rows)


def list_task(connection: sa.Connection, item: str, values: Iterable[Value]) -> None:
    """The same of what a client has said of a work item."""
    connection.execute(t.task_value.delete().where(t.task_value.c.item == item))
    if rows := [{"item": item, **row} for row in _rows(values)]:
        connection.execute(t.task_value.insert(), rows)


def _rows(values: Iterable[Value]) -> list[dict[str, Any]]:
    return [
        {
            "key": value.key,
            "text": value.text[:LONGEST],
            "number": number,
            "space": value.space,
            "low": value.low,
            "high": value.high,
        }
        for number, value in enumerate(dict.fromkeys(values))
    ]


def values_of(connection: sa.Connection, rid: int) -> Sequence[sa.Row[Any]]:
    """What is listed of a resource."""
    c = t.resource_value.c
    return connection.execute(sa.select(t.resource_value).where(c.rid == rid).order_by(c.number)).all()


_INSERT = t.resource_value.insert()
