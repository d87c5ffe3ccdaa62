"""Searches of many stored resources: pages that hold each once, and indexes that the databases really take."""

from __future__ import annotations

from typing import Any

import pytest
import sqlalchemy as sa

from server.fhir.query import parse_query
from server.fhir.registry import REGISTRY
from server.fhir.search import run
from server.room import Room
from tests import fhir


def made(room: Room, count: int) -> list[str]:
    """Flags of one patient."""
    flag = {"status": "active", "code": {"text": "x"}, "subject": {"reference": "Patient/p"}}
    return [fhir.create(room, REGISTRY["Flag"], flag).id for _ in range(count)]


@pytest.mark.rooms("sqlite", "postgres")
def test_pages_of_ids_that_are_given_hold_each_once(room: Room) -> None:
    ids = made(room, 12)
    seen: list[str] = []
    cursor: str | None = ""
    while cursor is not None:
        pairs = [("_id", ",".join(ids)), ("_count", "5")] + ([("_cursor", cursor)] if cursor else [])
        with fhir.looking(room) as session:
            page = run(session, parse_query("Flag", pairs, root=session.root))
        seen += [id for _, id in page.matches]
        cursor = page.next
    assert seen == ids[::-1]


@pytest.mark.parametrize(
    ("pairs", "index"),
    [
        ([], "ix_resource_type"),
        ([("status:not", "inactive")], "ix_resource_type"),
        ([("_sort", "-_lastUpdated")], "ix_resource_updated"),
    ],
)
def test_the_newest_of_a_type_are_cut_from_an_index(room: Room, pairs: list[tuple[str, str]], index: str) -> None:
    made(room, 1)
    statements: list[tuple[str, Any]] = []
    sa.event.listen(
        room.engine, "before_cursor_execute", lambda _c, _u, said, values, _x, _m: statements.append((said, values))
    )
    with fhir.looking(room) as session:
        assert len(run(session, parse_query("Flag", pairs, root=session.root)).matches) == 1
    plans = []
    with room.engine.connect() as connection:
        for said, values in [one for one in statements if "ORDER BY" in one[0]]:
            plans += [row[3] for row in connection.exec_driver_sql(f"EXPLAIN QUERY PLAN {said}", values)]
    assert any(index in step for step in plans), plans
    assert not any("TEMP B-TREE" in step for step in plans), plans
