"""Resources of types that are kept which this server makes itself: clients read them, and change what is behind them.

Such a resource has the id of the row that it is made of, so the row says whose it is.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa

from readingroom.errors import ReadOnly
from storage.catalog import schema as t


@dataclass(frozen=True, slots=True, kw_only=True)
class Ours:
    """Which ids are of our own resources of a type, and what a client does in place of writing them.

    `part` is what of an id is that of the row, where it has more.
    """

    id: sa.ColumnElement[Any]
    instead: str
    part: re.Pattern[str] = re.compile(r"(?P<id>.+)")


OURS: Mapping[str, Ours] = {
    "DiagnosticReport": Ours(
        id=t.report.c.id,
        instead="a report is written, signed and revised at /reports/{id}, and what is signed is never changed",
    ),
    "Provenance": Ours(
        id=t.report.c.id,
        part=re.compile(r"(?P<id>[0-9a-f]{32})-\d+"),
        instead="it has the signature of a report, which is revised at /reports/{id}",
    ),
    "ChargeItem": Ours(
        id=t.charge.c.id,
        instead="it follows the report that was charged, and the prices that are published",
    ),
    "ChargeItemDefinition": Ours(
        id=t.price_list.c.id,
        part=re.compile(r"(?P<id>[0-9a-f]{32})\.[0-9a-f]{16}"),
        instead="it is a published price; publish another list",
    ),
    "Communication": Ours(
        id=t.escalation.c.id,
        instead="it tells a critical result; acknowledge or cancel that at /escalations/{id}",
    ),
    "Flag": Ours(
        id=t.escalation.c.id,
        instead="it stands until a critical result was told; acknowledge or cancel that at /escalations/{id}",
    ),
}
"""By type. Of all other types, and of other ids, resources are what clients send."""


def require_theirs(connection: sa.Connection, type: str, id: str) -> None:
    """Raise `ReadOnly` where a resource of that id is one that this server makes."""
    ours = OURS.get(type)
    found = ours.part.fullmatch(id) if ours is not None else None
    if ours is None or found is None:
        return
    row = found["id"]
    if connection.execute(sa.select(ours.id).where(ours.id == row)).first() is not None:
        raise ReadOnly(f"{type}/{id} is made here: {ours.instead.format(id=row)}.")
